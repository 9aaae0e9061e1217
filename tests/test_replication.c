/*
 * Source and follower over real sockets, between ledgers that live in memory (memory_ledger.h): what a follower gets
 * over, what makes it fail, and that it believes nothing of what it is given: neither a block with any field changed
 * nor an answer of any wrong shape.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/reqrep0/rep.h>
#include <sodium.h>

#include "memory_ledger.h"
#include "message.h"

static void assert_equal(struct memory_ledger *a, struct memory_ledger *b)
{
    uint8_t digest_a[32], digest_b[32];
    ck_assert_uint_eq(memory_height(a, digest_a), memory_height(b, digest_b));
    ck_assert_mem_eq(digest_a, digest_b, 32);
}

static struct follower *follow(struct memory_ledger *ledger, int from, int to)
{
    const char *urls[4];
    size_t count = 0;
    for (int n = from; n <= to; n++)
        urls[count++] = url_of(n);
    struct follower *follower;
    ck_assert_msg(follower_open(&ledger->table, urls, count, &follower) == ENG_OK, "%s", eng_error());
    return follower;
}

static void wait_state(struct follower *follower, enum follower_state state, struct follower_status *status)
{
    for (uint64_t until = now_ms() + 20000; now_ms() < until; sleep_ms(5)) {
        follower_status(follower, status);
        if (status->state == state)
            return;
    }
    ck_abort_msg("state is %d and not %d: %s", status->state, state, status->error);
}

static void wait_error(struct follower *follower, const char *part, struct follower_status *status)
{
    for (uint64_t until = now_ms() + 20000; now_ms() < until; sleep_ms(5)) {
        follower_status(follower, status);
        if (strstr(status->error, part))
            return;
    }
    ck_abort_msg("error is '%s', without '%s'", status->error, part);
}

/* ---- following ---- */

START_TEST(catches_up_and_stays_live)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 1000);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 1000, 20000), ENG_OK);
    assert_equal(a, b);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_uint_eq(status.source_height, 1000);
    ck_assert_str_eq(status.address, url_of(0));
    ck_assert_str_eq(status.error, "");
    uint64_t worst = 0;
    for (unsigned i = 1; i <= 20; i++) { /* each wakes a poll that waits */
        sleep_ms(10);
        uint64_t start = now_ms();
        publish(a, 1);
        ck_assert_int_eq(memory_wait(b, 1000 + i, 5000), ENG_OK);
        worst = now_ms() - start > worst ? now_ms() - start : worst;
    }
    ck_assert_uint_lt(worst, 2000);
    struct source_follower seen[4];
    sleep_ms(100);
    ck_assert_uint_eq(source_followers(source, seen, 4), 1);
    ck_assert_mem_eq(seen[0].node_key, b->node_key, 32);
    ck_assert_uint_eq(seen[0].durable_height, 1020);
    follower_close(&follower);
    ck_assert_ptr_null(follower);
    source_close(&source);
    assert_equal(a, b);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(resumes_after_both_ends_restart)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 50);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 50, 20000), ENG_OK);
    follower_close(&follower);
    publish(a, 50);
    follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 100, 20000), ENG_OK);
    for (unsigned turn = 1; turn <= 3; turn++) { /* the source goes away during a poll */
        source_close(&source);
        wait_state(follower, FOLLOWER_CONNECTING, &status);
        publish(a, 10);
        source = serve(a, 0);
        ck_assert_int_eq(memory_wait(b, 100 + 10 * turn, 20000), ENG_OK);
    }
    wait_state(follower, FOLLOWER_LIVE, &status);
    assert_equal(a, b);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(relays_follow_relays)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2), *c = ledger_make(7, 3);
    struct source *source = serve(a, 0), *relay = serve(b, 1);
    struct follower *first = follow(b, 0, 0), *second = follow(c, 1, 1);
    publish_sized(a, 300, 40000); /* several full answers */
    ck_assert_int_eq(memory_wait(c, 300, 30000), ENG_OK);
    assert_equal(a, c);
    follower_close(&second);
    follower_close(&first);
    source_close(&relay);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
    ledger_free(c);
}
END_TEST

