/*
 * A mixed workload in which the n-th thing that can fail does, for every n until nothing does any more:
 *
 *   allocations   malloc, calloc, realloc, aligned_alloc, posix_memalign, strdup, mmap of the engine
 *   changes       writes, syncs, extends, truncations, renames ... of the disk, with what a failed one leaves behind
 *   calls         every call of the disk seam, also open, map, read, size
 *
 * After each failure: the error has a line; what was acknowledged can be read and is right; no id is leaked; the store
 * closes, and an image of the disk of that moment is checked deeply and opened again: each version it has is the one a
 * run without failures makes, and with a log of its own none that was acknowledged is missing. The address sanitizer
 * tells leaks of memory.
 *
 * Allocations are wrapped by the linker, those of the simulated disk passed over, as are the functions of the seam:
 * see tests/CMakeLists.txt.
 *
 *   prog_nth_failure [--long]     every seventh n; --long: every n, and also with a leaf weight and keys of other sizes
 */
#include <errno.h>
#include <sys/mman.h>

#include "pando/proof.h"
#include "recovery_fixture.h"

/* ---- failing on demand -------------------------------------------------------------------------------------------*/

static bool in_disk;       /* inside a call of the seam: allocations there do not count */
static bool armed_memory;  /* count allocations */
static bool armed_call;    /* count calls of the seam */
static long until_failure; /* how many more succeed */
static bool struck;        /* the failure has happened */
static enum eng_status call_status;

static bool strikes(bool armed)
{
    if (!armed || struck)
        return false;
    struck = until_failure-- == 0;
    return struck;
}

#define MEMORY_WRAP(type, name, failed, parameters, arguments)                                                         \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        return !in_disk && strikes(armed_memory) ? (failed) : __real_##name arguments;                                 \
    }
MEMORY_WRAP(void *, malloc, NULL, (size_t bytes), (bytes))
MEMORY_WRAP(void *, calloc, NULL, (size_t count, size_t bytes), (count, bytes))
MEMORY_WRAP(void *, realloc, NULL, (void *old, size_t bytes), (old, bytes))
MEMORY_WRAP(void *, aligned_alloc, NULL, (size_t alignment, size_t bytes), (alignment, bytes))
MEMORY_WRAP(int, posix_memalign, ENOMEM, (void **out, size_t alignment, size_t bytes), (out, alignment, bytes))
MEMORY_WRAP(char *, strdup, NULL, (const char *text), (text))
MEMORY_WRAP(void *, mmap, MAP_FAILED, (void *at, size_t bytes, int protection, int flags, int fd, off_t offset),
            (at, bytes, protection, flags, fd, offset))

