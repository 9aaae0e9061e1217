/*
 * Churn: overwrites without end in a store of constant size, and where the space goes.
 *
 * N keys (32 hashed bytes, values of 40) are overwritten in blocks; a block is a commit, the newest versions are
 * retained and every older one is dropped, as a ledger does. Checkpoints are made after as much log as the ledger node
 * would have written by default, or when eng_checkpoint_wanted says so. Readers are open throughout, and compare values
 * with the rule that made them: two open snapshots of random retained versions, one after the other; a third keeps its
 * snapshot for a twentieth of the run, long after the version was dropped.
 *
 * The rule: in round r (N / block commits) every key is overwritten once, in the order of an affine permutation that
 * follows from r; so which commit wrote a key last, as seen from any version, can be computed from the key alone.
 *
 * Checked: the blocks allocated to state/ are at most 2.0 times the units of live objects, those of retained versions
 * and death lists included, at any time after the warm-up (until retained versions have been replaced twice); the last
 * tenth is not slower than 0.9 times the second (0.5 times in a short run, where a tenth is too little to measure); at
 * the end every id belongs to somebody and every segment is free, being filled, or holds exactly the live objects that
 * the control table names, with all versions and again with the newest one alone.
 *
 * The two tenths are minutes apart, and a machine may have become slower meanwhile by more than is asked for. So each
 * is told three ways: by the clock; by the processor time of the committing thread, which other programs do not count
 * in; and, in a long run, beside a new store, made for that tenth, that does the same in turns with the old one: what
 * the old one lost against a new one is what it lost by its age. One of the three must hold.
 *
 * stdout: CSV, one line for every hundredth, then a summary. Exit 1 if a condition does not hold.
 *
 * Usage: prog_churn [--long] [--overwrites N] [--dir DIR]
 * DIR is made, and removed at the end; by default it is in memory (/dev/shm): the bookkeeping is what is looked at.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine_internal.h"
#include "store_internal.h"

#define VALUE_BYTES 40u
#define LOG_BYTES_EACH 80u /* of an overwrite in the ledger's log */
#define READERS 3
#define HOLDER (READERS - 1) /* the one that keeps its snapshot */
#define HOLDS 20             /* times in a run */
#define READS 32

/* A store that is churned. */
struct store_churned {
    struct eng *eng;
    char dir[264];
    _Atomic uint64_t newest; /* tag */
    uint64_t logged;         /* bytes since the last checkpoint */
};

static struct {
    uint64_t keys, block, retain, overwrites, checkpoint_bytes;
    double slowest; /* last tenth over second */
    bool is_long;
    struct store_churned old;
    _Atomic bool stop;
    _Atomic uint64_t reads, gone;
} churn;

static void die(const char *what)
{
    fprintf(stderr, "prog_churn: %s: %s\n", what, eng_error());
    exit(1);
}
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != ENG_OK)                                                                                          \
            die(#call);                                                                                                \
    } while (0)

