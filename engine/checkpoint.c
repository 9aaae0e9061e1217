/*
 * Checkpoint: makes the present versions of all lineages durable.
 *
 * Capture, in the committing thread between generations, with the compactor standing still: the dirty control pages are
 * copied, the catalog of versions is written down, segments with live objects are marked as captured, open segments go
 * on at the next page so that no durable sector is written again.
 *
 * Making it durable, in the maintenance thread or inline:
 *   1. every captured object that has no checksum yet gets one; frees and moves wait until this is done, so that the
 *      control word tells which objects are meant
 *   2. sync segments
 *   3. write catalog.<number & 1>, sync
 *   4. write the journal {root slot, control pages}, sync: the commit point
 *   5. write the control pages, sync
 *   6. write root slot sequence & 1, sync
 * After 6 the segments that only the checkpoint before needed can be recycled. A crash before 4 leaves the old
 * checkpoint, one after 4 is rolled forward at the start.
 *
 * A disk that is slower than the commits makes checkpoints long, and what is freed meanwhile waits for the end of this
 * one or the next: when that comes to more than a third of what is live, commits wait (store_wait_for_space).
 *
 * A checkpoint needs space itself, and on a full disk it is the only way to any: so that space is made sure of before
 * the state can come to need it. No id is given out before journal and control file hold all pages up to it, and no
 * version is published, no base made, no node's fall put in the place of another's, before both catalogs hold one entry
 * more; a full disk is ENG_FULL from the commit, and the checkpoint that gives space back stays possible. The files
 * grow by 1 MiB (4 KiB where segments are under 1 MiB, or where there is no more); the catalog's entries are counted
 * only when a bound of theirs comes near what there is room for. Of free segments that have their space one gives it up
 * if nobody else has any.
 *
 * Ways to fail: memory. The capture finds room in all files, except in a store that an older version of this program
 * filled a disk with: there the capture may be ENG_FULL, from before anything is changed, and one may try again. Any
 * error after the capture is final for the store: every later checkpoint, store_begin and store_reserve returns it. A
 * failed sync is never retried.
 *
 * Invariants: one checkpoint at a time; durable <= captured of any segment only for the checkpoint running or the
 * newest one; the catalog and the slot written are never those of the newest durable checkpoint.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "store_internal.h"

#define ROOM_STEP_LEAST 4096u
#define ENTRIES_AHEAD 32u /* of the catalog: room that is looked for at once */
_Static_assert(ENTRIES_AHEAD > ENG_BATCH_DEPTH_MAX, "so that entries are counted seldom");

enum eng_status checkpoint_init(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&checkpoint->lock, NULL);
    pthread_mutex_init(&checkpoint->room, NULL);
    int failed = pthread_cond_init(&checkpoint->changed, &clock);
    pthread_condattr_destroy(&clock);
    return failed ? eng_fail(ENG_NO_MEMORY, "%s: condition variable: %s", store->dir, strerror(failed)) : ENG_OK;
}

static void capture_free(struct checkpoint *checkpoint)
{
    free(checkpoint->image.numbers);
    free(checkpoint->image.pages);
    free(checkpoint->catalog);
    free(checkpoint->work);
    checkpoint->image = (struct control_image){0};
    checkpoint->catalog = NULL;
    checkpoint->work = NULL;
    checkpoint->work_count = 0;
}

void checkpoint_close(struct store *store)
{
    capture_free(&store->checkpoint);
    pthread_cond_destroy(&store->checkpoint.changed);
    pthread_mutex_destroy(&store->checkpoint.room);
    pthread_mutex_destroy(&store->checkpoint.lock);
}

enum eng_status checkpoint_failed(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    pthread_mutex_lock(&checkpoint->lock);
    enum eng_status status = checkpoint->failed;
    if (status)
        (void)eng_fail(status, "a checkpoint failed: %s", checkpoint->failed_text);
    pthread_mutex_unlock(&checkpoint->lock);
    return status;
}

