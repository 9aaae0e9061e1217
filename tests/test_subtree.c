/*
 * Subtrees, by hand: trees as values, moved, cloned, replaced, dropped; what versions see of them, and the space that
 * comes back. Histories against a model are in test_subtree_history.c.
 */
#include "subtree_fixture.h"

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

static struct eng_snapshot *inside(struct eng_snapshot *snapshot, const char *key)
{
    struct eng_snapshot *tree;
    OK(eng_snapshot_tree(snapshot, K(key), &tree));
    return tree;
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

/* Two trees that change their places with each other are two levels, however often they do; also in a replay. */
START_TEST(levels_are_those_there_are)
{
    struct eng_batch *batch = begin(), *a, *b;
    const char *name[2] = {"a", "b"};
    if (_i) {
        eng_batch_close(&batch);
        with_log();
        batch = begin();
    }
    OK(eng_batch_tree(batch, K("a"), true, &a));
    put(a, "x", "1");
    OK(eng_batch_tree(a, K("in"), true, &b));
    put(b, "y", "2");
    commit(&batch, 1);
    for (uint64_t i = 0; i < 4 * ENG_TREE_DEPTH_MAX; i++) {
        batch = begin();
        for (unsigned times = i % 3 == 2 ? 40 : 1; times > 0; times--) {
            OK(eng_batch_tree_take(batch, (const uint8_t *)name[0], 1, &a));
            OK(eng_batch_tree_take(a, K("in"), &b));
            OK(eng_batch_tree_put(b, K("in"), a));
            OK(eng_batch_tree_put(batch, (const uint8_t *)name[1], 1, b));
            const char *swap = name[0];
            name[0] = name[1];
            name[1] = swap;
        }
        commit(&batch, i + 2);
        if (i % 20 == 19)
            _i ? crash(ENG_RECOVER_AUTO) : reopen(i / 20 % 2 ? ENG_RECOVER_REBUILD : ENG_RECOVER_AUTO, true);
    }
    audit();
}
END_TEST

/* A chain of trees is turned round in one batch. */
START_TEST(levels_are_those_of_the_batch)
{
    struct eng_batch *batch = begin(), *deep = batch, *chain[20];
    for (unsigned i = 0; i < 20; i++)
        OK(eng_batch_tree(deep, K("d"), true, &deep));
    commit(&batch, 1);
    for (uint64_t tag = 2; tag < 6; tag++) {
        deep = batch = begin();
        for (unsigned i = 0; i < 20; i++) {
            OK(eng_batch_tree_take(deep, K("d"), &chain[i]));
            deep = chain[i];
        }
        for (unsigned i = 1; i < 20; i++)
            OK(eng_batch_tree_put(chain[i], K("d"), chain[i - 1]));
        OK(eng_batch_tree_put(batch, K("d"), chain[19]));
        commit(&batch, tag);
    }
    audit();
}
END_TEST

/* Levels are counted after a tree lost some, then it gets them back. `_i`: whether all had been written before, and
 * whether what goes is taken out or removed. */
START_TEST(a_rollback_brings_levels_back)
{
    struct eng_batch *batch = begin(), *a, *b, *chain[ENG_TREE_DEPTH_MAX + 1] = {batch}, *taken;
    OK(eng_batch_tree(batch, K("a"), true, &a));
    OK(eng_batch_tree(a, K("b"), true, &b));
    for (unsigned i = 0; i < ENG_TREE_DEPTH_MAX; i++)
        OK(eng_batch_tree(chain[i], K("d"), true, &chain[i + 1]));
    commit(&batch, 1);
    for (unsigned last = 3; last < ENG_TREE_DEPTH_MAX; last += 7) {
        chain[0] = batch = begin();
        OK(eng_batch_tree(batch, K("a"), false, &a));
        OK(eng_batch_tree(a, K("b"), false, &b));
        for (unsigned i = 0; i < last; i++)
            OK(eng_batch_tree(chain[i], K("d"), false, &chain[i + 1]));
        if (_i & 1)
            put(chain[last], "written", "before");
        uint64_t mark = eng_batch_mark(batch);
        if (_i & 2)
            OK(eng_batch_remove(chain[last], K("d")));
        else
            OK(eng_batch_tree_take(chain[last], K("d"), &taken));
        OK(eng_batch_tree_take(batch, K("d"), &taken));
        OK(eng_batch_tree_put(a, K("d"), taken)); /* as many levels as it now has */
        eng_batch_rollback(batch, mark);
        for (unsigned i = 2; i > 0; i--) { /* a level deeper than they were is one too many */
            OK(eng_batch_tree_take(chain[i - 1], K("d"), &taken));
            ck_assert_int_eq(eng_batch_tree_put(i == 1 ? a : b, K("d"), taken), ENG_TOO_LARGE);
            OK(eng_batch_tree_put(chain[i - 1], K("d"), taken));
        }
        commit(&batch, last);
    }
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

/* The tree is cloned and the clone goes: the base it leaves is taken back at the next commit. */
static void clone_and_drop(uint64_t *tag)
{
    struct eng_batch *batch = begin(), *tree, *clone;
    OK(eng_batch_tree(batch, K("t"), false, &tree));
    OK(eng_batch_tree_clone(tree, &clone));
    OK(eng_batch_tree_put(batch, K("clone"), clone));
    put(tree, "k/small", "1"); /* the leaf is new, its large value the base's */
    commit(&batch, ++*tag);
    batch = begin();
    OK(eng_batch_remove(batch, K("clone")));
    commit(&batch, ++*tag);
    OK(eng_drop_below(eng, 0, *tag));
}

/* What falls, and waits to be looked at, may name what its base had: which was killed when the base was taken back. */
START_TEST(what_falls_does_not_free_what_a_base_had)
{
    static char large[150];
    memset(large, 'v', sizeof large - 1);
    uint64_t tag = 0;
    struct eng_batch *batch = begin(), *tree;
    OK(eng_batch_tree(batch, K("t"), true, &tree));
    put(tree, "k/large", large);
    commit(&batch, ++tag);
    clone_and_drop(&tag);
    clone_and_drop(&tag);
    batch = begin();
    OK(eng_batch_tree(batch, K("t"), false, &tree));
    OK(eng_batch_remove_range(tree, NULL, 0, NULL, 0));
    commit(&batch, ++tag);
    batch = begin();
    OK(eng_batch_tree(batch, K("t"), false, &tree));
    put(tree, "x", "y");
    commit(&batch, ++tag);
    for (int i = 0; i < 300; i++) { /* ids are used again */
        char key[16];
        snprintf(key, sizeof key, "n%d", i);
        batch = begin();
        put(batch, key, large);
        commit(&batch, ++tag);
        OK(eng_drop_below(eng, 0, _i ? tag : tag - 100));
    }
    OK(eng_drop_below(eng, 0, tag));
    audit();
    reopen(ENG_RECOVER_VERIFY, true);
    audit();
}
END_TEST

/* Versions that come and go cost nothing for what waits for another one, and what waits for them does not wait on. */
START_TEST(what_waits_is_looked_at_when_it_may_be_due)
{
    struct reaper *reaper = &eng->store->reaper;
    struct eng_batch *batch = begin(), *tree;
    OK(eng_batch_tree(batch, K("t"), true, &tree));
    put(tree, "a", "b");
    commit(&batch, 1);
    struct eng_snapshot *held = head();
    batch = begin();
    OK(eng_batch_remove(batch, K("t")));
    commit(&batch, 2);
    ck_assert_uint_eq(reaper->waiting_count, 1);
    reaper->waiting[0].lineage = 9; /* has no versions: one look, and it is due */
    for (uint64_t tag = 3; tag <= 20; tag++) {
        batch = begin();
        if (tag == 20) {
            OK(eng_batch_tree(batch, K("u"), true, &tree));
            put(tree, "a", "b");
        }
        commit(&batch, tag);
        OK(eng_drop_below(eng, 0, tag));
        ck_assert_uint_eq(reaper->waiting_count, 1);
        ck_assert_uint_eq(reaper->due_count, 0);
    }
    reaper->waiting[0].lineage = 0;
    batch = begin();
    OK(eng_batch_remove(batch, K("u")));
    commit(&batch, 21);
    ck_assert_uint_eq(reaper->waiting_count, 2);
    OK(eng_drop_below(eng, 0, 21));
    ck_assert_uint_eq(reaper->waiting_count, 1);
    eng_snapshot_close(&held);
    batch = begin();
    commit(&batch, 22);
    OK(eng_drop_below(eng, 0, 22));
    ck_assert_uint_eq(reaper->waiting_count, 0);
    audit();
    struct eng_statistics statistics;
    eng_stats(eng, &statistics);
    ck_assert_uint_eq(statistics.objects, 0);
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
    tcase_add_loop_test(tests, levels_are_those_there_are, 0, 2);
    tcase_add_test(tests, levels_are_those_of_the_batch);
    tcase_add_loop_test(tests, a_rollback_brings_levels_back, 0, 4);
    tcase_add_test(tests, another_commit_meanwhile_is_a_conflict);
    tcase_add_test(tests, clones_share_and_give_back);
    tcase_add_test(tests, a_tree_outlives_what_it_was_in);
    tcase_add_test(tests, digests_of_what_a_clone_removed_are_forgotten);
    tcase_add_loop_test(tests, what_falls_does_not_free_what_a_base_had, 0, 2);
    tcase_add_test(tests, what_waits_is_looked_at_when_it_may_be_due);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
