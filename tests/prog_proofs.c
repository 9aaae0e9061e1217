/*
 * Sizes and times of proofs: 32-byte hashed keys, values of 40 bytes, every fourth an amount.
 *
 *   prog_proofs [--long]     20,000 keys; --long: 5 M. CSV: kind,keys,bytes,make_us,verify_us (medians of 501)
 *
 * A proof of presence may have 2 KiB, and with --long be verified in 20 us at most.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pando/engine.h"
#include "pando/proof.h"
#include "pando/verify.h"

#define TURNS 501
#define MANY 16
#define CHANGES 100
#define STEPS_MAX 256

static struct eng *eng;
static struct eng_snapshot *snapshot, *older; /* CHANGES keys lie between them */
static uint64_t keys;
static bool is_long;

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "FAILED: %s: %s\n", what, eng_error());
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static void make_key(uint64_t id, uint8_t key[32])
{
    for (int i = 0; i < 4; i++) {
        uint64_t word = mix(id * 4 + (uint64_t)i + 1);
        memcpy(key + 8 * i, &word, 8);
    }
}

static void load(void)
{
    uint64_t tag = 0;
    for (uint64_t id = 0; id < keys;) {
        struct eng_batch *batch;
        must(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
        for (int i = 0; i < 10000 && id < keys; i++, id++) {
            uint8_t key[32], value[40] = {(uint8_t)id};
            make_key(id, key);
            struct eng_value put = {id % 4 ? ENG_BYTES : ENG_AMOUNT, value, id % 4 ? 40 : 16};
            must(eng_batch_put(batch, key, 32, put) == ENG_OK, "put");
        }
        must(eng_batch_freeze(batch) == ENG_OK && eng_commit(batch, ++tag, NULL) == ENG_OK, "commit");
        eng_batch_close(&batch);
        must(eng_drop_below(eng, 0, tag) == ENG_OK, "drop");
    }
}

/* Another version, in which some amounts are others. */
static void change(void)
{
    uint64_t tag;
    struct eng_batch *batch;
    must(eng_head(eng, 0, &tag, NULL) == ENG_OK, "head");
    must(eng_batch_open(eng, 0, NULL, &batch) == ENG_OK, "batch");
    for (uint64_t i = 0; i < CHANGES; i++) {
        uint8_t key[32], value[16] = {1, (uint8_t)i};
        make_key(i * (keys / CHANGES), key);
        must(eng_batch_put(batch, key, 32, (struct eng_value){ENG_AMOUNT, value, 16}) == ENG_OK, "put");
    }
    must(eng_batch_freeze(batch) == ENG_OK && eng_commit(batch, tag + 1, NULL) == ENG_OK, "commit");
    eng_batch_close(&batch);
}

/* ---- one key ---- */

struct way {
    struct proof_step steps[STEPS_MAX];
    struct proof_path path;
    uint8_t key[32], value[64];
};

static void step(void *context, uint32_t bit, const struct eng_summary *sibling)
{
    struct way *way = context;
    must(way->path.step_count < STEPS_MAX, "a way of more steps than hashed keys have");
    way->steps[way->path.step_count++] = (struct proof_step){bit, *sibling};
}

static void landing(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                    const uint8_t *digest)
{
    struct way *way = context;
    memcpy(way->key, key, key_bytes);
    memcpy(way->value, value->bytes, value->size);
    way->path.key = way->key;
    way->path.key_bytes = key_bytes;
    way->path.tag = value->tag;
    way->path.value = way->value;
    way->path.value_bytes = value->size;
    way->path.steps = way->steps;
}

/* Each with its own path. */
static void prove_keys(uint64_t id, size_t count, struct proof_blob *proof)
{
    static struct way ways[MANY];
    static uint8_t bytes[MANY][32];
    struct proof_key asked[MANY];
    for (size_t i = 0; i < count; i++) {
        make_key(i ? mix(id + i) % keys : id, bytes[i]);
        ways[i].path.step_count = 0;
        must(eng_path(snapshot, bytes[i], 32, step, landing, &ways[i]) == ENG_OK, "path");
        asked[i] = (struct proof_key){.key = bytes[i], .key_bytes = 32, .path = ways[i].path};
    }
    must(proof_state_keys(asked, count, proof) == ENG_OK, "proof");
}

/* The same keys, sharing nodes. */
static void prove_many(uint64_t id, struct proof_blob *proof)
{
    uint8_t bytes[MANY][32];
    const uint8_t *asked[MANY];
    size_t key_bytes[MANY];
    for (size_t i = 0; i < MANY; i++) {
        make_key(i ? mix(id + i) % keys : id, bytes[i]);
        asked[i] = bytes[i];
        key_bytes[i] = 32;
    }
    must(eng_prove_many(snapshot, asked, key_bytes, MANY, proof) == ENG_OK, "proof");
}

/* ---- all kinds ---- */

enum kind {
    PRESENCE,
    ABSENCE,
    SINGLE_16,
    MANY_16,
    RANGE_100,
    TOTALS_TENTH,
    DIFF_ALL,
    UNCHANGED_KEY,
    UNCHANGED_100,
    KINDS
};
static const char *const names[KINDS] = {"presence",
                                         "absence",
                                         "16 keys each by itself",
                                         "16 keys sharing nodes",
                                         "range of about 100",
                                         "count and sum of a tenth",
                                         "difference of 100 changed keys",
                                         "unchanged key since",
                                         "range of about 100 since"};

static void prove(enum kind kind, uint64_t turn, struct proof_blob *proof)
{
    if (kind <= SINGLE_16) {
        prove_keys(kind == ABSENCE ? keys + turn : mix(turn) % keys, kind == SINGLE_16 ? MANY : 1, proof);
        return;
    }
    if (kind == MANY_16) {
        prove_many(mix(turn) % keys, proof);
        return;
    }
    if (kind == DIFF_ALL) {
        must(eng_prove_diff(older, snapshot, NULL, 0, NULL, 0, 0, proof) == ENG_OK, "proof");
        return;
    }
    uint8_t from[32], to[33];
    make_key(mix(turn) % keys, from);
    if (kind == UNCHANGED_KEY) {
        memcpy(to, from, 32);
        to[32] = 0;
        must(eng_prove_diff(older, snapshot, from, 32, to, 33, 0, proof) == ENG_OK, "proof");
        return;
    }
    memcpy(to, from, 32);
    uint64_t at = 0, width = kind != TOTALS_TENTH ? UINT64_MAX / keys * 100 : UINT64_MAX / 10;
    for (int i = 0; i < 8; i++)
        at = at << 8 | from[i];
    at = at > UINT64_MAX - width ? UINT64_MAX : at + width;
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(at >> (56 - 8 * i));
    if (kind == UNCHANGED_100)
        must(eng_prove_diff(older, snapshot, from, 32, to, 32, 0, proof) == ENG_OK, "proof");
    else
        must(proof_state_range(snapshot, from, 32, to, 32, kind == RANGE_100, proof) == ENG_OK, "proof");
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(uint64_t *values)
{
    qsort(values, TURNS, sizeof *values, by_value);
    return values[TURNS / 2];
}

static void measure(enum kind kind)
{
    static uint64_t bytes[TURNS], made[TURNS], verified[TURNS];
    struct verify_options options = {.root = eng_snapshot_summary(snapshot)->digest};
    for (uint64_t turn = 0; turn < TURNS; turn++) {
        struct proof_blob proof;
        struct verify_result result;
        uint64_t start = now_ns();
        prove(kind, turn, &proof);
        uint64_t middle = now_ns();
        must(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, result.reason);
        verified[turn] = now_ns() - middle;
        made[turn] = middle - start;
        bytes[turn] = proof.size;
        struct verify_key key;
        if (kind == DIFF_ALL)
            must(result.count == CHANGES, "what differs");
        if (kind <= ABSENCE)
            must(verify_next(&result, &key) && key.present == (kind == PRESENCE), "what the proof says");
        proof_blob_free(&proof);
    }
    uint64_t size = median(bytes), make_ns = median(made), verify_ns = median(verified);
    printf("%s,%llu,%llu,%.1f,%.1f\n", names[kind], (unsigned long long)keys, (unsigned long long)size,
           (double)make_ns / 1000, (double)verify_ns / 1000);
    if (kind == PRESENCE)
        must(size <= 2048, "a proof of presence is larger than 2 KiB");
    if (kind == PRESENCE && is_long)
        must(verify_ns <= 20000, "verifying a proof of presence took longer than 20 us");
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    keys = is_long ? 5000000 : 20000;
    char dir[] = "/tmp/prog_proofs.XXXXXX";
    must(mkdtemp(dir) != NULL, "directory");
    struct eng_options options = {.path = dir, .create = true};
    must(eng_open(&options, &eng) == ENG_OK, "open");
    load();
    must(eng_snapshot_open(eng, 0, ENG_HEAD, &older) == ENG_OK, "snapshot");
    change();
    must(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot) == ENG_OK, "snapshot");
    puts("kind,keys,bytes,make_us,verify_us");
    for (int kind = 0; kind < KINDS; kind++)
        measure((enum kind)kind);
    eng_snapshot_close(&older);
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? 0 : 1;
}
