/*
 * Generations that are lost: made after the checkpoint a start went back to, and before that start.
 *
 * A crash leaves their objects in the segments. An object that a checkpoint had given its checksum before the crash
 * cannot be told from a live one by itself, and once later checkpoints were made not by its generation either, which is
 * older than theirs. A rebuild (rebuild.c), which has nothing but the objects, would take it for the newest copy of its
 * id. So every start notes the range, the catalog keeps all ranges (catalog.c), and a rebuild leaves them out.
 *
 * One range a start after which a checkpoint was made, 96 bytes in the catalog; none is ever taken out, since nobody
 * knows when the last object of it was overwritten. Written at a start, before other threads are there.
 */
#ifndef ENGINE_LOST_H
#define ENGINE_LOST_H

#include "store.h"

struct lost_range {
    uint64_t from, to; /* both not included */
};

/* In ascending order, disjoint. */
struct lost {
    struct lost_range *ranges;
    size_t count, capacity;
};

/* The next range; one that begins where the last one does takes its place. ENG_NO_MEMORY; ENG_DAMAGED: not behind the
 * last one (eng_error() is the caller's). */
ENG_MUST_CHECK enum eng_status lost_add(struct lost *lost, uint64_t from, uint64_t to);
bool lost_has(const struct lost *lost, uint64_t generation);
void lost_free(struct lost *lost);

#endif
