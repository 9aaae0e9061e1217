/* The results of a run: kept as they come, at the end a table of medians a workload and store. */
#ifndef BENCH_SUMMARY_H
#define BENCH_SUMMARY_H

#include <stdint.h>
#include <stdio.h>

#include "workload.h"

struct result {
    enum workload workload;
    const char *store; /* not owned */
    struct measurement measurement;
    double disk_mb;
};

struct summary {
    struct result *results;
    size_t count, room;
};

void summary_add(struct summary *summary, const struct result *result);
/* Medians over the rounds; a store whose name begins with "pando" is compared with the fastest of the others. */
void summary_print(const struct summary *summary, FILE *out);
void summary_close(struct summary *summary);

#endif
