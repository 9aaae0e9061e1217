/*
 * The object store below the tree: segments, ids, control blocks, generations, versions, readers, checkpoint,
 * compaction. It knows objects and their ids; it does not know what a leaf is.
 *
 *   object     a node, value or list in multiples of 64 bytes, first its header (checksum, generation, id, size, type)
 *   id         32 bits, names an object for life; nodes name their children by id
 *   control    id -> 8-byte atomic word {location in 64-byte units, size in units, type, flags}; moving an object is a
 *              copy and one compare-and-swap; 0 is a free id. A cache: rebuilt at every start from the checkpoint.
 *   segment    a run of segment_bytes in the one mapped file state/segments; filled by one arena, then sealed; recycled
 *              when nothing in it is live, no reader can see it and no durable checkpoint needs it
 *   generation 64 bits, never reused, also across starts (start number << 40 | counter); every commit opens one
 *   version    what a commit published on a lineage (a top-level root): generation, tag (the ledger's height), root id,
 *              the summary, and the death list of what died when it was made
 *
 * Liveness: an object born in generation b that died in generation d is visible from the versions v with b <= v < d.
 * store_drop of a version frees exactly what only it could see: of the death list of the next kept version, those born
 * after the previous kept version; the rest is carried over to the previous one's successor. O(1) per list entry.
 * Death lists are objects themselves (OBJECT_LIST), so checkpoints carry them for nothing.
 *
 * Who calls what: one thread at a time begins and commits generations (the merge; it may hand arenas to helpers in
 * between). Readers pin a version and enter an epoch for each look. Background work (compaction, the slow half of a
 * checkpoint) runs in a maintenance thread, or inline in store_maintain when options.background is false.
 */
#ifndef ENGINE_STORE_H
#define ENGINE_STORE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/digest.h"
#include "pando/disk.h"
#include "pando/limits.h"
#include "pando/status.h"

enum object_type {
    OBJECT_NONE = 0,
    OBJECT_LEAF = 1,
    OBJECT_INNER = 2,
    OBJECT_VALUE = 3,
    OBJECT_LIST = 4,
    OBJECT_TREE = 5, /* a subtree as a value */
};

/* The first 24 bytes of every object. */
struct object {
    uint64_t checksum;   /* object_checksum: of the units*64-8 bytes behind; written at the checkpoint, 0 before */
    uint64_t generation; /* the one that made it */
    uint32_t id;
    uint32_t units : 24; /* size in 64-byte units */
    uint32_t type : 8;   /* enum object_type */
};
_Static_assert(sizeof(struct object) == 24, "on disk");

/* The control word. Flags live in memory only, except type and size. */
#define CONTROL_LOCATION_BITS 36
#define CONTROL_UNITS_SHIFT 36        /* 19 bits: objects up to 32 MiB */
#define CONTROL_TYPE_SHIFT 55         /* 3 bits */
#define CONTROL_VERIFIED (1ull << 58) /* checksum checked since the start, or made since */
#define CONTROL_ACTIVE (1ull << 59)   /* read since the decay looked last, see hot.c */
#define CONTROL_WARM (1ull << 60)     /* was ACTIVE when it looked last */
#define CONTROL_COLD (1ull << 61)     /* hot, and idle twice running */
#define CONTROL_LOCATION(w) ((w) & ((1ull << CONTROL_LOCATION_BITS) - 1))
#define CONTROL_UNITS(w) ((uint32_t)((w) >> CONTROL_UNITS_SHIFT & 0x7ffff))
#define CONTROL_TYPE(w) ((enum object_type)((w) >> CONTROL_TYPE_SHIFT & 7))

/* Fixed at creation, because it says how app_state is read. */
enum store_kind {
    STORE_ANY = 0,    /* whatever it is */
    STORE_PLAIN = 1,  /* app_state is the application's alone */
    STORE_LOGGED = 2, /* it begins with a place in a log of batches, which is to be replayed */
};

