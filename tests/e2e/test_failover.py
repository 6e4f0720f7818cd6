"""The leader dies by SIGKILL in mid-run: a willing witness leads on, and the submitter finds its run finished.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peer.demo.peers import DemoPeer, run, run_json
from peer.demo.story import wait_until
from tests.e2e.quorum_kit import PATIENCE_S, four_witnesses, job, willing

pytestmark = pytest.mark.e2e

ROUNDS = 40
SPEC = """
name: failover
model: {{family: gpt2, layers: 1, hidden_size: 32, heads: 2}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{rounds: {rounds}, inner_steps: 4, batch_size: 4}}
members: {{min: 2, max: 4}}
credits: {{price: 1000000}}
evaluation: {{every: 20, sequences: 4}}
"""


def told(peer: DemoPeer, name: str) -> list[dict[str, Any]]:
    """The run's events of this name."""
    (journal,) = peer.home.glob("runs/*/events.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    return [event for event in events if event["event"] == name]


def test_a_run_outlives_its_leader_and_the_ledger_verifies(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    corpus = json.dumps(str(tmp_path / "corpus.txt"))
    (tmp_path / "run.yaml").write_text(SPEC.format(corpus=corpus, rounds=ROUNDS))
    with four_witnesses(tmp_path / "net", "max_runs = 1\nlead = true\n") as net:
        first, *others = net.peers
        assert wait_until(lambda: len(willing(first)) == 4, PATIENCE_S), willing(first)
        run("forge-peer", "submit", tmp_path / "run.yaml", "--home", first.home)
        assert wait_until(lambda: all(job(peer)["round"] >= 4 for peer in others), PATIENCE_S)
        settled = job(others[0])["round"]
        first.kill()
        assert settled < ROUNDS, "it was killed in mid-run"
        assert wait_until(lambda: all(job(peer)["phase"] == "closed" for peer in others), 2 * PATIENCE_S), [
            job(peer) for peer in others
        ]
        terms = [(event["term"], event["account"]) for peer in others for event in told(peer, "leads")]
        assert terms
        assert len({number for number, _ in terms}) == len(terms)
        net.start(1)
        assert wait_until(lambda: job(first)["phase"] == "closed", PATIENCE_S)
        assert {job(peer)["state"] for peer in net.peers} == {job(first)["state"]}
        assert {job(peer)["round"] for peer in net.peers} == {ROUNDS}
        for peer in (first, others[2]):
            report = run_json("forge-ledger", "verify", "--home", peer.home)
            assert report["ok"] is True, report
