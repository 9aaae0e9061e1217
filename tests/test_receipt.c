/*
 * Receipts: round trips on random data, every bound, every truncation, and that there is one encoding only (a flipped
 * byte decodes to something else or not at all). Then the JSON form of INTERFACE.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "codec_input.h"
#include "receipt.h"

static size_t random_results(uint8_t *bytes, uint16_t count)
{
    size_t at = 0;
    for (uint16_t i = 0; i < count; i++) {
        bytes[at] = (uint8_t)random_below(4);
        uint32_t length = random_below(20);
        switch ((enum receipt_result)bytes[at++]) {
        case RESULT_ABSENT:
            length = 0;
            break;
        case RESULT_BYTES:
            memcpy(bytes + at, &length, sizeof length);
            at += sizeof length;
            break;
        case RESULT_AMOUNT:
            length = 16;
            break;
        case RESULT_COUNT:
            length = 8;
            break;
        }
        memcpy(bytes + at, pool + random_below(1000), length);
        at += length;
    }
    return at;
}

static void random_receipt(struct receipt *receipt, uint8_t *results)
{
    bool good = random_below(3) > 0;
    *receipt = (struct receipt){.expires_ms = random_next(), .height = random_next(), .index = (uint32_t)random_next()};
    randombytes_buf(receipt->id, sizeof receipt->id);
    receipt->code = good ? TX_OK : (enum tx_code)(1 + random_below(TX_RESULTS_TOO_LARGE));
    receipt->failed_op = good ? RECEIPT_NO_OPERATION : random_below(TX_OPERATIONS_MAX);
    receipt->result_count = good ? (uint16_t)random_below(10) : 0;
    receipt->results = results;
    receipt->results_bytes = random_results(results, receipt->result_count);
}

START_TEST(receipts_round_trip)
{
    uint8_t results[1024];
    for (int round = 0; round < 300; round++) {
        struct receipt receipt, decoded;
        random_receipt(&receipt, results);
        size_t size = receipt_size(&receipt), used;
        uint8_t *bytes = malloc(size + 100), *again = malloc(size);
        memset(bytes + size, 0xee, 100); /* what stands behind is not its own */
        receipt_encode(&receipt, bytes);
        ck_assert_int_eq(receipt_decode(bytes, size + 100, &decoded, &used), ENG_OK);
        ck_assert_uint_eq(used, size);
        ck_assert_mem_eq(decoded.id, receipt.id, TX_ID_BYTES);
        ck_assert(decoded.expires_ms == receipt.expires_ms && decoded.height == receipt.height &&
                  decoded.index == receipt.index && decoded.code == receipt.code &&
                  decoded.failed_op == receipt.failed_op && decoded.result_count == receipt.result_count &&
                  decoded.results_bytes == receipt.results_bytes);
        receipt_encode(&decoded, again);
        ck_assert_mem_eq(again, bytes, size);
        for (size_t n = 0; n < size; n++) {
            uint8_t *part = exact_copy(bytes, n);
            ck_assert_int_eq(receipt_decode(part, n, &decoded, &used), ENG_DAMAGED);
            free(part);
        }
        for (size_t at = 0; at < size; at++) {
            uint8_t before = bytes[at];
            bytes[at] ^= (uint8_t)(1 + random_below(255));
            if (receipt_decode(bytes, size, &decoded, &used) == ENG_OK) {
                ck_assert_uint_le(used, size);
                receipt_encode(&decoded, again);
                ck_assert_mem_eq(again, bytes, used);
            }
            bytes[at] = before;
        }
        free(bytes);
        free(again);
    }
}
END_TEST

