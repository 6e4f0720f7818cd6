"""The worked example of docs/ledger.md, computed from its seeds with hashlib, json and Ed25519 alone.

This is the page as a program: it uses nothing of the `ledger` package, so the page, this recipe and the package must
all three agree. `example()` gives the blocks of the page by their labels.

Pure: no IO.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAMES = ("alice", "bob", "w1", "w2", "w3", "w4")
TEXTS = {"model": b"{}\n", "tokenizer": b"bytes\n", "manifest": b"[]\n", "state": b"state 0\n"}
MORE = {"state after round 1": b"state 1\n", "update": b"update\n"}
TIMES = {"w1": 1767225600, "w2": 1767225601, "w3": 1767225602}
"""When each witness cosigned, in seconds since 1970."""
RECEIPT, SETTLE = 3, 4
"""Indices in the run's log."""
CLOSE = 5
"""The run's last entry."""


def canonical(value: Any) -> bytes:
    """The one spelling of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def b64(data: bytes) -> str:
    """Standard padded base64."""
    return base64.b64encode(data).decode()


def leaf(entry: bytes) -> bytes:
    """RFC 6962: the hash of an entry."""
    return sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    """RFC 6962: the hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below the size."""
    return 1 << (size - 1).bit_length() - 1


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1."""
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(root(leaves[:k]), root(leaves[k:]))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1: the inclusion proof."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), root(leaves[k:])]
    return [*path(index - k, leaves[k:]), root(leaves[:k])]


def blob(data: bytes) -> str:
    """The id of a blob of at most 1 MiB: one chunk, so its root is that chunk's leaf hash."""
    return f"{leaf(data).hex()}-{len(data)}"


class Key:
    """A key pair from a seed of 32 equal bytes."""

    def __init__(self, number: int) -> None:
        self.seed = bytes([number]) * 32
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.raw = self.private.public_key().public_bytes_raw()
        self.public = self.raw.hex()

    def id(self, name: str, algorithm: bytes) -> bytes:
        """C2SP signed-note: the key id."""
        return sha256(name.encode() + b"\n" + algorithm + self.raw).digest()[:4]


KEYS = {name: Key(number) for number, name in enumerate(NAMES, 1)}


def line(name: str, key_id: bytes, blob: bytes) -> str:
    """C2SP signed-note: a signature line."""
    return f"— {name} {b64(key_id + blob)}\n"


def checkpoint(origin: str, log: Sequence[bytes]) -> str:
    """C2SP tlog-checkpoint: the text of a head."""
    return f"{origin}\n{len(log)}\n{b64(root([leaf(entry) for entry in log]))}\n"


def head(origin: str, log: Sequence[bytes], key: Key) -> str:
    """A checkpoint signed by a writer of the log."""
    text = checkpoint(origin, log)
    return text + "\n" + line(origin, key.id(origin, b"\x01"), key.private.sign(text.encode()))


def cosigned(text: str, time: int) -> str:
    """C2SP tlog-cosignature: what a witness signs."""
    return f"cosignature/v1\ntime {time}\n{text}"


def cosignature(text: str, name: str) -> str:
    """C2SP tlog-cosignature: a witness's line."""
    key, time = KEYS[name], TIMES[name]
    signature = key.private.sign(cosigned(text, time).encode())
    return line(name, key.id(name, b"\x04"), time.to_bytes(8, "big") + signature)


