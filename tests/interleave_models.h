/* The models of prog_interleave and what can be planted in them. */
#ifndef TESTS_INTERLEAVE_MODELS_H
#define TESTS_INTERLEAVE_MODELS_H

#include "interleave.h"

enum ring_bug {
    RING_RIGHT,
    RING_TORN_TAIL,     /* the place is reserved by a load and a store */
    RING_TORN_CREDIT,   /* credit is taken by a load and a store */
    RING_PUBLISH_EARLY, /* a record is published before its payload is copied */
    RING_FREE_EARLY,    /* the place is free before the record was read */
};
void ring_run(unsigned threads, unsigned operations, bool with_consumer, enum ring_bug bug, int preemptions,
              struct il_result *result);

/* What a thread of a store model does. */
enum store_role { ROLE_COMPACTOR, ROLE_MERGE, ROLE_READER, ROLE_RECLAIMER, ROLE_WRITER, ROLE_PINNER, ROLE_MOVER };

enum store_bug {
    STORE_RIGHT,
    STORE_TORN_MOVE,      /* the control word is compared and then stored */
    STORE_TORN_LIVE,      /* the live units of a segment are loaded and stored */
    STORE_NO_MEMBARRIER,  /* reclaiming without it */
    STORE_NO_SEQ_CST,     /* without membarrier(2), entering with a plain store */
    STORE_LEFT_EARLY,     /* the reader leaves its epoch and goes on reading */
    STORE_NO_ODD,         /* the head is written without an odd sequence number */
    STORE_NO_PIN,         /* the reader believes the head instead of pinning it */
    STORE_UNPINNED_EARLY, /* the reader unpins and goes on reading */
};
void store_run(const enum store_role *roles, unsigned threads, unsigned operations, bool membarrier, enum store_bug bug,
               int preemptions, struct il_result *result);

/* What the threads of the helper model do: one asks for work and ends it and closes in the end, or asks for work that
 * nobody ends, and waits for it; the last thread is the helper. */
enum helper_bug {
    HELPER_RIGHT,
    HELPER_TORN_STATE, /* the state is changed by a load and a store */
    HELPER_UNLOCKED,   /* who falls asleep and who wakes it do not exclude each other */
    HELPER_NOT_WAITED, /* who ends it takes it back, but does not look whether it is being done */
};
void helper_run(unsigned threads, unsigned operations, enum helper_bug bug, int preemptions, struct il_result *result);

#endif