#define DISK_WRAP(name, parameters, arguments)                                                                         \
    enum eng_status __real_##name parameters;                                                                          \
    enum eng_status __wrap_##name parameters;                                                                          \
    enum eng_status __wrap_##name parameters                                                                           \
    {                                                                                                                  \
        if (strikes(armed_call))                                                                                       \
            return eng_fail(call_status, #name ": refused by the test");                                               \
        in_disk = true;                                                                                                \
        enum eng_status status = __real_##name arguments;                                                              \
        in_disk = false;                                                                                               \
        return status;                                                                                                 \
    }
DISK_WRAP(disk_open, (struct disk * disk, const char *path, int flags, struct disk_file **file),
          (disk, path, flags, file))
DISK_WRAP(disk_size, (struct disk_file * file, uint64_t *size), (file, size))
DISK_WRAP(disk_read, (struct disk_file * file, uint64_t offset, void *bytes, size_t length),
          (file, offset, bytes, length))
DISK_WRAP(disk_write, (struct disk_file * file, uint64_t offset, const void *bytes, size_t length),
          (file, offset, bytes, length))
DISK_WRAP(disk_sync, (struct disk_file * file), (file))
DISK_WRAP(disk_write_back, (struct disk_file * file), (file))
DISK_WRAP(disk_extend, (struct disk_file * file, uint64_t size), (file, size))
DISK_WRAP(disk_reserve, (struct disk_file * file, uint64_t offset, uint64_t length), (file, offset, length))
DISK_WRAP(disk_truncate, (struct disk_file * file, uint64_t size), (file, size))
DISK_WRAP(disk_punch, (struct disk_file * file, uint64_t offset, uint64_t length), (file, offset, length))
DISK_WRAP(disk_map, (struct disk_file * file, uint64_t bytes, void **base), (file, bytes, base))
DISK_WRAP(disk_mkdir, (struct disk * disk, const char *path), (disk, path))
DISK_WRAP(disk_rename, (struct disk * disk, const char *from, const char *to), (disk, from, to))
DISK_WRAP(disk_file_rename, (struct disk_file * file, const char *to), (file, to))
DISK_WRAP(disk_remove, (struct disk * disk, const char *path), (disk, path))
DISK_WRAP(disk_sync_dir, (struct disk * disk, const char *path), (disk, path))
DISK_WRAP(disk_list,
          (struct disk * disk, const char *path, void (*each)(void *context, const char *name), void *context),
          (disk, path, each, context))
DISK_WRAP(disk_sim_crash, (const struct disk *disk, uint64_t seed, struct disk **image), (disk, seed, image))

bool __real_disk_exists(struct disk *disk, const char *path);
bool __wrap_disk_exists(struct disk *disk, const char *path);
bool __wrap_disk_exists(struct disk *disk, const char *path)
{
    in_disk = true;
    bool exists = __real_disk_exists(disk, path);
    in_disk = false;
    return exists;
}
void __real_disk_file_close(struct disk_file **file);
void __wrap_disk_file_close(struct disk_file **file);
void __wrap_disk_file_close(struct disk_file **file)
{
    in_disk = true;
    __real_disk_file_close(file);
    in_disk = false;
}

/* ---- the workload ------------------------------------------------------------------------------------------------*/

enum kind { FAIL_NOTHING, FAIL_MEMORY, FAIL_CHANGE, FAIL_CHANGE_FULL, FAIL_CALL };
static const char *const kind_names[] = {"nothing", "allocation", "change of the disk", "change of the disk (full)",
                                         "call of the disk"};

#define LARGE_BYTES (64u << 10) /* of the largest value */

struct run {
    enum eng_durability durability;
    uint32_t leaf_bytes;
    uint64_t fails_at; /* this change of the disk fails */
    bool swapped;      /* it did, and the workload went on from what a power loss leaves */
    struct disk *disk;
    struct eng *eng;
    uint64_t acknowledged[FIXTURE_ROOTS]; /* tag of the newest commit that returned ENG_OK */
    uint64_t durable[FIXTURE_ROOTS];      /* the same, of what the settings promise after a power loss */
};

static struct eng_summary reference[FIXTURE_ROOTS][FIXTURE_TAGS]; /* of a run without failures */

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        enum eng_status tried = (call);                                                                                \
        if (tried != ENG_OK)                                                                                           \
            return tried;                                                                                              \
    } while (0)

static enum eng_status run_open(struct run *run, enum eng_recovery recovery)
{
    struct eng_options options = fixture_options(run->disk, run->durability);
    options.recovery = recovery;
    options.leaf_bytes = run->leaf_bytes;
    options.segment_bytes = 128u << 10;
    options.checkpoint_log_bytes = 60000;
    return eng_open(&options, &run->eng);
}

