/*
 * Random histories of one tree against a sorted array: after every commit the root is the flat oracle's and the tree
 * is, node by node, what the rule makes of the contents (shape_oracle.h); so the root and the shape depend on the
 * contents alone. Histories mix inserts, updates to shorter and longer values, deletes, keys that are prefixes of each
 * other, keys of 1 and 1,024 bytes, the chain a, aa, aaa ..., several leaf weights, batches of one and of everything,
 * undone merges, dropped versions, checkpoints with reopening, compaction, one thread and several.
 *
 *   prog_tree_random [--long] [--histories N] [--seed S]
 */
#include <string.h>

#include "engine_internal.h"
#include "shape_oracle.h"

#define KEYS_MAX 1500

static uint64_t state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static size_t make_key(unsigned style, unsigned i, uint8_t *key)
{
    switch (style) {
    case 0: { /* hashed */
        uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull;
        z ^= z >> 29;
        z *= 0xBF58476D1CE4E5B9ull;
        memcpy(key, &z, 8);
        memset(key + 8, 7, 24);
        return 32;
    }
    case 1:
        return (size_t)sprintf((char *)key, "user:%06u", i * 7 % 100000);
    case 2: { /* many are prefixes of others */
        size_t n = 1 + i % 17;
        for (size_t j = 0; j < n; j++)
            key[j] = (uint8_t)('a' + ((i >> (j % 9)) & 1));
        return n;
    }
    case 3: { /* long shared prefixes, nested */
        size_t n = 1 + i * 31 % 1024;
        memset(key, 'x', 1024);
        key[n - 1] = i % 3 == 0 ? 'x' : (uint8_t)(i * 13);
        return n;
    }
    case 4:
        return (size_t)sprintf((char *)key, "/a/%u/long-directory/%u/f%u", i % 3, i % 17, i);
    case 5: /* a, aa, aaa, ... */
        memset(key, 'a', 1024);
        return 1 + i % 1024;
    case 6: /* one byte, then two */
        key[0] = (uint8_t)i;
        key[1] = (uint8_t)(i >> 8);
        return i < 256 ? 1 : 2;
    default: { /* random bytes of random length over a small alphabet with extremes */
        static const uint8_t letters[] = {0, 1, 127, 128, 254, 255};
        uint64_t z = (i + 1) * 0xD1342543DE82EF95ull;
        size_t n = 1 + z % 12;
        for (size_t j = 0; j < n; j++)
            key[j] = letters[(z >> (8 + 3 * j)) % 6];
        return n;
    }
    }
}

struct model {
    struct oracle_entry entry[KEYS_MAX]; /* every key of the history, sorted */
    bool present[KEYS_MAX];
    size_t keys;
};

static struct model model;
static uint8_t key_memory[KEYS_MAX][1024];
static uint8_t value_memory[KEYS_MAX][512];

static void fail(const char *what, uint64_t history, uint64_t seed, int round)
{
    fprintf(stderr, "FAILED: %s (history %llu, seed %llu, round %d): %s\n", what, (unsigned long long)history,
            (unsigned long long)seed, round, eng_error());
    exit(1);
}

