/*
 * Threads that help the one that commits.
 *
 * The state of a helper is one word: the kinds of work it is asked for, and the one it does. Asking sets a bit; the
 * helper takes the most urgent one and clears it, marking that it does it; when it is done it clears the mark. So who
 * asked can see whether it has begun, and takes it back if it has not: nobody waits for a helper whose core is busy
 * with something else (one that has begun, and loses its core then, is waited for).
 *
 * Who waits looks on for a while before it sleeps, for a core that sleeps is woken late, and finds its cache cold: as
 * long as the caller's own part took; a helper as long as its last part of a merge took, at most WATCH_NS_MAX, and only
 * if the wait before that was no longer and it has not slept since. So it watches between the batches of one who
 * commits without a pause, and never where blocks come seldom; and it yields its core to whoever has something to do.
 */
#include "helper.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define HELPER_STACK_BYTES (16u << 20) /* a chain of 1,024 nested keys recurses 1,024 times */
#define WATCH_NS_MAX 2000000u
#define WATCH_NS_MIN 20000u /* what it costs to wake a thread, about */
#ifndef WATCH_PAUSES        /* tests that enumerate schedules have fewer */
#define WATCH_PAUSES 64     /* between two looks at the clock */
#endif

#define ASKED_MASK ((1u << HELP_KINDS) - 1u)
#define DOING(what) ((unsigned)(what) << HELP_KINDS)

struct helper {
    struct helpers *all;
    uint32_t index;
    pthread_t thread;
    _Atomic unsigned state; /* release and acquire pair the asking, the work and its results */
    uint64_t merged_ns;     /* its own: what its last part of a merge took */
    bool watches;           /* its own: the wait before that was no longer */
    _Atomic bool watching;  /* a hint: it looks on now */
    pthread_cond_t wake;    /* it is asked */
    pthread_cond_t ready;   /* it has done something */
};

struct helpers {
    uint32_t count;
    struct help_work works[HELP_KINDS];
    pthread_mutex_t lock;
    _Atomic bool stop;
    bool presumed; /* helpers_presume_watching */
    _Atomic uint64_t begun[HELP_KINDS];
    struct helper helper[];
};

static inline void pause_cpu(void)
{
#if defined(__SSE2__)
    _mm_pause();
#endif
}

uint64_t helper_now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t helper_watch_ns(uint64_t worked_ns)
{
    return worked_ns < WATCH_NS_MIN ? WATCH_NS_MIN : worked_ns > WATCH_NS_MAX ? WATCH_NS_MAX : worked_ns;
}

static unsigned kind_of(enum help what)
{
    return (unsigned)__builtin_ctz(what);
}

/* Is any of these bits set, or none, or all to stop? */
static bool arrived(struct helper *helper, unsigned bits, bool set)
{
    /* acquire: partner of the release in change */
    return ((atomic_load_explicit(&helper->state, memory_order_acquire) & bits) != 0) == set ||
           atomic_load(&helper->all->stop);
}

/* Looks on for so long; true: it is so. */
static bool watch_state(struct helper *helper, unsigned bits, bool set, uint64_t watch)
{
    uint64_t until = helper_now_ns() + watch;
    do {
        for (int i = 0; i < WATCH_PAUSES; i++) {
            if (arrived(helper, bits, set))
                return true;
            pause_cpu();
        }
        sched_yield();
    } while (helper_now_ns() < until);
    return false;
}

static void sleep_until(struct helper *helper, pthread_cond_t *condition, unsigned bits, bool set)
{
    struct helpers *all = helper->all;
    pthread_mutex_lock(&all->lock);
    while (!arrived(helper, bits, set))
        pthread_cond_wait(condition, &all->lock);
    pthread_mutex_unlock(&all->lock);
}

static void change(struct helper *helper, pthread_cond_t *condition, unsigned clear, unsigned set)
{
    struct helpers *all = helper->all;
    pthread_mutex_lock(&all->lock);
    unsigned state = atomic_load_explicit(&helper->state, memory_order_relaxed);
    /* acq_rel: partner of the acquire loads in arrived and of the exchange in helper_main */
    while (!atomic_compare_exchange_weak_explicit(&helper->state, &state, (state & ~clear) | set, memory_order_acq_rel,
                                                  memory_order_relaxed))
        ;
    pthread_cond_broadcast(condition);
    pthread_mutex_unlock(&all->lock);
}

