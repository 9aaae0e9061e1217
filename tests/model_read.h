/*
 * Reading versions in prog_model.c: held snapshots, also of subtrees, cursors, differences, proofs. Every answer is
 * compared with the oracle's state of that version, whatever was committed, dropped or compacted since.
 */
#ifndef TESTS_MODEL_READ_H
#define TESTS_MODEL_READ_H

#include "model_session.h"

#include "pando/proof.h"
#include "pando/verify.h"

/* ---- snapshots ---- */

static void held_close(struct held *held)
{
    if (!held->snapshot)
        return;
    cursors_leave(NULL, held);
    eng_snapshot_close(&held->snapshot);
    *held = (struct held){0};
}

static void held_open_head(struct held *held, uint32_t root)
{
    held_close(held);
    OK(eng_snapshot_open(run.eng, root, ENG_HEAD, &held->snapshot));
    *held = (struct held){held->snapshot, head_state(root), root, true};
    need_summary(held->state, eng_snapshot_summary(held->snapshot), "eng_snapshot_summary");
}

/* Any tag there was, might have been, or may be one day. */
static void held_open(struct held *held, uint32_t root, uint64_t seed)
{
    uint32_t count = version_count(root);
    held_close(held);
    if (!count || seed % 3 == 0) {
        held_open_head(held, root);
        return;
    }
    uint32_t recent = count < 40 ? count : 40;
    const struct mversion *v = &world->line[root].version[count - 1 - (uint32_t)(mix(seed) % recent)];
    uint64_t tag = v->tag + (seed % 16 == 1), newest = head_of(root)->tag;
    if (tag != v->tag && v != head_of(root) && v[1].tag == tag)
        v++;
    enum eng_status status = eng_snapshot_open(run.eng, root, tag, &held->snapshot);
    need_status(status,
                tag > newest               ? ENG_NOT_FOUND
                : tag == v->tag && v->kept ? ENG_OK
                                           : ENG_GONE,
                "eng_snapshot_open");
    if (status != ENG_OK) {
        held->snapshot = NULL;
        return;
    }
    *held = (struct held){held->snapshot, v->state, root, true};
    NEED(eng_snapshot_tag(held->snapshot) == tag, "eng_snapshot_tag");
    NEED(memcmp(eng_snapshot_summary(held->snapshot), &v->summary, sizeof v->summary) == 0,
         "version %llu of root %u has another summary than when it was made", (unsigned long long)tag, root);
}

static void held_open_tree(struct held *held, const struct held *from, uint32_t k)
{
    const struct keyset *keys = from->state->keys;
    int64_t at = -1;
    for (uint32_t i = 0; i < keys->count && at < 0; i++) /* the next tree, if there is one */
        if (from->state->at[(k + i) % keys->count].kind == PLACE_TREE)
            at = (k + i) % keys->count;
    k = at < 0 ? k : (uint32_t)at;
    const struct place *p = &from->state->at[k];
    struct eng_snapshot *snapshot;
    enum eng_status status = eng_snapshot_tree(from->snapshot, KEY(k), &snapshot);
    need_status(status,
                p->kind == PLACE_ABSENT ? ENG_NOT_FOUND
                : p->kind == PLACE_TREE ? ENG_OK
                                        : ENG_TYPE,
                "eng_snapshot_tree");
    if (status != ENG_OK)
        return;
    if (held != from)
        held_close(held);
    else
        cursors_leave(NULL, held);
    if (held == from)
        eng_snapshot_close(&held->snapshot);
    *held = (struct held){snapshot, p->tree, from->root, false};
    need_summary(held->state, eng_snapshot_summary(snapshot), "summary of a subtree");
}

struct look {
    const struct place *place;
    uint64_t offset, bytes;
    bool good, called;
};

static void look_found(void *context, const struct eng_value *value)
{
    struct look *look = context;
    look->called = true;
    look->good = value_is(look->place, value);
}

