/*
 * The hot tier: what is read again and again lies together, in segments that are locked in memory.
 *
 * A point read, one of 64 or so in each thread, sets ACTIVE in the control words of the nodes on its way (read.c). The
 * decay is a clock with a hand over the ids: a round looks at each word once and takes ACTIVE away.
 *
 *   found ACTIVE    WARM is set. If it was set before (active twice) the object is promoted: moved into a hot segment.
 *   found idle      of a hot object first WARM goes, then COLD is set: it leaves when its segment is compacted.
 *
 * Promotion is the compactor's move (compact_move): a copy and one compare-and-swap. It holds control.lock for one
 * object: nobody frees meanwhile, so neither the id nor the place can be given to another object, and no object of an
 * open generation is touched (its generation is above closed). Flags are changed by compare-and-swap only: a word that
 * was moved, freed or reused meanwhile is left alone.
 *
 * A hot segment is filled by an arena of its own and locked piece by piece as it fills. It is marked hot, and retiring
 * from the start: no slot of it is taken, so a merge puts nothing into it. The compactor takes hot segments like
 * others: the victim is unlocked first, what is not COLD goes to the hot arena (hot_arena_of), the rest where all goes.
 * When a promotion finds no room, the hot segment with the most waste (dead or COLD) is made the compactor's victim; if
 * that is too little, all that is there is hot, and promotions wait for the next round.
 *
 * Nothing of this is on disk: flags are masked out of the control pages, and after a start nothing is hot.
 *
 * Ways to fail: none that anybody must handle. If the system refuses a lock (RLIMIT_MEMLOCK), one line is reported, and
 * the limit becomes what is locked by then: 0 if it was the first. No space for a segment: no promotion in this round.
 * Invariants, under the maintenance lock: the sum of segment.locked is locked, and at most the limit that was set; only
 * segments marked hot have locked bytes; kept is what the last round found worth keeping.
 */
#include "hot.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "store_internal.h"

#define LOCK_STEP_BYTES (256u << 10) /* locked at once */
#define PAGE_BYTES 4096u
#define TURN_IDS 65536u         /* looked at before others may have the maintenance lock */
#define TURN_BYTES (512u << 10) /* promoted before that */
#define TICKS 16u               /* in which the thread makes a round */
#define WASTE_SHARE 8u          /* a segment with less than this part wasted is not evicted */
#define EVICTIONS_MAX 4u        /* for one object: what is wasted may be ends that nothing fits into */
#define PATIENCE 1000u          /* turns of 1 ms in which a round waits for others */

enum turn { TURN_DONE, TURN_ROUND_OVER, TURN_EVICT, TURN_BUSY };

