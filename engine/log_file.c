/*
 * The files of the log: finding, making, reading, writing, syncing and removing them.
 *
 * Happy path: log_files_open lists the directory, whose files are numbered without a gap. A file is made under a
 * temporary name, its space reserved, zeros written and synced, and only then renamed: under its own name a file is
 * always complete. The zeros matter for batches: writing into blocks that were only reserved makes the file system
 * convert them and commit its own journal with the sync. On ext4 a write and sync of 8 KiB took 229-361 us (medians of
 * three runs) in a reserved file and 120-164 us in a zeroed one; at 160 bytes, where a block is converted once for
 * many writes, there was no gain (tests/prog_log_kill --prepare).
 *
 * Handles of old files are opened when first used and their headers checked then; at most LOG_FILES_OPEN_MAX idle ones
 * are kept, so a block store of any size needs few descriptors. The file that is written and those prepared behind it
 * stay open from the start or from when they are made (LOG_FILES_HELD_MAX of them): a flush must not fail because other
 * parts of the process have all descriptors. If a file must be opened and there is no descriptor, an idle handle goes
 * for it. A handle in use is pinned; removing a file waits for its pins.
 *
 * Ways to fail: a wrong header, a short file, a gap in the numbers, or no file where there was one before is
 * ENG_DAMAGED; another store's file is ENG_FOREIGN; ENG_FULL comes only from log_files_prepare and leaves nothing
 * behind. Any other failure of log_files_prepare, and every failure to write or sync, is one the log does not go on
 * from.
 *
 * Removal is in an order (oldest first for trimming, newest first for cutting) and each is made stable before the next,
 * so that a crash can leave no gap. If one fails, none follows: that file may still be there.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "log_file.h"

#define ZERO_BYTES (256u << 10)

struct log_slot {
    struct disk_file *handle; /* NULL: not open */
    unsigned pins;
    uint64_t used; /* tick of the last use */
};

static void path_of(const struct log_files *files, uint64_t number, const char *suffix, char path[LOG_PATH_BYTES_MAX])
{
    int n = snprintf(path, LOG_PATH_BYTES_MAX, "%s/%014llu.log%s", files->dir, (unsigned long long)number, suffix);
    assert(n > 0 && (unsigned)n < LOG_PATH_BYTES_MAX);
}

void log_files_name(const struct log_files *files, uint64_t offset, char path[LOG_PATH_BYTES_MAX], uint64_t *at)
{
    path_of(files, offset / files->file_bytes, "", path);
    *at = LOG_HEADER_BYTES + offset % files->file_bytes;
}

enum eng_status log_files_damaged(const struct log_files *files, uint64_t offset, const char *why)
{
    char path[LOG_PATH_BYTES_MAX];
    uint64_t at;
    log_files_name(files, offset, path, &at);
    return eng_fail(ENG_DAMAGED, "%s: record at byte %llu (log offset %llu): %s", path, (unsigned long long)at,
                    (unsigned long long)offset, why);
}

enum eng_status log_files_missing(const struct log_files *files, uint64_t offset)
{
    char path[LOG_PATH_BYTES_MAX];
    uint64_t at;
    log_files_name(files, offset, path, &at);
    return eng_fail(ENG_DAMAGED, "%s: missing: the log has been at offset %llu, which is in it", path,
                    (unsigned long long)offset);
}

/* --- headers ------------------------------------------------------------------------------------------------- */

static void header_make(const struct log_files *files, uint64_t number, struct log_file_header *header)
{
    memset(header, 0, sizeof *header);
    memcpy(header->magic, "PANDOLOG", 8);
    header->version = LOG_VERSION;
    header->header_bytes = LOG_HEADER_BYTES;
    memcpy(header->store_id, files->key.store_id, sizeof header->store_id);
    header->number = number;
    header->file_bytes = files->file_bytes;
    memcpy(header->salt, files->key.salt, sizeof header->salt);
    header->checksum = XXH3_64bits(header, offsetof(struct log_file_header, checksum));
}

