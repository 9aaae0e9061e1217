/*
 * The socket of the IPC server: REP of the scalability protocols over a Unix stream socket, spoken by hand.
 *
 *   on connecting, both sides    00 'S' 'P' 00 | u16 BE protocol (REQ 0x30, REP 0x31) | 00 00
 *   a message, both ways         01 | u64 BE size of the rest | header | body
 *   header                       words of 4 bytes, the last one with its highest bit set (the request's id); the reply
 *                                repeats the header of its request
 *
 * That is what nng and nanomsg speak on ipc://, so any REQ client of theirs can talk to it. The server does not use
 * nng's REP here because of a fault of 1.5: when a connection breaks while more requests are arriving on it, its reaper
 * thread waits for ever for a receive that was dropped; no connection is ever freed again after that, and nng_close
 * hangs (README.md has how to see it).
 *
 * One thread, nonblocking sockets, epoll. Happy path of a request: the frame's head arrives; a free request and the
 * room for its bytes are taken, or the connection is not read until there are some; the body arrives; server_dispatch;
 * some thread answers (server_answer puts it into the list of answers and wakes this thread); the frame is sent.
 *
 * Ways to fail: a wrong greeting, a frame over PROTOCOL_REQUEST_BYTES_MAX or without a header, an error of the socket:
 * the connection is closed, its requests are finished and their answers dropped. A connection with answers to take that
 * takes neither one nor PROTOCOL_PROGRESS_BYTES of one in PROTOCOL_SEND_MS is closed. Too many connections: new ones
 * are closed at once. No file descriptors: accepting pauses for a moment.
 *
 * Invariants: a connection is freed when it is closed and none of its requests is out; at most PROTOCOL_PER_CONNECTION
 * of them are, so that one client cannot take all; per connection, requests are dispatched in the order of arrival.
 */
#include "server_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING_BYTES 8u
#define PROTOCOL_REQ 0x30
#define PROTOCOL_REP 0x31
#define EVENTS_MAX 64
#define MESSAGES_A_TURN 16 /* of one connection before the others get theirs */
#define TICK_MS 500        /* how often stuck connections are looked for */
#define ACCEPT_PAUSE_MS 100

/* ---- requests ---- */

/* A free request with room for a message of this size, or NULL: not now. */
static struct request *take_request(struct server *server, struct connection *connection, size_t size)
{
    struct request *request = server->free;
    if (!request || connection->requests >= PROTOCOL_PER_CONNECTION ||
        (server->active && server->work_bytes + size > PROTOCOL_WORK_BYTES_MAX))
        return NULL;
    request->message = malloc(size);
    if (!request->message)
        return NULL;
    assert(request->state == REQUEST_FREE);
    server->free = request->next;
    server->active++;
    server->work_bytes += size;
    request->state = REQUEST_RECEIVING;
    request->message_bytes = size;
    request->connection = connection;
    connection->requests++;
    return request;
}

static void give_request_back(struct server *server, struct request *request)
{
    assert(request->connection->requests > 0 && server->active > 0);
    request->connection->requests--;
    server->active--;
    server->work_bytes -= request->message_bytes;
    free(request->message);
    request->message = NULL;
    request->connection = NULL;
    request->state = REQUEST_FREE;
    request->next = server->free;
    server->free = request;
}

/* ---- connections ---- */

static void drop_replies(struct server *server, struct connection *connection)
{
    size_t dropped = 0;
    while (connection->first) {
        struct reply *reply = connection->first;
        connection->first = reply->next;
        dropped += reply->size;
        free(reply);
    }
    connection->last = NULL;
    pthread_mutex_lock(&server->lock);
    server->reply_bytes -= dropped;
    connection->owed -= dropped;
    pthread_cond_broadcast(&server->read_work);
    pthread_mutex_unlock(&server->lock);
}

static void free_if_done(struct server *server, struct connection *connection)
{
    if (connection->file >= 0 || connection->requests > 0)
        return;
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    free(connection);
}

/* The caller does not touch it any more, except through the list. */
static void close_connection(struct server *server, struct connection *connection)
{
    if (connection->file < 0)
        return;
    close(connection->file);
    connection->file = -1;
    server->sweep = true;
    server->connection_count--;
    drop_replies(server, connection);
    if (connection->receiving)
        give_request_back(server, connection->receiving);
    connection->receiving = NULL;
}

