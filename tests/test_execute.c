/* The operations table of the interface: every operation, every code, on the real engine. */
#include <check.h>

#include "execute.h"
#include "ledger_fixture.h"

static struct disk *disk;
static struct eng *eng;
static struct eng_batch *batch;
static struct execution *execution;
static struct draft draft;

static void setup(void)
{
    struct eng_options options = {.create = true, .inline_only = true, .threads = 1, .segment_bytes = 1 << 20};
    execution = malloc(sizeof(*execution));
    ck_assert_int_eq(disk_sim_open(0, &disk), ENG_OK);
    options.disk = disk;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    ck_assert_int_eq(eng_batch_open(eng, 0, NULL, &batch), ENG_OK);
    draft_begin(&draft, 1, 1);
}

static void teardown(void)
{
    eng_batch_close(&batch);
    eng_close(&eng);
    disk_close(&disk);
    free(execution);
}

/* Commits what is in the batch, so that what follows reads from the tree. */
static void commit(uint64_t tag)
{
    ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
    ck_assert_int_eq(eng_commit(batch, tag, NULL), ENG_OK);
    eng_batch_close(&batch);
    ck_assert_int_eq(eng_batch_open(eng, 0, NULL, &batch), ENG_OK);
}

static enum tx_code run(void)
{
    ck_assert_int_eq(execute_transaction(batch, &draft.tx, execution), ENG_OK);
    draft_begin(&draft, 1, 1);
    return execution->code;
}

static void check_value(const char *key, const char *expected)
{
    struct eng_value value;
    enum eng_status status = eng_batch_get(batch, (const uint8_t *)key, strlen(key), &value);
    if (!expected) {
        ck_assert_int_eq(status, ENG_NOT_FOUND);
        return;
    }
    ck_assert_int_eq(status, ENG_OK);
    ck_assert_int_eq(value.tag, ENG_BYTES);
    ck_assert_uint_eq(value.size, strlen(expected));
    ck_assert_int_eq(memcmp(value.bytes, expected, value.size), 0);
}

static void check_amount(const char *key, __int128 expected)
{
    struct eng_value value;
    ck_assert_int_eq(eng_batch_get(batch, (const uint8_t *)key, strlen(key), &value), ENG_OK);
    ck_assert_int_eq(value.tag, ENG_AMOUNT);
    ck_assert(amount_from_bytes(value.bytes) == expected);
}

/* Each case is run twice: with the state in the batch, and in the tree. */
static void state(int in_tree)
{
    draft_value(&draft, TX_PUT, "bytes", "b");
    draft_amount(&draft, "amount", 10);
    ck_assert_int_eq(run(), TX_OK);
    if (in_tree)
        commit(1);
}

START_TEST(test_writes)
{
    state(_i);
    draft_value(&draft, TX_PUT, "bytes", "new");
    draft_value(&draft, TX_INSERT, "fresh", "f");
    draft_value(&draft, TX_UPDATE, "fresh", "g");
    draft_value(&draft, TX_PUT, "amount", "was an amount");
    ck_assert_int_eq(run(), TX_OK);
    ck_assert_uint_eq(execution->failed_op, RECEIPT_NO_OPERATION);
    ck_assert_uint_eq(execution->result_count, 0);
    check_value("bytes", "new");
    check_value("fresh", "g");
    check_value("amount", "was an amount");

    draft_value(&draft, TX_PUT, "other", "x");
    draft_value(&draft, TX_INSERT, "bytes", "x");
    ck_assert_int_eq(run(), TX_EXISTS);
    ck_assert_uint_eq(execution->failed_op, 1);
    check_value("other", NULL);
    check_value("bytes", "new");
    draft_value(&draft, TX_UPDATE, "absent", "x");
    ck_assert_int_eq(run(), TX_NOT_FOUND);
    ck_assert_uint_eq(execution->failed_op, 0);
    check_value("absent", NULL);
}
END_TEST

START_TEST(test_deletes)
{
    state(_i);
    draft_add(&draft, TX_DELETE, "bytes");
    draft_add(&draft, TX_UNSET, "amount");
    draft_add(&draft, TX_UNSET, "absent");
    ck_assert_int_eq(run(), TX_OK);
    check_value("bytes", NULL);
    check_value("amount", NULL);
    draft_value(&draft, TX_PUT, "bytes", "again");
    draft_add(&draft, TX_DELETE, "amount");
    ck_assert_int_eq(run(), TX_NOT_FOUND);
    ck_assert_uint_eq(execution->failed_op, 1);
    check_value("bytes", NULL);
}
END_TEST

