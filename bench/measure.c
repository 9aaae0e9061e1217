/*
 * Measuring (measure.h).
 *
 * Percentiles are exact as long as there are at most SAMPLES_MAX samples. Beyond that the kept ones are thinned to
 * every second, then every fourth: an even subsample, since durations do not depend on the parity of their number.
 */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"
#include "store.h"

uint64_t measure_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void samples_open(struct samples *samples)
{
    *samples = (struct samples){.every = 1, .ns = malloc(SAMPLES_MAX * sizeof *samples->ns)};
    if (!samples->ns)
        bench_die("no memory for samples");
}

void samples_close(struct samples *samples)
{
    free(samples->ns);
    *samples = (struct samples){0};
}

void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->seen++ % samples->every != 0)
        return;
    if (samples->count == SAMPLES_MAX) {
        for (size_t i = 0; i < SAMPLES_MAX / 2; i++)
            samples->ns[i] = samples->ns[2 * i];
        samples->count /= 2;
        samples->every *= 2;
    }
    samples->ns[samples->count++] = ns;
}

static int order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

double samples_percentile_us(struct samples *samples, double share)
{
    if (samples->count == 0)
        return 0;
    qsort(samples->ns, samples->count, sizeof *samples->ns, order);
    size_t at = (size_t)(share * (double)samples->count);
    return (double)samples->ns[at < samples->count ? at : samples->count - 1] / 1e3;
}

double measure_rss_mb(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kb, total = 0;
    if (!status)
        bench_die("/proc/self/status: %s", strerror(errno));
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %ld", &kb) == 1 || sscanf(line, "RssFile: %ld", &kb) == 1)
            total += kb;
    fclose(status);
    return (double)total / 1024;
}

static uint64_t blocks_found;

static int blocks_add(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    if (kind == FTW_F)
        blocks_found += (uint64_t)info->st_blocks;
    return 0;
}

double measure_disk_mb(const char *dir)
{
    blocks_found = 0;
    if (nftw(dir, blocks_add, 16, FTW_PHYS) != 0)
        bench_die("%s: %s", dir, strerror(errno));
    return (double)blocks_found * 512 / (1 << 20);
}

static int path_remove(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    if (where->level > 0 && remove(path) != 0)
        bench_die("%s: %s", path, strerror(errno));
    return 0;
}

void measure_empty_dir(const char *dir)
{
    if (nftw(dir, path_remove, 16, FTW_PHYS | FTW_DEPTH) != 0)
        bench_die("%s: %s", dir, strerror(errno));
}
