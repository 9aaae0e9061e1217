/*
 * Inner nodes of the merge.
 *
 * merge_inner: operations outside the node's prefix part it (part_prefix); the others are grouped by branch, each group
 * is merged into its child, and then one question decides: does any branch appear, vanish, change its kind, or fit one
 * leaf with its neighbours now? If not, the node is copied with new child ids (replace_children); if so, its branches
 * become items and the shape is decided anew (finish_items).
 *
 * A range that only grew cannot have become light, so only branches that lost weight look at the aligned range above
 * them, and only a node that lost weight looks at itself.
 */
#include "merge.h"
#include "prefetch.h"

static inline void mark(uint64_t dirty[DIRTY_WORDS], unsigned i)
{
    dirty[i >> 6] |= 1ull << (i & 63);
}

static inline bool any_marked(const uint64_t dirty[DIRTY_WORDS], unsigned lo, unsigned hi)
{
    for (unsigned w = lo >> 6; w <= hi >> 6; w++) {
        uint64_t bits = dirty[w];
        if (w == lo >> 6)
            bits &= ~0ull << (lo & 63);
        if (w == hi >> 6)
            bits &= ~0ull >> (63 - (hi & 63));
        if (bits)
            return true;
    }
    return false;
}

/* ---- digests ---- */

struct branch_emit {
    struct eng_summary *out;
    const struct eng_summary *left, *right;
    uint32_t bit;
};

/* The logical nodes of one inner node that change, children first. They are listed before any of their summaries is
 * looked at, so that those are on their way into the cache meanwhile: a node's records are spread over kilobytes. */
struct branch_trie {
    const struct inner *inner;
    struct eng_summary *record;
    const uint64_t *dirty;
    const struct eng_summary *const *fresh; /* [i]: summary of a dirty child, in its object */
    unsigned count;
    struct branch_emit emit[INNER_BRANCHES_MAX];
};

static const struct eng_summary *branch_trie(struct branch_trie *t, unsigned lo, unsigned hi, bool top)
{
    const struct eng_summary *found;
    if (lo == hi) {
        found = t->fresh[lo] ? t->fresh[lo] : &t->record[2 * lo];
        __builtin_prefetch(found);
        return found;
    }
    uint32_t bit;
    unsigned part = branches_part(inner_start(t->inner), t->inner->own, lo, hi, inner_child_depth(t->inner), &bit);
    struct eng_summary *out = &t->record[2 * part + 1];
    if (!top && !any_marked(t->dirty, lo, hi)) {
        __builtin_prefetch(out);
        return out;
    }
    prefetch_write(out);
    const struct eng_summary *left = branch_trie(t, lo, part, false), *right = branch_trie(t, part + 1, hi, false);
    t->emit[t->count++] = (struct branch_emit){out, left, right, bit};
    return out;
}

/* Lists the node over the 2^level branches from base on, of a node with a branch for each of the 256 bytes. */
static void full_node(struct branch_trie *t, unsigned base, unsigned level)
{
    unsigned half = 1u << (level - 1), part = base + half - 1;
    const struct eng_summary *left = &t->record[2 * base], *right = &t->record[2 * (base + 1)];
    if (level > 1) {
        left = &t->record[2 * (part - half / 2) + 1];
        right = &t->record[2 * (part + half / 2) + 1];
    } else {
        left = t->fresh[base] ? t->fresh[base] : left;
        right = t->fresh[base + 1] ? t->fresh[base + 1] : right;
    }
    __builtin_prefetch(left);
    __builtin_prefetch(right);
    struct eng_summary *out = &t->record[2 * part + 1];
    prefetch_write(out);
    t->emit[t->count++] = (struct branch_emit){out, left, right, 9u * inner_child_depth(t->inner) + 9u - level};
}

/* The same of such a node, whose trie is known without looking at its branches: level by level from the leaves up, the
 * first branch of what is dirty on each. */
