/*
 * What a tree node looks like, in memory and on disk (little-endian hosts only; the assertion below says so).
 *
 *   node    0  object header (24)      24  summary: digest, count, sum (64)     88  u64 weight
 *   leaf   96  u16 count | u16 depth | u16 prefix bytes | u16 flags | u32 bytes | u32 outside values
 *         112  u8 hash[count] | (to even) | u16 offset[count] | u16 bit[count] | prefix | entries (in any order) |
 *              u8 cache[count-1][32] up to bytes
 *       entry  u16 suffix bytes | u16 form (tag 2 bits, outside 1 bit, stored bytes 13 bits) | suffix | stored
 *   inner  96  u16 branches | u16 depth | u16 prefix bytes | u8 own | u8 0 | u32 bytes | u32 below
 *         112  u8 start[branches] | u8 log2[branches] | (to 4) | u32 child[branches] |
 *              u32 place[branches] | prefix
 *   value  24  u64 bytes | the bytes
 *   tree   24  u32 root | u32 base | u64 since | summary (64) | u32 height | u32 0
 *
 * depth is the number of key bytes above the node; its prefix follows them, and a leaf's suffixes follow its prefix. A
 * child hangs at its parent's depth + prefix, so the byte that chose it is the first of its own prefix (or of its
 * entries' suffixes). A branch covers the byte values [start, start + 2^log2); the own branch, always the first, is the
 * key that ends here.
 *
 * weight is the sum of 8 + whole key + stored bytes over all entries: with count and the length of the longest common
 * prefix it gives the weight of DESIGN 3.3 of any set without looking at its keys (weight - count * common).
 *
 * below: the units of the nodes on any way from a branch to the leaf are at most that many together, 0: not known, as
 * in stores of before. It is a bound: what made it so may be gone (reserve.c).
 *
 * stored: bytes up to 64: the value; up to the store's inline limit: its digest (32), then the value; above: u32 id of
 * the value object, u32 bytes, digest (40). Amounts: 16 bytes. A subtree: u32 id of the tree object, u32 64, its
 * summary (72, marked outside). hash: low byte of XXH3 over the whole key. bit[i]: first key bit in which entries i and
 * i+1 differ; the entries are a Cartesian tree over them, whose inner nodes are exactly the logical trie's. cache[i]:
 * digest of the inner node of the logical trie that parts entry i from entry i+1.
 */
#ifndef ENGINE_NODE_H
#define ENGINE_NODE_H

#include <string.h>

#include "store.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian and read in place");

struct node {
    struct object object;
    struct eng_summary summary;
    uint64_t weight;
};
_Static_assert(sizeof(struct node) == 96, "on disk");

struct leaf {
    struct node node;
    uint16_t count, depth, prefix_bytes, flags;
    uint32_t bytes;
    uint32_t outside;
};
_Static_assert(sizeof(struct leaf) == 112, "on disk");
#define LEAF_HAS_AMOUNTS 1u

struct inner {
    struct node node;
    uint16_t branches, depth, prefix_bytes;
    uint8_t own, zero;
    uint32_t bytes;
    uint32_t below;
};
_Static_assert(sizeof(struct inner) == 112, "on disk");
#define INNER_BRANCHES_MAX 257u
#define INNER_OWN_LOG2 0xffu

struct value_object {
    struct object object;
    uint64_t size;
    uint8_t bytes[];
};
_Static_assert(sizeof(struct value_object) == 32, "on disk");

/* A subtree as a value. A new one is made whenever it changes. */
struct tree_object {
    struct object object;
    uint32_t root;  /* node, 0: empty */
    uint32_t base;  /* what it shares with clones (store.h), 0: nothing */
    uint64_t since; /* the generation in which it got the base */
    struct eng_summary summary;
    uint32_t height; /* at least: levels of subtrees inside, itself included */
    uint32_t whole;  /* with a base: 1: it is what that was made of; 0: it was inside of that, or nobody knows */
};
_Static_assert(sizeof(struct tree_object) == 112, "on disk");

#define STORED_OUTSIDE_BYTES 40u
#define STORED_TREE_BYTES 72u
#define FORM_TAG(f) ((enum eng_tag)((f)&3u))
#define FORM_OUTSIDE(f) ((f) >> 2 & 1u)
#define FORM_BYTES(f) ((uint32_t)(f) >> 3)
#define FORM_MAKE(tag, outside, bytes) ((uint16_t)((unsigned)(tag) | (unsigned)(outside) << 2 | (unsigned)(bytes) << 3))

static inline uint16_t read16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static inline uint32_t read32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* ---- leaf ---- */

