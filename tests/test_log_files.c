/*
 * The files of the log: that some are missing is noticed, at an open and by a check, and told from a log that was never
 * there. And too many open files stop no flush of what was accepted, and nothing for good.
 */
#include <check.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "expect_status.h"
#include "log_format.h"
#include "recovery_fixture.h"

static const enum eng_durability with_log[] = {ENG_DURABLE_MSYNC_SYNC, ENG_DURABLE_FSYNC, ENG_DURABLE_FULL};

static char text[4096];
static unsigned lines;

static void note_line(void *context, const char *line)
{
    (void)context;
    lines++;
    snprintf(text, sizeof text, "%s", line);
}

/* Neither an open nor a check passes, both with this line, and nothing is made in place of what is missing. */
static void damaged(struct disk *disk, enum eng_durability durability, const char *line)
{
    static const enum eng_recovery recoveries[] = {ENG_RECOVER_AUTO, ENG_RECOVER_VERIFY, ENG_RECOVER_REBUILD};
    struct eng_options options = fixture_options(disk, durability);
    struct eng *eng;
    bool directory = disk_exists(disk, "log");
    for (unsigned i = 0; i < 3; i++) {
        options.recovery = recoveries[i];
        fails(eng_open(&options, &eng), ENG_DAMAGED);
        ck_assert_msg(strstr(eng_error(), line) != NULL, "%s", eng_error());
    }
    options.recovery = ENG_RECOVER_AUTO;
    lines = 0;
    fails(eng_check(&options, true, note_line, NULL), ENG_DAMAGED);
    ck_assert_uint_eq(lines, 1);
    ck_assert_msg(strstr(text, line) != NULL, "%s", text);
    options.ignore_log = true; /* tools look at any store */
    options.durability = ENG_DURABLE_NONE;
    fails(eng_check(&options, false, note_line, NULL), ENG_DAMAGED);
    ck_assert(disk_exists(disk, "log") == directory);
    ck_assert(!disk_exists(disk, "log/00000000000000.log"));
}

static void commit_some(struct eng *eng, uint64_t first, uint64_t count)
{
    for (uint64_t tag = first; tag < first + count; tag++)
        fixture_commit(eng, 0, tag, 10);
}

/* Killed before any checkpoint of its own, and after one. */
START_TEST(a_store_without_its_log)
{
    enum eng_durability durability = with_log[_i / 2];
    struct disk *disk, *image;
    struct eng *eng;
    ok(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, durability);
    ok(eng_open(&options, &eng));
    commit_some(eng, 1, 3);
    if (_i % 2)
        ok(eng_checkpoint(eng, NULL, 0, true));
    commit_some(eng, 4, 3);
    ok(disk_sim_crash(disk, 1, &image));
    options.disk = image;
    ok(eng_check(&options, true, note_line, NULL));
    ok(disk_remove(image, "log/00000000000000.log"));
    damaged(image, durability, "log: all files of the log (NUMBER.log) are missing");
    ok(disk_remove(image, "log"));
    damaged(image, durability, "log: the directory is missing, and with it all files of the log");
    eng_close(&eng);
    disk_close(&image);
    disk_close(&disk);
}
END_TEST

/* Files before the place where the checkpoint begins may go, the one it is in may not. */
START_TEST(a_store_without_the_file_of_its_checkpoint)
{
    struct disk *disk, *image;
    struct eng *eng;
    ok(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_FSYNC);
    ok(eng_open(&options, &eng));
    for (uint64_t tag = 1; log_end(eng->log) < 140000; tag++)
        fixture_commit(eng, 0, tag, 60);
    ok(eng_checkpoint(eng, NULL, 0, true));
    ok(disk_sim_crash(disk, 1, &image));
    options.disk = image;
    ok(disk_remove(image, "log/00000000000000.log"));
    ok(disk_remove(image, "log/00000000000001.log"));
    ok(disk_rename(image, "log/00000000000002.log", "log/gone"));
    damaged(image, ENG_DURABLE_FSYNC, "log: all files of the log (NUMBER.log) are missing");
    ok(disk_rename(image, "log/gone", "log/00000000000002.log"));
    ok(eng_check(&options, true, note_line, NULL));
    ok(log_check(image, "log", options.store_id, true, 65536, note_line, NULL));
    ck_assert_ptr_nonnull(strstr(text, "log/00000000000001.log: missing"));
    ok(log_check(image, "log", options.store_id, true, 300000, note_line, NULL));
    ck_assert_ptr_nonnull(strstr(text, "log/00000000000004.log: missing"));
    text[0] = 0;
    ok(log_check(image, "log", options.store_id, false, 0, note_line, NULL)); /* nobody says what is needed */
    ck_assert_str_eq(text, "");
    eng_close(&eng);
    ok(eng_open(&options, &eng));
    eng_close(&eng);
    disk_close(&image);
    disk_close(&disk);
}
END_TEST

