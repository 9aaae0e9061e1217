/*
 * The trunk of the merge (merge.h): mergers, the entry point, and what all parts share.
 */
#include "merge.h"

#include <stdio.h>
#include <stdlib.h>

#include "prefetch.h"

bool merger_init(struct merger *m, struct store *store, struct cache_table *caches, uint32_t leaf_bytes,
                 uint32_t inline_bytes)
{
    memset(m, 0, sizeof *m);
    m->store = store;
    m->caches = caches;
    m->leaf_bytes = leaf_bytes;
    m->inline_bytes = inline_bytes;
    return digest_queue_init(&m->queue);
}

void merger_free(struct merger *m)
{
    digest_queue_free(&m->queue);
    bump_close(&m->scratch);
    free(m->gone);
    free(m->touched);
}

void merger_begin(struct merger *m, struct arena *arena)
{
    m->arena = arena;
    m->generation = arena_generation(arena);
    m->status = ENG_OK;
    m->touched_count = 0;
    m->gone_count = 0;
    m->floor = 0;
    m->made = NULL;
    assert(!m->dropped);
}

void merger_end(struct merger *m, bool undone)
{
    if (undone) {
        for (uint32_t i = 0; i < m->touched_count; i++) {
            digest_cache_free(m->caches, cache_of(m->caches, m->touched[i]));
            cache_set(m->caches, m->touched[i], NULL);
        }
        digest_queue_clear(&m->queue);
    }
    while (m->dropped) {
        struct digest_cache *cache = m->dropped;
        m->dropped = cache->next;
        digest_cache_free(m->caches, cache);
    }
    bump_reset(&m->scratch);
    m->touched_count = 0;
}

void merge_fail(struct merger *m, enum eng_status status)
{
    m->status = status;
    snprintf(m->error, sizeof m->error, "%s", status == ENG_NO_MEMORY ? "merge: out of memory" : eng_error());
    longjmp(m->unwind, 1);
}

void *merge_scratch(struct merger *m, size_t bytes)
{
    if (bytes > BUMP_CHUNK_BYTES_MAX) {
        void *alone = bump_alone(&m->scratch, bytes);
        if (!alone)
            merge_fail(m, ENG_NO_MEMORY);
        return alone;
    }
    if (!bump_reserve(&m->scratch, (bytes + 7) & ~(size_t)7))
        merge_fail(m, ENG_NO_MEMORY);
    return bump_take(&m->scratch, bytes);
}

struct node *merge_read(struct merger *m, uint32_t id)
{
    struct node *node = store_node(m->store, id);
    if (__builtin_expect(!node, 0))
        merge_fail(m, ENG_DAMAGED);
    return node;
}

/*
 * Looking ahead. Operations some places behind the one at hand are walked down the tree in stages, so that no step
 * waits for memory: key and value of the operation itself, which another core may have written; a branch of the root
 * (which is in the cache), and the next control word is asked for; then that node's lines; then its branch, the digest
 * records beside it, and the next control word; and so on, until a leaf's lines.
 */
#define AHEAD_STEP 2u  /* operations between two stages; further ahead it pushes out what is needed first */
#define LEAF_LINES 22u /* of 64 bytes: most of a leaf */
#define INNER_LINES 4u
_Static_assert(AHEAD_STAGES *AHEAD_STEP < AHEAD_RING, "no operation meets another's place in the ring");

void merge_ahead_begin(struct merger *m, uint32_t root, size_t from, size_t end)
{
    m->root = root;
    m->ahead_end = end;
    for (unsigned stage = 0; stage < AHEAD_STAGES; stage++)
        m->ahead[stage] = from;
}

