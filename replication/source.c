/*
 * Serves sealed blocks to followers: one REP socket, many contexts, few threads.
 *
 * Each context is a *call* with one asynchronous operation in flight. A request that arrives goes to a queue; one of
 * SOURCE_WORKERS threads takes it, reads the blocks and sends the answer. A request for a height that is not there yet
 * holds no thread: its call stands aside (WAITING) until the poller, the one thread that waits for the ledger, sees the
 * height published or its time over, and queues it again. So 256 followers that wait cost 256 contexts and nothing
 * else.
 *
 * Bounds (P10): connections (SOURCE_PIPES_MAX; one more takes the place of the one idle for longest, or is closed at
 * once if none has been for SOURCE_IDLE_MS), requests in hand of one connection (SOURCE_PIPE_CALLS_MAX: who asks on
 * without reading the answers is no follower and is closed), waiting calls (REPLICATION_FOLLOWERS_MAX; more are told
 * busy), request size (RECVMAXSZ), reply size, and the bytes of replies which connections have not asked behind yet
 * (SOURCE_UNREAD_BYTES_MAX; over it requests for blocks are told busy, so that stalled peers cannot fill the memory).
 *
 * Ways to fail: what the ledger cannot give is told to the follower (message.h); a connection that goes away takes its
 * waiting call along; without memory for an answer none is sent and the follower asks again. Nothing here stops the
 * node.
 *
 * Invariants: the lock guards everything in struct source but ledger and socket; no function of nng or of the ledger
 * is called under it, because nng calls back into call_event and pipe_event, which take it. A call belongs to nng while
 * RECEIVING or SENDING, to the queue while QUEUED, to one worker while WORKING, to the poller while WAITING.
 */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>

#include "close.h"
#include "message.h"
#include "pando/replication.h"

#define SOURCE_CONTEXTS (REPLICATION_FOLLOWERS_MAX + 32)
#define SOURCE_PIPES_MAX (REPLICATION_FOLLOWERS_MAX + 64)
#define SOURCE_IDLE_MS 1000     /* without a request for so long a connection gives way to a new one */
#define SOURCE_PIPE_CALLS_MAX 8 /* of one connection: a follower has one, and the end of a send may be told late */
#define SOURCE_WORKERS 4
#define SOURCE_TURN_MS 100 /* how exact the end of a wait is */
#define SOURCE_UNREAD_BYTES_MAX (256u << 20)
#define SOURCE_SPARE_BYTES_MAX (16u << 20) /* a worker gives larger buffers back */
#define SOURCE_RECEIVE_BYTES_MAX 1024u     /* a request and the headers of nng */
#define SOURCE_SEEN_MS 60000
#define SOURCE_STALLED_MS 10000 /* answers not taken for so long cost the connection when others need the room */
#define SOURCE_DRAIN_MS 1000    /* at most, before it closes */
#define SOURCE_QUIET_MS 20      /* nothing was asked for so long: now it closes */
_Static_assert(MESSAGE_REQUEST_BYTES_MAX + 64 <= SOURCE_RECEIVE_BYTES_MAX, "a request passes the transport's limit");

enum call_state { CALL_IDLE, CALL_RECEIVING, CALL_QUEUED, CALL_WORKING, CALL_WAITING, CALL_SENDING };

static const uint8_t call_next[] = {
    [CALL_IDLE] = 1 << CALL_RECEIVING,
    [CALL_RECEIVING] = 1 << CALL_QUEUED | 1 << CALL_RECEIVING | 1 << CALL_IDLE,
    [CALL_QUEUED] = 1 << CALL_WORKING | 1 << CALL_IDLE,
    [CALL_WORKING] = 1 << CALL_SENDING | 1 << CALL_WAITING | 1 << CALL_RECEIVING | 1 << CALL_IDLE,
    [CALL_WAITING] = 1 << CALL_QUEUED | 1 << CALL_IDLE,
    [CALL_SENDING] = 1 << CALL_RECEIVING | 1 << CALL_IDLE,
};

