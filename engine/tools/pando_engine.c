/*
 * pando-engine: looks into a store that nobody has open.
 *
 *     pando-engine stats DIR                  shape of each root's newest tree, segments, space
 *     pando-engine stats DIR TREE             shape of one tree
 *     pando-engine dump DIR [TREE] [--prefix P] [--hex]      one entry a line
 *     pando-engine tree DIR [TREE] [--depth D]               nodes, indented
 *     pando-engine check DIR [--deep]         every fault a line
 *     pando-engine compact DIR [PERCENT]      gives space back
 *
 * TREE is [--root N] [--tag T] [--subtree KEY]...: root 0, its newest version, the tree at the key in it, the one at
 * the next key in that, and so on. Keys and prefixes are given as dump prints them: \xNN is the byte NN.
 *
 * DIR is a store's directory (a node's data directory is one, too). What it shows is the newest checkpoint: a log
 * behind it is not replayed. Opening raises the start number in a root slot, as every start does; only compact changes
 * more.
 *
 * Exit codes: 0 done; 1 not found; 2 usage; 4 damaged, foreign, or faults were found; 5 any other error.
 */
#include "engine_internal.h"
#include "store_internal.h"
#include "tree.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SUBTREES_MAX 64u

struct key {
    const char *text; /* as it was given */
    uint8_t bytes[ENG_KEY_BYTES_MAX];
    size_t count;
};

struct arguments {
    const char *verb, *dir;
    uint32_t root;
    uint64_t tag;
    struct key prefix, subtree[SUBTREES_MAX];
    unsigned depth, percent, subtrees;
    bool hex, deep, one_tree; /* one_tree: a root, a version or a subtree was named */
};

static int exit_code(enum eng_status status)
{
    if (status == ENG_OK)
        return 0;
    if (status == ENG_NOT_FOUND || status == ENG_GONE)
        return 1;
    return status == ENG_DAMAGED || status == ENG_FOREIGN || status == ENG_VERSION ? 4 : 5;
}

static int complain(enum eng_status status)
{
    fprintf(stderr, "pando-engine: %s\n", eng_error());
    return exit_code(status);
}

/* The id a store was made with, from its root slot. */
static enum eng_status store_id_read(const char *dir, uint8_t id[ENG_STORE_ID_BYTES])
{
    struct disk *disk;
    struct disk_file *file = NULL;
    static struct rootslot slot;
    enum eng_status status = disk_posix_open(dir, &disk);
    if (status != ENG_OK)
        return status;
    if (!disk_exists(disk, "state/slots"))
        status = eng_fail(ENG_NOT_FOUND, "%s/state/slots: no such file, there is no store", dir);
    if (status == ENG_OK)
        status = disk_open(disk, "state/slots", 0, &file);
    if (status == ENG_OK)
        status = rootslot_read(file, &slot);
    if (status == ENG_OK)
        memcpy(id, slot.store_id, ENG_STORE_ID_BYTES);
    disk_file_close(&file);
    disk_close(&disk);
    return status;
}

static enum eng_status store_options_of(const struct arguments *arguments, struct eng_options *options)
{
    *options = (struct eng_options){.path = arguments->dir, .inline_only = true, .ignore_log = true};
    return store_id_read(arguments->dir, options->store_id);
}

/* The tree that was named. */
static enum eng_status open_tree(struct eng *eng, const struct arguments *arguments, struct eng_snapshot **tree)
{
    enum eng_status status = eng_snapshot_open(eng, arguments->root, arguments->tag, tree);
    for (unsigned i = 0; i < arguments->subtrees && status == ENG_OK; i++) {
        struct eng_snapshot *parent = *tree;
        status = eng_snapshot_tree(parent, arguments->subtree[i].bytes, arguments->subtree[i].count, tree);
        eng_snapshot_close(&parent);
        if (status == ENG_NOT_FOUND)
            status = eng_fail(status, "--subtree %s: no such key", arguments->subtree[i].text);
        else if (status == ENG_TYPE)
            status = eng_fail(status, "--subtree %s: its value is not a tree", arguments->subtree[i].text);
    }
    return status;
}

