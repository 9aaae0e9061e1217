/*
 * A ledger that follows: a stepped leader's sealed blocks applied to another ledger, which has the same headers and
 * states, restarts, is promoted, and refuses a block that is not as its header says.
 */
#include <check.h>

#include "leader_fixture.h"

/* Hands the leader's blocks to the follower, up to a height. */
static enum eng_status follow(struct ledger *leader, struct ledger *follower, uint64_t to)
{
    uint8_t *bytes = NULL;
    size_t capacity = 0, size;
    enum eng_status status = ENG_OK;
    for (uint64_t h = ledger_height(follower, NULL) + 1; status == ENG_OK && h <= to; h++) {
        struct header header;
        read_header(leader, h, &header);
        ck_assert_int_eq(ledger_read_sealed(leader, h, &bytes, &capacity, &size), ENG_OK);
        status = ledger_apply(follower, &header, bytes, size);
    }
    free(bytes);
    return status;
}

static void fixture_follower(struct fixture *follower)
{
    fixture_init(follower, 1);
    follower->options.role = LEDGER_FOLLOWER;
    ck_assert_int_eq(disk_sim_open(0, &follower->disk), ENG_OK);
    ck_assert_int_eq(fixture_open(follower), ENG_OK);
}

START_TEST(test_follow)
{
    struct fixture g;
    struct header ours, theirs;
    struct answer answer = {0};
    fixture_follower(&g);
    for (uint64_t h = 1; h <= 30; h++) {
        draft_begin(&draft, h, soon());
        draft_amount(&draft, "sum", 3);
        draft_value(&draft, TX_PUT, h % 2 ? "odd" : "even", "value");
        if (h % 5 == 0)
            draft_range(&draft, "a", "odda");
        ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_OK);
        answer_release(&answer);
    }
    ck_assert_int_eq(follow(f.ledger, g.ledger, 20), ENG_OK);
    ck_assert_uint_eq(ledger_height(g.ledger, NULL), 20);
    ck_assert_int_eq(ledger_step(g.ledger), ENG_OK);
    ck_assert_uint_eq(ledger_durable(g.ledger), 20);
    ledger_close(&g.ledger, 0);
    ck_assert_int_eq(fixture_open(&g), ENG_OK); /* from the log alone */
    ck_assert_uint_eq(ledger_height(g.ledger, NULL), 20);
    ck_assert_int_eq(follow(f.ledger, g.ledger, 30), ENG_OK);
    for (uint64_t h = 1; h <= 30; h++) {
        struct eng_snapshot *snapshot;
        read_header(f.ledger, h, &ours);
        read_header(g.ledger, h, &theirs);
        ck_assert_int_eq(memcmp(&ours, &theirs, sizeof(ours)), 0);
        ck_assert_int_eq(ledger_snapshot(g.ledger, h, &snapshot), ENG_OK);
        ck_assert_int_eq(memcmp(eng_snapshot_summary(snapshot), &ours.state, sizeof(ours.state)), 0);
        eng_snapshot_close(&snapshot);
    }
    draft_begin(&draft, 31, soon());
    draft_value(&draft, TX_PUT, "k", "v");
    draft_end(&draft);
    ck_assert_int_eq(ledger_submit(g.ledger, draft.bytes, draft.size, answer_keep, &answer), TX_NOT_LEADER);
    draft_release(&draft);

    /* promoted: it remembers what the old leader answered, and goes on */
    ledger_close(&g.ledger, 1000);
    g.options.role = LEDGER_LEADER;
    ck_assert_int_eq(fixture_open(&g), ENG_OK);
    draft_begin(&draft, 30, soon());
    draft_amount(&draft, "sum", 1000);
    ck_assert_int_eq(fixture_run(&g, &draft, &answer), TX_OK);
    ck_assert_uint_eq(answer.receipt.height, 30);
    answer_release(&answer);
    draft_begin(&draft, 77, soon());
    draft_amount(&draft, "sum", 1);
    ck_assert_int_eq(fixture_run(&g, &draft, &answer), TX_OK);
    ck_assert_uint_eq(answer.receipt.height, 31);
    ck_assert(amount_from_bytes(answer.receipt.results + 1) == 91);
    answer_release(&answer);
    ledger_close(&g.ledger, 0);
    ck_assert_int_eq(fixture_open(&g), ENG_OK); /* a log of both kinds */
    ck_assert_uint_eq(ledger_height(g.ledger, NULL), 31);
    fixture_release(&g);
}
END_TEST

START_TEST(test_diverged)
{
    struct fixture g;
    struct header header;
    uint8_t *bytes = NULL, *forged;
    size_t capacity = 0, size, forged_bytes;
    struct sealed_block sealed;
    fixture_follower(&g);
    put(1, "a", "1");
    put(2, "b", "2");
    ck_assert_int_eq(follow(f.ledger, g.ledger, 1), ENG_OK);
    read_header(f.ledger, 2, &header);
    ck_assert_int_eq(ledger_read_sealed(f.ledger, 2, &bytes, &capacity, &size), ENG_OK);
    ck_assert_int_eq(sealed_block_decode(bytes, size, &sealed), ENG_OK);

    struct diff_writer diff = {0}; /* another change than the header's */
    struct eng_value value = {ENG_BYTES, (const uint8_t *)"3", 1};
    ck_assert_int_eq(diff_write(&diff, (const uint8_t *)"b", 1, &value), ENG_OK);
    struct sealed_block other = sealed;
    other.diff = diff.bytes;
    other.diff_bytes = (uint32_t)diff.size;
    forged_bytes = sealed_block_size(&other);
    forged = malloc(forged_bytes);
    sealed_block_encode(&other, forged);
    ck_assert_int_eq(ledger_apply(g.ledger, &header, forged, forged_bytes), ENG_CONFLICT);
    ck_assert_ptr_nonnull(strstr(eng_error(), "block 2: diverged"));
    free(forged);

    other = sealed; /* receipts that are not the header's */
    other.receipts_bytes = 0;
    forged_bytes = sealed_block_size(&other);
    forged = malloc(forged_bytes);
    sealed_block_encode(&other, forged);
    ck_assert_int_eq(ledger_apply(g.ledger, &header, forged, forged_bytes), ENG_CONFLICT);
    free(forged);
    free(diff.bytes);

    ck_assert_uint_eq(ledger_height(g.ledger, NULL), 1); /* nothing was published */
    ck_assert(holds_in(g.ledger, ENG_HEAD, "b", NULL));
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(ledger_snapshot(g.ledger, 2, &snapshot), ENG_NOT_FOUND);
    ck_assert_int_eq(ledger_apply(g.ledger, &header, bytes, size), ENG_OK); /* the right one still fits */
    ck_assert(holds_in(g.ledger, 2, "b", "2"));
    ck_assert_int_eq(ledger_apply(g.ledger, &header, bytes, size), ENG_EXISTS);
    free(bytes);
    fixture_release(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ledger follow");
    const struct {
        const char *name;
        const TTest *test;
    } tests[] = {
        {"follow", test_follow},
        {"diverged", test_diverged},
    };
    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        TCase *tcase = tcase_create(tests[i].name);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_set_timeout(tcase, 120);
        tcase_add_test(tcase, tests[i].test);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
