/*
 * Clones of a large subtree: what one costs, that they are independent, and that the space comes back.
 *
 *   prog_clones [--long]
 *
 * A subtree of 1,000,000 keys (20,000 by default) is cloned: the time of a clone within a batch, median and worst of
 * 1,001. Then 10,000 (500) clones are put beside it, each is changed on its own (8 keys: new, changed and removed), in
 * batches of 100, while the origin changes too; every clone's root is compared with one computed from a tree that was
 * built alone, every 997th entry by entry. In the end all clones are removed and the origin is written once more: the
 * bytes that live are again what the origin alone took, and store_audit finds no id and no hold without an owner.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

#include "engine_internal.h"

#define CHANGES 8
#define PER_BATCH 100
#define WHOLE_EVERY 997 /* clones, until one is compared entry by entry */
#define VALUE_BYTES 40

static uint32_t keys, clones;
static struct eng *eng;
static uint64_t tag;

static void must(enum eng_status status, const char *what)
{
    if (status == ENG_OK)
        return;
    fprintf(stderr, "prog_clones: %s: %s\n", what, eng_error());
    exit(1);
}

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "prog_clones: %s\n", what);
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void key_make(uint64_t n, uint8_t key[32])
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t h = XXH3_64bits_withSeed(&n, sizeof n, i);
        memcpy(key + 8 * i, &h, 8);
    }
}

static void put(struct eng_batch *batch, uint64_t n, uint64_t salt)
{
    uint8_t key[32], value[VALUE_BYTES];
    key_make(n, key);
    memset(value, (int)(n + salt), sizeof value);
    memcpy(value, &n, 8);
    memcpy(value + 8, &salt, 8);
    must(eng_batch_put(batch, key, sizeof key, (struct eng_value){ENG_BYTES, value, sizeof value}), "put");
}

static void take_out(struct eng_batch *batch, uint64_t n)
{
    uint8_t key[32];
    key_make(n, key);
    must(eng_batch_remove(batch, key, sizeof key), "remove");
}

/* What makes clone c differ from the origin as it was: some keys changed, one removed, one new. */
static void change(struct eng_batch *tree, uint64_t c)
{
    for (uint64_t i = 0; i < CHANGES - 2; i++)
        put(tree, (c * 7919 + i * 104729) % keys, c + 1);
    take_out(tree, (c * 31337 + 5) % keys);
    put(tree, keys + c, c + 1);
}

static struct eng_batch *begin(uint32_t root)
{
    struct eng_batch *batch;
    must(eng_batch_open(eng, root, NULL, &batch), "batch");
    return batch;
}

static void commit(struct eng_batch **batch, struct eng_summary *summary)
{
    must(eng_batch_freeze(*batch), "freeze");
    must(eng_commit(*batch, ++tag, summary), "commit");
    uint32_t root = (*batch)->root_index;
    eng_batch_close(batch);
    must(eng_drop_below(eng, root, tag), "drop");
}

static struct eng_batch *tree_at(struct eng_batch *batch, const char *key, bool create)
{
    struct eng_batch *tree;
    must(eng_batch_tree(batch, (const uint8_t *)key, strlen(key), create, &tree), key);
    return tree;
}

static const char *name_of(uint32_t c)
{
    static char name[24];
    snprintf(name, sizeof name, "clone%08u", c);
    return name;
}

static uint64_t live_bytes(void)
{
    struct eng_statistics statistics;
    must(eng_settle(eng), "settle");
    must(store_reap(eng->store, UINT64_MAX, NULL), "reap");
    eng_stats(eng, &statistics);
    return statistics.live_bytes;
}

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* In batches, so that the origin is a committed tree: root 0 has it as "origin", root 1 has the same contents by
 * itself. */
static void fill(void)
{
    for (uint32_t n = 0; n < keys; n += 10000) {
        struct eng_batch *batch = begin(0), *alone = begin(1), *tree = tree_at(batch, "origin", true);
        for (uint32_t i = n; i < n + 10000 && i < keys; i++) {
            put(tree, i, 0);
            put(alone, i, 0);
        }
        commit(&batch, NULL);
        commit(&alone, NULL);
    }
}

static void measure(void)
{
    enum { TIMES = 1001 };
    static double took[TIMES];
    struct eng_batch *batch = begin(0), *tree = tree_at(batch, "origin", false), *clone;
    for (int i = 0; i < TIMES; i++) {
        double start = now_us();
        must(eng_batch_tree_clone(tree, &clone), "clone");
        must(eng_batch_tree_put(batch, (const uint8_t *)"c", 1, clone), "put");
        took[i] = now_us() - start;
    }
    eng_batch_close(&batch);
    qsort(took, TIMES, sizeof took[0], by_time);
    printf("clone of %u keys and putting it: median %.2f us, p99 %.2f us, worst %.1f us\n", keys, took[TIMES / 2],
           took[TIMES * 99 / 100], took[TIMES - 1]);
    need(took[TIMES / 2] < 20, "a clone took more than 20 us");
    double start = now_us();
    batch = begin(0);
    tree = tree_at(batch, "origin", false);
    must(eng_batch_tree_clone(tree, &clone), "clone");
    must(eng_batch_tree_put(batch, (const uint8_t *)"c", 1, clone), "put");
    commit(&batch, NULL);
    printf("a batch with one clone, opened to committed: %.1f us\n", now_us() - start);
    batch = begin(0);
    must(eng_batch_remove(batch, (const uint8_t *)"c", 1), "remove");
    commit(&batch, NULL);
}

