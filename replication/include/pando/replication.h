/*
 * Replication, follower-driven: REQ/REP long polls over nng (DESIGN section 5).
 *
 * source     serves sealed blocks from its ledger: a request {ledger id, from height, digest of the header before it,
 *            max bytes, wait ms, durable up to, follower's node key} is answered by a run of sealed blocks, or by
 *            nothing new after wait ms, or by an error (another ledger; a height no longer kept: names the first kept;
 *            the header before is not ours: diverged). Also answers {genesis} for `pando init --join`.
 * follower   one thread: polls the sources in turn, verifies ledger id, height, previous digest, time, epoch, signer
 *            (must be in the signer set) and signature, the receipts digest, then hands the block to the ledger, which
 *            recomputes the root before anything is published. Resumes at its own height after any interruption, with
 *            backoff (100 ms .. 5 s). A block that does not verify is not applied (P8); its source is named and passed
 *            over, and when no other is left the function stops (P9): state FAILED, one line.
 *
 * The ledger is reached through the function table below, so that this folder knows nothing of node/. Sockets are
 * opened once; NNG_OPT_RECVMAXSZ is set on all; REQ resend is off.
 */
#ifndef PANDO_REPLICATION_H
#define PANDO_REPLICATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/header.h"
#include "pando/status.h"

#define REPLICATION_FOLLOWERS_MAX 256
#define REPLICATION_REPLY_BYTES_MAX (SEALED_BYTES_MAX + (1u << 20))
#define REPLICATION_REPLY_BYTES_DEFAULT (4u << 20)
#define REPLICATION_WAIT_MS_MAX 30000
#define REPLICATION_GENESIS_BYTES_MAX (1u << 20)

/* What replication needs of a ledger. All calls from replication's threads. */
struct replication_ledger {
    void *context;
    uint8_t ledger_id[32];
    uint8_t node_key[32]; /* public */
    const char *genesis;  /* bytes of genesis.json */
    size_t genesis_bytes;
    /* Newest published height, and the digest of its header (height 0: the ledger id). */
    uint64_t (*height)(void *context, uint8_t header_digest[32]);
    /* Newest header; time and epoch checks. ENG_NOT_FOUND at height 0. */
    enum eng_status (*header)(void *context, uint64_t height, struct header *header);
    /* The sealed block of a height, appended to a malloc'ed buffer as for getline. ENG_NOT_FOUND: not yet; ENG_GONE:
     * no longer kept, *first is the first kept height. */
    enum eng_status (*read_sealed)(void *context, uint64_t height, uint8_t **bytes, size_t *capacity, size_t *size,
                                   uint64_t *first);
    /* Waits until height is published. ENG_TIMEOUT. */
    enum eng_status (*wait)(void *context, uint64_t height, int timeout_ms);
    /* True if this key may sign a block of this height and epoch. */
    bool (*may_sign)(void *context, const uint8_t signer[32], uint64_t epoch);
    /* Applies a verified sealed block: logs it, merges the diff, compares the root with the header before publishing.
     * ENG_CONFLICT: the root differs (diverged). */
    enum eng_status (*apply)(void *context, const struct header *header, const uint8_t *sealed, size_t size);
    /* Highest height that is durable here. */
    uint64_t (*durable)(void *context);
    /* Told once, from the follower's thread, that a source is not believed any more while others are: a line with its
     * address and what it gave. May be NULL. */
    void (*warn)(void *context, const char *line);
};

struct source;
/* Listens on url (nng) and serves. ENG_IO with the reason (address in use, no permission). */
ENG_MUST_CHECK enum eng_status source_open(const struct replication_ledger *ledger, const char *url,
                                           struct source **source);
void source_close(struct source **source);
struct source_follower {
    uint8_t node_key[32];
    uint64_t durable_height;
    uint64_t seen_ms; /* since the last request */
};
/* Followers seen in the last minute. */
size_t source_followers(struct source *source, struct source_follower *followers, size_t max);

struct follower;
enum follower_state { FOLLOWER_CONNECTING, FOLLOWER_CATCHING_UP, FOLLOWER_LIVE, FOLLOWER_FAILED };
struct follower_status {
    enum follower_state state;
    uint64_t source_height; /* as last told */
    char address[256];
    char error[512]; /* last error line, also while LIVE that of a source that is not believed; "" if none */
};
ENG_MUST_CHECK enum eng_status follower_open(const struct replication_ledger *ledger, const char *const urls[],
                                             size_t count, struct follower **follower);
void follower_status(struct follower *follower, struct follower_status *status);
void follower_close(struct follower **follower); /* finishes the block at hand */

/* Fetches the genesis of a running node (malloc'ed). ENG_TIMEOUT, ENG_IO, ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status replication_fetch_genesis(const char *url, int timeout_ms, char **genesis, size_t *size);

#endif
