/*
 * Bounded nng_close (close.h).
 *
 * The thread that calls nng_close and the one that waits share a small record; whoever comes last frees it. A thread
 * that was given up stays where it is until the process ends; all that are closed after it will hardly fare better, and
 * are given less time, so that a process with many sockets ends within seconds too. Without memory or a thread,
 * nng_close is called directly.
 */
#include "close.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define CLOSE_MS 5000
#define CLOSE_AGAIN_MS 200 /* after one was given up: the thread that hangs is the only one of its kind */

static atomic_bool gave_up; /* relaxed: it guards nothing, it only shortens a wait */

struct closing {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    nng_socket socket;
    bool done, given_up;
};

static void closing_free(struct closing *closing)
{
    pthread_cond_destroy(&closing->ended);
    pthread_mutex_destroy(&closing->lock);
    free(closing);
}

static void *closing_main(void *context)
{
    struct closing *closing = context;
    nng_close(closing->socket);
    pthread_mutex_lock(&closing->lock);
    closing->done = true;
    bool last = closing->given_up;
    pthread_cond_signal(&closing->ended);
    pthread_mutex_unlock(&closing->lock);
    if (last)
        closing_free(closing);
    return NULL;
}

bool socket_close(nng_socket socket)
{
    struct closing *closing = calloc(1, sizeof *closing);
    pthread_t thread;
    if (!closing) {
        nng_close(socket);
        return true;
    }
    closing->socket = socket;
    pthread_mutex_init(&closing->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&closing->ended, &attributes);
    pthread_condattr_destroy(&attributes);
    if (pthread_create(&thread, NULL, closing_main, closing) != 0) {
        closing_free(closing);
        nng_close(socket);
        return true;
    }
    long ms = atomic_load_explicit(&gave_up, memory_order_relaxed) ? CLOSE_AGAIN_MS : CLOSE_MS;
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_nsec += ms % 1000 * 1000000;
    deadline.tv_sec += ms / 1000 + deadline.tv_nsec / 1000000000;
    deadline.tv_nsec %= 1000000000;
    pthread_mutex_lock(&closing->lock);
    while (!closing->done && pthread_cond_timedwait(&closing->ended, &closing->lock, &deadline) == 0)
        ;
    bool done = closing->done;
    closing->given_up = !done;
    pthread_mutex_unlock(&closing->lock);
    if (!done) {
        atomic_store_explicit(&gave_up, true, memory_order_relaxed);
        pthread_detach(thread);
        return false;
    }
    pthread_join(thread, NULL);
    closing_free(closing);
    return true;
}
