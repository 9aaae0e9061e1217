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
 * A helper's state goes IDLE -> ASKED -> WORKING -> IDLE, or ASKED -> IDLE when the caller takes it back. It runs its
 * digests before it is IDLE again, so the caller's jobs above find them done. One that fails keeps its status and
 * leaves no run for anybody; the caller unwinds with it after all have stopped.
 *
 * Between merges a helper may be sent on an errand, IDLE -> SENT -> WORKING -> IDLE: what a drop leaves to be freed.
 * One that has not begun when a merge comes is given up (SENT -> ASKED); the commit frees that, too.
 *
 * Who waits looks on for as long as its last part of a merge took, at most WATCH_NS_MAX, before it sleeps: a core that
 * sleeps is woken late, and finds its cache cold. A helper does so only if the wait before was no longer than that, so
 * it watches between the batches of one who commits without a pause, and never where blocks come seldom; and it yields
 * its core to whoever has something to do.
 */
#include "merge.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HELPER_STACK_BYTES (16u << 20) /* a chain of 1,024 nested keys recurses 1,024 times */
#define WATCH_NS_MAX 2000000u
#define WATCH_NS_MIN 20000u    /* what it costs to wake a thread, about */
#define WATCH_PAUSES 64        /* between two looks at the clock */
#define RUN_OPERATIONS_MIN 24u /* a shorter run is not worth looking ahead for */

enum helper_state { HELPER_IDLE, HELPER_ASKED, HELPER_SENT, HELPER_WORKING };

struct helper {
    struct merge_pool *pool;
    struct merger merger;
    pthread_t thread;
    _Atomic unsigned state; /* release and acquire pair the work and its results */
    uint64_t worked_ns;     /* its own: what its last part of a merge took */
    bool watches;           /* its own: the last wait was no longer than that */
    _Atomic bool watching;  /* a hint: it looks on now, so to give it something to do costs nothing */
};

struct merge_pool {
    uint32_t helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake, ready;
    _Atomic bool stop;
    void (*errand)(void *context);
    void *errand_context;
    _Atomic uint64_t errands; /* begun */
    /* what is being merged */
    struct merge_group *groups;
    size_t count;
    unsigned depth;
    uint32_t threads;
    _Atomic uint64_t rest; /* groups that nobody has taken: the first, and above 32 bits the one behind the last */
    struct helper helper[ENG_THREADS_MAX];
};

