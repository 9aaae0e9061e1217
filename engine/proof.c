/*
 * Encodes proofs. The format is in pando/verify.h; the constants of it are shared with the verifier, code is not.
 *
 * The happy path of a state proof: every path is checked and measured, one allocation of exactly that size is made,
 * then everything is written in one pass that must end at the last byte (asserted).
 *
 * Ways to fail: larger than a proof file may be; out of memory; a path that no trie has, which means that the store it
 * was read from is damaged, and is said rather than handed out as a proof that does not verify.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "pando/proof.h"

_Static_assert(PROOF_KEY_BYTES_MAX == ENG_KEY_BYTES_MAX, "the verifier's limits are the engine's");
_Static_assert(PROOF_VALUE_BYTES_MAX == ENG_VALUE_BYTES_MAX, "the verifier's limits are the engine's");
_Static_assert(PROOF_VALUE_INLINE_MAX == DIGEST_VALUE_INLINE_MAX, "a constant of the format");
_Static_assert(PROOF_SUMMARY_BYTES == sizeof(struct eng_summary), "a summary is written as it lies in memory");
_Static_assert(PROOF_DIGEST_BYTES == ENG_DIGEST_BYTES, "a digest is written as it lies in memory");
_Static_assert((int)PROOF_TAG_BYTES == ENG_BYTES && (int)PROOF_TAG_AMOUNT == ENG_AMOUNT &&
                   (int)PROOF_TAG_TREE == ENG_TREE,
               "tags are written as they are");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are written as they lie in memory");

/* Of a file, what is neither header nor state proof. */
#define FRAME_BYTES (PROOF_FILE_HEAD_BYTES + PROOF_CHECKSUM_BYTES)

/* ---- the paths -----------------------------------------------------------------------------------------------------
 */

static enum proof_claim claim_of(const struct proof_key *asked)
{
    const struct proof_path *path = &asked->path;
    if (path->key_bytes == 0)
        return PROOF_EMPTY;
    bool same = asked->key_bytes == path->key_bytes && memcmp(asked->key, path->key, path->key_bytes) == 0;
    return same ? PROOF_PRESENT : PROOF_ABSENT;
}

static enum eng_status check_path(const struct proof_key *asked)
{
    const struct proof_path *path = &asked->path;
    uint32_t before = 0;
    for (size_t i = 0; i < path->step_count; i++) {
        uint32_t bit = path->steps[i].bit;
        if (bit <= before || bit > 9 * path->key_bytes)
            return eng_fail(ENG_DAMAGED, "proof: step %zu: bit %u after bit %u: not a path of a trie", i, bit, before);
        if (path->steps[i].sibling.count == 0)
            return eng_fail(ENG_DAMAGED, "proof: step %zu: bit %u: a sibling without entries", i, bit);
        if (digest_bit(asked->key, asked->key_bytes, bit) != digest_bit(path->key, path->key_bytes, bit))
            return eng_fail(ENG_DAMAGED, "proof: step %zu: bit %u: the asked key does not walk here", i, bit);
        before = bit;
    }
    return ENG_OK;
}

