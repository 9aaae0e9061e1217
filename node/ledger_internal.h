/*
 * What the files of the ledger share. Only they include it.
 *
 *   ledger.c     open, close, failure          admit.c     ledger_submit, ledger_import: the way in
 *   blockwork.c  one block being made          pipeline.c  EXECUTE: decides and runs transactions, closes blocks
 *   seal.c       header and sealed block       merge.c     MERGE: commit, seal, retention, checkpoint
 *   publish.c    PUBLISH: durable and merged   replay.c    start: the log behind the checkpoint
 *   follow.c     ledger_apply                  read.c      heights, snapshots, receipts, status
 *
 *   submit, import --order--> EXECUTE --to_merge--> MERGE --to_publish--> PUBLISH --> done callbacks
 *
 * A stage that meets a full disk keeps its block where it is and tries again (threads: after a pause; stepped: in the
 * next ledger_step); admission answers TX_BUSY meanwhile. A stage that meets anything worse calls ledger_fail: from
 * then on blocks pass through the stages untouched and are answered as not done.
 *
 * Locks, in this order: order (the two admission queues), lock (queues between stages, what is published, failure),
 * ids_lock (the table of ids). None is held across I/O or a callback.
 */
#ifndef NODE_LEDGER_INTERNAL_H
#define NODE_LEDGER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "blockend.h"
#include "blockstore.h"
#include "execute.h"
#include "idtable.h"
#include "ledger.h"

#define LEDGER_MAGIC 0x7265676465656c70ull
#define LEDGER_ROOT_STATE 0u
#define LEDGER_ROOT_SYSTEM 1u
#define LEDGER_TIME_MS_MAX ((uint64_t)INT64_MAX) /* of ledger time and the window behind it: what JSON can name */

#define LEDGER_INFLIGHT_MAX 65536u               /* transactions accepted and not answered */
#define LEDGER_RESUBMISSIONS_MAX 8192u           /* of them, those that are answered with a receipt that is there */
#define LEDGER_INFLIGHT_BYTES_MAX (128ull << 20) /* of them */
#define LEDGER_IMPORTS_MAX 1024u                 /* blocks handed in and not answered */
#define LEDGER_IMPORT_BYTES_MAX (192ull << 20)   /* of them */
#define LEDGER_REFUSED_STREAMS 256u              /* streams of imports that ended with a refusal, remembered */
#define LEDGER_IMPORTS_A_ROUND 64u               /* imported blocks done before transactions get a turn again */
#define LEDGER_MERGE_QUEUE 4u               /* closed blocks that wait for their merge: < ENG_BATCH_DEPTH_MAX - 2 */
#define LEDGER_PUBLISH_QUEUE 256u           /* merged blocks that wait for the disk */
#define LEDGER_IDS_MAX (1u << 24)           /* remembered ids; more are TX_BUSY on the leader */
#define LEDGER_IDS_PASS_MS 1000u            /* but for one so often: without blocks ledger time stands still */
#define LEDGER_BLOCK_SOFT_BYTES (32u << 20) /* a block is closed when its sealed form may have so many */
#define LEDGER_SEALED_SLACK (64u << 10)     /* of SEALED_BYTES_MAX: header and framing */
#define LEDGER_DROPS_A_BLOCK 1024u          /* versions dropped after one merge */
#define LEDGER_VALUE_SLACK 4352u            /* of a segment: its header, and the framing of a value */
#define LEDGER_PREFETCH_TXS 32u
#define LEDGER_PREFETCH_KEYS 64u
#define LEDGER_APPEND_TRIES 1000 /* flushes to make room in the ring for one record */
#define LEDGER_IDLE_FLUSH_MS 200 /* after the last block its SEALED record is flushed too */
#define LEDGER_RETRY_MS 50       /* between tries on a full disk */
#define LEDGER_REFUSED_MS 2000   /* so long a refusal for want of space counts as waiting for it */

/* A submitted transaction on its way; the decoded form points into bytes. */
struct admitted {
    struct admitted *next;
    uint64_t offset, end;    /* of its TX record */
    uint64_t receipt_height; /* of a resubmission: where the first receipt is */
    ledger_done *done;
    void *context;
    struct transaction tx;
    uint32_t size;
    uint8_t bytes[];
};

struct import_request {
    struct import_request *next;
    uint64_t stream; /* 0: it stands alone */
    bool keep_going;
    void (*done)(void *context, const struct import_result *result);
    void *context;
    struct block block;      /* points into bytes */
    struct transaction *txs; /* decoded, block.transaction_count of them */
    struct import_result result;
    size_t size;
    uint8_t bytes[];
};

