/*
 * Submit and import: requests of many transactions or blocks, handed to the ledger in order, answered once.
 *
 * Happy path: the request's items are checked, a collector with a slot for each is made, each item goes to
 * ledger_submit (ledger_import), whose callback stores the result in its slot; when the last one is there, the reply is
 * put together in the order of the items and sent. The collector starts with one result more outstanding than it has
 * items, which the handing-in thread takes back at its end: so the reply is never sent while items are still handed in.
 *
 * Ways to fail: a request whose items do not fill it exactly is answered ENG_INVALID and nothing of it is handed in. A
 * transaction that is refused takes its slot with its code and line. A full queue of the ledger is waited for in steps
 * of BUSY_STEP_MS, at most PROTOCOL_BUSY_WAIT_MS; then this item, and until one gets through all that follow, are
 * answered BUSY without waiting: a full disk must not make every client wait for its turn to be refused. A receipt for
 * which the answer has no room is replaced by BUSY too: it is asked for again.
 *
 * Threads: one writer thread hands in; callbacks come from ledger threads and do not block (the collector's lock is
 * held for a copy).
 */
#include "server_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUSY_STEP_MS 1
#define SUBMIT_FRAME_BYTES 256u /* more than what a reply has around its results */
#define SUBMIT_NO_ROOM "submit: done, but its receipt is over the limit of an answer: ask again with the same id"

/* True if the caller should try again. */
static bool wait_for_room(struct server *server, unsigned *waited_ms)
{
    /* acquire: pairs with the release in server_stop. */
    if (server->disk_refuses || atomic_load_explicit(&server->stop_writes, memory_order_acquire))
        return false;
    if (*waited_ms >= PROTOCOL_BUSY_WAIT_MS) {
        server->disk_refuses = true;
        return false;
    }
    nanosleep(&(struct timespec){0, BUSY_STEP_MS * 1000000}, NULL);
    *waited_ms += BUSY_STEP_MS;
    return true;
}

/* Reads {u32 bytes | item} n times; false if they do not fill the body exactly or an item is empty. */
static bool check_items(struct protocol_reader body, uint32_t n)
{
    for (uint32_t i = 0; i < n && !body.failed; i++) {
        uint32_t size = protocol_read_u32(&body);
        protocol_read_bytes(&body, size);
    }
    return protocol_read_end(&body);
}

/* ---- submit ---- */

struct submission_slot {
    struct submission *submission;
    size_t offset; /* of the receipt or line in results */
    uint32_t size;
    enum tx_code code;
};

struct submission {
    struct request *request;
    pthread_mutex_t lock;
    uint32_t count, outstanding;
    struct protocol_writer results; /* in the order of their arrival */
    struct submission_slot slots[];
};

static void submission_finish(struct submission *submission)
{
    struct protocol_writer reply = {0};
    protocol_reply_begin(&reply);
    protocol_write_u32(&reply, submission->count);
    for (uint32_t i = 0; i < submission->count; i++) {
        const struct submission_slot *slot = &submission->slots[i];
        protocol_write_u8(&reply, (uint8_t)slot->code);
        protocol_write_u32(&reply, slot->size);
        if (slot->size && !submission->results.failed)
            protocol_write_bytes(&reply, submission->results.bytes + slot->offset, slot->size);
    }
    reply.failed |= submission->results.failed;
    server_answer(submission->request, &reply);
    free(reply.bytes);
    free(submission->results.bytes);
    pthread_mutex_destroy(&submission->lock);
    free(submission);
}

/* Is there room for a receipt, with all others of the request refused with a line each? */
static bool receipt_fits(const struct submission *submission, size_t size)
{
    size_t rest = SUBMIT_FRAME_BYTES + submission->count * (size_t)(5 + PROTOCOL_TEXT_MAX);
    return submission->results.size + size + rest <= PROTOCOL_REPLY_BYTES_MAX;
}

static void submission_result(struct submission *submission, struct submission_slot *slot, enum tx_code code,
                              const void *bytes, size_t size)
{
    pthread_mutex_lock(&submission->lock);
    if (slot) {
        if (size > PROTOCOL_TEXT_MAX && !receipt_fits(submission, size)) {
            code = TX_BUSY;
            bytes = SUBMIT_NO_ROOM;
            size = sizeof SUBMIT_NO_ROOM - 1;
        }
        slot->code = code;
        slot->offset = submission->results.size;
        slot->size = (uint32_t)size;
        protocol_write_bytes(&submission->results, bytes, size);
    }
    assert(submission->outstanding > 0);
    bool last = --submission->outstanding == 0;
    pthread_mutex_unlock(&submission->lock);
    if (last)
        submission_finish(submission);
}

/* What EXECUTE and PUBLISH refuse comes with its code only; each refuses with a code for one reason. */
static const char *refusal_text(enum tx_code code)
{
    if (code == TX_EXPIRED)
        return "submit: expired before its block was made";
    if (code == TX_MALFORMED)
        return "submit: expires further ahead of the ledger's time than the window of the genesis";
    return "submit: the ledger closed or stopped before there was a receipt; ask again with the same id";
}

static void on_receipt(void *context, enum tx_code code, const uint8_t *receipt, size_t size)
{
    struct submission_slot *slot = context;
    const char *text = receipt ? NULL : refusal_text(code);
    submission_result(slot->submission, slot, code, receipt ? receipt : (const void *)text,
                      receipt ? size : strlen(text));
}

