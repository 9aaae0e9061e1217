/*
 * What followers ask and sources answer, in bytes: one encoding of a request, every cut refused; replies that are cut
 * or have any byte changed are refused, or decode to what can be walked.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

START_TEST(requests_have_one_encoding)
{
    struct message_request request = {MESSAGE_BLOCKS, .from = 5, .max_bytes = 6, .wait_ms = 7, .durable = 8}, decoded;
    memset(request.ledger_id, 1, 32);
    memset(request.previous, 2, 32);
    memset(request.node_key, 3, 32);
    uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX + 1] = {0};
    size_t size = message_request_encode(&request, bytes);
    ck_assert_uint_eq(size, MESSAGE_REQUEST_BYTES_MAX);
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_OK);
    ck_assert_mem_eq(&request, &decoded, sizeof request);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *exact = malloc(cut + 1); /* so that a read behind the end is seen */
        memcpy(exact + 1, bytes, cut);
        ck_assert_int_eq(message_request_decode(exact + 1, cut, &decoded), ENG_DAMAGED);
        free(exact);
    }
    ck_assert_int_eq(message_request_decode(bytes, size + 1, &decoded), ENG_DAMAGED);
    request.wait_ms = REPLICATION_WAIT_MS_MAX + 1;
    size = message_request_encode(&request, bytes);
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_INVALID);
    request.wait_ms = 0;
    request.from = 0;
    size = message_request_encode(&request, bytes);
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_INVALID);
    bytes[0] = 2;
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_VERSION);
}
END_TEST

/* Every cut and every changed byte of three replies: refused, or decoded to what can be walked. */
START_TEST(replies_are_checked_to_the_byte)
{
    uint8_t blocks[64], gen[32], error[MESSAGE_ERROR_BYTES_MAX], id[32] = {4};
    message_blocks_head(9, 2, blocks);
    message_put_size(3, blocks + MESSAGE_BLOCKS_HEAD_BYTES);
    memcpy(blocks + MESSAGE_BLOCKS_HEAD_BYTES + 4, "abc", 3);
    message_put_size(0, blocks + MESSAGE_BLOCKS_HEAD_BYTES + 7);
    message_genesis_head(4, gen);
    memcpy(gen + MESSAGE_GENESIS_HEAD_BYTES, "json", 4);
    size_t error_size = message_error_encode(MESSAGE_GONE, 44, id, "why\nnot", error);
    struct {
        uint8_t *bytes;
        size_t size;
    } all[] = {{blocks, MESSAGE_BLOCKS_HEAD_BYTES + 11}, {gen, MESSAGE_GENESIS_HEAD_BYTES + 4}, {error, error_size}};
    struct message_reply reply;
    ck_assert_int_eq(message_reply_decode(error, error_size, &reply), ENG_OK);
    ck_assert_str_eq(reply.text, "why?not"); /* nothing that a terminal would obey */
    ck_assert_uint_eq(reply.first, 44);
    ck_assert_mem_eq(reply.ledger_id, id, 32);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(message_reply_decode(all[i].bytes, all[i].size, &reply), ENG_OK);
        for (size_t cut = 0; cut < all[i].size; cut++) {
            uint8_t *exact = malloc(cut + 1);
            memcpy(exact + 1, all[i].bytes, cut);
            ck_assert_int_eq(message_reply_decode(exact + 1, cut, &reply), ENG_DAMAGED);
            free(exact);
        }
        for (size_t at = 0; at < all[i].size * 255; at++) {
            uint8_t *changed = malloc(all[i].size);
            memcpy(changed, all[i].bytes, all[i].size);
            changed[at / 255] ^= (uint8_t)(at % 255 + 1);
            if (message_reply_decode(changed, all[i].size, &reply) == ENG_OK && reply.kind == MESSAGE_BLOCKS) {
                const uint8_t *block;
                uint32_t bytes, count = 0;
                for (size_t walk = 0; message_reply_next(&reply, &walk, &block, &bytes); count++)
                    ck_assert(block + bytes <= changed + all[i].size);
                ck_assert_uint_eq(count, reply.count);
            }
            free(changed);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("message");
    TCase *tests = tcase_create("message");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, requests_have_one_encoding);
    tcase_add_test(tests, replies_are_checked_to_the_byte);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
