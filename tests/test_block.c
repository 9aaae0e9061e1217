/*
 * Blocks: made from JSON against INTERFACE and decoded again, every truncation, the bounds, and that each refusal names
 * transaction, operation and field.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "pando/header.h"

#include "codec_input.h"
#include "transaction.h"

static void block_of(const char *text, uint8_t **bytes, size_t *size)
{
    json_t *json = parse(text);
    enum eng_status status = block_from_json(json, bytes, size);
    ck_assert_msg(status == ENG_OK, "%s: %s", text, eng_error());
    json_decref(json);
}

START_TEST(blocks)
{
    uint8_t *bytes;
    size_t size;
    struct block block;
    block_of("{\"height\":7,\"note\":\"free t\\u00e9xt\",\"time\":1700000000000,\"txs\":["
             "{\"ops\":[{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}]},"
             "{\"id\":\"000102030405060708090a0b0c0d0e0f\",\"expires\":5,\"ops\":[{\"op\":\"unset\",\"key\":\"b\"}]}]}",
             &bytes, &size);
    ck_assert_int_eq(block_decode(bytes, size, &block), ENG_OK);
    ck_assert_uint_eq(block.height, 7);
    ck_assert_uint_eq(block.time_ms, 1700000000000);
    ck_assert_uint_eq(block.note_bytes, 10);
    ck_assert_mem_eq(block.note, "free t\xc3\xa9xt", 10);
    ck_assert_uint_eq(block.transaction_count, 2);
    struct transaction tx;
    ck_assert_int_eq(transaction_decode(block.transactions[0].bytes, block.transactions[0].size, &tx), ENG_OK);
    ck_assert(sodium_is_zero(tx.id, TX_ID_BYTES));
    ck_assert_uint_eq(tx.expires_ms, 0);
    transaction_release(&tx);
    ck_assert_int_eq(transaction_decode(block.transactions[1].bytes, block.transactions[1].size, &tx), ENG_OK);
    ck_assert_uint_eq(tx.id[15], 15);
    ck_assert_uint_eq(tx.expires_ms, 5);
    transaction_release(&tx);
    block_release(&block);
    for (size_t n = 0; n < size; n++) {
        uint8_t *part = exact_copy(bytes, n);
        ck_assert_int_eq(block_decode(part, n, &block), ENG_INVALID);
        ck_assert_ptr_null(block.transactions);
        free(part);
    }
    bytes = realloc(bytes, size + 1);
    bytes[size] = 0;
    ck_assert_int_eq(block_decode(bytes, size + 1, &block), ENG_INVALID);
    bytes[19] = 0xff;
    ck_assert_int_eq(block_decode(bytes, size, &block), ENG_INVALID);
    ck_assert_str_eq(eng_error(), "block: the note is not UTF-8");
    free(bytes);

    block_of("{\"height\":1,\"ops\":[{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}]}", &bytes, &size);
    ck_assert_int_eq(block_decode(bytes, size, &block), ENG_OK);
    ck_assert_uint_eq(block.transaction_count, 1);
    ck_assert_uint_eq(block.time_ms, 0);
    ck_assert_uint_eq(block.note_bytes, 0);
    block_release(&block);
    memset(bytes + 1, 0, 8);
    ck_assert_int_eq(block_decode(bytes, size, &block), ENG_INVALID);
    free(bytes);

    block_of("{\"height\":1,\"txs\":[]}", &bytes, &size);
    ck_assert_int_eq(block_decode(bytes, size, &block), ENG_OK);
    ck_assert_uint_eq(block.transaction_count, 0);
    block_release(&block);
    uint32_t count = BLOCK_TRANSACTIONS_MAX + 1;
    memcpy(bytes + 19, &count, sizeof count);
    ck_assert_int_eq(block_decode(bytes, size, &block), ENG_TOO_LARGE);
    free(bytes);
}
END_TEST

static const struct {
    const char *json, *line;
} refused_blocks[] = {
    {"[]", "block: is not an object"},
    {"{\"height\":1}", "block: needs txs or ops, one of them"},
    {"{\"height\":1,\"txs\":[],\"ops\":[]}", "block: needs txs or ops, one of them"},
    {"{\"height\":1,\"txs\":{}}", "block: txs is not a list"},
    {"{\"txs\":[]}", "block: height is not an integer from 1"},
    {"{\"height\":0,\"txs\":[]}", "block: height is not an integer from 1"},
    {"{\"height\":\"1\",\"txs\":[]}", "block: height is not an integer from 1"},
    {"{\"height\":1,\"time\":-1,\"txs\":[]}", "block: time is not an integer of milliseconds from 0"},
    {"{\"height\":1,\"note\":5,\"txs\":[]}", "block: note is not a string"},
    {"{\"height\":1,\"hash\":5,\"txs\":[]}", "block: hash is not a field of a block"},
    {"{\"height\":1,\"ops\":[]}", "transaction 0: transaction: has no operations"},
    {"{\"height\":1,\"txs\":[{\"ops\":[{\"op\":\"read\",\"key\":\"a\"}]},{\"ops\":[{\"op\":\"add\",\"key\":\"a\"}]}]}",
     "transaction 1: operation 0: add: amount is missing"},
    {"{\"height\":1,\"txs\":[{\"id\":\"00000000000000000000000000000000\",\"ops\":[{\"op\":\"read\",\"key\":\"a\"}]}]}",
     "transaction 0: transaction: an id of zeros stands for none in a block: leave it out"},
};

START_TEST(block_refusals)
{
    json_t *json = parse(refused_blocks[_i].json);
    uint8_t *bytes;
    size_t size;
    ck_assert_int_eq(block_from_json(json, &bytes, &size), ENG_INVALID);
    ck_assert_str_eq(eng_error(), refused_blocks[_i].line);
    ck_assert_ptr_null(bytes);
    json_decref(json);
}
END_TEST

START_TEST(block_notes)
{
    char note[HEADER_NOTE_MAX + 1];
    memset(note, 'n', sizeof note);
    for (size_t length = HEADER_NOTE_MAX; length <= HEADER_NOTE_MAX + 1; length++) {
        json_t *json = json_pack("{sisos[]}", "height", 1, "note", json_stringn(note, length), "txs");
        uint8_t *bytes;
        size_t size;
        enum eng_status expected = length == HEADER_NOTE_MAX ? ENG_OK : ENG_TOO_LARGE;
        ck_assert_int_eq(block_from_json(json, &bytes, &size), expected);
        struct block block;
        if (expected == ENG_OK) {
            ck_assert_int_eq(block_decode(bytes, size, &block), ENG_OK);
            ck_assert_uint_eq(block.note_bytes, length);
            block_release(&block);
        }
        free(bytes);
        json_decref(json);
    }
}
END_TEST

int main(void)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    Suite *suite = suite_create("block");
    TCase *cases = tcase_create("block");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, blocks);
    tcase_add_loop_test(cases, block_refusals, 0, sizeof refused_blocks / sizeof *refused_blocks);
    tcase_add_test(cases, block_notes);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
