/*
 * The oracle of prog_model.c: what a store must hold, as plain sorted arrays.
 *
 * All keys of a history are known beforehand and sorted; a state (struct mtree) is an array with a place for each of
 * them: absent, bytes, an amount, or a subtree with an array of its own. The content of a value is not kept but made
 * from its seed whenever it is compared. A state that was committed is never changed again.
 *
 * Everything lives in one shared mapping that nobody gives back: a history runs in a process of its own, whose end
 * takes the mapping's pages. The mapping is shared so that it outlives a process that is killed: the next one goes on
 * from what the oracle knew at that moment. Therefore what is acknowledged is written first and counted afterwards
 * (struct line_of_versions), and what is on its way is announced before it begins (struct in_flight).
 *
 * Nothing here calls the engine.
 */
#ifndef TESTS_MODEL_WORLD_H
#define TESTS_MODEL_WORLD_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "digest_oracle.h"
#include "pando/engine.h"

#define WORLD_BYTES (3ull << 30) /* of address space */
#define ROOTS 3u
#define KEYS_TOP_MAX 1500u
#define KEYS_INNER 24u
#define VERSIONS_MAX 8192u
#define VALUE_BYTES_MAX (1u << 20)
#define LIED_ABOUT 7u /* the key of the planted fault */

_Static_assert(sizeof(struct oracle_summary) == sizeof(struct eng_summary), "the same 64 bytes");

enum place_kind { PLACE_ABSENT, PLACE_BYTES, PLACE_AMOUNT, PLACE_TREE };

struct mtree;
struct place {
    union {
        uint64_t seed; /* of the value's content */
        struct mtree *tree;
    };
    uint32_t size;
    uint8_t kind;
    uint8_t touched; /* top level of a batch: written since it was opened */
};

struct mkey {
    uint8_t *bytes;
    size_t size;
};

struct keyset {
    uint32_t count;
    struct mkey key[KEYS_TOP_MAX];
};

struct mtree {
    const struct keyset *keys;
    struct mtree *moved_to; /* while several trees are copied: */
    uint64_t moved_in;      /* the copying, see tree_copy */
    int32_t origin;         /* in a batch: the top-level key under which it was committed; -1: none */
    bool dirty;             /* in a batch: written */
    struct place at[];
};

struct mversion {
    uint64_t tag;
    struct mtree *state;
    struct eng_summary summary;
    bool kept;
    bool buried; /* dropped before a checkpoint that is durable: may not come back */
};

struct line_of_versions {
    _Atomic uint32_t count;
    bool cloned; /* it may have had clones: a rebuild keeps the newest version alone */
    struct mversion version[VERSIONS_MAX];
    uint64_t written[KEYS_TOP_MAX]; /* tag of the last commit that wrote the key */
};

/* What a checkpoint made the base of the next start. */
struct image {
    bool valid;
    uint32_t count[ROOTS];
    uint8_t kept[ROOTS][VERSIONS_MAX];
    uint64_t app_state;
};

struct in_flight {
    bool valid;
    uint32_t root;
    uint64_t tag;
    struct mtree *state;
    const uint8_t *touched;
};

struct statistics {
    uint64_t ops, commits, conflicts, could_conflict, oracles, reopened, kills, in_flight_kept, proofs, audits,
        deep_refused, histories;
};

struct world {
    _Atomic uint64_t taken; /* bytes of the mapping */
    uint64_t seed;
    bool lie;
    bool resumed;     /* after a kill */
    uint64_t copying; /* number of the one that is made, or of the next */
    uint32_t next_op, op_count;
    char failure[800];
    struct keyset *keys[2]; /* of roots; of subtrees */
    struct line_of_versions line[ROOTS];
    struct in_flight in_flight;
    struct image durable, pending[2];
    uint64_t app_state;
    uint64_t batches;
    struct statistics statistics;
};

static struct world *world;

/* ---- failing ---- */

__attribute__((noreturn, format(printf, 1, 2))) static void failed(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(world->failure, sizeof world->failure - 1, format, arguments);
    va_end(arguments);
    _exit(1);
}
#define NEED(condition, ...)                                                                                           \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            failed(__VA_ARGS__);                                                                                       \
    } while (0)
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        enum eng_status status_ = (call);                                                                              \
        if (status_ != ENG_OK)                                                                                         \
            failed("%s: %s: %s", #call, eng_status_text(status_), eng_error());                                        \
    } while (0)