/* Reads and checks the header of an open file; its content size and salt are stored if none are known yet (0). */
static enum eng_status header_check(struct log_files *files, struct disk_file *handle, uint64_t number)
{
    const char *path = disk_file_path(handle);
    struct log_file_header header;
    uint64_t size;
    enum eng_status status = disk_size(handle, &size);
    if (status == ENG_OK && size < sizeof header)
        return eng_fail(ENG_DAMAGED, "%s: header at byte 0: the file has only %llu bytes", path,
                        (unsigned long long)size);
    if (status == ENG_OK)
        status = disk_read(handle, 0, &header, sizeof header);
    if (status != ENG_OK)
        return status;
    if (header.checksum != XXH3_64bits(&header, offsetof(struct log_file_header, checksum)))
        return eng_fail(ENG_DAMAGED, "%s: header at byte 0: checksum does not match", path);
    if (memcmp(header.magic, "PANDOLOG", 8) != 0)
        return eng_fail(ENG_FOREIGN, "%s: not a log file", path);
    if (header.version != LOG_VERSION)
        return eng_fail(ENG_VERSION, "%s: format version %u, this program knows %u", path, header.version, LOG_VERSION);
    if (memcmp(header.store_id, files->key.store_id, sizeof header.store_id) != 0)
        return eng_fail(ENG_FOREIGN, "%s: belongs to another store", path);
    if (header.number != number || header.file_bytes < LOG_FILE_BYTES_MIN || header.file_bytes % LOG_FILE_BYTES_MIN)
        return eng_fail(ENG_DAMAGED, "%s: header at byte 0: number %llu with %llu bytes does not fit the name", path,
                        (unsigned long long)header.number, (unsigned long long)header.file_bytes);
    if (files->file_bytes == 0) {
        files->file_bytes = header.file_bytes;
        memcpy(files->key.salt, header.salt, sizeof header.salt);
    }
    if (memcmp(header.salt, files->key.salt, sizeof header.salt) != 0)
        return eng_fail(ENG_DAMAGED, "%s: header at byte 0: the salt is not that of the other files", path);
    if (header.file_bytes != files->file_bytes || size < LOG_HEADER_BYTES + header.file_bytes)
        return eng_fail(ENG_DAMAGED, "%s: %llu bytes where %llu are expected", path, (unsigned long long)size,
                        (unsigned long long)(LOG_HEADER_BYTES + files->file_bytes));
    return ENG_OK;
}

/* --- handles ------------------------------------------------------------------------------------------------- */

static bool held(const struct log_files *files, uint64_t number)
{
    return number >= files->tail && number - files->tail < LOG_FILES_HELD_MAX;
}

/* mutex held: closes the least recently used idle handle, one that is held only if any may be. false: there is none */
static bool close_one(struct log_files *files, bool any)
{
    struct log_slot *oldest = NULL;
    for (uint64_t i = 0; i < files->count; i++) {
        struct log_slot *slot = files->slots[i];
        if (slot->handle && slot->pins == 0 && (any || !held(files, files->first + i)) &&
            (oldest == NULL || slot->used < oldest->used))
            oldest = slot;
    }
    if (oldest == NULL)
        return false;
    disk_file_close(&oldest->handle);
    files->open--;
    return true;
}

/* mutex held: until there is room for one more */
static void close_idle(struct log_files *files)
{
    while (files->open >= LOG_FILES_OPEN_MAX && close_one(files, false))
        ;
}

/* mutex held */
static enum eng_status slot_open(struct log_files *files, struct log_slot *slot, uint64_t number)
{
    char path[LOG_PATH_BYTES_MAX];
    path_of(files, number, "", path);
    close_idle(files);
    struct disk_file *handle;
    enum eng_status status;
    do /* too many open files: a reader leaves the writer its handles */
        status = disk_open(files->disk, path, DISK_WRITE, &handle);
    while (status == ENG_FULL && close_one(files, number >= files->tail));
    if (status != ENG_OK)
        return status;
    status = header_check(files, handle, number);
    if (status != ENG_OK) {
        disk_file_close(&handle);
        return status;
    }
    slot->handle = handle;
    files->open++;
    return ENG_OK;
}

static enum eng_status pin(struct log_files *files, uint64_t number, bool to_write, struct log_slot **pinned)
{
    enum eng_status status = ENG_OK;
    *pinned = NULL;
    pthread_mutex_lock(&files->mutex);
    if (to_write && number > files->tail)
        files->tail = number;
    if (number < files->first) {
        status = eng_fail(ENG_GONE, "%s: file %llu has been removed", files->dir, (unsigned long long)number);
    } else if (number >= files->first + files->count) {
        status = eng_fail(ENG_IO, "%s: there is no file %llu", files->dir, (unsigned long long)number);
    } else {
        struct log_slot *slot = files->slots[number - files->first];
        if (slot->handle == NULL)
            status = slot_open(files, slot, number);
        if (status == ENG_OK) {
            slot->pins++;
            slot->used = ++files->tick;
            *pinned = slot;
        }
    }
    pthread_mutex_unlock(&files->mutex);
    return status;
}

