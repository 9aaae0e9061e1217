/*
 * Lines of a file or of standard input, as they come.
 *
 * A reader fills one buffer with read(2) and returns the lines in it in place; the buffer grows to the longest line, at
 * most CLI_LINE_BYTES_MAX. With wait false it says that no line is there yet instead of blocking, so that the caller
 * can send what it has when the input pauses (a person typing, a slow pipe).
 *
 * Ways to fail: the file cannot be opened (exit 1: it is absent or refused) or read, a line over the limit. A last line
 * without a newline is returned like the others, with partial set: it may have been cut off.
 */
#include "cli.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BYTES (256u << 10)

int cli_lines_open(struct cli_lines *lines, const char *name)
{
    bool input = !name || strcmp(name, "-") == 0;
    *lines = (struct cli_lines){.file = STDIN_FILENO, .name = input ? "standard input" : name};
    if (!input)
        lines->file = open(name, O_RDONLY | O_CLOEXEC);
    if (lines->file < 0)
        return cli_say(CLI_NO, "%s: %s", name, strerror(errno));
    struct stat facts;
    if (fstat(lines->file, &facts) == 0 && S_ISDIR(facts.st_mode)) {
        cli_lines_close(lines);
        return cli_say(CLI_NO, "%s: is a directory", name);
    }
    off_t at = lseek(lines->file, 0, SEEK_CUR);
    if (at >= 0 && S_ISREG(facts.st_mode) && facts.st_size > at)
        lines->total = (uint64_t)(facts.st_size - at);
    return CLI_DONE;
}

void cli_lines_close(struct cli_lines *lines)
{
    free(lines->bytes);
    if (lines->file > STDIN_FILENO)
        close(lines->file);
    *lines = (struct cli_lines){.file = -1};
}

/* Makes room behind end: moves what is left to the front, grows if that does not help. */
static bool make_room(struct cli_lines *lines)
{
    if (lines->begin > 0) {
        memmove(lines->bytes, lines->bytes + lines->begin, lines->end - lines->begin);
        lines->end -= lines->begin;
        lines->begin = 0;
    }
    if (lines->capacity - lines->end >= READ_BYTES)
        return true;
    if (lines->end > CLI_LINE_BYTES_MAX) {
        cli_say(CLI_NO, "%s: line %llu: over %u bytes", lines->name, (unsigned long long)lines->line + 1,
                CLI_LINE_BYTES_MAX);
        return false;
    }
    size_t capacity = 2 * lines->capacity > 2 * READ_BYTES ? 2 * lines->capacity : 2 * READ_BYTES;
    char *bytes = realloc(lines->bytes, capacity);
    if (!bytes) {
        cli_say(CLI_UNABLE, "%s: line %llu: no memory for it", lines->name, (unsigned long long)lines->line + 1);
        return false;
    }
    lines->bytes = bytes;
    lines->capacity = capacity;
    return true;
}

/* Reads once. CLI_LINE: there may be more in the buffer now. */
static enum cli_line read_more(struct cli_lines *lines, bool wait)
{
    if (!wait) {
        struct pollfd ready = {.fd = lines->file, .events = POLLIN};
        if (poll(&ready, 1, 0) == 0)
            return CLI_LINE_NONE_YET;
    }
    if (!make_room(lines))
        return CLI_LINE_FAILED;
    ssize_t got;
    do
        got = read(lines->file, lines->bytes + lines->end, lines->capacity - lines->end);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        cli_say(CLI_UNABLE, "%s: %s", lines->name, strerror(errno));
        return CLI_LINE_FAILED;
    }
    if (got == 0)
        lines->at_end = true;
    lines->end += (size_t)got;
    return CLI_LINE;
}

static bool is_blank(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r')
            return false;
    return true;
}

enum cli_line cli_lines_next(struct cli_lines *lines, bool wait, const char **text, size_t *size)
{
    size_t searched = 0;
    for (;;) {
        size_t left = lines->end - lines->begin;
        assert(searched <= left);
        char *start = lines->bytes + lines->begin;
        char *newline = left > searched ? memchr(start + searched, '\n', left - searched) : NULL;
        if (!newline && !lines->at_end) {
            searched = left;
            enum cli_line line = read_more(lines, wait);
            if (line != CLI_LINE)
                return line;
            continue;
        }
        if (!newline && left == 0)
            return CLI_LINE_END;
        *text = start;
        *size = newline ? (size_t)(newline - start) : left;
        lines->partial = !newline;
        lines->begin += newline ? *size + 1 : *size;
        lines->consumed += newline ? *size + 1 : *size;
        lines->line++;
        searched = 0;
        if (!is_blank(*text, *size))
            return CLI_LINE;
    }
}
