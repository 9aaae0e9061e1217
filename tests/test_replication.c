/*
 * Source and follower over real sockets, between ledgers that live in memory.
 *
 * The ledger of the tests keeps sealed blocks in an array and has a state digest that hashes all diffs in order, so a
 * block whose diff was changed gives another root, as in a real one. Blocks can be replaced as served (tampering),
 * pruned, or refused for a while. Every test runs in a process of its own (Check forks), over ipc in a directory of
 * its own or over inproc.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <sodium.h>

#include "message.h"
#include "pando/header.h"
#include "pando/replication.h"

#define BLOCKS_MAX 4096

struct memory_ledger {
    pthread_mutex_t lock;
    pthread_cond_t published;
    uint8_t ledger_id[32], node_key[32];
    uint8_t signer[32], secret[64];
    uint64_t height, first, epoch;
    struct {
        uint8_t *bytes;
        size_t size;
        struct header header;
        uint8_t digest[32];
    } blocks[BLOCKS_MAX + 1];
    uint64_t tampered; /* this height is served as */
    uint8_t *tampered_bytes;
    size_t tampered_size;
    int busy; /* so many applies are refused */
    struct replication_ledger table;
};

static char directory[64];
static const char genesis[] = "{\"format\":1}\n";

static void setup(void)
{
    ck_assert_int_ge(sodium_init(), 0);
    snprintf(directory, sizeof directory, "/tmp/pando-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void teardown(void)
{
    char path[96];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%d", directory, i);
        unlink(path);
    }
    rmdir(directory);
}

static const char *url_of(int n)
{
    static char urls[4][96];
    snprintf(urls[n], sizeof urls[n], "ipc://%s/%d", directory, n);
    return urls[n];
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* ---- the ledger in memory ---- */

static uint64_t memory_height(void *context, uint8_t digest[32])
{
    struct memory_ledger *ledger = context;
    pthread_mutex_lock(&ledger->lock);
    uint64_t height = ledger->height;
    memcpy(digest, height ? ledger->blocks[height].digest : ledger->ledger_id, 32);
    pthread_mutex_unlock(&ledger->lock);
    return height;
}

static enum eng_status memory_header(void *context, uint64_t height, struct header *header)
{
    struct memory_ledger *ledger = context;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&ledger->lock);
    if (height == 0 || height > ledger->height)
        status = eng_fail(ENG_NOT_FOUND, "no header");
    else
        *header = ledger->blocks[height].header;
    pthread_mutex_unlock(&ledger->lock);
    return status;
}

static enum eng_status memory_read_sealed(void *context, uint64_t height, uint8_t **bytes, size_t *capacity,
                                          size_t *size, uint64_t *first)
{
    struct memory_ledger *ledger = context;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&ledger->lock);
    if (height < ledger->first) {
        *first = ledger->first;
        status = eng_fail(ENG_GONE, "height is gone");
    } else if (height > ledger->height) {
        status = eng_fail(ENG_NOT_FOUND, "not yet");
    } else {
        bool tampered = height == ledger->tampered;
        const uint8_t *from = tampered ? ledger->tampered_bytes : ledger->blocks[height].bytes;
        size_t length = tampered ? ledger->tampered_size : ledger->blocks[height].size;
        if (*size + length > *capacity) {
            *capacity = *size + length;
            *bytes = realloc(*bytes, *capacity);
        }
        memcpy(*bytes + *size, from, length);
        *size += length;
    }
    pthread_mutex_unlock(&ledger->lock);
    return status;
}

static enum eng_status memory_wait(void *context, uint64_t height, int timeout_ms)
{
    struct memory_ledger *ledger = context;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += timeout_ms % 1000 * 1000000l;
    until.tv_sec += timeout_ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int error = 0;
    pthread_mutex_lock(&ledger->lock);
    while (ledger->height < height && error == 0)
        error = pthread_cond_timedwait(&ledger->published, &ledger->lock, &until);
    bool there = ledger->height >= height;
    pthread_mutex_unlock(&ledger->lock);
    return there ? ENG_OK : ENG_TIMEOUT;
}

static bool memory_may_sign(void *context, const uint8_t signer[32], uint64_t epoch)
{
    struct memory_ledger *ledger = context;
    return memcmp(signer, ledger->signer, 32) == 0;
}

/* The state after a block: a digest over the one before and the diff. */
static void next_state(const struct memory_ledger *ledger, const uint8_t *diff, size_t diff_bytes,
                       struct eng_summary *state)
{
    uint8_t digests[64] = {0};
    if (ledger->height)
        memcpy(digests, ledger->blocks[ledger->height].header.state.digest, 32);
    header_hash("test diff", diff, diff_bytes, digests + 32);
    memset(state, 0, sizeof *state);
    header_hash("test state", digests, sizeof digests, state->digest);
    state->count = ledger->height + 1;
}

