/*
 * An adaptive radix tree over the keys of buffer entries (Leis, Kemper, Neumann: The Adaptive Radix Tree, ICDE 2013).
 *
 * Inner nodes have 4, 16, 48 or 256 children, whichever is the least that fits; a path without branches is one prefix
 * (path compression), which is not copied but points into the key of an entry; a lone entry hangs where its key first
 * parts from all others (lazy expansion). A key that is a proper prefix of others is the *terminal* of a node.
 *
 * Entries are never taken out: the buffer marks them instead. Nodes that were outgrown are used again. art_insert may
 * take ART_NODE_BYTES_MAX from the bump allocator, reserved by the caller; so nothing here can fail.
 *
 * Lookups may be made from any number of threads while nobody inserts.
 */
#ifndef ENGINE_ART_H
#define ENGINE_ART_H

#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "bump.h"

struct art_node;

/* A child: 0 for none, a node, or an entry with the lowest bit set. */
typedef uintptr_t art_ref;

#define ART_KINDS 4
#define ART_NODE_BYTES_MAX (2u * 1024 + 256)

/* All zeros is an empty tree. */
struct art {
    art_ref root;
    struct art_node *outgrown[ART_KINDS];
};

/* Links the entry; if there is one with the same key already it returns that one and changes nothing, else NULL. The
 * key behind the entry must stay where it is. */
struct buffer_entry *art_insert(struct art *art, struct bump *bump, struct buffer_entry *entry);

struct buffer_entry *art_find(const struct art *art, const uint8_t *key, size_t key_bytes);
/* First entry with key >= the given one (> if after), no bytes: the first of all; last entry with key < the given one
 * (NULL: the last of all). */
struct buffer_entry *art_seek(const struct art *art, const uint8_t *key, size_t key_bytes, bool after);
struct buffer_entry *art_seek_before(const struct art *art, const uint8_t *key, size_t key_bytes);

/* Calls each for every entry in key order. */
void art_walk(const struct art *art, void (*each)(void *context, const struct buffer_entry *entry), void *context);

#endif
