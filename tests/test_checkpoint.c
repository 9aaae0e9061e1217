/*
 * A checkpoint and the log of the same store: it is never durable ahead of what it begins behind.
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

int main(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *tests = tcase_create("checkpoint");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_checkpoint_is_not_ahead_of_the_log);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
