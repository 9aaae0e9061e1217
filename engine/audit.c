/*
 * Counting everything: does every live id belong to somebody, and is everything named live?
 *
 * An id belongs to a version whose tree it is part of, to a death list (the list's own chunks and what they name), or
 * to a base, or to a fall that is pending, and the tree below it. Every hold on a base is counted too: one for each
 * subtree object that names it, each base made on top of it, each release that is pending; as `missing` if they differ.
 * Tests use it to show that nothing leaks.
 */
#include <stdlib.h>
#include <string.h>

#include "store_internal.h"

struct audit {
    struct store *store;
    uint8_t *seen; /* a bit an id */
    uint32_t *stack;
    size_t count, capacity;
    uint64_t missing;
    uint64_t *holds; /* by base */
    enum eng_status status;
};

static bool live(const struct audit *audit, uint32_t id)
{
    return id && id < audit->store->control.next &&
           atomic_load_explicit(&audit->store->view.control[id], memory_order_relaxed) != 0;
}

/* Marks an id; true if it was not marked before and is live. */
static bool mark(struct audit *audit, uint32_t id)
{
    if (!live(audit, id)) {
        audit->missing++;
        return false;
    }
    bool fresh = !(audit->seen[id >> 3] >> (id & 7) & 1);
    audit->seen[id >> 3] |= (uint8_t)(1u << (id & 7));
    return fresh;
}

static void push(void *context, uint32_t id)
{
    struct audit *audit = context;
    if (audit->status != ENG_OK || !mark(audit, id))
        return;
    if (audit->count == audit->capacity) {
        size_t want = audit->capacity ? 2 * audit->capacity : 1024;
        uint32_t *grown = realloc(audit->stack, want * sizeof *grown);
        if (!grown) {
            audit->status = eng_fail(ENG_NO_MEMORY, "audit: out of memory");
            return;
        }
        audit->stack = grown;
        audit->capacity = want;
    }
    audit->stack[audit->count++] = id;
}

static void walk(struct audit *audit, uint32_t root)
{
    if (!root)
        return;
    push(audit, root);
    while (audit->count && audit->status == ENG_OK) {
        const struct object *object = store_object(audit->store, audit->stack[--audit->count]);
        if (!object) {
            audit->status = ENG_DAMAGED;
            return;
        }
        audit->store->shape.below(object, push, audit);
        uint32_t base = 0;
        uint64_t since;
        if (audit->holds && object->type == OBJECT_TREE)
            audit->store->shape.tree(object, &base, &since);
        if (base > audit->store->bases.count)
            audit->missing++;
        else if (base)
            audit->holds[base - 1]++;
    }
}

/* What a list names is live, and if a tree is named by its root alone it stands there with every node. */
static void walk_list(struct audit *audit, uint32_t head)
{
    while (head && audit->status == ENG_OK && mark(audit, head)) {
        const struct list_chunk *chunk = (const struct list_chunk *)(const void *)store_object(audit->store, head);
        if (!chunk) {
            audit->status = ENG_DAMAGED;
            return;
        }
        for (uint32_t i = 0; i < chunk->count; i++)
            mark(audit, list_entry(chunk->entries, i).id);
        head = chunk->next;
    }
}

static void walk_falls(struct audit *audit)
{
    const struct reaper *reaper = &audit->store->reaper;
    for (size_t i = 0; i < reaper->due_count && audit->status == ENG_OK; i++)
        walk(audit, reaper->due[i].id);
    for (size_t i = 0; i < reaper->waiting_count && audit->status == ENG_OK; i++)
        walk(audit, reaper->waiting[i].id);
}

static void walk_bases(struct audit *audit)
{
    const struct bases *bases = &audit->store->bases;
    for (size_t i = 0; i < bases->count && audit->status == ENG_OK; i++)
        if (bases->table[i].holders)
            walk(audit, bases->table[i].root);
}

/* Subtrees that older versions alone see are what newer ones were made from, or have a release pending: not counted. */
static void audit_holds(struct audit *audit)
{
    struct store *store = audit->store;
    memset(audit->seen, 0, store->control.next / 8 + 1);
    for (uint32_t i = 0; i < ENG_ROOTS_MAX && audit->status == ENG_OK; i++) {
        const struct lineage *line = &store->versions.lineages[i];
        if (line->count)
            walk(audit, line->versions[line->first + line->count - 1].seen.root);
    }
    walk_bases(audit);
    walk_falls(audit);
    for (size_t i = 0; i < store->reaper.releases_count; i++)
        audit->holds[store->reaper.releases[i].base - 1]++;
    for (size_t i = 0; i < store->bases.count; i++)
        if (store->bases.table[i].holders && store->bases.table[i].before)
            audit->holds[store->bases.table[i].before - 1]++;
    for (size_t i = 0; i < store->bases.count; i++)
        audit->missing += audit->holds[i] != store->bases.table[i].holders;
}

enum eng_status store_audit(struct store *store, uint64_t *leaked, uint64_t *missing)
{
    assert(store->open == 0 && store->shape.below);
    struct audit audit = {.store = store, .seen = calloc(store->control.next / 8 + 1, 1)};
    if (!audit.seen)
        return eng_fail(ENG_NO_MEMORY, "audit: out of memory");
    struct reader *reader = &store->readers.slots[READER_WRITER];
    reader_enter(reader);
    for (uint32_t i = 0; i < ENG_ROOTS_MAX && audit.status == ENG_OK; i++) {
        const struct lineage *line = &store->versions.lineages[i];
        for (size_t v = 0; v < line->count && audit.status == ENG_OK; v++) {
            walk(&audit, line->versions[line->first + v].seen.root);
            walk_list(&audit, line->versions[line->first + v].list);
        }
    }
    walk_bases(&audit);
    walk_falls(&audit);
    *leaked = 0;
    for (uint32_t id = 1; id < store->control.next; id++)
        *leaked += live(&audit, id) && !(audit.seen[id >> 3] >> (id & 7) & 1);
    audit.holds = calloc(store->bases.count + 1, sizeof *audit.holds);
    if (!audit.holds && audit.status == ENG_OK)
        audit.status = eng_fail(ENG_NO_MEMORY, "audit: out of memory");
    if (audit.status == ENG_OK)
        audit_holds(&audit);
    reader_leave(reader);
    *missing = audit.missing;
    free(audit.holds);
    free(audit.seen);
    free(audit.stack);
    return audit.status;
}
