/*
 * pando, the command line of a ledger node: main, the table of commands, help.
 *
 *     pando [-s SOCKET | -d DIR] [--format text|hex|json] COMMAND [ARGUMENT...]
 *
 * The happy path: the options before the command are read, the command is looked up in the table below and run; it
 * returns the exit code. The table is the one list of commands: what is not in it does not exist (exit 2), and help is
 * made from it.
 *
 * Exit codes: 0 done; 1 the answer is no (absent, refused, invalid); 2 wrong use; 3 no node there or not able now;
 * 4 damaged data. Errors are one line on stderr: "pando: WHAT: WHY".
 */
#include "cli.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_command commands[] = {
    {"init", "DIR [--ledger NAME] [--leaf-bytes T] [--auth local]", "make the data directory of a new ledger",
     "       pando init DIR --join URL --ledger-id HEX\n"
     "\n"
     "Makes genesis.json, node.key, pando.conf and the empty state in DIR, which must not exist or be empty.\n"
     "With --join: the directory of a follower. The genesis is fetched from the running node at URL (its replication\n"
     "address) and refused if its digest is not HEX, the ledger_id that `pando status` shows on that node.\n"
     "  --ledger NAME      a name for people, part of the genesis (default: pando)\n"
     "  --leaf-bytes T     weight of a leaf of the tree, 64 to 4096 (default 2048); never changes a root\n"
     "  --auth local       who may do what: by the mode of the socket\n",
     cli_init},
    {"submit", "[FILE|-]", "submit transactions, one JSON object a line",
     "Prints one receipt (JSON) a line, in the same order. A transaction that was refused before it got a place in "
     "the\n"
     "order prints {\"id\":...,\"ok\":false,\"code\":...}; a line that is no transaction also says so on stderr, with\n"
     "its number. Exit 0 if all are ok, 1 if not, 3 if those that are not were refused as BUSY or NOT_LEADER.\n",
     cli_submit},
    {"import", "[FILE|-] [--keep-going]", "append blocks, one JSON object a line",
     "Heights must continue the ledger; blocks it already has must be identical and are skipped. A transaction that\n"
     "fails stops the import at its block, nothing of which is applied; with --keep-going its failure is recorded.\n",
     cli_import},
    {"get", "KEY [--at H]", "print the value of a key; exit 1 if absent",
     "A KEY of the form 0x... or hex:... is binary, anything else is taken as bytes.\n", cli_get},
    {"scan", "[PREFIX] [--from K] [--to K] [--reverse] [--limit N] [--at H]", "print entries in key order",
     "Entries with --from <= key < --to that begin with PREFIX.\n", cli_scan},
    {"count", "[PREFIX] [--from K] [--to K] [--at H]", "print the number of entries",
     "Entries with --from <= key < --to that begin with PREFIX.\n", cli_count},
    {"root", "[--at H]", "print HEIGHT ROOT COUNT", "", cli_root},
    {"header", "[--at H]", "print the signed header, as JSON", "", cli_header},
    {"diff", "A B [PREFIX]", "print what changed from height A to height B",
     "`+ key value` added, `~ key value` replaced, `- key` removed; in key order.\n", cli_diff},
    {"receipt", "ID", "print the receipt of a transaction (32 hex digits)", "", cli_receipt},
    {"prove", "KEY...|--from K|--to K|--diff A B|--unchanged K [--at H] [-o FILE]",
     "write a proof of what is in the state, and what is not",
     "The proof goes to FILE (default proof.pando); `pando verify` checks it without a node.\n"
     "  KEY...             each is present with its value, or absent\n"
     "  --from K, --to K   the entries from <= key < to are these and no others; with --count or --sum only how many\n"
     "                     they are and what their amounts sum up to\n"
     "  --diff A B         these keys, and no others, differ between the heights A and B (with --from, --to: in "
     "there)\n"
     "  --unchanged K --since A\n"
     "                     K has the same value, or absence, at height A and at H; refused if it has not\n",
     cli_prove},
    {"verify", "FILE [--node-key PUB]... [--root HEX] [--genesis FILE]", "check a proof offline, say what is proven",
     "At least one of the three is required, a proof alone says nothing about who signed it:\n"
     "  --node-key PUB     the header must be signed by one of these keys (64 hex digits)\n"
     "  --genesis FILE     ... or by a signer named in this genesis.json, and be of its ledger\n"
     "  --root HEX         the state must have this root\n"
     "Exit 0 if proven, 1 and why if not.\n",
     cli_verify},
    {"wait", "--height H [--timeout S]", "return when that height is published", "Exit 3 if the time runs out.\n",
     cli_wait},
    {"status", "[--json]", "print the state of a node", "", cli_status},
    {"check", "DIR [--deep]", "check a data directory that no daemon uses",
     "Says what is wrong and where. --deep also reads every object and recomputes every digest. Exit 4 if damaged.\n",
     cli_check},
    {"key", "new FILE | public FILE", "make an Ed25519 key file (mode 0600); print the public key of one", "",
     cli_key_command},
    {"help", "[COMMAND]", "print this, or the manual of a command", "", cli_help_command},
};
#define COMMAND_COUNT (sizeof commands / sizeof *commands)

