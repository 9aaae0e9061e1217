/*
 * Headers, sealed blocks, diffs: round trips on random data, signatures that hold for exactly what was signed, every
 * truncation and every bound refused, one encoding only.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "codec_input.h"
#include "pando/header.h"

static void random_bytes(void *to, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)to)[i] = (uint8_t)random_next();
}

static uint8_t public_key[32], secret[64];

static void random_header(struct header *header)
{
    random_bytes(header, sizeof *header);
    static const char *const pieces[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8c\xb3", " "};
    size_t length = 0, target = random_below(4) == 0 ? HEADER_NOTE_MAX : random_below(60);
    for (;;) {
        const char *piece = pieces[random_below(5)];
        if (length + strlen(piece) > target)
            break;
        memcpy(header->note + length, piece, strlen(piece));
        length += strlen(piece);
    }
    header->note_bytes = (uint16_t)length;
}

/* ---- headers ---- */

static void assert_same_header(const struct header *a, const struct header *b)
{
    ck_assert_mem_eq(a->ledger_id, b->ledger_id, 32);
    ck_assert(a->height == b->height && a->time_ms == b->time_ms && a->epoch == b->epoch);
    ck_assert_mem_eq(a->previous, b->previous, 32);
    ck_assert_mem_eq(a->transactions_digest, b->transactions_digest, 32);
    ck_assert_mem_eq(a->receipts_digest, b->receipts_digest, 32);
    ck_assert_mem_eq(&a->state, &b->state, sizeof a->state);
    ck_assert_mem_eq(a->system_root, b->system_root, 32);
    ck_assert(a->transactions == b->transactions && a->note_bytes == b->note_bytes);
    ck_assert(memcmp(a->note, b->note, a->note_bytes) == 0);
    ck_assert_mem_eq(a->signer, b->signer, 32);
    ck_assert_mem_eq(a->signature, b->signature, 64);
}

START_TEST(headers_round_trip)
{
    for (int round = 0; round < 60; round++) {
        struct header header, decoded;
        random_header(&header);
        uint8_t bytes[HEADER_BYTES_MAX], again[HEADER_BYTES_MAX];
        size_t size = header_encode(&header, bytes);
        ck_assert_uint_eq(size, 352u + header.note_bytes);
        ck_assert_int_eq(header_decode(bytes, size, &decoded), ENG_OK);
        assert_same_header(&header, &decoded);
        ck_assert_uint_eq(header_encode(&decoded, again), size);
        ck_assert_mem_eq(again, bytes, size);
        for (size_t n = 0; n < size; n++) {
            uint8_t *part = exact_copy(bytes, n);
            ck_assert_int_eq(header_decode(part, n, &decoded), ENG_DAMAGED);
            free(part);
        }
        ck_assert_int_eq(header_decode(bytes, size + 1, &decoded), ENG_DAMAGED);
    }
}
END_TEST

/* The offsets of the format, so that it cannot change unseen. */
START_TEST(header_layout)
{
    struct header header = {
        .height = 0x0102030405060708, .time_ms = 5, .epoch = 6, .transactions = 7, .note_bytes = 2, .note = "hi"};
    memset(header.ledger_id, 0xa1, 32);
    memset(header.previous, 0xa2, 32);
    memset(header.transactions_digest, 0xa3, 32);
    memset(header.receipts_digest, 0xa4, 32);
    memset(&header.state, 0xa5, 64);
    memset(header.system_root, 0xa6, 32);
    memset(header.signer, 0xa7, 32);
    memset(header.signature, 0xa8, 64);
    uint8_t bytes[HEADER_BYTES_MAX];
    ck_assert_uint_eq(header_encode(&header, bytes), 354);
    ck_assert_mem_eq(bytes, "\x01\x00\xa1", 3);
    ck_assert_mem_eq(bytes + 33, "\xa1\x08\x07\x06\x05\x04\x03\x02\x01\xa2", 10);
    ck_assert_mem_eq(bytes + 73, "\xa2\x05\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\xa3", 18);
    ck_assert_mem_eq(bytes + 121, "\xa3\xa4", 2);
    ck_assert_mem_eq(bytes + 153, "\xa4\xa5", 2);
    ck_assert_mem_eq(bytes + 217, "\xa5\xa6", 2);
    ck_assert_mem_eq(bytes + 249, "\xa6\x07\x00\x00\x00\x02\x00hi\xa7", 10);
    ck_assert_mem_eq(bytes + 289, "\xa7\xa8", 2);
}
END_TEST

