/*
 * Transactions: what a client asks, in binary (canonical, what the log holds and digests cover) and in JSON.
 *
 * Binary (little-endian; valid if and only if exactly this and nothing more):
 *   u8 version = 1 | u8[16] id | u64 expires_ms (0 only inside imported blocks: never) | u32 operations | operation...
 *   operation: u8 kind | u16 key bytes | key | by kind:
 *     put insert update: u8 tag = 0 | u32 value bytes | value      expect: u8 tag | value (tag 1: 16 bytes, no length)
 *     delete_range: u16 to bytes | to           (key is from; an empty to is not allowed)
 *     add: u8 flags (1 min, 2 max) | i128 amount | i128 min? | i128 max?
 *     delete unset expect_present expect_absent read: nothing
 * Limits: key 1..1,024 bytes, value 16 MiB, TX_OPERATIONS_MAX operations, TX_BYTES_MAX bytes.
 *
 * A block handed in whole:
 *   u8 version = 1 | u64 height | u64 time_ms (0: the clock) | u16 note bytes | note | u32 transactions |
 *   { u32 bytes | transaction }...
 * Decoders check every bound and allocate only the array of operations.
 */
#ifndef NODE_TRANSACTION_H
#define NODE_TRANSACTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "pando/engine.h"

#define TX_ID_BYTES 16u
#define TX_OPERATIONS_MAX 4096u
#define TX_BYTES_MAX (16u << 20)
#define BLOCK_TRANSACTIONS_MAX 65536u
#define BLOCK_BYTES_MAX (64u << 20)
#define RECEIPT_RESULTS_MAX 65536u /* bytes of results in one receipt */

enum tx_kind {
    TX_PUT = 1,
    TX_INSERT,
    TX_UPDATE,
    TX_DELETE,
    TX_UNSET,
    TX_DELETE_RANGE,
    TX_ADD,
    TX_EXPECT,
    TX_EXPECT_PRESENT,
    TX_EXPECT_ABSENT,
    TX_READ,
    TX_KIND_END
};

/* code, name in JSON. The order is the wire format: append only. */
#define TX_CODE_TABLE(X)                                                                                               \
    X(TX_OK, "OK")                                                                                                     \
    X(TX_EXISTS, "EXISTS")                                                                                             \
    X(TX_NOT_FOUND, "NOT_FOUND")                                                                                       \
    X(TX_BELOW_MIN, "BELOW_MIN")                                                                                       \
    X(TX_ABOVE_MAX, "ABOVE_MAX")                                                                                       \
    X(TX_OVERFLOW, "OVERFLOW")                                                                                         \
    X(TX_TYPE, "TYPE")                                                                                                 \
    X(TX_MISMATCH, "MISMATCH")                                                                                         \
    X(TX_RESULTS_TOO_LARGE, "RESULTS_TOO_LARGE")                                                                       \
    /* refused before ordering: no receipt, nothing recorded */                                                        \
    X(TX_MALFORMED, "MALFORMED")                                                                                       \
    X(TX_TOO_LARGE, "TOO_LARGE")                                                                                       \
    X(TX_BAD_SIGNATURE, "BAD_SIGNATURE")                                                                               \
    X(TX_FORBIDDEN, "FORBIDDEN")                                                                                       \
    X(TX_EXPIRED, "EXPIRED")                                                                                           \
    X(TX_BUSY, "BUSY")                                                                                                 \
    X(TX_NOT_LEADER, "NOT_LEADER")
enum tx_code {
#define X(code, name) code,
    TX_CODE_TABLE(X)
#undef X
};
const char *tx_code_name(enum tx_code code);
bool tx_code_from_name(const char *name, enum tx_code *code);

/* "put", "delete_range", ...: the name in JSON. */
const char *tx_kind_name(enum tx_kind kind);

struct tx_operation {
    enum tx_kind kind;
    const uint8_t *key; /* delete_range: from */
    uint16_t key_bytes;
    struct eng_value value; /* put insert update expect */
    const uint8_t *to;      /* delete_range */
    uint16_t to_bytes;
    __int128 amount, min, max; /* add */
    bool has_min, has_max;
};

struct transaction {
    uint8_t id[TX_ID_BYTES];
    uint64_t expires_ms;
    uint32_t operation_count;
    struct tx_operation *operations; /* malloc'ed by decode; keys and values point into the decoded bytes */
};

/* ENG_INVALID (malformed: eng_error() says what and where), ENG_TOO_LARGE, ENG_NO_MEMORY. bytes must outlive tx. */
ENG_MUST_CHECK enum eng_status transaction_decode(const uint8_t *bytes, size_t size, struct transaction *tx);
void transaction_release(struct transaction *tx);
/* Only id and expiry, without looking at the rest; false if too short. */
bool transaction_peek(const uint8_t *bytes, size_t size, uint8_t id[TX_ID_BYTES], uint64_t *expires_ms);
/* malloc'ed encoding. */
ENG_MUST_CHECK enum eng_status transaction_encode(const struct transaction *tx, uint8_t **bytes, size_t *size);

/* From the JSON of INTERFACE.md. Without an id one is made from randombytes (zero_id: left 16 zero bytes, for imported
 * blocks); without expires expires_default is used. ENG_INVALID: MALFORMED, eng_error() names operation and field.
 * Keys given as lists and operations that this version does not have are malformed. */
ENG_MUST_CHECK enum eng_status transaction_from_json(const json_t *json, uint64_t expires_default, bool zero_id,
                                                     uint8_t **bytes, size_t *size);

struct block {
    uint64_t height, time_ms;
    uint16_t note_bytes;
    const char *note;
    uint32_t transaction_count;
    struct {
        const uint8_t *bytes;
        uint32_t size;
    } * transactions; /* malloc'ed array into the decoded bytes */
};
ENG_MUST_CHECK enum eng_status block_decode(const uint8_t *bytes, size_t size, struct block *block);
void block_release(struct block *block);
/* From a line of a block file ("txs" or "ops"); malloc'ed bytes. */
ENG_MUST_CHECK enum eng_status block_from_json(const json_t *json, uint8_t **bytes, size_t *size);

/* Parses "0x..", "hex:.." or plain text into a malloc'ed key; decimal i128; hex. */
ENG_MUST_CHECK enum eng_status key_from_text(const char *text, uint8_t **key, size_t *key_bytes);
ENG_MUST_CHECK enum eng_status amount_from_text(const char *text, __int128 *amount);
#define AMOUNT_TEXT_MAX 41
void amount_to_text(__int128 amount, char text[AMOUNT_TEXT_MAX]);
__int128 amount_from_bytes(const uint8_t bytes[16]);
void amount_to_bytes(__int128 amount, uint8_t bytes[16]);

#endif
