/*
 * Proofs of keys: the prover (engine/proof.c) against the verifier (engine/verify), over states that live in a sorted
 * array (proof_walker.h).
 *
 * What honest provers make verifies and says what the array says; what dishonest ones could make does not verify. The
 * dishonest ones here: every single bit of a file flipped, also with the checksum made again; every truncation; steps
 * dropped, doubled, swapped or moved to the other side; the path of another key; every refusal of the format by itself.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "proof_walker.h"

#define ENTRIES_MAX 1200

/* ---- states --------------------------------------------------------------------------------------------------------
 */

static uint64_t random_state = 0x2545f4914f6cdd1dull;

static uint32_t random_below(uint32_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) % bound);
}

enum style { HASHED, PREFIXES, CHAIN, LONG, BYTES, STYLES };

/* One more possible key of a style. */
static size_t make_key(enum style style, uint32_t number, uint8_t key[1024])
{
    size_t bytes = 0;
    switch (style) {
    case HASHED:
        for (bytes = 0; bytes < 16; bytes++)
            key[bytes] = (uint8_t)random_below(256);
        return bytes;
    case PREFIXES: /* over two letters: many are prefixes of others */
        bytes = 1 + random_below(12);
        for (size_t i = 0; i < bytes; i++)
            key[i] = random_below(2) ? 0x00 : 0xff;
        return bytes;
    case CHAIN: /* a, aa, aaa, ... */
        bytes = 1 + number % 1024;
        memset(key, 'a', bytes);
        return bytes;
    case LONG: /* part only near the end */
        bytes = 1000 + random_below(25);
        memset(key, 'x', bytes);
        key[bytes - 1 - random_below(8)] = (uint8_t)random_below(256);
        return bytes;
    case BYTES:
        key[0] = (uint8_t)random_below(256);
        return 1;
    case STYLES:
        break;
    }
    ck_abort_msg("no such style");
    return 0;
}

struct state {
    struct oracle_entry entries[ENTRIES_MAX];
    size_t count;
    struct oracle_summary summary;
};

static void state_free(struct state *state)
{
    for (size_t i = 0; i < state->count; i++) {
        free((void *)state->entries[i].key);
        free((void *)state->entries[i].value);
    }
    free(state);
}

static void state_add(struct state *state, const uint8_t *key, size_t key_bytes)
{
    static const size_t sizes[] = {0, 1, 16, 63, 64, 65, 200};
    struct oracle_entry *entry = &state->entries[state->count++];
    uint8_t *own = malloc(key_bytes), *value;
    ck_assert(own != NULL && state->count <= ENTRIES_MAX);
    memcpy(own, key, key_bytes);
    uint8_t tag = (uint8_t)random_below(3);
    size_t value_bytes = tag == 0 ? sizes[random_below(7)] : tag == 1 ? 16 : 64;
    value = malloc(value_bytes + 1);
    ck_assert(value != NULL);
    for (size_t i = 0; i < value_bytes; i++)
        value[i] = (uint8_t)random_below(256);
    *entry = (struct oracle_entry){own, key_bytes, tag, value, value_bytes};
}

static struct state *state_make(enum style style, size_t tries)
{
    struct state *state = calloc(1, sizeof *state);
    ck_assert(state != NULL);
    for (size_t i = 0; i < tries; i++) {
        uint8_t key[1024];
        struct oracle_entry entry = {.key = key, .key_bytes = make_key(style, (uint32_t)i, key)};
        size_t same = 0;
        while (same < state->count && oracle_compare(&state->entries[same], &entry) != 0)
            same++;
        if (same == state->count)
            state_add(state, key, entry.key_bytes);
    }
    qsort(state->entries, state->count, sizeof *state->entries, oracle_compare);
    oracle_summary(state->entries, state->count, &state->summary);
    return state;
}

static const struct oracle_entry *state_find(const struct state *state, const uint8_t *key, size_t key_bytes)
{
    struct oracle_entry entry = {.key = key, .key_bytes = key_bytes};
    return bsearch(&entry, state->entries, state->count, sizeof entry, oracle_compare);
}

/* ---- proofs --------------------------------------------------------------------------------------------------------
 */

static const uint8_t header[] = "the signed header of a block, opaque to the library";

static struct proof_blob make_state_proof(const struct proof_key *keys, size_t count)
{
    struct proof_blob state;
    ck_assert_int_eq(proof_state_keys(keys, count, &state), ENG_OK);
    return state;
}

static struct proof_blob make_file(const struct proof_key *keys, size_t count)
{
    struct proof_blob state = make_state_proof(keys, count), file;
    ck_assert_int_eq(proof_file(header, sizeof header, &state, &file), ENG_OK);
    proof_blob_free(&state);
    return file;
}

