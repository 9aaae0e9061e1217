/*
 * Readers, a writer with two helpers, the maintenance thread, the decay of the hot tier, a second compactor and
 * checkpoints, all at once, on a POSIX disk.
 *
 * A version is a root object that names chunks, which name leaves with content that follows from a seed. The writer
 * replaces leaves at random and publishes; readers pin a version (the head or an older one), walk all or part of it and
 * check every byte while the compactor moves things about. In the end the store is closed, checked offline, and opened
 * again: the version of the last checkpoint must be whole.
 *
 * Usage: prog_store_threads [--long]
 */
#include <time.h>
#include <unistd.h>

#include "store_model.h"

#define CHUNKS 16u
#define LEAVES 64u /* per chunk */
#define READERS 3u
#define HELPERS 2u
#define KEEP 6u

struct leaf_name {
    uint32_t id, bytes;
    uint64_t seed, born;
};
struct chunk {
    struct object object;
    struct leaf_name leaves[LEAVES];
};
struct root {
    struct object object;
    uint64_t tag;
    uint32_t chunks[CHUNKS];
    uint64_t born[CHUNKS];
};

static struct store *store;
static _Atomic bool stop;
static _Atomic uint64_t walks, leaves_read, gone, moved_calls;
static struct leaf_name leaves[CHUNKS][LEAVES];
static struct root current;
static uint64_t tag;

static void walk(const struct store_version *version, struct model_random *random)
{
    const struct root *root = (const void *)store_object(store, version->root);
    MODEL_CHECK(root && root->tag == version->tag && root->object.generation == version->generation, "root of tag %llu",
                (unsigned long long)version->tag);
    uint32_t first = model_below(random, CHUNKS), count = 1 + model_below(random, CHUNKS);
    for (uint32_t c = 0; c < count; c++) {
        const struct chunk *chunk = (const void *)store_object(store, root->chunks[(first + c) % CHUNKS]);
        MODEL_CHECK(chunk && chunk->object.generation == root->born[(first + c) % CHUNKS], "chunk");
        for (uint32_t i = 0; i < LEAVES; i++) {
            const struct leaf_name *name = &chunk->leaves[i];
            const struct object *leaf = store_object(store, name->id);
            MODEL_CHECK(leaf && leaf->id == name->id && leaf->generation == name->born, "leaf %u", name->id);
            MODEL_CHECK(model_same(leaf, name->bytes, name->seed), "content of leaf %u", name->id);
            if (name->id % 8 == version->tag / 64 % 8) /* what is hot lies scattered, and changes */
                store_touch(store, name->id);
        }
        atomic_fetch_add_explicit(&leaves_read, LEAVES, memory_order_relaxed);
    }
}

