/*
 * Following: sealed blocks of others become ours.
 *
 * Happy path of ledger_apply: check the sealed block against its header and the header against our head, write the diff
 * into a batch, commit it on the condition that the result is the state the header names (so nobody ever sees another
 * one), remember the ids of its receipts, append the SEALED record, publish.
 *
 * Ways to fail: anything that is not as the header says is ENG_CONFLICT, naming height and what differs (for the state:
 * both roots); nothing was changed then. A full disk after the commit leaves the block at hand (applying); the same
 * block applied again goes on from there. The same code replays SEALED records at the start.
 *
 * Invariants: what is published has been recomputed here (P8). Whether the signer may sign, and the signature, are the
 * caller's checks.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum eng_status apply_change(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct eng_batch *batch = context;
    return value ? eng_batch_put(batch, key, key_bytes, *value) : eng_batch_remove(batch, key, key_bytes);
}

/* The receipts are those of this block, in order, each once. */
static enum eng_status check_receipts(const struct header *header, const struct sealed_block *sealed)
{
    uint8_t digest[32];
    unsigned long long height = header->height;
    header_hash("pando receipts", sealed->receipts, sealed->receipts_bytes, digest);
    if (memcmp(digest, header->receipts_digest, 32) != 0)
        return eng_fail(ENG_CONFLICT, "block %llu: its receipts do not have the digest of its header", height);
    size_t at = 0;
    for (uint32_t i = 0; i < header->transactions; i++) {
        struct receipt receipt;
        size_t used;
        if (receipt_decode(sealed->receipts + at, sealed->receipts_bytes - at, &receipt, &used) != ENG_OK ||
            receipt.height != header->height || receipt.index != i)
            return eng_fail(ENG_CONFLICT, "block %llu: receipt %u is not one of this block", height, i);
        at += used;
    }
    if (at != sealed->receipts_bytes)
        return eng_fail(ENG_CONFLICT, "block %llu: more receipts than transactions", height);
    return ENG_OK;
}

static enum eng_status check_header(struct ledger *ledger, const struct header *header,
                                    const struct sealed_block *sealed)
{
    unsigned long long height = header->height;
    uint8_t bytes[HEADER_BYTES_MAX];
    if (header->height != ledger->merged_height + 1)
        return eng_fail(header->height <= ledger->merged_height ? ENG_EXISTS : ENG_INVALID,
                        "block %llu: the next one here is %llu", height, (unsigned long long)ledger->merged_height + 1);
    if (header_encode(header, bytes) != sealed->header_bytes ||
        memcmp(bytes, sealed->header, sealed->header_bytes) != 0)
        return eng_fail(ENG_CONFLICT, "block %llu: the sealed block has another header", height);
    if (memcmp(header->ledger_id, ledger->ledger_id, 32) != 0)
        return eng_fail(ENG_CONFLICT, "block %llu: of another ledger", height);
    if (memcmp(header->previous, ledger->merged_digest, 32) != 0)
        return eng_fail(ENG_CONFLICT, "block %llu: its previous header is not our header %llu", height, height - 1);
    if (header->time_ms < ledger->merged_time || header->epoch < ledger->merged_epoch)
        return eng_fail(ENG_CONFLICT, "block %llu: its time or epoch goes back", height);
    if (memcmp(header->system_root, ledger->system_root, 32) != 0)
        return eng_fail(ENG_CONFLICT, "block %llu: another system tree", height);
    return ENG_OK;
}

static enum eng_status commit_diff(struct ledger *ledger, const struct header *header,
                                   const struct sealed_block *sealed)
{
    struct eng_batch *batch = NULL;
    struct eng_summary summary;
    enum eng_status status = eng_batch_open(ledger->eng, LEDGER_ROOT_STATE, NULL, &batch);
    if (status == ENG_OK)
        status = diff_read(sealed->diff, sealed->diff_bytes, apply_change, batch);
    if (status == ENG_DAMAGED || status == ENG_INVALID || status == ENG_TOO_LARGE) {
        char text[400];
        snprintf(text, sizeof(text), "%s", eng_error());
        status = eng_fail(ENG_CONFLICT, "block %llu: %s", (unsigned long long)header->height, text);
    }
    if (status == ENG_OK)
        status = eng_reserve(ledger->eng, eng_batch_count(batch), eng_batch_memory(batch));
    if (status == ENG_OK)
        status = eng_batch_freeze(batch);
    if (status == ENG_OK) {
        status = eng_commit_expect(batch, header->height, &header->state, &summary);
        if (status == ENG_CONFLICT) {
            char theirs[65], ours[65];
            sodium_bin2hex(theirs, sizeof(theirs), header->state.digest, 32);
            sodium_bin2hex(ours, sizeof(ours), summary.digest, 32);
            eng_fail(ENG_CONFLICT,
                     "block %llu: diverged: the header says root %s with %llu entries, here it is %s with %llu",
                     (unsigned long long)header->height, theirs, (unsigned long long)header->state.count, ours,
                     (unsigned long long)summary.count);
        }
    }
    eng_batch_close(&batch);
    return status;
}

