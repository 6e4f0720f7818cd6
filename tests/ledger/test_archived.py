"""Import: no folder fools it, and every refusal names the file.

IO: stores and folders in temporary places.
"""

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from ledger import notes
from ledger.archive import importing as archived
from ledger.entries import Send
from ledger.errors import ArchiveInvalid, GenesisInvalid, StoreUnreadable
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint

from .archive_kit import CAROL_LOG, make_archive, make_store
from .world import ALICE, BOB, CAROL, NOW, RUN, WITNESS, key_of


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


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


CAROLS = CAROL.public
FULL = f"{CAROLS}/tile/entries/000"
LAST = f"{CAROLS}/tile/entries/002.p/44"


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def swap(copy: Path, one: str, other: str) -> None:
    first, second = (copy / one).read_bytes(), (copy / other).read_bytes()
    (copy / one).write_bytes(second)
    (copy / other).write_bytes(first)


def link(path: Path) -> None:
    """The very same bytes, through a link."""
    target = path.parents[4] / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def linked_folder(path: Path) -> None:
    target = path.parents[2] / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def forge(copy: Path, name="witness", witness=WITNESS, key=CAROL, memo="x", origin=CAROL_LOG) -> None:
    """Carol's log replaced by another of one entry, with everything made to fit."""
    shutil.rmtree(copy / CAROLS)
    entry = Send(to=BOB.public, amount=1, memo=memo).encode() if memo else b"{}"
    tree = Tree([leaf_hash(entry)])
    note = notes.sign_head(Checkpoint(origin=origin, size=1, root=tree.root()), key)
    (copy / CAROLS / "tile" / "entries" / "000.p").mkdir(parents=True)
    (copy / CAROLS / "tile" / "entries" / "000.p" / "1").write_bytes(len(entry).to_bytes(2, "big") + entry)
    (copy / CAROLS / "tile" / "0" / "000.p").mkdir(parents=True)
    (copy / CAROLS / "tile" / "0" / "000.p" / "1").write_bytes(leaf_hash(entry))
    (copy / CAROLS / "checkpoint").write_bytes(notes.combine(note, [notes.cosign(note, name, witness, NOW)]))


