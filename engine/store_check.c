/*
 * store_check: looks for faults in the files of a store that is not open, and reports all it finds.
 *
 * Works on the files alone, through disk_read, and shares only the decoders with recovery. Checked are: both root
 * slots, the journal (pages of one that a start would roll forward are taken instead of the file's), the headers, every
 * control page and word, overlapping objects, the catalog, and with deep every live object: header, checksum, and that
 * the death lists are whole, name live objects with their birth, and that no list object is left over.
 *
 * A torn journal and one invalid root slot are not faults: a crash leaves them. Each line reported names file and
 * offset. ENG_DAMAGED if anything was reported; other errors (ENG_IO, ENG_NOT_FOUND, ENG_NO_MEMORY) end the check.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "store_internal.h"

struct check {
    struct disk *disk;
    const char *dir;
    void (*report)(void *context, const char *line);
    void *context;
    uint64_t faults;
    struct disk_file *slots, *journal_file, *control, *segments, *catalog;
    struct journal journal;
    bool rolled; /* the journal counts */
    struct rootslot root;
    uint64_t *words; /* by id, 0: free */
    uint8_t *listed; /* by id: a list object that was met */
    uint8_t *object; /* buffer */
    size_t object_bytes;
};

__attribute__((format(printf, 2, 3))) static void fault(struct check *check, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    check->faults++;
    check->report(check->context, line);
}

/* What a decoder found becomes a report; other errors are passed on. */
static enum eng_status as_fault(struct check *check, enum eng_status status)
{
    if (status != ENG_DAMAGED && status != ENG_FOREIGN && status != ENG_VERSION)
        return status;
    fault(check, "%s", eng_error());
    return ENG_OK;
}

static enum eng_status check_open(struct check *check, const char *name, struct disk_file **file)
{
    char path[512];
    enum eng_status status = disk_open(check->disk, store_path(check->dir, name, path), DISK_READ, file);
    if (status == ENG_NOT_FOUND && strcmp(name, "slots") != 0)
        status = eng_fail(ENG_DAMAGED, "%s: missing", path);
    return status;
}

static enum eng_status check_root(struct check *check)
{
    enum eng_status status = check_open(check, "slots", &check->slots);
    if (status == ENG_OK)
        status = rootslot_read(check->slots, &check->root);
    if (status == ENG_OK)
        status = check_open(check, "journal", &check->journal_file);
    if (status)
        return status;
    status = journal_read(check->journal_file, &check->journal);
    if (status == ENG_NOT_FOUND)
        return ENG_OK;
    if (status)
        return status;
    if (!rootslot_kin(&check->journal.slot, &check->root)) {
        fault(check, "%s: belongs to another store", disk_file_path(check->journal_file));
    } else if (check->journal.slot.sequence > check->root.sequence) {
        check->rolled = true;
        check->root = check->journal.slot;
    }
    return ENG_OK;
}

/* A control page as a start would see it. */
static enum eng_status check_page_read(struct check *check, uint32_t number, struct control_page *page)
{
    if (check->rolled)
        for (size_t i = 0; i < check->journal.image.count; i++)
            if (check->journal.image.numbers[i] == number) {
                *page = check->journal.image.pages[i];
                return ENG_OK;
            }
    uint64_t size, offset = number * (uint64_t)CONTROL_PAGE_BYTES;
    enum eng_status status = disk_size(check->control, &size);
    if (status == ENG_OK && size < offset + sizeof *page)
        return eng_fail(ENG_DAMAGED, "%s: page at offset %llu: the file ends at %llu", disk_file_path(check->control),
                        (unsigned long long)offset, (unsigned long long)size);
    return status == ENG_OK ? disk_read(check->control, offset, page, sizeof *page) : status;
}

