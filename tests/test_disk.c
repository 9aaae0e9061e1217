/*
 * The disk seam: what every backing promises (run on the POSIX and on the simulated one), and what only the simulated
 * disk does: crash images, failures, capacity, flipped bits.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "expect_status.h"
#include "pando/disk.h"

static char root[64];
static struct disk *disk;

static void open_backing(int simulated)
{
    if (simulated) {
        ok(disk_sim_open(0, &disk));
        return;
    }
    strcpy(root, "/tmp/pando-test-disk-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    ok(disk_posix_open(root, &disk));
}

static void close_backing(int simulated)
{
    disk_close(&disk);
    ck_assert_ptr_null(disk);
    if (!simulated) {
        char command[128];
        snprintf(command, sizeof command, "rm -rf %s", root);
        ck_assert_int_eq(system(command), 0);
    }
}

static struct disk_file *create(struct disk *on, const char *path)
{
    struct disk_file *file;
    ok(disk_open(on, path, DISK_CREATE, &file));
    return file;
}

static void write_text(struct disk *on, const char *path, const char *text)
{
    struct disk_file *file = create(on, path);
    ok(disk_write(file, 0, text, strlen(text)));
    disk_file_close(&file);
}

/* The content of a file as a string, "-" if it is not there. */
static const char *read_text(struct disk *on, const char *path)
{
    static char text[4096];
    struct disk_file *file;
    if (disk_open(on, path, DISK_READ, &file) != ENG_OK)
        return "-";
    uint64_t size;
    ok(disk_size(file, &size));
    ck_assert_uint_lt(size, sizeof text);
    ok(disk_read(file, 0, text, size));
    text[size] = '\0';
    disk_file_close(&file);
    return text;
}

START_TEST(files_keep_what_is_written)
{
    open_backing(_i);
    struct disk_file *file = create(disk, "a");
    ck_assert_str_eq(disk_file_path(file), "a");
    ok(disk_write(file, 1000, "tail", 4));
    uint64_t size;
    ok(disk_size(file, &size));
    ck_assert_uint_eq(size, 1004);
    char bytes[8] = "xxxxxxx";
    ok(disk_read(file, 998, bytes, 6));
    ck_assert_int_eq(memcmp(bytes, "\0\0tail", 6), 0);
    fails(disk_read(file, 1000, bytes, 5), ENG_IO);
    ck_assert_ptr_nonnull(strstr(eng_error(), "a: read of 5 bytes at 1000"));
    ok(disk_truncate(file, 1002));
    ok(disk_truncate(file, 1006));
    ok(disk_read(file, 1000, bytes, 6));
    ck_assert_int_eq(memcmp(bytes, "ta\0\0\0\0", 6), 0);
    ok(disk_sync(file));
    disk_file_close(&file);
    ck_assert_ptr_null(file);
    close_backing(_i);
}
END_TEST

START_TEST(open_flags_say_what_may_be_there)
{
    open_backing(_i);
    struct disk_file *file;
    fails(disk_open(disk, "a", DISK_READ, &file), ENG_NOT_FOUND);
    ck_assert_ptr_null(file);
    ck_assert_ptr_nonnull(strstr(eng_error(), "/a: "));
    fails(disk_open(disk, "no/a", DISK_CREATE, &file), ENG_NOT_FOUND);
    ok(disk_open(disk, "a", DISK_CREATE | DISK_EXCLUSIVE, &file));
    disk_file_close(&file);
    fails(disk_open(disk, "a", DISK_CREATE | DISK_EXCLUSIVE, &file), ENG_EXISTS);
    const char *refused[] = {"", "/a", "a//b", "a/", "../a", "a/../b", "."};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        fails(disk_open(disk, refused[i], DISK_CREATE, &file), ENG_INVALID);
    close_backing(_i);
}
END_TEST

