/*
 * Imported blocks on a stepped ledger: heights, times, blocks that are there already; a transaction that fails, with
 * and without going on; the ids that are derived.
 */
#include <check.h>

#include "leader_fixture.h"

static struct import_result import_at(uint64_t height, uint64_t time_ms, const char *note, bool keep_going,
                                      struct draft *drafts, size_t count)
{
    struct import_result result;
    size_t size;
    memset(&result, 0xff, sizeof(result));
    uint8_t *bytes = fixture_block(height, time_ms, note, drafts, count, &size);
    ck_assert_int_eq(ledger_import(f.ledger, bytes, size, keep_going, 0, import_keep, &result), ENG_OK);
    free(bytes);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    return result;
}

static struct import_result import_put(uint64_t height, uint64_t time_ms, const char *note, const char *value)
{
    draft_begin(&draft, 0, 0);
    draft_value(&draft, TX_PUT, "k", value);
    return import_at(height, time_ms, note, false, &draft, 1);
}

START_TEST(test_import)
{
    struct header header, again;
    struct import_result result = import_put(1, 1000, "a note", "one"); /* long before the clock */
    ck_assert_msg(result.status == ENG_OK, "%s", result.text);
    ck_assert(!result.skipped);
    ck_assert_uint_eq(result.height, 1);
    ck_assert_uint_eq(result.transactions, 1);
    read_header(f.ledger, 1, &header);
    ck_assert_uint_eq(header.time_ms, 1000);
    ck_assert_uint_eq(header.note_bytes, 6);
    ck_assert(holds("k", "one"));
    ck_assert_int_eq(import_put(2, 1000, "", "two").status, ENG_OK);
    ck_assert_int_eq(import_put(4, 0, "", "four").status, ENG_INVALID);
    ck_assert_int_eq(import_put(3, 999, "", "back").status, ENG_INVALID);

    result = import_put(1, 0, "a note", "one");
    ck_assert_int_eq(result.status, ENG_OK);
    ck_assert(result.skipped);
    ck_assert(import_put(1, 1000, "a note", "one").skipped);
    ck_assert_int_eq(import_put(1, 1001, "a note", "one").status, ENG_EXISTS);
    ck_assert_int_eq(import_put(1, 0, "another", "one").status, ENG_EXISTS);
    ck_assert_int_eq(import_put(1, 0, "a note", "else").status, ENG_EXISTS);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 2);

    ck_assert_int_eq(import_put(3, 0, "", "now").status, ENG_OK);
    read_header(f.ledger, 3, &again);
    ck_assert_uint_eq(again.time_ms, FIXTURE_TIME_MS);
    draft_begin(&draft, 0, 0);
    result = import_at(4, 0, "no transaction", false, &draft, 0);
    ck_assert_msg(result.status == ENG_OK, "%s", result.text);
    put(9, "k", "submitted after");
    reopen(0);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 5);
    read_header(f.ledger, 1, &again);
    ck_assert_int_eq(memcmp(&header, &again, sizeof(header)), 0);
    ck_assert(holds("k", "submitted after"));

    size_t size;
    struct import_result malformed = {0};
    draft_begin(&draft, 0, 0);
    draft_value(&draft, TX_PUT, "k", "v");
    uint8_t *bytes = fixture_block(6, 0, "", &draft, 1, &size);
    ck_assert_int_eq(ledger_import(f.ledger, bytes, size - 1, false, 0, import_keep, &malformed), ENG_OK);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(malformed.status, ENG_INVALID);
    ck_assert(malformed.text[0] != '\0');
    free(bytes);
}
END_TEST