/* Subtrees: written, cloned (root 0: a rebuild keeps one version of such a root), moved, removed as a range. */
static enum eng_status fill_trees(struct eng_batch *batch, uint32_t root, uint64_t tag)
{
    struct eng_batch *tree, *copy;
    uint8_t value[90];
    memset(value, (int)tag, sizeof value);
    TRY(eng_batch_tree(batch, (const uint8_t *)"tree", 4, true, &tree));
    for (unsigned i = 0; i < 12; i++) {
        uint8_t key[2] = {(uint8_t)('a' + i), (uint8_t)(tag % 3)};
        TRY(eng_batch_put(tree, key, 2, (struct eng_value){ENG_BYTES, value, 7u * i}));
    }
    if (tag % 2)
        TRY(eng_batch_remove_range(tree, (const uint8_t *)"c", 1, (const uint8_t *)"f", 1));
    if (root != 0)
        return ENG_OK;
    TRY(eng_batch_tree_clone(tree, &copy));
    TRY(eng_batch_put(copy, (const uint8_t *)"mine", 4, (struct eng_value){ENG_BYTES, value, 3}));
    TRY(eng_batch_tree_put(batch, (const uint8_t *)(tag % 3 ? "copy/1" : "copy/2"), 6, copy));
    enum eng_status status = eng_batch_tree_take(batch, (const uint8_t *)"copy/1", 6, &copy);
    if (status == ENG_OK && tag % 2 == 0)
        status = eng_batch_tree_put(tree, (const uint8_t *)"inner", 5, copy);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

static enum eng_status fill(struct run *run, struct eng_batch *batch, uint32_t root, uint64_t tag)
{
    static uint8_t value[LARGE_BYTES];
    memset(value, (int)(tag * 3 + root), sizeof value);
    for (unsigned i = 0; i < 14; i++) {
        char key[40];
        unsigned n = (unsigned)((i * 31 + tag * 17) % 61);
        size_t bytes = (size_t)snprintf(key, sizeof key, "%s/%u", n % 2 ? "left" : "right", n);
        size_t size = i == 5 ? LARGE_BYTES : n % 7 == 0 ? 300 : n;
        TRY(eng_batch_put(batch, (uint8_t *)key, bytes, (struct eng_value){ENG_BYTES, value, size}));
    }
    TRY(fill_trees(batch, root, tag));
    TRY(eng_nested_begin(batch));
    enum eng_status status =
        eng_batch_put(batch, (const uint8_t *)"nested", 6, (struct eng_value){ENG_BYTES, value, 9});
    eng_nested_end(batch, status == ENG_OK && tag % 2 == 0);
    if (status == ENG_OK && tag % 3 == 0)
        status = eng_batch_remove_range(batch, (const uint8_t *)"left/2", 6, (const uint8_t *)"left/4", 6);
    struct eng_totals totals;
    if (status == ENG_OK)
        status = eng_batch_totals(batch, (const uint8_t *)"a", 1, (const uint8_t *)"p", 1, &totals);
    struct eng_value got;
    if (status == ENG_OK) {
        status = eng_batch_get(batch, (const uint8_t *)"right/0", 7, &got);
        status = status == ENG_NOT_FOUND ? ENG_OK : status;
    }
    struct eng_cursor *cursor;
    if (status == ENG_OK)
        status = eng_cursor_open_batch(batch, &cursor);
    if (status == ENG_OK) {
        status = eng_cursor_seek(cursor, NULL, 0);
        for (unsigned i = 0; i < 5 && status == ENG_OK; i++)
            status = eng_cursor_next(cursor);
        eng_cursor_close(&cursor);
    }
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

static void acknowledge(struct run *run, uint32_t root, uint64_t tag)
{
    run->acknowledged[root] = tag;
    if (run->durability >= ENG_DURABLE_FSYNC)
        run->durable[root] = tag;
}

static enum eng_status checkpoint(struct run *run)
{
    TRY(eng_checkpoint(run->eng, NULL, 0, true));
    memcpy(run->durable, run->acknowledged, sizeof run->durable);
    return ENG_OK;
}

static enum eng_status one_commit(struct run *run, uint32_t root, uint64_t tag)
{
    struct eng_batch *batch;
    TRY(eng_batch_open(run->eng, root, NULL, &batch));
    enum eng_status status = fill(run, batch, root, tag);
    if (status == ENG_OK)
        status = eng_batch_freeze(batch);
    if (status == ENG_OK)
        status = eng_commit(batch, tag, NULL);
    if (status == ENG_OK)
        acknowledge(run, root, tag);
    eng_batch_close(&batch);
    return status;
}

static enum eng_status one_transaction(struct run *run, uint32_t root)
{
    struct eng_batch *batch;
    uint64_t tag;
    struct eng_value got;
    TRY(eng_transaction_open(run->eng, root, ENG_SERIALIZABLE, &batch));
    enum eng_status status = eng_batch_get(batch, (const uint8_t *)"right/0", 7, &got);
    if (status == ENG_OK || status == ENG_NOT_FOUND)
        status = fill(run, batch, root, run->acknowledged[root] + 1);
    if (status == ENG_OK)
        status = eng_transaction_commit(batch, &tag, NULL);
    if (status == ENG_OK)
        acknowledge(run, root, tag);
    eng_batch_close(&batch);
    return status;
}

static enum eng_status each_difference(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *old,
                                       const struct eng_value *new)
{
    ++*(unsigned *)context;
    return ENG_OK;
}

static void count_one(void *context, size_t index, const struct eng_value *value)
{
    *(unsigned *)context += value != NULL;
}

/* Looking into one version in all the ways that need memory: many at once, by cursor, in a subtree, for a proof. */
static enum eng_status looks(struct eng_snapshot *snapshot, struct eng_snapshot *old)
{
    static const uint8_t *const keys[] = {(const uint8_t *)"right/0", (const uint8_t *)"left/1", (const uint8_t *)"x"};
    static const size_t sizes[] = {7, 6, 1};
    unsigned found = 0;
    struct eng_cursor *cursor;
    struct eng_snapshot *tree;
    struct proof_blob proof, nested;
    struct eng_value value;
    TRY(eng_get_many(snapshot, 3, keys, sizes, count_one, &found));
    TRY(eng_cursor_open(snapshot, &cursor));
    enum eng_status status = eng_cursor_seek_before(cursor, NULL, 0);
    while (status == ENG_OK && (status = eng_cursor_value(cursor, &value)) == ENG_OK)
        status = eng_cursor_prev(cursor);
    eng_cursor_close(&cursor);
    if (status != ENG_NOT_FOUND)
        return status;
    TRY(eng_prove_many(snapshot, keys, sizes, 3, &proof));
    proof_blob_free(&proof);
    TRY(eng_prove_diff(old, snapshot, NULL, 0, NULL, 0, 0, &proof));
    proof_blob_free(&proof);
    TRY(eng_snapshot_tree(snapshot, (const uint8_t *)"tree", 4, &tree));
    status = proof_state_range(tree, (const uint8_t *)"a", 1, NULL, 0, true, &proof);
    if (status == ENG_OK) {
        struct proof_level level = {snapshot, (const uint8_t *)"tree", 4};
        status = eng_prove_nested(&level, NULL, 1, &proof, &nested);
        proof_blob_free(&proof);
    }
    if (status == ENG_OK)
        proof_blob_free(&nested);
    eng_snapshot_close(&tree);
    return status;
}

static enum eng_status reads(struct run *run, uint32_t root)
{
    struct eng_snapshot *old, *new;
    unsigned differences = 0;
    uint64_t sum = 0;
    TRY(eng_snapshot_open(run->eng, root, ENG_HEAD, &new));
    enum eng_status status = eng_snapshot_open(run->eng, root, run->acknowledged[root] - 1, &old);
    if (status == ENG_OK) {
        status = eng_diff(old, new, NULL, 0, each_difference, &differences);
        if (status == ENG_OK)
            status = eng_scan(old, NULL, 0, NULL, 0, fixture_each, &sum);
        if (status == ENG_OK)
            status = looks(new, old);
        eng_snapshot_close(&old);
    }
    if (status == ENG_OK && (differences == 0 || sum == 0))
        status = eng_fail(ENG_INVALID, "the workload reads nothing");
    struct eng_batch *fork = NULL;
    struct eng_summary summary;
    if (status == ENG_OK)
        status = eng_fork(new, &fork);
    if (status == ENG_OK)
        status = eng_batch_remove(fork, (const uint8_t *)"right/0", 7);
    if (status == ENG_OK)
        status = eng_batch_freeze(fork);
    if (status == ENG_OK)
        status = eng_dry_commit(fork, &summary);
    eng_batch_close(&fork);
    eng_snapshot_close(&new);
    return status;
}

static enum eng_status reopen(struct run *run, enum eng_recovery recovery)
{
    eng_close(&run->eng);
    if (disk_sim_calls(run->disk) > run->fails_at) { /* a failed sync leaves a file undecided for good: a new disk */
        struct disk *image;
        NEED_OK(disk_sim_crash(run->disk, run->fails_at % 3, &image));
        disk_close(&run->disk);
        run->disk = image;
        run->fails_at = UINT64_MAX;
        run->swapped = true;
    }
    memcpy(run->acknowledged, run->durable, sizeof run->durable);
    return run_open(run, recovery);
}

/* Everything once; stops at the first error. */
static enum eng_status workload(struct run *run)
{
    TRY(run_open(run, ENG_RECOVER_AUTO));
    for (uint64_t tag = 1; tag <= 3; tag++)
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
            TRY(one_commit(run, root, tag));
    TRY(reads(run, 0));
    TRY(eng_drop(run->eng, 1, 2));
    TRY(checkpoint(run));
    TRY(one_transaction(run, 0));
    TRY(eng_drop_below(run->eng, 0, 3));
    TRY(eng_compact(run->eng, 90));
    TRY(one_commit(run, 1, 4));
    TRY(reopen(run, ENG_RECOVER_VERIFY));
    TRY(eng_reserve(run->eng, 20, 70000));
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        TRY(one_commit(run, root, run->acknowledged[root] + 1));
    TRY(eng_drop_below(run->eng, 1, run->acknowledged[1] - 1));
    TRY(eng_maintain(run->eng));
    TRY(checkpoint(run));
    TRY(reads(run, 1));
    TRY(reopen(run, ENG_RECOVER_REBUILD));
    TRY(one_commit(run, 0, run->acknowledged[0] + 1));
    return reads(run, 1);
}

/* ---- what must hold after a failure ------------------------------------------------------------------------------*/

static void failed_at(const struct run *run, enum kind kind, long n, const char *what)
{
    fprintf(stderr, "FAILED: durability %d, %s %ld: %s: %s\n", (int)run->durability, kind_names[kind], n, what,
            eng_error());
    abort();
}

/* Are all versions that can be opened right? Returns the newest tag of a root. */
static uint64_t versions_right(const struct run *run, struct eng *eng, uint32_t root, enum kind kind, long n)
{
    uint64_t newest = 0;
    for (uint64_t tag = 1; tag < FIXTURE_TAGS; tag++) {
        struct eng_snapshot *snapshot;
        uint64_t sum = 0;
        if (eng_snapshot_open(eng, root, tag, &snapshot) != ENG_OK)
            continue;
        if (memcmp(eng_snapshot_summary(snapshot), &reference[root][tag], sizeof reference[root][tag]) != 0)
            fprintf(stderr, "version %llu of root %u:\n", (unsigned long long)tag, root),
                failed_at(run, kind, n, "a version has another digest");
        if (eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, &sum) != ENG_OK)
            failed_at(run, kind, n, "a version cannot be read");
        eng_snapshot_close(&snapshot);
        newest = tag;
    }
    return newest;
}

static void reopened_right(struct run *run, struct disk *disk, enum kind kind, long n)
{
    struct run again = {.durability = run->durability, .leaf_bytes = run->leaf_bytes, .disk = disk};
    struct eng_options options = fixture_options(disk, run->durability);
    if (!disk_exists(disk, "state/slots"))
        return; /* it failed before there was a store */
    if (eng_check(&options, true, fixture_line, NULL) != ENG_OK)
        failed_at(run, kind, n, "the check after the failure");
    if (run_open(&again, ENG_RECOVER_AUTO) != ENG_OK)
        failed_at(run, kind, n, "opening it again");
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++) {
        uint64_t newest = versions_right(run, again.eng, root, kind, n);
        if (newest < run->durable[root])
            failed_at(run, kind, n, "a version that was durable is missing");
    }
    if (!fixture_audit(again.eng))
        failed_at(run, kind, n, "ids after opening it again");
    eng_close(&again.eng);
}

