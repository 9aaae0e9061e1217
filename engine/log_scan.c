/*
 * Recovery of the log: where it ends, whether it is damaged, and cutting off a torn tail.
 *
 * Happy path: log_scan walks from record to record through a window of the files until one is not valid; that is the
 * end. Then it searches all that follows, at every multiple of 8, for valid marks: a mark was written only after
 * everything below the offset it names had been synced, so a mark naming more than the end proves that the invalid
 * record is damage and not a torn tail. Behind the last flush of a healthy log are only zeros, which the search passes
 * at the speed of memory.
 *
 * log_scan_cut then removes whatever the torn tail left: files behind the one the end lies in, newest first, then the
 * bytes after the end. Done again after a crash in the middle it does the same, because the record at the end stays
 * invalid while bytes behind it become zero: a sector of it that is missing was zero and stays so. Only when all that
 * is stable may the log append, or a record of the old tail could follow a new one and be taken for valid.
 * It also syncs what the scan read beyond the last durable offset named: a process that was killed leaves records that
 * can be read but are not on the disk yet.
 *
 * Ways to fail: ENG_DAMAGED naming file and offset; ENG_IO, ENG_NO_MEMORY. Nothing is changed by log_scan.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "log_scan.h"

#define WINDOW_BYTES (256u << 10)
#define SEARCH_OVERLAP LOG_MARK_BYTES

/* Part of the stream in memory: [base, base + length). */
struct window {
    struct log_files *files;
    uint64_t limit; /* nothing is read past it */
    uint8_t *bytes;
    uint64_t capacity, base, length;
};

/* Makes [offset, offset + length) readable at *bytes; the caller has checked it against the limit. */
static enum eng_status window_get(struct window *window, uint64_t offset, uint64_t length, const uint8_t **bytes)
{
    assert(offset + length <= window->limit);
    if (offset < window->base || offset + length > window->base + window->length) {
        uint64_t want = length > WINDOW_BYTES ? length : WINDOW_BYTES;
        if (want > window->limit - offset)
            want = window->limit - offset;
        if (want > window->capacity) {
            uint8_t *grown = realloc(window->bytes, want);
            if (grown == NULL)
                return eng_fail(ENG_NO_MEMORY, "%s: out of memory reading the log", window->files->dir);
            window->bytes = grown;
            window->capacity = want;
        }
        window->length = 0;
        enum eng_status status = log_files_read(window->files, offset, window->bytes, want);
        if (status != ENG_OK)
            return status;
        window->base = offset;
        window->length = want;
    }
    *bytes = window->bytes + (offset - window->base);
    return ENG_OK;
}

/* Is there a valid record at offset? *record is its bytes then. */
static enum eng_status record_get(struct window *window, uint64_t offset, const uint8_t **record, bool *valid)
{
    struct log_files *files = window->files;
    struct log_record_header header;
    *valid = false;
    if (window->limit - offset < sizeof header)
        return ENG_OK;
    enum eng_status status = window_get(window, offset, sizeof header, record);
    if (status != ENG_OK)
        return status;
    memcpy(&header, *record, sizeof header);
    if (!log_header_possible(&header, offset, window->limit))
        return ENG_OK;
    status = window_get(window, offset, log_record_bytes(header.length), record);
    if (status == ENG_OK)
        *valid = log_record_valid(*record, log_seed(&files->key, offset / files->file_bytes));
    return status;
}

static enum eng_status scan_records(struct window *window, struct log_scan *scan)
{
    for (;;) {
        const uint8_t *record;
        bool valid;
        enum eng_status status = record_get(window, scan->end, &record, &valid);
        if (status != ENG_OK || !valid)
            return status;
        struct log_mark mark;
        memcpy(&mark.header, record, sizeof mark.header);
        if (mark.header.type == LOG_MARK) {
            memcpy(&mark, record, sizeof mark);
            scan->mark = scan->end;
            if (mark.durable > scan->named)
                scan->named = mark.durable;
        }
        scan->end += log_record_bytes(mark.header.length);
    }
}

/* A place whose first eight bytes are those of a mark. */
static enum eng_status consider_mark(struct window *window, uint64_t offset, struct log_scan *scan)
{
    const uint8_t *record;
    bool valid;
    enum eng_status status = record_get(window, offset, &record, &valid);
    if (status != ENG_OK || !valid)
        return status;
    struct log_mark mark;
    memcpy(&mark, record, sizeof mark);
    if (mark.durable > scan->named)
        scan->named = mark.durable;
    return ENG_OK;
}

/* Searches [scan->end, limit) for marks and for the last byte that is not zero. */
static enum eng_status search_tail(struct window *window, struct log_scan *scan)
{
    scan->dirty_end = scan->end;
    uint64_t at = scan->end;
    while (at < window->limit) {
        uint64_t length = window->limit - at < WINDOW_BYTES ? window->limit - at : WINDOW_BYTES;
        const uint8_t *bytes;
        enum eng_status status = window_get(window, at, length, &bytes);
        if (status != ENG_OK)
            return status;
        /* the last words of a window are looked at again in the next one, where a whole mark fits */
        uint64_t look = at + length == window->limit ? length : length - SEARCH_OVERLAP;
        for (uint64_t i = 0; i < look; i += LOG_ALIGN) {
            uint64_t word;
            memcpy(&word, bytes + i, sizeof word);
            if (word == 0)
                continue;
            scan->dirty_end = at + i + LOG_ALIGN;
            if (word == LOG_MARK_WORD && i + LOG_MARK_BYTES <= length) {
                status = consider_mark(window, at + i, scan);
                if (status != ENG_OK)
                    return status;
            }
        }
        at += look;
    }
    return ENG_OK;
}

