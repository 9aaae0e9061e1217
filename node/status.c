/*
 * The JSON of `pando status` (status.h lists the keys). It is built anew for each request from what the parts say of
 * themselves; each part is consistent in itself, the parts may differ by a block.
 *
 * lag_blocks is how far the source was ahead when it last answered, 0 on a leader. leader_key is the key that signed
 * the newest header; before the first block it is the first signer of the genesis.
 *
 * Ways to fail: no memory only. A header that cannot be read leaves leader_key and time as they are in the genesis.
 */
#include "status.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t status_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const char *status_follower_state(enum follower_state state)
{
    switch (state) {
    case FOLLOWER_CONNECTING:
        return "connecting";
    case FOLLOWER_CATCHING_UP:
        return "catching up";
    case FOLLOWER_LIVE:
        return "live";
    case FOLLOWER_FAILED:
        return "failed";
    }
    return "?";
}

void status_leader_address(const struct status_sources *sources, char *text, size_t text_bytes)
{
    assert(text_bytes > 0);
    text[0] = 0;
    if (!sources->follower)
        return;
    struct follower_status follower;
    follower_status(sources->follower, &follower);
    snprintf(text, text_bytes, "%s", follower.address);
}

static json_t *hex(const uint8_t *bytes, size_t size)
{
    char text[2 * 64 + 1];
    assert(size <= 64);
    sodium_bin2hex(text, sizeof text, bytes, size);
    return json_string(text);
}

static json_t *followers(const struct status_sources *sources)
{
    json_t *array = json_array();
    struct source_follower *seen = sources->source ? calloc(REPLICATION_FOLLOWERS_MAX, sizeof *seen) : NULL;
    size_t count = seen ? source_followers(sources->source, seen, REPLICATION_FOLLOWERS_MAX) : 0;
    for (size_t i = 0; i < count; i++) {
        json_t *one = json_object();
        json_object_set_new(one, "node_key", hex(seen[i].node_key, 32));
        json_object_set_new(one, "durable_height", json_integer((json_int_t)seen[i].durable_height));
        json_object_set_new(one, "seen_ms", json_integer((json_int_t)seen[i].seen_ms));
        json_array_append_new(array, one);
    }
    free(seen);
    return array;
}

/* Text that came from elsewhere: what is not UTF-8 in it must not cost the whole answer. */
static json_t *text_or_note(const char *text)
{
    json_t *string = json_string(text);
    return string ? string : json_string("(not UTF-8)");
}

static json_t *following(const struct follower_status *follower)
{
    json_t *object = json_object();
    json_object_set_new(object, "state", json_string(status_follower_state(follower->state)));
    json_object_set_new(object, "source", text_or_note(follower->address));
    json_object_set_new(object, "source_height", json_integer((json_int_t)follower->source_height));
    return object;
}

static void set_number(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

char *status_json(const struct status_sources *sources)
{
    struct ledger_status ledger;
    ledger_status(sources->ledger, &ledger);
    struct follower_status follower = {0};
    if (sources->follower)
        follower_status(sources->follower, &follower);
    struct header *header = calloc(1, sizeof *header);
    bool has_header = header && ledger.height && ledger_header(sources->ledger, ledger.height, header) == ENG_OK;

    json_t *object = json_object();
    json_object_set_new(object, "version", json_string(PANDO_VERSION));
    json_object_set_new(object, "ledger", text_or_note(sources->genesis->ledger));
    json_object_set_new(object, "ledger_id", hex(sources->genesis->ledger_id, 32));
    json_object_set_new(object, "role", json_string(ledger.role == LEDGER_LEADER ? "leader" : "follower"));
    set_number(object, "height", ledger.height);
    json_object_set_new(object, "root", hex(ledger.state.digest, 32));
    set_number(object, "entries", ledger.state.count);
    set_number(object, "epoch", ledger.epoch);
    set_number(object, "time", has_header ? header->time_ms : 0);
    set_number(object, "window_ms", sources->genesis->window_ms);
    json_object_set_new(object, "node_key", hex(sources->node_public, 32));
    json_object_set_new(object, "leader_key", hex(has_header ? header->signer : sources->genesis->signers[0], 32));
    set_number(object, "lag_blocks",
               follower.source_height > ledger.height ? follower.source_height - ledger.height : 0);
    json_object_set_new(object, "followers", followers(sources));
    json_object_set_new(object, "replication", sources->follower ? following(&follower) : json_null());
    set_number(object, "live_roots", ledger.live_roots);
    set_number(object, "oldest_live_height", ledger.oldest_live_height);
    json_object_set_new(object, "archive_oldest_height", json_null());
    set_number(object, "durable_height", ledger.durable_height);
    set_number(object, "first_kept_block", ledger.first_kept_block);
    set_number(object, "remembered_ids", ledger.remembered_ids);
    set_number(object, "disk_bytes", ledger.disk_bytes);
    set_number(object, "memory_bytes", ledger.memory_bytes);
    set_number(object, "uptime_ms", status_clock_ms() - sources->started_ms);
    json_object_set_new(object, "last_error", text_or_note(ledger.last_error[0] ? ledger.last_error : follower.error));
    free(header);
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    return text;
}
