/*
 * Files and directories of the simulated disk: the current content and the stable one.
 *
 * Happy path of a file: the first change after it was stable keeps a copy of the stable content (sim_detach), changes
 * through calls widen a dirty range, and a sync copies that range. A file that was ever mapped is all dirty, because
 * stores through the map are not seen; its sync copies everything. So an image of a crash that is opened, recovered
 * and thrown away pays for a second copy of only those files that recovery changes.
 *
 * Happy path of a directory: every change is made to the current names and noted as pending; a sync copies the current
 * names to the stable ones and forgets the notes. The notes are what a crash takes a subset of.
 *
 * Invariants: bytes past the size of a file are zero in both contents; a name owns one reference to its node, a
 * pending change another; `live` counts current names and handles only, and a node that loses its last one gives its
 * size back to the disk at once although a stable name may still keep its bytes for a crash.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "disk_sim.h"

#if defined(__SANITIZE_THREAD__)
#define SIM_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIM_THREAD_SANITIZER 1
#endif
#endif

void *sim_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    if (memory == NULL) {
        fprintf(stderr, "simulated disk: out of memory (%zu bytes)\n", bytes);
        abort();
    }
    return memory;
}

char *sim_string(const char *text, size_t length)
{
    char *copy = sim_alloc(length + 1);
    memcpy(copy, text, length);
    return copy;
}

#ifdef SIM_THREAD_SANITIZER
/* Not memcpy: its interceptor would report the race with stores through a map that a real disk has as well. */
__attribute__((no_sanitize("thread"))) void sim_copy(void *to, const void *from, size_t length)
{
    volatile uint8_t *target = to;
    const volatile uint8_t *source = from;
    for (size_t i = 0; i < length; i++)
        target[i] = source[i];
}
#else
void sim_copy(void *to, const void *from, size_t length)
{
    if (length)
        memcpy(to, from, length);
}
#endif

/* Memory to use again. Fresh memory costs a page fault for every page touched, which is most of the time of an image.
 */
#define POOL_ENTRIES 16u
#define POOL_USED_MIN (16u << 10)
#define POOL_USED_MAX (4u << 20)
static struct {
    void *base;
    uint64_t bytes;
    bool mapped;
} pool[POOL_ENTRIES];
static pthread_mutex_t pool_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Zeroed memory of exactly this size, or NULL: not in the pool. */
static void *pool_take(uint64_t bytes, bool mapped)
{
    void *base = NULL;
    pthread_mutex_lock(&pool_mutex);
    for (unsigned i = 0; i < POOL_ENTRIES && base == NULL; i++) {
        if (pool[i].base && pool[i].bytes == bytes && pool[i].mapped == mapped) {
            base = pool[i].base;
            pool[i].base = NULL;
        }
    }
    pthread_mutex_unlock(&pool_mutex);
    return base;
}

/* used: bytes that may not be zero. false: the pool does not want it. */
static bool pool_give(void *base, uint64_t bytes, uint64_t used, bool mapped)
{
    bool taken = false;
    if (used < POOL_USED_MIN || used > POOL_USED_MAX)
        return false;
    memset(base, 0, used);
    pthread_mutex_lock(&pool_mutex);
    for (unsigned i = 0; i < POOL_ENTRIES && !taken; i++) {
        if (pool[i].base == NULL) {
            pool[i].base = base;
            pool[i].bytes = bytes;
            pool[i].mapped = mapped;
            taken = true;
        }
    }
    pthread_mutex_unlock(&pool_mutex);
    return taken;
}

uint8_t *sim_bytes_new(uint64_t bytes)
{
    uint8_t *base = bytes >= POOL_USED_MIN ? pool_take(bytes, false) : NULL;
    return base ? base : sim_alloc(bytes);
}

static void bytes_free(uint8_t *base, uint64_t bytes)
{
    if (base != NULL && !pool_give(base, bytes, bytes, false))
        free(base);
}

static void *map_new(uint64_t bytes)
{
    void *base = pool_take(bytes, true);
    if (base == NULL)
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base != MAP_FAILED ? base : NULL;
}

/* The memory of the current content. */
static void current_free(struct sim_node *node)
{
    if (node->map_bytes == 0)
        bytes_free(node->current, node->capacity);
    else if (!pool_give(node->current, node->map_bytes, node->map_used, true))
        munmap(node->current, node->map_bytes);
}

struct sim_node *sim_node_new(bool directory)
{
    struct sim_node *node = sim_alloc(sizeof *node);
    node->directory = directory;
    return node;
}

static void names_free(struct sim_disk *disk, struct sim_names *names, bool live)
{
    for (size_t i = 0; i < names->count; i++) {
        free(names->at[i].name);
        sim_node_unref(disk, names->at[i].node, live);
    }
    free(names->at);
    *names = (struct sim_names){0};
}

