/*
 * Proofs inside subtrees: random depths, every kind of inner proof, older and newer states; bits flipped, levels left
 * out, exchanged, of another tree. The summaries of the trees are checked against the flat oracle of digests.
 */
#include "proof_states.h"

#include "digest_oracle.h"

#define DEPTH_MAX 5

static struct states s;
static struct eng_snapshot *outer[2][DEPTH_MAX + 1]; /* of each version, from the outermost in */
static uint8_t way[DEPTH_MAX][40];
static size_t way_bytes[DEPTH_MAX];
static size_t depth;

/* Beside the tree of each level there are some entries, some of them changed by the second version. */
static void write_level(struct eng_batch *batch, unsigned tag, size_t level)
{
    for (uint8_t i = 0; i < 1 + 7 * (level % 2); i++) {
        const uint8_t key[2] = {'n', i}, value[2] = {(uint8_t)(tag == 2 && i == 3), (uint8_t)level};
        OK(eng_batch_put(batch, key, 2, (struct eng_value){ENG_BYTES, value, 2}));
    }
}

static void make(uint64_t seed)
{
    states_model(&s, seed);
    states_store(&s);
    depth = 1 + states_random(&s) % DEPTH_MAX;
    for (size_t i = 0; i < depth; i++) {
        way_bytes[i] = 1 + states_random(&s) % 3;
        for (size_t j = 0; j < way_bytes[i]; j++)
            way[i][j] = (uint8_t)('k' + states_random(&s) % 6);
    }
    static const struct state nothing;
    for (unsigned tag = 1; tag <= 2; tag++) {
        struct eng_batch *batch, *at;
        OK(eng_batch_open(s.eng, 0, NULL, &batch));
        at = batch;
        for (size_t i = 0; i < depth; i++) {
            write_level(at, tag, i);
            OK(eng_batch_tree(at, way[i], way_bytes[i], tag == 1, &at));
        }
        states_write(at, tag == 1 ? &nothing : &s.older, tag == 1 ? &s.older : &s.newer);
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
        struct eng_snapshot **snapshots = outer[tag - 1];
        OK(eng_snapshot_open(s.eng, 0, tag, &snapshots[0]));
        for (size_t i = 0; i < depth; i++)
            OK(eng_snapshot_tree(snapshots[i], way[i], way_bytes[i], &snapshots[i + 1]));
    }
    s.older.snapshot = outer[0][depth];
    s.newer.snapshot = outer[1][depth];
}

static void drop(void)
{
    for (int v = 0; v < 2; v++)
        for (size_t i = 0; i <= depth; i++)
            eng_snapshot_close(&outer[v][i]);
    eng_close(&s.eng);
    disk_close(&s.disk);
}

static void inner_proof(enum proof_kind kind, struct proof_blob *inner)
{
    struct states_range r;
    uint8_t bytes[3][40];
    const uint8_t *keys[3] = {bytes[0], bytes[1], bytes[2]};
    size_t key_bytes[3];
    states_some_range(&s, &r);
    const uint8_t *from = r.from_bytes ? r.from : NULL, *to = r.to_bytes ? r.to : NULL;
    if (kind == PROOF_DIFF) {
        OK(eng_prove_diff(s.older.snapshot, s.newer.snapshot, from, r.from_bytes, to, r.to_bytes, 0, inner));
    } else if (kind == PROOF_MANY) {
        for (int i = 0; i < 3; i++)
            key_bytes[i] = states_some_key(&s, bytes[i]);
        OK(eng_prove_many(s.newer.snapshot, keys, key_bytes, 3, inner));
    } else {
        OK(proof_state_range(s.newer.snapshot, from, r.from_bytes, to, r.to_bytes, kind == PROOF_RANGE, inner));
    }
}

static void levels_of(struct proof_level levels[2][DEPTH_MAX])
{
    for (int v = 0; v < 2; v++)
        for (size_t i = 0; i < depth; i++)
            levels[v][i] = (struct proof_level){outer[v][i], way[i], way_bytes[i]};
}

static void prove(enum proof_kind kind, struct proof_blob *inner, struct proof_blob *nested)
{
    struct proof_level levels[2][DEPTH_MAX];
    levels_of(levels);
    inner_proof(kind, inner);
    OK(eng_prove_nested(levels[1], kind == PROOF_DIFF ? levels[0] : NULL, depth, inner, nested));
}

