/*
 * The workloads: one round of one of them on one store, and its measurement.
 *
 *   insert          N keys in random order into an empty store, a transaction a batch; the time is that of the whole
 * load rmw             batches of read-modify-write of distinct random keys, a transaction a batch get random point
 * reads from one read view, one thread scan            all entries in key order, again and again rmw_snapshots   rmw,
 * with a snapshot opened each batch and released SNAPSHOT_LIFE batches later durable         rmw, every transaction on
 * disk before the next begins
 *
 * A round opens the store, compares its whole content with the oracle (which also warms it up), runs unmeasured for a
 * moment, then measured, brings the oracle up to date and compares the whole content again, before and after closing
 * and reopening. Only calls into the store are timed: drawing keys and checking results are not.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "dataset.h"
#include "store.h"

#define SNAPSHOT_LIFE 100 /* batches */

enum workload {
    WORKLOAD_INSERT,
    WORKLOAD_RMW,
    WORKLOAD_GET,
    WORKLOAD_GET_MANY,
    WORKLOAD_SCAN,
    WORKLOAD_RMW_SNAPSHOTS,
    WORKLOAD_DURABLE,
};
#define WORKLOADS 7
const char *workload_name(enum workload workload);
/* false: there is no such workload. */
bool workload_parse(const char *name, enum workload *workload);

struct round {
    enum workload workload;
    const struct store_driver *driver;
    struct store_settings settings; /* create: the store is loaded first (always so for insert) */
    struct dataset dataset;
    size_t batch;
    uint64_t seed;
    double seconds, warmup_seconds;
};

struct measurement {
    double ops_per_s, p50_us, p99_us, rss_mb;
};

/* Runs in this process, which it ends on any error or wrong result. */
void round_run(const struct round *round, struct measurement *measurement);
/* Loads the store of settings.create without measuring. */
void round_load(const struct round *round);

#endif
