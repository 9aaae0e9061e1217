/*
 * The simulated disk: a directory tree in memory behind the disk seam, for crash and failure tests.
 *
 * Happy path: calls work on the current content of nodes (disk_sim_node.c); disk_sync and disk_sync_dir make it stable;
 * disk_sim_crash (disk_sim_crash.c) builds what a power loss would leave. Nothing reads a clock or a random source:
 * the same calls give the same disk.
 *
 * Every call that changes something or makes it stable goes through change_begin: it is numbered, the watcher is
 * called (without the mutex, so that it may build images or look at files), and a failure armed by disk_sim_fail
 * strikes. What a struck call leaves:
 *
 *   write              half of its bytes
 *   sync               the kernel has marked the pages clean: all that changed since the last good sync stays
 *                      undecided, whatever is synced later, unless it is written again; if it is mapped, for ever
 *   sync_dir, others   nothing
 *
 * Ways to fail otherwise: ENG_FULL over the capacity, which counts sizes of files that have a name or a handle;
 * ENG_NOT_FOUND, ENG_EXISTS; ENG_IO reading past the end; running out of memory ends the process.
 *
 * Locks: disk_lock creates the file and always succeeds, as one process owns the whole disk.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "disk_sim.h"

static const struct disk_backing sim_backing;

static struct sim_disk *sim_disk(struct disk *disk)
{
    assert(disk->magic == DISK_MAGIC && disk->backing == &sim_backing);
    return (struct sim_disk *)disk;
}

static struct sim_node *file_node(struct disk_file *file)
{
    return ((struct sim_file *)file)->node;
}

/* Numbers a changing call, lets the watcher see it, takes the mutex. Not ENG_OK: the call is to fail with this. */
static enum eng_status change_begin(struct sim_disk *self, const char *path, const char *what)
{
    pthread_mutex_lock(&self->mutex);
    uint64_t n = self->calls++;
    void (*watch)(void *, struct disk *, uint64_t) = self->watch;
    void *context = self->watch_context;
    if (watch) {
        pthread_mutex_unlock(&self->mutex);
        watch(context, &self->base, n);
        pthread_mutex_lock(&self->mutex);
    }
    if (self->fail_status == ENG_OK || self->fail_at != n)
        return ENG_OK;
    enum eng_status status = self->fail_status;
    self->fail_status = ENG_OK;
    return eng_fail(status, "sim:/%s: %s: failed as told (call %llu)", path, what, (unsigned long long)n);
}

static enum eng_status change_end(struct sim_disk *self, enum eng_status status)
{
    pthread_mutex_unlock(&self->mutex);
    return status;
}

/* The directory a path lies in and the last part of the path; NULL if there is none. */
static struct sim_node *find_parent(struct sim_disk *self, const char *path, const char **last)
{
    struct sim_node *node = self->root;
    for (;;) {
        size_t n = strcspn(path, "/");
        if (path[n] == '\0')
            break;
        node = sim_names_find(&node->names, path, n);
        if (node == NULL || !node->directory)
            return NULL;
        path += n + 1;
    }
    *last = path;
    return node;
}

static struct sim_node *find_node(struct sim_disk *self, const char *path)
{
    if (path[0] == '\0')
        return self->root;
    const char *last;
    struct sim_node *parent = find_parent(self, path, &last);
    return parent ? sim_names_find(&parent->names, last, strlen(last)) : NULL;
}

static enum eng_status not_found(const char *path)
{
    return eng_fail(ENG_NOT_FOUND, "sim:/%s: no such file or directory", path);
}

/* mutex held; checks the capacity before a node grows to size */
static enum eng_status take_space(struct sim_disk *self, struct sim_node *node, const char *path, uint64_t size)
{
    if (size <= node->size)
        return ENG_OK;
    uint64_t more = size - node->size;
    if (self->capacity && (self->used > self->capacity || more > self->capacity - self->used))
        return eng_fail(ENG_FULL, "sim:/%s: %llu more bytes: the disk is full", path, (unsigned long long)more);
    if (node->map_bytes && size > node->map_bytes)
        return eng_fail(ENG_INVALID, "sim:/%s: %llu bytes: larger than its map", path, (unsigned long long)size);
    self->used += more;
    return ENG_OK;
}

static enum eng_status create(struct sim_disk *self, const char *path, bool directory)
{
    enum eng_status status = change_begin(self, path, directory ? "mkdir" : "create");
    const char *last = NULL;
    struct sim_node *parent = find_parent(self, path, &last);
    if (status == ENG_OK && parent == NULL)
        status = not_found(path);
    if (status == ENG_OK && sim_names_find(&parent->names, last, strlen(last)) == NULL)
        sim_dir_link(self, parent, last, sim_node_new(directory));
    return change_end(self, status);
}