/* Tells epoll what is waited for now. */
static void watch(struct server *server, struct connection *connection, bool readable)
{
    uint32_t events = (readable ? EPOLLIN : 0) | (connection->first ? EPOLLOUT : 0);
    if (connection->file < 0 || events == connection->events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    int done = epoll_ctl(server->poll, EPOLL_CTL_MOD, connection->file, &event);
    assert(done == 0);
    (void)done;
    connection->events = events;
}

static void enqueue(struct connection *connection, struct reply *reply)
{
    reply->next = NULL;
    if (!connection->first) {
        connection->progress_ms = status_clock_ms();
        connection->taken = 0;
    }
    if (connection->last)
        connection->last->next = reply;
    else
        connection->first = reply;
    connection->last = reply;
}

static void accept_one(struct server *server, int file)
{
    static const uint8_t greeting[GREETING_BYTES] = {0, 'S', 'P', 0, 0, PROTOCOL_REP, 0, 0};
    struct connection *connection = calloc(1, sizeof *connection);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    /* The greeting fits the buffer of a new socket. */
    if (!connection || server->connection_count >= PROTOCOL_CONNECTIONS_MAX ||
        send(file, greeting, sizeof greeting, MSG_NOSIGNAL) != (ssize_t)sizeof greeting ||
        epoll_ctl(server->poll, EPOLL_CTL_ADD, file, &event) != 0) {
        free(connection);
        close(file);
        return;
    }
    connection->file = file;
    connection->events = EPOLLIN;
    connection->next = server->connections;
    if (connection->next)
        connection->next->previous = connection;
    server->connections = connection;
    server->connection_count++;
}

static void accept_all(struct server *server)
{
    for (;;) {
        int file = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (file >= 0) {
            accept_one(server, file);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN) /* out of file descriptors or memory: level-triggered, so look away for a moment */
            server->accept_paused =
                epoll_ctl(server->poll, EPOLL_CTL_DEL, server->listener, &(struct epoll_event){0}) == 0;
        return;
    }
}

static void resume_accept(struct server *server)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &server->listener};
    if (server->accept_paused && epoll_ctl(server->poll, EPOLL_CTL_ADD, server->listener, &event) == 0)
        server->accept_paused = false;
}

/* ---- reading ---- */

