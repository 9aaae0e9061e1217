/* Lookups of a batch that a helper shares (lookup.c): every key is reported once, as the batch sees it, and a damaged
 * node is told, whoever came upon it. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine_internal.h"
#include "need.h"
#include "node.h"
#include "store_internal.h"

#define KEYS 20000u
#define BATCH 700u
#define ASKED 2500u /* more than one round of lookups */
#define FEW 320u    /* so few that there are leaves of which one key is asked for */
#define STEP 7919u
#define PATIENCE_S 150

static struct disk *disk;
static struct eng *eng;
static uint64_t tag, value_of[KEYS + BATCH]; /* 0: absent */

static void open_store(bool inline_only)
{
    struct eng_options options = {.create = true, .segment_bytes = 1u << 20, .threads = 2, .inline_only = inline_only};
    OK(disk_sim_open(0, &disk));
    options.disk = disk;
    tag = 0;
    memset(value_of, 0, sizeof value_of);
    OK(eng_open(&options, &eng));
}

static void close_store(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static uint64_t key_of(uint64_t i)
{
    return __builtin_bswap64((i + 1) * 0x9e3779b97f4a7c15ull);
}

static void put(struct eng_batch *batch, uint64_t i, uint64_t value)
{
    uint64_t key = key_of(i), bytes[5] = {value};
    if (value)
        OK(eng_batch_put(batch, (const uint8_t *)&key, 8,
                         (struct eng_value){.tag = ENG_BYTES, .bytes = (const void *)bytes, .size = 40}));
    else
        OK(eng_batch_remove(batch, (const uint8_t *)&key, 8));
    value_of[i] = value;
}

/* Updates of a stretch of keys, and a removal now and then. */
static void write_some(struct eng_batch *batch, uint64_t round)
{
    for (uint64_t i = 0; i < BATCH; i++)
        put(batch, (round * BATCH + i) % KEYS, (round + i) % 11 ? round * BATCH + i + 1 : 0);
}

struct asked {
    uint64_t key[ASKED], index[ASKED];
    uint8_t seen[ASKED];
};

static void found(void *context, size_t index, const struct eng_value *value)
{
    struct asked *asked = context;
    uint64_t expected = value_of[asked->index[index]], got = 0;
    NEED(asked->seen[index] == 0);
    asked->seen[index] = 1;
    if (value) {
        NEED(value->tag == ENG_BYTES && value->size == 40);
        memcpy(&got, value->bytes, 8);
    }
    ck_assert_uint_eq(got, expected);
}

static enum eng_status ask(struct eng_batch *batch, struct asked *asked, size_t count, uint64_t seed)
{
    const uint8_t *keys[ASKED];
    size_t key_bytes[ASKED];
    for (size_t i = 0; i < count; i++) {
        asked->index[i] = (seed + i * STEP) % (KEYS + BATCH);
        asked->key[i] = key_of(asked->index[i]);
        keys[i] = (const uint8_t *)&asked->key[i];
        key_bytes[i] = 8;
        asked->seen[i] = 0;
    }
    return eng_batch_get_many(batch, count, keys, key_bytes, found, asked);
}

static void ask_all(struct eng_batch *batch, size_t count, uint64_t seed)
{
    static struct asked asked;
    OK(ask(batch, &asked, count, seed));
    for (size_t i = 0; i < count; i++)
        NEED(asked.seen[i] == 1);
}

static void commit(struct eng_batch **batch)
{
    OK(eng_batch_freeze(*batch));
    OK(eng_commit(*batch, ++tag, NULL));
    eng_batch_close(batch);
    OK(eng_drop_below(eng, 0, tag));
}

/* On one core a helper begins only if it pushes the caller aside just then. */
static bool one_core(void)
{
    return sysconf(_SC_NPROCESSORS_ONLN) < 2;
}

static bool helped_enough(time_t since, uint64_t wanted)
{
    return helpers_begun(eng->helpers, HELP_LOOKUP) >= wanted || time(NULL) - since > PATIENCE_S || one_core();
}

/* Where others want the cores as well, it gives its own away and seldom begins. */
static void helped_at_all(void)
{
    if (!one_core())
        ck_assert_uint_gt(helpers_begun(eng->helpers, HELP_LOOKUP), 0);
}

static void fill(void)
{
    for (uint64_t round = 0; round < KEYS / BATCH + 1; round++) {
        struct eng_batch *batch = NULL;
        OK(eng_batch_open(eng, 0, NULL, &batch));
        write_some(batch, round);
        commit(&batch);
    }
}

/* What lies in the tree, in the batch itself and in its parent, and what is not there. */
START_TEST(all_are_found)
{
    open_store(false);
    fill();
    time_t since = time(NULL);
    for (uint64_t round = 0; round < 50 || !helped_enough(since, 30); round++) {
        struct eng_batch *row[3] = {NULL};
        for (unsigned b = 0; b < 3; b++) {
            OK(eng_batch_open(eng, 0, b ? row[b - 1] : NULL, &row[b]));
            ask_all(row[b], (size_t[]){ASKED, 1, LOOKUPS_MAX, 16, LOOKUPS_MAX + 1, 127, 128}[(round + b) % 7], round);
            write_some(row[b], round + 3 * b);
            ask_all(row[b], ASKED, round * BATCH + b);
            if (b < 2)
                OK(eng_batch_freeze(row[b]));
        }
        for (unsigned b = 0; b < 2; b++) { /* one soon after the other, so that the helper looks on */
            OK(eng_commit(row[b], ++tag, NULL));
            OK(eng_drop_below(eng, 0, tag));
        }
        ask_all(row[2], ASKED, round * BATCH + 9);
        eng_batch_close(&row[0]);
        eng_batch_close(&row[1]);
        commit(&row[2]);
    }
    helped_at_all();
    close_store();
}
END_TEST

static _Atomic bool stop;

static void *other_root(void *unused)
{
    for (uint64_t own = 1; !atomic_load(&stop); own++) {
        struct eng_batch *batch = NULL;
        OK(eng_batch_open(eng, 1, NULL, &batch));
        for (uint64_t i = 0; i < BATCH; i++) {
            uint64_t key = key_of(i);
            OK(eng_batch_put(batch, (const uint8_t *)&key, 8,
                             (struct eng_value){.tag = ENG_BYTES, .bytes = (const void *)&own, .size = 8}));
        }
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, own, NULL));
        eng_batch_close(&batch);
        OK(eng_drop_below(eng, 1, own));
    }
    return NULL;
}

