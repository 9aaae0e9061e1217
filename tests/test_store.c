/* Unit and model tests of the object store, on the simulated disk and on POSIX. */
#include <stdlib.h>
#include <unistd.h>

#include "store_fixture.h"

START_TEST(open_and_create)
{
    uint64_t state;
    options.create = false;
    ck_assert_int_eq(store_open(&options, &store), ENG_NOT_FOUND);
    options.create = true;
    options.segment_bytes = 17000;
    ck_assert_int_eq(store_open(&options, &store), ENG_INVALID);
    options.segment_bytes = 32 << 10;
    MODEL_OK(store_open(&options, &store));
    ck_assert_uint_eq(store_app_state(store, &state, sizeof state), 0);
    ck_assert_uint_eq(store_checkpoint_number(store), 1);
    struct store_version version;
    ck_assert(!store_head(store, 0, &version));
    store_close(&store);
    ck_assert_ptr_null(store);
    options.create = false;
    options.segment_bytes = 16 << 10; /* the files say what it is */
    options.leaf_bytes = 99;
    MODEL_OK(store_open(&options, &store));
    uint32_t leaf, inlined, segment;
    store_parameters(store, &leaf, &inlined, &segment);
    ck_assert_uint_eq(leaf, 1024);
    ck_assert_uint_eq(inlined, 64);
    ck_assert_uint_eq(segment, 32 << 10);
    store_close(&store);
    options.store_id[0] = 2;
    ck_assert_int_eq(store_open(&options, &store), ENG_FOREIGN);
    ck_assert_ptr_null(store);
}
END_TEST

START_TEST(objects_and_ids)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t generation = begin(3);
    struct arena *arena = store_arena(store, 0);
    ck_assert_uint_eq(arena_generation(arena), generation);
    uint32_t id, other;
    struct object *object = store_alloc(arena, OBJECT_VALUE, 65, &id);
    ck_assert_ptr_nonnull(object);
    ck_assert_uint_eq(object->units, 2);
    ck_assert_uint_eq(object->type, OBJECT_VALUE);
    ck_assert_uint_eq(object->id, id);
    ck_assert_uint_eq(object->generation, generation);
    for (int i = 64; i < 128; i++)
        ck_assert_uint_eq(((uint8_t *)object)[i], 0);
    ck_assert_ptr_eq(store_object(store, id), object);
    ck_assert_int_eq(store_type(store, id), OBJECT_VALUE);
    ck_assert_ptr_null(store_alloc(arena, OBJECT_VALUE, 16 << 10, &other));
    ck_assert_int_eq(arena_status(arena), ENG_TOO_LARGE);
    object = store_alloc(store_arena(store, 1), OBJECT_VALUE, (16 << 10) - 4096, &other);
    ck_assert_ptr_nonnull(object);
    ck_assert_uint_ne(id, other);
    commit(1, id);
    ck_assert_uint_eq(live(), 2);
    struct store_version version;
    ck_assert(store_head(store, 3, &version));
    ck_assert_uint_eq(version.root, id);
    ck_assert_uint_eq(version.generation, generation);
    ck_assert_uint_eq(version.summary.count, 1);
    ck_assert_ptr_null(store_object(store, other + 1));
    ck_assert_ptr_nonnull(strstr(eng_error(), "state/segments"));
}
END_TEST

START_TEST(ids_run_out)
{
    MODEL_OK(store_open(&options, &store));
    store->control.next = store->control.limit - 300; /* as if the others had been used */
    (void)begin(0);
    uint32_t id;
    for (int i = 0; i < 300; i++)
        ck_assert_ptr_nonnull(store_alloc(store_arena(store, 0), OBJECT_LEAF, 64, &id));
    ck_assert_ptr_null(store_alloc(store_arena(store, 0), OBJECT_LEAF, 64, &id));
    ck_assert_int_eq(arena_status(store_arena(store, 0)), ENG_NO_IDS);
    store_abort(store);
    ck_assert_int_eq(store_reserve(store, 100, 301), ENG_NO_IDS);
    MODEL_OK(store_reserve(store, 100, 300));
    ck_assert_uint_eq(live(), 0);
}
END_TEST