static void *read_versions(void *context)
{
    struct model_random random = {(uint64_t)(uintptr_t)context};
    struct reader *reader = store_reader(store);
    MODEL_CHECK(reader, "reader");
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        struct store_version version, head;
        if (!store_head(store, 0, &head))
            continue;
        uint64_t wanted = model_below(&random, 2) ? STORE_HEAD : head.tag - model_below(&random, KEEP);
        enum eng_status status = store_pin(store, 0, wanted, &version);
        if (status) {
            MODEL_CHECK(status == ENG_GONE || status == ENG_NOT_FOUND, "pin");
            atomic_fetch_add_explicit(&gone, 1, memory_order_relaxed);
            continue;
        }
        for (uint32_t look = 1 + model_below(&random, 3); look; look--) {
            reader_enter(reader);
            walk(&version, &random);
            reader_leave(reader);
        }
        store_unpin(store, 0, version.tag);
        atomic_fetch_add_explicit(&walks, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *compact_too(void *context)
{
    (void)context;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        struct store_statistics statistics;
        MODEL_OK(store_compact(store, 90, 1 << 20));
        hot_round(store); /* beside the decay thread */
        store_stats(store, &statistics);
        MODEL_CHECK(statistics.live_bytes <= statistics.file_bytes, "statistics");
        atomic_fetch_add_explicit(&moved_calls, 1, memory_order_relaxed);
        usleep(3000);
    }
    return NULL;
}

struct help {
    uint32_t index;
    uint64_t seed;
};

/* Replaces some leaves of every second chunk. */
static void *replace_leaves(void *context)
{
    const struct help *help = context;
    struct model_random random = {help->seed};
    struct arena *arena = store_arena(store, help->index);
    uint64_t generation = arena_generation(arena);
    for (uint32_t c = help->index; c < CHUNKS; c += HELPERS) {
        bool fresh = current.chunks[c] == 0;
        if (!fresh && model_below(&random, 3) != 0)
            continue;
        for (uint32_t i = 0; i < LEAVES; i++) {
            struct leaf_name *name = &leaves[c][i];
            if (!fresh && model_below(&random, 4) != 0)
                continue;
            if (name->id)
                store_kill(arena, name->id, name->born);
            name->bytes = (uint32_t)sizeof(struct object) + 8 + model_below(&random, 1500);
            name->seed = model_next(&random);
            name->born = generation;
            struct object *leaf = store_alloc(arena, OBJECT_LEAF, name->bytes, &name->id);
            MODEL_CHECK(leaf, "leaf");
            model_fill(leaf, name->bytes, name->seed);
            if (model_below(&random, 8) == 0) { /* changed its mind */
                store_kill(arena, name->id, generation);
                leaf = store_alloc(arena, OBJECT_LEAF, name->bytes, &name->id);
                MODEL_CHECK(leaf, "leaf");
                model_fill(leaf, name->bytes, name->seed);
            }
        }
        if (!fresh)
            store_kill(arena, current.chunks[c], current.born[c]);
        struct chunk *chunk =
            (struct chunk *)(void *)store_alloc(arena, OBJECT_INNER, sizeof *chunk, &current.chunks[c]);
        MODEL_CHECK(chunk, "chunk");
        memcpy(chunk->leaves, leaves[c], sizeof chunk->leaves);
        current.born[c] = generation;
    }
    return NULL;
}

static void write_version(struct model_random *random)
{
    static uint32_t root_id;
    static uint64_t root_born;
    uint64_t generation;
    pthread_t threads[HELPERS];
    struct help help[HELPERS];
    struct eng_summary summary = {.count = ++tag};
    MODEL_OK(store_begin(store, 0, &generation));
    for (uint32_t i = 0; i < HELPERS; i++) {
        help[i] = (struct help){.index = i, .seed = model_next(random)};
        MODEL_CHECK(pthread_create(&threads[i], NULL, replace_leaves, &help[i]) == 0, "thread");
    }
    for (uint32_t i = 0; i < HELPERS; i++)
        pthread_join(threads[i], NULL);
    struct arena *arena = store_arena(store, 0);
    if (root_id)
        store_kill(arena, root_id, root_born);
    struct root *root = (struct root *)(void *)store_alloc(arena, OBJECT_INNER, sizeof *root, &root_id);
    MODEL_CHECK(root, "root");
    root->tag = current.tag = tag;
    memcpy(root->chunks, current.chunks, sizeof root->chunks);
    memcpy(root->born, current.born, sizeof root->born);
    root_born = generation;
    MODEL_OK(store_commit(store, tag, root_id, &summary));
    if (tag > KEEP)
        MODEL_OK(store_drop_below(store, 0, tag - KEEP));
    if (model_below(random, 20) == 0) { /* a speculative one */
        uint32_t id;
        MODEL_OK(store_begin(store, 0, &generation));
        for (int i = 0; i < 500; i++)
            MODEL_CHECK(store_alloc(arena, OBJECT_LEAF, 2000, &id), "speculative");
        store_abort(store);
    }
}

int main(int argc, char **argv)
{
    bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    char dir[] = "/tmp/pando-threads-XXXXXX", command[64];
    pthread_t threads[READERS + 1];
    struct model_random random = {42};
    struct disk *disk;
    MODEL_CHECK(mkdtemp(dir), "directory");
    MODEL_OK(disk_posix_open(dir, &disk));
    struct store_options options = {.disk = disk,
                                    .dir = "state",
                                    .segment_bytes = 256 << 10,
                                    .leaf_bytes = 2048,
                                    .inline_bytes = 128,
                                    .arenas = HELPERS,
                                    .background = true,
                                    .create = true,
                                    .hot_bytes = 24 << 10,
                                    .hot_decay_ms = 16};
    MODEL_OK(store_open(&options, &store));
    for (uintptr_t i = 0; i < READERS; i++)
        MODEL_CHECK(pthread_create(&threads[i], NULL, read_versions, (void *)(i + 1)) == 0, "thread");
    MODEL_CHECK(pthread_create(&threads[READERS], NULL, compact_too, NULL) == 0, "thread");
    time_t end = time(NULL) + (is_long ? 60 : 3);
    uint64_t busy = 0, durable = 0;
    while (time(NULL) < end) {
        write_version(&random);
        if (tag % 20 == 0) {
            enum eng_status status = store_checkpoint(store, &tag, sizeof tag, false);
            MODEL_CHECK(status == ENG_OK || status == ENG_BUSY, "checkpoint");
            busy += status == ENG_BUSY;
            durable = status == ENG_OK ? tag : durable;
        }
        if (tag % 97 == 0)
            MODEL_OK(store_shrink(store));
    }
    atomic_store(&stop, true);
    for (uint32_t i = 0; i < READERS + 1; i++)
        pthread_join(threads[i], NULL);
    struct store_statistics statistics;
    store_stats(store, &statistics);
    printf("%llu versions, %llu walks, %llu leaves read, %llu pins too late, %llu checkpoints (%llu busy), %llu MiB "
           "moved, file %llu KiB, live %llu KiB\n",
           (unsigned long long)tag, (unsigned long long)walks, (unsigned long long)leaves_read,
           (unsigned long long)gone, (unsigned long long)statistics.checkpoints, (unsigned long long)busy,
           (unsigned long long)statistics.moved_bytes >> 20, (unsigned long long)statistics.file_bytes >> 10,
           (unsigned long long)statistics.live_bytes >> 10);
    printf("hot: %llu objects, %llu bytes, %llu locked; %llu promoted, %llu demoted%s\n",
           (unsigned long long)statistics.hot_objects, (unsigned long long)statistics.hot_bytes,
           (unsigned long long)statistics.hot_locked_bytes, (unsigned long long)statistics.hot_promoted,
           (unsigned long long)statistics.hot_demoted, statistics.hot_refused ? ", lock refused" : "");
    MODEL_CHECK(statistics.hot_promoted > 0 || statistics.hot_refused, "nothing became hot");
    MODEL_CHECK(walks > 0 && statistics.moved_bytes > 0 && statistics.checkpoints > 0, "nothing happened");
    store_close(&store);
    MODEL_OK(store_check(disk, "state", true, model_report, NULL));
    MODEL_OK(store_open(&options, &store));
    uint64_t reopened = 0;
    (void)store_app_state(store, &reopened, sizeof reopened);
    MODEL_CHECK(reopened == durable, "opened at %llu, not %llu", (unsigned long long)reopened,
                (unsigned long long)durable);
    struct store_version version;
    MODEL_OK(store_pin(store, 0, STORE_HEAD, &version));
    struct reader *reader = store_reader(store);
    MODEL_CHECK(reader && version.tag == durable, "tag of the head");
    reader_enter(reader);
    for (int i = 0; i < 20; i++)
        walk(&version, &random);
    reader_leave(reader);
    store_unpin(store, 0, version.tag);
    store_close(&store);
    disk_close(&disk);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 ? 0 : 1;
}
