/*
 * The codec of the IPC protocol: what is written is read back; whatever is cut short, too long or out of range is
 * refused, without reading outside of the message (run under ASan: every message is in a block of its exact size).
 */
#include "protocol.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* A copy without a byte to spare, so that a read behind the end is found. */
static uint8_t *exact(const struct protocol_writer *writer)
{
    uint8_t *bytes = malloc(writer->size ? writer->size : 1);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, writer->bytes, writer->size);
    return bytes;
}

START_TEST(integers_come_back)
{
    struct protocol_writer writer = {0};
    protocol_write_u8(&writer, 0xfe);
    protocol_write_u16(&writer, 0x1234);
    protocol_write_u32(&writer, 0xdeadbeef);
    protocol_write_u64(&writer, UINT64_MAX - 1);
    protocol_write_bytes(&writer, "abc", 3);
    protocol_patch_u32(&writer, 3, 7);
    ck_assert(!writer.failed);
    ck_assert_uint_eq(writer.size, 18);
    ck_assert_uint_eq(writer.bytes[1], 0x34); /* little-endian */
    struct protocol_reader reader = {writer.bytes, writer.bytes + writer.size, false};
    ck_assert_uint_eq(protocol_read_u8(&reader), 0xfe);
    ck_assert_uint_eq(protocol_read_u16(&reader), 0x1234);
    ck_assert_uint_eq(protocol_read_u32(&reader), 7);
    ck_assert_uint_eq(protocol_read_u64(&reader), UINT64_MAX - 1);
    ck_assert(!protocol_read_end(&reader));
    ck_assert_mem_eq(protocol_read_bytes(&reader, 3), "abc", 3);
    ck_assert(protocol_read_end(&reader));
    ck_assert_uint_eq(protocol_read_u8(&reader), 0);
    ck_assert(!protocol_read_end(&reader));
    free(writer.bytes);
}
END_TEST

START_TEST(a_failed_read_stays_failed)
{
    const uint8_t bytes[4] = {1, 2, 3, 4};
    struct protocol_reader reader = {bytes, bytes + 4, false};
    ck_assert_ptr_null(protocol_read_bytes(&reader, SIZE_MAX));
    ck_assert(reader.failed);
    ck_assert_uint_eq(protocol_read_u8(&reader), 0);
    ck_assert(!protocol_read_end(&reader));
}
END_TEST

START_TEST(request_head)
{
    struct protocol_writer writer = {0};
    for (int verb = VERB_SUBMIT; verb < VERB_END; verb++) {
        protocol_request_begin(&writer, (enum protocol_verb)verb);
        enum protocol_verb read;
        struct protocol_reader body;
        ck_assert_int_eq(protocol_request_open(writer.bytes, writer.size, &read, &body), ENG_OK);
        ck_assert_int_eq(read, verb);
        ck_assert(protocol_read_end(&body));
        ck_assert_str_ne(protocol_verb_name(read), "?");
        for (size_t size = 0; size < writer.size; size++)
            ck_assert_int_eq(protocol_request_open(writer.bytes, size, &read, &body), ENG_INVALID);
        writer.bytes[0]++;
        ck_assert_int_eq(protocol_request_open(writer.bytes, writer.size, &read, &body), ENG_VERSION);
        writer.bytes[0]--;
        writer.bytes[2] = verb == VERB_SUBMIT ? 0 : VERB_END;
        ck_assert_int_eq(protocol_request_open(writer.bytes, writer.size, &read, &body), ENG_INVALID);
    }
    free(writer.bytes);
}
END_TEST

