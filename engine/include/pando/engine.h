/*
 * libpando-engine: an authenticated, persistent, ordered key-value store.
 *
 * The happy path of a program:
 *
 *     struct eng_options options = {.path = "/srv/store", .create = true, .durability = ENG_DURABLE_FSYNC};
 *     eng_open(&options, &eng);
 *     eng_batch_open(eng, 0, NULL, &batch);            read-modify-write, sees its own writes
 *     eng_batch_get(batch, ...); eng_batch_put(batch, ...);
 *     eng_batch_freeze(batch);
 *     eng_commit(batch, tag, &summary);                merge; the new root is published with its digest
 *     eng_batch_close(&batch);
 *     eng_snapshot_open(eng, 0, tag, &snapshot);       any kept version, by its tag
 *     eng_get(snapshot, ...); eng_cursor_open(...); eng_path(...)
 *     eng_snapshot_close(&snapshot);
 *     eng_close(&eng);
 *
 * Which durability decides what a crash, and eng_close, leave of it: without one of the three that have a log, only
 * what eng_checkpoint made durable (enum eng_durability). Proofs of what a snapshot contains are made with
 * pando/proof.h and checked with pando/verify.h, whose library needs no store. engine/examples/ has whole programs.
 *
 * A store has up to ENG_ROOTS_MAX top-level roots (0, 1, ...), each a line of versions. A version is what one commit
 * made; it is named by a tag the caller gives (a ledger gives the height), tags of a root ascend. Versions are kept
 * until eng_drop; keeping one costs the space of what was changed since, opening it nothing. The root digest depends on
 * the contents alone (pando/digest.h), not on the order, batching or history of the operations that made them.
 *
 * Keys: 1..ENG_KEY_BYTES_MAX bytes, any values, ordered bytewise (a prefix first). Values: tagged, ENG_BYTES of
 * 0..ENG_VALUE_BYTES_MAX bytes (less if a segment is smaller: a value lies in one), or ENG_AMOUNT: exactly 16 bytes, a
 * signed 128-bit integer, little-endian. A subtree is a value, too (ENG_TREE, see below).
 *
 * Ranges are from <= key < to. A bound is NULL, an open end, or 0 to ENG_KEY_BYTES_MAX bytes, any values, whether there
 * is such a key or not; longer is ENG_INVALID. A range that ends before it begins is empty, and no error.
 *
 * Pipelining: a frozen batch may wait for its commit while the next batch, opened with it as parent, reads through it.
 * Commits happen in the order in which batches were opened.
 *
 * A batch reads the version that was the newest when it was opened (with a parent: that, and the batches before it),
 * and goes on reading it whatever others commit meanwhile. Plain batches do not conflict, but for trees in them
 * (below): each is merged into the newest version, and of two that write the same key the one committed last wins, even
 * if what it had read was changed meanwhile. Where that matters use transactions.
 *
 * Threads: reads (snapshots, cursors) from any thread, no lock while reading; one snapshot or cursor handle is used by
 * one thread at a time. A batch belongs to one thread until frozen. Any thread may commit: eng_commit, eng_drop*,
 * eng_checkpoint, eng_maintain and eng_compact take turns by a lock of the store (with ENG_DURABLE_FSYNC not while they
 * wait for the disk: threads that commit share a sync). At most ENG_READERS_MAX threads read: a thread takes a slot
 * with its first read and keeps it until it ends; one more is ENG_NO_READERS.
 *
 * Errors are returned (enum eng_status, pando/status.h); eng_error() has the line. With one exception: a read that
 * finds nothing sets no line, as it is no failure. ENG_NOT_FOUND of eng_get*, eng_batch_get, eng_batch_next,
 * eng_batch_tree, eng_batch_tree_take, eng_snapshot_tree, eng_path and cursors leaves the line of an earlier failure.
 * Wrong use asserts.
 *
 * The state is mapped. Where the disk cannot read a page of it any more, or another process has cut state/segments off,
 * no error can be returned: the system ends the process with SIGBUS, as with any mapped file. eng_check,
 * ENG_RECOVER_VERIFY and ENG_RECOVER_REBUILD read by calls what they then look at, and name the place (ENG_IO). Copy
 * such a directory to another disk, with zeros for what cannot be read, and open the copy with ENG_RECOVER_REBUILD.
 */
