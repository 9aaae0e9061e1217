/*
 * The disk seam: the only way any part of Pando touches files of a data directory.
 *
 * One table of functions with two backings: POSIX (disk_posix.c) and a simulated disk in memory (disk_sim.c) that can
 * drop, tear and reorder what was not synced, fill up, and fail the n-th call. Paths are relative to the root the disk
 * was opened on, with '/' between names.
 *
 * Promises of every backing, which recovery relies on:
 *  - what was written to a file is stable only after disk_sync of that file returned ENG_OK;
 *  - a created, renamed or removed name is stable only after disk_sync_dir of its directory returned ENG_OK;
 *  - between those points any subset of the 512-byte sectors written (through disk_write or through the map) may
 *    reach the disk, in any order;
 *  - a failed disk_sync is final: the caller stops and never retries it (pages are no longer dirty but not durable);
 *  - after disk_extend returned ENG_OK writing inside the new size needs no further space (a full disk is an
 *    ENG_FULL from disk_extend, never a SIGBUS); the new bytes read as zeros.
 *
 * Threads: every call may be made from any thread; calls on one file may run at the same time when they do not
 * overlap. Errors: ENG_IO, ENG_FULL (also for too many open files), ENG_NOT_FOUND, ENG_EXISTS, ENG_LOCKED with
 * eng_error() naming the path.
 */
#ifndef PANDO_DISK_H
#define PANDO_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct disk;
struct disk_file;

enum disk_open_flags {
    DISK_READ = 0,      /* existing file, read only */
    DISK_WRITE = 1,     /* existing file, read and write */
    DISK_CREATE = 2,    /* read and write; created if absent */
    DISK_EXCLUSIVE = 4, /* with DISK_CREATE: ENG_EXISTS if it is there */
};

/* Opens a disk on an existing directory of the file system. The directory itself is not locked; see disk_lock. */
ENG_MUST_CHECK enum eng_status disk_posix_open(const char *root, struct disk **disk);
/* For who has made such a directory: syncs the one it is in, so that its name is on the disk. ENG_IO. */
ENG_MUST_CHECK enum eng_status disk_posix_sync_name(const char *root);
void disk_close(struct disk **disk); /* all files must be closed; NULL inside is allowed */

/* "/var/lib/pando" for POSIX, "sim:" for the simulated disk; for messages. */
const char *disk_root(const struct disk *disk);

ENG_MUST_CHECK enum eng_status disk_open(struct disk *disk, const char *path, int flags, struct disk_file **file);
void disk_file_close(struct disk_file **file); /* unmaps; does not sync; NULL inside is allowed */
const char *disk_file_path(const struct disk_file *file);
ENG_MUST_CHECK enum eng_status disk_size(struct disk_file *file, uint64_t *size_bytes);

/* Exactly length bytes or an error; reading past the end is ENG_IO. */
ENG_MUST_CHECK enum eng_status disk_read(struct disk_file *file, uint64_t offset, void *bytes, size_t length);
/* Exactly length bytes or an error; grows the file if needed (may then be ENG_FULL). */
ENG_MUST_CHECK enum eng_status disk_write(struct disk_file *file, uint64_t offset, const void *bytes, size_t length);
/* fdatasync: contents, through disk_write or the map, and size. Never retried. */
ENG_MUST_CHECK enum eng_status disk_sync(struct disk_file *file);
/* Starts writing what is dirty, through disk_write or the map, and returns without waiting: promises nothing. */
ENG_MUST_CHECK enum eng_status disk_write_back(struct disk_file *file);
/* Reserves space from the present size up to size_bytes (posix_fallocate) and makes that the size; nothing happens if
 * it is no larger. Holes below the present size stay holes: see disk_reserve. */
ENG_MUST_CHECK enum eng_status disk_extend(struct disk_file *file, uint64_t size_bytes);
/* Reserves the space of a range inside the size again after disk_punch gave it back; ENG_FULL as for disk_extend. */
ENG_MUST_CHECK enum eng_status disk_reserve(struct disk_file *file, uint64_t offset, uint64_t length);
ENG_MUST_CHECK enum eng_status disk_truncate(struct disk_file *file, uint64_t size_bytes);
/* Gives the space of an aligned range back; the range reads as zeros afterwards (fallocate PUNCH_HOLE). */
ENG_MUST_CHECK enum eng_status disk_punch(struct disk_file *file, uint64_t offset, uint64_t length);

