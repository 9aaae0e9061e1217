/*
 * A batch in key order.
 *
 * The peers do a batch faster when its keys ascend, the more so the larger it is: neighbours share pages. So their
 * drivers sort a copy first, inside the measured time. (Pando's write buffer sorts anyway.)
 */
#ifndef BENCH_SORTED_H
#define BENCH_SORTED_H

#include <stdlib.h>
#include <string.h>

#include "store.h"

struct sorted {
    void *memory;
    size_t bytes;
};

static inline int sorted_order(const void *a, const void *b)
{
    return memcmp(a, b, BENCH_KEY_BYTES);
}

/* A sorted copy of items that begin with their key; valid until the next call. */
static inline void *sorted_copy(struct sorted *sorted, const void *items, size_t count, size_t item_bytes)
{
    if (sorted->bytes < count * item_bytes) {
        free(sorted->memory);
        sorted->bytes = count * item_bytes;
        sorted->memory = malloc(sorted->bytes);
        if (!sorted->memory)
            bench_die("no memory for a batch of %zu", count);
    }
    memcpy(sorted->memory, items, count * item_bytes);
    qsort(sorted->memory, count, item_bytes, sorted_order);
    return sorted->memory;
}

static inline void sorted_close(struct sorted *sorted)
{
    free(sorted->memory);
    *sorted = (struct sorted){0};
}

#endif
