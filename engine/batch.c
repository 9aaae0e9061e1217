/*
 * Batches: what EXECUTE writes into and reads through.
 *
 * A batch is a layer (an ART write buffer) over the frozen layers of the batches before it that were not yet merged
 * when it was opened, over a snapshot of the newest merged version at that time. A read asks them in this order. Layers
 * are counted, so that a parent may be closed, or merged, while its children still read through it.
 *
 * eng->batches (a mutex) guards the order of open batches and the counts; nothing is held while reading or writing.
 */
#include "engine_internal.h"
#include "segment.h"
#include "subtree.h"
#include "tree.h"

#include <stdlib.h>

void layer_release(struct eng *eng, struct layer *layer)
{
    if (!layer || --layer->references)
        return;
    hidden_free(&layer->hidden);
    if (layer->counted)
        atomic_fetch_sub_explicit(&eng->batch_memory, buffer_memory(layer->buffer), memory_order_relaxed);
    if (eng->spare_count < ENG_SPARE_BUFFERS) {
        buffer_reset(layer->buffer);
        eng->spare[eng->spare_count++] = layer->buffer;
    } else {
        buffer_close(&layer->buffer);
    }
    free(layer);
}

/* An empty write buffer. */
static enum eng_status take_buffer(struct eng *eng, struct buffer **buffer)
{
    pthread_mutex_lock(&eng->batches);
    *buffer = eng->spare_count ? eng->spare[--eng->spare_count] : NULL;
    pthread_mutex_unlock(&eng->batches);
    return *buffer ? ENG_OK : buffer_open(buffer);
}

enum eng_status layer_open(struct eng *eng, struct layer **out)
{
    struct layer *layer = calloc(1, sizeof *layer);
    enum eng_status status = layer ? take_buffer(eng, &layer->buffer) : ENG_NO_MEMORY;
    if (status != ENG_OK) {
        free(layer);
        return eng_fail(status, "batch: out of memory");
    }
    layer->references = 1;
    *out = layer;
    return ENG_OK;
}

enum eng_status layer_freeze(struct eng *eng, struct layer *layer)
{
    enum eng_status status = buffer_freeze(layer->buffer, &layer->entries, &layer->count);
    if (status == ENG_OK && !layer->counted)
        atomic_fetch_add_explicit(&eng->batch_memory, buffer_memory(layer->buffer), memory_order_relaxed);
    layer->counted |= status == ENG_OK;
    return status;
}

void layer_thaw(struct eng *eng, struct layer *layer)
{
    if (layer->counted)
        atomic_fetch_sub_explicit(&eng->batch_memory, buffer_memory(layer->buffer), memory_order_relaxed);
    layer->counted = false;
    layer->entries = NULL;
    layer->count = 0;
    buffer_thaw(layer->buffer);
}

/* The layers a new batch reads through, and its base. Called with eng->batches held. */
static enum eng_status batch_stack(struct eng_batch *batch, struct eng_batch *parent, struct eng_snapshot *at)
{
    struct eng *eng = batch->eng;
    if (parent) {
        assert(parent->magic == BATCH_MAGIC && parent->frozen && parent->root_index == batch->root_index);
        struct layer *chain[ENG_BATCH_DEPTH_MAX + 1];
        uint32_t n = 0;
        chain[n++] = parent->own;
        for (uint32_t i = 0; i < parent->below_count; i++)
            chain[n++] = parent->below[i];
        for (uint32_t i = 0; i < n && !chain[i]->committed; i++) {
            if (batch->below_count == ENG_BATCH_DEPTH_MAX)
                return eng_fail(ENG_BUSY, "batch: %u batches wait for their merge", ENG_BATCH_DEPTH_MAX);
            batch->below[batch->below_count++] = chain[i];
        }
    }
    /* The base must not be older than the first layer left out; the head is at least as new, and layers above win. */
    enum eng_status status =
        at ? snapshot_again(at, &batch->base) : eng_snapshot_open(eng, batch->root_index, ENG_HEAD, &batch->base);
    if (status != ENG_OK)
        return status;
    for (uint32_t i = 0; i < batch->below_count; i++)
        batch->below[i]->references++;
    return ENG_OK;
}

