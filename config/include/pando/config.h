/*
 * pando.conf: INI, every key optional, unknown sections and keys are errors that name file and line.
 * The keys, their defaults and meanings are those of the table in config/README.md. Sizes accept K, M, G suffixes.
 * A key may be given once, except replication.follow (a list). Parsing touches nothing but the file. (Parser: inih.)
 */
#ifndef PANDO_CONFIG_H
#define PANDO_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_FOLLOW_MAX 8
#define CONFIG_PATH_MAX 1024
#define CONFIG_URL_MAX 256

struct config {
    /* [node] */
    char data[CONFIG_PATH_MAX];   /* default "/var/lib/pando" */
    char socket[CONFIG_PATH_MAX]; /* nng URL; default ipc:///run/pando/pando.ipc, with --data: ipc://DIR/pando.ipc */
    unsigned socket_mode;         /* 0660 */
    char auth[16];                /* "local" */
    int log_level;                /* syslog priority; default info (6) */
    /* [block] */
    uint32_t block_max_txs;     /* 4096, 1..65536 */
    uint64_t block_max_bytes;   /* 4M, 64K..64M */
    uint32_t block_max_wait_ms; /* 5, 0..10000 */
    /* [retain] */
    uint64_t retain_blocks; /* 1024; 0 or "all": keep every root live */
    uint64_t retain_every;  /* 0: none */
    /* [engine] */
    uint64_t checkpoint_log_bytes; /* 256M, >= 64K */
    uint64_t hot_bytes;            /* 64M; 0: no hot tier */
    /* [replication] */
    char listen[CONFIG_URL_MAX];                    /* tcp://127.0.0.1:7450; "" or "none": do not listen */
    char follow[CONFIG_FOLLOW_MAX][CONFIG_URL_MAX]; /* none: leader */
    size_t follow_count;
    bool plaintext; /* no: then listen and follow addresses must be loopback or ipc */
};

/* Fills in the defaults. */
void config_defaults(struct config *config);
/* Reads a file over the defaults. data_dir, if not NULL, is the directory of --data: it sets data and the default
 * socket before the file is read. true, or false with one line "FILE:LINE: what is wrong" in error. Keys of
 * INTERFACE.md that this version does not implement (archive, cache_bytes, http, arbiter, sync_followers > 0, mode
 * other than diff, allow, peers, io other than buffered, auth other than local) are errors that say so, unless the
 * value is the one that means "off" or the default and is honoured as such. */
bool config_read(struct config *config, const char *path, const char *data_dir, char *error, size_t error_bytes);
/* Checks what concerns several keys, and addresses from elsewhere than the file (loopback unless plaintext). */
bool config_check(const struct config *config, char *error, size_t error_bytes);
/* True for tcp://127.x, tcp://localhost, tcp://[::1] and ipc://. */
bool config_url_is_local(const char *url);

#endif
