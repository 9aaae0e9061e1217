/*
 * Transactions: round trips on random data, every bound, every truncation, and that there is one encoding only (what
 * decodes, encodes to the same bytes; a flipped byte decodes to something else or not at all). Then amounts and keys as
 * text, and the JSON form against INTERFACE: what is accepted, and that each refusal names operation and field.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "codec_input.h"
#include "transaction.h"

static __int128 random_amount(void)
{
    return (__int128)(((unsigned __int128)random_next() << 64 | random_next()) >> random_below(128));
}

/* ---- random transactions ---- */

static void random_operation(struct tx_operation *operation, uint32_t value_max)
{
    memset(operation, 0, sizeof *operation);
    operation->kind = (enum tx_kind)(TX_PUT + random_below(TX_KIND_END - TX_PUT));
    operation->key = pool + random_below(1000);
    operation->key_bytes = (uint16_t)(1 + random_below(random_below(8) == 0 ? ENG_KEY_BYTES_MAX : 20));
    if (operation->kind == TX_PUT || operation->kind == TX_INSERT || operation->kind == TX_UPDATE ||
        operation->kind == TX_EXPECT) {
        bool amount = operation->kind == TX_EXPECT && random_below(2) == 0;
        operation->value = (struct eng_value){amount ? ENG_AMOUNT : ENG_BYTES, pool + random_below(1000),
                                              amount ? 16 : random_below(value_max)};
    }
    if (operation->kind == TX_DELETE_RANGE) {
        operation->to = pool + random_below(1000);
        operation->to_bytes = (uint16_t)(1 + random_below(30));
    }
    if (operation->kind == TX_ADD) {
        operation->amount = random_amount();
        operation->has_min = random_below(2);
        operation->has_max = random_below(2);
        operation->min = operation->has_min ? random_amount() : 0;
        operation->max = operation->has_max ? random_amount() : 0;
    }
}

static void random_transaction(struct transaction *tx, uint32_t count, uint32_t value_max)
{
    randombytes_buf(tx->id, sizeof tx->id);
    tx->expires_ms = random_next();
    tx->operation_count = count;
    tx->operations = calloc(count, sizeof *tx->operations);
    ck_assert_ptr_nonnull(tx->operations);
    for (uint32_t i = 0; i < count; i++)
        random_operation(&tx->operations[i], value_max);
}

static void assert_same_operation(const struct tx_operation *a, const struct tx_operation *b)
{
    ck_assert_int_eq(a->kind, b->kind);
    ck_assert_uint_eq(a->key_bytes, b->key_bytes);
    ck_assert_mem_eq(a->key, b->key, a->key_bytes);
    ck_assert_int_eq(a->value.tag, b->value.tag);
    ck_assert_uint_eq(a->value.size, b->value.size);
    if (a->value.size > 0)
        ck_assert_mem_eq(a->value.bytes, b->value.bytes, a->value.size);
    ck_assert_uint_eq(a->to_bytes, b->to_bytes);
    if (a->to_bytes > 0)
        ck_assert_mem_eq(a->to, b->to, a->to_bytes);
    ck_assert(a->amount == b->amount && a->min == b->min && a->max == b->max);
    ck_assert(a->has_min == b->has_min && a->has_max == b->has_max);
}

static void assert_round_trip(const struct transaction *tx, uint8_t **bytes, size_t *size)
{
    ck_assert_int_eq(transaction_encode(tx, bytes, size), ENG_OK);
    struct transaction decoded;
    ck_assert_int_eq(transaction_decode(*bytes, *size, &decoded), ENG_OK);
    ck_assert_mem_eq(decoded.id, tx->id, TX_ID_BYTES);
    ck_assert_uint_eq(decoded.expires_ms, tx->expires_ms);
    ck_assert_uint_eq(decoded.operation_count, tx->operation_count);
    for (uint32_t i = 0; i < tx->operation_count; i++)
        assert_same_operation(&tx->operations[i], &decoded.operations[i]);
    uint8_t *again;
    size_t again_size;
    ck_assert_int_eq(transaction_encode(&decoded, &again, &again_size), ENG_OK);
    ck_assert_uint_eq(again_size, *size);
    ck_assert_mem_eq(again, *bytes, *size);
    free(again);
    transaction_release(&decoded);
    ck_assert_ptr_null(decoded.operations);
}

