/*
 * Codec of requests and replies; the table of bytes is in message.h.
 *
 * Writers know how much they write (the sizes are constants), readers trust nothing: every read goes through a cursor
 * that refuses to pass the end and remembers that it did, so that a decoder reads its fields in order and asks once,
 * at the end, whether they were all there. What is left over then is an error too: a message has one encoding only.
 *
 * Ways to fail: a message cut short or too long, a length that does not fit, an unknown kind or code (ENG_DAMAGED);
 * another version (ENG_VERSION), said before anything else is looked at, because nothing else can be known of it.
 *
 * Invariant: a reply that decodes has blocks whose lengths add up to its size, so message_reply_next cannot fail.
 */
#include <assert.h>
#include <string.h>

#include "message.h"

static uint8_t *put_uint(uint8_t *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
    return at + bytes;
}

static uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t size)
{
    if (size)
        memcpy(at, bytes, size);
    return at + size;
}

/* Reads in order; after the first read past the end every further one fails too, and gives zeros. */
struct cursor {
    const uint8_t *at;
    size_t left;
    bool short_read;
};

static const uint8_t *take(struct cursor *cursor, size_t bytes)
{
    if (cursor->short_read || cursor->left < bytes) {
        cursor->short_read = true;
        return NULL;
    }
    const uint8_t *at = cursor->at;
    cursor->at += bytes;
    cursor->left -= bytes;
    return at;
}

