"""Members that do not play by the rules, on whole daemons: each is named in an event, and the run goes on unharmed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ledger.entries import Receipt, parse
from peer.errors import Refused
from peer.messages import Beat
from peer.network.limits import Limits
from peer.rounds.log import OpenRound
from peer.wire import Reply
from tests.peer.daemons import Peer, World, finish, ready_for_the_next_round
from tests.peer.fake_worker import update_bytes
from tests.peer.memory_net import until
from tests.peer.stranger import Stranger, stranger


async def held(world: World) -> tuple[Peer, Peer]:
    """Alice, who will lead, and Bob; both wait with the training of round 1."""
    alice, bob = await world.peer("alice"), await world.peer("bob")
    alice.engine.hold(1), bob.engine.hold(1)
    return alice, bob


def go_on(*peers: Peer) -> None:
    """Let the trainings go on that wait."""
    for peer in peers:
        for gate in peer.engine.gates.values():
            gate.set()


def settled_by(peer: Peer, run: str, number: int = 1) -> set[str]:
    """Whose receipts a round was settled with."""
    return set(peer.events(run, "settled")[number - 1]["accounts"])


async def give(one: Stranger, opened: OpenRound, value: float) -> str:
    """Deliver an update whose norm is `value`."""
    seat = opened.seat(one.account)
    assert seat is not None
    return await one.deliver(one.receipt(opened, update=await one.update(opened, update_bytes(seat.start, value))))


async def test_a_copied_update_is_refused_and_both_signed_receipts_are_kept(world: World) -> None:
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 4}, training={"rounds": 1})
    async with stranger(world, alice, run) as honest, stranger(world, alice, run) as thief:
        opened = await honest.seated()
        mine = honest.receipt(opened, update=await honest.update(opened))
        assert await honest.deliver(mine) == ""
        leader = alice.daemon.host.leaders[run]
        await until(lambda: mine in leader._machine._desk.receipts)
        stolen = thief.receipt(opened, update=mine.update)
        assert await thief.deliver(stolen) == "FP-427"
        told = await alice.event(run, "refused", account=thief.account, code="FP-427")
        assert honest.account[:16] in told["reason"]
        first, second = (parse(text.encode()) for text in told["receipts"])
        assert (first, second) == (mine, stolen)
        for receipt in (first, second):
            assert isinstance(receipt, Receipt)
            receipt.verify()
        assert await thief.deliver(thief.receipt(opened, update=await thief.update(opened))) == "", "its own counts"
        go_on(alice, bob)
        await finish(run, alice, bob)
    settled = alice.run(run).log.settled[0].receipts
    assert {receipt.account for receipt in settled} == {peer.account for peer in (alice, bob, honest, thief)}
    assert [receipt.account for receipt in settled if receipt.update == mine.update] == [honest.account]


async def test_an_update_of_an_earlier_round_is_refused_whoever_made_it(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(2)
    run = await alice.submit(members={"min": 3}, training={"rounds": 2})
    async with stranger(world, alice, run) as lazy:
        first = await lazy.seated(1)
        old = await lazy.update(first)
        assert await lazy.deliver(lazy.receipt(first, update=old)) == ""
        second = await lazy.seated(2)
        of_bob = next(given.update for given in alice.run(run).log.settled[0].receipts if given.account == bob.account)
        for update, maker in ((old, lazy.account), (of_bob, bob.account)):
            assert await lazy.deliver(lazy.receipt(second, update=update)) == "FP-427"
            assert f"{maker[:16]} delivered for round 1" in alice.events(run, "refused")[-1]["reason"]
        gate.set()
        assert await lazy.deliver(lazy.receipt(second, update=await lazy.update(second))) == ""
        await finish(run, alice, bob)
    assert settled_by(alice, run, 2) == {alice.account, bob.account, lazy.account}


async def test_an_empty_update_is_refused(world: World) -> None:
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with stranger(world, alice, run) as idle:
        assert await give(idle, await idle.seated(), 0.0) == ""
        told = await alice.event(run, "refused", account=idle.account, code="FP-107")
        assert "zero" in told["reason"]
        go_on(alice, bob)
        await finish(run, alice, bob)
    assert settled_by(alice, run) == {alice.account, bob.account}


@pytest.mark.parametrize("value", [1e-3, 1e3])
async def test_an_update_far_from_the_others_is_suspicious_and_counts_where_it_is_clipped(
    world: World, value: float
) -> None:
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with stranger(world, alice, run) as odd:
        assert await give(odd, await odd.seated(), value) == ""
        go_on(alice, bob)
        told = await alice.event(run, "suspicious", account=odd.account, round=1)
        await finish(run, alice, bob)
    assert "times the median" in told["reason"]
    assert [event["account"] for event in alice.events(run, "suspicious")] == [odd.account]
    assert settled_by(alice, run) == {alice.account, bob.account, odd.account}


async def test_an_update_that_would_outweigh_the_round_is_refused_where_nothing_is_clipped(world: World) -> None:
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1, "clip_updates": "false"})
    async with stranger(world, alice, run) as loud:
        assert await give(loud, await loud.seated(), 1e3) == ""
        go_on(alice, bob)
        told = await alice.event(run, "refused", account=loud.account, code="FP-428")
        await finish(run, alice, bob)
    assert "at most 16 times" in told["reason"]
    assert settled_by(alice, run) == {alice.account, bob.account}


async def test_contradictory_receipts_are_refused_and_kept_as_a_proof(world: World) -> None:
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 2})
    async with stranger(world, alice, run) as mallory:
        opened = await mallory.seated()
        good = mallory.receipt(opened, update=await mallory.update(opened))
        other = mallory.receipt(opened, update=good.update, loss=1)
        assert await mallory.deliver(good) == ""
        assert await mallory.deliver(other) == "FP-414"
        told = await alice.event(run, "refused", account=mallory.account, code="FP-414")
        assert [parse(text.encode()) for text in told["receipts"]] == [good, other]
        go_on(alice, bob)
        await mallory.collecting(2)
        later = mallory.receipt(opened, update=good.update, loss=2)
        assert await mallory.deliver(later) == "FP-414", "also once the round is settled"
        assert [parse(text.encode()) for text in alice.events(run, "refused")[-1]["receipts"]] == [good, later]
        assert await mallory.deliver(replace(later, signature="ab" * 64)) == "FP-203", "a proof needs its signature"
        second = await mallory.seated(2)
        assert await mallory.deliver(mallory.receipt(second, update=await mallory.update(second))) == ""
    await finish(run, alice, bob)


async def test_a_flood_of_calls_is_refused_told_once_and_harms_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.peer.memory_net.Limits", lambda: Limits(requests_per_s=200.0, burst_requests=400.0))
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 2}, training={"rounds": 3})
    await alice.event(run, "opened", round=1)
    async with stranger(world, alice, run, serves=False) as mallory:
        await mallory.join()
        calls = [
            ("run.beat", Beat(run=run, state="", size=0).body()),
            ("run.receipt", {"run": run, "receipt": "{}"}),
            ("blob.chunk", {"blob": alice.run(run).log.state, "chunk": 0}),
            ("run.join", {"run": run, "advert": "{}"}),
        ]
        refused = 0
        for _ in range(400):
            for method, body in calls:
                try:
                    await mallory.call(method, body)
                except Refused as exc:
                    refused += exc.code == "FP-305"
        assert refused > 200
        told = await alice.event(run, "flood", account=mallory.account, peer=mallory.network.peer_id, code="FP-305")
        assert "requests/s" in told["reason"]
        assert len(alice.events(run, "flood")) == 1
        assert len(alice.events(run, "refused")) <= 16, "nor does it fill the journal"
        go_on(alice, bob)
        await finish(run, alice, bob)
    assert alice.events(run, "dropped") == []


async def test_a_snapshot_with_wrong_chunks_names_the_provider_and_comes_from_another(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(3)
    run = await alice.submit(training={"rounds": 4})
    await alice.event(run, "opened", round=3)
    await ready_for_the_next_round(alice, run, bob)
    world.air.changes[alice.network.peer_id, "blob.chunk"] = lambda reply: Reply(reply.body, reply.payload[::-1] + b"?")
    carol = await world.peer("carol")
    told = await carol.event(run, "bad_chunk", account=alice.account, peer=alice.network.peer_id, code="FP-322")
    assert "and not those of the blob" in told["reason"]
    assert (await carol.event(run, "caught_up"))["by"] == "snapshot"
    del world.air.changes[alice.network.peer_id, "blob.chunk"]
    gate.set()
    await finish(run, alice, bob, carol)


async def test_a_joiner_that_cannot_work_with_the_spec_is_told_why_and_so_is_the_leader(world: World) -> None:
    alice, bob = await held(world)
    run = await alice.submit(training={"rounds": 2})
    await alice.event(run, "opened", round=1)
    carol = await world.peer("carol")
    carol.engine.errs_in["open"] = "FP-101"
    told = await carol.event(run, "cannot_take_part", code="FP-438")
    assert "p2p-llm-forge" in told["reason"]
    assert "FP-101" in told["reason"]
    declined = await alice.event(run, "left", account=carol.account)
    assert declined["reason"].startswith("FP-438: p2p-llm-forge")
    go_on(alice, bob)
    await finish(run, alice, bob)
    assert carol.daemon.host.busy == 0, "it is free for other runs"
    assert carol.account not in settled_by(alice, run, 2)


async def test_strangers_that_say_nothing_but_that_they_are_there_make_room_for_members(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.runs.joined.MOST_PEERS", 4)
    alice, bob = await held(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with asyncio.TaskGroup() as tasks:
        crowd = [stranger(world, alice, run, serves=False) for _ in range(6)]
        for one in crowd:
            nobody = await one.__aenter__()
            await until(lambda: alice.daemon.host.leaders)
            await nobody.join()
        carol = await world.peer("carol")
        carol.engine.hold(1)
        await alice.event(run, "opened", round=1)
        go_on(alice, bob, carol)
        await finish(run, alice, bob, carol)
        for one in crowd:
            tasks.create_task(one.__aexit__(None, None, None))
    assert settled_by(alice, run) == {alice.account, bob.account, carol.account}
