/*
 * The log: order, contents, group commit, waiting, wrapping, crossing files, reopening, damage, a full disk, failing
 * calls, trimming, many threads. Crashes are in prog_log_crash.c, killed processes in prog_log_kill.c.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "expect_status.h"
#include "log_format.h"
#include "pando/log.h"

static struct disk *disk;
static struct log_options options;
static struct log *writing; /* the log under test */

static void set_up(void)
{
    ok(disk_sim_open(0, &disk));
    options = (struct log_options){.disk = disk, .dir = "log", .file_bytes = 8192, .ring_bytes = 4096};
    memset(options.store_id, 7, sizeof options.store_id);
}

static void tear_down(void)
{
    log_close(&writing);
    disk_close(&disk);
}

static void reopen(uint64_t from)
{
    log_close(&writing);
    ok(log_open(&options, from, &writing));
}

/* Record number i: its length and bytes depend on i alone. */
static uint32_t record_length(unsigned i)
{
    return i * 2654435761u % 700;
}

static void record_bytes(unsigned i, uint8_t *bytes)
{
    for (uint32_t j = 0; j < record_length(i); j++)
        bytes[j] = (uint8_t)(i * 31 + j * 7 + j / 256);
}

static uint64_t append(unsigned i)
{
    uint8_t bytes[700] = {0};
    uint64_t offset, end;
    record_bytes(i, bytes);
    ok(log_append(writing, LOG_USER + i % 100, bytes, record_length(i), 0, &offset, &end));
    ck_assert_uint_eq(end, offset + 24 + (record_length(i) + 7) / 8 * 8);
    return offset;
}

static void check_record(const struct log_record *record, unsigned i)
{
    uint8_t bytes[700];
    record_bytes(i, bytes);
    ck_assert_uint_eq(record->type, LOG_USER + i % 100);
    ck_assert_uint_eq(record->length, record_length(i));
    ck_assert_int_eq(memcmp(record->payload, bytes, record->length), 0);
}

/* Reads all user records from an offset on and checks that they are first, first + 1, ...; returns the next number. */
static unsigned read_all(uint64_t offset, unsigned first)
{
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    enum eng_status status;
    while ((status = log_read_at(writing, offset, &buffer, &capacity, &record)) == ENG_OK) {
        ck_assert_uint_eq(record.offset, offset);
        if (record.type >= LOG_USER)
            check_record(&record, first++);
        offset = record.end;
    }
    fails(status, ENG_NOT_FOUND);
    ck_assert_uint_eq(offset, log_durable(writing));
    free(buffer);
    return first;
}

START_TEST(an_empty_log)
{
    ok(log_open(&options, 0, &writing));
    ck_assert_uint_eq(log_end(writing), 0);
    ck_assert_uint_eq(log_durable(writing), 0);
    ck_assert_uint_eq(log_begin(writing), 0);
    ck_assert_uint_eq(log_disk_bytes(writing), 4096 + 8192);
    ok(log_flush(writing));
    ok(log_wait(writing, 0, 0));
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    fails(log_read_at(writing, 0, &buffer, &capacity, &record), ENG_NOT_FOUND);
    fails(log_read_at(writing, 4, &buffer, &capacity, &record), ENG_INVALID);
    free(buffer);
    reopen(0);
    ck_assert_uint_eq(log_end(writing), 0);
    ck_assert(disk_exists(disk, "log/00000000000000.log"));
}
END_TEST

