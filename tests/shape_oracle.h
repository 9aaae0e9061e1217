/*
 * A second opinion on the shape of the tree: the rule of DESIGN 3.3 applied to a sorted array, straight from its text.
 * Both sides, the rule and a real tree, are turned into one stream of tokens; equal streams are equal trees, node by
 * node, with every prefix, range, entry and stored value.
 */
#ifndef TESTS_SHAPE_ORACLE_H
#define TESTS_SHAPE_ORACLE_H

#include <stdio.h>
#include <stdlib.h>

#include "digest_oracle.h"
#include "tree.h"

struct shape_stream {
    uint8_t *bytes;
    size_t size, capacity;
};

static inline void shape_put(struct shape_stream *s, const void *bytes, size_t size)
{
    if (s->size + size > s->capacity) {
        s->capacity = 2 * (s->size + size) + 256;
        s->bytes = realloc(s->bytes, s->capacity);
    }
    memcpy(s->bytes + s->size, bytes, size);
    s->size += size;
}

static inline void shape_token(struct shape_stream *s, char kind, unsigned a, unsigned b, unsigned c)
{
    uint16_t token[4] = {(uint16_t)kind, (uint16_t)a, (uint16_t)b, (uint16_t)c};
    shape_put(s, token, sizeof token);
}

static inline size_t shape_stored_bytes(const struct oracle_entry *e, uint32_t inline_bytes)
{
    if (e->tag == 1)
        return 16;
    return e->value_bytes <= 64 ? e->value_bytes : e->value_bytes <= inline_bytes ? 32 + e->value_bytes : 40;
}

static inline size_t shape_common(const struct oracle_entry *e, size_t n)
{
    const struct oracle_entry *z = &e[n - 1];
    size_t i = 0;
    while (i < e->key_bytes && i < z->key_bytes && e->key[i] == z->key[i])
        i++;
    return i;
}

static inline bool shape_light(const struct oracle_entry *e, size_t n, uint32_t leaf_bytes, uint32_t inline_bytes)
{
    size_t weight = 0, common = shape_common(e, n);
    for (size_t i = 0; i < n; i++)
        weight += 8 + e[i].key_bytes - common + shape_stored_bytes(&e[i], inline_bytes);
    return n == 1 || weight <= leaf_bytes;
}

static inline void shape_rule(struct shape_stream *s, const struct oracle_entry *e, size_t n, size_t depth,
                              uint32_t leaf_bytes, uint32_t inline_bytes);

static inline void shape_range(struct shape_stream *s, const struct oracle_entry *e, size_t n, size_t at,
                               unsigned start, unsigned log2, uint32_t leaf_bytes, uint32_t inline_bytes)
{
    if (n == 0)
        return;
    if (log2 == 0 || shape_light(e, n, leaf_bytes, inline_bytes)) {
        shape_token(s, 'B', start, log2, 0);
        shape_rule(s, e, n, at, leaf_bytes, inline_bytes);
        return;
    }
    size_t left = 0;
    while (left < n && e[left].key[at] < start + (1u << (log2 - 1)))
        left++;
    shape_range(s, e, left, at, start, log2 - 1, leaf_bytes, inline_bytes);
    shape_range(s, e + left, n - left, at, start + (1u << (log2 - 1)), log2 - 1, leaf_bytes, inline_bytes);
}

static inline void shape_rule(struct shape_stream *s, const struct oracle_entry *e, size_t n, size_t depth,
                              uint32_t leaf_bytes, uint32_t inline_bytes)
{
    size_t common = shape_common(e, n);
    bool leaf = shape_light(e, n, leaf_bytes, inline_bytes);
    shape_token(s, leaf ? 'L' : 'I', (unsigned)depth, (unsigned)(common - depth), leaf ? (unsigned)n : 0);
    shape_put(s, e->key + depth, common - depth);
    if (leaf) {
        for (size_t i = 0; i < n; i++) {
            shape_token(s, 'E', (unsigned)e[i].key_bytes, e[i].tag, (unsigned)shape_stored_bytes(&e[i], inline_bytes));
            shape_put(s, e[i].key + common, e[i].key_bytes - common);
            shape_put(s, e[i].value, e[i].value_bytes);
        }
        return;
    }
    if (e->key_bytes == common) {
        shape_token(s, 'B', 0, INNER_OWN_LOG2, 0);
        shape_rule(s, e, 1, common, leaf_bytes, inline_bytes);
        e++;
        n--;
    }
    shape_range(s, e, n, common, 0, 8, leaf_bytes, inline_bytes);
}

static inline void shape_tree(struct shape_stream *s, struct store *store, uint32_t id)
{
    const struct node *node = store_node(store, id);
    assert(node);
    if (node->object.type == OBJECT_LEAF) {
        const struct leaf *leaf = (const struct leaf *)node;
        shape_token(s, 'L', leaf->depth, leaf->prefix_bytes, leaf->count);
        shape_put(s, leaf_prefix(leaf), leaf->prefix_bytes);
        for (unsigned i = 0; i < leaf->count; i++) {
            struct leaf_entry e = leaf_entry_at(leaf, i);
            struct tree_value stored = {e.stored, e.form};
            struct eng_value value;
            enum eng_status status = tree_value_read(store, &stored, &value, NULL);
            assert(status == ENG_OK);
            (void)status;
            shape_token(s, 'E', leaf->depth + leaf->prefix_bytes + e.suffix_bytes, FORM_TAG(e.form),
                        FORM_BYTES(e.form));
            shape_put(s, e.suffix, e.suffix_bytes);
            shape_put(s, value.bytes, value.size);
        }
        return;
    }
    const struct inner *inner = (const struct inner *)node;
    shape_token(s, 'I', inner->depth, inner->prefix_bytes, 0);
    shape_put(s, inner_prefix(inner), inner->prefix_bytes);
    for (unsigned b = 0; b < inner->branches; b++) {
        shape_token(s, 'B', inner_start(inner)[b], inner_log2(inner)[b], 0);
        shape_tree(s, store, inner_child(inner)[b]);
    }
}

#endif
