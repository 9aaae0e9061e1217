/*
 * The catalog: every version of every lineage, as a checkpoint keeps it in state/catalog.<number & 1>.
 *
 * One entry of 96 bytes a version, by lineage, then oldest first:
 *
 *   offset 0   u32 lineage    4  u32 kind: 0 kept, 1 dropped (waits for its pins; pins end with the process)
 *          8   u64 generation     16  u64 tag     24  u32 root     28  u32 head of the death list
 *         32   summary, 64 bytes
 *
 * Then one for each base (base.c): kind 3, its floor in place of the generation, since when it has the base before it
 * in place of the tag, its root, the base before it in place of the list; in the summary its number as the count, its
 * holders as the lowest word of the sum. Then one for each fall that is pending (reap.c): kind 2, its birth and death
 * in place of generation and tag, the id of the node in place of the root, its floor as the count of the summary. And
 * one for each hold that is to be given back: kind 4, birth, death, the base in place of the root. Last one for each
 * range of lost generations (lost.h): kind 5, from and to in place of generation and tag. The rest is zero.
 *
 * Its length and its checksum (XXH3) stand in the root slot, so the file itself has no header. A catalog is valid if
 * and only if that checksum matches; what is then still impossible (an unknown lineage, tags out of order) is damage.
 *
 * Ways to fail: memory; ENG_DAMAGED with file and offset.
 */
#include <stdlib.h>
#include <string.h>

#include "store_internal.h"

size_t catalog_count(const struct store *store)
{
    const struct reaper *reaper = &store->reaper;
    size_t count = reaper->due_count + reaper->waiting_count + reaper->releases_count;
    for (uint32_t i = 0; i < ENG_ROOTS_MAX; i++)
        count += store->versions.lineages[i].count;
    return count + store->bases.live + store->lost.count;
}

enum eng_status catalog_encode(struct store *store, uint8_t **bytes, size_t *length)
{
    const struct reaper *reaper = &store->reaper;
    size_t count = catalog_count(store);
    struct catalog_entry *entries = calloc(count + 1, sizeof *entries), *entry = entries;
    if (!entries)
        return eng_fail(ENG_NO_MEMORY, "%s: catalog of %zu versions: out of memory", store->dir, count);
    for (uint32_t i = 0; i < ENG_ROOTS_MAX; i++) {
        const struct lineage *line = &store->versions.lineages[i];
        for (size_t v = 0; v < line->count; v++, entry++) {
            const struct version *version = &line->versions[line->first + v];
            entry->lineage = i;
            entry->kind = version->dropped ? CATALOG_DROPPED : CATALOG_KEPT;
            entry->generation = version->seen.generation;
            entry->tag = version->seen.tag;
            entry->root = version->seen.root;
            entry->list = version->list;
            entry->summary = version->seen.summary;
        }
    }
    for (size_t i = 0; i < store->bases.count; i++) {
        const struct base *base = &store->bases.table[i];
        if (!base->holders)
            continue;
        *entry = (struct catalog_entry){.lineage = base->lineage,
                                        .kind = CATALOG_BASE,
                                        .generation = base->floor,
                                        .tag = base->since,
                                        .root = base->root,
                                        .list = base->before};
        entry->summary.count = i + 1;
        entry++->summary.sum[0] = base->holders;
    }
    for (size_t i = 0; i < reaper->releases_count; i++)
        *entry++ = (struct catalog_entry){.lineage = reaper->releases[i].lineage,
                                          .kind = CATALOG_RELEASE,
                                          .generation = reaper->releases[i].born,
                                          .tag = reaper->releases[i].died,
                                          .root = reaper->releases[i].base};
    for (size_t i = 0; i < reaper->due_count + reaper->waiting_count; i++, entry++) {
        const struct fall *fall = i < reaper->due_count ? &reaper->due[i] : &reaper->waiting[i - reaper->due_count];
        *entry = (struct catalog_entry){.lineage = fall->lineage,
                                        .kind = CATALOG_FALL,
                                        .generation = fall->born,
                                        .tag = fall->died,
                                        .root = fall->id};
        entry->summary.count = fall->floor;
    }
    for (size_t i = 0; i < store->lost.count; i++)
        *entry++ = (struct catalog_entry){
            .kind = CATALOG_LOST, .generation = store->lost.ranges[i].from, .tag = store->lost.ranges[i].to};
    *bytes = (uint8_t *)entries;
    *length = count * sizeof *entries;
    return ENG_OK;
}

