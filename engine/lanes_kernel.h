/*
 * What the lane implementations share: the constants of the two digest kinds, the message schedule of BLAKE2b
 * (RFC 7693), and the table each of them fills in. Included by digest.c and lanes*.c only.
 *
 * An implementation keeps the 16 message words and the 16 words of the working vector of all its lanes in arrays
 * m[16] and v[16] of its vector type, defines LANE_ADD, LANE_XOR and LANE_ROR_32/24/16/63 on that type, and writes
 * BLAKE2B_ROUNDS. Everything is unrolled by the macro, so that the indices are constants and v stays in registers.
 *
 * Both kinds of message are one block, final at once: t0 = bytes of the message, t1 = 0, f0 = all ones. The parameter
 * block is {digest 32, key 0, fanout 1, depth 1, salt, personal}; the salt of a node is its bit, which enters h[4].
 */
#ifndef ENGINE_LANES_KERNEL_H
#define ENGINE_LANES_KERNEL_H

#include "lanes.h"

struct lanes_table {
    void (*nodes)(const struct digest_node_job *jobs, size_t count);
    void (*entries)(const struct digest_entry_job *jobs, size_t count);
};

/* NULL if this build or this CPU does not have it. */
const struct lanes_table *lanes_avx512(void);
const struct lanes_table *lanes_avx2(void);
const struct lanes_table *lanes_neon(void);
/* Always there. */
const struct lanes_table *lanes_scalar(void);
const struct lanes_table *lanes_sodium(void);

/* The digest of the message of an entry of any length, by libsodium (digest.c). */
void digest_entry_message(const uint8_t *message, size_t bytes, uint8_t out[32]);

/* Chooses the lanes (environment, CPU) after checking them; once, by digest_init(). */
void lanes_choose(void);

#define BLAKE2B_IV0 0x6a09e667f3bcc908ull
#define BLAKE2B_IV1 0xbb67ae8584caa73bull
#define BLAKE2B_IV2 0x3c6ef372fe94f82bull
#define BLAKE2B_IV3 0xa54ff53a5f1d36f1ull
#define BLAKE2B_IV4 0x510e527fade682d1ull
#define BLAKE2B_IV5 0x9b05688c2b3e6c1full
#define BLAKE2B_IV6 0x1f83d9abfb41bd6bull
#define BLAKE2B_IV7 0x5be0cd19137e2179ull

#define PERSONAL_WORD(a, b, c, d, e, f, g, h)                                                                          \
    ((uint64_t)(a) | (uint64_t)(b) << 8 | (uint64_t)(c) << 16 | (uint64_t)(d) << 24 | (uint64_t)(e) << 32 |            \
     (uint64_t)(f) << 40 | (uint64_t)(g) << 48 | (uint64_t)(h) << 56)

/* The chaining value before the block, salt 0: only h[0], h[6] and h[7] differ from the IV. */
#define BLAKE2B_H0 (BLAKE2B_IV0 ^ 0x01010020ull)
#define NODE_H6 (BLAKE2B_IV6 ^ PERSONAL_WORD('p', 'a', 'n', 'd', 'o', ' ', 'n', 'o'))
#define NODE_H7 (BLAKE2B_IV7 ^ PERSONAL_WORD('d', 'e', 0, 0, 0, 0, 0, 0))
#define ENTRY_H6 (BLAKE2B_IV6 ^ PERSONAL_WORD('p', 'a', 'n', 'd', 'o', ' ', 'e', 'n'))
#define ENTRY_H7 (BLAKE2B_IV7 ^ PERSONAL_WORD('t', 'r', 'y', 0, 0, 0, 0, 0))

#define BLAKE2B_G(a, b, c, d, x, y)                                                                                    \
    v[a] = LANE_ADD(LANE_ADD(v[a], m[x]), v[b]);                                                                       \
    v[d] = LANE_ROR_32(LANE_XOR(v[d], v[a]));                                                                          \
    v[c] = LANE_ADD(v[c], v[d]);                                                                                       \
    v[b] = LANE_ROR_24(LANE_XOR(v[b], v[c]));                                                                          \
    v[a] = LANE_ADD(LANE_ADD(v[a], m[y]), v[b]);                                                                       \
    v[d] = LANE_ROR_16(LANE_XOR(v[d], v[a]));                                                                          \
    v[c] = LANE_ADD(v[c], v[d]);                                                                                       \
    v[b] = LANE_ROR_63(LANE_XOR(v[b], v[c]));

#define BLAKE2B_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15)                            \
    BLAKE2B_G(0, 4, 8, 12, s0, s1)                                                                                     \
    BLAKE2B_G(1, 5, 9, 13, s2, s3)                                                                                     \
    BLAKE2B_G(2, 6, 10, 14, s4, s5)                                                                                    \
    BLAKE2B_G(3, 7, 11, 15, s6, s7)                                                                                    \
    BLAKE2B_G(0, 5, 10, 15, s8, s9)                                                                                    \
    BLAKE2B_G(1, 6, 11, 12, s10, s11)                                                                                  \
    BLAKE2B_G(2, 7, 8, 13, s12, s13)                                                                                   \
    BLAKE2B_G(3, 4, 9, 14, s14, s15)

#define BLAKE2B_ROUNDS                                                                                                 \
    BLAKE2B_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)                                                \
    BLAKE2B_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)                                                \
    BLAKE2B_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)                                                \
    BLAKE2B_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)                                                \
    BLAKE2B_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)                                                \
    BLAKE2B_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)                                                \
    BLAKE2B_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)                                                \
    BLAKE2B_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)                                                \
    BLAKE2B_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)                                                \
    BLAKE2B_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)                                                \
    BLAKE2B_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)                                                \
    BLAKE2B_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)

#endif
