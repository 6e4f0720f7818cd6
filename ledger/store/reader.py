"""What a store tells: its logs, their certificates, proofs and evidence, and the balances that follow.

All methods may be called from any thread; they take turns.

IO: reads one SQLite file.
"""

import threading
from dataclasses import dataclass

from ledger.entries import Recv
from ledger.errors import Behind
from ledger.evidence import Evidence
from ledger.fold.fold import Fold, Ledger
from ledger.genesis import Genesis
from ledger.references import References
from ledger.rules import AccountRules, RunRules

from .database import Database, HeadRow
from .logs import Logs


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The newest certified head of a log."""

    size: int
    """Number of certified entries."""
    root: str
    """Their Merkle root in hex, as a recv names it."""
    note: bytes
    """The head with the cosignatures of a quorum."""


@dataclass(frozen=True, kw_only=True)
class Inclusion:
    """Proof that an entry is in the certified prefix of its log."""

    index: int
    """The entry."""
    size: int
    """The certified size."""
    leaf: bytes
    """The entry's leaf hash."""
    path: tuple[bytes, ...]
    """For `merkle.verify_inclusion`."""
    note: bytes
    """The certificate, which holds the root."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What came to be certified, and who came to be accused, since somebody last asked."""

    cursor: int
    """Where to go on; valid for this `instance` of the store only."""
    heads: tuple[tuple[str, int], ...]
    """Logs with their certified sizes, those that changed longest ago first."""
    evidence: tuple[str, ...]
    """Logs of which there is evidence, in the same order."""