/* Every flag combination, every truncation, one byte too many. */
START_TEST(ranges)
{
    for (int scan = 0; scan < 2; scan++)
        for (unsigned flags = 0; flags < 8; flags++) {
            struct protocol_range range = {77, (uint8_t)flags, (const uint8_t *)"from", (const uint8_t *)"to", 4, 2, 9};
            if (!scan && (flags & PROTOCOL_REVERSE))
                continue;
            struct protocol_writer writer = {0};
            protocol_write_range(&writer, &range, scan);
            uint8_t *bytes = exact(&writer);
            struct protocol_reader reader = {bytes, bytes + writer.size, false};
            struct protocol_range read;
            ck_assert_int_eq(protocol_read_range(&reader, scan, &read), ENG_OK);
            ck_assert_uint_eq(read.height, 77);
            ck_assert_uint_eq(read.flags, flags);
            ck_assert_uint_eq(read.from_bytes, flags & PROTOCOL_HAS_FROM ? 4 : 0);
            ck_assert_uint_eq(read.to_bytes, flags & PROTOCOL_HAS_TO ? 2 : 0);
            ck_assert_uint_eq(read.limit, scan ? 9 : 0);
            if (flags & PROTOCOL_HAS_FROM)
                ck_assert_mem_eq(read.from, "from", 4);
            free(bytes);
            for (size_t size = 0; size < writer.size; size++) {
                uint8_t *cut = malloc(size ? size : 1);
                ck_assert_ptr_nonnull(cut);
                memcpy(cut, writer.bytes, size);
                reader = (struct protocol_reader){cut, cut + size, false};
                ck_assert_int_eq(protocol_read_range(&reader, scan, &read), ENG_INVALID);
                free(cut);
            }
            protocol_write_u8(&writer, 0);
            reader = (struct protocol_reader){writer.bytes, writer.bytes + writer.size, false};
            ck_assert_int_eq(protocol_read_range(&reader, scan, &read), ENG_INVALID);
            free(writer.bytes);
        }
}
END_TEST

START_TEST(ranges_out_of_bounds)
{
    static const uint8_t key[ENG_KEY_BYTES_MAX + 1];
    struct protocol_range range = {1, PROTOCOL_HAS_FROM, key, NULL, ENG_KEY_BYTES_MAX, 0, 0}, read;
    struct protocol_writer writer = {0};
    protocol_write_range(&writer, &range, true);
    struct protocol_reader reader = {writer.bytes, writer.bytes + writer.size, false};
    ck_assert_int_eq(protocol_read_range(&reader, true, &read), ENG_OK);
    writer.size = 0;
    range.from_bytes = ENG_KEY_BYTES_MAX + 1;
    protocol_write_range(&writer, &range, true);
    reader = (struct protocol_reader){writer.bytes, writer.bytes + writer.size, false};
    ck_assert_int_eq(protocol_read_range(&reader, true, &read), ENG_INVALID);
    writer.size = 0;
    range.from_bytes = 0; /* announced and empty */
    protocol_write_range(&writer, &range, true);
    reader = (struct protocol_reader){writer.bytes, writer.bytes + writer.size, false};
    ck_assert_int_eq(protocol_read_range(&reader, true, &read), ENG_INVALID);
    writer.size = 0;
    range.flags = 8;
    protocol_write_range(&writer, &range, true);
    reader = (struct protocol_reader){writer.bytes, writer.bytes + writer.size, false};
    ck_assert_int_eq(protocol_read_range(&reader, true, &read), ENG_INVALID);
    free(writer.bytes);
}
END_TEST

START_TEST(diffs)
{
    for (int after = 0; after < 2; after++) {
        struct protocol_diff diff = {3, 9, (const uint8_t *)"pre", (const uint8_t *)"prefix", 3, 6, after}, read;
        struct protocol_writer writer = {0};
        protocol_write_diff(&writer, &diff);
        uint8_t *bytes = exact(&writer);
        struct protocol_reader reader = {bytes, bytes + writer.size, false};
        ck_assert_int_eq(protocol_read_diff(&reader, &read), ENG_OK);
        ck_assert(read.a == 3 && read.b == 9 && read.prefix_bytes == 3 && read.has_after == after);
        ck_assert_uint_eq(read.after_bytes, after ? 6 : 0);
        for (size_t size = 0; size < writer.size; size++) {
            reader = (struct protocol_reader){bytes, bytes + size, false};
            ck_assert_int_eq(protocol_read_diff(&reader, &read), ENG_INVALID);
        }
        free(bytes);
        free(writer.bytes);
    }
}
END_TEST

