/*
 * prove and verify: proofs made by a node, checked without one.
 *
 * prove asks the node for a proof file (of keys, a range, a difference) and writes it under a temporary name, then
 * renames it, so that FILE is always whole. verify reads a file and says what it proves, if and only if all of these
 * hold:
 *
 *   1. the file is a proof in its one form, and leads to a root (pando/verify.h);
 *   2. the header in it decodes, and the root of the state it names is that root;
 *   3. with --root: that root is the given one;
 *   4. with --node-key or --genesis: the header's signature is right, and by one of those keys; with --genesis the
 *      header also is of that ledger.
 *
 * Ways to fail: 1 and why; 2 if none of --node-key, --root and --genesis is given.
 */
#include "cli.h"

#include "pando/proof.h"
#include "pando/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NODE_KEYS_MAX 64u

/* ---- prove ---- */

static int write_file(const char *path, const uint8_t *bytes, size_t size)
{
    char temporary[4096];
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >= sizeof temporary)
        return cli_say(CLI_USE, "-o: the path is too long");
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        return cli_say(CLI_UNABLE, "%s: %s", temporary, strerror(errno));
    for (size_t written = 0; written < size;) {
        ssize_t part = write(file, bytes + written, size - written);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0) {
            int error = errno;
            close(file);
            unlink(temporary);
            return cli_say(CLI_UNABLE, "%s: %s", temporary, strerror(error));
        }
        written += (size_t)part;
    }
    if (close(file) != 0 || rename(temporary, path) != 0) {
        int error = errno;
        unlink(temporary);
        return cli_say(CLI_UNABLE, "%s: %s", path, strerror(error));
    }
    return CLI_DONE;
}

/* What is asked for, besides the keys. */
struct prove_use {
    const char *at, *output, *from, *to, *unchanged, *since;
    bool count, sum, diff;
};

static int request_keys(const struct prove_use *use, int count, char **keys, struct protocol_writer *request)
{
    uint64_t height;
    if (use->count || use->sum || use->since)
        return cli_usage("prove", "--count and --sum are for ranges, --since is for --unchanged");
    if (count < 1 || (unsigned)count > PROTOCOL_PROVE_MAX)
        return cli_usage("prove", "1 to 4096 KEYs are needed, or one of --from, --to, --diff and --unchanged");
    if (!cli_height(use->at, &height))
        return CLI_USE;
    protocol_request_begin(request, VERB_PROVE);
    protocol_write_u64(request, height);
    protocol_write_u32(request, (uint32_t)count);
    for (int i = 0; i < count; i++) {
        uint8_t *key;
        size_t key_bytes;
        if (!cli_key("KEY", keys[i], &key, &key_bytes))
            return CLI_USE;
        protocol_write_u16(request, (uint16_t)key_bytes);
        protocol_write_bytes(request, key, key_bytes);
        free(key);
    }
    return CLI_DONE;
}

/* The kind of a proof of a range, and the heights. */
static int range_kind(const struct prove_use *use, int count, char **rest, struct protocol_range *range,
                      uint64_t *since, enum proof_kind *kind)
{
    *kind = use->count || use->sum ? PROOF_TOTALS : PROOF_RANGE;
    *since = 0;
    if (use->unchanged && (use->from || use->to || use->diff || !use->since))
        return cli_usage("prove", "--unchanged needs --since, and goes with none of --from, --to and --diff");
    if (use->since && !use->unchanged)
        return cli_usage("prove", "--since is for --unchanged");
    if (count != (use->diff ? 2 : 0))
        return cli_usage("prove", use->diff ? "--diff needs two heights" : "KEYs do not go with a range");
    if ((use->diff || use->unchanged) && (use->count || use->sum))
        return cli_usage("prove", "--count and --sum are for ranges of one state");
    if (use->diff && use->at)
        return cli_usage("prove", "--diff takes its heights itself, --at does not go with it");
    if (use->diff || use->unchanged) {
        *kind = PROOF_DIFF;
        if (!cli_number(use->diff ? "A" : "--since", use->diff ? rest[0] : use->since, UINT64_MAX - 1, since))
            return CLI_USE;
    }
    return cli_height(use->diff ? rest[1] : use->at, &range->height) ? CLI_DONE : CLI_USE;
}

