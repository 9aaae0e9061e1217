/*
 * Generations and arenas: the writing side of the store.
 *
 * store_begin opens a generation and enters the writer's epoch. Each arena then allocates by moving a position forward
 * in its open segment and taking the next id of a small cache; that is all a merge pays per object. Kills are only
 * noted: an object of this generation goes on the list of own ones, any other on the list of deaths.
 *
 * store_commit writes the deaths into list objects (still in this generation), publishes the version, and then frees
 * the own-born killed objects: control word, live units of the segment and id, without touching the object.
 * store_abort frees everything allocated instead and moves the fill position back to where the generation began.
 *
 * An arena's array ids serves twice: [0, taken) is what this generation allocated, so that an abort finds it, and
 * [taken, count) the cache. Units allocated in the open segment are counted in delta and added to the segment's live
 * when the segment is sealed or the generation closed, so allocation needs no atomic read-modify-write.
 *
 * Ways to fail: no space, no ids, no memory: store_alloc returns NULL, arena_status says why, nothing changed. A kill
 * that could not be remembered fails the commit. After a failed commit only store_abort is allowed.
 *
 * Invariants: between generations taken, own_count, deaths_count and delta are 0 in every arena; closed is the newest
 * closed generation; no object of a generation above it is ever moved.
 */
#include <stdlib.h>
#include <string.h>

#include "prefetch.h"
#include "store_internal.h"

void arena_init(struct arena *arena, struct store *store, bool compactor)
{
    memset(arena, 0, sizeof *arena);
    arena->store = store;
    arena->inner = arena;
    arena->base = store->view.base;
    arena->control = store->view.control;
    arena->dirty = store->control.dirty;
    arena->segment = arena->begin_segment = ARENA_CLOSED;
    arena->compactor = compactor;
}

void arena_free(struct arena *arena)
{
    free(arena->ids);
    free(arena->own);
    free(arena->deaths);
    free(arena->falls);
    slots_free(arena);
}

struct arena *store_arena(struct store *store, uint32_t index)
{
    assert(store->magic == STORE_MAGIC && index < store->arenas_count);
    return &store->arenas[index];
}

uint64_t arena_generation(const struct arena *arena)
{
    return arena->generation;
}

struct arena *arena_inner(const struct arena *arena)
{
    return arena->inner;
}

enum eng_status arena_status(const struct arena *arena)
{
    return arena->status;
}

void arena_settle(struct arena *arena)
{
    if (arena->delta) {
        /* relaxed: nobody may find this segment empty while it is open */
        atomic_fetch_add_explicit(&arena->store->segments.table[arena->segment].live, arena->delta,
                                  memory_order_relaxed);
        arena->delta = 0;
    }
}

void arena_close_segment(struct arena *arena)
{
    struct store *store = arena->store;
    if (arena->segment == ARENA_CLOSED)
        return;
    arena_settle(arena);
    uint32_t fill = (uint32_t)(arena->position - ((uint64_t)arena->segment << store->segments.shift));
    segment_seal(store, arena->segment, fill, arena->generation);
    arena->segment = ARENA_CLOSED;
    arena->position = arena->end = 0;
}

enum eng_status arena_open_segment(struct arena *arena, uint32_t units)
{
    struct store *store = arena->store;
    uint32_t next;
    assert(units <= store->segments.units - SEGMENT_HEADER_BYTES / UNIT_BYTES);
    enum eng_status status = segment_take(store, arena->compactor, &next);
    if (status)
        return status;
    arena_close_segment(arena);
    store->segments.table[next].writer =
        arena->compactor ? SEGMENT_NO_WRITER : (uint8_t)((size_t)(arena - store->arenas) % store->writers);
    arena->segment = next;
    arena->position = ((uint64_t)next << store->segments.shift) + segment_start(next);
    arena->end = (uint64_t)(next + 1) << store->segments.shift;
    return ENG_OK;
}

