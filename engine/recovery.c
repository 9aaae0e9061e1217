/*
 * Creating the files of a store, and starting from them.
 *
 * Creation makes every file of checkpoint 1, which is empty, syncs them and their names, and last of all gives
 * slots.new its name: the store exists from the moment state/slots does. A creation that was cut short is simply done
 * again. A state without slots whose journal is valid was not cut short: its slots are lost, which is damage.
 *
 * A start (the same after a crash as after a clean stop):
 *   newest valid root slot; a valid journal that is newer is rolled forward (pages, sync, slot, sync)
 *   header of segments, header of control: do they belong to this store and this checkpoint?
 *   control pages into the table, which gives live units of the segments and the free ids
 *   catalog of versions
 *   both root slots with the start number one higher, each synced, so that no generation is ever used twice
 * Segments with something live in them are sealed and belong to this checkpoint; all others are free. Objects keep
 * VERIFIED clear and are compared with their checksums when they are first looked at.
 *
 * Ways to fail: ENG_FOREIGN (another store's id), ENG_VERSION, ENG_DAMAGED with file and offset, ENG_FULL, ENG_IO. A
 * failed start changes nothing, except that a committed journal may have been rolled forward.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "rebuild.h"
#include "store_internal.h"

static enum eng_status sync_parent(struct disk *disk, const char *dir)
{
    char parent[512];
    const char *slash = strrchr(dir, '/');
    size_t length = slash ? (size_t)(slash - dir) : 0;
    memcpy(parent, dir, length);
    parent[length] = 0;
    return disk_sync_dir(disk, parent);
}

/* A file with this content and nothing else, synced. */
static enum eng_status file_create(const struct store_options *options, const char *name, const void *bytes,
                                   size_t length, uint64_t offset, uint64_t size)
{
    char path[512];
    struct disk_file *file = NULL;
    enum eng_status status = disk_open(options->disk, store_path(options->dir, name, path), DISK_CREATE, &file);
    if (status)
        return status;
    status = disk_truncate(file, 0);
    if (status == ENG_OK && size)
        status = disk_extend(file, size);
    if (status == ENG_OK && length)
        status = disk_write(file, offset, bytes, length);
    if (status == ENG_OK)
        status = disk_sync(file);
    disk_file_close(&file);
    return status;
}

/* No journal of a store that was in use may lie here. */
static enum eng_status creation_allowed(const struct store_options *options)
{
    char path[512];
    struct disk_file *file = NULL;
    struct journal journal;
    if (!disk_exists(options->disk, store_path(options->dir, "journal", path)))
        return ENG_OK;
    enum eng_status status = disk_open(options->disk, path, DISK_READ, &file);
    if (status)
        return status;
    status = journal_read(file, &journal);
    journal_free(&journal);
    disk_file_close(&file);
    if (status == ENG_OK)
        return eng_fail(ENG_DAMAGED, "%s/slots: missing, but %s is of a store in use", options->dir, path);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

enum eng_status state_create(const struct store_options *options)
{
    static const uint8_t nothing[1];
    char from[512], to[512];
    uint8_t header[SEGMENT_HEADER_BYTES];
    struct control_page page;
    struct rootslot slot = {.version = STATE_VERSION, .sequence = 1, .checkpoint = 1, .segments = 1, .ids_next = 1};
    slot.kind = (uint32_t)options->kind;
    slot.segment_bytes = options->segment_bytes;
    slot.leaf_bytes = options->leaf_bytes;
    slot.inline_bytes = options->inline_bytes;
    slot.catalog_checksum = XXH3_64bits(nothing, 0);
    memcpy(slot.store_id, options->store_id, ENG_STORE_ID_BYTES);
    randombytes_buf(slot.secret, sizeof slot.secret);
    if (slot.segment_bytes < ENG_SEGMENT_BYTES_MIN || slot.segment_bytes > ENG_SEGMENT_BYTES_MAX ||
        (slot.segment_bytes & (slot.segment_bytes - 1)))
        return eng_fail(ENG_INVALID, "%s: segments of %u bytes: not a power of two from %u to %u", options->dir,
                        slot.segment_bytes, ENG_SEGMENT_BYTES_MIN, ENG_SEGMENT_BYTES_MAX);
    rootslot_seal(&slot);
    segment_header_encode(header, options->store_id, options->segment_bytes);
    control_header_encode(&page, options->store_id, slot.checkpoint);

