/*
 * RocksDB 7 through its C interface. Unsynced: without write-ahead log (the memtable is flushed on close). Durable:
 * with the log, sync = true.
 *
 * Bloom filters of 10 bits, a hash index in data blocks, a block cache with room for the data, index and filters held
 * outside it, no compression (the values are random), memtables of 64 MiB, background jobs for every core. The keys of
 * a read-modify-write batch are read by batched multi-get, which resolves a group at a time, and written as one
 * WriteBatch.
 */
#include <stdlib.h>
#include <string.h>

#include <rocksdb/c.h>

#include "sorted.h"
#include "store.h"

#define MEMTABLE_BYTES (64u << 20)
#define GROUP 32 /* keys of one multi-get */

struct rocks {
    rocksdb_options_t *options;
    rocksdb_cache_t *cache;
    rocksdb_readoptions_t *read, *read_view;
    rocksdb_writeoptions_t *write;
    rocksdb_column_family_handle_t *column;
    rocksdb_writebatch_t *batch;
    const rocksdb_snapshot_t *view;
    rocksdb_t *db;
    struct sorted sorted;
};

static void check(char *error, const char *what)
{
    if (error)
        bench_die("rocksdb: %s: %s", what, error);
}

static rocksdb_block_based_table_options_t *table_options(struct rocks *rocks)
{
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10));
    rocksdb_block_based_options_set_block_cache(table, rocks->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 0);
    rocksdb_block_based_options_set_data_block_index_type(
        table, rocksdb_block_based_table_data_block_index_type_binary_search_and_hash);
    rocksdb_block_based_options_set_data_block_hash_ratio(table, 0.75);
    return table;
}

static void *rocks_open(const struct store_settings *settings)
{
    struct rocks *rocks = calloc(1, sizeof *rocks);
    char *error = NULL;
    if (!rocks)
        bench_die("rocksdb: no memory");
    rocks->cache = rocksdb_cache_create_lru(settings->cache_bytes);
    rocks->options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(rocks->options, 1);
    rocksdb_options_increase_parallelism(rocks->options, 2);
    rocksdb_options_optimize_level_style_compaction(rocks->options, 4ull * MEMTABLE_BYTES);
    rocksdb_options_set_write_buffer_size(rocks->options, MEMTABLE_BYTES);
    rocksdb_options_set_max_write_buffer_number(rocks->options, 4);
    const int compression[7] = {rocksdb_no_compression};
    rocksdb_options_set_compression_per_level(rocks->options, compression, 7);
    rocksdb_block_based_table_options_t *table = table_options(rocks);
    rocksdb_options_set_block_based_table_factory(rocks->options, table);
    rocksdb_block_based_options_destroy(table);

    const char *name = "default";
    const rocksdb_options_t *column_options = rocks->options;
    rocks->db =
        rocksdb_open_column_families(rocks->options, settings->dir, 1, &name, &column_options, &rocks->column, &error);
    check(error, "open");
    rocks->read = rocksdb_readoptions_create();
    rocks->read_view = rocksdb_readoptions_create();
    rocks->write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(rocks->write, settings->durable);
    rocksdb_writeoptions_disable_WAL(rocks->write, !settings->durable);
    rocks->batch = rocksdb_writebatch_create();
    return rocks;
}

static void rocks_close(void *store)
{
    struct rocks *rocks = store;
    rocksdb_flushoptions_t *flush = rocksdb_flushoptions_create();
    char *error = NULL;
    rocksdb_flushoptions_set_wait(flush, 1);
    rocksdb_flush(rocks->db, flush, &error);
    check(error, "flush");
    rocksdb_flushoptions_destroy(flush);
    rocksdb_writebatch_destroy(rocks->batch);
    rocksdb_column_family_handle_destroy(rocks->column);
    rocksdb_close(rocks->db);
    rocksdb_readoptions_destroy(rocks->read);
    rocksdb_readoptions_destroy(rocks->read_view);
    rocksdb_writeoptions_destroy(rocks->write);
    rocksdb_options_destroy(rocks->options);
    rocksdb_cache_destroy(rocks->cache);
    sorted_close(&rocks->sorted);
    free(rocks);
}

static void rocks_write(void *store, size_t count, const struct bench_pair *pairs)
{
    struct rocks *rocks = store;
    char *error = NULL;
    pairs = sorted_copy(&rocks->sorted, pairs, count, sizeof *pairs);
    rocksdb_writebatch_clear(rocks->batch);
    for (size_t i = 0; i < count; i++)
        rocksdb_writebatch_put(rocks->batch, (const char *)pairs[i].key, BENCH_KEY_BYTES, (const char *)pairs[i].value,
                               BENCH_VALUE_BYTES);
    rocksdb_write(rocks->db, rocks->write, rocks->batch, &error);
    check(error, "write");
}