/* Bytes of one key proof. */
static size_t key_proof_bytes(const struct proof_key *asked)
{
    const struct proof_path *path = &asked->path;
    size_t bytes = 2 + asked->key_bytes + 1, path_bytes = 2 + path->step_count * PROOF_STEP_BYTES;
    switch (claim_of(asked)) {
    case PROOF_EMPTY:
        return bytes;
    case PROOF_PRESENT:
        return bytes + 1 + 4 + path->value_bytes + path_bytes;
    case PROOF_ABSENT:
        bytes += 2 + path->key_bytes + 1 + 1;
        bytes += path->value_bytes > DIGEST_VALUE_INLINE_MAX ? 8 + ENG_DIGEST_BYTES : 1 + path->value_bytes;
        return bytes + path_bytes;
    }
    return bytes;
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

static uint8_t *put(uint8_t *at, const void *bytes, size_t count)
{
    if (count > 0)
        memcpy(at, bytes, count);
    return at + count;
}

static uint8_t *put_u8(uint8_t *at, uint8_t number)
{
    return put(at, &number, sizeof number);
}

static uint8_t *put_u16(uint8_t *at, uint16_t number)
{
    return put(at, &number, sizeof number);
}

static uint8_t *put_u32(uint8_t *at, uint32_t number)
{
    return put(at, &number, sizeof number);
}

static uint8_t *put_u64(uint8_t *at, uint64_t number)
{
    return put(at, &number, sizeof number);
}

static uint8_t *put_key(uint8_t *at, const uint8_t *key, size_t key_bytes)
{
    return put(put_u16(at, (uint16_t)key_bytes), key, key_bytes);
}

static uint8_t *put_present(uint8_t *at, const struct proof_path *path)
{
    at = put_u8(at, (uint8_t)path->tag);
    at = put_u32(at, (uint32_t)path->value_bytes);
    return put(at, path->value, path->value_bytes);
}

static uint8_t *put_landing(uint8_t *at, const struct proof_path *path)
{
    bool outside = path->value_bytes > DIGEST_VALUE_INLINE_MAX;
    at = put_key(at, path->key, path->key_bytes);
    at = put_u8(at, (uint8_t)path->tag);
    at = put_u8(at, outside);
    if (!outside) {
        at = put_u8(at, (uint8_t)path->value_bytes);
        return put(at, path->value, path->value_bytes);
    }
    at = put_u64(at, path->value_bytes);
    if (path->value_digest != NULL)
        return put(at, path->value_digest, ENG_DIGEST_BYTES);
    digest_value(path->value, path->value_bytes, at);
    return at + ENG_DIGEST_BYTES;
}

static uint8_t *put_key_proof(uint8_t *at, const struct proof_key *asked)
{
    const struct proof_path *path = &asked->path;
    enum proof_claim claim = claim_of(asked);
    at = put_key(at, asked->key, asked->key_bytes);
    at = put_u8(at, (uint8_t)claim);
    switch (claim) {
    case PROOF_EMPTY:
        return at;
    case PROOF_PRESENT:
        at = put_present(at, path);
        break;
    case PROOF_ABSENT:
        at = put_landing(at, path);
        break;
    }
    at = put_u16(at, (uint16_t)path->step_count);
    for (size_t i = 0; i < path->step_count; i++) {
        at = put_u32(at, path->steps[i].bit);
        at = put(at, &path->steps[i].sibling, sizeof path->steps[i].sibling);
    }
    return at;
}

/* ---- blobs ---------------------------------------------------------------------------------------------------------
 */

static enum eng_status blob_make(size_t size, struct proof_blob *blob)
{
    blob->bytes = malloc(size);
    if (blob->bytes == NULL)
        return eng_fail(ENG_NO_MEMORY, "proof: %zu bytes", size);
    blob->size = size;
    return ENG_OK;
}

void proof_blob_free(struct proof_blob *blob)
{
    free(blob->bytes);
    *blob = (struct proof_blob){NULL, 0};
}

enum eng_status proof_state_keys(const struct proof_key *keys, size_t count, struct proof_blob *state)
{
    assert(count >= 1);
    *state = (struct proof_blob){NULL, 0};
    size_t size = 1 + 4;
    for (size_t i = 0; i < count; i++) {
        const struct proof_path *path = &keys[i].path;
        assert(keys[i].key_bytes >= 1 && keys[i].key_bytes <= ENG_KEY_BYTES_MAX);
        if (path->key_bytes > 0) {
            assert(path->key_bytes <= ENG_KEY_BYTES_MAX && path->value_bytes <= ENG_VALUE_BYTES_MAX);
            enum eng_status status = check_path(&keys[i]);
            if (status != ENG_OK)
                return status;
            assert(path->step_count <= PROOF_STEPS_MAX); /* bits ascend within the landing key */
        }
        size += key_proof_bytes(&keys[i]);
        if (size > PROOF_BYTES_MAX - FRAME_BYTES)
            return eng_fail(ENG_TOO_LARGE, "proof: key number %zu makes it larger than %u bytes", i, PROOF_BYTES_MAX);
    }
    enum eng_status status = blob_make(size, state);
    if (status != ENG_OK)
        return status;
    uint8_t *at = put_u8(state->bytes, PROOF_KEYS);
    at = put_u32(at, (uint32_t)count);
    for (size_t i = 0; i < count; i++)
        at = put_key_proof(at, &keys[i]);
    assert(at == state->bytes + state->size);
    return ENG_OK;
}

enum eng_status proof_file(const uint8_t *header, size_t header_bytes, const struct proof_blob *state,
                           struct proof_blob *file)
{
    static const uint8_t personal[crypto_generichash_blake2b_PERSONALBYTES] = "pando proof";
    *file = (struct proof_blob){NULL, 0};
    if (header_bytes > PROOF_BYTES_MAX || state->size > PROOF_BYTES_MAX ||
        header_bytes + state->size > PROOF_BYTES_MAX - FRAME_BYTES)
        return eng_fail(ENG_TOO_LARGE, "proof: header of %zu and proof of %zu bytes are more than %u", header_bytes,
                        state->size, PROOF_BYTES_MAX);
    enum eng_status status = blob_make(header_bytes + state->size + FRAME_BYTES, file);
    if (status != ENG_OK)
        return status;
    uint8_t *at = put(file->bytes, PROOF_MAGIC, PROOF_MAGIC_BYTES);
    at = put_u16(at, PROOF_FORMAT_VERSION);
    at = put_u16(at, 0);
    at = put_u32(at, (uint32_t)header_bytes);
    at = put(at, header, header_bytes);
    at = put(at, state->bytes, state->size);
    int result = crypto_generichash_blake2b_salt_personal(at, PROOF_CHECKSUM_BYTES, file->bytes,
                                                          (size_t)(at - file->bytes), NULL, 0, NULL, personal);
    assert(result == 0);
    (void)result;
    assert(at + PROOF_CHECKSUM_BYTES == file->bytes + file->size);
    return ENG_OK;
}
