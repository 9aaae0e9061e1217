/*
 * Fuzzes the verifier of proofs that are tries (ranges, totals, many keys, differences, subtrees) for crashes and for
 * lies: whatever verifies against the roots of two known states must be true of them.
 *
 * The first byte of an input chooses: 0: the rest is a state proof; else one of the honest proofs, which is edited as
 * the rest says, 4 bytes each: where (16 bits, modulo the size), what (xor, insert, delete, copy a stretch from
 * elsewhere), with what.
 *
 *   cmake -DCMAKE_C_COMPILER=clang -DPANDO_FUZZ=ON -DPANDO_SANITIZE=fuzzer-no-link,address,undefined ...
 *   tests/fuzz_verify_trie -max_total_time=60 -max_len=4096
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pando/engine.h"
#include "pando/proof.h"
#include "pando/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HONEST 12
#define ROOM 65536

struct item {
    const char *key, *before, *after; /* NULL: absent */
};

/* In key order. */
static const struct item items[] = {
    {"a", "1", "1"},  {"aa", "2", "2"},         {"aaa", NULL, "new"},     {"ab", "old", NULL},
    {"b", "3", "3"},  {"balances/a", "4", "5"}, {"balances/b", "6", "6"}, {"c", "7", "7"},
    {"cc", "8", "8"}, {"d", NULL, "9"},         {"~", "10", "10"},
};
#define ITEMS (sizeof items / sizeof *items)

static struct eng_snapshot *outer[2], *inner[2];
static struct proof_blob honest[HONEST];

static void must(enum eng_status status)
{
    assert(status == ENG_OK);
}

/* The items at the top, and beside them a tree with the same ones. */
static void write_items(struct eng_batch *batch, bool after)
{
    for (size_t i = 0; i < ITEMS; i++) {
        const char *value = after ? items[i].after : items[i].before;
        const uint8_t *key = (const uint8_t *)items[i].key;
        if (value)
            must(eng_batch_put(batch, key, strlen(items[i].key),
                               (struct eng_value){ENG_BYTES, (const uint8_t *)value, strlen(value)}));
        else
            must(eng_batch_remove(batch, key, strlen(items[i].key)));
    }
}