static void unpin(struct log_files *files, struct log_slot *slot)
{
    pthread_mutex_lock(&files->mutex);
    assert(slot->pins > 0);
    if (--slot->pins == 0)
        pthread_cond_broadcast(&files->unpinned);
    pthread_mutex_unlock(&files->mutex);
}

static enum eng_status slot_append(struct log_files *files, struct disk_file *handle)
{
    struct log_slot *slot = calloc(1, sizeof *slot);
    if (slot == NULL)
        return eng_fail(ENG_NO_MEMORY, "%s: out of memory", files->dir);
    pthread_mutex_lock(&files->mutex);
    if (files->count == files->capacity) {
        uint64_t capacity = files->capacity ? 2 * files->capacity : 8;
        struct log_slot **slots = realloc(files->slots, capacity * sizeof(struct log_slot *));
        if (slots == NULL) {
            pthread_mutex_unlock(&files->mutex);
            free(slot);
            return eng_fail(ENG_NO_MEMORY, "%s: out of memory", files->dir);
        }
        files->slots = slots;
        files->capacity = capacity;
    }
    if (handle)
        close_idle(files);
    slot->handle = handle;
    slot->used = ++files->tick;
    files->open += handle != NULL;
    files->slots[files->count++] = slot;
    pthread_mutex_unlock(&files->mutex);
    return ENG_OK;
}

/* --- open and close ------------------------------------------------------------------------------------------ */

struct listing {
    struct log_files *files;
    enum eng_status status;
};

/* In byte order, which is the order of the numbers. */
static void list_one(void *context, const char *name)
{
    struct listing *listing = context;
    struct log_files *files = listing->files;
    unsigned long long number;
    int length = 0;
    if (listing->status != ENG_OK || sscanf(name, "%14llu.log%n", &number, &length) != 1 || length != 18)
        return;
    if (strcmp(name + length, ".tmp") == 0) {
        char path[LOG_PATH_BYTES_MAX];
        path_of(files, number, ".tmp", path);
        listing->status = disk_remove(files->disk, path);
    } else if (name[length] == '\0') {
        if (files->count == 0)
            files->first = number;
        if (number != files->first + files->count)
            listing->status = eng_fail(ENG_DAMAGED, "%s/%014llu.log: this file is missing", files->dir,
                                       (unsigned long long)(files->first + files->count));
        else
            listing->status = slot_append(files, NULL);
    }
}

static enum eng_status make_dir(struct disk *disk, const char *dir)
{
    enum eng_status status = disk_mkdir(disk, dir);
    if (status != ENG_OK)
        return status;
    char parent[LOG_PATH_BYTES_MAX];
    snprintf(parent, sizeof parent, "%s", dir);
    char *slash = strrchr(parent, '/');
    *(slash ? slash : parent) = '\0';
    return disk_sync_dir(disk, parent);
}

static enum eng_status check_ends(struct log_files *files)
{
    if (files->count == 0) {
        randombytes_buf(files->key.salt, sizeof files->key.salt);
        return ENG_OK;
    }
    files->file_bytes = 0; /* what the files say counts */
    struct log_slot *slot;
    enum eng_status status = pin(files, files->first, false, &slot);
    if (status == ENG_OK)
        unpin(files, slot);
    if (status == ENG_OK)
        status = pin(files, files->first + files->count - 1, false, &slot);
    if (status == ENG_OK)
        unpin(files, slot);
    return status;
}

/* The names in the directory, in order. */
static enum eng_status list_files(struct log_files *files)
{
    struct listing listing = {files, ENG_OK};
    enum eng_status status = disk_list(files->disk, files->dir, list_one, &listing);
    return status == ENG_OK ? listing.status : status;
}

enum eng_status log_files_open(struct log_files *files, struct disk *disk, const char *dir, const uint8_t *store_id,
                               uint64_t file_bytes, bool made)
{
    memset(files, 0, sizeof *files);
    if (sodium_init() < 0)
        return eng_fail(ENG_NO_MEMORY, "libsodium: cannot be initialised");
    if (strlen(dir) + 32 > LOG_PATH_BYTES_MAX)
        return eng_fail(ENG_INVALID, "%s: the name of the directory is too long", dir);
    files->disk = disk;
    files->file_bytes = file_bytes;
    memcpy(files->key.store_id, store_id, sizeof files->key.store_id);
    pthread_mutex_init(&files->mutex, NULL);
    pthread_cond_init(&files->unpinned, NULL);
    files->dir = strdup(dir);
    enum eng_status status = files->dir ? ENG_OK : eng_fail(ENG_NO_MEMORY, "%s: out of memory", dir);
    if (status == ENG_OK && made && !disk_exists(disk, dir))
        status = eng_fail(ENG_DAMAGED, "%s: the directory is missing, and with it all files of the log", dir);
    if (status == ENG_OK)
        status = make_dir(disk, dir);
    if (status == ENG_OK)
        status = list_files(files);
    if (status == ENG_OK && made && files->count == 0)
        status = eng_fail(ENG_DAMAGED, "%s: all files of the log (NUMBER.log) are missing", dir);
    if (status == ENG_OK)
        status = disk_sync_dir(disk, dir); /* names of a process that was killed may not be stable yet */
    if (status == ENG_OK)
        status = check_ends(files);
    if (status != ENG_OK)
        log_files_close(files);
    return status;
}

