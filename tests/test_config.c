/*
 * pando.conf: defaults, every key, every bound, and each thing that must be refused with file and line, above all what
 * inih alone would let through: indented lines, lines over its buffer, bytes of 0, empty unknown sections.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "pando/config.h"

static char path[] = "/tmp/pando-conf-XXXXXX";
static char error[512];

static bool read_bytes(struct config *config, const char *text, size_t size, const char *data_dir)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(text, 1, size, file), size);
    fclose(file);
    return config_read(config, path, data_dir, error, sizeof error);
}

static bool read_text(struct config *config, const char *text)
{
    return read_bytes(config, text, strlen(text), NULL);
}

START_TEST(defaults)
{
    struct config config, read;
    config_defaults(&config);
    ck_assert_str_eq(config.data, "/var/lib/pando");
    ck_assert_str_eq(config.socket, "ipc:///run/pando/pando.ipc");
    ck_assert_uint_eq(config.socket_mode, 0660);
    ck_assert_str_eq(config.auth, "local");
    ck_assert_int_eq(config.log_level, LOG_INFO);
    ck_assert_uint_eq(config.block_max_txs, 4096);
    ck_assert_uint_eq(config.block_max_bytes, 4 << 20);
    ck_assert_uint_eq(config.block_max_wait_ms, 5);
    ck_assert_uint_eq(config.retain_blocks, 1024);
    ck_assert_uint_eq(config.retain_every, 0);
    ck_assert_uint_eq(config.checkpoint_log_bytes, 256 << 20);
    ck_assert_uint_eq(config.hot_bytes, 64 << 20);
    ck_assert_str_eq(config.listen, "tcp://127.0.0.1:7450");
    ck_assert_uint_eq(config.follow_count, 0);
    ck_assert(!config.plaintext);
    ck_assert(config_check(&config, error, sizeof error));
    ck_assert(read_text(&read, ""));
    ck_assert_mem_eq(&read, &config, sizeof config);
    ck_assert(read_text(&read, "; nothing\n\n# here\n[node]\n"));
    ck_assert_mem_eq(&read, &config, sizeof config);
}
END_TEST

START_TEST(every_key)
{
    struct config config;
    bool done = read_text(&config, "\xef\xbb\xbf[node]\r\n"
                                   "data = /srv/ledger\r\n"
                                   "  socket=ipc:///srv/s.ipc ; where\n"
                                   "socket_mode = 0600\n"
                                   "auth = local\n"
                                   "log_level = debug\n"
                                   "[block] ; closing\n"
                                   "max_txs = 65536\n"
                                   "\tmax_bytes = 64M\n"
                                   "max_wait_ms = 0\n"
                                   "[retain]\n"
                                   "blocks = all\n"
                                   "every = 1000\n"
                                   "archive = no\n"
                                   "archive_horizon = 0\n"
                                   "[engine]\n"
                                   "io = buffered\n"
                                   "checkpoint_log_bytes = 1G\n"
                                   "hot_bytes = 32M\n"
                                   "cache_bytes = 0\n"
                                   "[replication]\n"
                                   "listen = tcp://0.0.0.0:7450\n"
                                   "follow = tcp://10.0.0.1:7450\n"
                                   "follow = ipc:///srv/other.ipc\n"
                                   "mode = diff\n"
                                   "sync_followers = 0\n"
                                   "allow = any\n"
                                   "plaintext = yes\n"
                                   "[http]\n"
                                   "listen = none\n"
                                   "[arbiter]\n"
                                   "kind = none"); /* no newline at the end */
    ck_assert_msg(done, "%s", error);
    ck_assert_str_eq(config.data, "/srv/ledger");
    ck_assert_str_eq(config.socket, "ipc:///srv/s.ipc");
    ck_assert_uint_eq(config.socket_mode, 0600);
    ck_assert_int_eq(config.log_level, LOG_DEBUG);
    ck_assert_uint_eq(config.block_max_txs, 65536);
    ck_assert_uint_eq(config.block_max_bytes, 64 << 20);
    ck_assert_uint_eq(config.block_max_wait_ms, 0);
    ck_assert_uint_eq(config.retain_blocks, 0);
    ck_assert_uint_eq(config.retain_every, 1000);
    ck_assert_uint_eq(config.checkpoint_log_bytes, 1 << 30);
    ck_assert_uint_eq(config.hot_bytes, 32 << 20);
    ck_assert_str_eq(config.listen, "tcp://0.0.0.0:7450");
    ck_assert_uint_eq(config.follow_count, 2);
    ck_assert_str_eq(config.follow[0], "tcp://10.0.0.1:7450");
    ck_assert_str_eq(config.follow[1], "ipc:///srv/other.ipc");
    ck_assert(config.plaintext);
    ck_assert(config_check(&config, error, sizeof error));
    config.plaintext = false;
    ck_assert(!config_check(&config, error, sizeof error));
    ck_assert_ptr_nonnull(strstr(error, "[replication] listen: tcp://0.0.0.0:7450"));
    strcpy(config.listen, "tcp://127.0.0.1:7450");
    ck_assert(!config_check(&config, error, sizeof error));
    ck_assert_ptr_nonnull(strstr(error, "[replication] follow: tcp://10.0.0.1:7450"));
}
END_TEST

