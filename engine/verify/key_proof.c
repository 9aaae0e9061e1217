/*
 * One key proof: key_proof_read() takes it apart and refuses whatever is not the one encoding of a statement;
 * key_proof_check() walks it. The format, the rule and why it proves absence are in pando/verify.h.
 *
 * Ways to fail: the input ends early; a length, tag, form or claim is not one the format has; the path is not one that
 * a trie can have around the landing key; the asked key would not walk along it. A wrong sibling, a dropped or an added
 * step end in a wrong root, which the caller compares.
 *
 * Invariant: nothing is read that proof_take() did not grant.
 */
#include <assert.h>
#include <string.h>

#include "key_proof.h"

const uint8_t *proof_take(struct proof_reader *reader, size_t bytes)
{
    if ((size_t)(reader->end - reader->at) < bytes)
        return NULL;
    const uint8_t *taken = reader->at;
    reader->at += bytes;
    return taken;
}

/* Puts a field back, so that the reader stands at what is wrong with it. */
static enum verify_status refuse(struct proof_reader *reader, const uint8_t *field, enum verify_status status)
{
    reader->at = field;
    return status;
}

enum verify_status proof_key_read(struct proof_reader *reader, const uint8_t **key, size_t *key_bytes)
{
    const uint8_t *length = proof_take(reader, 2);
    if (length == NULL)
        return VERIFY_TRUNCATED;
    *key_bytes = trie_u16(length);
    if (*key_bytes == 0 || *key_bytes > PROOF_KEY_BYTES_MAX)
        return refuse(reader, length, VERIFY_KEY_BYTES);
    *key = proof_take(reader, *key_bytes);
    return *key == NULL ? VERIFY_TRUNCATED : VERIFY_OK;
}

static enum verify_status read_tag(struct proof_reader *reader, enum proof_tag *tag)
{
    const uint8_t *byte = proof_take(reader, 1);
    if (byte == NULL)
        return VERIFY_TRUNCATED;
    if (*byte != PROOF_TAG_BYTES && *byte != PROOF_TAG_AMOUNT && *byte != PROOF_TAG_TREE)
        return refuse(reader, byte, VERIFY_TAG);
    *tag = (enum proof_tag) * byte;
    return VERIFY_OK;
}

/* Whether a value of this tag can have this length. */
static bool length_fits(enum proof_tag tag, uint64_t bytes)
{
    switch (tag) {
    case PROOF_TAG_BYTES:
        return bytes <= PROOF_VALUE_BYTES_MAX;
    case PROOF_TAG_AMOUNT:
        return bytes == 16;
    case PROOF_TAG_TREE:
        return bytes == PROOF_SUMMARY_BYTES;
    }
    return false;
}

/* Claim 1: the asked key is the landing key; its whole value follows. */
static enum verify_status read_present(struct proof_reader *reader, struct key_proof *proof)
{
    struct trie_entry *entry = &proof->landing;
    entry->key = proof->key;
    entry->key_bytes = proof->key_bytes;
    enum verify_status status = read_tag(reader, &entry->tag);
    if (status != VERIFY_OK)
        return status;
    const uint8_t *length = proof_take(reader, 4);
    if (length == NULL)
        return VERIFY_TRUNCATED;
    entry->value_bytes = trie_u32(length);
    if (!length_fits(entry->tag, entry->value_bytes))
        return refuse(reader, length, VERIFY_VALUE_BYTES);
    entry->form = entry->value_bytes > PROOF_VALUE_INLINE_MAX;
    entry->value = proof_take(reader, (size_t)entry->value_bytes);
    return entry->value == NULL ? VERIFY_TRUNCATED : VERIFY_OK;
}

/* Claim 0: the landing entry is another key's; of a long value its digest is enough. */
static enum verify_status read_landing(struct proof_reader *reader, struct trie_entry *entry)
{
    enum verify_status status = proof_key_read(reader, &entry->key, &entry->key_bytes);
    if (status == VERIFY_OK)
        status = read_tag(reader, &entry->tag);
    if (status != VERIFY_OK)
        return status;
    const uint8_t *form = proof_take(reader, 1);
    if (form == NULL)
        return VERIFY_TRUNCATED;
    if (*form > 1)
        return refuse(reader, form, VERIFY_FORM);
    entry->form = *form;
    const uint8_t *length = proof_take(reader, *form == 0 ? 1 : 8);
    if (length == NULL)
        return VERIFY_TRUNCATED;
    entry->value_bytes = *form == 0 ? *length : trie_u64(length);
    bool outside = entry->value_bytes > PROOF_VALUE_INLINE_MAX;
    if (!length_fits(entry->tag, entry->value_bytes) || outside != (*form == 1))
        return refuse(reader, length, VERIFY_VALUE_BYTES);
    const uint8_t *payload = proof_take(reader, outside ? PROOF_DIGEST_BYTES : (size_t)entry->value_bytes);
    if (payload == NULL)
        return VERIFY_TRUNCATED;
    if (outside)
        entry->value_digest = payload;
    else
        entry->value = payload;
    return VERIFY_OK;
}

