"""Stored logs in memory, and the checks by which entries come to be stored.

`stage` checks and changes nothing; `commit` writes what was staged in one transaction and then updates the memory. The
caller holds the store's lock. A log in memory takes 64 bytes per entry; its entries stay on disk.

IO: the database it is given.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ledger import merkle, notes
from ledger.codec import MAX_INT
from ledger.entries import Entry, Open, Settle, StageOpen, StageSettle, parse
from ledger.errors import Behind, CodecInvalid, Conflict, EntryInvalid, ProofInvalid, StoreUnreadable
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint, Note
from ledger.references import named_by
from ledger.rules import AccountRules, RunRules, Terms, rules_of

from .database import Database

MAX_HELD = 1 << 21
"""How many entries' hashes are kept in memory, of all logs together: 64 bytes each."""
_LOG_COST = 64
"""What a log costs besides, in entries."""
_OPENS, _SETTLES = (re.compile(rb'"type":"(stage_)?%s"' % name).search for name in (b"open", b"settle"))


class StoredLog:
    """A log in memory: hashes and rules up to its stored size."""

    def __init__(self, origin: str, rules: AccountRules | RunRules, row: int | None, own: str) -> None:
        self.origin = origin
        self.row = row
        """Its row in the database; None until something is stored."""
        self.own = own
        """The key with which this store appends to it; empty for others' logs."""
        self.rules = rules
        self.tree = Tree()
        self.names: dict[str, int] = {}
        """The logs that its entries name, with the first entry that does."""
        self.held = 0
        """What it was counted for against `MAX_HELD`."""

    @property
    def of_account(self) -> bool:
        """Whether one account writes it, not the leaders of a run."""
        return isinstance(self.rules, AccountRules)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A head that somebody offers, and how the entries that come with it belong to it."""

    note: Note
    """The head, signed by a writer of the log."""
    head: Checkpoint
    """What it says."""
    proof: Sequence[bytes] | None = None
    """Without one the entries lead up to the head; with one they end before, and it leads from their end to there."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """Entries that passed all checks and wait to be written."""

    log: StoredLog
    """Where they go."""
    keep: int
    """How many stored entries stay."""
    entries: Sequence[bytes]
    """Those that follow."""
    leaves: Sequence[bytes]
    """Their leaf hashes."""
    rules: AccountRules | RunRules
    """The rules after all of them."""
    names: Mapping[str, int]
    """The logs that they are the first to name, with the entry that does."""

    @property
    def size(self) -> int:
        """How many entries the log will have."""
        return self.keep + len(self.leaves)

    def root(self, size: int) -> bytes:
        """The root that the log will have at `size`."""
        if size <= self.keep:
            return self.log.tree.root(size)
        frontier = self.log.tree.frontier(self.keep)
        for leaf in self.leaves[: size - self.keep]:
            frontier.append(leaf)
        return frontier.root


class Logs:
    """All stored logs, each read from disk when it is needed and then kept while there is room."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self._db = database
        self._terms = terms
        self._logs: dict[str, StoredLog] = {}  # the one used longest ago first
        self._held = 0

    def get(self, origin: str) -> StoredLog:
        """The log as stored.

        Raises:
            EntryInvalid: no log of this network can have that origin; StoreUnreadable: an entry is damaged.
        """
        log = self._logs.get(origin)
        if log is None:
            rules = rules_of(self._terms, origin)
            found = self._db.log(origin)
            if found is None:
                return StoredLog(origin, rules, None, own="")
            log = StoredLog(origin, rules, *found)
            for index, leaf, data in self._db.each_entry(found[0], 0, MAX_INT):
                if index != log.tree.size or leaf_hash(data) != leaf:
                    raise StoreUnreadable(f"{origin}: entry {index} is damaged; forge-ledger verify tells more")
                log.tree.append(leaf)
            certified = self._db.head("certificate", found[0])
            if certified is not None and certified.size > log.tree.size:
                got = f"{certified.size} entries are certified, {log.tree.size} are here"
                raise StoreUnreadable(f"{origin}: {got}; forge-ledger verify tells more")
            log.rules = self._replayed(log, log.tree.size)
            log.names = self._db.names(found[0])
        self._hold(log)
        return log

    def _hold(self, log: StoredLog) -> None:
        """Keep a log as the one used last, and forget those used longest ago where there are too many."""
        self._forget(log.origin)
        self._logs[log.origin] = log
        log.held = log.tree.size + _LOG_COST
        self._held += log.held
        while self._held > MAX_HELD and len(self._logs) > 1:
            self._forget(next(iter(self._logs)))

    def _forget(self, origin: str) -> None:
        log = self._logs.pop(origin, None)
        if log is not None:
            self._held -= log.held

    def stage(
        self, log: StoredLog, start: int, entries: Sequence[bytes], offer: Offer | None = None, fixed: int = 0
    ) -> Staged:
        """Check entries that continue the log, or replace what of it lies above `fixed`, and belong to what is offered.

        Raises:
            Behind, Conflict, EntryInvalid, NoteInvalid: they do not.
        """
        have = log.tree.size
        if start > have:
            raise Behind(have)
        if offer is not None:
            end = max(have, start + len(entries))
            entries = entries[: max(0, offer.head.size - start)]
            if offer.proof is None and end < offer.head.size:
                raise Behind(end)
            writers = self._writers(log, entries)
            if not writers or (offer.proof is not None and start + len(entries) == 0):
                raise Behind(0)
            notes.verify_head(offer.note, writers)  # first: it costs little and keeps strangers out
        leaves = [leaf_hash(data) for data in entries]
        keep = next((i for i, leaf in enumerate(leaves, start) if i < have and log.tree.node(0, i) != leaf), have)
        if keep < have and keep < fixed:
            raise Conflict(f"{log.origin}: entry {keep} is another than the one stored and certified or signed", keep)
        staged = self._checked(log, keep, entries[keep - start :], leaves[keep - start :])
        if offer is not None:
            _check_offer(staged, start + len(entries), offer, start, fixed)
        return staged

    def _writers(self, log: StoredLog, entries: Sequence[bytes]) -> tuple[str, ...]:
        """Who may sign the log's heads; the first entry tells, where it is not stored yet."""
        if log.tree.size or not entries:
            return log.rules.writers
        rules = log.rules.copy()
        _apply(rules, 0, entries[0])
        return rules.writers

    def _checked(self, log: StoredLog, keep: int, entries: Sequence[bytes], leaves: Sequence[bytes]) -> Staged:
        """Stage entries that follow the first `keep`, once every rule has passed them."""
        have = log.tree.size
        rules = log.rules.copy() if keep == have else self._replayed(log, keep)
        names: dict[str, int] = {}
        for index, data in enumerate(entries, keep):
            for origin in named_by(_apply(rules, index, data), self._terms):
                if log.names.get(origin, have) >= keep:
                    names.setdefault(origin, index)
        return Staged(log=log, keep=keep, entries=entries, leaves=leaves, rules=rules, names=names)

    def _replayed(self, log: StoredLog, size: int) -> AccountRules | RunRules:
        """The rules after the first `size` stored entries, which passed them when they were stored.

        An account's rules know no more than the number of entries. A run's follow from `begin` and what came after the
        last settled round was opened, as its open states all that went before.
        """
        rules = rules_of(self._terms, log.origin, signatures=False)
        if isinstance(rules, AccountRules):
            rules.size = size
        elif log.row is not None and size:
            first = self._last_settled_open(log.row, size)
            rules.apply(parse(self._db.entries(log.row, 0, 1)[0][2]))
            for index, _, data in self._db.each_entry(log.row, first or 1, size):
                entry = parse(data)
                if index == first and isinstance(entry, Open | StageOpen):
                    rules.size, rules.settled, rules.state = index, entry.round - 1, entry.state
                rules.apply(entry)
        rules.signatures = True
        return rules

    def _last_settled_open(self, row: int, size: int) -> int:
        """Where the last settled round was opened; 0 if none was."""
        settled, end = False, size
        while end > 1:
            start = max(1, end - 256)
            for index, _, data in reversed(self._db.entries(row, start, end)):
                if _SETTLES(data):
                    settled = settled or isinstance(parse(data), Settle | StageSettle)
                elif settled and _OPENS(data) and isinstance(parse(data), Open | StageOpen):
                    return index
            end = start
        return 0

    def commit(self, staged: Staged, *also: Callable[[int], object], reread: bool = False) -> StoredLog:
        """Write what was staged, and with it whatever `also` writes for the log's row; on disk when this returns.

        With `reread`, the log in memory is what the disk gave back.
        """
        log, leaves = staged.log, staged.leaves
        with self.transaction(log.origin):
            row = self._db.add_log(log.origin) if log.row is None else log.row
            if staged.keep < log.tree.size:
                self._db.drop_entries(row, staged.keep)
            self._db.add_entries(row, staged.keep, staged.leaves, staged.entries)
            self._db.add_names(row, staged.names)
            for write in also:
                write(row)
        if reread:
            leaves = [leaf_hash(data) for _, _, data in self._db.entries(row, staged.keep, MAX_INT)]
            if leaves != staged.leaves:
                self._forget(log.origin)
                raise StoreUnreadable(f"{log.origin}: the disk gave back other entries than were written; not signed")
        log.row, log.rules = row, staged.rules
        if staged.keep < log.tree.size:
            log.tree.truncate(staged.keep)
            log.names = {origin: index for origin, index in log.names.items() if index < staged.keep}
        for leaf in leaves:
            log.tree.append(leaf)
        log.names.update(staged.names)
        self._hold(log)
        return log

    @contextmanager
    def transaction(self, origin: str) -> Iterator[None]:
        """A transaction about one log; where it fails the log is read from disk again."""
        try:
            with self._db.transaction():
                yield
        except BaseException:
            self._forget(origin)
            raise


