/*
 * Random transactions from several threads against a model of the operations table.
 *
 * The ledger decides the order; the receipts say what it was. Afterwards the transactions are sorted by (height, index)
 * and run through a model that shares nothing with the node: a sorted array of entries and 128-bit arithmetic in wide
 * signed steps. Code, failed operation and every result must be the same, at the end every entry, and the count and sum
 * of the state; then the ledger is opened again from its log, and from a checkpoint, and must have the same root.
 *
 * prog_ledger_random [--long | TRANSACTIONS [SEED]]: 20,000 transactions, or 500,000.
 */
#include <pthread.h>
#include <unistd.h>

#include "ledger_fixture.h"

#define THREADS 4
#define KEYS 400
#define OPERATIONS_MAX 8
#define RESULTS_MAX 2048

struct sent {
    struct draft draft;
    char keys[OPERATIONS_MAX][24], tos[OPERATIONS_MAX][24], values[OPERATIONS_MAX][80];
    uint8_t amounts[OPERATIONS_MAX][16];
    struct answer answer;
};

static struct fixture fixture;
static struct sent *sent;
static uint64_t per_thread, run_seed;

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13; /* xorshift64 */
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void die(const char *what, size_t i)
{
    fprintf(stderr, "prog_ledger_random: seed %llu: transaction %zu (height %llu, index %u): %s\n",
            (unsigned long long)run_seed, i, (unsigned long long)sent[i].answer.receipt.height,
            sent[i].answer.receipt.index, what);
    exit(1);
}

/* ---- transactions ---- */

static void random_key(uint64_t *random, char key[24])
{
    uint64_t k = random_next(random) % KEYS;
    snprintf(key, 24, k % 3 ? "k%03d" : "path/%d/x", (int)k);
}

static __int128 random_amount(uint64_t *random)
{
    __int128 wide = (__int128)random_next(random) << 63;
    return random_next(random) % 50  ? (__int128)(random_next(random) % 200) - 100
           : random_next(random) % 2 ? wide
                                     : -wide;
}

static void random_operation(uint64_t *random, struct sent *s, int i)
{
    static const enum tx_kind kinds[] = {
        TX_PUT,  TX_PUT,  TX_INSERT, TX_UPDATE, TX_DELETE,         TX_UNSET,         TX_ADD,   TX_ADD, TX_ADD,
        TX_READ, TX_READ, TX_EXPECT, TX_EXPECT, TX_EXPECT_PRESENT, TX_EXPECT_ABSENT, TX_UNSET, TX_PUT};
    enum tx_kind kind = kinds[random_next(random) % (sizeof(kinds) / sizeof(*kinds))];
    if (random_next(random) % 60 == 0)
        kind = TX_DELETE_RANGE;
    random_key(random, s->keys[i]);
    struct tx_operation *op = draft_add(&s->draft, kind, s->keys[i]);
    if (kind == TX_PUT || kind == TX_INSERT || kind == TX_UPDATE || kind == TX_EXPECT) {
        size_t size = random_next(random) % 3 ? random_next(random) % 3 : random_next(random) % 79;
        memset(s->values[i], 'a' + (int)(random_next(random) % 2), size);
        op->value = (struct eng_value){ENG_BYTES, (const uint8_t *)s->values[i], size};
        if (kind == TX_EXPECT && random_next(random) % 2) {
            amount_to_bytes(random_amount(random) % 4, s->amounts[i]);
            op->value = (struct eng_value){ENG_AMOUNT, s->amounts[i], 16};
        }
    } else if (kind == TX_ADD) {
        op->amount = random_amount(random);
        op->has_min = random_next(random) % 4 == 0;
        op->min = op->has_min ? random_amount(random) : 0;
        op->has_max = random_next(random) % 4 == 0;
        op->max = op->has_max ? random_amount(random) : 0;
    } else if (kind == TX_DELETE_RANGE) {
        memcpy(s->tos[i], s->keys[i], 24);
        size_t last = strlen(s->tos[i]) - 1;
        if (random_next(random) % 8)
            s->tos[i][last] = (char)(s->tos[i][last] + 3);
        op->to = (const uint8_t *)s->tos[i];
        op->to_bytes = (uint16_t)strlen(s->tos[i]);
    }
}