/* Killed before a checkpoint: the log is needed from its beginning, and the first of its files is gone. */
START_TEST(a_store_without_the_first_file)
{
    struct disk *disk, *image;
    struct eng *eng;
    ok(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_FSYNC);
    ok(eng_open(&options, &eng));
    for (uint64_t tag = 1; log_end(eng->log) < 70000; tag++)
        fixture_commit(eng, 0, tag, 60);
    ok(disk_sim_crash(disk, 1, &image));
    ok(disk_remove(image, "log/00000000000000.log"));
    damaged(image, ENG_DURABLE_FSYNC, "log/00000000000000.log: ");
    eng_close(&eng);
    disk_close(&image);
    disk_close(&disk);
}
END_TEST

/* The power goes at every call of a first open, and the next one must be able to begin; what it then committed is there
 * after it goes again. */
static void watch_first_open(void *context, struct disk *disk, uint64_t n)
{
    unsigned *images = context;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct disk *image, *after;
        struct eng *eng;
        uint64_t tag;
        ok(disk_sim_crash(disk, seed < 2 ? seed : n * 100 + seed, &image));
        struct eng_options options = fixture_options(image, ENG_DURABLE_FSYNC);
        ok(eng_open(&options, &eng));
        commit_some(eng, 1, 1);
        ok(disk_sim_crash(image, seed, &after));
        eng_close(&eng);
        options.disk = after;
        ok(eng_check(&options, true, note_line, NULL));
        ok(eng_open(&options, &eng));
        ok(eng_head(eng, 0, &tag, NULL));
        ck_assert_uint_eq(tag, 1);
        eng_close(&eng);
        disk_close(&after);
        disk_close(&image);
        ++*images;
    }
}

START_TEST(a_first_open_cut_short)
{
    struct disk *disk;
    struct eng *eng;
    unsigned images = 0;
    ok(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_FSYNC);
    disk_sim_watch(disk, watch_first_open, &images);
    ok(eng_open(&options, &eng));
    disk_sim_watch(disk, NULL, NULL);
    ck_assert_uint_gt(images, 100);
    eng_close(&eng);
    disk_close(&disk);
}
END_TEST

/* Of a log alone: who was at an offset of it, or says it was made, does not get a new one. */
START_TEST(a_log_that_was_made_before)
{
    struct disk *disk;
    struct log *log;
    ok(disk_sim_open(0, &disk));
    struct log_options options = {.disk = disk, .dir = "log", .file_bytes = 8192, .ring_bytes = 4096};
    fails(log_open(&options, 8, &log), ENG_DAMAGED);
    ck_assert(!disk_exists(disk, "log"));
    options.made = true;
    fails(log_open(&options, 0, &log), ENG_DAMAGED);
    options.made = false;
    ok(log_open(&options, 0, &log));
    log_close(&log);
    options.made = true;
    ok(log_open(&options, 0, &log));
    log_close(&log);
    disk_close(&disk);
}
END_TEST

/* ---- too many open files -----------------------------------------------------------------------------------------*/

static struct {
    char path[32];
    struct disk *disk;
    struct log_options options;
    struct log *log;
    struct rlimit files;
    unsigned appended;
} crowded;

