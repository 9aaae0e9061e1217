/*
 * Subtrees at a commit: who owns which nodes from now on, and their merges.
 *
 * Going through the write buffers from the top finds every handle that has a place. Then, from the outside in, each
 * origin (subtree.h) is decided:
 *
 *   older than the floor of what it is in   its nodes belong to that base: every handle that goes on from it holds the
 *                                           base, and it stays as it is
 *   it was cloned                           a base is made of it, and every handle that goes on from it, or from
 *                                           something in it, holds the base
 *   one handle has a place                  it goes on as the owner; if nobody else is left to share its base with, it
 *                                           takes back what the base owned (absorb)
 *   it has no place, but something taken    what goes on is taken out of it, and the rest is freed (empty)
 *   out of it has
 *   none                                    nothing: it is freed when its place is
 *
 * A base may be left to a tree that was inside of what it was made of, somewhere (it is not tree_object.whole). That
 * one does not take it back: which of the base's nodes it needs cannot be told from its own; so they all stay until it
 * goes.
 *
 * Then handles are merged, the innermost first, each into the tree of its origin with the floor of its base, and get a
 * tree object each. When the outermost tree is merged too, subtrees that lost their place are given to the store, all
 * but those whose nodes go on: of these the tree object alone is killed.
 *
 * A private fork may lie on any version; it is always undone, so nothing is killed for it and bases are left out.
 *
 * Ways to fail: those of the merge; ENG_CONFLICT if an origin is not what the version merged into has.
 */
#include "subtree.h"

#include <stdlib.h>

#include "tree.h"

struct commit {
    struct subtrees *trees;
    struct merger *m;
    bool fork;
};

static enum eng_status no_memory(void)
{
    return eng_fail(ENG_NO_MEMORY, "subtree: out of memory");
}

static bool goes_on(const struct origin *origin)
{
    return origin->users || origin->needed;
}

/* ---- who has a place ---- */

static void find_places(struct subtrees *trees, const struct eng_batch *batch)
{
    for (size_t i = 0; i < batch->own->count; i++) {
        const struct buffer_entry *entry = &batch->own->entries[i];
        if (entry->kind != BUFFER_PUT || entry->tag != ENG_TREE)
            continue;
        struct eng_batch *handle = subtree_of(trees, entry);
        assert(!handle->put); /* a tree hangs in one place */
        handle->put = true;
        find_places(trees, handle);
    }
}

static void find_users(struct eng_batch *outer)
{
    struct subtrees *trees = outer->trees;
    for (uint32_t i = 0; i < trees->count; i++)
        trees->handles[i]->put = false;
    for (uint32_t i = 0; i < trees->origins_capacity; i++) {
        struct origin *origin = trees->origins[i];
        if (!origin)
            continue;
        origin->users = 0;
        origin->needed = origin->decided = origin->owned = origin->emptied = false;
    }
    find_places(trees, outer);
    for (uint32_t i = 0; i < trees->count; i++) {
        const struct eng_batch *handle = trees->handles[i];
        if (!handle->put || !handle->origin)
            continue;
        handle->origin->users++;
        for (struct origin *above = handle->origin->container->origin; above; above = above->container->origin)
            above->needed = true;
    }
}

enum eng_status subtrees_number(struct eng_batch *outer, uint32_t **numbers, uint32_t *count)
{
    struct subtrees *trees = outer->trees;
    *count = 0;
    *numbers = malloc((trees->count + 1u) * sizeof **numbers);
    if (!*numbers)
        return no_memory();
    find_users(outer);
    for (uint32_t i = 0; i < trees->count; i++)
        (*numbers)[i] = SUBTREE_NEW;
    for (uint32_t i = 0; i < trees->count; i++) {
        const struct eng_batch *handle = trees->handles[i];
        if (handle->put)
            (*numbers)[i] = 0;
        for (const struct origin *o = handle->put ? handle->origin : NULL; o; o = o->container->origin)
            if (o->container->outer)
                (*numbers)[o->container->number] = 0;
    }
    for (uint32_t i = 0; i < trees->count; i++) /* a container comes before what was opened in it */
        if ((*numbers)[i] == 0)
            (*numbers)[i] = (*count)++;
    return ENG_OK;
}

enum eng_status subtrees_current(struct eng_batch *outer, const struct store_version *head)
{
    struct subtrees *trees = outer->trees;
    if (!trees || head->generation == outer->base->version.generation)
        return ENG_OK;
    find_users(outer);
    enum eng_status status = ENG_OK;
    for (uint32_t i = 0; i < trees->origins_capacity && status == ENG_OK; i++) {
        const struct origin *origin = trees->origins[i];
        if (!origin || origin->container != outer || !goes_on(origin))
            continue;
        struct tree_object tree;
        status = tree_object_get(outer->eng->store, head->root, origin->key, origin->key_bytes, &tree);
        if (status == ENG_NOT_FOUND || status == ENG_TYPE || (status == ENG_OK && tree.object.id != origin->id))
            status = eng_fail(ENG_CONFLICT, "subtree: it was changed since version %llu by another commit (now %llu)",
                              (unsigned long long)outer->base->version.tag, (unsigned long long)head->tag);
    }
    return status;
}