static void check_words(struct check *check, const struct control_page *page, uint64_t number, uint64_t file_bytes)
{
    for (uint64_t i = 0; i < CONTROL_PAGE_IDS; i++) {
        uint64_t id = (number - 1) * CONTROL_PAGE_IDS + i, word = page->words[i];
        if (word == 0)
            continue;
        if (id == 0 || id >= check->root.ids_next || !control_word_valid(word, check->root.segment_bytes, file_bytes))
            fault(check, "%s: entry of id %llu at offset %llu: impossible location, size or type",
                  disk_file_path(check->control), (unsigned long long)id,
                  (unsigned long long)(number * CONTROL_PAGE_BYTES + i * 8));
        else
            check->words[id] = word;
    }
}

/* One page of the table, or what is wrong with it. *end: the file has no more. */
static enum eng_status check_page(struct check *check, uint64_t p, uint64_t file_bytes, bool *end)
{
    struct control_page page;
    enum eng_status status = check_page_read(check, (uint32_t)p, &page);
    if (status == ENG_DAMAGED)
        *end = true;
    if (status)
        return as_fault(check, status);
    if (p == 0)
        return as_fault(check, control_header_check(&page, disk_file_path(check->control), check->root.store_id,
                                                    check->root.checkpoint));
    if (!control_page_valid(&page, (uint32_t)p))
        fault(check, "%s: page at offset %llu: checksum does not match", disk_file_path(check->control),
              (unsigned long long)(p * CONTROL_PAGE_BYTES));
    else
        check_words(check, &page, p, file_bytes);
    return ENG_OK;
}

static enum eng_status check_segment_header(struct check *check, uint64_t file_bytes)
{
    uint8_t header[SEGMENT_HEADER_BYTES];
    if (file_bytes < check->root.segment_bytes) {
        fault(check, "%s: cut off at offset %llu: shorter than a segment", disk_file_path(check->segments),
              (unsigned long long)file_bytes);
        return ENG_OK;
    }
    enum eng_status status = disk_read(check->segments, 0, header, sizeof header);
    if (status)
        return status;
    return as_fault(check, segment_header_check(header, disk_file_path(check->segments), check->root.store_id,
                                                check->root.segment_bytes));
}

static enum eng_status check_control(struct check *check)
{
    uint64_t file_bytes = 0, ids = check->root.ids_next, pages = control_pages(ids);
    bool end = false;
    check->words = calloc(ids + 1, sizeof *check->words);
    check->listed = calloc(ids + 1, 1);
    if (!check->words || !check->listed)
        return eng_fail(ENG_NO_MEMORY, "%s: table of %llu ids: out of memory", check->dir, (unsigned long long)ids);
    enum eng_status status = check_open(check, "segments", &check->segments);
    if (status == ENG_OK)
        status = disk_size(check->segments, &file_bytes);
    if (status == ENG_OK)
        status = check_segment_header(check, file_bytes);
    if (status == ENG_OK)
        status = check_open(check, "control", &check->control);
    for (uint64_t p = 0; p <= pages && status == ENG_OK && !end; p++)
        status = check_page(check, p, file_bytes, &end);
    return status;
}

static int by_location(const void *a, const void *b)
{
    uint64_t left = CONTROL_LOCATION(*(const uint64_t *)a), right = CONTROL_LOCATION(*(const uint64_t *)b);
    return left < right ? -1 : left > right;
}

static enum eng_status check_overlaps(struct check *check)
{
    uint64_t count = 0, *sorted = malloc((check->root.ids_next + 1) * sizeof *sorted);
    if (!sorted)
        return eng_fail(ENG_NO_MEMORY, "%s: table of objects: out of memory", check->dir);
    for (uint64_t id = 1; id < check->root.ids_next; id++)
        if (check->words[id])
            sorted[count++] = check->words[id];
    qsort(sorted, count, sizeof *sorted, by_location);
    for (uint64_t i = 1; i < count; i++)
        if (CONTROL_LOCATION(sorted[i - 1]) + CONTROL_UNITS(sorted[i - 1]) > CONTROL_LOCATION(sorted[i]))
            fault(check, "%s: objects at offsets %llu and %llu overlap", disk_file_path(check->segments),
                  (unsigned long long)(CONTROL_LOCATION(sorted[i - 1]) * UNIT_BYTES),
                  (unsigned long long)(CONTROL_LOCATION(sorted[i]) * UNIT_BYTES));
    free(sorted);
    return ENG_OK;
}