START_TEST(bytes_are_as_documented)
{
    ok(log_open(&options, 0, &writing));
    uint64_t offset, end;
    ok(log_append(writing, 40, "hello", 5, 0, &offset, &end));
    ok(log_flush(writing));
    ck_assert_uint_eq(end, 32);
    ck_assert_uint_eq(log_durable(writing), 64); /* and a mark */
    struct disk_file *file;
    ok(disk_open(disk, "log/00000000000000.log", DISK_READ, &file));
    uint8_t bytes[4096 + 64];
    ok(disk_read(file, 0, bytes, sizeof bytes));
    disk_file_close(&file);
    const uint8_t header[16] = {'P', 'A', 'N', 'D', 'O', 'L', 'O', 'G', 2, 0, 0, 0, 0, 16, 0, 0};
    ck_assert_int_eq(memcmp(bytes, header, 16), 0);
    ck_assert_int_eq(memcmp(bytes + 16, options.store_id, 32), 0);
    const uint8_t record[16] = {5, 0, 0, 0, 40, 0, 0, 0, 0};
    ck_assert_int_eq(memcmp(bytes + 4096, record, 16), 0);
    ck_assert_int_eq(memcmp(bytes + 4096 + 24, "hello\0\0\0", 8), 0);
    const uint8_t mark[16] = {8, 0, 0, 0, 1, 0, 0, 0, 32};
    ck_assert_int_eq(memcmp(bytes + 4096 + 32, mark, 16), 0);
    ck_assert_int_eq(memcmp(bytes + 4096 + 56, "\0\0\0\0\0\0\0\0", 8), 0);
    uint8_t key[48];
    memcpy(key, bytes + 16, 32);
    memcpy(key + 32, bytes + 64, 16);
    uint64_t seed = XXH3_64bits_withSeed(key, sizeof key, 0), words[3];
    memcpy(words, bytes + 4096, 16);
    words[2] = XXH3_64bits_withSeed("hello", 5, seed);
    uint64_t sum = XXH3_64bits_withSeed(words, 24, seed);
    ck_assert_int_eq(memcmp(bytes + 4096 + 16, &sum, 8), 0);
}
END_TEST

START_TEST(records_come_back_in_order)
{
    ok(log_open(&options, 0, &writing));
    uint64_t offsets[200];
    for (unsigned i = 0; i < 200; i++) { /* wraps the ring of 4 KiB and crosses files of 8 KiB many times */
        offsets[i] = append(i);
        if (i % 3 == 2)
            ok(log_flush(writing));
    }
    ok(log_flush(writing));
    ck_assert_uint_eq(log_end(writing), log_durable(writing));
    ck_assert_uint_gt(log_durable(writing), 6 * 8192);
    ck_assert_uint_eq(read_all(0, 0), 200);
    reopen(0);
    ck_assert_uint_eq(read_all(0, 0), 200);
    reopen(offsets[150]); /* only the end is read */
    ck_assert_uint_eq(read_all(offsets[150], 150), 200);
    uint64_t end = log_end(writing);
    for (unsigned round = 0; round < 3; round++) /* opening and closing adds nothing */
        reopen(round % 2 ? 0 : end);
    ck_assert_uint_eq(log_end(writing), end);
    for (unsigned i = 200; i < 250; i++) {
        append(i);
        ok(log_flush(writing));
    }
    ck_assert_uint_eq(read_all(0, 0), 250);
}
END_TEST

START_TEST(limits_are_answered)
{
    ok(log_open(&options, 0, &writing));
    struct log_ticket ticket;
    fails(log_reserve(writing, LOG_USER, 4096, 0, &ticket), ENG_TOO_LARGE);
    fails(log_reserve(writing, LOG_USER, LOG_RECORD_BYTES_MAX + 1, 0, &ticket), ENG_TOO_LARGE);
    uint8_t bytes[4096] = {1};
    ok(log_append(writing, LOG_USER, bytes, 4096 - 24 - 32, 0, NULL, NULL)); /* the largest that fits */
    fails(log_append(writing, LOG_USER, bytes, 1, 0, NULL, NULL), ENG_BUSY);
    fails(log_append(writing, LOG_USER, bytes, 1, 20, NULL, NULL), ENG_BUSY);
    ok(log_flush(writing));
    ok(log_append(writing, LOG_USER, bytes, 1, 0, NULL, NULL));
    log_close(&writing);
    struct log_options wrong = options;
    wrong.ring_bytes = 5000;
    fails(log_open(&wrong, 0, &writing), ENG_INVALID);
    wrong.ring_bytes = 4096;
    wrong.file_bytes = 5000;
    fails(log_open(&wrong, 0, &writing), ENG_INVALID);
    wrong.file_bytes = 16384; /* what the files say counts */
    ok(log_open(&wrong, 0, &writing));
    ck_assert_uint_eq(log_disk_bytes(writing), 4096 + 8192);
    log_close(&writing);
    wrong.store_id[0]++;
    fails(log_open(&wrong, 0, &writing), ENG_FOREIGN);
    ck_assert_ptr_null(writing);
}
END_TEST

