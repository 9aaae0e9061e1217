/*
 * What a backing of the disk seam provides. Private to disk*.c.
 *
 * disk.c checks arguments, asserts what callers must not do, and dispatches through this table; a backing embeds
 * struct disk and struct disk_file as first members of its own handles. Paths that reach a backing are never empty
 * (except for list and sync_dir, where "" is the root), never absolute and have no "." or ".." parts.
 */
#ifndef PANDO_DISK_BACKING_H
#define PANDO_DISK_BACKING_H

#include "pando/disk.h"

#define DISK_MAGIC 0x6b736964u      /* "disk" */
#define DISK_FILE_MAGIC 0x656c6966u /* "file" */
#define DISK_PATH_BYTES_MAX 1024u

typedef void disk_list_each(void *context, const char *name);

struct disk_backing {
    void (*close)(struct disk *disk);
    enum eng_status (*open)(struct disk *disk, const char *path, int flags, struct disk_file **file);
    enum eng_status (*mkdir)(struct disk *disk, const char *path);
    enum eng_status (*rename)(struct disk *disk, const char *from, const char *to);
    enum eng_status (*remove)(struct disk *disk, const char *path);
    enum eng_status (*sync_dir)(struct disk *disk, const char *path);
    enum eng_status (*list)(struct disk *disk, const char *path, disk_list_each *each, void *context);
    bool (*exists)(struct disk *disk, const char *path);
    enum eng_status (*lock)(struct disk *disk, const char *path);

    void (*file_close)(struct disk_file *file);
    enum eng_status (*size)(struct disk_file *file, uint64_t *size_bytes);
    enum eng_status (*read)(struct disk_file *file, uint64_t offset, void *bytes, size_t length);
    enum eng_status (*write)(struct disk_file *file, uint64_t offset, const void *bytes, size_t length);
    enum eng_status (*sync)(struct disk_file *file);
    enum eng_status (*write_back)(struct disk_file *file);
    enum eng_status (*extend)(struct disk_file *file, uint64_t size_bytes);
    enum eng_status (*reserve)(struct disk_file *file, uint64_t offset, uint64_t length);
    enum eng_status (*truncate)(struct disk_file *file, uint64_t size_bytes);
    enum eng_status (*punch)(struct disk_file *file, uint64_t offset, uint64_t length);
    enum eng_status (*map)(struct disk_file *file, uint64_t reserve_bytes, void **base);
    enum eng_status (*protect)(struct disk_file *file, uint64_t offset, uint64_t length, bool read_only);
    enum eng_status (*pin)(struct disk_file *file, uint64_t offset, uint64_t length, bool pinned);
};

struct disk {
    uint32_t magic;
    const struct disk_backing *backing;
    char *root;
};

struct disk_file {
    uint32_t magic;
    struct disk *disk;
    char *path; /* relative to the root */
    bool writable;
    bool mapped;
};

/* Fills the common part. ENG_NO_MEMORY leaves nothing to free. */
ENG_MUST_CHECK enum eng_status disk_init(struct disk *disk, const struct disk_backing *backing, const char *root);
ENG_MUST_CHECK enum eng_status disk_file_init(struct disk_file *file, struct disk *disk, const char *path, int flags);
/* Frees the common part; the backing then frees the handle. */
void disk_fini(struct disk *disk);
void disk_file_fini(struct disk_file *file);

#endif