/* ---- absorbing a base ---- */

/* A set of ids. */
struct ids {
    uint32_t *slots; /* 0: empty; a power of two */
    size_t count, capacity;
};

static bool ids_has(const struct ids *ids, uint32_t id)
{
    if (!ids->capacity)
        return false;
    for (size_t at = id * 2654435761u;; at++) {
        uint32_t slot = ids->slots[at & (ids->capacity - 1)];
        if (slot == id || slot == 0)
            return slot == id;
    }
}

static bool ids_add(struct ids *ids, uint32_t id)
{
    if (2 * (ids->count + 1) > ids->capacity) {
        struct ids grown = {.capacity = ids->capacity ? 2 * ids->capacity : 256};
        grown.slots = calloc(grown.capacity, sizeof *grown.slots);
        if (!grown.slots)
            return false;
        for (size_t i = 0; i < ids->capacity; i++)
            if (ids->slots[i] && !ids_add(&grown, ids->slots[i]))
                return false; /* it never grows here */
        free(ids->slots);
        *ids = grown;
    }
    size_t at = id * 2654435761u;
    for (; ids->slots[at & (ids->capacity - 1)]; at++)
        if (ids->slots[at & (ids->capacity - 1)] == id)
            return true;
    ids->slots[at & (ids->capacity - 1)] = id;
    ids->count++;
    return true;
}

struct absorb {
    struct store *store;
    struct arena *arena;
    struct store_shape shape;
    struct ids shared; /* where the present tree meets the base's nodes */
    uint32_t *stack;
    size_t count, capacity;
    uint64_t floor, before; /* of the base, of the one before it */
    bool killing;
    enum eng_status status;
};

static void absorb_push(void *context, uint32_t id)
{
    struct absorb *a = context;
    if (a->status != ENG_OK)
        return;
    const struct object *object = store_object(a->store, id);
    if (!object) {
        a->status = ENG_DAMAGED;
        return;
    }
    bool of_base = object->generation <= a->floor;
    if (!a->killing && of_base) {
        if (!ids_add(&a->shared, id))
            a->status = no_memory();
        return;
    }
    if (a->killing && (object->generation <= a->before || ids_has(&a->shared, id)))
        return;
    if (a->killing && object->type == OBJECT_TREE) { /* and what is below it, by its own rules */
        store_kill_below(a->arena, id, object->generation, 0);
        return;
    }
    if (!a->killing && object->type == OBJECT_TREE)
        return; /* a new one: what it has of this base it holds by itself */
    if (a->count == a->capacity) {
        size_t want = a->capacity ? 2 * a->capacity : 256;
        uint32_t *grown = realloc(a->stack, want * sizeof *grown);
        if (!grown) {
            a->status = no_memory();
            return;
        }
        a->stack = grown;
        a->capacity = want;
    }
    a->stack[a->count++] = id;
}

static void absorb_walk(struct absorb *a, uint32_t root)
{
    if (root)
        absorb_push(a, root);
    while (a->count && a->status == ENG_OK) {
        const struct object *object = store_object(a->store, a->stack[--a->count]);
        if (a->killing) {
            store_kill(a->arena, object->id, object->generation);
            a->shape.forget(a->shape.context, object->id); /* whoever gets the id must not find its digests */
        }
        a->shape.below(object, absorb_push, a);
    }
}

/* The one that is left takes back what its base owned: what it does not have any more dies now. O(difference). */
static enum eng_status absorb(struct commit *c, struct origin *origin)
{
    struct store *store = c->m->store;
    uint32_t root, before, base = origin->tree.base;
    uint64_t since;
    struct absorb a = {.store = store, .arena = c->m->arena, .floor = store_base_floor(store, base)};
    a.shape = tree_store_shape(c->m->caches);
    if (!store_base_dissolve(store, base, &root, &before, &since))
        return ENG_OK; /* it is shared still */
    a.before = store_base_floor(store, before);
    absorb_walk(&a, origin->tree.root);
    a.killing = true;
    if (a.status == ENG_OK)
        absorb_walk(&a, root);
    free(a.stack);
    free(a.shared.slots);
    origin->base = before;
    origin->since = since;
    origin->floor = a.before;
    return a.status;
}

/* ---- decisions ---- */

