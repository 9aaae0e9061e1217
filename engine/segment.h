/* The segments of the mapped file state/segments: who fills them, what lives in them, when they can be used again.
 * See segment.c. */
#ifndef ENGINE_SEGMENT_H
#define ENGINE_SEGMENT_H

#include <pthread.h>

#include "store.h"

#define UNIT_BYTES 64u
#define OBJECT_SECRET_BYTES 192u
#define SEGMENT_HEADER_BYTES 4096u /* at the start of the file; so location 0 is never an object */

/* FREE -> OPEN -> SEALED -> EMPTY -> FREE, no other way. */
enum segment_state { SEGMENT_FREE, SEGMENT_OPEN, SEGMENT_SEALED, SEGMENT_EMPTY };

#define SEGMENT_NO_WRITER UINT8_MAX

struct segment {
    /* Units of live objects; what an arena allocated since it last settled is not yet counted. On a line of its own:
     * the threads of a merge count in several segments at once. */
    _Alignas(64) _Atomic uint64_t live;
    uint64_t captured;       /* number of the newest checkpoint that has live objects in here */
    uint64_t emptied;        /* epoch when it became EMPTY */
    _Atomic uint64_t newest; /* generation of the newest object in it */
    _Atomic uint32_t serial; /* grows before it becomes EMPTY: slots of before are stale */
    _Atomic bool retiring;   /* the compactor wants it: no slot of it is taken any more */
    _Atomic bool moved_out;  /* an object was moved away since it was taken: readers may look at its old place */
    uint64_t retired;        /* the generation that was open then */
    uint32_t fill;           /* units used; of an OPEN one as of the last capture */
    uint32_t checksummed;    /* units from the start whose live objects have a checksum */
    uint8_t state;
    bool compacting;  /* the compactor reads it: not to become EMPTY */
    bool punched;     /* space of it was given back: to be reserved before it is used again */
    bool damaged;     /* the compactor found a damaged object: leave it */
    bool read_only;   /* write-protected */
    uint8_t step;     /* of its live ratio, in the heap */
    uint8_t writer;   /* the arena that opened it last, SEGMENT_NO_WRITER: the compactor */
    uint32_t heap_at; /* segment_heap.c; 0: not in it */
    /* of the hot tier, see hot.c */
    _Atomic bool hot;       /* the objects in it are */
    uint32_t locked;        /* bytes from its start that are locked in memory */
    uint32_t kept, counted; /* units of live objects that are not COLD: in the last round, so far in this one */
};

struct segments {
    struct disk_file *file;
    struct segment *table;
    uint32_t total, max;
    uint32_t units, shift; /* units per segment = 1 << shift */
    pthread_mutex_t lock;  /* lists, total, state, flags; not live */
    uint32_t *free, free_count;
    uint32_t *empty, empty_count;
    uint32_t reserved; /* free segments promised by store_reserve */
    uint32_t
        free_low; /* the fewest that were free since the last checkpoint: the first ones of the stack were not used */
    uint32_t *heap, heap_count;    /* sealed segments, little live first */
    uint64_t heap_live, heap_fill; /* units of those in it */
    _Atomic bool cooled;           /* one has become worth compacting */
};

struct arena;

/* Tables for at most max segments. segment_close releases all, also after a failed init. */
ENG_MUST_CHECK enum eng_status segments_init(struct store *store, uint32_t segment_bytes);
void segments_close(struct store *store);

/* First usable unit of a segment, counted from its start. */
static inline uint32_t segment_start(uint32_t segment)
{
    return segment == 0 ? SEGMENT_HEADER_BYTES / UNIT_BYTES : 0;
}

/* A free segment becomes OPEN, extending the file if there is none. One is always left for the compactor, and it leaves
 * those that were promised; on a full disk only those count whose space was not given back.
 * ENG_FULL, ENG_IO: nothing changed. Any thread. */
ENG_MUST_CHECK enum eng_status segment_take(struct store *store, bool compactor, uint32_t *segment);
/* An OPEN segment is full; fill in units, live already settled. */
void segment_seal(struct store *store, uint32_t segment, uint32_t fill, uint64_t generation);
/* The compactor is done with a SEALED segment it marked. */
void segment_compacted(struct store *store, uint32_t segment, bool damaged);
/* Slow halves of segment_release: less lives in it; nothing does any more. */
void segment_cooled(struct store *store, uint32_t segment);
void segment_emptied(struct store *store, uint32_t segment);
/* EMPTY segments that no reader and no checkpoint needs become FREE. Needs segments.lock. */
void segments_reclaim(struct store *store);
/* Makes sure that count segments can be taken. */
ENG_MUST_CHECK enum eng_status segments_reserve(struct store *store, uint32_t count);

/* Makes sure that one can be taken beyond those that are promised and the compactor's. */
ENG_MUST_CHECK enum eng_status segments_spare(struct store *store);

/* On a full disk: gives the space of a free segment back that is neither promised nor the compactor's; false: there is
 * none. Any thread. */
bool segments_yield(struct store *store);

/* Gives the free segments at the end of the file back, except what segments_reserve promised and the compactor's one if
 * they are to be kept. Between generations. */
ENG_MUST_CHECK enum eng_status segments_cut(struct store *store, bool keep_reserved);

/* Gives the space of all free segments but the compactor's one back to the file system, wherever they lie, and the
 * unused ends of sealed ones. */
ENG_MUST_CHECK enum eng_status segments_punch(struct store *store);
/* After a checkpoint: gives the space of free segments back that were not used since the one before. */
ENG_MUST_CHECK enum eng_status segments_trim(struct store *store);

/* With store_options.protect: write-protects the SEALED segments that checkpoint number or an older one has, whose
 * checksums are written. Nothing is ever written to them before they are taken again. Without mappings for it
 * protection ends, which is reported and no failure. Any thread. */
ENG_MUST_CHECK enum eng_status segments_protect(struct store *store, uint64_t number);

/* The header page of the file. */
void segment_header_encode(uint8_t page[SEGMENT_HEADER_BYTES], const uint8_t store_id[ENG_STORE_ID_BYTES],
                           uint32_t segment_bytes);
ENG_MUST_CHECK enum eng_status segment_header_check(const uint8_t page[SEGMENT_HEADER_BYTES], const char *path,
                                                    const uint8_t store_id[ENG_STORE_ID_BYTES], uint32_t segment_bytes);

/* XXH3, with the store's secret (rootslot.h), of everything behind the checksum field, never 0. */
uint64_t object_checksum(const uint8_t secret[OBJECT_SECRET_BYTES], const struct object *object);

#endif
