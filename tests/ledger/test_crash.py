"""The store under SIGKILL: no key ever contradicts itself, nothing published is ever lost."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import notes
from ledger.merkle import Tree, leaf_hash
from ledger.store import Store
from ledger.verify import verify_store

from .world import ALICE, ALICE_LOG, GENESIS

ROOT = Path(__file__).parents[2]


def run_crasher(file: Path, *arguments: str, lines: int | None = None) -> list[bytes]:
    """What the process published before it died by SIGKILL; after `lines` lines it is killed."""
    command = [sys.executable, "-m", "tests.ledger.crasher", str(file), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        published = []
        for line in process.stdout:
            published.append(line)
            if len(published) == lines:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    return [bytes.fromhex(line.decode()) for line in published if line.endswith(b"\n")]


def check(file: Path, published: list[bytes]) -> None:
    """All that was ever published is a prefix of what the store holds, which is sound."""
    if not file.exists():
        assert not published
        return
    with Store.open(file, GENESIS, create=True) as store:
        if store.size(ALICE_LOG):
            published.append(store.append(ALICE_LOG, [], ALICE))  # recovery signs what the crash left unsigned
        tree = Tree(map(leaf_hash, store.entries(ALICE_LOG, 0, store.size(ALICE_LOG))))
        for note in map(notes.parse, published):
            head = notes.checkpoint(note)
            assert head.size <= tree.size
            assert tree.root(head.size) == head.root
        certified = store.certified(ALICE_LOG)
        cosigned = [notes.checkpoint(note).size for note in map(notes.parse, published) if GENESIS.cosigners(note)]
        if cosigned:
            row = store._logs.get(ALICE_LOG).row
            promise = store._db.head("promise", row)
            assert promise.size >= max(cosigned)  # the promise was on disk before the cosignature was out
            assert certified is None or certified.size <= promise.size
    report = verify_store(file, GENESIS)
    assert report.ok, report.faults


@pytest.mark.parametrize("first", [0, 8])
def test_killed_at_every_step_in_turn(tmp_path, first):
    file, published = tmp_path / "ledger.db", []
    for step in range(first, first + 11):
        published += run_crasher(file, str(step))
        check(file, published)


def test_killed_at_any_moment(tmp_path):
    file, published = tmp_path / "ledger.db", []
    for lines in (1, 4, 9, 2, 30, 3, 60, 5):
        published += run_crasher(file, lines=lines)
        check(file, published)
    assert len(published) > 100
