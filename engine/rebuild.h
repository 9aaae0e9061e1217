/* Starting without the control table (store_options.rebuild). See rebuild.c. */
#ifndef ENGINE_REBUILD_H
#define ENGINE_REBUILD_H

#include "store.h"

/* Segments are mapped and the table is empty: puts the newest copy of every id that belongs to store->root into it. */
ENG_MUST_CHECK enum eng_status rebuild_table(struct store *store);
/* A line for who asked for the rebuild. */
void rebuild_say(const struct store_options *options, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
