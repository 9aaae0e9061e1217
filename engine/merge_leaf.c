/*
 * Leaves of the merge: operations into a leaf, a leaf from entries, the digests of its part of the logical trie.
 *
 * Updates that keep every stored size, and inserts that leave the leaf light and its prefix as it is, by far the most
 * frequent changes, copy the leaf's entries as one piece (leaf_update, leaf_insert). Everything else lists the entries,
 * old and new, with whole keys, and lets the caller build.
 *
 * Digests: cache[g] of an old leaf is still right in the new one if the same entries lie around the gap g. An entry
 * that is new, changed, or lost a neighbour is dirty; a logical node over clean entries only has exactly the entries it
 * had.
 */
#include "hint.h"
#include "merge.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* What leaf_trie needs to know about the leaf it works on. */
struct trie {
    struct merger *m;
    struct leaf *leaf;
    const uint8_t *head;        /* key bytes above the leaf */
    const uint16_t *dirty_upto; /* [i]: dirty entries before i; NULL: one is dirty, only */
    unsigned only;              /* then: which */
    const uint8_t *valid;       /* cache[g] is filled in; NULL: all */
    bool amounts;
};

static const struct eng_summary *trie_entry(const struct trie *t, unsigned index, struct eng_summary *out)
{
    struct leaf *leaf = t->leaf;
    struct leaf_entry e = leaf_entry_at(leaf, index);
    digest_emit_entry(&t->m->queue, out->digest, t->head, leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes, e.suffix,
                      e.suffix_bytes, e.form, e.stored);
    out->count = 1;
    entry_sum(e.form, e.stored, out->sum);
    return out;
}

/* The summary of the clean entries lo..hi (at least two), whose logical subtree parts at gap. */
static struct eng_summary *trie_clean(const struct trie *t, unsigned lo, unsigned hi, unsigned gap,
                                      struct eng_summary *out)
{
    memcpy(out->digest, leaf_cache(t->leaf) + 32u * gap, 32);
    out->count = hi - lo + 1;
    memset(out->sum, 0, sizeof out->sum);
    for (unsigned i = lo; t->amounts && i <= hi; i++) {
        struct leaf_entry e = leaf_entry_at(t->leaf, i);
        uint64_t sum[3];
        entry_sum(e.form, e.stored, sum);
        digest_sum_add(out->sum, out->sum, sum);
    }
    return out;
}

/* The summary of entries lo..hi (inclusive), digests queued where they are not known. */
static const struct eng_summary *leaf_trie(const struct trie *t, unsigned lo, unsigned hi, struct eng_summary *out)
{
    struct digest_queue *queue = &t->m->queue;
    if (!out)
        out = digest_temporary(queue);
    if (lo == hi)
        return trie_entry(t, lo, out);
    const uint16_t *bit = leaf_bit(t->leaf);
    unsigned gap = leaf_top_gap(bit, lo, hi);
    uint8_t *cached = leaf_cache(t->leaf) + 32u * gap;
    if (t->dirty_upto[hi + 1] == t->dirty_upto[lo] && (!t->valid || t->valid[gap]))
        return trie_clean(t, lo, hi, gap, out);
    const struct eng_summary *left = leaf_trie(t, lo, gap, NULL);
    const struct eng_summary *right = leaf_trie(t, gap + 1, hi, NULL);
    digest_emit_node(queue, out, left, right, bit[gap], cached);
    return out;
}

/* The same of a whole leaf in which one entry is dirty and all else is cached: from that entry up, a look at each gap.
 * Of the gaps around a logical subtree the one with the larger bit is where it and its sibling part; the sibling
 * reaches to the next smaller bit, and parts itself at the smallest in between. */