/* Does what someone who changed a file would do. */
static void seal(uint8_t *bytes, size_t size)
{
    oracle_hash("pando proof", 0, bytes, size - 32, bytes + size - 32);
}

static void check_said(const struct state *state, struct verify_result *result, const struct proof_key *asked,
                       size_t count)
{
    struct verify_key said;
    for (size_t i = 0; i < count; i++) {
        const struct oracle_entry *entry = state_find(state, asked[i].key, asked[i].key_bytes);
        ck_assert(verify_next(result, &said));
        ck_assert_uint_eq(said.key_bytes, asked[i].key_bytes);
        ck_assert_mem_eq(said.key, asked[i].key, asked[i].key_bytes);
        ck_assert_int_eq(said.present, entry != NULL);
        if (entry != NULL) {
            ck_assert_int_eq((int)said.tag, entry->tag);
            ck_assert_uint_eq(said.value_bytes, entry->value_bytes);
            ck_assert_int_eq(memcmp(said.value, entry->value, entry->value_bytes), 0);
        } else {
            ck_assert_uint_eq(said.value_bytes, 0);
        }
    }
    ck_assert(!verify_next(result, &said));
}

START_TEST(honest_proofs_verify)
{
    static const size_t sizes[] = {0, 1, 2, 3, 10, 100, 1100};
    size_t present = 0, absent = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct state *state = state_make((enum style)_i, sizes[s]);
        enum { ASKED = 24 };
        uint8_t keys[ASKED][1024];
        struct proof_key asked[ASKED];
        struct verify_expected expected[ASKED];
        for (size_t i = 0; i < ASKED; i++) {
            size_t bytes = make_key((enum style)_i, random_below(1024), keys[i]);
            if (i % 3 == 0 && state->count > 0) {
                const struct oracle_entry *entry = &state->entries[random_below((uint32_t)state->count)];
                memcpy(keys[i], entry->key, bytes = entry->key_bytes);
            } else if (i % 3 == 1) { /* near a key of the state: one bit away, or one byte longer or shorter */
                if (i % 2 == 0)
                    keys[i][random_below((uint32_t)bytes)] ^= (uint8_t)(1 << random_below(8));
                else if (bytes < 1024)
                    keys[i][bytes++] = (uint8_t)(random_below(2) * 0x80);
            }
            asked[i] = walker_key(state->entries, state->count, keys[i], bytes);
            expected[i] = (struct verify_expected){keys[i], bytes};
            if (state_find(state, keys[i], bytes) != NULL)
                present++;
            else
                absent++;
        }
        struct proof_blob file = make_file(asked, ASKED);
        struct verify_options options = {.root = state->summary.digest, .keys = expected, .key_count = ASKED};
        struct verify_result result;
        enum verify_status status = verify_file(file.bytes, file.size, &options, &result);
        ck_assert_msg(status == VERIFY_OK, "style %d, %zu entries: %s", _i, state->count, result.reason);
        ck_assert_mem_eq(result.root, state->summary.digest, 32);
        ck_assert_uint_eq(result.header_bytes, sizeof header);
        ck_assert_mem_eq(result.header, header, sizeof header);
        ck_assert_uint_eq(result.key_count, ASKED);
        ck_assert_str_eq(result.reason, "");
        check_said(state, &result, asked, ASKED);
        ck_assert_int_eq(verify_file(file.bytes, file.size, NULL, &result), VERIFY_OK);
        ck_assert_mem_eq(result.root, state->summary.digest, 32);
        for (size_t i = 0; i < ASKED; i++)
            walker_free(&asked[i]);
        proof_blob_free(&file);
        state_free(state);
    }
    ck_assert(present > 0 && absent > 0);
}
END_TEST

/* The value's digest in place of the value gives the same proof of absence. */
START_TEST(value_digest_replaces_value)
{
    static uint8_t value[5000];
    uint8_t digest[32];
    struct oracle_entry entry = {(const uint8_t *)"k", 1, 0, value, sizeof value};
    struct proof_key asked = walker_key(&entry, 1, (const uint8_t *)"other", 5);
    struct proof_blob with_value = make_state_proof(&asked, 1);
    digest_value(value, sizeof value, digest);
    asked.path.value_digest = digest;
    asked.path.value = NULL;
    struct proof_blob with_digest = make_state_proof(&asked, 1);
    ck_assert_uint_eq(with_value.size, with_digest.size);
    ck_assert_uint_lt(with_value.size, 100);
    ck_assert_mem_eq(with_value.bytes, with_digest.bytes, with_value.size);
    proof_blob_free(&with_value);
    proof_blob_free(&with_digest);
    walker_free(&asked);
}
END_TEST

