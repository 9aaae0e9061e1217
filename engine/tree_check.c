/*
 * A whole tree checked from the entries up (tree.h): every byte that a reader would rely on.
 *
 * For each leaf: bounds, order, hashes, bits, value digests, cached digests, weight; that values lie within it or
 * outside by their size; that it is light, and that the aligned range above it is not. For each inner node: prefix,
 * order and alignment of branches, that it is heavy, counts, sums, weight, digest, the bound of the ways below it.
 * Nothing is repaired. A fault is one line naming the object; the walk goes on where it can.
 */
#include "tree.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct checker {
    struct store *store;
    struct tree_memo *memo; /* may be NULL */
    uint32_t leaf_bytes, inline_bytes;
    void (*report)(void *context, const char *line);
    void *context;
    uint64_t faults;
    uint32_t level;         /* of subtrees */
    enum eng_status failed; /* not everything was looked at, which says nothing about the tree */
};

/* What a node turned out to be. */
struct finding {
    bool good;
    bool leaf;
    uint8_t known; /* in a memo: MEMO_* */
    uint8_t first; /* the first byte behind its depth that its keys share, if they share one */
    uint64_t count, weight;
    size_t common; /* bytes all its keys share */
    uint64_t way;  /* the longest from here down, in units */
};

enum { MEMO_NOTHING, MEMO_ENTERED, MEMO_DONE };
struct tree_memo {
    struct finding *findings; /* by id */
    size_t count;
};

__attribute__((format(printf, 3, 4))) static void fault(struct checker *c, uint32_t id, const char *format, ...)
{
    char line[400];
    /* relaxed: nothing moves while a tree is checked */
    uint64_t word = atomic_load_explicit(&store_view(c->store)->control[id], memory_order_relaxed);
    int n = snprintf(line, sizeof line, "state/segments: object %u at offset %llu: ", id,
                     (unsigned long long)CONTROL_LOCATION(word) * 64);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    va_end(args);
    c->faults++;
    c->report(c->context, line);
}

static bool light(const struct checker *c, uint64_t count, uint64_t weight, size_t common)
{
    return count == 1 || weight - count * common <= c->leaf_bytes;
}

static struct finding check_node(struct checker *c, uint32_t id, uint8_t *path, unsigned depth);

/* A subtree: its object says what its place says, and its contents do too. */
static bool check_tree(struct checker *c, uint32_t id, unsigned index, const struct leaf_entry *e)
{
    static const struct eng_summary empty;
    if (FORM_BYTES(e->form) != STORED_TREE_BYTES || !FORM_OUTSIDE(e->form) || read32(e->stored + 4) != sizeof empty) {
        fault(c, id, "entry %u: impossible form %u", index, e->form);
        return false;
    }
    const struct tree_object *tree = (const struct tree_object *)store_object(c->store, read32(e->stored));
    if (!tree) {
        fault(c, id, "entry %u: %s", index, eng_error());
        return false;
    }
    if (tree->object.type != OBJECT_TREE || memcmp(&tree->summary, e->stored + 8, sizeof empty) != 0) {
        fault(c, id, "entry %u: its subtree is another", index);
        return false;
    }
    if (c->level == ENG_TREE_DEPTH_MAX) {
        fault(c, id, "entry %u: subtrees more than %u deep", index, ENG_TREE_DEPTH_MAX);
        return false;
    }
    uint8_t path[ENG_KEY_BYTES_MAX + 16];
    c->level++;
    bool good = !tree->root || check_node(c, tree->root, path, 0).good;
    c->level--;
    const struct node *top = tree->root && good ? store_node(c->store, tree->root) : NULL;
    if (good && memcmp(top ? &top->summary : &empty, &tree->summary, sizeof empty) != 0) {
        fault(c, id, "entry %u: the summary of its subtree is wrong", index);
        return false;
    }
    return good;
}

_Static_assert(ENG_INLINE_BYTES_MIN >= DIGEST_VALUE_INLINE_MAX, "no value without a digest lies outside");

/* Is it kept where the merge would put it (pending_operations)? */
static bool check_value_place(struct checker *c, uint32_t id, unsigned index, const struct leaf_entry *e,
                              const struct eng_value *value, bool digest)
{
    bool fits = value->tag == ENG_AMOUNT || value->size <= c->inline_bytes, outside = FORM_OUTSIDE(e->form);
    if (fits == outside) {
        fault(c, id, "entry %u: a value of %zu bytes is kept %s the leaf: up to %u bytes lie within", index,
              value->size, outside ? "outside" : "in", c->inline_bytes);
        return false;
    }
    if (digest && value->size <= DIGEST_VALUE_INLINE_MAX) {
        fault(c, id, "entry %u: a digest beside a value of %zu bytes", index, value->size);
        return false;
    }
    return true;
}

