/*
 * The bytes of the log. Private to log*.c. All integers are little-endian (asserted below).
 *
 * A file holds a header and then file_bytes of the stream; file n holds stream offsets [n, n+1) * file_bytes.
 *
 *   file header, 4096 bytes
 *        0  magic        8 bytes "PANDOLOG"
 *        8  version      u32, 2
 *       12  header bytes u32, 4096
 *       16  store id     32 bytes
 *       48  number       u64, n
 *       56  file bytes   u64, content bytes of every file of this log, a multiple of 4096
 *       64  salt         16 random bytes, made with the first file of this log, the same in all of them
 *       80  zeros
 *     4088  checksum     u64, XXH3-64 of bytes 0..4087; at this place in every version
 *
 *   record, at a stream offset that is a multiple of 8
 *        0  length       u32, payload bytes, at most LOG_RECORD_BYTES_MAX
 *        4  type         u32, not 0
 *        8  offset       u64, the stream offset of this record
 *       16  checksum     u64, XXH3-64, seed s, of the 24 bytes { length, type, offset, p }, where p is XXH3-64, seed s,
 *                        of the payload, s is XXH3-64, seed n, of store id and salt, and n is the number of the file
 *                        the record begins in
 *       24  payload      and zeros up to the next multiple of 8
 *
 * A record is valid if and only if it names its own offset, its type is not 0, its length is possible, its checksum
 * matches and its padding is zero.
 *
 * Payloads are what clients send, and they are read at any multiple of 8: behind an invalid record in search of marks,
 * and at the front of a file whose first record began in one that was removed. The store id is public. So it is the
 * salt, which never leaves these files, that keeps a payload from containing a record that is valid where it lies.
 * Version 1 had no salt and is refused.
 *
 *   mark, a record of type 1
 *       24  durable      u64: all of the stream before this offset was on stable storage before this mark was written
 *
 * A file appears under its name (NNNNNNNNNNNNNN.log) complete: header, zeros, synced, then renamed from NAME.tmp. So a
 * .log whose header is wrong is damaged, and a .tmp means nothing.
 */
#ifndef PANDO_LOG_FORMAT_H
#define PANDO_LOG_FORMAT_H

#include <stddef.h>
#include <string.h>

#define XXH_INLINE_ALL /* the streaming state on the stack, and no call for a 100-byte record */
#include <xxhash.h>

#include "pando/log.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the file format");

#define LOG_VERSION 2u
#define LOG_HEADER_BYTES 4096u
#define LOG_FILE_BYTES_MIN 4096u
#define LOG_SALT_BYTES 16u
#define LOG_ALIGN 8u

/* What the checksums of a log depend on, beside the bytes. */
struct log_key {
    uint8_t store_id[ENG_STORE_ID_BYTES];
    uint8_t salt[LOG_SALT_BYTES];
};
_Static_assert(sizeof(struct log_key) == 48, "hashed as it lies in memory");

struct log_file_header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint8_t store_id[ENG_STORE_ID_BYTES];
    uint64_t number;
    uint64_t file_bytes;
    uint8_t salt[LOG_SALT_BYTES];
    uint8_t zeros[LOG_HEADER_BYTES - 88];
    uint64_t checksum;
};
_Static_assert(sizeof(struct log_file_header) == LOG_HEADER_BYTES, "file header");
_Static_assert(offsetof(struct log_file_header, store_id) == 16, "file header");
_Static_assert(offsetof(struct log_file_header, number) == 48, "file header");
_Static_assert(offsetof(struct log_file_header, salt) == 64, "file header");
_Static_assert(offsetof(struct log_file_header, checksum) == 4088, "file header");

struct log_record_header {
    uint32_t length;
    uint32_t type;
    uint64_t offset;
    uint64_t checksum;
};
_Static_assert(sizeof(struct log_record_header) == 24, "record header");
_Static_assert(offsetof(struct log_record_header, checksum) == 16, "record header");

struct log_mark {
    struct log_record_header header;
    uint64_t durable;
};
_Static_assert(sizeof(struct log_mark) == 32, "mark");
#define LOG_MARK_BYTES ((uint64_t)sizeof(struct log_mark))
#define LOG_MARK_WORD (((uint64_t)LOG_MARK << 32) | 8u) /* the first eight bytes of every mark */

/* Bytes of a whole record in the stream. */
static inline uint64_t log_record_bytes(uint32_t length)
{
    return sizeof(struct log_record_header) + (((uint64_t)length + (LOG_ALIGN - 1)) & ~(uint64_t)(LOG_ALIGN - 1));
}

/* Of the records that begin in the file with this number. */
static inline uint64_t log_seed(const struct log_key *key, uint64_t number)
{
    return XXH3_64bits_withSeed(key, sizeof *key, number);
}

/* The checksum of a record whose payload lies in two parts (the second may be empty). */
static inline uint64_t log_checksum(const struct log_record_header *header, const void *first, size_t first_bytes,
                                    const void *second, size_t second_bytes, uint64_t seed)
{
    uint64_t words[3];
    memcpy(words, header, 16);
    if (second_bytes == 0) {
        words[2] = XXH3_64bits_withSeed(first, first_bytes, seed);
    } else {
        XXH3_state_t state;
        state.seed = 0; /* reset looks at both before it sets them */
        state.extSecret = NULL;
        XXH3_64bits_reset_withSeed(&state, seed);
        XXH3_64bits_update(&state, first, first_bytes);
        XXH3_64bits_update(&state, second, second_bytes);
        words[2] = XXH3_64bits_digest(&state);
    }
    return XXH3_64bits_withSeed(words, sizeof words, seed);
}

/* Could a record of the stream begin at offset with this header and end at or before limit? */
static inline bool log_header_possible(const struct log_record_header *header, uint64_t offset, uint64_t limit)
{
    return header->offset == offset && header->type != 0 && header->length <= LOG_RECORD_BYTES_MAX &&
           log_record_bytes(header->length) <= limit - offset && (header->type != LOG_MARK || header->length == 8);
}

/* Are the whole bytes of a record, header included and possible, valid? */
static inline bool log_record_valid(const uint8_t *record, uint64_t seed)
{
    struct log_record_header header;
    memcpy(&header, record, sizeof header);
    uint64_t bytes = log_record_bytes(header.length);
    for (uint64_t at = sizeof header + header.length; at < bytes; at++)
        if (record[at] != 0)
            return false;
    return header.checksum == log_checksum(&header, record + sizeof header, header.length, NULL, 0, seed);
}

#endif
