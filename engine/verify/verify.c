/*
 * The frame of a proof: file, kinds, and what the caller expects. The format is in pando/verify.h.
 *
 * The happy path: verify_file() checks magic, version, flags and the checksum over everything, leaves the header as it
 * is and hands what lies between header and checksum to verify_state(). That goes by the kind; for keys it reads and
 * checks one key proof after the other, holds all of them to one root, and the root and the keys to what was expected.
 * verify_next() reads the same bytes again: they were verified, so it cannot fail.
 *
 * A failure leaves nothing but a status and a line in the result, so that nothing unproven can be used by mistake.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "key_proof.h"
#include "range_proof.h"

#define NO_KEY UINT32_MAX

const char *verify_text(enum verify_status status)
{
    switch (status) {
#define X(code, sentence)                                                                                              \
    case code:                                                                                                         \
        return sentence;
        VERIFY_STATUS_TABLE(X)
#undef X
    }
    return "unknown status";
}

/* Empties the result but for the status and a line that names the place: the key (from 0) and the byte. */
static enum verify_status fail(struct verify_result *result, enum verify_status status, uint32_t key, size_t offset)
{
    assert(status != VERIFY_OK);
    memset(result, 0, sizeof *result);
    result->status = status;
    if (key == NO_KEY)
        snprintf(result->reason, sizeof result->reason, "proof: byte %zu: %s", offset, verify_text(status));
    else
        snprintf(result->reason, sizeof result->reason, "proof: key number %u: byte %zu: %s", key, offset,
                 verify_text(status));
    return status;
}

static bool is_expected(const struct verify_expected *expected, const struct key_proof *proof)
{
    return expected->key_bytes == proof->key_bytes && memcmp(expected->key, proof->key, proof->key_bytes) == 0;
}

/* Kind 1. file is where offsets in messages count from. */
static enum verify_status verify_keys(struct proof_reader *reader, const uint8_t *file,
                                      const struct verify_options *options, struct verify_result *result)
{
    const uint8_t *count = proof_take(reader, 4);
    if (count == NULL)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, (size_t)(reader->at - file));
    uint32_t key_count = trie_u32(count);
    if (key_count == 0)
        return fail(result, VERIFY_NO_KEYS, NO_KEY, (size_t)(count - file));
    if (options->keys != NULL && options->key_count != key_count)
        return fail(result, VERIFY_KEYS, NO_KEY, (size_t)(count - file));
    const uint8_t *first = reader->at;
    uint8_t root[PROOF_DIGEST_BYTES] = {0};
    for (uint32_t i = 0; i < key_count; i++) {
        struct key_proof proof;
        uint8_t leads_to[PROOF_DIGEST_BYTES];
        size_t offset = (size_t)(reader->at - file);
        enum verify_status status = key_proof_read(reader, &proof);
        if (status != VERIFY_OK)
            return fail(result, status, i, (size_t)(reader->at - file));
        status = key_proof_check(&proof, leads_to);
        if (status == VERIFY_OK && options->keys != NULL && !is_expected(&options->keys[i], &proof))
            status = VERIFY_KEYS;
        if (status == VERIFY_OK && i > 0 && memcmp(root, leads_to, sizeof root) != 0)
            status = VERIFY_ROOTS;
        if (status == VERIFY_OK && options->root != NULL && memcmp(options->root, leads_to, sizeof root) != 0)
            status = VERIFY_ROOT;
        if (status != VERIFY_OK)
            return fail(result, status, i, offset);
        memcpy(root, leads_to, sizeof root);
    }
    if (reader->at != reader->end)
        return fail(result, VERIFY_TRAILING, NO_KEY, (size_t)(reader->at - file));
    memcpy(result->root, root, sizeof root);
    result->kind = PROOF_KEYS;
    result->key_count = result->keys_left = key_count;
    result->next = first;
    result->end = reader->end;
    return result->status = VERIFY_OK;
}

/* Kinds 2 and 3. */
static enum verify_status verify_range(struct proof_reader *reader, enum proof_kind kind, const uint8_t *file,
                                       const struct verify_options *options, struct verify_result *result)
{
    enum verify_status status = range_proof_verify(reader, kind, result);
    if (status == VERIFY_OK && options->keys != NULL)
        status = VERIFY_KEYS;
    if (status == VERIFY_OK && options->root != NULL && memcmp(options->root, result->root, sizeof result->root) != 0)
        status = VERIFY_ROOT;
    if (status != VERIFY_OK)
        return fail(result, status, NO_KEY, (size_t)(reader->at - file));
    return result->status = VERIFY_OK;
}

