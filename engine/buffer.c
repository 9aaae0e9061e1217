/*
 * The write buffer (buffer.h): entries, journal and frozen list around the radix tree of art.c.
 *
 * An entry, its key and its first value lie side by side in bump memory. Every write appends one undo record {entry,
 * what it held} to the journal and then changes the entry; an overwritten value stays where it was, so undoing is
 * copying the record back. A mark is a length of the journal. Rolling back walks the journal down to the mark, newest
 * first. A key that was new then becomes BUFFER_NONE and stays in the tree, where lookups pass over it.
 *
 * Ways to fail: no memory for the bump chunk, for a large value or for the journal. All of it is reserved before
 * anything is linked, so a failed call leaves the buffer as it was.
 *
 * Invariants: live = number of entries that are not BUFFER_NONE; a frozen buffer is never written, its list is a copy
 * of the live entries in key order.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "art.h"
#include "buffer.h"
#include "bump.h"
#include "node.h"
#include "pando/limits.h"

#define BUFFER_MAGIC 0x7566666275706e61ull
#define VALUE_SHARED_BYTES_MAX 4096u          /* larger values get memory of their own */
#define JOURNAL_RECORDS_MIN 64u               /* first size of the journal, and what is left of it after a reset */
#define JOURNAL_RECORDS_KEPT_MAX (256u << 10) /* a longer journal is given back by a reset */
#define LIST_ENTRIES_KEPT_MAX (128u << 10)    /* and a longer frozen list */

/* What an entry held before one write. */
struct undo {
    struct buffer_entry *entry;
    const uint8_t *value;
    uint32_t value_bytes;
    uint8_t kind, tag;
};

struct buffer {
    uint64_t magic;
    struct art art;
    struct bump bump;
    struct undo *journal;
    size_t journal_records, journal_room;
    size_t live;
    bool frozen;
    struct buffer_entry *list; /* of the frozen buffer: live entries */
    size_t list_entries, list_room;
};

enum eng_status buffer_open(struct buffer **buffer)
{
    struct buffer *b = calloc(1, sizeof *b);
    struct undo *journal = malloc(JOURNAL_RECORDS_MIN * sizeof *journal);
    *buffer = NULL;
    if (!b || !journal) {
        free(b);
        free(journal);
        return eng_fail(ENG_NO_MEMORY, "write buffer: out of memory");
    }
    b->magic = BUFFER_MAGIC;
    b->journal = journal;
    b->journal_room = JOURNAL_RECORDS_MIN;
    *buffer = b;
    return ENG_OK;
}

void buffer_close(struct buffer **buffer)
{
    struct buffer *b = *buffer;
    *buffer = NULL;
    if (!b)
        return;
    assert(b->magic == BUFFER_MAGIC);
    b->magic = 0;
    bump_close(&b->bump);
    free(b->journal);
    free(b->list);
    free(b);
}

void buffer_reset(struct buffer *buffer)
{
    assert(buffer->magic == BUFFER_MAGIC);
    bump_reset(&buffer->bump);
    buffer->art = (struct art){0};
    buffer->journal_records = buffer->live = buffer->list_entries = 0;
    buffer->frozen = false;
    if (buffer->list_room > LIST_ENTRIES_KEPT_MAX) {
        free(buffer->list);
        buffer->list = NULL;
        buffer->list_room = 0;
    }
    if (buffer->journal_room > JOURNAL_RECORDS_KEPT_MAX) {
        struct undo *less = realloc(buffer->journal, JOURNAL_RECORDS_MIN * sizeof *less);
        if (less) {
            buffer->journal = less;
            buffer->journal_room = JOURNAL_RECORDS_MIN;
        }
    }
}

static bool journal_reserve(struct buffer *buffer)
{
    if (buffer->journal_records < buffer->journal_room)
        return true;
    struct undo *more = realloc(buffer->journal, 2 * buffer->journal_room * sizeof *more);
    if (!more)
        return false;
    buffer->journal = more;
    buffer->journal_room *= 2;
    return true;
}

