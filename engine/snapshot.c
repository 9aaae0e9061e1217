/*
 * Versions as the API shows them: heads, snapshots, point reads, the way of a key for proofs.
 *
 * A snapshot is a pin on a version: taking one is a short lock in the store, holding one costs the writer nothing,
 * reading through one takes no lock (an epoch for the time of each call).
 */
#include "engine_internal.h"
#include "tree.h"

#include <stdlib.h>

#define SNAPSHOT_MAGIC 0x534e4150u

static enum eng_status no_version(uint32_t root)
{
    return eng_fail(ENG_NOT_FOUND, "root %u has no version yet", root);
}

enum eng_status eng_head(struct eng *eng, uint32_t root, uint64_t *tag, struct eng_summary *summary)
{
    assert(root < ENG_ROOTS_MAX);
    struct store_version version;
    if (!store_head(eng->store, root, &version)) {
        if (summary)
            memset(summary, 0, sizeof *summary);
        return no_version(root);
    }
    if (tag)
        *tag = version.tag;
    if (summary)
        *summary = version.summary;
    return ENG_OK;
}

enum eng_status eng_oldest(struct eng *eng, uint32_t root, uint64_t *tag)
{
    struct store_version version;
    if (store_versions(eng->store, root, &version, 1) == 0)
        return no_version(root);
    *tag = version.tag;
    return ENG_OK;
}

size_t eng_version_count(struct eng *eng, uint32_t root)
{
    return store_versions(eng->store, root, NULL, 0);
}

enum eng_status eng_drop(struct eng *eng, uint32_t root, uint64_t tag)
{
    pthread_mutex_lock(&eng->commits);
    enum eng_status status = store_drop(eng->store, root, tag);
    if (status != ENG_NOT_FOUND && status != ENG_GONE && status != ENG_INVALID) /* else it is marked, at least */
        eng_log_drop(eng, root, tag, false);
    pthread_mutex_unlock(&eng->commits);
    if (status == ENG_NOT_FOUND)
        return eng_fail(status, "root %u has no version with tag %llu to drop", root, (unsigned long long)tag);
    if (status == ENG_INVALID)
        return eng_fail(status, "root %u: the newest version, tag %llu, cannot be dropped", root,
                        (unsigned long long)tag);
    return status;
}

enum eng_status eng_drop_below(struct eng *eng, uint32_t root, uint64_t tag)
{
    pthread_mutex_lock(&eng->commits);
    if (store_mark_below(eng->store, root, tag))
        eng_log_drop(eng, root, tag, true);
    bool send = !eng->release_failed;
    pthread_mutex_unlock(&eng->commits);
    if (send && helpers_count(eng->helpers) && helper_looks_on(eng->helpers, 0)) {
        helper_ask(eng->helpers, 0, HELP_RELEASE);
        return ENG_OK;
    }
    pthread_mutex_lock(&eng->commits);
    enum eng_status status = store_free_dropped(eng->store);
    eng->release_failed = status != ENG_OK;
    pthread_mutex_unlock(&eng->commits);
    return status;
}

enum eng_status eng_settle(struct eng *eng)
{
    if (helpers_count(eng->helpers))
        helper_end(eng->helpers, 0, HELP_RELEASE, 0);
    pthread_mutex_lock(&eng->commits);
    enum eng_status status = store_free_dropped(eng->store);
    pthread_mutex_unlock(&eng->commits);
    return status;
}

void eng_help_release(void *context, uint32_t helper)
{
    struct eng *eng = context;
    if (pthread_mutex_trylock(&eng->commits) != 0)
        return; /* a commit frees what it can itself */
    eng->release_failed = store_free_dropped(eng->store) != ENG_OK;
    pthread_mutex_unlock(&eng->commits);
}

enum eng_status eng_snapshot_open(struct eng *eng, uint32_t root, uint64_t tag, struct eng_snapshot **out)
{
    assert(eng->magic == ENG_MAGIC && root < ENG_ROOTS_MAX);
    struct eng_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return eng_fail(ENG_NO_MEMORY, "snapshot: out of memory");
    snapshot->magic = SNAPSHOT_MAGIC;
    snapshot->eng = eng;
    snapshot->root_index = root;
    enum eng_status status = store_pin(eng->store, root, tag, &snapshot->version);
    if (status == ENG_OK) {
        snapshot->pinned = true;
    } else if (status != ENG_NOT_FOUND || tag != ENG_HEAD) {
        free(snapshot);
        if (status == ENG_NOT_FOUND || status == ENG_GONE)
            return eng_fail(status, "root %u has no version with tag %llu%s", root, (unsigned long long)tag,
                            status == ENG_NOT_FOUND ? " yet" : ", or it was dropped");
        return status;
    }
    *out = snapshot;
    return ENG_OK;
}

