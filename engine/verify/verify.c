/*
 * The frame of a proof: file, kinds, and what the caller expects. The format is in pando/verify.h.
 *
 * The happy path: verify_file() checks magic, version, flags and the checksum over everything, leaves the header as it
 * is and hands what lies between header and checksum to verify_state(). That goes by the kind (those of keys and of
 * subtrees are here, the others have files of their own) and holds the roots to what was expected. verify_next() reads
 * the same bytes again: they were verified, so it cannot fail.
 *
 * A failure leaves nothing but a status and a line in the result, so that nothing unproven can be used by mistake.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "diff_proof.h"
#include "many_proof.h"
#include "range_proof.h"

#define NO_KEY UINT32_MAX

const char *verify_text(enum verify_status status)
{
    switch (status) {
#define X(code, sentence)                                                                                              \
    case code:                                                                                                         \
        return sentence;
        VERIFY_STATUS_TABLE(X)
#undef X
    }
    return "unknown status";
}

/* Empties the result but for the status and a line that names the place: the key (from 0) and the byte. */
static enum verify_status fail(struct verify_result *result, enum verify_status status, uint32_t key, size_t offset)
{
    assert(status != VERIFY_OK);
    memset(result, 0, sizeof *result);
    result->status = status;
    if (key == NO_KEY)
        snprintf(result->reason, sizeof result->reason, "proof: byte %zu: %s", offset, verify_text(status));
    else
        snprintf(result->reason, sizeof result->reason, "proof: key number %u: byte %zu: %s", key, offset,
                 verify_text(status));
    return status;
}

/* What a proof leads to; older: of PROOF_DIFF. */
struct roots {
    struct trie_summary older, newer;
};

static bool is_expected(const struct verify_expected *expected, const uint8_t *key, size_t key_bytes)
{
    return expected->key_bytes == key_bytes && memcmp(expected->key, key, key_bytes) == 0;
}

/* Kind 1. file is where offsets in messages count from. */
static enum verify_status verify_keys(struct proof_reader *reader, const uint8_t *file,
                                      const struct verify_options *options, struct verify_result *result,
                                      struct trie_summary *root)
{
    const uint8_t *count = proof_take(reader, 4);
    if (count == NULL)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, (size_t)(reader->at - file));
    uint32_t key_count = trie_u32(count);
    if (key_count == 0)
        return fail(result, VERIFY_NO_KEYS, NO_KEY, (size_t)(count - file));
    if (options->keys != NULL && options->key_count != key_count)
        return fail(result, VERIFY_KEYS, NO_KEY, (size_t)(count - file));
    result->next = reader->at;
    for (uint32_t i = 0; i < key_count; i++) {
        struct key_proof proof;
        struct trie_summary leads_to;
        size_t offset = (size_t)(reader->at - file);
        enum verify_status status = key_proof_read(reader, &proof);
        if (status != VERIFY_OK)
            return fail(result, status, i, (size_t)(reader->at - file));
        status = key_proof_check(&proof, &leads_to);
        if (status == VERIFY_OK && options->keys != NULL && !is_expected(&options->keys[i], proof.key, proof.key_bytes))
            status = VERIFY_KEYS;
        if (status == VERIFY_OK && i > 0 && memcmp(root, &leads_to, sizeof leads_to) != 0)
            status = VERIFY_ROOTS;
        if (status != VERIFY_OK)
            return fail(result, status, i, offset);
        *root = leads_to;
    }
    if (reader->at != reader->end)
        return fail(result, VERIFY_TRAILING, NO_KEY, (size_t)(reader->at - file));
    result->key_count = result->keys_left = key_count;
    result->end = reader->end;
    return VERIFY_OK;
}

