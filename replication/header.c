/*
 * The signed header of a block: codec, digest, signature.
 *
 *   offset  bytes  what                              (all integers little-endian)
 *        0      2  version = 1
 *        2     32  ledger id
 *       34      8  height
 *       42     32  digest of the previous header (height 1: the ledger id)
 *       74      8  time in ms since 1970
 *       82      8  epoch
 *       90     32  digest of the transactions
 *      122     32  digest of the receipts
 *      154     64  summary of the state: digest 32, count 8, sum 24
 *      218     32  root of the system tree
 *      250      4  number of transactions
 *      254      2  note bytes n
 *      256      n  note
 *    256+n     32  signer (Ed25519 public key)
 *    288+n     64  signature
 *
 * A header is valid if and only if it has exactly 352 + n bytes, version 1, n at most HEADER_NOTE_MAX and a note that
 * is UTF-8. So there is one encoding for each header, and decoding then encoding gives the same bytes.
 *
 * What is signed is "pando committed" and then the digest of everything before the signature. The 15 bytes in front
 * keep the signature from meaning anything but "this block is committed".
 *
 * Encoding does not fail: the caller fills in a note that header_note_valid() accepts, and that is asserted. Decoding
 * fails with ENG_DAMAGED and says at which offset. Who may sign is not decided here.
 */
#include <assert.h>
#include <string.h>

#include <sodium.h>

#include "pando/header.h"

#define NOTE_OFFSET 256u
#define SIGNER_BYTES 32u
#define SIGNATURE_BYTES 64u
#define HEADER_BYTES_MIN (NOTE_OFFSET + SIGNER_BYTES + SIGNATURE_BYTES)
#define SIGNED_PREFIX "pando committed"
#define SIGNED_PREFIX_BYTES (sizeof SIGNED_PREFIX - 1)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie in memory");
_Static_assert(HEADER_BYTES_MIN + HEADER_NOTE_MAX <= HEADER_BYTES_MAX, "every header fits");
_Static_assert(SIGNED_PREFIX_BYTES == 15, "as the format says");
_Static_assert(crypto_sign_BYTES == SIGNATURE_BYTES && crypto_sign_PUBLICKEYBYTES == SIGNER_BYTES, "Ed25519");

/* ---- the bytes ---- */

