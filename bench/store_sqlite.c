/*
 * SQLite in WAL mode, one table WITHOUT ROWID, prepared statements. Unsynced: synchronous=OFF. Durable:
 * synchronous=FULL, which syncs the log at every commit. The page cache has room for the data; the file is mapped as
 * well.
 *
 * A snapshot is a read transaction on a connection of its own; the connections are opened beforehand. While one is open
 * the log cannot be reset, which is what snapshots cost here. Without snapshots the file is locked exclusively, which
 * spares the shared index of the log.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3.h>

#include "sorted.h"
#include "store.h"

#define MAP_BYTES (4ull << 30)
#define WAL_PAGES 16384 /* 64 MiB of log before its pages are copied home */

struct reader {
    sqlite3 *db;
    sqlite3_stmt *begin, *end, *get, *scan;
    bool busy;
};

struct sqlite {
    struct reader main;
    sqlite3_stmt *commit, *insert, *update;
    struct reader *readers; /* for snapshots */
    struct sorted sorted;
};

static void check(sqlite3 *db, int code, const char *what)
{
    if (code != SQLITE_OK && code != SQLITE_ROW && code != SQLITE_DONE)
        bench_die("sqlite: %s: %s", what, sqlite3_errmsg(db));
}

static void run(sqlite3 *db, const char *sql)
{
    check(db, sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    check(db, sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL), sql);
    return statement;
}

static void step(sqlite3 *db, sqlite3_stmt *statement, const char *what)
{
    check(db, sqlite3_step(statement), what);
    check(db, sqlite3_reset(statement), what);
}

static void reader_open(struct reader *reader, const char *path, uint64_t cache_bytes,
                        const struct store_settings *settings)
{
    char sql[512];
    check(reader->db, sqlite3_open(path, &reader->db), path);
    snprintf(sql, sizeof sql,
             "PRAGMA locking_mode=%s; PRAGMA journal_mode=WAL; PRAGMA synchronous=%s; PRAGMA cache_size=-%llu; "
             "PRAGMA mmap_size=%llu; PRAGMA wal_autocheckpoint=%d; PRAGMA temp_store=MEMORY; "
             "CREATE TABLE IF NOT EXISTS entries(key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
             settings->snapshots ? "NORMAL" : "EXCLUSIVE", settings->durable ? "FULL" : "OFF",
             (unsigned long long)cache_bytes >> 10, (unsigned long long)MAP_BYTES, WAL_PAGES);
    run(reader->db, sql);
    reader->begin = prepare(reader->db, "BEGIN");
    reader->end = prepare(reader->db, "COMMIT");
    reader->get = prepare(reader->db, "SELECT value FROM entries WHERE key = ?1");
    reader->scan = prepare(reader->db, "SELECT key, value FROM entries ORDER BY key");
}

static void reader_close(struct reader *reader)
{
    sqlite3_finalize(reader->begin);
    sqlite3_finalize(reader->end);
    sqlite3_finalize(reader->get);
    sqlite3_finalize(reader->scan);
    check(reader->db, sqlite3_close(reader->db), "close");
}

static void *sqlite_open(const struct store_settings *settings)
{
    struct sqlite *sqlite = calloc(1, sizeof *sqlite);
    char path[4096];
    if (!sqlite)
        bench_die("sqlite: no memory");
    snprintf(path, sizeof path, "%s/entries.db", settings->dir);
    reader_open(&sqlite->main, path, settings->cache_bytes, settings);
    sqlite->commit = sqlite->main.end;
    sqlite->insert = prepare(sqlite->main.db, "INSERT INTO entries VALUES(?1, ?2)");
    sqlite->update = prepare(sqlite->main.db, "UPDATE entries SET value = ?2 WHERE key = ?1");
    if (settings->snapshots) {
        sqlite->readers = calloc(BENCH_SNAPSHOTS_MAX, sizeof *sqlite->readers);
        if (!sqlite->readers)
            bench_die("sqlite: no memory");
        for (int i = 0; i < BENCH_SNAPSHOTS_MAX; i++)
            reader_open(&sqlite->readers[i], path, 1 << 20, settings);
    }
    return sqlite;
}

static void sqlite_close(void *store)
{
    struct sqlite *sqlite = store;
    for (int i = 0; sqlite->readers && i < BENCH_SNAPSHOTS_MAX; i++)
        reader_close(&sqlite->readers[i]);
    run(sqlite->main.db, "PRAGMA wal_checkpoint(TRUNCATE)");
    sqlite3_finalize(sqlite->insert);
    sqlite3_finalize(sqlite->update);
    reader_close(&sqlite->main);
    sorted_close(&sqlite->sorted);
    free(sqlite->readers);
    free(sqlite);
}

static void bind(sqlite3 *db, sqlite3_stmt *statement, int at, const uint8_t *bytes, int size)
{
    check(db, sqlite3_bind_blob(statement, at, bytes, size, SQLITE_STATIC), "bind");
}

