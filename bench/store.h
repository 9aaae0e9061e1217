/*
 * What the benchmark asks of a store: one table of functions a store, all over 32-byte keys and 40-byte values.
 *
 * A driver works in a process of its own, in a directory of its own that lives on from round to round. Every call
 * either does what it says or ends the process with bench_die; there are no errors to handle, and no result can be
 * wrong unnoticed, since the workloads compare the whole content with what they wrote (dataset.h).
 *
 * One thread calls. write and rmw are one transaction each: committed, and with settings.durable on disk, on return.
 */
#ifndef BENCH_STORE_H
#define BENCH_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataset.h"

struct store_settings {
    const char *dir;      /* exists; empty if create */
    const char *name;     /* of the store, for messages */
    uint64_t keys;        /* how many it will hold */
    uint64_t cache_bytes; /* for stores with a cache of their own */
    uint64_t hot_bytes;   /* for those that lock memory for what is read most */
    bool create;
    bool durable;   /* every transaction is on disk before write or rmw returns */
    bool snapshots; /* up to BENCH_SNAPSHOTS_MAX read views will be open */
};

#define BENCH_SNAPSHOTS_MAX 128
#define BENCH_MANY 16

/* false stops the scan. */
typedef bool (*store_each)(void *context, const uint8_t *key, const uint8_t *value);

struct store_driver {
    const char *name;
    void *(*open)(const struct store_settings *settings);
    /* Writes out what is pending, so that the next open finds everything; not part of any measurement. */
    void (*close)(void *store);

    /* Inserts new keys. */
    void (*write)(void *store, size_t count, const struct bench_pair *pairs);
    /* Reads each key's value, increments it (value_increment), writes it. The keys are distinct and exist. */
    void (*rmw)(void *store, size_t count, const uint8_t (*keys)[BENCH_KEY_BYTES]);

    /* A read view of now, from which get and scan read. */
    void (*view_open)(void *store);
    void (*view_close)(void *store);
    bool (*get)(void *store, const uint8_t *key, uint8_t *value);
    /* The values of BENCH_MANY keys at once; returns how many it found. NULL: the store has no such call. */
    size_t (*get_many)(void *store, struct bench_pair *pairs);
    void (*scan)(void *store, store_each each, void *context);

    /* A read view that stays as it is while transactions go on. Released in the order of opening. */
    void *(*snapshot_open)(void *store);
    void (*snapshot_close)(void *store, void *snapshot);
    bool (*snapshot_get)(void *store, void *snapshot, const uint8_t *key, uint8_t *value);
};

extern const struct store_driver store_pando, store_lmdb, store_rocksdb, store_sqlite;

/* One line on stderr, then the process ends with status 1. */
void bench_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
