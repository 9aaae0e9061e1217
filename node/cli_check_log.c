/*
 * Reading a log without opening it for writing: what `pando check` says about log/.
 *
 * log_open finds the end of the stream and cuts a torn tail off; a check must not change what it looks at, so it reads
 * the files itself, in the form of engine/log_format.h. Happy path: the names are listed, every file's header is
 * checked, then the records are read one after the other, across the ends of files, until one is not valid. From there
 * to the end of the last file valid marks are searched: one that names more than the end means that what is missing was
 * durable, which is damage; otherwise it is a torn tail.
 *
 * Ways to fail: a file is missing in the middle, has a wrong header, or belongs to another ledger; a record is damaged.
 * Each is reported with file and offset. The first file may begin within a record if older ones were removed: the first
 * whole record in it is searched for.
 */
#include "cli_check.h"

#include "../engine/log_format.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW_BYTES (1u << 20)

struct reading {
    const struct ledger_log_check *check;
    uint64_t first, count, file_bytes; /* files [first, first + count) */
    struct log_key key;
    struct disk_file *file; /* the one that is open */
    uint64_t file_number;
    uint8_t *window; /* stream bytes [at, at + length) */
    size_t capacity, length;
    uint64_t at;
};

struct names {
    uint64_t first, last, count;
};

static void note_name(void *context, const char *name)
{
    struct names *names = context;
    unsigned long long number;
    int used = 0;
    if (sscanf(name, "%14llu.log%n", &number, &used) != 1 || used != 18 || name[used])
        return;
    if (names->count == 0 || number < names->first)
        names->first = number;
    if (names->count == 0 || number > names->last)
        names->last = number;
    names->count++;
}

static void file_name(const struct reading *reading, uint64_t number, char path[320])
{
    snprintf(path, 320, "%s/%014llu.log", reading->check->dir, (unsigned long long)number);
}

/* Reports the place of a stream offset and what is wrong there. */
static enum eng_status fault(const struct reading *reading, uint64_t offset, const char *what)
{
    char path[320], line[512];
    file_name(reading, offset / reading->file_bytes, path);
    snprintf(line, sizeof line, "%s: byte %llu: %s", path,
             (unsigned long long)(offset % reading->file_bytes + LOG_HEADER_BYTES), what);
    reading->check->report(reading->check->context, line);
    return eng_fail(ENG_DAMAGED, "%s", line);
}

static enum eng_status header_fault(const struct reading *reading, enum eng_status status, uint64_t number,
                                    const char *what)
{
    char path[320], line[512];
    file_name(reading, number, path);
    snprintf(line, sizeof line, "%s: %s", path, what);
    if (status == ENG_DAMAGED)
        reading->check->report(reading->check->context, line);
    return eng_fail(status, "%s", line);
}

static enum eng_status open_file(struct reading *reading, uint64_t number)
{
    if (reading->file && reading->file_number == number)
        return ENG_OK;
    disk_file_close(&reading->file);
    char path[320];
    file_name(reading, number, path);
    reading->file_number = number;
    return disk_open(reading->check->disk, path, DISK_READ, &reading->file);
}

static enum eng_status check_header(struct reading *reading, uint64_t number)
{
    struct log_file_header header;
    uint64_t size;
    enum eng_status status = open_file(reading, number);
    if (status == ENG_NOT_FOUND)
        return header_fault(reading, ENG_DAMAGED, number, "missing");
    if (status == ENG_OK)
        status = disk_size(reading->file, &size);
    if (status == ENG_OK && size < sizeof header)
        return header_fault(reading, ENG_DAMAGED, number, "shorter than its header");
    if (status == ENG_OK)
        status = disk_read(reading->file, 0, &header, sizeof header);
    if (status != ENG_OK)
        return status;
    if (memcmp(header.magic, "PANDOLOG", 8) != 0 ||
        header.checksum != XXH3_64bits(&header, offsetof(struct log_file_header, checksum)))
        return header_fault(reading, ENG_DAMAGED, number, "the header's checksum does not match");
    if (header.version != LOG_VERSION)
        return header_fault(reading, ENG_VERSION, number,
                            header.version > LOG_VERSION ? "written by a newer version"
                                                         : "written by an older version");
    if (memcmp(header.store_id, reading->check->store_id, ENG_STORE_ID_BYTES) != 0)
        return header_fault(reading, ENG_FOREIGN, number, "belongs to another ledger");
    if (reading->file_bytes == 0) {
        reading->file_bytes = header.file_bytes;
        memcpy(reading->key.store_id, header.store_id, sizeof header.store_id);
        memcpy(reading->key.salt, header.salt, sizeof header.salt);
    }
    if (memcmp(header.salt, reading->key.salt, sizeof header.salt) != 0)
        return header_fault(reading, ENG_DAMAGED, number, "the header has not the salt of the other files");
    if (header.number != number || header.file_bytes != reading->file_bytes || header.file_bytes < LOG_FILE_BYTES_MIN)
        return header_fault(reading, ENG_DAMAGED, number, "the header names another file");
    if (size < LOG_HEADER_BYTES + header.file_bytes)
        return header_fault(reading, ENG_DAMAGED, number, "shorter than its header says");
    return ENG_OK;
}

