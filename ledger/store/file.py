"""The SQLite file under the store as a file: its tables, how it is opened, and what is refused.

WAL, `synchronous=FULL`, STRICT tables, and one writing connection per file, kept so by a lock on a file beside it:
several checkpointing writers can lose data in SQLite up to 3.51.2.

IO: one SQLite file and its lock.
"""

import fcntl
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from ledger.errors import LedgerError, StoreBusy, StoreUnreadable

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE log (id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, own TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE entry (log INTEGER NOT NULL, idx INTEGER NOT NULL, leaf BLOB NOT NULL, data BLOB NOT NULL,
                    PRIMARY KEY (log, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE head (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE certificate (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL,
                          note BLOB NOT NULL) STRICT;
CREATE TABLE promise (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE outvoted (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE replaced (log INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE term (log INTEGER PRIMARY KEY, number INTEGER NOT NULL, leader TEXT NOT NULL) STRICT;
CREATE TABLE proven (log INTEGER PRIMARY KEY, size INTEGER NOT NULL) STRICT;
CREATE TABLE evidence (log INTEGER NOT NULL, culprit TEXT NOT NULL, data BLOB NOT NULL,
                       PRIMARY KEY (log, culprit)) STRICT;
CREATE TABLE named (log INTEGER NOT NULL, idx INTEGER NOT NULL, origin TEXT NOT NULL,
                    PRIMARY KEY (log, idx, origin)) STRICT, WITHOUT ROWID;
CREATE TABLE change (seq INTEGER PRIMARY KEY AUTOINCREMENT, log INTEGER NOT NULL, kind TEXT NOT NULL,
                     UNIQUE (log, kind)) STRICT;
"""
VERSION = 3
"""`PRAGMA user_version` of this layout."""
APPLICATION_ID = 0x464C4447
"""`PRAGMA application_id`: "FLDG"."""
WAIT_S = 5
"""How long a program that is not ours may hold the file before a commit is given up."""
BROKEN = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises on a broken file; its own message about one may hold bytes that are no text."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def check_file(path: Path, create: bool) -> None:
    """Check what can be seen from outside.

    Raises:
        StoreUnreadable: it is no file, missing, empty or cut off.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise StoreUnreadable(f"{path}: is {what}, wanted the file of a ledger; give the --store FILE itself")
    if not path.exists() and not create:
        raise StoreUnreadable(f"{path}: there is no ledger here; give the --home or --store of a peer that ran")
    if not path.exists():
        return
    unfinished = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    try:
        with open(path, "rb") as file:
            header = file.read(100)
        size = path.stat().st_size
        pending = any(each.exists() and each.stat().st_size > 0 for each in unfinished)
    except OSError as exc:
        raise StoreUnreadable(f"{path}: cannot read: {exc.strerror}; check its owner and permissions") from exc
    if pending:
        return  # an interrupted write: SQLite completes or undoes it
    if not header and not create:
        raise StoreUnreadable(f"{path}: is empty, wanted a ledger; restore it, or remove it and replicate again")
    whole = max(100, int.from_bytes(header[28:32], "big") * int.from_bytes(header[16:18], "big"))
    if header and header.startswith(b"SQLite format 3\0"[: len(header)]) and size < whole:
        raise StoreUnreadable(f"{path}: was cut off at {size} of {whole} bytes; restore it, or move it away")


def refusal(message: str, exc: Exception) -> LedgerError:
    """The error that an error of SQLite becomes."""
    busy = getattr(exc, "sqlite_errorcode", None) in _BUSY
    return StoreBusy(f"{message}; close the other program") if busy else StoreUnreadable(message)


def lock(path: Path) -> int:
    """Keep other writers out.

    Raises:
        StoreBusy: one is in already; StoreUnreadable: the folder cannot be written.
    """
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


def connect(path: Path, read_only: bool, meta: Mapping[str, bytes] | None) -> sqlite3.Connection:
    """The connection, once the file is known to be a ledger or was made one.

    Raises:
        StoreUnreadable, StoreBusy: it is not.
    """
    # Without a -wal file all is in the main file, and `immutable` also reads it in a folder that cannot be written.
    mode = "rw" if meta is None else "rwc"
    if read_only:
        mode = "ro" if path.with_name(path.name + "-wal").exists() else "ro&immutable=1"
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_S)
        try:
            prepare(path, connection, read_only, meta)
        except BaseException:
            connection.close()
            raise
    except BROKEN as exc:
        raise refusal(f"{path}: cannot open the ledger: {exc}", exc) from exc
    return connection


def prepare(
    path: Path, connection: sqlite3.Connection, read_only: bool, meta: Mapping[str, bytes] | None = None
) -> None:
    """Check that it is a ledger; an empty file becomes one that holds `meta`.

    Raises:
        StoreUnreadable: it is another program's, or of another version.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not empty:
        if application != APPLICATION_ID:
            raise StoreUnreadable(f"{path}: not a ledger, but another program's file (application id {application})")
        if version != VERSION:
            age = "a newer program; use that one" if version > VERSION else "an older one; move it away and replicate"
            raise StoreUnreadable(f"{path}: not a ledger of layout {VERSION} but of {version}, made by {age}")
    elif meta is None or read_only:
        raise StoreUnreadable(f"{path}: is empty, wanted a ledger; restore it, or remove it and replicate again")
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    if meta is not None and empty:
        # One transaction: the file is either empty or whole.
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", meta.items())
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