START_TEST(a_busy_ledger_is_tried_again)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 20);
    b->busy = 2;
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 20, 20000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_int_eq(b->busy, 0);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* For a while something answers at the address that is no source at all. */
START_TEST(a_wrong_peer_is_forgotten)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    nng_socket other;
    publish(a, 3);
    ck_assert_int_eq(nng_pull0_open(&other), 0);
    ck_assert_int_eq(nng_listen(other, url_of(0), NULL, 0), 0);
    struct follower *follower = follow(b, 0, 0);
    sleep_ms(1500);
    nng_close(other);
    struct source *source = serve(a, 0);
    wait_state(follower, FOLLOWER_LIVE, &status);
    assert_equal(a, b);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(one_source_of_two_is_enough)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2), *pruned = ledger_make(7, 3);
    struct follower_status status;
    publish(a, 100);
    publish(pruned, 100);
    pruned->first = 60;
    struct source *source = serve(a, 2), *short_source = serve(pruned, 1);
    struct follower *follower = follow(b, 0, 2); /* 0 is dead, 1 has pruned what is wanted, 2 is good */
    ck_assert_int_eq(memory_wait(b, 100, 20000), ENG_OK);
    assert_equal(a, b);
    source_close(&source); /* now what was pruned does not matter any more */
    publish(pruned, 10);
    ck_assert_int_eq(memory_wait(b, 110, 20000), ENG_OK);
    assert_equal(pruned, b);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_str_eq(status.address, url_of(1));
    follower_close(&follower);
    source_close(&short_source);
    ledger_free(a);
    ledger_free(b);
    ledger_free(pruned);
}
END_TEST

/* A node that is connected and never answers costs what another one delivers a moment, once in a while. */
START_TEST(a_silent_source_delays_little)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    nng_socket silent;
    publish(a, 10);
    ck_assert_int_eq(nng_rep0_open(&silent), 0);
    ck_assert_int_eq(nng_listen(silent, url_of(0), NULL, 0), 0);
    struct source *source = serve(a, 1);
    struct follower *follower = follow(b, 0, 1);
    ck_assert_int_eq(memory_wait(b, 10, 20000), ENG_OK);
    for (uint64_t round = 1; round <= 3; round++) {
        sleep_ms(10500); /* a poll that brings nothing ends after 10 s: then the silent one is asked */
        publish(a, 1);
        ck_assert_int_eq(memory_wait(b, 10 + round, round == 1 ? 20000 : 4000), ENG_OK); /* 1: it may be new to it */
    }
    source_close(&source); /* and if it is the only one left, it is asked as ever */
    nng_close(silent);
    source = serve(a, 0);
    publish(a, 1);
    ck_assert_int_eq(memory_wait(b, 14, 20000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_str_eq(status.address, url_of(0));
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* ---- refusing ---- */

START_TEST(gone_everywhere_fails)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    char line[400];
    publish(a, 30);
    a->first = 12;
    struct source *source = serve(a, 0), *other = serve(a, 1);
    struct follower *follower = follow(b, 0, 1);
    wait_state(follower, FOLLOWER_FAILED, &status);
    snprintf(line, sizeof line, "height 1 is no longer kept by %s, the first is 12", status.address);
    ck_assert_str_eq(status.error, line);
    ck_assert_uint_eq(b->height, 0);
    follower_close(&follower);
    source_close(&source);
    source_close(&other);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(a_source_that_stops_says_so)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 3);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 3, 20000), ENG_OK);
    struct source_follower seen = {.durable_height = 0};
    for (uint64_t until = now_ms() + 20000; seen.durable_height != 3 && now_ms() < until; sleep_ms(5))
        (void)source_followers(source, &seen, 1);
    ck_assert_uint_eq(seen.durable_height, 3); /* its next poll is at the source */
    uint64_t start = now_ms();
    source_close(&source);
    ck_assert_uint_lt(now_ms() - start, 5000); /* it was not given up */
    publish(a, 1);
    source = serve(a, 0);
    ck_assert_int_eq(memory_wait(b, 4, 20000), ENG_OK);
    ck_assert_uint_ge(now_ms() - start, 500); /* the follower let it close in peace */
    wait_state(follower, FOLLOWER_LIVE, &status);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

