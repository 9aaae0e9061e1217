/*
 * The maintenance thread: makes captured checkpoints durable and compacts.
 *
 * It sleeps until a checkpoint was captured, a segment was sealed, frees made one worth compacting (segment_cooled), or
 * a second has passed. A checkpoint comes first. It then compacts in small batches while compact_due says so, and looks
 * for a checkpoint between two batches: what is broken off for one goes on after it.
 *
 * The maintenance lock is held by the compactor for one batch at a time. A mutex is not fair, so others announce
 * themselves in maintenance_wanted before they wait for it, and the compactor stands back as long as somebody does.
 *
 * Without the thread store_maintain does the same once, in the caller: deterministic, for tests and small stores.
 *
 * Ways to fail: a failed checkpoint is kept for the next call of the owner (checkpoint_failed). A full disk stops
 * compaction until the next look. A segment with a damaged object is left alone; who reads the object is told.
 */
#include <string.h>
#include <time.h>

#include "store_internal.h"

#define COMPACT_BATCH_BYTES (512u << 10)
/* How far it goes once it has begun; and from where on, when no commit has come since the last look: it tidies up. */
#define BUSY_UNTIL_PERCENT 55u
#define IDLE_BELOW_PERCENT 75u
#define IDLE_UNTIL_PERCENT 80u
#define LOOK_EVERY_S 1u

void store_lock_maintenance(struct store *store)
{
    atomic_fetch_add_explicit(&store->maintenance_wanted, 1, memory_order_relaxed);
    pthread_mutex_lock(&store->maintenance);
    atomic_fetch_sub_explicit(&store->maintenance_wanted, 1, memory_order_relaxed);
}

void store_unlock_maintenance(struct store *store)
{
    pthread_mutex_unlock(&store->maintenance);
}

void maintenance_hint(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    if (!checkpoint->has_thread)
        return;
    pthread_mutex_lock(&checkpoint->lock);
    if (!checkpoint->hint) {
        checkpoint->hint = true;
        pthread_cond_broadcast(&checkpoint->changed);
    }
    pthread_mutex_unlock(&checkpoint->lock);
}

void maintenance_cooled(struct store *store)
{
    /* relaxed: set by this thread or the compactor, which looks by itself */
    if (atomic_load_explicit(&store->segments.cooled, memory_order_relaxed)) {
        atomic_store_explicit(&store->segments.cooled, false, memory_order_relaxed);
        maintenance_hint(store);
    }
}

/* Compacts while it is due and nothing more important waits. Needs checkpoint.lock, gives it up meanwhile. */
static void maintenance_compact(struct store *store, bool idle, uint64_t *looked_ms)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    bool more = true;
    uint32_t until = idle ? IDLE_UNTIL_PERCENT : BUSY_UNTIL_PERCENT;
    pthread_mutex_unlock(&checkpoint->lock);
    uint64_t now = clock_ms();
    if (now - *looked_ms >= LOOK_EVERY_S * 1000) { /* so that a reader that is stuck is known when somebody asks */
        pthread_mutex_lock(&store->segments.lock);
        (void)readers_look(store);
        pthread_mutex_unlock(&store->segments.lock);
        *looked_ms = now;
    }
    bool due = compact_due(store, idle ? IDLE_BELOW_PERCENT : COMPACT_BELOW_PERCENT);
    if (idle && !due)
        store_compact_parents(store, &checkpoint->running);
    pthread_mutex_lock(&checkpoint->lock);
    while (due && more && !checkpoint->stop && !atomic_load_explicit(&checkpoint->running, memory_order_relaxed)) {
        uint64_t moved;
        pthread_mutex_unlock(&checkpoint->lock);
        enum eng_status status = compact_batch(store, until, COMPACT_BATCH_BYTES, &moved, &more);
        if (status && status != ENG_DAMAGED && status != ENG_BUSY)
            more = false;
        if (status == ENG_BUSY)
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        while (atomic_load_explicit(&store->maintenance_wanted, memory_order_relaxed))
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        pthread_mutex_lock(&checkpoint->lock);
    }
    checkpoint->hint |= due && more; /* broken off for a checkpoint: goes on after it */
}

static void *maintenance_run(void *context)
{
    struct store *store = context;
    struct checkpoint *checkpoint = &store->checkpoint;
    uint64_t seen = 0, looked_ms = 0; /* generation at the last look; when the readers were looked at */
    bool idle = false;
    pthread_mutex_lock(&checkpoint->lock);
    while (!checkpoint->stop || atomic_load_explicit(&checkpoint->running, memory_order_relaxed)) {
        if (atomic_load_explicit(&checkpoint->running, memory_order_relaxed)) {
            pthread_mutex_unlock(&checkpoint->lock);
            enum eng_status status = checkpoint_make(store);
            (void)status; /* kept in checkpoint.failed */
            pthread_mutex_lock(&checkpoint->lock);
        } else if (checkpoint->hint) {
            checkpoint->hint = false;
            maintenance_compact(store, idle, &looked_ms);
            idle = false;
        } else {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += LOOK_EVERY_S;
            if (pthread_cond_timedwait(&checkpoint->changed, &checkpoint->lock, &until) != 0) {
                /* acquire: partner of the release in generation_close */
                uint64_t closed = atomic_load_explicit(&store->closed, memory_order_acquire);
                idle = closed == seen;
                seen = closed;
                checkpoint->hint = true;
            }
        }
    }
    pthread_mutex_unlock(&checkpoint->lock);
    return NULL;
}

enum eng_status maintenance_start(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    if (!store->background)
        return ENG_OK;
    checkpoint->has_thread = true; /* before the thread: nobody writes it while it runs */
    int failed = pthread_create(&checkpoint->thread, NULL, maintenance_run, store);
    if (failed) {
        checkpoint->has_thread = false;
        return eng_fail(ENG_NO_MEMORY, "%s: maintenance thread: %s", store->dir, strerror(failed));
    }
    return ENG_OK;
}

void maintenance_stop(struct store *store)
{
    struct checkpoint *checkpoint = &store->checkpoint;
    if (!checkpoint->has_thread)
        return;
    pthread_mutex_lock(&checkpoint->lock);
    checkpoint->stop = true;
    pthread_cond_broadcast(&checkpoint->changed);
    pthread_mutex_unlock(&checkpoint->lock);
    pthread_join(checkpoint->thread, NULL);
    checkpoint->has_thread = false;
}

enum eng_status store_maintain(struct store *store)
{
    assert(store->magic == STORE_MAGIC);
    if (store->checkpoint.has_thread)
        return ENG_OK;
    hot_round(store);
    if (!compact_due(store, IDLE_BELOW_PERCENT))
        return ENG_OK;
    return store_compact(store, IDLE_UNTIL_PERCENT, UINT64_MAX);
}