class Network:
    """The network, its run and its logs."""

    def __init__(self) -> None:
        self.alice, self.bob = KEYS["alice"], KEYS["bob"]
        self.genesis = canonical({
            "f": 1, "issuers": [], "name": "example", "rules": 1, "supply": [[self.alice.public, 1_000_000]],
            "witnesses": [[name, KEYS[name].public] for name in NAMES[2:]],
        })  # fmt: skip
        self.id = sha256(self.genesis).hexdigest()
        self.blobs = {name: blob(data) for name, data in TEXTS.items()}
        self.more = {name: blob(data) for name, data in MORE.items()}
        self.spec = {
            "blobs": self.blobs, "config": {}, "leaders": [self.alice.public], "name": "tiny", "nonce": "0" * 32,
            "price": 1_000_000, "rounds": 1, "slots_per_epoch": 100, "submitter": self.alice.public,
            "tokens_per_slot": 64, "version": 1,
        }  # fmt: skip
        self.run = sha256(canonical(self.spec)).hexdigest()
        prefix = f"p2p-llm-forge/{self.id[:16]}/"
        self.alice_log, self.bob_log = prefix + self.alice.public, prefix + self.bob.public
        self.run_log = f"{prefix}run/{self.run}"
        self.sent = [canonical({"amount": 1000, "memo": "fund", "to": f"run/{self.run}", "type": "send"})]
        self.entries = self._entries()
        self.claim = [self.recv(self.run_log, SETTLE, self.entries)]
        self.refund = self.recv(self.run_log, CLOSE, self.entries)
        self.fork = [canonical({"amount": 1000, "memo": memo, "to": self.bob.public, "type": "send"}) for memo in "ab"]

    def recv(self, origin: str, index: int, log: Sequence[bytes]) -> bytes:
        """The claim on a log as it stands, up to an entry."""
        found = root([leaf(entry) for entry in log]).hex()
        return canonical({"index": index, "origin": origin, "root": found, "size": len(log), "type": "recv"})

    def receipt_body(self) -> dict[str, Any]:
        """Bob's receipt without its signature."""
        return {
            "account": self.bob.public, "leaves": "cd" * 32, "loss": 3_000_000, "network": self.id, "round": 1,
            "run": self.run, "slots": [0, 1], "state_in": self.blobs["state"], "steps": 5, "tokens": 64,
            "type": "receipt", "update": self.more["update"],
        }  # fmt: skip

    def receipt_input(self) -> bytes:
        """What Bob signs."""
        return b"p2p-llm-forge/receipt/v1\n" + canonical(self.receipt_body())

    def _entries(self) -> list[bytes]:
        after = self.more["state after round 1"]
        signature = self.bob.private.sign(self.receipt_input()).hex()
        roster = [[self.bob.public, 0, 2]]
        return [
            canonical({"spec": self.spec, "type": "begin"}),
            self.recv(self.alice_log, 0, self.sent),
            canonical({"roster": roster, "round": 1, "state": self.blobs["state"], "type": "open"}),
            canonical({**self.receipt_body(), "signature": signature}),
            canonical({"receipts": [RECEIPT], "round": 1, "state": after, "type": "settle", "validation": []}),
            canonical({"reason": "all rounds done", "state": after, "type": "close"}),
        ]


def example() -> dict[str, str]:
    """Every block of the page, by its label, in the page's order."""
    net = Network()
    return {**_network(net), **_logs(net), **_certificate(net), **_proof(net), **_evidence(net)}


def _network(net: Network) -> dict[str, str]:
    ids = {**net.blobs, **net.more}
    texts = {**TEXTS, **MORE}
    return {
        "keys": _table((name, key.seed.hex(), key.public) for name, key in KEYS.items()),
        "genesis": net.genesis.decode(),
        "network id": net.id,
        "blobs": _table((name, json.dumps(texts[name].decode()), found) for name, found in ids.items()),
        "spec": canonical(net.spec).decode(),
        "run id": net.run,
        "origins": _table((("Alice", net.alice_log), ("Bob", net.bob_log), ("run", net.run_log))),
    }


