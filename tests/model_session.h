/*
 * Batches of prog_model.c: the engine's and the oracle's side by side.
 *
 * A session is a plain batch, a transaction or a private fork. Its oracle is a copy of what it sees when it is opened,
 * in which every key that is written is marked as touched; a commit puts the touched places over the newest state, and
 * what another commit changed meanwhile stays. tree[0] is the outermost state, tree[1..] are the subtrees opened in it.
 *
 * Conflicts are predicted from the two states and from what a serializable transaction looked at: `must` holds the keys
 * whose change it has to notice, `may` those it is allowed to (a range it walked over includes what it wrote itself).
 *
 * A cursor over a batch is asked after every write for its nearest key again, so the oracle keeps its key alone.
 */
#ifndef TESTS_MODEL_SESSION_H
#define TESTS_MODEL_SESSION_H

#include "model_world.h"

#define HANDLES_MAX 24
#define TREES_MAX 40u
#define DEPTH_MAX 6u
#define UNDO_MAX 6
#define WAITING_MAX 4u
#define TRANSACTIONS 3u
#define FORKS 2u
#define HELD 6u
#define CURSORS 4u

enum session_kind { SESSION_PLAIN, SESSION_TRANSACTION, SESSION_FORK };

struct undo {
    bool nested;
    uint64_t mark;
    int count;
    uint32_t trees;
    struct mtree *tree[HANDLES_MAX];
};

struct session {
    enum session_kind kind;
    uint32_t root;
    bool serializable, frozen, has_below;
    struct mtree *base; /* the version it reads */
    uint64_t base_tag;
    struct eng_batch *handle[HANDLES_MAX]; /* [0]: the outermost */
    struct mtree *tree[HANDLES_MAX];
    int count;
    uint32_t trees; /* subtrees in it, about */
    struct undo undo[UNDO_MAX];
    int undo_count;
    uint8_t *must, *may; /* by key */
};

struct held {
    struct eng_snapshot *snapshot;
    const struct mtree *state;
    uint32_t root;
    bool whole; /* not a subtree */
};

struct mcursor {
    struct eng_cursor *cursor;
    struct session *session; /* NULL: over held */
    int h;                   /* over this batch of it */
    const struct held *held;
    int64_t at;        /* key; -1: at the end */
    uint32_t from, to; /* keys with the prefix */
};

static struct {
    struct eng *eng;
    struct session *open[ROOTS], *waiting[ROOTS][WAITING_MAX];
    uint32_t waiting_count[ROOTS];
    struct session *transaction[TRANSACTIONS], *fork[FORKS];
    struct held held[HELD];
    struct mcursor cursor[CURSORS];
} run;

static uint8_t value_memory[VALUE_BYTES_MAX + 64];

/* ---- cursors that lose what they stand on ---- */

static void cursor_forget(struct mcursor *c)
{
    eng_cursor_close(&c->cursor);
    *c = (struct mcursor){0};
}

static void cursors_leave(const struct session *session, const struct held *held)
{
    for (uint32_t i = 0; i < CURSORS; i++)
        if (run.cursor[i].cursor && run.cursor[i].session == session && run.cursor[i].held == held)
            cursor_forget(&run.cursor[i]);
}

/* ---- opening and closing ---- */

static struct session *session_new(enum session_kind kind, uint32_t root)
{
    struct session *s = take(sizeof *s);
    s->kind = kind;
    s->root = root;
    s->count = 1;
    return s;
}

static void session_see(struct session *s, struct mtree *seen)
{
    s->tree[0] = tree_copy(seen);
    copy_done();
    for (uint32_t i = 0; i < s->tree[0]->keys->count; i++)
        if (s->tree[0]->at[i].kind == PLACE_TREE) {
            tree_mark_origin(s->tree[0]->at[i].tree, (int32_t)i);
            s->trees += tree_count(s->tree[0]->at[i].tree);
        }
}