static void pending_clear(struct sim_disk *disk, struct sim_node *dir)
{
    for (size_t i = 0; i < dir->pending_count; i++) {
        free(dir->pending[i].name);
        free(dir->pending[i].to);
        sim_node_unref(disk, dir->pending[i].node, false);
    }
    dir->pending_count = 0;
}

static void node_free(struct sim_disk *disk, struct sim_node *node)
{
    names_free(disk, &node->names, true);
    names_free(disk, &node->stable_names, false);
    pending_clear(disk, node);
    free(node->pending);
    current_free(node);
    bytes_free(node->stable, node->stable_capacity);
    free(node);
}

void sim_node_ref(struct sim_node *node, bool live)
{
    node->refs++;
    node->live += live;
}

void sim_node_unref(struct sim_disk *disk, struct sim_node *node, bool live)
{
    assert(node->refs > 0 && node->live >= (unsigned)live);
    node->live -= live;
    if (live && node->live == 0)
        disk->used -= node->size;
    if (--node->refs == 0)
        node_free(disk, node);
}

/* Before the first change since the content was stable. */
static void sim_detach(struct sim_node *node)
{
    if (!node->clean)
        return;
    node->stable = sim_bytes_new(node->size);
    memcpy(node->stable, node->current, node->size);
    node->stable_size = node->stable_capacity = node->size;
    node->dirty_lo = node->dirty_hi = 0;
    node->clean = false;
}

static void mark_dirty(struct sim_node *node, uint64_t from, uint64_t to)
{
    if (node->dirty_lo == node->dirty_hi) {
        node->dirty_lo = from;
        node->dirty_hi = to;
        return;
    }
    if (from < node->dirty_lo)
        node->dirty_lo = from;
    if (to > node->dirty_hi)
        node->dirty_hi = to;
}

void sim_node_resize(struct sim_node *node, uint64_t size)
{
    sim_detach(node);
    if (size < node->size) {
        memset(node->current + size, 0, node->size - size);
        mark_dirty(node, size, node->size);
    } else if (size > node->capacity) {
        assert(node->map_bytes == 0);
        uint64_t capacity = size < 2 * node->capacity ? 2 * node->capacity : size;
        uint8_t *bytes = sim_bytes_new(capacity);
        if (node->size)
            memcpy(bytes, node->current, node->size);
        bytes_free(node->current, node->capacity);
        node->current = bytes;
        node->capacity = capacity;
    }
    node->size = size;
    if (size > node->map_used)
        node->map_used = size;
}

void sim_node_write(struct sim_node *node, uint64_t offset, const void *bytes, size_t length)
{
    sim_detach(node);
    if (offset + length > node->size)
        sim_node_resize(node, offset + length);
    if (length) {
        memcpy(node->current + offset, bytes, length);
        mark_dirty(node, offset, offset + length);
    }
}

void sim_node_zero(struct sim_node *node, uint64_t offset, uint64_t length)
{
    if (offset >= node->size || length == 0)
        return;
    if (length > node->size - offset)
        length = node->size - offset;
    sim_detach(node);
    memset(node->current + offset, 0, length);
    mark_dirty(node, offset, offset + length);
}

void sim_node_sync(struct sim_node *node)
{
    if (node->clean || (node->undecided && node->map_bytes))
        return; /* after a sync that failed only what is written again is dirty again */
    if (node->size > node->stable_capacity) {
        uint64_t capacity = node->size < 2 * node->stable_capacity ? 2 * node->stable_capacity : node->size;
        uint8_t *bytes = sim_bytes_new(capacity);
        if (node->stable_size)
            memcpy(bytes, node->stable, node->stable_size);
        bytes_free(node->stable, node->stable_capacity);
        node->stable = bytes;
        node->stable_capacity = capacity;
    }
    uint64_t from = node->map_bytes ? 0 : node->dirty_lo, to = node->map_bytes ? node->size : node->dirty_hi;
    if (to > node->size)
        to = node->size;
    if (from < to)
        sim_copy(node->stable + from, node->current + from, to - from);
    if (node->stable_size > node->size)
        memset(node->stable + node->size, 0, node->stable_size - node->size);
    node->stable_size = node->size;
    node->dirty_lo = node->dirty_hi = 0;
}

