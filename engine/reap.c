/*
 * Lazy freeing.
 *
 * store_kill_below names a node whose whole tree is no longer part of the version being made. It costs O(1): the node
 * becomes a `fall`. A fall is due when no kept version of its lineage lies in [born, died). The node of a due fall is
 * freed, and its children become falls with birth dates of their own (never later than their parent's), so a part that
 * an older version still sees waits until that version is gone. Falls are a stack: what is below is freed before what
 * is beside, and the stack stays small. A commit or a drop frees at most REAP_STEP objects; store_reap more.
 *
 * What waits, waits for the oldest version that sees it, which is watched (version.h). All that wait are looked at when
 * a watched version went, and not when others did, however many come and go while a snapshot is held.
 *
 * A subtree (OBJECT_TREE) falls like a node; what is below it is bounded by the floor of its base, and its hold on the
 * base becomes a `release`, due when no kept version can see the subtree since it has the base. Releases wait until no
 * fall is due: so nothing is freed that a node still to be looked at names. The last release of a base makes its root
 * a fall: versions older than the base may see it still.
 *
 * Pending falls stand in the catalog of a checkpoint. Frees are put off while a checkpoint computes checksums, like
 * those of death lists, and while a disk that is full has no room for what the catalog would get: a checkpoint gives
 * it some.
 *
 * Ways to fail: a damaged node (its fall stays, the error comes back at every step); no memory for the stack.
 */
#include "reap.h"

#include <stdlib.h>

#include "store_internal.h"

