/*
 * The ledger's contract (node/ledger.h), a leader stepped on a simulated disk: submitting, what is kept, restarts, a
 * disk that fails or is full.
 */
#include <check.h>

#include "leader_fixture.h"

/* ---- submitting ---- */

START_TEST(test_genesis)
{
    uint8_t digest[32];
    struct header header;
    struct eng_snapshot *snapshot;
    ck_assert_uint_eq(ledger_height(f.ledger, digest), 0);
    ck_assert_int_eq(memcmp(digest, f.genesis.ledger_id, 32), 0);
    ck_assert_int_eq(ledger_header(f.ledger, 0, &header), ENG_NOT_FOUND);
    ck_assert_int_eq(ledger_snapshot(f.ledger, 0, &snapshot), ENG_OK);
    ck_assert_uint_eq(eng_snapshot_summary(snapshot)->count, 0);
    eng_snapshot_close(&snapshot);
    ck_assert_int_eq(ledger_snapshot(f.ledger, 1, &snapshot), ENG_NOT_FOUND);
    ck_assert(ledger_may_sign(f.ledger, f.public_key, 1));
    uint8_t other[32] = {9};
    ck_assert(!ledger_may_sign(f.ledger, other, 1));
}
END_TEST

START_TEST(test_submit)
{
    struct answer answers[3] = {0};
    struct header header;
    uint8_t digest[32], previous[32];
    for (uint64_t i = 0; i < 3; i++) {
        draft_begin(&draft, i + 1, soon());
        draft_amount(&draft, "sum", 5);
        if (i == 1)
            draft_add(&draft, TX_DELETE, "absent");
        draft_end(&draft);
        ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[i]), TX_OK);
        draft_release(&draft);
    }
    ck_assert_int_eq(answer_calls(&answers[0]), 0);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(answer_calls(&answers[i]), 1);
        ck_assert_int_eq(answers[i].code, TX_OK);
        ck_assert_uint_eq(answers[i].receipt.height, 1);
        ck_assert_uint_eq(answers[i].receipt.index, i);
        ck_assert_int_eq(answers[i].receipt.code, i == 1 ? TX_NOT_FOUND : TX_OK);
        ck_assert_uint_eq(answers[i].receipt.failed_op, i == 1 ? 1 : RECEIPT_NO_OPERATION);
    }
    ck_assert(amount_from_bytes(answers[2].receipt.results + 1) == 10);
    ck_assert_uint_eq(ledger_height(f.ledger, digest), 1);
    ck_assert_uint_eq(ledger_durable(f.ledger), 1);
    read_header(f.ledger, 1, &header);
    ck_assert(header_verify(&header));
    header_digest(&header, previous);
    ck_assert_int_eq(memcmp(previous, digest, 32), 0);
    ck_assert_int_eq(memcmp(header.previous, f.genesis.ledger_id, 32), 0);
    ck_assert_uint_eq(header.transactions, 3);
    ck_assert_uint_eq(header.time_ms, FIXTURE_TIME_MS);
    ck_assert_uint_eq(header.state.count, 1);
    ck_assert_uint_eq(header.state.sum[0], 10);
    put(4, "k", "v");
    read_header(f.ledger, 2, &header);
    ck_assert_int_eq(memcmp(previous, header.previous, 32), 0);
    ck_assert(holds_in(f.ledger, 1, "k", NULL));
    ck_assert(holds_in(f.ledger, 2, "k", "v"));
    for (int i = 0; i < 3; i++)
        answer_release(&answers[i]);
}
END_TEST

