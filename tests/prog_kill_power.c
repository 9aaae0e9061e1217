/*
 * A killed process, a restart, and then a power loss: on the simulated disk, in every mode of durability.
 *
 * A kill loses nothing that was written: the next process reads it all from the page cache. But none of it need be on
 * the disk, and a restart that takes what it reads for durable, and overwrites what it would need if it is not, loses
 * the store when the power goes as well. So:
 *
 * The first life makes a store, commits, drops old versions, checkpoints and closes. It is killed at one of its disk
 * calls, before that takes effect. In a second round the call fails instead, and the process ends with the error, or at
 * the next call if nobody told it. What a failed sync leaves can be read, is not on the disk, and is not written there
 * by a later sync either.
 *
 * The second life opens what the first left, on the same disk, and goes on for some commits. Before each of its disk
 * calls images are made of what a power loss would leave then.
 *
 * What must hold: the second life opens, with every commit that the mode keeps over a kill, and none of its calls
 * fails. Each image opens, some with ENG_RECOVER_AUTO and some with ENG_RECOVER_VERIFY (--long: each with both). Its
 * head is not older than what was acknowledged as durable, which is also what a restart showed as its head (but for
 * ENG_DURABLE_MSYNC_SYNC, which promises nothing of a power loss); its summary and a scan of it give what the same
 * commits gave on a disk where nothing happened.
 *
 * Not gone on from: a failed sync of the segments. What was stored through their map cannot be told from what is on the
 * disk, nor written again.
 *
 * Each kill is a child process, which has the disk in its memory: the killed life gets no further than into the disk
 * call, whose watcher lives the second one and ends the process.
 *
 * Without arguments every sixteenth call of the first life is tried, from a random one on, and of the calls at which
 * something can be read that is not stable three of each kind, with more images (with the address sanitizer every
 * hundred and sixtieth, one, and half as many images); --long tries every call. The seed is printed, and repeats a run.
 *
 * Usage: prog_kill_power [--long] [seed]
 */
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "recovery_fixture.h"

#define FIRST_COMMITS 14u
#define SECOND_COMMITS 4u
#define COMMITS_MAX (FIRST_COMMITS + SECOND_COMMITS + 1) /* one more may be in the log of the first life */
#define CALLS_MAX 4096u
#ifdef __SANITIZE_ADDRESS__ /* an image takes twenty times as long */
#define EVERY 160u
#define FOCUS_EACH 1u
#define IMAGES_PART 2u
#else
#define EVERY 16u
#define FOCUS_EACH 3u
#define IMAGES_PART 1u
#endif

/* What can be read and would be lost with the power: these are where a restart can go wrong. */
enum unstable { UNSTABLE_NAME, UNSTABLE_SLOTS, UNSTABLE_JOURNAL, UNSTABLE_LOG, UNSTABLE_KINDS };
static const char *const unstable_name[UNSTABLE_KINDS] = {"name of state/slots", "state/slots", "state/journal", "log"};

enum blow { BLOW_KILL, BLOW_FAILURE };
static const char *const blow_name[] = {"killed", "failed"};

static const enum eng_durability modes[] = {ENG_DURABLE_NONE, ENG_DURABLE_MSYNC_SYNC, ENG_DURABLE_FSYNC,
                                            ENG_DURABLE_FULL};
static const char *const mode_name[] = {"NONE", "MSYNC_SYNC", "FSYNC", "FULL"};
#define MODES (sizeof modes / sizeof modes[0])

static struct {
    struct eng_summary summary;
    uint64_t sum; /* of a scan */
} expected[COMMITS_MAX + 1];

struct counts {
    uint64_t blows, images, skipped;
};
static struct counts *counts; /* of all children */

static struct {
    bool is_long;
    unsigned mode;
    enum blow blow;
    uint64_t at;     /* the call that is the last of the first life, or fails */
    bool focused;    /* at that call something of these kinds can be read that is not stable */
    unsigned kinds;  /* bits */
    uint64_t random; /* for the seeds of images */
    uint64_t first_call, second_call;
    uint64_t written, acknowledged; /* tags that survive a kill, a power loss */
    uint64_t begun;                 /* the newest tag that may be there */
    bool opening, judging;
} run;

static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Ends a child. */
__attribute__((noreturn)) static void die(const char *what, uint64_t image_seed)
{
    printf("FAILED %s, call %llu %s, ", mode_name[run.mode], (unsigned long long)run.at, blow_name[run.blow]);
    if (run.judging)
        printf("power loss before call %llu after the restart, image %llu: ", (unsigned long long)run.second_call,
               (unsigned long long)image_seed);
    else
        printf("call %llu after the restart: ", (unsigned long long)run.second_call);
    printf("%s: %s\n", what, eng_error());
    fflush(stdout);
    _exit(1);
}

