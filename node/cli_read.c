/*
 * Commands that ask a node one thing and print it: get, count, root, header, receipt, wait, status.
 *
 * Each builds its request, asks (cli_ask connects and says what went wrong), checks that the answer is complete, and
 * prints. Heights that are absent on the command line are the newest. Exit codes come from the node's status
 * (cli_exit_of): an absent key or a height that is no longer live is 1, a time-out is 3.
 */
#include "cli.h"
#include "status.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* Asks with a request that is freed here. */
static int ask(struct cli *cli, struct protocol_writer *request, struct pando_reply *reply)
{
    int code = cli_ask(cli, request, PANDO_TIMEOUT_MS, reply);
    free(request->bytes);
    *request = (struct protocol_writer){0};
    return code;
}

/* ---- get ---- */

int cli_get(struct cli *cli, int argc, char **argv)
{
    const char *at = NULL;
    const struct cli_option options[] = {{.name = "--at", .value = &at}, {0}};
    int rest, code;
    uint64_t height;
    uint8_t *key;
    size_t key_bytes;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest != 1)
        return cli_usage("get", "one KEY is needed");
    if (!cli_height(at, &height) || !cli_key("KEY", argv[1], &key, &key_bytes))
        return CLI_USE;
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_GET);
    protocol_write_u64(&request, height);
    protocol_write_u16(&request, (uint16_t)key_bytes);
    protocol_write_bytes(&request, key, key_bytes);
    struct pando_reply reply;
    code = cli_connect(cli);
    enum eng_status status = code == CLI_DONE ? pando_request(cli->pando, &request, PANDO_TIMEOUT_MS, &reply) : ENG_OK;
    free(request.bytes);
    if (code == CLI_DONE && status == ENG_NOT_FOUND)
        code = cli_say(CLI_NO, "%s: %s", argv[1], eng_error());
    else if (code == CLI_DONE && status != ENG_OK)
        code = cli_fail(status);
    if (code == CLI_DONE) {
        struct protocol_entry entry = {.key = key, .key_bytes = key_bytes};
        protocol_read_u64(&reply.body);
        entry.value.tag = (enum eng_tag)protocol_read_u8(&reply.body);
        entry.value.size = protocol_read_u32(&reply.body);
        entry.value.bytes = protocol_read_bytes(&reply.body, entry.value.size);
        if (!protocol_read_end(&reply.body) || entry.value.tag > ENG_AMOUNT ||
            (entry.value.tag == ENG_AMOUNT && entry.value.size != 16)) {
            code = cli_bad_reply("get");
        } else {
            struct cli_printer printer = {.format = cli->format};
            cli_print_value(&printer, &entry);
            cli_printer_release(&printer);
            code = cli_flush(CLI_DONE);
        }
        pando_reply_release(&reply);
    }
    free(key);
    return code;
}

/* ---- root ---- */

int cli_root(struct cli *cli, int argc, char **argv)
{
    const char *at = NULL;
    const struct cli_option options[] = {{.name = "--at", .value = &at}, {0}};
    int rest, code;
    uint64_t height;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest)
        return cli_usage("root", "no argument is expected");
    if (!cli_height(at, &height))
        return CLI_USE;
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_ROOT);
    protocol_write_u64(&request, height);
    struct pando_reply reply;
    code = ask(cli, &request, &reply);
    if (code != CLI_DONE)
        return code;
    height = protocol_read_u64(&reply.body);
    const uint8_t *digest = protocol_read_bytes(&reply.body, 32);
    uint64_t count = protocol_read_u64(&reply.body);
    protocol_read_bytes(&reply.body, 24);
    char hex[65];
    if (!protocol_read_end(&reply.body))
        code = cli_bad_reply("root");
    else if (cli->format == CLI_JSON)
        printf("{\"height\":%llu,\"root\":\"%s\",\"entries\":%llu}\n", (unsigned long long)height,
               sodium_bin2hex(hex, sizeof hex, digest, 32), (unsigned long long)count);
    else
        printf("%llu %s %llu\n", (unsigned long long)height, sodium_bin2hex(hex, sizeof hex, digest, 32),
               (unsigned long long)count);
    pando_reply_release(&reply);
    return code == CLI_DONE ? cli_flush(code) : code;
}

/* ---- header ---- */

