/*
 * Codec of the IPC protocol (protocol.h has the layout of every message).
 *
 * A message is valid if and only if its fixed part is there, every length it names lies inside it, every number that
 * has a range is in it, and nothing is left at its end. Readers check each access against the end of the message, so
 * no sequence of bytes, however made, leads outside of it; nothing is allocated by reading.
 *
 *     protocol_request_open(bytes, size, &verb, &body);          protocol_request_begin(&writer, VERB_GET);
 *     height = protocol_read_u64(&body); ...                     protocol_write_u64(&writer, height); ...
 *     if (!protocol_read_end(&body)) -> ENG_INVALID              if (writer.failed) -> ENG_NO_MEMORY
 *
 * Ways to fail: ENG_VERSION (another version of the protocol), ENG_INVALID (a request that breaks the rules: the line
 * goes back to the client), ENG_DAMAGED (a reply that does). A failed allocation of a writer is noted in it and found
 * by whoever sends it.
 */
#include "protocol.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

const char *protocol_verb_name(enum protocol_verb verb)
{
    switch (verb) {
    case VERB_SUBMIT:
        return "submit";
    case VERB_IMPORT:
        return "import";
    case VERB_GET:
        return "get";
    case VERB_SCAN:
        return "scan";
    case VERB_COUNT:
        return "count";
    case VERB_ROOT:
        return "root";
    case VERB_HEADER:
        return "header";
    case VERB_DIFF:
        return "diff";
    case VERB_RECEIPT:
        return "receipt";
    case VERB_PROVE:
        return "prove";
    case VERB_WAIT:
        return "wait";
    case VERB_STATUS:
        return "status";
    case VERB_PROVE_RANGE:
        return "prove range";
    case VERB_END:
        break;
    }
    return "?";
}

enum eng_status protocol_check_url(const char *url)
{
    static const char scheme[] = "ipc://";
    const size_t longest = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (strncmp(url, scheme, strlen(scheme)) != 0 || url[strlen(scheme)] == 0)
        return eng_fail(ENG_INVALID, "%s: not the address of a node (ipc:///PATH)", url);
    const size_t bytes = strlen(url) - strlen(scheme);
    if (bytes > longest)
        return eng_fail(ENG_INVALID, "%s: the path has %zu bytes, a Unix socket can have %zu", url, bytes, longest);
    return ENG_OK;
}

enum eng_status protocol_check_link(const char *url)
{
    if (strncmp(url, "ipc://", 6) == 0)
        return protocol_check_url(url);
    const char *port = strrchr(url, ':');
    bool tcp = strncmp(url, "tcp://", 6) == 0 || strncmp(url, "tcp4://", 7) == 0 || strncmp(url, "tcp6://", 7) == 0;
    if (!tcp || port < url + 7 || strspn(port + 1, "0123456789") != strlen(port + 1) || !port[1])
        return eng_fail(ENG_INVALID, "%s: not the address of a link (tcp://HOST:PORT)", url);
    return ENG_OK;
}

/* ---- bytes ---- */

const uint8_t *protocol_read_bytes(struct protocol_reader *reader, size_t size)
{
    if (reader->failed || size > (size_t)(reader->end - reader->at)) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *bytes = reader->at;
    reader->at += size;
    return bytes;
}