/* Are the keys of a proof of kind 4 the expected ones? */
static bool are_expected(const struct verify_options *options, const struct verify_result *result)
{
    struct proof_reader keys = {result->next, result->end};
    bool expected = options->key_count == result->key_count;
    for (uint32_t i = 0; expected && i < result->key_count; i++) {
        const uint8_t *key;
        size_t key_bytes;
        enum verify_status status = proof_key_read(&keys, &key, &key_bytes);
        assert(status == VERIFY_OK); /* the same bytes were read before */
        expected = status == VERIFY_OK && is_expected(&options->keys[i], key, key_bytes);
    }
    return expected;
}

/* A proof of any kind but 6, behind its kind byte. */
static enum verify_status verify_flat(struct proof_reader *reader, enum proof_kind kind, const uint8_t *file,
                                      const struct verify_options *options, struct verify_result *result,
                                      struct roots *roots)
{
    enum verify_status status = VERIFY_KIND;
    switch (kind) {
    case PROOF_KEYS:
        return verify_keys(reader, file, options, result, &roots->newer);
    case PROOF_RANGE:
    case PROOF_TOTALS:
        status = range_proof_verify(reader, kind, result, &roots->newer);
        break;
    case PROOF_MANY:
        status = many_proof_verify(reader, result, &roots->newer);
        break;
    case PROOF_DIFF:
        status = diff_proof_verify(reader, result, &roots->older, &roots->newer);
        break;
    case PROOF_NESTED:
        break;
    }
    if (status == VERIFY_OK && options->keys != NULL && !(kind == PROOF_MANY && are_expected(options, result)))
        status = VERIFY_KEYS;
    return status == VERIFY_OK ? VERIFY_OK : fail(result, status, NO_KEY, (size_t)(reader->at - file));
}

/* ---- subtrees ---- */

/* One chain: the root it begins at, and the summary its last key has as its value. */
struct chain {
    struct trie_summary root;
    const uint8_t *value;
};

static enum verify_status check_chain(struct proof_reader *reader, uint32_t levels,
                                      const struct verify_options *options, struct chain *chain)
{
    if ((options->levels != NULL || options->keys != NULL) && options->level_count != levels)
        return VERIFY_LEVELS;
    for (uint32_t i = 0; i < levels; i++) {
        struct key_proof proof;
        struct trie_summary root;
        enum verify_status status = key_proof_read(reader, &proof);
        if (status == VERIFY_OK && (proof.claim != PROOF_PRESENT || proof.landing.tag != PROOF_TAG_TREE))
            status = VERIFY_LEVELS;
        if (status == VERIFY_OK)
            status = key_proof_check(&proof, &root);
        if (status == VERIFY_OK && options->levels != NULL &&
            !is_expected(&options->levels[i], proof.key, proof.key_bytes))
            status = VERIFY_LEVELS;
        if (status == VERIFY_OK && i > 0 && memcmp(root.bytes, chain->value, PROOF_SUMMARY_BYTES) != 0)
            status = VERIFY_SUMMARY;
        if (status != VERIFY_OK)
            return status;
        if (i == 0)
            chain->root = root;
        chain->value = proof.landing.value;
    }
    return VERIFY_OK;
}

/* Two chains lead through the same keys. */
static bool are_parallel(struct proof_reader older, struct proof_reader newer, uint32_t levels)
{
    bool same = true;
    for (uint32_t i = 0; i < levels && same; i++) {
        struct key_proof a, b;
        same = key_proof_read(&older, &a) == VERIFY_OK && key_proof_read(&newer, &b) == VERIFY_OK &&
               a.key_bytes == b.key_bytes && memcmp(a.key, b.key, a.key_bytes) == 0;
    }
    return same;
}

