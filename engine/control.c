/*
 * The control table: id -> where the object is.
 *
 * In memory it is one array of atomic words, address space reserved once. 0 is a free id; id 0 is never used. The
 * table is a cache of the checkpoint plus everything since, never trusted after a crash: a start reads the pages of the
 * newest checkpoint and derives free ids and live counts from them.
 *
 * On disk it is state/control: a header page, then pages of 511 words and a checksum that is seeded with the page's
 * number, so that a page in the wrong place is noticed. The header names the number of the checkpoint the pages
 * belong to; it is written with every checkpoint, so a root slot that does not match its pages is noticed too.
 *
 * Changes mark their page dirty. A capture copies the dirty pages (flags in memory masked out) and marks them clean;
 * it runs between generations and under the maintenance lock, so nobody else changes a word then, except readers that
 * set VERIFIED, which is not on disk.
 *
 * Ids are reused at once, the last freed first, because its word is in the cache. That is safe without waiting for a
 * checkpoint: a crash brings back the table of the checkpoint as a whole, and what it names is protected by the
 * segments' captured mark; and no reader can hold a freed id, because it is visible from no version one can pin.
 *
 * An id is given out only when a checkpoint has room for its page and all others (checkpoint.c).
 *
 * Ways to fail: damaged pages (ENG_DAMAGED with file and offset); a full disk; no ids left is none from
 * control_take_ids.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "store_internal.h"

struct control_header {
    char magic[8]; /* "PANDOCTL" */
    uint32_t version, unused;
    uint64_t checkpoint;
    uint8_t store_id[ENG_STORE_ID_BYTES];
};
_Static_assert(sizeof(struct control_header) == 56, "on disk");

size_t control_pages(uint64_t next)
{
    return next <= 1 ? 0 : (size_t)((next + CONTROL_PAGE_IDS - 1) / CONTROL_PAGE_IDS);
}

enum eng_status control_init(struct store *store, uint64_t limit)
{
    struct control *control = &store->control;
    control->limit = limit;
    control->next = 1;
    store->view.control = memory_reserve(limit * sizeof(uint64_t));
    control->dirty = memory_reserve(control_pages(limit));
    control->free_ids = memory_reserve(limit * sizeof(uint32_t));
    return store->view.control && control->dirty && control->free_ids ? ENG_OK : ENG_NO_MEMORY;
}

void control_close(struct store *store)
{
    struct control *control = &store->control;
    disk_file_close(&control->file);
    memory_release((void *)store->view.control, control->limit * sizeof(uint64_t));
    memory_release((void *)control->dirty, control_pages(control->limit));
    memory_release(control->free_ids, control->limit * sizeof(uint32_t));
}

/* The id behind count new ones. Needs control.lock. */
static uint64_t control_behind(const struct control *control, uint64_t count)
{
    return count < control->limit - control->next ? control->next + count : control->limit;
}

enum eng_status control_take_ids(struct store *store, uint32_t *ids, size_t want, size_t *got)
{
    struct control *control = &store->control;
    size_t count = 0;
    pthread_mutex_lock(&control->lock);
    uint64_t behind = control_behind(control, want > control->free_count ? want - control->free_count : 0);
    enum eng_status status = checkpoint_room_ids(store, behind);
    if (status == ENG_FULL) { /* those of the last page that there is */
        uint64_t end = control_pages(control->next) * (uint64_t)CONTROL_PAGE_IDS;
        end = end > control->next ? end : control->next;
        behind = behind < end ? behind : end;
        status = control->free_count || behind > control->next ? checkpoint_room_ids(store, behind) : status;
    }
    while (status == ENG_OK && count < want && control->free_count)
        ids[count++] = control->free_ids[--control->free_count];
    while (status == ENG_OK && count < want && control->next < behind) {
        control_mark(control->dirty, (uint32_t)control->next); /* so that every page below next is on disk */
        ids[count++] = (uint32_t)control->next++;
    }
    pthread_mutex_unlock(&control->lock);
    *got = count;
    return status;
}

enum eng_status control_room(struct store *store, uint64_t count)
{
    struct control *control = &store->control;
    pthread_mutex_lock(&control->lock);
    uint64_t fresh = count > control->free_count ? count - control->free_count : 0;
    enum eng_status status = checkpoint_room_ids(store, control_behind(control, fresh));
    pthread_mutex_unlock(&control->lock);
    return status;
}

