#!/usr/bin/env python3
"""End to end: pando and pandod as a user meets them. Every command, its output and its exit codes, good and bad input.

    tests/script_cli.py BUILD_DIRECTORY [NAME...]

Each test_ function below is one test; they share one daemon unless they say otherwise. Standard library only.
"""
import json
import os
import pty
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build")
PANDO = os.path.join(BUILD, "node", "pando")
PANDOD = os.path.join(BUILD, "node", "pandod")
TMP = tempfile.mkdtemp(prefix="pando-cli-")
ENV = {k: v for k, v in os.environ.items() if k != "PANDO_SOCKET"}


class Failed(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failed(what)


class Result:
    def __init__(self, args, code, out, err):
        self.args, self.code, self.out, self.err = args, code, out, err

    def __str__(self):
        return "pando %s -> %d\nstdout: %s\nstderr: %s" % (
            " ".join(map(str, self.args)), self.code, self.out[:2000], self.err[:2000])


def pando(*args, code=0, data=None, env=None, node=True):
    """Runs pando against the shared node; checks the exit code and the shape of its errors."""
    command = [PANDO] + (["-d", DIR] if node else []) + [str(a) for a in args]
    done = subprocess.run(command, input=data, capture_output=True, env=env or ENV, timeout=120)
    result = Result(args, done.returncode, done.stdout, done.stderr)
    check(done.returncode == code, "exit code %d expected: %s" % (code, result))
    if code:
        check(done.stderr.startswith(b"pando: "), "no error line: %s" % result)
    for line in done.stderr.splitlines():
        check(line.startswith(b"pando: "), "not an error line: %s" % result)
    return result


def submit(*txs, code=0):
    data = b"".join((t if isinstance(t, bytes) else json.dumps(t).encode()) + b"\n" for t in txs)
    result = pando("submit", data=data, code=code)
    return [json.loads(line) for line in result.out.splitlines()]


def put(key, value):
    return {"ops": [{"op": "put", "key": key, "value": value}]}


class Daemon:
    def __init__(self, directory, *args):
        self.directory = directory
        self.log = open(directory + ".log", "ab+")
        self.process = subprocess.Popen(
            [PANDOD, "--data", directory, "--listen", "none", *args], stderr=self.log, env=ENV)
        deadline = time.time() + 60
        while "ready:" not in self.text():
            check(self.process.poll() is None and time.time() < deadline, "pandod did not start: " + self.text())
            time.sleep(0.02)

    def text(self):
        with open(self.directory + ".log", "rb") as file:
            return file.read().decode()

    def stop(self, number=signal.SIGTERM, code=0):
        started = time.time()
        self.process.send_signal(number)
        got = self.process.wait(timeout=30)
        self.log.close()
        check(got == code, "pandod ended with %d: %s" % (got, self.text()))
        check(time.time() - started < 10.5, "pandod took over 10 s to close")
        check("in time" not in self.text() and "took over" not in self.text(), "closing: " + self.text())
        os.rename(self.directory + ".log", self.directory + ".old.log")


def pandod_fails(*args, code):
    done = subprocess.run([PANDOD, *args], capture_output=True, env=ENV, timeout=60)
    check(done.returncode == code, "pandod %s: exit %d, expected %d: %s" % (args, done.returncode, code, done.stderr))
    lines = done.stderr.decode().splitlines()
    check(len(lines) == 1 and lines[0].startswith("pandod: "), "one line expected: %s" % done.stderr)
    return lines[0]


def root(at=None):
    out = pando("root", *(["--at", at] if at is not None else [])).out.split()
    return int(out[0]), out[1].decode(), int(out[2])


def status():
    return json.loads(pando("status", "--json").out)


# ---- without a node ----

COMMANDS = ("init submit import get scan count root header diff receipt prove verify wait status check key help").split()


def test_help():
    out = pando("help", node=False).out.decode()
    for command in COMMANDS:
        check("\n  %s " % command in out, "help does not list " + command)
        a = pando("help", command, node=False).out
        b = pando(command, "--help", node=False).out
        check(a == b and a.startswith(b"usage: pando " + command.encode()), "help of " + command)
    check(pando("--help", node=False).out.decode() == out, "--help")
    check(pando("--version", node=False).out.startswith(b"pando "), "--version")


def test_wrong_use():
    for args in (["nonsense"], ["sum"], ["history", "k"], ["watch"], ["pin", "1", "a"], ["pins"], ["unpin", "a"],
                 ["snapshot", "export", "f"], ["backup", "d"], ["restore", "a", "b"], ["promote"], ["help", "nonsense"],
                 [], ["get"], ["get", "a", "b"], ["get", "a", "--at"], ["get", "a", "--at", "x"],
                 ["get", "a", "--at", "-1"], ["get", "a", "--at", "1", "--at", "2"], ["get", ""], ["get", "0xfg"],
                 ["get", "k" * 1025], ["get", "a", "--nonsense"], ["get", "-x"], ["scan", "a", "b"],
                 ["scan", "--limit", "x"], ["scan", "--reverse=1"], ["scan", "--format", "xml"], ["count", "--reverse"],
                 ["diff", "1"], ["diff", "a", "b"], ["receipt"], ["receipt", "12"], ["receipt", "zz" * 16],
                 ["prove"], ["wait"], ["wait", "--height", "x"], ["wait", "--height", "1", "--timeout", "soon"],
                 ["verify"], ["verify", "f"], ["verify", "f", "--root", "12"], ["check"], ["key"], ["key", "old", "f"],
                 ["submit", "a", "b"], ["import", "a", "b"], ["root", "1"], ["status", "x"], ["init"],
                 ["-s", "ipc:///x", "-d", "y", "root"], ["-s", "nonsense", "root"], ["-s", "ipc://" + "p" * 108, "root"]):
        pando(*args, code=2, node=False)


def test_no_node():
    missing = "ipc://" + TMP + "/nobody.ipc"
    for args in (["root"], ["get", "a"], ["status"], ["scan"], ["wait", "--height", "1"], ["prove", "a"]):
        result = pando("-s", missing, *args, code=3, node=False)
        check(missing.encode() in result.err, "the address is not named: %s" % result)
        pando(*args, code=3, node=False, env=dict(ENV, PANDO_SOCKET=missing))
    pando("-s", missing, "submit", data=b"{}\n", code=3, node=False)
    pando("-s", missing, "import", data=b"{}\n", code=3, node=False)
    pando("-d", TMP + "/nowhere", "root", code=3, node=False)


def test_keys():
    path = TMP + "/a.key"
    public = pando("key", "new", path, node=False).out
    check(len(public) == 65 and pando("key", "public", path, node=False).out == public, "key")
    check(stat.S_IMODE(os.stat(path).st_mode) == 0o600, "mode of a key")
    with open(path) as file:
        content = file.read()
    pando("key", "new", path, code=1, node=False)
    with open(path) as file:
        check(file.read() == content, "a key file was overwritten")
    pando("key", "public", TMP + "/none.key", code=1, node=False)
    with open(TMP + "/bad.key", "w") as file:
        file.write("no key\n")
    os.chmod(TMP + "/bad.key", 0o600)
    check(subprocess.run([PANDO, "key", "public", TMP + "/bad.key"], capture_output=True).returncode == 1, "bad key")


def test_init():
    directory = TMP + "/init"
    out = pando("init", directory, "--ledger", "name of it", "--leaf-bytes", "512", node=False).out.decode()
    with open(directory + "/genesis.json") as file:
        genesis = json.load(file)
    check(genesis["ledger"] == "name of it" and "leader of ledger name of it" in out, "name: " + out)
    check(stat.S_IMODE(os.stat(directory).st_mode) == 0o750, "mode of the directory")
    check(stat.S_IMODE(os.stat(directory + "/node.key").st_mode) == 0o600, "mode of node.key")
    before = sorted(os.listdir(directory))
    error = pando("init", directory, code=1, node=False).err
    check(b"in use" in error and b"a data directory already" in error, "in use: %s" % error)
    check(sorted(os.listdir(directory)) == before, "a refused init changed the directory")
    check(pando("check", directory, node=False).out.startswith(directory.encode() + b": whole"), "check of a new one")

    foreign = TMP + "/foreign"
    os.mkdir(foreign)
    with open(foreign + "/letter.txt", "w") as file:
        file.write("dear")
    pando("init", foreign, code=1, node=False)
    check(os.listdir(foreign) == ["letter.txt"], "a foreign directory was touched")
    with open(TMP + "/file", "w") as file:
        file.write("x")
    pando("init", TMP + "/file", code=1, node=False)

    for args in (["--auth", "signed"], ["--module", "accounts"], ["--auth", "x"], ["--leaf-bytes", "63"],
                 ["--leaf-bytes", "4097"], ["--leaf-bytes", "x"], ["--ledger", ""], ["--ledger", "n" * 65],
                 ["--join", "tcp://127.0.0.1:1"], ["--ledger-id", "00" * 32],
                 ["--join", "x", "--ledger-id", "00" * 32], ["--join", "tcp://127.0.0.1:1", "--ledger-id", "00"]):
        pando("init", TMP + "/never", *args, code=2, node=False)
        check(not os.path.exists(TMP + "/never"), "a refused init left a directory")
    empty = TMP + "/empty"
    os.mkdir(empty)
    pando("init", empty, "--join", "ipc://" + TMP + "/nobody.ipc", "--ledger-id", "00" * 32, code=3, node=False)
    check(os.listdir(empty) == [], "a failed init left files: %s" % os.listdir(empty))
    pando("init", empty, node=False)
    pando("init", TMP + "/no/such/parent", code=3, node=False)


def test_daemon_refusals():
    pandod_fails("--data", TMP + "/nothing", code=2)
    pandod_fails(code=2)
    pandod_fails("--nonsense", code=2)
    pandod_fails("--data", code=2)
    pandod_fails("--config", TMP + "/none.conf", code=2)
    bare = TMP + "/bare"
    os.mkdir(bare)
    with open(bare + "/pando.conf", "w") as file:
        file.write("[node]\n")
    line = pandod_fails("--data", bare, code=2)
    check("genesis.json" in line, line)
    with open(bare + "/pando.conf", "w") as file:
        file.write("[node]\n\nnonsense = 1\n")
    check("pando.conf:3" in pandod_fails("--data", bare, "--check-config", code=2), "line of an unknown key")
    line = pandod_fails("--data", DIR, code=3)
    check(DIR in line and "running" in line, line)
    subprocess.run([PANDOD, "--data", DIR, "--check-config"], check=True)

    for option in "--listen", "--follow":
        line = pandod_fails("--data", DIR, option, "nowhere", "--check-config", code=2)
        check("nowhere is not an address" in line, line)
        line = pandod_fails("--data", DIR, option, "tcp://192.0.2.1:7450", "--check-config", code=2)
        check("plaintext" in line, line)

    fresh = TMP + "/fresh"
    pando("init", fresh, node=False)
    for path, code in (("p" * 108, 2), (TMP + "/no/such/place.ipc", 3)):
        with open(fresh + "/pando.conf", "w") as file:
            file.write("[node]\nsocket = ipc://%s\n" % path)
        check("ipc://" in pandod_fails("--data", fresh, "--listen", "none", code=code), "socket path")
    with open(fresh + "/genesis.json", "w") as file:
        file.write("{}\n")
    with open(fresh + "/pando.conf", "w") as file:
        file.write("")
    pandod_fails("--data", fresh, "--listen", "none", code=4)


# ---- with the shared node ----

def test_socket():
    mode = stat.S_IMODE(os.stat(DIR + "/pando.ipc").st_mode)
    check(mode == 0o660, "mode of the socket: %o" % mode)
    address = "ipc://" + DIR + "/pando.ipc"
    one = pando("-s", address, "root", node=False).out
    check(one == pando("root", node=False, env=dict(ENV, PANDO_SOCKET=address)).out, "PANDO_SOCKET")
    check(one == pando("root", "-s", address, node=False).out, "-s behind the command")


def test_status():
    wanted = ("ledger_id role height root entries epoch node_key leader_key lag_blocks followers live_roots "
              "oldest_live_height archive_oldest_height disk_bytes memory_bytes last_error version").split()
    facts = status()
    for key in wanted:
        check(key in facts, "status has no " + key)
    check(facts["role"] == "leader" and facts["followers"] == [] and facts["lag_blocks"] == 0, "status: %s" % facts)
    check(facts["node_key"] == facts["leader_key"] and len(facts["ledger_id"]) == 64, "keys in status")
    height, digest, count = root()
    check((facts["height"], facts["root"], facts["entries"]) == (height, digest, count), "status and root differ")
    text = pando("status").out.decode()
    for key in wanted:
        check("\n" + key in "\n" + text, "text status has no " + key)


def test_submit():
    receipts = submit(put("s/a", "1"),
                      {"ops": [{"op": "insert", "key": "s/b", "value": "2"}, {"op": "read", "key": "s/a"}]})
    check([r["ok"] for r in receipts] == [True, True] and receipts[1]["results"] == ["1"], str(receipts))
    check((receipts[0]["height"], receipts[0]["index"]) < (receipts[1]["height"], receipts[1]["index"]), "order")
    check(json.loads(pando("receipt", receipts[1]["id"]).out) == receipts[1], "receipt")
    pando("receipt", "00" * 16, code=1)

    identity = os.urandom(16).hex()
    tx = dict(put("s/once", "x"), id=identity, expires=int(time.time() * 1000) + 500000)
    first = submit(tx)
    before = root()
    check(submit(tx) == first, "a resubmission has another receipt")
    check(root() == before, "a resubmission made a block")

    receipts = submit({"ops": [{"op": "insert", "key": "s/b", "value": "3"}]}, put("s/c", "3"), code=1)
    check(receipts[0]["ok"] is False and receipts[0]["code"] == "EXISTS" and receipts[0]["failed_op"] == 0, str(receipts))
    check(receipts[1]["ok"] is True and pando("get", "s/b").out == b"2\n", str(receipts))

    expired = dict(put("s/d", "4"), id="11" * 16, expires=1000)
    receipts = submit(expired, code=1)
    check(receipts[0]["id"] == "11" * 16 and receipts[0]["code"] == "EXPIRED" and not receipts[0]["ok"], str(receipts))
    pando("get", "s/d", code=1)
    receipts = submit(dict(put("s/e", "5"), expires=10**15), code=1)
    check(receipts[0]["code"] == "MALFORMED" and "window" in receipts[0].get("detail", ""), str(receipts))
    pando("get", "s/e", code=1)


def test_submit_bad_lines():
    lines = [json.dumps(put("m/a", "1")).encode(), b"{nonsense", b'{"ops":[]}', b'{"ops":[{"op":"fly","key":"a"}]}',
             b'{"ops":[{"op":"put","key":"a","value":"1","extra":1}]}', b'{"ops":[{"op":"put","key":["a","b"],"value":"1"}]}',
             b'{"ops":[],"ops":[]}', b"[]", b"", json.dumps(put("m/b", "2")).encode()]
    result = pando("submit", data=b"\n".join(lines) + b"\n", code=1)
    answers = [json.loads(line) for line in result.out.splitlines()]
    check([a["ok"] for a in answers] == [True] + [False] * 7 + [True], str(answers))
    check([a.get("line") for a in answers] == [None, 2, 3, 4, 5, 6, 7, 8, None], str(answers))
    check(all(a["code"] == "MALFORMED" for a in answers if not a["ok"]), str(answers))
    errors = result.err.decode().splitlines()
    check(len(errors) == 7 and all("line %d:" % n in e for n, e in zip(range(2, 9), errors)), str(errors))
    check(pando("get", "m/b").out == b"2\n", "what follows a bad line is not submitted")
    lines = [b"{nonsense", json.dumps(put("m/b", "3")).encode(), b'{"ops":[{"op":"delete","key":"m/none"}]}']
    result = pando("submit", data=b"\n".join(lines) + b"\n", code=1)
    check(b"submit: 1 of 2 transactions failed" in result.err, "what is no transaction counts as one: %s" % result)

    result = pando("submit", data=b'\n{"ops":[{"op":"put","key":"m/c","val', code=1)
    check(b"line 2:" in result.err and b"ends within" in result.err, str(result))
    result = pando("submit", data=json.dumps(put("m/d", "5")).encode())  # whole, without the newline
    check(json.loads(result.out)["ok"], str(result))
    pando("submit", TMP + "/no-such-file", code=1)
    pando("submit", TMP, code=1)
    check(pando("submit", data=b"").out == b"", "nothing in, nothing out")


def test_submit_as_they_come():
    process = subprocess.Popen([PANDO, "-d", DIR, "submit"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV)
    for i in range(5):
        process.stdin.write(json.dumps(put("i/%d" % i, "x")).encode() + b"\n")
        process.stdin.flush()
        check(json.loads(process.stdout.readline())["ok"], "interactive submit")
    process.stdin.close()
    check(process.wait(timeout=30) == 0, "interactive submit ended badly")


def test_submit_keeps_order():
    """Each transaction needs the one before it: only an order kept through all requests in flight lets all succeed."""
    count = 5000
    lines = []
    for i in range(count):
        ops = [{"op": "expect", "key": "order", "amount": i}] if i else []
        lines.append(json.dumps({"ops": ops + [{"op": "add", "key": "order", "amount": 1}]}).encode())
    answers = submit(*lines)
    check(len(answers) == count and all(a["ok"] for a in answers), "some failed")
    check([a["results"] for a in answers] == [[str(i + 1)] for i in range(count)], "results are out of order")
    places = [(a["height"], a["index"]) for a in answers]
    check(places == sorted(set(places)), "places are out of order")
    check(pando("get", "order").out == b"%d\n" % count, "sum")


def hex_line(key, value):
    return (key.hex() + " " + value.hex() + "\n").encode()


def test_scan():
    generator = random.Random(7)
    model = {}
    while len(model) < 3000:
        key = b"\x01" + bytes(generator.choice(b"ab\x00\xff") for _ in range(generator.randrange(0, 12)))
        model[key] = bytes(generator.randrange(256) for _ in range(generator.choice((0, 3, 40, 900))))
        if len(model) % 7 == 0:
            model[b"\x01" + generator.randbytes(20)] = b"x"
    items = sorted(model.items())
    ops = [{"op": "put", "key_hex": k.hex(), "value_hex": v.hex()} for k, v in items]
    answers = submit(*({"ops": ops[i:i + 500]} for i in range(0, len(ops), 500)))
    check(all(a["ok"] for a in answers), "puts")
    height = root()[0]

    def expect(chosen, *args):
        out = pando("scan", *args, "--format", "hex").out
        check(out == b"".join(hex_line(k, v) for k, v in chosen), "scan %s differs" % (args,))

    expect(items, "0x01")
    expect(items[::-1], "0x01", "--reverse")
    expect(items[:10], "0x01", "--limit", 10)
    expect(items[:-11:-1], "0x01", "--limit", 10, "--reverse")
    expect([], "0x01", "--limit", 0)
    check(pando("count", "0x01").out == b"%d\n" % len(items), "count")
    for _ in range(25):
        a, b = generator.choice(items)[0], generator.choice(items)[0]
        prefix = generator.choice(items)[0][:generator.randrange(1, 4)]
        args = ["0x" + prefix.hex(), "--from", "hex:" + a.hex(), "--to", "hex:" + b.hex()]
        chosen = [(k, v) for k, v in items if k.startswith(prefix) and a <= k < b]
        expect(chosen, *args)
        expect(chosen[::-1], *args, "--reverse", "--at", height)
        expect(chosen[:3], *args, "--limit", 3)
        check(pando("count", *args).out == b"%d\n" % len(chosen), "count of a range")
    check(pando("scan", "0xffff").out == b"", "prefix of ff bytes")


def test_scan_pages():
    """Keys of full length and values that fill a page each; a scan of many pages."""
    keys = [b"\x02" + bytes([n]) + b"\xff" * 1022 for n in range(4)] + [b"\x02\x01" + b"\xff" * 1021 + b"\xfe"]
    for key in keys:
        submit({"ops": [{"op": "put", "key_hex": key.hex(), "value_hex": "ab" * 700000}]})
    expected = b"".join(hex_line(k, b"\xab" * 700000) for k in sorted(keys))
    check(pando("scan", "0x02", "--format", "hex").out == expected, "pages forward")
    expected = b"".join(hex_line(k, b"\xab" * 700000) for k in sorted(keys, reverse=True))
    check(pando("scan", "0x02", "--format", "hex", "--reverse").out == expected, "pages backward")
    big = b"\x7f" * 5000000
    submit({"ops": [{"op": "put", "key": "big", "value_hex": big.hex()}]})
    check(pando("get", "big", "--format", "hex").out == big.hex().encode() + b"\n", "a large value")


def test_formats():
    submit({"ops": [{"op": "put", "key": "f/text", "value": "grüße"}, {"op": "put", "key": "f/tab", "value": "a\tb"},
                    {"op": "put", "key_hex": "662f00", "value_hex": "ff"}, {"op": "put", "key": "f/empty", "value": ""},
                    {"op": "put", "key": "f/0x", "value": "0x12"}, {"op": "add", "key": "f/z", "amount": "-25"},
                    {"op": "put", "key": 'f/"q\\', "value": "\u2028"}]})
    lines = dict(line.split("\t", 1) for line in pando("scan", "f/").out.decode().split("\n")[:-1])
    check(lines["f/text"] == "grüße" and lines["f/tab"] == "0x610962" and lines["0x662f00"] == "0xff", str(lines))
    check(lines["f/empty"] == "" and lines["f/0x"] == "0x30783132" and lines["f/z"] == "-25", str(lines))
    rows = [json.loads(line) for line in pando("scan", "f/", "--format", "json").out.decode().split("\n")[:-1]]
    check({"key": "f/z", "amount": -25} in rows and {"key": "f/text", "value": "grüße"} in rows, str(rows))
    check({"key": "f/\0", "value_hex": "ff"} in rows and {"key": 'f/"q\\', "value": "\u2028"} in rows, str(rows))
    check(b"662f7a amount:-25\n" in pando("scan", "f/", "--format", "hex").out, "amount in hex")
    check(pando("get", "f/text").out.decode() == "grüße\n" and pando("get", "0x662f00").out == b"0xff\n", "get")
    check(pando("get", "f/z", "--format=hex").out == b"amount:-25\n", "get of an amount")
    pando("get", "f/none", code=1)
    pando("get", "--", "-dash", code=1)


def test_heights_and_diff():
    submit(put("d/a", "1"), put("d/b", "1"), put("d/c", "1"))
    a = root()
    submit(put("d/b", "2"))
    submit({"ops": [{"op": "delete", "key": "d/c"}, {"op": "put", "key": "d/d", "value": "new"}]})
    submit(put("e/x", "outside"))
    b = root()
    check(b[0] > a[0] and root(a[0]) == a and root(b[0]) == b, "root --at")
    check(pando("get", "d/b", "--at", a[0]).out == b"1\n" and pando("get", "d/b").out == b"2\n", "get --at")
    check(pando("diff", a[0], b[0], "d/").out == b"~ d/b\t2\n- d/c\n+ d/d\tnew\n", "diff")
    check(pando("diff", b[0], a[0], "d/").out == b"~ d/b\t1\n+ d/c\t1\n- d/d\n", "diff backwards")
    check(pando("diff", a[0], b[0]).out.endswith(b"+ e/x\toutside\n"), "diff of all")
    check(pando("diff", a[0], a[0]).out == b"", "diff of one")
    check(pando("diff", a[0], b[0], "d/d", "--format", "hex").out == b"+ 642f64 6e6577\n", "diff in hex")
    check(json.loads(pando("diff", a[0], b[0], "d/d", "--format", "json").out) ==
          {"change": "+", "key": "d/d", "value": "new"}, "diff in json")
    header = json.loads(pando("header", "--at", b[0]).out)
    check((header["height"], header["root"], header["entries"]) == b, "header: %s" % header)
    check(json.loads(pando("header", "--at", b[0] + 0).out)["previous"] ==
          json.loads(pando("header", "--at", b[0] - 1).out)["digest"], "chain of headers")
    for command in ("root", "header", "scan", "count"):
        pando(command, "--at", b[0] + 1000, code=1)
    pando("get", "a", "--at", b[0] + 1000, code=1)
    pando("diff", b[0], b[0] + 1000, code=1)
    pando("prove", "a", "--at", b[0] + 1000, code=1)


def blocks(start, *contents, **more):
    return b"".join(json.dumps(dict({"height": start + i, "ops": ops}, **more)).encode() + b"\n"
                    for i, ops in enumerate(contents))


def test_import():
    height = root()[0]
    puts = [[{"op": "put", "key": "b/%03d" % i, "value": str(i)}] for i in range(300)]
    data = blocks(height + 1, *puts, note="a note")
    out = pando("import", data=data).out.decode()
    check(out.startswith("imported 300 blocks, skipped 0, 300 transactions, 0 failed"), out)
    check(root()[0] == height + 300 and root()[1] in out and out.count("\n") == 1, out)
    check(json.loads(pando("header").out)["note"] == "a note", "note")
    before = root()
    check("imported 0 blocks, skipped 300" in pando("import", data=data).out.decode(), "identical blocks")
    path = TMP + "/more.jsonl"
    with open(path, "wb") as file:
        file.write(data + blocks(height + 301, [{"op": "put", "key": "b/more", "value": "1"}]))
    check("imported 1 blocks, skipped 300" in pando("import", path).out.decode(), "continuing")
    check(root()[0] == before[0] + 1, "height")
    result = pando("import", data=blocks(height + 1, [{"op": "put", "key": "b/other", "value": "1"}]), code=1)
    check(b"block %d" % (height + 1) in result.err, "another block at a height: %s" % result)
    pando("import", data=blocks(root()[0] + 2, [{"op": "put", "key": "b/gap", "value": "1"}]), code=1)
    pando("get", "b/gap", code=1)


def test_import_progress():
    """On a terminal: a bar that goes on one line and is gone in the end; the summary is on standard output as ever."""
    height = root()[0]
    path = TMP + "/progress.jsonl"
    with open(path, "wb") as file:
        file.write(blocks(height + 1, *([{"op": "put", "key": "g/%d" % i, "value": "x" * 4000}] for i in range(600))))
    for arguments, source, bar in (([path], None, b"%"), ([], path, b"%"), ([], "pipe", b"/s")):
        terminal, other_end = pty.openpty()
        stdin = subprocess.DEVNULL if source is None else open(path, "rb") if source == path else subprocess.PIPE
        process = subprocess.Popen([PANDO, "-d", DIR, "import", *arguments], env=ENV, stdin=stdin, stderr=other_end,
                                   stdout=subprocess.PIPE)
        os.close(other_end)
        if source == "pipe":
            with open(path, "rb") as file:
                process.stdin.write(file.read())
            process.stdin.close()
        out, seen = process.stdout.read(), b""
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        os.close(terminal)
        check(process.wait(timeout=60) == 0 and out.startswith(b"imported ") and out.count(b"\n") == 1, str(out))
        check(bar in seen and b"height %d" % (height + 600) in seen, "no progress: %r" % seen)
        check(b"\n" not in seen and seen.endswith(b"\r\x1b[K"), "the bar is left behind: %r" % seen)
    check(pando("import", path).err == b"", "a bar where there is no terminal")


def test_import_failures():
    height = root()[0]
    good, bad = [{"op": "put", "key": "c/a", "value": "1"}], [{"op": "put", "key": "c/partial", "value": "1"},
                                                             {"op": "add", "key": "c/sum", "amount": -5, "min": 0}]
    data = blocks(height + 1, good, bad, [{"op": "put", "key": "c/after", "value": "1"}])
    result = pando("import", data=data, code=1)
    error = result.err.decode()
    check("line 2" in error and "block %d" % (height + 2) in error, error)
    check("transaction 0" in error and "operation 1" in error and "BELOW_MIN" in error, error)
    check("imported 1 blocks" in result.out.decode() and root()[0] == height + 1, str(result))
    pando("get", "c/partial", code=1)
    pando("get", "c/after", code=1)
    out = pando("import", "--keep-going", data=data).out.decode()
    check(out.startswith("imported 2 blocks, skipped 1, 2 transactions, 1 failed"), out)
    pando("get", "c/partial", code=1)
    check(pando("get", "c/after").out == b"1\n", "keep-going")

    height = root()[0]
    result = pando("import", data=blocks(height + 1, good) + b"{nonsense\n" + blocks(height + 2, good), code=1)
    check(b"line 2:" in result.err and root()[0] == height + 1, str(result))
    result = pando("import", data=b'{"height":%d,"ops":[{"op":"put"' % (height + 2), code=1)
    check(b"line 1:" in result.err and b"ends within" in result.err, str(result))
    result = pando("import", data=b'{"height":%d,"ops":[],"surprise":1}\n' % (height + 2), code=1)
    check(b"line 1:" in result.err, str(result))
    # Both a block that is refused and a line behind it that is none: it stops at the first of the two.
    result = pando("import", data=blocks(height + 2, bad) + b"{nonsense\n", code=1)
    check(result.err.count(b"\n") == 1 and b"line 1: block %d, transaction 0, operation 1: BELOW_MIN" % (
        height + 2) in result.err, str(result))
    result = pando("import", data=blocks(height + 3, good), code=1)
    check(result.err.count(b"block %d" % (height + 3)) == 1 and b"there is a gap" in result.err, str(result))


def test_import_without_receipt():
    """Transactions in a block that no receipt can be made for: the block is refused, also with --keep-going, and the
    line says why."""
    receipt, = submit(put("c/known", "1"))
    height = root()
    for more, words in (({"id": receipt["id"]}, b"EXISTS: its id is in an earlier receipt"),
                        ({"expires": 5}, b"EXPIRED: it expires before"),
                        ({"expires": 10**15}, b"MALFORMED: it expires later")):
        line = json.dumps({"height": height[0] + 1, "txs": [dict(put("c/never", "1"), **more)]}).encode() + b"\n"
        result = pando("import", "--keep-going", data=line, code=1)
        check(b"line 1: block %d, transaction 0: " % (height[0] + 1) + words in result.err, str(result))
    check(root() == height, "a block that was refused changed the root")


def check_range_proofs(height, digest):
    path = TMP + "/range.proof"

    def proven(*args, root=digest):
        pando("prove", *args, "-o", path)
        return pando("verify", path, "--root", root, node=False).out.decode()

    out = proven("--from", "p/", "--to", "p0")
    check(" are 4, their amounts sum up to 7:\n" in out and out.count("\nkey p/") == 4, out)
    out = proven("--from", "p/", "--to", "p0", "--sum")
    check(" are 4, their amounts sum up to 7\n" in out and "\nkey " not in out, out)
    check("are unchanged" in proven("--diff", height, height), "a state and itself")
    submit(put("p/key", "other"), put("p/new", "1"))
    newer, newer_digest, _ = root()
    out = proven("--diff", height, newer, "--from", "p/", "--to", "p0", root=newer_digest)
    check(digest in out and " differ in 2," in out, out)
    check("key p/key has the value other, it had the value value\n" in out, out)
    check("key p/new is new, with the value 1\n" in out, out)
    out = proven("--unchanged", "p/sum", "--since", height, root=newer_digest)
    check("\nkey p/sum is unchanged\n" in out, out)
    check("from p/sum to below p/suo are unchanged" in proven(
        "--diff", height, newer, "--from", "p/sum", "--to", "p/suo", root=newer_digest), "a range that is unchanged")
    check(b"not the same" in pando("prove", "--unchanged", "p/key", "--since", height, "-o", path, code=1).err, "changed")
    for args in (["--count", "a"], ["--from", "a", "b"], ["--diff", "1"], ["--unchanged", "a"], ["--since", "1", "a"],
                 ["--diff", "1", "2", "--at", "2"], ["--diff", "1", "2", "--sum"]):
        pando("prove", *args, code=2)
    pando("prove", "--from", "b", "--to", "a", code=1)


def test_prove_and_verify():
    submit(put("p/key", "value"), {"ops": [{"op": "add", "key": "p/sum", "amount": 7}]},
           put("p/long", "x" * 5000), put("p/key2", ""))
    height, digest, _ = root()
    facts = status()
    path, genesis = TMP + "/p.proof", DIR + "/genesis.json"
    pando("prove", "p/key", "p/none", "p/sum", "p/long", "0x00", "-o", path)
    for args in (["--genesis", genesis], ["--node-key", facts["node_key"]], ["--root", digest],
                 ["--node-key", "00" * 32, "--node-key", facts["node_key"], "--root", digest, "--genesis", genesis]):
        out = pando("verify", path, *args, node=False).out.decode()
        check("height %d" % height in out and "key p/key has the value value\n" in out, out)
        check("key p/none is absent\n" in out and "p/sum has the amount 7\n" in out and "x" * 5000 in out, out)
    pando("verify", path, code=2, node=False)
    pando("verify", path, "--root", "11" * 32, code=1, node=False)
    check(b"signer" in pando("verify", path, "--node-key", "11" * 32, code=1, node=False).err, "another signer")
    check(b"another ledger" in pando("verify", path, "--genesis", OTHER + "/genesis.json", code=1, node=False).err,
          "another ledger")
    check_range_proofs(height, digest)
    pando("verify", TMP + "/nothing.proof", "--root", digest, code=1, node=False)
    pando("verify", genesis, "--root", digest, code=1, node=False)

    with open(path, "rb") as file:
        proof = bytearray(file.read())
    generator = random.Random(3)
    for bit in generator.sample(range(len(proof) * 8), 150):
        proof[bit // 8] ^= 1 << bit % 8
        with open(TMP + "/flipped", "wb") as file:
            file.write(proof)
        pando("verify", TMP + "/flipped", "--genesis", genesis, code=1, node=False)
        proof[bit // 8] ^= 1 << bit % 8
    for size in (0, 10, len(proof) - 1):
        with open(TMP + "/cut", "wb") as file:
            file.write(proof[:size])
        pando("verify", TMP + "/cut", "--genesis", genesis, code=1, node=False)
    with open(TMP + "/longer", "wb") as file:
        file.write(proof + b"\0")
    pando("verify", TMP + "/longer", "--genesis", genesis, code=1, node=False)

    submit(put("p/key", "changed"))
    pando("prove", "p/key", "--at", height, "-o", path)
    check("the value value" in pando("verify", path, "--root", digest, node=False).out.decode(), "an old height")
    done = subprocess.run([PANDO, "-d", DIR, "prove", "p/key"], cwd=TMP, env=ENV)
    check(done.returncode == 0 and os.path.exists(TMP + "/proof.pando"), "the default file")
    pando("prove", "p/key", "-o", TMP + "/no/such/place", code=3)
    pando("prove", "p/key", "--at", 0, "-o", path, code=1)


def test_wait():
    height = root()[0]
    started = time.time()
    pando("wait", "--height", height)
    check(time.time() - started < 5, "waiting for what is there")
    started = time.time()
    pando("wait", "--height", height + 1, "--timeout", "0.3", code=3)
    check(0.25 < time.time() - started < 20, "time-out")
    waiting = [subprocess.Popen([PANDO, "-d", DIR, "wait", "--height", str(height + 1), "--timeout", "60"], env=ENV)
               for _ in range(8)]
    time.sleep(0.3)
    check(all(w.poll() is None for w in waiting), "somebody did not wait")
    check(pando("root").out.split()[0] == b"%d" % height, "reads while others wait")
    submit(put("w", "1"))
    check([w.wait(timeout=30) for w in waiting] == [0] * 8, "waiting for a block")


class Raw:
    """The wire of nng over ipc by hand (REQ: protocol 0x30), to send what pando would not."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(DIR + "/pando.ipc")
        self.socket.sendall(b"\0SP\0" + struct.pack(">HH", 0x30, 0))
        check(self.take(8) == b"\0SP\0" + struct.pack(">HH", 0x31, 0), "handshake")

    def take(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def send(self, body, identity=1):
        self.socket.sendall(b"\x01" + struct.pack(">QI", len(body) + 4, 0x80000000 | identity) + body)

    def answer(self):
        kind, size, identity = struct.unpack(">BQI", self.take(13))
        body = self.take(size - 4)
        version, code = struct.unpack("<HB", body[:3])
        check(kind == 1 and version == 1, "frame")
        return identity & 0x7fffffff, code, body[3:]


def test_malformed_requests():
    raw = Raw()
    generator = random.Random(11)
    bodies = [b"", b"\1", b"\1\0", b"\2\0\1", b"\1\0\0", b"\1\0\xff"]
    for verb in range(1, 14):
        bodies += [struct.pack("<HB", 1, verb) + generator.randbytes(generator.randrange(1, 60)) for _ in range(40)]
        bodies.append(struct.pack("<HB", 1, verb) + b"\xff" * 3)
    for body in bodies:
        if body[:3] == b"\1\0\x0b":
            continue  # a wait may take its time
        raw.send(body)
        _, code, rest = raw.answer()
        check(code != 0 or body[:3] == b"\1\0\6", "answered ok: %s %s" % (body.hex(), rest[:80]))
    raw.send(struct.pack("<HB", 1, 1) + struct.pack("<II", 1, 5) + b"short")
    _, code, rest = raw.answer()
    check(code == 0 and rest[:4] == b"\1\0\0\0" and rest[4] != 0, "a transaction of nonsense: %d %s" % (code, rest))
    raw.socket.close()
    over = Raw()
    over.socket.sendall(b"\x01" + struct.pack(">QI", (67 << 20), 0x80000001))
    try:
        over.take(1)
        raise Failed("an oversized message was not refused")
    except ConnectionError:
        pass
    for _ in range(20):  # half a message, and gone
        half = Raw()
        half.socket.sendall(b"\x01" + struct.pack(">QI", 1000, 0x80000001) + b"abc")
        half.socket.close()
    many = Raw()  # more requests than contexts, answered all, and some left unread
    for i in range(400):
        many.send(struct.pack("<HBQ", 1, 6, (1 << 64) - 1), i)
    seen = {many.answer()[0] for _ in range(400)}
    check(seen == set(range(400)), "requests were lost")
    for i in range(400):
        many.send(struct.pack("<HBQ", 1, 6, (1 << 64) - 1), i)
    many.socket.close()
    root()


def test_clients_that_vanish():
    """Clients that go with many requests on their way and answers not read: nothing of them may stay."""
    def files():
        return len(os.listdir("/proc/%d/fd" % DAEMON.process.pid))

    before = files()
    for _ in range(60):
        client = Raw()
        for i in range(300):
            client.send(struct.pack("<HBQ", 1, 6, (1 << 64) - 1), i)
        client.socket.close()
    deadline = time.time() + 20
    while files() > before:
        check(time.time() < deadline, "connections stay open: %d files before, %d now" % (before, files()))
        time.sleep(0.1)
    root()


def test_client_that_takes_nothing():
    """A client that asks for large answers and takes none is let go; the others wait for that at most."""
    submit({"ops": [{"op": "put", "key": "huge", "value_hex": "7f" * 5000000}]})
    stuck = Raw()
    for i in range(110):
        stuck.send(struct.pack("<HBQH", 1, 3, (1 << 64) - 1, 4) + b"huge", i)
        if i == 20:
            stuck.socket.settimeout(1)
    pando("root")
    check(status()["height"] > 0, "the node is gone")
    deadline = time.time() + 60
    try:
        while time.time() < deadline:
            stuck.socket.sendall(b"\x01" + struct.pack(">QI", 4, 0x80000001))
            time.sleep(0.2)
        raise Failed("a client that takes nothing was not let go")
    except OSError:
        pass


def test_nng_client():
    """A REQ socket of nng, as an independent peer, gets the same root."""
    if not shutil.which("nngcat"):
        print("     no nngcat here: skipped")
        return
    request = TMP + "/request"
    with open(request, "wb") as file:
        file.write(struct.pack("<HBQ", 1, 6, (1 << 64) - 1))
    done = subprocess.run(["nngcat", "--req", "--dial", "ipc://" + DIR + "/pando.ipc", "--file", request, "--raw"],
                          capture_output=True, timeout=30)
    height, digest, count = root()
    version, code, seen = struct.unpack("<HBQ", done.stdout[:11])
    check((version, code, seen) == (1, 0, height) and done.stdout[11:43].hex() == digest, str(done))
    check(struct.unpack("<Q", done.stdout[43:51])[0] == count, str(done))


def test_many_clients():
    clients = [subprocess.Popen([PANDO, "-d", DIR, "submit"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV)
               for _ in range(8)]
    data = b"".join(json.dumps({"ops": [{"op": "add", "key": "many", "amount": 1}]}).encode() + b"\n" for _ in range(500))
    for client in clients:
        client.stdin.write(data)
        client.stdin.close()
    places = set()
    for client in clients:
        lines = [json.loads(line) for line in client.stdout]
        check(client.wait(timeout=60) == 0 and len(lines) == 500, "a client failed")
        places |= {(line["height"], line["index"]) for line in lines}
    check(len(places) == 4000 and pando("get", "many").out == b"4000\n", "transactions were lost or done twice")


def test_retention():
    directory = TMP + "/retain"
    pando("init", directory, node=False)
    with open(directory + "/pando.conf", "w") as file:
        file.write("[retain]\nblocks = 10\n")
    daemon = Daemon(directory)
    data = blocks(1, *([{"op": "put", "key": "k", "value": str(i)}] for i in range(50)))
    pando("-d", directory, "import", data=data, node=False)
    deadline = time.time() + 10  # old heights are dropped behind the newest one, not before it is answered
    while json.loads(pando("-d", directory, "status", "--json", node=False).out)["oldest_live_height"] == 1:
        check(time.time() < deadline, "nothing was dropped")
        time.sleep(0.05)
    error = pando("-d", directory, "get", "k", "--at", 1, code=1, node=False).err.decode()
    oldest = json.loads(pando("-d", directory, "status", "--json", node=False).out)["oldest_live_height"]
    check(1 < oldest <= 41 and str(oldest) in error, "the oldest live height %d is not named: %s" % (oldest, error))
    check(error.startswith("pando: height 1: "), "not WHAT: WHY: %s" % error)
    pando("-d", directory, "get", "k", "--at", oldest, node=False)
    check(pando("-d", directory, "root", "--at", 3, node=False).out.startswith(b"3 "), "roots stay in their headers")
    daemon.stop()


# ---- with daemons of their own ----

def test_restart_and_check():
    directory = TMP + "/restart"
    pando("init", directory, node=False)
    daemon = Daemon(directory)

    def mine(*args, **more):
        return pando("-d", directory, *args, node=False, **more)

    data = blocks(1, *([{"op": "put", "key": "k/%d" % i, "value": "v" * 50}] for i in range(200)))
    mine("import", data=data)
    first = mine("root").out
    mine("check", directory, code=3)
    daemon.stop(signal.SIGKILL, code=-9)
    check(b"whole" in mine("check", directory).out, "check after SIGKILL")
    before = {name: open(os.path.join(base, name), "rb").read() for base, _, names in os.walk(directory + "/log")
              for name in names}
    mine("check", directory, "--deep")
    after = {name: open(os.path.join(base, name), "rb").read() for base, _, names in os.walk(directory + "/log")
             for name in names}
    check(before == after, "check changed the log")
    daemon = Daemon(directory)
    check(mine("root").out == first, "the root after SIGKILL")
    check("height 200" in daemon.text() and first.split()[1].decode() in daemon.text(), "the ready line")
    with open(directory + "/pando.conf", "a") as file:
        file.write("\n")
    daemon.process.send_signal(signal.SIGHUP)
    deadline = time.time() + 20
    while "reload: done" not in daemon.text():
        check(time.time() < deadline, "SIGHUP: " + daemon.text())
        time.sleep(0.05)
    with open(directory + "/pando.conf", "w") as file:
        file.write("[block]\nmax_txs = 7\n[node]\nlog_level = debug\n")
    daemon.process.send_signal(signal.SIGHUP)
    while "block.max_txs cannot change" not in daemon.text():
        check(time.time() < deadline, "SIGHUP: " + daemon.text())
        time.sleep(0.05)
    with open(directory + "/pando.conf", "w") as file:
        file.write("nonsense\n")
    daemon.process.send_signal(signal.SIGHUP)
    while "stays as it was" not in daemon.text():
        check(time.time() < deadline, "SIGHUP: " + daemon.text())
        time.sleep(0.05)
    mine("root", code=2)
    with open(directory + "/pando.conf", "w") as file:
        file.write("")
    check(mine("root").out == first, "the node after SIGHUP")
    daemon.stop()
    check(not os.path.exists(directory + "/pando.ipc"), "the socket was left behind")
    check(b"height 200" in mine("check", directory, "--deep").out, "check --deep")

    # Damage: a byte of a record in the middle of the log.
    path = directory + "/log/00000000000000.log"
    with open(path, "r+b") as file:
        content = file.read()
        at = content.index(b"v" * 50, len(content) // 4096)
        file.seek(at)
        file.write(b"w")
    result = mine("check", directory, code=4)
    check(b"00000000000000.log" in result.out, "the damage is not placed: %s" % result)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"v")
    mine("check", directory)
    os.rename(directory + "/genesis.json", directory + "/genesis.away")
    mine("check", directory, code=1)
    mine("check", TMP + "/nowhere", code=1)


def test_lost_files():
    """What a data directory must have and has no more: neither the daemon nor the check takes the rest for whole."""
    whole, killed, path = TMP + "/whole", TMP + "/killed", TMP + "/lossy"
    pando("init", whole, node=False)
    with open(whole + "/pando.conf", "w") as file:
        file.write("[replication]\nlisten = none\n")
    daemon = Daemon(whole)
    pando("-d", whole, "import", data=blocks(1, [{"op": "put", "key": "k", "value": "v"}]), node=False)
    shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("*.ipc"))  # no checkpoint yet: the log has the block
    daemon.stop()
    for source in whole, killed:
        pando("check", source, node=False)
        for lost in "log", "log/00000000000000.log", "state", "state/slots", "node.key":
            shutil.copytree(source, path)
            gone = os.path.join(path, lost)
            shutil.rmtree(gone) if os.path.isdir(gone) else os.remove(gone)
            pando("check", path, code=4, node=False)
            pandod_fails("--data", path, code=4)
            pando("check", path, code=4, node=False)
            shutil.rmtree(path)
    # A log that is whole in itself, but older than the state's checkpoint.
    shutil.copytree(whole, path)
    with open(path + "/log/00000000000000.log", "r+b") as file:
        file.seek(4096)  # behind the header
        rest = len(file.read())
        file.seek(4096)
        file.write(bytes(rest))
    result = pando("check", path, code=4, node=False)
    check(b"ends with block 0" in result.out and b"of block 1" in result.out, str(result))
    pando("check", whole + "/genesis.json", code=1, node=False)


def test_lost_node():
    """The daemon dies and comes back while transactions stream: all of them are answered, each is done once."""
    directory = TMP + "/lost"
    pando("init", directory, node=False)
    daemon = Daemon(directory)
    process = subprocess.Popen([PANDO, "-d", directory, "submit"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=ENV)
    line = json.dumps({"ops": [{"op": "add", "key": "sum", "amount": 1}]}).encode() + b"\n"
    for _ in range(20):
        process.stdin.write(line * 100)
    process.stdin.flush()
    time.sleep(0.1)
    daemon.stop(signal.SIGKILL, code=-9)
    daemon = Daemon(directory)
    for _ in range(20):
        process.stdin.write(line * 100)
    out, err = process.communicate(timeout=60)
    answers = [json.loads(text) for text in out.splitlines()]
    check(process.returncode == 0 and len(answers) == 4000, "%d answers: %s" % (len(answers), err))
    check(pando("-d", directory, "get", "sum", node=False).out == b"4000\n", "done twice or lost")
    daemon.stop()


def test_journal():
    """With JOURNAL_STREAM naming stderr, lines begin with their priority."""
    path = TMP + "/journal"
    with open(path, "wb") as file:
        facts = os.fstat(file.fileno())
        env = dict(ENV, JOURNAL_STREAM="%d:%d" % (facts.st_dev, facts.st_ino))
        subprocess.run([PANDOD, "--data", TMP + "/nothing"], stderr=file, env=env)
    with open(path) as file:
        check(file.read().startswith("<3>"), "priority")


def test_notify():
    """READY=1 when ready, STOPPING=1 when closing (sd_notify)."""
    directory = TMP + "/notify"
    pando("init", directory, node=False)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(TMP + "/notify.sock")
    listener.settimeout(30)
    ENV["NOTIFY_SOCKET"] = TMP + "/notify.sock"
    try:
        daemon = Daemon(directory)
    finally:
        del ENV["NOTIFY_SOCKET"]
    seen = b""
    while b"READY=1" not in seen:
        seen = listener.recv(4096)
    check(b"STATUS=leader at height 0" in seen, "status: %s" % seen)
    daemon.stop()
    while b"STOPPING=1" not in seen:
        seen = listener.recv(4096)


def main():
    global DIR, OTHER, DAEMON
    DIR, OTHER = TMP + "/shared", TMP + "/other"
    names = sys.argv[2:] or [name for name in globals() if name.startswith("test_")]
    failed = 0
    daemon = None
    try:
        pando("init", DIR, "--ledger", "shared", node=False)
        pando("init", OTHER, node=False)
        daemon = DAEMON = Daemon(DIR)
        for name in names:
            started = time.time()
            try:
                globals()[name]()
                print("ok   %s (%.1f s)" % (name, time.time() - started), flush=True)
            except (Failed, subprocess.TimeoutExpired, OSError, ValueError, KeyError, IndexError) as error:
                failed += 1
                print("FAIL %s: %s: %s" % (name, type(error).__name__, error), flush=True)
        check(daemon.process.poll() is None, "the daemon died: " + daemon.text())
        daemon.stop()
        pando("check", DIR, "--deep", node=False)
    except Failed as error:
        failed += 1
        print("FAIL %s" % error)
    finally:
        if daemon and daemon.process.poll() is None:
            daemon.process.kill()
        shutil.rmtree(TMP, ignore_errors=True)
    print("%d of %d failed" % (failed, len(names)) if failed else "all %d passed" % len(names))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
