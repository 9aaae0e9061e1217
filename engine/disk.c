/*
 * The disk seam: argument checks and dispatch to the backing (disk_posix.c, disk_sim.c).
 *
 * Happy path: disk_posix_open or disk_sim_open makes a struct disk whose table of functions every call here goes
 * through. Both backings therefore see the same, already checked arguments, and a caller cannot do to one what the
 * other would refuse.
 *
 * Checked here, answered with ENG_INVALID: paths that are absolute, empty, too long or contain "." or ".." parts;
 * renames from one directory to another (only a rename inside one directory is atomic with one disk_sync_dir, so
 * recovery could not rely on any other). Asserted here, because only a programming error can cause them: dead or
 * foreign handles, writing through a handle opened to read, mapping a file twice, unaligned ranges to protect or punch.
 *
 * Invariant: no function here touches errno-style state or retries; one call here is one call of the backing.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "disk_backing.h"

#define PAGE_BYTES 4096u

enum eng_status disk_init(struct disk *disk, const struct disk_backing *backing, const char *root)
{
    disk->magic = DISK_MAGIC;
    disk->backing = backing;
    disk->root = strdup(root);
    return disk->root ? ENG_OK : eng_fail(ENG_NO_MEMORY, "%s: out of memory opening it", root);
}

void disk_fini(struct disk *disk)
{
    disk->magic = 0;
    free(disk->root);
}

enum eng_status disk_file_init(struct disk_file *file, struct disk *disk, const char *path, int flags)
{
    file->magic = DISK_FILE_MAGIC;
    file->disk = disk;
    file->writable = (flags & (DISK_WRITE | DISK_CREATE)) != 0;
    file->mapped = false;
    file->path = strdup(path);
    return file->path ? ENG_OK : eng_fail(ENG_NO_MEMORY, "%s: out of memory opening it", path);
}

void disk_file_fini(struct disk_file *file)
{
    file->magic = 0;
    free(file->path);
}

static const struct disk_backing *backing_of(const struct disk *disk)
{
    assert(disk != NULL && disk->magic == DISK_MAGIC);
    return disk->backing;
}

static const struct disk_backing *file_backing(const struct disk_file *file)
{
    assert(file != NULL && file->magic == DISK_FILE_MAGIC);
    return backing_of(file->disk);
}

/* Relative, not empty, no empty, "." or ".." part, short enough. */
static enum eng_status check_path(const char *path)
{
    assert(path != NULL);
    size_t length = strlen(path);
    if (length == 0 || length >= DISK_PATH_BYTES_MAX)
        return eng_fail(ENG_INVALID, "\"%.64s\": a path has 1 to %u bytes", path, DISK_PATH_BYTES_MAX - 1);
    for (const char *part = path;;) {
        size_t n = strcspn(part, "/");
        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return eng_fail(ENG_INVALID, "\"%s\": not a plain relative path", path);
        if (part[n] == '\0')
            return ENG_OK;
        part += n + 1;
    }
}

static size_t parent_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

void disk_close(struct disk **disk)
{
    if (*disk == NULL)
        return;
    backing_of(*disk)->close(*disk);
    *disk = NULL;
}

const char *disk_root(const struct disk *disk)
{
    assert(disk->magic == DISK_MAGIC);
    return disk->root;
}

enum eng_status disk_open(struct disk *disk, const char *path, int flags, struct disk_file **file)
{
    *file = NULL;
    assert((flags & ~(DISK_WRITE | DISK_CREATE | DISK_EXCLUSIVE)) == 0);
    assert(!(flags & DISK_EXCLUSIVE) || (flags & DISK_CREATE));
    enum eng_status status = check_path(path);
    return status != ENG_OK ? status : backing_of(disk)->open(disk, path, flags, file);
}

void disk_file_close(struct disk_file **file)
{
    if (*file == NULL)
        return;
    file_backing(*file)->file_close(*file);
    *file = NULL;
}

const char *disk_file_path(const struct disk_file *file)
{
    assert(file->magic == DISK_FILE_MAGIC);
    return file->path;
}

enum eng_status disk_size(struct disk_file *file, uint64_t *size_bytes)
{
    return file_backing(file)->size(file, size_bytes);
}

enum eng_status disk_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length)
{
    assert(offset + length >= offset);
    return file_backing(file)->read(file, offset, bytes, length);
}

