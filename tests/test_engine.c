/* The library API (pando/engine.h): contracts and errors; contents and shape are prog_tree_random's. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "digest_oracle.h"
#include "pando/engine.h"

static struct disk *disk;
static struct eng *eng;

static struct eng *open_on(struct disk *on, bool create)
{
    struct eng_options options = {.disk = on, .create = create, .segment_bytes = 64u << 10, .inline_only = true};
    struct eng *opened = NULL;
    ck_assert_int_eq(eng_open(&options, &opened), ENG_OK);
    return opened;
}

static void setup(void)
{
    ck_assert_int_eq(disk_sim_open(0, &disk), ENG_OK);
    eng = open_on(disk, true);
}

static void teardown(void)
{
    eng_close(&eng);
    disk_close(&disk);
}

static struct eng_value text(const char *s)
{
    return (struct eng_value){ENG_BYTES, (const uint8_t *)s, strlen(s)};
}

static const uint8_t *k(const char *s)
{
    return (const uint8_t *)s;
}

static struct eng_batch *batch_on(struct eng_batch *parent)
{
    struct eng_batch *batch;
    ck_assert_int_eq(eng_batch_open(eng, 0, parent, &batch), ENG_OK);
    return batch;
}

static void put(struct eng_batch *batch, const char *key, const char *value)
{
    ck_assert_int_eq(eng_batch_put(batch, k(key), strlen(key), text(value)), ENG_OK);
}

static void commit(struct eng_batch *batch, uint64_t tag)
{
    ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
    ck_assert_int_eq(eng_commit(batch, tag, NULL), ENG_OK);
}

static bool has(struct eng_snapshot *snapshot, const char *key, const char *value)
{
    uint8_t bytes[64];
    size_t size;
    enum eng_tag tag;
    enum eng_status status = eng_get_copy(snapshot, k(key), strlen(key), &tag, bytes, sizeof bytes, &size);
    if (!value)
        return status == ENG_NOT_FOUND;
    return status == ENG_OK && tag == ENG_BYTES && size == strlen(value) && memcmp(bytes, value, size) == 0;
}

START_TEST(limits_are_errors)
{
    static uint8_t long_key[ENG_KEY_BYTES_MAX + 1];
    struct eng_batch *batch = batch_on(NULL);
    ck_assert_int_eq(eng_batch_put(batch, k(""), 0, text("x")), ENG_INVALID);
    ck_assert_int_eq(eng_batch_put(batch, long_key, sizeof long_key, text("x")), ENG_INVALID);
    ck_assert_int_eq(eng_batch_put(batch, long_key, sizeof long_key - 1, text("x")), ENG_OK);
    ck_assert_int_eq(eng_batch_put(batch, k("a"), 1, (struct eng_value){ENG_AMOUNT, k("short"), 5}), ENG_INVALID);
    ck_assert_int_eq(eng_batch_put(batch, k("a"), 1, (struct eng_value){ENG_TREE, k(""), 0}), ENG_INVALID);
    static uint8_t big[1 << 20];
    ck_assert_int_eq(eng_batch_put(batch, k("a"), 1, (struct eng_value){ENG_BYTES, big, sizeof big}), ENG_TOO_LARGE);
    ck_assert_ptr_nonnull(strstr(eng_error(), "value"));
    eng_batch_close(&batch);
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), ENG_OK);
    ck_assert_uint_eq(eng_snapshot_summary(snapshot)->count, 0);
    size_t size;
    ck_assert_int_eq(eng_get_copy(snapshot, k(""), 0, NULL, NULL, 0, &size), ENG_INVALID);
    ck_assert_int_eq(eng_get_copy(snapshot, k("a"), 1, NULL, NULL, 0, &size), ENG_NOT_FOUND);
    eng_snapshot_close(&snapshot);
}
END_TEST

static void note_first(void *context, size_t index, const struct eng_value *value)
{
    ((char *)context)[index] = value ? (char)value->bytes[0] : '-';
}

START_TEST(batches_read_through_their_parents)
{
    struct eng_batch *one = batch_on(NULL);
    put(one, "a", "1");
    put(one, "b", "1");
    ck_assert_int_eq(eng_batch_freeze(one), ENG_OK);
    struct eng_batch *two = batch_on(one);
    struct eng_value value;
    ck_assert_int_eq(eng_batch_get(two, k("a"), 1, &value), ENG_OK);
    put(two, "a", "2");
    const uint8_t *asked[3] = {k("a"), k("b"), k("nothing")};
    const size_t asked_bytes[3] = {1, 1, 7};
    char answers[4] = "???";
    ck_assert_int_eq(eng_batch_get_many(two, 3, asked, asked_bytes, note_first, answers), ENG_OK);
    ck_assert_str_eq(answers, "21-");
    uint64_t mark = eng_batch_mark(two);
    ck_assert_int_eq(eng_batch_remove(two, k("b"), 1), ENG_OK);
    ck_assert_int_eq(eng_batch_get(two, k("b"), 1, &value), ENG_NOT_FOUND);
    put(two, "c", "2");
    eng_batch_rollback(two, mark);
    ck_assert_int_eq(eng_batch_get(two, k("b"), 1, &value), ENG_OK);
    ck_assert_int_eq(eng_batch_get(two, k("c"), 1, &value), ENG_NOT_FOUND);
    ck_assert_int_eq(eng_batch_remove(two, k("b"), 1), ENG_OK);
    uint8_t next[ENG_KEY_BYTES_MAX];
    size_t next_bytes;
    ck_assert_int_eq(eng_batch_next(two, k("a"), 1, true, next, &next_bytes), ENG_NOT_FOUND);
    ck_assert_int_eq(eng_batch_next(two, k("a"), 1, false, next, &next_bytes), ENG_OK);
    ck_assert(next_bytes == 1 && next[0] == 'a');
    ck_assert_int_eq(eng_batch_freeze(two), ENG_OK);
    ck_assert_int_eq(eng_commit(one, 1, NULL), ENG_OK);
    struct eng_batch *three = batch_on(two);
    eng_batch_close(&one);
    ck_assert_int_eq(eng_batch_get(three, k("b"), 1, &value), ENG_NOT_FOUND);
    ck_assert_int_eq(eng_batch_get(three, k("a"), 1, &value), ENG_OK);
    ck_assert(value.size == 1 && value.bytes[0] == '2');
    ck_assert_int_eq(eng_commit(two, 2, NULL), ENG_OK);
    eng_batch_close(&two);
    eng_batch_close(&three);
}
END_TEST

START_TEST(versions_stay_until_dropped)
{
    for (uint64_t tag = 1; tag <= 5; tag++) {
        struct eng_batch *batch = batch_on(NULL);
        char value[8];
        snprintf(value, sizeof value, "%d", (int)tag);
        put(batch, "key", value);
        commit(batch, tag);
        eng_batch_close(&batch);
    }
    struct eng_snapshot *held, *gone;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 2, &held), ENG_OK);
    ck_assert_uint_eq(eng_version_count(eng, 0), 5);
    ck_assert_int_eq(eng_drop_below(eng, 0, 4), ENG_OK);
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 1, &gone), ENG_GONE);
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 9, &gone), ENG_NOT_FOUND);
    ck_assert(has(held, "key", "2"));
    eng_snapshot_close(&held);
    ck_assert_int_eq(eng_drop(eng, 0, 4), ENG_OK);
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 2, &gone), ENG_GONE);
    uint64_t oldest;
    ck_assert_int_eq(eng_oldest(eng, 0, &oldest), ENG_OK);
    ck_assert_uint_eq(oldest, 5);
}
END_TEST

START_TEST(an_unexpected_root_is_not_published)
{
    struct eng_batch *batch = batch_on(NULL);
    put(batch, "a", "1");
    commit(batch, 1);
    eng_batch_close(&batch);
    struct eng_summary before, wrong = {.count = 7}, would, made;
    ck_assert_int_eq(eng_head(eng, 0, NULL, &before), ENG_OK);
    batch = batch_on(NULL);
    put(batch, "b", "2");
    ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
    ck_assert_int_eq(eng_commit_expect(batch, 2, &wrong, &would), ENG_CONFLICT);
    uint64_t tag;
    ck_assert_int_eq(eng_head(eng, 0, &tag, &made), ENG_OK);
    ck_assert_uint_eq(tag, 1);
    ck_assert_mem_eq(&made, &before, sizeof made);
    ck_assert_int_eq(eng_commit_expect(batch, 2, &would, &made), ENG_OK);
    ck_assert_mem_eq(&made, &would, sizeof made);
    eng_batch_close(&batch);
}
END_TEST

struct seen_diff {
    char text[256];
};

static enum eng_status note_diff(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *before,
                                 const struct eng_value *after)
{
    struct seen_diff *seen = context;
    char line[64];
    snprintf(line, sizeof line, "%c%.*s ", !before ? '+' : !after ? '-' : '~', (int)key_bytes, (const char *)key);
    strcat(seen->text, line);
    return ENG_OK;
}

START_TEST(diffs_name_what_changed)
{
    struct eng_batch *batch = batch_on(NULL);
    for (int i = 0; i < 3000; i++) {
        char key[16];
        snprintf(key, sizeof key, "k/%05d", i);
        put(batch, key, "same");
    }
    commit(batch, 1);
    eng_batch_close(&batch);
    batch = batch_on(NULL);
    put(batch, "k/00007", "other");
    put(batch, "k/00008", "same");
    put(batch, "k/02999x", "new");
    ck_assert_int_eq(eng_batch_remove(batch, k("k/01500"), 7), ENG_OK);
    put(batch, "a", "first");
    commit(batch, 2);
    eng_batch_close(&batch);
    struct eng_snapshot *a, *b;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 1, &a), ENG_OK);
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 2, &b), ENG_OK);
    struct seen_diff seen = {""}, back = {""}, part = {""};
    ck_assert_int_eq(eng_diff(a, b, NULL, 0, note_diff, &seen), ENG_OK);
    ck_assert_str_eq(seen.text, "+a ~k/00007 -k/01500 +k/02999x ");
    ck_assert_int_eq(eng_diff(b, a, NULL, 0, note_diff, &back), ENG_OK);
    ck_assert_str_eq(back.text, "-a ~k/00007 +k/01500 -k/02999x ");
    ck_assert_int_eq(eng_diff(a, b, k("k/0"), 3, note_diff, &part), ENG_OK);
    ck_assert_str_eq(part.text, "~k/00007 -k/01500 +k/02999x ");
    eng_snapshot_close(&a);
    eng_snapshot_close(&b);
}
END_TEST

struct seen_path {
    struct oracle_step steps[200];
    size_t count;
    uint8_t key[64];
    size_t key_bytes;
};

static void note_step(void *context, uint32_t bit, const struct eng_summary *sibling)
{
    struct seen_path *seen = context;
    seen->steps[seen->count].bit = bit;
    memcpy(&seen->steps[seen->count++].sibling, sibling, sizeof *sibling);
}

static void note_landing(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value,
                         const uint8_t *digest)
{
    struct seen_path *seen = context;
    (void)value;
    (void)digest;
    memcpy(seen->key, key, key_bytes);
    seen->key_bytes = key_bytes;
}

START_TEST(paths_are_the_oracles)
{
    static struct oracle_entry entries[2000];
    static char keys[2000][16];
    struct eng_batch *batch = batch_on(NULL);
    for (int i = 0; i < 2000; i++) {
        snprintf(keys[i], sizeof keys[i], "%x", (unsigned)i * 2654435761u >> (i % 13));
        entries[i] = (struct oracle_entry){k(keys[i]), strlen(keys[i]), 0, k("v"), 1};
        put(batch, keys[i], "v");
    }
    commit(batch, 1);
    eng_batch_close(&batch);
    qsort(entries, 2000, sizeof *entries, oracle_compare);
    size_t n = 0;
    for (int i = 0; i < 2000; i++)
        if (!i || oracle_compare(&entries[i], &entries[n - 1]) != 0)
            entries[n++] = entries[i];
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), ENG_OK);
    for (int i = 0; i < 4000; i += 13) { /* some are there, some are not */
        char asked[16];
        snprintf(asked, sizeof asked, "%x", (unsigned)i * 2654435761u >> (i % 13));
        struct oracle_step steps[200];
        size_t count, at = oracle_path(entries, n, k(asked), strlen(asked), steps, 200, &count);
        struct seen_path seen = {.count = 0};
        ck_assert_int_eq(eng_path(snapshot, k(asked), strlen(asked), note_step, note_landing, &seen), ENG_OK);
        ck_assert_uint_eq(seen.count, count);
        ck_assert_mem_eq(seen.key, entries[at].key, entries[at].key_bytes);
        for (size_t s = 0; s < count; s++) {
            ck_assert_uint_eq(seen.steps[s].bit, steps[s].bit);
            ck_assert_mem_eq(&seen.steps[s].sibling, &steps[s].sibling, sizeof steps[s].sibling);
        }
    }
    eng_snapshot_close(&snapshot);
}
END_TEST

