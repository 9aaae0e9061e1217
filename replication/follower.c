/*
 * Follows a ledger: one thread asks the sources for what comes after its own height, verifies, applies, asks again.
 *
 * Every source has a REQ socket of its own, opened once; nng reconnects it by itself (100 ms .. 5 s) and pipe_event
 * counts its connections, so that the thread asks only sources that are there and starts at once when one comes back.
 * A poll waits at the source until there is something new. The thread stays with a source that delivers and goes on to
 * the next one, in turn, when a poll brought nothing or failed. Where it stands is asked of the ledger before every
 * poll, so an interruption of any kind resumes at the right height.
 *
 * While another source is good, a source has less time to answer; one that gave no answer is asked once in a while,
 * without a wait and for two seconds only, so it costs what the others deliver no more than that. Good is who delivered
 * blocks, or has at least what the others are known to have; and as nobody may know better than who is slow, the two
 * seconds double.
 *
 * A sealed block is believed in this order: framing, ledger id, height, digest of the header before, time and epoch
 * that do not go back, a signer in the signer set, the signature, the digests of receipts (and of transactions if they
 * came along); then the ledger merges the diff and compares the root before it publishes (P8).
 *
 * Ways to fail:
 *   no connection, no answer in time, an answer that is too long (nng closes the connection), busy, a source that
 *   cannot read its block, a ledger without room now: CONNECTING or the state before, the line in error, and the source
 *   rests for 100 ms, doubling up to 5 s (5 to 60 s if it did not answer and another is good).
 *   another ledger, a header that the source does not have (diverged), a block that does not verify, a root that
 *   differs: nothing of it is believed, and the source is named (warn, and the line in error until it is right again)
 *   and rests for 5 s, doubling to 60 s, while the others are asked.
 *   an answer that is cut short or of the wrong kind: the same while another source is left, else as busy.
 *   a height that is no longer kept: the others are asked.
 *   no source is left that is believed and keeps the height, or our own ledger fails: FAILED, for good (P9).
 *
 * Invariants: only the thread calls the ledger; the lock guards status, stop and the sources' fields, and is not held
 * while nng or the ledger is called.
 */
#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "close.h"
#include "message.h"
#include "pando/replication.h"

#define FOLLOWER_SOURCES_MAX 16
#define FOLLOWER_WAIT_MS 10000  /* of a long poll */
#define FOLLOWER_DURABLE_MS 200 /* of one that is to tell soon that what was applied is durable */
#define FOLLOWER_BACKOFF_MS_MIN 100
#define FOLLOWER_BACKOFF_MS_MAX 5000
#define FOLLOWER_STOPPING_MS 1000 /* nothing is to arrive at a source that closes */
#define FOLLOWER_SEND_MS 5000
#define FOLLOWER_DRAIN_MS 1000       /* at most, for an answer that is on its way, before it closes */
#define FOLLOWER_ANSWER_MS_MIN 30000 /* beyond the wait; doubles when it was too short */
#define FOLLOWER_ANSWER_MS_MAX 240000
#define FOLLOWER_ANSWER_MS_GOOD 5000 /* while another source is good */
#define FOLLOWER_PROBE_MS 2000       /* for one that was silent, then; doubles each time */
#define FOLLOWER_SELDOM_MS 60000     /* the longest rest of one that was silent then, or is not believed */

struct upstream {
    struct follower *follower;
    char url[256];
    nng_socket socket;
    nng_aio *aio; /* of the exchange; follower_close stops it */
    bool open;
    bool ended; /* the exchange's last step; under the lock */
    int pipes;
    unsigned backoff_ms; /* 0: the last poll went well */
    uint64_t rest_until_ms;
    int answer_ms;
    uint64_t height;   /* as last announced, 0: never */
    bool gone;         /* said that our next height is no longer kept */
    char refused[512]; /* why it is not believed, "" if it is; only the thread looks */
    bool good;         /* the last poll went well */
    bool silent;       /* no answer came in time, and another source was good */
    int probe_ms;
};

