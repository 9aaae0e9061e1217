#!/usr/bin/env python3
"""What a node and its commands do with what they cannot accept.

Each case must end with the exit code of the contract (1 the answer is no, 2 wrong use, 3 not able now, 4 damaged) and
exactly one line on stderr, "pando: WHAT: WHY" or "pandod: WHAT: WHY", that names what it was; afterwards a node that is
running has the root that it had and still serves reads. The cases: a data directory that is absent, foreign,
unreadable, damaged or in use; a configuration with an unknown key; sockets that cannot be made; blocks and
transactions that are malformed, cut off, too large, out of order or fail; bytes on the socket that are no message, a
cut or an oversized one, and requests that are none; a follower that is pointed at another ledger; a full disk, and
space again; a disk that does not answer for a while.
"""
import contextlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time

import model
from running_node import Nodes, check

MOUNT_BYTES = 480 << 20
BALLAST_LEFT = 96 << 20
FULL_VALUE = 1 << 20
FULL_SECONDS = 60
ANSWER_SECONDS = 10


class Commands:
    """Runs programs and checks how they end."""

    def __init__(self, nodes):
        self.programs, self.cases = nodes.programs, 0

    def run(self, what, program, *arguments, code, words=(), stdin=b"", quiet=False, **more):
        """quiet: the answer on stdout says why, stderr may have nothing. Returns stdout."""
        self.cases += 1
        command = [str(self.programs / program), *map(str, arguments)]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, **more)
        except subprocess.TimeoutExpired:
            check(False, "%s: %s still runs" % (what, " ".join(command)))
        errors = done.stderr.decode(errors="replace")
        check(done.returncode == code, "%s: exit code %d, not %d: %r %r" % (
            what, done.returncode, code, done.stdout[-300:], errors[-600:]))
        if not (quiet and not errors):
            check(errors.count("\n") == 1 and errors.endswith("\n") and errors.startswith(program + ": ") and
                  errors.count(":") >= 2, "%s: not one line %s: WHAT: WHY, but %r" % (what, program, errors))
        said = errors + done.stdout.decode(errors="replace")
        for word in words:
            check(word in said, "%s: %r does not name %r" % (what, said, word))
        return done.stdout


@contextlib.contextmanager
def unchanged(node, what):
    """The node's root is the same after, and it answers."""
    before = node.pando("root")
    yield
    check(node.process.poll() is None, "%s: pandod has ended%s" % (what, node.log_end()))
    after = node.pando("root")
    check(after == before, "%s: the root was %s and is %s" % (what, before, after))
    check(node.pando("get", "here") == b"yes\n", "%s: a read" % what)


# ---- the daemon's start ----

def copy_directory(node, name):
    """A stopped node's directory under another name, for damage."""
    path = node.nodes.directory / name
    shutil.copytree(node.directory, path, ignore=shutil.ignore_patterns("*.ipc"))
    return path


def bad_directories(commands, nodes, stopped, running):
    directory = nodes.directory
    (directory / "empty").mkdir()
    (directory / "photos").mkdir()
    (directory / "photos" / "cat.jpg").write_bytes(b"\xff\xd8")
    (directory / "file").write_bytes(b"x")
    commands.run("no directory", "pandod", "--data", directory / "absent", code=2, words=["absent"])
    commands.run("an empty directory", "pandod", "--data", directory / "empty", code=2, words=["empty"])
    commands.run("another program's directory", "pandod", "--data", directory / "photos", code=2, words=["photos"])
    commands.run("a file", "pandod", "--data", directory / "file", code=2, words=["file"])
    (directory / "photos" / "pando.conf").write_text("")
    commands.run("a directory without a genesis", "pandod", "--data", directory / "photos", code=2,
                 words=["genesis.json"])
    commands.run("init in use", "pando", "init", directory / "photos", code=1, words=["photos"])
    commands.run("init of a running node", "pando", "init", running.directory, code=1)

    path = copy_directory(stopped, "foreign")
    for name in ("genesis.json", "node.key"):
        shutil.copy(running.directory / name, path / name)
    commands.run("the state of another ledger", "pandod", "--data", path, code=1, words=["another"])
    path = copy_directory(stopped, "stranger")
    shutil.copy(running.directory / "node.key", path / "node.key")
    commands.run("the key of another node", "pandod", "--data", path, code=1, words=["key"])
    path = copy_directory(stopped, "damaged")
    (path / "genesis.json").write_bytes((path / "genesis.json").read_bytes()[:-5])
    commands.run("a genesis that is cut off", "pandod", "--data", path, code=4, words=["genesis.json"])
    with unchanged(running, "a second daemon"):
        commands.run("a second daemon", "pandod", "--data", running.directory, code=3, words=["another daemon"])
        commands.run("check of a directory in use", "pando", "check", running.directory, code=3)
    unreadable(commands, nodes, stopped)