START_TEST(test_import_fails)
{
    struct draft drafts[3];
    struct eng_summary before, after;
    struct ledger_status status;
    put(1, "k", "v");
    ledger_status(f.ledger, &status);
    before = status.state;
    for (int i = 0; i < 3; i++) {
        draft_begin(&drafts[i], 0, 0);
        draft_value(&drafts[i], TX_PUT, i ? "b" : "a", "x");
        if (i == 1)
            draft_value(&drafts[i], TX_INSERT, "k", "y");
    }
    struct import_result result = import_at(2, 0, "", false, drafts, 3);
    ck_assert_int_eq(result.status, ENG_CONFLICT);
    ck_assert_uint_eq(result.failed_tx, 1);
    ck_assert_uint_eq(result.failed_op, 1);
    ck_assert_int_eq(result.code, TX_EXISTS);
    ck_assert_ptr_nonnull(strstr(result.text, "block 2, transaction 1, operation 1: EXISTS"));
    ledger_status(f.ledger, &status);
    after = status.state;
    ck_assert_uint_eq(status.height, 1);
    ck_assert_int_eq(memcmp(&before, &after, sizeof(before)), 0);
    ck_assert_uint_eq(status.remembered_ids, 1); /* nothing of the block is remembered */
    ck_assert_int_eq(import_put(3, 0, "", "gap").status, ENG_INVALID);

    result = import_at(2, 0, "", true, drafts, 3); /* keep going: recorded as failed */
    ck_assert_int_eq(result.status, ENG_OK);
    ck_assert_uint_eq(result.transactions, 3);
    ck_assert_uint_eq(result.failed, 1);
    ck_assert(holds("a", "x"));
    ck_assert(holds("k", "v"));
    ledger_status(f.ledger, &status);
    before = status.state;
    reopen(0);
    ledger_status(f.ledger, &status);
    ck_assert_uint_eq(status.height, 2);
    ck_assert_int_eq(memcmp(&before, &status.state, sizeof(before)), 0);

    draft_begin(&drafts[0], 1, soon()); /* the id of the first transaction */
    draft_value(&drafts[0], TX_PUT, "a", "z");
    result = import_at(3, 0, "", true, drafts, 1);
    ck_assert_int_eq(result.status, ENG_CONFLICT);
    ck_assert_int_eq(result.code, TX_EXISTS);
    draft_begin(&drafts[0], 5, f.now_ms);
    draft_value(&drafts[0], TX_PUT, "a", "z");
    result = import_at(3, 0, "", true, drafts, 1);
    ck_assert_int_eq(result.status, ENG_CONFLICT);
    ck_assert_int_eq(result.code, TX_EXPIRED);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 2);
}
END_TEST

/* Blocks are handed in ahead, and somebody's transaction takes the height of one of them: neither that one nor any
 * behind it is done, though those behind it would fit again. */
START_TEST(test_import_stream)
{
    struct import_result results[7] = {0};
    for (uint64_t height = 1; height <= 6; height++) {
        size_t size;
        char key[16];
        snprintf(key, sizeof(key), "import/%u", (unsigned)height);
        draft_begin(&draft, 0, 0);
        draft_value(&draft, TX_PUT, key, "x");
        uint8_t *bytes = fixture_block(height, 0, "", &draft, 1, &size);
        ck_assert_int_eq(ledger_import(f.ledger, bytes, size, false, 4711, import_keep, &results[height]), ENG_OK);
        free(bytes);
        if (height == 2) {
            ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
            put(9, "other", "y");
        }
    }
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(results[2].status, ENG_OK);
    ck_assert_int_eq(results[3].status, ENG_EXISTS);
    for (int i = 4; i <= 6; i++) {
        ck_assert_int_eq(results[i].status, ENG_INVALID);
        ck_assert_ptr_nonnull(strstr(results[i].text, "not tried"));
    }
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 3);
    ck_assert(holds("other", "y") && holds("import/2", "x") && holds("import/4", NULL));
    ck_assert_int_eq(import_put(4, 0, "", "of another stream").status, ENG_OK);
    ledger_refuse_stream(f.ledger, 4712); /* a block of it could not be handed in */
    size_t size;
    draft_begin(&draft, 0, 0);
    draft_value(&draft, TX_PUT, "k", "v");
    uint8_t *bytes = fixture_block(5, 0, "", &draft, 1, &size);
    ck_assert_int_eq(ledger_import(f.ledger, bytes, size, false, 4712, import_keep, &results[5]), ENG_OK);
    free(bytes);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(results[5].status, ENG_INVALID);
}
END_TEST

