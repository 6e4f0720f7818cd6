"""A store held against what live witnesses say: what is behind, what contradicts, who does not answer.

What a witness certifies counts once a quorum's cosignatures on it verify; so one witness can hide what there is, but
cannot invent it. A certified head that cannot be of one log with ours is a *fork*.

Pure: no IO.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger import notes
from ledger.errors import LedgerError, NoteInvalid, ProofInvalid
from ledger.genesis import Genesis
from ledger.live import Head, WitnessView
from ledger.merkle import Tree, verify_consistency
from ledger.notes import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Here:
    """One log as it is certified here."""

    head: Checkpoint
    """Its certified head."""
    note: bytes
    """The certificate."""
    writers: tuple[str, ...]
    """Who may sign it."""
    tree: Callable[[], Tree]
    """Its hashes, asked for only where they are needed."""


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Two heads of one log that cannot both be prefixes of it."""

    origin: str
    """The log."""
    witness: str
    """Who gave the other head."""
    ours: bytes
    """The certificate here."""
    theirs: bytes
    """The other head: a certificate, or what the witness cosigned."""
    certified: bool
    """Whether a quorum certified the other head too."""

    def __str__(self) -> str:
        sizes = [notes.checkpoint(notes.parse(note)).size for note in (self.ours, self.theirs)]
        what = "certified" if self.certified else "signed by its owner"
        return f"{self.origin}: certified here at {sizes[0]}, and at {sizes[1]} another one {what}, by {self.witness}"


@dataclass(kw_only=True)
class Comparison:
    """What came of it."""

    answered: list[str] = field(default_factory=list)
    """Witnesses whose every answer was good."""
    failed: dict[str, str] = field(default_factory=dict)
    """The others, and why."""
    compared: int = 0
    """Logs here that at least one witness certifies too."""
    behind: dict[str, tuple[int, int, list[str]]] = field(default_factory=dict)
    """Logs of which more is certified: how much is here, how much is certified, and who says so."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Certified logs that are not here, with their sizes as witnesses say."""
    unproven: list[tuple[str, str]] = field(default_factory=list)
    """(log, witness) where a later head is certified and it is not shown that ours is a prefix of it."""
    forks: list[Contradiction] = field(default_factory=list)
    """Certified heads that contradict: the network's promise is broken."""
    equivocations: list[Contradiction] = field(default_factory=list)
    """Heads that only their owner signed and that contradict what is certified."""

    @property
    def current(self) -> bool:
        """Whether somebody answered and nobody certifies more than is here."""
        return bool(self.answered) and not self.behind and not self.unknown

    def to_json(self) -> dict[str, Any]:
        """The comparison as an object for programs."""
        pairs = {"forks": self.forks, "equivocations": self.equivocations}
        return {
            "answered": self.answered, "failed": self.failed, "compared": self.compared, "current": self.current,
            "behind": [
                {"origin": origin, "here": here, "certified": there, "witnesses": names}
                for origin, (here, there, names) in sorted(self.behind.items())
            ],
            "unknown": dict(sorted(self.unknown.items())), "unproven": [list(pair) for pair in self.unproven],
            **{
                name: [
                    {"origin": item.origin, "witness": item.witness, "message": str(item),
                     "ours": item.ours.decode(), "theirs": item.theirs.decode()} for item in items
                ] for name, items in pairs.items()
            },
        }  # fmt: skip


def compare(genesis: Genesis, here: Iterable[tuple[str, Here | None]], views: Mapping[str, WitnessView]) -> Comparison:
    """Hold the logs here, one by one, against what each witness says; None is a log of which nothing is certified."""
    result = Comparison(failed={name: view.error for name, view in views.items() if view.error})
    views = {name: view for name, view in views.items() if not view.error}
    known = set()
    for origin, ours in here:
        if ours is not None:
            known.add(origin)
        met = False
        for name, view in views.items():
            head = view.heads.get(origin)
            if head is not None and name not in result.failed:
                try:
                    met = _one(genesis, origin, ours, name, head, result) or met
                except LedgerError as exc:
                    result.failed[name] = f"{origin[-20:]}: {exc.message}"
        result.compared += met and ours is not None
    for name, view in views.items():
        if name not in result.failed:
            result.answered.append(name)
            for origin, size in view.sizes.items():
                if origin not in known and _ours(genesis, origin):
                    result.unknown[origin] = max(size, result.unknown.get(origin, 0))
    return result


def _ours(genesis: Genesis, origin: str) -> bool:
    try:
        genesis.terms.owner(origin)
    except LedgerError:
        return False
    return True


def _one(genesis: Genesis, origin: str, ours: Here | None, name: str, theirs: Head, result: Comparison) -> bool:
    """One log at one witness; whether the witness certifies it at all."""
    if theirs.promised and ours is not None:
        _promised(origin, ours, name, theirs.promised, result)
    if not theirs.certificate:
        return False
    head = certified_head(genesis, origin, theirs.certificate)
    size = ours.head.size if ours is not None else 0
    if head.size > size:
        _, most, names = result.behind.get(origin, (size, 0, []))
        result.behind[origin] = (size, max(most, head.size), [*names, name])
        if ours is not None:
            try:
                verify_consistency(size, head.size, ours.head.root, head.root, theirs.proof)
            except ProofInvalid:
                result.unproven.append((origin, name))
    elif ours is not None and _root(ours, head.size) != head.root:
        result.forks.append(
            Contradiction(origin=origin, witness=name, ours=ours.note, theirs=theirs.certificate, certified=True)
        )
    return True


def _promised(origin: str, ours: Here, name: str, promised: bytes, result: Comparison) -> None:
    note = notes.parse(promised)
    head = notes.checkpoint(note)
    if head.origin != origin or head.size == 0:
        raise NoteInvalid(f"promised a head of {head.origin[:160]} at {head.size}")
    writer = notes.verify_head(note, ours.writers)
    if head.size > ours.head.size or _root(ours, head.size) == head.root:
        return
    if writer == notes.verify_head(notes.parse(ours.note), ours.writers):  # else another leader lost a race: no harm
        result.equivocations.append(
            Contradiction(origin=origin, witness=name, ours=ours.note, theirs=promised, certified=False)
        )


def certified_head(genesis: Genesis, origin: str, certificate: bytes) -> Checkpoint:
    """The head of a certificate of this log.

    Raises:
        NoteInvalid: it is none, or no quorum of the genesis's witnesses cosigned it.
    """
    note = notes.parse(certificate)
    head = notes.checkpoint(note)
    witnesses = genesis.cosigners(note)
    if head.origin != origin or head.size == 0 or len(witnesses) < genesis.quorum:
        got = f"{head.origin[:160]} at {head.size}, cosigned by {', '.join(witnesses) or 'nobody'}"
        raise NoteInvalid(f"its certificate is of {got}; wanted {genesis.quorum} witnesses")
    return head


def _root(ours: Here, size: int) -> bytes:
    return ours.head.root if size == ours.head.size else ours.tree().root(size)