/* Grows a file before anything depends on it. Needs checkpoint.room. */
static enum eng_status file_room(struct store *store, struct disk_file *file, uint64_t *have, uint64_t want)
{
    if (want <= *have)
        return ENG_OK;
    uint64_t step = store->segments.units * UNIT_BYTES >= 1u << 20 ? 1u << 20 : ROOM_STEP_LEAST;
    uint64_t size = (want + step - 1) / step * step,
             least = (want + ROOM_STEP_LEAST - 1) / ROOM_STEP_LEAST * ROOM_STEP_LEAST;
    enum eng_status status;
    do {
        status = disk_extend(file, size);
        if (status == ENG_FULL && least < size)
            status = disk_extend(file, size = least);
    } while (status == ENG_FULL && segments_yield(store));
    if (status == ENG_OK)
        *have = size;
    return status;
}

enum eng_status checkpoint_room_ids(struct store *store, uint64_t next)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    uint64_t pages = 1 + control_pages(next);
    pthread_mutex_lock(&checkpoint->room);
    enum eng_status status = file_room(store, store->journal, &store->journal_file_bytes, journal_bytes(pages));
    if (status == ENG_OK)
        status = file_room(store, store->control.file, &store->control.file_bytes, pages * CONTROL_PAGE_BYTES);
    pthread_mutex_unlock(&checkpoint->room);
    return status;
}

/* Needs checkpoint.room. */
static enum eng_status catalogs_room(struct store *store, uint64_t entries)
{
    uint64_t *have = store->catalog_file_bytes;
    enum eng_status status = ENG_OK;
    for (int i = 0; i < 2 && status == ENG_OK; i++)
        status = file_room(store, store->catalogs[i], &have[i], entries * sizeof(struct catalog_entry));
    /* relaxed: a bound of what is there, which only grows */
    atomic_store_explicit(&store->checkpoint.entries_room,
                          (have[0] < have[1] ? have[0] : have[1]) / sizeof(struct catalog_entry), memory_order_relaxed);
    return status;
}

/* Counts the entries, and finds room for them and for those of the next commits. */
static enum eng_status entries_count(struct store *store, size_t more)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    checkpoint->entries = catalog_count(store) + bases_undone(store) + more;
    pthread_mutex_lock(&checkpoint->room);
    enum eng_status status = catalogs_room(store, checkpoint->entries + ENTRIES_AHEAD);
    /* relaxed, both: see catalogs_room; store_reserve looks at the flag */
    atomic_store_explicit(&checkpoint->entries_short, status != ENG_OK, memory_order_relaxed);
    if (status == ENG_FULL &&
        checkpoint->entries <= atomic_load_explicit(&checkpoint->entries_room, memory_order_relaxed))
        status = ENG_OK;
    pthread_mutex_unlock(&checkpoint->room);
    return status;
}

enum eng_status checkpoint_room_entries(struct store *store, size_t more)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    /* relaxed: as in catalogs_room */
    if (checkpoint->entries + more + ENG_BATCH_DEPTH_MAX >
        atomic_load_explicit(&checkpoint->entries_room, memory_order_relaxed))
        return entries_count(store, more);
    checkpoint->entries += more;
    return ENG_OK;
}

enum eng_status checkpoint_room_ahead(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&checkpoint->room);
    /* relaxed: one that is set a moment later is seen by the commit */
    if (atomic_load_explicit(&checkpoint->entries_short, memory_order_relaxed))
        status = catalogs_room(store, atomic_load_explicit(&checkpoint->entries_room, memory_order_relaxed) +
                                          ENG_BATCH_DEPTH_MAX);
    if (status == ENG_OK)
        atomic_store_explicit(&checkpoint->entries_short, false, memory_order_relaxed);
    pthread_mutex_unlock(&checkpoint->room);
    return status;
}

