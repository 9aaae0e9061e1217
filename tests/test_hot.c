/* The hot tier (hot.c): what is read most becomes hot, what is read no more leaves, the limit holds, a refused lock is
 * reported once, and whatever is moved, contents and recovery are as without it. Rounds are called by hand. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_internal.h"
#include "need.h"
#include "store_internal.h"
#include "tree.h"

#define KEYS 20000u
#define READS 60000u /* in a round */
#define HEAD (KEYS / 100)

static struct disk *disk;
static struct eng *eng;
static struct eng_options options;
static uint32_t version_of[KEYS]; /* of the value of each key */
static uint64_t tag;
static unsigned reports;
static char reported[512];
static uint64_t random_state;

static uint64_t random_next(void) /* xorshift64 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void report(void *context, const char *line)
{
    reports++;
    snprintf(reported, sizeof reported, "%s", line);
}

static void key_of(uint32_t n, uint8_t key[8])
{
    snprintf((char *)key, 8, "%07u", n);
}

static void value_of(uint32_t n, uint8_t value[48])
{
    snprintf((char *)value, 48, "%040u/%06u", n, version_of[n] % 1000000);
}

/* Writes keys first, first + step, ... below KEYS in one commit. */
static void write_keys(uint32_t first, uint32_t step)
{
    struct eng_batch *batch;
    uint8_t key[8], value[48];
    OK(eng_batch_open(eng, 0, NULL, &batch));
    for (uint32_t n = first; n < KEYS; n += step) {
        version_of[n]++;
        key_of(n, key);
        value_of(n, value);
        OK(eng_batch_put(batch, key, 7, (struct eng_value){ENG_BYTES, value, 47}));
    }
    OK(eng_batch_freeze(batch));
    OK(eng_commit(batch, ++tag, NULL));
    eng_batch_close(&batch);
    if (tag > 2)
        OK(eng_drop_below(eng, 0, tag - 2));
}

static void start(uint64_t hot_bytes)
{
    options.hot_bytes = hot_bytes;
    OK(eng_open(&options, &eng));
    write_keys(0, 1);
}

static void setup(void)
{
    memset(version_of, 0, sizeof version_of);
    tag = reports = 0;
    random_state = 88172645463325252u;
    OK(disk_sim_open(0, &disk));
    options = (struct eng_options){
        .disk = disk, .create = true, .segment_bytes = 64u << 10, .inline_only = true, .recovery_report = report};
}

