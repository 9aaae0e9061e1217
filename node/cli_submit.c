/*
 * pando submit: transactions, one JSON object a line, to the node; one line of answer for each, in the same order.
 *
 * Happy path: lines are parsed into transactions and gathered into requests of up to SUBMIT_BATCH; a request goes out
 * when it is full or when the input pauses. Answers are printed and flushed as they come.
 *
 * What is printed for a line: its receipt; or, refused before it got a place in the order, {"id":..,"ok":false,
 * "code":..,"detail":..}; or, if the line is no transaction, {"ok":false,"code":"MALFORMED","line":N,"detail":..} and
 * the same on stderr, with the line's number. Lines after it are submitted all the same.
 *
 * A transaction without "expires" gets the node's time plus nine tenths of the genesis window: the whole window could
 * already be too far ahead for a block that was opened a moment before.
 *
 * Exit code: 0 all ok; 1 some not; 3 if all that failed were refused as BUSY or NOT_LEADER, or the node was lost.
 */
#include "cli_stream.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SUBMIT_WINDOW 16u /* requests in flight: several blocks' worth, so that none waits for a client */
#define SUBMIT_BATCH 512u
#define SUBMIT_BATCH_BYTES (1u << 20)

struct submit_item {
    uint8_t id[TX_ID_BYTES];
    uint64_t line;
    char *detail; /* malformed: why; then nothing was sent for it */
    enum tx_code code;
};

struct submit {
    const char *name;
    uint64_t window_ms, ledger_ms; /* of the node, when the stream began */
    uint64_t answered, refused;    /* lines; of them not ok */
    uint64_t malformed, unable;    /* of these: said already; for want of room or a leader */
};

static void print_json(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    puts(text ? text : "{\"ok\":false,\"code\":\"MALFORMED\",\"detail\":\"no memory to print the answer\"}");
    free(text);
    json_decref(object);
}

static void print_refusal(const struct submit_item *item, enum tx_code code, const char *detail, size_t detail_bytes)
{
    json_t *object = json_object();
    if (item->detail) {
        json_object_set_new(object, "line", json_integer((json_int_t)item->line));
    } else {
        char id[2 * TX_ID_BYTES + 1];
        json_object_set_new(object, "id", json_string(sodium_bin2hex(id, sizeof id, item->id, TX_ID_BYTES)));
    }
    json_object_set_new(object, "ok", json_false());
    json_object_set_new(object, "code", json_string(tx_code_name(code)));
    if (detail_bytes)
        json_object_set_new(object, "detail", json_stringn(detail, detail_bytes));
    print_json(object);
}

/* Prints what the node said of one transaction; false if that is malformed. */
static bool print_answer(struct submit *submit, const struct submit_item *item, struct protocol_reader *reply)
{
    uint8_t code = protocol_read_u8(reply);
    uint32_t size = protocol_read_u32(reply);
    const uint8_t *bytes = protocol_read_bytes(reply, size);
    if (reply->failed || code > TX_NOT_LEADER)
        return false;
    if (code != TX_OK) {
        submit->refused++;
        submit->unable += code == TX_BUSY || code == TX_NOT_LEADER;
        print_refusal(item, (enum tx_code)code, (const char *)bytes, size);
        return true;
    }
    struct receipt receipt;
    size_t used;
    if (receipt_decode(bytes, size, &receipt, &used) != ENG_OK || used != size)
        return false;
    submit->refused += receipt.code != TX_OK;
    print_json(receipt_to_json(&receipt));
    return true;
}

static int submit_answered(void *context, struct cli_batch *batch, struct protocol_reader *reply)
{
    struct submit *submit = context;
    struct submit_item *items = batch->items;
    uint32_t expected = 0;
    for (uint32_t i = 0; i < batch->count; i++)
        expected += items[i].detail == NULL;
    if (reply && protocol_read_u32(reply) != expected)
        return cli_bad_reply("submit");
    bool good = true;
    submit->answered += batch->count;
    for (uint32_t i = 0; i < batch->count; i++) {
        if (items[i].detail) {
            submit->refused++;
            submit->malformed++;
            print_refusal(&items[i], items[i].code, items[i].detail, strlen(items[i].detail));
            free(items[i].detail);
            items[i].detail = NULL;
        } else if (good) {
            good = print_answer(submit, &items[i], reply);
        }
    }
    if (!good || (reply && !protocol_read_end(reply)))
        return cli_bad_reply("submit");
    return cli_flush(CLI_DONE);
}

static uint64_t expires_default(const struct submit *submit)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return (now_ms > submit->ledger_ms ? now_ms : submit->ledger_ms) + submit->window_ms - submit->window_ms / 10;
}