static void check(struct eng *eng, uint64_t tag, uint32_t leaf_bytes, uint32_t inline_bytes, uint64_t history,
                  uint64_t seed, int round)
{
    static struct oracle_entry now[KEYS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < model.keys; i++)
        if (model.present[i])
            now[n++] = model.entry[i];
    struct oracle_summary want;
    oracle_summary(now, n, &want);
    struct eng_snapshot *snapshot;
    if (eng_snapshot_open(eng, 0, tag, &snapshot) != ENG_OK)
        fail("snapshot", history, seed, round);
    if (memcmp(&want, eng_snapshot_summary(snapshot), sizeof want) != 0)
        fail("the root is not the oracle's", history, seed, round);
    struct shape_stream rule = {0}, real = {0};
    if (n)
        shape_rule(&rule, now, n, 0, leaf_bytes, inline_bytes);
    struct reader *reader = eng_enter(eng);
    if (snapshot->version.root)
        shape_tree(&real, eng->store, snapshot->version.root);
    reader_leave(reader);
    if (rule.size != real.size || (rule.size && memcmp(rule.bytes, real.bytes, rule.size) != 0))
        fail("the tree is not the rule's", history, seed, round);
    free(rule.bytes);
    free(real.bytes);
    for (size_t i = 0; i < 20 && model.keys; i++) {
        size_t k = rnd() % model.keys;
        uint8_t bytes[512];
        size_t size = 0;
        enum eng_tag value_tag;
        enum eng_status status =
            eng_get_copy(snapshot, model.entry[k].key, model.entry[k].key_bytes, &value_tag, bytes, 512, &size);
        if ((status == ENG_OK) != model.present[k])
            fail("get: presence", history, seed, round);
        if (status == ENG_OK && (size != model.entry[k].value_bytes || memcmp(bytes, model.entry[k].value, size) != 0))
            fail("get: value", history, seed, round);
        uint64_t rank, below = 0;
        if (eng_rank(snapshot, model.entry[k].key, model.entry[k].key_bytes, &rank) != ENG_OK)
            fail("rank", history, seed, round);
        for (size_t j = 0; j < k; j++)
            below += model.present[j];
        if (rank != below)
            fail("rank: wrong", history, seed, round);
    }
    struct eng_cursor *cursor;
    if (eng_cursor_open(snapshot, &cursor) != ENG_OK)
        fail("cursor", history, seed, round);
    size_t at = 0;
    for (enum eng_status s = eng_cursor_seek(cursor, NULL, 0); s == ENG_OK; s = eng_cursor_next(cursor), at++) {
        size_t key_bytes;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        if (at >= n || key_bytes != now[at].key_bytes || memcmp(key, now[at].key, key_bytes) != 0)
            fail("cursor: order", history, seed, round);
    }
    if (at != n)
        fail("cursor: count", history, seed, round);
    for (enum eng_status s = eng_cursor_seek_before(cursor, NULL, 0); s == ENG_OK; s = eng_cursor_prev(cursor)) {
        size_t key_bytes;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        if (at == 0 || key_bytes != now[at - 1].key_bytes || memcmp(key, now[at - 1].key, key_bytes) != 0)
            fail("cursor: backward order", history, seed, round);
        at--;
    }
    if (at != 0)
        fail("cursor: backward count", history, seed, round);
    eng_cursor_close(&cursor);
    eng_snapshot_close(&snapshot);
}

static void report(void *context, const char *line)
{
    (void)context;
    fprintf(stderr, "check: %s\n", line);
}

static void change(struct eng_batch *batch, size_t k, bool present, unsigned big)
{
    struct oracle_entry *e = &model.entry[k];
    enum eng_status status;
    model.present[k] = present;
    if (!present) {
        status = eng_batch_remove(batch, e->key, e->key_bytes);
    } else {
        e->tag = rnd() % 4 == 0;
        e->value_bytes = e->tag ? 16 : rnd() % 8 == 0 ? rnd() % 300 : rnd() % big;
        for (size_t j = 0; j < e->value_bytes; j++)
            value_memory[k][j] = (uint8_t)rnd();
        status = eng_batch_put(batch, e->key, e->key_bytes,
                               (struct eng_value){(enum eng_tag)e->tag, value_memory[k], e->value_bytes});
    }
    if (status != ENG_OK)
        fail("batch", 0, 0, 0);
}

static void open_engine(struct disk *disk, uint32_t leaf_bytes, uint32_t inline_bytes, uint32_t threads,
                        struct eng **eng)
{
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .leaf_bytes = leaf_bytes,
                                  .inline_bytes = inline_bytes,
                                  .segment_bytes = 64u << 10,
                                  .inline_only = true,
                                  .threads = threads};
    if (eng_open(&options, eng) != ENG_OK)
        fail("open", 0, 0, 0);
}