size_t control_ids_left(struct store *store)
{
    pthread_mutex_lock(&store->control.lock);
    size_t left = store->control.free_count + (size_t)(store->control.limit - store->control.next);
    pthread_mutex_unlock(&store->control.lock);
    return left;
}

void control_free_begin(struct store *store)
{
    pthread_mutex_lock(&store->control.lock);
}

void control_free(struct store *store, uint32_t id)
{
    struct control *control = &store->control;
    assert(id != 0 && id < control->next);
    /* acq_rel: partner of the compactor's compare-and-swap; either it moved the object before, or it fails */
    uint64_t word = atomic_exchange_explicit(&store->view.control[id], 0, memory_order_acq_rel);
    assert(word != 0); /* freed twice */
    control_mark(control->dirty, id);
    control->free_ids[control->free_count++] = id;
    atomic_store_explicit(&control->live, atomic_load_explicit(&control->live, memory_order_relaxed) - 1,
                          memory_order_relaxed);
    segment_release(store, segment_of(store, CONTROL_LOCATION(word)), CONTROL_UNITS(word));
    slot_offer(store, CONTROL_LOCATION(word), CONTROL_UNITS(word), CONTROL_TYPE(word) == OBJECT_INNER);
}

void control_free_end(struct store *store)
{
    pthread_mutex_unlock(&store->control.lock);
}

void control_page_seal(struct control_page *page, uint32_t number)
{
    page->checksum = XXH3_64bits_withSeed(page->words, sizeof page->words, number);
}

bool control_page_valid(const struct control_page *page, uint32_t number)
{
    return page->checksum == XXH3_64bits_withSeed(page->words, sizeof page->words, number);
}

void control_header_encode(struct control_page *page, const uint8_t store_id[ENG_STORE_ID_BYTES], uint64_t checkpoint)
{
    struct control_header header = {.version = STATE_VERSION, .checkpoint = checkpoint};
    memcpy(header.magic, "PANDOCTL", 8);
    memcpy(header.store_id, store_id, ENG_STORE_ID_BYTES);
    memset(page, 0, sizeof *page);
    memcpy(page->words, &header, sizeof header);
    control_page_seal(page, 0);
}

enum eng_status control_header_check(const struct control_page *page, const char *path,
                                     const uint8_t store_id[ENG_STORE_ID_BYTES], uint64_t checkpoint)
{
    struct control_header header;
    memcpy(&header, page->words, sizeof header);
    if (!control_page_valid(page, 0) || memcmp(header.magic, "PANDOCTL", 8) != 0)
        return eng_fail(ENG_DAMAGED, "%s: header at offset 0: checksum does not match", path);
    if (memcmp(header.store_id, store_id, ENG_STORE_ID_BYTES) != 0)
        return eng_fail(ENG_FOREIGN, "%s: header at offset 0: belongs to another store", path);
    if (header.checkpoint != checkpoint)
        return eng_fail(ENG_DAMAGED,
                        "%s: header at offset 0: pages of checkpoint %llu, but the newest valid root slot is of %llu",
                        path, (unsigned long long)header.checkpoint, (unsigned long long)checkpoint);
    return ENG_OK;
}

size_t control_dirty_count(struct store *store)
{
    size_t count = 0, pages = control_pages(store->control.next);
    for (size_t p = 0; p < pages; p++)
        count += atomic_load_explicit(&store->control.dirty[p], memory_order_relaxed);
    return count;
}

void control_capture(struct store *store, uint64_t checkpoint, struct control_image *image)
{
    struct control *control = &store->control;
    size_t pages = control_pages(control->next), n = 0;
    image->numbers[n] = 0;
    control_header_encode(&image->pages[n++], store->root.store_id, checkpoint);
    for (size_t p = 0; p < pages; p++) {
        if (!atomic_load_explicit(&control->dirty[p], memory_order_relaxed))
            continue;
        atomic_store_explicit(&control->dirty[p], 0, memory_order_relaxed);
        _Atomic uint64_t *words = &store->view.control[p * CONTROL_PAGE_IDS];
        struct control_page *page = &image->pages[n];
        size_t left = (size_t)(control->limit - p * CONTROL_PAGE_IDS);
        size_t ids = left < CONTROL_PAGE_IDS ? left : CONTROL_PAGE_IDS;
        for (size_t i = 0; i < ids; i++) /* relaxed: the locks of a capture order it, see the top comment */
            page->words[i] = atomic_load_explicit(&words[i], memory_order_relaxed) & CONTROL_DISK_MASK;
        memset(page->words + ids, 0, (CONTROL_PAGE_IDS - ids) * sizeof page->words[0]);
        image->numbers[n] = (uint32_t)p + 1;
        control_page_seal(page, image->numbers[n++]);
    }
    image->count = n;
}

