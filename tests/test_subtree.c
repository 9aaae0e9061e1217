/*
 * Subtrees: trees as values, moved, cloned, replaced, dropped; what versions see of them, and the space that comes
 * back.
 *
 * The model of a history is a tree of sorted arrays. Random batches write into random trees at any depth, open, create,
 * take, put and clone trees, remove ranges with trees in them, mark and roll back; after every commit the root is the
 * flat oracle's, every tree is found in a snapshot with the model's contents, the store's own check finds every tree
 * canonical, and after every few no object and no hold is lost (store_audit). Versions are held, dropped, re-read, and
 * the store reopened: from its checkpoint, from its log, and by a rebuild.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digest_oracle.h"
#include "engine_internal.h"
#include "store_internal.h"
#include "tree.h"

#define KEYS 40
#define VALUE_MAX 200
#define HANDLES_MAX 60
#define KEPT 5

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())

static struct disk *disk;
static struct eng *eng;
static enum eng_durability durability;
static uint64_t state;
static int keys_used = KEYS; /* that histories use */
static bool crowded;         /* histories of few keys, with more trees and less else */

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void complain(void *context, const char *line)
{
    fprintf(stderr, "%s\n", line);
}

static void open_engine(enum eng_recovery recovery)
{
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .leaf_bytes = 256,
                                  .inline_bytes = 64,
                                  .segment_bytes = 64u << 10,
                                  .inline_only = true,
                                  .threads = 1 + (uint32_t)(state % 2),
                                  .durability = durability,
                                  .recovery = recovery};
    OK(eng_open(&options, &eng));
}

static void setup(void)
{
    durability = ENG_DURABLE_NONE;
    state = 88172645463325252ull;
    OK(disk_sim_open(0, &disk));
    open_engine(ENG_RECOVER_AUTO);
}

