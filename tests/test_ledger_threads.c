/*
 * The ledger with its threads: several that submit, a pipeline of imports, a disk that is full for a while. Everything
 * accepted is answered once and is there after a restart.
 */
#include <check.h>
#include <pthread.h>
#include <unistd.h>

#include "leader_fixture.h"
#include "ledger_internal.h"

#define THREADS 4
#define EACH 2000

static struct answer *thread_answers;

static void *submit_many(void *context)
{
    uint64_t thread = *(uint64_t *)context;
    struct draft own;
    for (uint64_t i = 0; i < EACH; i++) {
        char key[32];
        snprintf(key, sizeof(key), "account/%d", (int)((thread * 31 + i * 17) % 100));
        draft_begin(&own, 1 + thread * EACH + i, FIXTURE_TIME_MS + FIXTURE_WINDOW_MS / 2);
        draft_amount(&own, key, 1);
        draft_end(&own);
        struct answer *answer = &thread_answers[thread * EACH + i];
        enum tx_code code;
        while ((code = ledger_submit(f.ledger, own.bytes, own.size, answer_keep, answer)) == TX_BUSY)
            usleep(1000);
        if (code != TX_OK)
            abort();
        draft_release(&own);
    }
    return NULL;
}

static void open_threaded(void)
{
    fixture_release(&f);
    fixture_init(&f, 1);
    f.options.stepped = false;
    f.options.block_max_txs = 500;
    f.options.retain_blocks = 3;
    f.options.checkpoint_log_bytes = 200 << 10;
    ck_assert_int_eq(disk_sim_open(0, &f.disk), ENG_OK);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}

START_TEST(test_threads)
{
    open_threaded();
    thread_answers = calloc(THREADS * EACH, sizeof(*thread_answers));
    pthread_t threads[THREADS];
    uint64_t numbers[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, submit_many, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ledger_close(&f.ledger, 5000); /* answers what was accepted */
    uint64_t newest = 0, total = 0;
    for (size_t i = 0; i < THREADS * EACH; i++) {
        ck_assert_int_eq(answer_calls(&thread_answers[i]), 1);
        ck_assert_int_eq(thread_answers[i].code, TX_OK);
        if (thread_answers[i].receipt.height > newest)
            newest = thread_answers[i].receipt.height;
        /* one thread's transactions keep their order */
        if (i % EACH) {
            const struct receipt *a = &thread_answers[i - 1].receipt, *b = &thread_answers[i].receipt;
            ck_assert(a->height < b->height || (a->height == b->height && a->index < b->index));
        }
    }
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), newest);
    struct header header;
    read_header(f.ledger, newest, &header);
    ck_assert_uint_eq(header.state.sum[0], THREADS * EACH);
    for (uint64_t h = 1; h <= newest; h++) {
        read_header(f.ledger, h, &header);
        total += header.transactions;
    }
    ck_assert_uint_eq(total, THREADS * EACH);
    for (size_t i = 0; i < THREADS * EACH; i++)
        answer_release(&thread_answers[i]);
    free(thread_answers);
}
END_TEST

/* Submits one transaction and waits for its receipt. */
static void put_threaded(uint64_t number, const char *key)
{
    struct answer answer = {0};
    draft_begin(&draft, number, soon());
    draft_value(&draft, TX_PUT, key, "x");
    draft_end(&draft);
    enum tx_code code;
    while ((code = ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answer)) == TX_BUSY)
        usleep(1000);
    ck_assert_int_eq(code, TX_OK);
    while (answer_calls(&answer) == 0)
        usleep(1000);
    ck_assert_int_eq(answer.code, TX_OK);
    answer_release(&answer);
    draft_release(&draft);
}

#define RESUBMISSIONS 500

static atomic_uint answered;

static void count_answer(void *context, enum tx_code code, const uint8_t *bytes, size_t size)
{
    if (code != TX_OK || size == 0)
        abort();
    usleep(2000); /* as if each were read out of a large block */
    atomic_fetch_add_explicit(&answered, 1, memory_order_relaxed);
}

/* A new transaction does not wait until all resubmissions before it are answered. */
START_TEST(test_resubmissions_hold_up_nobody)
{
    open_threaded();
    struct answer answer = {0};
    struct draft fresh;
    put_threaded(1, "old");
    draft_begin(&draft, 1, soon());
    draft_value(&draft, TX_PUT, "old", "x");
    draft_end(&draft);
    draft_begin(&fresh, 2, soon());
    draft_value(&fresh, TX_PUT, "new", "x");
    draft_end(&fresh);
    atomic_store_explicit(&answered, 0, memory_order_relaxed);
    for (int i = 0; i < RESUBMISSIONS; i++)
        ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, count_answer, NULL), TX_OK);
    ck_assert_int_eq(ledger_submit(f.ledger, fresh.bytes, fresh.size, answer_keep, &answer), TX_OK);
    while (answer_calls(&answer) == 0)
        usleep(100);
    ck_assert_uint_lt(atomic_load_explicit(&answered, memory_order_relaxed), RESUBMISSIONS / 2);
    ck_assert_int_eq(answer.code, TX_OK);
    ledger_close(&f.ledger, 5000); /* answers them all */
    ck_assert_uint_eq(atomic_load_explicit(&answered, memory_order_relaxed), RESUBMISSIONS);
    answer_release(&answer);
    draft_release(&draft);
    draft_release(&fresh);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}
END_TEST

static atomic_bool go_on;

static void wait_and_count(void *context, enum tx_code code, const uint8_t *bytes, size_t size)
{
    while (!atomic_load(&go_on))
        usleep(1000);
    count_answer(context, code, bytes, size);
}