def unreadable(commands, nodes, stopped):
    """Root reads everything: so as another user, if there is one that can run the programs."""
    try:
        probe = subprocess.run([str(nodes.programs / "pandod"), "--version"], capture_output=True,
                               user=65534, group=65534)
    except (PermissionError, OSError):
        probe = None
    if not probe or probe.returncode != 0:
        print("skipped: an unreadable directory (not root, or the programs are not open to other users)")
        return
    os.chmod(nodes.directory, 0o755)
    path = copy_directory(stopped, "closed")
    config = nodes.directory / "closed.conf"
    config.write_text("[node]\ndata = %s\nsocket = ipc://%s/pando.ipc\n[replication]\nlisten = none\n" % (path, path))
    os.chmod(config, 0o644)
    os.chmod(path, 0o700)
    commands.run("an unreadable directory", "pandod", "--config", config, code=3, words=["closed"], user=65534,
                 group=65534)
    os.chmod(path, 0o755)
    commands.run("a directory of another user", "pandod", "--config", config, code=3, words=["closed"], user=65534,
                 group=65534)


def bad_configurations(commands, nodes, stopped):
    path = copy_directory(stopped, "configured")
    file = path / "pando.conf"
    listen = "[replication]\nlisten = none\n"
    for what, text, words in (
            ("an unknown key", "[node]\nlog_level = info\nlog_levle = info\n", ["pando.conf:3", "log_levle"]),
            ("an unknown section", "[nodes]\nlog_level = info\n", ["pando.conf:1", "nodes"]),
            ("a line that is none", "[node]\nlog_level\n", ["pando.conf:2"]),
            ("a number that is none", "[block]\nmax_txs = many\n", ["pando.conf:2"]),
            ("a number over its limit", "[block]\nmax_txs = 99999999\n", ["pando.conf:2"]),
            ("a key given twice", "[block]\nmax_txs = 1\nmax_txs = 2\n", ["pando.conf:3", "max_txs"]),
            ("what this version has not", "[arbiter]\nkind = etcd\n", ["pando.conf:2", "kind"])):
        file.write_text(text)
        commands.run(what, "pandod", "--data", path, code=2, words=words)
        commands.run(what, "pandod", "--check-config", "--data", path, code=2, words=words)
    (nodes.directory / "a-directory").mkdir()
    for what, url, code in (("a socket where nothing can be made", "ipc:///proc/pando.ipc", 3),
                            ("a socket in no directory", "ipc:///nowhere/at/all/pando.ipc", 3),
                            ("a socket that is a directory", "ipc://%s/a-directory" % nodes.directory, 3),
                            ("a socket that is no address", "pando.ipc", 2),
                            ("a socket of an unknown transport", "carrier-pigeon://coop", 2),
                            ("a socket with too long a path", "ipc:///tmp/" + "s" * 200, 2)):
        file.write_text("[node]\nsocket = %s\n%s" % (url, listen))
        commands.run(what, "pandod", "--data", path, code=code)
    for what, arguments in (("no arguments", []), ("an unknown argument", ["--dta", path]),
                            ("both", ["--data", path, "--config", file]), ("a value missing", ["--data"])):
        commands.run(what, "pandod", *arguments, code=2)
    file.write_text(listen)  # the same directory is good
    done = subprocess.run([str(nodes.programs / "pandod"), "--check-config", "--data", str(path)], capture_output=True)
    check(done.returncode == 0 and not done.stderr, "a good configuration: %s" % done.stderr)


# ---- the commands ----

