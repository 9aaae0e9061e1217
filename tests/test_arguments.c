/* What the API says to arguments it does not take: a status and a line, never an assert; and what bounds, options and
 * tags mean at their edges. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "pando/engine.h"
#include "pando/proof.h"
#include "pando/verify.h"

#define OK(call) ck_assert_msg((call) == ENG_OK, "%s: %s", #call, eng_error())
/* Returns this status, and its line says this. */
#define SAYS(call, status, text)                                                                                       \
    do {                                                                                                               \
        ck_assert_msg((call) == (status), "%s", #call);                                                                \
        ck_assert_msg(strstr(eng_error(), text) != NULL, "%s: \"%s\"", #call, eng_error());                            \
    } while (0)
#define KEY(text) (const uint8_t *)(text), sizeof(text) - 1
#define LONG ENG_KEY_BYTES_MAX + 1

static struct disk *disk;
static struct eng *eng;
static struct eng_batch *batch; /* open; "own" is put into it */
static struct eng_snapshot *snapshot;
static const uint8_t bytes[2 * ENG_KEY_BYTES_MAX] = "long";

static void put(const char *key)
{
    OK(eng_batch_put(batch, (const uint8_t *)key, strlen(key), (struct eng_value){ENG_BYTES, KEY("value")}));
}

static void setup(void)
{
    OK(disk_sim_open(0, &disk));
    OK(eng_open(&(struct eng_options){.disk = disk, .create = true, .inline_only = true}, &eng));
    for (uint64_t tag = 5; tag <= 9; tag += 4) {
        OK(eng_batch_open(eng, 0, NULL, &batch));
        put("a");
        put(tag == 5 ? "b" : "c");
        OK(eng_batch_freeze(batch));
        OK(eng_commit(batch, tag, NULL));
        eng_batch_close(&batch);
    }
    OK(eng_batch_open(eng, 0, NULL, &batch));
    put("own");
    OK(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot));
}

static void teardown(void)
{
    eng_batch_close(&batch);
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    disk_close(&disk);
}

static bool count_scanned(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    ++*(unsigned *)context;
    return true;
}

static enum eng_status count_changed(void *context, const uint8_t *key, size_t key_bytes,
                                     const struct eng_value *before, const struct eng_value *after)
{
    ++*(unsigned *)context;
    return ENG_OK;
}

START_TEST(long_bounds)
{
    struct eng_totals totals;
    uint64_t rank;
    unsigned n = 0;
    SAYS(eng_totals(snapshot, bytes, LONG, NULL, 0, &totals), ENG_INVALID, "bound of 1025");
    SAYS(eng_totals(snapshot, NULL, 0, bytes, LONG, &totals), ENG_INVALID, "bound of 1025");
    SAYS(eng_batch_totals(batch, bytes, LONG, NULL, 0, &totals), ENG_INVALID, "bound of 1025");
    SAYS(eng_batch_totals(batch, NULL, 0, bytes, LONG, &totals), ENG_INVALID, "bound of 1025");
    SAYS(eng_rank(snapshot, bytes, LONG, &rank), ENG_INVALID, "bound of 1025");
    SAYS(eng_scan(snapshot, bytes, LONG, NULL, 0, count_scanned, &n), ENG_INVALID, "bound of 1025");
    SAYS(eng_scan(snapshot, NULL, 0, bytes, LONG, count_scanned, &n), ENG_INVALID, "bound of 1025");
    SAYS(eng_batch_remove_range(batch, bytes, LONG, NULL, 0), ENG_INVALID, "bound of 1025");
    SAYS(eng_batch_remove_range(batch, NULL, 0, bytes, LONG), ENG_INVALID, "bound of 1025");
    SAYS(eng_diff(snapshot, snapshot, bytes, LONG, count_changed, &n), ENG_INVALID, "prefix: 1025");
    SAYS(eng_diff_range(snapshot, snapshot, bytes, LONG + 1, NULL, 0, count_changed, &n), ENG_INVALID, "bound");
    SAYS(eng_diff_range(snapshot, snapshot, NULL, 0, bytes, LONG + 1, count_changed, &n), ENG_INVALID, "bound");
    OK(eng_diff_range(snapshot, snapshot, NULL, 0, bytes, LONG, count_changed, &n)); /* right behind a key */
    ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(edges_of_bounds)
{
    struct eng_totals totals;
    unsigned n = 0;
    OK(eng_totals(snapshot, KEY(""), NULL, 0, &totals)); /* before all keys */
    ck_assert_uint_eq(totals.count, 3);
    OK(eng_totals(snapshot, NULL, LONG, KEY(""), &totals));
    ck_assert_uint_eq(totals.count, 0);
    OK(eng_totals(snapshot, bytes, ENG_KEY_BYTES_MAX, NULL, 0, &totals));
    ck_assert_uint_eq(totals.count, 0);
    OK(eng_batch_totals(batch, NULL, LONG, NULL, LONG, &totals));
    ck_assert_uint_eq(totals.count, 4);
    OK(eng_batch_totals(batch, KEY("b"), KEY("a"), &totals));
    ck_assert_uint_eq(totals.count, 0);
    OK(eng_scan(snapshot, NULL, LONG, NULL, LONG, count_scanned, &n));
    ck_assert_uint_eq(n, 3);
    OK(eng_batch_remove_range(batch, KEY(""), KEY("b")));
    OK(eng_batch_totals(batch, NULL, 0, NULL, 0, &totals));
    ck_assert_uint_eq(totals.count, 3);
}
END_TEST

static void expect_at(struct eng_cursor *cursor, enum eng_status status, const char *key)
{
    size_t key_bytes;
    ck_assert_msg(status == ENG_OK, "%s: %s", key, eng_status_text(status));
    const uint8_t *at = eng_cursor_key(cursor, &key_bytes);
    ck_assert(key_bytes == strlen(key) && memcmp(at, key, key_bytes) == 0);
}

START_TEST(seeks)
{
    struct eng_cursor *cursor;
    uint8_t next[ENG_KEY_BYTES_MAX];
    size_t next_bytes;
    for (int over_batch = 0; over_batch < 2; over_batch++) {
        OK(over_batch ? eng_cursor_open_batch(batch, &cursor) : eng_cursor_open(snapshot, &cursor));
        for (size_t junk = 0; junk <= LONG; junk += LONG) { /* the length of NULL is not read */
            expect_at(cursor, eng_cursor_seek(cursor, NULL, junk), "a");
            expect_at(cursor, eng_cursor_seek_after(cursor, NULL, junk), "a");
            expect_at(cursor, eng_cursor_seek_before(cursor, NULL, junk), over_batch ? "own" : "c");
        }
        expect_at(cursor, eng_cursor_seek_after(cursor, KEY("")), "a");
        ck_assert(eng_cursor_seek_before(cursor, KEY("")) == ENG_NOT_FOUND);
        SAYS(eng_cursor_seek(cursor, bytes, LONG), ENG_INVALID, "key: 1025");
        SAYS(eng_cursor_seek_after(cursor, bytes, LONG), ENG_INVALID, "key: 1025");
        SAYS(eng_cursor_seek_before(cursor, bytes, LONG), ENG_INVALID, "key: 1025");
        ck_assert(eng_cursor_next(cursor) == ENG_NOT_FOUND);
        eng_cursor_close(&cursor);
    }
    SAYS(eng_batch_next(batch, bytes, LONG, false, next, &next_bytes), ENG_INVALID, "key: 1025");
    OK(eng_batch_next(batch, NULL, 0, true, next, &next_bytes));
    ck_assert(next_bytes == 1 && next[0] == 'a');
    OK(eng_batch_next(batch, bytes, ENG_KEY_BYTES_MAX, true, next, &next_bytes));
    ck_assert(next_bytes == 3 && memcmp(next, "own", 3) == 0);
}
END_TEST

START_TEST(tags)
{
    struct eng_snapshot *other;
    struct eng_summary summary;
    uint64_t tag;
    SAYS(eng_snapshot_open(eng, 0, 10, &other), ENG_NOT_FOUND, "root 0 has no version with tag 10 yet");
    SAYS(eng_snapshot_open(eng, 0, 7, &other), ENG_GONE, "root 0 has no version with tag 7, or it was dropped");
    OK(eng_drop(eng, 0, 5));
    SAYS(eng_snapshot_open(eng, 0, 5, &other), ENG_GONE, "root 0 has no version with tag 5, or it was dropped");
    SAYS(eng_drop(eng, 0, 5), ENG_NOT_FOUND, "root 0 has no version with tag 5 to drop");
    SAYS(eng_drop(eng, 0, 9), ENG_INVALID, "root 0: the newest version, tag 9");
    SAYS(eng_head(eng, 3, &tag, &summary), ENG_NOT_FOUND, "root 3 has no version yet");
    SAYS(eng_oldest(eng, 3, &tag), ENG_NOT_FOUND, "root 3 has no version yet");
    OK(eng_snapshot_open(eng, 3, ENG_HEAD, &other));
    ck_assert_uint_eq(eng_snapshot_summary(other)->count, 0);
    eng_snapshot_close(&other);
}
END_TEST

START_TEST(options)
{
    struct eng *other;
    SAYS(eng_open(&(struct eng_options){.create = true}, &other), ENG_INVALID, "neither path nor disk");
    SAYS(eng_open(&(struct eng_options){.disk = disk, .durability = (enum eng_durability)77}, &other), ENG_INVALID,
         "durability: 77");
    SAYS(eng_open(&(struct eng_options){.disk = disk, .durability = (enum eng_durability) - 1}, &other), ENG_INVALID,
         "durability: -1");
    SAYS(eng_open(&(struct eng_options){.disk = disk, .recovery = (enum eng_recovery)9}, &other), ENG_INVALID,
         "recovery: 9");
    SAYS(eng_open(&(struct eng_options){.path = "/nonexistent/a/b", .create = true}, &other), ENG_IO,
         "/nonexistent/a/b: cannot be created: No such file or directory");
    ck_assert_ptr_null(other);
}
END_TEST

/* A proof of something else than was asked for holds, and is refused for that. */
START_TEST(other_claims)
{
    struct proof_blob range, sum, change, many;
    const uint8_t *key = (const uint8_t *)"a", *root = eng_snapshot_summary(snapshot)->digest;
    const size_t one = 1;
    OK(proof_state_range(snapshot, KEY("a"), KEY("c"), true, &range));
    OK(proof_state_range(snapshot, KEY("a"), NULL, 0, false, &sum));
    OK(eng_prove_diff(snapshot, snapshot, NULL, 0, NULL, 0, 0, &change));
    OK(eng_prove_many(snapshot, &key, &one, 1, &many));
    const struct proof_blob *proofs[] = {&range, &sum, &change, &many};
    static const enum proof_kind kinds[] = {PROOF_RANGE, PROOF_TOTALS, PROOF_DIFF, PROOF_MANY};
    static const struct verify_range ranges[] = {{KEY("a"), KEY("c")}, {KEY("a"), NULL, 0}, {NULL, 0, NULL, 0}};
    for (int i = 0; i < 4; i++) {
        struct verify_result result;
        for (int j = 0; j < 4; j++) {
            struct verify_options asked = {.root = root, .kind = kinds[j]};
            enum verify_status status = verify_state(proofs[i]->bytes, proofs[i]->size, &asked, &result);
            ck_assert_int_eq(status, i == j ? VERIFY_OK : VERIFY_OTHER_KIND);
            if (j == 3)
                continue;
            asked = (struct verify_options){.root = root, .range = &ranges[j]};
            status = verify_state(proofs[i]->bytes, proofs[i]->size, &asked, &result);
            ck_assert_int_eq(status, i == j ? VERIFY_OK : VERIFY_OTHER_RANGE);
            ck_assert(status == VERIFY_OK || (result.count == 0 && result.from == NULL && result.next == NULL));
        }
        struct verify_range longer = {KEY("a"), KEY("c\0")}, other = {KEY("b"), KEY("c")};
        struct verify_options asked = {.range = &longer};
        ck_assert(verify_state(proofs[i]->bytes, proofs[i]->size, &asked, &result) == VERIFY_OTHER_RANGE);
        asked.range = &other;
        ck_assert(verify_state(proofs[i]->bytes, proofs[i]->size, &asked, &result) == VERIFY_OTHER_RANGE);
    }
    proof_blob_free(&range);
    proof_blob_free(&sum);
    proof_blob_free(&change);
    proof_blob_free(&many);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("arguments");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, long_bounds);
    tcase_add_test(tc, edges_of_bounds);
    tcase_add_test(tc, seeks);
    tcase_add_test(tc, tags);
    tcase_add_test(tc, options);
    tcase_add_test(tc, other_claims);
    Suite *suite = suite_create("arguments");
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
