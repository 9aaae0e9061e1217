/* Bases: what clones of a subtree share. See base.c. */
#ifndef ENGINE_BASE_H
#define ENGINE_BASE_H

#include "pando/status.h"
#include "store.h"

struct base {
    uint64_t holders; /* 0: the place is free */
    uint64_t floor, since;
    uint32_t root, before, lineage;
};

/* What a place held before the open generation changed it. */
struct base_undo {
    uint32_t index;
    struct base before;
};

struct bases {
    struct base *table; /* by base - 1 */
    size_t count, capacity;
    struct base_undo *undo;
    size_t undo_count, undo_capacity;
    size_t live;
};

/* The open generation is kept, or undone. */
void bases_keep(struct store *store);
void bases_undo(struct store *store);
/* Of the open generation: those that are no more, and would be again if it were undone. */
size_t bases_undone(const struct store *store);
void bases_close(struct store *store);
/* Outside of generations: a hold is gone. True: it was the last, *ended is what the base was, its place is free. */
bool base_release(struct store *store, uint32_t base, struct base *ended);
/* As a checkpoint has it. ENG_DAMAGED: impossible. */
ENG_MUST_CHECK enum eng_status base_load(struct store *store, uint32_t base, const struct base *loaded);

static inline struct base *base_of(struct bases *bases, uint32_t base)
{
    assert(base >= 1 && base <= bases->count);
    return &bases->table[base - 1];
}

#endif