struct follower {
    struct replication_ledger ledger;
    struct upstream sources[FOLLOWER_SOURCES_MAX];
    size_t count, current;
    pthread_mutex_t lock;
    pthread_cond_t event;
    bool stop;
    struct follower_status status;
    pthread_t thread;
    bool runs, ended;
    /* The block our next one stands on; only the thread looks. */
    uint64_t height;
    uint8_t digest[32];
    struct header last; /* if height > 0 */
};

enum poll_result {
    POLL_BLOCKS,  /* at least one was applied */
    POLL_NOTHING, /* the source has nothing new */
    POLL_AGAIN,   /* another try, after a rest, may help */
    POLL_REFUSED, /* the source is not to be believed, another may be */
    POLL_FAILED,  /* nothing will help */
    POLL_CLOSED,
};

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void pipe_event(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    struct upstream *source = context;
    struct follower *follower = source->follower;
    pthread_mutex_lock(&follower->lock);
    source->pipes += event == NNG_PIPE_EV_ADD_PRE ? 1 : -1;
    pthread_cond_broadcast(&follower->event);
    pthread_mutex_unlock(&follower->lock);
}

/* Keeps the line for follower_status, with the address in front, and returns result. */
static enum poll_result trouble(struct follower *follower, const struct upstream *source, enum poll_result result,
                                const char *format, ...) __attribute__((format(printf, 4, 5), cold));
static enum poll_result trouble(struct follower *follower, const struct upstream *source, enum poll_result result,
                                const char *format, ...)
{
    char line[sizeof follower->status.error];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    pthread_mutex_lock(&follower->lock);
    snprintf(follower->status.error, sizeof follower->status.error, "%s: %.250s", source->url, line);
    pthread_mutex_unlock(&follower->lock);
    return result;
}

/* After a good answer: what the source has, and how far we are. What is left to say is about the other sources. */
static void progress(struct follower *follower, uint64_t source_height)
{
    pthread_mutex_lock(&follower->lock);
    struct follower_status *status = &follower->status;
    status->source_height = source_height;
    status->state = follower->height >= source_height ? FOLLOWER_LIVE : FOLLOWER_CATCHING_UP;
    status->error[0] = '\0';
    for (size_t i = 0; i < follower->count && !status->error[0]; i++)
        snprintf(status->error, sizeof status->error, "%s", follower->sources[i].refused);
    pthread_mutex_unlock(&follower->lock);
}

/* Is there another source that is believed and may have what comes next? */
static bool another_is_left(const struct follower *follower, const struct upstream *source)
{
    for (size_t i = 0; i < follower->count; i++) {
        const struct upstream *other = &follower->sources[i];
        if (other != source && !other->gone && !other->refused[0])
            return true;
    }
    return false;
}

/* The source is not to be believed, as the line in error says. Told once. */
static void refuse(struct follower *follower, struct upstream *source)
{
    bool told = source->refused[0];
    pthread_mutex_lock(&follower->lock);
    snprintf(source->refused, sizeof source->refused, "%s", follower->status.error);
    pthread_mutex_unlock(&follower->lock);
    source->height = 0; /* that is not to be believed either */
    if (!told && follower->ledger.warn && another_is_left(follower, source))
        follower->ledger.warn(follower->ledger.context, source->refused);
}

/* ---- verification ---- */

static bool digest_is(const char *personal, const uint8_t *bytes, size_t size, const uint8_t digest[32])
{
    uint8_t computed[32];
    header_hash(personal, bytes, size, computed);
    return memcmp(computed, digest, 32) == 0;
}

/* NULL, or why the header does not follow on ours. */
static const char *header_refuse(const struct follower *follower, const struct header *header)
{
    const struct replication_ledger *ledger = &follower->ledger;
    if (memcmp(header->ledger_id, ledger->ledger_id, 32) != 0)
        return "it belongs to another ledger";
    if (header->height != follower->height + 1)
        return "its header names another height";
    if (memcmp(header->previous, follower->digest, 32) != 0)
        return "it does not follow on our header";
    if (follower->height > 0 && header->time_ms < follower->last.time_ms)
        return "its time goes back";
    if (follower->height > 0 && header->epoch < follower->last.epoch)
        return "its epoch goes back";
    if (!ledger->may_sign(ledger->context, header->signer, header->epoch))
        return "its signer is not in the signer set";
    if (!header_verify(header))
        return "its signature is wrong";
    return NULL;
}

