/*
 * Subtrees as values, in a batch (pando/engine.h has the API).
 *
 * A subtree that is opened in a batch is a `handle`: a struct eng_batch of its own whose base is the subtree as last
 * committed. Handles live as long as the outermost batch and are known by number. Where one hangs stands in the write
 * buffer of its parent: an entry with tag ENG_TREE and its number. A handle that was only read has no such entry and
 * shares one empty write buffer with all its kind; the first write gives it a buffer and puts the entries on its way
 * up (subtree_write), so a commit finds everything that changed by going through the buffers from the top.
 *
 * What a handle goes on from is its `origin`: the committed subtree at one key of one container. A clone copies what
 * its original has not committed yet and shares the origin; nothing below it is touched. Which of the handles of an
 * origin still has a place is found out at the commit (subtree_commit.c), so a rollback has nothing to undo but write
 * buffers and the links between handles.
 *
 * Rollback: eng_batch_mark is a mark of the outermost buffer. A handle written for the first time since the last mark
 * notes how it was, with the outermost mark, and lets that mark advance (buffer_step).
 *
 * Ways to fail: memory; ENG_TYPE; ENG_INVALID for what would not be a tree; ENG_TOO_LARGE for too deep a tree; ENG_BUSY
 * in a batch that reads through uncommitted ones.
 */
#include "subtree.h"

#include <stdlib.h>

#include "tree.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static struct eng_batch *outer_of(struct eng_batch *batch)
{
    return batch->outer ? batch->outer : batch;
}

static enum eng_status no_memory(void)
{
    return eng_fail(ENG_NO_MEMORY, "subtree: out of memory");
}

/* ---- the tables ---- */

static enum eng_status trees_of(struct eng_batch *outer, struct subtrees **out)
{
    *out = outer->trees;
    if (outer->trees)
        return ENG_OK;
    struct subtrees *trees = calloc(1, sizeof *trees);
    if (!trees)
        return no_memory();
    enum eng_status status = buffer_open(&trees->nothing.buffer);
    if (status != ENG_OK) {
        free(trees);
        return status;
    }
    trees->epoch = 1;
    *out = outer->trees = trees;
    return ENG_OK;
}

/* A copy of a key that lives as long as the batch. */
static const uint8_t *keep_key(struct subtrees *trees, const uint8_t *key, size_t key_bytes)
{
    if (!bump_reserve(&trees->memory, key_bytes + 8))
        return NULL;
    uint8_t *copy = bump_take(&trees->memory, key_bytes);
    memcpy(copy, key, key_bytes);
    return copy;
}

static uint32_t container_number(const struct eng_batch *container)
{
    return container->outer ? container->number : SUBTREE_OUTERMOST;
}

static struct origin **origin_place(struct subtrees *trees, const struct eng_batch *container, const uint8_t *key,
                                    size_t key_bytes)
{
    uint64_t at = XXH3_64bits_withSeed(key, key_bytes, container_number(container));
    for (;; at++) {
        struct origin **place = &trees->origins[at & (trees->origins_capacity - 1)];
        if (!*place || ((*place)->container == container && (*place)->key_bytes == key_bytes &&
                        memcmp((*place)->key, key, key_bytes) == 0))
            return place;
    }
}

static bool origins_grow(struct subtrees *trees)
{
    if (2 * (trees->origins_count + 1) < trees->origins_capacity)
        return true;
    struct origin **old = trees->origins;
    uint32_t count = trees->origins_capacity;
    struct origin **grown = calloc(count ? 2 * count : 64, sizeof(struct origin *));
    if (!grown)
        return false;
    trees->origins = grown;
    trees->origins_capacity = count ? 2 * count : 64;
    for (uint32_t i = 0; i < count; i++)
        if (old[i])
            *origin_place(trees, old[i]->container, old[i]->key, old[i]->key_bytes) = old[i];
    free(old);
    return true;
}