/* Decimal of a 192-bit two's complement number. */
static void sum_to_text(const uint64_t sum[3], char text[64])
{
    uint64_t words[3] = {sum[0], sum[1], sum[2]};
    bool negative = words[2] >> 63;
    if (negative) {
        unsigned carry = 1;
        for (int i = 0; i < 3; i++) {
            words[i] = ~words[i] + carry;
            carry = carry && words[i] == 0;
        }
    }
    char digits[64];
    size_t count = 0;
    do {
        unsigned __int128 remainder = 0;
        for (int i = 2; i >= 0; i--) {
            unsigned __int128 value = remainder << 64 | words[i];
            words[i] = (uint64_t)(value / 10);
            remainder = value % 10;
        }
        digits[count++] = (char)('0' + (int)remainder);
    } while (words[0] | words[1] | words[2]);
    size_t at = 0;
    if (negative)
        text[at++] = '-';
    while (count)
        text[at++] = digits[--count];
    text[at] = 0;
}

static void set_hex(json_t *object, const char *name, const uint8_t *bytes, size_t size)
{
    char hex[2 * 64 + 1];
    assert(size <= 64);
    json_object_set_new(object, name, json_string(sodium_bin2hex(hex, sizeof hex, bytes, size)));
}

static json_t *header_json(const struct header *header)
{
    json_t *object = json_object();
    uint8_t digest[32];
    char sum[64];
    header_digest(header, digest);
    sum_to_text(header->state.sum, sum);
    set_hex(object, "ledger_id", header->ledger_id, 32);
    json_object_set_new(object, "height", json_integer((json_int_t)header->height));
    set_hex(object, "digest", digest, 32);
    set_hex(object, "previous", header->previous, 32);
    json_object_set_new(object, "time", json_integer((json_int_t)header->time_ms));
    json_object_set_new(object, "epoch", json_integer((json_int_t)header->epoch));
    json_object_set_new(object, "transactions", json_integer(header->transactions));
    set_hex(object, "transactions_digest", header->transactions_digest, 32);
    set_hex(object, "receipts_digest", header->receipts_digest, 32);
    set_hex(object, "root", header->state.digest, 32);
    json_object_set_new(object, "entries", json_integer((json_int_t)header->state.count));
    json_object_set_new(object, "sum", json_string(sum));
    set_hex(object, "system_root", header->system_root, 32);
    json_t *note = json_stringn(header->note, header->note_bytes);
    if (note)
        json_object_set_new(object, "note", note);
    else
        set_hex(object, "note_hex", (const uint8_t *)header->note, header->note_bytes > 64 ? 64 : header->note_bytes);
    set_hex(object, "signer", header->signer, 32);
    set_hex(object, "signature", header->signature, 64);
    return object;
}

static int print_json(json_t *object, const char *what)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return cli_say(CLI_UNABLE, "%s: out of memory", what);
    puts(text);
    free(text);
    return cli_flush(CLI_DONE);
}

int cli_header(struct cli *cli, int argc, char **argv)
{
    const char *at = NULL;
    const struct cli_option options[] = {{.name = "--at", .value = &at}, {0}};
    int rest, code;
    uint64_t height;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest)
        return cli_usage("header", "no argument is expected");
    if (!cli_height(at, &height))
        return CLI_USE;
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_HEADER);
    protocol_write_u64(&request, height);
    struct pando_reply reply;
    code = ask(cli, &request, &reply);
    if (code != CLI_DONE)
        return code;
    struct header header;
    if (header_decode(reply.body.at, (size_t)(reply.body.end - reply.body.at), &header) != ENG_OK)
        code = cli_bad_reply("header");
    else if (cli->format == CLI_HEX) {
        for (const uint8_t *byte = reply.body.at; byte < reply.body.end; byte++)
            printf("%02x", *byte);
        putchar('\n');
        code = cli_flush(CLI_DONE);
    } else {
        code = print_json(header_json(&header), "header");
    }
    pando_reply_release(&reply);
    return code;
}

/* ---- receipt ---- */

