/* What the tests of recovery, damage and durability share: a small store with everything in it, on the simulated disk,
 * and the digests its versions must have. */
#ifndef TESTS_RECOVERY_FIXTURE_H
#define TESTS_RECOVERY_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"
#include "store_internal.h"

#ifndef FIXTURE_ROOTS
#define FIXTURE_ROOTS 2u
#endif
#define FIXTURE_TAGS 16u

static inline void fixture_need(bool good, const char *what, int line)
{
    if (good)
        return;
    fprintf(stderr, "line %d: %s: %s\n", line, what, eng_error());
    abort();
}
#define NEED(condition) fixture_need((condition), #condition, __LINE__)
#define NEED_OK(call) fixture_need((call) == ENG_OK, #call, __LINE__)

/* The versions that are kept, by root and tag. */
struct fixture {
    bool kept[FIXTURE_ROOTS][FIXTURE_TAGS];
    struct eng_summary summary[FIXTURE_ROOTS][FIXTURE_TAGS];
};

static inline struct eng_options fixture_options(struct disk *disk, enum eng_durability durability)
{
    return (struct eng_options){.disk = disk,
                                .create = true,
                                .leaf_bytes = 256,
                                .inline_bytes = 64,
                                .segment_bytes = 16u << 10,
                                .threads = 1,
                                .inline_only = true,
                                .durability = durability};
}

/* One version's writes: some keys change, some go, a few values lie outside the leaves. */
static inline void fixture_fill(struct eng_batch *batch, uint32_t root, uint64_t tag, unsigned keys)
{
    uint8_t value[700];
    for (unsigned i = 0; i < keys; i++) {
        char key[32];
        unsigned n = (unsigned)((i * 7919u + tag * 104729u + root) % 97);
        size_t bytes = (size_t)snprintf(key, sizeof key, "%c/%u", "abc"[n % 3], n);
        size_t size = n % 11 == 0 ? 600 : n % 50;
        memset(value, (int)(tag * 16 + n), sizeof value);
        if ((i + tag) % 5 == 4)
            NEED_OK(eng_batch_remove(batch, (uint8_t *)key, bytes));
        else
            NEED_OK(eng_batch_put(batch, (uint8_t *)key, bytes, (struct eng_value){ENG_BYTES, value, size}));
    }
}

static inline void fixture_publish(struct eng_batch **batch, uint64_t tag)
{
    NEED_OK(eng_batch_freeze(*batch));
    NEED_OK(eng_commit(*batch, tag, NULL));
    eng_batch_close(batch);
}

static inline void fixture_commit(struct eng *eng, uint32_t root, uint64_t tag, unsigned keys)
{
    struct eng_batch *batch;
    NEED_OK(eng_batch_open(eng, root, NULL, &batch));
    fixture_fill(batch, root, tag, keys);
    fixture_publish(&batch, tag);
}

/* Notes which versions there are and what their digests are. */
static inline void fixture_note(struct eng *eng, struct fixture *fixture)
{
    memset(fixture, 0, sizeof *fixture);
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++) {
        for (uint64_t tag = 0; tag < FIXTURE_TAGS; tag++) {
            struct eng_snapshot *snapshot;
            if (eng_snapshot_open(eng, root, tag, &snapshot) != ENG_OK)
                continue;
            fixture->kept[root][tag] = true;
            fixture->summary[root][tag] = *eng_snapshot_summary(snapshot);
            eng_snapshot_close(&snapshot);
        }
    }
}

static inline unsigned fixture_count(const struct fixture *fixture)
{
    unsigned count = 0;
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
        for (uint64_t tag = 0; tag < FIXTURE_TAGS; tag++)
            count += fixture->kept[root][tag];
    return count;
}

/* Versions 1..8 of two roots, of which 3 and 5 are dropped: several kept ones, death lists, outside values. */
static inline struct eng *fixture_open_new(struct disk *disk, enum eng_durability durability)
{
    struct eng_options options = fixture_options(disk, durability);
    struct eng *eng;
    NEED_OK(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 8; tag++)
        for (uint32_t root = 0; root < FIXTURE_ROOTS; root++)
            fixture_commit(eng, root, tag, tag == 1 ? 60 : 7);
    for (uint32_t root = 0; root < FIXTURE_ROOTS; root++) {
        NEED_OK(eng_drop(eng, root, 3));
        NEED_OK(eng_drop(eng, root, 5));
    }
    return eng;
}

/* Every id that is live belongs to somebody, and the other way round. */
static inline bool fixture_audit(struct eng *eng)
{
    uint64_t leaked, missing;
    NEED_OK(eng_settle(eng));
    NEED_OK(store_audit(eng->store, &leaked, &missing));
    if (leaked || missing)
        fprintf(stderr, "audit: %llu leaked, %llu missing\n", (unsigned long long)leaked, (unsigned long long)missing);
    return !leaked && !missing;
}

/* Another disk with the same files, closed: a crash that loses nothing that was written. */
static inline struct disk *copy_of(struct disk *source)
{
    struct disk *copy;
    NEED_OK(disk_sim_crash(source, 1, &copy));
    return copy;
}

static inline void fixture_line(void *context, const char *line)
{
    (void)context;
    fprintf(stderr, "%s\n", line);
}

/* Reads all entries of a snapshot; false: damage was met. */
static inline bool fixture_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    uint64_t *sum = context;
    for (size_t i = 0; i < key_bytes; i++)
        *sum = *sum * 31 + key[i];
    for (size_t i = 0; i < value->size; i++)
        *sum = *sum * 31 + value->bytes[i];
    *sum = *sum * 31 + (uint64_t)value->tag;
    return true;
}

#endif
