/* One key proof: taken apart, then checked. The format and the rule are in pando/verify.h. */
#ifndef VERIFY_KEY_PROOF_H
#define VERIFY_KEY_PROOF_H

#include "trie.h"

/* What is left of the input. */
struct proof_reader {
    const uint8_t *at, *end;
};

struct key_proof {
    const uint8_t *key; /* asked */
    size_t key_bytes;
    enum proof_claim claim;
    struct trie_entry landing; /* unless claim is PROOF_EMPTY */
    const uint8_t *steps;      /* PROOF_STEP_BYTES each, from the root down */
    uint32_t step_count;
};

/* Takes one key proof off the reader. On failure the reader stands at the field that is wrong. */
enum verify_status key_proof_read(struct proof_reader *reader, struct key_proof *proof);
/* Checks a proof that was read and computes the summary of the root it leads to. */
enum verify_status key_proof_check(const struct key_proof *proof, struct trie_summary *root);

/* A key with its length before it. */
enum verify_status proof_key_read(struct proof_reader *reader, const uint8_t **key, size_t *key_bytes);
/* An entry: whole (as in claim 1, with its key before it), or as a landing entry (claim 0). */
enum verify_status proof_entry_read(struct proof_reader *reader, bool whole, struct trie_entry *entry);
/* The next bytes, or NULL if there are not so many. */
const uint8_t *proof_take(struct proof_reader *reader, size_t bytes);

#endif
