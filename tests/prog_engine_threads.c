/*
 * Readers beside writers, the compactor and checkpoints: every snapshot must be one state, whole, and the one that its
 * tag says.
 *
 * Root 0 is written by one thread. Its version t holds, by the version's rule,
 *
 *   account/...    amounts moved at random, some hundred transfers a commit: their number and sum never change
 *   window/SSSSSSSS/JJ   for the commits S in (t - WINDOW, t]: put in commit S, every fifth removed by itself AGE
 *                  commits later, the rest by a range in commit S + WINDOW; the amount follows from S and J
 *   blob/I         long values: what the newest commit S <= t with S % BLOBS = I put there
 *
 * so a reader knows from the tag alone every key and value of the last two. Root 1 is written by two threads with
 * serializable transactions between few accounts, which often conflict; its sum is constant too. Eight readers open
 * snapshots (newest, and kept older ones), scan, walk cursors both ways, look keys up singly and in groups, ask for
 * totals of ranges and for ranks, read parts of long values, and diff neighbours. A thread calls eng_compact now and
 * then, beside the maintenance thread and its checkpoints and the decay thread of a small hot tier. Segments are small,
 * so that compaction and recycling never rest. Meant for ThreadSanitizer as well as for speed.
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
#define READERS 8
#define WINDOW 12u
#define WINDOW_KEYS 20u
#define AGE 3u
#define BLOBS 6u
#define BLOB_BYTES 9000u
#define FEW 24u /* accounts of root 1 */

static struct eng *eng;
static _Atomic bool stop;
static _Atomic uint64_t reads, conflicts, transactions;

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
}

/* ---- the version's rule ------------------------------------------------------------------------------------------*/

static size_t window_key(uint64_t s, unsigned j, uint8_t key[32])
{
    return (size_t)sprintf((char *)key, "window/%08llu/%02u", (unsigned long long)s, j);
}

static size_t blob_key(uint64_t i, uint8_t key[32])
{
    return (size_t)sprintf((char *)key, "blob/%llu", (unsigned long long)i);
}

static int64_t window_amount(uint64_t s, unsigned j)
{
    return (int64_t)(s * 1009 + j * 17);
}

static bool window_there(uint64_t tag, uint64_t s, unsigned j)
{
    return s > 1 && s <= tag && s + WINDOW > tag && !((s + j) % 5 == 0 && s + AGE <= tag);
}

static void blob_fill(uint64_t s, uint8_t *bytes)
{
    for (unsigned i = 0; i < BLOB_BYTES; i++)
        bytes[i] = (uint8_t)(s * 37 + i * (1 + s % 5));
}