/* The digests of a header are over what the format says. */
START_TEST(test_digests)
{
    uint8_t *sealed = NULL, digest[32], txs[4096];
    size_t capacity = 0, size, at = 0;
    struct sealed_block block;
    struct header header;
    struct answer answers[2] = {0};
    for (uint64_t i = 0; i < 2; i++) {
        draft_begin(&draft, i + 1, soon());
        draft_value(&draft, TX_PUT, i ? "b" : "a", "value");
        draft_end(&draft);
        uint32_t length = (uint32_t)draft.size;
        memcpy(txs + at, &length, 4);
        memcpy(txs + at + 4, draft.bytes, draft.size);
        at += 4 + draft.size;
        ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[i]), TX_OK);
        draft_release(&draft);
    }
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(ledger_read_sealed(f.ledger, 1, &sealed, &capacity, &size), ENG_OK);
    ck_assert_int_eq(sealed_block_decode(sealed, size, &block), ENG_OK);
    ck_assert_int_eq(header_decode(block.header, block.header_bytes, &header), ENG_OK);
    header_hash("pando txs", txs, at, digest);
    ck_assert_int_eq(memcmp(digest, header.transactions_digest, 32), 0);
    ck_assert_uint_eq(block.receipts_bytes, answers[0].size + answers[1].size);
    ck_assert_int_eq(memcmp(block.receipts, answers[0].bytes, answers[0].size), 0);
    ck_assert_int_eq(memcmp(block.receipts + answers[0].size, answers[1].bytes, answers[1].size), 0);
    header_hash("pando receipts", block.receipts, block.receipts_bytes, digest);
    ck_assert_int_eq(memcmp(digest, header.receipts_digest, 32), 0);
    free(sealed);
    answer_release(&answers[0]);
    answer_release(&answers[1]);
}
END_TEST

START_TEST(test_refused)
{
    struct answer answer = {0};
    put(1, "k", "v"); /* the newest ledger time is now */
    draft_begin(&draft, 2, f.now_ms);
    draft_value(&draft, TX_PUT, "k", "w");
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_EXPIRED);
    draft.tx.expires_ms = 0;
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_MALFORMED);
    ck_assert_int_eq(answer_calls(&answer), 0);
    draft.tx.expires_ms = f.now_ms + FIXTURE_WINDOW_MS + 1; /* decided by EXECUTE, the clock may go on until then */
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_MALFORMED);
    ck_assert_int_eq(answer_calls(&answer), 1);
    ck_assert(!answer.has_receipt);
    answer_release(&answer);
    draft.tx.expires_ms = f.now_ms + 10; /* expires on its way */
    draft_end(&draft);
    ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answer), TX_OK);
    f.now_ms += 10;
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(answer_calls(&answer), 1);
    ck_assert_int_eq(answer.code, TX_EXPIRED);
    ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size - 1, answer_keep, &answer), TX_MALFORMED);
    draft_release(&draft);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 1); /* nothing recorded */
    ck_assert(holds("k", "v"));
    answer_release(&answer);
    draft_begin(&draft, 3, f.now_ms + FIXTURE_WINDOW_MS); /* exactly the window is allowed */
    draft_value(&draft, TX_PUT, "k", "w");
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_OK);
    answer_release(&answer);
}
END_TEST

START_TEST(test_duplicates)
{
    struct answer first = {0}, again[4] = {0};
    struct draft one;
    draft_begin(&one, 1, soon());
    draft_amount(&one, "sum", 1);
    draft_end(&one);
    ck_assert_int_eq(ledger_submit(f.ledger, one.bytes, one.size, answer_keep, &first), TX_OK);
    ck_assert_int_eq(ledger_submit(f.ledger, one.bytes, one.size, answer_keep, &again[0]), TX_OK); /* same block */
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(ledger_submit(f.ledger, one.bytes, one.size, answer_keep, &again[1]), TX_OK); /* published */
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    for (uint64_t i = 0; i < 30; i++)
        put(100 + i, "other", "x");
    reopen(0);
    ck_assert_int_eq(ledger_submit(f.ledger, one.bytes, one.size, answer_keep, &again[2]), TX_OK); /* restarted */
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    reopen(1000); /* from a checkpoint, without anything to replay */
    ck_assert_int_eq(ledger_submit(f.ledger, one.bytes, one.size, answer_keep, &again[3]), TX_OK);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(answer_calls(&again[i]), 1);
        ck_assert_int_eq(again[i].code, TX_OK);
        ck_assert_uint_eq(again[i].size, first.size);
        ck_assert_int_eq(memcmp(again[i].bytes, first.bytes, first.size), 0);
        answer_release(&again[i]);
    }
    uint8_t *bytes;
    size_t size;
    ck_assert_int_eq(ledger_receipt(f.ledger, one.tx.id, &bytes, &size), ENG_OK);
    ck_assert_uint_eq(size, first.size);
    ck_assert_int_eq(memcmp(bytes, first.bytes, size), 0);
    free(bytes);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 31);
    f.now_ms = one.tx.expires_ms;
    put(200, "late", "x"); /* ledger time reaches the expiry */
    ck_assert_int_eq(ledger_submit(f.ledger, one.bytes, one.size, answer_keep, &again[0]), TX_EXPIRED);
    ck_assert_int_eq(ledger_receipt(f.ledger, one.tx.id, &bytes, &size), ENG_NOT_FOUND);
    draft_release(&one);
    answer_release(&first);
}
END_TEST

