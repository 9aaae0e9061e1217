/*
 * The record of a batch in a library store's own log (engine/durable.c): any bytes, as one record with a right
 * checksum, replayed by a start. Either the record is a batch, and the store opens, is canonical and has lost no
 * object, or it does not open and says why. With the first byte odd, three records in a row, so that subtrees are
 * opened again.
 */
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"
#include "pando/log.h"
#include "store.h"
#include "tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void need(bool good)
{
    if (!good)
        abort();
}

static void ignore(void *context, const char *line) {}

static void write_log(struct disk *disk, const uint8_t *bytes, size_t size)
{
    struct log_options options = {.disk = disk, .dir = "log", .file_bytes = 64u << 10, .ring_bytes = 64u << 10};
    struct log *log;
    need(log_open(&options, 0, &log) == ENG_OK);
    unsigned records = bytes[0] % 2 ? 3 : 1;
    bytes++;
    size--;
    for (unsigned i = 0; i < records; i++) {
        size_t length = i + 1 < records ? size / records : size - size / records * i, at = size / records * i;
        uint64_t offset, end;
        need(log_append(log, LOG_USER, bytes + at, (uint32_t)length, -1, &offset, &end) == ENG_OK);
    }
    need(log_flush(log) == ENG_OK);
    log_close(&log);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 2 || size > 8000)
        return 0;
    struct disk *disk;
    struct eng *eng;
    need(disk_sim_open(0, &disk) == ENG_OK);
    write_log(disk, bytes, size);
    struct eng_options options = {.disk = disk,
                                  .create = true,
                                  .leaf_bytes = 128,
                                  .segment_bytes = 64u << 10,
                                  .inline_only = true,
                                  .threads = 1,
                                  .durability = ENG_DURABLE_FSYNC};
    enum eng_status status = eng_open(&options, &eng);
    if (status == ENG_OK) {
        uint64_t leaked, missing;
        struct store_version head;
        need(eng_settle(eng) == ENG_OK && store_reap(eng->store, UINT64_MAX, NULL) == ENG_OK);
        need(store_audit(eng->store, &leaked, &missing) == ENG_OK && !leaked && !missing);
        for (uint32_t root = 0; root < ENG_ROOTS_MAX; root++)
            if (store_head(eng->store, root, &head))
                need(tree_check(eng->store, head.root, 128, eng->inline_bytes, ignore, NULL) == ENG_OK);
        eng_close(&eng);
    } else {
        need(eng_error()[0] != '\0');
    }
    disk_close(&disk);
    return 0;
}