START_TEST(another_store_is_foreign)
{
    struct eng_options options = {.disk = disk, .store_id = {9}};
    struct eng *other = NULL;
    eng_close(&eng);
    ck_assert_int_eq(eng_open(&options, &other), ENG_FOREIGN);
    ck_assert_ptr_null(other);
    struct disk *empty;
    ck_assert_int_eq(disk_sim_open(0, &empty), ENG_OK);
    options.disk = empty;
    ck_assert_int_eq(eng_open(&options, &other), ENG_NOT_FOUND);
    disk_close(&empty);
    eng = open_on(disk, false);
}
END_TEST

START_TEST(a_full_disk_undoes_the_commit)
{
    struct disk *small;
    ck_assert_int_eq(disk_sim_open(1u << 20, &small), ENG_OK);
    struct eng_options options = {.disk = small, .create = true, .segment_bytes = 64u << 10, .inline_only = true};
    struct eng *full = NULL;
    ck_assert_int_eq(eng_open(&options, &full), ENG_OK);
    struct eng_summary last = {0}, now;
    enum eng_status status = ENG_OK;
    uint64_t tag = 0;
    for (int round = 0; status == ENG_OK && round < 100; round++) {
        struct eng_batch *batch;
        ck_assert_int_eq(eng_batch_open(full, 0, NULL, &batch), ENG_OK);
        for (int i = 0; i < 500; i++) {
            char key[32];
            snprintf(key, sizeof key, "%d/%d", i, round);
            ck_assert_int_eq(eng_batch_put(batch, k(key), strlen(key), text("value value value value")), ENG_OK);
        }
        ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
        status = eng_commit(batch, tag + 1, &now);
        if (status == ENG_OK) {
            tag++;
            last = now;
        }
        eng_batch_close(&batch);
    }
    ck_assert_int_eq(status, ENG_FULL);
    ck_assert_uint_gt(tag, 0);
    uint64_t head;
    ck_assert_int_eq(eng_head(full, 0, &head, &now), ENG_OK);
    ck_assert_uint_eq(head, tag);
    ck_assert_mem_eq(&now, &last, sizeof now);
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(eng_snapshot_open(full, 0, ENG_HEAD, &snapshot), ENG_OK);
    ck_assert(has(snapshot, "499/0", "value value value value"));
    eng_snapshot_close(&snapshot);
    eng_close(&full);
    disk_close(&small);
}
END_TEST

