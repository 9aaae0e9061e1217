/* The fixture of the Check suites of the object store: a store on the simulated disk, and short names for its calls. */
#ifndef TESTS_STORE_FIXTURE_H
#define TESTS_STORE_FIXTURE_H

#include <check.h>

#include "store_model.h"

static struct disk *disk;
static struct store *store;
static struct store_options options;

static inline void setup(void)
{
    options = (struct store_options){
        .dir = "state", .segment_bytes = 16 << 10, .leaf_bytes = 1024, .inline_bytes = 64, .arenas = 2, .create = true};
    options.store_id[0] = 1;
    MODEL_OK(disk_sim_open(0, &disk));
    options.disk = disk;
}

static inline void teardown(void)
{
    store_close(&store);
    disk_close(&disk);
}

static inline void reopen(void)
{
    store_close(&store);
    MODEL_OK(store_open(&options, &store));
}

static inline uint64_t begin(uint32_t lineage)
{
    uint64_t generation;
    MODEL_OK(store_begin(store, lineage, &generation));
    return generation;
}

static inline uint32_t alloc(size_t bytes, uint64_t seed)
{
    uint32_t id;
    struct object *object = store_alloc(store_arena(store, 0), OBJECT_LEAF, bytes, &id);
    ck_assert_ptr_nonnull(object);
    model_fill(object, (uint32_t)bytes, seed);
    return id;
}

static inline void commit(uint64_t tag, uint32_t root)
{
    struct eng_summary summary = {.count = tag};
    MODEL_OK(store_commit(store, tag, root, &summary));
}

static inline uint64_t live(void)
{
    struct store_statistics statistics;
    store_stats(store, &statistics);
    return statistics.ids_live;
}

static inline void checkpoint(uint64_t state)
{
    MODEL_OK(store_checkpoint(store, &state, sizeof state, true));
}

static inline bool readable(uint32_t id, uint32_t bytes, uint64_t seed)
{
    struct reader *reader = store_reader(store);
    ck_assert_ptr_nonnull(reader);
    reader_enter(reader);
    struct object *object = store_object(store, id);
    bool same = object && model_same(object, bytes, seed);
    reader_leave(reader);
    return same;
}

#endif