START_TEST(transactions_round_trip)
{
    for (int round = 0; round < 400; round++) {
        struct transaction tx;
        random_transaction(&tx, 1 + random_below(round % 50 == 0 ? TX_OPERATIONS_MAX : 12),
                           round % 20 == 0 ? 30000 : 100);
        uint8_t *bytes, id[TX_ID_BYTES];
        size_t size;
        uint64_t expires_ms;
        assert_round_trip(&tx, &bytes, &size);
        ck_assert(transaction_peek(bytes, size, id, &expires_ms));
        ck_assert_mem_eq(id, tx.id, TX_ID_BYTES);
        ck_assert_uint_eq(expires_ms, tx.expires_ms);
        ck_assert(!transaction_peek(bytes, 28, id, &expires_ms));
        free(bytes);
        transaction_release(&tx);
    }
}
END_TEST

START_TEST(every_truncation_is_refused)
{
    for (int round = 0; round < 60; round++) {
        struct transaction tx, cut;
        random_transaction(&tx, 1 + random_below(12), 60);
        uint8_t *bytes;
        size_t size;
        assert_round_trip(&tx, &bytes, &size);
        for (size_t n = 0; n < size; n++) {
            uint8_t *part = exact_copy(bytes, n);
            ck_assert_int_eq(transaction_decode(part, n, &cut), ENG_INVALID);
            ck_assert_ptr_null(cut.operations);
            free(part);
        }
        uint8_t *longer = malloc(size + 1);
        memcpy(longer, bytes, size);
        longer[size] = 0;
        ck_assert_int_eq(transaction_decode(longer, size + 1, &cut), ENG_INVALID);
        free(longer);
        free(bytes);
        transaction_release(&tx);
    }
}
END_TEST

/* Each byte of an encoding changed: refused, or another transaction with its own encoding. */
START_TEST(changed_bytes_stay_canonical)
{
    uint32_t accepted = 0, refused = 0;
    for (int round = 0; round < 60; round++) {
        struct transaction tx, changed;
        random_transaction(&tx, 1 + random_below(8), 40);
        uint8_t *bytes;
        size_t size;
        assert_round_trip(&tx, &bytes, &size);
        for (size_t at = 0; at < size; at++) {
            uint8_t before = bytes[at];
            bytes[at] ^= (uint8_t)(1 + random_below(255));
            if (transaction_decode(bytes, size, &changed) == ENG_OK) {
                uint8_t *again;
                size_t again_size;
                ck_assert_int_eq(transaction_encode(&changed, &again, &again_size), ENG_OK);
                ck_assert_uint_eq(again_size, size);
                ck_assert_mem_eq(again, bytes, size);
                free(again);
                transaction_release(&changed);
                accepted++;
            } else {
                refused++;
            }
            bytes[at] = before;
        }
        free(bytes);
        transaction_release(&tx);
    }
    ck_assert_uint_gt(accepted, 1000);
    ck_assert_uint_gt(refused, 1000);
}
END_TEST

static enum eng_status encode_one(struct tx_operation operation)
{
    struct transaction tx = {.operation_count = 1, .operations = &operation};
    uint8_t *bytes;
    size_t size;
    enum eng_status status = transaction_encode(&tx, &bytes, &size);
    free(bytes);
    return status;
}

