/*
 * scan, count and diff: ranges of keys, page by page.
 *
 * PREFIX, --from and --to together give one range [from, to): the prefix stands for [prefix, the first key behind all
 * that begin with it). A scan asks for pages of one height: the first answer names the height that the newest was, the
 * others ask for that one, beginning behind the last key seen (--reverse: ending before it). The next page is asked for
 * before the last one is printed, so node and printing overlap.
 *
 * Ways to fail: a height that is not live (1); one that is dropped between two pages ends the output with that said.
 */
#include "cli.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A bound of a range; bytes 0: none. */
struct bound {
    uint8_t key[ENG_KEY_BYTES_MAX];
    size_t bytes;
};

static bool set_bound(const char *name, const char *text, struct bound *bound)
{
    uint8_t *key;
    size_t key_bytes;
    if (!cli_key(name, text, &key, &key_bytes))
        return false;
    memcpy(bound->key, key, key_bytes);
    bound->bytes = key_bytes;
    free(key);
    return true;
}

/* The first key, of at most ENG_KEY_BYTES_MAX bytes, that is greater than all that begin with this one; none: no bound.
 */
static void skip_prefix(struct bound *bound)
{
    while (bound->bytes && bound->key[bound->bytes - 1] == 0xff)
        bound->bytes--;
    if (bound->bytes)
        bound->key[bound->bytes - 1]++;
}

/* The next key behind this one. */
static void skip_key(struct bound *bound)
{
    if (bound->bytes < ENG_KEY_BYTES_MAX)
        bound->key[bound->bytes++] = 0;
    else
        skip_prefix(bound); /* no key continues one of full length */
}

static int compare(const struct bound *a, const struct bound *b)
{
    int order = memcmp(a->key, b->key, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

struct range_options {
    const char *from, *to, *at, *limit;
    bool reverse;
};

struct range {
    uint64_t height, limit; /* limit UINT64_MAX: none */
    struct bound from, to;
    bool reverse;
    bool empty; /* a prefix of ff bytes only has no bound behind it, but a scan may have come to its end */
};

static bool make_range(const struct range_options *given, const char *prefix, struct range *range)
{
    *range = (struct range){.limit = UINT64_MAX, .reverse = given->reverse};
    if (!cli_height(given->at, &range->height) ||
        (given->limit && !cli_number("--limit", given->limit, UINT64_MAX, &range->limit)) ||
        (given->from && !set_bound("--from", given->from, &range->from)) ||
        (given->to && !set_bound("--to", given->to, &range->to)))
        return false;
    if (prefix && *prefix) {
        struct bound begin = {.bytes = 0}, end;
        if (!set_bound("PREFIX", prefix, &begin))
            return false;
        end = begin;
        skip_prefix(&end);
        if (compare(&range->from, &begin) < 0)
            range->from = begin;
        if (end.bytes && (range->to.bytes == 0 || compare(&end, &range->to) < 0))
            range->to = end;
    }
    return true;
}

static void write_range(struct protocol_writer *request, const struct range *range, bool scan)
{
    struct protocol_range asked = {
        .height = range->height,
        .flags = (uint8_t)((range->from.bytes ? PROTOCOL_HAS_FROM : 0) | (range->to.bytes ? PROTOCOL_HAS_TO : 0) |
                           (range->reverse ? PROTOCOL_REVERSE : 0)),
        .from = range->from.key,
        .to = range->to.key,
        .from_bytes = (uint16_t)range->from.bytes,
        .to_bytes = (uint16_t)range->to.bytes,
        .limit = range->limit < UINT32_MAX ? (uint32_t)range->limit : 0,
    };
    protocol_request_begin(request, scan ? VERB_SCAN : VERB_COUNT);
    protocol_write_range(request, &asked, scan);
}

/* ---- scan ---- */

/* Goes on behind the last key of a page. */
static void advance(struct range *range, const struct protocol_entry *last)
{
    struct bound *bound = range->reverse ? &range->to : &range->from;
    memcpy(bound->key, last->key, last->key_bytes);
    bound->bytes = last->key_bytes;
    if (!range->reverse) {
        skip_key(bound);
        range->empty = bound->bytes == 0;
    }
}

/* Reads through a page to its last entry, without printing; false if it is malformed. */
static bool check_page(struct protocol_reader body, uint32_t count, struct protocol_entry *last)
{
    for (uint32_t i = 0; i < count; i++)
        if (!protocol_read_entry(&body, last))
            return false;
    return protocol_read_end(&body);
}

static int print_pages(struct cli *cli, struct range *range, struct cli_printer *printer)
{
    struct protocol_writer request = {0};
    struct pando_call *call = NULL;
    write_range(&request, range, true);
    enum eng_status status = pando_send(cli->pando, &request, &call);
    int code = CLI_DONE;
    bool again = false;
    while (status == ENG_OK && call) {
        struct pando_reply reply;
        status = pando_receive(&call, PANDO_TIMEOUT_MS, &reply);
        if (status != ENG_OK && pando_broken(cli->pando) && !again) {
            again = true; /* let go while what was printed was not read: the same page once more */
            status = pando_send(cli->pando, &request, &call);
            continue;
        }
        if (status != ENG_OK)
            break;
        again = false;
        range->height = protocol_read_u64(&reply.body);
        uint8_t more = protocol_read_u8(&reply.body);
        uint32_t count = protocol_read_u32(&reply.body);
        struct protocol_entry entry;
        if (reply.body.failed || more > 1 || (more && count == 0) || count > range->limit ||
            !check_page(reply.body, count, &entry)) {
            pando_reply_release(&reply);
            code = cli_bad_reply("scan");
            break;
        }
        if (range->limit != UINT64_MAX)
            range->limit -= count;
        if (more)
            advance(range, &entry);
        if (more && range->limit > 0 && !range->empty) {
            write_range(&request, range, true);
            status = pando_send(cli->pando, &request, &call);
        }
        for (uint32_t i = 0; i < count && protocol_read_entry(&reply.body, &entry); i++)
            cli_print_entry(printer, &entry);
        pando_reply_release(&reply);
    }
    free(request.bytes);
    return status == ENG_OK ? code : cli_fail(status);
}

int cli_scan(struct cli *cli, int argc, char **argv)
{
    struct range_options given = {0};
    const struct cli_option options[] = {
        {.name = "--from", .value = &given.from},      {.name = "--to", .value = &given.to},
        {.name = "--limit", .value = &given.limit},    {.name = "--at", .value = &given.at},
        {.name = "--reverse", .flag = &given.reverse}, {0}};
    int rest, code;
    struct range range;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest > 1)
        return cli_usage("scan", "one PREFIX at most");
    if (!make_range(&given, rest ? argv[1] : NULL, &range))
        return CLI_USE;
    code = cli_connect(cli);
    if (code != CLI_DONE || range.limit == 0)
        return code;
    struct cli_printer printer = {.format = cli->format};
    code = print_pages(cli, &range, &printer);
    cli_printer_release(&printer);
    int flushed = cli_flush(CLI_DONE);
    return code == CLI_DONE ? flushed : code;
}

int cli_count(struct cli *cli, int argc, char **argv)
{
    struct range_options given = {0};
    const struct cli_option options[] = {{.name = "--from", .value = &given.from},
                                         {.name = "--to", .value = &given.to},
                                         {.name = "--at", .value = &given.at},
                                         {0}};
    int rest, code;
    struct range range;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest > 1)
        return cli_usage("count", "one PREFIX at most");
    if (!make_range(&given, rest ? argv[1] : NULL, &range))
        return CLI_USE;
    struct protocol_writer request = {0};
    write_range(&request, &range, false);
    struct pando_reply reply;
    code = cli_ask(cli, &request, PANDO_TIMEOUT_MS, &reply);
    free(request.bytes);
    if (code != CLI_DONE)
        return code;
    protocol_read_u64(&reply.body);
    uint64_t count = protocol_read_u64(&reply.body);
    if (!protocol_read_end(&reply.body))
        code = cli_bad_reply("count");
    else
        printf("%llu\n", (unsigned long long)count);
    pando_reply_release(&reply);
    return code == CLI_DONE ? cli_flush(code) : code;
}

