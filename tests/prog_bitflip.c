/*
 * Every bit of a store flipped in turn. After each flip the store is opened, everything in it is read, and it is
 * checked offline. Then one of these must hold:
 *
 *   detected   the open, or a read, ended with an error (ENG_DAMAGED, ENG_FOREIGN, ENG_VERSION, ...) whose line names
 *              a file, and for damage the place in it; and no answer before that was wrong
 *   harmless   all versions are there, and every answer is right
 *   shortened  the flip lies in the last batch of the log that was synced, which cannot be told from a torn tail: the
 *              version before it is the newest, and every answer is right
 *
 * Never a wrong answer, a crash, an assert, or a hang. If a read met damage the offline check must report it too. Of
 * each byte one bit is looked at closer: what is harmless is checked offline too, and if the damage lies in the control
 * table or an object, a rebuild must come out right.
 *
 * The store: three roots, ten kept versions each of twelve, death lists, values outside the leaves, in the third root
 * amounts and subtrees that are moved and removed, a part of it in the log only, on the simulated disk in memory. Its
 * files have at least 256 KiB.
 *
 *   prog_bitflip [--long]     every 2,017th bit, or all, in two processes
 *   prog_bitflip --every N    every Nth
 *   prog_bitflip --bit FILE N     that one
 */
#define FIXTURE_ROOTS 3u
#include <malloc.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log_format.h"
#include "recovery_fixture.h"

#define FILES_MAX 16u
#define STORE_BITS_MIN (256u * 1024 * 8)
#define ROOT_TREES 2u
#define TREES 4u
#define LOGGED 2u /* versions of each root that are in the log alone */
#define NEWEST 12u
#define WORKERS 2u
#define STRIDE_DEFAULT 2017u /* prime: all places in a word, a sector, a page */
#define HANG_SECONDS 240u    /* by the clock: a virtual machine may stand still for a while */

struct target {
    char path[64];
    uint64_t bits;
};

static struct target targets[FILES_MAX];
static unsigned targets_count;
static struct disk *base;                     /* never opened */
static struct fixture expected, all_versions; /* what is kept; the same store without drops */
static uint64_t sums[FIXTURE_ROOTS][FIXTURE_TAGS];
static uint64_t log_last; /* bytes of the log's file before its last batch */

struct tally {
    uint64_t cases, detected_open, detected_read, harmless, shortened, rebuilt;
};
/* Shared with the parent, which names the case when a worker dies. */
struct progress {
    struct tally tally[FILES_MAX];
    unsigned target;
    uint64_t bit;
};

static void die(const struct target *target, uint64_t bit, const char *what)
{
    fprintf(stderr, "FAILED: %s, bit %llu of byte %llu: %s: %s\n", target->path, (unsigned long long)bit % 8,
            (unsigned long long)bit / 8, what, eng_error());
    exit(1);
}

static struct eng_options bitflip_options(struct disk *disk)
{
    struct eng_options options = fixture_options(disk, ENG_DURABLE_FSYNC);
    options.create = false;
    return options;
}

/* ---- the store ---- */

static size_t tree_key(unsigned n, char key[16])
{
    return (size_t)snprintf(key, 16, "tree/%u", n);
}

/* Some entries of a subtree, most of them amounts. */
static void fill_tree(struct eng_batch *tree, uint64_t tag, unsigned n)
{
    for (unsigned i = 0; i < 6; i++) {
        uint64_t amount[2] = {tag * 1000003u + n * 101u + i, i % 2 ? UINT64_MAX : 0};
        char key[16];
        size_t bytes = (size_t)snprintf(key, sizeof key, "%u", (unsigned)(tag * 5 + i * 7 + n) % 40);
        if ((tag + i) % 4 == 3)
            NEED_OK(eng_batch_remove(tree, (uint8_t *)key, bytes));
        else
            NEED_OK(eng_batch_put(tree, (uint8_t *)key, bytes,
                                  (struct eng_value){i % 3 ? ENG_AMOUNT : ENG_BYTES, (uint8_t *)amount, 16}));
    }
}

