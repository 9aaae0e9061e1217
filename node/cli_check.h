/* The reading of a log that nobody writes, for `pando check`. */
#ifndef NODE_CLI_CHECK_H
#define NODE_CLI_CHECK_H

#include "pando/disk.h"
#include "pando/log.h"

struct ledger_log_check {
    struct disk *disk;
    const char *dir;
    const uint8_t *store_id;
    /* Every record but marks, in order, valid during the call. Faults it finds it reports itself. */
    void (*each)(void *context, const struct log_record *record);
    void (*report)(void *context, const char *line);
    void *context;
};

/* Reads all files of a log and changes nothing. A torn tail (what a crash may leave behind the last durable byte) is no
 * fault. ENG_OK, or ENG_DAMAGED after report was called; ENG_FOREIGN, ENG_VERSION, ENG_IO, ENG_NO_MEMORY. */
ENG_MUST_CHECK enum eng_status ledger_log_check(const struct ledger_log_check *check);

#endif