/* Under the lock. */
static void append(struct memory_ledger *ledger, const struct header *header, const uint8_t *sealed, size_t size)
{
    uint64_t height = ledger->height + 1;
    ck_assert_uint_le(height, BLOCKS_MAX);
    ck_assert_uint_eq(header->height, height);
    ledger->blocks[height].bytes = malloc(size);
    memcpy(ledger->blocks[height].bytes, sealed, size);
    ledger->blocks[height].size = size;
    ledger->blocks[height].header = *header;
    header_digest(header, ledger->blocks[height].digest);
    ledger->height = height;
    pthread_cond_broadcast(&ledger->published);
}

static enum eng_status memory_apply(void *context, const struct header *header, const uint8_t *sealed, size_t size)
{
    struct memory_ledger *ledger = context;
    struct sealed_block block;
    struct eng_summary state;
    enum eng_status status = sealed_block_decode(sealed, size, &block);
    if (status != ENG_OK)
        return status;
    pthread_mutex_lock(&ledger->lock);
    next_state(ledger, block.diff, block.diff_bytes, &state);
    if (ledger->busy > 0) {
        ledger->busy--;
        status = eng_fail(ENG_BUSY, "busy");
    } else if (memcmp(&state, &header->state, sizeof state) != 0) {
        status = eng_fail(ENG_CONFLICT, "the root differs");
    } else {
        append(ledger, header, sealed, size);
    }
    pthread_mutex_unlock(&ledger->lock);
    return status;
}

static uint64_t memory_durable(void *context)
{
    uint8_t digest[32];
    return memory_height(context, digest);
}

static struct memory_ledger *ledger_make(uint8_t id, uint8_t node)
{
    static const uint8_t seed[32] = {1, 2, 3};
    struct memory_ledger *ledger = calloc(1, sizeof *ledger);
    pthread_mutex_init(&ledger->lock, NULL);
    pthread_cond_init(&ledger->published, NULL);
    crypto_sign_seed_keypair(ledger->signer, ledger->secret, seed);
    memset(ledger->ledger_id, id, 32);
    memset(ledger->node_key, node, 32);
    ledger->first = 1;
    ledger->epoch = 1;
    ledger->table = (struct replication_ledger){
        .context = ledger,
        .genesis = genesis,
        .genesis_bytes = sizeof genesis - 1,
        .height = memory_height,
        .header = memory_header,
        .read_sealed = memory_read_sealed,
        .wait = memory_wait,
        .may_sign = memory_may_sign,
        .apply = memory_apply,
        .durable = memory_durable,
    };
    memcpy(ledger->table.ledger_id, ledger->ledger_id, 32);
    memcpy(ledger->table.node_key, ledger->node_key, 32);
    return ledger;
}

static void ledger_free(struct memory_ledger *ledger)
{
    for (uint64_t i = 1; i <= ledger->height; i++)
        free(ledger->blocks[i].bytes);
    free(ledger->tampered_bytes);
    free(ledger);
}

/* What is in the next block of a ledger, before it is signed. */
static void make_block(const struct memory_ledger *ledger, struct header *header, struct sealed_block *block,
                       struct diff_writer *diff, size_t value_bytes)
{
    static uint8_t value[1 << 16], receipts[] = "receipts", transactions[] = "transactions";
    uint64_t height = ledger->height + 1;
    ck_assert_uint_le(value_bytes, sizeof value);
    memset(value, (int)height, value_bytes);
    struct eng_value entry = {ENG_BYTES, value, value_bytes};
    ck_assert_int_eq(diff_write(diff, (const uint8_t *)&height, sizeof height, &entry), ENG_OK);
    *block = (struct sealed_block){.receipts = receipts,
                                   .receipts_bytes = sizeof receipts,
                                   .transactions = transactions,
                                   .transactions_bytes = sizeof transactions,
                                   .diff = diff->bytes,
                                   .diff_bytes = (uint32_t)diff->size};
    memset(header, 0, sizeof *header);
    memcpy(header->ledger_id, ledger->ledger_id, 32);
    header->height = height;
    memcpy(header->previous, ledger->height ? ledger->blocks[ledger->height].digest : ledger->ledger_id, 32);
    header->time_ms = 1700000000000 + height;
    header->epoch = ledger->epoch;
    header_hash("pando txs", transactions, sizeof transactions, header->transactions_digest);
    header_hash("pando receipts", receipts, sizeof receipts, header->receipts_digest);
    next_state(ledger, diff->bytes, diff->size, &header->state);
    header->transactions = 1;
    header->note_bytes =
        (uint16_t)snprintf(header->note, sizeof header->note, "block %llu", (unsigned long long)height);
}

static uint8_t *seal(const struct header *header, struct sealed_block *block, size_t *size)
{
    uint8_t bytes[HEADER_BYTES_MAX];
    block->header_bytes = (uint32_t)header_encode(header, bytes);
    block->header = bytes;
    *size = sealed_block_size(block);
    uint8_t *sealed = malloc(*size);
    sealed_block_encode(block, sealed);
    return sealed;
}

