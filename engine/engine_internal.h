/* What the parts of the library API share: the store handle, versions being read, batches. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "buffer.h"
#include "digest_cache.h"
#include "lookup.h"
#include "merge.h"
#include "pando/engine.h"
#include "pando/log.h"
#include "store.h"

#define ENG_MAGIC 0x50414e44u
#define BATCH_MAGIC 0x42415443u
#define ENG_SPARE_BUFFERS 4u

struct eng {
    uint32_t magic;
    struct disk *disk;
    bool own_disk;
    struct store *store;
    struct cache_table *caches;
    struct merge_pool *pool;
    struct helpers *helpers;
    struct lookup_share lookups;
    struct merger merger;
    struct log *log; /* ENG_DURABLE_MSYNC_SYNC and stronger */
    enum eng_durability durability;
    uint64_t checkpoint_log_bytes;
    uint64_t checkpoint_log_offset;     /* replay would begin here once the newest checkpoint is durable */
    uint64_t checkpoint_durable_offset; /* it begins here in any case: the newest known to be durable */
    uint32_t leaf_bytes, inline_bytes, segment_bytes, threads;
    bool inline_only;
    uint8_t app_state[ENG_APP_STATE_BYTES_MAX]; /* of the newest checkpoint, with a log: for those it makes itself */
    size_t app_state_bytes;
    enum eng_status failed;  /* the log failed: no more commits */
    bool release_failed;     /* by a helper: the next drop does it itself, and says why */
    pthread_mutex_t commits; /* one commit, drop or checkpoint at a time; before batches and the store's locks */
    pthread_mutex_t batches; /* order and reference counts of layers */
    struct buffer
        *spare[ENG_SPARE_BUFFERS]; /* emptied write buffers, so that their memory is not mapped anew each time */
    uint32_t spare_count;
    _Atomic uint64_t batch_memory;
};

struct eng_snapshot {
    uint32_t magic;
    struct eng *eng;
    uint32_t root_index;
    bool pinned; /* false: the empty state of a root never committed */
    struct store_version version;
};

/* A write buffer that more than one batch may read through. */
struct layer {
    struct buffer *buffer;
    struct hidden hidden;               /* what it removed as ranges; its own entries come before them */
    uint32_t references;                /* under eng->batches */
    const struct buffer_entry *entries; /* when frozen, in key order */
    size_t count;
    bool counted;       /* in batch_memory */
    uint64_t committed; /* tag + 1 when merged, 0 before; under eng->batches */
};

struct eng_batch {
    uint32_t magic;
    struct eng *eng;
    uint32_t root_index;
    struct layer *own;
    struct layer *below[ENG_BATCH_DEPTH_MAX]; /* newest first */
    uint32_t below_count;
    struct eng_snapshot *base;
    bool frozen, committed;
    bool fork;                       /* private: its base may be any version, it is never committed */
    bool transaction;                /* commits only if nothing it depends on was changed since its base */
    bool serializable;               /* depends on what it read, too */
    struct hidden reads;             /* ranges of keys it read from its base */
    uint64_t nested[ENG_NESTED_MAX]; /* marks of the nested transactions that are open */
    uint32_t nested_count;
    uint8_t *copy; /* of the last value read out of the tree */
    size_t copy_capacity;
    struct subtrees *trees; /* of an outermost batch, and of all subtrees opened in it; NULL: none was */
    /* of a subtree (subtree.c) */
    struct eng_batch *outer;  /* NULL: this is the outermost batch */
    struct eng_batch *parent; /* where it hangs, or hung last; NULL: nowhere */
    const uint8_t *key;
    uint32_t key_bytes;
    uint32_t number;
    struct origin *origin; /* NULL: a new tree */
    uint64_t epoch;        /* of the last note for a rollback */
    bool written;          /* it has a write buffer of its own */
    bool put;              /* of a commit: it has a place */
    uint32_t height;       /* at least: levels of subtrees, itself included */
};

/* The reader slot of this thread, entered; NULL: ENG_NO_READERS. */
static inline struct reader *eng_enter(struct eng *eng)
{
    struct reader *reader = store_reader(eng->store);
    if (reader)
        reader_enter(reader);
    return reader;
}

/* What the layers of a batch say of a key, newest first. */
enum layers_say { LAYERS_ENTRY, LAYERS_HIDDEN, LAYERS_NOTHING };
enum layers_say layers_find(const struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                            const struct buffer_entry **entry);
static inline struct layer *batch_layer(const struct eng_batch *batch, uint32_t index)
{
    return index ? batch->below[index - 1] : batch->own;
}

/* Layers: an empty write buffer; one that is no longer needed (under eng->batches). */
enum eng_status layer_open(struct eng *eng, struct layer **layer);
void layer_release(struct eng *eng, struct layer *layer);
enum eng_status layer_freeze(struct eng *eng, struct layer *layer);
void layer_thaw(struct eng *eng, struct layer *layer);

