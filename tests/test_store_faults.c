/* The object store and damaged files, full disks, failing disks. */
#include <stdlib.h>

#include "store_fixture.h"

/* A store with some versions, checkpointed and closed. */
static void populate(uint32_t ids[8])
{
    MODEL_OK(store_open(&options, &store));
    for (uint64_t i = 0; i < 8; i++) {
        uint64_t generation = begin(0);
        ids[i] = alloc(1000, i);
        if (i >= 4)
            store_kill(store_arena(store, 0), ids[i - 4], generation - 4);
        commit(i + 1, ids[i]);
    }
    checkpoint(1);
    store_close(&store);
}

static uint32_t lines;
static char first_line[512];
static void count_lines(void *context, const char *line)
{
    (void)context;
    if (lines++ == 0)
        snprintf(first_line, sizeof first_line, "%s", line);
}

START_TEST(damaged_object)
{
    uint32_t ids[8];
    populate(ids);
    MODEL_OK(store_check(disk, "state", true, model_report, NULL));
    MODEL_OK(store_open(&options, &store));
    uint64_t location = CONTROL_LOCATION(store->view.control[ids[6]]);
    store_close(&store);
    MODEL_OK(disk_sim_flip(disk, "state/segments", (location * 64 + 500) * 8 + 3));
    lines = 0;
    ck_assert_int_eq(store_check(disk, "state", true, count_lines, NULL), ENG_DAMAGED);
    ck_assert_uint_eq(lines, 1);
    char offset[64];
    snprintf(offset, sizeof offset, "offset %llu:", (unsigned long long)location * 64);
    ck_assert_ptr_nonnull(strstr(first_line, "state/segments"));
    ck_assert_ptr_nonnull(strstr(first_line, offset));
    MODEL_OK(store_open(&options, &store));
    ck_assert(readable(ids[5], 1000, 5));
    ck_assert(!readable(ids[6], 1000, 6));
    ck_assert_ptr_nonnull(strstr(eng_error(), offset));
    MODEL_OK(store_drop_below(store, 0, 5));
    ck_assert_int_eq(store_compact(store, 100, UINT64_MAX), ENG_DAMAGED); /* not copied to a new place */
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    ck_assert(!readable(ids[6], 1000, 6));
    ck_assert(readable(ids[7], 1000, 7));
}
END_TEST

START_TEST(damaged_list)
{
    uint32_t ids[8];
    populate(ids);
    MODEL_OK(store_open(&options, &store));
    uint32_t list = store->versions.lineages[0].versions[4].list;
    ck_assert_uint_ne(list, 0);
    uint64_t location = CONTROL_LOCATION(store->view.control[list]);
    store_close(&store);
    MODEL_OK(disk_sim_flip(disk, "state/segments", (location * 64 + 33) * 8));
    MODEL_OK(store_open(&options, &store));
    uint64_t before = live();
    MODEL_OK(store_drop_below(store, 0, 4));
    ck_assert_uint_eq(live(), before);
    ck_assert_int_eq(store_drop(store, 0, 4), ENG_DAMAGED);
    ck_assert_uint_eq(live(), before);
    ck_assert(readable(ids[0], 1000, 0));
}
END_TEST

