#include "digest_cache.h"

#include <stdlib.h>
#include <string.h>

struct digest_cache *digest_cache_new(struct cache_table *table, uint32_t branches)
{
    size_t bytes =
        sizeof(struct digest_cache) + 2u * branches * sizeof(struct eng_summary) + branches * sizeof(uint64_t);
    bytes = (bytes + 63) & ~(size_t)63;
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes) != 0)
        return NULL;
    struct digest_cache *cache = memory;
    cache->next = NULL;
    cache->branches = branches;
    cache->below = 0;
    cache->bytes = (uint32_t)bytes;
    cache->weight = (uint64_t *)(void *)(cache->record + 2u * branches);
    atomic_fetch_add_explicit(&table->bytes, bytes, memory_order_relaxed);
    return cache;
}

void digest_cache_free(struct cache_table *table, struct digest_cache *cache)
{
    if (!cache)
        return;
    atomic_fetch_sub_explicit(&table->bytes, cache->bytes, memory_order_relaxed);
    free(cache);
}

bool cache_set(struct cache_table *table, uint32_t id, struct digest_cache *cache)
{
    _Atomic(struct cache_page *) *slot = &table->page[id >> CACHE_PAGE_BITS];
    struct cache_page *page = atomic_load_explicit(slot, memory_order_acquire);
    if (!page) {
        if (!cache)
            return true;
        struct cache_page *fresh = calloc(1, sizeof *fresh);
        if (!fresh)
            return false;
        /* release: partner of the loads in cache_of and above */
        if (atomic_compare_exchange_strong_explicit(slot, &page, fresh, memory_order_acq_rel, memory_order_acquire))
            page = fresh;
        else
            free(fresh);
    }
    page->of[id & ((1u << CACHE_PAGE_BITS) - 1)] = cache;
    /* relaxed: read when no merge runs */
    uint32_t highest = atomic_load_explicit(&table->highest, memory_order_relaxed);
    while (id > highest && !atomic_compare_exchange_weak_explicit(&table->highest, &highest, id, memory_order_relaxed,
                                                                  memory_order_relaxed))
        ;
    return true;
}

void cache_table_free(struct cache_table *table)
{
    uint64_t ids = (uint64_t)atomic_load_explicit(&table->highest, memory_order_relaxed) + 1;
    for (uint64_t first = 0; first < ids; first += 1u << CACHE_PAGE_BITS) {
        _Atomic(struct cache_page *) *slot = &table->page[first >> CACHE_PAGE_BITS];
        struct cache_page *page = atomic_load_explicit(slot, memory_order_relaxed);
        for (uint64_t i = 0; page && i < 1u << CACHE_PAGE_BITS && first + i < ids; i++)
            digest_cache_free(table, page->of[i]);
        free(page);
        atomic_store_explicit(slot, NULL, memory_order_relaxed);
    }
}