enum eng_status disk_write(struct disk_file *file, uint64_t offset, const void *bytes, size_t length)
{
    assert(file->writable && offset + length >= offset);
    return file_backing(file)->write(file, offset, bytes, length);
}

enum eng_status disk_sync(struct disk_file *file)
{
    return file_backing(file)->sync(file);
}

enum eng_status disk_write_back(struct disk_file *file)
{
    return file_backing(file)->write_back(file);
}

enum eng_status disk_extend(struct disk_file *file, uint64_t size_bytes)
{
    assert(file->writable);
    return file_backing(file)->extend(file, size_bytes);
}

enum eng_status disk_reserve(struct disk_file *file, uint64_t offset, uint64_t length)
{
    assert(file->writable && offset + length >= offset);
    return file_backing(file)->reserve(file, offset, length);
}

enum eng_status disk_truncate(struct disk_file *file, uint64_t size_bytes)
{
    assert(file->writable);
    return file_backing(file)->truncate(file, size_bytes);
}

enum eng_status disk_punch(struct disk_file *file, uint64_t offset, uint64_t length)
{
    assert(file->writable && offset % PAGE_BYTES == 0 && length % PAGE_BYTES == 0 && offset + length >= offset);
    return file_backing(file)->punch(file, offset, length);
}

enum eng_status disk_map(struct disk_file *file, uint64_t reserve_bytes, void **base)
{
    const struct disk_backing *backing = file_backing(file);
    assert(!file->mapped && reserve_bytes > 0);
    enum eng_status status = backing->map(file, reserve_bytes, base);
    file->mapped = status == ENG_OK;
    return status;
}

enum eng_status disk_protect(struct disk_file *file, uint64_t offset, uint64_t length, bool read_only)
{
    const struct disk_backing *backing = file_backing(file);
    assert(file->mapped && offset % PAGE_BYTES == 0 && length % PAGE_BYTES == 0);
    return backing->protect(file, offset, length, read_only);
}

enum eng_status disk_pin(struct disk_file *file, uint64_t offset, uint64_t length, bool pinned)
{
    const struct disk_backing *backing = file_backing(file);
    assert(file->mapped && offset % PAGE_BYTES == 0 && length % PAGE_BYTES == 0);
    return backing->pin(file, offset, length, pinned);
}

enum eng_status disk_mkdir(struct disk *disk, const char *path)
{
    enum eng_status status = check_path(path);
    return status != ENG_OK ? status : backing_of(disk)->mkdir(disk, path);
}

enum eng_status disk_rename(struct disk *disk, const char *from, const char *to)
{
    enum eng_status status = check_path(from);
    if (status == ENG_OK)
        status = check_path(to);
    if (status != ENG_OK)
        return status;
    size_t parent = parent_length(from);
    if (parent != parent_length(to) || memcmp(from, to, parent) != 0)
        return eng_fail(ENG_INVALID, "%s: rename to %s: not in the same directory", from, to);
    return backing_of(disk)->rename(disk, from, to);
}

enum eng_status disk_file_rename(struct disk_file *file, const char *to)
{
    assert(file->magic == DISK_FILE_MAGIC);
    char *path = strdup(to);
    if (path == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s: out of memory renaming it", file->path);
    enum eng_status status = disk_rename(file->disk, file->path, to);
    if (status == ENG_OK) {
        char *before = file->path;
        file->path = path;
        path = before;
    }
    free(path);
    return status;
}

enum eng_status disk_remove(struct disk *disk, const char *path)
{
    enum eng_status status = check_path(path);
    return status != ENG_OK ? status : backing_of(disk)->remove(disk, path);
}

enum eng_status disk_sync_dir(struct disk *disk, const char *path)
{
    enum eng_status status = path[0] ? check_path(path) : ENG_OK;
    return status != ENG_OK ? status : backing_of(disk)->sync_dir(disk, path);
}

enum eng_status disk_list(struct disk *disk, const char *path, void (*each)(void *context, const char *name),
                          void *context)
{
    enum eng_status status = path[0] ? check_path(path) : ENG_OK;
    return status != ENG_OK ? status : backing_of(disk)->list(disk, path, each, context);
}

bool disk_exists(struct disk *disk, const char *path)
{
    return path[0] == '\0' || (check_path(path) == ENG_OK && backing_of(disk)->exists(disk, path));
}

enum eng_status disk_lock(struct disk *disk, const char *path)
{
    enum eng_status status = check_path(path);
    return status != ENG_OK ? status : backing_of(disk)->lock(disk, path);
}