START_TEST(a_killed_process_loses_nothing_durable)
{
    char dir[] = "/tmp/pando-engine-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct eng_options options = {
        .path = dir, .create = true, .durability = ENG_DURABLE_FSYNC, .threads = 1, .checkpoint_log_bytes = 20000};
    int pipes[2];
    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct eng *store;
        if (eng_open(&options, &store) != ENG_OK)
            _exit(1);
        for (uint64_t tag = 1;; tag++) {
            struct eng_batch *batch;
            char key[32];
            snprintf(key, sizeof key, "key %d", (int)(tag % 100));
            char value[32];
            snprintf(value, sizeof value, "%d", (int)tag);
            if (eng_batch_open(store, 0, NULL, &batch) != ENG_OK ||
                eng_batch_put(batch, k(key), strlen(key), text(value)) != ENG_OK || eng_batch_freeze(batch) != ENG_OK ||
                eng_commit(batch, tag, NULL) != ENG_OK || write(pipes[1], &tag, sizeof tag) != sizeof tag)
                _exit(1);
            eng_batch_close(&batch);
        }
    }
    close(pipes[1]);
    uint64_t acknowledged = 0, tag;
    while (acknowledged < 700 && read(pipes[0], &tag, sizeof tag) == sizeof tag)
        acknowledged = tag;
    kill(child, SIGKILL);
    while (read(pipes[0], &tag, sizeof tag) == sizeof tag)
        acknowledged = tag;
    waitpid(child, NULL, 0);
    close(pipes[0]);
    ck_assert_uint_ge(acknowledged, 700);
    struct eng *store;
    options.create = false;
    ck_assert_int_eq(eng_open(&options, &store), ENG_OK);
    ck_assert_int_eq(eng_head(store, 0, &tag, NULL), ENG_OK);
    ck_assert_uint_ge(tag, acknowledged);
    ck_assert_uint_le(tag, acknowledged + 1);
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(eng_snapshot_open(store, 0, ENG_HEAD, &snapshot), ENG_OK);
    for (uint64_t t = tag - 99; t <= tag; t++) {
        char key[32], value[32];
        snprintf(key, sizeof key, "key %d", (int)(t % 100));
        snprintf(value, sizeof value, "%d", (int)t);
        ck_assert_msg(has(snapshot, key, value), "%s is not %s", key, value);
    }
    eng_snapshot_close(&snapshot);
    eng_close(&store);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