/* Maps the file once, shared, readable and writable, at one address for its whole life: reserve_bytes of address space
 * of which [0, size) may be touched; what a later disk_extend adds becomes usable at the same base. */
ENG_MUST_CHECK enum eng_status disk_map(struct disk_file *file, uint64_t reserve_bytes, void **base);
/* Write-protects a page-aligned range of the map (or makes it writable again). The simulated disk may ignore it.
 * ENG_NO_MEMORY: the process has as many mappings as the system allows. */
ENG_MUST_CHECK enum eng_status disk_protect(struct disk_file *file, uint64_t offset, uint64_t length, bool read_only);
/* Locks a page-aligned range of the map in memory, or lets it go. ENG_NO_MEMORY: the system does not allow that much.
 */
ENG_MUST_CHECK enum eng_status disk_pin(struct disk_file *file, uint64_t offset, uint64_t length, bool pinned);

ENG_MUST_CHECK enum eng_status disk_mkdir(struct disk *disk, const char *path); /* ENG_OK if it is there */
/* Atomic, replaces an existing target. Both names are in the same directory (ENG_INVALID otherwise). */
ENG_MUST_CHECK enum eng_status disk_rename(struct disk *disk, const char *from, const char *to);
/* The same for a file that is open and stays open; disk_file_path is the new name then. */
ENG_MUST_CHECK enum eng_status disk_file_rename(struct disk_file *file, const char *to);
ENG_MUST_CHECK enum eng_status disk_remove(struct disk *disk, const char *path);
ENG_MUST_CHECK enum eng_status disk_sync_dir(struct disk *disk, const char *path); /* "" is the root */
/* Calls each(context, name) for every name in a directory, in byte order. */
ENG_MUST_CHECK enum eng_status disk_list(struct disk *disk, const char *path,
                                         void (*each)(void *context, const char *name), void *context);
bool disk_exists(struct disk *disk, const char *path);
/* Takes an exclusive lock on a file (created if absent) until the disk is closed or the process ends; ENG_LOCKED if
 * another process holds it. */
ENG_MUST_CHECK enum eng_status disk_lock(struct disk *disk, const char *path);

/*
 * The simulated disk. capacity_bytes bounds the sum of file sizes (0: unlimited). Everything is deterministic.
 */
ENG_MUST_CHECK enum eng_status disk_sim_open(uint64_t capacity_bytes, struct disk **disk);
/* How many bytes each handle may pin; unlimited before the first call. */
void disk_sim_pin_limit(struct disk *disk, uint64_t bytes);
/* Calls so far that change something or make it stable (write, sync, extend, truncate, rename, remove, ...). */
uint64_t disk_sim_calls(const struct disk *disk);
/* before(context, disk, n) is called before the n-th such call takes effect (n counts from 0); NULL removes it. */
void disk_sim_watch(struct disk *disk, void (*before)(void *context, struct disk *disk, uint64_t n), void *context);
/* The n-th such call from now on fails with status (once), n from 0; a failed sync leaves its sectors undecided. */
void disk_sim_fail(struct disk *disk, uint64_t n, enum eng_status status);
/* What a power loss now would leave: a new simulated disk. Sectors written but not synced are each, by the seed, old,
 * new or torn in the middle; seed 0: all old; seed 1: all new. Names not made stable are each there or not. The source
 * disk is not changed, may be in use by a paused thread, and files of the image are closed and unlocked. */
ENG_MUST_CHECK enum eng_status disk_sim_crash(const struct disk *disk, uint64_t seed, struct disk **image);
/* Flips one bit of the stable and current content; bit counts from the first byte. ENG_INVALID past the end. */
ENG_MUST_CHECK enum eng_status disk_sim_flip(struct disk *disk, const char *path, uint64_t bit);

#ifdef __cplusplus
}
#endif

#endif
