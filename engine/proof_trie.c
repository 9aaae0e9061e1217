/*
 * Parts of the logical trie, bounds in it, and the bytes of a proof (proof_trie.h, pando/verify.h).
 *
 * A logical node is a piece of a physical one: the branches of an inner node and the entries of a leaf part at the bits
 * that branches_part and leaf_top_gap tell. Summaries of whole nodes and of parts of leaves are in the nodes; those of
 * parts of inner nodes are computed from their children.
 *
 * Ways to fail: damage, memory, a proof over its limit.
 */
#include "proof_trie.h"

#include <stdlib.h>

/* ---- parts ---- */

static bool is_leaf(const struct trie_part *part)
{
    return part->node->object.type == OBJECT_LEAF;
}

static const struct leaf *leaf_of(const struct trie_part *part)
{
    return (const struct leaf *)part->node;
}

static const struct inner *inner_of(const struct trie_part *part)
{
    return (const struct inner *)part->node;
}

static enum eng_status look(struct store *store, struct trie_part *part, uint8_t *path)
{
    part->node = store_node(store, part->id);
    if (!part->node)
        return ENG_DAMAGED;
    part->lo = 0;
    if (is_leaf(part)) {
        part->hi = (uint16_t)(leaf_of(part)->count - 1u);
        return ENG_OK;
    }
    const struct inner *inner = inner_of(part);
    part->hi = (uint16_t)(inner->branches - 1u);
    memcpy(path + inner->depth, inner_prefix(inner), inner->prefix_bytes);
    return ENG_OK;
}

static struct trie_part child_of(const struct trie_part *part, unsigned branch)
{
    return (struct trie_part){.id = inner_child(inner_of(part))[branch]};
}

enum eng_status trie_open(struct store *store, struct trie_part *part, uint8_t *path)
{
    for (;;) {
        if (!part->node) {
            enum eng_status status = look(store, part, path);
            if (status != ENG_OK)
                return status;
        }
        if (is_leaf(part) || part->lo < part->hi)
            return ENG_OK;
        *part = child_of(part, part->lo);
    }
}

bool trie_is_entry(const struct trie_part *part)
{
    return is_leaf(part) && part->lo == part->hi;
}

uint32_t trie_sides(const struct trie_part *part, struct trie_part sides[2])
{
    uint32_t bit;
    unsigned last;
    if (is_leaf(part)) {
        last = leaf_top_gap(leaf_bit(leaf_of(part)), part->lo, part->hi);
        bit = leaf_bit(leaf_of(part))[last];
    } else {
        const struct inner *inner = inner_of(part);
        last = branches_part(inner_start(inner), inner->own, part->lo, part->hi, inner_child_depth(inner), &bit);
    }
    sides[0] = sides[1] = *part;
    sides[0].hi = (uint16_t)last;
    sides[1].lo = (uint16_t)(last + 1);
    return bit;
}

