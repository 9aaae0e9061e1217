/*
 * Remembered transaction ids. See idtable.h for the rule of expiry.
 *
 * Happy path: find probes from the id's hash to the first empty slot; insert puts the entry into the slot of the same
 * id if an expired one is there, else into the first empty slot. Single entries are never taken out, so chains have no
 * tombstones: when the table is half full it is rebuilt without the expired ones, in twice the size if what is left
 * still fills more than a quarter.
 *
 * Invariants: used * 2 <= capacity after every insert; an id is in at most one slot.
 */
#include "idtable.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define IDTABLE_CAPACITY_MIN 256u
#define IDTABLE_CAPACITY_KEPT 4096u /* idtable_clear gives larger ones back */

void idtable_release(struct idtable *table)
{
    free(table->slots);
    table->slots = NULL;
    table->capacity = table->used = 0;
}

void idtable_clear(struct idtable *table)
{
    if (table->capacity > IDTABLE_CAPACITY_KEPT) {
        idtable_release(table);
    } else if (table->used) {
        memset(table->slots, 0, table->capacity * sizeof(*table->slots));
        table->used = 0;
    }
}

size_t idtable_memory(const struct idtable *table)
{
    return table->capacity * sizeof(*table->slots);
}

/* The slot of an id, or the empty one where its chain ends. */
static struct idtable_entry *probe(const struct idtable *table, const uint8_t id[TX_ID_BYTES])
{
    assert(table->used < table->capacity);
    size_t at = XXH3_64bits_withSeed(id, TX_ID_BYTES, table->hash_key);
    for (;; at++) {
        struct idtable_entry *entry = &table->slots[at & (table->capacity - 1)];
        if (!entry->expires_ms || memcmp(entry->id, id, TX_ID_BYTES) == 0)
            return entry;
    }
}

const struct idtable_entry *idtable_find(const struct idtable *table, const uint8_t id[TX_ID_BYTES], uint64_t now_ms)
{
    if (!table->capacity)
        return NULL;
    const struct idtable_entry *entry = probe(table, id);
    return entry->expires_ms > now_ms ? entry : NULL;
}

static enum eng_status rebuild(struct idtable *table, uint64_t now_ms)
{
    size_t live = 0;
    for (size_t i = 0; i < table->capacity; i++)
        live += table->slots[i].expires_ms > now_ms;
    struct idtable grown = {.capacity = IDTABLE_CAPACITY_MIN, .hash_key = table->hash_key};
    while (live * 4 > grown.capacity)
        grown.capacity *= 2;
    grown.slots = calloc(grown.capacity, sizeof(*grown.slots));
    if (!grown.slots)
        return eng_fail(ENG_NO_MEMORY, "ids: no memory for %zu slots", grown.capacity);
    for (size_t i = 0; i < table->capacity; i++) {
        const struct idtable_entry *entry = &table->slots[i];
        if (entry->expires_ms > now_ms) {
            *probe(&grown, entry->id) = *entry;
            grown.used++;
        }
    }
    free(table->slots);
    *table = grown;
    return ENG_OK;
}

enum eng_status idtable_sweep(struct idtable *table, uint64_t now_ms)
{
    return rebuild(table, now_ms);
}

enum eng_status idtable_insert(struct idtable *table, const struct idtable_entry *entry, uint64_t now_ms)
{
    assert(entry->expires_ms);
    if ((table->used + 1) * 2 > table->capacity) {
        enum eng_status status = rebuild(table, now_ms);
        if (status != ENG_OK)
            return status;
    }
    struct idtable_entry *slot = probe(table, entry->id);
    assert(slot->expires_ms <= now_ms);
    table->used += !slot->expires_ms;
    *slot = *entry;
    return ENG_OK;
}
