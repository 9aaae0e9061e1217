#include "lost.h"

#include <stdlib.h>

enum eng_status lost_add(struct lost *lost, uint64_t from, uint64_t to)
{
    struct lost_range *last = lost->count ? &lost->ranges[lost->count - 1] : NULL;
    if (from >= to)
        return ENG_DAMAGED;
    if (last && last->from == from && last->to <= to) { /* no checkpoint was made since */
        last->to = to;
        return ENG_OK;
    }
    if (last && last->to > from)
        return ENG_DAMAGED;
    if (lost->count == lost->capacity) {
        size_t want = lost->capacity ? 2 * lost->capacity : 8;
        struct lost_range *grown = realloc(lost->ranges, want * sizeof *grown);
        if (!grown)
            return ENG_NO_MEMORY;
        lost->ranges = grown;
        lost->capacity = want;
    }
    lost->ranges[lost->count++] = (struct lost_range){from, to};
    return ENG_OK;
}

bool lost_has(const struct lost *lost, uint64_t generation)
{
    size_t low = 0, high = lost->count; /* the first range that ends behind it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (lost->ranges[middle].to <= generation)
            low = middle + 1;
        else
            high = middle;
    }
    return low < lost->count && lost->ranges[low].from < generation;
}

void lost_free(struct lost *lost)
{
    free(lost->ranges);
    *lost = (struct lost){0};
}
