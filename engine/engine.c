/*
 * The store as the API shows it (pando/engine.h): open, merge and publish, checkpoint, close.
 *
 * eng_merge is the heart: a generation is opened, the merge (merge.h) makes the new tree, the store publishes it as a
 * version or forgets it. With ENG_DURABLE_FSYNC a batch is written to the log while it is merged, and eng_commit waits
 * for the log; the next open replays what the last checkpoint does not hold.
 */
#include "engine_internal.h"
#include "failure.h"
#include "subtree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum eng_status open_store(struct eng *eng, const struct eng_options *options)
{
    struct store_shape shape = tree_store_shape(eng->caches);
    struct store_options store = {
        .disk = eng->disk,
        .dir = "state",
        .segment_bytes = options->segment_bytes ? options->segment_bytes : ENG_SEGMENT_BYTES_DEFAULT,
        .leaf_bytes = options->leaf_bytes ? options->leaf_bytes : ENG_LEAF_BYTES_DEFAULT,
        .inline_bytes = options->inline_bytes ? options->inline_bytes : ENG_INLINE_BYTES_DEFAULT,
        .arenas = eng->threads,
        .background = !options->inline_only,
        .create = options->create,
        .kind = options->ignore_log                             ? STORE_ANY
                : options->durability >= ENG_DURABLE_MSYNC_SYNC ? STORE_LOGGED
                                                                : STORE_PLAIN,
        .shape = &shape,
        .protect = options->durability == ENG_DURABLE_MPROTECT || options->durability == ENG_DURABLE_MSYNC_ASYNC,
        .rebuild = options->recovery == ENG_RECOVER_REBUILD && disk_exists(eng->disk, "state/slots"),
        .report = options->recovery_report,
        .report_context = options->recovery_context,
        .hot_bytes = options->hot_bytes,
        .hot_decay_ms = options->hot_decay_ms,
    };
    if (store.leaf_bytes < ENG_LEAF_BYTES_MIN || store.leaf_bytes > ENG_LEAF_BYTES_MAX)
        return eng_fail(ENG_INVALID, "leaf_bytes: %u, must be %u to %u", store.leaf_bytes, ENG_LEAF_BYTES_MIN,
                        ENG_LEAF_BYTES_MAX);
    if (store.segment_bytes < 8u * store.leaf_bytes) /* a leaf with all it caches takes up to seven times its weight */
        return eng_fail(ENG_INVALID, "segment_bytes: %u, must be at least 8 leaves of %u bytes", store.segment_bytes,
                        store.leaf_bytes);
    if (store.inline_bytes < ENG_INLINE_BYTES_MIN || store.inline_bytes > ENG_INLINE_BYTES_MAX)
        return eng_fail(ENG_INVALID, "inline_bytes: %u, must be %u to %u", store.inline_bytes, ENG_INLINE_BYTES_MIN,
                        ENG_INLINE_BYTES_MAX);
    memcpy(store.store_id, options->store_id, sizeof store.store_id);
    enum eng_status status = store_open(&store, &eng->store);
    if (status == ENG_OK)
        store_parameters(eng->store, &eng->leaf_bytes, &eng->inline_bytes, &eng->segment_bytes);
    return status;
}

/* What a rebuild found, and the log behind it, becomes the base of the next start. */
static enum eng_status rebuilt_checkpoint(struct eng *eng)
{
    uint8_t state[ENG_APP_STATE_BYTES_MAX];
    size_t bytes = eng_app_state(eng, state, sizeof state);
    return eng_checkpoint(eng, state, bytes, true);
}

static bool open_helpers(struct eng *eng)
{
    const struct help_work works[HELP_KINDS] = {
        {merge_help, eng->pool}, {lookup_help, &eng->lookups}, {eng_help_release, eng}};
    if (!helpers_open(eng->threads - 1, works, &eng->helpers))
        return false;
    merge_pool_helpers(eng->pool, eng->helpers);
    eng->lookups.store = eng->store;
    eng->lookups.helpers = eng->helpers;
    return true;
}

