/*
 * What differs between two versions: two walks in key order that skip what they share.
 *
 * Each side is a stack of things still to come: nodes not yet opened, and the entries of the leaf that is open. If both
 * sides have the same node on top (same id: nodes are immutable) it is skipped whole on both. Otherwise the larger node
 * is opened, or the only node if the other side has an entry on top; two entries are compared. A shared subtree is so
 * met as a whole, or at worst opened along one path.
 */
#include "engine_internal.h"
#include "tree.h"

#include <stdlib.h>

struct pending_node {
    uint32_t id;
};

/* from <= key < to; to NULL: open end. */
struct span {
    const uint8_t *from, *to;
    size_t from_bytes, to_bytes;
};

struct side {
    struct eng_snapshot *snapshot;
    struct pending_node *stack; /* next on top */
    size_t top, capacity;
    struct leaf *leaf; /* open leaf (a copy), entries at.. to come */
    size_t leaf_capacity;
    unsigned at, count;
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t key_bytes; /* of entry at */
    uint8_t *value;
    size_t value_capacity;
};

static enum eng_status side_push(struct side *side, uint32_t id)
{
    if (side->top == side->capacity) {
        size_t want = side->capacity ? 2 * side->capacity : 512;
        struct pending_node *fresh = realloc(side->stack, want * sizeof *fresh);
        if (!fresh)
            return eng_fail(ENG_NO_MEMORY, "diff: out of memory");
        side->stack = fresh;
        side->capacity = want;
    }
    side->stack[side->top++] = (struct pending_node){id};
    return ENG_OK;
}

static void side_key(struct side *side)
{
    if (side->at >= side->count)
        return;
    struct leaf_entry e = leaf_entry_at(side->leaf, side->at);
    unsigned common = side->leaf->depth + side->leaf->prefix_bytes;
    memcpy(side->key + common, e.suffix, e.suffix_bytes);
    side->key_bytes = common + e.suffix_bytes;
}

/* Does branch b of a node, whose children share the first bytes of key, lie outside the span? */
static bool outside(const struct span *span, const uint8_t *key, const struct inner *inner, unsigned b)
{
    unsigned at = inner_child_depth(inner);
    bool own = inner->own && b == 0;
    unsigned first = inner_start(inner)[b], last = own ? 0 : first + (1u << inner_log2(inner)[b]) - 1u;
    int order = memcmp(key, span->from, at < span->from_bytes ? at : span->from_bytes);
    if (order < 0 || (order == 0 && span->from_bytes > at && (own || last < span->from[at])))
        return true;
    if (!span->to)
        return false;
    order = memcmp(key, span->to, at < span->to_bytes ? at : span->to_bytes);
    return order > 0 || (order == 0 && (span->to_bytes <= at || (!own && first > span->to[at])));
}

/* Opens the node on top: its children within the span, or its entries. Children of a node share the key bytes above
 * them, so the key buffer is right for whatever is opened next. */