START_TEST(signatures)
{
    struct header header, changed;
    random_header(&header);
    header_sign(&header, secret);
    ck_assert_mem_eq(header.signer, public_key, 32);
    ck_assert(header_verify(&header));
    struct header twice = header;
    header_sign(&twice, secret);
    ck_assert_mem_eq(twice.signature, header.signature, 64); /* deterministic */

    /* what is signed, made here by hand */
    uint8_t bytes[HEADER_BYTES_MAX], digest[32], message[15 + 32] = "pando committed";
    size_t size = header_encode(&header, bytes);
    header_hash("pando header", bytes, size - 64, message + 15);
    header_digest(&header, digest);
    ck_assert_mem_eq(digest, message + 15, 32);
    ck_assert_int_eq(crypto_sign_verify_detached(header.signature, message, sizeof message, public_key), 0);

    for (size_t at = 2; at < size; at++) {
        bytes[at] ^= (uint8_t)(1u << random_below(8));
        if (header_decode(bytes, size, &changed) == ENG_OK)
            ck_assert_msg(!header_verify(&changed), "byte %zu is not signed", at);
        size = header_encode(&header, bytes);
    }
    ck_assert_int_eq(header_decode(bytes, size, &changed), ENG_OK);
    ck_assert(header_verify(&changed));
}
END_TEST

START_TEST(hashes)
{
    uint8_t a[32], b[32], personal[16] = "pando txs", salt[16] = {0};
    header_hash("pando txs", "abc", 3, a);
    ck_assert_int_eq(
        crypto_generichash_blake2b_salt_personal(b, 32, (const uint8_t *)"abc", 3, NULL, 0, salt, personal), 0);
    ck_assert_mem_eq(a, b, 32);
    header_hash("pando receipts", "abc", 3, b);
    ck_assert_mem_ne(a, b, 32);
    header_hash("0123456789abcdef", NULL, 0, b);
}
END_TEST

START_TEST(header_bounds)
{
    struct header header, decoded;
    random_header(&header);
    uint8_t bytes[HEADER_BYTES_MAX + 64] = {0};
    memset(header.note, 'n', sizeof header.note);
    header.note_bytes = HEADER_NOTE_MAX;
    size_t size = header_encode(&header, bytes);
    ck_assert_int_eq(header_decode(bytes, size, &decoded), ENG_OK);
    uint16_t longer = HEADER_NOTE_MAX + 1;
    memcpy(bytes + 254, &longer, sizeof longer);
    ck_assert_int_eq(header_decode(bytes, size + 1, &decoded), ENG_DAMAGED);
    header_encode(&header, bytes);
    bytes[0] = 2;
    ck_assert_int_eq(header_decode(bytes, size, &decoded), ENG_DAMAGED);
    bytes[0] = 1;
    bytes[256] = 0xff;
    ck_assert_int_eq(header_decode(bytes, size, &decoded), ENG_DAMAGED);
}
END_TEST

START_TEST(notes)
{
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc3",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe2\x82",
                                      "\xc3(",
                                      "\xe2\x82(",
                                      "a\xff"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(header_note_valid(good[i], strlen(good[i])), "good %zu", i);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!header_note_valid(bad[i], strlen(bad[i])), "bad %zu", i);
    ck_assert(header_note_valid(NULL, 0));
    char note[HEADER_NOTE_MAX + 1] = {0};
    ck_assert(header_note_valid(note, HEADER_NOTE_MAX));
    ck_assert(!header_note_valid(note, HEADER_NOTE_MAX + 1));
}
END_TEST

/* ---- sealed blocks ---- */

