/*
 * Making the file of the segments as short as whole segments allow.
 *
 * Live objects are moved together (store_compact) and from the end of the file to free places below
 * (store_compact_end). But what a durable checkpoint names stays where it is until the next one is durable: the places
 * the objects left can only then be used again, or cut off. So rounds of moving, a checkpoint, and cutting are made
 * until a round neither moves anything nor shortens the file. Usually there are three: the first moves what is live
 * together, behind what could not be used yet; the second moves it to the front; the third finds nothing to do.
 *
 * A crash at any point leaves a checkpoint that finds all it names: an object that was moved is still at its old place
 * as long as the durable checkpoint says so, and only segments that nothing durable or being made durable needs are cut
 * off. Each checkpoint has the contents and the app_state of the newest one, so that it makes no difference which of
 * them a start finds.
 *
 * On a full disk a round may have one free segment to move into. What it empties by that can be used when the
 * checkpoint is made, so the next round has more.
 *
 * Ways to fail: those of a checkpoint, final for the store as any failed checkpoint is; ENG_FULL: a round could move
 * nothing, or there were too many; what was moved stays moved; ENG_DAMAGED: a damaged object was met and stays where it
 * is, the rest is done. Invariant: nothing was committed or dropped since the newest checkpoint was captured.
 */
#include <string.h>

#include "store_internal.h"

#define ROUNDS_MAX 12 /* each moves all it can; more than four are needed on a full disk, or if others move too */

bool store_unchanged(const struct store *store)
{
    return !store->versions.changed;
}

static enum eng_status round_move(struct store *store, uint32_t live_percent)
{
    enum eng_status status = store_shrink(store); /* seals what is being filled */
    enum eng_status moved = ENG_OK;
    if (status == ENG_OK)
        moved = store_compact(store, live_percent, UINT64_MAX);
    if (status == ENG_OK && (moved == ENG_OK || moved == ENG_DAMAGED))
        status = store_compact_end(store);
    if (status == ENG_OK)
        store_compact_parents(store, NULL);
    return status == ENG_OK ? moved : status;
}

static uint32_t total_segments(struct store *store)
{
    pthread_mutex_lock(&store->segments.lock);
    uint32_t total = store->segments.total;
    pthread_mutex_unlock(&store->segments.lock);
    return total;
}

enum eng_status store_truncate(struct store *store, uint32_t live_percent)
{
    assert(store->magic == STORE_MAGIC && store->open == 0 && store_unchanged(store));
    const struct rootslot *newest = &store->checkpoint.slot;
    uint8_t app_state[ENG_APP_STATE_BYTES_MAX];
    uint32_t app_bytes = newest->app_bytes;
    memcpy(app_state, newest->app_state, app_bytes);
    enum eng_status worst = ENG_OK, status = ENG_OK;
    for (int round = 0; round < ROUNDS_MAX; round++) {
        /* relaxed: a counter */
        uint64_t moved = atomic_load_explicit(&store->compactor.moved, memory_order_relaxed);
        uint32_t total = total_segments(store);
        status = round_move(store, live_percent);
        bool some = atomic_load_explicit(&store->compactor.moved, memory_order_relaxed) != moved;
        bool checkpoint = some || round == 0; /* the first also frees what waits for a checkpoint */
        if (status == ENG_DAMAGED)
            worst = status;
        else if (status != ENG_OK && !(status == ENG_FULL && checkpoint))
            return status;
        if (checkpoint) {
            enum eng_status made = store_checkpoint(store, app_state, app_bytes, true);
            if (made == ENG_OK)
                made = store_shrink(store);
            if (made != ENG_OK)
                return made;
        }
        if (!some && total_segments(store) == total && !(round == 0 && status == ENG_FULL))
            break;
    }
    if (status == ENG_FULL)
        return eng_fail(ENG_FULL, "%s: no space to move more into", store->dir);
    return worst == ENG_DAMAGED ? eng_fail(worst, "%s: damaged objects stayed where they are", store->dir) : ENG_OK;
}
