/*
 * A stream of requests to a node with several in flight: how submit and import keep the node busy while they still
 * read.
 *
 *   the command's thread ──cli_stream_push──► queue ──► one thread sends, up to window ahead, receives in order,
 *   reads and parses                       (bounded)   and hands each answer to the command
 *
 * When the connection breaks, everything not yet answered is sent again, in order, for a while: the node recognises
 * transactions by their ids and blocks by their heights, so nothing happens twice.
 */
#ifndef NODE_CLI_STREAM_H
#define NODE_CLI_STREAM_H

#include "cli.h"

#define STREAM_WINDOW_MAX 16u /* requests in flight */
#define STREAM_QUEUE 24u      /* of them and behind them */
#define STREAM_RETRIES 5u

struct cli_batch {
    struct protocol_writer request; /* empty: nothing to ask, answered in its place without the node */
    void *items;                    /* the command's own, freed with free() */
    uint32_t count;
    uint64_t consumed; /* bytes of input up to here */
    struct pando_call *call;
};

struct cli_stream;
/* answered(context, batch, reply) is called in order from the stream's thread, reply NULL for an empty request;
 * what it returns other than CLI_DONE stops the stream and is its exit code. */
int cli_stream_open(struct pando *pando, unsigned window, int timeout_ms,
                    int (*answered)(void *context, struct cli_batch *batch, struct protocol_reader *reply),
                    void *context, struct cli_stream **stream);
/* Takes the batch over (malloc'ed). Blocks while the queue is full. False: it has stopped, read no more. */
bool cli_stream_push(struct cli_stream *stream, struct cli_batch *batch);
/* Waits for all answers; returns the exit code. */
int cli_stream_close(struct cli_stream **stream);
void cli_batch_free(struct cli_batch *batch);

#endif
