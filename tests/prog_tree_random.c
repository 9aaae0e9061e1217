/*
 * Random histories of one tree against a sorted array: after every commit the root is the flat oracle's and the tree
 * is, node by node, what the rule makes of the contents (shape_oracle.h); so the root and the shape depend on the
 * contents alone. Histories mix inserts, updates to shorter and longer values, deletes, keys that are prefixes of each
 * other, keys of 1 and 1,024 bytes, the chain a, aa, aaa ..., several leaf weights, batches of one and of everything,
 * undone merges, dropped versions, checkpoints with reopening, compaction, one thread and several; ranges removed in
 * O(depth), rollbacks, batches on top of uncommitted ones, whose gets, cursors and totals are compared before they are
 * committed. After every round each live object is counted: nothing may leak.
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

/* Everything in [a, b) goes; either bound may be open. */
static void change_range(struct eng_batch *batch)
{
    size_t a = rnd() % (model.keys + 1), b = rnd() % (model.keys + 1);
    bool below = rnd() % 8 == 0, above = rnd() % 8 == 0;
    if (a > b) {
        size_t t = a;
        a = b;
        b = t;
    }
    a = below || a == model.keys ? 0 : a;
    const struct oracle_entry *from = a ? &model.entry[a] : NULL,
                              *to = above || b == model.keys ? NULL : &model.entry[b];
    if (eng_batch_remove_range(batch, from ? from->key : NULL, from ? from->key_bytes : 0, to ? to->key : NULL,
                               to ? to->key_bytes : 0) != ENG_OK)
        fail("remove range", 0, 0, 0);
    for (size_t i = a; i < (to ? b : model.keys); i++)
        model.present[i] = false;
}

static void same_totals(const struct eng_totals *totals, const uint8_t *from, size_t from_bytes, const uint8_t *to,
                        size_t to_bytes, uint64_t history, uint64_t seed)
{
    struct eng_totals want = {0};
    struct oracle_entry a = {.key = from, .key_bytes = from_bytes}, b = {.key = to, .key_bytes = to_bytes};
    for (size_t i = 0; i < model.keys; i++) {
        const struct oracle_entry *e = &model.entry[i];
        if (!model.present[i] || (from && oracle_compare(e, &a) < 0) || (to && oracle_compare(e, &b) >= 0))
            continue;
        want.count++;
        if (e->tag != ENG_AMOUNT)
            continue;
        uint64_t sum[3];
        memcpy(sum, e->value, 16);
        sum[2] = (uint64_t)((int64_t)sum[1] >> 63);
        digest_sum_add(want.sum, want.sum, sum);
    }
    if (memcmp(&want, totals, sizeof want) != 0)
        fail("totals", history, seed, 0);
}

static void check_totals(struct eng_batch *batch, struct eng_snapshot *snapshot, uint64_t history, uint64_t seed)
{
    for (int i = 0; i < 4 && model.keys; i++) {
        const struct oracle_entry *a = &model.entry[rnd() % model.keys], *b = &model.entry[rnd() % model.keys];
        const uint8_t *from = rnd() % 5 ? a->key : NULL, *to = rnd() % 5 ? b->key : NULL;
        size_t from_bytes = from ? 1 + rnd() % a->key_bytes : 0, to_bytes = to ? 1 + rnd() % b->key_bytes : 0;
        struct eng_totals totals;
        enum eng_status status = batch ? eng_batch_totals(batch, from, from_bytes, to, to_bytes, &totals)
                                       : eng_totals(snapshot, from, from_bytes, to, to_bytes, &totals);
        if (status != ENG_OK)
            fail("totals", history, seed, 0);
        same_totals(&totals, from, from_bytes, to, to_bytes, history, seed);
    }
}

