"""A pandod process and its data directory, for the test scripts (Python 3, standard library only).

A script gets the build directory as its argument. Nodes talk over ipc sockets in a temporary directory, so tests can
run side by side. Whatever happens, leaving `with Nodes(...)` ends every process; a node that did not end well fails
the test with its log.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

START_SECONDS = 60
STOP_SECONDS = 30  # the node promises 10; sanitizers and a busy machine take their share


def check(condition, what):
    if not condition:
        raise SystemExit("FAILED: " + what)


class Node:
    def __init__(self, nodes, name):
        self.nodes = nodes
        self.directory = nodes.directory / name
        self.log = nodes.directory / (name + ".log")
        self.listen = "ipc://%s/replication.ipc" % self.directory
        self.process = None

    def pando(self, *arguments, code=0, stdin=None):
        """Standard output of a pando command, which must end with this code."""
        command = [str(self.nodes.programs / "pando"), "-d", str(self.directory), *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=600)
        check(done.returncode == code, "%s: exit code %d, not %d\n%s%s" % (
            " ".join(command), done.returncode, code, done.stdout.decode(errors="replace")[-2000:],
            done.stderr.decode(errors="replace")[-2000:] + self.log_end()))
        return done.stdout

    def status(self):
        return json.loads(self.pando("status", "--json"))

    def root(self, height):
        return self.pando("root", "--at", height).decode().strip()

    def init(self, *arguments, code=0, retain="all", follow=None):
        """pando init and a configuration."""
        command = [str(self.nodes.programs / "pando"), "init", str(self.directory), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, timeout=120)
        check(done.returncode == code, "%s: exit code %d, not %d\n%s" % (
            " ".join(command), done.returncode, code, done.stderr.decode(errors="replace")))
        if code == 0:
            text = "[retain]\nblocks = %s\n[replication]\nlisten = %s\n" % (retain, self.listen)
            for source in follow or []:
                text += "follow = %s\n" % source.listen
            (self.directory / "pando.conf").write_text(text)
        return done.stderr.decode(errors="replace")

    def join(self, source, **more):
        self.init("--join", source.listen, "--ledger-id", source.status()["ledger_id"], follow=[source], **more)

    def start(self, environment=None):
        """environment: more of it for pandod."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(self.nodes.programs / "pandod"), "--data", str(self.directory)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(environment or {})})
        deadline = time.monotonic() + START_SECONDS
        command = [str(self.nodes.programs / "pando"), "-d", str(self.directory), "status"]
        while subprocess.run(command, capture_output=True, timeout=60).returncode != 0:
            check(self.process.poll() is None, "pandod ended with code %s%s" % (self.process.poll(), self.log_end()))
            check(time.monotonic() < deadline, "pandod does not answer" + self.log_end())
            time.sleep(0.05)

    def kill(self):
        """SIGKILL: nothing is saved, nobody is told."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self):
        """SIGTERM: must end with 0."""
        process, self.process = self.process, None
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            check(False, "pandod did not end within %d s of SIGTERM%s" % (STOP_SECONDS, self.log_end()))
        check(code == 0, "pandod ended with code %d%s" % (code, self.log_end()))

    def wait(self, height, seconds=300):
        self.pando("wait", "--height", height, "--timeout", seconds)

    def log_end(self):
        if not self.log.exists():
            return ""
        return "\n--- end of %s\n%s" % (self.log, self.log.read_text(errors="replace")[-4000:])


class Nodes:
    """Nodes in a temporary directory; `with` ends and removes them."""

    def __init__(self, build):
        self.build = pathlib.Path(build)
        self.programs = self.build / "node"
        self.source = pathlib.Path(os.environ.get("PANDO_SOURCE", pathlib.Path(__file__).resolve().parent.parent))
        self.all = []

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="pando."))  # short: a socket's path has 107 bytes
        return self

    def __exit__(self, kind, error, trace):
        for node in self.all:
            if node.process and node.process.poll() is None:
                node.process.kill()
                node.process.wait()
        if kind is None:
            shutil.rmtree(self.directory)
        else:
            print("logs and data are left in %s" % self.directory)

    def node(self, name):
        node = Node(self, name)
        self.all.append(node)
        return node

    def is_release(self):
        """True if the build is a release without sanitizers: then times mean something."""
        cache = (self.build / "CMakeCache.txt").read_text()
        return "CMAKE_BUILD_TYPE:STRING=Release\n" in cache and "PANDO_SANITIZE:STRING=\n" in cache