/* Reads a live object into check->object. */
static enum eng_status check_object_read(struct check *check, uint64_t word)
{
    size_t bytes = CONTROL_UNITS(word) * (size_t)UNIT_BYTES;
    if (bytes > check->object_bytes) {
        uint8_t *grown = realloc(check->object, bytes);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "%s: object of %zu bytes: out of memory", check->dir, bytes);
        check->object = grown;
        check->object_bytes = bytes;
    }
    return disk_read(check->segments, CONTROL_LOCATION(word) * UNIT_BYTES, check->object, bytes);
}

static enum eng_status check_objects(struct check *check)
{
    enum eng_status status = ENG_OK;
    for (uint64_t id = 1; id < check->root.ids_next && status == ENG_OK; id++) {
        uint64_t word = check->words[id];
        if (!word)
            continue;
        status = check_object_read(check, word);
        if (status)
            break;
        const struct object *object = (const void *)check->object;
        if (object->id != id || object->units != CONTROL_UNITS(word) || object->type != (uint32_t)CONTROL_TYPE(word))
            fault(check, "%s: object %llu at offset %llu: its header names another object",
                  disk_file_path(check->segments), (unsigned long long)id,
                  (unsigned long long)(CONTROL_LOCATION(word) * UNIT_BYTES));
        else if (object->checksum != object_checksum(check->root.secret, object))
            fault(check, "%s: object %llu at offset %llu: checksum does not match", disk_file_path(check->segments),
                  (unsigned long long)id, (unsigned long long)(CONTROL_LOCATION(word) * UNIT_BYTES));
    }
    return status;
}

/* One entry of a death list names a live object, born when it says. */
static enum eng_status check_entry(struct check *check, uint32_t list, struct death death)
{
    struct object header;
    uint64_t word = death.id && death.id < check->root.ids_next ? check->words[death.id] : 0;
    if (!word) {
        fault(check, "%s: list object %u names object %u, which is not live", disk_file_path(check->segments), list,
              death.id);
        return ENG_OK;
    }
    enum eng_status status = disk_read(check->segments, CONTROL_LOCATION(word) * UNIT_BYTES, &header, sizeof header);
    if (status == ENG_OK && header.generation != death.born)
        fault(check, "%s: list object %u says object %u was born in %llu, its header at offset %llu says %llu",
              disk_file_path(check->segments), list, death.id, (unsigned long long)death.born,
              (unsigned long long)(CONTROL_LOCATION(word) * UNIT_BYTES), (unsigned long long)header.generation);
    return status;
}

static enum eng_status check_list(struct check *check, uint32_t list)
{
    enum eng_status status = ENG_OK;
    while (list && status == ENG_OK) {
        uint64_t word = list < check->root.ids_next ? check->words[list] : 0;
        if (!word || CONTROL_TYPE(word) != OBJECT_LIST || check->listed[list]) {
            fault(check, "%s: death list: object %u is no list object, or on two lists",
                  disk_file_path(check->segments), list);
            return ENG_OK;
        }
        check->listed[list] = 1;
        status = check_object_read(check, word);
        if (status)
            break;
        struct list_chunk chunk;
        memcpy(&chunk, check->object, sizeof chunk);
        if (sizeof chunk + (uint64_t)chunk.count * LIST_ENTRY_BYTES > CONTROL_UNITS(word) * (uint64_t)UNIT_BYTES) {
            fault(check, "%s: list object %u at offset %llu: impossible count %u", disk_file_path(check->segments),
                  list, (unsigned long long)(CONTROL_LOCATION(word) * UNIT_BYTES), chunk.count);
            return ENG_OK;
        }
        for (uint32_t i = 0; i < chunk.count && status == ENG_OK; i++)
            status = check_entry(check, list, list_entry(check->object + sizeof chunk, i));
        list = chunk.next;
    }
    return status;
}

