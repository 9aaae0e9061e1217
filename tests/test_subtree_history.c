/*
 * Histories of subtrees, against a model: a tree of sorted arrays.
 *
 * Random batches write into random trees at any depth, open, create, take, put and clone trees, remove ranges with
 * trees in them, mark and roll back; after every commit the root is the flat oracle's, every tree is found in a
 * snapshot with the model's contents, the store's own check finds every tree canonical, and after every few no object
 * and no hold is lost (store_audit). Versions are held, dropped, re-read, and the store reopened: from its checkpoint,
 * from its log, and by a rebuild.
 */
#include "digest_oracle.h"
#include "subtree_fixture.h"

#define KEYS 40
#define VALUE_MAX 200
#define HANDLES_MAX 60
#define KEPT 5

static int keys_used = KEYS; /* that histories use */
static bool crowded;         /* histories of few keys, with more trees and less else */

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
    with_log();
    state = 0xd1b54a32d192ed03ull * (uint64_t)(_i + 1);
    make_keys();
    struct tree *now = tree_new();
    for (int round = 1; round <= 10; round++) {
        now = random_batch(now, (uint64_t)round, 1 + (unsigned)(rnd() % 40));
        if (rnd() % 4)
            continue;
        crash(rnd() % 2 ? ENG_RECOVER_AUTO : ENG_RECOVER_VERIFY);
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
    Suite *suite = suite_create("subtree history");
    TCase *tests = tcase_create("subtree history");
    tcase_set_timeout(tests, 240);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, random_histories, 0, 120);
    tcase_add_loop_test(tests, crowded_histories, 0, 150);
    tcase_add_loop_test(tests, random_histories_from_the_log, 0, 80);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
