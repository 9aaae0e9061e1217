/*
 * Rebuild: a start that does not need the control table.
 *
 * Every object names itself: checksum, generation, id, size, type. So the table can be made anew from the segments, by
 * looking at every multiple of 64 bytes. What is found there with a right checksum is an object as it was when some
 * checkpoint was made: nothing within a value is, because checksums depend on the store's secret (rootslot.c). Those of
 * a generation newer than the checkpoint's are not part of it (a checkpoint that came after began and did not end), nor
 * are those of lost generations (lost.h); of several copies of one id the one of the newest generation counts. Copies
 * of the same generation are what the compactor moved, and are the same. Which of them the checkpoint's own table means
 * is not asked; so no segment that any object was found in is written to before the next checkpoint: a start after a
 * crash in between needs no rebuild.
 *
 * Whether an object was live cannot be seen from it. So the versions decide:
 *
 *   store_open: table of everything found, versions from the catalog (rebuild_table, recovery.c).
 *
 *   The caller checks each version's tree, digests and all: an older object in place of a lost one is found out.
 *
 *   store_rebuilt: versions that are not good are forgotten. The others are walked from the newest to the oldest: what
 * a version has and the next one has not, died when the next one was made. That is the death list of the next one, as
 *   it was, without reading a list object. What nobody has is freed.
 *
 *   The caller replays its log, if it has one, and makes a checkpoint. Not before, or a start after a crash in between
 *   would replay what follows a lost version onto the one before it.
 *
 * A root with clones of subtrees keeps its newest version alone: what older ones share through bases cannot be told
 * from the objects. Who holds which base is counted anew, by walking that version and the bases it needs.
 *
 * What waited to be freed lazily (reap.c) is part of the versions that see it, and is freed with them by their death
 * lists.
 *
 * Each segment is read by calls before it is looked at through the map: what the disk cannot read is an error then, and
 * no SIGBUS.
 *
 * Ways to fail: ENG_NO_MEMORY, ENG_FULL for the new lists, ENG_IO. The files of the checkpoint that was found are only
 * replaced by the new checkpoint: a rebuild that failed, or was killed, can be done again.
 */
#include "rebuild.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_internal.h"

#define READ_BYTES (256u << 10)

void rebuild_say(const struct store_options *options, const char *format, ...)
{
    char line[512];
    va_list args;
    if (!options->report)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    options->report(options->report_context, line);
}

/* ---- the table ---------------------------------------------------------------------------------------------------*/

/* Could an object of the checkpoint begin here? Its checksum has not been looked at. */
static bool plausible(const struct store *store, const struct object *object, uint32_t units_left)
{
    uint64_t newest = store->root.generation ? store->root.generation : UINT64_MAX;
    return object->checksum != 0 && object->units != 0 && object->units <= units_left && object->type != OBJECT_NONE &&
           object->type <= OBJECT_TREE && object->id != 0 && object->id < store->control.next &&
           object->generation <= newest && (size_t)object->units * UNIT_BYTES >= sizeof *object;
}

static bool object_right(const struct store *store, const struct object *object)
{
    return object->checksum == object_checksum(store->root.secret, object);
}

/* An object was found: does it take the place of another copy? */
static void table_put(struct store *store, const struct object *object, uint64_t location)
{
    _Atomic uint64_t *word = &store->view.control[object->id];
    uint64_t present = atomic_load_explicit(word, memory_order_relaxed);
    if (present) {
        const struct object *other =
            (const void *)(store->view.base + CONTROL_LOCATION(present) * (uint64_t)UNIT_BYTES);
        if (other->generation >= object->generation)
            return;
    }
    atomic_store_explicit(word,
                          location | (uint64_t)object->units << CONTROL_UNITS_SHIFT |
                              (uint64_t)object->type << CONTROL_TYPE_SHIFT | CONTROL_VERIFIED,
                          memory_order_relaxed);
}

static void scan_segment(struct store *store, uint32_t n)
{
    uint64_t base = (uint64_t)n << store->segments.shift;
    for (uint32_t at = segment_start(n); at < store->segments.units;) {
        const struct object *object = (const void *)(store->view.base + (base + at) * UNIT_BYTES);
        if (plausible(store, object, store->segments.units - at) && object_right(store, object)) {
            if (!lost_has(&store->lost, object->generation))
                table_put(store, object, base + at);
            store->segments.table[n].captured = store->root.checkpoint;
            at += object->units;
        } else {
            at++;
        }
    }
}

