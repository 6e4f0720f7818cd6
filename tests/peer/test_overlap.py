"""Whole runs in which members train the next round while this one is being settled: kills, seats, one state for all.

IO: real worker processes in one test.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.main import main
from ledger.verify.verify import verify_store
from peer.rounds.ahead import basis, expected_start
from peer.rounds.log import RunLog
from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.daemons import Peer, World, begin_with, finish, ready_for_the_next_round
from tests.peer.memory_net import until

OVERLAP = {"overlap": "true"}
PATIENCE_S = 300.0  # real workers on a busy machine


def ahead(log: RunLog, account: str, width: int) -> list[int]:
    """The rounds in which the log says that this account's settled work began ahead."""
    pairs = zip(log.settled, log.settled[1:], strict=False)
    settled = {done.round for done in log.settled if account in {receipt.account for receipt in done.receipts}}
    found = [basis(before, done.roster, account, width) for before, done in pairs]
    return [begun.round for begun in found if begun is not None and begun.round in settled]


def moved(log: RunLog, width: int) -> list[tuple[int, str]]:
    """Round and account of all who were in the round before and are not where they expected to be."""
    return [
        (done.round, seat.account)
        for before, done in zip(log.settled, log.settled[1:], strict=False)
        for seat in done.roster
        if expected_start(before.roster, seat.account, width) not in (None, seat.start)
    ]


async def sound(world: World, *peers: Peer) -> None:
    """Nobody's ledger has a fault."""
    for peer in peers:
        report = await asyncio.to_thread(verify_store, peer.home.ledger_file, world.genesis, processes=1)
        assert report.faults == ()


async def test_every_round_after_the_first_is_trained_ahead(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 5, **OVERLAP})
    await finish(run, alice, bob)
    log = alice.run(run).log
    for peer in (alice, bob):
        assert ahead(log, peer.account, 4) == [2, 3, 4, 5]
        assert [number for number, _, _ in peer.engine.trained] == [1, 2, 3, 4, 5]
        assert peer.engine.did["finish"] == 4
        assert peer.events(run, "thrown_away") == []
    await sound(world, alice, bob)


async def test_the_next_round_is_trained_before_this_one_is_settled(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(1)
    run = await alice.submit(training={"rounds": 3, **OVERLAP})
    await until(lambda: (2, 12, 4) in bob.engine.trained or (2, 8, 4) in bob.engine.trained)
    assert alice.run(run).log.round == 0
    gate.set()
    await finish(run, alice, bob)


async def test_a_member_killed_in_its_work_ahead_comes_back_and_all_hold_one_state(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    first, held, gate = alice.engine.hold(1), carol.engine.hold(3), alice.engine.hold(5)
    run = await alice.submit(training={"rounds": 7, **OVERLAP}, members={"min": 2})
    await begin_with(alice, run, first, bob, carol)
    await carol.event(run, "training", round=3, ahead=1)
    await carol.kill()
    assert not held.is_set()
    await alice.event(run, "dropped", account=carol.account)
    settled = await alice.event(run, "settled", round=4)
    assert set(settled["accounts"]) == {alice.account, bob.account}
    carol.engine.gates.clear()
    await carol.start()
    await ready_for_the_next_round(alice, run, carol)
    gate.set()
    await alice.event(run, "rejoined", account=carol.account)
    await finish(run, alice, bob, carol)
    log = alice.run(run).log
    assert moved(log, 4) == []
    assert ahead(log, bob.account, 4)
    await sound(world, alice, bob, carol)


async def test_work_on_an_update_that_does_not_count_is_thrown_away_and_told(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gates = [peer.engine.hold(2) for peer in (bob, alice)]
    run = await alice.submit(training={"rounds": 4, **OVERLAP})
    await alice.event(run, "settled", round=1)
    alice.engine.errs_in["check"] = "FP-107"
    gates[0].set()
    await alice.event(run, "refused", account=bob.account, round=2)
    await bob.event(run, "training", round=3, ahead=1)
    gates[1].set()
    thrown = await bob.event(run, "thrown_away", round=3)
    assert thrown["reason"] == "our receipt of round 2 does not count"
    await finish(run, alice, bob)
    assert [number for number, _, _ in bob.engine.trained] == [1, 2, 3, 3, 4]
    assert ahead(alice.run(run).log, bob.account, 4) == [4]


@pytest.mark.parametrize("command", ["finish", "train", "apply"])
async def test_a_worker_may_die_in_everything_it_does_ahead(world: World, command: str) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = bob.engine.hold(3)
    run = await alice.submit(training={"rounds": 5, **OVERLAP})
    await bob.event(run, "training", round=3, ahead=1)
    bob.engine.dies_in.add(command)
    gate.set()
    await finish(run, alice, bob)
    assert command not in bob.engine.dies_in
    assert {len(done.receipts) for done in alice.run(run).log.settled} == {2}


async def test_the_leader_that_is_killed_goes_on_and_no_work_ahead_of_the_others_is_lost(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    alice.engine.hold(2)
    run = await alice.submit(training={"rounds": 4, **OVERLAP})
    await bob.event(run, "training", round=3, ahead=1)
    await alice.kill()
    alice.engine.gates.clear()
    await alice.start()
    await finish(run, alice, bob)
    assert [number for number, _, _ in bob.engine.trained] == [1, 2, 3, 4]
    assert bob.events(run, "thrown_away") == []
    await sound(world, alice, bob)


async def test_another_leader_takes_over_and_who_stays_keeps_its_seat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, witnesses=4) as four:
        alice, bob, carol, dave = [await four.peer(name) for name in ("alice", "bob", "carol", "dave")]
        gate, _ = alice.engine.hold(1), alice.engine.hold(4)  # so that it cannot be over before
        run = await alice.submit(leaders=[bob], members={"min": 2}, training={"rounds": 5, **OVERLAP})
        await begin_with(alice, run, gate, bob, carol, dave)
        await bob.event(run, "settled", round=2)
        await alice.kill()
        for peer in (bob, carol, dave):
            await until(lambda peer=peer: peer.events(run, "claimed"), PATIENCE_S)
        await finish(run, bob, carol, dave)
        assert moved(bob.run(run).log, 4) == []
        await sound(four, bob, carol, dave)


async def test_real_workers_hold_one_state_and_a_stranger_replays_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        alice, bob = await world.peer("alice"), await world.peer("bob")
        (tmp_path / "corpus.txt").write_text(corpus_text(600))
        fields = spec_fields(tmp_path / "corpus.txt", rounds=6, inner_steps=2, batch_size=2, overlap=True)
        fields["members"] = {**fields["members"], "min": 2}
        told = [event async for event in alice.daemon.node.submit(fields)]
        run = next(str(event["run"]) for event in told if event["event"] == "submitted")
        await until(lambda: [event for event in bob.events(run, "training") if "ahead" in event], PATIENCE_S)
        await bob.kill()
        await bob.start()
        for peer in (alice, bob):
            await until(lambda peer=peer: peer.events(run, "claimed"), PATIENCE_S)
        await finish(run, alice, bob)
        log = alice.run(run).log
        assert log.round == 6
        assert ahead(log, alice.account, 4)
        assert len({peer.daemon.blobs.path(log.state).read_bytes() for peer in (alice, bob)}) == 1
        await sound(world, alice, bob)
    command = ["verify", "--home", str(bob.home.path), "--replay", run, "--json", "--quiet"]
    result = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["ok"] is True