/* What commit tag changes of it. */
static void rule_write(struct eng_batch *batch, uint64_t tag)
{
    static uint8_t blob[BLOB_BYTES]; /* of the one writer */
    uint8_t key[32], end[32], bytes[16];
    for (unsigned j = 0; j < WINDOW_KEYS; j++) {
        __int128 wide = window_amount(tag, j);
        memcpy(bytes, &wide, 16);
        if (eng_batch_put(batch, key, window_key(tag, j, key), (struct eng_value){ENG_AMOUNT, bytes, 16}) != ENG_OK)
            die("put of the window");
        if (tag > AGE && (tag - AGE + j) % 5 == 0 &&
            eng_batch_remove(batch, key, window_key(tag - AGE, j, key)) != ENG_OK)
            die("remove");
    }
    if (tag > WINDOW &&
        eng_batch_remove_range(batch, key, window_key(0, 0, key), end, window_key(tag - WINDOW + 1, 0, end)) != ENG_OK)
        die("remove of a range");
    blob_fill(tag, blob);
    if (eng_batch_put(batch, key, blob_key(tag % BLOBS, key), (struct eng_value){ENG_BYTES, blob, BLOB_BYTES}) !=
        ENG_OK)
        die("put of a blob");
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

/* The entry the cursor stands on is that of the window's s and j. */
static void cursor_is(struct eng_cursor *cursor, uint64_t s, unsigned j)
{
    uint8_t expected[32];
    struct eng_value value;
    size_t key_bytes, expected_bytes = window_key(s, j, expected);
    const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
    if (key_bytes != expected_bytes || memcmp(key, expected, key_bytes) != 0)
        die("another key than the version has");
    int64_t amount;
    if (eng_cursor_value(cursor, &value) != ENG_OK || value.tag != ENG_AMOUNT || value.size != 16)
        die("value of a cursor");
    memcpy(&amount, value.bytes, 8);
    if (amount != window_amount(s, j))
        die("another value than the version has");
}

/* Forwards or backwards over the whole window, and its totals. */
static void look_window(struct eng_snapshot *snapshot, bool forwards)
{
    uint64_t tag = eng_snapshot_tag(snapshot);
    struct eng_cursor *cursor;
    struct eng_totals totals;
    struct tally tally = {0};
    if (eng_cursor_open(snapshot, &cursor) != ENG_OK)
        die("cursor");
    enum eng_status status = forwards ? eng_cursor_seek(cursor, (const uint8_t *)"window/", 7)
                                      : eng_cursor_seek_before(cursor, (const uint8_t *)"window0", 7);
    for (unsigned i = 0; i < WINDOW * WINDOW_KEYS; i++) {
        unsigned at = forwards ? i : WINDOW * WINDOW_KEYS - 1 - i, j = at % WINDOW_KEYS;
        uint64_t s = tag + 1 + at / WINDOW_KEYS - WINDOW;
        if (tag + 1 + at / WINDOW_KEYS <= WINDOW || !window_there(tag, s, j))
            continue;
        if (status != ENG_OK)
            die("cursor in the window");
        cursor_is(cursor, s, j);
        tally.count++;
        tally.sum += window_amount(s, j);
        status = forwards ? eng_cursor_next(cursor) : eng_cursor_prev(cursor);
    }
    if (forwards && status != ENG_NOT_FOUND)
        die("a key behind the window");
    eng_cursor_close(&cursor);
    if (eng_totals(snapshot, (const uint8_t *)"window/", 7, (const uint8_t *)"window0", 7, &totals) != ENG_OK ||
        totals.count != tally.count || totals.sum[0] != (uint64_t)tally.sum)
        die("totals of the window");
}

static void part_found(void *context, const struct eng_value *part, uint64_t size)
{
    const uint8_t *expected = context;
    if (size != BLOB_BYTES || part->size != 700 || memcmp(part->bytes, expected + 5000, 700) != 0)
        die("part of a blob");
}

static void look_blob(struct eng_snapshot *snapshot, unsigned seed)
{
    uint64_t tag = eng_snapshot_tag(snapshot), s = tag - seed % BLOBS;
    if (seed % BLOBS >= tag || s < 2)
        return;
    uint8_t key[32], expected[BLOB_BYTES], got[BLOB_BYTES];
    size_t size;
    enum eng_tag kind;
    blob_fill(s, expected);
    if (eng_get_copy(snapshot, key, blob_key(s % BLOBS, key), &kind, got, sizeof got, &size) != ENG_OK ||
        size != BLOB_BYTES || kind != ENG_BYTES || memcmp(got, expected, size) != 0)
        die("blob");
    if (eng_get_part(snapshot, key, blob_key(s % BLOBS, key), 5000, 700, part_found, expected) != ENG_OK)
        die("part of a blob");
}

static void look(struct eng_snapshot *snapshot, unsigned seed)
{
    struct tally tally = {0};
    struct eng_totals totals;
    uint64_t rank;
    if (eng_scan(snapshot, (const uint8_t *)"account/", 8, (const uint8_t *)"account0", 8, add_up, &tally) != ENG_OK)
        die("scan");
    if (eng_totals(snapshot, (const uint8_t *)"account/", 8, (const uint8_t *)"account0", 8, &totals) != ENG_OK)
        die("totals");
    if (tally.count != ACCOUNTS || tally.sum != (int64_t)ACCOUNTS * START_AMOUNT || totals.count != ACCOUNTS ||
        totals.sum[0] != (uint64_t)ACCOUNTS * START_AMOUNT)
        die("a snapshot is not one state");
    if (eng_rank(snapshot, (const uint8_t *)"blob/", 5, &rank) != ENG_OK || rank != ACCOUNTS)
        die("rank");
    look_window(snapshot, seed % 2);
    look_blob(snapshot, seed);
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

static void look_few(void)
{
    struct eng_snapshot *snapshot;
    struct tally tally = {0};
    if (eng_snapshot_open(eng, 1, ENG_HEAD, &snapshot) != ENG_OK)
        die("snapshot of root 1");
    const struct eng_summary *summary = eng_snapshot_summary(snapshot);
    if (eng_scan(snapshot, NULL, 0, NULL, 0, add_up, &tally) != ENG_OK || tally.count != FEW ||
        tally.sum != FEW * START_AMOUNT || summary->count != FEW || summary->sum[0] != FEW * START_AMOUNT)
        die("root 1 is not one state");
    eng_snapshot_close(&snapshot);
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
            if (eng_diff(then, now, (const uint8_t *)"account/", 8, add_change, &moved) != ENG_OK || moved != 0)
                die("diff");
            eng_snapshot_close(&then);
        } else if (status != ENG_GONE) {
            die("older snapshot");
        }
        eng_snapshot_close(&now);
        look_few();
    }
    return NULL;
}

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void transfer(struct eng_batch *batch, unsigned a, unsigned b, int64_t amount)
{
    set_amount(batch, a, get_amount(batch, a) - amount);
    set_amount(batch, b, get_amount(batch, b) + amount);
}