static void publish_sized(struct memory_ledger *ledger, unsigned count, size_t value_bytes)
{
    for (unsigned i = 0; i < count; i++) {
        struct header header;
        struct sealed_block block;
        struct diff_writer diff = {0};
        size_t size;
        pthread_mutex_lock(&ledger->lock);
        make_block(ledger, &header, &block, &diff, value_bytes);
        header_sign(&header, ledger->secret);
        uint8_t *sealed = seal(&header, &block, &size);
        append(ledger, &header, sealed, size);
        pthread_mutex_unlock(&ledger->lock);
        free(sealed);
        free(diff.bytes);
    }
}

static void publish(struct memory_ledger *ledger, unsigned count)
{
    publish_sized(ledger, count, 100);
}

static void assert_equal(struct memory_ledger *a, struct memory_ledger *b)
{
    uint8_t digest_a[32], digest_b[32];
    ck_assert_uint_eq(memory_height(a, digest_a), memory_height(b, digest_b));
    ck_assert_mem_eq(digest_a, digest_b, 32);
}

static struct source *serve(struct memory_ledger *ledger, int n)
{
    struct source *source;
    ck_assert_msg(source_open(&ledger->table, url_of(n), &source) == ENG_OK, "%s", eng_error());
    return source;
}

static struct follower *follow(struct memory_ledger *ledger, int from, int to)
{
    const char *urls[4];
    size_t count = 0;
    for (int n = from; n <= to; n++)
        urls[count++] = url_of(n);
    struct follower *follower;
    ck_assert_msg(follower_open(&ledger->table, urls, count, &follower) == ENG_OK, "%s", eng_error());
    return follower;
}

static void wait_state(struct follower *follower, enum follower_state state, struct follower_status *status)
{
    for (uint64_t until = now_ms() + 20000; now_ms() < until; sleep_ms(5)) {
        follower_status(follower, status);
        if (status->state == state)
            return;
    }
    ck_abort_msg("state is %d and not %d: %s", status->state, state, status->error);
}

static void wait_error(struct follower *follower, const char *part, struct follower_status *status)
{
    for (uint64_t until = now_ms() + 20000; now_ms() < until; sleep_ms(5)) {
        follower_status(follower, status);
        if (strstr(status->error, part))
            return;
    }
    ck_abort_msg("error is '%s', without '%s'", status->error, part);
}

/* ---- following ---- */

START_TEST(catches_up_and_stays_live)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 1000);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 1000, 20000), ENG_OK);
    assert_equal(a, b);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_uint_eq(status.source_height, 1000);
    ck_assert_str_eq(status.address, url_of(0));
    ck_assert_str_eq(status.error, "");
    uint64_t worst = 0;
    for (unsigned i = 1; i <= 20; i++) { /* each wakes a poll that waits */
        sleep_ms(10);
        uint64_t start = now_ms();
        publish(a, 1);
        ck_assert_int_eq(memory_wait(b, 1000 + i, 5000), ENG_OK);
        worst = now_ms() - start > worst ? now_ms() - start : worst;
    }
    ck_assert_uint_lt(worst, 2000);
    struct source_follower seen[4];
    sleep_ms(100);
    ck_assert_uint_eq(source_followers(source, seen, 4), 1);
    ck_assert_mem_eq(seen[0].node_key, b->node_key, 32);
    ck_assert_uint_eq(seen[0].durable_height, 1020);
    follower_close(&follower);
    ck_assert_ptr_null(follower);
    source_close(&source);
    assert_equal(a, b);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(resumes_after_both_ends_restart)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 50);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 50, 20000), ENG_OK);
    follower_close(&follower);
    publish(a, 50);
    follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 100, 20000), ENG_OK);
    for (unsigned turn = 1; turn <= 3; turn++) { /* the source goes away during a poll */
        source_close(&source);
        wait_state(follower, FOLLOWER_CONNECTING, &status);
        publish(a, 10);
        source = serve(a, 0);
        ck_assert_int_eq(memory_wait(b, 100 + 10 * turn, 20000), ENG_OK);
    }
    wait_state(follower, FOLLOWER_LIVE, &status);
    assert_equal(a, b);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(relays_follow_relays)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2), *c = ledger_make(7, 3);
    struct source *source = serve(a, 0), *relay = serve(b, 1);
    struct follower *first = follow(b, 0, 0), *second = follow(c, 1, 1);
    publish_sized(a, 300, 40000); /* several full answers */
    ck_assert_int_eq(memory_wait(c, 300, 30000), ENG_OK);
    assert_equal(a, c);
    follower_close(&second);
    follower_close(&first);
    source_close(&relay);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
    ledger_free(c);
}
END_TEST

