/* Freeing lazily what lies below a node nobody can see any more. See reap.c. */
#ifndef ENGINE_REAP_H
#define ENGINE_REAP_H

#include "arena.h"
#include "store.h"

/* An object, and everything below it born after floor, that the versions from generation born up to died (not included)
 * can see. */
struct fall {
    uint64_t born, died, floor;
    uint32_t id, lineage;
};

/* A hold on a base, whose holder the versions from generation born up to died can see. */
struct release {
    uint64_t born, died;
    uint32_t base, lineage;
};

struct reaper {
    struct fall *due, *waiting; /* nobody sees them; some kept version may */
    size_t due_count, due_capacity, waiting_count, waiting_capacity;
    struct release *releases;
    size_t releases_count, releases_capacity;
    bool look;     /* a version went that was watched: some that wait may be due */
    bool holds_go; /* some releases may be due, once nothing else is */
};

#define REAP_STEP 4096u /* objects freed by one commit or drop */

/* Room for the falls of the open generation, so that reap_take cannot fail. */
ENG_MUST_CHECK enum eng_status reap_room(struct store *store);
/* Takes them over. */
void reap_take(struct store *store);
/* One that was waiting when a checkpoint was made. */
ENG_MUST_CHECK enum eng_status reap_load(struct store *store, const struct fall *fall);
ENG_MUST_CHECK enum eng_status reap_load_release(struct store *store, const struct release *release);
void reap_close(struct store *store);

#endif
