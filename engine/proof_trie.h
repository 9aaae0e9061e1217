/*
 * The logical trie as those who make proofs walk it: parts of nodes, bounds, and what is written.
 *
 * A part is a node of the logical trie: branches [lo, hi] of an inner node, entries [lo, hi] of a leaf, or a child that
 * was not looked at yet. Parts are visited in pre-order, the left side first, with the key bytes above the part at hand
 * in path. Inside of a reader's epoch; pointers into nodes are good until it is left.
 */
#ifndef ENGINE_PROOF_TRIE_H
#define ENGINE_PROOF_TRIE_H

#include "engine_internal.h"
#include "pando/proof.h"
#include "tree.h"

enum proof_token {
    PROOF_TOKEN_ENTRY = 0,
    PROOF_TOKEN_INNER = 1,
    PROOF_TOKEN_PRUNED = 2,
    PROOF_TOKEN_WHOLE = 3,
    PROOF_TOKEN_NOTHING = 4,
    PROOF_TOKEN_SHARED = 5,
    PROOF_TOKEN_SAME = 6
};

/* ---- parts ---- */

struct trie_part {
    const struct node *node; /* NULL: not looked at yet */
    uint32_t id;             /* of the node */
    uint16_t lo, hi;
};

/* An entry with its whole key. */
struct trie_item {
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t key_bytes;
    struct eng_value value;
    const uint8_t *digest; /* of a value over 64 bytes, else NULL */
};

/* Looks at nodes until the part is an entry or has two sides; fills path above its sides. ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status trie_open(struct store *store, struct trie_part *part, uint8_t *path);
/* Of an opened part. */
bool trie_is_entry(const struct trie_part *part);
/* The sides of an opened part that is no entry, and the bit that parts them. */
uint32_t trie_sides(const struct trie_part *part, struct trie_part sides[2]);
/* The entry that an opened part is. */
ENG_MUST_CHECK enum eng_status trie_item(struct store *store, const struct trie_part *part, const uint8_t *path,
                                         struct trie_item *item);
/* Of any part. */
ENG_MUST_CHECK enum eng_status trie_summary(struct store *store, const struct trie_part *part, const uint8_t *path,
                                            struct eng_summary *out);
ENG_MUST_CHECK enum eng_status trie_count(struct store *store, const struct trie_part *part, uint64_t *count);
/* The first key of a part; path is filled on the way to it, which spoils nothing. */
ENG_MUST_CHECK enum eng_status trie_first(struct store *store, const struct trie_part *part, uint8_t *path,
                                          uint8_t key[ENG_KEY_BYTES_MAX], size_t *key_bytes);

/* ---- bounds ---- */

enum proof_where { ON_THE_WAY, BELOW, NOT_BELOW };

struct proof_bound {
    const uint8_t *key; /* NULL: open */
    size_t key_bytes;
    uint32_t differs;         /* first bit in which the landing key differs; UINT32_MAX: it is the bound */
    enum proof_where landing; /* where the landing key lies */
};

/* ENG_INVALID: not keys, or not in order. */
ENG_MUST_CHECK enum eng_status proof_bounds_set(struct proof_bound bounds[2], const uint8_t *from, size_t from_bytes,
                                                const uint8_t *to, size_t to_bytes);
/* Finds the landing entries. */
ENG_MUST_CHECK enum eng_status proof_bounds_land(struct proof_bound bounds[2], struct eng_snapshot *snapshot);
/* Where the root lies; where the side of a node at bit lies that lies at where. */
void proof_where_root(const struct proof_bound bounds[2], uint8_t where[2]);
void proof_where_side(const struct proof_bound bounds[2], uint32_t bit, unsigned side, uint8_t where[2]);
bool proof_inside(const struct proof_bound bounds[2], const uint8_t *key, size_t key_bytes);

/* ---- output ---- */

struct proof_out {
    uint8_t *bytes;
    size_t size, room;
    size_t max; /* ENG_TOO_LARGE beyond */
};

ENG_MUST_CHECK enum eng_status proof_put(struct proof_out *out, const void *bytes, size_t count);
ENG_MUST_CHECK enum eng_status proof_put_token(struct proof_out *out, enum proof_token token);
ENG_MUST_CHECK enum eng_status proof_put_key(struct proof_out *out, const uint8_t *key, size_t key_bytes);
ENG_MUST_CHECK enum eng_status proof_put_bounds(struct proof_out *out, const struct proof_bound bounds[2]);
/* Tokens with what is behind them. */
ENG_MUST_CHECK enum eng_status proof_put_inner(struct proof_out *out, uint32_t bit);
ENG_MUST_CHECK enum eng_status proof_put_summary(struct proof_out *out, enum proof_token token,
                                                 const struct eng_summary *summary);
ENG_MUST_CHECK enum eng_status proof_put_item(struct proof_out *out, bool whole, const struct trie_item *item);

#endif