#ifndef PANDO_ENGINE_H
#define PANDO_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/digest.h"
#include "pando/disk.h"
#include "pando/limits.h"
#include "pando/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct eng;
struct eng_batch;
struct eng_snapshot;
struct eng_cursor;

/* How far a commit goes before eng_commit returns, weakest first. A store is opened with the same kind each time: the
 * first three have no log of their own, the others do. Without a log a crash, and eng_close as well, take everything
 * back that was committed since the last eng_checkpoint. The log consists of files of 64 MB, the next of which is made
 * before it is needed: 128 MB for an empty store. Those no checkpoint
 * needs any more are removed, so there are at most a few times checkpoint_log_bytes beside that. */
enum eng_durability {
    ENG_DURABLE_NONE,        /* what eng_checkpoint made durable survives a crash (the ledger node: it has a log) */
    ENG_DURABLE_MPROTECT,    /* the same, and sealed segments are write-protected: a stray pointer faults. Until the
                              * process has as many mappings as the system allows (vm.max_map_count) */
    ENG_DURABLE_MSYNC_ASYNC, /* MPROTECT, and writing the state's dirty pages is started at every commit */
    ENG_DURABLE_MSYNC_SYNC,  /* in the store's own log, written to the system: survives kill -9, not a power loss */
    ENG_DURABLE_FSYNC,       /* in the store's own log and synced; replayed at the next open: what most want */
    ENG_DURABLE_FULL,        /* FSYNC, and a checkpoint is durable too: nothing to replay */
};

/* What eng_open trusts. */
enum eng_recovery {
    ENG_RECOVER_AUTO,    /* newest valid checkpoint, then the log; objects are checked when first read */
    ENG_RECOVER_VERIFY,  /* the same, and every object's checksum and every digest is checked first: ENG_DAMAGED */
    ENG_RECOVER_REBUILD, /* the control table is made anew from the object headers in the segments */
};

struct eng_options {
    const char *path;                     /* directory, created if create is set; or NULL and disk is given */
    struct disk *disk;                    /* an open disk (not closed by eng_close), or NULL and path is given */
    uint8_t store_id[ENG_STORE_ID_BYTES]; /* another store's directory is ENG_FOREIGN */
    bool create;                          /* create if there is none; otherwise ENG_NOT_FOUND */
    /* These three are fixed at creation: of a store that is there they are ignored; eng_stats says what it has. */
    uint32_t leaf_bytes;            /* T; 0: default */
    uint32_t inline_bytes;          /* values up to this stay in leaves; 0: default */
    uint32_t segment_bytes;         /* 0: default */
    uint32_t threads;               /* that commit, helpers too; 0: the number of cores (at most 16) */
    bool inline_only;               /* no threads but those; the caller calls eng_maintain (tests, simulation) */
    enum eng_durability durability; /* with a log of its own or without: as when it was made, else ENG_INVALID */
    bool ignore_log;                /* with a durability without a log: look at the newest checkpoint alone (tools) */
    uint64_t checkpoint_log_bytes;  /* with a log: checkpoint after this much of it; 0: 256 MiB */
    enum eng_recovery recovery;
    uint64_t hot_bytes;    /* of memory to be locked for what point reads look at most; 0: no hot tier */
    uint32_t hot_decay_ms; /* what is not read for two times this cools; 0: 5000 */
    /* One line for each fault that VERIFY or REBUILD finds, and for each version REBUILD drops; one if the system does
     * not let us lock hot_bytes of memory (then from a thread of the engine), one if it does not let us write-protect
     * segments any more (from any thread). May be NULL. */
    void (*recovery_report)(void *context, const char *line);
    void *recovery_context;
};

