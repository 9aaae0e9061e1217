/* Proofs of what differs between two states in a range of keys, and that nothing else does. The format and the rule are
 * in pando/verify.h. */
#ifndef VERIFY_DIFF_PROOF_H
#define VERIFY_DIFF_PROOF_H

#include "key_proof.h"

/* One key that differs: in the older state, in the newer one, or in both. */
struct diff_entry {
    bool before, after;
    struct trie_entry old, new;
};

/* Reads and checks a proof of kind PROOF_DIFF behind its kind byte; gives the summaries of both roots (of two states
 * that are the same: digests only, the rest is 0), and fills bounds, count and sum of the result and where verify_next
 * begins. On failure the reader stands near what is wrong. */
enum verify_status diff_proof_verify(struct proof_reader *reader, struct verify_result *result,
                                     struct trie_summary *older, struct trie_summary *newer);
/* The next key that differs, of a proof that was verified. Both readers move. */
bool diff_proof_next(struct proof_reader *older, struct proof_reader *newer, struct diff_entry *entry);

#endif
