/*
 * Kill test and speed of the log on POSIX files.
 *
 * Each round forks a child that opens the log in a temporary directory, appends from four threads, waits for
 * durability, and only then writes {thread, number, offset} to a pipe. The parent kills it with SIGKILL at a random
 * moment, reads the pipe to its end, and opens the log itself: every acknowledged record must be there, at its offset,
 * with its content, and the records of each thread must be numbered without a gap over all rounds. Now and then the log
 * is trimmed. (SIGKILL leaves the page cache alone; power loss is tried in prog_log_crash.)
 *
 * 10 rounds by default, 300 with --long. --rate measures durable appends of 100 bytes with 1, 4 and 64 threads in the
 * directory given (/tmp by default); --prepare what a sync costs in a file whose space was only reserved, and in one
 * that was filled with zeros.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pando/log.h"

#define THREADS 4u
#define THREADS_MAX 64u

struct acknowledged { /* written to the pipe in one piece */
    uint32_t thread, number;
    uint64_t offset;
};

static char root[256];
static struct log_options options;
static struct log *writing;

__attribute__((noreturn)) static void die(const char *what)
{
    fprintf(stderr, "FAILED: %s: %s\n", what, eng_error());
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void set_up(const char *under)
{
    snprintf(root, sizeof root, "%s/pando-log-XXXXXX", under);
    if (mkdtemp(root) == NULL || disk_posix_open(root, &options.disk) != ENG_OK)
        die("making a directory");
    options.dir = "log";
    memset(options.store_id, 3, sizeof options.store_id);
}

static void tear_down(void)
{
    char command[300];
    disk_close(&options.disk);
    snprintf(command, sizeof command, "rm -rf %s", root);
    if (system(command) != 0)
        die("cleaning up");
}

static uint32_t content(uint32_t thread, uint32_t number, uint8_t *bytes)
{
    uint32_t length = 8 + (number * 2654435761u ^ thread * 40503u) % 2000;
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(number * 7 + thread * 13 + i + i / 251);
    memcpy(bytes, &thread, 4);
    memcpy(bytes + 4, &number, 4);
    return length;
}

/* --- the child ----------------------------------------------------------------------------------------------- */

struct appender {
    pthread_t thread;
    uint32_t number, next;
    int pipe;
};

static void *append_for_ever(void *argument)
{
    struct appender *self = argument;
    uint8_t bytes[2048];
    for (;; self->next++) {
        uint32_t length = content(self->number, self->next, bytes);
        struct acknowledged done = {self->number, self->next, 0};
        uint64_t end;
        if (log_append(writing, LOG_USER + self->number, bytes, length, -1, &done.offset, &end) != ENG_OK ||
            log_wait(writing, end, -1) != ENG_OK)
            die("appending in the child");
        if (write(self->pipe, &done, sizeof done) != sizeof done)
            die("writing to the pipe");
    }
    return NULL;
}

static void child_main(int pipe, const uint32_t *next)
{
    static struct appender appenders[THREADS];
    options.flusher = true;
    if (log_open(&options, 0, &writing) != ENG_OK)
        die("opening in the child");
    for (uint32_t i = 0; i < THREADS; i++) {
        appenders[i] = (struct appender){.number = i, .next = next[i], .pipe = pipe};
        if (pthread_create(&appenders[i].thread, NULL, append_for_ever, &appenders[i]) != 0)
            die("starting a thread");
    }
    for (;;)
        pause();
}

/* --- the parent ---------------------------------------------------------------------------------------------- */

/* Reads the whole log; the records of each thread must follow each other; next becomes one more than its last. */
static uint64_t check_log(struct log *log, uint32_t *next, bool *known)
{
    uint8_t expected[2048], *buffer = NULL;
    size_t capacity = 0;
    uint64_t count = 0;
    struct log_record record = {.end = log_begin(log)};
    enum eng_status status;
    while ((status = log_read_at(log, record.end, &buffer, &capacity, &record)) == ENG_OK) {
        if (record.type < LOG_USER)
            continue;
        uint32_t thread, number;
        memcpy(&thread, record.payload, 4);
        memcpy(&number, record.payload + 4, 4);
        if (record.length < 8 || thread >= THREADS || record.type != LOG_USER + thread)
            die("a record of nobody");
        if (known[thread] && number != next[thread])
            die("a gap in the records of a thread");
        if (record.length != content(thread, number, expected) || memcmp(expected, record.payload, record.length) != 0)
            die("a record with another content");
        known[thread] = true;
        next[thread] = number + 1;
        count++;
    }
    if (status != ENG_NOT_FOUND)
        die("reading the log");
    free(buffer);
    return count;
}

static void check_acknowledged(struct log *log, const struct acknowledged *done, uint8_t **buffer, size_t *capacity)
{
    struct log_record record;
    uint32_t thread, number;
    if (log_read_at(log, done->offset, buffer, capacity, &record) != ENG_OK)
        die("an acknowledged record is gone");
    memcpy(&thread, record.payload, 4);
    memcpy(&number, record.payload + 4, 4);
    if (thread != done->thread || number != done->number)
        die("another record where one was acknowledged");
}

static uint64_t one_round(unsigned round, uint32_t *next)
{
    int ends[2];
    if (pipe(ends) != 0)
        die("making a pipe");
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        child_main(ends[1], next);
    }
    close(ends[1]);
    struct timespec wait = {.tv_nsec = 2000000 + rand() % 60000000};
    nanosleep(&wait, NULL);
    uint64_t count = 0;
    static struct acknowledged done[1 << 20];
    bool killed = false;
    while (read(ends[0], &done[count], sizeof *done) == sizeof *done) { /* small writes to a pipe are whole */
        count += count + 1 < sizeof done / sizeof *done;
        if (!killed && (count > 20 || rand() % 8 == 0)) {
            kill(child, SIGKILL);
            killed = true;
        }
    }
    if (!killed)
        kill(child, SIGKILL);
    int how;
    if (waitpid(child, &how, 0) != child || !WIFSIGNALED(how) || WTERMSIG(how) != SIGKILL)
        die("the child ended by itself");
    close(ends[0]);

    bool known[THREADS] = {false};
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    options.flusher = false;
    if (log_open(&options, 0, &writing) != ENG_OK)
        die("opening after the kill");
    check_log(writing, next, known);
    for (uint64_t i = 0; i < count; i++)
        check_acknowledged(writing, &done[i], &buffer, &capacity);
    free(buffer);
    if (round % 5 == 4 && log_trim(writing, log_durable(writing)) != ENG_OK)
        die("trimming");
    log_close(&writing);
    return count;
}