/* at: the version it reads, NULL: the newest. */
static enum eng_status batch_make(struct eng *eng, uint32_t root, struct eng_batch *parent, struct eng_snapshot *at,
                                  struct eng_batch **out)
{
    assert(eng->magic == ENG_MAGIC && root < ENG_ROOTS_MAX);
    struct eng_batch *batch = calloc(1, sizeof *batch);
    struct layer *layer = NULL;
    enum eng_status status = batch ? layer_open(eng, &layer) : eng_fail(ENG_NO_MEMORY, "batch: out of memory");
    if (status != ENG_OK) {
        free(batch);
        return status;
    }
    batch->magic = BATCH_MAGIC;
    batch->eng = eng;
    batch->root_index = root;
    batch->own = layer;
    pthread_mutex_lock(&eng->batches);
    status = batch_stack(batch, parent, at);
    pthread_mutex_unlock(&eng->batches);
    if (status != ENG_OK) {
        buffer_close(&layer->buffer);
        free(layer);
        free(batch);
        return status;
    }
    *out = batch;
    return ENG_OK;
}

enum eng_status eng_batch_open(struct eng *eng, uint32_t root, struct eng_batch *parent, struct eng_batch **batch)
{
    return batch_make(eng, root, parent, NULL, batch);
}

enum eng_status eng_fork(struct eng_snapshot *snapshot, struct eng_batch **fork)
{
    enum eng_status status = batch_make(snapshot->eng, snapshot->root_index, NULL, snapshot, fork);
    if (status == ENG_OK)
        (*fork)->fork = true;
    return status;
}

void eng_batch_close(struct eng_batch **out)
{
    struct eng_batch *batch = *out;
    if (!batch)
        return;
    assert(batch->magic == BATCH_MAGIC);
    struct eng *eng = batch->eng;
    *out = NULL;
    if (batch->outer) /* a subtree lives as long as the outermost batch */
        return;
    pthread_mutex_lock(&eng->batches);
    subtrees_close(batch);
    for (uint32_t i = 0; i < batch->below_count; i++)
        layer_release(eng, batch->below[i]);
    layer_release(eng, batch->own);
    pthread_mutex_unlock(&eng->batches);
    eng_snapshot_close(&batch->base);
    hidden_free(&batch->reads);
    free(batch->copy);
    batch->magic = 0;
    free(batch);
}

enum eng_status eng_batch_put(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, struct eng_value value)
{
    assert(batch->magic == BATCH_MAGIC && !batch->frozen);
    if (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes, ENG_KEY_BYTES_MAX);
    if (value.tag != ENG_BYTES && value.tag != ENG_AMOUNT)
        return eng_fail(ENG_INVALID, "value: tag %d", (int)value.tag);
    if (value.tag == ENG_AMOUNT && value.size != 16)
        return eng_fail(ENG_INVALID, "amount: %zu bytes, must be 16", value.size);
    /* what store_alloc can place in any segment, the first one included */
    uint64_t limit = ENG_VALUE_BYTES_MAX;
    uint64_t segment = batch->eng->segment_bytes - SEGMENT_HEADER_BYTES - sizeof(struct value_object);
    if (value.size > (segment < limit ? segment : limit))
        return eng_fail(ENG_TOO_LARGE, "value: %zu bytes, at most %llu", value.size,
                        (unsigned long long)(segment < limit ? segment : limit));
    enum eng_status status = subtree_write(batch);
    return status == ENG_OK ? buffer_put(batch->own->buffer, key, key_bytes, value.tag, value.bytes, value.size)
                            : status;
}

enum eng_status eng_batch_remove(struct eng_batch *batch, const uint8_t *key, size_t key_bytes)
{
    assert(batch->magic == BATCH_MAGIC && !batch->frozen);
    if (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes, ENG_KEY_BYTES_MAX);
    enum eng_status status = subtree_write(batch);
    return status == ENG_OK ? buffer_remove(batch->own->buffer, key, key_bytes) : status;
}

static void entry_value(const struct buffer_entry *entry, struct eng_value *value)
{
    size_t skip = entry->tag == ENG_TREE ? SUBTREE_VALUE_BYTES - sizeof(struct eng_summary) : 0;
    *value = (struct eng_value){(enum eng_tag)entry->tag, entry->value + skip, entry->value_bytes - skip};
}

enum layers_say layers_find(const struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                            const struct buffer_entry **entry)
{
    for (uint32_t i = 0; i <= batch->below_count; i++) {
        const struct layer *layer = batch_layer(batch, i);
        *entry = buffer_find(layer->buffer, key, key_bytes);
        if (*entry)
            return LAYERS_ENTRY;
        if (layer->hidden.count && hidden_find(&layer->hidden, key, key_bytes, false))
            return LAYERS_HIDDEN;
    }
    return LAYERS_NOTHING;
}

static enum eng_status batch_copy(struct eng_batch *batch, struct eng_value *value)
{
    if (value->size > batch->copy_capacity || !batch->copy) {
        uint8_t *fresh = realloc(batch->copy, value->size + 256);
        if (!fresh)
            return eng_fail(ENG_NO_MEMORY, "batch: out of memory");
        batch->copy = fresh;
        batch->copy_capacity = value->size + 256;
    }
    memcpy(batch->copy, value->bytes, value->size);
    value->bytes = batch->copy;
    return ENG_OK;
}

