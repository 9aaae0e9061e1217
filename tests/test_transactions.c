/*
 * Transactions: isolation levels, conflicts, nesting, private forks, many writers. The write skew is that of two
 * doctors on call: each transaction reads both, and takes one off duty if the other stays.
 */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pando/engine.h"

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())

static struct disk *disk;
static struct eng *eng;

static void setup(void)
{
    ck_assert_int_eq(disk_sim_open(0, &disk), ENG_OK);
    struct eng_options options = {.disk = disk, .create = true, .inline_only = true, .segment_bytes = 64u << 10};
    OK(eng_open(&options, &eng));
}

static void teardown(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static void put(struct eng_batch *batch, const char *key, const char *value)
{
    OK(eng_batch_put(batch, (const uint8_t *)key, strlen(key),
                     (struct eng_value){ENG_BYTES, (const uint8_t *)value, strlen(value)}));
}

static bool has(struct eng_batch *batch, const char *key, const char *value)
{
    struct eng_value found;
    enum eng_status status = eng_batch_get(batch, (const uint8_t *)key, strlen(key), &found);
    if (status == ENG_NOT_FOUND)
        return value == NULL;
    ck_assert_int_eq(status, ENG_OK);
    return value && found.size == strlen(value) && memcmp(found.bytes, value, found.size) == 0;
}

static struct eng_batch *begin(enum eng_isolation isolation)
{
    struct eng_batch *batch;
    OK(eng_transaction_open(eng, 0, isolation, &batch));
    return batch;
}

static enum eng_status finish(struct eng_batch *batch)
{
    enum eng_status status = eng_transaction_commit(batch, NULL, NULL);
    eng_batch_close(&batch);
    return status;
}

static void base(void)
{
    struct eng_batch *batch = begin(ENG_SNAPSHOT);
    put(batch, "doctor/alice", "on");
    put(batch, "doctor/bob", "on");
    put(batch, "x", "1");
    OK(finish(batch));
}

/* Both read both, each takes another one off duty. */
static enum eng_status skew(enum eng_isolation isolation)
{
    struct eng_batch *a = begin(isolation), *b = begin(isolation);
    ck_assert(has(a, "doctor/alice", "on") && has(a, "doctor/bob", "on"));
    ck_assert(has(b, "doctor/alice", "on") && has(b, "doctor/bob", "on"));
    put(a, "doctor/alice", "off");
    put(b, "doctor/bob", "off");
    OK(finish(a));
    return finish(b);
}

START_TEST(write_skew_is_possible_on_snapshots)
{
    base();
    OK(skew(ENG_SNAPSHOT));
    struct eng_batch *batch = begin(ENG_SNAPSHOT);
    ck_assert(has(batch, "doctor/alice", "off") && has(batch, "doctor/bob", "off")); /* nobody is on duty */
    eng_batch_close(&batch);
}
END_TEST

START_TEST(write_skew_is_refused_when_serializable)
{
    base();
    ck_assert_int_eq(skew(ENG_SERIALIZABLE), ENG_CONFLICT);
    struct eng_batch *batch = begin(ENG_SNAPSHOT);
    ck_assert(has(batch, "doctor/alice", "off") && has(batch, "doctor/bob", "on"));
    eng_batch_close(&batch);
}
END_TEST

START_TEST(a_lost_update_is_refused)
{
    base();
    for (int level = ENG_SNAPSHOT; level <= ENG_SERIALIZABLE; level++) {
        struct eng_batch *a = begin((enum eng_isolation)level), *b = begin((enum eng_isolation)level);
        ck_assert(has(a, "x", level ? "2" : "1") && has(b, "x", level ? "2" : "1"));
        put(a, "x", level ? "3" : "2");
        put(b, "x", "other");
        OK(finish(a));
        ck_assert_int_eq(finish(b), ENG_CONFLICT);
    }
    /* a blind write conflicts on snapshots only */
    struct eng_batch *a = begin(ENG_SNAPSHOT), *b = begin(ENG_SNAPSHOT), *c = begin(ENG_SERIALIZABLE);
    put(a, "x", "4");
    put(b, "x", "5");
    put(c, "x", "6");
    OK(finish(a));
    ck_assert_int_eq(finish(b), ENG_CONFLICT);
    OK(finish(c));
}
END_TEST

/* A transaction that looked at everything with a prefix is refused if something appears there, and only there. */
static enum eng_status phantom(const char *inserted, bool by_totals)
{
    struct eng_batch *reader = begin(ENG_SERIALIZABLE), *writer = begin(ENG_SNAPSHOT);
    if (by_totals) {
        struct eng_totals totals;
        OK(eng_batch_totals(reader, (const uint8_t *)"doctor/", 7, (const uint8_t *)"doctor0", 7, &totals));
        ck_assert_uint_eq(totals.count, 2);
    } else {
        struct eng_cursor *cursor;
        OK(eng_cursor_open_batch(reader, &cursor));
        OK(eng_cursor_prefix(cursor, (const uint8_t *)"doctor/", 7));
        int count = 0;
        for (enum eng_status s = eng_cursor_seek(cursor, NULL, 0); s == ENG_OK; s = eng_cursor_next(cursor))
            count++;
        ck_assert_int_eq(count, 2);
        eng_cursor_close(&cursor);
    }
    put(reader, "result", "2");
    put(writer, inserted, "on");
    OK(finish(writer));
    return finish(reader);
}

START_TEST(phantoms_are_refused)
{
    base();
    OK(phantom("clerk/eve", false));
    OK(phantom("zebra", true));
    ck_assert_int_eq(phantom("doctor/carol", false), ENG_CONFLICT);
    struct eng_batch *batch = begin(ENG_SNAPSHOT);
    OK(eng_batch_remove(batch, (const uint8_t *)"doctor/carol", 12));
    OK(finish(batch));
    ck_assert_int_eq(phantom("doctor/aaron", true), ENG_CONFLICT);
}
END_TEST

START_TEST(an_absent_key_that_was_read_counts)
{
    base();
    struct eng_batch *a = begin(ENG_SERIALIZABLE), *b = begin(ENG_SNAPSHOT);
    ck_assert(has(a, "y", NULL));
    put(a, "seen", "no y");
    put(b, "y", "here");
    OK(finish(b));
    ck_assert_int_eq(finish(a), ENG_CONFLICT);
}
END_TEST

START_TEST(removed_ranges_conflict_with_what_appears_in_them)
{
    base();
    struct eng_batch *a = begin(ENG_SNAPSHOT), *b = begin(ENG_SNAPSHOT), *c = begin(ENG_SNAPSHOT);
    OK(eng_batch_remove_range(a, (const uint8_t *)"doctor/", 7, (const uint8_t *)"doctor0", 7));
    OK(eng_batch_remove_range(c, (const uint8_t *)"p", 1, NULL, 0));
    put(b, "doctor/dora", "on");
    OK(finish(b));
    ck_assert_int_eq(finish(a), ENG_CONFLICT);
    OK(finish(c));
    struct eng_batch *batch = begin(ENG_SNAPSHOT);
    ck_assert(has(batch, "x", NULL) && has(batch, "doctor/dora", "on"));
    eng_batch_close(&batch);
}
END_TEST

START_TEST(nested_transactions_happen_whole_or_not)
{
    base();
    struct eng_batch *batch = begin(ENG_SERIALIZABLE);
    put(batch, "a", "1");
    OK(eng_nested_begin(batch));
    put(batch, "a", "2");
    OK(eng_nested_begin(batch));
    OK(eng_batch_remove_range(batch, NULL, 0, NULL, 0));
    ck_assert(has(batch, "a", NULL) && has(batch, "x", NULL));
    put(batch, "b", "1");
    eng_nested_end(batch, false);
    ck_assert(has(batch, "a", "2") && has(batch, "x", "1") && has(batch, "b", NULL));
    OK(eng_nested_begin(batch));
    put(batch, "c", "1");
    eng_nested_end(batch, true);
    eng_nested_end(batch, false);
    ck_assert(has(batch, "a", "1") && has(batch, "c", NULL));
    OK(eng_nested_begin(batch));
    put(batch, "c", "2");
    eng_nested_end(batch, true);
    for (unsigned i = 0; i < ENG_NESTED_MAX; i++)
        OK(eng_nested_begin(batch));
    ck_assert_int_eq(eng_nested_begin(batch), ENG_TOO_LARGE);
    for (unsigned i = 0; i < ENG_NESTED_MAX; i++)
        eng_nested_end(batch, i % 2);
    OK(finish(batch));
    batch = begin(ENG_SNAPSHOT);
    ck_assert(has(batch, "a", "1") && has(batch, "c", "2") && has(batch, "x", "1"));
    eng_batch_close(&batch);
}
END_TEST

START_TEST(forks_are_private)
{
    base();
    struct eng_snapshot *old, *now;
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &old));
    struct eng_batch *batch = begin(ENG_SNAPSHOT), *fork;
    put(batch, "x", "2");
    OK(finish(batch));
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &now));
    OK(eng_fork(old, &fork));
    eng_snapshot_close(&old);
    ck_assert(has(fork, "x", "1"));
    put(fork, "x", "2");
    OK(eng_batch_freeze(fork));
    struct eng_summary summary;
    OK(eng_dry_commit(fork, &summary)); /* the same contents by another way */
    ck_assert_mem_eq(&summary, eng_snapshot_summary(now), sizeof summary);
    ck_assert_int_eq(eng_commit(fork, 100, NULL), ENG_INVALID);
    eng_batch_close(&fork);
    batch = begin(ENG_SERIALIZABLE); /* and the store goes on */
    ck_assert(has(batch, "x", "2"));
    put(batch, "x", "3");
    OK(finish(batch));
    eng_snapshot_close(&now);
}
END_TEST

