/*
 * Ranges: count and sum, removal, what a batch sees of them, and the space that comes back.
 *
 * A sorted array of all keys of a history is the model. Random histories mix range removals, whose bounds are keys,
 * prefixes of keys, keys with a byte more, or open, with point writes, rollbacks, batches over uncommitted batches and
 * merges that are undone; after every commit the root is the flat oracle's, the tree is node by node what the rule of
 * the shape makes of the contents (so it is what removing the keys one by one would have left), and no object is lost.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_internal.h"
#include "hidden.h"
#include "shape_oracle.h"
#include "tree.h"

#define KEYS_MAX 400
#define VALUE_MAX 200

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())

static struct disk *disk;
static struct eng *eng;
static uint64_t state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void open_engine(uint32_t leaf_bytes, uint32_t threads, enum eng_durability durability)
{
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .leaf_bytes = leaf_bytes,
                                  .inline_bytes = 64,
                                  .segment_bytes = 64u << 10,
                                  .inline_only = true,
                                  .threads = threads,
                                  .durability = durability};
    OK(eng_open(&options, &eng));
}

static void setup(void)
{
    OK(disk_sim_open(0, &disk));
    open_engine(512, 1, ENG_DURABLE_NONE);
}

static void teardown(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static struct eng_batch *batch_on(struct eng_batch *parent)
{
    struct eng_batch *batch;
    OK(eng_batch_open(eng, 0, parent, &batch));
    return batch;
}

static void commit(struct eng_batch **batch, uint64_t tag)
{
    OK(eng_batch_freeze(*batch));
    OK(eng_commit(*batch, tag, NULL));
    eng_batch_close(batch);
}

static void put(struct eng_batch *batch, const char *key, const char *value)
{
    OK(eng_batch_put(batch, (const uint8_t *)key, strlen(key),
                     (struct eng_value){ENG_BYTES, (const uint8_t *)value, strlen(value)}));
}

static void put_amount(struct eng_batch *batch, const char *key, int64_t amount)
{
    int64_t bytes[2] = {amount, amount < 0 ? -1 : 0};
    OK(eng_batch_put(batch, (const uint8_t *)key, strlen(key),
                     (struct eng_value){ENG_AMOUNT, (const uint8_t *)bytes, sizeof bytes}));
}

/* NULL: open */
static enum eng_status remove_range(struct eng_batch *batch, const char *from, const char *to)
{
    return eng_batch_remove_range(batch, (const uint8_t *)from, from ? strlen(from) : 0, (const uint8_t *)to,
                                  to ? strlen(to) : 0);
}

static bool has(struct eng_batch *batch, const char *key, const char *want)
{
    struct eng_value value;
    enum eng_status status = eng_batch_get(batch, (const uint8_t *)key, strlen(key), &value);
    if (!want)
        return status == ENG_NOT_FOUND;
    return status == ENG_OK && value.size == strlen(want) && memcmp(value.bytes, want, value.size) == 0;
}

/* The keys a batch sees, joined. */
static const char *keys_of(struct eng_batch *batch)
{
    static char all[1024];
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t bytes = 0, at = 0;
    while (eng_batch_next(batch, key, bytes, bytes > 0, key, &bytes) == ENG_OK) {
        ck_assert_uint_lt(at + bytes + 2, sizeof all);
        memcpy(all + at, key, bytes);
        at += bytes;
        all[at++] = ' ';
    }
    all[at] = 0;
    return all;
}

static void expect_totals(struct eng_batch *batch, const char *from, const char *to, uint64_t count, int64_t sum)
{
    struct eng_totals totals;
    OK(eng_batch_totals(batch, (const uint8_t *)from, from ? strlen(from) : 0, (const uint8_t *)to, to ? strlen(to) : 0,
                        &totals));
    ck_assert_uint_eq(totals.count, count);
    uint64_t sign = sum < 0 ? UINT64_MAX : 0;
    ck_assert(totals.sum[0] == (uint64_t)sum && totals.sum[1] == sign && totals.sum[2] == sign);
}