START_TEST(kill_commit_abort)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t first = begin(0);
    uint32_t a = alloc(100, 1), b = alloc(200, 2), own = alloc(300, 3);
    store_kill(store_arena(store, 1), own, first);
    commit(1, a);
    ck_assert_uint_eq(live(), 2);
    uint64_t second = begin(0);
    ck_assert_uint_gt(second, first);
    uint64_t position = store->arenas[0].position;
    store_kill(store_arena(store, 0), a, first);
    for (int i = 0; i < 1000; i++)
        (void)alloc(1000, 4);
    store_abort(store);
    ck_assert_uint_eq(live(), 2);
    (void)begin(0);
    for (int i = 0; i < 3; i++)
        (void)alloc(64, 4);
    position = store->arenas[0].position;
    store_abort(store);
    ck_assert_uint_eq(store->arenas[0].position, position - 3); /* an abort gives the bytes back */
    ck_assert(readable(a, 100, 1) && readable(b, 200, 2));
    (void)begin(0);
    store_kill(store_arena(store, 0), a, first);
    commit(2, b);
    ck_assert_uint_eq(live(), 3); /* a, b, a list */
    ck_assert(readable(a, 100, 1));
    MODEL_OK(store_drop(store, 0, 1));
    ck_assert_uint_eq(live(), 1);
    checkpoint(5);
    reopen();
    uint64_t third = begin(0);
    ck_assert_uint_eq(third >> 40, (second >> 40) + 1);
    store_abort(store);
    uint64_t state = 0;
    ck_assert_uint_eq(store_app_state(store, &state, sizeof state), 8);
    ck_assert_uint_eq(state, 5);
    ck_assert(readable(b, 200, 2));
}
END_TEST

START_TEST(pins_and_drops)
{
    struct store_version version, versions[8];
    MODEL_OK(store_open(&options, &store));
    ck_assert_int_eq(store_pin(store, 0, STORE_HEAD, &version), ENG_NOT_FOUND);
    uint64_t born[8];
    uint32_t id[8];
    for (uint64_t i = 0; i < 6; i++) {
        born[i] = begin(0);
        id[i] = alloc(128, i);
        if (i)
            store_kill(store_arena(store, 0), id[i - 1], born[i - 1]);
        commit(10 * i, id[i]);
    }
    ck_assert_int_eq(store_pin(store, 0, 60, &version), ENG_NOT_FOUND);
    ck_assert_int_eq(store_pin(store, 0, 11, &version), ENG_GONE);
    ck_assert_int_eq(store_drop(store, 0, 11), ENG_NOT_FOUND);
    ck_assert_int_eq(store_drop(store, 0, 50), ENG_INVALID);
    MODEL_OK(store_pin(store, 0, 20, &version));
    MODEL_OK(store_pin(store, 0, 20, &version));
    ck_assert_uint_eq(version.root, id[2]);
    MODEL_OK(store_drop(store, 0, 20));
    ck_assert_int_eq(store_drop(store, 0, 20), ENG_NOT_FOUND);
    ck_assert_int_eq(store_pin(store, 0, 20, &version), ENG_GONE);
    ck_assert_uint_eq(store_versions(store, 0, versions, 8), 5);
    ck_assert_uint_eq(versions[2].tag, 30);
    ck_assert(readable(id[2], 128, 2));
    store_unpin(store, 0, 20);
    MODEL_OK(store_drop(store, 0, 10));
    ck_assert(readable(id[2], 128, 2));
    store_unpin(store, 0, 20);
    ck_assert(readable(id[2], 128, 2));
    MODEL_OK(store_drop_below(store, 0, 30));
    ck_assert(!readable(id[2], 128, 2));
    ck_assert(readable(id[3], 128, 3));
    ck_assert_uint_eq(store_versions(store, 0, versions, 8), 3);
    MODEL_OK(store_drop_below(store, 0, 1000));
    ck_assert_uint_eq(store_versions(store, 0, versions, 8), 1);
    ck_assert_uint_eq(live(), 1);
    MODEL_OK(store_pin(store, 0, STORE_HEAD, &version));
    ck_assert_uint_eq(version.tag, 50);
    store_unpin(store, 0, 50);
}
END_TEST

