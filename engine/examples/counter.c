/*
 * A counter service: threads count events, each in a transaction of its own that is on disk when it returns.
 *
 *     counter DIR [EVENTS]        counts EVENTS (default 200) with 4 threads, prints what is counted
 *
 * Run it again on the same directory: it goes on counting. Shows: opening a durable store, transactions beside each
 * other, a conflict and the next attempt, reading a snapshot.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pando/engine.h>

#define THREADS 4

struct counting {
    struct eng *eng;
    unsigned events;
    unsigned conflicts;
    bool failed;
};

/* Adds one to a counter. ENG_CONFLICT: somebody else was faster, nothing has happened. */
static enum eng_status count_one(struct eng *eng, const char *name)
{
    struct eng_batch *transaction;
    enum eng_status status = eng_transaction_open(eng, 0, ENG_SERIALIZABLE, &transaction);
    if (status != ENG_OK)
        return status;
    int64_t amount[2] = {0, 0}; /* 128 bits, little-endian */
    struct eng_value value;
    status = eng_batch_get(transaction, (const uint8_t *)name, strlen(name), &value);
    if (status == ENG_OK)
        memcpy(amount, value.bytes, sizeof amount);
    if (status == ENG_OK || status == ENG_NOT_FOUND) {
        amount[0]++;
        value = (struct eng_value){ENG_AMOUNT, (const uint8_t *)amount, sizeof amount};
        status = eng_batch_put(transaction, (const uint8_t *)name, strlen(name), value);
    }
    if (status == ENG_OK)
        status = eng_transaction_commit(transaction, NULL, NULL);
    eng_batch_close(&transaction);
    return status;
}

static void *count_many(void *context)
{
    static const char *const names[] = {"event/login", "event/logout", "event/purchase"};
    struct counting *counting = context;
    for (unsigned i = 0; i < counting->events && !counting->failed;) {
        switch (count_one(counting->eng, names[i % 3])) {
        case ENG_OK:
            i++;
            break;
        case ENG_CONFLICT:
            counting->conflicts++;
            break;
        default:
            fprintf(stderr, "counter: %s\n", eng_error());
            counting->failed = true;
        }
    }
    return NULL;
}

static bool print_counter(void *context, const uint8_t *key, size_t key_bytes, const struct eng_value *value)
{
    int64_t count;
    memcpy(&count, value->bytes, sizeof count);
    printf("%-20.*s %lld\n", (int)key_bytes, (const char *)key, (long long)count);
    return true;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: counter DIR [EVENTS]\n");
        return 2;
    }
    unsigned events = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200;
    struct eng_options options = {.path = argv[1], .create = true, .durability = ENG_DURABLE_FSYNC};
    struct eng *eng;
    if (eng_open(&options, &eng) != ENG_OK) {
        fprintf(stderr, "counter: %s\n", eng_error());
        return 1;
    }
    pthread_t threads[THREADS];
    struct counting counting[THREADS];
    for (int i = 0; i < THREADS; i++) {
        counting[i] = (struct counting){.eng = eng, .events = events / THREADS};
        if (pthread_create(&threads[i], NULL, count_many, &counting[i]) != 0)
            return 1;
    }
    bool failed = false;
    unsigned conflicts = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        failed |= counting[i].failed;
        conflicts += counting[i].conflicts;
    }
    struct eng_snapshot *snapshot;
    if (!failed && eng_snapshot_open(eng, 0, ENG_HEAD, &snapshot) == ENG_OK) {
        failed = eng_scan(snapshot, NULL, 0, NULL, 0, print_counter, NULL) != ENG_OK;
        eng_snapshot_close(&snapshot);
        printf("%u attempts were refused and made again\n", conflicts);
    }
    eng_close(&eng);
    return failed ? 1 : 0;
}
