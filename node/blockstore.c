/*
 * Sealed blocks by height. The layout of the index file is in blockstore.h.
 *
 * Happy path: add appends the offset and keeps the bytes in a ring of recent blocks; read copies from the ring, or
 * reads the record at the indexed offset and checks that it is the sealed block of that height; save writes the new
 * part of the index and syncs it.
 *
 * Ways to fail: a record that is not what the index says is ENG_DAMAGED, naming height and offset. A ring that is full
 * of blocks that are not durable yet waits for the log. A failed write or sync of the index is returned; the caller
 * makes no checkpoint then.
 *
 * Invariants: offsets[h - 1] is the record of height h for 1 <= h <= height; recent blocks are consecutive heights up
 * to the newest added one; one leaves the ring only when the log is durable behind it.
 */
#include "blockstore.h"

#include <assert.h>
#include <endian.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "blockend.h"
#include "vector.h"

#define INDEX_VERSION 1u
#define INDEX_HEADER_BYTES 64u
#define INDEX_ENTRY_BYTES 16u
#define INDEX_CHUNK_ENTRIES 4096u

struct recent {
    uint64_t height, end;
    uint8_t *bytes;
    size_t size;
};

struct blockstore {
    struct disk *disk;
    struct log *log;
    bool flush;
    uint8_t ledger_id[32];
    pthread_mutex_t lock; /* all below */
    uint64_t *offsets;
    size_t height, capacity;
    uint64_t saved;   /* heights the file has */
    bool header_good; /* of the file */
    uint64_t durable;
    struct recent recent[BLOCKSTORE_RECENT_MAX];
    size_t recent_first, recent_count;
    size_t recent_bytes;
};

enum eng_status blockstore_open(struct disk *disk, struct log *log, const uint8_t ledger_id[32], bool flush,
                                struct blockstore **store)
{
    struct blockstore *made = calloc(1, sizeof(*made));
    if (!made)
        return eng_fail(ENG_NO_MEMORY, "block store: no memory");
    made->disk = disk;
    made->log = log;
    made->flush = flush;
    memcpy(made->ledger_id, ledger_id, 32);
    pthread_mutex_init(&made->lock, NULL);
    *store = made;
    return ENG_OK;
}

void blockstore_close(struct blockstore **store)
{
    if (!*store)
        return;
    for (size_t i = 0; i < BLOCKSTORE_RECENT_MAX; i++)
        free((*store)->recent[i].bytes);
    free((*store)->offsets);
    pthread_mutex_destroy(&(*store)->lock);
    free(*store);
    *store = NULL;
}

/* ---- the file ---- */

static void encode_header(const struct blockstore *store, uint8_t bytes[INDEX_HEADER_BYTES])
{
    uint32_t version = htole32(INDEX_VERSION);
    memset(bytes, 0, INDEX_HEADER_BYTES);
    memcpy(bytes, "pandoidx", 8);
    memcpy(bytes + 8, &version, 4);
    memcpy(bytes + 16, store->ledger_id, 32);
}

static uint64_t entry_check(const struct blockstore *store, uint64_t height, uint64_t offset)
{
    uint64_t seed, parts[2] = {htole64(height), htole64(offset)};
    memcpy(&seed, store->ledger_id, 8);
    return XXH3_64bits_withSeed(parts, sizeof(parts), le64toh(seed));
}

/* Takes heights 1..height from the file. *good says whether all of them were there. */
static enum eng_status load_file(struct blockstore *store, struct disk_file *file, uint64_t height, bool *good)
{
    uint8_t header[INDEX_HEADER_BYTES], expected[INDEX_HEADER_BYTES];
    uint64_t size;
    *good = false;
    enum eng_status status = disk_size(file, &size);
    if (status != ENG_OK || size < INDEX_HEADER_BYTES + height * INDEX_ENTRY_BYTES)
        return status;
    status = disk_read(file, 0, header, sizeof(header));
    if (status != ENG_OK)
        return status;
    encode_header(store, expected);
    if (memcmp(header, expected, sizeof(header)) != 0)
        return ENG_OK;
    store->header_good = true;
    status = vector_room((void **)&store->offsets, &store->capacity, height, sizeof(*store->offsets));
    if (status != ENG_OK)
        return status;
    uint64_t chunk[INDEX_CHUNK_ENTRIES * 2];
    for (uint64_t h = 0; h < height;) {
        uint64_t count = height - h < INDEX_CHUNK_ENTRIES ? height - h : INDEX_CHUNK_ENTRIES;
        status = disk_read(file, INDEX_HEADER_BYTES + h * INDEX_ENTRY_BYTES, chunk, count * INDEX_ENTRY_BYTES);
        if (status != ENG_OK)
            return status;
        for (uint64_t i = 0; i < count; i++, h++) {
            uint64_t offset = le64toh(chunk[2 * i]);
            if (le64toh(chunk[2 * i + 1]) != entry_check(store, h + 1, offset) ||
                (h && offset <= store->offsets[h - 1]))
                return ENG_OK;
            store->offsets[h] = offset;
        }
    }
    *good = true;
    return ENG_OK;
}