static bool get_in(struct reader *reader, const uint8_t *key, uint8_t *out)
{
    bind(reader->db, reader->get, 1, key, BENCH_KEY_BYTES);
    int code = sqlite3_step(reader->get);
    check(reader->db, code, "get");
    if (code == SQLITE_ROW) {
        if (sqlite3_column_bytes(reader->get, 0) != BENCH_VALUE_BYTES)
            bench_die("sqlite: a value of %d bytes", sqlite3_column_bytes(reader->get, 0));
        memcpy(out, sqlite3_column_blob(reader->get, 0), BENCH_VALUE_BYTES);
    }
    check(reader->db, sqlite3_reset(reader->get), "get");
    return code == SQLITE_ROW;
}

static void sqlite_write(void *store, size_t count, const struct bench_pair *pairs)
{
    struct sqlite *sqlite = store;
    sqlite3 *db = sqlite->main.db;
    pairs = sorted_copy(&sqlite->sorted, pairs, count, sizeof *pairs);
    step(db, sqlite->main.begin, "begin");
    for (size_t i = 0; i < count; i++) {
        bind(db, sqlite->insert, 1, pairs[i].key, BENCH_KEY_BYTES);
        bind(db, sqlite->insert, 2, pairs[i].value, BENCH_VALUE_BYTES);
        step(db, sqlite->insert, "insert");
    }
    step(db, sqlite->commit, "commit");
}

static void sqlite_rmw(void *store, size_t count, const uint8_t (*keys)[BENCH_KEY_BYTES])
{
    struct sqlite *sqlite = store;
    sqlite3 *db = sqlite->main.db;
    keys = sorted_copy(&sqlite->sorted, keys, count, sizeof *keys);
    step(db, sqlite->main.begin, "begin");
    for (size_t i = 0; i < count; i++) {
        uint8_t value[BENCH_VALUE_BYTES];
        if (!get_in(&sqlite->main, keys[i], value))
            bench_die("sqlite: a key is missing");
        value_increment(value);
        bind(db, sqlite->update, 1, keys[i], BENCH_KEY_BYTES);
        bind(db, sqlite->update, 2, value, BENCH_VALUE_BYTES);
        step(db, sqlite->update, "update");
    }
    step(db, sqlite->commit, "commit");
}

static void sqlite_view_open(void *store)
{
    struct sqlite *sqlite = store;
    step(sqlite->main.db, sqlite->main.begin, "begin");
}

static void sqlite_view_close(void *store)
{
    struct sqlite *sqlite = store;
    step(sqlite->main.db, sqlite->commit, "commit");
}

static bool sqlite_get(void *store, const uint8_t *key, uint8_t *value)
{
    struct sqlite *sqlite = store;
    return get_in(&sqlite->main, key, value);
}

static void sqlite_scan(void *store, store_each each, void *context)
{
    struct sqlite *sqlite = store;
    sqlite3_stmt *scan = sqlite->main.scan;
    int code;
    while ((code = sqlite3_step(scan)) == SQLITE_ROW)
        if (!each(context, sqlite3_column_blob(scan, 0), sqlite3_column_blob(scan, 1)))
            break;
    check(sqlite->main.db, code, "scan");
    check(sqlite->main.db, sqlite3_reset(scan), "scan");
}

/* A read transaction begins with its first read. */
static void *sqlite_snapshot_open(void *store)
{
    struct sqlite *sqlite = store;
    static const uint8_t none[BENCH_KEY_BYTES];
    uint8_t value[BENCH_VALUE_BYTES];
    int i = 0;
    while (i < BENCH_SNAPSHOTS_MAX && sqlite->readers[i].busy)
        i++;
    if (i == BENCH_SNAPSHOTS_MAX)
        bench_die("sqlite: all connections are in use");
    struct reader *reader = &sqlite->readers[i];
    reader->busy = true;
    step(reader->db, reader->begin, "snapshot");
    get_in(reader, none, value);
    return reader;
}

static void sqlite_snapshot_close(void *store, void *snapshot)
{
    struct reader *reader = snapshot;
    step(reader->db, reader->end, "release");
    reader->busy = false;
}

static bool sqlite_snapshot_get(void *store, void *snapshot, const uint8_t *key, uint8_t *value)
{
    return get_in(snapshot, key, value);
}

const struct store_driver store_sqlite = {
    .name = "sqlite",
    .open = sqlite_open,
    .close = sqlite_close,
    .write = sqlite_write,
    .rmw = sqlite_rmw,
    .view_open = sqlite_view_open,
    .view_close = sqlite_view_close,
    .get = sqlite_get,
    .scan = sqlite_scan,
    .snapshot_open = sqlite_snapshot_open,
    .snapshot_close = sqlite_snapshot_close,
    .snapshot_get = sqlite_snapshot_get,
};