START_TEST(test_delete_range)
{
    const char *keys[] = {"a", "b", "ba", "bb", "c", "d"};
    for (size_t i = 0; i < 6; i++)
        draft_value(&draft, TX_PUT, keys[i], keys[i]);
    ck_assert_int_eq(run(), TX_OK);
    if (_i)
        commit(1);
    draft_value(&draft, TX_PUT, "bc", "in the same transaction");
    draft_add(&draft, TX_DELETE, "ba");
    draft_range(&draft, "b", "c");
    draft_range(&draft, "x", "z");
    draft_range(&draft, "d", "a");
    ck_assert_int_eq(run(), TX_OK);
    ck_assert_uint_eq(execution->result_count, 3);
    static const uint8_t expected[27] = {RESULT_COUNT, 3, [9] = RESULT_COUNT, [18] = RESULT_COUNT};
    ck_assert_uint_eq(execution->results_bytes, sizeof(expected));
    ck_assert_int_eq(memcmp(execution->results, expected, sizeof(expected)), 0);
    check_value("a", "a");
    check_value("b", NULL);
    check_value("ba", NULL);
    check_value("bb", NULL);
    check_value("bc", NULL);
    check_value("c", "c");
    ck_assert_uint_eq(execution->removed_keys, 3);

    draft_range(&draft, "a", "e");
    draft_add(&draft, TX_DELETE, "a");
    ck_assert_int_eq(run(), TX_NOT_FOUND);
    ck_assert_uint_eq(execution->results_bytes, 0);
    check_value("a", "a");
    check_value("d", "d");
}
END_TEST

START_TEST(test_add)
{
    state(_i);
    draft_amount(&draft, "amount", -4);
    draft_amount(&draft, "fresh", 0);
    ck_assert_int_eq(run(), TX_OK);
    ck_assert_uint_eq(execution->result_count, 2);
    ck_assert_uint_eq(execution->results_bytes, 34);
    ck_assert_int_eq(execution->results[0], RESULT_AMOUNT);
    ck_assert(amount_from_bytes(execution->results + 1) == 6);
    ck_assert(amount_from_bytes(execution->results + 18) == 0);
    check_amount("amount", 6);
    check_amount("fresh", 0); /* an amount of 0 stays an entry */

    struct tx_operation *op = draft_amount(&draft, "amount", -6); /* bounds are inclusive */
    op->has_min = true;
    op = draft_amount(&draft, "amount", 7);
    op->has_max = true;
    op->max = 7;
    ck_assert_int_eq(run(), TX_OK);
    check_amount("amount", 7);

    draft_amount(&draft, "fresh", 5);
    op = draft_amount(&draft, "amount", -8);
    op->has_min = true;
    ck_assert_int_eq(run(), TX_BELOW_MIN);
    ck_assert_uint_eq(execution->failed_op, 1);
    ck_assert_uint_eq(execution->results_bytes, 0);
    check_amount("fresh", 0);
    op = draft_amount(&draft, "amount", 1);
    op->has_max = true;
    op->max = 7;
    ck_assert_int_eq(run(), TX_ABOVE_MAX);
    draft_amount(&draft, "bytes", 1);
    ck_assert_int_eq(run(), TX_TYPE);
    check_value("bytes", "b");
}
END_TEST

START_TEST(test_overflow)
{
    const __int128 largest = (__int128)(((unsigned __int128)1 << 127) - 1), least = -largest - 1;
    draft_amount(&draft, "a", largest);
    draft_amount(&draft, "b", least);
    ck_assert_int_eq(run(), TX_OK);
    if (_i)
        commit(1);
    draft_amount(&draft, "a", 1);
    ck_assert_int_eq(run(), TX_OVERFLOW);
    draft_amount(&draft, "b", -1);
    ck_assert_int_eq(run(), TX_OVERFLOW);
    draft_amount(&draft, "a", least);
    draft_amount(&draft, "b", largest);
    ck_assert_int_eq(run(), TX_OK);
    check_amount("a", -1);
    check_amount("b", -1);
}
END_TEST

START_TEST(test_conditions)
{
    state(_i);
    uint8_t ten[16];
    amount_to_bytes(10, ten);
    draft_value(&draft, TX_EXPECT, "bytes", "b");
    draft_add(&draft, TX_EXPECT, "amount")->value = (struct eng_value){ENG_AMOUNT, ten, sizeof(ten)};
    draft_add(&draft, TX_EXPECT_PRESENT, "bytes");
    draft_add(&draft, TX_EXPECT_ABSENT, "absent");
    ck_assert_int_eq(run(), TX_OK);

    draft_value(&draft, TX_EXPECT, "bytes", "c");
    ck_assert_int_eq(run(), TX_MISMATCH);
    draft_value(&draft, TX_EXPECT, "bytes", "");
    ck_assert_int_eq(run(), TX_MISMATCH);
    draft_value(&draft, TX_EXPECT, "absent", "");
    ck_assert_int_eq(run(), TX_MISMATCH);
    /* the same 16 bytes with the other tag are another value */
    draft_add(&draft, TX_EXPECT, "amount")->value = (struct eng_value){ENG_BYTES, ten, sizeof(ten)};
    ck_assert_int_eq(run(), TX_MISMATCH);
    draft_add(&draft, TX_EXPECT_PRESENT, "absent");
    ck_assert_int_eq(run(), TX_NOT_FOUND);
    draft_add(&draft, TX_EXPECT_ABSENT, "amount");
    ck_assert_int_eq(run(), TX_EXISTS);
}
END_TEST