/* NULL, or why the block is not what its header says (the root is compared by the ledger). */
static const char *block_refuse(const struct sealed_block *block, const struct header *header)
{
    if (!digest_is("pando receipts", block->receipts, block->receipts_bytes, header->receipts_digest))
        return "its receipts are not those of its header";
    if (block->transactions_bytes > 0 &&
        !digest_is("pando txs", block->transactions, block->transactions_bytes, header->transactions_digest))
        return "its transactions are not those of its header";
    return NULL;
}

static enum poll_result apply_failed(struct follower *follower, const struct upstream *source, enum eng_status status)
{
    unsigned long long height = follower->height + 1;
    switch (status) {
    case ENG_CLOSED:
        return POLL_CLOSED;
    case ENG_BUSY:
    case ENG_TIMEOUT:
    case ENG_FULL:
    case ENG_NO_MEMORY:
    case ENG_NO_IDS:
    case ENG_NO_READERS:
        return trouble(follower, source, POLL_AGAIN, "block %llu cannot be applied now: %s", height, eng_error());
    case ENG_CONFLICT:
        return trouble(follower, source, POLL_REFUSED, "block %llu diverges: %s", height, eng_error());
    case ENG_OK:
    case ENG_NOT_FOUND:
    case ENG_EXISTS:
    case ENG_INVALID:
    case ENG_TOO_LARGE:
    case ENG_TYPE:
    case ENG_GONE:
    case ENG_IO:
    case ENG_DAMAGED:
    case ENG_FOREIGN:
    case ENG_VERSION:
    case ENG_LOCKED:
        break;
    }
    return trouble(follower, source, POLL_FAILED, "block %llu cannot be applied: %s", height, eng_error());
}

static enum poll_result take_block(struct follower *follower, struct upstream *source, const uint8_t *bytes,
                                   size_t size)
{
    unsigned long long height = follower->height + 1;
    const struct replication_ledger *ledger = &follower->ledger;
    struct sealed_block block;
    struct header header;
    enum eng_status status = sealed_block_decode(bytes, size, &block);
    if (status == ENG_OK)
        status = header_decode(block.header, block.header_bytes, &header);
    if (status != ENG_OK)
        return trouble(follower, source, POLL_REFUSED, "block %llu is refused: %s", height, eng_error());
    const char *reason = header_refuse(follower, &header);
    if (!reason)
        reason = block_refuse(&block, &header);
    if (reason)
        return trouble(follower, source, POLL_REFUSED, "block %llu is refused: %s", height, reason);
    status = ledger->apply(ledger->context, &header, bytes, size);
    if (status != ENG_OK)
        return apply_failed(follower, source, status);
    follower->height = header.height;
    header_digest(&header, follower->digest);
    follower->last = header;
    source->refused[0] = '\0';
    return POLL_BLOCKS;
}

/* ---- one poll ---- */

/* Where we stand, from the ledger; the header is read again only if it is not the one applied last. */
static enum poll_result stand(struct follower *follower, const struct upstream *source)
{
    const struct replication_ledger *ledger = &follower->ledger;
    uint8_t digest[32];
    uint64_t height = ledger->height(ledger->context, digest);
    if (height == follower->height && memcmp(digest, follower->digest, 32) == 0)
        return POLL_NOTHING;
    if (height > 0) {
        enum eng_status status = ledger->header(ledger->context, height, &follower->last);
        if (status == ENG_CLOSED)
            return POLL_CLOSED;
        if (status != ENG_OK)
            return trouble(follower, source, POLL_FAILED, "our own header %llu: %s", (unsigned long long)height,
                           eng_error());
    }
    follower->height = height;
    memcpy(follower->digest, digest, 32);
    return POLL_NOTHING;
}

