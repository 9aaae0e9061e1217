/*
 * The files of the log: that some are missing is noticed, at an open and by a check, and told from a log that was never
 * there.
 */
#include <check.h>

#include "log_format.h"
#include "recovery_fixture.h"

#define ok(call)                                                                                                       \
    do {                                                                                                               \
        enum eng_status ok_status = (call);                                                                            \
        ck_assert_msg(ok_status == ENG_OK, "%s: %s (%s)", #call, eng_status_text(ok_status), eng_error());             \
    } while (0)
#define fails(call, expected)                                                                                          \
    do {                                                                                                               \
        enum eng_status fails_status = (call);                                                                         \
        ck_assert_msg(fails_status == (expected), "%s: %s", #call, eng_status_text(fails_status));                     \
    } while (0)

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
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
