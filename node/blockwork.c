/*
 * One block being made: what is included in it, its receipts, and who waits for them.
 *
 * Happy path: work_open fixes height and time and opens a batch on the newest frozen one; work_run decides about each
 * transaction and runs it; work_wait attaches the client; work_freeze ends it. From then on it is passed from stage to
 * stage, and work_release frees it with everything it owns.
 *
 * Whether a transaction is included depends on the block's time, the window of the genesis, and the ids of the blocks
 * before; on nothing else, so that a replay decides the same:
 *   expired     its expiry is not after the block's time
 *   too far     its expiry is more than the window after the block's time
 *   duplicate   its id is in a receipt whose expiry is after the block's time
 * An imported transaction may leave out its id (zeros: derived from ledger id, height, index and bytes) and its expiry
 * (0: the block's time plus the window).
 *
 * Ways to fail: those of the engine and ENG_NO_MEMORY, after which the block cannot go on: the caller stops the ledger,
 * or drops the block if nobody has seen it (an import).
 */
#include "ledger_internal.h"

#include <assert.h>
#include <endian.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "vector.h"

enum eng_status work_open(struct ledger *ledger, uint64_t height, uint64_t time_ms, struct block_work **block)
{
    struct block_work *made = calloc(1, sizeof(*made));
    if (!made)
        return eng_fail(ENG_NO_MEMORY, "block %llu: no memory", (unsigned long long)height);
    made->height = height;
    made->time_ms = time_ms;
    made->epoch = ledger->epoch;
    made->opened_ns = monotonic_ns();
    resubmissions_init(&made->again);
    pthread_mutex_lock(&ledger->lock);
    enum eng_status status = eng_batch_open(ledger->eng, LEDGER_ROOT_STATE, ledger->last_frozen, &made->batch);
    pthread_mutex_unlock(&ledger->lock);
    if (status != ENG_OK) {
        free(made);
        return status;
    }
    *block = made;
    return ENG_OK;
}

static void derive_id(const struct ledger *ledger, uint64_t height, uint32_t index, struct span bytes,
                      uint8_t id[TX_ID_BYTES])
{
    static const uint8_t salt[crypto_generichash_blake2b_SALTBYTES];
    static const uint8_t personal[crypto_generichash_blake2b_PERSONALBYTES] = "pando txid";
    crypto_generichash_blake2b_state state;
    uint8_t digest[32];
    uint64_t height_le = htole64(height);
    uint32_t index_le = htole32(index);
    crypto_generichash_blake2b_init_salt_personal(&state, NULL, 0, sizeof(digest), salt, personal);
    crypto_generichash_blake2b_update(&state, ledger->ledger_id, sizeof(ledger->ledger_id));
    crypto_generichash_blake2b_update(&state, (const uint8_t *)&height_le, sizeof(height_le));
    crypto_generichash_blake2b_update(&state, (const uint8_t *)&index_le, sizeof(index_le));
    crypto_generichash_blake2b_update(&state, bytes.bytes, bytes.size);
    crypto_generichash_blake2b_final(&state, digest, sizeof(digest));
    memcpy(id, digest, TX_ID_BYTES);
}

/* Where the receipt will be found; fills in what an imported transaction left out. */
static struct idtable_entry identify(const struct ledger *ledger, const struct block_work *block,
                                     const struct transaction *tx, struct span bytes)
{
    struct idtable_entry entry = {.expires_ms = tx->expires_ms, .height = block->height};
    entry.index = (uint32_t)block->included_count;
    memcpy(entry.id, tx->id, TX_ID_BYTES);
    if (block->derives_ids) {
        if (sodium_is_zero(tx->id, TX_ID_BYTES))
            derive_id(ledger, block->height, entry.index, bytes, entry.id);
        if (!entry.expires_ms)
            entry.expires_ms = block->time_ms + ledger->window_ms;
    }
    return entry;
}

/* *known_height: as in work_run. */
static enum verdict judge(struct ledger *ledger, const struct block_work *block, const struct idtable_entry *entry,
                          uint64_t *known_height)
{
    *known_height = 0;
    if (entry->expires_ms <= block->time_ms)
        return VERDICT_EXPIRED;
    if (entry->expires_ms - block->time_ms > ledger->window_ms)
        return VERDICT_TOO_FAR;
    pthread_mutex_lock(&ledger->ids_lock);
    const struct idtable_entry *found = idtable_find(&ledger->ids, entry->id, block->time_ms);
    bool known = found != NULL;
    *known_height = known ? found->height : 0;
    pthread_mutex_unlock(&ledger->ids_lock);
    if (!known && block->ids)
        known = idtable_find(block->ids, entry->id, block->time_ms) != NULL;
    return known ? VERDICT_DUPLICATE : VERDICT_INCLUDED;
}

static enum eng_status remember(struct ledger *ledger, struct block_work *block, const struct idtable_entry *entry)
{
    if (block->ids)
        return idtable_insert(block->ids, entry, block->time_ms);
    pthread_mutex_lock(&ledger->ids_lock);
    if (ledger->ids.used >= LEDGER_IDS_MAX && block->time_ms - ledger->ids_swept_ms >= ledger->window_ms / 16) {
        enum eng_status ignored = idtable_sweep(&ledger->ids, block->time_ms); /* no memory: another time */
        (void)ignored;
        ledger->ids_swept_ms = block->time_ms;
    }
    enum eng_status status = idtable_insert(&ledger->ids, entry, block->time_ms);
    pthread_mutex_unlock(&ledger->ids_lock);
    return status;
}