/* The lock is held. */
static bool another_is_good(const struct follower *follower, const struct upstream *source)
{
    for (size_t i = 0; i < follower->count; i++) {
        const struct upstream *other = &follower->sources[i];
        if (other != source && other->pipes > 0 && other->good)
            return true;
    }
    return false;
}

static void exchange_ended(void *context)
{
    struct upstream *source = context;
    pthread_mutex_lock(&source->follower->lock);
    source->ended = true;
    pthread_cond_broadcast(&source->follower->event);
    pthread_mutex_unlock(&source->follower->lock);
}

/* Waits for an answer, and no longer than so while another source is, or becomes, good. */
static void wait_for_answer(struct upstream *source, int good_ms)
{
    struct follower *follower = source->follower;
    uint64_t until = clock_ms() + (uint64_t)good_ms;
    struct timespec deadline = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
    bool give_up = false;
    pthread_mutex_lock(&follower->lock);
    while (!source->ended && !give_up && !follower->stop) { /* once it stops, the callback may not come */
        if (!another_is_good(follower, source))
            pthread_cond_wait(&follower->event, &follower->lock);
        else
            give_up = pthread_cond_timedwait(&follower->event, &follower->lock, &deadline) != 0;
    }
    give_up &= !source->ended && !follower->stop;
    pthread_mutex_unlock(&follower->lock);
    if (give_up)
        nng_aio_abort(source->aio, NNG_ETIMEDOUT);
    nng_aio_wait(source->aio);
}

/* Sends the request and receives the answer. 0, or what nng said; NNG_ECANCELED once follower_close has stopped it. */
static int exchange(struct upstream *source, const uint8_t *request, size_t size, int send_ms, int receive_ms,
                    int good_ms, nng_msg **answer)
{
    nng_msg *message;
    int error = nng_msg_alloc(&message, size);
    if (error)
        return error;
    memcpy(nng_msg_body(message), request, size);
    nng_aio_set_timeout(source->aio, send_ms);
    nng_aio_set_msg(source->aio, message);
    nng_send_aio(source->socket, source->aio);
    nng_aio_wait(source->aio);
    error = nng_aio_result(source->aio);
    if (error) {
        nng_msg_free(message);
        return error;
    }
    source->ended = false; /* nng_aio_wait has waited for the callback, too */
    nng_aio_set_timeout(source->aio, receive_ms);
    nng_recv_aio(source->socket, source->aio);
    if (source->follower)
        wait_for_answer(source, good_ms);
    else
        nng_aio_wait(source->aio);
    error = nng_aio_result(source->aio);
    if (!error)
        *answer = nng_aio_get_msg(source->aio);
    return error;
}

static enum poll_result answer_is_error(struct follower *follower, struct upstream *source,
                                        const struct message_reply *reply)
{
    unsigned long long next = follower->height + 1, first = reply->first;
    char id[17];
    for (size_t i = 0; i < 8; i++)
        snprintf(id + 2 * i, 3, "%02x", reply->ledger_id[i]);
    switch (reply->error) {
    case MESSAGE_OTHER_LEDGER:
        return trouble(follower, source, POLL_REFUSED, "that node has another ledger, id %s...", id);
    case MESSAGE_GONE:
        source->gone = true;
        if (another_is_left(follower, source))
            return trouble(follower, source, POLL_AGAIN, "height %llu is no longer kept, the first is %llu", next,
                           first);
        pthread_mutex_lock(&follower->lock);
        snprintf(follower->status.error, sizeof follower->status.error,
                 "height %llu is no longer kept by %s, the first is %llu", next, source->url, first);
        pthread_mutex_unlock(&follower->lock);
        return POLL_FAILED;
    case MESSAGE_DIVERGED:
        return trouble(follower, source, POLL_REFUSED, "diverged: that node has another header at height %llu",
                       next - 1);
    case MESSAGE_STOPPING:
        source->backoff_ms = FOLLOWER_STOPPING_MS / 2; /* rest doubles it */
        break;
    case MESSAGE_BUSY:
    case MESSAGE_MALFORMED:
    case MESSAGE_FAILED:
        break;
    }
    return trouble(follower, source, POLL_AGAIN, "%s", reply->text);
}

