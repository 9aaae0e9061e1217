#!/usr/bin/env python3
"""kill -TERM under load: exit 0 within 10 s, nothing lost, and the unit of systemd.

Ten clients submit on connections of their own, a `pando import` follows in other rounds, readers scan and wait. At
SIGTERM the node ends with 0 within the 10 s of its contract; what was acknowledged is there after the next start, byte
for byte; what was not has a receipt or no effect at all: every account of the node is the sum of exactly the
transactions that have receipts. The same once more for a follower, and for a node that has nothing to do.

deploy/pandod.service: `systemd-analyze verify` says nothing, `systemd-analyze security` gives 3.0 or better (skipped,
saying so, where systemd-analyze is not installed or does not know --offline).
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import model
from running_node import Nodes, check

SECONDS_MAX = 10.0
ROUNDS = 4
CLIENTS = 10
ACCOUNTS = 50
EXPOSURE_MAX = 3.0


class Client(threading.Thread):
    def __init__(self, node, number):
        super().__init__(daemon=True)
        self.node, self.number = node, number
        self.sent, self.acknowledged, self.problem = [], {}, None

    def run(self):
        try:
            wire = model.Wire(self.node.directory)
            while True:
                number = len(self.sent)
                some = [model.Transaction([("add", b"account/%02d" % ((number + i * 7) % ACCOUNTS), 1 + i),
                                           ("add", b"client/%d" % self.number, 1)]) for i in range(1 + number % 9)]
                self.sent += some
                for tx, (code, data) in zip(some, wire.submit(some)):
                    if code == "OK":
                        self.acknowledged[tx.id] = data
                    elif code != "BUSY":
                        self.problem = "%s: %s" % (code, data)
        except (model.Broken, model.Refused):
            pass  # it closes
        except Exception as error:
            self.problem = repr(error)


class Reader(threading.Thread):
    def __init__(self, node):
        super().__init__(daemon=True)
        self.node = node

    def run(self):
        try:
            wire = model.Wire(self.node.directory)
            while True:
                wire.scan()
        except (model.Broken, model.Refused):
            pass


def terminate(node, what):
    begin = time.monotonic()
    node.stop()  # checks that it is 0
    seconds = time.monotonic() - begin
    check(seconds < SECONDS_MAX, "%s: %.1f s from SIGTERM to the end" % (what, seconds))
    return seconds


def check_lines(node, what):
    """Its last word: it closed."""
    lines = node.log.read_text(errors="replace").splitlines()
    check(lines and lines[-1].endswith("closed"), "%s: the log ends with %r" % (what, lines[-1:]))


def round_of_submits(node, state):
    clients = [Client(node, i) for i in range(CLIENTS)]
    readers = [Reader(node) for _ in range(2)]
    waiting = subprocess.Popen([str(node.nodes.programs / "pando"), "-d", str(node.directory), "wait", "--height",
                                "99999999", "--timeout", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for thread in clients + readers:
        thread.start()
    time.sleep(0.6)
    seconds = terminate(node, "under load")
    check_lines(node, "under load")
    for thread in clients + readers:
        thread.join(90)
        check(not thread.is_alive(), "a client still waits though the node has ended")
    waiting.terminate()
    waiting.wait()
    node.start()
    wire = model.Wire(node.directory)
    found = []
    for client in clients:
        check(not client.problem, "a client was answered " + str(client.problem))
        for tx in client.sent:
            data = wire.receipt(tx.id)
            first = client.acknowledged.get(tx.id)
            check(first is None or first == data, "an acknowledged receipt is %s after SIGTERM" % (
                "gone" if data is None else "another"))
            if data:
                found.append((model.Receipt(data), tx))
    acknowledged = sum(len(client.acknowledged) for client in clients)
    check(acknowledged > 0, "nothing was acknowledged: this tests nothing")
    for receipt, tx in sorted(found, key=lambda pair: (pair[0].height, pair[0].index)):
        check(receipt.results == state.apply(tx.operations), "the results of %d/%d" % (receipt.height, receipt.index))
    check(wire.scan()[1] == state.entries, "the accounts are not the sums of what has receipts")
    wire.close()
    return seconds, acknowledged


def round_of_import(node, follower, first, last):
    """SIGTERM of the leader while it imports: whole blocks, the same after the start, and a follower that agrees."""
    path = node.nodes.directory / "blocks.jsonl"
    with open(path, "wb") as file:
        for height in range(first, last + 1):
            file.write(model.block_line(height, [("add", b"imported", height), ("put", b"height", b"%d" % height)]))
    importer = subprocess.Popen([str(node.nodes.programs / "pando"), "-d", str(node.directory), "import", str(path)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.4)
    seconds = terminate(node, "while it imports")
    follower_seconds = terminate(follower, "a follower")
    node.start()
    follower.start()
    errors = importer.communicate(timeout=180)[1]  # goes on by itself
    check(importer.returncode == 0, "the import ended with %d: %s" % (importer.returncode, errors))
    follower.wait(last)
    wire = model.Wire(node.directory)
    height, root, _ = wire.root()
    _, entries = wire.scan(height)
    wire.close()
    check(height == last and entries[b"height"] == b"%d" % last and
          entries[b"imported"] == sum(range(first, last + 1)), "what was imported: height %d, %r" % (height, entries))
    check(follower.root(last) == node.root(last), "the follower has another root")
    return max(seconds, follower_seconds)


def node_under_load(nodes):
    node, follower, state = nodes.node("node"), nodes.node("follower"), model.State()
    node.init("--ledger", "term", retain=16)
    with open(node.directory / "pando.conf", "a") as file:
        file.write("[engine]\ncheckpoint_log_bytes = 1M\n")
    node.start()
    longest = total = 0
    for _ in range(ROUNDS):
        seconds, acknowledged = round_of_submits(node, state)
        longest, total = max(longest, seconds), total + acknowledged
    follower.join(node, retain=16)
    follower.start()
    height = node.status()["height"]
    follower.wait(height)
    longest = max(longest, round_of_import(node, follower, height + 1, height + 4000))
    longest = max(longest, terminate(follower, "a follower"), terminate(node, "with nothing to do"))
    for one in (node, follower):
        one.pando("check", one.directory)
    print("SIGTERM under load: %d acknowledged receipts are all there, at most %.2f s to the end" % (total, longest))


def unit(source):
    tool = shutil.which("systemd-analyze")
    if not tool:
        print("skipped: systemd-analyze is not installed")
        return
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "pandod.service"
        text = (source / "deploy" / "pandod.service").read_text()
        check("ExecStart=/usr/bin/pandod " in text, "the unit's ExecStart")
        # verify looks for the program and the user's name, which only an installation has.
        path.write_text(text.replace("ExecStart=/usr/bin/pandod ", "ExecStart=%s " % shutil.which("true")))
        done = subprocess.run([tool, "verify", "--man=no", str(path)], capture_output=True, timeout=120)
        said = [line for line in (done.stdout + done.stderr).decode(errors="replace").splitlines() if "pandod" in line]
        check(not said, "systemd-analyze verify says: %s" % said)
        path.write_text(text)
        done = subprocess.run([tool, "security", "--offline=true", "--no-pager", str(path)], capture_output=True,
                              timeout=120, env=dict(os.environ, SYSTEMD_COLORS="0", LC_ALL="C"))
        output = (done.stdout + done.stderr).decode(errors="replace")
        if "unrecognized option" in output:
            print("skipped: this systemd-analyze has no security --offline")
            return
        found = re.search(r"Overall exposure level for pandod\.service: ([0-9.]+)", output)
        check(found and float(found[1]) <= EXPOSURE_MAX, "systemd-analyze security: %s" % output[-300:])
        print("the unit is right, exposure level %s" % found[1])


def main():
    with Nodes(sys.argv[1]) as nodes:
        unit(nodes.source)
        node_under_load(nodes)


if __name__ == "__main__":
    main()
