"""Runs whose experts live on other peers, by the real engine, the daemons in one process.

IO: starts worker processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.daemons import World
from tests.peer.experts_oracle import ExpertsOracle
from tests.peer.memory_net import until
from tests.peer.test_staged_engine import submit, through


def experts_spec(folder: Path, *, rounds: int, groups: int = 2, **experts: Any) -> dict[str, Any]:
    """The spec of a small mixture of experts over a corpus in this folder."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(600))
    fields = spec_fields(corpus, rounds=rounds, inner_steps=2, batch_size=4, mode="synchronous", codec={"kind": "f32"})
    fields["model"] = {
        "family": "olmoe", "layers": 2, "hidden_size": 32, "heads": 2,
        "options": {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 48},
    }  # fmt: skip
    fields["members"] = {"min": 1, "max": 8}
    fields["evaluation"] = {"every": 2, "sequences": 9}
    fields["experts"] = {"groups": groups, "replicas": 1, "microbatch_size": 2, "activations": "f32", **experts}
    return fields


async def test_a_driver_and_two_groups_train_what_one_process_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        peers = [await world.peer(name) for name in ("alice", "bob", "carol")]
        run = await submit(peers[0], experts_spec(tmp_path, rounds=4))
        await through(run, *peers)
        known = peers[0].run(run)
        assert [{receipt.stage for receipt in done.staged} for done in known.log.settled] == [{0, 1, 2}] * 4
        assert known.log.tokens == 4 * 8 * known.plan.tokens_per_slot
        oracle = ExpertsOracle(known, [peer.daemon.blobs for peer in peers])
        assert oracle.distance() <= 1e-5
        assert known.log.settled[-1].validation[1] / 1e6 == pytest.approx(oracle.held_out(8), rel=1e-5)
        assert not any(peer.events(run, "masked") for peer in peers)


async def test_a_run_goes_on_without_a_group_that_died_and_takes_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        alice, *others = [await world.peer(name) for name in ("alice", "bob", "carol")]
        run = await submit(alice, experts_spec(tmp_path, rounds=600))
        await until(lambda: len(alice.run(run).log.settled) >= 2, 90)
        seats = {seat.account: seat.stage for seat in alice.run(run).log.settled[0].roster}
        driver = next(peer for peer in (alice, *others) if seats[peer.account] == 0)
        victim = next(peer for peer in others if peer is not driver)
        dead = seats[victim.account]
        for worker in list(victim.daemon.host.workers.values()):
            await worker._worker.kill()
        await victim.kill()
        (masked, *_) = await until(lambda: driver.events(run, "masked"), 60)
        assert 0 < masked["weakened"] <= masked["tokens"]
        log = alice.run(run).log
        await until(lambda: log.open is not None and dead not in {seat.stage for seat in log.open.roster}, 60)
        await until(lambda: victim.account not in alice.daemon.host.leaders[run].loads, 60)
        summary = await alice.daemon.node.job(run)
        assert [bool(stage["replicas"]) for stage in summary["stages"]] == [stage != dead for stage in range(3)]
        without = log.round
        await until(lambda: log.round >= without + 4, 60)
        assert {receipt.stage for receipt in log.settled[-1].staged} == {0, 1, 2} - {dead}
        assert log.states_after(log.round)[dead] == log.states_after(without)[dead], "it stays what it was"
        assert [done.validation for done in log.settled[-2:]] == [None, None], "of the rest nobody tells a loss"
        losses = [event["loss"] for event in alice.events(run, "settled")]
        assert sum(losses[-4:]) < sum(losses[:4]), "the loss falls all the same"
        await victim.start()
        await until(lambda: {receipt.stage for receipt in log.settled[-1].staged} == {0, 1, 2}, 90)
        await alice.daemon.node.cancel(run)
        await through(run, alice, *others)
