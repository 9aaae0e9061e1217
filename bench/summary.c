/*
 * Medians and ratios (summary.h). Each column's median is taken by itself. The ratio of a Pando row is its median of
 * operations a second over that of the fastest peer in the same run: above 1 Pando is faster.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"
#include "summary.h"

#define STORES_MAX 16

void summary_add(struct summary *summary, const struct result *result)
{
    if (summary->count == summary->room) {
        size_t room = summary->room ? 2 * summary->room : 64;
        struct result *more = realloc(summary->results, room * sizeof *more);
        if (!more)
            bench_die("no memory for results");
        summary->results = more;
        summary->room = room;
    }
    summary->results[summary->count++] = *result;
}

void summary_close(struct summary *summary)
{
    free(summary->results);
    *summary = (struct summary){0};
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, order);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

struct row {
    const char *store;
    struct measurement measurement;
    double disk_mb;
    size_t rounds;
};

enum column { COLUMN_OPS, COLUMN_P50, COLUMN_P99, COLUMN_RSS, COLUMN_DISK };

static double column_of(const struct result *result, enum column column)
{
    switch (column) {
    case COLUMN_OPS:
        return result->measurement.ops_per_s;
    case COLUMN_P50:
        return result->measurement.p50_us;
    case COLUMN_P99:
        return result->measurement.p99_us;
    case COLUMN_RSS:
        return result->measurement.rss_mb;
    case COLUMN_DISK:
        return result->disk_mb;
    }
    return 0;
}

static double column_median(const struct summary *summary, enum workload workload, const char *store,
                            enum column column, double *scratch, size_t *rounds)
{
    *rounds = 0;
    for (size_t i = 0; i < summary->count; i++)
        if (summary->results[i].workload == workload && strcmp(summary->results[i].store, store) == 0)
            scratch[(*rounds)++] = column_of(&summary->results[i], column);
    return median(scratch, *rounds);
}

static size_t rows_of(const struct summary *summary, enum workload workload, double *scratch, struct row *rows)
{
    size_t count = 0;
    for (size_t i = 0; i < summary->count; i++) {
        const char *store = summary->results[i].store;
        bool known = summary->results[i].workload != workload;
        for (size_t r = 0; r < count && !known; r++)
            known = strcmp(rows[r].store, store) == 0;
        if (known || count == STORES_MAX)
            continue;
        struct row *row = &rows[count++];
        row->store = store;
        row->measurement.ops_per_s = column_median(summary, workload, store, COLUMN_OPS, scratch, &row->rounds);
        row->measurement.p50_us = column_median(summary, workload, store, COLUMN_P50, scratch, &row->rounds);
        row->measurement.p99_us = column_median(summary, workload, store, COLUMN_P99, scratch, &row->rounds);
        row->measurement.rss_mb = column_median(summary, workload, store, COLUMN_RSS, scratch, &row->rounds);
        row->disk_mb = column_median(summary, workload, store, COLUMN_DISK, scratch, &row->rounds);
    }
    return count;
}

static bool is_pando(const struct row *row)
{
    return strncmp(row->store, "pando", 5) == 0;
}

static void workload_print(const struct summary *summary, enum workload workload, double *scratch, FILE *out)
{
    struct row rows[STORES_MAX] = {0};
    size_t count = rows_of(summary, workload, scratch, rows);
    const struct row *best = NULL;
    for (size_t r = 0; r < count; r++)
        if (!is_pando(&rows[r]) && (!best || rows[r].measurement.ops_per_s > best->measurement.ops_per_s))
            best = &rows[r];
    for (size_t r = 0; r < count; r++) {
        const struct row *row = &rows[r];
        fprintf(out, "%-14s %-12s %6zu %12.0f %12.1f %12.1f %9.0f %9.0f", workload_name(workload), row->store,
                row->rounds, row->measurement.ops_per_s, row->measurement.p50_us, row->measurement.p99_us,
                row->measurement.rss_mb, row->disk_mb);
        if (is_pando(row) && best)
            fprintf(out, "  %.2f x %s", row->measurement.ops_per_s / best->measurement.ops_per_s, best->store);
        fputc('\n', out);
    }
}

void summary_print(const struct summary *summary, FILE *out)
{
    double *scratch = malloc((summary->count + 1) * sizeof *scratch);
    if (!scratch)
        bench_die("no memory for the summary");
    fprintf(out, "%-14s %-12s %6s %12s %12s %12s %9s %9s  %s\n", "workload", "store", "rounds", "ops/s", "p50 us",
            "p99 us", "rss MB", "disk MB", "pando / best peer");
    for (int workload = 0; workload < WORKLOADS; workload++)
        workload_print(summary, (enum workload)workload, scratch, out);
    free(scratch);
}
