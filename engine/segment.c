/*
 * Segments: where the bytes of objects are.
 *
 * The file state/segments is mapped once; segment n is bytes [n * size, (n + 1) * size). Its first 4 KiB are the
 * header. An arena takes a free segment and fills it from the front; when the next object does not fit, the segment is
 * sealed and never written again until it is recycled. A writer has two arenas where segments are not tiny: one for
 * inner nodes, which all reads pass and which together stay in the caches of memory and of addresses, one for the rest.
 *
 * live counts the units of live objects. It falls by one atomic subtraction an object; who brings it to zero in a
 * sealed segment puts the segment on the list of empty ones, stamped with the epoch. An empty segment is free again
 * when
 *   - no reader is in an epoch as old as the stamp, if the compactor moved an object away: such a reader may look at
 *     it; a reader that is stuck holds back nothing else;
 *   - neither the newest durable checkpoint nor one being made has live objects in it (captured < durable).
 * Free segments are a stack: the one emptied last is taken first, because its pages are most likely still in the cache
 * and mapped. One free segment is always left for the compactor, so that a full disk can still be compacted, and the
 * compactor in turn leaves alone what store_reserve promised. The compactor takes the lowest one, so that data moves
 * towards the front and segments_cut can give the end of the file back.
 *
 * Each run of write-protected segments is a mapping of its own, and the system bounds how many a process has
 * (vm.max_map_count). Where that is met protection ends, for all segments at once: then they are one mapping again, and
 * whatever else in the process needs some has them.
 *
 * Ways to fail: the file cannot grow (ENG_FULL: not final, nothing changed; ENG_IO), memory for the tables.
 *
 * Invariants, under segments.lock: free, empty and the OPEN and SEALED segments partition [0, total); the live of a
 * FREE segment is 0; fill of a SEALED segment does not change.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "store_internal.h"

#if defined(__SANITIZE_THREAD__)
#define RESERVE_BYTES_MAX (1ull << 36) /* its shadow leaves no more address space */
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RESERVE_BYTES_MAX (1ull << 36)
#endif
#endif
#ifndef RESERVE_BYTES_MAX
#define RESERVE_BYTES_MAX ENG_STATE_BYTES_MAX
#endif
#define TINY_SEGMENT_BYTES (1u << 20) /* stores with smaller segments reserve less address space */
#define TINY_SEGMENTS_MAX 4096u

struct segment_header {
    uint64_t checksum; /* XXH3 of the rest of the struct */
    char magic[8];     /* "PANDOSEG" */
    uint32_t version, segment_bytes;
    uint8_t store_id[ENG_STORE_ID_BYTES];
};
_Static_assert(sizeof(struct segment_header) == 56, "on disk");

uint64_t object_checksum(const uint8_t secret[OBJECT_SECRET_BYTES], const struct object *object)
{
    uint64_t sum = XXH3_64bits_withSecret((const uint8_t *)object + sizeof object->checksum,
                                          object->units * (size_t)UNIT_BYTES - 8, secret, OBJECT_SECRET_BYTES);
    return sum ? sum : 1;
}

static uint64_t header_checksum(const struct segment_header *header)
{
    return XXH3_64bits((const uint8_t *)header + 8, sizeof *header - 8);
}

void segment_header_encode(uint8_t page[SEGMENT_HEADER_BYTES], const uint8_t store_id[ENG_STORE_ID_BYTES],
                           uint32_t segment_bytes)
{
    struct segment_header header = {.magic = "PANDOSEG", .version = STATE_VERSION, .segment_bytes = segment_bytes};
    memcpy(header.magic, "PANDOSEG", 8);
    memcpy(header.store_id, store_id, ENG_STORE_ID_BYTES);
    header.checksum = header_checksum(&header);
    memset(page, 0, SEGMENT_HEADER_BYTES);
    memcpy(page, &header, sizeof header);
}

