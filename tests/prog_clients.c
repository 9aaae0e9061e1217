/*
 * 64 concurrent clients against a pandod that this program makes and starts: every receipt is right, once and for ever.
 *
 *     prog_clients [--long]       20,000 transactions; --long 200,000
 *
 * Happy path: pando init and pandod (of ../node beside this program, or of $PANDO_NODE) on a temporary directory; each
 * client has a connection and a thread of its own and submits its share, one transaction of one `add` at a time, to
 * CLIENT_ACCOUNTS accounts; then
 *
 *   1. every answer is a receipt with the code OK and the id that was sent;
 *   2. no two receipts have the same height and index;
 *   3. replayed in the order of the receipts by a model (an array of amounts), every transaction returns what its
 *      receipt says: so the order that the receipts name is one in which all of it happened;
 *   4. every account read from the node has the model's amount, and count and sum of the root are the model's;
 *   5. every 20th transaction, submitted again by other clients, brings back the first receipt byte for byte, and
 *      the root stays.
 *
 * Latency (p50, p99, largest) and throughput are printed; nothing is concluded from them.
 *
 * Ways to fail: one line on stderr and exit code 1; the node's log is then left in the directory that is named.
 * The node ends with this program however that ends (PR_SET_PDEATHSIG).
 */
#include "client.h"
#include "receipt.h"

#include <libgen.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS 64u
#define CLIENT_ACCOUNTS 1000u
#define SHORT_TRANSACTIONS 20000u
#define LONG_TRANSACTIONS 200000u
#define AGAIN_EVERY 20u
#define RECEIPT_BYTES_MAX 128u
#define BUSY_TRIES 1000u
#define START_MS 60000
#define STOP_MS 30000

struct sent {
    uint8_t *bytes; /* the transaction */
    size_t size;
    uint8_t id[TX_ID_BYTES];
    uint32_t account;
    __int128 amount;
    uint8_t receipt[RECEIPT_BYTES_MAX];
    uint32_t receipt_bytes;
    uint64_t latency_ns;
    uint64_t height;
    uint32_t index;
    __int128 result;
};

struct client {
    struct test *test;
    pthread_t thread;
    uint32_t number;
};

struct test {
    char programs[4096], directory[64], url[160];
    pid_t node;
    uint32_t count;
    struct sent *sent;
    bool again; /* the second time */
    struct client clients[CLIENTS];
    atomic_uint busy; /* relaxed throughout: only counted */
};

static struct test test;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "FAILED: %s: %s (log: %s/log)\n", what, why, test.directory);
    if (test.node > 0)
        kill(test.node, SIGKILL);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void pause_ms(unsigned milliseconds)
{
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L}, NULL);
}

/* ---- the node ---- */

/* Starts a program of ../node with its output in the log. */
static pid_t start_program(const char *name, const char *first, const char *second)
{
    char path[4200], log[128];
    snprintf(path, sizeof path, "%s/%s", test.programs, name);
    snprintf(log, sizeof log, "%s/log", test.directory);
    pid_t child = fork();
    if (child < 0)
        fail(path, "cannot fork");
    if (child > 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!freopen(log, "a", stdout) || !freopen(log, "a", stderr))
        _exit(127);
    execl(path, name, first, second, (char *)NULL);
    perror(path);
    _exit(127);
}

static void start_node(void)
{
    char data[128];
    int state;
    snprintf(data, sizeof data, "%s/data", test.directory);
    snprintf(test.url, sizeof test.url, "ipc://%s/pando.ipc", data);
    pid_t init = start_program("pando", "init", data);
    if (waitpid(init, &state, 0) != init || state != 0)
        fail("pando init", "did not end with 0, or is not built");
    char path[160];
    snprintf(path, sizeof path, "%s/pando.conf", data);
    FILE *file = fopen(path, "w");
    if (!file ||
        fputs("[retain]\nblocks = 16\n[engine]\ncheckpoint_log_bytes = 1M\n[replication]\nlisten = none\n", file) < 0 ||
        fclose(file) != 0)
        fail(path, "cannot be written");
    test.node = start_program("pandod", "--data", data);
    struct pando *pando = NULL;
    for (uint64_t until = now_ns() + START_MS * 1000000ull; pando_connect(test.url, &pando) != ENG_OK; pause_ms(20)) {
        if (waitpid(test.node, &state, WNOHANG) == test.node)
            fail("pandod", "ended instead of starting");
        if (now_ns() > until)
            fail("pandod", "does not answer");
    }
    pando_disconnect(&pando);
}

