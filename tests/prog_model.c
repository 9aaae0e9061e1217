/*
 * The whole library API against a model: random operations of every kind, answers compared with sorted arrays.
 *
 *   prog_model [--long]                    250,000 operations in one process; --long: 20 million in two
 *   prog_model --operations N --processes N --seed S
 *   prog_model --single SEED               one whole history
 *   prog_model --seed SEED --history FILE  a history from a file, as printed when one failed
 *
 * A history is a few thousand operations made from a seed (model_history.h), with a store of its own, on the simulated
 * disk or on files, of random parameters. It runs in a process of its own; so a failed assertion and a sanitizer's
 * report are failures like any other, and a history with kills goes on in the next process: a timer sends SIGKILL at a
 * moment nobody chooses, the oracle lies in shared memory and knows what was acknowledged (model_world.h), and
 * model_store.h says what the next start must find.
 *
 * One that fails is made shorter: halves, quarters, ... single operations are left out for as long as it still fails.
 * What is left is printed with the command that runs it. That this works is tried first in every run, with a planted
 * fault: the oracle lies about one key. PANDO_MODEL_LIE=1 plants it everywhere.
 *
 * Digests are compared with those of the flat oracle (digest_oracle.h) after about every fiftieth commit (--long:
 * thousandth), after every commit when a history is made shorter.
 */
#include <errno.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "model_history.h"

#define HISTORY_OPS 4000u
#define LIVES_MAX 2000u
#define SHRINK_SECONDS 60
#define PLANTED_OPS 600u

static char directory[160];
static struct op ops[HISTORY_OPS];

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)kind;
    (void)where;
    return remove(path);
}

static void remove_store(const char *path)
{
    if (access(path, F_OK) == 0 && nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0) {
        fprintf(stderr, "FAILED: %s cannot be removed\n", path);
        exit(1);
    }
}

static void make_directory(void)
{
    const char *under = getenv("TMPDIR"); /* SIGKILL leaves the page cache alone, so memory is as good as a disk */
    snprintf(directory, sizeof directory, "%s/prog_model.XXXXXX",
             under                      ? under
             : access("/dev/shm", W_OK) ? "/tmp"
                                        : "/dev/shm");
    if (!mkdtemp(directory)) {
        perror(directory);
        exit(1);
    }
}