enum eng_status segment_header_check(const uint8_t page[SEGMENT_HEADER_BYTES], const char *path,
                                     const uint8_t store_id[ENG_STORE_ID_BYTES], uint32_t segment_bytes)
{
    struct segment_header header;
    memcpy(&header, page, sizeof header);
    if (memcmp(header.magic, "PANDOSEG", 8) != 0 || header.checksum != header_checksum(&header))
        return eng_fail(ENG_DAMAGED, "%s: header at offset 0: checksum does not match", path);
    if (memcmp(header.store_id, store_id, ENG_STORE_ID_BYTES) != 0)
        return eng_fail(ENG_FOREIGN, "%s: header at offset 0: belongs to another store", path);
    if (header.segment_bytes != segment_bytes)
        return eng_fail(ENG_DAMAGED, "%s: header at offset 0: segments of %u bytes, the root slot says %u", path,
                        header.segment_bytes, segment_bytes);
    return ENG_OK;
}

enum eng_status segments_init(struct store *store, uint32_t segment_bytes)
{
    struct segments *segments = &store->segments;
    assert(segment_bytes >= ENG_SEGMENT_BYTES_MIN && segment_bytes <= ENG_SEGMENT_BYTES_MAX);
    assert((segment_bytes & (segment_bytes - 1)) == 0);
    segments->units = segment_bytes / UNIT_BYTES;
    segments->shift = (uint32_t)__builtin_ctz(segments->units);
    segments->max =
        segment_bytes < TINY_SEGMENT_BYTES ? TINY_SEGMENTS_MAX : (uint32_t)(RESERVE_BYTES_MAX / segment_bytes);
    segments->table = memory_reserve(segments->max * sizeof *segments->table);
    segments->free = memory_reserve(segments->max * sizeof *segments->free);
    segments->empty = memory_reserve(segments->max * sizeof *segments->empty);
    segments->heap = memory_reserve(segments->max * sizeof *segments->heap);
    return segments->table && segments->free && segments->empty && segments->heap ? ENG_OK : ENG_NO_MEMORY;
}

void segments_close(struct store *store)
{
    struct segments *segments = &store->segments;
    disk_file_close(&segments->file);
    memory_release(segments->table, segments->max * sizeof *segments->table);
    memory_release(segments->free, segments->max * sizeof *segments->free);
    memory_release(segments->empty, segments->max * sizeof *segments->empty);
    memory_release(segments->heap, segments->max * sizeof *segments->heap);
}

/* Readers look at what the versions they pinned can see, and nothing of that is ever freed: in a segment that was
 * emptied by frees alone only the committing thread may still be reading. The compactor moves what readers see. */
static uint64_t segment_waits_for(const struct segment *segment, const struct epochs *epochs)
{
    /* relaxed: set before the live units became 0 */
    return atomic_load_explicit(&segment->moved_out, memory_order_relaxed) ? epochs->oldest : epochs->writer;
}

void segments_reclaim(struct store *store)
{
    struct segments *segments = &store->segments;
    if (!segments->empty_count)
        return;
    /* acquire: partner of the release in checkpoint_make; what the older checkpoint needed is no longer read */
    uint64_t durable = atomic_load_explicit(&store->checkpoint.durable, memory_order_acquire);
    bool some = false;
    for (uint32_t i = 0; i < segments->empty_count && !some; i++)
        some = segments->table[segments->empty[i]].captured < durable;
    if (!some)
        return; /* the slots of the readers are looked at only if it matters */
    struct epochs epochs = epoch_oldest(store);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < segments->empty_count; i++) {
        uint32_t n = segments->empty[i];
        struct segment *segment = &segments->table[n];
        assert(segment->state == SEGMENT_EMPTY);
        if (segment->captured >= durable || segment->emptied >= segment_waits_for(segment, &epochs)) {
            segments->empty[kept++] = n;
            continue;
        }
        /* a slot_take that found its slot stale is in the writer's epoch of before, and has given it back */
        assert(atomic_load_explicit(&segment->live, memory_order_relaxed) == 0);
        segment->state = SEGMENT_FREE;
        segments->free[segments->free_count++] = n;
    }
    segments->empty_count = kept;
}