/* What a control page read from the file would have told: live units, fill, free ids. */
static void table_count(struct store *store)
{
    struct control *control = &store->control;
    struct segments *segments = &store->segments;
    for (uint64_t id = control->next; id-- > 1;) {
        uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_relaxed);
        control_mark(control->dirty, (uint32_t)id); /* whatever the file holds is written anew */
        if (!word) {
            control->free_ids[control->free_count++] = (uint32_t)id;
            continue;
        }
        uint64_t location = CONTROL_LOCATION(word), units = CONTROL_UNITS(word);
        struct segment *segment = &segments->table[segment_of(store, location)];
        uint32_t end = (uint32_t)((location & (segments->units - 1)) + units);
        atomic_fetch_add_explicit(&segment->live, units, memory_order_relaxed);
        atomic_fetch_add_explicit(&control->live, 1, memory_order_relaxed);
        if (end > segment->fill)
            segment->fill = end;
    }
}

static enum eng_status read_segment(struct store *store, uint32_t n, uint8_t piece[READ_BYTES])
{
    uint64_t size = (uint64_t)store->segments.units * UNIT_BYTES;
    enum eng_status status = ENG_OK;
    for (uint64_t at = 0; at < size && status == ENG_OK; at += READ_BYTES)
        status = disk_read(store->segments.file, n * size + at, piece, size - at < READ_BYTES ? size - at : READ_BYTES);
    return status;
}

enum eng_status rebuild_table(struct store *store)
{
    struct control *control = &store->control;
    if (store->root.ids_next == 0 || store->root.ids_next > control->limit)
        return eng_fail(ENG_DAMAGED, "%s: root slot: next id %llu is impossible", disk_file_path(store->slots),
                        (unsigned long long)store->root.ids_next);
    uint8_t *piece = malloc(READ_BYTES);
    enum eng_status status = piece ? ENG_OK : eng_fail(ENG_NO_MEMORY, "%s: rebuild: out of memory", store->dir);
    control->next = store->root.ids_next;
    for (uint32_t n = 0; n < store->segments.total && status == ENG_OK; n++) {
        status = read_segment(store, n, piece);
        if (status == ENG_OK)
            scan_segment(store, n);
    }
    free(piece);
    if (status == ENG_OK)
        table_count(store);
    return status;
}

/* ---- what is live ------------------------------------------------------------------------------------------------*/

struct walk {
    struct store *store;
    uint8_t *seen; /* a bit an id */
    uint32_t *stack;
    size_t count, capacity;
    struct death *fresh; /* seen for the first time */
    size_t fresh_count, fresh_capacity;
    uint64_t *bases;        /* holders in the catalog: not 0, it is there */
    uint64_t newest;        /* generation of what names the objects at hand: nothing younger is meant */
    enum eng_status status; /* ENG_DAMAGED: something that is named is not there */
};

static enum eng_status grow(struct store *store, void **array, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return ENG_OK;
    size_t want = *capacity ? 2 * *capacity : 1024;
    void *grown = realloc(*array, want * size);
    if (!grown)
        return eng_fail(ENG_NO_MEMORY, "%s: rebuild: out of memory", store->dir);
    *array = grown;
    *capacity = want;
    return ENG_OK;
}

static bool is_live(struct store *store, uint32_t id)
{
    return id && id < store->control.next && atomic_load_explicit(&store->view.control[id], memory_order_relaxed) != 0;
}

static bool is_seen(const struct walk *walk, uint32_t id)
{
    return walk->seen[id >> 3] >> (id & 7) & 1;
}

