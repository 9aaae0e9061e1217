/*
 * Crash test of the log on the simulated disk.
 *
 * A run appends and flushes random records on a log with small files and ring. Before every disk call that changes
 * something, crash images are made of what a power loss would leave then. Each image is opened and checked:
 *
 *   it opens without error; what was durable is there; what is there is exactly a prefix of what was appended, byte for
 *   byte; then another run of appends continues it, and the image crashes once more in the same way, to a depth of two.
 *
 * Records of the second run differ from those lost of the first, so a stale record that reappears behind new ones is
 * found. After each run bits of the stable log below the highest offset a mark names are flipped: the log must not
 * open, and the line must name the file and a record at or before the flipped place.
 *
 * The default run takes a few seconds; --long a few minutes; --seed N repeats one history. --planted N damages the
 * test's own view (1: a durable record is forgotten; 2: the torn tail is not cut, imitated by copying stale bytes
 * back), and the program must then fail: exit 0 only if it did.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log_format.h"
#include "pando/log.h"

#define RECORDS_MAX 400
#define LENGTH_MAX 1500u

static uint64_t images, flips;
static uint64_t chance_state;
static int planted;

static uint64_t draw(void)
{
    uint64_t z = chance_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* What is known of the history of one disk. */
struct history {
    unsigned appended;         /* records */
    uint64_t end[RECORDS_MAX]; /* offset after each */
    uint64_t tag[RECORDS_MAX]; /* what its bytes are made from */
    uint32_t length[RECORDS_MAX];
    uint64_t durable; /* acknowledged: must survive */
    struct log_options options;
    uint64_t seed;
    unsigned depth;
    unsigned every; /* images are made before one in so many calls */
    bool even;      /* all records as long as a mark: stale ones would begin where new ones end */
};

__attribute__((noreturn)) static void die(const struct history *history, const char *what)
{
    printf("FAILED seed %llu depth %u: %s: %s\n", (unsigned long long)history->seed, history->depth, what, eng_error());
    exit(1);
}

static void make_bytes(uint64_t tag, uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        if (i % 8 == 0)
            tag = (tag ^ tag >> 29) * 0xbf58476d1ce4e5b9ull + i;
        bytes[i] =
            tag % 5 == 0 ? 0 : (uint8_t)(tag >> (i % 8 * 8)); /* runs of zeros too: like what was never written */
    }
}

/* The log must hold exactly a prefix of the history, at least what is durable; returns how many records. */
static unsigned check_contents(const struct history *history, struct log *log)
{
    uint8_t expected[LENGTH_MAX], *buffer = NULL;
    size_t capacity = 0;
    unsigned found = 0;
    struct log_record record = {.end = 0};
    enum eng_status status;
    while ((status = log_read_at(log, record.end, &buffer, &capacity, &record)) == ENG_OK) {
        if (record.type < LOG_USER)
            continue;
        if (found == history->appended)
            die(history, "a record that was never appended");
        make_bytes(history->tag[found], expected, history->length[found]);
        if (record.end != history->end[found] || record.length != history->length[found] ||
            record.type != LOG_USER + history->tag[found] % 50 || memcmp(record.payload, expected, record.length) != 0)
            die(history, "a record with another place or content");
        found++;
    }
    free(buffer);
    if (status != ENG_NOT_FOUND)
        die(history, "reading back");
    if (log_durable(log) < history->durable || (found > 0 ? history->end[found - 1] : 0) > log_durable(log))
        die(history, "what was durable is gone");
    if (found < history->appended && history->end[found] <= history->durable)
        die(history, "a durable record is gone");
    return found;
}

static void run(struct history *history, struct disk *disk, unsigned appends);

/* Opens an image, checks it, and goes on with it. */
static void check_image(const struct history *before, struct disk *image, unsigned appends)
{
    struct history *after = malloc(sizeof *after);
    *after = *before;
    after->depth++;
    after->options.disk = image;
    after->options.ring_bytes = draw() % 2 ? 4096 : 2048;
    images++;
    struct log *log;
    if (planted == 1 && after->appended > 5)
        after->durable = after->end[after->appended - 1]; /* claims what was never acknowledged */
    if (log_open(&after->options, 0, &log) != ENG_OK)
        die(after, "an image does not open");
    after->appended = check_contents(after, log);
    after->durable = log_durable(log);
    if (draw() % 8 == 0) { /* from the middle it must end in the same place */
        unsigned from = after->appended ? (unsigned)(draw() % after->appended) : 0;
        uint64_t end = log_end(log), at = after->appended ? after->end[from] : 0;
        log_close(&log);
        if (log_open(&after->options, at, &log) != ENG_OK || log_durable(log) < end)
            die(after, "opening from the middle");
    }
    log_close(&log);
    if (appends > 0)
        run(after, image, appends);
    free(after);
    disk_close(&image);
}

