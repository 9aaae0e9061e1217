/*
 * Difference proofs: two pruned tries (walk.h), the older one and the newer one, whose shared parts are the same in the
 * same order.
 *
 * Each trie is walked twice, as that of a range is; the newer one takes the summaries of its shared parts from the
 * older one. Then the entries that are given in both are merged in key order. Those that differ are whole; an entry
 * inside the range that is not whole is the landing entry of a bound and must be in both tries with the same value.
 *
 * Ways to fail: those of the walk; shared parts that are not the same in both; two entries given as different that are
 * not, or as the same that are not; two tries with the same root (which has an encoding of its own).
 *
 * Invariant: the summary of a shared part is bound by the older root and, read from the same bytes, by the newer one.
 */
#include <stdlib.h>
#include <string.h>

#include "diff_proof.h"
#include "walk.h"

static bool same_value(const struct trie_entry *a, const struct trie_entry *b)
{
    if (a->tag != b->tag || a->form != b->form || a->value_bytes != b->value_bytes)
        return false;
    if (a->value_digest != NULL && b->value_digest != NULL)
        return memcmp(a->value_digest, b->value_digest, PROOF_DIGEST_BYTES) == 0;
    return a->value != NULL && b->value != NULL && memcmp(a->value, b->value, (size_t)a->value_bytes) == 0;
}

/* ---- the entries of both tries in key order ---- */

/* The next key of either trie: what each has of it. false: there are no more. */
static bool merge(struct proof_reader readers[2], bool whole_only, struct trie_entry entries[2], bool has[2],
                  bool whole[2])
{
    struct proof_reader behind[2];
    for (int i = 0; i < 2; i++) {
        has[i] = walk_seek(&readers[i], whole_only, i == 1);
        behind[i] = readers[i];
        whole[i] = has[i] && walk_entry(&behind[i], &entries[i]);
    }
    if (has[0] && has[1]) {
        int order = walk_compare(entries[0].key, entries[0].key_bytes, entries[1].key, entries[1].key_bytes);
        has[0] = order <= 0;
        has[1] = order >= 0;
    }
    for (int i = 0; i < 2; i++)
        if (has[i])
            readers[i] = behind[i];
    return has[0] || has[1];
}

static bool is_landing(const struct walk walks[2], const struct trie_entry *entry)
{
    for (int i = 0; i < 4; i++) {
        const struct bound *bound = &walks[i / 2].bounds[i % 2];
        if (bound->landing_key &&
            walk_compare(bound->landing_key, bound->landing_bytes, entry->key, entry->key_bytes) == 0)
            return true;
    }
    return false;
}

/* One key inside the range: whole where it differs, else a landing entry that both have. */
static enum verify_status check_entries(const struct walk walks[2], const struct trie_entry entries[2],
                                        const bool has[2], const bool whole[2], struct verify_result *result)
{
    bool both = has[0] && has[1];
    if (has[0] ? !whole[0] : !whole[1]) {
        bool unchanged = both && !whole[0] && !whole[1] && same_value(&entries[0], &entries[1]);
        return unchanged && is_landing(walks, &entries[0]) ? VERIFY_OK : VERIFY_ENTRY;
    }
    if (both && (!whole[1] || same_value(&entries[0], &entries[1])))
        return VERIFY_ENTRY;
    result->count++;
    for (int i = 0; i < 2; i++)
        if (has[i] && entries[i].tag == PROOF_TAG_AMOUNT)
            walk_add_amount(result->sum, entries[i].value, i == 0);
    return VERIFY_OK;
}

static enum verify_status check_merged(const struct walk walks[2], const struct proof_reader tries[2],
                                       struct verify_result *result)
{
    struct proof_reader readers[2] = {tries[0], tries[1]};
    struct trie_entry entries[2];
    bool has[2], whole[2];
    enum verify_status status = VERIFY_OK;
    while (status == VERIFY_OK && merge(readers, false, entries, has, whole))
        if (walk_inside(&walks[0], has[0] ? &entries[0] : &entries[1]))
            status = check_entries(walks, entries, has, whole, result);
    return status;
}

bool diff_proof_next(struct proof_reader *older, struct proof_reader *newer, struct diff_entry *entry)
{
    struct proof_reader readers[2] = {*older, *newer};
    struct trie_entry entries[2];
    bool has[2], whole[2], found = merge(readers, true, entries, has, whole);
    *older = readers[0];
    *newer = readers[1];
    if (found)
        *entry = (struct diff_entry){.before = has[0], .after = has[1]};
    if (found && has[0])
        entry->old = entries[0];
    if (found && has[1])
        entry->new = entries[1];
    return found;
}

