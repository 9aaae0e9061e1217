/*
 * Queues and threads of the IPC server (server.h has the picture, server_internal.h the states).
 *
 * Happy path: the socket thread hands a received request to server_dispatch, which puts it into a queue; a thread works
 * on it and calls server_answer, which makes the frame, puts it into the list of answers and wakes the socket thread.
 * The writer thread takes its requests in the order in which they arrived; the readers take theirs as they come.
 *
 * Ways to fail: a malformed request is answered with its fault. Not enough memory for a reply: the client is told so,
 * and if even that cannot be made its connection is closed. While PROTOCOL_REPLY_WORK_BYTES_MAX of answers wait to be
 * taken by their clients only who owes nothing is served; while PROTOCOL_REPLY_SHARE_BYTES of one client's do, nothing
 * more is read for that one. Nothing a client sends can stop the server.
 *
 * Invariants: server->lock is never held while calling the ledger or making a reply. A request is answered exactly
 * once.
 */
#include "server_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SERVER_MAGIC 0x50535256u
#define WAIT_SLICE_MS 50 /* how late the end of a VERB_WAIT may be noticed */

void request_push(struct request_queue *queue, struct request *request)
{
    request->next = NULL;
    if (queue->tail)
        queue->tail->next = request;
    else
        queue->head = request;
    queue->tail = request;
}

/* before: the one before it, NULL: it is the first. */
static void request_cut(struct request_queue *queue, struct request *before, struct request *request)
{
    if (before)
        before->next = request->next;
    else
        queue->head = request->next;
    if (queue->tail == request)
        queue->tail = before;
}

/* ---- answers ---- */

static struct reply *make_reply(const struct request *request, const struct protocol_writer *writer)
{
    size_t body = request->trace_bytes + writer->size;
    struct reply *reply = writer->failed ? NULL : malloc(sizeof *reply + FRAME_HEAD_BYTES + body);
    if (!reply)
        return NULL;
    reply->next = NULL;
    reply->size = FRAME_HEAD_BYTES + body;
    reply->bytes[0] = 1;
    for (int i = 0; i < 8; i++)
        reply->bytes[1 + i] = (uint8_t)((uint64_t)body >> (8 * (7 - i)));
    memcpy(reply->bytes + FRAME_HEAD_BYTES, request->trace, request->trace_bytes);
    memcpy(reply->bytes + FRAME_HEAD_BYTES + request->trace_bytes, writer->bytes, writer->size);
    return reply;
}

void server_answer(struct request *request, struct protocol_writer *writer)
{
    struct server *server = request->server;
    if (!writer->failed && writer->size + SERVER_TRACE_BYTES_MAX > PROTOCOL_REPLY_BYTES_MAX)
        protocol_reply_error(writer, ENG_TOO_LARGE, "the node: the answer is over the limit of a message");
    struct reply *reply = make_reply(request, writer);
    if (!reply) {
        free(writer->bytes);
        *writer = (struct protocol_writer){0};
        protocol_reply_error(writer, ENG_NO_MEMORY, "the node: out of memory for this answer");
        reply = make_reply(request, writer);
    }
    pthread_mutex_lock(&server->lock);
    assert(request->state == REQUEST_WORKING);
    request->state = REQUEST_ANSWERED;
    request->reply = reply;
    server->reply_bytes += reply ? reply->size : 0;
    request->connection->owed += reply ? reply->size : 0;
    request->connection->reading -= request->reading;
    request->reading = false;
    request_push(&server->answers, request);
    pthread_mutex_unlock(&server->lock);
    server_socket_wake(server);
}

void server_answer_error(struct request *request, enum eng_status status, const char *text)
{
    struct protocol_writer writer = {0};
    protocol_reply_error(&writer, status, text);
    server_answer(request, &writer);
    free(writer.bytes);
}

static void answer_wait(struct request *request, uint64_t height, bool stopping)
{
    if (request->height > height) {
        char text[128];
        snprintf(text, sizeof text, "height %llu: %s, the newest is %llu", (unsigned long long)request->height,
                 stopping ? "the node is closing" : "not published in that time", (unsigned long long)height);
        server_answer_error(request, stopping ? ENG_CLOSED : ENG_TIMEOUT, text);
        return;
    }
    struct protocol_writer reply = {0};
    protocol_reply_begin(&reply);
    protocol_write_u64(&reply, height);
    server_answer(request, &reply);
    free(reply.bytes);
}

/* Answers a wait whose height is there, or puts it into the list of the waiter thread. */
static void dispatch_wait(struct request *request)
{
    struct server *server = request->server;
    request->height = protocol_read_u64(&request->body);
    uint32_t timeout_ms = protocol_read_u32(&request->body);
    request->deadline_ms = status_clock_ms() + (timeout_ms < PROTOCOL_WAIT_MS_MAX ? timeout_ms : PROTOCOL_WAIT_MS_MAX);
    if (!protocol_read_end(&request->body)) {
        server_answer_error(request, ENG_INVALID, "request: its length is wrong");
        return;
    }
    uint64_t height = ledger_height(server->ledger, NULL);
    if (request->height <= height) {
        answer_wait(request, height, false);
        return;
    }
    pthread_mutex_lock(&server->lock);
    bool full = server->wait_count >= PROTOCOL_WAITS_MAX;
    if (!full) {
        request->next = server->waits;
        server->waits = request;
        server->wait_count++;
        pthread_cond_signal(&server->wait_work);
    }
    pthread_mutex_unlock(&server->lock);
    if (full)
        server_answer_error(request, ENG_BUSY, "wait: too many clients wait already");
}

