/*
 * How deep subtrees lie within each other: at most ENG_TREE_DEPTH_MAX.
 *
 * Every tree knows how high it is at most: one more than the highest that was ever put into it. As a rule that is all
 * there is to compare. Where it would be too much it is counted: what the batch has written, and for the rest the
 * committed tree, with a cursor, into those in it that still matter. So trees that change their places with each other
 * again and again are not refused in the end, and pay for one scan in some thirty moves.
 *
 * Ways to fail: memory; ENG_TOO_LARGE; ENG_DAMAGED, ENG_NO_READERS while counting.
 */
#include "subtree.h"

#include "tree.h"

bool subtree_attached(const struct eng_batch *handle)
{
    const struct buffer_entry *entry;
    if (!handle->parent)
        return false;
    switch (layers_find(handle->parent, handle->key, handle->key_bytes, &entry)) {
    case LAYERS_ENTRY:
        return entry->kind == BUFFER_PUT && entry->tag == ENG_TREE && subtree_of(handle->trees, entry) == handle;
    case LAYERS_HIDDEN:
        return false;
    case LAYERS_NOTHING:
        break;
    }
    return handle->origin && handle->origin->place == handle && handle->origin->container == handle->parent;
}

/* Levels from the top of its tree down to this one; the outermost batch is 0. */
static uint32_t level_of(const struct eng_batch *batch)
{
    uint32_t level = 0;
    for (; batch->outer; batch = batch->parent) {
        level++;
        if (!subtree_attached(batch))
            break;
    }
    return level;
}

/* ---- counting ---- */

static enum eng_status count_committed(struct eng_snapshot *snapshot, const struct eng_batch *handle, uint32_t *below);

/* The subtree the cursor stands at. */
static enum eng_status count_entry(struct eng_snapshot *snapshot, const struct eng_cursor *cursor, uint32_t *below)
{
    size_t key_bytes;
    const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
    struct tree_object tree;
    struct eng_snapshot *inner;
    uint32_t inside = 0;
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    enum eng_status status = tree_object_get(snapshot->eng->store, snapshot->version.root, key, key_bytes, &tree);
    reader_leave(reader);
    if (status != ENG_OK || tree.height <= *below)
        return status;
    if (tree.height > 1) {
        status = snapshot_of_tree(snapshot, &tree, false, &inner);
        if (status != ENG_OK)
            return status;
        status = count_committed(inner, NULL, &inside);
        eng_snapshot_close(&inner);
    }
    if (inside + 1 > *below)
        *below = inside + 1;
    return status;
}

/* *below grows to the levels there are below a committed tree, without the keys handle (or NULL) has written. */
static enum eng_status count_committed(struct eng_snapshot *snapshot, const struct eng_batch *handle, uint32_t *below)
{
    const uint8_t first = 0;
    struct eng_cursor *cursor;
    enum eng_status status = eng_cursor_open(snapshot, &cursor);
    if (status != ENG_OK)
        return status;
    status = eng_cursor_seek(cursor, &first, 1);
    while (status == ENG_OK) {
        const struct buffer_entry *entry;
        size_t key_bytes;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        if (cursor_tag(cursor) == ENG_TREE &&
            (!handle || layers_find(handle, key, key_bytes, &entry) == LAYERS_NOTHING))
            status = count_entry(snapshot, cursor, below);
        if (status == ENG_OK)
            status = eng_cursor_next(cursor);
    }
    eng_cursor_close(&cursor);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

/* handle->height becomes what it is. */
static enum eng_status count_handle(struct eng_batch *handle)
{
    uint32_t below = 0;
    const uint8_t first = 0;
    enum eng_status status = ENG_OK;
    const struct buffer_entry *entry = buffer_seek(handle->own->buffer, &first, 1, false);
    for (; entry; entry = buffer_seek(handle->own->buffer, entry->key, entry->key_bytes, true)) {
        if (entry->kind != BUFFER_PUT || entry->tag != ENG_TREE)
            continue;
        struct eng_batch *inner = subtree_of(handle->trees, entry);
        if (inner->height > below)
            status = count_handle(inner);
        if (status != ENG_OK)
            return status;
        if (inner->height > below)
            below = inner->height;
    }
    if (handle->origin && handle->origin->tree.height > below + 1)
        status = count_committed(handle->base, handle, &below);
    if (status == ENG_OK)
        handle->height = below + 1;
    return status;
}

/* Is there room for it below this level? Not ENG_OK: it could not be counted. */
static enum eng_status fits(struct eng_batch *handle, uint32_t level, bool *fit)
{
    enum eng_status status = ENG_OK;
    if (level + handle->height > ENG_TREE_DEPTH_MAX)
        status = count_handle(handle);
    *fit = level + handle->height <= ENG_TREE_DEPTH_MAX;
    return status;
}

/* ---- moves and replays ---- */

enum eng_status subtree_fits(struct eng_batch *parent, struct eng_batch *handle)
{
    bool fit;
    enum eng_status status = fits(handle, level_of(parent), &fit);
    if (status == ENG_OK && !fit)
        status =
            eng_fail(ENG_TOO_LARGE, "subtree: more than %u within each other (ENG_TREE_DEPTH_MAX)", ENG_TREE_DEPTH_MAX);
    return status;
}

void subtree_raise(struct eng_batch *parent, const struct eng_batch *handle)
{
    uint32_t height = handle->height;
    for (struct eng_batch *above = parent; above->outer; above = above->parent) {
        height++;
        above->height = above->height < height ? height : above->height;
        if (!subtree_attached(above))
            break;
    }
}

/* What hangs in batch, which lies at a level; *below grows to the levels there are. */
static enum eng_status whole_below(const struct eng_batch *batch, uint32_t level, uint32_t *below, bool *whole)
{
    for (size_t i = 0; i < batch->own->count; i++) {
        const struct buffer_entry *entry = &batch->own->entries[i];
        if (entry->kind != BUFFER_PUT || entry->tag != ENG_TREE)
            continue;
        struct eng_batch *handle = subtree_of(batch->trees, entry);
        uint32_t inside = 0;
        *whole = !handle->put && level < ENG_TREE_DEPTH_MAX;
        if (!*whole)
            return ENG_OK;
        handle->put = true;
        enum eng_status status = whole_below(handle, level + 1, &inside, whole);
        if (status != ENG_OK || !*whole)
            return status;
        if (handle->height < inside + 1)
            handle->height = inside + 1;
        status = fits(handle, level, whole);
        if (status != ENG_OK || !*whole)
            return status;
        if (*below < handle->height)
            *below = handle->height;
    }
    return ENG_OK;
}

enum eng_status subtrees_whole(struct eng_batch *outer, bool *whole)
{
    struct subtrees *trees = outer->trees;
    uint32_t below = 0;
    *whole = true;
    if (!trees)
        return ENG_OK;
    for (uint32_t i = 0; i < trees->count; i++)
        trees->handles[i]->put = false;
    return whole_below(outer, 0, &below, whole);
}