enum eng_status checkpoint_room_begin(struct store *store)
{
    enum eng_status status = checkpoint_room_ids(store, store->control.next);
    if (status == ENG_OK || status == ENG_FULL) {
        enum eng_status entries = entries_count(store, 0);
        status = entries == ENG_FULL || entries == ENG_OK ? status : entries;
    }
    return status == ENG_FULL ? ENG_OK : status;
}

/* Memory and disk space for a capture: what can fail. */
static enum eng_status capture_prepare(struct store *store, size_t *catalog_bytes)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    uint64_t number = checkpoint->slot.checkpoint + 1;
    size_t pages = control_dirty_count(store) + 1;
    checkpoint->image.numbers = calloc(pages + 1, sizeof *checkpoint->image.numbers);
    checkpoint->image.pages = malloc(pages * sizeof *checkpoint->image.pages);
    checkpoint->work = malloc(store->segments.total * sizeof *checkpoint->work + 1);
    if (!checkpoint->image.numbers || !checkpoint->image.pages || !checkpoint->work)
        return eng_fail(ENG_NO_MEMORY, "%s: checkpoint of %zu control pages: out of memory", store->dir, pages);
    enum eng_status status = catalog_encode(store, &checkpoint->catalog, catalog_bytes);
    if (status == ENG_OK)
        status = entries_count(store, 0); /* what was dropped makes room in the catalogs */
    pthread_mutex_lock(&checkpoint->room);
    if (status == ENG_FULL) /* one of them may do for now */
        status = file_room(store, store->catalogs[number & 1], &store->catalog_file_bytes[number & 1], *catalog_bytes);
    if (status == ENG_OK)
        status = file_room(store, store->journal, &store->journal_file_bytes, journal_bytes(pages));
    if (status == ENG_OK)
        status = file_room(store, store->control.file, &store->control.file_bytes,
                           (1 + control_pages(store->control.next)) * CONTROL_PAGE_BYTES);
    pthread_mutex_unlock(&checkpoint->room);
    return status;
}

/* Marks segments with live objects and lists what lacks checksums. */
static void capture_segments(struct store *store, uint64_t number)
{
    struct segments *segments = &store->segments;
    struct checkpoint *checkpoint = &store->checkpoint;
    for (uint32_t i = 0; i < store->arenas_count; i++)
        arena_align(&store->arenas[i]);
    arena_align(&store->compactor.arena);
    arena_align(&store->hot.arena);
    pthread_mutex_lock(&segments->lock);
    for (uint32_t n = 0; n < segments->total; n++) {
        struct segment *segment = &segments->table[n];
        if (atomic_load_explicit(&segment->live, memory_order_relaxed) == 0)
            continue;
        assert(segment->state == SEGMENT_OPEN || segment->state == SEGMENT_SEALED);
        segment->captured = number;
        if (segment->checksummed < segment->fill)
            checkpoint->work[checkpoint->work_count++] =
                (struct checksum_work){.segment = n, .from = segment->checksummed, .to = segment->fill};
    }
    pthread_mutex_unlock(&segments->lock);
}

static enum eng_status checkpoint_capture(struct store *store, const void *app_state, size_t app_bytes)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    size_t catalog_bytes = 0;
    store_lock_maintenance(store);
    enum eng_status status = capture_prepare(store, &catalog_bytes);
    if (status == ENG_FULL) { /* give back what segments do not use, and try once more */
        capture_free(checkpoint);
        status = segments_cut(store, true);
        if (status == ENG_OK)
            status = capture_prepare(store, &catalog_bytes);
    }
    if (status) {
        capture_free(checkpoint);
        goto unlock;
    }
    struct rootslot *slot = &checkpoint->slot; /* of the newest durable one, until here */
    slot->sequence++;
    slot->checkpoint++;
    slot->segments = store->segments.total;
    slot->ids_next = store->control.next;
    slot->catalog_bytes = catalog_bytes;
    slot->catalog_checksum = XXH3_64bits(checkpoint->catalog, catalog_bytes);
    /* relaxed: written by this thread, which commits */
    slot->generation = atomic_load_explicit(&store->closed, memory_order_relaxed);
    slot->app_bytes = (uint32_t)app_bytes;
    memset(slot->app_state, 0, sizeof slot->app_state);
    if (app_bytes)
        memcpy(slot->app_state, app_state, app_bytes);
    rootslot_seal(slot);
    store->versions.changed = false;
    capture_segments(store, slot->checkpoint);
    slots_forget(store);
    control_capture(store, slot->checkpoint, &checkpoint->image);
    /* release: partner of the acquire in compact_batch; cleared in checkpoint_make */
    atomic_store_explicit(&checkpoint->checksumming, true, memory_order_release);
