/*
 * Durability settings: what each promises of acknowledged commits, after kill -9 on a real file system and after a
 * power loss at any call of the simulated disk, also of a batch that is larger than a file of the log; and which of
 * them protect the objects of a checkpoint from stray stores, also where the system has no mappings left for that. A
 * power loss after a kill and a restart: prog_kill_power.c.
 */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "recovery_fixture.h"

static void head_tag(struct eng *eng, uint64_t *tag)
{
    *tag = 0;
    enum eng_status status = eng_head(eng, 0, tag, NULL);
    ck_assert(status == ENG_OK || status == ENG_NOT_FOUND);
}

/* A child commits and says so through a pipe, and is killed at a random moment. */
static void kill_child(const char *dir, enum eng_durability durability, unsigned round)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    struct eng_options options = {.path = dir,
                                  .create = true,
                                  .segment_bytes = 64u << 10,
                                  .durability = durability,
                                  .threads = 1,
                                  .checkpoint_log_bytes = 20000};
    if (child == 0) {
        struct eng *eng;
        uint64_t tag;
        close(ends[0]);
        NEED_OK(eng_open(&options, &eng));
        head_tag(eng, &tag);
        for (;;) {
            fixture_commit(eng, 0, ++tag, 20);
            if (durability < ENG_DURABLE_MSYNC_SYNC) {
                if (tag % 4)
                    continue;
                NEED_OK(eng_checkpoint(eng, &tag, sizeof tag, true));
            }
            if (write(ends[1], &tag, sizeof tag) != sizeof tag)
                _exit(1);
        }
    }
    close(ends[1]);
    uint64_t said = 0, next;
    unsigned wait_for = 5 + round * 7;
    while (wait_for-- && read(ends[0], &next, sizeof next) == sizeof next)
        said = next;
    usleep(round * 700 % 3000);
    kill(child, SIGKILL);
    while (read(ends[0], &next, sizeof next) == sizeof next)
        said = next;
    int result;
    ck_assert_int_eq(waitpid(child, &result, 0), child);
    ck_assert(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
    close(ends[0]);
    struct eng *eng;
    uint64_t tag;
    options.recovery = round % 2 ? ENG_RECOVER_VERIFY : ENG_RECOVER_AUTO;
    if (round % 3 == 2) { /* and without its control table */
        char path[300];
        snprintf(path, sizeof path, "%s/state/control", dir);
        ck_assert_int_eq(truncate(path, 0), 0);
        options.recovery = ENG_RECOVER_REBUILD;
    }
    if (eng_open(&options, &eng) != ENG_OK)
        ck_abort_msg("durability %d, round %u: %s", durability, round, eng_error());
    head_tag(eng, &tag);
    ck_assert_uint_ge(tag, said);
    ck_assert(said > 0);
    ck_assert(fixture_audit(eng));
    eng_close(&eng);
}

START_TEST(acknowledged_commits_survive_kill)
{
    char dir[] = "/tmp/pando-test-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    for (unsigned round = 0; round < 6; round++)
        kill_child(dir, (enum eng_durability)_i, round);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* A stray store to an object that a checkpoint has: in a child, which tells how it ended. */
static bool stray_store_faults(const char *dir, enum eng_durability durability, bool reopened)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct eng_options options = {
            .path = dir, .create = true, .segment_bytes = 64u << 10, .durability = durability, .threads = 1};
        struct eng *eng;
        struct store_version head;
        signal(SIGSEGV, SIG_DFL);
        NEED_OK(eng_open(&options, &eng));
        for (uint64_t tag = 1; tag <= 40 && !reopened; tag++) {
            fixture_commit(eng, 0, tag, 60);
            if (tag % 10 == 0)
                NEED_OK(eng_checkpoint(eng, NULL, 0, true));
        }
        NEED(store_head(eng->store, 1, &head) == false);
        struct store_version first;
        NEED(store_versions(eng->store, 0, &first, 1) == 40);
        uint64_t word = eng->store->view.control[first.root];
        struct object *object = (void *)(eng->store->view.base + CONTROL_LOCATION(word) * 64);
        ((volatile uint8_t *)object)[30] ^= 1;
        _exit(0);
    }
    int result;
    ck_assert_int_eq(waitpid(child, &result, 0), child);
    ck_assert((WIFEXITED(result) && WEXITSTATUS(result) == 0) || (WIFSIGNALED(result) && WTERMSIG(result) == SIGSEGV));
    return WIFSIGNALED(result);
}

