/*
 * pando.conf: what a node is told. Parsed with inih, but line by line under our own eyes.
 *
 * The happy path: config_read() fills in the defaults, opens the file, and hands inih one line after the other; for
 * each key inih calls back, the table below says which function takes the value and whether the key may be repeated.
 * Then config_check() looks at what concerns several keys. Nothing else is touched: no directory, no socket.
 *
 * inih is lenient where a configuration must not be. So the function that hands it lines
 *   - strips blanks in front (to inih an indented line continues the value before),
 *   - refuses lines that do not fit its buffer (it would cut them in two) and bytes of 0 (it would stop there),
 *   - checks section headings (it calls back for keys only, and ignores what follows the ']'),
 *   - counts, so that an error can name its line,
 * and reading stops at the first error.
 *
 * Keys of the interface that this version does not implement are in the table with the one value that means off; any
 * other value is an error that says so. Being silent about them would be a lie about what the node does.
 *
 * Failures: false and one line, "FILE:LINE: what is wrong"; "FILE: why" if it cannot be read at all.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

#include <ini.h>

#include "pando/config.h"

#define SOCKET_PATH_MAX 107 /* what sockaddr_un holds, with its NUL */
#define MODE_MAX 0777u

struct reading {
    struct config *config;
    const char *path;
    FILE *file;
    unsigned line;
    uint64_t seen; /* bit i: key i of the table was given */
    bool failed;
    char *error;
    size_t error_bytes;
};

__attribute__((format(printf, 2, 3))) static bool line_fail(struct reading *reading, const char *format, ...)
{
    if (reading->failed)
        return false;
    reading->failed = true;
    int length = snprintf(reading->error, reading->error_bytes, "%s:%u: ", reading->path, reading->line);
    if (length < 0 || (size_t)length >= reading->error_bytes)
        return false;
    va_list args;
    va_start(args, format);
    vsnprintf(reading->error + length, reading->error_bytes - (size_t)length, format, args);
    va_end(args);
    return false;
}

__attribute__((format(printf, 3, 4))) static bool check_fail(char *error, size_t error_bytes, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error, error_bytes, format, args);
    va_end(args);
    return false;
}

/* ---- values ---- */

static bool parse_number(const char *text, uint64_t *number)
{
    if (*text == '\0')
        return false;
    uint64_t value = 0;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *number = value;
    return true;
}

static bool parse_size(const char *text, uint64_t *size)
{
    char digits[32];
    size_t length = strlen(text);
    unsigned shift = 0;
    if (length == 0 || length >= sizeof digits)
        return false;
    memcpy(digits, text, length + 1);
    switch (digits[length - 1]) {
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    }
    if (shift > 0)
        digits[length - 1] = '\0';
    return parse_number(digits, size) && !__builtin_mul_overflow(*size, UINT64_C(1) << shift, size);
}

static bool set_ranged(struct reading *reading, const char *value, uint64_t low, uint64_t high, bool size,
                       uint64_t *number)
{
    if (!(size ? parse_size(value, number) : parse_number(value, number)))
        return line_fail(reading, "\"%s\" is not a number%s", value, size ? " of bytes (K, M and G may follow)" : "");
    if (*number < low || *number > high)
        return line_fail(reading, "%s is not from %" PRIu64 " to %" PRIu64, value, low, high);
    return true;
}

static bool set_text(struct reading *reading, const char *value, char *text, size_t text_bytes)
{
    if (*value == '\0')
        return line_fail(reading, "the value is empty");
    if (strlen(value) >= text_bytes)
        return line_fail(reading, "the value has more than %zu bytes", text_bytes - 1);
    memcpy(text, value, strlen(value) + 1);
    return true;
}

/* ---- addresses ---- */

/* Takes "tcp://HOST:PORT" apart: the host without its brackets, false if it is not of this form. */
static bool tcp_host(const char *url, char host[CONFIG_URL_MAX])
{
    if (strncmp(url, "tcp://", 6) != 0 || strlen(url) >= CONFIG_URL_MAX)
        return false;
    const char *start = url + 6;
    bool bracket = *start == '[';
    const char *end = bracket ? strchr(start, ']') : strchr(start, ':');
    if (end == NULL || end == start + bracket)
        return false;
    const char *colon = bracket ? end + 1 : end;
    uint64_t port;
    if (*colon != ':' || !parse_number(colon + 1, &port) || port > UINT16_MAX)
        return false;
    size_t length = (size_t)(end - start) - bracket;
    memcpy(host, start + bracket, length);
    host[length] = '\0';
    struct in6_addr address;
    if (bracket)
        return inet_pton(AF_INET6, host, &address) == 1;
    return strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_*") == length;
}

