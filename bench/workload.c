/*
 * The workloads (workload.h).
 *
 * The oracle is not touched while the clock runs: the batches of a round follow from its seed, so they are drawn a
 * second time afterwards to count the increments.
 */
#include <assert.h>
#include <stdlib.h>

#include "measure.h"
#include "workload.h"

static const char *const names[WORKLOADS] = {"insert", "rmw", "get", "get_many", "scan", "rmw_snapshots", "durable"};

const char *workload_name(enum workload workload)
{
    return names[workload];
}

bool workload_parse(const char *name, enum workload *workload)
{
    for (int i = 0; i < WORKLOADS; i++)
        if (strcmp(name, names[i]) == 0) {
            *workload = (enum workload)i;
            return true;
        }
    return false;
}

/* Time spent in the store, operations done, durations of cycles. */
struct meter {
    uint64_t ns, operations;
    struct samples samples;
};

static void meter_report(struct meter *meter, struct measurement *measurement)
{
    measurement->ops_per_s = meter->ns ? (double)meter->operations * 1e9 / (double)meter->ns : 0;
    measurement->p50_us = samples_percentile_us(&meter->samples, 0.50);
    measurement->p99_us = samples_percentile_us(&meter->samples, 0.99);
    measurement->rss_mb = measure_rss_mb();
}

static void *checked(void *memory)
{
    if (!memory)
        bench_die("out of memory");
    return memory;
}

/* ---- insert ---- */

static void load(const struct round *round, void *store, struct meter *meter)
{
    struct bench_pair *pairs = checked(malloc(round->batch * sizeof *pairs));
    for (uint64_t from = 0; from < round->dataset.keys; from += round->batch) {
        uint64_t rest = round->dataset.keys - from;
        size_t count = rest < round->batch ? (size_t)rest : round->batch;
        for (size_t i = 0; i < count; i++) {
            dataset_key(from + i, pairs[i].key);
            dataset_value(from + i, 0, pairs[i].value);
        }
        uint64_t start = measure_now_ns();
        round->driver->write(store, count, pairs);
        uint64_t took = measure_now_ns() - start;
        if (meter) {
            meter->ns += took;
            meter->operations += count;
            samples_add(&meter->samples, took);
        }
    }
    free(pairs);
}

/* ---- rmw, rmw_snapshots, durable ---- */

/* Snapshots in the order they were opened, each with a key that was changed right after and what it was. */
struct snapshots {
    struct {
        void *handle;
        uint8_t key[BENCH_KEY_BYTES], value[BENCH_VALUE_BYTES];
    } ring[SNAPSHOT_LIFE];
    size_t first, count;
};

/* The snapshot must still show what it showed when it was opened. */
static void snapshot_check(const struct round *round, void *store, struct snapshots *snapshots)
{
    uint8_t value[BENCH_VALUE_BYTES];
    if (!round->driver->snapshot_get(store, snapshots->ring[snapshots->first].handle,
                                     snapshots->ring[snapshots->first].key, value) ||
        memcmp(value, snapshots->ring[snapshots->first].value, sizeof value) != 0)
        bench_die("%s: a snapshot has changed", round->settings.name);
}

/* Opens one for now; if there are enough, checks and releases the oldest. Returns the time in the store. */
static uint64_t snapshot_turn(const struct round *round, void *store, struct snapshots *snapshots, const uint8_t *key)
{
    uint64_t ns = 0, start;
    if (snapshots->count == SNAPSHOT_LIFE) {
        snapshot_check(round, store, snapshots);
        start = measure_now_ns();
        round->driver->snapshot_close(store, snapshots->ring[snapshots->first].handle);
        ns += measure_now_ns() - start;
        snapshots->first = (snapshots->first + 1) % SNAPSHOT_LIFE;
        snapshots->count--;
    }
    size_t at = (snapshots->first + snapshots->count++) % SNAPSHOT_LIFE;
    start = measure_now_ns();
    void *handle = round->driver->snapshot_open(store);
    ns += measure_now_ns() - start;
    snapshots->ring[at].handle = handle;
    memcpy(snapshots->ring[at].key, key, BENCH_KEY_BYTES);
    if (!round->driver->snapshot_get(store, handle, key, snapshots->ring[at].value))
        bench_die("%s: a snapshot lacks a key", round->settings.name);
    return ns;
}

