/*
 * Genesis: the few bytes that say what a ledger is, and whose digest is its id.
 *
 *   {"format":1,"ledger":NAME,"modules":[],"nonce":32 hex digits,"signers":[64 hex digits...],"window_ms":600000}\n
 *
 * It is valid if and only if these are the keys, in this order, without spaces, hex digits are lower case, there are 1
 * to GENESIS_SIGNERS_MAX different signers, and the name has 1 to GENESIS_NAME_MAX bytes of UTF-8 without control
 * characters. That it is the one way to write it is checked by writing it again and comparing the bytes: a file that
 * any reader could take differently is refused.
 *
 * The happy path: genesis_make fills the fields and writes the JSON; genesis_parse reads it. Both end in the ledger id,
 * BLAKE2b-256 with the personal string "pando genesis" over the exact bytes.
 *
 * Failures: ENG_INVALID names the key; ENG_VERSION for a format above 1; ENG_NO_MEMORY. Nothing is left allocated then.
 * This version has no modules; a list that is not empty is ENG_INVALID.
 */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "pando/header.h"

#include "genesis.h"

#define FORMAT 1
#define KEYS 6u
#define NONCE_BYTES 16u
#define SIGNER_BYTES 32u
#define GENESIS_BYTES_MAX (1u << 20)
#define WINDOW_MS_MAX (366ull * 24 * 3600 * 1000) /* ids are remembered for as long */
#define PERSONAL "pando genesis"

static enum eng_status key_fail(const char *key, const char *why)
{
    return eng_fail(ENG_INVALID, "genesis: %s: %s", key, why);
}

/* ---- writing ---- */

static json_t *hex_string(const uint8_t *bytes, size_t size)
{
    char text[2 * SIGNER_BYTES + 1];
    sodium_bin2hex(text, sizeof text, bytes, size);
    return json_string(text);
}