static void full_trie(struct branch_trie *t)
{
    static const uint64_t first_of[] = {~0ull,
                                        0x5555555555555555ull,
                                        0x1111111111111111ull,
                                        0x0101010101010101ull,
                                        0x0001000100010001ull,
                                        0x0000000100000001ull,
                                        1};
    uint64_t dirty[4];
    memcpy(dirty, t->dirty, sizeof dirty);
    for (unsigned level = 1; level <= 6; level++)
        for (unsigned w = 0; w < 4; w++) {
            dirty[w] = (dirty[w] | dirty[w] >> (1u << (level - 1))) & first_of[level];
            for (uint64_t bits = dirty[w]; bits; bits &= bits - 1)
                full_node(t, 64 * w + (unsigned)__builtin_ctzll(bits), level);
        }
    for (unsigned w = 0; w < 4; w += 2)
        if (dirty[w] | dirty[w + 1])
            full_node(t, 64 * w, 7);
    full_node(t, 0, 8);
}

void inner_digest(struct merger *m, struct inner *inner, struct digest_cache *cache, const uint64_t dirty[DIRTY_WORDS],
                  const struct eng_summary *const fresh[])
{
    struct branch_trie t;
    t.inner = inner;
    t.record = cache->record;
    t.dirty = dirty;
    t.fresh = fresh;
    t.count = 0;
    if (inner->branches == 256 && !inner->own)
        full_trie(&t);
    else
        branch_trie(&t, 0, inner->branches - 1u, true);
    for (unsigned i = 0; i + 1 < t.count; i++) {
        const struct branch_emit *e = &t.emit[i];
        digest_emit_node(&m->queue, e->out, e->left, e->right, e->bit, NULL);
    }
    /* the last is the whole node: jobs of nodes above read it in the object */
    const struct branch_emit *whole = &t.emit[t.count - 1];
    struct eng_summary *summary = &inner->node.summary;
    digest_emit_node(&m->queue, summary, whole->left, whole->right, whole->bit, whole->out->digest);
    whole->out->count = summary->count;
    memcpy(whole->out->sum, summary->sum, sizeof summary->sum);
    for (unsigned w = 0; 64 * w < inner->branches; w++)
        for (uint64_t bits = dirty[w]; bits; bits &= bits - 1) {
            unsigned i = 64 * w + (unsigned)__builtin_ctzll(bits);
            if (i >= inner->branches)
                break;     /* all are marked */
            if (!fresh[i]) /* marked for its neighbour only */
                continue;
            cache->record[2 * i].count = fresh[i]->count;
            memcpy(cache->record[2 * i].sum, fresh[i]->sum, sizeof fresh[i]->sum);
            digest_emit_copy(&m->queue, cache->record[2 * i].digest, fresh[i]->digest);
        }
    if (m->queue.failed)
        merge_fail(m, ENG_NO_MEMORY);
    if (digest_queue_full(&m->queue))
        digest_queue_run(&m->queue);
}

struct digest_cache *inner_cache(struct merger *m, struct inner *inner, bool *fresh)
{
    uint32_t id = inner->node.object.id;
    struct digest_cache *cache = cache_of(m->caches, id);
    *fresh = !cache;
    if (cache) {
        assert(cache->branches == inner->branches);
        cache->below = inner->below;
        return cache;
    }
    const uint32_t *child = inner_child(inner);
    unsigned branches = inner->branches;
    uint64_t weight = 0;
    for (unsigned i = 0; i < branches; i++)
        store_prefetch_control(m->store, child[i]);
    cache = digest_cache_new(m->caches, branches);
    if (!cache)
        merge_fail(m, ENG_NO_MEMORY);
    if (!cache_set(m->caches, id, cache)) {
        digest_cache_free(m->caches, cache);
        merge_fail(m, ENG_NO_MEMORY);
    }
    cache_move(m, id, id); /* on the list of what an undone merge forgets: it is not whole before the digests are run */
    for (unsigned i = 0; i < branches; i++) {
        const struct node *node = merge_read(m, child[i]);
        cache->record[2 * i] = node->summary;
        cache->weight[i] = node->weight;
        cache->below = way_longest(cache->below, node, i == 0);
        weight += node->weight;
    }
    if (weight != inner->node.weight) { /* from here on it is carried on by differences */
        (void)eng_fail(ENG_DAMAGED, "inner node %u: weight %llu, its children together %llu", id,
                       (unsigned long long)inner->node.weight, (unsigned long long)weight);
        merge_fail(m, ENG_DAMAGED);
    }
    return cache;
}

