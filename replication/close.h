/* Closing a socket of nng in bounded time. */
#ifndef REPLICATION_CLOSE_H
#define REPLICATION_CLOSE_H

#include <stdbool.h>

#include <nng/nng.h>

/* nng 1.5 loses a receive or a send if its connection closes at the moment between the two parts of a message: then the
 * thread that frees connections waits for ever, and with it nng_close. So it is called in a thread of its own, and
 * given up after some seconds. False: given up; callbacks may still come, so what they
 * look at must stay. Blocks for at most that long. */
bool socket_close(nng_socket socket);

#endif
