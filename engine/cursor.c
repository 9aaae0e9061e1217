/*
 * Cursors and scans.
 *
 * A cursor keeps the ids of the inner nodes above it and a private copy of the leaf it stands in; ids stay good while
 * the snapshot pins its version, so nothing is held between calls: no lock, no epoch, no pointer into the store. Moving
 * within a leaf touches only the copy; moving to the next one enters an epoch for as long as the copy takes.
 *
 * A cursor over a batch remembers its key alone and asks the batch anew for the nearest one at every move
 * (batch_seek.c), so it sees what was written since. A prefix confines either kind: a move that leaves it is the end.
 */
#include "engine_internal.h"
#include "tree.h"

#include <stdlib.h>

struct level {
    uint32_t id;
    uint16_t branch, branches;
};

struct eng_cursor {
    struct eng_snapshot *snapshot;
    struct eng_batch *batch;  /* NULL: over a snapshot */
    struct eng_cursor *below; /* over the batch's base */
    size_t prefix_bytes;
    uint8_t prefix[ENG_KEY_BYTES_MAX];
    struct leaf *leaf; /* the copy; NULL capacity at first */
    size_t leaf_capacity;
    int at;       /* entry; -1: at the end */
    unsigned top; /* levels in use */
    struct level level[ENG_KEY_BYTES_MAX + 2];
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t key_bytes;
    uint8_t *value;
    size_t value_capacity;
};

enum eng_status eng_cursor_open(struct eng_snapshot *snapshot, struct eng_cursor **cursor)
{
    *cursor = calloc(1, sizeof **cursor);
    if (!*cursor)
        return eng_fail(ENG_NO_MEMORY, "cursor: out of memory");
    (*cursor)->snapshot = snapshot;
    (*cursor)->at = -1;
    return ENG_OK;
}

enum eng_status eng_cursor_open_batch(struct eng_batch *batch, struct eng_cursor **cursor)
{
    enum eng_status status = eng_cursor_open(batch->base, cursor);
    if (status != ENG_OK)
        return status;
    (*cursor)->batch = batch;
    status = eng_cursor_open(batch->base, &(*cursor)->below);
    if (status != ENG_OK)
        eng_cursor_close(cursor);
    return status;
}

bool cursor_stands(const struct eng_cursor *c)
{
    return c->at >= 0;
}

enum eng_tag cursor_tag(const struct eng_cursor *c)
{
    return FORM_TAG(leaf_entry_at(c->leaf, (unsigned)c->at).form);
}

void eng_cursor_close(struct eng_cursor **cursor)
{
    if (!*cursor)
        return;
    eng_cursor_close(&(*cursor)->below);
    free((*cursor)->leaf);
    free((*cursor)->value);
    free(*cursor);
    *cursor = NULL;
}

static void take_key(struct eng_cursor *c)
{
    struct leaf_entry e = leaf_entry_at(c->leaf, (unsigned)c->at);
    unsigned common = c->leaf->depth + c->leaf->prefix_bytes;
    memcpy(c->key + common, e.suffix, e.suffix_bytes);
    c->key_bytes = common + e.suffix_bytes;
}

