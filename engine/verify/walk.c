/*
 * The walk over a pruned trie: tokens in pre-order, a stack of open nodes, two bounds whose ways are followed. What it
 * is for is in walk.h, the format and the argument in pando/verify.h.
 *
 * Ways to fail: the input ends early; a token, length or bit that the format does not have; a bound whose way is cut
 * off; a part that is left out though it must be there, or is there though it must be left out; no memory
 * (VERIFY_MEMORY).
 *
 * Invariant: bits ascend on the way down, so there are at most PROOF_STEPS_MAX open nodes; nothing is read that
 * proof_take() did not grant.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "walk.h"

int walk_compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
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
    unsigned own = trie_bit(bound->key, bound->key_bytes, frame->bit);
    if (side == own)
        return ON_THE_WAY;
    if (walk->second && frame->bit > bound->differs)
        return bound->landing;
    return side > own ? NOT_BELOW : BELOW;
}

static void enter_side(struct walk *walk, const struct frame *frame, unsigned side)
{
    for (unsigned which = 0; which < 2; which++)
        walk->where[which] = (uint8_t)side_of(walk, frame, side, which);
}

/* The node that comes next is on the way of a bound. */
static bool on_the_way(const struct walk *walk)
{
    return walk->where[0] == ON_THE_WAY || walk->where[1] == ON_THE_WAY;
}

/* All of the node that comes next is inside the range. */
static bool is_inside(const struct walk *walk)
{
    return walk->where[0] == NOT_BELOW && walk->where[1] == BELOW;
}

/* The node that comes next must be pruned, if it is not shared. */
static bool is_left_out(const struct walk *walk)
{
    return walk->depth > 0 && !on_the_way(walk) && (walk->of == WALK_TOTALS || !is_inside(walk));
}

