/*
 * libpando, the client library: talks the IPC protocol (protocol.h) with a running node, over one Unix socket, without
 * threads of its own.
 *
 *     pando_connect("ipc:///run/pando/pando.ipc", &pando);
 *     protocol_request_begin(&writer, VERB_ROOT); protocol_write_u64(&writer, ENG_HEAD);
 *     pando_request(pando, &writer, PANDO_TIMEOUT_MS, &reply);     reply.body is a reader on the answer's body
 *     pando_reply_release(&reply);
 *     pando_disconnect(&pando);
 *
 * Several requests in flight: pando_send returns a call, pando_receive waits for its answer; the node takes the calls
 * of one connection in the order of pando_send. Nothing is sent twice by the library: after ENG_IO or ENG_TIMEOUT the
 * caller may send again what the node recognises (a transaction by its id, a block by its height). The next pando_send
 * makes the connection anew, waiting up to PANDO_RECONNECT_MS for the node to come back.
 *
 * Threads: a handle is used by one thread at a time. Errors: eng_error() has the line.
 */
#ifndef NODE_CLIENT_H
#define NODE_CLIENT_H

#include "protocol.h"

#define PANDO_TIMEOUT_MS 60000
#define PANDO_RECONNECT_MS 10000
#define PANDO_CALLS_MAX 32u /* in flight */

struct pando;
struct pando_call;

struct pando_reply {
    struct protocol_reader body; /* points into message */
    void *message;
};

/* ENG_INVALID: no address; ENG_CLOSED: nobody answers there; ENG_IO. */
ENG_MUST_CHECK enum eng_status pando_connect(const char *url, struct pando **pando);
void pando_disconnect(struct pando **pando); /* no call may be open; NULL inside is fine */

/* Sends the request, which may block while the node takes none. ENG_BUSY: PANDO_CALLS_MAX are open; ENG_TOO_LARGE;
 * ENG_NO_MEMORY (also if writing the request failed); ENG_CLOSED, ENG_IO, ENG_TIMEOUT: no connection. */
ENG_MUST_CHECK enum eng_status pando_send(struct pando *pando, const struct protocol_writer *request,
                                          struct pando_call **call);
/* Waits for the answer and ends the call, also on errors. The status is the node's (then reply is empty), or ENG_IO:
 * the connection broke; ENG_TIMEOUT: no answer in time; ENG_DAMAGED, ENG_VERSION: an answer that is none. */
ENG_MUST_CHECK enum eng_status pando_receive(struct pando_call **call, int timeout_ms, struct pando_reply *reply);
/* Ends a call without its answer. NULL inside is fine. */
void pando_cancel(struct pando_call **call);
void pando_reply_release(struct pando_reply *reply);

/* pando_send and pando_receive. */
ENG_MUST_CHECK enum eng_status pando_request(struct pando *pando, const struct protocol_writer *request, int timeout_ms,
                                             struct pando_reply *reply);
/* True if the last failure was of the connection and not the node's answer. */
bool pando_broken(const struct pando *pando);

#endif
