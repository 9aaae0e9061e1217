/*
 * The sealed blocks of a ledger by height: the newest in memory, all of them in the log.
 *
 * The log keeps sealed blocks as SEALED records; this is the index height -> log offset, 8 bytes a height in memory,
 * and log/index on disk, which is written before each checkpoint of the state and holds the heights up to that one.
 * What comes later is found again when the log behind the checkpoint is replayed; a missing or damaged file is rebuilt
 * by reading the whole log.
 *
 *   log/index   bytes 0..7 magic "pandoidx" | u32 version = 1 | u32 0 | 32 bytes ledger id | 16 bytes 0 |
 *               for each height from 1 on: u64 log offset | u64 check
 *   check is XXH3(height, offset; seeded with the first 8 bytes of the ledger id). A file is good up to a height if and
 *   only if its first 64 bytes are exactly these, all checks up to there match and the offsets ascend strictly.
 *
 * A sealed block is appended to the log without waiting for the disk, so the newest ones are kept in memory until they
 * are durable (and longer, up to a budget: followers and resubmissions ask for these).
 *
 * Threads: add, note and save by one thread at a time; the rest from any.
 */
#ifndef NODE_BLOCKSTORE_H
#define NODE_BLOCKSTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/disk.h"
#include "pando/log.h"

#define BLOCKSTORE_RECENT_MAX 1024u               /* sealed blocks kept in memory */
#define BLOCKSTORE_RECENT_BYTES_MAX (64ull << 20) /* of them, unless one block alone has more */
#define BLOCKSTORE_INDEX_PATH "log/index"

struct blockstore;

/* flush: nobody else flushes the log, waiting for durability does it. */
ENG_MUST_CHECK enum eng_status blockstore_open(struct disk *disk, struct log *log, const uint8_t ledger_id[32],
                                               bool flush, struct blockstore **store);
void blockstore_close(struct blockstore **store);
/* Fills the index for heights 1..height from the file or, where that is no good, from the log up to its end. */
ENG_MUST_CHECK enum eng_status blockstore_load(struct blockstore *store, uint64_t height);
/* The sealed block of this height (the next one, or one known already) is at this offset. */
ENG_MUST_CHECK enum eng_status blockstore_note(struct blockstore *store, uint64_t height, uint64_t offset);
/* The next height's sealed block was appended to the log at [offset, end). Takes the bytes (malloc'ed) if ENG_OK. */
ENG_MUST_CHECK enum eng_status blockstore_add(struct blockstore *store, uint64_t height, uint8_t *bytes, size_t size,
                                              uint64_t offset, uint64_t end);
/* Newest height in the index. */
uint64_t blockstore_height(struct blockstore *store);
/* Newest height whose SEALED record is on stable storage. */
uint64_t blockstore_durable(struct blockstore *store);
/* The sealed block, into a getline-style buffer. ENG_NOT_FOUND, ENG_GONE, ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status blockstore_read(struct blockstore *store, uint64_t height, uint8_t **bytes,
                                               size_t *capacity, size_t *size);
/* Writes and syncs what the file does not have yet, up to a height. */
ENG_MUST_CHECK enum eng_status blockstore_save(struct blockstore *store, uint64_t height);
size_t blockstore_memory(struct blockstore *store);

#endif
