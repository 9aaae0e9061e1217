/*
 * Making a proof of what differs between two versions (pando/verify.h, kind 5).
 *
 * Both logical tries are walked at once in key order, each by a stack (proof_trie.h) and into bytes of its own; those
 * of the newer one are put behind those of the older one in the end. What is on the way of a bound is opened first.
 * Then the first keys of the two parts on top say what to do:
 *
 *   one is less            the other trie does not have that key: outside the range the part is pruned; inside, an
 * entry is whole, and anything else is opened they are the same, and both are the same    the part is shared outside
 * the range    each is pruned one has more entries it is opened: it may have the other one inside, but not the other
 * way round both have one        the entry is whole in both equally many         both are opened
 *
 * Why all that is shared is found: a subtree S of both tries is never opened, for what comes next in the other trie
 * when S is on top either begins with a lesser key, or with S's first key and has more entries (it has S inside, and is
 * opened), or as many (it is S). The landing entry of a bound is in nothing that is shared: it is given in both tries.
 *
 * Equality of two parts is told by their digests; where both are the same branches of inner nodes, by those of the
 * children, so that nothing has to be hashed. What the two versions share is skipped without being looked at.
 *
 * Ways to fail: damage, memory, a proof over its limit. Nothing is kept.
 */
#include "proof_trie.h"

#include <stdlib.h>

struct part {
    struct trie_part at;
    uint8_t where[2];
};

struct side {
    struct eng_snapshot *snapshot;
    struct proof_bound bounds[2];
    struct part *stack; /* next on top */
    size_t depth, capacity;
    bool has_first; /* of the part on top */
    size_t first_bytes;
    uint8_t first[ENG_KEY_BYTES_MAX];
    uint8_t path[ENG_KEY_BYTES_MAX]; /* key bytes above the part on top */
    struct proof_out out;
};

struct making {
    struct store *store;
    struct side sides[2]; /* older, newer */
};

static struct part *top(struct side *side)
{
    return &side->stack[side->depth - 1];
}

static void pop(struct side *side)
{
    side->depth--;
    side->has_first = false;
}

static bool on_the_way(const struct part *part)
{
    return part->where[0] == ON_THE_WAY || part->where[1] == ON_THE_WAY;
}

static enum eng_status push(struct side *side, const struct part *part)
{
    if (side->depth == side->capacity) {
        size_t want = side->capacity ? 2 * side->capacity : 256;
        struct part *grown = realloc(side->stack, want * sizeof *grown);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
        side->stack = grown;
        side->capacity = want;
    }
    side->stack[side->depth++] = *part;
    return ENG_OK;
}

/* ---- what is done with the part on top ---- */

/* It is opened: its sides come on top, the left one first, whose first key is the same. */
static enum eng_status open_top(struct making *m, struct side *side)
{
    enum eng_status status = trie_open(m->store, &top(side)->at, side->path);
    if (status != ENG_OK)
        return status;
    struct part part = *top(side);
    struct trie_part sides[2];
    uint32_t bit = trie_sides(&part.at, sides);
    side->depth--;
    status = proof_put_inner(&side->out, bit);
    for (unsigned i = 2; i-- > 0 && status == ENG_OK;) {
        struct part half = {.at = sides[i], .where = {part.where[0], part.where[1]}};
        proof_where_side(side->bounds, bit, i, half.where);
        status = push(side, &half);
    }
    return status;
}

static enum eng_status prune_top(struct making *m, struct side *side)
{
    struct eng_summary summary;
    enum eng_status status = trie_summary(m->store, &top(side)->at, side->path, &summary);
    if (status == ENG_OK)
        status = proof_put_summary(&side->out, PROOF_TOKEN_PRUNED, &summary);
    pop(side);
    return status;
}

/* It is an entry. */
static enum eng_status give_top(struct making *m, struct side *side, bool whole)
{
    struct trie_item item;
    enum eng_status status = trie_open(m->store, &top(side)->at, side->path);
    if (status == ENG_OK)
        status = trie_item(m->store, &top(side)->at, side->path, &item);
    if (status == ENG_OK)
        status = proof_put_item(&side->out, whole, &item);
    pop(side);
    return status;
}

/* It is outside the range. */
static enum eng_status leave_top(struct making *m, struct side *side)
{
    return on_the_way(top(side)) ? give_top(m, side, false) : prune_top(m, side);
}

