/* The ledger's contract (node/ledger.h), stepped on a simulated disk; at the end with its threads. */
#include <check.h>
#include <pthread.h>
#include <unistd.h>

#include "ledger_fixture.h"

static struct fixture f;
static struct draft draft;

static void setup(void)
{
    fixture_init(&f, 1);
    ck_assert_int_eq(disk_sim_open(0, &f.disk), ENG_OK);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}

static void teardown(void)
{
    fixture_release(&f);
}

static void reopen(int deadline_ms)
{
    ledger_close(&f.ledger, deadline_ms);
    enum eng_status status = fixture_open(&f);
    ck_assert_msg(status == ENG_OK, "%s: %s", eng_status_text(status), eng_error());
}

static uint64_t soon(void)
{
    return f.now_ms + FIXTURE_WINDOW_MS / 2;
}

/* One transaction, one block: key = value. */
static void put(uint64_t number, const char *key, const char *value)
{
    struct answer answer = {0};
    draft_begin(&draft, number, soon());
    draft_value(&draft, TX_PUT, key, value);
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_OK);
    answer_release(&answer);
}

static bool holds_in(struct ledger *ledger, uint64_t height, const char *key, const char *value)
{
    struct eng_snapshot *snapshot;
    enum eng_tag tag;
    uint8_t bytes[64];
    size_t size = 0;
    ck_assert_int_eq(ledger_snapshot(ledger, height, &snapshot), ENG_OK);
    enum eng_status status =
        eng_get_copy(snapshot, (const uint8_t *)key, strlen(key), &tag, bytes, sizeof(bytes), &size);
    eng_snapshot_close(&snapshot);
    if (!value)
        return status == ENG_NOT_FOUND;
    return status == ENG_OK && size == strlen(value) && memcmp(bytes, value, size) == 0;
}

static bool holds(const char *key, const char *value)
{
    return holds_in(f.ledger, ENG_HEAD, key, value);
}

static void read_header(struct ledger *ledger, uint64_t height, struct header *header)
{
    memset(header, 0, sizeof(*header));
    enum eng_status status = ledger_header(ledger, height, header);
    ck_assert_msg(status == ENG_OK, "%s", eng_error());
}

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

/* ---- imports ---- */

static struct import_result import_at(uint64_t height, uint64_t time_ms, const char *note, bool keep_going,
                                      struct draft *drafts, size_t count)
{
    struct import_result result;
    size_t size;
    memset(&result, 0xff, sizeof(result));
    uint8_t *bytes = fixture_block(height, time_ms, note, drafts, count, &size);
    ck_assert_int_eq(ledger_import(f.ledger, bytes, size, keep_going, import_keep, &result), ENG_OK);
    free(bytes);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    return result;
}

static struct import_result import_put(uint64_t height, uint64_t time_ms, const char *note, const char *value)
{
    draft_begin(&draft, 0, 0);
    draft_value(&draft, TX_PUT, "k", value);
    return import_at(height, time_ms, note, false, &draft, 1);
}

START_TEST(test_import)
{
    struct header header, again;
    struct import_result result = import_put(1, 1000, "a note", "one"); /* long before the clock */
    ck_assert_msg(result.status == ENG_OK, "%s", result.text);
    ck_assert(!result.skipped);
    ck_assert_uint_eq(result.height, 1);
    ck_assert_uint_eq(result.transactions, 1);
    read_header(f.ledger, 1, &header);
    ck_assert_uint_eq(header.time_ms, 1000);
    ck_assert_uint_eq(header.note_bytes, 6);
    ck_assert(holds("k", "one"));
    ck_assert_int_eq(import_put(2, 1000, "", "two").status, ENG_OK);
    ck_assert_int_eq(import_put(4, 0, "", "four").status, ENG_INVALID);
    ck_assert_int_eq(import_put(3, 999, "", "back").status, ENG_INVALID);

    result = import_put(1, 0, "a note", "one");
    ck_assert_int_eq(result.status, ENG_OK);
    ck_assert(result.skipped);
    ck_assert(import_put(1, 1000, "a note", "one").skipped);
    ck_assert_int_eq(import_put(1, 1001, "a note", "one").status, ENG_EXISTS);
    ck_assert_int_eq(import_put(1, 0, "another", "one").status, ENG_EXISTS);
    ck_assert_int_eq(import_put(1, 0, "a note", "else").status, ENG_EXISTS);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 2);

    ck_assert_int_eq(import_put(3, 0, "", "now").status, ENG_OK);
    read_header(f.ledger, 3, &again);
    ck_assert_uint_eq(again.time_ms, FIXTURE_TIME_MS);
    draft_begin(&draft, 0, 0);
    result = import_at(4, 0, "no transaction", false, &draft, 0);
    ck_assert_msg(result.status == ENG_OK, "%s", result.text);
    put(9, "k", "submitted after");
    reopen(0);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 5);
    read_header(f.ledger, 1, &again);
    ck_assert_int_eq(memcmp(&header, &again, sizeof(header)), 0);
    ck_assert(holds("k", "submitted after"));

    size_t size;
    struct import_result malformed = {0};
    draft_begin(&draft, 0, 0);
    draft_value(&draft, TX_PUT, "k", "v");
    uint8_t *bytes = fixture_block(6, 0, "", &draft, 1, &size);
    ck_assert_int_eq(ledger_import(f.ledger, bytes, size - 1, false, import_keep, &malformed), ENG_OK);
    ck_assert_int_eq(ledger_step(f.ledger), ENG_OK);
    ck_assert_int_eq(malformed.status, ENG_INVALID);
    ck_assert(malformed.text[0] != '\0');
    free(bytes);
}
END_TEST