struct span {
    const uint8_t *bytes;
    uint32_t size;
};

/* Who waits for a receipt of this block. */
struct waiter {
    ledger_done *done;
    void *context;
    size_t receipt_at, receipt_bytes;
};

/* Resubmissions, in the order of their coming; end: where the next one goes. */
struct resubmissions {
    struct admitted *first, **end;
    size_t count;
};

enum block_stage { BLOCK_OPEN, BLOCK_FROZEN, BLOCK_LOGGED, BLOCK_COMMITTED, BLOCK_SEALED, BLOCK_STORED };

/* A block from the first transaction to its receipts. Owned by one stage at a time. */
struct block_work {
    struct block_work *next_sealed; /* replay: the next whose SEALED record was not read yet */
    enum block_stage stage;
    uint64_t height, time_ms, epoch;
    uint16_t note_bytes;
    const char *note; /* in the import's or the record's bytes */
    uint64_t opened_ns;
    struct eng_batch *batch; /* NULL once merged, or if nothing was included */
    bool derives_ids;        /* an imported block */
    struct idtable *ids;     /* where its ids go until it is complete; NULL: straight into the ledger's */
    struct import_request *import;
    struct admitted *first, *last; /* owned: what the spans of submitted transactions point into */
    struct span *included;
    size_t included_count, included_capacity, failed_count;
    uint64_t range_first, range_end;
    size_t transaction_bytes, sealed_estimate; /* sealed_estimate: at least the bytes of receipts and diff */
    uint8_t *receipts;
    size_t receipts_bytes, receipts_capacity, last_receipt_at;
    struct waiter *waiters;
    size_t waiter_count, waiter_capacity;
    struct resubmissions again; /* found by EXECUTE: to be answered when this block is published */
    size_t keys, key_memory;    /* of the batch, when frozen */
    uint64_t log_end;           /* behind its BLOCK_END or BLOCK record */
    struct eng_summary summary;
    struct header header;
    uint8_t digest[32];
    uint8_t *sealed;
    size_t sealed_bytes;
    uint64_t sealed_offset, sealed_end;
};

struct block_queue {
    struct block_work *blocks[LEDGER_PUBLISH_QUEUE];
    size_t first, count, bound;
};

/* What the state's checkpoint says about the ledger. */
struct base {
    uint64_t height, time_ms, epoch;
    uint64_t log_offset; /* replay goes on here */
    uint64_t drop_next;
    uint8_t digest[32];
};

struct ledger {
    uint64_t magic;
    struct ledger_options options;
    uint8_t ledger_id[32];
    uint64_t window_ms;
    uint8_t system_root[32];
    size_t value_bytes_max; /* of a value: the engine's limit, less if the store has tiny segments */
    struct eng *eng;
    struct log *log;
    struct blockstore *blocks;
    struct base base; /* of this start */

    /* admission; under order */
    pthread_mutex_t order;
    pthread_cond_t work;
    struct admitted *queue, **queue_end;
    struct import_request *imports, **imports_end;
    bool stopping;
    size_t import_count, import_bytes, import_decoding;
    uint64_t refused_streams[LEDGER_REFUSED_STREAMS]; /* of imports, the newest; 0: none */
    size_t refused_next;
    _Atomic size_t inflight, inflight_bytes; /* relaxed: bounds, not exact */

    /* EXECUTE's own */
    struct block_work *open;
    bool must_close; /* a close was begun */
    struct admitted *taken;
    struct import_request *importing;
    size_t prefetched; /* of taken: looked up ahead */
    uint64_t executed_height, executed_time, epoch;
    uint64_t last_block_end; /* log offset that the last closed block waits for */
    struct execution *execution;
    struct idtable import_ids;

    _Atomic uint64_t newest_time; /* executed_time for admission */
    _Atomic size_t unmerged_keys, unmerged_bytes;
    atomic_bool full; /* a stage waits for disk space: full_text */

    /* MERGE's own (a follower: the applying thread's) */
    struct block_work *merging; /* stepped: the block at hand */
    uint64_t merged_height, merged_time, merged_epoch;
    uint8_t merged_digest[32];
    uint64_t drop_next;
    uint64_t checkpoint_due;     /* replay_from at which the next one is made */
    uint64_t space_due;          /* and from where on it is made for the space it gives back */
    uint64_t checkpointed;       /* replay_from of the last one */
    uint64_t replay_from;        /* log offset behind the last merged block's record */
    uint64_t stored_end;         /* behind the last SEALED record */
    struct block_work *applying; /* follower: merged and not yet in the log */

