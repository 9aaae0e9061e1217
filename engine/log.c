/*
 * The log: opening, appending, consuming, reading back, trimming. The contract is in pando/log.h, the bytes in
 * log_format.h, the ring in log_ring.h, flushing in log_flush.c, waiting in log_wait.c, recovery in log_scan.c.
 *
 * Happy path of a record: log_reserve takes credit for prepared file space and for ring space, in this order, and then
 * a place in the stream with one fetch_add; log_fill copies the payload straight into the ring; log_publish adds header
 * and checksum and sets the record's bit. From then on the consumer may read it (log_next) and the flusher write it.
 * Ring bytes are free again when they are flushed and, with a consumer, consumed.
 *
 * Happy path of opening: the files are found, the records read from scan_from to the last valid one, the torn tail
 * cut off and made stable, the ring set to begin at the end, the threads started. What was read counts as durable from
 * then on, which is why log_scan_cut syncs it: after a kill it may be in the page cache only.
 *
 * A log without files is new only if nobody says it was made before; a store whose log was removed must not begin an
 * empty one. Who keeps a log says so (options.made, scan_from), after the first open that made it; killed before that
 * was noted down, the next one makes it again or finds it empty.
 *
 * Ways to fail: before a place is taken, anything (ENG_BUSY, ENG_FULL, ENG_TOO_LARGE, ENG_CLOSED, ENG_IO) and nothing
 * has happened; after it, nothing. A failed write or sync stops the log for good, and every later call that would need
 * the disk returns ENG_IO with the line of the failure. Reading what was durable still works then.
 *
 * Invariants: begin <= durable <= published <= tail <= end of the prepared files; consumed <= published; all of them
 * are boundaries of records.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "log_scan.h"
#include "log_state.h"

#define READ_AHEAD_BYTES 4096u

static struct log *checked(struct log *log)
{
    assert(log != NULL && log->magic == LOG_MAGIC);
    return log;
}

/* --- open and close ------------------------------------------------------------------------------------------ */

static enum eng_status check_options(const struct log_options *options, uint64_t file_bytes, uint64_t ring_bytes)
{
    assert(options->disk != NULL && options->dir != NULL);
    if (file_bytes < LOG_FILE_BYTES_MIN || file_bytes % LOG_FILE_BYTES_MIN != 0)
        return eng_fail(ENG_INVALID, "%s: %llu bytes a file: not a multiple of %u", options->dir,
                        (unsigned long long)file_bytes, LOG_FILE_BYTES_MIN);
    if (ring_bytes < LOG_RING_BYTES_MIN || (ring_bytes & (ring_bytes - 1)) != 0)
        return eng_fail(ENG_INVALID, "%s: a ring of %llu bytes: not a power of two from %u on", options->dir,
                        (unsigned long long)ring_bytes, LOG_RING_BYTES_MIN);
    return ENG_OK;
}