/* The whole log, from its first record on. */
static enum eng_status load_log(struct blockstore *store, uint64_t height)
{
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    struct log_record record;
    enum eng_status status;
    uint64_t offset = log_begin(store->log);
    store->height = 0;
    while (store->height < height) {
        status = log_read_at(store->log, offset, &buffer, &capacity, &record);
        if (status == ENG_NOT_FOUND)
            status = eng_fail(ENG_DAMAGED, "log: ends at offset %llu before the sealed block of height %llu",
                              (unsigned long long)offset, (unsigned long long)store->height + 1);
        if (status != ENG_OK)
            break;
        if (record.type == RECORD_SEALED) {
            status = vector_room((void **)&store->offsets, &store->capacity, store->height + 1, sizeof(uint64_t));
            if (status != ENG_OK)
                break;
            store->offsets[store->height++] = offset;
        }
        offset = record.end;
    }
    free(buffer);
    return store->height == height ? ENG_OK : status;
}

enum eng_status blockstore_load(struct blockstore *store, uint64_t height)
{
    struct disk_file *file = NULL;
    bool good = false;
    enum eng_status status = disk_open(store->disk, BLOCKSTORE_INDEX_PATH, DISK_READ, &file);
    if (status == ENG_OK) {
        status = load_file(store, file, height, &good);
        disk_file_close(&file);
    }
    if (status != ENG_OK && status != ENG_NOT_FOUND)
        return status;
    store->height = good ? height : 0;
    store->saved = store->height;
    store->durable = height;
    return good ? ENG_OK : load_log(store, height);
}

enum eng_status blockstore_save(struct blockstore *store, uint64_t height)
{
    struct disk_file *file = NULL;
    assert(height <= store->height);
    if (store->saved >= height && store->header_good)
        return ENG_OK;
    bool new_name = !disk_exists(store->disk, BLOCKSTORE_INDEX_PATH);
    enum eng_status status = disk_open(store->disk, BLOCKSTORE_INDEX_PATH, DISK_CREATE, &file);
    if (status != ENG_OK)
        return status;
    if (!store->header_good) {
        uint8_t header[INDEX_HEADER_BYTES];
        encode_header(store, header);
        status = disk_write(file, 0, header, sizeof(header));
    }
    uint64_t chunk[INDEX_CHUNK_ENTRIES * 2];
    for (uint64_t h = store->saved; status == ENG_OK && h < height;) {
        uint64_t begin = h, count = 0;
        pthread_mutex_lock(&store->lock);
        for (; h < height && count < INDEX_CHUNK_ENTRIES; h++, count++) {
            chunk[2 * count] = htole64(store->offsets[h]);
            chunk[2 * count + 1] = htole64(entry_check(store, h + 1, store->offsets[h]));
        }
        pthread_mutex_unlock(&store->lock);
        status = disk_write(file, INDEX_HEADER_BYTES + begin * INDEX_ENTRY_BYTES, chunk, count * INDEX_ENTRY_BYTES);
    }
    if (status == ENG_OK)
        status = disk_sync(file);
    disk_file_close(&file);
    if (status == ENG_OK && new_name)
        status = disk_sync_dir(store->disk, "log");
    if (status == ENG_OK) {
        store->saved = height;
        store->header_good = true;
    }
    return status;
}

/* ---- the index and the recent blocks ---- */

