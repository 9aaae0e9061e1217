/*
 * Commits, versions, checkpoints, closing and opening in prog_model.c; what a store must be after a start.
 *
 * After a start the oracle adopts what is there, if it is one of the states pando/engine.h promises:
 *
 *   with a log (MSYNC_SYNC, FSYNC, FULL)   every acknowledged commit, and at most the one in flight in addition; what
 *                                          was dropped since the last checkpoint may be there again
 *   without                                exactly what a checkpoint captured: the last one that returned, or one that
 *                                          was being made
 *   after a rebuild                        the same, but a root that may have had clones has at least its newest
 * version
 */
#ifndef TESTS_MODEL_STORE_H
#define TESTS_MODEL_STORE_H

#include "model_read.h"

#include "engine_internal.h"
#include "store_internal.h"

/* What a history is run with. */
struct parameters {
    uint32_t keys, key_style, leaf_bytes, inline_bytes, segment_bytes, threads;
    bool on_files, kills, background, trees;
    bool crowded; /* few keys and many trees: they are soon inside of one another, cloned, taken out and gone */
    enum eng_durability durability;
    char path[200];
};

static struct parameters parameters;
static struct disk *sim;

static bool has_log(void)
{
    return parameters.durability >= ENG_DURABLE_MSYNC_SYNC;
}

static uint32_t value_most(void)
{
    uint32_t most = parameters.segment_bytes - (8u << 10);
    return most < VALUE_BYTES_MAX ? most : VALUE_BYTES_MAX;
}

static struct eng_options options_of(enum eng_recovery recovery)
{
    return (struct eng_options){.path = parameters.on_files ? parameters.path : NULL,
                                .disk = parameters.on_files ? NULL : sim,
                                .create = true,
                                .leaf_bytes = parameters.leaf_bytes,
                                .inline_bytes = parameters.inline_bytes,
                                .segment_bytes = parameters.segment_bytes,
                                .threads = parameters.threads,
                                .inline_only = !parameters.background,
                                .durability = parameters.durability,
                                .checkpoint_log_bytes = 100u << 10,
                                .recovery = recovery};
}

/* ---- commits ---- */

static void committed(struct session *s, uint64_t tag, struct mtree *state, const struct eng_summary *summary)
{
    struct line_of_versions *line = &world->line[s->root];
    need_summary(state, summary, "summary of a commit");
    for (uint32_t i = 0; i < state->keys->count; i++)
        if (s->tree[0]->at[i].touched)
            line->written[i] = tag;
    version_add(s->root, tag, state, summary);
    world->in_flight.valid = false;
    world->statistics.commits++;
}

static void announce(struct session *s, uint64_t tag, struct mtree *state)
{
    world->in_flight = (struct in_flight){false, s->root, tag, state, NULL};
    atomic_signal_fence(memory_order_release);
    world->in_flight.valid = true;
}

/* Every key that was put is listed, and nothing else than what it shows. */
struct listing {
    const struct mtree *tree;
    uint32_t at;
};

static enum eng_status listed(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct listing *l = context;
    const struct keyset *keys = l->tree->keys;
    uint32_t k = key_index(keys, key, key_bytes);
    for (; l->at < k; l->at++)
        NEED(!l->tree->at[l->at].touched || l->tree->at[l->at].kind == PLACE_ABSENT,
             "eng_batch_each: key %u is left out", l->at);
    if (k == keys->count || !key_is(&keys->key[k], key, key_bytes)) {
        NEED(!value, "eng_batch_each: a key that was never put");
        return ENG_OK;
    }
    NEED(k == l->at, "eng_batch_each: key %u is out of order", k);
    NEED(l->tree->at[k].touched, "eng_batch_each: key %u was not written", k);
    NEED(value ? value_is(&l->tree->at[k], value) : l->tree->at[k].kind == PLACE_ABSENT,
         "eng_batch_each: key %u: another value", k);
    l->at = k + 1;
    return ENG_OK;
}

static void session_each(struct session *s)
{
    struct listing l = {s->tree[0], 0};
    OK(eng_batch_each(s->handle[0], listed, &l));
    for (; l.at < l.tree->keys->count; l.at++)
        NEED(!l.tree->at[l.at].touched || l.tree->at[l.at].kind == PLACE_ABSENT, "eng_batch_each: key %u is left out",
             l.at);
}

