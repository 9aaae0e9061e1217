/*
 * Slots: the places of freed objects, used again at once while they are warm.
 *
 * A place may be written again before the next checkpoint only if no checkpoint knows its segment: so slots are taken
 * from segments that were opened after the last capture, and a capture forgets all slots. The object that was there is
 * reachable from no kept or pinned version, so no reader can be looking at it.
 *
 * Slots are kept by exact size, for each arena: a place goes back to the one that wrote it, whose thread has it in its
 * core's cache; places of inner nodes go back to the arenas of inner nodes. A slot is stale if its segment was emptied
 * since (the serial number changed) or is being retired for the compactor; stale ones are dropped when they come up.
 *
 * Who calls what: slot_offer and slots_forget between generations by whoever holds the commits' lock; slot_take by the
 * arena's thread within one. The compactor retires a segment and waits until the generation open at that time is closed
 * (compact.c): after that nobody takes slots from it. Who moves single objects does not wait: the serial number and the
 * live units, in the orders told in slot.c and segment_to_empty, keep a slot and the emptying of its segment apart.
 */
#ifndef ENGINE_SLOT_H
#define ENGINE_SLOT_H

#include "store.h"

#define SLOT_UNITS_MAX 64u    /* larger objects are not kept as slots */
#define SLOT_WASTE_UNITS 2u   /* a slot this much larger than asked for is good enough */
#define SLOTS_PER_SIZE 16384u /* in one arena */
#define SLOTS_APART 32u       /* an arena with so many more than another gives some away */

struct slot {
    uint64_t location;
    uint32_t serial;
};

struct slot_list {
    struct slot *slots;
    uint32_t count, capacity;
};

struct arena;

/* An object of units at location was freed; segment_release was called. */
void slot_offer(struct store *store, uint64_t location, uint32_t units, bool inner);
void slots_forget(struct store *store);
void slots_free(struct arena *arena);
/* A place for units or a little more; 0: none. *got is its size. Counts it as live. */
uint64_t slot_take(struct arena *arena, uint32_t units, uint32_t *got);

#endif
