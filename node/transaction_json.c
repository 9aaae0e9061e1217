/*
 * Transactions from JSON, and the text forms of keys and amounts.
 *
 * One table says which fields an operation has; a field that is not in its row is an error, so is a missing one, so is
 * "key" next to "key_hex". The happy path: the fields of each operation are read into a struct tx_operation whose keys
 * and values point into the JSON strings (by length: a string may hold U+0000), or into memory of the reading for what
 * came as hex; then transaction_encode() makes the bytes and checks the limits. The reading is released either way.
 *
 * Duplicate keys of an object cannot be seen here any more: whoever parses the text passes JSON_REJECT_DUPLICATES, and
 * JSON_ALLOW_NUL so that strings may hold U+0000.
 *
 * Failures are ENG_INVALID, ENG_TOO_LARGE and ENG_NO_MEMORY; the line names the operation by its index from 0, as a
 * receipt's failed_op does, its name and the field: "operation 3: add: amount is not a decimal integer". Text from the
 * JSON is shown with every byte that is not printable ASCII replaced, and cut: an error is one line.
 *
 * Amounts are decimal strings or JSON integers; as text: an optional '-' and digits, within 128 bits. Nothing is
 * rounded.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "transaction.h"

#define SHOWN_MAX 40 /* of a name in an error line */
#define FIELD_NAME_MAX 32

enum field {
    FIELD_KEY = 1,
    FIELD_VALUE = 2,
    FIELD_AMOUNT = 4,
    FIELD_LIMITS = 8,
    FIELD_RANGE = 16,
};

/* What an operation has besides "op". Of value and amount an operation that has both takes exactly one. */
static const unsigned operation_fields[TX_KIND_END] = {
    [TX_PUT] = FIELD_KEY | FIELD_VALUE,
    [TX_INSERT] = FIELD_KEY | FIELD_VALUE,
    [TX_UPDATE] = FIELD_KEY | FIELD_VALUE,
    [TX_DELETE] = FIELD_KEY,
    [TX_UNSET] = FIELD_KEY,
    [TX_DELETE_RANGE] = FIELD_RANGE,
    [TX_ADD] = FIELD_KEY | FIELD_AMOUNT | FIELD_LIMITS,
    [TX_EXPECT] = FIELD_KEY | FIELD_VALUE | FIELD_AMOUNT,
    [TX_EXPECT_PRESENT] = FIELD_KEY,
    [TX_EXPECT_ABSENT] = FIELD_KEY,
    [TX_READ] = FIELD_KEY,
};

static const struct {
    const char *name;
    enum field field;
} field_names[] = {
    {"key", FIELD_KEY},       {"key_hex", FIELD_KEY}, {"value", FIELD_VALUE},    {"value_hex", FIELD_VALUE},
    {"from", FIELD_RANGE},    {"to", FIELD_RANGE},    {"from_hex", FIELD_RANGE}, {"to_hex", FIELD_RANGE},
    {"amount", FIELD_AMOUNT}, {"min", FIELD_LIMITS},  {"max", FIELD_LIMITS},
};

/* One transaction being read. */
struct reading {
    size_t index;     /* of the operation */
    const char *name; /* of the operation */
    uint8_t **owned;  /* what came as hex or is made here: at most two pieces an operation */
    size_t owned_count, owned_max;
};

