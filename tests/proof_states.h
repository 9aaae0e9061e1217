/* Two random versions of a store, and what is in them, for tests of proofs: an older one (tag 1) and a newer one made
 * of it by random changes (tag 2). */
#ifndef TESTS_PROOF_STATES_H
#define TESTS_PROOF_STATES_H

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "pando/engine.h"
#include "pando/proof.h"
#include "pando/verify.h"

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())
#define STATE_KEYS_MAX 600

struct state_entry {
    uint8_t key[40];
    size_t key_bytes;
    enum eng_tag tag;
    uint8_t value[200];
    size_t value_bytes;
};

struct state {
    struct state_entry entries[STATE_KEYS_MAX]; /* in key order */
    size_t count;
    struct eng_snapshot *snapshot;
};

struct states {
    uint64_t random;
    unsigned style; /* of keys */
    struct state older, newer;
    struct disk *disk;
    struct eng *eng;
};

static inline uint64_t states_random(struct states *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static inline int states_compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* Random bytes; few different ones, many prefixes of each other; a row of one letter. */
static inline size_t states_key(struct states *s, uint8_t key[40])
{
    static const uint8_t letters[] = {0, 1, 127, 128, 255};
    size_t bytes = s->style == 0 ? 8 : 1 + states_random(s) % (s->style == 1 ? 12 : 40);
    for (size_t i = 0; i < bytes; i++)
        key[i] = s->style == 0 ? (uint8_t)states_random(s) : s->style == 1 ? letters[states_random(s) % 5] : 'a';
    return bytes;
}

static inline void states_value(struct states *s, struct state_entry *e)
{
    e->tag = states_random(s) % 3 ? ENG_AMOUNT : ENG_BYTES;
    e->value_bytes = e->tag == ENG_AMOUNT ? 16 : states_random(s) % sizeof e->value;
    for (size_t j = 0; j < e->value_bytes; j++)
        e->value[j] = (uint8_t)states_random(s);
}

/* The place of a key, or where it would be. */
static inline size_t state_find(const struct state *state, const uint8_t *key, size_t key_bytes, bool *found)
{
    size_t i = 0;
    int order = 1;
    while (i < state->count &&
           (order = states_compare(state->entries[i].key, state->entries[i].key_bytes, key, key_bytes)) < 0)
        i++;
    *found = i < state->count && order == 0;
    return i;
}

static inline void state_put(struct state *state, const struct state_entry *e)
{
    bool found;
    size_t i = state_find(state, e->key, e->key_bytes, &found);
    if (!found) {
        ck_assert_uint_lt(state->count, STATE_KEYS_MAX);
        memmove(&state->entries[i + 1], &state->entries[i], (state->count++ - i) * sizeof *e);
    }
    state->entries[i] = *e;
}

static inline void state_remove(struct state *state, size_t i)
{
    memmove(&state->entries[i], &state->entries[i + 1], (--state->count - i) * sizeof *state->entries);
}

static inline struct eng_value state_value(const struct state_entry *e)
{
    return (struct eng_value){e->tag, e->value, e->value_bytes};
}

/* Writes into a batch, or a tree in it, what makes from into to. */
static inline void states_write(struct eng_batch *batch, const struct state *from, const struct state *to)
{
    bool found;
    for (size_t i = 0; i < from->count; i++) {
        (void)state_find(to, from->entries[i].key, from->entries[i].key_bytes, &found);
        if (!found)
            OK(eng_batch_remove(batch, from->entries[i].key, from->entries[i].key_bytes));
    }
    for (size_t i = 0; i < to->count; i++)
        OK(eng_batch_put(batch, to->entries[i].key, to->entries[i].key_bytes, state_value(&to->entries[i])));
}

/* The two models, without a store. */
static inline void states_model(struct states *s, uint64_t seed)
{
    memset(s, 0, sizeof *s);
    s->random = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
    for (int i = 0; i < 8; i++)
        states_random(s);
    s->style = (unsigned)(states_random(s) % 3);
    size_t wanted = states_random(s) % 4 ? states_random(s) % 400 : states_random(s) % 4;
    for (size_t i = 0; i < wanted; i++) {
        struct state_entry e;
        e.key_bytes = states_key(s, e.key);
        states_value(s, &e);
        state_put(&s->older, &e);
    }
    s->newer = s->older;
    size_t changes = states_random(s) % 5 == 0 ? 0 : states_random(s) % (states_random(s) % 3 ? 12 : 150);
    if (states_random(s) % 16 == 0)
        s->newer.count = 0;
    for (size_t i = 0; i < changes; i++) {
        uint64_t what = states_random(s) % 3;
        struct state_entry e;
        size_t at = s->newer.count ? states_random(s) % s->newer.count : 0;
        if (what == 0 && s->newer.count) {
            state_remove(&s->newer, at);
            continue;
        }
        if (what == 1 && s->newer.count)
            e = s->newer.entries[at];
        else
            e.key_bytes = states_key(s, e.key);
        states_value(s, &e);
        state_put(&s->newer, &e);
    }
}

static inline void states_store(struct states *s)
{
    OK(disk_sim_open(0, &s->disk));
    struct eng_options options = {.disk = s->disk,
                                  .create = true,
                                  .inline_only = true,
                                  .segment_bytes = 64u << 10,
                                  .leaf_bytes = 64u << states_random(s) % 5};
    OK(eng_open(&options, &s->eng));
}

static inline void states_make(struct states *s, uint64_t seed)
{
    states_model(s, seed);
    states_store(s);
    static const struct state nothing;
    for (unsigned tag = 1; tag <= 2; tag++) {
        struct eng_batch *batch;
        OK(eng_batch_open(s->eng, 0, NULL, &batch));
        states_write(batch, tag == 1 ? &nothing : &s->older, tag == 1 ? &s->older : &s->newer);
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
    }
    OK(eng_snapshot_open(s->eng, 0, 1, &s->older.snapshot));
    OK(eng_snapshot_open(s->eng, 0, 2, &s->newer.snapshot));
}

static inline void states_drop(struct states *s)
{
    eng_snapshot_close(&s->older.snapshot);
    eng_snapshot_close(&s->newer.snapshot);
    eng_close(&s->eng);
    disk_close(&s->disk);
}

/* A key of either version, one near it, or any. */
static inline size_t states_some_key(struct states *s, uint8_t key[40])
{
    const struct state *state = states_random(s) % 2 ? &s->older : &s->newer;
    if (!state->count || states_random(s) % 4 == 0)
        return states_key(s, key);
    const struct state_entry *e = &state->entries[states_random(s) % state->count];
    memcpy(key, e->key, e->key_bytes);
    size_t bytes = states_random(s) % 4 ? e->key_bytes : 1 + states_random(s) % e->key_bytes;
    if (states_random(s) % 4 == 0)
        key[bytes - 1] ^= (uint8_t)(1u << states_random(s) % 8);
    return bytes;
}

struct states_range {
    uint8_t from[41], to[41];
    size_t from_bytes, to_bytes; /* 0: open */
};

static inline void states_some_range(struct states *s, struct states_range *r)
{
    if (states_random(s) % 4 == 0) { /* one key */
        r->from_bytes = states_some_key(s, r->from);
        memcpy(r->to, r->from, r->from_bytes);
        r->to[r->from_bytes] = 0;
        r->to_bytes = r->from_bytes + 1;
        return;
    }
    do {
        r->from_bytes = states_random(s) % 5 ? states_some_key(s, r->from) : 0;
        r->to_bytes = states_random(s) % 5 ? states_some_key(s, r->to) : 0;
    } while (r->from_bytes && r->to_bytes && states_compare(r->from, r->from_bytes, r->to, r->to_bytes) >= 0);
}

static inline bool state_same(const struct state_entry *e, enum proof_tag tag, const uint8_t *value, size_t value_bytes)
{
    return (int)e->tag == (int)tag && e->value_bytes == value_bytes && memcmp(e->value, value, value_bytes) == 0;
}

/* Is what a verified proof says of keys true of a state? */
static inline bool state_keys_true(const struct state *state, struct verify_result *result)
{
    struct verify_key key;
    uint32_t count = 0;
    for (; verify_next(result, &key); count++) {
        bool found;
        size_t at = state_find(state, key.key, key.key_bytes, &found);
        if (found != key.present || (found && !state_same(&state->entries[at], key.tag, key.value, key.value_bytes)))
            return false;
    }
    return count == result->key_count && count > 0;
}

/* Is what a verified proof says of a difference true of two states? */
static inline bool states_diff_true(const struct states *s, struct verify_result *result)
{
    size_t a = 0, b = 0;
    uint64_t count = 0;
    uint64_t sum[3] = {0};
    for (;;) {
        const struct state_entry *x = a < s->older.count ? &s->older.entries[a] : NULL;
        const struct state_entry *y = b < s->newer.count ? &s->newer.entries[b] : NULL;
        if (!x && !y)
            break;
        int order = !x ? 1 : !y ? -1 : states_compare(x->key, x->key_bytes, y->key, y->key_bytes);
        a += order <= 0;
        b += order >= 0;
        const struct state_entry *e = order <= 0 ? x : y;
        if ((result->from && states_compare(e->key, e->key_bytes, result->from, result->from_bytes) < 0) ||
            (result->to && states_compare(e->key, e->key_bytes, result->to, result->to_bytes) >= 0))
            continue;
        if (order == 0 && state_same(x, (enum proof_tag)y->tag, y->value, y->value_bytes))
            continue;
        struct verify_key key;
        if (!verify_next(result, &key) || states_compare(key.key, key.key_bytes, e->key, e->key_bytes) != 0 ||
            key.was_present != (order <= 0) || key.present != (order >= 0))
            return false;
        if (key.was_present && !state_same(x, key.old_tag, key.old_value, key.old_value_bytes))
            return false;
        if (key.present && !state_same(y, key.tag, key.value, key.value_bytes))
            return false;
        count++;
        for (int side = 0; side < 2; side++) {
            e = side ? y : x;
            if (!(side ? key.present : key.was_present) || e->tag != ENG_AMOUNT)
                continue;
            uint64_t amount[3];
            memcpy(amount, e->value, 16);
            amount[2] = (uint64_t)((int64_t)amount[1] >> 63);
            if (!side) { /* less */
                for (int i = 0; i < 3; i++)
                    amount[i] = ~amount[i];
                digest_sum_add(amount, amount, (const uint64_t[3]){1, 0, 0});
            }
            digest_sum_add(sum, sum, amount);
        }
    }
    struct verify_key more;
    return result->count == count && memcmp(result->sum, sum, 24) == 0 && !verify_next(result, &more);
}

static inline int states_run(const char *name, void (*add)(TCase *all))
{
    Suite *suite = suite_create(name);
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 240);
    add(all);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

#endif
