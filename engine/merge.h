/*
 * The merge: a sorted write set into a tree, one new version of every touched node, digests bottom-up.
 *
 * The recursion turns (node, operations below it) into a `set`: nothing, one finished node, or a pending list of
 * entries that its caller will place; only the caller knows whether a light set stays a leaf of its own or joins its
 * neighbours. Shape is decided by the rule of DESIGN 3.3 alone (merge_cut.c); the common case, in which no branch
 * appears, vanishes, or crosses the leaf weight, copies the node and changes child ids in place (merge_inner.c), and an
 * update that keeps all sizes copies the leaf and patches it (merge_leaf.c).
 *
 * Work is split over threads at the topmost node where the operations fall into several branches (merge_split.c): each
 * thread has a merger of its own (arena, digest queue, scratch, path), results meet in the common parent.
 *
 * Subtrees (subtree_commit.c) are merged before the tree they hang in, one after the other in the same generation; an
 * operation that puts one names it by its number in `made`. What lies at or below `floor` belongs to a base and is not
 * killed; subtrees that lost their place are listed, for only the caller knows whether they have another.
 *
 * Ways to fail: space, ids, memory, a damaged node. Any of them unwinds with longjmp to the start of the thread's part;
 * everything made so far lies in arenas that store_abort empties, scratch, and caches on the touched list.
 */
#ifndef ENGINE_MERGE_H
#define ENGINE_MERGE_H

#include <setjmp.h>

#include "buffer.h"
#include "bump.h"
#include "digest_cache.h"
#include "digest_queue.h"
#include "helper.h"
#include "hidden.h"
#include "arena.h"
#include "node.h"
#include "store.h"

typedef struct buffer_entry operation; /* BUFFER_PUT or BUFFER_REMOVE, in key order */

/* An entry on its way into a leaf. */
struct entry {
    const uint8_t *key;    /* whole */
    const uint8_t *stored; /* as in the leaf */
    const uint8_t *cached; /* digest of the logical node behind this entry in its old leaf, or NULL */
    uint16_t key_bytes;
    uint16_t form;
    uint8_t hash;
    bool dirty; /* new, changed, or next to something that went */
};

enum set_kind { SET_EMPTY, SET_NODE, SET_PENDING };

struct set {
    enum set_kind kind;
    uint32_t id;            /* SET_NODE: hangs at the depth that was asked for */
    bool leaf;              /* SET_NODE: it is a leaf */
    struct entry *entries;  /* SET_PENDING */
    uint64_t count, weight; /* weight as in struct node */
};

/* A piece of an inner node that is being put together again, in key order. */
struct item {
    struct set set;
    uint8_t start, log2; /* its byte values; INNER_OWN_LOG2: the key that ends here */
    int16_t old;         /* the branch it was, untouched or replaced in place; -1 */
    bool dirty;
};

struct branch {
    uint32_t id;
    uint8_t start, log2;
    int16_t old;
    bool dirty;
};

/* A subtree that was merged: what its place in a leaf holds. */
struct made {
    uint8_t stored[STORED_TREE_BYTES];
};

struct merge_pool;
struct merge_group;

#define AHEAD_STAGES 7u
#define AHEAD_RING 64u

struct merger {
    struct store *store;
    struct arena *arena;
    struct cache_table *caches;
    struct merge_pool *pool; /* NULL in helpers and stores with one thread */
    uint32_t leaf_bytes, inline_bytes;
    const operation *ops;
    uint32_t root;                 /* of the tree that is merged into */
    size_t ahead[AHEAD_STAGES];    /* operations that have passed each stage of looking ahead */
    size_t ahead_end;              /* end of this thread's part */
    uint32_t ahead_id[AHEAD_RING]; /* the node each has come to, by operation modulo the size; 0: done */
    struct digest_queue queue;
    struct bump scratch;
    struct digest_cache *dropped; /* freed when the merge is over */
    uint32_t *touched;            /* ids whose cache was changed; forgotten if the merge is undone */
    uint32_t touched_count, touched_capacity;
    enum eng_status status;
    char error[256];
    jmp_buf unwind;
    uint64_t generation;
    uint64_t floor;          /* of the tree at hand: older objects are its base's */
    const struct made *made; /* by the number of a subtree */
    struct death *gone;      /* tree objects that lost their place */
    size_t gone_count, gone_capacity;
    uint8_t path[ENG_KEY_BYTES_MAX + 16]; /* key bytes above the node at hand */
};

/* For store_options: how trees are freed lazily (below.c). */
struct store_shape tree_store_shape(struct cache_table *caches);

/* One thread's merger. */
bool merger_init(struct merger *m, struct store *store, struct cache_table *caches, uint32_t leaf_bytes,
                 uint32_t inline_bytes);
void merger_free(struct merger *m);
/* For a new generation. */
void merger_begin(struct merger *m, struct arena *arena);
/* After it: kept or undone. */
void merger_end(struct merger *m, bool undone);
_Noreturn void merge_fail(struct merger *m, enum eng_status status);
void *merge_scratch(struct merger *m, size_t bytes);

/* The whole: root 0 is the empty tree. ENG_OK: *result is the new root and its summary, all digests computed. */
enum eng_status merge_tree(struct merger *m, uint32_t root, const operation *ops, size_t count, uint32_t *result,
                           struct eng_summary *summary);

/* Takes everything in from <= key < to (NULL: open end) out of the tree, in O(depth) (merge_range.c). All digests
 * computed. To be followed by merge_tree in the same generation. */