static bool is_ipc(const char *url)
{
    return strncmp(url, "ipc://", 6) == 0 && url[6] != '\0';
}

bool config_url_is_local(const char *url)
{
    char host[CONFIG_URL_MAX];
    struct in_addr address;
    struct in6_addr address6;
    if (is_ipc(url))
        return true;
    if (!tcp_host(url, host))
        return false;
    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &address) == 1)
        return ntohl(address.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &address6) == 1 && IN6_IS_ADDR_LOOPBACK(&address6);
}

static bool check_url(struct reading *reading, const char *url)
{
    char host[CONFIG_URL_MAX];
    if (strlen(url) >= CONFIG_URL_MAX)
        return line_fail(reading, "the address has more than %d bytes", CONFIG_URL_MAX - 1);
    if (!is_ipc(url) && !tcp_host(url, host))
        return line_fail(reading, "\"%s\" is not an address (tcp://HOST:PORT or ipc://PATH)", url);
    return true;
}

/* ---- one function a key ---- */

static bool set_data(struct reading *reading, const char *value)
{
    return set_text(reading, value, reading->config->data, sizeof reading->config->data);
}

static bool set_socket(struct reading *reading, const char *value)
{
    if (!is_ipc(value))
        return line_fail(reading, "\"%s\" is not a local socket (ipc://PATH)", value);
    return set_text(reading, value, reading->config->socket, sizeof reading->config->socket);
}

static bool set_socket_mode(struct reading *reading, const char *value)
{
    size_t length = strlen(value);
    if (length == 0 || length > 4 || strspn(value, "01234567") != length || strtoul(value, NULL, 8) > MODE_MAX)
        return line_fail(reading, "\"%s\" is not a file mode (octal, up to 0777)", value);
    reading->config->socket_mode = (unsigned)strtoul(value, NULL, 8);
    return true;
}

static bool set_auth(struct reading *reading, const char *value)
{
    if (strcmp(value, "local") != 0)
        return line_fail(reading, "\"%s\": this version has local only", value);
    return set_text(reading, value, reading->config->auth, sizeof reading->config->auth);
}

static bool set_log_level(struct reading *reading, const char *value)
{
    static const char *const names[] = {
        [LOG_EMERG] = "emerg",     [LOG_ALERT] = "alert",   [LOG_CRIT] = "crit", [LOG_ERR] = "err",
        [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice", [LOG_INFO] = "info", [LOG_DEBUG] = "debug",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(value, names[i]) == 0) {
            reading->config->log_level = (int)i;
            return true;
        }
    }
    return line_fail(reading, "\"%s\" is not one of emerg alert crit err warning notice info debug", value);
}

static bool set_max_txs(struct reading *reading, const char *value)
{
    uint64_t number = 0;
    if (!set_ranged(reading, value, 1, 65536, false, &number))
        return false;
    reading->config->block_max_txs = (uint32_t)number;
    return true;
}

static bool set_max_bytes(struct reading *reading, const char *value)
{
    return set_ranged(reading, value, 64u << 10, 64u << 20, true, &reading->config->block_max_bytes);
}

static bool set_max_wait(struct reading *reading, const char *value)
{
    uint64_t number = 0;
    if (!set_ranged(reading, value, 0, 10000, false, &number))
        return false;
    reading->config->block_max_wait_ms = (uint32_t)number;
    return true;
}

static bool set_retain_blocks(struct reading *reading, const char *value)
{
    if (strcmp(value, "all") == 0) {
        reading->config->retain_blocks = 0;
        return true;
    }
    return set_ranged(reading, value, 0, INT64_MAX, false, &reading->config->retain_blocks);
}

static bool set_retain_every(struct reading *reading, const char *value)
{
    return set_ranged(reading, value, 0, INT64_MAX, false, &reading->config->retain_every);
}

static bool set_checkpoint(struct reading *reading, const char *value)
{
    return set_ranged(reading, value, 64u << 10, INT64_MAX, true, &reading->config->checkpoint_log_bytes);
}

static bool set_hot(struct reading *reading, const char *value)
{
    return set_ranged(reading, value, 0, INT64_MAX, true, &reading->config->hot_bytes);
}

static bool set_listen(struct reading *reading, const char *value)
{
    if (*value == '\0' || strcmp(value, "none") == 0) {
        reading->config->listen[0] = '\0';
        return true;
    }
    return check_url(reading, value) &&
           set_text(reading, value, reading->config->listen, sizeof reading->config->listen);
}

static bool set_follow(struct reading *reading, const char *value)
{
    struct config *config = reading->config;
    if (!check_url(reading, value))
        return false;
    if (config->follow_count == CONFIG_FOLLOW_MAX)
        return line_fail(reading, "more than %d addresses to follow", CONFIG_FOLLOW_MAX);
    return set_text(reading, value, config->follow[config->follow_count++], CONFIG_URL_MAX);
}

