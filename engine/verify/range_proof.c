/*
 * Range proofs: one pruned trie (walk.h), walked twice. The contents are its whole entries; count and sum are added up
 * from the entries and the pruned parts that lie inside.
 *
 * Ways to fail: those of the walk, and bytes behind the trie.
 */
#include <stdlib.h>
#include <string.h>

#include "range_proof.h"
#include "walk.h"

enum verify_status range_proof_verify(struct proof_reader *reader, enum proof_kind kind, struct verify_result *result,
                                      struct trie_summary *root)
{
    struct walk walk = {.of = kind == PROOF_RANGE ? WALK_CONTENTS : WALK_TOTALS};
    enum verify_status status = walk_bounds(reader, &walk);
    const uint8_t *first = reader->at;
    for (int pass = 0; pass < 2 && status == VERIFY_OK; pass++) {
        walk.reader = (struct proof_reader){first, reader->end};
        status = walk_trie(&walk, pass == 1);
        if (status == VERIFY_OK && walk.reader.at != walk.reader.end)
            status = VERIFY_TRAILING;
        if (pass == 0)
            *root = walk.summary;
        reader->at = walk.reader.at;
    }
    free(walk.frames);
    if (status != VERIFY_OK)
        return status;
    const struct bound *from = &walk.bounds[0], *to = &walk.bounds[1];
    result->from = from->key;
    result->from_bytes = from->key_bytes;
    result->to = to->key;
    result->to_bytes = to->key_bytes;
    result->count = walk.count;
    memcpy(result->sum, walk.sum, sizeof walk.sum);
    result->next = first;
    result->end = reader->end;
    return VERIFY_OK;
}

bool range_proof_next(struct proof_reader *reader, struct trie_entry *entry)
{
    return walk_seek(reader, true, false) && walk_entry(reader, entry);
}
