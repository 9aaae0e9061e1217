#include "digest_queue.h"

#include <stdlib.h>
#include <string.h>

#include "node.h"

bool digest_queue_init(struct digest_queue *queue)
{
    memset(queue, 0, sizeof *queue);
    queue->level = calloc(DIGEST_BIT_MAX + 1u, sizeof *queue->level);
    queue->bit_low = DIGEST_BIT_MAX;
    digest_queue_grow(queue);
    if (!queue->level || queue->failed) {
        digest_queue_free(queue);
        return false;
    }
    return true;
}

void digest_queue_free(struct digest_queue *queue)
{
    free(queue->nodes);
    free(queue->sorted);
    free(queue->also);
    free(queue->entries);
    free(queue->copies);
    free(queue->level);
    bump_close(&queue->temporaries);
    memset(queue, 0, sizeof *queue);
}

static void *resize(struct digest_queue *queue, void *old, size_t old_bytes, size_t bytes)
{
    void *fresh = NULL;
    if (posix_memalign(&fresh, 64, bytes) != 0) {
        queue->failed = true;
        return old;
    }
    if (old_bytes)
        memcpy(fresh, old, old_bytes);
    free(old);
    return fresh;
}

/* Doubles whatever is full. */
void digest_queue_grow(struct digest_queue *queue)
{
    if (queue->node_count == queue->node_capacity) {
        uint32_t have = queue->node_capacity, want = have ? 2 * have : 4 * DIGEST_QUEUE_RUN_AT;
        queue->nodes = resize(queue, queue->nodes, have * sizeof *queue->nodes, want * sizeof *queue->nodes);
        queue->also = resize(queue, queue->also, have * sizeof *queue->also, want * sizeof *queue->also);
        queue->sorted = resize(queue, queue->sorted, 0, want * sizeof *queue->sorted);
        if (!queue->failed)
            queue->node_capacity = want;
    }
    if (queue->entry_count == queue->entry_capacity) {
        uint32_t have = queue->entry_capacity, want = have ? 2 * have : 2 * DIGEST_QUEUE_RUN_AT;
        queue->entries = resize(queue, queue->entries, have * sizeof *queue->entries, want * sizeof *queue->entries);
        if (!queue->failed)
            queue->entry_capacity = want;
    }
    if (queue->copy_count == queue->copy_capacity) {
        uint32_t have = queue->copy_capacity, want = have ? 2 * have : DIGEST_QUEUE_RUN_AT;
        queue->copies = resize(queue, queue->copies, have * sizeof *queue->copies, want * sizeof *queue->copies);
        if (!queue->failed)
            queue->copy_capacity = want;
    }
}

void digest_queue_clear(struct digest_queue *queue)
{
    if (queue->node_count)
        memset(queue->level, 0, (DIGEST_BIT_MAX + 1u) * sizeof *queue->level);
    queue->node_count = queue->entry_count = queue->copy_count = 0;
    queue->bit_low = DIGEST_BIT_MAX;
    queue->bit_high = 0;
    queue->failed = false;
    bump_reset(&queue->temporaries);
}

void digest_queue_run(struct digest_queue *queue)
{
    if (queue->failed)
        return;
    digest_entries(queue->entries, queue->entry_count);
    if (queue->node_count) {
        /* Counting sort by bit, deepest first; level becomes the place of the next job of that bit. */
        uint32_t at = 0;
        for (uint32_t bit = queue->bit_high + 1; bit-- > queue->bit_low;) {
            uint32_t n = queue->level[bit];
            queue->level[bit] = at;
            at += n;
        }
        for (uint32_t i = 0; i < queue->node_count; i++)
            queue->sorted[queue->level[queue->nodes[i].bit]++] = queue->nodes[i];
        uint32_t from = 0;
        for (uint32_t bit = queue->bit_high + 1; bit-- > queue->bit_low;) {
            uint32_t to = queue->level[bit]; /* now the end of this bit's jobs; 0-sized levels keep from */
            queue->level[bit] = 0;
            if (to > from) {
                digest_nodes(queue->sorted + from, to - from);
                from = to;
            }
        }
        for (uint32_t i = 0; i < queue->node_count; i++)
            if (queue->also[i])
                memcpy(queue->also[i], queue->nodes[i].out, 32);
    }
    for (uint32_t i = 0; i < queue->copy_count; i++)
        memcpy(queue->copies[i].to, queue->copies[i].from, 32);
    queue->digests += queue->node_count + queue->entry_count;
    queue->node_count = queue->entry_count = queue->copy_count = 0;
    queue->bit_low = DIGEST_BIT_MAX;
    queue->bit_high = 0;
    bump_reset(&queue->temporaries);
}

void digest_emit_entry(struct digest_queue *queue, uint8_t *out, const uint8_t *head, size_t head_bytes,
                       const uint8_t *middle, size_t middle_bytes, const uint8_t *suffix, size_t suffix_bytes,
                       uint16_t form, const uint8_t *stored)
{
    size_t key_bytes = head_bytes + middle_bytes + suffix_bytes;
    bool long_value = FORM_TAG(form) == ENG_BYTES && (FORM_OUTSIDE(form) || FORM_BYTES(form) > DIGEST_VALUE_INLINE_MAX);
    const uint8_t *value_digest = FORM_OUTSIDE(form) ? stored + 8 : stored;
    uint64_t value_bytes = FORM_OUTSIDE(form) ? read32(stored + 4) : FORM_BYTES(form) - (long_value ? 32u : 0u);
    size_t payload = long_value ? 40 : value_bytes;
    if (FORM_TAG(form) == ENG_TREE)
        stored += 8; /* its summary */
    if (4 + key_bytes + payload > 128) {
        uint8_t key[ENG_KEY_BYTES_MAX];
        memcpy(key, head, head_bytes);
        memcpy(key + head_bytes, middle, middle_bytes);
        memcpy(key + head_bytes + middle_bytes, suffix, suffix_bytes);
        digest_entry(key, key_bytes, FORM_TAG(form), stored, value_bytes, long_value ? value_digest : NULL, out);
        queue->digests++;
        return;
    }
    if (__builtin_expect(queue->entry_count == queue->entry_capacity, 0))
        digest_queue_grow(queue);
    if (queue->failed)
        return;
    struct digest_entry_job *job = &queue->entries[queue->entry_count++];
    uint8_t *p = job->message;
    memset(p + 64, 0, 64);
    p[0] = (uint8_t)key_bytes;
    p[1] = (uint8_t)(key_bytes >> 8);
    p[2] = (uint8_t)FORM_TAG(form);
    p[3] = long_value;
    p += 4;
    memcpy(p, head, head_bytes);
    p += head_bytes;
    memcpy(p, middle, middle_bytes);
    p += middle_bytes;
    memcpy(p, suffix, suffix_bytes);
    p += suffix_bytes;
    if (long_value) {
        memcpy(p, &value_bytes, 8);
        memcpy(p + 8, value_digest, 32);
    } else {
        memcpy(p, stored, value_bytes);
    }
    p += payload;
    if (p < job->message + 64)
        memset(p, 0, (size_t)(job->message + 64 - p));
    job->out = out;
    job->length = (uint32_t)(4 + key_bytes + payload);
}
