/*
 * What `pando status` shows: one JSON object about a node, from its ledger, its source and its follower.
 *
 * Keys (INTERFACE.md names the ones that are always there): ledger_id ledger role height root entries epoch time
 * window_ms node_key leader_key lag_blocks followers[] live_roots oldest_live_height archive_oldest_height
 * durable_height first_kept_block remembered_ids disk_bytes memory_bytes uptime_ms replication last_error version.
 * A node without an archive says null for archive_oldest_height; last_error is "" if there was none.
 */
#ifndef NODE_STATUS_H
#define NODE_STATUS_H

#include "ledger.h"

#include "pando/replication.h"

struct status_sources {
    struct ledger *ledger;
    const struct genesis *genesis;
    const uint8_t *node_public; /* 32 */
    struct source *source;      /* NULL: does not listen */
    struct follower *follower;  /* NULL: is the leader */
    uint64_t started_ms;        /* CLOCK_MONOTONIC */
};

/* malloc'ed text, NUL-terminated, without a newline. NULL: out of memory. Any thread. */
char *status_json(const struct status_sources *sources);

/* "connecting", "catching up", "live", "failed". */
const char *status_follower_state(enum follower_state state);

/* The leader's address as far as this node knows it: text is "" if it is the leader itself. */
void status_leader_address(const struct status_sources *sources, char *text, size_t text_bytes);

uint64_t status_clock_ms(void); /* CLOCK_MONOTONIC */

#endif