struct store_options {
    struct disk *disk;
    const char *dir; /* "state", created if absent */
    uint8_t store_id[ENG_STORE_ID_BYTES];
    uint32_t segment_bytes;            /* power of two; fixed at creation, kept in the files */
    uint32_t leaf_bytes, inline_bytes; /* of the tree: fixed at creation, kept in the root slot, see store_parameters */
    uint32_t arenas;                   /* how many threads allocate in one generation (1..ENG_THREADS_MAX) */
    bool background;                   /* run a maintenance thread */
    bool create;                       /* create if there is no state yet; otherwise ENG_NOT_FOUND */
    enum store_kind kind;              /* another one is ENG_INVALID */
    const struct store_shape *shape;   /* NULL: no store_kill_below, no rebuild */
    bool protect;                      /* sealed segments that a checkpoint has are write-protected */
    bool rebuild;                      /* do not read the control table; store_rebuilt must follow (rebuild.c) */
    /* What a rebuild could not use; that memory may not be locked (from the decay thread), or segments not protected
     * (from any). May be NULL. */
    void (*report)(void *context, const char *line);
    void *report_context;
    uint64_t hot_bytes;    /* of memory that may be locked for what is read most; 0: no hot tier */
    uint32_t hot_decay_ms; /* a round of its decay; 0: HOT_DECAY_MS_DEFAULT */
};

/* What the store must know of nodes, told by the tree. */
struct store;
struct store_shape {
    /* Calls each for every id an object names: children of nodes, values and subtrees of leaves, the root of a
     * subtree. */
    void (*below)(const struct object *object, void (*each)(void *context, uint32_t id), void *context);
    /* Of an OBJECT_TREE: its base (0: none) and since when it has one. */
    void (*tree)(const struct object *object, uint32_t *base, uint64_t *since);
    /* How many of those an object names lie elsewhere than it says; *said: of how many it says where they lie. copy
     * (may be NULL), which is not published yet, is put right. */
    uint32_t (*misplaced)(struct store *store, const struct object *object, struct object *copy, uint32_t *said);
    /* An id is about to be freed by store_reap: caches keyed by it must go. */
    void (*forget)(void *context, uint32_t id);
    void *context;
};

/* What store_drop, recovery and statistics see of a version. */
struct store_version {
    uint64_t generation;
    uint64_t tag;
    uint32_t root; /* id of the tree's root node, 0: the empty tree */
    struct eng_summary summary;
};

/* Hot part, at the start of struct store so that store_object is inline. */
struct store_view {
    uint8_t *base;             /* of the mapped segments */
    _Atomic uint64_t *control; /* indexed by id, address space reserved once */
    struct hints *hints;       /* where leaves probably lie (hint.h) */
    bool sampled;              /* there is a hot tier: some reads set ACTIVE */
};

/* Opens or creates. Recovery: newest valid root slot, a committed journal is rolled forward, the control table and the
 * catalog of versions are loaded and checked, segments' live counts and free ids are derived. Objects are checked when
 * first read. ENG_NOT_FOUND, ENG_FOREIGN, ENG_VERSION, ENG_DAMAGED (file and offset), ENG_IO, ENG_FULL. */
ENG_MUST_CHECK enum eng_status store_open(const struct store_options *options, struct store **store);
/* Stops the maintenance thread. Does not checkpoint. No reader or open generation may be left. */
void store_close(struct store **store);
void store_parameters(const struct store *store, uint32_t *leaf_bytes, uint32_t *inline_bytes, uint32_t *segment_bytes);

/* After store_open with rebuild, before anything else is done: calls good for every version, forgets those for which it
 * returns ENG_DAMAGED, frees what no version needs, makes the death lists anew. A checkpoint must follow. Another error
 * of good ends it, and is returned: the store can then only be closed. */
ENG_MUST_CHECK enum eng_status store_rebuilt(struct store *store,
                                             enum eng_status (*good)(void *context, uint32_t lineage,
                                                                     const struct store_version *version),
                                             void *context);

static inline struct store_view *store_view(struct store *store)
{
    return (struct store_view *)(void *)store;
}

/* Slow path of store_object: checks the checksum once. NULL and eng_error() if the object is damaged. */
struct object *store_object_check(struct store *store, uint32_t id, uint64_t word);

/* The object of a live id, or NULL (ENG_DAMAGED, eng_error() names segment file and offset). The pointer is good until
 * the epoch is left (readers), or for the whole generation (the merge, which is inside an epoch too). */