static void need_status(enum eng_status status, enum eng_status wanted, const char *what)
{
    if (status != wanted)
        failed("%s: \"%s\" instead of \"%s\" (%s)", what, eng_status_text(status), eng_status_text(wanted),
               eng_error());
}

/* ---- memory and chance ---- */

static void *take(size_t bytes)
{
    uint64_t at = atomic_fetch_add_explicit(&world->taken, (bytes + 15) & ~15ull, memory_order_relaxed);
    NEED(at + bytes < WORLD_BYTES, "the oracle's memory is used up");
    return (uint8_t *)world + at; /* zeros */
}

static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

struct chance {
    uint64_t state;
};

static uint64_t roll(struct chance *chance)
{
    return mix(chance->state++);
}

static uint32_t pick(struct chance *chance, uint64_t n)
{
    return (uint32_t)(roll(chance) % n);
}

/* ---- keys ---- */

static size_t make_key(unsigned style, uint32_t i, uint8_t *key)
{
    uint64_t z = mix(i * 977u + 5u);
    switch (style % 7) {
    case 0: /* hashed */
        for (int j = 0; j < 4; j++) {
            uint64_t word = mix(z + (uint64_t)j);
            memcpy(key + 8 * j, &word, 8);
        }
        return 32;
    case 1: /* paths */
        return (size_t)sprintf((char *)key, "user/%u/%s/%u", i / 40, z % 2 ? "name" : "inbox", i % 40);
    case 2: /* each the prefix of others */
        for (uint32_t j = 0; j <= i % 30; j++)
            key[j] = (uint8_t)('a' + i / 30 % 26);
        key[i % 30] = (uint8_t)(i / 780);
        return 1 + i % 30;
    case 3: /* numbers */
        for (int j = 0; j < 4; j++)
            key[j] = (uint8_t)(i * 3 >> (24 - 8 * j));
        return 4;
    case 4: /* long ones with a long common beginning */
        memset(key, 'x', 900);
        key[900] = (uint8_t)(i >> 8);
        key[901] = (uint8_t)i;
        return 902 + z % 123;
    case 5: /* short, dense */
        key[0] = (uint8_t)i;
        key[1] = (uint8_t)(i >> 8);
        return i < 256 ? 1 : 2;
    default: { /* few letters, extremes among them */
        static const uint8_t letters[] = {0, 1, 127, 128, 254, 255};
        size_t n = 1 + z % 12;
        for (size_t j = 0; j < n; j++)
            key[j] = letters[(z >> (8 + 3 * j)) % 6];
        return n;
    }
    }
}

