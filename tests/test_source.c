/*
 * The source alone, asked by bare sockets: requests that are none, what an answer may hold and how long it may take, as
 * many polls as may wait, the genesis.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <sodium.h>

#include "memory_ledger.h"
#include "message.h"

static nng_socket client(const char *url)
{
    nng_socket socket;
    ck_assert_int_eq(nng_req0_open(&socket), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_REQ_RESENDTIME, -1), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, 20000), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_SENDTIMEO, 20000), 0);
    ck_assert_int_eq(nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, 0), 0);
    ck_assert_int_eq(nng_dial(socket, url, NULL, 0), 0);
    return socket;
}

static void ask(nng_socket socket, const void *bytes, size_t size)
{
    nng_msg *message;
    ck_assert_int_eq(nng_msg_alloc(&message, size), 0);
    if (size)
        memcpy(nng_msg_body(message), bytes, size);
    ck_assert_int_eq(nng_sendmsg(socket, message, 0), 0);
}

/* The decoded answer; *message is to be freed. */
static struct message_reply answer_of(nng_socket socket, nng_msg **message)
{
    struct message_reply reply;
    ck_assert_int_eq(nng_recvmsg(socket, message, 0), 0);
    ck_assert_int_eq(message_reply_decode(nng_msg_body(*message), nng_msg_len(*message), &reply), ENG_OK);
    return reply;
}

static void ask_blocks(nng_socket socket, struct memory_ledger *ledger, uint64_t from, uint32_t max_bytes,
                       uint32_t wait_ms)
{
    struct message_request request = {MESSAGE_BLOCKS, .from = from, .max_bytes = max_bytes, .wait_ms = wait_ms};
    uint8_t bytes[MESSAGE_REQUEST_BYTES_MAX];
    memcpy(request.ledger_id, ledger->ledger_id, 32);
    memcpy(request.previous, from > 1 ? ledger->blocks[from - 1].digest : ledger->ledger_id, 32);
    randombytes_buf(request.node_key, 32);
    ask(socket, bytes, message_request_encode(&request, bytes));
}

/* ---- bad requests ---- */

START_TEST(bad_requests_are_survived)
{
    struct memory_ledger *a = ledger_make(7, 1);
    publish(a, 3);
    struct source *source = serve(a, 0);
    nng_socket socket = client(url_of(0));
    nng_msg *message;
    uint8_t junk[4096];
    for (unsigned i = 0; i < 300; i++) {
        randombytes_buf(junk, sizeof junk);
        ask(socket, junk, i % 200);
        struct message_reply reply = answer_of(socket, &message);
        ck_assert_int_eq(reply.kind, MESSAGE_ERROR);
        ck_assert_int_eq(reply.error, MESSAGE_MALFORMED);
        nng_msg_free(message);
    }
    ask(socket, junk, sizeof junk); /* over the limit: the connection is closed */
    ck_assert_int_eq(nng_recvmsg(socket, &message, 0), NNG_ECONNRESET);
    ask_blocks(socket, a, 1, 1 << 20, 0); /* and made again */
    ck_assert_uint_eq(answer_of(socket, &message).count, 3);
    nng_msg_free(message);
    nng_close(socket);
    source_close(&source);
    ledger_free(a);
}
END_TEST

/* ---- polls ---- */

START_TEST(answers_keep_to_the_bytes_and_the_time)
{
    struct memory_ledger *a = ledger_make(7, 1);
    publish_sized(a, 10, 10000);
    struct source *source = serve(a, 0);
    nng_socket socket = client(url_of(0));
    nng_msg *message;
    ask_blocks(socket, a, 1, 0, 0); /* one at least */
    ck_assert_uint_eq(answer_of(socket, &message).count, 1);
    nng_msg_free(message);
    ask_blocks(socket, a, 4, 25000, 0);
    struct message_reply reply = answer_of(socket, &message);
    ck_assert_uint_eq(reply.count, 2);
    ck_assert_uint_eq(reply.height, 10);
    ck_assert_uint_le(reply.body_bytes, 25000);
    nng_msg_free(message);
    uint64_t start = now_ms();
    ask_blocks(socket, a, 11, 25000, 500);
    reply = answer_of(socket, &message);
    ck_assert_uint_eq(reply.count, 0);
    ck_assert_uint_eq(reply.height, 10);
    ck_assert_uint_ge(now_ms() - start, 490);
    ck_assert_uint_le(now_ms() - start, 5000);
    nng_msg_free(message);
    nng_close(socket);
    source_close(&source);
    ledger_free(a);
}
END_TEST