static enum verify_status read_path(struct proof_reader *reader, struct key_proof *proof)
{
    const uint8_t *count = proof_take(reader, 2);
    if (count == NULL)
        return VERIFY_TRUNCATED;
    proof->step_count = trie_u16(count);
    if (proof->step_count > PROOF_STEPS_MAX)
        return refuse(reader, count, VERIFY_STEPS);
    proof->steps = proof_take(reader, (size_t)proof->step_count * PROOF_STEP_BYTES);
    return proof->steps == NULL ? VERIFY_TRUNCATED : VERIFY_OK;
}

enum verify_status proof_entry_read(struct proof_reader *reader, bool whole, struct trie_entry *entry)
{
    memset(entry, 0, sizeof *entry);
    if (!whole)
        return read_landing(reader, entry);
    struct key_proof proof = {0};
    enum verify_status status = proof_key_read(reader, &proof.key, &proof.key_bytes);
    if (status == VERIFY_OK)
        status = read_present(reader, &proof);
    *entry = proof.landing;
    return status;
}

enum verify_status key_proof_read(struct proof_reader *reader, struct key_proof *proof)
{
    memset(proof, 0, sizeof *proof);
    enum verify_status status = proof_key_read(reader, &proof->key, &proof->key_bytes);
    if (status != VERIFY_OK)
        return status;
    const uint8_t *claim = proof_take(reader, 1);
    if (claim == NULL)
        return VERIFY_TRUNCATED;
    switch (*claim) {
    case PROOF_ABSENT:
        status = read_landing(reader, &proof->landing);
        break;
    case PROOF_PRESENT:
        status = read_present(reader, proof);
        break;
    case PROOF_EMPTY:
        break;
    default: /* a byte of the input, not one of the enum */
        return refuse(reader, claim, VERIFY_CLAIM);
    }
    proof->claim = (enum proof_claim) * claim;
    if (status == VERIFY_OK && proof->claim != PROOF_EMPTY)
        status = read_path(reader, proof);
    return status;
}

/* The path must be one that a trie can have around the landing key, and the asked key must walk along it. */
static enum verify_status check_walk(const struct key_proof *proof)
{
    static const uint8_t no_entries[8] = {0};
    const struct trie_entry *landing = &proof->landing;
    uint32_t before = 0; /* bit 0 says that there is a first byte: no two keys differ in it */
    for (uint32_t i = 0; i < proof->step_count; i++) {
        const uint8_t *step = proof->steps + (size_t)i * PROOF_STEP_BYTES;
        uint32_t bit = trie_u32(step);
        if (bit > 9 * landing->key_bytes)
            return VERIFY_BIT_RANGE;
        if (bit <= before)
            return VERIFY_BIT_ORDER;
        before = bit;
        if (memcmp(step + 4 + PROOF_DIGEST_BYTES, no_entries, sizeof no_entries) == 0)
            return VERIFY_SIBLING;
        if (trie_bit(proof->key, proof->key_bytes, bit) != trie_bit(landing->key, landing->key_bytes, bit))
            return VERIFY_WALK;
    }
    return VERIFY_OK;
}

enum verify_status key_proof_check(const struct key_proof *proof, struct trie_summary *root)
{
    memset(root, 0, sizeof *root);
    if (proof->claim == PROOF_EMPTY)
        return VERIFY_OK;
    const struct trie_entry *landing = &proof->landing;
    bool same = proof->key_bytes == landing->key_bytes && memcmp(proof->key, landing->key, proof->key_bytes) == 0;
    assert(same || proof->claim == PROOF_ABSENT); /* a presence is read with one key for both */
    if (same && proof->claim == PROOF_ABSENT)
        return VERIFY_NOT_ABSENT;
    enum verify_status status = check_walk(proof);
    if (status != VERIFY_OK)
        return status;
    struct trie_summary own;
    trie_entry_summary(landing, &own);
    for (uint32_t i = proof->step_count; i-- > 0;) {
        const uint8_t *step = proof->steps + (size_t)i * PROOF_STEP_BYTES;
        uint32_t bit = trie_u32(step);
        trie_combine(&own, step + 4, bit, trie_bit(landing->key, landing->key_bytes, bit));
    }
    *root = own;
    return VERIFY_OK;
}
