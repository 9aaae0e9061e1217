/*
 * Reader slots and epochs: who may still look at bytes that were moved away or freed.
 *
 * A reader writes the present epoch into its slot when it enters and 0 when it leaves. Who makes a segment empty
 * advances the epoch and keeps the old number; the segment may be overwritten when every slot is 0 or newer than that.
 * (Epoch-based reclamation: Fraser 2004; one slot a thread as in LMDB's reader table.)
 *
 * Entering costs no fence where the system has membarrier(2) (asymmetric, as in userspace RCU, Desnoyers 2012): the
 * reader stores its epoch with a plain store; who reclaims advances the epoch, has every running thread of the process
 * pass a full barrier, and then reads the slots. If a slot's store is not seen by that read, it came after the barrier,
 * and so did all that its thread read since: it sees every move made before, and looks objects up at their new place.
 * If it is seen, it names an epoch that is old enough to hold the segment back. Without membarrier the stores and loads
 * are seq_cst, which says the same by their one order. An epoch older than necessary in a slot only delays.
 *
 * Entering writes no time stamp. Who looks at the readers (the statistics, the maintenance thread every second) notes
 * when it first found a slot in its epoch, and begins a new one: a slot that shows the same epoch at the next look has
 * not been left in between, so a reader that is stuck is told from one that comes often.
 *
 * A thread finds its slot of a store in a small thread-local table by the store's uid, which is never reused in the
 * process; so stores may be opened, closed and opened again, several at a time. When a thread ends, a pthread key
 * gives its slots back, but only those of stores still in the registry of open ones.
 *
 * Ways to fail: all slots taken (ENG_NO_READERS), or no memory for the thread's table.
 * Invariant: a slot is owned by at most one thread; only the owner touches depth and writes seen.
 */
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "store_internal.h"

struct held {
    uint64_t uid;
    struct reader *reader;
};

/* The slots one thread holds. */
struct holder {
    size_t count, capacity;
    struct held held[];
};

