/*
 * The IPC protocol between pando (and libpando) and pandod: REQ/REP of the scalability protocols over ipc, so a REQ
 * socket of nng can be a client (with resending off: NNG_OPT_REQ_RESENDTIME -1), little-endian binary, one request, one
 * reply; no request is larger than PROTOCOL_REQUEST_BYTES_MAX, no reply than PROTOCOL_REPLY_BYTES_MAX. A client retries
 * by transaction id.
 *
 *   request   u16 version = 1 | u8 verb | body           reply   u16 version = 1 | u8 status (enum eng_status) |
 *   status != ENG_OK: u16 bytes | one line of text          status == ENG_OK: body by verb
 *
 * Heights: UINT64_MAX is "the newest". A scan or diff is answered in pages: the reply holds entries and a flag that
 * more follow; the client goes on behind the last key at the same height (which the reply names), so pages are one
 * snapshot.
 *
 * Requests of one connection are handed to the ledger in the order in which they were sent, also with several of them
 * in flight: the blocks of a file and the transactions of a stream keep their order.
 *
 * Readers of messages never fail in the middle: they note that something was wrong and yield zeros, and
 * protocol_read_end says at the end whether all was right. Writers note a failed allocation in the same way.
 */
#ifndef NODE_PROTOCOL_H
#define NODE_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ledger.h"

#define PROTOCOL_VERSION 1u
#define PROTOCOL_REQUEST_BYTES_MAX (66u << 20)
#define PROTOCOL_REPLY_BYTES_MAX (66u << 20)
#define PROTOCOL_PAGE_BYTES (1u << 20)             /* of a scan; one entry may be larger */
#define PROTOCOL_DIFF_PAGE_BYTES (16u << 20)       /* larger: going on behind a key costs the way there */
#define PROTOCOL_SUBMIT_MAX 4096u                  /* transactions in one submit request */
#define PROTOCOL_IMPORT_MAX 1024u                  /* blocks in one import request */
#define PROTOCOL_PROVE_MAX 4096u                   /* keys in one proof */
#define PROTOCOL_CONTEXTS 128u                     /* requests served at once */
#define PROTOCOL_PER_CONNECTION 64u                /* of them, of one connection */
#define PROTOCOL_WAITS_MAX 64u                     /* of them, those that wait for a height */
#define PROTOCOL_WORKERS 4u                        /* threads that read */
#define PROTOCOL_WORK_BYTES_MAX (256u << 20)       /* requests being worked on; above it none is received */
#define PROTOCOL_REPLY_WORK_BYTES_MAX (128u << 20) /* answers not yet taken; above it only for who owes nothing */
#define PROTOCOL_REPLY_SHARE_BYTES (32u << 20)     /* the same of one client; above it nothing is read for that one */
#define PROTOCOL_REPLY_GUESS_BYTES (8u << 20)      /* of it, for a request that is being read */
#define PROTOCOL_SEND_MS 10000u                    /* a client that stops within a request or answer is let go */
#define PROTOCOL_PROGRESS_BYTES (1u << 20)         /* of an answer; one that takes less in that time has stopped */
#define PROTOCOL_WAIT_MS_MAX 30000u                /* one VERB_WAIT; a client that waits longer asks again */
#define PROTOCOL_BUSY_WAIT_MS 2000u                /* how long a full queue of the ledger is waited for before "busy" */
#define PROTOCOL_CONNECTIONS_MAX 1024u             /* IPC connections */
#define PROTOCOL_TEXT_MAX 511u

enum protocol_verb {
    VERB_SUBMIT =
        1,        /* u32 n | {u32 bytes | transaction}...  ->  u32 n | {u8 tx_code | u32 bytes | receipt or line}... */
    VERB_IMPORT,  /* u8 keep_going | u64 stream | u32 n | {u32 bytes | block}...  ->  u32 n | {import result}... */
    VERB_GET,     /* u64 height | u16 bytes | key  ->  u64 height | u8 tag | u32 bytes | value   (ENG_NOT_FOUND) */
    VERB_SCAN,    /* u64 height | u8 flags (1 reverse, 2 has from, 4 has to) | u16 from | u16 to | u32 limit
                     -> u64 height | u8 more | u32 n | {u16 key | u8 tag | u32 value}... */
    VERB_COUNT,   /* u64 height | u8 flags | u16 from | u16 to  ->  u64 height | u64 count */
    VERB_ROOT,    /* u64 height  ->  u64 height | 64-byte summary */
    VERB_HEADER,  /* u64 height  ->  header bytes */
    VERB_DIFF,    /* u64 a | u64 b | u16 prefix | u8 has after, u16 after key
                     ->  u64 a | u64 b | u8 more | u32 n | {u8 change | u16 key | u8 tag | u32 value}... */
    VERB_RECEIPT, /* id[16]  ->  receipt bytes */
    VERB_PROVE,   /* u64 height | u32 n | {u16 key}...  ->  proof file bytes */
    VERB_WAIT,    /* u64 height | u32 timeout_ms  ->  u64 height published */
    VERB_STATUS,  /* ->  JSON text */
    VERB_PROVE_RANGE, /* u8 kind (enum proof_kind: range, totals, diff) | u64 older height, of diff | u64 height |
                         u8 flags | u16 from | u16 to  ->  proof file bytes */
    VERB_END
};
const char *protocol_verb_name(enum protocol_verb verb);

