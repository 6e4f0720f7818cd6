"""A store's evidence: built when heads contradict each other, kept, and what it forbids.

IO: one SQLite file.
"""

from collections.abc import Sequence

from ledger import evidence, notes
from ledger.errors import Conflict, EvidenceInvalid, Frozen, NoteInvalid
from ledger.evidence import Evidence

from .database import HeadRow
from .forks import Fork
from .logs import Offer, StoredLog
from .reader import Reader


class Accuser(Reader):
    """The part of the store that keeps evidence."""

    def add_evidence(self, found: Evidence) -> bool:
        """Keep the proof that a writer, or more than f witnesses, contradicted themselves; whether it is news.

        From then on the log is neither cosigned nor appended to. One proof is kept of each writer; one about a log that
        is neither stored nor worth storing is no news.

        Raises:
            EvidenceInvalid: it proves nothing.
        """
        with self._lock:
            try:
                origin, culprit = evidence.verify(found, self.genesis.terms)
            except EvidenceInvalid as exc:
                try:
                    origin, culprit = evidence.verify_split(found, self.genesis)[0], "witnesses"
                except EvidenceInvalid:
                    raise exc from None
            if self._row(origin) is None and not self.is_referenced(origin):
                return False
            with self._logs.transaction(origin):
                row = self._db.add_log(origin)
                query = "INSERT OR IGNORE INTO evidence (log, culprit, data) VALUES (?, ?, ?)"
                new = self._db.change(query, row, culprit, found.encode()) == 1
                if new:
                    self._db.note_change(row, "evidence")
            return new

    # Inside; the lock is held.

    def _refuse_frozen(self, log: StoredLog) -> None:
        if log.row is not None and self._db.accused(log.row):
            raise Frozen(f"{log.origin}: its key signed two heads that contradict each other; it is cosigned no more")

    def _fork(self, log: StoredLog, offer: Offer, start: int, entries: Sequence[bytes]) -> Fork:
        begin = b""
        if not log.of_account:
            begin = next(iter(self.entries(log.origin, 0, 1) or (entries if start == 0 else ())), b"")
        return Fork(log.tree, offer.note, start, entries, begin)

    def _accuse(self, log: StoredLog, offer: Offer, start: int, entries: Sequence[bytes], *tables: str) -> None:
        """Keep the evidence, if there is any, that the head offered and one of the stored ones are of one key."""
        rows = (self._head(table, log.origin) for table in tables)
        known = [row.note for row in rows if row is not None]
        found = self._fork(log, offer, start, entries).equivocation(known, log.rules.writers)
        if found is not None:
            self.add_evidence(found)

    def _accuse_witnesses(
        self, log: StoredLog, offer: Offer, known: HeadRow, start: int, entries: Sequence[bytes]
    ) -> None:
        """Keep both certificates where it can be shown that they contradict each other.

        Raises:
            Conflict: it can.
        """
        self._accuse(log, offer, start, entries, "certificate")
        found = self._fork(log, offer, start, entries).split(known.note, self.genesis)
        if found is not None:
            self.add_evidence(found)
        if found is not None or offer.head.size <= known.size:
            place = f"{log.origin} at {min(offer.head.size, known.size)}"
            raise Conflict(f"{place}: certified with two roots; over f witnesses are faulty")


def head_of(data: bytes, origin: str, key: str | None = None, proof: Sequence[bytes] | None = None) -> Offer:
    """The head of this log that a note is, signed by `key` if one is given.

    Raises:
        NoteInvalid: it is not.
    """
    note = notes.parse(data)
    head = notes.checkpoint(note)
    if head.origin != origin or head.size == 0:
        raise NoteInvalid(f"the head is of {head.origin} at {head.size}, wanted {origin} with entries")
    if key is not None:
        notes.verify_head(note, [key])
    return Offer(note=note, head=head, proof=proof)
