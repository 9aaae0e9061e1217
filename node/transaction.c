/*
 * Transactions in binary: the canonical bytes that the log holds and the digests cover.
 *
 *   offset  bytes  what                              (all integers little-endian)
 *        0      1  version = 1
 *        1     16  id
 *       17      8  expires, ledger time in ms (0, never: only inside an imported block)
 *       25      4  number of operations
 *       29         operations: u8 kind | u16 key bytes | key | then by kind
 *                    put insert update      u8 tag = 0 | u32 value bytes | value
 *                    expect                 u8 tag = 0 | u32 value bytes | value, or u8 tag = 1 | 16 bytes
 *                    delete_range           u16 to bytes | to
 *                    add                    u8 flags (1 min, 2 max) | amount 16 | min 16? | max 16?
 *                    the others             nothing
 *
 * A transaction is valid if and only if it has at most TX_BYTES_MAX bytes, version 1, 1 to TX_OPERATIONS_MAX operations
 * of known kinds that fill it exactly, keys of 1 to ENG_KEY_BYTES_MAX bytes, values of at most ENG_VALUE_BYTES_MAX
 * bytes, the tags above and no other flags. So there is one encoding for each transaction.
 *
 * Decoding copies nothing: keys and values point into the bytes; only the array of operations is allocated, after the
 * count was found possible for the size. Encoding applies the same check to each operation, so what was encoded
 * decodes.
 *
 * Failures: ENG_INVALID (the line names the operation and what is wrong with it), ENG_TOO_LARGE for what is over a
 * limit, ENG_NO_MEMORY. Nothing is left allocated then.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "transaction.h"

#define VERSION 1u
#define HEAD_BYTES 29u
#define AMOUNT_BYTES 16u
#define OPERATION_BYTES_MIN 4u /* kind, key length, one byte of key */
#define ADD_HAS_MIN 1u
#define ADD_HAS_MAX 2u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie in memory");
_Static_assert(HEAD_BYTES == 1 + TX_ID_BYTES + 8 + 4, "as the table says");
_Static_assert(ENG_KEY_BYTES_MAX <= UINT16_MAX, "a key length fits its field");

/* ---- names ---- */

static const char *const code_names[] = {
#define X(code, name) [code] = name,
    TX_CODE_TABLE(X)
#undef X
};

const char *tx_code_name(enum tx_code code)
{
    assert((size_t)code < sizeof code_names / sizeof *code_names);
    return code_names[code];
}

bool tx_code_from_name(const char *name, enum tx_code *code)
{
    for (size_t i = 0; i < sizeof code_names / sizeof *code_names; i++) {
        if (strcmp(code_names[i], name) == 0) {
            *code = (enum tx_code)i;
            return true;
        }
    }
    return false;
}

const char *tx_kind_name(enum tx_kind kind)
{
    static const char *const names[TX_KIND_END] = {
        [TX_PUT] = "put",
        [TX_INSERT] = "insert",
        [TX_UPDATE] = "update",
        [TX_DELETE] = "delete",
        [TX_UNSET] = "unset",
        [TX_DELETE_RANGE] = "delete_range",
        [TX_ADD] = "add",
        [TX_EXPECT] = "expect",
        [TX_EXPECT_PRESENT] = "expect_present",
        [TX_EXPECT_ABSENT] = "expect_absent",
        [TX_READ] = "read",
    };
    assert(kind >= TX_PUT && kind < TX_KIND_END);
    return names[kind];
}

__int128 amount_from_bytes(const uint8_t bytes[16])
{
    __int128 amount;
    memcpy(&amount, bytes, sizeof amount);
    return amount;
}

void amount_to_bytes(__int128 amount, uint8_t bytes[16])
{
    memcpy(bytes, &amount, sizeof amount);
}

/* ---- what an operation must be, however it came ---- */

static enum eng_status check_key(uint32_t index, enum tx_kind kind, const char *field, size_t size)
{
    if (size == 0)
        return eng_fail(ENG_INVALID, "operation %u: %s: %s is empty", index, tx_kind_name(kind), field);
    if (size > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "operation %u: %s: %s of %zu bytes is over %u", index, tx_kind_name(kind), field,
                        size, ENG_KEY_BYTES_MAX);
    return ENG_OK;
}