START_TEST(stray_stores_fault)
{
    bool protects = _i == ENG_DURABLE_MPROTECT || _i == ENG_DURABLE_MSYNC_ASYNC;
    char dir[] = "/tmp/pando-test-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert(stray_store_faults(dir, (enum eng_durability)_i, false) == protects);
    if (protects)
        ck_assert(stray_store_faults(dir, (enum eng_durability)_i, true));
    struct eng_options options = {.path = dir, .durability = (enum eng_durability)_i};
    struct eng *eng;
    if (protects) { /* and what is protected is taken again when it is free */
        options.threads = 1;
        ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
        ck_assert_int_eq(eng_drop_below(eng, 0, 40), ENG_OK);
        for (uint64_t tag = 41; tag <= 90; tag++) {
            fixture_commit(eng, 0, tag, 60);
            if (tag % 5 == 0) {
                ck_assert_int_eq(eng_drop_below(eng, 0, tag), ENG_OK);
                ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
                ck_assert_int_eq(eng_compact(eng, 95), ENG_OK);
            }
        }
        ck_assert(fixture_audit(eng));
        eng_close(&eng);
        ck_assert_int_eq(eng_check(&options, true, fixture_line, NULL), ENG_OK);
    }
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* What would part a mapping fails, as in a process that has as many as the system allows (tests/CMakeLists.txt). */
enum refusal { REFUSE_NOTHING, REFUSE_PROTECTING, REFUSE_SEGMENTS };
#define REFUSAL_SEGMENT_BYTES (16u << 10)
static _Atomic enum refusal refusal;
static _Atomic unsigned refused, said;

int __real_mprotect(void *at, size_t length, int protection);
int __wrap_mprotect(void *at, size_t length, int protection);
int __wrap_mprotect(void *at, size_t length, int protection)
{
    enum refusal now = refusal;
    if (length == REFUSAL_SEGMENT_BYTES &&
        (now == REFUSE_SEGMENTS || (now == REFUSE_PROTECTING && protection == PROT_READ))) {
        refused++;
        errno = ENOMEM;
        return -1;
    }
    return __real_mprotect(at, length, protection);
}

static void count_line(void *context, const char *line)
{
    said += strstr(line, "not write-protected") != NULL;
}

/* Everything goes on, with one line that says so. */
START_TEST(no_mappings_left_to_protect_with)
{
    enum eng_durability how = _i & 1 ? ENG_DURABLE_MSYNC_ASYNC : ENG_DURABLE_MPROTECT;
    enum refusal with = _i & 2 ? REFUSE_SEGMENTS : REFUSE_PROTECTING;
    char dir[] = "/tmp/pando-test-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct eng_options options = {.path = dir,
                                  .create = true,
                                  .segment_bytes = REFUSAL_SEGMENT_BYTES,
                                  .durability = how,
                                  .threads = 1,
                                  .recovery_report = count_line};
    struct eng *eng;
    for (uint64_t start = 0; start < 3; start++) { /* when it is open; from the start; not any more */
        refusal = start == 1 ? with : REFUSE_NOTHING;
        said = refused = 0;
        ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
        for (uint64_t tag = 40 * start + 1; tag <= 40 * start + 40; tag++) {
            fixture_commit(eng, 0, tag, 60);
            if (tag % 5 == 0) {
                ck_assert_int_eq(eng_drop_below(eng, 0, tag > 15 ? tag - 15 : 0), ENG_OK);
                ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
                ck_assert_int_eq(eng_compact(eng, 95), ENG_OK);
            }
            if (tag == 20)
                refusal = with;
        }
        ck_assert(fixture_audit(eng));
        ck_assert_uint_eq(said, start < 2 ? 1 : 0);
        ck_assert_uint_eq(refused, said); /* it was not tried again */
        ck_assert(eng->store->protect == (start == 2));
        eng_close(&eng);
        refusal = REFUSE_NOTHING;
        ck_assert_int_eq(eng_check(&options, true, fixture_line, NULL), ENG_OK);
    }
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* What a power loss leaves, at every disk call of some commits. */
struct power {
    enum eng_durability durability;
    uint64_t acknowledged, images, replayed;
};

static void power_image(void *context, struct disk *on, uint64_t n)
{
    struct power *power = context;
    for (uint64_t seed = 0; seed < 3; seed++) {
        struct disk *image;
        ck_assert_int_eq(disk_sim_crash(on, seed < 2 ? seed : n + 2, &image), ENG_OK);
        struct eng_options options = fixture_options(image, power->durability);
        struct eng *eng;
        uint64_t tag, without;
        if (power->durability == ENG_DURABLE_FULL && power->acknowledged) { /* without the log: nothing to replay */
            struct disk *copy = copy_of(image);
            struct eng_options bare = fixture_options(copy, ENG_DURABLE_NONE);
            bare.ignore_log = true;
            ck_assert_int_eq(eng_open(&bare, &eng), ENG_OK);
            head_tag(eng, &without);
            ck_assert_uint_ge(without, power->acknowledged);
            eng_close(&eng);
            disk_close(&copy);
        }
        if (eng_open(&options, &eng) != ENG_OK)
            ck_abort_msg("call %llu, seed %llu: %s", (unsigned long long)n, (unsigned long long)seed, eng_error());
        head_tag(eng, &tag);
        if (power->durability >= ENG_DURABLE_FSYNC)
            ck_assert_uint_ge(tag, power->acknowledged);
        ck_assert_uint_le(tag, power->acknowledged + 1);
        if (tag) {
            struct eng_snapshot *snapshot;
            uint64_t sum = 0;
            ck_assert_int_eq(eng_snapshot_open(eng, 0, tag, &snapshot), ENG_OK);
            ck_assert_int_eq(eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, &sum), ENG_OK);
            ck_assert_uint_gt(sum, 0);
            eng_snapshot_close(&snapshot);
        }
        eng_close(&eng);
        disk_close(&image);
        power->images++;
    }
}

