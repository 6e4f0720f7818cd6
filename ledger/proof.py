"""Proofs for third parties: one file that shows, offline, that an entry is certified (C2SP tlog-proof).

    c2sp.org/tlog-proof@v1
    extra <base64>          the entry; in a run's log, then a newline and its entry 0, which names the leaders
    index <decimal>
    <base64 hash>           the inclusion path, a line each
    (an empty line)
    <the certificate>

`extra` is not signed, so nothing in it is believed: the entry must hash to the certified root, entry 0 to the run's id.

Pure: no IO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from . import notes
from .codec import MAX_BYTES, b64decode, b64encode, decimal
from .entries import Begin, Entry, run_id
from .entries import parse as parse_entry
from .errors import CodecInvalid, EntryInvalid, LedgerError, NoteInvalid, ProofInvalid, QuorumMissing
from .genesis import Genesis
from .merkle import leaf_hash, verify_inclusion
from .notes import Note
from .receipt import AnyReceipt

FIRST_LINE = "c2sp.org/tlog-proof@v1"
"""What every such file begins with."""
MAX_PATH = 63
"""The longest inclusion path that is read."""
MAX_FILE = notes.MAX_BYTES + (2 * MAX_BYTES + 1) * 4 // 3 + MAX_PATH * 45 + 200
"""The longest file that is read, in bytes."""


class Inclusion(Protocol):
    """What a store knows of a certified entry; a `Proof` has the same."""

    @property
    def index(self) -> int:
        """The entry's place in its log."""

    @property
    def path(self) -> Sequence[bytes]:
        """The inclusion path."""

    @property
    def note(self) -> bytes:
        """The certificate."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A proof as read: well formed, but nothing in it is checked."""

    entry: bytes
    """The entry's bytes."""
    begin: bytes
    """Entry 0 of the run's log; empty for an account's log."""
    index: int
    """The entry's place in its log."""
    path: tuple[bytes, ...]
    """The inclusion path."""
    note: bytes
    """The certificate."""


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What a proof proves."""

    entry: Entry
    """The entry; a receipt's own signature was verified too."""
    leaf: str
    """Its leaf hash in hex."""
    index: int
    """Its place in the log."""
    origin: str
    """The log."""
    owner: str
    """Whose log it is: an account, or "run/<run id>"."""
    size: int
    """The certified size."""
    root: str
    """The certified root in hex."""
    writer: str
    """The account that signed the certified head: the owner, or a leader of the run."""
    begin: Begin | None
    """What the run is; None in an account's log."""
    witnessed: tuple[tuple[str, int], ...]
    """The witnesses that cosigned, each with the time that it gives, in seconds since 1970."""


def write(inclusion: Inclusion, entry: bytes, begin: bytes = b"") -> bytes:
    """The file that proves an entry; `begin` is entry 0 of the log of a run, empty for an account's log."""
    extra = entry + (b"\n" + begin if begin else b"")
    lines = [FIRST_LINE, f"extra {b64encode(extra)}", f"index {inclusion.index}", *map(b64encode, inclusion.path)]
    return "".join(f"{line}\n" for line in lines).encode() + b"\n" + inclusion.note