START_TEST(extend_reserves_zeros_and_punch_gives_back)
{
    open_backing(_i);
    struct disk_file *file = create(disk, "a");
    ok(disk_write(file, 0, "head", 4));
    ok(disk_extend(file, 64 << 10));
    ok(disk_extend(file, 10)); /* never smaller */
    uint64_t size;
    ok(disk_size(file, &size));
    ck_assert_uint_eq(size, 64 << 10);
    char byte = 1;
    ok(disk_read(file, size - 1, &byte, 1));
    ck_assert_int_eq(byte, 0);
    ok(disk_write(file, 8192, "middle", 6));
    ok(disk_punch(file, 8192, 4096));
    char bytes[6];
    ok(disk_read(file, 8192, bytes, 6));
    ck_assert_int_eq(memcmp(bytes, "\0\0\0\0\0\0", 6), 0);
    ok(disk_read(file, 0, bytes, 4));
    ck_assert_int_eq(memcmp(bytes, "head", 4), 0);
    ok(disk_reserve(file, 8192, 4096));
    fails(disk_reserve(file, 8192, 1 << 20), ENG_INVALID);
    ok(disk_size(file, &size));
    ck_assert_uint_eq(size, 64 << 10);
    disk_file_close(&file);
    close_backing(_i);
}
END_TEST

START_TEST(map_and_calls_see_the_same_bytes)
{
    open_backing(_i);
    struct disk_file *file = create(disk, "a");
    ok(disk_extend(file, 8192));
    ok(disk_write(file, 100, "before", 6));
    void *base;
    ok(disk_map(file, 1 << 20, &base));
    char *bytes = base;
    ck_assert_int_eq(memcmp(bytes + 100, "before", 6), 0);
    memcpy(bytes + 200, "by map", 6);
    char read[6];
    ok(disk_read(file, 200, read, 6));
    ck_assert_int_eq(memcmp(read, "by map", 6), 0);
    ok(disk_extend(file, 65536)); /* becomes usable at the same base */
    memcpy(bytes + 65530, "at end", 6);
    ok(disk_write(file, 40000, "by call", 7));
    ck_assert_int_eq(memcmp(bytes + 40000, "by call", 7), 0);
    ok(disk_protect(file, 0, 4096, true));
    ok(disk_protect(file, 0, 4096, false));
    bytes[0] = 'w';
    ok(disk_sync(file));
    disk_file_close(&file);
    ok(disk_open(disk, "a", DISK_WRITE, &file));
    ok(disk_read(file, 65530, read, 6));
    ck_assert_int_eq(memcmp(read, "at end", 6), 0);
    disk_file_close(&file);
    close_backing(_i);
}
END_TEST

static void collect(void *context, const char *name)
{
    strcat(context, name);
    strcat(context, " ");
}

START_TEST(directories_list_rename_remove)
{
    open_backing(_i);
    ok(disk_mkdir(disk, "d"));
    ok(disk_mkdir(disk, "d"));
    ok(disk_mkdir(disk, "d/e"));
    write_text(disk, "d/b", "B");
    write_text(disk, "d/a", "A");
    write_text(disk, "d/B", "upper");
    char names[64] = "";
    ok(disk_list(disk, "d", collect, names));
    ck_assert_str_eq(names, "B a b e ");
    fails(disk_list(disk, "none", collect, names), ENG_NOT_FOUND);
    ok(disk_rename(disk, "d/a", "d/b"));
    ck_assert(!disk_exists(disk, "d/a"));
    ck_assert_str_eq(read_text(disk, "d/b"), "A");
    fails(disk_rename(disk, "d/a", "d/c"), ENG_NOT_FOUND);
    fails(disk_rename(disk, "d/b", "b"), ENG_INVALID);
    fails(disk_mkdir(disk, "d/b"), ENG_EXISTS);
    fails(disk_remove(disk, "d/none"), ENG_NOT_FOUND);
    ok(disk_remove(disk, "d/b"));
    ok(disk_remove(disk, "d/e"));
    ok(disk_sync_dir(disk, "d"));
    ok(disk_sync_dir(disk, ""));
    fails(disk_sync_dir(disk, "none"), ENG_NOT_FOUND);
    strcpy(names, "");
    ok(disk_list(disk, "", collect, names));
    ck_assert_str_eq(names, "d ");
    ck_assert(disk_exists(disk, ""));
    close_backing(_i);
}
END_TEST

START_TEST(an_open_file_is_renamed)
{
    open_backing(_i);
    struct disk_file *file;
    ok(disk_mkdir(disk, "d"));
    write_text(disk, "d/b", "before");
    ok(disk_open(disk, "d/a", DISK_CREATE, &file));
    ok(disk_file_rename(file, "d/b"));
    ck_assert_str_eq(disk_file_path(file), "d/b");
    ok(disk_write(file, 0, "after", 5));
    fails(disk_file_rename(file, "b"), ENG_INVALID);
    ck_assert_str_eq(disk_file_path(file), "d/b");
    disk_file_close(&file);
    ck_assert(!disk_exists(disk, "d/a"));
    ck_assert_str_eq(read_text(disk, "d/b"), "after");
    close_backing(_i);
}
END_TEST