static inline struct object *store_object(struct store *store, uint32_t id)
{
    /* acquire: partner of the release in store_alloc and of the compactor's compare-and-swap */
    uint64_t word = atomic_load_explicit(&store_view(store)->control[id], memory_order_acquire);
    if (__builtin_expect(!(word & CONTROL_VERIFIED), 0))
        return store_object_check(store, id, word);
    return (struct object *)(void *)(store_view(store)->base + CONTROL_LOCATION(word) * 64);
}
/* The same, with its type, which the caller then need not read in the object. */
static inline struct object *store_object_type(struct store *store, uint32_t id, enum object_type *type)
{
    /* acquire: as in store_object */
    uint64_t word = atomic_load_explicit(&store_view(store)->control[id], memory_order_acquire);
    *type = CONTROL_TYPE(word);
    if (__builtin_expect(!(word & CONTROL_VERIFIED), 0))
        return store_object_check(store, id, word);
    return (struct object *)(void *)(store_view(store)->base + CONTROL_LOCATION(word) * 64);
}
/* The same where its parent says where it lay (0: not told). Its bytes are asked for there at once, while the control
 * word, which must agree, is on its way: the processor goes on on the guess that it does. */
static inline struct object *store_object_placed(struct store *store, uint32_t id, uint32_t place,
                                                 enum object_type *type)
{
    /* acquire: as in store_object */
    uint64_t word = atomic_load_explicit(&store_view(store)->control[id], memory_order_acquire);
    struct object *object = (struct object *)(void *)(store_view(store)->base + place * 64ull);
    __asm__("" : "+r"(object)); /* not to be computed from the word, which it would have to wait for */
    *type = CONTROL_TYPE(word);
    if (__builtin_expect(!(word & CONTROL_VERIFIED), 0))
        return store_object_check(store, id, word);
    if (__builtin_expect(CONTROL_LOCATION(word) != place, 0)) {
        __asm__ volatile(""); /* a branch, not a choice between two values, which would wait for the word as well */
        object = (struct object *)(void *)(store_view(store)->base + CONTROL_LOCATION(word) * 64);
    }
    return object;
}
/* Where an object lies now, as its parent notes it; 0 beyond 256 GB. */
static inline uint32_t store_place(struct store *store, uint32_t id)
{
    uint64_t location = CONTROL_LOCATION(atomic_load_explicit(&store_view(store)->control[id], memory_order_relaxed));
    return location <= UINT32_MAX ? (uint32_t)location : 0;
}
/* The same of one that was looked up. */
static inline uint32_t store_place_of(struct store *store, const void *object)
{
    uint64_t location = (uint64_t)((const uint8_t *)object - store_view(store)->base) / 64;
    return location <= UINT32_MAX ? (uint32_t)location : 0;
}
static inline void store_prefetch_control(struct store *store, uint32_t id)
{
    __builtin_prefetch((const void *)&store_view(store)->control[id]);
}
/* The first lines of 64 bytes of an object whose control word is in the cache. */
static inline void store_prefetch_object(struct store *store, uint32_t id, unsigned lines)
{
    uint64_t word = atomic_load_explicit(&store_view(store)->control[id], memory_order_relaxed);
    const uint8_t *object = store_view(store)->base + CONTROL_LOCATION(word) * 64;
    for (unsigned i = 0; i < lines; i++)
        __builtin_prefetch(object + 64 * i);
}
static inline enum object_type store_type(struct store *store, uint32_t id)
{
    return CONTROL_TYPE(atomic_load_explicit(&store_view(store)->control[id], memory_order_relaxed));
}

/* A reader looked at it: sets ACTIVE. By compare-and-swap: a word that changes meanwhile is left alone. */
static inline void store_touch(struct store *store, uint32_t id)
{
    _Atomic uint64_t *word = &store_view(store)->control[id];
    /* relaxed, both: flags say nothing about the bytes */
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    if (seen && !(seen & CONTROL_ACTIVE))
        atomic_compare_exchange_strong_explicit(word, &seen, seen | CONTROL_ACTIVE, memory_order_relaxed,
                                                memory_order_relaxed);
}

/* ---- writing: one generation at a time ---------------------------------------------------------------------------*/

/* What one thread allocates and kills with, during one generation. Obtained from store_begin; arena i belongs to one
 * thread at a time. */
struct arena;