/* A resubmission logged next to its original must be refused again by the replay. */
START_TEST(test_duplicate_replay)
{
    struct answer answers[3] = {0};
    struct header before, after;
    for (int i = 0; i < 3; i++) {
        draft_begin(&draft, i < 2 ? 1 : 2, soon());
        draft_amount(&draft, "sum", 1);
        draft_end(&draft);
        ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[i]), TX_OK);
        draft_release(&draft);
    }
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_uint_eq(answers[2].receipt.index, 1);
    read_header(f.ledger, 1, &before);
    reopen(0);
    read_header(f.ledger, 1, &after);
    ck_assert_int_eq(memcmp(&before, &after, sizeof(before)), 0);
    for (int i = 0; i < 3; i++)
        answer_release(&answers[i]);
}
END_TEST

/* Sent again in time, and ledger time goes on before its block is published: the receipt all the same. */
START_TEST(test_duplicate_in_time)
{
    struct answer first = {0}, again = {0};
    struct import_result imported = {0};
    size_t size;
    draft_begin(&draft, 1, f.now_ms + 10);
    draft_amount(&draft, "alice", 100);
    draft_end(&draft);
    ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &first), TX_OK);
    ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &again), TX_OK);
    draft_release(&draft);
    uint8_t *bytes = fixture_block(2, f.now_ms + 20, "", NULL, 0, &size);
    ck_assert_int_eq(ledger_import(f.ledger, bytes, size, false, 0, import_keep, &imported), ENG_OK);
    free(bytes);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(imported.status, ENG_OK);
    ck_assert_int_eq(first.code, TX_OK);
    ck_assert_int_eq(again.code, TX_OK);
    ck_assert_uint_eq(again.receipt.height, 1);
    answer_release(&first);
    answer_release(&again);
}
END_TEST

START_TEST(test_block_bounds)
{
    struct answer answers[25] = {0};
    ledger_close(&f.ledger, 0);
    f.options.block_max_txs = 10;
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    for (uint64_t i = 0; i < 25; i++) {
        draft_begin(&draft, i + 1, soon());
        draft_amount(&draft, "sum", 1);
        draft_end(&draft);
        ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[i]), TX_OK);
        draft_release(&draft);
    }
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 3);
    for (uint32_t i = 0; i < 25; i++) {
        ck_assert_uint_eq(answers[i].receipt.height, 1 + i / 10);
        ck_assert_uint_eq(answers[i].receipt.index, i % 10);
        answer_release(&answers[i]);
    }
    struct header before[4], after;
    for (uint64_t h = 1; h <= 3; h++)
        read_header(f.ledger, h, &before[h]);
    reopen(0);
    for (uint64_t h = 1; h <= 3; h++) {
        read_header(f.ledger, h, &after);
        ck_assert_int_eq(memcmp(&before[h], &after, sizeof(after)), 0);
    }
}
END_TEST

/* ---- retention, restart, the index ---- */

