/* The control table in memory, the free ids, and the pages of the table on disk. See control.c. */
#ifndef ENGINE_CONTROL_H
#define ENGINE_CONTROL_H

#include <pthread.h>

#include "store.h"

#define CONTROL_PAGE_BYTES 4096u
#define CONTROL_PAGE_IDS 511u
#define CONTROL_DISK_MASK (CONTROL_VERIFIED - 1) /* what of a word is on disk: location, size, type */

/* File page 0 is the header, page p+1 holds ids p*511 ... p*511+510. */
struct control_page {
    uint64_t words[CONTROL_PAGE_IDS];
    uint64_t checksum; /* XXH3 of the words, seed: file page number */
};
_Static_assert(sizeof(struct control_page) == CONTROL_PAGE_BYTES, "on disk");

struct control {
    struct disk_file *file;
    uint64_t file_bytes;
    _Atomic uint8_t *dirty; /* by page: changed since the last capture */
    uint64_t limit;         /* ids are below it */
    uint64_t next;          /* ids from here on were never used */
    uint32_t *free_ids;
    size_t free_count;
    pthread_mutex_t lock; /* next, free_ids, free_count */
    _Atomic uint64_t live;
};

ENG_MUST_CHECK enum eng_status control_init(struct store *store, uint64_t limit);
void control_close(struct store *store);

static inline void control_mark(_Atomic uint8_t *dirty, uint32_t id)
{
    _Atomic uint8_t *mark = &dirty[id / CONTROL_PAGE_IDS];
    /* relaxed: a capture excludes all who mark by a lock */
    if (!atomic_load_explicit(mark, memory_order_relaxed))
        atomic_store_explicit(mark, 1, memory_order_relaxed);
}

/* Pages that hold the ids below next. */
size_t control_pages(uint64_t next);
/* Up to want free ids, to be used in this order: the last freed first, new ones ascending; none when there are none
 * left. ENG_FULL, ENG_IO: no room for the checkpoint that they need; none taken. Any thread. */
ENG_MUST_CHECK enum eng_status control_take_ids(struct store *store, uint32_t *ids, size_t want, size_t *got);
/* Makes sure that count ids do not fail for lack of that room. */
ENG_MUST_CHECK enum eng_status control_room(struct store *store, uint64_t count);
size_t control_ids_left(struct store *store);

/* Frees objects: word, space and id. Between control_free_begin and control_free_end (one lock for many). */
void control_free_begin(struct store *store);
void control_free(struct store *store, uint32_t id);
void control_free_end(struct store *store);

/* Dirty pages as they are on disk, the header page first. Both arrays are of count entries. */
struct control_image {
    uint32_t *numbers; /* file page numbers */
    struct control_page *pages;
    size_t count;
};
size_t control_dirty_count(struct store *store);
/* Fills image (arrays of control_dirty_count() + 1 entries) and marks all pages clean. */
void control_capture(struct store *store, uint64_t checkpoint, struct control_image *image);

void control_page_seal(struct control_page *page, uint32_t number);
bool control_page_valid(const struct control_page *page, uint32_t number);
void control_header_encode(struct control_page *page, const uint8_t store_id[ENG_STORE_ID_BYTES], uint64_t checkpoint);
/* The header page names this store and this checkpoint. */
ENG_MUST_CHECK enum eng_status control_header_check(const struct control_page *page, const char *path,
                                                    const uint8_t store_id[ENG_STORE_ID_BYTES], uint64_t checkpoint);
/* Is this word of a page possible in a file of that size? */
bool control_word_valid(uint64_t word, uint32_t segment_bytes, uint64_t file_bytes);

/* Reads pages of ids below next from the file into the table, derives free ids and live units of the segments. */
ENG_MUST_CHECK enum eng_status control_load(struct store *store, uint64_t next);

#endif