/* ENG_INVALID: options that do not exist or do not go with the store; ENG_NOT_FOUND, ENG_LOCKED (another process has it
 * open), ENG_FOREIGN, ENG_VERSION, ENG_DAMAGED, ENG_IO, ENG_FULL, ENG_NO_MEMORY. *eng is NULL then. */
ENG_MUST_CHECK enum eng_status eng_open(const struct eng_options *options, struct eng **eng);
/* Makes a checkpoint if the store has a log of its own, stops threads, closes files. With a durability without a log it
 * makes none: what was committed since the last eng_checkpoint is lost. No handle may be open. NULL inside is fine. */
void eng_close(struct eng **eng);

/* ---- batches ---------------------------------------------------------------------------------------------------- */

struct eng_value {
    enum eng_tag tag;
    const uint8_t *bytes; /* owned by whoever the function says */
    size_t size;
};

/* Of a range of keys: entries, and the sum of the amounts among them (192-bit two's complement, low word first). */
struct eng_totals {
    uint64_t count;
    uint64_t sum[3];
};

/* Opens a batch on a root. parent: NULL, or the frozen batch of the same root opened last, through which it reads. */
ENG_MUST_CHECK enum eng_status eng_batch_open(struct eng *eng, uint32_t root, struct eng_batch *parent,
                                              struct eng_batch **batch);
/* Drops it if it was not committed. A parent may be closed before its child. NULL inside is fine. */
void eng_batch_close(struct eng_batch **batch);

/* ENG_INVALID (key length, amount size), ENG_TOO_LARGE, ENG_NO_MEMORY. Copies. */
ENG_MUST_CHECK enum eng_status eng_batch_put(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                             struct eng_value value);
/* Removing an absent key is fine and changes nothing. */
ENG_MUST_CHECK enum eng_status eng_batch_remove(struct eng_batch *batch, const uint8_t *key, size_t key_bytes);
/* Removes from <= key < to (NULL: open end), whatever is there. O(depth + own writes in the range); the
 * space comes back lazily. */
ENG_MUST_CHECK enum eng_status eng_batch_remove_range(struct eng_batch *batch, const uint8_t *from, size_t from_bytes,
                                                      const uint8_t *to, size_t to_bytes);
/* Count and sum of from <= key < to (NULL: open end) as this batch sees it. A tree counts as one entry; amounts in it
 * are not in the sum. O(depth + own writes in the range). */
ENG_MUST_CHECK enum eng_status eng_batch_totals(struct eng_batch *batch, const uint8_t *from, size_t from_bytes,
                                                const uint8_t *to, size_t to_bytes, struct eng_totals *totals);
/* The value as this batch sees it; valid until the next call on this batch. ENG_NOT_FOUND, ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status eng_batch_get(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                             struct eng_value *value);
/* count lookups at once, with interleaved descents: calls found(context, index, value) once for each key as this batch
 * sees it, value NULL: absent, in any order, in the calling thread; the value is valid during the call only, and found
 * must not call the engine. All keys in one call are fastest: of those that are not in the batch itself, 1,024 at a
 * time, 128 and more are shared with one other core if that is awake, as between commits that follow each other. Needs
 * 40 KB of stack. */
ENG_MUST_CHECK enum eng_status
eng_batch_get_many(struct eng_batch *batch, size_t count, const uint8_t *const keys[], const size_t key_bytes[],
                   void (*found)(void *context, size_t index, const struct eng_value *value), void *context);
/* The first key >= the given one (> if after; NULL, 0: the first of all) as this batch sees it, copied into next
 * (ENG_KEY_BYTES_MAX bytes; may be the same memory as key). ENG_NOT_FOUND at the end; ENG_INVALID: a key over
 * ENG_KEY_BYTES_MAX bytes. */
ENG_MUST_CHECK enum eng_status eng_batch_next(struct eng_batch *batch, const uint8_t *key, size_t key_bytes, bool after,
                                              uint8_t *next, size_t *next_bytes);