static uint64_t read_integer(struct protocol_reader *reader, size_t size)
{
    const uint8_t *bytes = protocol_read_bytes(reader, size);
    uint64_t value = 0;
    for (size_t i = 0; bytes && i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t protocol_read_u8(struct protocol_reader *reader)
{
    return (uint8_t)read_integer(reader, 1);
}
uint16_t protocol_read_u16(struct protocol_reader *reader)
{
    return (uint16_t)read_integer(reader, 2);
}
uint32_t protocol_read_u32(struct protocol_reader *reader)
{
    return (uint32_t)read_integer(reader, 4);
}
uint64_t protocol_read_u64(struct protocol_reader *reader)
{
    return read_integer(reader, 8);
}

bool protocol_read_end(const struct protocol_reader *reader)
{
    return !reader->failed && reader->at == reader->end;
}

/* Room for size more bytes, or NULL. */
static uint8_t *write_room(struct protocol_writer *writer, size_t size)
{
    if (writer->failed)
        return NULL;
    if (size > writer->capacity - writer->size) {
        size_t capacity = writer->capacity * 2 > 256 ? writer->capacity * 2 : 256;
        while (capacity - writer->size < size)
            capacity *= 2;
        uint8_t *bytes = realloc(writer->bytes, capacity);
        if (!bytes) {
            writer->failed = true;
            return NULL;
        }
        writer->bytes = bytes;
        writer->capacity = capacity;
    }
    uint8_t *room = writer->bytes + writer->size;
    writer->size += size;
    return room;
}

void protocol_write_bytes(struct protocol_writer *writer, const void *bytes, size_t size)
{
    uint8_t *room = write_room(writer, size);
    if (room && size)
        memcpy(room, bytes, size);
}

static void write_integer(struct protocol_writer *writer, uint64_t value, size_t size)
{
    uint8_t *room = write_room(writer, size);
    for (size_t i = 0; room && i < size; i++)
        room[i] = (uint8_t)(value >> (8 * i));
}

void protocol_write_u8(struct protocol_writer *writer, uint8_t value)
{
    write_integer(writer, value, 1);
}
void protocol_write_u16(struct protocol_writer *writer, uint16_t value)
{
    write_integer(writer, value, 2);
}
void protocol_write_u32(struct protocol_writer *writer, uint32_t value)
{
    write_integer(writer, value, 4);
}
void protocol_write_u64(struct protocol_writer *writer, uint64_t value)
{
    write_integer(writer, value, 8);
}

void protocol_patch_u32(struct protocol_writer *writer, size_t offset, uint32_t value)
{
    if (writer->failed)
        return;
    assert(offset + 4 <= writer->size);
    for (size_t i = 0; i < 4; i++)
        writer->bytes[offset + i] = (uint8_t)(value >> (8 * i));
}

/* ---- requests ---- */

void protocol_request_begin(struct protocol_writer *writer, enum protocol_verb verb)
{
    assert(verb >= VERB_SUBMIT && verb < VERB_END);
    writer->size = 0;
    protocol_write_u16(writer, PROTOCOL_VERSION);
    protocol_write_u8(writer, (uint8_t)verb);
}

enum eng_status protocol_request_open(const uint8_t *bytes, size_t size, enum protocol_verb *verb,
                                      struct protocol_reader *body)
{
    *body = (struct protocol_reader){bytes, bytes + size, false};
    uint16_t version = protocol_read_u16(body);
    uint8_t number = protocol_read_u8(body);
    if (body->failed)
        return eng_fail(ENG_INVALID, "request: %zu bytes are too few for one", size);
    if (version != PROTOCOL_VERSION)
        return eng_fail(ENG_VERSION, "request: protocol version %u, this node speaks %u", version, PROTOCOL_VERSION);
    if (number < VERB_SUBMIT || number >= VERB_END)
        return eng_fail(ENG_INVALID, "request: verb %u is unknown here", number);
    *verb = (enum protocol_verb)number;
    return ENG_OK;
}

static void write_key(struct protocol_writer *writer, const uint8_t *key, uint16_t key_bytes)
{
    protocol_write_u16(writer, key_bytes);
    protocol_write_bytes(writer, key, key_bytes);
}

void protocol_write_range(struct protocol_writer *writer, const struct protocol_range *range, bool scan)
{
    protocol_write_u64(writer, range->height);
    protocol_write_u8(writer, range->flags);
    write_key(writer, range->from, range->flags & PROTOCOL_HAS_FROM ? range->from_bytes : 0);
    write_key(writer, range->to, range->flags & PROTOCOL_HAS_TO ? range->to_bytes : 0);
    if (scan)
        protocol_write_u32(writer, range->limit);
}

/* A bound of a range; absent bounds are empty. */
static enum eng_status read_bound(struct protocol_reader *reader, bool present, const char *name, const uint8_t **key,
                                  uint16_t *key_bytes)
{
    *key_bytes = protocol_read_u16(reader);
    *key = protocol_read_bytes(reader, *key_bytes);
    if (*key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "request: %s has %u bytes, a key at most %u", name, *key_bytes, ENG_KEY_BYTES_MAX);
    if (present != (*key_bytes > 0) && !reader->failed)
        return eng_fail(ENG_INVALID, "request: %s is %s", name, present ? "empty" : "given but not announced");
    return ENG_OK;
}

enum eng_status protocol_read_range(struct protocol_reader *reader, bool scan, struct protocol_range *range)
{
    range->height = protocol_read_u64(reader);
    range->flags = protocol_read_u8(reader);
    if (range->flags & ~(PROTOCOL_HAS_FROM | PROTOCOL_HAS_TO | (scan ? PROTOCOL_REVERSE : 0)))
        return eng_fail(ENG_INVALID, "request: unknown flags 0x%02x", range->flags);
    enum eng_status status =
        read_bound(reader, range->flags & PROTOCOL_HAS_FROM, "from", &range->from, &range->from_bytes);
    if (status == ENG_OK)
        status = read_bound(reader, range->flags & PROTOCOL_HAS_TO, "to", &range->to, &range->to_bytes);
    if (status != ENG_OK)
        return status;
    range->limit = scan ? protocol_read_u32(reader) : 0;
    if (!protocol_read_end(reader))
        return eng_fail(ENG_INVALID, "request: its length is wrong");
    return ENG_OK;
}

void protocol_write_diff(struct protocol_writer *writer, const struct protocol_diff *diff)
{
    protocol_write_u64(writer, diff->a);
    protocol_write_u64(writer, diff->b);
    write_key(writer, diff->prefix, diff->prefix_bytes);
    protocol_write_u8(writer, diff->has_after);
    write_key(writer, diff->after, diff->has_after ? diff->after_bytes : 0);
}

enum eng_status protocol_read_diff(struct protocol_reader *reader, struct protocol_diff *diff)
{
    diff->a = protocol_read_u64(reader);
    diff->b = protocol_read_u64(reader);
    diff->prefix_bytes = protocol_read_u16(reader);
    diff->prefix = protocol_read_bytes(reader, diff->prefix_bytes);
    uint8_t has_after = protocol_read_u8(reader);
    if (diff->prefix_bytes > ENG_KEY_BYTES_MAX || has_after > 1)
        return eng_fail(ENG_INVALID, "request: diff: prefix or flag out of range");
    diff->has_after = has_after;
    enum eng_status status = read_bound(reader, diff->has_after, "after", &diff->after, &diff->after_bytes);
    if (status != ENG_OK)
        return status;
    if (!protocol_read_end(reader))
        return eng_fail(ENG_INVALID, "request: its length is wrong");
    return ENG_OK;
}

/* ---- replies ---- */

void protocol_reply_begin(struct protocol_writer *writer)
{
    writer->size = 0;
    protocol_write_u16(writer, PROTOCOL_VERSION);
    protocol_write_u8(writer, ENG_OK);
}

void protocol_reply_error(struct protocol_writer *writer, enum eng_status status, const char *text)
{
    assert(status != ENG_OK);
    size_t bytes = strnlen(text, PROTOCOL_TEXT_MAX);
    writer->size = 0;
    writer->failed = false;
    protocol_write_u16(writer, PROTOCOL_VERSION);
    protocol_write_u8(writer, (uint8_t)status);
    protocol_write_u16(writer, (uint16_t)bytes);
    protocol_write_bytes(writer, text, bytes);
}

enum eng_status protocol_reply_open(const uint8_t *bytes, size_t size, struct protocol_reader *body)
{
    *body = (struct protocol_reader){bytes, bytes + size, false};
    uint16_t version = protocol_read_u16(body);
    uint8_t status = protocol_read_u8(body);
    if (body->failed)
        return eng_fail(ENG_DAMAGED, "reply: %zu bytes are too few for one", size);
    if (version != PROTOCOL_VERSION)
        return eng_fail(ENG_VERSION, "reply: protocol version %u, this program speaks %u", version, PROTOCOL_VERSION);
    if (status > ENG_LOCKED)
        return eng_fail(ENG_DAMAGED, "reply: unknown status %u", status);
    if (status == ENG_OK)
        return ENG_OK;
    uint16_t text_bytes = protocol_read_u16(body);
    const uint8_t *text = protocol_read_bytes(body, text_bytes);
    if (!protocol_read_end(body) || text_bytes > PROTOCOL_TEXT_MAX)
        return eng_fail(ENG_DAMAGED, "reply: its length is wrong");
    if (text_bytes == 0)
        return eng_fail((enum eng_status)status, "%s", eng_status_text((enum eng_status)status));
    return eng_fail((enum eng_status)status, "%.*s", (int)text_bytes, (const char *)text);
}

size_t protocol_entry_size(size_t key_bytes, size_t value_bytes)
{
    return 7 + key_bytes + value_bytes;
}

void protocol_write_entry(struct protocol_writer *writer, const uint8_t *key, size_t key_bytes,
                          const struct eng_value *value)
{
    assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX && value->size <= ENG_VALUE_BYTES_MAX);
    uint8_t *room = write_room(writer, protocol_entry_size(key_bytes, value->size));
    if (!room)
        return;
    uint32_t value_bytes = (uint32_t)value->size;
    *room++ = (uint8_t)key_bytes;
    *room++ = (uint8_t)(key_bytes >> 8);
    memcpy(room, key, key_bytes);
    room += key_bytes;
    *room++ = (uint8_t)value->tag;
    for (int i = 0; i < 4; i++)
        *room++ = (uint8_t)(value_bytes >> (8 * i));
    if (value_bytes)
        memcpy(room, value->bytes, value_bytes);
}

bool protocol_read_entry(struct protocol_reader *reader, struct protocol_entry *entry)
{
    entry->key_bytes = protocol_read_u16(reader);
    entry->key = protocol_read_bytes(reader, entry->key_bytes);
    uint8_t tag = protocol_read_u8(reader);
    entry->value.size = protocol_read_u32(reader);
    entry->value.bytes = protocol_read_bytes(reader, entry->value.size);
    entry->value.tag = (enum eng_tag)tag;
    if (entry->key_bytes < 1 || entry->key_bytes > ENG_KEY_BYTES_MAX || tag > ENG_AMOUNT ||
        (tag == ENG_AMOUNT && entry->value.size != 16))
        reader->failed = true;
    return !reader->failed;
}

void protocol_write_import_result(struct protocol_writer *writer, const struct import_result *result)
{
    size_t text_bytes = strnlen(result->text, sizeof result->text - 1);
    protocol_write_u8(writer, (uint8_t)result->status);
    protocol_write_u8(writer, result->skipped);
    protocol_write_u8(writer, (uint8_t)result->code);
    protocol_write_u64(writer, result->height);
    protocol_write_u32(writer, result->transactions);
    protocol_write_u32(writer, result->failed);
    protocol_write_u32(writer, result->failed_tx);
    protocol_write_u32(writer, result->failed_op);
    protocol_write_u16(writer, (uint16_t)text_bytes);
    protocol_write_bytes(writer, result->text, text_bytes);
}

bool protocol_read_import_result(struct protocol_reader *reader, struct import_result *result)
{
    *result = (struct import_result){0};
    uint8_t status = protocol_read_u8(reader);
    uint8_t skipped = protocol_read_u8(reader);
    uint8_t code = protocol_read_u8(reader);
    result->height = protocol_read_u64(reader);
    result->transactions = protocol_read_u32(reader);
    result->failed = protocol_read_u32(reader);
    result->failed_tx = protocol_read_u32(reader);
    result->failed_op = protocol_read_u32(reader);
    uint16_t text_bytes = protocol_read_u16(reader);
    const uint8_t *text = protocol_read_bytes(reader, text_bytes);
    if (status > ENG_LOCKED || skipped > 1 || code > TX_NOT_LEADER || text_bytes >= sizeof result->text)
        reader->failed = true;
    if (reader->failed)
        return false;
    result->status = (enum eng_status)status;
    result->skipped = skipped;
    result->code = (enum tx_code)code;
    if (text_bytes)
        memcpy(result->text, text, text_bytes);
    return true;
}
