/*
 * Two BLAKE2b blocks at once with NEON, which every AArch64 CPU has (little-endian only).
 *
 * As lanes_avx512.c, with 2x2 transposes. Rotation by 32 is a reversal of words, the others are a shift and a
 * shift-insert. A rest of one job goes to lanes_scalar.c.
 */
#include "lanes_kernel.h"

#if defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <arm_neon.h>

#define LANES 2u
#define SCALAR_REST_MAX 1u

#define LANE_ADD(a, b) vaddq_u64(a, b)
#define LANE_XOR(a, b) veorq_u64(a, b)
#define LANE_ROR_32(a) vreinterpretq_u64_u32(vrev64q_u32(vreinterpretq_u32_u64(a)))
#define LANE_ROR_24(a) ror24(a)
#define LANE_ROR_16(a) ror16(a)
#define LANE_ROR_63(a) ror63(a)

static inline uint64x2_t ror24(uint64x2_t a)
{
    return vsriq_n_u64(vshlq_n_u64(a, 40), a, 24);
}

static inline uint64x2_t ror16(uint64x2_t a)
{
    return vsriq_n_u64(vshlq_n_u64(a, 48), a, 16);
}

static inline uint64x2_t ror63(uint64x2_t a)
{
    return vsriq_n_u64(vaddq_u64(a, a), a, 63);
}

/* Word pairs of two messages of 64 bytes each into eight vectors. */
static inline void load(const uint8_t *a, const uint8_t *b, uint64x2_t m[8])
{
    for (int i = 0; i < 8; i += 2) {
        uint64x2_t x = vreinterpretq_u64_u8(vld1q_u8(a + 8 * i)), y = vreinterpretq_u64_u8(vld1q_u8(b + 8 * i));
        m[i] = vzip1q_u64(x, y);
        m[i + 1] = vzip2q_u64(x, y);
    }
}

static inline void compress(const uint64x2_t m[16], uint64x2_t salt4, uint64_t h6, uint64_t h7, uint64x2_t length,
                            uint64x2_t h[4])
{
    uint64x2_t v[16];
    v[0] = h[0] = vdupq_n_u64(BLAKE2B_H0);
    v[1] = h[1] = vdupq_n_u64(BLAKE2B_IV1);
    v[2] = h[2] = vdupq_n_u64(BLAKE2B_IV2);
    v[3] = h[3] = vdupq_n_u64(BLAKE2B_IV3);
    v[4] = veorq_u64(vdupq_n_u64(BLAKE2B_IV4), salt4);
    v[5] = vdupq_n_u64(BLAKE2B_IV5);
    v[6] = vdupq_n_u64(h6);
    v[7] = vdupq_n_u64(h7);
    v[8] = vdupq_n_u64(BLAKE2B_IV0);
    v[9] = vdupq_n_u64(BLAKE2B_IV1);
    v[10] = vdupq_n_u64(BLAKE2B_IV2);
    v[11] = vdupq_n_u64(BLAKE2B_IV3);
    v[12] = veorq_u64(vdupq_n_u64(BLAKE2B_IV4), length);
    v[13] = vdupq_n_u64(BLAKE2B_IV5);
    v[14] = vdupq_n_u64(~BLAKE2B_IV6);
    v[15] = vdupq_n_u64(BLAKE2B_IV7);
    BLAKE2B_ROUNDS
    for (int i = 0; i < 4; i++)
        h[i] = veorq_u64(h[i], veorq_u64(v[i], v[i + 8]));
}

static inline void store(const uint64x2_t h[4], uint8_t *a, uint8_t *b)
{
    for (int i = 0; i < 4; i += 2) {
        vst1q_u8(a + 8 * i, vreinterpretq_u8_u64(vzip1q_u64(h[i], h[i + 1])));
        vst1q_u8(b + 8 * i, vreinterpretq_u8_u64(vzip2q_u64(h[i], h[i + 1])));
    }
}

static void neon_nodes(const struct digest_node_job *jobs, size_t count)
{
    size_t i = 0;
    for (; count - i > SCALAR_REST_MAX; i += LANES) {
        uint64x2_t m[16], h[4];
        const struct digest_node_job *a = &jobs[i], *b = &jobs[i + 1];
        load((const uint8_t *)a->left, (const uint8_t *)b->left, m);
        load((const uint8_t *)a->right, (const uint8_t *)b->right, m + 8);
        uint64x2_t bits = vcombine_u64(vcreate_u64(a->bit), vcreate_u64(b->bit));
        compress(m, bits, NODE_H6, NODE_H7, vdupq_n_u64(128), h);
        store(h, a->out, b->out);
    }
    lanes_scalar()->nodes(jobs + i, count - i);
}

static void neon_entries(const struct digest_entry_job *jobs, size_t count)
{
    size_t i = 0;
    for (; count - i > SCALAR_REST_MAX; i += LANES) {
        uint64x2_t m[16], h[4];
        const struct digest_entry_job *a = &jobs[i], *b = &jobs[i + 1];
        load(a->message, b->message, m);
        load(a->message + 64, b->message + 64, m + 8);
        uint64x2_t length = vcombine_u64(vcreate_u64(a->length), vcreate_u64(b->length));
        compress(m, vdupq_n_u64(0), ENTRY_H6, ENTRY_H7, length, h);
        store(h, a->out, b->out);
    }
    lanes_scalar()->entries(jobs + i, count - i);
}

static const struct lanes_table table = {neon_nodes, neon_entries};

const struct lanes_table *lanes_neon(void)
{
    return &table;
}

#else

const struct lanes_table *lanes_neon(void)
{
    return NULL;
}

#endif
