"""Whole runs with stages by the real engine, the daemons in one process.

IO: starts worker processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger.fold.fold import conservation
from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.daemons import Peer, World
from tests.peer.memory_net import until
from tests.peer.staged_oracle import Oracle


def staged_spec(
    folder: Path, *, stages: int, replicas: int, rounds: int, family: str = "gpt2", **pipeline: Any
) -> dict[str, Any]:
    """The spec of a small run with stages over a corpus in this folder."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(600))
    fields = spec_fields(corpus, rounds=rounds, inner_steps=2, batch_size=4, mode="synchronous", codec={"kind": "f32"})
    fields["model"] = {**fields["model"], "family": family, "layers": 4, "dropout": 0.1 if family == "gpt2" else 0.0}
    fields["evaluation"] = {"every": 2, "sequences": 9}
    fields["members"] = {"min": 1, "max": stages * replicas + 2}
    fields["pipeline"] = {
        "stages": stages, "replicas": replicas, "microbatch_size": 2, "activations": "f32", **pipeline,
    }  # fmt: skip
    return fields


async def submit(peer: Peer, spec: dict[str, Any]) -> str:
    async for event in peer.daemon.node.submit(spec, []):
        if event["event"] == "submitted":
            return str(event["run"])
    raise AssertionError("nothing was submitted")


async def through(run: str, *peers: Peer) -> None:
    """All are through with the run, and no credit is lost."""
    for peer in peers:
        await until(lambda peer=peer: peer.events(run, "claimed"), 90)
    log = peers[0].run(run).log
    assert log.close is not None
    for peer in peers:
        assert peer.run(run).log.settled == log.settled
    conservation(await peers[0].daemon.logs.ledger())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
async def test_two_peers_train_a_model_that_is_cut_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        alice, bob = await world.peer("alice"), await world.peer("bob")
        run = await submit(alice, staged_spec(tmp_path, stages=2, replicas=1, rounds=3, family=family))
        await through(run, alice, bob)
        log = alice.run(run).log
        assert [len(done.staged) for done in log.settled] == [2, 2, 2]
        assert log.tokens == 3 * 8 * alice.run(run).plan.tokens_per_slot
        served = [{event["stage"] for event in peer.events(run, "training")} for peer in (alice, bob)]
        assert sorted(map(sorted, served)) == [[0], [1]]
        assert all(event["loss"] > 0 for event in alice.events(run, "settled"))
        oracle = Oracle(alice.run(run), alice.daemon.blobs)
        assert oracle.distance() <= 1e-5
        assert log.settled[-1].validation[1] / 1e6 == pytest.approx(oracle.held_out(8), rel=1e-4)


async def test_three_stages_of_two_replicas_train_what_one_process_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        peers = [await world.peer(f"peer{number}") for number in range(6)]
        run = await submit(peers[0], staged_spec(tmp_path, stages=3, replicas=2, rounds=4))
        await through(run, *peers)
        oracle = Oracle(peers[0].run(run), peers[0].daemon.blobs)
        assert all(done.staged for done in peers[0].run(run).log.settled)
        assert oracle.distance() <= 1e-5
