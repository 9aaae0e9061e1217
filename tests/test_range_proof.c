/*
 * Range proofs: contents, counts and sums of random ranges of random states against a sorted array; bits flipped, cut
 * short, forged.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "pando/engine.h"
#include "pando/proof.h"
#include "pando/verify.h"

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())
#define KEYS_MAX 400

struct entry {
    uint8_t key[40];
    size_t key_bytes;
    enum eng_tag tag;
    uint8_t value[300];
    size_t value_bytes;
};

static struct entry model[KEYS_MAX];
static size_t entries;
static uint64_t state;
static struct disk *disk;
static struct eng *eng;
static struct eng_snapshot *snapshot;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return compare(x->key, x->key_bytes, y->key, y->key_bytes);
}

static size_t random_key(unsigned style, uint8_t *key)
{
    static const uint8_t letters[] = {0, 1, 127, 128, 255};
    size_t bytes = style == 0 ? 8 : 1 + rnd() % (style == 1 ? 12 : 40);
    for (size_t i = 0; i < bytes; i++)
        key[i] = style == 0 ? (uint8_t)rnd() : style == 1 ? letters[rnd() % 5] : 'a';
    return bytes;
}

static void make_state(uint64_t seed)
{
    state = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
    for (int i = 0; i < 8; i++)
        rnd();
    unsigned style = (unsigned)(rnd() % 3);
    size_t wanted = rnd() % 4 ? rnd() % KEYS_MAX : rnd() % 4;
    entries = 0;
    for (size_t i = 0; i < wanted; i++) {
        struct entry *e = &model[entries++];
        e->key_bytes = random_key(style, e->key);
        e->tag = rnd() % 3 ? ENG_AMOUNT : ENG_BYTES;
        e->value_bytes = e->tag == ENG_AMOUNT ? 16 : rnd() % 300;
        for (size_t j = 0; j < e->value_bytes; j++)
            e->value[j] = (uint8_t)rnd();
    }
    qsort(model, entries, sizeof *model, by_key);
    size_t unique = 0;
    for (size_t i = 0; i < entries; i++)
        if (!i || by_key(&model[i], &model[unique - 1]) != 0)
            model[unique++] = model[i];
    entries = unique;
    OK(disk_sim_open(0, &disk));
    struct eng_options options = {
        .disk = disk, .create = true, .inline_only = true, .segment_bytes = 64u << 10, .leaf_bytes = 64u << rnd() % 5};
    OK(eng_open(&options, &eng));
    struct eng_batch *batch;
    OK(eng_batch_open(eng, 0, NULL, &batch));
    for (size_t i = 0; i < entries; i++)
        OK(eng_batch_put(batch, model[i].key, model[i].key_bytes,
                         (struct eng_value){model[i].tag, model[i].value, model[i].value_bytes}));
    OK(eng_batch_freeze(batch));
    OK(eng_commit(batch, 1, NULL));
    eng_batch_close(&batch);
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
}

static void drop_state(void)
{
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    disk_close(&disk);
}

struct range {
    uint8_t from[40], to[40];
    size_t from_bytes, to_bytes; /* 0: open */
};

static bool within(const struct range *r, const struct entry *e)
{
    return (!r->from_bytes || compare(e->key, e->key_bytes, r->from, r->from_bytes) >= 0) &&
           (!r->to_bytes || compare(e->key, e->key_bytes, r->to, r->to_bytes) < 0);
}

static size_t random_bound(uint8_t *key)
{
    if (rnd() % 6 == 0)
        return 0;
    if (!entries || rnd() % 3 == 0)
        return random_key((unsigned)(rnd() % 3), key);
    const struct entry *e = &model[rnd() % entries];
    memcpy(key, e->key, e->key_bytes);
    size_t bytes = rnd() % 2 ? e->key_bytes : 1 + rnd() % e->key_bytes;
    if (rnd() % 4 == 0)
        key[bytes - 1] ^= (uint8_t)(1u << rnd() % 8);
    return bytes;
}

static void random_range(struct range *r)
{
    do {
        r->from_bytes = random_bound(r->from);
        r->to_bytes = random_bound(r->to);
    } while (r->from_bytes && r->to_bytes && compare(r->from, r->from_bytes, r->to, r->to_bytes) >= 0);
}

static void prove(const struct range *r, bool contents, struct proof_blob *proof)
{
    OK(proof_state_range(snapshot, r->from_bytes ? r->from : NULL, r->from_bytes, r->to_bytes ? r->to : NULL,
                         r->to_bytes, contents, proof));
}

/* Is what a verified proof says true? By the bounds it names. */
static bool is_true(struct verify_result *result)
{
    struct range r = {.from_bytes = result->from ? result->from_bytes : 0,
                      .to_bytes = result->to ? result->to_bytes : 0};
    if (r.from_bytes > sizeof r.from || r.to_bytes > sizeof r.to)
        return true; /* of no interest: no key of the model is that long, the digest covers the rest */
    if (result->from)
        memcpy(r.from, result->from, r.from_bytes);
    if (result->to)
        memcpy(r.to, result->to, r.to_bytes);
    uint64_t count = 0, sum[3] = {0};
    for (size_t i = 0; i < entries; i++) {
        if (!within(&r, &model[i]))
            continue;
        count++;
        if (model[i].tag == ENG_AMOUNT) {
            uint64_t amount[3];
            memcpy(amount, model[i].value, 16);
            amount[2] = (uint64_t)((int64_t)amount[1] >> 63);
            digest_sum_add(sum, sum, amount);
        }
        struct verify_key key;
        if (result->kind != PROOF_RANGE)
            continue;
        if (!verify_next(result, &key) || key.key_bytes != model[i].key_bytes ||
            memcmp(key.key, model[i].key, key.key_bytes) != 0 || (int)key.tag != (int)model[i].tag ||
            key.value_bytes != model[i].value_bytes || memcmp(key.value, model[i].value, key.value_bytes) != 0)
            return false;
    }
    struct verify_key more;
    return result->count == count && memcmp(result->sum, sum, 24) == 0 && !verify_next(result, &more);
}