def bad_transactions(commands, node):
    put = '{"op":"put","key":"%s","value":"v"}'
    cases = [
        ("an unknown operation", '{"ops":[{"op":"putt","key":"k","value":"v"}]}', "MALFORMED", "putt"),
        ("an operation that is not here yet", '{"ops":[{"op":"clone","from_key":"a","to_key":"b"}]}', "MALFORMED",
         "clone"),
        ("an unknown field", '{"ops":[{"op":"put","key":"k","value":"v","vlaue":"v"}]}', "MALFORMED", "vlaue"),
        ("an unknown field of a transaction", '{"opps":[]}', "MALFORMED", "opps"),
        ("a field missing", '{"ops":[{"op":"put","key":"k"}]}', "MALFORMED", "value"),
        ("an amount that is none", '{"ops":[{"op":"add","key":"k","amount":"ten"}]}', "MALFORMED", "amount"),
        ("an amount too large", '{"ops":[{"op":"add","key":"k","amount":"%d"}]}' % 2 ** 127, "MALFORMED", "amount"),
        ("an empty key", '{"ops":[%s]}' % put % "", "MALFORMED", "key"),
        ("an over-long key", '{"ops":[%s]}' % put % ("k" * 1025), "TOO_LARGE", "key"),
        ("too many operations", '{"ops":[%s]}' % ",".join([put % "k"] * 4097), "TOO_LARGE", "4096"),
        ("an id that is none", '{"id":"xyz","ops":[%s]}' % put % "k", "MALFORMED", "id"),
        ("no JSON", "put k v", "MALFORMED", "line 1"),
        ("another kind of JSON", "[1,2]", "MALFORMED", "line 1"),
        ("a byte of 0", '{"ops":[{"op":"put","key":"k","value":"v"}]\0}', "MALFORMED", "line 1"),
    ]
    for what, line, code, word in cases:
        with unchanged(node, what):
            answer = json.loads(commands.run(what, "pando", "-d", node.directory, "submit", "-", code=1,
                                             stdin=line.encode() + b"\n", words=[word]))
            check(answer["ok"] is False and answer["code"] == code, "%s: %s" % (what, answer))
    with unchanged(node, "a half line"):
        answer = json.loads(commands.run("a half line", "pando", "-d", node.directory, "submit", "-", code=1,
                                         stdin=b'{"ops":[{"op":"put","key":"half","va', words=["line 1"]))
        check(answer["code"] == "MALFORMED", "a half line: %s" % answer)
    with unchanged(node, "an expired transaction"):
        line = b'{"expires":1000,"ops":[{"op":"put","key":"k","value":"v"}]}\n'
        answer = json.loads(commands.run("expired", "pando", "-d", node.directory, "submit", code=1, stdin=line,
                                         quiet=True))
        check(answer["code"] == "EXPIRED" and not answer["ok"], "an expired transaction: %s" % answer)
    good = b'{"ops":[{"op":"put","key":"before-half","value":"whole"}]}\n'
    output = commands.run("a half line behind a whole one", "pando", "-d", node.directory, "submit", "-", code=1,
                          stdin=good + good[:20], words=["line 2"])
    check([json.loads(line)["ok"] for line in output.splitlines()] == [True, False], "a half line behind a whole one")
    check(node.pando("get", "before-half") == b"whole\n", "the whole line was not submitted")


