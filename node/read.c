/*
 * Reading: heights, snapshots, sealed blocks, receipts, status. Nothing here blocks the writer: heights are read under
 * a lock that is held for a few instructions, snapshots are opened in the store without one.
 *
 * What is shown is what is published: a version that is merged and not yet durable exists in the store, and is not
 * found here.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t ledger_height(struct ledger *ledger, uint8_t header_digest[32])
{
    pthread_mutex_lock(&ledger->lock);
    uint64_t height = ledger->published;
    if (header_digest)
        memcpy(header_digest, ledger->published_digest, 32);
    pthread_mutex_unlock(&ledger->lock);
    return height;
}

uint64_t ledger_durable(struct ledger *ledger)
{
    if (ledger->options.role == LEDGER_LEADER) /* published only when its block-end is durable */
        return ledger_height(ledger, NULL);
    return blockstore_durable(ledger->blocks);
}

enum eng_status ledger_wait(struct ledger *ledger, uint64_t height, int timeout_ms)
{
    enum eng_status status = ENG_OK;
    uint64_t at_ns = monotonic_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000u;
    struct timespec at = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
    pthread_mutex_lock(&ledger->lock);
    while (status == ENG_OK && ledger->published < height) {
        if (ledger->closing)
            status = eng_fail(ENG_CLOSED, "wait: the ledger is closing");
        else if (ledger->failure != ENG_OK)
            status = eng_fail(ENG_CLOSED, "wait: the ledger has stopped: %s", ledger->failure_text);
        else if (timeout_ms < 0)
            pthread_cond_wait(&ledger->published_changed, &ledger->lock);
        else if (pthread_cond_timedwait(&ledger->published_changed, &ledger->lock, &at) == ETIMEDOUT &&
                 ledger->published < height)
            status = eng_fail(ENG_TIMEOUT, "wait: height %llu is not published, the newest is %llu",
                              (unsigned long long)height, (unsigned long long)ledger->published);
    }
    pthread_mutex_unlock(&ledger->lock);
    return status;
}

uint64_t ledger_oldest_live(struct ledger *ledger)
{
    uint64_t tag = 0;
    return eng_oldest(ledger->eng, LEDGER_ROOT_STATE, &tag) == ENG_OK ? tag : 0;
}

enum eng_status ledger_snapshot(struct ledger *ledger, uint64_t height, struct eng_snapshot **snapshot)
{
    bool newest = height == ENG_HEAD;
    for (;;) {
        uint64_t published = ledger_height(ledger, NULL), tag = newest ? published : height;
        if (tag > published)
            return eng_fail(ENG_NOT_FOUND, "height %llu: not there yet, the newest is %llu", (unsigned long long)tag,
                            (unsigned long long)published);
        enum eng_status status = eng_snapshot_open(ledger->eng, LEDGER_ROOT_STATE, tag, snapshot);
        if (status == ENG_NOT_FOUND || status == ENG_GONE) {
            if (newest && ledger_height(ledger, NULL) != published)
                continue; /* it was the newest one a moment ago */
            return eng_fail(ENG_GONE, "height %llu: no longer live, the oldest is %llu", (unsigned long long)tag,
                            (unsigned long long)ledger_oldest_live(ledger));
        }
        return status;
    }
}

enum eng_status ledger_read_sealed(struct ledger *ledger, uint64_t height, uint8_t **bytes, size_t *capacity,
                                   size_t *size)
{
    uint64_t published = ledger_height(ledger, NULL);
    if (height == ENG_HEAD)
        height = published;
    if (!height || height > published)
        return eng_fail(ENG_NOT_FOUND, "block %llu: %s, the newest is %llu", (unsigned long long)height,
                        height ? "not there yet" : "the genesis has no block", (unsigned long long)published);
    return blockstore_read(ledger->blocks, height, bytes, capacity, size);
}

enum eng_status ledger_header(struct ledger *ledger, uint64_t height, struct header *header)
{
    uint8_t *bytes = NULL;
    size_t capacity = 0, size;
    struct sealed_block sealed;
    enum eng_status status = ledger_read_sealed(ledger, height, &bytes, &capacity, &size);
    if (status == ENG_OK)
        status = sealed_block_decode(bytes, size, &sealed);
    if (status == ENG_OK)
        status = header_decode(sealed.header, sealed.header_bytes, header);
    free(bytes);
    return status;
}