/* Its nodes are, or become, a base's. */
static enum eng_status share(struct commit *c, struct origin *origin)
{
    struct store *store = c->m->store;
    enum eng_status status = ENG_OK;
    if (origin->owned && (origin->tree.root || origin->tree.base))
        status = store_base_make(store, origin->tree.root, origin->tree.base, origin->tree.since, &origin->base);
    origin->since = c->m->generation;
    for (uint32_t i = 0; i < origin->users && status == ENG_OK && origin->base; i++)
        status = store_base_hold(store, origin->base);
    origin->floor = store_base_floor(store, origin->base);
    return status;
}

static enum eng_status decide(struct commit *c, struct origin *origin)
{
    if (origin->decided)
        return ENG_OK;
    origin->decided = true;
    origin->base = 0;
    origin->floor = 0;
    struct origin *around = origin->container->origin;
    if (around) {
        enum eng_status status = decide(c, around);
        if (status != ENG_OK)
            return status;
        origin->base = around->base;
        origin->floor = around->floor;
    }
    if (c->fork) { /* nothing is killed, and no hold is counted */
        origin->floor = UINT64_MAX;
        return ENG_OK;
    }
    if (around && origin->generation <= origin->floor)
        return share(c, origin);
    origin->owned = true;
    origin->base = 0;
    if (origin->cloned)
        return share(c, origin);
    origin->base = origin->tree.base;
    origin->since = origin->tree.since;
    origin->floor = store_base_floor(c->m->store, origin->base);
    origin->emptied = origin->users == 0;
    return origin->base && !origin->emptied && origin->tree.whole ? absorb(c, origin) : ENG_OK;
}

static int death_order(const void *a, const void *b)
{
    const struct death *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static enum eng_status decide_all(struct commit *c)
{
    struct subtrees *trees = c->trees;
    free(trees->handled);
    trees->handled_count = 0;
    trees->handled = calloc(trees->origins_count + 1u, sizeof *trees->handled);
    if (!trees->handled)
        return no_memory();
    enum eng_status status = ENG_OK;
    for (uint32_t i = 0; i < trees->origins_capacity && status == ENG_OK; i++) {
        struct origin *origin = trees->origins[i];
        if (!origin || !goes_on(origin))
            continue;
        status = decide(c, origin);
        if (origin->owned)
            trees->handled[trees->handled_count++] = (struct death){.born = origin->generation, .id = origin->id};
    }
    qsort(trees->handled, trees->handled_count, sizeof *trees->handled, death_order);
    return status;
}

/* ---- merging ---- */

/* Takes out of a tree what goes on from inside it, in ranges or everywhere (NULL). */
static enum eng_status take_out(const struct subtrees *trees, const struct eng_batch *container,
                                const struct hidden *ranges, struct merger *m, uint32_t *root,
                                struct eng_summary *summary)
{
    struct buffer *keys;
    enum eng_status status = buffer_open(&keys); /* puts them in order */
    if (status != ENG_OK)
        return status;
    for (uint32_t i = 0; i < trees->origins_capacity && status == ENG_OK; i++) {
        const struct origin *origin = trees->origins[i];
        if (origin && origin->container == container && origin->owned && goes_on(origin) &&
            (!ranges || hidden_find(ranges, origin->key, origin->key_bytes, false)))
            status = buffer_remove(keys, origin->key, origin->key_bytes);
    }
    const struct buffer_entry *entries;
    size_t count;
    if (status == ENG_OK)
        status = buffer_freeze(keys, &entries, &count);
    if (status == ENG_OK && count)
        status = merge_tree(m, *root, entries, count, root, summary);
    buffer_close(&keys);
    return status;
}

enum eng_status subtrees_take_out(struct eng_batch *container, struct merger *m, uint32_t *root,
                                  struct eng_summary *summary)
{
    const struct hidden *ranges = &container->own->hidden;
    return container->trees && ranges->count ? take_out(container->trees, container, ranges, m, root, summary) : ENG_OK;
}

/* A tree object of what went on from an origin, or of a new tree. */
static enum eng_status make_object(struct commit *c, const struct origin *origin, uint32_t height, uint32_t root,
                                   const struct eng_summary *summary, uint32_t *id)
{
    struct merger *m = c->m;
    struct tree_object *tree = (struct tree_object *)store_alloc(m->arena, OBJECT_TREE, sizeof *tree, id);
    if (!tree)
        return arena_status(m->arena);
    tree->root = root;
    tree->base = origin ? origin->base : 0;
    tree->since = origin && origin->base ? origin->since : m->generation;
    tree->summary = *summary;
    tree->height = height;
    tree->whole = !origin || (origin->owned && (!origin->tree.base || origin->tree.whole));
    return ENG_OK;
}

/* And what its place in a leaf will hold. */
static enum eng_status make_value(struct commit *c, const struct eng_batch *handle, uint32_t root,
                                  const struct eng_summary *summary)
{
    uint32_t id, size = sizeof *summary;
    enum eng_status status = make_object(c, handle->origin, handle->height, root, summary, &id);
    if (status != ENG_OK)
        return status;
    uint8_t *stored = c->trees->made[handle->number].stored;
    memcpy(stored, &id, 4);
    memcpy(stored + 4, &size, 4);
    memcpy(stored + 8, summary, sizeof *summary);
    return ENG_OK;
}

/* What is left of a tree that goes, when everything that goes on was taken out of it, is freed: in a tree object of its
 * own, so that its hold on a base goes with it. container: the handle that was opened there. */
static enum eng_status empty(struct commit *c, const struct origin *origin, const struct eng_batch *container)
{
    uint32_t id, root = origin->tree.root;
    struct eng_summary summary = origin->tree.summary;
    c->m->floor = origin->floor;
    enum eng_status status = take_out(c->trees, container, NULL, c->m, &root, &summary);
    c->m->floor = 0;
    if (status == ENG_OK)
        status = make_object(c, origin, origin->tree.height, root, &summary, &id);
    if (status == ENG_OK)
        store_kill_below(c->m->arena, id, c->m->generation, 0);
    return status;
}

static enum eng_status empty_all(struct commit *c)
{
    enum eng_status status = ENG_OK;
    for (uint32_t i = 0; i < c->trees->count && status == ENG_OK; i++) {
        const struct eng_batch *handle = c->trees->handles[i];
        if (handle->origin && handle->origin->emptied) /* it was not cloned: this is the only one */
            status = empty(c, handle->origin, handle);
    }
    return status;
}

static enum eng_status merge_inside(struct commit *c, const struct eng_batch *batch);

static enum eng_status merge_handle(struct commit *c, struct eng_batch *handle)
{
    enum eng_status status = merge_inside(c, handle);
    if (status != ENG_OK)
        return status;
    const struct origin *origin = handle->origin;
    const struct layer *layer = handle->own;
    uint32_t root = origin ? origin->tree.root : 0;
    struct eng_summary summary;
    c->m->floor = origin ? origin->floor : 0;
    status = subtrees_take_out(handle, c->m, &root, &summary);
    for (size_t i = 0; i < layer->hidden.count && status == ENG_OK; i++)
        status = merge_remove_range(c->m, root, &layer->hidden.sorted[i], &root, &summary);
    if (status == ENG_OK)
        status = merge_tree(c->m, root, layer->entries, layer->count, &root, &summary);
    c->m->floor = 0;
    return status == ENG_OK ? make_value(c, handle, root, &summary) : status;
}

/* What hangs in a batch. */
static enum eng_status merge_inside(struct commit *c, const struct eng_batch *batch)
{
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < batch->own->count && status == ENG_OK; i++) {
        const struct buffer_entry *entry = &batch->own->entries[i];
        if (entry->kind == BUFFER_PUT && entry->tag == ENG_TREE)
            status = merge_handle(c, subtree_of(c->trees, entry));
    }
    return status;
}

