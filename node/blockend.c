/* Codec of the block-end record. The table of offsets is in blockend.h. */
#include "blockend.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

static void put(uint8_t *at, uint64_t value, size_t bytes)
{
    value = htole64(value);
    memcpy(at, &value, bytes);
}

static uint64_t get(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, at, bytes);
    return le64toh(value);
}

size_t block_end_encode(const struct block_end *block_end, uint8_t bytes[BLOCK_END_BYTES_MAX])
{
    assert(block_end->height && block_end->first <= block_end->end);
    assert(block_end->note_bytes <= HEADER_NOTE_MAX);
    put(bytes, block_end->height, 8);
    put(bytes + 8, block_end->time_ms, 8);
    put(bytes + 16, block_end->epoch, 8);
    put(bytes + 24, block_end->first, 8);
    put(bytes + 32, block_end->end, 8);
    put(bytes + 40, block_end->transactions, 4);
    put(bytes + 44, block_end->note_bytes, 2);
    if (block_end->note_bytes)
        memcpy(bytes + BLOCK_END_FIXED_BYTES, block_end->note, block_end->note_bytes);
    return BLOCK_END_FIXED_BYTES + block_end->note_bytes;
}

enum eng_status block_end_decode(const uint8_t *bytes, size_t size, struct block_end *block_end, size_t *used)
{
    if (size < BLOCK_END_FIXED_BYTES)
        return eng_fail(ENG_DAMAGED, "block end: %zu bytes are too few", size);
    *block_end = (struct block_end){
        .height = get(bytes, 8),
        .time_ms = get(bytes + 8, 8),
        .epoch = get(bytes + 16, 8),
        .first = get(bytes + 24, 8),
        .end = get(bytes + 32, 8),
        .transactions = (uint32_t)get(bytes + 40, 4),
        .note_bytes = (uint16_t)get(bytes + 44, 2),
        .note = (const char *)bytes + BLOCK_END_FIXED_BYTES,
    };
    *used = BLOCK_END_FIXED_BYTES + (size_t)block_end->note_bytes;
    if (*used > size || block_end->note_bytes > HEADER_NOTE_MAX)
        return eng_fail(ENG_DAMAGED, "block end: a note of %u bytes does not fit", block_end->note_bytes);
    if (!block_end->height || block_end->first > block_end->end)
        return eng_fail(ENG_DAMAGED, "block end: impossible height or range");
    return ENG_OK;
}
