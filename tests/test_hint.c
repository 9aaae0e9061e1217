/* Hints (hint.c): they are learnt for keys of any kind, follow what the merge writes, and never change what is read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"
#include "hint.h"
#include "need.h"
#include "store_internal.h"
#include "tree.h"

#define KEYS 100000u
#define KEY_MAX 40u

_Static_assert(KEYS > HINT_ENTRIES_MIN, "smaller trees have no hints");

static struct disk *disk;
static struct eng *eng;
static uint64_t tag;

/* splitmix64's finisher: a bijection */
static uint64_t mixed(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

enum style { HASHED, NUMBERED, NAMED, SHORT, STYLES };

static size_t key_of(enum style style, uint32_t n, uint8_t key[KEY_MAX])
{
    uint64_t hash = __builtin_bswap64(mixed(n + 1));
    switch (style) {
    case HASHED: /* all bits count from the first on */
        memset(key, 0, 32);
        memcpy(key, &hash, 8);
        return 32;
    case NUMBERED: /* digits behind a long common part */
        return (size_t)snprintf((char *)key, KEY_MAX, "account/%08u", n);
    case NAMED: /* two kinds of keys, in one of which the bits that count come late */
        if (n % 2)
            return (size_t)snprintf((char *)key, KEY_MAX, "b/%016llx", (unsigned long long)mixed(n));
        return (size_t)snprintf((char *)key, KEY_MAX, "a/balances/%08u", n);
    default: /* shorter than what is looked at: every key of up to two bytes, then of three */
        key[0] = (uint8_t)(n % 256);
        key[1] = (uint8_t)(n / 256);
        key[2] = (uint8_t)(n / 65536 - 1);
        return n < 256 ? 1 : n < 65536 ? 2 : 3;
    }
}

static void write_keys(enum style style, uint32_t from, uint32_t step, uint64_t value)
{
    for (uint32_t n = from; n < KEYS;) {
        struct eng_batch *batch = NULL;
        OK(eng_batch_open(eng, 0, NULL, &batch));
        for (unsigned i = 0; i < 1000 && n < KEYS; i++, n += step) {
            uint8_t key[KEY_MAX];
            size_t bytes = key_of(style, n, key);
            uint64_t words[5] = {value + n};
            OK(eng_batch_put(batch, key, bytes,
                             (struct eng_value){.tag = ENG_BYTES, .bytes = (void *)words, .size = 40}));
        }
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, ++tag, NULL));
        eng_batch_close(&batch);
        OK(eng_drop_below(eng, 0, tag));
    }
}

static void open_style(enum style style)
{
    struct eng_options options = {.create = true, .segment_bytes = 1u << 20, .inline_only = true};
    OK(disk_sim_open(0, &disk));
    options.disk = disk;
    tag = 0;
    OK(eng_open(&options, &eng));
    write_keys(style, 0, 1, 0);
}

