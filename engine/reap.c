/*
 * Lazy freeing.
 *
 * store_kill_below names a node whose whole tree is no longer part of the version being made. It costs O(1): the node
 * becomes a `fall`. A fall is due when no kept version of its lineage lies in [born, died). The node of a due fall is
 * freed, and its children become falls with birth dates of their own (never later than their parent's), so a part that
 * an older version still sees waits until that version is gone. Falls are a stack: what is below is freed before what
 * is beside, and the stack stays small. A commit or a drop frees at most REAP_STEP objects; store_reap more.
 *
 * Pending falls stand in the catalog of a checkpoint. Frees are put off while a checkpoint computes checksums, like
 * those of death lists.
 *
 * Ways to fail: a damaged node (its fall stays, the error comes back at every step); no memory for the stack.
 */
#include "reap.h"

#include <stdlib.h>

#include "store_internal.h"

void store_kill_below(struct arena *arena, uint32_t id, uint64_t born)
{
    assert(arena->generation && id != 0 && born <= arena->generation);
    if (arena->falls_count == arena->falls_capacity) {
        size_t capacity = arena->falls_capacity ? arena->falls_capacity * 2 : 16;
        struct death *falls = realloc(arena->falls, capacity * sizeof *falls);
        if (!falls) {
            arena->failed = ENG_NO_MEMORY;
            return;
        }
        arena->falls = falls;
        arena->falls_capacity = capacity;
    }
    arena->falls[arena->falls_count++] = (struct death){.born = born, .id = id};
}

static enum eng_status room(struct store *store, struct fall **falls, size_t *capacity, size_t count)
{
    if (count <= *capacity)
        return ENG_OK;
    size_t want = 2 * count;
    struct fall *grown = realloc(*falls, want * sizeof *grown);
    if (!grown)
        return eng_fail(ENG_NO_MEMORY, "%s: list of nodes to free: out of memory", store->dir);
    *falls = grown;
    *capacity = want;
    return ENG_OK;
}

static enum eng_status room_for(struct store *store, size_t more)
{
    struct reaper *reaper = &store->reaper;
    enum eng_status status = room(store, &reaper->due, &reaper->due_capacity, reaper->due_count + more);
    if (status == ENG_OK)
        status = room(store, &reaper->waiting, &reaper->waiting_capacity, reaper->waiting_count + more);
    return status;
}

enum eng_status reap_room(struct store *store)
{
    size_t more = 0;
    for (uint32_t i = 0; i < store->arenas_count; i++)
        more += store->arenas[i].falls_count;
    return more ? room_for(store, more) : ENG_OK;
}

static void add(struct store *store, const struct fall *fall)
{
    struct reaper *reaper = &store->reaper;
    if (version_sees(store, fall->lineage, fall->born, fall->died))
        reaper->waiting[reaper->waiting_count++] = *fall;
    else
        reaper->due[reaper->due_count++] = *fall;
}

void reap_take(struct store *store)
{
    for (uint32_t i = 0; i < store->arenas_count; i++) {
        struct arena *arena = &store->arenas[i];
        for (size_t f = 0; f < arena->falls_count; f++)
            add(store, &(struct fall){.born = arena->falls[f].born,
                                      .died = store->open,
                                      .id = arena->falls[f].id,
                                      .lineage = store->open_lineage});
    }
}

enum eng_status reap_load(struct store *store, const struct fall *fall)
{
    struct reaper *reaper = &store->reaper;
    enum eng_status status = room(store, &reaper->waiting, &reaper->waiting_capacity, reaper->waiting_count + 1);
    if (status == ENG_OK) {
        reaper->waiting[reaper->waiting_count++] = *fall;
        reaper->look = true;
    }
    return status;
}

void reap_close(struct store *store)
{
    free(store->reaper.due);
    free(store->reaper.waiting);
}

static void look_again(struct store *store)
{
    struct reaper *reaper = &store->reaper;
    if (room_for(store, reaper->waiting_count) != ENG_OK)
        return; /* another time */
    reaper->look = false;
    size_t count = reaper->waiting_count;
    reaper->waiting_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct fall fall = reaper->waiting[i];
        add(store, &fall);
    }
}

struct below {
    struct store *store;
    const struct fall *above;
    uint32_t *ids;
    size_t count, capacity;
    enum eng_status status;
};

static void below_each(void *context, uint32_t id)
{
    struct below *below = context;
    if (below->status != ENG_OK)
        return;
    if (below->count == below->capacity) {
        size_t want = below->capacity ? 2 * below->capacity : 256;
        uint32_t *grown = realloc(below->ids, want * sizeof *grown);
        if (!grown) {
            below->status = eng_fail(ENG_NO_MEMORY, "%s: list of nodes to free: out of memory", below->store->dir);
            return;
        }
        below->ids = grown;
        below->capacity = want;
    }
    below->ids[below->count++] = id;
    store_prefetch_control(below->store, id);
}

/* Frees the object of the due fall on top; its children take its place. Nothing changed if it fails. */
static enum eng_status reap_one(struct store *store, struct below *below)
{
    struct reaper *reaper = &store->reaper;
    struct fall fall = reaper->due[reaper->due_count - 1];
    const struct object *object = store_object(store, fall.id);
    if (!object)
        return ENG_DAMAGED;
    below->count = 0;
    below->status = ENG_OK;
    store->shape.below(object, below_each, below);
    if (below->status == ENG_OK)
        below->status = room_for(store, below->count);
    for (size_t i = 0; i < below->count && below->status == ENG_OK; i++)
        if (!store_object(store, below->ids[i]))
            below->status = ENG_DAMAGED;
    if (below->status != ENG_OK)
        return below->status;
    reaper->due_count--;
    for (size_t i = 0; i < below->count; i++) {
        struct fall child = fall;
        child.id = below->ids[i];
        child.born = store_object(store, child.id)->generation;
        assert(child.born <= fall.born);
        add(store, &child);
    }
    store->shape.forget(store->shape.context, fall.id);
    control_free(store, fall.id);
    return ENG_OK;
}

enum eng_status store_reap(struct store *store, uint64_t max, bool *left)
{
    assert(store->magic == STORE_MAGIC && store->open == 0);
    struct reaper *reaper = &store->reaper;
    assert(store->shape.below || !(reaper->due_count + reaper->waiting_count));
    if (left)
        *left = reaper->due_count || (reaper->look && reaper->waiting_count);
    /* acquire: partner of the release in checkpoint_make; the checksums are written */
    if ((!reaper->due_count && !(reaper->look && reaper->waiting_count)) ||
        atomic_load_explicit(&store->checkpoint.checksumming, memory_order_acquire))
        return ENG_OK;
    struct reader *reader = &store->readers.slots[READER_WRITER];
    struct below below = {.store = store};
    enum eng_status status = ENG_OK;
    reader_enter(reader); /* the compactor may move what we read */
    if (reaper->look)
        look_again(store);
    control_free_begin(store);
    for (uint64_t i = 0; i < max && reaper->due_count && status == ENG_OK; i++)
        status = reap_one(store, &below);
    control_free_end(store);
    reader_leave(reader);
    free(below.ids);
    maintenance_hint(store);
    if (left)
        *left = reaper->due_count != 0;
    return status;
}
