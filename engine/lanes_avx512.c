/*
 * Eight BLAKE2b blocks at once with AVX-512F, or twice eight.
 *
 * Lane i of every vector belongs to job i. A batch of eight: load the two 64-byte halves of each message as one vector
 * each, transpose them 8x8 so that m[w] holds word w of all lanes, run the 12 rounds, transpose the four words of the
 * result back to 32 bytes a lane. 16 message words and 16 words of state fill the 32 registers exactly; the compiler
 * keeps some of m on the stack, which the add reads as a memory operand.
 *
 * Each step of the compression waits for the one before, so two batches at once take less than one after the other,
 * though their messages and state do not fit the registers.
 *
 * The last batch of a call, if it is short, repeats its first job in the idle lanes.
 * A rest of one job goes to lanes_scalar.c: one block there costs half a batch here, two cost more. The inputs of the
 * next 16 are prefetched while 16 compute, for summaries are scattered over the segments. Every output of a
 * batch is written after all its inputs were read.
 */
#include "lanes_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES 8u
#define SCALAR_REST_MAX 1u
#define AVX512 __attribute__((target("avx512f")))
#define INLINE_AVX512 AVX512 static inline __attribute__((always_inline))

#define WORD(x) _mm512_set1_epi64((long long)(x))

/* 8x8 words: row i of in becomes column i of out. */
INLINE_AVX512 void transpose(const __m512i in[8], __m512i out[8])
{
    __m512i pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(in[i], in[i + 1]);     /* words 0 2 4 6 of two rows */
        pairs[i + 1] = _mm512_unpackhi_epi64(in[i], in[i + 1]); /* words 1 3 5 7 */
    }
    for (int half = 0; half < 2; half++) { /* 128-bit pieces: 0x88 takes pieces 0 and 2, 0xdd pieces 1 and 3 */
        const __m512i *p = pairs + 4 * half;
        __m512i *q = quads + 4 * half;
        q[0] = _mm512_shuffle_i64x2(p[0], p[2], 0x88); /* words 0 and 4 */
        q[1] = _mm512_shuffle_i64x2(p[1], p[3], 0x88); /* 1 and 5 */
        q[2] = _mm512_shuffle_i64x2(p[0], p[2], 0xdd); /* 2 and 6 */
        q[3] = _mm512_shuffle_i64x2(p[1], p[3], 0xdd); /* 3 and 7 */
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_shuffle_i64x2(quads[i], quads[4 + i], 0x88);
        out[4 + i] = _mm512_shuffle_i64x2(quads[i], quads[4 + i], 0xdd);
    }
}

/* Words 0 to 3 of every lane to 32 bytes each. Idle lanes repeat job 0: the same bytes to the same place again. */
INLINE_AVX512 void store(const __m512i h[4], uint8_t *const out[LANES])
{
    const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (size_t odd = 0; odd < 2; odd++) { /* low halves hold lanes 0 2 4 6, high halves lanes 1 3 5 7 */
        __m512i words01 = odd ? _mm512_unpackhi_epi64(h[0], h[1]) : _mm512_unpacklo_epi64(h[0], h[1]);
        __m512i words23 = odd ? _mm512_unpackhi_epi64(h[2], h[3]) : _mm512_unpacklo_epi64(h[2], h[3]);
        __m512i lanes02 = _mm512_permutex2var_epi64(words01, front, words23);
        __m512i lanes46 = _mm512_permutex2var_epi64(words01, back, words23);
        _mm256_storeu_si256((__m256i *)out[odd], _mm512_castsi512_si256(lanes02));
        _mm256_storeu_si256((__m256i *)out[odd + 2], _mm512_extracti64x4_epi64(lanes02, 1));
        _mm256_storeu_si256((__m256i *)out[odd + 4], _mm512_castsi512_si256(lanes46));
        _mm256_storeu_si256((__m256i *)out[odd + 6], _mm512_extracti64x4_epi64(lanes46, 1));
    }
}

