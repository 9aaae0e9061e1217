/*
 * Blocks handed in whole: the codec, and the way from a line of a block file.
 *
 *   offset  bytes  what                              (all integers little-endian)
 *        0      1  version = 1
 *        1      8  height, from 1
 *        9      8  time, ms since 1970 (0: the clock of the node)
 *       17      2  note bytes n
 *       19      n  note
 *     19+n      4  number of transactions
 *     23+n         transactions: u32 bytes | bytes
 *
 * A block is valid if and only if it has at most BLOCK_BYTES_MAX bytes, version 1, a height, a note that may stand in a
 * header (UTF-8, at most HEADER_NOTE_MAX bytes), and at most BLOCK_TRANSACTIONS_MAX transactions of at most
 * TX_BYTES_MAX bytes that fill it exactly. What is inside a transaction is transaction_decode()'s question. A block may
 * have no transactions: a height at which nothing happened.
 *
 * In JSON "ops" stands for one transaction with just these operations; an empty list is refused there as in any
 * transaction. Transactions without an id or an expiry get zeros, which the ledger fills in or takes as "never".
 *
 * Failures: ENG_INVALID (the line names the transaction, the operation and the field), ENG_TOO_LARGE, ENG_NO_MEMORY.
 */
#include <assert.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "pando/header.h"

#include "transaction.h"

#define VERSION 1u
#define HEAD_BYTES 19u
#define COUNT_BYTES 4u
#define LENGTH_BYTES 4u
#define BUFFER_BYTES_FIRST 4096u
#define SHOWN_MAX 40 /* of a name in an error line */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie in memory");

/* ---- decoding ---- */

static enum eng_status read_transactions(const uint8_t *bytes, size_t size, size_t at, struct block *block)
{
    for (uint32_t i = 0; i < block->transaction_count; i++) {
        uint32_t length;
        if (size - at < sizeof length)
            return eng_fail(ENG_INVALID, "block: transaction %u: cut off at offset %zu", i, size);
        memcpy(&length, bytes + at, sizeof length);
        at += sizeof length;
        if (length > TX_BYTES_MAX)
            return eng_fail(ENG_TOO_LARGE, "block: transaction %u: %u bytes are over %u", i, length, TX_BYTES_MAX);
        if (length > size - at)
            return eng_fail(ENG_INVALID, "block: transaction %u: %u bytes at offset %zu, only %zu are there", i, length,
                            at, size - at);
        block->transactions[i].bytes = bytes + at;
        block->transactions[i].size = length;
        at += length;
    }
    if (at != size)
        return eng_fail(ENG_INVALID, "block: %zu bytes too many behind the last transaction", size - at);
    return ENG_OK;
}

enum eng_status block_decode(const uint8_t *bytes, size_t size, struct block *block)
{
    memset(block, 0, sizeof *block);
    if (size > BLOCK_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "block: %zu bytes are over %u", size, BLOCK_BYTES_MAX);
    if (size < HEAD_BYTES + COUNT_BYTES)
        return eng_fail(ENG_INVALID, "block: cut off at %zu bytes", size);
    if (bytes[0] != VERSION)
        return eng_fail(ENG_INVALID, "block: version %u is not known here", bytes[0]);
    uint32_t count;
    memcpy(&block->height, bytes + 1, sizeof block->height);
    memcpy(&block->time_ms, bytes + 9, sizeof block->time_ms);
    memcpy(&block->note_bytes, bytes + 17, sizeof block->note_bytes);
    if (block->height == 0)
        return eng_fail(ENG_INVALID, "block: height 0 is the genesis");
    if (block->note_bytes > HEADER_NOTE_MAX)
        return eng_fail(ENG_TOO_LARGE, "block: a note of %u bytes is over %u", block->note_bytes, HEADER_NOTE_MAX);
    if (block->note_bytes > size - HEAD_BYTES - COUNT_BYTES)
        return eng_fail(ENG_INVALID, "block: note: cut off at offset %zu", size);
    block->note = (const char *)bytes + HEAD_BYTES;
    if (!header_note_valid(block->note, block->note_bytes))
        return eng_fail(ENG_INVALID, "block: the note is not UTF-8");
    size_t at = HEAD_BYTES + block->note_bytes;
    memcpy(&count, bytes + at, sizeof count);
    at += sizeof count;
    if (count > BLOCK_TRANSACTIONS_MAX)
        return eng_fail(ENG_TOO_LARGE, "block: %u transactions are over %u", count, BLOCK_TRANSACTIONS_MAX);
    if ((size - at) / LENGTH_BYTES < count)
        return eng_fail(ENG_INVALID, "block: cut off, %u transactions do not fit %zu bytes", count, size - at);
    if (count > 0 && (block->transactions = malloc(count * sizeof *block->transactions)) == NULL)
        return eng_fail(ENG_NO_MEMORY, "block: no memory for %u transactions", count);
    block->transaction_count = count;
    enum eng_status status = read_transactions(bytes, size, at, block);
    if (status != ENG_OK)
        block_release(block);
    return status;
}

void block_release(struct block *block)
{
    free(block->transactions);
    block->transactions = NULL;
    block->transaction_count = 0;
}

/* ---- from JSON ---- */

struct buffer {
    uint8_t *bytes;
    size_t size, capacity;
};