/* Opens a generation on a lineage (0..ENG_ROOTS_MAX-1) and enters an epoch. Asserts that none is open. */
ENG_MUST_CHECK enum eng_status store_begin(struct store *store, uint32_t lineage, uint64_t *generation);
struct arena *store_arena(struct store *store, uint32_t index);
uint64_t arena_generation(const struct arena *arena);

/* A new object of at least bytes bytes (header included), header filled, last 64-byte line zeroed first, control word
 * set and VERIFIED. NULL: ENG_FULL, ENG_NO_IDS or ENG_TOO_LARGE (over the segment size), eng_error() says which;
 * nothing changed. The content may be written until store_commit. Never moves before that. */
struct object *store_alloc(struct arena *arena, enum object_type type, size_t bytes, uint32_t *id);
/* The arena for inner nodes of whoever allocates in this one (segment.c); perhaps the same. */
struct arena *arena_inner(const struct arena *arena);
/* The status of the last NULL of store_alloc. */
enum eng_status arena_status(const struct arena *arena);

/* The object is not part of the version being made. One born in this generation is freed at the commit, another goes on
 * the death list. Its bytes stay readable until the generation is closed. */
void store_kill(struct arena *arena, uint32_t id, uint64_t born);

/* The same for a node, or an OBJECT_TREE, and everything below it that was born after a floor (that of its base, see
 * below; 0: everything): O(1) here, freed lazily, each object as soon as no kept version can see it. A tree object's
 * hold on its base goes with it. */
void store_kill_below(struct arena *arena, uint32_t id, uint64_t born, uint64_t floor);

/* ---- bases: what clones share ------------------------------------------------------------------------------------
 *
 * A base owns the nodes below its root that were born after the floor of the base before it and up to its own floor. A
 * subtree that has a base owns only what was born after that floor, and its merges kill nothing older. A base counts
 * its holders: subtrees, and bases made on top of it. When the last is gone, and every version that could see it, what
 * the base owns is freed lazily and its hold on the base before it is given back.
 *
 * Changes are made by the committing thread in an open generation and undone by store_abort. */

/* A new base, without holders yet; before: 0 or the base of the subtree it is made of, whose hold since `since` passes
 * to the new one. Its floor is the newest closed generation. ENG_NO_MEMORY, ENG_FULL, ENG_IO. */
ENG_MUST_CHECK enum eng_status store_base_make(struct store *store, uint32_t root, uint32_t before, uint64_t since,
                                               uint32_t *base);
ENG_MUST_CHECK enum eng_status store_base_hold(struct store *store, uint32_t base);
/* Does this lineage have any? */
bool store_has_bases(const struct store *store, uint32_t lineage);
/* 0 for base 0. */
uint64_t store_base_floor(const struct store *store, uint32_t base);
/* Its only holder takes back what it owns, and what it holds: *root is what it was made of, *before the base before it,
 * held since *since. False: there are other holders; nothing changed. */
bool store_base_dissolve(struct store *store, uint32_t base, uint32_t *root, uint32_t *before, uint64_t *since);

/* Frees up to max objects that store_kill_below and bases left behind and nobody can see; *left (may be NULL): some are
 * due still. Between generations, by the thread that commits (store_commit and store_drop do some by themselves). */
ENG_MUST_CHECK enum eng_status store_reap(struct store *store, uint64_t max, bool *left);
/* Walks all versions, death lists, bases and pending falls and counts ids that are live and belong to nobody, or are
 * named and not live. Nothing open for writing. ENG_DAMAGED, ENG_NO_MEMORY; needs a shape. */
ENG_MUST_CHECK enum eng_status store_audit(struct store *store, uint64_t *leaked, uint64_t *missing);

/* Makes death-list objects, appends the version {generation, tag, root, summary} to the lineage, leaves the epoch. The
 * version becomes visible by one release store of the lineage's head. On error nothing is published, and the caller
 * must call store_abort. Tags ascend strictly within a lineage. */
ENG_MUST_CHECK enum eng_status store_commit(struct store *store, uint64_t tag, uint32_t root,
                                            const struct eng_summary *summary);
/* Makes room for hints of the leaves among what is live now (hint.h); by the thread that commits. */
void store_fit_hints(struct store *store);
/* Frees all that the open generation allocated; kills are forgotten. O(allocations). */
void store_abort(struct store *store);

