/*
 * What the tests of the ledger share: a ledger on a simulated disk with a clock of its own, transactions made operation
 * by operation, and answers that are kept.
 */
#ifndef TESTS_LEDGER_FIXTURE_H
#define TESTS_LEDGER_FIXTURE_H

#include <assert.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger.h"

#define FIXTURE_WINDOW_MS 600000u
#define FIXTURE_TIME_MS 1700000000000u

struct fixture {
    struct disk *disk;
    struct genesis genesis;
    uint8_t public_key[32], secret[64];
    _Atomic uint64_t now_ms;
    struct ledger_options options;
    struct ledger *ledger;
};

static inline uint64_t fixture_clock(void *context)
{
    return atomic_load_explicit(&((struct fixture *)context)->now_ms, memory_order_relaxed);
}

/* The genesis and key are always the same; seed names another key. */
static inline void fixture_init(struct fixture *fixture, uint8_t seed)
{
    uint8_t key_seed[crypto_sign_SEEDBYTES] = {seed}, nonce[16] = {7}, signer[32], signer_secret[64];
    static const uint8_t first_seed[crypto_sign_SEEDBYTES] = {1};
    memset(fixture, 0, sizeof(*fixture));
    if (!digest_init())
        abort();
    crypto_sign_seed_keypair(signer, signer_secret, first_seed);
    crypto_sign_seed_keypair(fixture->public_key, fixture->secret, key_seed);
    if (genesis_make("test", signer, FIXTURE_WINDOW_MS, nonce, &fixture->genesis) != ENG_OK)
        abort();
    fixture->now_ms = FIXTURE_TIME_MS;
    fixture->options = (struct ledger_options){
        .genesis = &fixture->genesis,
        .node_public = fixture->public_key,
        .node_secret = fixture->secret,
        .role = LEDGER_LEADER,
        .block_max_txs = 1000,
        .block_max_bytes = 1 << 20,
        .block_max_wait_ms = 5,
        .retain_blocks = 1000,
        .checkpoint_log_bytes = 1 << 20,
        .segment_bytes = 256 << 10,
        .leaf_bytes = 512,
        .threads = 1,
        .log_file_bytes = 256 << 10,
        .log_ring_bytes = 4 << 20,
        .create = true,
        .stepped = true,
        .clock_ms = fixture_clock,
        .clock_context = fixture,
    };
}

static inline enum eng_status fixture_open(struct fixture *fixture)
{
    fixture->options.disk = fixture->disk;
    return ledger_open(&fixture->options, &fixture->ledger);
}

static inline void fixture_release(struct fixture *fixture)
{
    ledger_close(&fixture->ledger, 0);
    disk_close(&fixture->disk);
    genesis_release(&fixture->genesis);
}

/* ---- transactions ---- */

#define DRAFT_OPERATIONS_MAX 64

struct draft {
    struct transaction tx;
    struct tx_operation operations[DRAFT_OPERATIONS_MAX];
    uint8_t *bytes;
    size_t size;
};

/* number makes the id. */
static inline void draft_begin(struct draft *draft, uint64_t number, uint64_t expires_ms)
{
    memset(draft, 0, sizeof(*draft));
    draft->tx.operations = draft->operations;
    draft->tx.expires_ms = expires_ms;
    memcpy(draft->tx.id, &number, sizeof(number));
}

static inline struct tx_operation *draft_add(struct draft *draft, enum tx_kind kind, const char *key)
{
    assert(draft->tx.operation_count < DRAFT_OPERATIONS_MAX);
    struct tx_operation *op = &draft->operations[draft->tx.operation_count++];
    *op = (struct tx_operation){.kind = kind, .key = (const uint8_t *)key, .key_bytes = (uint16_t)strlen(key)};
    return op;
}

static inline struct tx_operation *draft_value(struct draft *draft, enum tx_kind kind, const char *key,
                                               const char *value)
{
    struct tx_operation *op = draft_add(draft, kind, key);
    op->value = (struct eng_value){ENG_BYTES, (const uint8_t *)value, strlen(value)};
    return op;
}

