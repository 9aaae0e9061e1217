/* Many lookups of one caller, shared with a helper (lookup.c). */
#ifndef ENGINE_LOOKUP_H
#define ENGINE_LOOKUP_H

#include <pthread.h>
#include <stdatomic.h>

#include "helper.h"
#include "tree.h"

#define LOOKUPS_MAX 1024u /* at a time */

struct lookups {
    uint32_t root;
    size_t count;
    const uint8_t *key[LOOKUPS_MAX];
    size_t key_bytes[LOOKUPS_MAX];
    struct tree_value value[LOOKUPS_MAX];
    _Atomic uint64_t
        rest;           /* groups of TREE_MANY that nobody has taken: the first; above 32 bits that behind the last */
    size_t helped_from; /* the helper's: it has found all keys from here on */
};

/* Where a helper finds what it was asked for: one caller's lookups at a time. */
struct lookup_share {
    struct store *store;     /* set by whoever opens the helpers */
    struct helpers *helpers; /* likewise; NULL: no shares */
    struct lookups *now;     /* published by asking */
    pthread_mutex_t lock;
};

void lookup_share_init(struct lookup_share *share);
void lookup_share_destroy(struct lookup_share *share);

/* Looks up the keys, with a helper if they are many and it need not be woken, and calls found(context, from, to) for
 * each piece whose values are there, in any order, in this thread; stops when that returns not ENG_OK. In an epoch of
 * the caller. ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status lookups_run(struct lookup_share *share, struct lookups *lookups,
                                           enum eng_status (*found)(void *context, size_t from, size_t to),
                                           void *context);

/* For helpers_open. */
void lookup_help(void *share, uint32_t helper);

#endif