static struct sim_node *find_locked(struct sim_disk *self, const char *path)
{
    pthread_mutex_lock(&self->mutex);
    struct sim_node *node = find_node(self, path);
    pthread_mutex_unlock(&self->mutex);
    return node;
}

static enum eng_status sim_open(struct disk *disk, const char *path, int flags, struct disk_file **file)
{
    struct sim_disk *self = sim_disk(disk);
    bool present = find_locked(self, path) != NULL;
    if (present && (flags & DISK_EXCLUSIVE))
        return eng_fail(ENG_EXISTS, "sim:/%s: create: it is there", path);
    if (!present && (flags & DISK_CREATE)) {
        enum eng_status status = create(self, path, false);
        if (status != ENG_OK)
            return status;
    }
    struct sim_file *handle = sim_alloc(sizeof *handle);
    enum eng_status status = disk_file_init(&handle->base, disk, path, flags);
    pthread_mutex_lock(&self->mutex);
    struct sim_node *node = find_node(self, path);
    if (status == ENG_OK && node == NULL)
        status = not_found(path);
    if (status == ENG_OK && node->directory)
        status = eng_fail(ENG_IO, "sim:/%s: open: is a directory", path);
    if (status == ENG_OK) {
        sim_node_ref(node, true);
        handle->node = node;
        self->handles++;
        *file = &handle->base;
    }
    pthread_mutex_unlock(&self->mutex);
    if (status != ENG_OK) {
        disk_file_fini(&handle->base);
        free(handle);
    }
    return status;
}

static void sim_file_close(struct disk_file *file)
{
    struct sim_disk *self = sim_disk(file->disk);
    struct sim_file *handle = (struct sim_file *)file;
    pthread_mutex_lock(&self->mutex);
    handle->node->maps -= file->mapped;
    sim_node_unref(self, handle->node, true);
    self->handles--;
    pthread_mutex_unlock(&self->mutex);
    disk_file_fini(file);
    free(handle);
}

static enum eng_status sim_size(struct disk_file *file, uint64_t *size_bytes)
{
    struct sim_disk *self = sim_disk(file->disk);
    pthread_mutex_lock(&self->mutex);
    *size_bytes = file_node(file)->size;
    pthread_mutex_unlock(&self->mutex);
    return ENG_OK;
}

static enum eng_status sim_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length)
{
    struct sim_disk *self = sim_disk(file->disk);
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&self->mutex);
    struct sim_node *node = file_node(file);
    if (offset + length > node->size)
        status = eng_fail(ENG_IO, "sim:/%s: read of %zu bytes at %llu: past the end", file->path, length,
                          (unsigned long long)offset);
    else if (length)
        sim_copy(bytes, node->current + offset, length);
    pthread_mutex_unlock(&self->mutex);
    return status;
}

static enum eng_status sim_write(struct disk_file *file, uint64_t offset, const void *bytes, size_t length)
{
    struct sim_disk *self = sim_disk(file->disk);
    struct sim_node *node = file_node(file);
    enum eng_status struck = change_begin(self, file->path, "write");
    if (struck != ENG_OK)
        length /= 2;
    enum eng_status status = length ? take_space(self, node, file->path, offset + length) : ENG_OK;
    if (status == ENG_OK)
        sim_node_write(node, offset, bytes, length);
    return change_end(self, struck != ENG_OK ? struck : status);
}

static enum eng_status sim_sync(struct disk_file *file)
{
    struct sim_disk *self = sim_disk(file->disk);
    struct sim_node *node = file_node(file);
    enum eng_status status = change_begin(self, file->path, "sync");
    if (status == ENG_OK)
        sim_node_sync(node);
    else if (!node->clean) {
        node->undecided = true;
        node->dirty_lo = node->dirty_hi = 0; /* pages count as clean, and need not be on the disk */
    }
    return change_end(self, status);
}

/* Nothing is stable by this: what was written and not synced may be in an image of a crash at any time. */
static enum eng_status sim_write_back(struct disk_file *file)
{
    struct sim_disk *self = sim_disk(file->disk);
    return change_end(self, change_begin(self, file->path, "start writing"));
}

static enum eng_status sim_extend(struct disk_file *file, uint64_t size_bytes)
{
    struct sim_disk *self = sim_disk(file->disk);
    struct sim_node *node = file_node(file);
    enum eng_status status = change_begin(self, file->path, "extend");
    if (status == ENG_OK && size_bytes > node->size) {
        status = take_space(self, node, file->path, size_bytes);
        if (status == ENG_OK)
            sim_node_resize(node, size_bytes);
    }
    return change_end(self, status);
}

