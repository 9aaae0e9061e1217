/*
 * libFuzzer: sealed blocks and diffs. The first byte picks one; what decodes must encode to the bytes it came from, the
 * parts of a sealed block go on to their own decoders.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pando/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum eng_status write_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    return diff_write(context, key, key_bytes, value);
}

static void try_diff(const uint8_t *bytes, size_t size)
{
    struct diff_writer writer = {0};
    if (diff_read(bytes, size, write_each, &writer) == ENG_OK)
        assert(writer.size == size && (size == 0 || memcmp(writer.bytes, bytes, size) == 0));
    else
        assert(writer.size <= size);
    free(writer.bytes);
}

static void try_sealed(const uint8_t *bytes, size_t size)
{
    struct sealed_block block;
    struct header header;
    if (sealed_block_decode(bytes, size, &block) != ENG_OK)
        return;
    assert(sealed_block_size(&block) == size);
    uint8_t *again = malloc(size);
    if (again == NULL)
        return;
    sealed_block_encode(&block, again);
    assert(memcmp(again, bytes, size) == 0);
    free(again);
    if (header_decode(block.header, block.header_bytes, &header) == ENG_OK)
        try_diff(block.diff, block.diff_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] % 2 == 0)
        try_sealed(data + 1, size - 1);
    else if (size > 0)
        try_diff(data + 1, size - 1);
    return 0;
}
