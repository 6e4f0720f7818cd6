"""A ledger's file that is mutated and made anew, and other values of the kinds that it holds.

IO: one SQLite file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from random import Random

from ledger.merkle import leaf_hash


class File:
    """A ledger's file that is mutated and made anew."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._content = content

    def renew(self) -> None:
        """As it was."""
        for suffix in ("-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.path.write_bytes(self._content)

    def sql(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Change or read it."""
        return self.many([(query, values)])

    def many(self, steps: Sequence[tuple[str, Sequence[object]]]) -> list[tuple[object, ...]]:
        """Several changes; the rows of the last."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA writable_schema = ON")
            rows: list[tuple[object, ...]] = []
            for query, values in steps:
                rows = connection.execute(query, tuple(values)).fetchall()
            return rows
        finally:
            connection.close()

    def entries(self, origin: str, size: int) -> list[bytes]:
        """The bytes of a log's first entries."""
        query = "SELECT data FROM entry JOIN log ON log = id WHERE origin = ? AND idx BETWEEN 0 AND ? ORDER BY idx"
        return [bytes(row[0]) for row in self.sql(query, origin, size - 1)]  # type: ignore[call-overload]

    def row(self, origin: str) -> int:
        """A log's number."""
        rows = self.sql("SELECT id FROM log WHERE origin = ?", origin)
        return int(str(rows[0][0])) if rows else 99

    def write(self, origin: str, data: Sequence[bytes]) -> None:
        """Put entries, rightly hashed, in place of the log's."""
        row = self.row(origin)
        insert = "INSERT INTO entry (log, idx, leaf, data) VALUES (?, ?, ?, ?)"
        rows = [(insert, (row, index, leaf_hash(item), item)) for index, item in enumerate(data)]
        self.many([("DELETE FROM entry WHERE log = ?", (row,)), *rows])

    def note(self, table: str, origin: str) -> bytes:
        """A stored note, or an empty one."""
        rows = self.sql(f"SELECT note FROM {table} WHERE log = ?", self.row(origin))
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else b""


def spoil(rng: Random, data: bytes) -> bytes:
    """Bytes with some flipped, put in, taken out or exchanged."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, draw = rng.randrange(len(changed) or 1), rng.random()
        if draw < 0.5 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif draw < 0.65:
            changed[at:at] = rng.randbytes(rng.randint(1, 4))
        elif draw < 0.8:
            del changed[at : at + rng.randint(1, 4)]
        else:
            to = rng.randrange(len(changed) or 1)
            changed[at : at + 3], changed[to : to + 3] = changed[to : to + 3], changed[at : at + 3]
    return bytes(changed)


def number(rng: Random, value: int) -> int:
    """Another number, near or far."""
    near = (value + 1, value - 1, value * 2, value // 2, 0, 1, -1, 2**53 - 1, 2**53, 2**62, rng.randrange(2**32))
    return rng.choice(near)


def other(rng: Random, value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, bool) or not isinstance(value, int | str | bytes):
        return value
    if isinstance(value, int):
        return number(rng, value)
    if isinstance(value, bytes):
        return spoil(rng, value)
    at = rng.randrange(len(value) or 1)
    return value[:at] + rng.choice("0123456789abcdef/x") + value[at + 1 :]