static enum eng_status sim_reserve(struct disk_file *file, uint64_t offset, uint64_t length)
{
    struct sim_disk *self = sim_disk(file->disk);
    enum eng_status status = change_begin(self, file->path, "reserve");
    if (status == ENG_OK && offset + length > file_node(file)->size)
        status = eng_fail(ENG_INVALID, "sim:/%s: reserving past the end", file->path);
    return change_end(self, status);
}

static enum eng_status sim_truncate(struct disk_file *file, uint64_t size_bytes)
{
    struct sim_disk *self = sim_disk(file->disk);
    struct sim_node *node = file_node(file);
    enum eng_status status = change_begin(self, file->path, "truncate");
    if (status == ENG_OK && size_bytes != node->size) {
        status = take_space(self, node, file->path, size_bytes);
        if (status == ENG_OK) {
            if (size_bytes < node->size)
                self->used -= node->size - size_bytes;
            sim_node_resize(node, size_bytes);
        }
    }
    return change_end(self, status);
}

static enum eng_status sim_punch(struct disk_file *file, uint64_t offset, uint64_t length)
{
    struct sim_disk *self = sim_disk(file->disk);
    enum eng_status status = change_begin(self, file->path, "punch");
    if (status == ENG_OK)
        sim_node_zero(file_node(file), offset, length);
    return change_end(self, status);
}

static enum eng_status sim_map(struct disk_file *file, uint64_t reserve_bytes, void **base)
{
    struct sim_disk *self = sim_disk(file->disk);
    pthread_mutex_lock(&self->mutex);
    enum eng_status status = sim_node_map(file_node(file), file->path, reserve_bytes, base);
    pthread_mutex_unlock(&self->mutex);
    return status;
}

static enum eng_status sim_protect(struct disk_file *file, uint64_t offset, uint64_t length, bool read_only)
{
    return ENG_OK;
}

static enum eng_status sim_pin(struct disk_file *file, uint64_t offset, uint64_t length, bool pinned)
{
    struct sim_disk *self = sim_disk(file->disk);
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&self->mutex);
    uint64_t *held = &((struct sim_file *)file)->pinned;
    if (pinned && *held + length > self->pin_limit)
        status = eng_fail(ENG_NO_MEMORY, "sim:/%s: lock %llu bytes at offset %llu in memory: over the limit of %llu",
                          file->path, (unsigned long long)length, (unsigned long long)offset,
                          (unsigned long long)self->pin_limit);
    else
        *held += pinned ? length : -length;
    pthread_mutex_unlock(&self->mutex);
    return status;
}

static enum eng_status sim_mkdir(struct disk *disk, const char *path)
{
    struct sim_disk *self = sim_disk(disk);
    struct sim_node *node = find_locked(self, path);
    if (node != NULL && !node->directory)
        return eng_fail(ENG_EXISTS, "sim:/%s: mkdir: a file has this name", path);
    return node ? ENG_OK : create(self, path, true);
}

static enum eng_status sim_rename(struct disk *disk, const char *from, const char *to)
{
    struct sim_disk *self = sim_disk(disk);
    enum eng_status status = change_begin(self, from, "rename");
    const char *from_last = from, *to_last = to;
    struct sim_node *parent = find_parent(self, from, &from_last);
    find_parent(self, to, &to_last);
    if (status == ENG_OK && (parent == NULL || sim_names_find(&parent->names, from_last, strlen(from_last)) == NULL))
        status = not_found(from);
    if (status == ENG_OK && strcmp(from_last, to_last) != 0)
        sim_dir_rename(self, parent, from_last, to_last);
    return change_end(self, status);
}

static enum eng_status sim_remove(struct disk *disk, const char *path)
{
    struct sim_disk *self = sim_disk(disk);
    enum eng_status status = change_begin(self, path, "remove");
    const char *last = path;
    struct sim_node *parent = find_parent(self, path, &last);
    struct sim_node *node = parent ? sim_names_find(&parent->names, last, strlen(last)) : NULL;
    if (status == ENG_OK && node == NULL)
        status = not_found(path);
    if (status == ENG_OK && node->names.count > 0)
        status = eng_fail(ENG_IO, "sim:/%s: remove: the directory is not empty", path);
    if (status == ENG_OK)
        sim_dir_unlink(self, parent, last);
    return change_end(self, status);
}

static enum eng_status sim_sync_dir(struct disk *disk, const char *path)
{
    struct sim_disk *self = sim_disk(disk);
    enum eng_status status = change_begin(self, path, "sync of the directory");
    struct sim_node *node = find_node(self, path);
    if (status == ENG_OK && (node == NULL || !node->directory))
        status = not_found(path);
    if (status == ENG_OK)
        sim_dir_sync(self, node);
    return change_end(self, status);
}