void store_kill_below(struct arena *arena, uint32_t id, uint64_t born, uint64_t floor)
{
    assert(arena->generation && id != 0 && born <= arena->generation && born > floor);
    if (arena->falls_count == arena->falls_capacity) {
        size_t capacity = arena->falls_capacity ? arena->falls_capacity * 2 : 16;
        struct arena_fall *falls = realloc(arena->falls, capacity * sizeof *falls);
        if (!falls) {
            arena->failed = ENG_NO_MEMORY;
            return;
        }
        arena->falls = falls;
        arena->falls_capacity = capacity;
    }
    arena->falls[arena->falls_count++] = (struct arena_fall){.born = born, .floor = floor, .id = id};
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

/* The same for falls that come anew: the next catalog has them. */
static enum eng_status room_for_new(struct store *store, size_t more)
{
    enum eng_status status = room_for(store, more);
    return status == ENG_OK && more ? checkpoint_room_entries(store, more) : status;
}

enum eng_status reap_room(struct store *store)
{
    size_t more = 0;
    for (uint32_t i = 0; i < store->arenas_count; i++)
        more += store->arenas[i].falls_count;
    return room_for_new(store, more);
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
                                      .floor = arena->falls[f].floor,
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
    free(store->reaper.releases);
}

static void look_again(struct store *store)
{
    struct reaper *reaper = &store->reaper;
    if (room_for(store, reaper->waiting_count) != ENG_OK)
        return; /* another time */
    reaper->look = false;
    reaper->holds_go = reaper->releases_count != 0;
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

static enum eng_status release_room(struct store *store)
{
    struct reaper *reaper = &store->reaper;
    if (reaper->releases_count < reaper->releases_capacity)
        return ENG_OK;
    size_t want = reaper->releases_capacity ? 2 * reaper->releases_capacity : 64;
    struct release *grown = realloc(reaper->releases, want * sizeof *grown);
    if (!grown)
        return eng_fail(ENG_NO_MEMORY, "%s: list of holds to give back: out of memory", store->dir);
    reaper->releases = grown;
    reaper->releases_capacity = want;
    return ENG_OK;
}

static void release_add(struct reaper *reaper, const struct release *release)
{
    reaper->releases[reaper->releases_count++] = *release;
    reaper->holds_go = true;
}

enum eng_status reap_load_release(struct store *store, const struct release *release)
{
    enum eng_status status = release_room(store);
    if (status == ENG_OK)
        release_add(&store->reaper, release);
    return status;
}

/* The hold is gone. If it was the last, what the base owned falls, and its own hold is given back: in the place of the
 * one that went. */
static enum eng_status release_one(struct store *store, struct release *release, bool *again)
{
    struct base ended;
    enum eng_status status = room_for_new(store, 1);
    if (status != ENG_OK)
        return status;
    *again = false;
    if (!base_release(store, release->base, &ended))
        return ENG_OK;
    if (ended.root) {
        const struct object *root = store_object(store, ended.root);
        uint64_t floor = store_base_floor(store, ended.before);
        if (!root)
            return ENG_DAMAGED; /* the base is gone all the same: nobody can free what cannot be read */
        struct fall fall = {root->generation, ended.floor + 1, floor, ended.root, ended.lineage};
        if (fall.born > floor)
            add(store, &fall);
    }
    if (ended.before) {
        *release = (struct release){ended.since, ended.floor + 1, ended.before, ended.lineage};
        *again = true;
    }
    return ENG_OK;
}

/* The holds of those no version can see any more. Nothing else is due. */
static enum eng_status release_due(struct store *store)
{
    struct reaper *reaper = &store->reaper;
    size_t kept = 0, i = 0;
    enum eng_status status = ENG_OK;
    reaper->holds_go = false;
    for (; i < reaper->releases_count && status == ENG_OK; i++) {
        struct release release = reaper->releases[i];
        bool again = true;
        if (!version_sees(store, release.lineage, release.born, release.died))
            status = release_one(store, &release, &again);
        if (again) {
            reaper->holds_go |= !version_sees(store, release.lineage, release.born, release.died);
            reaper->releases[kept++] = release;
        }
    }
    reaper->holds_go |= i < reaper->releases_count; /* not looked at yet */
    while (i < reaper->releases_count)
        reaper->releases[kept++] = reaper->releases[i++];
    reaper->releases_count = kept;
    return status;
}

/* Is there anything that may be freed? */
static bool reap_due(const struct reaper *reaper)
{
    return reaper->due_count || (reaper->look && (reaper->waiting_count || reaper->releases_count)) || reaper->holds_go;
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
    uint32_t base = 0;
    uint64_t since = 0;
    if (object->type == OBJECT_TREE)
        store->shape.tree(object, &base, &since);
    if (below->status == ENG_OK)
        below->status = room_for_new(store, below->count);
    if (below->status == ENG_OK && base)
        below->status = release_room(store);
    size_t own = 0; /* what is left of a base's may be gone (it was absorbed since), and its ids used again */
    uint64_t floor = object->type == OBJECT_TREE ? store_base_floor(store, base) : fall.floor;
    for (size_t i = 0; i < below->count && below->status == ENG_OK; i++) {
        uint32_t id = below->ids[i];
        if (floor && !atomic_load_explicit(&store_view(store)->control[id], memory_order_relaxed))
            continue;
        const struct object *child = store_object(store, id);
        if (!child)
            below->status = ENG_DAMAGED;
        else if (!floor || child->generation <= fall.born)
            below->ids[own++] = id;
    }
    if (below->status != ENG_OK)
        return below->status;
    below->count = own;
    reaper->due_count--;
    for (size_t i = 0; i < below->count; i++) {
        struct fall child = fall;
        child.id = below->ids[i];
        child.born = store_object(store, child.id)->generation;
        if (object->type == OBJECT_TREE)
            child.floor = store_base_floor(store, base);
        assert(child.born <= fall.born);
        if (child.born > child.floor) /* else it is the base's */
            add(store, &child);
    }
    if (base)
        release_add(reaper, &(struct release){since, fall.died, base, fall.lineage});
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
        *left = reap_due(reaper);
    /* acquire: partner of the release in checkpoint_make; the checksums are written */
    if (!reap_due(reaper) || atomic_load_explicit(&store->checkpoint.checksumming, memory_order_acquire))
        return ENG_OK;
    struct reader *reader = &store->readers.slots[READER_WRITER];
    struct below below = {.store = store};
    enum eng_status status = ENG_OK;
    reader_enter(reader); /* the compactor may move what we read */
    if (reaper->look)
        look_again(store);
    control_free_begin(store);
    for (uint64_t i = 0; i < max && status == ENG_OK; i++) {
        if (!reaper->due_count && reaper->holds_go && !reaper->look)
            status = release_due(store);
        if (!reaper->due_count && !(reaper->holds_go && !reaper->look))
            break;
        if (reaper->due_count && status == ENG_OK)
            status = reap_one(store, &below);
    }
    control_free_end(store);
    reader_leave(reader);
    free(below.ids);
    maintenance_hint(store);
    if (left)
        *left = reap_due(reaper);
    return status == ENG_FULL ? ENG_OK : status; /* what is due stays so until there is room for the catalog */
}
