/* Giving space back: eng_compact on a real file. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine_internal.h"
#include "tree.h"

#define KEYS 200000u
#define EACH 10000u
#define VALUE_BYTES 960u
#define SEGMENT_BYTES (4u << 20)

static char dir[64];
static struct eng *eng;
static struct eng_options options;
static uint64_t tag;
static const char app_state[] = "what the application wants to know";

static void open_again(void)
{
    eng_close(&eng);
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
}

static void setup(void)
{
    strcpy(dir, "/tmp/pando-space-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    options = (struct eng_options){.path = dir, .create = true, .segment_bytes = SEGMENT_BYTES};
    tag = 0;
    open_again();
}

static void teardown(void)
{
    char command[96];
    eng_close(&eng);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static uint64_t file_bytes(void)
{
    char path[96];
    struct stat file;
    snprintf(path, sizeof path, "%s/state/segments", dir);
    ck_assert_int_eq(stat(path, &file), 0);
    return (uint64_t)file.st_size;
}

static uint64_t live_bytes(void)
{
    struct eng_statistics statistics;
    eng_stats(eng, &statistics);
    return statistics.live_bytes;
}

static void make(uint64_t n, char key[static 24], uint8_t value[VALUE_BYTES])
{
    snprintf(key, 24, "key %016llx", (unsigned long long)(n * 0x9e3779b97f4a7c15ull));
    for (uint64_t i = 0; i < VALUE_BYTES; i += 8) {
        uint64_t word = (n + 1) * 0xbf58476d1ce4e5b9ull ^ i * 0x94d049bb133111ebull;
        memcpy(value + i, &word, 8);
    }
}

/* Commits the keys [from, to) if write, else takes nine of ten of them out. */
static void change(uint64_t from, uint64_t to, bool write)
{
    struct eng_batch *batch;
    ck_assert_int_eq(eng_batch_open(eng, 0, NULL, &batch), ENG_OK);
    for (uint64_t n = from; n < to; n++) {
        char key[24];
        uint8_t value[VALUE_BYTES];
        make(n, key, value);
        if (write)
            ck_assert_int_eq(eng_batch_put(batch, (const uint8_t *)key, strlen(key),
                                           (struct eng_value){ENG_BYTES, value, VALUE_BYTES}),
                             ENG_OK);
        else if (n % 10)
            ck_assert_int_eq(eng_batch_remove(batch, (const uint8_t *)key, strlen(key)), ENG_OK);
    }
    ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
    ck_assert_int_eq(eng_commit(batch, ++tag, NULL), ENG_OK);
    eng_batch_close(&batch);
}

static void check_contents(const struct eng_summary *expected)
{
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), ENG_OK);
    ck_assert_mem_eq(eng_snapshot_summary(snapshot), expected, sizeof *expected);
    for (uint64_t n = 0; n < KEYS; n += 5) {
        char key[24];
        uint8_t value[VALUE_BYTES], got[VALUE_BYTES];
        size_t size;
        make(n, key, value);
        enum eng_status status =
            eng_get_copy(snapshot, (const uint8_t *)key, strlen(key), NULL, got, sizeof got, &size);
        ck_assert_int_eq(status, n % 10 ? ENG_NOT_FOUND : ENG_OK);
        if (status == ENG_OK)
            ck_assert(size == VALUE_BYTES && memcmp(got, value, VALUE_BYTES) == 0);
    }
    eng_snapshot_close(&snapshot);
}

/* 200 MB, of which a tenth is kept. */
static void fill_and_remove(struct eng_summary *summary)
{
    for (uint64_t n = 0; n < KEYS; n += EACH)
        change(n, n + EACH, true);
    ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
    ck_assert_uint_gt(file_bytes(), (uint64_t)KEYS * VALUE_BYTES);
    for (uint64_t n = 0; n < KEYS; n += EACH)
        change(n, n + EACH, false);
    ck_assert_int_eq(eng_drop_below(eng, 0, tag), ENG_OK);
    uint64_t head;
    ck_assert_int_eq(eng_head(eng, 0, &head, summary), ENG_OK);
    ck_assert_uint_eq(summary->count, KEYS / 10);
}

