/*
 * A deterministic scheduler that enumerates interleavings.
 *
 * The threads of a model are coroutines of one thread (ucontext). Before every shared access the running one announces
 * it and asks what happens next: itself, another thread, or the oldest entry of a store buffer reaching memory. The
 * answers of a run are a path in a tree; the next run repeats the path up to the deepest node that has an answer left,
 * takes that, and goes on with first answers (stateless depth-first search, Godefroid 1997). What the model changes is
 * set back by copying before each run.
 *
 * Without a bound on preemptions sleep sets cut runs that only differ in the order of independent accesses: after an
 * answer was explored in a node, it sleeps in the later ones until an access it depends on was made. A bound on
 * preemptions (Musuvathi and Qadeer 2007) is used without sleep sets, since the two together lose schedules. Then
 * which thread begins is free; entries of a buffer that reach memory together count as one preemption, and do so just
 * before an access that sees them; and an access that no other thread's depends on in any schedule is no place to
 * switch, because a preemption before it can as well come after it. Which these are is learnt on the way (is_local);
 * when one turns out to be shared after all, all begins again.
 *
 * Interleavings of accesses in program order are sequentially consistent. The one place where the engine relies on
 * less is the reader's slot, whose stores (il_weak) go through a buffer a thread as on x86: the thread itself sees them
 * at once, others when they are flushed.
 *
 * Ways to fail, all with the schedule: il_fail in an operation or an oracle, an assert of the engine, a deadlock.
 *
 * Invariant: between two il_step a thread touches only what its last announcement covers, what a mutex it holds
 * protects, or what is its own; sleep sets rely on it.
 */
#include "interleave.h"

#include <assert.h>
#include <sanitizer/asan_interface.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include "interleave_atomics.h"
#undef memcpy
#undef syscall

#define STACK_BYTES (128u << 10)
#define DEPTH_MAX 4096u
#define BUFFER_MAX 16u
#define REGIONS_MAX 16u
#define CHOICES (2 * IL_THREADS_MAX) /* thread i, flush of thread i */
#define NOBODY CHOICES               /* runs before the first choice */
#define SEEN_MAX 4096u

struct access {
    uintptr_t at, from;
    size_t bytes, from_bytes;
    bool write;
    const void *mutex; /* waits for it */
    const void *spin;  /* waits until it is no longer odd */
    bool joins;        /* waits until the thread has finished that ... */
    unsigned joined;   /* ... is this one */
    const char *where;
    int line;
};

struct thread {
    ucontext_t context;
    uint8_t *stack;
    struct access next;
    bool finished;
    const void *asleep; /* the condition it waits for, until somebody wakes it */
    uint64_t saw;       /* odd value of the spin word, 0: none */
    struct {
        volatile uint64_t *at;
        uint64_t value;
    } buffer[BUFFER_MAX];
    unsigned buffered;
};

struct node {
    uint8_t choice, current, flushing; /* flushing: the choice before, if it was a flush */
    uint8_t enabled, sleep, done;      /* bits of choices */
    uint8_t preemptions;               /* before this choice */
    struct access next[CHOICES];
};

struct region {
    uint8_t *memory, *saved;
    size_t bytes;
};

struct il_bug il_bug;
bool il_asymmetric = true;

static struct region regions[REGIONS_MAX];
static unsigned regions_count;
static struct {
    uintptr_t at;
    size_t bytes;
} quiet[2], weak;
static unsigned quiet_count;
static const volatile void *spin;

static const struct il_model *model;
static struct il_result *result;
static struct thread threads[IL_THREADS_MAX];
static struct node path[DEPTH_MAX];
static unsigned depth, path_length, current;
static ucontext_t outside;
static bool active, cut;
static struct {
    const void *mutex;
    unsigned owner;
} held[16];
static unsigned held_count;
/* With a bound: every access a thread was about to make, in any schedule so far. */
static struct seen {
    struct access access;
    unsigned thread;
    bool shared; /* another thread's depends on it */
} seen[SEEN_MAX];
static unsigned seen_count, seen_slot[4 * SEEN_MAX]; /* hashed: index + 1 */
static bool seen_grew;                               /* one that was taken for local is shared */

void il_remember(void *memory, size_t bytes)
{
    assert(regions_count < REGIONS_MAX);
    struct region *region = &regions[regions_count++];
    *region = (struct region){memory, malloc(bytes), bytes};
    assert(region->saved);
    memcpy(region->saved, memory, bytes);
}