/* ---- the two tries ---- */

/* Both tries once; the second time it is known where each ends. */
static enum verify_status walk_both(struct walk walks[2], struct proof_reader tries[2], bool second)
{
    for (int i = 0; i < 2; i++) {
        walks[i].reader = tries[i];
        enum verify_status status = walk_trie(&walks[i], second);
        if (status != VERIFY_OK)
            return status;
        if (second)
            continue;
        tries[i].end = walks[i].reader.at;
        if (i == 0) {
            tries[1].at = walks[0].reader.at;
            walks[1].shared = tries[0];
        }
    }
    if (!second && walks[1].reader.at != walks[1].reader.end)
        return VERIFY_TRAILING;
    struct proof_reader rest = walks[1].shared; /* shared parts that the newer trie did not take */
    uint8_t token;
    struct trie_entry entry;
    while (!second && rest.at != rest.end) {
        token = *rest.at;
        if (token == TOKEN_SHARED)
            return VERIFY_SHARED;
        if (token == TOKEN_ENTRY || token == TOKEN_WHOLE)
            (void)walk_entry(&rest, &entry);
        else
            (void)proof_take(&rest, token == TOKEN_INNER ? 5 : token == TOKEN_PRUNED ? 1 + PROOF_SUMMARY_BYTES : 1);
    }
    return VERIFY_OK;
}

static enum verify_status check_tries(struct walk walks[2], struct proof_reader *reader, struct verify_result *result,
                                      struct trie_summary *older, struct trie_summary *newer)
{
    struct proof_reader tries[2] = {*reader, *reader};
    enum verify_status status = walk_both(walks, tries, false);
    *older = walks[0].summary;
    *newer = walks[1].summary;
    if (status == VERIFY_OK && memcmp(older->bytes, newer->bytes, PROOF_DIGEST_BYTES) == 0 &&
        tries[0].at[0] != TOKEN_NOTHING)
        status = VERIFY_OPENED;
    if (status == VERIFY_OK)
        status = walk_both(walks, tries, true);
    if (status == VERIFY_OK)
        status = check_merged(walks, tries, result);
    reader->at = walks[1].reader.at ? walks[1].reader.at : walks[0].reader.at;
    result->next = tries[0].at;
    result->end = tries[0].end;
    result->other = tries[1].at;
    result->other_end = tries[1].end;
    return status;
}

/* The whole state is the same: its digest is all that can be said, and nothing more is said. */
static enum verify_status check_same(struct proof_reader *reader, struct trie_summary *older,
                                     struct trie_summary *newer)
{
    static const uint8_t empty[PROOF_DIGEST_BYTES];
    (void)proof_take(reader, 1);
    const uint8_t *digest = proof_take(reader, PROOF_DIGEST_BYTES);
    if (digest == NULL)
        return VERIFY_TRUNCATED;
    memset(older, 0, sizeof *older);
    memcpy(older->bytes, digest, PROOF_DIGEST_BYTES);
    *newer = *older;
    if (memcmp(digest, empty, sizeof empty) == 0)
        return VERIFY_FORM; /* two empty states are two tries of nothing */
    return reader->at == reader->end ? VERIFY_OK : VERIFY_TRAILING;
}

enum verify_status diff_proof_verify(struct proof_reader *reader, struct verify_result *result,
                                     struct trie_summary *older, struct trie_summary *newer)
{
    struct walk walks[2] = {{.of = WALK_OLDER}, {.of = WALK_NEWER}};
    enum verify_status status = walk_bounds(reader, &walks[0]);
    memcpy(walks[1].bounds, walks[0].bounds, sizeof walks[0].bounds);
    if (status != VERIFY_OK)
        return status;
    if (reader->at != reader->end && *reader->at == TOKEN_SAME)
        status = check_same(reader, older, newer);
    else
        status = check_tries(walks, reader, result, older, newer);
    free(walks[0].frames);
    free(walks[1].frames);
    const struct bound *from = &walks[0].bounds[0], *to = &walks[0].bounds[1];
    result->from = from->key;
    result->from_bytes = from->key_bytes;
    result->to = to->key;
    result->to_bytes = to->key_bytes;
    return status;
}