static void init_locks(struct log *log)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&log->mutex, NULL);
    pthread_mutex_init(&log->flushing, NULL);
    pthread_mutex_init(&log->preparing, NULL);
    pthread_mutex_init(&log->trimming, NULL);
    pthread_cond_init(&log->published_changed, &monotonic);
    pthread_cond_init(&log->durable_changed, &monotonic);
    pthread_cond_init(&log->space_changed, &monotonic);
    pthread_cond_init(&log->prepare_wanted, &monotonic);
    pthread_cond_init(&log->left, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void log_free(struct log *log)
{
    log_ring_fini(&log->ring);
    log_files_close(&log->files);
    pthread_mutex_destroy(&log->mutex);
    pthread_mutex_destroy(&log->flushing);
    pthread_mutex_destroy(&log->preparing);
    pthread_mutex_destroy(&log->trimming);
    pthread_cond_destroy(&log->published_changed);
    pthread_cond_destroy(&log->durable_changed);
    pthread_cond_destroy(&log->space_changed);
    pthread_cond_destroy(&log->prepare_wanted);
    pthread_cond_destroy(&log->left);
    free(log->wrapped);
    log->magic = 0;
    free(log);
}

static enum eng_status gone(const struct log_files *files, uint64_t offset, uint64_t begin)
{
    char path[LOG_PATH_BYTES_MAX];
    uint64_t at;
    log_files_name(files, offset, path, &at);
    return eng_fail(ENG_GONE, "%s: byte %llu (log offset %llu) is gone: the first record kept is at log offset %llu",
                    path, (unsigned long long)at, (unsigned long long)offset, (unsigned long long)begin);
}

/* Where reading begins, and the first record kept. */
static enum eng_status find_start(struct log *log, uint64_t scan_from, uint64_t *from)
{
    struct log_files *files = &log->files;
    uint64_t begin, limit = log_files_end(files);
    enum eng_status status = log_scan_first(files, limit, &begin);
    if (status != ENG_OK)
        return status;
    if (begin == limit)
        return log_files_damaged(files, log_files_begin(files), "no valid record in all that is kept");
    if (scan_from > 0 && scan_from < begin)
        return gone(files, scan_from, begin);
    if (scan_from % LOG_ALIGN != 0)
        return eng_fail(ENG_INVALID, "%s: log offset %llu: not the start of a record", files->dir,
                        (unsigned long long)scan_from);
    atomic_init(&log->begin, begin);
    *from = scan_from > 0 ? scan_from : begin;
    return ENG_OK;
}

static enum eng_status recover(struct log *log, uint64_t scan_from, uint64_t ring_bytes)
{
    struct log_files *files = &log->files;
    enum eng_status status = ENG_OK;
    if (log_files_end(files) == 0)
        status = log_files_prepare(files);
    uint64_t from = 0;
    if (status == ENG_OK)
        status = find_start(log, scan_from, &from);
    struct log_scan scan;
    if (status == ENG_OK)
        status = log_scan(files, from, &scan);
    if (status == ENG_OK)
        status = log_scan_cut(files, &scan);
    if (status == ENG_OK)
        status = log_files_hold(files, scan.end);
    if (status == ENG_OK)
        status = log_ring_init(&log->ring, ring_bytes, scan.end);
    if (status != ENG_OK)
        return status;
    atomic_init(&log->durable, scan.end);
    log->synced = scan.end; /* log_scan_cut has synced what it read */
    atomic_init(&log->consumed, scan.end);
    atomic_init(&log->mark_last, scan.mark);
    atomic_init(&log->disk_credit.left, log_files_end(files) - scan.end);
    log->mark_published = scan.mark;
    log->cursor = log->held_end = scan.end;
    /* Is anything read here that no mark names, other than the last mark? Then closing writes one. */
    log->tail_unnamed = scan.end > from && !(scan.named == scan.mark && scan.mark + LOG_MARK_BYTES == scan.end);
    return ENG_OK;
}

enum eng_status log_open(const struct log_options *options, uint64_t scan_from, struct log **log)
{
    *log = NULL;
    uint64_t file_bytes = options->file_bytes ? options->file_bytes : LOG_FILE_BYTES_DEFAULT;
    uint64_t ring_bytes = options->ring_bytes ? options->ring_bytes : LOG_RING_BYTES_DEFAULT;
    enum eng_status status = check_options(options, file_bytes, ring_bytes);
    if (status != ENG_OK)
        return status;
    struct log *self = aligned_alloc(64, (sizeof *self + 63) / 64 * 64);
    if (self == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s: out of memory opening the log", options->dir);
    memset(self, 0, sizeof *self);
    self->magic = LOG_MAGIC;
    self->flusher = options->flusher;
    self->consumer = options->consumer;
    self->unsynced = options->unsynced;
    init_locks(self);
    status = log_files_open(&self->files, options->disk, options->dir, options->store_id, file_bytes,
                            options->made || scan_from > 0);
    if (status == ENG_OK)
        status = recover(self, scan_from, ring_bytes);
    if (status != ENG_OK) {
        log_free(self);
        return status;
    }
    if (self->flusher)
        status = log_threads_start(self);
    *log = self;
    if (status != ENG_OK)
        log_close(log);
    return status;
}

static void wake_all(struct log *log, _Atomic bool *flag)
{
    pthread_mutex_lock(&log->mutex);
    atomic_store_explicit(flag, true, memory_order_seq_cst); /* read under the mutex before every wait */
    pthread_cond_broadcast(&log->published_changed);
    pthread_cond_broadcast(&log->durable_changed);
    pthread_cond_broadcast(&log->space_changed);
    pthread_cond_broadcast(&log->prepare_wanted);
    pthread_mutex_unlock(&log->mutex);
}

void log_close(struct log **log)
{
    if (*log == NULL)
        return;
    struct log *self = checked(*log);
    wake_all(self, &self->closing);
    log_threads_join(self);
    if (log_flush_last(self) != ENG_OK) {
        /* log_fail has kept it: who waits for durability is told so; there is nobody else to tell */
    }
    wake_all(self, &self->closed);
    pthread_mutex_lock(&self->mutex);
    while (self->waiters > 0)
        pthread_cond_wait(&self->left, &self->mutex);
    pthread_mutex_unlock(&self->mutex);
    log_free(self);
    *log = NULL;
}

/* --- append -------------------------------------------------------------------------------------------------- */

#define LATER_BYTES_MAX (64u << 10) /* of what log_append_later left, before the flusher is woken for it */

/* Takes bytes of prepared file space, preparing more if needed. */
static enum eng_status take_disk(struct log *log, uint64_t bytes, int timeout_ms)
{
    while (!log_credit_take(&log->disk_credit, bytes, LOG_MARK_BYTES)) {
        bool preparer_can = log->flusher && log_credit_left(&log->disk_credit) < log->files.file_bytes &&
                            !atomic_load_explicit(&log->disk_full, memory_order_relaxed);
        if (timeout_ms == 0 && preparer_can) {
            pthread_mutex_lock(&log->mutex);
            pthread_cond_signal(&log->prepare_wanted);
            pthread_mutex_unlock(&log->mutex);
            return eng_fail(ENG_BUSY, "%s: the next file is being made", log->files.dir);
        }
        enum eng_status status = log_prepare(log, bytes + LOG_MARK_BYTES);
        if (status != ENG_OK)
            return status;
    }
    return ENG_OK;
}

enum eng_status log_reserve(struct log *log, uint32_t type, uint32_t length, int timeout_ms, struct log_ticket *ticket)
{
    checked(log);
    assert(type >= LOG_USER);
    uint64_t bytes = log_record_bytes(length);
    if (length > LOG_RECORD_BYTES_MAX || bytes + LOG_MARK_BYTES > log->ring.size)
        return eng_fail(ENG_TOO_LARGE, "%s: a record of %u bytes never fits into the ring of %llu", log->files.dir,
                        length, (unsigned long long)log->ring.size);
    if (atomic_load_explicit(&log->failed, memory_order_relaxed))
        return log_failed(log);
    if (atomic_load_explicit(&log->closing, memory_order_relaxed))
        return eng_fail(ENG_CLOSED, "%s: the log is closing", log->files.dir);
    enum eng_status status = take_disk(log, bytes, timeout_ms);
    if (status != ENG_OK)
        return status;
    struct log_deadline deadline = log_deadline_in(timeout_ms);
    status = log_space_take(log, bytes, &deadline);
    if (status == ENG_CLOSED)
        return status; /* the log may be gone */
    if (status != ENG_OK) {
        log_credit_give(&log->disk_credit, bytes);
        return status;
    }
    uint64_t offset = log_ring_place(&log->ring, bytes);
    *ticket = (struct log_ticket){.offset = offset, .end = offset + bytes, .length = length, .type = type};
    return ENG_OK;
}

void log_fill(struct log *log, struct log_ticket *ticket, uint32_t at, const void *bytes, uint32_t length)
{
    assert(at <= ticket->length && length <= ticket->length - at);
    log_ring_copy_in(&log->ring, ticket->offset + sizeof(struct log_record_header) + at, bytes, length);
}

void log_seal(struct log *log, uint64_t offset, uint32_t type, uint32_t length)
{
    static const uint8_t zeros[LOG_ALIGN];
    struct log_ring *ring = &log->ring;
    struct log_record_header header = {.length = length, .type = type, .offset = offset};
    uint64_t payload = offset + sizeof header, first;
    const uint8_t *bytes = log_ring_at(ring, payload, length, &first);
    uint64_t seed = log_seed(&log->files.key, offset / log->files.file_bytes);
    header.checksum = log_checksum(&header, bytes, first, ring->bytes, length - first, seed);
    log_ring_copy_in(ring, payload + length, zeros, log_record_bytes(length) - sizeof header - length);
    log_ring_copy_in(ring, offset, &header, sizeof header);
    log_ring_publish(ring, offset);
}

void log_publish(struct log *log, struct log_ticket *ticket)
{
    checked(log);
    assert(ticket->type >= LOG_USER && ticket->end == ticket->offset + log_record_bytes(ticket->length));
    log_seal(log, ticket->offset, ticket->type, ticket->length);
    ticket->type = 0; /* once */
    log_published_wake(log);
}

enum eng_status log_append(struct log *log, uint32_t type, const void *payload, uint32_t length, int timeout_ms,
                           uint64_t *offset, uint64_t *end)
{
    struct log_ticket ticket = {0};
    enum eng_status status = log_reserve(log, type, length, timeout_ms, &ticket);
    if (status != ENG_OK)
        return status;
    log_fill(log, &ticket, 0, payload, length);
    log_publish(log, &ticket);
    if (offset)
        *offset = ticket.offset;
    if (end)
        *end = ticket.end;
    return ENG_OK;
}

enum eng_status log_append_later(struct log *log, uint32_t type, const void *payload, uint32_t length)
{
    struct log_ticket ticket = {0};
    enum eng_status status = log_reserve(log, type, length, 0, &ticket);
    if (status != ENG_OK)
        return status;
    log_fill(log, &ticket, 0, payload, length);
    log_seal(log, ticket.offset, ticket.type, ticket.length);
    if (ticket.end - log_durable(log) > LATER_BYTES_MAX)
        log_published_wake(log);
    return ENG_OK;
}

enum eng_status log_room(struct log *log, uint64_t payload_bytes, uint32_t records)
{
    uint64_t bytes = payload_bytes + records * (log_record_bytes(0) + LOG_ALIGN + LOG_MARK_BYTES);
    enum eng_status status = take_disk(log, bytes, -1);
    if (status == ENG_OK)
        log_credit_give(&log->disk_credit, bytes);
    return status;
}

/* --- durability ---------------------------------------------------------------------------------------------- */

uint64_t log_durable(const struct log *log)
{
    return atomic_load_explicit(&log->durable, memory_order_acquire); /* partner: flush_range */
}

uint64_t log_end(const struct log *log)
{
    return log_ring_tail(&log->ring);
}

enum eng_status log_flush(struct log *log)
{
    return log_flush_once(checked(log), 0);
}

enum eng_status log_wait(struct log *log, uint64_t offset, int timeout_ms)
{
    checked(log);
    if (log_durable(log) >= offset)
        return ENG_OK;
    assert(offset <= log_end(log));
    enum eng_status status = log->flusher ? ENG_OK : log_flush_once(log, 0);
    if (status != ENG_OK)
        return status;
    struct log_deadline deadline = log_deadline_in(timeout_ms);
    pthread_mutex_lock(&log->mutex);
    while (status == ENG_OK && log_durable(log) < offset) {
        if (atomic_load_explicit(&log->failed, memory_order_relaxed))
            status = log_failed(log);
        else if (atomic_load_explicit(&log->closed, memory_order_relaxed))
            status = eng_fail(ENG_CLOSED, "%s: the log is closed", log->files.dir);
        else if (!log_wait_on(log, &log->durable_changed, &deadline))
            status = eng_fail(ENG_TIMEOUT, "%s: log offset %llu is not durable after %d ms", log->files.dir,
                              (unsigned long long)offset, timeout_ms);
    }
    pthread_mutex_unlock(&log->mutex);
    return status;
}

/* --- the consumer -------------------------------------------------------------------------------------------- */

/* The bytes of a payload in one piece: in the ring, or copied out if they wrap. */
static enum eng_status payload_at(struct log *log, uint64_t offset, uint32_t length, const uint8_t **payload)
{
    uint64_t contiguous;
    *payload = log_ring_at(&log->ring, offset, length, &contiguous);
    if (contiguous == length)
        return ENG_OK;
    if (length > log->wrapped_capacity) {
        uint8_t *grown = realloc(log->wrapped, length);
        if (grown == NULL)
            return eng_fail(ENG_NO_MEMORY, "%s: no memory for a record of %u bytes", log->files.dir, length);
        log->wrapped = grown;
        log->wrapped_capacity = length;
    }
    log_ring_copy_out(&log->ring, offset, log->wrapped, length);
    *payload = log->wrapped;
    return ENG_OK;
}

/* Lets go of everything before offset. */
static void consumed_to(struct log *log, uint64_t offset)
{
    if (atomic_load_explicit(&log->consumed, memory_order_relaxed) == offset) /* this thread's own */
        return;
    /* release: the bytes were read, for who reuses them; seq_cst: against space_waiting */
    atomic_store_explicit(&log->consumed, offset, memory_order_seq_cst);
    log_space_wake(log);
}

/* Waits for a record at the cursor. */
static enum eng_status wait_for_record(struct log *log, int timeout_ms)
{
    if (log->cursor < log_ring_published(&log->ring) || log->cursor < log_ring_advance(&log->ring))
        return ENG_OK;
    struct log_deadline deadline = log_deadline_in(timeout_ms);
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&log->mutex);
    if (log_wait_published(log, log->cursor + 1, &deadline) <= log->cursor) {
        if (atomic_load_explicit(&log->failed, memory_order_relaxed))
            status = log_failed(log);
        else if (atomic_load_explicit(&log->closing, memory_order_relaxed))
            status = eng_fail(ENG_CLOSED, "%s: the log is closing", log->files.dir);
        else
            status = eng_fail(ENG_TIMEOUT, "%s: no record after %d ms", log->files.dir, timeout_ms);
    }
    pthread_mutex_unlock(&log->mutex); /* when closing the log may be gone from here on */
    return status;
}

enum eng_status log_next(struct log *log, int timeout_ms, struct log_record *record)
{
    checked(log);
    assert(log->consumer);
    consumed_to(log, log->held_end);
    for (;;) {
        enum eng_status status = wait_for_record(log, timeout_ms);
        if (status != ENG_OK)
            return status;
        struct log_record_header header;
        log_ring_copy_out(&log->ring, log->cursor, &header, sizeof header);
        assert(header.offset == log->cursor);
        uint64_t end = log->cursor + log_record_bytes(header.length);
        if (header.type < LOG_USER) {
            log->cursor = log->held_end = end;
            consumed_to(log, end);
            continue;
        }
        status = payload_at(log, log->cursor + sizeof header, header.length, &record->payload);
        if (status != ENG_OK)
            return status;
        record->offset = log->cursor;
        record->end = end;
        record->type = header.type;
        record->length = header.length;
        log->cursor = log->held_end = end;
        return ENG_OK;
    }
}

/* --- reading back -------------------------------------------------------------------------------------------- */

static enum eng_status grow(struct log *log, uint8_t **buffer, size_t *capacity, uint64_t bytes)
{
    if (*buffer != NULL && *capacity >= bytes)
        return ENG_OK;
    uint8_t *grown = realloc(*buffer, (size_t)bytes);
    if (grown == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s: no memory for a record of %llu bytes", log->files.dir,
                        (unsigned long long)bytes);
    *buffer = grown;
    *capacity = (size_t)bytes;
    return ENG_OK;
}

enum eng_status log_read_at(struct log *log, uint64_t offset, uint8_t **buffer, size_t *capacity,
                            struct log_record *record)
{
    checked(log);
    uint64_t durable = log_durable(log);
    if (offset % LOG_ALIGN != 0)
        return eng_fail(ENG_INVALID, "%s: log offset %llu: not the start of a record", log->files.dir,
                        (unsigned long long)offset);
    if (offset >= durable)
        return eng_fail(ENG_NOT_FOUND, "%s: log offset %llu: the end", log->files.dir, (unsigned long long)offset);
    if (offset < log_begin(log))
        return gone(&log->files, offset, log_begin(log));
    struct log_record_header header;
    uint64_t got = durable - offset < READ_AHEAD_BYTES ? durable - offset : READ_AHEAD_BYTES;
    enum eng_status status = grow(log, buffer, capacity, READ_AHEAD_BYTES);
    if (status == ENG_OK && got >= sizeof header)
        status = log_files_read(&log->files, offset, *buffer, got);
    if (status != ENG_OK)
        return status;
    memcpy(&header, *buffer, sizeof header);
    if (got < sizeof header || !log_header_possible(&header, offset, durable))
        return log_files_damaged(&log->files, offset, "not valid: its header is not that of a record at this offset");
    uint64_t bytes = log_record_bytes(header.length);
    if (bytes > got) {
        status = grow(log, buffer, capacity, bytes);
        if (status == ENG_OK)
            status = log_files_read(&log->files, offset + got, *buffer + got, bytes - got);
        if (status != ENG_OK)
            return status;
    }
    if (!log_record_valid(*buffer, log_seed(&log->files.key, offset / log->files.file_bytes)))
        return log_files_damaged(&log->files, offset, "not valid: the checksum does not match");
    *record = (struct log_record){.offset = offset,
                                  .end = offset + bytes,
                                  .type = header.type,
                                  .length = header.length,
                                  .payload = *buffer + sizeof header};
    return ENG_OK;
}

uint64_t log_begin(const struct log *log)
{
    return atomic_load_explicit(&log->begin, memory_order_acquire); /* partner: log_trim */
}

enum eng_status log_trim(struct log *log, uint64_t offset)
{
    checked(log);
    pthread_mutex_lock(&log->trimming);
    /* The file of the last mark stays, so that a first whole record can be found in what is kept. */
    uint64_t mark = atomic_load_explicit(&log->mark_last, memory_order_relaxed);
    uint64_t keep = offset < mark ? offset : mark;
    enum eng_status status = log_files_trim(&log->files, keep / log->files.file_bytes);
    uint64_t begin;
    if (status == ENG_OK)
        status = log_scan_first(&log->files, log_durable(log), &begin);
    if (status == ENG_OK)
        atomic_store_explicit(&log->begin, begin, memory_order_release); /* partner: log_begin */
    pthread_mutex_unlock(&log->trimming);
    return status;
}

uint64_t log_disk_bytes(const struct log *log)
{
    struct log_files *files =
        (struct log_files *)(uintptr_t)&log->files; /* const for the caller: only the mutex changes */
    uint64_t begin = log_files_begin(files), end = log_files_end(files);
    return (end - begin) / files->file_bytes * (LOG_HEADER_BYTES + files->file_bytes);
}
