#include "hint.h"

#include "store_internal.h"

#define HINT_TABLE_BYTES (sizeof(uint32_t) << HINT_LOG2_MAX)

enum eng_status hints_init(struct store *store)
{
    store->view.hints = &store->hints;
    store->hints.place = memory_reserve(HINT_TABLE_BYTES);
    atomic_store_explicit(&store->hints.log2, HINT_LOG2_MIN, memory_order_relaxed);
    store_fit_hints(store);
    return store->hints.place ? ENG_OK : ENG_NO_MEMORY;
}

void hints_close(struct store *store)
{
    memory_release((void *)store->hints.place, HINT_TABLE_BYTES);
}

void store_fit_hints(struct store *store)
{
    struct hints *hints = &store->hints;
    uint64_t live = atomic_load_explicit(&store->control.live, memory_order_relaxed);
    uint32_t was = atomic_load_explicit(&hints->log2, memory_order_relaxed), log2 = was;
    while (log2 < HINT_LOG2_MAX && live > 1ull << (log2 - 1))
        log2++;
    if (log2 != was)
        atomic_store_explicit(&hints->log2, log2, memory_order_relaxed);
}

void hint_vote(const struct hint *hint, unsigned skip, unsigned bits, bool right)
{
    uint64_t word = atomic_load_explicit(hint->way, memory_order_relaxed), next = 0;
    struct way known;
    memcpy(&known, &word, sizeof known);
    skip = skip < UINT8_MAX ? skip : UINT8_MAX;
    bits = bits < HINT_BITS_MAX ? bits : HINT_BITS_MAX;
    if (bits > known.bits) {
        known.more += 3;
    } else {
        known.more -= known.more > 0;
        known.fewer =
            (uint8_t)(bits < known.bits ? known.fewer + 1 : known.fewer - (known.fewer < 7 ? known.fewer : 7));
    }
    if (right)
        known.right += known.right < WAY_RIGHT_MAX;
    else
        known.right -= known.right > 0;
    if (!known.bits || known.skip != skip || known.more >= WAY_VOTES || known.fewer >= WAY_VOTES)
        known = (struct way){.skip = (uint8_t)skip, .bits = (uint8_t)bits};
    memcpy(&next, &known, sizeof known);
    if (next != word)
        atomic_store_explicit(hint->way, next, memory_order_relaxed);
}
