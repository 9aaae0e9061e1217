/*
 * pando check DIR [--deep]: is this data directory whole? Offline, and nothing is changed.
 *
 * In this order, each fault on a line of its own on stdout: genesis.json and node.key read and decode; pando.conf is
 * right; the log's files and records (cli_check_log.c), and in it the chain of sealed blocks: heights without a gap,
 * each header naming the digest of the one before, of this ledger, signed by a signer of the genesis, receipts with the
 * digest the header names; the state by eng_check, --deep: every object, the shape of the tree, every digest from the
 * entries up; that the log reaches the block the state's checkpoint is of, which a start replays from. What is absent
 * beside a genesis.json is damage. Opening the state raises its number of starts, as every start does.
 *
 * Exit code: 0 whole; 4 damaged, with one line on stderr that says how many faults; 1 not a data directory, or of
 * another ledger or newer version; 3 a daemon holds it, or it cannot be read.
 */
#include "cli_check.h"

#include "blockend.h"
#include "cli.h"
#include "ledger_internal.h"

#include "pando/config.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct check {
    const char *directory;
    struct disk *disk;
    struct genesis genesis;
    uint64_t faults, records, blocks;
    uint64_t height; /* of the last sealed block, 0: none yet */
    uint8_t previous[32];
};

static void report(void *context, const char *line)
{
    struct check *check = context;
    check->faults++;
    printf("%s\n", line);
}

static void report_block(struct check *check, uint64_t height, const struct log_record *record, const char *what)
{
    char line[640];
    snprintf(line, sizeof line, "log: record at offset %llu: sealed block %llu: %s", (unsigned long long)record->offset,
             (unsigned long long)height, what);
    report(check, line);
}

static bool is_signer(const struct check *check, const uint8_t key[32])
{
    for (size_t i = 0; i < check->genesis.signer_count; i++)
        if (memcmp(check->genesis.signers[i], key, 32) == 0)
            return true;
    return false;
}

static void check_sealed(struct check *check, const struct log_record *record)
{
    struct sealed_block block;
    struct header header;
    uint8_t digest[32];
    if (sealed_block_decode(record->payload, record->length, &block) != ENG_OK ||
        header_decode(block.header, block.header_bytes, &header) != ENG_OK) {
        report_block(check, check->height + 1, record, eng_error());
        return;
    }
    if (memcmp(header.ledger_id, check->genesis.ledger_id, 32) != 0)
        report_block(check, header.height, record, "of another ledger");
    if (check->height && header.height != check->height + 1)
        report_block(check, header.height, record, "does not follow the one before");
    bool has_previous = check->height || header.height == 1;
    const uint8_t *previous = header.height == 1 ? check->genesis.ledger_id : check->previous;
    if (has_previous && memcmp(header.previous, previous, 32) != 0)
        report_block(check, header.height, record, "names another header before it");
    if (!is_signer(check, header.signer))
        report_block(check, header.height, record, "signed by a key that is no signer");
    if (!header_verify(&header))
        report_block(check, header.height, record, "the signature is wrong");
    header_hash("pando receipts", block.receipts, block.receipts_bytes, digest);
    if (memcmp(digest, header.receipts_digest, 32) != 0)
        report_block(check, header.height, record, "the receipts have another digest than the header names");
    header_digest(&header, check->previous);
    check->height = header.height;
    check->blocks++;
}

static void check_record(void *context, const struct log_record *record)
{
    struct check *check = context;
    check->records++;
    if (record->type == RECORD_SEALED)
        check_sealed(check, record);
}

/* genesis.json; without it there is nothing to compare the rest with. */
static int check_genesis(struct check *check)
{
    struct disk_file *file;
    uint64_t size = 0;
    char *text = NULL;
    enum eng_status status = disk_open(check->disk, "genesis.json", DISK_READ, &file);
    if (status == ENG_NOT_FOUND)
        return cli_say(CLI_NO, "%s: not a data directory: it has no genesis.json", check->directory);
    if (status != ENG_OK)
        return cli_fail(status);
    status = disk_size(file, &size);
    if (status == ENG_OK && size > 1u << 20)
        status = eng_fail(ENG_DAMAGED, "genesis.json: %llu bytes are too many", (unsigned long long)size);
    if (status == ENG_OK && !(text = malloc(size + 1)))
        status = eng_fail(ENG_NO_MEMORY, "genesis.json: out of memory");
    if (status == ENG_OK)
        status = disk_read(file, 0, text, size);
    disk_file_close(&file);
    if (status == ENG_OK && genesis_parse(text, size, &check->genesis) != ENG_OK) {
        char line[600];
        snprintf(line, sizeof line, "genesis.json: %s", eng_error());
        report(check, line);
        status = eng_fail(ENG_DAMAGED, "%s: genesis.json cannot be read, nothing else was checked", check->directory);
    }
    free(text);
    return status == ENG_OK ? CLI_DONE : cli_fail(status);
}

