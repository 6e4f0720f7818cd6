"""A store's terms: which leader a witness takes a run's heads from, and what a new leader takes over from the last.

IO: one SQLite file.
"""

from collections.abc import Sequence

from ledger import notes
from ledger.errors import Behind, Conflict, KeyInvalid, TermOver
from ledger.notes import Checkpoint
from ledger.terms import NONE, Bid, Term, may_have

from .accuser import head_of
from .database import HeadRow
from .logs import Offer, StoredLog
from .own import OwnLogs, signed_by


class Tenure(OwnLogs):
    """The part of the store that knows terms."""

    def term(self, origin: str) -> Term:
        """The term that was given last for a run's log; number 0 where none was."""
        with self._lock:
            row = self._row(origin)
            return self._term(row)

    def pledge(self, origin: str) -> bytes | None:
        """The newest head that a witness cosigned with this store and that was not outvoted since."""
        head = self._head("promise", origin)
        return head.note if head is not None else None

    def give(self, bid: Bid, *, idle: bool) -> Term:
        """For a witness: give the term that is bid for, if it may be given; the term afterwards, which is on disk.

        Raises:
            Behind: the log is not known here; KeyInvalid: the bidder may not write it.
        """
        with self._lock:
            log = self._logs.get(bid.origin)
            if log.row is None or log.of_account:
                raise Behind(0, f"{bid.origin}: no log of a run that is known here; send it first")
            if bid.leader not in log.rules.writers:
                raise KeyInvalid(f"{bid.origin}: {bid.leader[:16]}… is none of the run's leaders")
            given = self._term(log.row)
            if bid.leave or not may_have(bid, given, idle=idle):
                return given
            new = Term(bid.number, bid.leader)
            if new != given:
                with self._logs.transaction(bid.origin):
                    self._db.set_term(log.row, *new)
            return new

    def read_head(self, origin: str, head_note: bytes) -> Checkpoint:
        """The head of this log that a note is, if one who may write the log signed it.

        Raises:
            NoteInvalid: it is none.
        """
        with self._lock:
            offer = head_of(head_note, origin)
            notes.verify_head(offer.note, self._logs.get(origin).rules.writers)
            return offer.head

    def adopt(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes, key: str) -> int:
        """Take over what another leader signed and a witness promised, to go on from there; how many entries were new.

        What is certified here, promised as a witness or signed by our own `key` stays.

        Raises:
            Conflict: that contradicts it; Behind, NoteInvalid, EntryInvalid: head or entries are no good.
        """
        with self._lock:
            offer, log = head_of(head_note, origin), self._logs.get(origin)
            heads = (self._head("promise", origin), self._signed(origin, key))
            fixed = max(self._fixed(log), *(head.size if head else 0 for head in heads))
            staged = self._logs.stage(log, start, entries, offer, fixed)
            if staged.entries:
                self._logs.commit(staged)
            return len(staged.entries)

    def agreeing(self, origin: str, start: int, entries: Sequence[bytes], heads: Sequence[Checkpoint]) -> int:
        """How many of these heads are of the log as it is with these entries from `start` on, or go on from there.

        Raises:
            Behind, Conflict, EntryInvalid: the entries do not continue what is certified here.
        """
        with self._lock:
            log = self._logs.get(origin)
            staged = self._logs.stage(log, start, entries, None, self._fixed(log))
            return sum(head.size > staged.size or staged.root(head.size) == head.root for head in heads)

    def check_tail(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes, leader: str) -> None:
        """Check what a leader has signed of a log beyond what is certified here; nothing of it is stored.

        The entries from `start` on, which is not behind the end of what is certified, lead to the head that it signed.

        Raises:
            Behind: entries between are missing; Conflict, NoteInvalid, EntryInvalid: they do not.
        """
        with self._lock:
            offer, log, certificate = head_of(head_note, origin, leader), self._logs.get(origin), None
            if log.row is not None:
                certificate = self._db.head("certificate", log.row)
            certified = certificate.size if certificate is not None else 0
            if start > certified:
                raise Behind(certified)
            if start + len(entries) != offer.head.size:
                got = f"entries {start} to {start + len(entries)}"
                raise Conflict(f"{origin}: {got}, and the head is signed at {offer.head.size}")
            self._logs.stage(log, start, entries, offer, self._fixed(log))

    def may_lead(self, origin: str, key: str) -> bool:
        """Whether our key can go on with the log: not where it signed what others were certified in place of."""
        with self._lock:
            log = self._logs.get(origin)
            replaced = self._db.head("replaced", log.row) if log.row is not None else None
            frozen = log.row is not None and self._db.accused(log.row)
            return not frozen and not (replaced is not None and signed_by(notes.parse(replaced.note), key))

    # Inside; the lock is held.

    def _signed(self, origin: str, key: str) -> HeadRow | None:
        """The newest head stored, if it is by this key."""
        head = self._head("head", origin)
        return head if head is not None and signed_by(notes.parse(head.note), key) else None

    def _term(self, row: int | None) -> Term:
        found = self._db.term(row) if row is not None else None
        return Term(*found) if found is not None else NONE

    def _refuse_over(self, log: StoredLog, offer: Offer) -> None:
        """A head by a leader whose term it is not is not looked at further."""
        term = self._term(log.row)
        if term != NONE and not signed_by(offer.note, term.leader):
            got = f"term {term.number} is that of {term.leader[:16]}…"
            raise TermOver(f"{log.origin}: {got}, who alone may extend the log; bid for the next term")