/* ---- changed files -------------------------------------------------------------------------------------------------
 */

/* A small state, and a file about a present key, two absent ones and one with a long value. */
struct sample {
    struct state *state;
    struct proof_key asked[4];
    struct verify_expected expected[4];
    struct proof_blob file;
};

static void sample_make(struct sample *sample)
{
    static const char *absent[2] = {"\xff\xff\xff\x01", "never"};
    sample->state = state_make(PREFIXES, 12);
    struct oracle_entry *entries = sample->state->entries;
    free((void *)entries[3].value);
    uint8_t *value = malloc(100);
    memset(value, 'v', 100);
    entries[3].tag = 0;
    entries[3].value = value;
    entries[3].value_bytes = 100;
    oracle_summary(entries, sample->state->count, &sample->state->summary);
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *key = i < 2 ? entries[3 * i].key : (const uint8_t *)absent[i - 2];
        size_t bytes = i < 2 ? entries[3 * i].key_bytes : strlen(absent[i - 2]);
        sample->asked[i] = walker_key(entries, sample->state->count, key, bytes);
        sample->expected[i] = (struct verify_expected){key, bytes};
    }
    sample->file = make_file(sample->asked, 4);
    struct verify_options options = {.root = sample->state->summary.digest, .keys = sample->expected, .key_count = 4};
    struct verify_result result;
    ck_assert_int_eq(verify_file(sample->file.bytes, sample->file.size, &options, &result), VERIFY_OK);
}

static void sample_free(struct sample *sample)
{
    for (size_t i = 0; i < 4; i++)
        walker_free(&sample->asked[i]);
    proof_blob_free(&sample->file);
    state_free(sample->state);
}

START_TEST(every_bit_matters)
{
    struct sample sample;
    struct verify_result result;
    sample_make(&sample);
    for (size_t bit = 0; bit < 8 * sample.file.size; bit++) {
        sample.file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        enum verify_status status = verify_file(sample.file.bytes, sample.file.size, NULL, &result);
        sample.file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (status == VERIFY_OK || result.reason[0] == 0 || result.status != status || result.next != NULL)
            ck_abort_msg("bit %zu of byte %zu flipped: %s", bit % 8, bit / 8, result.reason);
    }
    sample_free(&sample);
}
END_TEST

/* As above by someone who makes the checksum again, against a verifier who knows root and keys. Of the header, which is
 * not for this library to judge, the changed bytes come out. */