struct inside {
    struct eng_statistics statistics;
};

static void look_around(void *context, const struct eng_value *value)
{
    eng_stats(eng, &((struct inside *)context)->statistics);
}

START_TEST(a_store_with_a_log_is_not_opened_without)
{
    struct disk *one;
    struct eng *other;
    ck_assert_int_eq(disk_sim_open(0, &one), ENG_OK);
    struct eng_options options = {.disk = one, .create = true, .inline_only = true, .durability = ENG_DURABLE_FSYNC};
    options.segment_bytes = 1u << 20;
    ck_assert_int_eq(eng_open(&options, &other), ENG_OK);
    eng_close(&other);
    options.durability = ENG_DURABLE_NONE;
    ck_assert_int_eq(eng_open(&options, &other), ENG_INVALID);
    ck_assert_ptr_nonnull(strstr(eng_error(), "with a log of its own"));
    options.ignore_log = true;
    ck_assert_int_eq(eng_open(&options, &other), ENG_OK);
    eng_close(&other);
    options.ignore_log = false;
    options.durability = ENG_DURABLE_FULL; /* another, of the same kind */
    ck_assert_int_eq(eng_open(&options, &other), ENG_OK);
    eng_close(&other);
    disk_close(&one);
}
END_TEST

START_TEST(who_holds_space_back_is_named)
{
    struct inside inside;
    struct eng_statistics now;
    struct eng_snapshot *snapshot;
    for (uint64_t tag = 1; tag <= 3; tag++) {
        struct eng_batch *batch;
        ck_assert_int_eq(eng_batch_open(eng, 0, NULL, &batch), ENG_OK);
        ck_assert_int_eq(eng_batch_put(batch, k("a"), 1, (struct eng_value){ENG_BYTES, k("x"), 1}), ENG_OK);
        ck_assert_int_eq(eng_batch_freeze(batch), ENG_OK);
        ck_assert_int_eq(eng_commit(batch, tag, NULL), ENG_OK);
        eng_batch_close(&batch);
    }
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 2, &snapshot), ENG_OK);
    ck_assert_int_eq(eng_get(snapshot, k("a"), 1, look_around, &inside), ENG_OK);
    ck_assert_uint_eq(inside.statistics.readers_inside, 1);
    ck_assert_int_eq(inside.statistics.reader_thread, gettid());
    ck_assert_uint_eq(inside.statistics.snapshots, 1);
    ck_assert_uint_eq(inside.statistics.oldest_root, 0);
    ck_assert_uint_eq(inside.statistics.oldest_tag, 2);
    eng_snapshot_close(&snapshot);
    eng_stats(eng, &now);
    ck_assert_uint_eq(now.readers_inside, 0);
    ck_assert_int_eq(now.reader_thread, 0);
    ck_assert_uint_eq(now.snapshots, 0);
}
END_TEST

