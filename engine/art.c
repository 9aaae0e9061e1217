/*
 * The adaptive radix tree (art.h).
 *
 * art_find is optimistic: it skips prefixes unread and compares the whole key once, with the entry it ends at.
 * art_insert and the seeks need to know where keys part, so they compare prefixes, through the pointer each node has
 * into some key.
 *
 * Kinds 4 and 16 keep their bytes sorted beside the children; 48 has an index of 256 bytes (0: no child, else position
 * plus one), children in order of arrival; 256 is the plain array. A node has at least two of {terminal, children} and
 * at least one child. Depth is bounded by the key length, every walk is iterative.
 *
 * Invariants: for every node at depth d (bytes of key above it), each entry below has key[d .. d + prefix_bytes) equal
 * to the prefix; the terminal's key ends there; the entries below child b have b as the next byte.
 */
#include <assert.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "art.h"

enum art_kind { ART_4, ART_16, ART_48, ART_256 };

struct art_node {
    struct buffer_entry *terminal; /* the key that ends here, or NULL; links outgrown nodes */
    const uint8_t *prefix;
    uint16_t prefix_bytes;
    uint16_t children;
    uint8_t kind; /* enum art_kind */
};

struct art_node4 {
    struct art_node node;
    uint8_t bytes[4];
    art_ref child[4];
};
struct art_node16 {
    struct art_node node;
    uint8_t bytes[16];
    art_ref child[16];
};
struct art_node48 {
    struct art_node node;
    uint8_t index[256];
    art_ref child[48];
};
struct art_node256 {
    struct art_node node;
    art_ref child[256];
};
_Static_assert(sizeof(struct art_node4) <= 64, "one cache line");
_Static_assert(sizeof(struct art_node256) + 63 <= ART_NODE_BYTES_MAX, "what callers reserve");
_Static_assert(ART_256 + 1 == ART_KINDS, "kinds are counted in art.h");

static const size_t node_bytes[ART_KINDS] = {sizeof(struct art_node4), sizeof(struct art_node16),
                                             sizeof(struct art_node48), sizeof(struct art_node256)};

static bool ref_is_entry(art_ref ref)
{
    return ref & 1;
}

static struct buffer_entry *ref_entry(art_ref ref)
{
    return (struct buffer_entry *)(ref - 1);
}

static struct art_node *ref_node(art_ref ref)
{
    return (struct art_node *)ref;
}

static art_ref entry_ref(const struct buffer_entry *entry)
{
    return (art_ref)entry | 1;
}

/* Position of a byte in a node of 16, or -1. */
static int find16(const struct art_node16 *node, uint8_t byte)
{
#ifdef __SSE2__
    __m128i equal = _mm_cmpeq_epi8(_mm_set1_epi8((char)byte), _mm_loadu_si128((const __m128i *)node->bytes));
    unsigned mask = (unsigned)_mm_movemask_epi8(equal) & ((1u << node->node.children) - 1);
    return mask ? __builtin_ctz(mask) : -1;
#else
    for (int i = 0; i < node->node.children; i++)
        if (node->bytes[i] == byte)
            return i;
    return -1;
#endif
}

/* Where the child of a byte is kept, or NULL. */
static inline art_ref *node_child(const struct art_node *node, uint8_t byte)
{
    switch ((enum art_kind)node->kind) {
    case ART_4: {
        struct art_node4 *n = (struct art_node4 *)node;
        for (unsigned i = 0; i < node->children; i++)
            if (n->bytes[i] == byte)
                return &n->child[i];
        return NULL;
    }
    case ART_16: {
        struct art_node16 *n = (struct art_node16 *)node;
        int i = find16(n, byte);
        return i < 0 ? NULL : &n->child[i];
    }
    case ART_48: {
        struct art_node48 *n = (struct art_node48 *)node;
        return n->index[byte] ? &n->child[n->index[byte] - 1] : NULL;
    }
    case ART_256: {
        struct art_node256 *n = (struct art_node256 *)node;
        return n->child[byte] ? &n->child[byte] : NULL;
    }
    }
    assert(!"kind of a node");
    return NULL;
}

