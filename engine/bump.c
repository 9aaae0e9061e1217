/*
 * The slow half of the bump allocator (bump.h): chunks come from malloc or from the spares of the last reset.
 *
 * The newest chunk is always the head of the list and the one that at and end point into; a block of its own goes
 * second, so that it does not cut the newest chunk short.
 */
#include <stdlib.h>

#include "bump.h"

_Static_assert(sizeof(struct bump_chunk) % 8 == 0, "what is behind the header is aligned");

static struct bump_chunk *spare_take(struct bump *bump, size_t bytes)
{
    for (struct bump_chunk **link = &bump->spare; *link; link = &(*link)->next) {
        struct bump_chunk *chunk = *link;
        if (chunk->bytes >= bytes) {
            *link = chunk->next;
            return chunk;
        }
    }
    return NULL;
}

static struct bump_chunk *chunk_make(size_t bytes)
{
    struct bump_chunk *chunk = malloc(sizeof *chunk + bytes);
    if (chunk)
        chunk->bytes = bytes;
    return chunk;
}

bool bump_grow(struct bump *bump, size_t bytes)
{
    struct bump_chunk *chunk = spare_take(bump, bytes);
    if (!chunk) {
        size_t size = BUMP_CHUNK_BYTES_MIN;
        while (size < BUMP_CHUNK_BYTES_MAX && size <= bump->chunk_bytes)
            size *= 2;
        chunk = chunk_make(size > bytes ? size : bytes);
    }
    if (!chunk)
        return false;
    chunk->next = bump->chunks;
    bump->chunks = chunk;
    bump->chunk_bytes += chunk->bytes;
    bump->at = (uint8_t *)(chunk + 1);
    bump->end = bump->at + chunk->bytes;
    return true;
}

void *bump_alone(struct bump *bump, size_t bytes)
{
    if (!bump->chunks && !bump_grow(bump, 0))
        return NULL;
    struct bump_chunk *chunk = chunk_make(bytes);
    if (!chunk)
        return NULL;
    chunk->next = bump->chunks->next;
    bump->chunks->next = chunk;
    bump->chunk_bytes += bytes;
    return chunk + 1;
}

static void chunks_free(struct bump_chunk *chunk)
{
    while (chunk) {
        struct bump_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void bump_reset(struct bump *bump)
{
    size_t kept = 0;
    struct bump_chunk *all[2] = {bump->spare, bump->chunks};
    bump->spare = NULL;
    for (int i = 0; i < 2; i++) {
        while (all[i]) {
            struct bump_chunk *chunk = all[i];
            all[i] = chunk->next;
            if (chunk->bytes < BUMP_CHUNK_BYTES_MIN || chunk->bytes > BUMP_CHUNK_BYTES_MAX ||
                kept + chunk->bytes > BUMP_KEEP_BYTES_MAX) {
                free(chunk);
                continue;
            }
            kept += chunk->bytes;
            chunk->next = bump->spare;
            bump->spare = chunk;
        }
    }
    bump->chunks = NULL;
    bump->chunk_bytes = 0;
    bump->at = bump->end = NULL;
}

void bump_close(struct bump *bump)
{
    chunks_free(bump->chunks);
    chunks_free(bump->spare);
    *bump = (struct bump){0};
}