static uint64_t get_u64_big_endian(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* Splits the header off a whole message; false: it has none. */
static bool split_header(struct request *request)
{
    size_t at = 0;
    do {
        if (at + 4 > request->message_bytes || at + 4 > SERVER_TRACE_BYTES_MAX)
            return false;
        memcpy(request->trace + at, request->message + at, 4);
        at += 4;
    } while (!(request->trace[at - 4] & 0x80));
    request->trace_bytes = at;
    return true;
}

enum reading { READ_MORE, READ_LATER, READ_CLOSE };

/* Takes one step: a part of a head or of a body. READ_LATER: nothing more to read now, or no room for it. */
static enum reading read_part(struct server *server, struct connection *connection, unsigned *messages)
{
    uint8_t *into = connection->receiving ? connection->receiving->message + connection->received
                                          : connection->head + connection->head_bytes;
    size_t head_size = connection->greeted ? FRAME_HEAD_BYTES : GREETING_BYTES;
    size_t want = connection->receiving ? connection->receiving->message_bytes - connection->received
                                        : head_size - connection->head_bytes;
    ssize_t got = want ? recv(connection->file, into, want, 0) : 0;
    if (want && got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR) ? READ_LATER : READ_CLOSE;
    if (!connection->receiving) {
        connection->head_bytes += (size_t)got;
        if (connection->head_bytes < head_size)
            return READ_MORE;
        if (!connection->greeted) {
            static const uint8_t expected[GREETING_BYTES] = {0, 'S', 'P', 0, 0, PROTOCOL_REQ, 0, 0};
            connection->greeted = true;
            connection->head_bytes = 0;
            return memcmp(connection->head, expected, sizeof expected) == 0 ? READ_MORE : READ_CLOSE;
        }
        uint64_t size = get_u64_big_endian(connection->head + 1);
        if (connection->head[0] != 1 || size < 4 || size > PROTOCOL_REQUEST_BYTES_MAX)
            return READ_CLOSE;
        connection->receiving = take_request(server, connection, (size_t)size);
        if (!connection->receiving) {
            server->starved = true; /* the head stays, complete; tried again when a request is free */
            return READ_LATER;
        }
        connection->received = 0;
        connection->head_bytes = 0;
        connection->received_ms = status_clock_ms();
        return READ_MORE;
    }
    connection->received += (size_t)got;
    connection->received_ms = status_clock_ms();
    if (connection->received < connection->receiving->message_bytes)
        return READ_MORE;
    struct request *request = connection->receiving;
    if (!split_header(request))
        return READ_CLOSE;
    connection->receiving = NULL;
    request->state = REQUEST_WORKING;
    ++*messages;
    server_dispatch(request);
    return READ_MORE;
}

static bool waits_for_request(const struct connection *connection)
{
    return connection->greeted && connection->head_bytes == FRAME_HEAD_BYTES;
}

static void read_connection(struct server *server, struct connection *connection)
{
    unsigned messages = 0;
    enum reading reading;
    do
        reading = read_part(server, connection, &messages);
    while (reading == READ_MORE && messages < MESSAGES_A_TURN);
    if (reading == READ_CLOSE)
        close_connection(server, connection);
    watch(server, connection, !waits_for_request(connection));
}

/* ---- writing ---- */

static void write_connection(struct server *server, struct connection *connection)
{
    while (connection->first) {
        struct reply *reply = connection->first;
        ssize_t part =
            send(connection->file, reply->bytes + connection->sent, reply->size - connection->sent, MSG_NOSIGNAL);
        if (part < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (part < 0) {
            close_connection(server, connection);
            return;
        }
        connection->sent += (size_t)part;
        connection->taken += (size_t)part;
        if (connection->sent == reply->size || connection->taken >= PROTOCOL_PROGRESS_BYTES) {
            connection->progress_ms = status_clock_ms();
            connection->taken = 0;
        }
        if (connection->sent < reply->size)
            continue;
        connection->first = reply->next;
        if (!connection->first)
            connection->last = NULL;
        connection->sent = 0;
        pthread_mutex_lock(&server->lock);
        server->reply_bytes -= reply->size;
        connection->owed -= reply->size;
        pthread_cond_broadcast(&server->read_work);
        pthread_mutex_unlock(&server->lock);
        free(reply);
    }
    watch(server, connection, connection->events & EPOLLIN);
}

/* Takes what was answered: frees the requests, sends the replies. */
static void take_answers(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    struct request *list = server->answers.head;
    server->answers = (struct request_queue){0};
    pthread_mutex_unlock(&server->lock);
    while (list) {
        struct request *request = list;
        list = request->next;
        struct connection *connection = request->connection;
        struct reply *reply = request->reply;
        assert(request->state == REQUEST_ANSWERED);
        request->reply = NULL;
        give_request_back(server, request);
        if (!reply) {
            close_connection(server, connection); /* there was no memory to answer */
        } else {
            bool alone = !connection->first;
            enqueue(connection, reply);
            if (connection->file < 0)
                drop_replies(server, connection);
            else if (alone)
                write_connection(server, connection);
        }
        free_if_done(server, connection);
    }
}

/* Reads on where a connection waited for a free request. */
static void feed_starved(struct server *server)
{
    server->starved = false;
    for (struct connection *connection = server->connections, *next; connection; connection = next) {
        next = connection->next;
        if (connection->file >= 0 && waits_for_request(connection) && !connection->receiving)
            read_connection(server, connection);
        free_if_done(server, connection);
    }
}

static void close_stuck(struct server *server, uint64_t now_ms)
{
    for (struct connection *connection = server->connections, *next; connection; connection = next) {
        next = connection->next;
        bool takes_nothing = connection->first && now_ms - connection->progress_ms > PROTOCOL_SEND_MS;
        bool sends_nothing = connection->receiving && now_ms - connection->received_ms > PROTOCOL_SEND_MS;
        if (connection->file >= 0 && (takes_nothing || sends_nothing))
            close_connection(server, connection);
        free_if_done(server, connection);
    }
}

/* ---- the thread ---- */

static void stop_receiving(struct server *server)
{
    if (server->listener >= 0) {
        close(server->listener);
        unlink(server->path);
        server->listener = -1;
    }
    for (struct connection *connection = server->connections; connection; connection = connection->next) {
        if (connection->receiving)
            give_request_back(server, connection->receiving);
        connection->receiving = NULL;
        watch(server, connection, false);
    }
}

/* True when the thread is to end. */
static bool look_at_flags(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    bool stopping = server->stopping, end = server->end_socket;
    pthread_mutex_unlock(&server->lock);
    if (!stopping)
        return false;
    stop_receiving(server);
    bool unsent = false;
    for (const struct connection *connection = server->connections; connection; connection = connection->next)
        unsent |= connection->first != NULL;
    pthread_mutex_lock(&server->lock);
    server->drained = server->active == 0 && !unsent;
    if (server->drained)
        pthread_cond_broadcast(&server->idle);
    pthread_mutex_unlock(&server->lock);
    return end;
}

static void handle(struct server *server, const struct epoll_event *event, bool stopping)
{
    if (event->data.ptr == &server->listener) {
        if (!stopping)
            accept_all(server);
        return;
    }
    if (event->data.ptr == &server->wake) {
        uint64_t count;
        ssize_t got = read(server->wake, &count, sizeof count);
        (void)got; /* nothing there: somebody else's wake was taken before */
        return;
    }
    struct connection *connection = event->data.ptr;
    if (event->events & EPOLLOUT)
        write_connection(server, connection);
    if (connection->file >= 0 && (event->events & EPOLLIN) && !stopping)
        read_connection(server, connection);
    else if (event->events & (EPOLLHUP | EPOLLERR))
        close_connection(server, connection);
}

void *server_socket_main(void *context)
{
    struct server *server = context;
    uint64_t looked_ms = status_clock_ms();
    while (!look_at_flags(server)) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(server->poll, events, EVENTS_MAX, server->accept_paused ? ACCEPT_PAUSE_MS : TICK_MS);
        bool stopping = server->listener < 0;
        for (int i = 0; i < count; i++)
            handle(server, &events[i], stopping);
        take_answers(server);
        if (!stopping) {
            resume_accept(server);
            if (server->starved)
                feed_starved(server);
        }
        uint64_t now_ms = status_clock_ms();
        if (now_ms - looked_ms >= TICK_MS || count == EVENTS_MAX) {
            looked_ms = now_ms;
            close_stuck(server, now_ms);
        }
        /* Freed only here: events of this round may still have named them above. */
        bool sweep = server->sweep;
        server->sweep = false;
        for (struct connection *connection = sweep ? server->connections : NULL, *next; connection; connection = next) {
            next = connection->next;
            free_if_done(server, connection);
        }
    }
    return NULL;
}

void server_socket_wake(struct server *server)
{
    const uint64_t one = 1;
    ssize_t done = write(server->wake, &one, sizeof one);
    (void)done; /* full: it is awake anyway */
}

/* ---- open and close ---- */

/* A socket file that nobody listens on is left over from a daemon that was killed. */
static bool remove_stale(const struct sockaddr_un *address)
{
    struct stat facts;
    int file = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool stale = file >= 0 && lstat(address->sun_path, &facts) == 0 && S_ISSOCK(facts.st_mode) &&
                 connect(file, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED &&
                 unlink(address->sun_path) == 0;
    if (file >= 0)
        close(file);
    return stale;
}

/* Bound, given its mode, then listening: nobody can connect before the mode is right. */
static bool listen_on(struct server *server, const struct sockaddr_un *address, unsigned socket_mode)
{
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server->listener < 0)
        return false;
    const struct sockaddr *name = (const struct sockaddr *)address;
    if (bind(server->listener, name, sizeof *address) != 0 &&
        (errno != EADDRINUSE || !remove_stale(address) || bind(server->listener, name, sizeof *address) != 0)) {
        if (errno == ECONNREFUSED || errno == ENOENT)
            errno = EADDRINUSE;
        return false;
    }
    server->path = strdup(address->sun_path);
    return server->path && chmod(address->sun_path, socket_mode) == 0 && listen(server->listener, SOMAXCONN) == 0;
}

enum eng_status server_socket_open(struct server *server, const char *url, unsigned socket_mode)
{
    server->listener = server->poll = server->wake = -1;
    enum eng_status status = protocol_check_url(url);
    if (status != ENG_OK)
        return status;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, url + strlen("ipc://")); /* its length was checked */
    if (!listen_on(server, &address, socket_mode))
        return eng_fail(ENG_IO, "%s: cannot listen: %s", url, strerror(errno));
    server->poll = epoll_create1(EPOLL_CLOEXEC);
    server->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event listener = {.events = EPOLLIN, .data.ptr = &server->listener};
    struct epoll_event wake = {.events = EPOLLIN, .data.ptr = &server->wake};
    if (server->poll < 0 || server->wake < 0 ||
        epoll_ctl(server->poll, EPOLL_CTL_ADD, server->listener, &listener) != 0 ||
        epoll_ctl(server->poll, EPOLL_CTL_ADD, server->wake, &wake) != 0)
        return eng_fail(ENG_IO, "%s: cannot wait for connections: %s", url, strerror(errno));
    return ENG_OK;
}

void server_socket_close(struct server *server)
{
    while (server->connections) {
        struct connection *connection = server->connections;
        close_connection(server, connection);
        connection->requests = 0; /* no thread is left that could answer */
        free_if_done(server, connection);
    }
    if (server->listener >= 0)
        close(server->listener);
    if (server->path && server->listener >= 0)
        unlink(server->path);
    if (server->poll >= 0)
        close(server->poll);
    if (server->wake >= 0)
        close(server->wake);
    free(server->path);
}