static inline struct tx_operation *draft_amount(struct draft *draft, const char *key, __int128 amount)
{
    struct tx_operation *op = draft_add(draft, TX_ADD, key);
    op->amount = amount;
    return op;
}

static inline void draft_range(struct draft *draft, const char *from, const char *to)
{
    struct tx_operation *op = draft_add(draft, TX_DELETE_RANGE, from);
    op->to = (const uint8_t *)to;
    op->to_bytes = (uint16_t)strlen(to);
}

static inline void draft_end(struct draft *draft)
{
    free(draft->bytes);
    draft->bytes = NULL;
    if (transaction_encode(&draft->tx, &draft->bytes, &draft->size) != ENG_OK) {
        fprintf(stderr, "%s\n", eng_error());
        abort();
    }
}

static inline void draft_release(struct draft *draft)
{
    free(draft->bytes);
    draft->bytes = NULL;
}

/* ---- answers ---- */

struct answer {
    atomic_int calls;
    enum tx_code code;
    bool has_receipt;
    struct receipt receipt; /* results point into bytes */
    uint8_t *bytes;
    size_t size;
};

static inline void answer_keep(void *context, enum tx_code code, const uint8_t *bytes, size_t size)
{
    struct answer *answer = context;
    answer->code = code;
    answer->has_receipt = bytes != NULL;
    if (bytes) {
        size_t used;
        answer->bytes = malloc(size);
        memcpy(answer->bytes, bytes, size);
        answer->size = size;
        if (receipt_decode(answer->bytes, size, &answer->receipt, &used) != ENG_OK || used != size)
            abort();
    }
    /* release: partner of the acquire in whoever looks at the answer */
    atomic_fetch_add_explicit(&answer->calls, 1, memory_order_release);
}

static inline int answer_calls(struct answer *answer)
{
    return atomic_load_explicit(&answer->calls, memory_order_acquire);
}

static inline void answer_release(struct answer *answer)
{
    free(answer->bytes);
    memset(answer, 0, sizeof(*answer));
}

/* Submits, steps, and returns the code of what came of it. */
static inline enum tx_code fixture_run(struct fixture *fixture, struct draft *draft, struct answer *answer)
{
    draft_end(draft);
    enum tx_code code = ledger_submit(fixture->ledger, draft->bytes, draft->size, answer_keep, answer);
    draft_release(draft);
    if (code != TX_OK)
        return code;
    if (ledger_step(fixture->ledger) != ENG_OK) {
        fprintf(stderr, "%s\n", eng_error());
        abort();
    }
    if (answer_calls(answer) != 1)
        abort();
    return answer->code == TX_OK ? answer->receipt.code : answer->code;
}

/* ---- imported blocks ---- */

static inline uint8_t *fixture_block(uint64_t height, uint64_t time_ms, const char *note, struct draft *drafts,
                                     size_t count, size_t *size)
{
    uint16_t note_bytes = (uint16_t)strlen(note);
    uint32_t n = (uint32_t)count;
    *size = 1 + 8 + 8 + 2 + note_bytes + 4;
    for (size_t i = 0; i < count; i++) {
        draft_end(&drafts[i]);
        *size += 4 + drafts[i].size;
    }
    uint8_t *bytes = malloc(*size), *at = bytes;
    *at++ = 1;
    memcpy(at, &height, 8);
    memcpy(at + 8, &time_ms, 8);
    memcpy(at + 16, &note_bytes, 2);
    memcpy(at + 18, note, note_bytes);
    at += 18 + note_bytes;
    memcpy(at, &n, 4);
    at += 4;
    for (size_t i = 0; i < count; i++) {
        uint32_t length = (uint32_t)drafts[i].size;
        memcpy(at, &length, 4);
        memcpy(at + 4, drafts[i].bytes, length);
        at += 4 + length;
        draft_release(&drafts[i]);
    }
    return bytes;
}

static inline void import_keep(void *context, const struct import_result *result)
{
    *(struct import_result *)context = *result;
}

#endif
