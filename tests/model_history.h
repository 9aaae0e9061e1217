/*
 * Histories of prog_model.c: lists of operations, made from a seed before anything is run, written and read as text.
 *
 * An operation is a kind, a place to do it in and numbers to do it with. It means something in every context: where
 * the batch it names is not open it opens one, or takes another, or does nothing. So any part of a history is a
 * history, and one that fails can be made shorter.
 */
#ifndef TESTS_MODEL_HISTORY_H
#define TESTS_MODEL_HISTORY_H

#include "model_store.h"

#include <signal.h>
#include <time.h>

/* name, how often */
#define OPERATIONS(X)                                                                                                  \
    X(PUT, put, 200)                                                                                                   \
    X(FILL, fill, 14)                                                                                                  \
    X(REMOVE, remove, 50)                                                                                              \
    X(REMOVE_RANGE, remove_range, 8)                                                                                   \
    X(GET, get, 60)                                                                                                    \
    X(GET_MANY, get_many, 10)                                                                                          \
    X(NEXT, next, 20)                                                                                                  \
    X(TOTALS, totals, 12)                                                                                              \
    X(MARK, mark, 6)                                                                                                   \
    X(NEST, nest, 6)                                                                                                   \
    X(UNDO, undo, 6)                                                                                                   \
    X(KEEP, keep, 6)                                                                                                   \
    X(FREEZE, freeze, 8)                                                                                               \
    X(COMMIT, commit, 26)                                                                                              \
    X(ABORT, abort, 3)                                                                                                 \
    X(TRANSACTION, transaction, 16)                                                                                    \
    X(TRANSACTION_COMMIT, transaction_commit, 14)                                                                      \
    X(FORK, fork, 4)                                                                                                   \
    X(FORK_END, fork_end, 4)                                                                                           \
    X(TREE_OPEN, tree_open, 12)                                                                                        \
    X(TREE_CREATE, tree_create, 8)                                                                                     \
    X(TREE_NEW, tree_new, 2)                                                                                           \
    X(TREE_TAKE, tree_take, 4)                                                                                         \
    X(TREE_PUT, tree_put, 7)                                                                                           \
    X(TREE_OUT, tree_out, 2)                                                                                           \
    X(TREE_CLONE, tree_clone, 4)                                                                                       \
    X(HOLD, hold, 12)                                                                                                  \
    X(RELEASE, release, 6)                                                                                             \
    X(HOLD_TREE, hold_tree, 6)                                                                                         \
    X(READ, read, 60)                                                                                                  \
    X(READ_MANY, read_many, 8)                                                                                         \
    X(READ_TOTALS, read_totals, 12)                                                                                    \
    X(SCAN, scan, 10)                                                                                                  \
    X(READ_ALL, read_all, 1)                                                                                           \
    X(DIFF, diff, 8)                                                                                                   \
    X(PROVE, prove, 6)                                                                                                 \
    X(PROVE_RANGE, prove_range, 3)                                                                                     \
    X(PROVE_MANY, prove_many, 3)                                                                                       \
    X(PROVE_DIFF, prove_diff, 4)                                                                                       \
    X(PROVE_NESTED, prove_nested, 3)                                                                                   \
    X(CURSOR, cursor, 8)                                                                                               \
    X(CURSOR_BATCH, cursor_batch, 8)                                                                                   \
    X(CURSOR_PREFIX, cursor_prefix, 5)                                                                                 \
    X(CURSOR_MOVE, cursor_move, 70)                                                                                    \
    X(CURSOR_VALUE, cursor_value, 20)                                                                                  \
    X(HEADS, heads, 3)                                                                                                 \
    X(DROP, drop, 4)                                                                                                   \
    X(DROP_BELOW, drop_below, 8)                                                                                       \
    X(CHECKPOINT, checkpoint, 3)                                                                                       \
    X(MAINTAIN, maintain, 3)                                                                                           \
    X(COMPACT, compact, 1)                                                                                             \
    X(RESERVE, reserve, 1)                                                                                             \
    X(AUDIT, audit, 1)                                                                                                 \
    X(REOPEN, reopen, 1)                                                                                               \
    X(KILL, kill, 4)

enum operation {
#define X(code, name, weight) OP_##code,
    OPERATIONS(X)
#undef X
        OPERATION_COUNT
};