/* One line of one section, accepted. */
static const char *const accepted[] = {
    "[block]\nmax_txs = 1",
    "[block]\nmax_bytes = 64K",
    "[block]\nmax_bytes = 65536",
    "[block]\nmax_wait_ms = 10000",
    "[retain]\nblocks = 0",
    "[engine]\ncheckpoint_log_bytes = 64K",
    "[replication]\nlisten = none",
    "[replication]\nlisten =",
    "[node]\nsocket_mode = 777",
    "[node]\nlog_level = err",
    "[replication]\nlisten = tcp://[::1]:7450",
    "[node]\ndata : /x",
    "[replication]\nfollow = tcp://ledger-1.example.org:7450",
};

START_TEST(acceptances)
{
    struct config config;
    ck_assert_msg(read_text(&config, accepted[_i]), "%s", error);
}
END_TEST

/* What is refused, at which line, and a part of the reason. */
static const struct {
    const char *text;
    int line;
    const char *part;
} refused[] = {
    {"data = /x\n", 1, "before any [section]"},
    {"\n[nodes]\n", 2, "no section is called nodes"},
    {"[node\n", 1, "without its ]"},
    {"[node] data = /x\n", 1, "behind the ]"},
    {"[node]\ndata /x\n", 2, "neither"},
    {"[node]\ndata /x\nfoo = 1\n", 2, "neither"},
    {"[node]\nfoo = 1\ndata /x\n", 2, "[node] has no key foo"},
    {"[node]\nmax_txs = 1\n", 2, "[node] has no key max_txs"},
    {"[node]\nData = /x\n", 2, "[node] has no key Data"},
    {"[node]\ndata = /x\n\ndata = /x\n", 4, "[node] data is given twice"},
    {"[node]\ndata = /x\n[node]\ndata = /x\n", 4, "[node] data is given twice"},
    {"[node]\ndata =\n", 2, "empty"},
    {"[node]\ndata = /x\n  more\n", 3, "neither"},
    {"[replication]\nfollow = ipc:///a\n  mode = replay\n", 3, "this version has diff only"},
    {"[node]\nsocket = tcp://127.0.0.1:1\n", 2, "not a local socket"},
    {"[node]\nsocket = abstract://x\n", 2, "not a local socket"},
    {"[node]\nsocket = ipc://\n", 2, "not a local socket"},
    {"[node]\nsocket_mode = 0800\n", 2, "not a file mode"},
    {"[node]\nsocket_mode = 1777\n", 2, "not a file mode"},
    {"[node]\nsocket_mode =\n", 2, "not a file mode"},
    {"[node]\nauth = signed\n", 2, "this version has local only"},
    {"[node]\nlog_level = loud\n", 2, "not one of"},
    {"[node]\nlog_level = 6\n", 2, "not one of"},
    {"[block]\nmax_txs = 0\n", 2, "not from 1 to 65536"},
    {"[block]\nmax_txs = 65537\n", 2, "not from 1 to 65536"},
    {"[block]\nmax_txs = -1\n", 2, "not a number"},
    {"[block]\nmax_txs = 4K\n", 2, "not a number"},
    {"[block]\nmax_txs = 18446744073709551617\n", 2, "not a number"},
    {"[block]\nmax_txs = 5 # five\n", 2, "begins with ;"},
    {"[block]\nmax_bytes = 63K\n", 2, "not from 65536 to 67108864"},
    {"[block]\nmax_bytes = 65M\n", 2, "not from"},
    {"[block]\nmax_bytes = 4m\n", 2, "not a number of bytes"},
    {"[block]\nmax_bytes = M\n", 2, "not a number of bytes"},
    {"[block]\nmax_bytes = 4MM\n", 2, "not a number of bytes"},
    {"[block]\nmax_bytes = 18446744073709551615G\n", 2, "not a number of bytes"},
    {"[block]\nmax_wait_ms = 10001\n", 2, "not from 0 to 10000"},
    {"[retain]\nblocks = some\n", 2, "not a number"},
    {"[retain]\narchive = yes\n", 2, "this version has no only"},
    {"[retain]\narchive_horizon = 5\n", 2, "this version has 0 only"},
    {"[engine]\nio = direct\n", 2, "this version has buffered only"},
    {"[engine]\ncache_bytes = 256M\n", 2, "this version has 0 only"},
    {"[engine]\ncheckpoint_log_bytes = 1K\n", 2, "not from 65536"},
    {"[replication]\nlisten = http://x:1\n", 2, "not an address"},
    {"[replication]\nlisten = tcp://x\n", 2, "not an address"},
    {"[replication]\nlisten = tcp://x:65536\n", 2, "not an address"},
    {"[replication]\nlisten = tcp://:1\n", 2, "not an address"},
    {"[replication]\nlisten = tcp://[::1:1\n", 2, "not an address"},
    {"[replication]\nlisten = tcp://[zz]:1\n", 2, "not an address"},
    {"[replication]\nfollow = none\n", 2, "not an address"},
    {"[replication]\nfollow = tcp://a:1 tcp://b:1\n", 2, "not an address"},
    {"[replication]\nmode = replay\n", 2, "this version has diff only"},
    {"[replication]\nsync_followers = 1\n", 2, "this version has 0 only"},
    {"[replication]\nallow = peers\n", 2, "this version has any only"},
    {"[replication]\npeers = /etc/pando/peers\n", 2, "this version does not have it"},
    {"[replication]\nplaintext = true\n", 2, "not yes or no"},
    {"[http]\nlisten = 127.0.0.1:7480\n", 2, "this version has none only"},
    {"[arbiter]\nkind = etcd\n", 2, "this version has none only"},
    {"[arbiter]\nendpoints = http://127.0.0.1:2379\n", 2, "this version does not have it"},
    {"[arbiter]\nlease_ms = 5000\n", 2, "this version does not have it"},
    {"[node]\ndata = /x\x01\n", 2, "not a text file"},
};