static enum eng_status side_open(struct side *side, const struct span *span)
{
    struct store *store = side->snapshot->eng->store;
    const struct node *node = store_node(store, side->stack[--side->top].id);
    if (!node)
        return ENG_DAMAGED;
    if (node->object.type == OBJECT_LEAF) {
        const struct leaf *leaf = (const struct leaf *)node;
        if (leaf->bytes > side->leaf_capacity) {
            struct leaf *fresh = realloc(side->leaf, leaf->bytes);
            if (!fresh)
                return eng_fail(ENG_NO_MEMORY, "diff: out of memory");
            side->leaf = fresh;
            side->leaf_capacity = leaf->bytes;
        }
        leaf_copy(side->leaf, leaf, leaf->bytes);
        memcpy(side->key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
        side->at = 0;
        side->count = leaf->count;
        side_key(side);
        return ENG_OK;
    }
    const struct inner *inner = (const struct inner *)node;
    memcpy(side->key + inner->depth, inner_prefix(inner), inner->prefix_bytes);
    for (unsigned b = inner->branches; b-- > 0;) {
        if (outside(span, side->key, inner, b))
            continue;
        enum eng_status status = side_push(side, inner_child(inner)[b]);
        if (status != ENG_OK)
            return status;
    }
    return ENG_OK;
}

static enum eng_status side_value(struct side *side, struct eng_value *value)
{
    struct leaf_entry e = leaf_entry_at(side->leaf, side->at);
    struct tree_value stored = {e.stored, e.form};
    enum eng_status status = tree_value_read(side->snapshot->eng->store, &stored, value, NULL);
    if (status != ENG_OK || !FORM_OUTSIDE(e.form))
        return status;
    if (value->size > side->value_capacity) {
        free(side->value);
        side->value = malloc(value->size);
        side->value_capacity = side->value ? value->size : 0;
        if (!side->value)
            return eng_fail(ENG_NO_MEMORY, "diff: out of memory");
    }
    memcpy(side->value, value->bytes, value->size);
    value->bytes = side->value;
    return ENG_OK;
}

static void side_advance(struct side *side)
{
    side->at++;
    side_key(side);
}

static bool same_value(const struct side *a, const struct side *b)
{
    struct leaf_entry x = leaf_entry_at(a->leaf, a->at), y = leaf_entry_at(b->leaf, b->at);
    return tree_value_same(&(struct tree_value){x.stored, x.form}, &(struct tree_value){y.stored, y.form});
}

struct diff {
    struct side a, b;
    struct span span;
    enum eng_status (*each)(void *, const uint8_t *, size_t, const struct eng_value *, const struct eng_value *);
    void *context;
};

static bool side_has_entry(const struct side *side)
{
    return side->at < side->count;
}

/* Opens nodes until both sides have an entry on top or nothing; skips what is shared. One epoch for all of it. */
static enum eng_status advance_to_entries(struct diff *d)
{
    struct store *store = d->a.snapshot->eng->store;
    struct side *a = &d->a, *b = &d->b;
    for (;;) {
        bool an = !side_has_entry(a) && a->top, bn = !side_has_entry(b) && b->top;
        if (!an && !bn)
            return ENG_OK;
        enum eng_status status = ENG_OK;
        if (an && bn) {
            uint32_t x = a->stack[a->top - 1].id, y = b->stack[b->top - 1].id;
            if (x == y) {
                a->top--;
                b->top--;
                continue;
            }
            const struct node *xn = store_node(store, x), *yn = store_node(store, y);
            if (!xn || !yn)
                return ENG_DAMAGED;
            uint64_t xc = xn->summary.count, yc = yn->summary.count;
            if (xc >= yc)
                status = side_open(a, &d->span);
            if (status == ENG_OK && yc >= xc)
                status = side_open(b, &d->span);
        } else {
            status = side_open(an ? a : b, &d->span);
        }
        if (status != ENG_OK)
            return status;
    }
}

/* One difference, or one pair of equal entries; *done at the end. Values are copied, so each runs outside the epoch. */
static enum eng_status diff_step(struct diff *d, bool *done)
{
    struct side *a = &d->a, *b = &d->b;
    struct reader *reader = eng_enter(a->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    struct eng_value before, after;
    bool has_before = false, has_after = false;
    enum eng_status status = advance_to_entries(d);
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t key_bytes = 0;
    if (status == ENG_OK) {
        bool ae = side_has_entry(a), be = side_has_entry(b);
        *done = !ae && !be;
        int order = !ae ? 1 : !be ? -1 : bytes_compare(a->key, a->key_bytes, b->key, b->key_bytes);
        if (!*done) {
            const struct side *first = order <= 0 ? a : b;
            key_bytes = first->key_bytes;
            memcpy(key, first->key, key_bytes);
            const struct span *span = &d->span;
            bool inside = bytes_compare(key, key_bytes, span->from, span->from_bytes) >= 0;
            if (span->to && bytes_compare(key, key_bytes, span->to, span->to_bytes) >= 0) {
                inside = false;
                *done = true;
            }
            bool same = order == 0 && same_value(a, b);
            if (inside && !same && order <= 0) {
                has_before = true;
                status = side_value(a, &before);
            }
            if (status == ENG_OK && inside && !same && order >= 0) {
                has_after = true;
                status = side_value(b, &after);
            }
        }
        reader_leave(reader);
        if (status == ENG_OK && (has_before || has_after))
            status = d->each(d->context, key, key_bytes, has_before ? &before : NULL, has_after ? &after : NULL);
        if (!*done && order <= 0)
            side_advance(a);
        if (!*done && order >= 0)
            side_advance(b);
        return status;
    }
    reader_leave(reader);
    return status;
}

static void side_close(struct side *side)
{
    free(side->stack);
    free(side->leaf);
    free(side->value);
}

enum eng_status eng_diff_range(struct eng_snapshot *a, struct eng_snapshot *b, const uint8_t *from, size_t from_bytes,
                               const uint8_t *to, size_t to_bytes,
                               enum eng_status (*each)(void *context, const uint8_t *key, size_t key_bytes,
                                                       const struct eng_value *before, const struct eng_value *after),
                               void *context)
{
    assert(a->eng == b->eng);
    /* What a transaction read ends right behind a key: with a byte more than a key may have. */
    enum eng_status status = bounds_check(from, from_bytes ? from_bytes - 1 : 0, to, to_bytes ? to_bytes - 1 : 0);
    if (status != ENG_OK)
        return status;
    struct diff *d = calloc(1, sizeof *d);
    if (!d)
        return eng_fail(ENG_NO_MEMORY, "diff: out of memory");
    d->a.snapshot = a;
    d->b.snapshot = b;
    d->span = (struct span){from ? from : (const uint8_t *)"", to, from ? from_bytes : 0, to_bytes};
    d->each = each;
    d->context = context;
    if (a->version.root)
        status = side_push(&d->a, a->version.root);
    if (status == ENG_OK && b->version.root)
        status = side_push(&d->b, b->version.root);
    bool done = false;
    while (status == ENG_OK && !done)
        status = diff_step(d, &done);
    side_close(&d->a);
    side_close(&d->b);
    free(d);
    return status;
}

enum eng_status eng_diff(struct eng_snapshot *a, struct eng_snapshot *b, const uint8_t *prefix, size_t prefix_bytes,
                         enum eng_status (*each)(void *context, const uint8_t *key, size_t key_bytes,
                                                 const struct eng_value *before, const struct eng_value *after),
                         void *context)
{
    uint8_t behind[ENG_KEY_BYTES_MAX];
    size_t count = 0;
    if (prefix && prefix_bytes > sizeof behind)
        return eng_fail(ENG_INVALID, "prefix: %zu bytes, must be at most %u", prefix_bytes, ENG_KEY_BYTES_MAX);
    if (prefix)
        count = key_behind_prefix(prefix, prefix_bytes, behind);
    return eng_diff_range(a, b, prefix, prefix_bytes, count ? behind : NULL, count, each, context);
}