def _apply(rules: AccountRules | RunRules, index: int, data: bytes) -> Entry:
    try:
        entry = parse(data)
        rules.apply(entry)
    except CodecInvalid as exc:
        raise EntryInvalid(rule="encoding", got=exc.message, wanted="canonical bytes", index=index) from exc
    except EntryInvalid as exc:
        raise exc.at(index) from exc
    return entry


def _check_offer(staged: Staged, end: int, offer: Offer, start: int, fixed: int) -> None:
    """Check that the log as staged leads to the head that is offered; `end` is behind the last entry given."""
    head, have, origin = offer.head, staged.log.tree.size, staged.log.origin
    try:
        if offer.proof is not None and 0 < end < head.size:
            merkle.verify_consistency(end, head.size, staged.root(end), head.root, offer.proof)
            return
        if staged.root(head.size) == head.root:
            return
        got, wanted = staged.root(head.size).hex()[:16], head.root.hex()[:16]
        why = f"the entries up to {head.size} give root {got}…, wanted the head's {wanted}…"
    except ProofInvalid as exc:
        why = f"the entries up to {end} are not of the head at {head.size}: {exc.message}"
    if staged.keep == have > fixed and start > fixed:  # what is stored above may be another leader's, or never was sent
        raise Behind(fixed, f"{origin}: the head is not of these entries; send them from {fixed} on")
    raise Conflict(f"{origin}: {why}")
