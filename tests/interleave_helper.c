/*
 * A helper's state word (engine/helper.c) under every interleaving: a committer asks for a part of a merge or of
 * lookups and ends it again, as often as it has operations, and closes the helper in the last one. With three threads a
 * second one asks for something to be freed with each of its operations and waits until it was: nobody ends that. The
 * last thread is the helper; its clock makes it look on once before it sleeps.
 *
 * Oracle: what is ended is not being done, and is done at most once for each time it was asked for, with the input of
 * that time and with its result there; nothing is done that was taken back; two kinds are never done at once; who waits
 * for what it asked for is woken, and so is the helper (otherwise the scheduler finds a deadlock).
 */
#include <assert.h>
#include <stdlib.h>

#include "interleave.h"
#include "interleave_models.h"

/* The engine's own file, with memory that stays where it is after it was freed, a clock of one second a look, and the
 * helper's thread as one of the scheduler's. */
static void *model_memory(size_t bytes);
static int model_clock(struct timespec *time);
static pthread_t helper_thread;
static void *(*helper_entry)(void *context);
static void *helper_context;
#define WATCH_PAUSES 1
#define calloc(count, bytes) model_memory((count) * (bytes))
#define free(memory) ((void)(memory))
#define clock_gettime(clock, time) model_clock(time)
#define pthread_create(thread, attributes, entry, context)                                                             \
    (*(thread) = helper_thread, helper_entry = (entry), helper_context = (context), 0)
#define pthread_join(thread, result) il_join((unsigned)(thread))
#include "helper.c"
#undef calloc
#undef free

static _Alignas(64) uint8_t memory[1024];
static struct helpers *helpers;
static struct {
    unsigned doing, ended;          /* bits: what is being done; what was ended, or not yet asked for */
    unsigned input, result;         /* the number of the operation that asked */
    unsigned done[HELP_KINDS];      /* how often */
    uint64_t looks[IL_THREADS_MAX]; /* at the clock */
} state;
static pthread_mutex_t free_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t free_done = PTHREAD_COND_INITIALIZER;
static struct {
    unsigned asked, freed;
} freeing; /* under free_lock */
static unsigned model_threads, model_operations;
static enum helper_bug bug;

static void *model_memory(size_t bytes)
{
    assert(bytes <= sizeof memory);
    return memset(memory, 0, sizeof memory);
}

static int model_clock(struct timespec *time)
{
    *time = (struct timespec){.tv_sec = (time_t)++state.looks[il_current()]};
    return 0;
}

/* ---- the work ---- */

static void begin_work(enum help what)
{
    il_touch(&state, sizeof state, true, "begin_work");
    if (state.doing)
        il_fail("helper: %u is done while %u is", what, state.doing);
    if (state.ended & what)
        il_fail("helper: %u is done, and was ended", what);
    state.doing = what;
}

static void end_work(enum help what)
{
    il_touch(&state, sizeof state, true, "end_work");
    state.done[kind_of(what)]++;
    state.result = state.input;
    state.doing = 0;
}

static void merge_or_look_up(void *context, uint32_t helper)
{
    (void)helper;
    enum help what = context == &state.done[0] ? HELP_MERGE : HELP_LOOKUP;
    begin_work(what);
    end_work(what);
}

static void free_all(void *context, uint32_t helper)
{
    (void)context;
    (void)helper;
    begin_work(HELP_RELEASE);
    pthread_mutex_lock(&free_lock);
    freeing.freed = freeing.asked;
    pthread_cond_broadcast(&free_done);
    pthread_mutex_unlock(&free_lock);
    il_touch(&state, sizeof state, true, "free_all");
    state.doing = 0;
}

/* ---- the threads ---- */

static void ask_and_end(unsigned number)
{
    enum help what = number % 2 ? HELP_LOOKUP : HELP_MERGE;
    il_touch(&state, sizeof state, true, "ask");
    state.ended &= ~(unsigned)what;
    state.input = number + 1;
    unsigned done = state.done[kind_of(what)];
    helper_ask(helpers, 0, what);
    if (bug == HELPER_NOT_WAITED)
        atomic_fetch_and_explicit(&helpers->helper[0].state, ~(unsigned)what, memory_order_relaxed);
    else
        helper_end(helpers, 0, what, 0);
    il_touch(&state, sizeof state, true, "ended");
    state.ended |= what;
    if (state.doing & what)
        il_fail("helper: %u was ended and is being done", what);
    done = state.done[kind_of(what)] - done;
    if (done > 1 || (done && state.result != number + 1))
        il_fail("helper: %u was done %u times, the last for operation %u, and asked for by %u", what, done,
                state.result, number + 1);
}

static void ask_to_free(void)
{
    pthread_mutex_lock(&free_lock);
    unsigned mine = ++freeing.asked;
    pthread_mutex_unlock(&free_lock);
    helper_ask(helpers, 0, HELP_RELEASE);
    pthread_mutex_lock(&free_lock);
    while (freeing.freed < mine)
        pthread_cond_wait(&free_done, &free_lock);
    pthread_mutex_unlock(&free_lock);
}

static void operation(unsigned thread, unsigned number)
{
    if (thread == model_threads - 1) {
        if (number == 0)
            helper_entry(helper_context);
    } else if (thread == 1) {
        ask_to_free();
    } else if (number + 1 < model_operations) {
        ask_and_end(number);
    } else {
        if (model_threads > 2)
            il_join(1);
        struct helpers *closed = helpers;
        helpers_close(&closed);
    }
}

static void finished(void)
{
    if (state.doing || freeing.freed != freeing.asked)
        il_fail("helper: closed while %u is being done, %u of %u freed", state.doing, freeing.freed, freeing.asked);
}

void helper_run(unsigned threads, unsigned operations, enum helper_bug planted, int preemptions,
                struct il_result *result)
{
    const struct help_work works[HELP_KINDS] = {
        {merge_or_look_up, &state.done[0]}, {merge_or_look_up, &state.done[1]}, {free_all, NULL}};
    il_forget();
    memset(&state, 0, sizeof state);
    memset(&freeing, 0, sizeof freeing);
    state.ended = HELP_MERGE | HELP_LOOKUP;
    model_threads = threads;
    model_operations = operations;
    bug = planted;
    helper_thread = threads - 1;
    bool opened = helpers_open(1, works, &helpers);
    assert(opened);
    il_remember(memory, sizeof memory);
    il_remember(&state, sizeof state);
    il_remember(&freeing, sizeof freeing);
    il_quiet(&helpers->begun, sizeof helpers->begun);
    il_quiet(&helpers->helper[0].watching, sizeof helpers->helper[0].watching);
    if (bug == HELPER_TORN_STATE)
        il_bug.torn = &helpers->helper[0].state;
    if (bug == HELPER_UNLOCKED)
        il_bug.unlocked = &helpers->lock;
    struct il_model model = {.name = "helper",
                             .threads = threads,
                             .operations = operations,
                             .operation = operation,
                             .finished = finished,
                             .preemptions = preemptions};
    il_run(&model, result);
    il_restore();
}