static void history(uint64_t number, uint64_t seed)
{
    static const uint32_t weights[] = {64, 200, 512, 2048, 4096};
    state = seed * 0x9E3779B97F4A7C15ull + number + 1;
    for (int i = 0; i < 8; i++)
        rnd();
    uint32_t leaf_bytes = weights[rnd() % 5], inline_bytes = 64u << rnd() % 3, threads = rnd() % 4 == 0 ? 3 : 1;
    unsigned style = (unsigned)(rnd() % 8), limit = 1u << rnd() % 11, big = rnd() % 2 ? 60 : 8;
    model.keys = 0;
    for (unsigned i = 0; i < limit && model.keys < KEYS_MAX; i++) {
        size_t size = make_key(style, i, key_memory[i]);
        model.entry[model.keys++] = (struct oracle_entry){.key = key_memory[i], .key_bytes = size};
    }
    qsort(model.entry, model.keys, sizeof *model.entry, oracle_compare);
    size_t unique = 0;
    for (size_t i = 0; i < model.keys; i++)
        if (!i || oracle_compare(&model.entry[i], &model.entry[unique - 1]) != 0)
            model.entry[unique++] = model.entry[i];
    model.keys = unique;
    for (size_t i = 0; i < unique; i++) {
        model.present[i] = false;
        model.entry[i].value = value_memory[i];
    }
    struct disk *disk;
    struct eng *eng;
    if (disk_sim_open(0, &disk) != ENG_OK)
        fail("disk", number, seed, 0);
    open_engine(disk, leaf_bytes, inline_bytes, threads, &eng);
    int rounds = 3 + (int)(rnd() % 12);
    for (int round = 1; round <= rounds; round++) {
        struct eng_batch *batch;
        if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
            fail("batch", number, seed, round);
        unsigned mood = (unsigned)(rnd() % 6), part = (unsigned)(rnd() % 3);
        size_t changes = part == 0 ? 1 + rnd() % 3 : part == 1 ? 1 + rnd() % unique : unique;
        for (size_t c = 0; c < changes; c++) {
            size_t k = part == 2 ? c : rnd() % unique;
            change(batch, k, mood == 0 ? false : mood == 1 ? true : mood == 2 ? rnd() % 8 == 0 : rnd() % 3 != 0, big);
        }
        if (eng_batch_freeze(batch) != ENG_OK)
            fail("freeze", number, seed, round);
        struct eng_summary dry, made;
        bool tried = rnd() % 3 == 0;
        if (tried && eng_dry_commit(batch, &dry) != ENG_OK)
            fail("dry commit", number, seed, round);
        if (eng_commit(batch, (uint64_t)round, &made) != ENG_OK)
            fail("commit", number, seed, round);
        if (tried && memcmp(&dry, &made, sizeof made) != 0)
            fail("a dry commit gave another root", number, seed, round);
        eng_batch_close(&batch);
        check(eng, (uint64_t)round, leaf_bytes, inline_bytes, number, seed, round);
        if (rnd() % 4 == 0 && eng_drop_below(eng, 0, (uint64_t)round) != ENG_OK)
            fail("drop", number, seed, round);
        if (rnd() % 4 == 0 && eng_checkpoint(eng, "x", 1, true) != ENG_OK)
            fail("checkpoint", number, seed, round);
        if (rnd() % 4 == 0 && eng_compact(eng, 90) != ENG_OK)
            fail("compact", number, seed, round);
        if (rnd() % 5 == 0) {
            if (eng_checkpoint(eng, "y", 1, true) != ENG_OK)
                fail("checkpoint", number, seed, round);
            eng_close(&eng);
            struct eng_options options = {.disk = disk};
            if (eng_check(&options, true, report, NULL) != ENG_OK)
                fail("eng_check", number, seed, round);
            open_engine(disk, leaf_bytes, inline_bytes, threads, &eng);
            check(eng, (uint64_t)round, leaf_bytes, inline_bytes, number, seed, round);
        }
    }
    eng_close(&eng);
    disk_close(&disk);
}

int main(int argc, char **argv)
{
    uint64_t histories = 1000, seed = 1, first = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--long"))
            histories = 10000;
        else if (!strcmp(argv[i], "--histories") && i + 1 < argc)
            histories = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--first") && i + 1 < argc)
            first = strtoull(argv[++i], NULL, 10);
    }
    if (sodium_init() < 0)
        return 1;
    for (uint64_t h = first; h < first + histories; h++)
        history(h, seed);
    printf("%llu histories, seed %llu: every root and every tree as the oracles say\n", (unsigned long long)histories,
           (unsigned long long)seed);
    return 0;
}