def _logs(net: Network) -> dict[str, str]:
    run = [leaf(entry) for entry in net.entries]
    return {
        "alice 0": net.sent[0].decode(),
        "alice 0 leaf hash": leaf(net.sent[0]).hex(),
        "run 0": net.entries[0].decode(),
        "run 1": net.entries[1].decode(),
        "run 2": net.entries[2].decode(),
        "receipt input": net.receipt_input().decode(),
        "receipt signature": json.loads(net.entries[RECEIPT])["signature"],
        "run 3": net.entries[3].decode(),
        "run 4": net.entries[4].decode(),
        "run 5": net.entries[5].decode(),
        "run leaf hashes": _table((str(index), found.hex()) for index, found in enumerate(run)),
        "run roots": _table((str(size), root(run[:size]).hex()) for size in range(1, len(run) + 1)),
        "bob 0": net.claim[0].decode(),
        "alice 1": net.refund.decode(),
        "money": _money(net),
    }


def _money(net: Network) -> str:
    """Every movement in micro-credits; the price is one per token."""
    quota, used = 2 * 64, 64
    left = 1000 - quota
    back = left + quota - used
    rows = [
        ("alice 0", "send", f"Alice 1000000 - 1000 = {1_000_000 - 1000}"),
        ("run 1", "recv", "run 0 + 1000 = 1000"),
        ("run 2", "open", f"run 1000 - {quota} = {left}, reserved {quota}"),
        ("run 4", "settle", f"run {left} + {quota} - {used} = {back}, owed to Bob {used}, reserved 0"),
        ("run 5", "close", f"run {back} - {back} = 0, owed to Alice {back}"),
        ("bob 0", "recv", f"Bob 0 + {used} = {used}"),
        ("alice 1", "recv", f"Alice {1_000_000 - 1000} + {back} = {1_000_000 - 1000 + back}"),
    ]
    return _table(rows)


def _certificate(net: Network) -> dict[str, str]:
    text, key = checkpoint(net.run_log, net.entries), net.alice
    return {
        "head text": text,
        "log key id input": (net.run_log.encode() + b"\n\x01" + key.raw).hex(),
        "log key id": key.id(net.run_log, b"\x01").hex(),
        "head signature": key.private.sign(text.encode()).hex(),
        "head": head(net.run_log, net.entries, key),
        "witness key ids": _table((name, KEYS[name].id(name, b"\x04").hex()) for name in NAMES[2:]),
        "cosignature input": cosigned(text, TIMES["w1"]),
        "cosignatures": "".join(cosignature(text, name) for name in TIMES),
        "certificate": certificate(net.run_log, net.entries, key),
    }


def certificate(origin: str, log: Sequence[bytes], key: Key) -> str:
    """A head with the cosignatures of a quorum."""
    return head(origin, log, key) + "".join(cosignature(checkpoint(origin, log), name) for name in TIMES)


def _proof(net: Network) -> dict[str, str]:
    hashes = path(RECEIPT, [leaf(entry) for entry in net.entries])
    extra = net.entries[RECEIPT] + b"\n" + net.entries[0]
    return {
        "inclusion": _table((str(number), found.hex()) for number, found in enumerate(hashes)),
        "tlog-proof": f"c2sp.org/tlog-proof@v1\nextra {b64(extra)}\nindex {RECEIPT}\n"
        + "".join(b64(found) + "\n" for found in hashes)
        + "\n"
        + certificate(net.run_log, net.entries, net.alice),
        "bundle": b"".join(len(entry).to_bytes(2, "big") + entry for entry in net.sent).hex(),
    }


def _evidence(net: Network) -> dict[str, str]:
    """Alice signs her true log at 1 and another one, in which she spends the same credits, at 2."""
    other = [leaf(entry) for entry in net.fork]
    evidence = canonical({
        "begin": "", "first": head(net.alice_log, net.sent, net.alice), "proof": [other[1].hex()],
        "root": other[0].hex(), "second": head(net.alice_log, net.fork, net.alice),
    })  # fmt: skip
    return {
        "fork 0": net.fork[0].decode(),
        "fork 1": net.fork[1].decode(),
        "fork first": head(net.alice_log, net.sent, net.alice),
        "fork second": head(net.alice_log, net.fork, net.alice),
        "evidence": evidence.decode(),
    }


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    found = (" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in lines)
    return "\n".join(text.rstrip() for text in found)