int cli_receipt(struct cli *cli, int argc, char **argv)
{
    static const struct cli_option options[] = {{0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest != 1)
        return cli_usage("receipt", "one ID is needed");
    uint8_t id[TX_ID_BYTES];
    size_t size;
    const char *end;
    if (strlen(argv[1]) != 2 * TX_ID_BYTES ||
        sodium_hex2bin(id, sizeof id, argv[1], 2 * TX_ID_BYTES, NULL, &size, &end) != 0 || size != sizeof id || *end)
        return cli_say(CLI_USE, "ID: %s is not 32 hex digits", argv[1]);
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_RECEIPT);
    protocol_write_bytes(&request, id, sizeof id);
    struct pando_reply reply;
    code = ask(cli, &request, &reply);
    if (code != CLI_DONE)
        return code;
    struct receipt receipt;
    size_t used;
    if (receipt_decode(reply.body.at, (size_t)(reply.body.end - reply.body.at), &receipt, &used) != ENG_OK)
        code = cli_bad_reply("receipt");
    else
        code = print_json(receipt_to_json(&receipt), "receipt");
    pando_reply_release(&reply);
    return code;
}

/* ---- wait ---- */

int cli_wait(struct cli *cli, int argc, char **argv)
{
    const char *height_text = NULL, *timeout_text = NULL;
    const struct cli_option options[] = {
        {.name = "--height", .value = &height_text}, {.name = "--timeout", .value = &timeout_text}, {0}};
    int rest, code, timeout_ms = -1;
    uint64_t height;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest || !height_text)
        return cli_usage("wait", "--height H is needed, and no argument");
    if (!cli_number("--height", height_text, INT64_MAX, &height) ||
        (timeout_text && !cli_seconds(timeout_text, &timeout_ms)))
        return CLI_USE;
    code = cli_connect(cli);
    if (code != CLI_DONE)
        return code;
    uint64_t started_ms = status_clock_ms();
    for (;;) {
        uint64_t gone_ms = status_clock_ms() - started_ms, slice_ms = PROTOCOL_WAIT_MS_MAX;
        if (timeout_ms >= 0 && (uint64_t)timeout_ms < gone_ms + slice_ms)
            slice_ms = (uint64_t)timeout_ms > gone_ms ? (uint64_t)timeout_ms - gone_ms : 0;
        struct protocol_writer request = {0};
        protocol_request_begin(&request, VERB_WAIT);
        protocol_write_u64(&request, height);
        protocol_write_u32(&request, (uint32_t)slice_ms);
        struct pando_reply reply;
        enum eng_status status = pando_request(cli->pando, &request, PROTOCOL_WAIT_MS_MAX + PANDO_TIMEOUT_MS, &reply);
        free(request.bytes);
        if (status == ENG_OK) {
            pando_reply_release(&reply);
            return CLI_DONE;
        }
        bool over = timeout_ms >= 0 && status_clock_ms() - started_ms >= (uint64_t)timeout_ms;
        if (status != ENG_TIMEOUT || over || pando_broken(cli->pando))
            return cli_fail(status);
    }
}

/* ---- status ---- */

static void print_status_line(const char *name, json_t *value)
{
    printf("%-22s ", name);
    if (json_is_string(value)) {
        puts(json_string_length(value) ? json_string_value(value) : "-");
    } else if (json_is_null(value)) {
        puts("-");
    } else if (json_is_array(value) && json_array_size(value) == 0) {
        puts("none");
    } else {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        puts(text ? text : "?");
        free(text);
    }
}

int cli_status(struct cli *cli, int argc, char **argv)
{
    bool as_json = false;
    const struct cli_option options[] = {{.name = "--json", .flag = &as_json}, {0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest)
        return cli_usage("status", "no argument is expected");
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_STATUS);
    struct pando_reply reply;
    code = ask(cli, &request, &reply);
    if (code != CLI_DONE)
        return code;
    size_t size = (size_t)(reply.body.end - reply.body.at);
    json_t *status = json_loadb((const char *)reply.body.at, size, 0, NULL);
    if (!json_is_object(status)) {
        code = cli_bad_reply("status");
    } else if (as_json || cli->format == CLI_JSON) {
        printf("%.*s\n", (int)size, (const char *)reply.body.at);
    } else {
        const char *name;
        json_t *value;
        json_object_foreach(status, name, value) print_status_line(name, value);
    }
    json_decref(status);
    pando_reply_release(&reply);
    return code == CLI_DONE ? cli_flush(code) : code;
}