START_TEST(bounds_of_operations)
{
    struct tx_operation operation = {.kind = TX_READ, .key = pool, .key_bytes = 1};
    ck_assert_int_eq(encode_one(operation), ENG_OK);
    operation.key_bytes = ENG_KEY_BYTES_MAX;
    ck_assert_int_eq(encode_one(operation), ENG_OK);
    operation.key_bytes = ENG_KEY_BYTES_MAX + 1;
    ck_assert_int_eq(encode_one(operation), ENG_TOO_LARGE);
    operation.key_bytes = 0;
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
    operation = (struct tx_operation){.kind = TX_DELETE_RANGE, .key = pool, .key_bytes = 1, .to = pool, .to_bytes = 0};
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
    operation.to_bytes = 1;
    ck_assert_int_eq(encode_one(operation), ENG_OK);
    operation.to_bytes = ENG_KEY_BYTES_MAX + 1;
    ck_assert_int_eq(encode_one(operation), ENG_TOO_LARGE);
    operation = (struct tx_operation){.kind = TX_PUT, .key = pool, .key_bytes = 1, .value = {ENG_AMOUNT, pool, 16}};
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
    operation.kind = TX_EXPECT;
    ck_assert_int_eq(encode_one(operation), ENG_OK);
    operation.value.size = 15;
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
    operation.value = (struct eng_value){ENG_TREE, pool, 64};
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
    operation = (struct tx_operation){.kind = TX_KIND_END, .key = pool, .key_bytes = 1};
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
    operation.kind = (enum tx_kind)0;
    ck_assert_int_eq(encode_one(operation), ENG_INVALID);
}
END_TEST

START_TEST(bounds_of_transactions)
{
    struct transaction tx = {0};
    uint8_t *bytes;
    size_t size;
    ck_assert_int_eq(transaction_encode(&tx, &bytes, &size), ENG_INVALID);
    random_transaction(&tx, TX_OPERATIONS_MAX + 1, 10);
    ck_assert_int_eq(transaction_encode(&tx, &bytes, &size), ENG_TOO_LARGE);
    tx.operation_count = TX_OPERATIONS_MAX;
    assert_round_trip(&tx, &bytes, &size);
    uint32_t count = TX_OPERATIONS_MAX + 1;
    struct transaction decoded;
    memcpy(bytes + 25, &count, sizeof count);
    ck_assert_int_eq(transaction_decode(bytes, size, &decoded), ENG_TOO_LARGE);
    count = 0;
    memcpy(bytes + 25, &count, sizeof count);
    ck_assert_int_eq(transaction_decode(bytes, size, &decoded), ENG_INVALID);
    free(bytes);
    transaction_release(&tx);

    /* The largest that there can be, and one byte more. */
    size_t value_bytes = TX_BYTES_MAX - 29 - 1 - 2 - 1 - 1 - 4;
    uint8_t *value = calloc(1, value_bytes + 1);
    struct tx_operation operation = {
        .kind = TX_PUT, .key = pool, .key_bytes = 1, .value = {ENG_BYTES, value, value_bytes}};
    tx = (struct transaction){.operation_count = 1, .operations = &operation};
    assert_round_trip(&tx, &bytes, &size);
    ck_assert_uint_eq(size, TX_BYTES_MAX);
    operation.value.size++;
    uint8_t *none;
    ck_assert_int_eq(transaction_encode(&tx, &none, &size), ENG_TOO_LARGE);
    ck_assert_ptr_null(none);
    bytes = realloc(bytes, TX_BYTES_MAX + 1);
    bytes[TX_BYTES_MAX] = 0;
    ck_assert_int_eq(transaction_decode(bytes, TX_BYTES_MAX + 1, &decoded), ENG_TOO_LARGE);
    free(bytes);
    free(value);
}
END_TEST

