/*
 * The digest rule and its lanes.
 *
 * The reference is threefold: numbers made by another implementation of BLAKE2b (Python's hashlib, command below), the
 * flat oracle of digest_oracle.h, and calls of libsodium written out here. Every implementation of the lanes that this
 * machine has is held to them over all counts up to five batches and all message lengths.
 *
 * The constants are made again by:
 *   python3 -c "import hashlib as h; B=lambda p,m,s=b'': h.blake2b(m,digest_size=32,person=p,salt=s).digest();
 *   print(B(b'pando entry',b'\1\0\0\0a'+b'one').hex())"
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "digest_oracle.h"
#include "lanes_kernel.h"

#define JOBS_MAX 41
#define LANES_KINDS 5

static uint64_t random_state = 0x853c49e6748fea9bull;

static uint64_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void random_bytes(void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)(random_word() >> 32);
}

static void from_hex(const char *hex, uint8_t *out, size_t bytes)
{
    ck_assert_int_eq(sodium_hex2bin(out, bytes, hex, 2 * bytes, NULL, NULL, NULL), 0);
}

/* ---- the rule ------------------------------------------------------------------------------------------------------
 */

START_TEST(entries_match_hashlib)
{
    uint8_t out[32], expected[32], value[65];
    digest_entry((const uint8_t *)"a", 1, ENG_BYTES, (const uint8_t *)"one", 3, NULL, out);
    from_hex("ea4683adca654c388930b8424df6a2ee4a65cbddb89f7d10419be427265feaab", expected, 32);
    ck_assert_mem_eq(out, expected, 32);
    memset(value, 'x', sizeof value);
    digest_entry((const uint8_t *)"b", 1, ENG_BYTES, value, 65, NULL, out);
    from_hex("cf7a429a1a7444fad61b0a7fdb58b4940760eb8d941418c651fef0b3e67e2b62", expected, 32);
    ck_assert_mem_eq(out, expected, 32);
}
END_TEST

/* a = "one", aa = amount -5, b = 65 times x: a and aa part at the flag bit 9, both from b at bit 7. */
START_TEST(root_of_three_matches_hashlib)
{
    uint8_t value[65], amount[16], expected[64];
    memset(value, 'x', sizeof value);
    memset(amount, 0xff, sizeof amount);
    amount[0] = 0xfb;
    from_hex("40f4a0d84970926bd7ea0d50d6b2f572680da9169551530afcf15e1af22ce0f4"
             "0300000000000000fbffffffffffffffffffffffffffffffffffffffffffffff",
             expected, 64);
    struct eng_summary a = {.count = 1}, aa = {.count = 1, .sum = {(uint64_t)-5, UINT64_MAX, UINT64_MAX}},
                       b = {.count = 1}, left = {.count = 2}, root = {.count = 3};
    digest_entry((const uint8_t *)"a", 1, ENG_BYTES, (const uint8_t *)"one", 3, NULL, a.digest);
    digest_entry((const uint8_t *)"aa", 2, ENG_AMOUNT, amount, 16, NULL, aa.digest);
    digest_entry((const uint8_t *)"b", 1, ENG_BYTES, value, 65, NULL, b.digest);
    digest_node(&a, &aa, 9, left.digest);
    digest_sum_add(left.sum, a.sum, aa.sum);
    digest_node(&left, &b, 7, root.digest);
    digest_sum_add(root.sum, left.sum, b.sum);
    ck_assert_mem_eq(&root, expected, 64);

    struct oracle_entry entries[3] = {{(const uint8_t *)"b", 1, 0, value, 65},
                                      {(const uint8_t *)"aa", 2, 1, amount, 16},
                                      {(const uint8_t *)"a", 1, 0, (const uint8_t *)"one", 3}};
    struct oracle_summary oracle;
    qsort(entries, 3, sizeof *entries, oracle_compare);
    oracle_summary(entries, 3, &oracle);
    ck_assert_mem_eq(&oracle, expected, 64);
}
END_TEST

START_TEST(empty_oracle_is_zero)
{
    struct oracle_summary oracle;
    static const uint8_t zero[64];
    memset(&oracle, 1, sizeof oracle);
    oracle_summary(NULL, 0, &oracle);
    ck_assert_mem_eq(&oracle, zero, 64);
}
END_TEST

