/*
 * The object store: opening, closing, and what concerns the whole of it.
 *
 * A store is built from parts that know each other only through store_internal.h: segments (space), control (ids),
 * arenas (allocation), versions (what is kept), readers (epochs), checkpoint and compactor. store_open reads or creates
 * the files (recovery.c), makes the arenas and starts the maintenance thread; store_close stops it and releases all. No
 * part makes anything durable at close: that is what store_checkpoint is for, and a start after a kill is the same road
 * as after a clean stop.
 *
 * store_object is inline; its slow path here runs once an object and start: an object loaded from a checkpoint is
 * compared with its checksum before anybody sees it, then marked VERIFIED in its control word.
 *
 * Ways to fail: those of recovery (see recovery.c). A damaged object is NULL with a line that names file and offset.
 * Invariant: the view is the first member and does not change while the store is open.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "store_internal.h"

_Static_assert(offsetof(struct store, view) == 0, "store_view()");

void *memory_reserve(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED)
        return memory;
    (void)eng_fail(ENG_NO_MEMORY, "address space of %zu bytes: not available", bytes);
    return NULL;
}

void memory_release(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}

const char *store_path(const char *dir, const char *name, char buffer[static 512])
{
    snprintf(buffer, 512, "%s/%s", dir, name);
    return buffer;
}

/* Everything but the files; also of a store that was only half opened. */
static void store_release(struct store *store)
{
    if (store->arenas)
        for (uint32_t i = 0; i < store->arenas_count; i++)
            arena_free(&store->arenas[i]);
    free(store->arenas);
    arena_free(&store->compactor.arena);
    hot_close(store);
    versions_close(store);
    reap_close(store);
    bases_close(store);
    lost_free(&store->lost);
    checkpoint_close(store);
    hints_close(store);
    control_close(store);
    segments_close(store);
    disk_file_close(&store->slots);
    disk_file_close(&store->journal);
    disk_file_close(&store->catalogs[0]);
    disk_file_close(&store->catalogs[1]);
    pthread_mutex_destroy(&store->versions.lock);
    pthread_mutex_destroy(&store->control.lock);
    pthread_mutex_destroy(&store->segments.lock);
    pthread_mutex_destroy(&store->maintenance);
    free(store->dir);
    store->magic = 0;
    free(store);
}

static enum eng_status store_make(const struct store_options *options, struct store **made)
{
    assert(options->disk && options->dir && options->arenas >= 1 && options->arenas <= ENG_THREADS_MAX);
    if (strlen(options->dir) > 256)
        return eng_fail(ENG_INVALID, "%.32s...: name of a state directory: over 256 bytes", options->dir);
    struct store *store = aligned_alloc(64, (sizeof *store + 63) / 64 * 64);
    if (!store)
        return eng_fail(ENG_NO_MEMORY, "%s: out of memory opening it", options->dir);
    memset(store, 0, sizeof *store);
    store->magic = STORE_MAGIC;
    store->disk = options->disk;
    store->dir = strdup(options->dir);
    store->writers = store->arenas_count = options->arenas;
    store->slot_arenas = 1;
    store->background = options->background;
    store->protect = options->protect;
    store->report = options->report;
    store->report_context = options->report_context;
    if (options->shape)
        store->shape = *options->shape;
    store->compactor.arena.segment = ARENA_CLOSED;
    hot_init(store, options);
    pthread_mutex_init(&store->segments.lock, NULL);
    pthread_mutex_init(&store->control.lock, NULL);
    pthread_mutex_init(&store->versions.lock, NULL);
    pthread_mutex_init(&store->maintenance, NULL);
    enum eng_status status = checkpoint_init(store);
    if (status == ENG_OK && !store->dir)
        status = eng_fail(ENG_NO_MEMORY, "%s: out of memory opening it", options->dir);
    if (status == ENG_OK)
        status = versions_init(store);
    if (status) {
        store_release(store);
        return status;
    }
    *made = store;
    return ENG_OK;
}