START_TEST(test_retention)
{
    struct eng_snapshot *snapshot, *held;
    ledger_close(&f.ledger, 0);
    f.options.retain_blocks = 4;
    f.options.retain_every = 5;
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    put(1, "k", "1");
    ck_assert_int_eq(ledger_snapshot(f.ledger, 1, &held), ENG_OK);
    for (uint64_t h = 2; h <= 20; h++) {
        char text[8];
        snprintf(text, sizeof(text), "%d", (int)h);
        put(h, "k", text);
    }
    put(21, "k", "21"); /* versions are dropped one block later than published */
    for (uint64_t h = 0; h <= 21; h++) {
        enum eng_status status = ledger_snapshot(f.ledger, h, &snapshot);
        ck_assert_int_eq(status, h % 5 == 0 || h >= 17 ? ENG_OK : ENG_GONE);
        if (status == ENG_OK)
            eng_snapshot_close(&snapshot);
    }
    ck_assert_int_eq(ledger_snapshot(f.ledger, 13, &snapshot), ENG_GONE);
    ck_assert_ptr_nonnull(strstr(eng_error(), "oldest is 0"));
    eng_snapshot_close(&held);
    reopen(1000);
    ck_assert(holds_in(f.ledger, 5, "k", "5"));
    ck_assert(holds_in(f.ledger, 21, "k", "21"));
    ck_assert_int_eq(ledger_snapshot(f.ledger, 14, &snapshot), ENG_GONE);
}
END_TEST

START_TEST(test_restart)
{
    struct header before[41], after;
    ledger_close(&f.ledger, 0);
    f.options.checkpoint_log_bytes = 8 << 10;
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    for (uint64_t h = 1; h <= 40; h++) {
        char key[32];
        snprintf(key, sizeof(key), "key/%d", (int)(h * 7 % 13));
        f.now_ms += 100;
        put(h, key, "some value or other");
        if (h % 9 == 0)
            reopen(h % 2 ? 1000 : 0);
    }
    for (uint64_t h = 1; h <= 40; h++)
        read_header(f.ledger, h, &before[h]);
    /* log/index: as it is, with a flipped bit, removed */
    for (int round = 0; round < 3; round++) {
        ledger_close(&f.ledger, round == 0 ? 1000 : 0);
        if (round == 2)
            ck_assert_int_eq(disk_remove(f.disk, "log/index"), ENG_OK);
        if (round == 1)
            ck_assert_int_eq(disk_sim_flip(f.disk, "log/index", 8 * 100), ENG_OK);
        enum eng_status status = fixture_open(&f);
        ck_assert_msg(status == ENG_OK, "%s", eng_error());
        ck_assert_uint_eq(ledger_height(f.ledger, NULL), 40);
        for (uint64_t h = 1; h <= 40; h++) {
            read_header(f.ledger, h, &after);
            ck_assert_int_eq(memcmp(&before[h], &after, sizeof(after)), 0);
        }
    }
    put(41, "more", "x");
    reopen(1000);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 41);
}
END_TEST

/* A replay that does not give what the log has is refused: here because another key signs. */
START_TEST(test_replay_differs)
{
    struct fixture other;
    put(1, "k", "v");
    ledger_close(&f.ledger, 0);
    fixture_init(&other, 2);
    other.disk = f.disk;
    ck_assert_int_eq(fixture_open(&other), ENG_FOREIGN); /* not in the signer set */
    other.options.role = LEDGER_FOLLOWER;
    ck_assert_int_eq(fixture_open(&other), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(eng_error(), "block 1"));
    genesis_release(&other.genesis);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    ck_assert(holds("k", "v"));
    ledger_close(&f.ledger, 0);
    f.genesis.ledger_id[0] ^= 1;
    ck_assert_int_eq(fixture_open(&f), ENG_FOREIGN);
    f.genesis.ledger_id[0] ^= 1;
    f.options.create = false;
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}
END_TEST

/* ---- trouble ---- */

