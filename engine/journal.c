/*
 * The journal of a checkpoint: a double write of the control pages and the root slot.
 *
 * Control pages are overwritten in place, and a page may be torn by a power loss. So pages and slot are first written
 * to state/journal and synced: this is the commit point of the checkpoint. Only then are they written to their places.
 * A start that finds a valid journal newer than its root slots writes them again; doing so twice does no harm.
 *
 *   offset 0    u64 checksum        8  "PANDOJNL"     16  u32 version     20  u32 pages    24  store id
 *          56   u64 sequence       64  the root slot (4,608 bytes)
 *        4672   u32 file page number of each page, padded to 8 bytes, then the pages
 *
 * A journal is valid if and only if its magic is right and its checksum matches everything behind it, through the last
 * page. (InnoDB's double-write buffer, SQLite's rollback journal turned round.)
 *
 * Ways to fail: I/O, memory. An invalid journal is no error (ENG_NOT_FOUND): it was being written.
 */
#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* the streaming state on the stack */
#include <xxhash.h>

#include "store_internal.h"

struct journal_header {
    uint64_t checksum;
    char magic[8];
    uint32_t version, pages;
    uint8_t store_id[ENG_STORE_ID_BYTES];
    uint64_t sequence;
};
_Static_assert(sizeof(struct journal_header) == 64, "on disk");

static size_t numbers_bytes(size_t pages)
{
    return (pages * sizeof(uint32_t) + 7) / 8 * 8;
}

uint64_t journal_bytes(size_t pages)
{
    return sizeof(struct journal_header) + sizeof(struct rootslot) + numbers_bytes(pages) +
           pages * (uint64_t)CONTROL_PAGE_BYTES;
}

static uint64_t journal_checksum(const struct journal_header *header, const struct rootslot *slot,
                                 const uint32_t *numbers, const struct control_page *pages)
{
    XXH3_state_t state;
    memset(&state, 0, sizeof state); /* reset looks at it before it sets it */
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, (const uint8_t *)header + 8, sizeof *header - 8);
    XXH3_64bits_update(&state, slot, sizeof *slot);
    XXH3_64bits_update(&state, numbers, numbers_bytes(header->pages));
    XXH3_64bits_update(&state, pages, header->pages * sizeof *pages);
    return XXH3_64bits_digest(&state);
}

enum eng_status journal_write(struct disk_file *file, const struct rootslot *slot, const struct control_image *image)
{
    struct journal_header header = {.version = STATE_VERSION, .pages = (uint32_t)image->count};
    memcpy(header.magic, "PANDOJNL", 8);
    memcpy(header.store_id, slot->store_id, ENG_STORE_ID_BYTES);
    header.sequence = slot->sequence;
    uint64_t offset = sizeof header + sizeof *slot;
    header.checksum = journal_checksum(&header, slot, image->numbers, image->pages);
    enum eng_status status = disk_write(file, 0, &header, sizeof header);
    if (status == ENG_OK)
        status = disk_write(file, sizeof header, slot, sizeof *slot);
    if (status == ENG_OK)
        status = disk_write(file, offset, image->numbers, numbers_bytes(image->count));
    if (status == ENG_OK)
        status =
            disk_write(file, offset + numbers_bytes(image->count), image->pages, image->count * sizeof *image->pages);
    return status;
}

enum eng_status journal_read(struct disk_file *file, struct journal *journal)
{
    struct journal_header header;
    uint64_t size;
    memset(journal, 0, sizeof *journal);
    enum eng_status status = disk_size(file, &size);
    if (status)
        return status;
    if (size < sizeof header)
        return eng_fail(ENG_NOT_FOUND, "%s: empty", disk_file_path(file));
    status = disk_read(file, 0, &header, sizeof header);
    if (status)
        return status;
    if (memcmp(header.magic, "PANDOJNL", 8) != 0 || journal_bytes(header.pages) > size)
        return eng_fail(ENG_NOT_FOUND, "%s: header at offset 0: not valid", disk_file_path(file));
    struct control_image *image = &journal->image;
    image->count = header.pages;
    image->numbers = malloc(numbers_bytes(image->count) + 8);
    image->pages = malloc(image->count * sizeof *image->pages + 8);
    if (!image->numbers || !image->pages)
        return eng_fail(ENG_NO_MEMORY, "%s: %u pages: out of memory", disk_file_path(file), header.pages);
    uint64_t offset = sizeof header + sizeof journal->slot;
    status = disk_read(file, sizeof header, &journal->slot, sizeof journal->slot);
    if (status == ENG_OK && image->count)
        status = disk_read(file, offset, image->numbers, numbers_bytes(image->count));
    if (status == ENG_OK && image->count)
        status =
            disk_read(file, offset + numbers_bytes(image->count), image->pages, image->count * sizeof *image->pages);
    if (status)
        return status;
    if (header.checksum != journal_checksum(&header, &journal->slot, image->numbers, image->pages))
        return eng_fail(ENG_NOT_FOUND, "%s: checksum does not match", disk_file_path(file));
    if (header.version != STATE_VERSION) /* not before the checksum: a torn header has any version */
        return eng_fail(ENG_VERSION, "%s: header at offset 0: format %u, this program knows %u", disk_file_path(file),
                        header.version, STATE_VERSION);
    return ENG_OK;
}

void journal_free(struct journal *journal)
{
    free(journal->image.numbers);
    free(journal->image.pages);
    journal->image = (struct control_image){0};
}

enum eng_status journal_apply(struct disk_file *control, const struct control_image *image)
{
    enum eng_status status = ENG_OK;
    for (size_t i = 0; i < image->count && status == ENG_OK;) {
        size_t run = 1; /* pages that lie together are written together */
        while (i + run < image->count && image->numbers[i + run] == image->numbers[i] + run)
            run++;
        for (size_t p = i; p < i + run; p++)
            assert(control_page_valid(&image->pages[p], image->numbers[p]));
        status = disk_write(control, image->numbers[i] * (uint64_t)CONTROL_PAGE_BYTES, &image->pages[i],
                            run * sizeof *image->pages);
        i += run;
    }
    return status;
}