/* One more free segment at the end of the file. Needs segments.lock. */
static enum eng_status segment_extend(struct store *store)
{
    struct segments *segments = &store->segments;
    if (segments->total == segments->max)
        return eng_fail(ENG_FULL, "%s: at its limit of %u segments", disk_file_path(segments->file), segments->max);
    uint64_t size = (uint64_t)(segments->total + 1) * segments->units * UNIT_BYTES;
    enum eng_status status = disk_extend(segments->file, size);
    if (status)
        return status;
    struct segment *fresh = &segments->table[segments->total];
    /* It may have been cut off before: segment_take and segment_to_empty set what else is in it. The serial number is
     * never set back, not for a moment, since another arena may hold a stale slot of it against it. */
    assert(fresh->state == SEGMENT_FREE && atomic_load_explicit(&fresh->live, memory_order_relaxed) == 0);
    fresh->captured = fresh->emptied = 0;
    fresh->punched = fresh->damaged = false;
    atomic_store_explicit(&fresh->newest, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&fresh->serial, 1, memory_order_relaxed);
    segments->free[segments->free_count++] = segments->total++;
    return ENG_OK;
}

/* The bytes of a segment in the file, without the file's header. */
static void segment_range(const struct store *store, uint32_t n, uint64_t *offset, uint64_t *length)
{
    uint64_t size = (uint64_t)store->segments.units * UNIT_BYTES, skip = segment_start(n) * (uint64_t)UNIT_BYTES;
    *offset = n * size + skip;
    *length = size - skip;
}

/* Needs segments.lock. */
static enum eng_status segment_unpunch(struct store *store, uint32_t n)
{
    struct segment *segment = &store->segments.table[n];
    if (!segment->punched)
        return ENG_OK;
    uint64_t offset, length;
    segment_range(store, n, &offset, &length);
    enum eng_status status = disk_reserve(store->segments.file, offset, length);
    segment->punched = status != ENG_OK;
    return status;
}

/* Needs segments.lock. Without mappings for it all become writable, and stay so: store->protect is false then. */
static enum eng_status segment_set_read_only(struct store *store, uint32_t n, bool read_only)
{
    struct segments *segments = &store->segments;
    struct segment *segment = &segments->table[n];
    uint64_t size = (uint64_t)segments->units * UNIT_BYTES;
    if (!store->protect || segment->read_only == read_only)
        return ENG_OK;
    enum eng_status status = disk_protect(segments->file, n * size, size, read_only);
    if (status == ENG_OK)
        segment->read_only = read_only;
    if (status != ENG_NO_MEMORY)
        return status;
    status = disk_protect(segments->file, 0, segments->max * size, false); /* joins mappings and parts none */
    store->protect = status != ENG_OK;
    return status;
}

/* After protection ended; eng_error() says why. Without locks. */
static void segments_say_unprotected(const struct store *store)
{
    char line[700];
    snprintf(line, sizeof line, "%s; segments are not write-protected any more (vm.max_map_count)", eng_error());
    if (store->report)
        store->report(store->report_context, line);
}

enum eng_status segments_protect(struct store *store, uint64_t number)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&segments->lock);
    bool protects = store->protect;
    for (uint32_t n = 0; n < segments->total && status == ENG_OK && store->protect; n++) {
        const struct segment *segment = &segments->table[n];
        /* sealed after the capture: objects behind what was captured have no checksum yet */
        if (segment->state == SEGMENT_SEALED && segment->captured && segment->captured <= number &&
            segment->checksummed >= segment->fill)
            status = segment_set_read_only(store, n, true);
    }
    bool ended = protects && !store->protect;
    pthread_mutex_unlock(&segments->lock);
    if (ended)
        segments_say_unprotected(store);
    return status == ENG_NO_MEMORY ? ENG_OK : status; /* what is not protected is as good as the rest */
}