START_TEST(many_reads_are_widened_not_forgotten)
{
    base();
    struct eng_batch *reader = begin(ENG_SERIALIZABLE), *writer = begin(ENG_SNAPSHOT);
    char key[32];
    for (unsigned i = 0; i < ENG_READS_MAX + 10; i++) {
        snprintf(key, sizeof key, "k%06u", 2 * i);
        ck_assert(has(reader, key, NULL));
    }
    put(reader, "done", "");
    put(writer, "k000004", "read early");
    OK(finish(writer));
    ck_assert_int_eq(finish(reader), ENG_CONFLICT);
}
END_TEST

/* ---- many writers ---- */

#define WRITERS 8
#define INCREMENTS 60

static void add_one(struct eng_batch *batch, const char *key)
{
    struct eng_value value;
    int64_t amount[2] = {0, 0};
    enum eng_status status = eng_batch_get(batch, (const uint8_t *)key, strlen(key), &value);
    ck_assert(status == ENG_OK || status == ENG_NOT_FOUND);
    if (status == ENG_OK)
        memcpy(amount, value.bytes, 16);
    amount[0]++;
    OK(eng_batch_put(batch, (const uint8_t *)key, strlen(key),
                     (struct eng_value){ENG_AMOUNT, (const uint8_t *)amount, 16}));
}

