/*
 * What the inline limit costs and gives: the same keys and values in stores of different limits, loaded, updated, read
 * singly and scanned. Their roots must be equal: the limit is a matter of layout alone.
 *
 *   prog_inline [--long]     5,000 keys; --long: 200,000
 *
 * CSV: values (bytes of each, "mixed": 16 to 512, "beside": 24 and 200 in turn, of which only the short ones are
 * updated), limit, processor time of an insert and an update in us (the digests included), of a point read and a
 * scanned entry in ns, live bytes a key. Updates, reads and scans: the best of three rounds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pando/engine.h"

#define BATCH 1000u
#define ROUNDS 3

enum values { VALUES_40, VALUES_100, VALUES_200, VALUES_400, VALUES_MIXED, VALUES_BESIDE, VALUES_KINDS };
static const char *const names[VALUES_KINDS] = {"40", "100", "200", "400", "mixed", "beside"};
static const uint32_t limits[] = {64, 128, 256, 512, 1024};

static uint64_t keys, updates; /* batches a round */
static struct eng *eng;
static uint64_t tag;

static void must(enum eng_status status, const char *what)
{
    if (status == ENG_OK)
        return;
    fprintf(stderr, "FAILED: %s: %s\n", what, eng_error());
    exit(1);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static void make_key(uint64_t i, uint8_t key[32])
{
    for (uint64_t w = 0; w < 4; w++) {
        uint64_t word = mix(i * 4 + w);
        memcpy(key + 8 * w, &word, 8);
    }
}

static size_t size_of(enum values values, uint64_t i)
{
    switch (values) {
    case VALUES_40:
        return 40;
    case VALUES_100:
        return 100;
    case VALUES_200:
        return 200;
    case VALUES_400:
        return 400;
    case VALUES_MIXED:
        return 16 + mix(i ^ 77) % 497;
    case VALUES_BESIDE:
        return i % 2 ? 200 : 24;
    case VALUES_KINDS:
        break;
    }
    abort();
}

static void put(struct eng_batch *batch, enum values values, uint64_t i, uint64_t content)
{
    uint8_t key[32], value[512] = {0};
    make_key(i, key);
    memcpy(value, &content, 8);
    must(eng_batch_put(batch, key, sizeof key, (struct eng_value){ENG_BYTES, value, size_of(values, i)}), "put");
}

static void commit(struct eng_batch **batch)
{
    must(eng_batch_freeze(*batch), "freeze");
    must(eng_commit(*batch, ++tag, NULL), "commit");
    eng_batch_close(batch);
    must(eng_drop_below(eng, 0, tag), "drop");
}

static double load(enum values values)
{
    double begin = seconds();
    for (uint64_t i = 0; i < keys;) {
        struct eng_batch *batch;
        must(eng_batch_open(eng, 0, NULL, &batch), "batch");
        for (uint32_t j = 0; j < BATCH && i < keys; j++, i++)
            put(batch, values, i, i);
        commit(&batch);
    }
    return (seconds() - begin) / (double)keys;
}

static double update(enum values values, uint64_t round)
{
    double begin = seconds();
    for (uint64_t n = 0; n < updates; n++) {
        struct eng_batch *batch;
        must(eng_batch_open(eng, 0, NULL, &batch), "batch");
        for (uint64_t j = 0; j < BATCH; j++) {
            uint64_t i = mix((round * updates + n) * BATCH + j) % keys;
            put(batch, values, values == VALUES_BESIDE ? i & ~1ull : i, n * BATCH + j);
        }
        commit(&batch);
    }
    return (seconds() - begin) / (double)updates / BATCH;
}

static void found(void *context, const struct eng_value *value)
{
    *(uint64_t *)context += value->bytes[0];
}

static bool each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    *(uint64_t *)context += value->bytes[0];
    return true;
}

static double get(struct eng_snapshot *snapshot, uint64_t round, uint64_t *sum)
{
    double begin = seconds();
    for (uint64_t j = 0; j < keys; j++) {
        uint8_t key[32];
        make_key(mix(j + round * keys) % keys, key);
        must(eng_get(snapshot, key, sizeof key, found, sum), "get");
    }
    return (seconds() - begin) / (double)keys;
}

static double scan(struct eng_snapshot *snapshot, uint64_t *sum)
{
    double begin = seconds();
    must(eng_scan(snapshot, NULL, 0, NULL, 0, each, sum), "scan");
    return (seconds() - begin) / (double)keys;
}

static void lower(double *best, double now)
{
    if (*best == 0 || now < *best)
        *best = now;
}

static struct eng_summary measure(enum values values, uint32_t limit)
{
    struct disk *disk;
    struct eng_statistics statistics;
    struct eng_summary summary;
    uint64_t sum = 0;
    must(disk_sim_open(0, &disk), "disk");
    struct eng_options options = {.disk = disk, .create = true, .inline_bytes = limit, .inline_only = true};
    must(eng_open(&options, &eng), "open");
    tag = 0;
    double insert = load(values), best_update = 0, best_get = 0, best_scan = 0;
    eng_stats(eng, &statistics);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct eng_snapshot *snapshot;
        lower(&best_update, update(values, round));
        must(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), "snapshot");
        lower(&best_get, get(snapshot, round, &sum));
        lower(&best_scan, scan(snapshot, &sum));
        eng_snapshot_close(&snapshot);
        must(eng_maintain(eng), "maintain");
    }
    printf("%s,%u,%.2f,%.2f,%.0f,%.0f,%.0f\n", names[values], limit, insert * 1e6, best_update * 1e6, best_get * 1e9,
           best_scan * 1e9, (double)statistics.live_bytes / (double)keys);
    fflush(stdout);
    must(eng_head(eng, 0, NULL, &summary), "head");
    eng_close(&eng);
    disk_close(&disk);
    return summary;
}

int main(int argc, char **argv)
{
    bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    keys = is_long ? 200000 : 5000;
    updates = is_long ? 60 : 3;
    puts("values,limit,insert_us,update_us,get_ns,scan_ns,bytes_a_key");
    for (int values = 0; values < VALUES_KINDS; values++) {
        struct eng_summary first, next;
        for (size_t l = 0; l < sizeof limits / sizeof *limits; l++) {
            next = measure((enum values)values, limits[l]);
            if (l && memcmp(&first, &next, sizeof first) != 0) {
                fprintf(stderr, "FAILED: another root at another limit\n");
                return 1;
            }
            first = next;
        }
    }
    return 0;
}
