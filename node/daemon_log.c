/*
 * Log lines on stderr. systemd sets JOURNAL_STREAM to "DEVICE:INODE" of the stream it connected; the prefix is written
 * only if stderr still is that stream, so that a redirected stderr stays plain (systemd.exec(5)).
 *
 * Each line is put together first and written at once, so lines of several threads do not mix. A failed write has
 * nowhere to be reported to and is passed over.
 */
#include "daemon_log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* relaxed everywhere: the values stand alone, no other memory is published by them. */
static _Atomic int log_level = LOG_INFO;
static _Atomic bool log_to_journal;

void daemon_log_open(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat facts;
    bool journal = stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &facts) == 0 &&
                   facts.st_dev == (dev_t)device && facts.st_ino == (ino_t)inode;
    atomic_store_explicit(&log_to_journal, journal, memory_order_relaxed);
}

void daemon_log_level(int level)
{
    atomic_store_explicit(&log_level, level, memory_order_relaxed);
}

void daemon_log(int level, const char *format, ...)
{
    if (level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    char line[1200];
    int head = atomic_load_explicit(&log_to_journal, memory_order_relaxed) ? snprintf(line, sizeof line, "<%d>", level)
                                                                           : snprintf(line, sizeof line, "pandod: ");
    size_t size = (size_t)head, space = sizeof line - size - 1;
    va_list arguments;
    va_start(arguments, format);
    int text = vsnprintf(line + size, space, format, arguments);
    va_end(arguments);
    if (text < 0)
        return;
    size_t end = size + ((size_t)text < space ? (size_t)text : space - 1);
    for (size_t i = size; i < end; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[end] = '\n';
    ssize_t written = write(STDERR_FILENO, line, end + 1);
    (void)written;
}