START_TEST(an_open_file_outlives_its_name)
{
    open_backing(_i);
    struct disk_file *file = create(disk, "a");
    ok(disk_write(file, 0, "kept", 4));
    ok(disk_remove(disk, "a"));
    char bytes[4];
    ok(disk_read(file, 0, bytes, 4));
    ck_assert_int_eq(memcmp(bytes, "kept", 4), 0);
    write_text(disk, "a", "new");
    ck_assert_str_eq(read_text(disk, "a"), "new");
    disk_file_close(&file);
    close_backing(_i);
}
END_TEST

START_TEST(lock_keeps_another_process_out)
{
    open_backing(0);
    ok(disk_lock(disk, "LOCK"));
    ok(disk_lock(disk, "LOCK")); /* held already */
    struct disk *second;
    ok(disk_posix_open(root, &second));
    fails(disk_lock(second, "LOCK"), ENG_LOCKED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "LOCK"));
    disk_close(&disk);
    ok(disk_lock(second, "LOCK"));
    disk = second;
    pid_t child = fork();
    if (child == 0) {
        struct disk *third;
        _exit(disk_posix_open(root, &third) == ENG_OK && disk_lock(third, "LOCK") == ENG_LOCKED ? 7 : 1);
    }
    int how;
    ck_assert_int_eq(waitpid(child, &how, 0), child);
    ck_assert(WIFEXITED(how) && WEXITSTATUS(how) == 7);
    close_backing(0);
}
END_TEST

START_TEST(a_directory_that_is_not_there)
{
    fails(disk_posix_open("/tmp/pando-none/none", &disk), ENG_NOT_FOUND);
    ck_assert_ptr_null(disk);
}
END_TEST

/* --- the simulated disk -------------------------------------------------------------------------------------- */

static struct disk *crash(struct disk *on, uint64_t seed)
{
    struct disk *image;
    ok(disk_sim_crash(on, seed, &image));
    return image;
}

START_TEST(seeds_0_and_1_are_nothing_and_everything)
{
    open_backing(1);
    write_text(disk, "a", "old");
    struct disk_file *file = create(disk, "a");
    ok(disk_sync(file));
    ok(disk_sync_dir(disk, ""));
    ok(disk_write(file, 0, "new!", 4));
    write_text(disk, "b", "b");
    struct disk *none = crash(disk, 0), *all = crash(disk, 1);
    ck_assert_str_eq(read_text(none, "a"), "old");
    ck_assert_str_eq(read_text(none, "b"), "-");
    ck_assert_str_eq(read_text(all, "a"), "new!");
    ck_assert_str_eq(read_text(all, "b"), "b");
    ck_assert_str_eq(read_text(disk, "a"), "new!");
    /* an image is stable as a whole, and can crash again */
    struct disk *again = crash(all, 0);
    ck_assert_str_eq(read_text(again, "a"), "new!");
    disk_close(&again);
    write_text(all, "a", "more");
    again = crash(all, 0);
    ck_assert_str_eq(read_text(again, "a"), "new!");
    disk_close(&again);
    disk_close(&none);
    disk_close(&all);
    disk_file_close(&file);
    close_backing(1);
}
END_TEST