void server_dispatch(struct request *request)
{
    struct server *server = request->server;
    enum eng_status status =
        protocol_request_open(request->message + request->trace_bytes, request->message_bytes - request->trace_bytes,
                              &request->verb, &request->body);
    if (status != ENG_OK) {
        server_answer_error(request, status, eng_error());
        return;
    }
    if (request->verb == VERB_WAIT) {
        dispatch_wait(request);
        return;
    }
    pthread_mutex_lock(&server->lock);
    if (request->verb == VERB_SUBMIT || request->verb == VERB_IMPORT) {
        request_push(&server->writes, request);
        pthread_cond_signal(&server->write_work);
    } else {
        request_push(&server->reads, request);
        pthread_cond_signal(&server->read_work);
    }
    pthread_mutex_unlock(&server->lock);
}

/* ---- threads ---- */

/* Is there room for the answer of one more reading request of this connection? When all clients together owe much,
 * only those are served that owe nothing: so a few that are slow hold up nobody else. */
static bool may_read(const struct server *server, const struct connection *connection)
{
    if (server->quit)
        return true;
    if (server->reply_bytes >= PROTOCOL_REPLY_WORK_BYTES_MAX)
        return server->reply_bytes < 2u * PROTOCOL_REPLY_WORK_BYTES_MAX && !connection->owed && !connection->reading;
    return connection->owed + connection->reading * (size_t)PROTOCOL_REPLY_GUESS_BYTES < PROTOCOL_REPLY_SHARE_BYTES;
}

/* The first reading request that may be worked on, or NULL; the lock is held. */
static struct request *next_read(struct server *server)
{
    struct request *before = NULL, *request = server->reads.head;
    while (request && !may_read(server, request->connection)) {
        before = request;
        request = request->next;
    }
    if (!request)
        return NULL;
    request_cut(&server->reads, before, request);
    request->reading = true;
    request->connection->reading++;
    return request;
}

/* The first request of another client than the last one's, if there is any: one with many makes none wait for all. */
static struct request *next_write(struct server *server)
{
    struct request *before = NULL, *request = server->writes.head;
    while (request && request->connection == server->wrote_last) {
        before = request;
        request = request->next;
    }
    if (!request) {
        before = NULL;
        request = server->writes.head;
    }
    if (!request)
        return NULL;
    request_cut(&server->writes, before, request);
    server->wrote_last = request->connection;
    return request;
}