static void leaf_trie_only(const struct trie *t)
{
    struct leaf *leaf = t->leaf;
    struct digest_queue *queue = &t->m->queue;
    const uint16_t *bit = leaf_bit(leaf);
    unsigned lo = t->only, hi = lo, last = leaf->count - 1u;
    const struct eng_summary *here = trie_entry(t, lo, last ? digest_temporary(queue) : &leaf->node.summary);
    while (hi - lo < last) {
        bool right = lo == 0 || (hi < last && bit[hi] > bit[lo - 1]);
        unsigned gap = right ? hi : lo - 1, first, end, top = gap, least = UINT16_MAX + 1u;
        if (right) {
            for (first = end = hi + 1; end < last && bit[end] > bit[gap]; end++)
                if (bit[end] < least)
                    least = bit[top = end];
            hi = end;
        } else {
            for (first = end = lo - 1; first > 0 && bit[first - 1] > bit[gap]; first--)
                if (bit[first - 1] < least)
                    least = bit[top = first - 1];
            lo = first;
        }
        struct eng_summary *other = digest_temporary(queue);
        if (first == end)
            trie_entry(t, first, other);
        else
            trie_clean(t, first, end, top, other);
        struct eng_summary *out = hi - lo < last ? digest_temporary(queue) : &leaf->node.summary;
        digest_emit_node(queue, out, right ? here : other, right ? other : here, bit[gap],
                         leaf_cache(leaf) + 32u * gap);
        here = out;
    }
}

static void leaf_digest(struct trie *t)
{
    t->amounts = t->leaf->flags & LEAF_HAS_AMOUNTS;
    if (t->dirty_upto)
        leaf_trie(t, 0, t->leaf->count - 1u, &t->leaf->node.summary);
    else
        leaf_trie_only(t);
    if (t->m->queue.failed)
        merge_fail(t->m, ENG_NO_MEMORY);
    if (digest_queue_full(&t->m->queue))
        digest_queue_run(&t->m->queue);
}

/* The compiler is not to know that the size has a bound: it would copy with `rep movs`, which takes longer to begin
 * than the library takes for such a value. */
static void copy_stored(uint8_t *to, const uint8_t *stored, uint16_t form)
{
    size_t bytes = FORM_BYTES(form);
    __asm__("" : "+r"(bytes));
    memcpy(to, stored, bytes);
}

static struct leaf *leaf_alloc(struct merger *m, size_t bytes, uint32_t *id)
{
    struct leaf *leaf = (struct leaf *)store_alloc(m->arena, OBJECT_LEAF, bytes, id);
    if (!leaf)
        merge_fail(m, arena_status(m->arena));
    return leaf;
}

uint32_t build_leaf(struct merger *m, const struct entry *entries, size_t count, unsigned depth)
{
    size_t common = entries_common(entries, count), data = 0;
    for (size_t i = 0; i < count; i++)
        data += 4u + entries[i].key_bytes - common + FORM_BYTES(entries[i].form);
    size_t head_bytes = leaf_head_bytes((unsigned)count, (unsigned)(common - depth));
    uint32_t id;
    size_t bytes = head_bytes + data + leaf_cache_bytes((unsigned)count);
    struct leaf *leaf = leaf_alloc(m, bytes, &id);
    leaf->count = (uint16_t)count;
    leaf->depth = (uint16_t)depth;
    leaf->prefix_bytes = (uint16_t)(common - depth);
    leaf->flags = 0;
    leaf->bytes = (uint32_t)bytes;
    leaf->outside = 0;
    leaf->node.weight = 0;
    uint8_t *hash = leaf_hash(leaf), *cache = leaf_cache(leaf), *at = (uint8_t *)leaf + head_bytes;
    uint16_t *offset = leaf_offset(leaf), *bit = leaf_bit(leaf);
    hash[count] = 0; /* the pad byte when count is odd; otherwise overwritten by offset[0] below */
    memcpy(leaf_prefix(leaf), entries[0].key + depth, common - depth);
    uint8_t *valid = merge_scratch(m, count);
    uint16_t *dirty_upto = merge_scratch(m, (count + 1) * sizeof *dirty_upto);
    dirty_upto[0] = 0;
    for (size_t i = 0; i < count; i++) {
        const struct entry *e = &entries[i];
        uint32_t suffix = (uint32_t)(e->key_bytes - common), stored = FORM_BYTES(e->form);
        hash[i] = e->hash;
        offset[i] = (uint16_t)(at - (uint8_t *)leaf);
        uint16_t suffix16 = (uint16_t)suffix;
        memcpy(at, &suffix16, 2);
        memcpy(at + 2, &e->form, 2);
        memcpy(at + 4, e->key + common, suffix);
        copy_stored(at + 4 + suffix, e->stored, e->form);
        at += 4 + suffix + stored;
        leaf->node.weight += entry_weight(e);
        if (FORM_TAG(e->form) == ENG_AMOUNT)
            leaf->flags |= LEAF_HAS_AMOUNTS;
        leaf->outside += FORM_OUTSIDE(e->form);
        dirty_upto[i + 1] = (uint16_t)(dirty_upto[i] + e->dirty);
        valid[i] = 0;
        bit[i] = 0;
        if (i + 1 < count) {
            const struct entry *f = e + 1;
            bit[i] = (uint16_t)(9u * common + digest_first_bit(e->key + common, suffix, f->key + common,
                                                               (size_t)(f->key_bytes - common)));
            if (e->cached) {
                memcpy(cache + 32 * i, e->cached, 32);
                valid[i] = 1;
            }
        }
    }
    struct trie t = {.m = m, .leaf = leaf, .head = entries[0].key, .dirty_upto = dirty_upto, .valid = valid};
    leaf_digest(&t);
    return id;
}

