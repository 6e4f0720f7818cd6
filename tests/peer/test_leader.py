"""The leader and those who do not play by the rules: every bad receipt is refused by name, the round goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from ledger.entries import Close
from ledger.keys import PrivateKey
from peer.blobs.chunks import id_of
from peer.errors import Refused
from peer.messages import Goodbye
from peer.wire import Reply
from tests.peer.daemons import Peer, World
from tests.peer.fake_worker import update_bytes
from tests.peer.memory_net import advert_of, until
from tests.peer.stranger import stranger


async def two_peers(world: World) -> tuple[Peer, Peer]:
    """Alice, who leads, and Bob; both wait with the training of round 1."""
    alice, bob = await world.peer("alice"), await world.peer("bob")
    alice.engine.hold(1), bob.engine.hold(1)
    return alice, bob


def go_on(*peers: Peer) -> None:
    """Let the trainings go on that wait."""
    for peer in peers:
        for gate in peer.engine.gates.values():
            gate.set()


def members_of(peer: Peer, run: str, round_number: int) -> set[str]:
    """Whose receipts a round was settled with."""
    return set(peer.events(run, "settled")[round_number - 1]["accounts"])


async def test_bad_receipts_are_refused_by_name_and_the_round_settles_all_the_same(world: World) -> None:
    alice, bob = await two_peers(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with stranger(world, alice, run) as mallory:
        opened = await mallory.seated()
        seat = opened.seat(mallory.account)
        others = opened.seat(bob.account)
        assert seat is not None
        assert others is not None
        update = await mallory.update(opened)

        def bad(**changes: Any) -> Any:
            return mallory.receipt(opened, **{"update": update, **changes})

        tried = {
            "bad signature": (replace(bad(), signature="ab" * 64), "FP-2"),
            "changed after signing": (replace(bad(), loss=1), "FP-2"),
            "another run": (bad(run="ab" * 32), "FP-410"),
            "another network": (bad(network="ab" * 32), "FP-410"),
            "somebody else's slots": (bad(slots=(others.start, others.quota)), "FP-413"),
            "more slots than its seat": (bad(slots=(seat.start, seat.quota + 1)), "FP-413"),
            "slots from the middle": (bad(slots=(seat.start + 1, seat.quota - 1)), "FP-413"),
            "more tokens than slots": (bad(tokens=10**6), "FP-413"),
            "another state": (bad(state_in=f"{'cd' * 32}-2000"), "FP-413"),
            "somebody else's receipt": (bad(key=PrivateKey.generate()), "FP-416"),
            "no receipt": (Close(state=opened.state, reason="mine").encode().decode(), "FP-416"),
            "no entry": ('{"type":"receipt"}', "FP-2"),
        }
        for name, (receipt, code) in tried.items():
            got = await mallory.deliver(receipt)
            assert got.startswith(code), f"{name}: refused with {got!r}, wanted {code}"
            told = alice.events(run, "refused")[-1]
            assert (told["account"], told["code"]) == (mallory.account, got), name
        assert len(alice.events(run, "refused")) == len(tried)
        assert await mallory.deliver(bad(round=2)) == "FP-411"
        assert await mallory.deliver(bad()) == "", "after all that its sound receipt is taken"
        assert await mallory.deliver(bad()) == "", "and taken again, as after a lost answer"
        assert await mallory.deliver(bad(loss=1)) == "FP-414"
        go_on(alice, bob)
        await alice.event(run, "claimed")
    assert members_of(alice, run, 1) == {alice.account, bob.account, mallory.account}


async def test_receipts_with_reused_slots_are_refused_in_the_next_round(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(members={"min": 3}, training={"rounds": 2})
    async with stranger(world, alice, run) as mallory:
        first = await mallory.seated(1)
        old = mallory.receipt(first, update=await mallory.update(first))
        assert await mallory.deliver(old) == ""
        second = await mallory.seated(2)
        assert await mallory.deliver(old) == "FP-411"
        again = mallory.receipt(second, slots=old.slots, update=old.update)
        assert await mallory.deliver(again) == "FP-413"
        assert await mallory.deliver(mallory.receipt(second, update=await mallory.update(second))) == ""
        await bob.event(run, "claimed")
    slots = [receipt.slots for done in alice.run(run).log.settled for receipt in done.receipts]
    assert len(set(slots)) == 6


async def test_unsound_updates_are_refused_and_three_of_them_exclude_the_member(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gates = [alice.engine.hold(number) for number in range(1, 6)]
    run = await alice.submit(training={"rounds": 5})
    sound = update_bytes(0)
    unsound = [update_bytes(0, math.inf), sound[:-1], bytes([sound[0] ^ 0xFF]) + sound[1:]]
    await alice.event(run, "opened", round=1)
    async with stranger(world, alice, run) as mallory:
        await until(lambda: mallory.joined)
        gates[0].set()
        for number, data in enumerate(unsound, 2):
            opened = await mallory.seated(number)
            receipt = mallory.receipt(opened, update=await mallory.update(opened, data))
            assert await mallory.deliver(receipt) == ""
            await alice.event(run, "refused", account=mallory.account, round=number, code="FP-107")
            assert await mallory.deliver(receipt) == "FP-107", "said again: the same answer"
            gates[number - 1].set()
            await alice.event(run, "settled", round=number)
            assert members_of(alice, run, number) == {alice.account, bob.account}
        opened = await alice.event(run, "opened", round=5)
        assert mallory.account not in opened["members"], "three strikes"
        seats = await mallory.collecting(5)
        assert await mallory.deliver(mallory.receipt(seats, update=id_of(sound))) == "FP-412"
        gates[4].set()
        await bob.event(run, "claimed")
    reasons = [event["reason"] for event in alice.events(run, "refused") if event["code"] == "FP-107"]
    assert "not finite" in reasons[0]
    assert "199 bytes" in reasons[2]


async def test_an_update_that_cannot_be_had_is_refused_without_a_strike(world: World) -> None:
    alice, bob = await two_peers(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with stranger(world, alice, run) as mallory:
        opened = await mallory.seated()
        update = await mallory.update(opened)
        peer = mallory.network.peer_id
        world.air.changes[peer, "blob.chunk"] = lambda reply: Reply(reply.body, b"?" + reply.payload[1:])
        assert await mallory.deliver(mallory.receipt(opened, update=update)) == ""
        refused = await alice.event(run, "refused", account=mallory.account, code="FP-417")
        assert update[:16] in refused["reason"]
        noted = [event for event in alice.network.events if event.kind == "bad_chunk"]
        assert [(event.peer_id, event.detail["blob"]) for event in noted] == [(peer, update)]
        del world.air.changes[peer, "blob.chunk"]
        other = await mallory.update(opened, update_bytes(99))
        assert await mallory.deliver(mallory.receipt(opened, update=other)) == "", "it may send another that can be had"
        go_on(alice, bob)
        await bob.event(run, "claimed")
    assert members_of(alice, run, 1) == {alice.account, bob.account, mallory.account}


async def test_an_oversize_update_is_refused_before_it_is_fetched(world: World) -> None:
    alice, bob = await two_peers(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with stranger(world, alice, run) as mallory:
        opened = await mallory.seated()
        huge = await mallory.update(opened, bytes(3 << 20))
        assert await mallory.deliver(mallory.receipt(opened, update=huge)) == "FP-419"
        assert (await alice.event(run, "refused", code="FP-419"))["account"] == mallory.account
        assert not any(peer.daemon.blobs.has(huge) for peer in (alice, bob))
        assert await mallory.deliver(mallory.receipt(opened, update=await mallory.update(opened))) == ""
        go_on(alice, bob)
        await bob.event(run, "claimed")


async def test_who_never_joined_is_refused(world: World) -> None:
    alice, bob = await two_peers(world)
    run = await alice.submit(training={"rounds": 1})
    opened = await alice.event(run, "opened")
    async with stranger(world, alice, run, serves=False) as nobody:
        seats = await nobody.collecting()
        assert await nobody.deliver(nobody.receipt(seats, update=id_of(b"x"))) == "FP-420"
        for method, body in (("run.beat", {"state": "", "size": 0}), ("run.leave", {"reason": "bye"})):
            with pytest.raises(Refused) as refused:
                await nobody.call(method, {"run": run, **body})
            assert refused.value.code == "FP-420"
        await nobody.join()
        assert await nobody.deliver(nobody.receipt(seats, update=id_of(b"x"))) == "FP-412", "joined, but without a seat"
    go_on(alice, bob)
    await bob.event(run, "claimed")
    assert set(opened["members"]) == {alice.account, bob.account}


async def test_nobody_joins_as_somebody_else(world: World) -> None:
    alice, bob = await two_peers(world)
    run = await alice.submit(training={"rounds": 1})
    await alice.event(run, "opened")
    async with stranger(world, alice, run, serves=False) as mallory:
        for advert, code in ((advert_of(bob.network), "FP-422"), ("{}", "FP-312")):
            with pytest.raises(Refused) as refused:
                await mallory.join(advert)
            assert refused.value.code == code
        with pytest.raises(Refused):
            await mallory.call("run.leave", Goodbye(run=run, reason="bob leaves").body())
    go_on(alice, bob)
    await bob.event(run, "claimed")
    assert members_of(alice, run, 1) == {alice.account, bob.account}


async def test_calls_about_a_run_that_is_not_led_here_are_refused(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 1})
    await bob.event(run, "claimed")
    for asked in (bob, alice):
        with pytest.raises(Refused) as refused:
            await alice.network.call(asked.network.peer_id, "run.beat", {"run": run, "state": "", "size": 0})
        assert refused.value.code == "FP-423"


async def test_the_leaders_own_worker_may_die_while_it_checks(world: World) -> None:
    alice, bob = await two_peers(world)
    run = await alice.submit(members={"min": 3}, training={"rounds": 1})
    async with stranger(world, alice, run) as mallory:
        opened = await mallory.seated()
        alice.engine.errs_in["check"] = "FP-109"  # as a worker answers that is only just being opened
        assert await mallory.deliver(mallory.receipt(opened, update=await mallory.update(opened))) == ""
        alice.engine.dies_in.add("apply")
        go_on(alice, bob)
        await bob.event(run, "claimed")
    assert alice.events(run, "refused") == []
    assert members_of(alice, run, 1) == {alice.account, bob.account, mallory.account}
