/*
 * What a snapshot costs, and what a reader and a writer cost each other.
 *
 *   snapshot   open and close of a snapshot, in ns
 *   writer     read-modify-write batches with a snapshot opened, held over the next batches and closed, against batches
 *              without one, interleaved round by round: the ratio of the medians
 *   reader     point reads of one thread beside a writer whose merge is not split, against the same alone
 *
 *   prog_snapshots [--long]      a short run checks that everything is right; --long measures: 21 rounds, 1 M keys, and
 *                                fails if a snapshot costs a microsecond, or one of the other two more than it may
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pando/engine.h"

#define BATCH 1000
#define HELD 8
#define SNAPSHOT_NS_MAX 1000.0
#define WRITER_RATIO_MIN 0.95
#define READER_RATIO_MIN 0.9

static struct eng *eng;
static uint64_t keys, tag;

static void must(enum eng_status status, const char *what)
{
    if (status == ENG_OK)
        return;
    fprintf(stderr, "FAILED: %s: %s\n", what, eng_error());
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static uint64_t next(uint64_t *state)
{
    return mix(*state += 0x9E3779B97F4A7C15ull);
}

static void make_key(uint64_t id, uint8_t key[32])
{
    for (int i = 0; i < 4; i++) {
        uint64_t word = mix(id * 4 + (uint64_t)i + 1);
        memcpy(key + 8 * i, &word, 8);
    }
}

static void batch_open(struct eng_batch **batch)
{
    must(eng_batch_open(eng, 0, NULL, batch), "batch");
}

static void batch_commit(struct eng_batch **batch)
{
    must(eng_batch_freeze(*batch), "freeze");
    must(eng_commit(*batch, ++tag, NULL), "commit");
    eng_batch_close(batch);
    must(eng_drop_below(eng, 0, tag), "drop");
}

static void load(void)
{
    for (uint64_t id = 0; id < keys;) {
        struct eng_batch *batch;
        batch_open(&batch);
        for (int i = 0; i < BATCH; i++, id++) {
            uint8_t key[32], value[40] = {0};
            make_key(id, key);
            must(eng_batch_put(batch, key, 32, (struct eng_value){ENG_BYTES, value, 40}), "put");
        }
        batch_commit(&batch);
    }
}

/* One batch of increments of distinct keys. */
static void write_batch(uint64_t *state)
{
    struct eng_batch *batch;
    batch_open(&batch);
    uint64_t first = next(state) % keys;
    for (uint64_t i = 0; i < BATCH; i++) {
        uint8_t key[32], bytes[40];
        struct eng_value value;
        make_key((first + i * 7919) % keys, key);
        must(eng_batch_get(batch, key, 32, &value), "get");
        memcpy(bytes, value.bytes, 40);
        uint64_t count;
        memcpy(&count, bytes, 8);
        count++;
        memcpy(bytes, &count, 8);
        must(eng_batch_put(batch, key, 32, (struct eng_value){ENG_BYTES, bytes, 40}), "put");
    }
    batch_commit(&batch);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

/* Batches a second; held: with snapshots opened and closed all the while. */
static double writer_round(uint64_t *state, int batches, bool held)
{
    struct eng_snapshot *ring[HELD] = {0};
    uint64_t start = now_ns();
    for (int i = 0; i < batches; i++) {
        if (held) {
            eng_snapshot_close(&ring[i % HELD]);
            must(eng_snapshot_open(eng, 0, ENG_HEAD, &ring[i % HELD]), "snapshot");
        }
        write_batch(state);
    }
    double took = (double)(now_ns() - start) / 1e9;
    for (int i = 0; i < HELD; i++)
        eng_snapshot_close(&ring[i]);
    return batches / took;
}

static double snapshot_cost(int times)
{
    uint64_t start = now_ns();
    for (int i = 0; i < times; i++) {
        struct eng_snapshot *snapshot;
        must(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), "snapshot");
        eng_snapshot_close(&snapshot);
    }
    return (double)(now_ns() - start) / times;
}

static _Atomic bool stop;

static void *writer_main(void *context)
{
    uint64_t *state = context;
    while (!atomic_load(&stop))
        write_batch(state);
    return NULL;
}

static void take(void *context, const struct eng_value *value)
{
    memcpy(context, value->bytes, 40);
}

/* Reads a second. */
static double reader_round(uint64_t *state, int reads)
{
    struct eng_snapshot *snapshot;
    must(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), "snapshot");
    uint64_t start = now_ns();
    for (int i = 0; i < reads; i++) {
        uint8_t key[32], value[40];
        make_key(next(state) % keys, key);
        must(eng_get(snapshot, key, 32, take, value), "get");
    }
    double took = (double)(now_ns() - start) / 1e9;
    eng_snapshot_close(&snapshot);
    return reads / took;
}

/* Every increment is in the state. */
static bool add_counts(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    uint64_t count;
    memcpy(&count, value->bytes, 8);
    *(uint64_t *)context += count;
    return true;
}

int main(int argc, char **argv)
{
    bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    int rounds = is_long ? 21 : 3, batches = is_long ? 200 : 5, reads = is_long ? 300000 : 5000;
    keys = is_long ? 1000000 : 20000;
    char dir[] = "/tmp/prog_snapshots.XXXXXX";
    if (!mkdtemp(dir))
        return 1;
    struct eng_options options = {.path = dir, .create = true, .threads = 1};
    must(eng_open(&options, &eng), "open");
    load();
    uint64_t state = 1, loaded = tag;
    double with[21], without[21], alone[21], beside[21];
    for (int i = 0; i < rounds; i++) {
        without[i] = writer_round(&state, batches, false);
        with[i] = writer_round(&state, batches, true);
    }
    double cost = snapshot_cost(is_long ? 1000000 : 1000), writer = median(with, rounds) / median(without, rounds);
    printf("snapshot: open and close %.0f ns%s\n", cost, cost < SNAPSHOT_NS_MAX ? "" : ": too slow");
    printf("writer: %.0f batches/s with snapshots, %.0f without, ratio %.3f (medians of %d)%s\n", median(with, rounds),
           median(without, rounds), writer, rounds, writer >= WRITER_RATIO_MIN ? "" : ": too slow");
    uint64_t writer_state = 99, reader_state = 7;
    for (int i = 0; i < rounds; i++) {
        pthread_t thread;
        alone[i] = reader_round(&reader_state, reads);
        atomic_store(&stop, false);
        if (pthread_create(&thread, NULL, writer_main, &writer_state) != 0)
            return 1;
        beside[i] = reader_round(&reader_state, reads);
        atomic_store(&stop, true);
        pthread_join(thread, NULL);
    }
    double reader = median(beside, rounds) / median(alone, rounds);
    printf("reader: %.0f reads/s beside a writer, %.0f alone, ratio %.3f (medians of %d)%s\n", median(beside, rounds),
           median(alone, rounds), reader, rounds, reader >= READER_RATIO_MIN ? "" : ": too slow");
    struct eng_snapshot *snapshot;
    uint64_t sum = 0;
    must(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), "snapshot");
    must(eng_scan(snapshot, NULL, 0, NULL, 0, add_counts, &sum), "scan");
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    if (system(command) != 0)
        return 1;
    uint64_t due = (tag - loaded) * BATCH;
    if (sum != due) {
        fprintf(stderr, "FAILED: %llu increments are there, %llu were made\n", (unsigned long long)sum,
                (unsigned long long)due);
        return 1;
    }
    bool good = cost < SNAPSHOT_NS_MAX && writer >= WRITER_RATIO_MIN && reader >= READER_RATIO_MIN;
    return good || !is_long ? 0 : 1;
}