static enum eng_status load_fall(struct store *store, const struct catalog_entry *entry, const char *path, size_t at)
{
    if (entry->root == 0 || entry->root >= store->control.limit || entry->generation > entry->tag)
        return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: impossible node", path, at);
    return reap_load(store, &(struct fall){.born = entry->generation,
                                           .died = entry->tag,
                                           .floor = entry->summary.count,
                                           .id = entry->root,
                                           .lineage = entry->lineage});
}

static enum eng_status load_base(struct store *store, const struct catalog_entry *entry, const char *path, size_t at)
{
    if (entry->summary.count == 0 || entry->summary.count > UINT32_MAX)
        return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: impossible base", path, at);
    struct base base = {.holders = entry->summary.sum[0],
                        .floor = entry->generation,
                        .since = entry->tag,
                        .root = entry->root,
                        .before = entry->list,
                        .lineage = entry->lineage};
    enum eng_status status = base_load(store, (uint32_t)entry->summary.count, &base);
    if (status == ENG_DAMAGED)
        return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: impossible base", path, at);
    return status;
}

static enum eng_status load_release(struct store *store, const struct catalog_entry *entry, const char *path, size_t at)
{
    /* bases stand before releases */
    if (entry->root == 0 || entry->root > store->bases.count || !store->bases.table[entry->root - 1].holders)
        return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: a hold on no base", path, at);
    return reap_load_release(
        store, &(struct release){
                   .born = entry->generation, .died = entry->tag, .base = entry->root, .lineage = entry->lineage});
}

static enum eng_status load_lost(struct store *store, const struct catalog_entry *entry, const char *path, size_t at)
{
    enum eng_status status = lost_add(&store->lost, entry->generation, entry->tag);
    if (status == ENG_DAMAGED)
        return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: impossible range of generations", path, at);
    return status ? eng_fail(status, "%s: lost generations: out of memory", path) : ENG_OK;
}

/* Entries that are no versions. */
static enum eng_status load_other(struct store *store, const struct catalog_entry *entry, const char *path, size_t at)
{
    if (entry->kind == CATALOG_BASE)
        return load_base(store, entry, path, at);
    if (entry->kind == CATALOG_RELEASE)
        return load_release(store, entry, path, at);
    if (entry->kind == CATALOG_LOST)
        return load_lost(store, entry, path, at);
    return load_fall(store, entry, path, at);
}

enum eng_status catalog_load(struct store *store, const uint8_t *bytes, size_t length, const char *path)
{
    for (size_t at = 0; at < length; at += sizeof(struct catalog_entry)) {
        struct catalog_entry entry;
        if (length - at < sizeof entry)
            return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: cut short", path, at);
        memcpy(&entry, bytes + at, sizeof entry);
        if (entry.lineage >= ENG_ROOTS_MAX || entry.kind >= CATALOG_KINDS)
            return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: impossible lineage", path, at);
        if (entry.kind >= CATALOG_FALL) {
            enum eng_status loaded = load_other(store, &entry, path, at);
            if (loaded)
                return loaded;
            continue;
        }
        struct lineage *line = &store->versions.lineages[entry.lineage];
        if (line->count && (line->versions[line->count - 1].seen.tag >= entry.tag ||
                            line->versions[line->count - 1].seen.generation >= entry.generation))
            return eng_fail(ENG_DAMAGED, "%s: entry at offset %zu: out of order", path, at);
        struct version version = {.list = entry.list};
        version.seen.generation = entry.generation;
        version.seen.tag = entry.tag;
        version.seen.root = entry.root;
        version.seen.summary = entry.summary;
        enum eng_status status = version_room(store, entry.lineage);
        if (status)
            return status;
        version_append(store, entry.lineage, &version);
        if (entry.kind == CATALOG_DROPPED)
            version_mark(store, line, &line->versions[line->count - 1]);
    }
    return ENG_OK;
}
