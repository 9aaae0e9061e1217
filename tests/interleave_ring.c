/*
 * The ring of the log (engine/log_ring.c) under every interleaving: writers reserve, copy and publish, a consumer moves
 * the published offset, reads and frees. The ring holds two records and begins near its end, so that the second wraps
 * and the third waits for space; with a consumer both
 * are full in the beginning. A writer whose reservation is refused goes on with its next operation.
 *
 * Oracle: records come out once each, whole, at the offset they name, those of one writer in the order they were
 * written; nothing that was published is missing in the end.
 */
#include <assert.h>
#include <string.h>

#include "interleave.h"
#include "interleave_models.h"
#include "log_format.h"
#include "log_ring.h"

#define PAYLOAD 400u
#define BEGIN (LOG_RING_BYTES_MIN - 500u + 4u)

static struct log_ring ring;
static struct {
    uint64_t read;                     /* everything before it was consumed */
    unsigned written[IL_THREADS_MAX];  /* published */
    unsigned consumed[IL_THREADS_MAX]; /* came out */
} state;
static unsigned consumer; /* thread; none if it is no thread's number */
static enum ring_bug bug;

static void write_record(unsigned thread)
{
    uint64_t bytes = log_record_bytes(PAYLOAD);
    uint8_t payload[PAYLOAD];
    if (!log_credit_take(&ring.credit, bytes, 0))
        return;
    uint64_t offset = log_ring_place(&ring, bytes);
    unsigned number = state.written[thread]++;
    struct log_record_header header = {.length = PAYLOAD, .type = 2 + thread, .offset = offset, .checksum = number};
    memset(payload, (int)(16 * thread + number + 1), sizeof payload);
    if (bug == RING_PUBLISH_EARLY) {
        log_ring_copy_in(&ring, offset, &header, sizeof header);
        log_ring_publish(&ring, offset);
        log_ring_copy_in(&ring, offset + sizeof header, payload, sizeof payload);
        return;
    }
    log_ring_copy_in(&ring, offset, &header, sizeof header);
    log_ring_copy_in(&ring, offset + sizeof header, payload, sizeof payload);
    log_ring_publish(&ring, offset);
}

static void read_record(uint64_t at)
{
    struct log_record_header header;
    uint8_t payload[PAYLOAD];
    log_ring_copy_out(&ring, at, &header, sizeof header);
    log_ring_copy_out(&ring, at + sizeof header, payload, sizeof payload);
    unsigned thread = header.type - 2;
    if (header.length != PAYLOAD || header.offset != at || thread >= IL_THREADS_MAX) {
        il_fail("ring: no record at offset %llu", (unsigned long long)at);
        return;
    }
    if (header.checksum != state.consumed[thread])
        il_fail("ring: record %llu of writer %u came out when %u was due", (unsigned long long)header.checksum, thread,
                state.consumed[thread]);
    state.consumed[thread]++;
    for (unsigned i = 0; i < PAYLOAD; i++)
        if (payload[i] != 16 * thread + header.checksum + 1) {
            il_fail("ring: byte %u of the record at offset %llu is not what was written", i, (unsigned long long)at);
            return;
        }
}

static void consume(void)
{
    uint64_t end = log_ring_advance(&ring);
    if (bug == RING_FREE_EARLY)
        log_ring_free(&ring, end);
    for (; state.read < end; state.read += log_record_bytes(PAYLOAD))
        read_record(state.read);
    if (bug != RING_FREE_EARLY)
        log_ring_free(&ring, end);
}

static void operation(unsigned thread, unsigned number)
{
    (void)number;
    if (thread == consumer)
        consume();
    else
        write_record(thread);
}

static void finished(void)
{
    consume();
    for (unsigned i = 0; i < IL_THREADS_MAX; i++)
        if (state.consumed[i] != state.written[i])
            il_fail("ring: %u records of writer %u came out, %u were published", state.consumed[i], i,
                    state.written[i]);
    if (log_credit_left(&ring.credit) != ring.size)
        il_fail("ring: credit is lost");
}

void ring_run(unsigned threads, unsigned operations, bool with_consumer, enum ring_bug planted, int preemptions,
              struct il_result *result)
{
    il_forget();
    state.read = BEGIN;
    memset(state.written, 0, sizeof state.written);
    memset(state.consumed, 0, sizeof state.consumed);
    enum eng_status status = log_ring_init(&ring, LOG_RING_BYTES_MIN, BEGIN);
    assert(status == ENG_OK);
    bug = RING_RIGHT;
    for (unsigned i = 0; i < 2 && with_consumer; i++)
        write_record(0);
    il_remember(&ring, sizeof ring);
    il_remember(ring.bytes, ring.size);
    il_remember((void *)ring.bits, ring.size / LOG_ALIGN / 8);
    il_remember(&state, sizeof state);
    bug = planted;
    consumer = with_consumer ? threads - 1 : IL_THREADS_MAX;
    il_bug.torn = planted == RING_TORN_TAIL ? (void *)&ring.tail : planted == RING_TORN_CREDIT ? &ring.credit.left : 0;
    struct il_model model = {.name = "log ring",
                             .threads = threads,
                             .operations = operations,
                             .operation = operation,
                             .finished = finished,
                             .preemptions = preemptions};
    il_run(&model, result);
    log_ring_fini(&ring);
}