static size_t leaf_key(const struct leaf *leaf, unsigned index, const uint8_t *path, uint8_t key[ENG_KEY_BYTES_MAX])
{
    struct leaf_entry e = leaf_entry_at(leaf, index);
    unsigned common = leaf->depth + leaf->prefix_bytes;
    memcpy(key, path, leaf->depth);
    memcpy(key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
    memcpy(key + common, e.suffix, e.suffix_bytes);
    return common + e.suffix_bytes;
}

enum eng_status trie_item(struct store *store, const struct trie_part *part, const uint8_t *path,
                          struct trie_item *item)
{
    assert(trie_is_entry(part));
    struct leaf_entry e = leaf_entry_at(leaf_of(part), part->lo);
    item->key_bytes = leaf_key(leaf_of(part), part->lo, path, item->key);
    return tree_value_read(store, &(struct tree_value){e.stored, e.form}, &item->value, &item->digest);
}

enum eng_status trie_summary(struct store *store, const struct trie_part *part, const uint8_t *path,
                             struct eng_summary *out)
{
    if (!part->node) {
        const struct node *node = store_node(store, part->id);
        if (!node)
            return ENG_DAMAGED;
        *out = node->summary;
        return ENG_OK;
    }
    if (!is_leaf(part))
        return inner_summary(store, inner_of(part), part->lo, part->hi, out);
    leaf_summary(leaf_of(part), path, part->lo, part->hi, out);
    return ENG_OK;
}

enum eng_status trie_count(struct store *store, const struct trie_part *part, uint64_t *count)
{
    *count = 0;
    if (part->node && is_leaf(part)) {
        *count = part->hi - part->lo + 1u;
        return ENG_OK;
    }
    for (unsigned i = part->lo; i <= (part->node ? part->hi : part->lo); i++) {
        const struct node *node = store_node(store, part->node ? inner_child(inner_of(part))[i] : part->id);
        if (!node)
            return ENG_DAMAGED;
        *count += node->summary.count;
    }
    return ENG_OK;
}

enum eng_status trie_first(struct store *store, const struct trie_part *part, uint8_t *path,
                           uint8_t key[ENG_KEY_BYTES_MAX], size_t *key_bytes)
{
    struct trie_part at = *part;
    for (;;) {
        if (!at.node) {
            enum eng_status status = look(store, &at, path);
            if (status != ENG_OK)
                return status;
        }
        if (is_leaf(&at))
            break;
        at = child_of(&at, at.lo);
    }
    *key_bytes = leaf_key(leaf_of(&at), at.lo, path, key);
    return ENG_OK;
}

/* ---- bounds ---- */

enum eng_status proof_bounds_set(struct proof_bound bounds[2], const uint8_t *from, size_t from_bytes,
                                 const uint8_t *to, size_t to_bytes)
{
    if ((from && (from_bytes == 0 || from_bytes > ENG_KEY_BYTES_MAX)) ||
        (to && (to_bytes == 0 || to_bytes > ENG_KEY_BYTES_MAX)))
        return eng_fail(ENG_INVALID, "proof: a bound of a length that no key has");
    if (from && to && bytes_compare(from, from_bytes, to, to_bytes) >= 0)
        return eng_fail(ENG_INVALID, "proof: the lower bound is not below the upper one");
    bounds[0] = (struct proof_bound){.key = from, .key_bytes = from_bytes};
    bounds[1] = (struct proof_bound){.key = to, .key_bytes = to_bytes};
    return ENG_OK;
}

static void ignore_step(void *context, uint32_t bit, const struct eng_summary *sibling) {}

static void land(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                 const uint8_t *value_digest)
{
    struct proof_bound *bound = context;
    int order = bytes_compare(key, key_bytes, bound->key, bound->key_bytes);
    bound->differs = order ? digest_first_bit(key, key_bytes, bound->key, bound->key_bytes) : UINT32_MAX;
    bound->landing = order < 0 ? BELOW : NOT_BELOW;
}

enum eng_status proof_bounds_land(struct proof_bound bounds[2], struct eng_snapshot *snapshot)
{
    enum eng_status status = ENG_OK;
    for (unsigned which = 0; which < 2 && status == ENG_OK; which++) {
        struct proof_bound *bound = &bounds[which];
        if (bound->key)
            status = eng_path(snapshot, bound->key, bound->key_bytes, ignore_step, land, bound);
    }
    return status == ENG_NOT_FOUND ? ENG_OK : status; /* the state is empty */
}

void proof_where_root(const struct proof_bound bounds[2], uint8_t where[2])
{
    where[0] = bounds[0].key ? ON_THE_WAY : NOT_BELOW;
    where[1] = bounds[1].key ? ON_THE_WAY : BELOW;
}

void proof_where_side(const struct proof_bound bounds[2], uint32_t bit, unsigned side, uint8_t where[2])
{
    for (unsigned which = 0; which < 2; which++) {
        const struct proof_bound *bound = &bounds[which];
        if (where[which] != ON_THE_WAY)
            continue;
        unsigned own = (unsigned)digest_bit(bound->key, bound->key_bytes, bit);
        if (side != own)
            where[which] = (uint8_t)(bit > bound->differs ? bound->landing : side > own ? NOT_BELOW : BELOW);
    }
}

bool proof_inside(const struct proof_bound bounds[2], const uint8_t *key, size_t key_bytes)
{
    const struct proof_bound *from = &bounds[0], *to = &bounds[1];
    return (!from->key || bytes_compare(key, key_bytes, from->key, from->key_bytes) >= 0) &&
           (!to->key || bytes_compare(key, key_bytes, to->key, to->key_bytes) < 0);
}

/* ---- output ---- */

enum eng_status proof_put(struct proof_out *out, const void *bytes, size_t count)
{
    if (count > out->max - out->size)
        return eng_fail(ENG_TOO_LARGE, "proof: over %zu bytes", out->max);
    if (out->size + count > out->room) {
        size_t want = 2 * (out->size + count);
        uint8_t *grown = realloc(out->bytes, want);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
        out->bytes = grown;
        out->room = want;
    }
    if (count)
        memcpy(out->bytes + out->size, bytes, count);
    out->size += count;
    return ENG_OK;
}

enum eng_status proof_put_token(struct proof_out *out, enum proof_token token)
{
    uint8_t byte = (uint8_t)token;
    return proof_put(out, &byte, 1);
}

enum eng_status proof_put_key(struct proof_out *out, const uint8_t *key, size_t key_bytes)
{
    uint16_t length = (uint16_t)key_bytes;
    enum eng_status status = proof_put(out, &length, 2);
    return status == ENG_OK ? proof_put(out, key, key_bytes) : status;
}

enum eng_status proof_put_bounds(struct proof_out *out, const struct proof_bound bounds[2])
{
    enum eng_status status = ENG_OK;
    for (unsigned which = 0; which < 2 && status == ENG_OK; which++) {
        uint8_t present = bounds[which].key != NULL;
        status = proof_put(out, &present, 1);
        if (status == ENG_OK && present)
            status = proof_put_key(out, bounds[which].key, bounds[which].key_bytes);
    }
    return status;
}

enum eng_status proof_put_inner(struct proof_out *out, uint32_t bit)
{
    enum eng_status status = proof_put_token(out, PROOF_TOKEN_INNER);
    return status == ENG_OK ? proof_put(out, &bit, sizeof bit) : status;
}

enum eng_status proof_put_summary(struct proof_out *out, enum proof_token token, const struct eng_summary *summary)
{
    enum eng_status status = proof_put_token(out, token);
    return status == ENG_OK ? proof_put(out, summary, sizeof *summary) : status;
}

enum eng_status proof_put_item(struct proof_out *out, bool whole, const struct trie_item *item)
{
    const struct eng_value *value = &item->value;
    enum eng_status status = proof_put_token(out, whole ? PROOF_TOKEN_WHOLE : PROOF_TOKEN_ENTRY);
    if (status == ENG_OK)
        status = proof_put_key(out, item->key, item->key_bytes);
    uint8_t head[13] = {(uint8_t)value->tag}; /* the tag, then what says how long the value is */
    size_t head_bytes = 1, bytes = value->size;
    const uint8_t *payload = value->bytes;
    uint64_t length = value->size;
    if (whole) {
        memcpy(head + head_bytes, &length, 4);
        head_bytes += 4;
    } else if (item->digest) {
        head[head_bytes++] = 1;
        memcpy(head + head_bytes, &length, 8);
        head_bytes += 8;
        payload = item->digest;
        bytes = ENG_DIGEST_BYTES;
    } else {
        head[head_bytes++] = 0;
        head[head_bytes++] = (uint8_t)length;
    }
    if (status == ENG_OK)
        status = proof_put(out, head, head_bytes);
    return status == ENG_OK ? proof_put(out, payload, bytes) : status;
}
