/*
 * Range proofs: a pruned trie in pre-order, walked twice.
 *
 * The first walk computes the root from the tokens and finds the landing entry of each bound: the entry at which the
 * bound itself would end, following its own bits from the root. The second walk knows the first bit in which a bound
 * differs from its landing key, and with it on which side of the bound every pruned part lies. Why that is enough is
 * argued in pando/verify.h.
 *
 * Ways to fail: the input ends early or goes on; a token, length or bit that the format does not have; a bound whose
 * way is cut off; a part of the range that is pruned where the contents are promised; no memory (VERIFY_MEMORY).
 *
 * Invariant: bits ascend on the way down, so there are at most PROOF_STEPS_MAX open nodes; nothing is read that
 * proof_take() did not grant.
 */
#include <stdlib.h>
#include <string.h>

#include "range_proof.h"

enum token { TOKEN_ENTRY = 0, TOKEN_INNER = 1, TOKEN_PRUNED = 2, TOKEN_WHOLE = 3, TOKEN_NOTHING = 4 };

/* Where a node lies to a bound: not known yet, all its keys below it, or all at it or above. */
enum where { ON_THE_WAY, BELOW, NOT_BELOW };

struct bound {
    const uint8_t *key; /* NULL: open */
    size_t key_bytes;
    uint32_t differs;   /* first bit in which the landing key differs from it; UINT32_MAX: it is the bound itself */
    enum where landing; /* where the landing key lies */
};

struct frame {
    struct trie_summary left;
    uint32_t bit;
    uint8_t where[2];
    bool right; /* the left side is done */
};

struct walk {
    struct proof_reader reader;
    struct bound bounds[2]; /* from, to */
    bool second;
    bool contents;
    struct frame *frames;
    size_t depth, capacity;
    uint8_t where[2]; /* of the node that comes next */
    uint64_t count;
    uint8_t sum[24];
    struct trie_summary summary; /* of the node that was read last */
};

static int compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static uint32_t first_bit(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    size_t least = a_bytes < b_bytes ? a_bytes : b_bytes, i = 0;
    while (i < least && a[i] == b[i])
        i++;
    uint32_t bit = 9u * (uint32_t)i;
    if (i == least)
        return a_bytes == b_bytes ? UINT32_MAX : bit;
    while (trie_bit(a, a_bytes, bit) == trie_bit(b, b_bytes, bit))
        bit++;
    return bit;
}

/* ---- one walk ---- */

static enum where side_of(const struct walk *walk, const struct frame *frame, unsigned side, unsigned which)
{
    const struct bound *bound = &walk->bounds[which];
    if (frame->where[which] != ON_THE_WAY)
        return (enum where)frame->where[which];
    if (walk->second && frame->bit > bound->differs)
        return bound->landing;
    unsigned own = trie_bit(bound->key, bound->key_bytes, frame->bit);
    return side == own ? ON_THE_WAY : side > own ? NOT_BELOW : BELOW;
}

static void enter_side(struct walk *walk, const struct frame *frame, unsigned side)
{
    for (unsigned which = 0; which < 2; which++)
        walk->where[which] = (uint8_t)side_of(walk, frame, side, which);
}

static enum verify_status open_inner(struct walk *walk)
{
    const uint8_t *field = proof_take(&walk->reader, 4);
    if (field == NULL)
        return VERIFY_TRUNCATED;
    uint32_t bit = trie_u32(field);
    if (bit >= PROOF_STEPS_MAX)
        return VERIFY_BIT_RANGE;
    if (walk->depth && bit <= walk->frames[walk->depth - 1].bit)
        return VERIFY_BIT_ORDER;
    if (walk->depth == walk->capacity) {
        size_t want = walk->capacity ? 2 * walk->capacity : 64;
        struct frame *grown = realloc(walk->frames, want * sizeof *grown);
        if (grown == NULL)
            return VERIFY_MEMORY;
        walk->frames = grown;
        walk->capacity = want;
    }
    struct frame *frame = &walk->frames[walk->depth++];
    frame->bit = bit;
    frame->right = false;
    memcpy(frame->where, walk->where, sizeof frame->where);
    enter_side(walk, frame, 0);
    return VERIFY_OK;
}

/* A node is complete, its summary in walk->summary: to the next one that is to be read; false: there is none. */
static bool close_nodes(struct walk *walk)
{
    while (walk->depth) {
        struct frame *frame = &walk->frames[walk->depth - 1];
        if (!frame->right) {
            frame->left = walk->summary;
            frame->right = true;
            enter_side(walk, frame, 1);
            return true;
        }
        if (!walk->second)
            trie_combine(&walk->summary, frame->left.bytes, frame->bit, 1);
        walk->depth--;
    }
    return false;
}

static void add_bytes(uint8_t sum[24], const uint8_t *more, size_t bytes)
{
    unsigned carry = 0, fill = bytes < 24 && more[bytes - 1] & 0x80 ? 0xff : 0;
    for (size_t i = 0; i < 24; i++) {
        unsigned t = sum[i] + (i < bytes ? more[i] : fill) + carry;
        sum[i] = (uint8_t)t;
        carry = t >> 8;
    }
}

/* First walk: an entry at which a bound ends. */
static void land(struct walk *walk, const struct trie_entry *entry)
{
    for (unsigned which = 0; which < 2; which++) {
        struct bound *bound = &walk->bounds[which];
        if (walk->where[which] != ON_THE_WAY)
            continue;
        bound->differs = first_bit(bound->key, bound->key_bytes, entry->key, entry->key_bytes);
        int order = compare(entry->key, entry->key_bytes, bound->key, bound->key_bytes);
        bound->landing = order < 0 ? BELOW : NOT_BELOW;
    }
}