void hot_init(struct store *store, const struct store_options *options)
{
    struct hot *hot = &store->hot;
    hot->arena.segment = ARENA_CLOSED;
    atomic_store_explicit(&hot->limit, options->hot_bytes, memory_order_relaxed);
    hot->hand = 1;
    hot->decay_ms = options->hot_decay_ms ? options->hot_decay_ms : HOT_DECAY_MS_DEFAULT;
    store->view.sampled = options->hot_bytes != 0;
    pthread_mutex_init(&hot->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&hot->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void hot_close(struct store *store)
{
    arena_free(&store->hot.arena); /* what is locked goes with the map */
    pthread_cond_destroy(&store->hot.changed);
    pthread_mutex_destroy(&store->hot.lock);
}

static inline bool segment_hot(struct store *store, uint32_t segment)
{
    /* relaxed: written under the maintenance lock, or when nothing lives in the segment */
    return atomic_load_explicit(&store->segments.table[segment].hot, memory_order_relaxed);
}

/* ---- room --------------------------------------------------------------------------------------------------------*/

void hot_unlock(struct store *store, uint32_t segment)
{
    struct segment *held = &store->segments.table[segment];
    uint64_t size = (uint64_t)store->segments.units * UNIT_BYTES;
    if (!held->locked)
        return;
    enum eng_status status = disk_pin(store->segments.file, segment * size, held->locked, false);
    (void)status; /* the range is mapped; where the process has too many maps, it stays locked until the map goes */
    atomic_fetch_sub_explicit(&store->hot.locked, held->locked, memory_order_relaxed);
    held->locked = 0;
}

void hot_forget(struct store *store, uint32_t segment)
{
    hot_unlock(store, segment);
    atomic_store_explicit(&store->segments.table[segment].hot, false, memory_order_relaxed);
}

/* The system does not let us lock more. */
static void hot_refused(struct store *store)
{
    struct hot *hot = &store->hot;
    char line[700];
    /* relaxed, here and below: only who holds the maintenance lock writes limit and refused */
    uint64_t locked = atomic_load_explicit(&hot->locked, memory_order_relaxed);
    snprintf(line, sizeof line, "%s; the hot tier stays at %llu of %llu bytes (RLIMIT_MEMLOCK)", eng_error(),
             (unsigned long long)locked, (unsigned long long)atomic_load_explicit(&hot->limit, memory_order_relaxed));
    atomic_store_explicit(&hot->limit, locked, memory_order_relaxed);
    if (!atomic_exchange_explicit(&hot->refused, true, memory_order_relaxed) && store->report)
        store->report(store->report_context, line);
}

/* Locks more of the open hot segment, until units fit at the arena's position. */
static bool hot_lock(struct store *store, uint32_t units)
{
    struct hot *hot = &store->hot;
    struct segment *open = &store->segments.table[hot->arena.segment];
    uint64_t size = (uint64_t)store->segments.units * UNIT_BYTES, base = hot->arena.segment * size;
    uint64_t end = (hot->arena.position + units) * UNIT_BYTES - base;
    if (end <= open->locked)
        return true;
    uint64_t least = (end + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES - open->locked;
    uint64_t want = least > LOCK_STEP_BYTES ? least : LOCK_STEP_BYTES;
    want = want < size - open->locked ? want : size - open->locked;
    uint64_t locked = atomic_load_explicit(&hot->locked, memory_order_relaxed);
    uint64_t limit = atomic_load_explicit(&hot->limit, memory_order_relaxed);
    if (locked + want > limit)
        want = least;
    if (locked + want > limit)
        return false;
    if (disk_pin(store->segments.file, base + open->locked, want, true) != ENG_OK) {
        hot_refused(store);
        return false;
    }
    open->locked += (uint32_t)want;
    atomic_fetch_add_explicit(&hot->locked, want, memory_order_relaxed);
    return true;
}

/* Is there room for units in the hot arena? Makes it, up to the limit. */
static bool hot_room(struct store *store, uint32_t units)
{
    struct hot *hot = &store->hot;
    struct arena *arena = &hot->arena;
    uint64_t limit = atomic_load_explicit(&hot->limit, memory_order_relaxed);
    if (units * UNIT_BYTES > HOT_OBJECT_BYTES_MAX || units > store->segments.units - SEGMENT_HEADER_BYTES / UNIT_BYTES)
        return false;
    /* acquire: partner of the release in generation_close */
    arena->generation = atomic_load_explicit(&store->closed, memory_order_acquire);
    if (units > arena->end - arena->position) {
        uint64_t bytes = (units * UNIT_BYTES + SEGMENT_HEADER_BYTES + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
        if (atomic_load_explicit(&hot->locked, memory_order_relaxed) + bytes > limit)
            return false;
        if (segments_spare(store) != ENG_OK || arena_open_segment(arena, units) != ENG_OK) {
            hot->full = true;
            return false;
        }
        struct segment *open = &store->segments.table[arena->segment];
        atomic_store_explicit(&open->hot, true, memory_order_relaxed);
        atomic_store(&open->retiring, true); /* nothing ever was in it: no slot of it exists, and none is offered */
        assert(open->locked == 0);
        open->kept = open->counted = 0;
    }
    return hot_lock(store, units);
}

struct arena *hot_arena_of(struct store *store, uint32_t victim, uint32_t id, uint64_t word)
{
    struct hot *hot = &store->hot;
    if (!segment_hot(store, victim))
        return &store->compactor.arena;
    uint32_t units = CONTROL_UNITS(word);
    /* While the end of the file is emptied no segment is opened for it: it comes back when it is read. */
    bool open =
        !store->compactor.from_end || (hot->arena.segment < victim && units <= hot->arena.end - hot->arena.position);
    if (!(word & CONTROL_COLD) && open && hot_room(store, units)) {
        struct segment *into = &store->segments.table[hot->arena.segment];
        into->kept += units;
        into->counted += id < hot->hand ? units : 0; /* the others are going to be counted there */
        return &hot->arena;
    }
    atomic_fetch_add_explicit(&hot->demoted, 1, memory_order_relaxed);
    return &store->compactor.arena;
}

/* Makes the hot segment with the most waste the compactor's victim; false if none has enough. */
static bool hot_evict(struct store *store)
{
    struct segments *segments = &store->segments;
    uint32_t worst = UINT32_MAX;
    uint64_t most = 0;
    if (store->compactor.active)
        return true; /* first that one */
    pthread_mutex_lock(&segments->lock);
    for (uint32_t n = 0; n < segments->total; n++) {
        const struct segment *segment = &segments->table[n];
        uint64_t kept = segment->kept * (uint64_t)UNIT_BYTES;
        if (!segment->locked || segment->damaged || segment->locked < kept + segment->locked / WASTE_SHARE)
            continue;
        if (segment->locked - kept > most) {
            most = segment->locked - kept;
            worst = n;
        }
    }
    pthread_mutex_unlock(&segments->lock);
    if (worst == UINT32_MAX)
        return false;
    if (worst == store->hot.arena.segment)
        arena_close_segment(&store->hot.arena);
    pthread_mutex_lock(&segments->lock);
    bool taken = segments->table[worst].state == SEGMENT_SEALED && segments->table[worst].locked;
    if (taken)
        compact_take(store, worst);
    pthread_mutex_unlock(&segments->lock);
    return true; /* not taken: it became empty meanwhile, which makes room as well */
}

/* ---- the decay ---------------------------------------------------------------------------------------------------*/

/* Moves an object that was found active twice. True if it was moved. */
static bool hot_promote(struct store *store, uint32_t id, uint32_t units)
{
    struct hot *hot = &store->hot;
    uint64_t moved = 0;
    pthread_mutex_lock(&store->control.lock); /* nobody frees an object, see the top */
    /* acquire, both: partners are generation_close, and the release in store_alloc */
    uint64_t closed = atomic_load_explicit(&store->closed, memory_order_acquire);
    uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_acquire);
    if (word & CONTROL_VERIFIED && CONTROL_UNITS(word) == units) { /* there is room for it */
        uint64_t from = CONTROL_LOCATION(word);
        const struct object *object = (const void *)(store->view.base + from * UNIT_BYTES);
        /* a damaged one stays where it is: who reads it is told */
        if (object->generation <= closed && compact_move(store, &hot->arena, id, from, &moved) != ENG_OK)
            moved = 0;
    }
    pthread_mutex_unlock(&store->control.lock);
    if (!moved)
        return false;
    struct segment *into = &store->segments.table[hot->arena.segment];
    into->kept += units;
    into->counted += units;
    hot->counted++;
    atomic_fetch_add_explicit(&hot->objects, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&hot->promoted, 1, memory_order_relaxed);
    return true;
}

/* The hand is on an id. False: room for it must be made first. */
static bool hot_visit(struct store *store, uint32_t id, uint64_t *moved)
{
    struct hot *hot = &store->hot;
    /* relaxed: flags say nothing about the bytes */
    uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_relaxed);
    if (word == 0)
        return true;
    uint32_t segment = segment_of(store, CONTROL_LOCATION(word)), units = CONTROL_UNITS(word);
    bool is_hot = segment_hot(store, segment);
    if (!is_hot && !(word & (CONTROL_ACTIVE | CONTROL_WARM | CONTROL_COLD)))
        return true;
    uint64_t next = word & ~(CONTROL_ACTIVE | CONTROL_WARM | CONTROL_COLD);
    if (word & CONTROL_ACTIVE)
        next |= CONTROL_WARM;
    else if (is_hot && !(word & CONTROL_WARM))
        next |= CONTROL_COLD;
    bool promote = !is_hot && word & CONTROL_ACTIVE && word & CONTROL_WARM && !hot->full &&
                   units * UNIT_BYTES <= HOT_OBJECT_BYTES_MAX;
    if (promote && !hot_room(store, units)) {
        if (!hot->full)
            return false;
        promote = false;
    }
    if (next != word) /* fails if it was moved, freed or read meanwhile: then it is as it is */
        atomic_compare_exchange_strong_explicit(&store->view.control[id], &word, next, memory_order_relaxed,
                                                memory_order_relaxed);
    if (is_hot) {
        hot->counted++;
        store->segments.table[segment].counted += next & CONTROL_COLD ? 0 : units;
    }
    if (promote && hot_promote(store, id, units))
        *moved += units * (uint64_t)UNIT_BYTES;
    return true;
}

static void hot_round_over(struct store *store)
{
    struct hot *hot = &store->hot;
    pthread_mutex_lock(&store->segments.lock);
    for (uint32_t n = 0; n < store->segments.total; n++) {
        struct segment *segment = &store->segments.table[n];
        segment->kept = segment->counted;
        segment->counted = 0;
    }
    pthread_mutex_unlock(&store->segments.lock);
    atomic_store_explicit(&hot->objects, hot->counted, memory_order_relaxed);
    hot->counted = 0;
    hot->hand = 1;
    hot->full = false;
    hot->wanting = 0;
    atomic_fetch_add_explicit(&hot->rounds, 1, memory_order_relaxed);
}

/* Moves the hand over at most *ids ids, which it takes off. */
static enum turn hot_turn(struct store *store, uint64_t *ids)
{
    struct hot *hot = &store->hot;
    enum turn turn = TURN_DONE;
    uint64_t moved = 0;
    store_lock_maintenance(store);
    /* acquire: partner of the release in checkpoint_make; nothing is moved while checksums are computed */
    if (atomic_load_explicit(&store->checkpoint.checksumming, memory_order_acquire)) {
        store_unlock_maintenance(store);
        return TURN_BUSY;
    }
    pthread_mutex_lock(&store->control.lock);
    uint64_t next = store->control.next;
    pthread_mutex_unlock(&store->control.lock);
    for (uint64_t seen = 0; hot->hand < next && *ids && seen < TURN_IDS && moved < TURN_BYTES; seen++, --*ids) {
        if (!hot_visit(store, (uint32_t)hot->hand, &moved)) {
            hot->evictions = hot->wanting == hot->hand ? hot->evictions + 1 : 1;
            hot->wanting = hot->hand;
            hot->full = hot->evictions > EVICTIONS_MAX || !hot_evict(store);
            turn = TURN_EVICT;
            break;
        }
        hot->hand++;
    }
    if (turn == TURN_DONE && hot->hand >= next) {
        hot_round_over(store);
        turn = TURN_ROUND_OVER;
    }
    store_unlock_maintenance(store);
    return turn;
}

/* Lets the compactor finish with its victim. False: others did not let it. */
static bool hot_compact(struct store *store)
{
    uint32_t patience = PATIENCE;
    for (bool more = true; more;) {
        uint64_t moved;
        enum eng_status status = compact_batch(store, 0, TURN_BYTES, &moved, &more);
        if (status && (status != ENG_BUSY || --patience == 0))
            return false;
        if (status == ENG_BUSY)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

/* Moves the hand over ids ids, or to the end of the round. */
static void hot_advance(struct store *store, uint64_t ids)
{
    uint32_t patience = PATIENCE;
    enum turn turn = TURN_DONE;
    /* relaxed: it ends a turn later */
    while (ids && turn != TURN_ROUND_OVER && !atomic_load_explicit(&store->hot.stop, memory_order_relaxed)) {
        turn = hot_turn(store, &ids);
        if (turn == TURN_BUSY) {
            if (--patience == 0)
                return;
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        } else if (turn == TURN_EVICT && !hot_compact(store)) {
            store_lock_maintenance(store);
            store->hot.full = true;
            store_unlock_maintenance(store);
        }
        while (atomic_load_explicit(&store->maintenance_wanted, memory_order_relaxed))
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
}

void hot_round(struct store *store)
{
    if (store->view.sampled)
        hot_advance(store, UINT64_MAX);
}

/* ---- the thread --------------------------------------------------------------------------------------------------*/

static void *hot_run(void *context)
{
    struct store *store = context;
    struct hot *hot = &store->hot;
    uint64_t tick_ns = (hot->decay_ms < TICKS ? 1 : hot->decay_ms / TICKS) * 1000000ull;
    pthread_mutex_lock(&hot->lock);
    while (!atomic_load_explicit(&hot->stop, memory_order_relaxed)) { /* relaxed: written under the lock */
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t ns = (uint64_t)until.tv_nsec + tick_ns;
        until.tv_sec += (time_t)(ns / 1000000000u);
        until.tv_nsec = (long)(ns % 1000000000u);
        if (pthread_cond_timedwait(&hot->changed, &hot->lock, &until) == 0)
            continue;
        pthread_mutex_unlock(&hot->lock);
        pthread_mutex_lock(&store->control.lock);
        uint64_t ids = store->control.next / TICKS + 1;
        pthread_mutex_unlock(&store->control.lock);
        hot_advance(store, ids);
        pthread_mutex_lock(&hot->lock);
    }
    pthread_mutex_unlock(&hot->lock);
    return NULL;
}

enum eng_status hot_start(struct store *store)
{
    struct hot *hot = &store->hot;
    if (!store->background || !store->view.sampled)
        return ENG_OK;
    int failed = pthread_create(&hot->thread, NULL, hot_run, store);
    if (failed)
        return eng_fail(ENG_NO_MEMORY, "%s: decay thread: %s", store->dir, strerror(failed));
    hot->has_thread = true;
    return ENG_OK;
}

void hot_stop(struct store *store)
{
    struct hot *hot = &store->hot;
    if (!hot->has_thread)
        return;
    pthread_mutex_lock(&hot->lock);
    atomic_store_explicit(&hot->stop, true, memory_order_relaxed);
    pthread_cond_broadcast(&hot->changed);
    pthread_mutex_unlock(&hot->lock);
    pthread_join(hot->thread, NULL);
    hot->has_thread = false;
}