static void no_leaks(void)
{
    uint64_t leaked = 1, missing = 1;
    OK(eng_settle(eng));
    OK(store_audit(eng->store, &leaked, &missing));
    ck_assert_uint_eq(leaked, 0);
    ck_assert_uint_eq(missing, 0);
}

START_TEST(a_batch_sees_what_it_removed_and_wrote_after)
{
    struct eng_batch *batch = batch_on(NULL);
    put(batch, "a", "1");
    put(batch, "b", "2");
    put(batch, "bb", "3");
    put(batch, "c", "4");
    put(batch, "d", "5");
    commit(&batch, 1);
    batch = batch_on(NULL);
    put(batch, "bc", "own");
    put(batch, "c", "own");
    OK(remove_range(batch, "b", "d"));
    ck_assert(has(batch, "a", "1") && has(batch, "d", "5"));
    ck_assert(has(batch, "b", NULL) && has(batch, "bb", NULL) && has(batch, "bc", NULL) && has(batch, "c", NULL));
    ck_assert_str_eq(keys_of(batch), "a d ");
    put(batch, "bb", "after");
    ck_assert(has(batch, "bb", "after"));
    ck_assert_str_eq(keys_of(batch), "a bb d ");
    commit(&batch, 2);
    batch = batch_on(NULL);
    ck_assert_str_eq(keys_of(batch), "a bb d ");
    ck_assert(has(batch, "bb", "after"));
    OK(remove_range(batch, NULL, NULL));
    ck_assert_str_eq(keys_of(batch), "");
    commit(&batch, 3);
    struct eng_summary empty, none = {0};
    OK(eng_head(eng, 0, NULL, &empty));
    ck_assert_mem_eq(&empty, &none, sizeof none);
}
END_TEST

START_TEST(bounds)
{
    struct eng_batch *batch = batch_on(NULL);
    static uint8_t long_key[ENG_KEY_BYTES_MAX + 1];
    put(batch, "a", "1");
    put(batch, "b", "2");
    ck_assert_int_eq(eng_batch_remove_range(batch, long_key, sizeof long_key, NULL, 0), ENG_INVALID);
    ck_assert_int_eq(eng_batch_remove_range(batch, NULL, 0, long_key, sizeof long_key), ENG_INVALID);
    size_t before = eng_batch_count(batch);
    OK(remove_range(batch, "b", "b")); /* empty and turned round: nothing */
    OK(remove_range(batch, "b", "a"));
    OK(remove_range(batch, "a", ""));
    ck_assert_uint_eq(eng_batch_count(batch), before);
    ck_assert_str_eq(keys_of(batch), "a b ");
    OK(remove_range(batch, NULL, "b")); /* the upper bound stays */
    ck_assert_str_eq(keys_of(batch), "b ");
    OK(remove_range(batch, "ba", NULL));
    ck_assert_str_eq(keys_of(batch), "b ");
    OK(remove_range(batch, "b", NULL)); /* the lower one goes */
    ck_assert_str_eq(keys_of(batch), "");
    eng_batch_close(&batch);
}
END_TEST

START_TEST(a_rollback_restores_ranges_and_writes)
{
    struct eng_batch *batch = batch_on(NULL);
    for (char c = 'a'; c <= 'h'; c++)
        put(batch, (char[]){c, 0}, "tree");
    commit(&batch, 1);
    batch = batch_on(NULL);
    put(batch, "c", "own");
    uint64_t first = eng_batch_mark(batch);
    OK(remove_range(batch, "b", "d"));
    uint64_t second = eng_batch_mark(batch);
    OK(remove_range(batch, "c", "g")); /* grows into the first */
    put(batch, "e", "own");
    ck_assert_str_eq(keys_of(batch), "a e g h ");
    uint64_t third = eng_batch_mark(batch);
    OK(remove_range(batch, "b", "g")); /* hides nothing more but e */
    ck_assert_str_eq(keys_of(batch), "a g h ");
    eng_batch_rollback(batch, third);
    ck_assert_str_eq(keys_of(batch), "a e g h ");
    ck_assert(has(batch, "e", "own"));
    eng_batch_rollback(batch, second);
    ck_assert_str_eq(keys_of(batch), "a d e f g h ");
    ck_assert(has(batch, "e", "tree") && has(batch, "c", NULL));
    OK(remove_range(batch, "g", NULL));
    eng_batch_rollback(batch, first);
    ck_assert_str_eq(keys_of(batch), "a b c d e f g h ");
    ck_assert(has(batch, "c", "own") && has(batch, "b", "tree"));
    commit(&batch, 2);
    batch = batch_on(NULL);
    ck_assert_str_eq(keys_of(batch), "a b c d e f g h ");
    eng_batch_close(&batch);
}
END_TEST

