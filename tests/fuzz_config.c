/*
 * libFuzzer: pando.conf. Any bytes as a file: read, or refused with one line that begins with its name; what was read
 * is within its bounds.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pando/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_config(const struct config *config)
{
    char error[512];
    assert(strlen(config->data) > 0 && strncmp(config->socket, "ipc://", 6) == 0);
    assert(config->socket_mode <= 0777 && config->log_level >= 0 && config->log_level <= 7);
    assert(config->block_max_txs >= 1 && config->block_max_txs <= 65536);
    assert(config->block_max_bytes >= 64u << 10 && config->block_max_bytes <= 64u << 20);
    assert(config->block_max_wait_ms <= 10000 && config->checkpoint_log_bytes >= 64u << 10);
    assert(config->follow_count <= CONFIG_FOLLOW_MAX);
    assert(config_check(config, error, sizeof error) == (error[0] == '\0'));
    (void)error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[32];
    struct config config;
    char error[512];
    if (fd < 0) {
        fd = memfd_create("pando.conf", MFD_CLOEXEC);
        assert(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        return 0;
    if (config_read(&config, path, NULL, error, sizeof error))
        check_config(&config);
    else
        assert(strncmp(error, path, strlen(path)) == 0 && strchr(error, '\n') == NULL);
    return 0;
}
