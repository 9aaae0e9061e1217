/* Recovery modes (VERIFY, REBUILD), damage that is named, resources that run out. */
#include <check.h>

#include "recovery_fixture.h"

static struct disk *disk;
static struct fixture before;
static unsigned lines;
static char text[1 << 16];

static void note_line(void *context, const char *line)
{
    (void)context;
    lines++;
    size_t used = strlen(text);
    snprintf(text + used, sizeof text - used, "%s\n", line);
}

static struct eng_options options_of(struct disk *on, enum eng_recovery recovery)
{
    struct eng_options options = fixture_options(on, ENG_DURABLE_NONE);
    options.create = false;
    options.recovery = recovery;
    options.recovery_report = note_line;
    lines = 0;
    text[0] = 0;
    return options;
}

static enum eng_status open_as(struct disk *on, enum eng_recovery recovery, struct eng **eng)
{
    struct eng_options options = options_of(on, recovery);
    return eng_open(&options, eng);
}

static void setup(void)
{
    ck_assert_int_eq(disk_sim_open(0, &disk), ENG_OK);
    struct eng *eng = fixture_open_new(disk, ENG_DURABLE_NONE);
    ck_assert_int_eq(eng_checkpoint(eng, "state", 5, true), ENG_OK);
    fixture_note(eng, &before);
    ck_assert_uint_eq(fixture_count(&before), 12);
    eng_close(&eng);
}

static void teardown(void)
{
    disk_close(&disk);
}

static uint64_t size_of(struct disk *on, const char *path)
{
    struct disk_file *file;
    uint64_t size;
    ck_assert_int_eq(disk_open(on, path, DISK_READ, &file), ENG_OK);
    ck_assert_int_eq(disk_size(file, &size), ENG_OK);
    disk_file_close(&file);
    return size;
}

/* Overwrites [offset, offset + length) with noise, or zeros. */
static void spoil(struct disk *on, const char *path, uint64_t offset, size_t length, bool noise)
{
    struct disk_file *file;
    uint8_t *bytes = calloc(length, 1);
    uint64_t state = offset + 1;
    for (size_t i = 0; noise && i < length; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(state >> 40);
    }
    ck_assert_int_eq(disk_open(on, path, DISK_WRITE, &file), ENG_OK);
    ck_assert_int_eq(disk_write(file, offset, bytes, length), ENG_OK);
    ck_assert_int_eq(disk_sync(file), ENG_OK);
    disk_file_close(&file);
    free(bytes);
}

static void cut(struct disk *on, const char *path, uint64_t size)
{
    struct disk_file *file;
    ck_assert_int_eq(disk_open(on, path, DISK_WRITE, &file), ENG_OK);
    ck_assert_int_eq(disk_truncate(file, size), ENG_OK);
    disk_file_close(&file);
}

/* All that is kept is one of the versions there were, with its digest and its contents. Returns how many. */
static unsigned versions_right(struct eng *eng, const struct fixture *expected)
{
    struct fixture now;
    fixture_note(eng, &now);
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        for (uint64_t tag = 0; tag < FIXTURE_TAGS; tag++) {
            if (!now.kept[root][tag])
                continue;
            ck_assert(expected->kept[root][tag]);
            ck_assert_mem_eq(&now.summary[root][tag], &expected->summary[root][tag], sizeof(struct eng_summary));
            struct eng_snapshot *snapshot;
            uint64_t sum = 0;
            ck_assert_int_eq(eng_snapshot_open(eng, root, tag, &snapshot), ENG_OK);
            ck_assert_int_eq(eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, &sum), ENG_OK);
            eng_snapshot_close(&snapshot);
        }
    return fixture_count(&now);
}