static bool inside(const struct walk *walk, const struct trie_entry *entry)
{
    const struct bound *from = &walk->bounds[0], *to = &walk->bounds[1];
    return (!from->key || compare(entry->key, entry->key_bytes, from->key, from->key_bytes) >= 0) &&
           (!to->key || compare(entry->key, entry->key_bytes, to->key, to->key_bytes) < 0);
}

static enum verify_status take_entry(struct walk *walk, bool whole)
{
    struct trie_entry entry;
    enum verify_status status = proof_entry_read(&walk->reader, whole, &entry);
    if (status != VERIFY_OK)
        return status;
    if (!walk->second) {
        trie_entry_summary(&entry, &walk->summary);
        land(walk, &entry);
        return VERIFY_OK;
    }
    bool counts = inside(walk, &entry);
    if (whole != (walk->contents && counts))
        return VERIFY_ENTRY;
    if (!counts)
        return VERIFY_OK;
    walk->count++;
    if (entry.tag == PROOF_TAG_AMOUNT)
        add_bytes(walk->sum, entry.value, 16);
    return VERIFY_OK;
}

static enum verify_status take_pruned(struct walk *walk)
{
    const uint8_t *summary = proof_take(&walk->reader, PROOF_SUMMARY_BYTES);
    if (summary == NULL)
        return VERIFY_TRUNCATED;
    memcpy(walk->summary.bytes, summary, PROOF_SUMMARY_BYTES);
    if (trie_u64(summary + PROOF_DIGEST_BYTES) == 0)
        return VERIFY_SIBLING;
    if (walk->where[0] == ON_THE_WAY || walk->where[1] == ON_THE_WAY)
        return VERIFY_BOUND;
    if (!walk->second || walk->where[0] != NOT_BELOW || walk->where[1] != BELOW)
        return VERIFY_OK;
    if (walk->contents)
        return VERIFY_INCOMPLETE;
    walk->count += trie_u64(summary + PROOF_DIGEST_BYTES);
    add_bytes(walk->sum, summary + PROOF_DIGEST_BYTES + 8, 24);
    return VERIFY_OK;
}

static enum verify_status walk_trie(struct walk *walk)
{
    walk->depth = 0;
    walk->where[0] = walk->bounds[0].key ? ON_THE_WAY : NOT_BELOW;
    walk->where[1] = walk->bounds[1].key ? ON_THE_WAY : BELOW;
    for (;;) {
        const uint8_t *token = proof_take(&walk->reader, 1);
        if (token == NULL)
            return VERIFY_TRUNCATED;
        enum verify_status status = VERIFY_FORM;
        if (*token == TOKEN_INNER)
            status = open_inner(walk);
        else if (*token == TOKEN_ENTRY || *token == TOKEN_WHOLE)
            status = take_entry(walk, *token == TOKEN_WHOLE);
        else if (*token == TOKEN_PRUNED)
            status = take_pruned(walk);
        else if (*token == TOKEN_NOTHING && walk->depth == 0) {
            memset(&walk->summary, 0, sizeof walk->summary);
            status = VERIFY_OK;
        }
        if (status != VERIFY_OK)
            return status;
        if (*token != TOKEN_INNER && !close_nodes(walk))
            return walk->reader.at == walk->reader.end ? VERIFY_OK : VERIFY_TRAILING;
    }
}

/* ---- the proof ---- */

static enum verify_status read_bound(struct proof_reader *reader, struct bound *bound)
{
    const uint8_t *present = proof_take(reader, 1);
    if (present == NULL)
        return VERIFY_TRUNCATED;
    if (*present > 1)
        return VERIFY_FORM;
    return *present ? proof_key_read(reader, &bound->key, &bound->key_bytes) : VERIFY_OK;
}

enum verify_status range_proof_verify(struct proof_reader *reader, enum proof_kind kind, struct verify_result *result)
{
    struct walk walk = {.contents = kind == PROOF_RANGE};
    enum verify_status status = read_bound(reader, &walk.bounds[0]);
    if (status == VERIFY_OK)
        status = read_bound(reader, &walk.bounds[1]);
    const struct bound *from = &walk.bounds[0], *to = &walk.bounds[1];
    if (status == VERIFY_OK && from->key && to->key && compare(from->key, from->key_bytes, to->key, to->key_bytes) >= 0)
        status = VERIFY_BOUNDS;
    const uint8_t *first = reader->at;
    for (int pass = 0; pass < 2 && status == VERIFY_OK; pass++) {
        walk.second = pass == 1;
        walk.reader = (struct proof_reader){first, reader->end};
        status = walk_trie(&walk);
        if (pass == 0)
            memcpy(result->root, walk.summary.bytes, PROOF_DIGEST_BYTES);
        reader->at = walk.reader.at;
    }
    free(walk.frames);
    if (status != VERIFY_OK)
        return status;
    result->kind = kind;
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
    const uint8_t *token;
    while ((token = proof_take(reader, 1)) != NULL) {
        if (*token == TOKEN_INNER) {
            (void)proof_take(reader, 4);
        } else if (*token == TOKEN_PRUNED) {
            (void)proof_take(reader, PROOF_SUMMARY_BYTES);
        } else if (*token == TOKEN_ENTRY || *token == TOKEN_WHOLE) {
            if (proof_entry_read(reader, *token == TOKEN_WHOLE, entry) != VERIFY_OK)
                return false;
            if (*token == TOKEN_WHOLE)
                return true;
        }
    }
    return false;
}
