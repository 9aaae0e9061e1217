/*
 * An audit: the bank proves what its store contains, the auditor knows two roots and nothing else.
 *
 *     audit DIR                   makes a store with two versions if there is none, proves and checks five claims
 *
 * Shows: proofs of a key, of an absent one, of a range, of a sum and of what changed (pando/proof.h), and checking them
 * with libpando-verify alone (pando/verify.h). In life bank and auditor are two programs: the proofs travel as bytes,
 * the roots as something the bank has signed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pando/engine.h>
#include <pando/proof.h>
#include <pando/verify.h>

#define BYTES(text) (const uint8_t *)(text), strlen(text)
#define ACCOUNTS 1000

/* ---- the bank ---- */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "audit: %s: %s\n", what, eng_error());
    exit(1);
}

static void set(struct eng_batch *batch, int account, int64_t amount)
{
    char key[32];
    int64_t wide[2] = {amount, amount < 0 ? -1 : 0}; /* 128 bits, little-endian, two's complement */
    snprintf(key, sizeof key, "account/%04d", account);
    if (eng_batch_put(batch, BYTES(key), (struct eng_value){ENG_AMOUNT, (const uint8_t *)wide, sizeof wide}) != ENG_OK)
        die("put");
}

/* Version 1: each account has its own number. Version 2: 5 went from account 17 to account 7. */
static void make_versions(struct eng *eng)
{
    struct eng_batch *batch;
    for (uint64_t tag = 1; tag <= 2; tag++) {
        if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
            die("batch");
        for (int i = 0; i < ACCOUNTS && tag == 1; i++)
            set(batch, i, i);
        if (tag == 2) {
            set(batch, 7, 12);
            set(batch, 17, 12);
        }
        if (eng_batch_freeze(batch) != ENG_OK || eng_commit(batch, tag, NULL) != ENG_OK)
            die("commit");
        eng_batch_close(&batch);
    }
}

struct evidence {
    uint8_t root[2][PROOF_DIGEST_BYTES]; /* of version 1 and 2: what the auditor knows */
    struct proof_blob present, absent, range, sum, changed;
};

static void prove(struct eng *eng, struct evidence *evidence)
{
    struct eng_snapshot *version[2];
    for (int i = 0; i < 2; i++) {
        if (eng_snapshot_open(eng, 0, (uint64_t)i + 1, &version[i]) != ENG_OK)
            die("snapshot");
        memcpy(evidence->root[i], eng_snapshot_summary(version[i])->digest, PROOF_DIGEST_BYTES);
    }
    const uint8_t *there = (const uint8_t *)"account/0007", *nowhere = (const uint8_t *)"account/none";
    const size_t bytes = strlen("account/0007");
    if (eng_prove_many(version[1], &there, &bytes, 1, &evidence->present) != ENG_OK ||
        eng_prove_many(version[1], &nowhere, &bytes, 1, &evidence->absent) != ENG_OK ||
        proof_state_range(version[1], BYTES("account/0010"), BYTES("account/0020"), true, &evidence->range) != ENG_OK ||
        proof_state_range(version[1], BYTES("account/"), BYTES("account0"), false, &evidence->sum) != ENG_OK ||
        eng_prove_diff(version[0], version[1], NULL, 0, NULL, 0, 0, &evidence->changed) != ENG_OK)
        die("proof");
    eng_snapshot_close(&version[0]);
    eng_snapshot_close(&version[1]);
}

/* ---- the auditor: nothing below knows the store ---- */

/* Is a proof one of the claim that options describe? Says so if not. */
static bool check(const char *what, const struct proof_blob *proof, const struct verify_options *options,
                  struct verify_result *result)
{
    if (verify_state(proof->bytes, proof->size, options, result) == VERIFY_OK)
        return true;
    fprintf(stderr, "audit: %s: %s\n", what, result->reason);
    return false;
}

static long long amount(const uint8_t *bytes)
{
    int64_t low;
    memcpy(&low, bytes, sizeof low);
    return low;
}

