"""A volunteer pauses in mid-run, the machine's memory is free, and it comes back with what it had.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from peer.demo.peers import DemoPeer, run, run_json, yard
from peer.demo.story import wait_until

pytestmark = pytest.mark.e2e

PATIENCE_S = 120.0
SPEC = """
name: paused
model: {{family: gpt2, layers: 1, hidden_size: 32, heads: 2}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{rounds: 1000, inner_steps: 1000, batch_size: 4, time_budget_s: 1.0}}
members: {{min: 1, max: 2}}
evaluation: {{every: 0}}
"""


def events(peer: DemoPeer, *names: str) -> list[dict[str, Any]]:
    """What the peer's journal of its run tells under these names."""
    journals = list(peer.home.glob("runs/*/events.jsonl"))
    told = [json.loads(line) for line in journals[0].read_text().splitlines()] if journals else []
    return [event for event in told if event["event"] in names]


def contributed(leader: DemoPeer, member: DemoPeer) -> list[int]:
    """The rounds whose settlement counts the member."""
    return [event["round"] for event in events(leader, "settled") if member.account in event["accounts"]]


def test_a_volunteer_pauses_restarts_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    (tmp_path / "run.yaml").write_text(SPEC.format(corpus=json.dumps(str(tmp_path / "corpus.txt"))))
    first, second = (DemoPeer(number=n, home=tmp_path / f"peer-{n}") for n in (1, 2))
    run("forge-peer", "network", "create", "--home", first.home)
    with yard([first, second]):
        first.start("--device", "cpu", "--threads", "1")
        first.wait_ready()
        second.start("--network", first.home / "network.json", "--bootstrap", first.address, "--device", "cpu",
                     "--threads", "1")  # fmt: skip
        second.wait_ready()
        run("forge-peer", "submit", tmp_path / "run.yaml", "--home", first.home)
        assert wait_until(lambda: len(contributed(first, second)) >= 2, PATIENCE_S)
        workers = second.client.get("/status")["workers"]
        assert [psutil.pid_exists(pid) for pid in workers] == [True]

        told = run_json("forge-peer", "pause", "2h", "--home", second.home)
        assert told["paused"]["until"] - told["paused"]["since"] == pytest.approx(7200)
        assert wait_until(lambda: not psutil.pid_exists(workers[0]), PATIENCE_S)
        assert "until 2" in run("forge-peer", "status", "--home", second.home)
        (dropped,) = (event for event in events(first, "dropped") if event["account"] == second.account)
        assert "its volunteer paused it until" in dropped["reason"]
        # What it delivered of the round that it left may count, so its last round is known once that one is settled.
        assert wait_until(lambda: events(first, "settled")[-1]["round"] >= dropped["round"] + 3, PATIENCE_S)
        last = contributed(first, second)[-1]

        run("forge-peer", "pause", "--home", first.home)  # so that the run stands still, however long a restart takes
        second.kill()
        second.start("--device", "cpu", "--threads", "1")
        second.wait_ready()
        assert second.client.get("/status")["paused"]["until"] == told["paused"]["until"]
        assert second.client.get("/status")["workers"] == []
        assert contributed(first, second)[-1] == last

        for peer in (first, second):
            assert run("forge-peer", "resume", "--home", peer.home) == "training again\n"
        assert wait_until(lambda: contributed(first, second)[-1] > last + 3, PATIENCE_S)
        assert events(second, "restored")[-1]["residual"] >= last
        assert wait_until(lambda: second.client.get("/jobs")[0]["round"] > last + 3, PATIENCE_S)
        run("forge-peer", "cancel", "--home", first.home)
        for peer in (first, second):
            assert wait_until(lambda peer=peer: events(peer, "claimed"), PATIENCE_S)
            assert run_json("forge-ledger", "verify", "--home", peer.home)["ok"] is True
