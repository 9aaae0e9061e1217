/*
 * The ring of the log. See log_ring.h for the picture.
 *
 * Happy path: log_credit_take, log_ring_place, log_ring_copy_in, log_ring_publish by a writer; log_ring_advance and
 * reading by the flusher and the consumer; log_ring_free when both are done with the bytes.
 *
 * Why a place that was reserved may be written: the credits taken by a reservation and by all before it in the tail's
 * order add up to at most what was given back, so at least one of them took its credit after the place was freed. The
 * acquire of that take, and the acquire-release of the tail after it, order this writer behind the readers of the old
 * bytes.
 *
 * Nothing here fails or blocks, except the short mutex around moving the published offset, which two threads want.
 *
 * Invariants: freed <= published <= tail <= freed + size; a bit is set only between published and tail.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "log_format.h"
#include "log_ring.h"

bool log_credit_take(struct log_credit *credit, uint64_t bytes, uint64_t keep)
{
    uint64_t left = atomic_load_explicit(&credit->left, memory_order_relaxed);
    do {
        if (left < bytes + keep)
            return false;
        /* acquire: partner of log_credit_give, the readers of the old bytes are done; release: for the next taker */
    } while (!atomic_compare_exchange_weak_explicit(&credit->left, &left, left - bytes, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return true;
}

void log_credit_give(struct log_credit *credit, uint64_t bytes)
{
    /* release: partner of the acquire in log_credit_take */
    atomic_fetch_add_explicit(&credit->left, bytes, memory_order_acq_rel);
}

uint64_t log_credit_left(const struct log_credit *credit)
{
    return atomic_load_explicit(&credit->left, memory_order_relaxed); /* a hint */
}

enum eng_status log_ring_init(struct log_ring *ring, uint64_t size, uint64_t at)
{
    assert(size >= LOG_RING_BYTES_MIN && (size & (size - 1)) == 0 && at % LOG_ALIGN == 0);
    ring->size = size;
    ring->bytes = calloc(1, size); /* untouched pages cost nothing */
    ring->bits = calloc(size / LOG_ALIGN / 64 + 1, sizeof *ring->bits);
    if (ring->bytes == NULL || ring->bits == NULL) {
        free(ring->bytes);
        free(ring->bits);
        ring->bytes = NULL;
        ring->bits = NULL;
        return eng_fail(ENG_NO_MEMORY, "log: no memory for a ring of %llu bytes", (unsigned long long)size);
    }
    atomic_init(&ring->credit.left, size);
    atomic_init(&ring->tail, at);
    atomic_init(&ring->published, at);
    ring->freed = at;
    pthread_mutex_init(&ring->advance, NULL);
    return ENG_OK;
}

void log_ring_fini(struct log_ring *ring)
{
    if (ring->bytes == NULL)
        return;
    pthread_mutex_destroy(&ring->advance);
    free(ring->bytes);
    free(ring->bits);
    ring->bytes = NULL;
    ring->bits = NULL;
}

uint64_t log_ring_place(struct log_ring *ring, uint64_t bytes)
{
    /* acquire-release: orders this writer behind those before it in the tail, see the top; seq_cst with the loads of
     * the tail in the flusher costs nothing more */
    return atomic_fetch_add_explicit(&ring->tail, bytes, memory_order_seq_cst);
}

uint8_t *log_ring_at(const struct log_ring *ring, uint64_t offset, uint64_t length, uint64_t *contiguous)
{
    uint64_t at = offset & (ring->size - 1);
    *contiguous = length < ring->size - at ? length : ring->size - at;
    return ring->bytes + at;
}

void log_ring_copy_in(struct log_ring *ring, uint64_t offset, const void *bytes, uint64_t length)
{
    if (length == 0)
        return;
    uint64_t first;
    uint8_t *to = log_ring_at(ring, offset, length, &first);
    memcpy(to, bytes, first);
    memcpy(ring->bytes, (const uint8_t *)bytes + first, length - first);
}

void log_ring_copy_out(const struct log_ring *ring, uint64_t offset, void *bytes, uint64_t length)
{
    if (length == 0)
        return;
    uint64_t first;
    const uint8_t *from = log_ring_at(ring, offset, length, &first);
    memcpy(bytes, from, first);
    memcpy((uint8_t *)bytes + first, ring->bytes, length - first);
}

static _Atomic uint64_t *bit_word(const struct log_ring *ring, uint64_t offset, uint64_t *mask)
{
    uint64_t bit = (offset & (ring->size - 1)) / LOG_ALIGN;
    *mask = 1ull << bit % 64;
    return &ring->bits[bit / 64];
}

void log_ring_publish(struct log_ring *ring, uint64_t offset)
{
    uint64_t mask;
    _Atomic uint64_t *word = bit_word(ring, offset, &mask);
    /* release: the record's bytes, for the load in log_ring_advance; seq_cst: against the count of sleepers in log.c */
    uint64_t before = atomic_fetch_or_explicit(word, mask, memory_order_seq_cst);
    assert(!(before & mask)); /* published twice */
}

uint64_t log_ring_advance(struct log_ring *ring)
{
    pthread_mutex_lock(&ring->advance);
    uint64_t at = atomic_load_explicit(&ring->published, memory_order_relaxed); /* written under this mutex only */
    for (;;) {
        uint64_t mask;
        _Atomic uint64_t *word = bit_word(ring, at, &mask);
        /* acquire: partner of log_ring_publish; seq_cst: against the count of sleepers in log.c */
        if (!(atomic_load_explicit(word, memory_order_seq_cst) & mask))
            break;
        atomic_fetch_and_explicit(word, ~mask, memory_order_relaxed); /* ordered for the next lap by freeing */
        uint32_t length;
        uint64_t contiguous;
        memcpy(&length, log_ring_at(ring, at, sizeof length, &contiguous), sizeof length);
        at += log_record_bytes(length);
    }
    /* release: all records before it, for the acquire in log_ring_published */
    atomic_store_explicit(&ring->published, at, memory_order_release);
    pthread_mutex_unlock(&ring->advance);
    return at;
}

uint64_t log_ring_published(const struct log_ring *ring)
{
    return atomic_load_explicit(&ring->published, memory_order_acquire); /* partner: the store in log_ring_advance */
}

uint64_t log_ring_tail(const struct log_ring *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_seq_cst);
}

void log_ring_free(struct log_ring *ring, uint64_t offset)
{
    assert(offset >= ring->freed && offset <= log_ring_published(ring));
    uint64_t bytes = offset - ring->freed;
    ring->freed = offset;
    log_credit_give(&ring->credit, bytes);
}
