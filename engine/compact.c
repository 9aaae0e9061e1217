/*
 * The compactor: gets space back from segments in which little is live.
 *
 * It picks the sealed segment with the least live part from an indexed heap (segment_heap.c), the older one among
 * equals: when too little of all sealed segments is live, or when that one is all but empty, so that a moved byte gives
 * four or more back. To shorten the file it takes the last segment instead, as long as there is room before it. It
 * walks its objects from the front (a header tells the size, so the next one follows), and moves those that are still
 * live: copy to its own open segment, then one compare-and-swap of the control word. Nobody waits: a reader that loaded
 * the old word goes on reading the old bytes, which its epoch protects; a free that came first makes the
 * compare-and-swap fail, and the copy is forgotten.
 *
 * An object is live here if its control word points here; that is all the compactor needs to know. It leaves alone
 * segments that hold objects of an open generation (newest > closed), because the merge modifies those in place.
 * Before a copy the checksum is compared, if the object has one, so that damage is never copied into a new place. The
 * checksum stays valid: nothing in an object says where it is.
 *
 * The walk may lead astray in a segment that was filled before a crash, where dead objects were not all written: then
 * the remaining live objects are found by looking through the control table.
 *
 * An inner node says where its children lay when it was written (node.h): a guess that lets a read ask for a child
 * before it has the control word. When children are moved the guess is wrong. It is put right when the parent itself is
 * moved, and for that store_compact_parents moves the parents whose guesses are wrong: within eng_compact, and by the
 * maintenance thread when no commit comes.
 *
 * Work is done in batches under the maintenance lock, so that a capture never waits long. Nothing is moved while a
 * checkpoint computes checksums.
 *
 * Ways to fail: no segment to move to (ENG_FULL, ENG_IO); a damaged object (ENG_DAMAGED, once a segment: the segment is
 * then left alone).
 * Invariant: at most one victim, marked compacting, which therefore cannot be recycled.
 */
#include <string.h>
#include <time.h>

#include "store_internal.h"

#define WORTH_MOVING_STEPS 15u     /* sixteenths: fuller segments are left alone */
#define PARENTS_IDS 65536u         /* looked at before others may have the maintenance lock */
#define PARENTS_BYTES (512u << 10) /* moved before that */
#define PARENTS_LEVELS 4           /* rounds in which parents are put right */
#define PATIENCE_MS 30000          /* of store_compact, with an open generation or a checkpoint computing checksums */

/* The segment to compact next; UINT32_MAX: none, or its newest objects are of a generation that is open. Needs
 * segments.lock. */
static uint32_t candidate(struct store *store, uint32_t *step)
{
    uint32_t n = heap_first(&store->segments, step);
    if (n == UINT32_MAX)
        return n;
    /* acquire: partner of the release in generation_close */
    uint64_t closed = atomic_load_explicit(&store->closed, memory_order_acquire);
    return atomic_load_explicit(&store->segments.table[n].newest, memory_order_relaxed) <= closed ? n : UINT32_MAX;
}

/* Needs segments.lock. */
static bool worth_it(struct segments *segments, uint32_t step, uint32_t live_percent)
{
    if (step >= WORTH_MOVING_STEPS)
        return false;
    if (step <= COMPACT_ALWAYS_STEPS)
        return true;
    if (segments->heap_live * 100 >= segments->heap_fill * live_percent)
        return false;
    heap_refresh(segments); /* it looks like it: exactly, then */
    return segments->heap_live * 100 < segments->heap_fill * live_percent;
}

bool compact_due(struct store *store, uint32_t live_percent)
{
    uint32_t step;
    pthread_mutex_lock(&store->maintenance);
    bool due = store->compactor.active; /* a victim cannot be recycled before it is done with, empty or not */
    if (!due) {
        pthread_mutex_lock(&store->segments.lock);
        due = candidate(store, &step) != UINT32_MAX && worth_it(&store->segments, step, live_percent);
        pthread_mutex_unlock(&store->segments.lock);
    }
    pthread_mutex_unlock(&store->maintenance);
    return due;
}

/* The last sealed segment of the file, if there is room for what lives in it before it. Needs segments.lock. */
static uint32_t last_segment(struct store *store)
{
    struct segments *segments = &store->segments;
    const struct arena *arena = &store->compactor.arena;
    segments_reclaim(store);
    uint64_t closed = atomic_load_explicit(&store->closed, memory_order_acquire);
    uint32_t n = segments->total, lowest = UINT32_MAX;
    while (n-- > 0) {
        const struct segment *segment = &segments->table[n];
        if (segment->state == SEGMENT_SEALED && !segment->damaged && !segment->compacting &&
            atomic_load_explicit(&segment->newest, memory_order_relaxed) <= closed)
            break;
    }
    for (uint32_t i = 0; i < segments->free_count; i++)
        lowest = segments->free[i] < lowest ? segments->free[i] : lowest;
    if (n == UINT32_MAX)
        return n;
    bool room = arena->segment < n &&
                atomic_load_explicit(&segments->table[n].live, memory_order_relaxed) <= arena->end - arena->position;
    return room || lowest < n ? n : UINT32_MAX;
}

