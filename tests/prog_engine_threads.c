/*
 * Readers beside a writer, the compactor and checkpoints: every snapshot must be one state, whole.
 *
 * The writer moves money between accounts, some hundred transfers a commit; the sum over all accounts never changes.
 * Four readers open snapshots (newest, and kept older ones), scan them, compare count, sum and the digest's own sum,
 * look keys up singly and in groups, and diff neighbours. Segments are small, so that compaction and recycling never
 * rest. Meant for ThreadSanitizer as well as for speed.
 *
 *   prog_engine_threads [--long] [--seconds S]
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pando/engine.h"

#define ACCOUNTS 4000u
#define START_AMOUNT 1000
#define KEPT 20u

static struct eng *eng;
static _Atomic bool stop;
static _Atomic uint64_t newest, reads;

static void die(const char *what)
{
    fprintf(stderr, "FAILED: %s: %s\n", what, eng_error());
    exit(1);
}

static size_t account_key(unsigned i, uint8_t key[32])
{
    return (size_t)sprintf((char *)key, "account/%u/%05u", i % 7, i);
}

static void set_amount(struct eng_batch *batch, unsigned i, int64_t amount)
{
    uint8_t key[32], bytes[16];
    __int128 wide = amount;
    memcpy(bytes, &wide, 16);
    size_t n = account_key(i, key);
    if (eng_batch_put(batch, key, n, (struct eng_value){ENG_AMOUNT, bytes, 16}) != ENG_OK)
        die("put");
}

static int64_t get_amount(struct eng_batch *batch, unsigned i)
{
    uint8_t key[32];
    struct eng_value value;
    if (eng_batch_get(batch, key, account_key(i, key), &value) != ENG_OK || value.size != 16)
        die("get");
    int64_t amount;
    memcpy(&amount, value.bytes, 8);
    return amount;
}

static void commit(struct eng_batch **batch, uint64_t tag)
{
    if (eng_batch_freeze(*batch) != ENG_OK || eng_commit(*batch, tag, NULL) != ENG_OK)
        die("commit");
    eng_batch_close(batch);
    atomic_store(&newest, tag);
}

struct tally {
    uint64_t count;
    int64_t sum;
};

static bool add_up(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    (void)key;
    (void)key_bytes;
    struct tally *tally = context;
    int64_t amount;
    memcpy(&amount, value->bytes, 8);
    tally->count++;
    tally->sum += amount;
    return true;
}

static void add_found(void *context, size_t index, const struct eng_value *value)
{
    (void)index;
    if (value)
        add_up(context, NULL, 0, value);
}

static enum eng_status add_change(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *before,
                                  const struct eng_value *after)
{
    (void)key;
    (void)key_bytes;
    int64_t *moved = context, a = 0, b = 0;
    if (before)
        memcpy(&a, before->bytes, 8);
    if (after)
        memcpy(&b, after->bytes, 8);
    *moved += b - a;
    return ENG_OK;
}

static void look(struct eng_snapshot *snapshot, unsigned seed)
{
    const struct eng_summary *summary = eng_snapshot_summary(snapshot);
    struct tally tally = {0};
    if (eng_scan(snapshot, NULL, 0, NULL, 0, add_up, &tally) != ENG_OK)
        die("scan");
    if (tally.count != ACCOUNTS || tally.sum != (int64_t)ACCOUNTS * START_AMOUNT || summary->count != ACCOUNTS ||
        summary->sum[0] != (uint64_t)ACCOUNTS * START_AMOUNT)
        die("a snapshot is not one state");
    uint8_t keys[16][32];
    const uint8_t *key[16];
    size_t key_bytes[16];
    struct tally single = {0}, many = {0};
    for (unsigned i = 0; i < 16; i++) {
        key_bytes[i] = account_key((seed + 37 * i) % ACCOUNTS, keys[i]);
        key[i] = keys[i];
        uint8_t bytes[16];
        size_t size;
        if (eng_get_copy(snapshot, key[i], key_bytes[i], NULL, bytes, 16, &size) != ENG_OK)
            die("get");
        struct eng_value value = {ENG_AMOUNT, bytes, size};
        add_up(&single, NULL, 0, &value);
    }
    if (eng_get_many(snapshot, 16, key, key_bytes, add_found, &many) != ENG_OK ||
        memcmp(&single, &many, sizeof many) != 0)
        die("get_many");
    atomic_fetch_add(&reads, 1);
}

static void *reader_main(void *context)
{
    unsigned seed = (unsigned)(uintptr_t)context;
    while (!atomic_load(&stop)) {
        struct eng_snapshot *now, *then;
        if (eng_snapshot_open(eng, 0, ENG_HEAD, &now) != ENG_OK)
            die("snapshot");
        look(now, seed++);
        uint64_t tag = eng_snapshot_tag(now);
        enum eng_status status = tag > KEPT / 2 ? eng_snapshot_open(eng, 0, tag - KEPT / 2, &then) : ENG_GONE;
        if (status == ENG_OK) {
            look(then, seed++);
            int64_t moved = 0;
            if (eng_diff(then, now, NULL, 0, add_change, &moved) != ENG_OK || moved != 0)
                die("diff");
            eng_snapshot_close(&then);
        } else if (status != ENG_GONE) {
            die("older snapshot");
        }
        eng_snapshot_close(&now);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int seconds = 4;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--long"))
            seconds = 600;
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = atoi(argv[++i]);
    }
    char dir[] = "/tmp/pando-threads-XXXXXX";
    if (!mkdtemp(dir))
        die("mkdtemp");
    struct eng_options options = {.path = dir, .create = true, .segment_bytes = 1u << 20, .threads = 2};
    if (eng_open(&options, &eng) != ENG_OK)
        die("open");
    struct eng_batch *batch;
    if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
        die("batch");
    for (unsigned i = 0; i < ACCOUNTS; i++)
        set_amount(batch, i, START_AMOUNT);
    commit(&batch, 1);
    pthread_t thread[4];
    for (uintptr_t t = 0; t < 4; t++)
        pthread_create(&thread[t], NULL, reader_main, (void *)(t * 1000));
    uint64_t tag = 1, state = 88172645463325252ull;
    time_t end = time(NULL) + seconds;
    while (time(NULL) < end) {
        if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
            die("batch");
        for (unsigned i = 0; i < 150; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            unsigned a = (unsigned)(state % ACCOUNTS), b = (unsigned)(state >> 32) % ACCOUNTS;
            int64_t amount = (int64_t)(state >> 20 & 63);
            set_amount(batch, a, get_amount(batch, a) - amount);
            set_amount(batch, b, get_amount(batch, b) + amount);
        }
        commit(&batch, ++tag);
        if (tag > KEPT && eng_drop_below(eng, 0, tag - KEPT) != ENG_OK)
            die("drop");
        if (tag % 25 == 0) {
            enum eng_status status = eng_checkpoint(eng, &tag, sizeof tag, false);
            if (status != ENG_OK && status != ENG_BUSY)
                die("checkpoint");
        }
    }
    atomic_store(&stop, true);
    for (int t = 0; t < 4; t++)
        pthread_join(thread[t], NULL);
    if (eng_checkpoint(eng, &tag, sizeof tag, true) != ENG_OK)
        die("last checkpoint");
    struct eng_summary before, after;
    struct eng_statistics statistics;
    eng_stats(eng, &statistics);
    if (eng_head(eng, 0, NULL, &before) != ENG_OK)
        die("head");
    eng_close(&eng);
    options.create = false;
    if (eng_open(&options, &eng) != ENG_OK || eng_head(eng, 0, NULL, &after) != ENG_OK)
        die("reopen");
    if (memcmp(&before, &after, sizeof before) != 0)
        die("another root after reopening");
    eng_close(&eng);
    printf("%llu commits, %llu snapshots read whole, %llu MB moved by the compactor, %llu checkpoints\n",
           (unsigned long long)tag, (unsigned long long)atomic_load(&reads),
           (unsigned long long)(statistics.moved_bytes >> 20), (unsigned long long)statistics.checkpoints);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0;
}