static struct verify_options roots(enum proof_kind kind)
{
    return (struct verify_options){.root = eng_snapshot_summary(outer[1][0])->digest,
                                   .older_root = kind == PROOF_DIFF ? eng_snapshot_summary(outer[0][0])->digest : NULL};
}

/* Is what is said of the innermost tree true? */
static bool is_true(struct verify_result *result)
{
    if (result->inner == PROOF_DIFF)
        return states_diff_true(&s, result);
    if (result->inner == PROOF_MANY)
        return state_keys_true(&s.newer, result);
    struct states fresh = s; /* a range is what differs from an empty state */
    fresh.older.count = 0;
    if (result->inner == PROOF_RANGE)
        return states_diff_true(&fresh, result);
    struct eng_totals totals;
    OK(eng_totals(s.newer.snapshot, result->from, result->from_bytes, result->to, result->to_bytes, &totals));
    return totals.count == result->count && memcmp(totals.sum, result->sum, 24) == 0;
}

static const enum proof_kind kinds[] = {PROOF_RANGE, PROOF_TOTALS, PROOF_MANY, PROOF_DIFF};

START_TEST(true_of_subtrees)
{
    make((uint64_t)_i + 1);
    for (int k = 0; k < 8; k++) {
        enum proof_kind kind = kinds[k % 4];
        struct verify_options options = roots(kind);
        struct proof_blob inner, nested;
        struct verify_result result;
        prove(kind, &inner, &nested);
        ck_assert_msg(verify_state(nested.bytes, nested.size, &options, &result) == VERIFY_OK, "%s", result.reason);
        ck_assert_int_eq(result.kind, PROOF_NESTED);
        ck_assert_int_eq(result.inner, kind);
        ck_assert_uint_eq(result.levels, depth);
        for (uint32_t i = 0; i < depth; i++) {
            struct verify_key key;
            verify_level(&result, i, &key);
            ck_assert_int_eq(states_compare(key.key, key.key_bytes, way[i], way_bytes[i]), 0);
            ck_assert(memcmp(key.value, eng_snapshot_summary(outer[1][i + 1]), 64) == 0);
            ck_assert_int_eq(key.was_present, kind == PROOF_DIFF);
            if (kind == PROOF_DIFF)
                ck_assert(memcmp(key.old_value, eng_snapshot_summary(outer[0][i + 1]), 64) == 0);
        }
        ck_assert(is_true(&result));
        struct verify_expected through[DEPTH_MAX];
        for (size_t i = 0; i < depth; i++)
            through[i] = (struct verify_expected){way[i], way_bytes[i]};
        options.levels = through;
        options.level_count = depth;
        ck_assert_int_eq(verify_state(nested.bytes, nested.size, &options, &result), VERIFY_OK);
        options.level_count = 0; /* said of the state itself? no */
        ck_assert_int_eq(verify_state(nested.bytes, nested.size, &options, &result), VERIFY_LEVELS);
        through[depth - 1].key_bytes--;
        options.level_count = depth;
        ck_assert_int_eq(verify_state(nested.bytes, nested.size, &options, &result), VERIFY_LEVELS);
        proof_blob_free(&inner);
        proof_blob_free(&nested);
    }
    drop();
}
END_TEST

START_TEST(no_bit_can_be_flipped_into_a_lie)
{
    make((uint64_t)_i + 201);
    enum proof_kind kind = kinds[_i % 4];
    struct verify_options options = roots(kind);
    struct proof_blob inner, nested;
    struct verify_result result;
    prove(kind, &inner, &nested);
    size_t bits = nested.size * 8, chains = 8 * (nested.size - inner.size);
    size_t step = bits > 40000 ? bits / 40000 + 1 : 1;
    for (size_t bit = states_random(&s) % step; bit < bits; bit += step) {
        nested.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (verify_state(nested.bytes, nested.size, &options, &result) == VERIFY_OK) {
            ck_assert_uint_ge(bit, chains); /* no bit of a chain */
            ck_assert(is_true(&result));
        }
        nested.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t size = 0; size < nested.size; size += 1 + nested.size / 500)
        ck_assert_int_ne(verify_state(nested.bytes, size, &options, &result), VERIFY_OK);
    const uint8_t other[32] = {1};
    options.root = other;
    ck_assert_int_eq(verify_state(nested.bytes, nested.size, &options, &result), VERIFY_ROOT);
    proof_blob_free(&inner);
    proof_blob_free(&nested);
    drop();
}
END_TEST