enum eng_status log_scan(struct log_files *files, uint64_t from, struct log_scan *scan)
{
    assert(from % LOG_ALIGN == 0);
    *scan = (struct log_scan){.from = from, .end = from};
    struct window window = {.files = files, .limit = log_files_end(files)};
    if (from > window.limit)
        return log_files_missing(files, from);
    enum eng_status status = scan_records(&window, scan);
    if (status == ENG_OK)
        status = search_tail(&window, scan);
    free(window.bytes);
    if (status == ENG_OK && scan->named > scan->end) {
        char why[128];
        snprintf(why, sizeof why, "not valid, although a later mark says that all before log offset %llu was durable",
                 (unsigned long long)scan->named);
        return log_files_damaged(files, scan->end, why);
    }
    return status;
}

static enum eng_status zero_range(struct log_files *files, uint64_t from, uint64_t to)
{
    static const uint8_t zeros[16384];
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && from < to) {
        uint64_t n = to - from < sizeof zeros ? to - from : sizeof zeros;
        status = log_files_write(files, from, zeros, n);
        from += n;
    }
    return status;
}

/* So that these bytes are dirty again: after a sync that failed they can be read, count as clean, and need not be on
 * the disk. */
static enum eng_status rewrite_range(struct log_files *files, uint64_t from, uint64_t to)
{
    uint8_t bytes[16384];
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && from < to) {
        uint64_t n = to - from < sizeof bytes ? to - from : sizeof bytes;
        status = log_files_read(files, from, bytes, n);
        if (status == ENG_OK)
            status = log_files_write(files, from, bytes, n);
        from += n;
    }
    return status;
}

enum eng_status log_scan_cut(struct log_files *files, const struct log_scan *scan)
{
    enum eng_status status = ENG_OK;
    uint64_t dirty = scan->dirty_end;
    uint64_t file_end = scan->end - scan->end % files->file_bytes + files->file_bytes;
    if (dirty > file_end) {
        status = log_files_cut(files, scan->end / files->file_bytes);
        dirty = file_end;
    }
    if (status == ENG_OK)
        status = zero_range(files, scan->end, dirty);
    uint64_t from = scan->named > scan->from ? scan->named : scan->from; /* before this all is stable */
    if (status == ENG_OK && from < scan->end)
        status = rewrite_range(files, from, scan->end);
    if (status == ENG_OK && from < dirty)
        status = log_files_sync(files, from, dirty);
    return status;
}

/* One line for what eng_error() says; other errors are passed on. */
static enum eng_status reported(enum eng_status status, void (*report)(void *context, const char *line), void *context)
{
    if (status != ENG_DAMAGED && status != ENG_FOREIGN && status != ENG_VERSION)
        return status;
    report(context, eng_error());
    return ENG_OK;
}

/* Reads to the end, passing over what is damaged: from one whole record that can be found to the next. */
static enum eng_status check_records(struct log_files *files, void (*report)(void *context, const char *line),
                                     void *context)
{
    uint64_t at, limit = log_files_end(files);
    enum eng_status status = log_scan_first(files, limit, &at);
    while (status == ENG_OK && at < limit) {
        struct log_scan scan;
        status = log_scan(files, at, &scan);
        if (status != ENG_DAMAGED)
            return status;
        report(context, eng_error());
        struct window window = {.files = files, .limit = limit};
        const uint8_t *record;
        bool valid = false;
        status = ENG_OK;
        for (at = scan.end + LOG_ALIGN; status == ENG_OK && at < limit; at += LOG_ALIGN) {
            status = record_get(&window, at, &record, &valid);
            if (valid)
                break;
        }
        free(window.bytes);
    }
    return status;
}

enum eng_status log_check(struct disk *disk, const char *dir, const uint8_t *store_id, bool made, uint64_t reached,
                          void (*report)(void *context, const char *line), void *context)
{
    struct log_files files;
    if (!made && !disk_exists(disk, dir))
        return ENG_OK;
    enum eng_status status = log_files_open(&files, disk, dir, store_id, LOG_FILE_BYTES_DEFAULT, made);
    if (status != ENG_OK)
        return reported(status, report, context);
    if (made && (reached < log_files_begin(&files) || reached > log_files_end(&files)))
        status = reported(log_files_missing(&files, reached), report, context);
    if (status == ENG_OK && log_files_end(&files) > 0)
        status = reported(check_records(&files, report, context), report, context);
    log_files_close(&files);
    return status;
}

enum eng_status log_scan_first(struct log_files *files, uint64_t limit, uint64_t *first)
{
    struct window window = {.files = files, .limit = limit};
    enum eng_status status = ENG_OK;
    bool valid = false;
    uint64_t at = log_files_begin(files);
    if (at == 0) { /* nothing was ever removed */
        *first = 0;
        return ENG_OK;
    }
    for (; status == ENG_OK && !valid && at < limit; at += LOG_ALIGN) {
        const uint8_t *record = NULL;
        status = record_get(&window, at, &record, &valid);
        if (valid)
            break;
    }
    free(window.bytes);
    *first = at < limit ? at : limit;
    return status;
}