static struct eng_options options_of(struct disk *disk)
{
    struct eng_options options = fixture_options(disk, modes[run.mode]);
    options.checkpoint_log_bytes = 3000;
    return options;
}

/* The newest version, 0: none. */
static enum eng_status head_of(struct eng *eng, uint64_t *tag, struct eng_summary *summary)
{
    *tag = 0;
    enum eng_status status = eng_head(eng, 0, tag, summary);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

static enum eng_status scan_head(struct eng *eng, uint64_t *sum)
{
    struct eng_snapshot *snapshot;
    *sum = 0;
    enum eng_status status = eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot);
    if (status == ENG_OK) {
        status = eng_scan(snapshot, NULL, 0, NULL, 0, fixture_each, sum);
        eng_snapshot_close(&snapshot);
    }
    return status;
}

/* ---- lives ---- */

static enum eng_status commit(struct eng *eng, uint64_t tag, struct eng_summary *summary)
{
    struct eng_batch *batch;
    run.begun = tag;
    enum eng_status status = eng_batch_open(eng, 0, NULL, &batch);
    if (status != ENG_OK)
        return status;
    fixture_fill(batch, 0, tag, 12);
    status = eng_batch_freeze(batch);
    if (status == ENG_OK)
        status = eng_commit(batch, tag, summary);
    eng_batch_close(&batch);
    return status;
}

/* Commits one version, drops old ones, makes a checkpoint now and then where only that is durable. */
static enum eng_status step(struct eng *eng, uint64_t tag)
{
    struct eng_summary summary;
    enum eng_status status = commit(eng, tag, &summary);
    if (status != ENG_OK)
        return status;
    NEED(memcmp(&summary, &expected[tag].summary, sizeof summary) == 0);
    bool logged = modes[run.mode] >= ENG_DURABLE_MSYNC_SYNC;
    if (logged)
        run.written = tag;
    if (modes[run.mode] >= ENG_DURABLE_FSYNC)
        run.acknowledged = tag;
    if (tag > 3)
        status = eng_drop_below(eng, 0, tag - 2);
    if (status == ENG_OK && !logged && tag % 3 == 0) {
        status = eng_checkpoint(eng, &tag, sizeof tag, true);
        if (status == ENG_OK)
            run.written = run.acknowledged = tag;
    }
    return status;
}

static enum eng_status live(struct disk *disk, unsigned commits)
{
    struct eng_options options = options_of(disk);
    struct eng *eng;
    uint64_t tag;
    run.opening = true;
    enum eng_status status = eng_open(&options, &eng);
    run.opening = false;
    if (status != ENG_OK)
        return status;
    status = head_of(eng, &tag, NULL);
    NEED(tag >= run.written && tag <= run.begun);
    run.written = tag;
    if (modes[run.mode] != ENG_DURABLE_MSYNC_SYNC)
        run.acknowledged = tag;
    for (unsigned i = 0; i < commits && status == ENG_OK; i++)
        status = step(eng, ++tag);
    if (status == ENG_OK)
        eng_close(&eng);
    return status; /* else the engine stays as it is: its process ends */
}

/* ---- what is not stable ---- */

static void read_file(struct disk *disk, const char *path, uint8_t **bytes, uint64_t *size)
{
    struct disk_file *file;
    *bytes = NULL;
    *size = 0;
    if (!disk_exists(disk, path))
        return;
    NEED_OK(disk_open(disk, path, DISK_READ, &file));
    NEED_OK(disk_size(file, size));
    *bytes = malloc(*size + 1);
    NEED_OK(disk_read(file, 0, *bytes, *size));
    disk_file_close(&file);
}

static bool differs(struct disk *a, struct disk *b, const char *path)
{
    uint8_t *bytes[2];
    uint64_t size[2];
    read_file(a, path, &bytes[0], &size[0]);
    read_file(b, path, &bytes[1], &size[1]);
    bool same = size[0] == size[1] && (size[0] == 0 || memcmp(bytes[0], bytes[1], size[0]) == 0);
    free(bytes[0]);
    free(bytes[1]);
    return !same;
}

