/*
 * The POSIX backing of the disk seam: files below one directory of the file system.
 *
 * Happy path: every path is opened relative to a descriptor of the root (openat), so the process may change its
 * working directory. Reads and writes are pread/pwrite until done; sync is fdatasync; a map is one MAP_SHARED mapping
 * made once for the whole reserve, of which the part inside the file may be touched. Space is taken by
 * posix_fallocate before use, so that a full disk is ENG_FULL there and not a SIGBUS on a store into the map.
 *
 * Ways to fail: ENOSPC, EDQUOT and EFBIG are ENG_FULL (but never from a sync: a sync that fails for any reason is
 * final, so it is ENG_IO); ENOENT is ENG_NOT_FOUND; EEXIST is ENG_EXISTS; anything else is ENG_IO. All name the path
 * and the system's reason. EINTR is retried where POSIX allows, never for fdatasync and fsync.
 *
 * A failed extension is undone with ftruncate, because some file systems keep what they had allocated so far.
 * disk_extend allocates from the present size on, and not from 0, so as not to fill holes that disk_punch made;
 * disk_reserve does that for a given range.
 *
 * Locks are flock(2) on a descriptor kept until the disk is closed. They belong to the open file, so a second handle
 * in the same process is refused like another process, and closing other descriptors of the file does not drop them.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_backing.h"

struct posix_lock {
    struct posix_lock *next;
    int fd;
    char path[];
};

struct posix_disk {
    struct disk base;
    int root_fd;
    pthread_mutex_t mutex; /* of locks */
    struct posix_lock *locks;
};

struct posix_file {
    struct disk_file base;
    int fd;
    void *map;
    uint64_t map_bytes;
};

static struct posix_disk *posix_disk(struct disk *disk)
{
    return (struct posix_disk *)disk;
}

static struct posix_file *posix_file(struct disk_file *file)
{
    return (struct posix_file *)file;
}

static enum eng_status fail_errno(const char *root, const char *path, const char *what, int error)
{
    enum eng_status status = ENG_IO;
    if (error == ENOSPC || error == EDQUOT || error == EFBIG || error == EMFILE || error == ENFILE)
        status = ENG_FULL; /* it passes */
    else if (error == ENOENT)
        status = ENG_NOT_FOUND;
    else if (error == EEXIST)
        status = ENG_EXISTS;
    else if (error == ENOMEM)
        status = ENG_NO_MEMORY;
    return eng_fail(status, "%s/%s: %s: %s", root, path, what, strerror(error));
}

static enum eng_status fail_file(const struct disk_file *file, const char *what)
{
    return fail_errno(file->disk->root, file->path, what, errno);
}

static void posix_close(struct disk *disk)
{
    struct posix_disk *self = posix_disk(disk);
    while (self->locks) {
        struct posix_lock *lock = self->locks;
        self->locks = lock->next;
        close(lock->fd);
        free(lock);
    }
    close(self->root_fd);
    pthread_mutex_destroy(&self->mutex);
    disk_fini(disk);
    free(self);
}