static void teardown(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

#define K(s) (const uint8_t *)(s), strlen(s)

static void put(struct eng_batch *batch, const char *key, const char *value)
{
    OK(eng_batch_put(batch, K(key), (struct eng_value){ENG_BYTES, (const uint8_t *)value, strlen(value)}));
}

/* ---- by hand ---- */

static void text_is(struct eng_snapshot *snapshot, const char *key, const char *value)
{
    uint8_t bytes[100];
    size_t size;
    enum eng_status status = eng_get_copy(snapshot, K(key), NULL, bytes, sizeof bytes, &size);
    if (!value) {
        ck_assert_int_eq(status, ENG_NOT_FOUND);
        return;
    }
    ck_assert_int_eq(status, ENG_OK);
    ck_assert_uint_eq(size, strlen(value));
    ck_assert_mem_eq(bytes, value, size);
}

static struct eng_snapshot *head(void)
{
    struct eng_snapshot *snapshot;
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
    return snapshot;
}

static struct eng_snapshot *inside(struct eng_snapshot *snapshot, const char *key)
{
    struct eng_snapshot *tree;
    OK(eng_snapshot_tree(snapshot, K(key), &tree));
    return tree;
}

static struct eng_batch *begin(void)
{
    struct eng_batch *batch;
    OK(eng_batch_open(eng, 0, NULL, &batch));
    return batch;
}

static void commit(struct eng_batch **batch, uint64_t tag)
{
    OK(eng_batch_freeze(*batch));
    OK(eng_commit(*batch, tag, NULL));
    eng_batch_close(batch);
}

static void check_shape(void)
{
    struct store_version version;
    ck_assert(store_head(eng->store, 0, &version));
    OK(tree_check(eng->store, version.root, 256, 64, complain, NULL));
}

static void audit(void)
{
    uint64_t leaked, missing;
    OK(eng_settle(eng));
    OK(store_reap(eng->store, UINT64_MAX, NULL));
    OK(store_audit(eng->store, &leaked, &missing));
    ck_assert_uint_eq(leaked, 0);
    ck_assert_uint_eq(missing, 0);
    struct reader *reader = eng_enter(eng);
    for (uint32_t id = 1; id < eng->store->control.next; id++) { /* kept digests are those of the node */
        const struct digest_cache *cache = cache_of(eng->caches, id);
        if (!cache)
            continue;
        ck_assert(atomic_load(&store_view(eng->store)->control[id]) != 0);
        const struct object *object = store_object(eng->store, id);
        ck_assert_int_eq(object->type, OBJECT_INNER);
        ck_assert_uint_eq(((const struct inner *)(const void *)object)->branches, cache->branches);
    }
    reader_leave(reader);
}

START_TEST(trees_hang_in_trees)
{
    struct eng_batch *batch = begin(), *users, *anna, *again;
    struct eng_value value;
    ck_assert_int_eq(eng_batch_tree(batch, K("users"), false, &users), ENG_NOT_FOUND);
    OK(eng_batch_tree(batch, K("users"), true, &users));
    OK(eng_batch_tree(users, K("anna"), true, &anna));
    put(anna, "city", "Graz");
    put(batch, "title", "town");
    OK(eng_batch_tree(users, K("anna"), false, &again));
    ck_assert_ptr_eq(again, anna);
    ck_assert_int_eq(eng_batch_tree(batch, K("title"), false, &again), ENG_TYPE);
    OK(eng_batch_get(batch, K("users"), &value));
    ck_assert_int_eq(value.tag, ENG_TREE);
    ck_assert_uint_eq(value.size, 64);
    commit(&batch, 1);

    struct eng_snapshot *snapshot = head(), *in_users = inside(snapshot, "users"), *in_anna = inside(in_users, "anna");
    text_is(snapshot, "title", "town");
    text_is(in_anna, "city", "Graz");
    ck_assert_uint_eq(eng_snapshot_summary(snapshot)->count, 2);
    ck_assert_uint_eq(eng_snapshot_summary(in_users)->count, 1);
    struct eng_snapshot *none;
    ck_assert_int_eq(eng_snapshot_tree(snapshot, K("title"), &none), ENG_TYPE);
    ck_assert_int_eq(eng_snapshot_tree(snapshot, K("nobody"), &none), ENG_NOT_FOUND);
    eng_snapshot_close(&snapshot); /* the inner ones keep the version */

    batch = begin();
    OK(eng_batch_tree(batch, K("users"), false, &users));
    OK(eng_batch_tree(users, K("anna"), false, &anna));
    put(anna, "city", "Wien");
    commit(&batch, 2);
    OK(eng_drop_below(eng, 0, 2));
    text_is(in_anna, "city", "Graz");
    eng_snapshot_close(&in_users);
    eng_snapshot_close(&in_anna);
    snapshot = head();
    in_users = inside(snapshot, "users");
    in_anna = inside(in_users, "anna");
    text_is(in_anna, "city", "Wien");
    eng_snapshot_close(&in_anna);
    eng_snapshot_close(&in_users);
    eng_snapshot_close(&snapshot);
    audit();
}
END_TEST

START_TEST(what_would_be_no_tree_is_refused)
{
    struct eng_batch *batch = begin(), *other = begin(), *a, *b, *c, *deep;
    OK(eng_batch_tree(batch, K("a"), true, &a));
    OK(eng_batch_tree(a, K("b"), true, &b));
    OK(eng_batch_tree_new(batch, &c));
    ck_assert_int_eq(eng_batch_tree_put(b, K("x"), a), ENG_INVALID); /* hangs */
    OK(eng_batch_tree_take(batch, K("a"), &a));
    ck_assert_int_eq(eng_batch_tree_put(b, K("x"), a), ENG_INVALID); /* into itself */
    ck_assert_int_eq(eng_batch_tree_put(a, K("x"), a), ENG_INVALID);
    ck_assert_int_eq(eng_batch_tree_put(other, K("x"), a), ENG_INVALID);
    ck_assert_int_eq(eng_batch_tree_clone(batch, &c), ENG_INVALID);
    OK(eng_batch_tree_put(batch, K("again"), a));
    deep = batch;
    for (unsigned i = 0; i < ENG_TREE_DEPTH_MAX; i++)
        OK(eng_batch_tree(deep, K("d"), true, &deep));
    ck_assert_int_eq(eng_batch_tree(deep, K("d"), true, &c), ENG_TOO_LARGE);
    OK(eng_batch_tree_take(batch, K("d"), &deep)); /* as high as can be: fits at the top alone */
    ck_assert_int_eq(eng_batch_tree_put(a, K("d"), deep), ENG_TOO_LARGE);
    OK(eng_batch_tree_put(batch, K("d"), deep));
    OK(eng_batch_freeze(batch));
    struct eng_batch *child;
    OK(eng_batch_open(eng, 0, batch, &child));
    ck_assert_int_eq(eng_batch_tree(child, K("again"), false, &c), ENG_BUSY);
    struct eng_value value;
    OK(eng_batch_get(child, K("again"), &value));
    ck_assert_int_eq(value.tag, ENG_TREE);
    OK(eng_commit(batch, 1, NULL));
    eng_batch_close(&batch);
    eng_batch_close(&child);
    eng_batch_close(&other);
    audit();
}
END_TEST

START_TEST(another_commit_meanwhile_is_a_conflict)
{
    struct eng_batch *first = begin(), *second, *third, *tree;
    OK(eng_batch_tree(first, K("t"), true, &tree));
    put(tree, "x", "0");
    commit(&first, 1);
    first = begin();
    second = begin();
    third = begin();
    OK(eng_batch_tree(first, K("t"), false, &tree));
    put(tree, "x", "1");
    OK(eng_batch_tree(second, K("t"), false, &tree));
    put(tree, "x", "2");
    put(third, "beside", "3");
    OK(eng_batch_tree(third, K("u"), true, &tree));
    commit(&first, 2);
    OK(eng_batch_freeze(second));
    ck_assert_int_eq(eng_commit(second, 3, NULL), ENG_CONFLICT);
    eng_batch_close(&second);
    commit(&third, 3); /* it touched another one */
    struct eng_snapshot *snapshot = head(), *in = inside(snapshot, "t");
    text_is(in, "x", "1");
    text_is(snapshot, "beside", "3");
    eng_snapshot_close(&in);
    eng_snapshot_close(&snapshot);
    audit();
}
END_TEST

START_TEST(clones_share_and_give_back)
{
    struct eng_batch *batch = begin(), *tree, *copy;
    char key[16];
    OK(eng_batch_tree(batch, K("origin"), true, &tree));
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof key, "k%05d", i);
        put(tree, key, "some value of some length");
    }
    commit(&batch, 1);
    struct eng_statistics one, many, after;
    eng_stats(eng, &one);
    batch = begin();
    OK(eng_batch_tree(batch, K("origin"), false, &tree));
    for (int i = 0; i < 100; i++) {
        OK(eng_batch_tree_clone(tree, &copy));
        snprintf(key, sizeof key, "copy%d", i);
        OK(eng_batch_tree_put(batch, K(key), copy));
        put(copy, key, "mine");
    }
    commit(&batch, 2);
    OK(eng_drop_below(eng, 0, 2));
    audit();
    eng_stats(eng, &many);
    ck_assert_uint_lt(many.live_bytes, 2 * one.live_bytes + 100 * 2000); /* a few nodes each */
    for (int i = 0; i < 100; i++) {
        struct eng_snapshot *snapshot = head();
        snprintf(key, sizeof key, "copy%d", i);
        struct eng_snapshot *in = inside(snapshot, key);
        ck_assert_uint_eq(eng_snapshot_summary(in)->count, 2001);
        text_is(in, key, "mine");
        eng_snapshot_close(&in);
        eng_snapshot_close(&snapshot);
    }
    batch = begin();
    OK(eng_batch_tree(batch, K("origin"), false, &tree));
    for (int i = 0; i < 2000; i += 2) {
        snprintf(key, sizeof key, "k%05d", i);
        OK(eng_batch_remove(tree, K(key)));
    }
    OK(eng_batch_remove_range(batch, K("copy"), K("copz")));
    commit(&batch, 3);
    OK(eng_drop_below(eng, 0, 3));
    audit();
    batch = begin(); /* it is the last one now: what it had in common and has no more is given back */
    OK(eng_batch_tree(batch, K("origin"), false, &tree));
    put(tree, "k1", "x");
    commit(&batch, 4);
    OK(eng_drop_below(eng, 0, 4));
    audit();
    ck_assert_uint_eq(eng->store->bases.live, 0);
    eng_stats(eng, &after);
    ck_assert_uint_lt(after.live_bytes, one.live_bytes);
}
END_TEST