void il_forget(void)
{
    while (regions_count)
        free(regions[--regions_count].saved);
    quiet_count = 0;
    weak.bytes = 0;
    spin = NULL;
    il_bug = (struct il_bug){0};
}

void il_quiet(const void *memory, size_t bytes)
{
    assert(quiet_count < sizeof quiet / sizeof quiet[0]);
    quiet[quiet_count].at = (uintptr_t)memory;
    quiet[quiet_count++].bytes = bytes;
}

void il_weak(const void *memory, size_t bytes)
{
    weak.at = (uintptr_t)memory;
    weak.bytes = bytes;
}

void il_spin(const volatile void *word)
{
    spin = word;
}

/* ---- what is dependent, what is enabled --------------------------------------------------------------------------*/

static bool overlap(uintptr_t a, size_t a_bytes, uintptr_t b, size_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

static bool independent(const struct access *a, const struct access *b)
{
    if ((a->write || b->write) && overlap(a->at, a->bytes, b->at, b->bytes))
        return false;
    if (a->write && overlap(a->at, a->bytes, b->from, b->from_bytes))
        return false;
    return !(b->write && overlap(b->at, b->bytes, a->from, a->from_bytes));
}

static int holder_of(const void *mutex)
{
    for (unsigned i = 0; i < held_count; i++)
        if (held[i].mutex == mutex)
            return (int)i;
    return -1;
}

static bool thread_enabled(const struct thread *thread)
{
    if (thread->finished || thread->asleep || (thread->next.joins && !threads[thread->next.joined].finished))
        return false;
    if (thread->next.mutex && holder_of(thread->next.mutex) >= 0)
        return false;
    return !thread->next.spin || *(const volatile uint64_t *)thread->next.spin != thread->saw;
}

static void flush_one(struct thread *thread)
{
    *thread->buffer[0].at = thread->buffer[0].value;
    thread->buffered--;
    for (unsigned i = 0; i < thread->buffered; i++)
        thread->buffer[i] = thread->buffer[i + 1];
}

static void flush_all(struct thread *thread)
{
    while (thread->buffered)
        flush_one(thread);
}

/* Would no other thread's access, as far as is known, depend on this one? */
static bool is_local(unsigned thread, const struct access *access)
{
    size_t slot = (access->at * 31 + access->from * 17 + access->bytes * 7 + thread * 2 + access->write) * 2654435761u;
    for (;; slot++) {
        unsigned index = seen_slot[slot %= 4 * SEEN_MAX];
        if (!index)
            break;
        const struct seen *s = &seen[index - 1];
        if (s->thread == thread && s->access.at == access->at && s->access.bytes == access->bytes &&
            s->access.write == access->write && s->access.from == access->from &&
            s->access.from_bytes == access->from_bytes)
            return !s->shared;
    }
    assert(seen_count < SEEN_MAX);
    struct seen *one = &seen[seen_count++];
    *one = (struct seen){.access = *access, .thread = thread};
    seen_slot[slot] = seen_count;
    for (unsigned i = 0; i + 1 < seen_count; i++) {
        struct seen *s = &seen[i];
        if (s->thread == thread || independent(&s->access, access))
            continue;
        one->shared = true;
        seen_grew |= !s->shared;
        s->shared = true;
    }
    return !one->shared;
}

/* ---- the tree ----------------------------------------------------------------------------------------------------*/

static void leave_run(void)
{
    setcontext(&outside);
    abort();
}

static void describe(void)
{
    size_t used = 0;
    result->schedule[0] = 0;
    for (unsigned d = 0; d < depth && used + 120 < sizeof result->schedule; d++) {
        unsigned choice = path[d].choice;
        if (d && choice == path[d - 1].choice)
            continue;
        unsigned last = d;
        while (last + 1 < depth && path[last + 1].choice == choice)
            last++;
        const struct access *from = &path[d].next[choice], *to = &path[last].next[choice];
        used += (size_t)snprintf(result->schedule + used, sizeof result->schedule - used, "%s%u: %s:%d .. %s:%d (%u)\n",
                                 choice >= IL_THREADS_MAX ? "      store buffer " : "      thread ",
                                 choice % IL_THREADS_MAX, from->where, from->line, to->where, to->line, last - d + 1);
    }
}

void il_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result->what, sizeof result->what, format, arguments);
    va_end(arguments);
    result->failed = true;
    describe();
    if (active)
        leave_run();
}

