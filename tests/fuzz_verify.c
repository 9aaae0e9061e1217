/*
 * Fuzzes the proof verifier, for crashes and for lies: whatever bytes verify against the root of a known state must
 * tell the truth about that state, and nothing is read outside the bytes given.
 *
 * The first byte of an input chooses:
 *   0  the rest is a proof file
 *   1  the same with the checksum made right
 *   2  the rest is a state proof
 *   3  an honest proof that one key is absent (second byte: which) is made to speak of another key (third byte), then
 *      changed as the rest says: 3 bytes each, where (modulo the size) and what to xor
 *   4 and more: an honest proof file of present and absent keys is changed in the same way and sealed again
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -Iengine/include -Iengine -Itests
 * tests/fuzz_verify.c \ engine/verify/[a-z]*.c engine/proof.c engine/digest.c engine/lanes*.c engine/status.c -lsodium
 * -lpthread -o fuzz_verify
 *   ./fuzz_verify -max_total_time=60 -max_len=4096
 */
#include <stdio.h>

#include "proof_walker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define KEYS 9

static const char *const keys[KEYS] = {"a", "aa", "aaa", "ab", "b", "balances/alice", "balances/bob", "c", "~"};
static uint8_t long_value[100];
static struct oracle_entry entries[KEYS];
static struct oracle_summary summary;
static struct proof_blob honest, absences[KEYS];

/* Every asked key a second time with a byte more, so that absences are in the honest file too. */
static void make_state(void)
{
    static const uint8_t amount[16] = {7};
    static char longer[KEYS][16];
    struct proof_key asked[2 * KEYS];
    assert(digest_init());
    for (size_t i = 0; i < KEYS; i++) {
        entries[i] = (struct oracle_entry){(const uint8_t *)keys[i], strlen(keys[i]), 0, (const uint8_t *)"value", 5};
        if (i == 2) {
            entries[i].value = long_value;
            entries[i].value_bytes = sizeof long_value;
        } else if (i == 5 || i == 6) {
            entries[i].tag = 1;
            entries[i].value = amount;
            entries[i].value_bytes = sizeof amount;
        }
    }
    qsort(entries, KEYS, sizeof *entries, oracle_compare);
    oracle_summary(entries, KEYS, &summary);
    for (size_t i = 0; i < KEYS; i++) {
        size_t bytes = entries[i].key_bytes;
        memcpy(longer[i], entries[i].key, bytes);
        longer[i][bytes] = '!';
        asked[2 * i] = walker_key(entries, KEYS, entries[i].key, bytes);
        asked[2 * i + 1] = walker_key(entries, KEYS, (const uint8_t *)longer[i], bytes + 1);
    }
    struct proof_blob state;
    enum eng_status status = proof_state_keys(asked, 2 * KEYS, &state);
    assert(status == ENG_OK);
    status = proof_file((const uint8_t *)"header", 6, &state, &honest);
    assert(status == ENG_OK);
    proof_blob_free(&state);
    for (size_t i = 0; i < KEYS; i++) {
        status = proof_state_keys(&asked[2 * i + 1], 1, &absences[i]);
        assert(status == ENG_OK);
    }
    for (size_t i = 0; i < 2 * KEYS; i++)
        walker_free(&asked[i]);
}

static void check_truth(struct verify_result *result)
{
    struct verify_key said;
    uint32_t count = 0;
    while (verify_next(result, &said)) {
        struct oracle_entry asked = {.key = said.key, .key_bytes = said.key_bytes};
        const struct oracle_entry *entry = bsearch(&asked, entries, KEYS, sizeof asked, oracle_compare);
        assert(said.present == (entry != NULL));
        if (entry != NULL) {
            assert((int)said.tag == entry->tag && said.value_bytes == entry->value_bytes);
            assert(memcmp(said.value, entry->value, entry->value_bytes) == 0);
        }
        count++;
    }
    assert(count == result->key_count && count > 0);
}

static void seal(uint8_t *bytes, size_t size)
{
    if (size >= 32)
        oracle_hash("pando proof", 0, bytes, size - 32, bytes + size - 32);
}

static uint8_t *allocate(size_t size)
{
    uint8_t *bytes = malloc(size > 0 ? size : 1); /* no byte more, so that reads beyond are seen */
    assert(bytes != NULL);
    return bytes;
}

/* Mode 3: kind 1, count 4, u16 length and the asked key are replaced, the rest stays. */
static uint8_t *splice(const struct proof_blob *absence, const struct oracle_entry *asked, size_t *size)
{
    size_t rest_at = 7 + (absence->bytes[5] | (size_t)absence->bytes[6] << 8), rest = absence->size - rest_at;
    uint8_t *bytes = allocate(*size = 7 + asked->key_bytes + rest);
    memcpy(bytes, absence->bytes, 5);
    bytes[5] = (uint8_t)asked->key_bytes;
    bytes[6] = 0;
    memcpy(bytes + 7, asked->key, asked->key_bytes);
    memcpy(bytes + 7 + asked->key_bytes, absence->bytes + rest_at, rest);
    return bytes;
}

static void edit(uint8_t *bytes, size_t size, const uint8_t *data, size_t data_bytes)
{
    for (size_t i = 0; i + 3 <= data_bytes; i += 3)
        bytes[(data[i] | (size_t)data[i + 1] << 8) % size] ^= data[i + 2];
}

/* Makes the proof an input stands for; NULL: the input is too short to say. */
static uint8_t *make_proof(uint8_t mode, const uint8_t *data, size_t data_bytes, size_t *size)
{
    uint8_t *bytes;
    if (mode == 3) {
        if (data_bytes < 2)
            return NULL;
        bytes = splice(&absences[data[0] % KEYS], &entries[data[1] % KEYS], size);
        edit(bytes, *size, data + 2, data_bytes - 2);
        return bytes;
    }
    bytes = allocate(*size = mode < 3 ? data_bytes : honest.size);
    memcpy(bytes, mode < 3 ? data : honest.bytes, *size);
    if (mode > 3)
        edit(bytes, *size, data, data_bytes);
    if (mode == 1 || mode > 3)
        seal(bytes, *size);
    return bytes;
}

static enum verify_status verify(bool state_only, const uint8_t *bytes, size_t size,
                                 const struct verify_options *options, struct verify_result *result)
{
    return state_only ? verify_state(bytes, size, options, result) : verify_file(bytes, size, options, result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (honest.bytes == NULL)
        make_state();
    size_t proof_bytes;
    uint8_t *proof = size == 0 ? NULL : make_proof(data[0], data + 1, size - 1, &proof_bytes);
    if (proof == NULL)
        return 0;
    bool state_only = data[0] == 2 || data[0] == 3;
    struct verify_options options = {.root = summary.digest};
    struct verify_result result;
    enum verify_status status = verify(state_only, proof, proof_bytes, &options, &result);
    assert((status == VERIFY_OK) == (result.reason[0] == 0));
    if (status == VERIFY_OK)
        check_truth(&result);
    /* Without a root any tree of one's own verifies; it must still be read safely. */
    status = verify(state_only, proof, proof_bytes, NULL, &result);
    struct verify_key said;
    while (status == VERIFY_OK && verify_next(&result, &said))
        assert(said.key_bytes >= 1 && said.key_bytes <= PROOF_KEY_BYTES_MAX);
    free(proof);
    return 0;
}