static void *submit_thread(void *context)
{
    uint64_t thread = *(uint64_t *)context, random = run_seed * 7919 + thread + 1;
    for (uint64_t n = 0; n < per_thread; n++) {
        struct sent *s = &sent[thread * per_thread + n];
        draft_begin(&s->draft, 1 + thread * per_thread + n, fixture.now_ms + FIXTURE_WINDOW_MS / 2);
        int count = 1 + (int)(random_next(&random) % OPERATIONS_MAX);
        if (random_next(&random) % 2)
            count = 1;
        for (int i = 0; i < count; i++)
            random_operation(&random, s, i);
        draft_end(&s->draft);
        enum tx_code code;
        while ((code = ledger_submit(fixture.ledger, s->draft.bytes, s->draft.size, answer_keep, &s->answer)) ==
               TX_BUSY)
            usleep(200);
        if (code != TX_OK)
            die(eng_error(), thread * per_thread + n);
        draft_release(&s->draft);
        if (random_next(&random) % 500 == 0)
            usleep(2000); /* blocks of different sizes */
        if (random_next(&random) % 64 == 0)
            atomic_fetch_add_explicit(&fixture.now_ms, 1, memory_order_relaxed);
    }
    return NULL;
}

/* ---- the model ---- */

struct entry {
    char key[24];
    bool amount;
    __int128 number;
    uint8_t bytes[80];
    size_t size;
};

struct model {
    struct entry entries[KEYS];
    size_t count;
};

