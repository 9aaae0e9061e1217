/*
 * EXECUTE: the thread that decides what a block is.
 *
 * Happy path: take what was submitted, in the order of the log; look the keys of the next transactions up ahead; run
 * each on the open block; close the block when it is full, or when nothing more waits and either its time has come or
 * the disk has nothing to do (what arrives during one sync is the next block). Closing: reserve the space its merge can
 * need, freeze the batch, append BLOCK_END, hand it to MERGE and open the next on top of it.
 *
 * An imported block closes the open one and is run into its own batch. If one of its transactions fails (and not
 * keep_going) the batch is dropped and nothing was logged; otherwise BLOCK is appended in place of BLOCK_END.
 *
 * Ways to fail: a full disk leaves the round where it is (must_close) until there is space; whatever else goes wrong
 * stops the ledger, because a block that half the nodes could not execute must not go on (P9). After that, everything
 * in the queues is answered as not done.
 *
 * Invariants: only this thread (or ledger_step) touches open, taken, importing, executed_*, epoch. A block with no
 * included transaction leaves no trace, unless it was imported.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t lesser(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- closing ---- */

enum eng_status execute_hand_over(struct ledger *ledger, struct block_work *block)
{
    if (block->batch) {
        ledger->executed_height = block->height;
        ledger->executed_time = block->time_ms;
        ledger->last_block_end = block->log_end;
        /* relaxed: partner of admission's early checks */
        atomic_store_explicit(&ledger->newest_time, block->time_ms, memory_order_relaxed);
    }
    pthread_mutex_lock(&ledger->lock);
    if (block->batch)
        ledger->last_frozen = block->batch;
    if (!ledger->options.stepped) {
        while (ledger->to_merge.count == ledger->to_merge.bound)
            pthread_cond_wait(&ledger->merge_space, &ledger->lock);
        queue_push(&ledger->to_merge, block);
        pthread_cond_signal(&ledger->merge_ready);
        pthread_mutex_unlock(&ledger->lock);
        return ENG_OK;
    }
    pthread_mutex_unlock(&ledger->lock);
    assert(!ledger->merging);
    ledger->merging = block;
    enum eng_status status = merge_block(ledger, block);
    if (status != ENG_OK)
        return status;
    ledger->merging = NULL;
    publish_enqueue(ledger, block);
    return ENG_OK;
}

static enum eng_status log_block(struct ledger *ledger, struct block_work *block)
{
    struct import_request *import = block->import;
    struct block_end block_end = {
        .height = block->height,
        .time_ms = block->time_ms,
        .epoch = block->epoch,
        .first = block->range_first,
        .end = block->range_end,
        .transactions = (uint32_t)block->included_count,
        .note_bytes = block->note_bytes,
        .note = block->note,
    };
    uint8_t bytes[BLOCK_END_BYTES_MAX];
    uint64_t offset;
    size_t size = block_end_encode(&block_end, bytes);
    if (import)
        return ledger_append(ledger, RECORD_BLOCK, bytes, size, import->bytes, import->size, &offset, &block->log_end);
    return ledger_append(ledger, RECORD_BLOCK_END, bytes, size, NULL, 0, &offset, &block->log_end);
}

/* The ids of an imported block count from here on. */
static enum eng_status adopt_ids(struct ledger *ledger, struct block_work *block)
{
    enum eng_status status = ENG_OK;
    if (!block->ids)
        return ENG_OK;
    pthread_mutex_lock(&ledger->ids_lock);
    for (size_t i = 0; status == ENG_OK && i < block->ids->capacity; i++)
        if (block->ids->slots[i].expires_ms)
            status = idtable_insert(&ledger->ids, &block->ids->slots[i], block->time_ms);
    pthread_mutex_unlock(&ledger->ids_lock);
    idtable_clear(block->ids);
    block->ids = NULL;
    return status;
}

