/* Proofs about a range of keys: its whole contents, or its count and sum. The format and the rule are in
 * pando/verify.h. */
#ifndef VERIFY_RANGE_PROOF_H
#define VERIFY_RANGE_PROOF_H

#include "key_proof.h"

/* Reads and checks a proof of kind PROOF_RANGE or PROOF_TOTALS behind its kind byte; gives the summary of the root, and
 * fills bounds, count and sum of the result and where verify_next begins. On failure the reader stands near what is
 * wrong. */
enum verify_status range_proof_verify(struct proof_reader *reader, enum proof_kind kind, struct verify_result *result,
                                      struct trie_summary *root);
/* The next entry of a proof of kind PROOF_RANGE that was verified. */
bool range_proof_next(struct proof_reader *reader, struct trie_entry *entry);

#endif
