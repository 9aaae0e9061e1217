/* Subtrees of a batch: handles and where they come from (subtree.c), how deep they lie (subtree_height.c), how they are
 * merged (subtree_commit.c). */
#ifndef ENGINE_SUBTREE_H
#define ENGINE_SUBTREE_H

#include "engine_internal.h"

/* A committed subtree that handles of this batch go on from: what the base of `container` has at `key`. Its place in
 * the table is by these two. */
struct origin {
    struct eng_batch *container; /* the outermost batch or a handle */
    const uint8_t *key;
    uint32_t key_bytes;
    uint32_t id; /* OBJECT_TREE */
    uint64_t generation;
    struct tree_object tree; /* a copy: root, base, since, summary, height */
    struct eng_batch *place; /* the handle that was opened here, NULL: none yet */
    bool cloned;             /* more than one handle went on from it, at least for a while */
    /* of a commit */
    uint32_t users; /* handles that are put somewhere */
    bool needed;    /* something that is put somewhere comes from inside it */
    bool decided, owned;
    bool emptied;  /* it goes, and something inside it goes on: that is taken out of it before */
    uint32_t base; /* what its nodes belong to from now on, 0: to their one user */
    uint64_t since, floor;
};

/* How a handle was before it was changed, for a rollback of the outermost batch. */
struct handle_undo {
    uint64_t mark; /* of the outermost batch's buffer */
    struct eng_batch *handle;
    uint64_t own_mark;
    struct eng_batch *parent;
    const uint8_t *key;
    uint32_t key_bytes;
    uint32_t height;
};

struct subtrees {
    struct eng_batch **handles; /* by number */
    uint32_t count, capacity;
    struct origin **origins; /* hash table, open addressing, a power of two */
    uint32_t origins_count, origins_capacity;
    struct handle_undo *undo;
    size_t undo_count, undo_capacity;
    uint64_t epoch;        /* advances with every mark and rollback */
    struct layer nothing;  /* what a handle has not written: one empty buffer for all */
    struct bump memory;    /* keys, origins */
    struct made *made;     /* of a commit */
    struct death *handled; /* of a commit: tree objects whose nodes go on, in order of ids */
    size_t handled_count;
};

/* In the write buffer, the value of a subtree: its number, then its summary as of the last commit. */
#define SUBTREE_VALUE_BYTES (4u + sizeof(struct eng_summary))

/* A handle is about to be written: its place is in the write buffer of its parent, and so on up. */
enum eng_status subtree_write(struct eng_batch *batch);
void subtrees_mark(struct subtrees *trees);
void subtrees_rollback(struct eng_batch *outer, uint64_t mark);
enum eng_status subtrees_freeze(struct subtrees *trees);
void subtrees_thaw(struct subtrees *trees); /* what failed to be frozen as a whole can be written again */
void subtrees_close(struct eng_batch *outer);

/* A handle that goes on from what container's base has at key (NULL: a new tree), nowhere yet, to be written; for a
 * replay. */
enum eng_status subtree_make(struct eng_batch *outer, struct eng_batch *container, const uint8_t *key, size_t key_bytes,
                             bool cloned, struct eng_batch **handle);
/* Of a frozen batch that was replayed: does every subtree hang in one place at most, none too deep? Heights are set.
 * Not ENG_OK: nobody knows. */
enum eng_status subtrees_whole(struct eng_batch *outer, bool *whole);
/* Does a handle hang where it was put, or opened? */
bool subtree_attached(const struct eng_batch *handle);
/* May it hang in parent? ENG_TOO_LARGE: too deep. And when it does: what it hangs in is as high as it needs to be. */
enum eng_status subtree_fits(struct eng_batch *parent, struct eng_batch *handle);
void subtree_raise(struct eng_batch *parent, const struct eng_batch *handle);
/* For a log: *numbers, malloced, has for each handle what it is called there, or SUBTREE_NEW: it is not needed. */
#define SUBTREE_NEW 0xffffffffu
#define SUBTREE_OUTERMOST 0xfffffffeu
enum eng_status subtrees_number(struct eng_batch *outer, uint32_t **numbers, uint32_t *count);
struct eng_batch *subtree_of(struct subtrees *trees, const struct buffer_entry *entry);

/* Is what its subtrees go on from still what this version has? ENG_CONFLICT. Inside an epoch. */
enum eng_status subtrees_current(struct eng_batch *outer, const struct store_version *head);
/* In the open generation: merges every subtree that has a place, so that the outermost tree can be merged. */
enum eng_status subtrees_merge(struct eng_batch *outer, struct merger *m);
/* Before ranges of the outermost tree (or of container) are removed: takes out subtrees that go on elsewhere. */
enum eng_status subtrees_take_out(struct eng_batch *container, struct merger *m, uint32_t *root,
                                  struct eng_summary *summary);
/* After the outermost tree was merged: what lost its place is given to the store. */
void subtrees_settle(struct eng_batch *outer, struct merger *m, struct merge_pool *pool);

#endif
