/*
 * Many digests at once: BLAKE2b of independent messages of at most one block, in vector lanes.
 *
 * digest_nodes and digest_entries give, for every job, the very bytes of digest_node and digest_entry (pando/digest.h).
 * The jobs of one call are independent of each other. Twice 8 lanes with AVX-512, 4 with AVX2, 2 with NEON, one block
 * at a time in portable C where there is nothing else; chosen once by digest_init(), or forced for tests and benchmarks
 * by digest_use_lanes(). Reentrant: any thread, no shared state written.
 */
#ifndef ENGINE_LANES_H
#define ENGINE_LANES_H

#include "pando/digest.h"

struct digest_node_job {
    const struct eng_summary *left, *right;
    uint8_t *out; /* 32 bytes; may lie inside a summary that is an input of another call, not of this one */
    uint32_t bit;
};

/* message: the bytes of the entry rule, zero-padded to 128; length at most 128. */
struct digest_entry_job {
    _Alignas(64) uint8_t message[128];
    uint8_t *out;
    uint32_t length;
};

void digest_nodes(const struct digest_node_job *jobs, size_t count);
void digest_entries(const struct digest_entry_job *jobs, size_t count);

enum digest_lanes {
    DIGEST_LANES_SODIUM,
    DIGEST_LANES_NEON,
    DIGEST_LANES_AVX2,
    DIGEST_LANES_AVX512,
    DIGEST_LANES_SCALAR
};
/* Forces one implementation; false if this CPU or build does not have it. Not while digests are being computed.
 * The environment variable PANDO_LANES=sodium|scalar|neon|avx2|avx512, read by digest_init, does the same. */
bool digest_use_lanes(enum digest_lanes lanes);
enum digest_lanes digest_lanes_in_use(void);
const char *digest_lanes_name(enum digest_lanes lanes);

#endif