static const char *shown(const char *text, size_t size, char line[SHOWN_MAX + 4])
{
    size_t length = size < SHOWN_MAX ? size : SHOWN_MAX;
    for (size_t i = 0; i < length; i++)
        line[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    snprintf(line + length, 4, "%s", size > SHOWN_MAX ? "..." : "");
    return line;
}

/* ---- text forms ---- */

static enum eng_status parse_amount(const char *text, size_t size, __int128 *amount)
{
    bool negative = size > 0 && text[0] == '-';
    unsigned __int128 limit = ((unsigned __int128)1 << 127) - (negative ? 0 : 1), magnitude = 0;
    size_t at = negative;
    if (at == size)
        return ENG_INVALID;
    for (; at < size; at++) {
        if (text[at] < '0' || text[at] > '9')
            return ENG_INVALID;
        unsigned digit = (unsigned)(text[at] - '0');
        if (magnitude > (limit - digit) / 10)
            return ENG_TOO_LARGE;
        magnitude = magnitude * 10 + digit;
    }
    *amount = (__int128)(negative ? -magnitude : magnitude);
    return ENG_OK;
}

enum eng_status amount_from_text(const char *text, __int128 *amount)
{
    char line[SHOWN_MAX + 4];
    size_t size = strlen(text);
    enum eng_status status = parse_amount(text, size, amount);
    if (status == ENG_TOO_LARGE) /* not a size: one error for what is no amount */
        return eng_fail(ENG_INVALID, "amount %s: does not fit 128 bits", shown(text, size, line));
    if (status != ENG_OK)
        return eng_fail(status, "amount %s: not a decimal integer", shown(text, size, line));
    return ENG_OK;
}

void amount_to_text(__int128 amount, char text[AMOUNT_TEXT_MAX])
{
    unsigned __int128 magnitude = amount < 0 ? -(unsigned __int128)amount : (unsigned __int128)amount;
    char digits[AMOUNT_TEXT_MAX];
    size_t count = 0, at = 0;
    do {
        digits[count++] = (char)('0' + (int)(magnitude % 10));
        magnitude /= 10;
    } while (magnitude > 0);
    if (amount < 0)
        text[at++] = '-';
    while (count > 0)
        text[at++] = digits[--count];
    assert(at < AMOUNT_TEXT_MAX);
    text[at] = '\0';
}

/* Hex digits, in pairs, of either case, into a malloc'ed piece (never NULL on success). */
static enum eng_status parse_hex(const char *digits, size_t count, uint8_t **bytes, size_t *size)
{
    uint8_t *piece = malloc(count / 2 + 1);
    if (piece == NULL)
        return ENG_NO_MEMORY;
    if (count % 2 != 0 || sodium_hex2bin(piece, count / 2, digits, count, NULL, size, NULL) != 0) {
        free(piece);
        return ENG_INVALID;
    }
    assert(*size == count / 2);
    *bytes = piece;
    return ENG_OK;
}

enum eng_status key_from_text(const char *text, uint8_t **key, size_t *key_bytes)
{
    char line[SHOWN_MAX + 4];
    size_t prefix = strncmp(text, "0x", 2) == 0 ? 2 : strncmp(text, "hex:", 4) == 0 ? 4 : 0, size = strlen(text);
    uint8_t *bytes = NULL;
    size_t bytes_size = size;
    enum eng_status status = ENG_OK;
    if (prefix > 0)
        status = parse_hex(text + prefix, size - prefix, &bytes, &bytes_size);
    else if ((bytes = malloc(size + 1)) == NULL)
        status = ENG_NO_MEMORY;
    else
        memcpy(bytes, text, size);
    if (status == ENG_NO_MEMORY)
        return eng_fail(status, "key: no memory for %zu bytes", size);
    if (status != ENG_OK)
        return eng_fail(status, "key %s: not pairs of hex digits", shown(text, size, line));
    if (bytes_size == 0)
        status = eng_fail(ENG_INVALID, "key %s: empty", shown(text, size, line));
    else if (bytes_size > ENG_KEY_BYTES_MAX)
        status = eng_fail(ENG_TOO_LARGE, "key: %zu bytes are over %u", bytes_size, ENG_KEY_BYTES_MAX);
    if (status != ENG_OK) {
        free(bytes);
        return status;
    }
    *key = bytes;
    *key_bytes = bytes_size;
    return ENG_OK;
}

/* ---- fields ---- */

static enum eng_status field_fail(const struct reading *reading, const char *field, const char *why)
{
    return eng_fail(ENG_INVALID, "operation %zu: %s: %s %s", reading->index, reading->name, field, why);
}

static enum eng_status own(struct reading *reading, uint8_t *piece)
{
    assert(reading->owned_count < reading->owned_max);
    if (piece == NULL)
        return eng_fail(ENG_NO_MEMORY, "operation %zu: %s: no memory", reading->index, reading->name);
    reading->owned[reading->owned_count++] = piece;
    return ENG_OK;
}

/* NAME, text, or NAME_hex: exactly one. */
static enum eng_status field_bytes(struct reading *reading, const json_t *object, const char *name,
                                   const uint8_t **bytes, size_t *size)
{
    char hex_name[FIELD_NAME_MAX];
    snprintf(hex_name, sizeof hex_name, "%s_hex", name);
    const json_t *text = json_object_get(object, name), *hex = json_object_get(object, hex_name);
    if (text == NULL && hex == NULL)
        return field_fail(reading, name, "is missing");
    if (text != NULL && hex != NULL)
        return field_fail(reading, name, "is given twice, as text and as hex");
    if (json_is_array(text) && strncmp(name, "value", 5) != 0)
        return field_fail(reading, name, "is a list: this version does not have subtrees");
    if (text != NULL) {
        if (!json_is_string(text))
            return field_fail(reading, name, "is not a string");
        *bytes = (const uint8_t *)json_string_value(text);
        *size = json_string_length(text);
        return ENG_OK;
    }
    if (!json_is_string(hex))
        return field_fail(reading, hex_name, "is not a string");
    uint8_t *piece = NULL;
    enum eng_status status = parse_hex(json_string_value(hex), json_string_length(hex), &piece, size);
    if (status == ENG_INVALID)
        return field_fail(reading, hex_name, "is not pairs of hex digits");
    *bytes = piece;
    return own(reading, piece);
}

static enum eng_status field_key(struct reading *reading, const json_t *object, const char *name, const uint8_t **key,
                                 uint16_t *key_bytes)
{
    size_t size;
    enum eng_status status = field_bytes(reading, object, name, key, &size);
    if (status != ENG_OK)
        return status;
    if (size == 0)
        return field_fail(reading, name, "is empty");
    if (size > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "operation %zu: %s: %s of %zu bytes is over %u", reading->index, reading->name,
                        name, size, ENG_KEY_BYTES_MAX);
    *key_bytes = (uint16_t)size;
    return ENG_OK;
}

static enum eng_status field_amount(struct reading *reading, const json_t *object, const char *name, __int128 *amount)
{
    const json_t *field = json_object_get(object, name);
    if (field == NULL)
        return field_fail(reading, name, "is missing");
    if (json_is_integer(field)) {
        *amount = json_integer_value(field);
        return ENG_OK;
    }
    if (!json_is_string(field))
        return field_fail(reading, name, "is not a decimal integer");
    enum eng_status status = parse_amount(json_string_value(field), json_string_length(field), amount);
    if (status == ENG_TOO_LARGE)
        return field_fail(reading, name, "does not fit 128 bits");
    return status == ENG_OK ? ENG_OK : field_fail(reading, name, "is not a decimal integer");
}

static enum eng_status field_limits(struct reading *reading, const json_t *object, struct tx_operation *operation)
{
    enum eng_status status = ENG_OK;
    operation->has_min = json_object_get(object, "min") != NULL;
    operation->has_max = json_object_get(object, "max") != NULL;
    if (operation->has_min)
        status = field_amount(reading, object, "min", &operation->min);
    if (operation->has_max && status == ENG_OK)
        status = field_amount(reading, object, "max", &operation->max);
    return status;
}

static enum eng_status field_value(struct reading *reading, const json_t *object, struct eng_value *value)
{
    value->tag = ENG_BYTES;
    return field_bytes(reading, object, "value", &value->bytes, &value->size);
}

/* expect: a value or an amount. */
static enum eng_status field_value_or_amount(struct reading *reading, const json_t *object, struct eng_value *value)
{
    bool has_value = json_object_get(object, "value") != NULL || json_object_get(object, "value_hex") != NULL;
    if (json_object_get(object, "amount") == NULL)
        return has_value ? field_value(reading, object, value) : field_fail(reading, "value or amount", "is missing");
    if (has_value)
        return field_fail(reading, "value and amount", "are both given");
    __int128 amount;
    enum eng_status status = field_amount(reading, object, "amount", &amount);
    if (status != ENG_OK)
        return status;
    uint8_t *piece = malloc(sizeof amount);
    if (piece != NULL)
        amount_to_bytes(amount, piece);
    *value = (struct eng_value){ENG_AMOUNT, piece, sizeof amount};
    return own(reading, piece);
}

/* ---- operations ---- */

/* Names of INTERFACE.md that this version does not have; module operations have a dot. */
static bool is_later(const char *name)
{
    static const char *const later[] = {"unchanged", "tree", "clone", "move"};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (strcmp(name, later[i]) == 0)
            return true;
    return strchr(name, '.') != NULL;
}

static enum eng_status operation_kind(struct reading *reading, const json_t *object, enum tx_kind *kind)
{
    char line[SHOWN_MAX + 4];
    const json_t *op = json_object_get(object, "op");
    if (op == NULL)
        return eng_fail(ENG_INVALID, "operation %zu: op is missing", reading->index);
    if (!json_is_string(op))
        return eng_fail(ENG_INVALID, "operation %zu: op is not a string", reading->index);
    const char *name = json_string_value(op);
    size_t length = json_string_length(op);
    for (int i = TX_PUT; i < TX_KIND_END && strlen(name) == length; i++) {
        if (strcmp(name, tx_kind_name((enum tx_kind)i)) == 0) {
            *kind = (enum tx_kind)i;
            reading->name = tx_kind_name(*kind);
            return ENG_OK;
        }
    }
    if (is_later(name))
        return eng_fail(ENG_INVALID, "operation %zu: %s: this version does not have this operation", reading->index,
                        shown(name, length, line));
    return eng_fail(ENG_INVALID, "operation %zu: op \"%s\" is not known", reading->index, shown(name, length, line));
}

static enum eng_status check_fields(const struct reading *reading, const json_t *object, enum tx_kind kind)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        bool found = strcmp(name, "op") == 0;
        for (size_t i = 0; i < sizeof field_names / sizeof *field_names && !found; i++)
            found = (operation_fields[kind] & field_names[i].field) != 0 && strcmp(name, field_names[i].name) == 0;
        char line[SHOWN_MAX + 4];
        if (!found)
            return field_fail(reading, shown(name, strlen(name), line), "is not a field of this operation");
    }
    return ENG_OK;
}