static void model_run(uint64_t seed, uint32_t steps, uint32_t checkpoint_every, bool inline_only)
{
    struct model_random random = {seed};
    static struct model model, durable;
    memset(&model, 0, sizeof model);
    model.bytes_max = 100 + model_below(&random, 2000);
    model.keep = 1 + model_below(&random, 20);
    model.every = model_below(&random, 4) * 4;
    durable = model;
    for (uint32_t step = 0; step < steps; step++) {
        (void)model_generation(store, &model, &random, model_below(&random, MODEL_LINEAGES),
                               1 + model_below(&random, 12));
        model_pins(store, &model, &random);
        model_drop(store, &model, &random);
        if (step % checkpoint_every == checkpoint_every - 1) {
            model.number++;
            enum eng_status status =
                store_checkpoint(store, &model.number, sizeof model.number, inline_only || model_below(&random, 2));
            ck_assert(status == ENG_OK || status == ENG_BUSY);
            if (status == ENG_OK)
                durable = model;
        }
        if (step % 7 == 0)
            MODEL_OK(store_compact(store, 50 + 10 * model_below(&random, 6), UINT64_MAX));
        if (step % 11 == 0)
            MODEL_OK(store_maintain(store));
        if (inline_only && step % 29 == 0)
            MODEL_OK(store_shrink(store));
        if (step % 60 == 59) {
            reopen(); /* finishes a checkpoint that is being made */
            model = durable;
            model_reopened(&model);
        }
        if (inline_only)
            model_verify(store, &model);
    }
    checkpoint(model.number);
    (void)model_generation(store, &model, &random, 0, 1); /* what was put off is freed by a commit or a drop */
    MODEL_OK(store_drop_below(store, 0, 0));
    model_release(&model);
    model_verify(store, &model);
    for (uint32_t l = 0; l < MODEL_LINEAGES; l++) /* readers of this thread have no pins left */
        for (uint32_t i = 0; i < model.lineages[l].count; i++)
            for (; model.lineages[l].versions[i].pins; model.lineages[l].versions[i].pins--)
                store_unpin(store, l, model.lineages[l].versions[i].tag);
    checkpoint(model.number);
    store_close(&store);
    MODEL_OK(store_check(options.disk, "state", true, model_report, NULL));
}

START_TEST(model_simulated)
{
    MODEL_OK(store_open(&options, &store));
    model_run((uint64_t)_i * 77 + 5, 400, 5 + (uint32_t)_i % 9, true);
}
END_TEST

START_TEST(model_posix)
{
    char dir[] = "/tmp/pando-store-XXXXXX", command[64];
    struct disk *posix;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    MODEL_OK(disk_posix_open(dir, &posix));
    options.disk = posix;
    options.background = _i & 1;
    options.segment_bytes = _i & 2 ? 1 << 20 : 16 << 10;
    options.arenas = 3;
    MODEL_OK(store_open(&options, &store));
    model_run((uint64_t)_i + 1000, 240, 9, !options.background);
    disk_close(&posix);
    options.disk = disk;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static _Atomic bool leave;
static _Atomic uint32_t entered;
static void *hold_slot(void *context)
{
    struct store *of = context;
    struct reader *reader = store_reader(of);
    if (!reader)
        ck_assert_ptr_nonnull(strstr(eng_error(), "ENG_READERS_MAX"));
    if (reader) {
        reader_enter(reader);
        reader_enter(reader);
        reader_leave(reader);
        atomic_fetch_add(&entered, 1);
        while (!atomic_load(&leave))
            usleep(1000);
        reader_leave(reader);
    }
    return reader;
}

START_TEST(reader_slots)
{
    static pthread_t threads[ENG_READERS_MAX];
    struct disk *second_disk;
    struct store *second;
    MODEL_OK(disk_sim_open(0, &second_disk));
    MODEL_OK(store_open(&options, &store));
    options.disk = second_disk;
    MODEL_OK(store_open(&options, &second));
    options.disk = disk;
    struct reader *mine = store_reader(store), *other = store_reader(second);
    ck_assert_ptr_ne(mine, other);
    ck_assert_ptr_eq(store_reader(store), mine);
    ck_assert_ptr_eq(store_reader(second), other);
    for (int round = 0; round < 2; round++) {
        leave = false;
        entered = 0;
        for (uint32_t i = 0; i < ENG_READERS_MAX - 1; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, hold_slot, store), 0);
        while (atomic_load(&entered) < ENG_READERS_MAX - 1)
            usleep(1000);
        ck_assert_uint_ne(epoch_oldest(store).oldest, UINT64_MAX);
        void *got;
        ck_assert_int_eq(pthread_create(&threads[ENG_READERS_MAX - 1], NULL, hold_slot, store), 0);
        pthread_join(threads[ENG_READERS_MAX - 1], &got);
        ck_assert_ptr_null(got); /* one too many */
        leave = true;
        for (uint32_t i = 0; i < ENG_READERS_MAX - 1; i++) {
            pthread_join(threads[i], &got);
            ck_assert_ptr_nonnull(got);
        }
        ck_assert_uint_eq(epoch_oldest(store).oldest, UINT64_MAX);
    }
    store_close(&second);
    options.disk = second_disk;
    MODEL_OK(store_open(&options, &second));
    ck_assert_ptr_nonnull(store_reader(second));
    ck_assert_ptr_eq(store_reader(second)->store, second);
    ck_assert_ptr_eq(store_reader(store), mine);
    store_close(&second);
    disk_close(&second_disk);
    options.disk = disk;
}
END_TEST