/* After a rebuild the store is like any other: nothing leaked, all frees come out right, a normal start works. */
static void goes_on(struct disk *on, struct eng **eng)
{
    ck_assert(fixture_audit(*eng));
    eng_close(eng);
    struct eng_options options = options_of(on, ENG_RECOVER_AUTO);
    if (eng_check(&options, true, note_line, NULL) != ENG_OK)
        ck_abort_msg("check after a rebuild: %s", text);
    ck_assert_int_eq(eng_open(&options, eng), ENG_OK);
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++) {
        for (uint64_t tag = 9; tag <= 12; tag++)
            fixture_commit(*eng, root, tag, 20);
        ck_assert_int_eq(eng_drop_below(*eng, root, 12), ENG_OK);
    }
    ck_assert(fixture_audit(*eng));
    struct store_statistics statistics;
    store_stats((*eng)->store, &statistics);
    ck_assert_uint_eq(statistics.versions, FIXTURE_ROOTS);
    eng_close(eng);
}

START_TEST(rebuild_without_the_control_table)
{
    for (int damage = 0; damage < 6; damage++) {
        struct disk *on = copy_of(disk);
        uint64_t size = size_of(on, "state/control");
        switch (damage) {
        case 0:
            spoil(on, "state/control", 0, size, false);
            break;
        case 1:
            spoil(on, "state/control", 0, size, true);
            break;
        case 2:
            cut(on, "state/control", 4096);
            break;
        case 3:
            cut(on, "state/control", 0);
            break;
        case 4:
            ck_assert_int_eq(disk_remove(on, "state/control"), ENG_OK);
            break;
        case 5:
            spoil(on, "state/control", 4096 + 200, 100, true);
            break;
        }
        struct eng *eng;
        enum eng_status status = open_as(on, ENG_RECOVER_AUTO, &eng);
        ck_assert_int_eq(status, ENG_DAMAGED);
        ck_assert_ptr_nonnull(strstr(eng_error(), "state/control"));
        struct eng_options options = options_of(on, ENG_RECOVER_AUTO);
        ck_assert_int_eq(eng_check(&options, true, note_line, NULL), ENG_DAMAGED);
        ck_assert_ptr_nonnull(strstr(text, "state/control"));
        ck_assert_int_eq(open_as(on, ENG_RECOVER_REBUILD, &eng), ENG_OK);
        ck_assert_uint_eq(lines, damage == 4);
        ck_assert_uint_eq(versions_right(eng, &before), 12);
        char state[16];
        ck_assert_uint_eq(eng_app_state(eng, state, sizeof state), 5);
        ck_assert_mem_eq(state, "state", 5);
        goes_on(on, &eng);
        disk_close(&on);
    }
}
END_TEST

/* The modes on a store that is not there, or new. */
START_TEST(modes_of_a_new_store)
{
    for (enum eng_recovery recovery = ENG_RECOVER_AUTO; recovery <= ENG_RECOVER_REBUILD; recovery++) {
        struct disk *on;
        struct eng *eng;
        ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
        ck_assert_int_eq(open_as(on, recovery, &eng), ENG_NOT_FOUND);
        for (int round = 0; round < 2; round++) {
            struct eng_options options = options_of(on, recovery);
            options.create = true;
            ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
            ck_assert_uint_eq(lines, 0);
            ck_assert_uint_eq(eng_version_count(eng, 0), 0);
            eng_close(&eng);
        }
        disk_close(&on);
    }
}
END_TEST

/* Each live object destroyed in turn: the versions that have it are dropped and named, all others stay. */
START_TEST(rebuild_drops_what_cannot_be_read)
{
    struct eng *eng;
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_AUTO, &eng), ENG_OK);
    uint32_t next = (uint32_t)eng->store->control.next;
    uint64_t *words = calloc(next, sizeof *words);
    for (uint32_t id = 1; id < next; id++)
        words[id] = eng->store->view.control[id];
    eng_close(&eng);
    unsigned tried = 0, dropped = 0, whole = 0;
    for (uint32_t id = 1; id < next; id++) {
        if (!words[id])
            continue;
        struct disk *on = copy_of(disk);
        spoil(on, "state/segments", CONTROL_LOCATION(words[id]) * 64 + 8, 40, true);
        spoil(on, "state/control", 0, size_of(on, "state/control"), false);
        ck_assert_int_eq(open_as(on, ENG_RECOVER_REBUILD, &eng), ENG_OK);
        unsigned kept = versions_right(eng, &before);
        bool list = CONTROL_TYPE(words[id]) == OBJECT_LIST;
        ck_assert(list ? kept == 12 : kept < 12);      /* lists are made anew, anything else was part of some version */
        for (unsigned i = kept, at = 0; i < 12; i++) { /* each one is named */
            char *line = strstr(text + at, ": dropped");
            ck_assert_ptr_nonnull(line);
            at = (unsigned)(line - text) + 1;
        }
        if (kept < 12)
            ck_assert_ptr_nonnull(strstr(text, "object"));
        tried++;
        dropped += 12 - kept;
        whole += kept;
        if (tried % 4 == 0 && kept > 0)
            goes_on(on, &eng);
        else
            eng_close(&eng);
        disk_close(&on);
    }
    free(words);
    ck_assert_uint_gt(tried, 50);
    ck_assert_uint_gt(whole, tried);
    ck_assert_uint_gt(dropped, tried / 2);
}
END_TEST