static void look_part(void *context, const struct eng_value *part, uint64_t size)
{
    struct look *look = context;
    const struct place *p = look->place;
    uint64_t whole = p->kind == PLACE_TREE ? sizeof(struct eng_summary) : p->size;
    uint64_t from = look->offset < whole ? look->offset : whole;
    uint64_t want = whole - from < look->bytes ? whole - from : look->bytes;
    look->called = true;
    look->good = size == whole && part->size == want && part->tag == place_tag(p) &&
                 (p->kind == PLACE_TREE || value_part_is(p, part->bytes, want, from));
}

static void held_get(const struct held *held, uint32_t k, uint64_t seed)
{
    const struct keyset *keys = held->state->keys;
    struct look look = {.place = &held->state->at[k], .offset = mix(seed) % 300, .bytes = mix(seed + 1) % 3000};
    enum eng_status wanted = look.place->kind == PLACE_ABSENT ? ENG_NOT_FOUND : ENG_OK;
    enum eng_status status;
    if (seed % 3 == 0) {
        status = eng_get(held->snapshot, KEY(k), look_found, &look);
    } else if (seed % 3 == 1) {
        status = eng_get_part(held->snapshot, KEY(k), look.offset, look.bytes, look_part, &look);
    } else {
        enum eng_tag tag;
        size_t size = 0;
        status = eng_get_copy(held->snapshot, KEY(k), &tag, value_memory, sizeof value_memory, &size);
        look.called = status == ENG_OK;
        if (status == ENG_OK)
            look_found(&look, &(struct eng_value){tag, value_memory, size});
    }
    need_status(status, wanted, "get from a snapshot");
    NEED(look.called == (wanted == ENG_OK) && (!look.called || look.good), "get from a snapshot: key %u", k);
}

static void held_get_many(const struct held *held, uint64_t seed)
{
    struct many many = {.tree = held->state, .what = "eng_get_many"};
    const uint8_t *bytes[MANY_MAX];
    size_t sizes[MANY_MAX], n = many_choose(&many, bytes, sizes, seed);
    OK(eng_get_many(held->snapshot, n, bytes, sizes, many_found, &many));
    many_done(&many, n);
}

static void held_totals(const struct held *held, const struct bounds *r, uint32_t k)
{
    const struct keyset *keys = held->state->keys;
    struct eng_totals totals, below;
    uint64_t rank;
    OK(eng_totals(held->snapshot, r->from, r->from_bytes, r->to, r->to_bytes, &totals));
    need_totals(held->state, r->first, r->end, &totals, "eng_totals");
    OK(eng_rank(held->snapshot, KEY(k), &rank));
    tree_totals_of(held->state, 0, k, &below);
    NEED(rank == below.count, "eng_rank of key %u: %llu instead of %llu", k, (unsigned long long)rank,
         (unsigned long long)below.count);
}

struct scan {
    const struct mtree *tree;
    uint32_t at, end, left;
};

static bool scan_each(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct scan *scan = context;
    int64_t want = present_from(scan->tree, scan->at, scan->end);
    NEED(want >= 0 && key_is(&scan->tree->keys->key[want], key, key_bytes), "eng_scan: key %lld was to come",
         (long long)want);
    NEED(value_is(&scan->tree->at[want], value), "eng_scan: key %lld has another value", (long long)want);
    scan->at = (uint32_t)want + 1;
    return --scan->left > 0;
}

static void held_scan(const struct held *held, const struct bounds *r, uint32_t most)
{
    struct scan scan = {held->state, r->first, r->end, most};
    OK(eng_scan(held->snapshot, r->from, r->from_bytes, r->to, r->to_bytes, scan_each, &scan));
    NEED(scan.left == 0 || present_from(scan.tree, scan.at, scan.end) < 0, "eng_scan: ends too early");
}

