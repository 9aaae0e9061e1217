/*
 * The lock-free parts of the engine under every interleaving, and planted bugs that must be found.
 *
 * The engine's sources are compiled into this program once more with hooks in place of atomic operations, mutexes,
 * copies and membarrier (interleave_atomics.h), and run under a scheduler that enumerates schedules (interleave.c).
 * The models with their oracles are in interleave_ring.c, interleave_store.c and interleave_helper.c. Two threads of
 * two operations are enumerated completely, except for schedules that only differ in the order of independent accesses.
 * With --long three threads of four operations are run with at most three preemptions, each model in a process of its
 * own.
 *
 * Ways to fail: a model finds something (the schedule is printed); a planted bug is not found.
 *
 *   prog_interleave [--long]
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "interleave_models.h"

#define PREEMPTIONS 3

enum part { RING, STORE, HELPER };

struct run {
    const char *name;
    enum part part;
    unsigned threads;
    enum store_role roles[IL_THREADS_MAX];
    int preemptions; /* -1: all */
    bool alone;      /* the ring: without a consumer; the store: without membarrier(2) */
    enum ring_bug ring_bug;
    enum store_bug store_bug;
    enum helper_bug helper_bug;
};

static const struct run right[] = {
    {"log ring: writer, writer", RING, 2, {0}, .preemptions = -1, .alone = true},
    {"log ring: writer, consumer", RING, 2, {0}, .preemptions = -1, .alone = false},
    {"moves: compactor, merge", STORE, 2, {ROLE_COMPACTOR, ROLE_MERGE}, .preemptions = -1, .alone = false},
    {"moves: one object at a time, merge", STORE, 2, {ROLE_MOVER, ROLE_MERGE}, .preemptions = -1, .alone = false},
    {"moves: compactor, reader", STORE, 2, {ROLE_COMPACTOR, ROLE_READER}, .preemptions = -1, .alone = false},
    {"epochs: reclaimer, reader", STORE, 2, {ROLE_RECLAIMER, ROLE_READER}, .preemptions = -1, .alone = false},
    {"epochs without membarrier: reclaimer, reader",
     STORE,
     2,
     {ROLE_RECLAIMER, ROLE_READER},
     .preemptions = -1,
     .alone = true},
    {"versions: writer, reader that pins", STORE, 2, {ROLE_WRITER, ROLE_PINNER}, .preemptions = -1, .alone = false},
    {"helper: one who asks and ends, helper", HELPER, 2, {0}, .preemptions = -1},
};

static const struct run larger[] = {
    {"log ring: writer, writer, consumer", RING, 3, {0}, .preemptions = PREEMPTIONS, .alone = false},
    {"moves: compactor, merge, reader",
     STORE,
     3,
     {ROLE_COMPACTOR, ROLE_MERGE, ROLE_READER},
     .preemptions = PREEMPTIONS,
     .alone = false},
    {"epochs: reclaimer, reader, reader",
     STORE,
     3,
     {ROLE_RECLAIMER, ROLE_READER, ROLE_READER},
     .preemptions = PREEMPTIONS,
     .alone = false},
    {"versions: writer, two readers that pin",
     STORE,
     3,
     {ROLE_WRITER, ROLE_PINNER, ROLE_PINNER},
     .preemptions = PREEMPTIONS,
     .alone = false},
    {"helper: one who asks and ends, one who waits, helper", HELPER, 3, {0}, .preemptions = PREEMPTIONS},
};

