/*
 * A flat oracle of the digest rule: the summary of a sorted array of entries, straight from the text in pando/digest.h.
 * libsodium only, nothing of the engine: a second opinion for tests of the tree, the lanes, diffs and proofs.
 * oracle_path() is the way of a key through the same trie.
 *
 * Sort with oracle_compare (bytewise, a prefix first), no key twice, then oracle_summary(). Bits and digests are
 * computed in the plainest way, one bit and one byte at a time. An entry of tag 2 (a subtree) has as its value the
 * 64-byte summary of that tree and counts as one entry without an amount.
 */
#ifndef TESTS_DIGEST_ORACLE_H
#define TESTS_DIGEST_ORACLE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <sodium.h>

struct oracle_entry {
    const uint8_t *key;
    size_t key_bytes;
    uint8_t tag;
    const uint8_t *value;
    size_t value_bytes;
};

/* As struct eng_summary lies in memory: digest 32, count 8, sum 24, little-endian. */
struct oracle_summary {
    uint8_t digest[32];
    uint8_t count[8];
    uint8_t sum[24];
};

static inline int oracle_compare(const void *a, const void *b)
{
    const struct oracle_entry *x = a, *y = b;
    for (size_t i = 0; i < x->key_bytes && i < y->key_bytes; i++) {
        if (x->key[i] != y->key[i])
            return x->key[i] < y->key[i] ? -1 : 1;
    }
    return x->key_bytes < y->key_bytes ? -1 : x->key_bytes > y->key_bytes;
}

static inline void oracle_hash(const char *personal, uint32_t salt, const void *bytes, size_t size, uint8_t out[32])
{
    unsigned char salt16[16] = {(unsigned char)salt, (unsigned char)(salt >> 8), (unsigned char)(salt >> 16),
                                (unsigned char)(salt >> 24)};
    unsigned char personal16[16] = {0};
    for (size_t i = 0; personal[i] != 0; i++)
        personal16[i] = (unsigned char)personal[i];
    int result = crypto_generichash_blake2b_salt_personal(out, 32, bytes, size, NULL, 0, salt16, personal16);
    assert(result == 0);
    (void)result;
}

/* Bit of the string  1 b0 1 b1 ... 1 b(n-1) 0 , and 0 from there on. */
static inline int oracle_bit(const struct oracle_entry *entry, uint32_t bit)
{
    if (bit >= 9 * entry->key_bytes)
        return 0;
    if (bit % 9 == 0)
        return 1;
    return (entry->key[bit / 9] & (0x80 >> (bit % 9 - 1))) != 0;
}

static inline void oracle_entry_digest(const struct oracle_entry *entry, uint8_t out[32])
{
    uint8_t message[4 + 1024 + 64];
    size_t at = 0;
    message[at++] = (uint8_t)(entry->key_bytes % 256);
    message[at++] = (uint8_t)(entry->key_bytes / 256);
    message[at++] = entry->tag;
    message[at++] = entry->value_bytes > 64 ? 1 : 0;
    for (size_t i = 0; i < entry->key_bytes; i++)
        message[at++] = entry->key[i];
    if (entry->value_bytes > 64) {
        for (int i = 0; i < 8; i++)
            message[at++] = (uint8_t)((uint64_t)entry->value_bytes >> (8 * i));
        oracle_hash("pando value", 0, entry->value, entry->value_bytes, message + at);
        at += 32;
    } else {
        for (size_t i = 0; i < entry->value_bytes; i++)
            message[at++] = entry->value[i];
    }
    oracle_hash("pando entry", 0, message, at, out);
}

static inline void oracle_add(uint8_t *out, const uint8_t *a, const uint8_t *b, size_t bytes)
{
    unsigned carry = 0;
    for (size_t i = 0; i < bytes; i++) {
        carry += (unsigned)a[i] + b[i];
        out[i] = (uint8_t)(carry % 256);
        carry /= 256;
    }
}

static inline void oracle_node(const struct oracle_summary *left, const struct oracle_summary *right, uint32_t bit,
                               struct oracle_summary *out)
{
    uint8_t message[128];
    memcpy(message, left, 64);
    memcpy(message + 64, right, 64);
    struct oracle_summary both;
    oracle_hash("pando node", bit, message, sizeof message, both.digest);
    oracle_add(both.count, left->count, right->count, 8);
    oracle_add(both.sum, left->sum, right->sum, 24);
    *out = both;
}

/* First bit in which a sorted set parts: its first and last key differ there first. */
static inline uint32_t oracle_first_bit(const struct oracle_entry *entries, size_t count)
{
    uint32_t bit = 0;
    while (oracle_bit(&entries[0], bit) == oracle_bit(&entries[count - 1], bit)) {
        assert(bit < 9 * 1025); /* the same key twice */
        bit++;
    }
    return bit;
}

/* How many of a sorted set have 0 in the bit in which it parts. */
static inline size_t oracle_left_count(const struct oracle_entry *entries, size_t count, uint32_t bit)
{
    size_t left = 0;
    while (left < count && oracle_bit(&entries[left], bit) == 0)
        left++;
    return left;
}

static inline void oracle_summary(const struct oracle_entry *entries, size_t count, struct oracle_summary *out)
{
    memset(out, 0, sizeof *out);
    if (count == 0)
        return;
    if (count == 1) {
        oracle_entry_digest(entries, out->digest);
        out->count[0] = 1;
        if (entries->tag == 1) {
            memcpy(out->sum, entries->value, 16);
            memset(out->sum + 16, entries->value[15] >= 0x80 ? 0xff : 0, 8);
        }
        return;
    }
    struct oracle_summary left, right;
    uint32_t bit = oracle_first_bit(entries, count);
    size_t part = oracle_left_count(entries, count, bit);
    oracle_summary(entries, part, &left);
    oracle_summary(entries + part, count - part, &right);
    oracle_node(&left, &right, bit, out);
}

/* A node on the way of a key, and the side the way does not take. */
struct oracle_step {
    uint32_t bit;
    struct oracle_summary sibling;
};

/* The way of a key through a sorted set of at least one entry, from the root down: returns the index of the entry where
 * it ends, step_count tells how many of the steps (room for max, asserted) were written. */
static inline size_t oracle_path(const struct oracle_entry *entries, size_t count, const uint8_t *key, size_t key_bytes,
                                 struct oracle_step *steps, size_t max, size_t *step_count)
{
    const struct oracle_entry asked = {.key = key, .key_bytes = key_bytes};
    size_t from = 0, to = count;
    *step_count = 0;
    while (to - from > 1) {
        uint32_t bit = oracle_first_bit(entries + from, to - from);
        size_t part = from + oracle_left_count(entries + from, to - from, bit);
        assert(*step_count < max);
        struct oracle_step *step = &steps[(*step_count)++];
        step->bit = bit;
        if (oracle_bit(&asked, bit)) {
            oracle_summary(entries + from, part - from, &step->sibling);
            from = part;
        } else {
            oracle_summary(entries + part, to - part, &step->sibling);
            to = part;
        }
    }
    return from;
}

#endif
