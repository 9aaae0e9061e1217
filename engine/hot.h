/* The hot tier: objects that are read again and again lie together in memory that is locked. See hot.c. */
#ifndef ENGINE_HOT_H
#define ENGINE_HOT_H

#include <pthread.h>

#include "arena.h"
#include "store.h"

#define HOT_DECAY_MS_DEFAULT 5000u
#define HOT_OBJECT_BYTES_MAX 65536u /* larger ones are not worth the room */

/* Needs the maintenance lock, but for what is atomic and the last lines. */
struct hot {
    struct arena arena;      /* of the hot segment being filled */
    _Atomic uint64_t limit;  /* bytes that may be locked; 0: there is no hot tier */
    _Atomic uint64_t locked; /* bytes that are */
    uint64_t hand;           /* the id the decay looks at next */
    bool full;               /* no room could be made: nothing more is promoted in this round */
    uint64_t wanting;        /* the id that room was made for last, in this round */
    uint32_t evictions;      /* how often, in a row */
    uint64_t counted;        /* hot objects seen in this round */
    _Atomic uint64_t objects, promoted, demoted, rounds;
    _Atomic bool refused; /* the system did not let us lock as much as limit was */
    uint32_t decay_ms;

    pthread_mutex_t lock; /* stop */
    pthread_cond_t changed;
    _Atomic bool stop;
    bool has_thread;
    pthread_t thread;
};

void hot_init(struct store *store, const struct store_options *options);
void hot_close(struct store *store);
/* With store_options.background: the decay thread. */
ENG_MUST_CHECK enum eng_status hot_start(struct store *store);
void hot_stop(struct store *store);

/* The rest of a round of the decay: every id is looked at once. Not in an open generation of the calling thread. A
 * round that others do not let through (a checkpoint, an open generation) ends early, and goes on in the next call. */
void hot_round(struct store *store);

/* Of the compactor, with the maintenance lock: where an object of its victim goes. */
struct arena *hot_arena_of(struct store *store, uint32_t victim, uint32_t id, uint64_t word);

/* Needs segments.lock. What is locked of a segment no longer is; it keeps its hot mark. */
void hot_unlock(struct store *store, uint32_t segment);
/* The same, and the mark goes. */
void hot_forget(struct store *store, uint32_t segment);

#endif
