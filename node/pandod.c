/*
 * pandod, the ledger node: from the command line to a node that runs, and back.
 *
 *     pandod --config FILE | --data DIR [--listen URL] [--follow URL]... [--check-config]
 *
 * Happy path: configuration, lock of the data directory, genesis and node key, ledger (replays its log), source (if it
 * listens), server (the IPC socket), follower (if it follows: then it is no leader), READY; then the main thread waits
 * for signals and looks after the watchdog and failures once a second. SIGTERM and SIGINT: the server stops receiving
 * and answers what it has, the follower finishes its block, the ledger makes a checkpoint if there is time; exit 0
 * within CLOSE_MS, by force if need be: whatever was acknowledged is in the log. SIGHUP: the file is read again; the
 * log level changes, of everything else that changed it says that it needs a restart.
 *
 * Ways to fail, each one line "pandod: WHAT: WHY" and an exit code: 2 wrong use or configuration; 1 a directory of
 * another ledger or newer version; 3 not able now (in use by another daemon, the socket cannot be made, no space);
 * 4 damaged data. When the ledger stops taking blocks (P1, P9) the daemon says so and goes on serving reads; so it does
 * when the ledger waits for disk space or for a disk that does not answer, and when that is over.
 *
 * Invariants: all signals are blocked in every thread from the start and taken by the main thread alone; no fork; what
 * was opened is closed in reverse order, also after a failed start.
 */
#include "daemon_log.h"
#include "daemon_replication.h"
#include "protocol.h"
#include "server.h"

#include "pando/config.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#define CLOSE_MS 9000         /* of the 10 s of the contract */
#define CLOSE_ANSWERS_MS 3000 /* of them, for requests that were received */
#define PROGRESS_MS 5000
#define STALL_MS 10000 /* without progress: worth a line */
#define QUIET_LOOKS 5  /* so many looks without trouble, and a wait is over */

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USE = 2, EXIT_UNABLE = 3, EXIT_DAMAGED = 4 };

struct arguments {
    const char *config, *data, *listen;
    const char *follow[CONFIG_FOLLOW_MAX];
    size_t follow_count;
    bool check_config, help, version;
};

struct node {
    struct arguments arguments;
    struct config config;
    struct disk *disk;
    struct genesis genesis;
    uint8_t public_key[32], secret[64];
    struct ledger *ledger;
    struct replication_ledger table;
    struct source *source;
    struct follower *follower;
    struct server *server;
    struct status_sources sources;
    uint64_t progress_ms;
    bool failure_said, follower_failed_said;
    unsigned waits_said; /* not 0: that the ledger waits; counts down */
};

/* ---- configuration ---- */

static int wrong_use(const char *what, const char *why)
{
    daemon_log(LOG_ERR, "%s: %s; see `pandod --help`", what, why);
    return EXIT_USE;
}

/* The value of an option, --name VALUE or --name=VALUE; NULL if argv[*at] is not that option. */
static const char *option_value(int argc, char **argv, int *at, const char *name, bool *missing)
{
    size_t length = strlen(name);
    if (strncmp(argv[*at], name, length) != 0)
        return NULL;
    if (argv[*at][length] == '=')
        return argv[*at] + length + 1;
    if (argv[*at][length] != 0)
        return NULL;
    if (*at + 1 < argc)
        return argv[++*at];
    *missing = true;
    return "";
}