static void collect(void *context, size_t index, const struct eng_value *value)
{
    ((char *)context)[index] = value ? (char)value->bytes[0] : '-';
}

START_TEST(layers_hide_those_below_them)
{
    struct eng_batch *tree = batch_on(NULL), *parent, *child;
    for (char c = 'a'; c <= 'f'; c++)
        put(tree, (char[]){c, 0}, "tree");
    commit(&tree, 1);
    parent = batch_on(NULL);
    OK(remove_range(parent, "a", "d"));
    put(parent, "b", "parent");
    put(parent, "g", "parent");
    OK(eng_batch_freeze(parent));
    child = batch_on(parent);
    put(child, "c", "child");
    OK(remove_range(child, "e", NULL));
    put(child, "f", "child");
    ck_assert_str_eq(keys_of(child), "b c d f ");
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g"};
    const uint8_t *keys[7];
    size_t bytes[7];
    char found[8] = {0};
    for (unsigned i = 0; i < 7; i++) {
        keys[i] = (const uint8_t *)names[i];
        bytes[i] = 1;
    }
    OK(eng_batch_get_many(child, 7, keys, bytes, collect, found));
    ck_assert_str_eq(found, "-pct-c-");
    expect_totals(child, NULL, NULL, 4, 0);
    expect_totals(child, "b", "d", 2, 0);
    commit(&parent, 2); /* the child's base is older still */
    ck_assert_str_eq(keys_of(child), "b c d f ");
    commit(&child, 3);
    child = batch_on(NULL);
    ck_assert_str_eq(keys_of(child), "b c d f ");
    ck_assert(has(child, "b", "parent") && has(child, "d", "tree") && has(child, "f", "child"));
    eng_batch_close(&child);
}
END_TEST

START_TEST(totals_of_a_batch)
{
    struct eng_batch *batch = batch_on(NULL);
    put_amount(batch, "a", 5);
    put_amount(batch, "b", -7);
    put(batch, "c", "text");
    put_amount(batch, "d", 100);
    expect_totals(batch, NULL, NULL, 4, 98);
    commit(&batch, 1);
    batch = batch_on(NULL);
    expect_totals(batch, NULL, NULL, 4, 98);
    expect_totals(batch, "b", "d", 2, -7);
    expect_totals(batch, "d", "b", 0, 0);
    put_amount(batch, "d", 1); /* another value for a key of the tree */
    put_amount(batch, "e", 10);
    expect_totals(batch, "d", NULL, 2, 11);
    OK(remove_range(batch, "b", "e"));
    expect_totals(batch, NULL, NULL, 2, 15);
    expect_totals(batch, "b", "e", 0, 0);
    put_amount(batch, "b", -1); /* of the tree, hidden, and there again */
    expect_totals(batch, "b", "e", 1, -1);
    expect_totals(batch, NULL, NULL, 3, 14);
    commit(&batch, 2);
    batch = batch_on(NULL);
    expect_totals(batch, NULL, NULL, 3, 14);
    eng_batch_close(&batch);
}
END_TEST

/* ---- the set of ranges against an array ---- */

#define POINTS 60

static void point(unsigned i, uint8_t key[2])
{
    key[0] = (uint8_t)(1 + i / 8);
    key[1] = (uint8_t)(i % 8);
}

