/*
 * engine: the storage engine beside LMDB, RocksDB and SQLite, in one run on one machine.
 *
 * For every workload the stores take turns, round by round, so that a slow spell of the machine meets them all. Each
 * round of a store is a process of its own (its resident memory is its own); its directory and its oracle live on.
 * Before the next store has its turn the file system is synced, so that no store pays for the dirty pages of another.
 *
 * stdout: CSV, one line a round. stderr: the machine, what is left out and why, at the end medians and ratios.
 * Exit status: 0; 1 if a store failed or held anything but what was written to it; 2 wrong use.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"
#include "store.h"
#include "summary.h"
#include "workload.h"

#define CONTENDERS_MAX 12
#define LOAD_BATCH 10000
#define TMPFS_FILE_SYSTEM 0x01021994

static const struct store_driver *const drivers[] = {&store_pando, &store_lmdb, &store_rocksdb, &store_sqlite};
#define DRIVERS (sizeof drivers / sizeof drivers[0])

/* A store with its data. Durable ones and the plain Pando beside the one with snapshots have data of their own. */
struct contender {
    char name[32];
    char dir[4096];
    const struct store_driver *driver;
    struct dataset dataset;
    bool durable, plain, loaded;
};

struct bench {
    uint64_t keys, batch, rounds, cache_mb, hot_mb, seed;
    double seconds, warmup_seconds;
    char dir[4000];
    bool keep;
    bool with[DRIVERS];
    enum workload workloads[WORKLOADS];
    size_t workloads_count;
    struct contender contenders[CONTENDERS_MAX];
    size_t contenders_count;
    struct measurement *shared; /* written by the child of a round */
    struct summary summary;
    bool failed;
};

void bench_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(1);
}

static void usage(void)
{
    fputs("usage: engine [--keys N] [--batch B] [--workload insert,rmw,get,get_many,scan,rmw_snapshots,durable]\n"
          "              [--with pando,lmdb,rocksdb,sqlite] [--rounds R] [--seconds S] [--warmup S] [--dir DIR] "
          "[--keep]\n"
          "              [--cache-mb M] [--hot-mb M] [--lanes sodium|neon|avx2|avx512] [--seed N]\n",
          stderr);
    exit(2);
}

/* ---- arguments ---- */

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || value < least || value > most) {
        fprintf(stderr, "bench: %s: not a number from %llu to %llu\n", text, (unsigned long long)least,
                (unsigned long long)most);
        usage();
    }
    return value;
}

static double duration(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= 0 && value <= 86400)) {
        fprintf(stderr, "bench: %s: not a number of seconds\n", text);
        usage();
    }
    return value;
}

static void parse_with(struct bench *bench, char *list)
{
    memset(bench->with, 0, sizeof bench->with);
    for (char *save, *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        size_t i = 0;
        while (i < DRIVERS && strcmp(name, drivers[i]->name) != 0)
            i++;
        if (i == DRIVERS) {
            fprintf(stderr, "bench: %s: no such store\n", name);
            usage();
        }
        bench->with[i] = true;
    }
}

static void parse_workloads(struct bench *bench, char *list)
{
    bench->workloads_count = 0;
    for (char *save, *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        enum workload workload;
        if (!workload_parse(name, &workload) || bench->workloads_count == WORKLOADS) {
            fprintf(stderr, "bench: %s: no such workload, or too many\n", name);
            usage();
        }
        bench->workloads[bench->workloads_count++] = workload;
    }
}