START_TEST(damaged_files)
{
    static const struct {
        const char *path;
        uint64_t byte;
    } cases[] = {{"state/control", 100},
                 {"state/control", 4096 + 40},
                 {"state/segments", 20},
                 {"state/catalog.0", 10},
                 {"state/catalog.0", 100}};
    uint32_t ids[8];
    populate(ids);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        MODEL_OK(disk_sim_flip(disk, cases[i].path, cases[i].byte * 8));
        ck_assert_int_eq(store_open(&options, &store), ENG_DAMAGED);
        ck_assert_ptr_nonnull(strstr(eng_error(), cases[i].path));
        ck_assert_ptr_nonnull(strstr(eng_error(), "offset"));
        lines = 0;
        ck_assert_int_eq(store_check(disk, "state", false, count_lines, NULL), ENG_DAMAGED);
        ck_assert_uint_ge(lines, 1);
        ck_assert_ptr_nonnull(strstr(first_line, cases[i].path));
        MODEL_OK(disk_sim_flip(disk, cases[i].path, cases[i].byte * 8));
    }
    MODEL_OK(store_open(&options, &store)); /* writes both slots */
    uint64_t sequence = store->root.sequence;
    store_close(&store);
    MODEL_OK(disk_sim_flip(disk, "state/slots", ((sequence & 1) * 8192 + 700) * 8));
    MODEL_OK(store_open(&options, &store));
    ck_assert_uint_eq(store->root.sequence, sequence + 1); /* two more than the slot that was left */
    ck_assert(readable(ids[7], 1000, 7));
    store_close(&store);
    for (uint64_t slot = 0; slot < 2; slot++)
        MODEL_OK(disk_sim_flip(disk, "state/slots", (slot * 8192 + 30) * 8));
    ck_assert_int_eq(store_open(&options, &store), ENG_DAMAGED);
    MODEL_OK(disk_remove(disk, "state/slots"));
    ck_assert_int_eq(store_open(&options, &store), ENG_DAMAGED); /* not created anew over a store in use */
}
END_TEST

/* The newest slot is lost after its checkpoint was complete and the journal overwritten: not the older one silently. */
START_TEST(older_slot_is_refused)
{
    uint32_t ids[8];
    populate(ids);
    MODEL_OK(store_open(&options, &store));
    checkpoint(2);
    uint64_t sequence = store->checkpoint.slot.sequence;
    store_close(&store);
    MODEL_OK(disk_sim_flip(disk, "state/slots", ((sequence & 1) * 8192 + 700) * 8));
    MODEL_OK(disk_sim_flip(disk, "state/journal", 100 * 8));
    ck_assert_int_eq(store_open(&options, &store), ENG_DAMAGED);
    MODEL_OK(disk_sim_flip(disk, "state/journal", 100 * 8));
    MODEL_OK(store_open(&options, &store)); /* with the journal it is rolled forward */
    uint64_t state;
    ck_assert_uint_eq(store_app_state(store, &state, sizeof state), 8);
    ck_assert_uint_eq(state, 2);
}
END_TEST

/* Generations that a start gave out are not given out again, whichever of the slots is lost. */
START_TEST(no_start_twice)
{
    uint32_t ids[8];
    populate(ids);
    for (unsigned lost = 0; lost < 2; lost++) {
        MODEL_OK(store_open(&options, &store));
        uint64_t before = begin(0);
        commit(100 + lost, alloc(1000, 100));
        store_close(&store); /* no checkpoint */
        MODEL_OK(disk_sim_flip(disk, "state/slots", (lost * 8192 + 700) * 8));
        MODEL_OK(store_open(&options, &store));
        ck_assert_uint_gt(begin(0), before);
        store_abort(store);
        ck_assert(readable(ids[7], 1000, 7));
        store_close(&store);
    }
}
END_TEST

/* The power went while its header was being written: a journal that was never whole says nothing of its version. */
START_TEST(torn_journal_header)
{
    uint32_t ids[8];
    populate(ids);
    MODEL_OK(store_open(&options, &store));
    checkpoint(2);
    store_close(&store);
    for (int bit = 0; bit < 32; bit++) { /* u32 version at byte 16 */
        if (STATE_VERSION >> bit & 1)
            MODEL_OK(disk_sim_flip(disk, "state/journal", (uint64_t)(16 * 8 + bit)));
    }
    MODEL_OK(store_open(&options, &store));
    ck_assert(readable(ids[7], 1000, 7));
}
END_TEST