/* One serializable transaction on root 1; a transfer in it is taken back now and then. */
static void transact(uint64_t *state)
{
    struct eng_batch *batch;
    if (eng_transaction_open(eng, 1, ENG_SERIALIZABLE, &batch) != ENG_OK)
        die("transaction");
    for (unsigned i = 0; i < 2; i++) {
        uint64_t drawn = draw(state);
        if (eng_nested_begin(batch) != ENG_OK)
            die("nested");
        transfer(batch, (unsigned)(drawn % FEW), (unsigned)(drawn >> 32) % FEW, (int64_t)(drawn >> 20 & 63));
        eng_nested_end(batch, drawn >> 60 != 0);
    }
    uint64_t tag;
    enum eng_status status = eng_transaction_commit(batch, &tag, NULL);
    eng_batch_close(&batch);
    if (status == ENG_CONFLICT)
        atomic_fetch_add(&conflicts, 1);
    else if (status != ENG_OK)
        die("commit of a transaction");
    else if (atomic_fetch_add(&transactions, 1) % 64 == 0 && tag > KEPT)
        if ((status = eng_drop_below(eng, 1, tag - KEPT)) != ENG_OK)
            die("drop in root 1");
}

static void *transactor_main(void *context)
{
    uint64_t state = 1234567 + (uint64_t)(uintptr_t)context;
    while (!atomic_load(&stop)) {
        transact(&state);
        usleep(2000);
    }
    return NULL;
}

static void *tidier_main(void *context)
{
    (void)context;
    while (!atomic_load(&stop)) {
        enum eng_status status = eng_compact(eng, 95);
        if (status != ENG_OK && status != ENG_BUSY)
            die("compact");
        for (int i = 0; i < 10 && !atomic_load(&stop); i++)
            usleep(50000);
    }
    return NULL;
}

/* All accounts, in one call that a merge's helper shares. */
static void look_all(struct eng_batch *batch)
{
    static uint8_t keys[ACCOUNTS][32]; /* of the one writer */
    static const uint8_t *key[ACCOUNTS];
    static size_t key_bytes[ACCOUNTS];
    struct tally tally = {0};
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        key_bytes[i] = account_key(i, keys[i]);
        key[i] = keys[i];
    }
    if (eng_batch_get_many(batch, ACCOUNTS, key, key_bytes, add_found, &tally) != ENG_OK || tally.count != ACCOUNTS ||
        tally.sum != (int64_t)ACCOUNTS * START_AMOUNT)
        die("lookups of all accounts");
}