/* Does the value's stored digest, and the object outside, say what they should? */
static bool check_value(struct checker *c, uint32_t id, unsigned index, const struct leaf_entry *e)
{
    struct tree_value stored = {e->stored, e->form};
    struct eng_value value;
    const uint8_t *digest;
    uint32_t bytes = FORM_BYTES(e->form);
    if (FORM_TAG(e->form) == ENG_TREE)
        return check_tree(c, id, index, e);
    if (FORM_TAG(e->form) > ENG_AMOUNT || (FORM_TAG(e->form) == ENG_AMOUNT && bytes != 16) ||
        (FORM_OUTSIDE(e->form) && bytes != STORED_OUTSIDE_BYTES)) {
        fault(c, id, "entry %u: impossible form %u", index, e->form);
        return false;
    }
    if (tree_value_read(c->store, &stored, &value, &digest) != ENG_OK) {
        fault(c, id, "entry %u: %s", index, eng_error());
        return false;
    }
    if (FORM_OUTSIDE(e->form) && value.size != read32(e->stored + 4)) {
        fault(c, id, "entry %u: its value has another size", index);
        return false;
    }
    if (!check_value_place(c, id, index, e, &value, digest != NULL))
        return false;
    if (!digest)
        return true;
    uint8_t want[32];
    digest_value(value.bytes, value.size, want);
    if (memcmp(want, digest, 32) != 0) {
        fault(c, id, "entry %u: the value does not match its digest", index);
        return false;
    }
    return true;
}

static bool check_leaf_bounds(struct checker *c, const struct leaf *leaf)
{
    uint32_t id = leaf->node.object.id, units = leaf->node.object.units;
    if (!leaf->count || leaf->bytes > 64u * units ||
        leaf_head_bytes(leaf->count, leaf->prefix_bytes) + leaf_cache_bytes(leaf->count) > leaf->bytes) {
        fault(c, id, "leaf: %u entries do not fit its %u bytes", leaf->count, leaf->bytes);
        return false;
    }
    uint32_t end = leaf->bytes - (uint32_t)leaf_cache_bytes(leaf->count);
    for (unsigned i = 0; i < leaf->count; i++) {
        uint32_t offset = leaf_offset(leaf)[i];
        if (offset + 4u > end) {
            fault(c, id, "entry %u: lies outside the leaf", i);
            return false;
        }
        struct leaf_entry e = leaf_entry_at(leaf, i);
        if (offset + 4u + e.suffix_bytes + FORM_BYTES(e.form) > end ||
            (unsigned)leaf->depth + leaf->prefix_bytes + e.suffix_bytes > ENG_KEY_BYTES_MAX) {
            fault(c, id, "entry %u: lies outside the leaf", i);
            return false;
        }
    }
    return true;
}

/* The summary of entries lo..hi, every cached digest compared on the way. */
static void leaf_sub(struct checker *c, const struct leaf *leaf, const uint8_t *path, unsigned lo, unsigned hi,
                     struct eng_summary *out)
{
    if (lo == hi) {
        leaf_summary(leaf, path, lo, lo, out);
        return;
    }
    unsigned gap = leaf_top_gap(leaf_bit(leaf), lo, hi);
    struct eng_summary left, right;
    leaf_sub(c, leaf, path, lo, gap, &left);
    leaf_sub(c, leaf, path, gap + 1, hi, &right);
    digest_node(&left, &right, leaf_bit(leaf)[gap], out->digest);
    out->count = left.count + right.count;
    digest_sum_add(out->sum, left.sum, right.sum);
    if (memcmp(out->digest, leaf_cache(leaf) + 32u * gap, 32) != 0)
        fault(c, leaf->node.object.id, "leaf: the cached digest of entries %u to %u is wrong", lo, hi);
}

