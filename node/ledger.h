/*
 * The ledger of a node: order, log, execute, merge, root (DESIGN section 1), the same for a leader, which executes
 * transactions, and a follower, which applies sealed blocks. It knows no sockets.
 *
 *   submit ---> LOG ring (TX records: the byte order is the ledger's order) ---> EXECUTE thread: rules into the write
 *   set (eng_batch), receipts; closes the block by count, bytes or time with a BLOCK_END record ---> MERGE thread:
 *   eng_commit, header, signature; seals the block (SEALED record) ---> published when the block-end is durable and the
 *   root is merged; receipts are answered then, in order.
 *
 * Log records (types LOG_USER + n):
 *   TX         the transaction's bytes
 *   BLOCK_END  u64 height | u64 time_ms | u64 epoch | u64 log offset of its first transaction |
 *              u64 offset behind its last | u32 transactions | u16 note bytes | note
 *              (transactions: TX records in that range, in order; those that EXECUTE refused as duplicate or expired
 *              are refused again by the replay)
 *   BLOCK      an imported block whole (node/transaction.h) with the same prefix as BLOCK_END; only after it succeeded
 *   SEALED     a sealed block (pando/header.h): on a follower the block itself, on a leader what it published;
 *              rebuilt by replay where it is missing, compared byte by byte where it is there
 * Start = newest checkpoint (engine) + replay of the log behind it: the same code as live execution.
 *
 * Every height's SEALED record is found through an index (state in memory, rebuilt from the log at start, kept compact:
 * 8 bytes a height). Ids are remembered until they expire (P4), rebuilt from the receipts of the sealed blocks.
 *
 * Threads: every function from any thread unless said otherwise. Callbacks come from ledger threads and must not block.
 */
#ifndef NODE_LEDGER_H
#define NODE_LEDGER_H

#include "genesis.h"
#include "receipt.h"
#include "transaction.h"

#include "pando/config.h"
#include "pando/disk.h"
#include "pando/engine.h"
#include "pando/header.h"

struct ledger;

enum ledger_role { LEDGER_LEADER, LEDGER_FOLLOWER };

struct ledger_options {
    struct disk *disk; /* of the data directory; locked by the caller */
    const struct genesis *genesis;
    const uint8_t *node_public; /* 32 */
    const uint8_t *node_secret; /* 64; signs headers if role is leader */
    enum ledger_role role;
    uint32_t block_max_txs;
    uint64_t block_max_bytes;
    uint32_t block_max_wait_ms;
    uint64_t retain_blocks, retain_every;
    uint64_t checkpoint_log_bytes;
    uint64_t hot_bytes;                          /* of memory that may be locked for what is read most; 0: none */
    uint32_t leaf_bytes, segment_bytes, threads; /* 0: defaults; leaf and segment are used at creation only */
    uint64_t log_file_bytes, log_ring_bytes;     /* 0: defaults */
    bool create;                                 /* create state and log if there are none */
    bool stepped;                        /* no threads at all: ledger_step does the work in the caller (simulation) */
    uint64_t (*clock_ms)(void *context); /* NULL: CLOCK_REALTIME */
    void *clock_context;
    /* progress of the replay at start: done and total log bytes; may be NULL */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
    /* one line if less than hot_bytes may be locked; any thread; may be NULL */
    void (*warn)(void *context, const char *line);
    void *warn_context;
};

/* Recovers and starts. ENG_FOREIGN, ENG_VERSION, ENG_DAMAGED, ENG_FULL, ENG_IO, ENG_NOT_FOUND (no state, create false),
 * ENG_FOREIGN too if role is leader and the node key is not in the signer set. */
ENG_MUST_CHECK enum eng_status ledger_open(const struct ledger_options *options, struct ledger **ledger);
/* Answers what was accepted, makes a checkpoint if it finishes before deadline_ms, stops. */
void ledger_close(struct ledger **ledger, int deadline_ms);
/* stepped: executes, merges, flushes and publishes all that was submitted. */
ENG_MUST_CHECK enum eng_status ledger_step(struct ledger *ledger);
/* ENG_OK, or why the ledger has stopped taking blocks (P1, P9), with the line in text. Reads go on. */
enum eng_status ledger_failure(struct ledger *ledger, char *text, size_t text_bytes);

/* ---- writing (leader) ---- */

/* done(context, code, receipt bytes or NULL, size): code TX_OK: there is a receipt (which may itself say that the
 * transaction failed), durable; otherwise refused (TX_EXPIRED, TX_BUSY, ...), nothing recorded. */
