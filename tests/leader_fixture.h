/* The fixture of the Check suites of the ledger: a leader on the simulated disk that is stepped, and short names for
 * what is done with it. */
#ifndef TESTS_LEADER_FIXTURE_H
#define TESTS_LEADER_FIXTURE_H

#include <check.h>

#include "ledger_fixture.h"

static struct fixture f;
static struct draft draft;

static inline void setup(void)
{
    fixture_init(&f, 1);
    ck_assert_int_eq(disk_sim_open(0, &f.disk), ENG_OK);
    ck_assert_int_eq(fixture_open(&f), ENG_OK);
}

static inline void teardown(void)
{
    fixture_release(&f);
}

static inline void reopen(int deadline_ms)
{
    ledger_close(&f.ledger, deadline_ms);
    enum eng_status status = fixture_open(&f);
    ck_assert_msg(status == ENG_OK, "%s: %s", eng_status_text(status), eng_error());
}

static inline uint64_t soon(void)
{
    return f.now_ms + FIXTURE_WINDOW_MS / 2;
}

/* One transaction, one block: key = value. */
static inline void put(uint64_t number, const char *key, const char *value)
{
    struct answer answer = {0};
    draft_begin(&draft, number, soon());
    draft_value(&draft, TX_PUT, key, value);
    ck_assert_int_eq(fixture_run(&f, &draft, &answer), TX_OK);
    answer_release(&answer);
}

static inline bool holds_in(struct ledger *ledger, uint64_t height, const char *key, const char *value)
{
    struct eng_snapshot *snapshot;
    enum eng_tag tag;
    uint8_t bytes[64];
    size_t size = 0;
    ck_assert_int_eq(ledger_snapshot(ledger, height, &snapshot), ENG_OK);
    enum eng_status status =
        eng_get_copy(snapshot, (const uint8_t *)key, strlen(key), &tag, bytes, sizeof(bytes), &size);
    eng_snapshot_close(&snapshot);
    if (!value)
        return status == ENG_NOT_FOUND;
    return status == ENG_OK && size == strlen(value) && memcmp(bytes, value, size) == 0;
}

static inline bool holds(const char *key, const char *value)
{
    return holds_in(f.ledger, ENG_HEAD, key, value);
}

static inline void read_header(struct ledger *ledger, uint64_t height, struct header *header)
{
    memset(header, 0, sizeof(*header));
    enum eng_status status = ledger_header(ledger, height, header);
    ck_assert_msg(status == ENG_OK, "%s", eng_error());
}

#endif