static void same_set(const struct hidden *hidden, const bool in[POINTS])
{
    for (unsigned i = 0; i < POINTS; i++) {
        uint8_t key[2];
        point(i, key);
        const struct hidden_range *range = hidden_find(hidden, key, 2, false);
        ck_assert_int_eq(range != NULL, in[i]);
        ck_assert_int_eq(hidden_find(hidden, key, 2, true) != NULL, i > 0 && in[i - 1]);
        size_t first = hidden_first(hidden, key, 2);
        ck_assert(!range || range == &hidden->sorted[first]);
        ck_assert(range || first == hidden->count ||
                  bytes_compare(hidden->sorted[first].from, hidden->sorted[first].from_bytes, key, 2) > 0);
    }
    for (size_t i = 1; i < hidden->count; i++) { /* disjoint, and they do not touch */
        const struct hidden_range *a = &hidden->sorted[i - 1], *b = &hidden->sorted[i];
        ck_assert(a->to && bytes_compare(a->to, a->to_bytes, b->from, b->from_bytes) < 0);
    }
}

START_TEST(the_set_is_a_set)
{
    state = 0x1234567;
    for (int history = 0; history < 300; history++) {
        struct hidden hidden = {0};
        static bool kept[40][POINTS];
        bool in[POINTS] = {false};
        for (uint64_t mark = 0; mark < 40; mark++) {
            memcpy(kept[mark], in, sizeof in);
            unsigned a = (unsigned)(rnd() % (POINTS - 1)), b = a + 1 + (unsigned)(rnd() % (rnd() % 4 ? 6 : POINTS));
            uint8_t from[2], to[2];
            point(a, from);
            point(b, to);
            bool open = b >= POINTS;
            OK(hidden_add(&hidden, &(struct hidden_range){from, open ? NULL : to, 2, open ? 0 : 2}, mark));
            for (unsigned i = a; i < b && i < POINTS; i++)
                in[i] = true;
            same_set(&hidden, in);
            if (rnd() % 6 == 0) {
                mark = rnd() % (mark + 1);
                hidden_rollback(&hidden, mark);
                memcpy(in, kept[mark], sizeof in);
                same_set(&hidden, in);
                if (rnd() % 8 == 0)
                    break;
            }
        }
        hidden_free(&hidden);
    }
}
END_TEST

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void add_point(struct hidden *hidden, uint32_t at, uint64_t mark)
{
    uint8_t from[4] = {(uint8_t)(at >> 16), (uint8_t)(at >> 8), (uint8_t)at, 1};
    uint8_t to[4] = {from[0], from[1], from[2], 2};
    OK(hidden_add(hidden, &(struct hidden_range){from, to, 4, 4}, mark));
}

/* However many ranges were removed before. */
START_TEST(a_rollback_costs_what_it_undoes)
{
    enum { MANY = 8000 };
    struct hidden hidden = {0};
    double began = cpu_s();
    for (uint32_t i = 0; i < MANY; i++)
        add_point(&hidden, MANY - i, 0);
    double added = cpu_s() - began;
    began = cpu_s();
    for (uint32_t i = 1; i <= MANY; i++) {
        add_point(&hidden, MANY + i, i);
        hidden_rollback(&hidden, i);
        ck_assert_uint_eq(hidden.count, MANY);
        ck_assert_double_lt(cpu_s() - began, 10 * added + 0.1); /* one of them took 0.02 s when all were added anew */
    }
    hidden_free(&hidden);
}
END_TEST

/* ---- random histories ---- */

static struct model {
    struct oracle_entry entry[KEYS_MAX]; /* every key of the history, sorted */
    bool present[KEYS_MAX];
    uint8_t value[KEYS_MAX][VALUE_MAX];
    size_t keys;
} model, saved;
static uint8_t key_memory[KEYS_MAX][64];

