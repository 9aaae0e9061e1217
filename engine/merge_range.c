/*
 * Taking a range of keys out of a tree, in O(depth).
 *
 * A bound goes down the tree; at each node it either parts the node's keys, or all of them lie on one side of it, and
 * then it is of no more concern (NULL) or the node stays as it is. A node without bounds is gone as a whole: its tree
 * is given to the store to be freed lazily. Of an inner node at most two branches are parted; the rest stays or goes.
 * What the node becomes then is decided by the rule of DESIGN 3.3, as after any merge (inner_regroup).
 *
 * Ways to fail: those of the merge (merge.h), by unwinding.
 */
#include "merge.h"

#include <stdlib.h>

/* Where a bound lies among the keys of a node. */
enum side { ALL_BELOW, PARTED, ALL_ABOVE }; /* all keys are < it; it parts them; all keys are >= it */

struct bounds {
    const uint8_t *from, *to; /* NULL: open */
    size_t from_bytes, to_bytes;
};

/* prefix follows depth bytes of key, which the bound shares. */
static enum side side_of(const uint8_t *bound, size_t bound_bytes, unsigned depth, const uint8_t *prefix,
                         unsigned prefix_bytes)
{
    size_t rest = bound_bytes - depth;
    int order = memcmp(prefix, bound + depth, prefix_bytes < rest ? prefix_bytes : rest);
    if (order < 0)
        return ALL_BELOW;
    return order > 0 || rest <= prefix_bytes ? ALL_ABOVE : PARTED;
}

static struct set whole(struct merger *m, struct node *node)
{
    return (struct set){.kind = SET_NODE,
                        .id = node->object.id,
                        .leaf = node->object.type == OBJECT_LEAF,
                        .count = node->summary.count,
                        .weight = node->weight};
}

static struct set drop(struct merger *m, struct node *node)
{
    cache_drop(m, node->object.id);
    if (node->object.generation > m->floor)
        store_kill_below(m->arena, node->object.id, node->object.generation, m->floor);
    return (struct set){.kind = SET_EMPTY};
}

static struct set range_node(struct merger *m, uint32_t id, unsigned depth, struct bounds bounds);

static struct set range_leaf(struct merger *m, struct leaf *leaf, const struct bounds *b)
{
    unsigned at = leaf->depth + leaf->prefix_bytes, lo = 0, hi = leaf->count;
    if (b->from)
        lo = leaf_lower_bound(leaf, b->from + at, b->from_bytes - at);
    if (b->to)
        hi = leaf_lower_bound(leaf, b->to + at, b->to_bytes - at);
    return lo >= hi ? whole(m, &leaf->node) : leaf_without(m, leaf, lo, hi);
}

/* The bounds that are of concern to branch i, whose keys share `at` bytes with them. False: it stays as it is. */
static bool branch_bounds(const struct inner *inner, unsigned i, const struct bounds *b, struct bounds *below)
{
    unsigned at = inner_child_depth(inner);
    *below = *b;
    if (inner->own && i == 0) { /* the key that ends here is below every bound that parts this node */
        below->to = NULL;
        return !b->from;
    }
    unsigned first = inner_start(inner)[i], last = first + (1u << inner_log2(inner)[i]) - 1u;
    if (b->from) {
        if (last < b->from[at])
            return false;
        if (first > b->from[at])
            below->from = NULL;
    }
    if (b->to) {
        if (first > b->to[at])
            return false;
        if (last < b->to[at])
            below->to = NULL;
    }
    return true;
}

static struct set range_inner(struct merger *m, struct inner *inner, unsigned depth, const struct bounds *b)
{
    unsigned child_depth = inner_child_depth(inner);
    memcpy(m->path + inner->depth, inner_prefix(inner), inner->prefix_bytes);
    struct merge_group *groups = merge_scratch(m, inner->branches * sizeof *groups);
    size_t count = 0;
    bool fresh_cache;
    struct digest_cache *cache = inner_cache(m, inner, &fresh_cache);
    for (unsigned i = 0; i < inner->branches; i++) {
        struct bounds below;
        if (!branch_bounds(inner, i, b, &below))
            continue;
        uint32_t child = inner_child(inner)[i];
        groups[count] = (struct merge_group){
            .branch = (int)i, .child = child, .was_inner = store_type(m->store, child) == OBJECT_INNER};
        groups[count++].set = range_node(m, child, child_depth, below);
    }
    return inner_regroup(m, inner, cache, depth, groups, count, fresh_cache);
}

static struct set range_node(struct merger *m, uint32_t id, unsigned depth, struct bounds b)
{
    struct node *node = merge_read(m, id);
    bool is_leaf = node->object.type == OBJECT_LEAF;
    struct leaf *leaf = (struct leaf *)node;
    struct inner *inner = (struct inner *)node;
    const uint8_t *prefix = is_leaf ? leaf_prefix(leaf) : inner_prefix(inner);
    unsigned prefix_bytes = is_leaf ? leaf->prefix_bytes : inner->prefix_bytes;
    if (b.from) {
        switch (side_of(b.from, b.from_bytes, depth, prefix, prefix_bytes)) {
        case ALL_BELOW:
            return whole(m, node);
        case ALL_ABOVE:
            b.from = NULL;
            break;
        case PARTED:
            break;
        }
    }
    if (b.to) {
        switch (side_of(b.to, b.to_bytes, depth, prefix, prefix_bytes)) {
        case ALL_ABOVE:
            return whole(m, node);
        case ALL_BELOW:
            b.to = NULL;
            break;
        case PARTED:
            break;
        }
    }
    if (!b.from && !b.to)
        return drop(m, node);
    return is_leaf ? range_leaf(m, leaf, &b) : range_inner(m, inner, depth, &b);
}

enum eng_status merge_remove_range(struct merger *m, uint32_t root, const struct hidden_range *range, uint32_t *result,
                                   struct eng_summary *summary)
{
    memset(summary, 0, sizeof *summary);
    *result = 0;
    if (!root)
        return ENG_OK;
    if (setjmp(m->unwind)) {
        eng_fail(m->status, "%s", m->error);
        return m->status;
    }
    struct bounds bounds = {range->from, range->to, range->from_bytes, range->to_bytes};
    struct set set = range_node(m, root, 0, bounds);
    if (set.kind == SET_PENDING)
        *result = build_set(m, set.entries, set.count, 0);
    else if (set.kind == SET_NODE)
        *result = set.id;
    digest_queue_run(&m->queue);
    if (m->queue.failed)
        merge_fail(m, ENG_NO_MEMORY);
    if (*result)
        *summary = merge_read(m, *result)->summary;
    return ENG_OK;
}
