/*
 * Digest jobs of a merge, collected and run in lanes (DESIGN 3.4; the measurements behind it: 30 ns a digest in eight
 * lanes against 165 ns one at a time).
 *
 * The merge emits jobs in post-order: whatever a job reads was given before it or is already final. A job may read the
 * digest another queued job will write, because digest_queue_run goes by key bit, deepest first, and a node of the
 * logical trie always has a smaller bit than the nodes below it. Counts and sums are set when the job is emitted; only
 * digests come late. When the queue is full enough the merge runs it in the middle, at a point where no half-made
 * subtree is open; the temporaries of the queue are good until then.
 *
 * One queue a thread. Memory comes from malloc and grows to the largest subtree of one node; NULL is reported by the
 * caller as ENG_NO_MEMORY through digest_queue_failed.
 */
#ifndef ENGINE_DIGEST_QUEUE_H
#define ENGINE_DIGEST_QUEUE_H

#include "bump.h"
#include "lanes.h"

#define DIGEST_QUEUE_RUN_AT 1024u /* jobs; run in mid-merge above this */
#define DIGEST_BIT_MAX (9u * ENG_KEY_BYTES_MAX + 9u)

struct digest_copy {
    uint8_t *to;
    const uint8_t *from;
};

struct digest_queue {
    struct digest_node_job *nodes, *sorted;
    uint8_t **also; /* second place a node's digest goes to, or NULL */
    struct digest_entry_job *entries;
    struct digest_copy *copies; /* done after all jobs */
    uint32_t node_count, node_capacity, entry_count, entry_capacity, copy_count, copy_capacity;
    uint32_t *level; /* jobs with this bit, DIGEST_BIT_MAX + 1 */
    uint32_t bit_low, bit_high;
    struct bump temporaries;
    bool failed;
    uint64_t digests; /* computed since the queue was made */
};

bool digest_queue_init(struct digest_queue *queue);
void digest_queue_free(struct digest_queue *queue);
/* Runs everything, does the copies, drops the temporaries. */
void digest_queue_run(struct digest_queue *queue);
/* Forgets everything (after a failed merge). */
void digest_queue_clear(struct digest_queue *queue);
/* Slow path of the emitters. */
void digest_queue_grow(struct digest_queue *queue);

static inline bool digest_queue_full(const struct digest_queue *queue)
{
    return queue->node_count + queue->entry_count >= DIGEST_QUEUE_RUN_AT;
}

/* A summary that lives until the next run. */
static inline struct eng_summary *digest_temporary(struct digest_queue *queue)
{
    static _Thread_local struct eng_summary sink; /* only when out of memory: the merge fails before anyone looks */
    if (!bump_reserve(&queue->temporaries, sizeof(struct eng_summary))) {
        queue->failed = true;
        return &sink;
    }
    return bump_take(&queue->temporaries, sizeof(struct eng_summary));
}

/* out = node(left, right, bit): count and sum now, digest at the run; also goes to also if not NULL. */
static inline void digest_emit_node(struct digest_queue *queue, struct eng_summary *out, const struct eng_summary *left,
                                    const struct eng_summary *right, uint32_t bit, uint8_t *also)
{
    out->count = left->count + right->count;
    digest_sum_add(out->sum, left->sum, right->sum);
    if (__builtin_expect(queue->node_count == queue->node_capacity, 0))
        digest_queue_grow(queue);
    if (queue->failed)
        return;
    uint32_t at = queue->node_count++;
    queue->nodes[at] = (struct digest_node_job){left, right, out->digest, bit};
    queue->also[at] = also;
    queue->level[bit]++;
    if (bit < queue->bit_low)
        queue->bit_low = bit;
    if (bit > queue->bit_high)
        queue->bit_high = bit;
}

/* to = from, after the digests of this run are there. */
static inline void digest_emit_copy(struct digest_queue *queue, uint8_t *to, const uint8_t *from)
{
    if (__builtin_expect(queue->copy_count == queue->copy_capacity, 0))
        digest_queue_grow(queue);
    if (!queue->failed)
        queue->copies[queue->copy_count++] = (struct digest_copy){to, from};
}

/* The digest of an entry, its key given in two pieces (head, then suffix), its value as the leaf stores it. */
void digest_emit_entry(struct digest_queue *queue, uint8_t *out, const uint8_t *head, size_t head_bytes,
                       const uint8_t *middle, size_t middle_bytes, const uint8_t *suffix, size_t suffix_bytes,
                       uint16_t form, const uint8_t *stored);

#endif
