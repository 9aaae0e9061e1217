/*
 * The digest rule: what a root is. Nothing here knows how the tree is laid out.
 *
 * A state is a set of entries (key, tag, value). Its root is the digest of a binary trie over the bits of the keys,
 * path-compressed: a key of n bytes is the bit string  1 b0(8 bits) 1 b1(8 bits) ... 1 b(n-1)(8 bits) 0 , most
 * significant bit first, so that bit 9*i is the flag "byte i exists" and bits 9*i+1 ... 9*i+8 are that byte. Two sets
 * part at the first bit in which their keys differ; keys with 0 there are on the left.
 *
 *   summary of a set       { digest[32], count u64, sum i192 }        64 bytes, integers little-endian
 *     sum                  of the amounts in it, two's complement, wraps never (see ENG limits)
 *   entry                  BLAKE2b-256( personal "pando entry", salt 0,
 *                            u16 key bytes | u8 tag | u8 form | key | payload )
 *     form 0               payload = the value itself (0..64 bytes; an amount is 16 bytes, two's complement)
 *     form 1 (> 64 bytes)  payload = u64 value bytes | BLAKE2b-256( personal "pando value", salt 0, value )
 *     tag                  0 bytes, 1 amount, 2 tree (payload = the 64-byte summary of the subtree, form 0)
 *   node                   BLAKE2b-256( personal "pando node", salt = u32 bit | 12 zero bytes,
 *                            summary of the left set | summary of the right set )    exactly one 128-byte block
 *   the empty state        32 zero bytes, count 0, sum 0
 *
 * A node commits to counts and sums of both sides; so counts and sums are proven wherever digests are.
 * Method: Patricia/crit-bit trie (Morrison 1968; Bernstein), Merkle sums (Maxwell).
 */
#ifndef PANDO_DIGEST_H
#define PANDO_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/limits.h"

#ifdef __cplusplus
extern "C" {
#endif

enum eng_tag { ENG_BYTES = 0, ENG_AMOUNT = 1, ENG_TREE = 2 };

#define DIGEST_VALUE_INLINE_MAX 64u /* a constant of the format */

struct eng_summary {
    uint8_t digest[ENG_DIGEST_BYTES];
    uint64_t count;
    uint64_t sum[3]; /* 192-bit two's complement, least significant word first */
};
#ifndef __cplusplus
_Static_assert(sizeof(struct eng_summary) == 64, "two summaries are one BLAKE2b block");
#endif

/* Once, before any other call and before threads start: sodium_init, picks the fastest lanes the CPU has and checks
 * them against libsodium on known messages; lanes that disagree are not used. Idempotent. false: libsodium failed. */
bool digest_init(void);

/* One node digest, by libsodium: the reference. */
void digest_node(const struct eng_summary *left, const struct eng_summary *right, uint32_t bit, uint8_t out[32]);
/* One entry digest, by libsodium. value_digest may be NULL (then computed if value_bytes > 64, value needed); if given,
 * value is not read when value_bytes > 64. */
void digest_entry(const uint8_t *key, size_t key_bytes, enum eng_tag tag, const uint8_t *value, size_t value_bytes,
                  const uint8_t *value_digest, uint8_t out[32]);
/* The digest of a value of any length (used in form 1). */
void digest_value(const uint8_t *value, size_t value_bytes, uint8_t out[32]);

/* First bit in which two different keys differ. */
uint32_t digest_first_bit(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes);
/* The value of a bit of a key. */
static inline int digest_bit(const uint8_t *key, size_t key_bytes, uint32_t bit)
{
    uint32_t byte = bit / 9, in = bit % 9;
    if (in == 0)
        return byte < key_bytes;
    return byte < key_bytes ? key[byte] >> (8 - in) & 1 : 0;
}

__extension__ typedef unsigned __int128 digest_wide;

/* a + b into out (may alias). */
static inline void digest_sum_add(uint64_t out[3], const uint64_t a[3], const uint64_t b[3])
{
    digest_wide t = (digest_wide)a[0] + b[0];
    out[0] = (uint64_t)t;
    t = (digest_wide)a[1] + b[1] + (uint64_t)(t >> 64);
    out[1] = (uint64_t)t;
    out[2] = a[2] + b[2] + (uint64_t)(t >> 64);
}

#ifdef __cplusplus
}
#endif

#endif