static void fill(struct eng_batch *tree, int count)
{
    char key[16];
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "k%05d", i);
        put(tree, key, "some value of some length");
    }
}

static void make_nested(uint64_t tag, int count)
{
    struct eng_batch *batch = begin(), *outer, *inner;
    OK(eng_batch_tree(batch, K("outer"), true, &outer));
    fill(outer, count);
    OK(eng_batch_tree(outer, K("inner"), true, &inner));
    fill(inner, count);
    commit(&batch, tag);
}

static void whole_tree_is(const char *name, int count)
{
    struct eng_snapshot *snapshot = head(), *tree = inside(snapshot, name);
    char key[16];
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "k%05d", i);
        text_is(tree, key, "some value of some length");
    }
    ck_assert_uint_eq(eng_snapshot_summary(tree)->count, (uint64_t)count + 1);
    eng_snapshot_close(&tree);
    eng_snapshot_close(&snapshot);
}

/* It is taken out, the tree it was in goes, all but the newest version is dropped, and then it is written: nothing it
 * needs may have gone with the other, and what only that one had is given back. The second time it was in a clone. */
START_TEST(a_tree_outlives_what_it_was_in)
{
    static const int counts[] = {1, 3, 10, 50, 1000};
    uint64_t tag = 0;
    for (int i = 0; i < 10; i++) {
        int count = counts[i / 2];
        bool from_a_clone = i % 2;
        struct eng_statistics both, one;
        make_nested(++tag, count);
        OK(eng_drop_below(eng, 0, tag));
        audit();
        eng_stats(eng, &both);
        struct eng_batch *batch = begin(), *outer, *inner;
        OK(eng_batch_tree(batch, K("outer"), false, &outer));
        if (from_a_clone)
            OK(eng_batch_tree_clone(outer, &outer));
        OK(eng_batch_tree_take(outer, K("inner"), &inner));
        OK(eng_batch_tree_put(batch, K("taken"), inner));
        if (!from_a_clone)
            OK(eng_batch_remove(batch, K("outer")));
        commit(&batch, ++tag);
        OK(eng_drop_below(eng, 0, tag));
        audit();
        batch = begin();
        OK(eng_batch_remove(batch, K("outer")));
        commit(&batch, ++tag);
        OK(eng_drop_below(eng, 0, tag));
        audit();
        eng_stats(eng, &one);
        if (!from_a_clone && count == 1000)
            ck_assert_uint_lt(one.live_bytes, both.live_bytes * 6 / 10);
        batch = begin();
        OK(eng_batch_tree(batch, K("taken"), false, &inner));
        put(inner, "new", "value");
        commit(&batch, ++tag);
        OK(eng_drop_below(eng, 0, tag));
        audit();
        check_shape();
        whole_tree_is("taken", count);
        batch = begin();
        OK(eng_batch_remove(batch, K("taken")));
        commit(&batch, ++tag);
        OK(eng_drop_below(eng, 0, tag));
        audit();
        ck_assert_uint_eq(eng->store->bases.live, 0);
    }
}
END_TEST