START_TEST(a_busy_ledger_is_tried_again)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 20);
    b->busy = 2;
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 20, 20000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_int_eq(b->busy, 0);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(one_source_of_two_is_enough)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2), *pruned = ledger_make(7, 3);
    struct follower_status status;
    publish(a, 100);
    publish(pruned, 100);
    pruned->first = 60;
    struct source *source = serve(a, 2), *short_source = serve(pruned, 1);
    struct follower *follower = follow(b, 0, 2); /* 0 is dead, 1 has pruned what is wanted, 2 is good */
    ck_assert_int_eq(memory_wait(b, 100, 20000), ENG_OK);
    assert_equal(a, b);
    source_close(&source); /* now what was pruned does not matter any more */
    publish(pruned, 10);
    ck_assert_int_eq(memory_wait(b, 110, 20000), ENG_OK);
    assert_equal(pruned, b);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_str_eq(status.address, url_of(1));
    follower_close(&follower);
    source_close(&short_source);
    ledger_free(a);
    ledger_free(b);
    ledger_free(pruned);
}
END_TEST

/* ---- refusing ---- */

START_TEST(gone_everywhere_fails)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    char line[400];
    publish(a, 30);
    a->first = 12;
    struct source *source = serve(a, 0), *other = serve(a, 1);
    struct follower *follower = follow(b, 0, 1);
    wait_state(follower, FOLLOWER_FAILED, &status);
    snprintf(line, sizeof line, "height 1 is no longer kept by %s, the first is 12", status.address);
    ck_assert_str_eq(status.error, line);
    ck_assert_uint_eq(b->height, 0);
    follower_close(&follower);
    source_close(&source);
    source_close(&other);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(a_source_that_stops_says_so)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 3);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 3, 20000), ENG_OK);
    struct source_follower seen = {.durable_height = 0};
    for (uint64_t until = now_ms() + 20000; seen.durable_height != 3 && now_ms() < until; sleep_ms(5))
        (void)source_followers(source, &seen, 1);
    ck_assert_uint_eq(seen.durable_height, 3); /* its next poll is at the source */
    uint64_t start = now_ms();
    source_close(&source);
    ck_assert_uint_lt(now_ms() - start, 5000); /* it was not given up */
    publish(a, 1);
    source = serve(a, 0);
    ck_assert_int_eq(memory_wait(b, 4, 20000), ENG_OK);
    ck_assert_uint_ge(now_ms() - start, 500); /* the follower let it close in peace */
    wait_state(follower, FOLLOWER_LIVE, &status);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(another_ledger_fails)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(8, 2);
    struct follower_status status;
    publish(a, 3);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_ptr_nonnull(strstr(status.error, "another ledger, id 0707070707070707"));
    struct source_follower seen[1];
    ck_assert_uint_eq(source_followers(source, seen, 1), 0);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* The follower has another block: in the middle of the source's ledger (0), at its newest height (1). */
START_TEST(diverged_at_the_source_fails)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, _i == 0 ? 9 : 5);
    publish(b, 4);
    publish_sized(b, 1, 50);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_ptr_nonnull(strstr(status.error, "diverged: that node has another header at height 5"));
    ck_assert_uint_eq(b->height, 5);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

enum tamper {
    LEDGER_ID,
    HEIGHT,
    HEIGHT_SKIPPED,
    PREVIOUS,
    TIME,
    EPOCH,
    TRANSACTIONS_DIGEST,
    RECEIPTS_DIGEST,
    STATE,
    STATE_COUNT,
    SYSTEM_ROOT,
    TRANSACTION_COUNT,
    NOTE,
    SIGNER,
    SIGNATURE,
    RECEIPTS,
    TRANSACTIONS,
    DIFF,
    TRUNCATED,
    EXTENDED,
    TAMPER_END
};

/* What the follower says when the header was signed again by the right signer, and when it was not. NEXT: a link cannot
 * know better than the right signer and takes the block; then the next one does not follow on it. */
#define NEXT "block 7 is refused: it does not follow on our header"
static const char *const reasons[TAMPER_END][2] = {
    [LEDGER_ID] = {"another ledger", "another ledger"},
    [HEIGHT] = {"another height", "another height"},
    [HEIGHT_SKIPPED] = {"another height", "another height"},
    [PREVIOUS] = {"does not follow on our header", "does not follow on our header"},
    [TIME] = {"time goes back", "time goes back"},
    [EPOCH] = {"epoch goes back", "epoch goes back"},
    [TRANSACTIONS_DIGEST] = {"its transactions", "signature"},
    [RECEIPTS_DIGEST] = {"its receipts", "signature"},
    [STATE] = {"diverges", "signature"},
    [STATE_COUNT] = {"diverges", "signature"},
    [SYSTEM_ROOT] = {NEXT, "signature"},
    [TRANSACTION_COUNT] = {NEXT, "signature"},
    [NOTE] = {NEXT, "signature"},
    [SIGNER] = {"signer set", "signer set"},
    [SIGNATURE] = {"signature", "signature"},
    [RECEIPTS] = {"its receipts", "its receipts"},
    [TRANSACTIONS] = {"its transactions", "its transactions"},
    [DIFF] = {"diverges", "diverges"},
    [TRUNCATED] = {"block 6", "block 6"},
    [EXTENDED] = {"block 6", "block 6"},
};