static uint64_t take_uint(struct cursor *cursor, size_t bytes)
{
    const uint8_t *at = take(cursor, bytes);
    uint64_t value = 0;
    for (size_t i = 0; at && i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void take_digest(struct cursor *cursor, uint8_t digest[32])
{
    const uint8_t *at = take(cursor, 32);
    if (at)
        memcpy(digest, at, 32);
}

size_t message_request_encode(const struct message_request *request, uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX])
{
    assert(request->kind == MESSAGE_BLOCKS || request->kind == MESSAGE_GENESIS);
    uint8_t *at = put_uint(bytes, MESSAGE_VERSION, 2);
    at = put_uint(at, request->kind, 1);
    if (request->kind == MESSAGE_BLOCKS) {
        at = put_bytes(at, request->ledger_id, 32);
        at = put_uint(at, request->from, 8);
        at = put_bytes(at, request->previous, 32);
        at = put_uint(at, request->max_bytes, 4);
        at = put_uint(at, request->wait_ms, 4);
        at = put_uint(at, request->durable, 8);
        at = put_bytes(at, request->node_key, 32);
    }
    assert((size_t)(at - bytes) <= MESSAGE_REQUEST_BYTES_MAX);
    return (size_t)(at - bytes);
}

enum eng_status message_request_decode(const uint8_t *bytes, size_t size, struct message_request *request)
{
    struct cursor cursor = {bytes, size, false};
    memset(request, 0, sizeof *request);
    uint64_t version = take_uint(&cursor, 2), kind = take_uint(&cursor, 1);
    if (cursor.short_read)
        return eng_fail(ENG_DAMAGED, "request: cut short after %zu bytes", size);
    if (version != MESSAGE_VERSION)
        return eng_fail(ENG_VERSION, "request: version %u, this node speaks %u", (unsigned)version, MESSAGE_VERSION);
    if (kind != MESSAGE_BLOCKS && kind != MESSAGE_GENESIS)
        return eng_fail(ENG_DAMAGED, "request: kind %u is not known", (unsigned)kind);
    request->kind = (enum message_kind)kind;
    if (request->kind == MESSAGE_BLOCKS) {
        take_digest(&cursor, request->ledger_id);
        request->from = take_uint(&cursor, 8);
        take_digest(&cursor, request->previous);
        request->max_bytes = (uint32_t)take_uint(&cursor, 4);
        request->wait_ms = (uint32_t)take_uint(&cursor, 4);
        request->durable = take_uint(&cursor, 8);
        take_digest(&cursor, request->node_key);
    }
    if (cursor.short_read || cursor.left)
        return eng_fail(ENG_DAMAGED, "request: %zu bytes are not the length of kind %u", size, (unsigned)kind);
    if (request->kind == MESSAGE_BLOCKS && (request->from == 0 || request->wait_ms > REPLICATION_WAIT_MS_MAX))
        return eng_fail(ENG_INVALID, "request: from height %llu, wait %u ms", (unsigned long long)request->from,
                        request->wait_ms);
    return ENG_OK;
}

void message_blocks_head(uint64_t height, uint32_t count, uint8_t bytes[MESSAGE_BLOCKS_HEAD_BYTES])
{
    assert(count <= MESSAGE_BLOCKS_MAX);
    uint8_t *at = put_uint(bytes, MESSAGE_VERSION, 2);
    at = put_uint(at, MESSAGE_BLOCKS, 1);
    at = put_uint(at, height, 8);
    at = put_uint(at, count, 4);
    assert(at == bytes + MESSAGE_BLOCKS_HEAD_BYTES);
}

void message_put_size(uint32_t size, uint8_t bytes[4])
{
    put_uint(bytes, size, 4);
}

void message_genesis_head(uint32_t genesis_bytes, uint8_t bytes[MESSAGE_GENESIS_HEAD_BYTES])
{
    assert(genesis_bytes <= REPLICATION_GENESIS_BYTES_MAX);
    uint8_t *at = put_uint(bytes, MESSAGE_VERSION, 2);
    at = put_uint(at, MESSAGE_GENESIS, 1);
    at = put_uint(at, genesis_bytes, 4);
    assert(at == bytes + MESSAGE_GENESIS_HEAD_BYTES);
}

size_t message_error_encode(enum message_error error, uint64_t first, const uint8_t ledger_id[32], const char *text,
                            uint8_t bytes[MESSAGE_ERROR_BYTES_MAX])
{
    size_t text_bytes = strnlen(text, MESSAGE_TEXT_BYTES_MAX);
    uint8_t *at = put_uint(bytes, MESSAGE_VERSION, 2);
    at = put_uint(at, MESSAGE_ERROR, 1);
    at = put_uint(at, error, 1);
    at = put_uint(at, first, 8);
    at = put_bytes(at, ledger_id, 32);
    at = put_uint(at, text_bytes, 2);
    at = put_bytes(at, text, text_bytes);
    assert((size_t)(at - bytes) <= MESSAGE_ERROR_BYTES_MAX);
    return (size_t)(at - bytes);
}

static enum eng_status decode_blocks(struct cursor *cursor, struct message_reply *reply)
{
    reply->height = take_uint(cursor, 8);
    reply->count = (uint32_t)take_uint(cursor, 4);
    if (cursor->short_read)
        return eng_fail(ENG_DAMAGED, "reply: cut short in its head");
    if (reply->count > MESSAGE_BLOCKS_MAX)
        return eng_fail(ENG_DAMAGED, "reply: %u blocks, at most %u are allowed", reply->count, MESSAGE_BLOCKS_MAX);
    reply->body = cursor->at;
    reply->body_bytes = cursor->left;
    for (uint32_t i = 0; i < reply->count; i++) {
        uint32_t bytes = (uint32_t)take_uint(cursor, 4);
        if (!take(cursor, bytes) || bytes > SEALED_BYTES_MAX)
            return eng_fail(ENG_DAMAGED, "reply: block %u of %u is cut short or over the limit", i, reply->count);
    }
    return ENG_OK;
}

static enum eng_status decode_genesis(struct cursor *cursor, struct message_reply *reply)
{
    reply->body_bytes = take_uint(cursor, 4);
    reply->body = take(cursor, reply->body_bytes);
    if (!reply->body || reply->body_bytes > REPLICATION_GENESIS_BYTES_MAX)
        return eng_fail(ENG_DAMAGED, "reply: the genesis is cut short or over the limit");
    return ENG_OK;
}

static enum eng_status decode_error(struct cursor *cursor, struct message_reply *reply)
{
    uint64_t error = take_uint(cursor, 1);
    reply->first = take_uint(cursor, 8);
    take_digest(cursor, reply->ledger_id);
    size_t text_bytes = take_uint(cursor, 2);
    const uint8_t *text = take(cursor, text_bytes);
    if (!text || text_bytes > MESSAGE_TEXT_BYTES_MAX)
        return eng_fail(ENG_DAMAGED, "reply: the error is cut short or over the limit");
    if (error < MESSAGE_OTHER_LEDGER || error > MESSAGE_STOPPING)
        return eng_fail(ENG_DAMAGED, "reply: error %u is not known", (unsigned)error);
    reply->error = (enum message_error)error;
    for (size_t i = 0; i < text_bytes; i++)
        reply->text[i] = text[i] >= 0x20 && text[i] < 0x7f ? (char)text[i] : '?';
    return ENG_OK;
}

enum eng_status message_reply_decode(const uint8_t *bytes, size_t size, struct message_reply *reply)
{
    struct cursor cursor = {bytes, size, false};
    memset(reply, 0, sizeof *reply);
    uint64_t version = take_uint(&cursor, 2), kind = take_uint(&cursor, 1);
    if (cursor.short_read)
        return eng_fail(ENG_DAMAGED, "reply: cut short after %zu bytes", size);
    if (version != MESSAGE_VERSION)
        return eng_fail(ENG_VERSION, "reply: version %u, this node speaks %u", (unsigned)version, MESSAGE_VERSION);
    if (kind < MESSAGE_BLOCKS || kind > MESSAGE_ERROR)
        return eng_fail(ENG_DAMAGED, "reply: kind %u is not known", (unsigned)kind);
    reply->kind = (enum message_kind)kind;
    enum eng_status status = ENG_OK;
    switch (reply->kind) {
    case MESSAGE_BLOCKS:
        status = decode_blocks(&cursor, reply);
        break;
    case MESSAGE_GENESIS:
        status = decode_genesis(&cursor, reply);
        break;
    case MESSAGE_ERROR:
        status = decode_error(&cursor, reply);
        break;
    }
    if (status == ENG_OK && cursor.left)
        return eng_fail(ENG_DAMAGED, "reply: %zu bytes too many", cursor.left);
    return status;
}

bool message_reply_next(const struct message_reply *reply, size_t *at, const uint8_t **block, uint32_t *block_bytes)
{
    assert(reply->kind == MESSAGE_BLOCKS && *at <= reply->body_bytes);
    struct cursor cursor = {reply->body + *at, reply->body_bytes - *at, false};
    if (cursor.left == 0)
        return false;
    *block_bytes = (uint32_t)take_uint(&cursor, 4);
    *block = take(&cursor, *block_bytes);
    assert(*block); /* message_reply_decode has walked all of them */
    *at = reply->body_bytes - cursor.left;
    return true;
}
