/*
 * Making proofs about subtrees (pando/verify.h, kind 6): for each level a proof of the key whose value is the next
 * level's summary, then the inner proof as it is.
 *
 * The level's key is proven as any key is (kind 1): its way through the trie is copied out of the engine's callbacks
 * and encoded by proof_state_keys, of whose bytes the kind and the number of keys are left away.
 *
 * Ways to fail: a key whose value is no tree; an inner proof that is nested itself, or of a difference without chains
 * for both states; damage, memory, a proof over PROOF_BYTES_MAX. Nothing is kept.
 */
#include "proof_trie.h"

#include <stdlib.h>

/* Of a state proof of keys, before the first key. */
#define KEYS_HEAD_BYTES 5u

_Static_assert(PROOF_LEVELS_MAX == ENG_TREE_DEPTH_MAX, "the verifier's limits are the engine's");

struct way {
    struct proof_step *steps;
    size_t count, capacity;
    bool failed; /* out of memory */
    bool lands;  /* at the asked key, with a tree */
    const struct proof_level *level;
    struct eng_summary tree;
};

static void note_step(void *context, uint32_t bit, const struct eng_summary *sibling)
{
    struct way *way = context;
    if (way->count == way->capacity) {
        size_t want = way->capacity ? 2 * way->capacity : 64;
        struct proof_step *grown = realloc(way->steps, want * sizeof *grown);
        if (!grown) {
            way->failed = true;
            return;
        }
        way->steps = grown;
        way->capacity = want;
    }
    way->steps[way->count++] = (struct proof_step){bit, *sibling};
}

static void note_landing(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                         const uint8_t *value_digest)
{
    struct way *way = context;
    const struct proof_level *level = way->level;
    way->lands = value->tag == ENG_TREE && bytes_compare(key, key_bytes, level->key, level->key_bytes) == 0;
    if (way->lands)
        memcpy(&way->tree, value->bytes, sizeof way->tree);
}

static enum eng_status put_level(struct proof_out *out, const struct proof_level *level, size_t number)
{
    struct way way = {.level = level};
    if (level->key_bytes < 1 || level->key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "proof: level %zu: a key of a length that no key has", number);
    enum eng_status status = eng_path(level->snapshot, level->key, level->key_bytes, note_step, note_landing, &way);
    if (status == ENG_NOT_FOUND || (status == ENG_OK && !way.lands))
        status = eng_fail(ENG_INVALID, "proof: level %zu: there is no tree at the key", number);
    if (status == ENG_OK && way.failed)
        status = eng_fail(ENG_NO_MEMORY, "proof: out of memory");
    struct proof_key key = {.key = level->key,
                            .key_bytes = level->key_bytes,
                            .path = {.key = level->key,
                                     .key_bytes = level->key_bytes,
                                     .tag = ENG_TREE,
                                     .value = (const uint8_t *)&way.tree,
                                     .value_bytes = sizeof way.tree,
                                     .steps = way.steps,
                                     .step_count = way.count}};
    struct proof_blob blob = {NULL, 0};
    if (status == ENG_OK)
        status = proof_state_keys(&key, 1, &blob);
    if (status == ENG_OK)
        status = proof_put(out, blob.bytes + KEYS_HEAD_BYTES, blob.size - KEYS_HEAD_BYTES);
    proof_blob_free(&blob);
    free(way.steps);
    return status;
}

enum eng_status eng_prove_nested(const struct proof_level *levels, const struct proof_level *older, size_t count,
                                 const struct proof_blob *inner, struct proof_blob *state)
{
    *state = (struct proof_blob){NULL, 0};
    if (count < 1 || count > PROOF_LEVELS_MAX)
        return eng_fail(ENG_INVALID, "proof: %zu levels, 1 to %u can be proven", count, PROOF_LEVELS_MAX);
    if (inner->size < 1 || inner->bytes[0] == PROOF_NESTED)
        return eng_fail(ENG_INVALID, "proof: what is said of the subtree must be a proof that is not nested");
    if ((older != NULL) != (inner->bytes[0] == PROOF_DIFF))
        return eng_fail(ENG_INVALID, "proof: levels of an older state are for differences, and needed for those");
    struct proof_out out = {.max = PROOF_BYTES_MAX};
    const uint8_t head[3] = {PROOF_NESTED, older ? 2 : 1, (uint8_t)count};
    enum eng_status status = proof_put(&out, head, sizeof head);
    for (size_t i = 0; older && i < count && status == ENG_OK; i++)
        status = put_level(&out, &older[i], i);
    for (size_t i = 0; i < count && status == ENG_OK; i++)
        status = put_level(&out, &levels[i], i);
    if (status == ENG_OK)
        status = proof_put(&out, inner->bytes, inner->size);
    if (status == ENG_OK)
        *state = (struct proof_blob){out.bytes, out.size};
    else
        free(out.bytes);
    return status;
}

size_t proof_key_range_end(const uint8_t *key, size_t key_bytes, uint8_t *to)
{
    assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX);
    if (key_bytes == ENG_KEY_BYTES_MAX)
        return key_behind_prefix(key, key_bytes, to);
    memcpy(to, key, key_bytes);
    to[key_bytes] = 0;
    return key_bytes + 1;
}