static void session_freeze(struct session *s)
{
    if (s->frozen)
        return;
    while (s->undo_count) /* ends nested transactions */
        session_unmark(s, true, false);
    OK(eng_batch_freeze(s->handle[0]));
    s->frozen = true;
}

static void line_freeze(uint32_t root)
{
    struct session *s = run.open[root];
    if (!s || run.waiting_count[root] == WAITING_MAX)
        return;
    session_freeze(s);
    run.waiting[root][run.waiting_count[root]++] = s;
    run.open[root] = NULL;
}

static uint64_t next_tag(uint32_t root, uint64_t step)
{
    return (head_of(root) ? head_of(root)->tag : 0) + step;
}

/* Before it is committed: as a dry run, and against a wrong expectation. ENG_OK, or the conflict that would come. */
static enum eng_status rehearse(struct session *s, const struct mtree *state, uint64_t seed, struct eng_summary *dry)
{
    struct verdict verdict = judge(s);
    enum eng_status status = eng_dry_commit(s->handle[0], dry);
    if (s->kind == SESSION_PLAIN)
        NEED(status == ENG_OK ? !verdict.must : status == ENG_CONFLICT && verdict.may, "eng_dry_commit: %s: %s",
             eng_status_text(status), eng_error());
    if (status != ENG_OK)
        return status;
    need_summary(state, dry, "eng_dry_commit");
    if (seed % 4 == 0) {
        struct eng_summary wrong = *dry, got = {0};
        wrong.digest[seed / 4 % 32] ^= 1;
        need_status(eng_commit_expect(s->handle[0], next_tag(s->root, 1), &wrong, &got), ENG_CONFLICT,
                    "eng_commit_expect of what will not be");
        NEED(memcmp(&got, dry, sizeof got) == 0, "eng_commit_expect: not the summary of the dry commit");
    }
    return ENG_OK;
}

/* The oldest of the frozen ones, or the one that is open. */
static void line_commit(uint32_t root, uint64_t seed)
{
    if (!run.waiting_count[root])
        line_freeze(root);
    if (!run.waiting_count[root])
        return;
    struct session *s = run.waiting[root][0];
    struct mtree *state = state_with(head_state(root), s->tree[0]);
    struct eng_summary made, dry;
    uint64_t tag = next_tag(root, 1 + mix(seed) % 3);
    bool rehearsed = seed % 5 == 0;
    if (seed % 7 == 0)
        session_each(s);
    struct verdict verdict = judge(s);
    enum eng_status status = rehearsed ? rehearse(s, state, mix(seed + 1), &dry) : ENG_OK;
    announce(s, tag, state);
    if (status == ENG_OK && rehearsed && seed % 2)
        status = eng_commit_expect(s->handle[0], tag, &dry, &made);
    else
        status = eng_commit(s->handle[0], tag, &made);
    world->statistics.could_conflict += verdict.may;
    if (status == ENG_CONFLICT && verdict.may) {
        world->in_flight.valid = false;
        world->statistics.conflicts++;
        line_abort(root);
        return;
    }
    NEED(status == ENG_OK && !verdict.must, "eng_commit: %s: %s", eng_status_text(status),
         verdict.must ? "a subtree was changed meanwhile" : eng_error());
    committed(s, tag, state, &made);
    NEED(!rehearsed || memcmp(&made, &dry, sizeof made) == 0, "a commit and its dry run have different digests");
    for (uint32_t i = 1; i < run.waiting_count[root]; i++)
        run.waiting[root][i - 1] = run.waiting[root][i];
    run.waiting_count[root]--;
    session_close(&s);
    world->batches++;
}

static void transaction_commit(uint32_t slot, uint64_t seed)
{
    struct session *s = run.transaction[slot];
    if (!s)
        return;
    while (s->undo_count)
        session_unmark(s, true, false);
    struct verdict verdict = judge(s);
    struct mtree *state = state_with(head_state(s->root), s->tree[0]);
    uint64_t tag = next_tag(s->root, 1), got = 0;
    struct eng_summary made;
    cursors_leave(s, NULL);
    announce(s, tag, state);
    enum eng_status status = eng_transaction_commit(s->handle[0], &got, &made);
    world->statistics.could_conflict += verdict.may;
    NEED(status == ENG_OK ? !verdict.must : status == ENG_CONFLICT && verdict.may,
         "eng_transaction_commit (%s): \"%s\" where %s: %s", s->serializable ? "serializable" : "snapshot",
         eng_status_text(status), verdict.must ? "it conflicts" : "nothing conflicts", eng_error());
    if (status == ENG_OK) {
        NEED(got == tag, "eng_transaction_commit: tag %llu instead of %llu", (unsigned long long)got,
             (unsigned long long)tag);
        committed(s, tag, state, &made);
        world->batches++;
    } else {
        world->in_flight.valid = false;
        world->statistics.conflicts++;
    }
    if (seed % 4 == 0)
        session_each(s);
    session_close(&run.transaction[slot]);
}