/* All of a state, and all that hangs in it. */
static void need_state(struct eng_snapshot *snapshot, const struct mtree *state)
{
    const struct keyset *keys = state->keys;
    struct scan scan = {state, 0, keys->count, UINT32_MAX};
    OK(eng_scan(snapshot, NULL, 0, NULL, 0, scan_each, &scan));
    NEED(present_from(state, scan.at, scan.end) < 0, "eng_scan: ends too early");
    need_summary(state, eng_snapshot_summary(snapshot), "summary of a snapshot");
    for (uint32_t i = 0; i < keys->count; i++) {
        struct eng_snapshot *inner;
        if (state->at[i].kind != PLACE_TREE)
            continue;
        OK(eng_snapshot_tree(snapshot, KEY(i), &inner));
        need_state(inner, state->at[i].tree);
        eng_snapshot_close(&inner);
    }
}

/* ---- cursors ---- */

static const struct mtree *cursor_tree(const struct mcursor *c)
{
    return c->session ? c->session->tree[c->h] : c->held->state;
}

static void cursor_prefix(struct mcursor *c, uint32_t k, uint64_t seed)
{
    const struct keyset *keys = cursor_tree(c)->keys;
    const struct mkey *key = &keys->key[k];
    size_t size = seed % 4 == 0 ? 0 : 1 + mix(seed) % key->size;
    OK(eng_cursor_prefix(c->cursor, size ? key->bytes : NULL, size));
    c->at = -1;
    c->from = 0;
    c->to = keys->count;
    if (!size)
        return;
    c->from = key_index(keys, key->bytes, size);
    for (c->to = c->from; c->to < keys->count; c->to++)
        if (keys->key[c->to].size < size || memcmp(keys->key[c->to].bytes, key->bytes, size) != 0)
            break;
}

static void cursor_open(struct mcursor *c, struct session *session, int h, const struct held *held)
{
    if (c->cursor)
        cursor_forget(c);
    *c = (struct mcursor){.session = session, .h = h, .held = held, .at = -1};
    if (session)
        OK(eng_cursor_open_batch(session->handle[h], &c->cursor));
    else
        OK(eng_cursor_open(held->snapshot, &c->cursor));
    c->to = cursor_tree(c)->keys->count;
}

/* What a serializable transaction looked at, moving from a key (open: the edge) to where it stands. */
static void cursor_looked(struct mcursor *c, uint32_t from, uint32_t to, uint32_t also)
{
    struct session *s = c->session;
    if (!s || !s->serializable || c->h != 0)
        return;
    /* within the prefix it must notice; what lies behind it, up to the next key there is, it may */
    uint32_t low = from > c->from ? from : c->from, high = to < c->to ? to : c->to;
    looked_at(s, 0, low, high);
    if (c->from != 0 || c->to != s->tree[0]->keys->count)
        memset(s->may, 1, s->tree[0]->keys->count);
    if (also < s->tree[0]->keys->count)
        s->may[also] = 1;
}

static void cursor_stands_at(struct mcursor *c, enum eng_status status, int64_t want, const char *what)
{
    const struct mtree *tree = cursor_tree(c);
    need_status(status, want < 0 ? ENG_NOT_FOUND : ENG_OK, what);
    c->at = want;
    if (want < 0)
        return;
    size_t key_bytes;
    const uint8_t *key = eng_cursor_key(c->cursor, &key_bytes);
    NEED(key_is(&tree->keys->key[want], key, key_bytes), "%s: it does not stand on key %lld", what, (long long)want);
}

