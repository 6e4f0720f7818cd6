"""Evidence: two signed heads that cannot both be prefixes of one log, in a form that any stranger checks offline.

Either one writer signed both (*equivocation*: the log is cosigned and appended to no more), or more than f witnesses
cosigned both (*split*: the network's assumption is broken). The smaller head is `first`; `proof` shows that the tree of
`second` has `root` at the size of `first`, and `root` is not the one that `first` states. The balances ignore evidence.

Pure: no IO.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from . import codec, entries, merkle, notes
from .errors import CodecInvalid, EntryInvalid, EvidenceInvalid, NoteInvalid, ProofInvalid
from .genesis import Genesis
from .merkle import Tree
from .notes import Note
from .rules import Terms
from .values import is_hex64

MAX_BYTES = 65536
"""The longest evidence that is read."""
MAX_PROOF = 64
"""The most hashes of a consistency proof: one or two per level of the tree."""
_KEYS = {"begin", "first", "proof", "root", "second"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Two heads that contradict each other, and why they do; `verify` tells whether it is true."""

    first: bytes
    """The smaller head as a note; of two equal sizes the one whose text comes first."""
    second: bytes
    """The other head."""
    root: bytes
    """The root at the size of `first` of the tree that `second` states, 32 bytes."""
    proof: tuple[bytes, ...] = ()
    """The consistency proof from that root to `second`; empty where the sizes are equal."""
    begin: bytes = b""
    """Entry 0 of a run's log, which names its writers; empty for an account's log."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return codec.encode({
            "begin": self.begin.decode(), "first": self.first.decode(), "proof": [item.hex() for item in self.proof],
            "root": self.root.hex(), "second": self.second.decode(),
        })  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> "Evidence":
        """The evidence with these canonical bytes; whether it proves anything is for `verify` to say.

        Raises:
            EvidenceInvalid: it is not one.
        """
        try:
            body = codec.decode(data, MAX_BYTES)
        except CodecInvalid as exc:
            raise EvidenceInvalid(f"evidence: {exc.message}") from exc
        if not isinstance(body, Mapping) or set(body) != _KEYS:
            got = ", ".join(sorted(body)) if isinstance(body, Mapping) else type(body).__name__
            raise EvidenceInvalid(f"evidence: keys are {got[:80]}, wanted {', '.join(sorted(_KEYS))}")
        first, second, begin, proof = body["first"], body["second"], body["begin"], body["proof"]
        if type(first) is not str or type(second) is not str or type(begin) is not str or type(proof) is not list:
            raise EvidenceInvalid("evidence: wanted strings first, second and begin, and an array proof")
        if len(proof) > MAX_PROOF:
            raise EvidenceInvalid(f"evidence: the proof has {len(proof)} hashes, at most {MAX_PROOF} are read")
        return cls(
            first=first.encode(), second=second.encode(), root=_hash(body["root"]),
            proof=tuple(_hash(item) for item in proof), begin=begin.encode(),
        )  # fmt: skip


def build(tree: Tree, first: bytes, second: bytes, begin: bytes = b"") -> Evidence:
    """The evidence that one writer signed both heads, in either order; `tree` is that of the larger one.

    Raises:
        EvidenceInvalid: they do not contradict each other, or no writer signed both; NoteInvalid: not heads.
    """
    pair = [notes.parse(first), notes.parse(second)]
    origin, key = _signer(pair, begin)
    found = _between(tree, [_only(note, {(origin, notes.log_key_id(origin, key))}) for note in pair], begin)
    _contradiction(found)
    return found


def build_split(tree: Tree, first: bytes, second: bytes, genesis: Genesis) -> Evidence:
    """The evidence that more than f witnesses cosigned both heads, in either order; `tree` is that of the larger one.

    Raises:
        EvidenceInvalid: they do not contradict each other, or f or fewer did; NoteInvalid: not heads.
    """
    pair = [notes.parse(first), notes.parse(second)]
    both = _cosigners_of_both(pair, genesis)
    ids = {(name, notes.witness_key_id(name, public)) for name, public in genesis.witnesses if name in both}
    found = _between(tree, [_only(note, ids) for note in pair], b"")
    verify_split(found, genesis)
    return found


def verify(evidence: Evidence, terms: Terms) -> tuple[str, str]:
    """Check that one writer of a log of this network signed two heads that contradict each other.

    Returns:
        The log's origin and the writer's key.

    Raises:
        EvidenceInvalid: it proves nothing.
    """
    pair = _contradiction(evidence)
    _check_network(pair, terms)
    origin, key = _signer(pair, evidence.begin)
    _check_lines(pair, {(origin, notes.log_key_id(origin, key))})
    return origin, key


def verify_split(evidence: Evidence, genesis: Genesis) -> tuple[str, tuple[str, ...]]:
    """Check that more than f witnesses of this network cosigned two heads that contradict each other.

    Returns:
        The log's origin and the names of the witnesses.

    Raises:
        EvidenceInvalid: it proves nothing.
    """
    pair = _contradiction(evidence)
    origin = _check_network(pair, genesis.terms)
    if evidence.begin:
        raise EvidenceInvalid("evidence: begin is given, wanted none where witnesses are accused")
    try:
        both = _cosigners_of_both(pair, genesis)
    except NoteInvalid as exc:
        raise EvidenceInvalid(f"evidence: {exc.message}") from exc
    if len(both) <= genesis.f:
        got = f"cosigned both by {', '.join(both) or 'nobody'}"
        raise EvidenceInvalid(f"evidence about {origin}: {got}, wanted more than {genesis.f} witnesses")
    _check_lines(pair, {(name, notes.witness_key_id(name, key)) for name, key in genesis.witnesses if name in both})
    return origin, both


def _between(tree: Tree, pair: Sequence[Note], begin: bytes) -> Evidence:
    """The evidence about two notes, the smaller first."""
    first, second = sorted(pair, key=_order)
    small, large = notes.checkpoint(first), notes.checkpoint(second)
    root, proof = large.root, []
    if small.size != large.size:
        if not 0 < small.size < large.size <= tree.size or tree.root(large.size) != large.root:
            raise EvidenceInvalid(f"evidence about {large.origin}: the tree is not that of the head at {large.size}")
        root, proof = tree.root(small.size), tree.consistency_proof(small.size, large.size)
    return Evidence(first=first.encode(), second=second.encode(), root=root, proof=tuple(proof), begin=begin)


def _contradiction(evidence: Evidence) -> tuple[Note, Note]:
    """The two notes, once it is shown that they cannot both be prefixes of one log."""
    try:
        pair = notes.parse(evidence.first), notes.parse(evidence.second)
        first, second = notes.checkpoint(pair[0]), notes.checkpoint(pair[1])
        length = len(evidence.encode())
    except (NoteInvalid, CodecInvalid) as exc:
        raise EvidenceInvalid(f"evidence: {exc.message}") from exc
    except UnicodeDecodeError as exc:
        raise EvidenceInvalid(f"evidence: begin is not UTF-8: {exc.reason}") from exc
    if length > MAX_BYTES:
        raise EvidenceInvalid(f"evidence: is {length} bytes, at most {MAX_BYTES} are allowed")
    if first.origin != second.origin:
        raise EvidenceInvalid(f"evidence: the heads are of two logs, {first.origin[:100]} and {second.origin[:100]}")
    place = f"evidence about {first.origin[:100]}"
    if [*pair] != sorted(pair, key=_order):
        raise EvidenceInvalid(f"{place}: the heads are at {first.size} and {second.size}, wanted the smaller one first")
    if evidence.root == first.root:
        raise EvidenceInvalid(f"{place}: the head at {first.size} is a prefix of that at {second.size}")
    try:
        merkle.verify_consistency(first.size, second.size, evidence.root, second.root, evidence.proof)
    except ProofInvalid as exc:
        raise EvidenceInvalid(f"{place}: {exc.message}") from exc
    return pair


def _order(note: Note) -> tuple[int, str]:
    return notes.checkpoint(note).size, note.text


def _check_network(pair: Sequence[Note], terms: Terms) -> str:
    origin = notes.checkpoint(pair[0]).origin
    try:
        terms.owner(origin)
    except EntryInvalid as exc:
        raise EvidenceInvalid(f"evidence: {exc.rule} is {exc.got}, wanted {exc.wanted}") from exc
    return origin


def _signer(pair: Sequence[Note], begin: bytes) -> tuple[str, str]:
    """The origin of two heads, and the writer of that log who signed both.

    Raises:
        EvidenceInvalid: nobody did.
    """
    origin = notes.checkpoint(pair[0]).origin
    first, second = (_signers(note, _writers(origin, begin)) for note in pair)
    for key in first:
        if key in second:
            return origin, key
    by = " and ".join(", ".join(f"{key[:16]}…" for key in keys) or "no writer" for keys in (first, second))
    raise EvidenceInvalid(f"evidence about {origin}: the heads are signed by {by}, wanted one writer's on both")


def _signers(note: Note, writers: Sequence[str]) -> list[str]:
    found = []
    for key in writers:
        with suppress(NoteInvalid):
            found.append(notes.verify_head(note, [key]))
    return found


def _writers(origin: str, begin: bytes) -> tuple[str, ...]:
    """Who may sign this log's heads: the account, or the leaders in the run's spec."""
    owner = origin.split("/", 2)[-1]
    if not owner.startswith("run/"):
        if begin:
            raise EvidenceInvalid(f"evidence about {origin}: begin is given, wanted none for an account's log")
        return (owner,)
    try:
        entry = entries.parse(begin)
    except (CodecInvalid, EntryInvalid) as exc:
        raise EvidenceInvalid(f"evidence about {origin}: begin is no entry: {exc.message}") from exc
    if not isinstance(entry, entries.Begin) or f"run/{entries.run_id(entry.spec)}" != owner:
        raise EvidenceInvalid(f"evidence about {origin}: begin is another run's, wanted entry 0 of this log")
    return entry.leaders


def _cosigners_of_both(pair: Sequence[Note], genesis: Genesis) -> tuple[str, ...]:
    first, second = (genesis.cosigners(note) for note in pair)
    return tuple(name for name in first if name in second)


def _only(note: Note, wanted: set[tuple[str, bytes]]) -> Note:
    """The note with only these signature lines, one of each key: the same deed gives the same bytes."""
    lines = {(line.name, line.key_id): line for line in reversed(note.signatures)}
    return Note(text=note.text, signatures=tuple(lines[line] for line in sorted(wanted)))


def _check_lines(pair: Sequence[Note], wanted: set[tuple[str, bytes]]) -> None:
    for note in pair:
        if [(line.name, line.key_id) for line in note.signatures] != sorted(wanted):
            raise EvidenceInvalid("evidence: a head bears other signatures than exactly those of the accused")


def _hash(value: object) -> bytes:
    if type(value) is not str or not is_hex64(value):
        raise EvidenceInvalid(f"evidence: {str(value)[:40]!r} is not a hash in hex")
    return bytes.fromhex(value)