static void *helper_main(void *context)
{
    struct helper *helper = context;
    struct helpers *all = helper->all;
    uint64_t merged = helper_now_ns();
    for (;;) {
        /* relaxed: who believes it and is wrong wakes this thread, that is all */
        atomic_store_explicit(&helper->watching, helper->watches, memory_order_relaxed);
        bool asked = watch_state(helper, ASKED_MASK, true, helper_watch_ns(helper->watches ? helper->merged_ns : 0));
        atomic_store_explicit(&helper->watching, false, memory_order_relaxed);
        if (!asked) {
            helper->watches = false;
            sleep_until(helper, &helper->wake, ASKED_MASK, true);
        }
        if (atomic_load(&all->stop))
            return NULL;
        unsigned state = atomic_load_explicit(&helper->state, memory_order_relaxed);
        unsigned what = state & ASKED_MASK & -state;
        /* acquire: partner of the release in change */
        if (!what || !atomic_compare_exchange_strong_explicit(&helper->state, &state, (state & ~what) | DOING(what),
                                                              memory_order_acquire, memory_order_relaxed))
            continue; /* taken back, or asked for more */
        const struct help_work *work = &all->works[kind_of((enum help)what)];
        atomic_fetch_add_explicit(&all->begun[kind_of((enum help)what)], 1, memory_order_relaxed);
        uint64_t begun = helper_now_ns();
        work->work(work->context, helper->index);
        if (what == HELP_MERGE) {
            helper->watches = begun - merged <= helper_watch_ns(helper->merged_ns);
            merged = helper_now_ns();
            helper->merged_ns = merged - begun;
        }
        change(helper, &helper->ready, DOING(what), 0);
    }
}

bool helpers_open(uint32_t count, const struct help_work works[HELP_KINDS], struct helpers **out)
{
    struct helpers *all = calloc(1, sizeof *all + count * sizeof *all->helper);
    *out = all;
    if (!all)
        return false;
    for (unsigned kind = 0; kind < HELP_KINDS; kind++)
        all->works[kind] = works[kind];
    pthread_mutex_init(&all->lock, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, HELPER_STACK_BYTES);
    for (uint32_t i = 0; i < count && all->count == i; i++) {
        struct helper *helper = &all->helper[i];
        helper->all = all;
        helper->index = i;
        pthread_cond_init(&helper->wake, NULL);
        pthread_cond_init(&helper->ready, NULL);
        if (pthread_create(&helper->thread, &attributes, helper_main, helper) == 0) {
            all->count++;
            continue;
        }
        pthread_cond_destroy(&helper->ready);
        pthread_cond_destroy(&helper->wake);
    }
    pthread_attr_destroy(&attributes);
    if (all->count == count)
        return true;
    helpers_close(out);
    return false;
}

void helpers_close(struct helpers **helpers)
{
    struct helpers *all = *helpers;
    if (!all)
        return;
    pthread_mutex_lock(&all->lock);
    atomic_store(&all->stop, true);
    for (uint32_t i = 0; i < all->count; i++)
        pthread_cond_signal(&all->helper[i].wake);
    pthread_mutex_unlock(&all->lock);
    for (uint32_t i = 0; i < all->count; i++) {
        pthread_join(all->helper[i].thread, NULL);
        pthread_cond_destroy(&all->helper[i].ready);
        pthread_cond_destroy(&all->helper[i].wake);
    }
    pthread_mutex_destroy(&all->lock);
    free(all);
    *helpers = NULL;
}

uint32_t helpers_count(const struct helpers *helpers)
{
    return helpers ? helpers->count : 0;
}

void helper_ask(struct helpers *helpers, uint32_t helper, enum help what)
{
    change(&helpers->helper[helper], &helpers->helper[helper].wake, 0, what);
}

void helper_end(struct helpers *helpers, uint32_t index, enum help what, uint64_t watch)
{
    struct helper *helper = &helpers->helper[index];
    unsigned state = atomic_load_explicit(&helper->state, memory_order_relaxed);
    while (state & what && /* relaxed: it did nothing */
           !atomic_compare_exchange_weak_explicit(&helper->state, &state, state & ~(unsigned)what, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
    /* asked for twice, the first may be being done */
    if (!watch_state(helper, DOING(what), false, watch))
        sleep_until(helper, &helper->ready, DOING(what), false);
}

bool helper_looks_on(const struct helpers *helpers, uint32_t helper)
{
    return helpers->presumed || atomic_load_explicit(&helpers->helper[helper].watching, memory_order_relaxed);
}

void helpers_presume_watching(struct helpers *helpers)
{
    helpers->presumed = true;
}

bool helper_is_awake(const struct helpers *helpers, uint32_t helper)
{
    return helper_looks_on(helpers, helper) ||
           atomic_load_explicit(&helpers->helper[helper].state, memory_order_relaxed) != 0;
}

bool helper_is_urged(const struct helpers *helpers, uint32_t helper, enum help what)
{
    unsigned state = atomic_load_explicit(&helpers->helper[helper].state, memory_order_relaxed);
    return (state & ((unsigned)what - 1u)) != 0;
}

uint64_t helpers_begun(const struct helpers *helpers, enum help what)
{
    return helpers ? atomic_load_explicit(&helpers->begun[kind_of(what)], memory_order_relaxed) : 0;
}