static void before_call(void *context, struct disk *disk, uint64_t n)
{
    struct history *history = context;
    if (draw() % history->every != 0)
        return;
    unsigned count = history->depth == 0 ? 6 : 2;
    for (unsigned i = 0; i < count; i++) {
        struct disk *image;
        uint64_t seed = i < 2 && draw() % 4 == 0 ? i : draw();
        if (disk_sim_crash(disk, seed, &image) != ENG_OK)
            die(history, "making an image");
        unsigned more = history->depth == 0 && draw() % 6 == 0 ? 1 + (unsigned)(draw() % 12) : 0;
        check_image(history, image, more);
    }
}

static void append_one(struct history *history, struct log *log)
{
    uint8_t bytes[LENGTH_MAX];
    unsigned i = history->appended;
    uint64_t tag = draw();
    uint32_t length = (uint32_t)(draw() % 4 == 0 ? draw() % LENGTH_MAX : draw() % 90);
    if (history->even)
        length = 8;
    make_bytes(tag, bytes, length);
    struct log_ticket ticket;
    enum eng_status status = log_reserve(log, LOG_USER + tag % 50, length, 0, &ticket);
    if (status == ENG_BUSY) { /* the ring is full: make room */
        if (log_flush(log) != ENG_OK)
            die(history, "flushing");
        history->durable = log_durable(log);
        status = log_reserve(log, LOG_USER + tag % 50, length, 0, &ticket);
    }
    if (status != ENG_OK)
        die(history, "reserving");
    log_fill(log, &ticket, 0, bytes, length);
    history->tag[i] = tag;
    history->length[i] = length;
    history->end[i] = ticket.end;
    history->appended++;
    log_publish(log, &ticket);
}

/* Copies the content of a file below the disk seam, to imitate a log that does not cut its torn tail. */
static void restore_tail(struct history *history, struct disk *disk, struct disk *stale, uint64_t end)
{
    char path[64];
    uint8_t bytes[16384];
    struct disk_file *to, *from;
    uint64_t file = end / history->options.file_bytes, at = LOG_HEADER_BYTES + end % history->options.file_bytes;
    snprintf(path, sizeof path, "log/%014llu.log", (unsigned long long)file);
    size_t length = LOG_HEADER_BYTES + history->options.file_bytes - at;
    if (disk_open(disk, path, DISK_WRITE, &to) != ENG_OK || disk_open(stale, path, DISK_READ, &from) != ENG_OK ||
        disk_read(from, at, bytes, length) != ENG_OK || disk_write(to, at, bytes, length) != ENG_OK ||
        disk_sync(to) != ENG_OK)
        die(history, "restoring the tail");
    disk_file_close(&to);
    disk_file_close(&from);
}

/* Opens the log on the disk, appends and flushes, crashing images before its disk calls. */
static void run(struct history *history, struct disk *disk, unsigned appends)
{
    struct log *log;
    history->options.disk = disk;
    disk_sim_watch(disk, before_call, history);
    if (log_open(&history->options, 0, &log) != ENG_OK)
        die(history, "opening");
    check_contents(history, log);
    for (unsigned i = 0; i < appends && history->appended < RECORDS_MAX; i++) {
        append_one(history, log);
        if (draw() % 4 == 0) {
            if (log_wait(log, history->end[history->appended - 1], 0) != ENG_OK)
                die(history, "waiting");
            history->durable = log_durable(log);
        }
    }
    if (draw() % 2 == 0)
        log_close(&log);
    disk_sim_watch(disk, NULL, NULL);
    if (log) { /* not closed cleanly: what is only in the ring is lost */
        struct disk *image;
        if (disk_sim_crash(disk, draw() % 2, &image) != ENG_OK)
            die(history, "making an image");
        check_image(history, image, 0);
        log_close(&log);
    }
}

/* The highest offset a valid mark of the log names, and the start of every record. */
static uint64_t named_offset(const struct history *history, struct log *log, uint64_t *starts, unsigned *count)
{
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    uint64_t named = 0;
    struct log_record record = {.end = 0};
    *count = 0;
    while (log_read_at(log, record.end, &buffer, &capacity, &record) == ENG_OK) {
        if (*count == 4 * RECORDS_MAX)
            die(history, "more marks than flushes");
        starts[(*count)++] = record.offset;
        uint64_t value = 0;
        if (record.type == LOG_MARK)
            memcpy(&value, record.payload, sizeof value);
        if (value > named)
            named = value;
    }
    free(buffer);
    return named;
}

