/*
 * Waiting in the log: for records to be published, for ring space, for durability.
 *
 * Nobody spins: a thread that must wait takes the mutex of the log, announces itself in an atomic counter, looks once
 * more, and sleeps on a condition. The other side changes its atomic first and then reads the counter; both sides use
 * sequentially consistent operations, so either the waiter sees the change or the changer sees the waiter (Dekker).
 * Writers, the flusher and the consumer therefore touch the mutex only when somebody sleeps.
 *
 *   published bit of a record   <->   sleepers        (log_published_wake, log_wait_published)
 *   durable, consumed           <->   space_waiting   (log_space_wake, log_space_take)
 *
 * Ring space is given back by whoever needs it (log_space_release computes it from durable and consumed), so that the
 * consumer and the flusher do no accounting. Those who wait for space are served in the order they came: a record of
 * many megabytes is not starved by small ones. The price is that small ones wait behind it.
 *
 * Ways to fail: the time runs out; the log fails or closes, which wakes everybody. log_close waits until nobody is
 * inside a wait any more before it destroys the conditions.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "log_state.h"

struct log_deadline log_deadline_in(int timeout_ms)
{
    struct log_deadline deadline = {.timeout_ms = timeout_ms};
    if (timeout_ms > 0) {
        clock_gettime(CLOCK_MONOTONIC, &deadline.at);
        deadline.at.tv_sec += timeout_ms / 1000;
        deadline.at.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (deadline.at.tv_nsec >= 1000000000) {
            deadline.at.tv_nsec -= 1000000000;
            deadline.at.tv_sec++;
        }
    }
    return deadline;
}

bool log_wait_on(struct log *log, pthread_cond_t *condition, const struct log_deadline *deadline)
{
    if (deadline->timeout_ms == 0)
        return false;
    log->waiters++;
    int error = deadline->timeout_ms < 0 ? pthread_cond_wait(condition, &log->mutex)
                                         : pthread_cond_timedwait(condition, &log->mutex, &deadline->at);
    assert(error == 0 || error == ETIMEDOUT);
    if (--log->waiters == 0)
        pthread_cond_broadcast(&log->left);
    return error == 0;
}

uint64_t log_wait_published(struct log *log, uint64_t target, const struct log_deadline *deadline)
{
    /* seq_cst: announced before the bits are looked at; partner: log_published_wake */
    atomic_fetch_add_explicit(&log->sleepers, 1, memory_order_seq_cst);
    uint64_t published;
    do
        published = log_ring_advance(&log->ring);
    while (published < target && !atomic_load_explicit(&log->closing, memory_order_relaxed) &&
           !atomic_load_explicit(&log->failed, memory_order_relaxed) &&
           log_wait_on(log, &log->published_changed, deadline));
    atomic_fetch_sub_explicit(&log->sleepers, 1, memory_order_relaxed);
    return published;
}

void log_published_wake(struct log *log)
{
    /* seq_cst: after the bit was set; partner: log_wait_published */
    if (atomic_load_explicit(&log->sleepers, memory_order_seq_cst) == 0)
        return;
    pthread_mutex_lock(&log->mutex);
    pthread_cond_broadcast(&log->published_changed);
    pthread_mutex_unlock(&log->mutex);
}

void log_space_release(struct log *log)
{
    /* seq_cst: after the caller was counted in space_waiting; acquire: the readers of the bytes are done with them */
    uint64_t free_to = atomic_load_explicit(&log->durable, memory_order_seq_cst);
    if (log->consumer) {
        uint64_t consumed = atomic_load_explicit(&log->consumed, memory_order_seq_cst);
        if (consumed < free_to)
            free_to = consumed;
    }
    if (free_to > log->ring.freed)
        log_ring_free(&log->ring, free_to);
}

void log_space_wake(struct log *log)
{
    /* seq_cst: after durable or consumed was stored; partner: log_space_take */
    if (atomic_load_explicit(&log->space_waiting, memory_order_seq_cst) == 0)
        return;
    pthread_mutex_lock(&log->mutex);
    pthread_cond_broadcast(&log->space_changed);
    pthread_mutex_unlock(&log->mutex);
}

/* mutex held */
static void space_enqueue(struct log *log, struct log_space_waiter *self)
{
    self->next = NULL;
    if (log->space_last)
        log->space_last->next = self;
    else
        log->space_first = self;
    log->space_last = self;
    /* seq_cst: before durable and consumed are looked at; partner: log_space_wake */
    atomic_fetch_add_explicit(&log->space_waiting, 1, memory_order_seq_cst);
}

/* mutex held */
static void space_dequeue(struct log *log, struct log_space_waiter *self)
{
    struct log_space_waiter **link = &log->space_first, *before = NULL;
    while (*link != self) {
        before = *link;
        link = &before->next;
    }
    *link = self->next;
    if (log->space_last == self)
        log->space_last = before;
    atomic_fetch_sub_explicit(&log->space_waiting, 1, memory_order_relaxed);
    if (log->space_first)
        pthread_cond_broadcast(&log->space_changed); /* the next one's turn */
}

enum eng_status log_space_take(struct log *log, uint64_t bytes, const struct log_deadline *deadline)
{
    if (atomic_load_explicit(&log->space_waiting, memory_order_relaxed) == 0 &&
        log_credit_take(&log->ring.credit, bytes, LOG_MARK_BYTES))
        return ENG_OK;
    enum eng_status status = ENG_OK;
    struct log_space_waiter self;
    pthread_mutex_lock(&log->mutex);
    space_enqueue(log, &self);
    for (;;) {
        log_space_release(log);
        if (log->space_first == &self && log_credit_take(&log->ring.credit, bytes, LOG_MARK_BYTES))
            break;
        if (atomic_load_explicit(&log->failed, memory_order_relaxed))
            status = log_failed(log);
        else if (atomic_load_explicit(&log->closing, memory_order_relaxed))
            status = eng_fail(ENG_CLOSED, "%s: the log is closing", log->files.dir);
        else if (!log_wait_on(log, &log->space_changed, deadline))
            status =
                eng_fail(ENG_BUSY, "%s: no room in the ring for %llu bytes", log->files.dir, (unsigned long long)bytes);
        if (status != ENG_OK)
            break;
    }
    space_dequeue(log, &self);
    pthread_mutex_unlock(&log->mutex);
    return status;
}

enum eng_status log_fail(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    if (!atomic_load_explicit(&log->failed, memory_order_relaxed))
        snprintf(log->failure, sizeof log->failure, "%s", eng_error());
    /* release: the line; partner: log_failed */
    atomic_store_explicit(&log->failed, true, memory_order_release);
    pthread_cond_broadcast(&log->published_changed);
    pthread_cond_broadcast(&log->durable_changed);
    pthread_cond_broadcast(&log->space_changed);
    pthread_cond_broadcast(&log->prepare_wanted);
    pthread_mutex_unlock(&log->mutex);
    return log_failed(log);
}

enum eng_status log_failed(const struct log *log)
{
    bool failed = atomic_load_explicit(&log->failed, memory_order_acquire); /* partner: log_fail */
    assert(failed);
    return eng_fail(ENG_IO, "%s: the log has stopped: %s", log->files.dir, log->failure);
}