/* The working vector before the rounds: salt4 is the salt word of h[4], length the bytes of each message. */
INLINE_AVX512 void begin(__m512i v[16], __m512i salt4, uint64_t h6, uint64_t h7, __m512i length)
{
    v[0] = WORD(BLAKE2B_H0);
    v[1] = WORD(BLAKE2B_IV1);
    v[2] = WORD(BLAKE2B_IV2);
    v[3] = WORD(BLAKE2B_IV3);
    v[4] = _mm512_xor_si512(WORD(BLAKE2B_IV4), salt4);
    v[5] = WORD(BLAKE2B_IV5);
    v[6] = WORD(h6);
    v[7] = WORD(h7);
    v[8] = WORD(BLAKE2B_IV0);
    v[9] = WORD(BLAKE2B_IV1);
    v[10] = WORD(BLAKE2B_IV2);
    v[11] = WORD(BLAKE2B_IV3);
    v[12] = _mm512_xor_si512(WORD(BLAKE2B_IV4), length);
    v[13] = WORD(BLAKE2B_IV5);
    v[14] = WORD(~BLAKE2B_IV6);
    v[15] = WORD(BLAKE2B_IV7);
}

INLINE_AVX512 void end(const __m512i v[16], uint8_t *const out[LANES])
{
    static const uint64_t first[4] = {BLAKE2B_H0, BLAKE2B_IV1, BLAKE2B_IV2, BLAKE2B_IV3};
    __m512i h[4];
    for (int i = 0; i < 4; i++)
        h[i] = _mm512_ternarylogic_epi64(WORD(first[i]), v[i], v[i + 8], 0x96);
    store(h, out);
}

#define LANE_ADD(a, b) _mm512_add_epi64(a, b)
#define LANE_XOR(a, b) _mm512_xor_si512(a, b)
#define LANE_ROR_32(a) _mm512_ror_epi64(a, 32)
#define LANE_ROR_24(a) _mm512_ror_epi64(a, 24)
#define LANE_ROR_16(a) _mm512_ror_epi64(a, 16)
#define LANE_ROR_63(a) _mm512_ror_epi64(a, 63)

INLINE_AVX512 void rounds(__m512i v[16], const __m512i m[16])
{
    BLAKE2B_ROUNDS
}

#undef LANE_ADD
#undef LANE_XOR
#undef LANE_ROR_32
#undef LANE_ROR_24
#undef LANE_ROR_16
#undef LANE_ROR_63

/* Two batches. */
struct pair {
    __m512i a, b;
};

INLINE_AVX512 struct pair pair_add(struct pair p, struct pair q)
{
    return (struct pair){_mm512_add_epi64(p.a, q.a), _mm512_add_epi64(p.b, q.b)};
}
INLINE_AVX512 struct pair pair_xor(struct pair p, struct pair q)
{
    return (struct pair){_mm512_xor_si512(p.a, q.a), _mm512_xor_si512(p.b, q.b)};
}
#define PAIR_ROR(p, bits) ((struct pair){_mm512_ror_epi64((p).a, bits), _mm512_ror_epi64((p).b, bits)})
INLINE_AVX512 struct pair pair_ror_32(struct pair p)
{
    return PAIR_ROR(p, 32);
}
INLINE_AVX512 struct pair pair_ror_24(struct pair p)
{
    return PAIR_ROR(p, 24);
}
INLINE_AVX512 struct pair pair_ror_16(struct pair p)
{
    return PAIR_ROR(p, 16);
}
INLINE_AVX512 struct pair pair_ror_63(struct pair p)
{
    return PAIR_ROR(p, 63);
}
#define LANE_ADD pair_add
#define LANE_XOR pair_xor
#define LANE_ROR_32 pair_ror_32
#define LANE_ROR_24 pair_ror_24
#define LANE_ROR_16 pair_ror_16
#define LANE_ROR_63 pair_ror_63

INLINE_AVX512 void rounds_of_pairs(struct pair v[16], const struct pair m[16]){BLAKE2B_ROUNDS}

INLINE_AVX512 void run_one(__m512i v[16], const __m512i m[16], uint8_t *const out[LANES])
{
    rounds(v, m);
    end(v, out);
}

INLINE_AVX512 void run_pair(__m512i v[2][16], const __m512i m[2][16], uint8_t *const out[2][LANES])
{
    struct pair both_v[16], both_m[16];
    for (int i = 0; i < 16; i++) {
        both_v[i] = (struct pair){v[0][i], v[1][i]};
        both_m[i] = (struct pair){m[0][i], m[1][i]};
    }
    rounds_of_pairs(both_v, both_m);
    for (int i = 0; i < 16; i++) {
        v[0][i] = both_v[i].a;
        v[1][i] = both_v[i].b;
    }
    end(v[0], out[0]);
    end(v[1], out[1]);
}

