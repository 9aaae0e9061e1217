/* The two root slots in state/slots and the journal in state/journal. See rootslot.c and journal.c. */
#ifndef ENGINE_ROOTSLOT_H
#define ENGINE_ROOTSLOT_H

#include "control.h"
#include "segment.h"
#include "store.h"

#define STATE_VERSION 5u
#define SLOT_STRIDE_BYTES 8192u

struct rootslot {
    uint64_t checksum; /* XXH3 of the 4600 bytes behind */
    char magic[8];     /* "PANDOSLT" */
    uint32_t version;
    uint32_t app_bytes;
    uint8_t store_id[ENG_STORE_ID_BYTES];
    uint64_t sequence;   /* of slot writes; slot sequence & 1 holds it */
    uint64_t checkpoint; /* its number; catalog.<number & 1> belongs to it */
    uint64_t start;      /* how often the store was opened: the high part of generations */
    uint32_t segment_bytes, leaf_bytes, inline_bytes, segments;
    uint64_t ids_next;
    uint64_t catalog_bytes, catalog_checksum;
    uint64_t generation; /* the newest one whose objects the checkpoint may have; 0: not told */
    uint32_t kind;       /* what app_state begins with, enum store_kind; 0: not told */
    uint32_t zero;
    uint8_t secret[OBJECT_SECRET_BYTES]; /* of the checksums of objects: random, made with the store, never told */
    uint8_t unused[512 - 328];
    uint8_t app_state[ENG_APP_STATE_BYTES_MAX];
};
_Static_assert(sizeof(struct rootslot) == 4608, "on disk, nine sectors");
_Static_assert(offsetof(struct rootslot, secret) == 136, "on disk");
_Static_assert(offsetof(struct rootslot, app_state) == 512, "on disk");

/* Reads the newest valid slot. ENG_DAMAGED: none is valid; ENG_VERSION. */
ENG_MUST_CHECK enum eng_status rootslot_read(struct disk_file *file, struct rootslot *slot);
/* Computes the checksum and writes it where its sequence belongs; does not sync. */
ENG_MUST_CHECK enum eng_status rootslot_write(struct disk_file *file, struct rootslot *slot);
void rootslot_seal(struct rootslot *slot);
/* Of one store: the same id, and the same secret. */
bool rootslot_kin(const struct rootslot *slot, const struct rootslot *other);
/* ENG_NOT_FOUND: no valid slot at index 0 or 1. */
ENG_MUST_CHECK enum eng_status rootslot_read_at(struct disk_file *file, unsigned index, struct rootslot *slot);

struct journal {
    struct rootslot slot;
    struct control_image image;
};
uint64_t journal_bytes(size_t pages);
/* Writes slot and pages; does not sync. */
ENG_MUST_CHECK enum eng_status journal_write(struct disk_file *file, const struct rootslot *slot,
                                             const struct control_image *image);
/* Reads a valid journal; ENG_NOT_FOUND: there is none. journal_free releases it in any case. */
ENG_MUST_CHECK enum eng_status journal_read(struct disk_file *file, struct journal *journal);
void journal_free(struct journal *journal);
/* Writes the pages to the control file; does not sync. */
ENG_MUST_CHECK enum eng_status journal_apply(struct disk_file *control, const struct control_image *image);

#endif