static inline void pause_cpu(void)
{
#if defined(__SSE2__)
    _mm_pause();
#endif
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* How long to look on for what should come soon, after a piece of work that took so long. */
static uint64_t watch_ns(uint64_t worked_ns)
{
    return worked_ns < WATCH_NS_MIN ? WATCH_NS_MIN : worked_ns > WATCH_NS_MAX ? WATCH_NS_MAX : worked_ns;
}

/* Is a helper idle, or not, or the pool to stop? */
static bool arrived(struct merge_pool *pool, struct helper *helper, bool idle)
{
    /* acquire: partner of the release in set_state */
    return (atomic_load_explicit(&helper->state, memory_order_acquire) == HELPER_IDLE) == idle ||
           atomic_load(&pool->stop);
}

/* Waits until it is; looks on for so long before it sleeps. */
static void wait_state(struct merge_pool *pool, pthread_cond_t *condition, struct helper *helper, bool idle,
                       uint64_t watch)
{
    uint64_t until = now_ns() + watch;
    do {
        for (int i = 0; i < WATCH_PAUSES; i++) {
            if (arrived(pool, helper, idle))
                return;
            pause_cpu();
        }
        sched_yield();
    } while (now_ns() < until);
    pthread_mutex_lock(&pool->lock);
    while (!arrived(pool, helper, idle))
        pthread_cond_wait(condition, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

/* From one state to another; false: it is not in that one. */
static bool set_state(struct merge_pool *pool, pthread_cond_t *condition, struct helper *helper, unsigned from,
                      unsigned to)
{
    pthread_mutex_lock(&pool->lock);
    /* acq_rel: partner of the acquire loads in arrived and of the exchange in helper_main */
    bool set =
        atomic_compare_exchange_strong_explicit(&helper->state, &from, to, memory_order_acq_rel, memory_order_relaxed);
    if (set)
        pthread_cond_broadcast(condition);
    pthread_mutex_unlock(&pool->lock);
    return set;
}

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

static void helper_work(struct helper *helper)
{
    struct merger *m = &helper->merger;
    if (setjmp(m->unwind)) {
        no_more_runs(helper->pool);
        return;
    }
    work_runs(m, helper->pool, true, m->root);
    digest_queue_run(&m->queue);
    if (m->queue.failed)
        merge_fail(m, ENG_NO_MEMORY);
}

/* Waits for something to do; false: the pool is closed. */
static bool helper_wait(struct helper *helper, unsigned *what)
{
    struct merge_pool *pool = helper->pool;
    /* relaxed: who believes it and is wrong wakes this thread, that is all */
    atomic_store_explicit(&helper->watching, helper->watches, memory_order_relaxed);
    wait_state(pool, &pool->wake, helper, false, watch_ns(helper->watches ? helper->worked_ns : 0));
    atomic_store_explicit(&helper->watching, false, memory_order_relaxed);
    /* relaxed: the exchange that takes it acquires */
    *what = atomic_load_explicit(&helper->state, memory_order_relaxed);
    return !atomic_load(&pool->stop);
}

static void *helper_main(void *context)
{
    struct helper *helper = context;
    struct merge_pool *pool = helper->pool;
    uint64_t idle = now_ns();
    for (unsigned what; helper_wait(helper, &what);) {
        /* acquire: partner of the release in set_state */
        if (what == HELPER_IDLE || !atomic_compare_exchange_strong_explicit(&helper->state, &what, HELPER_WORKING,
                                                                            memory_order_acquire, memory_order_relaxed))
            continue; /* taken back */
        uint64_t begun = now_ns();
        if (what == HELPER_SENT) {
            atomic_fetch_add_explicit(&pool->errands, 1, memory_order_relaxed);
            pool->errand(pool->errand_context);
        } else {
            helper_work(helper);
            helper->watches = begun - idle <= watch_ns(helper->worked_ns);
            idle = now_ns();
            helper->worked_ns = idle - begun;
        }
        set_state(pool, &pool->ready, helper, HELPER_WORKING, HELPER_IDLE);
    }
    return NULL;
}

bool merge_pool_send(struct merge_pool *pool)
{
    if (!pool || !pool->helpers)
        return false;
    struct helper *helper = &pool->helper[0];
    return atomic_load_explicit(&helper->watching, memory_order_relaxed) &&
           set_state(pool, &pool->wake, helper, HELPER_IDLE, HELPER_SENT);
}

uint64_t merge_pool_errands(const struct merge_pool *pool)
{
    return atomic_load_explicit(&pool->errands, memory_order_relaxed);
}

void merge_pool_settle(struct merge_pool *pool)
{
    if (!pool || !pool->helpers)
        return;
    struct helper *helper = &pool->helper[0];
    set_state(pool, &pool->ready, helper, HELPER_SENT, HELPER_IDLE);
    wait_state(pool, &pool->ready, helper, true, WATCH_NS_MIN);
}

bool merge_pool_open(struct store *store, struct cache_table *caches, uint32_t threads, uint32_t leaf_bytes,
                     uint32_t inline_bytes, void (*errand)(void *context), void *context, struct merge_pool **out)
{
    assert(threads >= 1 && threads <= ENG_THREADS_MAX);
    struct merge_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return false;
    pool->errand = errand;
    pool->errand_context = context;
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

/* False: it is busy. */
static bool ask(struct helper *helper, const struct merger *m, unsigned depth)
{
    struct merger *with = &helper->merger;
    /* acquire: partner of the release in set_state; from here on it looks at its merger only when it is asked */
    unsigned state = atomic_load_explicit(&helper->state, memory_order_acquire);
    if (state == HELPER_WORKING)
        return false;
    with->ops = m->ops;
    with->floor = m->floor;
    with->made = m->made;
    with->root = m->root;
    memcpy(with->path, m->path, depth);
    return set_state(helper->pool, &helper->pool->wake, helper, state, HELPER_ASKED);
}

bool merge_split(struct merger *m, struct merge_group *groups, size_t count, unsigned depth)
{
    struct merge_pool *pool = m->pool;
    if (!pool || !pool->helpers || count < 2)
        return false;
    size_t total = groups[count - 1].hi - groups[0].lo;
    if (total < MERGE_SPLIT_OPERATIONS || lopsided(groups, count, total))
        return false;
    uint32_t asked = pool->helpers;
    if (asked > total / (MERGE_SPLIT_OPERATIONS / 2) - 1)
        asked = (uint32_t)(total / (MERGE_SPLIT_OPERATIONS / 2) - 1);
    pool->groups = groups;
    pool->count = count;
    pool->depth = depth;
    pool->threads = asked + 1;
    atomic_store_explicit(&pool->rest, (uint64_t)count << 32, memory_order_relaxed);
    m->pool = NULL; /* one split a merge */
    bool helps[ENG_THREADS_MAX];
    for (uint32_t h = 0; h < asked; h++)
        helps[h] = ask(&pool->helper[h], m, depth);
    uint64_t begun = now_ns();
    enum eng_status status = own_part(m, pool);
    uint64_t watch = watch_ns(now_ns() - begun);
    for (uint32_t h = 0; h < asked; h++) {
        struct helper *helper = &pool->helper[h];
        unsigned unheard = HELPER_ASKED;
        if (!helps[h])
            continue;
        /* relaxed: it did nothing */
        if (atomic_compare_exchange_strong_explicit(&helper->state, &unheard, HELPER_IDLE, memory_order_relaxed,
                                                    memory_order_relaxed))
            continue;
        wait_state(pool, &pool->ready, helper, true, watch);
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
