#!/usr/bin/env python3
"""Three real nodes: a leader, a follower from the start that is killed (SIGKILL) in the middle of an import, and one
that joins at the end. Every one must have the same root at every height that is looked at; the leader is restarted
while the follower is connected; another ledger's id and writing to a follower are refused."""
import json
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # no __pycache__ in the source
from running_node import Nodes, check

BLOCKS = 1500


def generated(nodes, *arguments):
    command = [sys.executable, str(nodes.source / "deploy" / "account-blocks"), "--blocks", str(BLOCKS), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def height_of(node):
    return node.status()["height"]


def same_everywhere(nodes, heights):
    for height in heights:
        roots = {node.root(height) for node in nodes}
        check(len(roots) == 1, "the roots at height %d differ: %s" % (height, sorted(roots)))


def import_and_kill(leader, follower, lines):
    """Imports; the follower is killed twice on the way and started again."""
    importer = subprocess.Popen([str(leader.nodes.programs / "pando"), "-d", str(leader.directory), "import", "-"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    half = len(lines) // 2
    importer.stdin.write(b"".join(lines[:half]))
    importer.stdin.flush()
    for _ in range(2):
        start = time.monotonic()
        before = height_of(follower)
        while height_of(follower) < min(before + 50, half) and time.monotonic() - start < 5:
            time.sleep(0.01)
        follower.kill()
        follower.start()
    importer.stdin.write(b"".join(lines[half:]))
    _, errors = importer.communicate(timeout=300)
    check(importer.returncode == 0, "import: exit code %d: %s%s" % (
        importer.returncode, errors.decode(errors="replace"), leader.log_end()))


def main():
    with Nodes(sys.argv[1]) as nodes:
        leader, follower, late = nodes.node("leader"), nodes.node("follower"), nodes.node("late")
        leader.init("--ledger", "replication")
        leader.start()
        follower.join(leader)
        follower.start()
        lines = generated(nodes).splitlines(keepends=True)
        import_and_kill(leader, follower, lines)
        follower.wait(BLOCKS)
        print("follower was killed twice and has height %d" % BLOCKS)

        refused = late.init("--join", leader.listen, "--ledger-id", "00" * 32, code=1)
        check(refused.startswith("pando: "), "init --join with another ledger's id says: " + refused)
        late.join(leader)
        late.start()
        late.wait(BLOCKS)
        same_everywhere([leader, follower, late], [1, 2, BLOCKS // 3, BLOCKS // 2, BLOCKS - 1, BLOCKS])
        for height in (1, BLOCKS // 2, BLOCKS):
            expected = generated(nodes, "--state", str(height))
            for node in (leader, follower, late):
                check(node.pando("--format", "hex", "scan", "--at", height) == expected,
                      "the balances at height %d are wrong" % height)
        print("a late follower has the same roots and the right balances")

        transaction = b'{"ops":[{"op":"put","key":"k","value":"v"}]}\n'
        receipt = json.loads(follower.pando("submit", "-", stdin=transaction, code=3))
        check(receipt["code"] == "NOT_LEADER", "a follower took a transaction: %s" % receipt)
        leader.stop()
        leader.start()  # the followers reconnect by themselves
        receipt = json.loads(leader.pando("submit", "-", stdin=transaction))
        check(receipt["ok"] and receipt["height"] == BLOCKS + 1, "receipt: %s" % receipt)
        for node in (follower, late):
            node.wait(BLOCKS + 1)
            check(node.pando("get", "k").strip() == b"v", "the value at the follower")
        same_everywhere([leader, follower, late], [BLOCKS, BLOCKS + 1])

        time.sleep(0.5)
        status = leader.status()
        check(len(status["followers"]) == 2, "the leader sees these followers: %s" % status["followers"])
        check(follower.status()["lag_blocks"] == 0, "the follower lags")
        check(follower.status()["leader_key"] == status["node_key"], "the follower names another leader")
        for node in (late, follower, leader):
            node.stop()
        print("all ended well")


if __name__ == "__main__":
    main()