/* The value object an entry names goes with the entry; a subtree has lost its place. */
static void kill_outside(struct merger *m, const struct leaf_entry *e)
{
    if (!FORM_OUTSIDE(e->form))
        return;
    const struct object *object = &merge_read(m, read32(e->stored))->object;
    if (FORM_TAG(e->form) == ENG_TREE)
        merge_gone(m, object);
    else
        merge_kill(m, object);
}

/* Entry index of a leaf, with its whole key in scratch. */
static void list_entry(struct merger *m, const struct leaf *leaf, unsigned index, bool born_now, struct entry *out)
{
    struct leaf_entry e = leaf_entry_at(leaf, index);
    unsigned common = leaf->depth + leaf->prefix_bytes;
    uint8_t *key = merge_scratch(m, common + e.suffix_bytes + 1u);
    memcpy(key, m->path, leaf->depth);
    memcpy(key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
    memcpy(key + common, e.suffix, e.suffix_bytes);
    out->key = key;
    out->key_bytes = (uint16_t)(common + e.suffix_bytes);
    out->stored = e.stored;
    out->form = e.form;
    out->hash = leaf_hash(leaf)[index];
    /* The digests of a leaf made in this very merge may not have been computed yet. */
    out->dirty = born_now;
    out->cached = !born_now && index + 1u < leaf->count ? leaf_cache(leaf) + 32u * index : NULL;
}

struct set leaf_extract(struct merger *m, struct leaf *leaf)
{
    struct set set = {.kind = SET_PENDING, .count = leaf->count, .weight = leaf->node.weight};
    set.entries = merge_scratch(m, leaf->count * sizeof *set.entries);
    bool born_now = leaf->node.object.generation == m->generation;
    for (unsigned i = 0; i < leaf->count; i++)
        list_entry(m, leaf, i, born_now, &set.entries[i]);
    merge_kill(m, &leaf->node.object);
    return set;
}

struct set leaf_without(struct merger *m, struct leaf *leaf, unsigned lo, unsigned hi)
{
    struct set set = {.kind = SET_EMPTY};
    bool born_now = leaf->node.object.generation == m->generation;
    set.entries = merge_scratch(m, leaf->count * sizeof *set.entries);
    for (unsigned i = 0; i < leaf->count; i++) {
        if (i >= lo && i < hi) {
            struct leaf_entry gone = leaf_entry_at(leaf, i);
            kill_outside(m, &gone);
            continue;
        }
        struct entry *e = &set.entries[set.count++];
        list_entry(m, leaf, i, born_now, e);
        e->dirty |= i + 1 == lo || i == hi;
        set.weight += entry_weight(e);
        set.kind = SET_PENDING;
    }
    merge_kill(m, &leaf->node.object);
    return set;
}

#define PATCH_MAX 64u

/* Operations that keep the leaf a leaf and its prefix: updates of the same size, and inserts. */
struct patch {
    unsigned count, inserts;
    uint16_t at[PATCH_MAX]; /* entry that is updated, or before which the key goes */
    bool insert[PATCH_MAX];
    uint32_t more_bytes; /* of entries */
    uint64_t more_weight;
};

static bool patch_plan(const struct merger *m, const struct leaf *leaf, unsigned depth, size_t lo, size_t hi,
                       struct patch *p)
{
    if (hi - lo > PATCH_MAX || leaf->depth != depth || leaf->node.object.generation == m->generation)
        return false;
    unsigned common = depth + leaf->prefix_bytes;
    p->count = (unsigned)(hi - lo);
    p->inserts = p->more_bytes = 0;
    p->more_weight = 0;
    for (unsigned i = 0; i < p->count; i++) {
        const operation *op = &m->ops[lo + i];
        if (op->kind != BUFFER_PUT || op->value_bytes > DIGEST_VALUE_INLINE_MAX || op->tag == ENG_TREE ||
            op->key_bytes < common || !bytes_equal(op->key + depth, leaf_prefix(leaf), leaf->prefix_bytes))
            return false;
        int found = leaf_find(leaf, op->key + common, op->key_bytes - common, op->hash);
        p->insert[i] = found < 0;
        if (found >= 0) {
            if (leaf_entry_at(leaf, (unsigned)found).form != FORM_MAKE(op->tag, 0, op->value_bytes))
                return false;
            p->at[i] = (uint16_t)found;
            continue;
        }
        p->at[i] = (uint16_t)leaf_lower_bound(leaf, op->key + common, op->key_bytes - common);
        p->inserts++;
        p->more_bytes += 4u + op->key_bytes - common + op->value_bytes;
        p->more_weight += 8u + op->key_bytes + op->value_bytes;
    }
    return !p->inserts || set_is_light(m, leaf->count + p->inserts, leaf->node.weight + p->more_weight, common);
}

/* Where reads of these keys will look for their leaf first. */
static void note_place(struct merger *m, const struct leaf *leaf, const operation *ops, unsigned count)
{
    const struct inner *root = (const struct inner *)store_object(m->store, m->root);
    if (root->node.object.type != OBJECT_INNER || root->node.summary.count < HINT_ENTRIES_MIN)
        return;
    struct hints *hints = store_view(m->store)->hints;
    uint32_t place = store_place(m->store, leaf->node.object.id);
    for (unsigned i = 0; i < count; i++) {
        struct hint hint = hint_find(hints, ops[i].key, ops[i].key_bytes, inner_child_depth(root));
        hint_note(&hint, place);
    }
}

static struct set patched(struct merger *m, struct leaf *old, struct leaf *leaf, struct trie *t, size_t lo,
                          const struct patch *p)
{
    leaf_digest(t);
    note_place(m, leaf, &m->ops[lo], p->count);
    merge_kill(m, &old->node.object);
    return (struct set){
        .kind = SET_NODE, .id = leaf->node.object.id, .leaf = true, .count = leaf->count, .weight = leaf->node.weight};
}

/* Updates that keep every size: a copy of the leaf with new values. */
static struct set leaf_update(struct merger *m, struct leaf *leaf, size_t lo, const struct patch *p)
{
    uint32_t id;
    struct leaf *copy = leaf_alloc(m, leaf->bytes, &id);
    memcpy(&copy->node.summary, &leaf->node.summary, leaf->bytes - offsetof(struct node, summary));
    struct trie t = {.m = m, .leaf = copy, .head = m->ops[lo].key, .only = p->at[0]};
    if (p->count == 1) {
        struct leaf_entry e = leaf_entry_at(copy, p->at[0]);
        copy_stored((uint8_t *)(uintptr_t)e.stored, m->ops[lo].value, e.form);
        return patched(m, leaf, copy, &t, lo, p);
    }
    uint16_t dirty_upto[ENG_LEAF_BYTES_MAX / 8 + 2];
    dirty_upto[0] = 0;
    unsigned done = 0;
    for (unsigned i = 0; i < p->count; i++) {
        struct leaf_entry e = leaf_entry_at(copy, p->at[i]);
        copy_stored((uint8_t *)(uintptr_t)e.stored, m->ops[lo + i].value, e.form);
        while (done <= p->at[i]) {
            dirty_upto[done + 1] = (uint16_t)(dirty_upto[done] + (done == p->at[i]));
            done++;
        }
    }
    for (; done < leaf->count; done++)
        dirty_upto[done + 1] = dirty_upto[done];
    t.dirty_upto = dirty_upto;
    return patched(m, leaf, copy, &t, lo, p);
}

/* The first bit in which two neighbours of the new leaf differ. */
static uint16_t neighbour_bit(const struct leaf *leaf, unsigned index)
{
    struct leaf_entry a = leaf_entry_at(leaf, index), b = leaf_entry_at(leaf, index + 1);
    unsigned common = leaf->depth + leaf->prefix_bytes;
    return (uint16_t)(9u * common + digest_first_bit(a.suffix, a.suffix_bytes, b.suffix, b.suffix_bytes));
}

/* Inserts, and updates that keep sizes: the old entries are copied as one piece, the new ones stand behind them; only
 * the arrays in front are in key order. */
static struct set leaf_insert(struct merger *m, struct leaf *old, size_t lo, const struct patch *p)
{
    unsigned count = old->count + p->inserts, common = old->depth + old->prefix_bytes;
    size_t old_head = leaf_head_bytes(old->count, old->prefix_bytes), head = leaf_head_bytes(count, old->prefix_bytes);
    uint32_t id, data = (uint32_t)(old->bytes - old_head - leaf_cache_bytes(old->count));
    size_t bytes = head + data + p->more_bytes + leaf_cache_bytes(count);
    struct leaf *leaf = leaf_alloc(m, bytes, &id);
    leaf->count = (uint16_t)count;
    leaf->depth = old->depth;
    leaf->prefix_bytes = old->prefix_bytes;
    leaf->flags = old->flags;
    leaf->outside = old->outside;
    leaf->bytes = (uint32_t)bytes;
    leaf->node.weight = old->node.weight + p->more_weight;
    leaf_hash(leaf)[count] = 0;
    memcpy(leaf_prefix(leaf), leaf_prefix(old), old->prefix_bytes);
    memcpy((uint8_t *)leaf + head, (uint8_t *)old + old_head, data);
    uint8_t *end = (uint8_t *)leaf + head + data, *valid = merge_scratch(m, count);
    uint16_t *dirty_upto = merge_scratch(m, (count + 1) * sizeof *dirty_upto), *offset = leaf_offset(leaf);
    uint16_t *bit = leaf_bit(leaf);
    const uint16_t *old_offset = leaf_offset(old), *old_bit = leaf_bit(old);
    unsigned shift = (unsigned)(head - old_head), j = 0, i = 0;
    dirty_upto[0] = 0;
    for (unsigned q = 0; q <= p->count; q++) {
        unsigned until = q < p->count ? p->at[q] : old->count;
        for (; i < until; i++, j++) { /* untouched */
            leaf_hash(leaf)[j] = leaf_hash(old)[i];
            offset[j] = (uint16_t)(old_offset[i] + shift);
            bit[j] = old_bit[i];
            valid[j] = i + 1u < old->count;
            if (valid[j])
                memcpy(leaf_cache(leaf) + 32u * j, leaf_cache(old) + 32u * i, 32);
            dirty_upto[j + 1] = dirty_upto[j];
        }
        if (q == p->count)
            break;
        const operation *op = &m->ops[lo + q];
        leaf_hash(leaf)[j] = op->hash;
        dirty_upto[j + 1] = (uint16_t)(dirty_upto[j] + 1);
        valid[j] = 0;
        if (p->insert[q]) {
            uint16_t suffix = (uint16_t)(op->key_bytes - common), form = FORM_MAKE(op->tag, 0, op->value_bytes);
            offset[j] = (uint16_t)(end - (uint8_t *)leaf);
            memcpy(end, &suffix, 2);
            memcpy(end + 2, &form, 2);
            memcpy(end + 4, op->key + common, suffix);
            memcpy(end + 4 + suffix, op->value, op->value_bytes);
            end += 4u + suffix + op->value_bytes;
            if (op->tag == ENG_AMOUNT)
                leaf->flags |= LEAF_HAS_AMOUNTS;
            if (j)
                bit[j - 1] = 0; /* computed below */
            bit[j] = 0;
        } else {
            offset[j] = (uint16_t)(old_offset[i] + shift);
            memcpy((uint8_t *)leaf + offset[j] + 4 + read16((uint8_t *)leaf + offset[j]), op->value, op->value_bytes);
            bit[j] = old_bit[i];
            valid[j] = i + 1u < old->count;
            if (valid[j])
                memcpy(leaf_cache(leaf) + 32u * j, leaf_cache(old) + 32u * i, 32);
            i++;
        }
        j++;
    }
    for (unsigned g = 0; g + 1 < count; g++) /* an inserted entry parts its neighbours anew */
        if (!bit[g])
            bit[g] = neighbour_bit(leaf, g);
    bit[count - 1] = 0;
    struct trie t = {.m = m, .leaf = leaf, .head = m->ops[lo].key, .dirty_upto = dirty_upto, .valid = valid};
    return patched(m, old, leaf, &t, lo, p);
}

struct set merge_leaf(struct merger *m, struct leaf *leaf, unsigned depth, size_t lo, size_t hi)
{
    struct patch patch;
    if (patch_plan(m, leaf, depth, lo, hi, &patch))
        return patch.inserts ? leaf_insert(m, leaf, lo, &patch) : leaf_update(m, leaf, lo, &patch);
    struct set fresh = pending_operations(m, lo, hi);
    bool born_now = leaf->node.object.generation == m->generation;
    struct entry *out = merge_scratch(m, (leaf->count + fresh.count) * sizeof *out);
    size_t n = 0, f = 0;
    uint64_t weight = 0;
    unsigned i = 0;
    bool lost = false, changed = false; /* lost: the entry before the next one went */
    struct entry old;
    bool have = false;
    while (i < leaf->count || lo < hi) {
        if (i < leaf->count && !have) {
            list_entry(m, leaf, i, born_now, &old);
            have = true;
        }
        int order = !have      ? 1
                    : lo >= hi ? -1
                               : bytes_compare(old.key, old.key_bytes, m->ops[lo].key, m->ops[lo].key_bytes);
        if (order < 0) {
            old.dirty |= lost;
            lost = false;
            out[n++] = old;
            weight += entry_weight(&old);
        } else if (m->ops[lo++].kind == BUFFER_PUT) {
            changed = true;
            out[n] = fresh.entries[f++];
            if (order == 0)
                out[n].cached = old.cached;
            lost = false;
            weight += entry_weight(&out[n++]);
        } else if (order == 0) {
            changed = lost = true;
            if (n)
                out[n - 1].dirty = true;
        }
        if (order == 0) {
            struct leaf_entry e = leaf_entry_at(leaf, i);
            kill_outside(m, &e);
        }
        if (order <= 0) {
            i++;
            have = false;
        }
    }
    if (!changed && leaf->depth == depth)
        return (struct set){.kind = SET_NODE,
                            .id = leaf->node.object.id,
                            .leaf = true,
                            .count = leaf->count,
                            .weight = leaf->node.weight};
    merge_kill(m, &leaf->node.object);
    return (struct set){.kind = n ? SET_PENDING : SET_EMPTY, .entries = out, .count = n, .weight = weight};
}
