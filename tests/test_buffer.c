/*
 * The write buffer against a sorted array: random puts, removes, finds, seeks both ways, nested marks and rollbacks,
 * over keys that are prefixes of each other, long common paths, binary and hashed keys; then the freeze. The model
 * copies its whole state at each mark, so it shares no idea with the undo journal.
 *
 * bump.c and buffer.c are compiled in here with allocation calls that can be made to fail, so that the n-th failure,
 * for every n, is seen to leave the buffer as it was.
 */
#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pando/limits.h"

static long allocations_left = -1; /* -1: all succeed */

static bool allocation_fails(void)
{
    return allocations_left >= 0 && allocations_left-- == 0;
}

static void *try_malloc(size_t bytes)
{
    return allocation_fails() ? NULL : malloc(bytes);
}

static void *try_calloc(size_t count, size_t bytes)
{
    return allocation_fails() ? NULL : calloc(count, bytes);
}

static void *try_realloc(void *old, size_t bytes)
{
    return allocation_fails() ? NULL : realloc(old, bytes);
}

#define malloc try_malloc
#define calloc try_calloc
#define realloc try_realloc
#include "bump.c"
#include "buffer.c"
#undef malloc
#undef calloc
#undef realloc

static uint64_t random_state;

static uint64_t random_next(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint32_t random_below(uint32_t n)
{
    return (uint32_t)(random_next() % n);
}

/* ---- the model: all keys that can occur, sorted; what each holds ---- */

#define MODEL_KEYS_MAX 3000
#define MODEL_MARKS_MAX 8

struct model_key {
    uint8_t bytes[ENG_KEY_BYTES_MAX];
    uint16_t count;
};
struct model_state {
    uint8_t kind, tag;
    uint32_t seed, value_bytes; /* the value is made from the seed */
};

static struct model_key keys[MODEL_KEYS_MAX];
static size_t keys_count;
static struct model_state now[MODEL_KEYS_MAX];
static struct model_state saved[MODEL_MARKS_MAX][MODEL_KEYS_MAX];
static buffer_mark marks[MODEL_MARKS_MAX];
static size_t marks_count;

static int key_order(const void *a, const void *b)
{
    const struct model_key *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->count < y->count ? x->count : y->count);
    return order ? order : (int)x->count - (int)y->count;
}

static void value_make(uint8_t *out, const struct model_state *state)
{
    for (uint32_t i = 0; i < state->value_bytes; i++)
        out[i] = (uint8_t)((state->seed + i) * 2654435761u >> 24);
}

enum key_form { KEY_HASHED, KEY_BINARY_SHORT, KEY_CHAIN, KEY_PATH, KEY_LONG };

static void key_make(struct model_key *key, enum key_form form)
{
    memset(key->bytes, 0, sizeof key->bytes);
    switch (form) {
    case KEY_HASHED:
        key->count = 32;
        for (int i = 0; i < 32; i++)
            key->bytes[i] = (uint8_t)random_next();
        return;
    case KEY_BINARY_SHORT: /* one to five bytes of few values: many are prefixes of others, 0x00 and 0xff among them */
        key->count = (uint16_t)(1 + random_below(5));
        for (int i = 0; i < key->count; i++)
            key->bytes[i] = (uint8_t[]){0, 1, 127, 128, 255}[random_below(5)];
        return;
    case KEY_CHAIN: /* a, aa, aaa ... a thousand deep */
        key->count = (uint16_t)(1 + random_below(ENG_KEY_BYTES_MAX));
        memset(key->bytes, 'a', key->count);
        return;
    case KEY_PATH:
        key->count = (uint16_t)snprintf((char *)key->bytes, sizeof key->bytes, "src/part%u/file%u/%u", random_below(9),
                                        random_below(60), random_below(30));
        if (random_below(4) == 0)
            key->count = (uint16_t)(1 + random_below(key->count));
        memset(key->bytes + key->count, 0, sizeof key->bytes - key->count);
        return;
    case KEY_LONG: /* parts late, or ends early */
        key->count = (uint16_t)(900 + random_below(125));
        memset(key->bytes, 7, key->count);
        key->bytes[random_below(key->count)] = (uint8_t)random_next();
        return;
    }
}

static void keys_make(enum key_form form, size_t count)
{
    for (size_t i = 0; i < count; i++)
        key_make(&keys[i], form);
    qsort(keys, count, sizeof keys[0], key_order);
    keys_count = 0;
    for (size_t i = 0; i < count; i++)
        if (keys_count == 0 || key_order(&keys[keys_count - 1], &keys[i]) != 0)
            keys[keys_count++] = keys[i];
    memset(now, 0, sizeof now);
    marks_count = 0;
}