static unsigned unstable_kinds(struct disk *disk)
{
    struct disk *stable, *all;
    unsigned kinds = 0;
    NEED_OK(disk_sim_crash(disk, 0, &stable));
    NEED_OK(disk_sim_crash(disk, 1, &all));
    if (disk_exists(all, "state/slots") != disk_exists(stable, "state/slots"))
        kinds |= 1u << UNSTABLE_NAME;
    else if (differs(all, stable, "state/slots"))
        kinds |= 1u << UNSTABLE_SLOTS;
    if (differs(all, stable, "state/journal"))
        kinds |= 1u << UNSTABLE_JOURNAL;
    if (differs(all, stable, "log/00000000000000.log"))
        kinds |= 1u << UNSTABLE_LOG;
    disk_close(&stable);
    disk_close(&all);
    return kinds;
}

/* ---- power loss ---- */

static void judge(struct disk *image, enum eng_recovery recovery, uint64_t seed)
{
    struct eng_options options = options_of(image);
    struct eng *eng;
    struct eng_summary summary;
    uint64_t tag, sum;
    options.recovery = recovery;
    if (eng_open(&options, &eng) != ENG_OK)
        die("the image does not open", seed);
    if (head_of(eng, &tag, &summary) != ENG_OK)
        die("no head", seed);
    char what[100];
    snprintf(what, sizeof what, "head %llu, acknowledged %llu, begun %llu", (unsigned long long)tag,
             (unsigned long long)run.acknowledged, (unsigned long long)run.begun);
    if (tag < run.acknowledged || tag > run.begun)
        die(what, seed);
    if (tag) {
        if (memcmp(&summary, &expected[tag].summary, sizeof summary) != 0)
            die("another summary", seed);
        if (scan_head(eng, &sum) != ENG_OK)
            die("the scan fails", seed);
        if (sum != expected[tag].sum)
            die("other contents", seed);
    }
    eng_close(&eng);
    counts->images++;
}

/* More where a restart goes wrong only if two writes are torn, or one is lost and another one torn. */
static unsigned image_count(struct disk *disk)
{
    if (!run.focused || !run.opening)
        return run.is_long ? 4 : 1;
    unsigned kinds = unstable_kinds(disk) & run.kinds;
    return (kinds & 1u << UNSTABLE_SLOTS ? 50 : kinds & 1u << UNSTABLE_JOURNAL ? 80 : 8) / IMAGES_PART;
}

static void lose_power(void *context, struct disk *disk, uint64_t n)
{
    (void)context;
    unsigned images = image_count(disk);
    run.judging = true;
    for (unsigned i = 0; i < images; i++) {
        uint64_t seed = i == 0 && (images > 1 || n % 2 == 0) ? 0 : 2 + draw(&run.random) % 1000000000;
        bool first = draw(&run.random) % 2;
        for (unsigned way = 0; way < (run.is_long ? 2 : 1); way++) {
            struct disk *image;
            NEED_OK(disk_sim_crash(disk, seed, &image));
            judge(image, (way == 0) == first ? ENG_RECOVER_VERIFY : ENG_RECOVER_AUTO, seed);
            disk_close(&image);
        }
    }
    run.judging = false;
    run.second_call++;
}

/* ---- blows ---- */

__attribute__((noreturn)) static void second_life(struct disk *disk)
{
    disk_sim_watch(disk, lose_power, NULL);
    if (live(disk, SECOND_COMMITS) != ENG_OK)
        die("the second life", 0);
    _exit(0);
}

static void strike(void *context, struct disk *disk, uint64_t n)
{
    (void)context;
    (void)n;
    if (run.first_call++ != run.at + (run.blow == BLOW_FAILURE))
        return;
    if (run.blow == BLOW_FAILURE && strstr(eng_error(), "state/segments: sync"))
        _exit(2);
    second_life(disk);
}

__attribute__((noreturn)) static void first_life(void)
{
    struct disk *disk;
    NEED_OK(disk_sim_open(0, &disk));
    disk_sim_watch(disk, strike, NULL);
    if (run.blow == BLOW_FAILURE)
        disk_sim_fail(disk, run.at, ENG_IO);
    enum eng_status status = live(disk, FIRST_COMMITS);
    if (status != ENG_OK && run.blow == BLOW_KILL)
        die("the first life", 0);
    if (status != ENG_OK && strstr(eng_error(), "state/segments: sync"))
        _exit(2);
    second_life(disk);
}

/* false: something did not hold. */
static bool blow_at(uint64_t at, unsigned kinds, bool focused)
{
    fflush(stdout);
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        run.at = at;
        run.kinds = kinds;
        run.focused = focused;
        run.random ^= at * 0x9e3779b97f4a7c15ull;
        run.begun = COMMITS_MAX;
        first_life();
    }
    int how;
    NEED(waitpid(child, &how, 0) == child);
    counts->blows++;
    counts->skipped += WIFEXITED(how) && WEXITSTATUS(how) == 2;
    if (WIFEXITED(how) && (WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == 2))
        return true;
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 1)
        printf("FAILED %s, call %llu %s: the process ended with %#x\n", mode_name[run.mode], (unsigned long long)at,
               blow_name[run.blow], (unsigned)how);
    return false;
}

