#!/usr/bin/env python3
"""The library as somebody else uses it: installed, found by pkg-config or added to a project, in strict C and C++, beside
names of their own; its examples run and their output compared; and pando-engine on the stores they leave behind."""
import os
import re
import shutil
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


def said(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr


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
    for _ in (1, 2):
        found = run(example("audit"), os.path.join(work, "audit")).splitlines()
        expect(found[0].startswith("account/0007 is 12, by ") and found[1].startswith("account/none is absent, by "),
               "audit: keys: %s" % found[:2])
        expect(found[2].startswith("account/0010 to account/0020: 10 entries, sum 140, ") and
               found[3:13] == ["    account/%04d %d" % (n, 12 if n == 17 else n) for n in range(10, 20)] and
               found[13].startswith("account/ to account0: 1000 entries, sum 499500, "), "audit: ranges: %s" % found)
        expect(found[14].startswith("2 keys changed, and no others, ") and
               found[15:] == ["    account/0007 was 7, is 12", "    account/0017 was 17, is 12"], "audit: %s" % found)
    for name in ("counter", "paths", "bank", "audit"):
        run(example(name), code=2)
    return counters, paths, bank


def command_line(pando_engine, store):
    for word in ("help", "--help", "-h"):
        expect(run(pando_engine, word).startswith("usage: pando-engine stats DIR"), word)
    expect(re.fullmatch(r"pando-engine \d+\.\d+\.\d+\n", run(pando_engine, "--version")), "--version")
    for arguments, what in ((("dump", store, "--prefixx", "a"), "--prefixx: no such option"),
                            (("dump", store, "--tag", "-1"), "--tag -1: must be the number of a version"),
                            (("dump", store, "--tag", str(2 ** 64 - 1)), "must be the number of a version"),
                            (("dump", store, "--root", "512"), "--root 512: must be a number below 512"),
                            (("dump", store, "--root"), "--root: must be a number below 512"),
                            (("dump", store, "--deep"), "--deep: not an option of this command"),
                            (("stats", store, "--hex"), "--hex: not an option of this command"),
                            (("check", store, "--tag", "1"), "--tag: not an option of this command"),
                            (("compact", store, "--root", "0"), "--root: not an option of this command"),
                            (("compact", store, "101"), "101: not expected here"),
                            (("look", store), "look: no such command"), ((), "no command is given")):
        said = run(pando_engine, *arguments, code=2)
        expect(what in said and "usage" in said, "%s: %s" % (" ".join(arguments), said))
    with open("/dev/full", "w") as full:
        for arguments in (("dump", store), ("stats", store), ("check", store), ("help",)):
            done = subprocess.run((pando_engine, *arguments), stdout=full, stderr=subprocess.PIPE, text=True)
            expect(done.returncode == 5 and "No space left" in done.stderr, "%s to a full disk: %s" % (arguments, done))


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
    expect("root 0 has no version with tag 99 yet" in run(pando_engine, "dump", paths, "--tag", "99", code=1),
           "a tag that is not there")
    expect("root 3 has no version yet" in run(pando_engine, "dump", paths, "--root", "3", code=1), "a root without one")
    expect("readers        0 in a call" in stats and re.search(r"snapshots +0\n", stats), "stats counts itself:\n" + stats)
    amounts = re.findall(r"^account/\d+\tamount\t(\d+)$", before, re.M)
    expect(len(amounts) == 100 and sum(int(amount) for amount in amounts) == 100000, "amounts in decimal: " + before[:200])
    command_line(pando_engine, paths)
    lost = os.path.join(work, "lost")
    shutil.copytree(bank, lost)
    os.remove(os.path.join(lost, "state", "slots"))
    for verb in ("dump", "stats", "check", "compact"):
        expect("state/slots: missing, but state/journal" in run(pando_engine, verb, lost, code=4), verb + " without slots")
    with open(os.path.join(bank, "state", "segments"), "r+b") as segments:  # rot in every object of the file
        size = segments.seek(0, 2)
        for at in range(4096 + 40, size, 64):
            segments.seek(at)
            byte = segments.read(1)
            segments.seek(at)
            segments.write(bytes([byte[0] ^ 0xff]))
    found = run(pando_engine, "check", "--deep", bank, code=4)
    expect("state/segments" in found, "damage is named by its file: " + found[:300])


# A root with the trees "t\x01\\" in it and "in" in that, of 1,000 entries, and two more versions without the inner one.
# With another argument it stops before there is a checkpoint.
TREES = r"""
#include <pando/engine.h>
#include <stdio.h>
#include <unistd.h>

#define KEY(text) (const uint8_t *)(text), sizeof(text) - 1
#define MUST(call) do { if ((call) != ENG_OK) { fprintf(stderr, "%s\n", eng_error()); return 1; } } while (0)

int main(int argc, char **argv)
{
    struct eng *eng;
    struct eng_options options = {.path = argv[1], .create = true, .durability = ENG_DURABLE_FSYNC};
    MUST(eng_open(&options, &eng));
    for (uint64_t tag = 1; tag <= 3; tag++) {
        struct eng_batch *batch, *outer, *inner;
        struct eng_summary summary;
        MUST(eng_batch_open(eng, 0, NULL, &batch));
        MUST(eng_batch_tree(batch, KEY("t\x01\\"), true, &outer));
        if (tag == 1) {
            MUST(eng_batch_tree(outer, KEY("in"), true, &inner));
            for (int i = 0; i < 1000; i++) {
                uint8_t key[4] = {'k', (uint8_t)(i / 100), (uint8_t)(i % 100), 'x'};
                MUST(eng_batch_put(inner, key, sizeof key, (struct eng_value){ENG_BYTES, KEY("value")}));
            }
        } else if (tag == 2) {
            MUST(eng_batch_remove(outer, KEY("in")));
        }
        int64_t debt[2] = {-10, -3}, nothing[2] = {0, 0}, small[2] = {5, 0};
        MUST(eng_batch_put(outer, KEY("debt"), (struct eng_value){ENG_AMOUNT, (const uint8_t *)debt, 16}));
        MUST(eng_batch_put(outer, KEY("nothing"), (struct eng_value){ENG_AMOUNT, (const uint8_t *)nothing, 16}));
        MUST(eng_batch_put(outer, KEY("small"), (struct eng_value){ENG_AMOUNT, (const uint8_t *)small, 16}));
        MUST(eng_batch_put(outer, KEY("tag"), (struct eng_value){ENG_BYTES, (uint8_t[]){(uint8_t)('0' + tag)}, 1}));
        MUST(eng_batch_freeze(batch));
        MUST(eng_commit(batch, tag, &summary));
        eng_batch_close(&batch);
    }
    if (argc > 2)
        _exit(0);
    MUST(eng_checkpoint(eng, NULL, 0, true));
    eng_close(&eng);
    return 0;
}
"""


def trees(pando_engine, compile_with, work):
    program, store = os.path.join(work, "trees"), os.path.join(work, "trees-store")
    with open(program + ".c", "w") as text:
        text.write(TREES)
    run("cc", "-std=gnu17", program + ".c", "-o", program, *compile_with)
    run(program, store)
    expect("log" not in said(pando_engine, "dump", store), "nothing is behind the checkpoint")
    stopped = os.path.join(work, "stopped-store")
    run(program, stopped, "stop")
    for verb in ("dump", "stats", "tree"):
        expect(re.match(r"pando-engine: \d+ bytes of log behind the checkpoint are not shown\n", said(pando_engine, verb, stopped)),
               "the log is not mentioned: " + said(pando_engine, verb, stopped))
    outer = ("--subtree", r"t\x01\x5c")
    expect(re.fullmatch(r"t\\x01\\x5c\ttree\t[0-9a-f]{64} 4 -36893488147419103237\n", run(pando_engine, "dump", store)),
           "dump of the tree that holds one: " + run(pando_engine, "dump", store))
    expect(run(pando_engine, "dump", store, *outer).splitlines() ==
           ["debt\tamount\t-36893488147419103242", "nothing\tamount\t0", "small\tamount\t5", "tag\tbytes\t3"], "dump of a tree in it")
    expect("--subtree in: no such key" in run(pando_engine, "dump", store, *outer, "--subtree", "in", code=1), "no tree")
    expect("--subtree tag: its value is not a tree" in run(pando_engine, "dump", store, *outer, "--subtree", "tag", code=5),
           "a value that is no tree")
    inner = (*outer, "--subtree", "in", "--tag", "1")
    expect(run(pando_engine, "dump", store, *inner, "--prefix", r"k\x09\x63").split("\t")[2] == "value\n", "dump: prefix")
    expect(run(pando_engine, "dump", store, *inner).count("\n") == 1000, "dump: the inner tree")
    stats = run(pando_engine, "stats", store, *inner)
    expect(stats.startswith("tag 1\n") and re.search(r"entries +1000\n", stats) and "segments" not in stats, stats)
    expect("1000 entries" in run(pando_engine, "tree", store, *inner).splitlines()[0], "tree: the inner tree")
    for wrong in (r"t\x1", r"t\y01", "k" * 1025):
        expect("usage" in run(pando_engine, "dump", store, "--subtree", wrong, code=2), "a key that is none: " + wrong)


# A program's own names, which are also those of parts of the library.
OWN_NAMES = r"""
#include <pando/engine.h>
#include <stdio.h>

struct buffer { int n; };
void buffer_open(struct buffer *b) { b->n = 1; }
void buffer_put(struct buffer *b, int n) { b->n += n; }
void hint_close(void *h) { puts("not for you"); }
struct segment; int compact_take(void) { return 0; }

int main(int argc, char **argv)
{
    struct buffer b;
    struct eng *eng;
    struct eng_batch *batch;
    struct eng_options options = {.path = argv[1], .create = true};
    (void)argc;
    buffer_open(&b);
    if (eng_open(&options, &eng) != ENG_OK || eng_batch_open(eng, 0, NULL, &batch) != ENG_OK)
        return 1;
    if (eng_batch_put(batch, (const uint8_t *)"k", 1, (struct eng_value){ENG_BYTES, (const uint8_t *)"v", 1}) != ENG_OK ||
        eng_batch_freeze(batch) != ENG_OK || eng_commit(batch, 1, NULL) != ENG_OK)
        return 1;
    eng_batch_close(&batch);
    eng_close(&eng);
    return b.n == 1 ? 0 : 1;
}
"""

AUDITOR = r"""
#include <pando/verify.h>

int main(void)
{
    struct verify_result result;
    return verify_state((const uint8_t *)"", 0, NULL, &result) == VERIFY_TRUNCATED ? 0 : 1;
}
"""

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(theirs C)
add_subdirectory(%s pando)
add_executable(theirs own.c)
target_link_libraries(theirs PRIVATE pando::engine)
add_executable(auditor auditor.c)
target_link_libraries(auditor PRIVATE pando::verify)
"""


def write(path, text):
    with open(path, "w") as out:
        out.write(text)
    return path


def symbols(libdir, headers):
    """The installed archives have those global symbols that the headers declare and no others."""
    declared = set()
    for name in os.listdir(headers):
        with open(os.path.join(headers, name)) as header:
            declared |= set(re.findall(r"\b([a-z][a-z0-9_]+)\(", re.sub(r"/\*.*?\*/", "", header.read(), flags=re.S)))
    for library, some in (("libpando_engine.a", "eng_open"), ("libpando_verify.a", "verify_next")):
        defined = run("nm", "-g", "--defined-only", os.path.join(libdir, library))
        found = {line.split()[-1] for line in defined.splitlines() if len(line.split()) == 3}
        expect(some in found and found <= declared, "%s: global: %s" % (library, sorted(found - declared)))


def headers(prefix_include, work, flags):
    """Each header alone, as strictly as compilers read it, in C and in C++."""
    compilers = [("cc", "-std=c17", "c")] + ([("g++", "-std=c++17", "cpp")] if shutil.which("g++") else [])
    for name in sorted(os.listdir(os.path.join(prefix_include, "pando"))):
        for compiler, standard, ending in compilers:
            unit = write(os.path.join(work, "unit." + ending), "#include <pando/%s>\nint main(void) { return 0; }\n" % name)
            run(compiler, standard, "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", unit, *flags)
    if len(compilers) > 1: # and linked
        unit = write(os.path.join(work, "unit.cpp"), "#include <pando/engine.h>\n#include <pando/proof.h>\nint main() { "
                     "return eng_status_text(ENG_OK) && verify_text(VERIFY_OK) && digest_init() ? 0 : 1; }\n")
        run("g++", "-std=c++17", unit, "-o", os.path.join(work, "unit"), *flags)
        run(os.path.join(work, "unit"))


def added(work):
    """The engine in another CMake project."""
    theirs = os.path.join(work, "theirs")
    os.mkdir(theirs)
    write(os.path.join(theirs, "own.c"), OWN_NAMES.split("struct buffer")[0] + "int main(void) { return eng_error()[0]; }\n")
    write(os.path.join(theirs, "auditor.c"), AUDITOR)
    write(os.path.join(theirs, "CMakeLists.txt"), PROJECT % os.path.abspath(source))
    run("cmake", "-S", theirs, "-B", os.path.join(theirs, "build"))
    run("cmake", "--build", os.path.join(theirs, "build"), "--target", "theirs", "auditor", "-j", "2")
    run(os.path.join(theirs, "build", "theirs"))
    run(os.path.join(theirs, "build", "auditor"))


def installed(prefix, work):
    """What was installed; returns what pkg-config says of the engine."""
    pkgconfig = next(root for root, _, names in os.walk(prefix) if "pando-engine.pc" in names)
    env = dict(os.environ, PKG_CONFIG_PATH=pkgconfig)
    flags = run("pkg-config", "--cflags", "--libs", "pando-engine", env=env).split()
    expect(any(flag.startswith("-I" + pkgconfig) for flag in flags), "pkg-config looks elsewhere: %s" % flags)
    sanitize = os.environ.get("PANDO_SANITIZE_FLAGS", "").split()
    include = os.path.join(prefix, "include")
    alone = run("pkg-config", "--cflags", "--libs", "pando-verify", env=env).split()
    expect("-lpando_verify" in alone and "-lpando_engine" not in alone and "-lxxhash" not in alone, "verify: %s" % alone)
    auditor = os.path.join(work, "auditor")
    run("cc", "-std=gnu17", *sanitize, write(auditor + ".c", AUDITOR), "-o", auditor, *alone)
    run(auditor)
    headers(include, work, [*sanitize, *flags])
    if not sanitize:
        symbols(os.path.dirname(pkgconfig), os.path.join(include, "pando"))
        own = os.path.join(work, "own")
        run("cc", "-std=gnu17", write(own + ".c", OWN_NAMES), "-o", own, *flags)
        expect(run(own, os.path.join(work, "own-store")) == "", "the library calls functions of the program")
        added(work)
    examples_at = next(root for root, _, names in os.walk(prefix) if "audit.c" in names)
    for name in ("counter", "paths", "bank", "audit"):
        run("cc", "-std=gnu17", *sanitize, os.path.join(examples_at, name + ".c"), "-o",
            os.path.join(work, "installed-" + name), *flags)
    return [*sanitize, *flags]


def main():
    with tempfile.TemporaryDirectory() as work:
        counters, paths, bank = examples(lambda name: os.path.join(build, "engine", "example_" + name), work)
        tool(os.path.join(build, "bin", "pando-engine"), work, counters, paths, bank)
        prefix = os.path.join(work, "prefix")
        run("cmake", "--install", build, "--prefix", prefix)
        flags = installed(prefix, work)
        bank_again = run(os.path.join(work, "installed-bank"), os.path.join(work, "another"))
        expect("51 versions hold 100000 each" in bank_again, "the installed library")
        trees(os.path.join(build, "bin", "pando-engine"), flags, work)
    print("installed, found by pkg-config, four examples and pando-engine as they should be")


if __name__ == "__main__":
    main()
