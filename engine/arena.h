/* What one thread allocates and kills with during one generation. See generation.c. */
#ifndef ENGINE_ARENA_H
#define ENGINE_ARENA_H

#include "slot.h"
#include "store.h"

#define ARENA_IDS 256u /* taken from the free ids at once */
#define ARENA_CLOSED UINT32_MAX
/* From this size of a segment on inner nodes have segments of their own; smaller stores cannot spare a segment more. */
#define INNER_APART_SEGMENT_BYTES (128u << 10)

struct death {
    uint64_t born;
    uint32_t id;
};

struct arena_fall {
    uint64_t born, floor;
    uint32_t id;
};

struct arena {
    /* hot */
    uint8_t *base;
    _Atomic uint64_t *control;
    _Atomic uint8_t *dirty;
    uint64_t generation;
    uint64_t position, end; /* of the open segment, in units of the file; equal: no room */
    uint64_t delta;         /* units allocated in the open segment and not yet counted in its live */
    uint32_t *ids;          /* [0, taken) allocated in this generation, [taken, count) free and cached */
    size_t taken, ids_count, ids_capacity;
    /* warm */
    struct store *store;
    struct arena *inner; /* where inner nodes go: itself, or one with segments of its own */
    uint32_t segment;    /* the open one, ARENA_CLOSED: none */
    bool compactor;
    enum eng_status status; /* of the last NULL of store_alloc */
    enum eng_status failed; /* a kill could not be remembered */
    uint32_t *own;          /* born and killed in this generation */
    size_t own_count, own_capacity;
    struct death *deaths;
    size_t deaths_count, deaths_capacity;
    struct arena_fall *falls; /* given to store_kill_below */
    size_t falls_count, falls_capacity;
    uint32_t begin_segment; /* where an abort goes back to */
    uint64_t begin_position;
    struct slot_list slots[SLOT_UNITS_MAX + 1];
} __attribute__((aligned(64)));

void arena_init(struct arena *arena, struct store *store, bool compactor);
void arena_free(struct arena *arena);
/* Opens a segment with room for units; the old one is sealed. */
ENG_MUST_CHECK enum eng_status arena_open_segment(struct arena *arena, uint32_t units);
/* Seals the open segment; the next allocation opens another one. Between generations. */
void arena_close_segment(struct arena *arena);
/* Counts what was allocated in the open segment. */
void arena_settle(struct arena *arena);
/* Moves the fill position to the next page by a filler, so that what is durable shares no sector with what comes. */
void arena_align(struct arena *arena);

/* Opens an unnamed generation for objects the store makes for itself; store_drop uses it. */
void generation_open(struct store *store);
/* Keeps (or frees) what all arenas allocated and closes it. */
void generation_keep(struct store *store);
void generation_undo(struct store *store);

#endif
