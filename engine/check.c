/*
 * Checking a whole store: offline (eng_check), and while it is opened (ENG_RECOVER_VERIFY, ENG_RECOVER_REBUILD).
 *
 * eng_check: the store's files first (store_check: slots, journal, control table, catalog; deep: every object), the
 * store's own log if it has one (log_check; the newest checkpoint says how far it had come), and, if the state can be
 * opened, the tree of every kept version of every root from the entries up (check_versions). Nodes that versions share
 * are looked at once. Every fault is reported, not only the first.
 *
 * VERIFY is the same before the store is used. REBUILD looks at the versions in what was found in the segments; those
 * that are not whole are dropped (rebuild.c).
 *
 * Opening raises the start number in a root slot, as every start does; nothing else is written.
 */
#include "engine_internal.h"
#include "tree.h"

#include <stdio.h>
#include <stdlib.h>

/* Reports, and keeps the first line for the error. */
struct faults {
    void (*report)(void *context, const char *line);
    void *context;
    uint64_t count;
    char first[600];
    uint32_t root; /* of the version that is looked at */
    uint64_t tag;
};

static void fault_line(void *context, const char *line)
{
    struct faults *faults = context;
    if (faults->count++ == 0)
        snprintf(faults->first, sizeof faults->first, "%s", line);
    if (faults->report)
        faults->report(faults->context, line);
}

static void fault_of_version(void *context, const char *line)
{
    struct faults *faults = context;
    char whole[600];
    snprintf(whole, sizeof whole, "version %llu of root %u: %s", (unsigned long long)faults->tag, faults->root, line);
    fault_line(faults, whole);
}

static enum eng_status faults_status(const struct faults *faults)
{
    if (faults->count > 1)
        return eng_fail(ENG_DAMAGED, "%s (%llu faults in all)", faults->first, (unsigned long long)faults->count);
    return faults->count ? eng_fail(ENG_DAMAGED, "%s", faults->first) : ENG_OK;
}

/* Is all of a version there, and right? ENG_DAMAGED: no, as reported; anything else: nobody knows. */
static enum eng_status version_whole(struct eng *eng, struct tree_memo *memo, uint32_t root,
                                     const struct store_version *version, struct faults *faults)
{
    static const struct eng_summary empty;
    faults->root = root;
    faults->tag = version->tag;
    enum eng_status status = tree_check_shared(eng->store, memo, version->root, eng->leaf_bytes, eng->inline_bytes,
                                               fault_of_version, faults);
    if (status != ENG_OK)
        return status;
    const struct node *top = version->root ? store_node(eng->store, version->root) : NULL;
    if (memcmp(top ? &top->summary : &empty, &version->summary, sizeof empty) == 0)
        return ENG_OK;
    fault_of_version(faults, "state/catalog: names another digest than its tree has");
    return ENG_DAMAGED;
}

/* Calls each for every kept version of a root, oldest first. */
static enum eng_status each_version(struct eng *eng, uint32_t root,
                                    void (*each)(void *context, const struct store_version *version), void *context)
{
    size_t count = store_versions(eng->store, root, NULL, 0);
    struct store_version *versions = malloc((count + 1) * sizeof *versions);
    if (!versions)
        return eng_fail(ENG_NO_MEMORY, "check: %zu versions: out of memory", count);
    size_t got = store_versions(eng->store, root, versions, count);
    assert(got == count); /* nobody commits meanwhile */
    for (size_t i = 0; i < count; i++)
        each(context, &versions[i]);
    free(versions);
    return ENG_OK;
}

struct check_versions {
    struct eng *eng;
    struct tree_memo *memo;
    struct faults *faults;
    uint32_t root;
    enum eng_status status;
};

static void check_one(void *context, const struct store_version *version)
{
    struct check_versions *check = context;
    enum eng_status status =
        check->status == ENG_OK ? version_whole(check->eng, check->memo, check->root, version, check->faults) : ENG_OK;
    if (status != ENG_OK && status != ENG_DAMAGED) /* damage is counted in faults */
        check->status = status;
}

static enum eng_status check_versions(struct eng *eng, struct faults *faults)
{
    struct check_versions check = {.eng = eng, .memo = tree_memo_new(), .faults = faults};
    if (!check.memo)
        return eng_fail(ENG_NO_MEMORY, "check: out of memory");
    struct reader *reader = eng_enter(eng);
    enum eng_status status = reader ? ENG_OK : ENG_NO_READERS;
    for (; check.root < ENG_ROOTS_MAX && status == ENG_OK; check.root++)
        status = each_version(eng, check.root, check_one, &check);
    if (status == ENG_OK)
        status = check.status;
    if (reader)
        reader_leave(reader);
    tree_memo_free(check.memo);
    return status;
}

/* ---- while the store is opened -----------------------------------------------------------------------------------*/

enum eng_status eng_verify_files(struct eng *eng, const struct eng_options *options)
{
    struct faults faults = {.report = options->recovery_report, .context = options->recovery_context};
    if (!disk_exists(eng->disk, "state/slots"))
        return ENG_OK; /* it is created, or opening it says that there is none */
    enum eng_status status = store_check(eng->disk, "state", true, fault_line, &faults);
    return status == ENG_DAMAGED ? faults_status(&faults) : status;
}