struct call {
    struct source *source;
    nng_ctx ctx;
    nng_aio *aio;
    enum call_state state;
    uint32_t pipe;    /* id of the connection the request came by */
    nng_msg *message; /* received, not decoded yet */
    struct message_request request;
    uint64_t deadline_ms; /* of its wait */
    bool dropped;         /* its connection went away */
    struct call *next;    /* in the queue */
};

struct pipe {
    uint32_t id;      /* 0: free */
    unsigned calls;   /* its requests in hand and its answers on their way */
    size_t unread;    /* bytes of answers, counted until it asks again */
    uint64_t sent_ms; /* when the last answer was handed to nng */
    uint64_t used_ms; /* when it was made, asked last, or had its last answer */
};

struct known_follower {
    uint8_t node_key[32];
    uint64_t durable, seen_ms; /* seen_ms 0: free */
};

struct source {
    struct replication_ledger ledger;
    nng_socket socket;
    bool socket_open;
    pthread_mutex_t lock;
    pthread_cond_t work, poll;
    bool stopping, closing; /* answers no more; starts nothing more */
    struct call *head, **tail;
    size_t waiting, unread;
    struct call calls[SOURCE_CONTEXTS];
    size_t call_count;
    struct pipe pipes[SOURCE_PIPES_MAX];
    struct known_follower known[REPLICATION_FOLLOWERS_MAX];
    pthread_t workers[SOURCE_WORKERS], poller;
    size_t worker_count;
    bool poller_runs;
};

/* The answer that a worker builds. */
struct answer {
    uint8_t *bytes;
    size_t size, capacity;
    uint8_t *block; /* as read from the ledger */
    size_t block_capacity;
};

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- calls and connections, under the lock ---- */

static void call_to(struct call *call, enum call_state state)
{
    assert(call_next[call->state] & 1 << state);
    struct source *source = call->source;
    if (call->state == CALL_WAITING) {
        assert(source->waiting > 0);
        source->waiting--;
    }
    if (state == CALL_WAITING)
        source->waiting++;
    call->state = state;
}

static void call_queue(struct call *call)
{
    struct source *source = call->source;
    call_to(call, CALL_QUEUED);
    call->next = NULL;
    *source->tail = call;
    source->tail = &call->next;
    pthread_cond_signal(&source->work);
}

static struct pipe *pipe_find(struct source *source, uint32_t id)
{
    for (size_t i = 0; i < SOURCE_PIPES_MAX; i++) {
        if (source->pipes[i].id == id)
            return &source->pipes[i];
    }
    return NULL;
}

static void pipe_read(struct source *source, struct pipe *pipe)
{
    assert(source->unread >= pipe->unread);
    source->unread -= pipe->unread;
    pipe->unread = 0;
}

/* The place for a new connection: a free one, or that of the one idle for longest, *gone. NULL: there is none. */
static struct pipe *pipe_place(struct source *source, nng_pipe *gone)
{
    struct pipe *place = pipe_find(source, 0);
    uint64_t oldest = clock_ms() - SOURCE_IDLE_MS;
    if (place)
        return place;
    for (size_t i = 0; i < SOURCE_PIPES_MAX; i++) {
        struct pipe *pipe = &source->pipes[i];
        if (!pipe->calls && pipe->used_ms <= oldest) {
            oldest = pipe->used_ms;
            place = pipe;
        }
    }
    if (place) {
        gone->id = place->id;
        pipe_read(source, place);
    }
    return place;
}

/* A request of this connection is not answered yet: no follower has two. */
static bool asks_ahead(const struct source *source, uint32_t id)
{
    for (size_t i = 0; i < source->call_count; i++) {
        const struct call *call = &source->calls[i];
        if (call->pipe == id && call->state != CALL_SENDING)
            return true;
    }
    return false;
}

