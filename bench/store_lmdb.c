/*
 * LMDB 0.9. Unsynced: MDB_NOSYNC | MDB_WRITEMAP, its fastest mode, in which writes go straight to the map. Durable: its
 * default, a write and an fdatasync a commit.
 *
 * A transaction uses one cursor: MDB_SET_KEY, then MDB_CURRENT at the place found, so a read-modify-write is one
 * descent. The keys of a batch are visited in order, which spares descents into pages that were left a moment ago.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <lmdb.h>

#include "sorted.h"
#include "store.h"

#define MAP_BYTES_MIN (64ull << 30) /* address space and a sparse file; snapshots keep old pages from being reused */

struct lmdb {
    MDB_env *env;
    MDB_dbi dbi;
    MDB_txn *view;
    struct sorted sorted;
};

static void check(int code, const char *what)
{
    if (code != MDB_SUCCESS)
        bench_die("lmdb: %s: %s", what, mdb_strerror(code));
}

static void *lmdb_open(const struct store_settings *settings)
{
    struct lmdb *lmdb = calloc(1, sizeof *lmdb);
    MDB_txn *txn;
    if (!lmdb)
        bench_die("lmdb: no memory");
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;
    if (!settings->durable)
        flags |= MDB_NOSYNC | MDB_WRITEMAP | MDB_NOMEMINIT;
    check(mdb_env_create(&lmdb->env), "environment");
    check(mdb_env_set_mapsize(lmdb->env, MAP_BYTES_MIN), "map size");
    check(mdb_env_set_maxreaders(lmdb->env, BENCH_SNAPSHOTS_MAX + 8), "readers");
    check(mdb_env_open(lmdb->env, settings->dir, flags, 0644), "open");
    check(mdb_txn_begin(lmdb->env, NULL, 0, &txn), "begin");
    check(mdb_dbi_open(txn, NULL, 0, &lmdb->dbi), "database");
    check(mdb_txn_commit(txn), "commit");
    return lmdb;
}

static void lmdb_close(void *store)
{
    struct lmdb *lmdb = store;
    check(mdb_env_sync(lmdb->env, 1), "sync");
    mdb_env_close(lmdb->env);
    sorted_close(&lmdb->sorted);
    free(lmdb);
}

static void lmdb_write(void *store, size_t count, const struct bench_pair *pairs)
{
    struct lmdb *lmdb = store;
    MDB_txn *txn;
    MDB_cursor *cursor;
    pairs = sorted_copy(&lmdb->sorted, pairs, count, sizeof *pairs);
    check(mdb_txn_begin(lmdb->env, NULL, 0, &txn), "begin");
    check(mdb_cursor_open(txn, lmdb->dbi, &cursor), "cursor");
    for (size_t i = 0; i < count; i++) {
        MDB_val key = {BENCH_KEY_BYTES, (void *)pairs[i].key}, value = {BENCH_VALUE_BYTES, (void *)pairs[i].value};
        check(mdb_cursor_put(cursor, &key, &value, MDB_NOOVERWRITE), "put");
    }
    mdb_cursor_close(cursor);
    check(mdb_txn_commit(txn), "commit");
}

static void lmdb_rmw(void *store, size_t count, const uint8_t (*keys)[BENCH_KEY_BYTES])
{
    struct lmdb *lmdb = store;
    MDB_txn *txn;
    MDB_cursor *cursor;
    keys = sorted_copy(&lmdb->sorted, keys, count, sizeof *keys);
    check(mdb_txn_begin(lmdb->env, NULL, 0, &txn), "begin");
    check(mdb_cursor_open(txn, lmdb->dbi, &cursor), "cursor");
    for (size_t i = 0; i < count; i++) {
        uint8_t changed[BENCH_VALUE_BYTES];
        MDB_val key = {BENCH_KEY_BYTES, (void *)keys[i]}, value;
        check(mdb_cursor_get(cursor, &key, &value, MDB_SET_KEY), "get");
        memcpy(changed, value.mv_data, sizeof changed);
        value_increment(changed);
        value = (MDB_val){sizeof changed, changed};
        check(mdb_cursor_put(cursor, &key, &value, MDB_CURRENT), "put");
    }
    mdb_cursor_close(cursor);
    check(mdb_txn_commit(txn), "commit");
}

static void lmdb_view_open(void *store)
{
    struct lmdb *lmdb = store;
    check(mdb_txn_begin(lmdb->env, NULL, MDB_RDONLY, &lmdb->view), "begin");
}

static void lmdb_view_close(void *store)
{
    struct lmdb *lmdb = store;
    mdb_txn_abort(lmdb->view);
    lmdb->view = NULL;
}

static bool get_in(struct lmdb *lmdb, MDB_txn *txn, const uint8_t *key_bytes, uint8_t *out)
{
    MDB_val key = {BENCH_KEY_BYTES, (void *)key_bytes}, value;
    int code = mdb_get(txn, lmdb->dbi, &key, &value);
    if (code == MDB_NOTFOUND)
        return false;
    check(code, "get");
    if (value.mv_size != BENCH_VALUE_BYTES)
        bench_die("lmdb: a value of %zu bytes", value.mv_size);
    memcpy(out, value.mv_data, BENCH_VALUE_BYTES);
    return true;
}

static bool lmdb_get(void *store, const uint8_t *key, uint8_t *value)
{
    struct lmdb *lmdb = store;
    return get_in(lmdb, lmdb->view, key, value);
}

static void lmdb_scan(void *store, store_each each, void *context)
{
    struct lmdb *lmdb = store;
    MDB_cursor *cursor;
    MDB_val key, value;
    check(mdb_cursor_open(lmdb->view, lmdb->dbi, &cursor), "cursor");
    int code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (code == MDB_SUCCESS && each(context, key.mv_data, value.mv_data))
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    if (code != MDB_NOTFOUND)
        check(code, "next");
    mdb_cursor_close(cursor);
}

static void *lmdb_snapshot_open(void *store)
{
    struct lmdb *lmdb = store;
    MDB_txn *txn;
    check(mdb_txn_begin(lmdb->env, NULL, MDB_RDONLY, &txn), "snapshot");
    return txn;
}

static void lmdb_snapshot_close(void *store, void *snapshot)
{
    mdb_txn_abort(snapshot);
}

static bool lmdb_snapshot_get(void *store, void *snapshot, const uint8_t *key, uint8_t *value)
{
    return get_in(store, snapshot, key, value);
}

const struct store_driver store_lmdb = {
    .name = "lmdb",
    .open = lmdb_open,
    .close = lmdb_close,
    .write = lmdb_write,
    .rmw = lmdb_rmw,
    .view_open = lmdb_view_open,
    .view_close = lmdb_view_close,
    .get = lmdb_get,
    .scan = lmdb_scan,
    .snapshot_open = lmdb_snapshot_open,
    .snapshot_close = lmdb_snapshot_close,
    .snapshot_get = lmdb_snapshot_get,
};
