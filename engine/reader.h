/* Reader slots and epochs. See reader.c. */
#ifndef ENGINE_READER_H
#define ENGINE_READER_H

#include "store.h"

struct reader {
    _Atomic uint64_t seen; /* the epoch in which it entered, 0: outside */
    uint32_t depth;        /* of nested enters; the owner's */
    bool taken;            /* under the registry's lock */
    int32_t thread;        /* kernel id of the owner; 0: the writer's slot */
    uint64_t noted, noted_ms; /* under segments.lock: when it was first found in this epoch */
    struct store *store;
} __attribute__((aligned(64)));

struct readers {
    _Atomic uint64_t epoch;
    uint64_t uid; /* of the open store, never reused in the process */
    struct reader slots[ENG_READERS_MAX + 1];
};
#define READER_WRITER ENG_READERS_MAX /* the slot of the open generation */

ENG_MUST_CHECK enum eng_status readers_init(struct store *store); /* ENG_NO_MEMORY */
void readers_close(struct store *store);
/* Begins a new epoch and returns the old one: who entered after this call sees every change made before it. */
uint64_t epoch_advance(struct store *store);
/* The oldest epoch a reader is in; UINT64_MAX if none is. */
uint64_t epoch_oldest(struct store *store);
/* Who is inside (needs segments.lock): how many, and the one that was found there first. */
void readers_inside(struct store *store, uint32_t *count, int32_t *thread, uint64_t *ms);

#endif
