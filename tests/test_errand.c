/* What a drop leaves to a merge's helper (helper.c, snapshot.c): it is done, all of it, and a failure of it is told
 * later. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_internal.h"
#include "need.h"
#include "store_internal.h"

#define KEYS 20000u
#define BATCH 400u
#define PATIENCE_S 200

static struct disk *disk;
static struct eng *eng;
static uint64_t tag;

static void open_store(bool inline_only)
{
    struct eng_options options = {.create = true, .segment_bytes = 1u << 20, .threads = 2, .inline_only = inline_only};
    OK(disk_sim_open(0, &disk));
    options.disk = disk;
    tag = 0;
    OK(eng_open(&options, &eng));
    helpers_presume_watching(eng->helpers);
}

static void close_store(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

#define ROW 4u /* batches that are ready before the first is committed: so one merge comes soon after the other */

static struct eng_batch *row[ROW];

/* Each updates keys all over the tree. */
static void fill_row(void)
{
    for (unsigned b = 0; b < ROW; b++) {
        OK(eng_batch_open(eng, 0, b ? row[b - 1] : NULL, &row[b]));
        for (uint64_t i = 0; i < BATCH; i++) {
            uint64_t key = __builtin_bswap64((((tag + b) * BATCH + i) % KEYS + 1) * 0x9e3779b97f4a7c15ull);
            uint64_t value[5] = {tag + b};
            OK(eng_batch_put(row[b], (const uint8_t *)&key, 8,
                             (struct eng_value){.tag = ENG_BYTES, .bytes = (const void *)value, .size = 40}));
        }
        OK(eng_batch_freeze(row[b]));
    }
}

static void empty_row(void)
{
    for (unsigned b = 0; b < ROW; b++)
        eng_batch_close(&row[b]);
}

static void commit(unsigned b)
{
    OK(eng_commit(row[b], ++tag, NULL));
}

static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER; /* held by a reader with a snapshot */
static _Atomic bool stop;

static void take(void *context, const struct eng_value *value)
{
    memcpy(context, value->bytes, 8);
}

/* Holds a version now and then, and reads it. */
static void *reader(void *unused)
{
    for (uint64_t i = 0; !atomic_load(&stop); i++) {
        struct eng_snapshot *snapshot = NULL;
        pthread_mutex_lock(&reading);
        OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
        for (uint64_t n = 0; n < 20; n++) {
            uint64_t key = __builtin_bswap64((n * 1009 % BATCH + 1) * 0x9e3779b97f4a7c15ull), value = UINT64_MAX;
            OK(eng_get(snapshot, (const uint8_t *)&key, 8, take, &value));
            NEED(value < snapshot->version.tag);
        }
        eng_snapshot_close(&snapshot);
        pthread_mutex_unlock(&reading);
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return NULL;
}

static bool patient(time_t since)
{
    return time(NULL) - since < PATIENCE_S;
}

static void no_leaks(void)
{
    uint64_t leaked = 1, missing = 1;
    pthread_mutex_lock(&reading);
    OK(eng_settle(eng));
    OK(store_audit(eng->store, &leaked, &missing));
    NEED(leaked == 0 && missing == 0);
    NEED(eng_version_count(eng, 0) == 1);
    pthread_mutex_unlock(&reading);
}

/* Versions are freed, those that were pinned too, and whoever settles finds nothing left. */
START_TEST(all_is_freed)
{
    open_store(false);
    fill_row();
    commit(0);
    empty_row();
    pthread_t thread;
    atomic_store(&stop, false);
    NEED(pthread_create(&thread, NULL, reader, NULL) == 0);
    time_t since = time(NULL);
    for (unsigned turn = 0; turn < 200 || (helpers_begun(eng->helpers, HELP_RELEASE) < 20 && patient(since)); turn++) {
        struct eng_snapshot *snapshot = NULL;
        fill_row();
        for (unsigned b = 0; b < ROW; b++) {
            commit(b);
            if (b == turn % 8)
                OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
            if (turn % 7 == 0)
                OK(eng_checkpoint(eng, NULL, 0, true));
            uint64_t errands = helpers_begun(eng->helpers, HELP_RELEASE);
            OK(eng_drop_below(eng, 0, tag));
            for (unsigned wait = 0; turn % 4 == 0 && wait < 1000; wait++) { /* or the next commit takes it back */
                if (helpers_begun(eng->helpers, HELP_RELEASE) != errands)
                    break;
                nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
            }
        }
        empty_row();
        eng_snapshot_close(&snapshot);
        if (turn % 20 == 0)
            no_leaks();
    }
    ck_assert_msg(helpers_begun(eng->helpers, HELP_RELEASE) >= 20, "a helper went on %llu errands in %d s",
                  (unsigned long long)helpers_begun(eng->helpers, HELP_RELEASE), PATIENCE_S);
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    OK(eng_drop_below(eng, 0, tag));
    no_leaks();
    close_store();
}
END_TEST

/* The list of what died when the newest version was made. */
static struct list_chunk *newest_list(void)
{
    struct lineage *line = &eng->store->versions.lineages[0];
    return (struct list_chunk *)(void *)store_object(eng->store, line->versions[line->first + line->count - 1].list);
}

static bool release_failed(void)
{
    pthread_mutex_lock(&eng->commits);
    bool failed = eng->release_failed;
    pthread_mutex_unlock(&eng->commits);
    return failed;
}

/* A list is damaged in memory: the drop that sent the helper said ENG_OK, the next one says what is wrong. */
START_TEST(failure_is_told)
{
    open_store(true); /* so that nobody moves the list */
    unsigned sent = 0;
    for (time_t since = time(NULL); sent < 5 && patient(since);) {
        fill_row();
        for (unsigned b = 0; b + 1 < ROW; b++) { /* so that the helper looks on */
            commit(b);
            OK(eng_drop_below(eng, 0, tag));
        }
        commit(ROW - 1);
        struct list_chunk *list = newest_list();
        uint32_t count = list->count;
        list->count = UINT32_MAX;
        uint64_t errands = helpers_begun(eng->helpers, HELP_RELEASE);
        enum eng_status status = eng_drop_below(eng, 0, tag);
        if (status == ENG_OK) {
            while (helpers_begun(eng->helpers, HELP_RELEASE) == errands && patient(since))
                nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
            helper_end(eng->helpers, 0, HELP_RELEASE, 0);
            NEED(release_failed());
            status = eng_drop_below(eng, 0, tag);
            sent++;
        }
        empty_row();
        NEED(status == ENG_DAMAGED && strstr(eng_error(), "is no valid chunk"));
        list->count = count;
        OK(eng_drop_below(eng, 0, tag));
        no_leaks();
    }
    ck_assert_uint_ge(sent, 5);
    close_store();
}
END_TEST

/* Closed while a helper may be on its way. */
START_TEST(closed_meanwhile)
{
    for (unsigned round = 0; round < 20; round++) {
        open_store(false);
        fill_row();
        for (unsigned b = 0; b < ROW; b++) {
            commit(b);
            OK(eng_drop_below(eng, 0, tag));
        }
        empty_row();
        close_store();
    }
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("errand");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, all_is_freed);
    tcase_add_test(tc, failure_is_told);
    tcase_add_test(tc, closed_meanwhile);
    Suite *suite = suite_create("errand");
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