START_TEST(test_read)
{
    state(_i);
    draft_add(&draft, TX_READ, "bytes");
    draft_value(&draft, TX_PUT, "bytes", "new");
    draft_add(&draft, TX_READ, "bytes");
    draft_add(&draft, TX_READ, "absent");
    draft_add(&draft, TX_READ, "amount");
    ck_assert_int_eq(run(), TX_OK);
    ck_assert_uint_eq(execution->result_count, 4);
    const uint8_t expected[] = {RESULT_BYTES,  1, 0, 0, 0, 'b', RESULT_BYTES, 3, 0, 0, 0, 'n', 'e', 'w', RESULT_ABSENT,
                                RESULT_AMOUNT, 10};
    ck_assert_uint_eq(execution->results_bytes, sizeof(expected) + 15);
    ck_assert_int_eq(memcmp(execution->results, expected, sizeof(expected)), 0);
}
END_TEST

START_TEST(test_results_bound)
{
    /* four results of 5 + 16,379 bytes are 65,536 bytes: exactly the bound; one more byte is too many */
    char *value = malloc(16380 + 1);
    memset(value, 'v', 16380);
    value[16379] = '\0';
    draft_value(&draft, TX_PUT, "v", value);
    ck_assert_int_eq(run(), TX_OK);
    if (_i)
        commit(1);
    for (int i = 0; i < 4; i++)
        draft_add(&draft, TX_READ, "v");
    ck_assert_int_eq(run(), TX_OK);
    ck_assert_uint_eq(execution->results_bytes, RECEIPT_RESULTS_MAX);
    for (int i = 0; i < 4; i++)
        draft_add(&draft, TX_READ, "v");
    draft_value(&draft, TX_PUT, "w", "w");
    draft_add(&draft, TX_READ, "absent");
    ck_assert_int_eq(run(), TX_RESULTS_TOO_LARGE);
    ck_assert_uint_eq(execution->failed_op, 5);
    ck_assert_uint_eq(execution->result_count, 0);
    check_value("w", NULL);
    free(value);
}
END_TEST

START_TEST(test_removed_bound)
{
    /* keys of 1,024 bytes: 16 MiB of them are 16,384 */
    uint8_t key[ENG_KEY_BYTES_MAX];
    memset(key, 'k', sizeof(key));
    for (uint32_t i = 0; i <= EXECUTE_REMOVED_BYTES_MAX / ENG_KEY_BYTES_MAX; i++) {
        for (int byte = 0; byte < 4; byte++)
            key[sizeof(key) - 4 + (size_t)byte] = (uint8_t)(i >> (24 - 8 * byte));
        ck_assert_int_eq(eng_batch_put(batch, key, sizeof(key), (struct eng_value){ENG_BYTES, key, 1}), ENG_OK);
    }
    size_t before = eng_batch_count(batch);
    draft_range(&draft, "k", "l");
    ck_assert_int_eq(run(), TX_TOO_LARGE);
    ck_assert_uint_eq(eng_batch_count(batch), before);
    struct eng_value value;
    ck_assert_int_eq(eng_batch_remove(batch, key, sizeof(key)), ENG_OK);
    draft_range(&draft, "k", "l");
    ck_assert_int_eq(run(), TX_OK);
    key[sizeof(key) - 1]--;
    ck_assert_int_eq(eng_batch_get(batch, key, sizeof(key), &value), ENG_NOT_FOUND);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("execute");
    TCase *tcase = tcase_create("operations");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_writes, 0, 2);
    tcase_add_loop_test(tcase, test_deletes, 0, 2);
    tcase_add_loop_test(tcase, test_delete_range, 0, 2);
    tcase_add_loop_test(tcase, test_add, 0, 2);
    tcase_add_loop_test(tcase, test_overflow, 0, 2);
    tcase_add_loop_test(tcase, test_conditions, 0, 2);
    tcase_add_loop_test(tcase, test_read, 0, 2);
    tcase_add_loop_test(tcase, test_results_bound, 0, 2);
    tcase_add_test(tcase, test_removed_bound);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
