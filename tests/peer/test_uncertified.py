"""Partitions: who has no quorum trains a few rounds on and waits; healing merges without anybody's help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from ledger.verify.verify import verify_store
from peer.errors import Unreachable
from tests.peer.daemons import Peer, World, begin_with, finish
from tests.peer.memory_net import until


@pytest.fixture
async def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A network of four witnesses, of whom three must sign; people are not told before the test says so."""
    monkeypatch.setattr("peer.runs.uncertified.TELL_S", 1e9)
    async with World(tmp_path, monkeypatch, witnesses=4) as world:
        yield world


async def peers_of(world: World) -> list[Peer]:
    return [await world.peer(name) for name in ("alice", "bob", "carol", "dave")]


def cut(world: World, *sides: Iterable[Peer]) -> None:
    """Nobody reaches anybody of another side."""
    side = {peer.network.peer_id: number for number, peers in enumerate(sides) for peer in peers}

    def lost(caller: str, to: str, body: object) -> None:
        if side.get(caller) != side.get(to):
            raise Unreachable("cut off")

    for method in {method for peer in world.peers.values() for method in peer.network.dispatcher._methods}:
        world.air.faults[method] = lost


def no_witness(world: World) -> None:
    """No witness signs any more, except each for itself."""

    def lost(caller: str, to: str, body: object) -> None:
        raise Unreachable("cut off")

    for method in ("ledger.cosign", "ledger.term"):
        world.air.faults[method] = lost


async def held_back(leader: Peer, run: str, rounds: int) -> None:
    """Waits until the leader has signed one round more than the so many that members may go by."""
    known = leader.run(run)
    await until(lambda: known.log.uncertified == rounds and leader.store.size(known.origin) > known.log.size)


async def verified(world: World, *peers: Peer) -> None:
    """The ledgers are sound, and nobody is accused of anything."""
    for peer in peers:
        report = await asyncio.to_thread(verify_store, peer.home.ledger_file, world.genesis, processes=1)
        assert report.ok, report.faults
        assert not any(entry.frozen or entry.split for entry in report.logs)


@pytest.mark.parametrize("most", [0, 2])
async def test_without_witnesses_a_run_trains_so_many_rounds_on_waits_and_loses_none(
    four: World, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, carol, dave = everybody = await peers_of(four)
    gate, held = alice.engine.hold(1), alice.engine.hold(3)
    training = {"rounds": 8, "max_uncertified_rounds": most}
    run = await alice.submit(leaders=[], members={"min": 2}, training=training)
    await begin_with(alice, run, gate, bob, carol, dave)
    await alice.event(run, "opened", round=3)
    no_witness(four)
    held.set()
    await held_back(alice, run, most)
    for peer in everybody:
        await until(lambda peer=peer: peer.run(run).log.round == 2 + most)
    monkeypatch.setattr("peer.runs.uncertified.TELL_S", 0.0)
    if most:
        for peer in everybody:
            await peer.event(run, "uncertified", round=2 + most, rounds=most)
    summary = alice.run(run).summary(role="leader")
    assert (summary["round"], summary["uncertified"]) == (2 + most, most)
    trained = [{number for number, _, _ in peer.engine.trained} for peer in everybody]
    assert max(map(max, trained)) == 3 + most
    tail = alice.run(run).log.settled[:]
    four.air.faults.clear()
    await finish(run, *everybody)
    assert alice.run(run).log.settled[: len(tail)] == tail, "no round was lost"
    for peer in everybody:
        assert not peer.events(run, "rolled_back")
        told = [len(peer.events(run, name)) for name in ("uncertified", "certified_again")]
        assert told[0] == told[1] >= bool(most)
        assert [event["round"] for event in peer.events(run, "settled")] == list(range(1, 9))
    await verified(four, *everybody)


async def test_the_side_with_the_quorum_goes_on_and_the_other_follows_it_after_healing(four: World) -> None:
    alice, bob, carol, dave = everybody = await peers_of(four)
    erin = await four.peer("erin")
    gate, held = alice.engine.hold(1), alice.engine.hold(3)
    last = bob.engine.hold(7)
    run = await alice.submit(leaders=[bob], members={"min": 2, "max": 5}, training={"rounds": 9})
    await begin_with(alice, run, gate, bob, carol, dave, erin)
    await alice.event(run, "opened", round=3)
    await until(lambda: erin.run(run).log.round == 2)
    cut(four, [alice, erin], [bob, carol, dave])
    held.set()
    await until(lambda: erin.run(run).log.round == 4 and erin.run(run).log.certified_round == 2)
    await bob.event(run, "leads")
    await alice.event(run, "stepped_down")
    await bob.event(run, "settled", round=6)
    for peer in (alice, erin):
        assert peer.run(run).log.round == 4, "the minority stopped at the limit"
        assert max(number for number, _, _ in peer.engine.trained) <= 5
    four.air.faults.clear()
    last.set()
    await finish(run, *everybody, erin)
    for peer in (alice, erin):
        (lost,) = peer.events(run, "rolled_back")
        assert (lost["round"], lost["lost"]) == (2, 2)
    assert not bob.events(run, "rolled_back")
    await verified(four, *everybody, erin)


async def test_a_leader_that_is_killed_with_a_tail_has_it_certified_and_goes_on(four: World) -> None:
    alice, bob, carol, dave = everybody = await peers_of(four)
    gate, held = alice.engine.hold(1), alice.engine.hold(3)
    run = await alice.submit(leaders=[], members={"min": 2}, training={"rounds": 8})
    await begin_with(alice, run, gate, bob, carol, dave)
    await alice.event(run, "opened", round=3)
    no_witness(four)
    held.set()
    await held_back(alice, run, 2)
    tail = alice.run(run).log.settled[:]
    await alice.kill()
    four.air.faults.clear()
    await alice.start()
    await finish(run, *everybody)
    assert alice.run(run).log.settled[:4] == tail, "what it had signed is certified"
    assert not any(peer.events(run, "rolled_back") for peer in everybody)
    await verified(four, *everybody)


async def test_a_partition_without_another_leader_loses_no_round(four: World) -> None:
    alice, bob, carol, dave = everybody = await peers_of(four)
    gate, held = alice.engine.hold(1), alice.engine.hold(3)
    run = await alice.submit(leaders=[bob], members={"min": 2}, training={"rounds": 8})
    await begin_with(alice, run, gate, bob, carol, dave)
    await alice.event(run, "opened", round=3)
    cut(four, [alice, bob], [carol, dave])
    held.set()
    await until(lambda: bob.run(run).log.round == 4)
    tail = bob.run(run).log.settled[:]
    await alice.event(run, "stepped_down")
    four.air.faults.clear()
    await finish(run, *everybody)
    assert carol.run(run).log.round == 8
    await verified(four, *everybody)
    if not alice.events(run, "rolled_back"):
        assert carol.run(run).log.settled[:4] == tail
