/*
 * pando init: the data directory of a new ledger, or of a follower of a running one.
 *
 * Happy path: DIR is made (mode 0750) or is an empty directory; node.key, genesis.json, LOCK, the state and the log,
 * and pando.conf are written into it and synced; one line says what was made. With --join the genesis comes from a
 * running node and must have the digest that was given, so it does not matter who handed it out.
 *
 * Ways to fail: DIR holds something (exit 1, nothing is touched); the other node does not answer (3) or has another
 * ledger (1); no space or no permission (3). What a failed init wrote is removed again, and DIR too if init made it.
 * SIGINT, SIGTERM and SIGHUP wait until it is done, so only a SIGKILL or a power loss can leave a half-made directory,
 * which a daemon refuses for want of pando.conf, written last.
 */
#include "cli.h"

#include "pando/config.h"
#include "pando/replication.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INIT_WINDOW_MS 600000u
#define INIT_FETCH_MS 5000
#define INIT_CLOSE_MS 10000

struct init {
    const char *directory, *ledger, *leaf_text, *auth, *module, *join, *id_text;
    uint64_t leaf_bytes;
    uint8_t ledger_id[32];
    bool made_directory;
    struct genesis genesis;
    uint8_t public_key[32], secret[64];
};

static int check_options(struct init *init)
{
    if (init->module)
        return cli_say(CLI_USE, "--module: this version has no modules");
    if (init->auth && strcmp(init->auth, "signed") == 0)
        return cli_say(CLI_USE, "--auth: this version has no signed transactions, only local");
    if (init->auth && strcmp(init->auth, "local") != 0)
        return cli_say(CLI_USE, "--auth: %s is not local or signed", init->auth);
    if (init->leaf_text && !cli_number("--leaf-bytes", init->leaf_text, ENG_LEAF_BYTES_MAX, &init->leaf_bytes))
        return CLI_USE;
    if (init->leaf_text && init->leaf_bytes < ENG_LEAF_BYTES_MIN)
        return cli_say(CLI_USE, "--leaf-bytes: %s is not a number from %u to %u", init->leaf_text, ENG_LEAF_BYTES_MIN,
                       ENG_LEAF_BYTES_MAX);
    if (!init->join != !init->id_text)
        return cli_say(CLI_USE, "--join and --ledger-id: one needs the other");
    if (init->join && init->ledger)
        return cli_say(CLI_USE, "--ledger: the name comes with the genesis that --join fetches");
    if (init->join && (protocol_check_link(init->join) != ENG_OK || strlen(init->join) >= CONFIG_URL_MAX))
        return cli_say(CLI_USE, "--join: %s is not an address (tcp://HOST:PORT)", init->join);
    if (init->id_text && !cli_digest("--ledger-id", init->id_text, init->ledger_id))
        return CLI_USE;
    size_t name_bytes = init->ledger ? strlen(init->ledger) : 1;
    if (name_bytes < 1 || name_bytes > GENESIS_NAME_MAX)
        return cli_say(CLI_USE, "--ledger: %zu bytes, a name has 1 to %u", name_bytes, GENESIS_NAME_MAX);
    return CLI_DONE;
}

/* Makes the directory, or sees that it is empty. */
static int take_directory(struct init *init)
{
    if (mkdir(init->directory, 0750) == 0) {
        init->made_directory = true;
        return CLI_DONE;
    }
    if (errno != EEXIST)
        return cli_say(CLI_UNABLE, "%s: %s", init->directory, strerror(errno));
    DIR *open_directory = opendir(init->directory);
    if (!open_directory)
        return cli_say(errno == ENOTDIR ? CLI_NO : CLI_UNABLE, "%s: %s", init->directory, strerror(errno));
    const struct dirent *entry;
    bool ours = faccessat(dirfd(open_directory), "genesis.json", F_OK, 0) == 0;
    int code = ours ? cli_say(CLI_NO, "%s: in use: it is a data directory already", init->directory) : CLI_DONE;
    while (code == CLI_DONE && (entry = readdir(open_directory)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, "lost+found") != 0)
            code = cli_say(CLI_NO, "%s: in use: it holds %s", init->directory, name);
    }
    closedir(open_directory);
    return code;
}