static enum eng_status arenas_make(struct store *store)
{
    if ((uint64_t)store->segments.units * UNIT_BYTES >= INNER_APART_SEGMENT_BYTES)
        store->arenas_count = 2 * store->writers;
    store->arenas = aligned_alloc(64, store->arenas_count * sizeof *store->arenas);
    if (!store->arenas)
        return eng_fail(ENG_NO_MEMORY, "%s: %u arenas: out of memory", store->dir, store->arenas_count);
    for (uint32_t i = 0; i < store->arenas_count; i++)
        arena_init(&store->arenas[i], store, false);
    for (uint32_t i = store->writers; i < store->arenas_count; i++)
        store->arenas[i - store->writers].inner = &store->arenas[i];
    arena_init(&store->compactor.arena, store, true);
    arena_init(&store->hot.arena, store, true);
    return ENG_OK;
}

enum eng_status store_open(const struct store_options *options, struct store **store)
{
    char path[512];
    *store = NULL;
    struct store *made = NULL;
    enum eng_status status = store_make(options, &made);
    if (status)
        return status;
    if (!disk_exists(options->disk, store_path(options->dir, "slots", path))) {
        if (options->create)
            status = state_create(options);
        else
            status = eng_fail(ENG_NOT_FOUND, "%s: no such file, there is no state", path);
    }
    if (status == ENG_OK)
        status = state_load(made, options);
    if (status == ENG_OK)
        status = arenas_make(made);
    if (status == ENG_OK)
        status = hints_init(made);
    if (status == ENG_OK)
        status = checkpoint_room_begin(made);
    if (status == ENG_OK) /* the last: others may know of it then */
        status = readers_init(made);
    if (status) {
        store_release(made);
        return status;
    }
    status = maintenance_start(made);
    if (status == ENG_OK)
        status = hot_start(made);
    if (status) {
        maintenance_stop(made);
        readers_close(made);
        store_release(made);
        return status;
    }
    *store = made;
    return ENG_OK;
}

void store_close(struct store **store)
{
    struct store *closing = *store;
    if (!closing)
        return;
    assert(closing->magic == STORE_MAGIC && closing->open == 0);
    hot_stop(closing);
    maintenance_stop(closing);
    readers_close(closing);
    store_release(closing);
    *store = NULL;
}

void store_parameters(const struct store *store, uint32_t *leaf_bytes, uint32_t *inline_bytes, uint32_t *segment_bytes)
{
    *leaf_bytes = store->root.leaf_bytes;
    *inline_bytes = store->root.inline_bytes;
    *segment_bytes = store->root.segment_bytes;
}

size_t store_app_state(const struct store *store, void *bytes, size_t max)
{
    if (store->app_bytes)
        memcpy(bytes, store->app_state, store->app_bytes < max ? store->app_bytes : max);
    return store->app_bytes;
}

struct object *store_object_check(struct store *store, uint32_t id, uint64_t word)
{
    const char *file = disk_file_path(store->segments.file);
    if (word == 0) {
        (void)eng_fail(ENG_DAMAGED, "%s: object %u is named but not live", file, id);
        return NULL;
    }
    uint64_t location = CONTROL_LOCATION(word);
    struct object *object = (struct object *)(void *)(store->view.base + location * UNIT_BYTES);
    bool whole = object->id == id && object->units == CONTROL_UNITS(word) &&
                 object->type == (uint32_t)CONTROL_TYPE(word) &&
                 object->checksum == object_checksum(store->root.secret, object);
    if (!whole) {
        (void)eng_fail(ENG_DAMAGED, "%s: object %u at offset %llu: %s", file, id,
                       (unsigned long long)(location * UNIT_BYTES),
                       object->id == id ? "checksum does not match" : "its header names another object");
        return NULL;
    }
    /* relaxed: the bytes were there before; when it was moved or checked meanwhile, that is as well */
    atomic_compare_exchange_strong_explicit(&store->view.control[id], &word, word | CONTROL_VERIFIED,
                                            memory_order_relaxed, memory_order_relaxed);
    return object;
}

enum eng_status store_shrink(struct store *store)
{
    assert(store->magic == STORE_MAGIC && store->open == 0);
    store_lock_maintenance(store);
    for (uint32_t i = 0; i < store->arenas_count; i++)
        arena_close_segment(&store->arenas[i]);
    arena_close_segment(&store->compactor.arena);
    arena_close_segment(&store->hot.arena);
    enum eng_status status = segments_cut(store, false);
    if (status == ENG_OK)
        status = segments_punch(store);
    store_unlock_maintenance(store);
    return status;
}