/* ---- stats ---- */

static enum eng_status print_shape(struct eng *eng, uint32_t tree)
{
    struct tree_shape shape = {0};
    enum eng_status status = tree_shape(eng->store, tree, &shape);
    if (status != ENG_OK)
        return status;
    printf("  entries        %" PRIu64 "\n", shape.entries);
    if (!shape.leaves)
        return ENG_OK;
    double entries = (double)shape.entries, leaves = (double)shape.leaves;
    printf("  leaves         %" PRIu64 ", %.1f entries each, %.0f %% of the weight limit\n", shape.leaves,
           entries / leaves, 100.0 * (double)shape.leaf_weight / leaves / eng->leaf_bytes);
    printf("  inner nodes    %" PRIu64, shape.inners);
    if (shape.children)
        printf(", %.0f %% of their children where they say", 100.0 * (double)shape.placed / (double)shape.children);
    printf("\n");
    printf("  depth          %.2f on average, at most %u\n", (double)shape.depth_sum / leaves, shape.depth_max);
    printf("  bytes          %" PRIu64 " in leaves, %" PRIu64 " in inner nodes, %.1f an entry\n",
           shape.leaf_object_bytes, shape.inner_object_bytes,
           (double)(shape.leaf_object_bytes + shape.inner_object_bytes) / entries);
    return ENG_OK;
}

static void print_segments(struct store *store)
{
    static const char *const states[] = {"free", "open", "sealed", "emptied"};
    uint64_t count[4] = {0}, tenth[10] = {0}, live = 0;
    for (uint32_t i = 0; i < store->segments.total; i++) {
        const struct segment *segment = &store->segments.table[i];
        uint64_t units = atomic_load_explicit(&segment->live, memory_order_relaxed);
        count[segment->state]++;
        live += units;
        if (segment->state == SEGMENT_SEALED)
            tenth[units >= store->segments.units ? 9 : units * 10 / store->segments.units]++;
    }
    printf("segments of %" PRIu64 " KiB:", (uint64_t)store->segments.units * UNIT_BYTES / 1024);
    for (int i = 0; i < 4; i++)
        printf(" %" PRIu64 " %s%s", count[i], states[i], i < 3 ? "," : "\n");
    printf("  live           %" PRIu64 " bytes, %.0f %% of the file\n", live * UNIT_BYTES,
           store->segments.total ? 100.0 * (double)live / store->segments.units / store->segments.total : 0.0);
    printf("  live of sealed ");
    for (int i = 0; i < 10; i++)
        printf(" %d%%:%" PRIu64, 10 * i, tenth[i]);
    printf("\n");
}

static void print_kinds(struct store *store)
{
    static const char *const names[8] = {"", "leaves", "inner nodes", "values", "death lists", "trees", "", ""};
    uint64_t count[8] = {0}, units[8] = {0};
    for (uint32_t id = 1; id < store->control.next; id++) {
        uint64_t word = atomic_load_explicit(&store->view.control[id], memory_order_relaxed);
        if (!word)
            continue;
        count[CONTROL_TYPE(word)]++;
        units[CONTROL_TYPE(word)] += CONTROL_UNITS(word);
    }
    printf("objects of all versions:\n");
    for (int i = 1; i < 8; i++)
        if (count[i])
            printf("  %-14s %" PRIu64 ", %" PRIu64 " bytes\n", names[i], count[i], units[i] * UNIT_BYTES);
}