START_TEST(a_record_larger_than_a_file)
{
    options.ring_bytes = 65536;
    ok(log_open(&options, 0, &writing));
    append(0);
    uint8_t *bytes = malloc(30000), *buffer = NULL;
    for (unsigned i = 0; i < 30000; i++)
        bytes[i] = (uint8_t)(i * 13 + i / 200);
    uint64_t offset, end;
    ok(log_append(writing, LOG_USER, bytes, 30000, 0, &offset, &end));
    append(1);
    ok(log_wait(writing, end, 0)); /* without a flusher the waiter flushes */
    reopen(0);
    size_t capacity = 0;
    struct log_record record;
    ok(log_read_at(writing, offset, &buffer, &capacity, &record));
    ck_assert_uint_eq(record.length, 30000);
    ck_assert_int_eq(memcmp(record.payload, bytes, 30000), 0);
    free(bytes);
    free(buffer);
}
END_TEST

START_TEST(the_consumer_reads_before_it_is_durable)
{
    options.consumer = true;
    ok(log_open(&options, 0, &writing));
    struct log_record record;
    fails(log_next(writing, 0, &record), ENG_TIMEOUT);
    unsigned appended = 0, consumed = 0;
    for (unsigned round = 0; round < 300; round++) {
        struct log_ticket first, second;
        uint8_t bytes[700];
        ok(log_reserve(writing, LOG_USER + appended % 100, record_length(appended), 0, &first));
        ok(log_reserve(writing, LOG_USER + (appended + 1) % 100, record_length(appended + 1), 0, &second));
        record_bytes(appended + 1, bytes);
        log_fill(writing, &second, 0, bytes, second.length);
        log_publish(writing, &second);
        fails(log_next(writing, 0, &record), ENG_TIMEOUT); /* the first is in the way */
        ok(log_flush(writing));
        ck_assert_uint_le(log_durable(writing), first.offset);
        record_bytes(appended, bytes);
        uint32_t half = first.length / 2;
        log_fill(writing, &first, half, bytes + half, first.length - half);
        log_fill(writing, &first, 0, bytes, half);
        log_publish(writing, &first);
        appended += 2;
        while (consumed < appended) {
            ok(log_next(writing, 0, &record));
            check_record(&record, consumed++);
            ck_assert_uint_lt(log_durable(writing), record.end);
        }
        fails(log_next(writing, 0, &record), ENG_TIMEOUT);
        if (round % 3 != 1)
            ok(log_flush(writing));
    }
    ok(log_flush(writing));
    ck_assert_uint_eq(read_all(0, 0), appended);
}
END_TEST

START_TEST(space_waits_for_the_consumer)
{
    options.consumer = true;
    ok(log_open(&options, 0, &writing));
    uint8_t bytes[1000] = {0};
    for (unsigned i = 0; i < 3; i++)
        ok(log_append(writing, LOG_USER, bytes, 1000, 0, NULL, NULL));
    ok(log_flush(writing));
    fails(log_append(writing, LOG_USER, bytes, 1000, 0, NULL, NULL), ENG_BUSY); /* flushed, not consumed */
    struct log_record record;
    ok(log_next(writing, 0, &record));
    fails(log_append(writing, LOG_USER, bytes, 1000, 0, NULL, NULL), ENG_BUSY); /* still held */
    ok(log_next(writing, 0, &record));
    ok(log_append(writing, LOG_USER, bytes, 1000, 0, NULL, NULL));
    ok(log_next(writing, 0, &record));
    ok(log_next(writing, 0, &record));
    fails(log_next(writing, 0, &record), ENG_TIMEOUT);
}
END_TEST

