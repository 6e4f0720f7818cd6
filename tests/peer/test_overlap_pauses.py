"""Pauses in runs whose members train the next round while this one is being settled.

IO: home folders under the test's own.
"""

from __future__ import annotations

from tests.peer.daemons import World, begin_with, finish, ready_for_the_next_round
from tests.peer.memory_net import until
from tests.peer.test_overlap import OVERLAP, ahead, sound
from tests.peer.test_presence import alive


async def test_what_a_pausing_member_trained_ahead_of_the_open_round_is_delivered_and_counts(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    first, slow = alice.engine.hold(1), alice.engine.hold(3)
    carol.engine.hold(3)
    carol.engine.stopped_at = 2
    run = await alice.submit(members={"min": 2}, training={"rounds": 6, **OVERLAP})
    await begin_with(alice, run, first, bob, carol)
    await carol.event(run, "training", round=3, ahead=1)
    await until(lambda: carol.run(run).log.open is not None and carol.run(run).log.open.round == 3)
    await carol.daemon.node.pause(3600.0)
    receipt = await alice.event(run, "receipt", round=3, account=carol.account)
    assert receipt["tokens"] == 2 * 16
    slow.set()
    await alice.event(run, "settled", round=3)
    assert 3 in ahead(alice.run(run).log, carol.account, 4)
    assert carol.events(run, "thrown_away") == []
    await until(lambda: not alive(carol))
    await carol.daemon.node.resume()
    await finish(run, alice, bob, carol)
    await sound(world, alice, bob, carol)


async def test_a_leader_that_pauses_gives_up_the_worker_that_trains_and_leads_on_with_the_other(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    first, held = alice.engine.hold(1), bob.engine.hold(6)
    run = await alice.submit(members={"min": 1}, training={"rounds": 9, **OVERLAP})
    await begin_with(alice, run, first, bob)
    await alice.event(run, "settled", round=1)
    await alice.daemon.node.pause(None)
    await alice.event(run, "settled", round=5)
    await until(lambda: alive(alice) == 1)
    assert {receipt.account for receipt in alice.run(run).log.settled[4].receipts} == {bob.account}
    assert run in alice.daemon.host.leaders
    await alice.daemon.node.resume()
    await ready_for_the_next_round(alice, run, alice)
    held.set()
    await finish(run, alice, bob)
    assert alice.account in {receipt.account for receipt in alice.run(run).log.settled[8].receipts}
    await sound(world, alice, bob)