static int read_arguments(int argc, char **argv, struct arguments *arguments)
{
    for (int at = 1; at < argc; at++) {
        const char *value, **target = NULL;
        bool missing = false;
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0)
            arguments->help = true;
        else if (strcmp(argv[at], "--version") == 0)
            arguments->version = true;
        else if (strcmp(argv[at], "--check-config") == 0)
            arguments->check_config = true;
        else if ((value = option_value(argc, argv, &at, "--config", &missing)))
            target = &arguments->config;
        else if ((value = option_value(argc, argv, &at, "--data", &missing)))
            target = &arguments->data;
        else if ((value = option_value(argc, argv, &at, "--listen", &missing)))
            target = &arguments->listen;
        else if ((value = option_value(argc, argv, &at, "--follow", &missing))) {
            if (arguments->follow_count == CONFIG_FOLLOW_MAX)
                return wrong_use("--follow", "given too often");
            target = &arguments->follow[arguments->follow_count++];
        } else
            return wrong_use(argv[at], "unknown argument");
        if (missing)
            return wrong_use(argv[at], "a value must follow");
        if (target && *target)
            return wrong_use(argv[at], "given twice");
        if (target)
            *target = value;
    }
    if (arguments->help || arguments->version)
        return EXIT_DONE;
    if (!arguments->config == !arguments->data)
        return wrong_use("arguments", "--config FILE or --data DIR is needed, and not both");
    return EXIT_DONE;
}

static void print_help(void)
{
    puts("usage: pandod --config FILE | --data DIR [--listen URL] [--follow URL]... [--check-config]\n"
         "\n"
         "Runs a ledger node in the foreground; `pando init` makes a data directory.\n"
         "\n"
         "  --config FILE    the configuration\n"
         "  --data DIR       the data directory, with DIR/pando.conf; the socket is then ipc://DIR/pando.ipc\n"
         "  --listen URL     where followers pull from, in place of replication.listen (none: nowhere)\n"
         "  --follow URL     follow this node, in place of replication.follow; may be given several times\n"
         "  --check-config   say whether the configuration is right, and exit (0 or 2)\n"
         "  --version        print the version\n"
         "\n"
         "SIGTERM: answer what was accepted, checkpoint, exit 0 within 10 s. SIGHUP: read the configuration again.\n"
         "Exit codes: 0 done, 1 another ledger's or a newer version's data, 2 wrong use or configuration,\n"
         "3 not able now (in use, no permission, no space), 4 damaged data.");
}

/* File, then command line, then what concerns several keys. */
static bool read_config(const struct arguments *arguments, struct config *config)
{
    char path[CONFIG_PATH_MAX], error[CONFIG_PATH_MAX + 256];
    const char *file = arguments->config;
    config_defaults(config);
    if (arguments->data) {
        if ((size_t)snprintf(path, sizeof path, "%s/pando.conf", arguments->data) >= sizeof path) {
            daemon_log(LOG_ERR, "--data: the path is too long");
            return false;
        }
        file = path;
    }
    if (!config_read(config, file, arguments->data, error, sizeof error)) {
        daemon_log(LOG_ERR, "%s", error);
        return false;
    }
    if (arguments->listen && strlen(arguments->listen) < sizeof config->listen)
        snprintf(config->listen, sizeof config->listen, "%s",
                 strcmp(arguments->listen, "none") == 0 ? "" : arguments->listen);
    if (arguments->follow_count)
        config->follow_count = arguments->follow_count;
    bool fits = !arguments->listen || strlen(arguments->listen) < sizeof config->listen;
    for (size_t i = 0; i < arguments->follow_count; i++) {
        fits &= strlen(arguments->follow[i]) < sizeof config->follow[i];
        snprintf(config->follow[i], sizeof config->follow[i], "%s", arguments->follow[i]);
    }
    if (!fits) {
        daemon_log(LOG_ERR, "--listen or --follow: an address has over %u bytes", CONFIG_URL_MAX - 1);
        return false;
    }
    if (!config_check(config, error, sizeof error)) {
        daemon_log(LOG_ERR, "%s", error);
        return false;
    }
    return true;
}

/* "none" is read as "". */
static bool listens(const struct config *config)
{
    return config->listen[0] != 0;
}

