/*
 * An indexed heap of the sealed segments: little live first, among equals the older one.
 *
 * A segment enters when it is sealed and leaves when it is empty, chosen by the compactor, or damaged. Its key is its
 * live ratio in sixteenths, so a free moves a segment at most sixteen times in its life: whoever's subtraction crosses
 * a step takes segments.lock and moves it up (segment_cooled). Nobody looks through the table of segments. Places used
 * again (slot.c) make a segment fuller without a note; that is seen when it comes up first.
 *
 * Beside the heap stand the sums of live and filled units of what is in it, live as of the last step: an upper bound
 * that is off by half a step on average.
 *
 * Invariant: heap[table[n].heap_at - 1] == n for every n in it; heap_at 0: not in it.
 */
#include "segment_heap.h"

static uint32_t fill_of(const struct segments *segments, uint32_t n)
{
    uint32_t fill = segments->table[n].fill - segment_start(n);
    return fill ? fill : 1;
}

static uint32_t step_of(const struct segments *segments, uint32_t n)
{
    /* relaxed: a hint; whoever empties it comes by again */
    uint64_t live = atomic_load_explicit(&segments->table[n].live, memory_order_relaxed);
    uint64_t step = (live * HEAP_STEPS + fill_of(segments, n) - 1) / fill_of(segments, n);
    return step < HEAP_STEPS ? (uint32_t)step : HEAP_STEPS;
}

static bool before(const struct segments *segments, uint32_t a, uint32_t b)
{
    const struct segment *x = &segments->table[a], *y = &segments->table[b];
    if (x->step != y->step)
        return x->step < y->step;
    return atomic_load_explicit(&x->newest, memory_order_relaxed) <
           atomic_load_explicit(&y->newest, memory_order_relaxed);
}

static void set(struct segments *segments, uint32_t at, uint32_t n)
{
    segments->heap[at] = n;
    segments->table[n].heap_at = at + 1;
}

static void up(struct segments *segments, uint32_t at)
{
    uint32_t n = segments->heap[at];
    for (; at && before(segments, n, segments->heap[(at - 1) / 2]); at = (at - 1) / 2)
        set(segments, at, segments->heap[(at - 1) / 2]);
    set(segments, at, n);
}

static void down(struct segments *segments, uint32_t at)
{
    uint32_t n = segments->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= segments->heap_count)
            break;
        if (child + 1 < segments->heap_count && before(segments, segments->heap[child + 1], segments->heap[child]))
            child++;
        if (!before(segments, segments->heap[child], n))
            break;
        set(segments, at, segments->heap[child]);
        at = child;
    }
    set(segments, at, n);
}

/* Units that are live at most, by its step. */
static uint64_t live_of(const struct segments *segments, uint32_t n)
{
    return (uint64_t)fill_of(segments, n) * segments->table[n].step / HEAP_STEPS;
}

void heap_put(struct segments *segments, uint32_t n)
{
    struct segment *segment = &segments->table[n];
    if (segment->heap_at)
        return;
    segment->step = (uint8_t)step_of(segments, n);
    segments->heap_live += live_of(segments, n);
    segments->heap_fill += fill_of(segments, n);
    set(segments, segments->heap_count++, n);
    up(segments, segment->heap_at - 1);
}

void heap_take(struct segments *segments, uint32_t n)
{
    struct segment *segment = &segments->table[n];
    if (!segment->heap_at)
        return;
    uint32_t at = segment->heap_at - 1, last = segments->heap[--segments->heap_count];
    segments->heap_live -= live_of(segments, n);
    segments->heap_fill -= fill_of(segments, n);
    segment->heap_at = 0;
    if (last == n)
        return;
    set(segments, at, last);
    up(segments, at);
    down(segments, segments->table[last].heap_at - 1);
}

uint32_t heap_fell(struct segments *segments, uint32_t n)
{
    struct segment *segment = &segments->table[n];
    uint32_t step = step_of(segments, n);
    if (!segment->heap_at || step >= segment->step)
        return HEAP_STEPS;
    segments->heap_live -= live_of(segments, n);
    segment->step = (uint8_t)step;
    segments->heap_live += live_of(segments, n);
    up(segments, segment->heap_at - 1);
    return step;
}

/* Places in it were used again since its step was noted. */
static void warm(struct segments *segments, uint32_t n, uint32_t step)
{
    segments->heap_live -= live_of(segments, n);
    segments->table[n].step = (uint8_t)step;
    segments->heap_live += live_of(segments, n);
}

uint32_t heap_first(struct segments *segments, uint32_t *step)
{
    while (segments->heap_count) {
        uint32_t n = segments->heap[0];
        *step = step_of(segments, n);
        if (*step <= segments->table[n].step)
            return n;
        warm(segments, n, *step); /* it is fuller now: another one may be first */
        down(segments, 0);
    }
    return UINT32_MAX;
}

void heap_refresh(struct segments *segments)
{
    for (uint32_t i = 0; i < segments->heap_count; i++)
        warm(segments, segments->heap[i], step_of(segments, segments->heap[i]));
    for (uint32_t i = segments->heap_count / 2; i-- > 0;)
        down(segments, i);
}