START_TEST(sectors_are_old_new_or_torn)
{
    enum { SECTORS = 64, BYTES = SECTORS * 512 };
    open_backing(1);
    struct disk_file *file = create(disk, "a");
    static uint8_t bytes[BYTES];
    memset(bytes, 'o', BYTES);
    ok(disk_write(file, 0, bytes, BYTES));
    ok(disk_sync(file));
    ok(disk_sync_dir(disk, ""));
    void *base = NULL;
    if (_i == 0) {
        memset(bytes, 'n', BYTES);
        ok(disk_write(file, 0, bytes, BYTES));
    } else {
        ok(disk_map(file, BYTES, &base));
        memset(base, 'n', BYTES);
    }
    unsigned whole_old = 0, whole_new = 0, torn_front = 0, torn_back = 0;
    for (uint64_t seed = 2; seed < 200; seed++) {
        struct disk *image = crash(disk, seed), *same = crash(disk, seed);
        struct disk_file *left, *right;
        static uint8_t other[BYTES];
        ok(disk_open(image, "a", DISK_READ, &left));
        ok(disk_read(left, 0, bytes, BYTES));
        ok(disk_open(same, "a", DISK_READ, &right));
        ok(disk_read(right, 0, other, BYTES));
        ck_assert_int_eq(memcmp(bytes, other, BYTES), 0); /* by the seed alone */
        for (unsigned i = 0; i < SECTORS; i++) {
            const uint8_t *sector = bytes + i * 512;
            unsigned changes = 0;
            for (unsigned j = 1; j < 512; j++)
                changes += sector[j] != sector[j - 1];
            ck_assert_uint_le(changes, 1);
            whole_old += changes == 0 && sector[0] == 'o';
            whole_new += changes == 0 && sector[0] == 'n';
            torn_front += changes == 1 && sector[0] == 'n';
            torn_back += changes == 1 && sector[0] == 'o';
        }
        disk_file_close(&left);
        disk_file_close(&right);
        disk_close(&image);
        disk_close(&same);
    }
    ck_assert_uint_gt(whole_old, 2000);
    ck_assert_uint_gt(whole_new, 2000);
    ck_assert_uint_gt(torn_front, 200);
    ck_assert_uint_gt(torn_back, 200);
    ok(disk_sync(file));
    struct disk *image = crash(disk, 0);
    ck_assert_uint_eq(disk_sim_calls(image), 0);
    struct disk_file *left;
    ok(disk_open(image, "a", DISK_READ, &left));
    ok(disk_read(left, 0, bytes, BYTES));
    for (unsigned i = 0; i < BYTES; i++)
        ck_assert_int_eq(bytes[i], 'n');
    disk_file_close(&left);
    disk_close(&image);
    disk_file_close(&file);
    close_backing(1);
}
END_TEST

START_TEST(a_rename_is_atomic_and_stable_after_sync_dir)
{
    open_backing(1);
    write_text(disk, "a", "first");
    struct disk_file *file = create(disk, "a");
    ok(disk_sync(file));
    ok(disk_sync_dir(disk, ""));
    disk_file_close(&file);
    write_text(disk, "a.tmp", "second");
    file = create(disk, "a.tmp");
    ok(disk_sync(file));
    disk_file_close(&file);
    ok(disk_rename(disk, "a.tmp", "a"));
    unsigned first = 0, second = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct disk *image = crash(disk, seed);
        const char *text = read_text(image, "a");
        first += strcmp(text, "first") == 0;
        second += strcmp(text, "second") == 0;
        ck_assert(strcmp(text, "first") == 0 || strcmp(read_text(image, "a.tmp"), "-") == 0);
        disk_close(&image);
    }
    ck_assert_uint_eq(first + second, 200);
    ck_assert_uint_gt(first, 20);
    ck_assert_uint_gt(second, 20);
    ok(disk_sync_dir(disk, ""));
    struct disk *image = crash(disk, 0);
    ck_assert_str_eq(read_text(image, "a"), "second");
    disk_close(&image);
    ok(disk_remove(disk, "a"));
    image = crash(disk, 0);
    ck_assert_str_eq(read_text(image, "a"), "second");
    disk_close(&image);
    close_backing(1);
}
END_TEST

START_TEST(a_full_simulated_disk)
{
    ok(disk_sim_open(10000, &disk));
    struct disk_file *file = create(disk, "a"), *other = create(disk, "b");
    ok(disk_extend(file, 8000));
    fails(disk_extend(other, 2001), ENG_FULL);
    ck_assert_ptr_nonnull(strstr(eng_error(), "b"));
    fails(disk_write(other, 2000, "x", 1), ENG_FULL);
    ok(disk_write(other, 1999, "x", 1));
    ok(disk_truncate(file, 1000));
    ok(disk_extend(other, 9000));
    fails(disk_extend(file, 1001), ENG_FULL);
    ok(disk_remove(disk, "b"));
    fails(disk_extend(file, 1001), ENG_FULL); /* still open */
    disk_file_close(&other);
    ok(disk_extend(file, 10000));
    disk_file_close(&file);
    close_backing(1);
}
END_TEST