static void count_pins(const struct lineage *line, uint32_t lineage, struct store_statistics *statistics,
                       uint64_t *oldest)
{
    statistics->versions += line->count;
    for (size_t v = 0; v < line->count; v++) {
        const struct version *version = &line->versions[line->first + v];
        statistics->pins += version->pins;
        if (version->pins && version->seen.generation < *oldest) {
            *oldest = version->seen.generation;
            statistics->pinned_lineage = lineage;
            statistics->pinned_tag = version->seen.tag;
            statistics->pinned_ms = clock_ms() - version->pinned_ms;
        }
        statistics->versions_waiting += version->dropped && version->pins;
    }
}

/* Needs segments.lock. */
static void count_readers(struct store *store, struct store_statistics *statistics)
{
    struct segments *segments = &store->segments;
    struct readers_inside inside = readers_look(store);
    statistics->readers_inside = inside.count;
    statistics->reader_thread = inside.thread;
    statistics->reader_ms = inside.ms;
    statistics->waiting_bytes = segments->empty_count * statistics->segment_bytes;
    /* acquire: as in segments_reclaim */
    uint64_t durable = atomic_load_explicit(&store->checkpoint.durable, memory_order_acquire);
    for (uint32_t i = 0; i < segments->empty_count; i++) {
        const struct segment *segment = &segments->table[segments->empty[i]];
        if (segment->captured < durable && segment->emptied >= inside.seen &&
            atomic_load_explicit(&segment->moved_out, memory_order_relaxed))
            statistics->reader_bytes += statistics->segment_bytes;
    }
}

uint64_t store_live_bytes(struct store *store)
{
    struct segments *segments = &store->segments;
    uint64_t units = 0;
    pthread_mutex_lock(&segments->lock);
    for (uint32_t i = 0; i < segments->total; i++)
        units += atomic_load_explicit(&segments->table[i].live, memory_order_relaxed);
    pthread_mutex_unlock(&segments->lock);
    return units * UNIT_BYTES;
}

void store_stats(struct store *store, struct store_statistics *statistics)
{
    struct segments *segments = &store->segments;
    *statistics = (struct store_statistics){.segment_bytes = segments->units * (uint64_t)UNIT_BYTES};
    pthread_mutex_lock(&segments->lock);
    statistics->segments_total = segments->total;
    statistics->segments_free = segments->free_count;
    count_readers(store, statistics);
    for (uint32_t i = 0; i < segments->total; i++)
        if (atomic_load_explicit(&segments->table[i].hot, memory_order_relaxed))
            statistics->hot_bytes += atomic_load_explicit(&segments->table[i].live, memory_order_relaxed) * UNIT_BYTES;
    pthread_mutex_unlock(&segments->lock);
    statistics->live_bytes = store_live_bytes(store);
    statistics->file_bytes = statistics->segments_total * statistics->segment_bytes;
    statistics->ids_live = atomic_load_explicit(&store->control.live, memory_order_relaxed);
    statistics->ids_limit = store->control.limit - 1;
    pthread_mutex_lock(&store->versions.lock);
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; i < ENG_ROOTS_MAX; i++)
        count_pins(&store->versions.lineages[i], i, statistics, &oldest);
    pthread_mutex_unlock(&store->versions.lock);
    statistics->moved_bytes = atomic_load_explicit(&store->compactor.moved, memory_order_relaxed);
    const struct hot *hot = &store->hot;
    statistics->hot_limit = atomic_load_explicit(&hot->limit, memory_order_relaxed);
    statistics->hot_locked_bytes = atomic_load_explicit(&hot->locked, memory_order_relaxed);
    statistics->hot_objects = atomic_load_explicit(&hot->objects, memory_order_relaxed);
    statistics->hot_promoted = atomic_load_explicit(&hot->promoted, memory_order_relaxed);
    statistics->hot_demoted = atomic_load_explicit(&hot->demoted, memory_order_relaxed);
    statistics->hot_refused = atomic_load_explicit(&hot->refused, memory_order_relaxed);
    statistics->checkpoints = atomic_load_explicit(&store->checkpoint.made, memory_order_relaxed);
}
