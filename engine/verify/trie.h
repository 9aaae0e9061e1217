/*
 * The digest rule as the verifier sees it: its own digests and its own bits, on bytes as they lie in a proof, so that
 * nothing here depends on the byte order of the machine or on a line of the engine.
 */
#ifndef VERIFY_TRIE_H
#define VERIFY_TRIE_H

#include "pando/verify.h"

/* { digest 32, count 8, sum 24 }, integers little-endian, as pando/digest.h has it. */
struct trie_summary {
    uint8_t bytes[PROOF_SUMMARY_BYTES];
};
_Static_assert(sizeof(struct trie_summary) == 64, "a summary has no padding");

/* An entry as the digest rule takes it. */
struct trie_entry {
    const uint8_t *key;
    size_t key_bytes;
    enum proof_tag tag;
    uint8_t form;
    const uint8_t *value; /* form 0: the value; form 1: the value, or NULL and value_digest */
    uint64_t value_bytes;
    const uint8_t *value_digest;
};

uint16_t trie_u16(const uint8_t *bytes);
uint32_t trie_u32(const uint8_t *bytes);
uint64_t trie_u64(const uint8_t *bytes);

/* The value of a bit of a key: 9 bits a byte, first the flag that the byte exists. Beyond the end: 0. */
unsigned trie_bit(const uint8_t *key, size_t key_bytes, uint32_t bit);
/* Summary of the set that has this one entry. */
void trie_entry_summary(const struct trie_entry *entry, struct trie_summary *out);
/* Replaces own by the summary of the node at bit whose other side is sibling (64 bytes); side: where own is, 0 left. */
void trie_combine(struct trie_summary *own, const uint8_t *sibling, uint32_t bit, unsigned side);
void trie_checksum(const uint8_t *bytes, size_t size, uint8_t out[PROOF_CHECKSUM_BYTES]);

#endif
