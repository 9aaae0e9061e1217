/*
 * pando import: a block file, one block a line, appended to the ledger; a progress bar on a terminal, one summary line.
 *
 * Happy path: lines are parsed into blocks and gathered into requests of up to IMPORT_BATCH blocks or
 * IMPORT_BATCH_BYTES, several in flight; the node keeps their order. It answers each block when it is durable and
 * published.
 *
 * Ways to fail: a line that is no block, or a block that the node refuses (a transaction failed and there is no
 * --keep-going; a gap in the heights; another block at a height) stops the import there: one line that names line,
 * block, transaction, operation and code; nothing of that block is applied, and nothing behind it. What was imported
 * before stays, and the summary says how much. Exit code 1 for those, 3 if the node was lost or has no room.
 */
#include "cli_stream.h"
#include "status.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMPORT_WINDOW 4u /* requests in flight: as many blocks as the ledger queues */
#define IMPORT_BATCH 256u
#define IMPORT_BATCH_BYTES (4u << 20)
#define IMPORT_TIMEOUT_MS 600000
#define PROGRESS_MS 100
#define PROGRESS_BAR 30

struct import_item {
    uint64_t line, height;
};

struct import {
    const char *name;
    uint64_t total_bytes; /* 0: not known */
    bool terminal;
    uint64_t started_ms, shown_ms;
    uint64_t blocks, skipped, transactions, failed, height;
    char wrong[640]; /* why a line is no block; said when what stands before it is answered: that may be refused too */
};

static void show_progress(struct import *import, uint64_t consumed, bool last)
{
    uint64_t now_ms = status_clock_ms();
    if (!import->terminal || (!last && now_ms - import->shown_ms < PROGRESS_MS))
        return;
    import->shown_ms = now_ms;
    char bar[PROGRESS_BAR + 1] = "";
    unsigned percent = import->total_bytes ? (unsigned)(consumed * 100 / import->total_bytes) : 0;
    for (unsigned i = 0; i < PROGRESS_BAR; i++)
        bar[i] = i * 100 < percent * PROGRESS_BAR ? '#' : '.';
    double seconds = (double)(now_ms - import->started_ms) / 1000;
    uint64_t done = import->blocks + import->skipped;
    if (import->total_bytes)
        fprintf(stderr, "\r[%s] %3u %%  ", bar, percent);
    else
        fputc('\r', stderr);
    fprintf(stderr, "%llu blocks  %.0f/s  height %llu \033[K", (unsigned long long)done,
            seconds > 0 ? (double)done / seconds : 0, (unsigned long long)import->height);
    if (last)
        fputs("\r\033[K", stderr);
}

/* The node's text names the block itself where it was the block that was refused. */
static int refused(struct import *import, const struct import_item *item, const struct import_result *result)
{
    char block[32];
    snprintf(block, sizeof block, "block %llu: ", (unsigned long long)item->height);
    show_progress(import, 0, true);
    return cli_say(cli_exit_of(result->status), "%s: line %llu: %s%s%s", import->name, (unsigned long long)item->line,
                   strncmp(result->text, "block ", 6) == 0 ? "" : block,
                   result->text[0] ? result->text : eng_status_text(result->status),
                   result->status == ENG_CONFLICT ? "; nothing of it was applied" : "");
}

static int import_answered(void *context, struct cli_batch *batch, struct protocol_reader *reply)
{
    struct import *import = context;
    const struct import_item *items = batch->items;
    if (!reply || protocol_read_u32(reply) != batch->count)
        return cli_bad_reply("import");
    for (uint32_t i = 0; i < batch->count; i++) {
        struct import_result result;
        if (!protocol_read_import_result(reply, &result))
            return cli_bad_reply("import");
        if (result.status != ENG_OK)
            return refused(import, &items[i], &result);
        import->blocks += !result.skipped;
        import->skipped += result.skipped;
        import->transactions += result.skipped ? 0 : result.transactions;
        import->failed += result.skipped ? 0 : result.failed;
        import->height = items[i].height;
    }
    show_progress(import, batch->consumed, false);
    return protocol_read_end(reply) ? CLI_DONE : cli_bad_reply("import");
}

static struct cli_batch *new_batch(bool keep_going, uint64_t number)
{
    struct cli_batch *batch = calloc(1, sizeof *batch);
    if (batch)
        batch->items = calloc(IMPORT_BATCH, sizeof(struct import_item));
    if (!batch || !batch->items) {
        free(batch);
        return NULL;
    }
    protocol_request_begin(&batch->request, VERB_IMPORT);
    protocol_write_u8(&batch->request, keep_going);
    protocol_write_u64(&batch->request, number);
    protocol_write_u32(&batch->request, 0);
    return batch;
}

/* Parses a line; CLI_DONE, or why it is no block in import->wrong. */
static int parse_block(struct import *import, const struct cli_lines *lines, const char *text, size_t size,
                       uint8_t **bytes, size_t *bytes_size, uint64_t *height)
{
    json_error_t error;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!json) {
        snprintf(import->wrong, sizeof import->wrong, "line %llu: %s%s (column %d)", (unsigned long long)lines->line,
                 error.text, lines->partial ? ": the input ends within this line" : "", error.column);
        return CLI_NO;
    }
    enum eng_status status = block_from_json(json, bytes, bytes_size);
    *height = (uint64_t)json_integer_value(json_object_get(json, "height"));
    json_decref(json);
    if (status != ENG_OK)
        snprintf(import->wrong, sizeof import->wrong, "line %llu: %s", (unsigned long long)lines->line, eng_error());
    return cli_exit_of(status);
}

