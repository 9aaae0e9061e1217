/*
 * The write buffer of one block: an adaptive radix tree (Leis, Kemper, Neumann 2013: nodes of 4, 16, 48 and 256
 * children, path compression, lazy expansion), everything bump-allocated and dropped at once.
 *
 * EXECUTE writes into it and reads through it; a transaction that fails is undone with buffer_rollback to its mark, in
 * O(what it wrote). buffer_freeze lists the entries in key order for the merge; a frozen buffer is read only and may
 * then be read by any number of threads.
 *
 * Threads: one writer until frozen. Nothing blocks. Errors: ENG_NO_MEMORY only, the buffer unchanged.
 */
#ifndef ENGINE_BUFFER_H
#define ENGINE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pando/digest.h"
#include "pando/status.h"

struct buffer;

enum buffer_kind {
    BUFFER_NONE = 0, /* rolled back: as if it had never been written; never listed */
    BUFFER_PUT = 1,
    BUFFER_REMOVE = 2, /* the key is absent from here on, whatever lies below */
};

/* One key. The address is stable while the buffer lives; value and kind change with every write until frozen. */
struct buffer_entry {
    const uint8_t *key;
    const uint8_t *value; /* BUFFER_PUT: value_bytes bytes, an amount is 16 */
    uint32_t value_bytes;
    uint16_t key_bytes;
    uint8_t kind; /* enum buffer_kind */
    uint8_t tag;  /* enum eng_tag */
    uint8_t hash; /* low byte of XXH3 of the whole key, what leaves scan for */
};

ENG_MUST_CHECK enum eng_status buffer_open(struct buffer **buffer);
void buffer_close(struct buffer **buffer);
/* Empties it for the next block and keeps its memory (up to a bound). */
void buffer_reset(struct buffer *buffer);

/* Copies key and value. */
ENG_MUST_CHECK enum eng_status buffer_put(struct buffer *buffer, const uint8_t *key, size_t key_bytes, enum eng_tag tag,
                                          const uint8_t *value, size_t value_bytes);
ENG_MUST_CHECK enum eng_status buffer_remove(struct buffer *buffer, const uint8_t *key, size_t key_bytes);

/* The entry of a key if it is PUT or REMOVE, else NULL. */
const struct buffer_entry *buffer_find(const struct buffer *buffer, const uint8_t *key, size_t key_bytes);

/* A mark is valid until a rollback to an earlier one. Rolling back restores entries written since to what they were. */
typedef uint64_t buffer_mark;
buffer_mark buffer_get_mark(const struct buffer *buffer);
void buffer_rollback(struct buffer *buffer, buffer_mark mark);
/* Makes later marks differ from earlier ones although nothing was written here. ENG_NO_MEMORY. */
ENG_MUST_CHECK enum eng_status buffer_step(struct buffer *buffer);

/* First PUT or REMOVE entry with key >= the given one (> if after), or NULL. Works before and after the freeze. */
const struct buffer_entry *buffer_seek(const struct buffer *buffer, const uint8_t *key, size_t key_bytes, bool after);
/* The same among keys < to (NULL: all), looking at none behind it: what was rolled back is still passed over. */
const struct buffer_entry *buffer_seek_below(const struct buffer *buffer, const uint8_t *key, size_t key_bytes,
                                             bool after, const uint8_t *to, size_t to_bytes);
/* Last PUT or REMOVE entry with key < the given one (NULL key: the last of all), or NULL. */
const struct buffer_entry *buffer_seek_before(const struct buffer *buffer, const uint8_t *key, size_t key_bytes);

/* Number of keys that are PUT or REMOVE; bytes of memory in use. */
size_t buffer_count(const struct buffer *buffer);
size_t buffer_memory(const struct buffer *buffer);

/* Makes it read only and gives its entries (BUFFER_NONE left out) in key order, contiguous, owned by the buffer. */
ENG_MUST_CHECK enum eng_status buffer_freeze(struct buffer *buffer, const struct buffer_entry **entries, size_t *count);
/* It can be written again; what freeze gave is void. */
void buffer_thaw(struct buffer *buffer);

#endif
