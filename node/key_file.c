/*
 * Ed25519 key files: 64 hex digits of the seed and a newline, mode 0600.
 *
 * A key file is valid if and only if it is a regular file of exactly these 65 bytes that nobody but its owner may read.
 * The public key is computed from the seed, so the two cannot disagree.
 *
 * Creating is exclusive (an existing key is never written over), and is done when file and directory are synced; a file
 * that could not be finished is removed. Failures: ENG_EXISTS, ENG_NOT_FOUND, ENG_FULL, ENG_IO (with the reason of the
 * system), ENG_INVALID (others may read it, or no regular file), ENG_DAMAGED (other contents). Buffers that held a seed
 * are cleared.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "genesis.h"

#define SEED_BYTES crypto_sign_SEEDBYTES
#define TEXT_BYTES (2 * SEED_BYTES + 1) /* with the newline */

static enum eng_status system_fail(const char *path, const char *what)
{
    int error = errno;
    enum eng_status status = error == EEXIST                      ? ENG_EXISTS
                             : error == ENOENT                    ? ENG_NOT_FOUND
                             : error == ENOSPC || error == EDQUOT ? ENG_FULL
                                                                  : ENG_IO;
    return eng_fail(status, "%s: cannot %s: %s", path, what, strerror(error));
}

/* All of it, from the current offset. Returns how much there was, -1 with errno. */
static ssize_t read_all(int fd, char *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(fd, bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static bool write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        size -= (size_t)n;
    }
    return true;
}

static bool sync_directory_of(const char *path)
{
    char copy[PATH_MAX];
    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool synced = fsync(fd) == 0;
    int error = errno;
    close(fd);
    errno = error;
    return synced;
}

enum eng_status key_file_create(const char *path, uint8_t public_key[32], uint8_t secret[64])
{
    uint8_t seed[SEED_BYTES];
    char text[TEXT_BYTES + 1];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return system_fail(path, "create");
    randombytes_buf(seed, sizeof seed);
    sodium_bin2hex(text, sizeof text, seed, sizeof seed);
    text[TEXT_BYTES - 1] = '\n';
    enum eng_status status = ENG_OK;
    if (fchmod(fd, 0600) != 0 || !write_all(fd, text, TEXT_BYTES))
        status = system_fail(path, "write");
    else if (fsync(fd) != 0)
        status = system_fail(path, "sync");
    else if (!sync_directory_of(path))
        status = system_fail(path, "sync the directory");
    else
        crypto_sign_seed_keypair(public_key, secret, seed);
    close(fd);
    if (status != ENG_OK)
        unlink(path);
    sodium_memzero(seed, sizeof seed);
    sodium_memzero(text, sizeof text);
    return status;
}

enum eng_status key_file_read(const char *path, uint8_t public_key[32], uint8_t secret[64])
{
    uint8_t seed[SEED_BYTES];
    char text[TEXT_BYTES + 1]; /* one more, to see that there is no more */
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return system_fail(path, "open");
    enum eng_status status = ENG_OK;
    ssize_t size = -1;
    if (fstat(fd, &info) != 0)
        status = system_fail(path, "look at");
    else if (!S_ISREG(info.st_mode))
        status = eng_fail(ENG_INVALID, "%s: not a regular file", path);
    else if ((info.st_mode & 077) != 0)
        status = eng_fail(ENG_INVALID, "%s: mode is %04o, a key must not be open to others (0600)", path,
                          info.st_mode & 07777);
    else if ((size = read_all(fd, text, sizeof text)) < 0)
        status = system_fail(path, "read");
    else if (size != (ssize_t)TEXT_BYTES || text[TEXT_BYTES - 1] != '\n' ||
             sodium_hex2bin(seed, sizeof seed, text, 2 * SEED_BYTES, NULL, NULL, NULL) != 0)
        status = eng_fail(ENG_DAMAGED, "%s: not a key file of 64 hex digits and a newline", path);
    else
        crypto_sign_seed_keypair(public_key, secret, seed);
    close(fd);
    sodium_memzero(seed, sizeof seed);
    sodium_memzero(text, sizeof text);
    return status;
}