static void cursor_move(struct mcursor *c, uint32_t k, uint64_t seed)
{
    const struct mtree *tree = cursor_tree(c);
    const struct keyset *keys = tree->keys;
    uint32_t count = keys->count;
    bool edge = seed % 8 == 0, stands = c->at >= 0;
    unsigned move = stands ? (unsigned)(mix(seed) % 10) : (unsigned)(mix(seed) % 2);
    int64_t want;
    if (move == 0 && !edge && mix(seed + 3) % 3 == 0) {
        uint32_t from = k + 1 < c->from ? c->from : k + 1;
        want = present_from(tree, from, c->to);
        enum eng_status status = eng_cursor_seek_after(c->cursor, keys->key[k].bytes, keys->key[k].size);
        cursor_looked(c, from, want < 0 ? c->to : (uint32_t)want + 1, k);
        cursor_stands_at(c, status, want, "eng_cursor_seek_after");
    } else if (move == 0) {
        uint32_t from = edge || k < c->from ? c->from : k;
        want = present_from(tree, from, c->to);
        enum eng_status status =
            eng_cursor_seek(c->cursor, edge ? NULL : keys->key[k].bytes, edge ? 0 : keys->key[k].size);
        cursor_looked(c, from, want < 0 ? c->to : (uint32_t)want + 1, k);
        cursor_stands_at(c, status, want, "eng_cursor_seek");
    } else if (move == 1) {
        uint32_t to = edge || k > c->to ? c->to : k;
        want = present_before(tree, to, c->from);
        enum eng_status status =
            eng_cursor_seek_before(c->cursor, edge ? NULL : keys->key[k].bytes, edge ? 0 : keys->key[k].size);
        cursor_looked(c, want < 0 ? c->from : (uint32_t)want, to, k);
        cursor_stands_at(c, status, want, "eng_cursor_seek_before");
    } else if (move < 7) {
        uint32_t from = (uint32_t)c->at + 1;
        want = present_from(tree, from, c->to);
        cursor_looked(c, from, want < 0 ? c->to : (uint32_t)want + 1, (uint32_t)c->at);
        cursor_stands_at(c, eng_cursor_next(c->cursor), want, "eng_cursor_next");
    } else {
        uint32_t to = (uint32_t)c->at;
        want = present_before(tree, to, c->from);
        cursor_looked(c, want < 0 ? c->from : (uint32_t)want, to, count);
        cursor_stands_at(c, eng_cursor_prev(c->cursor), want, "eng_cursor_prev");
    }
}

static void cursor_value(struct mcursor *c)
{
    struct eng_value value = {0};
    if (c->at < 0)
        return;
    if (c->session)
        looked_up(c->session, c->h, (uint32_t)c->at);
    enum eng_status status = eng_cursor_value(c->cursor, &value);
    need_value(status, &cursor_tree(c)->at[c->at], &value, "eng_cursor_value", (uint32_t)c->at);
}

/* ---- differences ---- */

struct difference {
    const struct mtree *a, *b;
    uint32_t at, end;
};

static bool differ(struct difference *d)
{
    while (d->at < d->end && same_place(&d->a->at[d->at], &d->b->at[d->at]))
        d->at++;
    return d->at < d->end;
}

static enum eng_status difference_each(void *context, const uint8_t *key, size_t key_bytes,
                                       const struct eng_value *before, const struct eng_value *after)
{
    struct difference *d = context;
    NEED(differ(d) && key_is(&d->a->keys->key[d->at], key, key_bytes), "eng_diff: key %u of %u was to come", d->at,
         d->end);
    const struct place *a = &d->a->at[d->at], *b = &d->b->at[d->at];
    NEED(a->kind == PLACE_ABSENT ? !before : value_is(a, before), "eng_diff: key %u: another value before", d->at);
    NEED(b->kind == PLACE_ABSENT ? !after : value_is(b, after), "eng_diff: key %u: another value after", d->at);
    d->at++;
    return ENG_OK;
}