/* From an inner node to the child an operation goes to; 0: none. */
static uint32_t ahead_child(struct merger *m, uint32_t id, const operation *op)
{
    const struct inner *inner = (const struct inner *)store_object(m->store, id);
    unsigned at = inner ? inner_child_depth(inner) : ENG_KEY_BYTES_MAX; /* damaged: the merge itself will say so */
    int branch = op->key_bytes > at ? inner_branch(inner, op->key[at]) : -1;
    if (branch < 0)
        return 0;
    const struct digest_cache *cache = cache_of(m->caches, id);
    if (cache) {
        const struct eng_summary *record = &cache->record[2 * branch];
        prefetch_write(record);
        prefetch_write(record + 1);
        if (branch)
            prefetch_write(record - 1);
        prefetch_write((const uint8_t *)(cache->record + 2u * inner->branches) + 8 * branch);
    }
    uint32_t child = inner_child(inner)[branch];
    store_prefetch_control(m->store, child);
    return child;
}

static uint32_t ahead_stage(struct merger *m, unsigned stage, uint32_t id, const operation *op)
{
    if (stage % 2 == 0) { /* the node's lines */
        const uint8_t *node = (const uint8_t *)store_object(m->store, id);
        bool leaf = store_type(m->store, id) != OBJECT_INNER;
        for (unsigned line = 0; node && line < (leaf ? LEAF_LINES : INNER_LINES); line++)
            __builtin_prefetch(node + 64u * line);
        const struct digest_cache *cache = leaf ? NULL : cache_of(m->caches, id);
        __builtin_prefetch(cache);
        return leaf ? 0 : id;
    }
    return ahead_child(m, id, op);
}

void merge_look_ahead(struct merger *m, size_t done)
{
    if (!m->root || store_type(m->store, m->root) != OBJECT_INNER)
        return;
    for (unsigned stage = 0; stage < AHEAD_STAGES; stage++) {
        size_t *at = &m->ahead[stage], until = done + (AHEAD_STAGES - stage) * AHEAD_STEP;
        if (*at < done) /* overtaken by a large group; so all stages stay within the ring */
            *at = done;
        if (until > m->ahead_end)
            until = m->ahead_end;
        if (stage && until > m->ahead[stage - 1])
            until = m->ahead[stage - 1];
        for (; *at < until; ++*at) {
            uint32_t *id = &m->ahead_id[*at % AHEAD_RING];
            const operation *op = &m->ops[*at];
            if (stage == 0) {
                __builtin_prefetch(op->key);
                __builtin_prefetch(op->value);
                *id = m->root;
            } else if (*id) {
                *id = ahead_stage(m, stage, *id, op);
            }
        }
    }
}

void merge_kill(struct merger *m, const struct object *object)
{
    if (object->generation > m->floor)
        store_kill(m->arena, object->id, object->generation);
}

void merge_gone(struct merger *m, const struct object *object)
{
    if (object->generation <= m->floor)
        return;
    if (m->gone_count == m->gone_capacity) {
        size_t want = m->gone_capacity ? 2 * m->gone_capacity : 64;
        struct death *grown = realloc(m->gone, want * sizeof *grown);
        if (!grown)
            merge_fail(m, ENG_NO_MEMORY);
        m->gone = grown;
        m->gone_capacity = want;
    }
    m->gone[m->gone_count++] = (struct death){.born = object->generation, .id = object->id};
}

/* The cache of a node that is no more; freed at the end, since queued jobs may still write into it. */
void cache_drop(struct merger *m, uint32_t id)
{
    struct digest_cache *cache = cache_of(m->caches, id);
    if (!cache)
        return;
    cache_set(m->caches, id, NULL);
    cache->next = m->dropped;
    m->dropped = cache;
}

static void cache_touch(struct merger *m, uint32_t id)
{
    if (m->touched_count == m->touched_capacity) {
        uint32_t want = m->touched_capacity ? 2 * m->touched_capacity : 256;
        uint32_t *fresh = realloc(m->touched, want * sizeof *fresh);
        if (!fresh) {
            cache_drop(m, id);
            merge_fail(m, ENG_NO_MEMORY);
        }
        m->touched = fresh;
        m->touched_capacity = want;
    }
    m->touched[m->touched_count++] = id;
}