/* The open stores of the process. */
static struct {
    pthread_mutex_t lock;
    struct store **stores;
    size_t count, capacity;
    uint64_t uid;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static _Thread_local struct holder *holder;
static _Thread_local struct held last; /* found most recently */
static bool asymmetric;                /* membarrier is there; never changes once a store is open */

/* Needs registry.lock. */
static bool registered(uint64_t uid)
{
    for (size_t i = 0; i < registry.count; i++)
        if (registry.stores[i]->readers.uid == uid)
            return true;
    return false;
}

static void thread_ended(void *value)
{
    struct holder *gone = value;
    pthread_mutex_lock(&registry.lock);
    for (size_t i = 0; i < gone->count; i++)
        if (registered(gone->held[i].uid)) {
            assert(gone->held[i].reader->depth == 0);
            gone->held[i].reader->taken = false;
        }
    pthread_mutex_unlock(&registry.lock);
    free(gone);
    holder = NULL;
    last.uid = 0;
}

/* Once in the process, before the first reader. */
static void make_key(void)
{
    int failed = pthread_key_create(&key, thread_ended);
    assert(!failed);
    asymmetric = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

enum eng_status readers_init(struct store *store)
{
    struct readers *readers = &store->readers;
    atomic_store_explicit(&readers->epoch, 1, memory_order_relaxed);
    for (size_t i = 0; i <= ENG_READERS_MAX; i++)
        readers->slots[i].store = store;
    pthread_once(&key_once, make_key);
    pthread_mutex_lock(&registry.lock);
    if (registry.count == registry.capacity) {
        size_t capacity = registry.capacity ? registry.capacity * 2 : 8;
        struct store **stores = realloc(registry.stores, capacity * sizeof *stores);
        if (!stores) {
            pthread_mutex_unlock(&registry.lock);
            return eng_fail(ENG_NO_MEMORY, "%s: table of open stores: out of memory", store->dir);
        }
        registry.stores = stores;
        registry.capacity = capacity;
    }
    readers->uid = ++registry.uid;
    registry.stores[registry.count++] = store;
    pthread_mutex_unlock(&registry.lock);
    return ENG_OK;
}

void readers_close(struct store *store)
{
    for (size_t i = 0; i <= ENG_READERS_MAX; i++)
        assert(atomic_load_explicit(&store->readers.slots[i].seen, memory_order_acquire) == 0);
    pthread_mutex_lock(&registry.lock);
    for (size_t i = 0; i < registry.count; i++)
        if (registry.stores[i] == store) {
            registry.stores[i] = registry.stores[--registry.count];
            break;
        }
    if (registry.count == 0) {
        free(registry.stores);
        registry.stores = NULL;
        registry.capacity = 0;
    }
    pthread_mutex_unlock(&registry.lock);
}

/* Room for one more in the thread's table; slots of closed stores are forgotten. Needs registry.lock. */
static bool holder_room(void)
{
    size_t kept = 0;
    for (size_t i = 0; holder && i < holder->count; i++)
        if (registered(holder->held[i].uid))
            holder->held[kept++] = holder->held[i];
    if (holder)
        holder->count = kept;
    if (holder && holder->count < holder->capacity)
        return true;
    size_t capacity = holder ? holder->capacity * 2 : 4;
    struct holder *grown = realloc(holder, sizeof *grown + capacity * sizeof grown->held[0]);
    if (!grown)
        return false;
    if (!holder)
        grown->count = 0;
    grown->capacity = capacity;
    holder = grown;
    return pthread_setspecific(key, holder) == 0;
}

static struct reader *reader_take(struct store *store)
{
    struct reader *reader = NULL;
    pthread_mutex_lock(&registry.lock);
    if (!holder_room()) {
        pthread_mutex_unlock(&registry.lock);
        (void)eng_fail(ENG_NO_READERS, "%s: reader slot: out of memory", store->dir);
        return NULL;
    }
    for (size_t i = 0; i < ENG_READERS_MAX && !reader; i++)
        if (!store->readers.slots[i].taken)
            reader = &store->readers.slots[i];
    if (reader) {
        reader->taken = true;
        /* relaxed: only for the statistics */
        atomic_store_explicit(&reader->thread, (int32_t)syscall(SYS_gettid), memory_order_relaxed);
        holder->held[holder->count++] = (struct held){store->readers.uid, reader};
    }
    pthread_mutex_unlock(&registry.lock);
    if (!reader)
        (void)eng_fail(ENG_NO_READERS, "%s: all %u reader slots (ENG_READERS_MAX) are taken by other threads",
                       store->dir, ENG_READERS_MAX);
    return reader;
}

struct reader *store_reader(struct store *store)
{
    assert(store->magic == STORE_MAGIC);
    if (last.uid == store->readers.uid)
        return last.reader;
    struct reader *reader = NULL;
    for (size_t i = 0; holder && i < holder->count && !reader; i++)
        if (holder->held[i].uid == store->readers.uid)
            reader = holder->held[i].reader;
    if (!reader)
        reader = reader_take(store);
    if (reader)
        last = (struct held){store->readers.uid, reader};
    return reader;
}

void reader_enter(struct reader *reader)
{
    if (reader->depth++)
        return;
    _Atomic uint64_t *epoch = &reader->store->readers.epoch;
    if (__builtin_expect(asymmetric, 1)) {
        /* relaxed store: the barrier in epoch_oldest orders it; the compiler must not move reads above. acquire load:
         * nor may the processor, or what was read in one epoch is held in the name of the next */
        atomic_store_explicit(&reader->seen, atomic_load_explicit(epoch, memory_order_acquire), memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        return;
    }
    /* seq_cst, all three: partners are epoch_advance and epoch_oldest, see the top comment */
    atomic_store_explicit(&reader->seen, atomic_load_explicit(epoch, memory_order_seq_cst), memory_order_seq_cst);
    (void)atomic_load_explicit(epoch, memory_order_seq_cst);
}

void reader_leave(struct reader *reader)
{
    assert(reader->depth > 0);
    if (--reader->depth)
        return;
    /* release: partner of the load in epoch_oldest; what was read is read before the bytes are reused */
    atomic_store_explicit(&reader->seen, 0, memory_order_release);
}

uint64_t epoch_advance(struct store *store)
{
    return atomic_fetch_add_explicit(&store->readers.epoch, 1, memory_order_seq_cst);
}

uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct epochs epoch_oldest(struct store *store)
{
    struct epochs epochs = {UINT64_MAX, UINT64_MAX};
    if (asymmetric) {
        /* every running thread passes a full barrier: the other half of reader_enter */
        long failed = syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
        if (failed)
            return (struct epochs){0, 0}; /* cannot be, once registered; nothing is given free then */
    }
    for (size_t i = 0; i <= ENG_READERS_MAX; i++) {
        /* seq_cst: partner of the store in reader_enter */
        uint64_t seen = atomic_load_explicit(&store->readers.slots[i].seen, memory_order_seq_cst);
        if (seen && seen < epochs.oldest)
            epochs.oldest = seen;
        if (seen && i == READER_WRITER)
            epochs.writer = seen;
    }
    return epochs;
}

struct readers_inside readers_look(struct store *store)
{
    struct readers_inside inside = {.seen = UINT64_MAX};
    uint64_t now = clock_ms(), since = UINT64_MAX;
    for (size_t i = 0; i < ENG_READERS_MAX; i++) {
        const struct reader *reader = &store->readers.slots[i];
        struct reader_note *note = &store->readers.notes[i];
        /* relaxed: a look at the moment */
        uint64_t seen = atomic_load_explicit(&reader->seen, memory_order_relaxed);
        if (seen != note->seen)
            *note = (struct reader_note){.seen = seen, .ms = now};
        if (!seen)
            continue;
        inside.count++;
        inside.seen = seen < inside.seen ? seen : inside.seen;
        if (note->ms < since) {
            since = note->ms;
            inside.thread = atomic_load_explicit(&reader->thread, memory_order_relaxed);
            inside.ms = now - since;
        }
    }
    if (inside.count)
        (void)epoch_advance(store);
    return inside;
}