START_TEST(decoder_bounds)
{
    /* version, id, expires, 1 operation, then: put, 1 byte of key, tag, 2 bytes */
    uint8_t bytes[29 + 11] = {1};
    struct transaction tx;
    bytes[25] = 1;
    memcpy(bytes + 29, "\x01\x01\x00k\x00\x02\x00\x00\x00vv", 11);
    ck_assert_int_eq(transaction_decode(bytes, sizeof bytes, &tx), ENG_OK);
    transaction_release(&tx);
    bytes[0] = 2;
    ck_assert_int_eq(transaction_decode(bytes, sizeof bytes, &tx), ENG_INVALID);
    bytes[0] = 1;
    bytes[33] = 1; /* an amount cannot be put */
    ck_assert_int_eq(transaction_decode(bytes, sizeof bytes, &tx), ENG_INVALID);
    bytes[33] = 2; /* no such tag */
    ck_assert_int_eq(transaction_decode(bytes, sizeof bytes, &tx), ENG_INVALID);
    bytes[33] = 0;
    bytes[37] = 0x80; /* a value of 2 GiB */
    ck_assert_int_eq(transaction_decode(bytes, sizeof bytes, &tx), ENG_INVALID);
    bytes[37] = 0;
    bytes[29] = TX_KIND_END;
    ck_assert_int_eq(transaction_decode(bytes, sizeof bytes, &tx), ENG_INVALID);
    ck_assert_str_eq(eng_error(), "operation 0: offset 29: kind 12 is not known");
    uint8_t add[29 + 21] = {1};
    add[25] = 1;
    memcpy(add + 29, "\x07\x01\x00k\x00", 5);
    ck_assert_int_eq(transaction_decode(add, sizeof add, &tx), ENG_OK);
    transaction_release(&tx);
    add[33] = 4; /* no such flag */
    ck_assert_int_eq(transaction_decode(add, sizeof add, &tx), ENG_INVALID);
}
END_TEST

START_TEST(names)
{
    for (int i = 0; i <= TX_NOT_LEADER; i++) {
        enum tx_code code;
        ck_assert(tx_code_from_name(tx_code_name((enum tx_code)i), &code));
        ck_assert_int_eq(code, i);
    }
    enum tx_code code;
    ck_assert(!tx_code_from_name("ok", &code));
    ck_assert_str_eq(tx_code_name(TX_BELOW_MIN), "BELOW_MIN");
    ck_assert_str_eq(tx_kind_name(TX_DELETE_RANGE), "delete_range");
}
END_TEST

/* ---- text ---- */

static void assert_amount(const char *text, const char *expected)
{
    __int128 amount;
    char out[AMOUNT_TEXT_MAX];
    ck_assert_msg(amount_from_text(text, &amount) == ENG_OK, "%s: %s", text, eng_error());
    amount_to_text(amount, out);
    ck_assert_str_eq(out, expected);
    uint8_t bytes[16];
    amount_to_bytes(amount, bytes);
    ck_assert(amount_from_bytes(bytes) == amount);
}

