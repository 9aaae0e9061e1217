/*
 * struct store: the parts of the object store, each with its own lock and its own file.
 *
 *   segments    space                    segment.c
 *   control     ids                      control.c
 *   arenas      allocation               generation.c
 *   versions    what is kept             version.c, deathlist.c, catalog.c
 *   reaper      freeing lazily           reap.c
 *   bases       what clones share        base.c
 *   readers     epochs                   reader.c
 *   checkpoint  what is durable          checkpoint.c, rootslot.c, journal.c, recovery.c
 *   compactor   moving                   compact.c, maintenance.c
 *   hot tier    what is read often       hot.c
 *   lost        generations no start kept lost.c
 *   hints       where leaves lie         hint.c
 *
 * Locks, outer before inner: checkpoint.lock is taken alone; maintenance -> segments.lock; control.lock ->
 * segments.lock; checkpoint.room between each of these and segments.lock; versions.lock alone. The maintenance lock
 * excludes the compactor, a capture, the checksum phase and store_shrink from each other.
 */
#ifndef ENGINE_STORE_INTERNAL_H
#define ENGINE_STORE_INTERNAL_H

#include <pthread.h>

#include "arena.h"
#include "base.h"
#include "checkpoint.h"
#include "control.h"
#include "hint.h"
#include "hot.h"
#include "lost.h"
#include "reader.h"
#include "reap.h"
#include "rootslot.h"
#include "segment.h"
#include "segment_heap.h"
#include "store.h"
#include "version.h"

#define STORE_MAGIC 0x50414e444f535430ull
#define GENERATION_START_SHIFT 40

struct store {
    struct store_view view; /* first: store_view() */
    uint64_t magic;
    struct disk *disk;
    char *dir;
    uint32_t arenas_count; /* of each writer, then perhaps as many for inner nodes */
    uint32_t writers;
    bool background;
    bool protect;                                    /* sealed segments; under segments.lock */
    void (*report)(void *context, const char *line); /* as in store_options */
    void *report_context;

    struct segments segments;
    struct control control;
    struct versions versions;
    struct arena *arenas;
    struct readers readers;
    struct checkpoint checkpoint;
    struct compactor compactor;
    struct reaper reaper;
    struct hot hot;
    struct bases bases;
    struct lost lost;
    struct hints hints;
    struct store_shape shape; /* below NULL: none */
    pthread_mutex_t maintenance;
    _Atomic uint32_t maintenance_wanted; /* threads that wait for it: the compactor stands back */

    uint64_t counter; /* generation = start << 40 | counter */
    uint64_t open;    /* the open generation, 0: none */
    uint32_t open_lineage;
    _Atomic uint64_t opened; /* the newest generation that was opened */
    _Atomic uint64_t closed; /* every generation up to here is closed */
    uint32_t slot_turn;      /* whose turn it is to get a slot */
    uint32_t slot_arenas;    /* those that allocated in the newest version: they get the slots, at least one */
    bool undoing;            /* frees are those of an undone generation: its places are taken back otherwise */

    struct disk_file *slots, *journal, *catalogs[2];
    uint64_t journal_file_bytes, catalog_file_bytes[2];
    struct rootslot root; /* the newest durable one */
    uint32_t app_bytes;   /* as of the open */
    uint8_t app_state[ENG_APP_STATE_BYTES_MAX];
};

static inline uint32_t segment_of(const struct store *store, uint64_t location)
{
    return (uint32_t)(location >> store->segments.shift);
}

/* units less are live in a segment. */
static inline void segment_release(struct store *store, uint32_t segment, uint64_t units)
{
    /* acq_rel: who makes it zero sees what all others did to it */
    uint64_t before = atomic_fetch_sub_explicit(&store->segments.table[segment].live, units, memory_order_acq_rel);
    assert(before >= units);
    if (before == units)
        segment_emptied(store, segment);
    else if (heap_step_crossed(&store->segments, before, units))
        segment_cooled(store, segment);
}

/* Monotonic, to some milliseconds, and cheap. */
uint64_t clock_ms(void);

void store_lock_maintenance(struct store *store);
void store_unlock_maintenance(struct store *store);

/* "state/slots" into a buffer. */
const char *store_path(const char *dir, const char *name, char buffer[static 512]);

/* Opens the files of an existing state, or creates them. */
ENG_MUST_CHECK enum eng_status state_create(const struct store_options *options);
ENG_MUST_CHECK enum eng_status state_load(struct store *store, const struct store_options *options);

/* Anonymous memory that costs nothing until touched; NULL and eng_error() on failure. */
void *memory_reserve(size_t bytes);
void memory_release(void *memory, size_t bytes);

#endif
