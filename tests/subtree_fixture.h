/* The fixture of the suites of subtrees: a store of small leaves on the simulated disk, and short names for what is
 * done with it. */
#ifndef TESTS_SUBTREE_FIXTURE_H
#define TESTS_SUBTREE_FIXTURE_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"
#include "store_internal.h"
#include "tree.h"

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())

static struct disk *disk;
static struct eng *eng;
static enum eng_durability durability;
static uint64_t state;

static inline uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static inline void complain(void *context, const char *line)
{
    fprintf(stderr, "%s\n", line);
}

static inline void open_engine(enum eng_recovery recovery)
{
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .leaf_bytes = 256,
                                  .inline_bytes = 64,
                                  .segment_bytes = 64u << 10,
                                  .inline_only = true,
                                  .threads = 1 + (uint32_t)(state % 2),
                                  .durability = durability,
                                  .recovery = recovery};
    OK(eng_open(&options, &eng));
}

static inline void setup(void)
{
    durability = ENG_DURABLE_NONE;
    state = 88172645463325252ull;
    OK(disk_sim_open(0, &disk));
    open_engine(ENG_RECOVER_AUTO);
}

static inline void teardown(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

#define K(s) (const uint8_t *)(s), strlen(s)

static inline void put(struct eng_batch *batch, const char *key, const char *value)
{
    OK(eng_batch_put(batch, K(key), (struct eng_value){ENG_BYTES, (const uint8_t *)value, strlen(value)}));
}

static inline struct eng_snapshot *head(void)
{
    struct eng_snapshot *snapshot;
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
    return snapshot;
}

static inline struct eng_batch *begin(void)
{
    struct eng_batch *batch;
    OK(eng_batch_open(eng, 0, NULL, &batch));
    return batch;
}

static inline void commit(struct eng_batch **batch, uint64_t tag)
{
    OK(eng_batch_freeze(*batch));
    OK(eng_commit(*batch, tag, NULL));
    eng_batch_close(batch);
}

static inline void check_shape(void)
{
    struct store_version version;
    ck_assert(store_head(eng->store, 0, &version));
    OK(tree_check(eng->store, version.root, 256, 64, complain, NULL));
}

static inline void audit(void)
{
    uint64_t leaked, missing;
    OK(eng_settle(eng));
    OK(store_reap(eng->store, UINT64_MAX, NULL));
    OK(store_audit(eng->store, &leaked, &missing));
    ck_assert_uint_eq(leaked, 0);
    ck_assert_uint_eq(missing, 0);
    struct reader *reader = eng_enter(eng);
    for (uint32_t id = 1; id < eng->store->control.next; id++) { /* kept digests are those of the node */
        const struct digest_cache *cache = cache_of(eng->caches, id);
        if (!cache)
            continue;
        ck_assert(atomic_load(&store_view(eng->store)->control[id]) != 0);
        const struct object *object = store_object(eng->store, id);
        ck_assert_int_eq(object->type, OBJECT_INNER);
        ck_assert_uint_eq(((const struct inner *)(const void *)object)->branches, cache->branches);
    }
    reader_leave(reader);
}

static inline void reopen(enum eng_recovery recovery, bool checkpoint)
{
    if (checkpoint && durability == ENG_DURABLE_NONE)
        OK(eng_checkpoint(eng, NULL, 0, true));
    eng_close(&eng);
    open_engine(recovery);
}

/* A store with a log of its own instead of the one of setup. */
static inline void with_log(void)
{
    eng_close(&eng);
    disk_close(&disk);
    OK(disk_sim_open(0, &disk));
    durability = ENG_DURABLE_FSYNC;
    open_engine(ENG_RECOVER_AUTO);
}

/* The machine stops: what is in no checkpoint comes out of the log. */
static inline void crash(enum eng_recovery recovery)
{
    struct disk *after;
    OK(disk_sim_crash(disk, rnd(), &after));
    eng->failed = ENG_IO; /* no checkpoint on the way out */
    eng_close(&eng);
    disk_close(&disk);
    disk = after;
    open_engine(recovery);
}

#endif
