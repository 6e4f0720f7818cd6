"""A mixture of experts whose experts real daemons hold for each other: to its end, and through a SIGKILL.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peer.demo.peers import run, run_json
from peer.demo.story import wait_until
from peer.rounds.log import SettledRound
from tests.e2e.quorum_kit import PATIENCE_S, Net, four_witnesses, job, willing
from tests.e2e.test_failover import told
from tests.e2e.test_pipeline import closed, newest, stage_of
from tests.peer.experts_oracle import ExpertsOracle
from tests.peer.staged_oracle import Found, known_run, served

pytestmark = pytest.mark.e2e

SPEC = """
name: experts
model: {{family: {family}, layers: 2, hidden_size: 32, heads: 2, options: {options}}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{mode: synchronous, rounds: {rounds}, inner_steps: {steps}, batch_size: 4, codec: {{kind: f32}},
  time_budget_s: 20}}
experts: {{groups: {groups}, replicas: {replicas}, microbatch_size: 2, activations: f32}}
members: {{min: 1, max: 8}}
credits: {{price: 1000000}}
evaluation: {{every: 0}}
"""
OPTIONS = {
    "olmoe": "{num_experts: 4, num_experts_per_tok: 2, intermediate_size: 48}",
    "mixtral": "{num_local_experts: 4, num_experts_per_tok: 2, intermediate_size: 48}",
}


def submit(net: Net, folder: Path, *, family: str, rounds: int, **fields: int) -> None:
    """The first peer submits a run over a small text."""
    (folder / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    corpus, options = json.dumps(str(folder / "corpus.txt")), OPTIONS[family]
    values = {"groups": 2, "replicas": 1, "steps": 2, **fields}
    (folder / "run.yaml").write_text(
        SPEC.format(corpus=corpus, family=family, rounds=rounds, options=options, **values)
    )
    run("forge-peer", "submit", folder / "run.yaml", "--home", net.peers[0].home)


def distance(net: Net) -> float:
    """From what one process makes of what the log says was served: of every group all of it, each microbatch once."""
    known, found = known_run(net.peers[0].home), Found([peer.home for peer in net.peers])
    for done in known.log.settled:
        if done.staged:
            served(done, len(done.states), known)
    return ExpertsOracle(known, [found]).distance()


def two_each(done: SettledRound) -> bool:
    """Whether two peers drove it, and two served each group."""
    return all(sum(receipt.stage == stage for receipt in done.staged) == 2 for stage in range(len(done.states)))


@pytest.mark.parametrize("groups", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_drivers_and_two_replicas_of_each_group_train_what_one_process_would(tmp_path: Path, groups: int) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n", peers=2 + 2 * groups) as net:
        submit(net, tmp_path, family="mixtral", rounds=6, groups=groups, replicas=2)
        closed(net, 3 * PATIENCE_S)
        assert len(told(net.peers[0], "settled")) == 6
        report = run_json("forge-ledger", "verify", "--home", net.peers[0].home)
        assert report["ok"] is True, report
        assert any(map(two_each, known_run(net.peers[0].home).log.settled))
        assert distance(net) <= 1e-6
        folder = tmp_path / "model"
        exported = run_json("forge-peer", "export", "--to", folder, "--home", net.peers[0].home)
        assert not exported["unproven"], exported
        run("forge-ledger", "check", folder, "--network", net.file)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "leader", "holder"])
def test_a_sigkill_in_mid_round_loses_no_microbatch_and_counts_none_twice(tmp_path: Path, victim: str) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\nlead = true\n", peers=7) as net:
        first, *others = net.peers
        assert wait_until(lambda: len(willing(first)) == 7, PATIENCE_S), willing(first)
        submit(net, tmp_path, family="olmoe", rounds=20, replicas=2, steps=4)
        assert wait_until(lambda: stages_held(net)[0] >= 2, 3 * PATIENCE_S), stages_held(net)
        wanted = {"driver": {0}, "holder": {1, 2}}.get(victim)
        dies = first if wanted is None else next(peer for peer in others if stage_of(peer) in wanted)
        begun = "opened" if wanted is None else "training"
        number = newest(dies, begun)
        assert wait_until(lambda: newest(dies, begun) > number, PATIENCE_S), "it is in mid-round"
        dies.kill()
        killed_in = newest(dies, begun)
        survivors = [peer for peer in net.peers if peer is not dies]
        assert wait_until(lambda: min(job(peer)["round"] for peer in survivors) > killed_in, 2 * PATIENCE_S)
        net.start(dies.number)
        closed(net, 6 * PATIENCE_S)
        assert {job(peer)["state"] for peer in net.peers} == {job(first)["state"]}
        assert len(known_run(first.home).log.settled) == 20
        assert distance(net) <= 1e-6
        for peer in (first, others[0]):
            report = run_json("forge-ledger", "verify", "--home", peer.home)
            assert report["ok"] is True, report


@pytest.mark.slow
def test_a_holder_that_falls_silent_is_done_without_and_loses_no_microbatch(tmp_path: Path) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n", peers=7) as net:
        submit(net, tmp_path, family="olmoe", rounds=20, replicas=2, steps=4)
        assert wait_until(lambda: stages_held(net)[0] >= 2, 3 * PATIENCE_S), stages_held(net)
        silent = next(peer for peer in net.peers[4:] if stage_of(peer) > 0)  # no witness: three of four are enough
        number = newest(silent, "training")
        assert wait_until(lambda: newest(silent, "training") > number, PATIENCE_S), "it is in mid-round"
        with net.paused(silent.number):
            others = [peer for peer in net.peers if peer is not silent]
            assert wait_until(lambda: all(job(peer)["phase"] == "closed" for peer in others), 6 * PATIENCE_S)
        closed(net, 2 * PATIENCE_S)
        assert len([done for done in known_run(net.peers[0].home).log.settled if done.staged]) == 20
        assert distance(net) <= 1e-6


def stages_held(net: Net) -> list[int]:
    """How many peers serve the trunk, and each group."""
    stages = [stage_of(peer) for peer in net.peers]
    return [stages.count(stage) for stage in range(3)]


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