enum eng_status follow_commit(struct ledger *ledger, const struct header *header, const uint8_t *bytes, size_t size,
                              struct block_work **block)
{
    struct sealed_block sealed;
    if (sealed_block_decode(bytes, size, &sealed) != ENG_OK) {
        char text[400];
        snprintf(text, sizeof(text), "%s", eng_error());
        return eng_fail(ENG_CONFLICT, "block %llu: %s", (unsigned long long)header->height, text);
    }
    enum eng_status status = check_header(ledger, header, &sealed);
    if (status == ENG_OK)
        status = check_receipts(header, &sealed);
    if (status != ENG_OK)
        return status;
    struct block_work *made = calloc(1, sizeof(*made));
    uint8_t *copy = made ? malloc(size) : NULL;
    if (!copy) {
        free(made);
        return eng_fail(ENG_NO_MEMORY, "block %llu: no memory for %zu bytes", (unsigned long long)header->height, size);
    }
    status = commit_diff(ledger, header, &sealed);
    if (status != ENG_OK) {
        free(copy);
        free(made);
        return status;
    }
    memcpy(copy, bytes, size);
    made->stage = BLOCK_SEALED;
    made->height = header->height;
    made->time_ms = header->time_ms;
    made->epoch = header->epoch;
    made->sealed = copy;
    made->sealed_bytes = size;
    header_digest(header, made->digest);
    ledger->merged_height = ledger->executed_height = header->height;
    ledger->merged_time = ledger->executed_time = header->time_ms;
    ledger->merged_epoch = ledger->epoch = header->epoch;
    memcpy(ledger->merged_digest, made->digest, 32);
    *block = made;
    return ENG_OK;
}

enum eng_status follow_ids(struct ledger *ledger, const uint8_t *receipts, size_t size, uint64_t now_ms)
{
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&ledger->ids_lock);
    for (size_t at = 0, used; status == ENG_OK && at < size; at += used) {
        struct receipt receipt;
        status = receipt_decode(receipts + at, size - at, &receipt, &used);
        if (status == ENG_OK && receipt.expires_ms > now_ms && !idtable_find(&ledger->ids, receipt.id, now_ms)) {
            struct idtable_entry entry = {
                .expires_ms = receipt.expires_ms, .height = receipt.height, .index = receipt.index};
            memcpy(entry.id, receipt.id, TX_ID_BYTES);
            status = idtable_insert(&ledger->ids, &entry, now_ms);
        }
    }
    pthread_mutex_unlock(&ledger->ids_lock);
    return status;
}

/* ids, log, head. */
static enum eng_status finish(struct ledger *ledger, struct block_work *block, const uint8_t *bytes, size_t size)
{
    struct sealed_block sealed;
    enum eng_status status = sealed_block_decode(bytes, size, &sealed);
    if (status == ENG_OK)
        status = follow_ids(ledger, sealed.receipts, sealed.receipts_bytes, block->time_ms);
    if (status == ENG_OK)
        status = merge_store(ledger, block);
    if (status != ENG_OK)
        return status;
    ledger->replay_from = block->sealed_end;
    /* relaxed: partner of admission's early checks, should this node lead one day */
    atomic_store_explicit(&ledger->newest_time, block->time_ms, memory_order_relaxed);
    ledger->applying = NULL;
    publish_block(ledger, block);
    return merge_upkeep(ledger);
}

enum eng_status ledger_apply(struct ledger *ledger, const struct header *header, const uint8_t *sealed, size_t size)
{
    assert(ledger->magic == LEDGER_MAGIC && ledger->options.role == LEDGER_FOLLOWER);
    char text[512];
    enum eng_status status = ledger_failure(ledger, text, sizeof(text));
    if (status != ENG_OK)
        return eng_fail(status, "apply: the ledger has stopped: %s", text);
    if (!ledger->applying) {
        status = follow_commit(ledger, header, sealed, size, &ledger->applying);
        if (status == ENG_FULL) {
            merge_make_room(ledger);
            status = follow_commit(ledger, header, sealed, size, &ledger->applying);
        }
        if (status == ENG_CONFLICT || status == ENG_EXISTS || status == ENG_INVALID)
            return status; /* about this block, not about this node */
    } else {
        uint8_t digest[32];
        header_digest(header, digest);
        if (header->height != ledger->applying->height || memcmp(digest, ledger->applying->digest, 32) != 0)
            return eng_fail(ENG_CONFLICT, "block %llu: another one of height %llu waits for space in the log",
                            (unsigned long long)header->height, (unsigned long long)ledger->applying->height);
    }
    if (status == ENG_OK)
        status = finish(ledger, ledger->applying, sealed, size);
    if (status == ENG_OK)
        ledger_unhold(ledger);
    else if (status_passes(status))
        ledger_hold(ledger, status);
    else
        ledger_fail(ledger, status);
    return status;
}

bool ledger_may_sign(struct ledger *ledger, const uint8_t signer[32], uint64_t epoch)
{
    const struct genesis *genesis = ledger->options.genesis;
    if (epoch < ledger->base.epoch) /* epochs only rise */
        return false;
    for (size_t i = 0; i < genesis->signer_count; i++)
        if (memcmp(genesis->signers[i], signer, 32) == 0)
            return true;
    return false;
}