enum accepted { ACCEPT, ACCEPT_DROP, ACCEPT_CLOSE };

/* Takes a request in hand. The answer before may be on its way still although the peer has it: nng tells late. */
static enum accepted call_accept(struct call *call, nng_msg *message)
{
    struct source *source = call->source;
    int id = nng_pipe_id(nng_msg_get_pipe(message));
    struct pipe *pipe = id > 0 ? pipe_find(source, (uint32_t)id) : NULL;
    if (!pipe)
        return ACCEPT_DROP;
    if (pipe->calls == SOURCE_PIPE_CALLS_MAX || asks_ahead(source, pipe->id))
        return ACCEPT_CLOSE;
    pipe_read(source, pipe); /* a follower asks again when it has the answer */
    pipe->calls++;
    pipe->used_ms = clock_ms();
    call->pipe = pipe->id;
    call->message = message;
    call->dropped = false;
    call_queue(call);
    return ACCEPT;
}

static void call_forget_pipe(struct call *call)
{
    struct pipe *pipe = call->pipe ? pipe_find(call->source, call->pipe) : NULL;
    if (pipe) {
        assert(pipe->calls > 0);
        pipe->calls--;
        pipe->used_ms = clock_ms();
    }
    call->pipe = 0;
}

/* ---- nng ---- */

/* Without the lock: nng may call back at once. */
static void call_receive(struct call *call)
{
    struct source *source = call->source;
    pthread_mutex_lock(&source->lock);
    call_forget_pipe(call);
    bool closing = source->closing;
    call_to(call, closing ? CALL_IDLE : CALL_RECEIVING);
    pthread_mutex_unlock(&source->lock);
    if (!closing)
        nng_ctx_recv(call->ctx, call->aio);
}

/* A receive or a send is done. */
static void call_event(void *context)
{
    struct call *call = context;
    struct source *source = call->source;
    int result = nng_aio_result(call->aio);
    bool again = true;
    nng_pipe closed = NNG_PIPE_INITIALIZER;
    pthread_mutex_lock(&source->lock);
    if (call->state == CALL_SENDING) {
        if (result)
            nng_msg_free(nng_aio_get_msg(call->aio));
    } else if (result == 0) {
        nng_msg *message = nng_aio_get_msg(call->aio);
        enum accepted accepted = call_accept(call, message);
        if (accepted == ACCEPT_CLOSE)
            closed = nng_msg_get_pipe(message);
        again = accepted != ACCEPT;
        if (again)
            nng_msg_free(message);
    } else if (result == NNG_ECLOSED || result == NNG_ECANCELED) {
        call_to(call, CALL_IDLE);
        again = false;
    }
    pthread_mutex_unlock(&source->lock);
    if (nng_pipe_id(closed) > 0)
        nng_pipe_close(closed);
    if (again)
        call_receive(call);
}

static void pipe_event(nng_pipe nng, nng_pipe_ev event, void *context)
{
    struct source *source = context;
    uint32_t id = (uint32_t)nng_pipe_id(nng);
    nng_pipe closed = NNG_PIPE_INITIALIZER;
    pthread_mutex_lock(&source->lock);
    if (event == NNG_PIPE_EV_ADD_PRE) {
        struct pipe *pipe = pipe_place(source, &closed);
        if (pipe)
            *pipe = (struct pipe){.id = id, .used_ms = clock_ms()};
        else
            closed = nng;
    } else {
        struct pipe *pipe = pipe_find(source, id);
        if (pipe) {
            pipe_read(source, pipe);
            *pipe = (struct pipe){0};
        }
        for (size_t i = 0; i < source->call_count; i++) {
            struct call *call = &source->calls[i];
            if (call->state == CALL_WAITING && call->pipe == id) {
                call->dropped = true;
                call_queue(call);
            }
        }
    }
    pthread_mutex_unlock(&source->lock);
    if (nng_pipe_id(closed) > 0)
        nng_pipe_close(closed);
}