START_TEST(both_slots_damaged_is_an_error)
{
    for (uint64_t slot = 0; slot < 2; slot++)
        spoil(disk, "state/slots", slot * SLOT_STRIDE_BYTES + 60, 16, true);
    for (enum eng_recovery recovery = ENG_RECOVER_AUTO; recovery <= ENG_RECOVER_REBUILD; recovery++) {
        struct eng *eng;
        ck_assert_int_eq(open_as(disk, recovery, &eng), ENG_DAMAGED);
        ck_assert_ptr_nonnull(strstr(eng_error(), "state/slots"));
        ck_assert_ptr_nonnull(strstr(eng_error(), "offset"));
    }
}
END_TEST

/* The catalog of the newest checkpoint is lost; the slot before it names one that can be read. */
START_TEST(rebuild_from_the_catalog_before)
{
    struct eng *eng;
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_AUTO, &eng), ENG_OK);
    fixture_commit(eng, 0, 9, 5);
    ck_assert_int_eq(eng_checkpoint(eng, "newer", 5, true), ENG_OK);
    uint64_t checkpoint = eng->store->checkpoint.slot.checkpoint;
    eng_close(&eng);
    char path[32];
    snprintf(path, sizeof path, "state/catalog.%u", (unsigned)(checkpoint & 1));
    spoil(disk, path, 20, 8, true);
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_AUTO, &eng), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), path));
    struct disk *both = copy_of(disk);
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_REBUILD, &eng), ENG_OK);
    ck_assert_ptr_nonnull(strstr(text, path));
    ck_assert_ptr_nonnull(strstr(text, "going back to checkpoint"));
    ck_assert_uint_eq(versions_right(eng, &before), 12);
    goes_on(disk, &eng);
    snprintf(path, sizeof path, "state/catalog.%u", (unsigned)((checkpoint + 1) & 1));
    spoil(both, path, 20, 8, true);
    ck_assert_int_eq(open_as(both, ENG_RECOVER_REBUILD, &eng), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "state/catalog"));
    disk_close(&both);
}
END_TEST

/* A watcher that makes an image of what a power loss would leave before every n-th disk call. */
struct crashes {
    uint64_t every, images;
};

static void rebuilt_image(void *context, struct disk *on, uint64_t n)
{
    struct crashes *crashes = context;
    if (n % crashes->every != 0)
        return;
    struct disk *image, *second;
    ck_assert_int_eq(disk_sim_crash(on, n * 2 + 3, &image), ENG_OK);
    if (!disk_exists(image, "state/slots")) {
        disk_close(&image);
        return;
    }
    second = copy_of(image);
    struct eng *eng, *rebuilt;
    struct fixture normal, anew;
    ck_assert_int_eq(open_as(image, ENG_RECOVER_AUTO, &eng), ENG_OK);
    fixture_note(eng, &normal);
    ck_assert_int_eq(open_as(second, ENG_RECOVER_REBUILD, &rebuilt), ENG_OK);
    fixture_note(rebuilt, &anew);
    ck_assert_mem_eq(&normal, &anew, sizeof normal);
    ck_assert(fixture_audit(rebuilt));
    ck_assert_uint_eq(lines, 0);
    struct store_statistics a, b;
    store_stats(eng->store, &a);
    store_stats(rebuilt->store, &b);
    ck_assert_uint_eq(a.versions, b.versions);
    eng_close(&eng);
    eng_close(&rebuilt);
    disk_close(&image);
    disk_close(&second);
    crashes->images++;
}