static const char *const operation_names[] = {
#define X(code, name, weight) #name,
    OPERATIONS(X)
#undef X
};

static const uint32_t operation_weights[] = {
#define X(code, name, weight) weight,
    OPERATIONS(X)
#undef X
};

struct op {
    uint8_t kind, slot;
    uint16_t a, b;
    uint64_t seed;
};

static uint32_t compare_every; /* commits, about, until the flat oracle is asked */

/* ---- making and writing ---- */

static void make_parameters(uint64_t seed, const char *directory)
{
    static const uint32_t keys[] = {30, 100, 400, 1000, 1500}, leaves[] = {64, 256, 256, 512, 2048, 4096};
    struct chance chance = {mix(seed ^ 0xA0ull)};
    parameters = (struct parameters){0};
    parameters.keys = keys[pick(&chance, 5)];
    parameters.key_style = pick(&chance, 7);
    parameters.leaf_bytes = leaves[pick(&chance, 6)];
    parameters.inline_bytes = 64u << pick(&chance, 4);
    parameters.segment_bytes = pick(&chance, 5) ? 64u << 10 : 4u << 20;
    parameters.threads = 1 + (pick(&chance, 4) == 0);
    parameters.durability = (enum eng_durability)pick(&chance, 6);
    parameters.kills = pick(&chance, 8) == 0;
    parameters.on_files = parameters.kills || pick(&chance, 16) == 0;
    parameters.background = parameters.on_files ? pick(&chance, 2) != 0 : pick(&chance, 8) == 0;
    if (has_log() && pick(&chance, 10)) /* then the log has large files, and a start reads all of one */
        parameters.background = false;
    parameters.trees = pick(&chance, 3) != 0;
    parameters.crowded = parameters.trees && pick(&chance, 3) == 0;
    if (parameters.crowded)
        parameters.keys = 12;
    snprintf(parameters.path, sizeof parameters.path, "%s/store", directory);
}

/* Cards of a kind in the deck. */
static uint32_t weight_of(uint32_t kind)
{
    bool of_trees = kind >= OP_TREE_OPEN && kind <= OP_TREE_CLONE;
    uint32_t times = !parameters.crowded ? 1 : of_trees ? 6 : kind == OP_COMMIT || kind == OP_DROP_BELOW ? 3 : 1;
    if ((kind == OP_KILL && !parameters.kills) || ((of_trees || kind == OP_HOLD_TREE) && !parameters.trees))
        return 0;
    return times * operation_weights[kind];
}

static void make_history(uint64_t seed, struct op *ops, uint32_t count)
{
    static uint8_t deck[4096];
    uint32_t cards = 0;
    struct chance chance = {mix(seed ^ 0xB0ull)};
    for (uint32_t kind = 0; kind < OPERATION_COUNT; kind++)
        for (uint32_t i = 0; i < weight_of(kind); i++)
            deck[cards++] = (uint8_t)kind;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t z = roll(&chance);
        ops[i] = (struct op){deck[z % cards], (uint8_t)((z >> 16) % 12), (uint16_t)(z >> 24), (uint16_t)(z >> 40),
                             roll(&chance)};
    }
}

static void print_history(FILE *file, const struct op *ops, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        fprintf(file, "%-18s slot %2u  a %5u  b %5u  seed %016llx\n", operation_names[ops[i].kind], ops[i].slot,
                ops[i].a, ops[i].b, (unsigned long long)ops[i].seed);
}

static uint32_t read_history(FILE *file, struct op *ops, uint32_t most)
{
    char line[200], name[32];
    unsigned slot, a, b;
    unsigned long long seed;
    uint32_t count = 0;
    while (count < most && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%31s slot %u a %u b %u seed %llx", name, &slot, &a, &b, &seed) != 5)
            continue;
        for (uint32_t kind = 0; kind < OPERATION_COUNT; kind++)
            if (strcmp(name, operation_names[kind]) == 0)
                ops[count++] = (struct op){(uint8_t)kind, (uint8_t)slot, (uint16_t)a, (uint16_t)b, seed};
    }
    return count;
}

/* ---- running ---- */

static uint32_t root_of(const struct op *op)
{
    return op->slot % 4 == 0 ? 1 + op->slot / 4 % 2 : 0; /* mostly the first */
}