/* Who holds space back: of a store just opened this is nobody but the program itself. */
static void print_holders(const struct eng_statistics *statistics)
{
    printf("space held back:\n");
    printf("  empty segments %" PRIu64 " bytes, %" PRIu64 " of them for readers alone\n", statistics->waiting_bytes,
           statistics->reader_bytes);
    printf("  readers        %" PRIu32 " in a call", statistics->readers_inside);
    if (statistics->reader_thread)
        printf(", thread %" PRId32 " for %" PRIu64 " ms", statistics->reader_thread, statistics->reader_ms);
    printf("\n  snapshots      %" PRIu64, statistics->snapshots);
    if (statistics->snapshots)
        printf(", the oldest of root %" PRIu32 ", tag %" PRIu64 ", for %" PRIu64 " ms; %" PRIu64
               " dropped versions wait for them",
               statistics->oldest_root, statistics->oldest_tag, statistics->oldest_ms, statistics->versions_waiting);
    printf("\n");
}

static enum eng_status stats(struct eng *eng, const struct arguments *arguments)
{
    struct eng_statistics statistics;
    if (arguments->one_tree) {
        struct eng_snapshot *snapshot;
        enum eng_status status = open_tree(eng, arguments, &snapshot);
        if (status != ENG_OK)
            return status;
        printf("tag %" PRIu64 "\n", snapshot->version.tag);
        status = print_shape(eng, snapshot->version.root);
        eng_snapshot_close(&snapshot);
        return status;
    }
    eng_stats(eng, &statistics);
    printf("parameters: leaf %u, inline %u bytes; checkpoint %" PRIu64 "\n", statistics.leaf_bytes,
           statistics.inline_bytes, store_checkpoint_number(eng->store));
    enum eng_status status = ENG_OK;
    for (uint32_t root = 0; root < ENG_ROOTS_MAX && status == ENG_OK; root++) {
        struct store_version head;
        if (!store_head(eng->store, root, &head))
            continue;
        printf("root %u: %zu versions, newest tag %" PRIu64 "\n", root, eng_version_count(eng, root), head.tag);
        status = print_shape(eng, head.root);
    }
    print_kinds(eng->store);
    print_segments(eng->store);
    print_holders(&statistics);
    return status;
}

/* ---- dump ---- */

static void print_bytes(const uint8_t *bytes, size_t count, bool hex)
{
    for (size_t i = 0; i < count; i++) {
        if (hex)
            printf("%02x", bytes[i]);
        else if (bytes[i] < 0x20 || bytes[i] == 0x7f || bytes[i] == '\\')
            printf("\\x%02x", bytes[i]);
        else
            putchar(bytes[i]);
    }
}

static enum eng_status dump(struct eng *eng, const struct arguments *arguments)
{
    struct eng_snapshot *snapshot;
    struct eng_cursor *cursor;
    enum eng_status status = open_tree(eng, arguments, &snapshot);
    if (status != ENG_OK)
        return status;
    status = eng_cursor_open(snapshot, &cursor);
    if (status == ENG_OK && arguments->prefix.count)
        status = eng_cursor_prefix(cursor, arguments->prefix.bytes, arguments->prefix.count);
    if (status == ENG_OK)
        status = eng_cursor_seek(cursor, NULL, 0);
    while (status == ENG_OK) {
        struct eng_value value;
        size_t key_bytes;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        status = eng_cursor_value(cursor, &value);
        if (status != ENG_OK)
            break;
        print_bytes(key, key_bytes, arguments->hex);
        printf(value.tag == ENG_BYTES ? "\tbytes\t" : value.tag == ENG_AMOUNT ? "\tamount\t" : "\ttree\t");
        print_bytes(value.bytes, value.size, arguments->hex || value.tag != ENG_BYTES);
        printf("\n");
        status = eng_cursor_next(cursor);
    }
    eng_cursor_close(&cursor);
    eng_snapshot_close(&snapshot);
    return status == ENG_NOT_FOUND ? ENG_OK : status;
}

/* ---- tree ---- */