static enum eng_status share_tops(struct making *m)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    struct eng_summary summary;
    enum eng_status status = trie_summary(m->store, &top(older)->at, older->path, &summary);
    if (status == ENG_OK)
        status = proof_put_summary(&older->out, PROOF_TOKEN_SHARED, &summary);
    if (status == ENG_OK)
        status = proof_put_token(&newer->out, PROOF_TOKEN_SHARED);
    pop(older);
    pop(newer);
    return status;
}

/* ---- are two parts the same? ---- */

/* The same branches of two inner nodes? Then the parts are the same if and only if all their children are. */
static bool are_aligned(const struct trie_part *a, const struct trie_part *b)
{
    if (!a->node || !b->node || a->node->object.type != OBJECT_INNER || b->node->object.type != OBJECT_INNER)
        return false;
    const struct inner *x = (const struct inner *)a->node, *y = (const struct inner *)b->node;
    unsigned count = a->hi - a->lo + 1u;
    return count == b->hi - b->lo + 1u && inner_child_depth(x) == inner_child_depth(y) &&
           (a->lo == 0 && x->own) == (b->lo == 0 && y->own) &&
           memcmp(inner_start(x) + a->lo, inner_start(y) + b->lo, count) == 0;
}

static enum eng_status children_same(struct store *store, const struct trie_part *a, const struct trie_part *b,
                                     bool *same)
{
    const uint32_t *x = inner_child((const struct inner *)a->node) + a->lo;
    const uint32_t *y = inner_child((const struct inner *)b->node) + b->lo;
    *same = true;
    for (unsigned i = 0; i <= (unsigned)(a->hi - a->lo) && *same; i++) {
        if (x[i] == y[i])
            continue;
        const struct node *old = store_node(store, x[i]), *new = store_node(store, y[i]);
        if (!old || !new)
            return ENG_DAMAGED;
        *same = memcmp(old->summary.digest, new->summary.digest, ENG_DIGEST_BYTES) == 0;
    }
    return ENG_OK;
}

/* Of the parts on top, which begin with the same key and have equally many entries. */
static enum eng_status tops_same(struct making *m, bool *same)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    const struct trie_part *a = &top(older)->at, *b = &top(newer)->at;
    *same = true;
    if (!a->node && !b->node && a->id == b->id)
        return ENG_OK;
    if (are_aligned(a, b))
        return children_same(m->store, a, b, same);
    struct eng_summary old, new;
    enum eng_status status = trie_summary(m->store, a, older->path, &old);
    if (status == ENG_OK)
        status = trie_summary(m->store, b, newer->path, &new);
    if (status == ENG_OK)
        *same = memcmp(old.digest, new.digest, ENG_DIGEST_BYTES) == 0;
    return status;
}

/* ---- the two walks ---- */

/* The key on top is in this trie only. */
static enum eng_status take_alone(struct making *m, struct side *side)
{
    if (!proof_inside(side->bounds, side->first, side->first_bytes))
        return leave_top(m, side);
    uint64_t count;
    enum eng_status status = trie_count(m->store, &top(side)->at, &count);
    if (status != ENG_OK)
        return status;
    return count == 1 ? give_top(m, side, true) : open_top(m, side);
}

/* Both parts begin with the same key, inside the range, and have one entry each. */
static enum eng_status take_entries(struct making *m, bool same)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    if (same && !on_the_way(top(older)) && !on_the_way(top(newer)))
        return share_tops(m);
    enum eng_status status = give_top(m, older, !same);
    return status == ENG_OK ? give_top(m, newer, !same) : status;
}

/* Both parts begin with the same key. */
static enum eng_status take_both(struct making *m)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    uint64_t counts[2];
    bool same = false;
    enum eng_status status = trie_count(m->store, &top(older)->at, &counts[0]);
    if (status == ENG_OK)
        status = trie_count(m->store, &top(newer)->at, &counts[1]);
    if (status == ENG_OK && counts[0] == counts[1])
        status = tops_same(m, &same);
    if (status != ENG_OK)
        return status;
    if (!proof_inside(older->bounds, older->first, older->first_bytes)) {
        if (same && !on_the_way(top(older)) && !on_the_way(top(newer)))
            return share_tops(m);
        status = leave_top(m, older);
        return status == ENG_OK ? leave_top(m, newer) : status;
    }
    if (counts[0] == counts[1] && counts[0] == 1)
        return take_entries(m, same);
    if (same)
        return share_tops(m);
    if (counts[0] >= counts[1])
        status = open_top(m, older);
    return status == ENG_OK && counts[1] >= counts[0] ? open_top(m, newer) : status;
}

