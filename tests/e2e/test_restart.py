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


def certified(peer: DemoPeer, run_id: str) -> list[dict[str, Any]]:
    """The certified entries of the run's log that a peer has; its daemon may be dead."""
    told = run_json("forge-ledger", "log", f"run/{run_id}", "--home", peer.home)
    return [item["entry"] for item in told["entries"][: told["certified"]]]


def settled_states(log: list[dict[str, Any]]) -> dict[int, str]:
    """The state after every settled round."""
    return {entry["round"]: entry["state"] for entry in log if entry["type"] == "settle"}


def proven(peer: DemoPeer, run_id: str, number: int, folder: Path) -> str:
    """The state after a round, taken out of a peer and checked with the network file alone."""
    told = run_json("forge-peer", "export", run_id, "--round", number, "--to", folder, "--home", peer.home)
    network = peer.home / "network.json"
    card = run_json("forge-ledger", "check", folder, "--network", network)["card"]
    assert (told["unproven"], card["round"], card["state"]) == ("", number, told["state"])
    return str(card["state"])


def test_a_run_survives_that_every_daemon_is_killed_at_once(peers: list[DemoPeer], tmp_path: Path) -> None:
    run_id = submit(peers[0], tmp_path)
    wait_for(peers[0], run_id, 3)
    for peer in peers:
        peer.kill()
    before = certified(peers[0], run_id)
    assert [peer.orphans() for peer in peers] == [[], []]
    for peer in reversed(peers):  # the member first, before its leader is there; neither is told where the other is
        peer.start("--device", "cpu", "--threads", "1")
    for peer in peers:
        peer.wait_ready()
    told = [wait_for(peer, run_id, ROUNDS) for peer in peers]
    assert told[0]["state"] == told[1]["state"]
    settled = [event["round"] for event in journal(peers[0], run_id) if event["event"] == "settled"]
    assert settled == list(range(1, ROUNDS + 1))
    after = certified(peers[0], run_id)
    assert after[: len(before)] == before
    states = settled_states(after)
    last = max(settled_states(before))  # what was told may have been ahead of its certificate
    assert (last >= 1, list(states)) == (True, settled)
    reopened = [entry["round"] for entry in after[len(before) :] if entry["type"] == "open"]
    assert min(reopened) >= last + 1, "at most the open round is lost; no settled one is done again"
    for peer in peers:
        report = run_json("forge-ledger", "verify", "--home", peer.home, "--json")
        assert report["ok"] is True
    replay = run_json("forge-ledger", "verify", "--home", peers[0].home, "--replay", run_id)["replay"]
    assert (replay["rounds"], replay["mismatches"], replay["missing"]) == (ROUNDS, [], [])
    assert proven(peers[1], run_id, 1, tmp_path / "first") == states[1], "a settled state of before the kill"
    assert proven(peers[0], run_id, ROUNDS, tmp_path / "last") == states[ROUNDS]


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