void log_files_close(struct log_files *files)
{
    for (uint64_t i = 0; i < files->count; i++) {
        assert(files->slots[i]->pins == 0);
        disk_file_close(&files->slots[i]->handle);
        free(files->slots[i]);
    }
    free(files->slots);
    files->slots = NULL;
    files->count = files->capacity = 0;
    if (files->dir) {
        pthread_mutex_destroy(&files->mutex);
        pthread_cond_destroy(&files->unpinned);
    }
    free(files->dir);
    files->dir = NULL;
}

uint64_t log_files_begin(struct log_files *files)
{
    pthread_mutex_lock(&files->mutex);
    uint64_t begin = files->first * files->file_bytes;
    pthread_mutex_unlock(&files->mutex);
    return begin;
}

uint64_t log_files_end(struct log_files *files)
{
    pthread_mutex_lock(&files->mutex);
    uint64_t end = (files->first + files->count) * files->file_bytes;
    pthread_mutex_unlock(&files->mutex);
    return end;
}

enum eng_status log_files_hold(struct log_files *files, uint64_t offset)
{
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&files->mutex);
    files->tail = offset / files->file_bytes;
    assert(files->tail >= files->first);
    for (uint64_t i = files->tail - files->first; status == ENG_OK && i < files->count; i++) {
        struct log_slot *slot = files->slots[i];
        if (slot->handle == NULL && held(files, files->first + i))
            status = slot_open(files, slot, files->first + i);
    }
    pthread_mutex_unlock(&files->mutex);
    return status;
}

/* --- making a file ------------------------------------------------------------------------------------------- */

static enum eng_status fill_new(struct log_files *files, struct disk_file *handle, uint64_t number)
{
    static uint8_t zeros[ZERO_BYTES]; /* never written; not const, to lie in .bss */
    uint64_t size = LOG_HEADER_BYTES + files->file_bytes;
    struct log_file_header header;
    header_make(files, number, &header);
    enum eng_status status = disk_truncate(handle, 0);
    if (status == ENG_OK)
        status = disk_extend(handle, size);
    if (status == ENG_OK)
        status = disk_write(handle, 0, &header, sizeof header);
    for (uint64_t at = sizeof header; status == ENG_OK && at < size; at += ZERO_BYTES)
        status = disk_write(handle, at, zeros, size - at < ZERO_BYTES ? (size_t)(size - at) : ZERO_BYTES);
    return status;
}

/* The failure of a sync, which must not look like a full disk that may be tried again. */
static enum eng_status final(enum eng_status status)
{
    return status == ENG_FULL ? ENG_IO : status;
}

/* The handle is open if, and only if, all went well. */
static enum eng_status make_file(struct log_files *files, uint64_t number, const char *temporary, const char *path,
                                 struct disk_file **handle)
{
    enum eng_status status = disk_open(files->disk, temporary, DISK_CREATE, handle);
    if (status != ENG_OK)
        return status;
    status = fill_new(files, *handle, number);
    if (status == ENG_OK)
        status = final(disk_sync(*handle));
    if (status == ENG_OK)
        status = disk_file_rename(*handle, path);
    if (status == ENG_OK)
        status = disk_sync_dir(files->disk, files->dir); /* ENG_FULL: there was no descriptor to do it with */
    if (status != ENG_OK)
        disk_file_close(handle);
    return status;
}

enum eng_status log_files_prepare(struct log_files *files)
{
    pthread_mutex_lock(&files->mutex);
    uint64_t number = files->first + files->count;
    pthread_mutex_unlock(&files->mutex);
    char temporary[LOG_PATH_BYTES_MAX], path[LOG_PATH_BYTES_MAX];
    path_of(files, number, ".tmp", temporary);
    path_of(files, number, "", path);
    struct disk_file *handle = NULL;
    enum eng_status status = make_file(files, number, temporary, path, &handle);
    if (status == ENG_FULL) {
        char why[256];
        snprintf(why, sizeof why, "%s", eng_error());
        if (disk_remove(files->disk, disk_exists(files->disk, temporary) ? temporary : path) != ENG_OK) {
            /* it stays, and is replaced by the next attempt; the next log_files_open removes it or finds it whole */
        }
        return eng_fail(ENG_FULL, "%s", why);
    }
    if (status == ENG_OK)
        status = slot_append(files, handle);
    if (status != ENG_OK)
        disk_file_close(&handle);
    return status;
}