static enum eng_status print_node(struct store *store, uint32_t id, unsigned level, const struct arguments *arguments)
{
    const struct node *node = store_node(store, id);
    if (!node)
        return ENG_DAMAGED;
    const struct leaf *leaf = (const struct leaf *)node;
    const struct inner *inner = (const struct inner *)node;
    bool is_leaf = node->object.type == OBJECT_LEAF;
    printf("%*s%s %u: %" PRIu64 " entries, weight %" PRIu64 ", %u bytes, generation %" PRIx64 ", prefix \"", 2 * level,
           "", is_leaf ? "leaf" : "inner", id, node->summary.count, node->weight, is_leaf ? leaf->bytes : inner->bytes,
           node->object.generation);
    print_bytes(is_leaf ? leaf_prefix(leaf) : inner_prefix(inner), is_leaf ? leaf->prefix_bytes : inner->prefix_bytes,
                arguments->hex);
    printf("\"\n");
    enum eng_status status = ENG_OK;
    if (!is_leaf && level < arguments->depth)
        for (unsigned i = 0; i < inner->branches && status == ENG_OK; i++)
            status = print_node(store, inner_child(inner)[i], level + 1, arguments);
    return status;
}

static enum eng_status tree(struct eng *eng, const struct arguments *arguments)
{
    struct eng_snapshot *snapshot;
    enum eng_status status = open_tree(eng, arguments, &snapshot);
    if (status != ENG_OK)
        return status;
    if (snapshot->version.root)
        status = print_node(eng->store, snapshot->version.root, 0, arguments);
    eng_snapshot_close(&snapshot);
    return status;
}

/* ---- check and compact ---- */

static void print_fault(void *context, const char *line)
{
    printf("%s\n", line);
    ++*(uint64_t *)context;
}

static int check(const struct arguments *arguments)
{
    struct eng_options options;
    uint64_t faults = 0;
    enum eng_status status = store_options_of(arguments, &options);
    if (status != ENG_OK)
        return complain(status);
    char genesis[4096], log[4096];
    snprintf(genesis, sizeof genesis, "%s/genesis.json", arguments->dir);
    snprintf(log, sizeof log, "%s/log", arguments->dir);
    if (access(log, F_OK) == 0 && access(genesis, F_OK) != 0) /* the log of a library store, not that of a node */
        options.durability = ENG_DURABLE_FSYNC;
    status = eng_check(&options, arguments->deep, print_fault, &faults);
    if (status != ENG_OK && !faults)
        return complain(status);
    printf("%" PRIu64 " faults\n", faults);
    return exit_code(status);
}

/* The checkpoints it makes keep the application's own state: what its log says next is still to be replayed. */
static enum eng_status compact(struct eng *eng, const struct arguments *arguments)
{
    struct eng_statistics before, after;
    uint8_t state[ENG_APP_STATE_BYTES_MAX];
    size_t state_bytes = eng_app_state(eng, state, sizeof state);
    eng_stats(eng, &before);
    enum eng_status status = ENG_OK;
    for (int i = 0; i < 2 && status == ENG_OK; i++) { /* what a checkpoint knows is free only after the next two */
        status = eng_compact(eng, arguments->percent);
        if (status == ENG_OK)
            status = eng_checkpoint(eng, state, state_bytes, true);
    }
    if (status == ENG_OK)
        status = eng_compact(eng, arguments->percent);
    eng_stats(eng, &after);
    printf("%" PRIu64 " bytes before, %" PRIu64 " after, %" PRIu64 " live\n", before.state_bytes, after.state_bytes,
           after.live_bytes);
    return status;
}

/* ---- the command ---- */

static int usage(void)
{
    fprintf(stderr, "usage: pando-engine stats DIR [TREE]\n"
                    "       pando-engine dump DIR [TREE] [--prefix P] [--hex]\n"
                    "       pando-engine tree DIR [TREE] [--depth D] [--hex]\n"
                    "       pando-engine check DIR [--deep]\n"
                    "       pando-engine compact DIR [PERCENT]\n"
                    "TREE: [--root N] [--tag T] [--subtree KEY]..., keys as dump prints them\n");
    return 2;
}

