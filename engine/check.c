/*
 * eng_check: the store's files first (store_check: slots, journal, control table, catalog; deep: every object), and, if
 * they can be opened, the newest tree of every root from the entries up (tree_check).
 *
 * Opening raises the start number in a root slot, as every start does; nothing else is written.
 */
#include "engine_internal.h"
#include "tree.h"

static enum eng_status check_trees(const struct eng_options *options, struct disk *disk,
                                   void (*report)(void *context, const char *line), void *context)
{
    struct eng_options opened = *options;
    opened.disk = disk;
    opened.path = NULL;
    opened.create = false;
    opened.inline_only = true;
    opened.durability = ENG_DURABLE_NONE;
    struct eng *eng;
    enum eng_status status = eng_open(&opened, &eng);
    if (status != ENG_OK) {
        report(context, eng_error());
        return ENG_DAMAGED;
    }
    for (uint32_t root = 0; root < ENG_ROOTS_MAX; root++) {
        struct store_version head;
        if (!store_head(eng->store, root, &head))
            continue;
        struct reader *reader = eng_enter(eng);
        enum eng_status found =
            reader ? tree_check(eng->store, head.root, eng->leaf_bytes, eng->inline_bytes, report, context)
                   : ENG_NO_READERS;
        const struct node *top = reader && head.root && found == ENG_OK ? store_node(eng->store, head.root) : NULL;
        if (top && memcmp(&top->summary, &head.summary, sizeof head.summary) != 0) {
            report(context, "state/catalog: the newest version names another digest than its tree has");
            found = ENG_DAMAGED;
        }
        if (reader)
            reader_leave(reader);
        if (found != ENG_OK)
            status = found;
    }
    eng_close(&eng);
    return status;
}

enum eng_status eng_check(const struct eng_options *options, bool deep, void (*report)(void *context, const char *line),
                          void *context)
{
    struct disk *disk = options->disk;
    enum eng_status status = ENG_OK;
    if (!digest_init())
        return eng_fail(ENG_NO_MEMORY, "libsodium: cannot be initialised");
    if (!disk) {
        status = disk_posix_open(options->path, &disk);
        if (status == ENG_OK)
            status = disk_lock(disk, "LOCK");
    }
    if (status == ENG_OK)
        status = store_check(disk, "state", deep, report, context);
    if (status == ENG_OK && deep)
        status = check_trees(options, disk, report, context);
    if (!options->disk && disk)
        disk_close(&disk);
    return status;
}
