/*
 * The shape of the tree (DESIGN 3.3), decided from contents alone.
 *
 * A set of entries is light if it has one entry or weighs at most leaf_bytes after its longest common prefix. Light
 * sets are leaves. A heavy set is an inner node: prefix, own entry, and the next byte's range [0, 256) cut in half
 * until each piece is light or one byte value. Adding an entry never makes a set lighter, so whether a piece is a leaf
 * can be decided from its count, weight and common prefix, without knowing how it came to be.
 */
#include "merge.h"

struct set gather_items(struct merger *m, struct item *items, size_t count)
{
    struct set all = {.kind = SET_PENDING};
    for (size_t i = 0; i < count; i++) {
        if (items[i].set.kind == SET_NODE) {
            struct node *node = merge_read(m, items[i].set.id);
            assert(node->object.type == OBJECT_LEAF); /* an inner node is heavy, so is everything it is part of */
            items[i].set = leaf_extract(m, (struct leaf *)node);
        }
        all.count += items[i].set.count;
        all.weight += items[i].set.weight;
    }
    if (count == 1)
        return items[0].set;
    all.entries = merge_scratch(m, all.count * sizeof *all.entries);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(all.entries + n, items[i].set.entries, items[i].set.count * sizeof *all.entries);
        n += items[i].set.count;
    }
    return all;
}

struct cutter {
    struct merger *m;
    unsigned at; /* key byte that is cut on */
    struct branch *out;
    size_t count;
};

static struct item pending_slice(const struct entry *entries, size_t count, unsigned at, int16_t old)
{
    struct item item = {.set = {.kind = SET_PENDING, .entries = (struct entry *)(uintptr_t)entries, .count = count},
                        .start = entries[0].key[at],
                        .old = old,
                        .dirty = true};
    for (size_t i = 0; i < count; i++)
        item.set.weight += entry_weight(&entries[i]);
    return item;
}

/* Do the entries of the items of one range fit one leaf? A node that is there already says so by its type. */
static bool range_is_light(const struct cutter *c, const struct item *items, size_t count)
{
    if (count == 1 && items->set.kind == SET_NODE)
        return items->set.leaf;
    uint64_t entries = 0, weight = 0;
    for (size_t i = 0; i < count; i++) {
        entries += items[i].set.count;
        weight += items[i].set.weight;
    }
    /* several items differ in the byte that is cut on */
    size_t common = count == 1 ? entries_common(items->set.entries, items->set.count) : c->at;
    return set_is_light(c->m, entries, weight, common);
}

static void cut(struct cutter *c, struct item *items, size_t count, unsigned start, unsigned log2)
{
    if (!count)
        return;
    struct merger *m = c->m;
    if (range_is_light(c, items, count)) {
        struct branch *out = &c->out[c->count++];
        *out = (struct branch){
            .start = (uint8_t)start, .log2 = (uint8_t)log2, .old = count == 1 ? items->old : -1, .dirty = true};
        if (count == 1 && items->set.kind == SET_NODE) {
            out->id = items->set.id;
            out->dirty = items->dirty;
            return;
        }
        struct set set = gather_items(m, items, count);
        out->id = build_leaf(m, set.entries, set.count, c->at);
        return;
    }
    if (log2 == 0) {
        assert(count == 1);
        struct branch *out = &c->out[c->count++];
        *out = (struct branch){.start = (uint8_t)start, .old = items->old, .dirty = true};
        if (items->set.kind == SET_NODE) {
            out->id = items->set.id;
            out->dirty = items->dirty;
            return;
        }
        struct set set = gather_items(m, items, 1);
        out->id = build_set(m, set.entries, set.count, c->at);
        return;
    }
    unsigned middle = start + (1u << (log2 - 1));
    size_t left = 0;
    while (left < count && items[left].start < middle)
        left++;
    struct item *straddles = left ? &items[left - 1] : NULL;
    if (!straddles || straddles->set.kind != SET_PENDING ||
        straddles->set.entries[straddles->set.count - 1].key[c->at] < middle) {
        cut(c, items, left, start, log2 - 1);
        cut(c, items + left, count - left, middle, log2 - 1);
        return;
    }
    const struct entry *e = straddles->set.entries;
    size_t lo = 0, hi = straddles->set.count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (e[mid].key[c->at] < middle)
            lo = mid + 1;
        else
            hi = mid;
    }
    struct item *halves = merge_scratch(m, (count + 1) * sizeof *halves);
    memcpy(halves, items, left * sizeof *halves);
    memcpy(halves + left + 1, items + left, (count - left) * sizeof *halves);
    halves[left - 1] = pending_slice(e, lo, c->at, straddles->old);
    halves[left] = pending_slice(e + lo, straddles->set.count - lo, c->at, -1);
    cut(c, halves, left, start, log2 - 1);
    cut(c, halves + left, count + 1 - left, middle, log2 - 1);
}

size_t cut_items(struct merger *m, struct item *items, size_t count, unsigned child_depth, struct branch *branches)
{
    struct cutter c = {.m = m, .at = child_depth, .out = branches};
    if (count && items->log2 == INNER_OWN_LOG2) {
        struct branch *out = &branches[c.count++];
        *out = (struct branch){.log2 = INNER_OWN_LOG2, .old = items->old, .dirty = items->dirty, .id = items->set.id};
        if (items->set.kind == SET_PENDING) {
            out->id = build_leaf(m, items->set.entries, items->set.count, child_depth);
            out->dirty = true;
        }
        items++;
        count--;
    }
    cut(&c, items, count, 0, 8);
    return c.count;
}

