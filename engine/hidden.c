/*
 * See hidden.h. Adding a range swallows those it overlaps or touches; they are kept on a stack. A rollback takes one
 * added range after the other, the last first, out again and puts what it had swallowed back: it costs what adding did,
 * however many ranges stay, and allocates nothing.
 *
 * Invariant: each added range made one entry, which is in the sorted array or on the stack: count + the stack's height
 * is added_count.
 */
#include "hidden.h"

#include "node.h"

#include <assert.h>
#include <stdlib.h>

struct hidden_added {
    const uint8_t *bytes; /* of its bounds, owned here */
    uint64_t mark;
    size_t at, swallowed; /* where its entry is, and how many were there before */
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

static void insert(struct hidden *hidden, const struct hidden_range *range, struct hidden_added *added)
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
    added->at = lo;
    added->swallowed = hi - lo;
    memcpy(hidden->swallowed + (hidden->added_count - hidden->count), hidden->sorted + lo, (hi - lo) * sizeof whole);
    memmove(hidden->sorted + lo + 1, hidden->sorted + hi, (hidden->count - hi) * sizeof whole);
    hidden->sorted[lo] = whole;
    hidden->count = hidden->count - (hi - lo) + 1;
}

/* Undoes the insert of the range added last. */
static void take_back(struct hidden *hidden)
{
    const struct hidden_added *last = &hidden->added[--hidden->added_count];
    size_t at = last->at, n = last->swallowed, size = sizeof *hidden->sorted;
    size_t height = hidden->added_count + 1 - hidden->count;
    assert(at < hidden->count && n <= height);
    memmove(hidden->sorted + at + n, hidden->sorted + at + 1, (hidden->count - at - 1) * size);
    memcpy(hidden->sorted + at, hidden->swallowed + (height - n), n * size);
    hidden->count = hidden->count - 1 + n;
    free((void *)(uintptr_t)last->bytes);
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
        !grow((void **)&hidden->sorted, &hidden->capacity, hidden->added_count, sizeof *hidden->sorted) ||
        !grow((void **)&hidden->swallowed, &hidden->swallowed_capacity, hidden->added_count,
              sizeof *hidden->swallowed)) {
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
    struct hidden_added *added = &hidden->added[hidden->added_count];
    *added = (struct hidden_added){.bytes = bytes, .mark = mark};
    insert(hidden, &own, added);
    hidden->added_count++;
    return ENG_OK;
}

void hidden_rollback(struct hidden *hidden, uint64_t mark)
{
    while (hidden->added_count && hidden->added[hidden->added_count - 1].mark >= mark)
        take_back(hidden);
}

void hidden_free(struct hidden *hidden)
{
    for (size_t i = 0; i < hidden->added_count; i++)
        free((void *)(uintptr_t)hidden->added[i].bytes);
    free(hidden->added);
    free(hidden->sorted);
    free(hidden->swallowed);
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
