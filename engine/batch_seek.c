/*
 * The nearest key a batch sees, forward or backward.
 *
 * A batch is a stack of sources: its own buffer, those of the frozen batches below it, the tree. Each source is asked
 * for its nearest key that no newer layer hides (a hidden stretch is jumped over, not walked), the nearest of all is
 * taken, and the newest layer that knows it decides whether it is there; a removed key is passed over.
 *
 * Ways to fail: those of a tree cursor.
 */
#include "engine_internal.h"

struct position {
    const uint8_t *key; /* NULL: none */
    size_t key_bytes;
};

/* The tree's nearest key. A cursor that stands on the key moves by one step. */
static enum eng_status tree_nearest(struct eng_cursor *tree, const uint8_t *key, size_t key_bytes, enum seek seek,
                                    struct position *position)
{
    enum eng_status status = ENG_NOT_FOUND;
    size_t at_bytes = 0;
    const uint8_t *at = cursor_stands(tree) ? eng_cursor_key(tree, &at_bytes) : NULL;
    bool there = at && key && at_bytes == key_bytes && memcmp(at, key, key_bytes) == 0;
    switch (seek) {
    case SEEK_FROM:
        status = there ? ENG_OK : eng_cursor_seek(tree, key, key_bytes);
        break;
    case SEEK_AFTER:
        status = there ? ENG_OK : eng_cursor_seek(tree, key, key_bytes);
        if (status == ENG_OK) {
            at = eng_cursor_key(tree, &at_bytes);
            if (at_bytes == key_bytes && memcmp(at, key, key_bytes) == 0)
                status = eng_cursor_next(tree);
        }
        break;
    case SEEK_BEFORE:
        status = there ? eng_cursor_prev(tree) : eng_cursor_seek_before(tree, key, key_bytes);
        break;
    }
    *position = (struct position){NULL, 0};
    if (status == ENG_OK)
        position->key = eng_cursor_key(tree, &position->key_bytes);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

static enum eng_status source_nearest(struct eng_batch *batch, struct eng_cursor *tree, uint32_t source,
                                      const uint8_t *key, size_t key_bytes, enum seek seek, struct position *position)
{
    if (source > batch->below_count)
        return tree_nearest(tree, key, key_bytes, seek, position);
    const struct buffer *buffer = batch_layer(batch, source)->buffer;
    const struct buffer_entry *entry = seek == SEEK_BEFORE ? buffer_seek_before(buffer, key, key_bytes)
                                                           : buffer_seek(buffer, key, key_bytes, seek == SEEK_AFTER);
    *position = entry ? (struct position){entry->key, entry->key_bytes} : (struct position){NULL, 0};
    return ENG_OK;
}

/* The range of a layer newer than the source that hides a key of it. */
static const struct hidden_range *hides(const struct eng_batch *batch, uint32_t source, const struct position *position)
{
    for (uint32_t i = 0; i < source && i <= batch->below_count; i++) {
        const struct hidden *hidden = &batch_layer(batch, i)->hidden;
        const struct hidden_range *range =
            hidden->count ? hidden_find(hidden, position->key, position->key_bytes, false) : NULL;
        if (range)
            return range;
    }
    return NULL;
}

static enum eng_status visible_nearest(struct eng_batch *batch, struct eng_cursor *tree, uint32_t source,
                                       const uint8_t *key, size_t key_bytes, enum seek seek, struct position *position)
{
    enum eng_status status = source_nearest(batch, tree, source, key, key_bytes, seek, position);
    const struct hidden_range *range;
    while (status == ENG_OK && position->key && (range = hides(batch, source, position)) != NULL) {
        if (seek == SEEK_BEFORE) {
            status = source_nearest(batch, tree, source, range->from, range->from_bytes, SEEK_BEFORE, position);
        } else if (range->to) {
            status = source_nearest(batch, tree, source, range->to, range->to_bytes, SEEK_FROM, position);
        } else {
            position->key = NULL;
        }
    }
    return status;
}

static enum eng_status seek_visible(struct eng_batch *batch, struct eng_cursor *tree, const uint8_t *key,
                                    size_t key_bytes, enum seek seek, uint8_t *found, size_t *found_bytes)
{
    uint8_t at[ENG_KEY_BYTES_MAX];
    size_t at_bytes = key_bytes;
    const uint8_t *from = key || seek != SEEK_BEFORE ? at : NULL;
    if (key_bytes)
        memcpy(at, key, key_bytes);
    for (;;) {
        struct position best = {NULL, 0};
        for (uint32_t source = 0; source <= batch->below_count + 1u; source++) {
            struct position position;
            enum eng_status status = visible_nearest(batch, tree, source, from, at_bytes, seek, &position);
            if (status != ENG_OK)
                return status;
            if (!position.key)
                continue;
            int order = best.key ? bytes_compare(position.key, position.key_bytes, best.key, best.key_bytes) : 0;
            if (!best.key || (seek == SEEK_BEFORE ? order > 0 : order < 0))
                best = position;
        }
        if (!best.key)
            return ENG_NOT_FOUND;
        memcpy(at, best.key, best.key_bytes);
        at_bytes = best.key_bytes;
        from = at;
        if (seek == SEEK_FROM)
            seek = SEEK_AFTER;
        const struct buffer_entry *entry;
        if (layers_find(batch, at, at_bytes, &entry) == LAYERS_ENTRY && entry->kind == BUFFER_REMOVE)
            continue;
        memcpy(found, at, at_bytes);
        *found_bytes = at_bytes;
        return ENG_OK;
    }
}

/* What was looked at on the way from key to found (NULL: to the end). */
static enum eng_status remember(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, enum seek seek,
                                const uint8_t *found, size_t found_bytes)
{
    uint8_t behind[ENG_KEY_BYTES_MAX + 1] = {0}; /* the first key after the upper end */
    const uint8_t *from = seek == SEEK_BEFORE ? found : key, *to = seek == SEEK_BEFORE ? key : found;
    size_t from_bytes = seek == SEEK_BEFORE ? found_bytes : key_bytes;
    size_t to_bytes = seek == SEEK_BEFORE ? key_bytes : found_bytes;
    struct hidden_range range = {.from = behind, .from_bytes = 1};
    if (from && from_bytes) {
        range.from = from;
        range.from_bytes = (uint32_t)from_bytes;
    }
    uint8_t upper[ENG_KEY_BYTES_MAX + 1];
    if (to) {
        memcpy(upper, to, to_bytes);
        upper[to_bytes] = 0;
        range.to = upper;
        range.to_bytes = (uint32_t)to_bytes + (seek != SEEK_BEFORE);
    }
    if (range.to && bytes_compare(range.from, range.from_bytes, range.to, range.to_bytes) >= 0)
        return ENG_OK; /* nothing lies between */
    return batch_remember(batch, &range);
}

enum eng_status batch_seek(struct eng_batch *batch, struct eng_cursor *tree, const uint8_t *key, size_t key_bytes,
                           enum seek seek, uint8_t *found, size_t *found_bytes)
{
    if (!batch->serializable)
        return seek_visible(batch, tree, key, key_bytes, seek, found, found_bytes);
    uint8_t from[ENG_KEY_BYTES_MAX]; /* found may be the same memory as key */
    if (key_bytes)
        memcpy(from, key, key_bytes);
    enum eng_status status = seek_visible(batch, tree, key, key_bytes, seek, found, found_bytes);
    if (status != ENG_OK && status != ENG_NOT_FOUND)
        return status;
    enum eng_status kept = remember(batch, key ? from : NULL, key_bytes, seek, status == ENG_OK ? found : NULL,
                                    status == ENG_OK ? *found_bytes : 0);
    return kept != ENG_OK ? kept : status;
}
