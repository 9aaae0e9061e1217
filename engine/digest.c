/*
 * The digest rule by libsodium: the reference for the lanes, and what is used where there is one digest to make.
 *
 * Every digest is BLAKE2b-256 without a key, domain-separated by the personal parameter (entry, node, value); a node
 * has its bit as the salt. libsodium pads nothing: personal and salt are the 16 bytes given.
 *
 * Invariants: a message of a node is exactly one block of 128 bytes; that of an entry is at most one block if the key
 * and the payload together have at most 124 bytes, so most entries go through the lanes. The summaries are hashed as
 * they lie in memory, hence the assertion on the byte order below.
 *
 * Nothing here fails but digest_init(); lengths outside the limits are programming errors.
 */
#include <assert.h>
#include <pthread.h>
#include <string.h>

#include <sodium.h>

#include "lanes_kernel.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "summaries are hashed as they lie in memory");
_Static_assert(sizeof(struct digest_entry_job) % 64 == 0, "a message begins on a cache line");

#define PERSONAL_BYTES crypto_generichash_blake2b_PERSONALBYTES
#define ENTRY_HEAD_BYTES 4u
#define ENTRY_BYTES_MAX (ENTRY_HEAD_BYTES + ENG_KEY_BYTES_MAX + DIGEST_VALUE_INLINE_MAX)

static const uint8_t personal_entry[PERSONAL_BYTES] = "pando entry";
static const uint8_t personal_node[PERSONAL_BYTES] = "pando node";
static const uint8_t personal_value[PERSONAL_BYTES] = "pando value";
static const uint8_t no_salt[crypto_generichash_blake2b_SALTBYTES];

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool ready;

static void init(void)
{
    if (sodium_init() < 0)
        return;
    lanes_choose();
    ready = true;
}

bool digest_init(void)
{
    return pthread_once(&once, init) == 0 && ready;
}

static void blake2b(const uint8_t *personal, const uint8_t *salt, const void *message, size_t bytes, uint8_t out[32])
{
    int result = crypto_generichash_blake2b_salt_personal(out, 32, message, bytes, NULL, 0, salt, personal);
    assert(result == 0);
    (void)result;
}

void digest_node(const struct eng_summary *left, const struct eng_summary *right, uint32_t bit, uint8_t out[32])
{
    struct eng_summary message[2] = {*left, *right};
    uint8_t salt[crypto_generichash_blake2b_SALTBYTES] = {0};
    memcpy(salt, &bit, sizeof bit);
    blake2b(personal_node, salt, message, sizeof message, out);
}

void digest_value(const uint8_t *value, size_t value_bytes, uint8_t out[32])
{
    assert(value_bytes <= ENG_VALUE_BYTES_MAX);
    blake2b(personal_value, no_salt, value, value_bytes, out);
}

void digest_entry_message(const uint8_t *message, size_t bytes, uint8_t out[32])
{
    blake2b(personal_entry, no_salt, message, bytes, out);
}

void digest_entry(const uint8_t *key, size_t key_bytes, enum eng_tag tag, const uint8_t *value, size_t value_bytes,
                  const uint8_t *value_digest, uint8_t out[32])
{
    assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX);
    assert(value_bytes <= ENG_VALUE_BYTES_MAX);
    assert(tag != ENG_AMOUNT || value_bytes == 16);
    assert(tag != ENG_TREE || value_bytes == sizeof(struct eng_summary));
    uint8_t message[ENTRY_BYTES_MAX];
    bool outside = value_bytes > DIGEST_VALUE_INLINE_MAX;
    message[0] = (uint8_t)key_bytes;
    message[1] = (uint8_t)(key_bytes >> 8);
    message[2] = (uint8_t)tag;
    message[3] = outside;
    memcpy(message + ENTRY_HEAD_BYTES, key, key_bytes);
    uint8_t *payload = message + ENTRY_HEAD_BYTES + key_bytes;
    size_t payload_bytes = value_bytes;
    if (outside) {
        uint64_t length = value_bytes;
        memcpy(payload, &length, sizeof length);
        if (value_digest != NULL)
            memcpy(payload + sizeof length, value_digest, ENG_DIGEST_BYTES);
        else
            digest_value(value, value_bytes, payload + sizeof length);
        payload_bytes = sizeof length + ENG_DIGEST_BYTES;
    } else if (value_bytes > 0) {
        memcpy(payload, value, value_bytes);
    }
    digest_entry_message(message, ENTRY_HEAD_BYTES + key_bytes + payload_bytes, out);
}

uint32_t digest_first_bit(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    size_t shorter = a_bytes < b_bytes ? a_bytes : b_bytes, i = 0;
    while (i + 8 <= shorter) {
        uint64_t x, y;
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y) {
            i += (size_t)__builtin_ctzll(x ^ y) / 8;
            return (uint32_t)(9 * i + 1) + (uint32_t)__builtin_clz((uint32_t)(a[i] ^ b[i]) << 24);
        }
        i += 8;
    }
    while (i < shorter && a[i] == b[i])
        i++;
    if (i < shorter)
        return (uint32_t)(9 * i + 1) + (uint32_t)__builtin_clz((uint32_t)(a[i] ^ b[i]) << 24);
    assert(a_bytes != b_bytes); /* equal keys have no such bit */
    return (uint32_t)(9 * i);
}
