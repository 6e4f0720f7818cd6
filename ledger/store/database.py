"""The rows of the SQLite file under the store, and its transactions.

IO: one SQLite file.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ledger.errors import Conflict, StoreUnreadable

from . import file as storefile

HEADS = ("head", "certificate", "promise")
"""The tables that hold one note per log: the newest signed, certified and promised."""
_BATCH = 1024


class HeadRow(NamedTuple):
    """A signed head."""

    size: int
    root: bytes
    note: bytes


class Database:
    """One connection; all methods run under the store's lock."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, create: Mapping[str, bytes] | None = None, read_only: bool = False) -> "Database":
        """Open the file; `create` is what belongs to the whole of a new one, and makes it where it is missing.

        Raises:
            StoreUnreadable: missing, or not such a file; StoreBusy: another process writes it.
        """
        storefile.check_file(path, create is not None)
        lock = None if read_only else storefile.lock(path)
        try:
            connection = storefile.connect(path, read_only, create)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        return cls(path, connection, lock)

    def close(self) -> None:
        """Close the file and let others write it."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: committed and on disk when the block ends, undone when it raises.

        Raises:
            StoreUnreadable: the disk is full or the file is broken; StoreBusy: another program holds it. Nothing was
                written.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise storefile.refusal(f"{self.path}: cannot write: {exc}; nothing was changed", exc) from exc

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state of the file, whatever its writer does meanwhile."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            self.rows("ROLLBACK")

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """The rows of a query.

        Raises:
            StoreUnreadable: the file is broken.
        """
        try:
            return self._connection.execute(query, values).fetchall()
        except storefile.BROKEN as exc:
            raise storefile.refusal(f"{self.path}: cannot read: {exc}; forge-ledger verify tells more", exc) from exc

    def _typed(self, table: str, rows: list[tuple[object, ...]], *kinds: type) -> list[tuple[object, ...]]:
        """The rows, if each column holds its kind: SQLite checks that when it writes, not what a damaged file holds."""
        found = [{*map(type, column)} for column in zip(*rows, strict=True)]
        if rows and found != [{kind} for kind in kinds]:
            row = next(row for row in rows if tuple(map(type, row)) != kinds)
            got, names = [type(value).__name__ for value in row], [kind.__name__ for kind in kinds]
            raise StoreUnreadable(f"{self.path}: a row of {table} holds {got}, wanted {names}: the file is damaged")
        return rows

    def after(self, last: object, start: int) -> int:
        """Where to read on after rows from `start` to `last`.

        Raises:
            StoreUnreadable: not further on: in a damaged file, reading could go round in circles.
        """
        if type(last) is not int or last < start:
            raise StoreUnreadable(f"{self.path}: rows from {start} on end at {last!r}: the file is damaged")
        return last + 1

    def change(self, query: str, *values: object) -> int:
        """Run a statement inside a transaction; how many rows it changed."""
        return self._connection.execute(query, values).rowcount

    def meta(self, name: str) -> bytes | None:
        """A value that belongs to the whole file."""
        rows = self.rows("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None  # type: ignore[return-value]

    def logs(self) -> dict[str, int]:
        """Row ids of the logs by origin."""
        rows = self.rows("SELECT origin, id FROM log ORDER BY origin")
        return dict(self._typed("log", rows, str, int))  # type: ignore[arg-type]

    def log(self, origin: str) -> tuple[int, str] | None:
        """The row id of a log, and the key with which this store appends to it, or empty."""
        rows = self._typed("log", self.rows("SELECT id, own FROM log WHERE origin = ?", origin), int, str)
        return rows[0] if rows else None  # type: ignore[return-value]

    def add_log(self, origin: str) -> int:
        """The row id of the log, made if new."""
        self.change("INSERT OR IGNORE INTO log (origin) VALUES (?)", origin)
        return self.rows("SELECT id FROM log WHERE origin = ?", origin)[0][0]  # type: ignore[return-value]

    def size(self, log: int) -> int:
        """How many entries the log has."""
        return int(str(self.rows("SELECT coalesce(max(idx) + 1, 0) FROM entry WHERE log = ?", log)[0][0]))

    def entries(self, log: int, start: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Index, leaf hash and bytes of the entries [start, end)."""
        query = "SELECT idx, leaf, data FROM entry WHERE log = ? AND idx >= ? AND idx < ? ORDER BY idx"
        return self._typed("entry", self.rows(query, log, start, end), int, bytes, bytes)  # type: ignore[return-value]

    def each_entry(self, log: int, start: int, end: int) -> Iterator[tuple[int, bytes, bytes]]:
        """As `entries`, in the memory of a few."""
        query = "SELECT idx, leaf, data FROM entry WHERE log = ? AND idx >= ? AND idx < ? ORDER BY idx LIMIT ?"
        while rows := self.rows(query, log, start, end, _BATCH):
            yield from self._typed("entry", rows, int, bytes, bytes)  # type: ignore[misc]
            start = int(str(rows[-1][0])) + 1

    def add_entries(self, log: int, start: int, leaves: Sequence[bytes], entries: Sequence[bytes]) -> None:
        """Add entries from index `start` on."""
        self._connection.executemany(
            "INSERT INTO entry (log, idx, leaf, data) VALUES (?, ?, ?, ?)",
            ((log, start + i, leaf, data) for i, (leaf, data) in enumerate(zip(leaves, entries, strict=True))),
        )

    def drop_entries(self, log: int, start: int) -> None:
        """Remove the entries from `start` on, and the signed head that covers them; one of our own is remembered."""
        covers = "log = ? AND size > ?"
        own = "(SELECT own FROM log WHERE id = head.log) != ''"
        self.change(f"INSERT OR IGNORE INTO replaced SELECT * FROM head WHERE {covers} AND {own}", log, start)
        self.change("DELETE FROM entry WHERE log = ? AND idx >= ?", log, start)
        self.change("DELETE FROM named WHERE log = ? AND idx >= ?", log, start)
        self.change(f"DELETE FROM head WHERE {covers}", log, start)

    def names(self, log: int) -> dict[str, int]:
        """The other logs that the log's entries name, each with the first entry that does."""
        return dict(self.rows("SELECT origin, idx FROM named WHERE log = ? ORDER BY idx DESC", log))  # type: ignore[arg-type]

    def add_names(self, log: int, names: Mapping[str, int]) -> None:
        """Add which other logs the log's entries name, each at the index that does so first."""
        rows = ((log, index, origin) for origin, index in names.items())
        self._connection.executemany("INSERT OR REPLACE INTO named (log, idx, origin) VALUES (?, ?, ?)", rows)

    def head(self, table: str, log: int) -> HeadRow | None:
        """The log's row in one of `HEADS`."""
        rows = self.rows(f"SELECT size, root, note FROM {table} WHERE log = ?", log)
        return HeadRow(*self._typed(table, rows, int, bytes, bytes)[0]) if rows else None  # type: ignore[arg-type]

    def set_head(self, table: str, log: int, row: HeadRow) -> None:
        """Set the log's row in one of `HEADS`."""
        self.change(f"INSERT OR REPLACE INTO {table} (log, size, root, note) VALUES (?, ?, ?, ?)", log, *row)

    def outvote(self, log: int, start: int) -> None:
        """Keep a promise that covers entries from `start` on, which give way to certified ones, apart from the log."""
        self.change("INSERT OR IGNORE INTO outvoted SELECT * FROM promise WHERE log = ? AND size > ?", log, start)
        self.change("DELETE FROM promise WHERE log = ? AND size > ?", log, start)

    def swap_promise(self, log: int, old: HeadRow | None, new: HeadRow) -> None:
        """Compare and set: the promise on disk must be the one that was looked at.

        Raises:
            Conflict: it is not.
        """
        if old is None:
            query = "INSERT OR IGNORE INTO promise (log, size, root, note) VALUES (?, ?, ?, ?)"
            changed = self.change(query, log, *new)
        else:
            query = "UPDATE promise SET size = ?, root = ?, note = ? WHERE log = ? AND size = ? AND root = ?"
            changed = self.change(query, *new, log, old.size, old.root)
        if changed != 1:
            raise Conflict("the promise changed meanwhile; ask again")

    def term(self, log: int) -> tuple[int, str] | None:
        """Number and leader of the term that was given for a run's log last."""
        rows = self._typed("term", self.rows("SELECT number, leader FROM term WHERE log = ?", log), int, str)
        return rows[0] if rows else None  # type: ignore[return-value]

    def set_term(self, log: int, number: int, leader: str) -> None:
        """Set the log's term."""
        self.change("INSERT OR REPLACE INTO term (log, number, leader) VALUES (?, ?, ?)", log, number, leader)

    def proven(self, log: int) -> int:
        """How many entries are proven to be part of what is certified, where not all of that is stored yet."""
        rows = self.rows("SELECT size FROM proven WHERE log = ?", log)
        return rows[0][0] if rows else 0  # type: ignore[return-value]

    def prove(self, log: int, size: int) -> None:
        """Note that so many entries are."""
        self.change("INSERT OR REPLACE INTO proven (log, size) VALUES (?, ?)", log, size)

    def certify(self, log: int, row: HeadRow) -> None:
        """Set the log's certificate."""
        self.set_head("certificate", log, row)
        self.change("DELETE FROM proven WHERE log = ?", log)
        self.note_change(log, "certificate")

    def accused(self, log: int) -> bool:
        """Whether there is evidence about the log."""
        return bool(self.rows("SELECT 1 FROM evidence WHERE log = ? LIMIT 1", log))

    def note_change(self, log: int, kind: str) -> None:
        """Give the log a place at the end of the list of changes, of its `certificate` or its `evidence`."""
        self.change("INSERT OR REPLACE INTO change (log, kind) VALUES (?, ?)", log, kind)