static enum eng_status read_operation(struct reading *reading, const json_t *object, struct tx_operation *operation)
{
    if (!json_is_object(object))
        return eng_fail(ENG_INVALID, "operation %zu: is not an object", reading->index);
    enum eng_status status = operation_kind(reading, object, &operation->kind);
    if (status == ENG_OK)
        status = check_fields(reading, object, operation->kind);
    if (status != ENG_OK)
        return status;
    unsigned fields = operation_fields[operation->kind];
    if (fields & FIELD_KEY)
        status = field_key(reading, object, "key", &operation->key, &operation->key_bytes);
    if (fields & FIELD_RANGE)
        status = field_key(reading, object, "from", &operation->key, &operation->key_bytes);
    if ((fields & FIELD_RANGE) && status == ENG_OK)
        status = field_key(reading, object, "to", &operation->to, &operation->to_bytes);
    if (status != ENG_OK)
        return status;
    if ((fields & FIELD_VALUE) && (fields & FIELD_AMOUNT))
        return field_value_or_amount(reading, object, &operation->value);
    if (fields & FIELD_VALUE)
        return field_value(reading, object, &operation->value);
    if (fields & FIELD_AMOUNT)
        status = field_amount(reading, object, "amount", &operation->amount);
    if ((fields & FIELD_LIMITS) && status == ENG_OK)
        status = field_limits(reading, object, operation);
    return status;
}

