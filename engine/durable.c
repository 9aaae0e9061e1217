/*
 * The log of a library store (ENG_DURABLE_MSYNC_SYNC, _FSYNC, _FULL): every batch is one record, written while it is
 * merged.
 *
 * Record LOG_USER: u32 root | u64 tag | u32 entries | entry...; entry: u8 kind | u8 value tag | u16 key bytes |
 * u32 value bytes | key | value. Kind 3, before all others: a range that is removed first, key <= .. < value (value tag
 * 1: no upper bound, no value). It is valid if the log says so (checksum) and it parses to its last byte.
 *
 * With subtrees there follow: u32 subtrees | subtree...; subtree: u32 number of the one whose committed contents it is
 * in (0xfffffffe: the root itself, 0xffffffff: it is new) | u8 cloned | u8 0 | u16 key bytes | key | u32 entries |
 * entry...; the value of an entry with tag 2: u32 number of the subtree | 64 bytes.
 *
 * Record LOG_USER + 1: u64 offset of the record right before it, a batch whose merge failed: void. Its caller was told,
 * and a replay leaves it out. Record LOG_USER + 2: u32 root | u32 1: all below the tag, 0: this one | u64 tag: versions
 * were dropped; a replay drops them too, or it would need the space of all that came and went since the checkpoint.
 *
 * A checkpoint's app_state begins with the u64 offset behind the last record merged at the capture; an open replays the
 * records behind it. The checkpoint is taken by the committing thread between commits, so the offset and the versions
 * belong together. Before each checkpoint the log is given up to where the one before it begins. The first open of a
 * store makes the log and then a checkpoint; so a state whose app_state has no offset may have no log yet, and one that
 * has it lost its log if there is none: ENG_DAMAGED.
 */
#include "engine_internal.h"
#include "subtree.h"

#include <stdio.h>
#include <stdlib.h>

enum { DURABLE_RECORD = LOG_USER, DURABLE_VOID, DURABLE_DROP };
#define DURABLE_DROP_BYTES 16u
#define DURABLE_DROPS_BYTES (64u << 10) /* of drops without a commit, before they are written without a flusher */
#define DURABLE_RANGE 3                 /* in place of an enum buffer_kind */
#define CHECKPOINT_LOG_BYTES_DEFAULT (256ull << 20)

/* Bytes of a layer's entries, and of the count before them. */
static size_t entries_bytes(const struct layer *layer)
{
    size_t bytes = 4;
    for (size_t i = 0; i < layer->hidden.count; i++)
        bytes += 8u + layer->hidden.sorted[i].from_bytes + layer->hidden.sorted[i].to_bytes;
    for (size_t i = 0; i < layer->count; i++)
        bytes += 8u + layer->entries[i].key_bytes +
                 (layer->entries[i].kind == BUFFER_PUT ? layer->entries[i].value_bytes : 0);
    return bytes;
}

static uint8_t *put_entry(uint8_t *p, uint8_t kind, uint8_t tag, const uint8_t *key, uint32_t key_bytes,
                          const uint8_t *value, uint32_t value_bytes)
{
    uint16_t key_bytes16 = (uint16_t)key_bytes;
    p[0] = kind;
    p[1] = tag;
    memcpy(p + 2, &key_bytes16, 2);
    memcpy(p + 4, &value_bytes, 4);
    memcpy(p + 8, key, key_bytes);
    if (value_bytes)
        memcpy(p + 8 + key_bytes, value, value_bytes);
    return p + 8 + key_bytes + value_bytes;
}

