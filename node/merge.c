/*
 * MERGE: the thread that turns closed blocks into roots, and looks after the store.
 *
 * Happy path, block by block while EXECUTE is running the next: commit the frozen batch (the tree gets a version with
 * the height as its tag), seal it, append the SEALED record without waiting for the disk, drop the versions that
 * retention no longer wants, begin a checkpoint if enough log was written since the last, and pass the block to
 * PUBLISH.
 *
 * A checkpoint must never be ahead of the log: before the store captures height h, the log is flushed behind h's SEALED
 * record, and the index of sealed blocks is written up to h. What the checkpoint keeps for us (struct base) is where
 * the replay goes on: right behind the block-end of h.
 *
 *   base   u32 version = 1 | u32 0 | u64 height | u64 time_ms | u64 epoch | u64 log offset | u64 drop_next | digest[32]
 *
 * Ways to fail: no space: the block is tried again (threads: here, after a pause), and nothing was published; a
 * checkpoint without space is put off, the log just grows. Anything else stops the ledger.
 *
 * Invariants: merged_height and merged_digest are the end of the chain of headers; drop_next is the lowest height whose
 * version may still have to be dropped, and never above what is published.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#define BASE_VERSION 1u

void base_encode(const struct base *base, uint8_t bytes[BASE_BYTES])
{
    uint64_t words[6] = {htole64(BASE_VERSION), htole64(base->height),     htole64(base->time_ms),
                         htole64(base->epoch),  htole64(base->log_offset), htole64(base->drop_next)};
    _Static_assert(sizeof(words) + 32 == BASE_BYTES, "kept in the store's checkpoint");
    memcpy(bytes, words, sizeof(words));
    memcpy(bytes + sizeof(words), base->digest, 32);
}

enum eng_status base_decode(const uint8_t *bytes, size_t size, struct base *base)
{
    uint64_t words[6] = {0};
    memcpy(words, bytes, size < sizeof(words) ? size : sizeof(words));
    if (le64toh(words[0]) > BASE_VERSION)
        return eng_fail(ENG_VERSION, "state: its checkpoint was made by a newer version (%llu)",
                        (unsigned long long)le64toh(words[0]));
    if (le64toh(words[0]) != BASE_VERSION || size != BASE_BYTES)
        return eng_fail(ENG_DAMAGED, "state: its checkpoint has %zu bytes that are not a ledger's", size);
    base->height = le64toh(words[1]);
    base->time_ms = le64toh(words[2]);
    base->epoch = le64toh(words[3]);
    base->log_offset = le64toh(words[4]);
    base->drop_next = le64toh(words[5]);
    memcpy(base->digest, bytes + sizeof(words), 32);
    return ENG_OK;
}

/* ---- one block ---- */

enum eng_status merge_commit(struct ledger *ledger, struct block_work *block)
{
    enum eng_status status = ENG_OK;
    assert(block->height == ledger->merged_height + (block->stage < BLOCK_SEALED));
    if (block->stage == BLOCK_LOGGED) {
        status = eng_commit(block->batch, block->height, &block->summary);
        if (status != ENG_OK)
            return status;
        block->stage = BLOCK_COMMITTED;
    }
    if (block->stage == BLOCK_COMMITTED) {
        status = work_seal(ledger, block);
        if (status != ENG_OK)
            return status;
        work_close_batch(ledger, block);
        ledger->merged_height = block->height;
        ledger->merged_time = block->time_ms;
        ledger->merged_epoch = block->epoch;
        ledger->replay_from = block->log_end;
        memcpy(ledger->merged_digest, block->digest, 32);
    }
    return ENG_OK;
}

enum eng_status merge_store(struct ledger *ledger, struct block_work *block)
{
    enum eng_status status;
    if (block->stage == BLOCK_SEALED) {
        status = ledger_append(ledger, RECORD_SEALED, block->sealed, block->sealed_bytes, NULL, 0,
                               &block->sealed_offset, &block->sealed_end);
        if (status != ENG_OK)
            return status;
        block->stage = BLOCK_STORED;
    }
    if (block->sealed) {
        status = blockstore_add(ledger->blocks, block->height, block->sealed, block->sealed_bytes, block->sealed_offset,
                                block->sealed_end);
        if (status != ENG_OK)
            return status;
        block->sealed = NULL;
        ledger->stored_end = block->sealed_end;
    }
    return ENG_OK;
}

enum eng_status merge_block(struct ledger *ledger, struct block_work *block)
{
    if (!block->batch && block->stage == BLOCK_OPEN)
        return ENG_OK; /* nothing but resubmissions that wait for earlier receipts */
    enum eng_status status = merge_commit(ledger, block);
    if (status == ENG_OK)
        status = merge_store(ledger, block);
    return status == ENG_OK ? merge_upkeep(ledger) : status;
}

/* ---- upkeep ---- */