/* Child of the least byte >= from (0..256), or 0; *at is its byte. */
static art_ref node_next(const struct art_node *node, unsigned from, unsigned *at)
{
    const uint8_t *bytes =
        node->kind == ART_4 ? ((const struct art_node4 *)node)->bytes : ((const struct art_node16 *)node)->bytes;
    switch ((enum art_kind)node->kind) {
    case ART_4:
    case ART_16:
        for (unsigned i = 0; i < node->children; i++)
            if (bytes[i] >= from) {
                *at = bytes[i];
                return node->kind == ART_4 ? ((const struct art_node4 *)node)->child[i]
                                           : ((const struct art_node16 *)node)->child[i];
            }
        return 0;
    case ART_48:
        for (; from < 256; from++) {
            const struct art_node48 *n = (const struct art_node48 *)node;
            if (n->index[from]) {
                *at = from;
                return n->child[n->index[from] - 1];
            }
        }
        return 0;
    case ART_256:
        for (; from < 256; from++)
            if (((const struct art_node256 *)node)->child[from]) {
                *at = from;
                return ((const struct art_node256 *)node)->child[from];
            }
        return 0;
    }
    assert(!"kind of a node");
    return 0;
}

/* Child of the greatest byte < below (0..256), or 0. */
static art_ref node_previous(const struct art_node *node, unsigned below)
{
    switch ((enum art_kind)node->kind) {
    case ART_4:
        for (unsigned i = node->children; i-- > 0;)
            if (((const struct art_node4 *)node)->bytes[i] < below)
                return ((const struct art_node4 *)node)->child[i];
        return 0;
    case ART_16:
        for (unsigned i = node->children; i-- > 0;)
            if (((const struct art_node16 *)node)->bytes[i] < below)
                return ((const struct art_node16 *)node)->child[i];
        return 0;
    case ART_48:
        while (below-- > 0) {
            const struct art_node48 *n = (const struct art_node48 *)node;
            if (n->index[below])
                return n->child[n->index[below] - 1];
        }
        return 0;
    case ART_256:
        while (below-- > 0)
            if (((const struct art_node256 *)node)->child[below])
                return ((const struct art_node256 *)node)->child[below];
        return 0;
    }
    assert(!"kind of a node");
    return 0;
}

static struct art_node *node_make(struct art *art, struct bump *bump, enum art_kind kind)
{
    struct art_node *node = art->outgrown[kind];
    if (node)
        art->outgrown[kind] = (struct art_node *)node->terminal;
    else
        node = bump_take_line(bump, node_bytes[kind]);
    if (kind == ART_48 || kind == ART_256)
        memset(node, 0, node_bytes[kind]);
    else
        *node = (struct art_node){0};
    node->kind = (uint8_t)kind;
    return node;
}

static void sorted_insert(uint8_t *bytes, art_ref *child, unsigned count, uint8_t byte, art_ref ref)
{
    unsigned at = 0;
    while (at < count && bytes[at] < byte)
        at++;
    memmove(bytes + at + 1, bytes + at, count - at);
    memmove(child + at + 1, child + at, (count - at) * sizeof *child);
    bytes[at] = byte;
    child[at] = ref;
}

static bool node_is_full(const struct art_node *node)
{
    static const uint16_t room[ART_KINDS] = {4, 16, 48, 256};
    return node->children == room[node->kind];
}

/* Adds a child that is not there yet; the node has room. */
static void node_add(struct art_node *node, uint8_t byte, art_ref ref)
{
    assert(!node_is_full(node));
    switch ((enum art_kind)node->kind) {
    case ART_4:
        sorted_insert(((struct art_node4 *)node)->bytes, ((struct art_node4 *)node)->child, node->children, byte, ref);
        break;
    case ART_16:
        sorted_insert(((struct art_node16 *)node)->bytes, ((struct art_node16 *)node)->child, node->children, byte,
                      ref);
        break;
    case ART_48:
        ((struct art_node48 *)node)->child[node->children] = ref;
        ((struct art_node48 *)node)->index[byte] = (uint8_t)(node->children + 1);
        break;
    case ART_256:
        ((struct art_node256 *)node)->child[byte] = ref;
        break;
    }
    node->children++;
}