START_TEST(every_bit_matters_without_checksum)
{
    struct sample sample;
    struct verify_result result;
    sample_make(&sample);
    struct verify_options options = {.root = sample.state->summary.digest, .keys = sample.expected, .key_count = 4};
    for (size_t bit = 0; bit < 8 * (sample.file.size - 32); bit++) {
        bool in_header = bit / 8 >= PROOF_FILE_HEAD_BYTES && bit / 8 < PROOF_FILE_HEAD_BYTES + sizeof header;
        sample.file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        seal(sample.file.bytes, sample.file.size);
        enum verify_status status = verify_file(sample.file.bytes, sample.file.size, &options, &result);
        if ((status == VERIFY_OK) != in_header)
            ck_abort_msg("bit %zu of byte %zu flipped: %s", bit % 8, bit / 8, result.reason);
        if (in_header)
            ck_assert_mem_ne(result.header, header, sizeof header);
        sample.file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    sample_free(&sample);
}
END_TEST

START_TEST(every_length_matters)
{
    struct sample sample;
    struct verify_result result;
    sample_make(&sample);
    struct proof_blob *file = &sample.file;
    for (size_t size = 0; size < file->size; size++) {
        uint8_t *cut =
            malloc(size > 0 ? size : 1); /* its own block, so that the address sanitizer sees every read beyond */
        memcpy(cut, file->bytes, size);
        ck_assert_int_ne(verify_file(cut, size, NULL, &result), VERIFY_OK);
        if (size >= PROOF_FILE_HEAD_BYTES + PROOF_CHECKSUM_BYTES) {
            seal(cut, size);
            ck_assert_int_ne(verify_file(cut, size, NULL, &result), VERIFY_OK);
        }
        free(cut);
    }
    uint8_t *longer = calloc(1, file->size + 1);
    memcpy(longer, file->bytes, file->size - 32);
    seal(longer, file->size + 1);
    ck_assert_int_eq(verify_file(longer, file->size + 1, NULL, &result), VERIFY_TRAILING);
    free(longer);
    sample_free(&sample);
}
END_TEST

START_TEST(expectations_are_held)
{
    struct sample sample;
    struct verify_result result;
    sample_make(&sample);
    uint8_t root[32];
    memcpy(root, sample.state->summary.digest, 32);
    struct verify_options options = {.root = root, .keys = sample.expected, .key_count = 4};
    root[31] ^= 1;
    ck_assert_int_eq(verify_file(sample.file.bytes, sample.file.size, &options, &result), VERIFY_ROOT);
    ck_assert_ptr_null(result.header);
    root[31] ^= 1;
    options.key_count = 3;
    ck_assert_int_eq(verify_file(sample.file.bytes, sample.file.size, &options, &result), VERIFY_KEYS);
    options.key_count = 4;
    sample.expected[0] = sample.expected[1];
    ck_assert_int_eq(verify_file(sample.file.bytes, sample.file.size, &options, &result), VERIFY_KEYS);
    sample_free(&sample);
}
END_TEST

/* ---- liars ---------------------------------------------------------------------------------------------------------
 */

/* A key proof written by hand, without the prover's own checks: absent unless the keys are the same. */
static size_t forge(uint8_t *at, const uint8_t *key, size_t key_bytes, const struct proof_path *path)
{
    uint8_t *start = at;
    bool outside = path->value_bytes > 64;
    *at++ = 1;
    memcpy(at, &(uint32_t){1}, 4);
    memcpy(at + 4, &(uint16_t){(uint16_t)key_bytes}, 2);
    memcpy(at + 6, key, key_bytes);
    at += 6 + key_bytes;
    *at++ = 0;
    memcpy(at, &(uint16_t){(uint16_t)path->key_bytes}, 2);
    memcpy(at + 2, path->key, path->key_bytes);
    at += 2 + path->key_bytes;
    *at++ = (uint8_t)path->tag;
    *at++ = outside;
    if (outside) {
        memcpy(at, &(uint64_t){path->value_bytes}, 8);
        oracle_hash("pando value", 0, path->value, path->value_bytes, at + 8);
        at += 40;
    } else {
        *at++ = (uint8_t)path->value_bytes;
        memcpy(at, path->value, path->value_bytes);
        at += path->value_bytes;
    }
    memcpy(at, &(uint16_t){(uint16_t)path->step_count}, 2);
    at += 2;
    for (size_t i = 0; i < path->step_count; i++) {
        memcpy(at, &path->steps[i].bit, 4);
        memcpy(at + 4, &path->steps[i].sibling, 64);
        at += 68;
    }
    return (size_t)(at - start);
}

static enum verify_status verify_forged(const struct state *state, const uint8_t *key, size_t key_bytes,
                                        const struct proof_path *path)
{
    static uint8_t bytes[1 << 20];
    struct verify_options options = {.root = state->summary.digest};
    struct verify_result result;
    return verify_state(bytes, forge(bytes, key, key_bytes, path), &options, &result);
}

/* The forger's writer and the prover agree where both are honest, so that its lies fail for what they say. */
START_TEST(forger_can_tell_the_truth)
{
    for (int style = 0; style < STYLES; style++) {
        struct state *state = state_make((enum style)style, 40);
        for (int i = 0; i < 20; i++) {
            uint8_t key[1024], bytes[200000];
            size_t key_bytes = make_key((enum style)style, 500 + (uint32_t)i, key);
            if (state_find(state, key, key_bytes) != NULL)
                continue;
            struct proof_key asked = walker_key(state->entries, state->count, key, key_bytes);
            struct proof_blob blob = make_state_proof(&asked, 1);
            ck_assert_uint_eq(forge(bytes, key, key_bytes, &asked.path), blob.size);
            ck_assert_mem_eq(bytes, blob.bytes, blob.size);
            ck_assert_int_eq(verify_forged(state, key, key_bytes, &asked.path), VERIFY_OK);
            proof_blob_free(&blob);
            walker_free(&asked);
        }
        state_free(state);
    }
}
END_TEST

/* No honest path of any other key shows a present key to be absent. */
START_TEST(no_path_hides_a_present_key)
{
    struct state *state = state_make((enum style)_i, 60);
    for (size_t i = 0; i < state->count; i++) {
        const struct oracle_entry *other = &state->entries[i];
        struct proof_key path = walker_key(state->entries, state->count, other->key, other->key_bytes);
        for (size_t j = 0; j < state->count; j++) {
            const struct oracle_entry *hidden = &state->entries[j];
            enum verify_status status = verify_forged(state, hidden->key, hidden->key_bytes, &path.path);
            ck_assert_int_eq(status, i == j ? VERIFY_NOT_ABSENT : VERIFY_WALK);
        }
        walker_free(&path);
    }
    state_free(state);
}
END_TEST

/* Nor does one with steps dropped, doubled, swapped, put on the other side or of another bit. */
START_TEST(no_bent_path_verifies)
{
    struct state *state = state_make((enum style)_i, 60);
    struct proof_step bent[PROOF_STEPS_MAX];
    for (size_t e = 0; e < state->count; e += 1 + state->count / 12) {
        const struct oracle_entry *entry = &state->entries[e];
        uint8_t key[1025];
        memcpy(key, entry->key, entry->key_bytes);
        key[entry->key_bytes - 1] ^= 0x14;
        struct proof_key asked = walker_key(state->entries, state->count, key, entry->key_bytes);
        if (state_find(state, key, entry->key_bytes) != NULL || asked.path.step_count < 2) {
            walker_free(&asked);
            continue;
        }
        ck_assert_int_eq(verify_forged(state, key, entry->key_bytes, &asked.path), VERIFY_OK);
        size_t count = asked.path.step_count, size = count * sizeof *bent;
        struct proof_path path = asked.path;
        path.steps = bent;
        for (size_t i = 0; i < count; i++) {
            memcpy(bent, asked.path.steps, size); /* dropped */
            memmove(bent + i, bent + i + 1, (count - i - 1) * sizeof *bent);
            path.step_count = count - 1;
            ck_assert_int_eq(verify_forged(state, key, entry->key_bytes, &path), VERIFY_ROOT);
            memcpy(bent, asked.path.steps, size); /* doubled */
            memmove(bent + i + 1, bent + i, (count - i) * sizeof *bent);
            path.step_count = count + 1;
            ck_assert_int_eq(verify_forged(state, key, entry->key_bytes, &path), VERIFY_BIT_ORDER);
            path.step_count = count;
            memcpy(bent, asked.path.steps, size); /* another bit */
            bent[i].bit++;
            ck_assert_int_ne(verify_forged(state, key, entry->key_bytes, &path), VERIFY_OK);
            memcpy(bent, asked.path.steps, size); /* a sibling that is less */
            bent[i].sibling.count--;
            ck_assert_int_ne(verify_forged(state, key, entry->key_bytes, &path), VERIFY_OK);
        }
        for (size_t i = 0; i + 1 < count; i++) {
            memcpy(bent, asked.path.steps, size); /* swapped, with and without their bits */
            bent[i] = asked.path.steps[i + 1];
            bent[i + 1] = asked.path.steps[i];
            ck_assert_int_eq(verify_forged(state, key, entry->key_bytes, &path), VERIFY_BIT_ORDER);
            bent[i].bit = asked.path.steps[i].bit;
            bent[i + 1].bit = asked.path.steps[i + 1].bit;
            ck_assert_int_eq(verify_forged(state, key, entry->key_bytes, &path), VERIFY_ROOT);
        }
        walker_free(&asked);
    }
    state_free(state);
}
END_TEST

/* Two keys of one state: a, b. The sibling on the wrong side is b's proof with a's summary where b's belongs. */
START_TEST(sides_matter)
{
    struct oracle_entry entries[2] = {{(const uint8_t *)"a", 1, 0, (const uint8_t *)"1", 1},
                                      {(const uint8_t *)"b", 1, 0, (const uint8_t *)"2", 1}};
    struct oracle_summary left, right, root, mirrored;
    struct verify_result result;
    oracle_summary(entries, 1, &left);
    oracle_summary(entries + 1, 1, &right);
    oracle_node(&left, &right, 7, &root);
    oracle_node(&right, &left, 7, &mirrored);
    struct proof_key asked = walker_key(entries, 2, (const uint8_t *)"b", 1);
    struct proof_blob blob = make_state_proof(&asked, 1);
    ck_assert_int_eq(verify_state(blob.bytes, blob.size, &(struct verify_options){.root = root.digest}, &result),
                     VERIFY_OK);
    ck_assert_int_eq(verify_state(blob.bytes, blob.size, &(struct verify_options){.root = mirrored.digest}, &result),
                     VERIFY_ROOT);
    proof_blob_free(&blob);
    walker_free(&asked);
}
END_TEST

/* "The state is empty" is a proof against the empty root only, and not together with keys of another. */
START_TEST(empty_state)
{
    struct state *state = state_make(HASHED, 5);
    struct verify_result result;
    struct proof_key keys[2] = {walker_key(NULL, 0, (const uint8_t *)"k", 1),
                                walker_key(state->entries, 5, (const uint8_t *)"k", 1)};
    static const uint8_t zero[32];
    struct verify_options none = {.root = zero}, some = {.root = state->summary.digest};
    struct proof_blob blob = make_state_proof(keys, 1);
    ck_assert_int_eq(verify_state(blob.bytes, blob.size, &none, &result), VERIFY_OK);
    ck_assert_mem_eq(result.root, zero, 32);
    ck_assert_int_eq(verify_state(blob.bytes, blob.size, &some, &result), VERIFY_ROOT);
    proof_blob_free(&blob);
    blob = make_state_proof(keys, 2);
    ck_assert_int_eq(verify_state(blob.bytes, blob.size, NULL, &result), VERIFY_ROOTS);
    proof_blob_free(&blob);
    walker_free(&keys[1]);
    state_free(state);
}
END_TEST

/* ---- the format ----------------------------------------------------------------------------------------------------
 */

struct refusal {
    const char *bytes;
    size_t size;
    enum verify_status status;
};
#define REFUSAL(literal, status)                                                                                       \
    {                                                                                                                  \
        literal, sizeof literal - 1, status                                                                            \
    }

static const struct refusal refusals[] = {
    REFUSAL("", VERIFY_TRUNCATED),
    REFUSAL("\x00", VERIFY_KIND),
    REFUSAL("\x02\x02", VERIFY_FORM),
    REFUSAL("\x02\x01\0\0\0", VERIFY_KEY_BYTES),
    REFUSAL("\x03\0\0", VERIFY_TRUNCATED),
    REFUSAL("\x03\0\0\x05", VERIFY_FORM),
    REFUSAL("\x07\x01\0\0\0", VERIFY_KIND),
    REFUSAL("\x04\0\0\0\0", VERIFY_NO_KEYS),
    REFUSAL("\x04\x01\x10\0\0", VERIFY_TOO_LARGE),
    REFUSAL("\x04\x02\0\0\0\x01\0k\x01\0k", VERIFY_KEY_ORDER),
    REFUSAL("\x04\x01\0\0\0\x01\0k\x04", VERIFY_OK),
    REFUSAL("\x04\x01\0\0\0\x01\0k\x05", VERIFY_FORM),
    REFUSAL("\x04\x01\0\0\0\x01\0k\x03\x01\0k\0\x01\0\0\0v", VERIFY_OK),
    REFUSAL("\x04\x01\0\0\0\x01\0k\x03\x01\0l\0\x01\0\0\0v", VERIFY_ENTRY),
    REFUSAL("\x04\x01\0\0\0\x01\0k\0\x01\0l\0\0\x01v", VERIFY_OK),
    REFUSAL("\x04\x01\0\0\0\x01\0k\0\x01\0k\0\0\x01v", VERIFY_ENTRY),
    REFUSAL("\x05\0\0", VERIFY_TRUNCATED),
    REFUSAL("\x05\0\0\x04\x04", VERIFY_OK),
    REFUSAL("\x05\0\0\x04\x05", VERIFY_SHARED),
    REFUSAL("\x05\0\0\x04\x03\x01\0k\0\x01\0\0\0v", VERIFY_OK),
    REFUSAL("\x05\0\0\x04\0\x01\0k\0\0\x01v", VERIFY_ENTRY),
    REFUSAL("\x05\0\0\x06short", VERIFY_TRUNCATED),
    REFUSAL("\x05\0\0\x03\x01\0k\0\x01\0\0\0v\x03\x01\0k\0\x01\0\0\0v", VERIFY_OPENED),
    REFUSAL("\x05\0\0\x03\x01\0k\0\x01\0\0\0v\x03\x01\0k\0\x01\0\0\0w", VERIFY_OK),
    REFUSAL("\x06\0\x01", VERIFY_LEVELS),
    REFUSAL("\x06\x03\x01", VERIFY_LEVELS),
    REFUSAL("\x06\x01\0", VERIFY_LEVELS),
    REFUSAL("\x06\x01\x21", VERIFY_LEVELS),
    REFUSAL("\x06\x01\x01\x01\0k\x02", VERIFY_LEVELS),
    REFUSAL("\x06\x01\x01\x01\0k\x01\0\x01\0\0\0v\0\0", VERIFY_LEVELS),
    REFUSAL("\x01\x01\0\0", VERIFY_TRUNCATED),
    REFUSAL("\x01\0\0\0\0", VERIFY_NO_KEYS),
    REFUSAL("\x01\xff\xff\xff\xff\x01\0k\x02", VERIFY_TRUNCATED),
    REFUSAL("\x01\x01\0\0\0\0\0\x02", VERIFY_KEY_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\x04", VERIFY_KEY_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x02", VERIFY_OK),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x02\0", VERIFY_TRAILING),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x03", VERIFY_CLAIM),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\x03", VERIFY_TAG),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\0\x01\0\0\0v\0\0", VERIFY_OK),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\0\x01\0\0\x01v\0\0", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\x01\x01\0\0\0v\0\0", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\x02\x01\0\0\0v\0\0", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\0\x01\0\0\0v\x0a\x24", VERIFY_STEPS),
    REFUSAL("\x01\x01\0\0\0\x01\0k\x01\0\x01\0\0\0v\x09\x24", VERIFY_TRUNCATED),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\0\0\x01v\0\0", VERIFY_OK),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0k\0\0\x01v\0\0", VERIFY_NOT_ABSENT),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\0\x02\x01v\0\0", VERIFY_FORM),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\0\0\x41", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\x01\0\x0f", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\0\x01\x40\0\0\0\0\0\0\0", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\0\x01\x01\0\0\x01\0\0\0\0", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\0\x01\x41\0\0\0\x01\0\0\0", VERIFY_VALUE_BYTES),
    REFUSAL("\x01\x01\0\0\0\x01\0k\0\x01\0l\x02\x01\x41\0\0\0\0\0\0\0", VERIFY_VALUE_BYTES),
};

