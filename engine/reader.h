/* Reader slots and epochs. See reader.c. */
#ifndef ENGINE_READER_H
#define ENGINE_READER_H

#include "store.h"

struct reader {
    _Atomic uint64_t seen;  /* the epoch in which it entered, 0: outside */
    uint32_t depth;         /* of nested enters; the owner's */
    bool taken;             /* under the registry's lock */
    _Atomic int32_t thread; /* kernel id of the owner; 0: the writer's slot */
    struct store *store;
} __attribute__((aligned(64)));

/* When a reader was first found in the epoch it is in. Apart from the slots, which are their owners' alone to write. */
struct reader_note {
    uint64_t seen, ms;
};

/* Who is inside, see readers_look. */
struct readers_inside {
    uint32_t count;
    int32_t thread; /* of the one inside for longest, 0: none */
    uint64_t ms;    /* for how long at least */
    uint64_t seen;  /* the oldest epoch one of them is in, UINT64_MAX: none */
};

struct readers {
    _Atomic uint64_t epoch;
    uint64_t uid; /* of the open store, never reused in the process */
    struct reader slots[ENG_READERS_MAX + 1];
    struct reader_note notes[ENG_READERS_MAX + 1]; /* under segments.lock */
};
#define READER_WRITER ENG_READERS_MAX /* the slot of the open generation */

ENG_MUST_CHECK enum eng_status readers_init(struct store *store); /* ENG_NO_MEMORY */
void readers_close(struct store *store);
/* Begins a new epoch and returns the old one: who entered after this call sees every change made before it. */
uint64_t epoch_advance(struct store *store);
/* The oldest epoch a reader is in, and the one of the committing thread; UINT64_MAX if none is, or it is outside. */
struct epochs {
    uint64_t oldest, writer;
};
struct epochs epoch_oldest(struct store *store);
/* Notes who is inside, and begins a new epoch, so that the next look tells who stayed from who came back. Needs
 * segments.lock. */
struct readers_inside readers_look(struct store *store);

#endif
