"""The store: logs on disk, appended to and replicated so that no crash can make a key contradict itself.

Own logs: append → commit → re-read → recompute the root → sign → commit the signature → return it.
Others' logs: quorum, writer, rules, signatures and root are checked before anything is written.
All methods may be called from any thread; they take turns.

IO: one SQLite file.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ledger import notes
from ledger.errors import Conflict, QuorumMissing
from ledger.genesis import Genesis

from .accuser import head_of
from .database import Database, HeadRow
from .logs import Offer, Staged, StoredLog
from .own import holds, self_fork, signed_by
from .reader import Certificate, Changes, Inclusion
from .tenure import Tenure

__all__ = ["Certificate", "Changes", "Inclusion", "Store"]


class Store(Tenure):
    """The logs of one network on this machine. Written by one process at a time."""

    @classmethod
    def open(cls, path: Path | str, genesis: Genesis, create: bool = False, read_only: bool = False) -> Self:
        """Open the store of this network; `create` makes a missing one.

        Raises:
            StoreUnreadable, StoreBusy: see there; GenesisInvalid: it is of another network.
        """
        meta = {"genesis": genesis.encode(), "instance": os.urandom(16)} if create else None
        database = Database.open(Path(path), create=meta, read_only=read_only)
        try:
            genesis.check_same(database.meta("genesis"), str(path))
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

    # Others' logs

    def accept(
        self,
        origin: str,
        start: int,
        entries: Sequence[bytes],
        certificate: bytes,
        proof: Sequence[bytes] | None = None,
    ) -> None:
        """Take over entries from `start` on that a certificate covers; what is known already may be repeated.

        With `proof` they end before the certificate does, and it proves that the log at their end is a prefix of what
        is certified: they are kept, and count once the rest has come, be it after a crash.
        An uncertified tail that contradicts the certificate gives way, except where our own key signed both.

        Raises:
            Behind: entries are missing; Conflict: they contradict what is certified, or do not give the root;
            SelfFork: they contradict what is stored of our own log;
            QuorumMissing, NoteInvalid, EntryInvalid: the certificate or an entry is not what it must be.
        """
        with self._lock:
            offer = head_of(certificate, origin, proof=proof)
            witnesses = self.genesis.cosigners(offer.note)
            if len(witnesses) < self.genesis.quorum:
                got = f"cosigned by {', '.join(witnesses) or 'nobody'}"
                raise QuorumMissing(f"{origin} at {offer.head.size}: {got}, wanted {self.genesis.quorum} witnesses")
            log, known = self._logs.get(origin), self._head("certificate", origin)
            if known is not None and offer.head.size <= known.size:
                if not holds(log, offer.head):
                    self._accuse_witnesses(log, offer, known, start, entries)
                return
            try:
                staged = self._stage_certified(log, start, entries, offer)
            except Conflict as exc:
                if known is not None and exc.index is not None and exc.index < known.size:
                    self._accuse_witnesses(log, offer, known, start, entries)
                raise
            self._take(staged, start, entries, offer)

    def certify(self, origin: str, certificate: bytes) -> None:
        """Note that stored entries are certified; raises as `accept` does."""
        with self._lock:
            self.accept(origin, self.size(origin), [], certificate)

    def promise(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes) -> None:
        """For a witness: store what a head covers and promise to cosign nothing that contradicts it.

        One commit: entries and promise are on disk before the cosignature exists, or neither is.

        Raises:
            Behind: entries are missing; Conflict: the head contradicts what was promised or is not of these entries;
            Frozen: the log's owner contradicted itself; TermOver: it is another leader's term; NoteInvalid,
            EntryInvalid: head or entry is no good.
        """
        with self._lock:
            offer, log = head_of(head_note, origin), self._logs.get(origin)
            self._refuse_frozen(log)
            self._refuse_over(log, offer)
            promised, outvoted = self._head("promise", origin), self._head("outvoted", origin)
            fixed = max(promised.size if promised else 0, self._fixed(log))
            if log.own and log.of_account:
                fixed = log.tree.size
            try:
                staged = self._logs.stage(log, start, entries, offer, fixed)
                if outvoted is not None:
                    raise Conflict(f"{origin}: certified against what this witness promised at {outvoted.size}")
            except Conflict:
                self._accuse(log, offer, start, entries, "promise", "outvoted", "certificate", "head")
                raise
            if promised is not None and offer.head.size <= promised.size:
                return
            new = HeadRow(offer.head.size, offer.head.root, head_note)
            self._logs.commit(staged, lambda row: self._promise(row, promised, new))

    # Inside; the lock is held.

    def _stage_certified(self, log: StoredLog, start: int, entries: Sequence[bytes], offer: Offer) -> Staged:
        """Stage what a certificate covers, unless our own key signed both that and what is stored.

        Raises:
            SelfFork: it did.
        """
        fixed, staged = self._fixed(log), None
        signed = self._db.head("head", log.row) if log.own and log.row is not None else None
        if signed is None or offer.head.size > signed.size or holds(log, offer.head):
            staged = self._logs.stage(log, start, entries, offer, fixed)
            if signed is None or staged.keep >= signed.size:
                return staged
        if signed_by(offer.note, log.own) and signed_by(notes.parse(signed.note), log.own):
            raise self_fork(log, offer.head)
        return staged or self._logs.stage(log, start, entries, offer, fixed)

    def _take(self, staged: Staged, start: int, entries: Sequence[bytes], offer: Offer) -> None:
        """Write what a certificate covers, all of it or as far as it goes."""
        log, head = staged.log, offer.head
        if not log.own and self._contradicted(staged):
            self._accuse(log, offer, start, entries, "promise", "outvoted", "head")
        end, before = min(start + len(entries), head.size), self._fixed(log)
        whole = offer.proof is None or end == head.size
        if not whole and not staged.entries and end <= before:
            return

        def write(row: int) -> None:
            if staged.keep < log.tree.size:
                self._db.outvote(row, staged.keep)
            if whole:
                self._db.certify(row, HeadRow(head.size, head.root, offer.note.encode()))
            else:
                self._db.prove(row, max(end, before))

        self._logs.commit(staged, write)
        if whole:
            self._unfolded.add(log.origin)
            self._refer(log.origin, 0)

    def _contradicted(self, staged: Staged) -> bool:
        """Whether a head that is stored, and not yet held against its signer, is not of the log as staged."""
        log = staged.log
        if log.row is None or self._db.accused(log.row):
            return False
        return staged.keep < log.tree.size or self._db.head("outvoted", log.row) is not None

    def _promise(self, row: int, old: HeadRow | None, new: HeadRow) -> None:
        self._db.swap_promise(row, old, new)
        signed = self._db.head("head", row)
        if signed is None or signed.size < new.size:
            self._db.set_head("head", row, new)