/* Bytes a reader looks at stay when the object moves, and are reused only when it has left. */
START_TEST(epochs_protect_bytes)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t born = begin(0);
    uint32_t ids[64];
    for (uint32_t i = 0; i < 64; i++)
        ids[i] = alloc(2000, i);
    commit(1, ids[0]);
    (void)begin(0);
    for (uint32_t i = 0; i < 64; i++)
        if (i % 8)
            store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[0]);
    MODEL_OK(store_drop(store, 0, 1));
    struct reader *reader = store_reader(store);
    reader_enter(reader);
    struct object *old[8], *moved[8];
    for (uint32_t i = 0; i < 8; i++)
        old[i] = store_object(store, ids[i * 8]);
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    for (uint32_t i = 1; i < 7; i++) { /* what lies in open segments stays */
        moved[i] = store_object(store, ids[i * 8]);
        ck_assert_ptr_ne(old[i], moved[i]);
    }
    for (uint64_t tag = 3; tag < 8; tag++) { /* fills every segment that is free */
        (void)begin(1);
        uint64_t made = arena_generation(store_arena(store, 0));
        for (uint32_t i = 0; i < 200; i++)
            store_kill(store_arena(store, 0), alloc(2000, 1000 + i), made);
        commit(tag, 0);
        MODEL_OK(store_drop_below(store, 1, tag));
        checkpoint(tag);
    }
    for (uint32_t i = 1; i < 7; i++)
        ck_assert(model_same(old[i], 2000, i * 8) && model_same(moved[i], 2000, i * 8));
    struct store_statistics before, after;
    store_stats(store, &before);
    reader_leave(reader);
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    pthread_mutex_unlock(&store->segments.lock);
    store_stats(store, &after);
    ck_assert_uint_gt(after.segments_free, before.segments_free);
}
END_TEST

static atomic_int stuck_thread;

/* Stays in an epoch until told to leave. */
static void *stay(void *context)
{
    struct reader *reader = store_reader(context);
    reader_enter(reader);
    atomic_store(&stuck_thread, gettid());
    while (!atomic_load(&leave))
        usleep(1000);
    reader_leave(reader);
    return NULL;
}

static void look(struct reader *reader)
{
    reader_enter(reader);
    reader_leave(reader);
}