static void parse(struct bench *bench, int argc, char **argv)
{
    static const struct option options[] = {
        {"keys", 1, 0, 'k'},     {"batch", 1, 0, 'b'},
        {"workload", 1, 0, 'w'}, {"with", 1, 0, 'x'},
        {"rounds", 1, 0, 'r'},   {"seconds", 1, 0, 's'},
        {"warmup", 1, 0, 'u'},   {"dir", 1, 0, 'd'},
        {"keep", 0, 0, 'K'},     {"lanes", 1, 0, 'l'},
        {"cache-mb", 1, 0, 'c'}, {"hot-mb", 1, 0, 'h'},
        {"seed", 1, 0, 'S'},     {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'k':
            bench->keys = number(optarg, 1, 1ull << 31);
            break;
        case 'b':
            bench->batch = number(optarg, 1, 1 << 20);
            break;
        case 'w':
            parse_workloads(bench, optarg);
            break;
        case 'x':
            parse_with(bench, optarg);
            break;
        case 'r':
            bench->rounds = number(optarg, 1, 1000);
            break;
        case 's':
            bench->seconds = duration(optarg);
            break;
        case 'u':
            bench->warmup_seconds = duration(optarg);
            break;
        case 'd':
            snprintf(bench->dir, sizeof bench->dir, "%s", optarg);
            break;
        case 'K':
            bench->keep = true;
            break;
        case 'c':
            bench->cache_mb = number(optarg, 1, 1 << 20);
            break;
        case 'h':
            bench->hot_mb = number(optarg, 0, 1 << 20);
            break;
        case 'S':
            bench->seed = number(optarg, 0, UINT64_MAX);
            break;
        case 'l':
            setenv("PANDO_LANES", optarg, 1);
            break;
        default:
            usage();
        }
    }
    if (optind != argc)
        usage();
    if (bench->batch > bench->keys) {
        fputs("bench: a batch of distinct keys cannot be larger than the number of keys\n", stderr);
        usage();
    }
}

/* ---- the machine ---- */

static void describe_machine(const struct bench *bench)
{
    char line[512], cpu[256] = "unknown CPU";
    struct utsname kernel;
    struct statfs fs;
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info && fgets(line, sizeof line, info))
        if (sscanf(line, "model name : %255[^\n]", cpu) == 1)
            break;
    if (info)
        fclose(info);
    if (uname(&kernel) != 0 || statfs(bench->dir, &fs) != 0)
        bench_die("%s: %s", bench->dir, strerror(errno));
    fprintf(stderr, "# %s, %ld cores, Linux %s, file system type 0x%lx; lanes %s\n", cpu, sysconf(_SC_NPROCESSORS_ONLN),
            kernel.release, (unsigned long)fs.f_type, getenv("PANDO_LANES") ? getenv("PANDO_LANES") : "best");
    if (fs.f_type == TMPFS_FILE_SYSTEM)
        fputs("# the directory is in memory: durable says nothing here\n", stderr);
}

/* ---- contenders ---- */

static struct contender *contender_get(struct bench *bench, const struct store_driver *driver, bool durable, bool plain)
{
    for (size_t i = 0; i < bench->contenders_count; i++) {
        struct contender *c = &bench->contenders[i];
        if (c->driver == driver && c->durable == durable && c->plain == plain)
            return c;
    }
    if (bench->contenders_count == CONTENDERS_MAX)
        bench_die("too many stores");
    struct contender *c = &bench->contenders[bench->contenders_count++];
    *c = (struct contender){.driver = driver, .durable = durable, .plain = plain};
    snprintf(c->name, sizeof c->name, "%s%s", driver->name, plain ? "-plain" : "");
    snprintf(c->dir, sizeof c->dir, "%s/%s%s%s", bench->dir, driver->name, plain ? "-plain" : "",
             durable ? "-durable" : "");
    if (mkdir(c->dir, 0755) != 0 && errno != EEXIST)
        bench_die("%s: %s", c->dir, strerror(errno));
    dataset_open(&c->dataset, bench->keys);
    return c;
}

/* Writes out the file system that holds the directory. */
static void settle(const struct bench *bench)
{
    int fd = open(bench->dir, O_RDONLY | O_DIRECTORY);
    if (fd < 0 || syncfs(fd) != 0)
        bench_die("%s: %s", bench->dir, strerror(errno));
    close(fd);
}