static void stop_node(void)
{
    int state = -1;
    kill(test.node, SIGTERM);
    for (uint64_t until = now_ns() + STOP_MS * 1000000ull; waitpid(test.node, &state, WNOHANG) != test.node;
         pause_ms(10))
        if (now_ns() > until)
            fail("pandod", "did not end in time after SIGTERM");
    test.node = 0;
    if (state != 0)
        fail("pandod", "did not end with 0");
}

static struct pando *connect_node(void)
{
    struct pando *pando;
    if (pando_connect(test.url, &pando) != ENG_OK)
        fail("connect", eng_error());
    return pando;
}

/* ---- transactions ---- */

static void account_key(uint32_t account, char key[16])
{
    snprintf(key, 16, "account/%04u", account);
}

static void make_transactions(uint64_t expires_ms)
{
    test.sent = calloc(test.count, sizeof *test.sent);
    if (!test.sent)
        fail("transactions", "no memory");
    for (uint32_t i = 0; i < test.count; i++) {
        struct sent *sent = &test.sent[i];
        char key[16];
        randombytes_buf(sent->id, sizeof sent->id);
        sent->account = randombytes_uniform(CLIENT_ACCOUNTS);
        sent->amount = (__int128)randombytes_uniform(2000001) - 1000000;
        account_key(sent->account, key);
        struct tx_operation operation = {
            .kind = TX_ADD, .key = (const uint8_t *)key, .key_bytes = (uint16_t)strlen(key), .amount = sent->amount};
        struct transaction tx = {.expires_ms = expires_ms, .operation_count = 1, .operations = &operation};
        memcpy(tx.id, sent->id, sizeof tx.id);
        if (transaction_encode(&tx, &sent->bytes, &sent->size) != ENG_OK)
            fail("transaction", eng_error());
    }
}

/* Submits one; its receipt is left in reply's body. A busy node is asked again. */
static const uint8_t *submit(struct pando *pando, const struct sent *sent, struct pando_reply *reply, uint32_t *size)
{
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_SUBMIT);
    protocol_write_u32(&request, 1);
    protocol_write_u32(&request, (uint32_t)sent->size);
    protocol_write_bytes(&request, sent->bytes, sent->size);
    uint8_t code = TX_BUSY;
    const uint8_t *bytes = NULL;
    for (unsigned tries = 0; code == TX_BUSY && tries < BUSY_TRIES; tries++) {
        if (pando_request(pando, &request, PANDO_TIMEOUT_MS, reply) != ENG_OK)
            fail("submit", eng_error());
        uint32_t count = protocol_read_u32(&reply->body);
        code = protocol_read_u8(&reply->body);
        *size = protocol_read_u32(&reply->body);
        bytes = protocol_read_bytes(&reply->body, *size);
        if (count != 1 || !protocol_read_end(&reply->body))
            fail("submit", "the reply is malformed");
        if (code == TX_BUSY) {
            atomic_fetch_add_explicit(&test.busy, 1, memory_order_relaxed);
            pando_reply_release(reply);
            pause_ms(2);
        }
    }
    free(request.bytes);
    if (code != TX_OK)
        fail("submit", code <= TX_NOT_LEADER ? tx_code_name((enum tx_code)code) : "an unknown code");
    return bytes;
}

/* 1: the answer is a receipt, OK, of this transaction. */
static void keep_receipt(struct sent *sent, const uint8_t *bytes, uint32_t size)
{
    struct receipt receipt;
    size_t used;
    if (size > RECEIPT_BYTES_MAX || receipt_decode(bytes, size, &receipt, &used) != ENG_OK || used != size)
        fail("receipt", "malformed");
    if (receipt.code != TX_OK || memcmp(receipt.id, sent->id, TX_ID_BYTES) != 0)
        fail("receipt", "another id, or not OK");
    if (receipt.result_count != 1 || receipt.results_bytes != 17 || receipt.results[0] != RESULT_AMOUNT)
        fail("receipt", "its result is not one amount");
    memcpy(sent->receipt, bytes, size);
    sent->receipt_bytes = size;
    sent->height = receipt.height;
    sent->index = receipt.index;
    memcpy(&sent->result, receipt.results + 1, sizeof sent->result);
}