static void snapshots_release(const struct round *round, void *store, struct snapshots *snapshots)
{
    for (; snapshots->count > 0; snapshots->count--) {
        snapshot_check(round, store, snapshots);
        round->driver->snapshot_close(store, snapshots->ring[snapshots->first].handle);
        snapshots->first = (snapshots->first + 1) % SNAPSHOT_LIFE;
    }
}

/* One batch; returns the time in the store. */
static uint64_t rmw_cycle(const struct round *round, void *store, const uint64_t *ids, uint8_t (*keys)[BENCH_KEY_BYTES],
                          struct snapshots *snapshots)
{
    uint64_t ns = 0;
    for (size_t i = 0; i < round->batch; i++)
        dataset_key(ids[i], keys[i]);
    if (snapshots)
        ns += snapshot_turn(round, store, snapshots, keys[0]);
    uint64_t start = measure_now_ns();
    round->driver->rmw(store, round->batch, (const uint8_t(*)[BENCH_KEY_BYTES])keys);
    return ns + measure_now_ns() - start;
}

static void run_rmw(const struct round *round, void *store, struct meter *meter)
{
    struct picker *picker = picker_open(round->seed, round->dataset.keys, round->batch);
    uint64_t *ids = checked(malloc(round->batch * sizeof *ids));
    uint8_t(*keys)[BENCH_KEY_BYTES] = checked(malloc(round->batch * sizeof *keys));
    struct snapshots *snapshots = round->settings.snapshots ? checked(calloc(1, sizeof *snapshots)) : NULL;
    uint64_t warm_ns = 0, batches = 0;
    uint64_t warm_until = (uint64_t)(round->warmup_seconds * 1e9), until = (uint64_t)(round->seconds * 1e9);
    for (; meter->ns < until; batches++) {
        picker_next(picker, ids);
        uint64_t took = rmw_cycle(round, store, ids, keys, snapshots);
        bool warm = warm_ns >= warm_until && (!snapshots || snapshots->count == SNAPSHOT_LIFE);
        if (!warm) {
            warm_ns += took;
            continue;
        }
        meter->ns += took;
        meter->operations += round->batch;
        samples_add(&meter->samples, took);
    }
    if (snapshots)
        snapshots_release(round, store, snapshots);
    picker_close(&picker);
    picker = picker_open(round->seed, round->dataset.keys, round->batch);
    while (batches-- > 0) {
        picker_next(picker, ids);
        for (size_t i = 0; i < round->batch; i++)
            round->dataset.increments[ids[i]]++;
    }
    picker_close(&picker);
    free(snapshots);
    free(keys);
    free(ids);
}

/* ---- get ---- */

#define GET_CHUNK 1024
#define GET_TIMED_EVERY 32 /* every so many reads one is timed by itself */

/* One key, or BENCH_MANY: at once, if the store can. */
static size_t get_group(const struct store_driver *driver, void *store, struct bench_pair *pairs, size_t count)
{
    if (count == BENCH_MANY && driver->get_many)
        return driver->get_many(store, pairs);
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        found += driver->get(store, pairs[i].key, pairs[i].value);
    return found;
}