/* Those of the files' shape are checked in open_store. */
static enum eng_status check_options(const struct eng_options *options)
{
    if (!options->disk && !options->path)
        return eng_fail(ENG_INVALID, "options: neither path nor disk is given");
    if ((unsigned)options->durability > ENG_DURABLE_FULL)
        return eng_fail(ENG_INVALID, "durability: %d, there is no such kind", (int)options->durability);
    if ((unsigned)options->recovery > ENG_RECOVER_REBUILD)
        return eng_fail(ENG_INVALID, "recovery: %d, there is no such kind", (int)options->recovery);
    return ENG_OK;
}

enum eng_status eng_open(const struct eng_options *options, struct eng **out)
{
    *out = NULL;
    enum eng_status status = check_options(options);
    if (status != ENG_OK)
        return status;
    if (!digest_init())
        return eng_fail(ENG_NO_MEMORY, "libsodium: cannot be initialised");
    struct eng *eng = calloc(1, sizeof *eng);
    if (!eng)
        return eng_fail(ENG_NO_MEMORY, "store: out of memory");
    eng->magic = ENG_MAGIC;
    eng->inline_only = options->inline_only;
    eng->durability = options->durability;
    pthread_mutex_init(&eng->batches, NULL);
    pthread_mutex_init(&eng->commits, NULL);
    lookup_share_init(&eng->lookups);
    long cores = options->threads || options->inline_only ? 1 : sysconf(_SC_NPROCESSORS_ONLN); /* it reads a file */
    eng->threads = options->threads ? options->threads : (uint32_t)(cores > 0 ? cores : 1);
    if (eng->threads > ENG_THREADS_MAX)
        eng->threads = ENG_THREADS_MAX;
    eng->disk = options->disk;
    if (!eng->disk) {
        bool made = options->create && mkdir(options->path, 0750) == 0;
        int reason = options->create && !made ? errno : 0;
        if (reason && access(options->path, F_OK) != 0)
            status = eng_fail(ENG_IO, "%s: cannot be created: %s", options->path, strerror(reason));
        if (status == ENG_OK)
            status = disk_posix_open(options->path, &eng->disk);
        eng->own_disk = status == ENG_OK;
        if (status == ENG_OK && made)
            status = disk_posix_sync_name(options->path);
        if (status == ENG_OK)
            status = disk_lock(eng->disk, "LOCK");
    }
    eng->caches = calloc(1, sizeof *eng->caches);
    if (status == ENG_OK && !eng->caches)
        status = eng_fail(ENG_NO_MEMORY, "store: out of memory");
    if (status == ENG_OK && options->recovery == ENG_RECOVER_VERIFY)
        status = eng_verify_files(eng, options);
    bool rebuild =
        status == ENG_OK && options->recovery == ENG_RECOVER_REBUILD && disk_exists(eng->disk, "state/slots");
    bool lost[ENG_ROOTS_MAX] = {false};
    if (status == ENG_OK)
        status = open_store(eng, options);
    if (status == ENG_OK && rebuild)
        status = eng_rebuild(eng, options, lost);
    if (status == ENG_OK && options->recovery == ENG_RECOVER_VERIFY)
        status = eng_verify_versions(eng, options);
    if (status == ENG_OK) {
        if (!merger_init(&eng->merger, eng->store, eng->caches, eng->leaf_bytes, eng->inline_bytes) ||
            !merge_pool_open(eng->store, eng->caches, eng->threads - 1, eng->leaf_bytes, eng->inline_bytes,
                             &eng->pool) ||
            !open_helpers(eng))
            status = eng_fail(ENG_NO_MEMORY, "store: out of memory");
    }
    if (status == ENG_OK && options->durability >= ENG_DURABLE_MSYNC_SYNC)
        status = eng_log_open(eng, options, rebuild ? lost : NULL);
    if (status == ENG_OK && rebuild)
        status = rebuilt_checkpoint(eng);
    if (status != ENG_OK) {
        eng->failed = status; /* no checkpoint on the way out */
        eng_close(&eng);
        return status;
    }
    *out = eng;
    return ENG_OK;
}