/* Over a small alphabet with both extremes, many of them prefixes of others; at times behind a long common part. */
static size_t make_key(uint8_t *key, bool deep)
{
    static const uint8_t letters[] = {0, 'a', 'b', 255};
    size_t n = 0, length = 1 + rnd() % 6;
    while (deep && rnd() % 4 && n < 48)
        for (int i = 0; i < 12; i++)
            key[n++] = 'p';
    for (size_t i = 0; i < length; i++)
        key[n++] = letters[rnd() % 4];
    return n;
}

static void make_model(void)
{
    bool deep = rnd() % 2;
    size_t want = 1 + rnd() % (1u << rnd() % 9), unique = 0;
    for (size_t i = 0; i < want; i++)
        model.entry[i] = (struct oracle_entry){.key = key_memory[i], .key_bytes = make_key(key_memory[i], deep)};
    qsort(model.entry, want, sizeof *model.entry, oracle_compare);
    for (size_t i = 0; i < want; i++)
        if (!i || oracle_compare(&model.entry[i], &model.entry[unique - 1]) != 0)
            model.entry[unique++] = model.entry[i];
    model.keys = unique;
    for (size_t i = 0; i < unique; i++) {
        model.entry[i].value = model.value[i];
        model.present[i] = false;
    }
}

/* A key, a prefix of one, a key and a byte more, or (NULL) none. */
static const uint8_t *make_bound(uint8_t memory[ENG_KEY_BYTES_MAX], size_t *bytes)
{
    const struct oracle_entry *e = &model.entry[rnd() % model.keys];
    *bytes = 0;
    if (rnd() % 8 == 0)
        return NULL;
    memcpy(memory, e->key, e->key_bytes);
    *bytes = e->key_bytes;
    if (rnd() % 4 == 0)
        *bytes = 1 + rnd() % e->key_bytes;
    else if (rnd() % 4 == 0)
        memory[(*bytes)++] = (uint8_t)(rnd() % 2 ? 0 : rnd());
    return memory;
}

static bool within(const struct oracle_entry *e, const uint8_t *from, size_t from_bytes, const uint8_t *to,
                   size_t to_bytes)
{
    return (!from || bytes_compare(e->key, e->key_bytes, from, from_bytes) >= 0) &&
           (!to || bytes_compare(e->key, e->key_bytes, to, to_bytes) < 0);
}

static void change_one(struct eng_batch *batch, unsigned puts)
{
    uint8_t a[ENG_KEY_BYTES_MAX], b[ENG_KEY_BYTES_MAX];
    size_t k = rnd() % model.keys, a_bytes, b_bytes;
    struct oracle_entry *e = &model.entry[k];
    if (rnd() % 10 == 0) {
        const uint8_t *from = make_bound(a, &a_bytes), *to = make_bound(b, &b_bytes);
        OK(eng_batch_remove_range(batch, from, a_bytes, to, b_bytes));
        for (size_t i = 0; i < model.keys; i++)
            model.present[i] &= !within(&model.entry[i], from, a_bytes, to, b_bytes);
    } else if (rnd() % 10 < puts) {
        e->tag = rnd() % 4 == 0;
        e->value_bytes = e->tag ? 16 : rnd() % 6 == 0 ? rnd() % VALUE_MAX : rnd() % 20;
        for (size_t i = 0; i < e->value_bytes; i++)
            model.value[k][i] = (uint8_t)rnd();
        OK(eng_batch_put(batch, e->key, e->key_bytes,
                         (struct eng_value){e->tag ? ENG_AMOUNT : ENG_BYTES, e->value, e->value_bytes}));
        model.present[k] = true;
    } else {
        OK(eng_batch_remove(batch, e->key, e->key_bytes));
        model.present[k] = false;
    }
}

static void change(struct eng_batch *batch)
{
    unsigned puts = (unsigned)(rnd() % 11);
    for (size_t n = 1 + rnd() % (2 * model.keys); n; n--)
        change_one(batch, puts);
}

