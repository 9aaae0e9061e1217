/*
 * Start: what the log has behind the state's checkpoint is done again.
 *
 * Happy path: remember the ids of the blocks of the last window, then read the log record by record. BLOCK_END and
 * BLOCK are executed by the code that executed them first, with the recorded time, committed and sealed again; the
 * SEALED record that follows must have the very same bytes. A SEALED record of the next height without a block-end
 * before it was applied by a follower, and is applied again. SEALED records that the crash has cut off are appended at
 * the end.
 *
 * TX records that no block-end covers were never acknowledged: they are passed over now and for ever, because the range
 * of every later block begins behind them.
 *
 * Ways to fail: a replay that does not give what the log says (another number of transactions, other sealed bytes, a
 * gap in the heights) is ENG_DAMAGED, naming height and log offset: P9, nothing is shown that is not certain.
 *
 * Runs in the opening thread, before any other exists.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct replay {
    struct ledger *ledger;
    uint64_t offset; /* of the record at hand */
    struct block_work *unmatched,
        *unmatched_last; /* sealed again, their record is not read yet; linked by next_sealed */
    uint8_t *buffer;     /* of the record at hand */
    size_t capacity;
    uint8_t *tx_buffer; /* of the TX records of a block */
    size_t tx_capacity;
};

enum eng_status replay_ids(struct ledger *ledger)
{
    uint8_t *bytes = NULL;
    size_t capacity = 0, size;
    uint64_t now = ledger->base.time_ms;
    enum eng_status status = ENG_OK;
    for (uint64_t height = ledger->base.height; status == ENG_OK && height; height--) {
        struct sealed_block sealed;
        struct header header;
        status = blockstore_read(ledger->blocks, height, &bytes, &capacity, &size);
        if (status == ENG_OK)
            status = sealed_block_decode(bytes, size, &sealed);
        if (status == ENG_OK)
            status = header_decode(sealed.header, sealed.header_bytes, &header);
        if (status != ENG_OK || now - header.time_ms >= ledger->window_ms)
            break; /* what was accepted then has expired; time never goes back */
        status = follow_ids(ledger, sealed.receipts, sealed.receipts_bytes, now);
    }
    free(bytes);
    return status;
}

static enum eng_status damaged(const struct replay *replay, uint64_t height, const char *what)
{
    char text[256];
    snprintf(text, sizeof(text), "%s", what);
    return eng_fail(ENG_DAMAGED, "log: offset %llu: block %llu: %s", (unsigned long long)replay->offset,
                    (unsigned long long)height, text);
}

static struct admitted *copy_transaction(struct ledger *ledger, const struct log_record *record)
{
    struct admitted *admitted = calloc(1, sizeof(*admitted) + record->length);
    if (!admitted)
        return NULL;
    memcpy(admitted->bytes, record->payload, record->length);
    admitted->size = record->length;
    admitted->offset = record->offset;
    admitted->end = record->end;
    atomic_fetch_add_explicit(&ledger->inflight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&ledger->inflight_bytes, admitted->size, memory_order_relaxed);
    return admitted;
}

/* One TX record of the block: decided and run as the first time. */
static enum eng_status run_record(struct ledger *ledger, struct block_work *block, const struct log_record *record)
{
    struct admitted *admitted = copy_transaction(ledger, record);
    enum verdict verdict = VERDICT_EXPIRED;
    if (!admitted)
        return eng_fail(ENG_NO_MEMORY, "replay: no memory for %u bytes", record->length);
    enum eng_status status = transaction_decode(admitted->bytes, admitted->size, &admitted->tx);
    if (status == ENG_INVALID || status == ENG_TOO_LARGE)
        status = ENG_DAMAGED; /* admission let only whole ones through */
    if (status == ENG_OK)
        status = work_run(ledger, block, &admitted->tx, (struct span){admitted->bytes, admitted->size}, &verdict,
                          &admitted->receipt_height);
    if (status == ENG_OK && verdict == VERDICT_INCLUDED) {
        if (block->last)
            block->last->next = admitted;
        else
            block->first = admitted;
        block->last = admitted;
    } else {
        admitted_release(ledger, admitted);
    }
    return status;
}