static struct session *session_begin(uint32_t root)
{
    struct session *s = session_new(SESSION_PLAIN, root);
    uint32_t below = run.waiting_count[root];
    struct mtree *seen = head_state(root);
    s->base = seen;
    s->base_tag = head_of(root) ? head_of(root)->tag : 0;
    for (uint32_t i = 0; i < below; i++)
        seen = state_with(seen, run.waiting[root][i]->tree[0]);
    OK(eng_batch_open(run.eng, root, below ? run.waiting[root][below - 1]->handle[0] : NULL, &s->handle[0]));
    s->has_below = below != 0;
    session_see(s, seen);
    return run.open[root] = s;
}

static struct session *transaction_begin(uint32_t slot, uint32_t root, bool serializable)
{
    struct session *s = session_new(SESSION_TRANSACTION, root);
    s->serializable = serializable;
    s->base = head_state(root);
    s->base_tag = head_of(root) ? head_of(root)->tag : 0;
    s->must = take(world->keys[0]->count);
    s->may = take(world->keys[0]->count);
    OK(eng_transaction_open(run.eng, root, serializable ? ENG_SERIALIZABLE : ENG_SNAPSHOT, &s->handle[0]));
    session_see(s, s->base);
    return run.transaction[slot] = s;
}

static void session_close(struct session **slot)
{
    struct session *s = *slot;
    if (!s)
        return;
    cursors_leave(s, NULL);
    *slot = NULL;
    eng_batch_close(&s->handle[0]);
}

/* Everything a root has open and not committed. */
static void line_abort(uint32_t root)
{
    session_close(&run.open[root]);
    while (run.waiting_count[root])
        session_close(&run.waiting[root][--run.waiting_count[root]]);
}

/* ---- what was looked at ---- */

static void looked_at(struct session *s, int h, uint32_t from, uint32_t to)
{
    if (!s->serializable || h != 0)
        return;
    for (uint32_t i = from; i < to; i++) {
        s->may[i] = 1;
        if (!s->tree[0]->at[i].touched)
            s->must[i] = 1;
    }
}

/* A key alone: what it wrote itself is read from there. */
static void looked_up(struct session *s, int h, uint32_t k)
{
    if (s->serializable && h == 0 && !s->tree[0]->at[k].touched)
        s->must[k] = s->may[k] = 1;
}

/* ---- comparing ---- */

static bool value_is(const struct place *p, const struct eng_value *value)
{
    if (p->kind == PLACE_ABSENT || !value || place_tag(p) != value->tag)
        return false;
    if (p->kind == PLACE_TREE)
        return value->size == sizeof(struct eng_summary);
    return value->size == p->size && value_part_is(p, value->bytes, p->size, 0);
}

#define KEY(k) keys->key[k].bytes, keys->key[k].size

static void need_value(enum eng_status status, const struct place *p, const struct eng_value *value, const char *what,
                       uint32_t k)
{
    if (p->kind == PLACE_ABSENT)
        NEED(status == ENG_NOT_FOUND, "%s: key %u is absent: %s", what, k, eng_status_text(status));
    else
        NEED(status == ENG_OK && value_is(p, value), "%s: key %u has another value (%s %s)", what, k,
             eng_status_text(status), status == ENG_OK ? "" : eng_error());
}

static void need_totals(const struct mtree *tree, uint32_t from, uint32_t to, const struct eng_totals *got,
                        const char *what)
{
    struct eng_totals want;
    tree_totals_of(tree, from, to, &want);
    NEED(memcmp(&want, got, sizeof want) == 0, "%s: keys %u to %u: count %llu instead of %llu, or another sum", what,
         from, to, (unsigned long long)got->count, (unsigned long long)want.count);
}

static void need_summary(const struct mtree *state, const struct eng_summary *got, const char *what)
{
    struct eng_totals have = {got->count, {got->sum[0], got->sum[1], got->sum[2]}};
    need_totals(state, 0, state->keys->count, &have, what);
}

static void need_digest(const struct mtree *state, const struct eng_summary *got, const char *what)
{
    struct eng_summary want;
    tree_summary_of(state, &want);
    world->statistics.oracles++;
    NEED(memcmp(&want, got, sizeof want) == 0, "%s: the digest is not the oracle's", what);
}

