/*
 * See hidden.h. Adding a range swallows those it overlaps or touches; a rollback begins anew and adds again what was
 * there before the mark, without allocating: the sorted array never holds more ranges than were added.
 */
#include "hidden.h"

#include "node.h"

#include <stdlib.h>

struct hidden_added {
    struct hidden_range range; /* its bytes are owned here */
    uint64_t mark;
};

/* Index of the first range that ends after the key, or (at_end) at it. */
static size_t first_ending(const struct hidden *hidden, const uint8_t *key, size_t key_bytes, bool at_end)
{
    size_t lo = 0, hi = hidden->count;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        const struct hidden_range *range = &hidden->sorted[middle];
        int order = range->to ? bytes_compare(range->to, range->to_bytes, key, key_bytes) : 1;
        if (order < 0 || (order == 0 && !at_end))
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

static void insert(struct hidden *hidden, const struct hidden_range *range)
{
    struct hidden_range whole = *range;
    size_t lo = first_ending(hidden, range->from, range->from_bytes, true), hi;
    for (hi = lo; hi < hidden->count; hi++) {
        const struct hidden_range *other = &hidden->sorted[hi];
        if (whole.to && bytes_compare(other->from, other->from_bytes, whole.to, whole.to_bytes) > 0)
            break;
        if (bytes_compare(other->from, other->from_bytes, whole.from, whole.from_bytes) < 0) {
            whole.from = other->from;
            whole.from_bytes = other->from_bytes;
        }
        if (whole.to && (!other->to || bytes_compare(other->to, other->to_bytes, whole.to, whole.to_bytes) > 0)) {
            whole.to = other->to;
            whole.to_bytes = other->to_bytes;
        }
    }
    memmove(hidden->sorted + lo + 1, hidden->sorted + hi, (hidden->count - hi) * sizeof whole);
    hidden->sorted[lo] = whole;
    hidden->count = hidden->count - (hi - lo) + 1;
}

static bool grow(void **array, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return true;
    size_t want = *capacity ? 2 * *capacity : 8;
    void *fresh = realloc(*array, want * size);
    if (!fresh)
        return false;
    *array = fresh;
    *capacity = want;
    return true;
}

enum eng_status hidden_add(struct hidden *hidden, const struct hidden_range *range, uint64_t mark)
{
    uint8_t *bytes = malloc((size_t)range->from_bytes + range->to_bytes);
    if (!bytes || !grow((void **)&hidden->added, &hidden->added_capacity, hidden->added_count, sizeof *hidden->added) ||
        !grow((void **)&hidden->sorted, &hidden->capacity, hidden->added_count, sizeof *hidden->sorted)) {
        free(bytes);
        return eng_fail(ENG_NO_MEMORY, "batch: removed range: out of memory");
    }
    struct hidden_range own = *range;
    memcpy(bytes, range->from, range->from_bytes);
    own.from = bytes;
    if (range->to) {
        memcpy(bytes + range->from_bytes, range->to, range->to_bytes);
        own.to = bytes + range->from_bytes;
    }
    hidden->added[hidden->added_count++] = (struct hidden_added){own, mark};
    insert(hidden, &own);
    return ENG_OK;
}

void hidden_rollback(struct hidden *hidden, uint64_t mark)
{
    size_t kept = hidden->added_count;
    while (kept && hidden->added[kept - 1].mark >= mark)
        free((void *)(uintptr_t)hidden->added[--kept].range.from);
    if (kept == hidden->added_count)
        return;
    hidden->added_count = kept;
    hidden->count = 0;
    for (size_t i = 0; i < kept; i++)
        insert(hidden, &hidden->added[i].range);
}

void hidden_free(struct hidden *hidden)
{
    hidden_rollback(hidden, 0);
    free(hidden->added);
    free(hidden->sorted);
    memset(hidden, 0, sizeof *hidden);
}

size_t hidden_first(const struct hidden *hidden, const uint8_t *key, size_t key_bytes)
{
    return first_ending(hidden, key, key_bytes, false);
}

const struct hidden_range *hidden_find(const struct hidden *hidden, const uint8_t *key, size_t key_bytes, bool before)
{
    size_t at = first_ending(hidden, key, key_bytes, before);
    if (at == hidden->count)
        return NULL;
    const struct hidden_range *range = &hidden->sorted[at];
    int order = bytes_compare(range->from, range->from_bytes, key, key_bytes);
    return order < 0 || (order == 0 && !before) ? range : NULL;
}
