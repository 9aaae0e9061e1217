/*
 * What can go wrong, as values.
 *
 * Operating errors (a full disk, a damaged file, a busy queue) are returned as enum eng_status; programming errors are
 * asserts that stay on in release; the two are never mixed. The table below is the only list: code, sentence.
 *
 * A function that fails calls eng_fail() with one line naming what and where ("log/000003: record at offset 4096:
 * checksum does not match"). The line is kept per thread until the next failure on that thread; eng_error() returns it.
 * To find nothing is no failure of a read: it leaves the line as it was (pando/engine.h lists these).
 */
#ifndef PANDO_STATUS_H
#define PANDO_STATUS_H

#define ENG_STATUS_TABLE(X)                                                                                            \
    X(ENG_OK, "done")                                                                                                  \
    X(ENG_NOT_FOUND, "not found")                                                                                      \
    X(ENG_EXISTS, "exists already")                                                                                    \
    X(ENG_INVALID, "invalid argument")                                                                                 \
    X(ENG_TOO_LARGE, "over a limit")                                                                                   \
    X(ENG_TYPE, "value of another type")                                                                               \
    X(ENG_BUSY, "no room in a queue now, try again")                                                                   \
    X(ENG_TIMEOUT, "the time ran out")                                                                                 \
    X(ENG_CLOSED, "closing")                                                                                           \
    X(ENG_GONE, "that root is no longer live")                                                                         \
    X(ENG_CONFLICT, "what was read has changed")                                                                       \
    X(ENG_FULL, "no space left on the disk")                                                                           \
    X(ENG_NO_MEMORY, "out of memory")                                                                                  \
    X(ENG_NO_IDS, "out of object ids")                                                                                 \
    X(ENG_NO_READERS, "all reader slots are in use")                                                                   \
    X(ENG_IO, "an I/O operation failed")                                                                               \
    X(ENG_DAMAGED, "damaged data")                                                                                     \
    X(ENG_FOREIGN, "belongs to another ledger or is no such file")                                                     \
    X(ENG_VERSION, "written by a newer version")                                                                       \
    X(ENG_LOCKED, "in use by another process")

#ifdef __cplusplus
extern "C" {
#endif

enum eng_status {
#define X(code, sentence) code,
    ENG_STATUS_TABLE(X)
#undef X
};

#define ENG_MUST_CHECK __attribute__((warn_unused_result))

/* The sentence of a status, never NULL. */
const char *eng_status_text(enum eng_status status);

/* The line the last eng_fail() on this thread left, or "" if there was none. Owned by the library, valid until the
 * next failure on this thread. */
const char *eng_error(void);

/* Records the line (printf format, cut at 511 bytes) and returns status. Does not change errno. */
enum eng_status eng_fail(enum eng_status status, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

#ifdef __cplusplus
}
#endif

#endif