/* ---- bounds of ranges: keys, or open ---- */

struct bounds {
    const uint8_t *from, *to;
    size_t from_bytes, to_bytes;
    uint32_t first, end;
};

static struct bounds bounds_of(const struct keyset *keys, uint32_t a, uint32_t b, uint64_t seed)
{
    struct bounds r = {0};
    a %= keys->count;
    b %= keys->count;
    if (seed % 4) { /* mostly narrow, mostly in order */
        uint32_t width = 1 + (uint32_t)(b % (seed % 16 == 1 ? keys->count : 24));
        b = a + width < keys->count ? a + width : keys->count - 1;
    }
    r.first = 0;
    r.end = keys->count;
    if (mix(seed) % 8) {
        r.from = keys->key[a].bytes;
        r.from_bytes = keys->key[a].size;
        r.first = a;
    }
    if (mix(seed + 1) % 8) {
        r.to = keys->key[b].bytes;
        r.to_bytes = keys->key[b].size;
        r.end = b;
    }
    if (!r.from &&
        r.end == 0) { /* whether that is empty depends on whether the first key is the first of all there are */
        r.to = NULL;
        r.to_bytes = 0;
        r.end = keys->count;
    }
    if (r.end < r.first)
        r.end = r.first;
    return r;
}

/* ---- writing ---- */

static void wrote(struct session *s, int h, uint32_t k)
{
    s->tree[h]->dirty = true;
    if (h == 0)
        s->tree[0]->at[k].touched = 1;
}

/* Everything above a subtree that was written is written too. */
static bool mark_way(struct mtree *top, const struct mtree *tree, bool outermost)
{
    for (uint32_t i = 0; i < top->keys->count; i++) {
        struct place *p = &top->at[i];
        if (p->kind != PLACE_TREE || (p->tree != tree && !mark_way(p->tree, tree, false)))
            continue;
        top->dirty = true;
        if (outermost)
            p->touched = 1;
        return true;
    }
    return false;
}

static void wrote_tree(struct session *s, int h)
{
    if (h == 0)
        return;
    s->tree[h]->dirty = true;
    mark_way(s->tree[0], s->tree[h], true);
}

static void place_set(struct session *s, int h, uint32_t k, struct place p)
{
    s->tree[h]->at[k] = p;
    wrote(s, h, k);
    wrote_tree(s, h);
}

static uint32_t value_size(uint64_t seed, uint32_t inline_bytes, uint32_t most)
{
    uint64_t z = mix(seed ^ 0x51ull);
    uint32_t size;
    switch (z % 64) {
    case 0 ... 2:
        size = 0;
        break;
    case 3 ... 44:
        size = (uint32_t)(z >> 8) % 65;
        break;
    case 45 ... 52:
        size = inline_bytes - 2 + (uint32_t)(z >> 8) % 5;
        break;
    case 53 ... 60:
        size = 60 + (uint32_t)(z >> 8) % 300;
        break;
    case 61 ... 62:
        size = 1000 + (uint32_t)(z >> 8) % 6000;
        break;
    default:
        size = (z >> 8) % 40 == 0 ? VALUE_BYTES_MAX - (uint32_t)(z >> 16) % 100 : 300 + (uint32_t)(z >> 8) % 30000;
        break;
    }
    return size < most ? size : most;
}

static struct place place_make(uint64_t seed, uint32_t inline_bytes, uint32_t most)
{
    if (mix(seed) % 4 == 0)
        return (struct place){.seed = seed, .size = 16, .kind = PLACE_AMOUNT};
    return (struct place){.seed = seed, .size = value_size(seed, inline_bytes, most), .kind = PLACE_BYTES};
}

static void session_put(struct session *s, int h, uint32_t k, const struct place *p)
{
    const struct keyset *keys = s->tree[h]->keys;
    value_fill(p, value_memory);
    OK(eng_batch_put(s->handle[h], KEY(k), (struct eng_value){place_tag(p), value_memory, p->size}));
    place_set(s, h, k, *p);
}

