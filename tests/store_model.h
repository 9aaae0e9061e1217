/*
 * A reference model of the object store, shared by test_store.c and the prog_store_*.c programs.
 *
 * A version is a small array of slots, each empty or an object of random size whose content follows from a seed. The
 * model performs random work on a store (generations with allocations, kills, own kills, commits and aborts; drops;
 * pins) and remembers what every kept version must see. model_verify then checks that the store keeps the same
 * versions, that every object of each has its content, and that nothing else is live: the ids in the control table are
 * exactly those of some kept version, plus the chunks of the death lists.
 *
 * A model is one flat struct, so that a copy of it is what a checkpoint must bring back.
 */
#ifndef TESTS_STORE_MODEL_H
#define TESTS_STORE_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_internal.h"

#define MODEL_SLOTS 24u
#define MODEL_VERSIONS 48u
#define MODEL_LINEAGES 2u

#define MODEL_CHECK(condition, ...)                                                                                    \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, " [%s]\n", eng_error());                                                                   \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)
#define MODEL_OK(call)                                                                                                 \
    do {                                                                                                               \
        enum eng_status model_status = (call);                                                                         \
        MODEL_CHECK(model_status == ENG_OK, "status %s", eng_status_text(model_status));                               \
    } while (0)

struct model_random {
    uint64_t state;
};
static inline uint64_t model_next(struct model_random *random) /* splitmix64 */
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static inline uint32_t model_below(struct model_random *random, uint32_t n)
{
    return (uint32_t)(model_next(random) % n);
}

struct model_object {
    uint32_t id, bytes; /* id 0: empty slot */
    uint64_t born, seed;
};
struct model_version {
    uint64_t tag, generation;
    uint32_t pins;
    bool dropped;
    struct model_object objects[MODEL_SLOTS];
};
struct model_lineage {
    uint32_t count; /* oldest first */
    uint64_t tag;   /* of the newest ever */
    struct model_version versions[MODEL_VERSIONS];
};
struct model {
    struct model_lineage lineages[MODEL_LINEAGES];
    uint32_t bytes_max; /* of an object */
    uint32_t keep;      /* newest versions kept */
    uint32_t every;     /* tags that are multiples are kept longer, 0: none */
    uint64_t number;    /* app_state of the next checkpoint */
};

static inline void model_fill(struct object *object, uint32_t bytes, uint64_t seed)
{
    struct model_random random = {seed};
    uint8_t *at = (uint8_t *)object + sizeof *object, *end = (uint8_t *)object + bytes;
    for (; at + 8 <= end; at += 8) {
        uint64_t word = model_next(&random);
        memcpy(at, &word, 8);
    }
    for (; at < end; at++)
        *at = (uint8_t)seed;
}

static inline bool model_same(const struct object *object, uint32_t bytes, uint64_t seed)
{
    struct model_random random = {seed};
    const uint8_t *at = (const uint8_t *)object + sizeof *object, *end = (const uint8_t *)object + bytes;
    for (; at + 8 <= end; at += 8) {
        uint64_t word = model_next(&random);
        if (memcmp(at, &word, 8) != 0)
            return false;
    }
    for (; at < end; at++)
        if (*at != (uint8_t)seed)
            return false;
    for (; ((uintptr_t)at & 63) != 0; at++) /* the rest of the last line is zero */
        if (*at != 0)
            return false;
    return true;
}

/* Versions without pins that were dropped are gone after the next drop or commit. */
static inline void model_release(struct model *model)
{
    for (uint32_t l = 0; l < MODEL_LINEAGES; l++) {
        struct model_lineage *line = &model->lineages[l];
        uint32_t kept = 0;
        for (uint32_t i = 0; i < line->count; i++)
            if (!line->versions[i].dropped || line->versions[i].pins) {
                if (kept != i)
                    line->versions[kept] = line->versions[i];
                kept++;
            }
        line->count = kept;
    }
}

static inline bool model_replace(struct store *store, struct model *model, struct model_random *random,
                                 struct model_object *object, uint64_t generation)
{
    struct arena *arena = store_arena(store, model_below(random, store->arenas_count));
    struct model_object made = {0};
    if (model_below(random, 4) != 0) {
        made.bytes = (uint32_t)sizeof(struct object) + model_below(random, model->bytes_max - sizeof(struct object));
        made.seed = model_next(random);
        made.born = generation;
        struct object *bytes = store_alloc(arena, OBJECT_LEAF + model_below(random, 3), made.bytes, &made.id);
        if (!bytes) {
            MODEL_CHECK(arena_status(arena) == ENG_FULL, "store_alloc");
            return false;
        }
        MODEL_CHECK(bytes->id == made.id && bytes->generation == generation && bytes->checksum == 0, "header");
        model_fill(bytes, made.bytes, made.seed);
    }
    if (object->id)
        store_kill(store_arena(store, model_below(random, store->arenas_count)), object->id, object->born);
    *object = made;
    return true;
}