START_TEST(format_refusals)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct verify_result result;
        uint8_t *bytes = malloc(refusals[i].size > 0 ? refusals[i].size : 1);
        memcpy(bytes, refusals[i].bytes, refusals[i].size);
        enum verify_status status = verify_state(bytes, refusals[i].size, NULL, &result);
        ck_assert_msg(status == refusals[i].status, "refusal %zu: %d %s", i, (int)status, result.reason);
        ck_assert_int_eq(status == VERIFY_OK, result.reason[0] == 0);
        free(bytes);
    }
    struct verify_result result;
    ck_assert_int_eq(verify_state(NULL, 0, NULL, &result), VERIFY_TRUNCATED);
    ck_assert_int_eq(verify_file(NULL, 0, NULL, &result), VERIFY_MAGIC);
}
END_TEST

static enum verify_status verify_sealed(struct proof_blob *file)
{
    struct verify_result result;
    seal(file->bytes, file->size);
    return verify_file(file->bytes, file->size, NULL, &result);
}

START_TEST(file_refusals)
{
    struct sample sample;
    struct verify_result result;
    sample_make(&sample);
    struct proof_blob *file = &sample.file;
    file->bytes[0] ^= 1;
    ck_assert_int_eq(verify_sealed(file), VERIFY_MAGIC);
    file->bytes[0] ^= 1;
    file->bytes[8] = 2;
    ck_assert_int_eq(verify_sealed(file), VERIFY_VERSION);
    file->bytes[8] = 1;
    file->bytes[11] = 0x80;
    ck_assert_int_eq(verify_sealed(file), VERIFY_FLAGS);
    file->bytes[11] = 0;
    memset(file->bytes + 12, 0xff, 4);
    ck_assert_int_eq(verify_sealed(file), VERIFY_TRUNCATED);
    memcpy(file->bytes + 12, &(uint32_t){sizeof header}, 4);
    ck_assert_int_eq(verify_sealed(file), VERIFY_OK);
    file->bytes[file->size - 1] ^= 1;
    ck_assert_int_eq(verify_file(file->bytes, file->size, NULL, &result), VERIFY_CHECKSUM);
    ck_assert_int_eq(verify_file((const uint8_t *)"PANDO", 5, NULL, &result), VERIFY_TRUNCATED);
    uint8_t *large = calloc(1, PROOF_BYTES_MAX + 1);
    ck_assert_int_eq(verify_file(large, PROOF_BYTES_MAX + 1, NULL, &result), VERIFY_TOO_LARGE);
    ck_assert_int_eq(verify_state(large, PROOF_BYTES_MAX + 1, NULL, &result), VERIFY_TOO_LARGE);
    free(large);
    sample_free(&sample);
}
END_TEST