/* The chains, up to the kind of the inner proof. */
static enum verify_status read_chains(struct proof_reader *reader, const struct verify_options *options,
                                      struct verify_result *result, uint32_t *count, struct chain chains[2])
{
    const uint8_t *numbers = proof_take(reader, 2);
    if (numbers == NULL)
        return VERIFY_TRUNCATED;
    *count = numbers[0];
    result->levels = numbers[1];
    if (*count < 1 || *count > 2 || result->levels < 1 || result->levels > PROOF_LEVELS_MAX)
        return VERIFY_LEVELS;
    struct proof_reader begin[2] = {*reader, *reader};
    for (uint32_t i = 0; i < *count; i++) {
        begin[i] = *reader;
        enum verify_status status = check_chain(reader, result->levels, options, &chains[i]);
        if (status != VERIFY_OK)
            return status;
    }
    result->chain = begin[0].at;
    result->chain_end = reader->at;
    return *count == 1 || are_parallel(begin[0], begin[1], result->levels) ? VERIFY_OK : VERIFY_LEVELS;
}

/* Does the inner proof lead to the subtree at the end of a chain? Of two states that are the same it has digests only.
 */
static bool leads_to(const struct chain *chain, const struct trie_summary *inner, bool digest_only)
{
    return memcmp(chain->value, inner->bytes, digest_only ? PROOF_DIGEST_BYTES : PROOF_SUMMARY_BYTES) == 0;
}

/* Kind 6. */
static enum verify_status verify_nested(struct proof_reader *reader, const uint8_t *file,
                                        const struct verify_options *options, struct verify_result *result,
                                        struct roots *roots)
{
    struct chain chains[2] = {0};
    uint32_t count = 0;
    enum verify_status status = read_chains(reader, options, result, &count, chains);
    const uint8_t *kind = status == VERIFY_OK ? proof_take(reader, 1) : NULL;
    if (status == VERIFY_OK && kind == NULL)
        status = VERIFY_TRUNCATED;
    if (status == VERIFY_OK && (*kind < PROOF_KEYS || *kind >= PROOF_NESTED))
        status = VERIFY_KIND;
    if (status == VERIFY_OK && count != (*kind == PROOF_DIFF ? 2u : 1u))
        status = VERIFY_LEVELS;
    if (status != VERIFY_OK)
        return fail(result, status, NO_KEY, (size_t)(reader->at - file));
    struct roots inner;
    result->inner = (enum proof_kind) * kind;
    status = verify_flat(reader, result->inner, file, options, result, &inner);
    if (status != VERIFY_OK)
        return status;
    bool difference = count == 2, same = difference && memcmp(&inner.older, &inner.newer, sizeof inner.older) == 0;
    if (!leads_to(&chains[count - 1], &inner.newer, same) || (difference && !leads_to(&chains[0], &inner.older, same)))
        return fail(result, VERIFY_SUMMARY, NO_KEY, (size_t)(kind - file));
    roots->newer = chains[count - 1].root;
    roots->older = chains[0].root;
    return VERIFY_OK;
}

void verify_level(const struct verify_result *result, uint32_t level, struct verify_key *key)
{
    assert(result->status == VERIFY_OK && level < result->levels);
    struct proof_reader reader = {result->chain, result->chain_end};
    struct key_proof proof;
    for (uint32_t i = 0; reader.at != reader.end; i++) {
        enum verify_status status = key_proof_read(&reader, &proof);
        assert(status == VERIFY_OK); /* the same bytes were read before */
        (void)status;
        const struct trie_entry *tree = &proof.landing;
        if (i == level)
            *key = (struct verify_key){.key = proof.key,
                                       .key_bytes = proof.key_bytes,
                                       .present = true,
                                       .tag = tree->tag,
                                       .value = tree->value,
                                       .value_bytes = (size_t)tree->value_bytes};
        if (i == level + result->levels) { /* of a second chain, the newer one */
            key->was_present = true;
            key->old_tag = key->tag;
            key->old_value = key->value;
            key->old_value_bytes = key->value_bytes;
            key->value = tree->value;
        }
    }
}

/* ---- any kind ---- */

static bool same_bound(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    if (a == NULL || b == NULL)
        return a == b;
    return a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0;
}