static void *client_main(void *context)
{
    struct client *client = context;
    struct pando *pando = connect_node();
    uint32_t step = test.again ? AGAIN_EVERY : 1;
    /* The second time another client sends it. */
    uint32_t first = test.again ? (client->number + 1) % CLIENTS : client->number;
    for (uint32_t i = first * step; i < test.count; i += CLIENTS * step) {
        struct sent *sent = &test.sent[i];
        struct pando_reply reply;
        uint32_t size;
        uint64_t begin = now_ns();
        const uint8_t *bytes = submit(pando, sent, &reply, &size);
        if (!test.again) {
            sent->latency_ns = now_ns() - begin;
            keep_receipt(sent, bytes, size);
        } else if (size != sent->receipt_bytes || memcmp(bytes, sent->receipt, size) != 0) {
            fail("submitted again", "the receipt is not the first one");
        }
        pando_reply_release(&reply);
    }
    pando_disconnect(&pando);
    return NULL;
}

static void run_clients(bool again)
{
    test.again = again;
    for (uint32_t i = 0; i < CLIENTS; i++) {
        test.clients[i] = (struct client){.test = &test, .number = i};
        if (pthread_create(&test.clients[i].thread, NULL, client_main, &test.clients[i]) != 0)
            fail("clients", "cannot start a thread");
    }
    for (uint32_t i = 0; i < CLIENTS; i++)
        pthread_join(test.clients[i].thread, NULL);
}

/* ---- the model ---- */

static int by_order(const void *a, const void *b)
{
    const struct sent *const *x = a, *const *y = b;
    if ((*x)->height != (*y)->height)
        return (*x)->height < (*y)->height ? -1 : 1;
    return (*x)->index < (*y)->index ? -1 : (*x)->index > (*y)->index;
}

/* 2 and 3; fills balances. Returns the number of blocks. */
static uint64_t replay(__int128 balances[CLIENT_ACCOUNTS], bool touched[CLIENT_ACCOUNTS])
{
    const struct sent **order = malloc(test.count * sizeof *order);
    if (!order)
        fail("model", "no memory");
    for (uint32_t i = 0; i < test.count; i++)
        order[i] = &test.sent[i];
    qsort(order, test.count, sizeof *order, by_order);
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < test.count; i++) {
        const struct sent *sent = order[i];
        bool same_block = i > 0 && order[i - 1]->height == sent->height;
        blocks += !same_block;
        if (same_block && order[i - 1]->index == sent->index)
            fail("receipts", "two have the same height and index");
        if (sent->index != (same_block ? order[i - 1]->index + 1 : 0))
            fail("receipts", "the indices of a block have a gap");
        touched[sent->account] = true;
        balances[sent->account] += sent->amount;
        if (balances[sent->account] != sent->result)
            fail("replay", "a receipt's result is not what its place in the order gives");
    }
    free(order);
    return blocks;
}

struct root {
    uint8_t digest[32], sum[24];
    uint64_t entries;
};

static void read_root(struct pando *pando, struct root *root)
{
    struct protocol_writer request = {0};
    struct pando_reply reply;
    protocol_request_begin(&request, VERB_ROOT);
    protocol_write_u64(&request, ENG_HEAD);
    if (pando_request(pando, &request, PANDO_TIMEOUT_MS, &reply) != ENG_OK)
        fail("root", eng_error());
    free(request.bytes);
    protocol_read_u64(&reply.body);
    const uint8_t *digest = protocol_read_bytes(&reply.body, 32);
    root->entries = protocol_read_u64(&reply.body);
    const uint8_t *sum = protocol_read_bytes(&reply.body, sizeof root->sum);
    if (!digest || !sum || !protocol_read_end(&reply.body))
        fail("root", "the reply is malformed");
    memcpy(root->digest, digest, sizeof root->digest);
    memcpy(root->sum, sum, sizeof root->sum);
    pando_reply_release(&reply);
}

static __int128 read_amount(struct pando *pando, uint32_t account)
{
    struct protocol_writer request = {0};
    struct pando_reply reply;
    char key[16];
    account_key(account, key);
    protocol_request_begin(&request, VERB_GET);
    protocol_write_u64(&request, ENG_HEAD);
    protocol_write_u16(&request, (uint16_t)strlen(key));
    protocol_write_bytes(&request, key, strlen(key));
    if (pando_request(pando, &request, PANDO_TIMEOUT_MS, &reply) != ENG_OK)
        fail(key, eng_error());
    free(request.bytes);
    protocol_read_u64(&reply.body);
    uint8_t tag = protocol_read_u8(&reply.body);
    uint32_t size = protocol_read_u32(&reply.body);
    const uint8_t *bytes = protocol_read_bytes(&reply.body, size);
    __int128 amount = 0;
    if (tag != ENG_AMOUNT || size != sizeof amount || !bytes)
        fail(key, "is no amount");
    memcpy(&amount, bytes, sizeof amount);
    pando_reply_release(&reply);
    return amount;
}

