/*
 * Which lanes compute the digests.
 *
 * lanes_choose() checks every implementation that this build and CPU have against libsodium, on messages of every
 * length and on counts that fill its lanes, leave some idle and leave one over; the widest that agrees is used. One
 * that disagrees is never used, digest_use_lanes() refuses it too: a wrong digest is a wrong root, a slow one is only
 * slow. libsodium itself is always there and is what is used before.
 *
 * PANDO_LANES names an implementation to use instead, for tests and measurements; a name that is unknown or not
 * available leaves the choice as it was.
 *
 * The choice is one pointer, written only by lanes_choose() and digest_use_lanes(), which do not run while digests are
 * computed (the contract in lanes.h); so it is read without atomics.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lanes_kernel.h"

#define LANES_KINDS 5

static void sodium_nodes(const struct digest_node_job *jobs, size_t count);
static void sodium_entries(const struct digest_entry_job *jobs, size_t count);
static const struct lanes_table sodium_table = {sodium_nodes, sodium_entries};

static const struct lanes_table *usable[LANES_KINDS] = {[DIGEST_LANES_SODIUM] = &sodium_table};
static enum digest_lanes used = DIGEST_LANES_SODIUM;

const struct lanes_table *lanes_sodium(void)
{
    return &sodium_table;
}

static void sodium_nodes(const struct digest_node_job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        digest_node(jobs[i].left, jobs[i].right, jobs[i].bit, jobs[i].out);
}

static void sodium_entries(const struct digest_entry_job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        digest_entry_message(jobs[i].message, jobs[i].length, jobs[i].out);
}

void digest_nodes(const struct digest_node_job *jobs, size_t count)
{
    usable[used]->nodes(jobs, count);
}

void digest_entries(const struct digest_entry_job *jobs, size_t count)
{
    usable[used]->entries(jobs, count);
}

/* ---- the check at the start ----------------------------------------------------------------------------------------
 */

#define CHECK_JOBS 33u /* two rounds of the widest lanes and one over; every smaller count is tried too */

/* A sequence without a pattern that a transposition or rotation could keep: splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t check_word(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool nodes_agree(const struct lanes_table *table)
{
    struct eng_summary inputs[2 * CHECK_JOBS];
    struct digest_node_job jobs[CHECK_JOBS];
    uint8_t out[CHECK_JOBS][32];
    uint64_t state = 1;
    for (size_t i = 0; i < 2 * CHECK_JOBS; i++) {
        uint64_t words[8];
        for (size_t w = 0; w < 8; w++)
            words[w] = check_word(&state);
        memcpy(&inputs[i], words, sizeof words);
    }
    for (size_t i = 0; i < CHECK_JOBS; i++)
        jobs[i] = (struct digest_node_job){&inputs[2 * i], &inputs[2 * i + 1], out[i], (uint32_t)check_word(&state)};
    for (size_t count = 0; count <= CHECK_JOBS; count++) {
        memset(out, 0, sizeof out);
        table->nodes(jobs, count);
        for (size_t i = 0; i < CHECK_JOBS; i++) {
            uint8_t expected[32] = {0};
            if (i < count)
                digest_node(jobs[i].left, jobs[i].right, jobs[i].bit, expected);
            if (memcmp(out[i], expected, 32) != 0)
                return false;
        }
    }
    return true;
}

static bool entries_agree(const struct lanes_table *table)
{
    struct digest_entry_job jobs[CHECK_JOBS];
    uint8_t out[CHECK_JOBS][32];
    uint64_t state = 2;
    for (uint32_t length = 0; length <= 128; length++) {
        size_t count = length % (CHECK_JOBS + 1);
        for (size_t i = 0; i < CHECK_JOBS; i++) {
            uint64_t words[16];
            for (size_t w = 0; w < 16; w++)
                words[w] = check_word(&state);
            memcpy(jobs[i].message, words, sizeof words);
            jobs[i].length = (length + 31 * (uint32_t)i) % 129;
            memset(jobs[i].message + jobs[i].length, 0, 128 - jobs[i].length);
            jobs[i].out = out[i];
        }
        memset(out, 0, sizeof out);
        table->entries(jobs, count);
        for (size_t i = 0; i < CHECK_JOBS; i++) {
            uint8_t expected[32] = {0};
            if (i < count)
                digest_entry_message(jobs[i].message, jobs[i].length, expected);
            if (memcmp(out[i], expected, 32) != 0)
                return false;
        }
    }
    return true;
}

void lanes_choose(void)
{
    usable[DIGEST_LANES_SCALAR] = lanes_scalar();
    usable[DIGEST_LANES_NEON] = lanes_neon();
    usable[DIGEST_LANES_AVX2] = lanes_avx2();
    usable[DIGEST_LANES_AVX512] = lanes_avx512();
    const enum digest_lanes best_last[] = {DIGEST_LANES_SCALAR, DIGEST_LANES_NEON, DIGEST_LANES_AVX2,
                                           DIGEST_LANES_AVX512};
    for (size_t i = 0; i < sizeof best_last / sizeof *best_last; i++) {
        enum digest_lanes lanes = best_last[i];
        if (usable[lanes] == NULL)
            continue;
        if (nodes_agree(usable[lanes]) && entries_agree(usable[lanes]))
            used = lanes;
        else
            usable[lanes] = NULL;
    }
    const char *forced = getenv("PANDO_LANES");
    for (int lanes = 0; forced != NULL && lanes < LANES_KINDS; lanes++) {
        if (strcmp(forced, digest_lanes_name((enum digest_lanes)lanes)) == 0)
            (void)digest_use_lanes((enum digest_lanes)lanes);
    }
}

bool digest_use_lanes(enum digest_lanes lanes)
{
    assert((unsigned)lanes < LANES_KINDS);
    if (usable[lanes] == NULL)
        return false;
    used = lanes;
    return true;
}

enum digest_lanes digest_lanes_in_use(void)
{
    return used;
}

const char *digest_lanes_name(enum digest_lanes lanes)
{
    switch (lanes) {
    case DIGEST_LANES_SODIUM:
        return "sodium";
    case DIGEST_LANES_NEON:
        return "neon";
    case DIGEST_LANES_AVX2:
        return "avx2";
    case DIGEST_LANES_AVX512:
        return "avx512";
    case DIGEST_LANES_SCALAR:
        return "scalar";
    }
    return "unknown";
}