void compact_take(struct store *store, uint32_t segment)
{
    struct compactor *compactor = &store->compactor;
    struct segment *victim = &store->segments.table[segment];
    assert(!compactor->active && victim->state == SEGMENT_SEALED && !victim->compacting);
    heap_take(&store->segments, segment);
    victim->compacting = true;
    atomic_store(&victim->retiring, true);         /* seq_cst, in this order: partners are generation_open, which */
    victim->retired = atomic_load(&store->opened); /* stores opened, and slot_take, which loads retiring after it */
    hot_unlock(store, segment);                    /* room for what stays hot */
    compactor->active = true;
    compactor->victim = segment;
    compactor->position = segment_start(segment);
}

/* Retires the next victim: no arena takes slots from it in a generation opened from here on. False if none is worth it.
 */
static bool compact_choose(struct store *store, uint32_t live_percent)
{
    struct compactor *compactor = &store->compactor;
    uint32_t step;
    pthread_mutex_lock(&store->segments.lock);
    uint32_t n = compactor->from_end ? last_segment(store) : candidate(store, &step);
    bool chosen = n != UINT32_MAX && (compactor->from_end || worth_it(&store->segments, step, live_percent));
    if (chosen)
        compact_take(store, n);
    pthread_mutex_unlock(&store->segments.lock);
    return chosen;
}

/* The object whose control word is word lies at location: is it whole? */
static bool object_whole(const struct store *store, const struct object *object, uint32_t id, uint64_t word)
{
    if (object->id != id || object->units != CONTROL_UNITS(word) || object->type != (uint32_t)CONTROL_TYPE(word))
        return false;
    if (object->checksum == 0)
        return (word & CONTROL_VERIFIED) != 0;
    return object->checksum == object_checksum(store->root.secret, object);
}

enum eng_status compact_move(struct store *store, struct arena *arena, uint32_t id, uint64_t from, uint64_t *moved)
{
    /* acquire: partner of the release in store_alloc */
    uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_acquire);
    if (word == 0 || CONTROL_LOCATION(word) != from)
        return ENG_OK;
    const struct object *object = (const void *)(store->view.base + from * UNIT_BYTES);
    uint32_t units = CONTROL_UNITS(word);
    if (!object_whole(store, object, id, word))
        return eng_fail(ENG_DAMAGED, "%s: object %u at offset %llu: damaged", disk_file_path(store->segments.file), id,
                        (unsigned long long)(from * UNIT_BYTES));
    if (units > arena->end - arena->position) {
        enum eng_status status = arena_open_segment(arena, units);
        if (status)
            return status;
    }
    struct object *copy = (void *)(store->view.base + arena->position * UNIT_BYTES);
    memcpy(copy, object, units * (size_t)UNIT_BYTES);
    uint32_t said;
    if (store->shape.misplaced && store->shape.misplaced(store, object, copy, &said))
        copy->checksum = 0; /* the next checkpoint computes it */
    _Atomic uint64_t *live = &store->segments.table[arena->segment].live;
    atomic_fetch_add_explicit(live, units,
                              memory_order_relaxed); /* before the word names it: it may be freed at once */
    /* relaxed: made known by the subtraction in segment_release */
    atomic_store_explicit(&store->segments.table[segment_of(store, from)].moved_out, true, memory_order_relaxed);
    /* release: partner of the acquire in store_object, the copy is whole; a reader may set flags meanwhile */
    while (!atomic_compare_exchange_strong_explicit(&store->view.control[id], &word,
                                                    (word & ~((1ull << CONTROL_LOCATION_BITS) - 1)) | arena->position |
                                                        CONTROL_VERIFIED,
                                                    memory_order_acq_rel, memory_order_acquire))
        if (word == 0 || CONTROL_LOCATION(word) != from) {
            atomic_fetch_sub_explicit(live, units, memory_order_relaxed); /* freed: the copy is not there */
            return ENG_OK;
        }
    control_mark(store->control.dirty, id);
    if (CONTROL_TYPE(word) == OBJECT_INNER || CONTROL_TYPE(word) == OBJECT_LEAF) /* relaxed: a counter */
        atomic_fetch_add_explicit(&store->compactor.orphaned, 1, memory_order_relaxed);
    arena->position += units;
    segment_release(store, segment_of(store, from), units);
    *moved += units * (uint64_t)UNIT_BYTES;
    return ENG_OK;
}

