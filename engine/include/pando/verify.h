/*
 * Checking proofs offline: no node, no store, no code of the tree. Needs libsodium only.
 *
 * The happy path:
 *
 *     struct verify_options options = {.keys = the keys you asked for, .key_count = how many};
 *     struct verify_result result;
 *     if (verify_file(bytes, size, &options, &result) != VERIFY_OK)
 *         puts(result.reason);
 *     check the signature of result.header, and that the state root it names is result.root
 *     struct verify_key key;
 *     while (verify_next(&result, &key))
 *         key.key is in that state with key.value, or is not in it
 *
 * pando/proof.h makes proofs; engine/examples/audit.c does both. Link with `pkg-config --libs pando-verify`.
 *
 * A proof says nothing about who signed the header: the header is opaque bytes here. What is proven is: IF result.root
 * is the root of a state THEN each key is present in it with that tag and value, or absent from it; THEN the entries of
 * a range are these and no others; THEN a range has this count and this sum of amounts; THEN, if older_root is the root
 * of a state too, these keys and no others differ between them in a range; THEN one of these holds of a subtree in it.
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
 * In kinds 2 and 3 the root itself is never pruned: only the node above a part vouches for its count and sum.
 *
 * Kind 4, many keys that share nodes, continues with u32 number of keys (1..4096), the keys, each u16 key bytes | key,
 * strictly ascending, and the trie in pre-order with tokens 0 to 4. Valid if and only if bits ascend on every way down;
 * a node is there (not pruned) exactly if a key, following its own bits from the root, comes to it; and an entry is
 * whole exactly if it is of an asked key. Such a key is present with that value; the others are absent: they end at an
 * entry that is another key's.
 *
 * Kind 5, what differs between an older and a newer state, continues with the two bounds as above, and
 *
 *     token 6, the same   the digest of both states, 32 bytes, not zero: they are one and the same
 *
 * or the older trie, then the newer one, each in pre-order with tokens 0 to 4, in both of which there is also
 *
 *     token 5, shared     in the older trie: the summary of all below, 64 bytes; in the newer one: nothing, it is that
 * of the next shared part of the older one
 *
 * Valid if and only if, beside what holds for the contents of a range: the two roots differ (or both states are empty);
 * both tries have equally many shared parts, none of them on the way of a bound; whole are those entries inside the
 * range that are in one trie only, or in both with different values; an entry inside that is not whole is the landing
 * entry of a bound and is in both tries with the same value; no inner node is opened in both whose two sides are
 * shared.
 *
 * Why this proves a difference complete: each trie alone is a range proof, in which every part inside the range is
 * given or shared. A shared part has one digest, bound by both roots, so both states have the same entries in it. All
 * other entries inside are given, so what differs is among them, and there for all to see. No whole entry at all (count
 * 0) says: UNCHANGED, every key from <= key < to has the same contents, or absence, in both states. One key K is the
 * range from K to K with a byte 0 behind it (K of 1,024 bytes: to the first key behind all that begin with K).
 *
 * Kind 6, something inside a subtree, continues with u8 number of chains | u8 number of levels (1..32), for each chain
 * and level from the outermost one a key proof as in kind 1, its claim 1 and its tag 2, tree; then a whole state proof
 * of another kind. Chains are 2 if that kind is 5, else 1: first the one that begins at the older root, then the one
 * from the newer root, through the same keys. Valid if and only if each key proof of a chain but the first leads to a
 * root whose summary, 64 bytes, is the value of the one before it, and the inner proof to one whose summary is the
 * value of the last (token 6, the same: whose digest is). A summary is part of its entry's digest; so what is proven of
 * the innermost root is proven of the subtree at the end of the keys in the state of the outermost one.
 *
 * Every encoding is the only one of what it says, with one exception: a part outside the range of a difference that
 * both tries have may be pruned in both or shared. Untrusted input: of memory a range takes at most 9,225 open nodes,
 * a difference twice that, many keys also 16 bytes for each of them, kind 1 nothing, kind 6 what its inner kind takes;
 * time is bounded by the size (many keys: times the 4,096), no byte outside [bytes, bytes + size) is read.
 *
 * The digest rule itself is described in pando/digest.h.
 */
#ifndef PANDO_VERIFY_H
#define PANDO_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

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
#define PROOF_MANY_KEYS_MAX 4096u
#define PROOF_LEVELS_MAX 32u