/* ---- answers ---- */

static bool answer_reserve(struct answer *answer, size_t size)
{
    if (size <= answer->capacity)
        return true;
    size_t capacity = answer->capacity ? answer->capacity : 64u << 10;
    while (capacity < size)
        capacity *= 2;
    uint8_t *bytes = realloc(answer->bytes, capacity);
    if (!bytes)
        return false;
    answer->bytes = bytes;
    answer->capacity = capacity;
    return true;
}

static void answer_release(struct answer *answer)
{
    free(answer->bytes);
    free(answer->block);
    *answer = (struct answer){0};
}

static bool answer_error(struct source *source, struct answer *answer, enum message_error error, uint64_t first,
                         const char *text)
{
    if (!answer_reserve(answer, MESSAGE_ERROR_BYTES_MAX))
        return false;
    answer->size = message_error_encode(error, first, source->ledger.ledger_id, text, answer->bytes);
    return true;
}

static bool answer_genesis(struct source *source, struct answer *answer)
{
    size_t bytes = source->ledger.genesis_bytes;
    if (!answer_reserve(answer, MESSAGE_GENESIS_HEAD_BYTES + bytes))
        return false;
    message_genesis_head((uint32_t)bytes, answer->bytes);
    memcpy(answer->bytes + MESSAGE_GENESIS_HEAD_BYTES, source->ledger.genesis, bytes);
    answer->size = MESSAGE_GENESIS_HEAD_BYTES + bytes;
    return true;
}

/* Why the first block that was asked for cannot be given. */
static bool answer_unread(struct source *source, struct answer *answer, enum eng_status status, uint64_t height,
                          uint64_t first)
{
    char text[MESSAGE_TEXT_BYTES_MAX + 1];
    if (status == ENG_GONE) {
        snprintf(text, sizeof text, "height %llu is no longer kept", (unsigned long long)height);
        return answer_error(source, answer, MESSAGE_GONE, first, text);
    }
    snprintf(text, sizeof text, "height %llu: %.350s", (unsigned long long)height, eng_error());
    return answer_error(source, answer, MESSAGE_FAILED, 0, text);
}

/* Blocks from request->from up to height, as many as fit. */
static bool answer_blocks(struct source *source, struct answer *answer, const struct message_request *request,
                          uint64_t height)
{
    size_t max = REPLICATION_REPLY_BYTES_MAX - MESSAGE_BLOCKS_HEAD_BYTES;
    max = MESSAGE_BLOCKS_HEAD_BYTES + (request->max_bytes < max ? request->max_bytes : max);
    uint32_t count = 0;
    if (!answer_reserve(answer, MESSAGE_BLOCKS_HEAD_BYTES))
        return false;
    answer->size = MESSAGE_BLOCKS_HEAD_BYTES;
    for (uint64_t at = request->from; at <= height && count < MESSAGE_BLOCKS_MAX; at++) {
        uint64_t first = 0;
        size_t size = 0; /* the ledger appends */
        enum eng_status status = source->ledger.read_sealed(source->ledger.context, at, &answer->block,
                                                            &answer->block_capacity, &size, &first);
        struct sealed_block block;
        struct header header;
        if (status == ENG_OK && count == 0) {
            status = sealed_block_decode(answer->block, size, &block);
            if (status == ENG_OK)
                status = header_decode(block.header, block.header_bytes, &header);
            if (status == ENG_OK && memcmp(header.previous, request->previous, 32) != 0)
                return answer_error(source, answer, MESSAGE_DIVERGED, 0, "the header before is not ours");
        }
        if (status != ENG_OK && count == 0)
            return answer_unread(source, answer, status, at, first);
        if (status != ENG_OK || (count > 0 && answer->size + 4 + size > max))
            break; /* the follower asks for this one next, and is told then */
        if (!answer_reserve(answer, answer->size + 4 + size))
            return false;
        message_put_size((uint32_t)size, answer->bytes + answer->size);
        memcpy(answer->bytes + answer->size + 4, answer->block, size);
        answer->size += 4 + size;
        count++;
    }
    message_blocks_head(height, count, answer->bytes);
    return true;
}

