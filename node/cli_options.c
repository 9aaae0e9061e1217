/*
 * Options, numbers, keys and messages of the pando program.
 *
 * cli_options walks argv once: what begins with '-' (and is not "-" alone, nor behind "--") is an option, looked up
 * among the command's own and then -s, -d, --format, --help; "--name=value" and "--name value" are the same. The rest
 * is moved to the front of argv in its order. An option that is given twice is an error unless it makes a list.
 *
 * Ways to fail: each says one line that begins with the option or argument concerned and returns the exit code of wrong
 * use (2). Messages go to stderr through cli_say only; newlines in them become spaces, so that one error is one line.
 */
#include "cli.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int cli_say(int code, const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    fflush(stdout);
    fprintf(stderr, "pando: %s\n", line);
    return code;
}

int cli_exit_of(enum eng_status status)
{
    switch (status) {
    case ENG_OK:
        return CLI_DONE;
    case ENG_NOT_FOUND:
    case ENG_EXISTS:
    case ENG_INVALID:
    case ENG_TOO_LARGE:
    case ENG_TYPE:
    case ENG_GONE:
    case ENG_CONFLICT:
    case ENG_FOREIGN:
    case ENG_VERSION:
        return CLI_NO;
    case ENG_BUSY:
    case ENG_TIMEOUT:
    case ENG_CLOSED:
    case ENG_FULL:
    case ENG_NO_MEMORY:
    case ENG_NO_IDS:
    case ENG_NO_READERS:
    case ENG_IO:
    case ENG_LOCKED:
        return CLI_UNABLE;
    case ENG_DAMAGED:
        return CLI_DAMAGED;
    }
    return CLI_UNABLE;
}

int cli_fail(enum eng_status status)
{
    return cli_say(cli_exit_of(status), "%s", eng_error());
}

int cli_usage(const char *command, const char *what)
{
    return cli_say(CLI_USE, "%s: %s; see `pando help %s`", command, what, command);
}

int cli_flush(int code)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return cli_say(CLI_UNABLE, "standard output: %s", strerror(errno));
    return code;
}

/* ---- options ---- */

static const struct cli_option *find_option(const struct cli_option *options, const char *name, size_t name_bytes)
{
    for (; options->name; options++)
        if (strlen(options->name) == name_bytes && memcmp(options->name, name, name_bytes) == 0)
            return options;
    return NULL;
}

static bool set_value(const struct cli_option *option, const char *value)
{
    if (option->list) {
        if (*option->list_count >= option->list_max) {
            cli_say(CLI_USE, "%s: given more than %zu times", option->name, option->list_max);
            return false;
        }
        option->list[(*option->list_count)++] = value;
        return true;
    }
    if (*option->value) {
        cli_say(CLI_USE, "%s: given twice", option->name);
        return false;
    }
    *option->value = value;
    return true;
}

static bool set_format(struct cli *cli, const char *format)
{
    static const char *const names[] = {"text", "hex", "json"};
    for (int i = 0; i < 3; i++)
        if (strcmp(format, names[i]) == 0) {
            cli->format = (enum cli_format)i;
            return true;
        }
    cli_say(CLI_USE, "--format: %s is not text, hex or json", format);
    return false;
}

/* One option, argv[*at]; its value may be the next argument. */
static bool take_option(struct cli *cli, int argc, char **argv, int *at, const struct cli_option *options, bool *help)
{
    const char *format = NULL;
    const struct cli_option everywhere[] = {{.name = "-s", .value = &cli->socket_url},
                                            {.name = "-d", .value = &cli->directory},
                                            {.name = "--format", .value = &format},
                                            {.name = "--help", .flag = help},
                                            {.name = "-h", .flag = help},
                                            {0}};
    const char *argument = argv[*at], *equals = argument[1] == '-' ? strchr(argument, '=') : NULL;
    size_t name_bytes = equals ? (size_t)(equals - argument) : strlen(argument);
    const struct cli_option *option = find_option(options, argument, name_bytes);
    if (!option)
        option = find_option(everywhere, argument, name_bytes);
    if (!option) {
        cli_say(CLI_USE, "%.*s: unknown option%s", (int)name_bytes, argument,
                argument[1] == '-' ? "" : " (a key that begins with - goes behind --)");
        return false;
    }
    if (option->flag) {
        if (equals)
            cli_say(CLI_USE, "%s: takes no value", option->name);
        else
            *option->flag = true;
        return !equals;
    }
    const char *value = equals ? equals + 1 : *at + 1 < argc ? argv[++*at] : NULL;
    if (!value) {
        cli_say(CLI_USE, "%s: a value must follow", option->name);
        return false;
    }
    return set_value(option, value) && (!format || set_format(cli, format));
}

bool cli_options(struct cli *cli, int argc, char **argv, const struct cli_option *options, int *rest, int *code)
{
    bool help = false, options_end = false;
    *rest = 0;
    *code = CLI_USE;
    for (int at = 1; at < argc; at++) {
        char *argument = argv[at];
        if (options_end || argument[0] != '-' || argument[1] == 0) {
            argv[++*rest] = argument;
        } else if (strcmp(argument, "--") == 0) {
            options_end = true;
        } else if (!take_option(cli, argc, argv, &at, options, &help)) {
            return false;
        }
    }
    if (cli->socket_url && cli->directory) {
        cli_say(CLI_USE, "-s and -d: one of them only");
        return false;
    }
    if (help) {
        cli_help(stdout, cli_find(argv[0]));
        *code = cli_flush(CLI_DONE);
        return false;
    }
    *code = CLI_DONE;
    return true;
}

/* ---- values ---- */

bool cli_number(const char *name, const char *text, uint64_t max, uint64_t *number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > max) {
        cli_say(CLI_USE, "%s: %s is not a number from 0 to %llu", name, text, (unsigned long long)max);
        return false;
    }
    *number = value;
    return true;
}

bool cli_height(const char *text, uint64_t *height)
{
    *height = ENG_HEAD;
    return !text || cli_number("--at", text, INT64_MAX, height);
}

bool cli_seconds(const char *text, int *milliseconds)
{
    char *end;
    double seconds = strtod(text, &end);
    if (text[0] < '0' || text[0] > '9' || *end || !isfinite(seconds) || seconds > 1e6) {
        cli_say(CLI_USE, "--timeout: %s is not a number of seconds", text);
        return false;
    }
    *milliseconds = (int)(seconds * 1000);
    return true;
}

bool cli_digest(const char *name, const char *text, uint8_t digest[32])
{
    size_t size;
    const char *end;
    if (strlen(text) != 64 || sodium_hex2bin(digest, 32, text, 64, NULL, &size, &end) != 0 || size != 32 || *end) {
        cli_say(CLI_USE, "%s: %s is not 64 hex digits", name, text);
        return false;
    }
    return true;
}

bool cli_key(const char *name, const char *text, uint8_t **key, size_t *key_bytes)
{
    if (key_from_text(text, key, key_bytes) != ENG_OK) {
        cli_say(CLI_USE, "%s: %s", name, eng_error());
        return false;
    }
    if (*key_bytes >= 1 && *key_bytes <= ENG_KEY_BYTES_MAX)
        return true;
    cli_say(CLI_USE, "%s: %zu bytes, a key has 1 to %u", name, *key_bytes, ENG_KEY_BYTES_MAX);
    free(*key);
    *key = NULL;
    return false;
}
