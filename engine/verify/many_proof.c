/*
 * Proofs of many keys: a pruned trie in pre-order, and the ways of all asked keys in it.
 *
 * The asked keys ascend. Those on whose way a node lies are a group; at an inner node the group parts by the node's
 * bit, which says what must be there and what must be pruned: a part is pruned if and only if its group is empty. A
 * group that comes to an entry is the keys that end there: one of them may be the entry's, and then it is whole and
 * that key is present; all others are absent.
 *
 * Ways to fail: the input ends early or goes on; keys that do not ascend, too many of them; a token, length or bit that
 * the format does not have; a way that is cut off, a part that is on nobody's way; no memory (VERIFY_MEMORY).
 *
 * Invariants: bits ascend on the way down, so there are at most PROOF_STEPS_MAX open nodes; the groups of the open
 * nodes lie inside each other, so parting one leaves the order of no other; nothing is read that proof_take() did not
 * grant.
 */
#include <stdlib.h>
#include <string.h>

#include "many_proof.h"
#include "walk.h"

struct asked {
    const uint8_t *key;
    size_t key_bytes;
};

struct node {
    struct trie_summary left;
    uint32_t bit, middle, last; /* the group of the right side is [middle, last) */
    bool right;                 /* the left side is done */
};

struct many {
    struct proof_reader *reader;
    struct asked *keys; /* in the order of the groups */
    struct node *nodes;
    size_t depth, capacity;
    uint32_t first, last; /* the group of the node that comes next */
    struct trie_summary summary;
};

static enum verify_status read_keys(struct many *many, uint32_t count)
{
    many->keys = calloc(count, sizeof *many->keys);
    if (many->keys == NULL)
        return VERIFY_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        struct asked *asked = &many->keys[i], *before = asked - 1;
        const uint8_t *field = many->reader->at;
        enum verify_status status = proof_key_read(many->reader, &asked->key, &asked->key_bytes);
        if (status != VERIFY_OK)
            return status;
        if (i > 0 && walk_compare(before->key, before->key_bytes, asked->key, asked->key_bytes) >= 0) {
            many->reader->at = field;
            return VERIFY_KEY_ORDER;
        }
    }
    many->last = count;
    return VERIFY_OK;
}

/* Parts the group by a bit: those with 0 first. Returns where the others begin. */
static uint32_t part(struct many *many, uint32_t bit)
{
    uint32_t middle = many->first;
    for (uint32_t i = many->first; i < many->last; i++) {
        struct asked asked = many->keys[i];
        if (trie_bit(asked.key, asked.key_bytes, bit))
            continue;
        many->keys[i] = many->keys[middle];
        many->keys[middle++] = asked;
    }
    return middle;
}

static enum verify_status open_inner(struct many *many)
{
    const uint8_t *field = proof_take(many->reader, 4);
    if (field == NULL)
        return VERIFY_TRUNCATED;
    uint32_t bit = trie_u32(field);
    if (bit >= PROOF_STEPS_MAX)
        return VERIFY_BIT_RANGE;
    if (many->depth && bit <= many->nodes[many->depth - 1].bit)
        return VERIFY_BIT_ORDER;
    if (many->first == many->last)
        return VERIFY_OPENED;
    if (many->depth == many->capacity) {
        size_t want = many->capacity ? 2 * many->capacity : 64;
        struct node *grown = realloc(many->nodes, want * sizeof *grown);
        if (grown == NULL)
            return VERIFY_MEMORY;
        many->nodes = grown;
        many->capacity = want;
    }
    uint32_t middle = part(many, bit);
    many->nodes[many->depth++] = (struct node){.bit = bit, .middle = middle, .last = many->last};
    many->last = middle;
    return VERIFY_OK;
}

static enum verify_status take_entry(struct many *many, bool whole)
{
    struct trie_entry entry;
    enum verify_status status = proof_entry_read(many->reader, whole, &entry);
    if (status != VERIFY_OK)
        return status;
    if (many->first == many->last)
        return VERIFY_OPENED;
    bool asked = false;
    for (uint32_t i = many->first; i < many->last; i++)
        asked |= walk_compare(many->keys[i].key, many->keys[i].key_bytes, entry.key, entry.key_bytes) == 0;
    trie_entry_summary(&entry, &many->summary);
    return whole == asked ? VERIFY_OK : VERIFY_ENTRY;
}

static enum verify_status take_pruned(struct many *many)
{
    const uint8_t *summary = proof_take(many->reader, PROOF_SUMMARY_BYTES);
    if (summary == NULL)
        return VERIFY_TRUNCATED;
    memcpy(many->summary.bytes, summary, PROOF_SUMMARY_BYTES);
    if (trie_u64(summary + PROOF_DIGEST_BYTES) == 0)
        return VERIFY_SIBLING;
    return many->first == many->last ? VERIFY_OK : VERIFY_PRUNED;
}

/* A node is complete: to the next one that is to be read; false: there is none. */
static bool close_nodes(struct many *many)
{
    while (many->depth) {
        struct node *node = &many->nodes[many->depth - 1];
        if (!node->right) {
            node->left = many->summary;
            node->right = true;
            many->first = node->middle;
            many->last = node->last;
            return true;
        }
        trie_combine(&many->summary, node->left.bytes, node->bit, 1);
        many->depth--;
    }
    return false;
}

static enum verify_status walk_many(struct many *many)
{
    for (;;) {
        const uint8_t *token = proof_take(many->reader, 1);
        if (token == NULL)
            return VERIFY_TRUNCATED;
        enum verify_status status = VERIFY_FORM;
        if (*token == TOKEN_INNER)
            status = open_inner(many);
        else if (*token == TOKEN_ENTRY || *token == TOKEN_WHOLE)
            status = take_entry(many, *token == TOKEN_WHOLE);
        else if (*token == TOKEN_PRUNED)
            status = take_pruned(many);
        else if (*token == TOKEN_NOTHING && many->depth == 0)
            status = VERIFY_OK; /* the summary is zero */
        if (status != VERIFY_OK)
            return status;
        if (*token != TOKEN_INNER && !close_nodes(many))
            return many->reader->at == many->reader->end ? VERIFY_OK : VERIFY_TRAILING;
    }
}

enum verify_status many_proof_verify(struct proof_reader *reader, struct verify_result *result,
                                     struct trie_summary *root)
{
    const uint8_t *field = proof_take(reader, 4);
    if (field == NULL)
        return VERIFY_TRUNCATED;
    uint32_t count = trie_u32(field);
    if (count == 0 || count > PROOF_MANY_KEYS_MAX) {
        reader->at = field;
        return count == 0 ? VERIFY_NO_KEYS : VERIFY_TOO_LARGE;
    }
    struct many many = {.reader = reader};
    result->next = reader->at;
    enum verify_status status = read_keys(&many, count);
    result->other = reader->at;
    if (status == VERIFY_OK)
        status = walk_many(&many);
    *root = many.summary;
    free(many.nodes);
    free(many.keys);
    result->end = result->other;
    result->other_end = reader->end;
    result->key_count = result->keys_left = count;
    return status;
}

bool many_proof_next(struct proof_reader *keys, struct proof_reader *trie, const uint8_t **key, size_t *key_bytes,
                     struct trie_entry *entry)
{
    bool found = walk_seek(trie, true, false);
    struct proof_reader behind = *trie;
    if (proof_key_read(keys, key, key_bytes) != VERIFY_OK || !found)
        return false;
    (void)walk_entry(&behind, entry);
    if (walk_compare(entry->key, entry->key_bytes, *key, *key_bytes) != 0)
        return false;
    *trie = behind;
    return true;
}
