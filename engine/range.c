/*
 * Count and sum of a range of keys, in O(depth).
 *
 * Every node knows the count and the sum of all below it, so a range is the difference of two walks: what lies below
 * the upper bound less what lies below the lower one. A walk follows the bound down; at each inner node it adds the
 * branches on the left of its way, or takes those on the right from the node's own total, whichever are fewer. Sums are
 * 192-bit two's complement, so a difference of sums is exact.
 *
 * A batch starts from the tree's totals, takes away the stretches its layers hide, and corrects them by every key its
 * layers hold in the range: O(depth + own writes in the range).
 *
 * Ways to fail: a damaged node; no memory for the union of hidden ranges.
 */
#include "engine_internal.h"
#include "tree.h"

#include <stdlib.h>

static void totals_add(struct eng_totals *to, const struct eng_totals *more)
{
    to->count += more->count;
    digest_sum_add(to->sum, to->sum, more->sum);
}

static void totals_subtract(struct eng_totals *from, const struct eng_totals *less)
{
    from->count -= less->count;
    unsigned __int128 borrow = 0;
    for (unsigned i = 0; i < 3; i++) {
        unsigned __int128 d = (unsigned __int128)from->sum[i] - less->sum[i] - borrow;
        from->sum[i] = (uint64_t)d;
        borrow = d >> 64 ? 1 : 0;
    }
}

static struct eng_totals totals_of(const struct eng_summary *summary)
{
    return (struct eng_totals){summary->count, {summary->sum[0], summary->sum[1], summary->sum[2]}};
}

/* Of the branches [lo, hi). */
static enum eng_status branches_totals(struct store *store, const struct inner *inner, unsigned lo, unsigned hi,
                                       struct eng_totals *totals)
{
    const unsigned ahead = 8;
    const uint32_t *child = inner_child(inner);
    memset(totals, 0, sizeof *totals);
    for (unsigned i = lo; i < hi && i < lo + 2 * ahead; i++)
        store_prefetch_control(store, child[i]);
    for (unsigned i = lo; i < hi; i++) {
        if (i + 2 * ahead < hi)
            store_prefetch_control(store, child[i + 2 * ahead]);
        if (i + ahead < hi)
            store_prefetch_object(store, child[i + ahead], 2);
        const struct node *node = store_node(store, child[i]);
        if (!node)
            return ENG_DAMAGED;
        struct eng_totals one = totals_of(&node->summary);
        totals_add(totals, &one);
    }
    return ENG_OK;
}

static void leaf_totals(const struct leaf *leaf, unsigned end, struct eng_totals *totals)
{
    totals->count += end;
    if (!(leaf->flags & LEAF_HAS_AMOUNTS))
        return;
    for (unsigned i = 0; i < end; i++) {
        struct leaf_entry e = leaf_entry_at(leaf, i);
        uint64_t sum[3];
        entry_sum(e.form, e.stored, sum);
        digest_sum_add(totals->sum, totals->sum, sum);
    }
}

/* Adds what lies left of branch in inner (branch == branches: all). */
static enum eng_status left_of(struct store *store, const struct inner *inner, unsigned branch,
                               struct eng_totals *totals)
{
    struct eng_totals part;
    enum eng_status status;
    if (branch <= inner->branches / 2u) {
        status = branches_totals(store, inner, 0, branch, &part);
        totals_add(totals, &part);
        return status;
    }
    status = branches_totals(store, inner, branch, inner->branches, &part);
    struct eng_totals all = totals_of(&inner->node.summary);
    totals_add(totals, &all);
    totals_subtract(totals, &part);
    return status;
}

