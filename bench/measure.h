/* Clocks, percentiles, and what a process and a directory take. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stddef.h>
#include <stdint.h>

/* Monotonic. */
uint64_t measure_now_ns(void);

/* Samples of durations. When the room is used up every second one is left out from there on, so memory is bounded. */
#define SAMPLES_MAX (1u << 18)
struct samples {
    uint64_t *ns; /* SAMPLES_MAX of them */
    size_t count;
    uint64_t seen, every;
};
void samples_open(struct samples *samples);
void samples_close(struct samples *samples);
void samples_add(struct samples *samples, uint64_t ns);
/* In microseconds; sorts. share: 0.5, 0.99. 0 if there are none. */
double samples_percentile_us(struct samples *samples, double share);

/* Resident memory of this process without shared anonymous memory (the oracle): private memory and mapped files. */
double measure_rss_mb(void);
/* Allocated blocks of everything below a directory. */
double measure_disk_mb(const char *dir);
/* Removes everything below a directory, keeps the directory. */
void measure_empty_dir(const char *dir);

#endif
