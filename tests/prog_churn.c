/*
 * Churn in fast motion: overwrites for ever, the last 1,000 roots kept, readers open throughout.
 *
 *   prog_churn [--long]     1,000,000 live keys, 200,000,000 overwrites (20,000 and 600,000 by default)
 *
 * Keys of 32 hashed bytes, values of 40, blocks of 1,000, ENG_DURABLE_NONE with a checkpoint every 200 blocks (a fifth
 * of what is kept). Two readers open snapshots of random kept roots, hold them for a while and read random keys; every
 * value says by which block it was written, which must not be newer than the root. Printed every hundredth: blocks
 * done, blocks a second, disk (blocks of the files in state/), bytes of live objects (which are those of the newest
 * root, of all kept ones, and the death lists), moved bytes. At the end:
 *
 *   disk at most 2.0 times the live bytes, from the second tenth on (the short run: and 3 segments)
 *   the last tenth is at least 0.9 times as fast as the second
 *   store_audit counts no id without an owner; every segment is free, filled now, or holds what is live: their live
 *   units, counted from the control table, are what each segment says
 */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

#include "engine_internal.h"
#include "store_internal.h"

#define BLOCK 1000u
#define READERS 2
#define VALUE_BYTES 40u
#define PARTS 100u

static struct eng *eng;
static uint64_t keys, blocks, kept, filled; /* filled: the root that first has all keys */
static _Atomic uint64_t newest;
static _Atomic bool stop;
static _Atomic uint64_t read_count;
static char dir[] = "/dev/shm/pando-churn-XXXXXX"; /* in memory: it is the bookkeeping that is looked at */

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "prog_churn: %s: %s\n", what, eng_error());
    exit(1);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void key_of(uint64_t n, uint8_t key[32])
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t h = XXH3_64bits_withSeed(&n, sizeof n, i);
        memcpy(key + 8 * i, &h, 8);
    }
}

static void put(struct eng_batch *batch, uint64_t n, uint64_t tag)
{
    uint8_t key[32], value[VALUE_BYTES] = {0};
    key_of(n, key);
    memcpy(value, &n, 8);
    memcpy(value + 8, &tag, 8);
    need(eng_batch_put(batch, key, sizeof key, (struct eng_value){ENG_BYTES, value, sizeof value}) == ENG_OK, "put");
}

static void commit(struct eng_batch **batch, uint64_t tag)
{
    need(eng_batch_freeze(*batch) == ENG_OK && eng_commit(*batch, tag, NULL) == ENG_OK, "commit");
    eng_batch_close(batch);
    atomic_store(&newest, tag);
    need(tag <= kept || eng_drop_below(eng, 0, tag - kept + 1) == ENG_OK, "drop");
    if (tag % (kept / 5) == 0 && !eng_checkpoint_running(eng))
        need(eng_checkpoint(eng, NULL, 0, false) == ENG_OK, "checkpoint");
}