/* What the base of container has at key. ENG_NOT_FOUND, ENG_TYPE. */
static enum eng_status read_tree(struct eng_batch *container, const uint8_t *key, size_t key_bytes,
                                 struct tree_object *tree)
{
    struct reader *reader = eng_enter(container->eng);
    if (!reader)
        return ENG_NO_READERS;
    enum eng_status status =
        tree_object_get(container->eng->store, container->base->version.root, key, key_bytes, tree);
    reader_leave(reader);
    return status;
}

static enum eng_status origin_find(struct eng_batch *container, const uint8_t *key, size_t key_bytes,
                                   struct origin **out)
{
    struct subtrees *trees = outer_of(container)->trees;
    struct tree_object tree;
    if (!origins_grow(trees))
        return no_memory();
    struct origin **place = origin_place(trees, container, key, key_bytes);
    *out = *place;
    if (*place)
        return ENG_OK;
    enum eng_status status = read_tree(container, key, key_bytes, &tree);
    if (status != ENG_OK)
        return status;
    const uint8_t *copy = keep_key(trees, key, key_bytes);
    struct origin *origin =
        copy && bump_reserve(&trees->memory, sizeof *origin) ? bump_take(&trees->memory, sizeof *origin) : NULL;
    if (!origin)
        return no_memory();
    *origin = (struct origin){.container = container,
                              .key = copy,
                              .key_bytes = (uint32_t)key_bytes,
                              .id = tree.object.id,
                              .generation = tree.object.generation,
                              .tree = tree};
    *place = *out = origin;
    trees->origins_count++;
    return ENG_OK;
}

/* A new handle, nowhere yet. origin NULL: an empty tree. */
static enum eng_status handle_new(struct eng_batch *outer, struct origin *origin, struct eng_batch **out)
{
    struct subtrees *trees = outer->trees;
    if (trees->count == trees->capacity) {
        uint32_t want = trees->capacity ? 2 * trees->capacity : 16;
        struct eng_batch **grown = realloc(trees->handles, want * sizeof(struct eng_batch *));
        if (!grown)
            return no_memory();
        trees->handles = grown;
        trees->capacity = want;
    }
    struct eng_batch *handle = calloc(1, sizeof *handle);
    if (!handle)
        return no_memory();
    enum eng_status status = snapshot_of_tree(outer->base, origin ? &origin->tree : NULL, false, &handle->base);
    if (status != ENG_OK) {
        free(handle);
        return status;
    }
    handle->magic = BATCH_MAGIC;
    handle->eng = outer->eng;
    handle->root_index = outer->root_index;
    handle->own = &trees->nothing;
    handle->outer = outer;
    handle->trees = trees;
    handle->origin = origin;
    handle->height = origin ? origin->tree.height : 1;
    handle->number = trees->count;
    trees->handles[trees->count++] = handle;
    *out = handle;
    return ENG_OK;
}

struct eng_batch *subtree_of(struct subtrees *trees, const struct buffer_entry *entry)
{
    assert(entry->kind == BUFFER_PUT && entry->tag == ENG_TREE && read32(entry->value) < trees->count);
    return trees->handles[read32(entry->value)];
}

/* ---- where a handle hangs ---- */

/* It is about to change: it has a write buffer, and what it was is noted. */
static enum eng_status note(struct eng_batch *handle)
{
    struct subtrees *trees = handle->trees;
    struct buffer *top = handle->outer->own->buffer;
    if (!handle->written) {
        struct layer *layer;
        enum eng_status status = layer_open(handle->eng, &layer);
        if (status != ENG_OK)
            return status;
        handle->own = layer;
        handle->written = true;
    }
    if (handle->epoch == trees->epoch)
        return ENG_OK;
    if (trees->undo_count == trees->undo_capacity) {
        size_t want = trees->undo_capacity ? 2 * trees->undo_capacity : 64;
        struct handle_undo *grown = realloc(trees->undo, want * sizeof *grown);
        if (!grown)
            return no_memory();
        trees->undo = grown;
        trees->undo_capacity = want;
    }
    struct handle_undo undo = {.mark = buffer_get_mark(top),
                               .handle = handle,
                               .own_mark = buffer_get_mark(handle->own->buffer),
                               .parent = handle->parent,
                               .key = handle->key,
                               .key_bytes = handle->key_bytes,
                               .height = handle->height};
    enum eng_status status = buffer_step(top);
    if (status != ENG_OK)
        return status;
    trees->undo[trees->undo_count++] = undo;
    handle->epoch = trees->epoch;
    return ENG_OK;
}

