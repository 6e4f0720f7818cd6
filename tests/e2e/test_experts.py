"""A mixture of experts whose experts real daemons hold for each other: to its end, and through a SIGKILL.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peer.demo.peers import run, run_json
from peer.demo.story import wait_until
from tests.e2e.quorum_kit import PATIENCE_S, Net, four_witnesses, job
from tests.e2e.test_failover import told
from tests.e2e.test_pipeline import closed, stage_of
from tests.peer.experts_oracle import ExpertsOracle
from tests.peer.staged_oracle import Found, known_run

pytestmark = pytest.mark.e2e

SPEC = """
name: experts
model: {{family: {family}, layers: 2, hidden_size: 32, heads: 2, options: {options}}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{mode: synchronous, rounds: {rounds}, inner_steps: 2, batch_size: 4, codec: {{kind: f32}},
  time_budget_s: 20}}
experts: {{groups: 2, replicas: 1, microbatch_size: 2, activations: f32}}
members: {{min: 1, max: 8}}
credits: {{price: 1000000}}
evaluation: {{every: 0}}
"""
OPTIONS = {
    "olmoe": "{num_experts: 4, num_experts_per_tok: 2, intermediate_size: 48}",
    "mixtral": "{num_local_experts: 4, num_experts_per_tok: 2, intermediate_size: 48}",
}


def submit(net: Net, folder: Path, *, family: str, rounds: int) -> None:
    """The first peer submits a run over a small text."""
    (folder / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    corpus = json.dumps(str(folder / "corpus.txt"))
    (folder / "run.yaml").write_text(SPEC.format(corpus=corpus, family=family, rounds=rounds, options=OPTIONS[family]))
    run("forge-peer", "submit", folder / "run.yaml", "--home", net.peers[0].home)


def test_real_daemons_hold_the_experts_of_a_model_that_trains_as_in_one_process(tmp_path: Path) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n") as net:
        submit(net, tmp_path, family="mixtral", rounds=6)
        closed(net, 3 * PATIENCE_S)
        assert len(told(net.peers[0], "settled")) == 6
        report = run_json("forge-ledger", "verify", "--home", net.peers[0].home)
        assert report["ok"] is True, report
        known, found = known_run(net.peers[0].home), Found([peer.home for peer in net.peers])
        assert all({receipt.stage for receipt in done.staged} == {0, 1, 2} for done in known.log.settled)
        assert ExpertsOracle(known, [found]).distance() <= 1e-5
        folder = tmp_path / "model"
        exported = run_json("forge-peer", "export", "--to", folder, "--home", net.peers[0].home)
        assert not exported["unproven"], exported
        run("forge-ledger", "check", folder, "--network", net.file)


@pytest.mark.slow
def test_a_run_goes_on_when_experts_are_killed(tmp_path: Path) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n") as net:
        submit(net, tmp_path, family="olmoe", rounds=60)
        assert wait_until(lambda: {0, 1, 2} <= {stage_of(peer) for peer in net.peers}, 3 * PATIENCE_S)
        stages = [stage_of(peer) for peer in net.peers]
        dies = next(peer for peer in net.peers[1:] if stages.count(stage_of(peer)) == 1 and stage_of(peer) > 0)
        driver = net.peers[stages.index(0)]
        dies.kill()
        assert wait_until(lambda: bool(told(driver, "masked")), PATIENCE_S)
        here = [peer for peer in net.peers if peer is not dies]
        masked = int(told(driver, "masked")[0]["round"])
        assert wait_until(lambda: min(job(peer)["round"] for peer in here) > masked + 1, PATIENCE_S)
        net.start(dies.number)
        closed(net, 4 * PATIENCE_S)
        assert {job(peer)["state"] for peer in net.peers} == {job(net.peers[0])["state"]}
        losses = [event["loss"] for event in told(net.peers[0], "settled")]
        assert sum(losses[-5:]) < sum(losses[:5])
        report = run_json("forge-ledger", "verify", "--home", net.peers[0].home)
        assert report["ok"] is True, report
