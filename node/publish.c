/*
 * PUBLISH: the thread that makes blocks durable, shows them, and answers.
 *
 * Happy path: a block ends, EXECUTE says so (publish_want), this thread flushes the log: one write and one sync for all
 * that was appended by then, while MERGE works on the same block. When a block is both merged and behind the durable
 * offset, it becomes the head: one store under the lock, then everybody who waits for it is answered, in the order of
 * the receipts. What was appended during the sync is the next block: EXECUTE is told when the disk is idle.
 *
 * Resubmissions are answered here too, with the receipt out of the sealed block, which is read if it is not the one of
 * the last of them: so only a few in turn with the blocks.
 *
 * Ways to fail: a failed flush stops the ledger for good (P1: never retried). Blocks that are not published then are
 * answered as not done; whether they are in the log the next start will tell, and the client asks again with its id.
 *
 * Invariants: published grows by one block at a time; nothing is answered before it.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- queues of blocks; with the lock ---- */

void queue_push(struct block_queue *queue, struct block_work *block)
{
    assert(queue->count < queue->bound);
    queue->blocks[(queue->first + queue->count++) % queue->bound] = block;
}

struct block_work *queue_pop(struct block_queue *queue)
{
    if (!queue->count)
        return NULL;
    struct block_work *block = queue->blocks[queue->first];
    queue->first = (queue->first + 1) % queue->bound;
    queue->count--;
    return block;
}

void publish_want(struct ledger *ledger, uint64_t offset)
{
    pthread_mutex_lock(&ledger->lock);
    ledger->flush_target = offset;
    pthread_cond_signal(&ledger->publish_ready);
    pthread_mutex_unlock(&ledger->lock);
}

void publish_enqueue(struct ledger *ledger, struct block_work *block)
{
    pthread_mutex_lock(&ledger->lock);
    while (ledger->to_publish.count == ledger->to_publish.bound) {
        assert(!ledger->options.stepped);
        pthread_cond_wait(&ledger->publish_space, &ledger->lock);
    }
    queue_push(&ledger->to_publish, block);
    pthread_cond_signal(&ledger->publish_ready);
    pthread_mutex_unlock(&ledger->lock);
}

/* ---- resubmissions ---- */

void resubmissions_init(struct resubmissions *list)
{
    list->first = NULL;
    list->end = &list->first;
    list->count = 0;
}

void resubmissions_add(struct resubmissions *list, struct admitted *admitted)
{
    admitted->next = NULL;
    list->count++;
    *list->end = admitted;
    list->end = &admitted->next;
}

static struct admitted *resubmissions_take(struct resubmissions *list)
{
    struct admitted *admitted = list->first;
    if (!admitted)
        return NULL;
    list->first = admitted->next;
    list->count--;
    if (!list->first)
        list->end = &list->first;
    return admitted;
}

static void answer_again(struct ledger *ledger, struct admitted *admitted)
{
    size_t at, size;
    struct sealed_block sealed;
    enum eng_status status = ENG_OK;
    uint64_t height = admitted->receipt_height;
    if (ledger->again.height != height) {
        ledger->again.height = 0;
        status =
            blockstore_read(ledger->blocks, height, &ledger->again.bytes, &ledger->again.capacity, &ledger->again.size);
        if (status == ENG_OK)
            ledger->again.height = height;
    }
    if (status == ENG_OK)
        status = sealed_block_decode(ledger->again.bytes, ledger->again.size, &sealed);
    if (status == ENG_OK && receipt_find(sealed.receipts, sealed.receipts_bytes, admitted->tx.id, &at, &size))
        admitted->done(admitted->context, TX_OK, sealed.receipts + at, size);
    else /* it cannot be read */
        admitted->done(admitted->context, TX_BUSY, NULL, 0);
    admitted_release(ledger, admitted);
}

static void forget_block(struct ledger *ledger)
{
    free(ledger->again.bytes);
    memset(&ledger->again, 0, sizeof ledger->again);
}

void publish_answers(struct ledger *ledger, size_t most)
{
    for (size_t i = 0; i < most; i++) {
        pthread_mutex_lock(&ledger->lock);
        struct admitted *admitted = resubmissions_take(&ledger->answers);
        pthread_mutex_unlock(&ledger->lock);
        if (!admitted)
            break;
        answer_again(ledger, admitted);
    }
    pthread_mutex_lock(&ledger->lock);
    bool rest = ledger->answers.first != NULL;
    pthread_mutex_unlock(&ledger->lock);
    if (!rest)
        forget_block(ledger);
}

/* ---- blocks ---- */

void publish_block(struct ledger *ledger, struct block_work *block)
{
    if (block->stage == BLOCK_STORED) {
        pthread_mutex_lock(&ledger->lock);
        assert(block->height == ledger->published + 1);
        ledger->published = block->height;
        memcpy(ledger->published_digest, block->digest, 32);
        pthread_cond_broadcast(&ledger->published_changed);
        pthread_mutex_unlock(&ledger->lock);
    }
    for (size_t i = 0; i < block->waiter_count; i++) {
        const struct waiter *waiter = &block->waiters[i];
        waiter->done(waiter->context, TX_OK, block->receipts + waiter->receipt_at, waiter->receipt_bytes);
    }
    pthread_mutex_lock(&ledger->lock);
    for (struct admitted *admitted; (admitted = resubmissions_take(&block->again));)
        resubmissions_add(&ledger->answers, admitted);
    pthread_mutex_unlock(&ledger->lock);
    block->waiter_count = 0;
    if (block->import)
        import_answer(ledger, block->import);
    block->import = NULL;
    work_release(ledger, &block);
}

