/* Every bound of the engine, by name. A queue, batch, retry or message without an entry here is a bug. */
#ifndef PANDO_LIMITS_H
#define PANDO_LIMITS_H

#define ENG_KEY_BYTES_MAX 1024u         /* keys have 1 to 1,024 bytes, any values */
#define ENG_VALUE_BYTES_MAX (16u << 20) /* values have 0 to 16 MiB */
#define ENG_ROOTS_MAX 512u              /* named top-level roots of a store */
#define ENG_TREE_DEPTH_MAX 32u          /* subtrees within subtrees */
#define ENG_NESTED_MAX 64u              /* transactions within transactions */
#define ENG_READS_MAX 65536u            /* separate ranges a serializable transaction remembers */
#define ENG_READERS_MAX 256u            /* threads that may read at the same time */
#define ENG_THREADS_MAX 16u             /* threads a merge is split over */
#define ENG_DIGEST_BYTES 32u            /* BLAKE2b-256 */
#define ENG_STORE_ID_BYTES 32u          /* ledger id, or a random id for a library store */
#define ENG_APP_STATE_BYTES_MAX 4096u   /* opaque bytes of the application kept with a checkpoint */
#define ENG_LEAF_BYTES_MIN 64u          /* T, the leaf weight, is a store parameter */
#define ENG_LEAF_BYTES_MAX 4096u
#define ENG_LEAF_BYTES_DEFAULT 2048u
#define ENG_INLINE_BYTES_MIN 64u /* values up to this stay in the leaf */
#define ENG_INLINE_BYTES_MAX 1024u
#define ENG_INLINE_BYTES_DEFAULT 256u /* by measurement: engine/README.md */
#define ENG_SEGMENT_BYTES_MIN (16u << 10)
#define ENG_SEGMENT_BYTES_MAX (1u << 30)
#define ENG_SEGMENT_BYTES_DEFAULT (32u << 20)
#define ENG_STATE_BYTES_MAX (1ull << 42) /* address space of one store's segments: 4 TiB */
#define ENG_BATCH_DEPTH_MAX 8u           /* frozen batches that may wait for their merge */

#define LOG_RECORD_BYTES_MAX (80u << 20) /* one block handed in whole, its results and framing */
#define LOG_RING_BYTES_DEFAULT (128u << 20)
#define LOG_FILE_BYTES_DEFAULT (64u << 20)

#endif
