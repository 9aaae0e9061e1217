/*
 * A bump allocator: memory that is handed out by moving a pointer and given back all at once.
 *
 * Chunks double from 64 KiB to 4 MiB; what does not fit a chunk gets one of its own. The only call that can fail is
 * bump_reserve; after it, allocations of together at most that many bytes cannot. So a caller reserves its worst case
 * first, and then changes its structures without a way to fail half-way.
 *
 * bump_reset keeps up to BUMP_KEEP_BYTES_MAX of chunks for the next use. One thread at a time.
 */
#ifndef ENGINE_BUMP_H
#define ENGINE_BUMP_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "prefetch.h"

#define BUMP_CHUNK_BYTES_MIN (64u << 10)
#define BUMP_CHUNK_BYTES_MAX (4u << 20)
#define BUMP_KEEP_BYTES_MAX (16u << 20)
#define BUMP_AHEAD 512u /* bytes asked for before they are taken */

struct bump_chunk {
    struct bump_chunk *next;
    size_t bytes; /* behind this struct */
};

struct bump {
    uint8_t *at, *end;         /* the free rest of the newest chunk */
    struct bump_chunk *chunks; /* in use, newest first */
    struct bump_chunk *spare;  /* kept by the last reset */
    size_t chunk_bytes;        /* in use, all of chunks */
};

/* All zeros is an empty allocator. */
void bump_close(struct bump *bump);
void bump_reset(struct bump *bump);

/* Slow path of bump_reserve: opens a chunk with at least that much room. */
bool bump_grow(struct bump *bump, size_t bytes);

/* A block of its own, for what is too big to share a chunk; does not touch the reservation. NULL: no memory. */
void *bump_alone(struct bump *bump, size_t bytes);

/* Afterwards bump_take and bump_take_line of together at most bytes (bump_take rounds up to 8, bump_take_line loses up
 * to 63 bytes) cannot fail. false: no memory, nothing changed. */
static inline bool bump_reserve(struct bump *bump, size_t bytes)
{
    return (size_t)(bump->end - bump->at) >= bytes || bump_grow(bump, bytes);
}

/* Eight-byte aligned. */
static inline void *bump_take(struct bump *bump, size_t bytes)
{
    bytes = (bytes + 7) & ~(size_t)7;
    assert((size_t)(bump->end - bump->at) >= bytes);
    uint8_t *taken = bump->at;
    bump->at += bytes;
    prefetch_write(taken + BUMP_AHEAD); /* a chunk that is used again may have been read by other cores */
    return taken;
}

/* Aligned to a cache line. */
static inline void *bump_take_line(struct bump *bump, size_t bytes)
{
    size_t pad = -(uintptr_t)bump->at & 63;
    return (uint8_t *)bump_take(bump, pad + bytes) + pad;
}

/* Takes back the newest bump_take, and everything taken since. */
static inline void bump_untake(struct bump *bump, void *taken)
{
    assert((uint8_t *)taken <= bump->at && (uint8_t *)taken >= (uint8_t *)(bump->chunks + 1));
    bump->at = taken;
}

/* Bytes handed out or lost at the ends of chunks. */
static inline size_t bump_used(const struct bump *bump)
{
    return bump->chunk_bytes - (size_t)(bump->end - bump->at);
}

#endif