/* As many polls as there may be wait; others are still answered, one too many is told so, a block wakes them all. */
START_TEST(polls_that_wait_block_nobody)
{
    static nng_socket waiting[REPLICATION_FOLLOWERS_MAX];
    struct memory_ledger *a = ledger_make(7, 1);
    struct source *source;
    nng_msg *message;
    char *json;
    size_t size;
    publish(a, 1);
    ck_assert_int_eq(source_open(&a->table, "inproc://polls", &source), ENG_OK);
    for (int i = 0; i < REPLICATION_FOLLOWERS_MAX; i++) {
        waiting[i] = client("inproc://polls");
        ask_blocks(waiting[i], a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    }
    static struct source_follower seen[REPLICATION_FOLLOWERS_MAX + 1];
    for (uint64_t until = now_ms() + 20000; now_ms() < until; sleep_ms(5)) {
        if (source_followers(source, seen, REPLICATION_FOLLOWERS_MAX + 1) == REPLICATION_FOLLOWERS_MAX)
            break;
    }
    sleep_ms(50);
    ck_assert_uint_eq(source_followers(source, seen, REPLICATION_FOLLOWERS_MAX + 1), REPLICATION_FOLLOWERS_MAX);
    ck_assert_int_eq(replication_fetch_genesis("inproc://polls", 5000, &json, &size), ENG_OK);
    ck_assert_str_eq(json, genesis);
    ck_assert_uint_eq(size, sizeof genesis - 1);
    free(json);
    nng_socket one_more = client("inproc://polls");
    ask_blocks(one_more, a, 1, 1 << 20, REPLICATION_WAIT_MS_MAX);
    ck_assert_uint_eq(answer_of(one_more, &message).count, 1);
    nng_msg_free(message);
    ask_blocks(one_more, a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    ck_assert_int_eq(answer_of(one_more, &message).error, MESSAGE_BUSY);
    nng_msg_free(message);
    for (int i = 0; i < 10; i++)
        nng_close(waiting[i]); /* their places are free again */
    sleep_ms(100);
    ask_blocks(one_more, a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    sleep_ms(50);
    uint64_t start = now_ms();
    publish(a, 1);
    for (int i = 10; i < REPLICATION_FOLLOWERS_MAX; i++) {
        ck_assert_uint_eq(answer_of(waiting[i], &message).count, 1);
        nng_msg_free(message);
        nng_close(waiting[i]);
    }
    ck_assert_uint_eq(answer_of(one_more, &message).count, 1);
    nng_msg_free(message);
    ck_assert_uint_lt(now_ms() - start, 5000);
    nng_close(one_more);
    source_close(&source);
    ledger_free(a);
}
END_TEST

/* As many connections as there may be, none of which asks: a follower that comes is served all the same, and a poll
 * that waits keeps its place. */
START_TEST(idle_connections_give_way)
{
    enum { IDLE = REPLICATION_FOLLOWERS_MAX + 64 - 1 };
    static nng_socket idle[IDLE];
    struct memory_ledger *a = ledger_make(7, 1);
    struct source *source;
    nng_msg *message;
    publish(a, 1);
    ck_assert_int_eq(source_open(&a->table, "inproc://idle", &source), ENG_OK);
    nng_socket waiting = client("inproc://idle");
    ask_blocks(waiting, a, 2, 1 << 20, REPLICATION_WAIT_MS_MAX);
    for (int i = 0; i < IDLE; i++)
        idle[i] = client("inproc://idle");
    sleep_ms(1100);
    uint64_t start = now_ms();
    nng_socket follower = client("inproc://idle");
    ask_blocks(follower, a, 1, 1 << 20, 0);
    ck_assert_uint_eq(answer_of(follower, &message).count, 1);
    nng_msg_free(message);
    ck_assert_uint_lt(now_ms() - start, 5000);
    publish(a, 1);
    ck_assert_uint_eq(answer_of(waiting, &message).count, 1);
    nng_msg_free(message);
    for (int i = 0; i < IDLE; i++)
        nng_close(idle[i]);
    nng_close(waiting);
    nng_close(follower);
    source_close(&source);
    ledger_free(a);
}
END_TEST

START_TEST(genesis_is_fetched)
{
    struct memory_ledger *a = ledger_make(7, 1);
    char *json;
    size_t size;
    uint64_t start = now_ms();
    ck_assert_int_eq(replication_fetch_genesis(url_of(0), 300, &json, &size), ENG_TIMEOUT);
    ck_assert_uint_le(now_ms() - start, 3000);
    ck_assert_ptr_null(json);
    ck_assert_int_eq(replication_fetch_genesis("nonsense", 300, &json, &size), ENG_INVALID);
    struct source *source = serve(a, 0), *second = NULL;
    ck_assert_int_eq(replication_fetch_genesis(url_of(0), 10000, &json, &size), ENG_OK);
    ck_assert_str_eq(json, genesis);
    ck_assert_uint_eq(size, sizeof genesis - 1);
    free(json);
    ck_assert_int_eq(source_open(&a->table, url_of(0), &second), ENG_IO); /* in use */
    ck_assert_ptr_null(second);
    source_close(&source);
    ledger_free(a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("source");
    TCase *tests = tcase_create("source");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, bad_requests_are_survived);
    tcase_add_test(tests, answers_keep_to_the_bytes_and_the_time);
    tcase_add_test(tests, polls_that_wait_block_nobody);
    tcase_add_test(tests, idle_connections_give_way);
    tcase_add_test(tests, genesis_is_fetched);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