/* A reader that stays is named, one that comes often is not; only what was moved away from under it waits for it. */
START_TEST(stuck_reader)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t born = begin(0);
    uint32_t ids[64];
    for (uint32_t i = 0; i < 64; i++)
        ids[i] = alloc(2000, i);
    commit(1, ids[0]);
    (void)begin(0);
    for (uint32_t i = 0; i < 64; i++)
        if (i >= 32 || i % 4) /* the later half of the segments is emptied by this alone */
            store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[0]);
    struct reader *reader = store_reader(store);
    pthread_t thread;
    leave = false;
    stuck_thread = 0;
    ck_assert_int_eq(pthread_create(&thread, NULL, stay, store), 0);
    while (!atomic_load(&stuck_thread))
        usleep(1000);
    struct store_statistics first, then, last;
    look(reader);
    reader_enter(reader);
    store_stats(store, &first);
    reader_leave(reader);
    ck_assert_uint_eq(first.readers_inside, 2);
    usleep(60000);
    reader_enter(reader); /* it came back, and is not the one that stayed */
    store_stats(store, &first);
    reader_leave(reader);
    ck_assert_uint_eq(first.readers_inside, 2);
    ck_assert_int_eq(first.reader_thread, atomic_load(&stuck_thread));
    ck_assert_uint_ge(first.reader_ms, 50);
    ck_assert_uint_eq(first.reader_bytes, 0);
    MODEL_OK(store_drop(store, 0, 1));
    arena_close_segment(store_arena(store, 0));
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    pthread_mutex_unlock(&store->segments.lock);
    store_stats(store, &then);
    ck_assert_uint_ge(then.segments_free, first.segments_free + 3); /* nothing was moved: free at once */
    ck_assert_uint_eq(then.reader_bytes, 0);
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    pthread_mutex_unlock(&store->segments.lock);
    store_stats(store, &then);
    ck_assert_uint_ge(then.reader_bytes, 2 * then.segment_bytes);
    atomic_store(&leave, true);
    pthread_join(thread, NULL);
    store_stats(store, &last);
    ck_assert_uint_eq(last.readers_inside, 0);
    ck_assert_int_eq(last.reader_thread, 0);
    ck_assert_uint_eq(last.reader_bytes, 0);
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    pthread_mutex_unlock(&store->segments.lock);
    store_stats(store, &last);
    ck_assert_uint_ge(last.segments_free, then.segments_free + 2);
    for (uint32_t i = 0; i < 32; i += 4)
        ck_assert(readable(ids[i], 2000, i));
}
END_TEST

static _Atomic bool went_on;

static void *wait_for_space(void *context)
{
    store_wait_for_space(context);
    atomic_store(&went_on, true);
    return NULL;
}

/* Space that only waits for the next checkpoint calls for it, and comes back with it; so much of it that commits wait
 * while one is running, and only then. */
START_TEST(checkpoint_is_wanted)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t born = begin(0);
    uint32_t ids[240];
    for (uint32_t i = 0; i < 240; i++)
        ids[i] = alloc(2000, i);
    commit(1, ids[0]);
    checkpoint(1);
    ck_assert(!store_checkpoint_wanted(store));
    ck_assert(store_unchanged(store));
    (void)begin(0);
    for (uint32_t i = 0; i < 48; i++) /* six segments: too few to ask for one */
        store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[239]);
    ck_assert(!store_unchanged(store));
    MODEL_OK(store_drop(store, 0, 1));
    ck_assert(!store_checkpoint_wanted(store));
    (void)begin(0);
    for (uint32_t i = 48; i < 192; i++)
        store_kill(store_arena(store, 0), ids[i], born);
    commit(3, ids[239]);
    MODEL_OK(store_drop(store, 0, 2));
    ck_assert(store_checkpoint_wanted(store));
    store_wait_for_space(store); /* none is running */
    struct checkpoint *running = &store->checkpoint;
    pthread_t thread;
    atomic_store(&running->running, true);
    atomic_store(&went_on, false);
    ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_space, store), 0);
    usleep(20000);
    ck_assert(!atomic_load(&went_on));
    pthread_mutex_lock(&running->lock);
    atomic_store(&running->running, false);
    pthread_cond_broadcast(&running->changed);
    pthread_mutex_unlock(&running->lock);
    pthread_join(thread, NULL);
    ck_assert(atomic_load(&went_on));
    struct store_statistics before, after;
    store_stats(store, &before);
    checkpoint(2);
    ck_assert(!store_checkpoint_wanted(store));
    atomic_store(&running->running, true);
    store_wait_for_space(store); /* nothing waits for it */
    atomic_store(&running->running, false);
    pthread_mutex_lock(&store->segments.lock);
    segments_reclaim(store);
    pthread_mutex_unlock(&store->segments.lock);
    store_stats(store, &after);
    ck_assert_uint_ge(after.segments_free, before.segments_free + 12);
    ck_assert_uint_le(after.waiting_bytes + 12 * after.segment_bytes, before.waiting_bytes);
}
END_TEST

