/* Rebuilds: what they must not keep, and what they must not believe. */
#include <check.h>
#include <xxhash.h>

#include "recovery_fixture.h"

static struct disk *disk;
static uint64_t unreadable = UINT64_MAX; /* this byte of the segments (tests/CMakeLists.txt) */

enum eng_status __real_disk_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length);
enum eng_status __wrap_disk_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length);
enum eng_status __wrap_disk_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length)
{
    if (offset <= unreadable && unreadable - offset < length && strcmp(disk_file_path(file), "state/segments") == 0)
        return eng_fail(ENG_IO, "%s: byte %llu cannot be read", disk_file_path(file), (unsigned long long)unreadable);
    return __real_disk_read(file, offset, bytes, length);
}

static void setup(void)
{
    NEED_OK(disk_sim_open(0, &disk));
}

static void teardown(void)
{
    disk_close(&disk);
}

static void no_line(void *context, const char *line)
{
    (void)context;
    (void)line;
}

static enum eng_status rebuild(struct eng **eng)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    options.create = false;
    options.recovery = ENG_RECOVER_REBUILD;
    options.recovery_report = no_line;
    return eng_open(&options, eng);
}

static uint64_t sum_of_head(struct eng *eng)
{
    struct eng_snapshot *snapshot;
    uint64_t sum = 0;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), ENG_OK);
    ck_assert_int_eq(eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, &sum), ENG_OK);
    eng_snapshot_close(&snapshot);
    return sum;
}

/* Version 2 removes a range, whose nodes fall. It is lost, so version 1, which has them, is the newest: they stay. */
START_TEST(a_fall_of_a_lost_version_frees_nothing)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng;
    struct eng_batch *batch;
    NEED_OK(eng_open(&options, &eng));
    fixture_commit(eng, 0, 1, 97);
    uint64_t sum = sum_of_head(eng);
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    NEED_OK(eng_batch_remove_range(batch, (uint8_t *)"a", 1, (uint8_t *)"b~", 2));
    NEED_OK(eng_batch_put(batch, (uint8_t *)"c", 1, (struct eng_value){ENG_BYTES, NULL, 0})); /* a root of its own */
    fixture_publish(&batch, 2);
    struct store_version head;
    ck_assert(store_head(eng->store, 0, &head));
    ck_assert_uint_ne(eng->store->reaper.waiting_count, 0);
    uint64_t at = CONTROL_LOCATION(eng->store->view.control[head.root]) * 64;
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    eng_close(&eng);
    NEED_OK(disk_sim_flip(disk, "state/segments", (at + 60) * 8));
    ck_assert_int_eq(rebuild(&eng), ENG_OK);
    ck_assert_uint_eq(eng_version_count(eng, 0), 1);
    ck_assert(sum_of_head(eng) == sum);
    ck_assert(fixture_audit(eng));
    fixture_commit(eng, 0, 2, 1); /* version 1 is dropped below: what fell in it would be due */
    sum = sum_of_head(eng);
    NEED_OK(eng_drop_below(eng, 0, 2));
    ck_assert(fixture_audit(eng));
    fixture_commit(eng, 1, 1, 97); /* takes the places of what was freed */
    ck_assert(sum_of_head(eng) == sum);
    eng_close(&eng);
}
END_TEST

/* The compactor left copies of objects where they had been. A rebuild that is cut off, at any write, may take one for
 * the other: but it writes over neither, so the next start needs no rebuild. `_i`: another store. */