/* The same node in the next larger kind; the old one is kept for later use. */
static struct art_node *node_grow(struct art *art, struct bump *bump, struct art_node *node)
{
    assert(node->kind != ART_256);
    struct art_node *grown = node_make(art, bump, (enum art_kind)(node->kind + 1));
    grown->terminal = node->terminal;
    grown->prefix = node->prefix;
    grown->prefix_bytes = node->prefix_bytes;
    unsigned byte = 0;
    for (art_ref ref = node_next(node, 0, &byte); ref; ref = node_next(node, byte + 1, &byte))
        node_add(grown, (uint8_t)byte, ref);
    assert(grown->children == node->children);
    node->terminal = (struct buffer_entry *)art->outgrown[node->kind];
    art->outgrown[node->kind] = node;
    return grown;
}

/* Length of the common prefix of two strings of at least n bytes. */
static size_t common_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t x, y;
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            break;
    }
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Puts an entry below a node whose path ends at depth. */
static void node_place(struct art_node *node, const struct buffer_entry *entry, size_t depth)
{
    assert(depth <= entry->key_bytes);
    if (depth == entry->key_bytes)
        node->terminal = (struct buffer_entry *)entry;
    else
        node_add(node, entry->key[depth], entry_ref(entry));
}

/* A node of 4 in place of *slot, for the prefix of that many bytes of the entry's key from depth on; the entry in it.
 */
static struct art_node *split(struct art *art, struct bump *bump, struct buffer_entry *entry, size_t depth,
                              size_t prefix_bytes)
{
    struct art_node *node = node_make(art, bump, ART_4);
    node->prefix = entry->key + depth;
    node->prefix_bytes = (uint16_t)prefix_bytes;
    node_place(node, entry, depth + prefix_bytes);
    return node;
}

struct buffer_entry *art_insert(struct art *art, struct bump *bump, struct buffer_entry *entry)
{
    const uint8_t *key = entry->key;
    size_t key_bytes = entry->key_bytes, depth = 0;
    art_ref *slot = &art->root;
    if (!*slot) {
        *slot = entry_ref(entry);
        return NULL;
    }
    for (;;) {
        if (ref_is_entry(*slot)) {
            struct buffer_entry *old = ref_entry(*slot);
            size_t common = common_bytes(old->key + depth, key + depth, least(old->key_bytes, key_bytes) - depth);
            if (depth + common == key_bytes && old->key_bytes == key_bytes)
                return old;
            struct art_node *node = split(art, bump, entry, depth, common);
            node_place(node, old, depth + common);
            *slot = (art_ref)node;
            return NULL;
        }
        struct art_node *node = ref_node(*slot);
        if (node->prefix_bytes) {
            size_t common = common_bytes(node->prefix, key + depth, least(node->prefix_bytes, key_bytes - depth));
            if (common < node->prefix_bytes) {
                struct art_node *above = split(art, bump, entry, depth, common);
                node_add(above, node->prefix[common], (art_ref)node);
                node->prefix += common + 1;
                node->prefix_bytes -= (uint16_t)(common + 1);
                *slot = (art_ref)above;
                return NULL;
            }
            depth += common;
        }
        if (depth == key_bytes) {
            if (!node->terminal)
                node->terminal = entry;
            return node->terminal == entry ? NULL : node->terminal;
        }
        art_ref *child = node_child(node, key[depth]);
        if (!child) {
            if (node_is_full(node))
                *slot = (art_ref)(node = node_grow(art, bump, node));
            node_place(node, entry, depth);
            return NULL;
        }
        slot = child;
        depth++;
    }
}

struct buffer_entry *art_find(const struct art *art, const uint8_t *key, size_t key_bytes)
{
    struct buffer_entry *entry = NULL;
    size_t depth = 0;
    for (art_ref ref = art->root; ref;) {
        if (ref_is_entry(ref)) {
            entry = ref_entry(ref);
            break;
        }
        const struct art_node *node = ref_node(ref);
        depth += node->prefix_bytes;
        if (depth >= key_bytes) {
            entry = node->terminal;
            break;
        }
        const art_ref *child = node_child(node, key[depth++]);
        ref = child ? *child : 0;
    }
    return entry && entry->key_bytes == key_bytes && memcmp(entry->key, key, key_bytes) == 0 ? entry : NULL;
}

