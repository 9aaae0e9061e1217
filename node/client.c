/*
 * libpando over a Unix socket (client.h is the manual): REQ of the scalability protocols spoken by hand, the other side
 * of server_socket.c, which has the bytes.
 *
 * Happy path: connect, exchange greetings; send writes a frame with the id of a free call; receive reads frames until
 * the one of its call is there, keeping those of other calls for their receive.
 *
 * Sending and receiving go hand in hand: while the socket takes no more bytes, answers are read, so that node and
 * client never wait for each other with full buffers.
 *
 * Ways to fail: no socket or nobody behind it (ENG_CLOSED); the connection breaks, or a frame is malformed or over
 * PROTOCOL_REPLY_BYTES_MAX: the connection is closed and every open call fails with ENG_IO at its receive; no answer in
 * time (ENG_TIMEOUT): the call ends, a late answer is dropped when it comes.
 *
 * Invariants: id = generation * PANDO_CALLS_MAX + slot, the generation grows with every use of a slot, so an answer to
 * an old call never reaches a new one. A call belongs to the connection (serial) it was sent on.
 */
#include "client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PANDO_MAGIC 0x50434c49u
#define FRAME_BYTES 13u /* 01, u64 size, u32 id */
#define SMALL_BYTES 2048u
#define SEND_TIMEOUT_MS 60000
#define RECONNECT_STEP_MS 50
#define ID_MAX 0x7fffffffu

struct pando_call {
    struct pando *pando;
    bool open, answered;
    uint32_t id;
    uint64_t serial; /* of the connection it was sent on */
    uint8_t *answer;
    size_t answer_bytes;
};

struct pando {
    unsigned magic;
    int file; /* -1: not connected */
    uint64_t serial;
    bool broken;
    uint32_t generation;
    struct pando_call calls[PANDO_CALLS_MAX];
    uint8_t head[FRAME_BYTES]; /* of the frame being read */
    size_t head_bytes, body_bytes, body_size;
    uint8_t *body;
    struct sockaddr_un address;
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the connection ---- */

static void drop_connection(struct pando *pando)
{
    if (pando->file >= 0)
        close(pando->file);
    pando->file = -1;
    free(pando->body);
    pando->body = NULL;
    pando->head_bytes = 0;
}

static enum eng_status lost(struct pando *pando, const char *why)
{
    drop_connection(pando);
    pando->broken = true;
    return eng_fail(ENG_IO, "ipc://%s: the connection broke: %s", pando->address.sun_path, why);
}

/* Waits for events until deadline_ms (0: for ever). ENG_TIMEOUT. */
static enum eng_status wait_for(struct pando *pando, short events, uint64_t deadline_ms, short *got)
{
    for (;;) {
        uint64_t now = now_ms();
        int left_ms = deadline_ms == 0 ? -1 : deadline_ms > now ? (int)(deadline_ms - now) : 0;
        struct pollfd ready = {.fd = pando->file, .events = events};
        int count = poll(&ready, 1, left_ms);
        if (count > 0) {
            *got = ready.revents;
            return ENG_OK;
        }
        if (count < 0 && errno != EINTR)
            return lost(pando, strerror(errno));
        if (count == 0) {
            pando->broken = true;
            return eng_fail(ENG_TIMEOUT, "ipc://%s: no answer in time", pando->address.sun_path);
        }
    }
}

/* Exactly size bytes, before deadline_ms. */
static enum eng_status take_greeting(struct pando *pando, uint8_t *bytes, size_t size, uint64_t deadline_ms)
{
    for (size_t at = 0; at < size;) {
        ssize_t part = recv(pando->file, bytes + at, size - at, 0);
        if (part == 0 || (part < 0 && errno != EAGAIN && errno != EINTR))
            return lost(pando, part == 0 ? "closed by the node" : strerror(errno));
        short got;
        enum eng_status status = part < 0 ? wait_for(pando, POLLIN, deadline_ms, &got) : ENG_OK;
        if (status != ENG_OK)
            return status;
        at += part > 0 ? (size_t)part : 0;
    }
    return ENG_OK;
}

/* Once. */
static enum eng_status try_connect(struct pando *pando)
{
    static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0}, expected[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
    uint8_t theirs[8];
    pando->file = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pando->file < 0)
        return eng_fail(ENG_IO, "ipc://%s: %s", pando->address.sun_path, strerror(errno));
    if (connect(pando->file, (const struct sockaddr *)&pando->address, sizeof pando->address) != 0) {
        bool nobody = errno == ECONNREFUSED || errno == ENOENT;
        enum eng_status status = eng_fail(nobody ? ENG_CLOSED : ENG_IO, "ipc://%s: %s", pando->address.sun_path,
                                          nobody ? "no node answers there" : strerror(errno));
        drop_connection(pando);
        return status;
    }
    pando->serial++;
    if (send(pando->file, greeting, sizeof greeting, MSG_NOSIGNAL) != (ssize_t)sizeof greeting)
        return lost(pando, strerror(errno));
    enum eng_status status = take_greeting(pando, theirs, sizeof theirs, now_ms() + PANDO_RECONNECT_MS);
    if (status == ENG_OK && memcmp(theirs, expected, sizeof expected) != 0) {
        drop_connection(pando);
        status = eng_fail(ENG_IO, "ipc://%s: what answers there is no node", pando->address.sun_path);
    }
    if (status != ENG_OK)
        drop_connection(pando);
    return status;
}

