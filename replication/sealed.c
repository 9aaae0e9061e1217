/*
 * Sealed blocks and diffs: what one height needs to be followed and audited without executing it.
 *
 *   sealed block    u32 n, header | u32 n, receipts | u32 n, transactions | u32 n, diff        (integers little-endian)
 *   diff            entries, keys strictly ascending (bytewise, a prefix first):
 *                     u8 kind = 0 removed                 | u16 key bytes | key
 *                     u8 kind = 1 bytes                   | u16 key bytes | key | u32 value bytes | value
 *                     u8 kind = 2 amount                  | u16 key bytes | key | 16 bytes, two's complement
 *
 * A sealed block is valid if and only if its four parts fill it exactly, the header part has 1 to HEADER_BYTES_MAX
 * bytes, and the whole is at most SEALED_BYTES_MAX. A diff is valid if and only if its entries fill it exactly, keys
 * have 1 to ENG_KEY_BYTES_MAX bytes and ascend strictly, values have at most ENG_VALUE_BYTES_MAX bytes. Either has one
 * encoding.
 *
 * The happy path: the leader writes the net changes of a block in key order with diff_write, wraps header, receipts and
 * diff with sealed_block_encode; a follower takes them apart in place, nothing is copied, and hands each entry to its
 * batch. Decoders fail with ENG_DAMAGED, naming the part or the entry and its offset; nothing read here is to be
 * believed before the header's signature, the digests and the recomputed root agree.
 *
 * A diff is called for entry by entry: an error at entry n comes after n entries were handed out, so the receiver must
 * be able to drop what it took (a batch).
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pando/header.h"

#define PARTS 4u
#define AMOUNT_BYTES 16u
#define WRITER_BYTES_FIRST 4096u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie in memory");

enum diff_kind { DIFF_REMOVED = 0, DIFF_BYTES = 1, DIFF_AMOUNT = 2 };

/* ---- sealed blocks ---- */

enum eng_status sealed_block_decode(const uint8_t *bytes, size_t size, struct sealed_block *block)
{
    static const char *const names[PARTS] = {"header", "receipts", "transactions", "diff"};
    const uint8_t **const parts[PARTS] = {&block->header, &block->receipts, &block->transactions, &block->diff};
    uint32_t *const lengths[PARTS] = {&block->header_bytes, &block->receipts_bytes, &block->transactions_bytes,
                                      &block->diff_bytes};
    if (size > SEALED_BYTES_MAX)
        return eng_fail(ENG_DAMAGED, "sealed block: %zu bytes are over %u", size, SEALED_BYTES_MAX);
    size_t at = 0;
    for (size_t i = 0; i < PARTS; i++) {
        uint32_t length;
        if (size - at < sizeof length)
            return eng_fail(ENG_DAMAGED, "sealed block: %s: cut off at offset %zu", names[i], size);
        memcpy(&length, bytes + at, sizeof length);
        at += sizeof length;
        if (length > size - at)
            return eng_fail(ENG_DAMAGED, "sealed block: %s: %u bytes at offset %zu, only %zu are there", names[i],
                            length, at, size - at);
        *parts[i] = bytes + at;
        *lengths[i] = length;
        at += length;
    }
    if (at != size)
        return eng_fail(ENG_DAMAGED, "sealed block: %zu bytes too many at offset %zu", size - at, at);
    if (block->header_bytes == 0 || block->header_bytes > HEADER_BYTES_MAX)
        return eng_fail(ENG_DAMAGED, "sealed block: a header of %u bytes", block->header_bytes);
    return ENG_OK;
}

size_t sealed_block_size(const struct sealed_block *block)
{
    return PARTS * sizeof(uint32_t) + (size_t)block->header_bytes + block->receipts_bytes + block->transactions_bytes +
           block->diff_bytes;
}

static uint8_t *put_part(uint8_t *to, const uint8_t *part, uint32_t length)
{
    memcpy(to, &length, sizeof length);
    to += sizeof length;
    if (length > 0)
        memcpy(to, part, length);
    return to + length;
}

void sealed_block_encode(const struct sealed_block *block, uint8_t *bytes)
{
    assert(block->header_bytes > 0 && block->header_bytes <= HEADER_BYTES_MAX);
    assert(sealed_block_size(block) <= SEALED_BYTES_MAX);
    uint8_t *to = put_part(bytes, block->header, block->header_bytes);
    to = put_part(to, block->receipts, block->receipts_bytes);
    to = put_part(to, block->transactions, block->transactions_bytes);
    to = put_part(to, block->diff, block->diff_bytes);
    assert(to == bytes + sealed_block_size(block));
}

/* ---- writing a diff ---- */

static enum eng_status writer_grow(struct diff_writer *writer, size_t needed)
{
    if (needed > SEALED_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "diff: %zu bytes are over the %u of a sealed block", needed, SEALED_BYTES_MAX);
    if (needed <= writer->capacity)
        return ENG_OK;
    size_t capacity = writer->capacity > 0 ? writer->capacity : WRITER_BYTES_FIRST;
    while (capacity < needed)
        capacity *= 2;
    uint8_t *bytes = realloc(writer->bytes, capacity);
    if (bytes == NULL)
        return eng_fail(ENG_NO_MEMORY, "diff: no memory for %zu bytes", capacity);
    writer->bytes = bytes;
    writer->capacity = capacity;
    return ENG_OK;
}

