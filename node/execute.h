/*
 * The rules of a transaction: its operations on an open batch, in order, all or none.
 *
 * Everything here is a function of the batch's contents and the transaction's bytes alone, so that every node that
 * executes the same blocks computes the same receipts and the same roots (P5).
 */
#ifndef NODE_EXECUTE_H
#define NODE_EXECUTE_H

#include "receipt.h"
#include "transaction.h"

#include "pando/engine.h"

/* What the delete_range operations of one transaction may remove: more fails with TX_TOO_LARGE. Both are part of the
 * rules: changing one changes what old blocks mean. */
#define EXECUTE_REMOVED_KEYS_MAX 1000000u
#define EXECUTE_REMOVED_BYTES_MAX (16u << 20)

struct execution {
    enum tx_code code;
    uint32_t failed_op; /* RECEIPT_NO_OPERATION if code is TX_OK */
    uint16_t result_count;
    size_t results_bytes;
    size_t removed_keys, removed_bytes; /* by delete_range: what the transaction's own bytes do not bound */
    uint8_t results[RECEIPT_RESULTS_MAX];
};

/* Runs it. ENG_OK: execution says whether it succeeded; if not, the batch is as before. Other statuses (ENG_NO_MEMORY,
 * ENG_DAMAGED, ENG_NO_READERS) are the engine's: the batch is as before, and nothing is known about the transaction. */
ENG_MUST_CHECK enum eng_status execute_transaction(struct eng_batch *batch, const struct transaction *tx,
                                                   struct execution *execution);

#endif
