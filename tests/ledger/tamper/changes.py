"""The changes that `mutations` makes to a ledger's file: bytes, rows, notes, entries, and signatures by owners.

IO: one SQLite file.
"""

from __future__ import annotations

import json
from random import Random

from ledger import codec, notes
from ledger.errors import LedgerError
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint, Note, Signature

from .file import File, number, other, spoil
from .kit import DATA, GENESIS, WITNESSES, WRITERS

ORIGINS = list(DATA)
TABLES = ("head", "certificate", "promise")
TOO_FEW = GENESIS.quorum - 1
"""As many witnesses as may help a liar without harm."""


def file_bytes(rng: Random, file: File) -> None:
    """Bytes of the file itself: flipped, zeroed, cut off, or copied from elsewhere in it."""
    data, draw = bytearray(file.path.read_bytes() or bytes(1)), rng.random()
    at, width = rng.randrange(len(data)), rng.choice((1, 4, 64, 4096))
    if draw < 0.6:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif draw < 0.7:
        data[at : at + width] = bytes(len(data[at : at + width]))
    elif draw < 0.9:
        start = rng.randrange(len(data))
        data[at : at + width] = data[start : start + len(data[at : at + width])]
    else:
        del data[rng.choice((at, at - at % 4096)) :]
    file.path.write_bytes(data)