static void run_get(const struct round *round, void *store, struct meter *meter)
{
    struct bench_random random = {.state = round->seed};
    struct bench_pair *pairs = checked(malloc(GET_CHUNK * sizeof *pairs));
    uint64_t *ids = checked(malloc(GET_CHUNK * sizeof *ids));
    size_t group = round->workload == WORKLOAD_GET_MANY ? BENCH_MANY : 1;
    uint64_t warm_ns = 0, warm_until = (uint64_t)(round->warmup_seconds * 1e9);
    uint64_t until = (uint64_t)(round->seconds * 1e9);
    round->driver->view_open(store);
    while (meter->ns < until) {
        for (size_t i = 0; i < GET_CHUNK; i++) {
            ids[i] = random_below(&random, round->dataset.keys);
            dataset_key(ids[i], pairs[i].key);
        }
        uint64_t timed[GET_CHUNK / GET_TIMED_EVERY], start = measure_now_ns();
        size_t found = 0;
        for (size_t i = 0; i < GET_CHUNK; i += group) {
            if (i % GET_TIMED_EVERY != 0) {
                found += get_group(round->driver, store, pairs + i, group);
                continue;
            }
            uint64_t before = measure_now_ns();
            found += get_group(round->driver, store, pairs + i, group);
            timed[i / GET_TIMED_EVERY] = measure_now_ns() - before;
        }
        uint64_t took = measure_now_ns() - start;
        for (size_t i = 0; i < GET_CHUNK; i++) {
            uint8_t due[BENCH_VALUE_BYTES];
            dataset_value(ids[i], round->dataset.increments[ids[i]], due);
            if (found != GET_CHUNK || memcmp(due, pairs[i].value, sizeof due) != 0)
                bench_die("%s: a read of key %lu gave a wrong value, or none", round->settings.name,
                          (unsigned long)ids[i]);
        }
        if (warm_ns < warm_until) {
            warm_ns += took;
            continue;
        }
        meter->ns += took;
        meter->operations += GET_CHUNK;
        for (size_t i = 0; i < GET_CHUNK / GET_TIMED_EVERY; i++)
            samples_add(&meter->samples, timed[i]);
    }
    round->driver->view_close(store);
    free(ids);
    free(pairs);
}

/* ---- scan ---- */

struct scan {
    uint64_t sum, entries;
};

static bool scan_add(void *context, const uint8_t *key, const uint8_t *value)
{
    struct scan *scan = context;
    scan->sum += dataset_sum_of(key, value);
    scan->entries++;
    return true;
}

static void run_scan(const struct round *round, void *store, struct meter *meter)
{
    uint64_t due = dataset_sum(&round->dataset);
    uint64_t until = (uint64_t)(round->seconds * 1e9);
    for (bool warm = false; meter->ns < until; warm = true) {
        struct scan scan = {0};
        uint64_t start = measure_now_ns();
        round->driver->view_open(store);
        round->driver->scan(store, scan_add, &scan);
        round->driver->view_close(store);
        uint64_t took = measure_now_ns() - start;
        if (scan.sum != due || scan.entries != round->dataset.keys)
            bench_die("%s: a scan saw %lu entries, or other content", round->settings.name,
                      (unsigned long)scan.entries);
        if (!warm)
            continue;
        meter->ns += took;
        meter->operations += scan.entries;
        samples_add(&meter->samples, took);
    }
}

/* ---- a round ---- */

void round_load(const struct round *round)
{
    assert(round->settings.create);
    void *store = round->driver->open(&round->settings);
    load(round, store, NULL);
    round->driver->close(store);
}

void round_run(const struct round *round, struct measurement *measurement)
{
    struct meter meter = {0};
    const char *name = round->settings.name;
    samples_open(&meter.samples);
    void *store = round->driver->open(&round->settings);
    if (round->workload != WORKLOAD_INSERT)
        dataset_check(&round->dataset, round->driver, store, name);
    switch (round->workload) {
    case WORKLOAD_INSERT:
        load(round, store, &meter);
        break;
    case WORKLOAD_RMW:
    case WORKLOAD_RMW_SNAPSHOTS:
    case WORKLOAD_DURABLE:
        run_rmw(round, store, &meter);
        break;
    case WORKLOAD_GET:
    case WORKLOAD_GET_MANY:
        run_get(round, store, &meter);
        break;
    case WORKLOAD_SCAN:
        run_scan(round, store, &meter);
        break;
    }
    meter_report(&meter, measurement);
    dataset_check(&round->dataset, round->driver, store, name);
    round->driver->close(store);
    samples_close(&meter.samples);

    struct store_settings again = round->settings;
    again.create = false;
    store = round->driver->open(&again);
    dataset_check(&round->dataset, round->driver, store, name);
    round->driver->close(store);
}