enum eng_status snapshot_again(struct eng_snapshot *snapshot, struct eng_snapshot **again)
{
    struct eng_snapshot *copy = malloc(sizeof *copy);
    if (!copy)
        return eng_fail(ENG_NO_MEMORY, "snapshot: out of memory");
    *copy = *snapshot;
    if (copy->pinned)
        store_pin_again(copy->eng->store, copy->root_index, copy->version.tag);
    *again = copy;
    return ENG_OK;
}

enum eng_status snapshot_of_tree(struct eng_snapshot *snapshot, const struct tree_object *tree, bool pinned,
                                 struct eng_snapshot **out)
{
    struct eng_snapshot *copy = malloc(sizeof *copy);
    if (!copy)
        return eng_fail(ENG_NO_MEMORY, "snapshot: out of memory");
    *copy = *snapshot;
    copy->pinned = snapshot->pinned && pinned;
    if (copy->pinned)
        store_pin_again(copy->eng->store, copy->root_index, copy->version.tag);
    copy->version.root = tree ? tree->root : 0;
    copy->version.summary = tree ? tree->summary : (struct eng_summary){0};
    *out = copy;
    return ENG_OK;
}

void eng_snapshot_close(struct eng_snapshot **snapshot)
{
    struct eng_snapshot *s = *snapshot;
    if (!s)
        return;
    assert(s->magic == SNAPSHOT_MAGIC);
    if (s->pinned)
        store_unpin(s->eng->store, s->root_index, s->version.tag);
    s->magic = 0;
    free(s);
    *snapshot = NULL;
}

uint64_t eng_snapshot_tag(const struct eng_snapshot *snapshot)
{
    return snapshot->version.tag;
}

const struct eng_summary *eng_snapshot_summary(const struct eng_snapshot *snapshot)
{
    return &snapshot->version.summary;
}

static enum eng_status check_key(size_t key_bytes)
{
    if (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX)
        return eng_fail(ENG_INVALID, "key: %zu bytes, must be 1 to %u", key_bytes, ENG_KEY_BYTES_MAX);
    return ENG_OK;
}

enum eng_status eng_get(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                        void (*found)(void *context, const struct eng_value *value), void *context)
{
    assert(snapshot->magic == SNAPSHOT_MAGIC);
    enum eng_status status = check_key(key_bytes);
    if (status != ENG_OK)
        return status;
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    struct tree_value stored;
    struct eng_value value;
    status = tree_get(snapshot->eng->store, snapshot->version.root, key, key_bytes, &stored);
    if (status == ENG_OK)
        status = tree_value_read(snapshot->eng->store, &stored, &value, NULL);
    if (status == ENG_OK)
        found(context, &value);
    reader_leave(reader);
    return status;
}

enum eng_status eng_get_part(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes, uint64_t offset,
                             uint64_t bytes, void (*found)(void *context, const struct eng_value *part, uint64_t size),
                             void *context)
{
    assert(snapshot->magic == SNAPSHOT_MAGIC);
    enum eng_status status = check_key(key_bytes);
    if (status != ENG_OK)
        return status;
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    struct tree_value stored;
    struct eng_value value;
    status = tree_get(snapshot->eng->store, snapshot->version.root, key, key_bytes, &stored);
    if (status == ENG_OK)
        status = tree_value_read(snapshot->eng->store, &stored, &value, NULL);
    if (status == ENG_OK) {
        uint64_t size = value.size, from = offset < size ? offset : size;
        value.bytes += from;
        value.size = size - from < bytes ? size - from : bytes;
        found(context, &value, size);
    }
    reader_leave(reader);
    return status;
}

struct copy_target {
    enum eng_tag *tag;
    uint8_t *bytes;
    size_t max, *size;
};

static void copy_found(void *context, const struct eng_value *value)
{
    struct copy_target *target = context;
    if (target->tag)
        *target->tag = value->tag;
    *target->size = value->size;
    if (target->max)
        memcpy(target->bytes, value->bytes, value->size < target->max ? value->size : target->max);
}

enum eng_status eng_get_copy(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes, enum eng_tag *tag,
                             uint8_t *bytes, size_t max, size_t *size)
{
    struct copy_target target = {tag, bytes, max, size};
    return eng_get(snapshot, key, key_bytes, copy_found, &target);
}

