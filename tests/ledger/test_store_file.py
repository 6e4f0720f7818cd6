"""The store's file in every bad condition: one clear line, and nothing lost."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from ledger.entries import Send
from ledger.errors import GenesisInvalid, LedgerError, StoreBusy, StoreUnreadable
from ledger.genesis import Genesis
from ledger.store import file as storefile
from ledger.store.store import Store
from ledger.verify.verify import verify_store

from .test_crash import ROOT, run_crasher
from .world import ALICE, ALICE_LOG, BOB, GENESIS, RUN_LOG, certify, fill


def big(number: int = 200) -> list[Send]:
    return [Send(to=BOB.public, amount=1, memo="x" * 200) for _ in range(number)]


@pytest.fixture
def file(tmp_path):
    """A store that was closed cleanly."""
    path = tmp_path / "ledger.db"
    with Store.open(path, GENESIS, create=True) as store:
        fill(store)
        store.append(ALICE_LOG, big(), ALICE)
        certify(store, ALICE_LOG)
    return path


def refused(path, error=StoreUnreadable, **how):
    """The one line with which the file is refused."""
    with pytest.raises(error) as caught:
        Store.open(path, GENESIS, **how)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def refused_everywhere(path):
    """The line with which writer and reader refuse the file, which stays as it is."""
    before = path.read_bytes()
    lines = {refused(path, read_only=read_only).partition(": ")[2] for read_only in (False, True)}
    with pytest.raises(LedgerError):
        verify_store(path, GENESIS)
    assert path.read_bytes() == before
    return " ".join(lines)


def test_a_missing_file_or_folder(tmp_path):
    assert "no ledger here" in refused(tmp_path / "none.db")
    assert "no ledger here" in refused(tmp_path / "none.db", read_only=True)
    assert os.listdir(tmp_path) == []
    assert "check the folder" in refused(tmp_path / "none" / "ledger.db", create=True)


def test_a_folder_or_a_pipe_instead_of_a_file(tmp_path):
    (tmp_path / "folder.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    for create in (False, True):
        assert "is a folder" in refused(tmp_path / "folder.db", create=create)
        assert "no regular file" in refused(tmp_path / "pipe.db", create=create)
    assert sorted(os.listdir(tmp_path)) == ["folder.db", "pipe.db"]


def test_another_programs_file(tmp_path):
    text, theirs = tmp_path / "text.db", tmp_path / "theirs.db"
    text.write_bytes(b"not a database at all " * 100)
    assert "not a database" in refused_everywhere(text)
    connection = sqlite3.connect(theirs)
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    assert "another program's file" in refused_everywhere(theirs)
    before = theirs.read_bytes()
    refused(theirs, create=True)
    assert theirs.read_bytes() == before


@pytest.mark.parametrize(("version", "word"), [(storefile.VERSION + 1, "newer"), (storefile.VERSION - 1, "older")])
def test_another_layout(file, version, word):
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    message = refused_everywhere(file)
    assert f"layout {storefile.VERSION} but of {version}" in message
    assert word in message


@pytest.mark.parametrize("begun", [False, True])
def test_a_file_whose_making_was_cut_short_is_no_new_ledger_unless_one_may_be_made(tmp_path, begun):
    path = tmp_path / "ledger.db"
    path.touch()
    if begun:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    assert "is empty" in refused_everywhere(path)
    with Store.open(path, GENESIS, create=True) as store:
        assert store.origins() == []


@pytest.mark.parametrize("keep", [0.99, 0.5, 4096, 101, 100, 99, 60, 17, 1])
def test_a_file_that_was_cut_off(file, keep):
    size = file.stat().st_size
    cut = int(size * keep) if keep < 1 else keep
    os.truncate(file, cut)
    before = file.read_bytes()
    for how in ({}, {"create": True}, {"read_only": True}):
        message = refused(file, **how)
        assert "cut off" in message or "not a database" in message
    assert file.read_bytes() == before


def test_a_page_of_noise_is_named_when_it_is_read(file):
    data = bytearray(file.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(StoreUnreadable) as caught, Store.open(file, GENESIS) as store:
        store.entries(RUN_LOG, 0, 99)
        store.ledger()
    assert "\n" not in str(caught.value)


def test_a_ledger_of_another_network(file):
    another = Genesis.create(name="another", witnesses=GENESIS.witnesses)
    for how in ({}, {"create": True}, {"read_only": True}):
        with pytest.raises(GenesisInvalid, match=GENESIS.id[:16]):
            Store.open(file, another, **how)
    with Store.open(file, GENESIS) as store:
        assert store.size(ALICE_LOG) == 201


def test_a_folder_that_cannot_be_written(file, monkeypatch):
    really = os.open

    def deny(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", deny)
    assert "Read-only file system; check the folder" in refused(file)
    with Store.open(file, GENESIS, read_only=True) as store:
        assert store.size(ALICE_LOG) == 201


def test_a_file_that_another_daemon_writes(file):
    with Store.open(file, GENESIS) as store:
        assert "stop that daemon first" in refused(file, StoreBusy)
        with Store.open(file, GENESIS, read_only=True) as reader:
            store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
            assert reader.size(ALICE_LOG) == 202


def test_a_file_that_a_foreign_program_holds(file, monkeypatch):
    monkeypatch.setattr(storefile, "WAIT_S", 0.01)
    with Store.open(file, GENESIS) as store:
        foreign = sqlite3.connect(file, isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="close the other program"):
            store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
        foreign.close()
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
        assert store.size(ALICE_LOG) == 202


def test_what_a_killed_writer_left_beside_the_file_is_not_lost(tmp_path):
    path = tmp_path / "ledger.db"
    published = run_crasher(path, "writer", lines=20)
    assert path.with_name("ledger.db-wal").stat().st_size > 0
    shutil.copytree(tmp_path, tmp_path / "copy")
    with Store.open(tmp_path / "copy" / "ledger.db", GENESIS, read_only=True) as reader:
        size = reader.size(ALICE_LOG)
    assert verify_store(tmp_path / "copy" / "ledger.db", GENESIS).ok
    with Store.open(path, GENESIS) as store:
        assert store.size(ALICE_LOG) == size
        assert store.certified(ALICE_LOG).size > 0
    assert len(published) >= 20


def test_a_killed_writers_lock_is_gone_with_it(tmp_path):
    run_crasher(tmp_path / "ledger.db", "writer", lines=2)
    Store.open(tmp_path / "ledger.db", GENESIS).close()


LIMITED = """
import resource, sys
from tests.ledger.test_store_file import ALICE, ALICE_LOG, GENESIS, Store, StoreUnreadable, big
from pathlib import Path
with Store.open(Path(sys.argv[1]), GENESIS) as store:
    before = store.size(ALICE_LOG), store.head(ALICE_LOG)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
    try:
        while True:
            before = store.size(ALICE_LOG), store.head(ALICE_LOG)
            store.append(ALICE_LOG, big(), ALICE)
    except StoreUnreadable as exc:
        print(exc)
    assert (store.size(ALICE_LOG), store.head(ALICE_LOG)) == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    store.append(ALICE_LOG, big(), ALICE)
    print(store.size(ALICE_LOG) - before[0])
"""


@pytest.mark.parametrize("room", [1 << 17, 300_001, 1 << 19])
def test_a_disk_that_fills_up_loses_nothing_and_goes_on_when_there_is_room(file, room):
    command = [sys.executable, "-c", LIMITED, str(file), str(room)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    message, more = done.stdout.splitlines()
    assert "cannot write" in message
    assert "nothing was changed" in message
    assert more == "200"
    assert verify_store(file, GENESIS).ok
