"""Whole daemons in one process train runs with stages by workers without a model: whoever dies, nothing is lost.

IO: home folders.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger.fold.fold import conservation
from ledger.verify.verify import verify_store
from peer.errors import Unreachable
from peer.runs.staged.worker import StageWorker
from peer.stages.manifest import Manifest, check_cover
from peer.wire import Reply
from tests.peer.daemons import Peer, World
from tests.peer.fake_stage import FakeStage
from tests.peer.memory_net import until

NAMES = ("alice", "bob", "carol", "dave")


@pytest.fixture
async def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A network of four witnesses, of whom three must sign."""
    async with World(tmp_path, monkeypatch, witnesses=4) as world:
        yield world


async def submit(
    peer: Peer, *, leaders: list[Peer] | None = None, stages: int = 2, replicas: int = 2, rounds: int = 4, **more: Any
) -> str:
    """A run whose model is cut; a driver has 4 microbatches of 2 slots."""
    return await peer.submit(
        leaders=leaders or [], members={"min": 1, "max": 8},
        training={"rounds": rounds, "inner_steps": 4, "time_budget_s": "5.0"}, **more,
        pipeline={"stages": stages, "replicas": replicas, "microbatch_size": 2, "in_flight": 2, "activations": "f32"},
    )  # fmt: skip


def driver(run: str, *peers: Peer) -> Peer:
    """One that has a seat of stage 0 in the open round."""
    return next(peer for peer in peers if stage_of(run, peer) == 0)


def stage_of(run: str, peer: Peer) -> int:
    """The stage whose state the peer's worker holds; -1: none."""
    worker = peer.daemon.host.workers.get(run)
    return worker.stage if isinstance(worker, StageWorker) else -1


async def through(run: str, *peers: Peer) -> None:
    """All are through, agree, hold the final state of their stage, and every receipt's manifest adds up."""
    for peer in peers:
        await peer.event(run, "claimed")
    log = peers[0].run(run).log
    assert log.close is not None
    for peer in peers:
        assert peer.run(run).log.settled == log.settled
        assert peer.daemon.host.workers[run].newest_state() == (log.round, log.state)
    plan = peers[0].run(run).staged
    for done in log.settled:
        size = sum(seat.quota for seat in done.roster if seat.stage == 0) // plan.microbatch
        by_stage = [[one for one in done.staged if one.stage == stage] for stage in range(plan.stages)]
        check_cover([[Manifest.read(one.served, size) for one in receipts] for receipts in by_stage], size)
    conservation(await peers[0].daemon.logs.ledger())


async def test_replicas_of_two_stages_train_and_are_paid(four: World) -> None:
    peers = [await four.peer(name) for name in NAMES]
    run = await submit(peers[0], evaluation={"every": 2, "sequences": 8})
    await through(run, *peers)
    log = peers[0].run(run).log
    assert [event["validation"] for event in peers[0].events(run, "evaluated")] == [4.0, 4.0]
    assert log.settled[-1].validation == (4, 4_000_000)
    assert [done.tokens for done in log.settled] == [2 * 8 * 16] * 4
    assert {len(done.staged) for done in log.settled} <= {3, 4}
    for peer in peers[1:]:
        assert await peer.spendable() > 0
    summary = await peers[0].daemon.node.job(run)
    assert [stage["stage"] for stage in summary["stages"]] == [0, 1]


async def in_round_2(run: str, *peers: Peer) -> None:
    """All have a seat in round 2, which is certified, so that it stays open; their passes in it are held back."""
    for peer in peers:
        await until(lambda peer=peer: any(event["round"] == 2 for event in peer.events(run, "training")), 30)
        await until(lambda peer=peer: (opened := peer.run(run).log.certified_open) and opened.round == 2, 30)


@pytest.mark.parametrize("stage", [0, 1])
async def test_who_is_killed_in_mid_round_is_made_up_for_and_comes_back(four: World, stage: int) -> None:
    peers = [await four.peer(name) for name in NAMES]
    gates = [peer.engine.hold(2) for peer in peers[1:]]
    run = await submit(peers[0])
    await in_round_2(run, *peers)
    dies = next(peer for peer in peers[1:] if stage_of(run, peer) == stage)
    others = [peer for peer in peers if peer is not dies]
    await dies.kill()
    for gate in gates:
        gate.set()
    for peer in others:
        await until(lambda peer=peer: peer.run(run).log.round >= 2, 30)
    await dies.start()
    await through(run, *peers)
    settled = peers[0].run(run).log.settled[1]
    assert {one.account for one in settled.staged} <= {peer.account for peer in others}
    report = await asyncio.to_thread(verify_store, peers[0].home.ledger_file, four.genesis)
    assert report.ok, report


async def test_another_leader_brings_the_round_to_its_end(four: World) -> None:
    peers = [await four.peer(name) for name in NAMES]
    alice, *others = peers
    gates = [peer.engine.hold(2) for peer in others]
    run = await submit(alice, leaders=others)
    await in_round_2(run, *peers)
    await alice.kill()
    for gate in gates:
        gate.set()
    for peer in others:
        await until(lambda peer=peer: peer.run(run).log.round >= 2, 60)
    await alice.start()
    await through(run, *peers)