static bool number(const char *text, uint64_t most, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 10);
    return *text && !*end && *value <= most;
}

/* A key as print_bytes prints it without hex. */
static bool parse_key(const char *text, struct key *key)
{
    key->text = text;
    for (key->count = 0; *text; key->count++) {
        unsigned byte = (uint8_t)*text;
        int used = 1;
        if (key->count == ENG_KEY_BYTES_MAX)
            return false;
        if (text[0] == '\\') {
            if (text[1] != 'x' || !isxdigit((unsigned char)text[2]) || !isxdigit((unsigned char)text[3]))
                return false;
            sscanf(text + 2, "%2x%n", &byte, &used);
            used += 2;
        }
        key->bytes[key->count] = (uint8_t)byte;
        text += used;
    }
    return true;
}

/* One option and its value at argv[*i]; false: there is no such option. */
static bool option(struct arguments *arguments, int argc, char **argv, int *i)
{
    uint64_t value = 0;
    const char *name = argv[*i];
    if (strcmp(name, "--hex") == 0) {
        arguments->hex = true;
        return true;
    }
    if (strcmp(name, "--deep") == 0) {
        arguments->deep = true;
        return true;
    }
    if (++*i >= argc)
        return false;
    if (strcmp(name, "--prefix") == 0)
        return parse_key(argv[*i], &arguments->prefix);
    if (strcmp(name, "--subtree") == 0) {
        arguments->one_tree = true;
        return arguments->subtrees < SUBTREES_MAX && parse_key(argv[*i], &arguments->subtree[arguments->subtrees++]);
    }
    if (strcmp(name, "--root") == 0 && number(argv[*i], ENG_ROOTS_MAX - 1, &value)) {
        arguments->one_tree = true;
        arguments->root = (uint32_t)value;
        return true;
    }
    if (strcmp(name, "--depth") == 0 && number(argv[*i], ENG_KEY_BYTES_MAX, &value)) {
        arguments->depth = (unsigned)value;
        return true;
    }
    arguments->one_tree = true;
    return strcmp(name, "--tag") == 0 && number(argv[*i], UINT64_MAX, &arguments->tag);
}

int main(int argc, char **argv)
{
    static struct arguments arguments = {.tag = ENG_HEAD, .depth = 2, .percent = 90};
    for (int i = 1; i < argc; i++) {
        uint64_t percent;
        if (argv[i][0] == '-' && argv[i][1]) {
            if (!option(&arguments, argc, argv, &i))
                return usage();
        } else if (!arguments.verb) {
            arguments.verb = argv[i];
        } else if (!arguments.dir) {
            arguments.dir = argv[i];
        } else if (strcmp(arguments.verb, "compact") == 0 && number(argv[i], 100, &percent)) {
            arguments.percent = (unsigned)percent;
        } else {
            return usage();
        }
    }
    static const struct {
        const char *verb;
        enum eng_status (*run)(struct eng *eng, const struct arguments *arguments);
    } verbs[] = {{"stats", stats}, {"dump", dump}, {"tree", tree}, {"compact", compact}};
    if (!arguments.verb || !arguments.dir)
        return usage();
    if (strcmp(arguments.verb, "check") == 0)
        return check(&arguments);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(arguments.verb, verbs[i].verb) != 0)
            continue;
        struct eng_options options;
        struct eng *eng;
        enum eng_status status = store_options_of(&arguments, &options);
        if (status == ENG_OK)
            status = eng_open(&options, &eng);
        if (status != ENG_OK)
            return complain(status);
        struct reader *reader = eng_enter(eng);
        if (strcmp(arguments.verb, "compact") == 0)
            reader_leave(reader); /* it moves things */
        status = verbs[i].run(eng, &arguments);
        if (strcmp(arguments.verb, "compact") != 0)
            reader_leave(reader);
        int code = status == ENG_OK ? 0 : complain(status);
        eng_close(&eng);
        return code;
    }
    return usage();
}
