/*
 * What a follower asks and a source answers, in bytes (little-endian, no padding).
 *
 *   request   u16 version = 1 | u8 kind | body; valid if and only if exactly this and nothing more
 *     kind 1 blocks    u8[32] ledger id | u64 from | u8[32] digest of the header before it | u32 max bytes |
 *                      u32 wait ms | u64 durable up to | u8[32] node key of the follower
 *     kind 2 genesis   nothing
 *   reply     u16 version = 1 | u8 kind | body; valid if and only if exactly this and nothing more
 *     kind 1 blocks    u64 newest height of the source | u32 n | n times { u32 bytes | sealed block }
 *     kind 2 genesis   u32 bytes | genesis.json
 *     kind 3 error     u8 code | u64 first kept height | u8[32] ledger id of the source | u16 bytes | line of text
 *
 * A request is one poll: the sealed blocks from a height on, as many as fit max bytes (always at least one if there is
 * one), or n = 0 after wait ms. max bytes counts { u32 bytes | sealed block } and nothing else. The decoders check
 * bounds, lengths and ranges only; they allocate nothing, and what they return points into the message.
 */
#ifndef REPLICATION_MESSAGE_H
#define REPLICATION_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/replication.h"
#include "pando/status.h"

#define MESSAGE_VERSION 1u
#define MESSAGE_REQUEST_BYTES_MAX 123u
#define MESSAGE_TEXT_BYTES_MAX 400u
#define MESSAGE_BLOCKS_MAX 65536u     /* blocks in one reply */
#define MESSAGE_BLOCKS_HEAD_BYTES 15u /* of a blocks reply, before the first block */
#define MESSAGE_GENESIS_HEAD_BYTES 7u /* of a genesis reply, before the genesis */
#define MESSAGE_ERROR_BYTES_MAX (46u + MESSAGE_TEXT_BYTES_MAX)
_Static_assert(MESSAGE_BLOCKS_HEAD_BYTES + 4 + SEALED_BYTES_MAX <= REPLICATION_REPLY_BYTES_MAX,
               "any block fits a reply");
_Static_assert(MESSAGE_GENESIS_HEAD_BYTES + REPLICATION_GENESIS_BYTES_MAX <= REPLICATION_REPLY_BYTES_MAX,
               "so does a genesis");

enum message_kind { MESSAGE_BLOCKS = 1, MESSAGE_GENESIS = 2, MESSAGE_ERROR = 3 };

/* Why a source has no blocks to give. The numbers are the wire format: append only. */
enum message_error {
    MESSAGE_OTHER_LEDGER = 1, /* ledger_id says which */
    MESSAGE_GONE = 2,         /* no longer kept; first is the first kept height */
    MESSAGE_DIVERGED = 3,     /* the header before is not the one the source has */
    MESSAGE_BUSY = 4,         /* too many polls or bytes on their way: try again */
    MESSAGE_MALFORMED = 5,    /* no request of this version */
    MESSAGE_FAILED = 6,       /* the source cannot read the block: text says why */
    MESSAGE_STOPPING = 7,     /* the source is about to close: let it */
};

struct message_request {
    enum message_kind kind; /* BLOCKS or GENESIS; the rest is of BLOCKS */
    uint8_t ledger_id[32];
    uint64_t from;        /* first height wanted, 1 or more */
    uint8_t previous[32]; /* digest of the header of from - 1 (from 1: the ledger id) */
    uint32_t max_bytes;
    uint32_t wait_ms; /* at most REPLICATION_WAIT_MS_MAX */
    uint64_t durable;
    uint8_t node_key[32];
};

struct message_reply {
    enum message_kind kind;
    uint64_t height;     /* BLOCKS */
    uint32_t count;      /* BLOCKS: how many */
    const uint8_t *body; /* BLOCKS: the framed blocks; GENESIS: the genesis */
    size_t body_bytes;
    enum message_error error; /* ERROR, with the three below */
    uint64_t first;
    uint8_t ledger_id[32];
    char text[MESSAGE_TEXT_BYTES_MAX + 1]; /* unprintable bytes replaced by '?' */
};

/* Returns how many bytes were written. */
size_t message_request_encode(const struct message_request *request, uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX]);
/* ENG_DAMAGED, ENG_VERSION (another version of the protocol), ENG_INVALID (a value out of its range). */
ENG_MUST_CHECK enum eng_status message_request_decode(const uint8_t *bytes, size_t size,
                                                      struct message_request *request);

/* The head of a blocks reply, to be followed by its blocks, each framed by message_put_size. */
void message_blocks_head(uint64_t height, uint32_t count, uint8_t bytes[MESSAGE_BLOCKS_HEAD_BYTES]);
void message_put_size(uint32_t size, uint8_t bytes[4]);
/* The head of a genesis reply, to be followed by the genesis. */
void message_genesis_head(uint32_t genesis_bytes, uint8_t bytes[MESSAGE_GENESIS_HEAD_BYTES]);
/* Returns how many bytes were written; text is cut at MESSAGE_TEXT_BYTES_MAX. */
size_t message_error_encode(enum message_error error, uint64_t first, const uint8_t ledger_id[32], const char *text,
                            uint8_t bytes[MESSAGE_ERROR_BYTES_MAX]);
/* ENG_DAMAGED, ENG_VERSION. After ENG_OK the framing of every block of a blocks reply is known to be right. */
ENG_MUST_CHECK enum eng_status message_reply_decode(const uint8_t *bytes, size_t size, struct message_reply *reply);
/* The next block of a decoded blocks reply; *at starts at 0. false: there are no more. */
bool message_reply_next(const struct message_reply *reply, size_t *at, const uint8_t **block, uint32_t *block_bytes);

#endif