/* ---- changes that keep the branches ---- */

static struct inner *inner_alloc(struct merger *m, size_t bytes, uint32_t *id)
{
    struct inner *inner = (struct inner *)store_alloc(arena_inner(m->arena), OBJECT_INNER, bytes, id);
    if (!inner)
        merge_fail(m, arena_status(arena_inner(m->arena)));
    inner->zero = 0;
    inner->below = 0;
    inner->bytes = (uint32_t)bytes;
    return inner;
}

struct set inner_rehang(struct merger *m, struct inner *inner, unsigned depth)
{
    struct set set = {.kind = SET_NODE,
                      .id = inner->node.object.id,
                      .count = inner->node.summary.count,
                      .weight = inner->node.weight};
    if (inner->depth == depth)
        return set;
    if (inner->node.object.generation == m->generation)
        digest_queue_run(&m->queue); /* its digest may still be queued */
    unsigned child_depth = inner_child_depth(inner), branches = inner->branches;
    /* m->path holds [0, child_depth): the caller has put the prefix there */
    struct inner *copy = inner_alloc(m, inner_bytes(branches, child_depth - depth), &set.id);
    copy->node.summary = inner->node.summary;
    copy->node.weight = inner->node.weight;
    copy->branches = inner->branches;
    copy->depth = (uint16_t)depth;
    copy->prefix_bytes = (uint16_t)(child_depth - depth);
    copy->own = inner->own;
    copy->below = inner->below;
    memcpy(inner_start(copy), inner_start(inner), inner_prefix(inner) - inner_start(inner));
    memcpy(inner_prefix(copy), m->path + depth, child_depth - depth);
    cache_move(m, inner->node.object.id, set.id);
    merge_kill(m, &inner->node.object);
    return set;
}

/* The new version of a node whose branches stay: groups hold what became of some of them. */
static struct set replace_children(struct merger *m, struct inner *inner, struct digest_cache *cache, unsigned depth,
                                   const struct merge_group *groups, size_t count, uint64_t weight, bool all_dirty)
{
    unsigned child_depth = inner_child_depth(inner), branches = inner->branches;
    uint32_t id;
    struct inner *copy = inner_alloc(m, inner_bytes(branches, child_depth - depth), &id);
    copy->node.weight = weight;
    copy->branches = inner->branches;
    copy->depth = (uint16_t)depth;
    copy->prefix_bytes = (uint16_t)(child_depth - depth);
    copy->own = inner->own;
    memcpy(inner_start(copy), inner_start(inner), inner_prefix(inner) - inner_start(inner));
    memcpy(inner_prefix(copy), m->path + depth, child_depth - depth);
    uint64_t dirty[DIRTY_WORDS] = {0};
    const struct eng_summary *fresh[INNER_BRANCHES_MAX];
    uint32_t below = cache->below;
    memset(fresh, 0, branches * sizeof *fresh);
    if (all_dirty)
        memset(dirty, 0xff, sizeof dirty);
    for (size_t g = 0; g < count; g++) {
        const struct merge_group *group = &groups[g];
        if (group->branch < 0 || (group->set.kind == SET_NODE && group->set.id == group->child))
            continue;
        unsigned b = (unsigned)group->branch;
        uint32_t child = group->set.kind == SET_NODE ? group->set.id
                                                     : build_leaf(m, group->set.entries, group->set.count, child_depth);
        inner_set_child(m->store, copy, b, child);
        mark(dirty, b);
        const struct node *node = merge_read(m, child);
        fresh[b] = &node->summary;
        below = way_longest(below, node, false);
    }
    copy->below = below;
    inner_digest(m, copy, cache, dirty, fresh);
    cache_move(m, inner->node.object.id, id);
    merge_kill(m, &inner->node.object);
    return (struct set){.kind = SET_NODE, .id = id, .count = copy->node.summary.count, .weight = weight};
}

/* ---- does the shape change? ---- */