static enum verify_status verify_kind(struct proof_reader *reader, const uint8_t *file,
                                      const struct verify_options *options, struct verify_result *result)
{
    static const struct verify_options nothing_expected;
    const uint8_t *kind = proof_take(reader, 1);
    if (kind == NULL)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, (size_t)(reader->at - file));
    if (options == NULL)
        options = &nothing_expected;
    if (*kind == PROOF_KEYS)
        return verify_keys(reader, file, options, result);
    if (*kind == PROOF_RANGE || *kind == PROOF_TOTALS)
        return verify_range(reader, (enum proof_kind) * kind, file, options, result);
    return fail(result, VERIFY_KIND, NO_KEY, (size_t)(kind - file));
}

enum verify_status verify_state(const uint8_t *bytes, size_t size, const struct verify_options *options,
                                struct verify_result *result)
{
    memset(result, 0, sizeof *result);
    if (size > PROOF_BYTES_MAX)
        return fail(result, VERIFY_TOO_LARGE, NO_KEY, PROOF_BYTES_MAX);
    if (size == 0)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, 0);
    struct proof_reader reader = {bytes, bytes + size};
    return verify_kind(&reader, bytes, options, result);
}

enum verify_status verify_file(const uint8_t *bytes, size_t size, const struct verify_options *options,
                               struct verify_result *result)
{
    memset(result, 0, sizeof *result);
    if (size > PROOF_BYTES_MAX)
        return fail(result, VERIFY_TOO_LARGE, NO_KEY, PROOF_BYTES_MAX);
    size_t magic_bytes = size < PROOF_MAGIC_BYTES ? size : PROOF_MAGIC_BYTES;
    if (magic_bytes == 0 || memcmp(bytes, PROOF_MAGIC, magic_bytes) != 0)
        return fail(result, VERIFY_MAGIC, NO_KEY, 0);
    if (size < PROOF_FILE_HEAD_BYTES + PROOF_CHECKSUM_BYTES)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, size);
    if (trie_u16(bytes + 8) != PROOF_FORMAT_VERSION)
        return fail(result, VERIFY_VERSION, NO_KEY, 8);
    if (trie_u16(bytes + 10) != 0)
        return fail(result, VERIFY_FLAGS, NO_KEY, 10);
    uint8_t checksum[PROOF_CHECKSUM_BYTES];
    size_t covered = size - PROOF_CHECKSUM_BYTES;
    trie_checksum(bytes, covered, checksum);
    if (memcmp(checksum, bytes + covered, sizeof checksum) != 0)
        return fail(result, VERIFY_CHECKSUM, NO_KEY, covered);
    struct proof_reader reader = {bytes + PROOF_FILE_HEAD_BYTES, bytes + covered};
    size_t header_bytes = trie_u32(bytes + 12);
    const uint8_t *header = proof_take(&reader, header_bytes);
    if (header == NULL)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, 12);
    if (verify_kind(&reader, bytes, options, result) == VERIFY_OK) {
        result->header = header;
        result->header_bytes = header_bytes;
    }
    return result->status;
}

static bool next_of_range(struct verify_result *result, struct verify_key *key)
{
    struct proof_reader reader = {result->next, result->end};
    struct trie_entry entry;
    bool found = range_proof_next(&reader, &entry);
    result->next = reader.at;
    if (found)
        *key = (struct verify_key){.key = entry.key,
                                   .key_bytes = entry.key_bytes,
                                   .present = true,
                                   .tag = entry.tag,
                                   .value = entry.value,
                                   .value_bytes = (size_t)entry.value_bytes};
    return found;
}

bool verify_next(struct verify_result *result, struct verify_key *key)
{
    assert(result->status == VERIFY_OK);
    if (result->kind != PROOF_KEYS)
        return next_of_range(result, key);
    if (result->keys_left == 0)
        return false;
    struct proof_reader reader = {result->next, result->end};
    struct key_proof proof;
    enum verify_status status = key_proof_read(&reader, &proof);
    assert(status == VERIFY_OK); /* the same bytes were read before */
    (void)status;
    result->next = reader.at;
    result->keys_left--;
    *key = (struct verify_key){.key = proof.key, .key_bytes = proof.key_bytes};
    if (proof.claim == PROOF_PRESENT) {
        key->present = true;
        key->tag = proof.landing.tag;
        key->value = proof.landing.value;
        key->value_bytes = (size_t)proof.landing.value_bytes;
    }
    return true;
}
