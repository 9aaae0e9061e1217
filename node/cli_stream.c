/*
 * A stream of requests with several in flight (cli_stream.h has the picture).
 *
 * One ring of batches: [head, head + sent) are in flight, [head + sent, tail) wait to be sent. The stream's thread
 * alone uses the connection. The lock guards the ring and the flags; it is not held while sending or receiving.
 *
 * Ways to fail: the node answers a request with an error: said, the stream stops with its exit code. The connection
 * breaks or an answer does not come: all calls in flight are given up and sent again, at most STREAM_RETRIES times
 * in a row. Once stopped, what is left in the ring is dropped unanswered and cli_stream_push returns false.
 */
#include "cli_stream.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct cli_stream {
    struct pando *pando;
    unsigned window;
    int timeout_ms;
    int (*answered)(void *context, struct cli_batch *batch, struct protocol_reader *reply);
    void *context;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct cli_batch *ring[STREAM_QUEUE];
    uint64_t head, tail;
    unsigned sent, retries;
    bool closing, stopped;
    int code;
};

void cli_batch_free(struct cli_batch *batch)
{
    if (!batch)
        return;
    assert(!batch->call);
    free(batch->request.bytes);
    free(batch->items);
    free(batch);
}

static struct cli_batch *batch_at(struct cli_stream *stream, uint64_t number)
{
    return stream->ring[number % STREAM_QUEUE];
}

/* Sends ahead as far as the window allows. */
static int send_ahead(struct cli_stream *stream, uint64_t tail)
{
    while (stream->sent < stream->window && stream->head + stream->sent < tail) {
        struct cli_batch *batch = batch_at(stream, stream->head + stream->sent);
        if (batch->request.size > 0) {
            enum eng_status status = pando_send(stream->pando, &batch->request, &batch->call);
            if (status != ENG_OK)
                return cli_fail(status);
        }
        stream->sent++;
    }
    return CLI_DONE;
}

/* After a broken connection: nothing is in flight any more. */
static void give_up_calls(struct cli_stream *stream)
{
    for (unsigned i = 0; i < stream->sent; i++)
        pando_cancel(&batch_at(stream, stream->head + i)->call);
    stream->sent = 0;
}

/* Receives the answer of the oldest batch. *retry: to be sent again. */
static int receive_head(struct cli_stream *stream, bool *retry)
{
    struct cli_batch *batch = batch_at(stream, stream->head);
    *retry = false;
    if (batch->request.size == 0)
        return stream->answered(stream->context, batch, NULL);
    struct pando_reply reply;
    enum eng_status status = pando_receive(&batch->call, stream->timeout_ms, &reply);
    if (status != ENG_OK && pando_broken(stream->pando) && stream->retries < STREAM_RETRIES) {
        stream->retries++;
        *retry = true;
        return CLI_DONE;
    }
    if (status != ENG_OK)
        return cli_fail(status);
    stream->retries = 0;
    int code = stream->answered(stream->context, batch, &reply.body);
    pando_reply_release(&reply);
    return code;
}

static void *stream_main(void *context)
{
    struct cli_stream *stream = context;
    pthread_mutex_lock(&stream->lock);
    while (!stream->stopped) {
        uint64_t tail = stream->tail;
        if (stream->head == tail) {
            if (stream->closing)
                break;
            pthread_cond_wait(&stream->changed, &stream->lock);
            continue;
        }
        pthread_mutex_unlock(&stream->lock);
        bool retry = false;
        int code = send_ahead(stream, tail);
        if (code == CLI_DONE)
            code = receive_head(stream, &retry);
        if (retry) {
            give_up_calls(stream);
            nanosleep(&(struct timespec){0, 200000000}, NULL);
        }
        pthread_mutex_lock(&stream->lock);
        if (code != CLI_DONE) {
            stream->stopped = true;
            stream->code = code;
        } else if (!retry) {
            cli_batch_free(batch_at(stream, stream->head));
            stream->head++;
            stream->sent--;
        }
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

int cli_stream_open(struct pando *pando, unsigned window, int timeout_ms,
                    int (*answered)(void *context, struct cli_batch *batch, struct protocol_reader *reply),
                    void *context, struct cli_stream **out)
{
    struct cli_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return cli_say(CLI_UNABLE, "requests: no memory for a stream of them");
    stream->pando = pando;
    assert(window >= 1 && window <= STREAM_WINDOW_MAX);
    stream->window = window;
    stream->timeout_ms = timeout_ms;
    stream->answered = answered;
    stream->context = context;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    int error = pthread_create(&stream->thread, NULL, stream_main, stream);
    if (error) {
        free(stream);
        return cli_say(CLI_UNABLE, "cannot start a thread: %s", strerror(error));
    }
    *out = stream;
    return CLI_DONE;
}

bool cli_stream_push(struct cli_stream *stream, struct cli_batch *batch)
{
    pthread_mutex_lock(&stream->lock);
    while (!stream->stopped && stream->tail - stream->head == STREAM_QUEUE)
        pthread_cond_wait(&stream->changed, &stream->lock);
    bool taken = !stream->stopped;
    if (taken) {
        stream->ring[stream->tail % STREAM_QUEUE] = batch;
        stream->tail++;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    if (!taken)
        cli_batch_free(batch);
    return taken;
}

int cli_stream_close(struct cli_stream **stream_pointer)
{
    struct cli_stream *stream = *stream_pointer;
    pthread_mutex_lock(&stream->lock);
    stream->closing = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
    give_up_calls(stream);
    for (; stream->head < stream->tail; stream->head++)
        cli_batch_free(batch_at(stream, stream->head));
    int code = stream->code;
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
    *stream_pointer = NULL;
    return code;
}
