#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "pando/status.h"

static _Thread_local char line[512];

const char *eng_status_text(enum eng_status status)
{
    switch (status) {
#define X(code, sentence)                                                                                              \
    case code:                                                                                                         \
        return sentence;
        ENG_STATUS_TABLE(X)
#undef X
    }
    return "unknown status";
}

const char *eng_error(void)
{
    return line;
}

enum eng_status eng_fail(enum eng_status status, const char *format, ...)
{
    int saved = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    errno = saved;
    return status;
}
