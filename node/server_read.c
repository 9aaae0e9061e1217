/*
 * The reading requests: get, scan, count, root, header, diff, receipt, prove, status.
 *
 * Each opens the state at the asked height (ledger_snapshot: no lock, the writer is not slowed), reads, and writes its
 * reply; the height that was read goes into the reply, so that a client that asked for the newest can go on at the same
 * one. Scans and diffs are cut into pages; a page has at least one entry, if there is one.
 *
 * Ways to fail: the height is not there yet (ENG_NOT_FOUND) or no longer live (ENG_GONE, the line names the oldest that
 * is); the key is absent (ENG_NOT_FOUND); damage met on the way (ENG_DAMAGED, naming the place). Every failure becomes
 * an error reply; a reply that was begun is dropped for it.
 *
 * Invariants: on return the reply is complete: either a body after ENG_OK, or an error. Every snapshot, cursor and
 * buffer opened here is closed here.
 */
#include "server_internal.h"

#include "pando/proof.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static enum eng_status wrong_length(void)
{
    return eng_fail(ENG_INVALID, "request: its length is wrong");
}

/* ---- get ---- */

static void get_found(void *context, const struct eng_value *value)
{
    struct protocol_writer *reply = context;
    protocol_write_u8(reply, (uint8_t)value->tag);
    protocol_write_u32(reply, (uint32_t)value->size);
    protocol_write_bytes(reply, value->bytes, value->size);
}

static enum eng_status read_get(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    uint64_t height = protocol_read_u64(body);
    uint16_t key_bytes = protocol_read_u16(body);
    const uint8_t *key = protocol_read_bytes(body, key_bytes);
    if (!protocol_read_end(body) || key_bytes < 1 || key_bytes > ENG_KEY_BYTES_MAX)
        return wrong_length();
    struct eng_snapshot *snapshot;
    enum eng_status status = ledger_snapshot(ledger, height, &snapshot);
    if (status != ENG_OK)
        return status;
    protocol_write_u64(reply, eng_snapshot_tag(snapshot));
    status = eng_get(snapshot, key, key_bytes, get_found, reply);
    if (status == ENG_NOT_FOUND)
        status = eng_fail(ENG_NOT_FOUND, "key: absent at height %llu", (unsigned long long)eng_snapshot_tag(snapshot));
    eng_snapshot_close(&snapshot);
    return status;
}

/* ---- scan and count ---- */

struct page {
    struct protocol_writer *reply;
    size_t begin;
    uint32_t count, limit; /* limit 0: none */
    bool more;
};

/* False if the entry is not on this page any more. */
static bool page_add(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct page *page = context;
    size_t used = page->reply->size - page->begin;
    if ((page->limit && page->count == page->limit) ||
        (page->count && used + protocol_entry_size(key_bytes, value->size) > PROTOCOL_PAGE_BYTES)) {
        page->more = true;
        return false;
    }
    protocol_write_entry(page->reply, key, key_bytes, value);
    page->count++;
    return true;
}