static enum eng_status sim_list(struct disk *disk, const char *path, disk_list_each *each, void *context)
{
    struct sim_disk *self = sim_disk(disk);
    pthread_mutex_lock(&self->mutex);
    struct sim_node *node = find_node(self, path);
    if (node == NULL || !node->directory) {
        pthread_mutex_unlock(&self->mutex);
        return not_found(path);
    }
    size_t count = node->names.count;
    char **names = sim_alloc(count * sizeof *names);
    for (size_t i = 0; i < count; i++)
        names[i] = sim_string(node->names.at[i].name, strlen(node->names.at[i].name));
    pthread_mutex_unlock(&self->mutex);
    for (size_t i = 0; i < count; i++) { /* without the mutex: each() may use the disk */
        each(context, names[i]);
        free(names[i]);
    }
    free(names);
    return ENG_OK;
}

static bool sim_exists(struct disk *disk, const char *path)
{
    return find_locked(sim_disk(disk), path) != NULL;
}

static enum eng_status sim_lock(struct disk *disk, const char *path)
{
    struct sim_disk *self = sim_disk(disk);
    return find_locked(self, path) ? ENG_OK : create(self, path, false);
}

static void sim_close(struct disk *disk)
{
    struct sim_disk *self = sim_disk(disk);
    assert(self->handles == 0);
    sim_node_unref(self, self->root, true);
    pthread_mutex_destroy(&self->mutex);
    disk_fini(disk);
    free(self);
}

static const struct disk_backing sim_backing = {
    .close = sim_close,
    .open = sim_open,
    .mkdir = sim_mkdir,
    .rename = sim_rename,
    .remove = sim_remove,
    .sync_dir = sim_sync_dir,
    .list = sim_list,
    .exists = sim_exists,
    .lock = sim_lock,
    .file_close = sim_file_close,
    .size = sim_size,
    .read = sim_read,
    .write = sim_write,
    .sync = sim_sync,
    .write_back = sim_write_back,
    .extend = sim_extend,
    .reserve = sim_reserve,
    .truncate = sim_truncate,
    .punch = sim_punch,
    .map = sim_map,
    .protect = sim_protect,
    .pin = sim_pin,
};

struct sim_disk *sim_disk_new(uint64_t capacity, struct sim_node *root)
{
    struct sim_disk *self = sim_alloc(sizeof *self);
    if (disk_init(&self->base, &sim_backing, "sim:") != ENG_OK)
        abort();
    pthread_mutex_init(&self->mutex, NULL);
    self->capacity = capacity;
    self->pin_limit = UINT64_MAX;
    self->root = root;
    sim_node_ref(root, true);
    return self;
}

void disk_sim_pin_limit(struct disk *disk, uint64_t bytes)
{
    struct sim_disk *self = sim_disk(disk);
    pthread_mutex_lock(&self->mutex);
    self->pin_limit = bytes;
    pthread_mutex_unlock(&self->mutex);
}

enum eng_status disk_sim_open(uint64_t capacity_bytes, struct disk **disk)
{
    *disk = &sim_disk_new(capacity_bytes, sim_node_new(true))->base;
    return ENG_OK;
}

uint64_t disk_sim_calls(const struct disk *disk)
{
    struct sim_disk *self = sim_disk((struct disk *)(uintptr_t)disk);
    pthread_mutex_lock(&self->mutex);
    uint64_t calls = self->calls;
    pthread_mutex_unlock(&self->mutex);
    return calls;
}

void disk_sim_watch(struct disk *disk, void (*before)(void *context, struct disk *disk, uint64_t n), void *context)
{
    struct sim_disk *self = sim_disk(disk);
    pthread_mutex_lock(&self->mutex);
    self->watch = before;
    self->watch_context = context;
    pthread_mutex_unlock(&self->mutex);
}

void disk_sim_fail(struct disk *disk, uint64_t n, enum eng_status status)
{
    struct sim_disk *self = sim_disk(disk);
    pthread_mutex_lock(&self->mutex);
    self->fail_at = self->calls + n;
    self->fail_status = status;
    pthread_mutex_unlock(&self->mutex);
}

enum eng_status disk_sim_flip(struct disk *disk, const char *path, uint64_t bit)
{
    struct sim_disk *self = sim_disk(disk);
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&self->mutex);
    struct sim_node *node = find_node(self, path);
    if (node == NULL || node->directory)
        status = not_found(path);
    else if (bit / 8 >= node->size)
        status = eng_fail(ENG_INVALID, "sim:/%s: bit %llu: past the end", path, (unsigned long long)bit);
    if (status == ENG_OK) {
        uint8_t mask = (uint8_t)(1u << bit % 8);
        node->current[bit / 8] ^= mask;
        if (!node->clean && bit / 8 < node->stable_size)
            node->stable[bit / 8] ^= mask;
    }
    pthread_mutex_unlock(&self->mutex);
    return status;
}
