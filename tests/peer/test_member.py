"""Members that die, come back, or cannot speak to the leader; and a leader that is started again in mid-round."""

from __future__ import annotations

import json

import pytest

from peer.errors import Unreachable
from peer.wire import Message
from tests.peer.daemons import World, begin_with, finish, ready_for_the_next_round
from tests.peer.memory_net import until


async def test_survivors_do_not_wait_for_a_killed_member_which_replays_and_comes_back(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    carol.engine.hold(2), alice.engine.hold(2)
    first, gate = alice.engine.hold(1), alice.engine.hold(4)
    run = await alice.submit(training={"rounds": 5}, members={"min": 2})
    await begin_with(alice, run, first, bob, carol)
    await carol.event(run, "training", round=2)
    await carol.kill()
    alice.engine.hold(2).set()
    dropped = await alice.event(run, "dropped", account=carol.account)
    assert "no heartbeat" in dropped["reason"]
    assert dropped["round"] in (2, 3), "in round 2, unless that was over its deadline a moment before"
    settled = await alice.event(run, "settled", round=3)
    assert set(settled["accounts"]) == {alice.account, bob.account}
    await alice.event(run, "opened", round=4)
    carol.engine.gates.clear()
    await carol.start()
    caught = await carol.event(run, "caught_up", round=3)
    assert caught["by"] == "replay"
    await ready_for_the_next_round(alice, run, carol)
    gate.set()
    await alice.event(run, "rejoined", account=carol.account)
    await finish(run, alice, bob, carol)
    assert carol.account in alice.events(run, "settled")[-1]["accounts"]


async def test_who_says_goodbye_is_dropped_at_once_and_the_run_goes_on(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    carol.engine.hold(2)
    first = alice.engine.hold(1)
    run = await alice.submit(training={"rounds": 3})
    await begin_with(alice, run, first, bob, carol)
    await carol.event(run, "training", round=2)
    await carol.stop()
    dropped = await alice.event(run, "dropped", account=carol.account)
    assert dropped["reason"] == "the peer stops"
    await finish(run, alice, bob)


async def test_a_restarted_member_delivers_the_receipt_that_it_promised_and_never_another(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(1)

    def lose(sender: str, to: str, body: object) -> None:
        if sender == bob.network.peer_id:
            raise Unreachable("lost on its way")

    world.air.faults["run.receipt"] = lose
    run = await alice.submit(training={"rounds": 2})
    await bob.event(run, "delivered", round=1)
    promised = await until(lambda: bob.run(run).promised())
    await bob.kill()
    world.air.faults.clear()
    await bob.start()
    await alice.event(run, "receipt", round=1, account=bob.account)
    gate.set()
    await finish(run, alice, bob)
    counted = [r for r in alice.run(run).log.settled[0].receipts if r.account == bob.account]
    assert counted == promised
    assert [number for number, _, _ in bob.engine.trained] == [1, 2], "round 1 was not trained again"


async def test_a_receipt_whose_answer_was_lost_counts_once(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    answered: list[str] = []

    def lose_first(body: Message) -> Message:
        if not answered:
            answered.append("lost")
            raise Unreachable("the answer was lost")
        return body

    world.air.changes[alice.network.peer_id, "run.receipt"] = lose_first
    run = await alice.submit(training={"rounds": 2})
    await finish(run, alice, bob)
    assert [len(done.receipts) for done in alice.run(run).log.settled] == [2, 2]
    assert alice.events(run, "refused") == []


async def test_a_leader_that_is_killed_in_mid_round_goes_on_with_that_round(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    alice.engine.hold(2), carol.engine.hold(2)
    run = await alice.submit(training={"rounds": 3}, members={"min": 3})
    await alice.event(run, "receipt", round=2, account=bob.account)
    opened = alice.run(run).log.open
    await alice.kill()
    alice.engine.gates.clear()
    await alice.start()
    await until(lambda: alice.daemon.host.leaders)
    assert alice.run(run).log.open == opened
    carol.engine.gates[2].set()
    await finish(run, alice, bob, carol)
    second = alice.run(run).log.settled[1]
    assert {receipt.account for receipt in second.receipts} == {alice.account, bob.account, carol.account}
    assert [number for number, _, _ in bob.engine.trained] == [1, 2, 3], "what it had promised was delivered again"
    events = [json.loads(line)["event"] for line in (alice.run(run).folder / "events.jsonl").read_bytes().splitlines()]
    assert events.count("opened") == 3, "the journal tells of each round once"


async def test_a_leader_that_is_stopped_between_runs_takes_up_nothing(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 1})
    await finish(run, alice, bob)
    await alice.stop()
    started = len(alice.engine.workers)
    await alice.start()
    assert alice.run(run).log.close is not None
    assert alice.daemon.host.leaders == {}
    assert len(alice.engine.workers) == started


@pytest.mark.parametrize("command", ["train", "apply", "load"])
async def test_a_members_worker_may_die_in_everything_it_does(world: World, command: str) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    bob.engine.dies_in.add(command)
    bob.engine.lies = 1  # makes it load a state, too
    run = await alice.submit(training={"rounds": 4})
    await finish(run, alice, bob)
    assert command not in bob.engine.dies_in


async def test_the_leaders_worker_may_die_in_mid_training(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    alice.engine.hold(2)
    run = await alice.submit(training={"rounds": 3})
    await alice.event(run, "training", round=2)
    await until(lambda: any(number == 2 for number, _, _ in alice.engine.trained))
    del alice.engine.gates[2]
    await alice.engine.workers[-1].kill()
    await finish(run, alice, bob)
    assert [number for number, _, _ in alice.engine.trained] == [1, 2, 2, 3]
    assert len(alice.run(run).log.settled[1].receipts) == 2


async def test_a_worker_that_does_not_get_ready_is_started_again_and_harms_nobody(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    carol = await world.peer("carol")
    carol.engine.dies_in.add("start")
    gate = alice.engine.hold(1)
    run = await alice.submit(training={"rounds": 3}, members={"min": 2})
    await alice.event(run, "opened")
    await until(lambda: carol.engine.workers)
    gate.set()
    await finish(run, alice, bob, carol)


async def test_a_worker_that_cannot_open_the_run_is_replaced(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    bob.engine.errs_in["open"] = "FP-110"
    run = await alice.submit(training={"rounds": 2})
    await finish(run, alice, bob)
    assert len(bob.engine.workers) >= 2
    assert bob.engine.did["open"] == 1


async def test_the_promise_on_disk_is_the_receipt_that_was_sent(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 1})
    await finish(run, alice, bob)
    (promised,) = bob.run(run).promised()
    assert promised in alice.run(run).log.settled[0].receipts
