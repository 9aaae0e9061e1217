/*
 * ADMIT: the way of transactions and imported blocks into the ledger.
 *
 * Happy path of ledger_submit, in the caller's thread and in parallel with others: copy and decode the transaction
 * whole, refuse what cannot succeed, reserve a TX record (under the order lock, held for that and the queue's link
 * alone: so the order of the queue is the order of the log), then copy the bytes into the log's ring and publish the
 * record. EXECUTE takes the decoded form from the queue and never decodes again.
 *
 * Ways to fail: a malformed or too large transaction; one that has expired at the newest ledger time (time never goes
 * back, so it cannot succeed any more); too many on their way, or no room in the log's ring or on the disk: TX_BUSY. A
 * refused transaction leaves nothing behind. One whose id has a published receipt goes to PUBLISH, which answers with
 * that receipt; it is not logged again.
 *
 * An imported block is decoded here as well; what is wrong with it is told in its turn, by EXECUTE.
 *
 * Invariants: done is called exactly once for what was taken; the queues are bounded by LEDGER_INFLIGHT_* and
 * LEDGER_IMPORT*.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void admitted_release(struct ledger *ledger, struct admitted *admitted)
{
    /* relaxed: bounds only, partner of the loads in has_room */
    atomic_fetch_sub_explicit(&ledger->inflight, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&ledger->inflight_bytes, admitted->size, memory_order_relaxed);
    transaction_release(&admitted->tx);
    free(admitted);
}

static bool has_room(struct ledger *ledger, size_t size)
{
    /* relaxed: a bound that may be passed by as many as submit at this moment */
    size_t count = atomic_load_explicit(&ledger->inflight, memory_order_relaxed);
    size_t bytes = atomic_load_explicit(&ledger->inflight_bytes, memory_order_relaxed);
    return count < LEDGER_INFLIGHT_MAX && bytes + size <= LEDGER_INFLIGHT_BYTES_MAX;
}

/* TX_OK if the ledger takes anything now. */
static enum tx_code check_open(struct ledger *ledger)
{
    char text[512];
    enum eng_status status = ledger_failure(ledger, text, sizeof(text));
    if (status != ENG_OK) {
        eng_fail(status, "submit: the ledger has stopped: %s", text);
        return TX_BUSY;
    }
    if (atomic_load_explicit(&ledger->full, memory_order_relaxed)) {
        pthread_mutex_lock(&ledger->lock);
        snprintf(text, sizeof(text), "%s", ledger->full_text);
        pthread_mutex_unlock(&ledger->lock);
        eng_fail(ENG_FULL, "submit: waiting for space: %s", text);
        return TX_BUSY;
    }
    return TX_OK;
}

/* True if every value fits a segment of the store (they all do unless segments are made tiny). */
static bool values_fit(struct ledger *ledger, const struct transaction *tx)
{
    for (uint32_t i = 0; i < tx->operation_count; i++) {
        const struct tx_operation *op = &tx->operations[i];
        if ((op->kind == TX_PUT || op->kind == TX_INSERT || op->kind == TX_UPDATE) &&
            op->value.size > ledger->value_bytes_max) {
            eng_fail(ENG_TOO_LARGE, "operation %u: a value of %zu bytes, this store holds at most %zu", i,
                     op->value.size, ledger->value_bytes_max);
            return false;
        }
    }
    return true;
}

static enum tx_code check_transaction(struct ledger *ledger, const struct transaction *tx)
{
    /* relaxed: an early check; EXECUTE decides */
    uint64_t now = atomic_load_explicit(&ledger->newest_time, memory_order_relaxed);
    if (!tx->expires_ms) {
        eng_fail(ENG_INVALID, "submit: a transaction needs an expiry");
        return TX_MALFORMED;
    }
    if (!values_fit(ledger, tx))
        return TX_TOO_LARGE;
    if (tx->expires_ms <= now) {
        eng_fail(ENG_INVALID, "submit: expired at %llu, ledger time is %llu", (unsigned long long)tx->expires_ms,
                 (unsigned long long)now);
        return TX_EXPIRED;
    }
    return TX_OK;
}

/* True if its receipt is published: PUBLISH answers with it. TX_BUSY in *code: too many ids are remembered. */
static bool answer_known(struct ledger *ledger, struct admitted *admitted, enum tx_code *code)
{
    uint64_t now = atomic_load_explicit(&ledger->newest_time, memory_order_relaxed);
    pthread_mutex_lock(&ledger->ids_lock);
    const struct idtable_entry *entry = idtable_find(&ledger->ids, admitted->tx.id, now);
    uint64_t height = entry ? entry->height : 0;
    bool too_many = !entry && ledger->ids.used >= LEDGER_IDS_MAX;
    if (too_many) {
        uint64_t clock = ledger_clock(ledger);
        too_many = clock < ledger->ids_passed_ms + LEDGER_IDS_PASS_MS && clock >= ledger->ids_passed_ms;
        if (!too_many)
            ledger->ids_passed_ms = clock;
    }
    pthread_mutex_unlock(&ledger->ids_lock);
    if (too_many) {
        eng_fail(ENG_BUSY, "submit: %u transactions have not expired yet", LEDGER_IDS_MAX);
        *code = TX_BUSY;
    }
    if (!height)
        return false;
    pthread_mutex_lock(&ledger->lock);
    bool known = height <= ledger->published && !ledger->closing;
    if (known && ledger->answers.count >= LEDGER_RESUBMISSIONS_MAX) {
        known = false;
        eng_fail(ENG_BUSY, "submit: %u resubmissions wait for their receipts", LEDGER_RESUBMISSIONS_MAX);
        *code = TX_BUSY;
    }
    if (known) {
        admitted->receipt_height = height;
        resubmissions_add(&ledger->answers, admitted);
        pthread_cond_signal(&ledger->publish_ready);
    }
    pthread_mutex_unlock(&ledger->lock);
    return known;
}

