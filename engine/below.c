/* What the object store must know of nodes: to free trees lazily, to move them (struct store_shape). */
#include "digest_cache.h"
#include "merge.h"

static void node_below(const struct object *object, void (*each)(void *context, uint32_t id), void *context)
{
    switch ((enum object_type)object->type) {
    case OBJECT_INNER: {
        const struct inner *inner = (const struct inner *)(const void *)object;
        for (unsigned i = 0; i < inner->branches; i++)
            each(context, inner_child(inner)[i]);
        break;
    }
    case OBJECT_LEAF: {
        const struct leaf *leaf = (const struct leaf *)(const void *)object;
        for (unsigned i = 0; leaf->outside && i < leaf->count; i++) {
            struct leaf_entry e = leaf_entry_at(leaf, i);
            if (FORM_OUTSIDE(e.form))
                each(context, read32(e.stored));
        }
        break;
    }
    case OBJECT_TREE: {
        const struct tree_object *tree = (const struct tree_object *)(const void *)object;
        if (tree->root)
            each(context, tree->root);
        break;
    }
    case OBJECT_VALUE:
    case OBJECT_NONE:
    case OBJECT_LIST:
        break;
    }
}

static void node_tree(const struct object *object, uint32_t *base, uint64_t *since)
{
    const struct tree_object *tree = (const struct tree_object *)(const void *)object;
    *base = tree->base;
    *since = tree->since;
}

static uint32_t node_misplaced(struct store *store, const struct object *object, struct object *copy, uint32_t *said)
{
    *said = 0;
    if (object->type != OBJECT_INNER)
        return 0;
    const struct inner *inner = (const struct inner *)(const void *)object;
    uint32_t wrong = 0;
    *said = inner->branches;
    for (unsigned i = 0; i < inner->branches; i++) {
        uint32_t place = store_place(store, inner_child(inner)[i]);
        wrong += place != inner_place(inner)[i];
        if (copy)
            inner_place((const struct inner *)(const void *)copy)[i] = place;
    }
    return wrong;
}

static void node_forget(void *context, uint32_t id)
{
    struct cache_table *caches = context;
    struct digest_cache *cache = cache_of(caches, id);
    if (!cache)
        return;
    cache_set(caches, id, NULL);
    digest_cache_free(caches, cache);
}

struct store_shape tree_store_shape(struct cache_table *caches)
{
    return (struct store_shape){
        .below = node_below, .tree = node_tree, .misplaced = node_misplaced, .forget = node_forget, .context = caches};
}
