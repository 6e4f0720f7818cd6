"""Verification: everything in a store replayed from its bytes, the first fault of each log named.

IO: reads one SQLite file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import notes
from .balances import conservation
from .database import HEADS, Database, HeadRow
from .entries import Receipt, parse
from .errors import CodecInvalid, EntryInvalid, NoteInvalid
from .fold import Fold
from .genesis import Genesis
from .merkle import Tree, leaf_hash
from .report import Fault, LogSummary, Report, claims, describe_damaged
from .rules import AccountRules, RunRules, rules_of

__all__ = ["Fault", "LogSummary", "Report", "verify_store"]

_BATCH = 2048


def verify_store(path: Path | str, genesis: Genesis) -> Report:
    """Replay a store from its bytes.

    Raises:
        StoreUnreadable: it cannot be read; GenesisInvalid: it is of another network.
    """
    database = Database.open(Path(path), read_only=True)
    try:
        with database.snapshot():
            genesis.check_same(database.meta("genesis"), str(path))
            checks = [_Check(database, genesis, origin, row) for origin, row in database.logs().items()]
            for check in checks:
                check.run()
            return _report(genesis, checks)
    finally:
        database.close()


@dataclass(kw_only=True)
class _Sound:
    """The entries of a log up to its first fault."""

    tree: Tree = field(default_factory=Tree)
    data: list[bytes] = field(default_factory=list)
    receipts: int = 0


class _Check:
    """One log's verification."""

    def __init__(self, database: Database, genesis: Genesis, origin: str, row: int) -> None:
        self._db, self._genesis, self._row = database, genesis, row
        self.origin = origin
        self.fault: Fault | None = None
        self.sound = _Sound()
        self.certified = 0
        self.entries = 0
        self.frozen = bool(database.rows("SELECT 1 FROM evidence WHERE log = ? LIMIT 1", row))

    def run(self) -> None:
        """Check entries, then heads; stop at the first fault."""
        self.entries = int(str(self._db.rows("SELECT count(*) FROM entry WHERE log = ?", self._row)[0][0]))
        try:
            rules = rules_of(self._genesis.terms, self.origin)
        except EntryInvalid as exc:
            self.fault = Fault(origin=self.origin, entry=None, rule=exc.rule, got=exc.got, wanted=exc.wanted)
            return
        for index, leaf, data in self._rows():
            self.fault = self._entry(rules, index, leaf, data)
            if self.fault is not None:
                break
        for table in HEADS:
            row = self._db.head(table, self._row)
            if row is not None:
                if self.fault is None:
                    self.fault = self._head(rules, table, row)
                    if self.fault is not None and table == "certificate":
                        continue  # what it covers is not certified
                self.certified = row.size if table == "certificate" else self.certified

    def _rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        last = -1
        while rows := self._db.entries(self._row, last + 1, last + 1 + _BATCH):
            yield from rows
            last = rows[-1][0]
        for index, leaf, data in self._db.rows(
            "SELECT idx, leaf, data FROM entry WHERE log = ? AND idx > ? ORDER BY idx LIMIT 1", self._row, last
        ):
            yield int(str(index)), leaf, data  # type: ignore[misc]

    def _entry(self, rules: AccountRules | RunRules, index: int, leaf: bytes, data: bytes) -> Fault | None:
        sound = self.sound
        if index != sound.tree.size:
            return self._fault(sound.tree.size, "entry", "missing", f"one before entry {index}")
        broken = None
        try:
            entry = parse(data)
            rules.apply(entry)
            sound.receipts += isinstance(entry, Receipt)
        except CodecInvalid as exc:
            broken = EntryInvalid(rule="encoding", got=exc.message, wanted="canonical bytes", index=index)
        except EntryInvalid as exc:
            broken = exc
        hashed = leaf_hash(data)
        if hashed != leaf:
            further = [f"{broken.rule} is {broken.got}, wanted {broken.wanted}"] if broken else []
            further += self._blame(hashed, leaf)
            return self._fault(index, "leaf hash", hashed.hex(), leaf.hex(), data, further)
        if broken:
            return self._fault(index, broken.rule, broken.got, broken.wanted, data)
        sound.tree.append(leaf)
        sound.data.append(data)
        return None

    def _blame(self, hashed: bytes, stored: bytes) -> list[str]:
        """Which of the two the certified root speaks for."""
        certificate = self._db.head("certificate", self._row)
        index = self.sound.tree.size
        if certificate is None or index >= certificate.size:
            return []
        rest = [leaf for _, leaf, _ in self._db.entries(self._row, index + 1, certificate.size)]
        if any(len(leaf) != 32 for leaf in (stored, *rest)):
            return ["the stored hashes are damaged"]
        for leaf, what in ((stored, "the entry was changed"), (hashed, "the stored hash was changed, not the entry")):
            frontier = self.sound.tree.frontier(index)
            for item in (leaf, *rest):
                frontier.append(item)
            if frontier.root == certificate.root:
                return [f"the certified root at {certificate.size} shows that {what}"]
        return [f"neither gives the certified root at {certificate.size}"]

    def _head(self, rules: AccountRules | RunRules, table: str, row: HeadRow) -> Fault | None:
        name = f"{table} at {row.size}" if table != "head" else f"head at {row.size}"
        tree = self.sound.tree
        if row.size < 1:
            return self._fault(None, name, f"of {row.size} entries", "at least 1")
        if row.size > tree.size:
            return self._fault(None, name, f"of {row.size} entries", f"at most {tree.size}: later ones are missing")
        root = tree.root(row.size)
        if root != row.root:
            wanted = f"{row.root.hex()}, that of the {table}: an entry up to {row.size - 1} was changed"
            return self._fault(None, f"root of {row.size} entries", root.hex(), wanted)
        try:
            note = notes.parse(row.note)
            if notes.checkpoint(note) != notes.Checkpoint(origin=self.origin, size=row.size, root=row.root):
                return self._fault(None, name, note.text.replace("\n", " "), "a checkpoint of this log, size and root")
            notes.verify_head(note, rules.writers)
            witnesses = self._genesis.cosigners(note)
        except NoteInvalid as exc:
            return self._fault(None, name, exc.message, "a head signed by a writer of the log")
        if table == "certificate" and len(witnesses) < self._genesis.quorum:
            wanted = f"at least {self._genesis.quorum} witnesses"
            return self._fault(None, name, f"cosigned by {', '.join(witnesses) or 'nobody'}", wanted)
        return None

    def _fault(
        self, entry: int | None, rule: str, got: str, wanted: str, data: bytes = b"", further: list[str] | None = None
    ) -> Fault:
        what = describe_damaged(data) if data else ""
        return Fault(
            origin=self.origin, entry=entry, rule=rule, got=got, wanted=wanted, what=what, further=tuple(further or ())
        )


def _report(genesis: Genesis, checks: list[_Check]) -> Report:
    faults = [check.fault for check in checks if check.fault is not None]
    fold = Fold(genesis.terms, signatures=False)  # verified above
    for check in checks:
        if check.sound.data:
            fold.extend(check.origin, check.sound.data[: check.certified])
    ledger = fold.ledger()
    if not conservation(ledger):
        wanted = "balances + runs + reserved + unclaimed + burned = issued"
        faults.append(Fault(origin="", entry=None, rule="conservation", got="not kept", wanted=wanted))
    logs = tuple(
        LogSummary(
            origin=check.origin, entries=check.entries, sound=check.sound.tree.size, certified=check.certified,
            receipts=check.sound.receipts, frozen=check.frozen,
        )
        for check in checks
    )  # fmt: skip
    proven, not_proven = claims(genesis, logs, not faults)
    return Report(
        ok=not faults, network=genesis.id, faults=tuple(faults), logs=logs, ledger=ledger, proven=proven,
        not_proven=not_proven,
    )  # fmt: skip