static json_t *signer_list(const struct genesis *genesis)
{
    json_t *list = json_array();
    for (size_t i = 0; i < genesis->signer_count && list != NULL; i++) {
        if (json_array_append_new(list, hex_string(genesis->signers[i], SIGNER_BYTES)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* The one way to write these fields: malloc'ed, with the newline. NULL: no memory. */
static char *write_json(const struct genesis *genesis, size_t *size)
{
    json_t *json = json_object();
    bool whole = json != NULL && json_object_set_new(json, "format", json_integer(FORMAT)) == 0 &&
                 json_object_set_new(json, "ledger", json_string(genesis->ledger)) == 0 &&
                 json_object_set_new(json, "modules", json_array()) == 0 &&
                 json_object_set_new(json, "nonce", hex_string(genesis->nonce, NONCE_BYTES)) == 0 &&
                 json_object_set_new(json, "signers", signer_list(genesis)) == 0 &&
                 json_object_set_new(json, "window_ms", json_integer((json_int_t)genesis->window_ms)) == 0;
    char *text = NULL;
    size_t length = whole ? json_dumpb(json, NULL, 0, JSON_SORT_KEYS | JSON_COMPACT) : 0;
    if (length > 0 && (text = malloc(length + 2)) != NULL) {
        json_dumpb(json, text, length, JSON_SORT_KEYS | JSON_COMPACT);
        text[length] = '\n';
        text[length + 1] = '\0';
        *size = length + 1;
    }
    json_decref(json);
    return text;
}

/* ---- checks ---- */

static enum eng_status set_name(struct genesis *genesis, const char *name, size_t size)
{
    if (size == 0 || size > GENESIS_NAME_MAX)
        return key_fail("ledger", "a name has 1 to 64 bytes");
    if (!header_note_valid(name, size))
        return key_fail("ledger", "not UTF-8");
    for (size_t i = 0; i < size; i++)
        if ((uint8_t)name[i] < 0x20 || name[i] == 0x7f)
            return key_fail("ledger", "a control character");
    memcpy(genesis->ledger, name, size);
    genesis->ledger[size] = '\0';
    return ENG_OK;
}

static enum eng_status set_window(struct genesis *genesis, uint64_t window_ms)
{
    if (window_ms == 0 || window_ms > WINDOW_MS_MAX)
        return key_fail("window_ms", "not from 1 to 31622400000 milliseconds");
    genesis->window_ms = window_ms;
    return ENG_OK;
}

static enum eng_status add_signer(struct genesis *genesis, const uint8_t signer[SIGNER_BYTES])
{
    if (genesis->signer_count == GENESIS_SIGNERS_MAX)
        return key_fail("signers", "more than 64");
    for (size_t i = 0; i < genesis->signer_count; i++)
        if (memcmp(genesis->signers[i], signer, SIGNER_BYTES) == 0)
            return key_fail("signers", "the same key twice");
    memcpy(genesis->signers[genesis->signer_count++], signer, SIGNER_BYTES);
    return ENG_OK;
}

/* Hex digits that make exactly size bytes; that they are lower case is found by writing them again. */
static bool read_hex(const json_t *json, uint8_t *bytes, size_t size)
{
    return json_is_string(json) && json_string_length(json) == 2 * size &&
           sodium_hex2bin(bytes, size, json_string_value(json), 2 * size, NULL, NULL, NULL) == 0;
}

static enum eng_status finish(struct genesis *genesis, char *json, size_t json_bytes)
{
    genesis->json = json;
    genesis->json_bytes = json_bytes;
    header_hash(PERSONAL, json, json_bytes, genesis->ledger_id);
    return ENG_OK;
}

enum eng_status genesis_make(const char *ledger, const uint8_t signer[32], uint64_t window_ms, const uint8_t *nonce,
                             struct genesis *genesis)
{
    memset(genesis, 0, sizeof *genesis);
    enum eng_status status = set_name(genesis, ledger, strlen(ledger));
    if (status == ENG_OK)
        status = set_window(genesis, window_ms);
    if (status == ENG_OK)
        status = add_signer(genesis, signer);
    if (status != ENG_OK)
        return status;
    if (nonce != NULL)
        memcpy(genesis->nonce, nonce, NONCE_BYTES);
    else
        randombytes_buf(genesis->nonce, NONCE_BYTES);
    size_t size = 0;
    char *json = write_json(genesis, &size);
    if (json == NULL)
        return eng_fail(ENG_NO_MEMORY, "genesis: no memory");
    return finish(genesis, json, size);
}

/* ---- reading ---- */

static enum eng_status read_signers(const json_t *list, struct genesis *genesis)
{
    if (!json_is_array(list) || json_array_size(list) == 0)
        return key_fail("signers", "not a list of keys");
    for (size_t i = 0; i < json_array_size(list); i++) {
        uint8_t signer[SIGNER_BYTES];
        if (!read_hex(json_array_get(list, i), signer, sizeof signer))
            return key_fail("signers", "not 64 hex digits each");
        enum eng_status status = add_signer(genesis, signer);
        if (status != ENG_OK)
            return status;
    }
    return ENG_OK;
}

static enum eng_status read_fields(const json_t *json, struct genesis *genesis)
{
    const json_t *format = json_object_get(json, "format"), *name = json_object_get(json, "ledger"),
                 *modules = json_object_get(json, "modules"), *window = json_object_get(json, "window_ms");
    if (!json_is_integer(format) || json_integer_value(format) < 1)
        return key_fail("format", "missing or not an integer from 1");
    if (json_integer_value(format) > FORMAT)
        return eng_fail(ENG_VERSION, "genesis: format %lld is newer than %d, the one known here",
                        (long long)json_integer_value(format), FORMAT);
    if (json_object_size(json) != KEYS)
        return eng_fail(ENG_INVALID, "genesis: %zu keys where there must be %u", json_object_size(json), KEYS);
    if (!json_is_string(name))
        return key_fail("ledger", "missing or not a string");
    if (!json_is_array(modules))
        return key_fail("modules", "missing or not a list");
    if (json_array_size(modules) > 0)
        return key_fail("modules", "this version does not have modules");
    if (!json_is_integer(window) || json_integer_value(window) < 1)
        return key_fail("window_ms", "missing or not a positive integer");
    if (!read_hex(json_object_get(json, "nonce"), genesis->nonce, NONCE_BYTES))
        return key_fail("nonce", "missing or not 32 hex digits");
    enum eng_status status = set_name(genesis, json_string_value(name), json_string_length(name));
    if (status == ENG_OK)
        status = set_window(genesis, (uint64_t)json_integer_value(window));
    if (status == ENG_OK)
        status = read_signers(json_object_get(json, "signers"), genesis);
    return status;
}

enum eng_status genesis_parse(const char *json, size_t json_bytes, struct genesis *genesis)
{
    memset(genesis, 0, sizeof *genesis);
    if (json_bytes > GENESIS_BYTES_MAX)
        return eng_fail(ENG_INVALID, "genesis: %zu bytes are over %u", json_bytes, GENESIS_BYTES_MAX);
    json_error_t error;
    json_t *root = json_loadb(json, json_bytes, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        for (char *at = error.text; *at != '\0'; at++) /* it quotes the input: keep it one line */
            if (*at < 0x20 || *at >= 0x7f)
                *at = '?';
        return eng_fail(ENG_INVALID, "genesis: offset %d: not JSON: %s", error.position, error.text);
    }
    enum eng_status status =
        json_is_object(root) ? read_fields(root, genesis) : eng_fail(ENG_INVALID, "genesis: not an object");
    json_decref(root);
    if (status != ENG_OK)
        return status;
    size_t size = 0;
    char *again = write_json(genesis, &size);
    if (again == NULL)
        return eng_fail(ENG_NO_MEMORY, "genesis: no memory");
    if (size != json_bytes || memcmp(again, json, size) != 0) {
        size_t same = 0;
        while (same < size && same < json_bytes && again[same] == json[same])
            same++;
        free(again);
        return eng_fail(ENG_INVALID, "genesis: offset %zu: not written the canonical way", same);
    }
    return finish(genesis, again, size);
}

void genesis_release(struct genesis *genesis)
{
    free(genesis->json);
    genesis->json = NULL;
    genesis->json_bytes = 0;
}
