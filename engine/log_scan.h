/* Finding the end of the log, and its first whole record. Private to log*.c; see log_scan.c. */
#ifndef PANDO_LOG_SCAN_H
#define PANDO_LOG_SCAN_H

#include "log_file.h"

struct log_scan {
    uint64_t from;      /* where it began */
    uint64_t end;       /* after the last valid record */
    uint64_t named;     /* the highest offset a mark named as durable, 0: no mark seen */
    uint64_t mark;      /* where the last mark in the valid prefix begins, 0: none seen */
    uint64_t dirty_end; /* after the last byte that is not zero in what follows end; end if there is none */
};

/* Reads records from an offset on, which is the start of a record or the end of the stream, to the last valid one, and
 * searches what follows for marks. ENG_DAMAGED if one names more than end, or the files end before from. */
ENG_MUST_CHECK enum eng_status log_scan(struct log_files *files, uint64_t from, struct log_scan *scan);

/* Makes what follows scan->end empty and stable, and everything from named on stable. */
ENG_MUST_CHECK enum eng_status log_scan_cut(struct log_files *files, const struct log_scan *scan);

/* The start of the first whole record at or behind the first byte kept, below limit; limit if there is none. */
ENG_MUST_CHECK enum eng_status log_scan_first(struct log_files *files, uint64_t limit, uint64_t *first);

#endif
