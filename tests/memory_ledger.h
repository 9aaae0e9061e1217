/*
 * The ledger in memory of the tests of replication.
 *
 * It keeps sealed blocks in an array and has a state digest that hashes all diffs in order, so a block whose diff was
 * changed gives another root, as in a real one. Blocks can be replaced as served (tampering), pruned, or refused for a
 * while. It is served over ipc in a directory of the test's own: setup makes it, teardown removes it.
 */
#ifndef TESTS_MEMORY_LEDGER_H
#define TESTS_MEMORY_LEDGER_H

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

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

static inline void setup(void)
{
    ck_assert_int_ge(sodium_init(), 0);
    snprintf(directory, sizeof directory, "/tmp/pando-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static inline void teardown(void)
{
    char path[96];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%d", directory, i);
        unlink(path);
    }
    rmdir(directory);
}

static inline const char *url_of(int n)
{
    static char urls[4][96];
    snprintf(urls[n], sizeof urls[n], "ipc://%s/%d", directory, n);
    return urls[n];
}

static inline uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline void sleep_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* ---- the ledger in memory ---- */

static inline uint64_t memory_height(void *context, uint8_t digest[32])
{
    struct memory_ledger *ledger = context;
    pthread_mutex_lock(&ledger->lock);
    uint64_t height = ledger->height;
    memcpy(digest, height ? ledger->blocks[height].digest : ledger->ledger_id, 32);
    pthread_mutex_unlock(&ledger->lock);
    return height;
}

static inline enum eng_status memory_header(void *context, uint64_t height, struct header *header)
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

static inline enum eng_status memory_read_sealed(void *context, uint64_t height, uint8_t **bytes, size_t *capacity,
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

static inline enum eng_status memory_wait(void *context, uint64_t height, int timeout_ms)
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

static inline bool memory_may_sign(void *context, const uint8_t signer[32], uint64_t epoch)
{
    struct memory_ledger *ledger = context;
    return memcmp(signer, ledger->signer, 32) == 0;
}

/* The state after a block: a digest over the one before and the diff. */
static inline void next_state(const struct memory_ledger *ledger, const uint8_t *diff, size_t diff_bytes,
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
static inline void append(struct memory_ledger *ledger, const struct header *header, const uint8_t *sealed, size_t size)
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

static inline enum eng_status memory_apply(void *context, const struct header *header, const uint8_t *sealed,
                                           size_t size)
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

static inline uint64_t memory_durable(void *context)
{
    uint8_t digest[32];
    return memory_height(context, digest);
}

static inline struct memory_ledger *ledger_make(uint8_t id, uint8_t node)
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

static inline void ledger_free(struct memory_ledger *ledger)
{
    for (uint64_t i = 1; i <= ledger->height; i++)
        free(ledger->blocks[i].bytes);
    free(ledger->tampered_bytes);
    free(ledger);
}

/* What is in the next block of a ledger, before it is signed. */
static inline void make_block(const struct memory_ledger *ledger, struct header *header, struct sealed_block *block,
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

static inline uint8_t *seal(const struct header *header, struct sealed_block *block, size_t *size)
{
    uint8_t bytes[HEADER_BYTES_MAX];
    block->header_bytes = (uint32_t)header_encode(header, bytes);
    block->header = bytes;
    *size = sealed_block_size(block);
    uint8_t *sealed = malloc(*size);
    sealed_block_encode(block, sealed);
    return sealed;
}

static inline void publish_sized(struct memory_ledger *ledger, unsigned count, size_t value_bytes)
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

static inline void publish(struct memory_ledger *ledger, unsigned count)
{
    publish_sized(ledger, count, 100);
}

static inline struct source *serve(struct memory_ledger *ledger, int n)
{
    struct source *source;
    ck_assert_msg(source_open(&ledger->table, url_of(n), &source) == ENG_OK, "%s", eng_error());
    return source;
}

#endif
