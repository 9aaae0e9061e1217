/*
 * The ids of transactions that have a receipt and have not expired: id -> where the receipt is (P4).
 *
 * An open-addressing hash table (linear probing, power-of-two capacity, at most half full). Ledger time decides: an
 * entry whose expiry is not after the time given to a lookup is as if it were not there, whether or not it has been
 * swept, so that the answer does not depend on when the table was last tidied. Expired entries are dropped when the
 * table would otherwise grow; so memory follows the number of ids that matter, within a factor of four.
 *
 * Ids are chosen by clients: the hash is keyed with a random number, so that nobody can aim at one chain.
 * No lock: the caller has one. Errors: ENG_NO_MEMORY.
 */
#ifndef NODE_IDTABLE_H
#define NODE_IDTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transaction.h"

struct idtable_entry {
    uint8_t id[TX_ID_BYTES];
    uint64_t expires_ms; /* 0: an empty slot */
    uint64_t height;
    uint32_t index;
};

struct idtable {
    struct idtable_entry *slots;
    size_t capacity, used; /* used counts expired ones that are still in a slot */
    uint64_t hash_key;
};

/* All zeros is an empty table; hash_key should then be set to something random. */
void idtable_release(struct idtable *table);
/* The entry of an id that is not expired at now_ms, or NULL; valid until the next insert. */
const struct idtable_entry *idtable_find(const struct idtable *table, const uint8_t id[TX_ID_BYTES], uint64_t now_ms);
/* Adds an id that idtable_find does not find at now_ms (an expired one is replaced). expires_ms is not 0. */
ENG_MUST_CHECK enum eng_status idtable_insert(struct idtable *table, const struct idtable_entry *entry,
                                              uint64_t now_ms);
/* Drops what is expired at now_ms. ENG_NO_MEMORY: nothing changed. */
ENG_MUST_CHECK enum eng_status idtable_sweep(struct idtable *table, uint64_t now_ms);
/* Empties it, keeps a small table's memory. */
void idtable_clear(struct idtable *table);
size_t idtable_memory(const struct idtable *table);

#endif
