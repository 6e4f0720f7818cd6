"""A store's own logs: appended to and signed so that neither a crash nor an old backup makes our key contradict itself.

IO: one SQLite file.
"""

from collections.abc import Sequence

from ledger import notes
from ledger.entries import Entry
from ledger.errors import Behind, Conflict, KeyInvalid, NoteInvalid, SelfFork, StoreUnreadable
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.notes import Checkpoint, Note

from .accuser import Accuser, head_of
from .database import Database, HeadRow
from .logs import StoredLog


class OwnLogs(Accuser):
    """The part of the store that appends."""

    def __init__(self, database: Database, genesis: Genesis) -> None:
        super().__init__(database, genesis)
        self._elsewhere: dict[str, Checkpoint] = {}
        """Heads of own logs that our key signed and that do not lie here."""

    def append(self, origin: str, entries: Sequence[Entry | bytes], key: PrivateKey) -> bytes:
        """Append to a log that `key` may write and sign its head; without entries, sign what is stored.

        Two commits: were the entries not on disk before they are signed, a crash could lose what a signature covers;
        were the signature not on disk before it is returned, nobody here would know what was published.

        Raises:
            EntryInvalid: an entry may not come next; KeyInvalid: `key` may not write this log; Frozen: the log is;
            SelfFork: `check_own_head` found that the key signed more of it elsewhere, or the network has certified
            another leader's entries in place of what it signed here; StoreUnreadable: the disk failed, and the message
            says whether the entries are stored.
        """
        with self._lock:
            data = [entry.encode() if isinstance(entry, Entry) else entry for entry in entries]
            log = self._logs.get(origin)
            self._refuse_frozen(log)
            self._refuse_elsewhere(log)
            self._refuse_replaced(log, key.public)
            staged = self._logs.stage(log, log.tree.size, data)
            if key.public not in staged.rules.writers:
                raise KeyInvalid(f"{origin}: {key.public[:16]}… may not write this log; use the key of a writer of it")
            if data:
                log = self._logs.commit(staged, reread=True)
            if log.row is None:
                raise Behind(0, f"{origin}: there is nothing to sign; append an entry first")
            row, head = log.row, Checkpoint(origin=origin, size=log.tree.size, root=log.tree.root())
            note = notes.sign_head(head, key)
            try:
                with self._logs.transaction(origin):
                    self._own(row, key.public)
                    self._db.set_head("head", row, HeadRow(head.size, head.root, note))
            except StoreUnreadable as exc:
                if not data:
                    raise
                why = f"{origin}: stored but not signed, so do not append it again, the next append signs it"
                raise StoreUnreadable(f"{why}: {exc.message.removesuffix('; nothing was changed')}") from exc
            log.own = key.public
            return note

    def head_at(self, origin: str, size: int, key: PrivateKey) -> bytes:
        """A head at a smaller size than that of the newest head which `key` signed, for who takes the log in parts.

        Raises:
            SelfFork: what is stored up to there is not what the key signed: another leader's entries were certified.
        """
        with self._lock:
            log, signed = self._logs.get(origin), self._head("head", origin)
            if signed is None or not 0 < size <= signed.size or not signed_by(notes.parse(signed.note), key.public):
                got = "none" if signed is None else f"one at {signed.size}, or another leader's"
                raise SelfFork(size, f"{origin}: of the signed heads {got} is left, wanted ours from {size} entries on")
            return notes.sign_head(Checkpoint(origin=origin, size=size, root=log.tree.root(size)), key)

    def check_own_head(self, origin: str, note: bytes, key: str) -> None:
        """Compare a head that our own key signed, and that others have, with what is stored here.

        Raises:
            SelfFork: it is ahead of it or contradicts it: a restored backup, or a key used twice. Until the log holds
                that head nothing is appended to it. NoteInvalid: it is no head of this log by this key.
        """
        with self._lock:
            head = head_of(note, origin, key).head
            log = self._logs.get(origin)
            if not holds(log, head):
                self._elsewhere[origin] = max(head, self._elsewhere.get(origin, head), key=lambda known: known.size)
                raise self_fork(log, head)

    def recover(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes, key: str) -> int:
        """Take over entries of our own log, from `start` on, that our own key signed elsewhere; how many were missing.

        What is stored here and was never signed gives way; what was signed must be a prefix.

        Raises:
            Conflict: it is not: the key contradicted itself, which is kept as evidence; Behind, NoteInvalid,
                EntryInvalid: entries are missing, or head or entries are no good.
        """
        with self._lock:
            offer, log = head_of(head_note, origin, key), self._logs.get(origin)
            signed, fixed = self._head("head", origin), self._fixed(log)
            try:
                staged = self._logs.stage(log, start, entries, offer, max(fixed, signed.size if signed else 0))
            except Conflict:
                self._accuse(log, offer, start, entries, "certificate", "promise", "outvoted", "head")
                raise
            if staged.entries or not log.own:
                head = HeadRow(offer.head.size, offer.head.root, head_note)
                also = (lambda row: self._own(row, key), lambda row: self._db.set_head("head", row, head))
                self._logs.commit(staged, *also)
                log.own = key
            return len(staged.entries)

    # Inside; the lock is held.

    def _own(self, row: int, key: str) -> None:
        self._db.change("UPDATE log SET own = ? WHERE id = ? AND own != ?", key, row, key)

    def _refuse_replaced(self, log: StoredLog, key: str) -> None:
        """A head of ours that others may have seen was not certified, and another leader's was."""
        replaced = self._db.head("replaced", log.row) if log.row is not None else None
        if replaced is not None and signed_by(notes.parse(replaced.note), key):
            got = f"our key signed {replaced.size} entries, and others were certified in their place"
            raise SelfFork(replaced.size, f"{log.origin}: {got}; another leader must go on")

    def _fixed(self, log: StoredLog) -> int:
        """How many entries are certified, or proven to be what was certified though not all of that is here."""
        if log.row is None:
            return 0
        certificate = self._db.head("certificate", log.row)
        return max(certificate.size if certificate else 0, self._db.proven(log.row))

    def _refuse_elsewhere(self, log: StoredLog) -> None:
        head = self._elsewhere.get(log.origin)
        if head is None:
            return
        if holds(log, head):
            del self._elsewhere[log.origin]
            return
        raise self_fork(log, head)


def holds(log: StoredLog, head: Checkpoint) -> bool:
    """Whether the head is of a prefix of what is stored."""
    return head.size <= log.tree.size and log.tree.root(head.size) == head.root


def signed_by(note: Note, key: str) -> bool:
    """Whether this key signed the head."""
    try:
        return notes.verify_head(note, [key]) == key
    except NoteInvalid:
        return False


def self_fork(log: StoredLog, head: Checkpoint) -> SelfFork:
    """The error for a head by our own key that is not of the log as stored."""
    have = log.tree.size
    got = f"{have} are here" if head.size > have else "others are here"
    return SelfFork(
        head.size,
        f"{log.origin}: our key signed {head.size} entries elsewhere, {got}: an old backup was restored, or the key is "
        "used on two machines; stop the other one, then forge-ledger recover",
    )
