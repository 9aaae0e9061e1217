/*
 * The ring of the log: many threads reserve, fill and publish; a prefix of the stream becomes readable. Private to
 * log*.c; the whole of what is lock-free in the log is in this file and log_ring.c.
 *
 *            freed          published          tail
 *   ----------|---------------|------------------|------------>  stream offsets; the ring holds [freed, freed + size)
 *     reusable  readable        reserved, partly
 *                               published
 *
 * A reservation takes credit first (bytes between tail and freed + size that nobody has yet), then one fetch_add on the
 * tail, which cannot fail and fixes the order. Publishing sets one bit, at the place of the record's first 8 bytes;
 * the published offset is moved over records whose bit is set, by whoever wants to read, and clears the bits. A bit of
 * the next lap cannot be set before that: its place is not free.
 */
#ifndef PANDO_LOG_RING_H
#define PANDO_LOG_RING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pando/status.h"

#define LOG_RING_BYTES_MIN 1024u

/* A number of bytes that may be taken. */
struct log_credit {
    _Alignas(64) _Atomic uint64_t left;
};

struct log_ring {
    uint8_t *bytes;
    uint64_t size;          /* a power of two */
    _Atomic uint64_t *bits; /* one bit for each 8 bytes of the ring: a record published here and not yet passed */
    struct log_credit credit;
    _Alignas(64) _Atomic uint64_t tail;      /* after the last reserved record */
    _Alignas(64) _Atomic uint64_t published; /* every record before this is published */
    pthread_mutex_t advance;                 /* for moving published */
    uint64_t freed;                          /* guarded by the owner */
};

/* Takes bytes if at least bytes + keep are left. */
bool log_credit_take(struct log_credit *credit, uint64_t bytes, uint64_t keep);
void log_credit_give(struct log_credit *credit, uint64_t bytes);
uint64_t log_credit_left(const struct log_credit *credit);

/* An empty ring whose next record begins at stream offset at. */
ENG_MUST_CHECK enum eng_status log_ring_init(struct log_ring *ring, uint64_t size, uint64_t at);
void log_ring_fini(struct log_ring *ring);

/* The place of a record of this many bytes, whose credit was taken. */
uint64_t log_ring_place(struct log_ring *ring, uint64_t bytes);
void log_ring_copy_in(struct log_ring *ring, uint64_t offset, const void *bytes, uint64_t length);
void log_ring_copy_out(const struct log_ring *ring, uint64_t offset, void *bytes, uint64_t length);
/* The bytes at a stream offset and how many of length follow each other in memory. */
uint8_t *log_ring_at(const struct log_ring *ring, uint64_t offset, uint64_t length, uint64_t *contiguous);
/* The record at offset is complete; its first four bytes are its payload length. */
void log_ring_publish(struct log_ring *ring, uint64_t offset);
/* Moves the published offset over what is complete and returns it. */
uint64_t log_ring_advance(struct log_ring *ring);
uint64_t log_ring_published(const struct log_ring *ring);
uint64_t log_ring_tail(const struct log_ring *ring);
/* Everything before offset may be overwritten. One caller at a time. */
void log_ring_free(struct log_ring *ring, uint64_t offset);

#endif