static struct finding check_leaf(struct checker *c, const struct leaf *leaf, uint8_t *path, unsigned depth)
{
    struct finding found = {.leaf = true, .count = leaf->count, .common = depth};
    uint32_t id = leaf->node.object.id;
    if (!check_leaf_bounds(c, leaf))
        return found;
    if (leaf->depth != depth) {
        fault(c, id, "leaf: depth %u below a parent that ends at %u", leaf->depth, depth);
        return found;
    }
    unsigned common = depth + leaf->prefix_bytes;
    memcpy(path + depth, leaf_prefix(leaf), leaf->prefix_bytes);
    uint8_t key[2][ENG_KEY_BYTES_MAX];
    size_t key_bytes[2] = {0, 0};
    size_t shared = ENG_KEY_BYTES_MAX;
    bool good = true;
    for (unsigned i = 0; i < leaf->count; i++) {
        struct leaf_entry e = leaf_entry_at(leaf, i);
        uint8_t *now = key[i & 1], *before = key[!(i & 1)];
        memcpy(now, path, common);
        memcpy(now + common, e.suffix, e.suffix_bytes);
        key_bytes[i & 1] = common + e.suffix_bytes;
        if (leaf_hash(leaf)[i] != key_hash(now, key_bytes[i & 1])) {
            fault(c, id, "entry %u: wrong key hash", i);
            good = false;
        }
        if (i == 0) {
            shared = key_bytes[0];
        } else if (bytes_compare(before, key_bytes[!(i & 1)], now, key_bytes[i & 1]) >= 0) {
            fault(c, id, "entry %u: out of order", i);
            return found;
        } else {
            uint32_t bit = digest_first_bit(before, key_bytes[!(i & 1)], now, key_bytes[i & 1]);
            if (bit != leaf_bit(leaf)[i - 1]) {
                fault(c, id, "entry %u: parts from the one before at bit %u, not %u", i, bit, leaf_bit(leaf)[i - 1]);
                return found;
            }
            if (bit / 9 < shared)
                shared = bit / 9;
        }
        found.weight += 8u + key_bytes[i & 1] + FORM_BYTES(e.form);
        good &= check_value(c, id, i, &e);
    }
    if (shared != common)
        fault(c, id, "leaf: its prefix ends at %u, its keys share %zu bytes", common, shared);
    if (!light(c, found.count, found.weight, common))
        fault(c, id, "leaf: heavier than %u", c->leaf_bytes);
    if (found.weight != leaf->node.weight)
        fault(c, id, "leaf: weight %llu, not %llu", (unsigned long long)found.weight,
              (unsigned long long)leaf->node.weight);
    struct eng_summary summary;
    leaf_sub(c, leaf, path, 0, leaf->count - 1u, &summary);
    if (memcmp(&summary, &leaf->node.summary, sizeof summary) != 0) {
        fault(c, id, "leaf: its digest, count or sum is wrong");
        good = false;
    }
    found.common = common;
    found.good = good;
    found.way = leaf->node.object.units;
    return found;
}

/* Branches in order, aligned, apart; each leaf branch as wide as it can be. */
static void check_branches(struct checker *c, const struct inner *inner, const struct finding *children)
{
    uint32_t id = inner->node.object.id;
    const uint8_t *start = inner_start(inner), *log2 = inner_log2(inner);
    unsigned end = 0, at = inner_child_depth(inner);
    for (unsigned b = inner->own; b < inner->branches; b++) {
        if (log2[b] > 8 || start[b] < end || (start[b] & ((1u << log2[b]) - 1u))) {
            fault(c, id, "branch %u: range %u+2^%u is out of place", b, start[b], log2[b]);
            return;
        }
        end = start[b] + (1u << log2[b]);
        if (!children[b].leaf && log2[b] != 0)
            fault(c, id, "branch %u: an inner node spans several byte values", b);
        if (log2[b] >= 8)
            continue;
        unsigned width = 2u << log2[b], from = start[b] & ~(width - 1u);
        uint64_t count = 0, weight = 0;
        unsigned n = 0;
        for (unsigned i = inner->own; i < inner->branches; i++)
            if (start[i] >= from && start[i] < from + width) {
                count += children[i].count;
                weight += children[i].weight;
                n++;
            }
        if (light(c, count, weight, n == 1 ? children[b].common : at))
            fault(c, id, "branch %u: range %u+%u would fit one leaf", b, from, width);
    }
}