def bad_blocks(commands, node):
    height = node.status()["height"]

    def refused(what, text, code=1, words=()):
        with unchanged(node, what):
            commands.run(what, "pando", "-d", node.directory, "import", "-", code=code, stdin=text, words=words)

    def block(at, key="k"):
        return model.block_line(at, [("put", key.encode(), b"imported")])

    for what, at in (("a gap in the heights", height + 2), ("a far height", 2 ** 40), ("height 0", 0)):
        refused(what, block(at), words=["line 1", str(at)])
    refused("another block at a height", block(height), words=["line 1", str(height)])
    refused("an unknown operation in a block", b'{"height":%d,"ops":[{"op":"fly","key":"k"}]}\n' % (height + 1),
            words=["line 1", "fly"])
    refused("an over-long key in a block", block(height + 1, "k" * 1025), words=["line 1", "key"])
    refused("a half block", block(height + 1)[:-12], words=["line 1"])
    refused("no block", b"\x00\x01\x02\n", words=["line 1"])
    failing = (b'{"height":%d,"txs":[{"ops":[{"op":"put","key":"first","value":"v"}]},{"ops":[{"op":"put",'
               b'"key":"second","value":"v"},{"op":"delete","key":"not there"}]}]}\n' % (height + 1))
    refused("a transaction that fails", failing,
            words=["block %d" % (height + 1), "transaction 1", "operation 1", "NOT_FOUND"])
    # A good block, then a cut one: the first stays.
    text = block(height + 1, "imported") + block(height + 2)[:30]
    commands.run("a half block behind a whole one", "pando", "-d", node.directory, "import", "-", code=1, stdin=text,
                 words=["line 2"])
    check(node.status()["height"] == height + 1, "the whole block was not imported")
    with unchanged(node, "no such file"):
        commands.run("no such file", "pando", "-d", node.directory, "import", "/nowhere/blocks", code=1,
                     words=["/nowhere"])


def wrong_use(commands, nodes, node):
    with unchanged(node, "wrong use"):
        for what, arguments, code in (
                ("an unknown command", ["sbmit"], 2), ("an unknown option", ["root", "--att", "1"], 2),
                ("a height that is none", ["root", "--at", "one"], 2), ("no key", ["get"], 2),
                ("an over-long key", ["get", "k" * 1025], 2), ("hex that is none", ["get", "hex:0"], 2),
                ("a height that is not there", ["root", "--at", "99999999"], 1),
                ("a receipt that is not there", ["receipt", "00" * 16], 1), ("no receipt's id", ["receipt", "00"], 2),
                ("a wait that ends", ["wait", "--height", "99999999", "--timeout", "1"], 3)):
            commands.run(what, "pando", "-d", node.directory, *arguments, code=code)
        commands.run("an absent key", "pando", "-d", node.directory, "get", "absent", code=1, quiet=True)
        commands.run("no node", "pando", "-s", "ipc://%s/nobody.ipc" % nodes.directory, "root", code=3)
        commands.run("no address", "pando", "-s", "nobody", "root", code=2)


# ---- the socket ----

def raw(node, data, wait=0.02):
    """Sends bytes on a connection of their own, without even a handshake, and leaves."""
    connection = model.socket.socket(model.socket.AF_UNIX, model.socket.SOCK_STREAM)
    connection.settimeout(10)
    try:
        connection.connect(str(node.directory / "pando.ipc"))
        connection.sendall(data)
        time.sleep(wait)
    except OSError:
        pass  # it may close as soon as it sees something wrong
    connection.close()


def raw_bytes(node):
    """What is no message of nng's; the connection may be closed, nothing more."""
    hello = model.HANDSHAKE
    for data in (b"", b"\0", hello[:5], b"GET / HTTP/1.1\r\nHost: pando\r\n\r\n", b"\xff" * 64,
                 hello[:4] + b"\0\x10\0\0", hello[:3] + b"\1" + hello[4:],  # another protocol, another version
                 hello + b"\1", hello + b"\1" + b"\xff" * 8, hello + b"\2" + struct.pack(">Q", 10) + b"x" * 10,
                 hello + struct.pack(">BQ", 1, 100) + b"\x80\0\0\1half of a message",
                 hello + struct.pack(">BQ", 1, 67 << 20) + b"\x80\0\0\1" + bytes(70000),
                 hello + struct.pack(">BQ", 1, 1 << 50) + b"\x80\0\0\1",
                 hello + struct.pack(">BQ", 1, 0), hello + struct.pack(">BQ", 1, 2) + b"\x80\0",
                 hello + struct.pack(">BQ", 1, 7) + b"\0\0\0\1" + b"\1\0\6",  # the id has no high bit
                 hello + struct.pack(">BQ", 1, 4096) + b"\0" * 4096):
        raw(node, data)
    return 17