/* The addresses must be some, before anything is opened. */
static bool check_addresses(const struct config *config)
{
    bool good = protocol_check_url(config->socket) == ENG_OK;
    if (good && listens(config))
        good = protocol_check_link(config->listen) == ENG_OK;
    for (size_t i = 0; good && i < config->follow_count; i++)
        good = protocol_check_link(config->follow[i]) == ENG_OK;
    if (!good)
        daemon_log(LOG_ERR, "%s", eng_error());
    return good;
}

/* SIGHUP. */
static void reload(struct node *node)
{
    struct config *config = calloc(1, sizeof *config);
    sd_notify(0, "RELOADING=1");
    if (!config || !read_config(&node->arguments, config)) {
        daemon_log(LOG_WARNING, "reload: the configuration stays as it was");
    } else {
        node->config.log_level = config->log_level;
        daemon_log_level(config->log_level);
        const struct config *old = &node->config;
        const struct {
            const char *key;
            bool changed;
        } keys[] = {
            {"node.data", strcmp(old->data, config->data) != 0},
            {"node.socket", strcmp(old->socket, config->socket) != 0},
            {"node.socket_mode", old->socket_mode != config->socket_mode},
            {"block.max_txs", old->block_max_txs != config->block_max_txs},
            {"block.max_bytes", old->block_max_bytes != config->block_max_bytes},
            {"block.max_wait_ms", old->block_max_wait_ms != config->block_max_wait_ms},
            {"retain.blocks", old->retain_blocks != config->retain_blocks},
            {"retain.every", old->retain_every != config->retain_every},
            {"engine.checkpoint_log_bytes", old->checkpoint_log_bytes != config->checkpoint_log_bytes},
            {"engine.hot_bytes", old->hot_bytes != config->hot_bytes},
            {"replication.listen", strcmp(old->listen, config->listen) != 0},
            {"replication.follow",
             old->follow_count != config->follow_count || memcmp(old->follow, config->follow, sizeof old->follow) != 0},
            {"replication.plaintext", old->plaintext != config->plaintext},
        };
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (keys[i].changed)
                daemon_log(LOG_WARNING, "reload: %s cannot change while running, restart for it", keys[i].key);
        daemon_log(LOG_NOTICE, "reload: done");
    }
    sd_notify(0, "READY=1");
    free(config);
}

/* ---- opening ---- */

static int exit_of(enum eng_status status)
{
    switch (status) {
    case ENG_OK:
        return EXIT_DONE;
    case ENG_INVALID:
        return EXIT_USE;
    case ENG_DAMAGED:
    case ENG_CONFLICT:
        return EXIT_DAMAGED;
    case ENG_FOREIGN:
    case ENG_VERSION:
    case ENG_EXISTS:
    case ENG_TYPE:
        return EXIT_REFUSED;
    case ENG_NOT_FOUND:
    case ENG_TOO_LARGE:
    case ENG_BUSY:
    case ENG_TIMEOUT:
    case ENG_CLOSED:
    case ENG_GONE:
    case ENG_FULL:
    case ENG_NO_MEMORY:
    case ENG_NO_IDS:
    case ENG_NO_READERS:
    case ENG_IO:
    case ENG_LOCKED:
        return EXIT_UNABLE;
    }
    return EXIT_UNABLE;
}

/* SIGTERM or SIGINT while there is nothing to close: the data directory is as after a crash, which is fine. */
static void end_if_told(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigtimedwait(&set, NULL, &(struct timespec){0, 0}) > 0) {
        daemon_log(LOG_NOTICE, "stopped before it was ready");
        sd_notify(0, "STOPPING=1");
        _exit(EXIT_DONE);
    }
}

static void on_warning(void *context, const char *line)
{
    (void)context;
    daemon_log(LOG_WARNING, "%s", line);
}

