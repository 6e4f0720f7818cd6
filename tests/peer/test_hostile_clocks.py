"""Clocks that are hours off, on whole daemons: whoever's it is is named with the offset, and training goes on."""

from __future__ import annotations

import pytest

from peer.network.clock import TOLERANCE_S, NetworkClock
from peer.network.hello import Hello
from peer.network.rpc import Event
from tests.peer.daemons import World, finish
from tests.peer.memory_net import Air, MemoryNetwork, new_identity
from tests.peer.test_joined import GENESIS

HOURS_S = 3 * 3600.0
both_ways = pytest.mark.parametrize("ahead_s", [HOURS_S, -HOURS_S])


@both_ways
async def test_a_member_whose_clock_is_hours_off_is_named_and_takes_part(world: World, ahead_s: float) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    carol = await world.peer("carol", clock_ahead_s=ahead_s)
    run = await alice.submit(members={"min": 3}, training={"rounds": 2})
    hours = f"{ahead_s / 3600:+.1f} h"
    told = await alice.event(run, "clock", account=carol.account, peer=carol.network.peer_id, code="FP-313")
    assert told["reason"] == f"clock of peer {carol.network.peer_id} differs by {hours}"
    assert abs(told["offset_s"] - ahead_s) <= 2
    own = await carol.event(run, "clock", account=alice.account)
    assert f"ours is taken to be {hours} until it is set right" in own["reason"]
    await finish(run, alice, bob, carol)
    assert bob.events(run, "clock") == [], "it never met it"
    assert [len(done.receipts) for done in alice.run(run).log.settled] == [3, 3]


@both_ways
async def test_a_leader_and_witness_whose_clock_is_hours_off_is_named_and_its_run_goes_on(
    world: World, ahead_s: float
) -> None:
    alice = await world.peer("alice", clock_ahead_s=ahead_s)
    bob = await world.peer("bob")
    run = await alice.submit(training={"rounds": 2})
    told = await bob.event(run, "clock", account=alice.account, code="FP-313")
    assert abs(told["offset_s"] - ahead_s) <= 2
    await finish(run, alice, bob)


@both_ways
async def test_one_witness_of_four_whose_clock_is_hours_off_keeps_cosigning(
    world: World, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    async with World(world.folder / "four", monkeypatch, witnesses=4) as four:
        alice, bob, carol = [await four.peer(name) for name in ("alice", "bob", "carol")]
        dave = await four.peer("dave", clock_ahead_s=ahead_s)
        run = await alice.submit(leaders=[], members={"min": 4}, training={"rounds": 2})
        await alice.event(run, "clock", account=dave.account)
        await finish(run, alice, bob, carol, dave)


def hello_at(now: float) -> Hello:
    """The hello of somebody whose clock shows this."""
    identity = MemoryNetwork(Air(), new_identity(), GENESIS).identity
    return Hello.of(GENESIS, identity.binding, [], now)


def machine(told: list[Event]) -> NetworkClock:
    """A clock that stands at 10,000 s."""
    return NetworkClock(told.append, lambda: 10_000.0)


def test_only_peers_that_we_dial_correct_our_clock_and_most_of_them_must_agree() -> None:
    told: list[Event] = []
    clock = machine(told)
    for _ in range(5):
        clock.compare(hello_at(10_000 + HOURS_S), dialed=False)
    assert [event.detail["offset_s"] for event in told] == [HOURS_S] * 5
    assert clock.now() == 10_000.0, "whoever dials us does not"
    clock.compare(hello_at(10_000), dialed=True)
    clock.compare(hello_at(10_000 + HOURS_S), dialed=True)
    assert clock.now() == 10_000.0, "one of two is not most"
    clock.compare(hello_at(10_000 + HOURS_S), dialed=True)
    assert clock.now() == 10_000.0 + HOURS_S


def test_small_differences_and_peers_that_tell_no_time_change_nothing() -> None:
    told: list[Event] = []
    clock = machine(told)
    for now in (0.0, 10_000 + TOLERANCE_S, 10_000 - TOLERANCE_S):
        clock.compare(hello_at(now), dialed=True)
    assert (clock.now(), told) == (10_000.0, [])


def test_dialed_peers_are_forgotten_oldest_first() -> None:
    clock = machine([])
    for _ in range(100):
        clock.compare(hello_at(10_000 + HOURS_S), dialed=True)
    for _ in range(64):
        clock.compare(hello_at(10_000), dialed=True)
    assert clock.now() == 10_000.0