static void fork_begin(uint32_t slot, const struct held *held)
{
    if (!held->snapshot || !held->whole)
        return;
    session_close(&run.fork[slot]);
    struct session *s = session_new(SESSION_FORK, held->root);
    s->base = (struct mtree *)(uintptr_t)held->state;
    OK(eng_fork(held->snapshot, &s->handle[0]));
    session_see(s, s->base);
    run.fork[slot] = s;
}

static void fork_end(uint32_t slot, uint64_t seed)
{
    struct session *s = run.fork[slot];
    struct eng_summary dry, again;
    if (!s)
        return;
    session_freeze(s);
    struct mtree *state = state_with(s->base, s->tree[0]);
    OK(eng_dry_commit(s->handle[0], &dry));
    need_summary(state, &dry, "dry commit of a fork");
    if (seed % 16 == 0)
        need_digest(state, &dry, "dry commit of a fork");
    need_status(eng_commit(s->handle[0], next_tag(s->root, 1), NULL), ENG_INVALID, "commit of a fork");
    if (seed % 4 == 0) {
        OK(eng_dry_commit(s->handle[0], &again));
        NEED(memcmp(&dry, &again, sizeof dry) == 0, "dry commit of a fork: another digest the second time");
    }
    session_close(&run.fork[slot]);
}

/* ---- versions ---- */

static void check_heads(void)
{
    for (uint32_t root = 0; root < ROOTS; root++) {
        struct mversion *head = head_of(root);
        struct eng_summary summary;
        uint64_t tag = 0, oldest = 0;
        size_t kept = 0;
        enum eng_status status = eng_head(run.eng, root, &tag, &summary);
        need_status(status, head ? ENG_OK : ENG_NOT_FOUND, "eng_head");
        NEED(!head || (tag == head->tag && memcmp(&summary, &head->summary, sizeof summary) == 0),
             "eng_head of root %u: tag %llu instead of %llu, or another summary", root, (unsigned long long)tag,
             (unsigned long long)(head ? head->tag : 0));
        const struct mversion *first = NULL;
        for (uint32_t i = 0; i < version_count(root); i++) {
            const struct mversion *v = &world->line[root].version[i];
            kept += v->kept;
            first = first || !v->kept ? first : v;
        }
        NEED(eng_version_count(run.eng, root) == kept, "eng_version_count of root %u: %zu instead of %zu", root,
             eng_version_count(run.eng, root), kept);
        if (first) {
            OK(eng_oldest(run.eng, root, &oldest));
            NEED(oldest == first->tag, "eng_oldest");
        }
    }
}

static void drop_one(uint32_t root, uint64_t seed)
{
    uint32_t count = version_count(root);
    if (!count)
        return;
    struct mversion *v = &world->line[root].version[count - 1 - (uint32_t)(seed % (count < 20 ? count : 20))];
    bool kept = v->kept, head = v == head_of(root);
    if (!head)
        v->kept = false; /* beforehand: after a kill it may be either way */
    need_status(eng_drop(run.eng, root, v->tag), head ? ENG_INVALID : kept ? ENG_OK : ENG_NOT_FOUND, "eng_drop");
}

static void drop_below(uint32_t root, uint64_t seed)
{
    uint32_t count = version_count(root);
    if (!count)
        return;
    uint32_t at = count - 1 - (uint32_t)(seed % (count < 8 ? count : 8));
    struct line_of_versions *line = &world->line[root];
    for (uint32_t i = 0; i < at; i++)
        line->version[i].kept = false;
    OK(eng_drop_below(run.eng, root, line->version[at].tag));
}

/* ---- checkpoints ---- */