HOSTILE = {
    "an entry changed": (lambda c: flip(c / FULL, 60), rf"{FULL}: entry 0: leaf hash is .* wanted .* as tile/0/000"),
    "a length changed": (lambda c: flip(c / FULL, 1), f"{FULL}: "),
    "a bundle cut": (lambda c: cut(c / LAST, 5), f"{LAST}: length is .*ends within"),
    "a bundle without its last entry": (
        lambda c: cut(c / LAST, 2 + len(Send(to=BOB.public, amount=1, memo="555").encode())),
        f"{LAST}: number of entries is 43, wanted 44",
    ),
    "a bundle with one more": (lambda c: append(c / LAST, b"\0\x02{}"), f"{LAST}: number of entries is 45, wanted 44"),
    "a bundle too long": (lambda c: (c / FULL).write_bytes(bytes(5 * 10**6)), f"{FULL}: length is over"),
    "a bundle missing": (lambda c: (c / FULL).unlink(), f"{FULL}: file is No such file"),
    "two bundles swapped": (lambda c: swap(c, FULL, FULL[:-1] + "1"), f"{FULL}: entry 0: leaf hash"),
    "a tile changed": (lambda c: flip(c / CAROLS / "tile/0/001", 3), "entries/001: entry 256: leaf hash"),
    "a tile cut": (lambda c: (c / CAROLS / "tile/0/001").write_bytes(bytes(8191)), "tile/0/001: length is 8191"),
    "a tile too long": (lambda c: append(c / CAROLS / "tile/0/001", b"x"), "tile/0/001: length is over 8192"),
    "an upper tile changed": (lambda c: flip(c / CAROLS / "tile/1/000.p/2", 3), "tile/1/000.p/2: content is other"),
    "an upper tile missing": (lambda c: (c / CAROLS / "tile/1/000.p/2").unlink(), "tile/1/000.p/2: file is No such"),
    "a partial tile beside the full one": (
        lambda c: ((c / CAROLS / "tile/0/000.p").mkdir(), (c / CAROLS / "tile/0/000.p/7").write_bytes(bytes(224))),
        "tile/0/000.p/7: file is there",
    ),
    "a partial tile of another width": (
        lambda c: (c / CAROLS / "tile/0/002.p/44").rename(c / CAROLS / "tile/0/002.p/45"),
        "tile/0/002.p/45: file is there",
    ),
    "a tile beyond the size": (lambda c: (c / CAROLS / "tile/0/003").write_bytes(bytes(8192)), "tile/0/003: file is"),
    "a level that is none": (
        lambda c: ((c / CAROLS / "tile/2").mkdir(), (c / CAROLS / "tile/2/000.p").write_bytes(b"")),
        "tile/2/000.p: file",
    ),
    "a stray file": (lambda c: (c / CAROLS / "tile" / "x").write_bytes(b""), "tile/x: file is there"),
    "a stray folder": (lambda c: (c / "tile").mkdir(), "tile: file is there"),
    "a stray file above": (lambda c: (c / "x").write_bytes(b""), "x: file is there"),
    "a stray run": (lambda c: (c / "run" / "x").mkdir(), "run/x: file is there"),
    "a deep folder": (lambda c: (c / CAROLS / "/".join("x" * 40)).mkdir(parents=True), "file is too deep"),
    "a linked file": (lambda c: link(c / FULL), "file is a link|file is Too many levels"),
    "a linked folder": (lambda c: linked_folder(c / CAROLS / "tile"), "file is a link"),
    "a linked log": (lambda c: linked_folder(c / "run" / RUN), "run/.*: file is there"),
    "a pipe": (lambda c: pipe(c / FULL), f"{FULL}: file is something else"),
    "a folder for a file": (lambda c: ((c / FULL).unlink(), (c / FULL).mkdir()), f"{FULL}: file is"),
    "no checkpoint": (lambda c: (c / CAROLS / "checkpoint").unlink(), "checkpoint: file is No such"),
    "a checkpoint that is none": (lambda c: (c / CAROLS / "checkpoint").write_bytes(b"x"), "checkpoint: content is"),
    "a checkpoint too long": (lambda c: append(c / CAROLS / "checkpoint", bytes(70_000)), "checkpoint: length is over"),
    "a log that is another's": (lambda c: swap(c, f"{CAROLS}/checkpoint", f"{ALICE.public}/checkpoint"), "log is "),
    "an empty log": (lambda c: (shutil.rmtree(c / CAROLS), (c / CAROLS).mkdir()), "checkpoint: file is No such"),
    "a witness of another network": (lambda c: forge(c, witness=key_of("x")), "cosigned by is no witness"),
    "a witness unknown": (lambda c: forge(c, name="other"), "cosigned by is no witness"),
    "a writer that may not": (lambda c: forge(c, key=BOB), "not signed by any of its 1 allowed writers"),
    "an entry that is none": (lambda c: forge(c, memo=""), r"entries/000.p/1: entry 0: type is"),
    "another network's log": (lambda c: forge(c, origin="p2p-llm-forge/0000/x"), "checkpoint: log is"),
    "other keys": (lambda c: append(c / "keys", b"x\n"), "keys: length is over"),
    "a key changed": (lambda c: flip(c / "keys", 9), "keys: content is other keys"),
    "no genesis": (lambda c: (c / "genesis.json").unlink(), "genesis.json: file is No such"),
    "a genesis that is none": (lambda c: (c / "genesis.json").write_bytes(b"{}"), "genesis.json: content is"),
    "no folder": (shutil.rmtree, "folder is not there"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_that_lies_is_refused_naming_the_file(copy, tmp_path, name):
    change, words = HOSTILE[name]
    change(copy)
    with pytest.raises(ArchiveInvalid, match=words):
        archived.import_archive(copy, tmp_path / "new" / "ledger.db")
    assert not (tmp_path / "new" / "ledger.db").exists()
    if (tmp_path / "new").exists():
        assert list((tmp_path / "new").iterdir()) == []


def test_no_changed_byte_of_any_file_is_accepted(copy, tmp_path):
    rng = Random(1)
    for path in sorted(copy.rglob("*")):
        if not path.is_file():
            continue
        before = path.read_bytes()
        for _ in range(3):
            data = bytearray(before)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            with pytest.raises(ArchiveInvalid):
                archived.import_archive(copy, tmp_path / "new.db")
        path.write_bytes(before)
    archived.import_archive(copy, tmp_path / "new.db")


def test_the_forged_log_would_be_taken_were_it_not_for_its_flaw(copy, tmp_path):
    forge(copy)
    assert archived.import_archive(copy, tmp_path / "new.db")["entries"] == 12


def test_a_huge_claimed_size_costs_nothing(copy, tmp_path):
    note = notes.sign_head(Checkpoint(origin=CAROL_LOG, size=2**53 - 1, root=bytes(32)), CAROL)
    note = notes.combine(note, [notes.cosign(note, "witness", WITNESS, NOW)])
    (copy / CAROLS / "checkpoint").write_bytes(note)
    with pytest.raises(ArchiveInvalid, match="file is there, wanted only what a log of 9007199254740991"):
        archived.import_archive(copy, tmp_path / "new.db")


def test_an_archive_of_another_network_is_refused(exported, tmp_path):
    other = Genesis.create(name="other", supply={}, witnesses=[("witness", WITNESS.public)])
    with pytest.raises(GenesisInvalid, match="is of network"):
        archived.import_archive(exported, tmp_path / "new.db", other)


def test_an_import_does_not_write_over_a_ledger(exported, store_file):
    before = store_file.read_bytes()
    with pytest.raises(StoreUnreadable, match="something already"):
        archived.import_archive(exported, store_file)
    assert store_file.read_bytes() == before