START_TEST(amounts)
{
    assert_amount("0", "0");
    assert_amount("-0", "0");
    assert_amount("007", "7");
    assert_amount("-25", "-25");
    assert_amount("170141183460469231731687303715884105727", "170141183460469231731687303715884105727");
    assert_amount("-170141183460469231731687303715884105728", "-170141183460469231731687303715884105728");
    static const char *const wrong[] = {"",
                                        "-",
                                        "+1",
                                        " 1",
                                        "1 ",
                                        "1.0",
                                        "0x10",
                                        "--1",
                                        "1e3",
                                        "170141183460469231731687303715884105728",
                                        "-170141183460469231731687303715884105729",
                                        "340282366920938463463374607431768211456",
                                        "9999999999999999999999999999999999999999999"};
    __int128 amount;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        ck_assert_msg(amount_from_text(wrong[i], &amount) == ENG_INVALID, "%s", wrong[i]);
    uint8_t bytes[16];
    amount_to_bytes(-2, bytes);
    ck_assert_mem_eq(bytes, "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16);
    for (int i = 0; i < 1000; i++) {
        char text[AMOUNT_TEXT_MAX];
        __int128 random = random_amount();
        amount_to_text(random, text);
        ck_assert_int_eq(amount_from_text(text, &amount), ENG_OK);
        ck_assert(amount == random);
    }
}
END_TEST

START_TEST(keys_as_text)
{
    static const struct {
        const char *text, *key;
        size_t key_bytes;
    } right[] = {{"abc", "abc", 3}, {"0x00ff", "\x00\xff", 2}, {"hex:00FF", "\x00\xff", 2}, {"hexagon", "hexagon", 7},
                 {"0", "0", 1},     {"0X00", "0X00", 4}};
    static const char *const wrong[] = {"", "0x", "hex:", "0xf", "0xzz", "hex:0", "0x00 "};
    uint8_t *key;
    size_t key_bytes;
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        ck_assert_int_eq(key_from_text(right[i].text, &key, &key_bytes), ENG_OK);
        ck_assert_uint_eq(key_bytes, right[i].key_bytes);
        ck_assert_mem_eq(key, right[i].key, key_bytes);
        free(key);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        ck_assert_msg(key_from_text(wrong[i], &key, &key_bytes) == ENG_INVALID, "%s", wrong[i]);
    char text[ENG_KEY_BYTES_MAX + 2];
    memset(text, 'k', sizeof text);
    text[ENG_KEY_BYTES_MAX] = '\0';
    ck_assert_int_eq(key_from_text(text, &key, &key_bytes), ENG_OK);
    free(key);
    text[ENG_KEY_BYTES_MAX] = 'k';
    text[ENG_KEY_BYTES_MAX + 1] = '\0';
    ck_assert_int_eq(key_from_text(text, &key, &key_bytes), ENG_TOO_LARGE);
}
END_TEST

/* ---- JSON ---- */

static void from_json(const char *text, bool zero_id, struct transaction *tx, uint8_t **bytes)
{
    json_t *json = parse(text);
    size_t size;
    enum eng_status status = transaction_from_json(json, 12345, zero_id, bytes, &size);
    ck_assert_msg(status == ENG_OK, "%s: %s", text, eng_error());
    json_decref(json);
    ck_assert_int_eq(transaction_decode(*bytes, size, tx), ENG_OK);
}

START_TEST(json_all_operations)
{
    struct transaction tx;
    uint8_t *bytes;
    from_json("{\"id\":\"000102030405060708090a0b0c0d0E0F\",\"expires\":1700000600000,\"ops\":["
              "{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\\u0000w\"},"
              "{\"op\":\"insert\",\"key_hex\":\"00ff\",\"value_hex\":\"cafe\"},"
              "{\"op\":\"update\",\"key\":\"\\u00e9\\u0000\",\"value\":\"\"},"
              "{\"op\":\"delete\",\"key\":\"a\"},{\"op\":\"unset\",\"key\":\"b\"},"
              "{\"op\":\"delete_range\",\"from\":\"a\",\"to_hex\":\"7a\"},"
              "{\"op\":\"add\",\"key\":\"c\",\"amount\":\"-25\",\"min\":\"0\"},"
              "{\"op\":\"add\",\"key\":\"c\",\"amount\":25,\"max\":-9223372036854775808},"
              "{\"op\":\"expect\",\"key\":\"d\",\"value\":\"10\"},"
              "{\"op\":\"expect\",\"key\":\"d\",\"amount\":\"10\"},"
              "{\"op\":\"expect_present\",\"key\":\"e\"},{\"op\":\"expect_absent\",\"key\":\"f\"},"
              "{\"op\":\"read\",\"key\":\"g\"}]}",
              false, &tx, &bytes);
    ck_assert_mem_eq(tx.id, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", 16);
    ck_assert_uint_eq(tx.expires_ms, 1700000600000);
    ck_assert_uint_eq(tx.operation_count, 13);
    const struct tx_operation *op = tx.operations;
    static const enum tx_kind kinds[] = {TX_PUT, TX_INSERT, TX_UPDATE, TX_DELETE, TX_UNSET,          TX_DELETE_RANGE,
                                         TX_ADD, TX_ADD,    TX_EXPECT, TX_EXPECT, TX_EXPECT_PRESENT, TX_EXPECT_ABSENT,
                                         TX_READ};
    for (size_t i = 0; i < 13; i++)
        ck_assert_int_eq(op[i].kind, kinds[i]);
    ck_assert_uint_eq(op[0].value.size, 3);
    ck_assert_mem_eq(op[0].value.bytes, "v\0w", 3);
    ck_assert_uint_eq(op[1].key_bytes, 2);
    ck_assert_mem_eq(op[1].key, "\x00\xff", 2);
    ck_assert_mem_eq(op[1].value.bytes, "\xca\xfe", 2);
    ck_assert_uint_eq(op[2].key_bytes, 3);
    ck_assert_mem_eq(op[2].key, "\xc3\xa9\0", 3);
    ck_assert_uint_eq(op[2].value.size, 0);
    ck_assert_mem_eq(op[5].key, "a", 1);
    ck_assert_mem_eq(op[5].to, "z", 1);
    ck_assert(op[6].amount == -25 && op[6].has_min && op[6].min == 0 && !op[6].has_max);
    ck_assert(op[7].amount == 25 && !op[7].has_min && op[7].has_max && op[7].max == INT64_MIN);
    ck_assert_int_eq(op[8].value.tag, ENG_BYTES);
    ck_assert_int_eq(op[9].value.tag, ENG_AMOUNT);
    ck_assert(amount_from_bytes(op[9].value.bytes) == 10);
    transaction_release(&tx);
    free(bytes);
}
END_TEST

START_TEST(json_ids)
{
    struct transaction a, b;
    uint8_t *a_bytes, *b_bytes;
    static const char *const text = "{\"ops\":[{\"op\":\"read\",\"key\":\"k\"}]}";
    from_json(text, false, &a, &a_bytes);
    from_json(text, false, &b, &b_bytes);
    ck_assert_mem_ne(a.id, b.id, TX_ID_BYTES);
    ck_assert_uint_eq(a.expires_ms, 12345);
    transaction_release(&a);
    transaction_release(&b);
    free(a_bytes);
    free(b_bytes);
    from_json(text, true, &a, &a_bytes);
    ck_assert(sodium_is_zero(a.id, TX_ID_BYTES));
    transaction_release(&a);
    free(a_bytes);
}
END_TEST

/* What is refused, and the line. */
static const struct {
    const char *json, *line;
    enum eng_status status;
} refused[] = {
    {"[]", "transaction: is not an object", ENG_INVALID},
    {"{}", "transaction: ops is missing", ENG_INVALID},
    {"{\"ops\":{}}", "transaction: ops is not a list", ENG_INVALID},
    {"{\"ops\":[]}", "transaction: has no operations", ENG_INVALID},
    {"{\"ops\":[1]}", "operation 0: is not an object", ENG_INVALID},
    {"{\"x\\ny\":1,\"ops\":[]}", "transaction: x?y is not a field of a transaction", ENG_INVALID},
    {"{\"id\":\"00\",\"ops\":[]}", "transaction: id is not 32 hex digits", ENG_INVALID},
    {"{\"id\":\"0001020304050607080900010203040g\",\"ops\":[]}", "transaction: id is not 32 hex digits", ENG_INVALID},
    {"{\"id\":5,\"ops\":[]}", "transaction: id is not 32 hex digits", ENG_INVALID},
    {"{\"expires\":0,\"ops\":[]}", "transaction: expires is not a positive integer of milliseconds", ENG_INVALID},
    {"{\"expires\":\"5\",\"ops\":[]}", "transaction: expires is not a positive integer of milliseconds", ENG_INVALID},
    {"{\"expires\":1.5,\"ops\":[]}", "transaction: expires is not a positive integer of milliseconds", ENG_INVALID},
#define OP(text) "{\"ops\":[{\"op\":\"read\",\"key\":\"k\"}," text "]}"
    {OP("{\"key\":\"k\"}"), "operation 1: op is missing", ENG_INVALID},
    {OP("{\"op\":1}"), "operation 1: op is not a string", ENG_INVALID},
    {OP("{\"op\":\"frob\"}"), "operation 1: op \"frob\" is not known", ENG_INVALID},
    {OP("{\"op\":\"put\\u0000\",\"key\":\"k\",\"value\":\"\"}"), "operation 1: op \"put?\" is not known", ENG_INVALID},
    {OP("{\"op\":\"tree\",\"key\":\"k\"}"), "operation 1: tree: this version does not have this operation",
     ENG_INVALID},
    {OP("{\"op\":\"clone\"}"), "operation 1: clone: this version does not have this operation", ENG_INVALID},
    {OP("{\"op\":\"move\"}"), "operation 1: move: this version does not have this operation", ENG_INVALID},
    {OP("{\"op\":\"unchanged\"}"), "operation 1: unchanged: this version does not have this operation", ENG_INVALID},
    {OP("{\"op\":\"accounts.transfer\"}"), "operation 1: accounts.transfer: this version does not have this operation",
     ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":[\"a\",\"b\"],\"value\":\"\"}"),
     "operation 1: put: key is a list: this version does not have subtrees", ENG_INVALID},
    {OP("{\"op\":\"delete_range\",\"from\":[\"a\"],\"to\":\"b\"}"),
     "operation 1: delete_range: from is a list: this version does not have subtrees", ENG_INVALID},
    {OP("{\"op\":\"put\",\"value\":\"\"}"), "operation 1: put: key is missing", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":\"\",\"value\":\"\"}"), "operation 1: put: key is empty", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key_hex\":\"\",\"value\":\"\"}"), "operation 1: put: key is empty", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":5,\"value\":\"\"}"), "operation 1: put: key is not a string", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":null,\"value\":\"\"}"), "operation 1: put: key is not a string", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":\"k\",\"key_hex\":\"00\",\"value\":\"\"}"),
     "operation 1: put: key is given twice, as text and as hex", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key_hex\":\"0\",\"value\":\"\"}"), "operation 1: put: key_hex is not pairs of hex digits",
     ENG_INVALID},
    {OP("{\"op\":\"put\",\"key_hex\":\"zz\",\"value\":\"\"}"), "operation 1: put: key_hex is not pairs of hex digits",
     ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":\"k\"}"), "operation 1: put: value is missing", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":\"k\",\"value\":5}"), "operation 1: put: value is not a string", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":\"k\",\"value\":\"\",\"value_hex\":\"\"}"),
     "operation 1: put: value is given twice, as text and as hex", ENG_INVALID},
    {OP("{\"op\":\"put\",\"key\":\"k\",\"value\":\"\",\"amount\":1}"),
     "operation 1: put: amount is not a field of this operation", ENG_INVALID},
    {OP("{\"op\":\"read\",\"key\":\"k\",\"value\":\"\"}"), "operation 1: read: value is not a field of this operation",
     ENG_INVALID},
    {OP("{\"op\":\"delete_range\",\"from\":\"a\"}"), "operation 1: delete_range: to is missing", ENG_INVALID},
    {OP("{\"op\":\"delete_range\",\"from\":\"a\",\"to\":\"\"}"), "operation 1: delete_range: to is empty", ENG_INVALID},
    {OP("{\"op\":\"delete_range\",\"key\":\"a\",\"to\":\"b\"}"),
     "operation 1: delete_range: key is not a field of this operation", ENG_INVALID},
    {OP("{\"op\":\"add\",\"key\":\"k\"}"), "operation 1: add: amount is missing", ENG_INVALID},
    {OP("{\"op\":\"add\",\"key\":\"k\",\"amount\":1.0}"), "operation 1: add: amount is not a decimal integer",
     ENG_INVALID},
    {OP("{\"op\":\"add\",\"key\":\"k\",\"amount\":\"1\\u0000\"}"), "operation 1: add: amount is not a decimal integer",
     ENG_INVALID},
    {OP("{\"op\":\"add\",\"key\":\"k\",\"amount\":\"170141183460469231731687303715884105728\"}"),
     "operation 1: add: amount does not fit 128 bits", ENG_INVALID},
    {OP("{\"op\":\"add\",\"key\":\"k\",\"amount\":\"1\",\"min\":true}"),
     "operation 1: add: min is not a decimal integer", ENG_INVALID},
    {OP("{\"op\":\"add\",\"key\":\"k\",\"amount\":\"1\",\"max\":\"x\"}"),
     "operation 1: add: max is not a decimal integer", ENG_INVALID},
    {OP("{\"op\":\"expect\",\"key\":\"k\"}"), "operation 1: expect: value or amount is missing", ENG_INVALID},
    {OP("{\"op\":\"expect\",\"key\":\"k\",\"value\":\"\",\"amount\":1}"),
     "operation 1: expect: value and amount are both given", ENG_INVALID},
    {OP("{\"op\":\"expect\",\"key\":\"k\",\"amount\":\"\"}"), "operation 1: expect: amount is not a decimal integer",
     ENG_INVALID},