static int remove_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)kind;
    if (place->level > 0 && !(place->level == 1 && strcmp(path + place->base, "lost+found") == 0))
        remove(path);
    return 0;
}

/* The directory was empty when we took it: whatever is in it now is ours. */
static void take_back(const struct init *init)
{
    nftw(init->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (init->made_directory)
        rmdir(init->directory);
}

static enum eng_status make_genesis(struct init *init)
{
    if (!init->join)
        return genesis_make(init->ledger ? init->ledger : "pando", init->public_key, INIT_WINDOW_MS, NULL,
                            &init->genesis);
    char *json = NULL;
    size_t size = 0;
    enum eng_status status = replication_fetch_genesis(init->join, INIT_FETCH_MS, &json, &size);
    if (status == ENG_OK)
        status = genesis_parse(json, size, &init->genesis);
    free(json);
    if (status != ENG_OK)
        return status;
    if (memcmp(init->genesis.ledger_id, init->ledger_id, 32) == 0)
        return ENG_OK;
    char id[65];
    sodium_bin2hex(id, sizeof id, init->genesis.ledger_id, 32);
    return eng_fail(ENG_FOREIGN, "%s: its ledger id is %s, not the one of --ledger-id", init->join, id);
}

static enum eng_status write_new(struct disk *disk, const char *name, const char *text, size_t size)
{
    struct disk_file *file;
    enum eng_status status = disk_open(disk, name, DISK_CREATE | DISK_EXCLUSIVE, &file);
    if (status != ENG_OK)
        return status;
    status = disk_write(file, 0, text, size);
    if (status == ENG_OK)
        status = disk_sync(file);
    disk_file_close(&file);
    return status == ENG_OK ? disk_sync_dir(disk, "") : status;
}

static enum eng_status write_config(const struct init *init, struct disk *disk)
{
    char text[4096];
    int size = snprintf(
        text, sizeof text,
        "# Configuration of pandod for this directory. Every key is optional; what is commented out is the default.\n"
        "# `pandod --check-config --data DIR` says whether it is right. Sizes take K, M and G.\n"
        "\n"
        "[node]\n"
        "# With `pandod --data DIR` the socket is DIR/pando.ipc; `pando -d DIR` finds it there.\n"
        "# socket = ipc:///run/pando/pando.ipc\n"
        "# Who may connect to the socket: owner and group.\n"
        "# socket_mode = 0660\n"
        "# log_level = info\n"
        "\n"
        "[block]\n"
        "# A block is closed at the first of these; max_wait_ms = 0: as soon as the log is free.\n"
        "# max_txs = 4096\n"
        "# max_bytes = 4M\n"
        "# max_wait_ms = 5\n"
        "\n"
        "[retain]\n"
        "# How many of the last roots stay readable and provable (all: every one), and of the older ones every n-th.\n"
        "# blocks = 1024\n"
        "# every = 0\n"
        "\n"
        "[engine]\n"
        "# A checkpoint after this much log: more means fewer writes and a longer start.\n"
        "# checkpoint_log_bytes = 256M\n"
        "# Memory that may be locked for what is read most (0: none).\n"
        "# hot_bytes = 64M\n"
        "\n"
        "[replication]\n"
        "# Where followers pull from. Not encrypted in this version: other than loopback needs plaintext = yes.\n"
        "%s\n"
        "# plaintext = no\n"
        "%s%s\n",
        init->join ? "listen = none" : "# listen = tcp://127.0.0.1:7450",
        init->join
            ? "# The node this one follows; may be given several times, the next is tried when one fails.\nfollow = "
            : "# follow = tcp://127.0.0.1:7450",
        init->join ? init->join : "");
    if ((size_t)size >= sizeof text)
        return eng_fail(ENG_TOO_LARGE, "pando.conf: the address in it is too long");
    return write_new(disk, "pando.conf", text, (size_t)size);
}

/* State and log, at height 0: this is where the leaf size is fixed. */
static enum eng_status make_state(const struct init *init, struct disk *disk)
{
    struct config config;
    config_defaults(&config);
    const struct ledger_options options = {
        .disk = disk,
        .genesis = &init->genesis,
        .node_public = init->public_key,
        .node_secret = init->secret,
        .role = init->join ? LEDGER_FOLLOWER : LEDGER_LEADER,
        .block_max_txs = config.block_max_txs,
        .block_max_bytes = config.block_max_bytes,
        .block_max_wait_ms = config.block_max_wait_ms,
        .retain_blocks = config.retain_blocks,
        .retain_every = config.retain_every,
        .checkpoint_log_bytes = config.checkpoint_log_bytes,
        .leaf_bytes = (uint32_t)init->leaf_bytes,
        .create = true,
    };
    struct ledger *ledger;
    enum eng_status status = ledger_open(&options, &ledger);
    if (status == ENG_OK)
        ledger_close(&ledger, INIT_CLOSE_MS);
    return status;
}

static enum eng_status fill_directory(struct init *init)
{
    char path[CONFIG_PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/node.key", init->directory) >= sizeof path)
        return eng_fail(ENG_INVALID, "%.60s...: the path is too long", init->directory);
    struct disk *disk;
    enum eng_status status = disk_posix_open(init->directory, &disk);
    if (status != ENG_OK)
        return status;
    status = init->made_directory ? disk_posix_sync_name(init->directory) : ENG_OK;
    if (status == ENG_OK)
        status = disk_lock(disk, "LOCK");
    if (status == ENG_OK)
        status = key_file_create(path, init->public_key, init->secret);
    if (status == ENG_OK)
        status = make_genesis(init);
    if (status == ENG_OK)
        status = write_new(disk, "genesis.json", init->genesis.json, init->genesis.json_bytes);
    if (status == ENG_OK)
        status = make_state(init, disk);
    if (status == ENG_OK)
        status = write_config(init, disk);
    disk_close(&disk);
    return status;
}

static int make(struct init *init)
{
    sigset_t interrupts, before;
    sigemptyset(&interrupts);
    sigaddset(&interrupts, SIGINT);
    sigaddset(&interrupts, SIGTERM);
    sigaddset(&interrupts, SIGHUP);
    sigprocmask(SIG_BLOCK, &interrupts, &before);
    umask(027);
    int code = take_directory(init);
    if (code == CLI_DONE) {
        enum eng_status status = fill_directory(init);
        if (status != ENG_OK) {
            code = cli_fail(status);
            take_back(init);
        }
    }
    sodium_memzero(init->secret, sizeof init->secret);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return code;
}

int cli_init(struct cli *cli, int argc, char **argv)
{
    struct init init = {0};
    const struct cli_option options[] = {{.name = "--ledger", .value = &init.ledger},
                                         {.name = "--leaf-bytes", .value = &init.leaf_text},
                                         {.name = "--auth", .value = &init.auth},
                                         {.name = "--module", .value = &init.module},
                                         {.name = "--join", .value = &init.join},
                                         {.name = "--ledger-id", .value = &init.id_text},
                                         {0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest != 1 || !argv[1][0])
        return cli_usage("init", "one DIR is needed");
    init.directory = argv[1];
    code = check_options(&init);
    if (code == CLI_DONE)
        code = make(&init);
    if (code == CLI_DONE) {
        char id[65], key[65];
        sodium_bin2hex(id, sizeof id, init.genesis.ledger_id, 32);
        sodium_bin2hex(key, sizeof key, init.public_key, 32);
        printf("%s: %s of ledger %s, id %s, node key %s\n", init.directory, init.join ? "follower" : "leader",
               init.genesis.ledger, id, key);
        if (init.join && !config_url_is_local(init.join))
            printf("%s: links are not encrypted in this version: to follow %s set plaintext = yes in pando.conf\n",
                   init.directory, init.join);
        code = cli_flush(CLI_DONE);
    }
    genesis_release(&init.genesis);
    return code;
}
