/*
 * Versions of a lineage, and what is freed when one is dropped.
 *
 * A lineage is a line of versions v0 < v1 < ...; each has the list of what died when it was made. An object born in b
 * that died in d is visible from the versions in [b, d). So an entry (id, b) on the list of a kept version v, whose
 * kept predecessor is u, is visible from u if b <= u.generation, and from nothing at all otherwise. Dropping v between
 * u and w (generation lists after dead snapshots, as in ZFS deadlists) therefore
 *
 *     frees of w's list what was born after u, and
 *     makes w's list = v's list + the rest of w's list.
 *
 * The rest is written into new chunks in front of v's chunks, which are not read. Dropping the oldest version leaves no
 * rest at all: all of its successor's list is freed. Either way every entry costs O(1), and no dead object is touched.
 *
 * A pinned version is only marked dropped; so is every version while a checkpoint computes checksums, because what
 * the checkpoint captured must stay where it is until then. versions_release, called by the next drop or commit, frees
 * what has become free. A version marked dropped can no longer be pinned.
 *
 * Ways to fail: a drop that must carry a rest needs a little space (ENG_FULL, ENG_NO_IDS, ENG_NO_MEMORY); a damaged
 * list is found before anything is freed (ENG_DAMAGED). The version then stays marked, and the next drop or commit
 * tries again. Everything else that can be freed is: other lineages, what is freed lazily, and after damage the later
 * versions of the same lineage.
 *
 * Invariants: tags and generations of a lineage ascend strictly; the newest version is never marked; releasable counts
 * the marked versions without pins.
 */
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "store_internal.h"

enum eng_status versions_init(struct store *store)
{
    store->versions.lineages = calloc(ENG_ROOTS_MAX, sizeof *store->versions.lineages);
    if (!store->versions.lineages)
        return eng_fail(ENG_NO_MEMORY, "%s: table of lineages: out of memory", store->dir);
    return ENG_OK;
}

void versions_close(struct store *store)
{
    for (uint32_t i = 0; store->versions.lineages && i < ENG_ROOTS_MAX; i++)
        free(store->versions.lineages[i].versions);
    free(store->versions.lineages);
}

static struct lineage *lineage_of(struct store *store, uint32_t lineage)
{
    assert(store->magic == STORE_MAGIC && lineage < ENG_ROOTS_MAX);
    return &store->versions.lineages[lineage];
}

/* Writes the newest version where store_head finds it. By the committing thread only. */
static void head_publish(struct lineage *line, const struct store_version *version)
{
    uint64_t words[HEAD_WORDS];
    memcpy(words, version, sizeof words);
    uint64_t sequence = atomic_load_explicit(&line->sequence, memory_order_relaxed);
    atomic_store_explicit(&line->sequence, sequence + 1, memory_order_relaxed);
    for (size_t i = 0; i < HEAD_WORDS; i++) /* release: who sees a new word sees the odd number too */
        atomic_store_explicit(&line->head[i], words[i], memory_order_release);
    /* release: partner of the acquire in store_head; publishes the version and all its objects */
    atomic_store_explicit(&line->sequence, sequence + 2, memory_order_release);
}

bool store_head(struct store *store, uint32_t lineage, struct store_version *version)
{
    struct lineage *line = lineage_of(store, lineage);
    uint64_t words[HEAD_WORDS], before, after;
    do {
        /* acquire: partner of the last store of head_publish */
        before = atomic_load_explicit(&line->sequence, memory_order_acquire);
        if (before == 0)
            return false;
        for (size_t i = 0; i < HEAD_WORDS; i++) /* acquire: partner of the release on each word; keeps the order too */
            words[i] = atomic_load_explicit(&line->head[i], memory_order_acquire);
        after = atomic_load_explicit(&line->sequence, memory_order_relaxed);
        if (before == 1)
            return false; /* the first version is being written */
    } while (before != after || (before & 1));
    memcpy(version, words, sizeof words);
    return true;
}

enum eng_status version_room(struct store *store, uint32_t lineage)
{
    struct lineage *line = lineage_of(store, lineage);
    if (line->first + line->count < line->capacity)
        return ENG_OK;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&store->versions.lock);
    if (line->first > line->capacity / 2) {
        memmove(line->versions, line->versions + line->first, line->count * sizeof *line->versions);
        line->first = 0;
    } else {
        size_t capacity = line->capacity ? line->capacity * 2 : 16;
        struct version *versions = realloc(line->versions, capacity * sizeof *versions);
        if (versions) {
            line->versions = versions;
            line->capacity = capacity;
        } else {
            status = eng_fail(ENG_NO_MEMORY, "%s: table of %zu versions: out of memory", store->dir, capacity);
        }
    }
    pthread_mutex_unlock(&store->versions.lock);
    return status;
}