static void on_replay(void *context, uint64_t done, uint64_t total)
{
    struct node *node = context;
    end_if_told();
    uint64_t now_ms = status_clock_ms();
    if (now_ms - node->progress_ms < PROGRESS_MS)
        return;
    node->progress_ms = now_ms;
    unsigned percent = total ? (unsigned)(done * 100 / total) : 100;
    daemon_log(LOG_INFO, "replaying the log: %u %% of %llu bytes", percent, (unsigned long long)total);
    sd_notifyf(0, "EXTEND_TIMEOUT_USEC=60000000\nWATCHDOG=1\nSTATUS=replaying the log: %u %%", percent);
}

static enum eng_status read_genesis(struct node *node)
{
    struct disk_file *file;
    uint64_t size = 0;
    enum eng_status status = disk_open(node->disk, "genesis.json", DISK_READ, &file);
    if (status == ENG_NOT_FOUND)
        return eng_fail(ENG_INVALID, "%s: not a data directory: no genesis.json (see `pando init`)", node->config.data);
    if (status != ENG_OK)
        return status;
    status = disk_size(file, &size);
    if (status == ENG_OK && size > REPLICATION_GENESIS_BYTES_MAX)
        status = eng_fail(ENG_DAMAGED, "%s/genesis.json: %llu bytes are too many", node->config.data,
                          (unsigned long long)size);
    char *text = status == ENG_OK ? malloc(size + 1) : NULL;
    if (status == ENG_OK && !text)
        status = eng_fail(ENG_NO_MEMORY, "genesis.json: out of memory");
    if (status == ENG_OK)
        status = disk_read(file, 0, text, size);
    disk_file_close(&file);
    if (status == ENG_OK && genesis_parse(text, size, &node->genesis) != ENG_OK) {
        char why[400];
        snprintf(why, sizeof why, "%s", eng_error());
        status = eng_fail(ENG_DAMAGED, "%s/genesis.json: %s", node->config.data, why);
    }
    free(text);
    return status;
}

static enum eng_status open_ledger(struct node *node)
{
    const struct config *config = &node->config;
    const struct ledger_options options = {
        .disk = node->disk,
        .genesis = &node->genesis,
        .node_public = node->public_key,
        .node_secret = node->secret,
        .role = config->follow_count ? LEDGER_FOLLOWER : LEDGER_LEADER,
        .block_max_txs = config->block_max_txs,
        .block_max_bytes = config->block_max_bytes,
        .block_max_wait_ms = config->block_max_wait_ms,
        .retain_blocks = config->retain_blocks,
        .retain_every = config->retain_every,
        .checkpoint_log_bytes = config->checkpoint_log_bytes,
        .hot_bytes = config->hot_bytes,
        .warn = on_warning,
        .progress = on_replay,
        .progress_context = node,
    };
    node->progress_ms = status_clock_ms(); /* a short replay says nothing */
    return ledger_open(&options, &node->ledger);
}

static enum eng_status open_data(struct node *node)
{
    char path[CONFIG_PATH_MAX + 16];
    struct stat facts;
    if (stat(node->config.data, &facts) != 0)
        return eng_fail(errno == ENOENT ? ENG_INVALID : ENG_IO, "%s: %s", node->config.data,
                        errno == ENOENT ? "no such directory (see `pando init`)" : strerror(errno));
    enum eng_status status = disk_posix_open(node->config.data, &node->disk);
    if (status != ENG_OK)
        return status;
    if (!disk_exists(node->disk, "genesis.json"))
        return eng_fail(ENG_INVALID, "%s: not a data directory: no genesis.json (see `pando init`)", node->config.data);
    status = disk_lock(node->disk, "LOCK");
    if (status == ENG_LOCKED)
        return eng_fail(ENG_LOCKED, "%s: another daemon is running on it", node->config.data);
    if (status == ENG_OK)
        status = read_genesis(node);
    snprintf(path, sizeof path, "%s/node.key", node->config.data);
    if (status == ENG_OK)
        status = key_file_read(path, node->public_key, node->secret);
    if (status == ENG_OK)
        status = open_ledger(node);
    if (status == ENG_NOT_FOUND) { /* genesis.json is there, so what is not is lost */
        char line[512];
        snprintf(line, sizeof line, "%s", eng_error());
        status = eng_fail(ENG_DAMAGED, "%s", line);
    }
    return status;
}