def _table(rng: Random, file: File) -> tuple[str, list[str], list[int]]:
    names = [str(row[0]) for row in file.sql("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    name = rng.choice([name for name in names if not name.startswith("sqlite_")])
    columns = [str(row[1]) for row in file.sql(f"PRAGMA table_info({name})")]
    rowids = [int(str(row[0])) for row in file.sql(f"SELECT rowid FROM {name}")]
    return name, columns, rowids


def cell(rng: Random, file: File) -> None:
    """One value of any table: spoiled, or exchanged for that of another row."""
    name, columns, rowids = _table(rng, file)
    if not rowids:
        return
    column, here, there = rng.choice(columns), rng.choice(rowids), rng.choice(rowids)
    source = there if rng.random() < 0.3 else here
    [(value,)] = file.sql(f"SELECT {column} FROM {name} WHERE rowid = ?", source)
    value = value if source != here else other(rng, value)
    file.sql(f"UPDATE OR REPLACE {name} SET {column} = ? WHERE rowid = ?", value, here)


def row(rng: Random, file: File) -> None:
    """A row of any table: taken away, doubled under another number, or exchanged with another."""
    name, columns, rowids = _table(rng, file)
    if not rowids:
        return
    here, there, draw = rng.choice(rowids), rng.choice(rowids), rng.random()
    if draw < 0.4:
        file.sql(f"DELETE FROM {name} WHERE rowid = ?", here)
        return
    key = columns[0]
    [values] = file.sql(f"SELECT {', '.join(columns)} FROM {name} WHERE rowid = ?", here)
    if draw < 0.7:
        marks = ", ".join("?" * len(columns))
        changed = [other(rng, value) if rng.random() < 0.4 else value for value in values]
        file.sql(f"INSERT OR REPLACE INTO {name} ({', '.join(columns)}) VALUES ({marks})", *changed)
    elif len(columns) > 1:
        rest = columns[1:]
        [twin] = file.sql(f"SELECT {', '.join(columns)} FROM {name} WHERE rowid = ?", there)
        for taken, place in ((twin, values), (values, twin)):
            sets = ", ".join(f"{column} = ?" for column in rest)
            file.sql(f"UPDATE OR IGNORE {name} SET {sets} WHERE {key} = ?", *taken[1:], place[0])


def schema(rng: Random, file: File) -> None:
    """What the file says of itself: genesis, layout, version."""
    draw = rng.random()
    if draw < 0.5:
        [(genesis,)] = file.sql("SELECT value FROM meta WHERE name = 'genesis'") or [(b"",)]
        file.sql("UPDATE meta SET value = ? WHERE name = 'genesis'", other(rng, genesis))
    elif draw < 0.7:
        file.sql(f"PRAGMA {rng.choice(('user_version', 'application_id'))} = {rng.randrange(2**31)}")
    elif draw < 0.85:
        file.sql(f"DROP TABLE {_table(rng, file)[0]}")
    else:
        words = rng.sample(["BLOB", "TEXT", "INTEGER", "KEY"], 2)
        file.sql("UPDATE sqlite_schema SET sql = replace(sql, ?, ?)", *words)


def note_lines(rng: Random, file: File) -> None:
    """A note: its lines exchanged, doubled, taken out, put in from another note; its size, root or blobs changed."""
    table, origin = rng.choice(TABLES), rng.choice(ORIGINS)
    lines = file.note(table, origin).splitlines(keepends=True)
    donor = file.note(rng.choice(TABLES), rng.choice(ORIGINS)).splitlines(keepends=True)
    if not lines or not donor:
        return
    at, draw = rng.randrange(len(lines)), rng.random()
    if draw < 0.2:
        lines.pop(at)
    elif draw < 0.4:
        lines.insert(at, rng.choice(lines))
    elif draw < 0.6:
        lines[at] = rng.choice(donor)
    elif draw < 0.7:
        rng.shuffle(lines)
    elif draw < 0.8:
        lines.append(rng.choice(donor))
    else:
        lines[at] = spoil(rng, lines[at])
    file.sql(f"UPDATE {table} SET note = ? WHERE log = ?", b"".join(lines), file.row(origin))


def exchange_notes(rng: Random, file: File) -> None:
    """Whole heads between logs or tables, with or without their sizes and roots."""
    here, there = [(rng.choice(TABLES), rng.choice(ORIGINS)) for _ in range(2)]
    columns = rng.choice((["note"], ["size", "root", "note"], ["root"], ["size"], ["root", "note"]))
    picked = ", ".join(columns)
    values = [file.sql(f"SELECT {picked} FROM {table} WHERE log = ?", file.row(log)) for table, log in (here, there)]
    if all(values):
        sets = ", ".join(f"{column} = ?" for column in columns)
        for (table, origin), taken in ((here, values[1]), (there, values[0])):
            file.sql(f"UPDATE {table} SET {sets} WHERE log = ?", *taken[0], file.row(origin))


def _changed(rng: Random, value: object) -> object:
    """JSON with one of its values changed."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        if rng.random() < 0.05:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list):
        if not value or rng.random() < 0.2:
            return [*value, *value[:1]] if rng.random() < 0.5 else value[:-1]
        at = rng.randrange(len(value))
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    return abs(number(rng, value)) if isinstance(value, int) else other(rng, value)


def _mutated_log(rng: Random, origin: str) -> list[bytes]:
    """A log with an entry that means something else, in canonical form where it has one."""
    log = list(DATA[origin])
    at, draw = rng.randrange(len(log)), rng.random()
    if draw < 0.6:
        try:
            log[at] = codec.encode(_changed(rng, json.loads(log[at])))  # type: ignore[arg-type]
        except LedgerError:
            log[at] = spoil(rng, log[at])
    elif draw < 0.7:
        to = rng.randrange(len(log))
        log[at], log[to] = log[to], log[at]
    elif draw < 0.8:
        log.pop(at)
    elif draw < 0.9:
        log.insert(at, rng.choice(DATA[rng.choice(ORIGINS)]))
    else:
        log = list(DATA[rng.choice(ORIGINS)])
    return log


def entry_field(rng: Random, file: File) -> None:
    """An entry that means something else, with its leaf hash, and sometimes the rows' roots, made to fit."""
    origin = rng.choice(ORIGINS)
    log = _mutated_log(rng, origin)
    file.write(origin, log)
    if rng.random() < 0.5:
        tree = Tree(map(leaf_hash, log))
        for table in TABLES:
            sizes = file.sql(f"SELECT size FROM {table} WHERE log = ?", file.row(origin))
            size = min(len(log), int(str(sizes[0][0]))) if sizes else 0
            file.sql(f"UPDATE {table} SET root = ?, size = ? WHERE log = ?", tree.root(size), size, file.row(origin))


def move_entries(rng: Random, file: File) -> None:
    """Entries or their hashes change places, within a log or between two."""
    column = rng.choice(("data", "leaf", "data, leaf"))
    places = [(file.row(origin), rng.randrange(len(DATA[origin]))) for origin in rng.choices(ORIGINS, k=2)]
    values = [file.sql(f"SELECT {column} FROM entry WHERE log = ? AND idx = ?", *place) for place in places]
    if all(values):
        sets = ", ".join(f"{name} = ?" for name in column.split(", "))
        for place, taken in zip(places, reversed(values), strict=True):
            file.sql(f"UPDATE entry SET {sets} WHERE log = ? AND idx = ?", *taken[0], *place)


def entry_bytes(rng: Random, file: File) -> None:
    """An entry's bytes, with or without its hash."""
    origin = rng.choice(ORIGINS)
    place = (file.row(origin), rng.randrange(len(DATA[origin])))
    bad = spoil(rng, DATA[origin][place[1]])
    file.sql("UPDATE entry SET data = ? WHERE log = ? AND idx = ?", bad, *place)
    if rng.random() < 0.6:
        file.sql("UPDATE entry SET leaf = ? WHERE log = ? AND idx = ?", leaf_hash(bad), *place)


def origins(rng: Random, file: File) -> None:
    """Logs under each other's names, under a new one, or gone with all they hold."""
    one, two = rng.sample(ORIGINS, 2)
    numbers, draw = (file.row(one), file.row(two)), rng.random()
    if draw < 0.4:
        file.sql("UPDATE log SET origin = 'aside' WHERE id = ?", numbers[0])
        file.sql("UPDATE log SET origin = ? WHERE id = ?", one, numbers[1])
        file.sql("UPDATE log SET origin = ? WHERE id = ?", two, numbers[0])
    elif draw < 0.7:
        file.sql("UPDATE log SET origin = ? WHERE id = ?", other(rng, one), numbers[0])
    else:
        for table in ("entry", *TABLES):
            file.sql(f"DELETE FROM {table} WHERE log = ?", numbers[0])
        file.sql("DELETE FROM log WHERE id = ?", numbers[0])


def collusion(rng: Random, file: File) -> None:
    """A log's owner, and witnesses one short of a quorum, sign another history; old cosignatures may stay."""
    origin = rng.choice(ORIGINS)
    log = _mutated_log(rng, origin)
    file.write(origin, log)
    root = Tree(map(leaf_hash, log)).root()
    head = notes.sign_head(Checkpoint(origin=origin, size=len(log), root=root), WRITERS[origin])
    helpers = rng.sample(sorted(WITNESSES), rng.randint(0, TOO_FEW))
    note = notes.parse(notes.combine(head, [notes.cosign(head, name, WITNESSES[name], 1) for name in helpers]))
    lines: list[Signature] = list(note.signatures)
    with_old = file.note("certificate", origin)
    if with_old and rng.random() < 0.5:
        try:
            lines += [line for line in notes.parse(with_old).signatures[1:] if line.name not in helpers]
        except LedgerError:
            pass
    for _ in range(rng.choice((0, 0, 2))):
        lines.append(rng.choice(lines))
    whole = Note(text=note.text, signatures=tuple(lines)).encode()
    for table in TABLES if rng.random() < 0.7 else ("certificate",):
        file.sql(f"DELETE FROM {table} WHERE log = ?", file.row(origin))
        values = (file.row(origin), len(log), root, whole)
        file.sql(f"INSERT INTO {table} (log, size, root, note) VALUES (?, ?, ?, ?)", *values)