static void walk_push(void *context, uint32_t id)
{
    struct walk *walk = context;
    if (walk->status != ENG_OK)
        return;
    if (!is_live(walk->store, id)) {
        walk->status =
            eng_fail(ENG_DAMAGED, "%s: object %u is missing", disk_file_path(walk->store->segments.file), id);
        return;
    }
    const struct object *object =
        store_object(walk->store, id); /* all are verified: they were found by their checksum */
    if (object->generation > walk->newest) {
        walk->status = eng_fail(ENG_DAMAGED, "%s: object %u: not the one that is meant, which is missing",
                                disk_file_path(walk->store->segments.file), id);
        return;
    }
    if (is_seen(walk, id))
        return; /* and all below it */
    walk->status = grow(walk->store, (void **)&walk->stack, &walk->capacity, walk->count, sizeof *walk->stack);
    if (walk->status == ENG_OK)
        walk->status =
            grow(walk->store, (void **)&walk->fresh, &walk->fresh_capacity, walk->fresh_count, sizeof *walk->fresh);
    if (walk->status != ENG_OK)
        return;
    walk->seen[id >> 3] |= (uint8_t)(1u << (id & 7));
    walk->stack[walk->count++] = id;
    walk->fresh[walk->fresh_count++] = (struct death){.born = object->generation, .id = id};
}

/* newest: the generation of what names it. */
static void walk_from(struct walk *walk, uint32_t id, uint64_t newest)
{
    walk->newest = newest;
    if (id)
        walk_push(walk, id);
    while (walk->count && walk->status == ENG_OK) {
        const struct object *object = store_object(walk->store, walk->stack[--walk->count]);
        walk->newest = object->generation;
        walk->store->shape.below(object, walk_push, walk);
    }
    walk->count = 0;
}

/* What waited to be freed is met below the versions that see it, or nobody has it. A fall that was kept could name what
 * the newest version that is left still has: it fell when one was made that is dropped now. */
static void falls_forget(struct store *store)
{
    struct reaper *reaper = &store->reaper;
    assert(reaper->due_count == 0); /* a start puts all into waiting */
    reaper->waiting_count = reaper->releases_count = 0;
    reaper->look = reaper->holds_go = false;
}

/* To be held anew. */
static void bases_unhold(struct walk *walk)
{
    struct bases *bases = &walk->store->bases;
    for (size_t i = 0; i < bases->count; i++) {
        walk->bases[i] = bases->table[i].holders;
        bases->table[i].holders = 0;
    }
}

static bool had_bases(const struct walk *walk, uint32_t lineage)
{
    const struct bases *bases = &walk->store->bases;
    for (size_t i = 0; i < bases->count; i++)
        if (walk->bases[i] && bases->table[i].lineage == lineage)
            return true;
    return false;
}

static void bases_recount(struct store *store)
{
    store->bases.live = 0;
    for (size_t i = 0; i < store->bases.count; i++)
        store->bases.live += store->bases.table[i].holders != 0;
}

/* The subtrees among what was seen since hold their bases; a base that is held for the first time is walked too. */
static enum eng_status hold_bases(struct walk *walk, size_t from)
{
    struct bases *bases = &walk->store->bases;
    for (; from < walk->fresh_count && walk->status == ENG_OK; from++) {
        const struct object *object = store_object(walk->store, walk->fresh[from].id);
        uint32_t base = 0;
        uint64_t since;
        if (object->type == OBJECT_TREE)
            walk->store->shape.tree(object, &base, &since);
        for (bool first = true; base && first && walk->status == ENG_OK;) {
            if (base > bases->count || !walk->bases[base - 1])
                return eng_fail(ENG_DAMAGED, "%s: object %u: names base %u, which is not in the catalog",
                                disk_file_path(walk->store->segments.file), walk->fresh[from].id, base);
            struct base *b = &bases->table[base - 1];
            first = b->holders++ == 0;
            if (first)
                walk_from(walk, b->root, b->floor);
            base = b->before; /* which it holds in its turn */
        }
    }
    return walk->status;
}

/* Leaves the good versions of a lineage, as if they were all there ever was. Their lists are gone. */
static enum eng_status keep_versions(struct store *store, uint32_t lineage,
                                     enum eng_status (*good)(void *context, uint32_t lineage,
                                                             const struct store_version *version),
                                     void *context)
{
    struct lineage *line = &store->versions.lineages[lineage];
    size_t count = line->count, kept = 0;
    struct version *versions = line->versions + line->first;
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < count && (status == ENG_OK || status == ENG_DAMAGED); i++) {
        struct version version = {.seen = versions[i].seen};
        if (versions[i].dropped)
            continue;
        status = good(context, lineage, &version.seen);
        if (status == ENG_OK)
            versions[kept++] = version; /* kept <= i */
    }
    if (status != ENG_OK && status != ENG_DAMAGED)
        return status;
    line->count = line->releasable = 0;
    line->due = 0;
    atomic_store_explicit(&line->sequence, 0, memory_order_relaxed); /* nobody reads yet */
    for (size_t i = 0; i < kept; i++) {
        struct version version = versions[i];
        version_append(store, lineage, &version); /* in the same place */
    }
    return ENG_OK;
}

