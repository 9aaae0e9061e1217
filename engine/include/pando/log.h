/*
 * The write-ahead log: one ring that many threads write at once, one order, one flush for all that waited.
 * (The idea is Holt's shared ring; the durable-below mark is our own, see engine/README.md.)
 *
 * Happy path of a writer: log_reserve (takes space credit, then one fetch_add: this fixes the place in the order),
 * fills the payload in parallel with the others, log_publish, and later log_wait(end) until the flusher's write and
 * fdatasync covered it. A writer that reserved always publishes: nothing between the two may fail.
 *
 * A log is one stream of bytes numbered by a 64-bit offset that never restarts. Records begin at multiples of 8. The
 * stream is cut into files of equal size (log/00000000000000.log ...), preallocated; a record may cross from one file
 * into the next. A record is valid if and only if its header names its own offset and a possible length, and its
 * checksum (XXH3 over header and payload, seeded with the store id, the number of the file it begins in and a random
 * salt of the log, so that no payload can contain a record that is valid where it lies) matches.
 * Each flush has, behind its records, a mark record that names the offset that was durable before it (log_flush.c says
 * when it may be left out), and closing adds one that names all; so an invalid record below the highest such offset is
 * damage (ENG_DAMAGED, naming file and offset), and above it a torn tail, which log_open cuts off: the rest of the file
 * is zeroed, later files are removed and both are synced before the first append, so that no stale record can ever
 * follow a new one.
 *
 * Files are never removed by the log itself: they are the block store. log_trim removes whole files below an offset.
 *
 * Threads: reserve, publish, wait, durable and log_read_at from any thread; log_next by one consumer thread.
 * A failed write or sync stops the log for good: log_wait returns ENG_IO then, log_reserve too. It is never retried.
 */
#ifndef PANDO_LOG_H
#define PANDO_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/disk.h"
#include "pando/limits.h"
#include "pando/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct log;

struct log_options {
    struct disk *disk;
    const char *dir;                      /* "log", created if absent */
    uint8_t store_id[ENG_STORE_ID_BYTES]; /* every file names it; another one is ENG_FOREIGN */
    uint64_t file_bytes;                  /* content bytes a file, 0: default; kept in the files */
    uint64_t ring_bytes;                  /* power of two, 0: default; also bounds what is not yet consumed */
    bool flusher;                         /* true: a thread flushes; false: log_flush does, in the caller */
    bool consumer;                        /* true: ring space is freed only behind log_next */
    bool unsynced;                        /* true: log_durable means written to the system; log_sync syncs */
    bool made;                            /* true: this log was made before; without files it is ENG_DAMAGED */
};

/* Record types 1..31 belong to the log, the others to its user. */
enum { LOG_MARK = 1, LOG_USER = 32 };

struct log_record {
    uint64_t offset; /* of the record */
    uint64_t end;    /* offset of the next one */
    uint32_t type;
    uint32_t length; /* payload bytes */
    const uint8_t *payload;
};

/* Opens the log and finds its end (reading from scan_from, the offset of a record or 0, on). The valid prefix is then
 * readable by log_read_at; appending goes on after it. Without any file a new log is made, unless options.made, or
 * scan_from > 0, says that there was one: then files are missing, which is ENG_DAMAGED and changes nothing, and so is a
 * log that ends before scan_from. ENG_GONE: scan_from lies before the first record kept. */
ENG_MUST_CHECK enum eng_status log_open(const struct log_options *options, uint64_t scan_from, struct log **log);
/* Flushes what is published, stops the flusher. Threads blocked in a call are woken with ENG_CLOSED (log_wait with
 * ENG_OK if the last flush covered it); no other call may be under way or follow. NULL inside is allowed. */
void log_close(struct log **log);

struct log_ticket {
    uint64_t offset, end; /* of the record in the stream */
    uint32_t length;
    uint32_t type;
    void *internal[2];
};

/* Reserves a record of length payload bytes. Waits up to timeout_ms (0: not at all, -1: for ever) for ring space, then
 * ENG_BUSY. ENG_FULL: no space for another log file; nothing is lost, the next call tries again. ENG_TOO_LARGE: never
 * fits into the ring. ENG_IO: the log has failed. ENG_CLOSED: log_close was called. On ENG_OK the caller must call
 * log_fill as often as needed and log_publish once. */
