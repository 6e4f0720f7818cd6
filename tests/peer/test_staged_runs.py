"""Whole daemons in one process train runs with stages by workers without a model: whoever dies, nothing is lost.

IO: home folders.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger.fold.fold import conservation
from ledger.verify.verify import verify_store
from peer.stages.manifest import Manifest, check_cover
from tests.peer.daemons import Peer, World
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
        training={"rounds": rounds, "inner_steps": 4, "time_budget_s": "5.0", **more},
        pipeline={"stages": stages, "replicas": replicas, "microbatch_size": 2, "in_flight": 2, "activations": "f32"},
    )  # fmt: skip


def driver(run: str, *peers: Peer) -> Peer:
    """One that has a seat of stage 0 in the open round."""
    return next(peer for peer in peers if stage_of(run, peer) == 0)


def stage_of(run: str, peer: Peer) -> int:
    """The stage whose state the peer's worker holds; -1: none."""
    return int(peer.daemon.host.workers[run].stage)


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
    run = await submit(peers[0])
    await through(run, *peers)
    log = peers[0].run(run).log
    assert [done.tokens for done in log.settled] == [2 * 8 * 16] * 4
    assert {len(done.staged) for done in log.settled} <= {3, 4}
    for peer in peers[1:]:
        assert await peer.spendable() > 0
    summary = await peers[0].daemon.node.job(run)
    assert [stage["stage"] for stage in summary["stages"]] == [0, 1]
