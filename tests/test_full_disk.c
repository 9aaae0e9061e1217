/*
 * A full disk that is nearly all garbage: the checkpoint that gives the garbage back needs space itself, so a commit is
 * refused while there is still room for it.
 */
#include <check.h>
#include <stdlib.h>

#include "disk_sim.h"
#include "recovery_fixture.h"

static struct disk *disk;
static struct eng *eng;
static struct eng_options options;
static uint64_t tag;
static uint32_t number;

static void start(uint64_t disk_bytes, uint32_t segment_bytes)
{
    NEED_OK(disk_sim_open(disk_bytes, &disk));
    options = fixture_options(disk, ENG_DURABLE_NONE);
    options.segment_bytes = segment_bytes;
    NEED_OK(eng_open(&options, &eng));
    tag = number = 0;
}

static void stop(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static enum eng_status publish(struct eng_batch **batch)
{
    NEED_OK(eng_batch_freeze(*batch));
    enum eng_status status = eng_commit(*batch, tag + 1, NULL);
    tag += status == ENG_OK;
    eng_batch_close(batch);
    return status;
}

/* Of 20,000 keys some are written, in turn, or removed. */
static enum eng_status change(unsigned keys, bool remove)
{
    struct eng_batch *batch;
    uint8_t value[40] = {1};
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    for (unsigned i = 0; i < keys; i++) {
        uint32_t key = (number++ % 20000) * 2654435761u;
        memcpy(value, &number, sizeof number);
        if (remove)
            NEED_OK(eng_batch_remove(batch, (uint8_t *)&key, sizeof key));
        else
            NEED_OK(
                eng_batch_put(batch, (uint8_t *)&key, sizeof key, (struct eng_value){ENG_BYTES, value, sizeof value}));
    }
    return publish(&batch);
}

/* Many keys, which go again all at once in the next version. */
static enum eng_status change_range(unsigned keys, bool remove)
{
    if (tag % 2 == 0 || remove)
        return change(keys, false);
    struct eng_batch *batch;
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    NEED_OK(eng_batch_remove_range(batch, NULL, 0, NULL, 0));
    return publish(&batch);
}

/* Clones of clones, each a little different; what they share stands in the catalog as well. */
static enum eng_status change_clones(unsigned keys, bool remove)
{
    struct eng_batch *batch, *tree, *clone;
    NEED(!remove);
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    for (unsigned i = 0; i < keys; i++, number++) {
        uint32_t key = number, before = number - 1;
        if (number == 0) {
            NEED_OK(eng_batch_tree(batch, (uint8_t *)&key, sizeof key, true, &clone));
        } else {
            NEED_OK(eng_batch_tree(batch, (uint8_t *)&before, sizeof before, false, &tree));
            NEED_OK(eng_batch_tree_clone(tree, &clone));
            NEED_OK(eng_batch_tree_put(batch, (uint8_t *)&key, sizeof key, clone));
        }
        NEED_OK(eng_batch_put(clone, (uint8_t *)&key, sizeof key, (struct eng_value){ENG_BYTES, NULL, 0}));
    }
    return publish(&batch);
}

static void checkpoint(void)
{
    NEED_OK(eng_checkpoint(eng, &tag, sizeof tag, true));
}

/* Commits until the disk is full; a checkpoint after each `every`, 0: none. Returns how many there were. */
static uint64_t fill(enum eng_status (*commit)(unsigned keys, bool remove), unsigned keys, unsigned every)
{
    uint64_t before = tag;
    enum eng_status status = ENG_OK;
    while (status == ENG_OK) {
        if (every && tag % every == 0)
            checkpoint();
        status = commit(keys, false);
    }
    ck_assert_int_eq(status, ENG_FULL);
    return tag - before;
}

static void give_back(void)
{
    NEED_OK(eng_drop_below(eng, 0, tag));
    checkpoint();
    NEED_OK(eng_compact(eng, 80));
}

static const struct {
    uint64_t disk_bytes;
    uint32_t segment_bytes;
    unsigned keys, every;
} sizes[] = {{40u << 20, 1u << 20, 200, 5},   {40u << 20, 1u << 20, 200, 0},  {40u << 20, 256u << 10, 200, 2},
             {30u << 20, 256u << 10, 200, 0}, {10u << 20, 16u << 10, 50, 3},  {6u << 20, 16u << 10, 1, 40},
             {6u << 20, 64u << 10, 1, 0},     {20u << 20, 64u << 10, 4000, 1}};
enum { SIZES = sizeof sizes / sizeof *sizes };

START_TEST(what_is_dropped_comes_back)
{
    start(sizes[_i].disk_bytes, sizes[_i].segment_bytes);
    uint64_t first = fill(change, sizes[_i].keys, sizes[_i].every);
    give_back();
    NEED_OK(change(10, true));
    uint64_t second = fill(change, sizes[_i].keys, sizes[_i].every);
    ck_assert_uint_gt(second * 2, first);
    give_back();
    NEED_OK(change(10, true));
    stop();
}
END_TEST

START_TEST(after_a_restart_too)
{
    start(sizes[_i].disk_bytes, sizes[_i].segment_bytes);
    NEED_OK(change(10, false));
    (void)fill(change, sizes[_i].keys, sizes[_i].every ? sizes[_i].every : 7);
    eng_close(&eng);
    NEED_OK(eng_open(&options, &eng));
    NEED_OK(eng_head(eng, 0, &tag, NULL));
    give_back();
    NEED_OK(change(10, true));
    stop();
}
END_TEST

/* Trees that went as a whole wait in the catalog, node by node, for the versions that see them. */
START_TEST(trees_that_fell)
{
    start(sizes[_i].disk_bytes, sizes[_i].segment_bytes);
    NEED_OK(change(3000, false));
    (void)fill(change_range, 300, sizes[_i].every);
    checkpoint();
    struct eng_snapshot *snapshot;
    NEED_OK(eng_snapshot_open(eng, 0, tag / 2, &snapshot)); /* some of what fell is still seen */
    NEED_OK(eng_drop_below(eng, 0, tag / 2));
    checkpoint();
    NEED_OK(eng_compact(eng, 80));
    eng_snapshot_close(&snapshot);
    give_back();
    NEED_OK(change(10, true));
    stop();
}
END_TEST

START_TEST(clones)
{
    start(sizes[_i].disk_bytes / 4, sizes[_i].segment_bytes);
    (void)fill(change_clones, 1 + sizes[_i].keys / 10, sizes[_i].every);
    NEED_OK(eng_drop_below(eng, 0, tag));
    checkpoint();
    stop();
}
END_TEST

static uint64_t size_of(struct disk_file *file)
{
    uint64_t bytes;
    NEED_OK(disk_size(file, &bytes));
    return bytes;
}

/* A store of an older version, on a disk that is full: it opens, and nothing is written before there is room. */
START_TEST(room_that_is_missing_at_the_start)
{
    start(0, 64u << 10);
    for (unsigned i = 0; i < 200; i++)
        NEED_OK(change(200, false));
    checkpoint();
    uint64_t needed = journal_bytes(1 + control_pages(eng->store->control.next));
    ck_assert_uint_ge(size_of(eng->store->journal), needed);
    eng_close(&eng);
    struct disk_file *journal;
    NEED_OK(disk_open(disk, "state/journal", DISK_WRITE, &journal));
    NEED_OK(disk_truncate(journal, 0));
    NEED_OK(disk_sync(journal));
    disk_file_close(&journal);
    ((struct sim_disk *)disk)->capacity = 1;
    NEED_OK(eng_open(&options, &eng));
    NEED_OK(eng_head(eng, 0, &tag, NULL));
    ck_assert_int_eq(change(1, false), ENG_FULL);
    ((struct sim_disk *)disk)->capacity = 0;
    NEED_OK(change(1, false));
    ck_assert_uint_ge(size_of(eng->store->journal), needed);
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("full disk");
    TCase *cases = tcase_create("garbage");
    tcase_add_loop_test(cases, what_is_dropped_comes_back, 0, SIZES);
    tcase_add_loop_test(cases, after_a_restart_too, 0, SIZES);
    tcase_add_loop_test(cases, trees_that_fell, 0, SIZES);
    tcase_add_loop_test(cases, clones, 0, SIZES);
    tcase_add_test(cases, room_that_is_missing_at_the_start);
    tcase_set_timeout(cases, 300);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
