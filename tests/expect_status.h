/* What a call of the engine returns, in Check suites. */
#ifndef TESTS_EXPECT_STATUS_H
#define TESTS_EXPECT_STATUS_H

#include <check.h>

#include "pando/status.h"

#define ok(call)                                                                                                       \
    do {                                                                                                               \
        enum eng_status ok_status = (call);                                                                            \
        ck_assert_msg(ok_status == ENG_OK, "%s: %s (%s)", #call, eng_status_text(ok_status), eng_error());             \
    } while (0)
#define fails(call, expected)                                                                                          \
    do {                                                                                                               \
        enum eng_status fails_status = (call);                                                                         \
        ck_assert_msg(fails_status == (expected), "%s: %s", #call, eng_status_text(fails_status));                     \
    } while (0)

#endif