static bool is_short(void)
{
    return file_bytes() <= live_bytes() * 3 / 2 + 2 * SEGMENT_BYTES;
}

static void check_app_state(void)
{
    char state[sizeof app_state];
    ck_assert_uint_eq(eng_app_state(eng, state, sizeof state), sizeof app_state);
    ck_assert_mem_eq(state, app_state, sizeof app_state);
}

/* Of the children of inner nodes, the percentage that lies where their parents say. */
static double children_placed(void)
{
    struct store_version head;
    struct tree_shape shape = {0};
    ck_assert(store_head(eng->store, 0, &head));
    ck_assert_int_eq(tree_shape(eng->store, head.root, &shape), ENG_OK);
    ck_assert_uint_gt(shape.children, 1000);
    return 100.0 * (double)shape.placed / (double)shape.children;
}

/* What compaction moved is found at once again: the parents are told. */
START_TEST(parents_know_their_children)
{
    struct eng_summary summary;
    for (uint64_t n = 0; n < KEYS; n += EACH)
        change(n, n + EACH, true);
    ck_assert(children_placed() > 75);
    for (uint64_t n = 0; n < KEYS; n += EACH)
        change(n, n + EACH, false);
    ck_assert_int_eq(eng_drop_below(eng, 0, tag), ENG_OK);
    ck_assert_int_eq(eng_head(eng, 0, &tag, &summary), ENG_OK);
    ck_assert_int_eq(store_shrink(eng->store), ENG_OK); /* seals what is being filled */
    ck_assert_int_eq(store_compact(eng->store, 100, UINT64_MAX), ENG_OK);
    ck_assert_int_eq(store_compact_end(eng->store), ENG_OK);
    ck_assert(children_placed() < 75);
    check_contents(&summary); /* found by the control words alone */
    store_compact_parents(eng->store, NULL);
    ck_assert(children_placed() > 95);
    check_contents(&summary);
    ck_assert_int_eq(eng_checkpoint(eng, app_state, sizeof app_state, true), ENG_OK);
    ck_assert_int_eq(eng_compact(eng, 90), ENG_OK);
    ck_assert(children_placed() > 75);
    open_again(); /* the moved nodes have their checksums */
    check_contents(&summary);
    ck_assert(children_placed() > 75);
}
END_TEST

START_TEST(the_file_is_truncated)
{
    struct eng_summary summary;
    fill_and_remove(&summary);
    uint64_t full = file_bytes();
    ck_assert_int_eq(eng_compact(eng, 90), ENG_OK); /* not yet: this may not make checkpoints of its own */
    ck_assert(!is_short());
    check_contents(&summary);
    ck_assert_int_eq(eng_checkpoint(eng, app_state, sizeof app_state, true), ENG_OK);
    ck_assert_int_eq(eng_compact(eng, 90), ENG_OK);
    ck_assert_uint_lt(file_bytes(), full / 4);
    ck_assert(is_short());
    check_contents(&summary);
    open_again();
    check_app_state();
    ck_assert(is_short());
    check_contents(&summary);
    uint64_t before = file_bytes();
    ck_assert_int_eq(eng_compact(eng, 90), ENG_OK); /* what was just opened may be compacted at once */
    ck_assert_uint_le(file_bytes(), before);
    check_contents(&summary);
    open_again();
    check_app_state();
    check_contents(&summary);
    change(0, EACH, true); /* and it goes on working */
    open_again();
    check_contents(&summary);
}
END_TEST

START_TEST(with_a_log_at_once)
{
    struct eng_summary summary;
    teardown(); /* another kind of store */
    strcpy(dir, "/tmp/pando-space-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    options.durability = ENG_DURABLE_MSYNC_SYNC;
    open_again();
    fill_and_remove(&summary);
    ck_assert_int_eq(eng_compact(eng, 90), ENG_OK);
    ck_assert(is_short());
    open_again();
    check_contents(&summary);
    ck_assert(is_short());
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("space");
    TCase *cases = tcase_create("compact");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, parents_know_their_children);
    tcase_add_test(cases, the_file_is_truncated);
    tcase_add_test(cases, with_a_log_at_once);
    tcase_set_timeout(cases, 300);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