enum eng_status tree_below(struct store *store, uint32_t root, const uint8_t *key, size_t key_bytes,
                           struct eng_totals *totals)
{
    memset(totals, 0, sizeof *totals);
    for (uint32_t id = root; id;) {
        const struct node *node = store_node(store, id);
        if (!node)
            return ENG_DAMAGED;
        bool is_leaf = node->object.type == OBJECT_LEAF;
        const struct leaf *leaf = (const struct leaf *)node;
        const struct inner *inner = (const struct inner *)node;
        unsigned depth = is_leaf ? leaf->depth : inner->depth;
        unsigned prefix = is_leaf ? leaf->prefix_bytes : inner->prefix_bytes;
        const uint8_t *bytes = is_leaf ? leaf_prefix(leaf) : inner_prefix(inner);
        size_t rest = key_bytes - depth;
        int order = memcmp(bytes, key + depth, prefix < rest ? prefix : rest);
        if (order < 0) {
            struct eng_totals all = totals_of(&node->summary);
            totals_add(totals, &all);
            return ENG_OK;
        }
        if (order > 0 || rest < prefix)
            return ENG_OK;
        unsigned at = depth + prefix;
        if (is_leaf) {
            leaf_totals(leaf, leaf_lower_bound(leaf, key + at, key_bytes - at), totals);
            return ENG_OK;
        }
        if (key_bytes == at)
            return ENG_OK;
        int branch = inner_branch(inner, key[at]);
        enum eng_status status =
            left_of(store, inner, branch < 0 ? inner_upto(inner, key[at]) : (unsigned)branch, totals);
        if (status != ENG_OK)
            return status;
        id = branch < 0 ? 0 : inner_child(inner)[branch];
    }
    return ENG_OK;
}

enum eng_status tree_totals(struct store *store, uint32_t root, const uint8_t *from, size_t from_bytes,
                            const uint8_t *to, size_t to_bytes, struct eng_totals *totals)
{
    memset(totals, 0, sizeof *totals);
    if (!root || (from && to && bytes_compare(from, from_bytes, to, to_bytes) >= 0))
        return ENG_OK;
    enum eng_status status = ENG_OK;
    if (to) {
        status = tree_below(store, root, to, to_bytes, totals);
    } else {
        const struct node *node = store_node(store, root);
        if (!node)
            return ENG_DAMAGED;
        *totals = totals_of(&node->summary);
    }
    struct eng_totals below;
    if (status == ENG_OK && from) {
        status = tree_below(store, root, from, from_bytes, &below);
        totals_subtract(totals, &below);
    }
    return status;
}

enum eng_status bounds_check(const uint8_t *from, size_t from_bytes, const uint8_t *to, size_t to_bytes)
{
    size_t longest = from ? from_bytes : 0;
    if (to && to_bytes > longest)
        longest = to_bytes;
    if (longest > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "range: a bound of %zu bytes, must be at most %u", longest, ENG_KEY_BYTES_MAX);
    return ENG_OK;
}

enum eng_status eng_totals(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes, const uint8_t *to,
                           size_t to_bytes, struct eng_totals *totals)
{
    enum eng_status status = bounds_check(from, from_bytes, to, to_bytes);
    if (status != ENG_OK)
        return status;
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    status = tree_totals(snapshot->eng->store, snapshot->version.root, from, from_bytes, to, to_bytes, totals);
    reader_leave(reader);
    return status;
}

/* ---- as a batch sees it ---- */

/* Takes what the layers hide of [from, to) out of the tree's totals; all: the union of what they hide. */
static enum eng_status less_hidden(struct eng_batch *batch, const struct hidden *all, const struct hidden_range *range,
                                   struct eng_totals *totals)
{
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < all->count && status == ENG_OK; i++) {
        struct hidden_range cut = all->sorted[i];
        if (range->from && bytes_compare(cut.from, cut.from_bytes, range->from, range->from_bytes) < 0) {
            cut.from = range->from;
            cut.from_bytes = range->from_bytes;
        }
        if (range->to && (!cut.to || bytes_compare(cut.to, cut.to_bytes, range->to, range->to_bytes) > 0)) {
            cut.to = range->to;
            cut.to_bytes = range->to_bytes;
        }
        struct eng_totals part;
        status = tree_totals(batch->eng->store, batch->base->version.root, cut.from, cut.from_bytes, cut.to,
                             cut.to_bytes, &part);
        if (status == ENG_OK)
            totals_subtract(totals, &part);
    }
    return status;
}

/* The first key at or after (after) the given one that any layer holds, before the range's end. */
static const struct buffer_entry *layers_next(const struct eng_batch *batch, const struct hidden_range *range,
                                              const uint8_t *key, size_t key_bytes, bool after)
{
    const struct buffer_entry *first = NULL;
    for (uint32_t i = 0; i <= batch->below_count; i++) {
        const struct buffer_entry *entry =
            buffer_seek_below(batch_layer(batch, i)->buffer, key, key_bytes, after, range->to, range->to_bytes);
        if (entry && (!first || bytes_compare(entry->key, entry->key_bytes, first->key, first->key_bytes) < 0))
            first = entry;
    }
    return first;
}

