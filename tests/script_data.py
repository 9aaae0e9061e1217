#!/usr/bin/env python3
"""The real block files of ../shared/data beside the source (skipped, saying so, where that is absent).

Each is imported into a leader with a live follower; a late follower joins when all is done. Every line of its oracle
(height, entries, SHA-256 of the hex scan; computed without Pando) must hold on all three, and the roots must be equal.
nng-history must be imported in less than 5 s by a release build.
"""
import gzip
import hashlib
import sys
import time

sys.dont_write_bytecode = True  # no __pycache__ in the source
from running_node import Nodes, check

IMPORT_SECONDS_MAX = 5.0


def replay(nodes, path):
    name = path.name[: -len(".jsonl.gz")]
    oracle = [line.split() for line in path.with_name(name + ".oracle").read_text().splitlines()]
    leader, live, late = (nodes.node("%s.%d" % (name[:8], i)) for i in range(3))
    blocks = nodes.directory / (name + ".jsonl")
    blocks.write_bytes(gzip.decompress(path.read_bytes()))
    count = blocks.read_bytes().count(b"\n")
    leader.init("--ledger", name)
    leader.start()
    live.join(leader)
    live.start()
    start = time.monotonic()
    leader.pando("import", blocks)
    seconds = time.monotonic() - start
    live.wait(count)
    late.join(leader)
    late.start()
    late.wait(count)
    for node in (leader, live, late):
        for height, entries, digest in oracle:
            scan = node.pando("--format", "hex", "scan", "--at", height)
            check(scan.count(b"\n") == int(entries), "%s at %s: %d entries, not %s" % (
                name, height, scan.count(b"\n"), entries))
            check(hashlib.sha256(scan).hexdigest() == digest, "%s at %s: the contents differ" % (name, height))
            check(node.root(height) == leader.root(height), "%s at %s: the roots differ" % (name, height))
            check(node.root(height).split()[2] == entries, "%s at %s: the count of the root" % (name, height))
    leader.pando("import", blocks)  # the same again: every block is there and is skipped
    check(leader.status()["height"] == count, "%s: a second import changed the height" % name)
    for node in (late, live, leader):
        node.stop()
    print("%s: %d blocks imported in %.2f s, %d oracle lines hold on three nodes" % (name, count, seconds, len(oracle)))
    if name == "nng-history" and nodes.is_release():
        check(seconds < IMPORT_SECONDS_MAX, "%s: %.2f s, over %.0f s" % (name, seconds, IMPORT_SECONDS_MAX))


def main():
    with Nodes(sys.argv[1]) as nodes:
        data = nodes.source.parent / "shared" / "data"
        files = sorted(data.glob("*.jsonl.gz"))
        if not files:
            print("skipped: there are no block files in %s" % data)
        for path in files:
            replay(nodes, path)


if __name__ == "__main__":
    main()