/* --- contents ------------------------------------------------------------------------------------------------ */

enum file_verb { FILE_READ, FILE_WRITE, FILE_SYNC };

static enum eng_status one_file(struct log_files *files, enum file_verb verb, uint64_t offset, uint8_t *bytes,
                                uint64_t length)
{
    struct log_slot *slot;
    enum eng_status status = pin(files, offset / files->file_bytes, verb == FILE_WRITE, &slot);
    if (status != ENG_OK)
        return status;
    uint64_t at = LOG_HEADER_BYTES + offset % files->file_bytes;
    switch (verb) {
    case FILE_READ:
        status = disk_read(slot->handle, at, bytes, (size_t)length);
        break;
    case FILE_WRITE:
        status = disk_write(slot->handle, at, bytes, (size_t)length);
        break;
    case FILE_SYNC:
        status = disk_sync(slot->handle);
        break;
    }
    unpin(files, slot);
    return status;
}

static enum eng_status every_file(struct log_files *files, enum file_verb verb, uint64_t offset, uint8_t *bytes,
                                  uint64_t length)
{
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && length > 0) {
        uint64_t room = files->file_bytes - offset % files->file_bytes;
        uint64_t n = length < room ? length : room;
        status = one_file(files, verb, offset, bytes, n);
        offset += n;
        length -= n;
        if (verb != FILE_SYNC)
            bytes += n;
    }
    return status;
}

enum eng_status log_files_read(struct log_files *files, uint64_t offset, void *bytes, uint64_t length)
{
    return every_file(files, FILE_READ, offset, bytes, length);
}

enum eng_status log_files_write(struct log_files *files, uint64_t offset, const void *bytes, uint64_t length)
{
    return every_file(files, FILE_WRITE, offset, (uint8_t *)(uintptr_t)bytes, length); /* only read */
}

enum eng_status log_files_sync(struct log_files *files, uint64_t from, uint64_t to)
{
    return every_file(files, FILE_SYNC, from, NULL, to - from);
}

/* --- removing ------------------------------------------------------------------------------------------------ */

/* Takes the slot at an index out, when nobody uses it, and removes the file; its name is gone from the disk or the
 * error is final. */
static enum eng_status remove_at(struct log_files *files, bool oldest)
{
    pthread_mutex_lock(&files->mutex);
    assert(files->count > 0);
    if (files->undecided) {
        pthread_mutex_unlock(&files->mutex);
        return eng_fail(ENG_IO, "%s: a file could not be removed before, so no other is", files->dir);
    }
    uint64_t index = oldest ? 0 : files->count - 1;
    uint64_t number = files->first + index;
    struct log_slot *slot = files->slots[index];
    if (oldest)
        memmove(files->slots, files->slots + 1, (files->count - 1) * sizeof(struct log_slot *));
    files->first += oldest;
    files->count--;
    while (slot->pins > 0)
        pthread_cond_wait(&files->unpinned, &files->mutex);
    files->open -= slot->handle != NULL;
    pthread_mutex_unlock(&files->mutex);
    disk_file_close(&slot->handle);
    free(slot);

    char path[LOG_PATH_BYTES_MAX];
    path_of(files, number, "", path);
    enum eng_status status = disk_remove(files->disk, path);
    if (status == ENG_OK)
        status = disk_sync_dir(files->disk, files->dir);
    if (status != ENG_OK) {
        pthread_mutex_lock(&files->mutex);
        files->undecided = true;
        pthread_mutex_unlock(&files->mutex);
    }
    return status;
}

static uint64_t count_of(struct log_files *files)
{
    pthread_mutex_lock(&files->mutex);
    uint64_t count = files->count;
    pthread_mutex_unlock(&files->mutex);
    return count;
}

enum eng_status log_files_trim(struct log_files *files, uint64_t first)
{
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && log_files_begin(files) / files->file_bytes < first && count_of(files) > 1)
        status = remove_at(files, true);
    return status;
}

enum eng_status log_files_cut(struct log_files *files, uint64_t last)
{
    enum eng_status status = ENG_OK;
    while (status == ENG_OK && log_files_end(files) / files->file_bytes > last + 1 && count_of(files) > 1)
        status = remove_at(files, false);
    return status;
}