/* Hands the batch over; false: the stream has stopped. */
static bool push_batch(struct cli_stream *stream, struct cli_batch **batch, const struct cli_lines *lines)
{
    protocol_patch_u32(&(*batch)->request, 12, (*batch)->count);
    (*batch)->consumed = lines->consumed;
    bool taken = cli_stream_push(stream, *batch);
    *batch = NULL;
    return taken;
}

static int read_blocks(struct import *import, struct cli_lines *lines, struct cli_stream *stream, bool keep_going)
{
    struct cli_batch *batch = NULL;
    uint64_t number;
    randombytes_buf(&number, sizeof number);
    for (;;) {
        const char *text;
        size_t size;
        enum cli_line line = cli_lines_next(lines, batch == NULL, &text, &size);
        int code = CLI_DONE;
        uint8_t *bytes = NULL;
        size_t bytes_size = 0;
        uint64_t height = 0;
        if (line == CLI_LINE)
            code = parse_block(import, lines, text, size, &bytes, &bytes_size, &height);
        bool block = line == CLI_LINE && code == CLI_DONE;
        /* A batch goes out when it is full, when the input pauses or ends, and before the line of an error. */
        if (batch &&
            (!block || batch->count == IMPORT_BATCH || batch->request.size + bytes_size > IMPORT_BATCH_BYTES) &&
            !push_batch(stream, &batch, lines)) {
            free(bytes);
            return CLI_DONE; /* it has said why */
        }
        if (code != CLI_DONE)
            return code;
        if (line == CLI_LINE_END || line == CLI_LINE_FAILED)
            return line == CLI_LINE_FAILED ? CLI_UNABLE : CLI_DONE;
        if (!block)
            continue;
        if (!batch && !(batch = new_batch(keep_going, number))) {
            free(bytes);
            return cli_say(CLI_UNABLE, "import: out of memory");
        }
        ((struct import_item *)batch->items)[batch->count++] = (struct import_item){lines->line, height};
        protocol_write_u32(&batch->request, (uint32_t)bytes_size);
        protocol_write_bytes(&batch->request, bytes, bytes_size);
        free(bytes);
    }
}

/* The one summary line, with the root that the last block led to. */
static int print_summary(struct cli *cli, const struct import *import, bool answering)
{
    double seconds = (double)(status_clock_ms() - import->started_ms) / 1000;
    printf("imported %llu blocks, skipped %llu, %llu transactions, %llu failed, in %.2f s",
           (unsigned long long)import->blocks, (unsigned long long)import->skipped,
           (unsigned long long)import->transactions, (unsigned long long)import->failed, seconds);
    struct protocol_writer request = {0};
    protocol_request_begin(&request, VERB_ROOT);
    protocol_write_u64(&request, import->height ? import->height : ENG_HEAD);
    struct pando_reply reply;
    if (answering && pando_request(cli->pando, &request, PANDO_TIMEOUT_MS, &reply) == ENG_OK) {
        uint64_t height = protocol_read_u64(&reply.body);
        const uint8_t *digest = protocol_read_bytes(&reply.body, 32);
        char hex[65];
        if (digest)
            printf(": height %llu root %s", (unsigned long long)height, sodium_bin2hex(hex, sizeof hex, digest, 32));
        pando_reply_release(&reply);
    }
    free(request.bytes);
    putchar('\n');
    return cli_flush(CLI_DONE);
}

int cli_import(struct cli *cli, int argc, char **argv)
{
    bool keep_going = false;
    const struct cli_option options[] = {{.name = "--keep-going", .flag = &keep_going}, {0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest > 1)
        return cli_usage("import", "one FILE at most");
    struct cli_lines lines;
    code = cli_lines_open(&lines, rest ? argv[1] : NULL);
    if (code != CLI_DONE)
        return code;
    struct import import = {.name = lines.name, .total_bytes = lines.total, .terminal = isatty(STDERR_FILENO)};
    import.started_ms = status_clock_ms();
    struct cli_stream *stream;
    code = cli_connect(cli);
    if (code == CLI_DONE)
        code = cli_stream_open(cli->pando, IMPORT_WINDOW, IMPORT_TIMEOUT_MS, import_answered, &import, &stream);
    if (code == CLI_DONE) {
        code = read_blocks(&import, &lines, stream, keep_going);
        int answers = cli_stream_close(&stream);
        if (answers != CLI_DONE)
            code = answers;
        show_progress(&import, lines.consumed, true);
        if (answers == CLI_DONE && import.wrong[0])
            cli_say(code, "%s: %s", lines.name, import.wrong);
        int summary = print_summary(cli, &import, code == CLI_DONE);
        if (code == CLI_DONE)
            code = summary;
    }
    cli_lines_close(&lines);
    return code;
}
