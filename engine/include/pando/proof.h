/*
 * Proofs, from the side that makes them: the paths a walker found, encoded as pando/verify.h describes.
 *
 * The walker goes down the logical trie with the asked key (eng_path) and notes each node it passes, with the summary
 * of the side it did not take, and the entry at which it ends. If that is the asked key the proof says present,
 * otherwise absent.
 *
 * A range is proven by the trie itself, pruned outside of what is asked and along nothing but the ways of its bounds.
 *
 * engine/examples/audit.c makes such proofs and checks them.
 *
 * A blob is memory of its own; proof_blob_free() gives it back and empties it. Any thread; nothing is kept.
 */
#ifndef ENGINE_PROOF_H
#define ENGINE_PROOF_H

#include "pando/digest.h"
#include "pando/engine.h"
#include "pando/status.h"
#include "pando/verify.h"

#ifdef __cplusplus
extern "C" {
#endif

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

/* A state proof of 1 to PROOF_MANY_KEYS_MAX keys of a snapshot, in any order, that share nodes; it speaks of each once,
 * in ascending order. ENG_INVALID: more keys or none, or one of a length that no key has; otherwise as above. */
ENG_MUST_CHECK enum eng_status eng_prove_many(struct eng_snapshot *snapshot, const uint8_t *const keys[],
                                              const size_t key_bytes[], size_t count, struct proof_blob *state);

/* A state proof of what differs between two snapshots of one store in from <= key < to (NULL: open end), and that
 * nothing else does; if nothing differs it says that the range is unchanged. In O(differences * depth). max_bytes: of
 * the proof, 0: PROOF_BYTES_MAX. ENG_INVALID: bounds that are no keys or not in order; ENG_TOO_LARGE: over max_bytes;
 * ENG_NO_MEMORY, ENG_DAMAGED. On failure the blob is empty. */
ENG_MUST_CHECK enum eng_status eng_prove_diff(struct eng_snapshot *older, struct eng_snapshot *newer,
                                              const uint8_t *from, size_t from_bytes, const uint8_t *to,
                                              size_t to_bytes, size_t max_bytes, struct proof_blob *state);

/* The range of one key alone, for eng_prove_diff: the key is unchanged if and only if nothing differs in it. Writes to
 * (ENG_KEY_BYTES_MAX bytes) and gives its length, 0: open end. */
size_t proof_key_range_end(const uint8_t *key, size_t key_bytes, uint8_t *to);

/* One level of a way into a subtree: a key of a snapshot, whose value is a tree. */
struct proof_level {
    struct eng_snapshot *snapshot;
    const uint8_t *key;
    size_t key_bytes;
};

/* Makes a state proof of the innermost subtree one of the outermost state. levels, from the outermost in, count 1 to
 * PROOF_LEVELS_MAX: the snapshot of each but the first is the tree at the key of the one before (eng_snapshot_tree);
 * inner: a state proof of the tree at the last one's key, of any kind but PROOF_NESTED. older: the same for the older
 * state if inner is a PROOF_DIFF, with the same keys, NULL otherwise. ENG_INVALID: a key without a tree, another number
 * of levels, an inner proof of another kind; ENG_TOO_LARGE, ENG_NO_MEMORY, ENG_DAMAGED. That the levels fit together is
 * not checked here (verify_state does). */
ENG_MUST_CHECK enum eng_status eng_prove_nested(const struct proof_level *levels, const struct proof_level *older,
                                                size_t count, const struct proof_blob *inner, struct proof_blob *state);

/* The proof file of a signed header and a state proof: what `pando verify` reads. ENG_TOO_LARGE, ENG_NO_MEMORY. */
ENG_MUST_CHECK enum eng_status proof_file(const uint8_t *header, size_t header_bytes, const struct proof_blob *state,
                                          struct proof_blob *file);

void proof_blob_free(struct proof_blob *blob);

#ifdef __cplusplus
}
#endif

#endif