/* May be called again after an error that passes. */
static enum eng_status close_block(struct ledger *ledger)
{
    struct block_work *block = ledger->open;
    enum eng_status status = ENG_OK;
    ledger->must_close = true;
    if (ledger->options.stepped && ledger->to_publish.count == ledger->to_publish.bound) {
        status = publish_step(ledger);
        if (status != ENG_OK)
            return status;
    }
    if (block->included_count || block->import) {
        if (block->stage == BLOCK_OPEN)
            status = work_freeze(ledger, block);
        if (status == ENG_OK)
            status = log_block(ledger, block);
        if (status == ENG_OK && (status = adopt_ids(ledger, block)) != ENG_OK)
            return ledger_fail(ledger, status); /* it is in the log: cannot be tried again */
        if (status != ENG_OK)
            return status;
        block->stage = BLOCK_LOGGED;
        publish_want(ledger, block->log_end);
    } else {
        eng_batch_close(&block->batch);
    }
    ledger->must_close = false;
    ledger->open = NULL;
    if (block->batch || block->again.first)
        return execute_hand_over(ledger, block);
    work_release(ledger, &block);
    return ENG_OK;
}

/* ---- transactions ---- */

/* Looks up the keys of transactions that will run soon. */
static void prefetch(struct eng_batch *batch, const struct transaction *const txs[], size_t count)
{
    const uint8_t *keys[LEDGER_PREFETCH_KEYS];
    size_t key_bytes[LEDGER_PREFETCH_KEYS], n = 0;
    for (size_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < txs[i]->operation_count && n < LEDGER_PREFETCH_KEYS; k++) {
            keys[n] = txs[i]->operations[k].key;
            key_bytes[n++] = txs[i]->operations[k].key_bytes;
        }
    }
    if (n > 1)
        eng_batch_prefetch(batch, n, keys, key_bytes);
}

static void prefetch_taken(struct ledger *ledger)
{
    const struct transaction *txs[LEDGER_PREFETCH_TXS];
    size_t count = 0;
    for (struct admitted *next = ledger->taken; next && count < LEDGER_PREFETCH_TXS; next = next->next)
        txs[count++] = &next->tx;
    prefetch(ledger->open->batch, txs, count);
    ledger->prefetched = count;
}

static bool is_full(const struct ledger *ledger, const struct block_work *block, uint32_t next_bytes)
{
    return block->included_count >= ledger->options.block_max_txs ||
           (block->included_count && block->transaction_bytes + next_bytes > ledger->options.block_max_bytes) ||
           block->sealed_estimate >= LEDGER_BLOCK_SOFT_BYTES;
}

static void refuse(struct ledger *ledger, struct admitted *admitted, enum tx_code code)
{
    admitted->done(admitted->context, code, NULL, 0);
    admitted_release(ledger, admitted);
}

/* Decides about the first of taken. */
static enum eng_status run_one(struct ledger *ledger)
{
    struct admitted *admitted = ledger->taken;
    enum eng_status status;
    if (ledger->open && is_full(ledger, ledger->open, admitted->size)) {
        status = close_block(ledger);
        if (status != ENG_OK)
            return status;
    }
    if (!ledger->open) {
        uint64_t clock = ledger_clock(ledger);
        status = work_open(ledger, ledger->executed_height + 1,
                           clock > ledger->executed_time ? clock : ledger->executed_time, &ledger->open);
        if (status != ENG_OK)
            return status;
        ledger->prefetched = 0;
    }
    if (!ledger->prefetched)
        prefetch_taken(ledger);
    struct block_work *block = ledger->open;
    enum verdict verdict;
    status = work_run(ledger, block, &admitted->tx, (struct span){admitted->bytes, admitted->size}, &verdict,
                      &admitted->receipt_height);
    if (status != ENG_OK)
        return ledger_fail(ledger, status);
    struct admitted *next = admitted->next;
    switch (verdict) {
    case VERDICT_INCLUDED:
        if (block->included_count == 1)
            block->range_first = admitted->offset;
        block->range_end = admitted->end;
        status = work_wait(block, admitted);
        break;
    case VERDICT_DUPLICATE:
        resubmissions_add(&block->again, admitted);
        break;
    case VERDICT_EXPIRED:
        refuse(ledger, admitted, TX_EXPIRED);
        break;
    case VERDICT_TOO_FAR:
        refuse(ledger, admitted, TX_MALFORMED);
        break;
    }
    if (status != ENG_OK)
        return ledger_fail(ledger, status);
    ledger->taken = next;
    ledger->prefetched--;
    return ENG_OK;
}

/* ---- imports ---- */

