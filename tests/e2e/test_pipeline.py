"""A model cut into stages, trained by real daemons: to its end, and through SIGKILLs, always as one process would.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from peer.demo.peers import DemoPeer, run, run_json
from peer.demo.story import wait_until
from tests.e2e.quorum_kit import PATIENCE_S, Net, four_witnesses, job, willing
from tests.e2e.test_failover import told
from tests.peer.staged_oracle import Found, Oracle, known_run

pytestmark = pytest.mark.e2e

SPEC = """
name: pipeline
model: {{family: {family}, layers: 4, hidden_size: 32, heads: 2, dropout: {dropout}}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{mode: synchronous, rounds: {rounds}, inner_steps: 4, batch_size: 4, codec: {{kind: f32}},
  time_budget_s: 20}}
pipeline: {{stages: {stages}, replicas: {replicas}, microbatch_size: 2, activations: f32}}
members: {{min: 1, max: 8}}
credits: {{price: 1000000}}
evaluation: {{every: 0}}
"""


def submit(net: Net, folder: Path, **fields: object) -> None:
    """The first peer submits a run over a small text."""
    (folder / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(900)))
    corpus = json.dumps(str(folder / "corpus.txt"))
    values = {"family": "gpt2", "dropout": 0.1, "rounds": 6, "stages": 2, "replicas": 1, **fields}
    (folder / "run.yaml").write_text(SPEC.format(corpus=corpus, **values))
    run("forge-peer", "submit", folder / "run.yaml", "--home", net.peers[0].home)


def closed(net: Net, timeout_s: float) -> None:
    """Everybody is through with the run."""
    assert wait_until(lambda: all(job(peer)["phase"] == "closed" for peer in net.peers), timeout_s), [
        job(peer) for peer in net.peers
    ]


def distance(net: Net) -> float:
    """From what one process makes of what the log says was served; the manifests are checked on the way."""
    return Oracle(known_run(net.peers[0].home), Found([peer.home for peer in net.peers])).distance()


def test_real_daemons_train_a_model_that_is_cut_in_two(tmp_path: Path) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n") as net:
        submit(net, tmp_path)
        assert wait_until(lambda: job(net.peers[0])["phase"] == "training", 2 * PATIENCE_S)
        shown = run("forge-peer", "status", job(net.peers[0])["run"], "--home", net.peers[0].home)
        assert "stage 0 (" in shown, shown
        assert "stage 1 (" in shown, shown
        closed(net, 3 * PATIENCE_S)
        assert len(told(net.peers[0], "settled")) == 6
        report = run_json("forge-ledger", "verify", "--home", net.peers[0].home)
        assert report["ok"] is True, report
        assert distance(net) <= 1e-5
        folder = tmp_path / "model"
        exported = run_json("forge-peer", "export", "--to", folder, "--home", net.peers[0].home)
        assert not exported["unproven"], exported
        run("forge-ledger", "check", folder, "--network", net.file)


@pytest.mark.slow
def test_twenty_rounds_of_llama_in_three_stages_are_those_of_one_process(tmp_path: Path) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n", peers=7) as net:
        submit(net, tmp_path, family="llama", dropout=0.0, stages=3, replicas=2, rounds=20)
        closed(net, 6 * PATIENCE_S)
        settled = known_run(net.peers[0].home).log.settled
        assert [done.round for done in settled if done.staged] == list(range(1, 21))
        replicas = [Counter(receipt.stage for receipt in done.staged) for done in settled]
        assert any(min(count[stage] for stage in range(3)) >= 2 for count in replicas), replicas
        assert distance(net) <= 1e-5
        report = run_json("forge-ledger", "verify", "--home", net.peers[0].home)
        assert report["ok"] is True, report


def stage_of(peer: DemoPeer) -> int:
    """The stage that it serves; -1: none yet."""
    events = told(peer, "training") if list(peer.home.glob("runs/*/events.jsonl")) else []
    return int(events[-1]["stage"]) if events else -1


def newest(peer: DemoPeer, event: str) -> int:
    """The last round of which it told this; 0: of none."""
    return max((int(one["round"]) for one in told(peer, event)), default=0)


def two_each(net: Net) -> bool:
    """Whether every stage has two replicas in some round."""
    stages = [stage_of(peer) for peer in net.peers]
    return all(stages.count(stage) >= 2 for stage in range(3))


@pytest.mark.parametrize(
    "victim",
    [
        "replica",
        "leader",
        pytest.param("driver", marks=pytest.mark.slow),
        pytest.param("donor", marks=pytest.mark.slow),
    ],
)
def test_a_sigkill_in_mid_round_loses_nothing_and_counts_nothing_twice(tmp_path: Path, victim: str) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\nlead = true\n", peers=7) as net:
        first, *others = net.peers
        assert wait_until(lambda: len(willing(first)) == 7, PATIENCE_S), willing(first)
        joiner = others.pop()
        if victim == "donor":
            joiner.kill()
        submit(net, tmp_path, stages=3, rounds=20)
        here = [first, *others] if victim == "donor" else net.peers
        assert wait_until(lambda: two_each(net), 3 * PATIENCE_S), [stage_of(peer) for peer in net.peers]
        wanted = {"replica": 1, "donor": 2, "driver": 0}.get(victim)
        dies = first if wanted is None else next(peer for peer in others if stage_of(peer) == wanted)
        begun = "opened" if wanted is None else "training"
        number = newest(dies, begun)
        assert wait_until(lambda: newest(dies, begun) > number, PATIENCE_S), "it is in mid-round"
        if victim == "donor":
            net.start(joiner.number)
        dies.kill()
        killed_in = newest(dies, begun)
        survivors = [peer for peer in here if peer is not dies]
        assert wait_until(lambda: min(job(peer)["round"] for peer in survivors) > killed_in, 2 * PATIENCE_S)
        net.start(dies.number)
        closed(net, 6 * PATIENCE_S)
        assert {job(peer)["state"] for peer in net.peers} == {job(first)["state"]}
        assert distance(net) <= 1e-5
        for peer in (first, others[0]):
            report = run_json("forge-ledger", "verify", "--home", peer.home)
            assert report["ok"] is True, report