static int request_range(const struct prove_use *use, int count, char **rest, struct protocol_writer *request)
{
    struct protocol_range range = {0};
    uint8_t *from = NULL, *to = NULL, behind[ENG_KEY_BYTES_MAX];
    size_t from_bytes = 0, to_bytes = 0;
    uint64_t since;
    enum proof_kind kind;
    int code = range_kind(use, count, rest, &range, &since, &kind);
    const char *first = use->unchanged ? use->unchanged : use->from;
    if (code == CLI_DONE && first && !cli_key(use->unchanged ? "--unchanged" : "--from", first, &from, &from_bytes))
        code = CLI_USE;
    if (code == CLI_DONE && use->to && !cli_key("--to", use->to, &to, &to_bytes))
        code = CLI_USE;
    if (code == CLI_DONE) {
        range.flags = (uint8_t)((first ? PROTOCOL_HAS_FROM : 0) | (use->to ? PROTOCOL_HAS_TO : 0));
        range.from = from;
        range.from_bytes = (uint16_t)from_bytes;
        range.to = to;
        range.to_bytes = (uint16_t)to_bytes;
        if (use->unchanged && (to_bytes = proof_key_range_end(from, from_bytes, behind)) > 0) {
            range.flags |= PROTOCOL_HAS_TO;
            range.to = behind;
            range.to_bytes = (uint16_t)to_bytes;
        }
        protocol_request_begin(request, VERB_PROVE_RANGE);
        protocol_write_u8(request, (uint8_t)kind);
        protocol_write_u64(request, since);
        protocol_write_range(request, &range, false);
    }
    free(from);
    free(to);
    return code;
}

/* Does the proof of a difference say that nothing differs? */
static int check_unchanged(const struct prove_use *use, const uint8_t *bytes, size_t size)
{
    struct verify_result result;
    if (verify_file(bytes, size, NULL, &result) != VERIFY_OK)
        return cli_say(CLI_UNABLE, "prove: the node's proof is none: %s", result.reason);
    if (result.kind != PROOF_DIFF || result.count != 0)
        return cli_say(CLI_NO, "%s: not the same as at height %s", use->unchanged, use->since);
    return CLI_DONE;
}

