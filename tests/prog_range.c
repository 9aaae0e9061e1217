/*
 * What a range costs: count, sum and removal of seven eighths of the keys, key by key and as a range, for growing
 * trees. Both ways must come to the same result (the removals: to the same root). Prints CSV.
 *
 * Key by key is a scan without copies (count, sum), or a scan that removes each key in a batch which is then merged and
 * undone. As a range is eng_totals (the mean of many, with other bounds each time), or eng_batch_remove_range with its
 * commit, published. A merge beforehand that is undone brings the way down into the cache, as the scan does.
 *
 * The short run checks results only. --long goes to 5 million keys and checks the times: from a million keys on a range
 * must be a thousand times faster, and from the smallest tree to the largest its cost may grow by a tenth of what the
 * keys grow by (nodes that are no longer in the cache, and a level or two).
 *
 *   prog_range [--long]
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pando/engine.h"

#define KEY_BYTES 16u
#define LOAD_BATCH 50000u
#define TOTALS_REPEATS 200u
#define RATIO_KEYS 1000000u
#define RATIO_MIN 1000.0

enum operation { OPERATION_COUNT, OPERATION_SUM, OPERATION_DELETE, OPERATIONS };
static const char *const operation_name[OPERATIONS] = {"count", "sum", "delete"};

struct cost {
    uint64_t ns_iterate, ns_range;
};

static void need(bool good, const char *what)
{
    if (good)
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
    z = (z + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static void make_key(uint64_t i, uint8_t key[KEY_BYTES])
{
    uint64_t a = mix(i), b = mix(~i);
    memcpy(key, &a, 8);
    memcpy(key + 8, &b, 8);
}

static void load(struct eng *eng, uint64_t keys)
{
    uint8_t key[KEY_BYTES];
    for (uint64_t i = 0; i < keys;) {
        struct eng_batch *batch;
        need(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
        for (uint64_t end = i + LOAD_BATCH < keys ? i + LOAD_BATCH : keys; i < end; i++) {
            uint64_t amount[2] = {i, 0};
            make_key(i, key);
            need(eng_batch_put(batch, key, sizeof key,
                               (struct eng_value){ENG_AMOUNT, (const uint8_t *)amount, sizeof amount}) == ENG_OK,
                 "put");
        }
        need(eng_batch_freeze(batch) == ENG_OK && eng_commit(batch, i, NULL) == ENG_OK, "commit");
        eng_batch_close(&batch);
        need(eng_drop_below(eng, 0, i) == ENG_OK, "drop");
    }
}

/* What a scan gathers. */
struct gathered {
    struct eng_totals totals;
    struct eng_batch *batch; /* that removes what is scanned */
    bool good;
};

static bool count_one(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    ((struct gathered *)context)->totals.count++;
    return true;
}

static bool sum_one(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct gathered *g = context;
    uint64_t sum[3];
    memcpy(sum, value->bytes, 16);
    sum[2] = (uint64_t)((int64_t)sum[1] >> 63);
    digest_sum_add(g->totals.sum, g->totals.sum, sum);
    return true;
}

static bool remove_one(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct gathered *g = context;
    g->good = eng_batch_remove(g->batch, key, key_bytes) == ENG_OK;
    return g->good;
}

/* The k-th pair of bounds: close to 1/16 and 15/16 of all keys. */
static void bounds(uint64_t k, uint8_t from[KEY_BYTES], uint8_t to[KEY_BYTES])
{
    make_key(2 * k, from);
    make_key(2 * k + 1, to);
    from[0] = 0x10;
    to[0] = 0xf0;
}

static void measure_totals(struct eng *eng, struct cost cost[OPERATIONS])
{
    struct eng_snapshot *snapshot;
    uint8_t from[KEY_BYTES], to[KEY_BYTES];
    need(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot) == ENG_OK, "snapshot");
    bounds(0, from, to);
    struct gathered g = {0};
    uint64_t begin = now_ns();
    need(eng_scan(snapshot, from, KEY_BYTES, to, KEY_BYTES, count_one, &g) == ENG_OK, "scan");
    cost[OPERATION_COUNT].ns_iterate = now_ns() - begin;
    begin = now_ns();
    need(eng_scan(snapshot, from, KEY_BYTES, to, KEY_BYTES, sum_one, &g) == ENG_OK, "scan");
    cost[OPERATION_SUM].ns_iterate = now_ns() - begin;
    struct eng_totals totals;
    need(eng_totals(snapshot, from, KEY_BYTES, to, KEY_BYTES, &totals) == ENG_OK, "totals");
    need(memcmp(&totals, &g.totals, sizeof totals) == 0 && totals.count > 0, "a scan gathers other totals");
    begin = now_ns();
    for (uint64_t k = 0; k < TOTALS_REPEATS; k++) {
        bounds(k, from, to);
        need(eng_totals(snapshot, from, KEY_BYTES, to, KEY_BYTES, &totals) == ENG_OK, "totals");
    }
    cost[OPERATION_COUNT].ns_range = cost[OPERATION_SUM].ns_range = (now_ns() - begin) / TOTALS_REPEATS;
    eng_snapshot_close(&snapshot);
}