/* A version that is pinned for long is named. */
START_TEST(oldest_pin)
{
    MODEL_OK(store_open(&options, &store));
    struct store_version version;
    struct store_statistics statistics;
    for (uint64_t tag = 1; tag <= 4; tag++) {
        (void)begin(3);
        commit(tag, 0);
    }
    MODEL_OK(store_pin(store, 3, 2, &version));
    MODEL_OK(store_pin(store, 3, STORE_HEAD, &version));
    MODEL_OK(store_drop_below(store, 3, 4));
    usleep(60000);
    store_pin_again(store, 3, 2);
    store_stats(store, &statistics);
    ck_assert_uint_eq(statistics.pins, 3);
    ck_assert_uint_eq(statistics.pinned_lineage, 3);
    ck_assert_uint_eq(statistics.pinned_tag, 2);
    ck_assert_uint_ge(statistics.pinned_ms, 50);
    ck_assert_uint_eq(statistics.versions, 2);
    ck_assert_uint_eq(statistics.versions_waiting, 1);
    store_unpin(store, 3, 2);
    store_unpin(store, 3, 2);
    store_unpin(store, 3, 4);
    store_stats(store, &statistics);
    ck_assert_uint_eq(statistics.pins + statistics.versions_waiting, 0);
}
END_TEST

/* What the compactor moved is found at its new place after a start, although nothing else changed its control page. */
START_TEST(compact_is_durable)
{
    MODEL_OK(store_open(&options, &store));
    static uint32_t ids[2000];
    uint64_t born = begin(0);
    for (uint32_t i = 0; i < 2000; i++)
        ids[i] = alloc(200, i);
    commit(1, ids[0]);
    (void)begin(0);
    for (uint32_t i = 0; i < 2000; i++)
        if (i % 4)
            store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[0]);
    MODEL_OK(store_drop(store, 0, 1));
    checkpoint(1);
    ck_assert_uint_eq(control_dirty_count(store), 0);
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    ck_assert_uint_ge(control_dirty_count(store), 4);
    checkpoint(2);
    for (uint64_t tag = 3; tag < 6; tag++) { /* overwrites the old places */
        uint64_t made = begin(1);
        for (uint32_t i = 0; i < 400; i++)
            store_kill(store_arena(store, 0), alloc(2000, 1000 + i), made);
        commit(tag, 0);
    }
    reopen();
    for (uint32_t i = 0; i < 2000; i += 4)
        ck_assert(readable(ids[i], 200, i));
}
END_TEST

/* The merge may modify an object of the open generation in place: it does not move before the commit. */
START_TEST(compact_leaves_open_generation)
{
    MODEL_OK(store_open(&options, &store));
    uint32_t old[32], ids[32];
    uint64_t born = begin(0);
    for (uint32_t i = 0; i < 32; i++)
        old[i] = alloc(3000, i);
    commit(1, old[0]);
    (void)begin(0);
    for (uint32_t i = 0; i < 32; i++)
        if (i % 2)
            store_kill(store_arena(store, 0), old[i], born);
    commit(2, old[0]);
    MODEL_OK(store_drop(store, 0, 1));
    struct object *objects[32], *before = store_object(store, old[2]);
    MODEL_OK(
        store_checkpoint(store, NULL, 0, true)); /* the places of the freed ones are not used again before the next */
    (void)begin(0);
    for (uint32_t i = 0; i < 32; i++) {
        ids[i] = alloc(3000, 100 + i); /* five to a segment, with room left over */
        objects[i] = store_object(store, ids[i]);
    }
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    for (uint32_t i = 0; i < 32; i++)
        ck_assert_ptr_eq(store_object(store, ids[i]), objects[i]);
    ck_assert_ptr_ne(store_object(store, old[2]), before);
    ck_assert(readable(old[2], 3000, 2));
    store_kill(store_arena(store, 0), ids[1], arena_generation(store_arena(store, 0)));
    commit(3, ids[0]);
    for (uint32_t i = 2; i < 32; i++)
        ck_assert(readable(ids[i], 3000, 100 + i));
    MODEL_OK(store_compact(store, 100, UINT64_MAX));
    ck_assert_ptr_ne(store_object(store, ids[2]), objects[2]); /* now it may */
}
END_TEST

