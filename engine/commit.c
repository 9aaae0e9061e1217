/*
 * Commits: a frozen batch becomes a version.
 *
 * First, if a checkpoint is being made that much space waits for, the caller waits for its end. Under eng->commits the
 * batch is appended to the store's own log (if it has one) and merged into the newest version, which is published.
 * Then, without the lock, the caller waits for the log; so several threads that commit share a sync. What a failed log
 * leaves behind (a version that may not survive) stops the store: no more commits.
 *
 * Ways to fail: those of the merge, nothing changed: a record behind that of the batch makes it void, so a replay
 * leaves it out; a log that fails.
 */
#include "engine_internal.h"
#include "subtree.h"

#include <stdio.h>

static enum eng_status merge_batch(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected, bool keep,
                                   struct eng_summary *summary)
{
    struct eng_summary made;
    enum eng_status status = eng_merge(batch, tag, expected, keep, &made);
    if (summary && (status == ENG_OK || status == ENG_CONFLICT))
        *summary = made;
    return status;
}

/* Before anything is logged: another commit may have changed what its subtrees go on from. */
static enum eng_status subtrees_unchanged(struct eng_batch *batch)
{
    struct store_version head = {0};
    if (!batch->trees || batch->fork)
        return ENG_OK;
    struct reader *reader = eng_enter(batch->eng);
    if (!reader)
        return ENG_NO_READERS;
    store_head(batch->eng->store, batch->root_index, &head);
    enum eng_status status = subtrees_current(batch, &head);
    reader_leave(reader);
    return status;
}

/* A tag that can be one, above the newest, and nothing uncommitted below. */
static enum eng_status check_order(struct eng_batch *batch, uint64_t tag, bool keep)
{
    struct store_version head;
    bool uncommitted = false;
    if (keep && tag == ENG_HEAD)
        return eng_fail(ENG_INVALID, "commit: ENG_HEAD is no tag");
    pthread_mutex_lock(&batch->eng->batches);
    for (uint32_t i = 0; i < batch->below_count; i++)
        uncommitted |= !batch->below[i]->committed;
    pthread_mutex_unlock(&batch->eng->batches);
    if (uncommitted)
        return eng_fail(ENG_INVALID, "commit: the batch it was opened on is not committed");
    if (keep && store_head(batch->eng->store, batch->root_index, &head) && head.tag >= tag)
        return eng_fail(ENG_CONFLICT, "commit: the newest version of root %u has tag %llu, not below %llu",
                        batch->root_index, (unsigned long long)head.tag, (unsigned long long)tag);
    return ENG_OK;
}

enum eng_status commit_locked(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected, bool keep,
                              struct eng_summary *summary, uint64_t *end)
{
    assert(batch->magic == BATCH_MAGIC && batch->frozen && !batch->committed);
    struct eng *eng = batch->eng;
    *end = 0;
    if (batch->fork && keep)
        return eng_fail(ENG_INVALID, "commit: a private fork cannot be committed");
    if (eng->failed != ENG_OK)
        return eng_fail(ENG_IO, "store: stopped after a failed write of its log");
    enum eng_status status = check_order(batch, tag, keep);
    if (status == ENG_OK)
        status = subtrees_unchanged(batch);
    if (status == ENG_OK && eng->log && keep &&
        expected) /* a refused batch must not be in the log: a replay expects nothing */
        status = merge_batch(batch, tag, expected, false, summary);
    uint64_t offset;
    if (status == ENG_OK && eng->log && keep)
        status = eng_log_batch(eng, batch, tag, &offset, end);
    if (status == ENG_OK)
        status = merge_batch(batch, tag, expected, keep, summary);
    if (status != ENG_OK) {
        if (*end && eng_log_void(eng, offset, end) != ENG_OK)
            eng->failed = status; /* the log may say more than the store holds */
        return status;
    }
    if (!keep)
        return ENG_OK;
    pthread_mutex_lock(&eng->batches);
    batch->own->committed = tag + 1;
    pthread_mutex_unlock(&eng->batches);
    batch->committed = true;
    return ENG_OK;
}

enum eng_status commit_wait(struct eng *eng, enum eng_status committed, uint64_t end)
{
    if (!end && (committed != ENG_OK || eng->durability != ENG_DURABLE_MSYNC_ASYNC))
        return committed;
    enum eng_status status = end ? log_wait(eng->log, end, -1) : store_write_back(eng->store);
    pthread_mutex_lock(&eng->commits);
    bool may = status == ENG_OK && end && eng->failed == ENG_OK; /* else the log has it, and the next open merges it */
    if (may && committed == ENG_OK && eng->durability == ENG_DURABLE_FULL) {
        if (eng_full_checkpoint(eng, end) != ENG_OK) {
            char text[400];
            snprintf(text, sizeof text, "%s", eng_error());
            status = eng_fail(ENG_IO, "commit: published and logged, but not in a checkpoint: %s", text);
        }
    } else if (may) {
        eng_log_checkpoint(eng);
    }
    if (status != ENG_OK)
        eng->failed = ENG_IO;
    pthread_mutex_unlock(&eng->commits);
    return committed != ENG_OK ? committed : status;
}

static enum eng_status batch_commit(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected,
                                    bool keep, struct eng_summary *summary)
{
    struct eng *eng = batch->eng;
    uint64_t end;
    if (keep)
        store_wait_for_space(eng->store);
    pthread_mutex_lock(&eng->commits);
    enum eng_status status = commit_locked(batch, tag, expected, keep, summary, &end);
    pthread_mutex_unlock(&eng->commits);
    return commit_wait(eng, status, end);
}

enum eng_status eng_commit(struct eng_batch *batch, uint64_t tag, struct eng_summary *summary)
{
    return batch_commit(batch, tag, NULL, true, summary);
}

enum eng_status eng_commit_expect(struct eng_batch *batch, uint64_t tag, const struct eng_summary *expected,
                                  struct eng_summary *summary)
{
    return batch_commit(batch, tag, expected, true, summary);
}

enum eng_status eng_dry_commit(struct eng_batch *batch, struct eng_summary *summary)
{
    return batch_commit(batch, 0, NULL, false, summary);
}