const struct cli_command *cli_find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

void cli_help(FILE *out, const struct cli_command *command)
{
    if (command) {
        fprintf(out, "usage: pando %s %s\n", command->name, command->arguments);
        if (strncmp(command->text, "       ", 7) != 0)
            fprintf(out, "\n%s\n%s%s", command->summary, *command->text ? "\n" : "", command->text);
        else
            fputs(command->text, out);
        return;
    }
    fprintf(out, "usage: pando [-s SOCKET | -d DIR] [--format text|hex|json] COMMAND [ARGUMENT...]\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n"
                 "  -s SOCKET          address of the node (default: $PANDO_SOCKET, then ipc:///run/pando/pando.ipc)\n"
                 "  -d DIR             data directory of the node: its socket\n"
                 "  --format FORMAT    how entries are printed: text (default), hex or json\n"
                 "  --version          print the version\n"
                 "\n"
                 "`pando help COMMAND` has more. Exit codes: 0 done, 1 the answer is no (absent, refused, invalid),\n"
                 "2 wrong use, 3 no node there or not able now, 4 damaged data.\n");
}

int cli_help_command(struct cli *cli, int argc, char **argv)
{
    static const struct cli_option options[] = {{0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    if (rest > 1)
        return cli_usage("help", "at most one command");
    const struct cli_command *command = rest ? cli_find(argv[1]) : NULL;
    if (rest && !command)
        return cli_say(CLI_USE, "%s: no such command; `pando help` lists them", argv[1]);
    cli_help(stdout, command);
    return cli_flush(CLI_DONE);
}

/* Index of the command's name in argv, 0 if there is none; options before it are copied into cli, or *code is set. */
static int leading_options(struct cli *cli, int argc, char **argv, int *code)
{
    int at = 1;
    while (at < argc && argv[at][0] == '-' && argv[at][1]) {
        if (strcmp(argv[at], "--version") == 0) {
            printf("pando %s\n", PANDO_VERSION);
            *code = cli_flush(CLI_DONE);
            return 0;
        }
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            cli_help(stdout, NULL);
            *code = cli_flush(CLI_DONE);
            return 0;
        }
        /* The same parser as behind the command, on one option and its value. */
        static const struct cli_option none[] = {{0}};
        bool joined = strchr(argv[at], '=') != NULL;
        int take = joined ? 1 : 2, rest;
        if (at + take > argc)
            take = argc - at;
        char *part[4] = {argv[0], argv[at], take > 1 ? argv[at + 1] : NULL, NULL};
        if (!cli_options(cli, take + 1, part, none, &rest, code))
            return 0;
        at += take;
    }
    if (at < argc)
        return at;
    fprintf(stderr, "pando: no command: `pando help` lists them\n");
    *code = CLI_USE;
    return 0;
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    int code = CLI_DONE;
    if (sodium_init() < 0)
        return cli_say(CLI_UNABLE, "libsodium: cannot be initialised");
    setvbuf(stdout, NULL, _IOFBF, 1u << 16);
    int at = leading_options(&cli, argc, argv, &code);
    if (at == 0)
        return code;
    const struct cli_command *command = cli_find(argv[at]);
    if (!command)
        return cli_say(CLI_USE, "%s: no such command; `pando help` lists them", argv[at]);
    code = command->run(&cli, argc - at, argv + at);
    pando_disconnect(&cli.pando);
    return code;
}