/* Adds a line to the batch: the transaction, or why it is none. */
static int add_line(struct submit *submit, struct cli_batch *batch, const struct cli_lines *lines, const char *text,
                    size_t size)
{
    struct submit_item *item = (struct submit_item *)batch->items + batch->count;
    *item = (struct submit_item){.line = lines->line};
    json_error_t error;
    char detail[640];
    uint8_t *bytes = NULL;
    size_t bytes_size = 0;
    uint64_t expires_ms;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    enum eng_status status = ENG_INVALID;
    if (!json)
        snprintf(detail, sizeof detail, "%s%s (column %d)", error.text,
                 lines->partial ? ": the input ends within this line" : "", error.column);
    else if ((status = transaction_from_json(json, expires_default(submit), false, &bytes, &bytes_size)) != ENG_OK)
        snprintf(detail, sizeof detail, "%s", eng_error());
    json_decref(json);
    if (status == ENG_OK) {
        if (!transaction_peek(bytes, bytes_size, item->id, &expires_ms)) {
            free(bytes);
            return cli_say(CLI_UNABLE, "%s: line %llu: its encoding is malformed", lines->name,
                           (unsigned long long)lines->line);
        }
        protocol_write_u32(&batch->request, (uint32_t)bytes_size);
        protocol_write_bytes(&batch->request, bytes, bytes_size);
        free(bytes);
    } else {
        cli_say(CLI_NO, "%s: line %llu: %s", lines->name, (unsigned long long)lines->line, detail);
        item->code = status == ENG_TOO_LARGE ? TX_TOO_LARGE : TX_MALFORMED;
        item->detail = strdup(detail);
        if (!item->detail)
            return cli_say(CLI_UNABLE, "%s: line %llu: out of memory", lines->name, (unsigned long long)lines->line);
    }
    batch->count++;
    return CLI_DONE;
}

static struct cli_batch *new_batch(void)
{
    struct cli_batch *batch = calloc(1, sizeof *batch);
    if (batch)
        batch->items = calloc(SUBMIT_BATCH, sizeof(struct submit_item));
    if (!batch || !batch->items) {
        free(batch);
        return NULL;
    }
    protocol_request_begin(&batch->request, VERB_SUBMIT);
    protocol_write_u32(&batch->request, 0);
    return batch;
}

/* Sets the number of transactions; a batch without any asks nothing. */
static void finish_batch(struct cli_batch *batch)
{
    const struct submit_item *items = batch->items;
    uint32_t transactions = 0;
    for (uint32_t i = 0; i < batch->count; i++)
        transactions += items[i].detail == NULL;
    if (transactions)
        protocol_patch_u32(&batch->request, 3, transactions);
    else
        batch->request.size = 0;
}

static int read_stream(struct submit *submit, struct cli_lines *lines, struct cli_stream *stream)
{
    struct cli_batch *batch = NULL;
    int code = CLI_DONE;
    for (;;) {
        const char *text;
        size_t size;
        enum cli_line line = cli_lines_next(lines, batch == NULL, &text, &size);
        if (line == CLI_LINE) {
            if (!batch && !(batch = new_batch()))
                return cli_say(CLI_UNABLE, "submit: out of memory");
            code = add_line(submit, batch, lines, text, size);
            if (code != CLI_DONE)
                break;
            if (batch->count < SUBMIT_BATCH && batch->request.size < SUBMIT_BATCH_BYTES)
                continue;
        }
        if (batch) {
            finish_batch(batch);
            bool taken = cli_stream_push(stream, batch);
            batch = NULL;
            if (!taken)
                return CLI_DONE; /* it has said why */
        }
        if (line == CLI_LINE_END || line == CLI_LINE_FAILED)
            return line == CLI_LINE_FAILED ? CLI_UNABLE : CLI_DONE;
    }
    cli_batch_free(batch);
    return code;
}

/* Window and time of the node. */
static int ask_times(struct cli *cli, struct submit *submit)
{
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_STATUS);
    struct pando_reply reply;
    int code = cli_ask(cli, &request, PANDO_TIMEOUT_MS, &reply);
    free(request.bytes);
    if (code != CLI_DONE)
        return code;
    json_t *status = json_loadb((const char *)reply.body.at, (size_t)(reply.body.end - reply.body.at), 0, NULL);
    json_t *window = json_object_get(status, "window_ms"), *time_ms = json_object_get(status, "time");
    bool good = json_is_integer(window) && json_is_integer(time_ms);
    if (good) {
        submit->window_ms = (uint64_t)json_integer_value(window);
        submit->ledger_ms = (uint64_t)json_integer_value(time_ms);
    }
    json_decref(status);
    pando_reply_release(&reply);
    return good ? CLI_DONE : cli_bad_reply("status");
}

int cli_submit(struct cli *cli, int argc, char **argv)
{
    static const struct cli_option options[] = {{0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest > 1)
        return cli_usage("submit", "one FILE at most");
    struct cli_lines lines;
    struct submit submit = {0};
    code = cli_lines_open(&lines, rest ? argv[1] : NULL);
    if (code != CLI_DONE)
        return code;
    struct cli_stream *stream;
    code = ask_times(cli, &submit);
    if (code == CLI_DONE)
        code = cli_stream_open(cli->pando, SUBMIT_WINDOW, PANDO_TIMEOUT_MS, submit_answered, &submit, &stream);
    if (code == CLI_DONE) {
        code = read_stream(&submit, &lines, stream);
        int answers = cli_stream_close(&stream);
        if (answers != CLI_DONE)
            code = answers;
    }
    cli_lines_close(&lines);
    if (code != CLI_DONE || submit.refused == 0)
        return code;
    code = submit.unable == submit.refused ? CLI_UNABLE : CLI_NO;
    if (submit.refused == submit.malformed)
        return code;
    return cli_say(code, "submit: %llu of %llu transactions failed or were refused",
                   (unsigned long long)(submit.refused - submit.malformed),
                   (unsigned long long)(submit.answered - submit.malformed));
}