START_TEST(another_ledger_fails)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(8, 2);
    struct follower_status status;
    publish(a, 3);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_ptr_nonnull(strstr(status.error, "another ledger, id 0707070707070707"));
    struct source_follower seen[1];
    ck_assert_uint_eq(source_followers(source, seen, 1), 0);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* The follower has another block: in the middle of the source's ledger (0), at its newest height (1). */
START_TEST(diverged_at_the_source_fails)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, _i == 0 ? 9 : 5);
    publish(b, 4);
    publish_sized(b, 1, 50);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_ptr_nonnull(strstr(status.error, "diverged: that node has another header at height 5"));
    ck_assert_uint_eq(b->height, 5);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

enum tamper {
    LEDGER_ID,
    HEIGHT,
    HEIGHT_SKIPPED,
    PREVIOUS,
    TIME,
    EPOCH,
    TRANSACTIONS_DIGEST,
    RECEIPTS_DIGEST,
    STATE,
    STATE_COUNT,
    SYSTEM_ROOT,
    TRANSACTION_COUNT,
    NOTE,
    SIGNER,
    SIGNATURE,
    RECEIPTS,
    TRANSACTIONS,
    DIFF,
    TRUNCATED,
    EXTENDED,
    TAMPER_END
};

/* What the follower says when the header was signed again by the right signer, and when it was not. NEXT: a link cannot
 * know better than the right signer and takes the block; then the next one does not follow on it. */
#define NEXT "block 7 is refused: it does not follow on our header"
static const char *const reasons[TAMPER_END][2] = {
    [LEDGER_ID] = {"another ledger", "another ledger"},
    [HEIGHT] = {"another height", "another height"},
    [HEIGHT_SKIPPED] = {"another height", "another height"},
    [PREVIOUS] = {"does not follow on our header", "does not follow on our header"},
    [TIME] = {"time goes back", "time goes back"},
    [EPOCH] = {"epoch goes back", "epoch goes back"},
    [TRANSACTIONS_DIGEST] = {"its transactions", "signature"},
    [RECEIPTS_DIGEST] = {"its receipts", "signature"},
    [STATE] = {"diverges", "signature"},
    [STATE_COUNT] = {"diverges", "signature"},
    [SYSTEM_ROOT] = {NEXT, "signature"},
    [TRANSACTION_COUNT] = {NEXT, "signature"},
    [NOTE] = {NEXT, "signature"},
    [SIGNER] = {"signer set", "signer set"},
    [SIGNATURE] = {"signature", "signature"},
    [RECEIPTS] = {"its receipts", "its receipts"},
    [TRANSACTIONS] = {"its transactions", "its transactions"},
    [DIFF] = {"diverges", "diverges"},
    [TRUNCATED] = {"block 6", "block 6"},
    [EXTENDED] = {"block 6", "block 6"},
};

