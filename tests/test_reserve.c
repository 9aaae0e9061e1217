/*
 * What eng_reserve promises, a commit finds: on a disk that is full from then on.
 */
#include <check.h>
#include <stdlib.h>

#include "disk_sim.h"
#include "recovery_fixture.h"

static struct disk *disk;
static struct eng *eng;
static uint64_t tag;

static void start(uint32_t leaf_bytes, uint32_t segment_bytes)
{
    NEED_OK(disk_sim_open(0, &disk));
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .threads = 1,
                                  .inline_only = true,
                                  .segment_bytes = segment_bytes,
                                  .leaf_bytes = leaf_bytes};
    NEED_OK(eng_open(&options, &eng));
    tag = 0;
}

static void stop(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static struct eng_batch *begin(void)
{
    struct eng_batch *batch;
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    return batch;
}

static void commit(struct eng_batch *batch)
{
    fixture_publish(&batch, ++tag);
    NEED_OK(eng_drop_below(eng, 0, tag));
}

static void put(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, uint8_t with, size_t value_bytes)
{
    static uint8_t value[1024];
    memset(value, with, value_bytes);
    NEED_OK(eng_batch_put(batch, key, key_bytes, (struct eng_value){ENG_BYTES, value, value_bytes}));
}

static uint64_t state_bytes(void)
{
    struct eng_statistics statistics;
    eng_stats(eng, &statistics);
    return statistics.state_bytes;
}

/* Everything else is tidy; what is reserved for the batch is all that there is. */
static void commit_reserved(struct eng_batch *batch, uint64_t keys, uint64_t bytes)
{
    struct sim_disk *sim = (struct sim_disk *)disk;
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    NEED_OK(eng_compact(eng, 95));
    uint64_t before = state_bytes();
    NEED_OK(eng_reserve(eng, keys, bytes));
    NEED(state_bytes() > before);
    sim->capacity = sim->used;
    commit(batch);
    sim->capacity = 0;
}

static size_t chain_key(uint8_t *key, unsigned chain, unsigned at)
{
    key[0] = (uint8_t)chain;
    memset(key + 1, 'a', at);
    key[1 + at] = 'b';
    return at + 2;
}

/* Keys that are prefixes of each other but for a byte hang one below the other: the last ones of 64 chains. */
START_TEST(deep_chains)
{
    enum { CHAINS = 64, DEPTH = 500 };
    static const uint32_t leaf_bytes[] = {ENG_LEAF_BYTES_DEFAULT, 256, 64};
    uint8_t key[DEPTH + 2];
    start(leaf_bytes[_i], 1u << 20);
    for (unsigned c = 0; c < CHAINS; c++) {
        struct eng_batch *batch = begin();
        for (unsigned i = 0; i < DEPTH; i++)
            put(batch, key, chain_key(key, c, i), 1, 200);
        commit(batch);
    }
    for (unsigned round = 0; round < 2; round++) {
        struct eng_batch *batch = begin();
        for (unsigned c = 0; c < CHAINS; c++)
            put(batch, key, chain_key(key, c, DEPTH - 1 - round), (uint8_t)round, 10);
        commit_reserved(batch, CHAINS, CHAINS * (DEPTH + 10));
    }
    stop();
}
END_TEST

static void random_key(uint8_t *key, size_t bytes, uint64_t n)
{
    uint64_t h = (n + 1) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9ull;
    h ^= h >> 32;
    memset(key, 'k', bytes);
    memcpy(key, &h, sizeof h);
}

static const struct {
    unsigned keys, batch, key_bytes, value_bytes, leaf_bytes;
} shapes[] = {{2000, 2000, 1000, 1, 256},  {50000, 5000, 64, 1, 64},     {50000, 1000, 32, 40, 2048},
              {50000, 20, 32, 40, 2048},   {50000, 5000, 8, 1, 4096},    {3000, 3000, 1024, 700, 64},
              {20000, 20000, 32, 40, 256}, {20000, 2000, 200, 200, 1024}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Half of them keys that are there, half new ones. */
START_TEST(random_keys)
{
    uint8_t key[1024];
    unsigned keys = shapes[_i].keys, size = shapes[_i].batch, bytes = shapes[_i].key_bytes;
    start(shapes[_i].leaf_bytes, 1u << 20);
    for (unsigned at = 0; at < keys;) {
        struct eng_batch *batch = begin();
        for (unsigned i = 0; i < 5000 && at < keys; i++, at++) {
            random_key(key, bytes, at);
            put(batch, key, bytes, 1, shapes[_i].value_bytes);
        }
        commit(batch);
    }
    struct eng_batch *batch = begin();
    for (unsigned i = 0; i < size; i++) {
        random_key(key, bytes, i % 2 ? keys + i : i * (keys / size));
        put(batch, key, bytes, 2, shapes[_i].value_bytes);
    }
    commit_reserved(batch, size, (uint64_t)size * (bytes + shapes[_i].value_bytes));
    stop();
}
END_TEST

/* With the default leaves: 4 KiB a key and what the keys and values are, as long as trees are not deep. */
START_TEST(not_much_more)
{
    uint8_t key[32];
    start(ENG_LEAF_BYTES_DEFAULT, 1u << 20);
    for (unsigned at = 0; at < 200000;) {
        struct eng_batch *batch = begin();
        for (unsigned i = 0; i < 10000; i++, at++) {
            random_key(key, sizeof key, at);
            put(batch, key, sizeof key, 1, 40);
        }
        commit(batch);
    }
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    NEED_OK(eng_compact(eng, 95));
    uint64_t before = state_bytes();
    NEED_OK(eng_reserve(eng, 2000, 2000 * 72));
    /* a quarter of each segment is not counted on, and some are for others */
    ck_assert_uint_le(state_bytes() - before, 2000 * (2 * ENG_LEAF_BYTES_DEFAULT + 3 * 72) * 4 / 3 + (4u << 20));
    stop();
}
END_TEST

START_TEST(more_than_there_is)
{
    static const uint64_t sums[][2] = {{UINT64_MAX, UINT64_MAX}, {1, 1ull << 63},  {1ull << 63, 1},
                                       {1, UINT64_MAX / 3 + 1},  {UINT64_MAX, 0},  {0, UINT64_MAX},
                                       {UINT64_MAX / 4, 0},      {1ull << 52, 100}};
    start(256, 64u << 10);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t before = state_bytes();
        for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
            ck_assert_int_eq(eng_reserve(eng, sums[i][0], sums[i][1]), ENG_FULL);
        ck_assert_uint_eq(state_bytes(), before);
        NEED_OK(eng_reserve(eng, 0, 0));
        fixture_commit(eng, 0, ++tag, 90);
    }
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reserve");
    TCase *cases = tcase_create("promises");
    tcase_add_loop_test(cases, deep_chains, 0, 3);
    tcase_add_loop_test(cases, random_keys, 0, SHAPES);
    tcase_add_test(cases, not_much_more);
    tcase_add_test(cases, more_than_there_is);
    tcase_set_timeout(cases, 300);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