void arena_align(struct arena *arena)
{
    if (arena->segment == ARENA_CLOSED)
        return;
    assert(arena->delta == 0);
    struct segments *segments = &arena->store->segments;
    /* a page; a sector where segments are tiny */
    uint64_t step = segments->units * UNIT_BYTES >= 1u << 20 ? 4096 / UNIT_BYTES : 512 / UNIT_BYTES;
    uint64_t to = (arena->position + step - 1) / step * step;
    if (to > arena->end)
        to = arena->end;
    if (to > arena->position) {
        struct object *filler = (struct object *)(void *)(arena->base + arena->position * UNIT_BYTES);
        *filler = (struct object){.units = (uint32_t)(to - arena->position), .type = OBJECT_NONE};
    }
    arena->position = to;
    segments->table[arena->segment].fill = (uint32_t)(to - ((uint64_t)arena->segment << segments->shift));
}

/* More ids in the cache, with room to remember them. */
static enum eng_status arena_fetch_ids(struct arena *arena)
{
    assert(arena->taken == arena->ids_count);
    if (arena->ids_capacity < arena->ids_count + ARENA_IDS) {
        size_t capacity = arena->ids_capacity ? arena->ids_capacity * 2 : 4 * ARENA_IDS;
        uint32_t *ids = realloc(arena->ids, capacity * sizeof *ids);
        if (!ids)
            return eng_fail(ENG_NO_MEMORY, "%s: list of %zu new ids: out of memory", arena->store->dir, capacity);
        arena->ids = ids;
        arena->ids_capacity = capacity;
    }
    size_t got;
    enum eng_status status = control_take_ids(arena->store, arena->ids + arena->ids_count, ARENA_IDS, &got);
    if (status)
        return status;
    if (!got)
        return eng_fail(ENG_NO_IDS, "%s: all %llu object ids are in use", arena->store->dir,
                        (unsigned long long)arena->store->control.limit - 1);
    arena->ids_count += got;
    return ENG_OK;
}

/* What store_alloc finds missing: a generation that fits, room in the segment, ids. */
__attribute__((noinline)) static bool arena_prepare(struct arena *arena, size_t bytes)
{
    struct store *store = arena->store;
    size_t most = (size_t)store->segments.units * UNIT_BYTES - SEGMENT_HEADER_BYTES;
    if (most > ((1u << 19) - 1) * (size_t)UNIT_BYTES)
        most = ((1u << 19) - 1) * (size_t)UNIT_BYTES;
    if (bytes > most) {
        arena->status =
            eng_fail(ENG_TOO_LARGE, "%s: object of %zu bytes: at most %zu fit a segment", store->dir, bytes, most);
        return false;
    }
    uint32_t units = (uint32_t)((bytes + UNIT_BYTES - 1) / UNIT_BYTES);
    arena->status = ENG_OK;
    if (arena->taken == arena->ids_count)
        arena->status = arena_fetch_ids(arena);
    if (arena->status == ENG_OK && units > arena->end - arena->position)
        arena->status = arena_open_segment(arena, units);
    return arena->status == ENG_OK;
}

/* The control word of an id that was free was changed last by whoever freed it. */
#define ALLOC_AHEAD 3u /* objects */

struct object *store_alloc(struct arena *arena, enum object_type type, size_t bytes, uint32_t *id)
{
    assert(arena->generation && type != OBJECT_NONE && bytes >= sizeof(struct object));
    uint64_t units = (bytes + UNIT_BYTES - 1) / UNIT_BYTES, location = 0;
    uint32_t slot_units;
    if (__builtin_expect(arena->taken == arena->ids_count, 0) && !arena_prepare(arena, bytes))
        return NULL;
    if (units <= SLOT_UNITS_MAX)
        location = slot_take(arena, (uint32_t)units, &slot_units);
    if (location) {
        units = slot_units;
    } else {
        if (__builtin_expect(units > arena->end - arena->position, 0) && !arena_prepare(arena, bytes))
            return NULL;
        location = arena->position;
        arena->position = location + units;
        arena->delta += units;
    }
    struct object *object = (struct object *)(void *)(arena->base + location * UNIT_BYTES);
    size_t used = bytes & ~(size_t)(UNIT_BYTES - 1); /* whole units; what is behind them is zeroed */
    uint32_t got = arena->ids[arena->taken++];
    if (arena->taken + ALLOC_AHEAD < arena->ids_count)
        prefetch_write((const void *)&arena->control[arena->ids[arena->taken + ALLOC_AHEAD]]);
    memset((uint8_t *)object + used, 0, units * UNIT_BYTES - used);
    *object = (struct object){.generation = arena->generation, .id = got, .units = (uint32_t)units, .type = type};
    /* release: partner of the acquire in store_object */
    atomic_store_explicit(&arena->control[got],
                          location | units << CONTROL_UNITS_SHIFT | (uint64_t)type << CONTROL_TYPE_SHIFT |
                              CONTROL_VERIFIED,
                          memory_order_release);
    control_mark(arena->dirty, got);
    *id = got;
    return object;
}