static enum eng_status check_value(uint32_t index, const struct tx_operation *operation)
{
    const char *name = tx_kind_name(operation->kind);
    const struct eng_value *value = &operation->value;
    if (value->tag != ENG_BYTES && (value->tag != ENG_AMOUNT || operation->kind != TX_EXPECT))
        return eng_fail(ENG_INVALID, "operation %u: %s: value has tag %u", index, name, (unsigned)value->tag);
    if (value->tag == ENG_AMOUNT && value->size != AMOUNT_BYTES)
        return eng_fail(ENG_INVALID, "operation %u: %s: amount of %zu bytes", index, name, value->size);
    if (value->size > ENG_VALUE_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "operation %u: %s: value of %zu bytes is over %u", index, name, value->size,
                        ENG_VALUE_BYTES_MAX);
    return ENG_OK;
}

static enum eng_status check_operation(uint32_t index, const struct tx_operation *operation)
{
    if (operation->kind < TX_PUT || operation->kind >= TX_KIND_END)
        return eng_fail(ENG_INVALID, "operation %u: kind %u is not known", index, (unsigned)operation->kind);
    bool range = operation->kind == TX_DELETE_RANGE;
    enum eng_status status = check_key(index, operation->kind, range ? "from" : "key", operation->key_bytes);
    if (status != ENG_OK)
        return status;
    switch (operation->kind) {
    case TX_PUT:
    case TX_INSERT:
    case TX_UPDATE:
    case TX_EXPECT:
        return check_value(index, operation);
    case TX_DELETE_RANGE:
        return check_key(index, operation->kind, "to", operation->to_bytes);
    case TX_DELETE:
    case TX_UNSET:
    case TX_ADD:
    case TX_EXPECT_PRESENT:
    case TX_EXPECT_ABSENT:
    case TX_READ:
    case TX_KIND_END:
        break;
    }
    return ENG_OK;
}

/* ---- decoding ---- */

struct reader {
    const uint8_t *start, *at, *end;
};

static const uint8_t *take(struct reader *reader, size_t size)
{
    if ((size_t)(reader->end - reader->at) < size)
        return NULL;
    const uint8_t *here = reader->at;
    reader->at += size;
    return here;
}

static bool take_key(struct reader *reader, const uint8_t **key, uint16_t *key_bytes)
{
    const uint8_t *length = take(reader, sizeof *key_bytes);
    if (length == NULL)
        return false;
    memcpy(key_bytes, length, sizeof *key_bytes);
    return (*key = take(reader, *key_bytes)) != NULL;
}

static bool take_value(struct reader *reader, struct eng_value *value)
{
    const uint8_t *tag = take(reader, 1);
    if (tag == NULL)
        return false;
    value->tag = (enum eng_tag) * tag;
    uint32_t size = AMOUNT_BYTES;
    if (value->tag == ENG_BYTES) {
        const uint8_t *length = take(reader, sizeof size);
        if (length == NULL)
            return false;
        memcpy(&size, length, sizeof size);
    } else if (value->tag != ENG_AMOUNT) {
        return true; /* refused by check_value */
    }
    value->size = size;
    return (value->bytes = take(reader, size)) != NULL;
}

static bool take_amount(struct reader *reader, __int128 *amount)
{
    const uint8_t *bytes = take(reader, AMOUNT_BYTES);
    if (bytes != NULL)
        *amount = amount_from_bytes(bytes);
    return bytes != NULL;
}

static bool take_add(struct reader *reader, struct tx_operation *operation, uint8_t *flags)
{
    const uint8_t *byte = take(reader, 1);
    if (byte == NULL)
        return false;
    *flags = *byte;
    operation->has_min = *flags & ADD_HAS_MIN;
    operation->has_max = *flags & ADD_HAS_MAX;
    return take_amount(reader, &operation->amount) && (!operation->has_min || take_amount(reader, &operation->min)) &&
           (!operation->has_max || take_amount(reader, &operation->max));
}