enum eng_status eng_batch_get(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, struct eng_value *value)
{
    assert(batch->magic == BATCH_MAGIC);
    if (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes, ENG_KEY_BYTES_MAX);
    const struct buffer_entry *entry;
    enum layers_say say = layers_find(batch, key, key_bytes, &entry);
    if (say == LAYERS_HIDDEN || (say == LAYERS_ENTRY && entry->kind == BUFFER_REMOVE))
        return ENG_NOT_FOUND;
    if (say == LAYERS_ENTRY) {
        entry_value(entry, value);
        return ENG_OK;
    }
    struct eng *eng = batch->eng;
    enum eng_status status = batch_read_key(batch, key, key_bytes);
    if (status != ENG_OK)
        return status;
    struct reader *reader = eng_enter(eng);
    if (!reader)
        return ENG_NO_READERS;
    struct tree_value stored;
    status = tree_get(eng->store, batch->base->version.root, key, key_bytes, &stored);
    if (status == ENG_OK)
        status = tree_value_read(eng->store, &stored, value, NULL);
    if (status == ENG_OK)
        status = batch_copy(batch, value);
    reader_leave(reader);
    return status;
}

/* Lookups of keys that no layer has. */
struct batch_lookups {
    struct store *store;
    void (*found)(void *context, size_t index, const struct eng_value *value);
    void *context;
    struct lookups tree;
    size_t index[LOOKUPS_MAX];
};

static enum eng_status tree_found(void *context, size_t from, size_t to)
{
    const struct batch_lookups *lookups = context;
    enum eng_status status = ENG_OK;
    for (size_t i = from; i < to && status == ENG_OK; i++) {
        struct eng_value value;
        if (!lookups->tree.value[i].stored) {
            lookups->found(lookups->context, lookups->index[i], NULL);
            continue;
        }
        status = tree_value_read(lookups->store, &lookups->tree.value[i], &value, NULL);
        if (status == ENG_OK)
            lookups->found(lookups->context, lookups->index[i], &value);
    }
    return status;
}

enum eng_status eng_batch_get_many(struct eng_batch *batch, size_t count, const uint8_t *const keys[],
                                   const size_t key_bytes[],
                                   void (*found)(void *context, size_t index, const struct eng_value *value),
                                   void *context)
{
    assert(batch->magic == BATCH_MAGIC);
    for (size_t i = 0; i < count; i++)
        if (key_bytes[i] == 0 || key_bytes[i] > ENG_KEY_BYTES_MAX)
            return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes[i], ENG_KEY_BYTES_MAX);
    struct eng *eng = batch->eng;
    struct reader *reader = eng_enter(eng);
    if (!reader)
        return ENG_NO_READERS;
    struct batch_lookups lookups;
    lookups.store = eng->store;
    lookups.found = found;
    lookups.context = context;
    lookups.tree.root = batch->base->version.root;
    lookups.tree.count = 0;
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < count && status == ENG_OK; i++) {
        const struct buffer_entry *entry;
        enum layers_say say = layers_find(batch, keys[i], key_bytes[i], &entry);
        if (say != LAYERS_NOTHING) {
            struct eng_value value;
            if (say == LAYERS_ENTRY)
                entry_value(entry, &value);
            found(context, i, say == LAYERS_ENTRY && entry->kind == BUFFER_PUT ? &value : NULL);
            continue;
        }
        status = batch_read_key(batch, keys[i], key_bytes[i]);
        size_t n = lookups.tree.count++;
        lookups.tree.key[n] = keys[i];
        lookups.tree.key_bytes[n] = key_bytes[i];
        lookups.index[n] = i;
        if (status == ENG_OK && lookups.tree.count == LOOKUPS_MAX) {
            status = lookups_run(&eng->lookups, &lookups.tree, tree_found, &lookups);
            lookups.tree.count = 0;
        }
    }
    if (status == ENG_OK)
        status = lookups_run(&eng->lookups, &lookups.tree, tree_found, &lookups);
    reader_leave(reader);
    return status;
}

static void layer_rollback(struct layer *layer, uint64_t mark)
{
    buffer_rollback(layer->buffer, mark);
    hidden_rollback(&layer->hidden, mark);
}