/* Written out: what goes into the hash for values at and around the 64 bytes of the format. */
START_TEST(entry_forms)
{
    static const uint8_t salt[16], personal_entry[16] = "pando entry", personal_value[16] = "pando value";
    const size_t key_sizes[] = {1, 2, 59, 60, 61, 255, 256, 1024}, value_sizes[] = {0, 1, 63, 64, 65, 66, 1000, 100000};
    static uint8_t key[1024], value[100000];
    random_bytes(key, sizeof key);
    random_bytes(value, sizeof value);
    for (size_t k = 0; k < sizeof key_sizes / sizeof *key_sizes; k++) {
        for (size_t v = 0; v < sizeof value_sizes / sizeof *value_sizes; v++) {
            uint8_t message[2000] = {(uint8_t)key_sizes[k], (uint8_t)(key_sizes[k] >> 8), 0, value_sizes[v] > 64};
            uint8_t expected[32], out[32], value_digest[32], oracle[32];
            size_t at = 4 + key_sizes[k];
            memcpy(message + 4, key, key_sizes[k]);
            crypto_generichash_blake2b_salt_personal(value_digest, 32, value, value_sizes[v], NULL, 0, salt,
                                                     personal_value);
            digest_value(value, value_sizes[v], out);
            ck_assert_mem_eq(out, value_digest, 32);
            if (value_sizes[v] > 64) {
                memcpy(message + at, &(uint64_t){value_sizes[v]}, 8);
                memcpy(message + at + 8, value_digest, 32);
                at += 40;
            } else {
                memcpy(message + at, value, value_sizes[v]);
                at += value_sizes[v];
            }
            crypto_generichash_blake2b_salt_personal(expected, 32, message, at, NULL, 0, salt, personal_entry);
            digest_entry(key, key_sizes[k], ENG_BYTES, value, value_sizes[v], NULL, out);
            ck_assert_mem_eq(out, expected, 32);
            /* With the value's digest given, a long value is not read. */
            digest_entry(key, key_sizes[k], ENG_BYTES, value_sizes[v] > 64 ? NULL : value, value_sizes[v], value_digest,
                         out);
            ck_assert_mem_eq(out, expected, 32);
            oracle_entry_digest(&(struct oracle_entry){key, key_sizes[k], 0, value, value_sizes[v]}, oracle);
            ck_assert_mem_eq(oracle, expected, 32);
        }
    }
}
END_TEST

START_TEST(first_bits)
{
#define FIRST(a, b) digest_first_bit((const uint8_t *)a, sizeof a - 1, (const uint8_t *)b, sizeof b - 1)
    ck_assert_uint_eq(FIRST("a", "b"), 7);
    ck_assert_uint_eq(FIRST("a", "aa"), 9);
    ck_assert_uint_eq(FIRST("\x7f", "\x80"), 1);
    ck_assert_uint_eq(FIRST("\x00", "\x01"), 8);
    ck_assert_uint_eq(FIRST("a", "a\x00"), 9);
    ck_assert_uint_eq(FIRST("12345678", "123456789"), 72);
    ck_assert_uint_eq(FIRST("12345678\x00", "12345678\x80"), 73);
#undef FIRST
    for (int i = 0; i < 5000; i++) {
        uint8_t a[24], b[24];
        size_t same = random_word() % 20, a_bytes = 1 + random_word() % 24, b_bytes = 1 + random_word() % 24;
        random_bytes(a, sizeof a);
        random_bytes(b, sizeof b);
        memcpy(b, a, same);
        struct oracle_entry pair[2] = {{.key = a, .key_bytes = a_bytes}, {.key = b, .key_bytes = b_bytes}};
        if (oracle_compare(&pair[0], &pair[1]) == 0)
            continue;
        uint32_t bit = digest_first_bit(a, a_bytes, b, b_bytes);
        ck_assert_uint_eq(bit, oracle_first_bit(pair, 2));
        ck_assert_uint_eq(bit, digest_first_bit(b, b_bytes, a, a_bytes));
        ck_assert_int_eq(digest_bit(a, a_bytes, bit), oracle_compare(&pair[0], &pair[1]) > 0);
        int wrong = 0;
        for (uint32_t other = 0; other < 9 * 25; other++)
            wrong += digest_bit(a, a_bytes, other) != oracle_bit(&pair[0], other);
        ck_assert_int_eq(wrong, 0);
    }
}
END_TEST

