/*
 * A path store: files under paths, directories listed by prefix, what changed between two snapshots.
 *
 *     paths DIR put PATH TEXT      stores TEXT under PATH and prints the root digest
 *     paths DIR list [PREFIX]      the paths that begin with PREFIX, and how many they are
 *     paths DIR last [PREFIX]      the last of them
 *     paths DIR drop PREFIX        removes all of them, however many, and shows what changed
 *
 * Shows: batches, cursors confined to a prefix, counting without iterating, removing a range, the difference of two
 * versions.
 */
#include <stdio.h>
#include <string.h>

#include <pando/engine.h>

#define BYTES(text) (const uint8_t *)(text), strlen(text)

static int complain(void)
{
    fprintf(stderr, "paths: %s\n", eng_error());
    return 1;
}

/* The first path behind all that begin with the prefix; length 0: there is none. */
static size_t behind(const char *prefix, uint8_t end[ENG_KEY_BYTES_MAX])
{
    size_t bytes = strlen(prefix);
    memcpy(end, prefix, bytes);
    while (bytes && end[bytes - 1] == 0xff)
        bytes--;
    if (bytes)
        end[bytes - 1]++;
    return bytes;
}

/* Commits a batch under the next tag and prints the root. */
static int commit(struct eng *eng, struct eng_batch *batch)
{
    uint64_t tag = 0;
    struct eng_summary summary;
    if (eng_head(eng, 0, &tag, &summary) != ENG_OK)
        tag = 0;
    if (eng_batch_freeze(batch) != ENG_OK || eng_commit(batch, tag + 1, &summary) != ENG_OK)
        return complain();
    printf("version %llu, %llu paths, root ", (unsigned long long)tag + 1, (unsigned long long)summary.count);
    for (int i = 0; i < 32; i++)
        printf("%02x", summary.digest[i]);
    printf("\n");
    return 0;
}

static int put(struct eng *eng, const char *path, const char *text)
{
    struct eng_batch *batch;
    if (eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
        return complain();
    struct eng_value value = {ENG_BYTES, (const uint8_t *)text, strlen(text)};
    int failed = eng_batch_put(batch, BYTES(path), value) == ENG_OK ? commit(eng, batch) : complain();
    eng_batch_close(&batch);
    return failed;
}

static int list(struct eng *eng, const char *prefix, bool last)
{
    struct eng_snapshot *snapshot;
    struct eng_cursor *cursor;
    if (eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot) != ENG_OK || eng_cursor_open(snapshot, &cursor) != ENG_OK ||
        eng_cursor_prefix(cursor, BYTES(prefix)) != ENG_OK)
        return complain();
    enum eng_status status = last ? eng_cursor_seek_before(cursor, NULL, 0) : eng_cursor_seek(cursor, NULL, 0);
    while (status == ENG_OK) {
        size_t path_bytes;
        struct eng_value value;
        const uint8_t *path = eng_cursor_key(cursor, &path_bytes);
        if (eng_cursor_value(cursor, &value) != ENG_OK)
            break;
        printf("%.*s\t%.*s\n", (int)path_bytes, (const char *)path, (int)value.size, (const char *)value.bytes);
        status = last ? ENG_NOT_FOUND : eng_cursor_next(cursor);
    }
    uint8_t end[ENG_KEY_BYTES_MAX];
    size_t end_bytes = behind(prefix, end);
    struct eng_totals totals;
    enum eng_status counted = eng_totals(snapshot, BYTES(prefix), end_bytes ? end : NULL, end_bytes, &totals);
    eng_cursor_close(&cursor);
    eng_snapshot_close(&snapshot);
    if (status != ENG_NOT_FOUND || counted != ENG_OK)
        return complain();
    printf("%llu paths begin with \"%s\"\n", (unsigned long long)totals.count, prefix);
    return 0;
}

static enum eng_status print_change(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *before,
                                    const struct eng_value *after)
{
    printf("%s %.*s\n", !before ? "added" : !after ? "removed" : "changed", (int)key_bytes, (const char *)key);
    return ENG_OK;
}

static int drop(struct eng *eng, const char *prefix)
{
    struct eng_snapshot *before, *after;
    struct eng_batch *batch;
    uint8_t end[ENG_KEY_BYTES_MAX];
    size_t end_bytes = behind(prefix, end);
    if (eng_snapshot_open(eng, 0, ENG_HEAD, &before) != ENG_OK || eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
        return complain();
    int failed = 1;
    if (eng_batch_remove_range(batch, BYTES(prefix), end_bytes ? end : NULL, end_bytes) == ENG_OK)
        failed = commit(eng, batch);
    eng_batch_close(&batch);
    if (!failed && eng_snapshot_open(eng, 0, ENG_HEAD, &after) == ENG_OK) {
        failed = eng_diff(before, after, NULL, 0, print_change, NULL) != ENG_OK;
        eng_snapshot_close(&after);
    }
    eng_snapshot_close(&before);
    return failed ? complain() : 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[2] : "", *path = argc > 3 ? argv[3] : "";
    bool known = (strcmp(verb, "put") == 0 && argc == 5) || (strcmp(verb, "drop") == 0 && argc == 4) ||
                 ((strcmp(verb, "list") == 0 || strcmp(verb, "last") == 0) && argc <= 4);
    if (!known || strlen(path) > ENG_KEY_BYTES_MAX) {
        fprintf(stderr, "usage: paths DIR put PATH TEXT | list [PREFIX] | last [PREFIX] | drop PREFIX\n");
        return 2;
    }
    struct eng_options options = {.path = argv[1], .create = true, .durability = ENG_DURABLE_FSYNC};
    struct eng *eng;
    if (eng_open(&options, &eng) != ENG_OK)
        return complain();
    int failed = strcmp(verb, "put") == 0    ? put(eng, path, argv[4])
                 : strcmp(verb, "drop") == 0 ? drop(eng, path)
                                             : list(eng, path, strcmp(verb, "last") == 0);
    eng_close(&eng);
    return failed;
}