enum outcome { OUTCOME_SEND, OUTCOME_WAIT, OUTCOME_DROP };

static enum outcome sent(bool built)
{
    return built ? OUTCOME_SEND : OUTCOME_DROP;
}

static enum outcome serve_blocks(struct source *source, struct answer *answer, struct call *call)
{
    const struct message_request *request = &call->request;
    const struct replication_ledger *ledger = &source->ledger;
    if (memcmp(request->ledger_id, ledger->ledger_id, 32) != 0)
        return sent(answer_error(source, answer, MESSAGE_OTHER_LEDGER, 0, "this is another ledger"));
    uint8_t digest[32];
    uint64_t height = ledger->height(ledger->context, digest);
    if (request->from == height + 1 && memcmp(digest, request->previous, 32) != 0)
        return sent(answer_error(source, answer, MESSAGE_DIVERGED, 0, "the header before is not ours"));
    pthread_mutex_lock(&source->lock);
    bool wait = request->from > height && clock_ms() < call->deadline_ms;
    bool busy = wait ? source->waiting >= REPLICATION_FOLLOWERS_MAX
                     : request->from <= height && source->unread >= SOURCE_UNREAD_BYTES_MAX;
    pthread_mutex_unlock(&source->lock);
    if (busy)
        return sent(answer_error(source, answer, MESSAGE_BUSY, 0, "busy with other followers"));
    return wait ? OUTCOME_WAIT : sent(answer_blocks(source, answer, request, height));
}

/* ---- workers and the poller ---- */

/* Remembers who asked; under the lock. When all places are taken, the one silent for longest gives way. */
static void note_follower(struct source *source, const struct message_request *request)
{
    struct known_follower *place = &source->known[0];
    for (size_t i = 0; i < REPLICATION_FOLLOWERS_MAX; i++) {
        struct known_follower *known = &source->known[i];
        if (known->seen_ms && memcmp(known->node_key, request->node_key, 32) == 0) {
            place = known;
            break;
        }
        if (known->seen_ms < place->seen_ms)
            place = known;
    }
    memcpy(place->node_key, request->node_key, 32);
    place->durable = request->durable;
    place->seen_ms = clock_ms() | 1; /* never 0 */
}

/* Decodes what arrived; a call that waited has been decoded before. */
static enum outcome serve(struct source *source, struct answer *answer, struct call *call)
{
    if (call->dropped)
        return OUTCOME_DROP;
    if (call->message) {
        enum eng_status status =
            message_request_decode(nng_msg_body(call->message), nng_msg_len(call->message), &call->request);
        nng_msg_free(call->message);
        call->message = NULL;
        if (status != ENG_OK)
            return sent(answer_error(source, answer, MESSAGE_MALFORMED, 0, eng_error()));
        call->deadline_ms = clock_ms() + call->request.wait_ms;
        if (call->request.kind == MESSAGE_BLOCKS &&
            memcmp(call->request.ledger_id, source->ledger.ledger_id, 32) == 0) {
            pthread_mutex_lock(&source->lock);
            note_follower(source, &call->request);
            pthread_mutex_unlock(&source->lock);
        }
    }
    pthread_mutex_lock(&source->lock);
    bool stopping = source->stopping;
    pthread_mutex_unlock(&source->lock);
    if (stopping)
        return sent(answer_error(source, answer, MESSAGE_STOPPING, 0, "this node is stopping"));
    if (call->request.kind == MESSAGE_GENESIS)
        return sent(answer_genesis(source, answer));
    return serve_blocks(source, answer, call);
}