void cache_move(struct merger *m, uint32_t from, uint32_t to)
{
    struct digest_cache *cache = cache_of(m->caches, from);
    if (from != to)
        cache_set(m->caches, from, NULL);
    if (!cache)
        return;
    if (!cache_set(m->caches, to, cache)) {
        cache->next = m->dropped;
        m->dropped = cache;
        merge_fail(m, ENG_NO_MEMORY);
    }
    cache_touch(m, to);
}

struct set pending_operations(struct merger *m, size_t lo, size_t hi)
{
    struct set set = {.kind = SET_EMPTY};
    struct entry *entries = merge_scratch(m, (hi - lo) * sizeof *entries);
    for (size_t i = lo; i < hi; i++) {
        const operation *op = &m->ops[i];
        if (op->kind != BUFFER_PUT)
            continue;
        struct entry *e = &entries[set.count++];
        *e = (struct entry){.key = op->key, .key_bytes = op->key_bytes, .hash = op->hash, .dirty = true};
        if (op->tag == ENG_TREE) {
            e->stored = m->made[read32(op->value)].stored;
            e->form = FORM_MAKE(ENG_TREE, 1, STORED_TREE_BYTES);
        } else if (op->tag == ENG_AMOUNT || op->value_bytes <= DIGEST_VALUE_INLINE_MAX) {
            e->stored = op->value;
            e->form = FORM_MAKE(op->tag, 0, op->value_bytes);
        } else if (op->value_bytes <= m->inline_bytes) {
            uint8_t *stored = merge_scratch(m, 32 + op->value_bytes);
            digest_value(op->value, op->value_bytes, stored);
            memcpy(stored + 32, op->value, op->value_bytes);
            e->stored = stored;
            e->form = FORM_MAKE(op->tag, 0, 32 + op->value_bytes);
        } else {
            uint32_t id;
            struct value_object *value =
                (struct value_object *)store_alloc(m->arena, OBJECT_VALUE, sizeof *value + op->value_bytes, &id);
            if (!value)
                merge_fail(m, arena_status(m->arena));
            value->size = op->value_bytes;
            memcpy(value->bytes, op->value, op->value_bytes);
            uint8_t *stored = merge_scratch(m, STORED_OUTSIDE_BYTES);
            memcpy(stored, &id, 4);
            memcpy(stored + 4, &op->value_bytes, 4);
            digest_value(op->value, op->value_bytes, stored + 8);
            e->stored = stored;
            e->form = FORM_MAKE(op->tag, 1, STORED_OUTSIDE_BYTES);
        }
        set.weight += entry_weight(e);
    }
    if (set.count) {
        set.kind = SET_PENDING;
        set.entries = entries;
    }
    return set;
}

struct set merge_node(struct merger *m, uint32_t id, unsigned depth, size_t lo, size_t hi)
{
    if (!id)
        return pending_operations(m, lo, hi);
    struct node *node = merge_read(m, id);
    if (node->object.type == OBJECT_LEAF)
        return merge_leaf(m, (struct leaf *)node, depth, lo, hi);
    return merge_inner(m, (struct inner *)node, depth, lo, hi);
}

enum eng_status merge_tree(struct merger *m, uint32_t root, const operation *ops, size_t count, uint32_t *result,
                           struct eng_summary *summary)
{
    memset(summary, 0, sizeof *summary);
    *result = 0;
    if (setjmp(m->unwind)) {
        eng_fail(m->status, "%s", m->error);
        return m->status;
    }
    m->ops = ops;
    merge_ahead_begin(m, root, 0, count);
    struct set set;
    if (count) {
        set = merge_node(m, root, 0, 0, count);
    } else if (root) {
        set = (struct set){.kind = SET_NODE, .id = root};
    } else {
        set = (struct set){.kind = SET_EMPTY};
    }
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
