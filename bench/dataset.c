/*
 * Keys, values and the oracle (dataset.h). The mix is splitmix64's finalizer, whose steps can each be undone: a
 * shift-xor by repeating it, a multiplication by the inverse of its odd factor.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "dataset.h"
#include "store.h"

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t inverse(uint64_t odd)
{
    uint64_t x = odd; /* right in 3 bits; each step doubles them */
    for (int i = 0; i < 5; i++)
        x *= 2 - odd * x;
    return x;
}

static uint64_t unshift(uint64_t z, int by)
{
    uint64_t x = z;
    for (int done = by; done < 64; done += by)
        x = z ^ (x >> by);
    return x;
}

static uint64_t unmix(uint64_t z)
{
    z = unshift(z, 31) * inverse(0x94d049bb133111ebull);
    z = unshift(z, 27) * inverse(0xbf58476d1ce4e5b9ull);
    return unshift(z, 30) - 0x9e3779b97f4a7c15ull;
}

void dataset_key(uint64_t i, uint8_t key[BENCH_KEY_BYTES])
{
    uint64_t words[4];
    uint64_t z = mix(i);
    words[0] = htobe64(z);
    for (int w = 1; w < 4; w++)
        words[w] = z = mix(z);
    memcpy(key, words, sizeof words);
}

void dataset_value(uint64_t i, uint64_t increments, uint8_t value[BENCH_VALUE_BYTES])
{
    uint64_t words[5] = {increments};
    uint64_t z = ~i;
    for (int w = 1; w < 5; w++)
        words[w] = z = mix(z);
    memcpy(value, words, sizeof words);
}

void dataset_open(struct dataset *dataset, uint64_t keys)
{
    void *memory =
        mmap(NULL, keys * sizeof *dataset->increments, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        bench_die("oracle of %lu keys: %s", (unsigned long)keys, strerror(errno));
    dataset->keys = keys;
    dataset->increments = memory;
    assert(unmix(mix(0)) == 0 && unmix(mix(keys)) == keys);
}

void dataset_close(struct dataset *dataset)
{
    if (dataset->increments)
        munmap(dataset->increments, dataset->keys * sizeof *dataset->increments);
    *dataset = (struct dataset){0};
}

struct check {
    const struct dataset *dataset;
    const char *name;
    uint64_t seen;
    uint8_t last[BENCH_KEY_BYTES];
};

static bool check_each(void *context, const uint8_t *key, const uint8_t *value)
{
    struct check *check = context;
    uint8_t key_due[BENCH_KEY_BYTES], value_due[BENCH_VALUE_BYTES];
    uint64_t head;
    memcpy(&head, key, 8);
    uint64_t i = unmix(be64toh(head));
    if (i >= check->dataset->keys)
        bench_die("%s: entry %lu has a key that was never written", check->name, (unsigned long)check->seen);
    dataset_key(i, key_due);
    dataset_value(i, check->dataset->increments[i], value_due);
    if (memcmp(key, key_due, sizeof key_due) != 0)
        bench_die("%s: the key of %lu is damaged", check->name, (unsigned long)i);
    if (check->seen > 0 && memcmp(check->last, key, sizeof key_due) >= 0)
        bench_die("%s: entry %lu is out of order", check->name, (unsigned long)check->seen);
    if (memcmp(value, value_due, sizeof value_due) != 0) {
        uint64_t counter;
        memcpy(&counter, value, 8);
        bench_die("%s: the value of %lu has counter %lu instead of %u, or is damaged", check->name, (unsigned long)i,
                  (unsigned long)counter, check->dataset->increments[i]);
    }
    memcpy(check->last, key, sizeof check->last);
    check->seen++;
    return true;
}

void dataset_check(const struct dataset *dataset, const struct store_driver *driver, void *store, const char *name)
{
    struct check check = {.dataset = dataset, .name = name};
    driver->view_open(store);
    driver->scan(store, check_each, &check);
    driver->view_close(store);
    if (check.seen != dataset->keys)
        bench_die("%s: holds %lu entries instead of %lu", name, (unsigned long)check.seen,
                  (unsigned long)dataset->keys);
}

uint64_t dataset_sum(const struct dataset *dataset)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < dataset->keys; i++) {
        uint8_t key[BENCH_KEY_BYTES], value[BENCH_VALUE_BYTES];
        dataset_key(i, key);
        dataset_value(i, dataset->increments[i], value);
        sum += dataset_sum_of(key, value);
    }
    return sum;
}

/* Distinct within a batch by an open-addressing set whose slots are stamped with the batch they were used in. */
struct picker {
    struct bench_random random;
    uint64_t keys;
    size_t batch, slots; /* slots: a power of two */
    uint32_t stamp;
    struct {
        uint64_t id;
        uint32_t stamp;
    } slot[];
};

struct picker *picker_open(uint64_t seed, uint64_t keys, size_t batch)
{
    assert(batch <= keys);
    size_t slots = 16;
    while (slots < 4 * batch)
        slots *= 2;
    struct picker *picker = calloc(1, sizeof *picker + slots * sizeof picker->slot[0]);
    if (!picker)
        bench_die("no memory for batches of %zu", batch);
    picker->random.state = seed;
    picker->keys = keys;
    picker->batch = batch;
    picker->slots = slots;
    return picker;
}

void picker_close(struct picker **picker)
{
    free(*picker);
    *picker = NULL;
}

void picker_next(struct picker *picker, uint64_t *ids)
{
    picker->stamp++;
    for (size_t n = 0; n < picker->batch;) {
        uint64_t id = random_below(&picker->random, picker->keys);
        size_t at = (id * 0x9e3779b97f4a7c15ull >> 32) & (picker->slots - 1);
        while (picker->slot[at].stamp == picker->stamp && picker->slot[at].id != id)
            at = (at + 1) & (picker->slots - 1);
        if (picker->slot[at].stamp == picker->stamp)
            continue;
        picker->slot[at].stamp = picker->stamp;
        picker->slot[at].id = id;
        ids[n++] = id;
    }
}