/* Fixes its place in the order: reserved in the log and queued for EXECUTE, with the order lock held only for that. */
static enum eng_status put_in_order(struct ledger *ledger, struct admitted *admitted, struct log_ticket *ticket)
{
    pthread_mutex_lock(&ledger->order);
    enum eng_status status = ledger->stopping ? eng_fail(ENG_CLOSED, "submit: the ledger is closing")
                                              : log_reserve(ledger->log, RECORD_TX, admitted->size, 0, ticket);
    if (status == ENG_OK) {
        admitted->offset = ticket->offset;
        admitted->end = ticket->end;
        *ledger->queue_end = admitted;
        ledger->queue_end = &admitted->next;
        pthread_cond_signal(&ledger->work);
    }
    pthread_mutex_unlock(&ledger->order);
    return status;
}

/* The line is eng_error(). */
static void note_full(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->lock);
    snprintf(ledger->full_text, sizeof(ledger->full_text), "%s", eng_error());
    ledger->full_status = ENG_FULL;
    ledger->refused_ns = monotonic_ns();
    pthread_mutex_unlock(&ledger->lock);
}

static enum tx_code admit(struct ledger *ledger, struct admitted *admitted, const uint8_t *bytes)
{
    enum tx_code code = check_transaction(ledger, &admitted->tx);
    if (code == TX_OK && answer_known(ledger, admitted, &code))
        return TX_OK;
    if (code != TX_OK)
        return code;
    uint32_t size = admitted->size;
    struct log_ticket ticket;
    enum eng_status status = put_in_order(ledger, admitted, &ticket);
    if (status != ENG_OK) {
        if (status == ENG_FULL)
            note_full(ledger);
        else if (!status_passes(status) && status != ENG_CLOSED)
            ledger_fail(ledger, status);
        return TX_BUSY;
    }
    /* From here on admitted may be gone: the bytes are the caller's. */
    log_fill(ledger->log, &ticket, 0, bytes, size);
    log_publish(ledger->log, &ticket);
    return TX_OK;
}

enum tx_code ledger_submit(struct ledger *ledger, const uint8_t *bytes, size_t size, ledger_done *done, void *context)
{
    assert(ledger->magic == LEDGER_MAGIC && done);
    if (ledger->options.role != LEDGER_LEADER) {
        eng_fail(ENG_INVALID, "submit: this node is a follower");
        return TX_NOT_LEADER;
    }
    if (size > TX_BYTES_MAX) {
        eng_fail(ENG_TOO_LARGE, "submit: a transaction of %zu bytes, the limit is %u", size, TX_BYTES_MAX);
        return TX_TOO_LARGE;
    }
    enum tx_code code = check_open(ledger);
    if (code != TX_OK)
        return code;
    if (!has_room(ledger, size)) {
        eng_fail(ENG_BUSY, "submit: too many transactions are on their way");
        return TX_BUSY;
    }
    struct admitted *admitted = calloc(1, sizeof(*admitted) + size);
    if (!admitted) {
        eng_fail(ENG_NO_MEMORY, "submit: no memory for %zu bytes", size);
        return TX_BUSY;
    }
    memcpy(admitted->bytes, bytes, size);
    enum eng_status status = transaction_decode(admitted->bytes, size, &admitted->tx);
    if (status != ENG_OK) {
        free(admitted);
        return status == ENG_NO_MEMORY ? TX_BUSY : status == ENG_TOO_LARGE ? TX_TOO_LARGE : TX_MALFORMED;
    }
    admitted->size = (uint32_t)size;
    admitted->done = done;
    admitted->context = context;
    atomic_fetch_add_explicit(&ledger->inflight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&ledger->inflight_bytes, size, memory_order_relaxed);
    code = admit(ledger, admitted, bytes);
    if (code != TX_OK)
        admitted_release(ledger, admitted);
    return code;
}

/* ---- imports ---- */

static void import_release(struct import_request *request)
{
    for (uint32_t i = 0; request->txs && i < request->block.transaction_count; i++)
        transaction_release(&request->txs[i]);
    free(request->txs);
    block_release(&request->block);
    free(request);
}

