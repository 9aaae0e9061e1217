/*
 * From the command line to a node: which address, connecting, asking.
 *
 * The address is -s SOCKET; else the socket of the data directory -d DIR (what DIR/pando.conf says, or DIR/pando.ipc
 * where that file cannot be read: the directory of a daemon is often closed to its clients); else $PANDO_SOCKET; else
 * the default socket of the configuration.
 *
 * Ways to fail: nobody answers there (exit 3), not an address (exit 2), a DIR whose pando.conf is wrong (exit 2).
 */
#include "cli.h"

#include "pando/config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cli_address(const struct cli *cli, char *url, size_t url_bytes)
{
    struct config config;
    config_defaults(&config);
    const char *found = cli->socket_url;
    char path[CONFIG_PATH_MAX + 16], error[CONFIG_PATH_MAX + 256];
    if (cli->directory) {
        if (access(cli->directory, F_OK) != 0)
            return cli_say(CLI_UNABLE, "%s: no such directory", cli->directory);
        if ((size_t)snprintf(path, sizeof path, "%s/pando.conf", cli->directory) >= CONFIG_PATH_MAX)
            return cli_say(CLI_USE, "-d: the path is too long");
        if (access(path, R_OK) == 0) {
            if (!config_read(&config, path, cli->directory, error, sizeof error))
                return cli_say(CLI_USE, "%s", error);
            found = config.socket;
        } else {
            snprintf(path, sizeof path, "ipc://%s/pando.ipc", cli->directory);
            found = path;
        }
    }
    if (!found)
        found = getenv("PANDO_SOCKET");
    if (!found || !*found)
        found = config.socket;
    if ((size_t)snprintf(url, url_bytes, "%s", found) >= url_bytes)
        return cli_say(CLI_USE, "%.40s...: the address is too long", found);
    return CLI_DONE;
}

int cli_connect(struct cli *cli)
{
    if (cli->pando)
        return CLI_DONE;
    char url[CONFIG_PATH_MAX + 16];
    int code = cli_address(cli, url, sizeof url);
    if (code != CLI_DONE)
        return code;
    enum eng_status status = pando_connect(url, &cli->pando);
    if (status == ENG_INVALID)
        return cli_say(CLI_USE, "%s", eng_error());
    return status == ENG_OK ? CLI_DONE : cli_fail(status);
}

int cli_ask(struct cli *cli, const struct protocol_writer *request, int timeout_ms, struct pando_reply *reply)
{
    *reply = (struct pando_reply){0};
    int code = cli_connect(cli);
    if (code != CLI_DONE)
        return code;
    enum eng_status status = pando_request(cli->pando, request, timeout_ms, reply);
    return status == ENG_OK ? CLI_DONE : cli_fail(status);
}

int cli_bad_reply(const char *what)
{
    return cli_say(CLI_UNABLE, "%s: the node's answer is malformed", what);
}