    pthread_mutex_t lock;
    pthread_cond_t merge_ready, merge_space, publish_ready, publish_space, published_changed;
    struct block_queue to_merge, to_publish;
    bool execute_ended, merge_ended;
    bool room_wanted;              /* EXECUTE met a full disk */
    struct eng_batch *last_frozen; /* not yet merged, or NULL */
    uint64_t flush_target;         /* log offset behind the last closed block */
    struct resubmissions answers;  /* of published transactions */
    struct {                       /* the block their receipts were last found in; PUBLISH only */
        uint64_t height;           /* 0: none */
        uint8_t *bytes;
        size_t capacity, size;
    } again;
    uint64_t published;
    uint8_t published_digest[32];
    bool closing;
    enum eng_status failure;
    char failure_text[512], full_text[512];
    enum eng_status full_status; /* of full_text */
    uint64_t refused_ns;         /* when admission last found no space; full_text */
    atomic_bool failed;

    pthread_mutex_t ids_lock;
    struct idtable ids;
    uint64_t ids_swept_ms;  /* ledger time at which it was last swept for being full */
    uint64_t ids_passed_ms; /* clock at which admission last let one through all the same */

    pthread_t execute_thread, merge_thread, publish_thread;
    int threads; /* how many of them run */

    struct {
        uint64_t durable, published, since_ns;
    } watched; /* ledger_waits' own: how far things were, and since when */
};

/* ledger.c */
uint64_t ledger_clock(struct ledger *ledger);
uint64_t monotonic_ns(void);
/* Stops taking blocks, for good; the first reason stays. Uses eng_error() for the line. Returns status. */
enum eng_status ledger_fail(struct ledger *ledger, enum eng_status status);
/* True for what passes: no space, no memory, a full queue. */
bool status_passes(enum eng_status status);
/* Notes that a stage waits for what passes (status); the line is eng_error(). ledger_unhold when it goes on. */
void ledger_hold(struct ledger *ledger, enum eng_status status);
void ledger_unhold(struct ledger *ledger);
/* Under lock: a stage waits, or admission has just found no space; for full_text. */
bool ledger_is_held(const struct ledger *ledger);
/* Threads, after status: false if the stage should give up; else it has waited a little and should try again. */
bool ledger_pause(struct ledger *ledger, enum eng_status status);

/* Appends a record of two parts; makes room in the ring by flushing if nobody else does. */
ENG_MUST_CHECK enum eng_status ledger_append(struct ledger *ledger, uint32_t type, const uint8_t *head,
                                             size_t head_bytes, const uint8_t *tail, size_t tail_bytes,
                                             uint64_t *offset, uint64_t *end);
/* Returns when the log is durable up to there. */
ENG_MUST_CHECK enum eng_status ledger_flush(struct ledger *ledger, uint64_t offset);

/* admit.c */
void admitted_release(struct ledger *ledger, struct admitted *admitted);
void import_answer(struct ledger *ledger, struct import_request *request);  /* calls done with its result, releases */
void import_refuse(struct import_request *request, enum eng_status status); /* result from status and eng_error() */

/* blockwork.c */
enum verdict { VERDICT_INCLUDED, VERDICT_DUPLICATE, VERDICT_EXPIRED, VERDICT_TOO_FAR };
ENG_MUST_CHECK enum eng_status work_open(struct ledger *ledger, uint64_t height, uint64_t time_ms,
                                         struct block_work **block);
/* Decides about one transaction and, if it is included, runs it and writes its receipt. *known_height: of a duplicate,
 * where its receipt is, if that is known; else 0. */
ENG_MUST_CHECK enum eng_status work_run(struct ledger *ledger, struct block_work *block, const struct transaction *tx,
                                        struct span bytes, enum verdict *verdict, uint64_t *known_height);
/* The block takes the transaction, which waits in it for a receipt. */
ENG_MUST_CHECK enum eng_status work_wait(struct block_work *block, struct admitted *admitted);
ENG_MUST_CHECK enum eng_status work_freeze(struct ledger *ledger, struct block_work *block);
/* Frees it and what it owns; whoever still waits must have been answered. */
void work_release(struct ledger *ledger, struct block_work **block);
void work_close_batch(struct ledger *ledger, struct block_work *block);

