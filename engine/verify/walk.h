/*
 * A pruned trie in pre-order, walked twice by the ways of two bounds: what range and difference proofs are made of.
 *
 * The first walk computes the summary of the root from the tokens and finds the landing entry of each bound: the entry
 * at which the bound itself would end, following its own bits from the root. The second walk knows the first bit in
 * which a bound differs from its landing key, and with it on which side of the bound every pruned part lies. Why that
 * is enough is argued in pando/verify.h.
 */
#ifndef VERIFY_WALK_H
#define VERIFY_WALK_H

#include "key_proof.h"

enum token {
    TOKEN_ENTRY = 0,
    TOKEN_INNER = 1,
    TOKEN_PRUNED = 2,
    TOKEN_WHOLE = 3,
    TOKEN_NOTHING = 4,
    TOKEN_SHARED = 5,
    TOKEN_SAME = 6
};

/* Where a node lies to a bound: not known yet, all its keys below it, or all at it or above. */
enum where { ON_THE_WAY, BELOW, NOT_BELOW };

struct bound {
    const uint8_t *key; /* NULL: open */
    size_t key_bytes;
    const uint8_t *landing_key; /* NULL: not found yet */
    size_t landing_bytes;
    uint32_t differs;   /* first bit in which the landing key differs from it; UINT32_MAX: it is the bound itself */
    enum where landing; /* where the landing key lies */
};

struct frame {
    struct trie_summary left;
    uint32_t bit;
    uint8_t where[2];
    bool right; /* the left side is done */
};

/* What the trie is part of, and with that what must be in it and what must not. */
enum walk_of {
    WALK_CONTENTS, /* of a range */
    WALK_TOTALS,   /* of a range */
    WALK_OLDER,    /* of a difference */
    WALK_NEWER,    /* the same: its shared parts are those of the older one, in order, and have no bytes */
};

struct walk {
    struct proof_reader reader; /* from the root on; behind the trie when it was walked */
    struct bound bounds[2];     /* from, to */
    enum walk_of of;
    bool second;
    struct proof_reader shared; /* WALK_NEWER, first walk: the older trie, behind the shared parts that were taken */
    uint32_t shared_bit;        /* first walk: bit of the inner node just before the last shared part of the older
                                   trie; UINT32_MAX: it was another token */
    uint32_t inner_bit;         /* the same of the token read last here */
    bool half;                  /* the last two tokens were in both tries: inner, shared */
    struct frame *frames;
    size_t depth, capacity;
    uint8_t where[2]; /* of the node that comes next */
    uint64_t count;
    uint8_t sum[24];
    struct trie_summary summary; /* of the node that was read last */
};

/* Reads the two bounds, sets them in walk. */
enum verify_status walk_bounds(struct proof_reader *reader, struct walk *walk);
/* Walks the trie that begins at walk->reader once; summary is the root's. second: after the first, from the same place.
 * walk->frames is malloc'ed: to be freed in the end. */
enum verify_status walk_trie(struct walk *walk, bool second);
/* Of an entry: from <= key < to? */
bool walk_inside(const struct walk *walk, const struct trie_entry *entry);

/* Goes to the next entry that is given (whole: as TOKEN_WHOLE) of a trie, which was walked without failure: the reader
 * stands at its token. newer: shared parts have no bytes. false: at the end. */
bool walk_seek(struct proof_reader *reader, bool whole, bool newer);
/* Takes an entry with its token off the reader; true: it is whole. */
bool walk_entry(struct proof_reader *reader, struct trie_entry *entry);

int walk_compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes);
/* sum += amount, or sum -= amount. */
void walk_add_amount(uint8_t sum[24], const uint8_t amount[16], bool subtract);

#endif