static void session_remove(struct session *s, int h, uint32_t k)
{
    const struct keyset *keys = s->tree[h]->keys;
    OK(eng_batch_remove(s->handle[h], KEY(k)));
    place_set(s, h, k, (struct place){0});
}

static void session_remove_range(struct session *s, int h, const struct bounds *r)
{
    OK(eng_batch_remove_range(s->handle[h], r->from, r->from_bytes, r->to, r->to_bytes));
    if (r->to && r->end <= r->first && r->from)
        return; /* nothing lies between */
    wrote_tree(s, h);
    for (uint32_t i = r->first; i < r->end; i++) {
        s->tree[h]->at[i] = (struct place){0};
        wrote(s, h, i);
    }
}

/* ---- reading ---- */

static void session_get(struct session *s, int h, uint32_t k)
{
    const struct keyset *keys = s->tree[h]->keys;
    struct eng_value value = {0};
    looked_up(s, h, k);
    enum eng_status status = eng_batch_get(s->handle[h], KEY(k), &value);
    need_value(status, &s->tree[h]->at[k], &value, "eng_batch_get", k);
}

#define MANY_MAX 300 /* more than a helper must share */
struct many {
    const struct mtree *tree;
    uint32_t key[MANY_MAX];
    uint32_t seen[MANY_MAX];
    const char *what;
};

static void many_found(void *context, size_t index, const struct eng_value *value)
{
    struct many *many = context;
    const struct place *p = &many->tree->at[many->key[index]];
    many->seen[index]++;
    NEED(p->kind == PLACE_ABSENT ? !value : value_is(p, value), "%s: key %u has another value", many->what,
         many->key[index]);
}

static size_t many_choose(struct many *many, const uint8_t *bytes[], size_t sizes[], uint64_t seed)
{
    const struct keyset *keys = many->tree->keys;
    struct chance chance = {seed};
    size_t n = 1 + pick(&chance, MANY_MAX);
    for (size_t i = 0; i < n; i++) {
        many->key[i] = pick(&chance, keys->count);
        many->seen[i] = 0;
        bytes[i] = keys->key[many->key[i]].bytes;
        sizes[i] = keys->key[many->key[i]].size;
    }
    return n;
}

static void many_done(const struct many *many, size_t n)
{
    for (size_t i = 0; i < n; i++)
        NEED(many->seen[i] == 1, "%s: key %u was reported %u times", many->what, many->key[i], many->seen[i]);
}

static void session_get_many(struct session *s, int h, uint64_t seed)
{
    struct many many = {.tree = s->tree[h], .what = "eng_batch_get_many"};
    const uint8_t *bytes[MANY_MAX];
    size_t sizes[MANY_MAX], n = many_choose(&many, bytes, sizes, seed);
    for (size_t i = 0; i < n; i++)
        looked_up(s, h, many.key[i]);
    if (seed % 3 == 0)
        eng_batch_prefetch(s->handle[h], n, bytes, sizes);
    OK(eng_batch_get_many(s->handle[h], n, bytes, sizes, many_found, &many));
    many_done(&many, n);
}

/* The nearest key that is present: at or after from; before to. -1: none. */
static int64_t present_from(const struct mtree *tree, uint32_t from, uint32_t end)
{
    for (uint32_t i = from; i < end; i++)
        if (tree->at[i].kind != PLACE_ABSENT)
            return i;
    return -1;
}

static int64_t present_before(const struct mtree *tree, uint32_t to, uint32_t first)
{
    for (uint32_t i = to; i > first; i--)
        if (tree->at[i - 1].kind != PLACE_ABSENT)
            return i - 1;
    return -1;
}