static enum eng_status check_catalog(struct check *check, bool deep)
{
    size_t length = check->root.catalog_bytes;
    uint64_t size;
    enum eng_status status = check_open(check, check->root.checkpoint & 1 ? "catalog.1" : "catalog.0", &check->catalog);
    if (status == ENG_OK)
        status = disk_size(check->catalog, &size);
    if (status)
        return status;
    const char *path = disk_file_path(check->catalog);
    if (size < length)
        return eng_fail(ENG_DAMAGED, "%s: %llu bytes: the root slot says %zu", path, (unsigned long long)size, length);
    uint8_t *bytes = malloc(length + 1);
    if (!bytes)
        return eng_fail(ENG_NO_MEMORY, "%s: %zu bytes: out of memory", path, length);
    if (length)
        status = disk_read(check->catalog, 0, bytes, length);
    if (status == ENG_OK && XXH3_64bits(bytes, length) != check->root.catalog_checksum) {
        fault(check, "%s: %zu bytes at offset 0: checksum does not match", path, length);
        length = 0;
        deep = false;
    }
    for (size_t at = 0; at + sizeof(struct catalog_entry) <= length && status == ENG_OK;
         at += sizeof(struct catalog_entry)) {
        struct catalog_entry entry;
        memcpy(&entry, bytes + at, sizeof entry);
        if (entry.kind == CATALOG_RELEASE || entry.kind == CATALOG_LOST) /* they name no object */
            continue;
        if (entry.lineage >= ENG_ROOTS_MAX || entry.root >= check->root.ids_next ||
            (entry.root && !check->words[entry.root]))
            fault(check, "%s: entry at offset %zu: root object %u is not live", path, at, entry.root);
        if (deep && entry.kind <= CATALOG_DROPPED)
            status = check_list(check, entry.list);
    }
    free(bytes);
    for (uint64_t id = 1; deep && status == ENG_OK && id < check->root.ids_next; id++)
        if (check->words[id] && CONTROL_TYPE(check->words[id]) == OBJECT_LIST && !check->listed[id])
            fault(check, "%s: list object %llu at offset %llu is on no version's list", disk_file_path(check->segments),
                  (unsigned long long)id, (unsigned long long)(CONTROL_LOCATION(check->words[id]) * UNIT_BYTES));
    return status;
}

enum eng_status store_check(struct disk *disk, const char *dir, bool deep,
                            void (*report)(void *context, const char *line), void *context)
{
    struct check check = {.disk = disk, .dir = dir, .report = report, .context = context};
    enum eng_status status = check_root(&check);
    if (status == ENG_OK)
        status = check_control(&check);
    if (status == ENG_OK)
        status = check_overlaps(&check);
    if (status == ENG_OK && deep)
        status = check_objects(&check);
    if (status == ENG_OK)
        status = check_catalog(&check, deep);
    status = as_fault(&check, status);
    journal_free(&check.journal);
    free(check.words);
    free(check.listed);
    free(check.object);
    disk_file_close(&check.slots);
    disk_file_close(&check.journal_file);
    disk_file_close(&check.control);
    disk_file_close(&check.segments);
    disk_file_close(&check.catalog);
    if (status == ENG_OK && check.faults)
        status = eng_fail(ENG_DAMAGED, "%s: %llu faults found", dir, (unsigned long long)check.faults);
    return status;
}

/* store_check tells what is wrong */
static void ignore_line(void *context, const char *line)
{
    (void)context;
    (void)line;
}

enum eng_status store_facts(struct disk *disk, const char *dir, struct store_facts *facts)
{
    struct check check = {.disk = disk, .dir = dir, .report = ignore_line};
    enum eng_status status = check_root(&check);
    if (status == ENG_OK) {
        facts->kind = (enum store_kind)check.root.kind;
        facts->app_bytes = check.root.app_bytes;
        memcpy(facts->store_id, check.root.store_id, sizeof facts->store_id);
        memcpy(facts->app_state, check.root.app_state, sizeof facts->app_state);
    }
    journal_free(&check.journal);
    disk_file_close(&check.slots);
    disk_file_close(&check.journal_file);
    return status;
}