static void held_diff(const struct held *a, const struct held *b, const struct bounds *r, uint32_t k, uint64_t seed)
{
    const struct keyset *keys = a->state->keys;
    struct difference d = {a->state, b->state, 0, keys->count};
    if (b->state->keys != keys)
        return;
    if (seed % 3 == 0) {
        OK(eng_diff(a->snapshot, b->snapshot, NULL, 0, difference_each, &d));
    } else if (seed % 3 == 1) {
        const struct mkey *key = &keys->key[k];
        size_t size = 1 + mix(seed) % key->size;
        d.at = key_index(keys, key->bytes, size);
        for (d.end = d.at; d.end < keys->count; d.end++)
            if (keys->key[d.end].size < size || memcmp(keys->key[d.end].bytes, key->bytes, size) != 0)
                break;
        OK(eng_diff(a->snapshot, b->snapshot, key->bytes, size, difference_each, &d));
    } else {
        d.at = r->first;
        d.end = r->end;
        OK(eng_diff_range(a->snapshot, b->snapshot, r->from, r->from_bytes, r->to, r->to_bytes, difference_each, &d));
    }
    NEED(!differ(&d), "eng_diff: key %u of %u is not reported", d.at, d.end);
}

/* ---- proofs ---- */

static struct {
    struct proof_step steps[PROOF_STEPS_MAX];
    struct proof_path path;
    uint8_t key[ENG_KEY_BYTES_MAX], digest[32], value[VALUE_BYTES_MAX];
} way;

static void way_step(void *context, uint32_t bit, const struct eng_summary *sibling)
{
    (void)context;
    way.steps[way.path.step_count++] = (struct proof_step){bit, *sibling};
}

static void way_landing(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                        const uint8_t *digest)
{
    (void)context;
    memcpy(way.key, key, key_bytes);
    memcpy(way.value, value->bytes, value->size);
    if (digest)
        memcpy(way.digest, digest, sizeof way.digest);
    way.path.key = way.key;
    way.path.key_bytes = key_bytes;
    way.path.tag = value->tag;
    way.path.value = way.value;
    way.path.value_bytes = value->size;
    way.path.value_digest = digest ? way.digest : NULL;
    way.path.steps = way.steps;
}

static bool proven_is(const struct place *p, const struct verify_key *key)
{
    struct eng_value value = {(enum eng_tag)key->tag, key->value, key->value_bytes};
    return key->present && value_is(p, &value);
}

static void held_prove_key(const struct held *held, uint32_t k)
{
    const struct keyset *keys = held->state->keys;
    way.path = (struct proof_path){0};
    enum eng_status status = eng_path(held->snapshot, KEY(k), way_step, way_landing, NULL);
    bool empty = present_from(held->state, 0, keys->count) < 0;
    need_status(status, empty ? ENG_NOT_FOUND : ENG_OK, "eng_path");
    struct proof_key asked = {.key = keys->key[k].bytes, .key_bytes = keys->key[k].size, .path = way.path};
    struct proof_blob proof;
    struct verify_options options = {.root = eng_snapshot_summary(held->snapshot)->digest};
    struct verify_result result;
    struct verify_key key;
    OK(proof_state_keys(&asked, 1, &proof));
    NEED(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "proof of key %u: %s", k,
         result.reason);
    NEED(verify_next(&result, &key) && key_is(&keys->key[k], key.key, key.key_bytes), "proof of key %u: another", k);
    const struct place *p = &held->state->at[k];
    NEED(p->kind == PLACE_ABSENT ? !key.present : proven_is(p, &key), "proof of key %u: not the oracle's value", k);
    proof_blob_free(&proof);
    world->statistics.proofs++;
}

/* What a proof says of the entries in [first, end), whole or in sum. */
static void need_proven(struct verify_result *result, const struct mtree *state, uint32_t first, uint32_t end,
                        bool contents)
{
    const struct keyset *keys = state->keys;
    struct verify_key key;
    struct eng_totals totals;
    tree_totals_of(state, first, end, &totals);
    NEED(result->count == totals.count && memcmp(result->sum, totals.sum, 24) == 0, "proof of a range: count or sum");
    uint32_t at = first;
    while (contents && verify_next(result, &key)) {
        int64_t want = present_from(state, at, end);
        NEED(want >= 0 && key_is(&keys->key[want], key.key, key.key_bytes) && proven_is(&state->at[want], &key),
             "proof of a range: key %lld was to come", (long long)want);
        at = (uint32_t)want + 1;
    }
    NEED(!contents || present_from(state, at, end) < 0, "proof of a range: a key is missing");
    world->statistics.proofs++;
}