/* The aligned range above a branch that lost weight: does it fit one leaf now? */
static bool range_fits(const struct merger *m, const struct inner *inner, const struct digest_cache *cache, unsigned b)
{
    const uint8_t *start = inner_start(inner), *log2 = inner_log2(inner);
    if (log2[b] == INNER_OWN_LOG2 || log2[b] >= 8)
        return false;
    unsigned width = 2u << log2[b], from = start[b] & ~(width - 1u);
    uint64_t count = 0, weight = 0;
    for (unsigned i = inner->own; i < inner->branches; i++) {
        if (start[i] < from || start[i] >= from + width)
            continue;
        count += cache->record[2 * i].count;
        weight += cache->weight[i];
    }
    return set_is_light(m, count, weight, inner_child_depth(inner));
}

/* Takes the groups' results into the cache's counts and weights; true if branches must be cut anew, otherwise *weight
 * is that of the node. */
static bool shape_changes(struct merger *m, const struct inner *inner, struct digest_cache *cache,
                          const struct merge_group *groups, size_t count, uint64_t *weight)
{
    *weight = inner->node.weight;
    unsigned child_depth = inner_child_depth(inner);
    bool changes = false, lost_any = false;
    uint64_t lost[DIRTY_WORDS] = {0};
    for (size_t g = 0; g < count; g++) {
        const struct set *set = &groups[g].set;
        if (groups[g].branch < 0) {
            changes |= set->kind != SET_EMPTY;
            continue;
        }
        if (set->kind == SET_NODE && set->id == groups[g].child)
            continue;
        unsigned b = (unsigned)groups[g].branch;
        uint64_t had_count = cache->record[2 * b].count, had_weight = cache->weight[b];
        cache->record[2 * b].count = set->kind == SET_EMPTY ? 0 : set->count;
        cache->weight[b] = set->kind == SET_EMPTY ? 0 : set->weight;
        if (set->kind == SET_EMPTY || (groups[g].was_inner && set->kind != SET_NODE)) {
            changes = true;
            continue;
        }
        *weight += set->weight - had_weight;
        if (set->kind == SET_PENDING &&
            !set_is_light(m, set->count, set->weight, entries_common(set->entries, set->count)))
            changes = true;
        if (set->weight - set->count * child_depth < had_weight - had_count * child_depth) {
            mark(lost, b);
            lost_any = true;
        }
    }
    if (changes || !lost_any)
        return changes;
    uint64_t total = 0;
    for (unsigned b = 0; b < inner->branches; b++)
        total += cache->record[2 * b].count;
    if (set_is_light(m, total, *weight, child_depth))
        return true;
    for (size_t g = 0; g < count; g++) {
        int b = groups[g].branch;
        if (b >= 0 && (lost[b >> 6] >> (b & 63) & 1) && range_fits(m, inner, cache, (unsigned)b))
            return true;
    }
    return false;
}

/* All branches as items, the groups' results in their places. */
static struct set recut(struct merger *m, struct inner *inner, struct digest_cache *cache, unsigned depth,
                        struct merge_group *groups, size_t count, bool fresh_cache)
{
    unsigned child_depth = inner_child_depth(inner);
    struct item *items = merge_scratch(m, (inner->branches + count) * sizeof *items);
    const uint8_t *start = inner_start(inner), *log2 = inner_log2(inner);
    size_t n = 0, g = 0;
    for (unsigned b = 0; b <= inner->branches; b++) {
        /* groups without a branch that come before branch b */
        for (; g < count && groups[g].branch < 0; g++) {
            const struct set *set = &groups[g].set;
            if (b < inner->branches) {
                const operation *op = &m->ops[groups[g].lo];
                if (log2[b] == INNER_OWN_LOG2 || (op->key_bytes > child_depth && op->key[child_depth] > start[b]))
                    break;
            }
            if (set->kind != SET_PENDING)
                continue;
            bool own = set->entries[0].key_bytes == child_depth;
            items[n++] = (struct item){.set = *set,
                                       .start = own ? 0 : set->entries[0].key[child_depth],
                                       .log2 = own ? INNER_OWN_LOG2 : 0,
                                       .old = -1,
                                       .dirty = true};
        }
        if (b == inner->branches)
            break;
        struct item item = {.start = start[b], .log2 = log2[b], .old = (int16_t)b};
        uint32_t child = inner_child(inner)[b];
        if (g < count && groups[g].branch == (int)b) {
            item.set = groups[g].set;
            item.dirty = item.set.kind != SET_NODE || item.set.id != child;
            g++;
            if (item.set.kind == SET_EMPTY)
                continue;
        } else {
            item.set = (struct set){
                .kind = SET_NODE, .id = child, .count = cache->record[2 * b].count, .weight = cache->weight[b]};
        }
        if (item.set.kind == SET_NODE)
            item.set.leaf = store_type(m->store, item.set.id) == OBJECT_LEAF;
        if (item.set.kind == SET_PENDING && item.log2 != INNER_OWN_LOG2)
            item.start = item.set.entries[0].key[child_depth]; /* where it really begins: it may be cut */
        items[n++] = item;
    }
    assert(g == count);
    struct set set = finish_items(m, depth, child_depth, m->path, items, n, fresh_cache ? NULL : cache);
    cache_drop(m, inner->node.object.id);
    merge_kill(m, &inner->node.object);
    return set;
}