static void session_next(struct session *s, int h, uint32_t k, bool after)
{
    const struct keyset *keys = s->tree[h]->keys;
    uint8_t next[ENG_KEY_BYTES_MAX];
    size_t next_bytes = 0;
    enum eng_status status = eng_batch_next(s->handle[h], KEY(k), after, next, &next_bytes);
    int64_t want = present_from(s->tree[h], k + after, keys->count);
    if (s->serializable && h == 0) {
        looked_at(s, h, k + after, want < 0 ? keys->count : (uint32_t)want + 1);
        s->may[k] = 1;
    }
    need_status(status, want < 0 ? ENG_NOT_FOUND : ENG_OK, "eng_batch_next");
    NEED(want < 0 || key_is(&keys->key[want], next, next_bytes), "eng_batch_next: not key %lld", (long long)want);
}

static void session_totals(struct session *s, int h, const struct bounds *r)
{
    struct eng_totals totals;
    looked_at(s, h, r->first, r->end);
    OK(eng_batch_totals(s->handle[h], r->from, r->from_bytes, r->to, r->to_bytes, &totals));
    need_totals(s->tree[h], r->first, r->end, &totals, "eng_batch_totals");
}

/* ---- undo ---- */

static void session_mark(struct session *s, bool nested)
{
    if (s->undo_count == UNDO_MAX)
        return;
    struct undo *undo = &s->undo[s->undo_count++];
    *undo = (struct undo){.nested = nested, .count = s->count, .trees = s->trees};
    if (nested)
        OK(eng_nested_begin(s->handle[0]));
    else
        undo->mark = eng_batch_mark(s->handle[0]);
    for (int i = 0; i < s->count; i++)
        undo->tree[i] = tree_copy(s->tree[i]);
    copy_done();
}

/* The innermost mark, or nested transaction, is ended. */
static void session_unmark(struct session *s, bool keep, bool again)
{
    if (!s->undo_count)
        return;
    struct undo *undo = &s->undo[s->undo_count - 1];
    again &= !undo->nested && !keep;
    if (undo->nested)
        eng_nested_end(s->handle[0], keep);
    else if (!keep)
        eng_batch_rollback(s->handle[0], undo->mark);
    if (!keep) {
        for (int i = 0; i < undo->count; i++)
            s->tree[i] = again ? tree_copy(undo->tree[i]) : undo->tree[i];
        copy_done();
        s->count = undo->count;
        s->trees = undo->trees;
    }
    if (!again)
        s->undo_count--;
}

/* ---- subtrees ---- */

static bool session_hangs(const struct session *s, const struct mtree *tree)
{
    for (int h = 0; h < s->count; h++)
        for (uint32_t i = 0; i < s->tree[h]->keys->count; i++)
            if (s->tree[h]->at[i].kind == PLACE_TREE && tree_has(s->tree[h]->at[i].tree, tree))
                return true;
    return false;
}

/* Levels above it; at most, if it hangs in a tree that hangs nowhere. */
static uint32_t level_in(const struct mtree *top, const struct mtree *tree)
{
    if (top == tree)
        return 0;
    for (uint32_t i = 0; i < top->keys->count; i++)
        if (top->at[i].kind == PLACE_TREE && tree_has(top->at[i].tree, tree))
            return 1 + level_in(top->at[i].tree, tree);
    return 0;
}

static uint32_t session_level(const struct session *s, const struct mtree *tree)
{
    uint32_t most = 0;
    for (int h = 0; h < s->count; h++) {
        uint32_t level = level_in(s->tree[h], tree);
        most = level > most ? level : most;
    }
    return most + 1;
}

static void session_handle(struct session *s, struct eng_batch *handle, struct mtree *tree)
{
    for (int i = 0; i < s->count; i++)
        if (s->handle[i] == handle) {
            NEED(s->tree[i] == tree, "a handle is of another subtree than before");
            return;
        }
    if (s->count == HANDLES_MAX)
        return;
    s->handle[s->count] = handle;
    s->tree[s->count++] = tree;
}

static bool session_full(const struct session *s)
{
    return s->count == HANDLES_MAX || s->trees > TREES_MAX;
}

