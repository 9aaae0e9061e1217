#!/usr/bin/env python3
"""deploy/git-blocks against `git ls-tree`, after every block, on a repository made of what is awkward: merges, an empty
commit, a submodule, a symbolic link, modes, paths of any bytes, a file in place of a directory, renames, a path over
the key limit, a commit of more changes than a transaction has operations. Then this repository's own history."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # no __pycache__ in the source
from running_node import check

SOURCE = pathlib.Path(os.environ.get("PANDO_SOURCE", pathlib.Path(__file__).resolve().parent.parent))
MANY = 4100
ENVIRONMENT = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1", GIT_AUTHOR_NAME="a",
                   GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")


def git(repository, *arguments):
    command = ["git", "-c", "safe.directory=*", "-c", "init.defaultBranch=main", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT).stdout


def commit(repository, message, *more):
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "--allow-empty", "-m", message, *more)


def awkward(repository):
    git(repository, "init", "-q")
    (repository / "a").write_text("a")
    (repository / "d" / "e").mkdir(parents=True)
    (repository / "d" / "e" / "f").write_text("b")
    pathlib.Path(os.fsdecode(os.fsencode(repository) + b"/new\nline \xff\ttab")).write_text("x")
    commit(repository, "root")
    commit(repository, "empty")
    git(repository, "checkout", "-q", "-b", "side")
    (repository / "side").write_text("s")
    (repository / "a").unlink()
    commit(repository, "side")
    git(repository, "checkout", "-q", "main")
    (repository / "d" / "e" / "f").write_text("bb")
    commit(repository, "main")
    git(repository, "merge", "-q", "--no-ff", "-m", "merge", "side")
    git(repository, "update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    git(repository, "commit", "-q", "-m", "submodule")
    git(repository, "rm", "-q", "--cached", "sub")
    (repository / "link").symlink_to("d")
    (repository / "side").chmod(0o755)
    commit(repository, "modes")
    shutil.rmtree(repository / "d")
    (repository / "d").write_text("a file in place of a directory")
    commit(repository, "type")
    for number in range(MANY):
        (repository / ("many%d" % number)).write_text(str(number))
    commit(repository, "many")
    (repository / "many1").rename(repository / "renamed")
    deep = repository.joinpath(*["x" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "long").write_text("over the limit of keys")
    commit(repository, "rename")


def tree(repository, revision):
    entries = {}
    for entry in git(repository, "ls-tree", "-r", "-z", "--full-tree", revision).split(b"\0")[:-1]:
        meta, path = entry.split(b"\t", 1)
        mode, _, blob = meta.split(b" ")
        if len(path) <= 1024:
            entries[path.hex()] = "%08x%s" % (int(mode, 8), blob.decode())
    return entries


def compare(repository, every):
    """Replays in a dictionary; the state after each block, or each every-th, must be the tree of its commit."""
    done = subprocess.run([sys.executable, str(SOURCE / "deploy" / "git-blocks"), str(repository)], check=True,
                          capture_output=True)
    state, notes = {}, []
    lines = done.stdout.splitlines()
    for height, line in enumerate(lines, start=1):
        block = json.loads(line)
        check(block["height"] == height, "heights are not consecutive at %d" % height)
        notes.append(block["note"])
        for transaction in block.get("txs", [block]):
            check(0 < len(transaction["ops"]) <= 4096, "a transaction of %d operations" % len(transaction["ops"]))
            for operation in transaction["ops"]:
                if operation["op"] == "put":
                    state[operation["key_hex"]] = operation["value_hex"]
                else:
                    del state[operation["key_hex"]]  # what is deleted must have been there
        if height % every == 0 or height == len(lines):
            check(state == tree(repository, block["note"]), "height %d is not the tree of %s" % (height, block["note"]))
    return notes, done.stderr.decode()


def main():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="pando."))
    try:
        awkward(directory)
        notes, errors = compare(directory, 1)
        subjects = [git(directory, "log", "-1", "--format=%s", note).decode().strip() for note in notes]
        check(subjects == ["root", "main", "merge", "submodule", "modes", "type", "many", "rename"],
              "the blocks are those of %s" % subjects)
        check("left out a path of" in errors, "a path over the limit is not reported: %s" % errors)
        empty = directory / "empty"
        empty.mkdir()
        git(empty, "init", "-q")
        refused = subprocess.run([sys.executable, str(SOURCE / "deploy" / "git-blocks"), str(empty)],
                                 capture_output=True)
        check(refused.returncode == 1 and not refused.stdout, "a repository without commits is not refused")
    finally:
        shutil.rmtree(directory)
    own = subprocess.run(["git", "-c", "safe.directory=*", "-C", str(SOURCE), "rev-parse", "-q", "--verify", "HEAD"],
                         capture_output=True)
    if own.returncode == 0:
        notes, _ = compare(SOURCE, 20)
        print("this repository: %d blocks" % len(notes))


if __name__ == "__main__":
    main()
