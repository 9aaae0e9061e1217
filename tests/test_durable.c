/*
 * The log of a library store: what failed is void, drops are replayed, tags keep their order, checkpoints trim it and
 * keep the application's state.
 */
#include <check.h>
#include <stdio.h>

#include "recovery_fixture.h"

static uint64_t head_tag(struct eng *eng)
{
    uint64_t tag = 0;
    enum eng_status status = eng_head(eng, 0, &tag, NULL);
    ck_assert(status == ENG_OK || status == ENG_NOT_FOUND);
    return tag;
}

/* The machine stops: the engine goes on from what was made stable. */
static void power_loss(struct eng **eng, struct disk **on, const struct eng_options *like, uint64_t seed)
{
    struct disk *image;
    NEED_OK(disk_sim_crash(*on, seed, &image));
    (*eng)->failed = ENG_IO; /* no checkpoint on the way out */
    eng_close(eng);
    disk_close(on);
    *on = image;
    struct eng_options options = *like;
    options.disk = image;
    NEED_OK(eng_open(&options, eng));
}

/* A batch that needs more segments and more log, all of which there are. */
static enum eng_status commit_large(struct eng *eng, uint64_t tag)
{
    static uint8_t value[6000];
    struct eng_batch *batch;
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    for (uint8_t key = 1; key <= 12; key++)
        NEED_OK(eng_batch_put(batch, &key, 1, (struct eng_value){ENG_BYTES, value, sizeof value}));
    NEED_OK(eng_batch_freeze(batch));
    enum eng_status status = eng_commit(batch, tag, NULL);
    eng_batch_close(&batch);
    return status;
}

static bool has_large(struct eng *eng)
{
    struct eng_snapshot *head;
    size_t size;
    NEED_OK(eng_snapshot_open(eng, 0, ENG_HEAD, &head));
    enum eng_status status = eng_get_copy(head, (const uint8_t *)"\1", 1, NULL, NULL, 0, &size);
    eng_snapshot_close(&head);
    ck_assert(status == ENG_OK || status == ENG_NOT_FOUND);
    return status == ENG_OK;
}

/* Its caller was told; it must not come back, nor stop the store, nor the next open. `_i`: the durability. */
START_TEST(a_batch_that_was_logged_and_failed_is_void)
{
    unsigned only_logged = 0;
    for (uint64_t n = 0; n < 60; n++) {
        struct disk *on;
        struct eng *eng;
        NEED_OK(disk_sim_open(0, &on));
        struct eng_options options = fixture_options(on, (enum eng_durability)_i);
        NEED_OK(eng_open(&options, &eng));
        for (uint64_t tag = 1; tag <= 5; tag++)
            fixture_commit(eng, 0, tag, 10);
        uint64_t logged = log_end(eng->log);
        disk_sim_fail(on, n, ENG_FULL);
        enum eng_status status = commit_large(eng, 6);
        bool failed = status == ENG_FULL && head_tag(eng) == 5, logs = log_end(eng->log) > logged;
        disk_sim_fail(on, UINT64_MAX, ENG_OK);
        if (failed && logs && eng->failed == ENG_OK) {
            only_logged++;
            if (n % 2)
                fixture_commit(eng, 0, 6, 10); /* the store goes on */
            if (_i == ENG_DURABLE_MSYNC_SYNC)  /* what was not synced would be gone */
                eng_close(&eng);
            if (eng)
                power_loss(&eng, &on, &options, n);
            else
                NEED_OK(eng_open(&options, &eng));
            ck_assert_uint_eq(head_tag(eng), n % 2 ? 6 : 5);
            ck_assert(!has_large(eng));
            ck_assert(fixture_audit(eng));
            NEED_OK(commit_large(eng, 7));
        }
        eng_close(&eng);
        options.disk = on;
        NEED_OK(eng_open(&options, &eng));
        ck_assert(fixture_audit(eng));
        eng_close(&eng);
        disk_close(&on);
    }
    ck_assert_uint_gt(only_logged, 0);
}
END_TEST

static enum eng_status commit_sized(struct eng *eng, uint64_t tag, uint32_t number, size_t bytes)
{
    static uint8_t value[2048];
    struct eng_batch *batch;
    uint32_t key = number * 2654435761u;
    memcpy(value, &number, 4);
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    NEED_OK(eng_batch_put(batch, (uint8_t *)&key, 4, (struct eng_value){ENG_BYTES, value, bytes}));
    NEED_OK(eng_batch_freeze(batch));
    enum eng_status status = eng_commit(batch, tag, NULL);
    eng_batch_close(&batch);
    return status;
}

/* Commits are refused by a full disk and tried again, until the log has no room either: for what makes the last batch
 * in it void there is some. `_i`: another length of the records. */