static void still_right(struct run *run, enum kind kind, long n)
{
    for (uint32_t root = 0; root < FIXTURE_ROOTS && run->eng; root++)
        if (versions_right(run, run->eng, root, kind, n) < run->acknowledged[root])
            failed_at(run, kind, n, "an acknowledged version cannot be read");
    if (run->eng && !fixture_audit(run->eng))
        failed_at(run, kind, n, "ids after the failure");
    /* Memory that is there again makes it go on, unless the log has what was not merged. */
    if (run->eng && kind == FAIL_MEMORY && run->durability < ENG_DURABLE_MSYNC_SYNC)
        if (one_commit(run, 0, run->acknowledged[0] + 1) != ENG_OK)
            failed_at(run, kind, n, "a commit after the failure");
}

static void arm(struct run *run, enum kind kind, long n)
{
    struck = false;
    until_failure = n;
    switch (kind) {
    case FAIL_NOTHING:
        break;
    case FAIL_MEMORY:
        armed_memory = true;
        break;
    case FAIL_CHANGE:
    case FAIL_CHANGE_FULL:
        run->fails_at = disk_sim_calls(run->disk) + (uint64_t)n;
        disk_sim_fail(run->disk, (uint64_t)n, kind == FAIL_CHANGE ? ENG_IO : ENG_FULL);
        break;
    case FAIL_CALL:
        call_status = ENG_IO;
        armed_call = true;
        break;
    }
}