    enum eng_status status = disk_mkdir(options->disk, options->dir);
    if (status == ENG_OK)
        status = sync_parent(options->disk, options->dir);
    if (status == ENG_OK)
        status = creation_allowed(options);
    if (status == ENG_OK)
        status = file_create(options, "segments", header, sizeof header, 0, options->segment_bytes);
    if (status == ENG_OK)
        status = file_create(options, "control", &page, sizeof page, 0, 0);
    if (status == ENG_OK)
        status = file_create(options, "catalog.0", nothing, 0, 0, 0);
    if (status == ENG_OK)
        status = file_create(options, "catalog.1", nothing, 0, 0, 0);
    if (status == ENG_OK)
        status = file_create(options, "journal", nothing, 0, 0, 0);
    if (status == ENG_OK)
        status =
            file_create(options, "slots.new", &slot, sizeof slot, SLOT_STRIDE_BYTES, SLOT_STRIDE_BYTES + sizeof slot);
    if (status == ENG_OK)
        status = disk_sync_dir(options->disk, options->dir);
    if (status == ENG_OK)
        status = disk_rename(options->disk, store_path(options->dir, "slots.new", from),
                             store_path(options->dir, "slots", to));
    if (status == ENG_OK)
        status = disk_sync_dir(options->disk, options->dir);
    return status;
}

static enum eng_status file_open(struct store *store, const struct store_options *options, const char *name,
                                 bool needed, struct disk_file **file)
{
    char path[512];
    store_path(store->dir, name, path);
    if (options->rebuild && !needed && !disk_exists(store->disk, path)) {
        rebuild_say(options, "%s: missing, made anew", path);
        return disk_open(store->disk, path, DISK_CREATE, file);
    }
    enum eng_status status = disk_open(store->disk, path, DISK_WRITE, file);
    if (status == ENG_NOT_FOUND)
        status = eng_fail(ENG_DAMAGED, "%s: missing", path);
    return status;
}

static enum eng_status files_open(struct store *store, const struct store_options *options)
{
    enum eng_status status = file_open(store, options, "slots", true, &store->slots);
    if (status == ENG_OK)
        status = file_open(store, options, "journal", false, &store->journal);
    if (status == ENG_OK)
        status = file_open(store, options, "control", false, &store->control.file);
    if (status == ENG_OK)
        status = file_open(store, options, "catalog.0", false, &store->catalogs[0]);
    if (status == ENG_OK)
        status = file_open(store, options, "catalog.1", false, &store->catalogs[1]);
    if (status == ENG_OK)
        status = file_open(store, options, "segments", true, &store->segments.file);
    if (status == ENG_OK) /* whoever made them may have been killed before that */
        status = disk_sync_dir(store->disk, store->dir);
    return status;
}

/* The newest slot, rolled forward. */
static enum eng_status root_load(struct store *store, const uint8_t store_id[ENG_STORE_ID_BYTES])
{
    struct journal journal;
    enum eng_status status = rootslot_read(store->slots, &store->root);
    if (status)
        return status;
    if (memcmp(store->root.store_id, store_id, ENG_STORE_ID_BYTES) != 0)
        return eng_fail(ENG_FOREIGN, "%s: root slot: belongs to another store", disk_file_path(store->slots));
    /* What a process wrote that was killed, or whose sync failed, can be read and need not be on the disk. So the slot,
     * and below the journal, are written again and synced before anything they take the place of is overwritten. */
    status = rootslot_write(store->slots, &store->root);
    if (status == ENG_OK)
        status = disk_sync(store->slots);
    if (status)
        return status;
    status = journal_read(store->journal, &journal);
    if (status == ENG_OK && !rootslot_kin(&journal.slot, &store->root)) {
        status = eng_fail(ENG_FOREIGN, "%s: belongs to another store", disk_file_path(store->journal));
    } else if (status == ENG_OK && journal.slot.sequence > store->root.sequence) {
        status = journal_write(store->journal, &journal.slot, &journal.image);
        if (status == ENG_OK)
            status = disk_sync(store->journal);
        if (status == ENG_OK)
            status = journal_apply(store->control.file, &journal.image);
        if (status == ENG_OK)
            status = disk_sync(store->control.file);
        if (status == ENG_OK)
            status = rootslot_write(store->slots, &journal.slot);
        if (status == ENG_OK)
            status = disk_sync(store->slots);
        store->root = journal.slot;
    } else if (status == ENG_NOT_FOUND) {
        status = ENG_OK;
    }
    journal_free(&journal);
    return status;
}

/* A rebuild knows from the root slot what the header of the segments says. */
static enum eng_status segment_header_repair(struct store *store, const struct store_options *options,
                                             enum eng_status status, uint8_t header[SEGMENT_HEADER_BYTES])
{
    if (status != ENG_DAMAGED || !options->rebuild)
        return status;
    rebuild_say(options, "%s; made anew", eng_error());
    segment_header_encode(header, store->root.store_id, store->root.segment_bytes);
    status = disk_write(store->segments.file, 0, header, SEGMENT_HEADER_BYTES);
    return status == ENG_OK ? disk_sync(store->segments.file) : status;
}

/* Maps the segments of the file. */
static enum eng_status segments_load(struct store *store, const struct store_options *options)
{
    struct segments *segments = &store->segments;
    uint8_t header[SEGMENT_HEADER_BYTES];
    uint64_t size;
    const char *path = disk_file_path(segments->file);
    enum eng_status status = disk_size(segments->file, &size);
    if (status)
        return status;
    if (size < store->root.segment_bytes)
        return eng_fail(ENG_DAMAGED, "%s: %llu bytes: shorter than a segment", path, (unsigned long long)size);
    status = disk_read(segments->file, 0, header, sizeof header);
    if (status == ENG_OK)
        status = segment_header_check(header, path, store->root.store_id, store->root.segment_bytes);
    status = segment_header_repair(store, options, status, header);
    if (status == ENG_OK)
        status = segments_init(store, store->root.segment_bytes);
    if (status)
        return status;
    uint64_t total = size / store->root.segment_bytes, reserve = (uint64_t)segments->max * store->root.segment_bytes;
    if (total > segments->max)
        return eng_fail(ENG_TOO_LARGE, "%s: %llu segments: at most %u are supported", path, (unsigned long long)total,
                        segments->max);
    segments->total = (uint32_t)total;
    void *base;
    status = disk_map(segments->file, reserve, &base);
    if (status == ENG_OK)
        store->view.base = base;
    uint64_t limit = reserve / UNIT_BYTES;
    if (status == ENG_OK)
        status = control_init(store, limit < UINT32_MAX ? limit : UINT32_MAX);
    return status;
}

/* After the control pages: what is sealed, what is free. */
static void segments_classify(struct store *store)
{
    struct segments *segments = &store->segments;
    for (uint32_t n = segments->total; n-- > 0;) {
        struct segment *segment = &segments->table[n];
        segment->punched = true; /* it may be, or its end: reserved before it is used again */
        if (atomic_load_explicit(&segment->live, memory_order_relaxed) == 0) {
            if (segment->captured) { /* by a rebuild */
                segment->state = SEGMENT_EMPTY;
                segments->empty[segments->empty_count++] = n;
            } else {
                segments->free[segments->free_count++] = n;
            }
            continue;
        }
        segment->state = SEGMENT_SEALED;
        segment->captured = store->root.checkpoint;
        segment->checksummed = segment->fill;
        heap_put(segments, n);
    }
}

static enum eng_status control_pages_load(struct store *store)
{
    struct disk_file *file = store->control.file;
    struct control_page page;
    if (store->root.ids_next == 0 || store->root.ids_next > store->control.limit)
        return eng_fail(ENG_DAMAGED, "%s: root slot: next id %llu is impossible", disk_file_path(store->slots),
                        (unsigned long long)store->root.ids_next);
    uint64_t size, needed = (1 + control_pages(store->root.ids_next)) * (uint64_t)CONTROL_PAGE_BYTES;
    enum eng_status status = disk_size(file, &size);
    if (status == ENG_OK && size < needed)
        return eng_fail(ENG_DAMAGED, "%s: cut off at offset %llu: the root slot says %llu bytes", disk_file_path(file),
                        (unsigned long long)size, (unsigned long long)needed);
    if (status == ENG_OK)
        status = disk_read(file, 0, &page, sizeof page);
    if (status == ENG_OK)
        status = control_header_check(&page, disk_file_path(file), store->root.store_id, store->root.checkpoint);
    if (status == ENG_OK)
        status = control_load(store, store->root.ids_next);
    return status;
}

/* *read: the catalog a root slot names. ENG_DAMAGED. */
static enum eng_status catalog_read(struct store *store, const struct rootslot *slot, uint8_t **read)
{
    struct disk_file *file = store->catalogs[slot->checkpoint & 1];
    size_t length = slot->catalog_bytes;
    uint64_t size;
    enum eng_status status = disk_size(file, &size);
    if (status)
        return status;
    if (size < length)
        return eng_fail(ENG_DAMAGED, "%s: %llu bytes: the root slot says %zu", disk_file_path(file),
                        (unsigned long long)size, length);
    uint8_t *bytes = malloc(length + 1);
    if (!bytes)
        return eng_fail(ENG_NO_MEMORY, "%s: %zu bytes: out of memory", disk_file_path(file), length);
    if (length)
        status = disk_read(file, 0, bytes, length);
    if (status == ENG_OK && XXH3_64bits(bytes, length) != slot->catalog_checksum)
        status =
            eng_fail(ENG_DAMAGED, "%s: %zu bytes at offset 0: checksum does not match", disk_file_path(file), length);
    if (status == ENG_OK)
        *read = bytes;
    else
        free(bytes);
    return status;
}

static enum eng_status catalog_file_load(struct store *store)
{
    uint8_t *bytes = NULL;
    enum eng_status status = catalog_read(store, &store->root, &bytes);
    if (status == ENG_OK)
        status = catalog_load(store, bytes, store->root.catalog_bytes,
                              disk_file_path(store->catalogs[store->root.checkpoint & 1]));
    free(bytes);
    return status;
}

/* For a rebuild: the newest checkpoint whose catalog can be read. Numbers that may never fall stay those of the newest
 * slot. */
static enum eng_status root_choose(struct store *store, const struct store_options *options)
{
    uint8_t *bytes = NULL;
    enum eng_status status = catalog_read(store, &store->root, &bytes);
    for (unsigned i = 0; i < 2 && status == ENG_DAMAGED; i++) {
        struct rootslot older;
        char why[400];
        snprintf(why, sizeof why, "%s", eng_error());
        if (rootslot_read_at(store->slots, i, &older) != ENG_OK || older.checkpoint >= store->root.checkpoint ||
            !rootslot_kin(&older, &store->root) || catalog_read(store, &older, &bytes) != ENG_OK) {
            status = eng_fail(ENG_DAMAGED, "%s", why); /* the newest catalog's */
            continue;
        }
        rebuild_say(options, "%s; going back to checkpoint %llu", why, (unsigned long long)older.checkpoint);
        older.sequence = store->root.sequence;
        older.start = store->root.start;
        store->root = older;
        status = ENG_OK;
    }
    free(bytes);
    return status;
}

/* A start number nobody used before, in both slots: the one that is left if the other is lost must know of it. What was
 * made after the checkpoint until now is lost. */
static enum eng_status start_new(struct store *store)
{
    store->root.start++;
    assert(store->root.start < 1ull << (64 - GENERATION_START_SHIFT));
    enum eng_status status =
        lost_add(&store->lost, store->root.generation, store->root.start << GENERATION_START_SHIFT);
    if (status)
        return eng_fail(status, "%s: lost generations: %s", disk_file_path(store->slots),
                        status == ENG_DAMAGED ? "the newest checkpoint is of one" : "out of memory");
    for (unsigned i = 0; i < 2 && status == ENG_OK; i++) {
        store->root.sequence++; /* the older slot, and when that is on the disk the newer one */
        status = rootslot_write(store->slots, &store->root);
        if (status == ENG_OK)
            status = disk_sync(store->slots);
    }
    return status;
}

static enum eng_status kind_check(struct store *store, const struct store_options *options)
{
    uint32_t kind = store->root.kind, wanted = (uint32_t)options->kind;
    if (kind != STORE_ANY && wanted != STORE_ANY && kind != wanted)
        return eng_fail(ENG_INVALID,
                        "%s: the store was made %s a log of its own: open it with a durability of that kind",
                        disk_file_path(store->slots), kind == STORE_LOGGED ? "with" : "without");
    if (kind == STORE_ANY)
        store->root.kind = wanted;
    return ENG_OK;
}

enum eng_status state_load(struct store *store, const struct store_options *options)
{
    enum eng_status status = files_open(store, options);
    if (status == ENG_OK)
        status = root_load(store, options->store_id);
    if (status == ENG_OK)
        status = kind_check(store, options);
    if (status == ENG_OK && options->rebuild)
        status = root_choose(store, options);
    if (status == ENG_OK)
        status = segments_load(store, options);
    if (status == ENG_OK && !options->rebuild)
        status = control_pages_load(store);
    if (status == ENG_OK)
        status = catalog_file_load(store);
    if (status == ENG_OK && options->rebuild) /* it needs the catalog's lost generations */
        status = rebuild_table(store);
    if (status == ENG_OK)
        status = disk_size(store->journal, &store->journal_file_bytes);
    if (status == ENG_OK)
        status = disk_size(store->control.file, &store->control.file_bytes);
    for (int i = 0; i < 2 && status == ENG_OK; i++)
        status = disk_size(store->catalogs[i], &store->catalog_file_bytes[i]);
    if (status == ENG_OK)
        status = start_new(store);
    if (status)
        return status;
    segments_classify(store);
    status = segments_protect(store, store->root.checkpoint);
    if (status)
        return status;
    store->checkpoint.slot = store->root;
    atomic_store_explicit(&store->checkpoint.durable, store->root.checkpoint, memory_order_relaxed);
    atomic_store_explicit(&store->closed, store->root.start << GENERATION_START_SHIFT, memory_order_relaxed);
    store->app_bytes = store->root.app_bytes;
    memcpy(store->app_state, store->root.app_state, store->app_bytes);
    return ENG_OK;
}
