/* What the suites of codecs are fed with: numbers and bytes that are random and the same in every run, copies of an
 * exact size, parsed JSON. */
#ifndef TESTS_CODEC_INPUT_H
#define TESTS_CODEC_INPUT_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static uint64_t random_state = 1;
static uint8_t pool[1 << 16]; /* random bytes: keys and values point in here */

static inline uint64_t random_next(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline uint32_t random_below(uint32_t n)
{
    return (uint32_t)(random_next() % n);
}

static inline void pool_fill(void)
{
    for (size_t i = 0; i < sizeof pool; i++)
        pool[i] = (uint8_t)random_next();
}

/* A copy of exactly this size, so that the address sanitizer sees a read behind it. */
static inline uint8_t *exact_copy(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    ck_assert_ptr_nonnull(copy);
    if (size > 0)
        memcpy(copy, bytes, size);
    return copy;
}

static inline json_t *parse(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    ck_assert_msg(json != NULL, "%s: %s", text, error.text);
    return json;
}

#endif