static enum eng_status read_operation(struct reader *reader, uint32_t index, struct tx_operation *operation)
{
    memset(operation, 0, sizeof *operation);
    size_t start = (size_t)(reader->at - reader->start);
    const uint8_t *kind = take(reader, 1);
    bool whole = kind != NULL;
    if (whole && (*kind < TX_PUT || *kind >= TX_KIND_END))
        return eng_fail(ENG_INVALID, "operation %u: offset %zu: kind %u is not known", index, start, *kind);
    whole = whole && take_key(reader, &operation->key, &operation->key_bytes);
    uint8_t flags = 0;
    if (whole) {
        operation->kind = (enum tx_kind) * kind;
        switch (operation->kind) {
        case TX_PUT:
        case TX_INSERT:
        case TX_UPDATE:
        case TX_EXPECT:
            whole = take_value(reader, &operation->value);
            break;
        case TX_DELETE_RANGE:
            whole = take_key(reader, &operation->to, &operation->to_bytes);
            break;
        case TX_ADD:
            whole = take_add(reader, operation, &flags);
            break;
        case TX_DELETE:
        case TX_UNSET:
        case TX_EXPECT_PRESENT:
        case TX_EXPECT_ABSENT:
        case TX_READ:
        case TX_KIND_END:
            break;
        }
    }
    if (!whole)
        return eng_fail(ENG_INVALID, "operation %u: at offset %zu: cut off", index, start);
    if ((flags & ~(ADD_HAS_MIN | ADD_HAS_MAX)) != 0)
        return eng_fail(ENG_INVALID, "operation %u: add: flags %u are not known", index, flags);
    return check_operation(index, operation);
}

enum eng_status transaction_decode(const uint8_t *bytes, size_t size, struct transaction *tx)
{
    memset(tx, 0, sizeof *tx);
    if (size > TX_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "transaction: %zu bytes are over %u", size, TX_BYTES_MAX);
    if (size < HEAD_BYTES)
        return eng_fail(ENG_INVALID, "transaction: cut off at %zu bytes", size);
    if (bytes[0] != VERSION)
        return eng_fail(ENG_INVALID, "transaction: version %u is not known here", bytes[0]);
    memcpy(tx->id, bytes + 1, sizeof tx->id);
    memcpy(&tx->expires_ms, bytes + 17, sizeof tx->expires_ms);
    uint32_t count;
    memcpy(&count, bytes + 25, sizeof count);
    if (count == 0)
        return eng_fail(ENG_INVALID, "transaction: has no operations");
    if (count > TX_OPERATIONS_MAX)
        return eng_fail(ENG_TOO_LARGE, "transaction: %u operations are over %u", count, TX_OPERATIONS_MAX);
    if ((size - HEAD_BYTES) / OPERATION_BYTES_MIN < count)
        return eng_fail(ENG_INVALID, "transaction: cut off, %u operations do not fit %zu bytes", count, size);
    struct tx_operation *operations = malloc(count * sizeof *operations);
    if (operations == NULL)
        return eng_fail(ENG_NO_MEMORY, "transaction: no memory for %u operations", count);
    struct reader reader = {bytes, bytes + HEAD_BYTES, bytes + size};
    enum eng_status status = ENG_OK;
    for (uint32_t i = 0; i < count && status == ENG_OK; i++)
        status = read_operation(&reader, i, &operations[i]);
    if (status == ENG_OK && reader.at != reader.end)
        status = eng_fail(ENG_INVALID, "transaction: %zu bytes too many behind the last operation",
                          (size_t)(reader.end - reader.at));
    if (status != ENG_OK) {
        free(operations);
        return status;
    }
    tx->operation_count = count;
    tx->operations = operations;
    return ENG_OK;
}

void transaction_release(struct transaction *tx)
{
    free(tx->operations);
    tx->operations = NULL;
    tx->operation_count = 0;
}

bool transaction_peek(const uint8_t *bytes, size_t size, uint8_t id[TX_ID_BYTES], uint64_t *expires_ms)
{
    if (size < HEAD_BYTES)
        return false;
    memcpy(id, bytes + 1, TX_ID_BYTES);
    memcpy(expires_ms, bytes + 17, sizeof *expires_ms);
    return true;
}

/* ---- encoding ---- */