/* What a kill leaves, and a life after it that ends with a checkpoint of its own. */
static void lived_on(void *context, struct disk *on, uint64_t n)
{
    struct crashes *crashes = context;
    if (n % crashes->every != 0)
        return;
    struct disk *image = copy_of(on);
    if (!disk_exists(image, "state/slots")) {
        disk_close(&image);
        return;
    }
    struct eng *eng;
    struct fixture normal, anew;
    ck_assert_int_eq(open_as(image, ENG_RECOVER_AUTO, &eng), ENG_OK);
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        fixture_commit(eng, root, 15, 3);
    ck_assert_int_eq(eng_checkpoint(eng, "life", 4, true), ENG_OK);
    fixture_note(eng, &normal);
    eng_close(&eng);
    ck_assert_int_eq(open_as(image, ENG_RECOVER_REBUILD, &eng), ENG_OK);
    ck_assert_msg(lines == 0, "at call %llu: %s", (unsigned long long)n, text);
    fixture_note(eng, &anew);
    ck_assert_mem_eq(&normal, &anew, sizeof normal);
    ck_assert(fixture_audit(eng));
    eng_close(&eng);
    disk_close(&image);
    crashes->images++;
}

/* A checkpoint that a kill broke off has left objects with right checksums, and ids that other objects have in the life
 * after it. */
START_TEST(rebuild_leaves_out_lost_generations)
{
    struct disk *on;
    struct crashes crashes = {.every = 1};
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng_options options = fixture_options(on, ENG_DURABLE_NONE);
    struct eng *eng;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    disk_sim_watch(on, lived_on, &crashes);
    for (uint64_t tag = 1; tag <= 14; tag++) {
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++) {
            fixture_commit(eng, root, tag, 90); /* nothing stays, and all ids come round */
            ck_assert_int_eq(eng_drop_below(eng, root, tag), ENG_OK);
        }
        if (tag == 4 || tag == 13)
            ck_assert_int_eq(eng_checkpoint(eng, &tag, sizeof tag, true), ENG_OK);
    }
    disk_sim_watch(on, NULL, NULL);
    eng_close(&eng);
    disk_close(&on);
    ck_assert_uint_gt(crashes.images, 20);
}
END_TEST

START_TEST(rebuild_after_power_loss)
{
    struct disk *on;
    struct crashes crashes = {.every = 2};
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng_options options = fixture_options(on, ENG_DURABLE_NONE);
    struct eng *eng;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    disk_sim_watch(on, rebuilt_image, &crashes);
    for (uint64_t tag = 1; tag <= 15; tag++) {
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
            fixture_commit(eng, root, tag, 30);
        if (tag > 3)
            ck_assert_int_eq(eng_drop(eng, tag % 2, tag - 3), ENG_OK);
        if (tag % 2 == 0) /* ids that the last checkpoint has are used again before the next one */
            continue;
        ck_assert_int_eq(eng_checkpoint(eng, &tag, sizeof tag, true), ENG_OK);
        ck_assert_int_eq(eng_compact(eng, 95), ENG_OK);
    }
    disk_sim_watch(on, NULL, NULL);
    eng_close(&eng);
    disk_close(&on);
    ck_assert_uint_gt(crashes.images, 50);
}
END_TEST

/* A rebuild that is cut short by a power loss, and a normal start after it: nothing that is not one of the versions
 * there were. */
struct cut_short {
    const struct fixture *all;
    unsigned opened, refused;
};