/* The TX records in the block's range, in order. */
static enum eng_status run_range(struct replay *replay, struct block_work *block, const struct block_end *block_end)
{
    enum eng_status status = ENG_OK;
    for (uint64_t at = block_end->first; status == ENG_OK && at < block_end->end;) {
        struct log_record record;
        status = log_read_at(replay->ledger->log, at, &replay->tx_buffer, &replay->tx_capacity, &record);
        if (status != ENG_OK)
            break;
        if (record.type == RECORD_TX)
            status = run_record(replay->ledger, block, &record);
        at = record.end;
    }
    return status == ENG_NOT_FOUND ? damaged(replay, block_end->height, "its transactions are not in the log") : status;
}

/* The transactions of an imported block; its bytes are in the record at hand. */
static enum eng_status run_imported(struct ledger *ledger, struct block_work *block, const uint8_t *bytes, size_t size)
{
    struct block imported;
    enum eng_status status = block_decode(bytes, size, &imported);
    if (status != ENG_OK)
        return status;
    for (uint32_t i = 0; status == ENG_OK && i < imported.transaction_count; i++) {
        struct span span = {imported.transactions[i].bytes, imported.transactions[i].size};
        struct transaction tx = {0};
        enum verdict verdict = VERDICT_EXPIRED;
        status = transaction_decode(span.bytes, span.size, &tx);
        if (status != ENG_OK)
            break;
        uint64_t known;
        status = work_run(ledger, block, &tx, span, &verdict, &known);
        transaction_release(&tx);
    }
    block_release(&imported);
    return status;
}

/* Executes, commits and seals a block as the log says it was. */
static enum eng_status replay_block(struct replay *replay, const struct log_record *record)
{
    struct ledger *ledger = replay->ledger;
    struct block_end block_end;
    size_t used;
    enum eng_status status = block_end_decode(record->payload, record->length, &block_end, &used);
    if (status != ENG_OK)
        return damaged(replay, ledger->merged_height + 1, eng_error());
    if (block_end.height != ledger->merged_height + 1 || block_end.time_ms < ledger->merged_time ||
        block_end.end > record->offset)
        return damaged(replay, block_end.height, "its height, time or range is not possible here");
    ledger->epoch = block_end.epoch;
    struct block_work *block = NULL;
    status = work_open(ledger, block_end.height, block_end.time_ms, &block);
    if (status != ENG_OK)
        return status;
    block->note = block_end.note;
    block->note_bytes = block_end.note_bytes;
    block->derives_ids = record->type == RECORD_BLOCK;
    if (record->type == RECORD_BLOCK)
        status = run_imported(ledger, block, record->payload + used, record->length - used);
    else
        status = run_range(replay, block, &block_end);
    if (status == ENG_INVALID || status == ENG_DAMAGED)
        status = damaged(replay, block_end.height, eng_error());
    if (status == ENG_OK && block->included_count != block_end.transactions)
        status = damaged(replay, block_end.height, "its replay includes another number of transactions");
    if (status == ENG_OK)
        status = work_freeze(ledger, block);
    if (status == ENG_OK) {
        block->stage = BLOCK_LOGGED;
        block->log_end = record->end;
        status = merge_commit(ledger, block);
    }
    if (status != ENG_OK) {
        work_release(ledger, &block);
        return status;
    }
    ledger->executed_height = ledger->published = block->height;
    ledger->executed_time = block->time_ms;
    if (replay->unmatched_last)
        replay->unmatched_last->next_sealed = block;
    else
        replay->unmatched = block;
    replay->unmatched_last = block;
    return merge_retain(ledger);
}

/* Takes the first of the blocks whose sealed bytes were made again. */
static struct block_work *take_unmatched(struct replay *replay)
{
    struct block_work *block = replay->unmatched;
    if (block) {
        replay->unmatched = block->next_sealed;
        if (!replay->unmatched)
            replay->unmatched_last = NULL;
    }
    return block;
}