START_TEST(sealed_round_trip)
{
    uint8_t contents[400];
    random_bytes(contents, sizeof contents);
    for (int round = 0; round < 100; round++) {
        struct sealed_block
            block = {contents,          contents + 1,         contents + 2,     contents + 3, 1 + random_below(200),
                     random_below(100), random_below(3) * 10, random_below(100)},
            decoded;
        size_t size = sealed_block_size(&block);
        uint8_t *bytes = malloc(size + 1), *again = malloc(size);
        sealed_block_encode(&block, bytes);
        ck_assert_int_eq(sealed_block_decode(bytes, size, &decoded), ENG_OK);
        ck_assert_uint_eq(decoded.header_bytes, block.header_bytes);
        ck_assert_mem_eq(decoded.header, block.header, block.header_bytes);
        ck_assert_uint_eq(decoded.receipts_bytes, block.receipts_bytes);
        ck_assert(memcmp(decoded.receipts, block.receipts, block.receipts_bytes) == 0);
        ck_assert_uint_eq(decoded.transactions_bytes, block.transactions_bytes);
        ck_assert(memcmp(decoded.transactions, block.transactions, block.transactions_bytes) == 0);
        ck_assert_uint_eq(decoded.diff_bytes, block.diff_bytes);
        ck_assert(memcmp(decoded.diff, block.diff, block.diff_bytes) == 0);
        sealed_block_encode(&decoded, again);
        ck_assert_mem_eq(again, bytes, size);
        for (size_t n = 0; n < size; n++) {
            uint8_t *part = exact_copy(bytes, n);
            ck_assert_int_eq(sealed_block_decode(part, n, &decoded), ENG_DAMAGED);
            free(part);
        }
        bytes[size] = 0;
        ck_assert_int_eq(sealed_block_decode(bytes, size + 1, &decoded), ENG_DAMAGED);
        free(bytes);
        free(again);
    }
}
END_TEST

START_TEST(sealed_bounds)
{
    struct sealed_block decoded;
    uint8_t empty[16] = {0};
    ck_assert_int_eq(sealed_block_decode(empty, sizeof empty, &decoded), ENG_DAMAGED); /* no header */
    uint32_t length = HEADER_BYTES_MAX + 1;
    size_t size = 16 + length;
    uint8_t *bytes = calloc(1, size);
    memcpy(bytes, &length, sizeof length);
    ck_assert_int_eq(sealed_block_decode(bytes, size, &decoded), ENG_DAMAGED);
    length--;
    memcpy(bytes, &length, sizeof length);
    ck_assert_int_eq(sealed_block_decode(bytes, size - 1, &decoded), ENG_OK);
    length = UINT32_MAX;
    memcpy(bytes, &length, sizeof length);
    ck_assert_int_eq(sealed_block_decode(bytes, size, &decoded), ENG_DAMAGED);
    free(bytes);
    /* exactly the limit, and one over */
    struct sealed_block block = {.header = empty, .header_bytes = 1, .diff_bytes = SEALED_BYTES_MAX - 17};
    block.diff = calloc(1, block.diff_bytes);
    bytes = malloc(SEALED_BYTES_MAX + 1);
    ck_assert_uint_eq(sealed_block_size(&block), SEALED_BYTES_MAX);
    sealed_block_encode(&block, bytes);
    ck_assert_int_eq(sealed_block_decode(bytes, SEALED_BYTES_MAX, &decoded), ENG_OK);
    block.diff_bytes++;
    memcpy(bytes + 13, &block.diff_bytes, 4);
    bytes[SEALED_BYTES_MAX] = 0;
    ck_assert_int_eq(sealed_block_decode(bytes, SEALED_BYTES_MAX + 1, &decoded), ENG_DAMAGED);
    free((void *)block.diff);
    free(bytes);
}
END_TEST

/* ---- diffs ---- */

#define ENTRIES 50

struct entry {
    uint8_t key[40], value[300];
    size_t key_bytes, value_bytes;
    int kind;
};

struct diff_test {
    struct entry entries[ENTRIES];
    size_t count, seen;
    struct diff_writer writer, copy;
    size_t stop_at;
};

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = memcmp(x->key, y->key, x->key_bytes < y->key_bytes ? x->key_bytes : y->key_bytes);
    return order != 0 ? order : (int)x->key_bytes - (int)y->key_bytes;
}

