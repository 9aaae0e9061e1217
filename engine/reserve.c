/*
 * Disk space for merges that are to come (eng_reserve).
 *
 * What a merge of some keys writes is what the keys bring, and every node on their ways anew. Two bounds:
 *
 *   by what is live  no merge writes a node more than once, and at most ENG_BATCH_DEPTH_MAX batches wait
 *   by the ways      each inner node knows what the nodes on any way below it have together, at most (node.h: below);
 *                    the two topmost levels, which many keys share, are counted once for each batch
 *
 * The second is what keeps the promise small, and it holds for deep trees as well: keys that are prefixes of each other
 * hang one below the other, a node or two for each. Where a tree does not know its ways (it is of an older store, and
 * has not been written all over since), and as the least of all, there is a rule of thumb for trees as they usually
 * are.
 *
 * It is carried on by the merge at next to no cost: whoever copies a node looks at the new children only, so a bound
 * stays although the way that made it is gone; when all children are looked at it is exact again.
 *
 * What is not in it: trees of subtrees (a key in one counts as one of the outermost tree), and ways that get longer by
 * the very batches that wait. Then the commit may be ENG_FULL all the same; nothing is lost by that.
 */
#include "engine_internal.h"

#define NODES_BYTES 1024u /* of a key's own above its leaf, where leaves are small */
#define FRESH_BYTES 256u  /* of nodes that a new key needs, beside what it holds itself */
#define SHARED_BYTES (64u * 4096u)
#define IDS_EACH 4u
#define IDS_SHARED 256u
#define NODE_BYTES_LEAST 192u /* of an inner node */
#define DEATHS_SHARE 8u       /* of a node's bytes: its entry on a death list is less */

/* Saturating: what is too much for 64 bits is too much for any disk. */
static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t times(uint64_t a, uint64_t b)
{
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The nodes below the root that keys find, if it is known: the next level, and the longest way below that. */
static bool ways_below(struct store *store, const struct inner *root, uint64_t keys, uint64_t *units)
{
    uint64_t level = 0, largest = 0, rest = 0;
    if (root->below == 0)
        return false;
    *units = times(keys, root->below);
    if (keys < root->branches) /* not worth looking */
        return true;
    for (unsigned i = 0; i < root->branches; i++) {
        const struct node *child = store_node(store, inner_child(root)[i]);
        uint64_t way = child ? node_way(child) : 0;
        if (way == 0)
            return true;
        uint64_t own = child->object.type == OBJECT_INNER ? child->object.units : 0;
        level += own;
        largest = own > largest ? own : largest;
        rest = way - own > rest ? way - own : rest;
    }
    *units = plus(least(times(keys, largest), level * ENG_BATCH_DEPTH_MAX), times(keys, rest));
    return true;
}

/* Bytes of the nodes of a root's tree that merges of so many keys write anew: at most; 0: not known. */
static uint64_t tree_bytes(struct eng *eng, uint32_t index, uint64_t keys)
{
    struct store_version version;
    uint64_t units = 0;
    struct reader *reader = store_head(eng->store, index, &version) ? store_reader(eng->store) : NULL;
    if (!reader || store_pin(eng->store, index, STORE_HEAD, &version) != ENG_OK)
        return 0;
    reader_enter(reader);
    const struct node *root = version.root ? store_node(eng->store, version.root) : NULL;
    bool known = root && (root->object.type != OBJECT_INNER ||
                          ways_below(eng->store, (const struct inner *)(const void *)root, keys, &units));
    if (known)
        units = plus(units, least(keys, ENG_BATCH_DEPTH_MAX) * root->object.units);
    reader_leave(reader);
    store_unpin(eng->store, index, version.tag);
    return known ? times(units, 64) : 0;
}

enum eng_status eng_reserve(struct eng *eng, uint64_t keys, uint64_t bytes)
{
    uint64_t own = plus(times(bytes, 3), SHARED_BYTES), nodes = 0;
    for (uint32_t i = 0; i < ENG_ROOTS_MAX; i++) {
        uint64_t tree = tree_bytes(eng, i, keys);
        nodes = tree > nodes ? tree : nodes;
    }
    uint64_t live = times(ENG_BATCH_DEPTH_MAX, store_live_bytes(eng->store));
    nodes = least(nodes, live);
    uint64_t ids = plus(plus(nodes / NODE_BYTES_LEAST, times(keys, IDS_EACH)), IDS_SHARED);
    uint64_t need = plus(nodes, plus(nodes / DEATHS_SHARE, times(keys, FRESH_BYTES)));
    uint64_t usual = times(keys, eng->leaf_bytes + (eng->leaf_bytes > NODES_BYTES ? eng->leaf_bytes : NODES_BYTES));
    usual = least(usual, plus(live, times(keys, 512)));
    return store_reserve(eng->store, plus(need > usual ? need : usual, own), ids);
}