static enum eng_status compact_object(struct store *store, uint32_t id, uint64_t from, uint64_t *moved)
{
    /* acquire: partner of the release in store_alloc */
    uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_acquire);
    if (word == 0 || CONTROL_LOCATION(word) != from)
        return ENG_OK;
    return compact_move(store, hot_arena_of(store, store->compactor.victim, id, word), id, from, moved);
}

/* Finds what is left of the victim in the control table. */
static enum eng_status compact_by_table(struct store *store, uint64_t *moved)
{
    pthread_mutex_lock(&store->control.lock);
    uint64_t next = store->control.next;
    pthread_mutex_unlock(&store->control.lock);
    for (uint64_t id = 1; id < next; id++) {
        /* relaxed: compact_object loads it again */
        uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_relaxed);
        if (word == 0 || segment_of(store, CONTROL_LOCATION(word)) != store->compactor.victim)
            continue;
        enum eng_status status = compact_object(store, (uint32_t)id, CONTROL_LOCATION(word), moved);
        if (status)
            return status;
    }
    return ENG_OK;
}

/* Moves up to batch bytes out of the victim; *done: nothing live is left in it. */
static enum eng_status compact_walk(struct store *store, uint64_t batch, uint64_t *moved, bool *done)
{
    struct compactor *compactor = &store->compactor;
    struct segment *segment = &store->segments.table[compactor->victim];
    uint64_t base = (uint64_t)compactor->victim << store->segments.shift;
    enum eng_status status = ENG_OK;
    *done = false;
    while (compactor->position < segment->fill && *moved < batch && status == ENG_OK) {
        /* acquire: partner of the subtraction in segment_release */
        if (atomic_load_explicit(&segment->live, memory_order_acquire) == 0)
            break;
        uint64_t location = base + compactor->position;
        const struct object *object = (const void *)(store->view.base + location * UNIT_BYTES);
        uint32_t units = object->units;
        if (units == 0 || units > segment->fill - compactor->position || object->id >= store->control.limit) {
            compactor->position = segment->fill; /* astray */
            break;
        }
        if (object->type != OBJECT_NONE)
            status = compact_object(store, object->id, location, moved);
        if (status == ENG_OK)
            compactor->position += units;
    }
    if (status)
        return status;
    bool empty = atomic_load_explicit(&segment->live, memory_order_acquire) == 0;
    if (!empty && compactor->position < segment->fill)
        return ENG_OK;
    if (!empty)
        status = compact_by_table(store, moved);
    *done = status == ENG_OK;
    return status;
}

enum eng_status compact_batch(struct store *store, uint32_t live_percent, uint64_t batch, uint64_t *moved, bool *more)
{
    struct compactor *compactor = &store->compactor;
    enum eng_status status = ENG_OK;
    bool done = false;
    *moved = 0;
    *more = true;
    store_lock_maintenance(store);
    /* acquire: partner of the release in checkpoint_make */
    if (atomic_load_explicit(&store->checkpoint.checksumming, memory_order_acquire)) {
        store_unlock_maintenance(store);
        return ENG_BUSY;
    }
    *more = compactor->active || compact_choose(store, live_percent);
    const struct segment *victim = *more ? &store->segments.table[compactor->victim] : NULL;
    /* A generation that was open at the retirement may still take slots (a captured segment has none).
     * acquire: partner of the release in generation_close */
    if (victim && !victim->captured && atomic_load_explicit(&store->closed, memory_order_acquire) < victim->retired) {
        status = ENG_BUSY;
    } else if (victim) {
        /* acquire: partner of the release in generation_close */
        compactor->arena.generation = atomic_load_explicit(&store->closed, memory_order_acquire);
        status = compact_walk(store, batch, moved, &done);
        atomic_fetch_add_explicit(&compactor->moved, *moved, memory_order_relaxed);
        if (done || status) {
            segment_compacted(store, compactor->victim, status == ENG_DAMAGED);
            compactor->active = false;
        }
    }
    store_unlock_maintenance(store);
    return status;
}

/* Moves an inner node that says wrongly where its children lie. */
static void compact_parent(struct store *store, uint32_t id, uint64_t *moved)
{
    uint32_t said;
    pthread_mutex_lock(&store->control.lock); /* nobody frees an object, so that its place is given to no other */
    /* acquire, both: partners are generation_close, and the release in store_alloc */
    uint64_t closed = atomic_load_explicit(&store->closed, memory_order_acquire);
    uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_acquire);
    const struct object *object = (const void *)(store->view.base + CONTROL_LOCATION(word) * UNIT_BYTES);
    const struct segment *segment = &store->segments.table[segment_of(store, CONTROL_LOCATION(word))];
    /* relaxed: as in hot.c; what is hot stays where it is locked */
    bool hot = atomic_load_explicit(&segment->hot, memory_order_relaxed);
    if (word != 0 && CONTROL_TYPE(word) == OBJECT_INNER && !hot && object->generation <= closed &&
        (word & CONTROL_VERIFIED || object_whole(store, object, id, word)) &&
        store->shape.misplaced(store, object, NULL, &said) * 4 > said) {
        enum eng_status status = compact_move(store, &store->compactor.arena, id, CONTROL_LOCATION(word), moved);
        (void)status; /* see store_compact_parents */
    }
    pthread_mutex_unlock(&store->control.lock);
}

