/*
 * Reading a tree by the id of its root node. All functions expect to be inside a reader's epoch (or a merge) and a
 * pinned version; pointers they give are good until the epoch is left. NULL or ENG_DAMAGED: a damaged object,
 * eng_error() set.
 */
#ifndef ENGINE_TREE_H
#define ENGINE_TREE_H

#include "node.h"
#include "pando/engine.h"

struct tree_value {
    const uint8_t *stored; /* in the leaf */
    uint16_t form;
};

uint8_t key_hash(const uint8_t *key, size_t key_bytes);

ENG_MUST_CHECK enum eng_status tree_get(struct store *store, uint32_t root, const uint8_t *key, size_t key_bytes,
                                        struct tree_value *value);
/* Up to TREE_MANY keys with interleaved descents; stored NULL: absent. */
#define TREE_MANY 16u
ENG_MUST_CHECK enum eng_status tree_get_many(struct store *store, uint32_t root, size_t count,
                                             const uint8_t *const keys[], const size_t key_bytes[],
                                             struct tree_value values[]);
/* The value as the API shows it (bytes point into the store). */
ENG_MUST_CHECK enum eng_status tree_value_read(struct store *store, const struct tree_value *stored,
                                               struct eng_value *value, const uint8_t **digest);
/* The subtree at a key: a copy of its object. ENG_NOT_FOUND; ENG_TYPE: another value. */
ENG_MUST_CHECK enum eng_status tree_object_get(struct store *store, uint32_t root, const uint8_t *key, size_t key_bytes,
                                               struct tree_object *tree);
/* Same tag and bytes? By the stored form: an outside value is told by its digest. */
static inline bool tree_value_same(const struct tree_value *a, const struct tree_value *b)
{
    if (a->form != b->form)
        return false;
    unsigned skip = FORM_OUTSIDE(a->form) ? 4 : 0;
    return memcmp(a->stored + skip, b->stored + skip, FORM_BYTES(a->form) - skip) == 0;
}
/* Count and sum of the entries with a key below the given one; of from <= key < to (NULL: open end) (range.c). */
ENG_MUST_CHECK enum eng_status tree_below(struct store *store, uint32_t root, const uint8_t *key, size_t key_bytes,
                                          struct eng_totals *totals);
ENG_MUST_CHECK enum eng_status tree_totals(struct store *store, uint32_t root, const uint8_t *from, size_t from_bytes,
                                           const uint8_t *to, size_t to_bytes, struct eng_totals *totals);
/* Summary of the entries lo..hi of a leaf, or the branches lo..hi of an inner node; head: key bytes above the node. */
void leaf_summary(const struct leaf *leaf, const uint8_t *head, unsigned lo, unsigned hi, struct eng_summary *out);
ENG_MUST_CHECK enum eng_status inner_summary(struct store *store, const struct inner *inner, unsigned lo, unsigned hi,
                                             struct eng_summary *out);
/* Checks a whole tree: canonical shape, order, counts, weights, every digest from the entries up. Calls report for each
 * fault. objects: every id reached is handed to seen (may be NULL). */
ENG_MUST_CHECK enum eng_status tree_check(struct store *store, uint32_t root, uint32_t leaf_bytes,
                                          uint32_t inline_bytes, void (*report)(void *context, const char *line),
                                          void *context);

/* The same for several versions that share nodes: each node is looked at once, and a damaged one reported for each
 * version that has it. memo: tree_memo_new, NULL: out of memory; nothing may be moved or freed meanwhile. */
struct tree_memo;
struct tree_memo *tree_memo_new(void);
void tree_memo_free(struct tree_memo *memo);
ENG_MUST_CHECK enum eng_status tree_check_shared(struct store *store, struct tree_memo *memo, uint32_t root,
                                                 uint32_t leaf_bytes, uint32_t inline_bytes,
                                                 void (*report)(void *context, const char *line), void *context);

/* Statistics of a tree's shape. */
struct tree_shape {
    uint64_t children, placed; /* of inner nodes; those that lie where their parents say */
    uint64_t leaves, inners, entries, leaf_object_bytes, inner_object_bytes, leaf_weight, depth_sum;
    uint32_t depth_max;
};
ENG_MUST_CHECK enum eng_status tree_shape(struct store *store, uint32_t root, struct tree_shape *shape);

#endif