/* ---- diff ---- */

/* Prints one page; *more, and the last key in after. */
static int print_changes(struct protocol_reader *body, struct protocol_diff *asked, struct bound *after, bool *more,
                         struct cli_printer *printer)
{
    asked->a = protocol_read_u64(body);
    asked->b = protocol_read_u64(body);
    uint8_t follows = protocol_read_u8(body);
    uint32_t count = protocol_read_u32(body);
    if (body->failed || follows > 1 || (follows && count == 0))
        return cli_bad_reply("diff");
    *more = follows;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t change = protocol_read_u8(body);
        struct protocol_entry entry;
        if (!protocol_read_entry(body, &entry) || change > CHANGE_REPLACED)
            return cli_bad_reply("diff");
        cli_print_change(printer, (enum protocol_change)change, &entry);
        if (i + 1 == count) {
            memcpy(after->key, entry.key, entry.key_bytes);
            after->bytes = entry.key_bytes;
        }
    }
    return protocol_read_end(body) ? CLI_DONE : cli_bad_reply("diff");
}

int cli_diff(struct cli *cli, int argc, char **argv)
{
    static const struct cli_option options[] = {{0}};
    int rest, code;
    struct protocol_diff asked = {0};
    struct bound prefix = {.bytes = 0}, after = {.bytes = 0};
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest < 2 || rest > 3)
        return cli_usage("diff", "two heights are needed, and at most a PREFIX");
    if (!cli_number("A", argv[1], INT64_MAX, &asked.a) || !cli_number("B", argv[2], INT64_MAX, &asked.b) ||
        (rest == 3 && argv[3][0] && !set_bound("PREFIX", argv[3], &prefix)))
        return CLI_USE;
    asked.prefix = prefix.key;
    asked.prefix_bytes = (uint16_t)prefix.bytes;
    struct cli_printer printer = {.format = cli->format};
    struct protocol_writer request = {0};
    bool more = true;
    while (code == CLI_DONE && more) {
        asked.has_after = after.bytes > 0;
        asked.after = after.key;
        asked.after_bytes = (uint16_t)after.bytes;
        protocol_request_begin(&request, VERB_DIFF);
        protocol_write_diff(&request, &asked);
        struct pando_reply reply;
        code = cli_ask(cli, &request, PANDO_TIMEOUT_MS, &reply);
        if (code == CLI_DONE)
            code = print_changes(&reply.body, &asked, &after, &more, &printer);
        pando_reply_release(&reply);
    }
    free(request.bytes);
    cli_printer_release(&printer);
    int flushed = cli_flush(CLI_DONE);
    return code == CLI_DONE ? flushed : code;
}
