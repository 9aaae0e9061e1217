/* Kept versions and pins (version.c), their death lists (deathlist.c), the catalog of them (catalog.c). */
#ifndef ENGINE_VERSION_H
#define ENGINE_VERSION_H

#include <pthread.h>

#include "arena.h"
#include "store.h"

#define HEAD_WORDS (sizeof(struct store_version) / 8)

struct version {
    struct store_version seen;
    uint32_t list; /* head of the death list, 0: empty */
    uint32_t pins;
    uint64_t pinned_ms; /* clock_ms when it got the first of them */
    bool dropped;       /* waits for its pins, or for a checkpoint to finish its checksums */
    bool watched;       /* something waits in the reaper until it goes; the committing thread's */
};

struct lineage {
    struct version *versions; /* [first, first + count), tags and generations ascend */
    size_t first, count, capacity;
    size_t releasable;                 /* dropped and without pins */
    uint64_t due;                      /* no releasable version has a lower tag */
    _Atomic uint64_t sequence;         /* of the head, odd while it is written, 0: none yet */
    _Atomic uint64_t head[HEAD_WORDS]; /* struct store_version, for store_head */
};

struct versions {
    pthread_mutex_t
        lock; /* pins, dropped, releasable, the shape of the arrays; only the committing thread changes these */
    _Atomic uint64_t releasable;
    bool changed;             /* since the last capture; the committing thread's */
    struct lineage *lineages; /* ENG_ROOTS_MAX */
};

/* A chunk of a death list. */
#define LIST_ENTRY_BYTES 12u
struct list_chunk {
    struct object object;
    uint32_t next, count;
    uint8_t entries[]; /* count times {u32 id, u64 born}, packed */
};
_Static_assert(sizeof(struct list_chunk) == 32, "on disk");

static inline struct death list_entry(const uint8_t *entries, size_t i)
{
    struct death death;
    __builtin_memcpy(&death.id, entries + i * LIST_ENTRY_BYTES, 4);
    __builtin_memcpy(&death.born, entries + i * LIST_ENTRY_BYTES + 4, 8);
    return death;
}

ENG_MUST_CHECK enum eng_status versions_init(struct store *store);
void versions_close(struct store *store);
/* Room for one more version, so that version_append cannot fail. */
ENG_MUST_CHECK enum eng_status version_room(struct store *store, uint32_t lineage);
/* Appends and publishes. */
void version_append(struct store *store, uint32_t lineage, const struct version *version);
/* Frees versions that are dropped and unpinned, as far as that is possible now. Between generations. What cannot be
 * freed holds up nothing else: the worst of the failures comes at the end. */
ENG_MUST_CHECK enum eng_status versions_release(struct store *store);

/* Is a version of this lineage kept whose generation is in [born, died)? The oldest is watched then: when it goes the
 * reaper looks again. By the committing thread. */
bool version_sees(struct store *store, uint32_t lineage, uint64_t born, uint64_t died);

/* Prepends deaths to the list *head, in the arena's generation. On error the caller undoes the generation. */
ENG_MUST_CHECK enum eng_status list_prepend(struct arena *arena, const struct death *deaths, size_t count,
                                            uint32_t *head);

/* Every chunk of a list can be read. ENG_DAMAGED names the chunk. */
ENG_MUST_CHECK enum eng_status list_check(struct store *store, uint32_t head);
/* Frees the chunks and the entries born after generation above. The list was checked. */
void list_free(struct store *store, uint32_t head, uint64_t above);
/* Puts the entries born at or before a generation in front of *head. Opens and closes a generation if it needs new
 * chunks. *all: those are all entries there are, and *head was empty; nothing was written. The list was checked. */
ENG_MUST_CHECK enum eng_status list_carry(struct store *store, uint32_t list, uint64_t until, uint32_t *head,
                                          bool *all);

/* Marks a version dropped. Needs versions.lock. */
void version_mark(struct store *store, struct lineage *line, struct version *version);

/* The catalog: all versions of all lineages, as in a checkpoint. */
enum {
    CATALOG_KEPT = 0,
    CATALOG_DROPPED = 1,
    CATALOG_FALL = 2,
    CATALOG_BASE = 3,
    CATALOG_RELEASE = 4,
    CATALOG_LOST = 5,
    CATALOG_KINDS
};
struct catalog_entry {
    uint32_t lineage, kind; /* the meaning of the rest for the last four kinds: catalog.c */
    uint64_t generation, tag;
    uint32_t root, list;
    struct eng_summary summary;
};
_Static_assert(sizeof(struct catalog_entry) == 96, "on disk");

/* *bytes is malloced; the caller frees. */
/* Entries it has now. By the committing thread. */
size_t catalog_count(const struct store *store);
ENG_MUST_CHECK enum eng_status catalog_encode(struct store *store, uint8_t **bytes, size_t *length);
ENG_MUST_CHECK enum eng_status catalog_load(struct store *store, const uint8_t *bytes, size_t length, const char *path);

#endif
