/*
 * Death lists: what died when a version was made.
 *
 * A list is a chain of immutable OBJECT_LIST objects, each with up to 64 KiB of entries {u32 id, u64 born}, packed:
 *
 *   offset 0    object header       24  u32 id of the next chunk, 0: the last     28  u32 count     32  entries
 *
 * Being objects, lists are moved, checkpointed and checked like everything else. They are read in one direction only:
 * list_free walks a list, frees the entries nobody sees any more and the chunks themselves; the control words of the
 * next entries are on their way into the cache meanwhile, since ids are in no order. list_carry writes the entries that
 * stay into new chunks in front of another list, whose chunks are named but not read.
 *
 * Ways to fail: no space, ids or memory for new chunks; a damaged chunk is found by list_check before anything is done.
 * Invariant: a chunk is on exactly one list of one version.
 */
#include <stdlib.h>
#include <string.h>

#include "prefetch.h"
#include "store_internal.h"

#define LIST_CHUNK_BYTES_MAX (64u << 10)

enum eng_status list_prepend(struct arena *arena, const struct death *deaths, size_t count, uint32_t *head)
{
    size_t bytes_max = (size_t)arena->store->segments.units * UNIT_BYTES / 4;
    if (bytes_max > LIST_CHUNK_BYTES_MAX)
        bytes_max = LIST_CHUNK_BYTES_MAX;
    size_t most = (bytes_max - sizeof(struct list_chunk)) / LIST_ENTRY_BYTES;
    while (count) {
        size_t n = count < most ? count : most;
        uint32_t id;
        struct object *object = store_alloc(arena, OBJECT_LIST, sizeof(struct list_chunk) + n * LIST_ENTRY_BYTES, &id);
        if (!object)
            return arena_status(arena);
        struct list_chunk *chunk = (struct list_chunk *)(void *)object;
        chunk->next = *head;
        chunk->count = (uint32_t)n;
        for (size_t i = 0; i < n; i++) {
            memcpy(chunk->entries + i * LIST_ENTRY_BYTES, &deaths[i].id, 4);
            memcpy(chunk->entries + i * LIST_ENTRY_BYTES + 4, &deaths[i].born, 8);
        }
        *head = id;
        deaths += n;
        count -= n;
    }
    return ENG_OK;
}

static struct list_chunk *list_chunk(struct store *store, uint32_t id)
{
    return (struct list_chunk *)(void *)store_object(store, id);
}

enum eng_status list_check(struct store *store, uint32_t head)
{
    for (struct list_chunk *chunk; head; head = chunk->next) {
        chunk = list_chunk(store, head);
        if (!chunk)
            return ENG_DAMAGED;
        if (chunk->object.type != OBJECT_LIST ||
            sizeof *chunk + (uint64_t)chunk->count * LIST_ENTRY_BYTES > chunk->object.units * (uint64_t)UNIT_BYTES)
            return eng_fail(ENG_DAMAGED, "%s: death list: object %u is no valid chunk", store->dir, head);
    }
    return ENG_OK;
}

void list_free(struct store *store, uint32_t head, uint64_t above)
{
    const size_t ahead = 12;
    control_free_begin(store);
    while (head) {
        struct list_chunk *chunk = list_chunk(store, head);
        assert(chunk);
        uint32_t next = chunk->next;
        for (size_t i = 0; i < chunk->count; i++) {
            if (i + ahead < chunk->count)
                prefetch_write((const void *)&store->view.control[list_entry(chunk->entries, i + ahead).id]);
            struct death death = list_entry(chunk->entries, i);
            if (death.born > above)
                control_free(store, death.id);
        }
        control_free(store, head);
        head = next;
    }
    control_free_end(store);
}

enum eng_status list_carry(struct store *store, uint32_t list, uint64_t until, uint32_t *head, bool *all)
{
    struct death *carried = NULL;
    size_t count = 0, total = 0;
    for (struct list_chunk *chunk; list; list = chunk->next) {
        chunk = list_chunk(store, list);
        assert(chunk);
        struct death *grown = realloc(carried, (count + chunk->count) * sizeof *grown);
        if (!grown) {
            free(carried);
            return eng_fail(ENG_NO_MEMORY, "%s: death list: out of memory", store->dir);
        }
        carried = grown;
        total += chunk->count;
        for (size_t i = 0; i < chunk->count; i++) {
            struct death death = list_entry(chunk->entries, i);
            if (death.born <= until)
                carried[count++] = death;
        }
    }
    *all = count == total && *head == 0;
    enum eng_status status = ENG_OK;
    if (count && !*all) {
        generation_open(store);
        status = list_prepend(&store->arenas[0], carried, count, head);
        if (status)
            generation_undo(store);
        else
            generation_keep(store);
    }
    free(carried);
    return status;
}
