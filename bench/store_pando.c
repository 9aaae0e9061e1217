/*
 * Pando's engine through its public header, as a program with a log of its own would use it.
 *
 * Unsynced: ENG_DURABLE_NONE, like the peers: nothing is synced before the store is closed. The versions before the
 * newest are dropped after each commit (with snapshots: those no snapshot is open on). Durable: ENG_DURABLE_FSYNC, the
 * engine's own log and checkpoints.
 *
 * The keys of a batch are looked up together, since the engine can look up many keys at once.
 */
#include <stdlib.h>
#include <string.h>

#include "pando/engine.h"
#include "store.h"

#define GROUP 1024 /* keys looked up at a time: as many as two threads share (eng_batch_get_many) */

struct pando {
    struct eng *eng;
    struct eng_snapshot *view;
    uint64_t tag;
    bool durable;
};

static void check(enum eng_status status, const char *what)
{
    if (status != ENG_OK)
        bench_die("pando: %s: %s (%s)", what, eng_error(), eng_status_text(status));
}

static void *pando_open(const struct store_settings *settings)
{
    struct pando *pando = calloc(1, sizeof *pando);
    if (!pando)
        bench_die("pando: no memory");
    struct eng_options options = {
        .path = settings->dir,
        .store_id = "benchmark",
        .create = settings->create,
        .hot_bytes = settings->hot_bytes,
        .durability = settings->durable ? ENG_DURABLE_FSYNC : ENG_DURABLE_NONE,
    };
    pando->durable = settings->durable;
    check(eng_open(&options, &pando->eng), "open");
    enum eng_status status = eng_head(pando->eng, 0, &pando->tag, NULL);
    if (status == ENG_NOT_FOUND)
        pando->tag = 0;
    else
        check(status, "head");
    return pando;
}

static void pando_close(void *store)
{
    struct pando *pando = store;
    if (!pando->durable) { /* what a quiet second does in the background, and space given back */
        check(eng_compact(pando->eng, 85), "compact");
        check(eng_checkpoint(pando->eng, NULL, 0, true), "checkpoint");
        check(eng_compact(pando->eng, 85), "compact");
    }
    eng_close(&pando->eng);
    free(pando);
}

static void commit(struct pando *pando, struct eng_batch **batch)
{
    check(eng_batch_freeze(*batch), "freeze");
    check(eng_commit(*batch, ++pando->tag, NULL), "commit");
    eng_batch_close(batch);
    check(eng_drop_below(pando->eng, 0, pando->tag), "drop");
}

static struct eng_value value_of(const uint8_t *bytes)
{
    return (struct eng_value){.tag = ENG_BYTES, .bytes = bytes, .size = BENCH_VALUE_BYTES};
}

static void pando_write(void *store, size_t count, const struct bench_pair *pairs)
{
    struct pando *pando = store;
    struct eng_batch *batch = NULL;
    check(eng_batch_open(pando->eng, 0, NULL, &batch), "batch");
    for (size_t i = 0; i < count; i++)
        check(eng_batch_put(batch, pairs[i].key, BENCH_KEY_BYTES, value_of(pairs[i].value)), "put");
    commit(pando, &batch);
}

static void take_value(void *context, size_t index, const struct eng_value *value)
{
    uint8_t(*values)[BENCH_VALUE_BYTES] = context;
    if (!value || value->size != BENCH_VALUE_BYTES)
        bench_die("pando: a key is absent or has a value of another size");
    memcpy(values[index], value->bytes, BENCH_VALUE_BYTES);
}

