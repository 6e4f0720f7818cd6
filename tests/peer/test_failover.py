"""Who leads: another leader takes over where one dies, leaves or is cut off, and no two ever lead at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ledger import notes
from ledger.keys import PrivateKey
from ledger.verify.verify import verify_store
from peer.errors import Refused, RunError, Unreachable
from peer.wire import Reply
from tests.peer.daemons import Peer, World, begin_with, finish
from tests.peer.memory_net import until


@pytest.fixture
async def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A network of four witnesses, of whom three must sign."""
    async with World(tmp_path, monkeypatch, witnesses=4) as world:
        yield world


async def peers_of(world: World) -> list[Peer]:
    return [await world.peer(name) for name in ("alice", "bob", "carol", "dave")]


def terms(run: str, *peers: Peer) -> list[tuple[int, str]]:
    """Who led in which term, as the journals tell."""
    told = [(event["term"], event["account"]) for peer in peers for event in peer.events(run, "leads")]
    return sorted(set(told))


async def test_a_leader_that_is_killed_is_followed_by_the_next_and_nothing_settled_is_lost(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate, _ = alice.engine.hold(1), alice.engine.hold(3)  # so that it cannot be over before
    run = await alice.submit(leaders=[bob, carol], members={"min": 2}, training={"rounds": 6})
    await begin_with(alice, run, gate, bob, carol, dave)
    await bob.event(run, "settled", round=2)
    await alice.kill()
    await finish(run, bob, carol, dave)
    assert {account for _, account in terms(run, bob, carol)} <= {bob.account, carol.account}
    await alice.start()
    await finish(run, alice, bob, carol, dave)


async def test_a_leader_that_stops_hands_over(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate, _ = alice.engine.hold(1), alice.engine.hold(3)  # so that it cannot be over before
    run = await alice.submit(leaders=[bob], members={"min": 2}, training={"rounds": 5})
    await begin_with(alice, run, gate, bob, carol, dave)
    await bob.event(run, "settled", round=1)
    await alice.stop()
    await bob.event(run, "leads")
    await finish(run, bob, carol, dave)


async def test_without_any_leader_the_run_waits_and_goes_on_when_one_is_back(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate = alice.engine.hold(1)
    run = await alice.submit(leaders=[], members={"min": 2}, training={"rounds": 4})
    await begin_with(alice, run, gate, bob, carol, dave)
    await bob.event(run, "settled", round=1)
    await alice.kill()
    settled = bob.run(run).log.round
    await alice.start()
    await alice.event(run, "settled", round=settled + 1)
    await finish(run, alice, bob, carol, dave)


async def test_a_leader_that_is_cut_off_steps_down_once_it_hears_of_another_one(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate, held = alice.engine.hold(1), alice.engine.hold(3)  # so that it cannot be over before
    run = await alice.submit(leaders=[bob, carol], members={"min": 2}, training={"rounds": 8})
    await begin_with(alice, run, gate, bob, carol, dave)
    await bob.event(run, "settled", round=2)
    four.air.cut.add(alice.network.peer_id)
    await until(lambda: bob.events(run, "leads") or carol.events(run, "leads"))
    assert alice.run(run).log.close is None
    four.air.cut.clear()
    await alice.event(run, "stepped_down")
    held.set()
    await finish(run, alice, bob, carol, dave)
    assert len({number for number, _ in terms(run, alice, bob, carol)}) == len(terms(run, alice, bob, carol))


async def test_all_are_killed_and_any_two_that_may_lead_go_on_together(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate = alice.engine.hold(1)
    run = await alice.submit(leaders=[bob, carol, dave], members={"min": 2}, training={"rounds": 6})
    await begin_with(alice, run, gate, bob, carol, dave)
    await bob.event(run, "settled", round=2)
    for peer in (alice, bob, carol, dave):
        await peer.kill()
    for peer in (dave, carol, bob):
        await peer.start()
    await until(lambda: any(peer.run(run).log.close for peer in (bob, carol, dave)))
    await alice.start()
    await finish(run, alice, bob, carol, dave)


def follows(peer: Peer, run: str, leader: Peer) -> bool:
    """Whether the peer's heartbeats reach this leader."""
    member = peer.daemon.host.members.get(run)
    return member is not None and member.leader.account == leader.account and not member.heart._silent


async def test_a_submitter_that_does_not_lead_any_more_can_still_cancel_and_nobody_else_can(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate = alice.engine.hold(1)
    run = await alice.submit(leaders=[bob], members={"min": 2}, training={"rounds": 100_000})
    await begin_with(alice, run, gate, bob, carol, dave)
    await alice.kill()
    await bob.event(run, "leads")
    await alice.start()
    for peer in (alice, carol):
        await until(lambda peer=peer: follows(peer, run, bob))
    for peer in (bob, carol):
        with pytest.raises(RunError, match="not submitted by this peer"):
            await peer.daemon.node.cancel(run)
    with pytest.raises(Refused, match="did not submit it"):
        await carol.daemon.host.members[run].heart.ask("run.cancel", {"run": run})
    assert await alice.daemon.node.cancel(run) == {"run": run, "cancelled": 1}
    await finish(run, alice, bob, carol, dave)
    close = bob.run(run).log.close
    assert close is not None
    assert close.reason == "cancelled by the submitter"
    with pytest.raises(RunError, match="is over"):
        await alice.daemon.node.cancel(run)


async def test_what_one_witness_promised_a_dead_leader_is_taken_over(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate, last = alice.engine.hold(1), alice.engine.hold(3)
    run = await alice.submit(leaders=[carol], members={"min": 2}, training={"rounds": 5})
    await begin_with(alice, run, gate, bob, carol, dave)
    await alice.event(run, "opened", round=3)
    reached = []

    def only_bob(caller: str, to: str, body: dict[str, object]) -> None:
        if caller == alice.network.peer_id:
            if to != bob.network.peer_id:
                raise Unreachable("lost")
            reached.append(body["start"])

    four.air.faults["ledger.cosign"] = only_bob
    origin, before = alice.run(run).origin, alice.run(run).log.size
    last.set()
    await until(lambda: reached and promised(bob, origin) > before)
    await alice.kill()
    del four.air.faults["ledger.cosign"]
    await carol.event(run, "leads")
    await finish(run, bob, carol, dave)
    log = carol.run(run).log
    assert [done.round for done in log.settled] == [1, 2, 3, 4, 5]
    assert alice.account in {receipt.account for receipt in log.settled[2].receipts}, "the head that bob promised"
    await alice.start()
    await finish(run, alice, bob, carol, dave)
    for peer in (alice, bob, carol, dave):
        report = await asyncio.to_thread(verify_store, peer.home.ledger_file, four.genesis, processes=1)
        assert report.ok, report.faults
        assert not any(entry.frozen or entry.split for entry in report.logs)


def promised(peer: Peer, origin: str) -> int:
    note = peer.store.promised(origin)
    return notes.checkpoint(notes.parse(note)).size if note else 0


async def test_a_witness_that_lies_about_its_promise_keeps_nobody_from_leading(four: World) -> None:
    alice, bob, carol, dave = await peers_of(four)
    gate = alice.engine.hold(1)
    run = await alice.submit(leaders=[bob], members={"min": 2}, training={"rounds": 5})
    await begin_with(alice, run, gate, bob, carol, dave)
    origin, forger = alice.run(run).origin, PrivateKey.generate()
    forged = notes.sign_head(notes.Checkpoint(origin=origin, size=10**9, root=bytes(32)), forger).decode()
    lies = iter([forged, "garbage", forged.replace(origin, origin[:-1] + "0")] * 1000)
    four.air.changes[dave.network.peer_id, "ledger.term"] = lambda reply: Reply(
        {**reply.body, "promised": next(lies)}
    )
    await alice.kill()
    await bob.event(run, "leads")
    await finish(run, bob, carol, dave)


async def test_leaders_that_bid_at_the_same_time_never_lead_in_the_same_term(
    four: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.runs.candidate.RANK_S", 0.0)
    alice, bob, carol, dave = await peers_of(four)
    gate, _ = alice.engine.hold(1), alice.engine.hold(3)  # so that it cannot be over before
    run = await alice.submit(leaders=[bob, carol, dave], members={"min": 2}, training={"rounds": 12})
    await begin_with(alice, run, gate, bob, carol, dave)
    await bob.event(run, "settled", round=1)
    await alice.kill()
    await until(lambda: any(peer.events(run, "leads") for peer in (bob, carol, dave)))
    await finish(run, bob, carol, dave)
    given = terms(run, bob, carol, dave)
    assert len({number for number, _ in given}) == len(given)