static void call_send(struct call *call, const struct answer *answer)
{
    struct source *source = call->source;
    nng_msg *message;
    if (nng_msg_alloc(&message, answer->size) != 0) {
        call_receive(call); /* forgets the request: the follower asks again */
        return;
    }
    memcpy(nng_msg_body(message), answer->bytes, answer->size);
    pthread_mutex_lock(&source->lock);
    struct pipe *pipe = pipe_find(source, call->pipe);
    if (call->pipe && pipe) {
        pipe->unread += answer->size;
        source->unread += answer->size;
        pipe->sent_ms = clock_ms();
    }
    call_to(call, CALL_SENDING);
    pthread_mutex_unlock(&source->lock);
    nng_aio_set_msg(call->aio, message);
    nng_ctx_send(call->ctx, call->aio);
}

/* Stands aside, unless its connection went away meanwhile: then nobody would wake it before its time. */
static void call_wait(struct call *call)
{
    struct source *source = call->source;
    pthread_mutex_lock(&source->lock);
    bool gone = !pipe_find(source, call->pipe), stopping = source->stopping && !gone;
    if (stopping) {
        call_to(call, CALL_WAITING);
        call_queue(call); /* to be told so */
    } else if (!gone) {
        call_to(call, CALL_WAITING);
        pthread_cond_signal(&source->poll);
    }
    pthread_mutex_unlock(&source->lock);
    if (gone)
        call_receive(call);
}

static void *worker_main(void *context)
{
    struct source *source = context;
    struct answer answer = {0};
    for (;;) {
        pthread_mutex_lock(&source->lock);
        while (!source->head && !source->closing)
            pthread_cond_wait(&source->work, &source->lock);
        struct call *call = source->closing ? NULL : source->head;
        if (call) {
            source->head = call->next;
            if (!source->head)
                source->tail = &source->head;
            call_to(call, CALL_WORKING);
        }
        pthread_mutex_unlock(&source->lock);
        if (!call)
            break;
        switch (serve(source, &answer, call)) {
        case OUTCOME_SEND:
            call_send(call, &answer);
            break;
        case OUTCOME_WAIT:
            call_wait(call);
            break;
        case OUTCOME_DROP:
            call_receive(call);
            break;
        }
        if (answer.capacity > SOURCE_SPARE_BYTES_MAX || answer.block_capacity > SOURCE_SPARE_BYTES_MAX)
            answer_release(&answer);
    }
    answer_release(&answer);
    return NULL;
}

/* Queues the waiting calls whose height is there or whose time is over. */
static void wake_due(struct source *source, uint64_t height)
{
    uint64_t now = clock_ms();
    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->call_count; i++) {
        struct call *call = &source->calls[i];
        if (call->state == CALL_WAITING && (call->request.from <= height || call->deadline_ms <= now))
            call_queue(call);
    }
    pthread_mutex_unlock(&source->lock);
}

/* Room that is short, contexts or bytes, is taken from the connection that has not taken its answer for longest. */
static void close_stalled(struct source *source)
{
    uint64_t oldest = clock_ms() - SOURCE_STALLED_MS;
    size_t sending = 0;
    nng_pipe stalled = NNG_PIPE_INITIALIZER;
    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->call_count; i++)
        sending += source->calls[i].state == CALL_SENDING;
    bool is_short = sending > SOURCE_CONTEXTS / 2 || source->unread >= SOURCE_UNREAD_BYTES_MAX / 2;
    for (size_t i = 0; is_short && i < SOURCE_PIPES_MAX; i++) {
        const struct pipe *pipe = &source->pipes[i];
        if (pipe->id && pipe->unread && pipe->sent_ms < oldest) {
            oldest = pipe->sent_ms;
            stalled.id = pipe->id;
        }
    }
    pthread_mutex_unlock(&source->lock);
    if (nng_pipe_id(stalled) > 0)
        nng_pipe_close(stalled);
}