static void check_totals(struct eng_batch *batch)
{
    uint8_t a[ENG_KEY_BYTES_MAX], b[ENG_KEY_BYTES_MAX];
    size_t a_bytes, b_bytes;
    const uint8_t *from = make_bound(a, &a_bytes), *to = make_bound(b, &b_bytes);
    struct eng_totals totals, want = {0};
    OK(eng_batch_totals(batch, from, a_bytes, to, b_bytes, &totals));
    for (size_t i = 0; i < model.keys; i++) {
        const struct oracle_entry *e = &model.entry[i];
        if (!model.present[i] || !within(e, from, a_bytes, to, b_bytes))
            continue;
        want.count++;
        uint64_t sum[3] = {0};
        if (e->tag) {
            memcpy(sum, e->value, 16);
            sum[2] = (uint64_t)((int64_t)sum[1] >> 63);
        }
        digest_sum_add(want.sum, want.sum, sum);
    }
    ck_assert_mem_eq(&totals, &want, sizeof want);
}

/* Every key through eng_batch_next; some gets; totals. */
static void check_batch(struct eng_batch *batch)
{
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t bytes = 0;
    for (size_t i = 0; i < model.keys; i++) {
        const struct oracle_entry *e = &model.entry[i];
        struct eng_value value;
        enum eng_status status = eng_batch_get(batch, e->key, e->key_bytes, &value);
        ck_assert_int_eq(status, model.present[i] ? ENG_OK : ENG_NOT_FOUND);
        if (!model.present[i])
            continue;
        ck_assert(value.size == e->value_bytes && memcmp(value.bytes, e->value, value.size) == 0);
        OK(eng_batch_next(batch, key, bytes, bytes > 0, key, &bytes));
        ck_assert(bytes == e->key_bytes && memcmp(key, e->key, bytes) == 0);
    }
    ck_assert_int_eq(eng_batch_next(batch, key, bytes, bytes > 0, key, &bytes), ENG_NOT_FOUND);
    for (int i = 0; i < 4; i++)
        check_totals(batch);
}

static void check_head(void)
{
    static struct oracle_entry now[KEYS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < model.keys; i++)
        if (model.present[i])
            now[n++] = model.entry[i];
    struct oracle_summary want;
    oracle_summary(now, n, &want);
    struct store_version head = {0};
    ck_assert(store_head(eng->store, 0, &head));
    ck_assert_mem_eq(&want, &head.summary, sizeof want);
    struct shape_stream rule = {0}, real = {0};
    if (n)
        shape_rule(&rule, now, n, 0, eng->leaf_bytes, eng->inline_bytes);
    struct reader *reader = eng_enter(eng);
    if (head.root)
        shape_tree(&real, eng->store, head.root);
    reader_leave(reader);
    ck_assert_uint_eq(rule.size, real.size);
    ck_assert(!rule.size || memcmp(rule.bytes, real.bytes, rule.size) == 0);
    free(rule.bytes);
    free(real.bytes);
}

/* One batch, or one over another that is committed first; merges that are undone before the one that counts. */
static uint64_t history_round(uint64_t tag)
{
    struct eng_batch *batch = batch_on(NULL);
    change(batch);
    if (rnd() % 4 == 0) {
        saved = model;
        uint64_t mark = eng_batch_mark(batch);
        change(batch);
        eng_batch_rollback(batch, mark);
        model = saved;
    }
    check_batch(batch);
    OK(eng_batch_freeze(batch));
    if (rnd() % 4 == 0) {
        struct eng_batch *child = batch_on(batch);
        change(child);
        check_batch(child);
        commit(&batch, ++tag);
        batch = child;
        OK(eng_batch_freeze(batch));
    }
    if (rnd() % 4 == 0) {
        struct eng_summary other, wrong = {.count = UINT64_MAX};
        ck_assert_int_eq(eng_commit_expect(batch, tag + 1, &wrong, &other), ENG_CONFLICT);
    }
    commit(&batch, ++tag);
    return tag;
}