START_TEST(digests_of_what_a_clone_removed_are_forgotten)
{
    struct eng_batch *batch = begin(), *tree, *copy;
    OK(eng_batch_tree(batch, K("origin"), true, &tree));
    fill(tree, 20000);
    commit(&batch, 1);
    batch = begin(); /* every inner node has digests now */
    OK(eng_batch_tree(batch, K("origin"), false, &tree));
    fill(tree, 20000);
    OK(eng_batch_tree_clone(tree, &copy));
    OK(eng_batch_tree_put(batch, K("copy"), copy));
    commit(&batch, 2);
    batch = begin();
    OK(eng_batch_tree(batch, K("copy"), false, &copy));
    OK(eng_batch_remove_range(copy, K("k05"), K("k15")));
    commit(&batch, 3);
    batch = begin();
    OK(eng_batch_remove(batch, K("origin")));
    commit(&batch, 4);
    OK(eng_drop_below(eng, 0, 4));
    for (uint64_t tag = 5; tag < 7; tag++) {
        batch = begin(); /* it takes back what both had */
        OK(eng_batch_tree(batch, K("copy"), false, &copy));
        put(copy, "k00001", "another value");
        commit(&batch, tag);
        OK(eng_drop_below(eng, 0, tag));
        audit();
    }
    ck_assert_uint_eq(eng->store->bases.live, 0);
}
END_TEST

/* ---- the model ---- */

struct tree;
struct place {
    bool present;
    uint8_t tag; /* as the oracle's */
    uint16_t size;
    uint8_t value[VALUE_MAX];
    struct tree *tree;
};
struct tree {
    struct place at[KEYS];
    struct tree *moved_to; /* while a forest is copied */
    struct tree *next;     /* of all there are */
};

static uint8_t key_of[KEYS][12];
static size_t key_bytes_of[KEYS];

static void make_keys(void)
{
    struct oracle_entry keys[KEYS];
    for (int i = 0; i < KEYS; i++) {
        if (i % 3 == 0)
            key_bytes_of[i] = (size_t)snprintf((char *)key_of[i], sizeof key_of[i], "%c", 'a' + i / 3);
        else if (i % 3 == 1)
            key_bytes_of[i] = (size_t)snprintf((char *)key_of[i], sizeof key_of[i], "path/%02d", i);
        else
            key_bytes_of[i] = (size_t)snprintf((char *)key_of[i], sizeof key_of[i], "%c%c", 'a' + i / 3, 'a' + i % 7);
        keys[i] = (struct oracle_entry){.key = key_of[i], .key_bytes = key_bytes_of[i]};
    }
    uint8_t sorted[KEYS][12];
    qsort(keys, KEYS, sizeof keys[0], oracle_compare);
    size_t bytes[KEYS];
    for (int i = 0; i < KEYS; i++) {
        memcpy(sorted[i], keys[i].key, keys[i].key_bytes);
        bytes[i] = keys[i].key_bytes;
    }
    memcpy(key_of, sorted, sizeof sorted);
    memcpy(key_bytes_of, bytes, sizeof bytes);
}

/* Nothing in the model is freed before the test ends: histories are short, and trees may be named from anywhere. */
static struct tree *all_trees;