static enum eng_status posix_open(struct disk *disk, const char *path, int flags, struct disk_file **file)
{
    int how = O_CLOEXEC | ((flags & (DISK_WRITE | DISK_CREATE)) ? O_RDWR : O_RDONLY);
    if (flags & DISK_CREATE)
        how |= O_CREAT;
    if (flags & DISK_EXCLUSIVE)
        how |= O_EXCL;
    struct posix_file *self = calloc(1, sizeof *self);
    if (self == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s/%s: out of memory opening it", disk->root, path);
    enum eng_status status = disk_file_init(&self->base, disk, path, flags);
    if (status != ENG_OK) {
        free(self);
        return status;
    }
    do
        self->fd = openat(posix_disk(disk)->root_fd, path, how, 0640);
    while (self->fd < 0 && errno == EINTR);
    if (self->fd < 0) {
        status = fail_errno(disk->root, path, (flags & DISK_CREATE) ? "create" : "open", errno);
        disk_file_fini(&self->base);
        free(self);
        return status;
    }
    *file = &self->base;
    return ENG_OK;
}

static void posix_file_close(struct disk_file *file)
{
    struct posix_file *self = posix_file(file);
    if (self->map)
        munmap(self->map, self->map_bytes);
    close(self->fd);
    disk_file_fini(file);
    free(self);
}

static enum eng_status posix_size(struct disk_file *file, uint64_t *size_bytes)
{
    struct stat st;
    if (fstat(posix_file(file)->fd, &st) != 0)
        return fail_file(file, "stat");
    *size_bytes = (uint64_t)st.st_size;
    return ENG_OK;
}

static enum eng_status posix_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(posix_file(file)->fd, (uint8_t *)bytes + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int error = errno;
            char what[80];
            snprintf(what, sizeof what, "read of %zu bytes at %llu", length, (unsigned long long)offset);
            return fail_errno(file->disk->root, file->path, what, error);
        }
        if (n == 0)
            return eng_fail(ENG_IO, "%s/%s: read of %zu bytes at %llu: past the end", file->disk->root, file->path,
                            length, (unsigned long long)offset);
        done += (size_t)n;
    }
    return ENG_OK;
}