static int key_compare(const void *a, const void *b)
{
    const struct mkey *x = a, *y = b;
    size_t common = x->size < y->size ? x->size : y->size;
    int order = memcmp(x->bytes, y->bytes, common);
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

static void make_keys(unsigned style, uint32_t wanted)
{
    struct keyset *all = take(sizeof *all), *inner = take(sizeof *inner);
    uint8_t bytes[ENG_KEY_BYTES_MAX + 1];
    for (uint32_t i = 0; i < wanted; i++) {
        struct mkey *key = &all->key[all->count++];
        key->size = make_key(style, i, bytes);
        key->bytes = take(key->size);
        memcpy(key->bytes, bytes, key->size);
    }
    qsort(all->key, all->count, sizeof all->key[0], key_compare);
    uint32_t unique = 0;
    for (uint32_t i = 0; i < all->count; i++)
        if (unique == 0 || key_compare(&all->key[i], &all->key[unique - 1]) != 0)
            all->key[unique++] = all->key[i];
    all->count = unique;
    inner->count = unique < KEYS_INNER ? unique : KEYS_INNER;
    for (uint32_t i = 0; i < inner->count; i++)
        inner->key[i] = all->key[i * unique / inner->count];
    world->keys[0] = all;
    world->keys[1] = inner;
}

/* Index of the first key that is not below; count: all are. */
static uint32_t key_index(const struct keyset *keys, const uint8_t *bytes, size_t size)
{
    uint32_t low = 0, high = keys->count;
    struct mkey key = {(uint8_t *)(uintptr_t)bytes, size};
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (key_compare(&keys->key[middle], &key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool key_is(const struct mkey *key, const uint8_t *bytes, size_t size)
{
    return key->size == size && memcmp(key->bytes, bytes, size) == 0;
}

/* ---- values ---- */

static void amount_of(uint64_t seed, uint64_t words[2])
{
    uint64_t z = mix(seed);
    switch (z % 8) {
    case 0:
        words[0] = 0;
        words[1] = 1ull << 63; /* the smallest there is */
        break;
    case 1:
        words[0] = UINT64_MAX;
        words[1] = UINT64_MAX >> 1; /* the largest */
        break;
    case 2:
        words[0] = words[1] = UINT64_MAX; /* -1 */
        break;
    case 3:
    case 4:
        words[0] = z >> 8;
        words[1] = 0;
        break;
    default:
        words[0] = mix(z);
        words[1] = mix(z + 1);
        break;
    }
}

/* Content of a value, in pieces of 8 bytes: piece i. */
static uint64_t value_word(const struct place *p, uint64_t i)
{
    if (p->kind == PLACE_AMOUNT) {
        uint64_t words[2];
        amount_of(p->seed, words);
        return words[i];
    }
    return (p->seed ^ i * 0x9E3779B97F4A7C15ull) * 0xD1342543DE82EF95ull + i;
}

static void value_fill(const struct place *p, uint8_t *bytes)
{
    for (uint32_t at = 0; at < p->size; at += 8) {
        uint64_t word = value_word(p, at / 8);
        memcpy(bytes + at, &word, p->size - at < 8 ? p->size - at : 8);
    }
}

/* Are these bytes the part [offset, offset + size) of the value? */
static bool value_part_is(const struct place *p, const uint8_t *bytes, size_t size, uint64_t offset)
{
    for (size_t i = 0; i < size;) {
        uint64_t at = offset + i, word = value_word(p, at / 8);
        size_t skip = at % 8, n = 8 - skip < size - i ? 8 - skip : size - i;
        if (memcmp((uint8_t *)&word + skip, bytes + i, n) != 0)
            return false;
        i += n;
    }
    return true;
}

static bool same_content(const struct mtree *a, const struct mtree *b);

static bool same_place(const struct place *a, const struct place *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == PLACE_ABSENT)
        return true;
    if (a->kind == PLACE_TREE)
        return same_content(a->tree, b->tree);
    if (a->size != b->size)
        return false;
    for (uint32_t at = 0; a->seed != b->seed && at < a->size; at += 8) {
        uint64_t x = value_word(a, at / 8), y = value_word(b, at / 8);
        if (memcmp(&x, &y, a->size - at < 8 ? a->size - at : 8) != 0)
            return false;
    }
    return true;
}

static bool same_content(const struct mtree *a, const struct mtree *b)
{
    for (uint32_t i = 0; a != b && i < a->keys->count; i++)
        if (!same_place(&a->at[i], &b->at[i]))
            return false;
    return true;
}

static enum eng_tag place_tag(const struct place *p)
{
    return p->kind == PLACE_TREE ? ENG_TREE : p->kind == PLACE_AMOUNT ? ENG_AMOUNT : ENG_BYTES;
}

/* ---- states ---- */

static struct mtree *tree_new(const struct keyset *keys)
{
    struct mtree *tree = take(sizeof *tree + keys->count * sizeof(struct place));
    tree->keys = keys;
    tree->origin = -1;
    return tree;
}

static struct mtree *tree_shallow(const struct mtree *tree)
{
    struct mtree *copy = tree_new(tree->keys);
    memcpy(copy->at, tree->at, tree->keys->count * sizeof(struct place));
    return copy;
}

/* A copy with copies of all below; each tree once, until copy_done. What a process that was killed had begun to copy is
 * of an older number, and counts for nothing. */
static struct mtree *tree_copy(struct mtree *tree)
{
    if (tree->moved_in == world->copying)
        return tree->moved_to;
    struct mtree *copy = tree_shallow(tree);
    copy->origin = tree->origin;
    copy->dirty = tree->dirty;
    tree->moved_to = copy;
    tree->moved_in = world->copying;
    for (uint32_t i = 0; i < copy->keys->count; i++)
        if (copy->at[i].kind == PLACE_TREE)
            copy->at[i].tree = tree_copy(copy->at[i].tree);
    return copy;
}

static void copy_done(void)
{
    world->copying++;
}

static uint32_t tree_count(const struct mtree *tree)
{
    uint32_t count = 1;
    for (uint32_t i = 0; i < tree->keys->count; i++)
        if (tree->at[i].kind == PLACE_TREE)
            count += tree_count(tree->at[i].tree);
    return count;
}

static uint32_t tree_height(const struct mtree *tree)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < tree->keys->count; i++)
        if (tree->at[i].kind == PLACE_TREE) {
            uint32_t h = tree_height(tree->at[i].tree);
            most = h > most ? h : most;
        }
    return most + 1;
}

static bool tree_has(const struct mtree *tree, const struct mtree *wanted)
{
    if (tree == wanted)
        return true;
    for (uint32_t i = 0; i < tree->keys->count; i++)
        if (tree->at[i].kind == PLACE_TREE && tree_has(tree->at[i].tree, wanted))
            return true;
    return false;
}

static void tree_mark_origin(struct mtree *tree, int32_t origin)
{
    tree->origin = origin;
    tree->dirty = false;
    for (uint32_t i = 0; i < tree->keys->count; i++)
        if (tree->at[i].kind == PLACE_TREE)
            tree_mark_origin(tree->at[i].tree, origin);
}

/* Count and sum of [from, to). */
static void tree_totals_of(const struct mtree *tree, uint32_t from, uint32_t to, struct eng_totals *totals)
{
    *totals = (struct eng_totals){0};
    for (uint32_t i = from; i < to; i++) {
        const struct place *p = &tree->at[i];
        totals->count += p->kind != PLACE_ABSENT;
        if (p->kind != PLACE_AMOUNT)
            continue;
        uint64_t sum[3];
        amount_of(p->seed, sum);
        sum[2] = (uint64_t)((int64_t)sum[1] >> 63);
        digest_sum_add(totals->sum, totals->sum, sum);
    }
}

/* The flat oracle's summary: every digest made anew. */
static void tree_summary_of(const struct mtree *tree, struct eng_summary *out)
{
    uint32_t n = 0, count = tree->keys->count;
    struct oracle_entry *entries = calloc(count + 1, sizeof *entries);
    uint8_t **values = calloc(count + 1, sizeof *values);
    NEED(entries && values, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        const struct place *p = &tree->at[i];
        if (p->kind == PLACE_ABSENT)
            continue;
        size_t size = p->kind == PLACE_TREE ? sizeof(struct eng_summary) : p->size;
        values[n] = malloc(size + 1);
        NEED(values[n], "out of memory");
        if (p->kind == PLACE_TREE) {
            struct eng_summary inner;
            tree_summary_of(p->tree, &inner);
            memcpy(values[n], &inner, sizeof inner);
        } else {
            value_fill(p, values[n]);
        }
        entries[n] = (struct oracle_entry){tree->keys->key[i].bytes, tree->keys->key[i].size, (uint8_t)place_tag(p),
                                           values[n], size};
        n++;
    }
    struct oracle_summary summary;
    oracle_summary(entries, n, &summary);
    memcpy(out, &summary, sizeof *out);
    while (n)
        free(values[--n]);
    free(values);
    free(entries);
}

/* ---- versions ---- */

static uint32_t version_count(uint32_t root)
{
    return atomic_load_explicit(&world->line[root].count, memory_order_relaxed);
}

static struct mversion *head_of(uint32_t root)
{
    uint32_t count = version_count(root);
    return count ? &world->line[root].version[count - 1] : NULL;
}

static struct mtree *head_state(uint32_t root)
{
    static struct mtree *empty;
    if (!empty || empty->keys != world->keys[0])
        empty = tree_new(world->keys[0]);
    struct mversion *head = head_of(root);
    return head ? head->state : empty;
}

/* What a batch wrote on top of a state. */
static struct mtree *state_with(const struct mtree *below, const struct mtree *written)
{
    struct mtree *state = tree_shallow(below);
    for (uint32_t i = 0; i < state->keys->count; i++)
        if (written->at[i].touched) {
            state->at[i] = written->at[i];
            state->at[i].touched = 0;
            if (world->lie && i == LIED_ABOUT % state->keys->count && state->at[i].kind == PLACE_BYTES)
                state->at[i].seed ^= 2; /* the planted fault */
        }
    return state;
}

/* It is acknowledged. */
static void version_add(uint32_t root, uint64_t tag, struct mtree *state, const struct eng_summary *summary)
{
    struct line_of_versions *line = &world->line[root];
    uint32_t count = version_count(root);
    NEED(count < VERSIONS_MAX, "the oracle has no room for another version");
    line->version[count] = (struct mversion){.tag = tag, .state = state, .summary = *summary, .kept = true};
    /* release: a process that is killed behind it leaves a version that is whole; read by the next one */
    atomic_store_explicit(&line->count, count + 1, memory_order_release);
}

#endif
