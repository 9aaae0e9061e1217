/*
 * Payloads that contain records and marks. A client knows the store id, the file and the offset its payload comes to;
 * the salt it does not know. Each attack is made twice: with what a client knows, which must change nothing, and with
 * the salt, which shows that the attack would work.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"
#include "log_format.h"
#include "pando/log.h"

static struct disk *disk;
static struct log_options options;
static struct log *writing; /* the log under test */
static uint8_t payload[6000];

static void set_up(void)
{
    ok(disk_sim_open(0, &disk));
    options = (struct log_options){.disk = disk, .dir = "log", .file_bytes = 4096, .ring_bytes = 16384};
    memset(options.store_id, 7, sizeof options.store_id);
    memset(payload, 'x', sizeof payload);
}

static void tear_down(void)
{
    log_close(&writing);
    disk_close(&disk);
}

static void header_of(struct disk *of, const char *path, struct log_file_header *header)
{
    struct disk_file *file;
    ok(disk_open(of, path, DISK_READ, &file));
    ok(disk_read(file, 0, header, sizeof *header));
    disk_file_close(&file);
}

/* A header with a right checksum. */
static void header_put(const char *path, struct log_file_header *header)
{
    struct disk_file *file;
    header->checksum = XXH3_64bits(header, offsetof(struct log_file_header, checksum));
    ok(disk_open(disk, path, DISK_WRITE, &file));
    ok(disk_write(file, 0, header, sizeof *header));
    disk_file_close(&file);
}

/* What seeds the records of a file, as far as it is known. */
static uint64_t seed_known(bool salt_known, uint64_t number)
{
    if (!salt_known)
        return XXH3_64bits_withSeed(options.store_id, sizeof options.store_id, number);
    struct log_file_header header;
    struct log_key key;
    header_of(disk, "log/00000000000000.log", &header);
    memcpy(key.store_id, header.store_id, sizeof key.store_id);
    memcpy(key.salt, header.salt, sizeof key.salt);
    return log_seed(&key, number);
}

/* Appends the payload and three honest records behind it. */
static void append_all(void)
{
    uint64_t offset, end;
    ok(log_append(writing, LOG_USER, payload, sizeof payload, -1, &offset, &end));
    ok(log_wait(writing, end, -1));
    for (unsigned i = 0; i < 3; i++) {
        ok(log_append(writing, LOG_USER + 1, "an honest record", 16, -1, &offset, &end));
        ok(log_wait(writing, end, -1));
    }
}

/* The file the payload begins in is removed; in the next one the first whole record is searched for. */
START_TEST(a_record_in_a_payload)
{
    struct {
        struct log_record_header header;
        char text[16];
    } forged = {.header = {.length = 16, .type = LOG_USER, .offset = 4096 + 64}, .text = "forged by client"};
    ok(log_open(&options, 0, &writing));
    forged.header.checksum = log_checksum(&forged.header, forged.text, 16, NULL, 0, seed_known(_i, 1));
    memcpy(payload + 4096 + 64 - 24, &forged, sizeof forged);
    append_all();
    ok(log_trim(writing, log_end(writing)));
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    ok(log_read_at(writing, log_begin(writing), &buffer, &capacity, &record));
    log_close(&writing);
    if (_i) {
        ck_assert_uint_eq(record.offset, 4096 + 64);
        ck_assert_int_eq(memcmp(record.payload, "forged by client", 16), 0);
        fails(log_open(&options, 0, &writing), ENG_DAMAGED);
    } else {
        ck_assert_uint_eq(record.offset, 24 + sizeof payload);
        ok(log_open(&options, 0, &writing));
        ck_assert_uint_eq(log_begin(writing), 24 + sizeof payload);
    }
    free(buffer);
}
END_TEST

static struct {
    unsigned images, refused;
} losses;

