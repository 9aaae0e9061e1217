/*
 * One merge over several cores.
 *
 * The groups of the topmost node with more than one are dealt out as contiguous runs of about equally many operations;
 * the caller takes the first. Helpers are threads with a merger of their own (arena, digest queue, scratch, path); they
 * run their digests before they report, so the caller's jobs above find them done. A helper that fails keeps its
 * status; the caller unwinds with it after all have stopped.
 *
 * Helpers spin for a moment before they sleep, since the next merge is often some microseconds away.
 */
#include "merge.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define HELPER_STACK_BYTES (16u << 20) /* a chain of 1,024 nested keys recurses 1,024 times */
#define HELPER_SPINS 4000

struct helper {
    struct merge_pool *pool;
    struct merger merger;
    struct merge_group *groups;
    size_t count;
    unsigned depth;
    pthread_t thread;
    _Atomic unsigned asked, done; /* sequence numbers; release and acquire pair the work and its results */
    bool begun;
};

struct merge_pool {
    uint32_t helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake, ready;
    _Atomic bool stop;
    struct helper helper[ENG_THREADS_MAX];
};

static inline void pause_cpu(void)
{
#if defined(__SSE2__)
    _mm_pause();
#endif
}

/* Waits until *sequence is not was (wanted false) or is was (wanted true). */
static void wait_sequence(struct merge_pool *pool, pthread_cond_t *condition, _Atomic unsigned *sequence, unsigned was,
                          bool equal)
{
    for (int i = 0; i < HELPER_SPINS; i++) {
        if ((atomic_load_explicit(sequence, memory_order_acquire) == was) == equal || atomic_load(&pool->stop))
            return;
        pause_cpu();
    }
    pthread_mutex_lock(&pool->lock);
    while ((atomic_load_explicit(sequence, memory_order_acquire) == was) != equal && !atomic_load(&pool->stop))
        pthread_cond_wait(condition, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void bump_sequence(struct merge_pool *pool, pthread_cond_t *condition, _Atomic unsigned *sequence)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(sequence, 1, memory_order_release); /* partner: the acquire loads in wait_sequence */
    pthread_cond_broadcast(condition);
    pthread_mutex_unlock(&pool->lock);
}

static void helper_work(struct helper *helper)
{
    struct merger *m = &helper->merger;
    if (setjmp(m->unwind))
        return;
    merge_groups(m, helper->groups, helper->count, helper->depth);
    digest_queue_run(&m->queue);
    if (m->queue.failed)
        merge_fail(m, ENG_NO_MEMORY);
}

static void *helper_main(void *context)
{
    struct helper *helper = context;
    struct merge_pool *pool = helper->pool;
    unsigned seen = 0;
    for (;;) {
        wait_sequence(pool, &pool->wake, &helper->asked, seen, false);
        if (atomic_load(&pool->stop))
            return NULL;
        seen++;
        helper_work(helper);
        bump_sequence(pool, &pool->ready, &helper->done);
    }
}

bool merge_pool_open(struct store *store, struct cache_table *caches, uint32_t threads, uint32_t leaf_bytes,
                     uint32_t inline_bytes, struct merge_pool **out)
{
    assert(threads >= 1 && threads <= ENG_THREADS_MAX);
    struct merge_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return false;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->ready, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, HELPER_STACK_BYTES);
    bool good = true;
    for (uint32_t i = 0; good && i + 1 < threads; i++) {
        struct helper *helper = &pool->helper[i];
        helper->pool = pool;
        good = merger_init(&helper->merger, store, caches, leaf_bytes, inline_bytes);
        if (good && pthread_create(&helper->thread, &attributes, helper_main, helper) != 0) {
            merger_free(&helper->merger);
            good = false;
        }
        pool->helpers += good;
    }
    pthread_attr_destroy(&attributes);
    if (!good)
        merge_pool_close(&pool);
    *out = pool;
    return good;
}