/* A sealed block that we applied as a follower. */
static enum eng_status replay_applied(struct replay *replay, const struct log_record *record,
                                      const struct sealed_block *sealed, const struct header *header)
{
    struct ledger *ledger = replay->ledger;
    struct block_work *block = NULL;
    enum eng_status status = follow_commit(ledger, header, record->payload, record->length, &block);
    if (status == ENG_CONFLICT || status == ENG_INVALID || status == ENG_EXISTS)
        return damaged(replay, header->height, eng_error());
    if (status == ENG_OK)
        status = follow_ids(ledger, sealed->receipts, sealed->receipts_bytes, header->time_ms);
    work_release(ledger, &block);
    if (status != ENG_OK)
        return status;
    ledger->published = header->height;
    ledger->replay_from = ledger->stored_end = record->end;
    status = blockstore_note(ledger->blocks, header->height, record->offset);
    return status == ENG_OK ? merge_retain(ledger) : status;
}

static enum eng_status replay_sealed(struct replay *replay, const struct log_record *record)
{
    struct ledger *ledger = replay->ledger;
    struct sealed_block sealed;
    struct header header;
    enum eng_status status = sealed_block_decode(record->payload, record->length, &sealed);
    if (status == ENG_OK)
        status = header_decode(sealed.header, sealed.header_bytes, &header);
    if (status != ENG_OK)
        return damaged(replay, ledger->merged_height, eng_error());
    if (header.height <= ledger->base.height)
        return blockstore_note(ledger->blocks, header.height, record->offset);
    if (header.height > ledger->merged_height)
        return replay_applied(replay, record, &sealed, &header);
    struct block_work *block = take_unmatched(replay);
    if (!block || block->height != header.height)
        status = damaged(replay, header.height, "a second sealed block of this height");
    else if (block->sealed_bytes != record->length || memcmp(block->sealed, record->payload, record->length) != 0)
        status = damaged(replay, header.height, "its replay gives another sealed block than the log has");
    else
        status = blockstore_note(ledger->blocks, header.height, record->offset);
    ledger->stored_end = record->end;
    work_release(ledger, &block);
    return status;
}

static enum eng_status replay_record(struct replay *replay, const struct log_record *record)
{
    switch (record->type) {
    case LOG_MARK:
    case RECORD_TX:
        return ENG_OK;
    case RECORD_BLOCK_END:
    case RECORD_BLOCK:
        return replay_block(replay, record);
    case RECORD_SEALED:
        return replay_sealed(replay, record);
    }
    if (record->type < LOG_USER)
        return ENG_OK; /* the log's own */
    return eng_fail(ENG_VERSION, "log: offset %llu: a record of type %u, which this version does not know",
                    (unsigned long long)record->offset, record->type);
}

enum eng_status replay_log(struct ledger *ledger)
{
    struct replay replay = {.ledger = ledger, .offset = ledger->base.log_offset};
    const struct ledger_options *options = &ledger->options;
    uint64_t begin = replay.offset, end = log_end(ledger->log);
    enum eng_status status;
    for (;;) {
        struct log_record record;
        status = log_read_at(ledger->log, replay.offset, &replay.buffer, &replay.capacity, &record);
        if (status != ENG_OK)
            break;
        status = replay_record(&replay, &record);
        if (status != ENG_OK)
            break;
        replay.offset = record.end;
        if (options->progress && record.type != RECORD_TX)
            options->progress(options->progress_context, replay.offset - begin, end - begin);
    }
    if (status == ENG_NOT_FOUND)
        status = ENG_OK;
    for (struct block_work *block; (block = take_unmatched(&replay));) {
        if (status == ENG_OK)
            status = merge_store(ledger, block);
        work_release(ledger, &block);
    }
    free(replay.buffer);
    free(replay.tx_buffer);
    return status;
}