enum eng_status blockstore_note(struct blockstore *store, uint64_t height, uint64_t offset)
{
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&store->lock);
    if (height && height <= store->height && store->offsets[height - 1] == offset) {
        /* known from the file */
    } else if (height != store->height + 1) {
        status =
            eng_fail(ENG_DAMAGED, "log: a sealed block of height %llu at offset %llu, expected height %llu",
                     (unsigned long long)height, (unsigned long long)offset, (unsigned long long)store->height + 1);
    } else {
        status = vector_room((void **)&store->offsets, &store->capacity, height, sizeof(*store->offsets));
        if (status == ENG_OK)
            store->offsets[store->height++] = offset;
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* Called with the lock. Waits (without it) until the oldest recent block is durable, then lets it go. */
static enum eng_status drop_oldest(struct blockstore *store)
{
    struct recent *oldest = &store->recent[store->recent_first];
    while (log_durable(store->log) < oldest->end) {
        uint64_t end = oldest->end;
        pthread_mutex_unlock(&store->lock);
        enum eng_status status = store->flush ? log_flush(store->log) : log_wait(store->log, end, -1);
        pthread_mutex_lock(&store->lock);
        if (status != ENG_OK)
            return status;
    }
    store->recent_bytes -= oldest->size;
    store->recent_count--;
    store->recent_first = (store->recent_first + 1) % BLOCKSTORE_RECENT_MAX;
    free(oldest->bytes);
    oldest->bytes = NULL;
    return ENG_OK;
}

enum eng_status blockstore_add(struct blockstore *store, uint64_t height, uint8_t *bytes, size_t size, uint64_t offset,
                               uint64_t end)
{
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&store->lock);
    assert(height == store->height + 1);
    while (status == ENG_OK && store->recent_count &&
           (store->recent_count == BLOCKSTORE_RECENT_MAX || store->recent_bytes + size > BLOCKSTORE_RECENT_BYTES_MAX))
        status = drop_oldest(store);
    if (status == ENG_OK)
        status = vector_room((void **)&store->offsets, &store->capacity, height, sizeof(*store->offsets));
    if (status == ENG_OK) {
        store->offsets[store->height++] = offset;
        size_t at = (store->recent_first + store->recent_count++) % BLOCKSTORE_RECENT_MAX;
        store->recent[at] = (struct recent){height, end, bytes, size};
        store->recent_bytes += size;
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

uint64_t blockstore_height(struct blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    uint64_t height = store->height;
    pthread_mutex_unlock(&store->lock);
    return height;
}

uint64_t blockstore_durable(struct blockstore *store)
{
    /* The durable offset is always one between two records. */
    uint64_t durable_offset = log_durable(store->log);
    pthread_mutex_lock(&store->lock);
    while (store->durable < store->height && store->offsets[store->durable] < durable_offset)
        store->durable++;
    uint64_t durable = store->durable;
    pthread_mutex_unlock(&store->lock);
    return durable;
}

static enum eng_status read_record(struct blockstore *store, uint64_t height, uint64_t offset, uint8_t **bytes,
                                   size_t *capacity, size_t *size)
{
    struct log_record record;
    struct sealed_block sealed;
    struct header header;
    enum eng_status status = log_read_at(store->log, offset, bytes, capacity, &record);
    if (status != ENG_OK)
        return status;
    if (record.type != RECORD_SEALED || sealed_block_decode(record.payload, record.length, &sealed) != ENG_OK ||
        header_decode(sealed.header, sealed.header_bytes, &header) != ENG_OK || header.height != height)
        return eng_fail(ENG_DAMAGED, "log: the record at offset %llu is not the sealed block of height %llu",
                        (unsigned long long)offset, (unsigned long long)height);
    *size = record.length;
    memmove(*bytes, record.payload, record.length);
    return ENG_OK;
}

enum eng_status blockstore_read(struct blockstore *store, uint64_t height, uint8_t **bytes, size_t *capacity,
                                size_t *size)
{
    enum eng_status status;
    pthread_mutex_lock(&store->lock);
    if (!height || height > store->height) {
        status = eng_fail(ENG_NOT_FOUND, "block %llu: the newest is %zu", (unsigned long long)height, store->height);
        pthread_mutex_unlock(&store->lock);
        return status;
    }
    uint64_t offset = store->offsets[height - 1];
    const struct recent *recent = NULL;
    if (store->recent_count) {
        uint64_t oldest = store->recent[store->recent_first].height;
        if (height >= oldest && height - oldest < store->recent_count)
            recent = &store->recent[(store->recent_first + (height - oldest)) % BLOCKSTORE_RECENT_MAX];
    }
    if (recent) {
        assert(recent->height == height);
        status = vector_room((void **)bytes, capacity, recent->size, 1);
        if (status == ENG_OK) {
            memcpy(*bytes, recent->bytes, recent->size);
            *size = recent->size;
        }
        pthread_mutex_unlock(&store->lock);
        return status;
    }
    pthread_mutex_unlock(&store->lock);
    return read_record(store, height, offset, bytes, capacity, size);
}

size_t blockstore_memory(struct blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    size_t bytes = store->capacity * sizeof(*store->offsets) + store->recent_bytes;
    pthread_mutex_unlock(&store->lock);
    return bytes;
}