START_TEST(test_import_fails)
{
    struct draft drafts[3];
    struct eng_summary before, after;
    struct ledger_status status;
    put(1, "k", "v");
    ledger_status(f.ledger, &status);
    before = status.state;
    for (int i = 0; i < 3; i++) {
        draft_begin(&drafts[i], 0, 0);
        draft_value(&drafts[i], TX_PUT, i ? "b" : "a", "x");
        if (i == 1)
            draft_value(&drafts[i], TX_INSERT, "k", "y");
    }
    struct import_result result = import_at(2, 0, "", false, drafts, 3);
    ck_assert_int_eq(result.status, ENG_CONFLICT);
    ck_assert_uint_eq(result.failed_tx, 1);
    ck_assert_uint_eq(result.failed_op, 1);
    ck_assert_int_eq(result.code, TX_EXISTS);
    ck_assert_ptr_nonnull(strstr(result.text, "block 2, transaction 1, operation 1: EXISTS"));
    ledger_status(f.ledger, &status);
    after = status.state;
    ck_assert_uint_eq(status.height, 1);
    ck_assert_int_eq(memcmp(&before, &after, sizeof(before)), 0);
    ck_assert_uint_eq(status.remembered_ids, 1); /* nothing of the block is remembered */
    ck_assert_int_eq(import_put(3, 0, "", "gap").status, ENG_INVALID);

    result = import_at(2, 0, "", true, drafts, 3); /* keep going: recorded as failed */
    ck_assert_int_eq(result.status, ENG_OK);
    ck_assert_uint_eq(result.transactions, 3);
    ck_assert_uint_eq(result.failed, 1);
    ck_assert(holds("a", "x"));
    ck_assert(holds("k", "v"));
    ledger_status(f.ledger, &status);
    before = status.state;
    reopen(0);
    ledger_status(f.ledger, &status);
    ck_assert_uint_eq(status.height, 2);
    ck_assert_int_eq(memcmp(&before, &status.state, sizeof(before)), 0);

    draft_begin(&drafts[0], 1, soon()); /* the id of the first transaction */
    draft_value(&drafts[0], TX_PUT, "a", "z");
    result = import_at(3, 0, "", true, drafts, 1);
    ck_assert_int_eq(result.status, ENG_CONFLICT);
    ck_assert_int_eq(result.code, TX_EXISTS);
    draft_begin(&drafts[0], 5, f.now_ms);
    draft_value(&drafts[0], TX_PUT, "a", "z");
    result = import_at(3, 0, "", true, drafts, 1);
    ck_assert_int_eq(result.status, ENG_CONFLICT);
    ck_assert_int_eq(result.code, TX_EXPIRED);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 2);
}
END_TEST

