/* What replication/ needs of the ledger, as the function table of pando/replication.h. */
#ifndef NODE_DAEMON_REPLICATION_H
#define NODE_DAEMON_REPLICATION_H

#include "ledger.h"

#include "pando/replication.h"

/* The table points into ledger and genesis, which must outlive its users. */
void daemon_replication(struct ledger *ledger, const struct genesis *genesis, const uint8_t node_public[32],
                        struct replication_ledger *table);

#endif