/* The entry of a key, made if it is new. Memory is reserved by the caller. */
static struct buffer_entry *entry_of(struct buffer *buffer, const uint8_t *key, size_t key_bytes)
{
    struct buffer_entry *entry = bump_take(&buffer->bump, sizeof *entry + key_bytes);
    uint8_t *copy = (uint8_t *)(entry + 1);
    memcpy(copy, key, key_bytes);
    *entry = (struct buffer_entry){.key = copy, .key_bytes = (uint16_t)key_bytes, .kind = BUFFER_NONE};
    struct buffer_entry *old = art_insert(&buffer->art, &buffer->bump, entry);
    if (old) {
        bump_untake(&buffer->bump, entry);
        return old;
    }
    entry->hash = (uint8_t)XXH3_64bits(key, key_bytes);
    return entry;
}

static void entry_write(struct buffer *buffer, struct buffer_entry *entry, enum buffer_kind kind, enum eng_tag tag,
                        const uint8_t *value, size_t value_bytes)
{
    assert(buffer->journal_records < buffer->journal_room);
    buffer->journal[buffer->journal_records++] = (struct undo){.entry = entry,
                                                               .value = entry->value,
                                                               .value_bytes = entry->value_bytes,
                                                               .kind = entry->kind,
                                                               .tag = entry->tag};
    buffer->live += entry->kind == BUFFER_NONE;
    entry->value = value;
    entry->value_bytes = (uint32_t)value_bytes;
    entry->kind = (uint8_t)kind;
    entry->tag = (uint8_t)tag;
}

static bool reserve(struct buffer *buffer, size_t key_bytes, size_t value_bytes)
{
    size_t bytes = sizeof(struct buffer_entry) + key_bytes + value_bytes + 2 * 7 + ART_NODE_BYTES_MAX;
    return journal_reserve(buffer) && bump_reserve(&buffer->bump, bytes);
}

enum eng_status buffer_put(struct buffer *buffer, const uint8_t *key, size_t key_bytes, enum eng_tag tag,
                           const uint8_t *value, size_t value_bytes)
{
    assert(buffer->magic == BUFFER_MAGIC && !buffer->frozen);
    assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX && value_bytes <= ENG_VALUE_BYTES_MAX);
    bool shared = value_bytes <= VALUE_SHARED_BYTES_MAX;
    uint8_t *copy = NULL;
    if (!reserve(buffer, key_bytes, shared ? value_bytes : 0))
        return eng_fail(ENG_NO_MEMORY, "write buffer: no memory for an entry (%zu keys, %zu bytes in use)",
                        buffer->live, buffer_memory(buffer));
    if (!shared && !(copy = bump_alone(&buffer->bump, value_bytes)))
        return eng_fail(ENG_NO_MEMORY, "write buffer: no memory for a value of %zu bytes", value_bytes);
    struct buffer_entry *entry = entry_of(buffer, key, key_bytes);
    if (shared)
        copy = bump_take(&buffer->bump, value_bytes);
    if (value_bytes)
        memcpy(copy, value, value_bytes);
    entry_write(buffer, entry, BUFFER_PUT, tag, copy, value_bytes);
    return ENG_OK;
}

enum eng_status buffer_remove(struct buffer *buffer, const uint8_t *key, size_t key_bytes)
{
    assert(buffer->magic == BUFFER_MAGIC && !buffer->frozen);
    assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX);
    if (!reserve(buffer, key_bytes, 0))
        return eng_fail(ENG_NO_MEMORY, "write buffer: no memory for an entry (%zu keys, %zu bytes in use)",
                        buffer->live, buffer_memory(buffer));
    entry_write(buffer, entry_of(buffer, key, key_bytes), BUFFER_REMOVE, ENG_BYTES, NULL, 0);
    return ENG_OK;
}

const struct buffer_entry *buffer_find(const struct buffer *buffer, const uint8_t *key, size_t key_bytes)
{
    assert(buffer->magic == BUFFER_MAGIC);
    const struct buffer_entry *entry = art_find(&buffer->art, key, key_bytes);
    return entry && entry->kind != BUFFER_NONE ? entry : NULL;
}