static void teardown(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static void read_key(struct eng_snapshot *snapshot, uint32_t n)
{
    uint8_t key[8], value[48], read[64];
    enum eng_tag kind;
    size_t size;
    key_of(n, key);
    value_of(n, value);
    OK(eng_get_copy(snapshot, key, 7, &kind, read, sizeof read, &size));
    NEED(size == 47 && memcmp(read, value, 47) == 0);
}

/* Reads of one round, ranks by Zipf's law (exponent 1.3): rank 0 is key 0, or with reverse the last key. */
static void read_zipf(bool reverse)
{
    static double below[KEYS]; /* the part of all reads that goes to a lower rank */
    struct eng_snapshot *snapshot;
    double sum = 0;
    for (uint32_t n = 0; n < KEYS; n++)
        below[n] = sum += pow(n + 1, -1.3);
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
    for (uint32_t i = 0; i < READS; i++) {
        double at = (double)(random_next() >> 11) / (double)(1ull << 53) * sum;
        uint32_t lo = 0, hi = KEYS - 1;
        while (lo < hi) {
            uint32_t middle = (lo + hi) / 2;
            if (below[middle] > at)
                hi = middle;
            else
                lo = middle + 1;
        }
        read_key(snapshot, reverse ? KEYS - 1 - lo : lo);
    }
    eng_snapshot_close(&snapshot);
}

static struct eng_statistics stats(void)
{
    struct eng_statistics statistics;
    eng_stats(eng, &statistics);
    ck_assert_uint_le(statistics.hot_locked_bytes, statistics.hot_limit);
    ck_assert_uint_le(statistics.hot_bytes, statistics.hot_locked_bytes);
    return statistics;
}

static void rounds(unsigned count, bool reverse)
{
    for (unsigned i = 0; i < count; i++) {
        read_zipf(reverse);
        hot_round(eng->store);
        (void)stats();
    }
}

/* How many leaves with keys in [from, to) there are, and how many of them are hot; cold: hot, and not COLD, do not
 * count. The root is number 0 of the leaves below it. */
struct census {
    uint32_t from, to, leaves, hot, inners, hot_inners;
};

static void count_below(uint32_t id, uint32_t *at, struct census *census)
{
    uint64_t word = atomic_load(&eng->store->view.control[id]);
    bool hot = atomic_load(&eng->store->segments.table[segment_of(eng->store, CONTROL_LOCATION(word))].hot) &&
               !(word & CONTROL_COLD);
    const struct node *node = (const struct node *)store_object(eng->store, id);
    NEED(node);
    if (node->object.type == OBJECT_LEAF) {
        uint32_t count = ((const struct leaf *)node)->count;
        bool inside = *at >= census->from && *at + count <= census->to;
        census->leaves += inside;
        census->hot += inside && hot;
        *at += count;
        return;
    }
    census->inners++;
    census->hot_inners += hot;
    const struct inner *inner = (const struct inner *)node;
    for (unsigned i = 0; i < inner->branches; i++)
        count_below(inner_child(inner)[i], at, census);
}

static struct census census_of(uint32_t from, uint32_t to)
{
    struct census census = {.from = from, .to = to};
    struct store_version head;
    uint32_t at = 0;
    ck_assert(store_head(eng->store, 0, &head));
    count_below(head.root, &at, &census);
    ck_assert_uint_eq(at, KEYS);
    ck_assert_uint_gt(census.leaves, 0);
    return census;
}

/* Every key has its value, no id is lost, the tree is canonical. */
static void check_contents(void)
{
    struct eng_snapshot *snapshot;
    struct store_version head;
    uint64_t leaked, missing;
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
    for (uint32_t n = 0; n < KEYS; n++)
        read_key(snapshot, n);
    eng_snapshot_close(&snapshot);
    OK(eng_settle(eng));
    OK(store_audit(eng->store, &leaked, &missing));
    ck_assert(leaked == 0 && missing == 0);
    ck_assert(store_head(eng->store, 0, &head));
    OK(tree_check(eng->store, head.root, eng->leaf_bytes, eng->inline_bytes, report, NULL));
}

START_TEST(skew_makes_hot)
{
    start(1u << 20);
    rounds(6, false);
    struct census head = census_of(0, HEAD), tail = census_of(KEYS / 2, KEYS);
    ck_assert_uint_eq(head.hot, head.leaves);
    ck_assert_uint_le(tail.hot * 10, tail.leaves);
    ck_assert_uint_gt(head.hot_inners, 0); /* the root at least */
    struct eng_statistics statistics = stats();
    ck_assert_uint_ge(statistics.hot_objects, head.hot + head.hot_inners);
    ck_assert_uint_gt(statistics.hot_promoted, 0);
    ck_assert(!statistics.hot_refused && reports == 0);
    check_contents();
}
END_TEST

START_TEST(off_is_off)
{
    start(0);
    rounds(3, false);
    struct census all = census_of(0, KEYS);
    ck_assert_uint_eq(all.hot + all.hot_inners, 0);
    struct eng_statistics statistics = stats();
    ck_assert_uint_eq(statistics.hot_promoted + statistics.hot_locked_bytes + statistics.hot_objects, 0);
    for (uint32_t id = 1; id < eng->store->control.next; id++)
        NEED(!(atomic_load(&eng->store->view.control[id]) & CONTROL_ACTIVE));
}
END_TEST

START_TEST(one_look_is_not_enough)
{
    start(1u << 20);
    for (int i = 0; i < 5; i++) { /* read in every second round only */
        read_zipf(false);
        hot_round(eng->store);
        hot_round(eng->store);
    }
    ck_assert_uint_eq(stats().hot_promoted, 0);
}
END_TEST

/* The old hot set makes room for the new one. */
START_TEST(shift_demotes)
{
    start(192u << 10); /* not enough for both */
    rounds(6, false);
    struct census before = census_of(0, HEAD);
    ck_assert_uint_eq(before.hot, before.leaves);
    rounds(12, true);
    struct census old = census_of(0, HEAD), new = census_of(KEYS - HEAD, KEYS);
    ck_assert_uint_eq(new.hot, new.leaves);
    ck_assert_uint_eq(old.hot, 0);
    ck_assert_uint_gt(stats().hot_demoted, 0);
    check_contents();
}
END_TEST

/* More is read all the time than fits: the limit holds, nothing is moved in circles. */
START_TEST(limit_holds)
{
    struct eng_snapshot *snapshot;
    start(200u << 10);
    uint64_t before = 0;
    for (int round = 0; round < 6; round++) {
        OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
        for (int i = 0; i < 15; i++)
            for (uint32_t n = 0; n < KEYS; n += 2)
                read_key(snapshot, n);
        eng_snapshot_close(&snapshot);
        hot_round(eng->store);
        before = round == 3 ? stats().hot_promoted : before;
    }
    struct eng_statistics statistics = stats();
    ck_assert_uint_gt(statistics.hot_locked_bytes, 150u << 10);
    ck_assert_uint_gt(statistics.hot_bytes, 100u << 10);
    ck_assert_uint_lt(statistics.hot_promoted - before, statistics.hot_objects);
    check_contents();
}
END_TEST

/* What nobody reads any more is unlocked when its segments are compacted. */
START_TEST(cooled_leave_with_compaction)
{
    start(1u << 20);
    rounds(6, false);
    for (int i = 0; i < 3; i++)
        hot_round(eng->store);
    ck_assert_uint_gt(stats().hot_bytes, 0); /* cold, but nobody wants the room */
    write_keys(0, 3);                        /* nearly every leaf anew */
    OK(eng_drop_below(eng, 0, tag));
    OK(eng_compact(eng, 100));
    ck_assert_uint_eq(stats().hot_bytes, 0);
    ck_assert_uint_eq(stats().hot_locked_bytes, 0);
    check_contents();
}
END_TEST

/* Commits, drops, checkpoints, rounds and compaction in turn; what a crash leaves opens, with nothing hot. */
START_TEST(survives_everything)
{
    start(256u << 10);
    for (unsigned i = 0; i < 24; i++) {
        if (i % 3 == 0)
            read_zipf(i % 8 >= 4);
        write_keys((uint32_t)(random_next() % 100), 100 + (uint32_t)(random_next() % 400));
        read_zipf(i % 8 >= 4);
        if (i % 4 == 1)
            OK(eng_checkpoint(eng, &i, sizeof i, true));
        hot_round(eng->store);
        if (i % 5 == 4)
            OK(eng_maintain(eng));
        if (i % 7 == 6)
            OK(eng_compact(eng, 90));
        (void)stats();
    }
    ck_assert_uint_gt(stats().hot_promoted, 0);
    ck_assert_uint_gt(stats().hot_demoted, 0);
    check_contents();
    OK(eng_checkpoint(eng, "done", 4, true));
    rounds(2, false); /* what is moved after the checkpoint is nothing to it */
    struct disk *image;
    OK(disk_sim_crash(disk, 7, &image));
    eng_close(&eng);
    disk_close(&disk);
    options.disk = disk = image;
    OK(eng_open(&options, &eng));
    ck_assert_uint_eq(stats().hot_bytes + stats().hot_objects + stats().hot_locked_bytes, 0);
    check_contents();
    rounds(6, false);
    ck_assert_uint_gt(stats().hot_promoted, 0);
    check_contents();
}
END_TEST

START_TEST(refused_at_once)
{
    disk_sim_pin_limit(disk, 0);
    start(1u << 20);
    rounds(5, false);
    struct eng_statistics statistics = stats();
    ck_assert(statistics.hot_refused);
    ck_assert_uint_eq(reports, 1);
    ck_assert_ptr_nonnull(strstr(reported, "RLIMIT_MEMLOCK"));
    ck_assert_uint_eq(statistics.hot_limit + statistics.hot_locked_bytes, 0);
    ck_assert_uint_eq(statistics.hot_bytes + statistics.hot_promoted, 0);
    write_keys(0, 7);
    check_contents();
}
END_TEST

START_TEST(refused_later)
{
    disk_sim_pin_limit(disk, 128u << 10);
    start(1u << 20);
    rounds(5, false);
    struct eng_statistics statistics = stats();
    ck_assert(statistics.hot_refused);
    ck_assert_uint_eq(reports, 1);
    ck_assert_uint_gt(statistics.hot_bytes, 0);
    ck_assert_uint_le(statistics.hot_limit, 128u << 10);
    rounds(8, true); /* the little that there is goes to whom it belongs */
    ck_assert_uint_eq(census_of(0, HEAD).hot, 0);
    ck_assert_uint_eq(reports, 1);
    check_contents();
}
END_TEST

/* On a real file; limit of locked memory in bytes, as another user than root where we are root. */
static void on_posix(uint64_t limit, bool refused)
{
    char dir[] = "/tmp/pando-hot-XXXXXX", command[64];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(chmod(dir, 0777), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (getuid() == 0 && setresuid(65534, 65534, 65534) != 0)
            _exit(1);
        struct rlimit limits;
        if (getrlimit(RLIMIT_MEMLOCK, &limits) != 0 || limits.rlim_max < limit)
            _exit(0); /* not to be tried here */
        limits.rlim_cur = limit;
        void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (setrlimit(RLIMIT_MEMLOCK, &limits) != 0 || page == MAP_FAILED)
            _exit(1);
        if (limit == 0 && mlock(page, 4096) == 0)
            _exit(0); /* a sanitizer's, which locks nothing */
        char path[64];
        snprintf(path, sizeof path, "%s/store", dir);
        options.disk = NULL;
        options.path = path;
        start(limit ? limit : 1u << 20);
        rounds(5, false);
        struct eng_statistics statistics = stats();
        ck_assert_int_eq(statistics.hot_refused, refused);
        ck_assert_uint_eq(reports, refused);
        ck_assert(refused ? statistics.hot_bytes == 0 : statistics.hot_bytes > 0);
        check_contents();
        eng_close(&eng);
        _exit(0);
    }
    int result;
    ck_assert_int_eq(waitpid(child, &result, 0), child);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
    ck_assert(WIFEXITED(result) && WEXITSTATUS(result) == 0);
}

START_TEST(posix_allowed)
{
    on_posix(1u << 20, false);
}
END_TEST

START_TEST(posix_refused)
{
    on_posix(0, true);
}
END_TEST

/* The thread does by itself what the other tests do by hand. */
/* All of it is hot, and ends of segments stay empty because no value fits into them: that is no reason to move them
 * about, and a round ends. */
START_TEST(values_that_do_not_fit_are_left)
{
    static uint8_t value[11000], read[11000];
    uint8_t key[8];
    options.hot_bytes = 128u << 10;
    OK(eng_open(&options, &eng));
    struct eng_batch *batch;
    OK(eng_batch_open(eng, 0, NULL, &batch));
    for (uint32_t n = 0; n < 40; n++) {
        key_of(n, key);
        value[0] = (uint8_t)n;
        OK(eng_batch_put(batch, key, 7, (struct eng_value){ENG_BYTES, value, sizeof value}));
    }
    OK(eng_batch_freeze(batch));
    OK(eng_commit(batch, ++tag, NULL));
    eng_batch_close(&batch);
    uint64_t moved = 0;
    for (int round = 0; round < 8; round++) {
        struct eng_snapshot *snapshot;
        OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
        for (uint32_t i = 0; i < 80000; i++) {
            enum eng_tag kind;
            size_t size;
            key_of(i % 40, key);
            OK(eng_get_copy(snapshot, key, 7, &kind, read, sizeof read, &size));
            ck_assert(size == sizeof read && read[0] == i % 40);
        }
        eng_snapshot_close(&snapshot);
        OK(eng_maintain(eng));
        moved = stats().moved_bytes;
    }
    ck_assert_uint_gt(stats().hot_promoted, 0);
    ck_assert_uint_le(stats().hot_locked_bytes, options.hot_bytes);
    ck_assert_uint_lt(moved, 8 * 8 * (128u << 10)); /* a few segments a round */
}
END_TEST

START_TEST(decay_thread)
{
    options.inline_only = false;
    options.hot_decay_ms = 16;
    start(1u << 20);
    for (int i = 0; i < 200 && stats().hot_promoted == 0; i++)
        read_zipf(false);
    ck_assert_uint_gt(stats().hot_promoted, 0);
    for (uint32_t i = 0; i < 5; i++) {
        write_keys(i, 500);
        read_zipf(false);
    }
    ck_assert(!stats().hot_refused);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hot");
    TCase *tests = tcase_create("hot");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, skew_makes_hot);
    tcase_add_test(tests, off_is_off);
    tcase_add_test(tests, one_look_is_not_enough);
    tcase_add_test(tests, shift_demotes);
    tcase_add_test(tests, limit_holds);
    tcase_add_test(tests, cooled_leave_with_compaction);
    tcase_add_test(tests, survives_everything);
    tcase_add_test(tests, refused_at_once);
    tcase_add_test(tests, refused_later);
    tcase_add_test(tests, posix_allowed);
    tcase_add_test(tests, posix_refused);
    tcase_add_test(tests, values_that_do_not_fit_are_left);
    tcase_add_test(tests, decay_thread);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