static void history(uint64_t number)
{
    state = (number + 1) * 0x9E3779B97F4A7C15ull;
    make_model();
    OK(disk_sim_open(0, &disk));
    open_engine(64u << rnd() % 4, rnd() % 8 ? 1 : 3, ENG_DURABLE_NONE);
    uint64_t tag = 0;
    for (uint64_t rounds = 2 + rnd() % 5; rounds; rounds--) {
        tag = history_round(tag);
        check_head();
        if (rnd() % 3 == 0)
            OK(eng_drop_below(eng, 0, tag));
        no_leaks();
    }
    teardown();
}

START_TEST(random_histories)
{
    for (uint64_t i = 0; i < 500; i++)
        history(500u * (uint64_t)_i + i);
}
END_TEST

/* ---- the store's own log ---- */

START_TEST(removed_ranges_are_replayed)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        state = seed * 0x9E3779B97F4A7C15ull;
        make_model();
        OK(disk_sim_open(0, &disk));
        open_engine(256, 1, ENG_DURABLE_FSYNC);
        uint64_t tag = 0;
        for (int round = 0; round < 4; round++) {
            tag = history_round(tag);
            if (rnd() % 4 == 0)
                OK(eng_checkpoint(eng, NULL, 0, true));
        }
        struct disk *image, *whole = disk;
        OK(disk_sim_crash(disk, seed, &image));
        eng_close(&eng);
        disk = image;
        open_engine(256, 1, ENG_DURABLE_FSYNC);
        struct store_version head = {0};
        ck_assert(store_head(eng->store, 0, &head));
        ck_assert_uint_eq(head.tag, tag);
        check_head();
        no_leaks();
        teardown();
        disk_close(&whole);
    }
}
END_TEST

/* ---- space ---- */

static void fill(struct eng_batch *batch, char prefix, unsigned count)
{
    uint8_t value[100];
    for (unsigned i = 0; i < count; i++) {
        char key[32];
        memset(value, (int)i, sizeof value);
        size_t bytes = (size_t)snprintf(key, sizeof key, "%c%06u", prefix, i * 7919u % 1000000u);
        OK(eng_batch_put(batch, (uint8_t *)key, bytes,
                         (struct eng_value){ENG_BYTES, value, i % 5 ? 20 : sizeof value})); /* every fifth: outside */
    }
}

static void reap_all(void)
{
    OK(eng_settle(eng));
    for (bool left = true; left;)
        OK(store_reap(eng->store, 1000, &left));
}

static uint64_t objects(void)
{
    struct store_statistics statistics;
    store_stats(eng->store, &statistics);
    return statistics.ids_live;
}

static uint64_t live_bytes(void)
{
    struct store_statistics statistics;
    store_stats(eng->store, &statistics);
    return statistics.live_bytes;
}

START_TEST(few_nodes_are_written_and_the_space_comes_back)
{
    struct eng_batch *batch = batch_on(NULL);
    fill(batch, 'a', 3000);
    fill(batch, 'z', 3000);
    commit(&batch, 1);
    uint64_t base_objects = objects(), base_bytes = live_bytes();
    struct eng_summary before, after;
    OK(eng_head(eng, 0, NULL, &before));
    batch = batch_on(NULL);
    fill(batch, 'm', 20000);
    commit(&batch, 2);
    OK(eng_drop_below(eng, 0, 2));
    reap_all();
    uint64_t full = objects();
    ck_assert_uint_gt(full, base_objects + 4000);
    struct eng_snapshot *old;
    OK(eng_snapshot_open(eng, 0, 2, &old));
    batch = batch_on(NULL);
    OK(remove_range(batch, "m", "n"));
    ck_assert_uint_le(eng_batch_count(batch), 1); /* O(own writes), whatever the tree holds */
    commit(&batch, 3);
    ck_assert_uint_le(objects(), full + 32); /* the way down, once for each bound */
    OK(eng_head(eng, 0, NULL, &after));
    ck_assert_mem_eq(&before, &after, sizeof after);
    OK(eng_drop_below(eng, 0, 3));
    reap_all();
    ck_assert_uint_ge(objects(), full); /* a reader holds the old version */
    struct eng_totals totals;
    OK(eng_totals(old, (const uint8_t *)"m", 1, (const uint8_t *)"n", 1, &totals));
    ck_assert_uint_eq(totals.count, 20000);
    no_leaks();
    eng_snapshot_close(&old);
    batch = batch_on(NULL);
    commit(&batch, 4);
    OK(eng_drop_below(eng, 0, 4));
    reap_all();
    no_leaks();
    ck_assert_uint_eq(objects(), base_objects);
    ck_assert_uint_eq(live_bytes(), base_bytes);
}
END_TEST

