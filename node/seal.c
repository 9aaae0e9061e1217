/*
 * Sealing: from a merged block to the bytes that stand for it for ever.
 *
 * Happy path: list the batch's changes as a diff, digest transactions and receipts, fill in the header behind the
 * previous one, sign it, and encode header, receipts and diff as a sealed block (replication/include/pando/header.h).
 * Everything is a function of the block, the previous header and the node's key: a replay makes the very same bytes.
 *
 * Ways to fail: ENG_NO_MEMORY (may be tried again); ENG_TOO_LARGE cannot happen as the block was closed or refused
 * before its receipts and changes could have so many bytes.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <endian.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* BLAKE2b personal "pando txs" over {u32 bytes, transaction}..., without copying them together. */
struct txs_digest {
    crypto_generichash_blake2b_state state;
};

static void txs_begin(struct txs_digest *txs)
{
    static const uint8_t salt[crypto_generichash_blake2b_SALTBYTES];
    static const uint8_t personal[crypto_generichash_blake2b_PERSONALBYTES] = "pando txs";
    crypto_generichash_blake2b_init_salt_personal(&txs->state, NULL, 0, 32, salt, personal);
}

static void txs_add(struct txs_digest *txs, const uint8_t *bytes, uint32_t size)
{
    uint32_t size_le = htole32(size);
    crypto_generichash_blake2b_update(&txs->state, (const uint8_t *)&size_le, sizeof(size_le));
    crypto_generichash_blake2b_update(&txs->state, bytes, size);
}

static void txs_end(struct txs_digest *txs, uint8_t digest[32])
{
    crypto_generichash_blake2b_final(&txs->state, digest, 32);
}

void seal_import_digest(const struct block *block, uint8_t digest[32])
{
    struct txs_digest txs;
    txs_begin(&txs);
    for (uint32_t i = 0; i < block->transaction_count; i++)
        txs_add(&txs, block->transactions[i].bytes, block->transactions[i].size);
    txs_end(&txs, digest);
}

static enum eng_status add_change(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    return diff_write(context, key, key_bytes, value);
}

static void fill_header(struct ledger *ledger, struct block_work *block)
{
    struct header *header = &block->header;
    struct txs_digest txs;
    *header = (struct header){
        .height = block->height,
        .time_ms = block->time_ms,
        .epoch = block->epoch,
        .state = block->summary,
        .transactions = (uint32_t)block->included_count,
        .note_bytes = block->note_bytes,
    };
    memcpy(header->ledger_id, ledger->ledger_id, 32);
    memcpy(header->previous, ledger->merged_digest, 32);
    memcpy(header->system_root, ledger->system_root, 32);
    if (block->note_bytes)
        memcpy(header->note, block->note, block->note_bytes);
    txs_begin(&txs);
    for (size_t i = 0; i < block->included_count; i++)
        txs_add(&txs, block->included[i].bytes, block->included[i].size);
    txs_end(&txs, header->transactions_digest);
    header_hash("pando receipts", block->receipts, block->receipts_bytes, header->receipts_digest);
    header_sign(header, ledger->options.node_secret);
    header_digest(header, block->digest);
}

enum eng_status work_seal(struct ledger *ledger, struct block_work *block)
{
    assert(block->stage == BLOCK_COMMITTED && block->height == ledger->merged_height + 1);
    struct diff_writer diff = {0};
    uint8_t header[HEADER_BYTES_MAX];
    enum eng_status status = eng_batch_each(block->batch, add_change, &diff);
    if (status != ENG_OK) {
        free(diff.bytes);
        return status;
    }
    fill_header(ledger, block);
    struct sealed_block sealed = {
        .header = header,
        .header_bytes = (uint32_t)header_encode(&block->header, header),
        .receipts = block->receipts,
        .receipts_bytes = (uint32_t)block->receipts_bytes,
        .diff = diff.bytes,
        .diff_bytes = (uint32_t)diff.size,
    };
    size_t size = sealed_block_size(&sealed);
    if (size > SEALED_BYTES_MAX)
        status = eng_fail(ENG_TOO_LARGE, "block %llu: %zu bytes sealed are over %u", (unsigned long long)block->height,
                          size, SEALED_BYTES_MAX);
    else if (!(block->sealed = malloc(size)))
        status =
            eng_fail(ENG_NO_MEMORY, "block %llu: no memory for %zu bytes", (unsigned long long)block->height, size);
    if (status == ENG_OK) {
        sealed_block_encode(&sealed, block->sealed);
        block->sealed_bytes = size;
        block->stage = BLOCK_SEALED;
    }
    free(diff.bytes);
    return status;
}