static void session_tree_open(struct session *s, int h, uint32_t k, bool create)
{
    const struct keyset *keys = s->tree[h]->keys;
    struct place *p = &s->tree[h]->at[k];
    struct eng_batch *handle;
    if (create && p->kind == PLACE_ABSENT && !s->has_below &&
        (session_full(s) || session_level(s, s->tree[h]) > DEPTH_MAX))
        return;
    if (s->count == HANDLES_MAX)
        return;
    if (!s->has_below)
        looked_up(s, h, k);
    enum eng_status status = eng_batch_tree(s->handle[h], KEY(k), create, &handle);
    if (s->has_below) {
        /* it is free to say so once the batches before it are committed */
        NEED(status == ENG_BUSY, "eng_batch_tree: \"%s\" in a batch on others", eng_status_text(status));
        return;
    }
    if (p->kind == PLACE_ABSENT && !create) {
        need_status(status, ENG_NOT_FOUND, "eng_batch_tree");
        return;
    }
    if (p->kind == PLACE_BYTES || p->kind == PLACE_AMOUNT) {
        need_status(status, ENG_TYPE, "eng_batch_tree");
        return;
    }
    if (p->kind == PLACE_ABSENT && status == ENG_TOO_LARGE) {
        world->statistics.deep_refused++;
        return;
    }
    need_status(status, ENG_OK, "eng_batch_tree");
    if (p->kind == PLACE_ABSENT) {
        place_set(s, h, k, (struct place){.tree = tree_new(world->keys[1]), .kind = PLACE_TREE});
        p->tree->dirty = true;
        s->trees++;
    }
    session_handle(s, handle, p->tree);
}

static void session_tree_new(struct session *s)
{
    struct eng_batch *handle;
    if (s->has_below || session_full(s))
        return;
    OK(eng_batch_tree_new(s->handle[0], &handle));
    session_handle(s, handle, tree_new(world->keys[1]));
    s->trees++;
}

static void session_tree_take(struct session *s, int h, uint32_t k)
{
    const struct keyset *keys = s->tree[h]->keys;
    struct place *p = &s->tree[h]->at[k];
    struct eng_batch *handle;
    if (s->has_below || s->count == HANDLES_MAX)
        return;
    looked_up(s, h, k);
    enum eng_status status = eng_batch_tree_take(s->handle[h], KEY(k), &handle);
    need_status(status,
                p->kind == PLACE_ABSENT ? ENG_NOT_FOUND
                : p->kind == PLACE_TREE ? ENG_OK
                                        : ENG_TYPE,
                "eng_batch_tree_take");
    if (status != ENG_OK)
        return;
    session_handle(s, handle, p->tree);
    p->tree->dirty = true;
    place_set(s, h, k, (struct place){0});
}

static void session_tree_put(struct session *s, int h, uint32_t k, int t)
{
    const struct keyset *keys = s->tree[h]->keys;
    struct mtree *tree = s->tree[t];
    if (s->has_below || t == 0 || session_level(s, s->tree[h]) + tree_height(tree) > DEPTH_MAX + 2)
        return;
    enum eng_status status = eng_batch_tree_put(s->handle[h], KEY(k), s->handle[t]);
    if (session_hangs(s, tree) || tree_has(tree, s->tree[h])) {
        need_status(status, ENG_INVALID, "eng_batch_tree_put");
        return;
    }
    if (status == ENG_TOO_LARGE) {
        world->statistics.deep_refused++;
        return;
    }
    need_status(status, ENG_OK, "eng_batch_tree_put");
    tree->dirty = true;
    place_set(s, h, k, (struct place){.tree = tree, .kind = PLACE_TREE});
}

static void session_tree_clone(struct session *s, int t)
{
    struct eng_batch *handle;
    if (s->has_below || t == 0 || session_full(s) || s->trees + tree_count(s->tree[t]) > TREES_MAX)
        return;
    OK(eng_batch_tree_clone(s->handle[t], &handle));
    wrote_tree(s, t);
    struct mtree *clone = tree_copy(s->tree[t]);
    copy_done();
    s->trees += tree_count(clone);
    session_handle(s, handle, clone);
    world->line[s->root].cloned = true;
}

