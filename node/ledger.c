/*
 * Opening and closing a ledger, and what happens when it must stop.
 *
 * Happy path of ledger_open: open the store (or create it and make height 0: the system tree of the genesis and the
 * empty state), read from its checkpoint where the log goes on, open the log from there, load the index of sealed
 * blocks and the remembered ids, replay the log, start the threads EXECUTE, MERGE and PUBLISH (a leader that is not
 * stepped).
 *
 * Ways to fail: whatever store, log and replay return; a leader whose key may not sign is ENG_FOREIGN. Later, a stage
 * that meets an error that does not pass calls ledger_fail: admission stops, what was accepted and is not yet published
 * is answered as not done (the client asks again with the same id), reads go on. Nothing is retried after that; a
 * restart replays the log. A full disk only holds the stage (ledger_hold) until there is space.
 *
 * Creation is not one step on disk: a store without a version of root 0 is one whose creation was interrupted before
 * its first checkpoint, and is begun again.
 */
#include "ledger_internal.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t ledger_clock(struct ledger *ledger)
{
    if (ledger->options.clock_ms)
        return ledger->options.clock_ms(ledger->options.clock_context);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* ---- failure ---- */

bool status_passes(enum eng_status status)
{
    return status == ENG_FULL || status == ENG_NO_IDS || status == ENG_NO_MEMORY || status == ENG_BUSY ||
           status == ENG_NO_READERS;
}

enum eng_status ledger_fail(struct ledger *ledger, enum eng_status status)
{
    assert(status != ENG_OK);
    pthread_mutex_lock(&ledger->lock);
    if (ledger->failure == ENG_OK) {
        ledger->failure = status;
        snprintf(ledger->failure_text, sizeof(ledger->failure_text), "%s",
                 *eng_error() ? eng_error() : eng_status_text(status));
    }
    /* release: partner of the acquire in whoever asks whether it failed */
    atomic_store_explicit(&ledger->failed, true, memory_order_release);
    pthread_cond_broadcast(&ledger->merge_space);
    pthread_cond_broadcast(&ledger->publish_space);
    pthread_cond_broadcast(&ledger->published_changed);
    pthread_mutex_unlock(&ledger->lock);
    pthread_mutex_lock(&ledger->order);
    pthread_cond_broadcast(&ledger->work);
    pthread_mutex_unlock(&ledger->order);
    return status;
}

enum eng_status ledger_failure(struct ledger *ledger, char *text, size_t text_bytes)
{
    pthread_mutex_lock(&ledger->lock);
    enum eng_status status = ledger->failure;
    if (text_bytes)
        snprintf(text, text_bytes, "%s", ledger->failure_text);
    pthread_mutex_unlock(&ledger->lock);
    return status;
}

void ledger_hold(struct ledger *ledger, enum eng_status status)
{
    pthread_mutex_lock(&ledger->lock);
    ledger->full_status = status;
    snprintf(ledger->full_text, sizeof(ledger->full_text), "%s", eng_error());
    pthread_mutex_unlock(&ledger->lock);
    /* relaxed: a hint for admission, which reads the text under the lock */
    atomic_store_explicit(&ledger->full, true, memory_order_relaxed);
}

void ledger_unhold(struct ledger *ledger)
{
    if (atomic_load_explicit(&ledger->full, memory_order_relaxed))
        atomic_store_explicit(&ledger->full, false, memory_order_relaxed);
}

bool ledger_is_held(const struct ledger *ledger)
{
    /* relaxed: the rest is under the lock */
    return atomic_load_explicit(&ledger->full, memory_order_relaxed) ||
           (ledger->refused_ns && monotonic_ns() - ledger->refused_ns < LEDGER_REFUSED_MS * 1000000ull);
}

bool ledger_pause(struct ledger *ledger, enum eng_status status)
{
    if (!status_passes(status)) {
        ledger_fail(ledger, status);
        return false;
    }
    ledger_hold(ledger, status);
    pthread_mutex_lock(&ledger->lock);
    bool go_on = !ledger->closing && ledger->failure == ENG_OK;
    pthread_mutex_unlock(&ledger->lock);
    if (go_on)
        nanosleep(&(struct timespec){.tv_nsec = LEDGER_RETRY_MS * 1000000L}, NULL);
    return go_on;
}

bool ledger_waits(struct ledger *ledger, uint64_t stall_ms, char *text, size_t text_bytes)
{
    uint64_t durable = log_durable(ledger->log), end = log_end(ledger->log), now_ns = monotonic_ns();
    pthread_mutex_lock(&ledger->lock);
    bool unfinished = end > durable || ledger->to_merge.count || ledger->to_publish.count || ledger->last_frozen;
    bool no_space = ledger_is_held(ledger) && ledger->full_status != ENG_BUSY; /* a full ring passes by itself */
    if (no_space)
        snprintf(text, text_bytes, "%s", ledger->full_text);
    uint64_t published = ledger->published;
    pthread_mutex_unlock(&ledger->lock);
    if (!unfinished || !ledger->watched.since_ns || durable != ledger->watched.durable ||
        published != ledger->watched.published) {
        ledger->watched.durable = durable;
        ledger->watched.published = published;
        ledger->watched.since_ns = now_ns;
    }
    uint64_t stalled_ms = (now_ns - ledger->watched.since_ns) / 1000000u;
    if (no_space || stalled_ms < stall_ms)
        return no_space;
    snprintf(text, text_bytes,
             "no progress for %llu s, does the disk answer? height %llu, log written up to %llu, durable up to %llu",
             (unsigned long long)(stalled_ms / 1000), (unsigned long long)published, (unsigned long long)end,
             (unsigned long long)durable);
    return true;
}

/* ---- the log ---- */

/* Followers have a log that flushes by itself; a leader's is flushed by PUBLISH when a block ends, so that the records
 * of its transactions do not cost a sync of their own; a stepped one by ledger_step. */
static bool log_flushes_itself(const struct ledger *ledger)
{
    return !ledger->options.stepped && ledger->options.role == LEDGER_FOLLOWER;
}

enum eng_status ledger_flush(struct ledger *ledger, uint64_t offset)
{
    if (log_flushes_itself(ledger))
        return log_wait(ledger->log, offset, -1);
    while (log_durable(ledger->log) < offset) {
        enum eng_status status = log_flush(ledger->log);
        if (status != ENG_OK)
            return status;
        if (log_durable(ledger->log) < offset) /* a record before it is reserved and still being filled in */
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return ENG_OK;
}

enum eng_status ledger_append(struct ledger *ledger, uint32_t type, const uint8_t *head, size_t head_bytes,
                              const uint8_t *tail, size_t tail_bytes, uint64_t *offset, uint64_t *end)
{
    struct log_ticket ticket;
    uint32_t length = (uint32_t)(head_bytes + tail_bytes);
    enum eng_status status;
    if (log_flushes_itself(ledger)) {
        status = log_reserve(ledger->log, type, length, -1, &ticket);
    } else {
        status = log_reserve(ledger->log, type, length, 0, &ticket);
        for (int i = 0; status == ENG_BUSY && i < LEDGER_APPEND_TRIES; i++) {
            status = log_flush(ledger->log);
            if (status == ENG_OK)
                status = log_reserve(ledger->log, type, length, i ? 1 : 0, &ticket);
        }
    }
    if (status != ENG_OK)
        return status;
    log_fill(ledger->log, &ticket, 0, head, (uint32_t)head_bytes);
    if (tail_bytes)
        log_fill(ledger->log, &ticket, (uint32_t)head_bytes, tail, (uint32_t)tail_bytes);
    log_publish(ledger->log, &ticket);
    *offset = ticket.offset;
    *end = ticket.end;
    return ENG_OK;
}

/* ---- height 0 ---- */

static enum eng_status commit_genesis_tree(struct ledger *ledger, uint32_t root, bool system,
                                           struct eng_summary *summary)
{
    const struct genesis *genesis = ledger->options.genesis;
    struct eng_batch *batch = NULL;
    enum eng_status status = eng_batch_open(ledger->eng, root, NULL, &batch);
    for (size_t i = 0; system && status == ENG_OK && i < genesis->signer_count; i++) {
        uint8_t key[7 + 32] = "signer/";
        memcpy(key + 7, genesis->signers[i], 32);
        status = eng_batch_put(batch, key, sizeof(key), (struct eng_value){ENG_BYTES, (const uint8_t *)"", 0});
    }
    if (system && status == ENG_OK) {
        uint8_t window[8];
        for (size_t i = 0; i < sizeof(window); i++)
            window[i] = (uint8_t)(genesis->window_ms >> 8 * i);
        status = eng_batch_put(batch, (const uint8_t *)"window_ms", 9,
                               (struct eng_value){ENG_BYTES, window, sizeof(window)});
    }
    if (status == ENG_OK)
        status = eng_batch_freeze(batch);
    if (status == ENG_OK)
        status = eng_commit(batch, 0, summary);
    eng_batch_close(&batch);
    return status;
}

/* Makes height 0 if the store has no checkpoint yet, else takes the base from it. */
static enum eng_status open_state(struct ledger *ledger)
{
    uint8_t bytes[ENG_APP_STATE_BYTES_MAX];
    struct base *base = &ledger->base;
    struct eng_summary summary;
    uint64_t tag;
    size_t size = eng_app_state(ledger->eng, bytes, sizeof(bytes));
    enum eng_status status = ENG_OK;
    if (size == 0) {
        *base = (struct base){.epoch = 1};
        memcpy(base->digest, ledger->ledger_id, 32);
        status = commit_genesis_tree(ledger, LEDGER_ROOT_SYSTEM, true, &summary);
        if (status == ENG_OK)
            status = commit_genesis_tree(ledger, LEDGER_ROOT_STATE, false, NULL);
        if (status == ENG_OK) {
            base_encode(base, bytes);
            status = eng_checkpoint(ledger->eng, bytes, BASE_BYTES, true);
        }
    } else {
        status = base_decode(bytes, size, base);
        if (status == ENG_OK)
            status = eng_head(ledger->eng, LEDGER_ROOT_STATE, &tag, &summary);
        if (status == ENG_OK && tag != base->height)
            status = eng_fail(ENG_DAMAGED, "state: its newest version is of height %llu, its checkpoint of %llu",
                              (unsigned long long)tag, (unsigned long long)base->height);
        if (status == ENG_OK)
            status = eng_head(ledger->eng, LEDGER_ROOT_SYSTEM, &tag, &summary);
    }
    if (status == ENG_OK)
        memcpy(ledger->system_root, summary.digest, 32);
    return status;
}

static enum eng_status open_store(struct ledger *ledger)
{
    const struct ledger_options *options = &ledger->options;
    struct eng_options eng_options = {
        .disk = options->disk,
        .create = options->create,
        .leaf_bytes = options->leaf_bytes,
        .segment_bytes = options->segment_bytes,
        .threads = options->threads,
        .inline_only = options->stepped,
        .durability = ENG_DURABLE_NONE,
        .hot_bytes = options->hot_bytes,
        .recovery_report = options->warn,
        .recovery_context = options->warn_context,
    };
    memcpy(eng_options.store_id, ledger->ledger_id, 32);
    enum eng_status status = eng_open(&eng_options, &ledger->eng);
    if (status != ENG_OK)
        return status;
    struct eng_statistics statistics;
    eng_stats(ledger->eng, &statistics);
    ledger->value_bytes_max = statistics.segment_bytes - LEDGER_VALUE_SLACK;
    if (ledger->value_bytes_max > ENG_VALUE_BYTES_MAX)
        ledger->value_bytes_max = ENG_VALUE_BYTES_MAX;
    return open_state(ledger);
}

static void count_log(void *context, const char *name)
{
    size_t length = strlen(name);
    *(size_t *)context += length > 4 && strcmp(name + length - 4, ".log") == 0;
}

/* A log without files is what log_open makes a new one of. Of a ledger that was there before it means that blocks are
 * lost whose receipts were sent. */
static enum eng_status expect_log(const struct ledger_options *options)
{
    size_t logs = 0;
    enum eng_status status = options->create ? ENG_OK : disk_list(options->disk, "log", count_log, &logs);
    if (status == ENG_NOT_FOUND || (status == ENG_OK && !options->create && logs == 0))
        return eng_fail(ENG_DAMAGED, "log: no files, the blocks are lost");
    return status;
}

static enum eng_status open_log(struct ledger *ledger)
{
    const struct ledger_options *options = &ledger->options;
    struct log_options log_options = {
        .disk = options->disk,
        .dir = "log",
        .file_bytes = options->log_file_bytes,
        .ring_bytes = options->log_ring_bytes,
        .flusher = log_flushes_itself(ledger),
    };
    memcpy(log_options.store_id, ledger->ledger_id, 32);
    enum eng_status status = expect_log(options);
    if (status == ENG_OK)
        status = log_open(&log_options, ledger->base.log_offset, &ledger->log);
    if (status == ENG_OK && log_end(ledger->log) < ledger->base.log_offset)
        status = eng_fail(ENG_DAMAGED, "log: ends at offset %llu, before the checkpoint's %llu",
                          (unsigned long long)log_end(ledger->log), (unsigned long long)ledger->base.log_offset);
    if (status == ENG_OK)
        status = blockstore_open(options->disk, ledger->log, ledger->ledger_id, !log_flushes_itself(ledger),
                                 &ledger->blocks);
    return status;
}

static enum eng_status recover(struct ledger *ledger)
{
    const struct base *base = &ledger->base;
    ledger->executed_height = ledger->merged_height = base->height;
    ledger->executed_time = ledger->merged_time = base->time_ms;
    ledger->epoch = ledger->merged_epoch = base->epoch;
    ledger->drop_next = base->drop_next;
    ledger->replay_from = ledger->checkpointed = ledger->stored_end = base->log_offset;
    ledger->checkpoint_due = base->log_offset + ledger->options.checkpoint_log_bytes;
    memcpy(ledger->merged_digest, base->digest, 32);
    enum eng_status status = blockstore_load(ledger->blocks, base->height);
    if (status == ENG_OK)
        status = replay_ids(ledger);
    if (status == ENG_OK)
        status = replay_log(ledger);
    ledger->published = ledger->merged_height;
    memcpy(ledger->published_digest, ledger->merged_digest, 32);
    /* relaxed: no other thread yet */
    atomic_store_explicit(&ledger->newest_time, ledger->executed_time, memory_order_relaxed);
    return status;
}

/* ---- open and close ---- */

static struct ledger *make_ledger(const struct ledger_options *options)
{
    struct ledger *ledger = calloc(1, sizeof(*ledger));
    if (!ledger)
        return NULL;
    ledger->execution = malloc(sizeof(*ledger->execution));
    if (!ledger->execution) {
        free(ledger);
        return NULL;
    }
    ledger->magic = LEDGER_MAGIC;
    ledger->options = *options;
    memcpy(ledger->ledger_id, options->genesis->ledger_id, 32);
    ledger->window_ms = options->genesis->window_ms;
    pthread_mutex_init(&ledger->order, NULL);
    pthread_mutex_init(&ledger->lock, NULL);
    pthread_mutex_init(&ledger->ids_lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_t *conditions[] = {&ledger->work,          &ledger->merge_ready,   &ledger->merge_space,
                                    &ledger->publish_ready, &ledger->publish_space, &ledger->published_changed};
    for (size_t i = 0; i < sizeof(conditions) / sizeof(*conditions); i++)
        pthread_cond_init(conditions[i], &monotonic);
    pthread_condattr_destroy(&monotonic);
    ledger->queue_end = &ledger->queue;
    resubmissions_init(&ledger->answers);
    ledger->imports_end = &ledger->imports;
    ledger->to_merge.bound = LEDGER_MERGE_QUEUE;
    ledger->to_publish.bound = LEDGER_PUBLISH_QUEUE;
    randombytes_buf(&ledger->ids.hash_key, sizeof(ledger->ids.hash_key));
    randombytes_buf(&ledger->import_ids.hash_key, sizeof(ledger->import_ids.hash_key));
    return ledger;
}

static void destroy_ledger(struct ledger **address)
{
    struct ledger *ledger = *address;
    work_release(ledger, &ledger->applying);
    blockstore_close(&ledger->blocks);
    log_close(&ledger->log);
    eng_close(&ledger->eng);
    idtable_release(&ledger->ids);
    idtable_release(&ledger->import_ids);
    pthread_cond_t *conditions[] = {&ledger->work,          &ledger->merge_ready,   &ledger->merge_space,
                                    &ledger->publish_ready, &ledger->publish_space, &ledger->published_changed};
    for (size_t i = 0; i < sizeof(conditions) / sizeof(*conditions); i++)
        pthread_cond_destroy(conditions[i]);
    pthread_mutex_destroy(&ledger->order);
    pthread_mutex_destroy(&ledger->lock);
    pthread_mutex_destroy(&ledger->ids_lock);
    free(ledger->execution);
    ledger->magic = 0;
    free(ledger);
    *address = NULL;
}

static enum eng_status start_threads(struct ledger *ledger)
{
    static const struct {
        void *(*run)(void *ledger);
        const char *name;
    } stages[] = {{publish_thread, "pando-publish"}, {merge_thread, "pando-merge"}, {execute_thread, "pando-execute"}};
    pthread_t *threads[] = {&ledger->publish_thread, &ledger->merge_thread, &ledger->execute_thread};
    for (; ledger->threads < 3; ledger->threads++) {
        if (pthread_create(threads[ledger->threads], NULL, stages[ledger->threads].run, ledger) != 0)
            return eng_fail(ENG_NO_MEMORY, "ledger: cannot start thread %s", stages[ledger->threads].name);
        pthread_setname_np(*threads[ledger->threads], stages[ledger->threads].name);
    }
    return ENG_OK;
}

/* Ends the stages from the first to the last; each ends when the one before has and its queue is empty. */
static void stop_threads(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->order);
    ledger->stopping = true;
    pthread_cond_broadcast(&ledger->work);
    pthread_mutex_unlock(&ledger->order);
    if (ledger->threads == 3)
        pthread_join(ledger->execute_thread, NULL);
    pthread_mutex_lock(&ledger->lock);
    ledger->execute_ended = true;
    pthread_cond_broadcast(&ledger->merge_ready);
    pthread_mutex_unlock(&ledger->lock);
    if (ledger->threads >= 2)
        pthread_join(ledger->merge_thread, NULL);
    pthread_mutex_lock(&ledger->lock);
    ledger->merge_ended = true;
    pthread_cond_broadcast(&ledger->publish_ready);
    pthread_mutex_unlock(&ledger->lock);
    if (ledger->threads >= 1)
        pthread_join(ledger->publish_thread, NULL);
    ledger->threads = 0;
}

enum eng_status ledger_open(const struct ledger_options *options, struct ledger **address)
{
    assert(options->disk && options->genesis && options->node_public && options->node_secret);
    assert(options->block_max_txs && options->block_max_txs <= BLOCK_TRANSACTIONS_MAX);
    if (!digest_init())
        return eng_fail(ENG_IO, "ledger: libsodium does not start");
    struct ledger *ledger = make_ledger(options);
    if (!ledger)
        return eng_fail(ENG_NO_MEMORY, "ledger: no memory");
    enum eng_status status = ENG_OK;
    if (options->role == LEDGER_LEADER && !ledger_may_sign(ledger, options->node_public, UINT64_MAX))
        status = eng_fail(ENG_FOREIGN, "ledger: the node's key is not in the signer set of the genesis");
    if (status == ENG_OK)
        status = open_store(ledger);
    if (status == ENG_OK)
        status = open_log(ledger);
    if (status == ENG_OK)
        status = recover(ledger);
    if (status == ENG_OK && options->role == LEDGER_LEADER && !options->stepped)
        status = start_threads(ledger);
    if (status != ENG_OK) {
        char text[512];
        snprintf(text, sizeof(text), "%s", eng_error());
        if (ledger->threads)
            stop_threads(ledger);
        destroy_ledger(&ledger);
        return eng_fail(status, "%s", text);
    }
    *address = ledger;
    return ENG_OK;
}

/* stepped: what ledger_step could not do any more is answered as not done. */
static void abandon(struct ledger *ledger)
{
    if (ledger->merging) {
        publish_refuse(ledger, ledger->merging);
        ledger->merging = NULL;
    }
    for (struct block_work *block; (block = queue_pop(&ledger->to_publish));)
        publish_refuse(ledger, block);
    execute_abandon(ledger);
    publish_answers(ledger, SIZE_MAX);
}

void ledger_close(struct ledger **address, int deadline_ms)
{
    struct ledger *ledger = *address;
    if (!ledger)
        return;
    assert(ledger->magic == LEDGER_MAGIC);
    uint64_t deadline = monotonic_ns() + (uint64_t)(deadline_ms > 0 ? deadline_ms : 0) * 1000000u;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&ledger->lock);
    ledger->closing = true;
    pthread_cond_broadcast(&ledger->published_changed);
    pthread_mutex_unlock(&ledger->lock);
    if (ledger->options.stepped) {
        if (ledger_failure(ledger, NULL, 0) == ENG_OK)
            status = ledger_step(ledger);
        abandon(ledger);
    } else if (ledger->threads) {
        stop_threads(ledger);
    }
    if (status == ENG_OK && merge_is_whole(ledger) && ledger_failure(ledger, NULL, 0) == ENG_OK &&
        monotonic_ns() < deadline && ledger->replay_from > ledger->checkpointed)
        status = merge_checkpoint(ledger, true);
    /* A checkpoint that was not made is made up for by the replay at the next start. */
    destroy_ledger(address);
}

enum eng_status ledger_step(struct ledger *ledger)
{
    assert(ledger->magic == LEDGER_MAGIC && ledger->options.stepped);
    enum eng_status status = ledger_failure(ledger, NULL, 0);
    if (status != ENG_OK)
        return status;
    status = execute_round(ledger);
    if (status == ENG_OK || status_passes(status)) {
        enum eng_status published = publish_step(ledger);
        if (published != ENG_OK)
            status = published;
    }
    if (status == ENG_OK)
        status = eng_maintain(ledger->eng);
    if (status == ENG_OK)
        ledger_unhold(ledger);
    else if (status_passes(status))
        ledger_hold(ledger, status);
    else
        ledger_fail(ledger, status);
    return status;
}