static enum eng_status put_entry(struct eng_batch *parent, const uint8_t *key, size_t key_bytes,
                                 const struct eng_batch *handle)
{
    uint8_t value[SUBTREE_VALUE_BYTES] = {0};
    memcpy(value, &handle->number, 4);
    if (handle->origin)
        memcpy(value + 4, &handle->origin->tree.summary, sizeof(struct eng_summary));
    return buffer_put(parent->own->buffer, key, key_bytes, ENG_TREE, value, sizeof value);
}

enum eng_status subtree_write(struct eng_batch *batch)
{
    if (!batch->outer)
        return ENG_OK;
    enum eng_status status = note(batch);
    const struct buffer_entry *entry;
    if (status != ENG_OK || !subtree_attached(batch))
        return status;
    if (layers_find(batch->parent, batch->key, batch->key_bytes, &entry) == LAYERS_ENTRY)
        return ENG_OK; /* its parent knows */
    status = subtree_write(batch->parent);
    return status == ENG_OK ? put_entry(batch->parent, batch->key, batch->key_bytes, batch) : status;
}

/* Hangs a handle that is nowhere. */
static enum eng_status hang(struct eng_batch *parent, const uint8_t *key, size_t key_bytes, struct eng_batch *handle)
{
    enum eng_status status = subtree_fits(parent, handle);
    if (status != ENG_OK)
        return status;
    const uint8_t *copy = keep_key(handle->trees, key, key_bytes);
    status = copy ? note(handle) : no_memory();
    if (status == ENG_OK)
        status = subtree_write(parent);
    if (status == ENG_OK)
        status = put_entry(parent, key, key_bytes, handle);
    if (status != ENG_OK)
        return status;
    handle->parent = parent;
    handle->key = copy;
    handle->key_bytes = (uint32_t)key_bytes;
    subtree_raise(parent, handle);
    return ENG_OK;
}

/* ---- the API ---- */

static enum eng_status check_use(struct eng_batch *batch, const uint8_t *key, size_t key_bytes)
{
    struct eng_batch *outer = outer_of(batch);
    struct subtrees *trees;
    assert(batch->magic == BATCH_MAGIC && !batch->frozen);
    if (key && (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX))
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes, ENG_KEY_BYTES_MAX);
    if (outer->below_count)
        return eng_fail(ENG_BUSY, "subtree: the batch before this one is not committed yet");
    return trees_of(outer, &trees);
}

static enum eng_status of_another_type(void)
{
    return eng_fail(ENG_TYPE, "key: its value is not a tree");
}

/* The subtree at a key; ENG_NOT_FOUND: the key is absent. */
static enum eng_status find(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, struct eng_batch **tree)
{
    const struct buffer_entry *entry;
    switch (layers_find(batch, key, key_bytes, &entry)) {
    case LAYERS_ENTRY:
        if (entry->kind != BUFFER_PUT)
            return ENG_NOT_FOUND;
        if (entry->tag != ENG_TREE)
            return of_another_type();
        *tree = subtree_of(batch->trees, entry);
        return ENG_OK;
    case LAYERS_HIDDEN:
        return ENG_NOT_FOUND;
    case LAYERS_NOTHING:
        break;
    }
    struct origin *origin;
    enum eng_status status = batch_read_key(batch, key, key_bytes);
    if (status == ENG_OK)
        status = origin_find(batch, key, key_bytes, &origin);
    if (status != ENG_OK)
        return status;
    if (!origin->place) {
        status = handle_new(outer_of(batch), origin, tree);
        if (status != ENG_OK)
            return status;
        (*tree)->parent = batch;
        (*tree)->key = origin->key;
        (*tree)->key_bytes = origin->key_bytes;
        origin->place = *tree;
    }
    *tree = origin->place;
    return ENG_OK;
}