/* The address of a node: ENG_INVALID if url is not ipc://PATH with a path that a Unix socket can have. */
ENG_MUST_CHECK enum eng_status protocol_check_url(const char *url);
/* The address of a replication link: tcp://HOST:PORT or ipc://PATH. */
ENG_MUST_CHECK enum eng_status protocol_check_link(const char *url);

/* ---- bytes ---- */

struct protocol_reader {
    const uint8_t *at, *end;
    bool failed;
};
uint8_t protocol_read_u8(struct protocol_reader *reader);
uint16_t protocol_read_u16(struct protocol_reader *reader);
uint32_t protocol_read_u32(struct protocol_reader *reader);
uint64_t protocol_read_u64(struct protocol_reader *reader);
/* bytes of the message in place, or NULL. */
const uint8_t *protocol_read_bytes(struct protocol_reader *reader, size_t size);
/* True if nothing went wrong and nothing is left. */
bool protocol_read_end(const struct protocol_reader *reader);

/* Starts as zeros; the owner frees bytes. size may be set back to 0 to use the memory again. */
struct protocol_writer {
    uint8_t *bytes;
    size_t size, capacity;
    bool failed; /* out of memory: what was written is of no use */
};
void protocol_write_u8(struct protocol_writer *writer, uint8_t value);
void protocol_write_u16(struct protocol_writer *writer, uint16_t value);
void protocol_write_u32(struct protocol_writer *writer, uint32_t value);
void protocol_write_u64(struct protocol_writer *writer, uint64_t value);
void protocol_write_bytes(struct protocol_writer *writer, const void *bytes, size_t size);
/* Overwrites four bytes written before. */
void protocol_patch_u32(struct protocol_writer *writer, size_t offset, uint32_t value);

/* ---- requests ---- */

void protocol_request_begin(struct protocol_writer *writer, enum protocol_verb verb);
/* ENG_VERSION, ENG_INVALID; the reader then stands on the body. */
ENG_MUST_CHECK enum eng_status protocol_request_open(const uint8_t *bytes, size_t size, enum protocol_verb *verb,
                                                     struct protocol_reader *body);

enum { PROTOCOL_REVERSE = 1, PROTOCOL_HAS_FROM = 2, PROTOCOL_HAS_TO = 4 };

/* What scan and count ask: from <= key < to. */
struct protocol_range {
    uint64_t height;
    uint8_t flags;
    const uint8_t *from, *to;
    uint16_t from_bytes, to_bytes;
    uint32_t limit; /* scan only; 0: none */
};
void protocol_write_range(struct protocol_writer *writer, const struct protocol_range *range, bool scan);
ENG_MUST_CHECK enum eng_status protocol_read_range(struct protocol_reader *reader, bool scan,
                                                   struct protocol_range *range);

struct protocol_diff {
    uint64_t a, b;
    const uint8_t *prefix, *after;
    uint16_t prefix_bytes, after_bytes;
    bool has_after;
};
void protocol_write_diff(struct protocol_writer *writer, const struct protocol_diff *diff);
ENG_MUST_CHECK enum eng_status protocol_read_diff(struct protocol_reader *reader, struct protocol_diff *diff);

/* ---- replies ---- */

void protocol_reply_begin(struct protocol_writer *writer);
/* Replaces what was written by an error. */
void protocol_reply_error(struct protocol_writer *writer, enum eng_status status, const char *text);
/* The status the node answered, with its line in eng_error(); ENG_VERSION, ENG_DAMAGED if it is no reply. */
ENG_MUST_CHECK enum eng_status protocol_reply_open(const uint8_t *bytes, size_t size, struct protocol_reader *body);

/* u16 key bytes | key | u8 tag | u32 value bytes | value */
struct protocol_entry {
    const uint8_t *key;
    size_t key_bytes;
    struct eng_value value;
};
size_t protocol_entry_size(size_t key_bytes, size_t value_bytes);
void protocol_write_entry(struct protocol_writer *writer, const uint8_t *key, size_t key_bytes,
                          const struct eng_value *value);
/* False at something malformed. */
bool protocol_read_entry(struct protocol_reader *reader, struct protocol_entry *entry);

enum protocol_change {
    CHANGE_REMOVED = 0,
    CHANGE_ADDED = 1,
    CHANGE_REPLACED = 2
}; /* a removed entry has an empty value */

void protocol_write_import_result(struct protocol_writer *writer, const struct import_result *result);
bool protocol_read_import_result(struct protocol_reader *reader, struct import_result *result);

#endif