static void random_diff(struct diff_test *test)
{
    memset(test, 0, sizeof *test);
    test->stop_at = SIZE_MAX;
    size_t count = random_below(ENTRIES);
    for (size_t i = 0; i < count; i++) {
        struct entry *entry = &test->entries[i];
        entry->key_bytes = 1 + random_below(6);
        for (size_t j = 0; j < entry->key_bytes; j++)
            entry->key[j] = (uint8_t)random_below(3); /* many are prefixes of each other */
        entry->kind = (int)random_below(3);
        entry->value_bytes = entry->kind == 2 ? 16 : entry->kind == 1 ? random_below(300) : 0;
        random_bytes(entry->value, entry->value_bytes);
    }
    qsort(test->entries, count, sizeof *test->entries, compare);
    for (size_t i = 0; i < count; i++)
        if (test->count == 0 || compare(&test->entries[test->count - 1], &test->entries[i]) != 0)
            test->entries[test->count++] = test->entries[i];
    for (size_t i = 0; i < test->count; i++) {
        const struct entry *entry = &test->entries[i];
        struct eng_value value = {entry->kind == 2 ? ENG_AMOUNT : ENG_BYTES, entry->value, entry->value_bytes};
        ck_assert_int_eq(diff_write(&test->writer, entry->key, entry->key_bytes, entry->kind == 0 ? NULL : &value),
                         ENG_OK);
    }
}

static enum eng_status check_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct diff_test *test = context;
    if (test->seen == test->stop_at)
        return ENG_CLOSED;
    ck_assert_uint_lt(test->seen, test->count);
    const struct entry *entry = &test->entries[test->seen++];
    ck_assert_uint_eq(key_bytes, entry->key_bytes);
    ck_assert_mem_eq(key, entry->key, key_bytes);
    ck_assert_int_eq(value == NULL, entry->kind == 0);
    if (value != NULL) {
        ck_assert_int_eq(value->tag, entry->kind == 2 ? ENG_AMOUNT : ENG_BYTES);
        ck_assert_uint_eq(value->size, entry->value_bytes);
        ck_assert(memcmp(value->bytes, entry->value, value->size) == 0);
    }
    return ENG_OK;
}

static enum eng_status write_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    return diff_write(context, key, key_bytes, value);
}

static enum eng_status ignore_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    ++*(size_t *)context;
    return ENG_OK;
}

START_TEST(diffs_round_trip)
{
    static struct diff_test test;
    for (int round = 0; round < 60; round++) {
        random_diff(&test);
        struct diff_writer *writer = &test.writer;
        ck_assert_int_eq(diff_read(writer->bytes, writer->size, check_each, &test), ENG_OK);
        ck_assert_uint_eq(test.seen, test.count);
        /* every truncation: refused, or shorter by whole entries */
        size_t whole = 0, before = 0;
        for (size_t n = 0; n < writer->size; n++) {
            uint8_t *part = exact_copy(writer->bytes, n);
            size_t seen = 0;
            enum eng_status status = diff_read(part, n, ignore_each, &seen);
            ck_assert(status == ENG_OK || status == ENG_DAMAGED);
            ck_assert_uint_ge(seen, before);
            before = seen;
            whole += status == ENG_OK;
            free(part);
        }
        ck_assert_uint_eq(whole, test.count); /* once behind each entry but the last, and the empty one */
        /* each byte changed: refused, or canonical */
        for (size_t at = 0; at < writer->size; at++) {
            struct diff_writer again = {0};
            uint8_t old = writer->bytes[at];
            writer->bytes[at] ^= (uint8_t)(1 + random_below(255));
            if (diff_read(writer->bytes, writer->size, write_each, &again) == ENG_OK) {
                ck_assert_uint_eq(again.size, writer->size);
                ck_assert_mem_eq(again.bytes, writer->bytes, again.size);
            }
            free(again.bytes);
            writer->bytes[at] = old;
        }
        if (test.count > 0) {
            test.seen = 0;
            test.stop_at = random_below((uint32_t)test.count);
            ck_assert_int_eq(diff_read(writer->bytes, writer->size, check_each, &test), ENG_CLOSED);
            ck_assert_uint_eq(test.seen, test.stop_at);
        }
        free(writer->bytes);
    }
}
END_TEST

static enum eng_status read_text(const char *bytes, size_t size)
{
    size_t seen = 0;
    uint8_t *copy = exact_copy((const uint8_t *)bytes, size);
    enum eng_status status = diff_read(copy, size, ignore_each, &seen);
    free(copy);
    return status;
}