enum eng_status merge_retain(struct ledger *ledger)
{
    uint64_t blocks = ledger->options.retain_blocks, every = ledger->options.retain_every;
    if (!blocks)
        return ENG_OK;
    pthread_mutex_lock(&ledger->lock);
    uint64_t published = ledger->published;
    pthread_mutex_unlock(&ledger->lock);
    for (unsigned i = 0; i < LEDGER_DROPS_A_BLOCK && ledger->drop_next + blocks <= published; i++) {
        if (!every || ledger->drop_next % every) {
            enum eng_status status = eng_drop(ledger->eng, LEDGER_ROOT_STATE, ledger->drop_next);
            if (status != ENG_OK && status != ENG_NOT_FOUND && status != ENG_GONE)
                return status;
        }
        ledger->drop_next++;
    }
    return ENG_OK;
}

bool merge_is_whole(struct ledger *ledger)
{
    struct eng_summary summary;
    uint64_t head = 0;
    return eng_head(ledger->eng, LEDGER_ROOT_STATE, &head, &summary) == ENG_OK && head == ledger->merged_height &&
           blockstore_height(ledger->blocks) == ledger->merged_height;
}

enum eng_status merge_checkpoint(struct ledger *ledger, bool wait)
{
    struct base base = {
        .height = ledger->merged_height,
        .time_ms = ledger->merged_time,
        .epoch = ledger->merged_epoch,
        .log_offset = ledger->replay_from,
        .drop_next = ledger->drop_next,
    };
    uint8_t bytes[BASE_BYTES];
    memcpy(base.digest, ledger->merged_digest, 32);
    base_encode(&base, bytes);
    enum eng_status status = ledger_flush(ledger, ledger->stored_end);
    if (status == ENG_OK)
        status = blockstore_save(ledger->blocks, ledger->merged_height);
    if (status == ENG_OK)
        status = eng_checkpoint(ledger->eng, bytes, sizeof(bytes), wait);
    if (status == ENG_OK) {
        ledger->checkpointed = ledger->replay_from;
        ledger->checkpoint_due = ledger->replay_from + ledger->options.checkpoint_log_bytes;
    }
    return status;
}

/* After so much log; or, at least a 64th of that after the last try, when it would give much space back. */
static bool merge_checkpoint_due(struct ledger *ledger)
{
    uint64_t all = ledger->options.checkpoint_log_bytes;
    if (ledger->replay_from >= ledger->checkpoint_due)
        return true;
    if (ledger->replay_from < ledger->space_due || !eng_checkpoint_wanted(ledger->eng))
        return false;
    ledger->space_due = ledger->replay_from + all / 64 + 1;
    return true;
}

enum eng_status merge_upkeep(struct ledger *ledger)
{
    enum eng_status status = merge_retain(ledger);
    if (status != ENG_OK && !status_passes(status))
        return status;
    status = ENG_OK; /* want of space puts the drops off, not the checkpoint: it is what gives space back */
    if (merge_checkpoint_due(ledger) && !eng_checkpoint_running(ledger->eng))
        status = merge_checkpoint(ledger, false);
    if (status_passes(status)) {
        /* The last checkpoint stays the base of the next start; try again a little later. */
        ledger->checkpoint_due = ledger->replay_from + ledger->options.checkpoint_log_bytes / 8 + 1;
        status = ENG_OK;
    }
    return status;
}

/* A block does not fit the disk. Segments that only the last checkpoint needs come free with a new one, and those are
 * otherwise made by the amount of log: so one is made now, if anything was merged since. Not after a block was
 * committed and is not in the log: then it is the log that is full. */
void merge_make_room(struct ledger *ledger)
{
    if (!merge_is_whole(ledger) || ledger->replay_from <= ledger->checkpointed || eng_checkpoint_running(ledger->eng))
        return;
    enum eng_status ignored = merge_checkpoint(ledger, false); /* if it fails too, the block waits as it would have */
    (void)ignored;
}

void merge_want_room(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->lock);
    ledger->room_wanted = true;
    pthread_cond_signal(&ledger->merge_ready);
    pthread_mutex_unlock(&ledger->lock);
}

/* ---- the thread ---- */

static struct block_work *next_block(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->lock);
    while (!ledger->to_merge.count && !ledger->execute_ended) {
        if (ledger->room_wanted) {
            ledger->room_wanted = false;
            pthread_mutex_unlock(&ledger->lock);
            merge_make_room(ledger);
            pthread_mutex_lock(&ledger->lock);
        } else {
            pthread_cond_wait(&ledger->merge_ready, &ledger->lock);
        }
    }
    struct block_work *block = queue_pop(&ledger->to_merge);
    pthread_cond_signal(&ledger->merge_space);
    pthread_mutex_unlock(&ledger->lock);
    return block;
}

void *merge_thread(void *argument)
{
    struct ledger *ledger = argument;
    bool broken = false; /* a block was given up: the ones behind it cannot be merged */
    for (struct block_work *block; (block = next_block(ledger));) {
        enum eng_status status = ENG_OK;
        /* acquire: partner of the release in ledger_fail */
        if (!broken && !atomic_load_explicit(&ledger->failed, memory_order_acquire)) {
            do {
                status = merge_block(ledger, block);
                if (status == ENG_FULL)
                    merge_make_room(ledger);
            } while (status != ENG_OK && ledger_pause(ledger, status));
        } else {
            status = ENG_CLOSED;
        }
        if (status == ENG_OK) {
            ledger_unhold(ledger);
            publish_enqueue(ledger, block);
        } else {
            broken = true;
            publish_refuse(ledger, block);
        }
    }
    return NULL;
}