START_TEST(sums)
{
    for (int i = 0; i < 10000; i++) {
        uint64_t a[3], b[3], out[3];
        uint8_t expected[24];
        random_bytes(a, sizeof a);
        random_bytes(b, sizeof b);
        for (int w = 0; w < 3; w++) { /* words of ones carry through */
            if (random_word() % 3 == 0)
                a[w] = UINT64_MAX;
            if (random_word() % 3 == 0)
                b[w] = random_word() % 2;
        }
        oracle_add(expected, (const uint8_t *)a, (const uint8_t *)b, 24);
        digest_sum_add(out, a, b);
        ck_assert_mem_eq(out, expected, 24);
        digest_sum_add(a, a, b);
        ck_assert_mem_eq(a, expected, 24);
    }
}
END_TEST

/* ---- the lanes -----------------------------------------------------------------------------------------------------
 */

static bool available(enum digest_lanes lanes)
{
    switch (lanes) {
    case DIGEST_LANES_SODIUM:
    case DIGEST_LANES_SCALAR:
        return true;
    case DIGEST_LANES_NEON:
        return lanes_neon() != NULL;
    case DIGEST_LANES_AVX2:
        return lanes_avx2() != NULL;
    case DIGEST_LANES_AVX512:
        return lanes_avx512() != NULL;
    }
    return true;
}

/* The loop index of these tests is the implementation. */
static bool use(int lanes)
{
    if (digest_use_lanes((enum digest_lanes)lanes)) {
        ck_assert_int_eq((int)digest_lanes_in_use(), lanes);
        return true;
    }
    /* What the CPU can do and digest_init did not take was found to be wrong. */
    ck_assert_msg(!available((enum digest_lanes)lanes), "%s disagrees", digest_lanes_name((enum digest_lanes)lanes));
    printf("test_digest: this machine has no %s\n", digest_lanes_name((enum digest_lanes)lanes));
    return false;
}

START_TEST(nodes_in_lanes)
{
    static const uint8_t personal[16] = "pando node", untouched[32] = {0};
    if (!use(_i))
        return;
    for (size_t count = 0; count < JOBS_MAX; count++) {
        static struct eng_summary inputs[2 * JOBS_MAX], outputs[JOBS_MAX];
        struct digest_node_job jobs[JOBS_MAX];
        random_bytes(inputs, sizeof inputs);
        memset(outputs, 0, sizeof outputs);
        for (size_t i = 0; i < JOBS_MAX; i++) {
            uint32_t bit = i % 5 == 0 ? UINT32_MAX : (uint32_t)(random_word() % 9226);
            jobs[i] = (struct digest_node_job){&inputs[random_word() % (2 * JOBS_MAX)], &inputs[2 * i + 1],
                                               outputs[i].digest, bit};
        }
        digest_nodes(jobs, count);
        for (size_t i = 0; i < JOBS_MAX; i++) {
            uint8_t message[128], salt[16] = {0}, expected[32], reference[32];
            memcpy(message, jobs[i].left, 64);
            memcpy(message + 64, jobs[i].right, 64);
            memcpy(salt, &jobs[i].bit, 4);
            crypto_generichash_blake2b_salt_personal(expected, 32, message, 128, NULL, 0, salt, personal);
            ck_assert_mem_eq(jobs[i].out, i < count ? expected : untouched, 32);
            ck_assert_mem_eq(&outputs[i].count, untouched, 32); /* nothing is written behind a digest */
            digest_node(jobs[i].left, jobs[i].right, jobs[i].bit, reference);
            ck_assert_mem_eq(reference, expected, 32);
        }
    }
}
END_TEST