static uint64_t mix(uint64_t z) /* splitmix64 */
{
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the rule ---- */

static void make_key(uint64_t i, uint8_t key[32])
{
    for (uint64_t w = 0; w < 4; w++) {
        uint64_t word = mix(i * 4 + w);
        memcpy(key + 8 * w, &word, 8);
    }
}

/* The value that the commit with this tag gives key i; it begins with the tag. */
static void make_value(uint64_t i, uint64_t tag, uint8_t value[VALUE_BYTES])
{
    memcpy(value, &tag, 8);
    for (uint64_t w = 1; w < VALUE_BYTES / 8; w++) {
        uint64_t word = mix(mix(i) ^ tag << 3 ^ w);
        memcpy(value + 8 * w, &word, 8);
    }
}

static uint64_t divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The permutation of a round: at place j stands key (factor * j + shift) % keys. */
static void round_rule(uint64_t r, uint64_t *factor, uint64_t *shift)
{
    *factor = mix(2 * r) % churn.keys | 1;
    while (divisor(churn.keys, *factor) != 1)
        *factor = (*factor + 2) % churn.keys | 1;
    *shift = mix(2 * r + 1) % churn.keys;
}

static uint64_t inverse(uint64_t factor)
{
    int64_t a = (int64_t)factor, b = (int64_t)churn.keys, x = 1, y = 0;
    while (b) {
        int64_t quotient = a / b, rest = a % b, next = x - quotient * y;
        a = b;
        b = rest;
        x = y;
        y = next;
    }
    return (uint64_t)(x < 0 ? x + (int64_t)churn.keys : x);
}

/* Tag of the commit that wrote key i last, as of version tag. Tag 1 wrote all; tag 2 + b is block b. */
static uint64_t written(uint64_t i, uint64_t tag)
{
    if (tag < 2)
        return 1;
    uint64_t blocks = churn.keys / churn.block;
    for (uint64_t r = (tag - 2) / blocks + 1; r-- > 0;) {
        uint64_t factor, shift;
        round_rule(r, &factor, &shift);
        uint64_t away = (i + churn.keys - shift) % churn.keys;
        uint64_t place = (uint64_t)((unsigned __int128)away * inverse(factor) % churn.keys);
        uint64_t by = 2 + r * blocks + place / churn.block;
        if (by <= tag)
            return by;
    }
    return 1;
}

/* ---- readers ---- */

static void read_some(struct eng_snapshot *snapshot, uint64_t tag, uint64_t *random)
{
    for (int n = 0; n < READS; n++) {
        uint64_t i = (*random = mix(*random)) % churn.keys;
        uint8_t key[32], value[VALUE_BYTES], expected[VALUE_BYTES];
        enum eng_tag kind;
        size_t size;
        make_key(i, key);
        OK(eng_get_copy(snapshot, key, sizeof key, &kind, value, sizeof value, &size));
        make_value(i, written(i, tag), expected);
        if (kind != ENG_BYTES || size != VALUE_BYTES || memcmp(value, expected, VALUE_BYTES) != 0) {
            fprintf(stderr, "prog_churn: key %llu in version %llu has not the value of its last overwrite\n",
                    (unsigned long long)i, (unsigned long long)tag);
            exit(1);
        }
    }
    atomic_fetch_add_explicit(&churn.reads, READS, memory_order_relaxed);
}

/* Until so many commits later. */
static void hold(struct eng_snapshot *snapshot, uint64_t tag, uint64_t *random)
{
    uint64_t until = tag + churn.overwrites / churn.block / HOLDS;
    /* acquire: partner of the release in commit_block */
    while (!atomic_load_explicit(&churn.stop, memory_order_relaxed) &&
           atomic_load_explicit(&churn.old.newest, memory_order_acquire) < until) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        read_some(snapshot, tag, random);
    }
}

static void *reader_main(void *context)
{
    bool holds = (uintptr_t)context == HOLDER + 1;
    uint64_t random = (uint64_t)(uintptr_t)context;
    while (!atomic_load_explicit(&churn.stop, memory_order_relaxed)) {
        /* acquire: partner of the release in commit_block */
        uint64_t newest = atomic_load_explicit(&churn.old.newest, memory_order_acquire);
        uint64_t kept = newest < churn.retain ? newest : churn.retain;
        uint64_t tag = newest - (random = mix(random)) % kept;
        struct eng_snapshot *snapshot;
        enum eng_status status = eng_snapshot_open(churn.old.eng, 0, tag, &snapshot);
        if (status == ENG_GONE) { /* dropped meanwhile */
            atomic_fetch_add_explicit(&churn.gone, 1, memory_order_relaxed);
            continue;
        }
        if (status != ENG_OK)
            die("snapshot");
        read_some(snapshot, tag, &random);
        if (holds)
            hold(snapshot, tag, &random);
        else
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        read_some(snapshot, tag, &random);
        eng_snapshot_close(&snapshot);
    }
    return NULL;
}

/* ---- the store ---- */

static void commit_keys(struct store_churned *store, uint64_t tag, uint64_t first, uint64_t count, uint64_t factor,
                        uint64_t shift)
{
    struct eng_batch *batch;
    OK(eng_batch_open(store->eng, 0, NULL, &batch));
    for (uint64_t j = first; j < first + count; j++) {
        uint64_t i = (uint64_t)(((unsigned __int128)factor * j + shift) % churn.keys);
        uint8_t key[32], value[VALUE_BYTES];
        make_key(i, key);
        make_value(i, tag, value);
        OK(eng_batch_put(batch, key, sizeof key, (struct eng_value){ENG_BYTES, value, VALUE_BYTES}));
    }
    OK(eng_batch_freeze(batch));
    OK(eng_commit(batch, tag, NULL));
    eng_batch_close(&batch);
    /* release: partner of the acquire in reader_main */
    atomic_store_explicit(&store->newest, tag, memory_order_release);
}

