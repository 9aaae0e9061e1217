/*
 * Proofs, from the side that makes them: the paths a walker found, encoded as pando/verify.h describes.
 *
 * The walker goes down the logical trie with the asked key (eng_path) and notes each node it passes, with the summary
 * of the side it did not take, and the entry at which it ends. If that is the asked key the proof says present,
 * otherwise absent.
 *
 * A range is proven by the trie itself, pruned outside of what is asked and along nothing but the ways of its bounds.
 *
 * A blob is memory of its own; proof_blob_free() gives it back and empties it. Any thread; nothing is kept.
 */
#ifndef ENGINE_PROOF_H
#define ENGINE_PROOF_H

#include "pando/digest.h"
#include "pando/engine.h"
#include "pando/status.h"
#include "pando/verify.h"

struct proof_step {
    uint32_t bit;
    struct eng_summary sibling;
};

struct proof_path {
    const uint8_t *key; /* the landing key */
    size_t key_bytes;   /* 0: the state is empty, and nothing else here is read */
    enum eng_tag tag;
    const uint8_t *value; /* the whole value; if the asked key is another key and value_digest is given: not read */
    size_t value_bytes;
    const uint8_t *value_digest;    /* of a value over DIGEST_VALUE_INLINE_MAX, or NULL: computed if needed */
    const struct proof_step *steps; /* from the root down */
    size_t step_count;
};

/* An asked key, 1 to ENG_KEY_BYTES_MAX bytes, and where its walk ended. */
struct proof_key {
    const uint8_t *key;
    size_t key_bytes;
    struct proof_path path;
};

struct proof_blob {
    uint8_t *bytes;
    size_t size;
};

/* A state proof of the given keys, in the order given; count at least 1. All paths must be of one root, which is not
 * checked here (verify_state does). ENG_TOO_LARGE: it would not fit a proof file; ENG_DAMAGED: a path is not one of a
 * trie (bits that do not ascend, a sibling without entries, an asked key that would not walk along it); ENG_NO_MEMORY.
 * On failure the blob is empty. */
ENG_MUST_CHECK enum eng_status proof_state_keys(const struct proof_key *keys, size_t count, struct proof_blob *state);

/* A state proof of the range from <= key < to (NULL: open end) of a snapshot: its contents, or its count and the sum of
 * its amounts, in O(depth). ENG_INVALID: bounds that are no keys or not in order; ENG_TOO_LARGE: over PROOF_BYTES_MAX;
 * ENG_NO_MEMORY, ENG_DAMAGED. On failure the blob is empty. */
ENG_MUST_CHECK enum eng_status proof_state_range(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes,
                                                 const uint8_t *to, size_t to_bytes, bool contents,
                                                 struct proof_blob *state);

/* The proof file of a signed header and a state proof: what `pando verify` reads. ENG_TOO_LARGE, ENG_NO_MEMORY. */
ENG_MUST_CHECK enum eng_status proof_file(const uint8_t *header, size_t header_bytes, const struct proof_blob *state,
                                          struct proof_blob *file);

void proof_blob_free(struct proof_blob *blob);

#endif