static void assert_error_at(int line, const char *part)
{
    char prefix[80];
    snprintf(prefix, sizeof prefix, "%s:%d: ", path, line);
    ck_assert_msg(strncmp(error, prefix, strlen(prefix)) == 0, "line %d expected: %s", line, error);
    ck_assert_msg(strstr(error, part) != NULL, "%s expected: %s", part, error);
    ck_assert_ptr_null(strchr(error, '\n'));
}

START_TEST(refusals)
{
    struct config config;
    ck_assert_msg(!read_text(&config, refused[_i].text), "%s", refused[_i].text);
    assert_error_at(refused[_i].line, refused[_i].part);
}
END_TEST

START_TEST(lines_inih_would_break)
{
    struct config config;
    char text[400] = "[node]\ndata = /";
    size_t start = strlen("[node]\n"), at = strlen(text);
    memset(text + at, 'x', sizeof text - at);
    text[start + 198] = '\n';
    ck_assert_msg(read_bytes(&config, text, start + 199, NULL), "%s", error);
    ck_assert_uint_eq(strlen(config.data), 198 - strlen("data = "));
    text[start + 198] = 'x';
    text[start + 199] = '\n';
    ck_assert(!read_bytes(&config, text, start + 200, NULL));
    assert_error_at(2, "a line has at most 198 bytes");
    static const char zero[] = "[block]\nmax_txs = 5\0max_txs = 6\n";
    ck_assert(!read_bytes(&config, zero, sizeof zero - 1, NULL));
    assert_error_at(2, "not a text file");
}
END_TEST

