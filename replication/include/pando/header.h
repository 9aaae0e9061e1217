/*
 * The signed header of a block, and the sealed block that followers pull.
 *
 * Header bytes (little-endian, no padding; valid if and only if exactly this and nothing more):
 *   u16 version = 1 | u8[32] ledger id | u64 height | u8[32] digest of the previous header (height 1: the ledger id)
 *   u64 time_ms | u64 epoch | u8[32] digest of transactions | u8[32] digest of receipts
 *   u8[64] summary of the state (digest, count, sum) | u8[32] root of the system tree | u32 transactions
 *   u16 note bytes | note (UTF-8, at most HEADER_NOTE_MAX) | u8[32] signer (Ed25519 public key) | u8[64] signature
 * The signature covers BLAKE2b-256(personal "pando header", everything before the signature), which is also the
 * header's digest, prefixed with the 15 bytes "pando committed"; Ed25519 is deterministic, so replay makes the very
 * same bytes.
 *
 * A sealed block is what one height needs to be followed and audited without executing it:
 *   u32 header bytes | header | u32 receipts bytes | receipts (node/receipt.h: the digest of them is in the header)
 *   u32 transactions bytes | transactions (may be empty: replay mode comes later) | u32 diff bytes | diff
 * diff: per key, strictly ascending: u8 kind (0 removed, 1 bytes, 2 amount) | u16 key bytes | key | kind 1: u32 bytes,
 * value; kind 2: 16 bytes. Nothing in a sealed block is believed before the header's signature, the digests and the
 * recomputed root agree.
 */
#ifndef PANDO_HEADER_H
#define PANDO_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/digest.h"
#include "pando/engine.h"
#include "pando/status.h"

#define HEADER_VERSION 1u
#define HEADER_NOTE_MAX 1024u
#define HEADER_BYTES_MAX 2048u
#define SEALED_BYTES_MAX (72u << 20)

struct header {
    uint8_t ledger_id[32];
    uint64_t height;
    uint8_t previous[32];
    uint64_t time_ms; /* since 1970, ledger time: never goes back */
    uint64_t epoch;
    uint8_t transactions_digest[32];
    uint8_t receipts_digest[32];
    struct eng_summary state;
    uint8_t system_root[32];
    uint32_t transactions;
    uint16_t note_bytes;
    char note[HEADER_NOTE_MAX];
    uint8_t signer[32];
    uint8_t signature[64];
};

/* True if these bytes may stand as a note: UTF-8, at most HEADER_NOTE_MAX bytes. Encoding asserts it; check what comes
 * from outside. */
bool header_note_valid(const char *note, size_t note_bytes);
/* Writes at most HEADER_BYTES_MAX bytes; returns how many. */
size_t header_encode(const struct header *header, uint8_t bytes[HEADER_BYTES_MAX]);
/* ENG_DAMAGED with the reason. Bounds are checked; the signature is not. */
ENG_MUST_CHECK enum eng_status header_decode(const uint8_t *bytes, size_t size, struct header *header);
/* Digest of everything before the signature. */
void header_digest(const struct header *header, uint8_t digest[32]);
/* Fills signer and signature (secret: 64-byte libsodium Ed25519 secret key). */
void header_sign(struct header *header, const uint8_t secret[64]);
/* True if the signature is right for the signer it names. Who may sign is the caller's question. */
bool header_verify(const struct header *header);
/* BLAKE2b-256 of bytes with a personal string of at most 16 characters ("pando txs", "pando receipts", ...). */
void header_hash(const char *personal, const void *bytes, size_t size, uint8_t digest[32]);

/* A sealed block, pointing into its bytes. */
struct sealed_block {
    const uint8_t *header, *receipts, *transactions, *diff;
    uint32_t header_bytes, receipts_bytes, transactions_bytes, diff_bytes;
};
/* Bounds and lengths only. ENG_DAMAGED with the reason. */
ENG_MUST_CHECK enum eng_status sealed_block_decode(const uint8_t *bytes, size_t size, struct sealed_block *block);
/* Size of the encoding, and the encoding (bytes has that size). */
size_t sealed_block_size(const struct sealed_block *block);
void sealed_block_encode(const struct sealed_block *block, uint8_t *bytes);

/* Diff writer: a growing buffer (start with zeros; free(writer.bytes)). */
struct diff_writer {
    uint8_t *bytes;
    size_t size, capacity;
};
ENG_MUST_CHECK enum eng_status diff_write(struct diff_writer *writer, const uint8_t *key, size_t key_bytes,
                                          const struct eng_value *value); /* value NULL: removed */
/* Reads a diff in order, checking bounds and strict order; each as eng_batch_each. ENG_DAMAGED names the entry. */
ENG_MUST_CHECK enum eng_status diff_read(const uint8_t *bytes, size_t size,
                                         enum eng_status (*each)(void *context, const uint8_t *key, size_t key_bytes,
                                                                 const struct eng_value *value),
                                         void *context);

#endif