def requests(chance):
    """Requests that are none."""
    for payload in (b"", b"\1", b"\1\0", b"\2\0\6" + bytes(8), b"\1\0\0", b"\1\0\xc8", b"\1\0\x0d"):
        yield payload
    for verb in range(1, 13):
        for body in (b"", b"\0", b"\xff" * 3, b"\xff" * 8, bytes(200), b"\xff" * 200):
            if verb != 12 or body:  # status has no body
                yield struct.pack("<HB", 1, verb) + body
    yield struct.pack("<HBI", 1, model.SUBMIT, 0xffffffff)
    yield struct.pack("<HBII", 1, model.SUBMIT, 1, 0xffffffff)
    yield struct.pack("<HBII", 1, model.SUBMIT, 1, 0)
    yield struct.pack("<HBII", 1, model.SUBMIT, 1, 5) + b"12345"
    yield struct.pack("<HBBQII", 1, model.IMPORT, 0, 0, 1, 5) + b"12345"
    yield struct.pack("<HBQH", 1, model.GET, model.HEAD, 1025) + bytes(1025)
    yield struct.pack("<HBQBH", 1, model.SCAN, model.HEAD, 0xff, 0) + bytes(6)
    for _ in range(300):
        payload = struct.pack("<HB", 1, chance.randint(1, 12)) + chance.randbytes(chance.choice((1, 4, 8, 12, 30, 100)))
        yield payload if payload[2] != 11 else payload[:10]  # a wait could be a right one


def bad_requests(node, chance):
    """Each gets an answer, on one connection, which stays good: an error, or nothing found."""
    wire, count = model.Wire(node.directory), 0
    for payload in requests(chance):
        wire.send_raw(wire.frame(payload))
        reply = wire.receive()
        count += 1
        try:
            body = model.open_reply(reply)
        except model.Refused as refused:
            check(refused.args[0].count("\n") == 0, "an error of several lines: %s" % refused)
            continue
        check(payload[2] not in (model.SUBMIT, model.IMPORT) or body[4] != 0, "%r was taken: %r" % (payload[:40], body))
    wire.root()
    wire.close()
    return count


def large_requests(node):
    """At the limit of a message, and over the limit of a transaction."""
    wire = model.Wire(node.directory)
    for operations, wanted in (([("put", b"k" * 1025, b"v")], "TOO_LARGE"), ([("put", b"", b"v")], "MALFORMED"),
                               ([], "MALFORMED"), ([("put", b"k", bytes((16 << 20) + 1))], "TOO_LARGE")):
        (code, line), = wire.submit([model.Transaction(operations)])
        check(code == wanted and line and b"\n" not in line, "a transaction too large: %s %s" % (code, line))
    cut = model.Transaction([("put", b"key", b"value")])
    whole = cut.encoded
    for size in range(1, len(whole)):
        cut.encoded = whole[:size]
        check(wire.submit([cut])[0][0] == "MALFORMED", "a transaction cut off at %d was taken" % size)
    cut.encoded = whole + b"\0"
    check(wire.submit([cut])[0][0] == "MALFORMED", "a transaction with a byte more was taken")
    wire.close()
    return len(whole) + 4


def bad_messages(node):
    chance, kept = random.Random(5), model.Wire(node.directory)
    idle = [model.Wire(node.directory) for _ in range(20)]
    lines = node.log.read_text(errors="replace").count("\n")
    with unchanged(node, "bad messages"):
        count = raw_bytes(node) + bad_requests(node, chance) + large_requests(node)
        check(kept.root()[0] > 0, "a connection that was there before")
    for wire in idle + [kept]:
        wire.root()
        wire.close()
    more = node.log.read_text(errors="replace").count("\n") - lines
    check(more <= 20, "%d bad messages made %d lines of log" % (count, more))
    return count


# ---- another ledger ----