/* A new inner node; untouched neighbours keep their digests from old. */
static struct set build_inner(struct merger *m, unsigned depth, unsigned child_depth, const uint8_t *head,
                              const struct branch *branches, size_t count, const struct digest_cache *old)
{
    size_t bytes = inner_bytes((unsigned)count, child_depth - depth);
    uint32_t id;
    struct inner *inner = (struct inner *)store_alloc(arena_inner(m->arena), OBJECT_INNER, bytes, &id);
    if (!inner)
        merge_fail(m, arena_status(arena_inner(m->arena)));
    inner->zero = 0;
    inner->bytes = (uint32_t)bytes;
    inner->branches = (uint16_t)count;
    inner->depth = (uint16_t)depth;
    inner->prefix_bytes = (uint16_t)(child_depth - depth);
    inner->own = branches[0].log2 == INNER_OWN_LOG2;
    struct digest_cache *cache = digest_cache_new(m->caches, (uint32_t)count);
    if (!cache)
        merge_fail(m, ENG_NO_MEMORY);
    if (!cache_set(m->caches, id, cache)) {
        digest_cache_free(m->caches, cache);
        merge_fail(m, ENG_NO_MEMORY);
    }
    cache_move(m, id, id);
    uint64_t dirty[DIRTY_WORDS] = {0};
    const struct eng_summary *fresh[INNER_BRANCHES_MAX];
    uint64_t weight = 0;
    uint32_t below = 0;
    size_t read = 0;
    for (size_t i = 0; i < count; i++) {
        const struct branch *b = &branches[i];
        inner_start(inner)[i] = b->start;
        inner_log2(inner)[i] = b->log2;
        inner_set_child(m->store, inner, (unsigned)i, b->id);
        int before = i ? branches[i - 1].old : -1;
        bool follows = old && b->old >= 0 && (i == 0 ? b->old == 0 : b->old == before + 1 && before >= 0);
        bool last = !old || (i + 1 == count && (uint32_t)b->old + 1u != old->branches);
        if (b->dirty || !follows || last)
            dirty[i >> 6] |= 1ull << (i & 63);
        if (i && !follows)
            dirty[(i - 1) >> 6] |= 1ull << ((i - 1) & 63);
        if (i && follows)
            cache->record[2 * i - 1] = old->record[2 * before + 1];
        fresh[i] = NULL;
        if (old && b->old >= 0 && !b->dirty) {
            cache->record[2 * i] = old->record[2 * b->old];
            cache->weight[i] = old->weight[b->old];
        } else {
            const struct node *node = merge_read(m, b->id);
            fresh[i] = &node->summary;
            cache->weight[i] = node->weight;
            below = way_longest(below, node, read++ == 0);
        }
        weight += cache->weight[i];
    }
    memset(inner_log2(inner) + count, 0, (uint8_t *)inner_child(inner) - (inner_log2(inner) + count));
    memcpy(inner_prefix(inner), head + depth, child_depth - depth);
    inner->node.weight = weight;
    if (read < count) /* what was not looked at is no more than it was in the node of before */
        below = old->below == 0 || (read && below == 0) ? 0 : below > old->below ? below : old->below;
    inner->below = below;
    inner_digest(m, inner, cache, dirty, fresh);
    return (struct set){.kind = SET_NODE, .id = id, .count = inner->node.summary.count, .weight = weight};
}

struct set finish_items(struct merger *m, unsigned depth, unsigned child_depth, const uint8_t *head, struct item *items,
                        size_t count, const struct digest_cache *old)
{
    if (!count)
        return (struct set){.kind = SET_EMPTY};
    uint64_t entries = 0, weight = 0;
    for (size_t i = 0; i < count; i++) {
        entries += items[i].set.count;
        weight += items[i].set.weight;
    }
    if (count == 1 && items->set.kind == SET_NODE && !items->set.leaf) {
        struct inner *inner = (struct inner *)merge_read(m, items->set.id); /* a lone child joins the prefix */
        memmove(m->path, head, child_depth);
        memcpy(m->path + inner->depth, inner_prefix(inner), inner->prefix_bytes);
        return inner_rehang(m, inner, depth);
    }
    if (count == 1 || set_is_light(m, entries, weight, child_depth))
        return gather_items(m, items, count);
    struct branch *branches = merge_scratch(m, INNER_BRANCHES_MAX * sizeof *branches);
    size_t n = cut_items(m, items, count, child_depth, branches);
    return build_inner(m, depth, child_depth, head, branches, n, old);
}

uint32_t build_set(struct merger *m, const struct entry *entries, size_t count, unsigned depth)
{
    size_t common = entries_common(entries, count);
    uint64_t weight = 0;
    for (size_t i = 0; i < count; i++)
        weight += entry_weight(&entries[i]);
    if (set_is_light(m, count, weight, common))
        return build_leaf(m, entries, count, depth);
    struct item items[2];
    size_t n = 0;
    bool own = entries[0].key_bytes == common;
    struct entry *list = (struct entry *)(uintptr_t)entries;
    if (own)
        items[n++] =
            (struct item){.set = {.kind = SET_PENDING, .entries = list, .count = 1, .weight = entry_weight(list)},
                          .log2 = INNER_OWN_LOG2,
                          .old = -1,
                          .dirty = true};
    items[n++] = pending_slice(list + own, count - own, (unsigned)common, -1);
    struct branch *branches = merge_scratch(m, INNER_BRANCHES_MAX * sizeof *branches);
    size_t cuts = cut_items(m, items, n, (unsigned)common, branches);
    return build_inner(m, depth, (unsigned)common, entries[0].key, branches, cuts, NULL).id;
}