enum eng_status merge_remove_range(struct merger *m, uint32_t root, const struct hidden_range *range, uint32_t *result,
                                   struct eng_summary *summary);

/* Parts, all of which may unwind. */
struct set merge_node(struct merger *m, uint32_t id, unsigned depth, size_t lo, size_t hi);
struct set merge_leaf(struct merger *m, struct leaf *leaf, unsigned depth, size_t lo, size_t hi);
struct set merge_inner(struct merger *m, struct inner *inner, unsigned depth, size_t lo, size_t hi);
/* Puts among the operations as pending entries (at most SET_EMPTY if there are none). */
struct set pending_operations(struct merger *m, size_t lo, size_t hi);
/* Entries of an untouched or finished leaf as pending; kills the leaf. */
/* The same without the entries [lo, hi), whose outside values are killed. */
struct set leaf_without(struct merger *m, struct leaf *leaf, unsigned lo, unsigned hi);
struct set leaf_extract(struct merger *m, struct leaf *leaf);
/* A node for a set that is to hang at depth: light sets become a leaf, heavy ones a subtree. */
uint32_t build_leaf(struct merger *m, const struct entry *entries, size_t count, unsigned depth);
uint32_t build_set(struct merger *m, const struct entry *entries, size_t count, unsigned depth);
/* An inner node from its pieces; head: the key bytes above it and its prefix; old: where untouched digests come from.
 */
struct set finish_items(struct merger *m, unsigned depth, unsigned child_depth, const uint8_t *head, struct item *items,
                        size_t count, const struct digest_cache *old);
/* Cuts items into branches (merge_cut.c). */
size_t cut_items(struct merger *m, struct item *items, size_t count, unsigned child_depth, struct branch *branches);
struct set gather_items(struct merger *m, struct item *items, size_t count);
/* What becomes of an inner node some of whose branches have become the groups' sets: its cache is its own or fresh. */
struct set inner_regroup(struct merger *m, struct inner *inner, struct digest_cache *cache, unsigned depth,
                         struct merge_group *groups, size_t count, bool fresh_cache);
/* The same inner node under another depth. */
struct set inner_rehang(struct merger *m, struct inner *inner, unsigned depth);
/* The cache of an inner node, made if there is none (*fresh). */
struct digest_cache *inner_cache(struct merger *m, struct inner *inner, bool *fresh);
/* Emits the digests of an inner node whose dirty branches are marked, the fresh ones among them; fills its summary. */
#define DIRTY_WORDS 5u
void inner_digest(struct merger *m, struct inner *inner, struct digest_cache *cache, const uint64_t dirty[DIRTY_WORDS],
                  const struct eng_summary *const fresh[]);

/* Brings the nodes of the operations some places behind done on their way into the cache. */
void merge_look_ahead(struct merger *m, size_t done);
void merge_ahead_begin(struct merger *m, uint32_t root, size_t from, size_t end);
struct node *merge_read(struct merger *m, uint32_t id);
void merge_kill(struct merger *m, const struct object *object);
/* A tree object lost its place. */
void merge_gone(struct merger *m, const struct object *object);
void cache_drop(struct merger *m, uint32_t id);
void cache_move(struct merger *m, uint32_t from, uint32_t to);

/* Does a set of this count and weight, whose keys have common bytes in common, fit one leaf? */
static inline bool set_is_light(const struct merger *m, uint64_t count, uint64_t weight, size_t common)
{
    return count == 1 || weight - count * common <= m->leaf_bytes;
}

static inline size_t entries_common(const struct entry *entries, size_t count)
{
    const struct entry *a = &entries[0], *z = &entries[count - 1];
    size_t n = a->key_bytes < z->key_bytes ? a->key_bytes : z->key_bytes, i = 0;
    while (i < n && a->key[i] == z->key[i])
        i++;
    return i;
}

static inline uint64_t entry_weight(const struct entry *entry)
{
    return 8u + entry->key_bytes + FORM_BYTES(entry->form);
}

/* merge_split.c: groups of operations of one inner node, done by several threads. */
struct merge_group {
    size_t lo, hi;
    int branch; /* -1: no branch covers them */
    uint32_t child;
    bool was_inner; /* the child, before the operations */
    struct set set;
};
/* A merger for each helper. */
bool merge_pool_open(struct store *store, struct cache_table *caches, uint32_t helpers, uint32_t leaf_bytes,
                     uint32_t inline_bytes, struct merge_pool **pool);
/* As many; open for as long as there are merges. */
void merge_pool_helpers(struct merge_pool *pool, struct helpers *helpers);
/* After they are closed. NULL inside is fine. */
void merge_pool_close(struct merge_pool **pool);
/* For helpers_open. */
void merge_help(void *pool, uint32_t helper);
/* Hands arenas 1.. to the helpers; m is the caller's merger. */
void merge_pool_begin(struct merge_pool *pool, struct merger *m);
void merge_pool_end(struct merge_pool *pool, bool undone);
#define MERGE_SPLIT_OPERATIONS 96u /* below this a merge is done by one thread */
/* True if the groups were shared out and are done. */
bool merge_split(struct merger *m, struct merge_group *groups, size_t count, unsigned depth);
/* Calls each with every merger of the helpers. */
void merge_pool_each(struct merge_pool *pool, void (*each)(void *context, struct merger *m), void *context);
uint64_t merge_pool_digests(const struct merge_pool *pool);
void merge_groups(struct merger *m, struct merge_group *groups, size_t count, unsigned depth);

#endif