/* numbers: of subtrees, as they are called in the record. */
static uint8_t *put_entries(uint8_t *p, const struct layer *layer, const uint32_t *numbers)
{
    uint32_t count32 = (uint32_t)(layer->hidden.count + layer->count);
    memcpy(p, &count32, 4);
    p += 4;
    for (size_t i = 0; i < layer->hidden.count; i++) {
        const struct hidden_range *range = &layer->hidden.sorted[i];
        p = put_entry(p, DURABLE_RANGE, !range->to, range->from, range->from_bytes, range->to, range->to_bytes);
    }
    for (size_t i = 0; i < layer->count; i++) {
        const struct buffer_entry *e = &layer->entries[i];
        uint32_t value_bytes = e->kind == BUFFER_PUT ? e->value_bytes : 0;
        p = put_entry(p, e->kind, e->tag, e->key, e->key_bytes, e->value, value_bytes);
        if (e->kind == BUFFER_PUT && e->tag == ENG_TREE)
            memcpy(p - value_bytes, &numbers[read32(e->value)], 4);
    }
    return p;
}

static size_t subtree_bytes(const struct eng_batch *handle)
{
    return 8u + (handle->origin ? handle->origin->key_bytes : 0) + (handle->put ? entries_bytes(handle->own) : 4);
}

static uint8_t *put_subtree(uint8_t *p, const struct eng_batch *handle, const uint32_t *numbers)
{
    static const struct layer nothing;
    const struct origin *origin = handle->origin;
    uint32_t container = !origin                     ? SUBTREE_NEW
                         : !origin->container->outer ? SUBTREE_OUTERMOST
                                                     : numbers[origin->container->number];
    uint16_t key_bytes = origin ? (uint16_t)origin->key_bytes : 0;
    memcpy(p, &container, 4);
    p[4] = origin && origin->cloned;
    p[5] = 0;
    memcpy(p + 6, &key_bytes, 2);
    if (origin)
        memcpy(p + 8, origin->key, key_bytes);
    return put_entries(p + 8 + key_bytes, handle->put ? handle->own : &nothing, numbers);
}

enum eng_status eng_log_batch(struct eng *eng, struct eng_batch *batch, uint64_t tag, uint64_t *offset, uint64_t *end)
{
    uint32_t *numbers = NULL, subtrees = 0;
    size_t bytes = 12 + entries_bytes(batch->own);
    enum eng_status status = batch->trees ? subtrees_number(batch, &numbers, &subtrees) : ENG_OK;
    if (status != ENG_OK)
        return status;
    for (uint32_t i = 0; subtrees && i < batch->trees->count; i++)
        if (numbers[i] != SUBTREE_NEW)
            bytes += subtree_bytes(batch->trees->handles[i]);
    bytes += subtrees ? 4 : 0;
    uint8_t *record = bytes <= LOG_RECORD_BYTES_MAX ? malloc(bytes) : NULL, *p = record;
    if (!record) {
        free(numbers);
        return bytes > LOG_RECORD_BYTES_MAX ? eng_fail(ENG_TOO_LARGE, "batch: %zu bytes, a log record has at most %u",
                                                       bytes, LOG_RECORD_BYTES_MAX)
                                            : eng_fail(ENG_NO_MEMORY, "batch: out of memory");
    }
    memcpy(p, &batch->root_index, 4);
    memcpy(p + 4, &tag, 8);
    p = put_entries(p + 12, batch->own, numbers);
    if (subtrees) {
        memcpy(p, &subtrees, 4);
        p += 4;
    }
    for (uint32_t i = 0; subtrees && i < batch->trees->count; i++)
        if (numbers[i] != SUBTREE_NEW)
            p = put_subtree(p, batch->trees->handles[i], numbers);
    assert(p == record + bytes);
    free(numbers);
    status = log_room(eng->log, bytes + sizeof *offset, 2); /* one that makes it void must not meet a full disk */
    if (status == ENG_OK)
        status = log_append(eng->log, DURABLE_RECORD, record, (uint32_t)bytes, -1, offset, end);
    free(record);
    if (status == ENG_OK && eng->inline_only)
        status = log_flush(eng->log);
    return status;
}

