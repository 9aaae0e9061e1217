/*
 * pando key new FILE | key public FILE: Ed25519 key files (genesis.h has their form).
 *
 * new makes FILE (mode 0600), which must not exist, and prints the public key; public prints the public key of FILE.
 * Exit 1 if FILE exists (new), is absent or is no key file (public).
 */
#include "cli.h"

#include <sodium.h>
#include <string.h>

int cli_key_command(struct cli *cli, int argc, char **argv)
{
    static const struct cli_option options[] = {{0}};
    int rest, code;
    if (!cli_options(cli, argc, argv, options, &rest, &code))
        return code;
    bool new = rest == 2 && strcmp(argv[1], "new") == 0;
    if (rest != 2 || (!new &&strcmp(argv[1], "public") != 0))
        return cli_usage("key", "new FILE or public FILE");
    uint8_t public_key[32], secret[64];
    enum eng_status status =
        new ? key_file_create(argv[2], public_key, secret) : key_file_read(argv[2], public_key, secret);
    sodium_memzero(secret, sizeof secret);
    if (status == ENG_DAMAGED) /* the answer is no: it need not ever have been one of ours */
        return cli_say(CLI_NO, "%s", eng_error());
    if (status != ENG_OK)
        return cli_fail(status);
    char hex[65];
    puts(sodium_bin2hex(hex, sizeof hex, public_key, sizeof public_key));
    return cli_flush(CLI_DONE);
}
