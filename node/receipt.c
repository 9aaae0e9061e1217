/*
 * Receipts: what became of a transaction, in the bytes that a header's receipts digest covers, and in JSON.
 *
 *   offset  bytes  what                              (all integers little-endian)
 *        0      1  version = 1
 *        1     16  id of the transaction
 *       17      8  expires, as in the transaction
 *       25      8  height
 *       33      4  index in the block
 *       37      1  code (enum tx_code)
 *       38      4  index of the operation that failed, 0xffffffff: none
 *       42      2  number of results
 *       44         results: u8 0 absent | u8 1, u32 n, n bytes | u8 2, amount 16 | u8 3, count u64
 *
 * A receipt is valid if and only if its version is 1, its code is known, its results are of these kinds, at most
 * TX_OPERATIONS_MAX of them in at most RECEIPT_RESULTS_MAX bytes, a failed one has none, and a good one names no failed
 * operation. Receipts of a block stand one behind the other, so decoding says how long the one in front is.
 *
 * Encoding does not fail: the ledger made the receipt, and a wrong one is a programming error. Decoding fails with
 * ENG_DAMAGED. What is decoded points into the bytes.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "receipt.h"

#define VERSION 1u
#define HEAD_BYTES 44u
#define AMOUNT_BYTES 16u
#define COUNT_BYTES 8u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie in memory");
_Static_assert(HEAD_BYTES == 1 + TX_ID_BYTES + 8 + 8 + 4 + 1 + 4 + 2, "as the table says");

/* ---- results ---- */

/* One result at *at: its kind, and its payload in *bytes, *size. false: cut off, or of no known kind. */
static bool result_next(const uint8_t *results, size_t size, size_t *at, enum receipt_result *kind,
                        const uint8_t **payload, size_t *payload_bytes)
{
    if (*at == size || results[*at] > RESULT_COUNT)
        return false;
    *kind = (enum receipt_result)results[(*at)++];
    uint32_t length = 0;
    switch (*kind) {
    case RESULT_ABSENT:
        break;
    case RESULT_BYTES:
        if (size - *at < sizeof length)
            return false;
        memcpy(&length, results + *at, sizeof length);
        *at += sizeof length;
        break;
    case RESULT_AMOUNT:
        length = AMOUNT_BYTES;
        break;
    case RESULT_COUNT:
        length = COUNT_BYTES;
        break;
    }
    if (size - *at < length)
        return false;
    *payload = results + *at;
    *payload_bytes = length;
    *at += length;
    return true;
}

/* Length of count results at the start of bytes; false: they are not there. */
static bool results_length(const uint8_t *bytes, size_t size, uint32_t count, size_t *length)
{
    enum receipt_result kind;
    const uint8_t *payload;
    size_t payload_bytes;
    *length = 0;
    for (uint32_t i = 0; i < count; i++)
        if (!result_next(bytes, size, length, &kind, &payload, &payload_bytes))
            return false;
    return true;
}

/* What must hold between the fields; NULL, or why not. */
static const char *receipt_fault(const struct receipt *receipt)
{
    if (receipt->result_count > TX_OPERATIONS_MAX)
        return "more results than a transaction has operations";
    if (receipt->results_bytes > RECEIPT_RESULTS_MAX)
        return "results are over the limit";
    if (receipt->code == TX_OK && receipt->failed_op != RECEIPT_NO_OPERATION)
        return "a failed operation in a good one";
    if (receipt->code != TX_OK && receipt->result_count > 0)
        return "results in a failed one";
    if (receipt->failed_op != RECEIPT_NO_OPERATION && receipt->failed_op >= TX_OPERATIONS_MAX)
        return "failed operation is over the limit";
    return NULL;
}

/* ---- codec ---- */

size_t receipt_size(const struct receipt *receipt)
{
    return HEAD_BYTES + receipt->results_bytes;
}

void receipt_encode(const struct receipt *receipt, uint8_t *bytes)
{
    size_t length;
    assert(receipt->code <= TX_NOT_LEADER && receipt_fault(receipt) == NULL);
    assert(results_length(receipt->results, receipt->results_bytes, receipt->result_count, &length) &&
           length == receipt->results_bytes);
    (void)length;
    bytes[0] = VERSION;
    memcpy(bytes + 1, receipt->id, TX_ID_BYTES);
    memcpy(bytes + 17, &receipt->expires_ms, sizeof receipt->expires_ms);
    memcpy(bytes + 25, &receipt->height, sizeof receipt->height);
    memcpy(bytes + 33, &receipt->index, sizeof receipt->index);
    bytes[37] = (uint8_t)receipt->code;
    memcpy(bytes + 38, &receipt->failed_op, sizeof receipt->failed_op);
    memcpy(bytes + 42, &receipt->result_count, sizeof receipt->result_count);
    if (receipt->results_bytes > 0)
        memcpy(bytes + HEAD_BYTES, receipt->results, receipt->results_bytes);
}