static void tamper_header(enum tamper what, struct header *header)
{
    switch (what) {
    case LEDGER_ID:
        header->ledger_id[31] ^= 1;
        break;
    case HEIGHT:
        header->height--;
        break;
    case HEIGHT_SKIPPED:
        header->height++;
        break;
    case PREVIOUS:
        header->previous[0] ^= 1;
        break;
    case TIME:
        header->time_ms -= 2;
        break;
    case EPOCH:
        header->epoch--;
        break;
    case TRANSACTIONS_DIGEST:
        header->transactions_digest[5] ^= 1;
        break;
    case RECEIPTS_DIGEST:
        header->receipts_digest[5] ^= 1;
        break;
    case STATE:
        header->state.digest[5] ^= 1;
        break;
    case STATE_COUNT:
        header->state.count++;
        break;
    case SYSTEM_ROOT:
        header->system_root[0] ^= 1;
        break;
    case TRANSACTION_COUNT:
        header->transactions++;
        break;
    case NOTE:
        header->note[0] ^= 1;
        break;
    case SIGNER:
    case SIGNATURE:
    case RECEIPTS:
    case TRANSACTIONS:
    case DIFF:
    case TRUNCATED:
    case EXTENDED:
    case TAMPER_END:
        break;
    }
}

/* Makes height 6 of a (which has 5 blocks) and serves it changed. */
static void tamper(struct memory_ledger *a, enum tamper what, bool sign_again)
{
    struct header header;
    struct sealed_block block;
    struct diff_writer diff = {0};
    uint8_t changed[16] = "changed", other_key[32], other_secret[64];
    make_block(a, &header, &block, &diff, 100);
    if (!sign_again)
        header_sign(&header, a->secret);
    tamper_header(what, &header);
    if (sign_again)
        header_sign(&header, a->secret);
    if (what == SIGNER) {
        crypto_sign_keypair(other_key, other_secret);
        header_sign(&header, other_secret);
    }
    if (what == SIGNATURE)
        header.signature[3] ^= 1;
    if (what == RECEIPTS)
        block.receipts = changed;
    if (what == TRANSACTIONS)
        block.transactions = changed;
    if (what == DIFF)
        diff.bytes[diff.size - 1] ^= 1;
    size_t size;
    uint8_t *sealed = seal(&header, &block, &size);
    if (what == EXTENDED) {
        sealed = realloc(sealed, size + 1);
        sealed[size++] = 0;
    }
    a->tampered = 6;
    a->tampered_size = what == TRUNCATED ? size - 1 : size;
    a->tampered_bytes = sealed;
    free(diff.bytes);
    publish(a, 2);
}

START_TEST(tampered_blocks_are_refused)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    enum tamper what = (enum tamper)(_i / 2);
    bool sign_again = _i % 2 == 0;
    const char *reason = reasons[what][sign_again ? 0 : 1];
    publish(a, 5); /* these are good, and in the same answer */
    tamper(a, what, sign_again);
    struct source *source = serve(a, 0);
    struct follower *follower = follow(b, 0, 0);
    ck_assert_int_eq(memory_wait(b, 5, 20000), ENG_OK); /* those before are good */
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_msg(strstr(status.error, reason), "'%s' without '%s'", status.error, reason);
    ck_assert_uint_eq(b->height, strcmp(reason, NEXT) == 0 ? 6 : 5);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* ---- one of several ---- */

static char warned[512];
static int warnings;

static void warn(void *context, const char *line)
{
    warnings++;
    snprintf(warned, sizeof warned, "%s", line);
}

/* One of two sources gives a block that is not to be believed, or says that we have diverged: it is named, once, and
 * the other one is followed as ever. When it gives the right blocks again, nothing is left of it. */