/* The batch an operation works in; one is opened if need be. write: not a frozen one. */
static struct session *session_of(const struct op *op, bool write)
{
    uint32_t root = root_of(op);
    if (op->slot >= 6 && op->slot < 9 && run.transaction[op->slot - 6])
        return run.transaction[op->slot - 6];
    if (op->slot >= 9 && op->slot < 11 && run.fork[op->slot - 9])
        return run.fork[op->slot - 9];
    if (!write && run.waiting_count[root] && op->seed % 4 == 0)
        return run.waiting[root][(op->seed / 4) % run.waiting_count[root]];
    return run.open[root] ? run.open[root] : session_begin(root);
}

static int handle_of(const struct session *s, const struct op *op)
{
    return mix(op->seed + 77) % (parameters.crowded ? 8 : 12) >= 4 ? 0 : (int)(mix(op->seed + 78) % (uint64_t)s->count);
}

static struct held *held_of(const struct op *op)
{
    struct held *held = &run.held[op->slot % HELD];
    if (!held->snapshot)
        held_open_head(held, root_of(op));
    return held;
}

static void write_in_batch(const struct op *op)
{
    struct session *s = session_of(op, true);
    int h = handle_of(s, op);
    const struct keyset *keys = s->tree[h]->keys;
    uint32_t k = op->a % keys->count;
    switch ((enum operation)op->kind) {
    case OP_PUT: {
        struct place p = place_make(op->seed, parameters.inline_bytes, value_most());
        session_put(s, h, k, &p);
        return;
    }
    case OP_FILL:
        for (uint32_t i = 0; i < 4 + op->b % 40u; i++) {
            struct place p = place_make(mix(op->seed + i), parameters.inline_bytes, 400);
            session_put(s, h, (k + i * (1 + op->b % 3u)) % keys->count, &p);
        }
        return;
    case OP_REMOVE:
        session_remove(s, h, k);
        return;
    case OP_REMOVE_RANGE: {
        struct bounds r = bounds_of(keys, op->a, op->b, op->seed);
        session_remove_range(s, h, &r);
        return;
    }
    case OP_MARK:
        session_mark(s, false);
        return;
    case OP_NEST:
        session_mark(s, true);
        return;
    case OP_UNDO:
        cursors_leave(s, NULL);
        session_unmark(s, false, op->seed % 3 == 0);
        return;
    case OP_KEEP:
        session_unmark(s, true, false);
        return;
    case OP_TREE_OPEN:
        session_tree_open(s, h, k, false);
        return;
    case OP_TREE_CREATE:
        session_tree_open(s, h, k, true);
        return;
    case OP_TREE_NEW:
        session_tree_new(s);
        return;
    case OP_TREE_TAKE:
        session_tree_take(s, h, k);
        return;
    case OP_TREE_OUT:
        session_tree_out(s, op->a % s->tree[0]->keys->count, op->b % s->tree[0]->keys->count, op->seed);
        return;
    case OP_TREE_PUT:
        session_tree_put(s, h, k, op->b % s->count);
        return;
    default:
        session_tree_clone(s, op->b % s->count);
        return;
    }
}

static void read_in_batch(const struct op *op)
{
    struct session *s = session_of(op, false);
    int h = handle_of(s, op);
    const struct keyset *keys = s->tree[h]->keys;
    uint32_t k = op->a % keys->count;
    struct bounds r;
    switch ((enum operation)op->kind) {
    case OP_GET:
        session_get(s, h, k);
        return;
    case OP_GET_MANY:
        session_get_many(s, h, op->seed);
        return;
    case OP_NEXT:
        session_next(s, h, k, op->b % 2);
        return;
    default:
        r = bounds_of(keys, op->a, op->b, op->seed);
        session_totals(s, h, &r);
        return;
    }
}

