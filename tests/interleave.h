/* Every interleaving of a few coroutines that run the engine's own code. See interleave.c. */
#ifndef TESTS_INTERLEAVE_H
#define TESTS_INTERLEAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IL_THREADS_MAX 3

/* What is run again and again. */
struct il_model {
    const char *name;
    unsigned threads, operations;
    void (*operation)(unsigned thread, unsigned number); /* the operations of a thread, in this order */
    void (*finished)(void);                              /* looks at what is left; il_fail if it is wrong */
    int preemptions;                                     /* at most so many; -1: every schedule, up to equivalence */
};

struct il_result {
    uint64_t schedules;  /* run to their end */
    uint64_t equivalent; /* cut: the same as one that was run */
    bool failed;
    char what[256];
    char schedule[4096]; /* of the failure */
};

/* Memory that is as it is now at the beginning of every schedule. il_forget drops all of it. */
void il_remember(void *memory, size_t bytes);
void il_forget(void);
/* Sets it back now; il_run does before each schedule. */
void il_restore(void);
/* Atomics in here are no place to switch: slots nobody uses, the middle of what is written and read in one order. */
void il_quiet(const void *memory, size_t bytes);
/* Stores to here that are not seq_cst wait in the storing thread's buffer, first in first out, until it is flushed by a
 * choice of the scheduler, an operation that is a barrier, or membarrier. */
void il_weak(const void *memory, size_t bytes);
/* A thread that saw an odd value here does not look again before it has changed (a loop that spins). */
void il_spin(const volatile void *word);

/* Planted bugs. */
struct il_bug {
    const volatile void *torn; /* read-modify-write operations of this word are not atomic */
    const void *unlocked;      /* this mutex excludes nobody */
    bool no_membarrier;        /* it returns 0 and does nothing */
    bool no_seq_cst;           /* seq_cst stores wait in the buffer too */
    const volatile void *lost; /* odd values are not stored to this word */
};
extern struct il_bug il_bug;
extern bool il_asymmetric; /* is there a membarrier? */

/* Runs schedules until all were, or one fails. */
void il_run(const struct il_model *model, struct il_result *result);

unsigned il_current(void); /* in an operation: whose it is */
/* In an operation: waits until that thread has done all its operations. */
void il_join(unsigned thread);
/* In an operation: reads or writes memory that is not atomic; a place to switch. */
void il_touch(const void *memory, size_t bytes, bool write, const char *what);
/* This schedule is wrong. Does not return in an operation. */
void il_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