static void cut_rebuild(void *context, struct disk *on, uint64_t n)
{
    struct cut_short *cut_short = context;
    struct disk *image;
    struct eng *eng;
    struct fixture now;
    ck_assert_int_eq(disk_sim_crash(on, n % 5, &image), ENG_OK);
    struct eng_options options = fixture_options(image, ENG_DURABLE_FSYNC);
    enum eng_status status = eng_open(&options, &eng);
    ck_assert(status == ENG_OK || status == ENG_DAMAGED);
    cut_short->opened += status == ENG_OK;
    cut_short->refused += status != ENG_OK;
    if (status == ENG_OK) {
        fixture_note(eng, &now);
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
            for (uint64_t tag = 0; tag < FIXTURE_TAGS; tag++) {
                if (!now.kept[root][tag])
                    continue;
                ck_assert_mem_eq(&now.summary[root][tag], &cut_short->all->summary[root][tag],
                                 sizeof(struct eng_summary));
            }
        eng_close(&eng);
    }
    disk_close(&image);
}

/* The newest version is lost with the table; the log still has all of it. */
START_TEST(rebuild_replays_what_was_lost)
{
    struct disk *on;
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng *eng = fixture_open_new(on, ENG_DURABLE_FSYNC);
    ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
    struct store_version head;
    ck_assert(store_head(eng->store, 0, &head));
    fixture_commit(eng, 0, 9, 7);
    fixture_commit(eng, 1, 9, 7);
    struct fixture all;
    fixture_note(eng, &all);
    uint64_t at = CONTROL_LOCATION(eng->store->view.control[head.root]) * 64;
    struct disk *image;
    ck_assert_int_eq(disk_sim_crash(on, 0, &image), ENG_OK);
    eng_close(&eng);
    disk_close(&on);
    spoil(image, "state/segments", at + 30, 10, true);
    struct eng_options options = options_of(image, ENG_RECOVER_REBUILD);
    options.durability = ENG_DURABLE_FSYNC;
    struct cut_short cut_short = {.all = &all};
    disk_sim_watch(image, cut_rebuild, &cut_short);
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    ck_assert_uint_gt(cut_short.opened + cut_short.refused, 10);
    ck_assert_ptr_nonnull(strstr(text, "version 8 of root 0: dropped"));
    ck_assert_uint_eq(versions_right(eng, &all), 14);
    ck_assert(fixture_audit(eng));
    disk_sim_watch(image, NULL, NULL);
    eng_close(&eng);
    disk_close(&image);
}
END_TEST

/* All versions but the oldest are lost, and the log no longer begins where that one was made: nothing is replayed onto
 * it. */
START_TEST(rebuild_replays_nothing_over_a_gap)
{
    struct disk *on, *image;
    struct eng *eng;
    struct store_version versions[FIXTURE_TAGS];
    uint64_t at[FIXTURE_TAGS], last = 14;
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng_options options = fixture_options(on, ENG_DURABLE_FSYNC);
    options.checkpoint_log_bytes = 12000;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    for (uint64_t tag = 1; tag <= last; tag++)
        fixture_commit(eng, 0, tag, 97);
    ck_assert_uint_gt(log_begin(eng->log), 0);
    struct fixture all;
    fixture_note(eng, &all);
    ck_assert_uint_eq(store_versions(eng->store, 0, versions, FIXTURE_TAGS), last);
    for (unsigned i = 0; i < last; i++)
        at[i] = CONTROL_LOCATION(eng->store->view.control[versions[i].root]) * 64;
    ck_assert_int_eq(disk_sim_crash(on, 0, &image), ENG_OK);
    eng_close(&eng);
    disk_close(&on);
    for (unsigned i = 1; i < last; i++)
        if (at[i] < size_of(image, "state/segments"))
            spoil(image, "state/segments", at[i] + 30, 10, true);
    options = options_of(image, ENG_RECOVER_REBUILD);
    options.durability = ENG_DURABLE_FSYNC;
    struct cut_short cut_short = {.all = &all};
    disk_sim_watch(image, cut_rebuild, &cut_short);
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    ck_assert_uint_gt(cut_short.opened + cut_short.refused, 10);
    uint64_t tag;
    ck_assert_int_eq(eng_head(eng, 0, &tag, NULL), ENG_OK);
    ck_assert_uint_eq(tag, 1);
    ck_assert_uint_eq(versions_right(eng, &all), 1);
    ck_assert_ptr_nonnull(strstr(text, "version 2 of root 0: dropped"));
    ck_assert_ptr_nonnull(strstr(text, "version 14 of root 0: in the log, but not what it was made on: left out"));
    ck_assert(fixture_audit(eng));
    disk_sim_watch(image, NULL, NULL);
    eng_close(&eng);
    disk_close(&image);
}
END_TEST