/* A block of a height that is there already: ENG_OK if it is the same one. */
static enum eng_status compare_known(struct ledger *ledger, const struct block *block)
{
    uint8_t *bytes = NULL, digest[32];
    size_t capacity = 0, size;
    struct sealed_block sealed;
    struct header header;
    enum eng_status status = ENG_OK;
    if (!ledger->options.stepped)
        status = ledger_wait(ledger, block->height, -1);
    if (status == ENG_OK)
        status = blockstore_read(ledger->blocks, block->height, &bytes, &capacity, &size);
    if (status == ENG_OK)
        status = sealed_block_decode(bytes, size, &sealed);
    if (status == ENG_OK)
        status = header_decode(sealed.header, sealed.header_bytes, &header);
    if (status == ENG_OK) {
        seal_import_digest(block, digest);
        const char *differs =
            memcmp(digest, header.transactions_digest, 32) != 0 ? "other transactions"
            : block->note_bytes != header.note_bytes || memcmp(block->note, header.note, header.note_bytes) != 0
                ? "another note"
            : block->time_ms && block->time_ms != header.time_ms ? "another time"
                                                                 : NULL;
        if (differs)
            status = eng_fail(ENG_EXISTS, "block %llu: another block has this height, with %s",
                              (unsigned long long)block->height, differs);
    }
    free(bytes);
    return status;
}

/* Was a block before it in its stream refused? */
static bool is_refused(struct ledger *ledger, uint64_t stream)
{
    bool refused = false;
    pthread_mutex_lock(&ledger->order);
    for (size_t i = 0; stream && i < LEDGER_REFUSED_STREAMS; i++)
        refused |= ledger->refused_streams[i] == stream;
    pthread_mutex_unlock(&ledger->order);
    return refused;
}

/* ENG_OK: *skipped, or it can be run at *time_ms. */
static enum eng_status check_import(struct ledger *ledger, struct import_request *request, uint64_t *time_ms)
{
    const struct block *block = &request->block;
    struct import_result *result = &request->result;
    if (result->status != ENG_OK)
        return eng_fail(result->status, "%s", result->text);
    if (block->height <= ledger->executed_height) {
        enum eng_status status = compare_known(ledger, block);
        result->skipped = status == ENG_OK;
        return status;
    }
    if (is_refused(ledger, request->stream))
        return eng_fail(ENG_INVALID, "block %llu: not tried: a block before it was refused",
                        (unsigned long long)block->height);
    if (block->height > ledger->executed_height + 1)
        return eng_fail(ENG_INVALID, "block %llu: the ledger ends at %llu, there is a gap",
                        (unsigned long long)block->height, (unsigned long long)ledger->executed_height);
    if (block->time_ms && block->time_ms < ledger->executed_time)
        return eng_fail(ENG_INVALID, "block %llu: its time %llu is before the previous block's, %llu",
                        (unsigned long long)block->height, (unsigned long long)block->time_ms,
                        (unsigned long long)ledger->executed_time);
    if (block->time_ms > LEDGER_TIME_MS_MAX - ledger->window_ms)
        return eng_fail(ENG_INVALID,
                        "block %llu: its time %llu is over %llu, the last that has a whole window behind it",
                        (unsigned long long)block->height, (unsigned long long)block->time_ms,
                        (unsigned long long)(LEDGER_TIME_MS_MAX - ledger->window_ms));
    uint64_t clock = ledger_clock(ledger);
    *time_ms = block->time_ms ? block->time_ms : clock > ledger->executed_time ? clock : ledger->executed_time;
    return ENG_OK;
}

/* What refuses a whole block: a transaction that failed, */
static enum eng_status refuse_import(struct import_request *request, uint32_t index, enum tx_code code, uint32_t op)
{
    struct import_result *result = &request->result;
    result->failed_tx = index;
    result->failed_op = op;
    result->code = code;
    return eng_fail(ENG_CONFLICT, "block %llu, transaction %u, operation %u: %s",
                    (unsigned long long)request->block.height, index, op, tx_code_name(code));
}

/* or one that no receipt can be made for. */
static enum eng_status refuse_import_whole(struct import_request *request, uint32_t index, enum tx_code code,
                                           const char *why)
{
    struct import_result *result = &request->result;
    result->failed_tx = index;
    result->failed_op = RECEIPT_NO_OPERATION;
    result->code = code;
    return eng_fail(ENG_CONFLICT, "block %llu, transaction %u: %s: %s", (unsigned long long)request->block.height,
                    index, tx_code_name(code), why);
}