/* ---- operations outside the prefix ---- */

/* Key bytes an operation shares with path[0, limit), from depth on. */
static unsigned shared_bytes(const struct merger *m, const operation *op, unsigned depth, unsigned limit)
{
    unsigned i = depth;
    while (i < limit && i < op->key_bytes && op->key[i] == m->path[i])
        i++;
    return i;
}

static void add_pending(struct merger *m, struct item *items, size_t *n, size_t lo, size_t hi, unsigned at)
{
    struct set set = pending_operations(m, lo, hi);
    if (set.kind == SET_EMPTY)
        return;
    bool own = set.entries[0].key_bytes == at;
    items[(*n)++] = (struct item){.set = set,
                                  .start = own ? 0 : set.entries[0].key[at],
                                  .log2 = own ? INNER_OWN_LOG2 : 0,
                                  .old = -1,
                                  .dirty = true};
}

/* Keys were put that leave the prefix at key byte part: a new node there, the old one below it. */
static struct set part_prefix(struct merger *m, struct inner *inner, unsigned depth, unsigned part, size_t lo,
                              size_t hi)
{
    struct item items[4];
    size_t n = 0, at = lo;
    uint8_t byte = m->path[part];
    if (at < hi && m->ops[at].key_bytes == part) {
        add_pending(m, items, &n, at, at + 1, part);
        at++;
    }
    size_t below = at;
    while (below < hi && m->ops[below].key[part] < byte)
        below++;
    add_pending(m, items, &n, at, below, part);
    size_t same = below;
    while (same < hi && m->ops[same].key_bytes > part && m->ops[same].key[part] == byte)
        same++;
    struct set old = same > below ? merge_inner(m, inner, part, below, same) : inner_rehang(m, inner, part);
    if (old.kind != SET_EMPTY)
        items[n++] = (struct item){.set = old, .start = byte, .old = -1, .dirty = true};
    add_pending(m, items, &n, same, hi, part);
    memcpy(m->path, m->ops[lo].key, part);
    return finish_items(m, depth, part, m->path, items, n, NULL);
}

/* Trims operations that leave the prefix: removes have nothing to remove; *part is the first byte at which a put leaves
 * it, or child_depth. Operations that match are contiguous. */
static void match_prefix(const struct merger *m, unsigned depth, unsigned child_depth, size_t *lo, size_t *hi,
                         unsigned *part)
{
    *part = child_depth;
    if (shared_bytes(m, &m->ops[*lo], depth, child_depth) == child_depth &&
        shared_bytes(m, &m->ops[*hi - 1], depth, child_depth) == child_depth)
        return;
    size_t first = *hi, last = *lo;
    for (size_t i = *lo; i < *hi; i++) {
        unsigned shared = shared_bytes(m, &m->ops[i], depth, child_depth);
        if (shared == child_depth) {
            if (first == *hi)
                first = i;
            last = i + 1;
        } else if (m->ops[i].kind == BUFFER_PUT && shared < *part) {
            *part = shared;
        }
    }
    if (*part == child_depth) {
        *lo = first;
        *hi = last;
        return;
    }
    while (shared_bytes(m, &m->ops[*lo], depth, *part) < *part)
        ++*lo;
    while (shared_bytes(m, &m->ops[*hi - 1], depth, *part) < *part)
        --*hi;
}