/* Removes many small ranges. */
static double remove_many(struct eng_batch *batch)
{
    double began = cpu_s();
    for (unsigned i = 0; i < 2000; i++) {
        char from[16], to[16];
        snprintf(from, sizeof from, "k%05u", i);
        snprintf(to, sizeof to, "k%05u~", i);
        OK(remove_range(batch, from, to));
    }
    return cpu_s() - began;
}

/* What was rolled back behind a range is not looked at. */
START_TEST(a_removal_costs_what_is_in_its_range)
{
    struct eng_batch *batch = batch_on(NULL);
    uint64_t mark = eng_batch_mark(batch);
    double alone = remove_many(batch);
    eng_batch_rollback(batch, mark);
    for (unsigned i = 0; i < 20000; i++) {
        char key[16];
        size_t bytes = (size_t)snprintf(key, sizeof key, "z%05u", i);
        OK(eng_batch_put(batch, (const uint8_t *)key, bytes, (struct eng_value){ENG_BYTES, NULL, 0}));
    }
    eng_batch_rollback(batch, mark);
    ck_assert_double_lt(remove_many(batch), 20 * alone + 0.1); /* it was 6 s */
    eng_batch_close(&batch);
}
END_TEST

/* A leaf that is parted gives back the values outside it. */
START_TEST(outside_values_in_a_parted_leaf)
{
    static uint8_t big[5000];
    struct eng_batch *batch = batch_on(NULL);
    for (char c = 'a'; c <= 'e'; c++)
        OK(eng_batch_put(batch, (const uint8_t *)&c, 1, (struct eng_value){ENG_BYTES, big, sizeof big - (size_t)c}));
    commit(&batch, 1);
    uint64_t full = objects();
    batch = batch_on(NULL);
    OK(remove_range(batch, "b", "d"));
    commit(&batch, 2);
    OK(eng_drop_below(eng, 0, 2));
    reap_all();
    no_leaks();
    ck_assert_uint_eq(objects(), full - 2);
    batch = batch_on(NULL);
    ck_assert_str_eq(keys_of(batch), "a d e ");
    eng_batch_close(&batch);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("range");
    TCase *calls = tcase_create("calls");
    tcase_add_checked_fixture(calls, setup, teardown);
    tcase_add_test(calls, a_batch_sees_what_it_removed_and_wrote_after);
    tcase_add_test(calls, bounds);
    tcase_add_test(calls, a_rollback_restores_ranges_and_writes);
    tcase_add_test(calls, layers_hide_those_below_them);
    tcase_add_test(calls, totals_of_a_batch);
    tcase_add_test(calls, few_nodes_are_written_and_the_space_comes_back);
    tcase_add_test(calls, a_removal_costs_what_is_in_its_range);
    tcase_add_test(calls, outside_values_in_a_parted_leaf);
    tcase_set_timeout(calls, 60);
    suite_add_tcase(suite, calls);
    TCase *random = tcase_create("random");
    tcase_add_test(random, the_set_is_a_set);
    tcase_add_test(random, a_rollback_costs_what_it_undoes);
    tcase_add_loop_test(random, random_histories, 0, 4);
    tcase_add_test(random, removed_ranges_are_replayed);
    tcase_set_timeout(random, 300);
    suite_add_tcase(suite, random);
    SRunner *runner = srunner_create(suite);
    if (sodium_init() < 0)
        return 1;
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