enum eng_status eng_batch_remove_range(struct eng_batch *batch, const uint8_t *from, size_t from_bytes,
                                       const uint8_t *to, size_t to_bytes)
{
    static const uint8_t first[1] = {0}; /* of all keys */
    assert(batch->magic == BATCH_MAGIC && !batch->frozen);
    enum eng_status status = bounds_check(from, from_bytes, to, to_bytes);
    if (status != ENG_OK)
        return status;
    struct hidden_range range = {from, to, (uint32_t)from_bytes, (uint32_t)to_bytes};
    if (!from || !from_bytes) {
        range.from = first;
        range.from_bytes = sizeof first;
    }
    if (to && bytes_compare(range.from, range.from_bytes, to, to_bytes) >= 0)
        return ENG_OK;
    status = subtree_write(batch);
    if (status != ENG_OK)
        return status;
    struct layer *own = batch->own;
    uint64_t mark = buffer_get_mark(own->buffer);
    status = hidden_add(&own->hidden, &range, mark);
    if (status != ENG_OK)
        return status;
    /* the first key is written even if it is not there: so the buffer's mark advances, and a rollback to it is exact */
    status = buffer_remove(own->buffer, range.from, range.from_bytes);
    const struct buffer_entry *entry = buffer_seek_below(own->buffer, range.from, range.from_bytes, true, to, to_bytes);
    while (status == ENG_OK && entry) {
        if (entry->kind == BUFFER_PUT)
            status = buffer_remove(own->buffer, entry->key, entry->key_bytes);
        entry = buffer_seek_below(own->buffer, entry->key, entry->key_bytes, true, to, to_bytes);
    }
    if (status != ENG_OK)
        layer_rollback(own, mark);
    return status;
}

enum eng_status eng_batch_next(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, bool after, uint8_t *next,
                               size_t *next_bytes)
{
    assert(batch->magic == BATCH_MAGIC);
    if (key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be at most %u", key_bytes, ENG_KEY_BYTES_MAX);
    struct eng_cursor *cursor;
    enum eng_status status = eng_cursor_open(batch->base, &cursor);
    if (status != ENG_OK)
        return status;
    status = batch_seek(batch, cursor, key, key ? key_bytes : 0, after ? SEEK_AFTER : SEEK_FROM, next, next_bytes);
    eng_cursor_close(&cursor);
    return status;
}

void eng_batch_prefetch(struct eng_batch *batch, size_t count, const uint8_t *const keys[], const size_t key_bytes[])
{
    struct eng *eng = batch->eng;
    struct reader *reader = eng_enter(eng);
    if (!reader)
        return;
    enum eng_status status = ENG_OK;
    for (size_t at = 0; at < count && status == ENG_OK; at += TREE_MANY) {
        struct tree_value values[TREE_MANY];
        size_t n = count - at < TREE_MANY ? count - at : TREE_MANY;
        status = tree_get_many(eng->store, batch->base->version.root, n, keys + at, key_bytes + at, values);
    }
    reader_leave(reader);
}

uint64_t eng_batch_mark(const struct eng_batch *batch)
{
    assert(!batch->outer);
    if (batch->trees)
        subtrees_mark(batch->trees);
    return buffer_get_mark(batch->own->buffer);
}

void eng_batch_rollback(struct eng_batch *batch, uint64_t mark)
{
    assert(!batch->frozen && !batch->outer);
    if (batch->trees)
        subtrees_rollback(batch, mark);
    layer_rollback(batch->own, mark);
}

size_t eng_batch_count(const struct eng_batch *batch)
{
    return buffer_count(batch->own->buffer);
}

size_t eng_batch_memory(const struct eng_batch *batch)
{
    return buffer_memory(batch->own->buffer);
}

enum eng_status eng_batch_freeze(struct eng_batch *batch)
{
    assert(batch->magic == BATCH_MAGIC && !batch->outer);
    if (batch->frozen)
        return ENG_OK;
    enum eng_status status = batch->trees ? subtrees_freeze(batch->trees) : ENG_OK;
    if (status == ENG_OK)
        status = layer_freeze(batch->eng, batch->own);
    batch->frozen = status == ENG_OK;
    if (!batch->frozen && batch->trees)
        subtrees_thaw(batch->trees);
    return status;
}

enum eng_status eng_batch_each(struct eng_batch *batch,
                               enum eng_status (*each)(void *context, const uint8_t *key, size_t key_bytes,
                                                       const struct eng_value *value),
                               void *context)
{
    assert(batch->frozen);
    for (size_t i = 0; i < batch->own->count; i++) {
        const struct buffer_entry *entry = &batch->own->entries[i];
        struct eng_value value;
        entry_value(entry, &value);
        enum eng_status status = each(context, entry->key, entry->key_bytes, entry->kind == BUFFER_PUT ? &value : NULL);
        if (status != ENG_OK)
            return status;
    }
    return ENG_OK;
}
