/*
 * Digests and bits for the verifier, written from the rule in pando/digest.h and sharing no code with the engine.
 *
 * Everything works on little-endian bytes. The count and sum of a set are carried along because a node digest covers
 * those of both sides; they wrap rather than fail, for a wrong one cannot give the right digest.
 *
 * Cannot fail: lengths are bounded by the caller (key_proof.c), which is asserted.
 */
#include <assert.h>
#include <string.h>

#include <sodium.h>

#include "trie.h"

#define SALT_BYTES crypto_generichash_blake2b_SALTBYTES
#define PERSONAL_BYTES crypto_generichash_blake2b_PERSONALBYTES
#define COUNT_AT 32u
#define SUM_AT 40u
#define ENTRY_BYTES_MAX (4u + PROOF_KEY_BYTES_MAX + PROOF_VALUE_INLINE_MAX)

_Static_assert(SALT_BYTES == 16 && PERSONAL_BYTES == 16, "BLAKE2b parameter block");

uint16_t trie_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

uint32_t trie_u32(const uint8_t *bytes)
{
    return trie_u16(bytes) | (uint32_t)trie_u16(bytes + 2) << 16;
}

uint64_t trie_u64(const uint8_t *bytes)
{
    return trie_u32(bytes) | (uint64_t)trie_u32(bytes + 4) << 32;
}

static void put_u64(uint8_t *bytes, uint64_t number)
{
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(number >> (8 * i));
}

static void hash(const char *personal, uint32_t salt, const uint8_t *bytes, size_t size, uint8_t out[32])
{
    uint8_t padded[PERSONAL_BYTES] = {0}, salt_bytes[SALT_BYTES] = {0};
    memcpy(padded, personal, strlen(personal));
    put_u64(salt_bytes, salt);
    int result = crypto_generichash_blake2b_salt_personal(out, 32, bytes, size, NULL, 0, salt_bytes, padded);
    assert(result == 0);
    (void)result;
}

void trie_checksum(const uint8_t *bytes, size_t size, uint8_t out[PROOF_CHECKSUM_BYTES])
{
    hash("pando proof", 0, bytes, size, out);
}

unsigned trie_bit(const uint8_t *key, size_t key_bytes, uint32_t bit)
{
    size_t position = bit / 9;
    if (position >= key_bytes)
        return 0;
    unsigned nine = 0x100u | key[position]; /* the flag, then the byte, most significant bit first */
    return nine >> (8 - bit % 9) & 1;
}

void trie_entry_summary(const struct trie_entry *entry, struct trie_summary *out)
{
    assert(entry->key_bytes >= 1 && entry->key_bytes <= PROOF_KEY_BYTES_MAX);
    uint8_t message[ENTRY_BYTES_MAX];
    message[0] = (uint8_t)entry->key_bytes;
    message[1] = (uint8_t)(entry->key_bytes >> 8);
    message[2] = (uint8_t)entry->tag;
    message[3] = entry->form;
    memcpy(message + 4, entry->key, entry->key_bytes);
    size_t at = 4 + entry->key_bytes;
    if (entry->form == 0) {
        assert(entry->value_bytes <= PROOF_VALUE_INLINE_MAX);
        memcpy(message + at, entry->value, (size_t)entry->value_bytes);
        at += (size_t)entry->value_bytes;
    } else {
        put_u64(message + at, entry->value_bytes);
        at += 8;
        if (entry->value_digest != NULL)
            memcpy(message + at, entry->value_digest, PROOF_DIGEST_BYTES);
        else
            hash("pando value", 0, entry->value, (size_t)entry->value_bytes, message + at);
        at += PROOF_DIGEST_BYTES;
    }
    memset(out, 0, sizeof *out);
    hash("pando entry", 0, message, at, out->bytes);
    out->bytes[COUNT_AT] = 1;
    if (entry->tag == PROOF_TAG_AMOUNT) {
        memcpy(out->bytes + SUM_AT, entry->value, 16);
        memset(out->bytes + SUM_AT + 16, entry->value[15] & 0x80 ? 0xff : 0, 8);
    }
}

/* count and sum of a are increased by those of b. */
static void add(struct trie_summary *a, const uint8_t *b)
{
    put_u64(a->bytes + COUNT_AT, trie_u64(a->bytes + COUNT_AT) + trie_u64(b + COUNT_AT));
    unsigned carry = 0;
    for (size_t i = SUM_AT; i < PROOF_SUMMARY_BYTES; i++) {
        carry += (unsigned)a->bytes[i] + b[i];
        a->bytes[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

void trie_combine(struct trie_summary *own, const uint8_t *sibling, uint32_t bit, unsigned side)
{
    assert(side <= 1);
    uint8_t message[2 * PROOF_SUMMARY_BYTES];
    memcpy(message + side * PROOF_SUMMARY_BYTES, own->bytes, PROOF_SUMMARY_BYTES);
    memcpy(message + (1 - side) * PROOF_SUMMARY_BYTES, sibling, PROOF_SUMMARY_BYTES);
    add(own, sibling);
    hash("pando node", bit, message, sizeof message, own->bytes);
}