START_TEST(acknowledged_commits_survive_power_loss)
{
    struct power power = {.durability = (enum eng_durability)_i};
    struct disk *on;
    struct eng *eng;
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    struct eng_options options = fixture_options(on, power.durability);
    options.checkpoint_log_bytes = 4000;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    disk_sim_watch(on, power_image, &power);
    for (uint64_t tag = 1; tag <= 12; tag++) {
        fixture_commit(eng, 0, tag, 12);
        power.acknowledged = tag;
    }
    disk_sim_watch(on, NULL, NULL);
    eng_close(&eng);
    disk_close(&on);
    ck_assert_uint_gt(power.images, 60);
}
END_TEST

/* A record may be larger than the files of the log and than what was waiting in memory. */
START_TEST(a_batch_larger_than_a_log_file_is_replayed)
{
    struct disk *fresh, *image;
    struct eng *eng;
    struct eng_batch *batch;
    struct eng_snapshot *snapshot;
    static uint8_t value[12000];
    size_t size = 0;
    ck_assert_int_eq(disk_sim_open(0, &fresh), ENG_OK);
    struct eng_options options = fixture_options(fresh, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 3; tag++) {
        NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
        for (uint8_t key = 1; key <= 20; key++) {
            memset(value, (int)(key * tag), sizeof value);
            NEED_OK(eng_batch_put(batch, &key, 1, (struct eng_value){ENG_BYTES, value, sizeof value}));
        }
        NEED_OK(eng_batch_freeze(batch));
        NEED_OK(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
    }
    ck_assert_int_eq(disk_sim_crash(fresh, 0, &image), ENG_OK); /* nothing that was not synced */
    eng_close(&eng);
    options = fixture_options(image, ENG_DURABLE_FSYNC);
    NEED_OK(eng_open(&options, &eng));
    NEED_OK(eng_snapshot_open(eng, 0, 3, &snapshot));
    NEED_OK(eng_get_copy(snapshot, (const uint8_t *)"\x07", 1, NULL, value, sizeof value, &size));
    ck_assert_uint_eq(size, sizeof value);
    ck_assert_uint_eq(value[11999], 21);
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    disk_close(&image);
    disk_close(&fresh);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("durability");
    TCase *durable = tcase_create("durability");
    tcase_set_timeout(durable, 300);
    tcase_add_loop_test(durable, acknowledged_commits_survive_kill, ENG_DURABLE_NONE, ENG_DURABLE_FULL + 1);
    tcase_add_loop_test(durable, stray_stores_fault, ENG_DURABLE_NONE, ENG_DURABLE_MSYNC_ASYNC + 1);
    tcase_add_loop_test(durable, no_mappings_left_to_protect_with, 0, 4);
    tcase_add_loop_test(durable, acknowledged_commits_survive_power_loss, ENG_DURABLE_MSYNC_SYNC, ENG_DURABLE_FULL + 1);
    tcase_add_test(durable, a_batch_larger_than_a_log_file_is_replayed);
    suite_add_tcase(suite, durable);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
