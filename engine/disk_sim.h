/*
 * The inside of the simulated disk: what its three files share. Private to disk_sim*.c.
 *
 *   disk_sim.c        the backing: calls, counting, watching, failing
 *   disk_sim_node.c   files and directories in memory: current and stable content
 *   disk_sim_crash.c  what a power loss leaves
 *
 * A node is a file or a directory. It lives while anything refers to it: a name (current or stable), a pending
 * operation, a handle. Two contents are kept of each: the current one, which calls and maps see, and the stable one,
 * which the last sync left. Everything is guarded by the mutex of the disk, except stores through a map.
 */
#ifndef PANDO_DISK_SIM_H
#define PANDO_DISK_SIM_H

#include <pthread.h>

#include "disk_backing.h"

#define SIM_SECTOR_BYTES 512u

struct sim_node;

struct sim_name {
    char *name;
    struct sim_node *node;
};

struct sim_names {
    struct sim_name *at;
    size_t count, capacity;
};

enum sim_change { SIM_LINK, SIM_UNLINK, SIM_RENAME };

struct sim_pending { /* a change of a directory that is not yet stable */
    enum sim_change change;
    char *name, *to;
    struct sim_node *node;
};

struct sim_node {
    unsigned refs; /* names, pending changes, handles */
    unsigned live; /* current names and handles: while it is not 0 the size counts against the capacity */
    unsigned maps; /* handles that mapped it */
    bool directory;

    /* A file. Bytes of current in [size, capacity) are zero. */
    uint8_t *current;
    uint64_t size, capacity;
    uint64_t map_bytes; /* current is a mapping of this length; 0: from malloc */
    uint64_t map_used;  /* the largest size it had since it was mapped */
    uint8_t *stable;
    uint64_t stable_size, stable_capacity;
    bool clean;                  /* stable is the same as current and not kept apart */
    bool undecided;              /* a sync failed: a later one makes stable what is written again */
    uint64_t dirty_lo, dirty_hi; /* written through calls since the last sync; a mapped file is all dirty */

    /* A directory. */
    struct sim_names names, stable_names;
    struct sim_pending *pending;
    size_t pending_count, pending_capacity;
};

struct sim_disk {
    struct disk base;
    pthread_mutex_t mutex;
    struct sim_node *root;
    uint64_t capacity, used;
    uint64_t pin_limit; /* of each handle */
    unsigned handles;
    uint64_t calls, fail_at;
    enum eng_status fail_status; /* ENG_OK: none armed */
    void (*watch)(void *context, struct disk *disk, uint64_t n);
    void *watch_context;
};

struct sim_file {
    struct disk_file base;
    struct sim_node *node;
    uint64_t pinned;
};

/* Allocation in the simulation ends the process when it fails: it is a test instrument. */
void *sim_alloc(size_t bytes); /* zeroed */
/* Zeroed memory for the content of a file; the capacity of the node says its size when it is freed. */
uint8_t *sim_bytes_new(uint64_t bytes);
char *sim_string(const char *text, size_t length);

struct sim_disk *sim_disk_new(uint64_t capacity, struct sim_node *root);

struct sim_node *sim_node_new(bool directory);
void sim_node_ref(struct sim_node *node, bool live);
void sim_node_unref(struct sim_disk *disk, struct sim_node *node, bool live);

/* Contents of a file. The caller has checked the capacity of the disk. */
void sim_node_resize(struct sim_node *node, uint64_t size);
void sim_node_write(struct sim_node *node, uint64_t offset, const void *bytes, size_t length);
void sim_node_zero(struct sim_node *node, uint64_t offset, uint64_t length);
void sim_node_sync(struct sim_node *node);
enum eng_status sim_node_map(struct sim_node *node, const char *path, uint64_t reserve_bytes, void **base);
/* memcpy that may run beside stores through a map, as a disk may read a page at any time. */
void sim_copy(void *to, const void *from, size_t length);

/* Names. */
struct sim_node *sim_names_find(const struct sim_names *names, const char *name, size_t length);
void sim_names_set(struct sim_names *names, const char *name, size_t length, struct sim_node *node); /* no refs */
void sim_names_erase(struct sim_names *names, const char *name);                                     /* no refs */
void sim_dir_link(struct sim_disk *disk, struct sim_node *dir, const char *name, struct sim_node *node);
void sim_dir_unlink(struct sim_disk *disk, struct sim_node *dir, const char *name);
void sim_dir_rename(struct sim_disk *disk, struct sim_node *dir, const char *from, const char *to);
void sim_dir_sync(struct sim_disk *disk, struct sim_node *dir);

#endif