/* pipeline.c */
/* Answers everything that waits for its turn as not done; admission is closed. */
void execute_abandon(struct ledger *ledger);
void *execute_thread(void *ledger);
/* Everything that was submitted, as far as it goes. */
ENG_MUST_CHECK enum eng_status execute_round(struct ledger *ledger);
/* Waits for to_merge (threads), or merges at once (stepped). */
ENG_MUST_CHECK enum eng_status execute_hand_over(struct ledger *ledger, struct block_work *block);

/* seal.c */
/* Header, signature, sealed bytes; the block becomes the end of the chain of headers. */
ENG_MUST_CHECK enum eng_status work_seal(struct ledger *ledger, struct block_work *block);
/* Digest of the transactions of an imported block, as its header will have it. */
void seal_import_digest(const struct block *block, uint8_t digest[32]);

/* merge.c */
void *merge_thread(void *ledger);
/* Commit and seal. May be called again after an error that passes, like the next two. */
ENG_MUST_CHECK enum eng_status merge_commit(struct ledger *ledger, struct block_work *block);
/* Appends the SEALED record and gives the sealed bytes to the block store. */
ENG_MUST_CHECK enum eng_status merge_store(struct ledger *ledger, struct block_work *block);
/* Both, and upkeep. */
ENG_MUST_CHECK enum eng_status merge_block(struct ledger *ledger, struct block_work *block);
/* Retention, and a checkpoint if it is due; after a block is stored. Errors that pass are put off. */
ENG_MUST_CHECK enum eng_status merge_upkeep(struct ledger *ledger);
ENG_MUST_CHECK enum eng_status merge_checkpoint(struct ledger *ledger, bool wait);
/* True if what the store has is what the log and the index have: a checkpoint may be made. */
bool merge_is_whole(struct ledger *ledger);
/* The disk is full: a checkpoint, if it can give space back; in the thread that merges. */
void merge_make_room(struct ledger *ledger);
/* Asks the MERGE thread for it. */
void merge_want_room(struct ledger *ledger);
/* Drops versions that are neither among the newest retain_blocks published ones nor one of every n-th. */
ENG_MUST_CHECK enum eng_status merge_retain(struct ledger *ledger);
#define BASE_BYTES 80u
void base_encode(const struct base *base, uint8_t bytes[BASE_BYTES]);
ENG_MUST_CHECK enum eng_status base_decode(const uint8_t *bytes, size_t size, struct base *base);

/* publish.c */
void *publish_thread(void *ledger);
void queue_push(struct block_queue *queue, struct block_work *block);
struct block_work *queue_pop(struct block_queue *queue);
/* Makes it the head, answers, releases. */
void publish_block(struct ledger *ledger, struct block_work *block);
/* Answers everybody who waits for it with a refusal, releases. */
void publish_refuse(struct ledger *ledger, struct block_work *block);
void resubmissions_init(struct resubmissions *list);
void resubmissions_add(struct resubmissions *list, struct admitted *admitted);
#define PUBLISH_ANSWERS_A_TURN 16 /* of resubmissions, before it is looked for blocks again */
/* Answers that many resubmissions at most. The block they were read from is kept while there are more. */
void publish_answers(struct ledger *ledger, size_t most);
/* A merged block (threads: waits for room). */
void publish_enqueue(struct ledger *ledger, struct block_work *block);
/* A block ends at this log offset: flush up to there. */
void publish_want(struct ledger *ledger, uint64_t offset);
/* stepped: flushes and publishes what is merged. */
ENG_MUST_CHECK enum eng_status publish_step(struct ledger *ledger);

/* replay.c */
ENG_MUST_CHECK enum eng_status replay_ids(struct ledger *ledger);
ENG_MUST_CHECK enum eng_status replay_log(struct ledger *ledger);

/* follow.c */
/* Checks a sealed block against its header and our head and commits its diff: the new end of the chain, stage
 * BLOCK_SEALED. ENG_CONFLICT: something is not what the header says; nothing changed. */
ENG_MUST_CHECK enum eng_status follow_commit(struct ledger *ledger, const struct header *header, const uint8_t *sealed,
                                             size_t size, struct block_work **block);
/* Remembers the ids of a block's receipts. */
ENG_MUST_CHECK enum eng_status follow_ids(struct ledger *ledger, const uint8_t *receipts, size_t size, uint64_t now_ms);

/* read.c */
/* The receipt of this id in a sealed block's receipts; false if there is none. */
bool receipt_find(const uint8_t *receipts, size_t size, const uint8_t id[TX_ID_BYTES], size_t *at, size_t *bytes);

#endif