static inline uint8_t *leaf_hash(const struct leaf *leaf)
{
    return (uint8_t *)(uintptr_t)(leaf + 1);
}
static inline uint16_t *leaf_offset(const struct leaf *leaf)
{
    return (uint16_t *)(void *)(leaf_hash(leaf) + ((leaf->count + 1u) & ~1u));
}
static inline uint16_t *leaf_bit(const struct leaf *leaf)
{
    return leaf_offset(leaf) + leaf->count;
}
static inline uint8_t *leaf_prefix(const struct leaf *leaf)
{
    return (uint8_t *)(leaf_bit(leaf) + leaf->count);
}
static inline uint8_t *leaf_cache(const struct leaf *leaf)
{
    return (uint8_t *)(uintptr_t)leaf + leaf->bytes - 32u * (leaf->count - 1u);
}
/* Bytes of the cached digests, behind the entries: point reads do not touch them. */
static inline size_t leaf_cache_bytes(unsigned count)
{
    return 32u * (count - 1u);
}
/* Bytes before the entries of a leaf. */
static inline size_t leaf_head_bytes(unsigned count, unsigned prefix_bytes)
{
    return sizeof(struct leaf) + ((count + 1u) & ~1u) + 4u * count + prefix_bytes;
}

/* A private copy of the first bytes, without the checksum: a checkpoint may be writing it. */
static inline void leaf_copy(struct leaf *to, const struct leaf *from, size_t bytes)
{
    memcpy((uint8_t *)to + sizeof(uint64_t), (const uint8_t *)from + sizeof(uint64_t), bytes - sizeof(uint64_t));
}

/* One entry, decoded in place. */
struct leaf_entry {
    const uint8_t *suffix, *stored;
    uint16_t suffix_bytes, form;
};
static inline struct leaf_entry leaf_entry_at(const struct leaf *leaf, unsigned index)
{
    const uint8_t *p = (const uint8_t *)leaf + leaf_offset(leaf)[index];
    struct leaf_entry e;
    e.suffix_bytes = read16(p);
    e.form = read16(p + 2);
    e.suffix = p + 4;
    e.stored = p + 4 + e.suffix_bytes;
    return e;
}

/* memcmp without a call, for what is nearly always short and equal. */
static inline bool bytes_equal(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    if (bytes < 8) {
        while (bytes && a[bytes - 1] == b[bytes - 1])
            bytes--;
        return bytes == 0;
    }
    uint64_t x, y;
    for (size_t i = 0; i + 8 < bytes; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            return false;
    }
    memcpy(&x, a + bytes - 8, 8);
    memcpy(&y, b + bytes - 8, 8);
    return x == y;
}

/* Index of the entry whose suffix is this one, or -1. */
static inline int leaf_find(const struct leaf *leaf, const uint8_t *suffix, size_t suffix_bytes, uint8_t hash)
{
    const uint8_t *hashes = leaf_hash(leaf);
    unsigned count = leaf->count;
#if defined(__SSE2__)
    /* The last load may run past the hashes, never past the object: it is a multiple of 64 bytes and at 112 + 16 n. */
    __m128i want = _mm_set1_epi8((char)hash);
    for (unsigned i = 0; i < count; i += 16) {
        unsigned mask = (unsigned)_mm_movemask_epi8(
            _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(const void *)(hashes + i)), want));
        if (count - i < 16)
            mask &= (1u << (count - i)) - 1u;
        while (mask) {
            unsigned at = i + (unsigned)__builtin_ctz(mask);
            mask &= mask - 1;
            struct leaf_entry e = leaf_entry_at(leaf, at);
            if (e.suffix_bytes == suffix_bytes && bytes_equal(e.suffix, suffix, suffix_bytes))
                return (int)at;
        }
    }
#else
    for (unsigned i = 0; i < count; i++) {
        if (hashes[i] != hash)
            continue;
        struct leaf_entry e = leaf_entry_at(leaf, i);
        if (e.suffix_bytes == suffix_bytes && bytes_equal(e.suffix, suffix, suffix_bytes))
            return (int)i;
    }
#endif
    return -1;
}

static inline int bytes_compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int c = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return c ? c : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* The first key behind all that begin with a prefix; returns its length, 0: there is none. */
static inline size_t key_behind_prefix(const uint8_t *prefix, size_t prefix_bytes, uint8_t *key)
{
    memcpy(key, prefix, prefix_bytes);
    while (prefix_bytes && key[prefix_bytes - 1] == 0xff)
        prefix_bytes--;
    if (prefix_bytes)
        key[prefix_bytes - 1]++;
    return prefix_bytes;
}

