/* Paths for the prover from the flat oracle: what eng_path would find, over a sorted array (digest_oracle.h). */
#ifndef TESTS_PROOF_WALKER_H
#define TESTS_PROOF_WALKER_H

#include <stdlib.h>

#include "digest_oracle.h"
#include "pando/proof.h"

_Static_assert(sizeof(struct oracle_summary) == sizeof(struct eng_summary), "the same 64 bytes");

/* The path of a key; its steps are allocated, walker_free gives them back. */
static inline struct proof_key walker_key(const struct oracle_entry *entries, size_t count, const uint8_t *key,
                                          size_t key_bytes)
{
    struct proof_key asked = {.key = key, .key_bytes = key_bytes};
    if (count == 0)
        return asked;
    struct oracle_step *way = malloc(PROOF_STEPS_MAX * sizeof *way);
    assert(way != NULL);
    size_t step_count;
    size_t landing = oracle_path(entries, count, key, key_bytes, way, PROOF_STEPS_MAX, &step_count);
    struct proof_step *steps = malloc((step_count + 1) * sizeof *steps);
    assert(steps != NULL);
    for (size_t i = 0; i < step_count; i++) {
        steps[i].bit = way[i].bit;
        memcpy(&steps[i].sibling, &way[i].sibling, sizeof steps[i].sibling);
    }
    free(way);
    asked.path = (struct proof_path){.key = entries[landing].key,
                                     .key_bytes = entries[landing].key_bytes,
                                     .tag = (enum eng_tag)entries[landing].tag,
                                     .value = entries[landing].value,
                                     .value_bytes = entries[landing].value_bytes,
                                     .steps = steps,
                                     .step_count = step_count};
    return asked;
}

static inline void walker_free(struct proof_key *asked)
{
    free((void *)asked->path.steps);
    asked->path.steps = NULL;
}

#endif