/* A dead object with a damaged header leads the walk of the compactor astray; live ones behind it are still found. */
START_TEST(compact_over_damaged_dead)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t generation = begin(0);
    uint32_t a = alloc(1000, 1), b = alloc(1000, 2), c = alloc(1000, 3);
    uint64_t dead = CONTROL_LOCATION(store->view.control[b]);
    commit(1, a);
    (void)begin(0);
    store_kill(store_arena(store, 0), b, generation);
    commit(2, a);
    MODEL_OK(store_drop(store, 0, 1));
    checkpoint(1);
    store_close(&store);
    MODEL_OK(disk_sim_flip(disk, "state/segments", (dead * 64 + 20) * 8 + 5)); /* units */
    MODEL_OK(disk_sim_flip(disk, "state/segments", (dead * 64 + 21) * 8 + 7));
    MODEL_OK(store_open(&options, &store));
    uint64_t before = CONTROL_LOCATION(store->view.control[c]);
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    ck_assert_uint_ne(CONTROL_LOCATION(store->view.control[c]), before);
    ck_assert(readable(a, 1000, 1) && readable(c, 1000, 3));
}
END_TEST

START_TEST(full_disk)
{
    struct disk *small;
    MODEL_OK(disk_sim_open(256 << 10, &small));
    options.disk = small;
    MODEL_OK(store_open(&options, &store));
    uint32_t ids[400], count = 0, id;
    uint64_t born = begin(0);
    while (count < 400) {
        struct object *object = store_alloc(store_arena(store, 0), OBJECT_LEAF, 1000, &id);
        if (!object)
            break;
        model_fill(object, 1000, id);
        ids[count++] = id;
    }
    ck_assert_int_eq(arena_status(store_arena(store, 0)), ENG_FULL);
    ck_assert_uint_gt(count, 50);
    store_abort(store);
    ck_assert_int_eq(store_reserve(store, 400000, 10), ENG_FULL);
    MODEL_OK(store_reserve(store, 100000, 10));
    /* fill half, kill every second one, then there must be room again after compaction and a checkpoint */
    born = begin(0);
    uint32_t half = count * 6 / 10;
    for (uint32_t i = 0; i < half; i++)
        ids[i] = alloc(1000, i);
    commit(1, ids[0]);
    (void)begin(0);
    for (uint32_t i = 1; i < half; i++)
        if (i % 4)
            store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[0]);
    MODEL_OK(store_drop(store, 0, 1));
    for (uint64_t round = 0; round < 4; round++) {
        enum eng_status status = store_compact(store, 95, UINT64_MAX);
        ck_assert(status == ENG_OK || status == ENG_FULL);
        checkpoint(round);
    }
    (void)begin(0);
    for (uint32_t i = 0; i < half / 2; i++)
        ids[i | 3] = alloc(1000, i);
    store_abort(store);
    for (uint32_t i = 0; i < half; i += 4)
        ck_assert(readable(ids[i], 1000, i));
    store_close(&store);
    disk_close(&small);
    options.disk = disk;
}
END_TEST

static void always_full(void *context, struct disk *full, uint64_t n)
{
    (void)context;
    (void)n;
    disk_sim_fail(full, UINT64_MAX, ENG_FULL); /* one before the next: the one that is about to be made */
}