void eng_close(struct eng **out)
{
    struct eng *eng = *out;
    if (!eng)
        return;
    if (eng->log && eng->failed == ENG_OK) {
        /* a failed checkpoint loses nothing: the log has it all */
        enum eng_status ignored = eng_checkpoint(eng, eng->app_state, eng->app_state_bytes, true);
        (void)ignored;
    }
    log_close(&eng->log);
    while (eng->spare_count)
        buffer_close(&eng->spare[--eng->spare_count]);
    helpers_close(&eng->helpers);
    merge_pool_close(&eng->pool);
    lookup_share_destroy(&eng->lookups);
    merger_free(&eng->merger);
    if (eng->caches) {
        cache_table_free(eng->caches);
        free(eng->caches);
    }
    store_close(&eng->store);
    if (eng->own_disk)
        disk_close(&eng->disk);
    pthread_mutex_destroy(&eng->batches);
    pthread_mutex_destroy(&eng->commits);
    free(eng);
    *out = NULL;
}

/* The outermost tree, when its subtrees are merged. */
static enum eng_status merge_outermost(struct eng_batch *batch, struct merger *m, uint32_t *root,
                                       struct eng_summary *summary)
{
    const struct layer *layer = batch->own;
    enum eng_status status = subtrees_take_out(batch, m, root, summary);
    for (size_t i = 0; i < layer->hidden.count && status == ENG_OK; i++)
        status = merge_remove_range(m, *root, &layer->hidden.sorted[i], root, summary);
    return status == ENG_OK ? merge_tree(m, *root, layer->entries, layer->count, root, summary) : status;
}

enum eng_status eng_merge(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected, bool keep,
                          struct eng_summary *summary)
{
    struct eng *eng = batch->eng;
    struct store_version onto = {0};
    if (batch->fork)
        onto = batch->base->version;
    else
        store_head(eng->store, batch->root_index, &onto);
    uint64_t generation;
    enum eng_status status = store_begin(eng->store, batch->root_index, &generation);
    if (status != ENG_OK)
        return status;
    struct merger *m = &eng->merger;
    m->pool = eng->pool;
    merger_begin(m, store_arena(eng->store, 0));
    merge_pool_begin(eng->pool, m);
    uint32_t root = onto.root;
    status = subtrees_merge(batch, m);
    if (status == ENG_OK)
        status = merge_outermost(batch, m, &root, summary);
    if (status == ENG_OK && expected && memcmp(summary, expected, sizeof *summary) != 0)
        status = eng_fail(ENG_CONFLICT, "root: the result is not the one that was expected");
    if (status == ENG_OK && keep) {
        subtrees_settle(batch, m, eng->pool);
        status = store_commit(eng->store, tag, root, summary);
        store_fit_hints(eng->store);
    }
    bool undone = status != ENG_OK || !keep;
    merger_end(m, undone);
    merge_pool_end(eng->pool, undone);
    if (undone)
        store_abort(eng->store);
    return status;
}

enum eng_status checkpoint_locked(struct eng *eng, const void *app_state, size_t app_state_bytes, bool wait)
{
    uint8_t state[ENG_APP_STATE_BYTES_MAX];
    uint64_t end = 0;
    size_t own = 0;
    if (eng->log) {
        if (eng->failed != ENG_OK)
            return eng_fail(ENG_IO, "checkpoint: stopped after a failed write; the next open goes on from the log");
        /* what is behind the log's durable end could be lost, although the checkpoint begins behind it */
        enum eng_status synced = log_sync(eng->log);
        if (synced != ENG_OK)
            return synced;
        end = log_end(eng->log);
        memcpy(state, &end, sizeof end);
        own = sizeof end;
    }
    if (app_state_bytes > sizeof state - own)
        return eng_fail(ENG_TOO_LARGE, "checkpoint: app_state of %zu bytes, at most %zu", app_state_bytes,
                        sizeof state - own);
    if (app_state_bytes)
        memcpy(state + own, app_state, app_state_bytes);
    if (eng->log && log_trim(eng->log, eng->checkpoint_durable_offset) != ENG_OK) {
        /* the log keeps its files; without a checkpoint it would have to be replayed as well */
    }
    enum eng_status status = store_checkpoint(eng->store, state, own + app_state_bytes, wait);
    if (status == ENG_OK && eng->log) {
        eng->checkpoint_durable_offset = wait ? end : eng->checkpoint_log_offset; /* the one before has ended */
        eng->checkpoint_log_offset = end;
        memcpy(eng->app_state, state + own, app_state_bytes);
        eng->app_state_bytes = app_state_bytes;
    }
    return status;
}