/* First index whose suffix is >= the given one; count if there is none. */
static inline unsigned leaf_lower_bound(const struct leaf *leaf, const uint8_t *suffix, size_t suffix_bytes)
{
    unsigned lo = 0, hi = leaf->count;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        struct leaf_entry e = leaf_entry_at(leaf, mid);
        if (bytes_compare(e.suffix, e.suffix_bytes, suffix, suffix_bytes) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The gap in [lo, hi) with the smallest bit: where the logical subtree of the entries lo..hi parts. Without a branch on
 * the bits, which no predictor knows. */
static inline unsigned leaf_top_gap(const uint16_t *bit, unsigned lo, unsigned hi)
{
    uint32_t least = UINT32_MAX;
    for (unsigned i = lo; i < hi; i++) {
        uint32_t here = (uint32_t)bit[i] << 16 | i;
        least = here < least ? here : least;
    }
    return least & 0xffffu;
}

/* The amount of an entry as a 192-bit sum; zero for other tags. */
static inline void entry_sum(uint16_t form, const uint8_t *stored, uint64_t sum[3])
{
    if (FORM_TAG(form) != ENG_AMOUNT) {
        sum[0] = sum[1] = sum[2] = 0;
        return;
    }
    memcpy(sum, stored, 16);
    sum[2] = (uint64_t)((int64_t)sum[1] >> 63);
}

/* ---- inner ---- */

static inline uint8_t *inner_start(const struct inner *inner)
{
    return (uint8_t *)(uintptr_t)(inner + 1);
}
static inline uint8_t *inner_log2(const struct inner *inner)
{
    return inner_start(inner) + inner->branches;
}
static inline uint32_t *inner_child(const struct inner *inner)
{
    return (uint32_t *)(void *)(inner_start(inner) + ((2u * inner->branches + 3u) & ~3u));
}
/* Where each child lay when the node was written, in units; 0: not told. Only a guess: a child may have been moved. */
static inline uint32_t *inner_place(const struct inner *inner)
{
    return inner_child(inner) + inner->branches;
}
static inline uint8_t *inner_prefix(const struct inner *inner)
{
    return (uint8_t *)(inner_place(inner) + inner->branches);
}
static inline size_t inner_bytes(unsigned branches, unsigned prefix_bytes)
{
    return sizeof(struct inner) + ((2u * branches + 3u) & ~3u) + 8u * branches + prefix_bytes;
}
/* Key bytes above the children. */
static inline unsigned inner_child_depth(const struct inner *inner)
{
    return inner->depth + inner->prefix_bytes;
}

/* How many bits of the byte at inner_child_depth tell a branch from the others. */
static inline unsigned inner_branch_bits(const struct inner *inner, unsigned branch)
{
    unsigned log2 = inner_log2(inner)[branch];
    return log2 == INNER_OWN_LOG2 ? 0 : 8u - log2;
}

/* Number of branches (the own one included) whose range starts at or below byte. */
static inline unsigned inner_upto(const struct inner *inner, uint8_t byte)
{
    const uint8_t *start = inner_start(inner);
    unsigned own = inner->own, branches = inner->branches;
    if (branches - own == 256)
        return own + byte + 1u;
    unsigned upto = 0;
#if defined(__SSE2__)
    __m128i want = _mm_set1_epi8((char)byte);
    for (unsigned i = 0; i < branches; i += 16) { /* starts ascend (own has start 0, first): stop at the first miss */
        __m128i have = _mm_loadu_si128((const __m128i *)(const void *)(start + i));
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(have, want), want));
        if (branches - i < 16)
            mask &= (1u << (branches - i)) - 1u;
        if (mask != 0xffffu)
            return upto + (unsigned)__builtin_ctz(~mask); /* the hits are the first ones */
        upto += 16;
    }
#else
    while (upto < branches && start[upto] <= byte)
        upto++;
#endif
    return upto;
}

/* The branch of a byte; -1 if none covers it. */
static inline int inner_branch(const struct inner *inner, uint8_t byte)
{
    unsigned upto = inner_upto(inner, byte);
    if (upto <= inner->own)
        return -1;
    unsigned i = upto - 1u;
    if ((unsigned)(byte - inner_start(inner)[i]) >> inner_log2(inner)[i])
        return -1;
    return (int)i;
}

/* Where the logical subtree of the branches lo..hi (lo < hi) parts: *bit is the key bit; returns the last branch on the
 * left. child_depth as inner_child_depth. */
static inline unsigned branches_part(const uint8_t *start, unsigned own, unsigned lo, unsigned hi, unsigned child_depth,
                                     uint32_t *bit)
{
    if (lo == 0 && own) {
        *bit = 9u * child_depth;
        return 0;
    }
    unsigned differ = (unsigned)(start[lo] ^ start[hi]);
    unsigned k = (unsigned)__builtin_clz(differ << 24);
    *bit = 9u * child_depth + 1u + k;
    unsigned mask = 0x80u >> k, a = lo, z = hi;
    while (a + 1 < z) {
        unsigned mid = (a + z) / 2;
        if (start[mid] & mask)
            z = mid;
        else
            a = mid;
    }
    return a;
}

static inline void inner_set_child(struct store *store, struct inner *inner, unsigned branch, uint32_t id)
{
    inner_child(inner)[branch] = id;
    inner_place(inner)[branch] = store_place(store, id);
}

/* Units of a node and of those on any way below it: at most; 0: not known. */
static inline uint32_t node_way(const struct node *node)
{
    if (node->object.type != OBJECT_INNER)
        return node->object.units;
    uint32_t below = ((const struct inner *)(const void *)node)->below, units = node->object.units;
    return below && below <= UINT32_MAX - units ? below + units : 0;
}

/* Takes a node into what is known of its parent's branches. */
static inline uint32_t way_longest(uint32_t below, const struct node *node, bool first)
{
    uint32_t here = node_way(node);
    return here == 0 || (below == 0 && !first) ? 0 : here > below ? here : below;
}

static inline struct node *store_node(struct store *store, uint32_t id)
{
    return (struct node *)store_object(store, id);
}

#endif