def parse(data: bytes) -> Proof:
    """Read a proof strictly.

    Raises:
        ProofInvalid: it is not such a file.
    """
    if len(data) > MAX_FILE:
        raise ProofInvalid(f"the proof has {len(data)} bytes, at most {MAX_FILE} are read")
    head, gap, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as exc:
        raise ProofInvalid("the lines before the checkpoint are not ASCII") from exc
    if lines[0] != FIRST_LINE:
        raise ProofInvalid(f"the first line is {lines[0][:60]!r}, wanted {FIRST_LINE!r}")
    if len(lines) < 3 or not lines[1].startswith("extra "):
        raise ProofInvalid("the second line is not 'extra …'; without it the proof does not hold the entry")
    if not lines[2].startswith("index ") or not gap:
        raise ProofInvalid("after 'extra' come 'index', the path and, after an empty line, the checkpoint")
    if len(lines) - 3 > MAX_PATH:
        raise ProofInvalid(f"the path has {len(lines) - 3} hashes, at most {MAX_PATH} are read")
    try:
        entry, _, begin = b64decode(lines[1][6:]).partition(b"\n")
        index = decimal(lines[2][6:] or "?")
        path = tuple(b64decode(line) for line in lines[3:])
        notes.checkpoint(notes.parse(note))
    except (CodecInvalid, NoteInvalid) as exc:
        raise ProofInvalid(f"the proof is malformed: {exc.message}") from exc
    if any(len(item) != 32 for item in path):
        raise ProofInvalid("the path holds something that is not a hash of 32 bytes")
    return Proof(entry=entry, begin=begin, index=index, path=path, note=note)


def check(proof: Proof, genesis: Genesis) -> Proven:
    """What the proof proves to somebody who trusts a quorum of this genesis's witnesses.

    Raises:
        ProofInvalid, QuorumMissing: it proves nothing; the message says what fails.
    """
    note = notes.parse(proof.note)
    head = notes.checkpoint(note)
    try:
        owner = genesis.terms.owner(head.origin)
        entry = parse_entry(proof.entry)
        begin = _begin(proof, owner)
        writer = notes.verify_head(note, begin.leaders if begin else (owner,))
    except LedgerError as exc:
        raise ProofInvalid(f"{head.origin[:160]} entry {proof.index}: {exc.message}") from exc
    witnessed = _witnessed(note, genesis)
    if len(witnessed) < genesis.quorum:
        got = f"cosigned by {', '.join(name for name, _ in witnessed) or 'no witness of this network'}"
        raise QuorumMissing(f"{head.origin} at {head.size}: {got}, wanted {genesis.quorum} of {len(genesis.witnesses)}")
    leaf = leaf_hash(proof.entry)
    verify_inclusion(leaf, proof.index, head.size, proof.path, head.root)
    if isinstance(entry, AnyReceipt):
        _check_receipt(entry, genesis, owner)
    return Proven(
        entry=entry, leaf=leaf.hex(), index=proof.index, origin=head.origin, owner=owner, size=head.size,
        root=head.root.hex(), writer=writer, begin=begin, witnessed=witnessed,
    )  # fmt: skip


def _begin(proof: Proof, owner: str) -> Begin | None:
    """What the run is, shown by its id alone."""
    if not owner.startswith("run/"):
        if proof.begin:
            raise ProofInvalid("there is a second entry in 'extra', wanted only the one: this is an account's log")
        return None
    begin = parse_entry(proof.begin) if proof.begin else None
    if not isinstance(begin, Begin):
        raise ProofInvalid("'extra' lacks the run's entry 0, which names who may sign its log")
    if "run/" + run_id(begin.spec) != owner:
        raise EntryInvalid(rule="run id", got=run_id(begin.spec), wanted=owner.removeprefix("run/"), index=0)
    return begin


def _witnessed(note: Note, genesis: Genesis) -> tuple[tuple[str, int], ...]:
    try:
        times = [(name, notes.cosigned_at(note, name, public)) for name, public in genesis.witnesses]
    except NoteInvalid as exc:
        raise ProofInvalid(exc.message) from exc
    return tuple((name, time_s) for name, time_s in times if time_s is not None)


def _check_receipt(receipt: AnyReceipt, genesis: Genesis, owner: str) -> None:
    if (receipt.network, f"run/{receipt.run}") != (genesis.id, owner):
        got = f"run {receipt.run[:16]}… of network {receipt.network[:16]}…"
        raise ProofInvalid(f"the receipt is for {got}, wanted {owner[:20]}… of {genesis.id[:16]}…")
    try:
        receipt.verify()
    except LedgerError as exc:
        raise ProofInvalid(exc.message) from exc
