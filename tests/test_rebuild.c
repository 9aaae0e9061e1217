/* Rebuilds: what they must not keep, and what they must not believe. */
#include <check.h>

#include "recovery_fixture.h"

static struct disk *disk;

static void setup(void)
{
    NEED_OK(disk_sim_open(0, &disk));
}

static void teardown(void)
{
    disk_close(&disk);
}

static void no_line(void *context, const char *line)
{
    (void)context;
    (void)line;
}

static enum eng_status rebuild(struct eng **eng)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    options.create = false;
    options.recovery = ENG_RECOVER_REBUILD;
    options.recovery_report = no_line;
    return eng_open(&options, eng);
}

static uint64_t sum_of_head(struct eng *eng)
{
    struct eng_snapshot *snapshot;
    uint64_t sum = 0;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), ENG_OK);
    ck_assert_int_eq(eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, &sum), ENG_OK);
    eng_snapshot_close(&snapshot);
    return sum;
}

/* Version 2 removes a range, whose nodes fall. It is lost, so version 1, which has them, is the newest: they stay. */
START_TEST(a_fall_of_a_lost_version_frees_nothing)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng;
    struct eng_batch *batch;
    NEED_OK(eng_open(&options, &eng));
    fixture_commit(eng, 0, 1, 97);
    uint64_t sum = sum_of_head(eng);
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    NEED_OK(eng_batch_remove_range(batch, (uint8_t *)"a", 1, (uint8_t *)"b~", 2));
    NEED_OK(eng_batch_put(batch, (uint8_t *)"c", 1, (struct eng_value){ENG_BYTES, NULL, 0})); /* a root of its own */
    fixture_publish(&batch, 2);
    struct store_version head;
    ck_assert(store_head(eng->store, 0, &head));
    ck_assert_uint_ne(eng->store->reaper.waiting_count, 0);
    uint64_t at = CONTROL_LOCATION(eng->store->view.control[head.root]) * 64;
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    eng_close(&eng);
    NEED_OK(disk_sim_flip(disk, "state/segments", (at + 60) * 8));
    ck_assert_int_eq(rebuild(&eng), ENG_OK);
    ck_assert_uint_eq(eng_version_count(eng, 0), 1);
    ck_assert(sum_of_head(eng) == sum);
    ck_assert(fixture_audit(eng));
    fixture_commit(eng, 0, 2, 1); /* version 1 is dropped below: what fell in it would be due */
    sum = sum_of_head(eng);
    NEED_OK(eng_drop_below(eng, 0, 2));
    ck_assert(fixture_audit(eng));
    fixture_commit(eng, 1, 1, 97); /* takes the places of what was freed */
    ck_assert(sum_of_head(eng) == sum);
    eng_close(&eng);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rebuild");
    TCase *damage = tcase_create("damage");
    tcase_set_timeout(damage, 300);
    tcase_add_checked_fixture(damage, setup, teardown);
    tcase_add_test(damage, a_fall_of_a_lost_version_frees_nothing);
    suite_add_tcase(suite, damage);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