/* Makes sure that bytes of new objects and ids new ids can be allocated from here on (extends the files, also those of
 * the next checkpoint): ENG_FULL, ENG_NO_IDS. */
ENG_MUST_CHECK enum eng_status store_reserve(struct store *store, uint64_t bytes, uint64_t ids);

/* ---- versions ----------------------------------------------------------------------------------------------------*/

/* The newest version of a lineage; false if it has none. Any thread. */
bool store_head(struct store *store, uint32_t lineage, struct store_version *version);
/* Kept versions of a lineage, oldest first; returns how many there are, writes at most max. */
size_t store_versions(struct store *store, uint32_t lineage, struct store_version *versions, size_t max);

/* Pins the version with this tag (STORE_HEAD: the newest), so that it is not freed until unpinned. ENG_NOT_FOUND: no
 * such tag yet; ENG_GONE: dropped. A pin holds no reader slot. O(log versions), a short lock. */
#define STORE_HEAD UINT64_MAX
ENG_MUST_CHECK enum eng_status store_pin(struct store *store, uint32_t lineage, uint64_t tag,
                                         struct store_version *version);
/* One more pin on a version that is pinned (it may be dropped). */
void store_pin_again(struct store *store, uint32_t lineage, uint64_t tag);
void store_unpin(struct store *store, uint32_t lineage, uint64_t tag);

/* The version is no longer wanted: freed as soon as no pin holds it, never the head. Between generations, by the thread
 * that commits (checked by assert). ENG_NOT_FOUND. Frees are put off while a checkpoint is computing checksums. */
ENG_MUST_CHECK enum eng_status store_drop(struct store *store, uint32_t lineage, uint64_t tag);
/* Drops every version with a tag below this one (the head always stays). */
ENG_MUST_CHECK enum eng_status store_drop_below(struct store *store, uint32_t lineage, uint64_t tag);
/* Its two halves: marks what is no longer wanted (true: something was wanted), and frees what can be freed of that. */
bool store_mark_below(struct store *store, uint32_t lineage, uint64_t tag);
ENG_MUST_CHECK enum eng_status store_free_dropped(struct store *store);

/* ---- readers -----------------------------------------------------------------------------------------------------*/

/* A reader slot; one a thread, kept by the thread until it ends (thread-local, found again for free). NULL: all
 * ENG_READERS_MAX are taken (ENG_NO_READERS). Enter before looking at objects, leave after; calls nest. Wait-free. */
struct reader;
struct reader *store_reader(struct store *store);
void reader_enter(struct reader *reader);
void reader_leave(struct reader *reader);

/* ---- checkpoint and maintenance ----------------------------------------------------------------------------------*/

/* Between generations, by the thread that commits. Captures the present versions of all lineages with app_state
 * (opaque, at most ENG_APP_STATE_BYTES_MAX) and starts making them durable. With a maintenance thread it returns after
 * the capture (ENG_BUSY if one is still running); otherwise when it is durable. wait = true waits until it is durable.
 */
ENG_MUST_CHECK enum eng_status store_checkpoint(struct store *store, const void *app_state, size_t app_state_bytes,
                                                bool wait);
/* Starts writing what is dirty in the segments, without waiting: less is left for the next checkpoint. Any thread. */
ENG_MUST_CHECK enum eng_status store_write_back(struct store *store);
/* True while one is being made. A failed one makes this and every later checkpoint call return its error. */
bool store_checkpoint_running(struct store *store);
/* Would a checkpoint give much space back? Empty segments that only wait for the next one are more than a sixth of
 * what is live. By the committing thread, when none is running; O(empty segments) at most. */
bool store_checkpoint_wanted(struct store *store);
/* Returns at once, unless a checkpoint is running and the empty segments that wait for it or the next one are more than
 * a third of what is live: then when it has ended. Before a commit, by a thread that holds no lock and no generation.
 */
void store_wait_for_space(struct store *store);
/* app_state of the checkpoint the store was opened from; length 0 for a new store. */
size_t store_app_state(const struct store *store, void *bytes, size_t max);
/* app_state length and number of the newest durable checkpoint (advances while running). */
uint64_t store_checkpoint_number(const struct store *store);

