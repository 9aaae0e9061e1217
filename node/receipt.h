/*
 * Receipts: what became of a transaction. All receipts of a block, concatenated in index order, are what the header's
 * receipts digest covers (BLAKE2b personal "pando receipts").
 *
 * Binary: u8 version = 1 | u8[16] id | u64 expires_ms | u64 height | u32 index | u8 code | u32 failed_op
 * (0xffffffff: none) | u16 results | result...
 *   result, one for each operation that has one (add, read, delete_range), in order: u8 kind: 0 absent (read) |
 *   1 bytes: u32 size, bytes | 2 amount: 16 bytes | 3 count: u64
 * A failed transaction has no results. Results are at most RECEIPT_RESULTS_MAX bytes.
 */
#ifndef NODE_RECEIPT_H
#define NODE_RECEIPT_H

#include "transaction.h"

#define RECEIPT_NO_OPERATION 0xffffffffu

enum receipt_result { RESULT_ABSENT = 0, RESULT_BYTES = 1, RESULT_AMOUNT = 2, RESULT_COUNT = 3 };

struct receipt {
    uint8_t id[TX_ID_BYTES];
    uint64_t expires_ms;
    uint64_t height;
    uint32_t index;
    enum tx_code code;
    uint32_t failed_op;
    uint16_t result_count;
    const uint8_t *results; /* encoded results */
    size_t results_bytes;
};

size_t receipt_size(const struct receipt *receipt);
void receipt_encode(const struct receipt *receipt, uint8_t *bytes); /* receipt_size bytes */
/* Decodes the receipt at the start of bytes, *used is its length. ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status receipt_decode(const uint8_t *bytes, size_t size, struct receipt *receipt, size_t *used);
/* {"id":..,"height":..,"index":..,"ok":..,"code":..,"results":[..]} as INTERFACE.md; bytes print as text when printable
 * UTF-8, else "0x..."; amounts as decimal strings; absent as null; counts as integers. New reference. */
json_t *receipt_to_json(const struct receipt *receipt);

#endif
