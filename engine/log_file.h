/*
 * The files of the log as one range of stream offsets. Private to log*.c.
 *
 * Threads: any, for every call; log_files_cut only while nobody else uses the files.
 */
#ifndef PANDO_LOG_FILE_H
#define PANDO_LOG_FILE_H

#include <pthread.h>

#include "log_format.h"

#define LOG_FILES_OPEN_MAX 32u /* idle handles kept */
#define LOG_FILES_HELD_MAX 16u /* of these, for the file that is written and those behind it */
#define LOG_PATH_BYTES_MAX 320u

struct log_slot;

struct log_files {
    struct disk *disk;
    char *dir;
    struct log_key key;
    uint64_t file_bytes;
    pthread_mutex_t mutex; /* of the rest */
    pthread_cond_t unpinned;
    uint64_t first, count; /* numbers of the files: [first, first + count) */
    struct log_slot **slots;
    uint64_t capacity;
    uint64_t tail; /* number of the file that was written last */
    uint64_t open, tick;
    bool undecided; /* a removal failed: whether the name is gone is not known, so nothing is removed any more */
};

/* Finds the files of a directory (made if absent), removes left-over .tmp files and makes their names stable.
 * file_bytes, and a new salt, are used if there is no file yet. ENG_DAMAGED, ENG_FOREIGN, ENG_VERSION for the first and
 * last one; ENG_DAMAGED if there is none and they were made before. */
ENG_MUST_CHECK enum eng_status log_files_open(struct log_files *files, struct disk *disk, const char *dir,
                                              const uint8_t *store_id, uint64_t file_bytes, bool made);
void log_files_close(struct log_files *files);

/* The stream offsets the files have room for: [begin, end). */
uint64_t log_files_begin(struct log_files *files);
uint64_t log_files_end(struct log_files *files);

/* Opens the file with this offset and those behind it, and keeps them open for the writes and syncs to come. */
ENG_MUST_CHECK enum eng_status log_files_hold(struct log_files *files, uint64_t offset);

/* Makes the next file: reserved, zeroed, synced, named; it stays open. ENG_FULL (also: too many open files) leaves
 * nothing behind and may be tried again. One caller at a time. */
ENG_MUST_CHECK enum eng_status log_files_prepare(struct log_files *files);

/* ENG_GONE below the first file; ENG_IO past the end. */
ENG_MUST_CHECK enum eng_status log_files_read(struct log_files *files, uint64_t offset, void *bytes, uint64_t length);
ENG_MUST_CHECK enum eng_status log_files_write(struct log_files *files, uint64_t offset, const void *bytes,
                                               uint64_t length);
/* Syncs every file that holds a byte of [from, to), in order. */
ENG_MUST_CHECK enum eng_status log_files_sync(struct log_files *files, uint64_t from, uint64_t to);

/* Removes the files before file number first, oldest first, each removal made stable before the next. When one failed,
 * this and every later call is ENG_IO, until the files are opened again. */
ENG_MUST_CHECK enum eng_status log_files_trim(struct log_files *files, uint64_t first);
/* Removes the files after file number last, newest first, likewise. */
ENG_MUST_CHECK enum eng_status log_files_cut(struct log_files *files, uint64_t last);

/* "log/00000000000003.log" and the byte in it, for a stream offset; for messages. */
void log_files_name(const struct log_files *files, uint64_t offset, char path[LOG_PATH_BYTES_MAX], uint64_t *at);
/* ENG_DAMAGED: the files begin or end so that this offset is in none. */
ENG_MUST_CHECK enum eng_status log_files_missing(const struct log_files *files, uint64_t offset);
/* ENG_DAMAGED naming the file and the place in it. */
ENG_MUST_CHECK enum eng_status log_files_damaged(const struct log_files *files, uint64_t offset, const char *why);

#endif