static struct eng_batch *removal(struct eng *eng, const uint8_t *from, const uint8_t *to, bool one_by_one)
{
    struct eng_batch *batch;
    need(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
    if (one_by_one) {
        struct eng_snapshot *snapshot;
        struct gathered g = {.batch = batch, .good = true};
        need(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot) == ENG_OK, "snapshot");
        need(eng_scan(snapshot, from, KEY_BYTES, to, KEY_BYTES, remove_one, &g) == ENG_OK && g.good, "remove");
        eng_snapshot_close(&snapshot);
    } else {
        need(eng_batch_remove_range(batch, from, KEY_BYTES, to, KEY_BYTES) == ENG_OK, "remove range");
    }
    need(eng_batch_freeze(batch) == ENG_OK, "freeze");
    return batch;
}

static void measure_delete(struct eng *eng, uint64_t tag, struct cost *cost)
{
    uint8_t from[KEY_BYTES], to[KEY_BYTES];
    bounds(0, from, to);
    struct eng_summary point, undone, range;
    uint64_t begin = now_ns();
    struct eng_batch *batch = removal(eng, from, to, true);
    need(eng_dry_commit(batch, &point) == ENG_OK, "dry commit");
    cost->ns_iterate = now_ns() - begin;
    eng_batch_close(&batch);
    batch = removal(eng, from, to, false);
    need(eng_dry_commit(batch, &undone) == ENG_OK, "dry commit");
    eng_batch_close(&batch);
    begin = now_ns();
    batch = removal(eng, from, to, false);
    need(eng_commit(batch, tag, &range) == ENG_OK, "commit");
    cost->ns_range = now_ns() - begin;
    eng_batch_close(&batch);
    need(memcmp(&point, &range, sizeof range) == 0 && memcmp(&undone, &range, sizeof range) == 0,
         "the range's removal has another root");
}

static int remove_file(const char *path, const struct stat *s, int type, struct FTW *ftw)
{
    return remove(path);
}

static void measure(uint64_t keys, struct cost cost[OPERATIONS])
{
    char dir[] = "/tmp/pando-range-XXXXXX";
    need(mkdtemp(dir) != NULL, "directory");
    struct eng *eng;
    need(eng_open(&(struct eng_options){.path = dir, .create = true}, &eng) == ENG_OK, "open");
    load(eng, keys);
    measure_totals(eng, cost);
    measure_delete(eng, keys + 1, &cost[OPERATION_DELETE]);
    eng_close(&eng);
    need(nftw(dir, remove_file, 16, FTW_DEPTH | FTW_PHYS) == 0, "clean up");
}

int main(int argc, char **argv)
{
    static const uint64_t sizes[] = {10000, 100000, 1000000, 5000000};
    bool thorough = argc > 1 && !strcmp(argv[1], "--long"), good = true;
    unsigned runs = thorough ? 4 : 2;
    struct cost first[OPERATIONS] = {{0}}, cost[OPERATIONS];
    puts("keys,operation,ns_iterate,ns_range,ratio");
    for (unsigned run = 0; run < runs; run++) {
        measure(sizes[run], cost);
        if (!run)
            memcpy(first, cost, sizeof cost);
        for (unsigned o = 0; o < OPERATIONS; o++) {
            double ratio = (double)cost[o].ns_iterate / (double)cost[o].ns_range;
            double growth = (double)cost[o].ns_range / (double)first[o].ns_range;
            double growth_max = (double)sizes[run] / (double)sizes[0] / 10;
            printf("%llu,%s,%llu,%llu,%.0f\n", (unsigned long long)sizes[run], operation_name[o],
                   (unsigned long long)cost[o].ns_iterate, (unsigned long long)cost[o].ns_range, ratio);
            fflush(stdout);
            if (sizes[run] >= RATIO_KEYS && (ratio < RATIO_MIN || growth > growth_max))
                good = false;
        }
    }
    if (!good)
        fprintf(stderr, "FAILED: a range is not O(depth)\n");
    return good ? 0 : 1;
}