/* Makes the directory, and the store with all keys. */
static void open_store(struct store_churned *store)
{
    if (!store->dir[0]) {
        const char *where = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(store->dir, sizeof store->dir, "%s/pando-churn-XXXXXX", where);
        if (!mkdtemp(store->dir))
            die("mkdtemp");
    } else if (mkdir(store->dir, 0750) != 0) {
        fprintf(stderr, "prog_churn: %s: %s\n", store->dir, strerror(errno));
        exit(1);
    }
    struct eng_options options = {.path = store->dir,
                                  .create = true,
                                  .segment_bytes = churn.is_long ? 0 : 256u << 10,
                                  .durability = ENG_DURABLE_NONE};
    memset(options.store_id, 7, sizeof options.store_id);
    OK(eng_open(&options, &store->eng));
    store->logged = 0;
    commit_keys(store, 1, 0, churn.keys, 1, 0);
}

static const char *const names[] = {"slots", "slots.new", "journal", "control", "catalog.0", "catalog.1", "segments"};

static uint64_t state_blocks(void)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[320];
        struct stat file;
        snprintf(path, sizeof path, "%s/state/%s", churn.old.dir, names[i]);
        if (stat(path, &file) == 0)
            bytes += (uint64_t)file.st_blocks * 512;
    }
    return bytes;
}

static void remove_store(struct store_churned *store)
{
    char path[320];
    eng_close(&store->eng);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/state/%s", store->dir, names[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/state", store->dir);
    rmdir(path);
    snprintf(path, sizeof path, "%s/LOCK", store->dir);
    unlink(path);
    rmdir(store->dir);
}

/* A checkpoint when it is due and none is running; waited for in a short run, where all there is turns over within
 * tenths of a second. */
static void upkeep(struct store_churned *store)
{
    store->logged += churn.block * LOG_BYTES_EACH;
    if ((store->logged < churn.checkpoint_bytes && !eng_checkpoint_wanted(store->eng)) ||
        eng_checkpoint_running(store->eng))
        return;
    OK(eng_checkpoint(store->eng, &(uint64_t){atomic_load(&store->newest)}, 8, !churn.is_long));
    store->logged = 0;
}

static void commit_block(struct store_churned *store, uint64_t b)
{
    uint64_t blocks = churn.keys / churn.block, factor, shift;
    round_rule(b / blocks, &factor, &shift);
    commit_keys(store, 2 + b, b % blocks * churn.block, churn.block, factor, shift);
    uint64_t tag = 2 + b;
    if (tag > churn.retain)
        OK(eng_drop_below(store->eng, 0, tag - churn.retain + 1));
    upkeep(store);
}

/* ---- what is counted ---- */

/* Segments that are neither free, nor being filled, nor hold exactly what the control table says. */
static uint64_t lost_segments(bool tell)
{
    struct store *store = churn.old.eng->store;
    uint64_t *units = calloc(store->segments.total, sizeof *units), lost = 0, filled = 0;
    if (!units)
        die("memory");
    pthread_mutex_lock(&store->maintenance); /* nothing moves */
    for (uint64_t id = 1; id < store->control.next; id++) {
        uint64_t word = atomic_load(&store->view.control[id]);
        if (word)
            units[segment_of(store, CONTROL_LOCATION(word))] += CONTROL_UNITS(word);
    }
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    uint8_t *listed = calloc(store->segments.total, 1);
    if (!listed)
        die("memory");
    for (uint32_t i = 0; i < store->segments.free_count; i++)
        listed[store->segments.free[i]]++;
    for (uint32_t n = 0; n < store->segments.total; n++) {
        const struct segment *segment = &store->segments.table[n];
        bool free_one = segment->state == SEGMENT_FREE;
        bool open_one = segment->state == SEGMENT_OPEN;
        bool good = free_one   ? listed[n] == 1 && units[n] == 0
                    : open_one ? !listed[n]
                               : segment->state == SEGMENT_SEALED && !listed[n] && units[n] > 0;
        if (!good || units[n] != atomic_load(&segment->live)) {
            lost++;
            if (tell)
                fprintf(stderr, "segment %u: state %d, %s%llu units live, %llu in the control table, listed %d times\n",
                        n, segment->state, segment->compacting ? "being compacted, " : "",
                        (unsigned long long)atomic_load(&segment->live), (unsigned long long)units[n], listed[n]);
        }
        filled += open_one;
    }
    if (filled > store->arenas_count + 1u) {
        lost += filled - store->arenas_count - 1;
        if (tell)
            fprintf(stderr, "%llu segments are being filled\n", (unsigned long long)filled);
    }
    pthread_mutex_unlock(&store->segments.lock);
    pthread_mutex_unlock(&store->maintenance);
    free(listed);
    free(units);
    return lost;
}