static void flip_bits(struct history *history, struct disk *disk, unsigned count)
{
    static uint64_t starts[4 * RECORDS_MAX];
    struct log *log;
    unsigned records;
    history->options.disk = disk;
    if (log_open(&history->options, 0, &log) != ENG_OK)
        die(history, "opening before flipping");
    uint64_t named = named_offset(history, log, starts, &records);
    log_close(&log);
    for (unsigned i = 0; i < count && named > 0; i++) {
        uint64_t at = draw() % named, bit = draw() % 8, file = at / history->options.file_bytes;
        uint64_t start = 0, in_file = LOG_HEADER_BYTES + at % history->options.file_bytes;
        for (unsigned r = 0; r < records && starts[r] <= at; r++)
            start = starts[r];
        char path[64], expected[128];
        snprintf(path, sizeof path, "log/%014llu.log", (unsigned long long)file);
        snprintf(expected, sizeof expected, "log/%014llu.log: record at byte %llu (log offset %llu)",
                 (unsigned long long)(start / history->options.file_bytes),
                 (unsigned long long)(LOG_HEADER_BYTES + start % history->options.file_bytes),
                 (unsigned long long)start);
        struct disk *image;
        if (disk_sim_crash(disk, 1, &image) != ENG_OK || disk_sim_flip(image, path, 8 * in_file + bit) != ENG_OK)
            die(history, "flipping");
        history->options.disk = image;
        if (log_open(&history->options, 0, &log) != ENG_DAMAGED)
            die(history, "a flipped bit below the durable mark was not noticed");
        if (strncmp(eng_error(), expected, strlen(expected)) != 0)
            die(history, expected);
        flips++;
        disk_close(&image);
    }
}

static void one_history(uint64_t seed)
{
    static struct history history;
    memset(&history, 0, sizeof history);
    chance_state = seed * 0xd1342543de82ef95ull;
    history.seed = seed;
    history.every = 1 + (unsigned)(draw() % 3);
    history.even = draw() % 3 == 0;
    history.options = (struct log_options){.dir = "log", .file_bytes = draw() % 2 ? 4096 : 12288, .ring_bytes = 2048};
    memset(history.options.store_id, (int)seed, sizeof history.options.store_id);
    struct disk *disk;
    if (disk_sim_open(0, &disk) != ENG_OK)
        die(&history, "making a disk");
    for (unsigned round = 0; round < 3; round++)
        run(&history, disk, (history.even ? 60 : 10) + (unsigned)(draw() % 15));
    disk_sim_watch(disk, NULL, NULL);
    flip_bits(&history, disk, 40);
    if (planted == 2) {
        /* lose the last records in a copy, append others to it, bring the lost bytes back behind them */
        struct log *log;
        struct disk *stale;
        history.options.disk = disk;
        if (log_open(&history.options, 0, &log) != ENG_OK)
            die(&history, "opening");
        uint64_t end = log_durable(log);
        for (unsigned i = 0; i < 6; i++)
            append_one(&history, log);
        if (log_flush(log) != ENG_OK || disk_sim_crash(disk, 1, &stale) != ENG_OK)
            die(&history, "planting");
        restore_tail(&history, disk, stale, end);
        log_close(&log);
        history.appended -= 6;
        struct disk *image;
        if (disk_sim_crash(disk, 1, &image) != ENG_OK)
            die(&history, "planting");
        check_image(&history, image, 0);
        disk_close(&stale);
    }
    disk_close(&disk);
}

/* The test is tested: with a planted fault a child must find it. */
static int planted_is_found(int fault)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        planted = fault;
        for (uint64_t seed = 1; seed < 20; seed++)
            one_history(seed);
        exit(0);
    }
    int how = 0;
    waitpid(child, &how, 0);
    bool found = WIFEXITED(how) && WEXITSTATUS(how) == 1;
    printf("planted fault %d: %s\n", fault, found ? "found" : "NOT FOUND");
    return found ? 0 : 1;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, count = 60;
    if (argc > 1 && strcmp(argv[1], "--long") == 0)
        count = 6000;
    if (argc > 2 && strcmp(argv[1], "--seed") == 0) {
        first = strtoull(argv[2], NULL, 10);
        count = 1;
    }
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (uint64_t seed = first; seed < first + count; seed++)
        one_history(seed);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds = (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9;
    printf("%llu histories, %llu crash images opened and checked, %llu flipped bits found, %.1f s (%.0f images/s)\n",
           (unsigned long long)count, (unsigned long long)images, (unsigned long long)flips, seconds,
           (double)images / seconds);
    return planted_is_found(1) | planted_is_found(2);
}