static const struct run planted[] = {
    {"log ring: place reserved by load and store",
     RING,
     2,
     {0},
     .preemptions = -1,
     .alone = true,
     .ring_bug = RING_TORN_TAIL},
    {"log ring: credit taken by load and store",
     RING,
     2,
     {0},
     .preemptions = -1,
     .alone = true,
     .ring_bug = RING_TORN_CREDIT},
    {"log ring: published before the copy",
     RING,
     2,
     {0},
     .preemptions = -1,
     .alone = false,
     .ring_bug = RING_PUBLISH_EARLY},
    {"log ring: freed before the read", RING, 2, {0}, .preemptions = -1, .alone = false, .ring_bug = RING_FREE_EARLY},
    {"moves: compare, then store",
     STORE,
     2,
     {ROLE_COMPACTOR, ROLE_MERGE},
     .preemptions = -1,
     .store_bug = STORE_TORN_MOVE},
    {"moves: live units by load and store",
     STORE,
     2,
     {ROLE_COMPACTOR, ROLE_MERGE},
     .preemptions = -1,
     .store_bug = STORE_TORN_LIVE},
    {"epochs: no membarrier",
     STORE,
     2,
     {ROLE_RECLAIMER, ROLE_READER},
     .preemptions = -1,
     .store_bug = STORE_NO_MEMBARRIER},
    {"epochs: plain store instead of seq_cst",
     STORE,
     2,
     {ROLE_RECLAIMER, ROLE_READER},
     .preemptions = -1,
     .alone = true,
     .store_bug = STORE_NO_SEQ_CST},
    {"epochs: left before the read",
     STORE,
     2,
     {ROLE_RECLAIMER, ROLE_READER},
     .preemptions = -1,
     .store_bug = STORE_LEFT_EARLY},
    {"versions: head without an odd number",
     STORE,
     2,
     {ROLE_WRITER, ROLE_PINNER},
     .preemptions = -1,
     .store_bug = STORE_NO_ODD},
    {"versions: head used without a pin",
     STORE,
     2,
     {ROLE_WRITER, ROLE_PINNER},
     .preemptions = -1,
     .store_bug = STORE_NO_PIN},
    {"versions: unpinned before the read",
     STORE,
     2,
     {ROLE_WRITER, ROLE_PINNER},
     .preemptions = -1,
     .store_bug = STORE_UNPINNED_EARLY},
    {"helper: state by load and store", HELPER, 2, {0}, .preemptions = -1, .helper_bug = HELPER_TORN_STATE},
    {"helper: asleep without the lock", HELPER, 2, {0}, .preemptions = -1, .helper_bug = HELPER_UNLOCKED},
    {"helper: ended without a wait", HELPER, 2, {0}, .preemptions = -1, .helper_bug = HELPER_NOT_WAITED},
};

static struct il_result result;

static void run(const struct run *what, unsigned operations)
{
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    if (what->part == RING)
        ring_run(what->threads, operations, !what->alone, what->ring_bug, what->preemptions, &result);
    else if (what->part == HELPER)
        helper_run(what->threads, operations, what->helper_bug, what->preemptions, &result);
    else
        store_run(what->roles, what->threads, operations, !what->alone, what->store_bug, what->preemptions, &result);
    clock_gettime(CLOCK_MONOTONIC, &after);
    double seconds = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    printf("%-48s %9llu schedules, %9llu cut as equivalent, %.1f s\n", what->name, (unsigned long long)result.schedules,
           (unsigned long long)result.equivalent, seconds);
    fflush(stdout);
}

static int must_be_right(const struct run *runs, size_t count, unsigned operations)
{
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        run(&runs[i], operations);
        if (!result.failed)
            continue;
        fprintf(stderr, "FAILED: %s: %s\n%s", runs[i].name, result.what, result.schedule);
        failed = 1;
    }
    return failed;
}

/* Each in a process of its own, since they take long. */
static int larger_must_be_right(void)
{
    int failed = 0;
    fflush(stdout);
    for (size_t i = 0; i < sizeof larger / sizeof larger[0]; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(must_be_right(&larger[i], 1, 4));
        failed |= child < 0;
    }
    for (int status; wait(&status) > 0;)
        failed |= status != 0;
    return failed;
}

static int must_be_found(void)
{
    int failed = 0;
    for (size_t i = 0; i < sizeof planted / sizeof planted[0]; i++) {
        for (int bound = -1; bound <= PREEMPTIONS; bound += PREEMPTIONS + 1) { /* both kinds of search */
            struct run bug = planted[i];
            bug.preemptions = bound;
            run(&bug, 2);
            if (result.failed) {
                printf("  found: %s\n%s", result.what, result.schedule);
                continue;
            }
            fprintf(stderr, "FAILED: the planted bug was not found: %s, %d preemptions\n", bug.name, bound);
            failed = 1;
        }
    }
    return failed;
}

int main(int argc, char **argv)
{
    bool all = argc > 1 && strcmp(argv[1], "--long") == 0;
    printf("Two threads, two operations each, every schedule:\n");
    int failed = must_be_right(right, sizeof right / sizeof right[0], 2);
    printf("Planted bugs:\n");
    failed |= must_be_found();
    if (all) {
        printf("Three threads, four operations each, at most %d preemptions:\n", PREEMPTIONS);
        failed |= larger_must_be_right();
    }
    return failed;
}