static void check_entry(const struct buffer_entry *entry, size_t i)
{
    static uint8_t value[1u << 20];
    ck_assert_ptr_nonnull(entry);
    ck_assert_uint_eq(entry->key_bytes, keys[i].count);
    ck_assert_mem_eq(entry->key, keys[i].bytes, keys[i].count);
    ck_assert_uint_eq(entry->kind, now[i].kind);
    ck_assert_uint_eq(entry->hash, (uint8_t)XXH3_64bits(keys[i].bytes, keys[i].count));
    if (now[i].kind != BUFFER_PUT)
        return;
    ck_assert_uint_eq(entry->tag, now[i].tag);
    ck_assert_uint_eq(entry->value_bytes, now[i].value_bytes);
    value_make(value, &now[i]);
    if (now[i].value_bytes)
        ck_assert_mem_eq(entry->value, value, now[i].value_bytes);
}

static void check_find(const struct buffer *buffer, size_t i)
{
    const struct buffer_entry *entry = buffer_find(buffer, keys[i].bytes, keys[i].count);
    if (now[i].kind == BUFFER_NONE)
        ck_assert_ptr_null(entry);
    else
        check_entry(entry, i);
}

/* Seeks with a key of the model, or with a fresh one that mostly is not in it. */
static void check_seeks(const struct buffer *buffer, enum key_form form)
{
    struct model_key probe;
    if (random_below(2))
        probe = keys[random_below((uint32_t)keys_count)];
    else
        key_make(&probe, form);
    size_t least = 0; /* first position with key >= probe */
    while (least < keys_count && key_order(&keys[least], &probe) < 0)
        least++;
    bool there = least < keys_count && key_order(&keys[least], &probe) == 0;
    for (int after = 0; after < 2; after++) {
        size_t i = least + (after && there);
        while (i < keys_count && now[i].kind == BUFFER_NONE)
            i++;
        const struct buffer_entry *entry = buffer_seek(buffer, probe.bytes, probe.count, after);
        if (i == keys_count)
            ck_assert_ptr_null(entry);
        else
            check_entry(entry, i);
        size_t end = random_below((uint32_t)keys_count);
        entry = buffer_seek_below(buffer, probe.bytes, probe.count, after, keys[end].bytes, keys[end].count);
        if (i >= end)
            ck_assert_ptr_null(entry);
        else
            check_entry(entry, i);
    }
    for (int all = 0; all < 2; all++) {
        size_t i = all ? keys_count : least;
        while (i > 0 && now[i - 1].kind == BUFFER_NONE)
            i--;
        const struct buffer_entry *entry = buffer_seek_before(buffer, all ? NULL : probe.bytes, all ? 0 : probe.count);
        if (i == 0)
            ck_assert_ptr_null(entry);
        else
            check_entry(entry, i - 1);
    }
}

static size_t model_live(void)
{
    size_t live = 0;
    for (size_t i = 0; i < keys_count; i++)
        live += now[i].kind != BUFFER_NONE;
    return live;
}

static void random_write(struct buffer *buffer)
{
    static uint8_t value[1u << 20];
    size_t i = random_below((uint32_t)keys_count);
    if (random_below(4) == 0) {
        now[i] = (struct model_state){.kind = BUFFER_REMOVE};
        ck_assert_int_eq(buffer_remove(buffer, keys[i].bytes, keys[i].count), ENG_OK);
        return;
    }
    uint32_t bytes = random_below(50);
    if (random_below(500) == 0)
        bytes = random_below(sizeof value);
    now[i] = (struct model_state){.kind = BUFFER_PUT, .seed = (uint32_t)random_next(), .value_bytes = bytes};
    if (random_below(8) == 0) {
        now[i].tag = ENG_AMOUNT;
        now[i].value_bytes = 16;
    }
    value_make(value, &now[i]);
    ck_assert_int_eq(
        buffer_put(buffer, keys[i].bytes, keys[i].count, (enum eng_tag)now[i].tag, value, now[i].value_bytes), ENG_OK);
}

static void random_mark(struct buffer *buffer)
{
    if (marks_count < MODEL_MARKS_MAX && random_below(2)) {
        memcpy(saved[marks_count], now, sizeof now);
        marks[marks_count++] = buffer_get_mark(buffer);
    } else if (marks_count > 0) {
        size_t to = random_below((uint32_t)marks_count); /* marks above it become void, it stays valid */
        buffer_rollback(buffer, marks[to]);
        memcpy(now, saved[to], sizeof now);
        marks_count = random_below(2) ? to : to + 1;
    }
}

static void check_freeze(struct buffer *buffer)
{
    const struct buffer_entry *entries = NULL;
    size_t count = 0;
    ck_assert_int_eq(buffer_freeze(buffer, &entries, &count), ENG_OK);
    ck_assert_uint_eq(count, model_live());
    for (size_t i = 0; i < keys_count; i++) {
        check_find(buffer, i);
        if (now[i].kind != BUFFER_NONE)
            check_entry(entries++, i);
    }
}