static size_t operation_size(const struct tx_operation *operation)
{
    size_t size = 1 + 2 + (size_t)operation->key_bytes;
    switch (operation->kind) {
    case TX_PUT:
    case TX_INSERT:
    case TX_UPDATE:
    case TX_EXPECT:
        return size + 1 + (operation->value.tag == ENG_BYTES ? 4 : 0) + operation->value.size;
    case TX_DELETE_RANGE:
        return size + 2 + operation->to_bytes;
    case TX_ADD:
        return size + 1 + AMOUNT_BYTES * (1u + operation->has_min + operation->has_max);
    case TX_DELETE:
    case TX_UNSET:
    case TX_EXPECT_PRESENT:
    case TX_EXPECT_ABSENT:
    case TX_READ:
    case TX_KIND_END:
        break;
    }
    return size;
}

static uint8_t *put(uint8_t *to, const void *bytes, size_t size)
{
    if (size > 0)
        memcpy(to, bytes, size);
    return to + size;
}

static uint8_t *put_key(uint8_t *to, const uint8_t *key, uint16_t key_bytes)
{
    return put(put(to, &key_bytes, sizeof key_bytes), key, key_bytes);
}

static uint8_t *put_value(uint8_t *to, const struct eng_value *value)
{
    *to++ = (uint8_t)value->tag;
    if (value->tag == ENG_BYTES) {
        uint32_t size = (uint32_t)value->size;
        to = put(to, &size, sizeof size);
    }
    return put(to, value->bytes, value->size);
}

static uint8_t *put_add(uint8_t *to, const struct tx_operation *operation)
{
    *to++ = (uint8_t)((operation->has_min ? ADD_HAS_MIN : 0) | (operation->has_max ? ADD_HAS_MAX : 0));
    to = put(to, &operation->amount, AMOUNT_BYTES);
    if (operation->has_min)
        to = put(to, &operation->min, AMOUNT_BYTES);
    if (operation->has_max)
        to = put(to, &operation->max, AMOUNT_BYTES);
    return to;
}

static uint8_t *put_operation(uint8_t *to, const struct tx_operation *operation)
{
    *to++ = (uint8_t)operation->kind;
    to = put_key(to, operation->key, operation->key_bytes);
    switch (operation->kind) {
    case TX_PUT:
    case TX_INSERT:
    case TX_UPDATE:
    case TX_EXPECT:
        return put_value(to, &operation->value);
    case TX_DELETE_RANGE:
        return put_key(to, operation->to, operation->to_bytes);
    case TX_ADD:
        return put_add(to, operation);
    case TX_DELETE:
    case TX_UNSET:
    case TX_EXPECT_PRESENT:
    case TX_EXPECT_ABSENT:
    case TX_READ:
    case TX_KIND_END:
        break;
    }
    return to;
}

enum eng_status transaction_encode(const struct transaction *tx, uint8_t **bytes, size_t *size)
{
    *bytes = NULL;
    *size = 0;
    if (tx->operation_count == 0)
        return eng_fail(ENG_INVALID, "transaction: has no operations");
    if (tx->operation_count > TX_OPERATIONS_MAX)
        return eng_fail(ENG_TOO_LARGE, "transaction: %u operations are over %u", tx->operation_count,
                        TX_OPERATIONS_MAX);
    size_t total = HEAD_BYTES;
    for (uint32_t i = 0; i < tx->operation_count; i++) {
        enum eng_status status = check_operation(i, &tx->operations[i]);
        if (status != ENG_OK)
            return status;
        total += operation_size(&tx->operations[i]);
    }
    if (total > TX_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "transaction: %zu bytes are over %u", total, TX_BYTES_MAX);
    uint8_t *encoding = malloc(total);
    if (encoding == NULL)
        return eng_fail(ENG_NO_MEMORY, "transaction: no memory for %zu bytes", total);
    uint8_t version = VERSION, *to = encoding;
    to = put(to, &version, sizeof version);
    to = put(to, tx->id, sizeof tx->id);
    to = put(to, &tx->expires_ms, sizeof tx->expires_ms);
    to = put(to, &tx->operation_count, sizeof tx->operation_count);
    for (uint32_t i = 0; i < tx->operation_count; i++)
        to = put_operation(to, &tx->operations[i]);
    assert(to == encoding + total);
    *bytes = encoding;
    *size = total;
    return ENG_OK;
}
