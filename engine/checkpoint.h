/* Making a capture durable, and the thread that does it. See checkpoint.c and maintenance.c. */
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H

#include <pthread.h>

#include "arena.h"
#include "rootslot.h"
#include "store.h"

/* Objects of one segment that may lack a checksum. */
struct checksum_work {
    uint32_t segment, from, to; /* units from the segment's start */
};

struct checkpoint {
    pthread_mutex_t lock; /* running, stop, failed, work */
    pthread_cond_t changed;
    _Atomic bool running;
    _Atomic bool checksumming; /* frees are put off */
    bool stop, hint;
    enum eng_status failed; /* final */
    char failed_text[256];
    _Atomic uint64_t durable; /* number of the newest durable one */
    _Atomic uint64_t made;
    bool has_thread;
    pthread_t thread;

    /* what was captured */
    struct rootslot slot;
    struct control_image image;
    uint8_t *catalog;
    struct checksum_work *work;
    size_t work_count;

    /* room for the next one */
    pthread_mutex_t room;          /* the sizes of the files */
    uint64_t entries;              /* its catalog has at most this many; the committing thread's */
    _Atomic uint64_t entries_room; /* that fit both catalogs */
    _Atomic bool entries_short;    /* a full disk has no room for those that the next commits bring */
};

/* Needs the maintenance lock: one batch of the compactor. *more: there is something left to do. */
struct compactor {
    struct arena arena;
    bool active;
    bool from_end; /* victims are the last segments, to shorten the file */
    uint32_t victim, position;
    _Atomic uint64_t moved;    /* bytes */
    _Atomic uint64_t orphaned; /* nodes moved since store_compact_parents: their parents may say they are elsewhere */
};

ENG_MUST_CHECK enum eng_status checkpoint_init(struct store *store);
void checkpoint_close(struct store *store);
/* The slow half: from the captured state to the durable one. */
ENG_MUST_CHECK enum eng_status checkpoint_make(struct store *store);
/* Room in the files for a checkpoint of the ids below next, whatever pages it changes, as long as it is not there.
 * ENG_FULL, ENG_IO: nothing changed. Any thread; control.lock may be held. */
ENG_MUST_CHECK enum eng_status checkpoint_room_ids(struct store *store, uint64_t next);
/* The catalog gets this many entries more, if room for them can be had; by the committing thread. The same errors. */
ENG_MUST_CHECK enum eng_status checkpoint_room_entries(struct store *store, size_t more);
/* Commits that are to come find room for their entries. The same errors. Any thread. */
ENG_MUST_CHECK enum eng_status checkpoint_room_ahead(struct store *store);
/* After the start: what the first checkpoint needs. A full disk is no error, but nothing is written before there is
 * room. */
ENG_MUST_CHECK enum eng_status checkpoint_room_begin(struct store *store);
/* The error of a failed checkpoint, again; ENG_OK if none failed. */
ENG_MUST_CHECK enum eng_status checkpoint_failed(struct store *store);

ENG_MUST_CHECK enum eng_status maintenance_start(struct store *store);
void maintenance_stop(struct store *store);
/* Something was sealed or freed: have a look. Any thread. */
void maintenance_hint(struct store *store);
/* The same if a segment has become worth compacting; by the committing thread, when it has freed. */
void maintenance_cooled(struct store *store);

/* Moves an object away from a location, if it is still there, to the end of an arena; *moved grows by its size. Needs
 * the maintenance lock, and that the place cannot be given to another object meanwhile. ENG_DAMAGED, ENG_FULL, ENG_IO.
 */
ENG_MUST_CHECK enum eng_status compact_move(struct store *store, struct arena *arena, uint32_t id, uint64_t from,
                                            uint64_t *moved);
/* A sealed segment becomes the compactor's victim; it has none. Needs the maintenance lock and segments.lock. */
void compact_take(struct store *store, uint32_t segment);

/* Is there something to do: a victim begun, or a segment worth compacting, because of all sealed ones less than
 * live_percent is live, or this one is all but empty? Takes the maintenance lock. */
bool compact_due(struct store *store, uint32_t live_percent);
#define COMPACT_ALWAYS_STEPS 3u /* sixteenths: moving one byte gives at least four back */
/* While commits come, others are compacted when less than this of all sealed segments is live: then a moved byte gives
 * more than one back. */
#define COMPACT_BELOW_PERCENT 50u
/* Moves at most batch bytes out of one segment; *more is false when the live ratio is reached. Takes the maintenance
 * lock. ENG_BUSY: a checkpoint computes checksums, nothing was done. */
ENG_MUST_CHECK enum eng_status compact_batch(struct store *store, uint32_t live_percent, uint64_t batch,
                                             uint64_t *moved, bool *more);

#endif
