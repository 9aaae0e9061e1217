/*
 * An open log. Private to log*.c: log.c (open, append, read), log_wait.c (waiting), log_flush.c (flushing, preparing).
 *
 * Locks, in the order they are taken: flushing, preparing, trimming > mutex > those of the ring and the files. No
 * lock is held over a disk call but the first three.
 */
#ifndef PANDO_LOG_STATE_H
#define PANDO_LOG_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "log_file.h"
#include "log_ring.h"

#define LOG_MAGIC 0x676f6c70u

struct log_space_waiter { /* first come, first served, so that large records are not starved by small ones */
    struct log_space_waiter *next;
};

struct log {
    uint32_t magic;
    bool flusher, consumer;
    struct log_files files;
    struct log_ring ring;
    struct log_credit disk_credit; /* bytes of prepared files not yet reserved */

    pthread_mutex_t mutex;            /* for the conditions; of the waiter list, failure, waiters, ring.freed */
    pthread_cond_t published_changed; /* a record was published, or stopping */
    pthread_cond_t durable_changed;   /* durable moved, or stopping */
    pthread_cond_t space_changed;     /* ring space, or stopping */
    pthread_cond_t prepare_wanted;    /* for the preparer */
    pthread_cond_t left;              /* waiters became 0 */
    unsigned waiters;                 /* threads inside a wait: closing waits for them */
    struct log_space_waiter *space_first, *space_last;
    _Atomic unsigned sleepers;      /* threads that wait for published_changed */
    _Atomic unsigned space_waiting; /* length of the waiter list */

    _Atomic uint64_t durable;  /* everything before it is on stable storage */
    _Atomic uint64_t consumed; /* everything before it was consumed (log_next) */
    _Atomic uint64_t begin;    /* the first record kept */
    _Atomic bool closing;      /* no new records */
    _Atomic bool closed;       /* the last flush is over */
    _Atomic bool failed;       /* a write or sync failed: final */
    _Atomic bool disk_full;    /* the last attempt to make a file found no space */
    char failure[512];

    bool unsynced;            /* flushes write and do not sync */
    pthread_mutex_t flushing; /* one flush at a time; guards the next six */
    uint64_t synced;          /* unsynced: everything before it is on stable storage, durable is what was written */
    bool mark_reserved;       /* a mark has its place and is not yet written */
    uint64_t mark_at;
    uint64_t mark_published;    /* the last mark written to the ring, 0: none */
    _Atomic uint64_t mark_last; /* the last mark on the disk */
    bool tail_unnamed;          /* records were flushed that no flushed mark names as durable */

    pthread_mutex_t preparing, trimming;
    pthread_t flush_thread, prepare_thread;
    bool flush_thread_runs, prepare_thread_runs;

    /* of the consumer's thread */
    uint64_t cursor, held_end;
    uint8_t *wrapped;
    size_t wrapped_capacity;
};

/* --- log_wait.c --- */

struct log_deadline {
    int timeout_ms; /* as given */
    struct timespec at;
};
struct log_deadline log_deadline_in(int timeout_ms);
/* Waits on a condition with the mutex of the log held; false: the time ran out. Counted in waiters. */
bool log_wait_on(struct log *log, pthread_cond_t *condition, const struct log_deadline *deadline);
/* With the mutex held: waits until the published offset is above (or at) target, or stopping or time. Returns it. */
uint64_t log_wait_published(struct log *log, uint64_t target, const struct log_deadline *deadline);

/* Takes ring space, waiting for it in turn. ENG_BUSY, ENG_CLOSED, ENG_IO. */
ENG_MUST_CHECK enum eng_status log_space_take(struct log *log, uint64_t bytes, const struct log_deadline *deadline);
/* Gives back what is flushed and consumed; mutex held. */
void log_space_release(struct log *log);
/* After durable or consumed moved. */
void log_space_wake(struct log *log);
/* After a record was published. */
void log_published_wake(struct log *log);

/* The log is dead: keeps eng_error() of this thread, wakes everybody. Returns ENG_IO. */
ENG_MUST_CHECK enum eng_status log_fail(struct log *log);
/* ENG_IO with the line kept. */
ENG_MUST_CHECK enum eng_status log_failed(const struct log *log);

/* --- log_flush.c --- */

/* Writes and syncs everything published. Waits up to mark_wait_ms for records in the way of the mark. */
ENG_MUST_CHECK enum eng_status log_flush_once(struct log *log, int mark_wait_ms);
/* The last flush, and a mark that names everything. */
ENG_MUST_CHECK enum eng_status log_flush_last(struct log *log);
/* Makes files until bytes more can be reserved. ENG_FULL may be tried again, other failures fail the log. */
ENG_MUST_CHECK enum eng_status log_prepare(struct log *log, uint64_t bytes);
ENG_MUST_CHECK enum eng_status log_threads_start(struct log *log);
void log_threads_join(struct log *log);

/* --- log.c --- */

/* Fills in the header, checksum and padding of a record in the ring and publishes it. */
void log_seal(struct log *log, uint64_t offset, uint32_t type, uint32_t length);

#endif