buffer_mark buffer_get_mark(const struct buffer *buffer)
{
    return buffer->journal_records;
}

void buffer_rollback(struct buffer *buffer, buffer_mark mark)
{
    assert(buffer->magic == BUFFER_MAGIC && !buffer->frozen);
    assert(mark <= buffer->journal_records);
    while (buffer->journal_records > mark) {
        const struct undo *undo = &buffer->journal[--buffer->journal_records];
        struct buffer_entry *entry = undo->entry;
        if (!entry) /* a step */
            continue;
        buffer->live -= undo->kind == BUFFER_NONE;
        entry->value = undo->value;
        entry->value_bytes = undo->value_bytes;
        entry->kind = undo->kind;
        entry->tag = undo->tag;
    }
}

enum eng_status buffer_step(struct buffer *buffer)
{
    assert(buffer->magic == BUFFER_MAGIC && !buffer->frozen);
    if (!journal_reserve(buffer))
        return eng_fail(ENG_NO_MEMORY, "write buffer: no memory for a mark");
    buffer->journal[buffer->journal_records++] = (struct undo){0};
    return ENG_OK;
}

const struct buffer_entry *buffer_seek_below(const struct buffer *buffer, const uint8_t *key, size_t key_bytes,
                                             bool after, const uint8_t *to, size_t to_bytes)
{
    assert(buffer->magic == BUFFER_MAGIC);
    const struct buffer_entry *entry = art_seek(&buffer->art, key, key_bytes, after);
    while (entry && (!to || bytes_compare(entry->key, entry->key_bytes, to, to_bytes) < 0)) {
        if (entry->kind != BUFFER_NONE)
            return entry;
        entry = art_seek(&buffer->art, entry->key, entry->key_bytes, true);
    }
    return NULL;
}

const struct buffer_entry *buffer_seek(const struct buffer *buffer, const uint8_t *key, size_t key_bytes, bool after)
{
    return buffer_seek_below(buffer, key, key_bytes, after, NULL, 0);
}

const struct buffer_entry *buffer_seek_before(const struct buffer *buffer, const uint8_t *key, size_t key_bytes)
{
    assert(buffer->magic == BUFFER_MAGIC);
    const struct buffer_entry *entry = art_seek_before(&buffer->art, key, key_bytes);
    while (entry && entry->kind == BUFFER_NONE)
        entry = art_seek_before(&buffer->art, entry->key, entry->key_bytes);
    return entry;
}

size_t buffer_count(const struct buffer *buffer)
{
    return buffer->live;
}

size_t buffer_memory(const struct buffer *buffer)
{
    return bump_used(&buffer->bump) + buffer->journal_records * sizeof(struct undo) +
           buffer->list_entries * sizeof(struct buffer_entry);
}

static void list_append(void *context, const struct buffer_entry *entry)
{
    struct buffer *buffer = context;
    if (entry->kind == BUFFER_NONE)
        return;
    assert(buffer->list_entries < buffer->live);
    buffer->list[buffer->list_entries++] = *entry;
}

void buffer_thaw(struct buffer *buffer)
{
    assert(buffer->magic == BUFFER_MAGIC);
    buffer->frozen = false;
}

enum eng_status buffer_freeze(struct buffer *buffer, const struct buffer_entry **entries, size_t *count)
{
    assert(buffer->magic == BUFFER_MAGIC);
    if (!buffer->frozen) {
        if (buffer->list_room < buffer->live) {
            struct buffer_entry *list = malloc(buffer->live * sizeof *list);
            if (!list)
                return eng_fail(ENG_NO_MEMORY, "write buffer: no memory to list %zu entries", buffer->live);
            free(buffer->list);
            buffer->list = list;
            buffer->list_room = buffer->live;
        }
        buffer->list_entries = 0;
        art_walk(&buffer->art, list_append, buffer);
        assert(buffer->list_entries == buffer->live);
        buffer->frozen = true;
    }
    *entries = buffer->list;
    *count = buffer->list_entries;
    return ENG_OK;
}