START_TEST(a_rebuild_that_was_cut_off_leaves_the_checkpoint)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng;
    uint64_t chance = 0x9e3779b97f4a7c15ull * (uint64_t)(_i + 1);
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 120; tag++) {
        chance = chance * 6364136223846793005ull + 1442695040888963407ull;
        fixture_commit(eng, 0, tag, tag % 16 == 1 ? 90 : 1 + (unsigned)(chance >> 33) % 12);
        if (chance >> 40 & 1)
            NEED_OK(eng_drop_below(eng, 0, tag - (chance >> 41) % (tag < 6 ? tag : 6)));
        NEED_OK(eng_maintain(eng));
        if ((chance >> 45) % 4 == 0)
            NEED_OK(eng_checkpoint(eng, NULL, 0, true));
        if ((chance >> 48) % 8 == 0)
            NEED_OK(eng_compact(eng, 60 + (uint32_t)(chance >> 50) % 40));
    }
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    uint64_t sum = sum_of_head(eng);
    eng_close(&eng);
    struct disk *before = disk;
    enum eng_status status = ENG_IO;
    for (uint64_t n = 0; status != ENG_OK; n++) {
        disk = copy_of(before);
        disk_sim_fail(disk, n, ENG_IO);
        status = rebuild(&eng);
        if (status == ENG_OK)
            eng_close(&eng);
        disk_sim_fail(disk, UINT64_MAX, ENG_OK);
        options.disk = disk;
        NEED_OK(eng_open(&options, &eng));
        ck_assert(sum_of_head(eng) == sum);
        ck_assert(fixture_audit(eng));
        eng_close(&eng);
        disk_close(&disk);
    }
    disk = before;
}
END_TEST

static void put_one(struct eng *eng, uint64_t tag, const uint8_t *bytes, size_t size)
{
    struct eng_batch *batch;
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    NEED_OK(eng_batch_put(batch, (uint8_t *)"z", 1, (struct eng_value){ENG_BYTES, bytes, size}));
    fixture_publish(&batch, tag);
    NEED_OK(eng_drop_below(eng, 0, tag));
}

/* A value of bytes that would be objects of every id, newer than all there are: what somebody can write who knows the
 * code and guesses how often the store was opened. It is written and overwritten between two checkpoints. */
START_TEST(objects_within_a_value_are_none)
{
    enum { IDS = 200 };
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng;
    static uint8_t value[(IDS + 1) * 64];
    options.segment_bytes = 64u << 10;
    NEED_OK(eng_open(&options, &eng));
    fixture_commit(eng, 0, 1, 97);
    fixture_commit(eng, 1, 1, 97);
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    eng_close(&eng);
    NEED_OK(eng_open(&options, &eng));
    for (uint32_t id = 1; id <= IDS; id++) {
        struct {
            struct object object;
            uint8_t rest[64 - sizeof(struct object)];
        } forged = {.object = {.generation = (2ull << GENERATION_START_SHIFT) + 1, .id = id, .units = 1, .type = 3}};
        forged.object.checksum = XXH3_64bits((uint8_t *)&forged + 8, sizeof forged - 8);
        memcpy(value + 64 * id - 32, &forged, sizeof forged); /* behind the value's header of 32 bytes */
    }
    put_one(eng, 2, value, sizeof value);
    put_one(eng, 3, value, 1);
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    ck_assert_uint_gt(eng->store->control.next, 40);
    struct fixture before, after;
    fixture_note(eng, &before);
    eng_close(&eng);
    ck_assert_int_eq(rebuild(&eng), ENG_OK);
    fixture_note(eng, &after);
    ck_assert_mem_eq(&after, &before, sizeof after);
    ck_assert(fixture_audit(eng));
    eng_close(&eng);
}
END_TEST

static struct rootslot slot_at(struct disk *on, unsigned index)
{
    struct disk_file *file;
    struct rootslot slot;
    NEED_OK(disk_open(on, "state/slots", DISK_READ, &file));
    NEED_OK(rootslot_read_at(file, index, &slot));
    disk_file_close(&file);
    return slot;
}