/* Looks the keys up with interleaved descents, so that the next gets find them in the cache. No errors, no result. */
void eng_batch_prefetch(struct eng_batch *batch, size_t count, const uint8_t *const keys[], const size_t key_bytes[]);
/* Nested undo: everything written after the mark is as before. */
uint64_t eng_batch_mark(const struct eng_batch *batch);
void eng_batch_rollback(struct eng_batch *batch, uint64_t mark);
/* Distinct keys written; bytes they need in memory. */
size_t eng_batch_count(const struct eng_batch *batch);
size_t eng_batch_memory(const struct eng_batch *batch);
/* Read only from here on. */
ENG_MUST_CHECK enum eng_status eng_batch_freeze(struct eng_batch *batch);
/* Of a frozen batch: calls each(context, key, key_bytes, value) in key order for every key written; value NULL:
 * removed. (A key may be listed though its value is as before.) Stops when each returns not ENG_OK, and returns that.
 */
ENG_MUST_CHECK enum eng_status eng_batch_each(struct eng_batch *batch,
                                              enum eng_status (*each)(void *context, const uint8_t *key,
                                                                      size_t key_bytes, const struct eng_value *value),
                                              void *context);

/* Merges a frozen batch into the newest version of its root and publishes the result under tag. Blocks for the merge,
 * and for the end of a checkpoint that is being made if space waits for it or the next one that comes to more than a
 * third of what is live. ENG_FULL, ENG_NO_IDS, ENG_NO_MEMORY, ENG_DAMAGED: nothing changed, nothing published, the
 * batch may be committed again. ENG_CONFLICT: the tag is not above the newest; another commit changed its trees.
 * ENG_INVALID: the batch it was opened on is not committed; ENG_HEAD as a tag. ENG_IO: the log failed, or with
 * ENG_DURABLE_FULL the checkpoint did (the version is published and logged then): the store takes no more commits, the
 * next open goes on from the log. summary may be NULL. */
ENG_MUST_CHECK enum eng_status eng_commit(struct eng_batch *batch, uint64_t tag, struct eng_summary *summary);
/* The same, but publishes only if the resulting summary is the expected one; otherwise ENG_CONFLICT, nothing changed,
 * *summary is what it would have been. How a follower recomputes a root before anybody can see it. */
ENG_MUST_CHECK enum eng_status eng_commit_expect(struct eng_batch *batch, uint64_t tag,
                                                 const struct eng_summary *expected, struct eng_summary *summary);
/* The digest the root would have; the merge is done and undone (private fork). Same thread rules as eng_commit. */
ENG_MUST_CHECK enum eng_status eng_dry_commit(struct eng_batch *batch, struct eng_summary *summary);
/* Reserves the disk space that the batches waiting for their merge can need, of this many keys together, with this many
 * bytes of keys and values: their commits find it, as long as nobody else commits to the store. It is a bound for trees
 * of any depth, with two exceptions: keys in subtrees count as if they were the outermost tree's, so deep subtrees may
 * need more; and what waiting batches build anew may be gone through again by those behind them. A root of a store of
 * before nodes knew their ways is taken to be of the usual depth. Should it be too little, the commit is ENG_FULL with
 * nothing changed, as any. ENG_FULL, ENG_NO_IDS; more than any disk has is ENG_FULL. Any thread. */
ENG_MUST_CHECK enum eng_status eng_reserve(struct eng *eng, uint64_t keys, uint64_t bytes);

