"""Held-out losses by the members in turn: whole daemons with fake workers, and members that do not answer.

IO: home folders under a test's own.
"""

from __future__ import annotations

import pytest

from peer.errors import Refused, Unreachable
from peer.messages import Evaluation
from peer.network.rpc import Body
from peer.runs.evaluating import METHOD
from peer.supervisor import Fields
from tests.peer.daemons import World, finish
from tests.peer.memory_net import until
from tests.peer.stranger import stranger

LOSS = 4.0
EVALUATED = {"every": 1, "sequences": 4}


async def test_the_leader_measures_first_and_then_the_members_take_turns(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    run = await alice.submit(members={"min": 3}, training={"rounds": 1000}, evaluation=EVALUATED)
    others = {bob.account, carol.account}
    told = await until(lambda: [e for e in alice.events(run, "evaluated") if e.get("account") in others])
    assert "account" not in alice.events(run, "evaluated")[0]
    assert told[0]["validation"] == LOSS
    assert bob.engine.did["evaluate"] + carol.engine.did["evaluate"] >= 1

    def settled_with_theirs() -> list[Fields]:
        """Not each of theirs is settled: one that comes late gives way to the leader's own of a later round."""
        theirs = {e["round"] for e in alice.events(run, "evaluated") if e.get("account") in others}
        return [e for e in alice.events(run, "settled") if e.get("validation_round") in theirs]

    assert (await until(settled_with_theirs))[0]["validation"] == LOSS
    alice.daemon.host.leaders[run].cancel("enough")
    await finish(run, alice, bob, carol)


async def test_where_no_member_answers_the_leader_measures_and_the_run_goes_on(world: World) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    asked: list[str] = []

    def unreachable(_: str, to: str, body: Body) -> None:
        asked.append(to)
        raise Unreachable(f"peer {to}: nobody answers")

    world.air.faults[METHOD] = unreachable
    run = await alice.submit(members={"min": 3}, training={"rounds": 1000}, evaluation=EVALUATED)
    await until(lambda: asked and len(alice.events(run, "evaluated")) > 3)
    assert all(
        "account" not in event for event in alice.events(run, "evaluated") if event.get("account") != alice.account
    )
    assert bob.engine.did["evaluate"] + carol.engine.did["evaluate"] == 0
    alice.daemon.host.leaders[run].cancel("enough")
    await finish(run, alice, bob, carol)


async def test_a_stranger_is_refused_and_so_is_a_state_that_is_long_gone_or_a_worker_that_errs(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = bob.engine.hold(3)
    run = await alice.submit(training={"rounds": 3})
    await bob.event(run, "training", round=3)
    state = bob.run(run).log.state
    before = bob.run(run).log.state_after(1)
    async with stranger(world, alice, run) as mallory:
        with pytest.raises(Refused, match="FP-423"):
            await mallory.network.call(bob.network.peer_id, METHOD, Evaluation(run=run, state=state).body())
    for asked, code in (
        (Evaluation(run="ab" * 32, state=state), "FP-423"),
        (Evaluation(run=run, state=before), "FP-426"),
    ):
        with pytest.raises(Refused, match=code):
            await alice.network.call(bob.network.peer_id, METHOD, asked.body())
    bob.engine.errs_in["evaluate"] = "FP-110"
    gate.set()
    with pytest.raises(Refused, match="FP-426"):
        await alice.network.call(bob.network.peer_id, METHOD, Evaluation(run=run, state=state).body())
    await finish(run, alice, bob)
