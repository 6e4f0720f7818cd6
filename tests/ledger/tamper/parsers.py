"""What reads bytes of strangers, with examples to begin from, and the judgement of one input.

An input is either refused with a `LedgerError` or read; what is read and has a canonical form gives its bytes back. In
memory nothing takes more than a fixed multiple of the input.

IO: one file for keys, one folder for archives, where they are told to.
"""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ledger import certificates, codec, entries, evidence, notes, proof, tiles
from ledger.archive import exporting as archive
from ledger.archive import importing as archived
from ledger.errors import LedgerError
from ledger.evidence import Evidence
from ledger.genesis import Genesis, parse_network
from ledger.keys import PrivateKey
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Note
from ledger.store.store import Inclusion, Store

from .file import spoil
from .kit import ALICE, ALICE_LOG, BOB, DATA, GENESIS, LOGS, RUN_LOG, WITNESSES, certificate, head

FACTOR, BASE = 300, 1 << 20
"""A parser may take this many bytes for each of its input, and so many more."""

_WHOLE = certificate(RUN_LOG, DATA[RUN_LOG], WITNESSES)
_NOTES = tuple(certificate(origin, log) for origin, log in DATA.items())
_FORK = [LOGS[ALICE_LOG][1], *LOGS[ALICE_LOG]]
_TREE = Tree([leaf_hash(data) for data in DATA[RUN_LOG]])


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One way in."""

    name: str
    """What it reads."""
    read: Callable[[bytes], object]
    """Reads it, and does with it what can be done without asking anybody."""
    corpus: tuple[bytes, ...]
    """Good examples."""
    again: Callable[[object], bytes] | None = None
    """Writes it, where what is read has one form only."""


def _note(data: bytes) -> Note:
    note = notes.parse(data)
    for act in (
        lambda: notes.checkpoint(note), lambda: notes.verify_head(note, [ALICE.public, BOB.public]),
        lambda: GENESIS.cosigners(note), lambda: notes.combine(data, [b"line", *map(_line, note.signatures)]),
        lambda: notes.combine(_WHOLE, [data, *map(_line, note.signatures)]),
    ):  # fmt: skip
        _refusing(act)
    return note


def _line(signature: notes.Signature) -> bytes:
    return signature.line()


def _refusing(act: Callable[[], object]) -> None:
    try:
        act()
    except LedgerError:
        pass


def _proof(data: bytes) -> proof.Proof:
    found = proof.parse(data)
    _refusing(lambda: proof.check(found, GENESIS))
    return found


def _proof_again(found: object) -> bytes:
    assert isinstance(found, proof.Proof)
    return proof.write(found, found.entry, found.begin)


def _evidence(data: bytes) -> Evidence:
    found = Evidence.parse(data)
    _refusing(lambda: evidence.verify(found, GENESIS.terms))
    _refusing(lambda: evidence.verify_split(found, GENESIS))
    return found


def _entry(data: bytes) -> entries.Entry:
    found = entries.parse(data)
    if isinstance(found, entries.Receipt):
        _refusing(found.verify)
    return found


def _proofs() -> tuple[bytes, ...]:
    def one(origin: str, index: int) -> bytes:
        tree, log = Tree([leaf_hash(data) for data in DATA[origin]]), DATA[origin]
        note = certificate(origin, log)
        path = tuple(tree.inclusion_proof(index, len(log)))
        found = Inclusion(index=index, size=len(log), leaf=tree.node(0, index), path=path, note=note)
        return proof.write(found, log[index], log[0] if origin == RUN_LOG else b"")

    return one(ALICE_LOG, 0), one(RUN_LOG, 5), one(RUN_LOG, 0)


def _forks() -> tuple[bytes, ...]:
    tree = Tree([leaf_hash(entry.encode()) for entry in _FORK])
    first, second = head(ALICE_LOG, DATA[ALICE_LOG]), head(ALICE_LOG, _FORK)
    return (evidence.build(tree, first, second).encode(),)


def parsers(folder: Path) -> list[Parser]:
    """All of them; key files are written into the folder."""
    network = json.dumps({"genesis": json.loads(GENESIS.encode()), "bootstrap": ["/ip4/127.0.0.1/tcp/1"]}).encode()
    file = folder / "fuzzed.key"
    key = b"p2p-llm-forge ed25519 " + b"ab" * 32 + b"\n"
    all_entries = tuple(data for log in DATA.values() for data in log)

    def load(data: bytes) -> PrivateKey:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
        return PrivateKey.load(file)

    return [
        Parser(name="json", read=codec.decode, corpus=all_entries, again=codec.encode),  # type: ignore[arg-type]
        Parser(name="entry", read=_entry, corpus=all_entries, again=lambda found: found.encode()),  # type: ignore[attr-defined]
        Parser(name="note", read=_note, corpus=_NOTES, again=lambda found: found.encode()),  # type: ignore[attr-defined]
        Parser(name="genesis", read=Genesis.parse, corpus=(GENESIS.encode(),), again=lambda found: found.encode()),  # type: ignore[attr-defined]
        Parser(name="network", read=parse_network, corpus=(network, GENESIS.encode())),
        Parser(name="bundle", read=tiles.parse_bundle, corpus=tuple(map(tiles.write_bundle, DATA.values())),
               again=tiles.write_bundle),  # type: ignore[arg-type]
        Parser(name="certificates", read=certificates.parse, corpus=(*_NOTES, b"\n".join(_NOTES))),
        Parser(name="proof", read=_proof, corpus=_proofs(), again=_proof_again),
        Parser(name="evidence", read=_evidence, corpus=_forks(), again=lambda found: found.encode()),  # type: ignore[attr-defined]
        Parser(name="key", read=load, corpus=(key,)),
    ]  # fmt: skip


def judge(parser: Parser, data: bytes, *, memory: bool = False) -> str:
    """What is wrong with how this input was met; empty where nothing is.

    Args:
        parser: what reads it.
        data: the input.
        memory: measure memory, too; many times slower.
    """
    if memory:
        tracemalloc.start()
    try:
        try:
            found = parser.read(data)
        except LedgerError as exc:
            return "" if exc.message.isprintable() else f"a message that is not one printable line: {exc.message!r}"
        if parser.again is not None and parser.again(found) != data:
            return "read, but not what would be written"
        return ""
    except Exception as exc:  # noqa: BLE001 - any other exception is what we look for
        return f"{type(exc).__name__}: {exc}"
    finally:
        if memory:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak <= FACTOR * len(data) + BASE, f"{parser.name}: {peak} bytes of memory for {len(data)}"


TOKENS = [
    b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\u0000", b"\\ud800", b"null", b"true", b"-1", b"1e9", b"0.5", b"NaN",
    b"9007199254740992", b"0" * 40, b"9" * 5000, b"[" * 3000, b'{"a":' * 200, b"\n", b"\n\n", "— ".encode(), b"+", b"=",
    b"AAAA", b" ", b"\xff", b"\x00", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xe2\x80\xa8", "é".encode(), "３".encode(),
    b"\\n", b"\\r\\u001b[2J", b"\\u0007", b'"type":', b'"send"', b'"receipt"', b"run/", b"extra ",
    b"index ", b"c2sp.org/tlog-proof@v1\n", b"\xff\xff",
]  # fmt: skip


def mutate(rng: Random, parser: Parser) -> bytes:
    """An input made of the parser's examples and of what is awkward in its grammar."""
    data = rng.choice(parser.corpus)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at, draw = rng.randrange(len(data) + 1), rng.random()
        if draw < 0.45:
            data = spoil(rng, data)
        elif draw < 0.65:
            data = data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]
        elif draw < 0.75:
            other = rng.choice(parser.corpus)
            data = data[:at] + other[rng.randrange(len(other)) :]
        elif draw < 0.85:
            end = rng.randrange(at, len(data) + 1)
            data = data[:at] + data[at:end] * rng.choice((0, 2, 3, 20)) + data[end:]
        elif draw < 0.95:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
        else:
            data = data[:at]
    return data[: 1 << 18]


def archives(folder: Path, rng: Random) -> Iterator[str]:
    """Exports the certified ledger once, then changes files of the export and imports it; what is wrong each time."""
    with Store.open(folder / "sound.db", GENESIS, create=True) as store:
        for origin, log in DATA.items():
            store.accept(origin, 0, log, certificate(origin, log))
        archive.export(store, folder / "sound")
        wanted = store.ledger()
    names = sorted(path for path in (folder / "sound").rglob("*") if path.is_file())
    while True:
        path = rng.choice(names)
        before, wrong = path.read_bytes(), ""
        path.write_bytes(spoil(rng, before) if rng.random() < 0.8 else rng.choice(names).read_bytes())
        try:
            archived.import_archive(folder / "sound", folder / "imported.db")
            with Store.open(folder / "imported.db", GENESIS) as store:
                wrong = "" if store.ledger() == wanted else "other balances were imported"
        except LedgerError:
            pass
        except Exception as exc:  # noqa: BLE001 - any other exception is what we look for
            wrong = f"{type(exc).__name__}: {exc}"
        path.write_bytes(before)
        for left in folder.glob("*imported.db*"):
            left.unlink()
        yield f"{path.name}: {wrong}" if wrong else ""
