"""One real daemon: it starts, refuses a second one, ends on Ctrl-C, and leaves nothing when it is killed.

IO: real daemons and p2pd.
"""

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.demo.peers import DemoPeer, program, run, run_json, yard
from peer.gateway.address import find_socket

pytestmark = pytest.mark.e2e


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[DemoPeer]:
    """A running daemon of a network of its own."""
    peer = DemoPeer(number=1, home=tmp_path / "home")
    run("forge-peer", "network", "create", "--home", peer.home)
    with yard([peer]):
        peer.start("--device", "cpu", "--threads", "1")
        peer.wait_ready()
        yield peer


def test_a_daemon_tells_who_and_where_it_is(peer: DemoPeer) -> None:
    told = run_json("forge-peer", "id", "--home", peer.home)
    assert told["account"] == peer.account
    assert told["addresses"][0] == peer.address
    assert peer.address.endswith("/p2p/" + told["peer_id"])
    assert stat.S_IMODE(find_socket(peer.home).stat().st_mode) == 0o600
    assert json.loads(run("forge-peer", "runs", "--home", peer.home, "--json")) == []
    assert run_json("forge-peer", "credits", "balance", "--home", peer.home)["balance"] > 0


def test_a_second_daemon_on_the_same_home_is_refused_with_the_pid(peer: DemoPeer) -> None:
    assert peer.process is not None
    command = [*program("forge-peer"), "start", "--home", str(peer.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "FP-503" in done.stderr
    assert f"pid {peer.process.pid}" in done.stderr
    assert peer.is_ready()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(peer: DemoPeer, number: int) -> None:
    assert peer.process is not None
    peer.see_family()
    assert peer.family
    os.kill(peer.process.pid, number)
    assert peer.process.wait(10) == 0  # it gives itself five seconds
    assert peer.orphans(1.0) == []
    assert not find_socket(peer.home).exists()


def test_stop_ends_it(peer: DemoPeer) -> None:
    assert peer.process is not None
    assert run_json("forge-peer", "stop", "--home", peer.home) == {"stopped": True}
    assert peer.process.wait(5) == 0


def test_sigkill_leaves_no_orphan_and_the_home_can_be_used_again(peer: DemoPeer) -> None:
    account = peer.account
    peer.kill()
    assert peer.family
    assert peer.orphans() == []
    peer.start("--device", "cpu", "--threads", "1")
    peer.wait_ready()
    assert peer.account == account


def test_a_bootstrap_that_does_not_answer_is_named_and_the_daemon_goes_on(peer: DemoPeer, tmp_path: Path) -> None:
    other = DemoPeer(number=2, home=tmp_path / "other")
    nobody = peer.address.replace(peer.address.split("/")[4], "9")
    with yard([other]):
        other.start("--network", peer.home / "network.json", "--bootstrap", nobody, "--device", "cpu")
        other.wait_ready()
        assert other.is_ready()
        assert "/tcp/9/" in other.log.read_text()