static void pando_rmw(void *store, size_t count, const uint8_t (*keys)[BENCH_KEY_BYTES])
{
    struct pando *pando = store;
    struct eng_batch *batch = NULL;
    check(eng_batch_open(pando->eng, 0, NULL, &batch), "batch");
    for (size_t from = 0; from < count; from += GROUP) {
        size_t group = count - from < GROUP ? count - from : GROUP;
        const uint8_t *key[GROUP];
        size_t key_bytes[GROUP];
        for (size_t i = 0; i < group; i++) {
            key[i] = keys[from + i];
            key_bytes[i] = BENCH_KEY_BYTES;
        }
        uint8_t changed[GROUP][BENCH_VALUE_BYTES];
        check(eng_batch_get_many(batch, group, key, key_bytes, take_value, changed), "get");
        for (size_t i = 0; i < group; i++) {
            value_increment(changed[i]);
            check(eng_batch_put(batch, key[i], BENCH_KEY_BYTES, value_of(changed[i])), "put");
        }
    }
    commit(pando, &batch);
}

static void *pando_snapshot_open(void *store)
{
    struct pando *pando = store;
    struct eng_snapshot *snapshot = NULL;
    check(eng_snapshot_open(pando->eng, 0, ENG_HEAD, &snapshot), "snapshot");
    return snapshot;
}

static void pando_snapshot_close(void *store, void *snapshot)
{
    struct eng_snapshot *closing = snapshot;
    eng_snapshot_close(&closing);
}

static void found(void *context, const struct eng_value *value)
{
    if (value->size != BENCH_VALUE_BYTES)
        bench_die("pando: a value of %zu bytes", value->size);
    memcpy(context, value->bytes, BENCH_VALUE_BYTES);
}

static bool pando_snapshot_get(void *store, void *snapshot, const uint8_t *key, uint8_t *value)
{
    enum eng_status status = eng_get(snapshot, key, BENCH_KEY_BYTES, found, value);
    if (status == ENG_NOT_FOUND)
        return false;
    check(status, "get");
    return true;
}

static void pando_view_open(void *store)
{
    struct pando *pando = store;
    pando->view = pando_snapshot_open(store);
}

static void pando_view_close(void *store)
{
    struct pando *pando = store;
    eng_snapshot_close(&pando->view);
}

static bool pando_get(void *store, const uint8_t *key, uint8_t *value)
{
    struct pando *pando = store;
    return pando_snapshot_get(store, pando->view, key, value);
}

static void take_one_of_many(void *context, size_t index, const struct eng_value *value)
{
    struct bench_pair *pairs = context;
    if (!value || value->size != BENCH_VALUE_BYTES)
        bench_die("pando: a key is absent or has a value of another size");
    memcpy(pairs[index].value, value->bytes, BENCH_VALUE_BYTES);
}

static size_t pando_get_many(void *store, struct bench_pair *pairs)
{
    struct pando *pando = store;
    const uint8_t *keys[BENCH_MANY];
    size_t key_bytes[BENCH_MANY];
    for (size_t i = 0; i < BENCH_MANY; i++) {
        keys[i] = pairs[i].key;
        key_bytes[i] = BENCH_KEY_BYTES;
    }
    check(eng_get_many(pando->view, BENCH_MANY, keys, key_bytes, take_one_of_many, pairs), "get");
    return BENCH_MANY;
}

struct scan {
    store_each each;
    void *context;
};

static bool scan_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct scan *scan = context;
    if (key_bytes != BENCH_KEY_BYTES || value->size != BENCH_VALUE_BYTES)
        bench_die("pando: an entry of %zu and %zu bytes", key_bytes, value->size);
    return scan->each(scan->context, key, value->bytes);
}

static void pando_scan(void *store, store_each each, void *context)
{
    struct pando *pando = store;
    struct scan scan = {each, context};
    check(eng_scan(pando->view, NULL, 0, NULL, 0, scan_each, &scan), "scan");
}

const struct store_driver store_pando = {
    .name = "pando",
    .open = pando_open,
    .close = pando_close,
    .write = pando_write,
    .rmw = pando_rmw,
    .view_open = pando_view_open,
    .view_close = pando_view_close,
    .get = pando_get,
    .get_many = pando_get_many,
    .scan = pando_scan,
    .snapshot_open = pando_snapshot_open,
    .snapshot_close = pando_snapshot_close,
    .snapshot_get = pando_snapshot_get,
};