/* Moves live objects out of the segments with the least live data until the live ratio of sealed segments is at least
 * live_percent or max_bytes were moved. Called by the maintenance thread by itself; by tests and stores without one.
 * Not in an open generation of the calling thread; one that another thread keeps open for too long is ENG_BUSY. */
ENG_MUST_CHECK enum eng_status store_compact(struct store *store, uint32_t live_percent, uint64_t max_bytes);
/* Moves what lives in the last segments to free places before them, so that store_shrink can shorten the file. What a
 * checkpoint needs is given free by the next one. */
ENG_MUST_CHECK enum eng_status store_compact_end(struct store *store);
/* Moves the nodes that say wrongly of more than a quarter of their children where these lie, since they were moved, and
 * so puts that right. What is not done (no space, a damaged node, *stop: NULL or a flag that ends it early) stays
 * wrong, which costs a read a wait and nothing else. Called by the maintenance thread when no commit came for a second;
 * otherwise as store_compact. */
void store_compact_parents(struct store *store, const _Atomic bool *stop);
/* Nothing was committed or dropped since the newest checkpoint was captured. By the committing thread. */
bool store_unchanged(const struct store *store);
/* Makes the file as short as whole segments allow, at least live_percent of what is left in use live: moves objects,
 * and makes checkpoints so that the places they leave can be cut off. Between generations, only if store_unchanged: the
 * checkpoints have the app_state of the newest one. Truncation: truncate.c. */
ENG_MUST_CHECK enum eng_status store_truncate(struct store *store, uint32_t live_percent);
/* Runs due maintenance once in the calling thread (for stores without the thread); a no-op with the thread. */
ENG_MUST_CHECK enum eng_status store_maintain(struct store *store);
/* Gives unused segments at the end of the file back to the file system. Between generations. */
ENG_MUST_CHECK enum eng_status store_shrink(struct store *store);

struct store_statistics {
    uint64_t segment_bytes, segments_total, segments_free;
    uint64_t live_bytes; /* of live objects */
    uint64_t file_bytes; /* state/segments */
    uint64_t ids_live, ids_limit;
    uint64_t versions;       /* kept, all lineages */
    uint64_t moved_bytes;    /* by the compactor since the start */
    uint64_t checkpoints;    /* made since the start */
    uint64_t waiting_bytes;  /* of segments that are empty, and wait for a reader or a checkpoint */
    uint64_t reader_bytes;   /* of those, what waits for the readers alone */
    uint32_t readers_inside; /* threads looking at the store at this moment */
    int32_t reader_thread;   /* the one inside for longest: its kernel thread id, 0: none; and for how long at least */
    uint64_t reader_ms;
    uint64_t pins;           /* on versions */
    uint32_t pinned_lineage; /* the oldest version that is pinned, if any is */
    uint64_t pinned_tag;
    uint64_t pinned_ms;                              /* since it was pinned */
    uint64_t versions_waiting;                       /* dropped, and kept by pins */
    uint64_t hot_limit, hot_locked_bytes, hot_bytes; /* that may be, and are locked; of hot objects */
    uint64_t hot_objects;                            /* as of the last round, and promoted since */
    uint64_t hot_promoted, hot_demoted;              /* objects, since the start */
    bool hot_refused;                                /* the system lets us lock less than was asked for */
};
void store_stats(struct store *store, struct store_statistics *statistics);
/* live_bytes alone, for who asks often. */
uint64_t store_live_bytes(struct store *store);

/* Offline check, nothing open: slots, journal, control pages, catalog, and with deep every live object's checksum and
 * header. Calls report(context, line) for each fault; ENG_OK if none, else ENG_DAMAGED. */
ENG_MUST_CHECK enum eng_status store_check(struct disk *disk, const char *dir, bool deep,
                                           void (*report)(void *context, const char *line), void *context);
/* Offline: what the newest checkpoint says of the store. ENG_DAMAGED, ENG_VERSION: no slot is valid. */
struct store_facts {
    enum store_kind kind;
    uint8_t store_id[ENG_STORE_ID_BYTES];
    size_t app_bytes;
    uint8_t app_state[ENG_APP_STATE_BYTES_MAX];
};
ENG_MUST_CHECK enum eng_status store_facts(struct disk *disk, const char *dir, struct store_facts *facts);

#endif