static void lose_power(void *context, struct disk *source, uint64_t n)
{
    (void)context;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct log_options after = options;
        struct log *log;
        ok(disk_sim_crash(source, seed ? n * 1000 + seed : 0, &after.disk));
        losses.images++;
        if (log_open(&after, 0, &log) == ENG_OK)
            log_close(&log);
        else
            losses.refused++;
        disk_close(&after.disk);
    }
}

/* A power loss may take the head of a record and leave the rest, with a mark in it that names all as durable. */
START_TEST(a_mark_in_a_payload)
{
    options.file_bytes = 65536;
    ok(log_open(&options, 0, &writing));
    struct log_mark mark = {.header = {.length = 8, .type = LOG_MARK, .offset = 2048}, .durable = 1ull << 40};
    mark.header.checksum = log_checksum(&mark.header, &mark.durable, 8, NULL, 0, seed_known(_i, 0));
    memcpy(payload + 2048 - 24, &mark, sizeof mark);
    memset(&losses, 0, sizeof losses);
    disk_sim_watch(disk, lose_power, NULL);
    append_all();
    disk_sim_watch(disk, NULL, NULL);
    ck_assert_uint_ge(losses.images, 400);
    if (_i)
        ck_assert_uint_gt(losses.refused, 0);
    else
        ck_assert_uint_eq(losses.refused, 0);
}
END_TEST

START_TEST(every_log_has_its_salt)
{
    struct log_file_header header, other;
    struct log_options second = options;
    struct log *log;
    ok(log_open(&options, 0, &writing));
    append_all();
    header_of(disk, "log/00000000000000.log", &header);
    header_of(disk, "log/00000000000001.log", &other);
    ck_assert_int_eq(memcmp(header.salt, other.salt, sizeof header.salt), 0);
    log_close(&writing);
    ok(log_open(&options, 0, &writing)); /* what is made now has it as well */
    append_all();
    header_of(disk, "log/00000000000003.log", &other);
    ck_assert_int_eq(memcmp(header.salt, other.salt, sizeof header.salt), 0);

    ok(disk_sim_open(0, &second.disk)); /* the same store id */
    ok(log_open(&second, 0, &log));
    log_close(&log);
    header_of(second.disk, "log/00000000000000.log", &other);
    ck_assert_int_ne(memcmp(header.salt, other.salt, sizeof header.salt), 0);
    disk_close(&second.disk);
}
END_TEST

static char text[600];

static void note_line(void *context, const char *line)
{
    (void)context;
    snprintf(text, sizeof text, "%s", line);
}

START_TEST(headers_are_refused)
{
    const char *path = "log/00000000000001.log";
    struct log_file_header header, changed;
    ok(log_open(&options, 0, &writing));
    append_all();
    log_close(&writing);
    header_of(disk, path, &header);
    changed = header;
    changed.salt[15] ^= 1;
    header_put(path, &changed);
    fails(log_open(&options, 0, &writing), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "log/00000000000001.log: header at byte 0: the salt"));
    for (uint32_t version = 1; version <= 3; version += 2) {
        changed = header;
        changed.version = version;
        header_put(path, &changed);
        fails(log_open(&options, 0, &writing), ENG_VERSION);
        ok(log_check(disk, "log", options.store_id, true, 0, note_line, NULL));
        ck_assert_ptr_nonnull(strstr(text, "log/00000000000001.log: format version"));
    }
    header_put(path, &header);
    ok(log_open(&options, 0, &writing));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log_forged");
    TCase *forged = tcase_create("forged");
    tcase_add_checked_fixture(forged, set_up, tear_down);
    tcase_set_timeout(forged, 120);
    tcase_add_loop_test(forged, a_record_in_a_payload, 0, 2);
    tcase_add_loop_test(forged, a_mark_in_a_payload, 0, 2);
    tcase_add_test(forged, every_log_has_its_salt);
    tcase_add_test(forged, headers_are_refused);
    suite_add_tcase(suite, forged);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
