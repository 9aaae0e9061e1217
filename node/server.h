/*
 * The IPC server of pandod: answers the requests of protocol.h from the ledger.
 *
 *   connections ──► socket thread, which keeps the order of each connection
 *        │ submit, import ──► writer thread ──► ledger_submit/_import ... ledger callbacks ──► reply when all are done
 *        │ wait           ──► waiter thread (a list; no thread is held by one that waits)
 *        └ everything else ─► a few reader threads
 *
 * Bounded: PROTOCOL_CONTEXTS requests at a time (PROTOCOL_PER_CONNECTION of one connection), PROTOCOL_WORK_BYTES_MAX
 * bytes of them, PROTOCOL_WAITS_MAX that wait, PROTOCOL_CONNECTIONS_MAX connections; what exceeds the first two is not
 * received yet, which a client feels as backpressure; a wait too many is answered busy. A full queue of the ledger is
 * waited for, at most PROTOCOL_BUSY_WAIT_MS, then answered BUSY.
 */
#ifndef NODE_SERVER_H
#define NODE_SERVER_H

#include "status.h"

struct server;

/* Listens on url (checked with protocol_check_url) with this file mode if it is ipc. sources must outlive the server.
 * ENG_INVALID: not an address; ENG_IO: why it cannot listen there; ENG_NO_MEMORY. */
ENG_MUST_CHECK enum eng_status server_open(const char *url, unsigned socket_mode, const struct status_sources *sources,
                                           struct server **server);
/* Receives no more, answers what was received (those that wait are told "closing"), at most deadline_ms long; then its
 * threads have left the ledger. The ledger must still run. False: something is left unanswered. */
bool server_stop(struct server *server, int deadline_ms);
/* After server_stop, and after ledger_close: no callback may come any more. NULL inside is fine. */
void server_close(struct server **server);

#endif