static enum eng_status run_import(struct ledger *ledger, struct block_work *block, struct import_request *request)
{
    for (uint32_t i = 0; i < request->block.transaction_count; i++) {
        if (i % LEDGER_PREFETCH_TXS == 0) {
            const struct transaction *txs[LEDGER_PREFETCH_TXS];
            size_t count = lesser(LEDGER_PREFETCH_TXS, request->block.transaction_count - i);
            for (size_t k = 0; k < count; k++)
                txs[k] = &request->txs[i + k];
            prefetch(block->batch, txs, count);
        }
        enum verdict verdict;
        uint64_t known;
        struct span bytes = {request->block.transactions[i].bytes, request->block.transactions[i].size};
        enum eng_status status = work_run(ledger, block, &request->txs[i], bytes, &verdict, &known);
        if (status != ENG_OK)
            return status;
        switch (verdict) {
        case VERDICT_INCLUDED:
            break;
        case VERDICT_DUPLICATE:
            return refuse_import_whole(request, i, TX_EXISTS, "its id is in an earlier receipt");
        case VERDICT_EXPIRED:
            return refuse_import_whole(request, i, TX_EXPIRED, "it expires before the time of the block");
        case VERDICT_TOO_FAR:
            return refuse_import_whole(request, i, TX_MALFORMED,
                                       "it expires later than the window of the genesis behind the time of the block");
        }
        if (ledger->execution->code != TX_OK && !request->keep_going)
            return refuse_import(request, i, ledger->execution->code, ledger->execution->failed_op);
        if (block->sealed_estimate > SEALED_BYTES_MAX - LEDGER_SEALED_SLACK)
            return eng_fail(ENG_TOO_LARGE, "block %llu: its receipts and changes are over %u bytes",
                            (unsigned long long)block->height, SEALED_BYTES_MAX - LEDGER_SEALED_SLACK);
    }
    request->result.failed = (uint32_t)block->failed_count;
    return ENG_OK;
}

static void refuse_with_stream(struct ledger *ledger, struct import_request *request, enum eng_status status)
{
    import_refuse(request, status);
    ledger_refuse_stream(ledger, request->stream);
}

/* Runs the block at importing. ENG_OK: it was answered, or is open and complete (close_block comes next). */
static enum eng_status import_one(struct ledger *ledger)
{
    struct import_request *request = ledger->importing;
    uint64_t time_ms = 0;
    enum eng_status status = check_import(ledger, request, &time_ms);
    if (status == ENG_OK && !request->result.skipped) {
        struct block_work *block;
        status = work_open(ledger, request->block.height, time_ms, &block);
        if (status == ENG_OK) {
            block->derives_ids = true;
            block->ids = &ledger->import_ids;
            block->note = request->block.note;
            block->note_bytes = request->block.note_bytes;
            status = run_import(ledger, block, request);
            if (status == ENG_OK) {
                block->import = request;
                ledger->open = block;
                ledger->importing = NULL;
                return close_block(ledger);
            }
            refuse_with_stream(ledger, request, status);
            idtable_clear(&ledger->import_ids);
            work_release(ledger, &block);
            ledger->importing = NULL;
            import_answer(ledger, request);
            return ENG_OK;
        }
    }
    if (status != ENG_OK)
        refuse_with_stream(ledger, request, status);
    ledger->importing = NULL;
    import_answer(ledger, request);
    return ENG_OK;
}

/* ---- rounds ---- */

/* Takes what was submitted; false if there is nothing. */
static bool take(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->order);
    if (!ledger->taken && ledger->queue) {
        ledger->taken = ledger->queue;
        ledger->queue = NULL;
        ledger->queue_end = &ledger->queue;
        ledger->prefetched = 0;
    }
    bool some = ledger->taken || ledger->imports || ledger->importing;
    pthread_mutex_unlock(&ledger->order);
    return some;
}

static bool take_import(struct ledger *ledger)
{
    if (ledger->importing)
        return true;
    pthread_mutex_lock(&ledger->order);
    struct import_request *request = ledger->imports;
    if (request) {
        ledger->imports = request->next;
        if (!ledger->imports)
            ledger->imports_end = &ledger->imports;
        request->next = NULL;
    }
    pthread_mutex_unlock(&ledger->order);
    ledger->importing = request;
    return request != NULL;
}