static void *writer_main(void *context)
{
    unsigned number = *(unsigned *)context;
    for (unsigned i = 0; i < INCREMENTS;) {
        struct eng_batch *batch;
        uint32_t root = i % 2 ? 1 + number : 0; /* its own, or the one all share */
        OK(eng_transaction_open(eng, root, i % 4 < 2 ? ENG_SNAPSHOT : ENG_SERIALIZABLE, &batch));
        add_one(batch, "counter");
        enum eng_status status = eng_transaction_commit(batch, NULL, NULL);
        eng_batch_close(&batch);
        ck_assert(status == ENG_OK || status == ENG_CONFLICT);
        i += status == ENG_OK;
    }
    return NULL;
}

static int64_t counter(uint32_t root)
{
    struct eng_snapshot *snapshot;
    struct eng_totals totals;
    OK(eng_snapshot_open(eng, root, ENG_HEAD, &snapshot));
    OK(eng_totals(snapshot, NULL, 0, NULL, 0, &totals));
    eng_snapshot_close(&snapshot);
    return (int64_t)totals.sum[0];
}

START_TEST(no_increment_is_lost_among_many_writers)
{
    char dir[] = "/tmp/test_transactions.XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct eng_options options = {
        .path = dir, .create = true, .durability = ENG_DURABLE_FSYNC, .segment_bytes = 1u << 20, .threads = 2};
    OK(eng_open(&options, &eng));
    pthread_t threads[WRITERS];
    unsigned numbers[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, writer_main, &numbers[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    for (int again = 0; again < 2; again++) {
        ck_assert_int_eq(counter(0), WRITERS * INCREMENTS / 2);
        for (uint32_t i = 1; i <= WRITERS; i++)
            ck_assert_int_eq(counter(i), INCREMENTS / 2);
        eng_close(&eng);
        if (!again)
            OK(eng_open(&options, &eng));
    }
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* A process that commits until it is killed; what it reported as committed is there afterwards, ranges included. */
START_TEST(what_was_committed_survives_a_kill)
{
    char dir[] = "/tmp/test_transactions.XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct eng_options options = {
        .path = dir, .create = true, .durability = ENG_DURABLE_FSYNC, .segment_bytes = 1u << 20, .threads = 1};
    int pipes[2];
    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        if (eng_open(&options, &eng) != ENG_OK)
            _exit(1);
        for (unsigned i = 0;; i++) {
            struct eng_batch *batch = begin(ENG_SERIALIZABLE);
            char key[16];
            snprintf(key, sizeof key, "k%05u", i);
            if (i % 5 == 4 && eng_batch_remove_range(batch, (const uint8_t *)"k", 1, (const uint8_t *)key, 6) != ENG_OK)
                _exit(1);
            put(batch, key, "v");
            if (finish(batch) != ENG_OK || write(pipes[1], &i, sizeof i) != sizeof i)
                _exit(1);
        }
    }
    close(pipes[1]);
    unsigned last = 0;
    while (last < 120)
        ck_assert_int_eq(read(pipes[0], &last, sizeof last), sizeof last);
    kill(child, SIGKILL);
    unsigned more;
    while (read(pipes[0], &more, sizeof more) == sizeof more)
        last = more;
    close(pipes[0]);
    waitpid(child, NULL, 0);
    OK(eng_open(&options, &eng));
    struct eng_snapshot *snapshot;
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
    uint64_t version = eng_snapshot_tag(snapshot);
    ck_assert(version == last + 1 || version == last + 2); /* the newest may not have been reported */
    unsigned newest = (unsigned)version - 1;               /* every fifth removes all before itself */
    unsigned kept = newest < 4 ? newest + 1 : newest % 5 == 4 ? 1 : newest % 5 + 2;
    ck_assert_uint_eq(eng_snapshot_summary(snapshot)->count, kept);
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transactions");
    TCase *memory = tcase_create("isolation"), *threads = tcase_create("writers");
    tcase_add_checked_fixture(memory, setup, teardown);
    tcase_set_timeout(memory, 60);
    tcase_set_timeout(threads, 120);
    tcase_add_test(memory, write_skew_is_possible_on_snapshots);
    tcase_add_test(memory, write_skew_is_refused_when_serializable);
    tcase_add_test(memory, a_lost_update_is_refused);
    tcase_add_test(memory, phantoms_are_refused);
    tcase_add_test(memory, an_absent_key_that_was_read_counts);
    tcase_add_test(memory, removed_ranges_conflict_with_what_appears_in_them);
    tcase_add_test(memory, nested_transactions_happen_whole_or_not);
    tcase_add_test(memory, forks_are_private);
    tcase_add_test(memory, many_reads_are_widened_not_forgotten);
    tcase_add_test(threads, no_increment_is_lost_among_many_writers);
    tcase_add_test(threads, what_was_committed_survives_a_kill);
    suite_add_tcase(suite, memory);
    suite_add_tcase(suite, threads);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