enum eng_status eng_checkpoint(struct eng *eng, const void *app_state, size_t app_state_bytes, bool wait)
{
    pthread_mutex_lock(&eng->commits);
    enum eng_status status = checkpoint_locked(eng, app_state, app_state_bytes, wait);
    pthread_mutex_unlock(&eng->commits);
    return status;
}

bool eng_checkpoint_wanted(struct eng *eng)
{
    pthread_mutex_lock(&eng->commits);
    bool wanted = store_checkpoint_wanted(eng->store);
    pthread_mutex_unlock(&eng->commits);
    return wanted;
}

bool eng_checkpoint_running(struct eng *eng)
{
    return store_checkpoint_running(eng->store);
}

size_t eng_app_state(struct eng *eng, void *bytes, size_t max)
{
    uint8_t state[ENG_APP_STATE_BYTES_MAX];
    size_t size = store_app_state(eng->store, state, sizeof state), own = eng->log ? sizeof(uint64_t) : 0;
    if (size < own)
        return 0;
    memcpy(bytes, state + own, size - own < max ? size - own : max);
    return size - own;
}

enum eng_status eng_maintain(struct eng *eng)
{
    pthread_mutex_lock(&eng->commits);
    enum eng_status status = store_maintain(eng->store);
    pthread_mutex_unlock(&eng->commits);
    return status;
}

/* Without a checkpoint: what the newest one names keeps its places. */
static enum eng_status compact_in_place(struct eng *eng, uint32_t live_percent)
{
    struct failure failure = {.status = ENG_OK};
    if (failure_note(&failure, store_shrink(eng->store)) && /* seals the segments that are being filled */
        failure_note(&failure, store_compact(eng->store, live_percent, UINT64_MAX)) &&
        failure_note(&failure, store_compact_end(eng->store))) {
        store_compact_parents(eng->store, NULL);
        failure_note(&failure, store_shrink(eng->store));
    }
    return failure_again(&failure);
}

enum eng_status eng_compact(struct eng *eng, uint32_t live_percent)
{
    struct failure failure = {.status = ENG_OK};
    pthread_mutex_lock(&eng->commits);
    bool on = failure_note(&failure, store_free_dropped(eng->store)) &&
              failure_note(&failure, store_reap(eng->store, UINT64_MAX, NULL));
    if (on && eng->log && !store_unchanged(eng->store))
        on = failure_note(&failure, checkpoint_locked(eng, eng->app_state, eng->app_state_bytes, true));
    if (on)
        failure_note(&failure, store_unchanged(eng->store) ? store_truncate(eng->store, live_percent)
                                                           : compact_in_place(eng, live_percent));
    pthread_mutex_unlock(&eng->commits);
    return failure_again(&failure);
}

void eng_stats(struct eng *eng, struct eng_statistics *statistics)
{
    struct store_statistics store;
    store_stats(eng->store, &store);
    *statistics = (struct eng_statistics){
        .live_bytes = store.live_bytes,
        .state_bytes = store.file_bytes,
        .log_bytes = eng->log ? log_disk_bytes(eng->log) : 0,
        .memory_bytes = atomic_load_explicit(&eng->caches->bytes, memory_order_relaxed) +
                        atomic_load_explicit(&eng->batch_memory, memory_order_relaxed) + store.ids_live * 8,
        .objects = store.ids_live,
        .versions = store.versions,
        .moved_bytes = store.moved_bytes,
        .checkpoints = store.checkpoints,
        .leaf_bytes = eng->leaf_bytes,
        .inline_bytes = eng->inline_bytes,
        .segment_bytes = eng->segment_bytes,
        .threads = eng->threads,
        .waiting_bytes = store.waiting_bytes,
        .readers_inside = store.readers_inside,
        .reader_thread = store.reader_thread,
        .reader_ms = store.reader_ms,
        .snapshots = store.pins,
        .oldest_root = store.pinned_lineage,
        .oldest_tag = store.pinned_tag,
        .oldest_ms = store.pinned_ms,
        .reader_bytes = store.reader_bytes,
        .versions_waiting = store.versions_waiting,
        .hot_limit = store.hot_limit,
        .hot_locked_bytes = store.hot_locked_bytes,
        .hot_bytes = store.hot_bytes,
        .hot_objects = store.hot_objects,
        .hot_promoted = store.hot_promoted,
        .hot_demoted = store.hot_demoted,
        .hot_refused = store.hot_refused,
    };
}