/* Flips every bit of the valid log, one after another: each must be found. */
START_TEST(damage_is_named)
{
    ok(log_open(&options, 0, &writing));
    for (unsigned i = 3; i < 33; i++) {
        append(i);
        ok(log_flush(writing));
    }
    uint64_t end = log_end(writing);
    log_close(&writing);
    ck_assert_uint_gt(end, 8192 + 2000);
    for (uint64_t at = 0; at < end - LOG_MARK_BYTES; at += at % 8192 < 256 ? 1 : 13) { /* nothing names the last mark */
        char path[64], place[64];
        uint64_t in_file = 4096 + at % 8192, bit = 8 * in_file + at % 8;
        snprintf(path, sizeof path, "log/%014llu.log", (unsigned long long)(at / 8192));
        ok(disk_sim_flip(disk, path, bit));
        fails(log_open(&options, 0, &writing), ENG_DAMAGED);
        unsigned long long file, byte, offset;
        ck_assert_int_eq(
            sscanf(eng_error(), "log/%llu.log: record at byte %llu (log offset %llu)", &file, &byte, &offset), 3);
        ck_assert_uint_le(offset, at);
        ck_assert_uint_lt(at, offset + 24 + 704);
        ck_assert_uint_eq(byte, 4096 + offset % 8192);
        ok(disk_sim_flip(disk, path, bit));
        snprintf(place, sizeof place, "%llu", file);
        ck_assert_uint_eq(file, offset / 8192);
    }
    for (unsigned byte = 0; byte < 4096; byte++) {
        ok(disk_sim_flip(disk, "log/00000000000000.log", 8 * byte + byte % 8));
        fails(log_open(&options, 0, &writing), ENG_DAMAGED);
        ck_assert_ptr_nonnull(strstr(eng_error(), "log/00000000000000.log: header at byte 0"));
        ok(disk_sim_flip(disk, "log/00000000000000.log", 8 * byte + byte % 8));
    }
    ok(log_open(&options, 0, &writing));
    ck_assert_uint_eq(read_all(0, 3), 33);
    ok(disk_sim_flip(disk, "log/00000000000001.log", 8 * 5000));
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record = {.end = 0};
    enum eng_status status;
    while ((status = log_read_at(writing, record.end, &buffer, &capacity, &record)) == ENG_OK)
        ;
    fails(status, ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "log/00000000000001.log"));
    free(buffer);
}
END_TEST

START_TEST(missing_files_are_damage)
{
    ok(log_open(&options, 0, &writing));
    for (unsigned i = 0; i < 100; i++) {
        append(i);
        ok(log_flush(writing));
    }
    uint64_t end = log_end(writing);
    log_close(&writing);
    ok(disk_rename(disk, "log/00000000000001.log", "log/gone"));
    fails(log_open(&options, 0, &writing), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "log/00000000000001.log"));
    ok(disk_rename(disk, "log/gone", "log/00000000000001.log"));
    ok(log_open(&options, 0, &writing));
    log_close(&writing);
    fails(log_open(&options, end + 100000, &writing), ENG_DAMAGED);
    ok(log_open(&options, end, &writing));
}
END_TEST

START_TEST(a_full_disk_is_not_the_end)
{
    disk_close(&disk);
    ok(disk_sim_open(3 * (4096 + 8192) + 5000, &disk));
    options.disk = disk;
    ok(log_open(&options, 0, &writing));
    unsigned n = 0;
    enum eng_status status;
    uint8_t bytes[700];
    for (;; n++) {
        record_bytes(n, bytes);
        status = log_append(writing, LOG_USER + n % 100, bytes, record_length(n), 0, NULL, NULL);
        if (status != ENG_OK)
            break;
        ok(log_flush(writing));
    }
    fails(status, ENG_FULL);
    ck_assert_uint_gt(n, 30);
    ck_assert_uint_eq(log_durable(writing), log_end(writing));
    ck_assert_uint_gt(log_durable(writing), 3 * 8192 - 800);
    fails(log_append(writing, LOG_USER, bytes, 699, 0, NULL, NULL), ENG_FULL);
    ok(log_flush(writing));
    ck_assert_uint_eq(read_all(0, 0), n);
    reopen(0);
    ck_assert_uint_eq(read_all(0, 0), n);
    fails(log_append(writing, LOG_USER, bytes, 699, 0, NULL, NULL), ENG_FULL);
    ok(log_trim(writing, log_durable(writing))); /* space returns */
    ck_assert_uint_gt(log_begin(writing), 0);
    for (unsigned i = n; i < n + 5; i++) {
        append(i);
        ok(log_flush(writing));
    }
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    fails(log_read_at(writing, 0, &buffer, &capacity, &record), ENG_GONE);
    uint64_t begin = log_begin(writing), end = log_end(writing);
    ok(log_read_at(writing, begin, &buffer, &capacity, &record));
    free(buffer);
    reopen(0);
    ck_assert_uint_eq(log_begin(writing), begin);
    ck_assert_uint_ge(log_end(writing), end);
    log_close(&writing);
    fails(log_open(&options, 8, &writing), ENG_GONE);
}
END_TEST