static struct tree *tree_new(void)
{
    struct tree *tree = calloc(1, sizeof *tree);
    ck_assert_ptr_nonnull(tree);
    tree->next = all_trees;
    all_trees = tree;
    return tree;
}

static void free_trees(void)
{
    while (all_trees) {
        struct tree *tree = all_trees;
        all_trees = tree->next;
        free(tree);
    }
}

static struct tree *copied[1 << 16];
static size_t copied_count;

static struct tree *tree_copy(struct tree *tree)
{
    if (tree->moved_to)
        return tree->moved_to;
    struct tree *copy = tree_new();
    memcpy(copy->at, tree->at, sizeof copy->at);
    tree->moved_to = copy;
    ck_assert_uint_lt(copied_count, sizeof copied / sizeof copied[0]);
    copied[copied_count++] = tree;
    for (int i = 0; i < KEYS; i++)
        if (copy->at[i].present && copy->at[i].tree)
            copy->at[i].tree = tree_copy(copy->at[i].tree);
    return copy;
}

static void copy_done(void)
{
    while (copied_count)
        copied[--copied_count]->moved_to = NULL;
}

static struct tree *tree_clone(struct tree *tree)
{
    struct tree *copy = tree_copy(tree);
    copy_done();
    return copy;
}

static void tree_summary(const struct tree *tree, struct oracle_summary *out)
{
    struct oracle_entry entries[KEYS];
    struct oracle_summary inner[KEYS];
    size_t n = 0;
    for (int i = 0; i < KEYS; i++) {
        const struct place *p = &tree->at[i];
        if (!p->present)
            continue;
        entries[n] = (struct oracle_entry){key_of[i], key_bytes_of[i], p->tag, p->value, p->size};
        if (p->tree) {
            tree_summary(p->tree, &inner[n]);
            entries[n].tag = 2;
            entries[n].value = (const uint8_t *)&inner[n];
            entries[n].value_bytes = 64;
        }
        n++;
    }
    oracle_summary(entries, n, out);
}

static int height(const struct tree *tree)
{
    int most = 0;
    for (int i = 0; i < KEYS; i++)
        if (tree->at[i].present && tree->at[i].tree) {
            int h = height(tree->at[i].tree);
            most = h > most ? h : most;
        }
    return most + 1;
}

static bool has(const struct tree *tree, const struct tree *wanted)
{
    if (tree == wanted)
        return true;
    for (int i = 0; i < KEYS; i++)
        if (tree->at[i].present && tree->at[i].tree && has(tree->at[i].tree, wanted))
            return true;
    return false;
}

/* Contents of a snapshot of a tree, and of all below. */
static void same(struct eng_snapshot *snapshot, const struct tree *tree)
{
    struct oracle_summary summary;
    struct eng_cursor *cursor;
    tree_summary(tree, &summary);
    ck_assert_mem_eq(eng_snapshot_summary(snapshot), &summary, sizeof summary);
    OK(eng_cursor_open(snapshot, &cursor));
    enum eng_status status = eng_cursor_seek(cursor, NULL, 0);
    for (int i = 0; i < KEYS; i++) {
        const struct place *p = &tree->at[i];
        if (!p->present)
            continue;
        size_t key_bytes;
        struct eng_value value;
        ck_assert_int_eq(status, ENG_OK);
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        ck_assert_uint_eq(key_bytes, key_bytes_of[i]);
        ck_assert_mem_eq(key, key_of[i], key_bytes);
        OK(eng_cursor_value(cursor, &value));
        if (p->tree) {
            struct eng_snapshot *in;
            ck_assert_int_eq(value.tag, ENG_TREE);
            OK(eng_snapshot_tree(snapshot, key, key_bytes, &in));
            ck_assert_mem_eq(value.bytes, eng_snapshot_summary(in), 64);
            same(in, p->tree);
            eng_snapshot_close(&in);
        } else {
            ck_assert_uint_eq(value.tag, p->tag);
            ck_assert_uint_eq(value.size, p->size);
            ck_assert_mem_eq(value.bytes, p->value, p->size);
        }
        status = eng_cursor_next(cursor);
    }
    ck_assert_int_eq(status, ENG_NOT_FOUND);
    eng_cursor_close(&cursor);
}

/* ---- a batch of the model ---- */

struct session {
    struct eng_batch *batch;
    struct eng_batch *handle[HANDLES_MAX]; /* [0]: the outermost */
    struct tree *tree[HANDLES_MAX];
    int count;
    /* as of the mark */
    uint64_t mark;
    struct tree *marked[HANDLES_MAX];
    int marked_count; /* 0: no mark */
};

/* Does the tree hang somewhere below one of the others (the outermost or a temporary one)? */
static bool hangs(const struct session *s, const struct tree *tree)
{
    for (int h = 0; h < s->count; h++)
        for (int i = 0; i < KEYS; i++)
            if (s->tree[h]->at[i].present && s->tree[h]->at[i].tree && has(s->tree[h]->at[i].tree, tree))
                return true;
    return false;
}