/* ---- receipts ---- */

bool receipt_find(const uint8_t *receipts, size_t size, const uint8_t id[TX_ID_BYTES], size_t *at, size_t *bytes)
{
    struct receipt receipt;
    for (*at = 0; *at < size; *at += *bytes) {
        if (receipt_decode(receipts + *at, size - *at, &receipt, bytes) != ENG_OK)
            return false;
        if (memcmp(receipt.id, id, TX_ID_BYTES) == 0)
            return true;
    }
    return false;
}

enum eng_status ledger_receipt(struct ledger *ledger, const uint8_t id[TX_ID_BYTES], uint8_t **bytes, size_t *size)
{
    /* relaxed: the newest ledger time is a bound, not a point in an order */
    uint64_t now = atomic_load_explicit(&ledger->newest_time, memory_order_relaxed);
    pthread_mutex_lock(&ledger->ids_lock);
    const struct idtable_entry *entry = idtable_find(&ledger->ids, id, now);
    uint64_t height = entry ? entry->height : 0;
    pthread_mutex_unlock(&ledger->ids_lock);
    uint8_t *block = NULL;
    size_t capacity = 0, block_bytes, at;
    struct sealed_block sealed;
    enum eng_status status = height && height <= ledger_height(ledger, NULL)
                                 ? blockstore_read(ledger->blocks, height, &block, &capacity, &block_bytes)
                                 : eng_fail(ENG_NOT_FOUND, "receipt: no transaction with this id that has not expired");
    if (status == ENG_OK)
        status = sealed_block_decode(block, block_bytes, &sealed);
    if (status == ENG_OK && !receipt_find(sealed.receipts, sealed.receipts_bytes, id, &at, size))
        status = eng_fail(ENG_DAMAGED, "receipt: block %llu does not have it", (unsigned long long)height);
    if (status == ENG_OK) {
        *bytes = malloc(*size);
        if (*bytes)
            memcpy(*bytes, sealed.receipts + at, *size);
        else
            status = eng_fail(ENG_NO_MEMORY, "receipt: no memory for %zu bytes", *size);
    }
    free(block);
    return status;
}

/* ---- status ---- */

void ledger_status(struct ledger *ledger, struct ledger_status *status)
{
    struct eng_statistics statistics;
    struct eng_snapshot *snapshot = NULL;
    struct header header;
    *status = (struct ledger_status){.role = ledger->options.role, .epoch = ledger->base.epoch};
    eng_stats(ledger->eng, &statistics);
    status->height = ledger_height(ledger, NULL);
    status->durable_height = ledger_durable(ledger);
    if (ledger_header(ledger, status->height, &header) == ENG_OK)
        status->epoch = header.epoch;
    if (ledger_snapshot(ledger, status->height, &snapshot) == ENG_OK) {
        status->state = *eng_snapshot_summary(snapshot);
        eng_snapshot_close(&snapshot);
    }
    status->live_roots = eng_version_count(ledger->eng, LEDGER_ROOT_STATE);
    status->oldest_live_height = ledger_oldest_live(ledger);
    status->first_kept_block = status->height ? 1 : 0;
    status->disk_bytes = statistics.state_bytes + statistics.log_bytes + log_disk_bytes(ledger->log);
    pthread_mutex_lock(&ledger->ids_lock);
    status->remembered_ids = ledger->ids.used;
    status->memory_bytes = idtable_memory(&ledger->ids);
    pthread_mutex_unlock(&ledger->ids_lock);
    status->memory_bytes += statistics.memory_bytes + blockstore_memory(ledger->blocks);
    pthread_mutex_lock(&ledger->lock);
    snprintf(status->last_error, sizeof(status->last_error), "%s", ledger->failure_text);
    if (!status->last_error[0] && ledger_is_held(ledger))
        snprintf(status->last_error, sizeof(status->last_error), "%s", ledger->full_text);
    pthread_mutex_unlock(&ledger->lock);
}