/* Chains that do not fit together. */
START_TEST(what_does_not_fit_is_refused)
{
    for (uint64_t seed = 1; depth != 3; seed++) {
        if (depth)
            drop();
        make(seed);
    }
    struct proof_level levels[2][DEPTH_MAX];
    struct proof_blob inner, nested;
    struct verify_result result;
    levels_of(levels);
    inner_proof(PROOF_RANGE, &inner);
    struct proof_level skipped[2] = {levels[1][0], levels[1][2]},
                       swapped[3] = {levels[1][0], levels[1][2], levels[1][1]};
    OK(eng_prove_nested(skipped, NULL, 2, &inner, &nested));
    ck_assert_int_eq(verify_state(nested.bytes, nested.size, NULL, &result), VERIFY_SUMMARY);
    proof_blob_free(&nested);
    OK(eng_prove_nested(swapped, NULL, 3, &inner, &nested));
    ck_assert_int_eq(verify_state(nested.bytes, nested.size, NULL, &result), VERIFY_SUMMARY);
    proof_blob_free(&nested);
    OK(eng_prove_nested(levels[1], NULL, 2, &inner, &nested)); /* said of the tree above the innermost */
    ck_assert_int_eq(verify_state(nested.bytes, nested.size, NULL, &result), VERIFY_SUMMARY);
    proof_blob_free(&nested);
    OK(eng_prove_nested(levels[1], NULL, 3, &inner, &nested));
    ck_assert_int_eq(verify_state(nested.bytes, nested.size, NULL, &result), VERIFY_OK);
    /* what the maker refuses */
    struct proof_blob twice;
    ck_assert_int_eq(eng_prove_nested(levels[1], NULL, 3, &nested, &twice), ENG_INVALID);
    ck_assert_int_eq(eng_prove_nested(levels[1], levels[0], 3, &inner, &twice), ENG_INVALID);
    ck_assert_int_eq(eng_prove_nested(levels[1], NULL, 0, &inner, &twice), ENG_INVALID);
    levels[1][1].key = (const uint8_t *)"absent";
    levels[1][1].key_bytes = 6;
    ck_assert_int_eq(eng_prove_nested(levels[1], NULL, 3, &inner, &twice), ENG_INVALID);
    proof_blob_free(&nested);
    proof_blob_free(&inner);
    drop();
    depth = 0;
}
END_TEST

/* The tree's value, as the oracle has it, is what the proof of its key has. */
START_TEST(as_the_oracle_says)
{
    make(3);
    struct oracle_entry entries[STATE_KEYS_MAX];
    for (size_t i = 0; i < s.newer.count; i++) {
        const struct state_entry *e = &s.newer.entries[i];
        entries[i] = (struct oracle_entry){e->key, e->key_bytes, (uint8_t)e->tag, e->value, e->value_bytes};
    }
    struct oracle_summary tree;
    oracle_summary(entries, s.newer.count, &tree);
    struct proof_blob inner, nested;
    struct verify_result result;
    struct verify_key key;
    prove(PROOF_RANGE, &inner, &nested);
    ck_assert_int_eq(verify_state(nested.bytes, nested.size, NULL, &result), VERIFY_OK);
    verify_level(&result, (uint32_t)depth - 1, &key);
    ck_assert_uint_eq(key.value_bytes, sizeof tree);
    ck_assert(memcmp(key.value, &tree, sizeof tree) == 0);
    proof_blob_free(&inner);
    proof_blob_free(&nested);
    drop();
}
END_TEST

static void add(TCase *all)
{
    tcase_add_loop_test(all, true_of_subtrees, 0, 60);
    tcase_add_loop_test(all, no_bit_can_be_flipped_into_a_lie, 0, 16);
    tcase_add_test(all, what_does_not_fit_is_refused);
    tcase_add_test(all, as_the_oracle_says);
}

int main(void)
{
    return states_run("proofs in subtrees", add);
}
