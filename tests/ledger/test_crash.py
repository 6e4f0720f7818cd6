"""The store under SIGKILL: no key ever contradicts itself, nothing published is ever lost.

`scripts/long/crash_ledger.py` kills hundreds of times.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ledger import notes
from ledger.entries import Send
from ledger.errors import Conflict, Frozen
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store
from ledger.verify.verify import verify_store
from ledger.witness import Witness

from .crasher import OTHERS
from .world import ALICE, ALICE_LOG, BOB, GENESIS, NOW, WITNESS

ROOT = Path(__file__).parents[2]
ROLES = ("both", "peer", "witness")


def run_crasher(file: Path, role: str, *arguments: str, lines: int | None = None) -> list[bytes]:
    """What the process published before it died by SIGKILL; after `lines` lines it is killed."""
    command = [sys.executable, "-m", "tests.ledger.crasher", str(file), role, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        published = []
        for line in process.stdout:
            published.append(line)
            if len(published) == lines:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    return [bytes.fromhex(line.decode()) for line in published if line.endswith(b"\n")]


def check(file: Path, role: str, published: list[bytes]) -> None:
    """All that was ever published is a prefix of what the store holds, which is sound; promises cover cosignatures."""
    if not file.exists():
        assert not published
        return
    with Store.open(file, GENESIS, create=True) as store:
        if role != "witness" and store.size(ALICE_LOG):
            published.append(store.append(ALICE_LOG, [], ALICE))  # recovery signs what the crash left unsigned
        by_log: dict[str, list[tuple[Checkpoint, bool]]] = defaultdict(list)
        for note in map(notes.parse, published):
            head = notes.checkpoint(note)
            by_log[head.origin].append((head, bool(GENESIS.cosigners(note))))
        for origin, heads in by_log.items():
            tree = Tree(map(leaf_hash, store.entries(origin, 0, store.size(origin))))
            for head, _ in heads:
                assert head.size <= tree.size
                assert tree.root(head.size) == head.root
            cosigned = max((head.size for head, yes in heads if yes), default=0)
            certified, promise = store.certified(origin), store.promised(origin)
            if cosigned:
                assert promise is not None
                kept = notes.checkpoint(notes.parse(promise))
                assert kept.size >= cosigned  # the promise was on disk before the cosignature was out
                assert tree.root(kept.size) == kept.root
                assert certified is None or certified.size <= kept.size
    report = verify_store(file, GENESIS)
    assert report.ok, report.faults


def check_rivals(file: Path) -> None:
    """A witness cosigns no other log than those it did, whatever happened to it; done last, as it freezes them."""
    with Store.open(file, GENESIS) as store:
        witness = Witness(store, GENESIS, WITNESS, "witness")
        for key in OTHERS:
            origin = GENESIS.origin(key.public)
            rival = [Send(to=BOB.public, amount=1, memo="rival").encode()] * max(1, store.size(origin))
            head = Checkpoint(origin=origin, size=len(rival), root=Tree(map(leaf_hash, rival)).root())
            with pytest.raises((Conflict, Frozen)):
                witness.cosign(origin, 0, rival, notes.sign_head(head, key), NOW)
            assert store.evidence(origin)


def kill_at_random(file: Path, role: str, kills: int, rng: random.Random) -> int:
    """Kill the process so many times, sooner or later, and look at the store each time; how much it published."""
    published: list[bytes] = []
    for _ in range(kills):
        published += run_crasher(file, role, lines=rng.choice([1, 2, 3, 5, 10, 30, 60]))
        check(file, role, published)
    if role == "witness":
        check_rivals(file)
    return len(published)


@pytest.mark.parametrize("role", ROLES)
def test_killed_at_every_step_in_turn(tmp_path: Path, role: str) -> None:
    file, published = tmp_path / "ledger.db", list[bytes]()
    for step in range(0 if role == "both" else 9, 19 if role == "both" else 14):
        published += run_crasher(file, role, str(step))
        check(file, role, published)


@pytest.mark.parametrize("role", ["peer", "witness"])
def test_killed_at_any_moment(tmp_path: Path, role: str) -> None:
    assert kill_at_random(tmp_path / "ledger.db", role, 15, random.Random(1)) > 100