static uint8_t large_byte(uint64_t at)
{
    return (uint8_t)(at * 2654435761u >> 13);
}

struct streamed {
    uint64_t at;
    const uint8_t *next; /* where the next part must lie, if nothing is copied */
};

static void take_part(void *context, const struct eng_value *part, uint64_t size)
{
    struct streamed *streamed = context;
    ck_assert_int_eq(part->tag, ENG_BYTES);
    ck_assert_uint_eq(size, ENG_VALUE_BYTES_MAX);
    ck_assert(!streamed->next || streamed->next == part->bytes);
    for (size_t i = 0; i < part->size; i++)
        if (part->bytes[i] != large_byte(streamed->at + i))
            ck_abort_msg("byte %zu of the part at %llu", i, (unsigned long long)streamed->at);
    streamed->at += part->size;
    streamed->next = part->bytes + part->size;
}

/* From a checkpoint, and from the log. */
START_TEST(the_largest_value_is_streamed_in_place)
{
    struct disk *on;
    struct eng_options options = {
        .create = true, .inline_only = true, .durability = _i ? ENG_DURABLE_FSYNC : ENG_DURABLE_NONE};
    ck_assert_int_eq(disk_sim_open(0, &on), ENG_OK);
    options.disk = on;
    eng_close(&eng);
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    uint8_t *bytes = malloc(ENG_VALUE_BYTES_MAX + 1u);
    ck_assert_ptr_nonnull(bytes);
    for (uint64_t i = 0; i <= ENG_VALUE_BYTES_MAX; i++)
        bytes[i] = large_byte(i);
    struct eng_batch *batch = batch_on(NULL);
    struct eng_value value = {ENG_BYTES, bytes, ENG_VALUE_BYTES_MAX + 1u};
    ck_assert_int_eq(eng_batch_put(batch, k("large"), 5, value), ENG_TOO_LARGE);
    value.size--;
    ck_assert_int_eq(eng_batch_put(batch, k("large"), 5, value), ENG_OK);
    put(batch, "small", "x");
    commit(batch, 1);
    eng_batch_close(&batch);
    free(bytes);
    if (!_i)
        ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
    struct disk *image;
    ck_assert_int_eq(disk_sim_crash(on, 0, &image), ENG_OK);
    eng_close(&eng);
    disk_close(&on);
    options.disk = image;
    ck_assert_int_eq(eng_open(&options, &eng), ENG_OK);
    struct eng_snapshot *snapshot;
    ck_assert_int_eq(eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot), ENG_OK);
    struct streamed streamed = {0};
    while (streamed.at < ENG_VALUE_BYTES_MAX)
        ck_assert_int_eq(eng_get_part(snapshot, k("large"), 5, streamed.at, 65521, take_part, &streamed), ENG_OK);
    ck_assert_uint_eq(streamed.at, ENG_VALUE_BYTES_MAX);
    ck_assert_int_eq(eng_get_part(snapshot, k("large"), 5, UINT64_MAX, 1, take_part, &streamed), ENG_OK);
    ck_assert_uint_eq(streamed.at, ENG_VALUE_BYTES_MAX); /* behind the end there is nothing */
    ck_assert_int_eq(eng_get_part(snapshot, k("larger"), 6, 0, 1, take_part, &streamed), ENG_NOT_FOUND);
    eng_snapshot_close(&snapshot);
    eng_close(&eng);
    disk_close(&image);
    eng = open_on(disk, false);
}
END_TEST

