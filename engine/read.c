/*
 * Point reads, ranks, and the way through the logical trie (tree.h).
 *
 * A descent compares each node's prefix, picks the branch of the next byte, and at the leaf scans one-byte hashes of
 * the whole key with SIMD before it compares a suffix. In a large tree a point read asks for its leaf before it sets
 * out, where a hint says it lies (hint.h). Control words of children are fetched ahead where a loop knows them.
 */
#include "hint.h"
#include "tree.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint8_t key_hash(const uint8_t *key, size_t key_bytes)
{
    return (uint8_t)XXH3_64bits(key, key_bytes);
}

/* -1: the key is not below this node; otherwise the branch to follow. */
static inline int descend(const struct inner *inner, const uint8_t *key, size_t key_bytes)
{
    unsigned at = inner->depth + inner->prefix_bytes;
    if (inner->prefix_bytes &&
        (key_bytes < at || !bytes_equal(key + inner->depth, inner_prefix(inner), inner->prefix_bytes)))
        return -1;
    if (key_bytes <= at)
        return key_bytes == at && inner->own ? 0 : -1;
    if (inner->branches - inner->own == 256) /* every byte has a branch: the arrays need not be looked at */
        return inner->own + key[at];
    return inner_branch(inner, key[at]);
}

static inline int leaf_lookup(const struct leaf *leaf, const uint8_t *key, size_t key_bytes, uint8_t hash)
{
    unsigned common = leaf->depth + leaf->prefix_bytes;
    if (key_bytes < common || !bytes_equal(key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes))
        return -1;
    return leaf_find(leaf, key + common, key_bytes - common, hash);
}

static inline void prefetch_node(const void *node, unsigned lines)
{
    for (unsigned i = 0; i < lines; i++)
        __builtin_prefetch((const uint8_t *)node + 64 * i);
}

/* One read of 64 on average, in each thread by itself: true if it is one that marks what it looks at as ACTIVE. The
 * distance varies, so that no pattern of reads hides from it. */
static _Thread_local uint32_t sample_left = 1, sample_random = 1;

static inline bool sampled(struct store *store)
{
    if (!store_view(store)->sampled || __builtin_expect(--sample_left != 0, 1))
        return false;
    sample_random = sample_random * 1664525u + 1013904223u;
    sample_left = 32 + (sample_random >> 26);
    return true;
}

/* Lines of a leaf that a point read asks for at once; measured from 3 to all (README). */
#define GET_LEAF_LINES 12u
/* The same of an inner node, and of either where many reads share the memory's attention: the object header (the first
 * line) is not looked at, its type is in the control word. */
#define GET_INNER_LINES 3u
#define MANY_LEAF_LINES 3u
#define MANY_INNER_LINES 2u

/* True if hints are worth while in this tree; *parts: the key byte at which it begins to part. */
static inline bool hints_begin(struct store *store, uint32_t root, unsigned *parts)
{
    const struct node *node = root ? store_node(store, root) : NULL;
    if (!node || node->object.type != OBJECT_INNER || node->summary.count < HINT_ENTRIES_MIN)
        return false;
    *parts = inner_child_depth((const struct inner *)node);
    return true;
}

enum eng_status tree_get(struct store *store, uint32_t root, const uint8_t *key, size_t key_bytes,
                         struct tree_value *value)
{
    const bool touch = sampled(store);
    uint32_t place = 0;
    unsigned parts = 0, from = 0, bits = 0; /* where the root parts, and its child; key bits from there to the leaf */
    struct hint hint = {0};
    if (hints_begin(store, root, &parts)) {
        hint = hint_find(store_view(store)->hints, key, key_bytes, parts);
        if (hint.place)
            prefetch_node(store_view(store)->base + hint.place * 64ull + 64, GET_LEAF_LINES);
    }
    uint8_t hash = key_hash(key, key_bytes);
    for (uint32_t id = root; id;) {
        /* the type is in the control word: the first line of a node is not touched on the way */
        enum object_type type;
        const struct node *node = (const struct node *)store_object_placed(store, id, place, &type);
        if (!node)
            return ENG_DAMAGED;
        if (__builtin_expect(touch, 0))
            store_touch(store, id);
        if (type == OBJECT_LEAF) {
            const struct leaf *leaf = (const struct leaf *)node;
            /* all but the digests, at once: one wait for memory instead of one each for header, hash and entry */
            uint32_t at = store_place_of(store, node);
            if (at != hint.place)
                prefetch_node((const uint8_t *)leaf + 64, GET_LEAF_LINES);
            if (bits)
                hint_learn(&hint, at, from - parts - 1u, bits, hash);
            int found = leaf_lookup(leaf, key, key_bytes, hash);
            if (found < 0)
                return ENG_NOT_FOUND;
            struct leaf_entry e = leaf_entry_at(leaf, (unsigned)found);
            *value = (struct tree_value){e.stored, e.form};
            return ENG_OK;
        }
        const struct inner *inner = (const struct inner *)node;
        prefetch_node((const uint8_t *)inner + 64, GET_INNER_LINES); /* all of a small one */
        int branch = descend(inner, key, key_bytes);
        if (branch < 0)
            return ENG_NOT_FOUND;
        if (id != root) {
            if (!from)
                from = inner_child_depth(inner);
            bits = 8u * (inner_child_depth(inner) - from) + inner_branch_bits(inner, (unsigned)branch);
        }
        id = inner_child(inner)[branch];
        place = inner_place(inner)[branch];
    }
    return ENG_NOT_FOUND;
}