static void read_held(const struct op *op)
{
    struct held *held = held_of(op), *other = &run.held[op->b % HELD];
    const struct keyset *keys = held->state->keys;
    uint32_t k = op->a % keys->count;
    struct bounds r = bounds_of(keys, op->a, op->b, op->seed);
    switch ((enum operation)op->kind) {
    case OP_HOLD_TREE:
        held_open_tree(other, held, k);
        return;
    case OP_READ:
        held_get(held, k, op->seed);
        return;
    case OP_READ_MANY:
        held_get_many(held, op->seed);
        return;
    case OP_READ_TOTALS:
        held_totals(held, &r, k);
        return;
    case OP_SCAN:
        held_scan(held, &r, op->seed % 4 ? 1 + op->b % 50u : UINT32_MAX);
        return;
    case OP_READ_ALL:
        need_state(held->snapshot, held->state);
        return;
    case OP_DIFF:
        if (other->snapshot)
            held_diff(held, other, &r, k, op->seed);
        return;
    case OP_PROVE:
        held_prove_key(held, k);
        return;
    case OP_PROVE_MANY:
        held_prove_many(held, op->seed);
        return;
    case OP_PROVE_DIFF:
        if (other->snapshot)
            held_prove_diff(held, other, &r);
        return;
    case OP_PROVE_NESTED:
        held_prove_nested(held, op->seed);
        return;
    default:
        held_prove_range(held, &r, op->seed % 8 < 3);
        return;
    }
}

static void move_cursor(const struct op *op)
{
    struct mcursor *c = &run.cursor[op->slot % CURSORS];
    if (op->kind == OP_CURSOR) {
        cursor_open(c, NULL, 0, held_of(op));
    } else if (op->kind == OP_CURSOR_BATCH || !c->cursor) {
        struct session *s = session_of(op, true);
        cursor_open(c, s, handle_of(s, op), NULL);
    }
    uint32_t k = op->a % cursor_tree(c)->keys->count;
    if (op->kind == OP_CURSOR_PREFIX)
        cursor_prefix(c, k, op->seed);
    else if (op->kind == OP_CURSOR_MOVE)
        cursor_move(c, k, op->seed);
    else if (op->kind == OP_CURSOR_VALUE)
        cursor_value(c);
}

/* SIGKILL at a moment nobody chooses. */
static void arm(uint64_t seed)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct itimerspec when = {.it_value.tv_nsec = (long)(1000 + mix(seed) % (200ull << (seed % 15)))};
    timer_t timer;
    NEED(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &when, NULL) == 0, "timer");
}

static void compare_sometimes(uint32_t root)
{
    if (head_of(root) && mix(world->batches ^ world->seed) % compare_every == 0)
        need_digest(head_state(root), &head_of(root)->summary, "a commit");
}

static void work_on_store(const struct op *op)
{
    uint32_t root = root_of(op);
    uint64_t batches = world->batches;
    switch ((enum operation)op->kind) {
    case OP_FREEZE:
        line_freeze(root);
        break;
    case OP_COMMIT:
        line_commit(root, op->seed);
        break;
    case OP_ABORT:
        if (op->slot >= 6 && op->slot < 9)
            session_close(&run.transaction[op->slot - 6]);
        else if (run.open[root])
            session_close(&run.open[root]);
        else if (run.waiting_count[root])
            session_close(&run.waiting[root][--run.waiting_count[root]]);
        break;
    case OP_TRANSACTION:
        if (!run.transaction[op->a % TRANSACTIONS])
            transaction_begin(op->a % TRANSACTIONS, root, op->b % 2);
        break;
    case OP_TRANSACTION_COMMIT:
        if (run.transaction[op->a % TRANSACTIONS])
            root = run.transaction[op->a % TRANSACTIONS]->root;
        transaction_commit(op->a % TRANSACTIONS, op->seed);
        break;
    case OP_FORK:
        fork_begin(op->a % FORKS, held_of(op));
        break;
    case OP_FORK_END:
        fork_end(op->a % FORKS, op->seed);
        break;
    case OP_HOLD:
        held_open(&run.held[op->slot % HELD], root, op->seed);
        break;
    case OP_RELEASE:
        held_close(&run.held[op->slot % HELD]);
        break;
    case OP_HEADS:
        check_heads();
        break;
    case OP_DROP:
        drop_one(root, op->seed);
        break;
    case OP_DROP_BELOW:
        drop_below(root, op->seed);
        break;
    case OP_CHECKPOINT:
        checkpoint(op->seed % 2);
        break;
    case OP_MAINTAIN:
        OK(eng_maintain(run.eng));
        break;
    case OP_COMPACT:
        OK(eng_compact(run.eng, 50 + (uint32_t)(op->seed % 50)));
        break;
    case OP_RESERVE:
        OK(eng_reserve(run.eng, op->a % 100, op->b));
        break;
    case OP_AUDIT:
        audit();
        break;
    case OP_REOPEN:
        reopen(op->seed);
        break;
    default:
        arm(op->seed);
        break;
    }
    if (world->batches != batches)
        compare_sometimes(root);
}