/* The place of a key: the first entry that is not less. */
static size_t model_place(const struct model *model, const char *key, bool *there)
{
    size_t low = 0, high = model->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(model->entries[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *there = low < model->count && strcmp(model->entries[low].key, key) == 0;
    return low;
}

static void model_remove(struct model *model, size_t at, size_t count)
{
    memmove(&model->entries[at], &model->entries[at + count], (model->count - at - count) * sizeof(struct entry));
    model->count -= count;
}

static struct entry *model_make(struct model *model, const char *key)
{
    bool there;
    size_t at = model_place(model, key, &there);
    if (!there) {
        assert(model->count < KEYS);
        memmove(&model->entries[at + 1], &model->entries[at], (model->count - at) * sizeof(struct entry));
        model->count++;
    }
    memset(&model->entries[at], 0, sizeof(struct entry));
    snprintf(model->entries[at].key, sizeof(model->entries[at].key), "%s", key);
    return &model->entries[at];
}

/* a + b with the overflow found by halves, not by the compiler's builtin. */
static bool model_sum(__int128 a, __int128 b, __int128 *sum)
{
    unsigned __int128 wrapped = (unsigned __int128)a + (unsigned __int128)b;
    *sum = (__int128)wrapped;
    return !((a < 0) == (b < 0) && (*sum < 0) != (a < 0));
}

static void put_result(uint8_t *results, size_t *size, uint8_t kind, const void *bytes, size_t length)
{
    assert(*size + 5 + length <= RESULTS_MAX);
    results[(*size)++] = kind;
    if (kind == 1) {
        uint32_t n = (uint32_t)length;
        memcpy(results + *size, &n, 4);
        *size += 4;
    }
    memcpy(results + *size, bytes, length);
    *size += length;
}

static const char *model_add(struct model *model, const struct tx_operation *op, const char *key, uint8_t *results,
                             size_t *size)
{
    bool there;
    size_t at = model_place(model, key, &there);
    __int128 sum = 0;
    if (there && !model->entries[at].amount)
        return "TYPE";
    if (!model_sum(there ? model->entries[at].number : 0, op->amount, &sum))
        return "OVERFLOW";
    if (op->has_min && sum < op->min)
        return "BELOW_MIN";
    if (op->has_max && sum > op->max)
        return "ABOVE_MAX";
    struct entry *entry = model_make(model, key);
    entry->amount = true;
    entry->number = sum;
    put_result(results, size, 2, &sum, 16);
    return "OK";
}

static const char *model_condition(const struct model *model, const struct tx_operation *op, const char *key)
{
    bool there;
    const struct entry *entry = &model->entries[model_place(model, key, &there)];
    if (op->kind == TX_EXPECT_PRESENT)
        return there ? "OK" : "NOT_FOUND";
    if (op->kind == TX_EXPECT_ABSENT)
        return there ? "EXISTS" : "OK";
    if (!there || entry->amount != (op->value.tag == ENG_AMOUNT))
        return "MISMATCH";
    if (entry->amount)
        return memcmp(&entry->number, op->value.bytes, 16) == 0 ? "OK" : "MISMATCH";
    return entry->size == op->value.size && memcmp(entry->bytes, op->value.bytes, entry->size) == 0 ? "OK" : "MISMATCH";
}

static const char *model_operation(struct model *model, const struct tx_operation *op, const char *key, const char *to,
                                   uint8_t *results, size_t *size)
{
    bool there, ignored;
    size_t at = model_place(model, key, &there);
    struct entry *entry = &model->entries[at];
    switch (op->kind) {
    case TX_PUT:
    case TX_INSERT:
    case TX_UPDATE:
        if (op->kind == TX_INSERT && there)
            return "EXISTS";
        if (op->kind == TX_UPDATE && !there)
            return "NOT_FOUND";
        entry = model_make(model, key);
        entry->size = op->value.size;
        memcpy(entry->bytes, op->value.bytes, op->value.size);
        return "OK";
    case TX_DELETE:
    case TX_UNSET:
        if (there)
            model_remove(model, at, 1);
        return there || op->kind == TX_UNSET ? "OK" : "NOT_FOUND";
    case TX_DELETE_RANGE: {
        size_t end = model_place(model, to, &ignored);
        uint64_t removed = end > at ? end - at : 0;
        model_remove(model, at, removed);
        put_result(results, size, 3, &removed, 8);
        return "OK";
    }
    case TX_ADD:
        return model_add(model, op, key, results, size);
    case TX_EXPECT:
    case TX_EXPECT_PRESENT:
    case TX_EXPECT_ABSENT:
        return model_condition(model, op, key);
    case TX_READ:
        if (!there)
            put_result(results, size, 0, "", 0);
        else if (entry->amount)
            put_result(results, size, 2, &entry->number, 16);
        else
            put_result(results, size, 1, entry->bytes, entry->size);
        return "OK";
    case TX_KIND_END:
        break;
    }
    abort();
}

static void model_run(struct model *model, size_t i)
{
    static struct model before;
    const struct sent *s = &sent[i];
    const struct receipt *receipt = &s->answer.receipt;
    uint8_t results[RESULTS_MAX];
    size_t size = 0;
    const char *code = "OK";
    uint32_t failed_op = RECEIPT_NO_OPERATION;
    before = *model;
    for (uint32_t k = 0; k < s->draft.tx.operation_count && strcmp(code, "OK") == 0; k++) {
        code = model_operation(model, &s->draft.operations[k], s->keys[k], s->tos[k], results, &size);
        if (strcmp(code, "OK") != 0) {
            failed_op = k;
            size = 0;
            *model = before;
        }
    }
    if (strcmp(code, tx_code_name(receipt->code)) != 0)
        die("another code than the model's", i);
    if (receipt->failed_op != failed_op)
        die("another failed operation than the model's", i);
    if (receipt->results_bytes != size || memcmp(receipt->results, results, size) != 0)
        die("other results than the model's", i);
}

/* ---- comparing ---- */

static int by_order(const void *a, const void *b)
{
    const struct receipt *x = &sent[*(const size_t *)a].answer.receipt, *y = &sent[*(const size_t *)b].answer.receipt;
    if (x->height != y->height)
        return x->height < y->height ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

struct comparison {
    const struct model *model;
    size_t at;
};

static bool compare_entry(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    struct comparison *comparison = context;
    const struct entry *entry = &comparison->model->entries[comparison->at++];
    bool same = comparison->at <= comparison->model->count && strlen(entry->key) == key_bytes &&
                memcmp(entry->key, key, key_bytes) == 0 && (value->tag == ENG_AMOUNT) == entry->amount;
    if (same && entry->amount)
        same = value->size == 16 && memcmp(value->bytes, &entry->number, 16) == 0;
    else if (same)
        same = value->size == entry->size && memcmp(value->bytes, entry->bytes, entry->size) == 0;
    if (!same) {
        fprintf(stderr, "prog_ledger_random: seed %llu: entry %zu is not the model's \"%s\"\n",
                (unsigned long long)run_seed, comparison->at - 1, entry->key);
        exit(1);
    }
    return true;
}

static struct eng_summary compare_state(const struct model *model)
{
    struct eng_snapshot *snapshot;
    struct comparison comparison = {.model = model};
    if (ledger_snapshot(fixture.ledger, ENG_HEAD, &snapshot) != ENG_OK ||
        eng_scan(snapshot, NULL, 0, NULL, 0, compare_entry, &comparison) != ENG_OK)
        abort();
    struct eng_summary summary = *eng_snapshot_summary(snapshot);
    eng_snapshot_close(&snapshot);
    uint64_t sum[3] = {0};
    for (size_t i = 0; i < model->count; i++) {
        if (model->entries[i].amount) {
            unsigned __int128 n = (unsigned __int128)model->entries[i].number;
            uint64_t wide[3] = {(uint64_t)n, (uint64_t)(n >> 64), model->entries[i].number < 0 ? UINT64_MAX : 0};
            digest_sum_add(sum, sum, wide);
        }
    }
    if (comparison.at != model->count || summary.count != model->count || memcmp(summary.sum, sum, sizeof(sum)) != 0) {
        fprintf(stderr, "prog_ledger_random: seed %llu: another count or sum than the model's\n",
                (unsigned long long)run_seed);
        exit(1);
    }
    return summary;
}

static void reopen(int deadline_ms, const struct model *model, const struct eng_summary *expected)
{
    ledger_close(&fixture.ledger, deadline_ms);
    if (fixture_open(&fixture) != ENG_OK) {
        fprintf(stderr, "prog_ledger_random: %s\n", eng_error());
        exit(1);
    }
    struct eng_summary summary = compare_state(model);
    if (memcmp(&summary, expected, sizeof(summary)) != 0) {
        fprintf(stderr, "prog_ledger_random: seed %llu: another root after a restart\n", (unsigned long long)run_seed);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static struct model model;
    bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    uint64_t total = is_long ? 500000 : argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;
    run_seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    per_thread = total / THREADS;
    total = per_thread * THREADS;
    sent = calloc(total, sizeof(*sent));
    size_t *order = calloc(total, sizeof(*order));
    if (!sent || !order)
        return 2;
    fixture_init(&fixture, 1);
    fixture.options.stepped = false;
    fixture.options.threads = 2;
    fixture.options.block_max_txs = 300;
    fixture.options.retain_blocks = 8;
    fixture.options.checkpoint_log_bytes = 1 << 20;
    if (disk_sim_open(0, &fixture.disk) != ENG_OK || fixture_open(&fixture) != ENG_OK) {
        fprintf(stderr, "prog_ledger_random: %s\n", eng_error());
        return 1;
    }
    pthread_t threads[THREADS];
    uint64_t numbers[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, submit_thread, &numbers[i]) != 0)
            return 2;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ledger_close(&fixture.ledger, 0);
    size_t succeeded = 0;
    for (size_t i = 0; i < total; i++) {
        order[i] = i;
        if (answer_calls(&sent[i].answer) != 1 || !sent[i].answer.has_receipt)
            die("not answered once with a receipt", i);
        succeeded += sent[i].answer.receipt.code == TX_OK;
    }
    qsort(order, total, sizeof(*order), by_order);
    for (size_t i = 0; i < total; i++)
        model_run(&model, order[i]);
    if (fixture_open(&fixture) != ENG_OK) {
        fprintf(stderr, "prog_ledger_random: %s\n", eng_error());
        return 1;
    }
    uint64_t height = ledger_height(fixture.ledger, NULL);
    struct eng_summary summary = compare_state(&model);
    reopen(5000, &model, &summary);
    reopen(0, &model, &summary);
    for (size_t i = 0; i < total; i++)
        answer_release(&sent[i].answer);
    fixture_release(&fixture);
    free(sent);
    free(order);
    printf("prog_ledger_random: %llu transactions in %llu blocks, %zu succeeded, %zu entries: as the model says\n",
           (unsigned long long)total, (unsigned long long)height, succeeded, model.count);
    return succeeded == 0 || succeeded == total;
}