START_TEST(receipt_bounds)
{
    uint8_t bytes[64], *results = calloc(1, RECEIPT_RESULTS_MAX + 1);
    struct receipt receipt = {.failed_op = 3, .code = TX_EXISTS}, decoded;
    size_t used;
    receipt_encode(&receipt, bytes);
    ck_assert_int_eq(receipt_decode(bytes, 44, &decoded, &used), ENG_OK);
    bytes[0] = 2;
    ck_assert_int_eq(receipt_decode(bytes, 44, &decoded, &used), ENG_DAMAGED);
    bytes[0] = 1;
    bytes[37] = TX_NOT_LEADER + 1;
    ck_assert_int_eq(receipt_decode(bytes, 44, &decoded, &used), ENG_DAMAGED);
    bytes[37] = TX_OK; /* good, and names a failed operation */
    ck_assert_int_eq(receipt_decode(bytes, 44, &decoded, &used), ENG_DAMAGED);
    bytes[37] = TX_EXISTS;
    bytes[42] = 1; /* failed, and has a result */
    bytes[44] = RESULT_ABSENT;
    ck_assert_int_eq(receipt_decode(bytes, 45, &decoded, &used), ENG_DAMAGED);
    bytes[42] = 0;
    bytes[39] = 0x10; /* operation 4099 */
    ck_assert_int_eq(receipt_decode(bytes, 44, &decoded, &used), ENG_DAMAGED);

    /* the most results, and one byte more */
    uint32_t length = RECEIPT_RESULTS_MAX - 5;
    results[0] = RESULT_BYTES;
    memcpy(results + 1, &length, sizeof length);
    receipt = (struct receipt){
        .failed_op = RECEIPT_NO_OPERATION, .result_count = 1, .results = results, .results_bytes = RECEIPT_RESULTS_MAX};
    uint8_t *large = malloc(receipt_size(&receipt) + 1);
    receipt_encode(&receipt, large);
    ck_assert_int_eq(receipt_decode(large, receipt_size(&receipt), &decoded, &used), ENG_OK);
    length++;
    memcpy(large + 45, &length, sizeof length);
    large[receipt_size(&receipt)] = 0;
    ck_assert_int_eq(receipt_decode(large, receipt_size(&receipt) + 1, &decoded, &used), ENG_DAMAGED);
    free(large);
    free(results);
}
END_TEST

START_TEST(receipts_as_json)
{
    static const uint8_t results[] = "\x00" /* absent */
                                     "\x01\x03\x00\x00\x00"
                                     "abc" /* text */
                                     "\x01\x02\x00\x00\x00"
                                     "\xff\x00" /* bytes */
                                     "\x01\x02\x00\x00\x00"
                                     "a\n" /* not printable */
                                     "\x01\x02\x00\x00\x00"
                                     "\xc2\x85" /* nor that */
                                     "\x02\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" /* -2 */
                                     "\x03\x05\x00\x00\x00\x00\x00\x00\x00";                                /* 5 */
    struct receipt receipt = {.id = {0xab},
                              .height = 7,
                              .index = 2,
                              .failed_op = RECEIPT_NO_OPERATION,
                              .result_count = 7,
                              .results = results,
                              .results_bytes = sizeof results - 1};
    json_t *json = receipt_to_json(&receipt);
    char *text = json_dumps(json, JSON_COMPACT);
    ck_assert_str_eq(text, "{\"id\":\"ab000000000000000000000000000000\",\"height\":7,\"index\":2,\"ok\":true,"
                           "\"code\":\"OK\",\"results\":[null,\"abc\",\"0xff00\",\"0x610a\",\"0xc285\",\"-2\",5]}");
    free(text);
    json_decref(json);
    receipt = (struct receipt){.height = 7, .failed_op = 1, .code = TX_BELOW_MIN};
    json = receipt_to_json(&receipt);
    text = json_dumps(json, JSON_COMPACT);
    ck_assert_str_eq(text, "{\"id\":\"00000000000000000000000000000000\",\"height\":7,\"index\":0,\"ok\":false,"
                           "\"code\":\"BELOW_MIN\",\"failed_op\":1,\"results\":[]}");
    free(text);
    json_decref(json);
}
END_TEST

int main(void)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    pool_fill();
    Suite *suite = suite_create("receipt");
    TCase *cases = tcase_create("receipt");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, receipts_round_trip);
    tcase_add_test(cases, receipt_bounds);
    tcase_add_test(cases, receipts_as_json);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
