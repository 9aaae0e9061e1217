/*
 * A growing array: { type *items; size_t count, capacity; } kept by its owner, grown here by doubling.
 */
#ifndef NODE_VECTOR_H
#define NODE_VECTOR_H

#include <stdint.h>
#include <stdlib.h>

#include "pando/status.h"

/* Makes room for need elements of size bytes each. ENG_NO_MEMORY: nothing changed. */
ENG_MUST_CHECK static inline enum eng_status vector_room(void **items, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity)
        return ENG_OK;
    size_t wanted = *capacity ? *capacity : 16;
    while (wanted < need)
        wanted *= 2;
    void *grown = need > SIZE_MAX / 4 / size ? NULL : realloc(*items, wanted * size);
    if (!grown)
        return eng_fail(ENG_NO_MEMORY, "ledger: no memory for %zu bytes", wanted * size);
    *items = grown;
    *capacity = wanted;
    return ENG_OK;
}

#endif
