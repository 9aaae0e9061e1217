/*
 * The ranges of keys a batch has removed: disjoint, in key order.
 *
 * A range hides whatever lies below the write buffer it belongs to; the buffer's own entries are asked first. Ranges
 * are kept in the order in which they were added too, each with the buffer's mark at that time, so that a rollback
 * restores the set exactly. One writer until the batch is frozen, then read only.
 */
#ifndef ENGINE_HIDDEN_H
#define ENGINE_HIDDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/status.h"

/* from <= key < to. */
struct hidden_range {
    const uint8_t *from; /* at least one byte: the first key of all is {0} */
    const uint8_t *to;   /* NULL: open end */
    uint32_t from_bytes, to_bytes;
};

struct hidden {
    struct hidden_range *sorted;
    size_t count, capacity;
    struct hidden_added *added;
    size_t added_count, added_capacity;
    struct hidden_range *swallowed; /* a stack: added_count - count entries that are part of one in sorted */
    size_t swallowed_capacity;
};

/* mark: of the buffer, before it was changed for this range. ENG_NO_MEMORY: nothing changed. */
ENG_MUST_CHECK enum eng_status hidden_add(struct hidden *hidden, const struct hidden_range *range, uint64_t mark);
/* Ranges added at this mark or later are gone. Costs what adding them did. */
void hidden_rollback(struct hidden *hidden, uint64_t mark);
void hidden_free(struct hidden *hidden);

/* Index of the first range that ends after the key; hidden->count: none. */
size_t hidden_first(const struct hidden *hidden, const uint8_t *key, size_t key_bytes);
/* The range that holds the key, or NULL. before: the key itself is outside, what lies right before it counts. */
const struct hidden_range *hidden_find(const struct hidden *hidden, const uint8_t *key, size_t key_bytes, bool before);

#endif