/* Length of the UTF-8 sequence at text, 0 if there is none: no overlong forms, no surrogates, at most U+10FFFF. */
static size_t sequence_length(const uint8_t *text, size_t left)
{
    uint8_t first = text[0];
    if (first < 0x80)
        return 1;
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if ((first == 0xe0 && text[1] < 0xa0) || (first == 0xed && text[1] > 0x9f) || (first == 0xf0 && text[1] < 0x90) ||
        (first == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

bool header_note_valid(const char *note, size_t note_bytes)
{
    if (note_bytes > HEADER_NOTE_MAX)
        return false;
    for (size_t at = 0; at < note_bytes;) {
        size_t length = sequence_length((const uint8_t *)note + at, note_bytes - at);
        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

static uint8_t *put(uint8_t *to, const void *bytes, size_t size)
{
    memcpy(to, bytes, size);
    return to + size;
}

static const uint8_t *get(const uint8_t *from, void *bytes, size_t size)
{
    memcpy(bytes, from, size);
    return from + size;
}

/* Everything before the signature. */
static size_t encode_unsigned(const struct header *header, uint8_t bytes[HEADER_BYTES_MAX])
{
    assert(header_note_valid(header->note, header->note_bytes));
    uint16_t version = HEADER_VERSION;
    uint8_t *to = bytes;
    to = put(to, &version, sizeof version);
    to = put(to, header->ledger_id, sizeof header->ledger_id);
    to = put(to, &header->height, sizeof header->height);
    to = put(to, header->previous, sizeof header->previous);
    to = put(to, &header->time_ms, sizeof header->time_ms);
    to = put(to, &header->epoch, sizeof header->epoch);
    to = put(to, header->transactions_digest, sizeof header->transactions_digest);
    to = put(to, header->receipts_digest, sizeof header->receipts_digest);
    to = put(to, &header->state, sizeof header->state);
    to = put(to, header->system_root, sizeof header->system_root);
    to = put(to, &header->transactions, sizeof header->transactions);
    to = put(to, &header->note_bytes, sizeof header->note_bytes);
    assert(to == bytes + NOTE_OFFSET);
    to = put(to, header->note, header->note_bytes);
    to = put(to, header->signer, sizeof header->signer);
    return (size_t)(to - bytes);
}

size_t header_encode(const struct header *header, uint8_t bytes[HEADER_BYTES_MAX])
{
    size_t size = encode_unsigned(header, bytes);
    memcpy(bytes + size, header->signature, sizeof header->signature);
    size += sizeof header->signature;
    assert(size == HEADER_BYTES_MIN + header->note_bytes);
    return size;
}

enum eng_status header_decode(const uint8_t *bytes, size_t size, struct header *header)
{
    if (size < HEADER_BYTES_MIN)
        return eng_fail(ENG_DAMAGED, "header: cut off at %zu bytes, the shortest has %u", size, HEADER_BYTES_MIN);
    memset(header, 0, sizeof *header);
    uint16_t version;
    const uint8_t *from = get(bytes, &version, sizeof version);
    if (version != HEADER_VERSION)
        return eng_fail(ENG_DAMAGED, "header: offset 0: version %u is not known here", version);
    from = get(from, header->ledger_id, sizeof header->ledger_id);
    from = get(from, &header->height, sizeof header->height);
    from = get(from, header->previous, sizeof header->previous);
    from = get(from, &header->time_ms, sizeof header->time_ms);
    from = get(from, &header->epoch, sizeof header->epoch);
    from = get(from, header->transactions_digest, sizeof header->transactions_digest);
    from = get(from, header->receipts_digest, sizeof header->receipts_digest);
    from = get(from, &header->state, sizeof header->state);
    from = get(from, header->system_root, sizeof header->system_root);
    from = get(from, &header->transactions, sizeof header->transactions);
    from = get(from, &header->note_bytes, sizeof header->note_bytes);
    assert(from == bytes + NOTE_OFFSET);
    if (header->note_bytes > HEADER_NOTE_MAX)
        return eng_fail(ENG_DAMAGED, "header: offset 254: a note of %u bytes is over %u", header->note_bytes,
                        HEADER_NOTE_MAX);
    if (size != HEADER_BYTES_MIN + header->note_bytes)
        return eng_fail(ENG_DAMAGED, "header: has %zu bytes where its note of %u makes it %u", size, header->note_bytes,
                        HEADER_BYTES_MIN + header->note_bytes);
    from = get(from, header->note, header->note_bytes);
    if (!header_note_valid(header->note, header->note_bytes))
        return eng_fail(ENG_DAMAGED, "header: offset 256: the note is not UTF-8");
    from = get(from, header->signer, sizeof header->signer);
    from = get(from, header->signature, sizeof header->signature);
    assert(from == bytes + size);
    return ENG_OK;
}

/* ---- digest and signature ---- */

void header_hash(const char *personal, const void *bytes, size_t size, uint8_t digest[32])
{
    uint8_t padded[crypto_generichash_blake2b_PERSONALBYTES] = {0};
    static const uint8_t no_salt[crypto_generichash_blake2b_SALTBYTES];
    size_t length = strlen(personal);
    assert(length <= sizeof padded);
    memcpy(padded, personal, length);
    int result = crypto_generichash_blake2b_salt_personal(digest, 32, bytes, size, NULL, 0, no_salt, padded);
    assert(result == 0);
    (void)result;
}

void header_digest(const struct header *header, uint8_t digest[32])
{
    uint8_t bytes[HEADER_BYTES_MAX];
    header_hash("pando header", bytes, encode_unsigned(header, bytes), digest);
}

static void signed_message(const struct header *header, uint8_t message[SIGNED_PREFIX_BYTES + 32])
{
    memcpy(message, SIGNED_PREFIX, SIGNED_PREFIX_BYTES);
    header_digest(header, message + SIGNED_PREFIX_BYTES);
}

void header_sign(struct header *header, const uint8_t secret[64])
{
    uint8_t message[SIGNED_PREFIX_BYTES + 32];
    int result = crypto_sign_ed25519_sk_to_pk(header->signer, secret);
    assert(result == 0);
    signed_message(header, message);
    result = crypto_sign_detached(header->signature, NULL, message, sizeof message, secret);
    assert(result == 0);
    (void)result;
}

bool header_verify(const struct header *header)
{
    uint8_t message[SIGNED_PREFIX_BYTES + 32];
    signed_message(header, message);
    return crypto_sign_verify_detached(header->signature, message, sizeof message, header->signer) == 0;
}