static void *poller_main(void *context)
{
    struct source *source = context;
    const struct replication_ledger *ledger = &source->ledger;
    const struct timespec turn = {.tv_nsec = SOURCE_TURN_MS * 1000000l};
    for (;;) {
        pthread_mutex_lock(&source->lock);
        struct timespec deadline; /* of a look at the connections, while nobody waits */
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec++;
        if (!source->waiting && !source->closing)
            pthread_cond_timedwait(&source->poll, &source->lock, &deadline);
        bool closing = source->closing, waiting = source->waiting;
        pthread_mutex_unlock(&source->lock);
        if (closing)
            return NULL;
        close_stalled(source);
        if (!waiting)
            continue;
        uint8_t digest[32];
        uint64_t height = ledger->height(ledger->context, digest);
        wake_due(source, height);
        enum eng_status status = ledger->wait(ledger->context, height + 1, SOURCE_TURN_MS);
        if (status != ENG_OK && status != ENG_TIMEOUT)
            nanosleep(&turn, NULL); /* a ledger that stops: answer at the end of each wait, do not spin */
    }
}

/* ---- open and close ---- */

static enum eng_status source_listen(struct source *source, const char *url)
{
    nng_listener listener;
    int error = nng_rep0_open(&source->socket);
    if (error)
        return eng_fail(ENG_IO, "listen on %s: %s", url, nng_strerror(error));
    source->socket_open = true;
    nng_pipe_notify(source->socket, NNG_PIPE_EV_ADD_PRE, pipe_event, source);
    nng_pipe_notify(source->socket, NNG_PIPE_EV_REM_POST, pipe_event, source);
    error = nng_listener_create(&listener, source->socket, url);
    if (!error)
        error = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, SOURCE_RECEIVE_BYTES_MAX);
    if (!error && strncmp(url, "ipc://", 6) == 0)
        error = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (!error && strncmp(url, "tcp://", 6) == 0)
        error = nng_listener_set_bool(listener, NNG_OPT_TCP_KEEPALIVE, true);
    if (!error)
        error = nng_listener_start(listener, 0);
    return error ? eng_fail(ENG_IO, "listen on %s: %s", url, nng_strerror(error)) : ENG_OK;
}

static enum eng_status source_start(struct source *source, const char *url)
{
    for (; source->call_count < SOURCE_CONTEXTS; source->call_count++) {
        struct call *call = &source->calls[source->call_count];
        call->source = source;
        if (nng_ctx_open(&call->ctx, source->socket) != 0)
            return eng_fail(ENG_NO_MEMORY, "listen on %s: no memory for contexts", url);
        if (nng_aio_alloc(&call->aio, call_event, call) != 0) {
            nng_ctx_close(call->ctx);
            return eng_fail(ENG_NO_MEMORY, "listen on %s: no memory for contexts", url);
        }
        nng_aio_set_timeout(call->aio, NNG_DURATION_INFINITE);
    }
    for (; source->worker_count < SOURCE_WORKERS; source->worker_count++) {
        if (pthread_create(&source->workers[source->worker_count], NULL, worker_main, source) != 0)
            return eng_fail(ENG_NO_MEMORY, "listen on %s: cannot start a thread", url);
    }
    if (pthread_create(&source->poller, NULL, poller_main, source) != 0)
        return eng_fail(ENG_NO_MEMORY, "listen on %s: cannot start a thread", url);
    source->poller_runs = true;
    for (size_t i = 0; i < source->call_count; i++)
        call_receive(&source->calls[i]);
    return ENG_OK;
}

