/*
 * Making a proof of many keys (pando/verify.h, kind 4): the logical trie in pre-order, opened on the ways of all asked
 * keys, pruned elsewhere.
 *
 * The keys are sorted and each is taken once. A part of the trie has a group of them, those on whose way it lies; at
 * each node the group is parted by the node's bit. A part without a group is its summary; the others are opened down to
 * the entries, which are whole if one of their group is their own key.
 *
 * Ways to fail: damage, memory, a proof over PROOF_BYTES_MAX. Nothing is kept.
 */
#include "proof_trie.h"

#include <stdlib.h>

struct asked {
    const uint8_t *key;
    size_t key_bytes;
};

struct part {
    struct trie_part at;
    uint32_t first, last; /* its group: keys [first, last) */
};

struct making {
    struct store *store;
    struct asked *keys;
    uint32_t count;
    struct part *stack;
    size_t depth, capacity;
    struct proof_out out;
    uint8_t path[ENG_KEY_BYTES_MAX]; /* key bytes above the part at hand */
};

static int by_key(const void *a, const void *b)
{
    const struct asked *x = a, *y = b;
    return bytes_compare(x->key, x->key_bytes, y->key, y->key_bytes);
}

/* Sorted, each once, and written. */
static enum eng_status take_keys(struct making *m, const uint8_t *const keys[], const size_t key_bytes[], size_t count)
{
    m->keys = malloc(count * sizeof *m->keys);
    if (!m->keys)
        return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
    for (size_t i = 0; i < count; i++) {
        if (key_bytes[i] < 1 || key_bytes[i] > ENG_KEY_BYTES_MAX)
            return eng_fail(ENG_INVALID, "proof: key number %zu is of a length that no key has", i);
        m->keys[i] = (struct asked){keys[i], key_bytes[i]};
    }
    qsort(m->keys, count, sizeof *m->keys, by_key);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || by_key(&m->keys[i], &m->keys[m->count - 1]) != 0)
            m->keys[m->count++] = m->keys[i];
    enum eng_status status = proof_put(&m->out, &m->count, sizeof m->count);
    for (uint32_t i = 0; i < m->count && status == ENG_OK; i++)
        status = proof_put_key(&m->out, m->keys[i].key, m->keys[i].key_bytes);
    return status;
}

static enum eng_status push(struct making *m, const struct trie_part *at, uint32_t first, uint32_t last)
{
    if (m->depth == m->capacity) {
        size_t want = m->capacity ? 2 * m->capacity : 256;
        struct part *grown = realloc(m->stack, want * sizeof *grown);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
        m->stack = grown;
        m->capacity = want;
    }
    m->stack[m->depth++] = (struct part){*at, first, last};
    return ENG_OK;
}

static enum eng_status take_sides(struct making *m, const struct part *part)
{
    struct trie_part sides[2];
    uint32_t bit = trie_sides(&part->at, sides), middle = part->first;
    for (uint32_t i = part->first; i < part->last; i++) {
        struct asked asked = m->keys[i];
        if (digest_bit(asked.key, asked.key_bytes, bit))
            continue;
        m->keys[i] = m->keys[middle];
        m->keys[middle++] = asked;
    }
    enum eng_status status = proof_put_inner(&m->out, bit);
    if (status == ENG_OK)
        status = push(m, &sides[1], middle, part->last);
    return status == ENG_OK ? push(m, &sides[0], part->first, middle) : status;
}

static enum eng_status take_part(struct making *m)
{
    struct part part = m->stack[--m->depth];
    if (part.first == part.last) {
        struct eng_summary summary;
        enum eng_status status = trie_summary(m->store, &part.at, m->path, &summary);
        return status == ENG_OK ? proof_put_summary(&m->out, PROOF_TOKEN_PRUNED, &summary) : status;
    }
    enum eng_status status = trie_open(m->store, &part.at, m->path);
    if (status != ENG_OK)
        return status;
    if (!trie_is_entry(&part.at))
        return take_sides(m, &part);
    struct trie_item item;
    status = trie_item(m->store, &part.at, m->path, &item);
    if (status != ENG_OK)
        return status;
    bool asked = false;
    for (uint32_t i = part.first; i < part.last; i++)
        asked |= bytes_compare(m->keys[i].key, m->keys[i].key_bytes, item.key, item.key_bytes) == 0;
    return proof_put_item(&m->out, asked, &item);
}

static enum eng_status walk(struct making *m, struct eng_snapshot *snapshot)
{
    if (!snapshot->version.root)
        return proof_put_token(&m->out, PROOF_TOKEN_NOTHING);
    struct trie_part root = {.id = snapshot->version.root};
    enum eng_status status = push(m, &root, 0, m->count);
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    while (status == ENG_OK && m->depth)
        status = take_part(m);
    reader_leave(reader);
    return status;
}

enum eng_status eng_prove_many(struct eng_snapshot *snapshot, const uint8_t *const keys[], const size_t key_bytes[],
                               size_t count, struct proof_blob *state)
{
    *state = (struct proof_blob){NULL, 0};
    if (count < 1 || count > PROOF_MANY_KEYS_MAX)
        return eng_fail(ENG_INVALID, "proof: %zu keys, 1 to %u can be proven at once", count, PROOF_MANY_KEYS_MAX);
    struct making *m = calloc(1, sizeof *m);
    if (!m)
        return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
    m->store = snapshot->eng->store;
    m->out.max = PROOF_BYTES_MAX;
    enum eng_status status = proof_put(&m->out, &(uint8_t){PROOF_MANY}, 1);
    if (status == ENG_OK)
        status = take_keys(m, keys, key_bytes, count);
    if (status == ENG_OK)
        status = walk(m, snapshot);
    if (status == ENG_OK)
        *state = (struct proof_blob){m->out.bytes, m->out.size};
    else
        free(m->out.bytes);
    free(m->keys);
    free(m->stack);
    free(m);
    return status;
}