/* ---- the transaction ---- */

static enum eng_status read_head(const json_t *json, uint64_t expires_default, bool zero_id, struct transaction *tx)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)json, name, value)
    {
        char line[SHOWN_MAX + 4];
        if (strcmp(name, "id") != 0 && strcmp(name, "expires") != 0 && strcmp(name, "ops") != 0)
            return eng_fail(ENG_INVALID, "transaction: %s is not a field of a transaction",
                            shown(name, strlen(name), line));
    }
    const json_t *id = json_object_get(json, "id"), *expires = json_object_get(json, "expires");
    if (id != NULL && (!json_is_string(id) || json_string_length(id) != 2 * TX_ID_BYTES ||
                       sodium_hex2bin(tx->id, TX_ID_BYTES, json_string_value(id), 2 * TX_ID_BYTES, NULL, NULL, NULL)))
        return eng_fail(ENG_INVALID, "transaction: id is not 32 hex digits");
    if (id != NULL && zero_id && sodium_is_zero(tx->id, TX_ID_BYTES))
        return eng_fail(ENG_INVALID, "transaction: an id of zeros stands for none in a block: leave it out");
    if (id == NULL && !zero_id)
        randombytes_buf(tx->id, TX_ID_BYTES);
    tx->expires_ms = expires_default;
    if (expires == NULL)
        return ENG_OK;
    if (!json_is_integer(expires) || json_integer_value(expires) < 1)
        return eng_fail(ENG_INVALID, "transaction: expires is not a positive integer of milliseconds");
    tx->expires_ms = (uint64_t)json_integer_value(expires);
    return ENG_OK;
}

