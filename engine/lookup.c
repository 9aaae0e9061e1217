/*
 * Many lookups of one caller, shared with a helper.
 *
 * A batch that reads a thousand keys before it writes them would leave the helper idle meanwhile, which shares the
 * merge that follows. So it takes groups of the keys from the back while the caller takes them from the front, until
 * they meet. What the helper finds are places in the store, safe for as long as the caller's epoch lasts, which goes on
 * until the helper has stopped; only the caller looks at values and calls back.
 *
 * A helper that is asleep is not woken for it, and one that is asked for a merge meanwhile leaves the rest. What it
 * took and could not find out, because a node is damaged, the caller looks up once more, so that the error is its own.
 */
#include "lookup.h"

#define SHARED_MIN 128u /* fewer are done by the caller alone */

void lookup_share_init(struct lookup_share *share)
{
    pthread_mutex_init(&share->lock, NULL);
}

void lookup_share_destroy(struct lookup_share *share)
{
    pthread_mutex_destroy(&share->lock);
}

/* Takes the next group, from the front or from the back; false: there is none. */
static bool take_group(struct lookups *lookups, bool back, size_t *from, size_t *to)
{
    /* relaxed: what there is to do was published by asking; what was done, by ending it */
    uint64_t rest = atomic_load_explicit(&lookups->rest, memory_order_relaxed), left;
    size_t group;
    do {
        uint32_t first = (uint32_t)rest, end = (uint32_t)(rest >> 32);
        if (first >= end)
            return false;
        group = back ? end - 1u : first;
        left = back ? (uint64_t)(end - 1u) << 32 | first : (uint64_t)end << 32 | (first + 1u);
    } while (!atomic_compare_exchange_weak_explicit(&lookups->rest, &rest, left, memory_order_relaxed,
                                                    memory_order_relaxed));
    *from = group * TREE_MANY;
    *to = *from + TREE_MANY < lookups->count ? *from + TREE_MANY : lookups->count;
    return true;
}

static enum eng_status look_up(struct store *store, struct lookups *lookups, size_t from, size_t to)
{
    return tree_get_many(store, lookups->root, to - from, lookups->key + from, lookups->key_bytes + from,
                         lookups->value + from);
}

void lookup_help(void *context, uint32_t helper)
{
    struct lookup_share *share = context;
    struct lookups *lookups = share->now;
    size_t from, to;
    while (!helper_is_urged(share->helpers, helper, HELP_LOOKUP) && take_group(lookups, true, &from, &to)) {
        if (look_up(share->store, lookups, from, to) != ENG_OK)
            return;
        lookups->helped_from = from;
    }
}

/* The caller's part; *upto: the keys before it are done. */
static enum eng_status own_part(struct store *store, struct lookups *lookups, size_t *upto,
                                enum eng_status (*found)(void *context, size_t from, size_t to), void *context)
{
    size_t from, to;
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && take_group(lookups, false, &from, &to)) {
        status = look_up(store, lookups, from, to);
        if (status == ENG_OK)
            status = found(context, from, to);
        *upto = to;
    }
    /* after a failure the helper finds nothing more to take */
    atomic_store_explicit(&lookups->rest, 0, memory_order_relaxed);
    return status;
}

/* What is left between the caller's part and the helper's, and the values of that. */
static enum eng_status helped_part(struct store *store, struct lookups *lookups, size_t upto,
                                   enum eng_status (*found)(void *context, size_t from, size_t to), void *context)
{
    for (size_t i = lookups->helped_from; i < lookups->count; i++)
        __builtin_prefetch(lookups->value[i].stored);
    enum eng_status status = ENG_OK;
    for (size_t from = upto, to; from < lookups->count && status == ENG_OK; from = to) {
        to = from < lookups->helped_from ? lookups->helped_from : lookups->count;
        if (from < lookups->helped_from) {
            to = to - from > TREE_MANY ? from + TREE_MANY : to;
            status = look_up(store, lookups, from, to);
        }
        if (status == ENG_OK)
            status = found(context, from, to);
    }
    return status;
}

enum eng_status lookups_run(struct lookup_share *share, struct lookups *lookups,
                            enum eng_status (*found)(void *context, size_t from, size_t to), void *context)
{
    struct helpers *helpers = share->helpers;
    size_t upto = 0;
    lookups->helped_from = lookups->count;
    uint64_t groups = (lookups->count + TREE_MANY - 1) / TREE_MANY;
    atomic_store_explicit(&lookups->rest, groups << 32, memory_order_relaxed);
    bool shared = lookups->count >= SHARED_MIN && helpers_count(helpers) && helper_is_awake(helpers, 0) &&
                  pthread_mutex_trylock(&share->lock) == 0;
    uint64_t begun = 0;
    if (shared) {
        begun = helper_now_ns();
        share->now = lookups;
        helper_ask(helpers, 0, HELP_LOOKUP);
    }
    enum eng_status status = own_part(share->store, lookups, &upto, found, context);
    if (shared) {
        helper_end(helpers, 0, HELP_LOOKUP, helper_watch_ns(helper_now_ns() - begun));
        pthread_mutex_unlock(&share->lock);
    }
    return status == ENG_OK ? helped_part(share->store, lookups, upto, found, context) : status;
}
