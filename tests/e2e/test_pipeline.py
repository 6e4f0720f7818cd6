"""A model cut into stages, trained by real daemons: to its end, and through SIGKILLs, always as one process would.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peer.blobs.store import BlobStore
from peer.demo.peers import run, run_json
from peer.demo.story import wait_until
from tests.e2e.quorum_kit import PATIENCE_S, Net, four_witnesses, job
from tests.e2e.test_failover import told
from tests.peer.staged_oracle import Oracle, known_run

pytestmark = pytest.mark.e2e

SPEC = """
name: pipeline
model: {{family: {family}, layers: 4, hidden_size: 32, heads: 2, dropout: {dropout}}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{mode: synchronous, rounds: {rounds}, inner_steps: 4, batch_size: 4, codec: {{kind: f32}}, time_budget_s: 20}}
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
    home = net.peers[0].home
    return Oracle(known_run(home), BlobStore(home / "blobs", 1 << 40)).distance()


def test_real_daemons_train_a_model_that_is_cut_in_two(tmp_path: Path) -> None:
    with four_witnesses(tmp_path / "net", "max_runs = 1\n") as net:
        submit(net, tmp_path)
        closed(net, 3 * PATIENCE_S)
        assert len(told(net.peers[0], "settled")) == 6
        report = run_json("forge-ledger", "verify", "--home", net.peers[0].home)
        assert report["ok"] is True, report
        assert distance(net) <= 1e-5
        folder = tmp_path / "model"
        exported = run_json("forge-peer", "export", "--to", folder, "--home", net.peers[0].home)
        assert not exported["unproven"], exported
        run("forge-ledger", "check", folder, "--network", net.file)