/* Every disk call made to fail once, with either status: whatever was acknowledged is there afterwards. */
START_TEST(any_call_may_fail)
{
    enum eng_status how = _i ? ENG_FULL : ENG_IO;
    for (uint64_t n = 0;; n++) {
        disk_close(&disk);
        ok(disk_sim_open(0, &disk));
        options.disk = disk;
        disk_sim_fail(disk, n, how);
        unsigned acknowledged = 0, appended = 0;
        bool stopped = false;
        if (log_open(&options, 0, &writing) == ENG_OK) {
            for (unsigned i = 0; i < 60; i++) {
                uint8_t bytes[700];
                record_bytes(appended, bytes);
                uint64_t end;
                enum eng_status status =
                    log_append(writing, LOG_USER + appended % 100, bytes, record_length(appended), 0, NULL, &end);
                ck_assert(status == ENG_OK || (status == ENG_FULL && how == ENG_FULL && !stopped) || status == ENG_IO);
                appended += status == ENG_OK;
                status = status == ENG_OK ? log_wait(writing, end, 0) : status;
                if (status == ENG_OK) {
                    ck_assert(!stopped); /* never again after a failed write or sync */
                    acknowledged = appended;
                }
                stopped |= status == ENG_IO;
            }
        }
        log_close(&writing);
        bool reached = disk_sim_calls(disk) > n;
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct disk *image;
            ok(disk_sim_crash(disk, seed, &image));
            options.disk = image;
            ok(log_open(&options, 0, &writing));
            unsigned found = read_all(0, 0);
            ck_assert_uint_ge(found, acknowledged);
            ck_assert_uint_le(found, appended);
            log_close(&writing);
            disk_close(&image);
        }
        if (!reached) {
            ck_assert_uint_eq(acknowledged, 60);
            ck_assert_uint_gt(n, 100);
            break;
        }
    }
}
END_TEST

/* Copies [from, to) of a file. */
static void copy_range(struct disk_file *target, struct disk_file *source, uint64_t from, uint64_t to)
{
    uint8_t bytes[LOG_HEADER_BYTES + 8192];
    ck_assert_uint_le(to, sizeof bytes);
    if (from < to) {
        ok(disk_read(source, from, bytes, to - from));
        ok(disk_write(target, from, bytes, to - from));
    }
}

/* After a kill the page cache holds records and names that are not on the disk: opening finds them, calls them durable,
 * and so must make them so. */
START_TEST(what_a_kill_left_becomes_stable)
{
    options.ring_bytes = 65536;
    ok(log_open(&options, 0, &writing));
    for (unsigned i = 0; i < 40; i++) {
        append(i);
        ok(log_flush(writing));
    }
    uint64_t stable = log_durable(writing); /* what the next mark names */
    for (unsigned i = 40; i < 80; i++)
        append(i);
    ok(log_flush(writing)); /* the write of this flush was done, its sync was not */
    ck_assert_uint_gt(log_durable(writing) / 8192, stable / 8192);
    struct disk *killed, *source = disk;
    ok(disk_sim_open(0, &killed));
    ok(disk_mkdir(killed, "log"));
    ok(disk_sync_dir(killed, ""));
    for (uint64_t number = 0; number * 8192 < log_durable(writing); number++) {
        char path[64];
        snprintf(path, sizeof path, "log/%014llu.log", (unsigned long long)number);
        struct disk_file *from, *to;
        ok(disk_open(source, path, DISK_READ, &from));
        ok(disk_open(killed, path, DISK_CREATE, &to));
        uint64_t begin = number * 8192, known = stable < begin ? 0 : stable - begin < 8192 ? stable - begin : 8192;
        ok(disk_extend(to, LOG_HEADER_BYTES + 8192));
        copy_range(to, from, 0, LOG_HEADER_BYTES + known);
        ok(disk_sync(to));
        if (known > 0)
            ok(disk_sync_dir(killed, "log"));
        copy_range(to, from, LOG_HEADER_BYTES + known, LOG_HEADER_BYTES + 8192);
        disk_file_close(&from);
        disk_file_close(&to);
    }
    uint64_t expected = log_durable(writing);
    log_close(&writing);
    options.disk = killed;
    ok(log_open(&options, _i ? stable : 0, &writing));
    ck_assert_uint_eq(log_durable(writing), expected);
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct disk *image;
        struct log *recovered;
        ok(disk_sim_crash(killed, seed, &image));
        options.disk = image;
        ok(log_open(&options, 0, &recovered));
        ck_assert_uint_eq(log_durable(recovered), expected);
        log_close(&recovered);
        disk_close(&image);
    }
    log_close(&writing);
    disk_close(&killed);
}
END_TEST