static uint64_t bytes_of(const struct mtree *state, uint32_t first, uint32_t end)
{
    uint64_t bytes = 0;
    for (uint32_t i = first; i < end; i++)
        bytes += state->at[i].size + state->keys->key[i].size + 100;
    return bytes;
}

static void held_prove_range(const struct held *held, const struct bounds *r, bool contents)
{
    struct proof_blob proof;
    struct verify_options options = {.root = eng_snapshot_summary(held->snapshot)->digest};
    struct verify_result result;
    if (contents && bytes_of(held->state, r->first, r->end) > PROOF_BYTES_MAX / 2)
        return;
    enum eng_status status =
        proof_state_range(held->snapshot, r->from, r->from_bytes, r->to, r->to_bytes, contents, &proof);
    if (r->from && r->to && r->end <= r->first) {
        need_status(status, ENG_INVALID, "proof of no range");
        return;
    }
    need_status(status, ENG_OK, "proof_state_range");
    NEED(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "proof of a range: %s", result.reason);
    need_proven(&result, held->state, r->first, r->end, contents);
    proof_blob_free(&proof);
}

#define PROVEN_MAX 12u

/* Several keys that share nodes: each is spoken of once, in order, and no other. */
static void held_prove_many(const struct held *held, uint64_t seed)
{
    const struct keyset *keys = held->state->keys;
    const uint8_t *bytes[PROVEN_MAX];
    size_t sizes[PROVEN_MAX], n = 1 + mix(seed) % PROVEN_MAX;
    uint8_t asked[KEYS_TOP_MAX] = {0};
    uint64_t much = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t k = (uint32_t)(mix(seed + 1 + i) % keys->count);
        asked[k] = 1;
        bytes[i] = keys->key[k].bytes;
        sizes[i] = keys->key[k].size;
        much += held->state->at[k].size;
    }
    struct proof_blob proof;
    struct verify_options options = {.root = eng_snapshot_summary(held->snapshot)->digest};
    struct verify_result result;
    struct verify_key key;
    if (much > PROOF_BYTES_MAX / 2)
        return;
    OK(eng_prove_many(held->snapshot, bytes, sizes, n, &proof));
    NEED(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "proof of %zu keys: %s", n,
         result.reason);
    for (uint32_t k = 0; k < keys->count; k++) {
        const struct place *p = &held->state->at[k];
        if (!asked[k])
            continue;
        NEED(verify_next(&result, &key) && key_is(&keys->key[k], key.key, key.key_bytes),
             "proof of many keys: key %u was to come", k);
        NEED(p->kind == PLACE_ABSENT ? !key.present : proven_is(p, &key), "proof of many keys: key %u", k);
    }
    NEED(!verify_next(&result, &key), "proof of many keys: one too many");
    proof_blob_free(&proof);
    world->statistics.proofs++;
}

static void need_grown(const struct difference *d, const uint8_t sum[24])
{
    struct eng_totals a, b;
    uint64_t grown[3];
    tree_totals_of(d->a, d->at, d->end, &a);
    tree_totals_of(d->b, d->at, d->end, &b);
    memcpy(grown, sum, sizeof grown);
    digest_sum_add(grown, grown, a.sum);
    NEED(memcmp(grown, b.sum, sizeof grown) == 0, "proof of a difference: the sum grew by something else");
}