enum eng_status eng_log_void(struct eng *eng, uint64_t offset, uint64_t *end)
{
    uint64_t own;
    return log_append(eng->log, DURABLE_VOID, &offset, sizeof offset, -1, &own, end);
}

void eng_log_drop(struct eng *eng, uint32_t root, uint64_t tag, bool below)
{
    uint8_t record[DURABLE_DROP_BYTES];
    uint32_t all = below;
    struct store_version head;
    if (!eng->log || eng->failed != ENG_OK || !store_head(eng->store, root, &head))
        return;
    if (tag > head.tag) /* not what comes after it */
        tag = head.tag;
    memcpy(record, &root, 4);
    memcpy(record + 4, &all, 4);
    memcpy(record + 8, &tag, 8);
    enum eng_status status = log_append_later(eng->log, DURABLE_DROP, record, sizeof record);
    if (status == ENG_OK && eng->inline_only && log_end(eng->log) - log_durable(eng->log) > DURABLE_DROPS_BYTES)
        status = log_flush(eng->log);
    if (status != ENG_OK) {
        /* a replay keeps them a little longer; a log that failed says so at the next commit */
    }
}

/* ---- replay ---- */

/* What is left of a record. */
struct piece {
    const uint8_t *at, *end;
};

/* One entry of a record into what is to be merged. False: it is none, *status ENG_OK. */
static bool replay_entry(struct piece *piece, struct layer *layer, uint32_t subtrees, enum eng_status *status)
{
    const uint8_t *p = piece->at;
    uint16_t key_bytes;
    uint32_t value_bytes;
    if (piece->end - p < 8)
        return false;
    memcpy(&key_bytes, p + 2, 2);
    memcpy(&value_bytes, p + 4, 4);
    if (key_bytes == 0 || key_bytes > ENG_KEY_BYTES_MAX ||
        (size_t)(piece->end - p) < 8u + key_bytes + (size_t)value_bytes || p[1] > ENG_TREE)
        return false;
    const uint8_t *key = p + 8, *value = key + key_bytes;
    piece->at = value + value_bytes;
    switch (p[0]) {
    case BUFFER_PUT:
        if (p[1] == ENG_TREE && (value_bytes != SUBTREE_VALUE_BYTES || read32(value) >= subtrees))
            return false;
        *status = buffer_put(layer->buffer, key, key_bytes, (enum eng_tag)p[1], value, value_bytes);
        return true;
    case BUFFER_REMOVE:
        *status = buffer_remove(layer->buffer, key, key_bytes);
        return true;
    case DURABLE_RANGE:
        if (value_bytes > ENG_KEY_BYTES_MAX || (p[1] && value_bytes) ||
            (!p[1] && bytes_compare(key, key_bytes, value, value_bytes) >= 0))
            return false;
        *status =
            hidden_add(&layer->hidden, &(struct hidden_range){key, p[1] ? NULL : value, key_bytes, value_bytes}, 0);
        return true;
    }
    return false;
}

/* The entries of the outermost tree or of a subtree. */
static bool replay_entries(struct piece *piece, struct layer *layer, uint32_t subtrees, enum eng_status *status)
{
    uint32_t count;
    if (piece->end - piece->at < 4)
        return false;
    memcpy(&count, piece->at, 4);
    piece->at += 4;
    for (uint32_t i = 0; i < count && *status == ENG_OK; i++)
        if (!replay_entry(piece, layer, subtrees, status))
            return false;
    return true;
}