unlock:
    store_unlock_maintenance(store);
    return status;
}

/* Gives every live object of a run its checksum. */
static enum eng_status checksum_run(struct store *store, const struct checksum_work *work)
{
    struct segment *segment = &store->segments.table[work->segment];
    uint64_t base = (uint64_t)work->segment << store->segments.shift;
    for (uint32_t at = work->from; at < work->to;) {
        uint64_t location = base + at;
        struct object *object = (struct object *)(void *)(store->view.base + location * UNIT_BYTES);
        if (object->units == 0 || object->units > work->to - at)
            return eng_fail(ENG_DAMAGED, "%s: object at offset %llu: impossible size %u",
                            disk_file_path(store->segments.file), (unsigned long long)(location * UNIT_BYTES),
                            object->units);
        /* acquire: partner of the release in store_alloc and in the compactor */
        uint64_t word = object->type == OBJECT_NONE
                            ? 0
                            : atomic_load_explicit(&store->view.control[object->id], memory_order_acquire);
        if (word && CONTROL_LOCATION(word) == location && object->checksum == 0)
            object->checksum = object_checksum(store->root.secret, object);
        at += object->units;
    }
    segment->checksummed = work->to;
    return ENG_OK;
}

enum eng_status checkpoint_make(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    struct rootslot *slot = &checkpoint->slot;
    struct disk_file *catalog = store->catalogs[slot->checkpoint & 1];
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < checkpoint->work_count && status == ENG_OK; i++)
        status = checksum_run(store, &checkpoint->work[i]);
    /* release: partner of the acquire in versions_release; objects may be freed and moved again */
    atomic_store_explicit(&checkpoint->checksumming, false, memory_order_release);
    if (status == ENG_OK)
        status = segments_protect(store, slot->checkpoint);
    if (status == ENG_OK)
        status = disk_sync(store->segments.file);
    if (status == ENG_OK && slot->catalog_bytes)
        status = disk_write(catalog, 0, checkpoint->catalog, slot->catalog_bytes);
    if (status == ENG_OK)
        status = disk_sync(catalog);
    if (status == ENG_OK)
        status = journal_write(store->journal, slot, &checkpoint->image);
    if (status == ENG_OK)
        status = disk_sync(store->journal);
    if (status == ENG_OK)
        status = journal_apply(store->control.file, &checkpoint->image);
    if (status == ENG_OK)
        status = disk_sync(store->control.file);
    if (status == ENG_OK)
        status = rootslot_write(store->slots, slot);
    if (status == ENG_OK)
        status = disk_sync(store->slots);
    if (status == ENG_OK) {
        /* release: partner of the acquire in segments_reclaim */
        atomic_store_explicit(&checkpoint->durable, slot->checkpoint, memory_order_release);
        atomic_fetch_add_explicit(&checkpoint->made, 1, memory_order_relaxed);
    }
    enum eng_status trimmed = status == ENG_OK ? segments_trim(store) : ENG_OK;
    (void)trimmed; /* a file system without holes: the space stays with the file */
    capture_free(checkpoint);
    pthread_mutex_lock(&checkpoint->lock);
    if (status) {
        checkpoint->failed = status;
        snprintf(checkpoint->failed_text, sizeof checkpoint->failed_text, "%s", eng_error());
    }
    /* release: partner of the acquire in store_checkpoint_running */
    atomic_store_explicit(&checkpoint->running, false, memory_order_release);
    pthread_cond_broadcast(&checkpoint->changed);
    pthread_mutex_unlock(&checkpoint->lock);
    return status;
}