START_TEST(a_liar_of_two_is_passed_over)
{
    static const enum tamper lies[] = {DIFF, SIGNATURE, PREVIOUS, EXTENDED, TAMPER_END};
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2), *liar = ledger_make(7, 3);
    struct follower_status status;
    const char *reason = "diverged: that node has another header at height 7";
    publish(a, 7);
    publish(liar, 5);
    if (lies[_i] != TAMPER_END) {
        tamper(liar, lies[_i], false);
        reason = reasons[lies[_i]][1];
    } else { /* a fork, and it is asked what comes behind */
        publish_sized(liar, 1, 50);
        publish(liar, 2);
        publish(b, 7);
    }
    b->table.warn = warn;
    struct source *bad = serve(liar, 0);
    struct follower *follower = follow(b, 0, 1);
    wait_error(follower, reason, &status); /* alone it is no reason to stop: the other one may come */
    ck_assert_int_eq(status.state, FOLLOWER_CONNECTING);
    struct source *good = serve(a, 1);
    ck_assert_int_eq(memory_wait(b, 7, 20000), ENG_OK);
    publish(a, 1);
    ck_assert_int_eq(memory_wait(b, 8, 5000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    assert_equal(a, b);
    ck_assert_str_eq(status.address, url_of(1));
    ck_assert_int_eq(warnings, 1);
    ck_assert_msg(strncmp(warned, url_of(0), strlen(url_of(0))) == 0 && strstr(warned, reason), "'%s'", warned);
    ck_assert_str_eq(status.error, warned);
    source_close(&bad);
    if (_i == 0) { /* the truth where the lies came from */
        source_close(&good);
        publish(a, 1);
        good = serve(a, 0);
        ck_assert_int_eq(memory_wait(b, 9, 20000), ENG_OK);
        wait_state(follower, FOLLOWER_LIVE, &status);
        ck_assert_str_eq(status.error, "");
    }
    follower_close(&follower);
    source_close(&good);
    ledger_free(a);
    ledger_free(b);
    ledger_free(liar);
}
END_TEST

/* All of them do: there is nobody left to follow. */
START_TEST(two_liars_of_two_fail)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2), *other = ledger_make(7, 3);
    struct follower_status status;
    publish(a, 5);
    tamper(a, DIFF, false);
    publish(other, 5);
    tamper(other, SIGNATURE, false);
    struct source *source = serve(a, 0), *second = serve(other, 1);
    struct follower *follower = follow(b, 0, 1);
    wait_state(follower, FOLLOWER_FAILED, &status);
    ck_assert_ptr_nonnull(strstr(status.error, "block 6"));
    ck_assert_uint_eq(b->height, 5);
    follower_close(&follower);
    source_close(&source);
    source_close(&second);
    ledger_free(a);
    ledger_free(b);
    ledger_free(other);
}
END_TEST

/* ---- bad answers ---- */

struct liar {
    nng_socket socket;
    uint8_t *bytes[8];
    size_t size[8];
    unsigned answered, count;
};

static void *liar_main(void *context)
{
    struct liar *liar = context;
    for (; liar->answered < liar->count; liar->answered++) {
        nng_msg *message, *answer;
        if (nng_recvmsg(liar->socket, &message, 0) != 0)
            break;
        nng_msg_free(message);
        ck_assert_int_eq(nng_msg_alloc(&answer, liar->size[liar->answered]), 0);
        if (liar->bytes[liar->answered])
            memcpy(nng_msg_body(answer), liar->bytes[liar->answered], liar->size[liar->answered]);
        ck_assert_int_eq(nng_sendmsg(liar->socket, answer, 0), 0);
    }
    return NULL;
}

static pthread_t liar_open(struct liar *liar)
{
    pthread_t thread;
    ck_assert_int_eq(nng_rep0_open(&liar->socket), 0);
    ck_assert_int_eq(nng_socket_set_ms(liar->socket, NNG_OPT_RECVTIMEO, 20000), 0);
    ck_assert_int_eq(nng_listen(liar->socket, url_of(0), NULL, 0), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, liar_main, liar), 0);
    return thread;
}

