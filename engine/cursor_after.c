/*
 * The upper bound: the first entry behind a key, of the lower bound and one step.
 *
 * For a serializable transaction the key itself counts as looked at.
 */
#include "pando/engine.h"

#include <assert.h>
#include <string.h>

enum eng_status eng_cursor_seek_after(struct eng_cursor *cursor, const uint8_t *key, size_t key_bytes)
{
    assert(key);
    enum eng_status status = eng_cursor_seek(cursor, key, key_bytes);
    if (status != ENG_OK)
        return status;
    size_t at_bytes;
    const uint8_t *at = eng_cursor_key(cursor, &at_bytes);
    return at_bytes == key_bytes && memcmp(at, key, key_bytes) == 0 ? eng_cursor_next(cursor) : ENG_OK;
}
