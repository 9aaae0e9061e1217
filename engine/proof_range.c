/*
 * Making a range proof (pando/verify.h, kinds 2 and 3): the logical trie in pre-order, pruned wherever that is allowed.
 *
 * First the landing entries of the two bounds are found (eng_path). Then one walk over the logical trie, by a stack
 * (proof_trie.h): the root and every part on the way of a bound is opened; a part inside the range is opened if the
 * contents are wanted; every other part is its summary.
 *
 * Ways to fail: damage, memory, a proof over PROOF_BYTES_MAX. Nothing is kept.
 */
#include "proof_trie.h"

#include <stdlib.h>

struct part {
    struct trie_part at;
    uint8_t where[2];
};

struct making {
    struct store *store;
    struct proof_bound bounds[2];
    bool contents;
    struct part *stack;
    size_t depth, capacity;
    struct proof_out out;
    uint8_t path[ENG_KEY_BYTES_MAX]; /* key bytes above the part at hand */
};

static enum eng_status push(struct making *m, const struct part *part)
{
    if (m->depth == m->capacity) {
        size_t want = m->capacity ? 2 * m->capacity : 256;
        struct part *grown = realloc(m->stack, want * sizeof *grown);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
        m->stack = grown;
        m->capacity = want;
    }
    m->stack[m->depth++] = *part;
    return ENG_OK;
}

static enum eng_status take_sides(struct making *m, const struct part *part)
{
    struct trie_part sides[2];
    uint32_t bit = trie_sides(&part->at, sides);
    enum eng_status status = proof_put_inner(&m->out, bit);
    for (unsigned side = 2; side-- > 0 && status == ENG_OK;) { /* the left one is taken off the stack first */
        struct part half = {.at = sides[side], .where = {part->where[0], part->where[1]}};
        proof_where_side(m->bounds, bit, side, half.where);
        status = push(m, &half);
    }
    return status;
}

static enum eng_status take_part(struct making *m, bool root)
{
    struct part part = m->stack[--m->depth];
    bool opened = root || part.where[0] == ON_THE_WAY || part.where[1] == ON_THE_WAY ||
                  (m->contents && part.where[0] == NOT_BELOW && part.where[1] == BELOW);
    if (!opened) {
        struct eng_summary summary;
        enum eng_status status = trie_summary(m->store, &part.at, m->path, &summary);
        return status == ENG_OK ? proof_put_summary(&m->out, PROOF_TOKEN_PRUNED, &summary) : status;
    }
    enum eng_status status = trie_open(m->store, &part.at, m->path);
    if (status != ENG_OK)
        return status;
    if (!trie_is_entry(&part.at))
        return take_sides(m, &part);
    struct trie_item item;
    status = trie_item(m->store, &part.at, m->path, &item);
    if (status != ENG_OK)
        return status;
    return proof_put_item(&m->out, m->contents && proof_inside(m->bounds, item.key, item.key_bytes), &item);
}

static enum eng_status make(struct making *m, struct eng_snapshot *snapshot)
{
    uint8_t kind = m->contents ? PROOF_RANGE : PROOF_TOTALS;
    enum eng_status status = proof_put(&m->out, &kind, 1);
    if (status == ENG_OK)
        status = proof_put_bounds(&m->out, m->bounds);
    if (status == ENG_OK)
        status = proof_bounds_land(m->bounds, snapshot);
    if (status != ENG_OK)
        return status;
    if (!snapshot->version.root)
        return proof_put_token(&m->out, PROOF_TOKEN_NOTHING);
    struct part root = {.at = {.id = snapshot->version.root}};
    proof_where_root(m->bounds, root.where);
    status = push(m, &root);
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    for (bool first = true; status == ENG_OK && m->depth; first = false)
        status = take_part(m, first);
    reader_leave(reader);
    return status;
}

enum eng_status proof_state_range(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes,
                                  const uint8_t *to, size_t to_bytes, bool contents, struct proof_blob *state)
{
    *state = (struct proof_blob){NULL, 0};
    struct making *m = calloc(1, sizeof *m);
    if (!m)
        return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
    m->store = snapshot->eng->store;
    m->contents = contents;
    m->out.max = PROOF_BYTES_MAX;
    enum eng_status status = proof_bounds_set(m->bounds, from, from_bytes, to, to_bytes);
    if (status == ENG_OK)
        status = make(m, snapshot);
    if (status == ENG_OK)
        *state = (struct proof_blob){m->out.bytes, m->out.size};
    else
        free(m->out.bytes);
    free(m->stack);
    free(m);
    return status;
}