static void close_store(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static void take(void *context, const struct eng_value *value)
{
    memcpy(context, value->bytes, 8);
}

/* Reads keys at random; the value of n must be n + of[n % 2]. Returns how many a hint told of in how many reads. */
static double read_keys(enum style style, uint32_t reads, const uint64_t of[2], uint64_t seed)
{
    struct hints *hints = store_view(eng->store)->hints;
    struct eng_snapshot *snapshot = NULL;
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
    const struct inner *root = (const struct inner *)store_node(eng->store, snapshot->version.root);
    uint32_t told = 0;
    for (uint32_t i = 0; i < reads; i++) {
        uint32_t n = (uint32_t)(mixed(seed + i) % KEYS);
        uint8_t key[KEY_MAX];
        size_t bytes = key_of(style, n, key);
        struct hint before = hint_find(hints, key, bytes, inner_child_depth(root));
        uint64_t value = 0;
        OK(eng_get(snapshot, key, bytes, take, &value));
        NEED(value == n + of[n % 2]);
        struct hint after = hint_find(hints, key, bytes, inner_child_depth(root));
        told += before.place && before.place == after.seen;
        NEED(before.slot != after.slot || !after.slot || after.seen); /* what was read was learnt */
        key[bytes] = 1;                                               /* absent, but where the keys are short */
        enum eng_status longer = eng_get(snapshot, key, bytes + 1, take, &value);
        NEED(longer == ENG_NOT_FOUND || (style == SHORT && longer == ENG_OK));
    }
    eng_snapshot_close(&snapshot);
    return (double)told / reads;
}

static const uint64_t unchanged[2] = {0, 0};

START_TEST(learnt)
{
    enum style style = (enum style)_i;
    open_style(style);
    read_keys(style, 400000, unchanged, 1);
    double told = read_keys(style, 100000, unchanged, 77777777);
    if (style != SHORT) /* many of its leaves have more than one place */
        ck_assert_msg(told > 0.75, "of 100,000 reads %.3f were told the right place", told);
    close_store();
}
END_TEST

/* The merge says where it puts a leaf: nobody has to read it to learn. But a leaf may have several places in the table,
 * and it tells only those of the keys it wrote; with none told, one in twenty would be right. */
START_TEST(follows_the_merge)
{
    open_style(HASHED);
    read_keys(HASHED, 400000, unchanged, 1);
    for (unsigned round = 1; round <= 5; round++) {
        write_keys(HASHED, 0, 2, round * 1000000ull);
        const uint64_t now[2] = {round * 1000000ull, 0};
        double told = read_keys(HASHED, 2000, now, round * 999);
        ck_assert_msg(told > 0.5, "after an update of every leaf %.3f were told the right place", told);
    }
    close_store();
}
END_TEST

/* Any bits, any number of bytes before them, trusted. */
static void set_way(_Atomic uint64_t *at, uint64_t noise)
{
    struct way way = {.bits = (uint8_t)(1 + noise % HINT_BITS_MAX), .right = WAY_RIGHT_MAX};
    way.skip = noise >> 16 & 1 ? 0 : (uint8_t)(noise >> 8);
    uint64_t word;
    memcpy(&word, &way, sizeof word);
    atomic_store(at, word);
}

/* Whatever the table says, right or wrong, within the state or far outside of it. */
START_TEST(never_believed)
{
    open_style(HASHED);
    read_keys(HASHED, 400000, unchanged, 1);
    struct hints *hints = store_view(eng->store)->hints;
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < 1u << atomic_load(&hints->log2); i++) {
            uint64_t noise = mixed(i + round * 10000019ull);
            atomic_store(&hints->place[i], round == 0 ? UINT32_MAX : round == 1 ? (uint32_t)noise : noise % 65536);
        }
        for (unsigned i = 0; i < 256; i++)
            set_way(&hints->way[i], mixed(i + round));
        read_keys(HASHED, 100000, unchanged, round);
    }
    close_store();
}
END_TEST

static struct way way_of(uint64_t word)
{
    struct way way;
    memcpy(&way, &word, sizeof way);
    return way;
}

START_TEST(votes)
{
    _Atomic uint64_t word = 0;
    _Atomic uint32_t slot = 0;
    struct hint hint = {.way = &word, .slot = &slot};
    hint_vote(&hint, 3, 18, false);
    ck_assert_uint_eq(way_of(word).bits, 18);
    ck_assert_uint_eq(way_of(word).skip, 3);
    for (unsigned i = 0; i < 10000; i++) /* one in eight needs more: not enough */
        hint_vote(&hint, 3, i % 8 ? 18 : 19, true);
    ck_assert_uint_eq(way_of(word).bits, 18);
    ck_assert_uint_eq(way_of(word).right, WAY_RIGHT_MAX);
    for (unsigned i = 0; i < 10000; i++) /* one in two does */
        hint_vote(&hint, 3, i % 2 ? 18 : 19, true);
    ck_assert_uint_eq(way_of(word).bits, 19);
    for (unsigned i = 0; i < 10000; i++) /* and stays, though three in four need less */
        hint_vote(&hint, 3, i % 4 ? 18 : 19, true);
    ck_assert_uint_eq(way_of(word).bits, 19);
    for (unsigned i = 0; i < 1000; i++)
        hint_vote(&hint, 3, 10, false);
    ck_assert_uint_eq(way_of(word).bits, 10);
    ck_assert_uint_eq(way_of(word).right, 0);
    for (unsigned i = 0; i < 1000; i++) /* deeper than a hint looks */
        hint_vote(&hint, 3, 1000, true);
    ck_assert_uint_eq(way_of(word).bits, HINT_BITS_MAX);
    hint_vote(&hint, 1000, 5, true); /* the keys have more in common now */
    ck_assert_uint_eq(way_of(word).skip, UINT8_MAX);
    ck_assert_uint_eq(way_of(word).bits, 5);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("hint");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, learnt, 0, STYLES);
    tcase_add_test(tc, follows_the_merge);
    tcase_add_test(tc, never_believed);
    tcase_add_test(tc, votes);
    Suite *suite = suite_create("hint");
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