static enum poll_result take_answer(struct follower *follower, struct upstream *source, nng_msg *answer)
{
    struct message_reply reply;
    enum poll_result garbled = another_is_left(follower, source) ? POLL_REFUSED : POLL_AGAIN; /* nobody diverged */
    if (message_reply_decode(nng_msg_body(answer), nng_msg_len(answer), &reply) != ENG_OK)
        return trouble(follower, source, garbled, "%s", eng_error());
    if (reply.kind == MESSAGE_ERROR)
        return answer_is_error(follower, source, &reply);
    if (reply.kind != MESSAGE_BLOCKS)
        return trouble(follower, source, garbled, "an answer of another kind");
    if (reply.count == 0 && reply.height > follower->height)
        return trouble(follower, source, garbled, "it says that it has height %llu, and gives no block",
                       (unsigned long long)reply.height);
    if (reply.count == 0 && reply.height == follower->height)
        source->refused[0] = '\0'; /* it has compared our header */
    source->gone = false;
    source->height = reply.height;
    progress(follower, reply.height);
    size_t at = 0;
    const uint8_t *block;
    uint32_t bytes;
    enum poll_result result = POLL_NOTHING;
    while (message_reply_next(&reply, &at, &block, &bytes)) {
        pthread_mutex_lock(&follower->lock);
        bool stop = follower->stop;
        pthread_mutex_unlock(&follower->lock);
        if (stop)
            return POLL_CLOSED;
        result = take_block(follower, source, block, bytes);
        if (result != POLL_BLOCKS)
            return result;
        progress(follower, reply.height);
    }
    return result;
}

static enum poll_result poll_source(struct follower *follower, struct upstream *source)
{
    enum poll_result result = stand(follower, source);
    if (result != POLL_NOTHING)
        return result;
    const struct replication_ledger *ledger = &follower->ledger;
    uint64_t durable = ledger->durable(ledger->context);
    pthread_mutex_lock(&follower->lock);
    bool probe = source->silent && another_is_good(follower, source);
    pthread_mutex_unlock(&follower->lock);
    int wait_ms = durable < follower->height ? FOLLOWER_DURABLE_MS : FOLLOWER_WAIT_MS;
    struct message_request request = {
        .kind = MESSAGE_BLOCKS,
        .from = follower->height + 1,
        .max_bytes = REPLICATION_REPLY_BYTES_DEFAULT,
        .wait_ms = (uint32_t)(probe ? 0 : wait_ms),
        .durable = durable,
    };
    memcpy(request.ledger_id, ledger->ledger_id, 32);
    memcpy(request.previous, follower->digest, 32);
    memcpy(request.node_key, ledger->node_key, 32);
    uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX];
    nng_msg *answer = NULL;
    int error = exchange(source, bytes, message_request_encode(&request, bytes),
                         probe ? source->probe_ms : FOLLOWER_SEND_MS, FOLLOWER_WAIT_MS + source->answer_ms,
                         probe ? source->probe_ms : FOLLOWER_WAIT_MS + FOLLOWER_ANSWER_MS_GOOD, &answer);
    if (error == NNG_ECLOSED || error == NNG_ECANCELED)
        return POLL_CLOSED;
    pthread_mutex_lock(&follower->lock);
    bool others = another_is_good(follower, source);
    pthread_mutex_unlock(&follower->lock);
    if (error == NNG_ETIMEDOUT && others && source->silent && source->probe_ms < FOLLOWER_ANSWER_MS_MAX)
        source->probe_ms *= 2; /* it may be slow, and the others may know no better */
    else if (error == NNG_ETIMEDOUT && others)
        source->silent = true;
    else if (error == NNG_ETIMEDOUT && source->answer_ms < FOLLOWER_ANSWER_MS_MAX)
        source->answer_ms *= 2; /* a large block over a slow line must get through at last */
    if (error)
        return trouble(follower, source, POLL_AGAIN, "%s", nng_strerror(error));
    source->silent = false;
    source->probe_ms = FOLLOWER_PROBE_MS;
    source->rest_until_ms = 0; /* it may have been asked before */
    source->answer_ms = FOLLOWER_ANSWER_MS_MIN;
    result = take_answer(follower, source, answer);
    nng_msg_free(answer);
    return result;
}

