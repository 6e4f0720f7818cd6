"""Everybody killed at once: the run goes on from the last settled round, and what was promised is kept.

IO: real daemons and p2pd.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.demo.peers import DemoPeer, run, run_json, yard
from peer.demo.plan import DemoOptions
from peer.demo.story import wait_until

pytestmark = pytest.mark.e2e

ROUNDS = 6
PATIENCE_S = 240.0


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[list[DemoPeer]]:
    """Two running daemons of one network; the first leads and is its witness."""
    first, second = (DemoPeer(number=n, home=tmp_path / f"peer-{n}") for n in (1, 2))
    run("forge-peer", "network", "create", "--home", first.home)
    with yard([first, second]):
        first.start("--device", "cpu", "--threads", "1")
        first.wait_ready()
        network = ("--network", first.home / "network.json", "--bootstrap", first.address)
        second.start(*network, "--device", "cpu", "--threads", "1")
        second.wait_ready()
        yield [first, second]


def submit(peer: DemoPeer, folder: Path) -> str:
    """Submit a short run of two members; returns its id."""
    text = DemoOptions(rounds=ROUNDS, num_peers=3).spec()
    (folder / "run.yaml").write_text(text)
    run("forge-peer", "submit", folder / "run.yaml", "--home", peer.home)
    found: str = run_json("forge-peer", "runs", "--home", peer.home, "--json")[0]["run"]
    return found


def wait_for(peer: DemoPeer, run_id: str, settled: int) -> dict[str, Any]:
    """The run as the peer tells it once `settled` rounds are settled."""
    told: dict[str, Any] = {}

    def done() -> bool:
        told.update(next((job for job in peer.client.get("/jobs") if job["run"] == run_id), {}))
        return int(told.get("round", 0)) >= settled

    assert wait_until(done, PATIENCE_S), f"{peer.label}: {settled} rounds not settled; see {peer.log}"
    return told


def journal(peer: DemoPeer, run_id: str) -> list[dict[str, Any]]:
    """What the peer noted of the run."""
    return [json.loads(line) for line in (peer.home / "runs" / run_id / "events.jsonl").read_text().splitlines()]


def test_a_run_survives_that_every_daemon_is_killed_at_once(peers: list[DemoPeer], tmp_path: Path) -> None:
    run_id = submit(peers[0], tmp_path)
    wait_for(peers[0], run_id, 2)
    for peer in peers:
        peer.kill()
    assert [peer.orphans() for peer in peers] == [[], []]
    for peer in reversed(peers):  # the member first, before its leader is there; neither is told where the other is
        peer.start("--device", "cpu", "--threads", "1")
    for peer in peers:
        peer.wait_ready()
    told = [wait_for(peer, run_id, ROUNDS) for peer in peers]
    assert told[0]["state"] == told[1]["state"]
    settled = [event["round"] for event in journal(peers[0], run_id) if event["event"] == "settled"]
    assert settled == list(range(1, ROUNDS + 1))
    for peer in peers:
        report = run_json("forge-ledger", "verify", "--home", peer.home, "--json")
        assert report["ok"] is True


def test_a_killed_leader_comes_back_to_its_round(peers: list[DemoPeer], tmp_path: Path) -> None:
    run_id = submit(peers[0], tmp_path)
    wait_for(peers[0], run_id, 1)
    peers[0].kill()
    peers[0].start("--device", "cpu", "--threads", "1")
    peers[0].wait_ready()
    told = [wait_for(peer, run_id, ROUNDS) for peer in peers]
    assert told[0]["state"] == told[1]["state"]
    assert told[0]["round"] == ROUNDS


def test_a_cancelled_run_is_settled_closed_and_refunded(peers: list[DemoPeer], tmp_path: Path) -> None:
    def balance() -> int:
        return int(peers[0].client.get("/tokens/balance/me")["balance"])

    before = balance()
    run_id = submit(peers[0], tmp_path)
    budget = journal(peers[0], run_id)[0]["budget"]
    wait_for(peers[0], run_id, 1)
    assert balance() == before - budget
    run("forge-peer", "cancel", run_id, "--home", peers[0].home)
    assert "cancelled" in run("forge-peer", "watch", run_id, "--home", peers[0].home)
    assert wait_until(lambda: journal(peers[0], run_id)[-1]["event"] == "claimed", PATIENCE_S)
    told = peers[0].client.get(f"/jobs/{run_id}")
    assert told["phase"] == "closed"
    assert before - told["credits"] <= balance() < before  # all came back but what the other member earned
