"""Whole daemons in one process: members hear what a round is cut with from their leader alone, and gain by it.

IO: home folders.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from peer.messages import CountedUpdate, CutNews
from peer.rounds.cut import ApplyCut, Cut
from peer.rounds.messages import MemberMessage, Replay
from peer.runs.member import Member
from tests.peer.daemons import World, finish
from tests.peer.memory_net import outsider


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Member, object]]:
    """What members are told and do from now on."""
    seen: list[tuple[Member, object]] = []
    tell, do = Member.tell, Member._do

    def told(member: Member, message: MemberMessage) -> None:
        seen.append((member, message))
        tell(member, message)

    async def doing(member: Member, effect: Any) -> Any:
        seen.append((member, effect))
        return await do(member, effect)

    monkeypatch.setattr(Member, "tell", told)
    monkeypatch.setattr(Member, "_do", doing)
    return seen


async def test_members_apply_what_the_leader_cuts_a_round_with_and_replay_nothing(
    world: World, done: list[tuple[Member, object]]
) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    run = await alice.submit(training={"rounds": 6}, members={"min": 2})
    await finish(run, alice, bob)
    guessed = [effect for _, effect in done if isinstance(effect, ApplyCut)]
    replayed = [effect for _, effect in done if isinstance(effect, Replay)]
    assert guessed
    assert len(guessed) + len(replayed) == 6, "bob alone applies, each round once: alice's worker did as leader"


async def test_what_others_than_the_leader_say_is_not_heard_nor_what_no_update_can_be(
    world: World, done: list[tuple[Member, object]]
) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(1)
    run = await alice.submit(training={"rounds": 1})
    await alice.event(run, "opened")
    account = alice.daemon.logs.account.public

    def news(update_bytes: int) -> dict[str, Any]:
        counted = CountedUpdate(account=account, update=f"{os.urandom(32).hex()}-{update_bytes}", tokens=1)
        return CutNews(run=run, round=1, counted=[counted]).body()

    async with outsider(world.air, world.genesis) as mallory:
        assert await mallory.call(bob.network.peer_id, "run.cut", news(100)) == {}
    assert await alice.network.call(bob.network.peer_id, "run.cut", news(1 << 40)) == {}
    assert not [message for _, message in done if isinstance(message, Cut)]
    gate.set()
    await finish(run, alice, bob)
