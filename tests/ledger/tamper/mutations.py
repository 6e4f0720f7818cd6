"""Random mutations of a real certified ledger, and the judgement that none of them is accepted.

A mutated ledger is either *refused* (a fault, or a file that is not readable as this network's), or the verifier finds
exactly the same certified facts (*same*), or fewer of them (*withheld*), which a certificate from an earlier
verification (`since`) then shows. Anything else is a failure, and so is every exception that is no `LedgerError`,
also of a `Store` that is opened on it.

What can change and leave the certified facts as they are: entries behind the certified size and the heads and promises
that cover them; a `head` or `promise` that is gone, or another good one of the same log; a cosignature beyond the
quorum, the order of lines, lines of strangers; rows under numbers that no log has; tables and pages that verification
does not read. What can be withheld: a whole log, or its certificate.

IO: SQLite files in a temporary folder.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from ledger import notes
from ledger.errors import LedgerError
from ledger.fold.fold import Ledger, fold
from ledger.store.store import Store
from ledger.verify.verify import verify_store

from . import changes
from .file import File
from .kit import BOB, DATA, GENESIS, build

KINDS: dict[str, Callable[[Random, File], None]] = {
    "file": changes.file_bytes, "cell": changes.cell, "row": changes.row, "schema": changes.schema,
    "note": changes.note_lines, "notes exchanged": changes.exchange_notes, "entry field": changes.entry_field,
    "entries moved": changes.move_entries, "entry bytes": changes.entry_bytes, "origins": changes.origins,
    "collusion": changes.collusion,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one mutation."""

    kind: str
    """The kinds of changes made, joined by "+"."""
    outcome: str
    """refused, same, withheld; or ACCEPTED, CRASHED, UNSEEN, which must not be."""
    detail: str = ""
    """What the verifier said, or what went wrong."""

    @property
    def good(self) -> bool:
        """Whether it is as it must be."""
        return self.outcome in ("refused", "same", "withheld")


class Bench:
    """One ledger to mutate again and again."""

    def __init__(self, folder: Path) -> None:
        sound = build(folder)
        self.file = File(folder / "mutated.db", sound.read_bytes())
        assert verify_store(sound, GENESIS).ok
        self._since = {origin: _certificate(sound, origin) for origin in DATA}

    def play(self, seed: int, first: str = "") -> Judged:
        """Mutate by this seed, beginning with a change of a kind if one is given, and judge."""
        rng = Random(seed)
        self.file.renew()
        names = [rng.choice(list(KINDS)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        names[0] = first or names[0]
        kind = "+".join(names)
        for name in names:
            try:
                KINDS[name](rng, self.file)
            except (sqlite3.Error, ValueError, TypeError, LookupError):
                continue  # the table refused it, or an earlier change left nothing to read there
        try:
            judged = self._judge(kind)
            if seed % 5 == 0:
                self._work(rng.random() < 0.5)
            return judged
        except Exception as exc:  # noqa: BLE001 - a crash of verifier or store is what we look for
            return Judged(kind=kind, outcome="CRASHED", detail=f"{type(exc).__name__}: {exc}")

    def _work(self, read_only: bool) -> None:
        """Open it as a daemon or a command would, and read all there is; it may refuse."""
        try:
            with Store.open(self.file.path, GENESIS, read_only=read_only) as store:
                store.claims(BOB.public)
                store.prefixes()
                store.changes(0)
                for origin in store.origins():
                    store.rules(origin), store.head(origin), store.promised(origin), store.evidence(origin)
                    certificate = store.certified(origin)
                    if certificate is not None:
                        store.inclusion(origin, 0)
                        store.consistency(origin, 1, certificate.size)
        except LedgerError:
            pass

    def _judge(self, kind: str) -> Judged:
        try:
            report = verify_store(self.file.path, GENESIS)
        except LedgerError as exc:
            return Judged(kind=kind, outcome="refused", detail=str(exc))
        if not report.ok:
            assert report.faults
            assert not report.proven
            assert all(fault.rule and fault.wanted for fault in report.faults)
            return Judged(kind=kind, outcome="refused", detail=str(report.faults[0]))
        sizes = {log.origin: log.certified for log in report.logs}
        kept = {origin: DATA.get(origin, [])[:size] for origin, size in sizes.items()}
        if any(len(log) != sizes[origin] or self.file.entries(origin, len(log)) != log for origin, log in kept.items()):
            return Judged(kind=kind, outcome="ACCEPTED", detail="entries that nobody certified")
        if _facts(report.ledger) != _facts(fold(kept, GENESIS.terms, signatures=False)):
            return Judged(kind=kind, outcome="ACCEPTED", detail="balances that do not follow from the entries")
        if all(sizes.get(origin, 0) == len(log) for origin, log in DATA.items()):
            return Judged(kind=kind, outcome="same")
        again = verify_store(self.file.path, GENESIS, since=self._since)
        return Judged(kind=kind, outcome="UNSEEN" if again.ok else "withheld", detail=str(again.faults[:1]))


def _facts(ledger: Ledger) -> Ledger:
    """Without the logs that hold nothing."""
    some = [{key: value for key, value in found.items() if value} for found in (ledger.balances, ledger.decided)]
    return replace(ledger, balances=some[0], decided=some[1])


def _certificate(path: Path, origin: str) -> bytes:
    connection = sqlite3.connect(path)
    try:
        query = "SELECT note FROM certificate JOIN log ON log = id WHERE origin = ?"
        note = connection.execute(query, (origin,)).fetchone()[0]
    finally:
        connection.close()
    assert isinstance(note, bytes)
    assert notes.checkpoint(notes.parse(note)).origin == origin
    return note