static void new_world(uint64_t seed, bool lie)
{
    if (world)
        munmap(world, WORLD_BYTES);
    world = mmap(NULL, WORLD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (world == MAP_FAILED) {
        perror("the oracle's memory");
        exit(1);
    }
    atomic_init(&world->taken, sizeof *world);
    world->seed = seed;
    world->lie = lie;
}

/* A process's life: true if it came to its end; a kill is not the end. */
static bool live(uint32_t count, bool quiet, bool *killed)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (quiet && !freopen("/dev/null", "w", stderr))
            _exit(2);
        alarm(300);
        run_history(ops, count);
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    *killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && parameters.kills;
    if (WIFSIGNALED(status) && !*killed)
        snprintf(world->failure, sizeof world->failure, "the process ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (WIFEXITED(status) && WEXITSTATUS(status) && !world->failure[0])
        snprintf(world->failure, sizeof world->failure, "the process ended with status %d", WEXITSTATUS(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Runs the first count of ops as a history. */
static bool history_holds(uint64_t seed, uint32_t count, bool lie, bool quiet)
{
    make_parameters(seed, directory);
    remove_store(parameters.path);
    new_world(seed, lie);
    for (unsigned lives = 0; lives < LIVES_MAX; lives++) {
        bool killed = false;
        if (live(count, quiet, &killed))
            return true;
        if (!killed)
            return false;
        world->statistics.kills++;
        world->resumed = true;
    }
    snprintf(world->failure, sizeof world->failure, "killed too often");
    return false;
}

/* ---- making a failing history shorter ---- */

/* Leaves [from, to) out, for good if it still fails. */
static bool fails_without(uint64_t seed, uint32_t *count, uint32_t from, uint32_t to, bool lie)
{
    static struct op before[HISTORY_OPS];
    memcpy(before, ops, sizeof before);
    memmove(ops + from, ops + to, (*count - to) * sizeof *ops);
    unsigned tries = parameters.kills ? 4 : 1; /* a kill does not come at the same moment twice */
    for (unsigned i = 0; i < tries; i++)
        if (!history_holds(seed, *count - (to - from), lie, true)) {
            *count -= to - from;
            return true;
        }
    memcpy(ops, before, sizeof before);
    return false;
}

static uint32_t shrink(uint64_t seed, uint32_t count, bool lie, char *failure, size_t failure_bytes)
{
    double until = now_s() + SHRINK_SECONDS;
    bool again = true;
    compare_every = 1;
    while (again && now_s() < until) {
        again = false;
        for (uint32_t piece = (count + 1) / 2; piece >= 1; piece /= 2) {
            for (uint32_t from = 0; from < count && now_s() < until;) {
                uint32_t to = from + piece < count ? from + piece : count;
                if (count > to - from && fails_without(seed, &count, from, to, lie)) {
                    snprintf(failure, failure_bytes, "%s", world->failure);
                    again |= piece == 1;
                } else {
                    from = to;
                }
            }
        }
    }
    return count;
}

static void show(uint64_t seed, uint32_t count, const char *failure)
{
    char path[200];
    snprintf(path, sizeof path, "%s.%llu.history", directory, (unsigned long long)seed);
    FILE *file = fopen(path, "w");
    fprintf(stderr, "%u operations are left of it: %s\n", count, failure);
    print_history(stderr, ops, count);
    if (file) {
        print_history(file, ops, count);
        fclose(file);
    }
    fprintf(stderr, "again: prog_model --seed %llu --history %s\n", (unsigned long long)seed, path);
}

static void report_failure(uint64_t seed, uint32_t count, bool lie)
{
    char failure[sizeof world->failure];
    uint32_t ran = world->next_op < count ? world->next_op : count;
    snprintf(failure, sizeof failure, "%s", world->failure);
    fprintf(stderr, "FAILED: history %llu at operation %u: %s\n", (unsigned long long)seed, ran, failure);
    fprintf(stderr, "keys %u style %u leaf %u inline %u segment %u threads %u durability %d%s%s%s%s\n", parameters.keys,
            parameters.key_style, parameters.leaf_bytes, parameters.inline_bytes, parameters.segment_bytes,
            parameters.threads, (int)parameters.durability, parameters.on_files ? " files" : "",
            parameters.kills ? " kills" : "", parameters.background ? " background" : "",
            parameters.crowded ? " crowded"
            : parameters.trees ? " trees"
                               : "");
    count = shrink(seed, ran, lie, failure, sizeof failure);
    show(seed, count, failure);
}

/* The planted fault is found, and what is left shows it. */
static void try_planted_fault(void)
{
    char failure[sizeof world->failure];
    for (uint64_t seed = 1;; seed++) {
        make_parameters(seed, directory);
        if (parameters.on_files || parameters.crowded || parameters.keys > 100) /* it will be written soon */
            continue;
        make_history(seed, ops, PLANTED_OPS);
        if (history_holds(seed, PLANTED_OPS, true, true)) {
            fprintf(stderr, "FAILED: nobody notices that the oracle lies about a key\n");
            exit(1);
        }
        uint32_t whole = world->next_op, count = shrink(seed, whole, true, failure, sizeof failure);
        bool writes = false;
        for (uint32_t i = 0; i < count; i++)
            writes |= ops[i].kind == OP_PUT || ops[i].kind == OP_FILL;
        if (count > 6 || !writes || !history_holds(seed, count, false, true)) {
            fprintf(stderr, "FAILED: a planted fault is not shrunk to what shows it\n");
            show(seed, count, failure);
            exit(1);
        }
        printf("a planted fault: found after %u operations, shown by %u (%s)\n", whole, count, failure);
        return;
    }
}

/* ---- many histories ---- */

struct shared {
    struct statistics total[2];
};

static void add_statistics(struct statistics *total)
{
    const uint64_t *from = (const uint64_t *)&world->statistics;
    uint64_t *to = (uint64_t *)total;
    for (size_t i = 0; i < sizeof *total / sizeof *to; i++)
        to[i] += from[i];
    total->histories++;
}

static void work(struct shared *shared, unsigned self, unsigned processes, uint64_t seed, uint64_t operations, bool lie)
{
    struct statistics *total = &shared->total[self];
    double started = now_s(), said = started;
    uint32_t every = compare_every;
    make_directory();
    for (uint64_t number = self; total->ops < operations / processes; number += processes) {
        uint64_t own = seed * 1000000 + number;
        make_parameters(own, directory);
        make_history(own, ops, HISTORY_OPS);
        if (!history_holds(own, HISTORY_OPS, lie, false)) {
            report_failure(own, HISTORY_OPS, lie);
            remove_store(directory);
            exit(1);
        }
        compare_every = every;
        add_statistics(total);
        if (operations >= 1000000 && self == 0 && now_s() - said > 20) {
            said = now_s();
            printf("%.0f s: %llu operations\n", said - started,
                   (unsigned long long)(shared->total[0].ops + shared->total[1].ops));
            fflush(stdout);
        }
    }
    remove_store(directory);
}

static bool run_all(unsigned processes, uint64_t seed, uint64_t operations, bool lie)
{
    pid_t worker[2];
    bool good = true;
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return false;
    double started = now_s();
    for (unsigned i = 0; i < processes; i++) {
        fflush(NULL);
        worker[i] = fork();
        if (worker[i] == 0) {
            work(shared, i, processes, seed, operations, lie);
            exit(0);
        }
    }
    for (unsigned i = 0; i < processes; i++) {
        int status = 0;
        waitpid(worker[i], &status, 0);
        good &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    struct statistics all = shared->total[0];
    for (size_t i = 0; i < sizeof all / 8; i++)
        ((uint64_t *)&all)[i] += ((uint64_t *)&shared->total[1])[i];
    printf("%llu operations in %llu histories, seed %llu, %.1f s: %llu commits, %llu refused of %llu that might be, "
           "%llu kills (%llu kept what was in flight), %llu reopened, %llu audits, %llu proofs, %llu digests, "
           "%llu trees too deep\n",
           (unsigned long long)all.ops, (unsigned long long)all.histories, (unsigned long long)seed, now_s() - started,
           (unsigned long long)all.commits, (unsigned long long)all.conflicts, (unsigned long long)all.could_conflict,
           (unsigned long long)all.kills, (unsigned long long)all.in_flight_kept, (unsigned long long)all.reopened,
           (unsigned long long)all.audits, (unsigned long long)all.proofs, (unsigned long long)all.oracles,
           (unsigned long long)all.deep_refused);
    return good;
}

static int run_one(uint64_t seed, const char *path, bool lie)
{
    uint32_t count = HISTORY_OPS;
    make_directory();
    make_parameters(seed, directory);
    if (path) {
        FILE *file = fopen(path, "r");
        if (!file) {
            perror(path);
            return 1;
        }
        count = read_history(file, ops, HISTORY_OPS);
        fclose(file);
        compare_every = 1;
    } else {
        make_history(seed, ops, count);
    }
    bool good = history_holds(seed, count, lie, false);
    if (good)
        printf("%u operations: as the oracle says\n", count);
    else if (path)
        fprintf(stderr, "FAILED: at operation %u: %s\n", world->next_op, world->failure);
    else
        report_failure(seed, count, lie);
    remove_store(directory);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    uint64_t operations = 250000, seed = 1;
    unsigned processes = 1;
    const char *history = NULL;
    bool single = false, lie = getenv("PANDO_MODEL_LIE") != NULL;
    compare_every = 50;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--long") == 0) {
            operations = 20000000;
            processes = 2;
            compare_every = 1000;
        } else if (strcmp(argv[i], "--operations") == 0 && i + 1 < argc) {
            operations = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--processes") == 0 && i + 1 < argc) {
            processes = strcmp(argv[++i], "2") == 0 ? 2 : 1;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--single") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 10);
            single = true;
        } else if (strcmp(argv[i], "--history") == 0 && i + 1 < argc) {
            history = argv[++i];
        } else {
            fprintf(stderr, "usage: prog_model [--long] [--operations N] [--processes 1|2] [--seed S] [--single SEED] "
                            "[--history FILE]\n");
            return 2;
        }
    }
    if (sodium_init() < 0)
        return 1;
    if (single || history)
        return run_one(seed, history, lie);
    uint32_t every = compare_every;
    make_directory();
    try_planted_fault();
    remove_store(directory);
    compare_every = every;
    return run_all(processes, seed, operations, lie) ? 0 : 1;
}