/* ---- subtrees ----------------------------------------------------------------------------------------------------
 *
 * A value may be a tree: a state of its own, whose summary is what its parent's digest covers. A tree opened in a batch
 * is itself a struct eng_batch: get, put, remove, ranges, cursors and further trees work in it. It is committed with
 * the batch it was opened in, sees and is seen through it at once, and lives as long as that one (eng_batch_close of a
 * tree gives back nothing). freeze, commit, mark, rollback and nested transactions are for the outermost batch and
 * cover its trees; one that was made or taken after a mark is void after a rollback to it: it is not to be used any
 * more (no harm is done, but what is put into it may be dropped with the batch); open the tree at its key anew. One
 * that hangs in a committed tree is as it was.
 *
 * A tree counts as one entry of its parent, whatever is in it: amounts in a tree are not part of its parent's sum; its
 * own summary has them.
 *
 * Each call is O(1) but for cloning what is not committed, O(that), and for putting a tree that might be too deep
 * there: its levels are counted then, O(its keys). A tree that is removed, replaced or never put anywhere is freed
 * lazily, when no kept version sees it. A clone and its original share what they have in common until one of them is
 * the last: then, when it is next committed, it gives back what the other had alone. A tree taken out of a clone, or of
 * what was cloned, keeps all of what they have in common until it goes itself; so does one that was written inside of
 * it: a tree with trees in it that is cloned and written over and over keeps what the clones had until it goes.
 *
 * A tree hangs in one place, so there are no cycles: putting one into itself is ENG_INVALID, and so is putting one that
 * hangs. At most ENG_TREE_DEPTH_MAX deep (ENG_TOO_LARGE). In a batch with an uncommitted parent these are ENG_BUSY.
 * eng_batch_get of such a key gives ENG_TREE and the 64-byte summary as of the last commit (on a batch that wrote into
 * it, as of the commit before that one). A commit whose trees were
 * changed by another commit since the batch was opened is ENG_CONFLICT. Other errors: ENG_NO_MEMORY, ENG_NO_READERS,
 * ENG_DAMAGED. Method: Merkle trees of trees with lineages that share nodes by generation (engine/base.c). */

/* The tree at a key. create: an empty one is put there if the key is absent. ENG_NOT_FOUND; ENG_TYPE: another value. */
ENG_MUST_CHECK enum eng_status eng_batch_tree(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                              bool create, struct eng_batch **tree);
/* A temporary tree, empty, nowhere yet; gone with the batch if it is never put. */
ENG_MUST_CHECK enum eng_status eng_batch_tree_new(struct eng_batch *batch, struct eng_batch **tree);
/* Takes the tree out of a key, which is removed: temporary until it is put. Move is take and put. */
ENG_MUST_CHECK enum eng_status eng_batch_tree_take(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                                   struct eng_batch **tree);
/* Puts a temporary tree of the same outermost batch at a key, in place of what was there. */
ENG_MUST_CHECK enum eng_status eng_batch_tree_put(struct eng_batch *batch, const uint8_t *key, size_t key_bytes,
                                                  struct eng_batch *tree);
/* A temporary tree with the present contents of another; both change independently from here on. */
ENG_MUST_CHECK enum eng_status eng_batch_tree_clone(struct eng_batch *tree, struct eng_batch **clone);
/* The tree at a key of a snapshot, as a snapshot of its own (eng_snapshot_close; outlives the one it came from).
 * ENG_NOT_FOUND, ENG_TYPE. */
ENG_MUST_CHECK enum eng_status eng_snapshot_tree(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                                 struct eng_snapshot **tree);

/* ---- transactions ------------------------------------------------------------------------------------------------
 *
 * A batch opened here is a transaction by itself, of any thread, beside others on the same root: what it reads is the
 * version it began on, and eng_transaction_commit decides. */
enum eng_isolation {
    ENG_SNAPSHOT,     /* refused if a key it wrote was changed since (first committer wins); write skew is possible */
    ENG_SERIALIZABLE, /* refused if anything it read, keys or ranges, present or absent, was changed since */
};
ENG_MUST_CHECK enum eng_status eng_transaction_open(struct eng *eng, uint32_t root, enum eng_isolation isolation,
                                                    struct eng_batch **transaction);
/* Freezes, checks, commits under the next tag of the root (*tag; may be NULL). ENG_CONFLICT: nothing changed; close it
 * and begin again. Otherwise as eng_commit. */
ENG_MUST_CHECK enum eng_status eng_transaction_commit(struct eng_batch *transaction, uint64_t *tag,
                                                      struct eng_summary *summary);
/* Nested transactions, of any batch that is not frozen: what is written between begin and end happens whole (keep) or
 * not at all. At most ENG_NESTED_MAX deep (ENG_TOO_LARGE). */
