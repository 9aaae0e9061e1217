"""An independent model of a ledger, for the test scripts (Python 3, standard library only): the bytes that go over the
node's socket, and what transactions do. It shares nothing with the node but the documents.

Wire speaks the protocol of node/protocol.h by hand: nng's SP framing on a Unix socket (8 bytes of handshake; then 0x01,
length as u64 big-endian, payload; the payload of REQ begins with a request id whose high bit is set), in it requests
and replies. A connection that ends raises Broken, an error in a reply Refused with its status.

Transaction is a list of operations with an id and an expiry; it encodes itself as in node/transaction.h. State is a
dictionary of entries to which transactions are applied in the order of their receipts; every result of every receipt is
compared with what the model gets, and a scan of the node with the whole dictionary. The model knows put, unset and add,
all that the tests submit.
"""
import json
import os
import socket
import struct
import time

SUBMIT, IMPORT, GET, SCAN, COUNT, ROOT, HEADER, DIFF, RECEIPT = range(1, 10)
STATUS_NAMES = ("OK NOT_FOUND EXISTS INVALID TOO_LARGE TYPE BUSY TIMEOUT CLOSED GONE CONFLICT FULL NO_MEMORY NO_IDS "
                "NO_READERS IO DAMAGED FOREIGN VERSION LOCKED").split()
CODES = ("OK EXISTS NOT_FOUND BELOW_MIN ABOVE_MAX OVERFLOW TYPE MISMATCH RESULTS_TOO_LARGE MALFORMED TOO_LARGE "
         "BAD_SIGNATURE FORBIDDEN EXPIRED BUSY NOT_LEADER").split()
HEAD = (1 << 64) - 1
HANDSHAKE = bytes([0, ord("S"), ord("P"), 0, 0, 48, 0, 0])
WINDOW_MS = 600000


class Broken(Exception):
    """The connection ended, or never began."""


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__("%s: %s" % (status, text))
        self.status = status


class Wire:
    """One connection to a node, one request at a time."""

    def __init__(self, directory, seconds=60):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds)
        self.number = 0
        try:
            self.socket.connect(str(directory) + "/pando.ipc")
            self.socket.sendall(HANDSHAKE)
            answer = self.take(8)
        except OSError as error:
            self.close()
            raise Broken(str(error))
        if answer != HANDSHAKE[:5] + b"\x31\0\0":
            self.close()
            raise Broken("the handshake was answered by %r" % answer)

    def take(self, size):
        parts = bytearray()
        while len(parts) < size:
            part = self.socket.recv(size - len(parts))
            if not part:
                raise Broken("the connection ended")
            parts += part
        return bytes(parts)

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Broken(str(error))

    def receive(self):
        """The payload of one message, behind the request id."""
        try:
            kind, size = struct.unpack(">BQ", self.take(9))
            payload = self.take(size)
        except OSError as error:
            raise Broken(str(error))
        if kind != 1 or struct.unpack(">I", payload[:4])[0] != self.number | 0x80000000:
            raise Broken("a message that is no reply")
        return payload[4:]

    def frame(self, request):
        self.number += 1
        return struct.pack(">BQI", 1, len(request) + 4, self.number | 0x80000000) + request

    def ask(self, verb, body=b""):
        self.send_raw(self.frame(struct.pack("<HB", 1, verb) + body))
        return open_reply(self.receive())

    def submit(self, transactions):
        """[(code, receipt or line)] in the order of the transactions."""
        body = struct.pack("<I", len(transactions))
        body += b"".join(struct.pack("<I", len(tx.encoded)) + tx.encoded for tx in transactions)
        reply, answers, at = self.ask(SUBMIT, body), [], 4
        for _ in range(struct.unpack_from("<I", reply)[0]):
            code, size = struct.unpack_from("<BI", reply, at)
            answers.append((CODES[code], reply[at + 5:at + 5 + size]))
            at += 5 + size
        if at != len(reply) or len(answers) != len(transactions):
            raise Broken("a reply to submit of another length")
        return answers

    def import_blocks(self, blocks):
        """How many of the encoded blocks are there now, new or not; Refused if one is not taken."""
        body = struct.pack("<BQI", 0, 0, len(blocks)) + b"".join(struct.pack("<I", len(block)) + block for block in blocks)
        reply, at = self.ask(IMPORT, body), 4
        for _ in range(struct.unpack_from("<I", reply)[0]):
            status, size = reply[at], struct.unpack_from("<H", reply, at + 27)[0]
            if status:
                raise Refused(STATUS_NAMES[status], reply[at + 29:at + 29 + size].decode())
            at += 29 + size
        if at != len(reply):
            raise Broken("a reply to import of another length")
        return len(blocks)

    def receipt(self, tx_id):
        """The bytes of a receipt, or None."""
        try:
            return self.ask(RECEIPT, tx_id)
        except Refused as refused:
            if refused.status != "NOT_FOUND":
                raise
            return None

    def root(self, height=HEAD):
        """(height, digest, entries)"""
        reply = self.ask(ROOT, struct.pack("<Q", height))
        return struct.unpack_from("<Q", reply)[0], reply[8:40].hex(), struct.unpack_from("<Q", reply, 40)[0]

    def scan(self, height=HEAD):
        """(height, {key: amount or bytes}) of the whole state."""
        entries, last = {}, None
        while True:
            flags = 0 if last is None else 2
            start = b"" if last is None else last + b"\0"
            if len(start) > 1024:
                raise AssertionError("the model pages behind short keys only")
            body = struct.pack("<QBH", height, flags, len(start)) + start + struct.pack("<HI", 0, 0)
            reply = self.ask(SCAN, body)
            height, more, count = struct.unpack_from("<QBI", reply)
            at = 13
            for _ in range(count):
                size = struct.unpack_from("<H", reply, at)[0]
                last = reply[at + 2:at + 2 + size]
                at += 2 + size
                tag, size = struct.unpack_from("<BI", reply, at)
                value = reply[at + 5:at + 5 + size]
                entries[last] = int.from_bytes(value, "little", signed=True) if tag == 1 else value
                at += 5 + size
            if not more:
                return height, entries

    def close(self):
        self.socket.close()


