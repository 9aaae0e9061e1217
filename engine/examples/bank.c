/*
 * A bank: accounts with amounts, transfers, snapshots in which the money never changes, and a dry run.
 *
 *     bank DIR [TRANSFERS]        opens 100 accounts with 1,000 each if there are none, makes TRANSFERS (default 500)
 *
 * Shows: amounts, the sum of a range in O(depth), nested transactions that are taken back, old versions, a private
 * fork.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pando/engine.h>

#define ACCOUNTS 100
#define OPENING 1000

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bank: %s: %s\n", what, eng_error());
    exit(1);
}

static int account_key(int account, char key[32])
{
    return snprintf(key, 32, "account/%04d", account);
}

static int64_t balance(struct eng_batch *batch, int account)
{
    char key[32];
    struct eng_value value;
    int64_t amount;
    if (eng_batch_get(batch, (uint8_t *)key, (size_t)account_key(account, key), &value) != ENG_OK)
        die(key);
    memcpy(&amount, value.bytes, sizeof amount);
    return amount;
}

static void set(struct eng_batch *batch, int account, int64_t amount)
{
    char key[32];
    int64_t wide[2] = {amount, amount < 0 ? -1 : 0}; /* 128 bits, little-endian, two's complement */
    struct eng_value value = {ENG_AMOUNT, (const uint8_t *)wide, sizeof wide};
    if (eng_batch_put(batch, (uint8_t *)key, (size_t)account_key(account, key), value) != ENG_OK)
        die("put");
}

/* Both halves or none: the nested transaction is taken back if the account does not cover it. */
static bool transfer(struct eng_batch *batch, int from, int to, int64_t amount)
{
    if (eng_nested_begin(batch) != ENG_OK)
        die("transfer");
    set(batch, to, balance(batch, to) + amount);
    set(batch, from, balance(batch, from) - amount);
    bool covered = balance(batch, from) >= 0;
    eng_nested_end(batch, covered);
    return covered;
}

static int64_t money(struct eng_snapshot *snapshot)
{
    struct eng_totals totals;
    if (eng_totals(snapshot, (const uint8_t *)"account/", 8, (const uint8_t *)"account0", 8, &totals) != ENG_OK)
        die("sum");
    return (int64_t)totals.sum[0];
}

static void open_accounts(struct eng *eng)
{
    struct eng_batch *batch;
    if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
        die("batch");
    for (int i = 0; i < ACCOUNTS; i++)
        set(batch, i, OPENING);
    if (eng_batch_freeze(batch) != ENG_OK || eng_commit(batch, 1, NULL) != ENG_OK)
        die("commit");
    eng_batch_close(&batch);
}

/* What the root would be if all of account 0 went to account 1; nothing happens. */
static void dry_run(struct eng *eng)
{
    struct eng_snapshot *now;
    struct eng_batch *fork;
    struct eng_summary before, after;
    if (eng_snapshot_open(eng, 0, ENG_HEAD, &now) != ENG_OK || eng_fork(now, &fork) != ENG_OK)
        die("fork");
    int64_t all = balance(fork, 0);
    if (!transfer(fork, 0, 1, all) || eng_batch_freeze(fork) != ENG_OK || eng_dry_commit(fork, &after) != ENG_OK)
        die("dry run");
    before = *eng_snapshot_summary(now);
    printf("dry run: moving %lld would make root %02x%02x%02x%02x... of %02x%02x%02x%02x...\n", (long long)all,
           after.digest[0], after.digest[1], after.digest[2], after.digest[3], before.digest[0], before.digest[1],
           before.digest[2], before.digest[3]);
    eng_batch_close(&fork);
    eng_snapshot_close(&now);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bank DIR [TRANSFERS]\n");
        return 2;
    }
    int transfers = argc > 2 ? atoi(argv[2]) : 500, refused = 0;
    struct eng_options options = {.path = argv[1], .create = true, .durability = ENG_DURABLE_FSYNC};
    struct eng *eng;
    uint64_t tag;
    if (eng_open(&options, &eng) != ENG_OK)
        die("open");
    if (eng_head(eng, 0, &tag, NULL) != ENG_OK)
        open_accounts(eng);
    for (int i = 0; i < transfers; i += 10) { /* ten transfers a version */
        struct eng_batch *batch;
        if (eng_transaction_open(eng, 0, ENG_SERIALIZABLE, &batch) != ENG_OK)
            die("transaction");
        for (int j = i; j < i + 10; j++)
            refused += !transfer(batch, j * 37 % ACCOUNTS, j * 61 % 97, j * 7919 % 400);
        if (eng_transaction_commit(batch, &tag, NULL) != ENG_OK)
            die("commit");
        eng_batch_close(&batch);
    }
    uint64_t oldest, wrong = 0, versions = 0;
    if (eng_oldest(eng, 0, &oldest) != ENG_OK || eng_head(eng, 0, &tag, NULL) != ENG_OK)
        die("versions");
    for (uint64_t at = oldest; at <= tag; at++, versions++) {
        struct eng_snapshot *snapshot;
        if (eng_snapshot_open(eng, 0, at, &snapshot) != ENG_OK)
            die("snapshot");
        wrong += money(snapshot) != (int64_t)ACCOUNTS * OPENING;
        eng_snapshot_close(&snapshot);
    }
    printf("%d transfers, %d of them not covered and taken back; %llu versions hold %d each\n", transfers, refused,
           (unsigned long long)versions, ACCOUNTS * OPENING);
    dry_run(eng);
    eng_close(&eng);
    if (wrong)
        fprintf(stderr, "bank: %llu versions have another sum\n", (unsigned long long)wrong);
    return wrong ? 1 : 0;
}