/* False: the workload passed untouched. */
static bool trial(enum eng_durability durability, uint32_t leaf_bytes, enum kind kind, long n)
{
    struct run run = {.durability = durability, .leaf_bytes = leaf_bytes, .fails_at = UINT64_MAX};
    NEED_OK(disk_sim_open(0, &run.disk));
    arm(&run, kind, n);
    enum eng_status status = workload(&run);
    armed_memory = armed_call = false;
    if (kind == FAIL_CHANGE || kind == FAIL_CHANGE_FULL) {
        struck = run.swapped || disk_sim_calls(run.disk) > run.fails_at;
        disk_sim_fail(run.disk, UINT64_MAX / 2, ENG_IO);
    }
    if (!struck && status != ENG_OK)
        failed_at(&run, kind, n, "the workload fails by itself");
    if (status != ENG_OK && eng_error()[0] == 0)
        failed_at(&run, kind, n, "an error without a line");
    if (kind == FAIL_NOTHING) {
        struct fixture fixture;
        fixture_note(run.eng, &fixture);
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
            for (uint64_t tag = 0; tag < FIXTURE_TAGS; tag++)
                if (fixture.kept[root][tag])
                    reference[root][tag] = fixture.summary[root][tag];
    } else {
        still_right(&run, kind, n);
    }
    struct disk *image;
    NEED_OK(disk_sim_crash(run.disk, (uint64_t)n % 3 ? (uint64_t)n : 1, &image)); /* what a power loss leaves now */
    eng_close(&run.eng);
    if (kind != FAIL_NOTHING) {
        reopened_right(&run, image, kind, n);
        if (kind == FAIL_MEMORY) /* a failed sync leaves this disk undecided for good */
            reopened_right(&run, run.disk, kind, n);
    }
    disk_close(&image);
    disk_close(&run.disk);
    return struck;
}