START_TEST(diff_bounds)
{
    ck_assert_int_eq(read_text("", 0), ENG_OK);
    ck_assert_int_eq(read_text("\x00\x01\x00"
                               "a"
                               "\x00\x01\x00"
                               "b",
                               8),
                     ENG_OK);
    ck_assert_int_eq(read_text("\x00\x01\x00"
                               "a"
                               "\x00\x02\x00"
                               "a\0",
                               9),
                     ENG_OK);
    ck_assert_int_eq(read_text("\x00\x01\x00"
                               "b"
                               "\x00\x01\x00"
                               "a",
                               8),
                     ENG_DAMAGED);
    ck_assert_int_eq(read_text("\x00\x01\x00"
                               "a"
                               "\x00\x01\x00"
                               "a",
                               8),
                     ENG_DAMAGED);
    ck_assert_str_eq(eng_error(), "diff: entry 1 at offset 4: its key is not above the one before");
    ck_assert_int_eq(read_text("\x00\x02\x00"
                               "aa"
                               "\x00\x01\x00"
                               "a",
                               9),
                     ENG_DAMAGED);
    ck_assert_int_eq(read_text("\x00\x00\x00", 3), ENG_DAMAGED); /* no key */
    ck_assert_int_eq(read_text("\x03\x01\x00"
                               "a",
                               4),
                     ENG_DAMAGED); /* no such kind */
    uint8_t *bytes = calloc(1, 3 + ENG_KEY_BYTES_MAX + 1);
    uint16_t length = ENG_KEY_BYTES_MAX;
    memcpy(bytes + 1, &length, 2);
    ck_assert_int_eq(read_text((char *)bytes, 3 + ENG_KEY_BYTES_MAX), ENG_OK);
    length++;
    memcpy(bytes + 1, &length, 2);
    ck_assert_int_eq(read_text((char *)bytes, 3 + ENG_KEY_BYTES_MAX + 1), ENG_DAMAGED);
    free(bytes);
    uint32_t value_bytes = ENG_VALUE_BYTES_MAX;
    bytes = calloc(1, 8 + ENG_VALUE_BYTES_MAX + 1);
    memcpy(bytes,
           "\x01\x01\x00"
           "a",
           4);
    memcpy(bytes + 4, &value_bytes, 4);
    ck_assert_int_eq(read_text((char *)bytes, 8 + ENG_VALUE_BYTES_MAX), ENG_OK);
    value_bytes++;
    memcpy(bytes + 4, &value_bytes, 4);
    ck_assert_int_eq(read_text((char *)bytes, 8 + ENG_VALUE_BYTES_MAX + 1), ENG_DAMAGED);
    free(bytes);
}
END_TEST

START_TEST(diff_writer_limit)
{
    struct diff_writer writer = {0};
    struct eng_value value = {ENG_BYTES, calloc(1, ENG_VALUE_BYTES_MAX), ENG_VALUE_BYTES_MAX};
    uint8_t key = 0;
    enum eng_status status;
    while ((status = diff_write(&writer, &key, 1, &value)) == ENG_OK)
        key++;
    ck_assert_int_eq(status, ENG_TOO_LARGE);
    ck_assert_uint_eq(key, SEALED_BYTES_MAX / ENG_VALUE_BYTES_MAX);
    ck_assert_uint_eq(writer.size, (size_t)key * (8 + ENG_VALUE_BYTES_MAX)); /* the refused one left nothing */
    free((void *)value.bytes);
    free(writer.bytes);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("header");
    TCase *header = tcase_create("header"), *sealed = tcase_create("sealed"), *diff = tcase_create("diff");
    tcase_add_test(header, headers_round_trip);
    tcase_add_test(header, header_layout);
    tcase_add_test(header, signatures);
    tcase_add_test(header, hashes);
    tcase_add_test(header, header_bounds);
    tcase_add_test(header, notes);
    tcase_add_test(sealed, sealed_round_trip);
    tcase_add_test(sealed, sealed_bounds);
    tcase_add_test(diff, diffs_round_trip);
    tcase_add_test(diff, diff_bounds);
    tcase_add_test(diff, diff_writer_limit);
    TCase *const cases[] = {header, sealed, diff};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tcase_set_timeout(cases[i], 120);
        suite_add_tcase(s, cases[i]);
    }
    return s;
}

int main(void)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    crypto_sign_keypair(public_key, secret);
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
