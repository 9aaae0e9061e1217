/*
 * Genesis: what a ledger is. genesis.json is canonical JSON (jansson, sorted keys, compact, one newline); its digest,
 * BLAKE2b-256 personal "pando genesis", is the ledger id, and what the header of block 1 names as its predecessor.
 *   {"format":1,"ledger":NAME,"nonce":32 hex digits,"signers":[HEX...],"window_ms":600000,"modules":[]}
 * Every key is required, others are errors, so that two readers cannot differ.
 * The system tree (root 1 of the store) at height 0 holds "signer/" + 32 key bytes -> "" for each signer and
 * "window_ms" -> u64 little-endian; its root stands in every header.
 */
#ifndef NODE_GENESIS_H
#define NODE_GENESIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/status.h"

#define GENESIS_NAME_MAX 64
#define GENESIS_SIGNERS_MAX 64

struct genesis {
    char ledger[GENESIS_NAME_MAX + 1];
    uint8_t nonce[16];
    uint8_t signers[GENESIS_SIGNERS_MAX][32];
    size_t signer_count;
    uint64_t window_ms;
    uint8_t ledger_id[32];
    char *json; /* the exact bytes, NUL-terminated, malloc'ed */
    size_t json_bytes;
};

/* Makes one with a random nonce (or the given one, for tests). */
ENG_MUST_CHECK enum eng_status genesis_make(const char *ledger, const uint8_t signer[32], uint64_t window_ms,
                                            const uint8_t *nonce, struct genesis *genesis);
/* Parses and checks exact bytes; ENG_INVALID names what. */
ENG_MUST_CHECK enum eng_status genesis_parse(const char *json, size_t json_bytes, struct genesis *genesis);
void genesis_release(struct genesis *genesis);

/* Ed25519 key files: 64 hex digits of the seed and a newline, mode 0600, created exclusively and synced. */
ENG_MUST_CHECK enum eng_status key_file_create(const char *path, uint8_t public_key[32], uint8_t secret[64]);
ENG_MUST_CHECK enum eng_status key_file_read(const char *path, uint8_t public_key[32], uint8_t secret[64]);

#endif