class Reader:
    """The logs of one network on this machine, to be read."""

    def __init__(self, database: Database, genesis: Genesis) -> None:
        self.genesis = genesis
        self._db = database
        self._lock = threading.RLock()
        self._logs = Logs(database, genesis.terms)
        self._fold = Fold(genesis.terms, signatures=False)  # all that is stored was checked on its way in
        self._unfolded: set[str] = set(database.logs())
        self._references: References | None = None

    def instance(self) -> str:
        """The name of this store, made when its file was: 32 hex digits."""
        with self._lock:
            return (self._db.meta("instance") or bytes(16)).hex()

    def origins(self) -> list[str]:
        """All logs, sorted."""
        with self._lock:
            return sorted(self._db.logs())

    def size(self, origin: str) -> int:
        """How many entries of the log are stored, certified or not."""
        with self._lock:
            row = self._row(origin)
            return 0 if row is None else self._db.size(row)

    def known(self, origin: str) -> tuple[int, int, bool]:
        """How many entries are stored, how many are certified, and whether there is evidence; reads no entry."""
        with self._lock:
            row = self._row(origin)
            if row is None:
                return 0, 0, False
            certificate = self._db.head("certificate", row)
            return self._db.size(row), certificate.size if certificate else 0, self._db.accused(row)

    def certified(self, origin: str) -> Certificate | None:
        """The newest certified head."""
        row = self._head("certificate", origin)
        return Certificate(size=row.size, root=row.root.hex(), note=row.note) if row else None

    def head(self, origin: str) -> bytes | None:
        """The newest signed head, certified or not; signing it again is never needed."""
        row = self._head("head", origin)
        return row.note if row else None

    def promised(self, origin: str) -> bytes | None:
        """The newest head that a witness cosigned, or was about to cosign, with this store, be it outvoted since."""
        row = self._head("promise", origin) or self._head("outvoted", origin)
        return row.note if row else None

    def entries(self, origin: str, start: int, end: int) -> list[bytes]:
        """The stored entries [start, end), fewer where the log ends before."""
        with self._lock:
            row = self._row(origin)
            return [] if row is None else [data for _, _, data in self._db.entries(row, start, end)]

    def prefixes(self) -> dict[str, list[bytes]]:
        """The certified entries of every log."""
        with self._lock:
            sizes = {origin: head.size for origin in self._db.logs() if (head := self._head("certificate", origin))}
            return {origin: self.entries(origin, 0, size) for origin, size in sizes.items()}

    def rules(self, origin: str) -> AccountRules | RunRules:
        """The log's rules after its stored entries, as a copy to try entries on."""
        with self._lock:
            return self._logs.get(origin).rules.copy()

    def inclusion(self, origin: str, index: int) -> Inclusion:
        """The proof that entry `index` is certified.

        Raises:
            Behind: it is not, yet.
        """
        with self._lock:
            certificate = self.certified(origin)
            if certificate is None or not 0 <= index < certificate.size:
                size = certificate.size if certificate else 0
                raise Behind(size, f"{origin}: entry {index} is not certified: {size} entries are")
            tree = self._logs.get(origin).tree
            path = tuple(tree.inclusion_proof(index, certificate.size))
            leaf, note = tree.node(0, index), certificate.note
            return Inclusion(index=index, size=certificate.size, leaf=leaf, path=path, note=note)

    def consistency(self, origin: str, old_size: int, size: int) -> list[bytes]:
        """The proof that the log at `old_size` is a prefix of it at `size`."""
        with self._lock:
            return self._logs.get(origin).tree.consistency_proof(old_size, size)

    def evidence(self, origin: str) -> list[Evidence]:
        """The proofs that a writer, or more than f witnesses, contradicted themselves about this log."""
        with self._lock:
            query = "SELECT data FROM evidence WHERE log = (SELECT id FROM log WHERE origin = ?) ORDER BY culprit"
            return [Evidence.parse(data) for (data,) in self._db.rows(query, origin)]  # type: ignore[arg-type]

    def changes(self, since: int, limit: int = 1000) -> Changes:
        """What was certified or accused after the cursor `since`, the oldest first; 0 is the beginning.

        A cursor that this store has not reached is from before it was restored from a backup, and counts as 0.
        """
        with self._lock:
            last = int(str(self._db.rows("SELECT coalesce(max(seq), 0) FROM change")[0][0]))
            query = (
                "SELECT seq, kind, origin, size FROM change JOIN log ON log.id = change.log "
                "LEFT JOIN certificate ON certificate.log = change.log WHERE seq > ? ORDER BY seq LIMIT ?"
            )
            since = since if 0 <= since <= last else 0
            rows: list[tuple[int, str, str, int]] = self._db.rows(query, since, limit)  # type: ignore[assignment]
            heads = tuple((origin, size) for _, kind, origin, size in rows if kind == "certificate")
            accused = tuple(origin for _, kind, origin, _ in rows if kind == "evidence")
            return Changes(cursor=rows[-1][0] if rows else since, heads=heads, evidence=accused)

    def references(self) -> frozenset[str]:
        """The logs worth replicating: of the genesis, and those that certified entries of such logs name."""
        with self._lock:
            return self._referenced().all()

    def is_referenced(self, origin: str) -> bool:
        """Whether the log is worth replicating."""
        with self._lock:
            return origin in self._referenced()

    def ledger(self) -> Ledger:
        """Balances and runs from all certified prefixes."""
        with self._lock:
            for origin in sorted(self._unfolded):
                certificate, known = self.certified(origin), self._fold.size(origin)
                row = self._row(origin)
                if row is not None and certificate is not None and certificate.size > known:
                    rows = self._db.each_entry(row, known, certificate.size)
                    self._fold.extend(origin, (data for _, _, data in rows))
            self._unfolded.clear()
            return self._fold.ledger()

    def claims(self, owner: str) -> list[Recv]:
        """The recv entries by which an account, or "run/<run id>", takes over all that it is owed at present."""
        with self._lock:
            ledger = self.ledger()
            found = []
            for origin in sorted(ledger.claimable.get(owner, {})):
                certificate = self.certified(origin)
                assert certificate is not None  # the fold sees certified entries only
                index = ledger.decided[origin] - 1
                found.append(Recv(origin=origin, index=index, size=certificate.size, root=certificate.root))
            return found

    # Inside; the lock is held.

    def _row(self, origin: str) -> int | None:
        """The log's row, without reading the log.

        Raises:
            EntryInvalid: no log of this network can have that origin.
        """
        self.genesis.terms.owner(origin)
        found = self._db.log(origin)
        return found[0] if found else None

    def _head(self, table: str, origin: str) -> HeadRow | None:
        with self._lock:
            row = self._row(origin)
            return None if row is None else self._db.head(table, row)

    def _referenced(self) -> References:
        if self._references is None:
            self._references = References(self.genesis.terms)
            for origin in self._db.logs():
                self._refer(origin, 0)
        return self._references

    def _refer(self, origin: str, start: int) -> None:
        """Take note of what the certified entries of a log from `start` on name."""
        if self._references is not None:
            query = (
                "SELECT named.origin FROM named JOIN log ON log.id = named.log JOIN certificate USING (log) "
                "WHERE log.origin = ? AND idx >= ? AND idx < size"
            )
            self._references.add(origin, (str(name) for (name,) in self._db.rows(query, origin, start)))
