/*
 * Checking proofs offline: no node, no store, no code of the tree. Needs libsodium only.
 *
 * The happy path:
 *
 *     struct verify_result result;
 *     if (verify_file(bytes, size, NULL, &result) != VERIFY_OK)
 *         puts(result.reason);
 *     check the signature of result.header, and that the state root it names is result.root
 *     struct verify_key key;
 *     while (verify_next(&result, &key))
 *         key.key is in that state with key.value, or is not in it
 *
 * A proof says nothing about who signed the header: the header is opaque bytes here. What is proven is: IF result.root
 * is the root of a state THEN each key is present in it with that tag and value, or absent from it; THEN the entries of
 * a range are these and no others; THEN a range has this count and this sum of amounts.
 *
 * A proof FILE (integers little-endian):
 *
 *      0  8   magic "PANDOPRF"
 *      8  2   format version, 1
 *     10  2   flags, 0
 *     12  4   H, bytes of the header
 *     16  H   the signed block header
 *      .  .   the state proof, everything up to the checksum
 *      .  32  BLAKE2b-256 (personal "pando proof", no key, no salt) of all bytes before it
 *
 * A STATE PROOF begins with u8 kind. Kind 1, keys, continues with u32 number of keys (at least 1) and for each:
 *
 *     u16 key bytes (1..1024) | the asked key | u8 claim
 *     claim 0, absent    landing entry: u16 key bytes | key | u8 tag | u8 form
 *                          form 0: u8 value bytes (0..64) | value
 *                          form 1: u64 value bytes (65..16 MiB) | 32-byte digest of the value
 *                        path
 *     claim 1, present   u8 tag | u32 value bytes | value; the landing entry is this one. path
 *     claim 2, absent because the state is empty: no more bytes; the root is 32 zero bytes
 *     path               u16 number of steps, then from the root down: u32 bit | the sibling's summary, 64 bytes
 *
 * A file is valid if and only if it has exactly this form, the checksum matches, and every key proof leads to the same
 * root. A key proof is valid if and only if: the bits of its path strictly ascend, none lies beyond the end of the
 * landing key (bit 9n of a key of n bytes says that it ends); the asked key agrees with the landing key in every bit of
 * the path; they are the same key (claim 1) or different keys (claim 0); and the entry, combined with the siblings from
 * the last step to the first, each on the side that the landing key's bit leaves free, gives the root digest.
 *
 * Why this proves absence: a node digest binds its bit and both sides, so the path is a path of the real trie. A key of
 * the state is found by following its own bits from the root and ends at its own entry. The asked key, following the
 * same bits, ends at the landing entry, which is another key's; so it is not in the state. Where it would branch off
 * (the first bit in which it differs from the landing key) is a bit no node of the path tests, hence one in which
 * everything below the next node agrees with the landing key.
 *
 * Kinds 2, the contents of a range, and 3, its count and sum, continue with two bounds, from and to, each u8 0 (open)
 * or u8 1 | u16 key bytes | key; then the logical trie in pre-order, parts of it pruned, each node beginning with u8
 * token:
 *
 *     token 0, entry    as a landing entry above
 *     token 1, inner    u32 bit | the left side | the right side
 *     token 2, pruned   the summary of all below, 64 bytes
 *     token 3, whole    u16 key bytes | key | u8 tag | u32 value bytes | value: in kind 2, an entry of the range
 *     token 4, nothing  the empty state
 *
 * A range is from <= key < to. A range proof is valid if and only if: bits ascend on every way down; following a
 * bound's own bits from the root one comes to an entry, its landing entry, and to no pruned node; in kind 2 no pruned
 * node lies inside the range, and the entries inside it, and no others, are whole.
 *
 * Why the verifier knows where a pruned node lies: let e be the first bit in which a bound b differs from its landing
 * key L. Every node on the way of b with a bit below e tests a bit in which b agrees with all keys below that node up
 * to it, so the keys on the side b does not take are greater than b if that side is the right one, and less if it is
 * the left one. All keys below the first node with a bit above e agree with L up to there, e included, so they lie on
 * the same side of b as L. No node on the way tests e itself, or L would not be on it. So every part of the trie off
 * the way of b is wholly below b or wholly not below it.
 *
 * Every encoding is the only one of what it says (no spare bytes, no second form). Untrusted input: nothing is
 * allocated (for ranges a stack of at most 9,225 open nodes), time and reads are bounded by the size, no byte outside
 * [bytes, bytes + size) is read.
 *
 * The digest rule itself is described in pando/digest.h.
 */
#ifndef PANDO_VERIFY_H
#define PANDO_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROOF_MAGIC "PANDOPRF"
#define PROOF_MAGIC_BYTES 8u
#define PROOF_FORMAT_VERSION 1u
#define PROOF_FILE_HEAD_BYTES 16u
#define PROOF_CHECKSUM_BYTES 32u
#define PROOF_BYTES_MAX (16u << 20) /* a whole file */
#define PROOF_DIGEST_BYTES 32u
#define PROOF_SUMMARY_BYTES 64u
#define PROOF_STEP_BYTES (4u + PROOF_SUMMARY_BYTES)
#define PROOF_STEPS_MAX (9u * 1025u)
#define PROOF_KEY_BYTES_MAX 1024u
#define PROOF_VALUE_BYTES_MAX (16u << 20)
#define PROOF_VALUE_INLINE_MAX 64u