enum eng_status tree_get_many(struct store *store, uint32_t root, size_t count, const uint8_t *const keys[],
                              const size_t key_bytes[], struct tree_value values[])
{
    enum { CONTROL, NODE, ENTRY, DONE } state[TREE_MANY];
    uint32_t id[TREE_MANY];
    const struct node *node[TREE_MANY] = {0};
    enum object_type type[TREE_MANY];
    uint8_t hash[TREE_MANY];
    size_t left = 0;
    uint32_t touch = 0; /* a bit a key */
    assert(count <= TREE_MANY);
    for (size_t i = 0; i < count; i++) {
        values[i] = (struct tree_value){NULL, 0};
        id[i] = root;
        hash[i] = key_hash(keys[i], key_bytes[i]);
        state[i] = root ? CONTROL : DONE;
        left += root != 0;
        touch |= (uint32_t)sampled(store) << i;
    }
    while (left) {
        for (size_t i = 0; i < count; i++) {
            switch (state[i]) {
            case CONTROL: /* its control word was asked for a round ago */
                node[i] = (const struct node *)store_object_type(store, id[i], &type[i]);
                if (!node[i])
                    return ENG_DAMAGED;
                if (__builtin_expect(touch >> i & 1, 0))
                    store_touch(store, id[i]);
                prefetch_node((const uint8_t *)node[i] + 64,
                              type[i] == OBJECT_LEAF ? MANY_LEAF_LINES : MANY_INNER_LINES);
                state[i] = NODE;
                break;
            case NODE:
                if (type[i] == OBJECT_LEAF) {
                    const struct leaf *leaf = (const struct leaf *)node[i];
                    const uint8_t *hashes = leaf_hash(leaf);
                    const uint8_t *at = memchr(hashes, hash[i], leaf->count);
                    if (at) {
                        prefetch_node((const uint8_t *)leaf + leaf_offset(leaf)[at - hashes], 2);
                        prefetch_node(leaf_prefix(leaf), 1);
                        state[i] = ENTRY;
                    } else {
                        state[i] = DONE;
                        left--;
                    }
                } else {
                    const struct inner *inner = (const struct inner *)node[i];
                    int branch = descend(inner, keys[i], key_bytes[i]);
                    if (branch < 0) {
                        state[i] = DONE;
                        left--;
                        break;
                    }
                    id[i] = inner_child(inner)[branch];
                    store_prefetch_control(store, id[i]);
                    state[i] = CONTROL;
                }
                break;
            case ENTRY: {
                const struct leaf *leaf = (const struct leaf *)node[i];
                int found = leaf_lookup(leaf, keys[i], key_bytes[i], hash[i]);
                if (found >= 0) {
                    struct leaf_entry e = leaf_entry_at(leaf, (unsigned)found);
                    values[i] = (struct tree_value){e.stored, e.form};
                }
                state[i] = DONE;
                left--;
                break;
            }
            case DONE:
                break;
            }
        }
    }
    return ENG_OK;
}

enum eng_status tree_value_read(struct store *store, const struct tree_value *stored, struct eng_value *value,
                                const uint8_t **digest)
{
    uint16_t form = stored->form;
    const uint8_t *long_digest = NULL;
    value->tag = FORM_TAG(form);
    if (value->tag == ENG_TREE) {
        value->bytes = stored->stored + 8;
        value->size = sizeof(struct eng_summary);
    } else if (FORM_OUTSIDE(form)) {
        const struct value_object *object = (const struct value_object *)store_object(store, read32(stored->stored));
        if (!object)
            return ENG_DAMAGED;
        if (sampled(store))
            store_touch(store, read32(stored->stored));
        value->bytes = object->bytes;
        value->size = object->size;
        long_digest = stored->stored + 8;
    } else if (value->tag == ENG_BYTES && FORM_BYTES(form) > DIGEST_VALUE_INLINE_MAX) {
        value->bytes = stored->stored + 32;
        value->size = FORM_BYTES(form) - 32;
        long_digest = stored->stored;
    } else {
        value->bytes = stored->stored;
        value->size = FORM_BYTES(form);
    }
    if (digest)
        *digest = long_digest;
    return ENG_OK;
}

