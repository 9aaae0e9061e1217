/*
 * Making a range proof (pando/verify.h, kinds 2 and 3): the logical trie in pre-order, pruned wherever that is allowed.
 *
 * First the landing entries of the two bounds are found (eng_path). Then one walk over the logical trie, by a stack: a
 * part that is on the way of a bound is opened; a part inside the range is opened if the contents are wanted; every
 * other part is its summary, which the nodes have (inner parts of inner nodes are computed from their children).
 * Logical nodes are pieces of physical ones: branches [lo, hi] of an inner node, entries [lo, hi] of a leaf.
 *
 * Ways to fail: damage, memory, a proof over PROOF_BYTES_MAX. Nothing is kept.
 */
#include "engine_internal.h"
#include "pando/proof.h"
#include "tree.h"

#include <stdlib.h>

enum where { ON_THE_WAY, BELOW, NOT_BELOW };

struct bound {
    const uint8_t *key; /* NULL: open */
    size_t key_bytes;
    uint32_t differs;   /* first bit in which the landing key differs; UINT32_MAX: it is the bound */
    enum where landing; /* where the landing key lies */
};

struct part {
    const struct node *node;
    uint32_t id; /* of a child that was not looked at yet; node NULL */
    uint16_t lo, hi;
    uint8_t where[2];
};

struct making {
    struct store *store;
    struct bound bounds[2];
    bool contents;
    struct part *stack;
    size_t depth, capacity;
    uint8_t *bytes;
    size_t size, room;
    uint8_t path[ENG_KEY_BYTES_MAX]; /* key bytes above the part at hand */
};

/* ---- output ---- */

static enum eng_status append(struct making *m, const void *bytes, size_t count)
{
    if (m->size + count > PROOF_BYTES_MAX)
        return eng_fail(ENG_TOO_LARGE, "proof: over %u bytes", PROOF_BYTES_MAX);
    if (m->size + count > m->room) {
        size_t want = 2 * (m->size + count);
        uint8_t *grown = realloc(m->bytes, want);
        if (!grown)
            return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
        m->bytes = grown;
        m->room = want;
    }
    memcpy(m->bytes + m->size, bytes, count);
    m->size += count;
    return ENG_OK;
}

static enum eng_status append_key(struct making *m, const uint8_t *key, size_t key_bytes)
{
    uint16_t length = (uint16_t)key_bytes;
    enum eng_status status = append(m, &length, 2);
    return status == ENG_OK ? append(m, key, key_bytes) : status;
}

static enum eng_status append_bound(struct making *m, const struct bound *bound)
{
    uint8_t present = bound->key != NULL;
    enum eng_status status = append(m, &present, 1);
    return status == ENG_OK && present ? append_key(m, bound->key, bound->key_bytes) : status;
}

static enum eng_status append_pruned(struct making *m, const struct eng_summary *summary)
{
    enum eng_status status = append(m, &(uint8_t){2}, 1);
    return status == ENG_OK ? append(m, summary, sizeof *summary) : status;
}

static bool inside(const struct making *m, const uint8_t *key, size_t key_bytes)
{
    const struct bound *from = &m->bounds[0], *to = &m->bounds[1];
    return (!from->key || bytes_compare(key, key_bytes, from->key, from->key_bytes) >= 0) &&
           (!to->key || bytes_compare(key, key_bytes, to->key, to->key_bytes) < 0);
}

