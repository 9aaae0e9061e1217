#!/usr/bin/env python3
"""kill -9 at random moments, many rounds on the same data directories; 300 on a leader and 100 on a follower with
--long (or PANDO_LONG=1), a tenth of that by default. --seed N repeats a run's choices.

A round on the leader kills it in the middle of an import or while 8 connections submit, sometimes once more during the
start that follows or while it closes after SIGTERM. Then

- no block or receipt that was acknowledged is missing: the receipt is found again, byte for byte;
- whatever has a receipt is in the state whole, and nothing else is: the receipts' heights and indices leave no gap,
  every result and a scan of everything are what the model gets (tests/model.py);
- transactions that were not acknowledged are sent again, and happen once.

At the end an undisturbed node imports the same blocks and must have the same root at every height at which a round
ended. A round on the follower kills it, and sometimes its leader, while the leader imports; its root must be the
leader's at that height each time, and both must end at the same one.
"""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import model
from running_node import Nodes, check

LONG = "--long" in sys.argv or os.environ.get("PANDO_LONG") == "1"
LEADER_ROUNDS = 300 if LONG else 30
FOLLOWER_ROUNDS = 100 if LONG else 10
CONNECTIONS = 8
BLOCKS_AHEAD = 2500  # of one pando import
IMPORT_KILLS = 3
RETAIN = 8


def operations_of(height):
    """Two transactions of a block, always the same of a height."""
    chance = random.Random(height)
    both = [[], []]
    for i in range(chance.randint(2, 10)):
        kind = chance.randrange(4)
        if kind == 0:
            operation = ("add", b"amount/%03d" % chance.randrange(300), chance.randint(-1000, 1000))
        elif kind == 1:
            operation = ("unset", b"value/%04d" % chance.randrange(2000))
        else:
            size = chance.choice((0, 8, 70, 300))
            operation = ("put", b"value/%04d" % chance.randrange(2000), chance.randbytes(size))
        both[i % 2].append(operation)
    return both


def configure(node, checkpoint="256K"):
    with open(node.directory / "pando.conf", "a") as file:
        file.write("[engine]\ncheckpoint_log_bytes = %s\n" % checkpoint)


def write_blocks(node, first, last):
    path = node.nodes.directory / "blocks.jsonl"
    with open(path, "wb") as file:
        for height in range(first, last + 1):
            file.write(model.block_line(height, operations_of(height)))
    return path