static void make_states(void)
{
    struct disk *disk;
    struct eng *eng;
    must(disk_sim_open(0, &disk));
    struct eng_options options = {
        .disk = disk, .create = true, .inline_only = true, .segment_bytes = 64u << 10, .leaf_bytes = 128};
    must(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 2; tag++) {
        struct eng_batch *batch, *tree;
        must(eng_batch_open(eng, 0, NULL, &batch));
        must(eng_batch_tree(batch, (const uint8_t *)"tree", 4, tag == 1, &tree));
        write_items(batch, tag == 2);
        write_items(tree, tag == 2);
        must(eng_batch_freeze(batch));
        must(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
        must(eng_snapshot_open(eng, 0, tag, &outer[tag - 1]));
        must(eng_snapshot_tree(outer[tag - 1], (const uint8_t *)"tree", 4, &inner[tag - 1]));
    }
}

/* Five proofs of the two states; nested: of the trees. */
static void make_proofs(struct eng_snapshot *const states[2], struct proof_blob proofs[5])
{
    const uint8_t *keys[] = {(const uint8_t *)"aa", (const uint8_t *)"ax", (const uint8_t *)"~"};
    const size_t key_bytes[] = {2, 2, 1};
    const uint8_t *from = (const uint8_t *)"ab", *to = (const uint8_t *)"cc";
    must(eng_prove_many(states[1], keys, key_bytes, 3, &proofs[0]));
    must(proof_state_range(states[1], from, 2, to, 2, true, &proofs[1]));
    must(proof_state_range(states[1], from, 2, to, 2, false, &proofs[2]));
    must(eng_prove_diff(states[0], states[1], NULL, 0, NULL, 0, 0, &proofs[3]));
    must(eng_prove_diff(states[0], states[1], from, 2, to, 2, 0, &proofs[4]));
}

static void make(void)
{
    struct proof_blob trees[5];
    make_states();
    make_proofs(outer, honest);
    make_proofs(inner, trees);
    const struct proof_level older = {outer[0], (const uint8_t *)"tree", 4}, newer = {outer[1], older.key, 4};
    for (int i = 0; i < 5; i++) {
        must(eng_prove_nested(&newer, i >= 3 ? &older : NULL, 1, &trees[i], &honest[5 + i]));
        proof_blob_free(&trees[i]);
    }
    must(eng_prove_diff(outer[0], outer[1], (const uint8_t *)"c", 1, (const uint8_t *)"c\0", 2, 0, &honest[10]));
    must(eng_prove_diff(outer[0], outer[0], NULL, 0, NULL, 0, 0, &honest[11]));
}

/* ---- is it true? ---- */

static int order_of(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static bool is_within(const struct verify_result *result, const uint8_t *key, size_t key_bytes)
{
    return (!result->from || order_of(key, key_bytes, result->from, result->from_bytes) >= 0) &&
           (!result->to || order_of(key, key_bytes, result->to, result->to_bytes) < 0);
}

static bool is_value(const char *text, const uint8_t *value, size_t value_bytes)
{
    return strlen(text) == value_bytes && memcmp(text, value, value_bytes) == 0;
}

static const struct item *find(const uint8_t *key, size_t key_bytes)
{
    for (size_t i = 0; i < ITEMS; i++)
        if (order_of((const uint8_t *)items[i].key, strlen(items[i].key), key, key_bytes) == 0)
            return &items[i];
    return NULL;
}

static bool is_tree(const struct verify_key *key)
{
    return key->key_bytes == 4 && memcmp(key->key, "tree", 4) == 0;
}

/* same: both states are the older one. */
static void check_truth(struct verify_result *result, bool same)
{
    bool top = result->levels == 0, difference = result->inner == PROOF_DIFF;
    uint64_t expected = 0, said = 0;
    for (size_t i = 0; i < ITEMS; i++) {
        const struct item *item = &items[i];
        const char *after = same ? item->before : item->after;
        bool changed = !item->before != !after || (after && strcmp(item->before, after) != 0);
        if (is_within(result, (const uint8_t *)item->key, strlen(item->key)))
            expected += difference ? changed : after != NULL;
    }
    if (top && is_within(result, (const uint8_t *)"tree", 4))
        expected += !same;
    struct verify_key key;
    for (; verify_next(result, &key); said++) {
        if (top && is_tree(&key)) {
            assert(key.present && key.tag == PROOF_TAG_TREE &&
                   memcmp(key.value, eng_snapshot_summary(inner[1]), 64) == 0 &&
                   (!difference || memcmp(key.old_value, eng_snapshot_summary(inner[0]), 64) == 0));
            continue;
        }
        const struct item *item = find(key.key, key.key_bytes);
        const char *after = item ? item->after : NULL, *before = item ? item->before : NULL;
        assert(key.present == (after != NULL) && (!after || is_value(after, key.value, key.value_bytes)));
        if (difference)
            assert(key.was_present == (before != NULL) &&
                   (!before || is_value(before, key.old_value, key.old_value_bytes)));
    }
    if (result->inner == PROOF_KEYS || result->inner == PROOF_MANY)
        assert(said == result->key_count && said > 0);
    else
        assert(result->count == expected && (result->inner == PROOF_TOTALS || said == expected));
}

/* ---- inputs ---- */

static size_t edit(uint8_t *bytes, size_t size, const uint8_t *data, size_t data_bytes)
{
    for (size_t i = 0; i + 4 <= data_bytes && size > 0; i += 4) {
        size_t at = (data[i] | (size_t)data[i + 1] << 8) % size, rest = size - at;
        uint8_t with = data[i + 3];
        if (data[i + 2] % 4 == 0) {
            bytes[at] ^= with;
        } else if (data[i + 2] % 4 == 1 && size < ROOM) {
            memmove(bytes + at + 1, bytes + at, rest);
            bytes[at] = with;
            size++;
        } else if (data[i + 2] % 4 == 2) {
            memmove(bytes + at, bytes + at + 1, rest - 1);
            size--;
        } else {
            size_t from = (at * 31 + with) % size, most = size - (from > at ? from : at);
            memmove(bytes + at, bytes + from, most < with ? most : with);
        }
    }
    return size;
}

static void try(const uint8_t *bytes, size_t size, bool same)
{
    const struct verify_options options = {.root = eng_snapshot_summary(outer[same ? 0 : 1])->digest};
    struct verify_result result;
    enum verify_status status = verify_state(bytes, size, &options, &result);
    assert((status == VERIFY_OK) == (result.reason[0] == 0));
    bool older = status == VERIFY_OK && result.inner == PROOF_DIFF
                     ? memcmp(result.older_root, eng_snapshot_summary(outer[0])->digest, 32) == 0
                     : !same;
    if (status == VERIFY_OK && older)
        check_truth(&result, same);
    /* Without a root any trie of one's own verifies; it must still be read safely. */
    status = verify_state(bytes, size, NULL, &result);
    struct verify_key key;
    for (uint32_t i = 0; status == VERIFY_OK && i < result.levels; i++)
        verify_level(&result, i, &key);
    while (status == VERIFY_OK && verify_next(&result, &key))
        assert(key.key_bytes >= 1 && key.key_bytes <= PROOF_KEY_BYTES_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t room[ROOM];
    if (!outer[0]) {
        make();
        for (size_t i = 0; i < HONEST; i++) /* the honest ones are accepted */
            assert(verify_state(honest[i].bytes, honest[i].size, NULL, &(struct verify_result){0}) == VERIFY_OK);
    }
    if (size == 0)
        return 0;
    const struct proof_blob *base = data[0] ? &honest[data[0] % HONEST] : NULL;
    size_t bytes = base ? base->size : size - 1;
    if (bytes > ROOM)
        return 0;
    memcpy(room, base ? base->bytes : data + 1, bytes);
    if (base)
        bytes = edit(room, bytes, data + 1, size - 1);
    uint8_t *exact = malloc(bytes ? bytes : 1); /* no byte more, so that reads beyond are seen */
    assert(exact);
    memcpy(exact, room, bytes);
    try(exact, bytes, false);
    try(exact, bytes, true);
    free(exact);
    return 0;
}