enum proof_kind { PROOF_KEYS = 1, PROOF_RANGE = 2, PROOF_TOTALS = 3, PROOF_MANY = 4, PROOF_DIFF = 5, PROOF_NESTED = 6 };
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
    X(VERIFY_KEY_ORDER, "the keys do not ascend")                                                                      \
    X(VERIFY_PRUNED, "a part is left out that must be there")                                                          \
    X(VERIFY_OPENED, "a part is there that must be left out")                                                          \
    X(VERIFY_SHARED, "a part said to be in both states is not")                                                        \
    X(VERIFY_OLDER_ROOT, "does not lead to the expected older root")                                                   \
    X(VERIFY_LEVELS, "does not lead through the subtrees it should")                                                   \
    X(VERIFY_SUMMARY, "does not lead to the subtree of the level above it")                                            \
    X(VERIFY_MEMORY, "out of memory")                                                                                  \
    X(VERIFY_OTHER_KIND, "is not of the expected kind")                                                                \
    X(VERIFY_OTHER_RANGE, "does not speak of the expected range")

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
    /* PROOF_DIFF, where the above is of the newer state: the same of the older one. */
    bool was_present;
    enum proof_tag old_tag;
    const uint8_t *old_value;
    size_t old_value_bytes;
};

struct verify_expected {
    const uint8_t *key;
    size_t key_bytes;
};

/* from <= key < to (NULL: open). */
struct verify_range {
    const uint8_t *from;
    size_t from_bytes;
    const uint8_t *to;
    size_t to_bytes;
};

/* All zero, or NULL in place of it: nothing is expected. A proof that holds is not yet an answer: one of another key,
 * range or kind than was asked for holds, too. So give what you asked for, or compare it with the result. */
struct verify_options {
    const uint8_t *root;                /* 32 bytes, or NULL: any root (PROOF_DIFF: the newer one) */
    const uint8_t *older_root;          /* the same of the older one; given, only a PROOF_DIFF will do */
    const struct verify_expected *keys; /* the keys the proof must speak of, in this order and no others; NULL: any */
    size_t key_count;                   /* read only if keys is not NULL */
    /* The keys of the subtrees the proof must lead through, from the outermost. With keys or levels given it must lead
     * through these and no others (level_count 0: it must not be of a subtree); with neither, through any. */
    const struct verify_expected *levels;
    size_t level_count;
    enum proof_kind kind;             /* what must be said (PROOF_NESTED: inside the subtree), 0: anything */
    const struct verify_range *range; /* given, only a PROOF_RANGE, _TOTALS or _DIFF of these very bounds will do */
};

struct verify_result {
    enum verify_status status;
    char reason[160]; /* "" or one line: which key, at which byte, what is wrong */
    uint8_t root[PROOF_DIGEST_BYTES];
    const uint8_t *header; /* into the bytes verified; NULL for a state proof without a file around it */
    size_t header_bytes;
    enum proof_kind kind;
    /* PROOF_NESTED: root (and older_root) are those of the outermost state, all below is said of the subtree at the end
     * of this many keys (verify_level), and this is the kind of what is said. Otherwise: 0, kind. */
    uint32_t levels;
    enum proof_kind inner;
    uint32_t key_count; /* PROOF_KEYS, PROOF_MANY */
    /* PROOF_RANGE, PROOF_TOTALS, PROOF_DIFF: from <= key < to (NULL: open), into the bytes verified; how many entries
     * the range has, and the sum of the amounts among them: 192-bit two's complement, little-endian. PROOF_DIFF: how
     * many keys differ in the range (0: unchanged), and by how much its sum has grown. */
    const uint8_t *from, *to;
    size_t from_bytes, to_bytes;
    uint64_t count;
    uint8_t sum[24];
    uint8_t older_root[PROOF_DIGEST_BYTES]; /* PROOF_DIFF */
    /* Where verify_next is: private. */
    const uint8_t *next, *end, *other, *other_end, *chain, *chain_end;
    uint32_t keys_left;
};

/* Checks a proof file. The bytes must stay where they are while result is used. On failure everything in result but
 * status and reason is zero. Any thread; does not block. PROOF_KEYS takes no memory, the other kinds do while they are
 * checked (how much: above). VERIFY_MEMORY says that there was none: nothing is known about the proof then. Every
 * status but VERIFY_OK is a failure. */
enum verify_status verify_file(const uint8_t *bytes, size_t size, const struct verify_options *options,
                               struct verify_result *result) __attribute__((warn_unused_result));

/* The same for a state proof alone, without header and checksum: flipping a bit of the asked key of an absence may give
 * another true proof, so compare the keys, or give the expected ones. */
enum verify_status verify_state(const uint8_t *bytes, size_t size, const struct verify_options *options,
                                struct verify_result *result) __attribute__((warn_unused_result));

/* The next key of a proof that was verified, in the order of the file (PROOF_RANGE: the next entry, in key order;
 * PROOF_DIFF: the next key that differs, in key order; PROOF_TOTALS: none; PROOF_NESTED: as the inner kind); false:
 * there are no more. result must come from a call that returned VERIFY_OK (asserted). */
bool verify_next(struct verify_result *result, struct verify_key *key);

/* PROOF_NESTED: the key of a level, 0 the outermost, and its value, the summary of the subtree (PROOF_DIFF inside: also
 * the old one). level < result->levels (asserted). */
void verify_level(const struct verify_result *result, uint32_t level, struct verify_key *key);

#ifdef __cplusplus
}
#endif

#endif