static struct finding check_inner(struct checker *c, const struct inner *inner, uint8_t *path, unsigned depth)
{
    struct finding found = {.common = depth};
    uint32_t id = inner->node.object.id;
    if (inner->branches < 2 || inner->branches > INNER_BRANCHES_MAX || inner->own > 1 ||
        inner_bytes(inner->branches, inner->prefix_bytes) != inner->bytes ||
        inner->bytes > 64u * inner->node.object.units || inner->depth != depth ||
        depth + inner->prefix_bytes > ENG_KEY_BYTES_MAX) {
        fault(c, id, "inner node: impossible header");
        return found;
    }
    unsigned at = depth + inner->prefix_bytes, branches = inner->branches;
    memcpy(path + depth, inner_prefix(inner), inner->prefix_bytes);
    struct finding *children = calloc(branches, sizeof *children);
    if (!children) {
        c->failed = eng_fail(ENG_NO_MEMORY, "check: out of memory");
        return found;
    }
    bool good = true;
    for (unsigned b = 0; b < branches; b++) {
        children[b] = check_node(c, inner_child(inner)[b], path, at);
        good &= children[b].good;
        found.count += children[b].count;
        found.weight += children[b].weight;
        found.way = children[b].way > found.way ? children[b].way : found.way;
        const uint8_t *start = inner_start(inner), *log2 = inner_log2(inner);
        bool own = b == 0 && inner->own;
        if (own ? children[b].common != at || children[b].count != 1
                : children[b].common > at && (unsigned)(path[at] - start[b]) >> log2[b]) {
            fault(c, id, "branch %u: its keys lie outside its range", b);
            good = false;
        }
    }
    found.common = at;
    if (good) {
        check_branches(c, inner, children);
        if (light(c, found.count, found.weight, at))
            fault(c, id, "inner node: would fit one leaf");
        if (found.weight != inner->node.weight)
            fault(c, id, "inner node: weight is wrong");
        if (inner->below && inner->below < found.way)
            fault(c, id, "inner node: %u units below it, there is a way of %llu", inner->below,
                  (unsigned long long)found.way);
        struct eng_summary summary;
        if (inner_summary(c->store, inner, 0, branches - 1u, &summary) != ENG_OK ||
            memcmp(&summary, &inner->node.summary, sizeof summary) != 0)
            fault(c, id, "inner node: its digest, count or sum is wrong");
    }
    free(children);
    found.good = good;
    found.way += inner->node.object.units;
    return found;
}

static struct finding check_node_itself(struct checker *c, uint32_t id, uint8_t *path, unsigned depth)
{
    const struct node *node = store_node(c->store, id);
    if (!node) { /* the line names the object and its place */
        c->faults++;
        c->report(c->context, eng_error());
        return (struct finding){.common = depth};
    }
    if (node->object.type == OBJECT_LEAF)
        return check_leaf(c, (const struct leaf *)node, path, depth);
    if (node->object.type == OBJECT_INNER)
        return check_inner(c, (const struct inner *)node, path, depth);
    fault(c, id, "is not a node of a tree");
    return (struct finding){.common = depth};
}

static bool memo_room(struct tree_memo *memo, uint32_t id)
{
    if (id < memo->count)
        return true;
    size_t count = (id + 1024u) / 2 * 3;
    struct finding *grown = realloc(memo->findings, count * sizeof *grown);
    if (!grown)
        return false;
    memset(grown + memo->count, 0, (count - memo->count) * sizeof *grown);
    memo->findings = grown;
    memo->count = count;
    return true;
}

/* A node that several versions share is looked at once. */
static struct finding check_node(struct checker *c, uint32_t id, uint8_t *path, unsigned depth)
{
    struct finding found = {.common = depth};
    if (!c->memo)
        return check_node_itself(c, id, path, depth);
    if (!memo_room(c->memo, id)) {
        c->failed = eng_fail(ENG_NO_MEMORY, "check: out of memory");
        return found;
    }
    switch (c->memo->findings[id].known) {
    case MEMO_ENTERED:
        fault(c, id, "lies below itself");
        return found;
    case MEMO_DONE:
        found = c->memo->findings[id];
        if (!found.good)
            fault(c, id, "damaged, as said before");
        else if (found.common > depth)
            path[depth] = found.first;
        return found;
    }
    c->memo->findings[id].known = MEMO_ENTERED;
    uint64_t faults = c->faults;
    found = check_node_itself(c, id, path, depth);
    found.good = found.good && c->faults == faults;
    found.first = found.common > depth ? path[depth] : 0;
    found.known = MEMO_DONE;
    c->memo->findings[id] = found;
    return found;
}

struct tree_memo *tree_memo_new(void)
{
    return calloc(1, sizeof(struct tree_memo));
}

void tree_memo_free(struct tree_memo *memo)
{
    if (memo)
        free(memo->findings);
    free(memo);
}

enum eng_status tree_check(struct store *store, uint32_t root, uint32_t leaf_bytes, uint32_t inline_bytes,
                           void (*report)(void *context, const char *line), void *context)
{
    return tree_check_shared(store, NULL, root, leaf_bytes, inline_bytes, report, context);
}

enum eng_status tree_check_shared(struct store *store, struct tree_memo *memo, uint32_t root, uint32_t leaf_bytes,
                                  uint32_t inline_bytes, void (*report)(void *context, const char *line), void *context)
{
    struct checker c = {.store = store,
                        .memo = memo,
                        .leaf_bytes = leaf_bytes,
                        .inline_bytes = inline_bytes,
                        .report = report,
                        .context = context};
    uint8_t path[ENG_KEY_BYTES_MAX + 16];
    if (root)
        check_node(&c, root, path, 0);
    if (c.failed != ENG_OK)
        return c.failed;
    return c.faults ? eng_fail(ENG_DAMAGED, "state: %llu faults", (unsigned long long)c.faults) : ENG_OK;
}