static int level(const struct session *s, const struct tree *tree, const struct tree *top)
{
    if (tree == top)
        return 0;
    for (int i = 0; i < KEYS; i++)
        if (top->at[i].present && top->at[i].tree && has(top->at[i].tree, tree))
            return 1 + level(s, tree, top->at[i].tree);
    return 0;
}

static int add_handle(struct session *s, struct eng_batch *handle, struct tree *tree)
{
    for (int i = 0; i < s->count; i++)
        if (s->handle[i] == handle) {
            ck_assert_ptr_eq(s->tree[i], tree);
            return i;
        }
    ck_assert_int_lt(s->count, HANDLES_MAX);
    s->handle[s->count] = handle;
    s->tree[s->count] = tree;
    return s->count++;
}

static void write_value(struct session *s, int h, int k)
{
    struct place *p = &s->tree[h]->at[k];
    *p = (struct place){.present = true, .tag = rnd() % 4 == 0, .size = (uint16_t)(rnd() % VALUE_MAX)};
    if (p->tag)
        p->size = 16;
    for (unsigned i = 0; i < p->size; i++)
        p->value[i] = (uint8_t)rnd();
    OK(eng_batch_put(s->handle[h], key_of[k], key_bytes_of[k],
                     (struct eng_value){p->tag ? ENG_AMOUNT : ENG_BYTES, p->value, p->size}));
}

static void remove_some(struct session *s, int h)
{
    int from = (int)(rnd() % KEYS), to = (int)(rnd() % (KEYS + 1));
    bool open = to == KEYS;
    OK(eng_batch_remove_range(s->handle[h], key_of[from], key_bytes_of[from], open ? NULL : key_of[to],
                              open ? 0 : key_bytes_of[to]));
    for (int i = from; i < to; i++)
        s->tree[h]->at[i] = (struct place){0};
}

static void open_tree(struct session *s, int h, int k, bool create)
{
    struct place *p = &s->tree[h]->at[k];
    struct eng_batch *handle;
    if (create && !p->present && level(s, s->tree[h], s->tree[0]) > 6)
        return;
    enum eng_status status = eng_batch_tree(s->handle[h], key_of[k], key_bytes_of[k], create, &handle);
    if (!p->present && !create) {
        ck_assert_int_eq(status, ENG_NOT_FOUND);
        return;
    }
    if (p->present && !p->tree) {
        ck_assert_int_eq(status, ENG_TYPE);
        return;
    }
    ck_assert_msg(status == ENG_OK, "%s", eng_error());
    if (!p->present)
        *p = (struct place){.present = true, .tree = tree_new()};
    add_handle(s, handle, p->tree);
}

static void take_tree(struct session *s, int h, int k)
{
    struct place *p = &s->tree[h]->at[k];
    struct eng_batch *handle;
    enum eng_status status = eng_batch_tree_take(s->handle[h], key_of[k], key_bytes_of[k], &handle);
    ck_assert_int_eq(status, !p->present ? ENG_NOT_FOUND : p->tree ? ENG_OK : ENG_TYPE);
    if (status != ENG_OK)
        return;
    add_handle(s, handle, p->tree);
    *p = (struct place){0};
}

static void put_tree(struct session *s, int h, int k)
{
    int t = (int)(rnd() % (uint64_t)s->count);
    if (t == 0)
        return;
    if (level(s, s->tree[h], s->tree[0]) + height(s->tree[t]) > 8)
        return; /* the model's recursion is plain */
    enum eng_status status = eng_batch_tree_put(s->handle[h], key_of[k], key_bytes_of[k], s->handle[t]);
    if (hangs(s, s->tree[t]) || has(s->tree[t], s->tree[h])) {
        ck_assert_int_eq(status, ENG_INVALID);
        return;
    }
    ck_assert_msg(status == ENG_OK || status == ENG_TOO_LARGE, "%s", eng_error());
    if (status == ENG_OK)
        s->tree[h]->at[k] = (struct place){.present = true, .tree = s->tree[t]};
}

static void clone_tree(struct session *s)
{
    int t = (int)(rnd() % (uint64_t)s->count);
    struct eng_batch *handle;
    if (t == 0)
        return;
    OK(eng_batch_tree_clone(s->handle[t], &handle));
    add_handle(s, handle, tree_clone(s->tree[t]));
}

static void set_mark(struct session *s)
{
    s->mark = eng_batch_mark(s->batch);
    for (int i = 0; i < s->count; i++)
        s->marked[i] = tree_copy(s->tree[i]);
    copy_done();
    s->marked_count = s->count;
}