static int compare_keys(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static enum eng_status scan_reverse(struct eng_snapshot *snapshot, const struct protocol_range *range,
                                    struct page *page)
{
    struct eng_cursor *cursor;
    enum eng_status status = eng_cursor_open(snapshot, &cursor);
    if (status != ENG_OK)
        return status;
    bool has_from = range->flags & PROTOCOL_HAS_FROM;
    status = eng_cursor_seek_before(cursor, range->flags & PROTOCOL_HAS_TO ? range->to : NULL, range->to_bytes);
    while (status == ENG_OK) {
        size_t key_bytes;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        if (has_from && compare_keys(key, key_bytes, range->from, range->from_bytes) < 0)
            break;
        struct eng_value value;
        status = eng_cursor_value(cursor, &value);
        if (status != ENG_OK || !page_add(page, key, key_bytes, &value))
            break;
        status = eng_cursor_prev(cursor);
    }
    eng_cursor_close(&cursor);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

/* eng_rank and eng_scan expect bounds in order. */
static bool range_is_empty(const struct protocol_range *range)
{
    return (range->flags & PROTOCOL_HAS_FROM) && (range->flags & PROTOCOL_HAS_TO) &&
           compare_keys(range->from, range->from_bytes, range->to, range->to_bytes) >= 0;
}

static enum eng_status read_scan(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    struct protocol_range range;
    enum eng_status status = protocol_read_range(body, true, &range);
    if (status != ENG_OK)
        return status;
    struct eng_snapshot *snapshot;
    status = ledger_snapshot(ledger, range.height, &snapshot);
    if (status != ENG_OK)
        return status;
    protocol_write_u64(reply, eng_snapshot_tag(snapshot));
    size_t more_at = reply->size;
    protocol_write_u8(reply, 0);
    protocol_write_u32(reply, 0);
    struct page page = {.reply = reply, .begin = reply->size, .limit = range.limit};
    if (range_is_empty(&range))
        status = ENG_OK;
    else if (range.flags & PROTOCOL_REVERSE)
        status = scan_reverse(snapshot, &range, &page);
    else
        status = eng_scan(snapshot, range.flags & PROTOCOL_HAS_FROM ? range.from : NULL, range.from_bytes,
                          range.flags & PROTOCOL_HAS_TO ? range.to : NULL, range.to_bytes, page_add, &page);
    if (!reply->failed)
        reply->bytes[more_at] = page.more;
    protocol_patch_u32(reply, more_at + 1, page.count);
    eng_snapshot_close(&snapshot);
    return status;
}

static enum eng_status read_count(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    struct protocol_range range;
    enum eng_status status = protocol_read_range(body, false, &range);
    if (status != ENG_OK)
        return status;
    struct eng_snapshot *snapshot;
    status = ledger_snapshot(ledger, range.height, &snapshot);
    if (status != ENG_OK)
        return status;
    uint64_t below_from = 0, below_to = 0;
    if (!range_is_empty(&range)) {
        if (range.flags & PROTOCOL_HAS_FROM)
            status = eng_rank(snapshot, range.from, range.from_bytes, &below_from);
        if (status == ENG_OK)
            status = eng_rank(snapshot, range.flags & PROTOCOL_HAS_TO ? range.to : NULL, range.to_bytes, &below_to);
    }
    assert(status != ENG_OK || below_to >= below_from);
    protocol_write_u64(reply, eng_snapshot_tag(snapshot));
    protocol_write_u64(reply, below_to - below_from);
    eng_snapshot_close(&snapshot);
    return status;
}

/* ---- root, header, receipt ---- */

static void write_summary(struct protocol_writer *reply, uint64_t height, const struct eng_summary *summary)
{
    protocol_write_u64(reply, height);
    protocol_write_bytes(reply, summary->digest, sizeof summary->digest);
    protocol_write_u64(reply, summary->count);
    for (int i = 0; i < 3; i++)
        protocol_write_u64(reply, summary->sum[i]);
}

/* The root of a height whose state is no longer live still stands in its header. */
static enum eng_status read_root(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    uint64_t height = protocol_read_u64(body);
    if (!protocol_read_end(body))
        return wrong_length();
    struct eng_snapshot *snapshot;
    enum eng_status status = ledger_snapshot(ledger, height, &snapshot);
    if (status == ENG_OK) {
        write_summary(reply, eng_snapshot_tag(snapshot), eng_snapshot_summary(snapshot));
        eng_snapshot_close(&snapshot);
        return ENG_OK;
    }
    if (status != ENG_GONE)
        return status;
    struct header header = {.height = 0}; /* height 0: the empty state */
    if (height > 0 && ledger_header(ledger, height, &header) != ENG_OK)
        return eng_fail(ENG_GONE, "height %llu: neither its state nor its header is kept, the oldest live is %llu",
                        (unsigned long long)height, (unsigned long long)ledger_oldest_live(ledger));
    write_summary(reply, height, &header.state);
    return ENG_OK;
}

static enum eng_status read_header(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    uint64_t height = protocol_read_u64(body);
    if (!protocol_read_end(body))
        return wrong_length();
    if (height == ENG_HEAD)
        height = ledger_height(ledger, NULL);
    if (height == 0)
        return eng_fail(ENG_NOT_FOUND, "height 0: the genesis has no header");
    struct header header;
    enum eng_status status = ledger_header(ledger, height, &header);
    if (status != ENG_OK)
        return status;
    uint8_t bytes[HEADER_BYTES_MAX];
    protocol_write_bytes(reply, bytes, header_encode(&header, bytes));
    return ENG_OK;
}

static enum eng_status read_receipt(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    const uint8_t *id = protocol_read_bytes(body, TX_ID_BYTES);
    if (!protocol_read_end(body))
        return wrong_length();
    uint8_t *bytes = NULL;
    size_t size = 0;
    enum eng_status status = ledger_receipt(ledger, id, &bytes, &size);
    if (status != ENG_OK)
        return status;
    protocol_write_bytes(reply, bytes, size);
    free(bytes);
    return ENG_OK;
}

/* ---- diff ---- */

struct diff_page {
    struct protocol_writer *reply;
    const struct protocol_diff *asked;
    size_t begin;
    uint32_t count;
    bool more;
};

static enum eng_status diff_add(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *before,
                                const struct eng_value *after)
{
    struct diff_page *page = context;
    assert(before || after);
    if (page->asked->has_after && compare_keys(key, key_bytes, page->asked->after, page->asked->after_bytes) <= 0)
        return ENG_OK;
    static const struct eng_value none = {ENG_BYTES, NULL, 0};
    const struct eng_value *value = after ? after : &none;
    size_t used = page->reply->size - page->begin;
    if (page->count && used + 1 + protocol_entry_size(key_bytes, value->size) > PROTOCOL_DIFF_PAGE_BYTES) {
        page->more = true;
        return ENG_CLOSED; /* ends the walk; not seen by the client */
    }
    protocol_write_u8(page->reply, !after ? CHANGE_REMOVED : before ? CHANGE_REPLACED : CHANGE_ADDED);
    protocol_write_entry(page->reply, key, key_bytes, value);
    page->count++;
    return ENG_OK;
}

static enum eng_status read_diff(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    struct protocol_diff asked;
    enum eng_status status = protocol_read_diff(body, &asked);
    if (status != ENG_OK)
        return status;
    struct eng_snapshot *a = NULL, *b = NULL;
    status = ledger_snapshot(ledger, asked.a, &a);
    if (status != ENG_OK)
        return status;
    status = ledger_snapshot(ledger, asked.b, &b);
    if (status == ENG_OK) {
        protocol_write_u64(reply, eng_snapshot_tag(a));
        protocol_write_u64(reply, eng_snapshot_tag(b));
        size_t more_at = reply->size;
        protocol_write_u8(reply, 0);
        protocol_write_u32(reply, 0);
        struct diff_page page = {.reply = reply, .asked = &asked, .begin = reply->size};
        status = eng_diff(a, b, asked.prefix_bytes ? asked.prefix : NULL, asked.prefix_bytes, diff_add, &page);
        if (status == ENG_CLOSED && page.more)
            status = ENG_OK;
        if (!reply->failed)
            reply->bytes[more_at] = page.more;
        protocol_patch_u32(reply, more_at + 1, page.count);
        eng_snapshot_close(&b);
    }
    eng_snapshot_close(&a);
    return status;
}

/* ---- prove ---- */

/* One key's way through the trie, copied out of the engine's callbacks. */
struct walk {
    struct proof_step *steps;
    size_t step_count, step_capacity;
    uint8_t *key, *value;
    size_t key_bytes, value_bytes;
    enum eng_tag tag;
    uint8_t value_digest[32];
    bool has_digest, failed;
};

static void walk_step(void *context, uint32_t bit, const struct eng_summary *sibling)
{
    struct walk *walk = context;
    if (walk->step_count == walk->step_capacity) {
        size_t capacity = walk->step_capacity ? walk->step_capacity * 2 : 64;
        struct proof_step *steps = realloc(walk->steps, capacity * sizeof *steps);
        if (!steps) {
            walk->failed = true;
            return;
        }
        walk->steps = steps;
        walk->step_capacity = capacity;
    }
    walk->steps[walk->step_count++] = (struct proof_step){bit, *sibling};
}

static void walk_landing(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                         const uint8_t *value_digest)
{
    struct walk *walk = context;
    walk->key = malloc(key_bytes);
    walk->value = malloc(value->size ? value->size : 1);
    if (!walk->key || !walk->value) {
        walk->failed = true;
        return;
    }
    memcpy(walk->key, key, key_bytes);
    if (value->size)
        memcpy(walk->value, value->bytes, value->size);
    walk->key_bytes = key_bytes;
    walk->value_bytes = value->size;
    walk->tag = value->tag;
    walk->has_digest = value_digest != NULL;
    if (value_digest)
        memcpy(walk->value_digest, value_digest, sizeof walk->value_digest);
}

static struct proof_path walk_path(const struct walk *walk)
{
    return (struct proof_path){.key = walk->key,
                               .key_bytes = walk->key_bytes,
                               .tag = walk->tag,
                               .value = walk->value,
                               .value_bytes = walk->value_bytes,
                               .value_digest = walk->has_digest ? walk->value_digest : NULL,
                               .steps = walk->steps,
                               .step_count = walk->step_count};
}

/* Walks all keys; the sum of what is copied is bounded by the limit of a proof. */
static enum eng_status walk_keys(struct eng_snapshot *snapshot, struct protocol_reader *body, uint32_t count,
                                 struct walk *walks, struct proof_key *keys)
{
    size_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t key_bytes = protocol_read_u16(body);
        keys[i].key = protocol_read_bytes(body, key_bytes);
        keys[i].key_bytes = key_bytes;
        if (body->failed || key_bytes < 1 || key_bytes > ENG_KEY_BYTES_MAX)
            return wrong_length();
        enum eng_status status = eng_path(snapshot, keys[i].key, keys[i].key_bytes, walk_step, walk_landing, &walks[i]);
        if (status != ENG_OK && status != ENG_NOT_FOUND) /* not found: the state is empty */
            return status;
        if (walks[i].failed)
            return eng_fail(ENG_NO_MEMORY, "prove: no memory for the paths");
        keys[i].path = walk_path(&walks[i]);
        total += walks[i].value_bytes + walks[i].key_bytes + walks[i].step_count * PROOF_STEP_BYTES;
        if (total > 2 * (size_t)PROOF_BYTES_MAX)
            return eng_fail(ENG_TOO_LARGE, "prove: %u keys give a proof over %u bytes", count, PROOF_BYTES_MAX);
    }
    return protocol_read_end(body) ? ENG_OK : wrong_length();
}

static enum eng_status prove_in(struct ledger *ledger, struct eng_snapshot *snapshot, struct protocol_reader *body,
                                uint32_t count, struct protocol_writer *reply)
{
    struct header header;
    enum eng_status status = ledger_header(ledger, eng_snapshot_tag(snapshot), &header);
    if (status != ENG_OK)
        return status;
    uint8_t header_bytes[HEADER_BYTES_MAX];
    size_t header_size = header_encode(&header, header_bytes);
    struct walk *walks = calloc(count, sizeof *walks);
    struct proof_key *keys = calloc(count, sizeof *keys);
    struct proof_blob state = {0}, file = {0};
    if (!walks || !keys)
        status = eng_fail(ENG_NO_MEMORY, "prove: no memory for %u keys", count);
    if (status == ENG_OK)
        status = walk_keys(snapshot, body, count, walks, keys);
    if (status == ENG_OK)
        status = proof_state_keys(keys, count, &state);
    if (status == ENG_OK)
        status = proof_file(header_bytes, header_size, &state, &file);
    if (status == ENG_OK)
        protocol_write_bytes(reply, file.bytes, file.size);
    proof_blob_free(&file);
    proof_blob_free(&state);
    for (uint32_t i = 0; walks && i < count; i++) {
        free(walks[i].steps);
        free(walks[i].key);
        free(walks[i].value);
    }
    free(keys);
    free(walks);
    return status;
}

static enum eng_status read_prove(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    uint64_t height = protocol_read_u64(body);
    uint32_t count = protocol_read_u32(body);
    if (body->failed || count < 1 || count > PROTOCOL_PROVE_MAX)
        return eng_fail(ENG_INVALID, "prove: 1 to %u keys can be proven at once", PROTOCOL_PROVE_MAX);
    struct eng_snapshot *snapshot;
    enum eng_status status = ledger_snapshot(ledger, height, &snapshot);
    if (status != ENG_OK)
        return status;
    if (eng_snapshot_tag(snapshot) == 0)
        status = eng_fail(ENG_NOT_FOUND, "height 0: the genesis has no signed header to prove against");
    else
        status = prove_in(ledger, snapshot, body, count, reply);
    eng_snapshot_close(&snapshot);
    return status;
}

static enum eng_status read_status(struct server *server, struct protocol_reader *body, struct protocol_writer *reply)
{
    if (!protocol_read_end(body))
        return wrong_length();
    char *text = status_json(server->sources);
    if (!text)
        return eng_fail(ENG_NO_MEMORY, "status: no memory for it");
    protocol_write_bytes(reply, text, strlen(text));
    free(text);
    return ENG_OK;
}

static enum eng_status read_verb(struct server *server, enum protocol_verb verb, struct protocol_reader *body,
                                 struct protocol_writer *reply)
{
    switch (verb) {
    case VERB_GET:
        return read_get(server->ledger, body, reply);
    case VERB_SCAN:
        return read_scan(server->ledger, body, reply);
    case VERB_COUNT:
        return read_count(server->ledger, body, reply);
    case VERB_ROOT:
        return read_root(server->ledger, body, reply);
    case VERB_HEADER:
        return read_header(server->ledger, body, reply);
    case VERB_DIFF:
        return read_diff(server->ledger, body, reply);
    case VERB_RECEIPT:
        return read_receipt(server->ledger, body, reply);
    case VERB_PROVE:
        return read_prove(server->ledger, body, reply);
    case VERB_STATUS:
        return read_status(server, body, reply);
    case VERB_PROVE_RANGE:
        return server_prove_range(server->ledger, body, reply);
    case VERB_SUBMIT:
    case VERB_IMPORT:
    case VERB_WAIT:
    case VERB_END:
        break;
    }
    assert(!"a verb that the readers do not get");
    abort();
}

void server_read(struct server *server, enum protocol_verb verb, struct protocol_reader *body,
                 struct protocol_writer *reply)
{
    protocol_reply_begin(reply);
    enum eng_status status = read_verb(server, verb, body, reply);
    if (status != ENG_OK)
        protocol_reply_error(reply, status, eng_error());
}