static bool set_plaintext(struct reading *reading, const char *value)
{
    bool yes = strcmp(value, "yes") == 0;
    if (!yes && strcmp(value, "no") != 0)
        return line_fail(reading, "\"%s\" is not yes or no", value);
    reading->config->plaintext = yes;
    return true;
}

/* ---- the table ---- */

struct key {
    const char *section, *name;
    bool (*set)(struct reading *reading, const char *value);
    const char *off; /* set is NULL: not in this version; the only value it may have (NULL: none) */
};

static const struct key keys[] = {
    {"node", "data", set_data, NULL},
    {"node", "socket", set_socket, NULL},
    {"node", "socket_mode", set_socket_mode, NULL},
    {"node", "auth", set_auth, NULL},
    {"node", "log_level", set_log_level, NULL},
    {"block", "max_txs", set_max_txs, NULL},
    {"block", "max_bytes", set_max_bytes, NULL},
    {"block", "max_wait_ms", set_max_wait, NULL},
    {"retain", "blocks", set_retain_blocks, NULL},
    {"retain", "every", set_retain_every, NULL},
    {"retain", "archive", NULL, "no"},
    {"retain", "archive_horizon", NULL, "0"},
    {"engine", "io", NULL, "buffered"},
    {"engine", "checkpoint_log_bytes", set_checkpoint, NULL},
    {"engine", "hot_bytes", set_hot, NULL},
    {"engine", "cache_bytes", NULL, "0"},
    {"replication", "listen", set_listen, NULL},
    {"replication", "follow", set_follow, NULL},
    {"replication", "mode", NULL, "diff"},
    {"replication", "sync_followers", NULL, "0"},
    {"replication", "allow", NULL, "any"},
    {"replication", "peers", NULL, NULL},
    {"replication", "plaintext", set_plaintext, NULL},
    {"http", "listen", NULL, "none"},
    {"arbiter", "kind", NULL, "none"},
    {"arbiter", "endpoints", NULL, NULL},
    {"arbiter", "lease_ms", NULL, NULL},
};
#define KEYS (sizeof keys / sizeof *keys)
_Static_assert(KEYS <= 64, "one bit a key");

static bool set_off(struct reading *reading, const struct key *key, const char *value)
{
    if (key->off == NULL)
        return line_fail(reading, "[%s] %s: this version does not have it", key->section, key->name);
    if (strcmp(value, key->off) != 0)
        return line_fail(reading, "[%s] %s = %s: this version has %s only", key->section, key->name, value, key->off);
    return true;
}

/* Called by inih for each "name = value"; 0 is its word for failure. */
static int take_key(void *context, const char *section, const char *name, const char *value)
{
    struct reading *reading = context;
    for (size_t i = 0; i < KEYS && !reading->failed; i++) {
        const struct key *key = &keys[i];
        if (strcmp(section, key->section) != 0 || strcmp(name, key->name) != 0)
            continue;
        if ((reading->seen & UINT64_C(1) << i) != 0 && key->set != set_follow)
            return line_fail(reading, "[%s] %s is given twice", section, name);
        reading->seen |= UINT64_C(1) << i;
        if (strstr(value, " #") != NULL || strstr(value, "\t#") != NULL)
            return line_fail(reading, "a comment behind a value begins with ;");
        return key->set != NULL ? key->set(reading, value) : set_off(reading, key, value);
    }
    if (*section == '\0')
        return line_fail(reading, "%s stands before any [section]", name);
    return line_fail(reading, "[%s] has no key %s", section, name);
}

/* ---- the file ---- */

/* "[name]", then nothing or a comment; inih itself takes anything behind it. */
static bool check_heading(struct reading *reading, const char *line)
{
    const char *end = strchr(line, ']');
    if (end == NULL)
        return line_fail(reading, "a section without its ]");
    const char *rest = end + 1 + strspn(end + 1, " \t\r\n");
    if (*rest != '\0' && *rest != ';' && *rest != '#')
        return line_fail(reading, "something behind the ]");
    size_t length = (size_t)(end - line) - 1;
    for (size_t i = 0; i < KEYS; i++)
        if (strlen(keys[i].section) == length && memcmp(keys[i].section, line + 1, length) == 0)
            return true;
    return line_fail(reading, "no section is called %.*s", (int)(length < 40 ? length : 40), line + 1);
}

