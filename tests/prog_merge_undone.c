/*
 * Merges that fail in the middle: each allocation of a commit refused in turn, with one thread and with three. The
 * failed commit must leave no trace, and the next one, of the same batch or of another, the canonical tree
 * (tree_check): digests kept in memory from the undone merge must be forgotten. store_alloc is wrapped by the linker.
 *
 *   prog_merge_undone [--long]
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "engine_internal.h"
#include "tree.h"

struct object *__real_store_alloc(struct arena *arena, enum object_type type, size_t bytes, uint32_t *id);
struct object *__wrap_store_alloc(struct arena *arena, enum object_type type, size_t bytes, uint32_t *id);

static _Atomic long fail_at = -1;
static uint64_t state;

struct object *__wrap_store_alloc(struct arena *arena, enum object_type type, size_t bytes, uint32_t *id)
{
    if (atomic_load(&fail_at) >= 0 && atomic_fetch_sub(&fail_at, 1) == 0) {
        arena->status = eng_fail(ENG_FULL, "refused by the test");
        return NULL;
    }
    return __real_store_alloc(arena, type, bytes, id);
}

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "FAILED: %s: %s\n", what, eng_error());
    exit(1);
}

static void report(void *context, const char *line)
{
    (void)context;
    fprintf(stderr, "%s\n", line);
}

static struct eng_batch *changes(struct eng *eng, unsigned count)
{
    struct eng_batch *batch;
    uint8_t value[64] = {0};
    need(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
    for (unsigned i = 0; i < count; i++) {
        char key[32];
        size_t bytes = (size_t)snprintf(key, sizeof key, "%u/k%06u", (unsigned)(rnd() % 5), (unsigned)(rnd() % 500));
        size_t size = rnd() % sizeof value;
        need((rnd() % 3 ? eng_batch_put(batch, (uint8_t *)key, bytes, (struct eng_value){ENG_BYTES, value, size})
                        : eng_batch_remove(batch, (uint8_t *)key, bytes)) == ENG_OK,
             "change");
    }
    struct eng_batch *tree, *copy;
    need(eng_batch_tree(batch, (const uint8_t *)"tree", 4, true, &tree) == ENG_OK, "tree");
    for (unsigned i = 0; i < count / 4; i++) {
        uint8_t key[2] = {(uint8_t)rnd(), (uint8_t)(rnd() % 4)};
        need(eng_batch_put(tree, key, 2, (struct eng_value){ENG_BYTES, value, rnd() % sizeof value}) == ENG_OK,
             "change");
    }
    need(eng_batch_tree_clone(tree, &copy) == ENG_OK, "clone");
    need(eng_batch_tree_put(batch, (const uint8_t *)(rnd() % 2 ? "copy" : "kopy"), 4, copy) == ENG_OK, "put");
    need(eng_batch_put(copy, (const uint8_t *)"x", 1, (struct eng_value){ENG_BYTES, value, 1}) == ENG_OK, "change");
    need(eng_batch_freeze(batch) == ENG_OK, "freeze");
    return batch;
}

static void committed(struct eng *eng, unsigned count, uint64_t tag)
{
    struct eng_batch *batch = changes(eng, count);
    need(eng_commit(batch, tag, NULL) == ENG_OK, "commit");
    eng_batch_close(&batch);
}

/* Allocation number n of the third commit fails; false if it has fewer. */
static bool trial(long n, uint32_t threads, bool same)
{
    struct disk *disk;
    struct eng *eng;
    need(disk_sim_open(0, &disk) == ENG_OK, "disk");
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .leaf_bytes = 256,
                                  .segment_bytes = 64u << 10,
                                  .inline_only = true,
                                  .threads = threads};
    need(eng_open(&options, &eng) == ENG_OK, "open");
    committed(eng, 3000, 1);
    committed(eng, 300, 2);
    struct eng_summary before, after;
    need(eng_head(eng, 0, NULL, &before) == ENG_OK, "head");
    struct eng_batch *batch = changes(eng, threads > 1 ? 150 : 20);
    atomic_store(&fail_at, n);
    enum eng_status status = eng_commit(batch, 3, NULL);
    atomic_store(&fail_at, -1);
    if (status != ENG_OK) {
        need(status == ENG_FULL, "the failure of an allocation comes back as another");
        need(eng_head(eng, 0, NULL, &after) == ENG_OK && memcmp(&before, &after, sizeof after) == 0,
             "a failed commit changed the root");
        if (same) {
            need(eng_commit(batch, 3, NULL) == ENG_OK, "the same batch again");
        } else {
            committed(eng, 20, 3);
        }
        struct store_version head;
        store_head(eng->store, 0, &head);
        struct reader *reader = eng_enter(eng);
        need(tree_check(eng->store, head.root, eng->leaf_bytes, eng->inline_bytes, report, NULL) == ENG_OK,
             "the tree after a failed commit");
        reader_leave(reader);
        uint64_t leaked, missing;
        need(eng_settle(eng) == ENG_OK && store_reap(eng->store, UINT64_MAX, NULL) == ENG_OK &&
                 store_audit(eng->store, &leaked, &missing) == ENG_OK,
             "audit");
        need(leaked == 0 && missing == 0, "objects or holds without an owner after a failed commit");
    }
    eng_batch_close(&batch);
    eng_close(&eng);
    disk_close(&disk);
    return status != ENG_OK;
}

int main(int argc, char **argv)
{
    bool thorough = argc > 1 && !strcmp(argv[1], "--long");
    unsigned failures = 0;
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        for (int same = 0; same < 2; same++) {
            for (unsigned seed = 1; seed <= (thorough ? 40u : 4u); seed++) {
                bool failed = true;
                for (long n = 0; failed; n += threads > 1 ? 3 : 1) {
                    state = seed * 0x9E3779B97F4A7C15ull;
                    failed = trial(n, threads, same);
                    failures += failed;
                }
            }
        }
    }
    printf("%u commits failed in the middle, every next tree canonical\n", failures);
    return failures == 0;
}
