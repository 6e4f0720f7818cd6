"""Submitting: what cannot be paid or used is refused with figures, and nothing is spent or left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from peer.errors import RunError, WorkerDied, WorkerRefused
from tests.peer.daemons import SUPPLY, Peer, World, finish
from tests.peer.fake_worker import spec_fields
from tests.peer.memory_net import until

SEAT = 64


async def refused(peer: Peer, error: type[Exception], **changes: Any) -> Any:
    """Submitting this is refused; the balance is as before, and no folder of it is left."""
    balance = await peer.spendable()
    with pytest.raises(error) as caught:
        await peer.submit(**changes)
    assert await peer.spendable() == balance
    assert await peer.daemon.node.jobs() == []
    assert not [path for path in peer.home.runs.iterdir() if path.name != ".measure"]
    assert peer.store.origins() == []
    return caught.value


async def test_a_submitter_who_cannot_pay_is_refused_with_figures(world: World) -> None:
    await world.peer("alice")
    bob = await world.peer("bob")
    exc = await refused(bob, RunError)
    assert exc.code == "FP-430"
    assert f"0 micro-credits to spend, the run needs {3 * 4 * SEAT}" in exc.message


async def test_more_than_the_balance_is_refused(world: World) -> None:
    alice = await world.peer("alice")
    exc = await refused(alice, RunError, credits={"budget": str(SUPPLY // 10**6 + 1)})
    assert exc.code == "FP-430"
    assert str(SUPPLY) in exc.message


async def test_a_budget_that_pays_not_one_round_is_refused_with_figures(world: World) -> None:
    alice = await world.peer("alice")
    exc = await refused(alice, RunError, credits={"budget": f"{(2 * SEAT - 1) / 1e6:.6f}"})
    assert exc.code == "FP-432"
    assert f"{2 * SEAT - 1} micro-credits" in exc.message
    assert f"which is {2 * SEAT}" in exc.message
    assert "credits.budget" in exc.fix


@pytest.mark.parametrize("code", ["FP-101", "FP-102", "FP-103", "FP-105"])
async def test_what_the_engine_refuses_is_refused_with_its_words(world: World, code: str) -> None:
    alice = await world.peer("alice")
    alice.engine.errs_in["prepare"] = code
    exc = await refused(alice, WorkerRefused)
    assert (exc.code, "prepare does not work" in exc.message) == (code, True)


@pytest.mark.parametrize("when", ["start", "prepare"])
async def test_a_worker_that_dies_while_it_prepares_is_told(world: World, when: str) -> None:
    alice = await world.peer("alice")
    alice.engine.dies_in.add(when)
    await refused(alice, WorkerDied)


async def test_a_worker_that_names_other_blobs_than_it_wrote_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await world.peer("alice")
    monkeypatch.setattr("tests.peer.fake_worker.id_of", lambda data: f"{'ab' * 32}-{len(data)}")
    exc = await refused(alice, RunError)
    assert exc.code == "FP-408"


async def test_progress_is_told_and_the_run_begins_with_its_budget(world: World) -> None:
    alice = await world.peer("alice")
    told = [event async for event in alice.daemon.node.submit(spec_fields())]
    assert [event["event"] for event in told] == ["progress", "submitted"]
    assert told[-1]["budget"] == 3 * 4 * SEAT
    ledger = await alice.daemon.logs.ledger()
    assert ledger.runs[told[-1]["run"]].balance == 3 * 4 * SEAT
    assert await alice.spendable() == SUPPLY - 3 * 4 * SEAT


async def test_the_same_spec_twice_makes_two_runs(world: World) -> None:
    alice = await world.peer("alice", max_runs=2)
    assert await alice.submit() != await alice.submit()


async def test_a_submitter_that_is_killed_before_the_funding_is_certified_funds_once(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    asked = asyncio.Event()
    cosigners = alice.daemon.logs._cosigners
    certificate = cosigners.certificate

    async def never(note: bytes, *words: Any) -> bytes:
        if alice.daemon.logs.origin.encode() in note:
            asked.set()
            await asyncio.Event().wait()
        return await certificate(note, *words)

    cosigners.certificate = never
    submitting = asyncio.create_task(alice.submit(training={"rounds": 1}))
    await asyncio.wait_for(asked.wait(), 10)
    submitting.cancel()
    await alice.kill()
    await alice.start()
    run = next(iter(await until(lambda: alice.daemon.host.runs)))
    await finish(run, alice, bob)
    assert [entry.type for entry in await alice.daemon.logs.entries(alice.daemon.logs.origin, 0)] == ["send", "recv"]
    assert await alice.spendable() == SUPPLY - SEAT


async def test_what_a_killed_submission_prepared_is_swept(world: World) -> None:
    alice = await world.peer("alice")
    await alice.kill()
    rest = alice.home.runs / ".prepare-0123"
    rest.mkdir()
    Path(rest / "shard").write_bytes(b"rest")
    (alice.home.runs / ("ab" * 32)).mkdir()  # a run whose spec was not written yet
    await alice.start()
    assert not rest.exists()
    assert await alice.daemon.node.jobs() == []
