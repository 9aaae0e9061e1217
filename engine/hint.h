/*
 * Hints: where the leaf of a key probably lies.
 *
 * A point read of a large tree waits for memory once a level, and longest for the leaf, the one node that is in no
 * cache. So places of leaves are kept by the first bits of the key that lead to them: a read asks for its leaf as soon
 * as it has looked at the root, and goes down the tree meanwhile. A hint is never believed. Where it is wrong, memory
 * was read for nothing; what is answered comes from the tree alone.
 *
 * Happy path: hint_find tells the place; the read arrives at the leaf and calls hint_learn with the place it found and
 * which bits of the key led there. The merge notes where it puts a leaf (hint_note).
 *
 * Which bits lead to a leaf depends on the keys, and is learnt for each byte value at which the root parts (its `way`),
 * by one key in sixteen: how many bytes the keys of the way have in common behind that byte, and how many bits behind
 * these tell leaves apart: more when over a quarter of the reads needed more, fewer when seven eighths needed fewer. A
 * way whose hints are wrong for most reads is not followed until they are right again. Byte and bits number the place
 * in the table as they are if it is large enough, which keeps neighbours together, and are hashed otherwise.
 *
 * Threads: any, without order: words are loaded and stored relaxed, and what is lost in a race is a hint. Trees whose
 * keys begin alike share places: the right one is learnt again.
 */
#ifndef ENGINE_HINT_H
#define ENGINE_HINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "pando/engine.h"

#define HINT_ENTRIES_MIN 65536u /* smaller trees are in the cache anyway */
#define HINT_BITS_MAX 56u       /* of the key */
#define HINT_LOG2_MAX 26u       /* places in the table: 256 MB of address space, touched as far as it is used */
#define HINT_LOG2_MIN 12u

struct hints {
    _Atomic uint32_t *place; /* of a leaf, in units of the segments; 0: none */
    _Atomic uint32_t log2;   /* so many places are used */
    _Atomic uint64_t way[256];
};

/* A way as a word: 8 bits each. */
struct way {
    uint8_t skip;  /* bytes behind that of the way which its keys have in common */
    uint8_t bits;  /* behind these; 0: nothing is known */
    uint8_t more;  /* the vote for more bits, */
    uint8_t fewer; /* and for fewer */
    uint8_t right; /* how often hints were right of late */
    uint8_t unused[3];
};
_Static_assert(sizeof(struct way) == sizeof(uint64_t), "loaded at once");
#define WAY_VOTES 192u       /* that change the bits */
#define WAY_RIGHT_MAX 63u    /* the most that is counted, */
#define WAY_RIGHT_ENOUGH 32u /* and what makes a hint worth following */

/* What is known of one key. */
struct hint {
    _Atomic uint64_t *way;  /* NULL: nothing can be */
    _Atomic uint32_t *slot; /* NULL: nothing is yet */
    uint32_t place;         /* of its leaf, a guess; 0: none, or not to be followed */
    uint32_t seen;          /* what the slot said */
};

/* at: the key byte at which the root parts. */
static inline struct hint hint_find(struct hints *hints, const uint8_t *key, size_t key_bytes, unsigned at)
{
    struct hint hint = {0};
    if (key_bytes <= at)
        return hint;
    hint.way = &hints->way[key[at]];
    uint64_t word = atomic_load_explicit(hint.way, memory_order_relaxed), window = 0;
    struct way known;
    memcpy(&known, &word, sizeof known);
    size_t from = at + 1u + known.skip;
    if (!known.bits || from >= key_bytes)
        return hint;
    if (key_bytes - from >= sizeof window)
        memcpy(&window, key + from, sizeof window);
    else
        memcpy(&window, key + from, key_bytes - from);
    uint32_t log2 = atomic_load_explicit(&hints->log2, memory_order_relaxed);
    uint64_t slot = (uint64_t)key[at] << known.bits | __builtin_bswap64(window) >> (64u - known.bits);
    if (known.bits + 8u > log2)
        slot = slot * 0x9e3779b97f4a7c15ull >> (64u - log2);
    hint.slot = &hints->place[slot];
    hint.seen = atomic_load_explicit(hint.slot, memory_order_relaxed);
    if (known.right >= WAY_RIGHT_ENOUGH)
        hint.place = hint.seen;
    return hint;
}

/* Its leaf lies at place. */
static inline void hint_note(const struct hint *hint, uint32_t place)
{
    if (hint->slot && hint->seen != place)
        atomic_store_explicit(hint->slot, place, memory_order_relaxed);
}

/* A vote on what leads to a leaf: what did this time; right: the hint was. */
void hint_vote(const struct hint *hint, unsigned skip, unsigned bits, bool right);

/* A read came to its leaf; hash: of the whole key, of which one in sixteen votes. */
static inline void hint_learn(const struct hint *hint, uint32_t place, unsigned skip, unsigned bits, uint8_t hash)
{
    hint_note(hint, place);
    if (hash % 16 == 0 && hint->way)
        hint_vote(hint, skip, bits, hint->seen == place);
}

struct store;

/* Of a store that is being opened, closed. ENG_NO_MEMORY. */
ENG_MUST_CHECK enum eng_status hints_init(struct store *store);
void hints_close(struct store *store);

#endif