/* The writer of root 0, until the time is over; returns the newest tag. */
static uint64_t write_until(time_t end)
{
    struct eng_batch *batch;
    uint64_t tag = 1, state = 88172645463325252ull;
    while (time(NULL) < end) {
        if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
            die("batch");
        if (tag % 2)
            look_all(batch);
        for (unsigned i = 0; i < 150; i++) {
            uint64_t drawn = draw(&state);
            transfer(batch, (unsigned)(drawn % ACCOUNTS), (unsigned)(drawn >> 32) % ACCOUNTS,
                     (int64_t)(drawn >> 20 & 63));
        }
        rule_write(batch, ++tag);
        commit(&batch, tag);
        if (tag > KEPT && eng_drop_below(eng, 0, tag - KEPT) != ENG_OK)
            die("drop");
        if (tag % 3 == 0)
            transact(&state);
        if (tag % 25 == 0) {
            enum eng_status status = eng_checkpoint(eng, &tag, sizeof tag, false);
            if (status != ENG_OK && status != ENG_BUSY)
                die("checkpoint");
        }
    }
    return tag;
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
    struct eng_options options = {.path = dir,
                                  .create = true,
                                  .segment_bytes = 1u << 18,
                                  .threads = 2,
                                  .hot_bytes = 64u << 10,
                                  .hot_decay_ms = 64};
    if (eng_open(&options, &eng) != ENG_OK)
        die("open");
    struct eng_batch *batch;
    if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
        die("batch");
    for (unsigned i = 0; i < ACCOUNTS; i++)
        set_amount(batch, i, START_AMOUNT);
    commit(&batch, 1);
    if (eng_batch_open(eng, 1, NULL, &batch) != ENG_OK)
        die("batch of root 1");
    for (unsigned i = 0; i < FEW; i++)
        set_amount(batch, i, START_AMOUNT);
    commit(&batch, 1);
    pthread_t thread[READERS + 2];
    for (uintptr_t t = 0; t < READERS; t++)
        pthread_create(&thread[t], NULL, reader_main, (void *)(t * 1000 + t));
    pthread_create(&thread[READERS], NULL, transactor_main, NULL);
    pthread_create(&thread[READERS + 1], NULL, tidier_main, NULL);
    uint64_t tag = write_until(time(NULL) + seconds);
    atomic_store(&stop, true);
    for (int t = 0; t < READERS + 2; t++)
        pthread_join(thread[t], NULL);
    if (eng_checkpoint(eng, &tag, sizeof tag, true) != ENG_OK)
        die("last checkpoint");
    struct eng_summary before, after;
    struct eng_statistics statistics;
    eng_stats(eng, &statistics);
    if (statistics.moved_bytes == 0 || atomic_load(&reads) == 0 || atomic_load(&transactions) == 0)
        die("nothing was moved, read or committed by transactions");
    if (statistics.hot_promoted == 0 && !statistics.hot_refused)
        die("nothing became hot");
    if (eng_head(eng, 0, NULL, &before) != ENG_OK)
        die("head");
    eng_close(&eng);
    options.create = false;
    if (eng_open(&options, &eng) != ENG_OK || eng_head(eng, 0, NULL, &after) != ENG_OK)
        die("reopen");
    if (memcmp(&before, &after, sizeof before) != 0)
        die("another root after reopening");
    eng_close(&eng);
    printf("%llu commits, %llu transactions, %llu conflicts, %llu snapshots read whole, %llu KB moved, "
           "%llu checkpoints, %llu objects promoted, %llu demoted%s\n",
           (unsigned long long)tag, (unsigned long long)atomic_load(&transactions),
           (unsigned long long)atomic_load(&conflicts), (unsigned long long)atomic_load(&reads),
           (unsigned long long)(statistics.moved_bytes >> 10), (unsigned long long)statistics.checkpoints,
           (unsigned long long)statistics.hot_promoted, (unsigned long long)statistics.hot_demoted,
           statistics.hot_refused ? " (memory refused)" : "");
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0;
}
