/*
 * Threads that help the one that commits (helper.c).
 *
 * A helper can be asked for three kinds of work; of several it begins with the most urgent, and goes on until it has
 * been asked for nothing more. Who asks for a part of a merge or of lookups ends it again, and one at a time does; to
 * free can be asked for by anybody, at any time.
 */
#ifndef ENGINE_HELPER_H
#define ENGINE_HELPER_H

#include <stdbool.h>
#include <stdint.h>

/* Bits, the most urgent first. */
enum help {
    HELP_MERGE = 1,   /* its part of a merge (merge_split.c) */
    HELP_LOOKUP = 2,  /* its part of a batch's lookups (lookup.c) */
    HELP_RELEASE = 4, /* to free what a drop left (snapshot.c) */
};
#define HELP_KINDS 3u

struct help_work {
    void (*work)(void *context, uint32_t helper);
    void *context;
};

struct helpers;

/* works: by kind, in the order of the bits. False: no memory, no threads. */
bool helpers_open(uint32_t count, const struct help_work works[HELP_KINDS], struct helpers **helpers);
/* What is being done is waited for; what was only asked for is not done. NULL inside is fine. */
void helpers_close(struct helpers **helpers);
uint32_t helpers_count(const struct helpers *helpers);

/* Published with it: everything that was written before. Asked twice is asked once. */
void helper_ask(struct helpers *helpers, uint32_t helper, enum help what);
/* Takes back what was asked for if it has not begun, and waits until nothing of the kind is being done; looks on for so
 * long (helper_watch_ns) before it sleeps. What the helper wrote is seen. */
void helper_end(struct helpers *helpers, uint32_t helper, enum help what, uint64_t watch_ns);
/* A hint: it looks on for work, so it would begin at once. */
bool helper_looks_on(const struct helpers *helpers, uint32_t helper);
/* From now on helpers count as looking on, whatever they do: so that a test does not depend on when they sleep. */
void helpers_presume_watching(struct helpers *helpers);
/* A hint: it looks on or works, so it need not be woken. */
bool helper_is_awake(const struct helpers *helpers, uint32_t helper);
/* For one that does something: is it asked for something more urgent? */
bool helper_is_urged(const struct helpers *helpers, uint32_t helper, enum help what);
/* How long it pays to look on for what should come soon, after a piece of work that took so long. */
uint64_t helper_watch_ns(uint64_t worked_ns);
uint64_t helper_now_ns(void);
/* How often helpers began with this kind of work. */
uint64_t helpers_begun(const struct helpers *helpers, enum help what);

#endif