static void crowded_up(void)
{
    strcpy(crowded.path, "/tmp/pando-log-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(crowded.path));
    ok(disk_posix_open(crowded.path, &crowded.disk));
    crowded.options =
        (struct log_options){.disk = crowded.disk, .dir = "log", .file_bytes = 8192, .ring_bytes = 1u << 16};
    crowded.appended = 0;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &crowded.files), 0);
}

static void remove_file(void *context, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "log/%s", name);
    ok(disk_remove(context, path));
}

static void crowded_down(void)
{
    setrlimit(RLIMIT_NOFILE, &crowded.files);
    log_close(&crowded.log);
    ok(disk_list(crowded.disk, "log", remove_file, crowded.disk));
    ok(disk_remove(crowded.disk, "log"));
    disk_close(&crowded.disk);
    ck_assert_int_eq(rmdir(crowded.path), 0);
}

/* This many more files can be opened. */
static void leave_descriptors(unsigned count)
{
    struct rlimit limit = crowded.files;
    setrlimit(RLIMIT_NOFILE, &limit);
    int lowest = open("/", O_RDONLY);
    ck_assert_int_ge(lowest, 0);
    close(lowest);
    limit.rlim_cur = (rlim_t)lowest + count; /* all below the first free one are taken */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* No file can be opened, whatever is closed. */
static void leave_nothing(void)
{
    struct rlimit limit = crowded.files;
    limit.rlim_cur = 0;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static enum eng_status append_numbered(uint64_t *end)
{
    uint8_t bytes[3000];
    memset(bytes, (int)crowded.appended, sizeof bytes);
    enum eng_status status = log_append(crowded.log, LOG_USER, bytes, sizeof bytes, 0, NULL, end);
    crowded.appended += status == ENG_OK;
    return status;
}

/* Reopens the log and reads it from an offset on, where the record with this number is. */
static void all_there(uint64_t offset, unsigned number)
{
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    log_close(&crowded.log);
    ok(log_open(&crowded.options, 0, &crowded.log));
    while (log_read_at(crowded.log, offset, &buffer, &capacity, &record) == ENG_OK) {
        if (record.type == LOG_USER)
            ck_assert_uint_eq(record.payload[0], (uint8_t)number++);
        offset = record.end;
    }
    free(buffer);
    ck_assert_uint_eq(number, crowded.appended);
}

/* What was accepted is flushed into the file that is begun and the prepared ones behind it, though nothing can be
 * opened; what needs another file is refused until something can be. */
static void flushes_crowded(void)
{
    enum eng_status status;
    uint64_t end, accepted = log_end(crowded.log);
    do
        ok(append_numbered(&end));
    while (end / 8192 == accepted / 8192); /* the last one reaches into a file that was not written yet */
    leave_nothing();
    ok(log_flush(crowded.log));
    while ((status = append_numbered(&end)) == ENG_OK)
        ok(log_wait(crowded.log, end, 0));
    fails(status, ENG_FULL);
    ok(setrlimit(RLIMIT_NOFILE, &crowded.files) == 0 ? ENG_OK : ENG_IO);
    ok(append_numbered(&end));
    ok(log_wait(crowded.log, end, 0));
}

START_TEST(a_prepared_file_stays_open)
{
    ok(log_open(&crowded.options, 0, &crowded.log));
    flushes_crowded();
    all_there(0, 0);
}
END_TEST

/* Files that were prepared before the log was opened. */
START_TEST(a_file_found_prepared_stays_open)
{
    uint64_t end, before;
    struct log_ticket ticket;
    ok(log_open(&crowded.options, 0, &crowded.log));
    ok(append_numbered(&end));
    ok(log_reserve(crowded.log, LOG_USER, 20000, 0, &ticket)); /* never published; it makes files */
    ck_assert_uint_eq(log_disk_bytes(crowded.log), 3 * (4096 + 8192));
    ok(log_flush(crowded.log));
    before = log_durable(crowded.log);
    log_close(&crowded.log);
    ok(log_open(&crowded.options, 0, &crowded.log));
    ck_assert_uint_eq(log_end(crowded.log), before);
    leave_nothing();
    for (unsigned i = 0; i < 6; i++) {
        ok(append_numbered(&end));
        ok(log_wait(crowded.log, end, 0));
    }
    setrlimit(RLIMIT_NOFILE, &crowded.files);
    all_there(0, 0);
}
END_TEST

static void read_old(const uint64_t offsets[40])
{
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    for (unsigned file = 40; file-- > 0;)
        ok(log_read_at(crowded.log, offsets[file], &buffer, &capacity, &record));
    free(buffer);
}

/* Reading more old files than are kept open, with descriptors and without, does not close the ones that are written:
 * those of a log that runs, and of one that was just opened. */
START_TEST(readers_leave_the_writer_its_files)
{
    uint64_t end = 0, offsets[40];
    ok(log_open(&crowded.options, 0, &crowded.log));
    for (unsigned file = 0; file < 40; file++) {
        while (end / 8192 < file) {
            ok(append_numbered(&end));
            ok(log_wait(crowded.log, end, 0));
        }
        offsets[file] = log_end(crowded.log);
        ok(append_numbered(&end));
        ok(log_wait(crowded.log, end, 0));
    }
    uint64_t durable = log_durable(crowded.log);
    do
        ok(append_numbered(&end));
    while (end / 8192 == durable / 8192);
    read_old(offsets);
    leave_descriptors(0);
    read_old(offsets);
    leave_nothing();
    ok(log_flush(crowded.log));
    setrlimit(RLIMIT_NOFILE, &crowded.files);
    all_there(0, 0);
    ok(append_numbered(&end));
    read_old(offsets);
    leave_nothing();
    ok(log_flush(crowded.log));
    setrlimit(RLIMIT_NOFILE, &crowded.files);
    all_there(0, 0);
    durable = log_durable(crowded.log);
    log_close(&crowded.log);
    ok(log_open(&crowded.options, durable, &crowded.log)); /* opens few of them */
    ok(append_numbered(&end));
    leave_descriptors(0);
    read_old(offsets); /* each takes the place of the one before */
    leave_nothing();
    ok(log_flush(crowded.log));
    setrlimit(RLIMIT_NOFILE, &crowded.files);
    all_there(0, 0);
}
END_TEST

/* With one descriptor a file can be made and its directory not be synced: that is tried again as well. */
START_TEST(a_directory_that_cannot_be_opened)
{
    uint64_t end;
    ok(log_open(&crowded.options, 0, &crowded.log));
    ok(append_numbered(&end));
    leave_descriptors(1);
    enum eng_status status;
    while ((status = append_numbered(&end)) == ENG_OK)
        ok(log_wait(crowded.log, end, 0));
    fails(status, ENG_FULL);
    ck_assert_ptr_nonnull(strstr(eng_error(), "open directory"));
    ck_assert(!disk_exists(crowded.disk, "log/00000000000001.log"));
    setrlimit(RLIMIT_NOFILE, &crowded.files);
    ok(append_numbered(&end));
    ok(log_wait(crowded.log, end, 0));
    all_there(0, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log_files");
    TCase *missing = tcase_create("missing");
    tcase_set_timeout(missing, 300);
    tcase_add_loop_test(missing, a_store_without_its_log, 0, 6);
    tcase_add_test(missing, a_store_without_the_file_of_its_checkpoint);
    tcase_add_test(missing, a_store_without_the_first_file);
    tcase_add_test(missing, a_first_open_cut_short);
    tcase_add_test(missing, a_log_that_was_made_before);
    suite_add_tcase(suite, missing);
    TCase *open_files = tcase_create("open files");
    tcase_add_checked_fixture(open_files, crowded_up, crowded_down);
    tcase_add_test(open_files, a_prepared_file_stays_open);
    tcase_add_test(open_files, a_file_found_prepared_stays_open);
    tcase_add_test(open_files, readers_leave_the_writer_its_files);
    tcase_add_test(open_files, a_directory_that_cannot_be_opened);
    suite_add_tcase(suite, open_files);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