static enum eng_status append(struct buffer *buffer, const void *bytes, size_t size)
{
    if (size > BLOCK_BYTES_MAX - buffer->size)
        return eng_fail(ENG_TOO_LARGE, "block: over %u bytes", BLOCK_BYTES_MAX);
    if (buffer->size + size > buffer->capacity) {
        size_t capacity = buffer->capacity > 0 ? buffer->capacity : BUFFER_BYTES_FIRST;
        while (capacity < buffer->size + size)
            capacity *= 2;
        uint8_t *grown = realloc(buffer->bytes, capacity);
        if (grown == NULL)
            return eng_fail(ENG_NO_MEMORY, "block: no memory for %zu bytes", capacity);
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    if (size > 0)
        memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
    return ENG_OK;
}

static enum eng_status check_fields(const json_t *json)
{
    static const char *const known[] = {"height", "note", "time", "txs", "ops"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)json, name, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || strcmp(name, known[i]) == 0;
        if (found)
            continue;
        char line[SHOWN_MAX + 1]; /* one line, whatever the name holds */
        snprintf(line, sizeof line, "%s", name);
        for (char *at = line; *at != '\0'; at++)
            if (*at < 0x20 || *at >= 0x7f)
                *at = '?';
        return eng_fail(ENG_INVALID, "block: %s is not a field of a block", line);
    }
    return ENG_OK;
}

/* Everything before the transactions. */
static enum eng_status append_head(struct buffer *buffer, const json_t *json, uint32_t count)
{
    const json_t *height = json_object_get(json, "height"), *time = json_object_get(json, "time"),
                 *note = json_object_get(json, "note");
    if (!json_is_integer(height) || json_integer_value(height) < 1)
        return eng_fail(ENG_INVALID, "block: height is not an integer from 1");
    if (time != NULL && (!json_is_integer(time) || json_integer_value(time) < 0))
        return eng_fail(ENG_INVALID, "block: time is not an integer of milliseconds from 0");
    if (note != NULL && !json_is_string(note))
        return eng_fail(ENG_INVALID, "block: note is not a string");
    size_t note_bytes = note != NULL ? json_string_length(note) : 0;
    if (note_bytes > HEADER_NOTE_MAX)
        return eng_fail(ENG_TOO_LARGE, "block: a note of %zu bytes is over %u", note_bytes, HEADER_NOTE_MAX);
    if (!header_note_valid(json_string_value(note), note_bytes))
        return eng_fail(ENG_INVALID, "block: the note is not UTF-8");
    uint8_t head[HEAD_BYTES] = {VERSION};
    uint64_t height_number = (uint64_t)json_integer_value(height),
             time_ms = time != NULL ? (uint64_t)json_integer_value(time) : 0;
    uint16_t length = (uint16_t)note_bytes;
    memcpy(head + 1, &height_number, sizeof height_number);
    memcpy(head + 9, &time_ms, sizeof time_ms);
    memcpy(head + 17, &length, sizeof length);
    enum eng_status status = append(buffer, head, sizeof head);
    if (status == ENG_OK)
        status = append(buffer, json_string_value(note), note_bytes);
    if (status == ENG_OK)
        status = append(buffer, &count, sizeof count);
    return status;
}

static enum eng_status append_transaction(struct buffer *buffer, const json_t *json, size_t index)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    enum eng_status status = transaction_from_json(json, 0, true, &bytes, &size);
    if (status != ENG_OK) {
        char line[512];
        snprintf(line, sizeof line, "%s", eng_error());
        return eng_fail(status, "transaction %zu: %s", index, line);
    }
    uint32_t length = (uint32_t)size;
    status = append(buffer, &length, sizeof length);
    if (status == ENG_OK)
        status = append(buffer, bytes, size);
    free(bytes);
    return status;
}

static enum eng_status append_operations(struct buffer *buffer, json_t *ops)
{
    json_t *transaction = json_object();
    enum eng_status status;
    if (transaction == NULL || json_object_set(transaction, "ops", ops) != 0)
        status = eng_fail(ENG_NO_MEMORY, "block: no memory for its transaction");
    else
        status = append_transaction(buffer, transaction, 0);
    json_decref(transaction);
    return status;
}

enum eng_status block_from_json(const json_t *json, uint8_t **bytes, size_t *size)
{
    *bytes = NULL;
    *size = 0;
    if (!json_is_object(json))
        return eng_fail(ENG_INVALID, "block: is not an object");
    enum eng_status status = check_fields(json);
    if (status != ENG_OK)
        return status;
    json_t *txs = json_object_get(json, "txs"), *ops = json_object_get(json, "ops");
    if ((txs == NULL) == (ops == NULL))
        return eng_fail(ENG_INVALID, "block: needs txs or ops, one of them");
    if (txs != NULL && !json_is_array(txs))
        return eng_fail(ENG_INVALID, "block: txs is not a list");
    size_t count = txs != NULL ? json_array_size(txs) : 1;
    if (count > BLOCK_TRANSACTIONS_MAX)
        return eng_fail(ENG_TOO_LARGE, "block: %zu transactions are over %u", count, BLOCK_TRANSACTIONS_MAX);
    struct buffer buffer = {0};
    status = append_head(&buffer, json, (uint32_t)count);
    if (txs == NULL && status == ENG_OK)
        status = append_operations(&buffer, ops);
    for (size_t i = 0; txs != NULL && i < count && status == ENG_OK; i++)
        status = append_transaction(&buffer, json_array_get(txs, i), i);
    if (status != ENG_OK) {
        free(buffer.bytes);
        return status;
    }
    *bytes = buffer.bytes;
    *size = buffer.size;
    return ENG_OK;
}