/* Up to eight jobs: what of them the rounds need. */
INLINE_AVX512 void node_begin(const struct digest_node_job *jobs, size_t count, __m512i v[16], __m512i m[16],
                              uint8_t *out[LANES])
{
    __m512i left[LANES], right[LANES];
    _Alignas(64) uint64_t bit[LANES];
    for (size_t i = 0; i < LANES; i++) {
        const struct digest_node_job *job = &jobs[i < count ? i : 0];
        left[i] = _mm512_loadu_si512(job->left);
        right[i] = _mm512_loadu_si512(job->right);
        bit[i] = job->bit;
        out[i] = job->out;
    }
    transpose(left, m);
    transpose(right, m + 8);
    begin(v, _mm512_load_si512(bit), NODE_H6, NODE_H7, WORD(128));
}

INLINE_AVX512 void entry_begin(const struct digest_entry_job *jobs, size_t count, __m512i v[16], __m512i m[16],
                               uint8_t *out[LANES])
{
    __m512i first[LANES], second[LANES];
    _Alignas(64) uint64_t length[LANES];
    for (size_t i = 0; i < LANES; i++) {
        const struct digest_entry_job *job = &jobs[i < count ? i : 0];
        first[i] = _mm512_load_si512(job->message);
        second[i] = _mm512_load_si512(job->message + 64);
        length[i] = job->length;
        out[i] = job->out;
    }
    transpose(first, m);
    transpose(second, m + 8);
    begin(v, _mm512_setzero_si512(), ENTRY_H6, ENTRY_H7, _mm512_load_si512(length));
}

AVX512 static void node_batch(const struct digest_node_job *jobs, size_t count)
{
    __m512i v[16], m[16];
    uint8_t *out[LANES];
    node_begin(jobs, count, v, m, out);
    run_one(v, m, out);
}

AVX512 static void node_pair(const struct digest_node_job *jobs)
{
    __m512i v[2][16], m[2][16];
    uint8_t *out[2][LANES];
    node_begin(jobs, LANES, v[0], m[0], out[0]);
    node_begin(jobs + LANES, LANES, v[1], m[1], out[1]);
    run_pair(v, m, out);
}

AVX512 static void entry_batch(const struct digest_entry_job *jobs, size_t count)
{
    __m512i v[16], m[16];
    uint8_t *out[LANES];
    entry_begin(jobs, count, v, m, out);
    run_one(v, m, out);
}

AVX512 static void entry_pair(const struct digest_entry_job *jobs)
{
    __m512i v[2][16], m[2][16];
    uint8_t *out[2][LANES];
    entry_begin(jobs, LANES, v[0], m[0], out[0]);
    entry_begin(jobs + LANES, LANES, v[1], m[1], out[1]);
    run_pair(v, m, out);
}

/* The inputs of up to 16 jobs are on their way when they are asked for. */
static void prefetch_inputs(const struct digest_node_job *jobs, size_t count)
{
    for (size_t i = 0; i < count && i < 2 * LANES; i++) {
        __builtin_prefetch(jobs[i].left);
        __builtin_prefetch(jobs[i].right);
    }
}

static void avx512_nodes(const struct digest_node_job *jobs, size_t count)
{
    size_t i = 0;
    for (; count - i >= 2 * LANES; i += 2 * LANES) {
        prefetch_inputs(jobs + i + 2 * LANES, count - i - 2 * LANES);
        node_pair(jobs + i);
    }
    while (count - i > SCALAR_REST_MAX) {
        size_t batch = count - i < LANES ? count - i : LANES;
        node_batch(jobs + i, batch);
        i += batch;
    }
    lanes_scalar()->nodes(jobs + i, count - i);
}

static void avx512_entries(const struct digest_entry_job *jobs, size_t count)
{
    size_t i = 0;
    for (; count - i >= 2 * LANES; i += 2 * LANES)
        entry_pair(jobs + i);
    while (count - i > SCALAR_REST_MAX) {
        size_t batch = count - i < LANES ? count - i : LANES;
        entry_batch(jobs + i, batch);
        i += batch;
    }
    lanes_scalar()->entries(jobs + i, count - i);
}

static const struct lanes_table table = {avx512_nodes, avx512_entries};

const struct lanes_table *lanes_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") ? &table : NULL;
}

#else

const struct lanes_table *lanes_avx512(void)
{
    return NULL;
}

#endif