enum eng_status receipt_decode(const uint8_t *bytes, size_t size, struct receipt *receipt, size_t *used)
{
    memset(receipt, 0, sizeof *receipt);
    *used = 0;
    if (size < HEAD_BYTES)
        return eng_fail(ENG_DAMAGED, "receipt: cut off at %zu bytes", size);
    if (bytes[0] != VERSION)
        return eng_fail(ENG_DAMAGED, "receipt: version %u is not known here", bytes[0]);
    if (bytes[37] > TX_NOT_LEADER)
        return eng_fail(ENG_DAMAGED, "receipt: code %u is not known", bytes[37]);
    memcpy(receipt->id, bytes + 1, TX_ID_BYTES);
    memcpy(&receipt->expires_ms, bytes + 17, sizeof receipt->expires_ms);
    memcpy(&receipt->height, bytes + 25, sizeof receipt->height);
    memcpy(&receipt->index, bytes + 33, sizeof receipt->index);
    receipt->code = (enum tx_code)bytes[37];
    memcpy(&receipt->failed_op, bytes + 38, sizeof receipt->failed_op);
    memcpy(&receipt->result_count, bytes + 42, sizeof receipt->result_count);
    receipt->results = bytes + HEAD_BYTES;
    if (!results_length(receipt->results, size - HEAD_BYTES, receipt->result_count, &receipt->results_bytes))
        return eng_fail(ENG_DAMAGED, "receipt: %u results are cut off or of no known kind", receipt->result_count);
    const char *fault = receipt_fault(receipt);
    if (fault != NULL)
        return eng_fail(ENG_DAMAGED, "receipt: %s", fault);
    *used = HEAD_BYTES + receipt->results_bytes;
    return ENG_OK;
}

/* ---- JSON ---- */

static json_t *json_hex(const char *prefix, const uint8_t *bytes, size_t size)
{
    size_t at = strlen(prefix);
    char *text = malloc(at + 2 * size + 1);
    if (text == NULL)
        return NULL;
    memcpy(text, prefix, at);
    sodium_bin2hex(text + at, 2 * size + 1, bytes, size);
    json_t *json = json_stringn(text, at + 2 * size);
    free(text);
    return json;
}

/* Of text that is UTF-8: no control characters (C0, DEL, C1). */
static bool is_printable(const uint8_t *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f)
            return false;
        if (text[i] == 0xc2 && i + 1 < size && text[i + 1] < 0xa0)
            return false;
    }
    return true;
}

static json_t *json_bytes(const uint8_t *bytes, size_t size)
{
    json_t *json = is_printable(bytes, size) ? json_stringn((const char *)bytes, size) : NULL; /* NULL: not UTF-8 */
    return json != NULL ? json : json_hex("0x", bytes, size);
}

static json_t *json_result(enum receipt_result kind, const uint8_t *payload, size_t payload_bytes)
{
    char text[AMOUNT_TEXT_MAX];
    uint64_t count;
    switch (kind) {
    case RESULT_ABSENT:
        return json_null();
    case RESULT_BYTES:
        return json_bytes(payload, payload_bytes);
    case RESULT_AMOUNT:
        amount_to_text(amount_from_bytes(payload), text);
        return json_string(text);
    case RESULT_COUNT:
        memcpy(&count, payload, sizeof count);
        return json_integer((json_int_t)count);
    }
    return NULL;
}

static json_t *json_results(const struct receipt *receipt)
{
    json_t *list = json_array();
    size_t at = 0;
    for (uint32_t i = 0; i < receipt->result_count && list != NULL; i++) {
        enum receipt_result kind;
        const uint8_t *payload;
        size_t payload_bytes;
        bool there = result_next(receipt->results, receipt->results_bytes, &at, &kind, &payload, &payload_bytes);
        assert(there);
        if (!there || json_array_append_new(list, json_result(kind, payload, payload_bytes)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

json_t *receipt_to_json(const struct receipt *receipt)
{
    json_t *json = json_object();
    bool whole = json != NULL && json_object_set_new(json, "id", json_hex("", receipt->id, TX_ID_BYTES)) == 0 &&
                 json_object_set_new(json, "height", json_integer((json_int_t)receipt->height)) == 0 &&
                 json_object_set_new(json, "index", json_integer(receipt->index)) == 0 &&
                 json_object_set_new(json, "ok", json_boolean(receipt->code == TX_OK)) == 0 &&
                 json_object_set_new(json, "code", json_string(tx_code_name(receipt->code))) == 0;
    if (whole && receipt->failed_op != RECEIPT_NO_OPERATION)
        whole = json_object_set_new(json, "failed_op", json_integer(receipt->failed_op)) == 0;
    whole = whole && json_object_set_new(json, "results", json_results(receipt)) == 0;
    if (whole)
        return json;
    json_decref(json);
    return NULL;
}