ENG_MUST_CHECK enum eng_status eng_nested_begin(struct eng_batch *batch);
void eng_nested_end(struct eng_batch *batch, bool keep);
/* A private fork: a batch over any version, to look at what would be. eng_dry_commit gives its digest; it cannot be
 * committed (ENG_INVALID). Dropped in O(its own size). */
ENG_MUST_CHECK enum eng_status eng_fork(struct eng_snapshot *snapshot, struct eng_batch **fork);

/* ---- versions ---------------------------------------------------------------------------------------------------- */

#define ENG_HEAD UINT64_MAX
/* Newest tag and summary of a root. ENG_NOT_FOUND: no commit yet (summary: the empty state). */
ENG_MUST_CHECK enum eng_status eng_head(struct eng *eng, uint32_t root, uint64_t *tag, struct eng_summary *summary);
/* Oldest kept tag. */
ENG_MUST_CHECK enum eng_status eng_oldest(struct eng *eng, uint32_t root, uint64_t *tag);
/* Number of kept versions. */
size_t eng_version_count(struct eng *eng, uint32_t root);
/* Drops one version (ENG_NOT_FOUND: there is none with this tag; ENG_INVALID: it is the newest) or all below a tag, but
 * not the newest. An open snapshot of it stays good; space follows later:
 * eng_drop_below may leave it to another thread. What that fails with, the next one returns (ENG_DAMAGED, ENG_FULL,
 * ENG_NO_IDS, ENG_NO_MEMORY), and tries again. A version that cannot be freed holds up no other one. */
ENG_MUST_CHECK enum eng_status eng_drop(struct eng *eng, uint32_t root, uint64_t tag);
ENG_MUST_CHECK enum eng_status eng_drop_below(struct eng *eng, uint32_t root, uint64_t tag);

/* Opens the version with this tag (ENG_HEAD: the newest; of a root never committed: the empty state).
 * ENG_NOT_FOUND: higher than the newest tag; ENG_GONE: lower, and dropped or never committed (of what was dropped
 * nothing is kept, so the two cannot be told apart). */
ENG_MUST_CHECK enum eng_status eng_snapshot_open(struct eng *eng, uint32_t root, uint64_t tag,
                                                 struct eng_snapshot **snapshot);
void eng_snapshot_close(struct eng_snapshot **snapshot);
uint64_t eng_snapshot_tag(const struct eng_snapshot *snapshot);
const struct eng_summary *eng_snapshot_summary(const struct eng_snapshot *snapshot);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Calls found(context, value) with the value in place, valid during the call only; found must not block or call the
 * engine. ENG_NOT_FOUND, ENG_DAMAGED, ENG_NO_READERS. */
ENG_MUST_CHECK enum eng_status eng_get(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                       void (*found)(void *context, const struct eng_value *value), void *context);
/* Copies at most max bytes; *size is the full size. */
ENG_MUST_CHECK enum eng_status eng_get_copy(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                            enum eng_tag *tag, uint8_t *bytes, size_t max, size_t *size);
/* count lookups with interleaved descents; found(context, index, value) for each key, value NULL: absent. */
ENG_MUST_CHECK enum eng_status eng_get_many(struct eng_snapshot *snapshot, size_t count, const uint8_t *const keys[],
                                            const size_t key_bytes[],
                                            void (*found)(void *context, size_t index, const struct eng_value *value),
                                            void *context);
/* Count and sum of from <= key < to (NULL: open end); trees as in eng_batch_totals. O(depth). */
ENG_MUST_CHECK enum eng_status eng_totals(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes,
                                          const uint8_t *to, size_t to_bytes, struct eng_totals *totals);
/* A part of a value, in place: calls found with the bytes [offset, offset + bytes), cut to the value's end; a value of
 * 16 MB is read piece by piece without a copy. */
ENG_MUST_CHECK enum eng_status eng_get_part(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                            uint64_t offset, uint64_t bytes,
                                            void (*found)(void *context, const struct eng_value *part, uint64_t size),
                                            void *context);
/* Number of entries with key < the given one (key NULL: all). O(depth). */
ENG_MUST_CHECK enum eng_status eng_rank(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                        uint64_t *rank);