/* A cursor confined to a prefix, through all of it in one direction. */
static void check_cursor(struct eng_cursor *cursor, bool back, uint64_t history, uint64_t seed)
{
    const struct oracle_entry *some = &model.entry[rnd() % model.keys];
    size_t prefix_bytes = rnd() % 2 ? 0 : 1 + rnd() % some->key_bytes, at = back ? model.keys : 0, key_bytes;
    if (eng_cursor_prefix(cursor, prefix_bytes ? some->key : NULL, prefix_bytes) != ENG_OK)
        fail("prefix", history, seed, 0);
    enum eng_status status = back ? eng_cursor_seek_before(cursor, NULL, 0) : eng_cursor_seek(cursor, NULL, 0);
    for (;;) {
        const struct oracle_entry *want = NULL;
        while (!want && (back ? at > 0 : at < model.keys)) {
            size_t k = back ? --at : at++;
            const struct oracle_entry *e = &model.entry[k];
            if (model.present[k] && e->key_bytes >= prefix_bytes && memcmp(e->key, some->key, prefix_bytes) == 0)
                want = e;
        }
        if ((status == ENG_OK) != (want != NULL))
            fail("cursor: ends elsewhere", history, seed, 0);
        if (!want)
            return;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        struct eng_value value;
        if (key_bytes != want->key_bytes || memcmp(key, want->key, key_bytes) != 0)
            fail("cursor: another key", history, seed, 0);
        if (eng_cursor_value(cursor, &value) != ENG_OK || value.size != want->value_bytes ||
            memcmp(value.bytes, want->value, value.size) != 0)
            fail("cursor: another value", history, seed, 0);
        status = back ? eng_cursor_prev(cursor) : eng_cursor_next(cursor);
    }
}

/* An open or frozen batch shows the model. */
static void check_batch(struct eng_batch *batch, uint64_t history, uint64_t seed)
{
    for (int i = 0; i < 20; i++) {
        size_t k = rnd() % model.keys;
        const struct oracle_entry *e = &model.entry[k];
        struct eng_value value;
        enum eng_status status = eng_batch_get(batch, e->key, e->key_bytes, &value);
        if (status != (model.present[k] ? ENG_OK : ENG_NOT_FOUND) ||
            (status == ENG_OK && (value.size != e->value_bytes || memcmp(value.bytes, e->value, value.size) != 0)))
            fail("batch: get", history, seed, 0);
    }
    check_totals(batch, NULL, history, seed);
    struct eng_cursor *cursor;
    if (eng_cursor_open_batch(batch, &cursor) != ENG_OK)
        fail("batch: cursor", history, seed, 0);
    check_cursor(cursor, false, history, seed);
    check_cursor(cursor, true, history, seed);
    eng_cursor_close(&cursor);
}

static struct model before;
static uint8_t values_before[KEYS_MAX][512];

struct difference {
    size_t at, to; /* next key of the model that may differ; end */
    uint64_t history, seed;
};

static bool differs(size_t i)
{
    const struct oracle_entry *a = &before.entry[i], *b = &model.entry[i];
    if (before.present[i] != model.present[i])
        return true;
    return model.present[i] && (a->tag != b->tag || a->value_bytes != b->value_bytes ||
                                memcmp(values_before[i], b->value, b->value_bytes) != 0);
}

static enum eng_status next_difference(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *was,
                                       const struct eng_value *is)
{
    struct difference *d = context;
    while (d->at < d->to && !differs(d->at))
        d->at++;
    const struct oracle_entry *e = &model.entry[d->at];
    if (d->at == d->to || e->key_bytes != key_bytes || memcmp(e->key, key, key_bytes) != 0 ||
        (was != NULL) != before.present[d->at] || (is != NULL) != model.present[d->at] ||
        (is && (is->size != e->value_bytes || memcmp(is->bytes, e->value, is->size) != 0)))
        fail("diff: another key or value", d->history, d->seed, 0);
    d->at++;
    return ENG_OK;
}

/* From the model as it was to as it is, within a range. */
static void check_diff(struct eng_snapshot *then, struct eng_snapshot *now, uint64_t history, uint64_t seed)
{
    size_t a = rnd() % model.keys, b = rnd() % (model.keys + 1);
    struct difference d = {a, b, history, seed};
    const struct oracle_entry *from = &model.entry[a], *to = b < model.keys ? &model.entry[b] : NULL;
    if (eng_diff_range(then, now, from->key, from->key_bytes, to ? to->key : NULL, to ? to->key_bytes : 0,
                       next_difference, &d) != ENG_OK)
        fail("diff", history, seed, 0);
    while (d.at < d.to && !differs(d.at))
        d.at++;
    if (d.at < d.to)
        fail("diff: ends too early", history, seed, 0);
}

