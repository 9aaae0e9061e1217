/* The sealed segments by how little is live in them. See segment_heap.c. */
#ifndef ENGINE_SEGMENT_HEAP_H
#define ENGINE_SEGMENT_HEAP_H

#include "segment.h"

#define HEAP_STEPS 16u /* live ratios are told apart by sixteenths */

/* All need segments.lock. */
void heap_put(struct segments *segments, uint32_t segment);
void heap_take(struct segments *segments, uint32_t segment);
/* Its live units fell by a step. Returns its step now. */
uint32_t heap_fell(struct segments *segments, uint32_t segment);
/* The one to compact first, UINT32_MAX: none; *step: its live ratio in sixteenths, rounded up. */
uint32_t heap_first(struct segments *segments, uint32_t *step);
/* Looks at the live units of all in it anew, for an exact sum. */
void heap_refresh(struct segments *segments);

/* Does a fall from `before` live units cross a step? On the way of every free, without the lock. */
static inline bool heap_step_crossed(const struct segments *segments, uint64_t before, uint64_t units)
{
    uint32_t shift = segments->shift > 4 ? segments->shift - 4 : 0;
    return (before - 1) >> shift != (before - units - 1) >> shift;
}

#endif