/* A subtree of a snapshot as a snapshot; NULL: an empty tree. pinned: outlives the one it comes from. */
enum eng_status snapshot_of_tree(struct eng_snapshot *snapshot, const struct tree_object *tree, bool pinned,
                                 struct eng_snapshot **out);
/* Another handle of the same version. */
enum eng_status snapshot_again(struct eng_snapshot *snapshot, struct eng_snapshot **again);

/* May these be the bounds of a range? ENG_INVALID (range.c). */
enum eng_status bounds_check(const uint8_t *from, size_t from_bytes, const uint8_t *to, size_t to_bytes);

/* A serializable transaction remembers what it read from its base (transaction.c). */
enum eng_status batch_remember(struct eng_batch *batch, const struct hidden_range *range);
enum eng_status batch_remember_key(struct eng_batch *batch, const uint8_t *key, size_t key_bytes);
static inline enum eng_status batch_read_key(struct eng_batch *batch, const uint8_t *key, size_t key_bytes)
{
    return batch->serializable ? batch_remember_key(batch, key, key_bytes) : ENG_OK;
}
static inline enum eng_status batch_read_range(struct eng_batch *batch, const struct hidden_range *range)
{
    return batch->serializable ? batch_remember(batch, range) : ENG_OK;
}

/* Logs and merges a frozen batch and publishes it under tag; *end: to be waited for with commit_wait, also if it
 * failed. Needs eng->commits (commit.c). */
enum eng_status commit_locked(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected, bool keep,
                              struct eng_summary *summary, uint64_t *end);
/* Until what was committed, or failed, is durable; returns committed if that is not ENG_OK. Does not need eng->commits:
 * many may wait for one sync. */
enum eng_status commit_wait(struct eng *eng, enum eng_status committed, uint64_t end);
/* Needs eng->commits. */
enum eng_status checkpoint_locked(struct eng *eng, const void *app_state, size_t app_state_bytes, bool wait);

/* Does a cursor stand on an entry? */
bool cursor_stands(const struct eng_cursor *cursor);
/* The tag of the value where it stands; not over a batch. */
enum eng_tag cursor_tag(const struct eng_cursor *cursor);

/* The nearest key a batch sees: at or after, after, or before the given one (before with key NULL: the last of all),
 * copied to found (ENG_KEY_BYTES_MAX bytes). tree: a cursor over batch->base, moved (batch_seek.c). ENG_NOT_FOUND. */
enum seek { SEEK_FROM, SEEK_AFTER, SEEK_BEFORE };
enum eng_status batch_seek(struct eng_batch *batch, struct eng_cursor *tree, const uint8_t *key, size_t key_bytes,
                           enum seek seek, uint8_t *found, size_t *found_bytes);

/* While a store is opened (check.c). verify: of the files before anything uses them; of all versions. rebuild: after
 * store_open with rebuild; lost: the newest version of this root is gone. */
enum eng_status eng_verify_files(struct eng *eng, const struct eng_options *options);
enum eng_status eng_verify_versions(struct eng *eng, const struct eng_options *options);
enum eng_status eng_rebuild(struct eng *eng, const struct eng_options *options, bool lost[ENG_ROOTS_MAX]);

/* lost: of a rebuild, NULL otherwise. */
enum eng_status eng_log_open(struct eng *eng, const struct eng_options *options, const bool *lost);
enum eng_status eng_log_batch(struct eng *eng, struct eng_batch *batch, uint64_t tag, uint64_t *offset, uint64_t *end);
/* The batch logged last, at offset, was not merged. */
enum eng_status eng_log_void(struct eng *eng, uint64_t offset, uint64_t *end);
/* Versions were dropped: all below tag, or this one. A store without a log: nothing. */
void eng_log_drop(struct eng *eng, uint32_t root, uint64_t tag, bool below);
void eng_log_checkpoint(struct eng *eng);
/* A checkpoint that holds the log up to end, durable when it returns (needs eng->commits). */
enum eng_status eng_full_checkpoint(struct eng *eng, uint64_t end);
/* Merges a frozen batch, its subtrees first, into the newest version (a fork: into its own base) in a generation that
 * is published under tag, or undone: not kept, not what was expected (ENG_CONFLICT), failed. */
enum eng_status eng_merge(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected, bool keep,
                          struct eng_summary *summary);

/* Until what drops left to be freed is freed (not what snapshots see). Not while others commit or drop. */
enum eng_status eng_settle(struct eng *eng);
/* Frees what only dropped versions see, unless somebody commits; for helpers_open. */
void eng_help_release(void *eng, uint32_t helper);

#endif
