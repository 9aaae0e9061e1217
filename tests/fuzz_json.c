/*
 * libFuzzer: JSON of clients and files (transaction, block, genesis). What is taken must decode again, and what is
 * refused must leave nothing and say why in one line.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "genesis.h"
#include "transaction.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const uint8_t *bytes)
{
    assert(bytes == NULL && eng_error()[0] != '\0' && strchr(eng_error(), '\n') == NULL);
}

static void try_transaction(const json_t *json)
{
    uint8_t *bytes;
    size_t size;
    struct transaction tx;
    if (transaction_from_json(json, 7, true, &bytes, &size) != ENG_OK) {
        check_refusal(bytes);
        return;
    }
    enum eng_status status = transaction_decode(bytes, size, &tx);
    assert(status == ENG_OK && tx.expires_ms != 0);
    (void)status;
    transaction_release(&tx);
    free(bytes);
}

static void try_block(const json_t *json)
{
    uint8_t *bytes;
    size_t size;
    struct block block;
    if (block_from_json(json, &bytes, &size) != ENG_OK) {
        check_refusal(bytes);
        return;
    }
    enum eng_status status = block_decode(bytes, size, &block);
    assert(status == ENG_OK);
    (void)status;
    block_release(&block);
    free(bytes);
}

static void try_text(const uint8_t *data, size_t size)
{
    char text[100], back[AMOUNT_TEXT_MAX];
    if (size >= sizeof text)
        return;
    memcpy(text, data, size);
    text[size] = '\0';
    __int128 amount, again;
    if (amount_from_text(text, &amount) == ENG_OK) {
        amount_to_text(amount, back);
        enum eng_status status = amount_from_text(back, &again);
        assert(status == ENG_OK && again == amount);
        (void)status;
    }
    uint8_t *key;
    size_t key_bytes;
    if (key_from_text(text, &key, &key_bytes) == ENG_OK) {
        assert(key_bytes >= 1 && key_bytes <= ENG_KEY_BYTES_MAX);
        free(key);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct genesis genesis;
    if (genesis_parse((const char *)data, size, &genesis) == ENG_OK) {
        assert(genesis.json_bytes == size && memcmp(genesis.json, data, size) == 0);
        genesis_release(&genesis);
    } else {
        check_refusal((uint8_t *)genesis.json);
    }
    try_text(data, size);
    json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (json != NULL) {
        try_transaction(json);
        try_block(json);
        json_decref(json);
    }
    return 0;
}