enum eng_status tree_object_get(struct store *store, uint32_t root, const uint8_t *key, size_t key_bytes,
                                struct tree_object *tree)
{
    struct tree_value stored;
    enum eng_status status = tree_get(store, root, key, key_bytes, &stored);
    if (status != ENG_OK)
        return status;
    if (FORM_TAG(stored.form) != ENG_TREE)
        return eng_fail(ENG_TYPE, "key: its value is not a tree");
    const struct object *object = store_object(store, read32(stored.stored));
    if (!object)
        return ENG_DAMAGED;
    /* a private copy without the checksum, which a checkpoint may be writing */
    const size_t skip = sizeof object->checksum;
    tree->object.checksum = 0;
    memcpy((uint8_t *)tree + skip, (const uint8_t *)object + skip, sizeof *tree - skip);
    return ENG_OK;
}

static void entry_digest(const struct leaf *leaf, const uint8_t *head, unsigned index, uint8_t out[32])
{
    struct leaf_entry e = leaf_entry_at(leaf, index);
    unsigned common = leaf->depth + leaf->prefix_bytes;
    uint8_t key[ENG_KEY_BYTES_MAX];
    memcpy(key, head, leaf->depth);
    memcpy(key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
    memcpy(key + common, e.suffix, e.suffix_bytes);
    if (FORM_TAG(e.form) == ENG_TREE) {
        digest_entry(key, common + e.suffix_bytes, ENG_TREE, e.stored + 8, sizeof(struct eng_summary), NULL, out);
        return;
    }
    bool outside = FORM_OUTSIDE(e.form);
    bool long_value = outside || (FORM_TAG(e.form) == ENG_BYTES && FORM_BYTES(e.form) > DIGEST_VALUE_INLINE_MAX);
    size_t size = outside ? read32(e.stored + 4) : FORM_BYTES(e.form) - (long_value ? 32u : 0u);
    digest_entry(key, common + e.suffix_bytes, FORM_TAG(e.form), e.stored, size,
                 outside      ? e.stored + 8
                 : long_value ? e.stored
                              : NULL,
                 out);
}

void leaf_summary(const struct leaf *leaf, const uint8_t *head, unsigned lo, unsigned hi, struct eng_summary *out)
{
    out->count = hi - lo + 1;
    memset(out->sum, 0, sizeof out->sum);
    for (unsigned i = lo; i <= hi; i++) {
        struct leaf_entry e = leaf_entry_at(leaf, i);
        uint64_t sum[3];
        entry_sum(e.form, e.stored, sum);
        digest_sum_add(out->sum, out->sum, sum);
    }
    if (lo == hi)
        entry_digest(leaf, head, lo, out->digest);
    else if (lo == 0 && hi + 1u == leaf->count)
        memcpy(out->digest, leaf->node.summary.digest, 32);
    else
        memcpy(out->digest, leaf_cache(leaf) + 32u * leaf_top_gap(leaf_bit(leaf), lo, hi), 32);
}

enum eng_status inner_summary(struct store *store, const struct inner *inner, unsigned lo, unsigned hi,
                              struct eng_summary *out)
{
    if (lo == hi) {
        const struct node *node = store_node(store, inner_child(inner)[lo]);
        if (!node)
            return ENG_DAMAGED;
        *out = node->summary;
        return ENG_OK;
    }
    uint32_t bit;
    unsigned part = branches_part(inner_start(inner), inner->own, lo, hi, inner_child_depth(inner), &bit);
    struct eng_summary left, right;
    enum eng_status status = inner_summary(store, inner, lo, part, &left);
    if (status == ENG_OK)
        status = inner_summary(store, inner, part + 1, hi, &right);
    if (status != ENG_OK)
        return status;
    digest_node(&left, &right, bit, out->digest);
    out->count = left.count + right.count;
    digest_sum_add(out->sum, left.sum, right.sum);
    return ENG_OK;
}

enum eng_status tree_shape(struct store *store, uint32_t root, struct tree_shape *shape)
{
    struct level {
        uint32_t id;
        unsigned next;
    } stack[ENG_KEY_BYTES_MAX + 2];
    unsigned top = 0;
    if (!root)
        return ENG_OK;
    stack[0] = (struct level){root, 0};
    for (;;) {
        const struct node *node = store_node(store, stack[top].id);
        if (!node)
            return ENG_DAMAGED;
        if (node->object.type == OBJECT_LEAF) {
            const struct leaf *leaf = (const struct leaf *)node;
            shape->leaves++;
            shape->entries += leaf->count;
            shape->leaf_object_bytes += 64u * leaf->node.object.units;
            shape->leaf_weight += node->weight - (uint64_t)leaf->count * (leaf->depth + leaf->prefix_bytes);
            shape->depth_sum += top + 1;
            if (top + 1 > shape->depth_max)
                shape->depth_max = top + 1;
        } else {
            const struct inner *inner = (const struct inner *)node;
            if (stack[top].next == 0) {
                shape->inners++;
                shape->inner_object_bytes += 64u * inner->node.object.units;
            }
            if (stack[top].next < inner->branches) {
                unsigned branch = stack[top].next++;
                uint32_t child = inner_child(inner)[branch];
                shape->children++;
                shape->placed += inner_place(inner)[branch] == store_place(store, child);
                stack[++top] = (struct level){child, 0};
                continue;
            }
        }
        if (top-- == 0)
            return ENG_OK;
    }
}