/* Steps of a bit that no trie has there, and siblings of nothing, are refused before any digest is made. */
START_TEST(path_refusals)
{
    struct state state = {.count = 0};
    struct proof_step steps[2] = {{.bit = 1, .sibling.count = 1}, {.bit = 5, .sibling.count = 1}};
    struct proof_path path = {(const uint8_t *)"aa", 2, ENG_BYTES, (const uint8_t *)"v", 1, NULL, steps, 2};
    struct {
        uint32_t first, second;
        uint64_t count;
        const char *asked;
        enum verify_status status;
    } cases[] = {{1, 5, 1, "ab", VERIFY_ROOT},       {1, 18, 1, "ab", VERIFY_ROOT},
                 {1, 19, 1, "ab", VERIFY_BIT_RANGE}, {1, 1, 1, "ab", VERIFY_BIT_ORDER},
                 {5, 1, 1, "ab", VERIFY_BIT_ORDER},  {0, 5, 1, "ab", VERIFY_BIT_ORDER},
                 {1, 5, 0, "ab", VERIFY_SIBLING},    {1, 18, 1, "aaa", VERIFY_WALK},
                 {1, 9, 1, "b", VERIFY_WALK},        {1, 5, 1, "aa", VERIFY_NOT_ABSENT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        steps[0].bit = cases[i].first;
        steps[1].bit = cases[i].second;
        steps[1].sibling.count = cases[i].count;
        enum verify_status status =
            verify_forged(&state, (const uint8_t *)cases[i].asked, strlen(cases[i].asked), &path);
        ck_assert_msg(status == cases[i].status, "case %zu: %s", i, verify_text(status));
    }
}
END_TEST

START_TEST(prover_refuses)
{
    struct proof_step steps[2] = {{.bit = 1, .sibling.count = 1}, {.bit = 5, .sibling.count = 1}};
    struct proof_key key = {(const uint8_t *)"ab", 2, {(const uint8_t *)"aa", 2, ENG_BYTES, NULL, 0, NULL, steps, 2}};
    struct proof_blob blob, file;
    ck_assert_int_eq(proof_state_keys(&key, 1, &blob), ENG_OK);
    ck_assert_int_eq(proof_file(header, PROOF_BYTES_MAX - blob.size, &blob, &file), ENG_TOO_LARGE);
    ck_assert_ptr_null(file.bytes);
    proof_blob_free(&blob);
    ck_assert_ptr_null(blob.bytes);
    const struct {
        uint32_t first, second;
        uint64_t count;
    } damages[] = {{5, 5, 1}, {0, 5, 1}, {1, 19, 1}, {1, 5, 0}, {1, 17, 1}};
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        steps[0].bit = damages[i].first;
        steps[1].bit = damages[i].second;
        steps[1].sibling.count = damages[i].count;
        ck_assert_int_eq(proof_state_keys(&key, 1, &blob), ENG_DAMAGED);
        ck_assert_ptr_null(blob.bytes);
        ck_assert_int_eq(strncmp(eng_error(), "proof: step ", 12), 0);
    }
    uint8_t *value = calloc(1, ENG_VALUE_BYTES_MAX);
    struct proof_path *path = &key.path;
    *path = (struct proof_path){key.key, 2, ENG_BYTES, value, ENG_VALUE_BYTES_MAX, NULL, NULL, 0};
    ck_assert_int_eq(proof_state_keys(&key, 1, &blob), ENG_TOO_LARGE);
    path->value_bytes = 15u << 20;
    ck_assert_int_eq(proof_state_keys(&key, 1, &blob), ENG_OK);
    struct oracle_entry entry = {key.key, 2, 0, value, path->value_bytes};
    uint8_t root[32];
    oracle_entry_digest(&entry, root);
    struct verify_result result;
    ck_assert_int_eq(verify_state(blob.bytes, blob.size, &(struct verify_options){.root = root}, &result), VERIFY_OK);
    proof_blob_free(&blob);
    free(value);
}
END_TEST

static void init(void)
{
    ck_assert(digest_init());
}

int main(void)
{
    Suite *suite = suite_create("proof");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_checked_fixture(all, init, NULL);
    tcase_add_loop_test(all, honest_proofs_verify, 0, STYLES);
    tcase_add_test(all, value_digest_replaces_value);
    tcase_add_test(all, every_bit_matters);
    tcase_add_test(all, every_bit_matters_without_checksum);
    tcase_add_test(all, every_length_matters);
    tcase_add_test(all, expectations_are_held);
    tcase_add_test(all, forger_can_tell_the_truth);
    tcase_add_loop_test(all, no_path_hides_a_present_key, 0, STYLES);
    tcase_add_loop_test(all, no_bent_path_verifies, 0, STYLES);
    tcase_add_test(all, sides_matter);
    tcase_add_test(all, empty_state);
    tcase_add_test(all, format_refusals);
    tcase_add_test(all, file_refusals);
    tcase_add_test(all, path_refusals);
    tcase_add_test(all, prover_refuses);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