/* Are there more than keep free segments whose space was not given back? Needs segments.lock. */
static bool segments_whole(const struct segments *segments, uint32_t keep)
{
    uint32_t whole = 0;
    for (uint32_t i = segments->free_count; i-- > 0 && whole <= keep;)
        whole += !segments->table[segments->free[i]].punched;
    return whole > keep;
}

/* The place on the stack of the free segment to take: for the compactor the lowest (downwards, so that store_shrink
 * finds the end free), else the top; among those whose space was not given back if whole. Needs segments.lock. */
static uint32_t segment_preferred(const struct segments *segments, bool compactor, bool whole)
{
    uint32_t at = UINT32_MAX;
    for (uint32_t i = segments->free_count; i-- > 0 && (compactor || at == UINT32_MAX);) {
        if (whole && segments->table[segments->free[i]].punched)
            continue;
        if (at == UINT32_MAX || segments->free[i] < segments->free[at])
            at = i;
    }
    return at;
}

/* Fills a hole, any. ENG_FULL: none can be. Needs segments.lock. */
static enum eng_status segments_fill_one(struct store *store)
{
    const struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    for (uint32_t i = segments->free_count; i-- > 0;) {
        bool hole = segments->table[segments->free[i]].punched;
        status = hole ? segment_unpunch(store, segments->free[i]) : status;
        if (hole && status != ENG_FULL)
            return status;
    }
    return status;
}

/* A free segment with its space, one more of which is left for each that keep promises to others. On a full disk holes
 * cannot be filled: one that has its space is taken instead. Needs segments.lock. */
static enum eng_status segment_choose(struct store *store, bool compactor, uint32_t keep, uint32_t *at)
{
    struct segments *segments = &store->segments;
    *at = segment_preferred(segments, compactor, false);
    enum eng_status status = segment_unpunch(store, segments->free[*at]);
    if (status == ENG_OK && segments_whole(segments, keep))
        return ENG_OK;
    if (status == ENG_OK) /* it is promised */
        return segments_fill_one(store);
    if (status != ENG_FULL || !segments_whole(segments, keep))
        return status;
    *at = segment_preferred(segments, compactor, true);
    return ENG_OK;
}

enum eng_status segment_take(struct store *store, bool compactor, uint32_t *segment)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    uint32_t at = 0;
    pthread_mutex_lock(&segments->lock);
    bool protects = store->protect;
    uint32_t floor = compactor ? segments->reserved : 1;
    if (segments->free_count <= floor)
        segments_reclaim(store);
    while (segments->free_count <= floor && status == ENG_OK)
        status = segment_extend(store);
    if (status == ENG_OK)
        status = segment_choose(store, compactor, floor, &at);
    if (status == ENG_OK)
        status = segment_set_read_only(store, segments->free[at], false);
    if (status == ENG_OK) {
        uint32_t n = segments->free[at];
        segments->free_count--;
        memmove(segments->free + at, segments->free + at + 1, (segments->free_count - at) * sizeof *segments->free);
        if (at < segments->free_low)
            segments->free_low = at;
        struct segment *taken = &segments->table[n];
        assert(taken->state == SEGMENT_FREE && !taken->compacting && taken->heap_at == 0 && !taken->locked);
        taken->state = SEGMENT_OPEN;
        taken->captured = 0;
        taken->damaged = false;
        atomic_store_explicit(&taken->moved_out, false, memory_order_relaxed);
        atomic_store(&taken->retiring, false);
        taken->fill = taken->checksummed = segment_start(n);
        if (!compactor && segments->reserved)
            segments->reserved--;
        *segment = n;
    }
    bool ended = protects && !store->protect;
    pthread_mutex_unlock(&segments->lock);
    if (ended)
        segments_say_unprotected(store);
    return status;
}