/* ---- all ---- */

/* What each version must be, on a disk where nothing happens. */
static void make_expected(void)
{
    struct disk *disk;
    struct eng *eng;
    NEED_OK(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= COMMITS_MAX; tag++) {
        NEED_OK(commit(eng, tag, &expected[tag].summary));
        NEED_OK(scan_head(eng, &expected[tag].sum));
    }
    eng_close(&eng);
    disk_close(&disk);
}

/* The calls of a first life nothing happens to, and what is not stable before each. */
struct calls {
    uint64_t count;
    uint8_t kinds[CALLS_MAX];
};

static void note_call(void *context, struct disk *disk, uint64_t n)
{
    struct calls *calls = context;
    (void)n;
    NEED(calls->count < CALLS_MAX);
    calls->kinds[calls->count++] = (uint8_t)unstable_kinds(disk);
}

static void note_calls(struct calls *calls)
{
    struct disk *disk;
    memset(calls, 0, sizeof *calls);
    run.written = run.acknowledged = 0;
    run.begun = COMMITS_MAX;
    NEED_OK(disk_sim_open(0, &disk));
    disk_sim_watch(disk, note_call, calls);
    NEED_OK(live(disk, FIRST_COMMITS));
    disk_sim_watch(disk, NULL, NULL);
    disk_close(&disk);
    run.written = run.acknowledged = 0;
}

/* Which calls are looked at closely: some of each kind. */
static void choose_focus(const struct calls *calls, uint64_t *state, bool *focus)
{
    for (unsigned kind = 0; kind < UNSTABLE_KINDS; kind++) {
        uint64_t of_kind[CALLS_MAX], count = 0;
        for (uint64_t at = 0; at < calls->count; at++)
            if (calls->kinds[at] & 1u << kind)
                of_kind[count++] = at;
        bool logged = modes[run.mode] >= ENG_DURABLE_MSYNC_SYNC;
        if (count == 0 && (logged || kind != UNSTABLE_LOG)) {
            printf("FAILED %s: no call at which the %s is not stable\n", mode_name[run.mode], unstable_name[kind]);
            exit(1);
        }
        for (unsigned i = 0; i < FOCUS_EACH && count > 0; i++) {
            uint64_t chosen = draw(state) % count;
            focus[of_kind[chosen]] = true;
            of_kind[chosen] = of_kind[--count];
        }
    }
}

static uint64_t try_mode(uint64_t *state)
{
    static struct calls calls;
    uint64_t failures = 0;
    note_calls(&calls);
    for (run.blow = BLOW_KILL; run.blow <= BLOW_FAILURE; run.blow++) {
        bool focus[CALLS_MAX] = {false};
        choose_focus(&calls, state, focus);
        uint64_t every = run.is_long ? 1 : EVERY, phase = draw(state) % every;
        for (uint64_t at = 0; at < calls.count; at++) {
            run.random = draw(state);
            if (isatty(STDERR_FILENO))
                fprintf(stderr, "\r%-10s %s %llu of %llu   ", mode_name[run.mode], blow_name[run.blow],
                        (unsigned long long)at, (unsigned long long)calls.count);
            if (at % every == phase || focus[at])
                failures += !blow_at(at, calls.kinds[at], focus[at] || run.is_long);
        }
    }
    return failures;
}

int main(int argc, char **argv)
{
    run.is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    struct timespec begun, ended;
    clock_gettime(CLOCK_REALTIME, &begun);
    uint64_t seed = (uint64_t)begun.tv_nsec ^ (uint64_t)getpid() << 32;
    if (argc > 1 + run.is_long)
        seed = strtoull(argv[1 + run.is_long], NULL, 0);
    printf("seed %llu\n", (unsigned long long)seed);
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(counts != MAP_FAILED);
    make_expected();
    uint64_t failures = 0, state = seed;
    for (run.mode = 0; run.mode < MODES; run.mode++)
        failures += try_mode(&state);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%40s\r", "");
    clock_gettime(CLOCK_REALTIME, &ended);
    printf("%llu first lives ended, %llu images opened, %llu not gone on from, %llu failures, %lld s\n",
           (unsigned long long)counts->blows, (unsigned long long)counts->images, (unsigned long long)counts->skipped,
           (unsigned long long)failures, (long long)(ended.tv_sec - begun.tv_sec));
    munmap(counts, sizeof *counts);
    return failures != 0;
}