static struct eng_totals one_entry(enum eng_tag tag, const uint8_t *stored)
{
    struct eng_totals one = {.count = 1};
    entry_sum(FORM_MAKE(tag, 0, 16), stored, one.sum);
    return one;
}

/* A key some layer holds: what the tree has under it does not count, unless it is hidden anyway; what is seen does. */
static enum eng_status correct(struct eng_batch *batch, const struct hidden *all, const struct buffer_entry *key,
                               struct eng_totals *totals)
{
    struct tree_value old;
    const struct buffer_entry *entry;
    if (!hidden_find(all, key->key, key->key_bytes, false)) {
        enum eng_status status = tree_get(batch->eng->store, batch->base->version.root, key->key, key->key_bytes, &old);
        if (status != ENG_OK && status != ENG_NOT_FOUND)
            return status;
        if (status == ENG_OK) {
            struct eng_totals one = one_entry(FORM_TAG(old.form), old.stored);
            totals_subtract(totals, &one);
        }
    }
    if (layers_find(batch, key->key, key->key_bytes, &entry) == LAYERS_ENTRY && entry->kind == BUFFER_PUT) {
        struct eng_totals one = one_entry((enum eng_tag)entry->tag, entry->value);
        totals_add(totals, &one);
    }
    return ENG_OK;
}

static enum eng_status batch_totals(struct eng_batch *batch, const struct hidden *all, const struct hidden_range *range,
                                    struct eng_totals *totals)
{
    enum eng_status status = tree_totals(batch->eng->store, batch->base->version.root, range->from, range->from_bytes,
                                         range->to, range->to_bytes, totals);
    if (status == ENG_OK)
        status = less_hidden(batch, all, range, totals);
    const uint8_t none = 0;
    const struct buffer_entry *key =
        layers_next(batch, range, range->from ? range->from : &none, range->from_bytes, false);
    while (status == ENG_OK && key) {
        status = correct(batch, all, key, totals);
        key = layers_next(batch, range, key->key, key->key_bytes, true);
    }
    return status;
}

enum eng_status eng_batch_totals(struct eng_batch *batch, const uint8_t *from, size_t from_bytes, const uint8_t *to,
                                 size_t to_bytes, struct eng_totals *totals)
{
    memset(totals, 0, sizeof *totals);
    enum eng_status status = bounds_check(from, from_bytes, to, to_bytes);
    if (status != ENG_OK)
        return status;
    struct hidden_range range = {from, to, from ? (uint32_t)from_bytes : 0, (uint32_t)to_bytes};
    if (from && to && bytes_compare(from, from_bytes, to, to_bytes) >= 0)
        return ENG_OK;
    struct hidden all = {0};
    struct hidden_range read = range;
    if (!range.from_bytes) {
        read.from = (const uint8_t *)"";
        read.from_bytes = 1;
    }
    status = batch_read_range(batch, &read);
    for (uint32_t i = 0; i <= batch->below_count && status == ENG_OK; i++) {
        const struct hidden *hidden = &batch_layer(batch, i)->hidden;
        for (size_t r = hidden_first(hidden, read.from, read.from_bytes); r < hidden->count && status == ENG_OK; r++) {
            const struct hidden_range *one = &hidden->sorted[r];
            if (to && bytes_compare(one->from, one->from_bytes, to, to_bytes) >= 0)
                break;
            status = hidden_add(&all, one, 0);
        }
    }
    struct reader *reader = status == ENG_OK ? eng_enter(batch->eng) : NULL;
    if (status == ENG_OK && !reader)
        status = ENG_NO_READERS;
    if (status == ENG_OK)
        status = batch_totals(batch, &all, &range, totals);
    if (reader)
        reader_leave(reader);
    hidden_free(&all);
    return status;
}

enum eng_status eng_rank(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes, uint64_t *rank)
{
    struct eng_totals totals = {0};
    enum eng_status status = eng_totals(snapshot, NULL, 0, key, key_bytes, &totals);
    *rank = totals.count;
    return status;
}
