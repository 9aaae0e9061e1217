/*
 * Shared by the files of the pando program: the table of commands, options, messages and exit codes, and the printing
 * of entries. pando.c owns main; every cli_NOUN.c has the commands of one noun.
 *
 * A command is int cmd(struct cli *, int argc, char **argv) with argv[0] its name; it returns an exit code, after it
 * said on stderr, in one line "pando: WHAT: WHY", why it is not 0.
 */
#ifndef NODE_CLI_H
#define NODE_CLI_H

#include "client.h"

#include <stdio.h>

enum cli_exit {
    CLI_DONE = 0,
    CLI_NO = 1,      /* the answer is no: absent, refused, invalid */
    CLI_USE = 2,     /* wrong use */
    CLI_UNABLE = 3,  /* no node there, or not able now */
    CLI_DAMAGED = 4, /* damaged data */
};

enum cli_format { CLI_TEXT, CLI_HEX, CLI_JSON };

struct cli {
    const char *socket_url, *directory; /* -s, -d; NULL: not given */
    enum cli_format format;
    struct pando *pando; /* connected by cli_connect */
};

struct cli_command {
    const char *name, *arguments, *summary, *text; /* text: further lines of help */
    int (*run)(struct cli *cli, int argc, char **argv);
};
const struct cli_command *cli_find(const char *name); /* NULL: there is none */
void cli_help(FILE *out, const struct cli_command *command);

/* ---- messages ---- */

/* "pando: " and the line on stderr; returns code. */
int cli_say(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same with eng_error(), and the exit code that the status stands for. */
int cli_fail(enum eng_status status);
int cli_exit_of(enum eng_status status);

/* ---- options ---- */

struct cli_option {
    const char *name;   /* "--at", "-o" */
    const char **value; /* takes a value, or */
    bool *flag;         /* takes none, or */
    const char **list;  /* may be given up to list_max times */
    size_t *list_count, list_max;
};
/* Splits argv[1..] into options and the rest, moved to argv[1..*rest] in order; "--" ends options; -s, -d, --format
 * and --help are understood everywhere. options ends with a name of NULL. CLI_DONE: go on; otherwise *code is the
 * command's exit code (also after --help). */
bool cli_options(struct cli *cli, int argc, char **argv, const struct cli_option *options, int *rest, int *code);
/* True, or says what is wrong with NAME. */
bool cli_number(const char *name, const char *text, uint64_t max, uint64_t *number);
bool cli_height(const char *text, uint64_t *height); /* of --at; NULL: ENG_HEAD */
bool cli_seconds(const char *text, int *milliseconds);
bool cli_digest(const char *name, const char *text, uint8_t digest[32]);
/* A key of 1 to ENG_KEY_BYTES_MAX bytes, malloc'ed. */
bool cli_key(const char *name, const char *text, uint8_t **key, size_t *key_bytes);
int cli_usage(const char *command, const char *what); /* says so; CLI_USE */

/* ---- the node ---- */

/* CLI_DONE, or says why not. */
int cli_connect(struct cli *cli);
/* The address that -s, -d, PANDO_SOCKET and the default lead to; CLI_DONE. */
int cli_address(const struct cli *cli, char *url, size_t url_bytes);
/* Connects if need be and asks; CLI_DONE, or says why not. */
int cli_ask(struct cli *cli, const struct protocol_writer *request, int timeout_ms, struct pando_reply *reply);
/* ENG_DAMAGED, said. */
int cli_bad_reply(const char *what);

/* ---- entries ---- */

struct cli_printer {
    enum cli_format format;
    char *text; /* a line being made */
    size_t size, capacity;
};
void cli_print_entry(struct cli_printer *printer, const struct protocol_entry *entry);
void cli_print_value(struct cli_printer *printer, const struct protocol_entry *entry); /* what get prints */
void cli_print_change(struct cli_printer *printer, enum protocol_change change, const struct protocol_entry *entry);
/* One field as text: as it is, or 0x. */
void cli_print_field(struct cli_printer *printer, const uint8_t *bytes, size_t size);
void cli_printer_release(struct cli_printer *printer);
bool cli_printable(const uint8_t *bytes, size_t size); /* printable UTF-8 that does not read as 0x or hex: */
/* Writes what is left in stdout; CLI_UNABLE if it went nowhere. */
int cli_flush(int code);

/* ---- lines of a file ---- */

struct cli_lines {
    int file;
    const char *name;
    char *bytes;
    size_t begin, end, capacity;
    uint64_t line;        /* number of the line last returned */
    uint64_t consumed;    /* bytes of lines returned */
    uint64_t total;       /* size of a regular file, or 0 */
    bool at_end, partial; /* partial: the last line had no newline */
};
enum cli_line { CLI_LINE, CLI_LINE_NONE_YET, CLI_LINE_END, CLI_LINE_FAILED };
#define CLI_LINE_BYTES_MAX (160u << 20) /* a block of 64 MB in hex, and its JSON */
/* name "-" or NULL: standard input. CLI_DONE, or says why not. */
int cli_lines_open(struct cli_lines *lines, const char *name);
/* The next line without its newline, valid until the next call; wait false: CLI_LINE_NONE_YET if it would block.
 * CLI_LINE_FAILED: said. Empty lines are passed over. */
enum cli_line cli_lines_next(struct cli_lines *lines, bool wait, const char **text, size_t *size);
void cli_lines_close(struct cli_lines *lines);

/* ---- commands ---- */

int cli_init(struct cli *cli, int argc, char **argv);
int cli_submit(struct cli *cli, int argc, char **argv);
int cli_import(struct cli *cli, int argc, char **argv);
int cli_get(struct cli *cli, int argc, char **argv);
int cli_scan(struct cli *cli, int argc, char **argv);
int cli_count(struct cli *cli, int argc, char **argv);
int cli_root(struct cli *cli, int argc, char **argv);
int cli_header(struct cli *cli, int argc, char **argv);
int cli_diff(struct cli *cli, int argc, char **argv);
int cli_receipt(struct cli *cli, int argc, char **argv);
int cli_prove(struct cli *cli, int argc, char **argv);
int cli_verify(struct cli *cli, int argc, char **argv);
int cli_wait(struct cli *cli, int argc, char **argv);
int cli_status(struct cli *cli, int argc, char **argv);
int cli_check(struct cli *cli, int argc, char **argv);
int cli_key_command(struct cli *cli, int argc, char **argv);
int cli_help_command(struct cli *cli, int argc, char **argv);

#endif