/* Trees are written, moved from one key to the next, removed; one has another in it. */
static void fill_trees(struct eng_batch *batch, uint64_t tag)
{
    char key[16], to[16];
    struct eng_batch *tree, *inner;
    for (unsigned n = 0; n < TREES - 1; n++) {
        size_t bytes = tree_key(n, key), to_bytes = tree_key(n + 1, to);
        if ((tag + n) % 7 == 6) {
            NEED_OK(eng_batch_remove(batch, (uint8_t *)key, bytes));
            continue;
        }
        NEED_OK(eng_batch_tree(batch, (uint8_t *)key, bytes, true, &tree));
        fill_tree(tree, tag, n);
        if (n == 0) {
            NEED_OK(eng_batch_tree(tree, (uint8_t *)"inner", 5, true, &inner));
            fill_tree(inner, tag, TREES);
        }
        if ((tag + n) % 5 == 2) {
            NEED_OK(eng_batch_tree_take(batch, (uint8_t *)key, bytes, &tree));
            NEED_OK(eng_batch_tree_put(batch, (uint8_t *)to, to_bytes, tree));
        }
    }
}

static void commit(struct eng *eng, uint32_t root, uint64_t tag)
{
    struct eng_batch *batch;
    NEED_OK(eng_batch_open(eng, root, NULL, &batch));
    if (root == ROOT_TREES)
        fill_trees(batch, tag);
    fixture_fill(batch, root, tag, root == ROOT_TREES ? 3 : tag == 1 ? 60 : 7);
    fixture_publish(&batch, tag);
}

static uint64_t add_tree(struct eng_snapshot *snapshot, const char *key, size_t bytes, uint64_t sum,
                         enum eng_status *status)
{
    struct eng_snapshot *tree;
    if (*status == ENG_OK)
        *status = eng_snapshot_tree(snapshot, (const uint8_t *)key, bytes, &tree);
    if (*status != ENG_OK) {
        *status = *status == ENG_NOT_FOUND ? ENG_OK : *status;
        return sum * 31;
    }
    *status = eng_scan(tree, NULL, 0, NULL, 0, fixture_each, &sum);
    if (key[0] == 't')
        sum = add_tree(tree, "inner", 5, sum, status);
    eng_snapshot_close(&tree);
    return sum;
}

/* Of everything in a version. */
static uint64_t sum_of(struct eng_snapshot *snapshot, uint32_t root, enum eng_status *status)
{
    uint64_t sum = 0;
    *status = eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, &sum);
    for (unsigned n = 0; n < TREES && root == ROOT_TREES; n++) {
        char key[16];
        size_t bytes = tree_key(n, key);
        sum = add_tree(snapshot, key, bytes, sum, status);
    }
    return sum;
}

static void add_target(void *context, const char *name)
{
    struct disk_file *file;
    struct target *target = &targets[targets_count++];
    uint64_t size;
    NEED(targets_count <= FILES_MAX);
    snprintf(target->path, sizeof target->path, "%s/%s", (const char *)context, name);
    NEED_OK(disk_open(base, target->path, DISK_READ, &file));
    NEED_OK(disk_size(file, &size));
    disk_file_close(&file);
    target->bits = size * 8;
}