/* A subtree: where it comes from. Its entries are not taken yet. */
static bool replay_subtree(struct piece *piece, struct eng_batch *batch, uint32_t made, struct eng_batch **handle,
                           enum eng_status *status)
{
    uint32_t container;
    uint16_t key_bytes;
    if (piece->end - piece->at < 8)
        return false;
    const uint8_t *p = piece->at;
    memcpy(&container, p, 4);
    memcpy(&key_bytes, p + 6, 2);
    if ((size_t)(piece->end - p) < 8u + key_bytes || key_bytes > ENG_KEY_BYTES_MAX ||
        (container == SUBTREE_NEW) != (key_bytes == 0) || (container < SUBTREE_OUTERMOST && container >= made))
        return false;
    piece->at += 8 + key_bytes;
    struct eng_batch *in = container == SUBTREE_NEW         ? NULL
                           : container == SUBTREE_OUTERMOST ? batch
                                                            : batch->trees->handles[container];
    *status = subtree_make(batch, in, p + 8, key_bytes, p[4], handle);
    return *status != ENG_NOT_FOUND && *status != ENG_TYPE;
}

/* Past a count and its entries. */
static bool skip_entries(struct piece *piece)
{
    uint32_t count;
    if (piece->end - piece->at < 4)
        return false;
    memcpy(&count, piece->at, 4);
    piece->at += 4;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t key_bytes;
        uint32_t value_bytes;
        if (piece->end - piece->at < 8)
            return false;
        memcpy(&key_bytes, piece->at + 2, 2);
        memcpy(&value_bytes, piece->at + 4, 4);
        if ((size_t)(piece->end - piece->at) < 8u + key_bytes + (size_t)value_bytes)
            return false;
        piece->at += 8u + key_bytes + (size_t)value_bytes;
    }
    return true;
}

/* Entries with subtrees come after the subtrees are made; so a record is gone through twice. */
static bool replay_pieces(struct piece whole, struct eng_batch *batch, enum eng_status *status)
{
    struct piece piece = whole, at_subtrees;
    uint32_t subtrees = 0;
    if (!skip_entries(&piece))
        return false;
    at_subtrees = piece;
    if (piece.at != piece.end) {
        if (piece.end - piece.at < 4)
            return false;
        memcpy(&subtrees, piece.at, 4);
        at_subtrees.at = piece.at += 4;
    }
    for (uint32_t i = 0; i < subtrees && *status == ENG_OK; i++) {
        struct eng_batch *handle;
        if (!replay_subtree(&piece, batch, i, &handle, status) || !skip_entries(&piece))
            return false;
    }
    if (*status != ENG_OK)
        return true;
    if (piece.at != piece.end || !replay_entries(&whole, batch->own, subtrees, status))
        return false;
    for (uint32_t i = 0; i < subtrees && *status == ENG_OK; i++) {
        uint16_t key_bytes;
        memcpy(&key_bytes, at_subtrees.at + 6, 2);
        at_subtrees.at += 8 + key_bytes;
        if (!replay_entries(&at_subtrees, batch->trees->handles[i]->own, subtrees, status))
            return false;
    }
    return true;
}

/* After a rebuild: what may be replayed. A root that lost its newest versions gets them back if the log still has all
 * that came after the one that was kept: then the record of that one is there too. */
struct replay {
    struct eng *eng;
    bool rebuilt;
    bool complete[ENG_ROOTS_MAX]; /* nothing is missing between the newest version and the next record */
    const struct eng_options *options;
};

/* Is this record to be replayed? */
static bool replay_wanted(struct replay *replay, uint32_t root, uint64_t tag)
{
    struct store_version head;
    bool any = store_head(replay->eng->store, root, &head);
    if (!replay->rebuilt || (any && tag <= head.tag)) {
        replay->complete[root] |= any && tag == head.tag;
        return !replay->rebuilt;
    }
    if (!replay->complete[root] && replay->options->recovery_report) {
        char line[160];
        snprintf(line, sizeof line, "version %llu of root %u: in the log, but not what it was made on: left out",
                 (unsigned long long)tag, root);
        replay->options->recovery_report(replay->options->recovery_context, line);
    }
    return replay->complete[root];
}

