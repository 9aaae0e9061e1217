/*
 * The root slot: what a start begins with.
 *
 * state/slots holds two of them, at offsets 0 and 8192. They are written in turn, by their sequence number, so that
 * the newest valid one is never overwritten: a torn write of one leaves the other. A slot is valid if and only if its
 * magic is right and its checksum matches the 4,600 bytes behind it.
 *
 *   offset 0    u64 checksum        8  "PANDOSLT"            16  u32 version        20  u32 bytes of app_state
 *          24   store id           56  u64 sequence          64  u64 checkpoint     72  u64 start
 *          80   u32 segment bytes  84  u32 leaf bytes        88  u32 inline bytes   92  u32 segments in the file
 *          96   u64 next id       104  u64 catalog bytes    112  u64 catalog checksum   120  u64 newest generation
 *         128   u32 kind          136  secret of the checksums of objects, 192 bytes
 *         512   app_state, 4,096 bytes
 *
 * A checkpoint writes one (checkpoint and sequence each one more). Every open writes both, one after the other (start
 * one more, everything else as it was), so that generations, whose high part is start, are unique for all time, even if
 * one of the slots is lost.
 *
 * The secret is random, made when the store is, and the same in every slot. Checksums of objects depend on it, so that
 * nobody who only writes values, and knows the store id, can write one that holds what a rebuild takes for an object.
 *
 * Ways to fail: neither slot is valid (ENG_DAMAGED), written by a newer version (ENG_VERSION), I/O.
 */
#include <string.h>
#include <xxhash.h>

#include "store_internal.h"

static uint64_t slot_checksum(const struct rootslot *slot)
{
    return XXH3_64bits((const uint8_t *)slot + 8, sizeof *slot - 8);
}

void rootslot_seal(struct rootslot *slot)
{
    memcpy(slot->magic, "PANDOSLT", 8);
    slot->checksum = slot_checksum(slot);
}

bool rootslot_kin(const struct rootslot *slot, const struct rootslot *other)
{
    return memcmp(slot->store_id, other->store_id, sizeof slot->store_id) == 0 &&
           memcmp(slot->secret, other->secret, sizeof slot->secret) == 0;
}

enum eng_status rootslot_read_at(struct disk_file *file, unsigned index, struct rootslot *slot)
{
    uint64_t size, offset = index * (uint64_t)SLOT_STRIDE_BYTES;
    enum eng_status status = disk_size(file, &size);
    if (status)
        return status;
    if (size < offset + sizeof *slot)
        return eng_fail(ENG_NOT_FOUND, "%s: root slot at offset %llu: not written yet", disk_file_path(file),
                        (unsigned long long)offset);
    status = disk_read(file, offset, slot, sizeof *slot);
    if (status)
        return status;
    if (memcmp(slot->magic, "PANDOSLT", 8) != 0 || slot->checksum != slot_checksum(slot))
        return eng_fail(ENG_NOT_FOUND, "%s: root slot at offset %llu: checksum does not match", disk_file_path(file),
                        (unsigned long long)offset);
    if (slot->version != STATE_VERSION)
        return eng_fail(ENG_VERSION, "%s: root slot at offset %llu: format %u, this program knows %u",
                        disk_file_path(file), (unsigned long long)offset, slot->version, STATE_VERSION);
    uint32_t size_bytes = slot->segment_bytes;
    if ((slot->sequence & 1) != index || slot->app_bytes > ENG_APP_STATE_BYTES_MAX ||
        size_bytes < ENG_SEGMENT_BYTES_MIN || size_bytes > ENG_SEGMENT_BYTES_MAX || (size_bytes & (size_bytes - 1)))
        return eng_fail(ENG_DAMAGED, "%s: root slot at offset %llu: impossible contents", disk_file_path(file),
                        (unsigned long long)offset);
    return ENG_OK;
}

enum eng_status rootslot_read(struct disk_file *file, struct rootslot *slot)
{
    struct rootslot slots[2];
    bool valid[2];
    for (unsigned i = 0; i < 2; i++) {
        enum eng_status status = rootslot_read_at(file, i, &slots[i]);
        if (status && status != ENG_NOT_FOUND)
            return status;
        valid[i] = status == ENG_OK;
    }
    if (!valid[0] && !valid[1])
        return eng_fail(ENG_DAMAGED, "%s: root slots at offsets 0 and %u: neither is valid", disk_file_path(file),
                        SLOT_STRIDE_BYTES);
    *slot = !valid[1] || (valid[0] && slots[0].sequence > slots[1].sequence) ? slots[0] : slots[1];
    return ENG_OK;
}

enum eng_status rootslot_write(struct disk_file *file, struct rootslot *slot)
{
    rootslot_seal(slot);
    return disk_write(file, (slot->sequence & 1) * (uint64_t)SLOT_STRIDE_BYTES, slot, sizeof *slot);
}