def open_reply(payload):
    if len(payload) < 3 or payload[:2] != b"\1\0":
        raise Broken("a reply that is none: %r" % payload[:40])
    if payload[2] == 0:
        return payload[3:]
    size = struct.unpack_from("<H", payload, 3)[0]
    raise Refused(STATUS_NAMES[payload[2]], payload[5:5 + size].decode())


class Transaction:
    """operations: ("put", key, bytes) | ("unset", key) | ("add", key, amount) | ("read", key)"""

    def __init__(self, operations, in_block=False):
        self.operations = operations
        self.id = bytes(16) if in_block else os.urandom(16)
        expires = 0 if in_block else int(time.time() * 1000) + WINDOW_MS * 9 // 10
        parts = [b"\1", self.id, struct.pack("<QI", expires, len(operations))]
        for name, key, *rest in operations:
            kind = {"put": 1, "unset": 5, "add": 7, "read": 11}[name]
            parts.append(struct.pack("<BH", kind, len(key)) + key)
            if name == "put":
                parts.append(struct.pack("<BI", 0, len(rest[0])) + rest[0])
            elif name == "add":
                parts.append(b"\0" + rest[0].to_bytes(16, "little", signed=True))
        self.encoded = b"".join(parts)


class Receipt:
    def __init__(self, data):
        (version, self.id, _, self.height, self.index, code, _, results) = struct.unpack_from("<B16sQQIBIH", data)
        assert version == 1
        self.code, self.results, at = CODES[code], [], 44
        for _ in range(results):
            assert data[at] == 2, "only add has a result here"
            self.results.append(int.from_bytes(data[at + 1:at + 17], "little", signed=True))
            at += 17
        assert at == len(data), "a receipt of another length"


class State:
    def __init__(self):
        self.entries = {}

    def apply(self, operations):
        """The results, in the order of the operations that have one."""
        results = []
        for name, key, *rest in operations:
            if name == "put":
                self.entries[key] = rest[0]
            elif name == "unset":
                self.entries.pop(key, None)
            else:
                self.entries[key] = self.entries.get(key, 0) + rest[0]
                results.append(self.entries[key])
        return results


def encode_block(height, transactions):
    """transactions: lists of operations"""
    encoded = [Transaction(operations, True).encoded for operations in transactions]
    return (struct.pack("<BQQHI", 1, height, 0, 0, len(encoded)) +
            b"".join(struct.pack("<I", len(tx)) + tx for tx in encoded))


def block_line(height, operations):
    """A line of a block file; several transactions if operations is a list of lists."""
    def field(operation):
        name, key, *rest = operation
        fields = {"op": name, "key_hex": key.hex()}
        if name == "put":
            fields["value_hex"] = rest[0].hex()
        elif name == "add":
            fields["amount"] = str(rest[0])
        return fields
    if operations and isinstance(operations[0], list):
        body = {"height": height, "txs": [{"ops": [field(o) for o in ops]} for ops in operations]}
    else:
        body = {"height": height, "ops": [field(o) for o in operations]}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"