/* A victim begun and then emptied by frees is given back, though nothing else is worth compacting. */
START_TEST(compact_ends_what_it_began)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t born = begin(0);
    uint32_t ids[32];
    for (uint32_t i = 0; i < 32; i++)
        ids[i] = alloc(2000, i);
    commit(1, ids[0]);
    (void)begin(0);
    for (uint32_t i = 0; i < 8; i++) /* the first segment but for its last object, which is moved last */
        if (i != 6)
            store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[6]);
    MODEL_OK(store_drop(store, 0, 1));
    uint64_t moved;
    bool more;
    MODEL_OK(compact_batch(store, 50, 0, &moved, &more));
    ck_assert(more && store->compactor.active);
    uint32_t victim = store->compactor.victim;
    (void)begin(0);
    store_kill(store_arena(store, 0), ids[6], born);
    commit(3, ids[20]);
    MODEL_OK(store_drop(store, 0, 2));
    ck_assert_uint_eq(atomic_load(&store->segments.table[victim].live), 0);
    ck_assert_int_eq(store->segments.table[victim].state, SEGMENT_SEALED);
    MODEL_OK(store_maintain(store));
    ck_assert(!store->compactor.active);
    ck_assert_int_ne(store->segments.table[victim].state, SEGMENT_SEALED);
}
END_TEST

START_TEST(shrink_and_stats)
{
    MODEL_OK(store_open(&options, &store));
    uint64_t born = begin(0);
    uint32_t ids[200];
    for (uint32_t i = 0; i < 200; i++)
        ids[i] = alloc(2000, i);
    commit(1, ids[0]);
    struct store_statistics full, empty;
    store_stats(store, &full);
    ck_assert_uint_eq(full.live_bytes, 200 * 2048);
    ck_assert_uint_eq(full.ids_live, 200);
    ck_assert_uint_eq(full.versions, 1);
    (void)begin(0);
    for (uint32_t i = 1; i < 200; i++)
        store_kill(store_arena(store, 0), ids[i], born);
    commit(2, ids[0]);
    MODEL_OK(store_drop(store, 0, 1));
    checkpoint(1);
    MODEL_OK(store_shrink(store));
    store_stats(store, &empty);
    ck_assert_uint_lt(empty.file_bytes, full.file_bytes / 4);
    ck_assert_uint_eq(empty.checkpoints, 1);
    uint64_t size;
    MODEL_OK(disk_size(store->segments.file, &size));
    ck_assert_uint_eq(size, empty.file_bytes);
    reopen();
    ck_assert(readable(ids[0], 2000, 0));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store");
    TCase *unit = tcase_create("unit"), *model = tcase_create("model");
    tcase_add_checked_fixture(unit, setup, teardown);
    tcase_add_test(unit, open_and_create);
    tcase_add_test(unit, objects_and_ids);
    tcase_add_test(unit, ids_run_out);
    tcase_add_test(unit, kill_commit_abort);
    tcase_add_test(unit, pins_and_drops);
    tcase_add_test(unit, reader_slots);
    tcase_add_test(unit, epochs_protect_bytes);
    tcase_add_test(unit, stuck_reader);
    tcase_add_test(unit, oldest_pin);
    tcase_add_test(unit, checkpoint_is_wanted);
    tcase_add_test(unit, compact_is_durable);
    tcase_add_test(unit, compact_leaves_open_generation);
    tcase_add_test(unit, compact_ends_what_it_began);
    tcase_add_test(unit, shrink_and_stats);
    tcase_set_timeout(unit, 60);
    suite_add_tcase(suite, unit);
    tcase_add_checked_fixture(model, setup, teardown);
    tcase_add_loop_test(model, model_simulated, 0, 20);
    tcase_add_loop_test(model, model_posix, 0, 4);
    tcase_set_timeout(model, 120);
    suite_add_tcase(suite, model);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