/* ---- the whole ---- */

/* Operations by branch. */
static size_t group_operations(struct merger *m, const struct inner *inner, size_t lo, size_t hi,
                               struct merge_group *groups)
{
    unsigned at = inner_child_depth(inner);
    const uint8_t *start = inner_start(inner), *log2 = inner_log2(inner);
    size_t n = 0;
    for (size_t i = lo; i < hi;) {
        const operation *op = &m->ops[i];
        struct merge_group *group = &groups[n++];
        size_t j = i + 1;
        if (op->key_bytes == at) {
            group->branch = inner->own ? 0 : -1;
        } else {
            unsigned upto = inner_upto(inner, op->key[at]), end = upto < inner->branches ? start[upto] : 256;
            group->branch = -1;
            if (upto > inner->own) {
                unsigned b = upto - 1u;
                unsigned covered = start[b] + (1u << log2[b]);
                if (op->key[at] < covered) {
                    group->branch = (int)b;
                    end = covered;
                }
            }
            while (j < hi && m->ops[j].key[at] < end)
                j++;
        }
        group->lo = i;
        group->hi = j;
        group->child = group->branch >= 0 ? inner_child(inner)[group->branch] : 0;
        i = j;
    }
    return n;
}

void merge_groups(struct merger *m, struct merge_group *groups, size_t count, unsigned depth)
{
    for (size_t g = 0; g < count; g++) {
        merge_look_ahead(m, groups[g].lo);
        /* asked now, while the control word is in the cache */
        groups[g].was_inner = groups[g].child && store_type(m->store, groups[g].child) == OBJECT_INNER;
        groups[g].set = merge_node(m, groups[g].child, depth, groups[g].lo, groups[g].hi);
    }
}

struct set inner_regroup(struct merger *m, struct inner *inner, struct digest_cache *cache, unsigned depth,
                         struct merge_group *groups, size_t count, bool fresh_cache)
{
    bool changed = false;
    for (size_t g = 0; g < count; g++) {
        const struct set *set = &groups[g].set;
        changed |= groups[g].branch < 0 ? set->kind != SET_EMPTY : set->kind != SET_NODE || set->id != groups[g].child;
    }
    if (!changed) {
        if (fresh_cache)
            cache_drop(m, inner->node.object.id); /* its digests were not asked for */
        return inner_rehang(m, inner, depth);
    }
    /* changed in place from here on: an undone merge must forget it, wherever it stops */
    cache_move(m, inner->node.object.id, inner->node.object.id);
    uint64_t weight;
    if (shape_changes(m, inner, cache, groups, count, &weight))
        return recut(m, inner, cache, depth, groups, count, fresh_cache);
    return replace_children(m, inner, cache, depth, groups, count, weight, fresh_cache);
}

struct set merge_inner(struct merger *m, struct inner *inner, unsigned depth, size_t lo, size_t hi)
{
    unsigned child_depth = inner_child_depth(inner), part;
    memcpy(m->path + inner->depth, inner_prefix(inner), inner->prefix_bytes);
    match_prefix(m, depth, child_depth, &lo, &hi, &part);
    if (part < child_depth)
        return part_prefix(m, inner, depth, part, lo, hi);
    if (lo >= hi)
        return inner_rehang(m, inner, depth);
    size_t limit = hi - lo < 2u * INNER_BRANCHES_MAX ? hi - lo : 2u * INNER_BRANCHES_MAX;
    struct merge_group *groups = merge_scratch(m, limit * sizeof *groups);
    size_t count = group_operations(m, inner, lo, hi, groups);
    bool fresh_cache;
    struct digest_cache *cache = inner_cache(m, inner, &fresh_cache);
    if (!merge_split(m, groups, count, child_depth))
        merge_groups(m, groups, count, child_depth);
    return inner_regroup(m, inner, cache, depth, groups, count, fresh_cache);
}