int cli_prove(struct cli *cli, int argc, char **argv)
{
    struct prove_use use = {0};
    const struct cli_option options[] = {
        {.name = "--at", .value = &use.at},       {.name = "-o", .value = &use.output},
        {.name = "--from", .value = &use.from},   {.name = "--to", .value = &use.to},
        {.name = "--count", .flag = &use.count},  {.name = "--sum", .flag = &use.sum},
        {.name = "--diff", .flag = &use.diff},    {.name = "--unchanged", .value = &use.unchanged},
        {.name = "--since", .value = &use.since}, {0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    struct protocol_writer request = {0};
    bool of_range = use.from || use.to || use.diff || use.unchanged;
    code = of_range ? request_range(&use, rest, argv + 1, &request) : request_keys(&use, rest, argv + 1, &request);
    if (code != CLI_DONE) {
        free(request.bytes);
        return code;
    }
    struct pando_reply reply;
    code = cli_ask(cli, &request, PANDO_TIMEOUT_MS, &reply);
    free(request.bytes);
    const uint8_t *file = reply.body.at;
    size_t size = code == CLI_DONE ? (size_t)(reply.body.end - reply.body.at) : 0;
    if (code == CLI_DONE && use.unchanged)
        code = check_unchanged(&use, file, size);
    if (code == CLI_DONE)
        code = write_file(use.output ? use.output : "proof.pando", file, size);
    pando_reply_release(&reply);
    return code;
}

/* ---- verify ---- */

struct verifier {
    uint8_t keys[NODE_KEYS_MAX + GENESIS_SIGNERS_MAX][32];
    size_t key_count;
    uint8_t ledger_id[32], root[32];
    bool has_ledger, has_root;
};

/* Reads a whole file of at most max bytes; malloc'ed, with a 0 behind it. */
static int read_file(const char *path, size_t max, uint8_t **bytes, size_t *size)
{
    FILE *file = fopen(path, "rbe");
    struct stat facts;
    if (!file)
        return cli_say(CLI_NO, "%s: %s", path, strerror(errno));
    *bytes = NULL;
    if (fstat(fileno(file), &facts) != 0 || !S_ISREG(facts.st_mode)) {
        fclose(file);
        return cli_say(CLI_NO, "%s: not a file", path);
    }
    if ((uintmax_t)facts.st_size > max) {
        fclose(file);
        return cli_say(CLI_NO, "%s: over %zu bytes", path, max);
    }
    *size = (size_t)facts.st_size;
    *bytes = malloc(*size + 1);
    bool good = *bytes && fread(*bytes, 1, *size, file) == *size;
    fclose(file);
    if (!good) {
        free(*bytes);
        return cli_say(CLI_UNABLE, "%s: cannot be read", path);
    }
    (*bytes)[*size] = 0;
    return CLI_DONE;
}

/* A public key: 64 hex digits. */
static int add_node_key(struct verifier *verifier, const char *text)
{
    return cli_digest("--node-key", text, verifier->keys[verifier->key_count++]) ? CLI_DONE : CLI_USE;
}

static int add_genesis(struct verifier *verifier, const char *path)
{
    uint8_t *bytes;
    size_t size;
    int code = read_file(path, 1u << 20, &bytes, &size);
    if (code != CLI_DONE)
        return code;
    struct genesis genesis = {0};
    enum eng_status status = genesis_parse((const char *)bytes, size, &genesis);
    free(bytes);
    if (status != ENG_OK)
        return cli_say(CLI_NO, "%s: %s", path, eng_error());
    for (size_t i = 0; i < genesis.signer_count; i++)
        memcpy(verifier->keys[verifier->key_count++], genesis.signers[i], 32);
    memcpy(verifier->ledger_id, genesis.ledger_id, 32);
    verifier->has_ledger = true;
    genesis_release(&genesis);
    return CLI_DONE;
}

/* Conditions 2 and 4. */
static int check_header(const struct verifier *verifier, const char *path, const struct verify_result *result,
                        struct header *header)
{
    if (header_decode(result->header, result->header_bytes, header) != ENG_OK)
        return cli_say(CLI_NO, "%s: not proven: the header in it is malformed: %s", path, eng_error());
    if (memcmp(header->state.digest, result->root, 32) != 0)
        return cli_say(CLI_NO, "%s: not proven: the proof leads to another root than its header names", path);
    if (verifier->has_ledger && memcmp(header->ledger_id, verifier->ledger_id, 32) != 0)
        return cli_say(CLI_NO, "%s: not proven: the header is of another ledger than the genesis", path);
    if (verifier->key_count == 0)
        return CLI_DONE;
    bool allowed = false;
    for (size_t i = 0; i < verifier->key_count; i++)
        allowed |= memcmp(header->signer, verifier->keys[i], 32) == 0;
    char signer[65];
    sodium_bin2hex(signer, sizeof signer, header->signer, 32);
    if (!allowed)
        return cli_say(CLI_NO, "%s: not proven: the header names the signer %s, which is none of those given", path,
                       signer);
    if (!header_verify(header))
        return cli_say(CLI_NO, "%s: not proven: the header's signature is not by %s", path, signer);
    return CLI_DONE;
}

/* Is the range one key, as --unchanged asks for? */
static bool is_one_key(const struct verify_result *result)
{
    uint8_t behind[ENG_KEY_BYTES_MAX];
    if (!result->from || !result->to)
        return false;
    size_t size = proof_key_range_end(result->from, result->from_bytes, behind);
    return size == result->to_bytes && memcmp(result->to, behind, size) == 0;
}

/* What a proof says of a range, before its entries. */
static void print_range(struct cli_printer *printer, const struct verify_result *result)
{
    if (result->inner == PROOF_DIFF && result->count == 0 && is_one_key(result)) {
        fputs("key ", stdout);
        cli_print_field(printer, result->from, result->from_bytes);
        puts(" is unchanged");
        return;
    }
    fputs("the keys", stdout);
    if (result->from) {
        fputs(" from ", stdout);
        cli_print_field(printer, result->from, result->from_bytes);
    }
    if (result->to) {
        fputs(" to below ", stdout);
        cli_print_field(printer, result->to, result->to_bytes);
    }
    if (result->inner == PROOF_DIFF && result->count == 0) {
        puts(" are unchanged");
        return;
    }
    printf(result->inner == PROOF_DIFF ? " differ in %llu" : " are %llu", (unsigned long long)result->count);
    bool wide = false; /* beyond an amount */
    for (int i = 16; i < 24; i++)
        wide |= result->sum[i] != (result->sum[15] & 0x80 ? 0xff : 0);
    char text[AMOUNT_TEXT_MAX + 49];
    const char *sums = result->inner == PROOF_DIFF ? "the sum of their amounts grows by" : "their amounts sum up to";
    if (wide) {
        for (int i = 0; i < 24; i++)
            snprintf(text + 2 * i, 3, "%02x", result->sum[23 - i]);
        printf(", %s hexadecimal %s", sums, text);
    } else {
        amount_to_text(amount_from_bytes(result->sum), text);
        printf(", %s %s", sums, text);
    }
    puts(result->inner == PROOF_TOTALS ? "" : ":");
}

static void print_value(struct cli_printer *printer, enum proof_tag tag, const uint8_t *value, size_t value_bytes)
{
    char amount[AMOUNT_TEXT_MAX];
    if (tag == PROOF_TAG_AMOUNT && value_bytes == 16) {
        amount_to_text(amount_from_bytes(value), amount);
        printf("the amount %s", amount);
        return;
    }
    fputs(tag == PROOF_TAG_TREE ? "the subtree " : "the value ", stdout);
    cli_print_field(printer, value, value_bytes);
}

/* Of a difference. */
static void print_change(struct cli_printer *printer, const struct verify_key *key)
{
    fputs(!key->was_present ? " is new, with " : key->present ? " has " : " is gone", stdout);
    if (key->present)
        print_value(printer, key->tag, key->value, key->value_bytes);
    if (key->was_present) {
        fputs(", it had ", stdout);
        print_value(printer, key->old_tag, key->old_value, key->old_value_bytes);
    }
    putchar('\n');
}

static void print_levels(struct cli_printer *printer, const struct verify_result *result)
{
    for (uint32_t i = 0; i < result->levels; i++) {
        struct verify_key key;
        verify_level(result, i, &key);
        fputs(i ? " in it at key " : "in the subtree at key ", stdout);
        cli_print_field(printer, key.key, key.key_bytes);
        fputs(i + 1 < result->levels ? "," : ":\n", stdout);
    }
}

static void print_proven(const struct verifier *verifier, struct verify_result *result, const struct header *header,
                         enum cli_format format)
{
    char root[65], signer[65], date[32];
    time_t seconds = (time_t)(header->time_ms / 1000);
    struct tm utc;
    sodium_bin2hex(root, sizeof root, header->state.digest, 32);
    sodium_bin2hex(signer, sizeof signer, header->signer, 32);
    if (!gmtime_r(&seconds, &utc) || strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &utc) == 0)
        snprintf(date, sizeof date, "%llu s", (unsigned long long)header->time_ms / 1000);
    printf("at height %llu, time %s.%03u UTC (%llu), root %s\n", (unsigned long long)header->height, date,
           (unsigned)(header->time_ms % 1000), (unsigned long long)header->time_ms, root);
    if (verifier->key_count)
        printf("signed by %s\n", signer);
    else
        puts("the signature was not checked: the root was given");
    struct cli_printer printer = {.format = format};
    struct verify_key key;
    print_levels(&printer, result);
    if (result->inner == PROOF_DIFF) {
        sodium_bin2hex(root, sizeof root, result->older_root, 32);
        printf("since the state with the root %s (nobody's signature of which was checked)\n", root);
    }
    if (result->inner != PROOF_KEYS && result->inner != PROOF_MANY)
        print_range(&printer, result);
    while (verify_next(result, &key)) {
        fputs("key ", stdout);
        cli_print_field(&printer, key.key, key.key_bytes);
        if (result->inner == PROOF_DIFF) {
            print_change(&printer, &key);
        } else if (key.present) {
            fputs(" has ", stdout);
            print_value(&printer, key.tag, key.value, key.value_bytes);
            putchar('\n');
        } else {
            puts(" is absent");
        }
    }
    cli_printer_release(&printer);
}

static int verify_proof(const struct verifier *verifier, const char *path, enum cli_format format)
{
    uint8_t *bytes;
    size_t size;
    int code = read_file(path, PROOF_BYTES_MAX, &bytes, &size);
    if (code != CLI_DONE)
        return code;
    const struct verify_options options = {.root = verifier->has_root ? verifier->root : NULL};
    struct verify_result result;
    struct header header;
    enum verify_status status = verify_file(bytes, size, &options, &result);
    if (status != VERIFY_OK)
        code = cli_say(CLI_NO, "%s: not proven: %s", path, result.reason[0] ? result.reason : verify_text(status));
    else
        code = check_header(verifier, path, &result, &header);
    if (code == CLI_DONE) {
        print_proven(verifier, &result, &header, format);
        code = cli_flush(CLI_DONE);
    }
    free(bytes);
    return code;
}

int cli_verify(struct cli *cli, int argc, char **argv)
{
    const char *node_keys[NODE_KEYS_MAX], *root = NULL, *genesis = NULL;
    size_t node_key_count = 0;
    const struct cli_option options[] = {
        {.name = "--node-key", .list = node_keys, .list_count = &node_key_count, .list_max = NODE_KEYS_MAX},
        {.name = "--root", .value = &root},
        {.name = "--genesis", .value = &genesis},
        {0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest != 1)
        return cli_usage("verify", "one FILE is needed");
    if (!root && !genesis && node_key_count == 0)
        return cli_usage("verify",
                         "one of --node-key, --root and --genesis is required, a proof alone does not say who "
                         "signed it");
    struct verifier *verifier = calloc(1, sizeof *verifier);
    if (!verifier)
        return cli_say(CLI_UNABLE, "verify: out of memory");
    code = CLI_DONE;
    if (root && !cli_digest("--root", root, verifier->root))
        code = CLI_USE;
    verifier->has_root = root != NULL;
    for (size_t i = 0; code == CLI_DONE && i < node_key_count; i++)
        code = add_node_key(verifier, node_keys[i]);
    if (code == CLI_DONE && genesis)
        code = add_genesis(verifier, genesis);
    if (code == CLI_DONE)
        code = verify_proof(verifier, argv[1], cli->format);
    free(verifier);
    return code;
}