/* ---- the thread ---- */

/* The source to ask, from the current one on: connected and not resting. Waits for one; NULL: stop. */
static struct upstream *choose(struct follower *follower)
{
    pthread_mutex_lock(&follower->lock);
    struct upstream *chosen = NULL;
    while (!follower->stop) {
        uint64_t now = clock_ms(), until = now + FOLLOWER_BACKOFF_MS_MAX;
        const struct upstream *resting = NULL;
        bool good = false;
        for (size_t i = 0; i < follower->count; i++)
            good |= follower->sources[i].pipes > 0 && follower->sources[i].good;
        for (size_t i = 0; i < follower->count && !chosen; i++) {
            struct upstream *source = &follower->sources[(follower->current + i) % follower->count];
            if (source->pipes > 0 && (source->rest_until_ms <= now || (source->silent && !good)))
                chosen = source;
            else if (source->pipes > 0 && source->rest_until_ms < until)
                until = source->rest_until_ms;
            if (source->pipes > 0)
                resting = source;
        }
        if (chosen)
            break;
        follower->status.state = FOLLOWER_CONNECTING;
        const struct upstream *current = &follower->sources[follower->current];
        if (!resting)
            snprintf(follower->status.error, sizeof follower->status.error, "%s%s: no connection", current->url,
                     follower->count > 1 ? " and the others" : "");
        struct timespec deadline = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_cond_timedwait(&follower->event, &follower->lock, &deadline);
    }
    if (chosen) {
        follower->current = (size_t)(chosen - follower->sources);
        snprintf(follower->status.address, sizeof follower->status.address, "%s", chosen->url);
    }
    pthread_mutex_unlock(&follower->lock);
    return chosen;
}

static void rest(struct upstream *source)
{
    bool seldom = source->silent || source->refused[0];
    unsigned most = seldom ? FOLLOWER_SELDOM_MS : FOLLOWER_BACKOFF_MS_MAX;
    source->backoff_ms = source->backoff_ms ? source->backoff_ms * 2 : FOLLOWER_BACKOFF_MS_MIN;
    if (seldom && source->backoff_ms < FOLLOWER_BACKOFF_MS_MAX)
        source->backoff_ms = FOLLOWER_BACKOFF_MS_MAX;
    if (source->backoff_ms > most)
        source->backoff_ms = most;
    source->rest_until_ms = clock_ms() + source->backoff_ms;
}

/* Has it blocks, and as many as any other said to have? */
static bool knows_most(const struct follower *follower, const struct upstream *source)
{
    for (size_t i = 0; i < follower->count; i++)
        if (follower->sources[i].height > source->height)
            return false;
    return source->height > 0;
}

/* The line in error says why. */
static void stop_for_good(struct follower *follower)
{
    pthread_mutex_lock(&follower->lock);
    follower->status.state = FOLLOWER_FAILED;
    pthread_mutex_unlock(&follower->lock);
}

static void follow(struct follower *follower)
{
    struct upstream *source;
    while ((source = choose(follower)) != NULL) {
        uint64_t asked_ms = clock_ms();
        enum poll_result result = poll_source(follower, source);
        pthread_mutex_lock(&follower->lock);
        source->good = result == POLL_BLOCKS || (result == POLL_NOTHING && knows_most(follower, source));
        pthread_mutex_unlock(&follower->lock);
        switch (result) {
        case POLL_BLOCKS:
            source->backoff_ms = 0;
            for (size_t i = 0; i < follower->count; i++)
                follower->sources[i].gone = false; /* that was about another height */
            break;
        case POLL_NOTHING:
            if (clock_ms() - asked_ms < FOLLOWER_BACKOFF_MS_MIN)
                rest(source); /* it did not wait: do not spin */
            else
                source->backoff_ms = 0;
            follower->current = (follower->current + 1) % follower->count;
            break;
        case POLL_REFUSED:
            refuse(follower, source);
            if (!another_is_left(follower, source)) {
                stop_for_good(follower);
                return;
            }
            rest(source);
            follower->current = (follower->current + 1) % follower->count;
            break;
        case POLL_AGAIN:
            rest(source);
            follower->current = (follower->current + 1) % follower->count;
            break;
        case POLL_FAILED:
            stop_for_good(follower);
            return;
        case POLL_CLOSED:
            return;
        }
    }
}

