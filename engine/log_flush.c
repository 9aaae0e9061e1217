/*
 * The flusher of the log, and the preparer that makes the next file before it is needed.
 *
 * Happy path of a flush: reserve a place for a mark behind everything reserved so far; wait until all before it is
 * published; write into the mark the offset that is durable now and publish it; write everything published to the files
 * and sync each file touched; move durable, wake everybody. Whatever is appended meanwhile is the next flush: the time
 * of one sync collects the batch of the next (group commit).
 *
 * The mark may go without: if the ring has no 32 bytes left, or a record in its way is not published within
 * LOG_MARK_WAIT_MS, the flush writes what is published, and the reserved mark is filled in by a later flush. Its claim
 * is true whenever it is written; only, records of a flush without mark are known to be durable one flush later. A
 * caller that flushes itself does not wait for others at all, or it could wait for itself.
 *
 * Happy path of preparing: when less than one file's worth is left to reserve, the preparer makes the next file, which
 * takes a few tenths of a second as it writes zeros. Writers never reserve more than what is prepared, therefore a full
 * disk stops log_reserve with ENG_FULL and can never strike a record that was accepted. A writer that finds nothing
 * left makes the file itself.
 *
 * An unsynced log writes and does not sync: durable is what was written, and marks name what log_sync made stable.
 * After a power loss nothing contradicts a mark, so what is lost is a torn tail like any other, only longer.
 *
 * Ways to fail: a failed write or sync, here or of a new file, fails the log for good (log_fail). A full disk while
 * preparing, or too many open files, does not: the next log_reserve tries again. A flush of up to
 * LOG_FILES_HELD_MAX files opens nothing: they are open since they were made or found.
 *
 * Invariants: durable <= published; a mark names an offset <= its own; both move forward only.
 */
#include <assert.h>
#include <stdlib.h>

#include "log_state.h"

#define LOG_MARK_WAIT_MS 2

/* flushing held: gives the mark a place, if there is none yet and there is room */
static void mark_reserve(struct log *log)
{
    if (log->mark_reserved)
        return;
    if (!log_credit_take(&log->ring.credit, LOG_MARK_BYTES, 0)) {
        pthread_mutex_lock(&log->mutex);
        log_space_release(log);
        pthread_mutex_unlock(&log->mutex);
        if (!log_credit_take(&log->ring.credit, LOG_MARK_BYTES, 0))
            return;
    }
    if (!log_credit_take(&log->disk_credit, LOG_MARK_BYTES, 0)) {
        log_credit_give(&log->ring.credit, LOG_MARK_BYTES);
        return;
    }
    log->mark_at = log_ring_place(&log->ring, LOG_MARK_BYTES);
    log->mark_reserved = true;
}

/* flushing held: fills the mark in if all before it is published. Returns the published offset. */
static uint64_t mark_publish(struct log *log, int wait_ms)
{
    mark_reserve(log);
    uint64_t published = log_ring_advance(&log->ring);
    if (!log->mark_reserved)
        return published;
    if (published < log->mark_at && wait_ms > 0) {
        struct log_deadline deadline = log_deadline_in(wait_ms);
        pthread_mutex_lock(&log->mutex);
        published = log_wait_published(log, log->mark_at, &deadline);
        pthread_mutex_unlock(&log->mutex);
    }
    if (published < log->mark_at)
        return published;
    assert(published == log->mark_at);
    /* written under flushing only */
    uint64_t durable = log->unsynced ? log->synced : atomic_load_explicit(&log->durable, memory_order_relaxed);
    log_ring_copy_in(&log->ring, log->mark_at + sizeof(struct log_record_header), &durable, sizeof durable);
    log_seal(log, log->mark_at, LOG_MARK, sizeof durable);
    log->mark_reserved = false;
    log->mark_published = log->mark_at;
    return log_ring_advance(&log->ring);
}

static enum eng_status write_range(struct log *log, uint64_t from, uint64_t to)
{
    enum eng_status status = ENG_OK;
    for (uint64_t at = from; status == ENG_OK && at < to;) {
        uint64_t contiguous;
        const uint8_t *bytes = log_ring_at(&log->ring, at, to - at, &contiguous);
        status = log_files_write(&log->files, at, bytes, contiguous);
        at += contiguous;
    }
    return status != ENG_OK || log->unsynced ? status : log_files_sync(&log->files, from, to);
}

/* flushing held */
static enum eng_status flush_range(struct log *log, uint64_t from, uint64_t to)
{
    if (write_range(log, from, to) != ENG_OK)
        return log_fail(log);
    if (!log->unsynced) /* else it can be lost still: log_sync; relaxed: log_trim needs any past value */
        atomic_store_explicit(&log->mark_last, log->mark_published, memory_order_relaxed);
    /* release: the ring bytes were read, for who reuses them; seq_cst: against space_waiting */
    atomic_store_explicit(&log->durable, to, memory_order_seq_cst);
    pthread_mutex_lock(&log->mutex);
    pthread_cond_broadcast(&log->durable_changed);
    if (log_credit_left(&log->disk_credit) < log->files.file_bytes)
        pthread_cond_signal(&log->prepare_wanted);
    pthread_mutex_unlock(&log->mutex);
    log_space_wake(log);
    return ENG_OK;
}