enum eng_status subtrees_merge(struct eng_batch *outer, struct merger *m)
{
    struct subtrees *trees = outer->trees;
    struct commit c = {.trees = trees, .m = m, .fork = outer->fork};
    if (!trees)
        return ENG_OK;
    free(trees->made);
    trees->made = calloc(trees->count + 1u, sizeof *trees->made);
    if (!trees->made)
        return no_memory();
    m->made = trees->made;
    find_users(outer);
    enum eng_status status = decide_all(&c);
    if (status == ENG_OK)
        status = empty_all(&c);
    return status == ENG_OK ? merge_inside(&c, outer) : status;
}

/* ---- what lost its place ---- */

struct settle {
    const struct subtrees *trees;
    struct arena *arena;
};

static void settle_gone(void *context, struct merger *m)
{
    const struct settle *settle = context;
    const struct subtrees *trees = settle->trees;
    for (size_t i = 0; i < m->gone_count; i++) {
        const struct death *gone = &m->gone[i];
        if (!trees || !trees->handled_count ||
            !bsearch(gone, trees->handled, trees->handled_count, sizeof *gone, death_order))
            store_kill_below(settle->arena, gone->id, gone->born, 0);
    }
}

void subtrees_settle(struct eng_batch *outer, struct merger *m, struct merge_pool *pool)
{
    struct settle settle = {.trees = outer->trees, .arena = m->arena};
    settle_gone(&settle, m);
    merge_pool_each(pool, settle_gone, &settle);
    for (size_t i = 0; outer->trees && i < outer->trees->handled_count; i++)
        store_kill(m->arena, outer->trees->handled[i].id, outer->trees->handled[i].born);
}
