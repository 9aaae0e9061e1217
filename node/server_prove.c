/*
 * Proofs of ranges and of differences, as proof files: the state is that at the asked height, the header the one that
 * was signed for it; of a difference it is the newer state's.
 *
 * Ways to fail: those of reading (server_read.c); height 0, whose state nobody signed; a proof over the limit
 * (ENG_TOO_LARGE), for which a smaller range must be asked.
 */
#include "server_internal.h"

#include "pando/proof.h"

static enum eng_status prove_difference(struct ledger *ledger, struct eng_snapshot *newer, uint64_t since,
                                        const struct protocol_range *range, struct proof_blob *state)
{
    struct eng_snapshot *older;
    enum eng_status status = ledger_snapshot(ledger, since, &older);
    if (status != ENG_OK)
        return status;
    status = eng_prove_diff(older, newer, range->from, range->from_bytes, range->to, range->to_bytes, 0, state);
    eng_snapshot_close(&older);
    return status;
}

static enum eng_status prove_in(struct ledger *ledger, struct eng_snapshot *snapshot, enum proof_kind kind,
                                uint64_t since, const struct protocol_range *range, struct protocol_writer *reply)
{
    struct header header;
    struct proof_blob state = {0}, file = {0};
    enum eng_status status = ledger_header(ledger, eng_snapshot_tag(snapshot), &header);
    if (status == ENG_OK && kind == PROOF_DIFF)
        status = prove_difference(ledger, snapshot, since, range, &state);
    else if (status == ENG_OK)
        status = proof_state_range(snapshot, range->from, range->from_bytes, range->to, range->to_bytes,
                                   kind == PROOF_RANGE, &state);
    if (status == ENG_OK) {
        uint8_t bytes[HEADER_BYTES_MAX];
        size_t size = header_encode(&header, bytes);
        status = proof_file(bytes, size, &state, &file);
    }
    if (status == ENG_OK)
        protocol_write_bytes(reply, file.bytes, file.size);
    proof_blob_free(&file);
    proof_blob_free(&state);
    return status;
}

enum eng_status server_prove_range(struct ledger *ledger, struct protocol_reader *body, struct protocol_writer *reply)
{
    uint8_t kind = protocol_read_u8(body);
    uint64_t since = protocol_read_u64(body);
    struct protocol_range range;
    enum eng_status status = protocol_read_range(body, false, &range);
    if (status != ENG_OK)
        return status;
    if (kind != PROOF_RANGE && kind != PROOF_TOTALS && kind != PROOF_DIFF)
        return eng_fail(ENG_INVALID, "prove: kind %u is not one of a range", kind);
    range.from = range.flags & PROTOCOL_HAS_FROM ? range.from : NULL;
    range.to = range.flags & PROTOCOL_HAS_TO ? range.to : NULL;
    struct eng_snapshot *snapshot;
    status = ledger_snapshot(ledger, range.height, &snapshot);
    if (status != ENG_OK)
        return status;
    if (eng_snapshot_tag(snapshot) == 0)
        status = eng_fail(ENG_NOT_FOUND, "height 0: the genesis has no signed header to prove against");
    else
        status = prove_in(ledger, snapshot, (enum proof_kind)kind, since, &range, reply);
    eng_snapshot_close(&snapshot);
    return status;
}