/* After a sync that failed the page cache holds records that are not on the disk, and takes them for written: opening
 * calls them durable, and so must make them so. */
START_TEST(what_a_failed_sync_left_becomes_stable)
{
    ok(log_open(&options, 0, &writing));
    for (unsigned i = 0; i < 3; i++) {
        append(i);
        ok(log_flush(writing));
    }
    disk_sim_fail(disk, 1, ENG_IO); /* a write, then this sync */
    append(3);
    fails(log_flush(writing), ENG_IO);
    reopen(0);
    ck_assert_uint_eq(read_all(0, 0), 4);
    for (unsigned i = 4; i < 7; i++) {
        uint64_t expected = log_durable(writing);
        for (uint64_t seed = 0; seed < 20; seed++) {
            struct disk *image;
            struct log *recovered;
            ok(disk_sim_crash(disk, seed, &image));
            options.disk = image;
            ok(log_open(&options, 0, &recovered));
            ck_assert_uint_eq(log_durable(recovered), expected);
            log_close(&recovered);
            disk_close(&image);
        }
        append(i);
        ok(log_flush(writing));
    }
}
END_TEST

/* Names of files that a failed call left undecided: what is removed after it could leave a gap. */
START_TEST(a_failed_removal_is_the_last)
{
    for (unsigned at = 0; at < 4; at++) {
        struct disk *on;
        ok(disk_sim_open(0, &on));
        options.disk = on;
        ok(log_open(&options, 0, &writing));
        uint64_t end = 0;
        for (unsigned i = 0; i < 120; i++) {
            end = append(i);
            ok(log_flush(writing));
        }
        disk_sim_fail(on, at, ENG_IO); /* the removals, and making them stable */
        fails(log_trim(writing, end), ENG_IO);
        disk_sim_fail(on, UINT64_MAX / 2, ENG_IO);
        fails(log_trim(writing, end), ENG_IO);
        ck_assert_ptr_nonnull(strstr(eng_error(), "removed"));
        for (uint64_t seed = 0; seed < 20; seed++) {
            struct disk *image;
            struct log *recovered;
            ok(disk_sim_crash(on, seed, &image));
            options.disk = image;
            ok(log_open(&options, 0, &recovered));
            ck_assert_uint_ge(log_durable(recovered), end);
            ok(log_trim(recovered, end));
            log_close(&recovered);
            disk_close(&image);
        }
        log_close(&writing);
        disk_close(&on);
    }
}
END_TEST

START_TEST(trimming_keeps_whole_records)
{
    ok(log_open(&options, 0, &writing));
    uint64_t offsets[300];
    for (unsigned i = 0; i < 300; i++) {
        offsets[i] = append(i);
        ok(log_flush(writing));
    }
    for (unsigned i = 20; i < 300; i += 37) {
        ok(log_trim(writing, offsets[i]));
        uint64_t begin = log_begin(writing);
        ck_assert_uint_le(begin, offsets[i]);
        ck_assert_uint_gt(begin + 8192 + 800, offsets[i]);
        uint64_t kept = log_disk_bytes(writing);
        reopen(i % 2 ? 0 : offsets[i]);
        ck_assert_uint_eq(log_begin(writing), begin);
        ck_assert_uint_eq(log_disk_bytes(writing), kept);
        ck_assert_uint_eq(read_all(offsets[i], i), 300);
        unsigned first = i; /* the first whole record kept, unless begin is at a mark */
        while (first > 0 && offsets[first - 1] >= begin)
            first--;
        ck_assert_uint_eq(read_all(begin, first), 300);
    }
}
END_TEST

/* The log opens at an offset in each image, or at a whole record before it. */
static void opens_after_power_loss(uint64_t at)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct disk *image;
        struct log *recovered;
        ok(disk_sim_crash(disk, seed, &image));
        options.disk = image;
        ok(log_open(&options, at, &recovered));
        ck_assert_uint_ge(log_durable(recovered), at);
        log_close(&recovered);
        disk_close(&image);
    }
}

