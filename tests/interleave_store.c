/*
 * The lock-free parts of the store (engine/control.c, compact.c, segment.c, generation.c, slot.c, reader.c, version.c)
 * under every interleaving of a few threads with these roles:
 *
 *   compactor  moves what is live out of the segment with the least live data: copy and compare-and-swap
 *   mover      moves single objects out of a segment that takes new ones too, as compact_parent does
 *   merge      frees an object, then makes another in a generation of its own, which takes the id again
 *   reader     enters its epoch, looks an object up, reads it twice, leaves
 *   reclaimer  a compactor that then takes back what is empty and overwrites it at once
 *   writer     publishes a version, then drops the oldest
 *   pinner     looks at the head, pins a version, reads its root in an epoch, unpins
 *
 * The store is made by hand: segments of 8 KiB in plain memory, no files, no threads; between operations of a thread
 * it is a store like any other. Every object's bytes follow from its id and the generation that made it; what is freed
 * and taken again is overwritten, so that a reader of it notices.
 *
 * Oracle, beside what readers see: in the end every control word names an object with its id, whole, the live units of
 * every segment are those of the words that point into it, and no segment that is to be filled anew has any.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interleave.h"
#include "interleave_models.h"
#include "store_internal.h"

#define SEGMENTS 6u
#define UNITS 128u /* of a segment */
#define IDS 64u
#define ARENA_LIST 512u
#define LIVE 3u /* objects 1..3 live in segment 1; 4, 5, 6 are roots of versions */
#define ROOT_FIRST 4u

static struct store *store;
static uint8_t *base;
static enum store_role role[IL_THREADS_MAX];
static enum store_bug bug;
static struct {
    uint64_t made[IDS]; /* generation in which the newest object with this id was made, 0: none is live */
    uint64_t tag;       /* newest */
    uint64_t dropped;   /* every version up to here is dropped */
} state;

static void *array(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    assert(memory);
    return memory;
}

static uint8_t *contents(struct object *object)
{
    return (uint8_t *)(object + 1);
}

/* An object of two units. */
static void fill(struct object *object, uint32_t id, uint64_t generation)
{
    il_touch(object, 2 * UNIT_BYTES, true, "write of an object");
    memset(contents(object), (int)(id * 16 + generation), 2 * UNIT_BYTES - sizeof *object);
}

static void expect(const struct object *object, uint32_t id, uint64_t generation)
{
    il_touch(object, 2 * UNIT_BYTES, false, "read of an object");
    const uint8_t *bytes = (const uint8_t *)(object + 1);
    bool right = object->id == id && object->generation == generation;
    for (unsigned i = 0; i < 2 * UNIT_BYTES - sizeof *object; i++)
        right = right && bytes[i] == (uint8_t)(id * 16 + generation);
    if (!right)
        il_fail("a reader of object %u sees other bytes", id);
}

static void put(uint32_t id, uint32_t segment, enum object_type type, uint64_t generation)
{
    struct segment *in = &store->segments.table[segment];
    uint64_t location = (uint64_t)segment * UNITS + in->fill;
    struct object *object = (struct object *)(void *)(base + location * UNIT_BYTES);
    *object = (struct object){.generation = generation, .id = id, .units = 2, .type = type};
    fill(object, id, generation);
    in->fill += 2;
    in->live += 2;
    store->view.control[id] =
        location | 2ull << CONTROL_UNITS_SHIFT | (uint64_t)type << CONTROL_TYPE_SHIFT | CONTROL_VERIFIED;
    state.made[id] = generation;
}

/* ---- the roles ---------------------------------------------------------------------------------------------------*/

static void compactor(void)
{
    uint64_t moved;
    bool more;
    enum eng_status status = compact_batch(store, 90, 1u << 20, &moved, &more);
    if (status != ENG_OK && status != ENG_BUSY)
        il_fail("the compactor failed");
}

/* In the end nothing is left in segment 1 but what a merge puts there. */
static void mover(unsigned number)
{
    uint32_t id = LIVE - number % 2;
    uint64_t moved = 0;
    pthread_mutex_lock(&store->maintenance);
    pthread_mutex_lock(&store->control.lock);
    uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_acquire);
    if (compact_move(store, &store->compactor.arena, id, CONTROL_LOCATION(word), &moved) != ENG_OK)
        il_fail("the mover failed");
    pthread_mutex_unlock(&store->control.lock);
    pthread_mutex_unlock(&store->maintenance);
}

