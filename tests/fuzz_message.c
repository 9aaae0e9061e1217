/*
 * libFuzzer: the codec of replication requests and replies (clang -fsanitize=fuzzer,address,undefined).
 *
 * The first byte chooses the decoder. What decodes must encode to the very same bytes again (one encoding for each
 * message), and every block of a reply must lie inside the input.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request(const uint8_t *bytes, size_t size)
{
    struct message_request decoded;
    uint8_t again[MESSAGE_REQUEST_BYTES_MAX];
    if (message_request_decode(bytes, size, &decoded) != ENG_OK)
        return;
    assert(message_request_encode(&decoded, again) == size);
    assert(memcmp(again, bytes, size) == 0);
}

static void blocks(const struct message_reply *reply, const uint8_t *bytes, size_t size)
{
    uint8_t head[MESSAGE_BLOCKS_HEAD_BYTES];
    message_blocks_head(reply->height, reply->count, head);
    assert(memcmp(head, bytes, sizeof head) == 0);
    const uint8_t *block, *end = bytes + sizeof head;
    uint32_t block_bytes, count = 0;
    for (size_t at = 0; message_reply_next(reply, &at, &block, &block_bytes); count++) {
        assert(block == end + 4);
        end = block + block_bytes;
    }
    assert(count == reply->count && end == bytes + size);
}

static void reply(const uint8_t *bytes, size_t size)
{
    struct message_reply decoded;
    if (message_reply_decode(bytes, size, &decoded) != ENG_OK)
        return;
    uint8_t head[MESSAGE_GENESIS_HEAD_BYTES];
    switch (decoded.kind) {
    case MESSAGE_BLOCKS:
        blocks(&decoded, bytes, size);
        break;
    case MESSAGE_GENESIS:
        message_genesis_head((uint32_t)decoded.body_bytes, head);
        assert(memcmp(head, bytes, sizeof head) == 0);
        assert(decoded.body + decoded.body_bytes == bytes + size);
        break;
    case MESSAGE_ERROR:
        assert(strlen(decoded.text) <= MESSAGE_TEXT_BYTES_MAX);
        for (const char *at = decoded.text; *at; at++)
            assert(*at >= 0x20 && *at < 0x7f);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t *exact = malloc(size > 1 ? size - 1 : 1); /* its own block: what is read behind it is seen */
    if (!exact)
        return 0;
    memcpy(exact, data + 1, size - 1);
    if (data[0] & 1)
        request(exact, size - 1);
    else
        reply(exact, size - 1);
    free(exact);
    return 0;
}