enum eng_status source_open(const struct replication_ledger *ledger, const char *url, struct source **out)
{
    assert(ledger->genesis_bytes <= REPLICATION_GENESIS_BYTES_MAX);
    *out = NULL;
    struct source *source = calloc(1, sizeof *source);
    if (!source)
        return eng_fail(ENG_NO_MEMORY, "listen on %s: no memory", url);
    source->ledger = *ledger;
    source->tail = &source->head;
    pthread_mutex_init(&source->lock, NULL);
    pthread_cond_init(&source->work, NULL);
    pthread_cond_init(&source->poll, NULL);
    enum eng_status status = source_listen(source, url);
    if (status == ENG_OK)
        status = source_start(source, url);
    if (status != ENG_OK)
        source_close(&source);
    *out = source;
    return status;
}

static bool call_is_busy(const struct call *call)
{
    return call->state != CALL_IDLE && call->state != CALL_RECEIVING;
}

/* Is anybody connected? *busy: requests are in hand. Under the lock. */
static bool connected(const struct source *source, bool *busy)
{
    bool any = false;
    *busy = false;
    for (size_t i = 0; i < SOURCE_PIPES_MAX; i++)
        any |= source->pipes[i].id != 0;
    for (size_t i = 0; i < source->call_count; i++)
        *busy |= call_is_busy(&source->calls[i]);
    return any;
}

/* Tells all followers to rest, so that nothing arrives while the connections are closed (close.h says why). */
static void source_drain(struct source *source)
{
    const struct timespec turn = {.tv_nsec = 2000000};
    pthread_mutex_lock(&source->lock);
    source->stopping = true;
    for (size_t i = 0; i < source->call_count; i++) {
        if (source->calls[i].state == CALL_WAITING)
            call_queue(&source->calls[i]);
    }
    uint64_t start = clock_ms(), quiet = start, now = start;
    bool busy;
    while (source->worker_count && connected(source, &busy) && now - start < SOURCE_DRAIN_MS) {
        quiet = busy ? now : quiet;
        if (now - quiet >= SOURCE_QUIET_MS)
            break;
        pthread_mutex_unlock(&source->lock);
        nanosleep(&turn, NULL);
        pthread_mutex_lock(&source->lock);
        now = clock_ms();
    }
    pthread_mutex_unlock(&source->lock);
}

void source_close(struct source **closed)
{
    struct source *source = *closed;
    if (!source)
        return;
    *closed = NULL;
    source_drain(source);
    pthread_mutex_lock(&source->lock);
    source->closing = true; /* from here on nobody starts an operation */
    pthread_cond_broadcast(&source->work);
    pthread_cond_broadcast(&source->poll);
    pthread_mutex_unlock(&source->lock);
    for (size_t i = 0; i < source->worker_count; i++)
        pthread_join(source->workers[i], NULL);
    if (source->poller_runs)
        pthread_join(source->poller, NULL);
    for (size_t i = 0; i < source->call_count; i++) {
        nng_aio_stop(source->calls[i].aio); /* waits for call_event */
        nng_ctx_close(source->calls[i].ctx);
        nng_msg_free(source->calls[i].message);
    }
    if (source->socket_open && !socket_close(source->socket)) /* waits for pipe_event */
        return;                                               /* which may still come */
    for (size_t i = 0; i < source->call_count; i++)
        nng_aio_free(source->calls[i].aio);
    pthread_cond_destroy(&source->work);
    pthread_cond_destroy(&source->poll);
    pthread_mutex_destroy(&source->lock);
    free(source);
}

size_t source_followers(struct source *source, struct source_follower *followers, size_t max)
{
    uint64_t now = clock_ms();
    size_t count = 0;
    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < REPLICATION_FOLLOWERS_MAX && count < max; i++) {
        const struct known_follower *known = &source->known[i];
        uint64_t ago = now > known->seen_ms ? now - known->seen_ms : 0;
        if (!known->seen_ms || ago > SOURCE_SEEN_MS)
            continue;
        memcpy(followers[count].node_key, known->node_key, 32);
        followers[count].durable_height = known->durable;
        followers[count].seen_ms = ago;
        count++;
    }
    pthread_mutex_unlock(&source->lock);
    return count;
}
