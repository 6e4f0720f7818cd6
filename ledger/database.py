"""The SQLite file under the store: its tables, its rows, and how it is opened.

WAL, `synchronous=FULL`, STRICT tables, and one writing connection per file, kept so by a lock on a file beside it:
several checkpointing writers can lose data in SQLite up to 3.51.2.

IO: one SQLite file and its lock.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .errors import StoreBusy, StoreUnreadable

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE log (id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE entry (log INTEGER NOT NULL, idx INTEGER NOT NULL, leaf BLOB NOT NULL, data BLOB NOT NULL,
                    PRIMARY KEY (log, idx)) STRICT;
CREATE TABLE head (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE certificate (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL,
                          note BLOB NOT NULL) STRICT;
CREATE TABLE promise (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE evidence (log INTEGER NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL,
                       PRIMARY KEY (log, first, second)) STRICT;
"""
VERSION = 1
"""`PRAGMA user_version` of this layout."""
APPLICATION_ID = 0x464C4447
"""`PRAGMA application_id`: "FLDG"."""
HEADS = ("head", "certificate", "promise")
"""The tables that hold one note per log: the newest signed, certified and promised."""


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
    def open(cls, path: Path, *, create: bool = False, read_only: bool = False) -> "Database":
        """Open the file.

        Raises:
            StoreUnreadable: missing, or not such a file; StoreBusy: another process writes it.
        """
        if not create and not path.is_file():
            raise StoreUnreadable(f"{path}: there is no ledger here; give the --home or --store of a peer that ran")
        lock = None if read_only else _lock(path)
        try:
            connection = _connect(path, read_only)
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
            StoreUnreadable: the disk is full or the file is broken; nothing was written.
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
            raise StoreUnreadable(f"{self.path}: cannot write: {exc}; nothing was changed") from exc

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
        except sqlite3.Error as exc:
            raise StoreUnreadable(f"{self.path}: cannot read: {exc}") from exc

    def _typed(self, table: str, rows: list[tuple[object, ...]], *kinds: type) -> list[tuple[object, ...]]:
        """The rows, if each column holds its kind: SQLite checks that when it writes, not what a damaged file holds."""
        wanted = list(kinds)
        for row in rows:
            if list(map(type, row)) != wanted:
                got, names = [type(value).__name__ for value in row], [kind.__name__ for kind in kinds]
                raise StoreUnreadable(f"{self.path}: a row of {table} holds {got}, wanted {names}: the file is damaged")
        return rows

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

    def add_log(self, origin: str) -> int:
        """The row id of the log, made if new."""
        self.change("INSERT OR IGNORE INTO log (origin) VALUES (?)", origin)
        return self.rows("SELECT id FROM log WHERE origin = ?", origin)[0][0]  # type: ignore[return-value]

    def entries(self, log: int, start: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Index, leaf hash and bytes of the entries [start, end)."""
        query = "SELECT idx, leaf, data FROM entry WHERE log = ? AND idx >= ? AND idx < ? ORDER BY idx"
        return self._typed("entry", self.rows(query, log, start, end), int, bytes, bytes)  # type: ignore[return-value]

    def add_entries(self, log: int, start: int, leaves: Sequence[bytes], entries: Sequence[bytes]) -> None:
        """Add entries from index `start` on."""
        self._connection.executemany(
            "INSERT INTO entry (log, idx, leaf, data) VALUES (?, ?, ?, ?)",
            ((log, start + i, leaf, data) for i, (leaf, data) in enumerate(zip(leaves, entries, strict=True))),
        )

    def drop_entries(self, log: int, start: int) -> None:
        """Remove the entries from `start` on, and the signed head that covers them."""
        self.change("DELETE FROM entry WHERE log = ? AND idx >= ?", log, start)
        self.change("DELETE FROM head WHERE log = ? AND size > ?", log, start)

    def head(self, table: str, log: int) -> HeadRow | None:
        """The log's row in one of `HEADS`."""
        rows = self.rows(f"SELECT size, root, note FROM {table} WHERE log = ?", log)
        return HeadRow(*self._typed(table, rows, int, bytes, bytes)[0]) if rows else None  # type: ignore[arg-type]

    def set_head(self, table: str, log: int, row: HeadRow) -> None:
        """Set the log's row in one of `HEADS`."""
        self.change(f"INSERT OR REPLACE INTO {table} (log, size, root, note) VALUES (?, ?, ?, ?)", log, *row)


def _lock(path: Path) -> int:
    try:
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreUnreadable(f"{path}: cannot write beside it: {exc.strerror}; check the folder") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        raise StoreBusy(f"{path}: another process writes this ledger; stop that daemon first") from exc
    return handle


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    # Without a -wal file all is in the main file, and `immutable` also reads it in a folder that cannot be written.
    mode = "rwc" if not read_only else "ro" if path.with_name(path.name + "-wal").exists() else "ro&immutable=1"
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            _prepare(path, connection, read_only)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise StoreUnreadable(f"{path}: cannot open the ledger: {exc}") from exc
    return connection


def _prepare(path: Path, connection: sqlite3.Connection, read_only: bool) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    found = (application, version)
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            # One script, one transaction: the file is either empty or whole.
            pragmas = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {pragmas} COMMIT;")
            found = (APPLICATION_ID, VERSION)
    if found != (APPLICATION_ID, VERSION):
        raise StoreUnreadable(f"{path}: not a ledger of this version (application id {found[0]}, version {found[1]})")