/* No time is taken that leaves no room for a window behind it: neither an expiry nor the next block would have any. */
START_TEST(test_import_time_limit)
{
    const uint64_t last = INT64_MAX - FIXTURE_WINDOW_MS;
    const uint64_t over[] = {last + 1, INT64_MAX, UINT64_MAX - FIXTURE_WINDOW_MS, UINT64_MAX - 10, UINT64_MAX};
    struct ledger_status status;
    struct answer answer = {0};
    ck_assert_int_eq(import_put(1, 1000, "", "one").status, ENG_OK);
    for (size_t i = 0; i < sizeof(over) / sizeof(*over); i++) {
        struct import_result result = import_put(2, over[i], "", "two");
        ck_assert_int_eq(result.status, ENG_INVALID);
        ck_assert_ptr_nonnull(strstr(result.text, "block 2: its time"));
        draft_begin(&draft, 7, UINT64_MAX);
        draft_value(&draft, TX_PUT, "k", "two");
        ck_assert_int_eq(import_at(2, over[i], "", false, &draft, 1).status, ENG_INVALID);
        ck_assert_int_eq(import_at(2, over[i], "", false, &draft, 0).status, ENG_INVALID);
    }
    draft_begin(&draft, 7, UINT64_MAX); /* an expiry that no window reaches */
    draft_value(&draft, TX_PUT, "k", "two");
    ck_assert_int_eq(import_at(2, 1001, "", false, &draft, 1).code, TX_MALFORMED);
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_MALFORMED);
    answer_release(&answer);
    ledger_status(f.ledger, &status);
    ck_assert_uint_eq(status.height, 1);
    ck_assert_uint_eq(status.remembered_ids, 1);

    ck_assert_int_eq(import_put(2, last, "", "two").status, ENG_OK);
    draft_begin(&draft, 8, INT64_MAX); /* time stands still from here on, and the window is whole */
    draft_value(&draft, TX_PUT, "k", "three");
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_OK);
    answer_release(&answer);
    ck_assert_int_eq(import_put(4, 0, "", "four").status, ENG_OK);
    reopen(0);
    draft_begin(&draft, 8, INT64_MAX); /* its id is remembered: the receipt of before */
    draft_value(&draft, TX_PUT, "k", "three");
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_OK);
    ck_assert_uint_eq(answer.receipt.height, 3);
    answer_release(&answer);
    ck_assert(holds("k", "four"));
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 4);
}
END_TEST

/* Ids of imported transactions are derived, so that importing the same file elsewhere gives the same receipts. */
START_TEST(test_import_ids)
{
    uint8_t *sealed = NULL, *found;
    size_t capacity = 0, size, used, found_bytes;
    struct sealed_block block;
    struct receipt first, second;
    struct draft drafts[2];
    for (int i = 0; i < 2; i++) { /* the same bytes twice */
        draft_begin(&drafts[i], 0, 0);
        draft_amount(&drafts[i], "sum", 1);
    }
    ck_assert_int_eq(import_at(1, 0, "", false, drafts, 2).status, ENG_OK);
    ck_assert_int_eq(ledger_read_sealed(f.ledger, 1, &sealed, &capacity, &size), ENG_OK);
    ck_assert_int_eq(sealed_block_decode(sealed, size, &block), ENG_OK);
    ck_assert_int_eq(receipt_decode(block.receipts, block.receipts_bytes, &first, &used), ENG_OK);
    ck_assert_int_eq(receipt_decode(block.receipts + used, block.receipts_bytes - used, &second, &used), ENG_OK);
    ck_assert_int_ne(memcmp(first.id, second.id, TX_ID_BYTES), 0);
    ck_assert_uint_eq(first.expires_ms, FIXTURE_TIME_MS + FIXTURE_WINDOW_MS);
    ck_assert_int_eq(ledger_receipt(f.ledger, second.id, &found, &found_bytes), ENG_OK);
    ck_assert_uint_eq(found_bytes, used);
    free(found);
    free(sealed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("import");
    const struct {
        const char *name;
        const TTest *test;
    } tests[] = {
        {"import", test_import},
        {"import fails", test_import_fails},
        {"import ids", test_import_ids},
        {"import stream", test_import_stream},
        {"import time limit", test_import_time_limit},
    };
    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        TCase *tcase = tcase_create(tests[i].name);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_set_timeout(tcase, 120);
        tcase_add_test(tcase, tests[i].test);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