START_TEST(calls_fail_as_told)
{
    open_backing(1);
    struct disk_file *file = create(disk, "a");
    ok(disk_write(file, 0, "0123456789", 10));
    ok(disk_sync(file));
    ok(disk_sync_dir(disk, ""));
    uint64_t calls = disk_sim_calls(disk);
    disk_sim_fail(disk, 1, ENG_IO);
    ok(disk_write(file, 0, "a", 1));
    fails(disk_write(file, 0, "abcdefghij", 10), ENG_IO);
    ck_assert_str_eq(read_text(disk, "a"), "abcde56789"); /* half of it */
    ok(disk_write(file, 0, "abcdefghij", 10));
    ck_assert_uint_eq(disk_sim_calls(disk), calls + 3);
    disk_sim_fail(disk, 0, ENG_IO);
    fails(disk_sync(file), ENG_IO);
    ok(disk_sync(file)); /* a retried sync says yes and means nothing */
    struct disk *none = crash(disk, 0), *all = crash(disk, 1);
    ck_assert_str_eq(read_text(none, "a"), "0123456789");
    ck_assert_str_eq(read_text(all, "a"), "abcdefghij");
    disk_close(&none);
    disk_close(&all);
    disk_sim_fail(disk, 0, ENG_FULL);
    fails(disk_extend(file, 100), ENG_FULL);
    ok(disk_extend(file, 100));
    disk_file_close(&file);
    close_backing(1);
}
END_TEST

static void watch(void *context, struct disk *on, uint64_t n)
{
    char *seen = context;
    struct disk *image = crash(on, 1);
    sprintf(seen + strlen(seen), "%llu:%s ", (unsigned long long)n, read_text(image, "a"));
    disk_close(&image);
}

START_TEST(the_watcher_comes_before_the_effect)
{
    open_backing(1);
    char seen[256] = "";
    disk_sim_watch(disk, watch, seen);
    struct disk_file *file = create(disk, "a");
    ok(disk_write(file, 0, "x", 1));
    ok(disk_sync(file));
    ok(disk_remove(disk, "a"));
    disk_sim_watch(disk, NULL, NULL);
    ok(disk_sync_dir(disk, ""));
    ck_assert_str_eq(seen, "0:- 1: 2:x 3:x ");
    disk_file_close(&file);
    close_backing(1);
}
END_TEST

START_TEST(a_flipped_bit_is_current_and_stable)
{
    open_backing(1);
    write_text(disk, "a", "aaa");
    struct disk_file *file = create(disk, "a");
    ok(disk_sync(file));
    ok(disk_sync_dir(disk, ""));
    ok(disk_sim_flip(disk, "a", 8 + 1));
    ck_assert_str_eq(read_text(disk, "a"), "aca");
    struct disk *image = crash(disk, 0);
    ck_assert_str_eq(read_text(image, "a"), "aca");
    disk_close(&image);
    fails(disk_sim_flip(disk, "a", 24), ENG_INVALID);
    fails(disk_sim_flip(disk, "b", 0), ENG_NOT_FOUND);
    disk_file_close(&file);
    close_backing(1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("disk");
    TCase *both = tcase_create("both backings");
    tcase_add_loop_test(both, files_keep_what_is_written, 0, 2);
    tcase_add_loop_test(both, open_flags_say_what_may_be_there, 0, 2);
    tcase_add_loop_test(both, extend_reserves_zeros_and_punch_gives_back, 0, 2);
    tcase_add_loop_test(both, map_and_calls_see_the_same_bytes, 0, 2);
    tcase_add_loop_test(both, directories_list_rename_remove, 0, 2);
    tcase_add_loop_test(both, an_open_file_is_renamed, 0, 2);
    tcase_add_loop_test(both, an_open_file_outlives_its_name, 0, 2);
    suite_add_tcase(suite, both);
    TCase *posix = tcase_create("posix");
    tcase_add_test(posix, lock_keeps_another_process_out);
    tcase_add_test(posix, a_directory_that_is_not_there);
    suite_add_tcase(suite, posix);
    TCase *simulated = tcase_create("simulated");
    tcase_add_test(simulated, seeds_0_and_1_are_nothing_and_everything);
    tcase_add_loop_test(simulated, sectors_are_old_new_or_torn, 0, 2);
    tcase_add_test(simulated, a_rename_is_atomic_and_stable_after_sync_dir);
    tcase_add_test(simulated, a_full_simulated_disk);
    tcase_add_test(simulated, calls_fail_as_told);
    tcase_add_test(simulated, the_watcher_comes_before_the_effect);
    tcase_add_test(simulated, a_flipped_bit_is_current_and_stable);
    suite_add_tcase(suite, simulated);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