static enum eng_status open_node(struct node *node)
{
    const struct config *config = &node->config;
    enum eng_status status = open_data(node);
    if (status != ENG_OK)
        return status;
    daemon_replication(node->ledger, &node->genesis, node->public_key, &node->table);
    node->sources = (struct status_sources){.ledger = node->ledger,
                                            .genesis = &node->genesis,
                                            .node_public = node->public_key,
                                            .started_ms = status_clock_ms()};
    if (listens(config)) {
        status = source_open(&node->table, config->listen, &node->source);
        if (status != ENG_OK)
            return status;
    }
    node->sources.source = node->source;
    if (config->follow_count) {
        const char *urls[CONFIG_FOLLOW_MAX];
        for (size_t i = 0; i < config->follow_count; i++)
            urls[i] = config->follow[i];
        status = follower_open(&node->table, urls, config->follow_count, &node->follower);
        if (status != ENG_OK)
            return status;
    }
    node->sources.follower = node->follower;
    return server_open(config->socket, config->socket_mode, &node->sources, &node->server);
}

static void say_ready(struct node *node)
{
    struct ledger_status facts;
    ledger_status(node->ledger, &facts);
    char root[65], id[65], key[65];
    sodium_bin2hex(root, sizeof root, facts.state.digest, 32);
    sodium_bin2hex(id, sizeof id, node->genesis.ledger_id, 32);
    sodium_bin2hex(key, sizeof key, node->public_key, 32);
    daemon_log(LOG_NOTICE, "ledger %s, id %s", node->genesis.ledger, id);
    daemon_log(LOG_NOTICE, "node key %s", key);
    daemon_log(LOG_NOTICE, "socket %s", node->config.socket);
    if (node->source)
        daemon_log(LOG_NOTICE, "followers pull from %s", node->config.listen);
    for (size_t i = 0; i < node->config.follow_count; i++)
        daemon_log(LOG_NOTICE, "follows %s", node->config.follow[i]);
    daemon_log(LOG_NOTICE, "ready: %s at height %llu, root %s", node->follower ? "follower" : "leader",
               (unsigned long long)facts.height, root);
    sd_notifyf(0, "READY=1\nSTATUS=%s at height %llu", node->follower ? "follower" : "leader",
               (unsigned long long)facts.height);
}

/* ---- running ---- */

/* Says that the ledger waits for the disk, and when it is over: a line each, although it may seem to go on between two
 * tries. */
static void look_for_waits(struct node *node)
{
    char text[512];
    if (!node->failure_said && ledger_waits(node->ledger, STALL_MS, text, sizeof text)) {
        if (!node->waits_said)
            daemon_log(LOG_ERR, "waits, takes no more blocks until it can go on: %s", text);
        node->waits_said = QUIET_LOOKS;
    } else if (node->waits_said && --node->waits_said == 0 && !node->failure_said) {
        daemon_log(LOG_NOTICE, "waits no more");
    }
}

/* Once a second: says what went wrong since, once; tells systemd how it is. */
static void look_after(struct node *node)
{
    char text[512];
    look_for_waits(node);
    if (!node->failure_said && ledger_failure(node->ledger, text, sizeof text) != ENG_OK) {
        node->failure_said = true;
        daemon_log(LOG_CRIT, "takes no more blocks, reads go on: %s", text);
    }
    struct follower_status follower = {0};
    if (node->follower)
        follower_status(node->follower, &follower);
    bool failed = node->follower && follower.state == FOLLOWER_FAILED;
    if (failed && !node->follower_failed_said)
        daemon_log(LOG_CRIT, "follows no more, reads go on: %s", follower.error);
    node->follower_failed_said = failed;
    sd_notifyf(0, "WATCHDOG=1\nSTATUS=%s at height %llu%s", node->follower ? "follower" : "leader",
               (unsigned long long)ledger_height(node->ledger, NULL),
               node->failure_said || failed ? ", FAILED: see the log"
               : node->waits_said           ? ", WAITS: see the log"
                                            : "");
}