/* Answers of every wrong shape; afterwards the right source at the same address. */
START_TEST(bad_answers_are_survived)
{
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    publish(a, 3);
    struct liar liar = {.count = 7};
    uint8_t head[64] = {0};
    message_blocks_head(3, 2, head);
    liar.bytes[0] = head, liar.size[0] = 0;                                   /* nothing at all */
    liar.bytes[1] = head, liar.size[1] = 7;                                   /* half a head */
    liar.bytes[2] = head, liar.size[2] = MESSAGE_BLOCKS_HEAD_BYTES;           /* two blocks, none there */
    liar.bytes[3] = NULL, liar.size[3] = REPLICATION_REPLY_BYTES_MAX + 65536; /* nng closes the connection */
    uint8_t long_block[64] = {0};
    message_blocks_head(3, 1, long_block);
    message_put_size(0xffffffff, long_block + MESSAGE_BLOCKS_HEAD_BYTES);
    liar.bytes[4] = long_block, liar.size[4] = sizeof long_block;
    uint8_t other[MESSAGE_GENESIS_HEAD_BYTES];
    message_genesis_head(0, other);
    liar.bytes[5] = other, liar.size[5] = sizeof other; /* an answer to another question */
    uint8_t newer[3] = {9, 0, 1};
    liar.bytes[6] = newer, liar.size[6] = sizeof newer;
    pthread_t thread = liar_open(&liar);
    struct follower *follower = follow(b, 0, 0);
    wait_error(follower, "version 9", &status);
    ck_assert_int_eq(status.state, FOLLOWER_CONNECTING);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(liar.answered, liar.count);
    nng_close(liar.socket);
    ck_assert_uint_eq(b->height, 0);
    struct source *source = serve(a, 0);
    ck_assert_int_eq(memory_wait(b, 3, 20000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

/* Half a head, an answer to another question, and a height that has no block: one of two sources that says so is named
 * and passed over. */
START_TEST(bad_answers_of_one_of_two_are_named)
{
    static const char *const lines[] = {"cut short", "an answer of another kind", "has height 9, and gives no block"};
    struct memory_ledger *a = ledger_make(7, 1), *b = ledger_make(7, 2);
    struct follower_status status;
    uint8_t head[64] = {0};
    struct liar liar = {.bytes = {head}, .size = {7}, .count = 1};
    publish(a, 3);
    if (_i == 1) {
        message_genesis_head(0, head);
    } else {
        message_blocks_head(9, 0, head);
        liar.size[0] = _i == 0 ? 7 : MESSAGE_BLOCKS_HEAD_BYTES;
    }
    pthread_t thread = liar_open(&liar);
    b->table.warn = warn;
    struct follower *follower = follow(b, 0, 1);
    wait_error(follower, lines[_i], &status);
    struct source *source = serve(a, 1);
    ck_assert_int_eq(memory_wait(b, 3, 20000), ENG_OK);
    wait_state(follower, FOLLOWER_LIVE, &status);
    ck_assert_str_eq(status.address, url_of(1));
    ck_assert_int_eq(warnings, 1);
    ck_assert_str_eq(status.error, warned);
    ck_assert_msg(strncmp(warned, url_of(0), strlen(url_of(0))) == 0 && strstr(warned, lines[_i]), "'%s'", warned);
    pthread_join(thread, NULL);
    nng_close(liar.socket);
    follower_close(&follower);
    source_close(&source);
    ledger_free(a);
    ledger_free(b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("replication");
    TCase *tests = tcase_create("replication");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, catches_up_and_stays_live);
    tcase_add_test(tests, resumes_after_both_ends_restart);
    tcase_add_test(tests, relays_follow_relays);
    tcase_add_test(tests, a_busy_ledger_is_tried_again);
    tcase_add_test(tests, a_wrong_peer_is_forgotten);
    tcase_add_test(tests, one_source_of_two_is_enough);
    tcase_add_test(tests, a_silent_source_delays_little);
    tcase_add_test(tests, gone_everywhere_fails);
    tcase_add_test(tests, a_source_that_stops_says_so);
    tcase_add_test(tests, another_ledger_fails);
    tcase_add_loop_test(tests, diverged_at_the_source_fails, 0, 2);
    tcase_add_loop_test(tests, tampered_blocks_are_refused, 0, 2 * TAMPER_END);
    tcase_add_loop_test(tests, a_liar_of_two_is_passed_over, 0, 5);
    tcase_add_test(tests, two_liars_of_two_fail);
    tcase_add_test(tests, bad_answers_are_survived);
    tcase_add_loop_test(tests, bad_answers_of_one_of_two_are_named, 0, 3);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
