"""Whole runs between daemons: agreement, joining late, falling behind, payment, what others may not ask of us."""

from __future__ import annotations

import os

import pytest

from peer.errors import RunError, Unreachable
from peer.messages import Gossip
from tests.peer.daemons import SUPPLY, World, begin_with, finish, ready_for_the_next_round
from tests.peer.fake_worker import TOKENS_PER_SLOT
from tests.peer.memory_net import outsider, until

QUOTA = 4
SEAT = QUOTA * TOKENS_PER_SLOT
"""What a member earns in a round, at one micro-credit a token."""


async def test_three_peers_hold_the_same_state_and_are_paid(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    run = await alice.submit(members={"min": 3}, evaluation={"every": 2})
    await finish(run, alice, bob, carol)
    log = alice.run(run).log
    assert [len(done.receipts) for done in log.settled] == [3, 3, 3]
    assert len({done.state for done in log.settled}) == 3
    assert (await bob.spendable(), await carol.spendable()) == (3 * SEAT, 3 * SEAT)
    assert await alice.spendable() == SUPPLY - 6 * SEAT, "what the run did not need came back"
    settled = alice.events(run, "settled")[-1]
    assert (settled["validation_round"], settled["validation"]) == (3, 4.0)
    summary = await bob.daemon.node.job(run)
    assert (summary["phase"], summary["role"], summary["round"]) == ("closed", "member", 3)


async def test_a_late_joiner_starts_from_a_snapshot_while_the_others_train(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gates = [alice.engine.hold(number) for number in (3, 4)]
    run = await alice.submit(training={"rounds": 5})
    await alice.event(run, "opened", round=3)
    carol = await world.peer("carol")
    caught = await carol.event(run, "caught_up")
    assert (caught["round"], caught["by"]) == (2, "snapshot")
    assert alice.events(run, "settled")[-1]["round"] == 2, "it came in mid-round"
    await ready_for_the_next_round(alice, run, carol)
    gates[0].set()
    assert carol.account in (await alice.event(run, "opened", round=4))["members"]
    gates[1].set()
    await finish(run, alice, bob, carol)
    assert alice.events(run, "joined")[-1].items() >= {"account": carol.account, "round": 4}.items()
    assert carol.engine.did["apply"] == 3, "nothing of the first rounds was computed again"


async def test_a_joiner_takes_its_snapshot_from_several_members_at_once_also_if_one_dies_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.peer.fake_worker.STATE_BYTES", 9 * (1 << 20) + 5)
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    first, gate = alice.engine.hold(1), alice.engine.hold(3)
    run = await alice.submit(members={"min": 3}, training={"rounds": 4})
    await begin_with(alice, run, first, bob, carol)
    state = (await alice.event(run, "opened", round=3))["state"]
    for peer in (bob, carol):
        await until(lambda peer=peer: peer.daemon.blobs.has(state))
    asked: dict[str, int] = {}

    def die_after_two(caller: str, to: str, body: dict[str, object]) -> None:
        if body["blob"] == state:
            asked[to] = asked.get(to, 0) + 1
            if to == bob.network.peer_id and asked[to] > 2:
                raise Unreachable("stream reset")

    world.air.faults["blob.chunk"] = die_after_two
    dave = await world.peer("dave")
    assert (await dave.event(run, "caught_up"))["by"] == "snapshot"
    assert {peer for peer, chunks in asked.items() if chunks >= 2} >= {
        peer.network.peer_id for peer in (alice, bob, carol)
    }
    assert alice.events(run, "settled")[-1]["round"] == 2, "nobody waited for it, and the others went on training"
    gate.set()
    await finish(run, alice, bob, carol, dave)


async def test_a_member_whose_state_differs_from_the_log_resynchronises(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    bob.engine.lies = 1
    run = await alice.submit(training={"rounds": 4})
    await finish(run, alice, bob)
    assert bob.engine.did["load"] == 1
    assert {bob.account} <= set(alice.events(run, "settled")[-1]["accounts"]), "it takes part again"


async def test_a_member_that_missed_the_news_replays(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    first, gate = alice.engine.hold(1), alice.engine.hold(4)
    run = await alice.submit(members={"min": 2}, training={"rounds": 5})
    await begin_with(alice, run, first, bob, carol)
    world.air.cut.add(carol.network.peer_id)
    await alice.event(run, "opened", round=4)
    behind = carol.run(run).log.round
    world.air.cut.clear()
    await until(lambda: carol.run(run).log.round == 3)
    caught = await carol.event(run, "caught_up", round=3)
    assert (caught["by"], caught["first"]) == ("replay", behind + 1)
    gate.set()
    await finish(run, alice, bob, carol)
    assert carol.engine.did["load"] == 0


async def test_a_run_ends_when_its_budget_is_spent(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 9}, members={"max": 2}, credits={"budget": f"{5 * SEAT / 1e6:.6f}"})
    await finish(run, alice, bob)
    close = alice.run(run).log.close
    assert close is not None
    assert (close.reason, alice.run(run).log.round) == ("budget spent", 2)
    assert await alice.spendable() == SUPPLY - 2 * SEAT


async def test_cancelling_settles_what_was_delivered_and_returns_the_rest(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    alice.engine.hold(2)
    run = await alice.submit(training={"rounds": 50})
    await alice.event(run, "receipt", round=2, account=bob.account)
    with pytest.raises(RunError, match="not submitted by this peer"):
        await bob.daemon.node.cancel(run)
    await alice.daemon.node.cancel(run)
    await finish(run, alice, bob)
    close = alice.run(run).log.close
    assert close is not None
    assert (close.reason, alice.run(run).log.round) == ("cancelled by the submitter", 2)
    assert await bob.spendable() == 2 * SEAT
    assert await alice.spendable() == SUPPLY - 2 * SEAT


async def test_a_peer_that_comes_after_the_end_leaves_the_run_alone(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 1})
    await finish(run, alice, bob)
    carol = await world.peer("carol")
    await until(carol.daemon.directory.peers)
    assert carol.engine.workers == []


async def test_a_busy_peer_joins_no_second_run(world: World) -> None:
    alice, bob = await world.peer("alice", max_runs=2), await world.peer("bob")
    gate = alice.engine.hold(1)
    first = await alice.submit(training={"rounds": 2})
    await alice.event(first, "opened")
    second = await alice.submit(training={"rounds": 1})
    await until(lambda: second in {advert.run for advert in bob.daemon.directory.runs()})
    assert list(bob.daemon.host.runs) == [first]
    gate.set()
    await finish(first, alice, bob)
    await finish(second, alice, bob)


async def test_gossip_of_others_than_the_leader_fetches_nothing(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(1)
    run = await alice.submit(training={"rounds": 1})
    await alice.event(run, "opened")
    async with outsider(world.air, world.genesis) as mallory:
        asked = []
        mallory.serve_bytes("blob.chunk", lambda *call: asked.append(call))
        gossip = Gossip(run=run, update=f"{os.urandom(32).hex()}-100", peer=mallory.peer_id).body()
        assert await mallory.call(bob.network.peer_id, "run.gossip", gossip) == {}
        gate.set()
        await finish(run, alice, bob)
        assert asked == []


async def test_the_node_answers_for_its_runs(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 1})
    await finish(run, alice, bob)
    told = [event["event"] async for event in alice.daemon.node.events(run, True)]
    assert told[0] == "submitted"
    assert "closed" in told, "following ends when the run does"