/* The digests of all versions, also of those the workload drops. */
static void make_reference(enum eng_durability durability, uint32_t leaf_bytes)
{
    struct run run = {.durability = durability, .leaf_bytes = leaf_bytes, .fails_at = UINT64_MAX};
    NEED_OK(disk_sim_open(0, &run.disk));
    NEED_OK(run_open(&run, ENG_RECOVER_AUTO));
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        for (uint64_t tag = 1; tag <= 9; tag++) {
            NEED_OK(one_commit(&run, root, tag));
            NEED_OK(eng_head(run.eng, root, NULL, &reference[root][tag]));
        }
    eng_close(&run.eng);
    disk_close(&run.disk);
}

int main(int argc, char **argv)
{
    bool thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    const long step = thorough ? 1 : 7;
    uint32_t leaves[] = {256, 1024};
    for (unsigned l = 0; l < (thorough ? 2u : 1u); l++) {
        for (unsigned d = 0; d < 2; d++) {
            enum eng_durability durability = d ? ENG_DURABLE_FSYNC : ENG_DURABLE_NONE;
            make_reference(durability, leaves[l]);
            NEED(!trial(durability, leaves[l], FAIL_NOTHING, 0));
            for (enum kind kind = FAIL_MEMORY; kind <= FAIL_CALL; kind++) {
                long n = 0;
                while (trial(durability, leaves[l], kind, n))
                    n += step;
                printf("durability %d, leaves of %u: %s of %ld failures of a%s %s\n", (int)durability, leaves[l],
                       thorough ? "each" : "every seventh", n, kind == FAIL_MEMORY ? "n" : "", kind_names[kind]);
                fflush(stdout);
                NEED(n > 50);
            }
        }
    }
    return 0;
}
