/*
 * One merge over several cores.
 *
 * The groups of the topmost node with more than one are taken in runs, ever shorter ones, by whoever is free: the
 * caller, and helpers, threads with a merger of their own (arena, digest queue, scratch, path). The caller takes them
 * from the first on, helpers from the last back, so that of two threads each finds most of what it needs in its own
 * core's cache, where the merge before left it. Nothing is dealt out in advance, because a core may be busy with
 * something else: while a block is merged the next one is executed. For the same reason a helper that has not begun
 * when all is done is not waited for but sent back to sleep.
 *
 * A helper runs its digests before its part is over, so the caller's jobs above find them done. One that fails keeps
 * its status and leaves no run for anybody; the caller unwinds with it after all have stopped.
 */
#include "merge.h"

#include <stdlib.h>

#define RUN_OPERATIONS_MIN 24u /* a shorter run is not worth looking ahead for */

struct merge_pool {
    struct helpers *helpers;
    uint32_t count; /* of them */
    /* what is being merged */
    struct merge_group *groups;
    unsigned depth;
    uint32_t threads;
    _Atomic uint64_t rest; /* groups that nobody has taken: the first, and above 32 bits the one behind the last */
    struct merger merger[ENG_THREADS_MAX];
};

/* Takes the next run of groups: about half of what is left, shared among all; from the front or from the back. */
static bool take_run(struct merge_pool *pool, bool back, size_t *from, size_t *to)
{
    const struct merge_group *groups = pool->groups;
    uint64_t rest = atomic_load_explicit(&pool->rest, memory_order_relaxed), left;
    do {
        size_t first = (uint32_t)rest, end = rest >> 32;
        if (first >= end)
            return false;
        size_t most = (groups[end - 1].hi - groups[first].lo) / (2 * pool->threads);
        if (most < RUN_OPERATIONS_MIN)
            most = RUN_OPERATIONS_MIN;
        if (back) {
            *to = end;
            for (*from = end - 1; *from > first && groups[end - 1].hi - groups[*from - 1].lo <= most;)
                --*from;
            left = (uint64_t)*from << 32 | first;
        } else {
            *from = first;
            for (*to = first + 1; *to < end && groups[*to].hi - groups[first].lo <= most;)
                ++*to;
            left = (uint64_t)end << 32 | *to;
        }
        /* relaxed: the groups were published with the helpers' states */
    } while (
        !atomic_compare_exchange_weak_explicit(&pool->rest, &rest, left, memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void no_more_runs(struct merge_pool *pool)
{
    atomic_store_explicit(&pool->rest, 0, memory_order_relaxed);
}

static void work_runs(struct merger *m, struct merge_pool *pool, bool back, uint32_t root)
{
    size_t from, to;
    while (take_run(pool, back, &from, &to)) {
        merge_ahead_begin(m, root, pool->groups[from].lo, pool->groups[to - 1].hi);
        merge_groups(m, pool->groups + from, to - from, pool->depth);
    }
}

void merge_help(void *context, uint32_t helper)
{
    struct merge_pool *pool = context;
    struct merger *m = &pool->merger[helper];
    if (setjmp(m->unwind)) {
        no_more_runs(pool);
        return;
    }
    work_runs(m, pool, true, m->root);
    digest_queue_run(&m->queue);
    if (m->queue.failed)
        merge_fail(m, ENG_NO_MEMORY);
}

bool merge_pool_open(struct store *store, struct cache_table *caches, uint32_t helpers, uint32_t leaf_bytes,
                     uint32_t inline_bytes, struct merge_pool **out)
{
    assert(helpers <= ENG_THREADS_MAX);
    struct merge_pool *pool = calloc(1, sizeof *pool);
    *out = pool;
    while (pool && pool->count < helpers) {
        if (!merger_init(&pool->merger[pool->count], store, caches, leaf_bytes, inline_bytes)) {
            merge_pool_close(out);
            return false;
        }
        pool->count++;
    }
    return pool != NULL;
}

void merge_pool_helpers(struct merge_pool *pool, struct helpers *helpers)
{
    assert(helpers_count(helpers) == pool->count);
    pool->helpers = helpers;
}

void merge_pool_close(struct merge_pool **pool)
{
    for (uint32_t i = 0; *pool && i < (*pool)->count; i++)
        merger_free(&(*pool)->merger[i]);
    free(*pool);
    *pool = NULL;
}

void merge_pool_begin(struct merge_pool *pool, struct merger *m)
{
    for (uint32_t i = 0; i < pool->count; i++)
        merger_begin(&pool->merger[i], store_arena(m->store, i + 1));
}

void merge_pool_end(struct merge_pool *pool, bool undone)
{
    for (uint32_t i = 0; i < pool->count; i++)
        merger_end(&pool->merger[i], undone);
}

void merge_pool_each(struct merge_pool *pool, void (*each)(void *context, struct merger *m), void *context)
{
    for (uint32_t i = 0; pool && i < pool->count; i++)
        each(context, &pool->merger[i]);
}

uint64_t merge_pool_digests(const struct merge_pool *pool)
{
    uint64_t digests = 0;
    for (uint32_t i = 0; i < pool->count; i++)
        digests += pool->merger[i].queue.digests;
    return digests;
}

/* Does the caller's part; its failure must wait for the helpers, so it is caught here. */
static enum eng_status own_part(struct merger *m, struct merge_pool *pool)
{
    jmp_buf outer;
    memcpy(&outer, &m->unwind, sizeof outer);
    if (setjmp(m->unwind) == 0) {
        work_runs(m, pool, false, m->root);
        digest_queue_run(&m->queue); /* rather than wait for the others */
    } else {
        no_more_runs(pool);
    }
    memcpy(&m->unwind, &outer, sizeof outer);
    return m->status;
}

/* Is one group almost everything? Then its own node is the one to split. */
static bool lopsided(const struct merge_group *groups, size_t count, size_t total)
{
    for (size_t g = 0; g < count; g++)
        if ((groups[g].hi - groups[g].lo) * 8 > total * 7)
            return true;
    return false;
}

static void ask(struct merge_pool *pool, uint32_t helper, const struct merger *m, unsigned depth)
{
    struct merger *with = &pool->merger[helper]; /* it looks at it only when it is asked for its part of a merge */
    with->ops = m->ops;
    with->floor = m->floor;
    with->made = m->made;
    with->root = m->root;
    memcpy(with->path, m->path, depth);
    helper_ask(pool->helpers, helper, HELP_MERGE);
}

bool merge_split(struct merger *m, struct merge_group *groups, size_t count, unsigned depth)
{
    struct merge_pool *pool = m->pool;
    if (!pool || !pool->count || count < 2)
        return false;
    size_t total = groups[count - 1].hi - groups[0].lo;
    if (total < MERGE_SPLIT_OPERATIONS || lopsided(groups, count, total))
        return false;
    uint32_t asked = pool->count;
    if (asked > total / (MERGE_SPLIT_OPERATIONS / 2) - 1)
        asked = (uint32_t)(total / (MERGE_SPLIT_OPERATIONS / 2) - 1);
    pool->groups = groups;
    pool->depth = depth;
    pool->threads = asked + 1;
    atomic_store_explicit(&pool->rest, (uint64_t)count << 32, memory_order_relaxed);
    m->pool = NULL; /* one split a merge */
    for (uint32_t h = 0; h < asked; h++)
        ask(pool, h, m, depth);
    uint64_t begun = helper_now_ns();
    enum eng_status status = own_part(m, pool);
    uint64_t watch = helper_watch_ns(helper_now_ns() - begun);
    for (uint32_t h = 0; h < asked; h++) {
        helper_end(pool->helpers, h, HELP_MERGE, watch);
        const struct merger *helped = &pool->merger[h];
        if (status == ENG_OK && helped->status != ENG_OK) {
            status = m->status = helped->status;
            memcpy(m->error, helped->error, sizeof m->error);
        }
    }
    m->pool = pool;
    if (status != ENG_OK)
        longjmp(m->unwind, 1);
    return true;
}