enum eng_status diff_write(struct diff_writer *writer, const uint8_t *key, size_t key_bytes,
                           const struct eng_value *value)
{
    assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX);
    assert(value == NULL || (value->tag == ENG_BYTES && value->size <= ENG_VALUE_BYTES_MAX) ||
           (value->tag == ENG_AMOUNT && value->size == AMOUNT_BYTES));
    enum diff_kind kind = value == NULL ? DIFF_REMOVED : value->tag == ENG_BYTES ? DIFF_BYTES : DIFF_AMOUNT;
    size_t entry = 3 + key_bytes + (kind == DIFF_BYTES ? sizeof(uint32_t) : 0) + (value != NULL ? value->size : 0);
    enum eng_status status = writer_grow(writer, writer->size + entry);
    if (status != ENG_OK)
        return status;
    uint8_t *to = writer->bytes + writer->size;
    uint16_t length = (uint16_t)key_bytes;
    *to++ = (uint8_t)kind;
    memcpy(to, &length, sizeof length);
    memcpy(to + sizeof length, key, key_bytes);
    to += sizeof length + key_bytes;
    if (kind == DIFF_BYTES) {
        uint32_t size = (uint32_t)value->size;
        memcpy(to, &size, sizeof size);
        to += sizeof size;
    }
    if (value != NULL && value->size > 0) {
        memcpy(to, value->bytes, value->size);
        to += value->size;
    }
    writer->size += entry;
    assert(to == writer->bytes + writer->size);
    return ENG_OK;
}

/* ---- reading a diff ---- */

struct diff_entry {
    enum diff_kind kind;
    const uint8_t *key;
    uint16_t key_bytes;
    struct eng_value value;
};

static const uint8_t *take(const uint8_t *bytes, size_t size, size_t *at, size_t length)
{
    if (size - *at < length)
        return NULL;
    const uint8_t *here = bytes + *at;
    *at += length;
    return here;
}

/* Reads the entry at *at; false: cut off. Kind and key length are read first, so they are set when there is a value. */
static bool entry_read(const uint8_t *bytes, size_t size, size_t *at, struct diff_entry *entry)
{
    const uint8_t *head = take(bytes, size, at, 3);
    if (head == NULL)
        return false;
    entry->kind = (enum diff_kind)head[0];
    memcpy(&entry->key_bytes, head + 1, sizeof entry->key_bytes);
    entry->key = take(bytes, size, at, entry->key_bytes);
    if (entry->key == NULL)
        return false;
    if (entry->kind == DIFF_BYTES) {
        const uint8_t *length = take(bytes, size, at, sizeof(uint32_t));
        if (length == NULL)
            return false;
        uint32_t value_bytes;
        memcpy(&value_bytes, length, sizeof value_bytes);
        entry->value = (struct eng_value){ENG_BYTES, take(bytes, size, at, value_bytes), value_bytes};
        return entry->value.bytes != NULL;
    }
    if (entry->kind == DIFF_AMOUNT) {
        entry->value = (struct eng_value){ENG_AMOUNT, take(bytes, size, at, AMOUNT_BYTES), AMOUNT_BYTES};
        return entry->value.bytes != NULL;
    }
    return true;
}

static bool key_ascends(const struct diff_entry *before, const struct diff_entry *entry)
{
    size_t shorter = before->key_bytes < entry->key_bytes ? before->key_bytes : entry->key_bytes;
    int order = memcmp(before->key, entry->key, shorter);
    return order < 0 || (order == 0 && before->key_bytes < entry->key_bytes);
}

enum eng_status diff_read(const uint8_t *bytes, size_t size,
                          enum eng_status (*each)(void *context, const uint8_t *key, size_t key_bytes,
                                                  const struct eng_value *value),
                          void *context)
{
    struct diff_entry before = {0};
    uint64_t number = 0;
    for (size_t at = 0; at < size; number++) {
        struct diff_entry entry = {0};
        size_t start = at;
        if (bytes[at] > DIFF_AMOUNT)
            return eng_fail(ENG_DAMAGED, "diff: entry %lu at offset %zu: kind %u is not known", number, start,
                            bytes[at]);
        if (!entry_read(bytes, size, &at, &entry))
            return eng_fail(ENG_DAMAGED, "diff: entry %lu at offset %zu: cut off at %zu", number, start, size);
        if (entry.key_bytes == 0 || entry.key_bytes > ENG_KEY_BYTES_MAX)
            return eng_fail(ENG_DAMAGED, "diff: entry %lu at offset %zu: a key of %u bytes", number, start,
                            entry.key_bytes);
        if (entry.value.size > ENG_VALUE_BYTES_MAX)
            return eng_fail(ENG_DAMAGED, "diff: entry %lu at offset %zu: a value of %zu bytes", number, start,
                            entry.value.size);
        if (before.key != NULL && !key_ascends(&before, &entry))
            return eng_fail(ENG_DAMAGED, "diff: entry %lu at offset %zu: its key is not above the one before", number,
                            start);
        enum eng_status status =
            each(context, entry.key, entry.key_bytes, entry.kind == DIFF_REMOVED ? NULL : &entry.value);
        if (status != ENG_OK)
            return status;
        before = entry;
    }
    return ENG_OK;
}