static void *follower_main(void *context)
{
    struct follower *follower = context;
    follow(follower);
    pthread_mutex_lock(&follower->lock);
    follower->ended = true;
    pthread_cond_broadcast(&follower->event);
    pthread_mutex_unlock(&follower->lock);
    return NULL;
}

/* ---- open and close ---- */

/* A REQ socket that does not resend (a repeated poll is ours to make) and connects by itself. */
static enum eng_status dial(struct upstream *source, const char *url, nng_pipe_cb notify)
{
    nng_dialer dialer;
    nng_socket *socket = &source->socket;
    if (nng_aio_alloc(&source->aio, source->follower ? exchange_ended : NULL, source) != 0)
        return eng_fail(ENG_NO_MEMORY, "%s: no memory", url);
    int error = nng_req0_open(socket);
    if (error) {
        nng_aio_free(source->aio);
        return eng_fail(ENG_IO, "%s: %s", url, nng_strerror(error));
    }
    if (notify) {
        /* not ADD_POST: a peer that is no REP socket is closed before it, and REM_POST comes all the same */
        nng_pipe_notify(*socket, NNG_PIPE_EV_ADD_PRE, notify, source);
        nng_pipe_notify(*socket, NNG_PIPE_EV_REM_POST, notify, source);
    }
    error = nng_socket_set_ms(*socket, NNG_OPT_REQ_RESENDTIME, -1);
    if (!error)
        error = nng_dialer_create(&dialer, *socket, url);
    if (!error)
        error = nng_dialer_set_size(dialer, NNG_OPT_RECVMAXSZ, REPLICATION_REPLY_BYTES_MAX);
    if (!error)
        error = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMINT, FOLLOWER_BACKOFF_MS_MIN);
    if (!error)
        error = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMAXT, FOLLOWER_BACKOFF_MS_MAX);
    if (!error && strncmp(url, "tcp://", 6) == 0)
        error = nng_dialer_set_bool(dialer, NNG_OPT_TCP_KEEPALIVE, true);
    if (!error)
        error = nng_dialer_start(dialer, NNG_FLAG_NONBLOCK);
    if (error) {
        (void)socket_close(*socket);
        nng_aio_free(source->aio);
        return eng_fail(error == NNG_EADDRINVAL || error == NNG_EINVAL ? ENG_INVALID : ENG_IO, "%s: %s", url,
                        nng_strerror(error));
    }
    return ENG_OK;
}

enum eng_status follower_open(const struct replication_ledger *ledger, const char *const urls[], size_t count,
                              struct follower **out)
{
    *out = NULL;
    if (count == 0 || count > FOLLOWER_SOURCES_MAX)
        return eng_fail(ENG_INVALID, "follow: %zu addresses, 1 to %d are allowed", count, FOLLOWER_SOURCES_MAX);
    struct follower *follower = calloc(1, sizeof *follower);
    if (!follower)
        return eng_fail(ENG_NO_MEMORY, "follow: no memory");
    follower->ledger = *ledger;
    follower->count = count;
    pthread_mutex_init(&follower->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&follower->event, &attributes);
    pthread_condattr_destroy(&attributes);
    memcpy(follower->digest, ledger->ledger_id, 32); /* height 0 */
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < count && status == ENG_OK; i++) {
        struct upstream *source = &follower->sources[i];
        source->follower = follower;
        source->answer_ms = FOLLOWER_ANSWER_MS_MIN;
        source->probe_ms = FOLLOWER_PROBE_MS;
        source->good = true; /* until it is asked */
        if ((size_t)snprintf(source->url, sizeof source->url, "%s", urls[i]) >= sizeof source->url) {
            status = eng_fail(ENG_INVALID, "follow: an address is longer than %zu bytes", sizeof source->url - 1);
            break;
        }
        status = dial(source, source->url, pipe_event);
        source->open = status == ENG_OK;
    }
    if (status == ENG_OK) {
        follower->runs = pthread_create(&follower->thread, NULL, follower_main, follower) == 0;
        if (!follower->runs)
            status = eng_fail(ENG_NO_MEMORY, "follow: cannot start a thread");
    }
    if (status != ENG_OK)
        follower_close(&follower);
    *out = follower;
    return status;
}

