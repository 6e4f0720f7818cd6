"""A small certified ledger, and stores that hold parts of it, for simulated replicas.

IO: SQLite files in a folder that is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger import evidence, merkle, notes
from ledger.entries import Begin, Entry, Recv, Send, run_id
from ledger.errors import Behind
from ledger.fold.fold import fold
from ledger.genesis import Genesis
from ledger.merkle import Tree
from ledger.notes import Checkpoint
from ledger.replica import store as replica_store
from ledger.replica.values import Answer, EntriesOf, Fact, HeadsSince, Request, Take, TakeEvidence
from ledger.store.store import Store
from tests.ledger.world import NOW, key_of, spec_of
from tests.sim.ledger_replicas import SETTINGS, World

WITNESSES = {f"w{number}": key_of(f"replica witness {number}") for number in range(4)}
KEYS = [key_of(f"replica account {number}") for number in range(6)]


@dataclass(frozen=True, kw_only=True)
class Log:
    """What one log is in the end, and how it grew."""

    entries: tuple[bytes, ...]
    """All entries."""
    certificates: dict[int, bytes]
    """By size."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """The whole ledger that replicas get parts of."""

    genesis: Genesis
    logs: dict[str, Log]
    """By origin; the last is one that no entry refers to."""
    accusation: evidence.Evidence
    accused: str
    """Its origin."""
    news: tuple[tuple[str, int], ...]
    """(origin, certified size), each after what it refers to; size 0: the accusation."""


@cache
def library() -> Library:
    """The same one always."""
    a, b, c, d, thief, nobody = KEYS
    witnesses = [(name, key.public) for name, key in WITNESSES.items()]
    genesis = Genesis.create(name="replicas", supply={a.public: 10**9}, witnesses=witnesses, f=1)
    spec = spec_of(leaders=[a.public], submitter=a.public)
    run = run_id(spec)

    def pays(key: Any, count: int, memo: str = "") -> list[Entry]:
        return [Send(to=key.public, amount=1 + number, memo=memo) for number in range(count)]

    plans: dict[str, list[Entry]] = {}
    first = [*pays(b, 50), Send(to=f"run/{run}", amount=5000), *pays(thief, 3)]
    plans[genesis.origin(a.public)] = first + pays(b, 60, "m" * 199)
    source = [entry.encode() for entry in first]
    plans[genesis.origin(b.public)] = [_recv(genesis.origin(a.public), source), *pays(c, 40), *pays(c, 4, "m" * 200)]
    middle = [entry.encode() for entry in plans[genesis.origin(b.public)]]
    plans[genesis.origin(c.public)] = [_recv(genesis.origin(b.public), middle), *pays(d, 30)]
    last = [entry.encode() for entry in plans[genesis.origin(c.public)]]
    plans[genesis.origin(d.public)] = [_recv(genesis.origin(c.public), last), *pays(a, 3)]
    plans[genesis.run_origin(run)] = [Begin(spec=spec), _recv(genesis.origin(a.public), source)]
    plans[genesis.origin(thief.public)] = [*pays(a, 2), *pays(b, 5)]
    plans[genesis.origin(nobody.public)] = pays(a, 8)
    writers = [a, b, c, d, a, thief, nobody]
    logs = {origin: _log(origin, plan, key) for (origin, plan), key in zip(plans.items(), writers, strict=True)}
    news = [(origin, size) for origin, log in logs.items() for size in log.certificates]
    accused = genesis.origin(thief.public)
    return Library(
        genesis=genesis, logs=logs, accusation=_accusation(accused, plans[accused], thief), accused=accused,
        news=(*news, (accused, 0)),
    )  # fmt: skip


def _recv(origin: str, entries: Sequence[bytes]) -> Recv:
    root = merkle.root(map(merkle.leaf_hash, entries))
    return Recv(origin=origin, index=len(entries) - 1, size=len(entries), root=root.hex())


def _log(origin: str, plan: Sequence[Entry], key: Any) -> Log:
    entries, tree, certificates = tuple(entry.encode() for entry in plan), Tree(), {}
    for data in entries:
        tree.append(merkle.leaf_hash(data))
    for size in sorted({1, 2, len(entries) // 3, len(entries) * 2 // 3, len(entries)} - {0}):
        head = notes.sign_head(Checkpoint(origin=origin, size=size, root=tree.root(size)), key)
        lines = [notes.cosign(head, name, witness, NOW) for name, witness in list(WITNESSES.items())[:3]]
        certificates[size] = notes.combine(head, lines)
    return Log(entries=entries, certificates=certificates)


def _accusation(origin: str, plan: Sequence[Entry], key: Any) -> evidence.Evidence:
    tree = Tree([merkle.leaf_hash(entry.encode()) for entry in plan])
    real = notes.sign_head(Checkpoint(origin=origin, size=2, root=tree.root(2)), key)
    other = notes.sign_head(Checkpoint(origin=origin, size=2, root=bytes(32)), key)
    return evidence.build(tree, real, other)


class StoreDisk:
    """A real store as the disk of a simulated replica."""

    def __init__(self, path: Path) -> None:
        self._path, self._known = path, library()
        self.store = Store.open(path, self._known.genesis, create=True)

    def answer(self, request: Request) -> Answer | None:
        """As the daemon answers."""
        if isinstance(request, HeadsSince):
            return replica_store.heads_since(self.store, request, SETTINGS.page)
        if isinstance(request, EntriesOf):
            try:
                return replica_store.entries_of(self.store, request, SETTINGS.answer_bytes)
            except Behind:
                return None
        return replica_store.evidence_of(self.store, request.origin)

    def facts(self, origins: Sequence[str]) -> dict[str, Fact]:
        """As the daemon looks them up."""
        return replica_store.facts(self.store, origins)

    def take(self, take: Take | TakeEvidence) -> tuple[str, bool]:
        """As the daemon takes it."""
        return replica_store.take(self.store, take)

    def publish(self, number: int) -> None:
        """A certificate, with all that it covers, or the evidence."""
        origin, size = self._known.news[number]
        if not size:
            self.store.add_evidence(self._known.accusation)
            return
        log, start = self._known.logs[origin], self.store.known(origin)[1]
        self.store.accept(origin, start, log.entries[start:size], log.certificates[size])

    def reopen(self) -> None:
        """What is not on disk is forgotten."""
        self.store.close()
        self.store = Store.open(self._path, self._known.genesis, create=True)

    def check(self) -> None:
        """All that is stored is of the library."""
        for origin in self.store.origins():
            log = self._known.logs.get(origin)
            assert log is not None, f"{origin} was never certified"
            stored, certified, _ = self.store.known(origin)
            assert self.store.entries(origin, 0, stored) == list(log.entries[:stored]), f"{origin}: other entries"
            assert certified in (0, *log.certificates), f"{origin}: certified at {certified}"
        nobody = list(self._known.logs)[-1]
        assert nobody not in self.store.origins() or self.store.known(nobody)[1], "a log that nobody refers to"

    def summary(self) -> Any:
        """Certified sizes of what is referred to, and whether there is evidence."""
        worth = self.store.references() & set(self.store.origins())
        return {origin: self.store.known(origin)[1:] for origin in sorted(worth)}

    def fold(self) -> str:
        """The hash of the fold of what is referred to."""
        prefixes = {origin: self.store.entries(origin, 0, size) for origin, (size, _) in self.summary().items()}
        return sha256(repr(fold(prefixes, self._known.genesis.terms, signatures=False)).encode()).hexdigest()

    def close(self) -> None:
        """Release the file."""
        self.store.close()


class Stores:
    """Makes the disks of one simulated world, and removes them."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._disks: list[StoreDisk] = []

    def make(self, count: int) -> list[StoreDisk]:
        """So many new ones."""
        self._disks = [StoreDisk(self._folder / f"{self._prefix}-{number}.db") for number in range(count)]
        return self._disks

    def remove(self) -> None:
        """Close and delete them."""
        for disk in self._disks:
            disk.close()
        for path in self._folder.glob(f"{self._prefix}-*"):
            path.unlink()


def run(seed: int, folder: Path) -> Counter[str]:
    """Play one world on stores in a folder, which are gone afterwards; what happened, counted."""
    stores = Stores(folder, f"seed{seed}")
    try:
        return World(seed, stores.make, len(library().news)).play()
    finally:
        stores.remove()