/* Opens what is on the way of a bound on top, down to an entry, and finds the first key there. */
static enum eng_status prepare(struct making *m, struct side *side)
{
    while (side->depth && on_the_way(top(side))) {
        enum eng_status status = trie_open(m->store, &top(side)->at, side->path);
        if (status != ENG_OK)
            return status;
        if (trie_is_entry(&top(side)->at))
            break;
        status = open_top(m, side);
        if (status != ENG_OK)
            return status;
    }
    if (!side->depth || side->has_first)
        return ENG_OK;
    side->has_first = true;
    return trie_first(m->store, &top(side)->at, side->path, side->first, &side->first_bytes);
}

static enum eng_status step(struct making *m)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    enum eng_status status = prepare(m, older);
    if (status == ENG_OK)
        status = prepare(m, newer);
    if (status != ENG_OK)
        return status;
    int order = !newer->depth   ? -1
                : !older->depth ? 1
                                : bytes_compare(older->first, older->first_bytes, newer->first, newer->first_bytes);
    return order < 0 ? take_alone(m, older) : order > 0 ? take_alone(m, newer) : take_both(m);
}

static enum eng_status begin(struct making *m, struct side *side)
{
    struct part root = {.at = {.id = side->snapshot->version.root}};
    if (!root.at.id)
        return proof_put_token(&side->out, PROOF_TOKEN_NOTHING);
    proof_where_root(side->bounds, root.where);
    return push(side, &root);
}

static enum eng_status walk(struct making *m)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    struct reader *reader = eng_enter(older->snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    enum eng_status status = begin(m, older);
    if (status == ENG_OK)
        status = begin(m, newer);
    while (status == ENG_OK && (older->depth || newer->depth))
        status = step(m);
    reader_leave(reader);
    return status;
}

static enum eng_status make(struct making *m)
{
    struct side *older = &m->sides[0], *newer = &m->sides[1];
    enum eng_status status = proof_put(&older->out, &(uint8_t){PROOF_DIFF}, 1);
    if (status == ENG_OK)
        status = proof_put_bounds(&older->out, older->bounds);
    if (status != ENG_OK)
        return status;
    const struct eng_summary *a = eng_snapshot_summary(older->snapshot), *b = eng_snapshot_summary(newer->snapshot);
    if (a->count > 0 && memcmp(a->digest, b->digest, ENG_DIGEST_BYTES) == 0) {
        status = proof_put_token(&older->out, PROOF_TOKEN_SAME);
        return status == ENG_OK ? proof_put(&older->out, a->digest, ENG_DIGEST_BYTES) : status;
    }
    for (int i = 0; i < 2 && status == ENG_OK; i++)
        status = proof_bounds_land(m->sides[i].bounds, m->sides[i].snapshot);
    if (status == ENG_OK)
        status = walk(m);
    return status == ENG_OK ? proof_put(&older->out, newer->out.bytes, newer->out.size) : status;
}

enum eng_status eng_prove_diff(struct eng_snapshot *older, struct eng_snapshot *newer, const uint8_t *from,
                               size_t from_bytes, const uint8_t *to, size_t to_bytes, size_t max_bytes,
                               struct proof_blob *state)
{
    assert(older->eng == newer->eng);
    *state = (struct proof_blob){NULL, 0};
    struct making *m = calloc(1, sizeof *m);
    if (!m)
        return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
    m->store = older->eng->store;
    m->sides[0].snapshot = older;
    m->sides[1].snapshot = newer;
    m->sides[0].out.max = m->sides[1].out.max = max_bytes && max_bytes < PROOF_BYTES_MAX ? max_bytes : PROOF_BYTES_MAX;
    enum eng_status status = proof_bounds_set(m->sides[0].bounds, from, from_bytes, to, to_bytes);
    memcpy(m->sides[1].bounds, m->sides[0].bounds, sizeof m->sides[0].bounds);
    if (status == ENG_OK)
        status = make(m);
    if (status == ENG_OK)
        *state = (struct proof_blob){m->sides[0].out.bytes, m->sides[0].out.size};
    else
        free(m->sides[0].out.bytes);
    free(m->sides[1].out.bytes);
    free(m->sides[0].stack);
    free(m->sides[1].stack);
    free(m);
    return status;
}