enum proof_kind { PROOF_KEYS = 1, PROOF_RANGE = 2, PROOF_TOTALS = 3 };
enum proof_claim { PROOF_ABSENT = 0, PROOF_PRESENT = 1, PROOF_EMPTY = 2 };
enum proof_tag { PROOF_TAG_BYTES = 0, PROOF_TAG_AMOUNT = 1, PROOF_TAG_TREE = 2 };

#define VERIFY_STATUS_TABLE(X)                                                                                         \
    X(VERIFY_OK, "proven")                                                                                             \
    X(VERIFY_MAGIC, "not a proof file")                                                                                \
    X(VERIFY_VERSION, "a format version this program does not know")                                                   \
    X(VERIFY_FLAGS, "flags that are not zero")                                                                         \
    X(VERIFY_TOO_LARGE, "over the limit of a proof")                                                                   \
    X(VERIFY_TRUNCATED, "ends before it is complete")                                                                  \
    X(VERIFY_TRAILING, "bytes follow where it should end")                                                             \
    X(VERIFY_CHECKSUM, "the checksum does not match, the file was changed")                                            \
    X(VERIFY_KIND, "a kind of proof this program does not know")                                                       \
    X(VERIFY_NO_KEYS, "speaks of no key")                                                                              \
    X(VERIFY_KEY_BYTES, "a key of a length that no key has")                                                           \
    X(VERIFY_CLAIM, "neither present nor absent")                                                                      \
    X(VERIFY_TAG, "a tag that no value has")                                                                           \
    X(VERIFY_FORM, "a form that no entry has")                                                                         \
    X(VERIFY_VALUE_BYTES, "a value of a length that its tag or form does not have")                                    \
    X(VERIFY_STEPS, "a path longer than any key")                                                                      \
    X(VERIFY_BIT_ORDER, "the bits of the path do not ascend")                                                          \
    X(VERIFY_BIT_RANGE, "a bit of the path lies outside the landing key")                                              \
    X(VERIFY_SIBLING, "a sibling without entries")                                                                     \
    X(VERIFY_WALK, "the walk of the asked key does not end at the landing key")                                        \
    X(VERIFY_NOT_ABSENT, "said to be absent, but the landing key is the asked key")                                    \
    X(VERIFY_ROOTS, "leads to another root than the keys before it")                                                   \
    X(VERIFY_ROOT, "does not lead to the expected root")                                                               \
    X(VERIFY_KEYS, "does not speak of the expected keys")                                                              \
    X(VERIFY_BOUND, "the way of a bound ends in a part that is left out")                                              \
    X(VERIFY_BOUNDS, "the lower bound is not below the upper one")                                                     \
    X(VERIFY_INCOMPLETE, "a part of the range is left out")                                                            \
    X(VERIFY_ENTRY, "an entry is whole though it is not of the range, or the other way round")                         \
    X(VERIFY_MEMORY, "out of memory")

enum verify_status {
#define X(code, sentence) code,
    VERIFY_STATUS_TABLE(X)
#undef X
};

/* The sentence of a status, never NULL. */
const char *verify_text(enum verify_status status);

/* One key of a proof. Pointers lead into the bytes that were verified. */
struct verify_key {
    const uint8_t *key;
    size_t key_bytes;
    bool present;
    enum proof_tag tag; /* of the value, if present */
    const uint8_t *value;
    size_t value_bytes; /* 0 if absent */
};

struct verify_expected {
    const uint8_t *key;
    size_t key_bytes;
};

/* All zero, or NULL in place of it: nothing is expected. */
struct verify_options {
    const uint8_t *root;                /* 32 bytes, or NULL: any root */
    const struct verify_expected *keys; /* the keys the proof must speak of, in this order and no others; NULL: any */
    size_t key_count;                   /* read only if keys is not NULL */
};

struct verify_result {
    enum verify_status status;
    char reason[160]; /* "" or one line: which key, at which byte, what is wrong */
    uint8_t root[PROOF_DIGEST_BYTES];
    const uint8_t *header; /* into the bytes verified; NULL for a state proof without a file around it */
    size_t header_bytes;
    enum proof_kind kind;
    uint32_t key_count; /* PROOF_KEYS */
    /* PROOF_RANGE, PROOF_TOTALS: from <= key < to (NULL: open), into the bytes verified; how many entries the range
     * has, and the sum of the amounts among them: 192-bit two's complement, little-endian. */
    const uint8_t *from, *to;
    size_t from_bytes, to_bytes;
    uint64_t count;
    uint8_t sum[24];
    /* Where verify_next is: private. */
    const uint8_t *next, *end;
    uint32_t keys_left;
};

/* Checks a proof file. The bytes must stay where they are while result is used. On failure everything in result but
 * status and reason is zero. Any thread; does not block, does not allocate. Every status but VERIFY_OK is a failure. */
enum verify_status verify_file(const uint8_t *bytes, size_t size, const struct verify_options *options,
                               struct verify_result *result) __attribute__((warn_unused_result));

/* The same for a state proof alone, without header and checksum: flipping a bit of the asked key of an absence may give
 * another true proof, so compare the keys, or give the expected ones. */
enum verify_status verify_state(const uint8_t *bytes, size_t size, const struct verify_options *options,
                                struct verify_result *result) __attribute__((warn_unused_result));

/* The next key of a proof that was verified, in the order of the file (PROOF_RANGE: the next entry, in key order;
 * PROOF_TOTALS: none); false: there are no more. result must come from
 * a call that returned VERIFY_OK (asserted). */
bool verify_next(struct verify_result *result, struct verify_key *key);

#endif
