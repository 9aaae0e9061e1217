/* A damaged death list costs the space of what stands on it, and nothing else. */
#include <check.h>

#include "recovery_fixture.h"

#define TAGS 6u

/* Two roots with versions 1 to TAGS; the list of version 3 of root 0 is damaged. */
static struct eng *open_damaged(struct disk *disk, enum eng_durability durability)
{
    struct eng_options options = fixture_options(disk, durability);
    struct eng *eng;
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= TAGS; tag++)
        for (uint32_t root = 0; root < 2; root++)
            fixture_commit(eng, root, tag, 60);
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    uint32_t list = eng->store->versions.lineages[0].versions[2].list;
    ck_assert_uint_ne(list, 0);
    uint64_t at = CONTROL_LOCATION(eng->store->view.control[list]) * 64;
    eng_close(&eng);
    NEED_OK(disk_sim_flip(disk, "state/segments", (at + 40) * 8));
    NEED_OK(eng_open(&options, &eng));
    return eng;
}

static size_t versions_of(struct eng *eng, uint32_t root)
{
    return eng->store->versions.lineages[root].count; /* those that are marked, too */
}

static void other_versions_are_freed(enum eng_durability durability)
{
    struct disk *disk;
    NEED_OK(disk_sim_open(0, &disk));
    struct eng *eng = open_damaged(disk, durability);
    ck_assert_int_eq(eng_drop_below(eng, 0, TAGS), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "state/segments: object"));
    ck_assert_uint_eq(versions_of(eng, 0), 2); /* the one before the damage, and the newest */
    ck_assert_int_eq(eng_drop_below(eng, 1, TAGS), ENG_DAMAGED);
    ck_assert_uint_eq(versions_of(eng, 1), 1);
    struct eng_statistics first, now;
    eng_stats(eng, &first);
    for (uint64_t tag = TAGS + 1; tag < TAGS + 60; tag++) {
        for (uint32_t root = 0; root < 2; root++) {
            fixture_commit(eng, root, tag, 60);
            ck_assert_int_eq(eng_drop_below(eng, root, tag), ENG_DAMAGED);
            ck_assert_uint_eq(versions_of(eng, root), 2 - root);
        }
    }
    eng_stats(eng, &now);
    ck_assert_uint_lt(now.live_bytes, 3 * first.live_bytes / 2); /* and not sixty times what a version writes */
    eng_close(&eng);
    disk_close(&disk);
}

START_TEST(other_versions_are_freed_without_a_log)
{
    other_versions_are_freed(ENG_DURABLE_NONE);
}
END_TEST

START_TEST(other_versions_are_freed_with_a_log)
{
    other_versions_are_freed(ENG_DURABLE_FSYNC);
}
END_TEST

/* A compaction does what can be done. */
static void the_rest_is_compacted(enum eng_durability durability)
{
    struct disk *disk;
    NEED_OK(disk_sim_open(0, &disk));
    struct eng *eng = open_damaged(disk, durability);
    for (uint64_t tag = TAGS + 1; tag < TAGS + 120; tag++)
        fixture_commit(eng, 1, tag, 60); /* without a drop: the file grows */
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    struct eng_statistics before, after;
    eng_stats(eng, &before);
    ck_assert_int_eq(eng_drop_below(eng, 0, TAGS), ENG_DAMAGED);
    ck_assert_int_eq(eng_drop_below(eng, 1, TAGS + 119), ENG_DAMAGED);
    for (int i = 0; i < 3; i++) { /* without a log a checkpoint is ours to make between them */
        ck_assert_int_eq(eng_compact(eng, 80), ENG_DAMAGED);
        ck_assert_ptr_nonnull(strstr(eng_error(), "state/segments"));
        NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    }
    eng_stats(eng, &after);
    ck_assert_uint_lt(after.state_bytes, before.state_bytes / 3);
    struct fixture now;
    fixture_note(eng, &now);
    ck_assert(now.kept[0][TAGS]);
    eng_close(&eng);
    struct eng_options options = fixture_options(disk, durability);
    NEED_OK(eng_open(&options, &eng));
    struct fixture again;
    fixture_note(eng, &again);
    ck_assert_mem_eq(&again, &now, sizeof now);
    eng_close(&eng);
    disk_close(&disk);
}

START_TEST(the_rest_is_compacted_without_a_log)
{
    the_rest_is_compacted(ENG_DURABLE_NONE);
}
END_TEST

START_TEST(the_rest_is_compacted_with_a_log)
{
    the_rest_is_compacted(ENG_DURABLE_FSYNC);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("damaged_list");
    TCase *damage = tcase_create("damage");
    tcase_set_timeout(damage, 300);
    tcase_add_test(damage, other_versions_are_freed_without_a_log);
    tcase_add_test(damage, other_versions_are_freed_with_a_log);
    tcase_add_test(damage, the_rest_is_compacted_without_a_log);
    tcase_add_test(damage, the_rest_is_compacted_with_a_log);
    suite_add_tcase(suite, damage);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