/* What differs between two versions, and nothing else does. */
static void held_prove_diff(const struct held *a, const struct held *b, const struct bounds *r)
{
    struct difference d = {a->state, b->state, r->first, r->end};
    const struct keyset *keys = a->state->keys;
    struct proof_blob proof;
    struct verify_options options = {.root = eng_snapshot_summary(b->snapshot)->digest,
                                     .older_root = eng_snapshot_summary(a->snapshot)->digest};
    struct verify_result result;
    struct verify_key key;
    uint64_t count = 0;
    if (b->state->keys != keys || bytes_of(a->state, 0, keys->count) > PROOF_BYTES_MAX / 4 ||
        bytes_of(b->state, 0, keys->count) > PROOF_BYTES_MAX / 4)
        return;
    enum eng_status status =
        eng_prove_diff(a->snapshot, b->snapshot, r->from, r->from_bytes, r->to, r->to_bytes, 0, &proof);
    if (r->from && r->to && r->end <= r->first) {
        if (status == ENG_OK)
            proof_blob_free(&proof);
        need_status(status, ENG_INVALID, "proof of a difference in no range");
        return;
    }
    need_status(status, ENG_OK, "eng_prove_diff");
    NEED(verify_state(proof.bytes, proof.size, &options, &result) == VERIFY_OK, "proof of a difference: %s",
         result.reason);
    need_grown(&d, result.sum);
    for (; verify_next(&result, &key); d.at++, count++) {
        NEED(differ(&d) && key_is(&keys->key[d.at], key.key, key.key_bytes),
             "proof of a difference: key %u of %u was to come", d.at, d.end);
        const struct place *before = &d.a->at[d.at], *after = &d.b->at[d.at];
        struct verify_key old = {
            .present = key.was_present, .tag = key.old_tag, .value = key.old_value, .value_bytes = key.old_value_bytes};
        NEED(before->kind == PLACE_ABSENT ? !old.present : proven_is(before, &old), "proof of a difference: before");
        NEED(after->kind == PLACE_ABSENT ? !key.present : proven_is(after, &key), "proof of a difference: after");
    }
    NEED(!differ(&d) && result.count == count, "proof of a difference: key %u is not in it", d.at);
    proof_blob_free(&proof);
    world->statistics.proofs++;
}

#define LEVELS_MAX 4u

/* All that is in the innermost of some trees in trees. */
static void held_prove_nested(const struct held *held, uint64_t seed)
{
    struct proof_level levels[LEVELS_MAX];
    struct eng_snapshot *tree[LEVELS_MAX];
    struct proof_blob inner, nested;
    struct verify_options options = {.root = eng_snapshot_summary(held->snapshot)->digest};
    struct verify_result result;
    const struct mtree *state = held->state;
    uint32_t count = 0;
    while (count < LEVELS_MAX) {
        const struct keyset *keys = state->keys;
        uint32_t k = (uint32_t)(mix(seed + count) % keys->count), i = 0;
        while (i < keys->count && state->at[(k + i) % keys->count].kind != PLACE_TREE)
            i++;
        if (i == keys->count)
            break;
        k = (k + i) % keys->count;
        levels[count] = (struct proof_level){count ? tree[count - 1] : held->snapshot, KEY(k)};
        OK(eng_snapshot_tree(levels[count].snapshot, KEY(k), &tree[count]));
        state = state->at[k].tree;
        count++;
    }
    bool contents = seed % 2;
    if (count && bytes_of(state, 0, state->keys->count) <= PROOF_BYTES_MAX / 2) {
        OK(proof_state_range(tree[count - 1], NULL, 0, NULL, 0, contents, &inner));
        OK(eng_prove_nested(levels, NULL, count, &inner, &nested));
        NEED(verify_state(nested.bytes, nested.size, &options, &result) == VERIFY_OK, "proof of a subtree: %s",
             result.reason);
        NEED(result.levels == count, "proof of a subtree: %u levels", result.levels);
        need_proven(&result, state, 0, state->keys->count, contents);
        proof_blob_free(&inner);
        proof_blob_free(&nested);
    }
    while (count)
        eng_snapshot_close(&tree[--count]);
}

#endif
