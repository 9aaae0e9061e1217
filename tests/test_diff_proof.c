/*
 * Proofs of differences and of what is unchanged: random histories and ranges against two sorted arrays; bits flipped,
 * cut short, other roots, something left out by hand.
 */
#include "proof_states.h"

static struct states s;

static void prove(const struct states_range *r, struct proof_blob *proof)
{
    OK(eng_prove_diff(s.older.snapshot, s.newer.snapshot, r->from_bytes ? r->from : NULL, r->from_bytes,
                      r->to_bytes ? r->to : NULL, r->to_bytes, 0, proof));
}

static struct verify_options roots(void)
{
    return (struct verify_options){.root = eng_snapshot_summary(s.newer.snapshot)->digest,
                                   .older_root = eng_snapshot_summary(s.older.snapshot)->digest};
}

START_TEST(true_of_random_histories)
{
    states_make(&s, (uint64_t)_i + 1);
    struct verify_options options = roots();
    for (int i = 0; i < 40; i++) {
        struct states_range r = {.from_bytes = 0};
        struct proof_blob proof;
        struct verify_result result;
        if (i)
            states_some_range(&s, &r);
        prove(&r, &proof);
        ck_assert_msg(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "%s", result.reason);
        ck_assert_int_eq(result.kind, PROOF_DIFF);
        ck_assert_uint_eq(result.from ? result.from_bytes : 0, r.from_bytes);
        ck_assert_uint_eq(result.to ? result.to_bytes : 0, r.to_bytes);
        ck_assert(memcmp(result.older_root, options.older_root, 32) == 0);
        ck_assert(states_diff_true(&s, &result));
        proof_blob_free(&proof);
    }
    states_drop(&s);
}
END_TEST

/* With both roots known, whatever a changed proof still proves is true, and only its bounds can be changed at all. */
START_TEST(no_bit_can_be_flipped_into_a_lie)
{
    states_make(&s, (uint64_t)_i + 301);
    struct verify_options options = roots();
    for (int i = 0; i < 2; i++) {
        struct states_range r = {.from_bytes = 0};
        struct proof_blob proof;
        struct verify_result result;
        if (i)
            states_some_range(&s, &r);
        prove(&r, &proof);
        size_t bits = proof.size * 8, bounds = 8 * (r.from_bytes + r.to_bytes + 7);
        size_t step = bits > 40000 ? bits / 40000 + 1 : 1;
        for (size_t bit = states_random(&s) % step; bit < bits; bit += step) {
            proof.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            if (verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK) {
                ck_assert_uint_lt(bit, bounds);
                ck_assert(i > 0 && states_diff_true(&s, &result));
            }
            proof.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        for (size_t size = 0; size < proof.size; size += 1 + proof.size / 500)
            ck_assert_int_ne(verify_state(proof.bytes, size, &options, &result), VERIFY_OK);
        proof_blob_free(&proof);
    }
    states_drop(&s);
}
END_TEST

START_TEST(of_these_two_states_only)
{
    states_make(&s, 5);
    ck_assert_uint_gt(s.older.count, 0);
    struct states_range all = {.from_bytes = 0};
    struct proof_blob proof;
    struct verify_result result;
    prove(&all, &proof);
    const uint8_t other[32] = {1};
    struct verify_options options = roots();
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_OK);
    options.root = other;
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_ROOT);
    options = roots();
    options.older_root = other;
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_OLDER_ROOT);
    struct verify_options swapped = {.root = roots().older_root, .older_root = roots().root};
    ck_assert_int_ne(verify_state(proof.bytes, proof.size, &swapped, &result), VERIFY_OK);
    proof_blob_free(&proof);
    /* a proof of something else has no older root */
    OK(proof_state_range(s.newer.snapshot, NULL, 0, NULL, 0, false, &proof));
    options = roots();
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_OLDER_ROOT);
    proof_blob_free(&proof);
    states_drop(&s);
}
END_TEST