/* What was begun and could not be ended for want of space. */
static enum eng_status resume(struct ledger *ledger)
{
    enum eng_status status = ENG_OK;
    if (ledger->merging) {
        struct block_work *block = ledger->merging;
        status = merge_block(ledger, block);
        if (status == ENG_OK) {
            ledger->merging = NULL;
            publish_enqueue(ledger, block);
        }
    }
    if (status == ENG_OK && ledger->must_close)
        status = close_block(ledger);
    return status;
}

/* One turn of transactions and one of imports. */
static enum eng_status turn(struct ledger *ledger)
{
    enum eng_status status = resume(ledger);
    while (status == ENG_OK && ledger->taken)
        status = run_one(ledger);
    for (unsigned i = 0; status == ENG_OK && i < LEDGER_IMPORTS_A_ROUND && take_import(ledger); i++) {
        if (ledger->open)
            status = close_block(ledger);
        if (status == ENG_OK)
            status = import_one(ledger);
    }
    return status;
}

enum eng_status execute_round(struct ledger *ledger)
{
    enum eng_status status = resume(ledger);
    while (status == ENG_OK && take(ledger))
        status = turn(ledger);
    if (status == ENG_OK && ledger->open)
        status = close_block(ledger);
    return status;
}

void execute_abandon(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->order);
    ledger->stopping = true; /* what is given up here must not be followed by anything */
    pthread_mutex_unlock(&ledger->order);
    if (ledger->open) {
        ledger->must_close = false;
        publish_refuse(ledger, ledger->open);
        ledger->open = NULL;
    }
    idtable_clear(&ledger->import_ids);
    while (take(ledger)) {
        while (ledger->taken) {
            struct admitted *next = ledger->taken->next;
            refuse(ledger, ledger->taken, TX_BUSY);
            ledger->taken = next;
        }
        while (take_import(ledger)) {
            struct import_request *request = ledger->importing;
            ledger->importing = NULL;
            char text[512];
            enum eng_status status = ledger_failure(ledger, text, sizeof(text));
            import_refuse(request, status != ENG_OK ? eng_fail(status, "%s", text)
                                                    : eng_fail(ENG_CLOSED, "import: the ledger is closing"));
            import_answer(ledger, request);
        }
    }
}

/* ---- the thread ---- */

/* True if the open block should not wait for more: the disk is idle, or its time is over. *deadline_ns: when it will
 * be. */
static bool is_due(struct ledger *ledger, uint64_t *deadline_ns)
{
    *deadline_ns = ledger->open->opened_ns + ledger->options.block_max_wait_ms * 1000000ull;
    return log_durable(ledger->log) >= ledger->last_block_end || monotonic_ns() >= *deadline_ns;
}

/* Waits for something to do. False: everything is done and the ledger is closing. */
static bool wait_for_work(struct ledger *ledger, bool *close)
{
    bool go_on = true;
    *close = false;
    pthread_mutex_lock(&ledger->order);
    while (!ledger->queue && !ledger->imports) {
        uint64_t deadline_ns;
        if (ledger->open) {
            *close = ledger->stopping || is_due(ledger, &deadline_ns);
            if (*close)
                break;
            struct timespec at = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
            pthread_cond_timedwait(&ledger->work, &ledger->order, &at);
        } else if (ledger->stopping && !ledger->import_decoding) {
            go_on = false;
            break;
        } else {
            pthread_cond_wait(&ledger->work, &ledger->order);
        }
    }
    pthread_mutex_unlock(&ledger->order);
    return go_on;
}

void *execute_thread(void *argument)
{
    struct ledger *ledger = argument;
    bool close;
    while (wait_for_work(ledger, &close)) {
        enum eng_status status = ENG_OK;
        /* acquire: partner of the release in ledger_fail */
        bool failed = atomic_load_explicit(&ledger->failed, memory_order_acquire);
        if (!failed) {
            take(ledger);
            do {
                status = turn(ledger);
                if (status == ENG_OK && close && ledger->open)
                    status = close_block(ledger);
                if (status == ENG_OK)
                    ledger_unhold(ledger);
                else if (status == ENG_FULL)
                    merge_want_room(ledger);
            } while (status != ENG_OK && ledger_pause(ledger, status));
        }
        if (failed || status != ENG_OK)
            execute_abandon(ledger);
    }
    return NULL;
}