enum eng_status eng_batch_tree(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, bool create,
                               struct eng_batch **tree)
{
    *tree = NULL;
    enum eng_status status = check_use(batch, key, key_bytes);
    if (status == ENG_OK)
        status = find(batch, key, key_bytes, tree);
    if (status != ENG_NOT_FOUND || !create)
        return status;
    status = handle_new(outer_of(batch), NULL, tree);
    if (status == ENG_OK)
        status = hang(batch, key, key_bytes, *tree);
    if (status != ENG_OK)
        *tree = NULL;
    return status;
}

enum eng_status eng_batch_tree_new(struct eng_batch *batch, struct eng_batch **tree)
{
    *tree = NULL;
    enum eng_status status = check_use(batch, NULL, 0);
    return status == ENG_OK ? handle_new(outer_of(batch), NULL, tree) : status;
}

enum eng_status eng_batch_tree_take(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                    struct eng_batch **tree)
{
    *tree = NULL;
    struct eng_batch *taken;
    enum eng_status status = check_use(batch, key, key_bytes);
    if (status == ENG_OK)
        status = find(batch, key, key_bytes, &taken);
    if (status == ENG_OK)
        status = note(taken);
    if (status == ENG_OK)
        status = subtree_write(batch);
    if (status == ENG_OK)
        status = buffer_remove(batch->own->buffer, key, key_bytes);
    if (status != ENG_OK)
        return status;
    taken->parent = NULL;
    *tree = taken;
    return ENG_OK;
}

enum eng_status eng_batch_tree_put(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                   struct eng_batch *tree)
{
    enum eng_status status = check_use(batch, key, key_bytes);
    if (status != ENG_OK)
        return status;
    if (!tree->outer || tree->outer != outer_of(batch))
        return eng_fail(ENG_INVALID, "subtree: it belongs to another batch");
    if (subtree_attached(tree))
        return eng_fail(ENG_INVALID, "subtree: it hangs at another key: take it from there, or clone it");
    for (const struct eng_batch *above = batch; above;
         above = above->outer && subtree_attached(above) ? above->parent : NULL)
        if (above == tree)
            return eng_fail(ENG_INVALID, "subtree: it cannot be put into itself");
    return hang(batch, key, key_bytes, tree);
}

static enum eng_status go_on(struct eng_batch *tree, struct eng_batch **out);

/* Everything the original has written and not committed. */
static enum eng_status copy_writes(const struct eng_batch *from, struct eng_batch *to)
{
    enum eng_status status = note(to);
    const struct hidden *hidden = &from->own->hidden;
    for (size_t i = 0; i < hidden->count && status == ENG_OK; i++)
        status = hidden_add(&to->own->hidden, &hidden->sorted[i], 0);
    const uint8_t first = 0;
    const struct buffer_entry *entry = buffer_seek(from->own->buffer, &first, 1, false);
    for (; entry && status == ENG_OK; entry = buffer_seek(from->own->buffer, entry->key, entry->key_bytes, true)) {
        if (entry->kind == BUFFER_REMOVE) {
            status = buffer_remove(to->own->buffer, entry->key, entry->key_bytes);
        } else if (entry->tag != ENG_TREE) {
            status = buffer_put(to->own->buffer, entry->key, entry->key_bytes, (enum eng_tag)entry->tag, entry->value,
                                entry->value_bytes);
        } else {
            struct eng_batch *inner;
            status = go_on(subtree_of(from->trees, entry), &inner);
            if (status == ENG_OK)
                status = hang(to, entry->key, entry->key_bytes, inner);
        }
    }
    return status;
}

static enum eng_status go_on(struct eng_batch *tree, struct eng_batch **out)
{
    enum eng_status status = handle_new(tree->outer, tree->origin, out);
    if (status != ENG_OK)
        return status;
    (*out)->height = tree->height;
    if (tree->origin)
        tree->origin->cloned = true;
    return tree->written ? copy_writes(tree, *out) : ENG_OK;
}