bool control_word_valid(uint64_t word, uint32_t segment_bytes, uint64_t file_bytes)
{
    uint64_t location = CONTROL_LOCATION(word), units = CONTROL_UNITS(word), segment_units = segment_bytes / UNIT_BYTES;
    return (word & ~CONTROL_DISK_MASK) == 0 && units > 0 && CONTROL_TYPE(word) != OBJECT_NONE &&
           CONTROL_TYPE(word) <= OBJECT_TREE && location >= SEGMENT_HEADER_BYTES / UNIT_BYTES &&
           (location + units) * UNIT_BYTES <= file_bytes &&
           location / segment_units == (location + units - 1) / segment_units;
}

/* Takes one page into the table. */
static enum eng_status control_load_page(struct store *store, const struct control_page *page, size_t p)
{
    struct segments *segments = &store->segments;
    uint64_t file_bytes = (uint64_t)segments->total * segments->units * UNIT_BYTES;
    for (size_t i = 0; i < CONTROL_PAGE_IDS; i++) {
        uint64_t word = page->words[i], id = p * CONTROL_PAGE_IDS + i;
        if (word == 0)
            continue;
        if (id == 0 || id >= store->control.next || !control_word_valid(word, segments->units * UNIT_BYTES, file_bytes))
            return eng_fail(ENG_DAMAGED, "%s: entry of id %llu at offset %llu: impossible location, size or type",
                            disk_file_path(store->control.file), (unsigned long long)id,
                            (unsigned long long)((p + 1) * CONTROL_PAGE_BYTES + i * 8));
        atomic_store_explicit(&store->view.control[id], word, memory_order_relaxed);
        uint64_t location = CONTROL_LOCATION(word), units = CONTROL_UNITS(word);
        struct segment *segment = &segments->table[segment_of(store, location)];
        atomic_fetch_add_explicit(&segment->live, units, memory_order_relaxed);
        uint32_t end = (uint32_t)((location & (segments->units - 1)) + units);
        if (end > segment->fill)
            segment->fill = end;
        atomic_fetch_add_explicit(&store->control.live, 1, memory_order_relaxed);
    }
    return ENG_OK;
}

enum eng_status control_load(struct store *store, uint64_t next)
{
    struct control *control = &store->control;
    const char *path = disk_file_path(control->file);
    control->next = next;
    size_t pages = control_pages(next), batch = 64;
    struct control_page *buffer = malloc(batch * sizeof *buffer);
    if (!buffer)
        return eng_fail(ENG_NO_MEMORY, "%s: buffer of %zu pages: out of memory", path, batch);
    enum eng_status status = ENG_OK;
    for (size_t p = 0; p < pages && status == ENG_OK; p += batch) {
        size_t count = pages - p < batch ? pages - p : batch;
        status = disk_read(control->file, (p + 1) * CONTROL_PAGE_BYTES, buffer, count * sizeof *buffer);
        for (size_t i = 0; i < count && status == ENG_OK; i++) {
            if (!control_page_valid(&buffer[i], (uint32_t)(p + i + 1)))
                status = eng_fail(ENG_DAMAGED, "%s: page at offset %llu: checksum does not match", path,
                                  (unsigned long long)((p + i + 1) * CONTROL_PAGE_BYTES));
            else
                status = control_load_page(store, &buffer[i], p + i);
        }
    }
    free(buffer);
    for (uint64_t id = next; status == ENG_OK && id-- > 1;)
        if (!atomic_load_explicit(&store->view.control[id], memory_order_relaxed))
            control->free_ids[control->free_count++] = (uint32_t)id;
    return status;
}