static void image_take(struct image *image)
{
    image->valid = false;
    for (uint32_t root = 0; root < ROOTS; root++) {
        image->count[root] = version_count(root);
        for (uint32_t i = 0; i < image->count[root]; i++)
            image->kept[root][i] = world->line[root].version[i].kept;
    }
    image->app_state = world->app_state;
    atomic_signal_fence(memory_order_release);
    image->valid = true;
}

/* Valid or not, at every moment. */
static void image_copy(struct image *to, const struct image *from)
{
    to->valid = false;
    atomic_signal_fence(memory_order_release);
    memcpy(to->count, from->count, sizeof to->count);
    for (uint32_t root = 0; root < ROOTS; root++)
        memcpy(to->kept[root], from->kept[root], from->count[root]);
    to->app_state = from->app_state;
    atomic_signal_fence(memory_order_release);
    to->valid = from->valid;
}

/* What is dropped is so for good. */
static void bury(const struct image *image)
{
    for (uint32_t root = 0; root < ROOTS; root++)
        for (uint32_t i = 0; i < image->count[root]; i++)
            world->line[root].version[i].buried = !image->kept[root][i];
}

static void image_durable(const struct image *image)
{
    if (image != &world->durable)
        image_copy(&world->durable, image);
    world->pending[0].valid = world->pending[1].valid = false;
    bury(&world->durable);
}

static void checkpoint(bool wait)
{
    static struct image taken;
    world->app_state++;
    image_take(&taken);
    image_copy(&world->pending[1], &taken);
    enum eng_status status = eng_checkpoint(run.eng, &taken.app_state, sizeof taken.app_state, wait);
    if (status == ENG_BUSY && !wait) {
        world->pending[1].valid = false;
        return;
    }
    need_status(status, ENG_OK, "eng_checkpoint");
    if (wait || !eng_checkpoint_running(run.eng)) {
        image_durable(&taken);
        return;
    }
    if (world->pending[0].valid)
        image_copy(&world->durable, &world->pending[0]); /* only one is made at a time */
    image_copy(&world->pending[0], &taken);
    world->pending[1].valid = false;
}

/* ---- audits ---- */

static void complain(void *context, const char *line)
{
    char *first = context;
    if (!*first)
        snprintf(first, 300, "%s", line);
}

static void audit(void)
{
    uint64_t leaked = 0, missing = 0;
    if (parameters.background)
        return;
    OK(eng_settle(run.eng));
    OK(store_reap(run.eng->store, UINT64_MAX, NULL));
    OK(store_audit(run.eng->store, &leaked, &missing));
    NEED(leaked == 0 && missing == 0, "store_audit: %llu ids leaked, %llu missing", (unsigned long long)leaked,
         (unsigned long long)missing);
    world->statistics.audits++;
}

static void check_offline(void)
{
    struct eng_options options = options_of(ENG_RECOVER_AUTO);
    char line[300] = "";
    options.create = false;
    enum eng_status status = eng_check(&options, true, complain, line);
    NEED(status == ENG_OK || status == ENG_NOT_FOUND, "eng_check: %s", line[0] ? line : eng_error());
}

/* ---- starts ---- */

/* The newest version of a root as the store has it; the one in flight is taken in if it is there. */
static void adopt_in_flight(void)
{
    struct in_flight *f = &world->in_flight;
    struct eng_summary summary;
    uint64_t tag;
    if (!f->valid)
        return;
    if ((!head_of(f->root) || head_of(f->root)->tag < f->tag) && eng_head(run.eng, f->root, &tag, &summary) == ENG_OK &&
        tag == f->tag) {
        need_digest(f->state, &summary, "the commit that was in flight");
        version_add(f->root, f->tag, f->state, &summary);
        world->statistics.in_flight_kept++;
    }
    f->valid = false;
}

static bool is_there(uint32_t root, const struct mversion *v)
{
    struct eng_snapshot *snapshot;
    if (eng_snapshot_open(run.eng, root, v->tag, &snapshot) != ENG_OK)
        return false;
    NEED(memcmp(eng_snapshot_summary(snapshot), &v->summary, sizeof v->summary) == 0,
         "after a start version %llu of root %u has another summary", (unsigned long long)v->tag, root);
    eng_snapshot_close(&snapshot);
    return true;
}