/* Some ids from *hand on, which it moves. */
static void compact_parents_batch(struct store *store, uint64_t *hand, uint64_t next)
{
    uint64_t moved = 0;
    store_lock_maintenance(store);
    /* acquire: partner of the release in checkpoint_make */
    bool may = !atomic_load_explicit(&store->checkpoint.checksumming, memory_order_acquire);
    if (may) {
        /* acquire: partner of the release in generation_close */
        store->compactor.arena.generation = atomic_load_explicit(&store->closed, memory_order_acquire);
        for (uint32_t seen = 0; *hand < next && seen < PARENTS_IDS && moved < PARENTS_BYTES; seen++, ++*hand) {
            /* relaxed: compact_parent loads it again */
            uint64_t word = atomic_load_explicit(&store->view.control[*hand], memory_order_relaxed);
            if (word != 0 && CONTROL_TYPE(word) == OBJECT_INNER)
                compact_parent(store, (uint32_t)*hand, &moved);
        }
    }
    atomic_fetch_add_explicit(&store->compactor.moved, moved, memory_order_relaxed);
    store_unlock_maintenance(store);
    if (!may)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    while (atomic_load_explicit(&store->maintenance_wanted, memory_order_relaxed))
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

void store_compact_parents(struct store *store, const _Atomic bool *stop)
{
    assert(store->magic == STORE_MAGIC);
    /* relaxed, all: counters and a flag */
    if (!store->shape.misplaced || !atomic_load_explicit(&store->compactor.orphaned, memory_order_relaxed))
        return;
    atomic_store_explicit(&store->compactor.orphaned, 0, memory_order_relaxed);
    /* Moving an inner node makes its own parent wrong, which may have been passed: hence rounds, as many as a tree has
     * levels, each with fewer nodes to move. */
    for (int level = 0; level < PARENTS_LEVELS; level++) {
        uint64_t hand = 1, before = atomic_load_explicit(&store->compactor.moved, memory_order_relaxed);
        pthread_mutex_lock(&store->control.lock);
        uint64_t next = store->control.next;
        pthread_mutex_unlock(&store->control.lock);
        while (hand < next) {
            if (stop && atomic_load_explicit(stop, memory_order_relaxed)) {
                atomic_fetch_add_explicit(&store->compactor.orphaned, 1, memory_order_relaxed); /* to be gone on with */
                return;
            }
            compact_parents_batch(store, &hand, next);
        }
        if (atomic_load_explicit(&store->compactor.moved, memory_order_relaxed) == before)
            break;
    }
    atomic_store_explicit(&store->compactor.orphaned, 0, memory_order_relaxed);
}

static enum eng_status compact_until(struct store *store, uint32_t live_percent, uint64_t max_bytes)
{
    enum eng_status worst = ENG_OK;
    uint64_t total = 0;
    int patience = PATIENCE_MS;
    bool more = true;
    while (more && total < max_bytes) {
        uint64_t moved, left = max_bytes - total;
        enum eng_status status =
            compact_batch(store, live_percent, left < 512u << 10 ? left : 512u << 10, &moved, &more);
        total += moved;
        if (status == ENG_DAMAGED)
            worst = status;
        else if (status == ENG_BUSY && --patience == 0)
            return eng_fail(ENG_BUSY, "%s: compaction: a generation stays open", store->dir);
        else if (status == ENG_BUSY)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        else if (status)
            return status;
    }
    return worst;
}

enum eng_status store_compact(struct store *store, uint32_t live_percent, uint64_t max_bytes)
{
    assert(store->magic == STORE_MAGIC && live_percent <= 100);
    return compact_until(store, live_percent, max_bytes);
}

enum eng_status store_compact_end(struct store *store)
{
    struct compactor *compactor = &store->compactor;
    assert(store->magic == STORE_MAGIC);
    store_lock_maintenance(store);
    compactor->from_end = true;
    store_unlock_maintenance(store);
    enum eng_status status = compact_until(store, 0, UINT64_MAX);
    store_lock_maintenance(store);
    compactor->from_end = false;
    store_unlock_maintenance(store);
    return status;
}