#undef OP
};

START_TEST(json_refusals)
{
    json_t *json = parse(refused[_i].json);
    uint8_t *bytes;
    size_t size;
    ck_assert_int_eq(transaction_from_json(json, 1, false, &bytes, &size), refused[_i].status);
    ck_assert_str_eq(eng_error(), refused[_i].line);
    ck_assert_ptr_null(bytes);
    json_decref(json);
}
END_TEST

START_TEST(json_limits)
{
    char key[ENG_KEY_BYTES_MAX + 2];
    memset(key, 'k', sizeof key);
    uint8_t *bytes;
    size_t size;
    for (size_t length = ENG_KEY_BYTES_MAX; length <= ENG_KEY_BYTES_MAX + 1; length++) {
        json_t *json = json_pack("{s[{ssso}]}", "ops", "op", "read", "key", json_stringn(key, length));
        ck_assert_ptr_nonnull(json);
        enum eng_status expected = length == ENG_KEY_BYTES_MAX ? ENG_OK : ENG_TOO_LARGE;
        ck_assert_int_eq(transaction_from_json(json, 1, false, &bytes, &size), expected);
        free(bytes);
        json_decref(json);
    }
    json_t *operation = json_pack("{ssss}", "op", "read", "key", "k"), *ops = json_array();
    for (size_t i = 0; i < TX_OPERATIONS_MAX; i++)
        json_array_append(ops, operation);
    json_t *json = json_pack("{so}", "ops", ops);
    ck_assert_int_eq(transaction_from_json(json, 1, false, &bytes, &size), ENG_OK);
    free(bytes);
    json_array_append(ops, operation);
    ck_assert_int_eq(transaction_from_json(json, 1, false, &bytes, &size), ENG_TOO_LARGE);
    json_decref(json);
    json_decref(operation);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("transaction");
    TCase *binary = tcase_create("binary"), *json = tcase_create("json");
    tcase_add_test(binary, transactions_round_trip);
    tcase_add_test(binary, every_truncation_is_refused);
    tcase_add_test(binary, changed_bytes_stay_canonical);
    tcase_add_test(binary, bounds_of_operations);
    tcase_add_test(binary, bounds_of_transactions);
    tcase_add_test(binary, decoder_bounds);
    tcase_add_test(binary, names);
    tcase_add_test(binary, amounts);
    tcase_add_test(binary, keys_as_text);
    tcase_add_test(json, json_all_operations);
    tcase_add_test(json, json_ids);
    tcase_add_loop_test(json, json_refusals, 0, sizeof refused / sizeof *refused);
    tcase_add_test(json, json_limits);
    TCase *const cases[] = {binary, json};
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
    pool_fill();
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