START_TEST(true_of_random_ranges)
{
    make_state((uint64_t)_i + 1);
    const uint8_t *root = eng_snapshot_summary(snapshot)->digest;
    for (int i = 0; i < 40; i++) {
        struct range r;
        struct proof_blob proof;
        struct verify_result result;
        random_range(&r);
        prove(&r, i % 2, &proof);
        struct verify_options options = {.root = root};
        ck_assert_msg(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "%s", result.reason);
        ck_assert_int_eq(result.kind, i % 2 ? PROOF_RANGE : PROOF_TOTALS);
        ck_assert_uint_eq(result.from ? result.from_bytes : 0, r.from_bytes);
        ck_assert_uint_eq(result.to ? result.to_bytes : 0, r.to_bytes);
        ck_assert(is_true(&result));
        proof_blob_free(&proof);
    }
    drop_state();
}
END_TEST

/* With the root known, whatever a changed proof still proves is true; cut short it proves nothing. */
START_TEST(no_bit_can_be_flipped_into_a_lie)
{
    make_state((uint64_t)_i + 101);
    const uint8_t *root = eng_snapshot_summary(snapshot)->digest;
    for (int i = 0; i < 2; i++) {
        struct range r;
        struct proof_blob proof;
        struct verify_result result;
        struct verify_options options = {.root = root};
        random_range(&r);
        prove(&r, i % 2, &proof);
        size_t bits = proof.size * 8, step = bits > 60000 ? bits / 60000 + 1 : 1, still = 0;
        for (size_t bit = rnd() % step; bit < bits; bit += step) {
            proof.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            if (verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK) {
                ck_assert(is_true(&result));
                still++;
            }
            proof.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        ck_assert_uint_le(still, 8 * (r.from_bytes + r.to_bytes + 6)); /* only bounds, and the kind, can be moved */
        for (size_t size = 0; size < proof.size; size += 1 + proof.size / 500)
            ck_assert_int_ne(verify_state(proof.bytes, size, &options, &result), VERIFY_OK);
        proof_blob_free(&proof);
    }
    drop_state();
}
END_TEST

/* The pruned node that hides entries is put in place of them by hand. */
START_TEST(a_range_with_a_hole_is_refused)
{
    make_state(7);
    ck_assert_uint_gt(entries, 20);
    struct range r = {.from_bytes = 0}, everything = {.from_bytes = 0};
    memcpy(r.from, model[5].key, r.from_bytes = model[5].key_bytes);
    struct proof_blob honest, other;
    struct verify_result result;
    prove(&everything, false, &honest); /* two pruned nodes: true as totals, a hole as contents */
    struct verify_options options = {.root = eng_snapshot_summary(snapshot)->digest};
    ck_assert_int_eq(verify_state(honest.bytes, honest.size, &options, &result), VERIFY_OK);
    ck_assert_uint_eq(result.count, entries);
    honest.bytes[0] = PROOF_RANGE;
    ck_assert_int_eq(verify_state(honest.bytes, honest.size, &options, &result), VERIFY_INCOMPLETE);
    proof_blob_free(&honest);
    /* the whole state as one pruned node: its digest says nothing of the count beside it */
    uint8_t whole[68] = {PROOF_TOTALS, 0, 0, 2};
    memcpy(whole + 4, eng_snapshot_summary(snapshot), 64);
    whole[4 + 32]++;
    ck_assert_int_eq(verify_state(whole, sizeof whole, &options, &result), VERIFY_INCOMPLETE);
    /* the way of a bound is cut: the same node with a bound */
    prove(&r, false, &other);
    uint8_t forged[256];
    size_t size = 0;
    forged[size++] = PROOF_TOTALS;
    forged[size++] = 1;
    uint16_t bytes = (uint16_t)r.from_bytes;
    memcpy(forged + size, &bytes, 2);
    memcpy(forged + size + 2, r.from, r.from_bytes);
    size += 2 + r.from_bytes;
    forged[size++] = 0;
    forged[size++] = 2;
    memcpy(forged + size, eng_snapshot_summary(snapshot), 64);
    size += 64;
    ck_assert_int_eq(verify_state(forged, size, &options, &result), VERIFY_BOUND);
    proof_blob_free(&other);
    ck_assert_int_eq(proof_state_range(snapshot, r.from, r.from_bytes, r.from, r.from_bytes, true, &other),
                     ENG_INVALID);
    drop_state();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("range proofs");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 240);
    tcase_add_loop_test(all, true_of_random_ranges, 0, 60);
    tcase_add_loop_test(all, no_bit_can_be_flipped_into_a_lie, 0, 6);
    tcase_add_test(all, a_range_with_a_hole_is_refused);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