static void make_clones(void)
{
    double start = now_us();
    struct eng_batch *batch = begin(0), *tree = tree_at(batch, "origin", false), *clone;
    for (uint32_t c = 0; c < clones; c++) {
        const char *name = name_of(c);
        must(eng_batch_tree_clone(tree, &clone), "clone");
        must(eng_batch_tree_put(batch, (const uint8_t *)name, strlen(name), clone), "put");
    }
    commit(&batch, NULL);
    printf("%u clones in one batch, committed: %.1f ms\n", clones, (now_us() - start) / 1e3);
    start = now_us();
    for (uint32_t c = 0; c < clones; c += PER_BATCH) {
        batch = begin(0);
        for (uint32_t i = c; i < c + PER_BATCH && i < clones; i++)
            change(tree_at(batch, name_of(i), false), i);
        put(tree_at(batch, "origin", false), c, 77); /* the origin goes its own way */
        commit(&batch, NULL);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%u of %u clones changed", c + PER_BATCH, clones);
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\n");
    printf("%u changes in each: %.1f us a clone\n", CHANGES, (now_us() - start) / clones);
}

struct entries {
    struct eng_cursor *cursor; /* over what it must be */
    uint64_t count;
};

static bool same_entry(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct entries *e = context;
    struct eng_value want;
    size_t want_bytes;
    must(e->count++ ? eng_cursor_next(e->cursor) : eng_cursor_seek(e->cursor, NULL, 0), "an entry too many in a clone");
    must(eng_cursor_value(e->cursor, &want), "value");
    const uint8_t *want_key = eng_cursor_key(e->cursor, &want_bytes);
    need(key_bytes == want_bytes && memcmp(key, want_key, key_bytes) == 0 && value->tag == want.tag &&
             value->size == want.size && memcmp(value->bytes, want.bytes, want.size) == 0,
         "a clone has another entry");
    return true;
}

static void compare_entries(struct eng_snapshot *tree, struct eng_batch *fork)
{
    struct entries e = {0};
    must(eng_cursor_open_batch(fork, &e.cursor), "cursor");
    must(eng_scan(tree, NULL, 0, NULL, 0, same_entry, &e), "scan");
    need(eng_cursor_next(e.cursor) == ENG_NOT_FOUND, "an entry too few in a clone");
    need(e.count == eng_snapshot_summary(tree)->count, "entries of a clone");
    eng_cursor_close(&e.cursor);
}

/* The same changes to the tree that stands alone, undone again: the roots must be equal. */
static void compare(void)
{
    struct eng_snapshot *head, *alone;
    must(eng_snapshot_open(eng, 0, ENG_HEAD, &head), "snapshot");
    must(eng_snapshot_open(eng, 1, ENG_HEAD, &alone), "snapshot");
    for (uint32_t c = 0; c < clones; c++) {
        struct eng_snapshot *tree;
        struct eng_summary want;
        const char *name = name_of(c);
        must(eng_snapshot_tree(head, (const uint8_t *)name, strlen(name), &tree), name);
        struct eng_batch *fork;
        must(eng_fork(alone, &fork), "fork");
        change(fork, c);
        if (c % WHOLE_EVERY == 0)
            compare_entries(tree, fork);
        must(eng_batch_freeze(fork), "freeze");
        must(eng_dry_commit(fork, &want), "dry commit");
        eng_batch_close(&fork);
        need(memcmp(&want, eng_snapshot_summary(tree), sizeof want) == 0, "a clone is not what its changes make it");
        eng_snapshot_close(&tree);
    }
    eng_snapshot_close(&head);
    eng_snapshot_close(&alone);
}

int main(int argc, char **argv)
{
    bool all = argc > 1 && strcmp(argv[1], "--long") == 0;
    keys = all ? 1000000 : 20000;
    clones = all ? 10000 : 500;
    char dir[] = "/tmp/pando-clones-XXXXXX", command[64];
    need(mkdtemp(dir) != NULL, "no directory");
    struct eng_options options = {.path = dir, .create = true};
    must(eng_open(&options, &eng), "open");
    fill();
    uint64_t before = live_bytes(), leaked, missing;
    measure();
    make_clones();
    uint64_t with = live_bytes();
    compare();
    struct eng_batch *batch = begin(0);
    must(eng_batch_remove_range(batch, (const uint8_t *)"clone", 5, (const uint8_t *)"clonf", 5), "remove");
    double start = now_us();
    commit(&batch, NULL);
    printf("removing all clones, committed: %.1f ms\n", (now_us() - start) / 1e3);
    (void)live_bytes(); /* all is freed that can be */
    batch = begin(0);
    put(tree_at(batch, "origin", false), 1, 78);
    start = now_us();
    commit(&batch, NULL);
    printf("the origin alone again: %.1f ms\n", (now_us() - start) / 1e3);
    uint64_t after = live_bytes();
    must(store_audit(eng->store, &leaked, &missing), "audit");
    printf("live bytes: %.1f MB, with %u clones %.1f MB (%.0f a clone), without them again %.1f MB\n",
           (double)before / 1e6, clones, (double)with / 1e6, (double)(with - before) / clones, (double)after / 1e6);
    need(leaked == 0 && missing == 0, "objects or holds without an owner");
    need(after < before + before / 20 + (1u << 20), "the space did not come back");
    eng_close(&eng);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0;
}