/* What is kept must begin with a mark that a power loss leaves: one that was only written does not count. */
START_TEST(an_unsynced_log_trims_by_a_stable_mark)
{
    static const uint8_t bytes[8192 - 24 - LOG_MARK_BYTES]; /* with the mark behind it as long as a file */
    options.unsynced = true;
    options.ring_bytes = 65536;
    ok(log_open(&options, 0, &writing));
    ok(log_append(writing, LOG_USER, bytes, sizeof bytes, 0, NULL, NULL));
    ok(log_sync(writing));
    ck_assert_uint_eq(log_durable(writing), 8192);
    for (unsigned i = 0; i < 5; i++) {
        append(i);
        ok(log_flush(writing));
        ok(log_trim(writing, 8192));
        ck_assert_uint_eq(log_begin(writing), 0);
        opens_after_power_loss(8192);
    }
    ok(log_sync(writing));
    ok(log_trim(writing, 8192));
    ck_assert_uint_eq(log_begin(writing), 8192);
    opens_after_power_loss(8192);
}
END_TEST

/* --- threads ------------------------------------------------------------------------------------------------- */

enum { WRITERS = 8, EACH = 400 };

struct writer {
    pthread_t thread;
    unsigned number;
    _Atomic unsigned durable; /* how many of its records are known to be */
};

static void *write_many(void *argument)
{
    struct writer *self = argument;
    for (unsigned i = 0; i < EACH; i++) {
        uint32_t words[64];
        uint32_t length = 8 + (self->number * 131 + i * 17) % 240;
        for (unsigned j = 0; j < 64; j++)
            words[j] = self->number << 24 ^ i << 8 ^ j;
        words[0] = self->number;
        words[1] = i;
        struct log_ticket ticket;
        if (log_reserve(writing, LOG_USER + self->number, length, -1, &ticket) != ENG_OK)
            return "reserve";
        log_fill(writing, &ticket, 0, words, length / 2);
        log_fill(writing, &ticket, length / 2, (uint8_t *)words + length / 2, length - length / 2);
        uint64_t end = ticket.end;
        log_publish(writing, &ticket);
        if (i % 16 == self->number) {
            if (log_wait(writing, end, -1) != ENG_OK || log_durable(writing) < end)
                return "wait";
            atomic_store(&self->durable, i + 1);
        }
    }
    return NULL;
}

static void check_written(const struct log_record *record, unsigned *next)
{
    uint32_t words[64];
    memcpy(words, record->payload, record->length);
    unsigned number = words[0], i = words[1];
    ck_assert_uint_lt(number, WRITERS);
    ck_assert_uint_eq(record->type, LOG_USER + number);
    ck_assert_uint_eq(i, next[number]); /* in the order of each writer */
    ck_assert_uint_eq(record->length, 8 + (number * 131 + i * 17) % 240);
    uint32_t expected[64];
    for (unsigned j = 0; j < 64; j++)
        expected[j] = number << 24 ^ i << 8 ^ j;
    expected[0] = number;
    expected[1] = i;
    ck_assert_int_eq(memcmp(words, expected, record->length), 0);
    next[number]++;
}

/* Another reader of durable records, while all is going on. */
static void *read_back(void *argument)
{
    _Atomic bool *stop = argument;
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record = {.end = 0};
    unsigned next[WRITERS] = {0}, total = 0;
    while (total < WRITERS * EACH && !atomic_load(stop)) {
        enum eng_status status = log_read_at(writing, record.end, &buffer, &capacity, &record);
        if (status == ENG_NOT_FOUND) {
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
            continue;
        }
        if (status != ENG_OK)
            break;
        if (record.type >= LOG_USER) {
            check_written(&record, next);
            total++;
        }
    }
    free(buffer);
    return total == WRITERS * EACH ? NULL : "read back";
}