/* Cursors stand on an entry or at the end; stable for as long as the snapshot is open. */
ENG_MUST_CHECK enum eng_status eng_cursor_open(struct eng_snapshot *snapshot, struct eng_cursor **cursor);
/* Over an open batch, or a tree in it: its own writes are seen, those made while the cursor is open as well. */
ENG_MUST_CHECK enum eng_status eng_cursor_open_batch(struct eng_batch *batch, struct eng_cursor **cursor);
void eng_cursor_close(struct eng_cursor **cursor);
/* From here on the cursor sees only keys that begin with prefix (NULL: all again); seek NULL is the first of them. */
ENG_MUST_CHECK enum eng_status eng_cursor_prefix(struct eng_cursor *cursor, const uint8_t *prefix, size_t prefix_bytes);
/* Lower bound: the first entry with key >= the given one (NULL: the first of all). Upper bound: the first with key >
 * it (NULL: the same). Before: the last with key < it (NULL: the last of all). ENG_NOT_FOUND: there is none, and the
 * cursor is at the end; ENG_INVALID: the key is over ENG_KEY_BYTES_MAX bytes, and the same. */
ENG_MUST_CHECK enum eng_status eng_cursor_seek(struct eng_cursor *cursor, const uint8_t *key, size_t key_bytes);
ENG_MUST_CHECK enum eng_status eng_cursor_seek_after(struct eng_cursor *cursor, const uint8_t *key, size_t key_bytes);
ENG_MUST_CHECK enum eng_status eng_cursor_seek_before(struct eng_cursor *cursor, const uint8_t *key, size_t key_bytes);
ENG_MUST_CHECK enum eng_status eng_cursor_next(struct eng_cursor *cursor);
ENG_MUST_CHECK enum eng_status eng_cursor_prev(struct eng_cursor *cursor);
/* Of the entry it stands on; key and value (copied) are valid until the cursor moves. */
const uint8_t *eng_cursor_key(const struct eng_cursor *cursor, size_t *key_bytes);
ENG_MUST_CHECK enum eng_status eng_cursor_value(struct eng_cursor *cursor, struct eng_value *value);
/* Scan without copies: calls each for every entry from <= key < to in order (NULL: open end) until it returns false;
 * key and value are valid during the call only. */
ENG_MUST_CHECK enum eng_status
eng_scan(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes, const uint8_t *to, size_t to_bytes,
         bool (*each)(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value),
         void *context);

/* What differs between two versions (of one store) among the keys that begin with prefix (NULL: all), in key order,
 * without looking at what they share: before or after NULL: absent there. Stops when each returns not ENG_OK, and
 * returns that. Valid during the call only. */
ENG_MUST_CHECK enum eng_status
eng_diff(struct eng_snapshot *a, struct eng_snapshot *b, const uint8_t *prefix, size_t prefix_bytes,
         enum eng_status (*each)(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *before,
                                 const struct eng_value *after),
         void *context);

/* The same for from <= key < to (NULL: open end; a bound may have one byte more than a key: right behind one). */
ENG_MUST_CHECK enum eng_status eng_diff_range(struct eng_snapshot *a, struct eng_snapshot *b, const uint8_t *from,
                                              size_t from_bytes, const uint8_t *to, size_t to_bytes,
                                              enum eng_status (*each)(void *context, const uint8_t *key,
                                                                      size_t key_bytes, const struct eng_value *before,
                                                                      const struct eng_value *after),
                                              void *context);

/* The way of a key through the logical trie, for proofs: calls step(context, bit, sibling) from the root down, then
 * landing(context, key, key_bytes, value, value_digest) once with the entry where the walk ends (value_digest NULL
 * unless the value is over 64 bytes). ENG_NOT_FOUND: the state is empty (no call is made). */
ENG_MUST_CHECK enum eng_status eng_path(struct eng_snapshot *snapshot, const uint8_t *key, size_t key_bytes,
                                        void (*step)(void *context, uint32_t bit, const struct eng_summary *sibling),
                                        void (*landing)(void *context, const uint8_t *key, size_t key_bytes,
                                                        const struct eng_value *value, const uint8_t *value_digest),
                                        void *context);