static bool audit(const char *when)
{
    uint64_t leaked, missing;
    for (int i = 0; i < 2; i++) /* what the checkpoint before the last one named is free after the second */
        OK(eng_checkpoint(churn.old.eng, NULL, 0, true));
    OK(eng_settle(churn.old.eng));
    OK(store_reap(churn.old.eng->store, UINT64_MAX, NULL));
    OK(store_audit(churn.old.eng->store, &leaked, &missing));
    uint64_t lost = lost_segments(false);
    for (int i = 0; lost && i < 50; i++) { /* the compactor may be between two batches of a segment */
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        OK(eng_checkpoint(churn.old.eng, NULL, 0, true));
        lost = lost_segments(i == 49);
    }
    printf("%s: %llu ids leaked, %llu missing, %llu of %u segments lost\n", when, (unsigned long long)leaked,
           (unsigned long long)missing, (unsigned long long)lost, churn.old.eng->store->segments.total);
    return !leaked && !missing && !lost;
}

struct sample {
    double clock, processor;
};

static struct sample now(void)
{
    return (struct sample){seconds(CLOCK_MONOTONIC), seconds(CLOCK_THREAD_CPUTIME_ID)};
}

/* ---- a new store beside it ---- */

#define TURN_BLOCKS 50u        /* of the new store, after each */
#define TURN_EVERY_BLOCKS 250u /* of the old one */

static struct {
    struct store_churned store;
    uint64_t block;
    struct sample aside;       /* what the new stores took, all in all */
    double took[2], blocks[2]; /* of the turns, by the clock: in the second tenth, in the last */
} beside;

/* In the second tenth and the last a new store takes turns with the old one, once its versions are as many. */
static void take_turn(uint64_t b, uint64_t blocks)
{
    unsigned tenth = (unsigned)(b * 10 / blocks);
    if (!churn.is_long || (tenth != 1 && tenth != 9) || b % TURN_EVERY_BLOCKS != 0)
        return;
    struct sample begin = now();
    struct store_churned *store = &beside.store;
    if (!store->eng) {
        snprintf(store->dir, sizeof store->dir, "%.255s-beside", churn.old.dir);
        open_store(store);
        for (beside.block = 0; beside.block < 2 * churn.retain; beside.block++)
            commit_block(store, beside.block);
    }
    double from = seconds(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < TURN_BLOCKS; i++)
        commit_block(store, beside.block++);
    beside.took[tenth == 9] += seconds(CLOCK_MONOTONIC) - from;
    beside.blocks[tenth == 9] += TURN_BLOCKS;
    if ((b + TURN_EVERY_BLOCKS) * 10 / blocks != tenth)
        remove_store(store);
    struct sample end = now();
    beside.aside.clock += end.clock - begin.clock;
    beside.aside.processor += end.processor - begin.processor;
}

/* Without what the new stores took. */
static struct sample now_of_old(void)
{
    struct sample at = now();
    return (struct sample){at.clock - beside.aside.clock, at.processor - beside.aside.processor};
}

static double worst;
static uint64_t worst_at;

static void look_at_space(uint64_t b, uint64_t blocks, bool line, struct sample begin)
{
    struct eng_statistics statistics;
    eng_stats(churn.old.eng, &statistics);
    uint64_t disk = state_blocks();
    double ratio = (double)disk / (double)statistics.live_bytes;
    if (b > 2 * churn.retain && b * 10 > blocks && ratio > worst) {
        worst = ratio;
        worst_at = b * churn.block;
    }
    if (!line)
        return;
    double elapsed = now_of_old().clock - begin.clock;
    struct store_statistics segments;
    store_stats(churn.old.eng->store, &segments);
    struct segments *heap = &churn.old.eng->store->segments;
    pthread_mutex_lock(&heap->lock);
    double sealed_live = (double)heap->heap_live / (double)(heap->heap_fill + 1);
    pthread_mutex_unlock(&heap->lock);
    printf("%.1f,%llu,%.0f,%.1f,%.1f,%.3f,%.1f,%llu,%llu,%llu,%llu,%llu,%.3f\n", elapsed,
           (unsigned long long)(b * churn.block), (double)(b * churn.block) / elapsed,
           (double)statistics.live_bytes / 1e6, (double)disk / 1e6, ratio, (double)statistics.moved_bytes / 1e6,
           (unsigned long long)statistics.checkpoints, (unsigned long long)statistics.versions,
           (unsigned long long)segments.segments_total, (unsigned long long)segments.segments_free,
           (unsigned long long)(segments.waiting_bytes / segments.segment_bytes), sealed_live);
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%3.0f %%  %.2f times live ", 100.0 * (double)b / (double)blocks, ratio);
}