static enum eng_status append_entry(struct making *m, const struct leaf *leaf, unsigned index)
{
    struct leaf_entry e = leaf_entry_at(leaf, index);
    unsigned common = leaf->depth + leaf->prefix_bytes;
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t key_bytes = common + e.suffix_bytes;
    memcpy(key, m->path, leaf->depth);
    memcpy(key + leaf->depth, leaf_prefix(leaf), leaf->prefix_bytes);
    memcpy(key + common, e.suffix, e.suffix_bytes);
    struct eng_value value;
    const uint8_t *digest;
    enum eng_status status = tree_value_read(m->store, &(struct tree_value){e.stored, e.form}, &value, &digest);
    if (status != ENG_OK)
        return status;
    bool whole = m->contents && inside(m, key, key_bytes);
    uint8_t tag = (uint8_t)value.tag;
    status = append(m, &(uint8_t){whole ? 3 : 0}, 1);
    if (status == ENG_OK)
        status = append_key(m, key, key_bytes);
    if (status == ENG_OK)
        status = append(m, &tag, 1);
    if (status != ENG_OK)
        return status;
    if (whole) {
        uint32_t length = (uint32_t)value.size;
        status = append(m, &length, 4);
        return status == ENG_OK ? append(m, value.bytes, value.size) : status;
    }
    if (digest) {
        uint64_t length = value.size;
        status = append(m, &(uint8_t){1}, 1);
        if (status == ENG_OK)
            status = append(m, &length, 8);
        return status == ENG_OK ? append(m, digest, 32) : status;
    }
    uint8_t form[2] = {0, (uint8_t)value.size};
    status = append(m, form, 2);
    return status == ENG_OK ? append(m, value.bytes, value.size) : status;
}

/* ---- the walk ---- */

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

static enum where side_of(const struct bound *bound, const struct part *part, unsigned which, uint32_t bit,
                          unsigned side)
{
    if (part->where[which] != ON_THE_WAY)
        return (enum where)part->where[which];
    unsigned own = (unsigned)digest_bit(bound->key, bound->key_bytes, bit);
    return side == own ? ON_THE_WAY : bit > bound->differs ? bound->landing : side > own ? NOT_BELOW : BELOW;
}

/* An opened part: its two sides, divided at bit behind index `last`. */
static enum eng_status open_part(struct making *m, const struct part *part, uint32_t bit, unsigned last)
{
    uint8_t token[5] = {1};
    memcpy(token + 1, &bit, 4);
    enum eng_status status = append(m, token, sizeof token);
    for (unsigned side = 2; side-- > 0 && status == ENG_OK;) { /* the left one is taken off the stack first */
        struct part half = *part;
        if (side)
            half.lo = (uint16_t)(last + 1);
        else
            half.hi = (uint16_t)last;
        for (unsigned which = 0; which < 2; which++)
            half.where[which] = (uint8_t)side_of(&m->bounds[which], part, which, bit, side);
        status = push(m, &half);
    }
    return status;
}

static enum eng_status take_leaf_part(struct making *m, const struct part *part, bool opened)
{
    const struct leaf *leaf = (const struct leaf *)part->node;
    if (!opened) {
        struct eng_summary summary;
        leaf_summary(leaf, m->path, part->lo, part->hi, &summary);
        return append_pruned(m, &summary);
    }
    if (part->lo == part->hi)
        return append_entry(m, leaf, part->lo);
    unsigned gap = leaf_top_gap(leaf_bit(leaf), part->lo, part->hi);
    return open_part(m, part, leaf_bit(leaf)[gap], gap);
}

static enum eng_status take_inner_part(struct making *m, const struct part *part, bool opened)
{
    const struct inner *inner = (const struct inner *)part->node;
    if (!opened) {
        struct eng_summary summary;
        enum eng_status status = inner_summary(m->store, inner, part->lo, part->hi, &summary);
        return status == ENG_OK ? append_pruned(m, &summary) : status;
    }
    if (part->lo == part->hi) {
        struct part child = {.id = inner_child(inner)[part->lo], .where = {part->where[0], part->where[1]}};
        return push(m, &child);
    }
    uint32_t bit;
    unsigned last = branches_part(inner_start(inner), inner->own, part->lo, part->hi, inner_child_depth(inner), &bit);
    return open_part(m, part, bit, last);
}