enum eng_status sim_node_map(struct sim_node *node, const char *path, uint64_t reserve_bytes, void **base)
{
    if (reserve_bytes < node->size)
        reserve_bytes = node->size;
    if (node->map_bytes < reserve_bytes) {
        if (node->maps > 0)
            return eng_fail(ENG_INVALID, "sim:/%s: mapped already, and shorter", path);
        sim_detach(node);
        void *map = map_new(reserve_bytes);
        if (map == NULL)
            return eng_fail(ENG_NO_MEMORY, "sim:/%s: mapping %llu bytes failed", path,
                            (unsigned long long)reserve_bytes);
        if (node->size)
            memcpy(map, node->current, node->size);
        current_free(node);
        node->current = map;
        node->map_used = node->size;
        node->capacity = node->map_bytes = reserve_bytes;
    }
    node->maps++;
    *base = node->current;
    return ENG_OK;
}

struct sim_node *sim_names_find(const struct sim_names *names, const char *name, size_t length)
{
    for (size_t i = 0; i < names->count; i++)
        if (strncmp(names->at[i].name, name, length) == 0 && names->at[i].name[length] == '\0')
            return names->at[i].node;
    return NULL;
}

/* Kept in byte order, as listing wants it. */
void sim_names_set(struct sim_names *names, const char *name, size_t length, struct sim_node *node)
{
    char *copy = sim_string(name, length);
    size_t i = 0;
    while (i < names->count && strcmp(names->at[i].name, copy) < 0)
        i++;
    assert(i == names->count || strcmp(names->at[i].name, copy) != 0);
    if (names->count == names->capacity) {
        names->capacity = names->capacity ? 2 * names->capacity : 4;
        struct sim_name *at = sim_alloc(names->capacity * sizeof *at);
        if (names->count)
            memcpy(at, names->at, names->count * sizeof *at);
        free(names->at);
        names->at = at;
    }
    memmove(names->at + i + 1, names->at + i, (names->count - i) * sizeof *names->at);
    names->at[i] = (struct sim_name){copy, node};
    names->count++;
}

void sim_names_erase(struct sim_names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->at[i].name, name) != 0)
            continue;
        free(names->at[i].name);
        memmove(names->at + i, names->at + i + 1, (names->count - i - 1) * sizeof *names->at);
        names->count--;
        return;
    }
    assert(!"no such name");
}

static void note(struct sim_node *dir, enum sim_change change, const char *name, const char *to, struct sim_node *node)
{
    if (dir->pending_count == dir->pending_capacity) {
        dir->pending_capacity = dir->pending_capacity ? 2 * dir->pending_capacity : 4;
        struct sim_pending *pending = sim_alloc(dir->pending_capacity * sizeof *pending);
        if (dir->pending_count)
            memcpy(pending, dir->pending, dir->pending_count * sizeof *pending);
        free(dir->pending);
        dir->pending = pending;
    }
    sim_node_ref(node, false);
    dir->pending[dir->pending_count++] =
        (struct sim_pending){change, sim_string(name, strlen(name)), to ? sim_string(to, strlen(to)) : NULL, node};
}

void sim_dir_link(struct sim_disk *disk, struct sim_node *dir, const char *name, struct sim_node *node)
{
    assert(sim_names_find(&dir->names, name, strlen(name)) == NULL);
    sim_names_set(&dir->names, name, strlen(name), node);
    sim_node_ref(node, true);
    note(dir, SIM_LINK, name, NULL, node);
}

void sim_dir_unlink(struct sim_disk *disk, struct sim_node *dir, const char *name)
{
    struct sim_node *node = sim_names_find(&dir->names, name, strlen(name));
    assert(node != NULL);
    note(dir, SIM_UNLINK, name, NULL, node);
    sim_names_erase(&dir->names, name);
    sim_node_unref(disk, node, true);
}

void sim_dir_rename(struct sim_disk *disk, struct sim_node *dir, const char *from, const char *to)
{
    struct sim_node *node = sim_names_find(&dir->names, from, strlen(from));
    struct sim_node *replaced = sim_names_find(&dir->names, to, strlen(to));
    assert(node != NULL && node != replaced);
    note(dir, SIM_RENAME, from, to, node);
    if (replaced) {
        sim_names_erase(&dir->names, to);
        sim_node_unref(disk, replaced, true);
    }
    sim_names_erase(&dir->names, from);
    sim_names_set(&dir->names, to, strlen(to), node);
}

void sim_dir_sync(struct sim_disk *disk, struct sim_node *dir)
{
    if (dir->pending_count == 0)
        return;
    struct sim_names stable = {0};
    for (size_t i = 0; i < dir->names.count; i++) {
        const struct sim_name *entry = &dir->names.at[i];
        sim_names_set(&stable, entry->name, strlen(entry->name), entry->node);
        sim_node_ref(entry->node, false);
    }
    names_free(disk, &dir->stable_names, false);
    dir->stable_names = stable;
    pending_clear(disk, dir);
}