/* As many as one turn takes, and then nothing: the block they were read from is let go (leaks tell). */
START_TEST(test_resubmissions_of_one_turn)
{
    open_threaded();
    put_threaded(1, "old");
    draft_begin(&draft, 1, soon());
    draft_value(&draft, TX_PUT, "old", "x");
    draft_end(&draft);
    atomic_store(&answered, 0);
    atomic_store(&go_on, false);
    for (int i = 0; i < PUBLISH_ANSWERS_A_TURN; i++)
        ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, wait_and_count, NULL), TX_OK);
    atomic_store(&go_on, true);
    while (atomic_load(&answered) < PUBLISH_ANSWERS_A_TURN)
        usleep(1000);
    ledger_close(&f.ledger, 5000);
    draft_release(&draft);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}
END_TEST

static atomic_uint imported;

static void count_import(void *context, const struct import_result *result)
{
    if (result->status == ENG_OK)
        atomic_fetch_add_explicit(&imported, 1, memory_order_relaxed);
}

START_TEST(test_import_pipeline)
{
    open_threaded();
    enum eng_status status;
    atomic_store_explicit(&imported, 0, memory_order_relaxed);
    for (uint64_t h = 1; h <= 1000; h++) {
        size_t size;
        draft_begin(&draft, 0, 0);
        draft_amount(&draft, "sum", 1);
        uint8_t *bytes = fixture_block(h, h, "", &draft, 1, &size);
        while ((status = ledger_import(f.ledger, bytes, size, false, 0, count_import, NULL)) == ENG_BUSY)
            usleep(1000);
        ck_assert_int_eq(status, ENG_OK);
        free(bytes);
    }
    ck_assert_int_eq(ledger_wait(f.ledger, 1000, 60000), ENG_OK);
    ck_assert_int_eq(ledger_wait(f.ledger, 1001, 10), ENG_TIMEOUT);
    struct header header;
    read_header(f.ledger, 1000, &header);
    ck_assert_uint_eq(header.state.sum[0], 1000);
    ledger_close(&f.ledger, 5000);
    ck_assert_uint_eq(atomic_load_explicit(&imported, memory_order_relaxed), 1000);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 1000);
}
END_TEST

/* The threads wait for space and go on: nothing that was accepted is lost. */
START_TEST(test_full_threads)
{
    struct disk_file *ballast;
    fixture_release(&f);
    fixture_init(&f, 1);
    f.options.stepped = false;
    f.options.log_file_bytes = 64 << 10;
    f.options.segment_bytes = 64 << 10;
    ck_assert_int_eq(disk_sim_open(32 << 20, &f.disk), ENG_OK);
    ck_assert_int_eq(disk_open(f.disk, "ballast", DISK_CREATE, &ballast), ENG_OK);
    ck_assert_int_eq(disk_extend(ballast, 28 << 20), ENG_OK);
    disk_file_close(&ballast);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    put_threaded(6000, "before");
    char value[4001];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    struct answer *answers = calloc(2000, sizeof(*answers));
    enum tx_code code = TX_OK;
    size_t taken = 0;
    while (taken < 2000) {
        char key[32];
        snprintf(key, sizeof(key), "key/%zu", taken);
        draft_begin(&draft, taken + 1, soon());
        draft_value(&draft, TX_PUT, key, value);
        draft_end(&draft);
        code = ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[taken]);
        draft_release(&draft);
        if (code != TX_OK)
            break;
        taken++;
    }
    ck_assert_int_eq(code, TX_BUSY);
    usleep(100000);
    ck_assert_int_eq(ledger_failure(f.ledger, NULL, 0), ENG_OK);
    if (_i == 0) {
        ck_assert_int_eq(disk_remove(f.disk, "ballast"), ENG_OK);
        for (int i = 0; i < 500 && answer_calls(&answers[taken - 1]) == 0; i++)
            usleep(10000);
        put_threaded(5000, "after");
        ledger_close(&f.ledger, 1000);
    } else {
        ledger_close(&f.ledger, 1000); /* still full: what is done is done, the rest is told so */
        ck_assert_int_eq(disk_remove(f.disk, "ballast"), ENG_OK);
    }
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    uint64_t height = ledger_height(f.ledger, NULL);
    size_t done = 0;
    for (size_t i = 0; i < taken; i++) {
        ck_assert_int_eq(answer_calls(&answers[i]), 1);
        if (_i == 0)
            ck_assert_int_eq(answers[i].code, TX_OK);
        else
            ck_assert(answers[i].code == TX_OK || answers[i].code == TX_BUSY);
        if (answers[i].code == TX_OK) {
            char key[32];
            snprintf(key, sizeof(key), "key/%zu", i);
            ck_assert(answers[i].receipt.height <= height);
            ck_assert(!holds(key, NULL));
            done++;
        }
        answer_release(&answers[i]);
    }
    ck_assert(_i ? done <= taken : done == taken);
    ck_assert(holds("before", "x"));
    ck_assert(_i ? holds("after", NULL) : holds("after", "x"));
    free(answers);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ledger threads");
    const struct {
        const char *name;
        const TTest *test;
        int times;
    } tests[] = {
        {"threads", test_threads, 1},
        {"import pipeline", test_import_pipeline, 1},
        {"resubmissions", test_resubmissions_hold_up_nobody, 1},
        {"one turn", test_resubmissions_of_one_turn, 1},
        {"full threads", test_full_threads, 2},
    };
    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        TCase *tcase = tcase_create(tests[i].name);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_set_timeout(tcase, 120);
        tcase_add_loop_test(tcase, tests[i].test, 0, tests[i].times);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