static enum eng_status read_operations(const json_t *ops, struct reading *reading, struct transaction *tx)
{
    tx->operations = calloc(tx->operation_count, sizeof *tx->operations);
    reading->owned_max = 2 * (size_t)tx->operation_count;
    reading->owned = calloc(reading->owned_max, sizeof *reading->owned);
    if (tx->operations == NULL || reading->owned == NULL)
        return eng_fail(ENG_NO_MEMORY, "transaction: no memory for %u operations", tx->operation_count);
    enum eng_status status = ENG_OK;
    for (uint32_t i = 0; i < tx->operation_count && status == ENG_OK; i++) {
        reading->index = i;
        status = read_operation(reading, json_array_get(ops, i), &tx->operations[i]);
    }
    return status;
}

enum eng_status transaction_from_json(const json_t *json, uint64_t expires_default, bool zero_id, uint8_t **bytes,
                                      size_t *size)
{
    *bytes = NULL;
    *size = 0;
    if (!json_is_object(json))
        return eng_fail(ENG_INVALID, "transaction: is not an object");
    struct transaction tx = {0};
    enum eng_status status = read_head(json, expires_default, zero_id, &tx);
    if (status != ENG_OK)
        return status;
    const json_t *ops = json_object_get(json, "ops");
    if (!json_is_array(ops))
        return eng_fail(ENG_INVALID, ops == NULL ? "transaction: ops is missing" : "transaction: ops is not a list");
    if (json_array_size(ops) == 0)
        return eng_fail(ENG_INVALID, "transaction: has no operations");
    if (json_array_size(ops) > TX_OPERATIONS_MAX)
        return eng_fail(ENG_TOO_LARGE, "transaction: %zu operations are over %u", json_array_size(ops),
                        TX_OPERATIONS_MAX);
    tx.operation_count = (uint32_t)json_array_size(ops);
    struct reading reading = {0};
    status = read_operations(ops, &reading, &tx);
    if (status == ENG_OK)
        status = transaction_encode(&tx, bytes, size);
    for (size_t i = 0; i < reading.owned_count; i++)
        free(reading.owned[i]);
    free(reading.owned);
    free(tx.operations);
    return status;
}