static void check_files(struct check *check)
{
    char path[CONFIG_PATH_MAX], error[CONFIG_PATH_MAX + 256];
    uint8_t public_key[32], secret[64];
    struct config config;
    snprintf(path, sizeof path, "%s/node.key", check->directory);
    if (key_file_read(path, public_key, secret) != ENG_OK)
        report(check, eng_error());
    sodium_memzero(secret, sizeof secret);
    config_defaults(&config);
    snprintf(path, sizeof path, "%s/pando.conf", check->directory);
    if (access(path, F_OK) == 0 && !config_read(&config, path, check->directory, error, sizeof error))
        report(check, error);
}

/* What a part of the check found: faults were reported already, other failures end the check. */
static int part_result(struct check *check, enum eng_status status, uint64_t faults_before)
{
    if (status == ENG_OK)
        return CLI_DONE;
    if (status != ENG_DAMAGED && status != ENG_NOT_FOUND)
        return cli_fail(status);
    if (check->faults == faults_before)
        report(check, eng_error());
    return CLI_DONE;
}

/* The log against the newest checkpoint of a state that is whole. */
static enum eng_status check_base(struct check *check, struct eng_options options)
{
    struct eng *eng;
    struct base base = {.height = 0};
    uint8_t bytes[BASE_BYTES];
    options.inline_only = options.ignore_log = true;
    enum eng_status status = eng_open(&options, &eng);
    if (status != ENG_OK)
        return status;
    size_t size = eng_app_state(eng, bytes, sizeof bytes);
    if (size) /* none before the first checkpoint */
        status = base_decode(bytes, size, &base);
    eng_close(&eng);
    char line[200] = "";
    if (status == ENG_OK && check->height < base.height)
        snprintf(line, sizeof line, "log: ends with block %llu, the state's checkpoint is of block %llu",
                 (unsigned long long)check->height, (unsigned long long)base.height);
    else if (status == ENG_OK && base.height && check->height == base.height &&
             memcmp(check->previous, base.digest, 32) != 0)
        snprintf(line, sizeof line, "log: its block %llu is another than the state's checkpoint is of",
                 (unsigned long long)base.height);
    if (line[0])
        report(check, line);
    return status;
}

static int check_all(struct check *check, bool deep)
{
    int code = check_genesis(check);
    if (code != CLI_DONE)
        return code;
    check_files(check);
    uint64_t before = check->faults;
    const struct ledger_log_check log = {.disk = check->disk,
                                         .dir = "log",
                                         .store_id = check->genesis.ledger_id,
                                         .each = check_record,
                                         .report = report,
                                         .context = check};
    code = part_result(check, ledger_log_check(&log), before);
    if (code != CLI_DONE)
        return code;
    before = check->faults;
    struct eng_options options = {.disk = check->disk};
    memcpy(options.store_id, check->genesis.ledger_id, sizeof options.store_id);
    code = part_result(check, eng_check(&options, deep, report, check), before);
    if (code == CLI_DONE && check->faults == before)
        code = part_result(check, check_base(check, options), before);
    return code;
}

int cli_check(struct cli *cli, int argc, char **argv)
{
    bool deep = false;
    const struct cli_option options[] = {{.name = "--deep", .flag = &deep}, {0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest != 1)
        return cli_usage("check", "one DIR is needed");
    struct check check = {.directory = argv[1]};
    if (strlen(argv[1]) + 16 > CONFIG_PATH_MAX)
        return cli_say(CLI_USE, "DIR: the path is too long");
    if (!digest_init())
        return cli_say(CLI_UNABLE, "libsodium: cannot be initialised");
    struct stat facts;
    if (stat(argv[1], &facts) != 0)
        return cli_say(CLI_NO, "%s: %s", argv[1], strerror(errno));
    if (!S_ISDIR(facts.st_mode))
        return cli_say(CLI_NO, "%s: not a directory", argv[1]);
    enum eng_status status = disk_posix_open(argv[1], &check.disk);
    if (status != ENG_OK)
        return cli_fail(status);
    if (!disk_exists(check.disk, "genesis.json"))
        code = cli_say(CLI_NO, "%s: not a data directory: it has no genesis.json", argv[1]);
    else if ((status = disk_lock(check.disk, "LOCK")) != ENG_OK)
        code = status == ENG_LOCKED ? cli_say(CLI_UNABLE, "%s: a daemon is running on it", argv[1]) : cli_fail(status);
    else
        code = check_all(&check, deep);
    disk_close(&check.disk);
    genesis_release(&check.genesis);
    if (code != CLI_DONE)
        return code;
    if (check.faults)
        return cli_say(CLI_DAMAGED, "%s: damaged: %llu fault%s", argv[1], (unsigned long long)check.faults,
                       check.faults == 1 ? "" : "s");
    printf("%s: whole: %llu log records, %llu blocks up to height %llu%s\n", argv[1], (unsigned long long)check.records,
           (unsigned long long)check.blocks, (unsigned long long)check.height, deep ? ", every digest recomputed" : "");
    return cli_flush(CLI_DONE);
}