START_TEST(every_root_is_a_line_of_its_own)
{
    for (uint32_t root = 0; root < ENG_ROOTS_MAX; root++) {
        struct eng_batch *batch;
        char key[16];
        snprintf(key, sizeof key, "root %u", root);
        ck_assert_int_eq(eng_batch_open(eng, root, NULL, &batch), ENG_OK);
        put(batch, key, "x");
        commit(batch, root + 1);
        eng_batch_close(&batch);
    }
    ck_assert_int_eq(eng_checkpoint(eng, NULL, 0, true), ENG_OK);
    eng_close(&eng);
    eng = open_on(disk, false);
    for (uint32_t root = 0; root < ENG_ROOTS_MAX; root++) {
        struct eng_snapshot *snapshot;
        char key[16];
        snprintf(key, sizeof key, "root %u", root);
        ck_assert_int_eq(eng_snapshot_open(eng, root, root + 1, &snapshot), ENG_OK);
        ck_assert(has(snapshot, key, "x"));
        ck_assert_uint_eq(eng_snapshot_summary(snapshot)->count, 1);
        eng_snapshot_close(&snapshot);
    }
}
END_TEST

static void stands(enum eng_status status, const struct eng_cursor *cursor, const char *key)
{
    ck_assert_int_eq(status, key ? ENG_OK : ENG_NOT_FOUND);
    size_t bytes;
    if (key)
        ck_assert(memcmp(eng_cursor_key(cursor, &bytes), key, strlen(key)) == 0 && bytes == strlen(key));
}