def wrong_leader(commands, nodes, leader, other):
    """A follower of one ledger that is pointed at another: it says so once, keeps its root and serves it."""
    follower = nodes.node("follower")
    commands.run("another ledger's id", "pando", "init", follower.directory, "--join", leader.listen, "--ledger-id",
                 other.status()["ledger_id"], code=1)
    check(not follower.directory.exists(), "a refused init left a directory")
    follower.join(leader)
    follower.start()
    follower.wait(leader.status()["height"])
    follower.stop()
    config = follower.directory / "pando.conf"
    config.write_text(config.read_text().replace("follow = " + leader.listen, "follow = " + other.listen))
    follower.log.write_text("")
    follower.start()
    with unchanged(follower, "a follower of another ledger"):
        time.sleep(1.5)
        said = [line for line in follower.log.read_text().splitlines() if "another ledger" in line]
        check(len(said) == 1 and said[0].startswith("pandod: "), "of the other ledger it says %r%s" % (
            said, follower.log_end()))
        check("another ledger" in json.dumps(follower.status()), "status does not say it: %s" % follower.status())
        answer = json.loads(commands.run("submit at a follower", "pando", "-d", follower.directory, "submit", "-",
                                         code=3, stdin=b'{"ops":[{"op":"put","key":"k","value":"v"}]}\n', quiet=True))
        check(answer["code"] == "NOT_LEADER", "submit at a follower: %s" % answer)
        commands.run("import at a follower", "pando", "-d", follower.directory, "import", "-", code=3,
                     stdin=model.block_line(99, [("put", b"k", b"v")]), words=[other.listen])
    check(follower.root(3) == leader.root(3), "the follower's root")
    follower.stop()


# ---- clients that stop in the middle ----

def half_messages(node):
    """Four clients announce as much as the node takes in hand, and send nothing of it: the others wait a little."""
    wires = [model.Wire(node.directory) for _ in range(4)]
    for wire, mebibytes in zip(wires, (66, 66, 66, 58)):
        wire.send_raw(struct.pack(">BQ", 1, mebibytes << 20))
    time.sleep(0.5)
    begun = time.monotonic()
    node.root(node.status()["height"])
    check(time.monotonic() - begun < 40, "half messages hold up others for %.0f s" % (time.monotonic() - begun))
    for wire in wires:
        wire.close()


# ---- clients that ask for much ----

def slow_reader(node):
    """A client wants 40 answers of 5 MB and takes 64 KB/s of them: the others do not wait, and it is let go."""
    model.Wire(node.directory).submit([model.Transaction([("put", b"large", bytes(5 << 20))])])
    slow, other, ended = model.Wire(node.directory), model.Wire(node.directory), threading.Event()
    question = struct.pack("<QH", model.HEAD, 5) + b"large"
    slow.send_raw(b"".join(slow.frame(struct.pack("<HB", 1, model.GET) + question) for _ in range(40)))

    def take():
        try:
            while slow.socket.recv(16 << 10):
                time.sleep(0.25)
        except OSError:
            pass
        ended.set()

    thread = threading.Thread(target=take)
    thread.start()
    time.sleep(1)
    begun, longest = time.monotonic(), 0
    while not ended.is_set() and time.monotonic() - begun < 40:
        before = time.monotonic()
        check(len(other.ask(model.GET, question)) > 5 << 20, "the other client's answer")
        longest = max(longest, time.monotonic() - before)
        time.sleep(0.2)
    check(longest < 4, "a slow reader holds up others for %.1f s" % longest)
    check(ended.is_set(), "a client that takes 64 KB/s is kept")
    thread.join()
    slow.close()
    other.close()


def many_receipts(node):
    """Receipts over the limit of a message, in one request: what has no room is asked for again."""
    wire = model.Wire(node.directory)
    wire.submit([model.Transaction([("put", b"read", bytes(60000))])])
    transactions = [model.Transaction([("read", b"read")]) for _ in range(1400)]
    busy = []
    for transaction, (code, answer) in zip(transactions, wire.submit(transactions)):
        if code == "BUSY":
            check(b"ask again with the same id" in answer, "a receipt without room: %r" % answer[:200])
            busy.append(transaction)
        else:
            check(code == "OK" and len(answer) > 60000, "a receipt of a read: %s, %d bytes" % (code, len(answer)))
    check(200 < len(busy) < 400, "%d of 1,400 receipts had no room" % len(busy))
    for transaction, (code, answer) in zip(busy, wire.submit(busy)):
        check(code == "OK" and len(answer) > 60000 and answer[1:17] == transaction.id, "asked again: %s" % code)
    wire.close()


# ---- a full disk ----