START_TEST(entries_in_lanes)
{
    static const uint8_t personal[16] = "pando entry", salt[16], untouched[32] = {0};
    if (!use(_i))
        return;
    for (size_t count = 0; count < JOBS_MAX; count++) {
        for (uint32_t base = 0; base <= 128; base += 1 + (uint32_t)count % 3) {
            static struct digest_entry_job jobs[JOBS_MAX];
            uint8_t out[JOBS_MAX][32];
            memset(out, 0, sizeof out);
            for (size_t i = 0; i < JOBS_MAX; i++) {
                jobs[i].length = (base + 7 * (uint32_t)i) % 129;
                jobs[i].out = out[i];
                random_bytes(jobs[i].message, 128);
                memset(jobs[i].message + jobs[i].length, 0, 128 - jobs[i].length);
            }
            digest_entries(jobs, count);
            int wrong = 0; /* an assertion each would take longer than the digests */
            for (size_t i = 0; i < JOBS_MAX; i++) {
                uint8_t expected[32];
                crypto_generichash_blake2b_salt_personal(expected, 32, jobs[i].message, jobs[i].length, NULL, 0, salt,
                                                         personal);
                wrong += memcmp(out[i], i < count ? expected : untouched, 32) != 0;
            }
            ck_assert_int_eq(wrong, 0);
        }
    }
}
END_TEST

/* A whole state, level by level as a merge does it, in the lanes: the oracle's root. */
START_TEST(chain_in_lanes)
{
    enum { LEAVES = 256 };
    if (!use(_i))
        return;
    static struct eng_summary level[LEAVES];
    static struct digest_entry_job leaf_jobs[LEAVES];
    struct digest_node_job jobs[LEAVES];
    static uint8_t keys[LEAVES];
    struct oracle_entry entries[LEAVES];
    for (size_t i = 0; i < LEAVES; i++) {
        keys[i] = (uint8_t)i;
        entries[i] = (struct oracle_entry){&keys[i], 1, 0, &keys[i], 1};
        leaf_jobs[i] = (struct digest_entry_job){{1, 0, 0, 0, keys[i], keys[i]}, level[i].digest, 6};
        level[i].count = 1;
    }
    digest_entries(leaf_jobs, LEAVES);
    for (uint32_t width = LEAVES / 2, bit = 8; width >= 1; width /= 2, bit--) {
        static struct eng_summary above[LEAVES / 2];
        for (uint32_t i = 0; i < width; i++) {
            above[i].count = level[2 * i].count + level[2 * i + 1].count;
            jobs[i] = (struct digest_node_job){&level[2 * i], &level[2 * i + 1], above[i].digest, bit};
        }
        digest_nodes(jobs, width);
        memcpy(level, above, width * sizeof *level);
    }
    struct oracle_summary oracle;
    oracle_summary(entries, LEAVES, &oracle);
    ck_assert_mem_eq(&level[0], &oracle, 64);
}
END_TEST

/* The variable names what digest_init uses. It is read once in a process: each test of Check has its own. */
START_TEST(environment_chooses)
{
    const char *forced = getenv("PANDO_LANES");
    ck_assert(digest_init());
    ck_assert(digest_init());
    if (forced == NULL) {
        /* A CPU with vectors is not left to libsodium. */
        ck_assert_int_ne((int)digest_lanes_in_use(), (int)DIGEST_LANES_SODIUM);
        return;
    }
    if (strcmp(forced, "sodium") == 0 || strcmp(forced, "scalar") == 0)
        ck_assert_str_eq(digest_lanes_name(digest_lanes_in_use()), forced);
}
END_TEST

static void init(void)
{
    ck_assert(digest_init());
}

int main(void)
{
    Suite *suite = suite_create("digest");
    TCase *rule = tcase_create("rule");
    tcase_add_checked_fixture(rule, init, NULL);
    tcase_add_test(rule, entries_match_hashlib);
    tcase_add_test(rule, root_of_three_matches_hashlib);
    tcase_add_test(rule, empty_oracle_is_zero);
    tcase_add_test(rule, entry_forms);
    tcase_add_test(rule, first_bits);
    tcase_add_test(rule, sums);
    suite_add_tcase(suite, rule);
    TCase *lanes = tcase_create("lanes");
    tcase_set_timeout(lanes, 60);
    tcase_add_checked_fixture(lanes, init, NULL);
    tcase_add_loop_test(lanes, nodes_in_lanes, 0, LANES_KINDS);
    tcase_add_loop_test(lanes, entries_in_lanes, 0, LANES_KINDS);
    tcase_add_loop_test(lanes, chain_in_lanes, 0, LANES_KINDS);
    tcase_add_test(lanes, environment_chooses);
    suite_add_tcase(suite, lanes);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