/* After a broken connection: until the node is back or PANDO_RECONNECT_MS have passed. */
static enum eng_status connect_again(struct pando *pando)
{
    uint64_t deadline_ms = now_ms() + PANDO_RECONNECT_MS;
    for (;;) {
        enum eng_status status = try_connect(pando);
        if (status == ENG_OK || now_ms() >= deadline_ms)
            return status;
        nanosleep(&(struct timespec){0, RECONNECT_STEP_MS * 1000000L}, NULL);
    }
}

enum eng_status pando_connect(const char *url, struct pando **out)
{
    *out = NULL;
    enum eng_status status = protocol_check_url(url);
    if (status != ENG_OK)
        return status;
    struct pando *pando = calloc(1, sizeof *pando);
    if (!pando)
        return eng_fail(ENG_NO_MEMORY, "%s: no memory for a connection", url);
    pando->magic = PANDO_MAGIC;
    pando->address.sun_family = AF_UNIX;
    strcpy(pando->address.sun_path, url + strlen("ipc://")); /* its length was checked */
    status = try_connect(pando);
    if (status != ENG_OK) {
        free(pando);
        return status;
    }
    *out = pando;
    return ENG_OK;
}

void pando_disconnect(struct pando **pando_pointer)
{
    struct pando *pando = *pando_pointer;
    if (!pando)
        return;
    assert(pando->magic == PANDO_MAGIC);
    for (unsigned i = 0; i < PANDO_CALLS_MAX; i++)
        assert(!pando->calls[i].open);
    drop_connection(pando);
    pando->magic = 0;
    free(pando);
    *pando_pointer = NULL;
}

/* ---- frames ---- */

/* Gives a whole frame to the call it answers; an answer nobody waits for is dropped. */
static void deliver(struct pando *pando)
{
    uint32_t id = 0;
    for (int i = 0; i < 4; i++)
        id = id << 8 | pando->head[9 + i];
    struct pando_call *call = &pando->calls[id % PANDO_CALLS_MAX];
    if (call->open && !call->answered && (call->id | 0x80000000u) == id && call->serial == pando->serial) {
        call->answer = pando->body;
        call->answer_bytes = pando->body_size;
        call->answered = true;
    } else {
        free(pando->body);
    }
    pando->body = NULL;
    pando->head_bytes = 0;
}

/* The head is complete: makes room for the body. */
static enum eng_status begin_body(struct pando *pando)
{
    uint64_t size = 0;
    for (int i = 0; i < 8; i++)
        size = size << 8 | pando->head[1 + i];
    if (pando->head[0] != 1 || size < 4 || size > PROTOCOL_REPLY_BYTES_MAX)
        return lost(pando, "a malformed or oversized answer");
    pando->body_size = (size_t)size - 4;
    pando->body_bytes = 0;
    pando->body = malloc(pando->body_size + 1);
    return pando->body ? ENG_OK : lost(pando, "no memory for an answer");
}

/* Reads what is there, without blocking. */
static enum eng_status read_frames(struct pando *pando)
{
    for (;;) {
        uint8_t *into = pando->body ? pando->body + pando->body_bytes : pando->head + pando->head_bytes;
        size_t want = pando->body ? pando->body_size - pando->body_bytes : FRAME_BYTES - pando->head_bytes;
        ssize_t part = want ? recv(pando->file, into, want, MSG_DONTWAIT) : 0;
        if (part < 0 && (errno == EAGAIN || errno == EINTR))
            return ENG_OK;
        if (want && part <= 0)
            return lost(pando, part == 0 ? "closed by the node" : strerror(errno));
        if (pando->body) {
            pando->body_bytes += (size_t)part;
        } else {
            pando->head_bytes += (size_t)part;
            if (pando->head_bytes == FRAME_BYTES) {
                enum eng_status status = begin_body(pando);
                if (status != ENG_OK)
                    return status;
            }
        }
        if (pando->body && pando->body_bytes == pando->body_size)
            deliver(pando);
    }
}