/* Is what the proof says an answer to what was asked? */
static enum verify_status check_question(const struct verify_options *options, const struct verify_result *result)
{
    if (options->kind != 0 && options->kind != result->inner)
        return VERIFY_OTHER_KIND;
    const struct verify_range *range = options->range;
    if (range == NULL)
        return VERIFY_OK;
    bool of_range = result->inner == PROOF_RANGE || result->inner == PROOF_TOTALS || result->inner == PROOF_DIFF;
    return of_range && same_bound(range->from, range->from_bytes, result->from, result->from_bytes) &&
                   same_bound(range->to, range->to_bytes, result->to, result->to_bytes)
               ? VERIFY_OK
               : VERIFY_OTHER_RANGE;
}

static enum verify_status verify_kind(struct proof_reader *reader, const uint8_t *file,
                                      const struct verify_options *options, struct verify_result *result)
{
    static const struct verify_options nothing_expected;
    const uint8_t *kind = proof_take(reader, 1);
    if (kind == NULL)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, (size_t)(reader->at - file));
    if (*kind < PROOF_KEYS || *kind > PROOF_NESTED)
        return fail(result, VERIFY_KIND, NO_KEY, (size_t)(kind - file));
    if (options == NULL)
        options = &nothing_expected;
    struct roots roots = {0};
    result->kind = result->inner = (enum proof_kind) * kind;
    enum verify_status status;
    if (result->kind == PROOF_NESTED)
        status = verify_nested(reader, file, options, result, &roots);
    else if ((options->levels != NULL || options->keys != NULL) && options->level_count != 0)
        status = fail(result, VERIFY_LEVELS, NO_KEY, (size_t)(kind - file));
    else
        status = verify_flat(reader, result->kind, file, options, result, &roots);
    if (status != VERIFY_OK)
        return status;
    if (options->root != NULL && memcmp(options->root, roots.newer.bytes, PROOF_DIGEST_BYTES) != 0)
        return fail(result, VERIFY_ROOT, NO_KEY, (size_t)(kind - file));
    if (options->older_root != NULL &&
        (result->inner != PROOF_DIFF || memcmp(options->older_root, roots.older.bytes, PROOF_DIGEST_BYTES) != 0))
        return fail(result, VERIFY_OLDER_ROOT, NO_KEY, (size_t)(kind - file));
    status = check_question(options, result);
    if (status != VERIFY_OK)
        return fail(result, status, NO_KEY, (size_t)(kind - file));
    memcpy(result->root, roots.newer.bytes, sizeof result->root);
    if (result->inner == PROOF_DIFF)
        memcpy(result->older_root, roots.older.bytes, sizeof result->older_root);
    return result->status = VERIFY_OK;
}

enum verify_status verify_state(const uint8_t *bytes, size_t size, const struct verify_options *options,
                                struct verify_result *result)
{
    memset(result, 0, sizeof *result);
    if (size > PROOF_BYTES_MAX)
        return fail(result, VERIFY_TOO_LARGE, NO_KEY, PROOF_BYTES_MAX);
    if (size == 0)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, 0);
    struct proof_reader reader = {bytes, bytes + size};
    return verify_kind(&reader, bytes, options, result);
}