/* The same commits without drops: what any version must be. A drop is not in the log, so versions can come back. */
static void make_reference(void)
{
    struct disk *disk;
    struct eng *eng;
    NEED_OK(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    NEED_OK(eng_open(&options, &eng));
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        for (uint64_t tag = 1; tag <= NEWEST; tag++) {
            struct eng_snapshot *snapshot;
            enum eng_status status;
            commit(eng, root, tag);
            NEED_OK(eng_snapshot_open(eng, root, tag, &snapshot));
            sums[root][tag] = sum_of(snapshot, root, &status);
            NEED_OK(status);
            eng_snapshot_close(&snapshot);
        }
    fixture_note(eng, &all_versions);
    eng_close(&eng);
    disk_close(&disk);
}

static void make_base(void)
{
    struct disk *disk;
    NEED_OK(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_FSYNC);
    struct eng *eng;
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= NEWEST - LOGGED; tag++)
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
            commit(eng, root, tag);
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++) {
        NEED_OK(eng_drop(eng, root, 3));
        NEED_OK(eng_drop(eng, root, 5));
    }
    NEED_OK(eng_checkpoint(eng, NULL, 0, true));
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        for (uint64_t tag = NEWEST - LOGGED + 1; tag <= NEWEST; tag++) {
            log_last = LOG_HEADER_BYTES + log_end(eng->log);
            commit(eng, root, tag);
        }
    fixture_note(eng, &expected);
    NEED(fixture_count(&expected) == 10 * FIXTURE_ROOTS);
    NEED_OK(disk_sim_crash(disk, 0, &base));
    eng_close(&eng);
    disk_close(&disk);
    NEED_OK(disk_list(base, "state", add_target, "state"));
    NEED_OK(disk_list(base, "log", add_target, "log"));
    uint64_t bits = 0;
    for (unsigned t = 0; t < targets_count; t++)
        bits += targets[t].bits;
    NEED(bits >= STORE_BITS_MIN);
}

/* ---- what must hold ---- */

/* The line of an error names a file, and where it is about what is in the file, the place. */
static void need_named(const struct target *target, uint64_t bit, enum eng_status status)
{
    const char *line = eng_error();
    if (!strstr(line, "state/") && !strstr(line, "log/") && !strstr(line, "log:"))
        die(target, bit, "the error names no file");
    if (status == ENG_DAMAGED && !strstr(line, "offset") && !strstr(line, "byte") && !strstr(line, "page"))
        die(target, bit, "the error names no place");
}

/* Every key of the newest version, one by one. ENG_DAMAGED: met damage. */
static enum eng_status point_reads(struct eng_snapshot *snapshot, uint32_t root, const struct target *target,
                                   uint64_t bit)
{
    uint64_t found = 0;
    for (unsigned n = 0; n < TREES && root == ROOT_TREES; n++) {
        struct eng_snapshot *tree;
        char key[16];
        size_t bytes = tree_key(n, key);
        enum eng_status status = eng_snapshot_tree(snapshot, (uint8_t *)key, bytes, &tree);
        if (status != ENG_OK && status != ENG_NOT_FOUND)
            return status;
        if (status == ENG_OK)
            eng_snapshot_close(&tree);
        found += status == ENG_OK;
    }
    for (unsigned n = 0; n < 97; n++) {
        char key[32];
        uint8_t bytes[700];
        size_t key_bytes = (size_t)snprintf(key, sizeof key, "%c/%u", "abc"[n % 3], n), size;
        enum eng_tag tag;
        enum eng_status status = eng_get_copy(snapshot, (uint8_t *)key, key_bytes, &tag, bytes, sizeof bytes, &size);
        if (status != ENG_OK && status != ENG_NOT_FOUND)
            return status;
        found += status == ENG_OK;
        if (status == ENG_OK && size != (n % 11 == 0 ? 600 : n % 50))
            die(target, bit, "a point read gave another value");
    }
    if (found != eng_snapshot_summary(snapshot)->count)
        die(target, bit, "point reads miss a key");
    return ENG_OK;
}

/* Reads all versions. Not ENG_OK: damage was met. *missing: versions that should be there. */
static enum eng_status read_all(struct eng *eng, const struct target *target, uint64_t bit, bool rebuilt,
                                unsigned *missing)
{
    enum eng_status met = ENG_OK;
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        for (uint64_t tag = 0; tag < FIXTURE_TAGS; tag++) {
            struct eng_snapshot *snapshot;
            enum eng_status status = eng_snapshot_open(eng, root, tag, &snapshot);
            if (status != ENG_OK) {
                *missing += expected.kept[root][tag];
                continue;
            }
            if (!expected.kept[root][tag] && !rebuilt)
                die(target, bit, "a version that was dropped is back");
            if (memcmp(eng_snapshot_summary(snapshot), &all_versions.summary[root][tag], sizeof(struct eng_summary)) !=
                0)
                die(target, bit, "a version has another digest");
            uint64_t sum = sum_of(snapshot, root, &status);
            if (status == ENG_OK && sum != sums[root][tag])
                die(target, bit, "a version has other contents");
            if (status == ENG_OK && tag == NEWEST)
                status = point_reads(snapshot, root, target, bit);
            eng_snapshot_close(&snapshot);
            if (status != ENG_OK) {
                need_named(target, bit, status);
                met = status;
            }
        }
    return met;
}