static inline void model_summary(const struct model_version *version, struct eng_summary *summary)
{
    memset(summary, 0, sizeof *summary);
    memset(summary->digest, (int)(version->tag & 255), sizeof summary->digest);
    summary->count = version->generation;
    summary->sum[2] = version->tag;
}

/* One generation on a lineage. Returns false if the disk is full (and the generation was aborted). */
static inline bool model_generation(struct store *store, struct model *model, struct model_random *random, uint32_t l,
                                    uint32_t changes)
{
    struct model_lineage *line = &model->lineages[l];
    struct model_version version = {0};
    if (line->count)
        version = line->versions[line->count - 1];
    version.pins = 0;
    version.dropped = false;
    MODEL_OK(store_begin(store, l, &version.generation));
    bool fits = true;
    for (uint32_t i = 0; i < changes && fits; i++)
        fits =
            model_replace(store, model, random, &version.objects[model_below(random, MODEL_SLOTS)], version.generation);
    if (!fits || model_below(random, 8) == 0) {
        store_abort(store);
        return fits;
    }
    version.tag = line->tag + 1 + model_below(random, 2);
    struct eng_summary summary;
    model_summary(&version, &summary);
    enum eng_status status = store_commit(store, version.tag, version.objects[0].id, &summary);
    if (status) {
        MODEL_CHECK(status == ENG_FULL, "store_commit");
        store_abort(store);
        return false;
    }
    MODEL_CHECK(line->count < MODEL_VERSIONS, "the model is too small");
    line->tag = version.tag;
    line->versions[line->count++] = version;
    model_release(model);
    return true;
}

static inline bool model_wanted(const struct model *model, const struct model_lineage *line, uint32_t i)
{
    const struct model_version *version = &line->versions[i];
    return i + model->keep >= line->count || (model->every && version->tag % model->every == 0);
}

/* Drops what the policy no longer wants; now and then any version. */
static inline void model_drop(struct store *store, struct model *model, struct model_random *random)
{
    for (uint32_t l = 0; l < MODEL_LINEAGES; l++) {
        struct model_lineage *line = &model->lineages[l];
        if (line->count > 2 && model_below(random, 6) == 0) {
            struct model_version *any = &line->versions[model_below(random, line->count - 1)];
            if (!any->dropped) {
                MODEL_OK(store_drop(store, l, any->tag));
                any->dropped = true;
                model_release(model);
            }
        }
        if (line->count > MODEL_VERSIONS - 8) {
            uint64_t below = line->versions[line->count - 4].tag;
            MODEL_OK(store_drop_below(store, l, below));
            for (uint32_t i = 0; i + 4 < line->count; i++)
                line->versions[i].dropped = true;
            model_release(model);
        }
        for (uint32_t i = 0; i < line->count; i++) {
            if (line->versions[i].dropped || model_wanted(model, line, i))
                continue;
            MODEL_OK(store_drop(store, l, line->versions[i].tag));
            line->versions[i].dropped = true;
            model_release(model);
            i = UINT32_MAX; /* from the start */
        }
    }
}

static inline void model_pins(struct store *store, struct model *model, struct model_random *random)
{
    uint32_t l = model_below(random, MODEL_LINEAGES);
    struct model_lineage *line = &model->lineages[l];
    if (!line->count)
        return;
    struct model_version *version = &line->versions[model_below(random, line->count)];
    if (version->pins) {
        store_unpin(store, l, version->tag);
        version->pins--;
        return;
    }
    uint32_t pinned = 0;
    for (uint32_t i = 0; i < line->count; i++)
        pinned += line->versions[i].pins > 0;
    if (version->dropped || pinned >= 3)
        return;
    struct store_version got;
    MODEL_OK(store_pin(store, l, version->tag, &got));
    MODEL_CHECK(got.generation == version->generation && got.root == version->objects[0].id, "pinned version");
    version->pins++;
}

/* Marks every chunk of a list in seen; returns how many there are. */
static inline uint64_t model_list(struct store *store, uint32_t list, uint8_t *seen)
{
    uint64_t chunks = 0;
    while (list) {
        struct list_chunk *chunk = (struct list_chunk *)(void *)store_object(store, list);
        MODEL_CHECK(chunk && chunk->object.type == OBJECT_LIST && !seen[list], "list chunk %u", list);
        seen[list] = 1;
        for (uint32_t i = 0; i < chunk->count; i++) {
            struct death death = list_entry(chunk->entries, i);
            struct object *dead = store_object(store, death.id);
            MODEL_CHECK(dead && dead->generation == death.born, "entry %u of list %u", death.id, list);
        }
        chunks++;
        list = chunk->next;
    }
    return chunks;
}