typedef void ledger_done(void *context, enum tx_code code, const uint8_t *receipt, size_t size);
/* Checks, appends to the log, answers later (also for a resubmission: the first receipt). Returns TX_OK if accepted:
 * done is called exactly once; otherwise done is not called: TX_MALFORMED, TX_TOO_LARGE, TX_EXPIRED, TX_BUSY (queue or
 * disk full), TX_NOT_LEADER; eng_error() has the line. bytes are copied. */
enum tx_code ledger_submit(struct ledger *ledger, const uint8_t *bytes, size_t size, ledger_done *done, void *context);

struct import_result {
    enum eng_status status; /* ENG_OK: durable and published (or skipped); ENG_CONFLICT: a transaction failed (and not
                               keep_going); ENG_EXISTS: another block has this height; ENG_INVALID: malformed or a gap;
                               ENG_BUSY, ENG_FULL, ENG_IO, ... */
    bool skipped;           /* identical block was there */
    uint64_t height;
    uint32_t transactions, failed; /* failed: those with a failed receipt (keep_going) */
    uint32_t failed_tx, failed_op;
    enum tx_code code;
    char text[512]; /* one line */
};
/* Imports one block (bytes of block_decode); blocks may be handed in ahead, they are done in order. done is called
 * exactly once, when the block is durable and published or refused. Returns ENG_OK if taken; ENG_BUSY: the queue is
 * full. stream: a random number of one who hands blocks in ahead of the answers, or 0: when a block is refused, so is
 * what comes behind it with the same number, even if somebody else makes a block of its height meanwhile. */
ENG_MUST_CHECK enum eng_status ledger_import(struct ledger *ledger, const uint8_t *bytes, size_t size, bool keep_going,
                                             uint64_t stream,
                                             void (*done)(void *context, const struct import_result *result),
                                             void *context);

/* For who could not hand in a block: what comes behind it with the same number is refused. 0: nothing. */
void ledger_refuse_stream(struct ledger *ledger, uint64_t stream);

/* ---- following ---- */

/* Applies the next sealed block, whose header was verified against the signer set and the predecessor by the caller:
 * checks the receipts digest, merges the diff, compares the state summary with the header's before publishing (else
 * ENG_CONFLICT, naming height and both roots), logs it. Called by one thread. Returns when it is published; durability
 * may follow (ledger_durable). */
ENG_MUST_CHECK enum eng_status ledger_apply(struct ledger *ledger, const struct header *header, const uint8_t *sealed,
                                            size_t size);
bool ledger_may_sign(struct ledger *ledger, const uint8_t signer[32], uint64_t epoch);

/* ---- reading ---- */

/* Newest published height (0: genesis); header_digest may be NULL. */
uint64_t ledger_height(struct ledger *ledger, uint8_t header_digest[32]);
/* Newest height whose block is on stable storage here. */
uint64_t ledger_durable(struct ledger *ledger);
/* ENG_TIMEOUT, ENG_CLOSED. timeout_ms -1: for ever. */
ENG_MUST_CHECK enum eng_status ledger_wait(struct ledger *ledger, uint64_t height, int timeout_ms);
/* State at a height (ENG_HEAD: the newest published). ENG_NOT_FOUND: not there yet; ENG_GONE: names the oldest live. */
ENG_MUST_CHECK enum eng_status ledger_snapshot(struct ledger *ledger, uint64_t height, struct eng_snapshot **snapshot);
uint64_t ledger_oldest_live(struct ledger *ledger);
/* Sealed block of a height, read from the log: getline-style buffer. ENG_NOT_FOUND, ENG_GONE, ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status ledger_read_sealed(struct ledger *ledger, uint64_t height, uint8_t **bytes,
                                                  size_t *capacity, size_t *size);
ENG_MUST_CHECK enum eng_status ledger_header(struct ledger *ledger, uint64_t height, struct header *header);
/* Receipt of a transaction not yet expired from memory, or of any when its height is known; malloc'ed bytes.
 * ENG_NOT_FOUND. */
ENG_MUST_CHECK enum eng_status ledger_receipt(struct ledger *ledger, const uint8_t id[TX_ID_BYTES], uint8_t **bytes,
                                              size_t *size);

struct ledger_status {
    enum ledger_role role;
    uint64_t height, durable_height, epoch;
    struct eng_summary state;
    uint64_t live_roots, oldest_live_height, first_kept_block;
    uint64_t disk_bytes, memory_bytes;
    uint64_t remembered_ids;
    char last_error[512];
};
void ledger_status(struct ledger *ledger, struct ledger_status *status);

/* Why the ledger waits at present, in one line: there is no disk space for what it does, or some of what it took is not
 * durable and published yet and there was no progress for stall_ms. False: it goes on, or has nothing to do. Call it
 * regularly, from one thread: it compares with what it saw before. Waits for no disk. */
bool ledger_waits(struct ledger *ledger, uint64_t stall_ms, char *text, size_t text_bytes);

#endif