static enum eng_status replay_record(struct replay *replay, const struct log_record *record)
{
    struct eng *eng = replay->eng;
    const uint8_t *p = record->payload, *end = p + record->length;
    uint32_t root;
    uint64_t tag;
    if (record->length < 16)
        goto damaged;
    memcpy(&root, p, 4);
    memcpy(&tag, p + 4, 8);
    p += 12;
    struct store_version head;
    if (root >= ENG_ROOTS_MAX || tag == ENG_HEAD)
        goto damaged;
    if (!replay_wanted(replay, root, tag))
        return ENG_OK;
    if (store_head(eng->store, root, &head) && head.tag >= tag)
        goto damaged;
    struct eng_batch *batch;
    struct eng_summary summary;
    enum eng_status status = eng_batch_open(eng, root, NULL, &batch);
    if (status != ENG_OK)
        return status;
    bool good = replay_pieces((struct piece){p, end}, batch, &status);
    if (good && status == ENG_OK)
        status = eng_batch_freeze(batch);
    if (good && status == ENG_OK)
        status = subtrees_whole(batch, &good);
    if (good && status == ENG_OK)
        status = eng_merge(batch, tag, NULL, true, &summary);
    eng_batch_close(&batch);
    if (good)
        return status;
damaged:
    return eng_fail(ENG_DAMAGED, "log: record at offset %llu: not a batch", (unsigned long long)record->offset);
}

static enum eng_status replay_drop(struct replay *replay, const struct log_record *record)
{
    struct store *store = replay->eng->store;
    uint32_t root, below;
    uint64_t tag;
    if (record->length != DURABLE_DROP_BYTES)
        return eng_fail(ENG_DAMAGED, "log: record at offset %llu: not a drop", (unsigned long long)record->offset);
    memcpy(&root, record->payload, 4);
    memcpy(&below, record->payload + 4, 4);
    memcpy(&tag, record->payload + 8, 8);
    if (root >= ENG_ROOTS_MAX || below > 1)
        return eng_fail(ENG_DAMAGED, "log: record at offset %llu: not a drop", (unsigned long long)record->offset);
    if (replay->rebuilt && !replay->complete[root])
        return ENG_OK;
    enum eng_status status = below ? store_drop_below(store, root, tag) : store_drop(store, root, tag);
    if (status == ENG_OK)
        status = store_reap(store, UINT64_MAX, NULL);
    if (status != ENG_OK) {
        /* it is gone already, or what could not be freed now is freed later: that stops no replay */
    }
    return ENG_OK;
}

/* A record as read, and the buffer it lies in. */
struct replay_piece {
    struct log_record record;
    uint8_t *buffer;
    size_t capacity;
};

/* The first one from an offset on, past the log's own. */
static enum eng_status replay_read(struct log *log, uint64_t offset, struct replay_piece *piece)
{
    for (;; offset = piece->record.end) {
        enum eng_status status = log_read_at(log, offset, &piece->buffer, &piece->capacity, &piece->record);
        if (status != ENG_OK || piece->record.type >= LOG_USER)
            return status;
    }
}

static bool makes_void(const struct log_record *next, const struct log_record *record)
{
    return next->type == DURABLE_VOID && next->length == sizeof record->offset &&
           memcmp(next->payload, &record->offset, sizeof record->offset) == 0;
}