START_TEST(verify_finds_what_nobody_reads)
{
    struct eng *eng;
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_VERIFY, &eng), ENG_OK);
    ck_assert_uint_eq(lines, 0);
    uint32_t next = (uint32_t)eng->store->control.next, found = 0;
    uint64_t at[3];
    for (uint32_t id = 1; id < next && found < 3; id += 11)
        if (eng->store->view.control[id])
            at[found++] = CONTROL_LOCATION(eng->store->view.control[id]) * 64;
    eng_close(&eng);
    ck_assert_uint_eq(found, 3);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(disk_sim_flip(disk, "state/segments", (at[i] + 60) * 8 + i), ENG_OK);
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_VERIFY, &eng), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "state/segments"));
    ck_assert_ptr_nonnull(strstr(eng_error(), "offset"));
    for (unsigned i = 0; i < 3; i++) { /* all of them, not only the first */
        char where[64];
        snprintf(where, sizeof where, "offset %llu:", (unsigned long long)at[i]);
        ck_assert_ptr_nonnull(strstr(text, where));
    }
    struct eng_options options = options_of(disk, ENG_RECOVER_AUTO);
    ck_assert_int_eq(eng_check(&options, true, note_line, NULL), ENG_DAMAGED);
    ck_assert_uint_ge(lines, 3);
}
END_TEST

/* Every checksum right and a digest wrong: what only VERIFY and a deep check can tell. */
START_TEST(verify_computes_every_digest)
{
    struct eng *eng;
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_AUTO, &eng), ENG_OK);
    struct store_version versions[12];
    ck_assert_uint_eq(store_versions(eng->store, 0, versions, 12), 6);
    uint64_t at = CONTROL_LOCATION(eng->store->view.control[versions[0].root]) * 64; /* of the oldest version */
    size_t bytes = CONTROL_UNITS(eng->store->view.control[versions[0].root]) * 64u;
    uint8_t secret[OBJECT_SECRET_BYTES];
    memcpy(secret, eng->store->root.secret, sizeof secret);
    eng_close(&eng);
    struct disk_file *file;
    struct node *node = malloc(bytes);
    ck_assert_int_eq(disk_open(disk, "state/segments", DISK_WRITE, &file), ENG_OK);
    ck_assert_int_eq(disk_read(file, at, node, bytes), ENG_OK);
    node->summary.digest[7] ^= 1;
    node->object.checksum = object_checksum(secret, &node->object);
    ck_assert_int_eq(disk_write(file, at, node, bytes), ENG_OK);
    disk_file_close(&file);
    free(node);
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_AUTO, &eng), ENG_OK);
    eng_close(&eng);
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_VERIFY, &eng), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "version 1 of root 0"));
    ck_assert_ptr_nonnull(strstr(eng_error(), "state/segments"));
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_REBUILD, &eng), ENG_OK);
    ck_assert_uint_eq(versions_right(eng, &before), 11);
    goes_on(disk, &eng);
}
END_TEST

START_TEST(a_damaged_log_record_is_named)
{
    struct disk *on;
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng *eng = fixture_open_new(on, ENG_DURABLE_FSYNC);
    uint64_t end = log_end(eng->log);
    struct disk *image;
    ck_assert_int_eq(disk_sim_crash(on, 0, &image), ENG_OK);
    eng_close(&eng);
    disk_close(&on);
    uint64_t places[2] = {4096 + 100, 4096 + end * 3 / 4};
    for (unsigned i = 0; i < 2; i++)
        spoil(image, "log/00000000000000.log", places[i], 2, true);
    struct eng_options options = options_of(image, ENG_RECOVER_AUTO);
    options.durability = ENG_DURABLE_FSYNC;
    ck_assert_int_eq(eng_check(&options, false, note_line, NULL), ENG_DAMAGED);
    ck_assert_uint_eq(lines, 2);
    ck_assert_ptr_nonnull(strstr(text, "log/00000000000000.log: record at byte 4096 "));
    ck_assert_int_eq(eng_open(&options, &eng), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "log/00000000000000.log: record at byte 4096 "));
    disk_close(&image);
}
END_TEST

