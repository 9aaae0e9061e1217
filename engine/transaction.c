/*
 * Transactions: batches of any thread, beside others on the same root, that commit only if what they depend on is as it
 * was on the version they began on.
 *
 * Depends on: with ENG_SNAPSHOT the keys and ranges it writes (first committer wins, Berenson et al. 1995); with
 * ENG_SERIALIZABLE what it read from its base: keys, absent ones too, and ranges (phantoms); a blind write depends on
 * nothing. The check compares the base with the newest version: keys by their stored form, ranges by the difference of
 * the two trees within the range, which skips what they share. Nothing to check if nobody committed meanwhile. Check
 * and commit happen under eng->commits, so no other commit comes between.
 *
 * Reads are kept as disjoint ranges of keys (hidden.h; one key is the range up to its successor). A transaction that
 * reads more than ENG_READS_MAX separate ranges forgets the gaps: its reads become one range from the first to the
 * last, which may refuse it for a change it did not see, never the other way round.
 *
 * Ways to fail: ENG_CONFLICT; those of reading and committing.
 */
#include "engine_internal.h"
#include "tree.h"

/* ---- what was read ---- */

static bool covered(const struct hidden *reads, const struct hidden_range *range)
{
    const struct hidden_range *found = hidden_find(reads, range->from, range->from_bytes, false);
    return found &&
           (!found->to || (range->to && bytes_compare(found->to, found->to_bytes, range->to, range->to_bytes) >= 0));
}

/* The same ranges, without the history of how they were added. */
static enum eng_status pack(struct hidden *reads)
{
    struct hidden packed = {0};
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < reads->count && status == ENG_OK; i++)
        status = hidden_add(&packed, &reads->sorted[i], 0);
    if (status != ENG_OK) {
        hidden_free(&packed);
        return status;
    }
    hidden_free(reads);
    *reads = packed;
    return ENG_OK;
}

/* One range in place of all. */
static enum eng_status widen(struct hidden *reads)
{
    struct hidden whole = {0};
    struct hidden_range all = reads->sorted[0];
    const struct hidden_range *last = &reads->sorted[reads->count - 1];
    all.to = last->to;
    all.to_bytes = last->to_bytes;
    enum eng_status status = hidden_add(&whole, &all, 0);
    if (status != ENG_OK)
        return status;
    hidden_free(reads);
    *reads = whole;
    return ENG_OK;
}

enum eng_status batch_remember(struct eng_batch *batch, const struct hidden_range *range)
{
    struct hidden *reads = &batch->reads;
    if (covered(reads, range))
        return ENG_OK;
    if (reads->added_count >= ENG_READS_MAX) {
        enum eng_status status = reads->count <= ENG_READS_MAX / 2 ? pack(reads) : widen(reads);
        if (status != ENG_OK)
            return status;
    }
    return hidden_add(reads, range, 0);
}

enum eng_status batch_remember_key(struct eng_batch *batch, const uint8_t *key, size_t key_bytes)
{
    uint8_t next[ENG_KEY_BYTES_MAX + 1];
    memcpy(next, key, key_bytes);
    next[key_bytes] = 0;
    return batch_remember(batch, &(struct hidden_range){key, next, (uint32_t)key_bytes, (uint32_t)key_bytes + 1});
}

/* ---- what changed since ---- */

static enum eng_status conflict(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *before,
                                const struct eng_value *after)
{
    return ENG_CONFLICT;
}

static enum eng_status check_key(struct eng_batch *batch, const struct eng_snapshot *head, const uint8_t *key,
                                 size_t key_bytes)
{
    struct store *store = batch->eng->store;
    struct tree_value before, after;
    enum eng_status was = tree_get(store, batch->base->version.root, key, key_bytes, &before);
    if (was != ENG_OK && was != ENG_NOT_FOUND)
        return was;
    enum eng_status is = tree_get(store, head->version.root, key, key_bytes, &after);
    if (is != ENG_OK && is != ENG_NOT_FOUND)
        return is;
    if (was != is)
        return ENG_CONFLICT;
    return was == ENG_NOT_FOUND || tree_value_same(&before, &after) ? ENG_OK : ENG_CONFLICT;
}