enum eng_status log_flush_once(struct log *log, int mark_wait_ms)
{
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&log->flushing);
    uint64_t durable = atomic_load_explicit(&log->durable, memory_order_relaxed);
    if (atomic_load_explicit(&log->failed, memory_order_relaxed)) {
        status = log_failed(log);
    } else if (log_ring_advance(&log->ring) > durable) {
        uint64_t published = mark_publish(log, mark_wait_ms);
        status = flush_range(log, durable, published);
        log->tail_unnamed = true;
    }
    pthread_mutex_unlock(&log->flushing);
    return status;
}

enum eng_status log_sync(struct log *log)
{
    enum eng_status status = log_flush_once(log, 0);
    pthread_mutex_lock(&log->flushing);
    uint64_t written = atomic_load_explicit(&log->durable, memory_order_relaxed);
    if (status == ENG_OK && log->unsynced && log->synced < written) {
        status = log_files_sync(&log->files, log->synced, written);
        if (status == ENG_OK) {
            log->synced = written;
            atomic_store_explicit(&log->mark_last, log->mark_published, memory_order_relaxed);
        } else {
            status = log_fail(log);
        }
    }
    pthread_mutex_unlock(&log->flushing);
    return status;
}

enum eng_status log_flush_last(struct log *log)
{
    enum eng_status status = log_sync(log);
    pthread_mutex_lock(&log->flushing);
    uint64_t durable = atomic_load_explicit(&log->durable, memory_order_relaxed);
    if (status == ENG_OK && log->tail_unnamed) {
        uint64_t published = mark_publish(log, 0);
        if (published > durable)
            status = flush_range(log, durable, published);
        log->tail_unnamed = status != ENG_OK;
    }
    pthread_mutex_unlock(&log->flushing);
    return status;
}

enum eng_status log_prepare(struct log *log, uint64_t bytes)
{
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&log->preparing);
    while (status == ENG_OK && log_credit_left(&log->disk_credit) < bytes) {
        if (atomic_load_explicit(&log->failed, memory_order_relaxed)) {
            status = log_failed(log);
            break;
        }
        status = log_files_prepare(&log->files);
        atomic_store_explicit(&log->disk_full, status == ENG_FULL, memory_order_relaxed); /* a hint */
        if (status == ENG_OK)
            log_credit_give(&log->disk_credit, log->files.file_bytes);
        else if (status != ENG_FULL)
            status = log_fail(log);
    }
    pthread_mutex_unlock(&log->preparing);
    return status;
}

/* --- threads ------------------------------------------------------------------------------------------------- */

static bool stopping(const struct log *log)
{
    return atomic_load_explicit(&log->closing, memory_order_relaxed) ||
           atomic_load_explicit(&log->failed, memory_order_relaxed);
}

static void *flush_main(void *argument)
{
    struct log *log = argument;
    const struct log_deadline never = log_deadline_in(-1);
    while (!stopping(log)) {
        uint64_t durable = atomic_load_explicit(&log->durable, memory_order_relaxed); /* this thread's own, mostly */
        pthread_mutex_lock(&log->mutex);
        uint64_t published = log_wait_published(log, durable + 1, &never);
        pthread_mutex_unlock(&log->mutex);
        if (published > durable && log_flush_once(log, LOG_MARK_WAIT_MS) != ENG_OK)
            break; /* log_fail has told everybody */
    }
    return NULL;
}

static void *prepare_main(void *argument)
{
    struct log *log = argument;
    const struct log_deadline never = log_deadline_in(-1);
    pthread_mutex_lock(&log->mutex);
    while (!stopping(log)) {
        bool wanted = log_credit_left(&log->disk_credit) < log->files.file_bytes &&
                      !atomic_load_explicit(&log->disk_full, memory_order_relaxed);
        if (!wanted) {
            log_wait_on(log, &log->prepare_wanted, &never);
            continue;
        }
        pthread_mutex_unlock(&log->mutex);
        enum eng_status status = log_prepare(log, log->files.file_bytes);
        pthread_mutex_lock(&log->mutex);
        if (status != ENG_OK && status != ENG_FULL)
            break;
    }
    pthread_mutex_unlock(&log->mutex);
    return NULL;
}

enum eng_status log_threads_start(struct log *log)
{
    log->flush_thread_runs = pthread_create(&log->flush_thread, NULL, flush_main, log) == 0;
    log->prepare_thread_runs = pthread_create(&log->prepare_thread, NULL, prepare_main, log) == 0;
    if (!log->flush_thread_runs || !log->prepare_thread_runs)
        return eng_fail(ENG_NO_MEMORY, "%s: cannot start the threads of the log", log->files.dir);
    return ENG_OK;
}

void log_threads_join(struct log *log)
{
    if (log->flush_thread_runs)
        pthread_join(log->flush_thread, NULL);
    if (log->prepare_thread_runs)
        pthread_join(log->prepare_thread, NULL);
    log->flush_thread_runs = log->prepare_thread_runs = false;
}