START_TEST(errors_carry_status_and_line)
{
    struct protocol_writer writer = {0};
    struct protocol_reader body;
    char longest[2000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    for (int status = ENG_OK + 1; status <= ENG_LOCKED; status++) {
        protocol_reply_begin(&writer);
        protocol_write_u64(&writer, 1); /* what was begun is dropped */
        protocol_reply_error(&writer, (enum eng_status)status, "what: why");
        ck_assert_int_eq(protocol_reply_open(writer.bytes, writer.size, &body), status);
        ck_assert_str_eq(eng_error(), "what: why");
        for (size_t size = 0; size < writer.size; size++)
            ck_assert_int_eq(protocol_reply_open(writer.bytes, size, &body), ENG_DAMAGED);
    }
    protocol_reply_error(&writer, ENG_BUSY, longest);
    ck_assert_int_eq(protocol_reply_open(writer.bytes, writer.size, &body), ENG_BUSY);
    ck_assert_uint_eq(strlen(eng_error()), PROTOCOL_TEXT_MAX);
    protocol_reply_error(&writer, ENG_BUSY, "");
    ck_assert_int_eq(protocol_reply_open(writer.bytes, writer.size, &body), ENG_BUSY);
    ck_assert_str_eq(eng_error(), eng_status_text(ENG_BUSY));
    writer.bytes[2] = ENG_LOCKED + 1;
    ck_assert_int_eq(protocol_reply_open(writer.bytes, writer.size, &body), ENG_DAMAGED);
    protocol_reply_begin(&writer);
    writer.bytes[0] = 9;
    ck_assert_int_eq(protocol_reply_open(writer.bytes, writer.size, &body), ENG_VERSION);
    free(writer.bytes);
}
END_TEST

START_TEST(entries)
{
    uint8_t key[ENG_KEY_BYTES_MAX], value[3000];
    unsigned seed = 12345;
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)rand_r(&seed);
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (uint8_t)rand_r(&seed);
    for (int round = 0; round < 500; round++) {
        size_t key_bytes = 1 + (size_t)rand_r(&seed) % sizeof key;
        bool amount = rand_r(&seed) % 2;
        struct eng_value given = {amount ? ENG_AMOUNT : ENG_BYTES, value,
                                  amount ? 16 : (size_t)rand_r(&seed) % sizeof value};
        struct protocol_writer writer = {0};
        protocol_write_entry(&writer, key, key_bytes, &given);
        ck_assert_uint_eq(writer.size, protocol_entry_size(key_bytes, given.size));
        uint8_t *bytes = exact(&writer);
        struct protocol_reader reader = {bytes, bytes + writer.size, false};
        struct protocol_entry entry;
        ck_assert(protocol_read_entry(&reader, &entry));
        ck_assert(protocol_read_end(&reader));
        ck_assert(entry.key_bytes == key_bytes && memcmp(entry.key, key, key_bytes) == 0);
        ck_assert(entry.value.tag == given.tag && entry.value.size == given.size);
        ck_assert(memcmp(entry.value.bytes, value, given.size) == 0);
        size_t cut = (size_t)rand_r(&seed) % writer.size;
        reader = (struct protocol_reader){bytes, bytes + cut, false};
        ck_assert(!protocol_read_entry(&reader, &entry));
        free(bytes);
        free(writer.bytes);
    }
}
END_TEST