enum eng_status eng_batch_tree_clone(struct eng_batch *tree, struct eng_batch **out)
{
    *out = NULL;
    enum eng_status status = check_use(tree, NULL, 0);
    if (status != ENG_OK)
        return status;
    if (!tree->outer)
        return eng_fail(ENG_INVALID, "subtree: a top-level root cannot be cloned");
    struct eng_batch *made;
    status = subtree_write(tree); /* it gets a new tree object, which names what it shares */
    if (status == ENG_OK)
        status = go_on(tree, &made);
    if (status == ENG_OK)
        *out = made;
    return status;
}

enum eng_status eng_snapshot_tree(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                  struct eng_snapshot **tree)
{
    *tree = NULL;
    if (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes, ENG_KEY_BYTES_MAX);
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    struct tree_object object;
    enum eng_status status = tree_object_get(snapshot->eng->store, snapshot->version.root, key, key_bytes, &object);
    reader_leave(reader);
    return status == ENG_OK ? snapshot_of_tree(snapshot, &object, true, tree) : status;
}

/* ---- for the outermost batch ---- */

enum eng_status subtree_make(struct eng_batch *outer, struct eng_batch *container, const uint8_t *key, size_t key_bytes,
                             bool cloned, struct eng_batch **handle)
{
    struct subtrees *trees;
    struct origin *origin = NULL;
    enum eng_status status = trees_of(outer, &trees);
    if (status == ENG_OK && container)
        status = origin_find(container, key, key_bytes, &origin);
    if (status == ENG_OK && origin)
        origin->cloned |= cloned;
    if (status == ENG_OK)
        status = handle_new(outer, origin, handle);
    return status == ENG_OK ? note(*handle) : status;
}

void subtrees_mark(struct subtrees *trees)
{
    trees->epoch++;
}

void subtrees_rollback(struct eng_batch *outer, uint64_t mark)
{
    struct subtrees *trees = outer->trees;
    size_t done = trees->undo_count;
    trees->epoch++;
    while (trees->undo_count && trees->undo[trees->undo_count - 1].mark >= mark) {
        const struct handle_undo *undo = &trees->undo[--trees->undo_count];
        struct eng_batch *handle = undo->handle;
        buffer_rollback(handle->own->buffer, undo->own_mark);
        hidden_rollback(&handle->own->hidden, undo->own_mark);
        handle->parent = undo->parent;
        handle->key = undo->key;
        handle->key_bytes = undo->key_bytes;
        if (handle->height < undo->height) /* it was counted since */
            handle->height = undo->height;
    }
    for (size_t i = trees->undo_count; i < done; i++) { /* and so was what it is back in */
        const struct eng_batch *handle = trees->undo[i].handle;
        if (subtree_attached(handle))
            subtree_raise(handle->parent, handle);
    }
}

enum eng_status subtrees_freeze(struct subtrees *trees)
{
    enum eng_status status = ENG_OK;
    for (uint32_t i = 0; i < trees->count && status == ENG_OK; i++) {
        struct eng_batch *handle = trees->handles[i];
        if (handle->written && !handle->frozen)
            status = layer_freeze(handle->eng, handle->own);
        if (status == ENG_OK)
            handle->frozen = true;
    }
    return status;
}

void subtrees_thaw(struct subtrees *trees)
{
    for (uint32_t i = 0; i < trees->count; i++) {
        struct eng_batch *handle = trees->handles[i];
        if (handle->written && handle->frozen)
            layer_thaw(handle->eng, handle->own);
        handle->frozen = false;
    }
}

/* Under eng->batches. */
void subtrees_close(struct eng_batch *outer)
{
    struct subtrees *trees = outer->trees;
    if (!trees)
        return;
    for (uint32_t i = 0; i < trees->count; i++) {
        struct eng_batch *handle = trees->handles[i];
        if (handle->written)
            layer_release(handle->eng, handle->own);
        eng_snapshot_close(&handle->base);
        hidden_free(&handle->reads);
        free(handle->copy);
        handle->magic = 0;
        free(handle);
    }
    buffer_close(&trees->nothing.buffer);
    bump_close(&trees->memory);
    free(trees->handles);
    free(trees->origins);
    free(trees->undo);
    free(trees->made);
    free(trees->handled);
    free(trees);
    outer->trees = NULL;
}
