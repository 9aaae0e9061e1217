/*
 * One BLAKE2b block at a time in portable C, without the state object, buffering and padding of the general call.
 *
 * For the one or two jobs that a batch of lanes leaves over, and for CPUs without lanes. It takes about half the time
 * of libsodium's general call. Same bytes, checked at the start like any other lanes.
 *
 * gcc, allowed vectors (-march=native with AVX-512), moves the words back and forth between them and the general
 * registers, which costs four times the time; hence the attribute.
 */
#include <string.h>

#include "lanes_kernel.h"

#if defined(__x86_64__) && !defined(__clang__)
#define STAY_SCALAR __attribute__((target("general-regs-only")))
#else
#define STAY_SCALAR
#endif

#define LANE_ADD(a, b) ((a) + (b))
#define LANE_XOR(a, b) ((a) ^ (b))
#define LANE_ROR_32(a) ror(a, 32)
#define LANE_ROR_24(a) ror(a, 24)
#define LANE_ROR_16(a) ror(a, 16)
#define LANE_ROR_63(a) ror(a, 63)

STAY_SCALAR static inline __attribute__((always_inline)) uint64_t ror(uint64_t a, unsigned n)
{
    return a >> n | a << (64 - n);
}

STAY_SCALAR static void compress(const uint64_t m[16], uint64_t salt4, uint64_t h6, uint64_t h7, uint64_t length,
                                 uint8_t out[32])
{
    uint64_t v[16] = {BLAKE2B_H0,           BLAKE2B_IV1, BLAKE2B_IV2,  BLAKE2B_IV3,
                      BLAKE2B_IV4 ^ salt4,  BLAKE2B_IV5, h6,           h7,
                      BLAKE2B_IV0,          BLAKE2B_IV1, BLAKE2B_IV2,  BLAKE2B_IV3,
                      BLAKE2B_IV4 ^ length, BLAKE2B_IV5, ~BLAKE2B_IV6, BLAKE2B_IV7};
    BLAKE2B_ROUNDS
    uint64_t h[4] = {BLAKE2B_H0 ^ v[0] ^ v[8], BLAKE2B_IV1 ^ v[1] ^ v[9], BLAKE2B_IV2 ^ v[2] ^ v[10],
                     BLAKE2B_IV3 ^ v[3] ^ v[11]};
    memcpy(out, h, sizeof h);
}

static void scalar_nodes(const struct digest_node_job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t m[16];
        memcpy(m, jobs[i].left, 64);
        memcpy(m + 8, jobs[i].right, 64);
        compress(m, jobs[i].bit, NODE_H6, NODE_H7, 128, jobs[i].out);
    }
}

static void scalar_entries(const struct digest_entry_job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t m[16];
        memcpy(m, jobs[i].message, sizeof m);
        compress(m, 0, ENTRY_H6, ENTRY_H7, jobs[i].length, jobs[i].out);
    }
}

static const struct lanes_table table = {scalar_nodes, scalar_entries};

const struct lanes_table *lanes_scalar(void)
{
    return &table;
}
