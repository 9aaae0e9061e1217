/* What a check of a whole tree finds that no checksum and no digest tells. */
#include <check.h>

#include "recovery_fixture.h"

static char text[4096];

static void note_line(void *context, const char *line)
{
    (void)context;
    size_t used = strlen(text);
    snprintf(text + used, sizeof text - used, "%s\n", line);
}

/* A tree of two values in a store with this limit, checked against another one. */
static enum eng_status checked(uint32_t stored_limit, uint32_t limit, size_t first, size_t second)
{
    static uint8_t value[2000];
    struct disk *disk;
    struct eng *eng;
    struct eng_batch *batch;
    struct store_version head;
    NEED_OK(disk_sim_open(0, &disk));
    struct eng_options options = fixture_options(disk, ENG_DURABLE_NONE);
    options.leaf_bytes = 4096;
    options.segment_bytes = 64u << 10;
    options.inline_bytes = stored_limit;
    NEED_OK(eng_open(&options, &eng));
    NEED_OK(eng_batch_open(eng, 0, NULL, &batch));
    NEED_OK(eng_batch_put(batch, (uint8_t *)"a", 1, (struct eng_value){ENG_BYTES, value, first}));
    NEED_OK(eng_batch_put(batch, (uint8_t *)"b", 1, (struct eng_value){ENG_BYTES, value, second}));
    NEED_OK(eng_batch_put(batch, (uint8_t *)"c", 1, (struct eng_value){ENG_AMOUNT, value, 16}));
    fixture_publish(&batch, 1);
    ck_assert(store_head(eng->store, 0, &head));
    text[0] = 0;
    enum eng_status status = tree_check(eng->store, head.root, 4096, limit, note_line, NULL);
    eng_close(&eng);
    disk_close(&disk);
    return status;
}

START_TEST(values_lie_where_their_size_says)
{
    for (size_t size = 0; size < 600; size++)
        ck_assert_int_eq(checked(256, 256, size, 600 - size), ENG_OK);
    ck_assert_int_eq(checked(64, 256, 256, 257), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(text, "entry 0: a value of 256 bytes is kept outside the leaf: up to 256 bytes"));
    ck_assert_ptr_null(strstr(text, "entry 1"));
    ck_assert_int_eq(checked(512, 256, 256, 257), ENG_DAMAGED);
    ck_assert_ptr_nonnull(strstr(text, "entry 1: a value of 257 bytes is kept in the leaf: up to 256 bytes"));
    ck_assert_ptr_null(strstr(text, "entry 0"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tree_check");
    TCase *places = tcase_create("places");
    tcase_set_timeout(places, 300);
    tcase_add_test(places, values_lie_where_their_size_says);
    suite_add_tcase(suite, places);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