static void tamper_header(enum tamper what, struct header *header)
{
    switch (what) {
    case LEDGER_ID:
        header->ledger_id[31] ^= 1;
        break;
    case HEIGHT:
        header->height--;
        break;
    case HEIGHT_SKIPPED:
        header->height++;
        break;
    case PREVIOUS:
        header->previous[0] ^= 1;
        break;
    case TIME:
        header->time_ms -= 2;
        break;
    case EPOCH:
        header->epoch--;
        break;
    case TRANSACTIONS_DIGEST:
        header->transactions_digest[5] ^= 1;
        break;
    case RECEIPTS_DIGEST:
        header->receipts_digest[5] ^= 1;
        break;
    case STATE:
        header->state.digest[5] ^= 1;
        break;
    case STATE_COUNT:
        header->state.count++;
        break;
    case SYSTEM_ROOT:
        header->system_root[0] ^= 1;
        break;
    case TRANSACTION_COUNT:
        header->transactions++;
        break;
    case NOTE:
        header->note[0] ^= 1;
        break;
    case SIGNER:
    case SIGNATURE:
    case RECEIPTS:
    case TRANSACTIONS:
    case DIFF:
    case TRUNCATED:
    case EXTENDED:
    case TAMPER_END:
        break;
    }
}

/* Makes height 6 of a (which has 5 blocks) and serves it changed. */
static void tamper(struct memory_ledger *a, enum tamper what, bool sign_again)
{
    struct header header;
    struct sealed_block block;
    struct diff_writer diff = {0};
    uint8_t changed[16] = "changed", other_key[32], other_secret[64];
    make_block(a, &header, &block, &diff, 100);
    if (!sign_again)
        header_sign(&header, a->secret);
    tamper_header(what, &header);
    if (sign_again)
        header_sign(&header, a->secret);
    if (what == SIGNER) {
        crypto_sign_keypair(other_key, other_secret);
        header_sign(&header, other_secret);
    }
    if (what == SIGNATURE)
        header.signature[3] ^= 1;
    if (what == RECEIPTS)
        block.receipts = changed;
    if (what == TRANSACTIONS)
        block.transactions = changed;
    if (what == DIFF)
        diff.bytes[diff.size - 1] ^= 1;
    size_t size;
    uint8_t *sealed = seal(&header, &block, &size);
    if (what == EXTENDED) {
        sealed = realloc(sealed, size + 1);
        sealed[size++] = 0;
    }
    a->tampered = 6;
    a->tampered_size = what == TRUNCATED ? size - 1 : size;
    a->tampered_bytes = sealed;
    free(diff.bytes);
    publish(a, 2);
}

START_TEST(tampered_blocks_are_refused)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    enum tamper what = (enum tamper)(_i / 2);
    bool sign_again = _i % 2 == 0;
    const char *reason = reasons[what][sign_again ? 0 : 1];
    publish(a, 5); /* these are good, and in the same answer */
    tamper(a, what, sign_again);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 5, 20000), ENG_OK); /* those before are good */
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_msg(strstr(status.error, reason), "'%s' without '%s'", status.error, reason);
    ck_assert_uint_eq(b->height, strcmp(reason, NEXT) == 0 ? 6 : 5);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* ---- bad peers ---- */

struct liar {
    nng_socket socket;
    uint8_t *bytes[8];
    size_t size[8];
    unsigned answered, count;
};

static void *liar_main(void *context)
{
    struct liar *liar = context;
    for (; liar->answered < liar->count; liar->answered++) {
        nng_msg *message, *answer;
        if (nng_recvmsg(liar->socket, &message, 0) != 0)
            break;
        nng_msg_free(message);
        ck_assert_int_eq(nng_msg_alloc(&answer, liar->size[liar->answered]), 0);
        if (liar->bytes[liar->answered])
            memcpy(nng_msg_body(answer), liar->bytes[liar->answered], liar->size[liar->answered]);
        ck_assert_int_eq(nng_sendmsg(liar->socket, answer, 0), 0);
    }
    return NULL;
}