static enum verify_status open_inner(struct walk *walk)
{
    const uint8_t *field = proof_take(&walk->reader, 4);
    if (field == NULL)
        return VERIFY_TRUNCATED;
    if (walk->second && is_left_out(walk))
        return VERIFY_OPENED;
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
    frame->bit = walk->inner_bit = bit;
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

static void add_bytes(uint8_t sum[24], const uint8_t more[24])
{
    unsigned carry = 0;
    for (size_t i = 0; i < 24; i++) {
        unsigned t = sum[i] + more[i] + carry;
        sum[i] = (uint8_t)t;
        carry = t >> 8;
    }
}

void walk_add_amount(uint8_t sum[24], const uint8_t amount[16], bool subtract)
{
    uint8_t wide[24];
    memcpy(wide, amount, 16);
    memset(wide + 16, amount[15] & 0x80 ? 0xff : 0, 8);
    if (subtract) { /* two's complement: all bits the other way round, and one */
        uint8_t one[24] = {1};
        for (size_t i = 0; i < 24; i++)
            wide[i] = (uint8_t)~wide[i];
        add_bytes(wide, one);
    }
    add_bytes(sum, wide);
}

/* First walk: an entry at which a bound ends. */
static void land(struct walk *walk, const struct trie_entry *entry)
{
    for (unsigned which = 0; which < 2; which++) {
        struct bound *bound = &walk->bounds[which];
        if (walk->where[which] != ON_THE_WAY)
            continue;
        bound->differs = first_bit(bound->key, bound->key_bytes, entry->key, entry->key_bytes);
        int order = walk_compare(entry->key, entry->key_bytes, bound->key, bound->key_bytes);
        bound->landing = order < 0 ? BELOW : NOT_BELOW;
        bound->landing_key = entry->key;
        bound->landing_bytes = entry->key_bytes;
    }
}

bool walk_inside(const struct walk *walk, const struct trie_entry *entry)
{
    const struct bound *from = &walk->bounds[0], *to = &walk->bounds[1];
    return (!from->key || walk_compare(entry->key, entry->key_bytes, from->key, from->key_bytes) >= 0) &&
           (!to->key || walk_compare(entry->key, entry->key_bytes, to->key, to->key_bytes) < 0);
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
    bool counts = walk_inside(walk, &entry), difference = walk->of == WALK_OLDER || walk->of == WALK_NEWER;
    if (whole ? !counts || walk->of == WALK_TOTALS : counts && walk->of == WALK_CONTENTS)
        return VERIFY_ENTRY;
    if (is_left_out(walk))
        return VERIFY_OPENED;
    if (!counts || difference)
        return VERIFY_OK;
    walk->count++;
    if (entry.tag == PROOF_TAG_AMOUNT)
        walk_add_amount(walk->sum, entry.value, false);
    return VERIFY_OK;
}

static enum verify_status take_summary(struct walk *walk, const uint8_t *summary)
{
    if (summary == NULL)
        return VERIFY_TRUNCATED;
    memcpy(walk->summary.bytes, summary, PROOF_SUMMARY_BYTES);
    if (trie_u64(summary + PROOF_DIGEST_BYTES) == 0)
        return VERIFY_SIBLING;
    return on_the_way(walk) ? VERIFY_BOUND : VERIFY_OK;
}

static enum verify_status take_pruned(struct walk *walk)
{
    const uint8_t *summary = proof_take(&walk->reader, PROOF_SUMMARY_BYTES);
    enum verify_status status = take_summary(walk, summary);
    if (status != VERIFY_OK)
        return status;
    if (walk->depth == 0) /* no node above it vouches for its count and sum */
        return VERIFY_INCOMPLETE;
    if (!walk->second || !is_inside(walk))
        return VERIFY_OK;
    if (walk->of != WALK_TOTALS)
        return VERIFY_INCOMPLETE;
    walk->count += trie_u64(summary + PROOF_DIGEST_BYTES);
    add_bytes(walk->sum, summary + PROOF_DIGEST_BYTES + 8);
    return VERIFY_OK;
}

/* ---- parts of a difference that both tries have ---- */

/* Steps over what is behind a token, all but entries; false: there is no such token here. */
static bool skip_token(struct proof_reader *reader, uint8_t token, bool newer)
{
    if (token == TOKEN_INNER)
        return proof_take(reader, 4) != NULL;
    if (token == TOKEN_PRUNED || (token == TOKEN_SHARED && !newer))
        return proof_take(reader, PROOF_SUMMARY_BYTES) != NULL;
    return token == TOKEN_SHARED || token == TOKEN_NOTHING;
}

bool walk_seek(struct proof_reader *reader, bool whole, bool newer)
{
    while (reader->at != reader->end) {
        const uint8_t *token = proof_take(reader, 1);
        struct trie_entry entry;
        if (*token == TOKEN_WHOLE || (*token == TOKEN_ENTRY && !whole)) {
            reader->at = token;
            return true;
        }
        if (*token == TOKEN_ENTRY ? proof_entry_read(reader, false, &entry) != VERIFY_OK
                                  : !skip_token(reader, *token, newer))
            return false;
    }
    return false;
}

bool walk_entry(struct proof_reader *reader, struct trie_entry *entry)
{
    bool whole = *proof_take(reader, 1) == TOKEN_WHOLE;
    enum verify_status status = proof_entry_read(reader, whole, entry);
    assert(status == VERIFY_OK); /* the same bytes were read before */
    (void)status;
    return whole;
}

/* The next shared part of the older trie, which was walked; NULL: there are no more. */
static const uint8_t *next_shared(struct walk *walk)
{
    struct proof_reader *older = &walk->shared;
    walk->shared_bit = UINT32_MAX;
    while (older->at != older->end) {
        const uint8_t token = *proof_take(older, 1), *body = older->at;
        struct trie_entry entry;
        if (token == TOKEN_ENTRY || token == TOKEN_WHOLE) {
            enum verify_status status = proof_entry_read(older, token == TOKEN_WHOLE, &entry);
            assert(status == VERIFY_OK);
            (void)status;
        } else {
            bool known = skip_token(older, token, false);
            assert(known);
            (void)known;
        }
        if (token == TOKEN_SHARED)
            return body;
        walk->shared_bit = token == TOKEN_INNER ? trie_u32(body) : UINT32_MAX;
    }
    return NULL;
}

/* A node both of whose sides are shared, in both tries, is shared itself. */
static enum verify_status take_shared_again(struct walk *walk)
{
    const uint8_t *before = walk->shared.at, *summary = next_shared(walk);
    if (summary == NULL)
        return VERIFY_SHARED;
    if (walk->half && summary == before + 1)
        return VERIFY_OPENED;
    walk->half = walk->inner_bit != UINT32_MAX && walk->inner_bit == walk->shared_bit;
    return take_summary(walk, summary);
}

static enum verify_status take_shared(struct walk *walk)
{
    if (walk->of == WALK_OLDER)
        return take_summary(walk, proof_take(&walk->reader, PROOF_SUMMARY_BYTES));
    if (walk->of != WALK_NEWER)
        return VERIFY_FORM;
    return walk->second ? VERIFY_OK : take_shared_again(walk);
}

/* ---- the whole trie ---- */

static enum verify_status take_token(struct walk *walk, uint8_t token)
{
    if (token == TOKEN_INNER) {
        walk->half = false;
        return open_inner(walk);
    }
    enum verify_status status = VERIFY_FORM;
    if (token == TOKEN_SHARED)
        status = take_shared(walk);
    else
        walk->half = false;
    walk->inner_bit = UINT32_MAX;
    if (token == TOKEN_ENTRY || token == TOKEN_WHOLE)
        return take_entry(walk, token == TOKEN_WHOLE);
    if (token == TOKEN_PRUNED)
        return take_pruned(walk);
    if (token == TOKEN_NOTHING && walk->depth == 0) {
        memset(&walk->summary, 0, sizeof walk->summary);
        return VERIFY_OK;
    }
    return status;
}

enum verify_status walk_trie(struct walk *walk, bool second)
{
    walk->second = second;
    walk->depth = 0;
    walk->half = false;
    walk->inner_bit = UINT32_MAX;
    walk->where[0] = walk->bounds[0].key ? ON_THE_WAY : NOT_BELOW;
    walk->where[1] = walk->bounds[1].key ? ON_THE_WAY : BELOW;
    for (;;) {
        const uint8_t *token = proof_take(&walk->reader, 1);
        if (token == NULL)
            return VERIFY_TRUNCATED;
        enum verify_status status = take_token(walk, *token);
        if (status != VERIFY_OK)
            return status;
        if (*token != TOKEN_INNER && !close_nodes(walk))
            return VERIFY_OK;
    }
}

static enum verify_status read_bound(struct proof_reader *reader, struct bound *bound)
{
    const uint8_t *present = proof_take(reader, 1);
    if (present == NULL)
        return VERIFY_TRUNCATED;
    if (*present > 1)
        return VERIFY_FORM;
    return *present ? proof_key_read(reader, &bound->key, &bound->key_bytes) : VERIFY_OK;
}

enum verify_status walk_bounds(struct proof_reader *reader, struct walk *walk)
{
    struct bound *from = &walk->bounds[0], *to = &walk->bounds[1];
    enum verify_status status = read_bound(reader, from);
    if (status == VERIFY_OK)
        status = read_bound(reader, to);
    if (status == VERIFY_OK && from->key && to->key &&
        walk_compare(from->key, from->key_bytes, to->key, to->key_bytes) >= 0)
        status = VERIFY_BOUNDS;
    return status;
}
