/*
 * Proofs of many keys at once: random sets of present and absent keys against a sorted array; bits flipped, cut short,
 * other roots; smaller than a proof of each.
 */
#include "proof_states.h"

#define ASKED_MAX 64

static struct states s;
static uint8_t asked[ASKED_MAX][40];
static const uint8_t *keys[ASKED_MAX];
static size_t key_bytes[ASKED_MAX];

static size_t ask(struct proof_blob *proof)
{
    size_t count = 1 + states_random(&s) % (states_random(&s) % 2 ? 3 : ASKED_MAX);
    for (size_t i = 0; i < count; i++) {
        key_bytes[i] = states_some_key(&s, asked[i]);
        keys[i] = asked[i];
    }
    OK(eng_prove_many(s.newer.snapshot, keys, key_bytes, count, proof));
    return count;
}

START_TEST(true_of_random_keys)
{
    states_make(&s, (uint64_t)_i + 1);
    struct verify_options options = {.root = eng_snapshot_summary(s.newer.snapshot)->digest};
    for (int i = 0; i < 30; i++) {
        struct proof_blob proof;
        struct verify_result result;
        size_t count = ask(&proof), distinct = 0;
        struct verify_expected expected[ASKED_MAX];
        ck_assert_msg(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "%s", result.reason);
        struct verify_result again = result;
        ck_assert(state_keys_true(&s.newer, &again));
        struct verify_key key;
        for (again = result; verify_next(&again, &key);)
            expected[distinct++] = (struct verify_expected){key.key, key.key_bytes};
        for (size_t a = 0; a < count; a++) { /* all that were asked, and no others */
            bool found = false;
            for (size_t b = 0; b < distinct; b++)
                found |= states_compare(keys[a], key_bytes[a], expected[b].key, expected[b].key_bytes) == 0;
            ck_assert(found);
        }
        ck_assert_uint_le(distinct, count);
        struct verify_options strict = {.root = options.root, .keys = expected, .key_count = distinct};
        ck_assert_int_eq(verify_state(proof.bytes, proof.size, &strict, &again), VERIFY_OK);
        strict.key_count--;
        ck_assert_int_eq(verify_state(proof.bytes, proof.size, &strict, &again), VERIFY_KEYS);
        proof_blob_free(&proof);
    }
    states_drop(&s);
}
END_TEST

/* With the root known whatever a changed proof still proves is true; with the keys expected, no bit can be changed. */
START_TEST(no_bit_can_be_flipped_into_a_lie)
{
    states_make(&s, (uint64_t)_i + 301);
    struct verify_options options = {.root = eng_snapshot_summary(s.newer.snapshot)->digest};
    struct proof_blob proof;
    struct verify_result result;
    struct verify_expected expected[ASKED_MAX];
    ask(&proof);
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_OK);
    uint8_t *honest = malloc(proof.size);
    memcpy(honest, proof.bytes, proof.size);
    struct verify_options strict = {.root = options.root, .keys = expected};
    struct verify_key key;
    while (verify_next(&result, &key)) /* pointing into the bytes that stay as they are */
        expected[strict.key_count++] = (struct verify_expected){honest + (key.key - proof.bytes), key.key_bytes};
    size_t bits = proof.size * 8, step = bits > 40000 ? bits / 40000 + 1 : 1;
    for (size_t bit = states_random(&s) % step; bit < bits; bit += step) {
        proof.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK)
            ck_assert(state_keys_true(&s.newer, &result));
        ck_assert_int_ne(verify_state(proof.bytes, proof.size, &strict, &result), VERIFY_OK);
        proof.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t size = 0; size < proof.size; size += 1 + proof.size / 500)
        ck_assert_int_ne(verify_state(proof.bytes, size, &options, &result), VERIFY_OK);
    const uint8_t other[32] = {1};
    options.root = other;
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_ROOT);
    proof_blob_free(&proof);
    free(honest);
    states_drop(&s);
}
END_TEST

/* A way cut off, and a part that nobody asked for. */
START_TEST(what_must_be_there)
{
    states_make(&s, 4);
    ck_assert_uint_gt(s.newer.count, 20);
    struct proof_blob proof;
    struct verify_result result;
    struct verify_options options = {.root = eng_snapshot_summary(s.newer.snapshot)->digest};
    const struct state_entry *first = &s.newer.entries[0], *last = &s.newer.entries[s.newer.count - 1];
    keys[0] = first->key;
    keys[1] = last->key;
    key_bytes[0] = first->key_bytes;
    key_bytes[1] = last->key_bytes;
    OK(eng_prove_many(s.newer.snapshot, keys, key_bytes, 2, &proof));
    /* the first key alone, with the trie of both: part of it is nobody's */
    size_t gone = 2 + last->key_bytes, trie = 5 + 2 + first->key_bytes;
    uint8_t *forged = malloc(proof.size);
    memcpy(forged, proof.bytes, trie);
    forged[1] = 1;
    memcpy(forged + trie, proof.bytes + trie + gone, proof.size - trie - gone);
    ck_assert_int_eq(verify_state(forged, proof.size - gone, &options, &result), VERIFY_OPENED);
    /* both keys, and the whole state left out */
    struct eng_summary summary = *eng_snapshot_summary(s.newer.snapshot);
    memcpy(forged, proof.bytes, trie + gone);
    forged[trie + gone] = 2;
    memcpy(forged + trie + gone + 1, &summary, 64);
    ck_assert_int_eq(verify_state(forged, trie + gone + 65, &options, &result), VERIFY_PRUNED);
    free(forged);
    proof_blob_free(&proof);
    ck_assert_int_eq(eng_prove_many(s.newer.snapshot, keys, key_bytes, 0, &proof), ENG_INVALID);
    ck_assert_int_eq(eng_prove_many(s.newer.snapshot, keys, key_bytes, PROOF_MANY_KEYS_MAX + 1, &proof), ENG_INVALID);
    key_bytes[1] = 0;
    ck_assert_int_eq(eng_prove_many(s.newer.snapshot, keys, key_bytes, 2, &proof), ENG_INVALID);
    states_drop(&s);
}
END_TEST

static void add(TCase *all)
{
    tcase_add_loop_test(all, true_of_random_keys, 0, 80);
    tcase_add_loop_test(all, no_bit_can_be_flipped_into_a_lie, 0, 16);
    tcase_add_test(all, what_must_be_there);
}

int main(void)
{
    return states_run("proofs of many keys", add);
}
