"""Export: a reader that knows only the specification reads what we write, and a crash leaves nothing half.

IO: stores and folders in temporary places.
"""

import base64
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pymerkle
import pytest

from ledger.archive import exporting as archive
from ledger.archive import importing as archived
from ledger.errors import StoreUnreadable
from ledger.store.store import Store
from ledger.verify.verify import verify_store

from .archive_kit import CAROL_LOG, MANY, make_archive, make_store
from .world import ALICE, ALICE_LOG, BOB, CAROL, GENESIS, RUN, RUN_LOG


@pytest.fixture(scope="module")
def store_file(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "ledger.db")


@pytest.fixture(scope="module")
def exported(store_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "out"
    counts = make_archive(store_file, folder)
    assert counts["logs"] == 3
    assert counts["files"] == sum(len(files) for _, _, files in os.walk(folder))
    return folder


# A reader of tlog-tiles by the text of the specification; it uses nothing of the ledger package.


def tile_name(number: int) -> str:
    digits = str(number)
    digits = "0" * (-len(digits) % 3) + digits
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*("x" + group for group in groups[:-1]), groups[-1]])


def level_of(log: Path, level: str, count: int) -> bytes:
    """All files of a level, one after another."""
    parts = [(log / "tile" / level / tile_name(number)).read_bytes() for number in range(count // 256)]
    if count % 256:
        parts.append((log / "tile" / level / f"{tile_name(count // 256)}.p" / str(count % 256)).read_bytes())
    return b"".join(parts)


def read_log(log: Path) -> tuple[str, int, str, list[bytes]]:
    """Origin, size, base64 root and entries of a log, with every hash in it recomputed."""
    text, _, _ = (log / "checkpoint").read_text("utf-8").partition("\n\n")
    origin, size_text, root = text.split("\n")
    size = int(size_text)
    framed, entries = level_of(log, "entries", size), []
    while framed:
        end = 2 + int.from_bytes(framed[:2], "big")
        entries.append(framed[2:end])
        framed = framed[end:]
    hashes = [sha256(b"\0" + entry).digest() for entry in entries]
    level = 0
    while hashes:
        assert level_of(log, str(level), len(hashes)) == b"".join(hashes)
        above = []
        for start in range(0, len(hashes) - len(hashes) % 256, 256):
            tile = hashes[start : start + 256]
            while len(tile) > 1:
                tile = [sha256(b"\1" + tile[at] + tile[at + 1]).digest() for at in range(0, len(tile), 2)]
            above += tile
        hashes, level = above, level + 1
    return origin, size, root, entries


def pymerkle_root(entries: list[bytes]) -> str:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    return base64.b64encode(tree.get_root()).decode()


@pytest.mark.parametrize(("owner", "origin"), [
    (ALICE.public, ALICE_LOG), (CAROL.public, CAROL_LOG), (f"run/{RUN}", RUN_LOG),
], ids=["alice", "carol", "run"])  # fmt: skip
def test_a_reader_that_knows_only_the_specification_reads_the_export(exported, store_file, owner, origin):
    found, size, root, entries = read_log(exported / owner)
    assert (found, size) == (origin, len(entries))
    assert root == pymerkle_root(entries)
    with Store.open(store_file, GENESIS, read_only=True) as store:
        assert entries == store.entries(origin, 0, size)


def test_the_keys_by_which_other_tools_verify_are_there(exported):
    lines = (exported / "keys").read_text().splitlines()
    assert [line.split("+")[0] for line in lines] == ["witness", CAROL_LOG, ALICE_LOG, RUN_LOG]
    for line in lines:
        name, key_id, key = line.split("+", 2)
        raw = base64.b64decode(key)
        assert sha256(name.encode() + b"\n" + raw).digest()[:4].hex() == key_id
        assert raw[0] == (4 if name == "witness" else 1)


def test_only_what_is_certified_is_exported(exported):
    assert not (exported / BOB.public).exists()


def test_an_import_gives_the_same_ledger_and_the_same_export(exported, store_file, tmp_path):
    assert archived.import_archive(exported, tmp_path / "new.db") == {"logs": 3, "entries": 1 + 10 + MANY}
    with (
        Store.open(tmp_path / "new.db", GENESIS, read_only=True) as new,
        Store.open(store_file, GENESIS, read_only=True) as old,
    ):
        assert new.ledger() == old.ledger()
        archive.export(new, tmp_path / "again")
    assert tree_of(tmp_path / "again") == tree_of(exported)
    assert verify_store(tmp_path / "new.db", GENESIS).ok
    assert sorted(item.name for item in tmp_path.iterdir()) == ["again", "new.db"]


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_does_not_write_over_anything(store_file, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with Store.open(store_file, GENESIS, read_only=True) as store:
        for name in ("full", "file", "link"):
            with pytest.raises(StoreUnreadable, match="not an empty folder"):
                archive.export(store, tmp_path / name)
        (tmp_path / "empty").mkdir()
        assert archive.export(store, tmp_path / "empty")["logs"] == 3


def test_an_export_that_fails_leaves_nothing(store_file, tmp_path, monkeypatch):
    def fails(path: Path, data: bytes) -> None:
        if path.name == "checkpoint":
            raise OSError(28, "No space left on device", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(archive, "_write", fails)
    full = pytest.raises(StoreUnreadable, match="No space left")
    with Store.open(store_file, GENESIS, read_only=True) as store, full:
        archive.export(store, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from ledger.archive import exporting as archive
from ledger.store.store import Store
from tests.ledger.world import GENESIS
left = int(sys.argv[3])
whole = archive._write
def write(path, data):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, data)
archive._write = write
with Store.open(Path(sys.argv[1]), GENESIS, read_only=True) as store:
    archive.export(store, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("writes", [0, 4, 11])
def test_an_export_that_is_killed_leaves_no_folder_of_that_name(store_file, tmp_path, writes):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(store_file), str(tmp_path / "out"), str(writes)], check=False
    )
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    with Store.open(store_file, GENESIS, read_only=True) as store:
        archive.export(store, tmp_path / "out")  # what the killed one left is not in the way
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