/* Runs the round in a child. false: it failed, and has said why. */
static bool in_child(struct bench *bench, const struct round *round, bool load_only)
{
    fflush(stdout);
    fflush(stderr);
    pid_t child = fork();
    if (child < 0)
        bench_die("fork: %s", strerror(errno));
    if (child == 0) {
        if (load_only)
            round_load(round);
        else
            round_run(round, bench->shared);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child)
        bench_die("wait: %s", strerror(errno));
    settle(bench);
    if (status == 0)
        return true;
    fprintf(stderr, "bench: %s, %s: failed (%s %d)\n", workload_name(round->workload), round->settings.name,
            WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    bench->failed = true;
    return false;
}

static struct round round_of(const struct bench *bench, const struct contender *c, enum workload workload,
                             uint64_t turn)
{
    return (struct round){
        .workload = workload,
        .driver = c->driver,
        .settings = {.dir = c->dir,
                     .name = c->name,
                     .keys = bench->keys,
                     .cache_bytes = bench->cache_mb << 20,
                     .hot_bytes = bench->hot_mb << 20,
                     .durable = c->durable,
                     .snapshots = workload == WORKLOAD_RMW_SNAPSHOTS && !c->plain},
        .dataset = c->dataset,
        .batch = bench->batch,
        .seed = bench->seed + 1000003 * turn + (uint64_t)workload * 7919,
        .seconds = bench->seconds,
        .warmup_seconds = bench->warmup_seconds,
    };
}

static void contender_empty(struct contender *c)
{
    measure_empty_dir(c->dir);
    memset(c->dataset.increments, 0, c->dataset.keys * sizeof *c->dataset.increments);
    c->loaded = false;
}

static bool contender_load(struct bench *bench, struct contender *c)
{
    contender_empty(c);
    struct round round = round_of(bench, c, WORKLOAD_INSERT, 0);
    round.settings.create = true;
    round.batch = LOAD_BATCH;
    c->loaded = in_child(bench, &round, true);
    return c->loaded;
}

static void turn(struct bench *bench, struct contender *c, enum workload workload, uint64_t n)
{
    if (workload == WORKLOAD_INSERT)
        contender_empty(c);
    else if (!c->loaded && !contender_load(bench, c))
        return;
    struct round round = round_of(bench, c, workload, n);
    round.settings.create = workload == WORKLOAD_INSERT;
    c->loaded = in_child(bench, &round, false);
    if (!c->loaded)
        return;
    struct result result = {.workload = workload, .store = c->name, .measurement = *bench->shared};
    result.disk_mb = measure_disk_mb(c->dir);
    printf("%s,%s,%lu,%lu,%lu,%.0f,%.3f,%.3f,%.1f,%.1f\n", workload_name(workload), c->name, (unsigned long)bench->keys,
           (unsigned long)bench->batch, (unsigned long)n + 1, result.measurement.ops_per_s, result.measurement.p50_us,
           result.measurement.p99_us, result.measurement.rss_mb, result.disk_mb);
    fflush(stdout);
    summary_add(&bench->summary, &result);
}

static void run_workload(struct bench *bench, enum workload workload)
{
    for (uint64_t n = 0; n < bench->rounds; n++)
        for (size_t i = 0; i < DRIVERS; i++) {
            if (!bench->with[i])
                continue;
            turn(bench, contender_get(bench, drivers[i], workload == WORKLOAD_DURABLE, false), workload, n);
            if (workload == WORKLOAD_RMW_SNAPSHOTS && drivers[i] == &store_pando)
                turn(bench, contender_get(bench, drivers[i], false, true), workload, n);
        }
}

static void directory_open(struct bench *bench)
{
    if (!bench->dir[0]) {
        snprintf(bench->dir, sizeof bench->dir, "bench-data.XXXXXX");
        if (!mkdtemp(bench->dir))
            bench_die("%s: %s", bench->dir, strerror(errno));
    } else if (mkdir(bench->dir, 0755) != 0 && errno != EEXIST) {
        bench_die("%s: %s", bench->dir, strerror(errno));
    }
}

int main(int argc, char **argv)
{
    static struct bench bench = {.keys = 1000000,
                                 .batch = 1000,
                                 .rounds = 3,
                                 .cache_mb = 512,
                                 .seed = 1,
                                 .seconds = 3,
                                 .warmup_seconds = 0.5,
                                 .with = {true, true, true, true},
                                 .workloads = {WORKLOAD_RMW},
                                 .workloads_count = 1};
    parse(&bench, argc, argv);
    directory_open(&bench);
    bench.shared = mmap(NULL, sizeof *bench.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench.shared == MAP_FAILED)
        bench_die("shared memory: %s", strerror(errno));
    describe_machine(&bench);
    puts("workload,store,keys,batch,round,ops_per_s,p50_us,p99_us,rss_mb,disk_mb");
    for (size_t i = 0; i < bench.workloads_count; i++)
        run_workload(&bench, bench.workloads[i]);
    summary_print(&bench.summary, stderr);
    summary_close(&bench.summary);
    for (size_t i = 0; i < bench.contenders_count; i++) {
        struct contender *c = &bench.contenders[i];
        dataset_close(&c->dataset);
        if (bench.keep)
            continue;
        measure_empty_dir(c->dir);
        if (rmdir(c->dir) != 0)
            bench_die("%s: %s", c->dir, strerror(errno));
    }
    if (!bench.keep)
        (void)rmdir(bench.dir); /* stays if it holds anything else */
    return bench.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
