/*
 * What the log says a block is: the payload of a BLOCK_END record, and the front of a BLOCK record's.
 *
 *   offset  bytes  field
 *        0      8  height
 *        8      8  time_ms
 *       16      8  epoch
 *       24      8  log offset of its first transaction's TX record      (BLOCK: 0)
 *       32      8  log offset behind its last one                       (BLOCK: 0)
 *       40      4  transactions that have a receipt
 *       44      2  note bytes
 *       46      n  note
 *     46+n         BLOCK only: the imported block as handed in (node/transaction.h)
 * Little-endian. A payload is valid if and only if it has 46 + n bytes (BLOCK: more), height is not 0,
 * and first <= end.
 */
#ifndef NODE_BLOCKEND_H
#define NODE_BLOCKEND_H

#include <stddef.h>
#include <stdint.h>

#include "pando/header.h"
#include "pando/log.h"
#include "pando/status.h"

/* Types of a ledger's log records. */
enum { RECORD_TX = LOG_USER, RECORD_BLOCK_END, RECORD_BLOCK, RECORD_SEALED };

#define BLOCK_END_FIXED_BYTES 46u
#define BLOCK_END_BYTES_MAX (BLOCK_END_FIXED_BYTES + HEADER_NOTE_MAX)

struct block_end {
    uint64_t height, time_ms, epoch;
    uint64_t first, end;
    uint32_t transactions;
    uint16_t note_bytes;
    const char *note;
};

/* Returns how many bytes it wrote. */
size_t block_end_encode(const struct block_end *block_end, uint8_t bytes[BLOCK_END_BYTES_MAX]);
/* *used: where an imported block's bytes begin. ENG_DAMAGED with the reason. */
ENG_MUST_CHECK enum eng_status block_end_decode(const uint8_t *bytes, size_t size, struct block_end *block_end,
                                                size_t *used);

#endif