void follower_status(struct follower *follower, struct follower_status *status)
{
    pthread_mutex_lock(&follower->lock);
    *status = follower->status;
    pthread_mutex_unlock(&follower->lock);
}

/* Tells the thread to stop, and waits for an answer that is on its way: it is not to be cut (close.h says why). None is
 * while LIVE, but for a block that is published just then. */
static void follower_drain(struct follower *follower)
{
    uint64_t until = clock_ms() + FOLLOWER_DRAIN_MS;
    struct timespec deadline = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
    pthread_mutex_lock(&follower->lock);
    follower->stop = true;
    pthread_cond_broadcast(&follower->event);
    while (follower->runs && !follower->ended && follower->status.state != FOLLOWER_LIVE &&
           pthread_cond_timedwait(&follower->event, &follower->lock, &deadline) == 0)
        ;
    pthread_mutex_unlock(&follower->lock);
}

void follower_close(struct follower **closed)
{
    struct follower *follower = *closed;
    if (!follower)
        return;
    *closed = NULL;
    follower_drain(follower);
    for (size_t i = 0; i < follower->count; i++) {
        if (follower->sources[i].open)
            nng_aio_stop(follower->sources[i].aio); /* ends a poll that waits */
    }
    if (follower->runs)
        pthread_join(follower->thread, NULL);
    bool closed_all = true;
    for (size_t i = 0; i < follower->count; i++) {
        if (!follower->sources[i].open)
            continue;
        closed_all &= socket_close(follower->sources[i].socket); /* waits for pipe_event */
        nng_aio_free(follower->sources[i].aio);
    }
    if (!closed_all)
        return; /* pipe_event may still come */
    pthread_cond_destroy(&follower->event);
    pthread_mutex_destroy(&follower->lock);
    free(follower);
}

enum eng_status replication_fetch_genesis(const char *url, int timeout_ms, char **genesis, size_t *size)
{
    *genesis = NULL;
    *size = 0;
    struct upstream source = {0};
    nng_msg *answer = NULL;
    struct message_reply reply;
    uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX];
    enum eng_status status = dial(&source, url, NULL);
    if (status != ENG_OK)
        return status;
    size_t request = message_request_encode(&(struct message_request){.kind = MESSAGE_GENESIS}, bytes);
    int error = exchange(&source, bytes, request, timeout_ms, timeout_ms, timeout_ms, &answer);
    if (error) {
        status = error == NNG_ETIMEDOUT ? eng_fail(ENG_TIMEOUT, "%s: no node answered within %d ms", url, timeout_ms)
                                        : eng_fail(ENG_IO, "%s: %s", url, nng_strerror(error));
        goto out;
    }
    status = message_reply_decode(nng_msg_body(answer), nng_msg_len(answer), &reply);
    if (status != ENG_OK)
        goto out;
    if (reply.kind != MESSAGE_GENESIS || reply.body_bytes == 0) {
        status = eng_fail(ENG_DAMAGED, "%s: the answer is not a genesis", url);
        goto out;
    }
    *genesis = malloc(reply.body_bytes + 1);
    if (!*genesis) {
        status = eng_fail(ENG_NO_MEMORY, "%s: no memory for the genesis", url);
        goto out;
    }
    memcpy(*genesis, reply.body, reply.body_bytes);
    (*genesis)[reply.body_bytes] = '\0';
    *size = reply.body_bytes;
out:
    nng_msg_free(answer);
    (void)socket_close(source.socket);
    nng_aio_free(source.aio);
    return status;
}
