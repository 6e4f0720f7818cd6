"""A volunteer pauses and comes back: nobody waits, what was trained counts, and a restart changes nothing.

IO: home folders under the test's own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from peer.errors import ConfigError
from peer.runs.presence import Presence
from tests.peer.daemons import Peer, World, begin_with, finish, ready_for_the_next_round
from tests.peer.memory_net import until


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_pause_is_kept_until_its_time_whatever_happens_to_the_daemon(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "paused.json"
    assert not Presence(file, clock).paused
    assert Presence(file, clock).pause(60.0).until == 1060.0
    assert Presence(file, clock).paused
    clock.now = 1060.0
    assert not Presence(file, clock).paused
    Presence(file, clock).pause(None)
    clock.now = 1e12
    assert Presence(file, clock).resume()
    assert not Presence(file, clock).resume()
    assert not file.exists()


async def test_who_waits_hears_of_a_pause_and_of_its_end(tmp_path: Path) -> None:
    presence = Presence(tmp_path / "paused.json", Clock())
    gone = asyncio.create_task(presence.gone())
    await asyncio.sleep(0)
    presence.pause(60.0)
    presence.pause(90.0)
    assert (await gone).until == 1090.0
    back = asyncio.create_task(presence.back())
    await asyncio.sleep(0)
    presence.resume()
    await back


async def test_a_damaged_pause_is_told_and_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "paused.json").write_text("2h")
    with pytest.raises(ConfigError, match=r"paused\.json: not a pause"):
        Presence(tmp_path / "paused.json")


def alive(peer: Peer) -> int:
    """How many workers the peer's daemon has."""
    return sum(worker.alive for worker in peer.engine.workers)


async def test_nobody_waits_for_a_member_that_pauses_and_its_memory_is_free(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    gate, _ = alice.engine.hold(1), carol.engine.hold(2)
    run = await alice.submit(members={"min": 2}, training={"rounds": 6})
    await begin_with(alice, run, gate, bob, carol)
    await until(lambda: any(number == 2 for number, _, _ in carol.engine.trained))
    told = await carol.daemon.node.pause(None)
    assert told["paused"]["until"] is None
    dropped = await alice.event(run, "dropped", account=carol.account)
    assert dropped["reason"] == "its volunteer paused it"
    await alice.event(run, "settled", round=4)
    await until(lambda: not alive(carol))
    assert [len(done.receipts) for done in alice.run(run).log.settled[1:4]] == [2, 2, 2]
    assert alice.events(run, "late") == alice.events(run, "benched") == []
    assert (await carol.daemon.node.job(run))["paused"] == told["paused"]
    await carol.daemon.node.resume()
    await finish(run, alice, bob, carol)
    assert [event["event"] for event in carol.run(run).journal.events if event["event"] in ("paused", "resumed")] == [
        "paused", "resumed"
    ]  # fmt: skip


async def test_what_was_trained_until_the_pause_is_delivered_and_counts(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    gate, slow = alice.engine.hold(1), alice.engine.hold(2)
    carol.engine.hold(2)
    carol.engine.stopped_at = 2
    run = await alice.submit(members={"min": 2}, training={"rounds": 3})
    await begin_with(alice, run, gate, bob, carol)
    await until(lambda: any(number == 2 for number, _, _ in carol.engine.trained))
    await carol.daemon.node.pause(3600.0)
    receipt = await alice.event(run, "receipt", round=2, account=carol.account)
    assert receipt["tokens"] == 2 * 16
    slow.set()
    await alice.event(run, "settled", round=2)
    assert carol.account in {receipt.account for receipt in alice.run(run).log.settled[1].receipts}
    await until(lambda: not alive(carol))
    await carol.daemon.node.resume()
    await finish(run, alice, bob, carol)


async def test_a_paused_peer_stays_paused_over_a_restart_and_serves_what_it_has(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(2)
    run = await alice.submit(members={"min": 1}, training={"rounds": 4})
    await alice.event(run, "opened", round=2)
    await ready_for_the_next_round(alice, run, bob)
    await bob.daemon.node.pause(3600.0)
    await bob.kill()
    await bob.start()
    assert bob.daemon.host.presence.paused
    gate.set()
    await alice.event(run, "settled", round=4)
    trained = len(bob.engine.trained)
    await until(lambda: bob.run(run).log.close)
    assert (await bob.daemon.node.status())["paused"]["until"] is not None
    assert len(bob.engine.trained) == trained
    assert not alive(bob)
    await bob.daemon.node.resume()
    await finish(run, alice, bob)


async def test_a_leader_that_pauses_goes_on_leading_and_trains_again_afterwards(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    first, held = alice.engine.hold(1), bob.engine.hold(5)
    run = await alice.submit(members={"min": 1}, training={"rounds": 8})
    await begin_with(alice, run, first, bob)
    await alice.event(run, "settled", round=1)
    await alice.daemon.node.pause(None)
    await alice.event(run, "settled", round=4)
    assert {receipt.account for receipt in alice.run(run).log.settled[3].receipts} == {bob.account}
    assert run in alice.daemon.host.leaders
    await alice.daemon.node.resume()
    await ready_for_the_next_round(alice, run, alice)
    held.set()
    await finish(run, alice, bob)
    assert alice.account in {receipt.account for receipt in alice.run(run).log.settled[-1].receipts}


async def test_a_peer_that_is_paused_may_submit_and_lead_a_run_that_others_train(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    await alice.daemon.node.pause(3600.0)
    run = await alice.submit(members={"min": 1}, training={"rounds": 3})
    await finish(run, alice, bob)
    assert alice.engine.trained == []
    assert {receipt.account for done in alice.run(run).log.settled for receipt in done.receipts} == {bob.account}
    assert not alive(alice)


async def test_the_worker_of_a_paused_leader_may_die(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    first, held = alice.engine.hold(1), bob.engine.hold(3)
    run = await alice.submit(members={"min": 1}, training={"rounds": 5})
    await begin_with(alice, run, first, bob)
    await alice.daemon.node.pause(None)
    await alice.event(run, "opened", round=3)
    await alice.engine.workers[-1].kill()
    held.set()
    await finish(run, alice, bob)


async def test_a_leader_that_is_paused_to_the_end_closes_the_run(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(1)
    run = await alice.submit(members={"min": 1}, training={"rounds": 3})
    await begin_with(alice, run, gate, bob)
    await alice.daemon.node.pause(None)
    await finish(run, alice, bob)
    assert not alive(alice)


async def test_a_paused_peer_joins_no_run(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    await bob.daemon.node.pause(None)
    run = await alice.submit(members={"min": 1}, training={"rounds": 2})
    await alice.event(run, "claimed")
    assert bob.run(run) is None
    other = await alice.submit(members={"min": 2}, training={"rounds": 2})
    await bob.daemon.node.resume()
    await finish(other, alice, bob)