START_TEST(test_failed_sync)
{
    struct answer answer = {0};
    char text[512];
    put(1, "k", "v");
    draft_begin(&draft, 2, soon());
    draft_value(&draft, TX_PUT, "k", "w");
    draft_end(&draft);
    ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answer), TX_OK);
    disk_sim_fail(f.disk, 1, ENG_IO); /* the write passes, the sync does not */
    ck_assert_int_eq(ledger_step(f.ledger), ENG_IO);
    ck_assert_int_eq(answer_calls(&answer), 0);
    ck_assert_int_eq(ledger_failure(f.ledger, text, sizeof(text)), ENG_IO);
    ck_assert(text[0] != '\0');
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 1);
    ck_assert(holds("k", "v")); /* reads go on */
    draft.tx.id[0] = 3;
    draft_end(&draft);
    ck_assert_int_eq(ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answer), TX_BUSY);
    draft_release(&draft);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_IO); /* never tried again */
    ledger_close(&f.ledger, 1000);
    ck_assert_int_eq(answer_calls(&answer), 1);
    ck_assert_int_eq(answer.code, TX_BUSY);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    uint64_t height = ledger_height(f.ledger, NULL);
    ck_assert(height == 1 || height == 2);
    ck_assert(holds("k", height == 1 ? "v" : "w"));
}
END_TEST

START_TEST(test_full_disk)
{
    struct disk_file *ballast;
    fixture_release(&f);
    fixture_init(&f, 1);
    f.options.log_file_bytes = 64 << 10;
    ck_assert_int_eq(disk_sim_open(32 << 20, &f.disk), ENG_OK);
    ck_assert_int_eq(disk_open(f.disk, "ballast", DISK_CREATE, &ballast), ENG_OK);
    ck_assert_int_eq(disk_extend(ballast, 28 << 20), ENG_OK);
    disk_file_close(&ballast);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    char value[4001];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    struct answer answers[2000] = {0};
    enum tx_code code = TX_OK;
    enum eng_status status = ENG_OK;
    size_t taken = 0, published;
    for (; code == TX_OK && status == ENG_OK && taken < 2000; taken++) {
        char key[32];
        snprintf(key, sizeof(key), "key/%zu", taken);
        draft_begin(&draft, taken + 1, soon());
        draft_value(&draft, TX_PUT, key, value);
        draft_end(&draft);
        code = ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[taken]);
        draft_release(&draft);
        if (code != TX_OK)
            break;
        status = ledger_step(f.ledger);
    }
    ck_assert(code == TX_BUSY || status == ENG_FULL);
    ck_assert_int_eq(ledger_failure(f.ledger, NULL, 0), ENG_OK);
    published = ledger_height(f.ledger, NULL);
    ck_assert_uint_gt(published, 10);
    ck_assert(holds("key/0", NULL) == false);
    if (status == ENG_FULL) { /* then nothing new is taken */
        draft_begin(&draft, 9999, soon());
        draft_value(&draft, TX_PUT, "k", "v");
        struct answer answer = {0};
        ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_BUSY);
        ck_assert_int_eq(ledger_step(f.ledger), ENG_FULL);
    }
    ck_assert_int_eq(disk_remove(f.disk, "ballast"), ENG_OK);
    status = ledger_step(f.ledger);
    ck_assert_msg(status == ENG_OK, "%s", eng_error());
    for (size_t i = 0; i < taken; i++) { /* nothing that was accepted is lost */
        ck_assert_int_eq(answer_calls(&answers[i]), 1);
        ck_assert_int_eq(answers[i].code, TX_OK);
        ck_assert_int_eq(answers[i].receipt.code, TX_OK);
        answer_release(&answers[i]);
    }
    put(10000, "after", "x");
    reopen(0);
    ck_assert(holds("after", "x"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ledger");
    const struct {
        const char *name;
        const TTest *test;
    } tests[] = {
        {"genesis", test_genesis},
        {"submit", test_submit},
        {"digests", test_digests},
        {"refused", test_refused},
        {"duplicates", test_duplicates},
        {"duplicate replay", test_duplicate_replay},
        {"duplicate in time", test_duplicate_in_time},
        {"block bounds", test_block_bounds},
        {"retention", test_retention},
        {"restart", test_restart},
        {"replay differs", test_replay_differs},
        {"failed sync", test_failed_sync},
        {"full disk", test_full_disk},
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