/* Without the digests behind the entries. */
static enum eng_status copy_leaf(struct eng_cursor *c, const struct leaf *leaf)
{
    if (leaf->bytes > c->leaf_capacity) {
        struct leaf *fresh = realloc(c->leaf, leaf->bytes + 1024u);
        if (!fresh)
            return eng_fail(ENG_NO_MEMORY, "cursor: out of memory");
        c->leaf = fresh;
        c->leaf_capacity = leaf->bytes + 1024u;
    }
    leaf_copy(c->leaf, leaf, leaf->bytes - leaf_cache_bytes(leaf->count));
    memcpy(c->key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
    return ENG_OK;
}

/* Puts an inner node on the stack. */
static void push(struct eng_cursor *c, const struct inner *inner, unsigned branch)
{
    c->level[c->top++] = (struct level){inner->node.object.id, (uint16_t)branch, inner->branches};
    memcpy(c->key + inner->depth, inner_prefix(inner), inner->prefix_bytes);
}

/* To the first (or last) leaf below a node. */
static enum eng_status edge(struct eng_cursor *c, uint32_t id, bool last)
{
    struct store *store = c->snapshot->eng->store;
    for (;;) {
        const struct node *node = store_node(store, id);
        if (!node)
            return ENG_DAMAGED;
        if (node->object.type == OBJECT_LEAF) {
            enum eng_status status = copy_leaf(c, (const struct leaf *)node);
            if (status == ENG_OK)
                c->at = last ? c->leaf->count - 1 : 0;
            return status;
        }
        const struct inner *inner = (const struct inner *)node;
        unsigned branch = last ? inner->branches - 1u : 0;
        push(c, inner, branch);
        id = inner_child(inner)[branch];
    }
}

/*
 * Looking ahead while moving forward, so that no leaf is waited for. Distances are in children of lowest inner nodes,
 * nearly always leaves. They often have a few children only, hence the next ones of their parent are looked at too: the
 * control word and then the node of each is asked for some steps before.
 */
#define AHEAD_NODES 2u    /* a node this far ahead is asked for */
#define AHEAD_CONTROLS 5u /* and the control word of one this far */
#define AHEAD_SIBLINGS 3u /* the same, of inner nodes beside the lowest one */
#define AHEAD_SIBLING_CONTROLS 5u
#define AHEAD_INNER_LINES 3u

/* The child this far behind the present one of the lowest inner node; 0: not under its parent, or too far. */
static uint32_t child_ahead(const struct eng_cursor *c, unsigned distance)
{
    struct store *store = c->snapshot->eng->store;
    const struct level *level = &c->level[c->top - 1];
    const struct inner *inner = (const struct inner *)store_node(store, level->id);
    unsigned left = level->branches - level->branch - 1u;
    if (!inner || distance <= left)
        return inner ? inner_child(inner)[level->branch + distance] : 0;
    distance -= left;
    if (c->top < 2)
        return 0;
    level--;
    inner = (const struct inner *)store_node(store, level->id);
    for (unsigned i = level->branch + 1u; inner && i < level->branches && i < level->branch + AHEAD_SIBLINGS; i++) {
        uint32_t id = inner_child(inner)[i];
        const struct node *node = store_node(store, id);
        unsigned count = !node ? 0 : node->object.type == OBJECT_LEAF ? 1 : ((const struct inner *)node)->branches;
        if (distance <= count)
            return node->object.type == OBJECT_LEAF ? id : inner_child((const struct inner *)node)[distance - 1];
        distance -= count;
    }
    return 0;
}

/* What a scan looks at of a node: a leaf without its digests, which are a quarter of it. */
static void prefetch_ahead(struct store *store, uint32_t id)
{
    uint64_t word = atomic_load_explicit(&store_view(store)->control[id], memory_order_relaxed);
    unsigned units = CONTROL_UNITS(word);
    store_prefetch_object(store, id, CONTROL_TYPE(word) == OBJECT_LEAF ? units - units / 4 : AHEAD_INNER_LINES);
}

/* After a step forward; entered: into another lowest inner node. */
static void look_ahead(const struct eng_cursor *c, bool entered)
{
    struct store *store = c->snapshot->eng->store;
    uint32_t id = child_ahead(c, AHEAD_CONTROLS);
    if (id)
        store_prefetch_control(store, id);
    id = child_ahead(c, AHEAD_NODES);
    if (id)
        prefetch_ahead(store, id);
    if (!entered || c->top < 2)
        return;
    const struct level *above = &c->level[c->top - 2];
    const struct inner *inner = (const struct inner *)store_node(store, above->id);
    if (inner && above->branch + AHEAD_SIBLING_CONTROLS < above->branches)
        store_prefetch_control(store, inner_child(inner)[above->branch + AHEAD_SIBLING_CONTROLS]);
    if (inner && above->branch + AHEAD_SIBLINGS < above->branches)
        store_prefetch_object(store, inner_child(inner)[above->branch + AHEAD_SIBLINGS], AHEAD_INNER_LINES);
}

/* To the leaf after (before) everything below the top of the stack's present branch. */
static enum eng_status sideways(struct eng_cursor *c, bool back)
{
    struct store *store = c->snapshot->eng->store;
    while (c->top) {
        struct level *level = &c->level[c->top - 1];
        if (back ? level->branch > 0 : level->branch + 1u < level->branches) {
            level->branch = (uint16_t)(back ? level->branch - 1u : level->branch + 1u);
            const struct inner *inner = (const struct inner *)store_node(store, level->id);
            if (!inner)
                return ENG_DAMAGED;
            uint32_t id = inner_child(inner)[level->branch];
            unsigned top = c->top;
            if (back)
                return edge(c, id, true);
            enum eng_status status = edge(c, id, false);
            if (status == ENG_OK)
                look_ahead(c, c->top > top);
            return status;
        }
        c->top--;
    }
    c->at = -1;
    return ENG_NOT_FOUND;
}

/* The first entry >= key. */
static enum eng_status lower_bound(struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    struct store *store = c->snapshot->eng->store;
    uint32_t id = c->snapshot->version.root;
    for (;;) {
        const struct node *node = store_node(store, id);
        if (!node)
            return ENG_DAMAGED;
        bool is_leaf = node->object.type == OBJECT_LEAF;
        const struct leaf *leaf = (const struct leaf *)node;
        const struct inner *inner = (const struct inner *)node;
        unsigned depth = is_leaf ? leaf->depth : inner->depth,
                 prefix = is_leaf ? leaf->prefix_bytes : inner->prefix_bytes;
        size_t rest = key_bytes - depth;
        int order =
            memcmp(is_leaf ? leaf_prefix(leaf) : inner_prefix(inner), key + depth, prefix < rest ? prefix : rest);
        if (order < 0)
            return sideways(c, false);
        if (order > 0 || rest <= prefix)
            return edge(c, id, false);
        unsigned at = depth + prefix;
        if (is_leaf) {
            enum eng_status status = copy_leaf(c, leaf);
            if (status != ENG_OK)
                return status;
            c->at = (int)leaf_lower_bound(c->leaf, key + at, key_bytes - at);
            return (unsigned)c->at == c->leaf->count ? sideways(c, false) : ENG_OK;
        }
        int branch = inner_branch(inner, key[at]);
        if (branch < 0) {
            unsigned next = inner_upto(inner, key[at]);
            if (next == inner->branches)
                return sideways(c, false);
            push(c, inner, next);
            return edge(c, inner_child(inner)[next], false);
        }
        push(c, inner, (unsigned)branch);
        id = inner_child(inner)[branch];
    }
}

static enum eng_status settle(struct eng_cursor *c, struct reader *reader, enum eng_status status)
{
    reader_leave(reader);
    if (status == ENG_OK)
        take_key(c);
    else
        c->at = -1;
    return status;
}

static enum eng_status snapshot_seek(struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    uint32_t root = c->snapshot->version.root;
    c->top = 0;
    c->at = -1;
    if (!root)
        return ENG_NOT_FOUND;
    struct reader *reader = eng_enter(c->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    return settle(c, reader, key ? lower_bound(c, key, key_bytes) : edge(c, root, false));
}

static enum eng_status step(struct eng_cursor *c, bool back)
{
    if (c->at < 0)
        return ENG_NOT_FOUND;
    if (back ? c->at > 0 : c->at + 1 < c->leaf->count) {
        c->at += back ? -1 : 1;
        take_key(c);
        return ENG_OK;
    }
    struct reader *reader = eng_enter(c->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    return settle(c, reader, sideways(c, back));
}

static enum eng_status snapshot_seek_before(struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    uint32_t root = c->snapshot->version.root;
    if (key) {
        enum eng_status status = snapshot_seek(c, key, key_bytes);
        if (status == ENG_OK)
            return step(c, true);
        if (status != ENG_NOT_FOUND)
            return status;
    }
    c->top = 0;
    c->at = -1;
    if (!root)
        return ENG_NOT_FOUND;
    struct reader *reader = eng_enter(c->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    return settle(c, reader, edge(c, root, true));
}

/* ---- batches and prefixes ---- */

/* Of a batch: to the nearest key. */
static enum eng_status nearest(struct eng_cursor *c, const uint8_t *key, size_t key_bytes, enum seek seek)
{
    enum eng_status status = batch_seek(c->batch, c->below, key, key_bytes, seek, c->key, &c->key_bytes);
    c->at = status == ENG_OK ? 0 : -1;
    return status;
}

/* A move came to an end with this status: outside the prefix is the end. */
static enum eng_status confine(struct eng_cursor *c, enum eng_status status)
{
    if (status != ENG_OK || !c->prefix_bytes)
        return status;
    if (c->key_bytes >= c->prefix_bytes && memcmp(c->key, c->prefix, c->prefix_bytes) == 0)
        return ENG_OK;
    c->at = -1;
    return ENG_NOT_FOUND;
}

enum eng_status eng_cursor_prefix(struct eng_cursor *c, const uint8_t *prefix, size_t prefix_bytes)
{
    if (prefix_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "prefix: %zu bytes, must be at most %u", prefix_bytes, ENG_KEY_BYTES_MAX);
    c->prefix_bytes = prefix ? prefix_bytes : 0;
    if (c->prefix_bytes)
        memcpy(c->prefix, prefix, prefix_bytes);
    c->at = -1;
    return ENG_OK;
}

static enum eng_status check_key(struct eng_cursor *c, size_t key_bytes)
{
    if (key_bytes <= ENG_KEY_BYTES_MAX)
        return ENG_OK;
    c->at = -1;
    return eng_fail(ENG_INVALID, "key: %zu bytes, must be at most %u", key_bytes, ENG_KEY_BYTES_MAX);
}

enum eng_status eng_cursor_seek(struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    key_bytes = key ? key_bytes : 0;
    enum eng_status status = check_key(c, key_bytes);
    if (status != ENG_OK)
        return status;
    if (c->prefix_bytes && (!key || bytes_compare(key, key_bytes, c->prefix, c->prefix_bytes) < 0)) {
        key = c->prefix;
        key_bytes = c->prefix_bytes;
    }
    return confine(c, c->batch ? nearest(c, key, key_bytes, SEEK_FROM) : snapshot_seek(c, key, key_bytes));
}

/* The upper bound: the lower bound and, on the key itself, one step. A serializable transaction looked at the key too.
 */
enum eng_status eng_cursor_seek_after(struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    enum eng_status status = eng_cursor_seek(c, key, key_bytes);
    if (status != ENG_OK || !key || c->key_bytes != key_bytes || memcmp(c->key, key, key_bytes) != 0)
        return status;
    return eng_cursor_next(c);
}

enum eng_status eng_cursor_seek_before(struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    uint8_t bytes[ENG_KEY_BYTES_MAX];
    key_bytes = key ? key_bytes : 0;
    enum eng_status status = check_key(c, key_bytes);
    if (status != ENG_OK)
        return status;
    size_t count = c->prefix_bytes ? key_behind_prefix(c->prefix, c->prefix_bytes, bytes) : 0;
    if (count && (!key || bytes_compare(key, key_bytes, bytes, count) > 0)) {
        key = bytes;
        key_bytes = count;
    }
    return confine(c, c->batch ? nearest(c, key, key_bytes, SEEK_BEFORE) : snapshot_seek_before(c, key, key_bytes));
}

enum eng_status eng_cursor_next(struct eng_cursor *c)
{
    if (c->at < 0)
        return ENG_NOT_FOUND;
    return confine(c, c->batch ? nearest(c, c->key, c->key_bytes, SEEK_AFTER) : step(c, false));
}

enum eng_status eng_cursor_prev(struct eng_cursor *c)
{
    if (c->at < 0)
        return ENG_NOT_FOUND;
    return confine(c, c->batch ? nearest(c, c->key, c->key_bytes, SEEK_BEFORE) : step(c, true));
}

const uint8_t *eng_cursor_key(const struct eng_cursor *c, size_t *key_bytes)
{
    assert(c->at >= 0);
    *key_bytes = c->key_bytes;
    return c->key;
}

static enum eng_status copy_value(struct eng_cursor *c, struct eng_value *value)
{
    if (value->size > c->value_capacity || !c->value) {
        free(c->value);
        c->value_capacity = value->size + 256;
        c->value = malloc(c->value_capacity);
        if (!c->value) {
            c->value_capacity = 0;
            return eng_fail(ENG_NO_MEMORY, "cursor: out of memory");
        }
    }
    memcpy(c->value, value->bytes, value->size);
    value->bytes = c->value;
    return ENG_OK;
}

enum eng_status eng_cursor_value(struct eng_cursor *c, struct eng_value *value)
{
    assert(c->at >= 0);
    if (c->batch) {
        enum eng_status status = eng_batch_get(c->batch, c->key, c->key_bytes, value);
        return status == ENG_OK ? copy_value(c, value) : status;
    }
    struct store *store = c->snapshot->eng->store;
    struct leaf_entry e = leaf_entry_at(c->leaf, (unsigned)c->at);
    struct tree_value stored = {e.stored, e.form};
    if (!FORM_OUTSIDE(e.form))
        return tree_value_read(store, &stored, value, NULL);
    struct reader *reader = eng_enter(c->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    enum eng_status status = tree_value_read(store, &stored, value, NULL);
    if (status == ENG_OK)
        status = copy_value(c, value);
    reader_leave(reader);
    return status;
}

/* Is all of the leaf it stands in below a key? */
static bool leaf_below(const struct eng_cursor *c, const uint8_t *key, size_t key_bytes)
{
    struct leaf_entry last = leaf_entry_at(c->leaf, c->leaf->count - 1u);
    unsigned common = c->leaf->depth + c->leaf->prefix_bytes;
    int order = memcmp(c->key, key, common < key_bytes ? common : key_bytes);
    if (order || common >= key_bytes)
        return order < 0;
    return bytes_compare(last.suffix, last.suffix_bytes, key + common, key_bytes - common) < 0;
}

static enum eng_status next_leaf(struct eng_cursor *c)
{
    struct reader *reader = eng_enter(c->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    return settle(c, reader, sideways(c, false));
}

enum eng_status
eng_scan(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes, const uint8_t *to, size_t to_bytes,
         bool (*each)(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value),
         void *context)
{
    struct eng_cursor *c;
    enum eng_status status = bounds_check(from, from_bytes, to, to_bytes);
    if (status == ENG_OK)
        status = eng_cursor_open(snapshot, &c);
    if (status != ENG_OK)
        return status;
    status = eng_cursor_seek(c, from, from_bytes);
    bool more = true;
    while (status == ENG_OK && more) {
        bool within = !to || leaf_below(c, to, to_bytes);
        for (; status == ENG_OK && more && c->at < c->leaf->count; c->at++) {
            take_key(c);
            struct eng_value value;
            if (!within && bytes_compare(c->key, c->key_bytes, to, to_bytes) >= 0)
                more = false;
            else if ((status = eng_cursor_value(c, &value)) == ENG_OK)
                more = each(context, c->key, c->key_bytes, &value);
        }
        if (status == ENG_OK && more)
            status = next_leaf(c);
    }
    eng_cursor_close(&c);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}
