/*
 * Bases (store.h has the rule).
 *
 * A table by number. A place without holders is free and used again: no version can see a subtree that names it,
 * because a hold is only given back when every version that could see its holder is gone (reap.c). Within a generation
 * every change is preceded by a record of what the place held, so an undone generation leaves the table as it was.
 *
 *   clone      make (from the subtree's present root), then one hold for each subtree that goes on from it
 *   last hold  base_release: reap.c frees what the base owned
 *   sole hold  dissolve: the one subtree that is left takes everything back, so that a base does not outlive its use
 *
 * A base made in the open generation counts as live although it has no holders yet (BASE_FRESH). Ways to fail: memory;
 * a full disk that has no room for one more in the catalog.
 */
#include "base.h"

#include <stdlib.h>

#include "store_internal.h"

#define BASE_FRESH (1ull << 63) /* in holders, within the generation that made it */

static enum eng_status note(struct bases *bases, uint32_t index)
{
    if (bases->undo_count == bases->undo_capacity) {
        size_t want = bases->undo_capacity ? 2 * bases->undo_capacity : 64;
        struct base_undo *grown = realloc(bases->undo, want * sizeof *grown);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "bases: out of memory");
        bases->undo = grown;
        bases->undo_capacity = want;
    }
    bases->undo[bases->undo_count++] = (struct base_undo){index, bases->table[index]};
    return ENG_OK;
}

/* A free place, or a new one. */
static enum eng_status place(struct bases *bases, size_t least, uint32_t *index)
{
    for (size_t i = 0; bases->live < bases->count && i < bases->count && least == 0; i++) {
        if (bases->table[i].holders == 0) {
            *index = (uint32_t)i;
            return ENG_OK;
        }
    }
    size_t count = bases->count + 1 > least ? bases->count + 1 : least;
    if (count > bases->capacity) {
        size_t want = bases->capacity ? 2 * bases->capacity : 16;
        want = want < count ? count : want;
        struct base *grown = realloc(bases->table, want * sizeof *grown);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "bases: out of memory");
        bases->table = grown;
        bases->capacity = want;
    }
    while (bases->count < count)
        bases->table[bases->count++] = (struct base){0};
    *index = (uint32_t)count - 1;
    return ENG_OK;
}

enum eng_status store_base_make(struct store *store, uint32_t root, uint32_t before, uint64_t since, uint32_t *base)
{
    struct bases *bases = &store->bases;
    uint32_t index = 0;
    assert(store->open != 0);
    enum eng_status status = checkpoint_room_entries(store, 1);
    if (status == ENG_OK)
        status = place(bases, 0, &index);
    if (status == ENG_OK)
        status = note(bases, index);
    if (status != ENG_OK)
        return status;
    bases->table[index] = (struct base){.holders = BASE_FRESH,
                                        .floor = store->open - 1,
                                        .since = since,
                                        .root = root,
                                        .before = before,
                                        .lineage = store->open_lineage};
    bases->live++;
    *base = index + 1;
    return ENG_OK;
}

enum eng_status store_base_hold(struct store *store, uint32_t base)
{
    struct bases *bases = &store->bases;
    assert(store->open != 0 && base_of(bases, base)->holders != 0);
    enum eng_status status = note(bases, base - 1);
    if (status == ENG_OK)
        base_of(bases, base)->holders++;
    return status;
}

uint64_t store_base_floor(const struct store *store, uint32_t base)
{
    assert(base <= store->bases.count);
    return base ? store->bases.table[base - 1].floor : 0;
}

bool store_has_bases(const struct store *store, uint32_t lineage)
{
    for (size_t i = 0; i < store->bases.count; i++)
        if (store->bases.table[i].holders && store->bases.table[i].lineage == lineage)
            return true;
    return false;
}

bool store_base_dissolve(struct store *store, uint32_t base, uint32_t *root, uint32_t *before, uint64_t *since)
{
    struct bases *bases = &store->bases;
    struct base *b = base_of(bases, base);
    assert(store->open != 0 && b->holders != 0);
    if (b->holders != 1 || note(bases, base - 1) != ENG_OK)
        return false; /* without memory for the note: another time */
    *root = b->root;
    *before = b->before;
    *since = b->since;
    *b = (struct base){0};
    bases->live--;
    return true;
}

void bases_keep(struct store *store)
{
    struct bases *bases = &store->bases;
    for (size_t i = 0; i < bases->undo_count; i++) {
        struct base *b = &bases->table[bases->undo[i].index];
        b->holders &= ~BASE_FRESH;
        assert(b->holders != 0 || b->floor == 0); /* whoever makes one holds it */
    }
    bases->undo_count = 0;
}

void bases_undo(struct store *store)
{
    struct bases *bases = &store->bases;
    while (bases->undo_count) {
        const struct base_undo *undo = &bases->undo[--bases->undo_count];
        bases->live += undo->before.holders != 0;
        bases->live -= bases->table[undo->index].holders != 0;
        bases->table[undo->index] = undo->before;
    }
}

size_t bases_undone(const struct store *store)
{
    const struct bases *bases = &store->bases;
    size_t count = 0;
    for (size_t i = 0; i < bases->undo_count; i++)
        count += bases->undo[i].before.holders != 0 && bases->table[bases->undo[i].index].holders == 0;
    return count;
}

void bases_close(struct store *store)
{
    free(store->bases.table);
    free(store->bases.undo);
}

bool base_release(struct store *store, uint32_t base, struct base *ended)
{
    struct bases *bases = &store->bases;
    struct base *b = base_of(bases, base);
    assert(store->open == 0 && b->holders != 0);
    if (--b->holders)
        return false;
    *ended = *b;
    *b = (struct base){0};
    bases->live--;
    return true;
}

enum eng_status base_load(struct store *store, uint32_t base, const struct base *loaded)
{
    struct bases *bases = &store->bases;
    uint32_t index = base - 1;
    if (base == 0 || base > 1u << 28 || loaded->holders == 0 || loaded->holders >= BASE_FRESH ||
        loaded->lineage >= ENG_ROOTS_MAX || loaded->root >= store->control.limit)
        return eng_fail(ENG_DAMAGED, "impossible base %u", base);
    if (base > bases->count) {
        enum eng_status status = place(bases, base, &index);
        if (status != ENG_OK)
            return status;
    }
    if (bases->table[index].holders)
        return eng_fail(ENG_DAMAGED, "base %u twice", base);
    bases->table[index] = *loaded;
    bases->live++;
    return ENG_OK;
}
