/*
 * Four BLAKE2b blocks at once with AVX2.
 *
 * As lanes_avx512.c, with 4x4 transposes of 32-byte quarters of the messages. There is no 64-bit rotate: 32 is a
 * shuffle of words, 24 and 16 shuffles of bytes, 63 an add and a shift. The 16 words of state fill the 16 registers,
 * so m is read from the stack. A rest of one or two jobs goes to lanes_scalar.c, which is not slower for two.
 */
#include "lanes_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES 4u
#define SCALAR_REST_MAX 2u
#define AVX2 __attribute__((target("avx2")))

#define LANE_ADD(a, b) _mm256_add_epi64(a, b)
#define LANE_XOR(a, b) _mm256_xor_si256(a, b)
#define LANE_ROR_32(a) _mm256_shuffle_epi32(a, 0xb1)
#define LANE_ROR_24(a) _mm256_shuffle_epi8(a, ror24)
#define LANE_ROR_16(a) _mm256_shuffle_epi8(a, ror16)
#define LANE_ROR_63(a) ror63(a)
#define WORD(x) _mm256_set1_epi64x((long long)(x))

AVX2 static inline __attribute__((always_inline)) __m256i ror63(__m256i a)
{
    return _mm256_or_si256(_mm256_srli_epi64(a, 63), _mm256_add_epi64(a, a));
}

/* 4x4 words: row i of in becomes column i of out. */
AVX2 static inline __attribute__((always_inline)) void transpose(const __m256i in[4], __m256i out[4])
{
    __m256i even01 = _mm256_unpacklo_epi64(in[0], in[1]), odd01 = _mm256_unpackhi_epi64(in[0], in[1]);
    __m256i even23 = _mm256_unpacklo_epi64(in[2], in[3]), odd23 = _mm256_unpackhi_epi64(in[2], in[3]);
    out[0] = _mm256_permute2x128_si256(even01, even23, 0x20);
    out[1] = _mm256_permute2x128_si256(odd01, odd23, 0x20);
    out[2] = _mm256_permute2x128_si256(even01, even23, 0x31);
    out[3] = _mm256_permute2x128_si256(odd01, odd23, 0x31);
}

/* The messages of the lanes, each as two halves of 64 bytes. */
AVX2 static inline __attribute__((always_inline)) void load(const uint8_t *const first[LANES],
                                                            const uint8_t *const second[LANES], __m256i m[16])
{
    for (int half = 0; half < 2; half++) {
        for (int quarter = 0; quarter < 2; quarter++) {
            __m256i rows[LANES];
            for (size_t i = 0; i < LANES; i++)
                rows[i] = _mm256_loadu_si256((const __m256i *)((half ? second[i] : first[i]) + 32 * quarter));
            transpose(rows, m + 8 * half + 4 * quarter);
        }
    }
}

AVX2 static inline __attribute__((always_inline)) void store(const __m256i h[4], uint8_t *const out[LANES])
{
    __m256i rows[LANES];
    transpose(h, rows);
    for (size_t i = 0; i < LANES; i++)
        _mm256_storeu_si256((__m256i *)out[i], rows[i]);
}

AVX2 static inline __attribute__((always_inline)) void compress(const __m256i m[16], __m256i salt4, uint64_t h6,
                                                                uint64_t h7, __m256i length, __m256i h[4])
{
    const __m256i ror24 = _mm256_setr_epi8(3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10, 3, 4, 5, 6, 7, 0, 1, 2,
                                           11, 12, 13, 14, 15, 8, 9, 10);
    const __m256i ror16 = _mm256_setr_epi8(2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9, 2, 3, 4, 5, 6, 7, 0, 1,
                                           10, 11, 12, 13, 14, 15, 8, 9);
    __m256i v[16];
    v[0] = h[0] = WORD(BLAKE2B_H0);
    v[1] = h[1] = WORD(BLAKE2B_IV1);
    v[2] = h[2] = WORD(BLAKE2B_IV2);
    v[3] = h[3] = WORD(BLAKE2B_IV3);
    v[4] = _mm256_xor_si256(WORD(BLAKE2B_IV4), salt4);
    v[5] = WORD(BLAKE2B_IV5);
    v[6] = WORD(h6);
    v[7] = WORD(h7);
    v[8] = WORD(BLAKE2B_IV0);
    v[9] = WORD(BLAKE2B_IV1);
    v[10] = WORD(BLAKE2B_IV2);
    v[11] = WORD(BLAKE2B_IV3);
    v[12] = _mm256_xor_si256(WORD(BLAKE2B_IV4), length);
    v[13] = WORD(BLAKE2B_IV5);
    v[14] = WORD(~BLAKE2B_IV6);
    v[15] = WORD(BLAKE2B_IV7);
    BLAKE2B_ROUNDS
    for (int i = 0; i < 4; i++)
        h[i] = _mm256_xor_si256(h[i], _mm256_xor_si256(v[i], v[i + 8]));
}

AVX2 static void node_batch(const struct digest_node_job *jobs, size_t count)
{
    __m256i m[16], h[4];
    const uint8_t *left[LANES], *right[LANES];
    uint8_t *out[LANES];
    _Alignas(32) uint64_t bit[LANES];
    for (size_t i = 0; i < LANES; i++) {
        const struct digest_node_job *job = &jobs[i < count ? i : 0];
        left[i] = (const uint8_t *)job->left;
        right[i] = (const uint8_t *)job->right;
        bit[i] = job->bit;
        out[i] = job->out;
    }
    load(left, right, m);
    compress(m, _mm256_load_si256((const __m256i *)bit), NODE_H6, NODE_H7, WORD(128), h);
    store(h, out);
}

AVX2 static void entry_batch(const struct digest_entry_job *jobs, size_t count)
{
    __m256i m[16], h[4];
    const uint8_t *first[LANES], *second[LANES];
    uint8_t *out[LANES];
    _Alignas(32) uint64_t length[LANES];
    for (size_t i = 0; i < LANES; i++) {
        const struct digest_entry_job *job = &jobs[i < count ? i : 0];
        first[i] = job->message;
        second[i] = job->message + 64;
        length[i] = job->length;
        out[i] = job->out;
    }
    load(first, second, m);
    compress(m, _mm256_setzero_si256(), ENTRY_H6, ENTRY_H7, _mm256_load_si256((const __m256i *)length), h);
    store(h, out);
}

static void avx2_nodes(const struct digest_node_job *jobs, size_t count)
{
    size_t i = 0;
    while (count - i > SCALAR_REST_MAX) {
        size_t batch = count - i < LANES ? count - i : LANES;
        for (size_t next = i + LANES; next < count && next < i + 2 * LANES; next++) {
            __builtin_prefetch(jobs[next].left);
            __builtin_prefetch(jobs[next].right);
        }
        node_batch(jobs + i, batch);
        i += batch;
    }
    lanes_scalar()->nodes(jobs + i, count - i);
}

static void avx2_entries(const struct digest_entry_job *jobs, size_t count)
{
    size_t i = 0;
    while (count - i > SCALAR_REST_MAX) {
        size_t batch = count - i < LANES ? count - i : LANES;
        entry_batch(jobs + i, batch);
        i += batch;
    }
    lanes_scalar()->entries(jobs + i, count - i);
}

static const struct lanes_table table = {avx2_nodes, avx2_entries};

const struct lanes_table *lanes_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? &table : NULL;
}

#else

const struct lanes_table *lanes_avx2(void)
{
    return NULL;
}

#endif