static bool audit_key(const char *key, const struct proof_blob *proof, const uint8_t *root)
{
    struct verify_expected asked = {BYTES(key)};
    struct verify_options options = {.root = root, .keys = &asked, .key_count = 1};
    struct verify_result result;
    struct verify_key found;
    if (!check(key, proof, &options, &result) || !verify_next(&result, &found))
        return false;
    if (found.present)
        printf("%s is %lld, by %zu bytes of proof\n", key, amount(found.value), proof->size);
    else
        printf("%s is absent, by %zu bytes of proof\n", key, proof->size);
    return true;
}

/* Contents or sum of a range. A proof of another range, or of another kind, is true as well: so both are expected. */
static bool audit_range(const struct verify_range *range, enum proof_kind kind, const struct proof_blob *proof,
                        const uint8_t *root)
{
    struct verify_options options = {.root = root, .kind = kind, .range = range};
    struct verify_result result;
    struct verify_key entry;
    if (!check("range", proof, &options, &result))
        return false;
    printf("%.*s to %.*s: %llu entries, sum %lld, by %zu bytes of proof\n", (int)range->from_bytes,
           (const char *)range->from, (int)range->to_bytes, (const char *)range->to, (unsigned long long)result.count,
           amount(result.sum), proof->size);
    while (verify_next(&result, &entry)) /* of PROOF_TOTALS none */
        printf("    %.*s %lld\n", (int)entry.key_bytes, (const char *)entry.key, amount(entry.value));
    return true;
}

static bool audit_changes(const struct proof_blob *proof, const uint8_t *older, const uint8_t *newer)
{
    static const struct verify_range all = {0};
    struct verify_options options = {.root = newer, .older_root = older, .kind = PROOF_DIFF, .range = &all};
    struct verify_result result;
    struct verify_key key;
    if (!check("changes", proof, &options, &result))
        return false;
    printf("%llu keys changed, and no others, by %zu bytes of proof\n", (unsigned long long)result.count, proof->size);
    while (verify_next(&result, &key)) {
        printf("    %.*s ", (int)key.key_bytes, (const char *)key.key);
        if (key.was_present && key.present)
            printf("was %lld, is %lld\n", amount(key.old_value), amount(key.value));
        else
            printf("%s\n", key.present ? "is new" : "is gone");
    }
    return true;
}

static bool audit(const struct evidence *evidence)
{
    const uint8_t *newer = evidence->root[1];
    struct verify_range ten = {BYTES("account/0010"), BYTES("account/0020")};
    struct verify_range all = {BYTES("account/"), BYTES("account0")};
    struct verify_result result;
    struct verify_options wrong = {.root = evidence->root[0]};
    return audit_key("account/0007", &evidence->present, newer) &&
           audit_key("account/none", &evidence->absent, newer) &&
           audit_range(&ten, PROOF_RANGE, &evidence->range, newer) &&
           audit_range(&all, PROOF_TOTALS, &evidence->sum, newer) &&
           audit_changes(&evidence->changed, evidence->root[0], newer) &&
           verify_state(evidence->sum.bytes, evidence->sum.size, &wrong, &result) == VERIFY_ROOT;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: audit DIR\n");
        return 2;
    }
    struct eng_options options = {.path = argv[1], .create = true, .durability = ENG_DURABLE_FSYNC};
    struct eng *eng;
    struct evidence evidence;
    uint64_t tag;
    if (eng_open(&options, &eng) != ENG_OK)
        die("open");
    if (eng_head(eng, 0, &tag, NULL) != ENG_OK)
        make_versions(eng);
    prove(eng, &evidence);
    eng_close(&eng);
    bool proven = audit(&evidence);
    proof_blob_free(&evidence.present);
    proof_blob_free(&evidence.absent);
    proof_blob_free(&evidence.range);
    proof_blob_free(&evidence.sum);
    proof_blob_free(&evidence.changed);
    return proven ? 0 : 1;
}