static void run_operation(const struct op *op)
{
    switch ((enum operation)op->kind) {
    case OP_PUT:
    case OP_FILL:
    case OP_REMOVE:
    case OP_REMOVE_RANGE:
    case OP_MARK:
    case OP_NEST:
    case OP_UNDO:
    case OP_KEEP:
    case OP_TREE_OPEN:
    case OP_TREE_CREATE:
    case OP_TREE_NEW:
    case OP_TREE_TAKE:
    case OP_TREE_OUT:
    case OP_TREE_PUT:
    case OP_TREE_CLONE:
        write_in_batch(op);
        return;
    case OP_GET:
    case OP_GET_MANY:
    case OP_NEXT:
    case OP_TOTALS:
        read_in_batch(op);
        return;
    case OP_HOLD_TREE:
    case OP_READ:
    case OP_READ_MANY:
    case OP_READ_TOTALS:
    case OP_SCAN:
    case OP_READ_ALL:
    case OP_DIFF:
    case OP_PROVE:
    case OP_PROVE_RANGE:
    case OP_PROVE_MANY:
    case OP_PROVE_DIFF:
    case OP_PROVE_NESTED:
        read_held(op);
        return;
    case OP_CURSOR:
    case OP_CURSOR_BATCH:
    case OP_CURSOR_PREFIX:
    case OP_CURSOR_MOVE:
    case OP_CURSOR_VALUE:
        move_cursor(op);
        return;
    case OP_FREEZE:
    case OP_COMMIT:
    case OP_ABORT:
    case OP_TRANSACTION:
    case OP_TRANSACTION_COMMIT:
    case OP_FORK:
    case OP_FORK_END:
    case OP_HOLD:
    case OP_RELEASE:
    case OP_HEADS:
    case OP_DROP:
    case OP_DROP_BELOW:
    case OP_CHECKPOINT:
    case OP_MAINTAIN:
    case OP_COMPACT:
    case OP_RESERVE:
    case OP_AUDIT:
    case OP_REOPEN:
    case OP_KILL:
        work_on_store(op);
        return;
    case OPERATION_COUNT:
        break;
    }
    failed("no such operation");
}

/* Every root as it should be, read whole. */
static void check_all(bool digests)
{
    check_heads();
    for (uint32_t root = 0; root < ROOTS; root++) {
        struct eng_snapshot *snapshot;
        OK(eng_snapshot_open(run.eng, root, ENG_HEAD, &snapshot));
        need_state(snapshot, head_state(root));
        if (digests && head_of(root))
            need_digest(head_state(root), eng_snapshot_summary(snapshot), "a newest version");
        eng_snapshot_close(&snapshot);
    }
}

/* In a process of its own; after a kill the next one goes on. */
static void run_history(const struct op *ops, uint32_t count)
{
    copy_done(); /* the first is number 1; what was being copied at a kill is forgotten */
    if (!parameters.on_files)
        OK(disk_sim_open(0, &sim));
    if (!world->keys[1]) {
        make_keys(parameters.key_style, parameters.keys);
        image_take(&world->durable); /* a store nobody checkpointed is empty */
    }
    store_start(world->resumed && world->next_op % 8 == 0  ? ENG_RECOVER_REBUILD
                : world->resumed && world->next_op % 8 < 3 ? ENG_RECOVER_VERIFY
                                                           : ENG_RECOVER_AUTO);
    if (world->resumed)
        check_all(world->next_op % 4 == 0);
    while (world->next_op < count) {
        uint32_t i = world->next_op++; /* one that is killed is over */
        world->statistics.ops++;
        run_operation(&ops[i]);
    }
    audit();
    reopen(world->seed);
    check_all(compare_every == 1 || mix(world->seed) % 8 == 0);
    audit();
    eng_close(&run.eng);
    check_offline();
    disk_close(&sim);
}

#endif
