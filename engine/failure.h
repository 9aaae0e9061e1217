/* The worst of several failures, for work that goes on after one: damage before all, else the first, with its text. */
#ifndef ENGINE_FAILURE_H
#define ENGINE_FAILURE_H

#include <stdbool.h>
#include <stdio.h>

#include "pando/status.h"

struct failure {
    enum eng_status status; /* ENG_OK at first */
    char text[512];
};

/* May the work go on? What is damaged stays as it is, and stops nothing else. */
static inline bool failure_note(struct failure *failure, enum eng_status status)
{
    bool worse = failure->status == ENG_OK || (status == ENG_DAMAGED && failure->status != ENG_DAMAGED);
    if (status != ENG_OK && worse) {
        failure->status = status;
        snprintf(failure->text, sizeof failure->text, "%s", eng_error());
    }
    return status == ENG_OK || status == ENG_DAMAGED;
}

/* As what was noted failed. */
ENG_MUST_CHECK static inline enum eng_status failure_again(const struct failure *failure)
{
    return failure->status == ENG_OK ? ENG_OK : eng_fail(failure->status, "%s", failure->text);
}

#endif