/* One line for inih, as fgets would give it but without blanks in front. NULL ends the parse. */
static char *next_line(char *line, int line_bytes, void *context)
{
    struct reading *reading = context;
    size_t length = 0;
    int c = EOF;
    if (reading->failed)
        return NULL;
    reading->line++;
    while ((c = getc(reading->file)) != EOF && c != '\n') {
        if (c == '\0' || ((c < ' ' || c == 0x7f) && c != '\t' && c != '\r')) {
            line_fail(reading, "a byte of value %d, this is not a text file", c);
            return NULL;
        }
        if (length == 0 && (c == ' ' || c == '\t'))
            continue;
        if (length + 2 >= (size_t)line_bytes) { /* one for the end of the line, one for the NUL */
            line_fail(reading, "a line has at most %d bytes", line_bytes - 2);
            return NULL;
        }
        line[length++] = (char)c;
    }
    if (c == EOF && ferror(reading->file)) {
        line_fail(reading, "cannot read: %s", strerror(errno));
        return NULL;
    }
    if (c == EOF && length == 0)
        return NULL;
    line[length++] = '\n';
    line[length] = '\0';
    char *start = line + (reading->line == 1 && strncmp(line, "\xef\xbb\xbf", 3) == 0 ? 3 : 0);
    if (*start == '[' && !check_heading(reading, start))
        return NULL;
    return line;
}

void config_defaults(struct config *config)
{
    *config = (struct config){
        .data = "/var/lib/pando",
        .socket = "ipc:///run/pando/pando.ipc",
        .socket_mode = 0660,
        .auth = "local",
        .log_level = LOG_INFO,
        .block_max_txs = 4096,
        .block_max_bytes = 4u << 20,
        .block_max_wait_ms = 5,
        .retain_blocks = 1024,
        .checkpoint_log_bytes = 256u << 20,
        .hot_bytes = 64u << 20,
        .listen = "tcp://127.0.0.1:7450",
    };
}

static bool set_data_dir(struct config *config, const char *data_dir, char *error, size_t error_bytes)
{
    if ((size_t)snprintf(config->data, sizeof config->data, "%s", data_dir) >= sizeof config->data ||
        (size_t)snprintf(config->socket, sizeof config->socket, "ipc://%s/pando.ipc", data_dir) >=
            sizeof config->socket)
        return check_fail(error, error_bytes, "%s: a path of more than %d bytes", data_dir, CONFIG_PATH_MAX - 1);
    return true;
}

bool config_read(struct config *config, const char *path, const char *data_dir, char *error, size_t error_bytes)
{
    assert(error != NULL && error_bytes > 0);
    error[0] = '\0';
    config_defaults(config);
    if (data_dir != NULL && !set_data_dir(config, data_dir, error, error_bytes))
        return false;
    struct reading reading = {.config = config, .path = path, .error = error, .error_bytes = error_bytes};
    reading.file = fopen(path, "re");
    if (reading.file == NULL)
        return check_fail(error, error_bytes, "%s: cannot open: %s", path, strerror(errno));
    int result = ini_parse_stream(next_line, &reading, take_key, &reading);
    fclose(reading.file);
    /* inih goes on behind an error of its own; the first one counts */
    if (result > 0 && (!reading.failed || (unsigned)result < reading.line)) {
        reading.failed = false;
        reading.line = (unsigned)result;
        return line_fail(&reading, "neither a [section] nor a name = value");
    }
    if (result < 0)
        return check_fail(error, error_bytes, "%s: cannot read", path);
    return !reading.failed;
}

/* --listen and --follow set addresses that config_read has not seen. */
static bool check_link(const struct config *config, const char *key, const char *url, char *error, size_t error_bytes)
{
    char host[CONFIG_URL_MAX];
    if (!is_ipc(url) && !tcp_host(url, host))
        return check_fail(error, error_bytes, "[replication] %s: %s is not an address (tcp://HOST:PORT or ipc://PATH)",
                          key, url);
    if (!config->plaintext && !config_url_is_local(url))
        return check_fail(error, error_bytes,
                          "[replication] %s: %s is not on this machine, and links are not encrypted: say "
                          "plaintext = yes to allow it",
                          key, url);
    return true;
}

bool config_check(const struct config *config, char *error, size_t error_bytes)
{
    assert(error != NULL && error_bytes > 0);
    error[0] = '\0';
    if (strlen(config->socket) > strlen("ipc://") + SOCKET_PATH_MAX)
        return check_fail(error, error_bytes, "[node] socket: %s: a socket's path has at most %d bytes", config->socket,
                          SOCKET_PATH_MAX);
    if (config->listen[0] != '\0' && !check_link(config, "listen", config->listen, error, error_bytes))
        return false;
    for (size_t i = 0; i < config->follow_count; i++)
        if (!check_link(config, "follow", config->follow[i], error, error_bytes))
            return false;
    return true;
}
