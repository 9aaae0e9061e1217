#!/usr/bin/env python3
"""The library as somebody else uses it: installed, found by pkg-config, its examples run and their output compared; and
pando-engine on the stores they leave behind."""
import os
import re
import subprocess
import sys
import tempfile

build = sys.argv[1]
source = os.environ.get("PANDO_SOURCE", os.path.join(os.path.dirname(__file__), ".."))


def run(*command, code=0, env=None):
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != code:
        raise SystemExit("%s: exit %d, not %d\n%s%s" % (" ".join(command), done.returncode, code, done.stdout, done.stderr))
    return done.stdout if code == 0 else done.stdout + done.stderr


def expect(condition, what):
    if not condition:
        raise SystemExit("FAILED: " + what)


def examples(example, work):
    counters, paths, bank = (os.path.join(work, name) for name in ("counters", "paths", "bank"))
    for turn in (1, 2):
        counted = [int(n) for n in re.findall(r"^event/\S+\s+(\d+)$", run(example("counter"), counters, "120"), re.M)]
        expect(sum(counted) == 120 * turn and len(counted) == 3, "counter: %s after %d turns" % (counted, turn))
    roots = set()
    for path, text in (("a/b", "one"), ("a/c", "two"), ("b", "three"), ("a/b/c", "four")):
        roots.add(run(example("paths"), paths, "put", path, text).split()[-1])
    expect(len(roots) == 4, "paths: roots")
    expect(run(example("paths"), paths, "list", "a/").splitlines() ==
           ["a/b\tone", "a/b/c\tfour", "a/c\ttwo", '3 paths begin with "a/"'], "paths: list")
    expect(run(example("paths"), paths, "last", "a/").splitlines()[0] == "a/c\ttwo", "paths: last")
    dropped = run(example("paths"), paths, "drop", "a/").splitlines()
    expect(dropped[1:] == ["removed a/b", "removed a/b/c", "removed a/c"], "paths: drop: %s" % dropped)
    expect(run(example("paths"), paths, "list").splitlines() == ["b\tthree", '1 paths begin with ""'], "paths: rest")
    expect("51 versions hold 100000 each" in run(example("bank"), bank), "bank: first")
    expect("101 versions hold 100000 each" in run(example("bank"), bank), "bank: second")
    for name in ("counter", "paths", "bank"):
        run(example(name), code=2)
    return counters, paths, bank


def tool(pando_engine, work, counters, paths, bank):
    stats = run(pando_engine, "stats", bank)
    expect("root 0: 101 versions, newest tag 101" in stats and re.search(r"entries +100\n", stats), "stats:\n" + stats)
    expect(run(pando_engine, "dump", paths).strip() == "b\tbytes\tthree", "dump")
    expect(run(pando_engine, "dump", paths, "--tag", "4", "--prefix", "a/b", "--hex").splitlines() ==
           ["612f62\tbytes\t6f6e65", "612f622f63\tbytes\t666f7572"], "dump of an old version")
    expect(run(pando_engine, "tree", paths).startswith("leaf "), "tree")
    for store in (counters, paths, bank):
        expect(run(pando_engine, "check", "--deep", store) == "0 faults\n", "check")
    before = run(pando_engine, "dump", bank)
    run(pando_engine, "compact", bank, "95")
    expect(run(pando_engine, "dump", bank) == before, "compact changed something")
    expect("no such file" in run(pando_engine, "stats", work, code=1), "missing store")
    expect("usage" in run(pando_engine, "dump", code=2), "usage")
    expect("tag" in run(pando_engine, "dump", paths, "--tag", "99", code=1), "a tag that is not there")
    with open(os.path.join(bank, "state", "segments"), "r+b") as segments:  # rot in every object of the file
        size = segments.seek(0, 2)
        for at in range(4096 + 40, size, 64):
            segments.seek(at)
            byte = segments.read(1)
            segments.seek(at)
            segments.write(bytes([byte[0] ^ 0xff]))
    found = run(pando_engine, "check", "--deep", bank, code=4)
    expect("state/segments" in found, "damage is named by its file: " + found[:300])


def main():
    with tempfile.TemporaryDirectory() as work:
        counters, paths, bank = examples(lambda name: os.path.join(build, "engine", "example_" + name), work)
        tool(os.path.join(build, "bin", "pando-engine"), work, counters, paths, bank)
        prefix = os.path.join(work, "prefix")
        run("cmake", "--install", build, "--prefix", prefix)
        pkgconfig = next(root for root, _, names in os.walk(prefix) if "pando-engine.pc" in names)
        env = dict(os.environ, PKG_CONFIG_PATH=pkgconfig)
        flags = run("pkg-config", "--cflags", "--libs", "pando-engine", env=env).split()
        expect(any(flag.startswith("-I" + pkgconfig) for flag in flags), "pkg-config looks elsewhere: %s" % flags)
        sanitize = os.environ.get("PANDO_SANITIZE_FLAGS", "").split()
        program = os.path.join(work, "installed-bank")
        run("cc", "-std=gnu17", *sanitize, os.path.join(source, "engine", "examples", "bank.c"), "-o", program, *flags)
        expect("51 versions hold 100000 each" in run(program, os.path.join(work, "another")), "the installed library")
    print("installed, found by pkg-config, three examples and pando-engine as they should be")


if __name__ == "__main__":
    main()