START_TEST(malformed_entries)
{
    static const uint8_t no_key[] = {0, 0, 0, 0, 0, 0, 0}, bad_tag[] = {1, 0, 'k', 7, 0, 0, 0, 0},
                         short_amount[] = {1, 0, 'k', ENG_AMOUNT, 2, 0, 0, 0, 1, 2};
    struct protocol_entry entry;
    struct protocol_reader reader = {no_key, no_key + sizeof no_key, false};
    ck_assert(!protocol_read_entry(&reader, &entry));
    reader = (struct protocol_reader){bad_tag, bad_tag + sizeof bad_tag, false};
    ck_assert(!protocol_read_entry(&reader, &entry));
    reader = (struct protocol_reader){short_amount, short_amount + sizeof short_amount, false};
    ck_assert(!protocol_read_entry(&reader, &entry));
}
END_TEST

START_TEST(import_results)
{
    struct import_result result = {.status = ENG_CONFLICT,
                                   .skipped = true,
                                   .height = 5,
                                   .transactions = 6,
                                   .failed = 7,
                                   .failed_tx = 8,
                                   .failed_op = 9,
                                   .code = TX_BELOW_MIN,
                                   .text = "block 5: it failed"};
    struct protocol_writer writer = {0};
    protocol_write_import_result(&writer, &result);
    uint8_t *bytes = exact(&writer);
    struct protocol_reader reader = {bytes, bytes + writer.size, false};
    struct import_result read;
    ck_assert(protocol_read_import_result(&reader, &read));
    ck_assert(protocol_read_end(&reader));
    ck_assert_int_eq(read.status, ENG_CONFLICT);
    ck_assert(read.skipped && read.height == 5 && read.transactions == 6 && read.failed == 7);
    ck_assert(read.failed_tx == 8 && read.failed_op == 9 && read.code == TX_BELOW_MIN);
    ck_assert_str_eq(read.text, result.text);
    for (size_t size = 0; size < writer.size; size++) {
        reader = (struct protocol_reader){bytes, bytes + size, false};
        ck_assert(!protocol_read_import_result(&reader, &read));
    }
    for (int at = 0; at < 3; at++) { /* status, skipped, code out of range */
        uint8_t before = bytes[at];
        bytes[at] = 0xff;
        reader = (struct protocol_reader){bytes, bytes + writer.size, false};
        ck_assert(!protocol_read_import_result(&reader, &read));
        bytes[at] = before;
    }
    free(bytes);
    free(writer.bytes);
}
END_TEST

START_TEST(addresses)
{
    char url[200] = "ipc://";
    ck_assert_int_eq(protocol_check_url("ipc:///run/pando.ipc"), ENG_OK);
    ck_assert_int_eq(protocol_check_url("tcp://127.0.0.1:7450"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_link("tcp://127.0.0.1:7450"), ENG_OK);
    ck_assert_int_eq(protocol_check_link("tcp://[::1]:7450"), ENG_OK);
    ck_assert_int_eq(protocol_check_link("ipc:///run/pando.ipc"), ENG_OK);
    ck_assert_int_eq(protocol_check_link("tcp://127.0.0.1"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_link("tcp://127.0.0.1:"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_link("tcp://127.0.0.1:x"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_link("127.0.0.1:7450"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_url("ipc://"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_url("/run/pando.ipc"), ENG_INVALID);
    ck_assert_int_eq(protocol_check_url(""), ENG_INVALID);
    memset(url + 6, 'p', 107);
    ck_assert_int_eq(protocol_check_url(url), ENG_OK);
    url[6 + 107] = 'p';
    ck_assert_int_eq(protocol_check_url(url), ENG_INVALID);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("protocol");
    TCase *tests = tcase_create("codec");
    tcase_add_test(tests, integers_come_back);
    tcase_add_test(tests, a_failed_read_stays_failed);
    tcase_add_test(tests, request_head);
    tcase_add_test(tests, ranges);
    tcase_add_test(tests, ranges_out_of_bounds);
    tcase_add_test(tests, diffs);
    tcase_add_test(tests, errors_carry_status_and_line);
    tcase_add_test(tests, entries);
    tcase_add_test(tests, malformed_entries);
    tcase_add_test(tests, import_results);
    tcase_add_test(tests, addresses);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