@contextlib.contextmanager
def small_disk(nodes):
    """A file system of MOUNT_BYTES, or None where nothing can be mounted."""
    path = nodes.directory / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % MOUNT_BYTES, "pando-test", str(path)],
                          capture_output=True) if os.geteuid() == 0 and shutil.which("mount") else None
    if not done or done.returncode != 0:
        print("skipped: a full disk (nothing can be mounted here)")
        yield None
        return
    try:
        yield path
    finally:
        for node in nodes.all:
            if node.process and path in node.directory.parents:
                node.process.kill()
                node.process.wait()
                node.process = None
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill_disk(node, path):
    """Ballast, then transactions until one is refused, or taken and not answered: it then waits for space, and what
    comes behind it is refused. The ballast, the values that were acknowledged, the one that waits, the refusal."""
    ballast = path / "ballast"
    with open(ballast, "wb") as file:
        facts = os.statvfs(path)
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize - BALLAST_LEFT)
    wire, values, waiting, until = model.Wire(node.directory, ANSWER_SECONDS), {}, None, time.monotonic() + FULL_SECONDS
    while True:
        check(time.monotonic() < until and len(values) < 2000, "the disk does not become full")
        key, value = b"full/%04d" % len(values), os.urandom(FULL_VALUE)
        tx = model.Transaction([("put", key, value)])
        try:
            (code, line), = wire.submit([tx])
        except model.Broken as broken:
            check("timed out" in str(broken) and not waiting, "on a full disk: %s" % broken)
            waiting = tx
            wire.close()
            wire = model.Wire(node.directory, ANSWER_SECONDS)
            continue
        if code != "OK":
            wire.close()
            return ballast, values, waiting, (code, line.decode())
        check(not waiting, "a transaction waits, and one behind it was acknowledged")
        values[key] = value


def full_disk(commands, nodes):
    with small_disk(nodes) as path:
        if not path:
            return
        node = nodes.node("disk/node")
        node.init("--ledger", "full", retain=2)
        with open(node.directory / "pando.conf", "a") as file:
            file.write("[engine]\ncheckpoint_log_bytes = 1M\n")
        node.log = nodes.directory / "full.log"
        node.start()
        node.pando("submit", "-", stdin=b'{"ops":[{"op":"put","key":"here","value":"yes"}]}\n')
        ballast, values, waiting, (code, line) = fill_disk(node, path)
        check(code == "BUSY" and line and "\n" not in line, "a full disk is answered %s: %s" % (code, line))
        large = json.dumps({"ops": [{"op": "put", "key": "large", "value": "v" * FULL_VALUE}]}).encode() + b"\n"
        with unchanged(node, "a full disk"):
            answer = json.loads(commands.run("submit on a full disk", "pando", "-d", node.directory, "submit", "-",
                                             code=3, stdin=large, quiet=True))
            check(answer["code"] == "BUSY", "submit on a full disk: %s" % answer)
            block = {"height": node.status()["height"] + 1, "ops": json.loads(large)["ops"]}
            commands.run("import on a full disk", "pando", "-d", node.directory, "import", "-", code=3,
                         stdin=json.dumps(block).encode() + b"\n")
        said_in_log(node, "waits, takes no more blocks until it can go on: ")
        restart_on_full_disk(node)
        ballast.unlink()
        if not node.process:
            node.start()
        deadline = time.monotonic() + 30
        while True:
            command = [str(nodes.programs / "pando"), "-d", str(node.directory), "submit", "-"]
            output = subprocess.run(command, input=large, capture_output=True, timeout=60)
            if output.returncode == 0:
                break
            check(time.monotonic() < deadline, "space is there again, but submits are not taken: %s%s" % (
                output.stdout[:300], node.log_end()))
            time.sleep(0.2)
        if "waits, takes no more" in node.log.read_text():
            said_in_log(node, "waits no more")
        wire = model.Wire(node.directory)
        if waiting:
            (again, data), = wire.submit([waiting])
            check(again == "OK", "what waited for space is answered %s: %s" % (again, data))
            values[waiting.operations[0][1]] = waiting.operations[0][2]
        check_values(wire, values, "after the disk was full")
        wire.close()
        node.stop()
        node.start()
        wire = model.Wire(node.directory)
        check_values(wire, values, "after the disk was full and a start")
        wire.close()
        node.stop()
        node.pando("check", node.directory)
        print("full disk: %d MiB were acknowledged, then %s (%s); all of it is there, with space again it goes on" % (
            len(values), code, line))