static void merge(unsigned number)
{
    if (number % 2 == 0) {
        uint32_t id = 1 + number / 2;
        control_free_begin(store);
        state.made[id] = 0;
        control_free(store, id);
        control_free_end(store);
        return;
    }
    uint32_t id;
    generation_open(store);
    struct object *object = store_alloc(&store->arenas[0], OBJECT_LEAF, 2 * UNIT_BYTES, &id);
    if (!object) {
        il_fail("no space for an object");
        return;
    }
    fill(object, id, store->open);
    state.made[id] = store->open;
    generation_keep(store);
}

/* Reads an object that nobody frees. */
static void reader(unsigned thread)
{
    uint32_t id = LIVE;
    struct reader *slot = &store->readers.slots[thread % 2];
    reader_enter(slot);
    const struct object *object = store_object(store, id);
    expect(object, id, 1);
    if (bug == STORE_LEFT_EARLY)
        reader_leave(slot);
    expect(object, id, 1);
    if (bug != STORE_LEFT_EARLY)
        reader_leave(slot);
}

static void reclaimer(unsigned number)
{
    if (number % 2 == 0) {
        compactor();
        return;
    }
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    for (uint32_t i = 0; i < store->segments.free_count; i++) {
        uint8_t *bytes = base + (uint64_t)store->segments.free[i] * UNITS * UNIT_BYTES;
        il_touch(bytes, UNITS * UNIT_BYTES, true, "overwriting a segment");
        memset(bytes, 0xee, UNITS * UNIT_BYTES);
    }
    pthread_mutex_unlock(&store->segments.lock);
}

static struct version version_of(uint64_t tag)
{
    struct version version = {.seen.generation = tag, .seen.tag = tag, .seen.root = (uint32_t)(ROOT_FIRST + tag - 1)};
    version.seen.summary.count = tag * 7;
    version.seen.summary.sum[2] = tag * 11;
    memset(version.seen.summary.digest, (int)tag, sizeof version.seen.summary.digest);
    return version;
}

static void version_check(const struct store_version *seen)
{
    struct version right = version_of(seen->tag);
    if (memcmp(seen, &right.seen, sizeof *seen) != 0)
        il_fail("the head is of two versions");
}

/* Version 1 is there; 2, 3 follow. Version t's root dies in t + 1. */
static void writer(unsigned number)
{
    if (number % 2 == 0) {
        struct version next = version_of(state.tag + 1);
        next.list = 16 + (uint32_t)state.tag; /* made before; names the root of the version before */
        version_append(store, 0, &next);
        state.tag++;
    } else if (store_drop(store, 0, ++state.dropped) != ENG_OK) {
        il_fail("drop");
    }
}

static void root_read(unsigned thread, const struct store_version *version)
{
    struct reader *slot = &store->readers.slots[thread % 2];
    reader_enter(slot);
    /* acquire: as in store_object, which would name a file here */
    uint64_t word = atomic_load_explicit(&store->view.control[version->root], memory_order_acquire);
    if (!word) {
        il_fail("the root of version %llu is freed while it is used", (unsigned long long)version->tag);
        return;
    }
    expect((const void *)(base + CONTROL_LOCATION(word) * UNIT_BYTES), version->root, 1);
    reader_leave(slot);
}

static void pinner(unsigned thread, unsigned number)
{
    struct store_version version;
    if (!store_head(store, 0, &version)) {
        il_fail("no head");
        return;
    }
    version_check(&version);
    if (bug == STORE_NO_PIN) {
        root_read(thread, &version);
        return;
    }
    if (store_pin(store, 0, number % 2 ? version.tag : 1, &version) != ENG_OK)
        return; /* dropped meanwhile */
    version_check(&version);
    if (bug == STORE_UNPINNED_EARLY)
        store_unpin(store, 0, version.tag);
    root_read(thread, &version);
    if (bug != STORE_UNPINNED_EARLY)
        store_unpin(store, 0, version.tag);
}

static void operation(unsigned thread, unsigned number)
{
    switch (role[thread]) {
    case ROLE_COMPACTOR:
        compactor();
        break;
    case ROLE_MOVER:
        mover(number);
        break;
    case ROLE_MERGE:
        merge(number);
        break;
    case ROLE_READER:
        reader(thread);
        break;
    case ROLE_RECLAIMER:
        reclaimer(number);
        break;
    case ROLE_WRITER:
        writer(number);
        break;
    case ROLE_PINNER:
        pinner(thread, number);
        break;
    }
}