void store_kill(struct arena *arena, uint32_t id, uint64_t born)
{
    assert(arena->generation && id != 0 && born <= arena->generation);
    if (born == arena->generation) {
        if (arena->own_count == arena->own_capacity) {
            size_t capacity = arena->own_capacity ? arena->own_capacity * 2 : 256;
            uint32_t *own = realloc(arena->own, capacity * sizeof *own);
            if (!own) {
                arena->failed = ENG_NO_MEMORY;
                return;
            }
            arena->own = own;
            arena->own_capacity = capacity;
        }
        arena->own[arena->own_count++] = id;
        return;
    }
    if (arena->deaths_count == arena->deaths_capacity) {
        size_t capacity = arena->deaths_capacity ? arena->deaths_capacity * 2 : 256;
        struct death *deaths = realloc(arena->deaths, capacity * sizeof *deaths);
        if (!deaths) {
            arena->failed = ENG_NO_MEMORY;
            return;
        }
        arena->deaths = deaths;
        arena->deaths_capacity = capacity;
    }
    arena->deaths[arena->deaths_count++] = (struct death){.born = born, .id = id};
}

void generation_open(struct store *store)
{
    assert(store->magic == STORE_MAGIC && store->open == 0);
    store->counter++;
    assert(store->counter < 1ull << GENERATION_START_SHIFT);
    store->open = store->root.start << GENERATION_START_SHIFT | store->counter;
    atomic_store(&store->opened, store->open); /* seq_cst: partner of retire in compact.c */
    for (uint32_t i = 0; i < store->arenas_count; i++) {
        struct arena *arena = &store->arenas[i];
        assert(arena->taken == 0 && arena->own_count == 0 && arena->deaths_count == 0 && arena->delta == 0);
        arena->generation = store->open;
        arena->status = arena->failed = ENG_OK;
        arena->begin_segment = arena->segment;
        arena->begin_position = arena->position;
    }
    reader_enter(&store->readers.slots[READER_WRITER]);
}

/* Frees ids[from .. count) with the control words of the next ones on their way into the cache. */
static void free_ids(struct store *store, const uint32_t *ids, size_t count)
{
    const size_t ahead = 12;
    for (size_t i = 0; i < count; i++) {
        if (i + ahead < count)
            prefetch_write((const void *)&store->view.control[ids[i + ahead]]);
        control_free(store, ids[i]);
    }
}

static void generation_close(struct store *store)
{
    for (uint32_t i = 0; i < store->arenas_count; i++) {
        struct arena *arena = &store->arenas[i];
        arena->ids_count -= arena->taken;
        if (arena->ids_count)
            memmove(arena->ids, arena->ids + arena->taken, arena->ids_count * sizeof *arena->ids);
        arena->taken = arena->own_count = arena->deaths_count = arena->falls_count = 0;
        arena->generation = 0;
    }
    /* release: partner of the acquire in compact.c; from here on these objects may be moved */
    atomic_store_explicit(&store->closed, store->open, memory_order_release);
    store->open = 0;
    reader_leave(&store->readers.slots[READER_WRITER]);
}

void generation_keep(struct store *store)
{
    uint64_t made = 0;
    for (uint32_t i = 0; i < store->arenas_count; i++) {
        made += store->arenas[i].taken;
        arena_settle(&store->arenas[i]);
    }
    control_free_begin(store);
    _Atomic uint64_t *live = &store->control.live;
    atomic_store_explicit(live, atomic_load_explicit(live, memory_order_relaxed) + made, memory_order_relaxed);
    for (uint32_t i = 0; i < store->arenas_count; i++)
        free_ids(store, store->arenas[i].own, store->arenas[i].own_count);
    control_free_end(store);
    generation_close(store);
}