static void roll_back(struct session *s)
{
    if (!s->marked_count)
        return;
    eng_batch_rollback(s->batch, s->mark);
    for (int i = 0; i < s->marked_count; i++)
        s->tree[i] = tree_copy(s->marked[i]);
    copy_done();
    s->count = s->marked_count;
}

static void look(struct session *s, int h, int k)
{
    const struct place *p = &s->tree[h]->at[k];
    struct eng_value value;
    enum eng_status status = eng_batch_get(s->handle[h], key_of[k], key_bytes_of[k], &value);
    ck_assert_int_eq(status, p->present ? ENG_OK : ENG_NOT_FOUND);
    if (p->present)
        ck_assert_int_eq(value.tag, p->tree ? ENG_TREE : p->tag ? ENG_AMOUNT : ENG_BYTES);
    struct eng_totals totals;
    uint64_t count = 0;
    OK(eng_batch_totals(s->handle[h], NULL, 0, NULL, 0, &totals));
    for (int i = 0; i < KEYS; i++)
        count += s->tree[h]->at[i].present;
    ck_assert_uint_eq(totals.count, count);
}

static void step(struct session *s)
{
    static const uint8_t mix[] = {0,  0,  0,  0,  0,  8,  8,  10, 11, 11, 11, 14, 14,
                                  14, 14, 16, 16, 16, 17, 17, 17, 20, 20, 21, 22, 23};
    int h = (int)(rnd() % (uint64_t)s->count), k = (int)(rnd() % (uint64_t)keys_used);
    if (s->count > HANDLES_MAX - 2)
        h = 0;
    switch (crowded ? mix[rnd() % sizeof mix] : rnd() % 24) {
    case 0 ... 7:
        write_value(s, h, k);
        break;
    case 8 ... 9:
        OK(eng_batch_remove(s->handle[h], key_of[k], key_bytes_of[k]));
        s->tree[h]->at[k] = (struct place){0};
        break;
    case 10:
        if (rnd() % 2)
            remove_some(s, h);
        break;
    case 11 ... 13:
        if (s->count < HANDLES_MAX)
            open_tree(s, h, k, true);
        break;
    case 14 ... 15:
        if (s->count < HANDLES_MAX)
            open_tree(s, h, k, false);
        break;
    case 16:
        if (s->count < HANDLES_MAX)
            take_tree(s, h, k);
        break;
    case 17 ... 19:
        put_tree(s, h, k);
        break;
    case 20:
        if (s->count < HANDLES_MAX)
            clone_tree(s);
        break;
    case 21:
        set_mark(s);
        break;
    case 22:
        if (rnd() % 3 == 0)
            roll_back(s);
        break;
    default:
        look(s, h, k);
        break;
    }
}

static struct tree *random_batch(const struct tree *from, uint64_t tag, unsigned steps)
{
    struct session s = {.batch = begin(), .count = 1};
    s.handle[0] = s.batch;
    s.tree[0] = tree_clone((struct tree *)(uintptr_t)from);
    for (int k = 0; k < KEYS; k++) /* begin with what is there */
        if (s.tree[0]->at[k].present && s.tree[0]->at[k].tree && rnd() % 2 && s.count < 8)
            open_tree(&s, 0, k, false);
    for (int h = 1; crowded && h < s.count && s.count < 16; h++) /* and with what is in it */
        for (int k = 0; k < keys_used; k++)
            if (s.tree[h]->at[k].present && s.tree[h]->at[k].tree && rnd() % 2)
                open_tree(&s, h, k, false);
    for (unsigned i = 0; i < steps; i++)
        step(&s);
    struct oracle_summary want;
    struct eng_summary got;
    tree_summary(s.tree[0], &want);
    OK(eng_batch_freeze(s.batch));
    if (rnd() % 4 == 0) {
        OK(eng_dry_commit(s.batch, &got));
        ck_assert_mem_eq(&got, &want, sizeof got);
    }
    OK(eng_commit(s.batch, tag, &got));
    ck_assert_mem_eq(&got, &want, sizeof got);
    eng_batch_close(&s.batch);
    return s.tree[0];
}

static void reopen(enum eng_recovery recovery, bool checkpoint)
{
    if (checkpoint && durability == ENG_DURABLE_NONE)
        OK(eng_checkpoint(eng, NULL, 0, true));
    eng_close(&eng);
    open_engine(recovery);
}