@pytest.mark.parametrize(
    "command",
    ["stage_open", "stage_begin", "stage_forward", "stage_backward", "stage_write", "stage_norm", "stage_apply"],
)
async def test_a_worker_that_dies_costs_no_microbatch(four: World, command: str) -> None:
    peers = [await four.peer(name) for name in NAMES]
    for peer in peers:
        peer.engine.dies_in.add(command)
    run = await submit(peers[0], rounds=3)
    await through(run, *peers)
    assert any(not peer.engine.dies_in for peer in peers)


async def test_tensors_longer_than_a_frame_travel_in_parts(four: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("parcels", "passes", "serving"):
        monkeypatch.setattr(f"peer.runs.staged.{module}.PAYLOAD_LIMIT", 24)
    peers = [await four.peer(name) for name in NAMES]
    run = await submit(peers[0], rounds=2)
    await through(run, *peers)
    calls = sum(peer.network.dispatcher.calls["stage.more"] for peer in peers)
    assert calls >= 2 * 4
    assert peers[0].run(run).log.tokens == 2 * 2 * 8 * 16


@pytest.mark.parametrize("forgets", [False, True])
async def test_an_input_is_sent_again_only_where_it_was_forgotten(
    four: World, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    monkeypatch.setattr(FakeStage, "forgets", forgets)
    peers = [await four.peer(name) for name in NAMES[:3]]
    sizes: list[int] = []

    def note(_: str, __: str, body: dict[str, Any]) -> None:
        if (body["stage"], body["kind"]) == (1, "backward"):
            sizes.append(body["x"])

    four.air.faults["stage.pass"] = note
    run = await submit(peers[0], stages=3, replicas=1, rounds=2)
    await through(run, *peers)
    assert 0 in sizes, "the only replica has it from the forward pass"
    assert any(sizes) == forgets


async def test_a_replica_that_answers_garbage_is_passed_over(four: World) -> None:
    peers = [await four.peer(name) for name in NAMES]
    run = await submit(peers[0], rounds=3)
    await until(lambda: sorted(stage_of(run, peer) for peer in peers) == [0, 0, 1, 1], 30)
    liar = next(peer for peer in peers if stage_of(run, peer) == 1)
    four.air.changes[liar.network.peer_id, "stage.pass"] = lambda reply: Reply(reply.body, b"garbage")
    await through(run, *peers)


async def test_a_stage_that_lacks_replicas_makes_the_run_wait_and_say_so(four: World) -> None:
    peers = [await four.peer(name) for name in NAMES]
    gates = [peer.engine.hold(2) for peer in peers]
    run = await submit(peers[0])
    await in_round_2(run, *peers)
    away = next(peer for peer in peers[1:] if stage_of(run, peer) == 1)
    away.daemon.host.presence.pause(None)
    for gate in gates:
        gate.set()
    waiting = await until(
        lambda: next((event for event in peers[0].events(run, "waiting") if event["round"] == 3), None), 30
    )
    assert "stage 1 has 1 of 2 replicas: needs a peer with" in waiting["missing"]
    log = peers[0].run(run).log
    await until(lambda: log.round == 2 and log.open is None)  # it waits at a settled round
    away.daemon.host.presence.resume()
    await through(run, *peers)


async def test_who_joins_in_mid_run_fetches_a_stage_and_serves_it(four: World) -> None:
    peers = [await four.peer(name) for name in NAMES]
    gates = [peer.engine.hold(3) for peer in peers]
    run = await submit(peers[0], rounds=6)
    await until(lambda: all(any(e["round"] == 3 for e in peer.events(run, "training")) for peer in peers), 30)
    erin = await four.peer("erin")
    assert (await erin.event(run, "loaded"))["round"] >= 1
    for gate in gates:
        gate.set()
    await through(run, *peers, erin)
    assert erin.events(run, "delivered"), "it had a seat as soon as it held the stage"
    assert await erin.spendable() > 0


async def test_a_run_ends_though_nobody_can_measure_held_out_losses(four: World) -> None:
    peers = [await four.peer(name) for name in NAMES]

    def nobody(*_: object) -> None:
        raise Unreachable("nobody looks")

    four.air.faults["stage.look"] = nobody
    run = await submit(peers[0], rounds=2, evaluation={"every": 1, "sequences": 8})
    await through(run, *peers)
    assert [done.validation for done in peers[0].run(run).log.settled] == [None, None]


async def test_an_update_that_another_delivered_first_does_not_count(
    four: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FakeStage._write_update

    def copied(stage: FakeStage, *, round: int, manifest: list[int]) -> Any:
        answer = write(stage, round=round, manifest=manifest)
        if stage.stage == 1 and not peers[0].events(run, "refused"):
            Path(answer["update"]).write_text(json.dumps({"stage": 1, "round": round, "done": [0]}))
        return answer

    monkeypatch.setattr(FakeStage, "_write_update", copied)
    peers = [await four.peer(name) for name in NAMES]
    gates = [peer.engine.hold(1) for peer in peers]
    run = await submit(peers[0], rounds=4)
    for peer in peers:
        await until(lambda peer=peer: peer.events(run, "training"), 30)
    for gate in gates:  # both replicas of stage 1 have a seat: neither does the whole round before the other is there
        gate.set()
    refused = await peers[0].event(run, "refused")
    assert "who delivered it first" in refused["reason"]
    await through(run, *peers)
    assert len(peers[0].events(run, "refused")) == 1, "once a round"
    for done in peers[0].run(run).log.settled:
        assert len({one.update for one in done.staged}) == len(done.staged)
