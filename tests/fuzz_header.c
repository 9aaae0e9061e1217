/* libFuzzer: header_decode. What decodes must encode to the bytes it came from; verifying must take any header. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "pando/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header header;
    uint8_t again[HEADER_BYTES_MAX];
    if (header_decode(data, size, &header) != ENG_OK)
        return 0;
    size_t again_size = header_encode(&header, again);
    assert(again_size == size && memcmp(again, data, size) == 0);
    (void)again_size;
    assert(!header_verify(&header)); /* a signature cannot be guessed */
    return 0;
}