static enum eng_status posix_write(struct disk_file *file, uint64_t offset, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    while (length > 0) {
        ssize_t n = pwrite(posix_file(file)->fd, at, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_file(file, "write");
        at += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return ENG_OK;
}

static enum eng_status posix_sync(struct disk_file *file)
{
    if (fdatasync(posix_file(file)->fd) != 0)
        return eng_fail(ENG_IO, "%s/%s: fdatasync: %s", file->disk->root, file->path, strerror(errno));
    return ENG_OK;
}

/* Not msync(MS_ASYNC), which does nothing on Linux. Pages stored to through a map are dirty in the page cache as well.
 */
static enum eng_status posix_write_back(struct disk_file *file)
{
    if (sync_file_range(posix_file(file)->fd, 0, 0, SYNC_FILE_RANGE_WRITE) != 0 && errno != ENOSYS && errno != ESPIPE)
        return fail_file(file, "start writing");
    return ENG_OK;
}

static enum eng_status allocate(struct disk_file *file, uint64_t offset, uint64_t length)
{
    int error;
    do
        error = posix_fallocate(posix_file(file)->fd, (off_t)offset, (off_t)length);
    while (error == EINTR);
    return error == 0 ? ENG_OK : fail_errno(file->disk->root, file->path, "reserve space", error);
}

static enum eng_status posix_extend(struct disk_file *file, uint64_t size_bytes)
{
    uint64_t size;
    enum eng_status status = posix_size(file, &size);
    if (status != ENG_OK || size >= size_bytes)
        return status;
    status = allocate(file, size, size_bytes - size);
    if (status != ENG_OK && ftruncate(posix_file(file)->fd, (off_t)size) != 0)
        return fail_file(file, "truncate after a failed extension");
    return status;
}

static enum eng_status posix_reserve(struct disk_file *file, uint64_t offset, uint64_t length)
{
    uint64_t size;
    enum eng_status status = posix_size(file, &size);
    if (status != ENG_OK)
        return status;
    if (offset + length > size)
        return eng_fail(ENG_INVALID, "%s/%s: reserving past the end", file->disk->root, file->path);
    return length ? allocate(file, offset, length) : ENG_OK;
}

static enum eng_status posix_truncate(struct disk_file *file, uint64_t size_bytes)
{
    int result;
    do
        result = ftruncate(posix_file(file)->fd, (off_t)size_bytes);
    while (result != 0 && errno == EINTR);
    return result == 0 ? ENG_OK : fail_file(file, "truncate");
}

/* File systems without holes get zeros written: the space is not given back, the promise about contents holds. */
static enum eng_status write_zeros(struct disk_file *file, uint64_t offset, uint64_t length)
{
    static const uint8_t zeros[65536];
    while (length > 0) {
        size_t n = length < sizeof zeros ? (size_t)length : sizeof zeros;
        enum eng_status status = posix_write(file, offset, zeros, n);
        if (status != ENG_OK)
            return status;
        offset += n;
        length -= n;
    }
    return ENG_OK;
}

static enum eng_status posix_punch(struct disk_file *file, uint64_t offset, uint64_t length)
{
    uint64_t size;
    enum eng_status status = posix_size(file, &size);
    if (status != ENG_OK || offset >= size || length == 0)
        return status;
    int result;
    do
        result =
            fallocate(posix_file(file)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return ENG_OK;
    if (errno == EOPNOTSUPP)
        return write_zeros(file, offset, offset + length > size ? size - offset : length);
    return fail_file(file, "punch a hole");
}

static enum eng_status posix_map(struct disk_file *file, uint64_t reserve_bytes, void **base)
{
    struct posix_file *self = posix_file(file);
    int protection = file->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *map = mmap(NULL, reserve_bytes, protection, MAP_SHARED | MAP_NORESERVE, self->fd, 0);
    if (map == MAP_FAILED)
        return fail_file(file, "map");
    /* Where the file system keeps large folios (ext4 since Linux 6.16, XFS, tmpfs) a page is 2 MB then: an eighth of
     * the time for touching it first, and shorter page walks. Elsewhere it does nothing. */
    (void)madvise(map, reserve_bytes, MADV_HUGEPAGE);
    self->map = map;
    self->map_bytes = reserve_bytes;
    *base = map;
    return ENG_OK;
}

static enum eng_status posix_protect(struct disk_file *file, uint64_t offset, uint64_t length, bool read_only)
{
    struct posix_file *self = posix_file(file);
    assert(offset + length <= self->map_bytes);
    if (mprotect((uint8_t *)self->map + offset, length, read_only ? PROT_READ : PROT_READ | PROT_WRITE) != 0)
        return fail_file(file, "protect");
    return ENG_OK;
}

static enum eng_status posix_pin(struct disk_file *file, uint64_t offset, uint64_t length, bool pinned)
{
    struct posix_file *self = posix_file(file);
    assert(offset + length <= self->map_bytes);
    const uint8_t *range = (const uint8_t *)self->map + offset;
    if ((pinned ? mlock(range, length) : munlock(range, length)) == 0)
        return ENG_OK;
    return eng_fail(ENG_NO_MEMORY, "%s: %s %llu bytes at offset %llu in memory: %s", file->path,
                    pinned ? "lock" : "unlock", (unsigned long long)length, (unsigned long long)offset,
                    strerror(errno));
}

static enum eng_status posix_mkdir(struct disk *disk, const char *path)
{
    int root_fd = posix_disk(disk)->root_fd;
    if (mkdirat(root_fd, path, 0750) == 0)
        return ENG_OK;
    int error = errno;
    struct stat st;
    if (error == EEXIST && fstatat(root_fd, path, &st, 0) == 0 && S_ISDIR(st.st_mode))
        return ENG_OK;
    return fail_errno(disk->root, path, "make directory", error);
}

static enum eng_status posix_rename(struct disk *disk, const char *from, const char *to)
{
    int root_fd = posix_disk(disk)->root_fd;
    if (renameat(root_fd, from, root_fd, to) != 0)
        return fail_errno(disk->root, from, "rename", errno);
    return ENG_OK;
}

static enum eng_status posix_remove(struct disk *disk, const char *path)
{
    int root_fd = posix_disk(disk)->root_fd;
    if (unlinkat(root_fd, path, 0) == 0)
        return ENG_OK;
    if (errno == EISDIR && unlinkat(root_fd, path, AT_REMOVEDIR) == 0)
        return ENG_OK;
    return fail_errno(disk->root, path, "remove", errno);
}

static enum eng_status open_directory(struct disk *disk, const char *path, int *fd)
{
    *fd = openat(posix_disk(disk)->root_fd, path[0] ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0 ? ENG_OK : fail_errno(disk->root, path, "open directory", errno);
}

static enum eng_status posix_sync_dir(struct disk *disk, const char *path)
{
    int fd;
    enum eng_status status = open_directory(disk, path, &fd);
    if (status != ENG_OK)
        return status;
    if (fsync(fd) != 0)
        status = eng_fail(ENG_IO, "%s/%s: fsync of the directory: %s", disk->root, path, strerror(errno));
    close(fd);
    return status;
}

static int not_dots(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum eng_status posix_list(struct disk *disk, const char *path, disk_list_each *each, void *context)
{
    struct dirent **entries;
    int count = scandirat(posix_disk(disk)->root_fd, path[0] ? path : ".", &entries, not_dots, by_bytes);
    if (count < 0)
        return fail_errno(disk->root, path, "list", errno);
    for (int i = 0; i < count; i++) {
        each(context, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return ENG_OK;
}

static bool posix_exists(struct disk *disk, const char *path)
{
    struct stat st;
    return fstatat(posix_disk(disk)->root_fd, path, &st, 0) == 0;
}

/* mutex held */
static enum eng_status lock_new(struct posix_disk *self, const char *path)
{
    for (struct posix_lock *held = self->locks; held; held = held->next)
        if (strcmp(held->path, path) == 0)
            return ENG_OK;
    struct posix_lock *lock = malloc(sizeof *lock + strlen(path) + 1);
    if (lock == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s/%s: out of memory locking it", self->base.root, path);
    strcpy(lock->path, path);
    lock->fd = openat(self->root_fd, path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (lock->fd < 0) {
        free(lock);
        return fail_errno(self->base.root, path, "open the lock file", errno);
    }
    if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;
        close(lock->fd);
        free(lock);
        if (error == EWOULDBLOCK)
            return eng_fail(ENG_LOCKED, "%s/%s: another process holds the lock", self->base.root, path);
        return fail_errno(self->base.root, path, "lock", error);
    }
    lock->next = self->locks;
    self->locks = lock;
    return ENG_OK;
}

static enum eng_status posix_lock(struct disk *disk, const char *path)
{
    struct posix_disk *self = posix_disk(disk);
    pthread_mutex_lock(&self->mutex);
    enum eng_status status = lock_new(self, path);
    pthread_mutex_unlock(&self->mutex);
    return status;
}

static const struct disk_backing posix_backing = {
    .close = posix_close,
    .open = posix_open,
    .mkdir = posix_mkdir,
    .rename = posix_rename,
    .remove = posix_remove,
    .sync_dir = posix_sync_dir,
    .list = posix_list,
    .exists = posix_exists,
    .lock = posix_lock,
    .file_close = posix_file_close,
    .size = posix_size,
    .read = posix_read,
    .write = posix_write,
    .sync = posix_sync,
    .write_back = posix_write_back,
    .extend = posix_extend,
    .reserve = posix_reserve,
    .truncate = posix_truncate,
    .punch = posix_punch,
    .map = posix_map,
    .protect = posix_protect,
    .pin = posix_pin,
};

enum eng_status disk_posix_open(const char *root, struct disk **disk)
{
    *disk = NULL;
    struct posix_disk *self = calloc(1, sizeof *self);
    if (self == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s: out of memory opening it", root);
    enum eng_status status = disk_init(&self->base, &posix_backing, root);
    if (status != ENG_OK) {
        free(self);
        return status;
    }
    self->root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (self->root_fd < 0) {
        int error = errno;
        disk_fini(&self->base);
        free(self);
        return eng_fail(error == ENOENT ? ENG_NOT_FOUND : ENG_IO, "%s: open directory: %s", root, strerror(error));
    }
    pthread_mutex_init(&self->mutex, NULL);
    *disk = &self->base;
    return ENG_OK;
}

enum eng_status disk_posix_sync_name(const char *root)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int parent = fd >= 0 ? openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    enum eng_status status = ENG_OK;
    if (parent < 0 || fsync(parent) != 0)
        status = eng_fail(ENG_IO, "%s: fsync of the directory it is in: %s", root, strerror(errno));
    if (parent >= 0)
        close(parent);
    if (fd >= 0)
        close(fd);
    return status;
}
