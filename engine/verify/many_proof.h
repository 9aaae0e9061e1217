/* Proofs of many keys at once, present and absent, that share nodes. The format and the rule are in pando/verify.h. */
#ifndef VERIFY_MANY_PROOF_H
#define VERIFY_MANY_PROOF_H

#include "key_proof.h"

/* Reads and checks a proof of kind PROOF_MANY behind its kind byte; gives the summary of the root, and fills the number
 * of keys of the result and where verify_next begins. On failure the reader stands near what is wrong. */
enum verify_status many_proof_verify(struct proof_reader *reader, struct verify_result *result,
                                     struct trie_summary *root);
/* The next key (reader keys) and, if it is present, its entry (reader trie) of a proof that was verified. */
bool many_proof_next(struct proof_reader *keys, struct proof_reader *trie, const uint8_t **key, size_t *key_bytes,
                     struct trie_entry *entry);

#endif
