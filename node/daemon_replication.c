/*
 * The ledger as replication sees it: a table of functions, each of which hands on to the function of ledger.h of the
 * same meaning. replication/ depends on nothing of node/, so the two meet here.
 *
 * Ways to fail are those of the functions called; read_sealed adds, for a height that is no longer kept, the first one
 * that is. The buffer of read_sealed begins empty in every call (size 0): the ledger writes it from its start. warn
 * writes a line into the daemon's log.
 */
#include "daemon_replication.h"

#include <assert.h>
#include <string.h>

#include "daemon_log.h"

static uint64_t table_height(void *context, uint8_t header_digest[32])
{
    return ledger_height(context, header_digest);
}

static enum eng_status table_header(void *context, uint64_t height, struct header *header)
{
    return ledger_header(context, height, header);
}

static enum eng_status table_read_sealed(void *context, uint64_t height, uint8_t **bytes, size_t *capacity,
                                         size_t *size, uint64_t *first)
{
    assert(*size == 0);
    enum eng_status status = ledger_read_sealed(context, height, bytes, capacity, size);
    if (status == ENG_GONE) {
        struct ledger_status facts;
        ledger_status(context, &facts);
        *first = facts.first_kept_block;
    }
    return status;
}

static enum eng_status table_wait(void *context, uint64_t height, int timeout_ms)
{
    return ledger_wait(context, height, timeout_ms);
}

static bool table_may_sign(void *context, const uint8_t signer[32], uint64_t epoch)
{
    return ledger_may_sign(context, signer, epoch);
}

static enum eng_status table_apply(void *context, const struct header *header, const uint8_t *sealed, size_t size)
{
    return ledger_apply(context, header, sealed, size);
}

static uint64_t table_durable(void *context)
{
    return ledger_durable(context);
}

static void table_warn(void *context, const char *line)
{
    (void)context;
    daemon_log(LOG_WARNING, "does not believe a source, goes on with the others: %s", line);
}

void daemon_replication(struct ledger *ledger, const struct genesis *genesis, const uint8_t node_public[32],
                        struct replication_ledger *table)
{
    *table = (struct replication_ledger){
        .context = ledger,
        .genesis = genesis->json,
        .genesis_bytes = genesis->json_bytes,
        .height = table_height,
        .header = table_header,
        .read_sealed = table_read_sealed,
        .wait = table_wait,
        .may_sign = table_may_sign,
        .apply = table_apply,
        .durable = table_durable,
        .warn = table_warn,
    };
    memcpy(table->ledger_id, genesis->ledger_id, sizeof table->ledger_id);
    memcpy(table->node_key, node_public, sizeof table->node_key);
}