void generation_undo(struct store *store)
{
    uint64_t made = 0;
    for (uint32_t i = 0; i < store->arenas_count; i++) {
        made += store->arenas[i].taken;
        arena_settle(&store->arenas[i]);
    }
    control_free_begin(store);
    _Atomic uint64_t *live = &store->control.live;
    atomic_store_explicit(live, atomic_load_explicit(live, memory_order_relaxed) + made, memory_order_relaxed);
    store->undoing = true;
    for (uint32_t i = 0; i < store->arenas_count; i++)
        free_ids(store, store->arenas[i].ids, store->arenas[i].taken);
    store->undoing = false;
    control_free_end(store);
    for (uint32_t i = 0; i < store->arenas_count; i++) {
        struct arena *arena = &store->arenas[i];
        if (arena->segment == ARENA_CLOSED)
            continue;
        /* all of a segment opened since the beginning was made by this generation */
        if (arena->segment == arena->begin_segment)
            arena->position = arena->begin_position;
        else
            arena->position = ((uint64_t)arena->segment << store->segments.shift) + segment_start(arena->segment);
    }
    generation_close(store);
}

enum eng_status store_begin(struct store *store, uint32_t lineage, uint64_t *generation)
{
    assert(lineage < ENG_ROOTS_MAX);
    enum eng_status status = checkpoint_failed(store);
    if (status)
        return status;
    generation_open(store);
    store->open_lineage = lineage;
    *generation = store->open;
    return ENG_OK;
}

enum eng_status store_commit(struct store *store, uint64_t tag, uint32_t root, const struct eng_summary *summary)
{
    assert(store->magic == STORE_MAGIC && store->open != 0);
    uint32_t list = 0;
    enum eng_status status = version_room(store, store->open_lineage);
    for (uint32_t i = 0; i < store->arenas_count && status == ENG_OK; i++) {
        struct arena *arena = &store->arenas[i];
        if (arena->failed)
            status = eng_fail(arena->failed, "%s: list of killed objects: out of memory", store->dir);
        else
            status = list_prepend(&store->arenas[0], arena->deaths, arena->deaths_count, &list);
    }
    if (status == ENG_OK)
        status = reap_room(store);
    if (status == ENG_OK)
        status = checkpoint_room_entries(store, 1);
    if (status)
        return status;
    struct version version = {.list = list};
    version.seen.generation = store->open;
    version.seen.tag = tag;
    version.seen.root = root;
    version.seen.summary = *summary;
    version_append(store, store->open_lineage, &version);
    bases_keep(store);
    reap_take(store);
    store->slot_arenas = 1; /* a merge that was not split leaves the others idle, and slots with them unused */
    for (uint32_t i = 1; i < store->writers; i++)
        store->slot_arenas += store->arenas[i].taken != 0;
    generation_keep(store);
    /* The version stands whatever comes of the frees that were put off: they stay due, and store_drop reports why. */
    enum eng_status released = store_free_dropped(store);
    (void)released;
    return ENG_OK;
}

void store_abort(struct store *store)
{
    assert(store->magic == STORE_MAGIC && store->open != 0);
    bases_undo(store);
    generation_undo(store);
}

enum eng_status store_reserve(struct store *store, uint64_t bytes, uint64_t ids)
{
    struct segments *segments = &store->segments;
    enum eng_status status = checkpoint_failed(store);
    if (status)
        return status;
    /* three quarters of a segment are counted on: the rest may be lost where an object does not fit its end */
    uint64_t usable = (uint64_t)segments->units * UNIT_BYTES * 3 / 4;
    uint64_t count = bytes / usable + (bytes % usable != 0) + (store->arenas_count - 1);
    if (count >= segments->max)
        return eng_fail(ENG_FULL, "%s/segments: %llu bytes wanted: over the limit of %u segments", store->dir,
                        (unsigned long long)bytes, segments->max);
    size_t left = control_ids_left(store); /* those cached by arenas not counted: another thread may be merging */
    if (left < ids)
        return eng_fail(ENG_NO_IDS, "%s: %llu new object ids wanted, %zu left", store->dir, (unsigned long long)ids,
                        left);
    status = control_room(store, ids + (store->arenas_count - 1) * (uint64_t)ARENA_IDS);
    if (status == ENG_OK)
        status = checkpoint_room_ahead(store);
    return status == ENG_OK ? segments_reserve(store, (uint32_t)count) : status;
}