void import_refuse(struct import_request *request, enum eng_status status)
{
    request->result.status = status;
    snprintf(request->result.text, sizeof(request->result.text), "%s", eng_error());
}

void import_answer(struct ledger *ledger, struct import_request *request)
{
    request->done(request->context, &request->result);
    pthread_mutex_lock(&ledger->order);
    ledger->import_count--;
    ledger->import_bytes -= request->size;
    pthread_mutex_unlock(&ledger->order);
    import_release(request);
}

void ledger_refuse_stream(struct ledger *ledger, uint64_t stream)
{
    bool known = !stream;
    pthread_mutex_lock(&ledger->order);
    for (size_t i = 0; !known && i < LEDGER_REFUSED_STREAMS; i++)
        known = ledger->refused_streams[i] == stream;
    if (!known)
        ledger->refused_streams[ledger->refused_next++ % LEDGER_REFUSED_STREAMS] = stream;
    pthread_mutex_unlock(&ledger->order);
}

/* Decodes block and transactions; what is wrong stands in the result. */
static void import_decode(struct ledger *ledger, struct import_request *request)
{
    request->result.failed_op = RECEIPT_NO_OPERATION;
    enum eng_status status = block_decode(request->bytes, request->size, &request->block);
    if (status != ENG_OK) {
        import_refuse(request, status);
        return;
    }
    const struct block *block = &request->block;
    request->result.height = block->height;
    request->result.transactions = block->transaction_count;
    if (!block->transaction_count)
        return;
    request->txs = calloc(block->transaction_count, sizeof(*request->txs));
    if (!request->txs) {
        import_refuse(request, eng_fail(ENG_NO_MEMORY, "block %llu: no memory", (unsigned long long)block->height));
        return;
    }
    for (uint32_t i = 0; i < block->transaction_count; i++) {
        status = transaction_decode(block->transactions[i].bytes, block->transactions[i].size, &request->txs[i]);
        if (status == ENG_OK && values_fit(ledger, &request->txs[i]))
            continue;
        status = status == ENG_OK ? ENG_TOO_LARGE : status;
        char text[400];
        snprintf(text, sizeof(text), "%s", eng_error());
        request->result.failed_tx = i;
        request->result.code = status == ENG_TOO_LARGE ? TX_TOO_LARGE : TX_MALFORMED;
        import_refuse(request,
                      eng_fail(status, "block %llu, transaction %u: %s", (unsigned long long)block->height, i, text));
        return;
    }
}

enum eng_status ledger_import(struct ledger *ledger, const uint8_t *bytes, size_t size, bool keep_going,
                              uint64_t stream, void (*done)(void *context, const struct import_result *result),
                              void *context)
{
    assert(ledger->magic == LEDGER_MAGIC && done);
    char text[512];
    if (ledger->options.role != LEDGER_LEADER)
        return eng_fail(ENG_CLOSED, "import: this node is a follower, its leader imports");
    if (size > BLOCK_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "import: a block of %zu bytes, the limit is %u", size, BLOCK_BYTES_MAX);
    enum eng_status status = ledger_failure(ledger, text, sizeof(text));
    if (status != ENG_OK)
        return eng_fail(status, "import: the ledger has stopped: %s", text);
    /* relaxed: a hint; a block that is taken all the same waits for the space */
    if (atomic_load_explicit(&ledger->full, memory_order_relaxed)) {
        pthread_mutex_lock(&ledger->lock);
        snprintf(text, sizeof(text), "%s", ledger->full_text);
        pthread_mutex_unlock(&ledger->lock);
        return eng_fail(ENG_FULL, "import: waiting for space: %s", text);
    }
    pthread_mutex_lock(&ledger->order);
    bool room = ledger->import_count < LEDGER_IMPORTS_MAX &&
                (!ledger->import_count || ledger->import_bytes + size <= LEDGER_IMPORT_BYTES_MAX);
    if (ledger->stopping)
        status = eng_fail(ENG_CLOSED, "import: the ledger is closing");
    else if (!room)
        status = eng_fail(ENG_BUSY, "import: %zu blocks are on their way", ledger->import_count);
    if (status == ENG_OK) {
        ledger->import_count++;
        ledger->import_bytes += size;
        ledger->import_decoding++;
    }
    pthread_mutex_unlock(&ledger->order);
    if (status != ENG_OK)
        return status;
    struct import_request *request = calloc(1, sizeof(*request) + size);
    if (request) {
        memcpy(request->bytes, bytes, size);
        request->size = size;
        request->keep_going = keep_going;
        request->stream = stream;
        request->done = done;
        request->context = context;
        import_decode(ledger, request);
    }
    pthread_mutex_lock(&ledger->order);
    ledger->import_decoding--;
    if (request) {
        *ledger->imports_end = request;
        ledger->imports_end = &request->next;
    } else {
        ledger->import_count--;
        ledger->import_bytes -= size;
        status = eng_fail(ENG_NO_MEMORY, "import: no memory for %zu bytes", size);
    }
    pthread_cond_signal(&ledger->work);
    pthread_mutex_unlock(&ledger->order);
    return status;
}