/* The records from an offset on, each with a look at the one behind it. */
static enum eng_status replay_log(struct replay *replay, uint64_t offset)
{
    struct log *log = replay->eng->log;
    struct replay_piece piece[2] = {0}, *now = &piece[0], *next = &piece[1];
    enum eng_status status = replay_read(log, offset, now);
    while (status == ENG_OK) {
        enum eng_status behind = replay_read(log, now->record.end, next);
        bool is_void = behind == ENG_OK && makes_void(&next->record, &now->record);
        if (now->record.type == DURABLE_RECORD && !is_void)
            status = replay_record(replay, &now->record);
        else if (now->record.type == DURABLE_DROP)
            status = replay_drop(replay, &now->record);
        struct replay_piece *swap = now;
        now = next;
        next = swap;
        if (status == ENG_OK)
            status = behind;
    }
    free(piece[0].buffer);
    free(piece[1].buffer);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

/* Opens the log where the replay begins: behind the checkpoint; at its beginning if a rebuild has lost something. */
static enum eng_status replay_begin(struct replay *replay, const struct log_options *log, const bool *lost,
                                    uint64_t *offset)
{
    struct eng *eng = replay->eng;
    bool some = false;
    for (uint32_t i = 0; lost && i < ENG_ROOTS_MAX; i++) {
        replay->complete[i] = !lost[i];
        some |= lost[i];
    }
    enum eng_status status = log_open(log, some ? 0 : *offset, &eng->log);
    if (status == ENG_GONE && lost && !some) { /* an older checkpoint, and its log was given up */
        memset(replay->complete, 0, sizeof replay->complete);
        some = true;
        status = log_open(log, 0, &eng->log);
    }
    if (status != ENG_OK || !some)
        return status;
    *offset = log_begin(eng->log);
    for (uint32_t i = 0; i < ENG_ROOTS_MAX && *offset == 0; i++) {
        struct store_version head; /* the whole log is there: a root without versions gets all of them */
        replay->complete[i] |= !store_head(eng->store, i, &head);
    }
    return ENG_OK;
}

enum eng_status eng_log_open(struct eng *eng, const struct eng_options *options, const bool *lost)
{
    struct log_options log = {.disk = eng->disk,
                              .dir = "log",
                              .flusher = !options->inline_only,
                              .unsynced = options->durability == ENG_DURABLE_MSYNC_SYNC};
    memcpy(log.store_id, options->store_id, sizeof log.store_id);
    if (options->inline_only) /* the ring stays as large as a record may be: untouched pages of it cost nothing */
        log.file_bytes = 64u << 10;
    eng->checkpoint_log_bytes =
        options->checkpoint_log_bytes ? options->checkpoint_log_bytes : CHECKPOINT_LOG_BYTES_DEFAULT;
    uint64_t offset = 0;
    log.made = store_app_state(eng->store, &offset, sizeof offset) >= sizeof offset;
    if (!log.made)
        offset = 0;
    struct replay replay = {.eng = eng, .rebuilt = lost != NULL, .options = options};
    enum eng_status status = replay_begin(&replay, &log, lost, &offset);
    if (status == ENG_OK)
        eng->app_state_bytes = eng_app_state(eng, eng->app_state, sizeof eng->app_state);
    /* The base of this start, and of the next until a checkpoint is durable: what is replayed is in memory only. */
    eng->checkpoint_log_offset = eng->checkpoint_durable_offset = offset;
    if (status == ENG_OK)
        status = replay_log(&replay, offset);
    if (status == ENG_OK && !log.made) /* that there is a log now is noted before the first commit */
        status = checkpoint_locked(eng, eng->app_state, eng->app_state_bytes, true);
    return status == ENG_GONE ? ENG_DAMAGED : status; /* what the checkpoint begins behind is missing */
}

enum eng_status eng_full_checkpoint(struct eng *eng, uint64_t end)
{
    if (eng->checkpoint_durable_offset >= end) /* another thread's covered this commit too */
        return ENG_OK;
    return checkpoint_locked(eng, eng->app_state, eng->app_state_bytes, true);
}

/* Between commits (needs eng->commits): a checkpoint when enough log has gathered. */
void eng_log_checkpoint(struct eng *eng)
{
    uint64_t end = log_end(eng->log);
    bool due = end - eng->checkpoint_log_offset >= eng->checkpoint_log_bytes || store_checkpoint_wanted(eng->store);
    if (!due || store_checkpoint_running(eng->store))
        return;
    if (checkpoint_locked(eng, eng->app_state, eng->app_state_bytes, false) != ENG_OK) {
        /* the log has it all; the next commit tries again */
    }
}
