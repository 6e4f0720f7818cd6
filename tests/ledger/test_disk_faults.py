"""The store on a disk that fails: each write, truncation and sync in turn.

Whatever fails, the error is one line, all that was handed out before is still there, and nothing contradicts it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import notes
from ledger.entries import Send
from ledger.errors import StoreUnreadable
from ledger.store.store import Store

from .disk_story import Story, check
from .faulty_vfs import Disk, installed
from .world import ALICE, ALICE_LOG, BOB, GENESIS

WAYS = {"once": (1, 2), "goes on": (2, 2), "from then on": (3, 9), "full": (5, 9)}
"""How a call fails, and which ones do here: the first and every so manieth. Each call fails once, with or without the
end of the process after it. `scripts/long/disk_faults.py` fails every one in every way."""


def tell(file: Path, story: Story, *, go_on: bool) -> str:
    """Take all steps, until one fails; the error. With `go_on` a failed step is taken again, once."""
    error = ""
    try:
        with Store.open(file, GENESIS, create=True) as store:
            store._db.rows("PRAGMA wal_autocheckpoint = 12")
            for step in story.steps:
                try:
                    step(store)
                except StoreUnreadable as exc:
                    error = str(exc)
                    if not go_on:
                        break
                    step(store)
    except StoreUnreadable as exc:
        return str(exc)
    return error


def fail_at(disk: Disk, call: int, folder: Path, how: str) -> tuple[bool, str]:
    """Fail one call and look at what is left; (whether there was such a call, the error)."""
    folder.mkdir()
    file, story = folder / "ledger.db", Story()
    disk.fail_at, disk.sticky, disk.full = disk.calls + call, how != "once" and how != "goes on", how == "full"
    failed = disk.failed
    error = tell(file, story, go_on=how == "goes on")
    happened = disk.failed > failed
    disk.fail_at = 0
    assert "\n" not in error
    check(file, story)
    return happened, error


@pytest.fixture
def disk() -> Iterator[Disk]:
    with installed() as found:
        yield found


@pytest.mark.parametrize("how", WAYS)
def test_whatever_write_or_sync_fails_nothing_handed_out_is_lost(disk: Disk, tmp_path: Path, how: str) -> None:
    (call, stride), errors = WAYS[how], set()
    while True:
        happened, error = fail_at(disk, call, tmp_path / str(call), how)
        if not happened:
            break
        errors.add(error.rpartition(": ")[2] if error else "")
        call += stride
    assert call > 100  # creation, commits and checkpoints were all hit
    assert any("disk" in error or "full" in error or "nothing was changed" in error for error in errors), errors


def test_an_append_that_fails_says_truly_whether_the_entries_are_stored(disk: Disk, tmp_path: Path) -> None:
    said = set()
    for call in range(1, 20):
        with Store.open(tmp_path / f"{call}.db", GENESIS, create=True) as store:
            store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
            disk.fail_at = disk.calls + call
            try:
                store.append(ALICE_LOG, [Send(to=BOB.public, amount=2)], ALICE)
            except StoreUnreadable as exc:
                message = exc.message
            else:
                break
            finally:
                disk.fail_at = 0
            stored = "stored but not signed" in message
            assert stored != message.endswith("nothing was changed")
            assert store.size(ALICE_LOG) == 1 + stored
            head = notes.parse(store.append(ALICE_LOG, [], ALICE))
            assert notes.checkpoint(head).size == 1 + stored
            said.add(stored)
    assert said == {True, False}


def test_the_disk_is_really_the_one_that_python_writes_to(disk: Disk, tmp_path: Path) -> None:
    before = disk.calls
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE x (y)")
    assert disk.calls > before
    disk.fail_at = disk.calls + 1
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("CREATE TABLE z (y)")
    connection.close()
