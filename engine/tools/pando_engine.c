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
 * behind it is not replayed; of a store with a log of its own it says on stderr how much there is. Opening raises the
 * start number in a root slot and removes a log file that was being made, as every start does; only compact changes
 * more.
 *
 * dump: key, kind and value with tabs between. Of bytes and keys \xNN is one that is not printed as it is (--hex: all
 * of them); an amount is decimal; a tree is digest, count and sum of what is in it.
 *
 * Exit codes: 0 done; 1 not found; 2 usage; 4 damaged, foreign, or faults were found; 5 any other error.
 */
#include "engine_internal.h"
#include "log_scan.h"
#include "store_internal.h"
#include "tree.h"

#include <ctype.h>
#include <errno.h>
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
    unsigned given;           /* options, by their place in the table */
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

/* There are no root slots. They are lost if there is a journal of them (recovery.c says the same). */
static enum eng_status no_slots(struct disk *disk, const char *dir)
{
    struct disk_file *file = NULL;
    struct journal journal;
    if (disk_exists(disk, "state/journal") && disk_open(disk, "state/journal", DISK_READ, &file) == ENG_OK) {
        enum eng_status status = journal_read(file, &journal);
        journal_free(&journal);
        disk_file_close(&file);
        if (status == ENG_OK)
            return eng_fail(ENG_DAMAGED, "%s/state/slots: missing, but state/journal is of a store in use", dir);
    }
    return eng_fail(ENG_NOT_FOUND, "%s/state/slots: no such file, there is no store", dir);
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
        status = no_slots(disk, dir);
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

/* ---- the log, which is not shown ---- */

/* Bytes of records that are not the log's own. */
static enum eng_status count_records(struct log_files *files, uint64_t from, uint64_t *bytes)
{
    struct log_scan scan;
    enum eng_status status = log_scan(files, from, &scan);
    for (uint64_t at = from; status == ENG_OK && at < scan.end;) {
        struct log_record_header header;
        status = log_files_read(files, at, &header, sizeof header);
        if (status != ENG_OK)
            break;
        if (header.type >= LOG_USER)
            *bytes += log_record_bytes(header.length);
        at += log_record_bytes(header.length);
    }
    return status;
}

/* Says what of a store with a log of its own is not in its newest checkpoint. */
static void tell_of_log(struct eng *eng)
{
    uint64_t offset = 0, bytes = 0;
    struct log_files files;
    if (eng->store->root.kind != STORE_LOGGED)
        return;
    if (!disk_exists(eng->disk, "log")) {
        fprintf(stderr, "pando-engine: the store has a log of its own, which is missing\n");
        return;
    }
    if (store_app_state(eng->store, &offset, sizeof offset) < sizeof offset)
        offset = 0;
    enum eng_status status =
        log_files_open(&files, eng->disk, "log", eng->store->root.store_id, LOG_FILE_BYTES_DEFAULT, true);
    if (status == ENG_OK) {
        status = count_records(&files, offset, &bytes);
        log_files_close(&files);
    }
    if (status != ENG_OK)
        fprintf(stderr, "pando-engine: the log behind the checkpoint is not shown: %s\n", eng_error());
    else if (bytes)
        fprintf(stderr, "pando-engine: %" PRIu64 " bytes of log behind the checkpoint are not shown\n", bytes);
}

/* The tree that was named. */
static enum eng_status open_tree(struct eng *eng, const struct arguments *arguments, struct eng_snapshot **tree)
{
    enum eng_status status = eng_head(eng, arguments->root, NULL, NULL); /* a snapshot would be of the empty state */
    if (status == ENG_OK)
        status = eng_snapshot_open(eng, arguments->root, arguments->tag, tree);
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

/* Who holds space back. */
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

static enum eng_status print_stats(struct eng *eng, const struct arguments *arguments,
                                   const struct eng_statistics *statistics)
{
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
    printf("parameters: leaf %u, inline %u bytes; checkpoint %" PRIu64 "\n", statistics->leaf_bytes,
           statistics->inline_bytes, store_checkpoint_number(eng->store));
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
    print_holders(statistics);
    return status;
}

static enum eng_status stats(struct eng *eng, const struct arguments *arguments)
{
    struct eng_statistics statistics;
    eng_stats(eng, &statistics); /* before the program reads: it is not meant */
    struct reader *reader = eng_enter(eng);
    enum eng_status status = print_stats(eng, arguments, &statistics);
    if (reader)
        reader_leave(reader);
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

/* A two's complement integer of up to three words, low word first. */
static void print_decimal(const uint64_t *words, unsigned count)
{
    enum { DIGITS = 58 }; /* of 192 bits */
    char text[DIGITS + 1];
    unsigned at = DIGITS;
    uint64_t rest[3];
    bool negative = words[count - 1] >> 63, more = true, carry = negative;
    for (unsigned i = 0; i < count; i++) { /* the absolute value */
        rest[i] = (negative ? ~words[i] : words[i]) + carry;
        carry = carry && rest[i] == 0;
    }
    text[at] = 0;
    while (more) {
        unsigned digit = 0;
        more = false;
        for (unsigned i = count; i-- > 0;) {
            unsigned __int128 part = ((unsigned __int128)digit << 64) | rest[i];
            rest[i] = (uint64_t)(part / 10);
            digit = (unsigned)(part % 10);
            more |= rest[i] != 0;
        }
        text[--at] = (char)('0' + digit);
    }
    printf("%s%s", negative ? "-" : "", text + at);
}

static void print_value(const struct eng_value *value, bool hex)
{
    uint64_t amount[2];
    struct eng_summary summary;
    switch (value->tag) {
    case ENG_BYTES:
        printf("\tbytes\t");
        print_bytes(value->bytes, value->size, hex);
        break;
    case ENG_AMOUNT:
        memcpy(amount, value->bytes, sizeof amount);
        printf("\tamount\t");
        print_decimal(amount, 2);
        break;
    case ENG_TREE:
        memcpy(&summary, value->bytes, sizeof summary);
        printf("\ttree\t");
        print_bytes(summary.digest, sizeof summary.digest, true);
        printf(" %" PRIu64 " ", summary.count);
        print_decimal(summary.sum, 3);
        break;
    }
    printf("\n");
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
    while (status == ENG_OK && !ferror(stdout)) {
        struct eng_value value;
        size_t key_bytes;
        const uint8_t *key = eng_cursor_key(cursor, &key_bytes);
        status = eng_cursor_value(cursor, &value);
        if (status != ENG_OK)
            break;
        print_bytes(key, key_bytes, arguments->hex);
        print_value(&value, arguments->hex);
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
    printf("%" PRIu64 " fault%s\n", faults, faults == 1 ? "" : "s");
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

static const char usage_text[] = "usage: pando-engine stats DIR [TREE]\n"
                                 "       pando-engine dump DIR [TREE] [--prefix P] [--hex]\n"
                                 "       pando-engine tree DIR [TREE] [--depth D] [--hex]\n"
                                 "       pando-engine check DIR [--deep]\n"
                                 "       pando-engine compact DIR [PERCENT]\n"
                                 "       pando-engine help | --version\n"
                                 "TREE: [--root N] [--tag T] [--subtree KEY]..., keys as dump prints them\n"
                                 "What is shown is the newest checkpoint; a log behind it is not.\n";

/* Names what is wrong and how it would be right. */
static int wrong(const char *what, const char *why)
{
    fprintf(stderr, "pando-engine: %s%s%s\n%s", what, *why ? ": " : "", why, usage_text);
    return 2;
}

static bool number(const char *text, uint64_t most, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && *value <= most;
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

enum option { OPTION_ROOT, OPTION_TAG, OPTION_SUBTREE, OPTION_PREFIX, OPTION_DEPTH, OPTION_HEX, OPTION_DEEP, OPTIONS };

static const struct {
    const char *name;
    const char *value; /* what its value must be; NULL: it has none */
} options[OPTIONS] = {[OPTION_ROOT] = {"--root", "must be a number below 512"},
                      [OPTION_TAG] = {"--tag", "must be the number of a version"},
                      [OPTION_SUBTREE] = {"--subtree", "must be a key, with \\xNN for bytes that are not printed"},
                      [OPTION_PREFIX] = {"--prefix", "must be a key, with \\xNN for bytes that are not printed"},
                      [OPTION_DEPTH] = {"--depth", "must be a number of at most 1024"},
                      [OPTION_HEX] = {"--hex", NULL},
                      [OPTION_DEEP] = {"--deep", NULL}};
_Static_assert(ENG_ROOTS_MAX == 512 && ENG_KEY_BYTES_MAX == 1024, "as the options say");

#define BIT(option) (1u << (option))
#define TREE_OPTIONS (BIT(OPTION_ROOT) | BIT(OPTION_TAG) | BIT(OPTION_SUBTREE))

static const struct verb {
    const char *name;
    enum eng_status (*run)(struct eng *eng, const struct arguments *arguments); /* NULL: check, which opens nothing */
    unsigned options;
    bool reads; /* the whole run is one look */
} verbs[] = {{"stats", stats, TREE_OPTIONS, false},
             {"dump", dump, TREE_OPTIONS | BIT(OPTION_PREFIX) | BIT(OPTION_HEX), true},
             {"tree", tree, TREE_OPTIONS | BIT(OPTION_DEPTH) | BIT(OPTION_HEX), true},
             {"check", NULL, BIT(OPTION_DEEP), false},
             {"compact", compact, 0, false}};

/* text: of an option that has a value; otherwise NULL. */
static bool take_option(struct arguments *arguments, enum option option, const char *text)
{
    uint64_t value = 0;
    bool good = true;
    arguments->given |= BIT(option);
    arguments->one_tree |= (BIT(option) & TREE_OPTIONS) != 0;
    switch (option) {
    case OPTION_ROOT:
        good = number(text, ENG_ROOTS_MAX - 1, &value);
        arguments->root = (uint32_t)value;
        break;
    case OPTION_TAG:
        good = number(text, ENG_HEAD - 1, &arguments->tag);
        break;
    case OPTION_SUBTREE:
        good =
            arguments->subtrees < SUBTREES_MAX && *text && parse_key(text, &arguments->subtree[arguments->subtrees++]);
        break;
    case OPTION_PREFIX:
        good = parse_key(text, &arguments->prefix);
        break;
    case OPTION_DEPTH:
        good = number(text, ENG_KEY_BYTES_MAX, &value);
        arguments->depth = (unsigned)value;
        break;
    case OPTION_HEX:
        arguments->hex = true;
        break;
    case OPTION_DEEP:
        arguments->deep = true;
        break;
    case OPTIONS:
        good = false;
        break;
    }
    return good;
}

/* The option at argv[*i], and its value behind it. 0, or an exit code. */
static int parse_option(struct arguments *arguments, int argc, char **argv, int *i)
{
    const char *name = argv[*i];
    unsigned option = 0;
    while (option < OPTIONS && strcmp(name, options[option].name) != 0)
        option++;
    if (option == OPTIONS)
        return wrong(name, "no such option");
    const char *value = options[option].value;
    if (value && ++*i >= argc)
        return wrong(name, value);
    if (take_option(arguments, (enum option)option, value ? argv[*i] : NULL))
        return 0;
    char given[64];
    snprintf(given, sizeof given, "%s %.40s", name, argv[*i]);
    return wrong(given, value ? value : "");
}

/* 0, or an exit code. */
static int parse(struct arguments *arguments, int argc, char **argv, const struct verb **verb)
{
    uint64_t percent;
    for (int i = 1; i < argc; i++) {
        int code = 0;
        if (argv[i][0] == '-' && argv[i][1])
            code = parse_option(arguments, argc, argv, &i);
        else if (!arguments->verb)
            arguments->verb = argv[i];
        else if (!arguments->dir)
            arguments->dir = argv[i];
        else if (strcmp(arguments->verb, "compact") == 0 && number(argv[i], 100, &percent))
            arguments->percent = (unsigned)percent;
        else
            code = wrong(argv[i], "not expected here");
        if (code)
            return code;
    }
    *verb = NULL;
    for (size_t i = 0; arguments->verb && i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(arguments->verb, verbs[i].name) == 0)
            *verb = &verbs[i];
    if (!*verb)
        return arguments->verb ? wrong(arguments->verb, "no such command") : wrong("no command is given", "");
    if (!arguments->dir)
        return wrong(arguments->verb, "no directory is given");
    for (unsigned option = 0; option < OPTIONS; option++)
        if (arguments->given & ~(*verb)->options & BIT(option))
            return wrong(options[option].name, "not an option of this command");
    return 0;
}

static int run(const struct verb *verb, const struct arguments *arguments)
{
    struct eng_options opened;
    struct eng *eng;
    if (!verb->run)
        return check(arguments);
    enum eng_status status = store_options_of(arguments, &opened);
    if (status == ENG_OK)
        status = eng_open(&opened, &eng);
    if (status != ENG_OK)
        return complain(status);
    if (verb->run != compact)
        tell_of_log(eng);
    struct reader *reader = verb->reads ? eng_enter(eng) : NULL;
    status = verb->run(eng, arguments);
    if (reader)
        reader_leave(reader);
    int code = status == ENG_OK ? 0 : complain(status);
    eng_close(&eng);
    return code;
}

int main(int argc, char **argv)
{
    static struct arguments arguments = {.tag = ENG_HEAD, .depth = 2, .percent = 90};
    const struct verb *verb;
    int code = 0;
    if (argc == 2 && (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        printf("%s", usage_text);
    } else if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("pando-engine %s\n", PANDO_VERSION);
    } else {
        code = parse(&arguments, argc, argv, &verb);
        if (!code)
            code = run(verb, &arguments);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "pando-engine: the output cannot be written: %s\n", strerror(errno));
        return code ? code : 5;
    }
    return code;
}
