/*
 * Sizes and times of proofs: 32-byte hashed keys, values of 40 bytes, every fourth an amount.
 *
 *   prog_proofs [--long]     20,000 keys; --long: 5 M. CSV: kind,keys,bytes,make_us,verify_us (medians of 501)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pando/engine.h"
#include "pando/proof.h"
#include "pando/verify.h"

#define TURNS 501
#define STEPS_MAX 256

static struct eng *eng;
static struct eng_snapshot *snapshot;
static uint64_t keys;

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

static void prove_key(uint64_t id, struct proof_blob *proof)
{
    static struct way way;
    uint8_t key[32];
    make_key(id, key);
    way.path.step_count = 0;
    must(eng_path(snapshot, key, 32, step, landing, &way) == ENG_OK, "path");
    struct proof_key asked = {.key = key, .key_bytes = 32, .path = way.path};
    must(proof_state_keys(&asked, 1, proof) == ENG_OK, "proof");
}

/* ---- all kinds ---- */

enum kind { PRESENCE, ABSENCE, RANGE_100, TOTALS_TENTH, KINDS };
static const char *const names[KINDS] = {"presence", "absence", "range of about 100", "count and sum of a tenth"};

static void prove(enum kind kind, uint64_t turn, struct proof_blob *proof)
{
    if (kind == PRESENCE || kind == ABSENCE) {
        prove_key(kind == PRESENCE ? mix(turn) % keys : keys + turn, proof);
        return;
    }
    uint8_t from[32], to[32];
    make_key(mix(turn) % keys, from);
    memcpy(to, from, 32);
    uint64_t at = 0, width = kind == RANGE_100 ? UINT64_MAX / keys * 100 : UINT64_MAX / 10;
    for (int i = 0; i < 8; i++)
        at = at << 8 | from[i];
    at = at > UINT64_MAX - width ? UINT64_MAX : at + width;
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(at >> (56 - 8 * i));
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
        if (kind <= ABSENCE)
            must(verify_next(&result, &key) && key.present == (kind == PRESENCE), "what the proof says");
        proof_blob_free(&proof);
    }
    uint64_t size = median(bytes), make_ns = median(made), verify_ns = median(verified);
    printf("%s,%llu,%llu,%.1f,%.1f\n", names[kind], (unsigned long long)keys, (unsigned long long)size,
           (double)make_ns / 1000, (double)verify_ns / 1000);
    if (kind == PRESENCE)
        must(size <= 2048, "a proof of presence is larger than 2 KiB");
}

int main(int argc, char **argv)
{
    keys = argc > 1 && strcmp(argv[1], "--long") == 0 ? 5000000 : 20000;
    char dir[] = "/tmp/prog_proofs.XXXXXX";
    must(mkdtemp(dir) != NULL, "directory");
    struct eng_options options = {.path = dir, .create = true};
    must(eng_open(&options, &eng) == ENG_OK, "open");
    load();
    must(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot) == ENG_OK, "snapshot");
    puts("kind,keys,bytes,make_us,verify_us");
    for (int kind = 0; kind < KINDS; kind++)
        measure((enum kind)kind);
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? 0 : 1;
}