/* Over a snapshot and over a batch: all of the places a cursor can be sent to. */
START_TEST(cursors_find_both_bounds)
{
    struct eng_batch *batch = batch_on(NULL);
    struct eng_snapshot *snapshot;
    struct eng_cursor *c;
    for (const char *const *key = (const char *const[]){"a", "ab", "abc", "b", "d", NULL}; *key; key++)
        put(batch, *key, "x");
    commit(batch, 1);
    eng_batch_close(&batch);
    batch = batch_on(NULL);
    ck_assert_int_eq(eng_snapshot_open(eng, 0, 1, &snapshot), ENG_OK);
    for (int over_batch = 0; over_batch < 2; over_batch++) {
        if (over_batch)
            ck_assert_int_eq(eng_cursor_open_batch(batch, &c), ENG_OK);
        else
            ck_assert_int_eq(eng_cursor_open(snapshot, &c), ENG_OK);
        stands(eng_cursor_seek(c, NULL, 0), c, "a");
        stands(eng_cursor_seek_before(c, NULL, 0), c, "d");
        stands(eng_cursor_seek(c, k("ab"), 2), c, "ab");
        stands(eng_cursor_seek_after(c, k("ab"), 2), c, "abc");
        stands(eng_cursor_seek_before(c, k("ab"), 2), c, "a");
        stands(eng_cursor_seek(c, k("c"), 1), c, "d");
        stands(eng_cursor_seek_after(c, k("c"), 1), c, "d");
        stands(eng_cursor_seek_before(c, k("c"), 1), c, "b");
        stands(eng_cursor_seek_before(c, k("a"), 1), c, NULL);
        stands(eng_cursor_seek_after(c, k("d"), 1), c, NULL);
        stands(eng_cursor_next(c), c, NULL);
        ck_assert_int_eq(eng_cursor_prefix(c, k("ab"), 2), ENG_OK);
        stands(eng_cursor_seek_after(c, k("a"), 1), c, "ab");
        stands(eng_cursor_next(c), c, "abc");
        stands(eng_cursor_seek_after(c, k("abc"), 3), c, NULL);
        stands(eng_cursor_seek_before(c, NULL, 0), c, "abc");
        stands(eng_cursor_prev(c), c, "ab");
        stands(eng_cursor_prev(c), c, NULL);
        static uint8_t long_key[4 * ENG_KEY_BYTES_MAX];
        ck_assert_int_eq(eng_cursor_seek(c, long_key, sizeof long_key), ENG_INVALID);
        ck_assert_int_eq(eng_cursor_seek_after(c, long_key, ENG_KEY_BYTES_MAX + 1), ENG_INVALID);
        ck_assert_int_eq(eng_cursor_seek_before(c, long_key, ENG_KEY_BYTES_MAX + 1), ENG_INVALID);
        stands(eng_cursor_next(c), c, NULL);
        stands(eng_cursor_seek(c, k("ab"), 2), c, "ab");
        eng_cursor_close(&c);
    }
    eng_snapshot_close(&snapshot);
    eng_batch_close(&batch);
}
END_TEST

/* A batch that was written, rolled back and committed empty leaves nothing behind. */
START_TEST(memory_of_batches_is_given_back)
{
    struct eng_statistics before, after;
    for (uint64_t tag = 1; tag <= 200; tag++) {
        struct eng_batch *batch = batch_on(NULL);
        uint64_t mark = eng_batch_mark(batch);
        put(batch, "a", "1");
        eng_batch_rollback(batch, mark);
        commit(batch, tag);
        eng_batch_close(&batch);
        ck_assert_int_eq(eng_drop_below(eng, 0, tag), ENG_OK);
        eng_stats(eng, tag == 10 ? &before : &after);
    }
    ck_assert_uint_le(after.memory_bytes, before.memory_bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engine");
    TCase *cases = tcase_create("api");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, limits_are_errors);
    tcase_add_test(cases, batches_read_through_their_parents);
    tcase_add_test(cases, versions_stay_until_dropped);
    tcase_add_test(cases, an_unexpected_root_is_not_published);
    tcase_add_test(cases, diffs_name_what_changed);
    tcase_add_test(cases, paths_are_the_oracles);
    tcase_add_test(cases, another_store_is_foreign);
    tcase_add_test(cases, a_full_disk_undoes_the_commit);
    tcase_add_test(cases, a_killed_process_loses_nothing_durable);
    tcase_add_test(cases, who_holds_space_back_is_named);
    tcase_add_test(cases, a_store_with_a_log_is_not_opened_without);
    tcase_add_loop_test(cases, the_largest_value_is_streamed_in_place, 0, 2);
    tcase_add_test(cases, every_root_is_a_line_of_its_own);
    tcase_add_test(cases, cursors_find_both_bounds);
    tcase_add_test(cases, memory_of_batches_is_given_back);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