void publish_refuse(struct ledger *ledger, struct block_work *block)
{
    for (size_t i = 0; i < block->waiter_count; i++)
        block->waiters[i].done(block->waiters[i].context, TX_BUSY, NULL, 0);
    block->waiter_count = 0;
    for (struct admitted *admitted; (admitted = resubmissions_take(&block->again));) {
        admitted->done(admitted->context, TX_BUSY, NULL, 0);
        admitted_release(ledger, admitted);
    }
    if (block->import) {
        char text[512];
        enum eng_status status = ledger_failure(ledger, text, sizeof(text));
        import_refuse(block->import, status != ENG_OK ? eng_fail(status, "%s", text)
                                                      : eng_fail(ENG_CLOSED, "block %llu: the ledger is closing",
                                                                 (unsigned long long)block->height));
        import_answer(ledger, block->import);
    }
    block->import = NULL;
    work_release(ledger, &block);
}

/* Publishes what is merged and durable; false: there was nothing. */
static bool publish_durable(struct ledger *ledger)
{
    bool some = false;
    for (;;) {
        uint64_t durable = log_durable(ledger->log);
        pthread_mutex_lock(&ledger->lock);
        struct block_queue *queue = &ledger->to_publish;
        struct block_work *block = NULL;
        if (queue->count && queue->blocks[queue->first]->log_end <= durable)
            block = queue_pop(queue);
        pthread_cond_signal(&ledger->publish_space);
        pthread_mutex_unlock(&ledger->lock);
        if (!block)
            return some;
        publish_block(ledger, block);
        some = true;
    }
}

enum eng_status publish_step(struct ledger *ledger)
{
    enum eng_status status = log_flush(ledger->log);
    if (status == ENG_OK)
        publish_durable(ledger);
    publish_answers(ledger, SIZE_MAX);
    return status;
}

/* ---- the thread ---- */

enum task { TASK_FLUSH, TASK_PUBLISH, TASK_IDLE, TASK_END };

/* Waits for something to do. */
static enum task wait_for_task(struct ledger *ledger)
{
    enum task task = TASK_PUBLISH;
    pthread_mutex_lock(&ledger->lock);
    for (;;) {
        const struct block_queue *queue = &ledger->to_publish;
        uint64_t durable = log_durable(ledger->log);
        if (queue->count && (queue->blocks[queue->first]->log_end <= durable || ledger->failure != ENG_OK))
            break;
        if (ledger->failure == ENG_OK && ledger->flush_target > durable) {
            task = TASK_FLUSH;
            break;
        }
        if (ledger->answers.first)
            break;
        if (ledger->merge_ended && !queue->count) {
            task = TASK_END;
            break;
        }
        if (ledger->failure != ENG_OK || durable == log_end(ledger->log)) {
            pthread_cond_wait(&ledger->publish_ready, &ledger->lock);
            continue;
        }
        /* a SEALED record, or transactions whose block is still open */
        uint64_t at_ns = monotonic_ns() + LEDGER_IDLE_FLUSH_MS * 1000000ull;
        struct timespec at = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
        if (pthread_cond_timedwait(&ledger->publish_ready, &ledger->lock, &at) != 0) {
            task = TASK_IDLE;
            break;
        }
    }
    pthread_mutex_unlock(&ledger->lock);
    return task;
}

static void flush(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->lock);
    uint64_t target = ledger->flush_target;
    pthread_mutex_unlock(&ledger->lock);
    if (ledger_flush(ledger, target) != ENG_OK) {
        ledger_fail(ledger, ENG_IO);
        return;
    }
    /* The disk is idle: EXECUTE may close the next block. */
    pthread_mutex_lock(&ledger->order);
    pthread_cond_signal(&ledger->work);
    pthread_mutex_unlock(&ledger->order);
}

static void refuse_rest(struct ledger *ledger)
{
    for (;;) {
        pthread_mutex_lock(&ledger->lock);
        struct block_work *block = queue_pop(&ledger->to_publish);
        pthread_cond_signal(&ledger->publish_space);
        pthread_mutex_unlock(&ledger->lock);
        if (!block)
            return;
        publish_refuse(ledger, block);
    }
}

void *publish_thread(void *argument)
{
    struct ledger *ledger = argument;
    for (;;) {
        enum task task = wait_for_task(ledger);
        switch (task) {
        case TASK_FLUSH:
            flush(ledger);
            break;
        case TASK_IDLE:
            if (log_flush(ledger->log) != ENG_OK)
                ledger_fail(ledger, ENG_IO);
            break;
        case TASK_PUBLISH:
            break;
        case TASK_END:
            return NULL;
        }
        publish_durable(ledger);
        /* acquire: partner of the release in ledger_fail */
        if (atomic_load_explicit(&ledger->failed, memory_order_acquire))
            refuse_rest(ledger);
        publish_answers(ledger, PUBLISH_ANSWERS_A_TURN);
    }
}