/* The engine's asserts: ld --wrap. */
void __wrap___assert_fail(const char *expression, const char *file, unsigned line, const char *function)
    __attribute__((noreturn));
void __wrap___assert_fail(const char *expression, const char *file, unsigned line, const char *function)
{
    if (active && strcmp(file, __FILE__) != 0)
        il_fail("assert in %s: %s", function, expression);
    fprintf(stderr, "%s:%u: %s: assert: %s\n", file, line, function, expression);
    abort();
}

/* Which answers a node has: those that can be given, not asleep, not given yet, within the bound. */
static unsigned answers(const struct node *node)
{
    unsigned left = node->enabled & ~(unsigned)(node->sleep | node->done);
    if (model->preemptions >= 0 && node->preemptions >= (unsigned)model->preemptions) {
        unsigned others = (1u << IL_THREADS_MAX) - 1; /* may run when the present thread cannot */
        left &= (node->enabled & 1u << node->current ? 1u << node->current : others) | 1u << node->flushing;
    }
    return left;
}

static unsigned first_answer(const struct node *node)
{
    unsigned left = answers(node);
    return left & 1u << node->current ? node->current : (unsigned)__builtin_ctz(left);
}

/* With a bound: is a thread that may go on about to see what waits in another's buffer? */
static bool flush_matters(unsigned owner)
{
    for (unsigned i = 0; i < model->threads; i++) {
        if (i == owner || !thread_enabled(&threads[i]))
            continue;
        for (unsigned k = 0; k < threads[owner].buffered; k++) {
            struct access flush = {.at = (uintptr_t)threads[owner].buffer[k].at, .bytes = 8, .write = true};
            if (!independent(&flush, &threads[i].next))
                return true;
        }
    }
    return false;
}

static void make_node(struct node *node)
{
    node->enabled = node->sleep = node->done = node->preemptions = 0;
    node->current = (uint8_t)(depth ? current : NOBODY);
    node->flushing = NOBODY;
    for (unsigned i = 0; i < model->threads; i++) {
        unsigned flush = IL_THREADS_MAX + i;
        node->next[i] = threads[i].next;
        if (thread_enabled(&threads[i]))
            node->enabled |= (uint8_t)(1u << i);
        if (!threads[i].buffered || (model->preemptions >= 0 && !flush_matters(i)))
            continue;
        node->enabled |= (uint8_t)(1u << flush);
        node->next[flush] =
            (struct access){.at = (uintptr_t)threads[i].buffer[0].at, .bytes = 8, .write = true, .where = "flush"};
    }
    if (!depth)
        return;
    const struct node *before = node - 1;
    bool flush = before->choice >= IL_THREADS_MAX;
    bool preempted = flush ? before->choice != before->flushing
                           : before->choice != before->current && (before->enabled & 1u << before->current);
    node->flushing = flush ? before->choice : NOBODY;
    node->preemptions = (uint8_t)(before->preemptions + preempted);
    for (unsigned i = 0; model->preemptions < 0 && i < CHOICES; i++)
        if ((before->sleep | before->done) & 1u << i && independent(&before->next[i], &before->next[before->choice]) &&
            i % IL_THREADS_MAX != before->choice % IL_THREADS_MAX)
            node->sleep |= (uint8_t)(1u << i);
}

/* What happens next: a choice, made or repeated. */
static unsigned choose(void)
{
    if (depth == DEPTH_MAX)
        il_fail("a run of more than %u accesses", DEPTH_MAX);
    struct node *node = &path[depth];
    if (depth == path_length) {
        make_node(node);
        if (!node->enabled) {
            for (unsigned i = 0; i < model->threads; i++)
                if (!threads[i].finished)
                    il_fail("deadlock: thread %u waits in %s", i, threads[i].next.where);
            leave_run();
        }
        if (!answers(node)) {
            cut = true;
            leave_run();
        }
        node->choice = (uint8_t)first_answer(node);
        path_length++;
    } else if (node->choice < IL_THREADS_MAX) { /* what is not set back would make a run another one */
        const struct access *then = &node->next[node->choice], *now = &threads[node->choice].next;
        assert(!threads[node->choice].finished && then->at == now->at && then->line == now->line);
    }
    depth++;
    return node->choice;
}