/* Answers of every wrong shape; afterwards the right source at the same address. */
START_TEST(bad_answers_are_survived)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 3);
    struct liar liar = {.count = 7};
    uint8_t head[64] = {0};
    message_blocks_head(3, 2, head);
    liar.bytes[0] = head, liar.size[0] = 0;                                   /* nothing at all */
    liar.bytes[1] = head, liar.size[1] = 7;                                   /* half a head */
    liar.bytes[2] = head, liar.size[2] = MESSAGE_BLOCKS_HEAD_BYTES;           /* two blocks, none there */
    liar.bytes[3] = NULL, liar.size[3] = REPLICATION_REPLY_BYTES_MAX + 65536; /* nng closes the connection */
    uint8_t long_block[64] = {0};
    message_blocks_head(3, 1, long_block);
    message_put_size(0xffffffff, long_block + MESSAGE_BLOCKS_HEAD_BYTES);
    liar.bytes[4] = long_block, liar.size[4] = sizeof long_block;
    uint8_t other[MESSAGE_GENESIS_HEAD_BYTES];
    message_genesis_head(0, other);
    liar.bytes[5] = other, liar.size[5] = sizeof other; /* an answer to another question */
    uint8_t newer[3] = {9, 0, 1};
    liar.bytes[6] = newer, liar.size[6] = sizeof newer;
    ck_assert_int_eq(nng_rep0_open(&liar.socket), 0);
    ck_assert_int_eq(nng_socket_set_ms(liar.socket, NNG_OPT_RECVTIMEO, 20000), 0);
    ck_assert_int_eq(nng_listen(liar.socket, url_of(0), NULL, 0), 0);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, liar_main, &liar), 0);
    struct follower *follower = follow(b, 0, 0);
    wait_error(follower, "version 9", &status);
    ck_assert_int_eq(status.state, FOLLOWER_CONNECTING);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(liar.answered, liar.count);
    nng_close(liar.socket);
    ck_assert_uint_eq(b->height, 0);
    struct source *source = serve(a, 0);
    ck_assert_int_eq(memory_wait(b, 3, 20000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

static nng_socket client(const char *url)
{
    nng_socket socket;
    ck_assert_int_eq(nng_req0_open(&socket), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_REQ_RESENDTIME, -1), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, 20000), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_SENDTIMEO, 20000), 0);
    ck_assert_int_eq(nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, 0), 0);
    ck_assert_int_eq(nng_dial(socket, url, NULL, 0), 0);
    return socket;
}

static void ask(nng_socket socket, const void *bytes, size_t size)
{
    nng_msg *message;
    ck_assert_int_eq(nng_msg_alloc(&message, size), 0);
    if (size)
        memcpy(nng_msg_body(message), bytes, size);
    ck_assert_int_eq(nng_sendmsg(socket, message, 0), 0);
}

/* The decoded answer; *message is to be freed. */
static struct message_reply answer_of(nng_socket socket, nng_msg **message)
{
    struct message_reply reply;
    ck_assert_int_eq(nng_recvmsg(socket, message, 0), 0);
    ck_assert_int_eq(message_reply_decode(nng_msg_body(*message), nng_msg_len(*message), &reply), ENG_OK);
    return reply;
}

static void ask_blocks(nng_socket socket, struct memory_ledger *ledger, uint64_t from, uint32_t max_bytes,
                       uint32_t wait_ms)
{
    struct message_request request = {MESSAGE_BLOCKS, .from = from, .max_bytes = max_bytes, .wait_ms = wait_ms};
    uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX];
    memcpy(request.ledger_id, ledger->ledger_id, 32);
    memcpy(request.previous, from > 1 ? ledger->blocks[from - 1].digest : ledger->ledger_id, 32);
    randombytes_buf(request.node_key, 32);
    ask(socket, bytes, message_request_encode(&request, bytes));
}

START_TEST(bad_requests_are_survived)
{
    struct memory_ledger *a = ledger_make(7, 1);
    publish(a, 3);
    struct source *source = serve(a, 0);
    nng_socket socket = client(url_of(0));
    nng_msg *message;
    uint8_t junk[4096];
    for (unsigned i = 0; i < 300; i++) {
        randombytes_buf(junk, sizeof junk);
        ask(socket, junk, i % 200);
        struct message_reply reply = answer_of(socket, &message);
        ck_assert_int_eq(reply.kind, MESSAGE_ERROR);
        ck_assert_int_eq(reply.error, MESSAGE_MALFORMED);
        nng_msg_free(message);
    }
    ask(socket, junk, sizeof junk); /* over the limit: the connection is closed */
    ck_assert_int_eq(nng_recvmsg(socket, &message, 0), NNG_ECONNRESET);
    ask_blocks(socket, a, 1, 1 << 20, 0); /* and made again */
    ck_assert_uint_eq(answer_of(socket, &message).count, 3);
    nng_msg_free(message);
    nng_close(socket);
    source_close(&source);
    ledger_free(a);
}
END_TEST

/* ---- polls ---- */