static void finished(void)
{
    uint64_t live[SEGMENTS] = {0};
    for (uint32_t id = 1; id < IDS; id++) {
        uint64_t word = store->view.control[id];
        if ((word != 0) != (state.made[id] != 0) && role[0] != ROLE_WRITER) {
            il_fail("object %u is %s", id, word ? "there though it was freed" : "gone");
            return;
        }
        if (!word)
            continue;
        live[segment_of(store, CONTROL_LOCATION(word))] += CONTROL_UNITS(word);
        if (CONTROL_TYPE(word) == OBJECT_LEAF)
            expect((const void *)(base + CONTROL_LOCATION(word) * UNIT_BYTES), id, state.made[id]);
    }
    for (uint32_t n = 0; n < SEGMENTS; n++)
        if (store->segments.table[n].live != live[n])
            il_fail("segment %u: %llu units live, %llu counted", n, (unsigned long long)live[n],
                    (unsigned long long)store->segments.table[n].live);
    for (uint32_t n = 0; n < SEGMENTS; n++) {
        enum segment_state is = store->segments.table[n].state;
        if (live[n] && (is == SEGMENT_EMPTY || is == SEGMENT_FREE))
            il_fail("segment %u is taken for empty, %llu units live in it", n, (unsigned long long)live[n]);
    }
    for (size_t i = 0; i < store->versions.lineages[0].count; i++)
        if (store->versions.lineages[0].versions[store->versions.lineages[0].first + i].pins)
            il_fail("a pin is left");
}

/* ---- a store by hand ---------------------------------------------------------------------------------------------*/

static void make_tables(void)
{
    struct segments *segments = &store->segments;
    segments->units = UNITS;
    segments->shift = (uint32_t)__builtin_ctz(UNITS);
    segments->max = segments->total = SEGMENTS;
    segments->table = array(SEGMENTS, sizeof *segments->table);
    segments->free = array(SEGMENTS, sizeof *segments->free);
    segments->empty = array(SEGMENTS, sizeof *segments->empty);
    segments->heap = array(SEGMENTS, sizeof *segments->heap);
    base = aligned_alloc(4096, SEGMENTS * UNITS * UNIT_BYTES);
    assert(base);
    memset(base, 0, SEGMENTS * UNITS * UNIT_BYTES);
    store->view.base = base;
    store->view.control = array(IDS, 8);
    store->control.dirty = array(1, 1);
    store->control.free_ids = array(IDS, sizeof *store->control.free_ids);
    store->control.limit = IDS;
    store->control.next = 20; /* those below it that are not used here are on no list */
    store->control.live = IDS;
}

static void make_arena(struct arena *arena, bool compacts)
{
    arena_init(arena, store, compacts);
    if (compacts)
        return;
    arena->ids = array(ARENA_LIST + ARENA_IDS, sizeof *arena->ids);
    arena->ids_capacity = ARENA_LIST + ARENA_IDS;
    for (unsigned u = 0; u <= SLOT_UNITS_MAX; u++) {
        arena->slots[u].slots = array(64, sizeof(struct slot));
        arena->slots[u].capacity = 64;
    }
}

static void make_objects(void)
{
    struct segments *segments = &store->segments;
    segments->table[0].state = SEGMENT_OPEN; /* the header's and the versions' own; nobody fills it */
    segments->table[0].fill = 0;
    for (uint32_t id = 1; id <= LIVE; id++)
        put(id, 1, OBJECT_LEAF, 1);
    for (uint32_t id = ROOT_FIRST; id < ROOT_FIRST + 4; id++)
        put(id, 0, OBJECT_LEAF, 1);
    for (uint32_t tag = 2; tag <= 4; tag++) { /* what died when the version was made: the root before it */
        put(15 + tag, 0, OBJECT_LIST, 1);
        struct list_chunk *chunk = (void *)(base + CONTROL_LOCATION(store->view.control[15 + tag]) * UNIT_BYTES);
        uint64_t born = tag - 1;
        uint32_t root = ROOT_FIRST + tag - 2;
        chunk->next = 0;
        chunk->count = 1;
        memcpy(chunk->entries, &root, 4);
        memcpy(chunk->entries + 4, &born, 8);
    }
    segments->table[1].state = SEGMENT_SEALED;
    segments->table[1].fill = 16; /* the rest was freed: a hole */
    struct object *hole = (void *)(base + (UNITS + 2 * LIVE) * UNIT_BYTES);
    *hole = (struct object){.units = 16 - 2 * LIVE, .type = OBJECT_NONE};
    segments->table[1].newest = 1;
    heap_put(segments, 1);
    for (uint32_t n = SEGMENTS; n-- > 2;)
        segments->free[segments->free_count++] = n;
}

