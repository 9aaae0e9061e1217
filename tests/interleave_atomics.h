/*
 * Put before every source of prog_interleave by the compiler (-include): atomic operations, mutexes, memcpy and
 * membarrier become calls of the scheduler in interleave.c, so that the engine's own code runs under it unchanged.
 *
 * Each operation first announces what it is about to touch (il_step, where another thread may be run), then does it.
 * All threads are coroutines of one, so the plain access behind a hook is the whole operation. Planted bugs are asked
 * for here: a read-modify-write that il_torn names is done as a load and a store, with a place to switch in between.
 */
#ifndef TESTS_INTERLEAVE_ATOMICS_H
#define TESTS_INTERLEAVE_ATOMICS_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void il_step(const volatile void *at, size_t bytes, bool write, const char *where, int line);
int il_mutex_lock(pthread_mutex_t *mutex, const char *where, int line);
int il_mutex_unlock(pthread_mutex_t *mutex, const char *where, int line);
int il_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, const char *where, int line);
int il_cond_wake(pthread_cond_t *condition, const char *where, int line);
void *il_memcpy(void *to, const void *from, size_t bytes, const char *where, int line);
long il_syscall(long number, long command, const char *where, int line);
bool il_torn(const volatile void *at);                          /* a planted bug: not atomic */
bool il_buffer(volatile void *at, uint64_t value, bool strong); /* true: the store waits in the store buffer */
uint64_t il_forward(const volatile void *at, uint64_t value);   /* what a load sees behind its own store buffer */
void il_flush_own(void);                                        /* before whatever is strong */

#define IL_TYPE(p) __typeof__((void)0, *(p))

#undef atomic_load_explicit
#define atomic_load_explicit(p, order)                                                                                 \
    __extension__({                                                                                                    \
        __auto_type il_p = (p);                                                                                        \
        il_step(il_p, sizeof *il_p, false, __func__, __LINE__);                                                        \
        (IL_TYPE(il_p)) il_forward(il_p, *il_p);                                                                       \
    })
#undef atomic_store_explicit
#define atomic_store_explicit(p, v, order)                                                                             \
    __extension__({                                                                                                    \
        __auto_type il_p = (p);                                                                                        \
        IL_TYPE(il_p) il_v = (v);                                                                                      \
        il_step(il_p, sizeof *il_p, true, __func__, __LINE__);                                                         \
        if (!il_buffer(il_p, il_v, (order) == memory_order_seq_cst))                                                   \
            *il_p = il_v;                                                                                              \
    })
#define IL_MODIFY(p, operation)                                                                                        \
    __extension__({                                                                                                    \
        __auto_type il_p = (p);                                                                                        \
        il_step(il_p, sizeof *il_p, true, __func__, __LINE__);                                                         \
        il_flush_own();                                                                                                \
        IL_TYPE(il_p) il_old = *il_p;                                                                                  \
        if (il_torn(il_p))                                                                                             \
            il_step(il_p, sizeof *il_p, true, __func__, __LINE__);                                                     \
        *il_p = (IL_TYPE(il_p))(operation);                                                                            \
        il_old;                                                                                                        \
    })
#undef atomic_fetch_add_explicit
#define atomic_fetch_add_explicit(p, v, order) IL_MODIFY(p, il_old + (v))
#undef atomic_fetch_sub_explicit
#define atomic_fetch_sub_explicit(p, v, order) IL_MODIFY(p, il_old - (v))
#undef atomic_fetch_or_explicit
#define atomic_fetch_or_explicit(p, v, order) IL_MODIFY(p, il_old | (v))
#undef atomic_fetch_and_explicit
#define atomic_fetch_and_explicit(p, v, order) IL_MODIFY(p, il_old &(v))
#undef atomic_exchange_explicit
#define atomic_exchange_explicit(p, v, order) IL_MODIFY(p, (v))
#undef atomic_compare_exchange_strong_explicit
#define atomic_compare_exchange_strong_explicit(p, expected, v, success, failure)                                      \
    __extension__({                                                                                                    \
        __auto_type il_p = (p);                                                                                        \
        il_step(il_p, sizeof *il_p, true, __func__, __LINE__);                                                         \
        il_flush_own();                                                                                                \
        bool il_same = *il_p == *(expected);                                                                           \
        if (il_torn(il_p))                                                                                             \
            il_step(il_p, sizeof *il_p, true, __func__, __LINE__);                                                     \
        if (il_same)                                                                                                   \
            *il_p = (v);                                                                                               \
        else                                                                                                           \
            *(expected) = *il_p;                                                                                       \
        il_same;                                                                                                       \
    })
#undef atomic_compare_exchange_weak_explicit
#define atomic_compare_exchange_weak_explicit atomic_compare_exchange_strong_explicit
#undef atomic_load
#define atomic_load(p) atomic_load_explicit(p, memory_order_seq_cst)
#undef atomic_store
#define atomic_store(p, v) atomic_store_explicit(p, v, memory_order_seq_cst)

#define pthread_mutex_lock(m) il_mutex_lock(m, __func__, __LINE__)
#define pthread_mutex_unlock(m) il_mutex_unlock(m, __func__, __LINE__)
#define pthread_cond_wait(c, m) il_cond_wait(c, m, __func__, __LINE__)
#define pthread_cond_broadcast(c) il_cond_wake(c, __func__, __LINE__)
#define pthread_cond_signal(c) il_cond_wake(c, __func__, __LINE__) /* nothing here has two who wait */
#define sched_yield() ((void)0)
#define pthread_once(once, function) ((void)(once), (function)()) /* so that a model can choose what it finds */
#define memcpy(to, from, bytes) il_memcpy(to, from, bytes, __func__, __LINE__)
#define syscall(number, ...) il_syscall(number, IL_FIRST(__VA_ARGS__ __VA_OPT__(, ) 0), __func__, __LINE__)
#define IL_FIRST(first, ...) (first)

#endif