/* 4. The sum that is part of the root is a signed little-endian number of 192 bits. */
static void compare_state(struct pando *pando, const __int128 balances[CLIENT_ACCOUNTS],
                          const bool touched[CLIENT_ACCOUNTS])
{
    uint64_t wanted = 0;
    struct root root;
    __int128 sent_sum = 0, node_sum = 0;
    for (uint32_t i = 0; i < test.count; i++)
        sent_sum += test.sent[i].amount;
    for (uint32_t account = 0; account < CLIENT_ACCOUNTS; account++) {
        if (!touched[account])
            continue;
        wanted++;
        __int128 amount = read_amount(pando, account);
        if (amount != balances[account])
            fail("balance", "the node's is not the model's");
        node_sum += amount;
    }
    if (node_sum != sent_sum)
        fail("sum", "the node's accounts have another than what was sent");
    read_root(pando, &root);
    uint8_t sum[24];
    memset(sum, sent_sum < 0 ? 0xff : 0, sizeof sum);
    memcpy(sum, &sent_sum, sizeof sent_sum);
    if (root.entries != wanted || memcmp(root.sum, sum, sizeof sum) != 0)
        fail("root", "its count or sum is not that of the accounts");
}

static int by_latency(const void *a, const void *b)
{
    const struct sent *x = a, *y = b;
    return x->latency_ns < y->latency_ns ? -1 : x->latency_ns > y->latency_ns;
}

static void report(uint64_t blocks, double seconds)
{
    qsort(test.sent, test.count, sizeof *test.sent, by_latency);
    printf("%u transactions by %u clients in %llu blocks and %.2f s: %.0f a second, latency p50 %.2f ms, p99 %.2f ms, "
           "largest %.2f ms; busy %u times\n",
           test.count, CLIENTS, (unsigned long long)blocks, seconds, test.count / seconds,
           (double)test.sent[test.count / 2].latency_ns / 1e6,
           (double)test.sent[test.count / 100 * 99].latency_ns / 1e6,
           (double)test.sent[test.count - 1].latency_ns / 1e6, atomic_load_explicit(&test.busy, memory_order_relaxed));
}

static uint64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void find_programs(char *self)
{
    const char *given = getenv("PANDO_NODE");
    if (given)
        snprintf(test.programs, sizeof test.programs, "%s", given);
    else
        snprintf(test.programs, sizeof test.programs, "%s/../node", dirname(self));
    strcpy(test.directory, "/tmp/pando.XXXXXX");
    if (!mkdtemp(test.directory)) {
        perror("mkdtemp");
        exit(1);
    }
}

static void remove_directory(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", test.directory);
    if (system(command) != 0)
        fail("clean up", "rm failed");
}

int main(int argc, char **argv)
{
    static __int128 balances[CLIENT_ACCOUNTS];
    static bool touched[CLIENT_ACCOUNTS];
    bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    if (sodium_init() < 0)
        return 1;
    test.count = is_long ? LONG_TRANSACTIONS : SHORT_TRANSACTIONS;
    find_programs(argv[0]);
    start_node();
    make_transactions(wall_ms() + 590000);
    uint64_t begin = now_ns();
    run_clients(false);
    double seconds = (double)(now_ns() - begin) / 1e9;
    uint64_t blocks = replay(balances, touched);
    struct root before, after;
    struct pando *pando = connect_node();
    compare_state(pando, balances, touched);
    read_root(pando, &before);
    run_clients(true);
    read_root(pando, &after);
    if (memcmp(&before, &after, sizeof before) != 0)
        fail("submitted again", "the root has changed");
    compare_state(pando, balances, touched);
    pando_disconnect(&pando);
    stop_node();
    report(blocks, seconds);
    printf("%u of them submitted again: the same receipts, the same root\n", test.count / AGAIN_EVERY);
    remove_directory();
    for (uint32_t i = 0; i < test.count; i++)
        free(test.sent[i].bytes);
    free(test.sent);
    return 0;
}