void version_append(struct store *store, uint32_t lineage, const struct version *version)
{
    struct lineage *line = lineage_of(store, lineage);
    assert(line->first + line->count < line->capacity);
    struct version *end = line->versions + line->first + line->count;
    assert(line->count == 0 || end[-1].seen.tag < version->seen.tag);
    assert(line->count == 0 || end[-1].seen.generation < version->seen.generation);
    assert(version->seen.tag != STORE_HEAD);
    pthread_mutex_lock(&store->versions.lock);
    *end = *version;
    line->count++;
    store->versions.changed = true;
    pthread_mutex_unlock(&store->versions.lock);
    head_publish(line, &version->seen);
}

/* Index of the first version with at least this tag. Needs versions.lock, or to be the committing thread. */
static size_t version_search(const struct lineage *line, uint64_t tag)
{
    const struct version *versions = line->versions + line->first;
    size_t low = 0, high = line->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (versions[middle].seen.tag < tag)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct version *version_find(const struct lineage *line, uint64_t tag)
{
    size_t i = version_search(line, tag);
    struct version *version = line->versions + line->first + i;
    return i < line->count && version->seen.tag == tag ? version : NULL;
}

size_t store_versions(struct store *store, uint32_t lineage, struct store_version *versions, size_t max)
{
    struct lineage *line = lineage_of(store, lineage);
    size_t found = 0;
    pthread_mutex_lock(&store->versions.lock);
    for (size_t i = 0; i < line->count; i++) {
        const struct version *version = &line->versions[line->first + i];
        if (version->dropped)
            continue;
        if (found < max)
            versions[found] = version->seen;
        found++;
    }
    pthread_mutex_unlock(&store->versions.lock);
    return found;
}

enum eng_status store_pin(struct store *store, uint32_t lineage, uint64_t tag, struct store_version *version)
{
    struct lineage *line = lineage_of(store, lineage);
    struct version *found = NULL;
    bool future = true;
    pthread_mutex_lock(&store->versions.lock);
    if (line->count) {
        struct version *head = &line->versions[line->first + line->count - 1];
        found = tag == STORE_HEAD ? head : version_find(line, tag);
        future = tag != STORE_HEAD && tag > head->seen.tag;
        if (found && found->dropped)
            found = NULL;
        if (found) {
            if (!found->pins++)
                found->pinned_ms = clock_ms();
            *version = found->seen;
        }
    }
    pthread_mutex_unlock(&store->versions.lock);
    if (found)
        return ENG_OK;
    return eng_fail(future ? ENG_NOT_FOUND : ENG_GONE, "%s: lineage %u has no version with tag %llu%s", store->dir,
                    lineage, (unsigned long long)tag, future ? " yet" : " any more");
}

void store_pin_again(struct store *store, uint32_t lineage, uint64_t tag)
{
    pthread_mutex_lock(&store->versions.lock);
    struct version *found = version_find(lineage_of(store, lineage), tag);
    assert(found && found->pins > 0);
    found->pins++;
    pthread_mutex_unlock(&store->versions.lock);
}

/* A dropped version may have become releasable. Needs versions.lock. */
static void version_due(struct store *store, struct lineage *line, const struct version *version)
{
    if (version->pins)
        return;
    if (line->releasable++ == 0 || version->seen.tag < line->due)
        line->due = version->seen.tag;
    /* relaxed: only a hint; the count under the lock decides */
    atomic_fetch_add_explicit(&store->versions.releasable, 1, memory_order_relaxed);
}

void store_unpin(struct store *store, uint32_t lineage, uint64_t tag)
{
    struct lineage *line = lineage_of(store, lineage);
    assert(tag != STORE_HEAD); /* unpin the tag that store_pin returned */
    pthread_mutex_lock(&store->versions.lock);
    struct version *found = version_find(line, tag);
    assert(found && found->pins > 0);
    found->pins--;
    if (found->dropped)
        version_due(store, line, found);
    pthread_mutex_unlock(&store->versions.lock);
}

void version_mark(struct store *store, struct lineage *line, struct version *version)
{
    version->dropped = true;
    store->versions.changed = true;
    version_due(store, line, version);
}

bool version_sees(struct store *store, uint32_t lineage, uint64_t born, uint64_t died)
{
    struct lineage *line = lineage_of(store, lineage);
    struct version *versions = line->versions + line->first;
    size_t low = 0, high = line->count;
    while (low < high) { /* the first that is not older than born */
        size_t middle = low + (high - low) / 2;
        if (versions[middle].seen.generation < born)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == line->count || versions[low].seen.generation >= died)
        return false;
    versions[low].watched = true;
    return true;
}

/* ---- dropping ----------------------------------------------------------------------------------------------------*/

/* Takes version i out of the array. By the committing thread. */
static void version_remove(struct store *store, struct lineage *line, size_t i)
{
    struct version *versions = line->versions + line->first;
    pthread_mutex_lock(&store->versions.lock);
    assert(versions[i].dropped && versions[i].pins == 0 && i + 1 < line->count);
    store->reaper.look |= versions[i].watched;
    if (i < line->count / 2) {
        memmove(versions + 1, versions, i * sizeof *versions);
        line->first++;
    } else {
        memmove(versions + i, versions + i + 1, (line->count - i - 1) * sizeof *versions);
    }
    line->count--;
    line->releasable--;
    atomic_fetch_sub_explicit(&store->versions.releasable, 1, memory_order_relaxed);
    pthread_mutex_unlock(&store->versions.lock);
}

/* Frees what only version i of the lineage can see, and forgets it. */
static enum eng_status version_release(struct store *store, struct lineage *line, size_t i)
{
    struct version *version = &line->versions[line->first + i], *next = version + 1;
    enum eng_status status = list_check(store, next->list);
    if (status == ENG_OK && i == 0)
        status = list_check(store, version->list);
    if (status)
        return status;
    if (i == 0) {
        list_free(store, version->list, 0);
        list_free(store, next->list, 0);
        next->list = 0;
    } else {
        uint64_t before = version[-1].seen.generation;
        uint32_t list = version->list;
        bool all = false;
        status = list_carry(store, next->list, before, &list, &all);
        if (status)
            return status;
        if (!all) {
            list_free(store, next->list, before);
            next->list = list;
        }
    }
    version_remove(store, line, i);
    return ENG_OK;
}

/* Index of the first releasable version from this index on; false if there is none. */
static bool lineage_due(struct store *store, struct lineage *line, size_t from, size_t *index)
{
    bool found = false;
    pthread_mutex_lock(&store->versions.lock);
    size_t i = line->releasable ? version_search(line, line->due) : line->count;
    i = i < from ? from : i;
    for (; i + 1 < line->count && !found; i++) {
        const struct version *version = &line->versions[line->first + i];
        found = version->dropped && version->pins == 0;
        if (found) {
            *index = i;
            if (from == 0)
                line->due = version->seen.tag;
        }
    }
    pthread_mutex_unlock(&store->versions.lock);
    return found;
}

/* A version with a damaged list stays, and those behind it are dropped as behind one that is kept. */
static void lineage_release(struct store *store, struct lineage *line, struct failure *failure)
{
    bool on = true;
    for (size_t i, from = 0; on && lineage_due(store, line, from, &i);) {
        enum eng_status status = version_release(store, line, i);
        from = status == ENG_OK ? i : i + 1;
        on = failure_note(failure, status);
    }
}

enum eng_status versions_release(struct store *store)
{
    assert(store->open == 0);
    if (!atomic_load_explicit(&store->versions.releasable, memory_order_relaxed))
        return ENG_OK;
    /* acquire: partner of the release in checkpoint_make; the checksums are written */
    if (atomic_load_explicit(&store->checkpoint.checksumming, memory_order_acquire))
        return ENG_OK;
    struct failure failure = {.status = ENG_OK};
    struct reader *reader = &store->readers.slots[READER_WRITER];
    reader_enter(reader); /* the compactor may move the lists we read */
    for (uint32_t i = 0; i < ENG_ROOTS_MAX; i++)
        if (store->versions.lineages[i].count > 1)
            lineage_release(store, &store->versions.lineages[i], &failure);
    reader_leave(reader);
    return failure_again(&failure);
}

enum eng_status store_free_dropped(struct store *store)
{
    struct failure failure = {.status = ENG_OK};
    failure_note(&failure, versions_release(store));
    failure_note(&failure, store_reap(store, REAP_STEP, NULL));
    maintenance_cooled(store);
    return failure_again(&failure);
}

enum eng_status store_drop(struct store *store, uint32_t lineage, uint64_t tag)
{
    struct lineage *line = lineage_of(store, lineage);
    assert(store->open == 0);
    pthread_mutex_lock(&store->versions.lock);
    struct version *found = version_find(line, tag);
    if (found && found->dropped)
        found = NULL;
    bool head = found && found == &line->versions[line->first + line->count - 1];
    if (found && !head)
        version_mark(store, line, found);
    pthread_mutex_unlock(&store->versions.lock);
    if (!found)
        return eng_fail(ENG_NOT_FOUND, "%s: lineage %u has no version with tag %llu to drop", store->dir, lineage,
                        (unsigned long long)tag);
    if (head)
        return eng_fail(ENG_INVALID, "%s: lineage %u: the newest version (tag %llu) cannot be dropped", store->dir,
                        lineage, (unsigned long long)tag);
    return store_free_dropped(store);
}

bool store_mark_below(struct store *store, uint32_t lineage, uint64_t tag)
{
    struct lineage *line = lineage_of(store, lineage);
    bool some = false;
    assert(store->open == 0);
    pthread_mutex_lock(&store->versions.lock);
    for (size_t i = 0; i + 1 < line->count; i++) {
        struct version *version = &line->versions[line->first + i];
        if (version->seen.tag >= tag)
            break;
        if (version->dropped)
            continue;
        version_mark(store, line, version);
        some = true;
    }
    pthread_mutex_unlock(&store->versions.lock);
    return some;
}

enum eng_status store_drop_below(struct store *store, uint32_t lineage, uint64_t tag)
{
    store_mark_below(store, lineage, tag);
    return store_free_dropped(store);
}