/* Ids of imported transactions are derived, so that importing the same file elsewhere gives the same receipts. */
START_TEST(test_import_ids)
{
    uint8_t *sealed = NULL, *found;
    size_t capacity = 0, size, used, found_bytes;
    struct sealed_block block;
    struct receipt first, second;
    struct draft drafts[2];
    for (int i = 0; i < 2; i++) { /* the same bytes twice */
        draft_begin(&drafts[i], 0, 0);
        draft_amount(&drafts[i], "sum", 1);
    }
    ck_assert_int_eq(import_at(1, 0, "", false, drafts, 2).status, ENG_OK);
    ck_assert_int_eq(ledger_read_sealed(f.ledger, 1, &sealed, &capacity, &size), ENG_OK);
    ck_assert_int_eq(sealed_block_decode(sealed, size, &block), ENG_OK);
    ck_assert_int_eq(receipt_decode(block.receipts, block.receipts_bytes, &first, &used), ENG_OK);
    ck_assert_int_eq(receipt_decode(block.receipts + used, block.receipts_bytes - used, &second, &used), ENG_OK);
    ck_assert_int_ne(memcmp(first.id, second.id, TX_ID_BYTES), 0);
    ck_assert_uint_eq(first.expires_ms, FIXTURE_TIME_MS + FIXTURE_WINDOW_MS);
    ck_assert_int_eq(ledger_receipt(f.ledger, second.id, &found, &found_bytes), ENG_OK);
    ck_assert_uint_eq(found_bytes, used);
    free(found);
    free(sealed);
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

/* ---- following ---- */

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

/* ---- with threads ---- */

#define THREADS 4
#define EACH 2000

static struct answer *thread_answers;

static void *submit_many(void *context)
{
    uint64_t thread = *(uint64_t *)context;
    struct draft own;
    for (uint64_t i = 0; i < EACH; i++) {
        char key[32];
        snprintf(key, sizeof(key), "account/%d", (int)((thread * 31 + i * 17) % 100));
        draft_begin(&own, 1 + thread * EACH + i, FIXTURE_TIME_MS + FIXTURE_WINDOW_MS / 2);
        draft_amount(&own, key, 1);
        draft_end(&own);
        struct answer *answer = &thread_answers[thread * EACH + i];
        enum tx_code code;
        while ((code = ledger_submit(f.ledger, own.bytes, own.size, answer_keep, answer)) == TX_BUSY)
            usleep(1000);
        if (code != TX_OK)
            abort();
        draft_release(&own);
    }
    return NULL;
}

static void open_threaded(void)
{
    fixture_release(&f);
    fixture_init(&f, 1);
    f.options.stepped = false;
    f.options.block_max_txs = 500;
    f.options.retain_blocks = 3;
    f.options.checkpoint_log_bytes = 200 << 10;
    ck_assert_int_eq(disk_sim_open(0, &f.disk), ENG_OK);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}

START_TEST(test_threads)
{
    open_threaded();
    thread_answers = calloc(THREADS * EACH, sizeof(*thread_answers));
    pthread_t threads[THREADS];
    uint64_t numbers[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, submit_many, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ledger_close(&f.ledger, 5000); /* answers what was accepted */
    uint64_t newest = 0, total = 0;
    for (size_t i = 0; i < THREADS * EACH; i++) {
        ck_assert_int_eq(answer_calls(&thread_answers[i]), 1);
        ck_assert_int_eq(thread_answers[i].code, TX_OK);
        if (thread_answers[i].receipt.height > newest)
            newest = thread_answers[i].receipt.height;
        /* one thread's transactions keep their order */
        if (i % EACH) {
            const struct receipt *a = &thread_answers[i - 1].receipt, *b = &thread_answers[i].receipt;
            ck_assert(a->height < b->height || (a->height == b->height && a->index < b->index));
        }
    }
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), newest);
    struct header header;
    read_header(f.ledger, newest, &header);
    ck_assert_uint_eq(header.state.sum[0], THREADS * EACH);
    for (uint64_t h = 1; h <= newest; h++) {
        read_header(f.ledger, h, &header);
        total += header.transactions;
    }
    ck_assert_uint_eq(total, THREADS * EACH);
    for (size_t i = 0; i < THREADS * EACH; i++)
        answer_release(&thread_answers[i]);
    free(thread_answers);
}
END_TEST

/* Submits one transaction and waits for its receipt. */
static void put_threaded(uint64_t number, const char *key)
{
    struct answer answer = {0};
    draft_begin(&draft, number, soon());
    draft_value(&draft, TX_PUT, key, "x");
    draft_end(&draft);
    enum tx_code code;
    while ((code = ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answer)) == TX_BUSY)
        usleep(1000);
    ck_assert_int_eq(code, TX_OK);
    while (answer_calls(&answer) == 0)
        usleep(1000);
    ck_assert_int_eq(answer.code, TX_OK);
    answer_release(&answer);
    draft_release(&draft);
}

static atomic_uint imported;

static void count_import(void *context, const struct import_result *result)
{
    if (result->status == ENG_OK)
        atomic_fetch_add_explicit(&imported, 1, memory_order_relaxed);
}

START_TEST(test_import_pipeline)
{
    open_threaded();
    enum eng_status status;
    atomic_store_explicit(&imported, 0, memory_order_relaxed);
    for (uint64_t h = 1; h <= 1000; h++) {
        size_t size;
        draft_begin(&draft, 0, 0);
        draft_amount(&draft, "sum", 1);
        uint8_t *bytes = fixture_block(h, h, "", &draft, 1, &size);
        while ((status = ledger_import(f.ledger, bytes, size, false, count_import, NULL)) == ENG_BUSY)
            usleep(1000);
        ck_assert_int_eq(status, ENG_OK);
        free(bytes);
    }
    ck_assert_int_eq(ledger_wait(f.ledger, 1000, 60000), ENG_OK);
    ck_assert_int_eq(ledger_wait(f.ledger, 1001, 10), ENG_TIMEOUT);
    struct header header;
    read_header(f.ledger, 1000, &header);
    ck_assert_uint_eq(header.state.sum[0], 1000);
    ledger_close(&f.ledger, 5000);
    ck_assert_uint_eq(atomic_load_explicit(&imported, memory_order_relaxed), 1000);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    ck_assert_uint_eq(ledger_height(f.ledger, NULL), 1000);
}
END_TEST