static void *reader_main(void *context)
{
    uint64_t state = 0x9e3779b97f4a7c15ull * (uint64_t)((uintptr_t)context + 1);
    while (!atomic_load(&stop)) {
        uint64_t head = atomic_load(&newest), tag = head - next(&state) % (kept - 1);
        struct eng_snapshot *snapshot;
        if (tag > head || tag < filled || eng_snapshot_open(eng, 0, tag, &snapshot) != ENG_OK)
            continue; /* dropped meanwhile */
        for (unsigned i = 0; i < 2000 && !atomic_load(&stop); i++) {
            uint64_t n = next(&state) % keys, written;
            uint8_t key[32], value[VALUE_BYTES];
            size_t size;
            key_of(n, key);
            need(eng_get_copy(snapshot, key, sizeof key, NULL, value, sizeof value, &size) == ENG_OK, "get");
            memcpy(&written, value + 8, 8);
            need(size == sizeof value && memcmp(value, &n, 8) == 0 && written <= tag, "a wrong value was read");
            if (i % 500 == 0)
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        atomic_fetch_add(&read_count, 2000);
        eng_snapshot_close(&snapshot);
    }
    return NULL;
}

static uint64_t disk_bytes(void)
{
    char path[512];
    uint64_t sum = 0;
    snprintf(path, sizeof path, "%s/state", dir);
    DIR *files = opendir(path);
    need(files != NULL, "state");
    for (struct dirent *file; (file = readdir(files)) != NULL;) {
        struct stat is;
        if (fstatat(dirfd(files), file->d_name, &is, 0) == 0 && S_ISREG(is.st_mode))
            sum += (uint64_t)is.st_blocks * 512;
    }
    closedir(files);
    return sum;
}

/* No segment is forgotten, and each has as many live units as objects in the control table lie in it. */
static void count_segments(void)
{
    struct store *store = eng->store;
    struct segments *segments = &store->segments;
    need(store_reap(store, UINT64_MAX, NULL) == ENG_OK, "reap");
    need(eng_checkpoint(eng, NULL, 0, true) == ENG_OK, "checkpoint");
    store_lock_maintenance(store);
    uint64_t *live = calloc(segments->total, sizeof *live);
    uint8_t *listed = calloc(segments->total, 1);
    need(live && listed, "memory");
    for (uint64_t id = 1; id < store->control.next; id++) {
        uint64_t word = atomic_load(&store->view.control[id]);
        if (word)
            live[segment_of(store, CONTROL_LOCATION(word))] += CONTROL_UNITS(word);
    }
    for (uint32_t i = 0; i < segments->free_count; i++)
        listed[segments->free[i]]++;
    for (uint32_t i = 0; i < segments->empty_count; i++)
        listed[segments->empty[i]]++;
    for (uint32_t n = 0; n < segments->total; n++) {
        const struct segment *segment = &segments->table[n];
        bool on_list = segment->state == SEGMENT_FREE || segment->state == SEGMENT_EMPTY;
        need(listed[n] == on_list, "a segment is on no list, or on two");
        need(segment->state != SEGMENT_SEALED || live[n] != 0, "a sealed segment is empty");
        need(live[n] == atomic_load(&segment->live), "a segment's live units are miscounted");
    }
    free(live);
    free(listed);
    store_unlock_maintenance(store);
}

int main(int argc, char **argv)
{
    bool all = argc > 1 && strcmp(argv[1], "--long") == 0;
    keys = all ? 1000000 : 20000;
    blocks = all ? 200000 : 600;
    kept = all ? 1000 : 50;
    need(mkdtemp(dir) != NULL, "no directory");
    struct eng_options options = {.path = dir, .create = true, .segment_bytes = all ? 0 : 1u << 20};
    need(eng_open(&options, &eng) == ENG_OK, "open");
    uint64_t state = 88172645463325252ull, tag = 0;
    for (uint64_t n = 0; n < keys;) {
        struct eng_batch *batch;
        need(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
        for (unsigned i = 0; i < BLOCK; i++, n++)
            put(batch, n, tag + 1);
        commit(&batch, ++tag);
    }
    filled = tag;
    pthread_t threads[READERS];
    for (uintptr_t i = 0; i < READERS; i++)
        need(pthread_create(&threads[i], NULL, reader_main, (void *)i) == 0, "thread");
    double times[11], worst = 0, part_start = seconds(), start = part_start;
    times[0] = start;
    printf("blocks,blocks_per_s,disk_mb,live_mb,ratio,moved_mb,checkpoints,segments,free\n");
    uint64_t segment_bytes = eng->segment_bytes;
    for (uint64_t b = 1; b <= blocks; b++) {
        struct eng_batch *batch;
        need(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
        for (unsigned i = 0; i < BLOCK; i++)
            put(batch, next(&state) % keys, tag + 1);
        commit(&batch, ++tag);
        if (b % (blocks / 10) == 0)
            times[b / (blocks / 10)] = seconds();
        if (b % (blocks / PARTS) != 0)
            continue;
        struct eng_statistics is;
        eng_stats(eng, &is);
        double disk = (double)disk_bytes(), live = (double)is.live_bytes, now = seconds();
        double ratio = (disk - (all ? 0 : 3.0 * (double)segment_bytes)) / live;
        worst = b > blocks / 10 && ratio > worst ? ratio : worst;
        struct store_statistics segments;
        store_stats(eng->store, &segments);
        printf("%llu,%.0f,%.1f,%.1f,%.3f,%.1f,%llu,%llu,%llu\n", (unsigned long long)b,
               (double)(blocks / PARTS) / (now - part_start), disk / 1e6, live / 1e6, ratio,
               (double)is.moved_bytes / 1e6, (unsigned long long)is.checkpoints,
               (unsigned long long)segments.segments_total, (unsigned long long)segments.segments_free);
        fflush(stdout);
        part_start = now;
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    double second = times[2] - times[1], last = times[10] - times[9];
    printf("# %.0f s, %.0f overwrites/s; last tenth %.3f of the second in speed; disk at most %.3f of what is live; "
           "%llu values read\n",
           seconds() - start, (double)(blocks * BLOCK) / (seconds() - start), second / last, worst,
           (unsigned long long)atomic_load(&read_count));
    uint64_t leaked, missing;
    count_segments();
    need(store_audit(eng->store, &leaked, &missing) == ENG_OK, "audit");
    printf("# %llu ids leaked, %llu missing\n", (unsigned long long)leaked, (unsigned long long)missing);
    need(leaked == 0 && missing == 0, "ids without an owner");
    need(worst <= 2.0, "too much disk");
    need(!all || second / last >= 0.9, "it becomes slower");
    eng_close(&eng);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0;
}