static void check_leaks(struct eng *eng, uint64_t history, uint64_t seed, int round)
{
    uint64_t leaked = 1, missing = 1;
    if (eng_settle(eng) != ENG_OK || store_audit(eng->store, &leaked, &missing) != ENG_OK || leaked || missing) {
        fprintf(stderr, "%llu ids leaked, %llu missing\n", (unsigned long long)leaked, (unsigned long long)missing);
        fail("audit", history, seed, round);
    }
}

static void change_some(struct eng_batch *batch, size_t changes, bool all, unsigned mood, unsigned big, bool ranges)
{
    for (size_t c = 0; c < changes; c++) {
        size_t k = all ? c : rnd() % model.keys;
        if (ranges && rnd() % 16 == 0)
            change_range(batch);
        else
            change(batch, k, mood == 0 ? false : mood == 1 ? true : mood == 2 ? rnd() % 8 == 0 : rnd() % 3 != 0, big);
    }
}

/* Changes that are taken back. */
static void change_in_vain(struct eng_batch *batch, unsigned big)
{
    static struct model saved;
    static uint8_t saved_values[KEYS_MAX][512];
    saved = model;
    memcpy(saved_values, value_memory, sizeof value_memory);
    uint64_t mark = eng_batch_mark(batch);
    change_some(batch, 1 + rnd() % 20, false, 3, big, true);
    eng_batch_rollback(batch, mark);
    model = saved;
    memcpy(value_memory, saved_values, sizeof value_memory);
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
    check_cursor(cursor, rnd() % 2, history, seed);
    check_totals(NULL, snapshot, history, seed);
    eng_cursor_close(&cursor);
    eng_snapshot_close(&snapshot);
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
    bool ranges = rnd() % 2;
    for (int round = 1; round <= rounds; round++) {
        struct eng_batch *batch;
        if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
            fail("batch", number, seed, round);
        unsigned mood = (unsigned)(rnd() % 6), part = (unsigned)(rnd() % 3);
        size_t changes = part == 0 ? 1 + rnd() % 3 : part == 1 ? 1 + rnd() % unique : unique;
        struct eng_snapshot *then;
        if (eng_snapshot_open(eng, 0, ENG_HEAD, &then) != ENG_OK)
            fail("snapshot", number, seed, round);
        before = model;
        memcpy(values_before, value_memory, sizeof value_memory);
        change_some(batch, changes, part == 2, mood, big, ranges);
        if (rnd() % 6 == 0)
            change_in_vain(batch, big);
        if (rnd() % 3 == 0)
            check_batch(batch, number, seed);
        if (eng_batch_freeze(batch) != ENG_OK)
            fail("freeze", number, seed, round);
        if (rnd() % 4 == 0) { /* another on top of it */
            struct eng_batch *child;
            if (eng_batch_open(eng, 0, batch, &child) != ENG_OK)
                fail("batch", number, seed, round);
            change_some(child, 1 + rnd() % 30, false, 3, big, ranges);
            check_batch(child, number, seed);
            if (eng_commit(batch, 2 * (uint64_t)round - 1, NULL) != ENG_OK)
                fail("commit", number, seed, round);
            eng_batch_close(&batch);
            batch = child;
            if (eng_batch_freeze(batch) != ENG_OK)
                fail("freeze", number, seed, round);
            check_batch(batch, number, seed);
        }
        struct eng_summary dry, made;
        bool tried = rnd() % 3 == 0;
        if (tried && eng_dry_commit(batch, &dry) != ENG_OK)
            fail("dry commit", number, seed, round);
        if (eng_commit(batch, 2 * (uint64_t)round, &made) != ENG_OK)
            fail("commit", number, seed, round);
        if (tried && memcmp(&dry, &made, sizeof made) != 0)
            fail("a dry commit gave another root", number, seed, round);
        eng_batch_close(&batch);
        check(eng, 2 * (uint64_t)round, leaf_bytes, inline_bytes, number, seed, round);
        struct eng_snapshot *now;
        if (eng_snapshot_open(eng, 0, ENG_HEAD, &now) != ENG_OK)
            fail("snapshot", number, seed, round);
        check_diff(then, now, number, seed);
        eng_snapshot_close(&now);
        eng_snapshot_close(&then);
        if (rnd() % 4 == 0 && eng_drop_below(eng, 0, 2 * (uint64_t)round) != ENG_OK)
            fail("drop", number, seed, round);
        check_leaks(eng, number, seed, round);
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
            check(eng, 2 * (uint64_t)round, leaf_bytes, inline_bytes, number, seed, round);
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
