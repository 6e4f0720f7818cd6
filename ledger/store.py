"""The store: logs on disk, appended to and replicated so that no crash can make a key contradict itself.

Own logs: append → commit → re-read → recompute the root → sign → commit the signature → return it.
Others' logs: quorum, writer, rules, signatures and root are checked before anything is written.
All methods may be called from any thread; they take turns.

IO: one SQLite file.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import notes
from .database import Database, HeadRow
from .entries import Entry, Recv
from .errors import Behind, Conflict, Frozen, KeyInvalid, NoteInvalid, QuorumMissing
from .fold import Fold, Ledger
from .genesis import Genesis
from .keys import PrivateKey
from .logs import Logs, StoredLog, contradicts
from .notes import Checkpoint, Note
from .rules import AccountRules, RunRules


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


class Store:
    """The logs of one network on this machine. Written by one process at a time."""

    def __init__(self, database: Database, genesis: Genesis) -> None:
        self.genesis = genesis
        self._db = database
        self._lock = threading.RLock()
        self._logs = Logs(database, genesis.terms)
        self._fold = Fold(genesis.terms, signatures=False)  # all that is stored was checked on its way in
        self._unfolded: set[str] = set(database.logs())

    @classmethod
    def open(cls, path: Path | str, genesis: Genesis, create: bool = False, read_only: bool = False) -> "Store":
        """Open the store of this network; `create` makes a missing one.

        Raises:
            StoreUnreadable, StoreBusy: see there; GenesisInvalid: it is of another network.
        """
        database = Database.open(Path(path), create=create, read_only=read_only)
        try:
            stored = database.meta("genesis")
            if stored is None and not read_only:
                with database.transaction():
                    database.change("INSERT INTO meta (name, value) VALUES ('genesis', ?)", genesis.encode())
            else:
                genesis.check_same(stored, str(path))
            return cls(database, genesis)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Reading

    def origins(self) -> list[str]:
        """All logs, sorted."""
        with self._lock:
            return sorted(self._db.logs())

    def size(self, origin: str) -> int:
        """How many entries of the log are stored, certified or not."""
        with self._lock:
            return self._logs.get(origin).tree.size

    def certified(self, origin: str) -> Certificate | None:
        """The newest certified head."""
        row = self._head("certificate", origin)
        return Certificate(size=row.size, root=row.root.hex(), note=row.note) if row else None

    def head(self, origin: str) -> bytes | None:
        """The newest signed head, certified or not; signing it again is never needed."""
        row = self._head("head", origin)
        return row.note if row else None

    def entries(self, origin: str, start: int, end: int) -> list[bytes]:
        """The stored entries [start, end), fewer where the log ends before."""
        with self._lock:
            row = self._logs.get(origin).row
            return [] if row is None else [data for _, _, data in self._db.entries(row, start, end)]

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
                raise Behind(certificate.size if certificate else 0, f"{origin}: entry {index} is not certified yet")
            tree = self._logs.get(origin).tree
            path = tuple(tree.inclusion_proof(index, certificate.size))
            leaf = tree.node(0, index)
            return Inclusion(index=index, size=certificate.size, leaf=leaf, path=path, note=certificate.note)

    def consistency(self, origin: str, old_size: int, size: int) -> list[bytes]:
        """The proof that the log at `old_size` is a prefix of it at `size`."""
        with self._lock:
            return self._logs.get(origin).tree.consistency_proof(old_size, size)

    def evidence(self, origin: str) -> list[tuple[bytes, bytes]]:
        """Pairs of heads by one key that cannot both be prefixes of the log."""
        with self._lock:
            row = self._logs.get(origin).row
            return self._db.rows("SELECT first, second FROM evidence WHERE log = ?", row)  # type: ignore[return-value]

    def ledger(self) -> Ledger:
        """Balances and runs from all certified prefixes."""
        with self._lock:
            for origin in sorted(self._unfolded):
                certificate, known = self.certified(origin), self._fold.size(origin)
                if certificate is not None and certificate.size > known:
                    self._fold.extend(origin, self.entries(origin, known, certificate.size))
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

    # Writing

    def append(self, origin: str, entries: Sequence[Entry | bytes], key: PrivateKey) -> bytes:
        """Append to a log that `key` may write and sign its head; without entries, sign what is stored.

        Raises:
            EntryInvalid: an entry may not come next; KeyInvalid: `key` may not write this log; Frozen: the log is.
        """
        with self._lock:
            data = [entry.encode() if isinstance(entry, Entry) else entry for entry in entries]
            log = self._logs.get(origin)
            self._refuse_frozen(log)
            staged = self._logs.stage(log, log.tree.size, data)
            if key.public not in staged.rules.writers:
                raise KeyInvalid(f"{origin}: {key.public[:16]}… may not write this log; use the key of a writer of it")
            if data:
                log = self._logs.commit(staged, reread=True)
            if log.row is None:
                raise Behind(0, f"{origin}: there is nothing to sign; append an entry first")
            row, head = log.row, Checkpoint(origin=origin, size=log.tree.size, root=log.tree.root())
            note = notes.sign_head(head, key)
            with self._logs.transaction(origin):
                self._db.set_head("head", row, HeadRow(head.size, head.root, note))
            return note

    def accept(self, origin: str, start: int, entries: Sequence[bytes], certificate: bytes) -> None:
        """Take over entries from `start` on that a certificate covers; what is known already may be repeated.

        Raises:
            Behind: entries are missing; Conflict: they contradict what is certified, or do not give the root;
            QuorumMissing, NoteInvalid, EntryInvalid: the certificate or an entry is not what it must be.
        """
        with self._lock:
            note, head = _head_of(certificate, origin)
            witnesses = self.genesis.cosigners(note)
            if len(witnesses) < self.genesis.quorum:
                got = f"cosigned by {', '.join(witnesses) or 'nobody'}"
                raise QuorumMissing(f"{origin} at {head.size}: {got}, wanted {self.genesis.quorum} witnesses")
            log, known = self._logs.get(origin), self.certified(origin)
            if known is not None and head.size <= known.size:
                if log.tree.root(head.size) != head.root:
                    raise Conflict(f"{origin} at {head.size}: certified with two roots; over f witnesses are faulty")
                return
            staged = self._logs.stage(log, start, entries, head, fixed=known.size if known else 0)
            notes.verify_head(note, staged.rules.writers)
            new = HeadRow(head.size, head.root, certificate)
            self._logs.commit(staged, lambda row: self._db.set_head("certificate", row, new))
            self._unfolded.add(origin)

    def certify(self, origin: str, certificate: bytes) -> None:
        """Note that stored entries are certified; raises as `accept` does."""
        with self._lock:
            self.accept(origin, self.size(origin), [], certificate)

    def promise(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes) -> None:
        """For a witness: store what a head covers and promise to cosign nothing that contradicts it.

        Raises:
            Behind: entries are missing; Conflict: the head contradicts what was promised or is not of these entries;
            Frozen: the log's owner contradicted itself; NoteInvalid, EntryInvalid: head or entry is no good.
        """
        with self._lock:
            note, head = _head_of(head_note, origin)
            log, known = self._logs.get(origin), self.certified(origin)
            self._refuse_frozen(log)
            promised = self._head("promise", origin)
            fixed = max(promised.size if promised else 0, known.size if known else 0)
            try:
                staged = self._logs.stage(log, start, entries, head, fixed=fixed)
            except Conflict:
                if promised is not None and contradicts(log, promised, head, start, entries):
                    self._accuse(log, promised, note)
                raise
            notes.verify_head(note, staged.rules.writers)
            if promised is not None:
                after = staged.keep + len(staged.leaves)
                if after < promised.size or staged.root(promised.size) != promised.root:
                    raise Conflict(f"{origin}: certified against what this witness promised at {promised.size}")
                if head.size <= promised.size:
                    return
            new = HeadRow(head.size, head.root, head_note)
            self._logs.commit(staged, lambda row: self._promise(row, promised, new))

    # Inside; the lock is held.

    def _promise(self, row: int, old: HeadRow | None, new: HeadRow) -> None:
        self._logs.swap_promise(row, old, new)
        signed = self._db.head("head", row)
        if signed is None or signed.size < new.size:
            self._db.set_head("head", row, new)

    def _head(self, table: str, origin: str) -> HeadRow | None:
        with self._lock:
            row = self._logs.get(origin).row
            return None if row is None else self._db.head(table, row)

    def _refuse_frozen(self, log: StoredLog) -> None:
        if log.row is not None and self.evidence(log.origin):
            raise Frozen(f"{log.origin}: its key signed two heads that contradict each other; it is cosigned no more")

    def _accuse(self, log: StoredLog, promised: HeadRow, note: Note) -> None:
        """Keep two contradicting heads where one key signed both."""
        with suppress(NoteInvalid):
            signers = {notes.verify_head(signed, log.rules.writers) for signed in (note, notes.parse(promised.note))}
            if len(signers) == 1:
                with self._logs.transaction(log.origin):
                    query = "INSERT OR IGNORE INTO evidence (log, first, second) VALUES (?, ?, ?)"
                    self._db.change(query, log.row, promised.note, note.encode())


def _head_of(data: bytes, origin: str) -> tuple[Note, Checkpoint]:
    note = notes.parse(data)
    head = notes.checkpoint(note)
    if head.origin != origin or head.size == 0:
        raise NoteInvalid(f"the head is of {head.origin} at {head.size}, wanted {origin} with entries")
    return note, head