static void kill_rounds(unsigned rounds)
{
    uint32_t next[THREADS] = {0};
    uint64_t acknowledged = 0;
    options.file_bytes = 256u << 10;
    options.ring_bytes = 64u << 10;
    for (unsigned round = 0; round < rounds; round++)
        acknowledged += one_round(round, next);
    if (acknowledged == 0)
        die("nothing was ever acknowledged");
    printf("%u rounds, %llu records acknowledged, all found\n", rounds, (unsigned long long)acknowledged);
}

/* --- speed --------------------------------------------------------------------------------------------------- */

struct runner {
    pthread_t thread;
    uint64_t appends;
};
static _Atomic bool stop;

static void *append_and_wait(void *argument)
{
    struct runner *self = argument;
    uint8_t bytes[100] = {1};
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint64_t end;
        if (log_append(writing, LOG_USER, bytes, sizeof bytes, -1, NULL, &end) != ENG_OK ||
            log_wait(writing, end, -1) != ENG_OK)
            die("appending");
        self->appends++;
    }
    return NULL;
}

static void rate(unsigned threads)
{
    static struct runner runners[THREADS_MAX];
    options.flusher = true;
    if (log_open(&options, 0, &writing) != ENG_OK)
        die("opening");
    uint64_t end;
    if (log_append(writing, LOG_USER, "first", 5, -1, NULL, &end) != ENG_OK || log_wait(writing, end, -1) != ENG_OK)
        die("appending");
    while (log_disk_bytes(writing) < 2ull * LOG_FILE_BYTES_DEFAULT) /* let the next file be made first */
        usleep(1000);
    atomic_store(&stop, false);
    double begun = seconds();
    for (unsigned i = 0; i < threads; i++) {
        runners[i].appends = 0;
        if (pthread_create(&runners[i].thread, NULL, append_and_wait, &runners[i]) != 0)
            die("starting a thread");
    }
    usleep(2000000);
    atomic_store(&stop, true);
    uint64_t appends = 0;
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(runners[i].thread, NULL);
        appends += runners[i].appends;
    }
    printf("%2u threads: %8.0f durable appends/s of 100 bytes\n", threads, (double)appends / (seconds() - begun));
    log_close(&writing);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Quantiles, because other work on the disk shows in a mean. */
static void sync_cost(bool zeroed, uint32_t bytes)
{
    enum { ROUNDS = 500, SIZE = 16 << 20 };
    static uint8_t zeros[SIZE];
    static double times[ROUNDS];
    struct disk_file *file;
    if (disk_open(options.disk, "file", DISK_CREATE, &file) != ENG_OK || disk_truncate(file, 0) != ENG_OK ||
        disk_extend(file, SIZE) != ENG_OK || (zeroed && disk_write(file, 0, zeros, SIZE) != ENG_OK) ||
        disk_sync(file) != ENG_OK)
        die("making a file");
    for (unsigned i = 0; i < ROUNDS; i++) {
        double begun = seconds();
        if (disk_write(file, (uint64_t)i * bytes, zeros, bytes) != ENG_OK || disk_sync(file) != ENG_OK)
            die("writing");
        times[i] = (seconds() - begun) * 1e6;
    }
    qsort(times, ROUNDS, sizeof *times, by_size);
    printf("%-8s %5u bytes: a write and sync takes %5.0f us (p10), %5.0f (p50), %5.0f (p90)\n",
           zeroed ? "zeroed" : "reserved", bytes, times[ROUNDS / 10], times[ROUNDS / 2], times[ROUNDS * 9 / 10]);
    disk_file_close(&file);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    set_up(argc > 2 ? argv[2] : "/tmp");
    srand(12345);
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(what, "--rate") == 0) {
        rate(1);
        rate(4);
        rate(64);
    } else if (strcmp(what, "--prepare") == 0) {
        sync_cost(false, 160);
        sync_cost(true, 160);
        sync_cost(false, 8192);
        sync_cost(true, 8192);
    } else {
        kill_rounds(strcmp(what, "--long") == 0 ? 300 : 10);
    }
    tear_down();
    return 0;
}