/* Round `_i`: a history of its own. */
static void random_history(uint64_t seed, int rounds, unsigned steps_max)
{
    state = seed;
    make_keys();
    struct tree *kept[KEPT] = {0}, *now = tree_new();
    struct eng_snapshot *held[KEPT] = {0};
    for (int round = 1; round <= rounds; round++) {
        now = random_batch(now, (uint64_t)round, 1 + (unsigned)(rnd() % steps_max));
        check_shape();
        int at = round % KEPT;
        if (held[at])
            eng_snapshot_close(&held[at]);
        kept[at] = now;
        if (rnd() % (crowded ? 12 : 3) == 0)
            held[at] = head();
        int old = (int)(rnd() % KEPT);
        if (held[old])
            same(held[old], kept[old]);
        if (rnd() % 2)
            OK(eng_drop_below(eng, 0, (uint64_t)round - (crowded ? 0 : rnd() % 3)));
        if (rnd() % 4 == 0)
            audit();
        if (rnd() % 8 == 0) {
            for (int i = 0; i < KEPT; i++)
                eng_snapshot_close(&held[i]);
            bool rebuild = rnd() % 3 == 0;
            reopen(rebuild ? ENG_RECOVER_REBUILD : ENG_RECOVER_VERIFY, true);
            audit();
        } else if (rnd() % 8 == 0) {
            OK(eng_checkpoint(eng, NULL, 0, true));
            OK(eng_compact(eng, 75));
        }
        struct eng_snapshot *snapshot = head();
        ck_assert_uint_eq(eng_snapshot_tag(snapshot), (uint64_t)round);
        same(snapshot, now);
        eng_snapshot_close(&snapshot);
    }
    for (int i = 0; i < KEPT; i++)
        eng_snapshot_close(&held[i]);
    OK(eng_drop_below(eng, 0, (uint64_t)rounds));
    audit();
    struct eng_batch *batch = begin(); /* in the end all of it goes */
    OK(eng_batch_remove_range(batch, NULL, 0, NULL, 0));
    commit(&batch, (uint64_t)rounds + 1);
    OK(eng_drop_below(eng, 0, (uint64_t)rounds + 1));
    audit();
    ck_assert_uint_eq(eng->store->bases.live, 0);
    struct store_statistics statistics;
    store_stats(eng->store, &statistics);
    ck_assert_uint_eq(statistics.ids_live, 0);
    free_trees();
}

START_TEST(random_histories)
{
    random_history(0x9e3779b97f4a7c15ull * (uint64_t)(_i + 1), 12, _i % 2 ? 12 : 60);
}
END_TEST

/* A place is used for this and that, so trees are taken out of others that go, or that were cloned. */
START_TEST(crowded_histories)
{
    crowded = true;
    keys_used = 6;
    random_history(0x9e3779b97f4a7c15ull * (uint64_t)(_i + 1), 40, _i % 2 ? 6 : 14);
}
END_TEST

START_TEST(random_histories_from_the_log)
{
    crowded = _i % 2;
    keys_used = crowded ? 6 : KEYS;
    eng_close(&eng);
    disk_close(&disk);
    OK(disk_sim_open(0, &disk));
    durability = ENG_DURABLE_FSYNC;
    open_engine(ENG_RECOVER_AUTO);
    state = 0xd1b54a32d192ed03ull * (uint64_t)(_i + 1);
    make_keys();
    struct tree *now = tree_new();
    for (int round = 1; round <= 10; round++) {
        now = random_batch(now, (uint64_t)round, 1 + (unsigned)(rnd() % 40));
        if (rnd() % 4)
            continue;
        struct disk *after; /* the machine stops: what is in no checkpoint comes out of the log */
        OK(disk_sim_crash(disk, rnd(), &after));
        eng->failed = ENG_IO; /* no checkpoint on the way out */
        eng_close(&eng);
        disk_close(&disk);
        disk = after;
        open_engine(rnd() % 2 ? ENG_RECOVER_AUTO : ENG_RECOVER_VERIFY);
        struct eng_snapshot *snapshot = head();
        ck_assert_uint_eq(eng_snapshot_tag(snapshot), (uint64_t)round);
        same(snapshot, now);
        eng_snapshot_close(&snapshot);
        audit();
        if (rnd() % 2)
            OK(eng_checkpoint(eng, NULL, 0, true));
    }
    free_trees();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("subtree");
    TCase *tests = tcase_create("subtree");
    tcase_set_timeout(tests, 240);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, trees_hang_in_trees);
    tcase_add_test(tests, what_would_be_no_tree_is_refused);
    tcase_add_test(tests, another_commit_meanwhile_is_a_conflict);
    tcase_add_test(tests, clones_share_and_give_back);
    tcase_add_loop_test(tests, random_histories, 0, 120);
    tcase_add_test(tests, a_tree_outlives_what_it_was_in);
    tcase_add_test(tests, digests_of_what_a_clone_removed_are_forgotten);
    tcase_add_loop_test(tests, crowded_histories, 0, 150);
    tcase_add_loop_test(tests, random_histories_from_the_log, 0, 80);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