START_TEST(follow_limit)
{
    struct config config;
    char text[1000] = "[replication]\n";
    for (int i = 0; i < CONFIG_FOLLOW_MAX; i++)
        sprintf(text + strlen(text), "follow = tcp://127.0.0.1:%d\n", i + 1);
    ck_assert_msg(read_text(&config, text), "%s", error);
    ck_assert_uint_eq(config.follow_count, CONFIG_FOLLOW_MAX);
    strcat(text, "follow = tcp://127.0.0.1:9\n");
    ck_assert(!read_text(&config, text));
    assert_error_at(CONFIG_FOLLOW_MAX + 2, "more than 8");
}
END_TEST

START_TEST(data_directory)
{
    struct config config;
    ck_assert(read_bytes(&config, "", 0, "/srv/a"));
    ck_assert_str_eq(config.data, "/srv/a");
    ck_assert_str_eq(config.socket, "ipc:///srv/a/pando.ipc");
    static const char text[] = "[node]\nsocket = ipc:///run/b.ipc\n";
    ck_assert(read_bytes(&config, text, sizeof text - 1, "/srv/a"));
    ck_assert_str_eq(config.socket, "ipc:///run/b.ipc");
    char directory[CONFIG_PATH_MAX + 1];
    memset(directory, 'd', sizeof directory);
    directory[CONFIG_PATH_MAX] = '\0';
    ck_assert(!read_bytes(&config, "", 0, directory));
    directory[200] = '\0'; /* fits the configuration, but no socket can have that path */
    ck_assert(read_bytes(&config, "", 0, directory));
    ck_assert(!config_check(&config, error, sizeof error));
    ck_assert_ptr_nonnull(strstr(error, "at most 107 bytes"));
}
END_TEST

START_TEST(unreadable)
{
    struct config config;
    ck_assert(!config_read(&config, "/nonexistent/pando.conf", NULL, error, sizeof error));
    ck_assert_str_eq(error, "/nonexistent/pando.conf: cannot open: No such file or directory");
    ck_assert(!config_read(&config, "/", NULL, error, sizeof error));
    ck_assert_ptr_nonnull(strstr(error, "Is a directory"));
    char small[8];
    ck_assert(!config_read(&config, "/nonexistent/pando.conf", NULL, small, sizeof small));
    ck_assert_str_eq(small, "/nonexi");
}
END_TEST

START_TEST(local_addresses)
{
    static const char *const local[] = {"tcp://127.0.0.1:7450", "tcp://127.9.8.7:1", "tcp://localhost:7450",
                                        "tcp://LOCALHOST:1",    "tcp://[::1]:7450",  "ipc:///run/x"};
    static const char *const far[] = {"",
                                      "ipc://",
                                      "tcp://",
                                      "tcp://10.0.0.1:7450",
                                      "tcp://0.0.0.0:7450",
                                      "tcp://*:7450",
                                      "tcp://[::]:7450",
                                      "tcp://[::2]:7450",
                                      "tcp://127.0.0.1.example.org:7450",
                                      "tcp://localhost.example.org:7450",
                                      "tcp://127.0.0.1@example.org:7450",
                                      "tcp://128.0.0.1:7450",
                                      "tcp://1270.0.0.1:7450",
                                      "tcp://localhost",
                                      "tcp://localhost:7450/x",
                                      "ws://localhost:7450",
                                      "localhost:7450"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        ck_assert_msg(config_url_is_local(local[i]), "%s", local[i]);
    for (size_t i = 0; i < sizeof far / sizeof *far; i++)
        ck_assert_msg(!config_url_is_local(far[i]), "%s", far[i]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("config");
    TCase *file = tcase_create("file"), *address = tcase_create("address");
    tcase_add_test(file, defaults);
    tcase_add_test(file, every_key);
    tcase_add_loop_test(file, acceptances, 0, sizeof accepted / sizeof *accepted);
    tcase_add_loop_test(file, refusals, 0, sizeof refused / sizeof *refused);
    tcase_add_test(file, lines_inih_would_break);
    tcase_add_test(file, follow_limit);
    tcase_add_test(file, data_directory);
    tcase_add_test(file, unreadable);
    tcase_add_test(address, local_addresses);
    tcase_set_timeout(file, 60);
    suite_add_tcase(s, file);
    suite_add_tcase(s, address);
    return s;
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd < 0)
        return EXIT_FAILURE;
    close(fd);
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    unlink(path);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