enum eng_status work_run(struct ledger *ledger, struct block_work *block, const struct transaction *tx,
                         struct span bytes, enum verdict *verdict, uint64_t *known_height)
{
    assert(block->stage == BLOCK_OPEN && block->included_count < BLOCK_TRANSACTIONS_MAX);
    struct idtable_entry entry = identify(ledger, block, tx, bytes);
    *verdict = judge(ledger, block, &entry, known_height);
    if (*verdict != VERDICT_INCLUDED)
        return ENG_OK;
    struct execution *execution = ledger->execution;
    enum eng_status status = execute_transaction(block->batch, tx, execution);
    if (status != ENG_OK)
        return status;
    struct receipt receipt = {
        .expires_ms = entry.expires_ms,
        .height = block->height,
        .index = entry.index,
        .code = execution->code,
        .failed_op = execution->failed_op,
        .result_count = execution->result_count,
        .results = execution->results,
        .results_bytes = execution->results_bytes,
    };
    memcpy(receipt.id, entry.id, TX_ID_BYTES);
    size_t size = receipt_size(&receipt);
    status = vector_room((void **)&block->receipts, &block->receipts_capacity, block->receipts_bytes + size, 1);
    if (status == ENG_OK)
        status = vector_room((void **)&block->included, &block->included_capacity, block->included_count + 1,
                             sizeof(*block->included));
    if (status == ENG_OK)
        status = remember(ledger, block, &entry);
    if (status != ENG_OK)
        return status;
    receipt_encode(&receipt, block->receipts + block->receipts_bytes);
    block->last_receipt_at = block->receipts_bytes;
    block->receipts_bytes += size;
    block->included[block->included_count++] = bytes;
    block->failed_count += execution->code != TX_OK;
    block->transaction_bytes += bytes.size;
    /* A written key and value stand in the transaction with at least as many bytes as in the diff; 3: framing there. */
    block->sealed_estimate += size + bytes.size + execution->removed_bytes + 3 * execution->removed_keys;
    return ENG_OK;
}

enum eng_status work_wait(struct block_work *block, struct admitted *admitted)
{
    enum eng_status status = vector_room((void **)&block->waiters, &block->waiter_capacity, block->waiter_count + 1,
                                         sizeof(*block->waiters));
    if (status != ENG_OK)
        return status;
    struct waiter *waiter = &block->waiters[block->waiter_count++];
    *waiter = (struct waiter){.done = admitted->done,
                              .context = admitted->context,
                              .receipt_at = block->last_receipt_at,
                              .receipt_bytes = block->receipts_bytes - block->last_receipt_at};
    if (block->last)
        block->last->next = admitted;
    else
        block->first = admitted;
    block->last = admitted;
    admitted->next = NULL;
    return ENG_OK;
}

enum eng_status work_freeze(struct ledger *ledger, struct block_work *block)
{
    assert(block->stage == BLOCK_OPEN);
    block->keys = eng_batch_count(block->batch);
    block->key_memory = eng_batch_memory(block->batch);
    /* relaxed: sums that only say how much to reserve; a merge that ends meanwhile makes the reservation too large */
    enum eng_status status =
        eng_reserve(ledger->eng, atomic_load_explicit(&ledger->unmerged_keys, memory_order_relaxed) + block->keys,
                    atomic_load_explicit(&ledger->unmerged_bytes, memory_order_relaxed) + block->key_memory);
    if (status == ENG_OK)
        status = eng_batch_freeze(block->batch);
    if (status != ENG_OK)
        return status;
    atomic_fetch_add_explicit(&ledger->unmerged_keys, block->keys, memory_order_relaxed);
    atomic_fetch_add_explicit(&ledger->unmerged_bytes, block->key_memory, memory_order_relaxed);
    block->stage = BLOCK_FROZEN;
    return ENG_OK;
}

void work_close_batch(struct ledger *ledger, struct block_work *block)
{
    pthread_mutex_lock(&ledger->lock);
    if (ledger->last_frozen == block->batch)
        ledger->last_frozen = NULL;
    eng_batch_close(&block->batch);
    pthread_mutex_unlock(&ledger->lock);
    if (block->keys || block->key_memory) {
        atomic_fetch_sub_explicit(&ledger->unmerged_keys, block->keys, memory_order_relaxed);
        atomic_fetch_sub_explicit(&ledger->unmerged_bytes, block->key_memory, memory_order_relaxed);
        block->keys = block->key_memory = 0;
    }
}

void work_release(struct ledger *ledger, struct block_work **block_address)
{
    struct block_work *block = *block_address;
    if (!block)
        return;
    assert(!block->waiter_count && !block->again.first && !block->import);
    if (block->batch)
        work_close_batch(ledger, block);
    while (block->first) {
        struct admitted *next = block->first->next;
        admitted_release(ledger, block->first);
        block->first = next;
    }
    free(block->included);
    free(block->receipts);
    free(block->waiters);
    free(block->sealed);
    free(block);
    *block_address = NULL;
}