/* The handle of a tree, 0: there is none. */
static int session_find(const struct session *s, const struct mtree *tree)
{
    for (int i = 1; i < s->count; i++)
        if (s->tree[i] == tree)
            return i;
    return 0;
}

/* The first key from k on, round about, that has a tree; count: none has. */
static uint32_t tree_key(const struct mtree *in, uint32_t k)
{
    for (uint32_t i = 0; i < in->keys->count; i++)
        if (in->at[(k + i) % in->keys->count].kind == PLACE_TREE)
            return (k + i) % in->keys->count;
    return in->keys->count;
}

/* A tree is taken out of another one, or of its clone, and put into the outermost; often what it was in goes. */
static void session_tree_out(struct session *s, uint32_t from, uint32_t to, uint64_t seed)
{
    uint32_t k = tree_key(s->tree[0], from);
    if (s->has_below || k == s->tree[0]->keys->count)
        return;
    session_tree_open(s, 0, k, false);
    int outer = session_find(s, s->tree[0]->at[k].tree), count = s->count;
    if (!outer)
        return;
    if (seed % 3 == 0)
        session_tree_clone(s, outer);
    if (s->count > count)
        outer = count;
    uint32_t j = tree_key(s->tree[outer], (uint32_t)(seed >> 8));
    if (j == s->tree[outer]->keys->count) {
        session_tree_open(s, outer, (uint32_t)(seed >> 8) % j, true);
        return;
    }
    const struct mtree *inner = s->tree[outer]->at[j].tree;
    session_tree_take(s, outer, j);
    int taken = session_find(s, inner);
    if (taken)
        session_tree_put(s, 0, to, taken);
    if (seed % 2 && to != k)
        session_remove(s, 0, k);
}

/* ---- conflicts ---- */

/* Could, and must, a commit of it now be refused? */
struct verdict {
    bool must, may;
};

static bool changed_since(const struct session *s, uint32_t k)
{
    return world->line[s->root].written[k] > s->base_tag;
}

/* Does something it goes on from lie under a key that another commit changed? */
static bool goes_on_from_changed(const struct session *s, const struct mtree *tree, const struct mtree *head)
{
    if (tree->origin >= 0 && tree->dirty && changed_since(s, (uint32_t)tree->origin) &&
        !same_place(&s->base->at[tree->origin], &head->at[tree->origin]))
        return true;
    for (uint32_t i = 0; i < tree->keys->count; i++)
        if (tree->at[i].kind == PLACE_TREE && goes_on_from_changed(s, tree->at[i].tree, head))
            return true;
    return false;
}

static void judge_trees(const struct session *s, struct verdict *verdict)
{
    const struct mtree *head = head_state(s->root), *top = s->tree[0];
    if (s->count == 1 && s->trees == 0)
        return;
    for (uint32_t i = 0; i < top->keys->count; i++) {
        if (s->base->at[i].kind == PLACE_TREE && changed_since(s, i))
            verdict->may = true;
        if (top->at[i].kind == PLACE_TREE && top->at[i].touched && goes_on_from_changed(s, top->at[i].tree, head))
            verdict->must = verdict->may = true;
    }
}

static void judge_keys(const struct session *s, struct verdict *verdict)
{
    const struct mtree *head = head_state(s->root), *top = s->tree[0];
    for (uint32_t i = 0; i < top->keys->count; i++) {
        bool must = s->serializable ? s->must[i] : top->at[i].touched;
        bool may = s->serializable ? s->may[i] : top->at[i].touched;
        if (!may || !changed_since(s, i) || same_place(&s->base->at[i], &head->at[i]))
            continue;
        verdict->may = true;
        verdict->must |= must;
    }
}

static struct verdict judge(const struct session *s)
{
    struct verdict verdict = {0};
    judge_trees(s, &verdict);
    if (s->kind == SESSION_TRANSACTION)
        judge_keys(s, &verdict);
    return verdict;
}

#endif