enum verify_status verify_file(const uint8_t *bytes, size_t size, const struct verify_options *options,
                               struct verify_result *result)
{
    memset(result, 0, sizeof *result);
    if (size > PROOF_BYTES_MAX)
        return fail(result, VERIFY_TOO_LARGE, NO_KEY, PROOF_BYTES_MAX);
    size_t magic_bytes = size < PROOF_MAGIC_BYTES ? size : PROOF_MAGIC_BYTES;
    if (magic_bytes == 0 || memcmp(bytes, PROOF_MAGIC, magic_bytes) != 0)
        return fail(result, VERIFY_MAGIC, NO_KEY, 0);
    if (size < PROOF_FILE_HEAD_BYTES + PROOF_CHECKSUM_BYTES)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, size);
    if (trie_u16(bytes + 8) != PROOF_FORMAT_VERSION)
        return fail(result, VERIFY_VERSION, NO_KEY, 8);
    if (trie_u16(bytes + 10) != 0)
        return fail(result, VERIFY_FLAGS, NO_KEY, 10);
    uint8_t checksum[PROOF_CHECKSUM_BYTES];
    size_t covered = size - PROOF_CHECKSUM_BYTES;
    trie_checksum(bytes, covered, checksum);
    if (memcmp(checksum, bytes + covered, sizeof checksum) != 0)
        return fail(result, VERIFY_CHECKSUM, NO_KEY, covered);
    struct proof_reader reader = {bytes + PROOF_FILE_HEAD_BYTES, bytes + covered};
    size_t header_bytes = trie_u32(bytes + 12);
    const uint8_t *header = proof_take(&reader, header_bytes);
    if (header == NULL)
        return fail(result, VERIFY_TRUNCATED, NO_KEY, 12);
    if (verify_kind(&reader, bytes, options, result) == VERIFY_OK) {
        result->header = header;
        result->header_bytes = header_bytes;
    }
    return result->status;
}

static void set_new(struct verify_key *key, const struct trie_entry *entry)
{
    key->key = entry->key;
    key->key_bytes = entry->key_bytes;
    key->present = true;
    key->tag = entry->tag;
    key->value = entry->value;
    key->value_bytes = (size_t)entry->value_bytes;
}

static bool next_of_range(struct verify_result *result, struct verify_key *key)
{
    struct proof_reader reader = {result->next, result->end};
    struct trie_entry entry;
    bool found = range_proof_next(&reader, &entry);
    result->next = reader.at;
    if (found)
        set_new(key, &entry);
    return found;
}

static bool next_of_diff(struct verify_result *result, struct verify_key *key)
{
    struct proof_reader older = {result->next, result->end}, newer = {result->other, result->other_end};
    struct diff_entry entry;
    if (!diff_proof_next(&older, &newer, &entry))
        return false;
    result->next = older.at;
    result->other = newer.at;
    if (entry.after)
        set_new(key, &entry.new);
    if (entry.before) {
        key->key = entry.old.key;
        key->key_bytes = entry.old.key_bytes;
        key->was_present = true;
        key->old_tag = entry.old.tag;
        key->old_value = entry.old.value;
        key->old_value_bytes = (size_t)entry.old.value_bytes;
    }
    return true;
}

static bool next_of_many(struct verify_result *result, struct verify_key *key)
{
    if (result->keys_left == 0)
        return false;
    struct proof_reader keys = {result->next, result->end}, trie = {result->other, result->other_end};
    struct trie_entry entry;
    if (many_proof_next(&keys, &trie, &key->key, &key->key_bytes, &entry))
        set_new(key, &entry);
    result->next = keys.at;
    result->other = trie.at;
    result->keys_left--;
    return true;
}

static bool next_of_keys(struct verify_result *result, struct verify_key *key)
{
    if (result->keys_left == 0)
        return false;
    struct proof_reader reader = {result->next, result->end};
    struct key_proof proof;
    enum verify_status status = key_proof_read(&reader, &proof);
    assert(status == VERIFY_OK); /* the same bytes were read before */
    (void)status;
    result->next = reader.at;
    result->keys_left--;
    key->key = proof.key;
    key->key_bytes = proof.key_bytes;
    if (proof.claim == PROOF_PRESENT)
        set_new(key, &proof.landing);
    return true;
}

bool verify_next(struct verify_result *result, struct verify_key *key)
{
    assert(result->status == VERIFY_OK);
    *key = (struct verify_key){0};
    switch (result->inner) {
    case PROOF_KEYS:
        return next_of_keys(result, key);
    case PROOF_RANGE:
        return next_of_range(result, key);
    case PROOF_TOTALS:
    case PROOF_NESTED:
        return false;
    case PROOF_MANY:
        return next_of_many(result, key);
    case PROOF_DIFF:
        return next_of_diff(result, key);
    }
    return false;
}
