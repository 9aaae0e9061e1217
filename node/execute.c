/*
 * The rules of a transaction, one small function an operation.
 *
 * Happy path: execute_transaction marks the batch, runs the operations in order, each of which reads through the batch
 * (its own writes, the frozen batches below, the tree), checks its condition, writes, and appends its result if it is
 * of a kind that has one (add, read, delete_range).
 *
 * Ways to fail: an operation whose condition does not hold sets a code; then the batch is rolled back to the mark and
 * the results are dropped, so that only the code and the index of the operation remain. An operating error of the
 * engine rolls back too and is returned: it says nothing about the transaction, the caller must stop rather than go on
 * with something that another node would have decided differently.
 *
 * Invariants: nothing is read but the batch and the transaction. Every bound that decides about success (size of
 * results, removals of a range) is a named constant of the rules.
 */
#include "execute.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* An amount has exactly 16 bytes, which the engine checked when it was put. */
#define AMOUNT_BYTES 16u

static enum eng_status look_up(struct eng_batch *batch, const struct tx_operation *op, struct eng_value *value,
                               bool *present)
{
    enum eng_status status = eng_batch_get(batch, op->key, op->key_bytes, value);
    *present = status == ENG_OK;
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

/* Appends one result, or sets TX_RESULTS_TOO_LARGE. */
static void add_result(struct execution *execution, enum receipt_result kind, const void *bytes, size_t size)
{
    uint8_t prefix[5] = {(uint8_t)kind};
    size_t prefix_bytes = 1;
    if (kind == RESULT_BYTES) {
        uint32_t length = (uint32_t)size;
        for (size_t i = 0; i < 4; i++)
            prefix[1 + i] = (uint8_t)(length >> 8 * i);
        prefix_bytes = 5;
    }
    if (size > RECEIPT_RESULTS_MAX || execution->results_bytes + prefix_bytes + size > RECEIPT_RESULTS_MAX) {
        execution->code = TX_RESULTS_TOO_LARGE;
        return;
    }
    uint8_t *at = execution->results + execution->results_bytes;
    memcpy(at, prefix, prefix_bytes);
    if (size)
        memcpy(at + prefix_bytes, bytes, size);
    execution->results_bytes += prefix_bytes + size;
    execution->result_count++;
}

/* put, insert and update differ only in what must have been there. */
static enum eng_status run_write(struct eng_batch *batch, const struct tx_operation *op, struct execution *execution)
{
    if (op->kind != TX_PUT) {
        struct eng_value value;
        bool present;
        enum eng_status status = look_up(batch, op, &value, &present);
        if (status != ENG_OK)
            return status;
        if (op->kind == TX_INSERT && present)
            execution->code = TX_EXISTS;
        else if (op->kind == TX_UPDATE && !present)
            execution->code = TX_NOT_FOUND;
        if (execution->code != TX_OK)
            return ENG_OK;
    }
    return eng_batch_put(batch, op->key, op->key_bytes, op->value);
}

static enum eng_status run_delete(struct eng_batch *batch, const struct tx_operation *op, struct execution *execution)
{
    struct eng_value value;
    bool present;
    enum eng_status status = look_up(batch, op, &value, &present);
    if (status != ENG_OK)
        return status;
    if (present)
        return eng_batch_remove(batch, op->key, op->key_bytes);
    if (op->kind == TX_DELETE)
        execution->code = TX_NOT_FOUND;
    return ENG_OK;
}

static int compare_keys(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static enum eng_status run_delete_range(struct eng_batch *batch, const struct tx_operation *op,
                                        struct execution *execution)
{
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t key_bytes = op->key_bytes;
    memcpy(key, op->key, key_bytes);
    uint64_t removed = 0;
    for (bool after = false;; after = true) {
        enum eng_status status = eng_batch_next(batch, key, key_bytes, after, key, &key_bytes);
        if (status == ENG_NOT_FOUND || (status == ENG_OK && compare_keys(key, key_bytes, op->to, op->to_bytes) >= 0))
            break;
        if (status != ENG_OK)
            return status;
        execution->removed_keys++;
        execution->removed_bytes += key_bytes;
        if (execution->removed_keys > EXECUTE_REMOVED_KEYS_MAX ||
            execution->removed_bytes > EXECUTE_REMOVED_BYTES_MAX) {
            execution->code = TX_TOO_LARGE;
            return ENG_OK;
        }
        status = eng_batch_remove(batch, key, key_bytes);
        if (status != ENG_OK)
            return status;
        removed++;
    }
    uint8_t count[8];
    for (size_t i = 0; i < sizeof(count); i++)
        count[i] = (uint8_t)(removed >> 8 * i);
    add_result(execution, RESULT_COUNT, count, sizeof(count));
    return ENG_OK;
}

static enum eng_status run_add(struct eng_batch *batch, const struct tx_operation *op, struct execution *execution)
{
    struct eng_value value;
    bool present;
    enum eng_status status = look_up(batch, op, &value, &present);
    if (status != ENG_OK)
        return status;
    if (present && value.tag != ENG_AMOUNT) {
        execution->code = TX_TYPE;
        return ENG_OK;
    }
    assert(!present || value.size == AMOUNT_BYTES);
    __int128 sum = present ? amount_from_bytes(value.bytes) : 0;
    if (__builtin_add_overflow(sum, op->amount, &sum))
        execution->code = TX_OVERFLOW;
    else if (op->has_min && sum < op->min)
        execution->code = TX_BELOW_MIN;
    else if (op->has_max && sum > op->max)
        execution->code = TX_ABOVE_MAX;
    if (execution->code != TX_OK)
        return ENG_OK;
    uint8_t bytes[AMOUNT_BYTES];
    amount_to_bytes(sum, bytes);
    add_result(execution, RESULT_AMOUNT, bytes, sizeof(bytes));
    if (execution->code != TX_OK)
        return ENG_OK;
    return eng_batch_put(batch, op->key, op->key_bytes, (struct eng_value){ENG_AMOUNT, bytes, sizeof(bytes)});
}

/* expect, expect_present, expect_absent. */
static enum eng_status run_condition(struct eng_batch *batch, const struct tx_operation *op,
                                     struct execution *execution)
{
    struct eng_value value;
    bool present;
    enum eng_status status = look_up(batch, op, &value, &present);
    if (status != ENG_OK)
        return status;
    if (op->kind == TX_EXPECT_PRESENT) {
        if (!present)
            execution->code = TX_NOT_FOUND;
    } else if (op->kind == TX_EXPECT_ABSENT) {
        if (present)
            execution->code = TX_EXISTS;
    } else if (!present || value.tag != op->value.tag || value.size != op->value.size ||
               (value.size && memcmp(value.bytes, op->value.bytes, value.size) != 0)) {
        execution->code = TX_MISMATCH;
    }
    return ENG_OK;
}

static enum eng_status run_read(struct eng_batch *batch, const struct tx_operation *op, struct execution *execution)
{
    struct eng_value value;
    bool present;
    enum eng_status status = look_up(batch, op, &value, &present);
    if (status != ENG_OK)
        return status;
    if (!present)
        add_result(execution, RESULT_ABSENT, NULL, 0);
    else
        add_result(execution, value.tag == ENG_AMOUNT ? RESULT_AMOUNT : RESULT_BYTES, value.bytes, value.size);
    return ENG_OK;
}

static enum eng_status run_operation(struct eng_batch *batch, const struct tx_operation *op,
                                     struct execution *execution)
{
    switch (op->kind) {
    case TX_PUT:
    case TX_INSERT:
    case TX_UPDATE:
        return run_write(batch, op, execution);
    case TX_DELETE:
    case TX_UNSET:
        return run_delete(batch, op, execution);
    case TX_DELETE_RANGE:
        return run_delete_range(batch, op, execution);
    case TX_ADD:
        return run_add(batch, op, execution);
    case TX_EXPECT:
    case TX_EXPECT_PRESENT:
    case TX_EXPECT_ABSENT:
        return run_condition(batch, op, execution);
    case TX_READ:
        return run_read(batch, op, execution);
    case TX_KIND_END:
        break;
    }
    assert(!"an operation that transaction_decode does not let through");
    abort();
}

enum eng_status execute_transaction(struct eng_batch *batch, const struct transaction *tx, struct execution *execution)
{
    execution->code = TX_OK;
    execution->failed_op = RECEIPT_NO_OPERATION;
    execution->result_count = 0;
    execution->results_bytes = 0;
    execution->removed_keys = execution->removed_bytes = 0;
    uint64_t mark = eng_batch_mark(batch);
    for (uint32_t i = 0; i < tx->operation_count; i++) {
        enum eng_status status = run_operation(batch, &tx->operations[i], execution);
        if (status != ENG_OK || execution->code != TX_OK) {
            eng_batch_rollback(batch, mark);
            execution->failed_op = i;
            execution->result_count = 0;
            execution->results_bytes = 0;
            execution->removed_keys = execution->removed_bytes = 0;
            return status;
        }
    }
    return ENG_OK;
}