START_TEST(answers_keep_to_the_bytes_and_the_time)
{
    struct memory_ledger *a = ledger_make(7, 1);
    publish_sized(a, 10, 10000);
    struct source *source = serve(a, 0);
    nng_socket socket = client(url_of(0));
    nng_msg *message;
    ask_blocks(socket, a, 1, 0, 0); /* one at least */
    ck_assert_uint_eq(answer_of(socket, &message).count, 1);
    nng_msg_free(message);
    ask_blocks(socket, a, 4, 25000, 0);
    struct message_reply reply = answer_of(socket, &message);
    ck_assert_uint_eq(reply.count, 2);
    ck_assert_uint_eq(reply.height, 10);
    ck_assert_uint_le(reply.body_bytes, 25000);
    nng_msg_free(message);
    uint64_t start = now_ms();
    ask_blocks(socket, a, 11, 25000, 500);
    reply = answer_of(socket, &message);
    ck_assert_uint_eq(reply.count, 0);
    ck_assert_uint_eq(reply.height, 10);
    ck_assert_uint_ge(now_ms() - start, 490);
    ck_assert_uint_le(now_ms() - start, 5000);
    nng_msg_free(message);
    nng_close(socket);
    source_close(&source);
    ledger_free(a);
}
END_TEST

/* As many polls as there may be wait; others are still answered, one too many is told so, a block wakes them all. */
START_TEST(polls_that_wait_block_nobody)
{
    static nng_socket waiting[REPLICATION_FOLLOWERS_MAX];
    struct memory_ledger *a = ledger_make(7, 1);
    struct source *source;
    nng_msg *message;
    char *json;
    size_t size;
    publish(a, 1);
    ck_assert_int_eq(source_open(&a->table, "inproc://polls", &source), ENG_OK);
    for (int i = 0; i < REPLICATION_FOLLOWERS_MAX; i++) {
        waiting[i] = client("inproc://polls");
        ask_blocks(waiting[i], a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    }
    static struct source_follower seen[REPLICATION_FOLLOWERS_MAX + 1];
    for (uint64_t until = now_ms() + 20000; now_ms() < until; sleep_ms(5)) {
        if (source_followers(source, seen, REPLICATION_FOLLOWERS_MAX + 1) == REPLICATION_FOLLOWERS_MAX)
            break;
    }
    sleep_ms(50);
    ck_assert_uint_eq(source_followers(source, seen, REPLICATION_FOLLOWERS_MAX + 1), REPLICATION_FOLLOWERS_MAX);
    ck_assert_int_eq(replication_fetch_genesis("inproc://polls", 5000, &json, &size), ENG_OK);
    ck_assert_str_eq(json, genesis);
    ck_assert_uint_eq(size, sizeof genesis - 1);
    free(json);
    nng_socket one_more = client("inproc://polls");
    ask_blocks(one_more, a, 1, 1 << 20, REPLICATION_WAIT_MS_MAX);
    ck_assert_uint_eq(answer_of(one_more, &message).count, 1);
    nng_msg_free(message);
    ask_blocks(one_more, a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    ck_assert_int_eq(answer_of(one_more, &message).error, MESSAGE_BUSY);
    nng_msg_free(message);
    for (int i = 0; i < 10; i++)
        nng_close(waiting[i]); /* their places are free again */
    sleep_ms(100);
    ask_blocks(one_more, a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    sleep_ms(50);
    uint64_t start = now_ms();
    publish(a, 1);
    for (int i = 10; i < REPLICATION_FOLLOWERS_MAX; i++) {
        ck_assert_uint_eq(answer_of(waiting[i], &message).count, 1);
        nng_msg_free(message);
        nng_close(waiting[i]);
    }
    ck_assert_uint_eq(answer_of(one_more, &message).count, 1);
    nng_msg_free(message);
    ck_assert_uint_lt(now_ms() - start, 5000);
    nng_close(one_more);
    source_close(&source);
    ledger_free(a);
}
END_TEST

START_TEST(genesis_is_fetched)
{
    struct memory_ledger *a = ledger_make(7, 1);
    char *json;
    size_t size;
    uint64_t start = now_ms();
    ck_assert_int_eq(replication_fetch_genesis(url_of(0), 300, &json, &size), ENG_TIMEOUT);
    ck_assert_uint_le(now_ms() - start, 3000);
    ck_assert_ptr_null(json);
    ck_assert_int_eq(replication_fetch_genesis("nonsense", 300, &json, &size), ENG_INVALID);
    struct source *source = serve(a, 0), *second = NULL;
    ck_assert_int_eq(replication_fetch_genesis(url_of(0), 10000, &json, &size), ENG_OK);
    ck_assert_str_eq(json, genesis);
    ck_assert_uint_eq(size, sizeof genesis - 1);
    free(json);
    ck_assert_int_eq(source_open(&a->table, url_of(0), &second), ENG_IO); /* in use */
    ck_assert_ptr_null(second);
    source_close(&source);
    ledger_free(a);
}
END_TEST

/* ---- codec ---- */

START_TEST(requests_have_one_encoding)
{
    struct message_request request = {MESSAGE_BLOCKS, .from = 5, .max_bytes = 6, .wait_ms = 7, .durable = 8}, decoded;
    memset(request.ledger_id, 1, 32);
    memset(request.previous, 2, 32);
    memset(request.node_key, 3, 32);
    uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX + 1] = {0};
    size_t size = message_request_encode(&request, bytes);
    ck_assert_uint_eq(size, MESSAGE_REQUEST_BYTES_MAX);
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_OK);
    ck_assert_mem_eq(&request, &decoded, sizeof request);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *exact = malloc(cut + 1); /* so that a read behind the end is seen */
        memcpy(exact + 1, bytes, cut);
        ck_assert_int_eq(message_request_decode(exact + 1, cut, &decoded), ENG_DAMAGED);
        free(exact);
    }
    ck_assert_int_eq(message_request_decode(bytes, size + 1, &decoded), ENG_DAMAGED);
    request.wait_ms = REPLICATION_WAIT_MS_MAX + 1;
    size = message_request_encode(&request, bytes);
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_INVALID);
    request.wait_ms = 0;
    request.from = 0;
    size = message_request_encode(&request, bytes);
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_INVALID);
    bytes[0] = 2;
    ck_assert_int_eq(message_request_decode(bytes, size, &decoded), ENG_VERSION);
}
END_TEST