static void count_lines(void *context, const char *line)
{
    *(unsigned *)context += line[0] != 0;
}

static void check_offline(struct disk *disk, const struct target *target, uint64_t bit, bool damaged)
{
    struct eng_options options = bitflip_options(disk);
    unsigned lines = 0;
    enum eng_status status = eng_check(&options, true, count_lines, &lines);
    if (damaged && (status == ENG_OK || lines == 0))
        die(target, bit, "the check does not see what a read met");
    if ((status == ENG_OK) != (lines == 0))
        die(target, bit, "what the check reports and what it returns differ");
}

/* Damage of the table or of objects: a rebuild opens the store all the same, with nothing wrong in it. Without objects
 * damaged it has everything. */
static void rebuild(const struct target *target, uint64_t bit)
{
    struct disk *disk;
    struct eng *eng;
    unsigned missing = 0;
    NEED_OK(disk_sim_crash(base, 1, &disk));
    NEED_OK(disk_sim_flip(disk, target->path, bit));
    struct eng_options options = bitflip_options(disk);
    options.recovery = ENG_RECOVER_REBUILD;
    if (eng_open(&options, &eng) != ENG_OK)
        die(target, bit, "rebuild");
    if (read_all(eng, target, bit, true, &missing) != ENG_OK)
        die(target, bit, "a version that was kept by a rebuild cannot be read");
    if (missing && strcmp(target->path, "state/control") == 0)
        die(target, bit, "a rebuild lost a version");
    if (!fixture_audit(eng))
        die(target, bit, "ids after a rebuild");
    eng_close(&eng);
    disk_close(&disk);
}

static void flip_one(const struct target *target, uint64_t bit, struct tally *tally)
{
    struct disk *disk, *second;
    struct eng *eng = NULL;
    unsigned missing = 0;
    NEED_OK(disk_sim_crash(base, 1, &disk));
    NEED_OK(disk_sim_flip(disk, target->path, bit));
    NEED_OK(disk_sim_crash(disk, 1, &second));
    struct eng_options options = bitflip_options(disk);
    enum eng_status opened = eng_open(&options, &eng), met = ENG_OK;
    tally->cases++;
    if (opened != ENG_OK) {
        need_named(target, bit, opened);
        tally->detected_open++;
    } else {
        met = read_all(eng, target, bit, false, &missing);
        bool last = strncmp(target->path, "log/", 4) == 0 && bit / 8 >= log_last;
        if (missing > (last ? 1u : 0u))
            die(target, bit, "a version is missing and nobody says so");
        tally->detected_read += met != ENG_OK;
        tally->shortened += met == ENG_OK && missing;
        tally->harmless += met == ENG_OK && !missing;
    }
    eng_close(&eng);
    bool closer = bit % 8 == bit / 8 % 8;
    if (closer)
        check_offline(second, target, bit, opened == ENG_DAMAGED || met == ENG_DAMAGED);
    if (closer && (opened != ENG_OK || met != ENG_OK) &&
        (!strcmp(target->path, "state/control") || !strcmp(target->path, "state/segments"))) {
        rebuild(target, bit);
        tally->rebuilt++;
    }
    disk_close(&disk);
    disk_close(&second);
}

static void work(unsigned worker, uint64_t stride, struct progress *progress)
{
    uint64_t at = 0; /* over all files, so that the stride does not begin anew in each */
    for (unsigned t = 0; t < targets_count; t++) {
        for (uint64_t bit = (stride - at % stride) % stride; bit < targets[t].bits; bit += stride) {
            if ((at + bit) / stride % WORKERS != worker)
                continue;
            progress->target = t;
            progress->bit = bit;
            alarm(HANG_SECONDS);
            flip_one(&targets[t], bit, &progress->tally[t]);
        }
        at += targets[t].bits;
    }
    alarm(0);
}

