"""Verification by several processes: the same report as by one, and a clean end whatever happens."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from ledger.entries import Recv, Send
from ledger.errors import StoreUnreadable
from ledger.store.store import Store
from ledger.verify import check, roots, verify, workers
from ledger.verify.verify import verify_store

from .test_verify import change, flip
from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, GENESIS, RUN_LOG, certify, fill


@pytest.fixture
def file(tmp_path):
    """Three logs that claim from each other, one of them in vain."""
    place = tmp_path / "ledger.db"
    with Store.open(place, GENESIS, create=True) as store:
        fill(store, rounds=8)
        for turn in range(40):
            store.append(ALICE_LOG, [Send(to=BOB.public, amount=turn + 1)], ALICE)
            certify(store, ALICE_LOG)
            if turn % 3 == 0:
                store.append(BOB_LOG, [*store.claims(BOB.public), Send(to=ALICE.public, amount=1)], BOB)
                certify(store, BOB_LOG)
        store.append(BOB_LOG, [Recv(origin=ALICE_LOG, index=1, size=7, root="00" * 32)], BOB)
        certify(store, BOB_LOG)
        store.append(ALICE_LOG, store.claims(ALICE.public), ALICE)
        certify(store, ALICE_LOG)
    return place


def falsify(file):
    """Change the root that Bob's certificate is about."""
    query = "UPDATE certificate SET root = zeroblob(32) WHERE log = (SELECT id FROM log WHERE origin = ?)"
    change(file, query, BOB_LOG)


def test_many_processes_find_what_one_finds(file):
    alone = verify_store(file, GENESIS, processes=1)
    assert alone.ok
    assert [void.rule for void in alone.ledger.voids] == ["root"]
    for count in (2, 3, 7):
        assert verify_store(file, GENESIS, processes=count) == alone
    with Store.open(file, GENESIS, read_only=True) as store:
        assert store.ledger() == alone.ledger


def test_many_processes_name_the_same_faults(file):
    flip(file, 7, 30)
    change(file, "DELETE FROM entry WHERE idx = 9 AND log = (SELECT id FROM log WHERE origin = ?)", ALICE_LOG)
    falsify(file)
    alone = verify_store(file, GENESIS, processes=1)
    assert [fault.origin for fault in alone.faults] == sorted([ALICE_LOG, BOB_LOG, RUN_LOG])
    assert verify_store(file, GENESIS, processes=2) == alone


def test_what_a_false_certificate_covers_counts_for_nothing(file):
    falsify(file)
    for count in (1, 2):
        report = verify_store(file, GENESIS, processes=count)
        assert [(log.certified, log.sound > 0) for log in report.logs if log.origin == BOB_LOG] == [(0, True)]
        assert report.ledger.balances[ALICE.public] < 10**9
        assert BOB_LOG not in report.ledger.decided
        assert report.certificates == b""


def test_roots_that_nobody_asked_for_are_worked_out(file, monkeypatch):
    alone = verify_store(file, GENESIS, processes=1)
    monkeypatch.setattr(verify, "survey", _forgetful)
    assert verify_store(file, GENESIS, processes=1) == alone


def _forgetful(database, sizes):
    found = SURVEY(database, sizes)
    found.asked.clear()
    return found


SURVEY = verify.survey


def test_a_root_is_forgotten_after_the_last_claim_that_names_it_and_not_before(file, monkeypatch):
    alone, made = verify_store(file, GENESIS, processes=1), []

    class Kept(roots.Roots):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def told(self, origin):
            return self._known[origin].told

        def held(self, origin):
            return len(self._known[origin].sizes)

    monkeypatch.setattr(roots, "SPARE", 1)
    monkeypatch.setattr(verify, "Roots", Kept)
    monkeypatch.setattr(check, "MIN_STEP", 2)
    monkeypatch.setattr(roots, "each_row", lambda *_: pytest.fail("a root was forgotten too early"))
    assert verify_store(file, GENESIS, processes=1) == alone
    [kept] = made
    assert kept.told(ALICE_LOG) > 10
    assert kept.held(ALICE_LOG) <= 2


def test_progress_ends_where_all_is_done(file):
    for count in (1, 2):
        told: list[tuple[int, ...]] = []
        report = verify_store(file, GENESIS, processes=count, progress=partial(_note, told))
        assert told == sorted(told)
        assert told[-1] == (report.counts["entries"],) * 2


def _note(told, *numbers):
    told.append(numbers)


def test_a_daemon_may_write_meanwhile(file):
    """Every report is sound, and what counts in it was certified at one moment."""
    stop = threading.Event()

    def write() -> None:
        with Store.open(file, GENESIS) as store:
            while not stop.is_set():
                store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
                certify(store, ALICE_LOG)
                store.append(BOB_LOG, store.claims(BOB.public), BOB)
                certify(store, BOB_LOG)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            report = verify_store(file, GENESIS, processes=2)
            assert report.faults == ()
            assert report.ledger.pendings == ()
    finally:
        stop.set()
        writer.join()


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_is_killed_is_reported_and_none_is_left(file, monkeypatch):
    started: list[int] = []
    survey = workers.Workers.survey

    def kill_one(self, shares):
        found = survey(self, shares)
        started.extend(process.pid for process in self._processes)
        os.kill(started[0], signal.SIGKILL)
        return found

    monkeypatch.setattr(workers.Workers, "survey", kill_one)
    with pytest.raises(StoreUnreadable, match="killed by signal 9"):
        verify_store(file, GENESIS, processes=3)
    assert len(started) == 3
    assert all(_gone(process) for process in started)


def test_an_interrupt_leaves_no_worker(file):
    started: list[int] = []

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    class Noted(workers.Workers):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            started.extend(process.pid for process in self._processes)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(verify, "Workers", Noted)
        verify_store(file, GENESIS, processes=2, progress=interrupt)
    assert len(started) == 2
    assert all(_gone(process) for process in started)


def test_a_worker_whose_parent_is_gone_ends():
    command = [sys.executable, "-P", "-m", "ledger.verify.workers"]
    environment = {**os.environ, "PYTHONPATH": str(Path(workers.__file__).parents[2])}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_store_that_a_worker_cannot_read_is_unreadable(file, monkeypatch):
    monkeypatch.setattr(workers.Workers, "__init__", _elsewhere(workers.Workers.__init__))
    with pytest.raises(StoreUnreadable, match=r"nowhere\.db: there is no ledger here"):
        verify_store(file, GENESIS, processes=2)


def _elsewhere(start):
    return lambda self, path, genesis, count: start(self, path.parent / "nowhere.db", genesis, count)