/* ---- durability and space ---------------------------------------------------------------------------------------- */

/* Makes the newest version of every root, and the list of kept ones, the base of the next start, with app_state
 * (opaque, for example a log offset; at most ENG_APP_STATE_BYTES_MAX bytes, 8 fewer with a log of its own, else
 * ENG_TOO_LARGE). The checkpoints that a store with a log makes by itself, the one of eng_close and those of
 * eng_compact repeat the newest app_state. wait: return when durable; otherwise after the capture, ENG_BUSY if one is
 * still running. Its space was made sure of by the commits, so it is possible on a full disk, where it gives back what
 * was dropped. The store's own log is synced before, and given up to where the checkpoint before begins. ENG_IO also if
 * a write of that log failed: the next open goes on from the log. */
ENG_MUST_CHECK enum eng_status eng_checkpoint(struct eng *eng, const void *app_state, size_t app_state_bytes,
                                              bool wait);
bool eng_checkpoint_running(struct eng *eng);
/* So much space waits for the next checkpoint (more than a sixth of what is live, and eight segments) that it should
 * be made now, however little was committed since the last. A store with a log of its own makes it by itself. */
bool eng_checkpoint_wanted(struct eng *eng);
/* app_state of the checkpoint this start began from; returns its length, 0 for a new store. */
size_t eng_app_state(struct eng *eng, void *bytes, size_t max);
/* With inline_only: compaction that is due. */
ENG_MUST_CHECK enum eng_status eng_maintain(struct eng *eng);
/* Compacts until at least live_percent of the used segments is live, moves what lives at the end of the file to free
 * places before it, and truncates the file. What the newest checkpoint names keeps its place until the next one: if
 * nothing was committed or dropped since then, or the store has a log of its own, the checkpoints that are needed are
 * made here; otherwise make one with eng_checkpoint, and call this again. What is damaged stays where it is; the rest
 * is done, then ENG_DAMAGED returned. */
ENG_MUST_CHECK enum eng_status eng_compact(struct eng *eng, uint32_t live_percent);

struct eng_statistics {
    uint64_t live_bytes, state_bytes, log_bytes; /* of objects; files */
    uint64_t memory_bytes;                       /* caches and buffers of the engine, without the mapped file */
    uint64_t objects, versions, moved_bytes, checkpoints;
    uint32_t leaf_bytes, inline_bytes, segment_bytes, threads;
    /* Who holds space back. Emptied segments wait for readers inside a call and for the next checkpoint; versions wait
     * for snapshots of them. */
    uint64_t waiting_bytes, reader_bytes; /* both; for readers alone */
    uint32_t readers_inside;              /* threads in a call at this moment */
    int32_t reader_thread;                /* the one inside for longest (kernel thread id), 0: none */
    uint64_t reader_ms;                   /* for how long at least */
    uint64_t snapshots;                   /* open ones, and batches, all roots */
    uint32_t oldest_root;                 /* the oldest version one of them holds, if snapshots > 0 */
    uint64_t oldest_tag;
    uint64_t oldest_ms;                   /* since the first of those that hold it did */
    uint64_t versions_waiting;            /* dropped, and held by snapshots */
    uint64_t hot_limit, hot_locked_bytes; /* of memory that may be locked (less than hot_bytes if refused), that is */
    uint64_t hot_bytes, hot_objects;      /* that lie there; objects as of the last round */
    uint64_t hot_promoted, hot_demoted;   /* objects, since the start */
    bool hot_refused;                     /* the system did not let us lock hot_bytes */
};
void eng_stats(struct eng *eng, struct eng_statistics *statistics);

/* Offline check of a store that nobody has open: calls report for every fault, naming file and offset. deep: also every
 * object's checksum, the canonical shape, and every digest from the entries up. A store with a log of its own: the log
 * too, whatever durability is given. ENG_OK: no fault; ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status eng_check(const struct eng_options *options, bool deep,
                                         void (*report)(void *context, const char *line), void *context);

#ifdef __cplusplus
}
#endif

#endif