static uint64_t stream_end(const struct reading *reading)
{
    return (reading->first + reading->count) * reading->file_bytes;
}

/* Fills the window with [offset, offset + length) at least. */
static enum eng_status look(struct reading *reading, uint64_t offset, size_t length, const uint8_t **bytes)
{
    assert(offset + length <= stream_end(reading));
    if (offset < reading->at || offset + length > reading->at + reading->length) {
        size_t want = length > WINDOW_BYTES ? length : WINDOW_BYTES;
        if (want > stream_end(reading) - offset)
            want = (size_t)(stream_end(reading) - offset);
        if (want > reading->capacity) {
            uint8_t *window = realloc(reading->window, want);
            if (!window)
                return eng_fail(ENG_NO_MEMORY, "%s: no memory to read a record", reading->check->dir);
            reading->window = window;
            reading->capacity = want;
        }
        reading->at = offset;
        reading->length = 0;
        while (reading->length < want) {
            uint64_t place = offset + reading->length, in_file = place % reading->file_bytes;
            size_t part = want - reading->length;
            if (part > reading->file_bytes - in_file)
                part = (size_t)(reading->file_bytes - in_file);
            enum eng_status status = open_file(reading, place / reading->file_bytes);
            if (status == ENG_OK)
                status = disk_read(reading->file, LOG_HEADER_BYTES + in_file, reading->window + reading->length, part);
            if (status != ENG_OK)
                return status;
            reading->length += part;
        }
    }
    *bytes = reading->window + (offset - reading->at);
    return ENG_OK;
}

/* *valid: whether a record begins at offset; then record is filled in. */
static enum eng_status record_at(struct reading *reading, uint64_t offset, struct log_record *record, bool *valid)
{
    const uint8_t *bytes;
    struct log_record_header header;
    *valid = false;
    if (stream_end(reading) - offset < sizeof header)
        return ENG_OK;
    enum eng_status status = look(reading, offset, sizeof header, &bytes);
    if (status != ENG_OK)
        return status;
    memcpy(&header, bytes, sizeof header);
    if (!log_header_possible(&header, offset, stream_end(reading)))
        return ENG_OK;
    status = look(reading, offset, (size_t)log_record_bytes(header.length), &bytes);
    if (status != ENG_OK)
        return status;
    *valid = log_record_valid(bytes, log_seed(&reading->key, offset / reading->file_bytes));
    *record = (struct log_record){offset, offset + log_record_bytes(header.length), header.type, header.length,
                                  bytes + sizeof header};
    return ENG_OK;
}

/* Reads on from end, where no valid record is, for marks that say that more had been durable. */
static enum eng_status check_tail(struct reading *reading, uint64_t end, uint64_t durable)
{
    for (uint64_t at = end; durable <= end && at + LOG_ALIGN <= stream_end(reading); at += LOG_ALIGN) {
        const uint8_t *bytes;
        uint64_t word;
        enum eng_status status = look(reading, at, LOG_ALIGN, &bytes);
        if (status != ENG_OK)
            return status;
        memcpy(&word, bytes, sizeof word);
        if (word != LOG_MARK_WORD)
            continue;
        struct log_record record;
        bool valid;
        status = record_at(reading, at, &record, &valid);
        if (status != ENG_OK)
            return status;
        if (valid)
            memcpy(&durable, record.payload, sizeof durable);
    }
    return durable > end ? fault(reading, end, "a record that had been durable is damaged") : ENG_OK;
}

static enum eng_status check_records(struct reading *reading)
{
    uint64_t at = reading->first * reading->file_bytes, durable = 0;
    bool started = reading->first == 0;
    for (;;) {
        struct log_record record;
        bool valid;
        enum eng_status status = record_at(reading, at, &record, &valid);
        if (status != ENG_OK)
            return status;
        if (valid) {
            started = true;
            if (record.type == LOG_MARK) {
                uint64_t named;
                memcpy(&named, record.payload, sizeof named);
                durable = named > durable ? named : durable;
            } else {
                reading->check->each(reading->check->context, &record);
            }
            at = record.end;
        } else if (!started && at + LOG_ALIGN < stream_end(reading)) {
            at += LOG_ALIGN;
        } else {
            return check_tail(reading, at, durable);
        }
    }
}

enum eng_status ledger_log_check(const struct ledger_log_check *check)
{
    struct names names = {0};
    enum eng_status status = disk_list(check->disk, check->dir, note_name, &names);
    if (status != ENG_OK)
        return status;
    struct reading reading = {.check = check, .first = names.first, .count = names.last - names.first + 1};
    if (names.count == 0) {
        check->report(check->context, "log: no files");
        return eng_fail(ENG_DAMAGED, "%s: no files", check->dir);
    }
    for (uint64_t i = 0; status == ENG_OK && i < reading.count; i++)
        status = check_header(&reading, reading.first + i);
    if (status == ENG_OK)
        status = check_records(&reading);
    disk_file_close(&reading.file);
    free(reading.window);
    return status;
}
