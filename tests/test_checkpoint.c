/*
 * A checkpoint and the log of the same store: it is never durable ahead of what it begins behind, and none is made
 * after a batch was logged and could not be merged.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "log_state.h"
#include "recovery_fixture.h"

static void head_tag(struct eng *eng, uint64_t *tag)
{
    *tag = 0;
    enum eng_status status = eng_head(eng, 0, tag, NULL);
    ck_assert(status == ENG_OK || status == ENG_NOT_FOUND);
}

/* A commit is published before the log has it. A checkpoint of it made then must wait for the log: else it is durable,
 * and begins behind what a power loss leaves of the log. */
struct ahead {
    struct eng *eng;
    _Atomic bool hold, held; /* the flusher, in the disk */
    _Atomic bool done;       /* the checkpoint */
};

static void hold_flusher(void *context, struct disk *on, uint64_t n)
{
    struct ahead *ahead = context;
    (void)on;
    (void)n;
    while (ahead->hold && pthread_equal(pthread_self(), ahead->eng->log->flush_thread)) {
        ahead->held = true;
        usleep(1000);
    }
}

static void *commit_second(void *context)
{
    struct ahead *ahead = context;
    fixture_commit(ahead->eng, 0, 2, 40);
    return NULL;
}

static void *checkpoint_ahead(void *context)
{
    struct ahead *ahead = context;
    NEED_OK(eng_checkpoint(ahead->eng, NULL, 0, true));
    ahead->done = true;
    return NULL;
}

/* The head of the newest checkpoint that a power loss leaves now, without the log. */
static uint64_t stable_checkpoint_tag(struct disk *on)
{
    struct disk *image;
    struct eng *eng;
    uint64_t tag;
    NEED_OK(disk_sim_crash(on, 0, &image));
    struct eng_options bare = fixture_options(image, ENG_DURABLE_NONE);
    bare.ignore_log = true;
    NEED_OK(eng_open(&bare, &eng));
    head_tag(eng, &tag);
    eng_close(&eng);
    disk_close(&image);
    return tag;
}

START_TEST(a_checkpoint_is_not_ahead_of_the_log)
{
    struct ahead ahead = {.hold = false};
    struct disk *on;
    pthread_t committer, checkpointer;
    uint64_t tag;
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    options.inline_only = false;
    NEED_OK(eng_open(&options, &ahead.eng));
    fixture_commit(ahead.eng, 0, 1, 20);
    disk_sim_watch(on, hold_flusher, &ahead);
    ahead.hold = true;
    ck_assert_int_eq(pthread_create(&committer, NULL, commit_second, &ahead), 0);
    do {
        usleep(1000);
        head_tag(ahead.eng, &tag);
    } while (tag != 2 || !ahead.held);
    ck_assert_int_eq(pthread_create(&checkpointer, NULL, checkpoint_ahead, &ahead), 0);
    for (unsigned ms = 0; ms < 500 && !ahead.done; ms++)
        usleep(1000);
    ck_assert(!ahead.done);
    ck_assert_uint_lt(stable_checkpoint_tag(on), 2);
    ahead.hold = false;
    pthread_join(committer, NULL);
    pthread_join(checkpointer, NULL);
    ck_assert_uint_eq(stable_checkpoint_tag(on), 2);
    disk_sim_watch(on, NULL, NULL);
    eng_close(&ahead.eng);
    disk_close(&on);
}
END_TEST

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

/* Then the log says more than the store holds, and a checkpoint would begin behind a batch that it has not. */
START_TEST(no_checkpoint_after_a_batch_was_only_logged)
{
    unsigned stopped = 0;
    enum eng_status status = ENG_FULL;
    for (uint64_t n = 0; status != ENG_OK; n++) {
        struct disk *on;
        struct eng *eng;
        uint64_t tag;
        ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
        struct eng_options options = fixture_options(on, (enum eng_durability)_i);
        NEED_OK(eng_open(&options, &eng));
        for (tag = 1; tag <= 5; tag++)
            fixture_commit(eng, 0, tag, 10);
        disk_sim_fail(on, n, ENG_FULL);
        status = commit_large(eng, 6);
        bool only_logged = eng->failed == ENG_FULL; /* what the merge failed with */
        if (only_logged) {
            head_tag(eng, &tag);
            ck_assert_uint_eq(tag, 5);
            ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_IO);
            ck_assert_ptr_nonnull(strstr(eng_error(), "the next open goes on from the log"));
            enum eng_status compacted = eng_compact(eng, 80);
            if (_i != ENG_DURABLE_FULL || compacted != ENG_OK) /* there all but the batch is in a checkpoint already */
                ck_assert_int_eq(compacted, ENG_IO);
            stopped++;
        }
        eng_close(&eng);
        NEED_OK(eng_open(&options, &eng));
        head_tag(eng, &tag);
        ck_assert_uint_ge(tag, only_logged || status == ENG_OK ? 6 : 5);
        ck_assert(fixture_audit(eng));
        eng_close(&eng);
        disk_close(&on);
    }
    ck_assert_uint_gt(stopped, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *tests = tcase_create("checkpoint");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_checkpoint_is_not_ahead_of_the_log);
    tcase_add_loop_test(tests, no_checkpoint_after_a_batch_was_only_logged, ENG_DURABLE_MSYNC_SYNC,
                        ENG_DURABLE_FULL + 1);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
