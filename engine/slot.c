#include "slot.h"

#include <stdlib.h>

#include "prefetch.h"
#include "store_internal.h"

void slot_offer(struct store *store, uint64_t location, uint32_t units, bool inner)
{
    if (units > SLOT_UNITS_MAX || store->undoing)
        return;
    struct segment *segment = &store->segments.table[segment_of(store, location)];
    /* seq_cst, in this order: partners are in segment_to_empty. What moves single objects (compact_parent, hot.c) may
     * empty the segment meanwhile: then the serial number is the old one and the slot stale, or nothing lives here any
     * more. retiring: relaxed, slot_take looks again */
    uint32_t serial = atomic_load(&segment->serial);
    if (segment->captured || atomic_load_explicit(&segment->retiring, memory_order_relaxed) ||
        atomic_load(&segment->live) == 0)
        return;
    /* Back to the arena it came from, near whose core it is; but the arenas do not share the work evenly. */
    uint32_t home = segment->writer < store->slot_arenas ? segment->writer : store->slot_turn++ % store->slot_arenas;
    uint32_t other = (home + 1) % store->slot_arenas;
    struct slot_list *list = &(inner ? store->arenas[home].inner : &store->arenas[home])->slots[units],
                     *second = &(inner ? store->arenas[other].inner : &store->arenas[other])->slots[units];
    if (second->count + SLOTS_APART < list->count)
        list = second;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 64;
        if (capacity > SLOTS_PER_SIZE)
            return;
        struct slot *slots = realloc(list->slots, capacity * sizeof *slots);
        if (!slots)
            return; /* a hole for the compactor */
        list->slots = slots;
        list->capacity = capacity;
    }
    list->slots[list->count++] = (struct slot){location, serial};
}

void slots_forget(struct store *store)
{
    for (uint32_t a = 0; a < store->arenas_count; a++)
        for (uint32_t u = 0; u <= SLOT_UNITS_MAX; u++)
            store->arenas[a].slots[u].count = 0;
}

void slots_free(struct arena *arena)
{
    for (uint32_t u = 0; u <= SLOT_UNITS_MAX; u++)
        free(arena->slots[u].slots);
}

uint64_t slot_take(struct arena *arena, uint32_t units, uint32_t *got)
{
    struct store *store = arena->store;
    for (uint32_t u = units; u <= units + SLOT_WASTE_UNITS && u <= SLOT_UNITS_MAX; u++) {
        struct slot_list *list = &arena->slots[u];
        while (list->count) {
            struct slot slot = list->slots[--list->count];
            struct segment *segment = &store->segments.table[segment_of(store, slot.location)];
            /* seq_cst: partner of retire in compact.c; this generation opened before, and is waited for, or sees it */
            if (atomic_load(&segment->retiring) ||
                atomic_load_explicit(&segment->serial, memory_order_relaxed) != slot.serial)
                continue;
            /* seq_cst, in this order: partners are in segment_to_empty, where a segment is emptied whose last object
             * was moved away just now; it sees this one, or this thread sees the new serial number. */
            atomic_fetch_add_explicit(&segment->live, u, memory_order_seq_cst);
            if (atomic_load(&segment->serial) != slot.serial) {
                segment_release(store, segment_of(store, slot.location), u);
                continue;
            }
            atomic_store_explicit(&segment->newest, arena->generation, memory_order_relaxed);
            *got = u;
            if (list->count) { /* the next one is on its way when it is asked for */
                const uint8_t *next = arena->base + list->slots[list->count - 1].location * UNIT_BYTES;
                for (uint32_t line = 0; line < u; line++)
                    prefetch_write(next + line * UNIT_BYTES);
            }
            return slot.location;
        }
    }
    return 0;
}