/* Every entry of the newer state given as pruned, shared or unchanged by hand instead of as a difference: refused. */
START_TEST(a_difference_left_out_is_refused)
{
    states_model(&s, 9);
    s.style = 0;
    s.older.count = s.newer.count = 0;
    struct state_entry e[2] = {{.key = "aa", .key_bytes = 2, .value_bytes = 1, .value = "x"},
                               {.key = "bb", .key_bytes = 2, .value_bytes = 1, .value = "y"}};
    static const struct state nothing;
    state_put(&s.older, &e[0]);
    state_put(&s.older, &e[1]);
    s.newer = s.older;
    s.newer.entries[1].value[0] = 'z';
    states_store(&s);
    for (unsigned tag = 1; tag <= 2; tag++) {
        struct eng_batch *batch;
        OK(eng_batch_open(s.eng, 0, NULL, &batch));
        states_write(batch, tag == 1 ? &nothing : &s.older, tag == 1 ? &s.older : &s.newer);
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
    }
    OK(eng_snapshot_open(s.eng, 0, 1, &s.older.snapshot));
    OK(eng_snapshot_open(s.eng, 0, 2, &s.newer.snapshot));
    struct states_range all = {.from_bytes = 0};
    struct proof_blob proof;
    struct verify_result result;
    struct verify_options options = roots();
    prove(&all, &proof);
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &options, &result), VERIFY_OK);
    ck_assert_uint_eq(result.count, 1);
    /* kind, two open bounds | inner (5) shared (65) whole (1+2+2+1+4+1) | inner (5) shared (1) whole (11) */
    const size_t older = 3 + 5 + 65, newer = older + 11 + 5 + 1, end = newer + 11;
    ck_assert_uint_eq(proof.size, end);
    uint8_t forged[512];
    for (int what = 0; what < 3; what++) { /* in both tries: pruned, shared, an entry that is not whole */
        size_t size = older;
        memcpy(forged, proof.bytes, older);
        for (int side = 0; side < 2; side++) {
            const struct state *state = side ? &s.newer : &s.older;
            struct eng_summary summary = {.count = 1};
            digest_entry(state->entries[1].key, 2, ENG_BYTES, state->entries[1].value, 1, NULL, summary.digest);
            if (side) { /* the root of the newer trie and what is shared under it */
                memcpy(forged + size, proof.bytes + older + 11, 6);
                size += 6;
            }
            if (what == 2) {
                const uint8_t entry[] = {0, 2, 0, 'b', 'b', 0, 0, 1, state->entries[1].value[0]};
                memcpy(forged + size, entry, sizeof entry);
                size += sizeof entry;
            } else {
                forged[size++] = what ? 5 : 2;
                memcpy(forged + size, &summary, sizeof summary);
                size += what && side ? 0 : sizeof summary;
            }
        }
        ck_assert_int_eq(verify_state(forged, size, &options, &result), what == 0   ? VERIFY_INCOMPLETE
                                                                        : what == 1 ? VERIFY_OPENED
                                                                                    : VERIFY_ENTRY);
    }
    proof_blob_free(&proof);
    /* the same key: given as unchanged */
    ck_assert_int_eq(eng_prove_diff(s.older.snapshot, s.newer.snapshot, NULL, 0, NULL, 0, 40, &proof), ENG_TOO_LARGE);
    states_drop(&s);
}
END_TEST

/* What is shared is not looked at: of few changes the proof is small, however large the states are. */
START_TEST(in_the_size_of_the_difference)
{
    OK(disk_sim_open(0, &s.disk));
    struct eng_options options = {.disk = s.disk, .create = true, .inline_only = true, .segment_bytes = 1u << 20};
    OK(eng_open(&options, &s.eng));
    for (unsigned tag = 1; tag <= 2; tag++) {
        struct eng_batch *batch;
        OK(eng_batch_open(s.eng, 0, NULL, &batch));
        for (uint64_t i = 0; i < (tag == 1 ? 20000u : 1u); i++) {
            uint64_t id = i * 0x9E3779B97F4A7C15ull + 77;
            uint8_t value[8] = {(uint8_t)tag};
            OK(eng_batch_put(batch, (const uint8_t *)&id, 8, (struct eng_value){ENG_BYTES, value, 8}));
        }
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
    }
    OK(eng_snapshot_open(s.eng, 0, 1, &s.older.snapshot));
    OK(eng_snapshot_open(s.eng, 0, 2, &s.newer.snapshot));
    struct states_range all = {.from_bytes = 0};
    struct proof_blob proof;
    struct verify_result result;
    struct verify_options expected = roots();
    prove(&all, &proof);
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &expected, &result), VERIFY_OK);
    ck_assert_uint_eq(result.count, 1);
    ck_assert_uint_lt(proof.size, 2500);
    proof_blob_free(&proof);
    /* another key, unchanged */
    uint64_t id = 5 * 0x9E3779B97F4A7C15ull + 77;
    uint8_t to[ENG_KEY_BYTES_MAX];
    size_t to_bytes = proof_key_range_end((const uint8_t *)&id, 8, to);
    OK(eng_prove_diff(s.older.snapshot, s.newer.snapshot, (const uint8_t *)&id, 8, to, to_bytes, 0, &proof));
    ck_assert_int_eq(verify_state(proof.bytes, proof.size, &expected, &result), VERIFY_OK);
    ck_assert_uint_eq(result.count, 0);
    ck_assert_uint_lt(proof.size, 4000);
    proof_blob_free(&proof);
    states_drop(&s);
}
END_TEST

static void add(TCase *all)
{
    tcase_add_loop_test(all, true_of_random_histories, 0, 120);
    tcase_add_loop_test(all, no_bit_can_be_flipped_into_a_lie, 0, 10);
    tcase_add_test(all, of_these_two_states_only);
    tcase_add_test(all, a_difference_left_out_is_refused);
    tcase_add_test(all, in_the_size_of_the_difference);
}

int main(void)
{
    return states_run("difference proofs", add);
}
