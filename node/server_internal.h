/*
 * Shared by the parts of the server: server.c (queues, threads), server_socket.c (the socket and its connections),
 * server_write.c (submit, import) and server_read.c (everything else).
 *
 * A request goes through these states; nothing else is allowed:
 *
 *     FREE ──► RECEIVING ──► WORKING ──► ANSWERED ──► FREE          RECEIVING ──► FREE when its connection closes
 *
 * FREE and RECEIVING belong to the socket thread, WORKING to one worker or to the submission or import that collects
 * its results, ANSWERED (in the list of answers) to the socket thread again. server->lock guards the queues, the list
 * of answers and what stands below it; everything above it is the socket thread's own.
 */
#ifndef NODE_SERVER_INTERNAL_H
#define NODE_SERVER_INTERNAL_H

#include "protocol.h"
#include "server.h"

#include <pthread.h>
#include <stdatomic.h>

#define FRAME_HEAD_BYTES 9u
#define SERVER_TRACE_BYTES_MAX 36u /* of a request's header on the wire: at most 8 hops and the id */

enum request_state { REQUEST_FREE, REQUEST_RECEIVING, REQUEST_WORKING, REQUEST_ANSWERED };

/* An answer on its way out; bytes are a whole frame. */
struct reply {
    struct reply *next;
    size_t size;
    uint8_t bytes[];
};

/* The socket thread's own, but for what stands at its end. Freed when it is closed and none of its requests is out. */
struct connection {
    struct connection *next, *previous;
    int file; /* -1: closed */
    uint8_t head[FRAME_HEAD_BYTES];
    size_t head_bytes;
    bool greeted;
    struct request *receiving;
    size_t received;
    unsigned requests; /* out: received and not answered */
    struct reply *first, *last;
    size_t sent;          /* of the first */
    size_t taken;         /* since progress_ms */
    uint64_t progress_ms; /* when an answer was taken, or PROTOCOL_PROGRESS_BYTES of one */
    uint64_t received_ms; /* when something came of the message that is being received */
    uint32_t events;      /* as epoll knows them */
    /* under server->lock */
    size_t owed;      /* bytes of answers made and not yet sent */
    unsigned reading; /* requests that a reader works on */
};

struct request {
    struct server *server;
    enum request_state state;
    struct connection *connection;
    uint8_t *message; /* as received, header first; body points into it */
    size_t message_bytes, trace_bytes;
    uint8_t trace[SERVER_TRACE_BYTES_MAX]; /* header, echoed in the reply */
    enum protocol_verb verb;
    struct protocol_reader body;
    struct request *next;         /* in a queue, the list of answers or the free list */
    uint64_t height, deadline_ms; /* VERB_WAIT */
    bool reading;                 /* by a reader; under server->lock */
    struct reply *reply;          /* NULL: none could be made, the connection is closed */
};

struct request_queue {
    struct request *head, *tail;
};

struct server {
    unsigned magic;
    const struct status_sources *sources;
    struct ledger *ledger;
    /* socket thread */
    char *path;
    int listener, poll, wake; /* -1: none */
    struct connection *connections;
    unsigned connection_count, active; /* active: requests not FREE */
    size_t work_bytes;                 /* of their messages */
    struct request requests[PROTOCOL_CONTEXTS], *free;
    bool accept_paused, starved, sweep; /* starved: a connection waits for a free request; sweep: one was closed */

    pthread_mutex_t lock;
    pthread_cond_t read_work, write_work, wait_work, idle;
    struct request_queue reads, writes, answers;
    const struct connection *wrote_last; /* whose write was taken last; it may be gone */
    struct request *waits;
    unsigned wait_count;
    size_t reply_bytes; /* of answers made and not yet sent, all connections */
    bool stopping, quit, drained, end_socket;
    _Atomic bool stop_writes; /* read by the writer without the lock */
    bool disk_refuses;        /* writer thread only: the last wait for room was in vain */
    pthread_t readers[PROTOCOL_WORKERS], writer, waiter, socket_thread;
    unsigned thread_count;
    bool socket_thread_runs;
};

void request_push(struct request_queue *queue, struct request *request);

/* Puts a received request where it is worked on: socket thread. */
void server_dispatch(struct request *request);

/* Makes the reply in writer (or an error if it failed to be written) the answer. Any thread; not blocking. */
void server_answer(struct request *request, struct protocol_writer *writer);
void server_answer_error(struct request *request, enum eng_status status, const char *text);

/* Takes a submit or import request to the ledger: writer thread only. The answer comes from the ledger's callbacks. */
void server_submit(struct request *request);
void server_import(struct request *request);

/* Writes the whole reply of a reading request: reader threads. */
/* Of VERB_PROVE_RANGE (server_prove.c). */
enum eng_status server_prove_range(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply);
void server_read(struct server *server, enum protocol_verb verb, struct protocol_reader *body,
                 struct protocol_writer *reply);

/* Listens; ENG_IO, ENG_INVALID. The thread's main; stops when end_socket is set and it was woken. */
ENG_MUST_CHECK enum eng_status server_socket_open(struct server *server, const char *url, unsigned socket_mode);
void *server_socket_main(void *server);
void server_socket_wake(struct server *server); /* any thread */
void server_socket_close(struct server *server);

#endif