enum eng_status segments_punch(struct store *store)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&segments->lock);
    segments_reclaim(store);
    uint32_t lowest = UINT32_MAX; /* the compactor takes this one */
    for (uint32_t i = 0; i < segments->free_count; i++)
        lowest = segments->free[i] < lowest ? segments->free[i] : lowest;
    for (uint32_t i = 0; i < segments->free_count && status == ENG_OK; i++) {
        uint32_t n = segments->free[i];
        if (n == lowest)
            continue; /* punched only says that it may be: a hole is punched again for nothing */
        uint64_t offset, length;
        segment_range(store, n, &offset, &length);
        status = disk_punch(segments->file, offset, length);
        segments->table[n].punched = status == ENG_OK;
    }
    for (uint32_t n = 0; n < segments->total && status == ENG_OK; n++) {
        struct segment *segment = &segments->table[n];
        uint64_t size = (uint64_t)segments->units * UNIT_BYTES;
        uint64_t used = (segment->fill * (uint64_t)UNIT_BYTES + 4095) / 4096 * 4096;
        if (segment->state != SEGMENT_SEALED || used >= size)
            continue;
        status = disk_punch(segments->file, n * size + used, size - used);
        segment->punched = true;
    }
    pthread_mutex_unlock(&segments->lock);
    return status;
}

/* Makes sure that this many free segments have their space. Needs segments.lock. */
static enum eng_status segments_fill_holes(struct store *store, uint32_t count)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    for (uint32_t i = segments->free_count; i-- > 0 && !segments_whole(segments, count - 1);) { /* taken from the top */
        enum eng_status filled = segment_unpunch(store, segments->free[i]);
        if (filled != ENG_OK && filled != ENG_FULL)
            return filled;
        status = filled != ENG_OK ? filled : status;
    }
    while (!segments_whole(segments, count - 1)) {
        enum eng_status extended = status == ENG_OK ? segment_extend(store) : status;
        if (extended != ENG_OK)
            return extended;
    }
    return ENG_OK;
}

enum eng_status segments_reserve(struct store *store, uint32_t count)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&segments->lock);
    segments_reclaim(store);
    while (segments->free_count < (uint64_t)count + 1 && status == ENG_OK)
        status = segment_extend(store);
    if (status == ENG_OK)
        status = segments_fill_holes(store, count + 1);
    if (status == ENG_OK)
        segments->reserved = count;
    pthread_mutex_unlock(&segments->lock);
    return status;
}

enum eng_status segments_spare(struct store *store)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&segments->lock);
    segments_reclaim(store);
    while (segments->free_count <= segments->reserved + 1 && status == ENG_OK)
        status = segment_extend(store);
    pthread_mutex_unlock(&segments->lock);
    return status;
}

bool segments_yield(struct store *store)
{
    struct segments *segments = &store->segments;
    bool given = false;
    pthread_mutex_lock(&segments->lock);
    segments_reclaim(store);
    /* from the bottom of the stack: the one that would be taken last */
    for (uint32_t i = 0; i < segments->free_count && !given && segments_whole(segments, segments->reserved + 1); i++) {
        struct segment *segment = &segments->table[segments->free[i]];
        uint64_t offset, length;
        segment_range(store, segments->free[i], &offset, &length);
        if (segment->punched || disk_punch(segments->file, offset, length) != ENG_OK)
            continue;
        segment->punched = given = true;
    }
    pthread_mutex_unlock(&segments->lock);
    return given;
}

enum eng_status segments_cut(struct store *store, bool keep_reserved)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&segments->lock);
    segments_reclaim(store);
    uint32_t total = segments->total, kept = 0, keep = keep_reserved ? segments->reserved + 1 : 0;
    while (total > 1 && segments->table[total - 1].state == SEGMENT_FREE &&
           segments->free_count - (segments->total - total) > keep)
        total--;
    if (total < segments->total)
        status = disk_truncate(segments->file, (uint64_t)total * segments->units * UNIT_BYTES);
    if (status == ENG_OK && total < segments->total) {
        for (uint32_t i = 0; i < segments->free_count; i++)
            if (segments->free[i] < total)
                segments->free[kept++] = segments->free[i];
        assert(segments->free_count - kept == segments->total - total);
        segments->free_count = kept;
        segments->total = total;
        if (segments->free_low > kept)
            segments->free_low = kept;
        segments->reserved = keep_reserved ? segments->reserved : 0;
    }
    pthread_mutex_unlock(&segments->lock);
    return status;
}