START_TEST(a_full_disk_does_not_stop_the_store)
{
    struct disk *on;
    struct eng *eng;
    uint64_t tag = 0;
    NEED_OK(disk_sim_open(2u << 20, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    uint32_t number = 0;
    for (unsigned full = 0; full < 3000; number++) {
        enum eng_status status = commit_sized(eng, tag + 1, number, 8 + 67 * (size_t)_i);
        ck_assert(status == ENG_OK || status == ENG_FULL);
        tag += status == ENG_OK;
        full += status != ENG_OK;
    }
    ck_assert_int_eq(eng->failed, ENG_OK);
    NEED_OK(eng_drop_below(eng, 0, tag));
    NEED_OK(eng_compact(eng, 75));
    NEED_OK(commit_sized(eng, tag + 1, number, 100));
    eng_close(&eng);
    NEED_OK(eng_open(&options, &eng));
    ck_assert_uint_eq(head_tag(eng), tag + 1);
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

/* Everything below the newest was dropped, then more versions came. A rebuild for another root reads the log anew. */
START_TEST(a_drop_is_of_what_was_there)
{
    struct disk *on;
    struct eng *eng;
    struct store_version head;
    NEED_OK(disk_sim_open(0, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 3; tag++)
        fixture_commit(eng, 0, tag, 30);
    NEED_OK(eng_drop_below(eng, 0, ENG_HEAD));
    for (uint64_t tag = 4; tag <= 10; tag++)
        fixture_commit(eng, 0, tag, 10);
    fixture_commit(eng, 1, 1, 40);
    fixture_commit(eng, 1, 2, 40);
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    ck_assert(store_head(eng->store, 1, &head));
    uint64_t at = CONTROL_LOCATION(eng->store->view.control[head.root]) * 64;
    ck_assert_uint_eq(eng_version_count(eng, 0), 8);
    eng_close(&eng);
    NEED_OK(disk_sim_flip(on, "state/segments", (at + 60) * 8));
    options.recovery = ENG_RECOVER_REBUILD;
    NEED_OK(eng_open(&options, &eng));
    ck_assert_uint_eq(eng_version_count(eng, 0), 8);
    ck_assert(fixture_audit(eng));
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

/* Drops cost no sync of their own. */
static void count_calls(void *context, struct disk *on, uint64_t n)
{
    (void)on;
    *(uint64_t *)context = n;
}

START_TEST(drops_are_written_with_what_follows)
{
    struct disk *on;
    struct eng *eng;
    uint64_t calls = 0;
    NEED_OK(disk_sim_open(0, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 5; tag++)
        fixture_commit(eng, 0, tag, 10);
    disk_sim_watch(on, count_calls, &calls);
    uint64_t logged = log_end(eng->log), durable = log_durable(eng->log);
    NEED_OK(eng_drop_below(eng, 0, 3));
    ck_assert_uint_gt(log_end(eng->log), logged);
    ck_assert_uint_eq(log_durable(eng->log), durable);
    ck_assert_uint_eq(calls, 0);
    disk_sim_watch(on, NULL, NULL);
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

/* Versions that came and went since the checkpoint take no space at a replay, and do not come back. */
START_TEST(drops_are_replayed)
{
    struct disk *on;
    struct eng *eng;
    NEED_OK(disk_sim_open(0, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    fixture_commit(eng, 0, 1, 40);
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    for (uint64_t tag = 2; tag <= 600; tag++) {
        fixture_commit(eng, 0, tag, 5);
        if (tag % 100 == 50)
            NEED_OK(eng_drop(eng, 0, tag - 1));
        if (tag % 2)
            NEED_OK(eng_drop_below(eng, 0, tag - 3));
    }
    fixture_commit(eng, 0, 601, 1); /* what it makes durable are the drops before it, too */
    struct eng_statistics before, after;
    struct eng_snapshot *snapshot;
    NEED_OK(eng_settle(eng));
    eng_stats(eng, &before);
    power_loss(&eng, &on, &options, 7);
    NEED_OK(eng_settle(eng));
    eng_stats(eng, &after);
    ck_assert_uint_eq(head_tag(eng), 601);
    ck_assert_uint_eq(after.versions, before.versions);
    ck_assert_uint_eq(after.objects, before.objects);
    ck_assert_uint_eq(after.live_bytes, before.live_bytes);
    ck_assert_uint_le(after.state_bytes, 2 * before.state_bytes);
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 300, &snapshot), ENG_GONE);
    ck_assert(fixture_audit(eng));
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

START_TEST(tags_and_batches_keep_their_order)
{
    struct disk *on;
    struct eng *eng;
    struct eng_batch *parent, *child, *late;
    uint64_t tag;
    NEED_OK(disk_sim_open(0, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    fixture_commit(eng, 0, 5, 10);
    NEED_OK(eng_batch_open(eng, 0, NULL, &parent));
    NEED_OK(eng_batch_freeze(parent));
    NEED_OK(eng_batch_open(eng, 0, parent, &child));
    NEED_OK(eng_batch_freeze(child));
    ck_assert_int_eq(eng_commit(child, 6, NULL), ENG_INVALID);
    ck_assert_int_eq(eng_commit(parent, ENG_HEAD, NULL), ENG_INVALID);
    ck_assert_int_eq(eng_commit(parent, 5, NULL), ENG_CONFLICT);
    ck_assert_ptr_nonnull(strstr(eng_error(), "tag 5"));
    NEED_OK(eng_commit(parent, 6, NULL));
    NEED_OK(eng_commit(child, ENG_HEAD - 1, NULL));
    eng_batch_close(&parent);
    eng_batch_close(&child);
    NEED_OK(eng_transaction_open(eng, 0, ENG_SNAPSHOT, &late));
    ck_assert_int_eq(eng_transaction_commit(late, &tag, NULL), ENG_INVALID);
    eng_batch_close(&late);
    power_loss(&eng, &on, &options, 1);
    ck_assert_uint_eq(head_tag(eng), ENG_HEAD - 1);
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

/* Sessions too short for a checkpoint of the store's own. */
START_TEST(checkpoints_trim_the_log)
{
    struct disk *on;
    struct eng *eng;
    uint64_t tag = 0, most = 0;
    NEED_OK(disk_sim_open(0, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    for (unsigned session = 0; session < 60; session++) {
        NEED_OK(eng_open(&options, &eng));
        for (unsigned i = 0; i < 20; i++)
            fixture_commit(eng, 0, ++tag, 20);
        NEED_OK(eng_drop_below(eng, 0, tag));
        struct eng_statistics statistics;
        eng_stats(eng, &statistics);
        if (session == 10)
            most = statistics.log_bytes;
        if (session > 10)
            ck_assert_uint_le(statistics.log_bytes, most + (128u << 10));
        eng_close(&eng); /* makes one */
    }
    disk_close(&on);
}
END_TEST

START_TEST(the_application_state_stays)
{
    struct disk *on;
    struct eng *eng;
    char text[32] = {0};
    NEED_OK(disk_sim_open(0, &on));
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    fixture_commit(eng, 0, 1, 10);
    NEED_OK(eng_checkpoint(eng, "position 42", 12, true));
    fixture_commit(eng, 0, 2, 10);
    NEED_OK(eng_compact(eng, 50));
    for (int i = 0; i < 3; i++) { /* each close makes a checkpoint */
        eng_close(&eng);
        NEED_OK(eng_open(&options, &eng));
        ck_assert_uint_eq(eng_app_state(eng, text, sizeof text), 12);
        ck_assert_str_eq(text, "position 42");
        fixture_commit(eng, 0, 3 + (uint64_t)i, 10);
    }
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    power_loss(&eng, &on, &options, 3);
    ck_assert_uint_eq(eng_app_state(eng, text, sizeof text), 0);
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

/* It is published and logged; what is left to do is the next open's. */
START_TEST(a_full_commit_without_its_checkpoint_says_so)
{
    unsigned seen = 0;
    for (uint64_t n = 0; n < 60; n++) {
        struct disk *on;
        struct eng *eng;
        NEED_OK(disk_sim_open(0, &on));
        struct eng_options options = fixture_options(on, ENG_DURABLE_FULL);
        NEED_OK(eng_open(&options, &eng));
        fixture_commit(eng, 0, 1, 10);
        disk_sim_fail(on, n, ENG_FULL);
        enum eng_status status = commit_large(eng, 2);
        bool published = head_tag(eng) == 2;
        ck_assert(status == ENG_OK || !published || status == ENG_IO);
        if (status == ENG_IO && strstr(eng_error(), "published and logged")) {
            seen++;
            power_loss(&eng, &on, &options, n);
            ck_assert_uint_eq(head_tag(eng), 2);
        }
        eng_close(&eng);
        disk_close(&on);
    }
    ck_assert_uint_gt(seen, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("durable");
    TCase *tests = tcase_create("durable");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, a_batch_that_was_logged_and_failed_is_void, ENG_DURABLE_MSYNC_SYNC,
                        ENG_DURABLE_FULL + 1);
    tcase_add_loop_test(tests, a_full_disk_does_not_stop_the_store, 0, 30);
    tcase_add_test(tests, a_drop_is_of_what_was_there);
    tcase_add_test(tests, drops_are_written_with_what_follows);
    tcase_add_test(tests, drops_are_replayed);
    tcase_add_test(tests, tags_and_batches_keep_their_order);
    tcase_add_test(tests, checkpoints_trim_the_log);
    tcase_add_test(tests, the_application_state_stays);
    tcase_add_test(tests, a_full_commit_without_its_checkpoint_says_so);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