void merge_pool_close(struct merge_pool **poolp)
{
    struct merge_pool *pool = *poolp;
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->helpers; i++) {
        pthread_join(pool->helper[i].thread, NULL);
        merger_free(&pool->helper[i].merger);
    }
    pthread_cond_destroy(&pool->ready);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
    *poolp = NULL;
}

void merge_pool_begin(struct merge_pool *pool, struct merger *m)
{
    for (uint32_t i = 0; i < pool->helpers; i++) {
        merger_begin(&pool->helper[i].merger, store_arena(m->store, i + 1));
        pool->helper[i].begun = true;
    }
}

void merge_pool_end(struct merge_pool *pool, bool undone)
{
    for (uint32_t i = 0; i < pool->helpers; i++)
        merger_end(&pool->helper[i].merger, undone);
}

void merge_pool_each(struct merge_pool *pool, void (*each)(void *context, struct merger *m), void *context)
{
    for (uint32_t i = 0; pool && i < pool->helpers; i++)
        each(context, &pool->helper[i].merger);
}

uint64_t merge_pool_digests(const struct merge_pool *pool)
{
    uint64_t digests = 0;
    for (uint32_t i = 0; i < pool->helpers; i++)
        digests += pool->helper[i].merger.queue.digests;
    return digests;
}

/* Does the caller's part; its failure must wait for the helpers, so it is caught here. */
static enum eng_status own_part(struct merger *m, struct merge_group *groups, size_t count, unsigned depth)
{
    jmp_buf outer;
    memcpy(&outer, &m->unwind, sizeof outer);
    if (setjmp(m->unwind) == 0)
        merge_groups(m, groups, count, depth);
    memcpy(&m->unwind, &outer, sizeof outer);
    return m->status;
}

bool merge_split(struct merger *m, struct merge_group *groups, size_t count, unsigned depth)
{
    struct merge_pool *pool = m->pool;
    if (!pool || !pool->helpers || count < 2 || groups[count - 1].hi - groups[0].lo < MERGE_SPLIT_OPERATIONS)
        return false;
    size_t first = groups[0].lo, total = groups[count - 1].hi - first, from[ENG_THREADS_MAX + 1] = {0};
    uint32_t parts = 1, threads = pool->helpers + 1;
    for (size_t g = 1; g < count && parts < threads; g++)
        if ((groups[g].lo - first) * threads >= total * parts)
            from[parts++] = g;
    if (parts == 1)
        return false;
    if ((groups[from[1]].lo - first) * 8 > total * 7)
        return false; /* almost all lie in the first group: let its own node split them */
    from[parts] = count;
    m->pool = NULL; /* one split a merge */
    for (uint32_t p = 1; p < parts; p++) {
        struct helper *helper = &pool->helper[p - 1];
        helper->groups = groups + from[p];
        helper->count = from[p + 1] - from[p];
        helper->depth = depth;
        helper->merger.ops = m->ops;
        helper->merger.floor = m->floor;
        helper->merger.made = m->made;
        merge_ahead_begin(&helper->merger, m->root, groups[from[p]].lo, groups[from[p + 1] - 1].hi);
        memcpy(helper->merger.path, m->path, depth);
        bump_sequence(pool, &pool->wake, &helper->asked);
    }
    m->ahead_end = groups[from[1] - 1].hi;
    enum eng_status status = own_part(m, groups, from[1], depth);
    for (uint32_t p = 1; p < parts; p++) {
        struct helper *helper = &pool->helper[p - 1];
        wait_sequence(pool, &pool->ready, &helper->done, atomic_load(&helper->asked), true);
        if (status == ENG_OK && helper->merger.status != ENG_OK) {
            status = m->status = helper->merger.status;
            memcpy(m->error, helper->merger.error, sizeof m->error);
        }
    }
    m->pool = pool;
    if (status != ENG_OK)
        longjmp(m->unwind, 1);
    return true;
}
