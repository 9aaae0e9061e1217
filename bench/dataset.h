/*
 * The keys and values of the benchmark, and the oracle that knows what a store must hold.
 *
 *   key of i     32 bytes: mix(i) big-endian, then three words derived from it. mix is a bijection of 64 bits, so i can
 * be read back from the first 8 bytes; the keys of 0, 1, 2 ... are in random order. value of i   40 bytes: a
 * little-endian counter of increments, then 32 bytes derived from i
 *
 * The oracle is one counter a key, in memory shared between the rounds' processes: how often the workloads incremented
 * it. A check walks the whole store in key order and compares every key and every value with that.
 */
#ifndef BENCH_DATASET_H
#define BENCH_DATASET_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BENCH_KEY_BYTES 32
#define BENCH_VALUE_BYTES 40

struct bench_pair {
    uint8_t key[BENCH_KEY_BYTES];
    uint8_t value[BENCH_VALUE_BYTES];
};

struct store_driver;

struct dataset {
    uint64_t keys;
    uint32_t *increments; /* of each key; shared memory */
};

void dataset_open(struct dataset *dataset, uint64_t keys);
void dataset_close(struct dataset *dataset);

void dataset_key(uint64_t i, uint8_t key[BENCH_KEY_BYTES]);
void dataset_value(uint64_t i, uint64_t increments, uint8_t value[BENCH_VALUE_BYTES]);

/* Walks the store; ends the process with the first difference. */
void dataset_check(const struct dataset *dataset, const struct store_driver *driver, void *store, const char *name);

/* A cheap sum over keys and values in any order, and what it must be. */
static inline uint64_t dataset_sum_of(const uint8_t *key, const uint8_t *value)
{
    uint64_t k, v;
    memcpy(&k, key, 8);
    memcpy(&v, value, 8);
    return k ^ v * 0x9e3779b97f4a7c15ull;
}
uint64_t dataset_sum(const struct dataset *dataset);

static inline void value_increment(uint8_t value[BENCH_VALUE_BYTES])
{
    uint64_t counter;
    memcpy(&counter, value, 8);
    counter++;
    memcpy(value, &counter, 8);
}

/* Random numbers (splitmix64). */
struct bench_random {
    uint64_t state;
};
static inline uint64_t random_next(struct bench_random *random)
{
    uint64_t z = (random->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
static inline uint64_t random_below(struct bench_random *random, uint64_t n)
{
    return (uint64_t)((unsigned __int128)random_next(random) * n >> 64);
}

/* Draws batches of distinct keys: the same ones from the same seed. */
struct picker;
struct picker *picker_open(uint64_t seed, uint64_t keys, size_t batch);
void picker_close(struct picker **picker);
void picker_next(struct picker *picker, uint64_t *ids);

#endif