static int run_one(const char *path, uint64_t bit)
{
    struct tally tally = {0};
    for (unsigned t = 0; t < targets_count; t++)
        if (strcmp(targets[t].path, path) == 0 && bit < targets[t].bits)
            flip_one(&targets[t], bit, &tally);
    disk_close(&base);
    printf("%llu at open, %llu when read, %llu harmless, %llu shortened\n", (unsigned long long)tally.detected_open,
           (unsigned long long)tally.detected_read, (unsigned long long)tally.harmless,
           (unsigned long long)tally.shortened);
    return tally.cases ? 0 : 2;
}

int main(int argc, char **argv)
{
    mallopt(M_MMAP_THRESHOLD, 256 << 10); /* fixed: large tables of a store are zero pages, of which few are touched */
    uint64_t stride = argc > 1 && strcmp(argv[1], "--long") == 0 ? 1 : STRIDE_DEFAULT;
    if (argc > 2 && strcmp(argv[1], "--every") == 0)
        stride = strtoull(argv[2], NULL, 10);
    NEED(stride > 0);
    struct progress *progress =
        mmap(NULL, WORKERS * sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(progress != MAP_FAILED);
    make_reference();
    make_base();
    if (argc == 4 && strcmp(argv[1], "--bit") == 0)
        return run_one(argv[2], strtoull(argv[3], NULL, 10));
    pid_t children[WORKERS];
    for (unsigned w = 0; w < WORKERS; w++) {
        children[w] = fork();
        NEED(children[w] >= 0);
        if (children[w] == 0) {
            work(w, stride, &progress[w]);
            disk_close(&base);
            exit(0);
        }
    }
    bool good = true;
    for (unsigned w = 0; w < WORKERS; w++) {
        int result;
        NEED(waitpid(children[w], &result, 0) == children[w]);
        if (!WIFEXITED(result) || WEXITSTATUS(result) != 0) {
            fprintf(stderr, "FAILED: process ended with %s %d at %s bit %llu\n",
                    WIFSIGNALED(result) ? "signal" : "status",
                    WIFSIGNALED(result) ? WTERMSIG(result) : WEXITSTATUS(result), targets[progress[w].target].path,
                    (unsigned long long)progress[w].bit);
            good = false;
        }
    }
    struct tally all = {0};
    uint64_t bits = 0;
    for (unsigned t = 0; t < targets_count; t++) {
        struct tally sum = {0};
        for (unsigned w = 0; w < WORKERS; w++) {
            const struct tally *one = &progress[w].tally[t];
            sum.cases += one->cases;
            sum.detected_open += one->detected_open;
            sum.detected_read += one->detected_read;
            sum.harmless += one->harmless;
            sum.shortened += one->shortened;
            all.rebuilt += one->rebuilt;
        }
        printf(
            "%-24s %8llu bits: %8llu flipped, %llu detected at open, %llu when read, %llu harmless, %llu shortened\n",
            targets[t].path, (unsigned long long)targets[t].bits, (unsigned long long)sum.cases,
            (unsigned long long)sum.detected_open, (unsigned long long)sum.detected_read,
            (unsigned long long)sum.harmless, (unsigned long long)sum.shortened);
        all.cases += sum.cases;
        all.detected_open += sum.detected_open;
        all.detected_read += sum.detected_read;
        all.harmless += sum.harmless;
        all.shortened += sum.shortened;
        bits += targets[t].bits;
    }
    printf("%llu of %llu bits flipped: %llu detected at open, %llu when read, %llu harmless, %llu shortened; "
           "%llu rebuilt\n",
           (unsigned long long)all.cases, (unsigned long long)bits, (unsigned long long)all.detected_open,
           (unsigned long long)all.detected_read, (unsigned long long)all.harmless, (unsigned long long)all.shortened,
           (unsigned long long)all.rebuilt);
    /* a test that finds no damage tests nothing */
    good = good && all.detected_open && all.detected_read && all.harmless && all.rebuilt;
    disk_close(&base);
    munmap(progress, WORKERS * sizeof *progress);
    return good ? 0 : 1;
}