static void make_store(bool membarrier)
{
    il_asymmetric = membarrier;
    store = aligned_alloc(64, (sizeof *store + 63) / 64 * 64);
    assert(store);
    memset(store, 0, sizeof *store);
    store->magic = STORE_MAGIC;
    store->dir = strdup("model");
    store->writers = store->arenas_count = store->slot_arenas = 1;
    store->counter = store->closed = store->opened = 4;
    store->checkpoint.durable = 1;
    store->journal_file_bytes = store->control.file_bytes = UINT64_MAX; /* there is room for checkpoints */
    store->checkpoint.entries_room = UINT64_MAX;
    store->arenas = aligned_alloc(64, sizeof *store->arenas);
    assert(store->arenas && store->dir);
    make_tables();
    make_arena(&store->arenas[0], false);
    make_arena(&store->compactor.arena, true);
    make_objects();
    enum eng_status status = versions_init(store);
    assert(status == ENG_OK);
    status = readers_init(store);
    assert(status == ENG_OK);
    struct lineage *line = &store->versions.lineages[0];
    line->versions = array(16, sizeof *line->versions);
    line->capacity = 16;
    for (state.tag = 0; state.tag < 1; state.tag++) {
        struct version version = version_of(state.tag + 1);
        version_append(store, 0, &version);
    }
    state.dropped = 0;
}

static void remember(void)
{
    struct arena *arena = &store->arenas[0];
    il_remember(store, sizeof *store);
    il_remember(arena, sizeof *arena);
    il_remember(store->segments.table, SEGMENTS * sizeof *store->segments.table);
    il_remember(store->segments.free, SEGMENTS * sizeof *store->segments.free);
    il_remember(store->segments.empty, SEGMENTS * sizeof *store->segments.empty);
    il_remember(store->segments.heap, SEGMENTS * sizeof *store->segments.heap);
    il_remember(base, SEGMENTS * UNITS * UNIT_BYTES);
    il_remember((void *)store->view.control, IDS * 8);
    il_remember((void *)store->control.dirty, 1);
    il_remember(arena->ids, (ARENA_LIST + ARENA_IDS) * sizeof *arena->ids);
    il_remember(store->control.free_ids, IDS * sizeof *store->control.free_ids);
    il_remember(store->versions.lineages, sizeof *store->versions.lineages);
    il_remember(store->versions.lineages[0].versions, 16 * sizeof(struct version));
    il_remember(&state, sizeof state);
    il_quiet(&store->readers.slots[2], (READER_WRITER - 2) * sizeof store->readers.slots[0]);
    /* of the head's words the first and the last: the number of schedules doubles with each */
    il_quiet((const void *)&store->versions.lineages[0].head[1], (HEAD_WORDS - 2) * 8);
    il_weak(&store->readers.slots[0], 2 * sizeof store->readers.slots[0]);
    il_spin(&store->versions.lineages[0].sequence);
}

static void free_store(void)
{
    readers_close(store);
    versions_close(store);
    arena_free(&store->arenas[0]);
    free(store->arenas);
    free(store->segments.table);
    free(store->segments.free);
    free(store->segments.empty);
    free(store->segments.heap);
    free(base);
    free((void *)store->view.control);
    free((void *)store->control.dirty);
    free(store->control.free_ids);
    free(store->dir);
    free(store);
}

void store_run(const enum store_role *roles, unsigned threads, unsigned operations, bool membarrier,
               enum store_bug planted, int preemptions, struct il_result *result)
{
    il_forget();
    memset(&state, 0, sizeof state);
    make_store(membarrier);
    remember();
    memcpy(role, roles, threads * sizeof *roles);
    bug = planted;
    if (bug == STORE_TORN_MOVE)
        il_bug.torn = &store->view.control[1];
    if (bug == STORE_TORN_LIVE)
        il_bug.torn = &store->segments.table[1].live;
    if (bug == STORE_NO_ODD)
        il_bug.lost = &store->versions.lineages[0].sequence;
    il_bug.no_membarrier = bug == STORE_NO_MEMBARRIER;
    il_bug.no_seq_cst = bug == STORE_NO_SEQ_CST;
    struct il_model model = {.name = "store",
                             .threads = threads,
                             .operations = operations,
                             .operation = operation,
                             .finished = finished,
                             .preemptions = preemptions};
    il_run(&model, result);
    il_restore();
    free_store();
}