/* Every cut and every changed byte of three replies: refused, or decoded to what can be walked. */
START_TEST(replies_are_checked_to_the_byte)
{
    uint8_t blocks[64], gen[32], error[MESSAGE_ERROR_BYTES_MAX], id[32] = {4};
    message_blocks_head(9, 2, blocks);
    message_put_size(3, blocks + MESSAGE_BLOCKS_HEAD_BYTES);
    memcpy(blocks + MESSAGE_BLOCKS_HEAD_BYTES + 4, "abc", 3);
    message_put_size(0, blocks + MESSAGE_BLOCKS_HEAD_BYTES + 7);
    message_genesis_head(4, gen);
    memcpy(gen + MESSAGE_GENESIS_HEAD_BYTES, "json", 4);
    size_t error_size = message_error_encode(MESSAGE_GONE, 44, id, "why\nnot", error);
    struct {
        uint8_t *bytes;
        size_t size;
    } all[] = {{blocks, MESSAGE_BLOCKS_HEAD_BYTES + 11}, {gen, MESSAGE_GENESIS_HEAD_BYTES + 4}, {error, error_size}};
    struct message_reply reply;
    ck_assert_int_eq(message_reply_decode(error, error_size, &reply), ENG_OK);
    ck_assert_str_eq(reply.text, "why?not"); /* nothing that a terminal would obey */
    ck_assert_uint_eq(reply.first, 44);
    ck_assert_mem_eq(reply.ledger_id, id, 32);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(message_reply_decode(all[i].bytes, all[i].size, &reply), ENG_OK);
        for (size_t cut = 0; cut < all[i].size; cut++) {
            uint8_t *exact = malloc(cut + 1);
            memcpy(exact + 1, all[i].bytes, cut);
            ck_assert_int_eq(message_reply_decode(exact + 1, cut, &reply), ENG_DAMAGED);
            free(exact);
        }
        for (size_t at = 0; at < all[i].size * 255; at++) {
            uint8_t *changed = malloc(all[i].size);
            memcpy(changed, all[i].bytes, all[i].size);
            changed[at / 255] ^= (uint8_t)(at % 255 + 1);
            if (message_reply_decode(changed, all[i].size, &reply) == ENG_OK && reply.kind == MESSAGE_BLOCKS) {
                const uint8_t *block;
                uint32_t bytes, count = 0;
                for (size_t walk = 0; message_reply_next(&reply, &walk, &block, &bytes); count++)
                    ck_assert(block + bytes <= changed + all[i].size);
                ck_assert_uint_eq(count, reply.count);
            }
            free(changed);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("replication");
    TCase *tests = tcase_create("replication");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, requests_have_one_encoding);
    tcase_add_test(tests, replies_are_checked_to_the_byte);
    tcase_add_test(tests, catches_up_and_stays_live);
    tcase_add_test(tests, resumes_after_both_ends_restart);
    tcase_add_test(tests, relays_follow_relays);
    tcase_add_test(tests, a_busy_ledger_is_tried_again);
    tcase_add_test(tests, one_source_of_two_is_enough);
    tcase_add_test(tests, gone_everywhere_fails);
    tcase_add_test(tests, a_source_that_stops_says_so);
    tcase_add_test(tests, another_ledger_fails);
    tcase_add_loop_test(tests, diverged_at_the_source_fails, 0, 2);
    tcase_add_loop_test(tests, tampered_blocks_are_refused, 0, 2 * TAMPER_END);
    tcase_add_test(tests, bad_answers_are_survived);
    tcase_add_test(tests, bad_requests_are_survived);
    tcase_add_test(tests, answers_keep_to_the_bytes_and_the_time);
    tcase_add_test(tests, polls_that_wait_block_nobody);
    tcase_add_test(tests, genesis_is_fetched);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
