/*
 * libFuzzer target for both directions of the IPC protocol: whatever the bytes, the decoders neither fail an assertion
 * nor read outside; and what is accepted as a range, a diff, an entry or an import result encodes to the same bytes.
 *
 *   clang -fsanitize=fuzzer,address,undefined -Inode -Iengine/include ... tests/fuzz_protocol.c node/protocol.c
 * engine/status.c
 */
#include "protocol.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(const struct protocol_writer *writer, const uint8_t *bytes, size_t size)
{
    if (writer->failed || writer->size != size || memcmp(writer->bytes, bytes, size) != 0)
        abort();
}

static void fuzz_request(const uint8_t *data, size_t size)
{
    enum protocol_verb verb;
    struct protocol_reader body;
    struct protocol_writer writer = {0};
    if (protocol_request_open(data, size, &verb, &body) != ENG_OK)
        return;
    const uint8_t *begin = body.at;
    if (verb == VERB_SCAN || verb == VERB_COUNT) {
        struct protocol_range range;
        if (protocol_read_range(&body, verb == VERB_SCAN, &range) == ENG_OK) {
            protocol_write_range(&writer, &range, verb == VERB_SCAN);
            same(&writer, begin, (size_t)(data + size - begin));
        }
    } else if (verb == VERB_DIFF) {
        struct protocol_diff diff;
        if (protocol_read_diff(&body, &diff) == ENG_OK) {
            protocol_write_diff(&writer, &diff);
            same(&writer, begin, (size_t)(data + size - begin));
        }
    }
    free(writer.bytes);
}

static void fuzz_reply(const uint8_t *data, size_t size)
{
    struct protocol_reader body;
    if (protocol_reply_open(data, size, &body) != ENG_OK)
        return;
    struct protocol_reader entries = body, results = body;
    for (;;) {
        struct protocol_entry entry;
        const uint8_t *begin = entries.at;
        if (!protocol_read_entry(&entries, &entry))
            break;
        struct protocol_writer writer = {0};
        protocol_write_entry(&writer, entry.key, entry.key_bytes, &entry.value);
        same(&writer, begin, (size_t)(entries.at - begin));
        free(writer.bytes);
    }
    struct import_result result;
    for (;;) {
        const uint8_t *begin = results.at;
        if (!protocol_read_import_result(&results, &result))
            break;
        if (strlen(result.text) + 29 != (size_t)(results.at - begin))
            continue; /* a line with a zero byte in it is cut there */
        struct protocol_writer writer = {0};
        protocol_write_import_result(&writer, &result);
        same(&writer, begin, (size_t)(results.at - begin));
        free(writer.bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_request(data, size);
    fuzz_reply(data, size);
    return 0;
}
