#!/usr/bin/env python3
"""One content, one root: the state of bitcoin-1-438 (../shared/data beside the source; skipped, saying so, where that is
absent) reached in four ways on ledgers of their own:

  - by its 438 blocks;
  - by one block with the same transactions;
  - its final entries inserted in reverse key order, one block each few, mixed with 1,000 further keys that are inserted and
    deleted again;
  - by its 438 blocks in a store with another leaf weight.
"""
import gzip
import json
import random
import sys

sys.dont_write_bytecode = True  # no __pycache__ in the source
from running_node import Nodes, check


def by_blocks(nodes, name, text, *options):
    node = nodes.node(name)
    node.init("--ledger", name, *options)
    node.start()
    node.pando("import", "-", stdin=text)
    node.wait(text.count(b"\n"))
    root = node.pando("root").decode().split()
    scan = node.pando("--format", "hex", "scan")
    node.stop()
    return root, scan


def one_block(text):
    transactions = [{"ops": json.loads(line)["ops"]} for line in text.splitlines()]
    return (json.dumps({"height": 1, "txs": transactions}) + "\n").encode()


def reversed_and_mixed(scan):
    """Entries in reverse order among others that come and go."""
    rng = random.Random(438)
    entries = [line.split() for line in scan.decode().splitlines()]
    others = [rng.randbytes(rng.choice((1, 4, 32, 36, 40))).hex() for _ in range(900)]
    others += [key[: rng.randrange(2, len(key), 2)] for key, _ in rng.sample(entries, 50)]  # prefixes of real keys
    others += [key + "00" for key, _ in rng.sample(entries, 50)]                             # and the other way
    real = {key for key, _ in entries}
    others = sorted(set(others) - real, key=lambda _: rng.random())
    while len(others) < 1000:
        key = rng.randbytes(20).hex()
        if key not in real and key not in others:
            others.append(key)
    blocks, height, alive = [], 0, []
    queue = sorted(entries, reverse=True)
    while queue or others or alive:
        ops = []
        for key, value in queue[:3]:
            ops.append({"op": "insert", "key_hex": key, "value_hex": value})
        del queue[:3]
        for key in others[:7]:
            ops.append({"op": "insert", "key_hex": key, "value_hex": rng.randbytes(rng.randrange(300)).hex()})
            alive.append(key)
        del others[:7]
        rng.shuffle(alive)
        gone = rng.randrange(9) if others else len(alive)
        for key in alive[:gone]:
            ops.append({"op": "delete", "key_hex": key})
        del alive[:gone]
        height += 1
        blocks.append(json.dumps({"height": height, "ops": ops}) + "\n")
    return "".join(blocks).encode()


def main():
    with Nodes(sys.argv[1]) as nodes:
        path = nodes.source.parent / "shared" / "data" / "bitcoin-1-438.jsonl.gz"
        if not path.exists():
            print("skipped: there is no %s" % path)
            return
        text = gzip.decompress(path.read_bytes())
        root, scan = by_blocks(nodes, "blocks", text)
        for name, other, options in (("one", one_block(text), ()), ("mixed", reversed_and_mixed(scan), ()),
                                     ("leaves", text, ("--leaf-bytes", "256"))):
            found, contents = by_blocks(nodes, name, other, *options)
            check(contents == scan, "%s: other contents" % name)
            check(found[1:] == root[1:], "%s: root %s, not %s" % (name, " ".join(found[1:]), " ".join(root[1:])))
        print("four ways to %s entries, one root: %s" % (root[2], root[1]))


main()