/* Where in the list of deaths those of a version lie. */
struct span {
    struct version *version;
    size_t from, to;
};

static enum eng_status walk_versions(struct walk *walk, struct span *spans, size_t *spans_count)
{
    for (uint32_t lineage = 0; lineage < ENG_ROOTS_MAX; lineage++) {
        struct lineage *line = &walk->store->versions.lineages[lineage];
        for (size_t i = line->count; i-- > 0;) {
            struct version *version = &line->versions[line->first + i];
            size_t from = walk->fresh_count;
            walk_from(walk, version->seen.root, version->seen.generation);
            if (walk->status == ENG_OK && had_bases(walk, lineage))
                walk->status = hold_bases(walk, from);
            if (walk->status != ENG_OK)
                return walk->status;
            if (i + 1 < line->count && walk->fresh_count > from)
                spans[(*spans_count)++] = (struct span){.version = version + 1, .from = from, .to = walk->fresh_count};
        }
    }
    return ENG_OK;
}

/* Objects nobody has, old list objects among them. */
static void free_unseen(struct store *store, const struct walk *walk)
{
    control_free_begin(store);
    for (uint32_t id = 1; id < store->control.next; id++) {
        if (!is_live(store, id) || is_seen(walk, id))
            continue;
        store->shape.forget(store->shape.context, id);
        control_free(store, id);
    }
    control_free_end(store);
}

static enum eng_status make_lists(struct store *store, const struct walk *walk, const struct span *spans, size_t count)
{
    enum eng_status status = ENG_OK;
    generation_open(store);
    for (size_t i = 0; i < count && status == ENG_OK; i++)
        status = list_prepend(&store->arenas[0], walk->fresh + spans[i].from, spans[i].to - spans[i].from,
                              &spans[i].version->list);
    if (status == ENG_OK)
        generation_keep(store);
    else
        generation_undo(store);
    return status;
}

enum eng_status store_rebuilt(struct store *store,
                              enum eng_status (*good)(void *context, uint32_t lineage,
                                                      const struct store_version *version),
                              void *context)
{
    assert(store->magic == STORE_MAGIC && store->open == 0 && store->shape.below);
    size_t versions = 0, spans_count = 0;
    for (uint32_t i = 0; i < ENG_ROOTS_MAX; i++) {
        enum eng_status kept = keep_versions(store, i, good, context);
        if (kept != ENG_OK)
            return kept;
        versions += store->versions.lineages[i].count;
    }
    atomic_store_explicit(&store->versions.releasable, 0, memory_order_relaxed);
    struct walk walk = {.store = store, .seen = calloc(store->control.next / 8 + 1, 1)};
    walk.bases = calloc(store->bases.count + 1, sizeof *walk.bases);
    struct span *spans = calloc(versions + 1, sizeof *spans);
    enum eng_status status = ENG_OK;
    if (!walk.seen || !walk.bases || !spans)
        status = eng_fail(ENG_NO_MEMORY, "%s: rebuild: out of memory", store->dir);
    if (status == ENG_OK) {
        struct reader *reader = &store->readers.slots[READER_WRITER];
        store_lock_maintenance(store); /* the compactor stands still until the table is right */
        reader_enter(reader);
        falls_forget(store);
        bases_unhold(&walk);
        status = walk_versions(&walk, spans, &spans_count);
        if (status == ENG_OK)
            bases_recount(store);
        if (status == ENG_OK)
            free_unseen(store, &walk);
        reader_leave(reader);
        store_unlock_maintenance(store);
    }
    if (status == ENG_OK)
        status = make_lists(store, &walk, spans, spans_count);
    free(walk.seen);
    free(walk.bases);
    free(walk.stack);
    free(walk.fresh);
    free(spans);
    return status;
}