static void run_model(enum key_form form, size_t count, int operations)
{
    struct buffer *buffer = NULL;
    ck_assert_int_eq(buffer_open(&buffer), ENG_OK);
    for (int round = 0; round < 3; round++) { /* the second and third reuse memory after a reset */
        keys_make(form, count);
        for (int n = 0; n < operations; n++) {
            uint32_t what = random_below(100);
            if (what < 60)
                random_write(buffer);
            else if (what < 80)
                check_find(buffer, random_below((uint32_t)keys_count));
            else if (what < 98)
                check_seeks(buffer, form);
            else
                random_mark(buffer);
            if (n % 64 == 0)
                ck_assert_uint_eq(buffer_count(buffer), model_live());
        }
        check_freeze(buffer);
        for (int n = 0; n < 200; n++)
            check_seeks(buffer, form);
        buffer_reset(buffer);
        ck_assert_uint_eq(buffer_count(buffer), 0);
        ck_assert_uint_eq(buffer_memory(buffer), 0);
        ck_assert_ptr_null(buffer_seek(buffer, keys[0].bytes, keys[0].count, false));
        ck_assert_ptr_null(buffer_seek_before(buffer, NULL, 0));
    }
    buffer_close(&buffer);
    ck_assert_ptr_null(buffer);
}

static const struct {
    enum key_form form;
    size_t keys;
    int operations;
} runs[] = {
    {KEY_HASHED, 20, 2000}, {KEY_HASHED, 3000, 12000}, {KEY_BINARY_SHORT, 2000, 12000}, {KEY_BINARY_SHORT, 40, 4000},
    {KEY_CHAIN, 900, 5000}, {KEY_PATH, 2500, 10000},   {KEY_LONG, 500, 5000},
};

/* The thread sanitizer is for `readers`: what one thread does alone is tried less there, where it costs ten times as
 * much. */
#ifdef __SANITIZE_THREAD__
#define MODEL_PART 8
#else
#define MODEL_PART 1
#endif

START_TEST(model)
{
    random_state = 1000 + (uint64_t)_i;
    run_model(runs[_i].form, runs[_i].keys / MODEL_PART, runs[_i].operations / MODEL_PART);
}
END_TEST

START_TEST(empty)
{
    struct buffer *buffer = NULL;
    const struct buffer_entry *entries;
    size_t count = 1;
    ck_assert_int_eq(buffer_open(&buffer), ENG_OK);
    ck_assert_ptr_null(buffer_find(buffer, (const uint8_t *)"k", 1));
    ck_assert_ptr_null(buffer_seek(buffer, (const uint8_t *)"k", 1, false));
    ck_assert_ptr_null(buffer_seek_before(buffer, (const uint8_t *)"k", 1));
    buffer_rollback(buffer, buffer_get_mark(buffer));
    ck_assert_int_eq(buffer_freeze(buffer, &entries, &count), ENG_OK);
    ck_assert_uint_eq(count, 0);
    buffer_close(&buffer);
    buffer_close(&buffer);
}
END_TEST

/* Every width of node, in both directions of growth: one byte keys arrive in a permuted order, then longer ones below.
 */
START_TEST(widths)
{
    struct buffer *buffer = NULL;
    ck_assert_int_eq(buffer_open(&buffer), ENG_OK);
    for (unsigned n = 0; n < 256; n++) {
        uint8_t key[2] = {(uint8_t)(n * 167 + 13), (uint8_t)n};
        ck_assert_int_eq(buffer_put(buffer, key, 1 + n % 2, ENG_BYTES, key, 2), ENG_OK);
        ck_assert_uint_eq(buffer_count(buffer), n + 1);
        for (unsigned m = 0; m < 256; m++) {
            uint8_t probe[2] = {(uint8_t)(m * 167 + 13), (uint8_t)m};
            const struct buffer_entry *entry = buffer_find(buffer, probe, 1 + m % 2);
            ck_assert_int_eq(entry != NULL, m <= n);
            if (entry)
                ck_assert_uint_eq(entry->value[1], m);
            ck_assert_ptr_null(buffer_find(buffer, probe, 2 - m % 2));
        }
    }
    buffer_close(&buffer);
}
END_TEST