enum eng_status eng_get_many(struct eng_snapshot *snapshot, size_t count, const uint8_t *const keys[],
                             const size_t key_bytes[],
                             void (*found)(void *context, size_t index, const struct eng_value *value), void *context)
{
    struct store *store = snapshot->eng->store;
    for (size_t i = 0; i < count; i++) {
        enum eng_status status = check_key(key_bytes[i]);
        if (status != ENG_OK)
            return status;
    }
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    enum eng_status status = ENG_OK;
    for (size_t at = 0; at < count && status == ENG_OK; at += TREE_MANY) {
        struct tree_value values[TREE_MANY];
        size_t n = count - at < TREE_MANY ? count - at : TREE_MANY;
        status = tree_get_many(store, snapshot->version.root, n, keys + at, key_bytes + at, values);
        for (size_t i = 0; i < n && status == ENG_OK; i++) {
            struct eng_value value;
            if (!values[i].stored) {
                found(context, at + i, NULL);
                continue;
            }
            status = tree_value_read(store, &values[i], &value, NULL);
            if (status == ENG_OK)
                found(context, at + i, &value);
        }
    }
    reader_leave(reader);
    return status;
}

struct path_walk {
    struct store *store;
    const uint8_t *key;
    size_t key_bytes;
    void (*step)(void *, uint32_t, const struct eng_summary *);
    void (*landing)(void *, const uint8_t *, size_t, const struct eng_value *, const uint8_t *);
    void *context;
    uint8_t head[ENG_KEY_BYTES_MAX];
};

/* Inside an inner node: to the branch the key's bits lead to. */
static enum eng_status walk_branches(struct path_walk *w, const struct inner *inner, uint32_t *child)
{
    unsigned lo = 0, hi = inner->branches - 1u;
    memcpy(w->head + inner->depth, inner_prefix(inner), inner->prefix_bytes);
    while (lo < hi) {
        uint32_t bit;
        unsigned part = branches_part(inner_start(inner), inner->own, lo, hi, inner_child_depth(inner), &bit);
        bool right = digest_bit(w->key, w->key_bytes, bit);
        struct eng_summary sibling;
        enum eng_status status = right ? inner_summary(w->store, inner, lo, part, &sibling)
                                       : inner_summary(w->store, inner, part + 1, hi, &sibling);
        if (status != ENG_OK)
            return status;
        w->step(w->context, bit, &sibling);
        if (right)
            lo = part + 1;
        else
            hi = part;
    }
    *child = inner_child(inner)[lo];
    return ENG_OK;
}

static enum eng_status walk_leaf(struct path_walk *w, const struct leaf *leaf)
{
    unsigned lo = 0, hi = leaf->count - 1u;
    while (lo < hi) {
        unsigned gap = leaf_top_gap(leaf_bit(leaf), lo, hi);
        uint32_t bit = leaf_bit(leaf)[gap];
        bool right = digest_bit(w->key, w->key_bytes, bit);
        struct eng_summary sibling;
        if (right)
            leaf_summary(leaf, w->head, lo, gap, &sibling);
        else
            leaf_summary(leaf, w->head, gap + 1, hi, &sibling);
        w->step(w->context, bit, &sibling);
        if (right)
            lo = gap + 1;
        else
            hi = gap;
    }
    struct leaf_entry e = leaf_entry_at(leaf, lo);
    unsigned common = leaf->depth + leaf->prefix_bytes;
    memcpy(w->head + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
    memcpy(w->head + common, e.suffix, e.suffix_bytes);
    struct tree_value stored = {e.stored, e.form};
    struct eng_value value;
    const uint8_t *digest;
    enum eng_status status = tree_value_read(w->store, &stored, &value, &digest);
    if (status == ENG_OK)
        w->landing(w->context, w->head, common + e.suffix_bytes, &value, digest);
    return status;
}

enum eng_status eng_path(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                         void (*step)(void *context, uint32_t bit, const struct eng_summary *sibling),
                         void (*landing)(void *context, const uint8_t *key, size_t key_bytes,
                                         const struct eng_value *value, const uint8_t *value_digest),
                         void *context)
{
    enum eng_status status = check_key(key_bytes);
    if (status != ENG_OK)
        return status;
    if (!snapshot->version.root)
        return ENG_NOT_FOUND;
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    struct path_walk w = {.store = snapshot->eng->store,
                          .key = key,
                          .key_bytes = key_bytes,
                          .step = step,
                          .landing = landing,
                          .context = context};
    uint32_t id = snapshot->version.root;
    while (status == ENG_OK) {
        const struct node *node = store_node(w.store, id);
        if (!node) {
            status = ENG_DAMAGED;
        } else if (node->object.type == OBJECT_LEAF) {
            status = walk_leaf(&w, (const struct leaf *)node);
            break;
        } else {
            status = walk_branches(&w, (const struct inner *)node, &id);
        }
    }
    reader_leave(reader);
    return status;
}
