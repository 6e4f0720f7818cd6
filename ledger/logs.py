"""Stored logs in memory, and the checks by which entries come to be stored.

`stage` checks and changes nothing; `commit` writes what was staged in one transaction and then updates the memory. The
caller holds the store's lock.

IO: the database it is given.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .codec import MAX_INT
from .database import Database, HeadRow
from .entries import parse
from .errors import Behind, CodecInvalid, Conflict, EntryInvalid, StoreUnreadable
from .merkle import Tree, leaf_hash
from .notes import Checkpoint
from .rules import AccountRules, RunRules, Terms, rules_of


class StoredLog:
    """A log in memory: hashes and rules up to its stored size."""

    def __init__(self, origin: str, rules: AccountRules | RunRules, row: int | None) -> None:
        self.origin = origin
        self.row = row
        """Its row in the database; None until something is stored."""
        self.rules = rules
        self.tree = Tree()


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

    def root(self, size: int) -> bytes:
        """The root that the log will have at `size`."""
        if size <= self.keep:
            return self.log.tree.root(size)
        frontier = self.log.tree.frontier(self.keep)
        for leaf in self.leaves[: size - self.keep]:
            frontier.append(leaf)
        return frontier.root


class Logs:
    """All stored logs, each read from disk once and then kept."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self._db = database
        self._terms = terms
        self._logs: dict[str, StoredLog] = {}

    def get(self, origin: str) -> StoredLog:
        """The log as stored.

        Raises:
            EntryInvalid: no log of this network can have that origin; StoreUnreadable: an entry is damaged.
        """
        log = self._logs.get(origin)
        if log is None:
            log = StoredLog(origin, rules_of(self._terms, origin, signatures=False), self._db.logs().get(origin))
            for index, leaf, data in self._db.entries(log.row, 0, MAX_INT) if log.row is not None else ():
                if index != log.tree.size or leaf_hash(data) != leaf:
                    raise StoreUnreadable(f"{origin}: entry {index} is damaged; forge-ledger verify tells more")
                log.tree.append(leaf)
                log.rules.apply(parse(data))
            log.rules.signatures = True
            self._logs[origin] = log
        return log

    def stage(
        self, log: StoredLog, start: int, entries: Sequence[bytes], head: Checkpoint | None = None, fixed: int = 0
    ) -> Staged:
        """Check entries that continue the log, or replace what of it lies above `fixed`, and give the head's root.

        Raises:
            Behind, Conflict, EntryInvalid: they do not.
        """
        have = log.tree.size
        if start > have:
            raise Behind(have)
        if head is not None:
            entries = entries[: max(0, head.size - start)]
            if max(have, start + len(entries)) < head.size:
                raise Behind(max(have, start + len(entries)))
        leaves = [leaf_hash(data) for data in entries]
        keep = next((i for i, leaf in enumerate(leaves, start) if i < have and log.tree.node(0, i) != leaf), have)
        rules = self._rules_at(log, keep, fixed)
        fresh = entries[keep - start :]
        for index, data in enumerate(fresh, keep):
            try:
                rules.apply(parse(data))
            except CodecInvalid as exc:
                raise EntryInvalid(rule="encoding", got=exc.message, wanted="canonical bytes", index=index) from exc
            except EntryInvalid as exc:
                raise exc.at(index) from exc
        staged = Staged(log=log, keep=keep, entries=fresh, leaves=leaves[keep - start :], rules=rules)
        if head is not None and staged.root(head.size) != head.root:
            if keep == have > fixed and start > fixed and isinstance(rules, RunRules):
                raise Behind(fixed, f"{log.origin}: the head is not of these entries; send them from {fixed} on")
            got, wanted = staged.root(head.size).hex()[:16], head.root.hex()[:16]
            raise Conflict(f"{log.origin}: the entries up to {head.size} give root {got}…, wanted the head's {wanted}…")
        return staged

    def _rules_at(self, log: StoredLog, keep: int, fixed: int) -> AccountRules | RunRules:
        """The rules after the first `keep` stored entries; what is cut off must be a run's and not yet fixed."""
        if keep == log.tree.size:
            return log.rules.copy()
        if keep < fixed or isinstance(log.rules, AccountRules) or log.row is None:
            hint = "is its key used on two machines, or an old backup restored?"
            raise Conflict(f"{log.origin}: entry {keep} is another than the one stored; {hint}")
        rules = rules_of(self._terms, log.origin, signatures=False)
        for _, _, data in self._db.entries(log.row, 0, keep):
            rules.apply(parse(data))
        rules.signatures = True
        return rules

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
            for write in also:
                write(row)
        if reread:
            leaves = [leaf_hash(data) for _, _, data in self._db.entries(row, staged.keep, MAX_INT)]
            if leaves != staged.leaves:
                del self._logs[log.origin]
                raise StoreUnreadable(f"{log.origin}: the disk gave back other entries than were written; not signed")
        log.row, log.rules = row, staged.rules
        log.tree.truncate(staged.keep)
        for leaf in leaves:
            log.tree.append(leaf)
        return log

    @contextmanager
    def transaction(self, origin: str) -> Iterator[None]:
        """A transaction about one log; where it fails the log is read from disk again."""
        try:
            with self._db.transaction():
                yield
        except BaseException:
            self._logs.pop(origin, None)
            raise

    def swap_promise(self, row: int, old: HeadRow | None, new: HeadRow) -> None:
        """Compare and set: the promise on disk must be the one that was looked at.

        Raises:
            Conflict: it is not.
        """
        if old is None:
            query = "INSERT OR IGNORE INTO promise (log, size, root, note) VALUES (?, ?, ?, ?)"
            changed = self._db.change(query, row, *new)
        else:
            query = "UPDATE promise SET size = ?, root = ?, note = ? WHERE log = ? AND size = ? AND root = ?"
            changed = self._db.change(query, *new, row, old.size, old.root)
        if changed != 1:
            raise Conflict("the promise changed meanwhile; ask again")


def contradicts(log: StoredLog, promised: HeadRow, head: Checkpoint, start: int, entries: Sequence[bytes]) -> bool:
    """Whether the head, of which the entries from `start` on are given, cannot be of one log with the promised one."""
    if start > log.tree.size or promised.size > log.tree.size:
        return False
    if head.size <= promised.size:
        return log.tree.root(head.size) != head.root
    frontier, root = log.tree.frontier(start), promised.root
    for data in entries[: head.size - start]:
        frontier.append(leaf_hash(data))
        if frontier.size == promised.size:
            root = frontier.root
    return frontier.root == head.root and root != promised.root