enum eng_status store_checkpoint(struct store *store, const void *app_state, size_t app_state_bytes, bool wait)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    assert(store->magic == STORE_MAGIC && store->open == 0 && app_state_bytes <= ENG_APP_STATE_BYTES_MAX);
    pthread_mutex_lock(&checkpoint->lock);
    while (wait && atomic_load_explicit(&checkpoint->running, memory_order_relaxed))
        pthread_cond_wait(&checkpoint->changed, &checkpoint->lock);
    bool busy = atomic_load_explicit(&checkpoint->running, memory_order_relaxed);
    pthread_mutex_unlock(&checkpoint->lock);
    if (busy)
        return eng_fail(ENG_BUSY, "%s: checkpoint %llu is still being made", store->dir,
                        (unsigned long long)checkpoint->slot.checkpoint);
    enum eng_status status = checkpoint_failed(store);
    if (status == ENG_OK)
        status = checkpoint_capture(store, app_state, app_state_bytes);
    if (status)
        return status;
    pthread_mutex_lock(&checkpoint->lock);
    atomic_store_explicit(&checkpoint->running, true, memory_order_relaxed);
    pthread_cond_broadcast(&checkpoint->changed);
    if (checkpoint->has_thread) {
        while (wait && atomic_load_explicit(&checkpoint->running, memory_order_relaxed))
            pthread_cond_wait(&checkpoint->changed, &checkpoint->lock);
        pthread_mutex_unlock(&checkpoint->lock);
        return wait ? checkpoint_failed(store) : ENG_OK;
    }
    pthread_mutex_unlock(&checkpoint->lock);
    return checkpoint_make(store);
}

enum eng_status store_write_back(struct store *store)
{
    return disk_write_back(store->segments.file);
}

/* Empty segments that only wait for a checkpoint, and those that may before one is wanted. */
static uint64_t segments_held(struct store *store, uint64_t *enough)
{
    const uint32_t few = 8; /* segments not worth a checkpoint */
    struct segments *segments = &store->segments;
    uint64_t held = 0;
    pthread_mutex_lock(&segments->lock);
    *enough = segments->heap_live / segments->units / 6;
    *enough = *enough > few ? *enough : few;
    /* acquire: as in segments_reclaim */
    uint64_t durable = atomic_load_explicit(&store->checkpoint.durable, memory_order_acquire);
    if (segments->empty_count > *enough)
        for (uint32_t i = 0; i < segments->empty_count; i++)
            held += segments->table[segments->empty[i]].captured >= durable;
    pthread_mutex_unlock(&segments->lock);
    return held;
}

bool store_checkpoint_wanted(struct store *store)
{
    uint64_t enough, held = segments_held(store, &enough);
    return held > enough;
}

void store_wait_for_space(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    uint64_t enough;
    if (!store_checkpoint_running(store) || segments_held(store, &enough) <= 2 * enough)
        return;
    pthread_mutex_lock(&checkpoint->lock);
    while (atomic_load_explicit(&checkpoint->running, memory_order_relaxed))
        pthread_cond_wait(&checkpoint->changed, &checkpoint->lock);
    pthread_mutex_unlock(&checkpoint->lock);
}

bool store_checkpoint_running(struct store *store)
{
    /* acquire: partner of the release in checkpoint_make */
    return atomic_load_explicit(&store->checkpoint.running, memory_order_acquire);
}

uint64_t store_checkpoint_number(const struct store *store)
{
    /* acquire: partner of the release in checkpoint_make */
    return atomic_load_explicit(&store->checkpoint.durable, memory_order_acquire);
}