enum eng_status eng_verify_versions(struct eng *eng, const struct eng_options *options)
{
    struct faults faults = {.report = options->recovery_report, .context = options->recovery_context};
    enum eng_status status = check_versions(eng, &faults);
    return status == ENG_OK ? faults_status(&faults) : status;
}

struct rebuild {
    struct eng *eng;
    struct tree_memo *memo;
    struct faults faults;
};

static enum eng_status rebuild_good(void *context, uint32_t root, const struct store_version *version)
{
    struct rebuild *rebuild = context;
    struct store_version head;
    if (store_has_bases(rebuild->eng->store, root) && store_head(rebuild->eng->store, root, &head) &&
        head.generation != version->generation) {
        fault_of_version(&rebuild->faults, "dropped: it is older than clones of its subtrees");
        return ENG_DAMAGED;
    }
    enum eng_status status = version_whole(rebuild->eng, rebuild->memo, root, version, &rebuild->faults);
    if (status == ENG_DAMAGED)
        fault_of_version(&rebuild->faults, "dropped");
    return status;
}

enum eng_status eng_rebuild(struct eng *eng, const struct eng_options *options, bool lost[ENG_ROOTS_MAX])
{
    struct rebuild rebuild = {.eng = eng, .memo = tree_memo_new()};
    rebuild.faults = (struct faults){.report = options->recovery_report, .context = options->recovery_context};
    struct store_version head;
    uint64_t *tags = calloc(ENG_ROOTS_MAX, sizeof *tags); /* of the heads, plus one */
    enum eng_status status = ENG_OK;
    if (!rebuild.memo || !tags)
        status = eng_fail(ENG_NO_MEMORY, "rebuild: out of memory");
    for (uint32_t root = 0; root < ENG_ROOTS_MAX && status == ENG_OK; root++)
        tags[root] = store_head(eng->store, root, &head) ? head.tag + 1 : 0;
    struct reader *reader = status == ENG_OK ? eng_enter(eng) : NULL;
    if (status == ENG_OK && !reader)
        status = ENG_NO_READERS;
    if (reader) {
        status = store_rebuilt(eng->store, rebuild_good, &rebuild);
        reader_leave(reader);
    }
    for (uint32_t root = 0; root < ENG_ROOTS_MAX && status == ENG_OK; root++)
        lost[root] = tags[root] != (store_head(eng->store, root, &head) ? head.tag + 1 : 0);
    tree_memo_free(rebuild.memo);
    free(tags);
    return status;
}

/* ---- offline -----------------------------------------------------------------------------------------------------*/

static enum eng_status check_trees(const struct eng_options *options, struct disk *disk, struct faults *faults)
{
    struct eng_options opened = *options;
    opened.disk = disk;
    opened.path = NULL;
    opened.create = false;
    opened.inline_only = true;
    opened.ignore_log = true;
    opened.durability = ENG_DURABLE_NONE;
    opened.recovery = ENG_RECOVER_AUTO;
    struct eng *eng;
    enum eng_status status = eng_open(&opened, &eng);
    if (status == ENG_DAMAGED || status == ENG_FOREIGN || status == ENG_VERSION) {
        fault_line(faults, eng_error());
        return ENG_OK;
    }
    if (status != ENG_OK)
        return status;
    status = check_versions(eng, faults);
    eng_close(&eng);
    return status;
}

/* The store's own log, if the options or the newest checkpoint say that it has one. A checkpoint of such a store says
 * how far the log had come. */
static enum eng_status check_log(const struct eng_options *options, struct disk *disk, struct faults *faults)
{
    struct store_facts facts = {.kind = STORE_ANY};
    uint64_t reached = 0;
    enum eng_status status = store_facts(disk, "state", &facts);
    if (status == ENG_DAMAGED || status == ENG_FOREIGN || status == ENG_VERSION) /* reported; look at what is there */
        memcpy(facts.store_id, options->store_id, sizeof facts.store_id);
    else if (status != ENG_OK)
        return status;
    if (options->durability < ENG_DURABLE_MSYNC_SYNC && facts.kind != STORE_LOGGED)
        return ENG_OK;
    bool made = facts.kind == STORE_LOGGED && facts.app_bytes >= sizeof reached;
    if (made)
        memcpy(&reached, facts.app_state, sizeof reached);
    return log_check(disk, "log", facts.store_id, made, reached, fault_line, faults);
}

enum eng_status eng_check(const struct eng_options *options, bool deep, void (*report)(void *context, const char *line),
                          void *context)
{
    struct disk *disk = options->disk;
    struct faults faults = {.report = report, .context = context};
    enum eng_status status = ENG_OK;
    if (!digest_init())
        return eng_fail(ENG_NO_MEMORY, "libsodium: cannot be initialised");
    if (!disk) {
        status = disk_posix_open(options->path, &disk);
        if (status == ENG_OK)
            status = disk_lock(disk, "LOCK");
    }
    if (status == ENG_OK)
        status = store_check(disk, "state", deep, fault_line, &faults);
    if (status == ENG_DAMAGED)
        status = ENG_OK; /* it is in faults; go on */
    if (status == ENG_OK)
        status = check_log(options, disk, &faults);
    if (status == ENG_OK && deep)
        status = check_trees(options, disk, &faults);
    if (!options->disk && disk)
        disk_close(&disk);
    return status == ENG_OK ? faults_status(&faults) : status;
}