/* Each store has a secret of its own, in both slots, and needs but one of them. */
START_TEST(both_slots_have_the_secret)
{
    struct disk *other, *image;
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng = fixture_open_new(disk, ENG_DURABLE_NONE);
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    struct fixture before, after;
    fixture_note(eng, &before);
    eng_close(&eng);
    NEED_OK(disk_sim_open(0, &other));
    eng = fixture_open_new(other, ENG_DURABLE_NONE);
    eng_close(&eng);
    struct rootslot first = slot_at(disk, 0), second = slot_at(disk, 1), others = slot_at(other, 0);
    ck_assert(rootslot_kin(&first, &second));
    ck_assert_mem_eq(others.store_id, first.store_id, sizeof first.store_id);
    ck_assert(!rootslot_kin(&first, &others));
    ck_assert_mem_ne(others.secret, first.secret, sizeof first.secret);
    for (unsigned i = 0; i < 2; i++) {
        image = copy_of(disk);
        NEED_OK(disk_sim_flip(image, "state/slots", (i * SLOT_STRIDE_BYTES + offsetof(struct rootslot, secret)) * 8));
        options.disk = image;
        NEED_OK(eng_check(&options, true, fixture_line, NULL));
        options.recovery = ENG_RECOVER_VERIFY;
        NEED_OK(eng_open(&options, &eng));
        options.recovery = ENG_RECOVER_AUTO;
        fixture_note(eng, &after);
        ck_assert_mem_eq(&after, &before, sizeof after);
        eng_close(&eng);
        disk_close(&image);
    }
    disk_close(&other);
}
END_TEST

/* A store of the format before, without a secret. */
START_TEST(older_stores_are_refused)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng = fixture_open_new(disk, ENG_DURABLE_NONE);
    struct disk_file *file;
    eng_close(&eng);
    NEED_OK(disk_open(disk, "state/slots", DISK_WRITE, &file));
    for (unsigned i = 0; i < 2; i++) {
        struct rootslot slot;
        NEED_OK(rootslot_read_at(file, i, &slot));
        slot.version = 4;
        memset(slot.secret, 0, sizeof slot.secret);
        NEED_OK(rootslot_write(file, &slot));
    }
    disk_file_close(&file);
    ck_assert_int_eq(eng_open(&options, &eng), ENG_VERSION);
    ck_assert_ptr_nonnull(strstr(eng_error(), "state/slots: root slot at offset 0: format 4"));
    ck_assert_int_eq(rebuild(&eng), ENG_VERSION);
}
END_TEST

/* The disk cannot read a byte of the segments, wherever it is: named by what looks at them, before it does. */
START_TEST(what_cannot_be_read_is_an_error)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    struct eng *eng = fixture_open_new(disk, ENG_DURABLE_NONE);
    struct store_version head;
    ck_assert(store_head(eng->store, 0, &head));
    uint64_t object = CONTROL_LOCATION(eng->store->view.control[head.root]) * 64 + 40;
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    uint64_t end = (uint64_t)eng->store->segments.total * options.segment_bytes;
    eng_close(&eng);
    unreadable = object;
    ck_assert_int_eq(eng_check(&options, true, no_line, NULL), ENG_IO);
    options.recovery = ENG_RECOVER_VERIFY;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_IO);
    const uint64_t places[] = {object, SEGMENT_HEADER_BYTES, end - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        unreadable = places[i];
        ck_assert_int_eq(rebuild(&eng), ENG_IO);
        ck_assert_ptr_nonnull(strstr(eng_error(), "state/segments"));
    }
    unreadable = UINT64_MAX;
    ck_assert_int_eq(rebuild(&eng), ENG_OK);
    ck_assert(fixture_audit(eng));
    eng_close(&eng);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rebuild");
    TCase *damage = tcase_create("damage");
    tcase_set_timeout(damage, 300);
    tcase_add_checked_fixture(damage, setup, teardown);
    tcase_add_test(damage, a_fall_of_a_lost_version_frees_nothing);
    tcase_add_loop_test(damage, a_rebuild_that_was_cut_off_leaves_the_checkpoint, 0, 100);
    tcase_add_test(damage, objects_within_a_value_are_none);
    tcase_add_test(damage, both_slots_have_the_secret);
    tcase_add_test(damage, older_stores_are_refused);
    tcase_add_test(damage, what_cannot_be_read_is_an_error);
    suite_add_tcase(suite, damage);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
