/* Assertions of Check suites that cost nothing when they hold: those of Check write to a pipe each time. */
#ifndef TESTS_NEED_H
#define TESTS_NEED_H

#include <check.h>

#include "pando/engine.h"

#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            ck_abort_msg("%s (%s)", #condition, eng_error());                                                          \
    } while (0)
#define OK(call) NEED((call) == ENG_OK)

#endif