ENG_MUST_CHECK enum eng_status log_reserve(struct log *log, uint32_t type, uint32_t length, int timeout_ms,
                                           struct log_ticket *ticket);
/* Copies length bytes to position at of the payload (handles the wrap of the ring). */
void log_fill(struct log *log, struct log_ticket *ticket, uint32_t at, const void *bytes, uint32_t length);
void log_publish(struct log *log, struct log_ticket *ticket);
/* The three in one. *end is what to wait for. */
ENG_MUST_CHECK enum eng_status log_append(struct log *log, uint32_t type, const void *payload, uint32_t length,
                                          int timeout_ms, uint64_t *offset, uint64_t *end);

/* The same at once or not at all (ENG_BUSY: no ring space), and nobody waits for it: it is written with what is
 * appended next, or when some of its kind have gathered. */
ENG_MUST_CHECK enum eng_status log_append_later(struct log *log, uint32_t type, const void *payload, uint32_t length);
/* Makes sure that there is disk space for so many records with that many payload bytes in all; it is theirs if nobody
 * else appends before. ENG_FULL, ENG_IO. */
ENG_MUST_CHECK enum eng_status log_room(struct log *log, uint64_t payload_bytes, uint32_t records);

/* Everything before the returned offset is on stable storage. */
uint64_t log_durable(const struct log *log);
/* Offset after the last reserved record. */
uint64_t log_end(const struct log *log);
/* Waits until log_durable() >= offset (without a flusher it flushes first). ENG_TIMEOUT, ENG_IO (the log has failed),
 * ENG_CLOSED. timeout_ms -1: for ever. */
ENG_MUST_CHECK enum eng_status log_wait(struct log *log, uint64_t offset, int timeout_ms);
/* One write and one sync of everything published so far, in the calling thread: of a log without a flusher, or when
 * nobody is to be waited for. */
ENG_MUST_CHECK enum eng_status log_flush(struct log *log);

/* Of a log that is opened unsynced: flushes, and everything written so far is on stable storage. A power loss may take
 * the records since the last one, and only those at the end. Otherwise the same as log_flush. */
ENG_MUST_CHECK enum eng_status log_sync(struct log *log);

/* The next published record after the last one, in stream order, whether durable or not; marks are passed over. Waits
 * up to timeout_ms: ENG_TIMEOUT. The payload is valid until the next call. Only with options.consumer; one thread. */
ENG_MUST_CHECK enum eng_status log_next(struct log *log, int timeout_ms, struct log_record *record);

/* Reads the record at an offset from the files (marks included), checksum verified, into a buffer that grows:
 * *buffer and *capacity are as for getline(3), the caller frees. ENG_NOT_FOUND at the end of the valid (flushed)
 * stream; ENG_GONE below the first kept file; ENG_DAMAGED names file and offset. */
ENG_MUST_CHECK enum eng_status log_read_at(struct log *log, uint64_t offset, uint8_t **buffer, size_t *capacity,
                                           struct log_record *record);
/* Offline: reads every record that is kept, and calls report(context, line) for each fault, naming file and offset: a
 * record that is not valid below what a mark says was durable, a bad header; and, if the log was made before and had
 * reached an offset whose records are still needed, that it has no files or none with this place. Nothing is changed
 * but what a crash left half made is removed. ENG_OK when it came to the end, whatever was reported; ENG_IO,
 * ENG_NO_MEMORY.
 */
ENG_MUST_CHECK enum eng_status log_check(struct disk *disk, const char *dir, const uint8_t *store_id, bool made,
                                         uint64_t reached, void (*report)(void *context, const char *line),
                                         void *context);

/* First offset still kept. */
uint64_t log_begin(const struct log *log);
/* Removes whole files that end at or before offset, but never the one the last mark lies in. */
ENG_MUST_CHECK enum eng_status log_trim(struct log *log, uint64_t offset);
/* Bytes on disk, all files. */
uint64_t log_disk_bytes(const struct log *log);

#ifdef __cplusplus
}
#endif

#endif