/* ---- what runs out -----------------------------------------------------------------------------------------------*/

/* A commit that fails for want of something leaves the version before, and works when there is some again. */
static void refused(struct eng *eng, enum eng_status expected, uint64_t tag)
{
    struct eng_summary head, after;
    struct eng_batch *batch;
    uint8_t value[4000];
    memset(value, 7, sizeof value);
    ck_assert_int_eq(eng_head(eng, 0, NULL, &head), ENG_OK);
    ck_assert_int_eq(eng_batch_open(eng, 0, NULL, &batch), ENG_OK);
    for (unsigned i = 0; i < 60; i++) {
        uint8_t key[8] = {'z', (uint8_t)i};
        ck_assert_int_eq(eng_batch_put(batch, key, 2, (struct eng_value){ENG_BYTES, value, sizeof value}), ENG_OK);
    }
    ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
    ck_assert_int_eq(eng_reserve(eng, 60, 60 * sizeof value), expected);
    ck_assert_ptr_nonnull(strstr(eng_error(), expected == ENG_FULL ? "full" : "ids"));
    ck_assert_int_eq(eng_commit(batch, tag, NULL), expected);
    ck_assert_int_eq(eng_head(eng, 0, NULL, &after), ENG_OK);
    ck_assert_mem_eq(&head, &after, sizeof head);
    ck_assert(fixture_audit(eng));
    eng_batch_close(&batch);
}

START_TEST(full_disk_changes_nothing)
{
    struct disk *on;
    struct eng *eng;
    ck_assert_int_eq(disk_sim_open(200u << 10, &on), ENG_OK);
    struct eng_options options = fixture_options(on, ENG_DURABLE_NONE);
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    fixture_commit(eng, 0, 1, 40);
    refused(eng, ENG_FULL, 2);
    fixture_commit(eng, 0, 2, 3); /* a small one still fits */
    ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
    eng_close(&eng);
    ck_assert_int_eq(open_as(on, ENG_RECOVER_VERIFY, &eng), ENG_OK);
    eng_close(&eng);
    disk_close(&on);
}
END_TEST

START_TEST(no_ids_changes_nothing)
{
    struct eng *eng;
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_AUTO, &eng), ENG_OK);
    struct control *control = &eng->store->control;
    uint64_t limit = control->limit;
    size_t free_count = control->free_count;
    control->limit = control->next; /* none left but a few */
    control->free_count = free_count < 20 ? free_count : 20;
    refused(eng, ENG_NO_IDS, 9);
    control->limit = limit;
    fixture_commit(eng, 0, 9, 10);
    ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
    eng_close(&eng);
    ck_assert_int_eq(open_as(disk, ENG_RECOVER_VERIFY, &eng), ENG_OK);
    eng_close(&eng);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recovery");
    TCase *damage = tcase_create("damage");
    tcase_set_timeout(damage, 300);
    tcase_add_checked_fixture(damage, setup, teardown);
    tcase_add_test(damage, rebuild_without_the_control_table);
    tcase_add_test(damage, modes_of_a_new_store);
    tcase_add_test(damage, rebuild_drops_what_cannot_be_read);
    tcase_add_test(damage, both_slots_damaged_is_an_error);
    tcase_add_test(damage, rebuild_from_the_catalog_before);
    tcase_add_test(damage, rebuild_leaves_out_lost_generations);
    tcase_add_test(damage, rebuild_after_power_loss);
    tcase_add_test(damage, rebuild_replays_what_was_lost);
    tcase_add_test(damage, rebuild_replays_nothing_over_a_gap);
    tcase_add_test(damage, verify_finds_what_nobody_reads);
    tcase_add_test(damage, verify_computes_every_digest);
    tcase_add_test(damage, a_damaged_log_record_is_named);
    tcase_add_test(damage, full_disk_changes_nothing);
    tcase_add_test(damage, no_ids_changes_nothing);
    suite_add_tcase(suite, damage);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
