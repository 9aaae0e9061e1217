/*
 * libFuzzer: the decoders of node/ (transaction, block, receipt). The first byte picks one. What decodes must encode to
 * the bytes it came from; a receipt must print as JSON.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "receipt.h"
#include "transaction.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_transaction(const uint8_t *bytes, size_t size)
{
    struct transaction tx;
    uint8_t *again;
    size_t again_size;
    if (transaction_decode(bytes, size, &tx) != ENG_OK) {
        assert(tx.operations == NULL && eng_error()[0] != '\0');
        return;
    }
    enum eng_status status = transaction_encode(&tx, &again, &again_size);
    assert(status == ENG_OK && again_size == size && memcmp(again, bytes, size) == 0);
    (void)status;
    uint8_t id[TX_ID_BYTES];
    uint64_t expires_ms;
    bool peeked = transaction_peek(bytes, size, id, &expires_ms);
    assert(peeked && memcmp(id, tx.id, sizeof id) == 0 && expires_ms == tx.expires_ms);
    (void)peeked;
    free(again);
    transaction_release(&tx);
}

static void try_block(const uint8_t *bytes, size_t size)
{
    struct block block;
    if (block_decode(bytes, size, &block) != ENG_OK) {
        assert(block.transactions == NULL);
        return;
    }
    for (uint32_t i = 0; i < block.transaction_count; i++)
        try_transaction(block.transactions[i].bytes, block.transactions[i].size);
    block_release(&block);
}

static void try_receipt(const uint8_t *bytes, size_t size)
{
    struct receipt receipt;
    size_t used;
    if (receipt_decode(bytes, size, &receipt, &used) != ENG_OK)
        return;
    assert(used <= size && used == receipt_size(&receipt));
    uint8_t *again = malloc(used);
    if (again == NULL)
        return;
    receipt_encode(&receipt, again);
    assert(memcmp(again, bytes, used) == 0);
    free(again);
    json_t *json = receipt_to_json(&receipt);
    assert(json != NULL);
    char *text = json_dumps(json, JSON_COMPACT);
    assert(text != NULL);
    free(text);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] % 3) {
    case 0:
        try_transaction(data + 1, size - 1);
        break;
    case 1:
        try_block(data + 1, size - 1);
        break;
    case 2:
        try_receipt(data + 1, size - 1);
        break;
    }
    return 0;
}