/* The threads wait for space and go on: nothing that was accepted is lost. */
START_TEST(test_full_threads)
{
    struct disk_file *ballast;
    fixture_release(&f);
    fixture_init(&f, 1);
    f.options.stepped = false;
    f.options.log_file_bytes = 64 << 10;
    f.options.segment_bytes = 64 << 10;
    ck_assert_int_eq(disk_sim_open(32 << 20, &f.disk), ENG_OK);
    ck_assert_int_eq(disk_open(f.disk, "ballast", DISK_CREATE, &ballast), ENG_OK);
    ck_assert_int_eq(disk_extend(ballast, 28 << 20), ENG_OK);
    disk_file_close(&ballast);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    put_threaded(6000, "before");
    char value[4001];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    struct answer *answers = calloc(2000, sizeof(*answers));
    enum tx_code code = TX_OK;
    size_t taken = 0;
    while (taken < 2000) {
        char key[32];
        snprintf(key, sizeof(key), "key/%zu", taken);
        draft_begin(&draft, taken + 1, soon());
        draft_value(&draft, TX_PUT, key, value);
        draft_end(&draft);
        code = ledger_submit(f.ledger, draft.bytes, draft.size, answer_keep, &answers[taken]);
        draft_release(&draft);
        if (code != TX_OK)
            break;
        taken++;
    }
    ck_assert_int_eq(code, TX_BUSY);
    usleep(100000);
    ck_assert_int_eq(ledger_failure(f.ledger, NULL, 0), ENG_OK);
    if (_i == 0) {
        ck_assert_int_eq(disk_remove(f.disk, "ballast"), ENG_OK);
        for (int i = 0; i < 500 && answer_calls(&answers[taken - 1]) == 0; i++)
            usleep(10000);
        put_threaded(5000, "after");
        ledger_close(&f.ledger, 1000);
    } else {
        ledger_close(&f.ledger, 1000); /* still full: what is done is done, the rest is told so */
        ck_assert_int_eq(disk_remove(f.disk, "ballast"), ENG_OK);
    }
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
    uint64_t height = ledger_height(f.ledger, NULL);
    size_t done = 0;
    for (size_t i = 0; i < taken; i++) {
        ck_assert_int_eq(answer_calls(&answers[i]), 1);
        if (_i == 0)
            ck_assert_int_eq(answers[i].code, TX_OK);
        else
            ck_assert(answers[i].code == TX_OK || answers[i].code == TX_BUSY);
        if (answers[i].code == TX_OK) {
            char key[32];
            snprintf(key, sizeof(key), "key/%zu", i);
            ck_assert(answers[i].receipt.height <= height);
            ck_assert(!holds(key, NULL));
            done++;
        }
        answer_release(&answers[i]);
    }
    ck_assert(_i ? done <= taken : done == taken);
    ck_assert(holds("before", "x"));
    ck_assert(_i ? holds("after", NULL) : holds("after", "x"));
    free(answers);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ledger");
    const struct {
        const char *name;
        const TTest *test;
        int times;
    } tests[] = {
        {"genesis", test_genesis, 1},
        {"submit", test_submit, 1},
        {"digests", test_digests, 1},
        {"refused", test_refused, 1},
        {"duplicates", test_duplicates, 1},
        {"duplicate replay", test_duplicate_replay, 1},
        {"block bounds", test_block_bounds, 1},
        {"import", test_import, 1},
        {"import fails", test_import_fails, 1},
        {"import ids", test_import_ids, 1},
        {"retention", test_retention, 1},
        {"restart", test_restart, 1},
        {"replay differs", test_replay_differs, 1},
        {"failed sync", test_failed_sync, 1},
        {"full disk", test_full_disk, 1},
        {"follow", test_follow, 1},
        {"diverged", test_diverged, 1},
        {"threads", test_threads, 1},
        {"import pipeline", test_import_pipeline, 1},
        {"full threads", test_full_threads, 2},
    };
    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        TCase *tcase = tcase_create(tests[i].name);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_set_timeout(tcase, 120);
        tcase_add_loop_test(tcase, tests[i].test, 0, tests[i].times);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