static enum eng_status take_part(struct making *m)
{
    struct part part = m->stack[--m->depth];
    bool opened = part.where[0] == ON_THE_WAY || part.where[1] == ON_THE_WAY ||
                  (m->contents && part.where[0] == NOT_BELOW && part.where[1] == BELOW);
    if (!part.node) {
        part.node = store_node(m->store, part.id);
        if (!part.node)
            return ENG_DAMAGED;
        if (!opened)
            return append_pruned(m, &part.node->summary);
        if (part.node->object.type == OBJECT_LEAF) {
            part.hi = (uint16_t)(((const struct leaf *)part.node)->count - 1u);
        } else {
            const struct inner *inner = (const struct inner *)part.node;
            part.hi = (uint16_t)(inner->branches - 1u);
            memcpy(m->path + inner->depth, inner_prefix(inner), inner->prefix_bytes);
        }
    }
    return part.node->object.type == OBJECT_LEAF ? take_leaf_part(m, &part, opened) : take_inner_part(m, &part, opened);
}

/* ---- bounds ---- */

static void ignore_step(void *context, uint32_t bit, const struct eng_summary *sibling) {}

static void land(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                 const uint8_t *value_digest)
{
    struct bound *bound = context;
    int order = bytes_compare(key, key_bytes, bound->key, bound->key_bytes);
    bound->differs = order ? digest_first_bit(key, key_bytes, bound->key, bound->key_bytes) : UINT32_MAX;
    bound->landing = order < 0 ? BELOW : NOT_BELOW;
}

static enum eng_status find_landings(struct making *m, struct eng_snapshot *snapshot)
{
    enum eng_status status = ENG_OK;
    for (unsigned which = 0; which < 2 && status == ENG_OK; which++) {
        struct bound *bound = &m->bounds[which];
        if (bound->key)
            status = eng_path(snapshot, bound->key, bound->key_bytes, ignore_step, land, bound);
    }
    return status == ENG_NOT_FOUND ? ENG_OK : status; /* the state is empty */
}

static enum eng_status make(struct making *m, struct eng_snapshot *snapshot, bool contents)
{
    enum eng_status status = append(m, &(uint8_t){contents ? PROOF_RANGE : PROOF_TOTALS}, 1);
    if (status == ENG_OK)
        status = append_bound(m, &m->bounds[0]);
    if (status == ENG_OK)
        status = append_bound(m, &m->bounds[1]);
    if (status == ENG_OK)
        status = find_landings(m, snapshot);
    if (status != ENG_OK)
        return status;
    if (!snapshot->version.root)
        return append(m, &(uint8_t){4}, 1);
    struct part whole = {.id = snapshot->version.root,
                         .where = {m->bounds[0].key ? ON_THE_WAY : NOT_BELOW, m->bounds[1].key ? ON_THE_WAY : BELOW}};
    status = push(m, &whole);
    struct reader *reader = eng_enter(snapshot->eng);
    if (!reader)
        return ENG_NO_READERS;
    while (status == ENG_OK && m->depth)
        status = take_part(m);
    reader_leave(reader);
    return status;
}

enum eng_status proof_state_range(struct eng_snapshot *snapshot, const uint8_t *from, size_t from_bytes,
                                  const uint8_t *to, size_t to_bytes, bool contents, struct proof_blob *state)
{
    *state = (struct proof_blob){NULL, 0};
    if ((from && (from_bytes == 0 || from_bytes > ENG_KEY_BYTES_MAX)) ||
        (to && (to_bytes == 0 || to_bytes > ENG_KEY_BYTES_MAX)))
        return eng_fail(ENG_INVALID, "proof: a bound of a length that no key has");
    if (from && to && bytes_compare(from, from_bytes, to, to_bytes) >= 0)
        return eng_fail(ENG_INVALID, "proof: the lower bound is not below the upper one");
    struct making *m = calloc(1, sizeof *m);
    if (!m)
        return eng_fail(ENG_NO_MEMORY, "proof: out of memory");
    m->store = snapshot->eng->store;
    m->contents = contents;
    m->bounds[0] = (struct bound){.key = from, .key_bytes = from_bytes};
    m->bounds[1] = (struct bound){.key = to, .key_bytes = to_bytes};
    enum eng_status status = make(m, snapshot, contents);
    if (status == ENG_OK)
        *state = (struct proof_blob){m->bytes, m->size};
    else
        free(m->bytes);
    free(m->stack);
    free(m);
    return status;
}