/* Runs whatever comes before the present thread (or, if it has finished, any other) continues. */
static void schedule(void)
{
    if (model->preemptions >= 0 && !threads[current].finished) {
        bool local = is_local(current, &threads[current].next);
        if (seen_grew)
            leave_run();
        if (local && !threads[current].buffered &&
            thread_enabled(&threads[current])) /* a barrier would empty the buffer, which others see */
            return;
    }
    for (;;) {
        unsigned choice = choose();
        if (choice >= IL_THREADS_MAX) {
            flush_one(&threads[choice - IL_THREADS_MAX]);
            continue;
        }
        unsigned from = current;
        current = choice;
        if (choice != from)
            swapcontext(&threads[from].context, &threads[choice].context);
        return;
    }
}

static void thread_main(void)
{
    unsigned me = current;
    for (unsigned i = 0; i < model->operations; i++)
        model->operation(me, i);
    threads[me].finished = true;
    schedule();
    abort();
}

/* ---- the hooks ---------------------------------------------------------------------------------------------------*/

void il_step(const volatile void *at, size_t bytes, bool write, const char *where, int line)
{
    for (unsigned i = 0; i < quiet_count; i++)
        if ((uintptr_t)at - quiet[i].at < quiet[i].bytes)
            return;
    if (!active)
        return;
    struct thread *me = &threads[current];
    me->next = (struct access){.at = (uintptr_t)at, .bytes = bytes, .write = write, .where = where, .line = line};
    if (at == spin && !write && me->saw)
        me->next.spin = (const void *)at;
    schedule();
    if (at == spin && !write) {
        uint64_t now = *(const volatile uint64_t *)at;
        me->saw = now & 1 ? now : 0;
    }
}

void il_touch(const void *memory, size_t bytes, bool write, const char *what)
{
    il_step(memory, bytes, write, what, 0);
}

int il_mutex_lock(pthread_mutex_t *mutex, const char *where, int line)
{
    if (!active)
        return 0;
    struct access *next = &threads[current].next;
    *next = (struct access){.at = (uintptr_t)mutex, .bytes = 1, .write = true, .where = where, .line = line};
    next->mutex = mutex == il_bug.unlocked ? NULL : mutex;
    schedule();
    il_flush_own();
    if (mutex == il_bug.unlocked)
        return 0;
    held[held_count].mutex = mutex;
    held[held_count++].owner = current;
    return 0;
}

int il_mutex_unlock(pthread_mutex_t *mutex, const char *where, int line)
{
    if (!active)
        return 0;
    il_step(mutex, 1, true, where, line);
    if (mutex == il_bug.unlocked)
        return 0;
    il_flush_own();
    int i = holder_of(mutex);
    if (i < 0 || held[i].owner != current)
        il_fail("%s gives back a mutex it does not hold", where);
    held[i] = held[--held_count];
    return 0;
}

/* Gives the mutex back and falls asleep in one step. No thread wakes without having been woken: who waits in a loop
 * does not notice that. */
int il_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, const char *where, int line)
{
    assert(active);
    struct thread *me = &threads[current];
    me->next = (struct access){.at = (uintptr_t)condition,
                               .bytes = 1,
                               .write = true,
                               .where = where,
                               .from = (uintptr_t)mutex,
                               .from_bytes = 1,
                               .line = line};
    schedule();
    il_flush_own();
    if (mutex != il_bug.unlocked) {
        int i = holder_of(mutex);
        if (i < 0 || held[i].owner != current)
            il_fail("%s waits with a mutex it does not hold", where);
        held[i] = held[--held_count];
    }
    me->asleep = condition;
    return il_mutex_lock(mutex, where, line);
}

int il_cond_wake(pthread_cond_t *condition, const char *where, int line)
{
    if (!active)
        return 0;
    il_step(condition, 1, true, where, line);
    for (unsigned i = 0; i < model->threads; i++)
        if (threads[i].asleep == condition)
            threads[i].asleep = NULL;
    return 0;
}

unsigned il_current(void)
{
    return current;
}

void il_join(unsigned thread)
{
    threads[current].next = (struct access){.at = (uintptr_t)&threads[thread],
                                            .bytes = 1,
                                            .write = true,
                                            .where = __func__,
                                            .joins = true,
                                            .joined = thread};
    schedule();
}