static void run(struct node *node, const sigset_t *signals)
{
    uint64_t watchdog_us = 0;
    long pause_ms = 1000;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 && watchdog_us / 3000 < (uint64_t)pause_ms)
        pause_ms = (long)(watchdog_us / 3000) + 1;
    for (;;) {
        const struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000L};
        int signal_number = sigtimedwait(signals, NULL, &pause);
        if (signal_number == SIGTERM || signal_number == SIGINT) {
            daemon_log(LOG_NOTICE, "signal %s: closing", signal_number == SIGTERM ? "TERM" : "INT");
            return;
        }
        if (signal_number == SIGHUP)
            reload(node);
        look_after(node);
    }
}

/* ---- closing ---- */

static void *end_by_force(void *context)
{
    const struct timespec limit = {CLOSE_MS / 1000, CLOSE_MS % 1000 * 1000000L};
    (void)context;
    nanosleep(&limit, NULL);
    daemon_log(LOG_WARNING, "closing took over %d ms: ending now; the next start replays the log", CLOSE_MS);
    _exit(EXIT_DONE);
}

static int left_ms(uint64_t started_ms, int budget_ms)
{
    int64_t left = budget_ms - (int64_t)(status_clock_ms() - started_ms);
    return left > 0 ? (int)left : 0;
}

/* Reverse order of opening; also after a failed start. */
static void close_node(struct node *node)
{
    uint64_t started_ms = status_clock_ms();
    pthread_t forcer;
    sd_notify(0, "STOPPING=1\nSTATUS=closing");
    if (node->server && pthread_create(&forcer, NULL, end_by_force, NULL) == 0)
        pthread_detach(forcer);
    if (node->server && !server_stop(node->server, CLOSE_ANSWERS_MS))
        daemon_log(LOG_WARNING, "some requests could not be answered in time");
    if (node->follower)
        follower_close(&node->follower);
    if (node->source)
        source_close(&node->source);
    if (node->ledger)
        ledger_close(&node->ledger, left_ms(started_ms, CLOSE_MS - 1000));
    server_close(&node->server);
    disk_close(&node->disk);
    genesis_release(&node->genesis);
    sodium_memzero(node->secret, sizeof node->secret);
}

/* Connections are many, and the log must not lack a file for them. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        daemon_log(LOG_WARNING, "the limit of open files stays as it is: %s", strerror(errno));
}

static void block_signals(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
    static struct node node;
    sigset_t signals;
    daemon_log_open();
    int code = read_arguments(argc, argv, &node.arguments);
    if (code != EXIT_DONE)
        return code;
    if (node.arguments.help || node.arguments.version) {
        if (node.arguments.help)
            print_help();
        else
            printf("pandod %s\n", PANDO_VERSION);
        return fflush(stdout) == 0 ? EXIT_DONE : EXIT_UNABLE;
    }
    if (!read_config(&node.arguments, &node.config) || !check_addresses(&node.config))
        return EXIT_USE;
    if (node.arguments.check_config)
        return EXIT_DONE;
    daemon_log_level(node.config.log_level);
    if (!digest_init()) {
        daemon_log(LOG_ERR, "libsodium: cannot be initialised");
        return EXIT_UNABLE;
    }
    block_signals(&signals);
    raise_file_limit();
    umask(027);
    enum eng_status status = open_node(&node);
    if (status != ENG_OK) {
        daemon_log(LOG_ERR, "%s", eng_error());
        code = exit_of(status);
    } else {
        say_ready(&node);
        run(&node, &signals);
    }
    close_node(&node);
    if (status == ENG_OK)
        daemon_log(LOG_NOTICE, "closed");
    return code;
}