/* A helper that looks up for one root is asked for merges of another. */
START_TEST(beside_another_root)
{
    open_store(false);
    fill();
    pthread_t thread;
    atomic_store(&stop, false);
    NEED(pthread_create(&thread, NULL, other_root, NULL) == 0);
    time_t since = time(NULL);
    for (uint64_t round = 0; round < 50 || !helped_enough(since, 30); round++) {
        struct eng_batch *batch = NULL;
        OK(eng_batch_open(eng, 0, NULL, &batch));
        ask_all(batch, ASKED, round);
        write_some(batch, round);
        commit(&batch);
    }
    helped_at_all();
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    close_store();
}
END_TEST

/* The leaf a key lies in. */
static _Atomic uint64_t *leaf_word(uint32_t id, uint64_t i)
{
    uint64_t key = key_of(i);
    for (;;) {
        const struct node *node = store_node(eng->store, id);
        NEED(node);
        if (node->object.type == OBJECT_LEAF)
            return &eng->store->view.control[id];
        const struct inner *inner = (const struct inner *)node;
        int branch = inner_branch(inner, ((const uint8_t *)&key)[inner_child_depth(inner)]);
        NEED(branch >= 0);
        id = inner_child(inner)[branch];
    }
}

/* What damage_is_told writes meanwhile: these rounds, so these keys. */
#define WRITTEN_ROUND 13u
#define WRITTEN_ROUNDS 5u
static bool is_written(uint64_t i)
{
    return i >= WRITTEN_ROUND * BATCH && i < (WRITTEN_ROUND + WRITTEN_ROUNDS) * BATCH;
}

/* A leaf that only one of the keys asked for lies in: one of the first or the last TREE_MANY, and not in the batch. */
static _Atomic uint64_t *lone_leaf(uint32_t root, bool last)
{
    for (uint64_t i = last ? FEW - TREE_MANY : 0;; i++) {
        _Atomic uint64_t *word = leaf_word(root, i * STEP % (KEYS + BATCH));
        bool lone = !is_written(i * STEP % (KEYS + BATCH));
        NEED(i < FEW);
        for (uint64_t j = 0; j < FEW && lone; j++)
            lone = j == i || leaf_word(root, j * STEP % (KEYS + BATCH)) != word;
        if (lone)
            return word;
    }
}

/* A leaf must be checked anew and has no checksum: among the last keys, which are the helper's, or the first. */
START_TEST(damage_is_told)
{
    static struct asked asked;
    open_store(true); /* so that no checkpoint gives the leaf its checksum meanwhile */
    fill();
    time_t since = time(NULL);
    for (uint64_t round = 0; round < 20 || !helped_enough(since, 10); round++) {
        struct eng_batch *row[3] = {NULL};
        for (unsigned b = 0; b < 3; b++) {
            OK(eng_batch_open(eng, 0, b ? row[b - 1] : NULL, &row[b]));
            if (b < 2) {
                write_some(row[b], WRITTEN_ROUND + (round + b) % WRITTEN_ROUNDS);
                OK(eng_batch_freeze(row[b]));
            }
        }
        ask_all(row[2], FEW, 0);
        _Atomic uint64_t *word = lone_leaf(row[2]->base->version.root, round % 2 == 0);
        uint64_t was = atomic_load(word);
        for (unsigned b = 0; b < 2; b++) /* so that the helper looks on */
            OK(eng_commit(row[b], ++tag, NULL));
        atomic_store(word, was & ~CONTROL_VERIFIED);
        enum eng_status status = ask(row[2], &asked, FEW, 0);
        NEED(status == ENG_DAMAGED && strstr(eng_error(), "checksum does not match"));
        atomic_store(word, was);
        ask_all(row[2], FEW, 0);
        for (unsigned b = 0; b < 3; b++)
            eng_batch_close(&row[b]);
        OK(eng_drop_below(eng, 0, tag));
    }
    helped_at_all();
    close_store();
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("lookup");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, all_are_found);
    tcase_add_test(tc, beside_another_root);
    tcase_add_test(tc, damage_is_told);
    Suite *suite = suite_create("lookup");
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