static struct buffer_entry *first_below(art_ref ref)
{
    while (ref && !ref_is_entry(ref)) {
        const struct art_node *node = ref_node(ref);
        unsigned at;
        ref = node->terminal ? entry_ref(node->terminal) : node_next(node, 0, &at);
    }
    return ref ? ref_entry(ref) : NULL;
}

static struct buffer_entry *last_below(art_ref ref)
{
    while (ref && !ref_is_entry(ref))
        ref = node_previous(ref_node(ref), 256);
    return ref ? ref_entry(ref) : NULL;
}

static int compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, least(a_bytes, b_bytes));
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* How everything below a node at depth compares with the key: 0 if the key goes on below it, or ends at it. */
static int node_compare(const struct art_node *node, const uint8_t *key, size_t key_bytes, size_t depth)
{
    size_t rest = key_bytes - depth;
    int order = memcmp(node->prefix, key + depth, least(node->prefix_bytes, rest));
    return order ? order : rest < node->prefix_bytes;
}

struct buffer_entry *art_seek(const struct art *art, const uint8_t *key, size_t key_bytes, bool after)
{
    art_ref greater = 0; /* the nearest subtree right of the path so far */
    art_ref ref = art->root;
    size_t depth = 0;
    if (key_bytes == 0)
        return first_below(ref);
    while (ref) {
        if (ref_is_entry(ref)) {
            struct buffer_entry *entry = ref_entry(ref);
            int order = compare(entry->key, entry->key_bytes, key, key_bytes);
            if (order > 0 || (order == 0 && !after))
                return entry;
            break;
        }
        const struct art_node *node = ref_node(ref);
        int order = node_compare(node, key, key_bytes, depth);
        if (order > 0)
            return first_below(ref);
        if (order < 0)
            break;
        depth += node->prefix_bytes;
        unsigned at;
        if (depth == key_bytes)
            return node->terminal && !after ? node->terminal : first_below(node_next(node, 0, &at));
        art_ref right = node_next(node, key[depth] + 1u, &at);
        if (right)
            greater = right;
        const art_ref *child = node_child(node, key[depth++]);
        ref = child ? *child : 0;
    }
    return first_below(greater);
}

struct buffer_entry *art_seek_before(const struct art *art, const uint8_t *key, size_t key_bytes)
{
    if (!key)
        return last_below(art->root);
    if (key_bytes == 0)
        return NULL;
    art_ref smaller = 0; /* the nearest subtree, or terminal, left of the path so far */
    art_ref ref = art->root;
    size_t depth = 0;
    while (ref) {
        if (ref_is_entry(ref)) {
            struct buffer_entry *entry = ref_entry(ref);
            if (compare(entry->key, entry->key_bytes, key, key_bytes) < 0)
                return entry;
            break;
        }
        const struct art_node *node = ref_node(ref);
        int order = node_compare(node, key, key_bytes, depth);
        if (order < 0)
            return last_below(ref);
        depth += node->prefix_bytes;
        if (order > 0 || depth == key_bytes)
            break;
        art_ref left = node_previous(node, key[depth]);
        if (left)
            smaller = left;
        else if (node->terminal)
            smaller = entry_ref(node->terminal);
        const art_ref *child = node_child(node, key[depth++]);
        ref = child ? *child : 0;
    }
    return last_below(smaller);
}

void art_walk(const struct art *art, void (*each)(void *context, const struct buffer_entry *entry), void *context)
{
    struct {
        const struct art_node *node;
        unsigned from; /* the next byte to visit */
    } path[ENG_KEY_BYTES_MAX];
    size_t depth = 0;
    for (art_ref ref = art->root; ref;) {
        if (ref_is_entry(ref)) {
            each(context, ref_entry(ref));
        } else {
            assert(depth < ENG_KEY_BYTES_MAX);
            path[depth].node = ref_node(ref);
            path[depth++].from = 0;
            if (ref_node(ref)->terminal)
                each(context, ref_node(ref)->terminal);
        }
        for (ref = 0; depth > 0 && !ref;) {
            unsigned at;
            ref = node_next(path[depth - 1].node, path[depth - 1].from, &at);
            if (ref)
                path[depth - 1].from = at + 1;
            else
                depth--;
        }
    }
}
