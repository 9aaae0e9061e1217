/*
 * What a power loss leaves of the simulated disk.
 *
 * disk_sim_crash builds a new disk from the stable contents and, by a seed, a part of what was changed since:
 *
 *   file contents   every 512-byte sector whose current bytes differ from the stable ones is old, new, or torn at a
 *                   random byte with the new part in front or behind. Each image draws how likely "new" is (from 1 in
 * 32 to 31 in 32), so that one lost and one surviving sector among many are tried as well as mixtures. file size the
 * stable one, the current one, or when the file grew something between in whole sectors. directories     each pending
 * change (link, unlink, rename) is made or not, in order; a rename is atomic. A change that no longer applies, because
 * an earlier one was left out, is passed over.
 *
 * Seed 0 takes nothing of what is not stable, seed 1 everything. The same disk and seed give the same image. In the
 * image everything is stable, nothing is mapped, open or locked.
 *
 * Cost: one copy and one comparison of what is dirty (all of a mapped file); no mapping is made.
 */
#include <stdlib.h>
#include <string.h>

#include "disk_sim.h"

struct chance {
    uint64_t state;
    uint64_t seed;
    unsigned new_of_32;
};

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t draw(struct chance *chance)
{
    uint64_t z = chance->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Is this change in the image? */
static bool taken(struct chance *chance)
{
    if (chance->seed < 2)
        return chance->seed == 1;
    return draw(chance) % 32 < chance->new_of_32;
}

static uint64_t choose_size(struct chance *chance, const struct sim_node *node)
{
    uint64_t old_size = node->stable_size, new_size = node->size;
    if (chance->seed < 2)
        return chance->seed == 1 ? new_size : old_size;
    if (old_size >= new_size || draw(chance) % 4 != 0)
        return taken(chance) ? new_size : old_size;
    uint64_t sectors = (new_size - old_size) / SIM_SECTOR_BYTES;
    return old_size + (sectors ? draw(chance) % sectors * SIM_SECTOR_BYTES : 0);
}

/* One differing sector, [at, at + length): the image holds the old bytes. */
static void choose_sector(struct chance *chance, uint8_t *image, const uint8_t *now, size_t length)
{
    if (chance->seed >= 2 && draw(chance) % 8 == 0) {
        size_t cut = draw(chance) % length;
        if (draw(chance) % 2)
            memcpy(image, now, cut);
        else
            memcpy(image + cut, now + cut, length - cut);
    } else if (taken(chance)) {
        memcpy(image, now, length);
    }
}

static struct sim_node *crash_file(struct chance *chance, const struct sim_node *node)
{
    struct sim_node *image = sim_node_new(false);
    image->clean = true;
    if (node->clean) {
        image->size = image->capacity = node->size;
        image->current = sim_bytes_new(node->size);
        sim_copy(image->current, node->current, node->size);
        return image;
    }
    uint64_t size = choose_size(chance, node);
    image->size = size;
    image->capacity = size > node->size ? size : node->size;
    image->current = sim_bytes_new(image->capacity);
    sim_copy(image->current, node->stable, node->stable_size < size ? node->stable_size : size);

    uint64_t from = node->map_bytes || node->undecided ? 0 : node->dirty_lo / SIM_SECTOR_BYTES * SIM_SECTOR_BYTES;
    uint64_t to = node->map_bytes || node->undecided ? node->size : node->dirty_hi;
    if (to > size)
        to = size;
    if (to > node->size)
        to = node->size; /* past it the current content reads as zeros: see below */
    for (uint64_t at = from; at < to; at += SIM_SECTOR_BYTES) {
        size_t length = to - at < SIM_SECTOR_BYTES ? (size_t)(to - at) : SIM_SECTOR_BYTES;
        if (memcmp(image->current + at, node->current + at, length) != 0)
            choose_sector(chance, image->current + at, node->current + at, length);
    }
    return image;
}

static void apply(struct chance *chance, struct sim_names *names, const struct sim_pending *pending)
{
    if (!taken(chance))
        return;
    struct sim_node *present = sim_names_find(names, pending->name, strlen(pending->name));
    switch (pending->change) {
    case SIM_LINK:
        if (present)
            sim_names_erase(names, pending->name);
        sim_names_set(names, pending->name, strlen(pending->name), pending->node);
        break;
    case SIM_UNLINK:
        if (present == pending->node)
            sim_names_erase(names, pending->name);
        break;
    case SIM_RENAME:
        if (present != pending->node)
            break;
        sim_names_erase(names, pending->name);
        if (sim_names_find(names, pending->to, strlen(pending->to)))
            sim_names_erase(names, pending->to);
        sim_names_set(names, pending->to, strlen(pending->to), pending->node);
        break;
    }
}

static struct sim_node *crash_dir(struct chance *chance, const struct sim_node *dir, uint64_t *used)
{
    struct sim_names names = {0};
    for (size_t i = 0; i < dir->stable_names.count; i++) {
        const struct sim_name *entry = &dir->stable_names.at[i];
        sim_names_set(&names, entry->name, strlen(entry->name), entry->node);
    }
    for (size_t i = 0; i < dir->pending_count; i++)
        apply(chance, &names, &dir->pending[i]);

    struct sim_node *image = sim_node_new(true);
    for (size_t i = 0; i < names.count; i++) {
        const struct sim_node *node = names.at[i].node;
        struct sim_node *copy = node->directory ? crash_dir(chance, node, used) : crash_file(chance, node);
        size_t length = strlen(names.at[i].name);
        sim_names_set(&image->names, names.at[i].name, length, copy);
        sim_node_ref(copy, true);
        sim_names_set(&image->stable_names, names.at[i].name, length, copy);
        sim_node_ref(copy, false);
        *used += copy->size;
        free(names.at[i].name);
    }
    free(names.at);
    return image;
}

enum eng_status disk_sim_crash(const struct disk *disk, uint64_t seed, struct disk **image)
{
    struct sim_disk *source = (struct sim_disk *)(uintptr_t)disk; /* const for the caller: only the mutex changes */
    struct chance chance = {.state = seed * 0xd1342543de82ef95ull + 1, .seed = seed};
    static const unsigned likely[8] = {1, 4, 8, 16, 16, 24, 28, 31};
    chance.new_of_32 = likely[draw(&chance) % 8];

    pthread_mutex_lock(&source->mutex);
    uint64_t used = 0;
    struct sim_node *root = crash_dir(&chance, source->root, &used);
    struct sim_disk *target = sim_disk_new(source->capacity, root);
    target->used = used;
    pthread_mutex_unlock(&source->mutex);
    *image = &target->base;
    return ENG_OK;
}