/* Needs segments.lock. */
static void segment_to_empty(struct store *store, uint32_t n)
{
    struct segments *segments = &store->segments;
    struct segment *segment = &segments->table[n];
    if (segment->state != SEGMENT_SEALED || segment->compacting)
        return;
    /* acquire: partner of the subtraction in segment_release */
    if (atomic_load_explicit(&segment->live, memory_order_acquire) != 0)
        return;
    /* seq_cst, in this order: partner of slot_take. From here on slots of it are stale; one taken just before lives. */
    atomic_fetch_add_explicit(&segment->serial, 1, memory_order_seq_cst);
    if (atomic_load(&segment->live) != 0)
        return;
    hot_forget(store, n);
    segment->state = SEGMENT_EMPTY;
    heap_take(segments, n);
    segment->emptied = epoch_advance(store);
    segments->empty[segments->empty_count++] = n;
}

void segment_emptied(struct store *store, uint32_t segment)
{
    pthread_mutex_lock(&store->segments.lock);
    segment_to_empty(store, segment);
    pthread_mutex_unlock(&store->segments.lock);
}

void segment_cooled(struct store *store, uint32_t segment)
{
    struct segments *segments = &store->segments;
    pthread_mutex_lock(&segments->lock);
    uint32_t step = heap_fell(segments, segment);
    bool little = segments->heap_live * 100 < segments->heap_fill * COMPACT_BELOW_PERCENT;
    if (step <= COMPACT_ALWAYS_STEPS || (step < HEAP_STEPS && little))
        /* relaxed: who commits looks after it has freed */
        atomic_store_explicit(&segments->cooled, true, memory_order_relaxed);
    pthread_mutex_unlock(&segments->lock);
}

enum eng_status segments_trim(struct store *store)
{
    struct segments *segments = &store->segments;
    enum eng_status status = ENG_OK;
    pthread_mutex_lock(&segments->lock);
    uint32_t low = segments->free_low > segments->reserved ? segments->free_low - segments->reserved : 0;
    for (uint32_t i = 0; i + 1 < low && i < segments->free_count && status == ENG_OK; i++) {
        struct segment *segment = &segments->table[segments->free[i]];
        uint64_t offset, length;
        if (segment->punched)
            continue;
        segment_range(store, segments->free[i], &offset, &length);
        status = disk_punch(segments->file, offset, length);
        segment->punched = status == ENG_OK;
    }
    segments->free_low = segments->free_count;
    pthread_mutex_unlock(&segments->lock);
    return status;
}

void segment_seal(struct store *store, uint32_t segment, uint32_t fill, uint64_t generation)
{
    struct segment *sealed = &store->segments.table[segment];
    assert(fill <= store->segments.units);
    pthread_mutex_lock(&store->segments.lock);
    assert(sealed->state == SEGMENT_OPEN);
    sealed->state = SEGMENT_SEALED;
    sealed->fill = fill;
    atomic_store_explicit(&sealed->newest, generation, memory_order_relaxed);
    heap_put(&store->segments, segment);
    segment_to_empty(store, segment);
    pthread_mutex_unlock(&store->segments.lock);
    maintenance_hint(store);
}

void segment_compacted(struct store *store, uint32_t segment, bool damaged)
{
    struct segment *done = &store->segments.table[segment];
    pthread_mutex_lock(&store->segments.lock);
    assert(done->compacting && done->state == SEGMENT_SEALED);
    done->compacting = false;
    done->damaged |= damaged;
    hot_forget(store, segment);
    if (!done->damaged)
        heap_put(&store->segments, segment);
    segment_to_empty(store, segment); /* a new serial number first: slots of it are stale, not only retired */
    atomic_store(&done->retiring, false);
    pthread_mutex_unlock(&store->segments.lock);
}