/* Free segments whose space was given back cannot be had on a full disk: those that still have theirs are taken. */
START_TEST(full_disk_with_holes)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t born = begin(0);
    uint32_t ids[200];
    for (uint32_t i = 0; i < 200; i++)
        ids[i] = alloc(1000, i);
    commit(1, ids[0]);
    (void)begin(0);
    for (uint32_t i = 0; i < 199; i++)
        store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[199]);
    MODEL_OK(store_drop(store, 0, 1));
    for (uint64_t n = 0; n < 2; n++)
        checkpoint(n);
    MODEL_OK(store_reserve(store, 40000, 10));
    struct segments *segments = &store->segments;
    uint32_t promised = segments->reserved, whole = promised + 3, holes = 0, lowest = UINT32_MAX, take;
    ck_assert_uint_gt(segments->free_count, whole + 2);
    for (uint32_t i = 0; i < segments->free_count; i++) /* all but some in the middle have no space, nor the lowest */
        if (i < 2 || i >= 2 + whole) {
            segments->table[segments->free[i]].punched = true;
            holes++;
        }
    for (uint32_t i = 0; i < segments->free_count; i++)
        if (segments->free[i] < lowest)
            lowest = segments->free[i];
    if (!segments->table[lowest].punched) {
        segments->table[lowest].punched = true;
        whole--;
    }
    ck_assert_uint_gt(holes, 3);
    disk_sim_watch(disk, always_full, NULL);    /* from here on nothing can be had from the disk */
    for (uint32_t i = promised; i < whole; i++) /* the compactor leaves what was promised */
        MODEL_OK(segment_take(store, true, &take));
    ck_assert_int_eq(segment_take(store, true, &take), ENG_FULL);
    for (uint32_t i = 1; i < promised; i++) { /* and this one leaves one for the compactor */
        MODEL_OK(segment_take(store, false, &take));
        ck_assert(!segments->table[take].punched);
    }
    ck_assert_int_eq(segment_take(store, false, &take), ENG_FULL);
    ck_assert_int_eq(store_reserve(store, 40000, 10), ENG_FULL);
    disk_sim_watch(disk, NULL, NULL);
    disk_sim_fail(disk, 1u << 30, ENG_FULL);
    MODEL_OK(segment_take(store, false, &take)); /* there is space again */
    MODEL_OK(store_reserve(store, 40000, 10));
    ck_assert(readable(ids[199], 1000, 199));
}
END_TEST

/* Every disk call of a checkpoint fails once. */
START_TEST(failing_checkpoint)
{
    struct disk *image;
    uint32_t ids[8];
    populate(ids);
    uint32_t failed = 0;
    for (uint64_t n = 0;; n++) {
        MODEL_OK(disk_sim_crash(disk, 1, &image));
        options.disk = image;
        MODEL_OK(store_open(&options, &store));
        for (uint64_t i = 0; i < 3; i++) {
            (void)begin(0);
            uint32_t id = alloc(3000, i);
            commit(100 + i, id);
        }
        uint64_t state = 2;
        disk_sim_fail(image, n, ENG_IO);
        enum eng_status status = store_checkpoint(store, &state, sizeof state, true);
        if (status == ENG_OK) {
            store_close(&store);
            disk_close(&image);
            break;
        }
        failed++;
        ck_assert_int_eq(status, ENG_IO);
        bool captured = store->checkpoint.failed != ENG_OK;
        disk_sim_fail(image, 1000000, ENG_IO);
        if (captured) { /* final, and it is not tried again */
            uint64_t calls = disk_sim_calls(image), generation;
            ck_assert_int_eq(store_checkpoint(store, &state, sizeof state, true), ENG_IO);
            ck_assert_int_eq(store_begin(store, 0, &generation), ENG_IO);
            ck_assert_uint_eq(disk_sim_calls(image), calls);
        } else {
            MODEL_OK(store_checkpoint(store, &state, sizeof state, true));
        }
        store_close(&store);
        struct disk *after;
        MODEL_OK(disk_sim_crash(image, n, &after));
        options.disk = after;
        MODEL_OK(store_open(&options, &store));
        ck_assert(readable(ids[7], 1000, 7));
        (void)store_app_state(store, &state, sizeof state);
        ck_assert(state == 1 || state == 2);
        store_close(&store);
        MODEL_OK(store_check(after, "state", true, model_report, NULL));
        disk_close(&after);
        disk_close(&image);
    }
    ck_assert_uint_ge(failed, 10);
    options.disk = disk;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store faults");
    TCase *faults = tcase_create("faults");
    tcase_add_checked_fixture(faults, setup, teardown);
    tcase_add_test(faults, damaged_object);
    tcase_add_test(faults, damaged_list);
    tcase_add_test(faults, damaged_files);
    tcase_add_test(faults, older_slot_is_refused);
    tcase_add_test(faults, no_start_twice);
    tcase_add_test(faults, torn_journal_header);
    tcase_add_test(faults, compact_over_damaged_dead);
    tcase_add_test(faults, full_disk);
    tcase_add_test(faults, full_disk_with_holes);
    tcase_add_test(faults, failing_checkpoint);
    tcase_set_timeout(faults, 60);
    suite_add_tcase(suite, faults);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