static void rocks_rmw(void *store, size_t count, const uint8_t (*keys)[BENCH_KEY_BYTES])
{
    struct rocks *rocks = store;
    char *error = NULL;
    keys = sorted_copy(&rocks->sorted, keys, count, sizeof *keys);
    rocksdb_writebatch_clear(rocks->batch);
    for (size_t from = 0; from < count; from += GROUP) {
        size_t group = count - from < GROUP ? count - from : GROUP;
        const char *key[GROUP];
        size_t key_bytes[GROUP];
        rocksdb_pinnableslice_t *found[GROUP];
        char *errors[GROUP];
        for (size_t i = 0; i < group; i++) {
            key[i] = (const char *)keys[from + i];
            key_bytes[i] = BENCH_KEY_BYTES;
        }
        rocksdb_batched_multi_get_cf(rocks->db, rocks->read, rocks->column, group, key, key_bytes, found, errors, true);
        for (size_t i = 0; i < group; i++) {
            uint8_t changed[BENCH_VALUE_BYTES];
            size_t bytes = 0;
            check(errors[i], "multi-get");
            const char *value = found[i] ? rocksdb_pinnableslice_value(found[i], &bytes) : NULL;
            if (!value || bytes != sizeof changed)
                bench_die("rocksdb: a key is missing, or its value has another size");
            memcpy(changed, value, sizeof changed);
            rocksdb_pinnableslice_destroy(found[i]);
            value_increment(changed);
            rocksdb_writebatch_put(rocks->batch, key[i], BENCH_KEY_BYTES, (const char *)changed, sizeof changed);
        }
    }
    rocksdb_write(rocks->db, rocks->write, rocks->batch, &error);
    check(error, "write");
}

static void rocks_view_open(void *store)
{
    struct rocks *rocks = store;
    rocks->view = rocksdb_create_snapshot(rocks->db);
    rocksdb_readoptions_set_snapshot(rocks->read_view, rocks->view);
}

static void rocks_view_close(void *store)
{
    struct rocks *rocks = store;
    rocksdb_readoptions_set_snapshot(rocks->read_view, NULL);
    rocksdb_release_snapshot(rocks->db, rocks->view);
    rocks->view = NULL;
}

static bool get_with(struct rocks *rocks, const rocksdb_readoptions_t *options, const uint8_t *key, uint8_t *out)
{
    char *error = NULL;
    size_t bytes = 0;
    rocksdb_pinnableslice_t *found = rocksdb_get_pinned(rocks->db, options, (const char *)key, BENCH_KEY_BYTES, &error);
    check(error, "get");
    if (!found)
        return false;
    const char *value = rocksdb_pinnableslice_value(found, &bytes);
    if (bytes != BENCH_VALUE_BYTES)
        bench_die("rocksdb: a value of %zu bytes", bytes);
    memcpy(out, value, BENCH_VALUE_BYTES);
    rocksdb_pinnableslice_destroy(found);
    return true;
}

static bool rocks_get(void *store, const uint8_t *key, uint8_t *value)
{
    struct rocks *rocks = store;
    return get_with(rocks, rocks->read_view, key, value);
}

static size_t rocks_get_many(void *store, struct bench_pair *pairs)
{
    struct rocks *rocks = store;
    const char *keys[BENCH_MANY];
    size_t key_bytes[BENCH_MANY], bytes[BENCH_MANY], found = 0;
    char *values[BENCH_MANY], *errors[BENCH_MANY];
    for (size_t i = 0; i < BENCH_MANY; i++) {
        keys[i] = (const char *)pairs[i].key;
        key_bytes[i] = BENCH_KEY_BYTES;
    }
    rocksdb_multi_get(rocks->db, rocks->read_view, BENCH_MANY, keys, key_bytes, values, bytes, errors);
    for (size_t i = 0; i < BENCH_MANY; i++) {
        check(errors[i], "get");
        if (!values[i])
            continue;
        if (bytes[i] != BENCH_VALUE_BYTES)
            bench_die("rocksdb: a value of %zu bytes", bytes[i]);
        memcpy(pairs[i].value, values[i], BENCH_VALUE_BYTES);
        free(values[i]);
        found++;
    }
    return found;
}

static void rocks_scan(void *store, store_each each, void *context)
{
    struct rocks *rocks = store;
    char *error = NULL;
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(rocks->db, rocks->read_view);
    for (rocksdb_iter_seek_to_first(iterator); rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        size_t key_bytes, value_bytes;
        const char *key = rocksdb_iter_key(iterator, &key_bytes);
        const char *value = rocksdb_iter_value(iterator, &value_bytes);
        if (!each(context, (const uint8_t *)key, (const uint8_t *)value))
            break;
    }
    rocksdb_iter_get_error(iterator, &error);
    check(error, "scan");
    rocksdb_iter_destroy(iterator);
}

static void *rocks_snapshot_open(void *store)
{
    struct rocks *rocks = store;
    return (void *)rocksdb_create_snapshot(rocks->db);
}

static void rocks_snapshot_close(void *store, void *snapshot)
{
    struct rocks *rocks = store;
    rocksdb_release_snapshot(rocks->db, snapshot);
}

static bool rocks_snapshot_get(void *store, void *snapshot, const uint8_t *key, uint8_t *value)
{
    struct rocks *rocks = store;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(options, snapshot);
    bool found = get_with(rocks, options, key, value);
    rocksdb_readoptions_destroy(options);
    return found;
}

const struct store_driver store_rocksdb = {
    .name = "rocksdb",
    .open = rocks_open,
    .close = rocks_close,
    .write = rocks_write,
    .rmw = rocks_rmw,
    .view_open = rocks_view_open,
    .view_close = rocks_view_close,
    .get = rocks_get,
    .get_many = rocks_get_many,
    .scan = rocks_scan,
    .snapshot_open = rocks_snapshot_open,
    .snapshot_close = rocks_snapshot_close,
    .snapshot_get = rocks_snapshot_get,
};