/* The versions the store shows are those of the model. */
static inline void model_verify_versions(struct store *store, const struct model *model, uint32_t l)
{
    const struct model_lineage *line = &model->lineages[l];
    struct store_version versions[MODEL_VERSIONS], head;
    size_t count = store_versions(store, l, versions, MODEL_VERSIONS), v = 0;
    for (uint32_t i = 0; i < line->count; i++) {
        const struct model_version *want = &line->versions[i];
        struct eng_summary summary;
        model_summary(want, &summary);
        if (want->dropped)
            continue;
        MODEL_CHECK(v < count && versions[v].tag == want->tag && versions[v].generation == want->generation &&
                        versions[v].root == want->objects[0].id &&
                        memcmp(&versions[v].summary, &summary, sizeof summary) == 0,
                    "lineage %u: version %zu is not tag %llu", l, v, (unsigned long long)want->tag);
        v++;
    }
    MODEL_CHECK(v == count, "lineage %u: %zu versions, not %zu", l, count, v);
    MODEL_CHECK(store_head(store, l, &head) == (line->count > 0), "head of lineage %u", l);
    if (line->count)
        MODEL_CHECK(head.tag == line->versions[line->count - 1].tag, "tag of the head of lineage %u", l);
}

/* Everything a kept version sees is intact, and nothing else is live. */
static inline void model_verify(struct store *store, const struct model *model)
{
    struct reader *reader = store_reader(store);
    MODEL_CHECK(reader, "store_reader");
    uint64_t next = store->control.next, live = 0, expected = 0, lists = 0, units = 0;
    uint8_t *seen = calloc(next + 1, 1);
    MODEL_CHECK(seen, "memory");
    reader_enter(reader);
    for (uint32_t l = 0; l < MODEL_LINEAGES; l++) {
        const struct model_lineage *line = &model->lineages[l];
        model_verify_versions(store, model, l);
        for (uint32_t i = 0; i < line->count; i++)
            for (uint32_t s = 0; s < MODEL_SLOTS; s++) {
                const struct model_object *want = &line->versions[i].objects[s];
                if (!want->id || seen[want->id])
                    continue;
                seen[want->id] = 1;
                expected++;
                struct object *object = store_object(store, want->id);
                MODEL_CHECK(object, "object %u", want->id);
                MODEL_CHECK(object->id == want->id && object->generation == want->born, "header of %u", want->id);
                MODEL_CHECK(model_same(object, want->bytes, want->seed), "content of object %u", want->id);
            }
        const struct lineage *kept = &store->versions.lineages[l];
        MODEL_CHECK(kept->count == line->count, "lineage %u holds %zu versions, not %u", l, kept->count, line->count);
        for (size_t i = 0; i < kept->count; i++)
            lists += model_list(store, kept->versions[kept->first + i].list, seen);
    }
    for (uint64_t id = 0; id < next; id++) {
        uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_relaxed);
        MODEL_CHECK((word != 0) == (seen[id] != 0), "id %llu is %s", (unsigned long long)id,
                    word ? "live, and no version sees it" : "free, and a version sees it");
        live += word != 0;
        units += CONTROL_UNITS(word);
    }
    reader_leave(reader);
    MODEL_CHECK(live == expected + lists, "%llu live, %llu expected", (unsigned long long)live,
                (unsigned long long)(expected + lists));
    struct store_statistics statistics;
    store_stats(store, &statistics);
    MODEL_CHECK(statistics.ids_live == live, "ids_live %llu, %llu live", (unsigned long long)statistics.ids_live,
                (unsigned long long)live);
    MODEL_CHECK(statistics.live_bytes == units * UNIT_BYTES, "live_bytes %llu, %llu live",
                (unsigned long long)statistics.live_bytes, (unsigned long long)(units * UNIT_BYTES));
    free(seen);
}

/* What a start must bring back of a model that was captured. */
static inline void model_reopened(struct model *model)
{
    for (uint32_t l = 0; l < MODEL_LINEAGES; l++)
        for (uint32_t i = 0; i < model->lineages[l].count; i++)
            model->lineages[l].versions[i].pins = 0;
}

static inline void model_report(void *context, const char *line)
{
    (void)context;
    fprintf(stderr, "store_check: %s\n", line);
}

#endif