def said_in_log(node, what, within=30):
    """A line of the node's own log, once, in time."""
    deadline = time.monotonic() + within
    while what not in node.log.read_text():
        check(time.monotonic() < deadline, "the log does not say %r%s" % (what, node.log_end()))
        time.sleep(0.1)
    check(node.log.read_text().count(what) == 1, "the log says %r more than once%s" % (what, node.log_end()))


# A disk whose syncs do not return while the file named in HANG is there.
HANG = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int file)
{
    int (*sync_it)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    while (access(getenv("HANG"), F_OK) == 0)
        usleep(10000);
    return sync_it(file);
}
"""


def hanging_disk(nodes):
    """The node says that its disk does not answer, goes on reading, and goes on writing when the disk does."""
    node, hang, library = nodes.node("hang"), nodes.directory / "hang-now", nodes.directory / "hang.so"
    (nodes.directory / "hang.c").write_text(HANG)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(nodes.directory / "hang.c"), "-ldl"], check=True)
    node.init("--ledger", "hang")
    asan = os.environ.get("ASAN_OPTIONS", "")
    node.start({"LD_PRELOAD": str(library), "HANG": str(hang),
                "ASAN_OPTIONS": asan + (":" if asan else "") + "verify_asan_link_order=0"})
    node.pando("submit", "-", stdin=b'{"ops":[{"op":"put","key":"here","value":"yes"}]}\n')
    hang.touch()
    wire, late = model.Wire(node.directory, 60), model.Transaction([("put", b"late", b"yes")])
    answer = []
    submit = threading.Thread(target=lambda: answer.extend(wire.submit([late])))
    submit.start()
    said_in_log(node, "waits, takes no more blocks until it can go on: no progress for 1")
    check(not answer and node.status()["durable_height"] == 1, "acknowledged, and not durable")
    check(node.pando("get", "here").strip() == b"yes", "a disk that does not answer stops reads")
    hang.unlink()
    submit.join()
    wire.close()
    check(answer[0][0] == "OK", "what waited for the disk is answered %s" % (answer[0],))
    said_in_log(node, "waits no more")
    node.stop()


def restart_on_full_disk(node):
    """It ends well though a transaction may wait for space; it starts again, or says in one line why it cannot yet."""
    node.stop()
    node.log.write_text("")
    command = [str(node.nodes.programs / "pandod"), "--data", str(node.directory)]
    with open(node.log, "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + FULL_SECONDS
    while process.poll() is None and "ready: " not in node.log.read_text():
        check(time.monotonic() < deadline, "pandod neither starts nor ends on a full disk" + node.log_end())
        time.sleep(0.05)
    if process.poll() is None:
        node.process = process
        return
    said = node.log.read_text()
    check(process.returncode == 3 and said.count("\n") == 1 and said.startswith("pandod: ") and "space" in said,
          "a start on a full disk: exit code %d, %r" % (process.returncode, said))


def check_values(wire, values, what):
    for key, value in values.items():
        reply = wire.ask(model.GET, struct.pack("<QH", model.HEAD, len(key)) + key)
        check(reply[13:] == value, "%s: the value of %s is another" % (what, key.decode()))


def main():
    with Nodes(sys.argv[1]) as nodes:
        commands = Commands(nodes)
        node, other = nodes.node("node"), nodes.node("other")
        for one, name in ((node, "bad-input"), (other, "other")):
            one.init("--ledger", name)
            one.start()
            for key in ("here", "there", "everywhere", "k" * 1024):  # the last one has the longest key there may be
                one.pando("submit", "-", stdin=b'{"ops":[{"op":"put","key":"%s","value":"yes"}]}\n' % key.encode())
        wrong_leader(commands, nodes, node, other)
        other.stop()
        bad_directories(commands, nodes, other, node)
        bad_configurations(commands, nodes, other)
        bad_transactions(commands, node)
        bad_blocks(commands, node)
        wrong_use(commands, nodes, node)
        messages = bad_messages(node)
        half_messages(node)
        slow_reader(node)
        many_receipts(node)
        node.stop()
        full_disk(commands, nodes)
        hanging_disk(nodes)
        print("%d commands and %d messages were refused, each with one line, and nothing changed" % (
            commands.cases, messages))


if __name__ == "__main__":
    main()