/* All blocks; the clocks at every tenth. */
static void run_blocks(struct sample at[11])
{
    uint64_t blocks = churn.overwrites / churn.block;
    printf("seconds,overwrites,overwrites_per_s,live_mb,disk_mb,disk_over_live,moved_mb,checkpoints,versions,"
           "segments,free,waiting,sealed_live\n");
    at[0] = now_of_old();
    for (uint64_t b = 0; b < blocks; b++) {
        take_turn(b, blocks);
        commit_block(&churn.old, b);
        bool line = b * 100 / blocks != (b + 1) * 100 / blocks;
        if (line || b % 8 == 0)
            look_at_space(b + 1, blocks, line, at[0]);
        if (b * 10 / blocks != (b + 1) * 10 / blocks)
            at[(b + 1) * 10 / blocks] = now_of_old();
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\n");
}

static bool report(const struct sample at[11])
{
    double speed = (at[2].clock - at[1].clock) / (at[10].clock - at[9].clock);
    double processor = (at[2].processor - at[1].processor) / (at[10].processor - at[9].processor);
    double per_second = (double)churn.overwrites / (at[10].clock - at[0].clock);
    double aged = 0; /* speed over that of a new store */
    if (churn.is_long)
        aged = speed / (beside.blocks[1] / beside.took[1]) * (beside.blocks[0] / beside.took[0]);
    bool space = worst > 0 && worst <= 2.0;
    bool steady = speed >= churn.slowest || processor >= churn.slowest || aged >= churn.slowest;
    printf("%llu overwrites of %llu keys, %.0f/s, %llu values read and right\n", (unsigned long long)churn.overwrites,
           (unsigned long long)churn.keys, per_second, (unsigned long long)atomic_load(&churn.reads));
    printf("disk over live: at most %.3f after the warm-up, at %llu overwrites: %s\n", worst,
           (unsigned long long)worst_at, space ? "good" : "over 2.0");
    printf("last tenth over second: %.3f by the clock, %.3f by processor time", speed, processor);
    if (churn.is_long)
        printf(", %.3f beside a new store (new stores: %.0f/s then, %.0f/s now)", aged,
               beside.blocks[0] * (double)churn.block / beside.took[0],
               beside.blocks[1] * (double)churn.block / beside.took[1]);
    printf(": %s\n", steady ? "good" : "too slow");
    return space && steady;
}

static void arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        churn.is_long |= strcmp(argv[i], "--long") == 0;
    churn.keys = churn.is_long ? 1000000 : 10000;
    churn.block = churn.is_long ? 1000 : 100;
    churn.retain = churn.is_long ? 1000 : 300;
    churn.overwrites = churn.is_long ? 200000000 : 300000;
    churn.checkpoint_bytes = churn.is_long ? 256u << 20 : 4u << 20;
    churn.slowest = churn.is_long ? 0.9 : 0.5;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--overwrites") == 0 && i + 1 < argc) {
            churn.overwrites = strtoull(argv[++i], NULL, 10) / churn.block * churn.block;
        } else if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc) {
            snprintf(churn.old.dir, sizeof churn.old.dir - sizeof "-beside", "%s", argv[++i]);
        } else if (strcmp(argv[i], "--long") != 0) {
            fprintf(stderr, "usage: prog_churn [--long] [--overwrites N] [--dir DIR]\n");
            exit(2);
        }
    }
    if (churn.overwrites < 40 * churn.block || churn.overwrites / churn.block <= 2 * churn.retain) {
        fprintf(stderr, "prog_churn: too few overwrites for %llu retained versions\n",
                (unsigned long long)churn.retain);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    arguments(argc, argv);
    open_store(&churn.old);
    pthread_t readers[READERS];
    for (uintptr_t i = 0; i < READERS; i++)
        if (pthread_create(&readers[i], NULL, reader_main, (void *)(i + 1)) != 0)
            die("pthread_create");
    struct sample at[11];
    run_blocks(at);
    atomic_store(&churn.stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    bool good = report(at);
    good &= audit("with all versions");
    OK(eng_drop_below(churn.old.eng, 0, atomic_load(&churn.old.newest)));
    good &= audit("with the newest alone");
    remove_store(&churn.old);
    return good ? 0 : 1;
}