START_TEST(many_writers_one_order)
{
    options.flusher = true;
    options.consumer = true;
    options.file_bytes = 65536;
    ok(log_open(&options, 0, &writing));
    struct writer writers[WRITERS];
    _Atomic bool stop = false;
    pthread_t reader;
    ck_assert_int_eq(pthread_create(&reader, NULL, read_back, &stop), 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i].number = i;
        atomic_init(&writers[i].durable, 0);
        ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_many, &writers[i]), 0);
    }
    unsigned next[WRITERS] = {0};
    uint64_t last = 0;
    for (unsigned i = 0; i < WRITERS * EACH; i++) {
        struct log_record record;
        ok(log_next(writing, 20000, &record));
        ck_assert_uint_ge(record.offset, last);
        last = record.end;
        check_written(&record, next);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        void *failure;
        pthread_join(writers[i].thread, &failure);
        ck_assert_msg(failure == NULL, "writer %u: %s", i, (char *)failure);
        ck_assert_uint_eq(next[i], EACH);
        ck_assert_uint_gt(atomic_load(&writers[i].durable), EACH - 17);
    }
    ok(log_wait(writing, last, 20000));
    void *failure;
    pthread_join(reader, &failure);
    ck_assert_msg(failure == NULL, "%s", (char *)failure);
    options.flusher = options.consumer = false;
    reopen(0);
    ck_assert_uint_gt(log_end(writing), last);
}
END_TEST

static void *wait_closed(void *argument)
{
    struct log_record record;
    enum eng_status status = log_next(writing, -1, &record);
    return status == ENG_CLOSED ? "closed" : "no";
}

START_TEST(closing_wakes_who_waits)
{
    options.flusher = true;
    options.consumer = true;
    ok(log_open(&options, 0, &writing));
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, wait_closed, NULL), 0);
    struct log *closing = writing;
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    log_close(&closing);
    void *result;
    pthread_join(thread, &result);
    ck_assert_str_eq(result, "closed");
    writing = NULL;
}
END_TEST

START_TEST(a_failed_sync_stops_the_log)
{
    options.flusher = true;
    ok(log_open(&options, 0, &writing));
    uint64_t end;
    ok(log_append(writing, LOG_USER, "kept", 4, 0, NULL, &end));
    ok(log_wait(writing, end, 10000));
    while (log_disk_bytes(writing) < 2 * (4096 + 8192)) /* until the preparer is done with the disk */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    disk_sim_fail(disk, 1, ENG_IO);
    ok(log_append(writing, LOG_USER, "lost", 4, 0, NULL, &end));
    fails(log_wait(writing, end, 10000), ENG_IO);
    ck_assert_ptr_nonnull(strstr(eng_error(), "log/00000000000000.log: sync"));
    fails(log_append(writing, LOG_USER, "more", 4, 0, NULL, &end), ENG_IO);
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    ok(log_read_at(writing, 0, &buffer, &capacity, &record));
    ck_assert_int_eq(memcmp(record.payload, "kept", 4), 0);
    fails(log_read_at(writing, log_durable(writing), &buffer, &capacity, &record), ENG_NOT_FOUND);
    free(buffer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *one = tcase_create("one thread");
    tcase_add_checked_fixture(one, set_up, tear_down);
    tcase_set_timeout(one, 120);
    tcase_add_test(one, an_empty_log);
    tcase_add_test(one, bytes_are_as_documented);
    tcase_add_test(one, records_come_back_in_order);
    tcase_add_test(one, limits_are_answered);
    tcase_add_test(one, a_record_larger_than_a_file);
    tcase_add_test(one, the_consumer_reads_before_it_is_durable);
    tcase_add_test(one, space_waits_for_the_consumer);
    tcase_add_test(one, damage_is_named);
    tcase_add_test(one, missing_files_are_damage);
    tcase_add_test(one, a_full_disk_is_not_the_end);
    tcase_add_loop_test(one, any_call_may_fail, 0, 2);
    tcase_add_loop_test(one, what_a_kill_left_becomes_stable, 0, 2);
    tcase_add_test(one, what_a_failed_sync_left_becomes_stable);
    tcase_add_test(one, a_failed_removal_is_the_last);
    tcase_add_test(one, trimming_keeps_whole_records);
    tcase_add_test(one, an_unsynced_log_trims_by_a_stable_mark);
    suite_add_tcase(suite, one);
    TCase *many = tcase_create("threads");
    tcase_add_checked_fixture(many, set_up, tear_down);
    tcase_set_timeout(many, 120);
    tcase_add_test(many, many_writers_one_order);
    tcase_add_test(many, closing_wakes_who_waits);
    tcase_add_test(many, a_failed_sync_stops_the_log);
    suite_add_tcase(suite, many);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