def start_import(node, path):
    command = [str(node.nodes.programs / "pando"), "-d", str(node.directory), "import", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class Importer(threading.Thread):
    """Imports blocks from a height on, until its connection breaks."""

    def __init__(self, node, first, chance):
        super().__init__(daemon=True)
        self.node, self.next, self.problem = node, first, None
        self.chance = random.Random(chance.random())

    def run(self):
        try:
            wire = model.Wire(self.node.directory)
            while True:
                count = self.chance.randint(1, 60)
                self.next += wire.import_blocks([model.encode_block(height, operations_of(height))
                                                 for height in range(self.next, self.next + count)])
        except model.Broken:
            pass
        except Exception as error:
            self.problem = "an importer ended with %r" % error


class Submitter(threading.Thread):
    """Submits transactions on a connection of its own until that breaks."""

    def __init__(self, node, number, chance):
        super().__init__(daemon=True)
        self.node, self.number, self.chance = node, number, random.Random(chance.random())
        self.sent, self.acknowledged, self.problem = [], {}, None

    def transaction(self):
        account, amount = self.chance.randrange(300), self.chance.randint(1, 99)
        return model.Transaction([
            ("add", b"amount/%03d" % account, -amount), ("add", b"amount/%03d" % (account * 7 % 300), amount),
            ("put", b"last/%d" % self.number, os.urandom(self.chance.choice((1, 100)))),
            ("add", b"done/%d" % self.number, 1)])

    def run(self):
        try:
            wire = model.Wire(self.node.directory)
            while True:
                some = [self.transaction() for _ in range(self.chance.randint(1, 6))]
                self.sent += some
                for tx, (code, data) in zip(some, wire.submit(some)):
                    if code == "OK":
                        self.acknowledged[tx.id] = data
                    elif code not in ("BUSY", "EXPIRED"):
                        self.problem = "a submit was answered %s: %s" % (code, data)
        except model.Broken:
            pass
        except Exception as error:
            self.problem = "a submitter ended with %r" % error


class Victim:
    """A leader, and the model of what it must hold."""

    def __init__(self, nodes, chance):
        self.node, self.chance = nodes.node("victim"), chance
        self.state, self.blocks, self.roots = model.State(), [], {}
        self.starts = self.kills = self.acknowledged = self.unanswered = 0

    def begin(self):
        self.node.init("--ledger", "kill", retain=RETAIN)
        configure(self.node)
        self.node.start()

    def kill(self):
        if self.chance.random() < 0.15:  # in the middle of its closing
            self.node.process.send_signal(signal.SIGTERM)
            time.sleep(self.chance.uniform(0, 0.1))
        self.node.kill()
        self.kills += 1

    def start(self):
        while self.chance.random() < 0.3:  # in the middle of its start
            with open(self.node.log, "ab") as log:
                process = subprocess.Popen([str(self.node.nodes.programs / "pandod"), "--data",
                                            str(self.node.directory)], stdout=log, stderr=log)
            time.sleep(self.chance.uniform(0, 0.15))
            check(process.poll() is None, "pandod did not start again%s" % self.node.log_end())
            process.kill()
            process.wait()
            self.kills += 1
        self.node.start()

    def compare(self, wire, what):
        height, digest, entries = wire.root()
        check(height == len(self.blocks), "%s: height %d, the model has %d" % (what, height, len(self.blocks)))
        _, found = wire.scan(height)
        wanted = self.state.entries
        if found != wanted or entries != len(wanted):
            keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
            check(False, "%s: at height %d %d keys differ, the first %r: %r, the model has %r" % (
                what, height, len(keys), keys[:1], found.get(keys[0]), wanted.get(keys[0])))
        if height:  # the genesis has no header; that it is empty was compared just now
            self.roots[height] = digest

    def import_round(self):
        height = len(self.blocks)
        first = self.imported_from(height)
        importer = Importer(self.node, first, self.chance)
        importer.start()
        time.sleep(self.chance.uniform(0, 0.4))
        self.kill()
        importer.join(90)
        check(not importer.is_alive() and not importer.problem, "an importer: %s" % importer.problem)
        acknowledged = importer.next - 1
        self.start()
        wire = model.Wire(self.node.directory)
        reached = wire.root()[0]
        check(reached >= max(height, acknowledged),
              "height %d after the start, but %d was acknowledged" % (reached, max(height, acknowledged)))
        self.take_blocks(reached)
        self.acknowledged += max(0, acknowledged - height)
        self.compare(wire, "after a kill during an import")
        wire.close()

    def take_blocks(self, last):
        for height in range(len(self.blocks) + 1, last + 1):
            self.blocks.append(operations_of(height))
            for operations in self.blocks[-1]:
                self.state.apply(operations)

    def one_import_over_kills(self):
        """One `pando import`: it goes on by itself behind every restart, and ends well."""
        last = len(self.blocks) + BLOCKS_AHEAD
        importer = start_import(self.node, write_blocks(self.node, len(self.blocks) + 1, last))
        wire = model.Wire(self.node.directory)
        deadline = time.monotonic() + 60
        while wire.root()[0] == len(self.blocks):  # an import that finds no node to begin with ends at once
            check(importer.poll() is None and time.monotonic() < deadline, "the import did not begin")
            time.sleep(0.001)
        wire.close()
        for _ in range(IMPORT_KILLS):
            time.sleep(self.chance.uniform(0.02, 0.2))
            self.kill()
            self.start()
        output, errors = importer.communicate(timeout=180)
        check(importer.returncode == 0, "import over kills ended with %d: %s" % (importer.returncode, errors))
        self.take_blocks(last)
        wire = model.Wire(self.node.directory)
        self.compare(wire, "after one import over kills")
        wire.close()

    def imported_from(self, height):
        """Some blocks before the next one, if they were imported: they are skipped."""
        first = height + 1
        while first > 1 and height - first < 5 and self.blocks[first - 2] == operations_of(first - 1):
            first -= 1
        return first

    def take_receipts(self, found):
        """found: {id: (transaction, receipt)}, all that got a place since the last time."""
        order = sorted(found.values(), key=lambda pair: (pair[1].height, pair[1].index))
        for tx, receipt in order:
            check(receipt.code == "OK", "a receipt with " + receipt.code)
            while len(self.blocks) < receipt.height:
                self.blocks.append([])
            check(receipt.height == len(self.blocks) and receipt.index == len(self.blocks[-1]),
                  "receipt %d/%d: blocks end at %d, which has %d transactions" % (
                      receipt.height, receipt.index, len(self.blocks), len(self.blocks[-1])))
            self.blocks[-1].append(tx.operations)
            results = self.state.apply(tx.operations)
            check(results == receipt.results, "receipt %d/%d has the results %s, the model %s" % (
                receipt.height, receipt.index, receipt.results, results))

    def submit_round(self):
        submitters = [Submitter(self.node, i, self.chance) for i in range(CONNECTIONS)]
        for submitter in submitters:
            submitter.start()
        time.sleep(self.chance.uniform(0, 0.4))
        self.kill()
        for submitter in submitters:
            submitter.join(90)
            check(not submitter.is_alive() and not submitter.problem, "a submitter: %s" % submitter.problem)
        self.start()
        wire = model.Wire(self.node.directory)
        acknowledged = {key: data for submitter in submitters for key, data in submitter.acknowledged.items()}
        found, missing = {}, []
        for tx in (tx for submitter in submitters for tx in submitter.sent):
            data = wire.receipt(tx.id)
            check(tx.id not in acknowledged or data == acknowledged[tx.id],
                  "an acknowledged receipt is %s after the start" % ("gone" if data is None else "another"))
            if data is None:
                missing.append(tx)
            else:
                found[tx.id] = (tx, model.Receipt(data))
        self.take_receipts(found)
        self.fill_empty_blocks(wire)
        self.compare(wire, "after a kill during submits")
        self.acknowledged += len(acknowledged)
        self.unanswered += len(found) - len(acknowledged) + len(missing)
        self.send_again(wire, missing, acknowledged, found)
        wire.close()

    def fill_empty_blocks(self, wire):
        """A block may hold nothing but what was refused at its place in the order."""
        for height in range(len(self.blocks) + 1, wire.root()[0] + 1):
            self.blocks.append([])

    def send_again(self, wire, missing, acknowledged, found):
        """What got no place gets one now; what has one keeps it."""
        known = [tx for tx, _ in list(found.values())[:20]]
        for tx, (code, data) in zip(known, wire.submit(known) if known else []):
            check(code == "OK" and data == acknowledged.get(tx.id, data) and
                  vars(model.Receipt(data)) == vars(found[tx.id][1]), "a transaction sent again has another receipt")
        answers = wire.submit(missing) if missing else []
        check(all(code == "OK" for code, _ in answers), "sent again: %s" % sorted({code for code, _ in answers}))
        self.take_receipts({tx.id: (tx, model.Receipt(data)) for tx, (_, data) in zip(missing, answers)})
        self.fill_empty_blocks(wire)
        self.compare(wire, "after sending again")


def compare_with_undisturbed(nodes, victim):
    """The same blocks in a node that nobody disturbs lead to the same roots."""
    calm = nodes.node("calm")
    calm.init("--ledger", "calm", retain=RETAIN)
    calm.start()
    path = nodes.directory / "calm.jsonl"
    with open(path, "wb") as file:
        for height, transactions in enumerate(victim.blocks, start=1):
            file.write(model.block_line(height, transactions) if transactions else
                       b'{"height":%d,"txs":[]}\n' % height)
    calm.pando("import", path)
    for height, digest in sorted(victim.roots.items()):
        other = json.loads(calm.pando("header", "--at", height))["root"]
        check(other == digest, "height %d: root %s, undisturbed it is %s" % (height, digest, other))
    calm.stop()


def leader_rounds(nodes, chance):
    victim = Victim(nodes, chance)
    victim.begin()
    for number in range(LEADER_ROUNDS):
        victim.import_round() if number % 2 == 0 else victim.submit_round()
    victim.one_import_over_kills()
    check(victim.acknowledged > LEADER_ROUNDS, "only %d blocks and receipts were acknowledged: this tests nothing" %
          victim.acknowledged)
    compare_with_undisturbed(nodes, victim)
    victim.node.stop()
    victim.node.pando("check", victim.node.directory)
    print("leader: %d kills in %d rounds, height %d; %d blocks and receipts were acknowledged before a kill, none is "
          "missing; %d submits had no answer" % (victim.kills, LEADER_ROUNDS, len(victim.blocks), victim.acknowledged,
                                                 victim.unanswered))


def same_as_leader(leader, follower):
    wire = model.Wire(follower.directory)
    height, digest, _ = wire.root()
    wire.close()
    if height:
        wanted = json.loads(leader.pando("header", "--at", height))["root"]
        check(digest == wanted, "the follower has root %s at height %d, its leader %s" % (digest, height, wanted))
    return height


def follower_rounds(nodes, chance):
    leader, follower = nodes.node("leader"), nodes.node("follower")
    leader.init("--ledger", "followed", retain=RETAIN)
    configure(leader, "1M")
    leader.start()
    follower.join(leader, retain=RETAIN)
    configure(follower, "64K")
    follower.start()
    height = 0
    for number in range(FOLLOWER_ROUNDS):
        importer = start_import(leader, write_blocks(leader, max(1, height - 3), height + BLOCKS_AHEAD))
        time.sleep(chance.uniform(0.05, 0.4))
        follower.kill()
        if number % 3 == 2:
            time.sleep(chance.uniform(0, 0.1))
            leader.kill()
        else:
            time.sleep(chance.uniform(0, 0.2))
        importer.terminate()
        importer.communicate(timeout=120)
        if leader.process is None:
            leader.start()
        follower.start()
        reached = same_as_leader(leader, follower)
        height = leader.status()["height"]  # what its importer had handed in may have come meanwhile
        check(reached <= height, "the follower has height %d, its leader %d" % (reached, height))
    follower.wait(height)
    check(same_as_leader(leader, follower) >= height, "the follower went back")
    for node in (follower, leader):
        node.stop()
        node.pando("check", node.directory)
    print("follower: killed %d times, height %d, the same root as its leader each time" % (FOLLOWER_ROUNDS, height))


def main():
    seed = random.SystemRandom().getrandbits(32)
    if "--seed" in sys.argv:
        seed = int(sys.argv[sys.argv.index("--seed") + 1])
    print("seed %d" % seed)
    with Nodes(sys.argv[1]) as nodes:
        leader_rounds(nodes, random.Random(seed))
        follower_rounds(nodes, random.Random(seed + 1))


if __name__ == "__main__":
    main()