static void *reader_main(void *context)
{
    struct server *server = context;
    struct protocol_writer reply = {0};
    pthread_mutex_lock(&server->lock);
    for (;;) {
        struct request *request = next_read(server);
        if (!request) {
            if (server->quit)
                break;
            pthread_cond_wait(&server->read_work, &server->lock);
            continue;
        }
        pthread_mutex_unlock(&server->lock);
        server_read(server, request->verb, &request->body, &reply);
        server_answer(request, &reply);
        if (reply.capacity > 4 * PROTOCOL_PAGE_BYTES) {
            free(reply.bytes);
            reply = (struct protocol_writer){0};
        }
        reply.size = 0;
        reply.failed = false;
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
    free(reply.bytes);
    return NULL;
}

static void *writer_main(void *context)
{
    struct server *server = context;
    pthread_mutex_lock(&server->lock);
    for (;;) {
        struct request *request = next_write(server);
        if (!request) {
            if (server->quit)
                break;
            pthread_cond_wait(&server->write_work, &server->lock);
            continue;
        }
        pthread_mutex_unlock(&server->lock);
        if (request->verb == VERB_SUBMIT)
            server_submit(request);
        else
            server_import(request);
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* Takes those that are due out of the list; the lock is held. *earliest is when the next one ends. */
static struct request *take_due(struct server *server, uint64_t height, uint64_t now_ms, uint64_t *earliest)
{
    struct request *due = NULL, **link = &server->waits;
    *earliest = UINT64_MAX;
    while (*link) {
        struct request *request = *link;
        if (request->height <= height || request->deadline_ms <= now_ms || server->stopping) {
            *link = request->next;
            request->next = due;
            due = request;
            server->wait_count--;
        } else {
            if (request->deadline_ms < *earliest)
                *earliest = request->deadline_ms;
            link = &request->next;
        }
    }
    return due;
}

static void *waiter_main(void *context)
{
    struct server *server = context;
    pthread_mutex_lock(&server->lock);
    for (;;) {
        if (!server->waits) {
            if (server->quit)
                break;
            pthread_cond_wait(&server->wait_work, &server->lock);
            continue;
        }
        pthread_mutex_unlock(&server->lock);
        uint64_t height = ledger_height(server->ledger, NULL), now_ms = status_clock_ms(), earliest;
        pthread_mutex_lock(&server->lock);
        struct request *due = take_due(server, height, now_ms, &earliest);
        bool stopping = server->stopping, more = server->waits != NULL;
        pthread_mutex_unlock(&server->lock);
        while (due) {
            struct request *request = due;
            due = request->next;
            answer_wait(request, height, stopping);
        }
        if (more) {
            uint64_t left_ms = earliest - now_ms;
            int slice_ms = left_ms < WAIT_SLICE_MS ? (int)left_ms : WAIT_SLICE_MS;
            enum eng_status status = ledger_wait(server->ledger, height + 1, slice_ms);
            if (status != ENG_OK && status != ENG_TIMEOUT)
                nanosleep(&(struct timespec){0, WAIT_SLICE_MS * 1000000}, NULL); /* a stopped ledger: no busy loop */
        }
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* ---- open and close ---- */

static bool start_threads(struct server *server)
{
    for (unsigned i = 0; i < PROTOCOL_WORKERS; i++) {
        if (pthread_create(&server->readers[i], NULL, reader_main, server) != 0)
            return false;
        server->thread_count++;
    }
    if (pthread_create(&server->writer, NULL, writer_main, server) != 0)
        return false;
    server->thread_count++;
    if (pthread_create(&server->waiter, NULL, waiter_main, server) != 0)
        return false;
    server->thread_count++;
    server->socket_thread_runs = pthread_create(&server->socket_thread, NULL, server_socket_main, server) == 0;
    return server->socket_thread_runs;
}

/* The workers first: what they answer the socket thread still sends. */
static void stop_threads(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    server->quit = true;
    pthread_cond_broadcast(&server->read_work);
    pthread_cond_broadcast(&server->write_work);
    pthread_cond_broadcast(&server->wait_work);
    pthread_mutex_unlock(&server->lock);
    for (unsigned i = 0; i < server->thread_count; i++)
        pthread_join(i < PROTOCOL_WORKERS    ? server->readers[i]
                     : i == PROTOCOL_WORKERS ? server->writer
                                             : server->waiter,
                     NULL);
    server->thread_count = 0;
    if (!server->socket_thread_runs)
        return;
    pthread_mutex_lock(&server->lock);
    server->stopping = server->end_socket = true;
    pthread_mutex_unlock(&server->lock);
    server_socket_wake(server);
    pthread_join(server->socket_thread, NULL);
    server->socket_thread_runs = false;
}

static void init_locks(struct server *server)
{
    pthread_condattr_t attributes;
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->read_work, NULL);
    pthread_cond_init(&server->write_work, NULL);
    pthread_cond_init(&server->wait_work, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&server->idle, &attributes);
    pthread_condattr_destroy(&attributes);
}

enum eng_status server_open(const char *url, unsigned socket_mode, const struct status_sources *sources,
                            struct server **out)
{
    *out = NULL;
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return eng_fail(ENG_NO_MEMORY, "%s: no memory for the server", url);
    server->magic = SERVER_MAGIC;
    server->sources = sources;
    server->ledger = sources->ledger;
    init_locks(server);
    for (unsigned i = 0; i < PROTOCOL_CONTEXTS; i++) {
        server->requests[i].server = server;
        server->requests[i].next = server->free;
        server->free = &server->requests[i];
    }
    enum eng_status status = server_socket_open(server, url, socket_mode);
    if (status == ENG_OK && start_threads(server)) {
        *out = server;
        return ENG_OK;
    }
    if (status == ENG_OK)
        status = eng_fail(ENG_NO_MEMORY, "%s: cannot start the server's threads", url);
    server_close(&server);
    return status;
}

bool server_stop(struct server *server, int deadline_ms)
{
    assert(server->magic == SERVER_MAGIC);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += deadline_ms / 1000;
    until.tv_nsec += deadline_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    /* release: pairs with the acquire in server_write.c; nothing else is passed along, it only ends a wait. */
    atomic_store_explicit(&server->stop_writes, true, memory_order_release);
    pthread_mutex_lock(&server->lock);
    server->stopping = true;
    pthread_cond_broadcast(&server->wait_work);
    server_socket_wake(server);
    while (!server->drained)
        if (pthread_cond_timedwait(&server->idle, &server->lock, &until) == ETIMEDOUT)
            break;
    bool all = server->drained;
    pthread_mutex_unlock(&server->lock);
    stop_threads(server);
    return all;
}

void server_close(struct server **server_pointer)
{
    struct server *server = *server_pointer;
    if (!server)
        return;
    assert(server->magic == SERVER_MAGIC);
    stop_threads(server);
    server_socket_close(server);
    for (unsigned i = 0; i < PROTOCOL_CONTEXTS; i++) {
        free(server->requests[i].message);
        free(server->requests[i].reply);
    }
    pthread_cond_destroy(&server->read_work);
    pthread_cond_destroy(&server->write_work);
    pthread_cond_destroy(&server->wait_work);
    pthread_cond_destroy(&server->idle);
    pthread_mutex_destroy(&server->lock);
    server->magic = 0;
    free(server);
    *server_pointer = NULL;
}
