"""The demo ends what it started, tells its story from the events alone, and never empties a stranger's folder.

IO: small processes of this test, temporary folders.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from p2p_llm_forge.config import RunSpec
from peer.cli.screen import PlainScreen
from peer.cli.view import RunView
from peer.demo import peers as demo_peers
from peer.demo import story as demo_story
from peer.demo.peers import DemoFailed, DemoPeer, yard
from peer.demo.plan import MARK, DemoOptions, make_folder
from peer.demo.story import Story

A, B, C = "a" * 64, "b" * 64, "c" * 64
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(600)"


@pytest.fixture
def as_daemon(monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes `forge-peer start` run the given Python code instead."""

    def use(code: str, *words: str) -> None:
        def program(_name: str) -> list[str]:
            return [sys.executable, "-c", demo_peers.LEASH, str(os.getpid()), sys.executable, "-c", code, *words]

        monkeypatch.setattr(demo_peers, "program", program)

    return use


def wait_for(log: Path) -> None:
    assert demo_story.wait_until(lambda: log.exists() and "up" in log.read_text(), 10)


def test_no_process_outlives_the_yard_even_if_it_ignores_sigterm(as_daemon, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(demo_peers, "STOP_S", 0.2)
    as_daemon(PARENT, STUBBORN)
    peer = DemoPeer(number=1, home=tmp_path / "peer-1")
    with pytest.raises(DemoFailed), yard([peer]):
        peer.start()
        wait_for(peer.log)
        raise DemoFailed("something broke")
    assert len(peer.family) == 1
    assert peer.orphans(0) == []
    assert peer.process is None


def test_a_killed_daemons_orphans_are_seen(as_daemon, tmp_path: Path) -> None:
    as_daemon(PARENT, STUBBORN)
    peer = DemoPeer(number=1, home=tmp_path / "peer-1")
    with yard([peer]):
        peer.start()
        wait_for(peer.log)
        peer.kill()
        assert len(peer.orphans(0.1)) == 1
    assert peer.orphans(2) == []


def test_sigterm_ends_the_yard_like_ctrl_c(as_daemon, tmp_path: Path) -> None:
    as_daemon("print('up', flush=True); import time; time.sleep(600)")
    peer = DemoPeer(number=1, home=tmp_path / "peer-1")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), yard([peer]):
        peer.start()
        wait_for(peer.log)
        pid = peer.process.pid
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not psutil.pid_exists(pid)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_demo_starts_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, subprocess\nfrom peer.demo.peers import LEASH\n"
        "child = subprocess.Popen([sys.executable, '-c', LEASH, str(os.getpid()), sys.executable, '-c',"
        " 'import time; print(1, flush=True); time.sleep(600)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    child = int(done.stdout)

    def gone() -> bool:
        return not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE

    assert demo_story.wait_until(gone, 5)


def test_a_daemon_that_ends_is_told_with_its_last_words(as_daemon, tmp_path: Path) -> None:
    as_daemon("raise SystemExit('forge-peer: FP-503: held by another daemon')")
    peer = DemoPeer(number=2, home=tmp_path / "peer-2")
    with pytest.raises(DemoFailed, match=r"peer 2: its daemon ended with status 1: forge-peer: FP-503"), yard([peer]):
        peer.start()
        peer.wait_ready()


def test_a_strangers_folder_is_refused_and_an_earlier_demos_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoFailed, match="not empty"):
        make_folder(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    folder = make_folder(tmp_path / "new")
    (folder / "peer-1").mkdir()
    assert [path.name for path in make_folder(folder).iterdir()] == [MARK]


def test_the_demos_spec_is_a_valid_run(tmp_path: Path) -> None:
    spec = tmp_path / "demo.yaml"
    spec.write_text(DemoOptions(num_peers=4, rounds=9).spec())
    run = RunSpec.load(spec)
    assert (run.training.rounds, run.members.min) == (9, 3)


def test_a_missing_corpus_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match=r"none\.txt"):
        DemoOptions(corpus=tmp_path / "none.txt").spec()


class ToldPeer(DemoPeer):
    """A peer that only notes what the demo does with it."""

    def start(self, *words: object) -> None:
        DEEDS.append(f"start {self.number}")

    def is_ready(self) -> bool:
        self.account = {1: A, 2: B, 3: C}[self.number]
        return True

    def kill(self) -> None:
        DEEDS.append(f"kill {self.number}")


DEEDS: list[str] = []


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    DEEDS.clear()
    monkeypatch.setattr(demo_story, "_trains", lambda *_: True)
    monkeypatch.setattr(demo_story, "journal", lambda *_: [{"event": "caught_up", "by": "replay", "seconds": 1.5}])
    peers: list[DemoPeer] = [ToldPeer(number=n, home=tmp_path / f"peer-{n}") for n in (1, 2, 3)]
    peers[0].account, peers[1].account = A, B
    return Story(run="f" * 64, peers=peers, network_file=tmp_path, screen=PlainScreen(RunView()), names={})


def opened(number: int, *members: str) -> dict[str, object]:
    return {"event": "opened", "round": number, "members": list(members)}


def settled(number: int, *members: str) -> dict[str, object]:
    return {"event": "settled", "round": number, "members": len(members), "accounts": list(members), "seconds": 0.01}


def rounds(story: Story, first: int, last: int, *members: str) -> None:
    for number in range(first, last + 1):
        for event in (opened(number, *members), settled(number, *members)):
            story.see(event)
            story.act()


def test_the_third_joins_one_is_killed_and_comes_back(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    rounds(story, 1, 2, A, B)
    assert (DEEDS, story.started_round) == (["start 3"], 3)
    rounds(story, 3, 4, A, B)
    rounds(story, 5, 6, A, B, C)
    assert story.joined_round == 5
    assert DEEDS == ["start 3"]
    story.see(opened(7, A, B, C))
    story.act()
    assert (DEEDS[-1], story.killed_round) == ("kill 2", 7)
    story.see(settled(7, A, C))
    story.act()
    assert DEEDS == ["start 3", "kill 2", "start 2"]
    rounds(story, 8, 9, A, C)
    assert story.others_went_on()
    assert not story.back_round
    rounds(story, 10, 11, A, B, C)
    assert story.back_round == 10
    assert capsys.readouterr().out.count("caught up by replay in 1.5 s") == 2
    assert story.killed_in_mid_round()
    assert story.stall() == pytest.approx(1.0)


def test_a_roster_from_before_the_drop_is_no_comeback(story: Story) -> None:
    rounds(story, 1, 2, A, B)
    rounds(story, 3, 5, A, B, C)
    story.see(opened(6, A, B, C))
    story.act()
    assert story.killed_round in (5, 6)
    story.restarted = True
    story.see(opened(7, A, B, C))
    assert not story.back_round


def test_a_receipt_of_the_killed_member_means_that_it_was_not_killed_in_mid_round(story: Story) -> None:
    story.killed_round = 4
    story.see(settled(4, A, B, C))
    assert not story.killed_in_mid_round()
