#!/usr/bin/env python3
"""Proofs through the commands: made by a node, verified without one, worth nothing once a bit of them is another.

A node proves keys that are there (text, binary, amount, a value over 64 bytes, an empty one) and
keys that are not (before, between and behind the others, a prefix of one, one of which another is a prefix). Then it is
stopped, and with --node-key, --root, --genesis and all of them

- the proof as it was is verified, exit 0, and the words name each key with its value, or absent;
- with one bit flipped it is not: exit 1, one line. Every 37th bit by default, every bit with --long (or PANDO_LONG=1);
  the verifier itself is tried with every bit in test_proof.c;
- cut off anywhere or with a byte more it is not; nor against another root, another node's key, another genesis;
- wrong use has exit code 2.
"""
import concurrent.futures
import json
import os
import subprocess
import sys

from running_node import Nodes, check

LONG = "--long" in sys.argv or os.environ.get("PANDO_LONG") == "1"
STEP = 1 if LONG else 37
PRESENT = {b"config/limit": b"10", b"\x00\xff": b"\xca\xfe", b"large": b"v" * 200, b"k" * 100: b"",
           b"path/a": b"1", b"path/a/b": b"2"}
AMOUNTS = {b"balance": -25, b"balance/x": 10 ** 30}
ABSENT = [b"\x00", b"absent", b"path", b"path/a/", b"path/a/b/c", b"zzz", b"k" * 99]


class Verifier:
    """pando verify, which needs no node."""

    def __init__(self, nodes):
        self.program = str(nodes.programs / "pando")

    def run(self, *arguments):
        command = [self.program, "verify", *map(str, arguments)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    def refuses(self, what, *arguments, code=1):
        done = self.run(*arguments)
        errors = done.stderr.decode(errors="replace")
        check(done.returncode == code, "%s: exit code %d, not %d: %s" % (what, done.returncode, code, errors))
        check(errors.startswith("pando: ") and errors.count("\n") == 1 and errors.endswith("\n"),
              "%s: not one line on stderr: %r" % (what, errors))
        check(code == 2 or not done.stdout, "%s: refused, but it printed %r" % (what, done.stdout))


def fill(node):
    ops = [{"op": "put", "key_hex": key.hex(), "value_hex": value.hex()} for key, value in PRESENT.items()]
    ops += [{"op": "add", "key_hex": key.hex(), "amount": str(amount)} for key, amount in AMOUNTS.items()]
    ops += [{"op": "put", "key": "other/%03d" % i, "value": str(i)} for i in range(200)]
    receipt = json.loads(node.pando("submit", "-", stdin=json.dumps({"ops": ops}).encode() + b"\n"))
    check(receipt["ok"], "the keys: %s" % receipt)


def as_argument(key):
    return "0x" + key.hex()


def as_printed(data):
    text = data.decode(errors="replace")
    return text.encode() if text.isprintable() and text.encode() == data else b"0x" + data.hex().encode()


def check_words(output, keys):
    lines = output.splitlines()
    wanted = set()
    for key in keys:
        if key in PRESENT:
            wanted.add(b"key " + as_printed(key) + b" has the value " + as_printed(PRESENT[key]))
        elif key in AMOUNTS:
            wanted.add(b"key " + as_printed(key) + b" has the amount %d" % AMOUNTS[key])
        else:
            wanted.add(b"key " + as_printed(key) + b" is absent")
    said = {line for line in lines if line.startswith(b"key ")}
    check(said == wanted, "verify says %r, missing is %r" % (sorted(said - wanted), sorted(wanted - said)))


def flip_bits(nodes, verifier, proof, name, *options):
    """How many bits were tried; each must make the proof worthless."""
    bits = range(0, 8 * len(proof), STEP)

    def flip(bit):
        path = nodes.directory / ("%s.%d" % (name, bit))
        changed = bytearray(proof)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        verifier.refuses("%s with bit %d flipped" % (name, bit), path, *options)
        path.unlink()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(flip, bits))
    return len(bits)


def change_length(nodes, verifier, proof, *options):
    path = nodes.directory / "length.pando"
    for size in {0, 1, 7, len(proof) // 3, len(proof) // 2, len(proof) - 1}:
        path.write_bytes(proof[:size])
        verifier.refuses("a proof cut off at %d" % size, path, *options)
    path.write_bytes(proof + b"\0")
    verifier.refuses("a proof with a byte more", path, *options)


def wrong_use(verifier, path, key, root):
    for what, arguments in (("nothing to check against", [path]), ("no file", ["--root", root]),
                            ("two files", [path, path, "--root", root]), ("an unknown option", [path, "--rot", root]),
                            ("an option without its value", [path, "--root"]),
                            ("a short root", [path, "--root", root[1:]]),
                            ("a root that is no hex", [path, "--root", "z" * 64]),
                            ("a long key", [path, "--node-key", key + "00"])):
        verifier.refuses(what, *arguments, code=2)
    verifier.refuses("a file that is not there", str(path) + ".absent", "--root", root)
    verifier.refuses("a directory", path.parent, "--root", root)


def main():
    with Nodes(sys.argv[1]) as nodes:
        node, other = nodes.node("node"), nodes.node("other")
        node.init("--ledger", "proven")
        other.init("--ledger", "other")
        node.start()
        fill(node)
        status = node.status()
        root, key = status["root"], status["node_key"]
        keys = {"present": list(PRESENT) + list(AMOUNTS), "absent": ABSENT, "one": [b"config/limit"],
                "none": [b"absent"]}
        proofs = {name: nodes.directory / (name + ".pando") for name in keys}
        for name, path in proofs.items():
            node.pando("prove", *map(as_argument, keys[name]), "-o", path)
        old_root = node.root(0).split()[1]
        node.pando("submit", "-", stdin=b'{"ops":[{"op":"put","key":"config/limit","value":"11"}]}\n')
        new_root = node.status()["root"]
        node.stop()

        verifier, genesis = Verifier(nodes), node.directory / "genesis.json"
        other_key = nodes.directory / "other.key"
        subprocess.run([verifier.program, "key", "new", str(other_key)], check=True, capture_output=True)
        other_public = subprocess.run([verifier.program, "key", "public", str(other_key)], check=True,
                                      capture_output=True).stdout.decode().strip()
        sizes = bits = 0
        for name, path in proofs.items():
            for options in (["--node-key", key], ["--root", root], ["--genesis", genesis],
                            ["--node-key", other_public, "--node-key", key, "--root", root, "--genesis", genesis]):
                done = verifier.run(path, *options)
                check(done.returncode == 0, "%s with %s: exit code %d: %s" % (
                    name, options, done.returncode, done.stderr))
                check_words(done.stdout, keys[name])
            for wrong in (new_root, old_root):
                verifier.refuses(name + " against another root", path, "--root", wrong)
                verifier.refuses(name + " against another root", path, "--root", wrong, "--node-key", key)
            verifier.refuses(name + " with another node's key", path, "--node-key", other_public)
            verifier.refuses(name + " with another node's key", path, "--node-key", other_public, "--root", root)
            verifier.refuses(name + " with another genesis", path, "--genesis", other.directory / "genesis.json")
            change_length(nodes, verifier, path.read_bytes(), "--node-key", key)
            bits += flip_bits(nodes, verifier, path.read_bytes(), name, "--node-key", key)
            sizes += path.stat().st_size
        wrong_use(verifier, proofs["one"], key, root)
        print("%d proofs of %d bytes are verified without a node; with any of %d of their %d bits flipped none is" % (
            len(proofs), sizes, bits, 8 * sizes))


if __name__ == "__main__":
    main()