static void adopt_logged(bool rebuilt)
{
    adopt_in_flight();
    for (uint32_t root = 0; root < ROOTS; root++) {
        struct line_of_versions *line = &world->line[root];
        for (uint32_t i = 0; i < version_count(root); i++) {
            struct mversion *v = &line->version[i];
            bool there = is_there(root, v), needed = v->kept && !(rebuilt && line->cloned && v != head_of(root));
            NEED(there || !needed, "after a start version %llu of root %u is missing, the newest should be %llu",
                 (unsigned long long)v->tag, root, (unsigned long long)head_of(root)->tag);
            NEED(!there || !v->buried,
                 "after a start version %llu of root %u is back, which was dropped before a checkpoint",
                 (unsigned long long)v->tag, root);
            v->kept = there;
        }
    }
}

static bool adopt_image(struct image *image, bool rebuilt)
{
    uint8_t state[8];
    uint64_t tag, app_state = 0;
    if (eng_app_state(run.eng, state, sizeof state) == sizeof state)
        memcpy(&app_state, state, sizeof app_state);
    if (!image->valid || app_state != image->app_state)
        return false;
    for (uint32_t root = 0; root < ROOTS; root++) {
        uint32_t count = image->count[root];
        const struct line_of_versions *line = &world->line[root];
        enum eng_status status = eng_head(run.eng, root, &tag, NULL);
        NEED(status == (count ? ENG_OK : ENG_NOT_FOUND) && (!count || tag == line->version[count - 1].tag),
             "after a start root %u is not as in the checkpoint", root);
    }
    for (uint32_t root = 0; root < ROOTS; root++) {
        struct line_of_versions *line = &world->line[root];
        uint32_t count = image->count[root];
        atomic_store_explicit(&line->count, count, memory_order_relaxed);
        for (uint32_t i = 0; i < count; i++) {
            struct mversion *v = &line->version[i];
            bool there = is_there(root, v), lenient = rebuilt && line->cloned && i + 1 < count;
            NEED(there == (image->kept[root][i] != 0) || (lenient && !there),
                 "after a start version %llu of root %u is %s", (unsigned long long)v->tag, root,
                 there ? "back, though it was dropped" : "missing");
            v->kept = there;
            image->kept[root][i] = there;
        }
    }
    image_durable(image);
    return true;
}

static void adopt(enum eng_recovery recovery)
{
    bool rebuilt = recovery == ENG_RECOVER_REBUILD;
    if (has_log()) {
        adopt_logged(rebuilt);
    } else {
        bool found = adopt_image(&world->pending[1], rebuilt) || adopt_image(&world->pending[0], rebuilt) ||
                     adopt_image(&world->durable, rebuilt);
        NEED(found, "after a start the store is as no checkpoint left it");
        world->in_flight.valid = false;
    }
    for (uint32_t root = 0; root < ROOTS; root++)
        memset(world->line[root].written, 0, sizeof world->line[root].written);
    check_heads();
}

static void store_start(enum eng_recovery recovery)
{
    struct eng_options options = options_of(recovery);
    char line[300] = "";
    options.recovery_report = complain;
    options.recovery_context = line;
    enum eng_status status = eng_open(&options, &run.eng);
    NEED(status == ENG_OK, "eng_open: %s (%s)", eng_error(), line);
    adopt(recovery);
}

static void close_handles(void)
{
    for (uint32_t i = 0; i < CURSORS; i++)
        if (run.cursor[i].cursor)
            cursor_forget(&run.cursor[i]);
    for (uint32_t i = 0; i < TRANSACTIONS; i++)
        session_close(&run.transaction[i]);
    for (uint32_t i = 0; i < FORKS; i++)
        session_close(&run.fork[i]);
    for (uint32_t root = 0; root < ROOTS; root++)
        line_abort(root);
    for (uint32_t i = 0; i < HELD; i++)
        held_close(&run.held[i]);
}

static void reopen(uint64_t seed)
{
    enum eng_recovery recovery = seed % 8 == 0  ? ENG_RECOVER_REBUILD
                                 : seed % 8 < 3 ? ENG_RECOVER_VERIFY
                                                : ENG_RECOVER_AUTO;
    close_handles();
    if (!has_log() && mix(seed) % 4) {
        checkpoint(true);
    }
    eng_close(&run.eng);
    if (has_log()) { /* it made a checkpoint */
        static struct image taken;
        image_take(&taken);
        bury(&taken);
    }
    if (mix(seed + 1) % 4 == 0)
        check_offline();
    store_start(recovery);
    world->statistics.reopened++;
}

#endif