static bool is_one_key(const struct hidden_range *range)
{
    return range->to && range->to_bytes == range->from_bytes + 1 && range->to[range->from_bytes] == 0 &&
           memcmp(range->from, range->to, range->from_bytes) == 0;
}

static enum eng_status check_ranges(struct eng_batch *batch, struct eng_snapshot *head, const struct hidden *ranges)
{
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < ranges->count && status == ENG_OK; i++) {
        const struct hidden_range *r = &ranges->sorted[i];
        if (is_one_key(r))
            status = check_key(batch, head, r->from, r->from_bytes);
        else
            status = eng_diff_range(batch->base, head, r->from, r->from_bytes, r->to, r->to_bytes, conflict, NULL);
    }
    return status;
}

static enum eng_status check_writes(struct eng_batch *batch, struct eng_snapshot *head)
{
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < batch->own->count && status == ENG_OK; i++)
        status = check_key(batch, head, batch->own->entries[i].key, batch->own->entries[i].key_bytes);
    return status == ENG_OK ? check_ranges(batch, head, &batch->own->hidden) : status;
}

static enum eng_status check_unchanged(struct eng_batch *batch, struct eng_snapshot *head)
{
    if (head->version.generation == batch->base->version.generation)
        return ENG_OK;
    struct reader *reader = eng_enter(batch->eng);
    if (!reader)
        return ENG_NO_READERS;
    enum eng_status status = batch->serializable ? check_ranges(batch, head, &batch->reads) : check_writes(batch, head);
    reader_leave(reader);
    if (status == ENG_CONFLICT)
        return eng_fail(ENG_CONFLICT, "transaction: what it %s was changed since it began (version %llu, now %llu)",
                        batch->serializable ? "read" : "wrote", (unsigned long long)batch->base->version.tag,
                        (unsigned long long)head->version.tag);
    return status;
}

/* ---- the API ---- */

enum eng_status eng_transaction_open(struct eng *eng, uint32_t root, enum eng_isolation isolation,
                                     struct eng_batch **transaction)
{
    enum eng_status status = eng_batch_open(eng, root, NULL, transaction);
    if (status != ENG_OK)
        return status;
    (*transaction)->transaction = true;
    (*transaction)->serializable = isolation == ENG_SERIALIZABLE;
    return ENG_OK;
}

enum eng_status eng_transaction_commit(struct eng_batch *batch, uint64_t *tag, struct eng_summary *summary)
{
    assert(batch->magic == BATCH_MAGIC);
    struct eng *eng = batch->eng;
    if (!batch->transaction)
        return eng_fail(ENG_INVALID, "transaction: the batch is none");
    enum eng_status status = eng_batch_freeze(batch);
    if (status != ENG_OK)
        return status;
    struct eng_snapshot *head = NULL;
    uint64_t end = 0;
    store_wait_for_space(eng->store);
    pthread_mutex_lock(&eng->commits);
    status = eng_snapshot_open(eng, batch->root_index, ENG_HEAD, &head);
    if (status == ENG_OK)
        status = check_unchanged(batch, head);
    if (status == ENG_OK) {
        uint64_t next = head->version.tag + 1; /* 1 for the first; ENG_HEAD is refused */
        status = commit_locked(batch, next, NULL, true, summary, &end);
        if (tag)
            *tag = next;
    }
    eng_snapshot_close(&head);
    pthread_mutex_unlock(&eng->commits);
    return commit_wait(eng, status, end);
}

enum eng_status eng_nested_begin(struct eng_batch *batch)
{
    assert(batch->magic == BATCH_MAGIC && !batch->frozen && !batch->outer);
    if (batch->nested_count == ENG_NESTED_MAX)
        return eng_fail(ENG_TOO_LARGE, "transaction: more than %u nested in each other (ENG_NESTED_MAX)",
                        ENG_NESTED_MAX);
    batch->nested[batch->nested_count++] = eng_batch_mark(batch);
    return ENG_OK;
}

void eng_nested_end(struct eng_batch *batch, bool keep)
{
    assert(batch->magic == BATCH_MAGIC && !batch->frozen && batch->nested_count);
    uint64_t mark = batch->nested[--batch->nested_count];
    if (!keep)
        eng_batch_rollback(batch, mark);
}