/* Why nothing can be written here, and where it can. */
static void follows_text(const struct server *server, char *text, size_t text_bytes)
{
    char address[256];
    status_leader_address(server->sources, address, sizeof address);
    snprintf(text, text_bytes, "this node follows %s", address[0] ? address : "no one yet");
}

static void submit_one(struct server *server, struct submission_slot *slot, const uint8_t *bytes, uint32_t size)
{
    unsigned waited_ms = 0;
    enum tx_code code;
    do
        code = ledger_submit(server->ledger, bytes, size, on_receipt, slot);
    while (code == TX_BUSY && wait_for_room(server, &waited_ms));
    if (code == TX_OK) {
        server->disk_refuses = false;
        return;
    }
    char line[PROTOCOL_TEXT_MAX + 1];
    snprintf(line, sizeof line, "%s", eng_error());
    if (code == TX_NOT_LEADER)
        follows_text(server, line, sizeof line);
    submission_result(slot->submission, slot, code, line, strlen(line));
}

void server_submit(struct request *request)
{
    uint32_t count = protocol_read_u32(&request->body);
    if (count == 0 || count > PROTOCOL_SUBMIT_MAX || !check_items(request->body, count)) {
        server_answer_error(request, ENG_INVALID, "submit: its length or the number of transactions is wrong");
        return;
    }
    struct submission *submission = calloc(1, sizeof *submission + count * sizeof submission->slots[0]);
    if (!submission) {
        server_answer_error(request, ENG_NO_MEMORY, "submit: the node has no memory for it");
        return;
    }
    struct server *server = request->server;
    struct protocol_reader body = request->body;
    submission->request = request;
    submission->count = count;
    submission->outstanding = count + 1;
    pthread_mutex_init(&submission->lock, NULL);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = protocol_read_u32(&body);
        const uint8_t *bytes = protocol_read_bytes(&body, size);
        submission->slots[i].submission = submission;
        submit_one(server, &submission->slots[i], bytes, size);
    }
    submission_result(submission, NULL, TX_OK, NULL, 0);
}

/* ---- import ---- */

struct import_slot {
    struct importing *importing;
    struct import_result result;
};

struct importing {
    struct request *request;
    pthread_mutex_t lock;
    uint32_t count, outstanding;
    struct import_slot slots[];
};

static void import_done(struct importing *importing, struct import_slot *slot, const struct import_result *result)
{
    pthread_mutex_lock(&importing->lock);
    if (slot)
        slot->result = *result;
    assert(importing->outstanding > 0);
    bool last = --importing->outstanding == 0;
    pthread_mutex_unlock(&importing->lock);
    if (!last)
        return;
    struct protocol_writer reply = {0};
    protocol_reply_begin(&reply);
    protocol_write_u32(&reply, importing->count);
    for (uint32_t i = 0; i < importing->count; i++)
        protocol_write_import_result(&reply, &importing->slots[i].result);
    server_answer(importing->request, &reply);
    free(reply.bytes);
    pthread_mutex_destroy(&importing->lock);
    free(importing);
}

static void on_import(void *context, const struct import_result *result)
{
    struct import_slot *slot = context;
    import_done(slot->importing, slot, result);
}

/* False if the block was refused here: then those behind it would only leave a gap. */
static bool import_one(struct server *server, struct import_slot *slot, const uint8_t *bytes, uint32_t size,
                       bool keep_going, uint64_t stream)
{
    unsigned waited_ms = 0;
    enum eng_status status;
    do
        status = ledger_import(server->ledger, bytes, size, keep_going, stream, on_import, slot);
    while (status == ENG_BUSY && wait_for_room(server, &waited_ms));
    if (status == ENG_OK) {
        server->disk_refuses = false;
        return true;
    }
    struct import_result result = {.status = status};
    snprintf(result.text, sizeof result.text, "%s", eng_error());
    if (server->sources->follower)
        follows_text(server, result.text, sizeof result.text);
    import_done(slot->importing, slot, &result);
    return false;
}

void server_import(struct request *request)
{
    uint8_t keep_going = protocol_read_u8(&request->body);
    uint64_t stream = protocol_read_u64(&request->body);
    uint32_t count = protocol_read_u32(&request->body);
    if (keep_going > 1 || count == 0 || count > PROTOCOL_IMPORT_MAX || !check_items(request->body, count)) {
        server_answer_error(request, ENG_INVALID, "import: its length or the number of blocks is wrong");
        return;
    }
    struct importing *importing = calloc(1, sizeof *importing + count * sizeof importing->slots[0]);
    if (!importing) {
        server_answer_error(request, ENG_NO_MEMORY, "import: the node has no memory for it");
        return;
    }
    struct server *server = request->server;
    struct protocol_reader body = request->body;
    importing->request = request;
    importing->count = count;
    importing->outstanding = count + 1;
    pthread_mutex_init(&importing->lock, NULL);
    bool going = true;
    for (uint32_t i = 0; i < count; i++) {
        struct import_slot *slot = &importing->slots[i];
        slot->importing = importing;
        uint32_t size = protocol_read_u32(&body);
        const uint8_t *bytes = protocol_read_bytes(&body, size);
        if (going) {
            going = import_one(server, slot, bytes, size, keep_going, stream);
            if (!going) /* nor what comes in requests behind this one */
                ledger_refuse_stream(server->ledger, stream);
            continue;
        }
        struct import_result result = {.status = ENG_INVALID, .text = "not tried: a block before it was refused"};
        import_done(importing, slot, &result);
    }
    import_done(importing, NULL, NULL);
}
