/*
 * Digests the newest version of an inner node needs again and again: the summaries of its children and of the inner
 * nodes of the logical trie between them. In memory only, for the newest version only: a merge moves the cache from the
 * old version of the node to the new one and changes it in place (kept with every version it costs 700 ns an operation,
 * see engine/README.md). Made anew from the children's own summaries when a node is first touched after a start.
 *
 * Of a node with n branches: record 2i is the summary of child i, record 2i+1 the summary of the logical subtree that
 * parts branch i from branch i+1; weight[i] is the weight of child i.
 *
 * The table maps ids to caches in two levels. Threads: those of one merge, each on its own subtree; a page of the table
 * may be made by two at once, hence the compare-and-swap. Readers and private forks never look here.
 */
#ifndef ENGINE_DIGEST_CACHE_H
#define ENGINE_DIGEST_CACHE_H

#include <stdatomic.h>

#include "pando/digest.h"

struct digest_cache {
    struct digest_cache *next; /* in the merge's list of dropped ones */
    uint64_t *weight;
    uint32_t branches;
    uint32_t bytes;
    uint32_t below, unused; /* as in its node */
    uint64_t pad[4];
    struct eng_summary record[];
};
_Static_assert(sizeof(struct digest_cache) == 64, "records are cache lines");

#define CACHE_PAGE_BITS 16u
struct cache_page {
    struct digest_cache *of[1u << CACHE_PAGE_BITS];
};
struct cache_table {
    _Atomic(struct cache_page *) page[1u << (32 - CACHE_PAGE_BITS)];
    _Atomic uint64_t bytes;
    _Atomic uint32_t highest; /* id that was ever set: closing a small store looks at no more */
};

/* NULL: no memory. */
struct digest_cache *digest_cache_new(struct cache_table *table, uint32_t branches);
void digest_cache_free(struct cache_table *table, struct digest_cache *cache);
/* NULL: none for this id. */
static inline struct digest_cache *cache_of(struct cache_table *table, uint32_t id)
{
    /* acquire: partner of the compare-and-swap in cache_set */
    struct cache_page *page = atomic_load_explicit(&table->page[id >> CACHE_PAGE_BITS], memory_order_acquire);
    return page ? page->of[id & ((1u << CACHE_PAGE_BITS) - 1)] : NULL;
}
/* cache NULL: forget. False: no memory for the table. */
bool cache_set(struct cache_table *table, uint32_t id, struct digest_cache *cache);
void cache_table_free(struct cache_table *table);

#endif