START_TEST(large_values)
{
    struct buffer *buffer = NULL;
    size_t bytes = ENG_VALUE_BYTES_MAX;
    uint8_t *value = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        value[i] = (uint8_t)(i * 31 >> 3);
    ck_assert_int_eq(buffer_open(&buffer), ENG_OK);
    ck_assert_int_eq(buffer_put(buffer, (const uint8_t *)"big", 3, ENG_BYTES, value, bytes), ENG_OK);
    buffer_mark mark = buffer_get_mark(buffer);
    ck_assert_int_eq(buffer_put(buffer, (const uint8_t *)"big", 3, ENG_BYTES, value + 1, 5000), ENG_OK);
    ck_assert_int_eq(buffer_put(buffer, (const uint8_t *)"bigger", 6, ENG_BYTES, NULL, 0), ENG_OK);
    ck_assert_mem_eq(buffer_find(buffer, (const uint8_t *)"big", 3)->value, value + 1, 5000);
    ck_assert_uint_ge(buffer_memory(buffer), bytes + 5000);
    buffer_rollback(buffer, mark);
    const struct buffer_entry *entry = buffer_find(buffer, (const uint8_t *)"big", 3);
    ck_assert_uint_eq(entry->value_bytes, bytes);
    ck_assert_mem_eq(entry->value, value, bytes);
    ck_assert_ptr_null(buffer_find(buffer, (const uint8_t *)"bigger", 6));
    free(value);
    buffer_close(&buffer);
}
END_TEST

/* A failing allocation, whichever it is, is reported, changes nothing, and the call works when tried again. */
START_TEST(no_memory)
{
    struct buffer *buffer = NULL;
    random_state = 77;
    keys_make(KEY_PATH, 2500);
    for (int n = 0; n < 2; n++) {
        allocations_left = n;
        ck_assert_int_eq(buffer_open(&buffer), ENG_NO_MEMORY);
        ck_assert_ptr_null(buffer);
    }
    allocations_left = 2;
    ck_assert_int_eq(buffer_open(&buffer), ENG_OK);
    allocations_left = -1;
    static uint8_t value[6000];
    int failed = 0;
    for (int n = 0; n < 20000; n++) {
        size_t i = random_below((uint32_t)keys_count);
        struct model_state next = {.kind = n % 5 == 0 ? BUFFER_REMOVE : BUFFER_PUT, .seed = (uint32_t)n};
        if (next.kind == BUFFER_PUT)
            next.value_bytes = n % 100 == 1 ? sizeof value : 40;
        value_make(value, &next);
        for (int more = 0;; more = 1) {
            allocations_left = more ? -1 : 0;
            size_t count = buffer_count(buffer);
            enum eng_status status = next.kind == BUFFER_REMOVE ? buffer_remove(buffer, keys[i].bytes, keys[i].count)
                                                                : buffer_put(buffer, keys[i].bytes, keys[i].count,
                                                                             ENG_BYTES, value, next.value_bytes);
            if (status == ENG_OK)
                break;
            ck_assert_int_eq(status, ENG_NO_MEMORY);
            ck_assert_int_eq(more, 0);
            ck_assert_uint_eq(buffer_count(buffer), count);
            check_find(buffer, i);
            failed++;
        }
        allocations_left = -1;
        now[i] = next;
    }
    ck_assert_int_ge(failed, 10);
    const struct buffer_entry *entries;
    size_t count;
    allocations_left = 0;
    ck_assert_int_eq(buffer_freeze(buffer, &entries, &count), ENG_NO_MEMORY);
    allocations_left = -1;
    check_freeze(buffer);
    buffer_close(&buffer);
}
END_TEST

/* A frozen buffer is read by many threads. */
static void *read_all(void *argument)
{
    const struct buffer *buffer = argument;
    for (size_t i = 0; i < keys_count; i++)
        check_find(buffer, i);
    return NULL;
}

START_TEST(readers)
{
    struct buffer *buffer = NULL;
    random_state = 5;
    keys_make(KEY_HASHED, 2000);
    ck_assert_int_eq(buffer_open(&buffer), ENG_OK);
    for (int n = 0; n < 3000; n++)
        random_write(buffer);
    for (size_t i = 0; i < keys_count; i++) /* small values only: the readers share the model's scratch */
        now[i].value_bytes = now[i].kind == BUFFER_PUT ? 0 : now[i].value_bytes;
    for (size_t i = 0; i < keys_count; i++)
        if (now[i].kind == BUFFER_PUT)
            ck_assert_int_eq(buffer_put(buffer, keys[i].bytes, keys[i].count, (enum eng_tag)now[i].tag, NULL, 0),
                             ENG_OK);
    check_freeze(buffer);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_all, buffer), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    buffer_close(&buffer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("buffer");
    TCase *tests = tcase_create("buffer");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, model, 0, (int)(sizeof runs / sizeof runs[0]));
    tcase_add_test(tests, empty);
    tcase_add_test(tests, widths);
    tcase_add_test(tests, large_values);
    tcase_add_test(tests, no_memory);
    tcase_add_test(tests, readers);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