/* Writes all of it, reading answers whenever the socket is full. */
static enum eng_status write_all(struct pando *pando, const uint8_t *bytes, size_t size)
{
    uint64_t deadline_ms = now_ms() + SEND_TIMEOUT_MS;
    for (size_t at = 0; at < size;) {
        ssize_t part = send(pando->file, bytes + at, size - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (part > 0) {
            at += (size_t)part;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return lost(pando, strerror(errno));
        short got;
        enum eng_status status = wait_for(pando, POLLIN | POLLOUT, deadline_ms, &got);
        if (status == ENG_OK && (got & POLLIN))
            status = read_frames(pando);
        if (status != ENG_OK) {
            drop_connection(pando); /* half a frame may be out */
            return status;
        }
    }
    return ENG_OK;
}

/* ---- calls ---- */

void pando_cancel(struct pando_call **call_pointer)
{
    struct pando_call *call = *call_pointer;
    if (!call)
        return;
    assert(call->pando->magic == PANDO_MAGIC && call->open);
    free(call->answer);
    call->answer = NULL;
    call->open = call->answered = false;
    *call_pointer = NULL;
}

static bool any_open(const struct pando *pando)
{
    for (unsigned i = 0; i < PANDO_CALLS_MAX; i++)
        if (pando->calls[i].open)
            return true;
    return false;
}

enum eng_status pando_send(struct pando *pando, const struct protocol_writer *request, struct pando_call **out)
{
    assert(pando->magic == PANDO_MAGIC);
    *out = NULL;
    pando->broken = false;
    if (request->failed)
        return eng_fail(ENG_NO_MEMORY, "request: no memory for it");
    if (request->size + 4 > PROTOCOL_REQUEST_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "request: %zu bytes, at most %u can be sent", request->size,
                        PROTOCOL_REQUEST_BYTES_MAX - 4);
    unsigned slot = 0;
    while (slot < PANDO_CALLS_MAX && pando->calls[slot].open)
        slot++;
    if (slot == PANDO_CALLS_MAX)
        return eng_fail(ENG_BUSY, "request: %u are in flight already", PANDO_CALLS_MAX);
    /* On a new connection it would overtake the calls that the old one has lost, which their owner sends again. */
    bool lost_calls = pando->file < 0 && any_open(pando);
    enum eng_status status = pando->file < 0 && !lost_calls ? connect_again(pando) : ENG_OK;
    if (status != ENG_OK)
        return status;
    struct pando_call *call = &pando->calls[slot];
    pando->generation = (pando->generation + 1) % (ID_MAX / PANDO_CALLS_MAX);
    *call = (struct pando_call){
        .pando = pando, .open = true, .id = pando->generation * PANDO_CALLS_MAX + slot, .serial = pando->serial};
    if (lost_calls) {
        pando->broken = true;
        *out = call; /* pando_receive tells */
        return ENG_OK;
    }
    uint8_t head[SMALL_BYTES] = {1}; /* a small request goes out whole, in one call */
    uint64_t size = request->size + 4;
    for (int i = 0; i < 8; i++)
        head[1 + i] = (uint8_t)(size >> (8 * (7 - i)));
    for (int i = 0; i < 4; i++)
        head[9 + i] = (uint8_t)((call->id | 0x80000000u) >> (8 * (3 - i)));
    size_t along = request->size <= sizeof head - FRAME_BYTES ? request->size : 0;
    memcpy(head + FRAME_BYTES, request->bytes, along);
    status = write_all(pando, head, FRAME_BYTES + along);
    if (status == ENG_OK && along < request->size)
        status = write_all(pando, request->bytes + along, request->size - along);
    if (status != ENG_OK && !pando->broken) {
        pando_cancel(&call);
        return status;
    }
    *out = call; /* a connection that broke meanwhile is told by pando_receive */
    return ENG_OK;
}

enum eng_status pando_receive(struct pando_call **call_pointer, int timeout_ms, struct pando_reply *reply)
{
    struct pando_call *call = *call_pointer;
    struct pando *pando = call->pando;
    assert(pando->magic == PANDO_MAGIC && call->open);
    *reply = (struct pando_reply){0};
    pando->broken = false;
    uint64_t deadline_ms = timeout_ms < 0 ? 0 : now_ms() + (uint64_t)timeout_ms + 1;
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && !call->answered) {
        short got;
        if (pando->file < 0 || call->serial != pando->serial) {
            pando->broken = true;
            status = eng_fail(ENG_IO, "ipc://%s: the connection broke before the answer", pando->address.sun_path);
        } else if ((status = wait_for(pando, POLLIN, deadline_ms, &got)) == ENG_OK) {
            status = read_frames(pando);
            if (call->answered)
                status = ENG_OK;
        }
    }
    uint8_t *answer = call->answer;
    size_t answer_bytes = call->answer_bytes;
    call->answer = NULL;
    pando_cancel(call_pointer);
    if (status != ENG_OK)
        return status;
    pando->broken = false;
    status = protocol_reply_open(answer, answer_bytes, &reply->body);
    if (status != ENG_OK) {
        free(answer);
        *reply = (struct pando_reply){0};
        return status;
    }
    reply->message = answer;
    return ENG_OK;
}

void pando_reply_release(struct pando_reply *reply)
{
    free(reply->message);
    *reply = (struct pando_reply){0};
}

enum eng_status pando_request(struct pando *pando, const struct protocol_writer *request, int timeout_ms,
                              struct pando_reply *reply)
{
    struct pando_call *call;
    *reply = (struct pando_reply){0};
    enum eng_status status = pando_send(pando, request, &call);
    return status == ENG_OK ? pando_receive(&call, timeout_ms, reply) : status;
}

bool pando_broken(const struct pando *pando)
{
    return pando->broken;
}