void *il_memcpy(void *to, const void *from, size_t bytes, const char *where, int line)
{
    if (active && bytes) {
        threads[current].next = (struct access){.at = (uintptr_t)to,
                                                .bytes = bytes,
                                                .write = true,
                                                .where = where,
                                                .from = (uintptr_t)from,
                                                .from_bytes = bytes,
                                                .line = line};
        schedule();
    }
    return memcpy(to, from, bytes);
}

long il_syscall(long number, long command, const char *where, int line)
{
    if (number != SYS_membarrier)
        return 1;
    if (!active)
        return il_asymmetric ? 0 : -1;
    (void)command;
    il_step((void *)weak.at, weak.bytes, true, where, line); /* dependent on every slot */
    for (unsigned i = 0; i < model->threads && !il_bug.no_membarrier; i++)
        flush_all(&threads[i]);
    return 0;
}

bool il_torn(const volatile void *at)
{
    return active && at == il_bug.torn;
}

bool il_buffer(volatile void *at, uint64_t value, bool strong)
{
    if (!active)
        return false;
    if (at == il_bug.lost && value & 1)
        return true;
    if (strong && !il_bug.no_seq_cst) {
        il_flush_own();
        return false;
    }
    struct thread *me = &threads[current];
    if ((uintptr_t)at - weak.at >= weak.bytes) {
        flush_all(me);
        return false;
    }
    if (me->buffered == BUFFER_MAX)
        flush_one(me);
    me->buffer[me->buffered].at = at;
    me->buffer[me->buffered++].value = value;
    return true;
}

uint64_t il_forward(const volatile void *at, uint64_t value)
{
    if (active)
        for (unsigned i = 0; i < threads[current].buffered; i++)
            if (threads[current].buffer[i].at == at)
                value = threads[current].buffer[i].value;
    return value;
}

void il_flush_own(void)
{
    if (active)
        flush_all(&threads[current]);
}

/* ---- runs --------------------------------------------------------------------------------------------------------*/

void il_restore(void)
{
    for (unsigned i = 0; i < regions_count; i++)
        memcpy(regions[i].memory, regions[i].saved, regions[i].bytes);
}

static void begin_run(void)
{
    il_restore();
    depth = held_count = 0;
    cut = false;
    for (unsigned i = 0; i < model->threads; i++) {
        struct thread *thread = &threads[i];
        if (!thread->stack)
            thread->stack = malloc(STACK_BYTES);
        assert(thread->stack);
        ASAN_UNPOISON_MEMORY_REGION(thread->stack, STACK_BYTES); /* a run that was left in the middle */
        getcontext(&thread->context);
        thread->context.uc_stack.ss_sp = thread->stack;
        thread->context.uc_stack.ss_size = STACK_BYTES;
        thread->context.uc_link = NULL;
        makecontext(&thread->context, thread_main, 0);
        thread->next = (struct access){.where = "begin"};
        thread->finished = false;
        thread->asleep = NULL;
        thread->buffered = 0;
        thread->saw = 0;
    }
    current = 0;
}

/* The next path; false if there is none. */
static bool next_path(void)
{
    while (path_length) {
        struct node *node = &path[path_length - 1];
        node->done |= (uint8_t)(1u << node->choice);
        if (answers(node)) {
            node->choice = (uint8_t)first_answer(node);
            return true;
        }
        path_length--;
    }
    return false;
}

void il_run(const struct il_model *what, struct il_result *into)
{
    model = what;
    result = into;
    *result = (struct il_result){0};
    path_length = 0;
    seen_count = 0;
    memset(seen_slot, 0, sizeof seen_slot);
    do {
        begin_run();
        volatile bool entered = false;
        getcontext(&outside);
        if (!entered) {
            entered = true;
            active = true;
            unsigned choice = choose(); /* no thread runs yet, no buffer holds anything */
            current = choice;
            setcontext(&threads[choice].context);
        }
        active = false;
        if (seen_grew) {
            seen_grew = false;
            path_length = 0;
            result->schedules = 0;
            continue;
        }
        if (cut) {
            result->equivalent++;
        } else if (!result->failed) {
            result->schedules++;
            model->finished();
        }
    } while (!result->failed && (!path_length || next_path()));
}
