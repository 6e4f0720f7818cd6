"""Leaders that do not play by the rules, and full disks, on whole daemons: who did it is told, and nothing is lost."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ledger import evidence, notes
from ledger.entries import Close, Receipt
from ledger.merkle import Tree, leaf_hash
from peer.errors import Refused, Unreachable
from peer.rounds import norms
from peer.rounds.roster import Roll
from tests.peer.daemons import Peer, World, begin_with, finish
from tests.peer.memory_net import until


@pytest.fixture
async def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A network of four witnesses, of whom three must sign."""
    async with World(tmp_path, monkeypatch, witnesses=4) as world:
        yield world


async def test_a_leader_that_omits_receipts_is_named_by_whom_it_omits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, carol = [await world.peer(name) for name in ("alice", "bob", "carol")]
    weigh = norms.weigh

    def without_bob(receipts: Sequence[Receipt], *rest: Any, **more: Any) -> Any:
        return weigh([receipt for receipt in receipts if receipt.account != bob.account], *rest, **more)

    monkeypatch.setattr("peer.rounds.lead.weigh", without_bob)
    run = await alice.submit(members={"min": 3}, training={"rounds": 4})
    for number in (1, 2, 3):
        told = await bob.event(run, "omitted", account=alice.account, round=number, code="FP-435")
        assert "no reason given" in told["reason"]
    await finish(run, alice, bob, carol)
    assert carol.events(run, "omitted") == []
    assert bob.account not in alice.events(run, "settled")[-1]["accounts"]


async def test_a_member_whose_update_was_refused_is_told_why_and_blames_nobody(world: World) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    gate = alice.engine.hold(1)
    alice.engine.errs_in["check"] = "FP-107"
    run = await alice.submit(training={"rounds": 2})
    await alice.event(run, "refused", account=bob.account, code="FP-107")
    gate.set()
    told = await bob.event(run, "omitted", account=alice.account, round=1)
    assert told["code"] == "FP-107"
    await finish(run, alice, bob)
    assert len(bob.events(run, "omitted")) == 1
    assert bob.daemon.host._departures.left == set()


async def test_a_leader_that_rosters_itself_only_is_named_and_left_for_another_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.rounds.treatment.UNSEATED_ROUNDS", 3)
    alice, bob = await world.peer("alice"), await world.peer("bob")
    carol = await world.peer("carol", max_runs=0)
    ready = Roll.ready

    def selfish(roll: Roll, states: frozenset[str]) -> list[str]:
        found = ready(roll, states)
        return [alice.account] if alice.account in found else found

    monkeypatch.setattr(Roll, "ready", selfish)
    gates = [alice.engine.hold(number) for number in range(1, 100)]
    run = await alice.submit(members={"min": 1}, training={"rounds": 99})
    for number in range(1, 5):
        await bob.event(run, "opened", round=number)
        await until(lambda: bob.daemon.host.members[run].machine.state)
        gates[number - 1].set()
    told = await bob.event(run, "not_rostered", account=alice.account, code="FP-436")
    assert "ready for 3 rounds without a seat; 1 others have one" in told["reason"]
    assert bob.events(run, "left") == [], "there is no other run yet"
    other = await carol.submit(credits={"price": 0}, training={"rounds": 2})
    left = await bob.event(run, "left", account=bob.account)
    assert "no use for us" in left["reason"]
    await finish(other, carol, bob)
    await alice.daemon.node.cancel(run)
    await alice.event(run, "claimed")
    assert {account for event in alice.events(run, "settled") for account in event["accounts"]} <= {alice.account}


async def test_a_leader_that_equivocates_is_named_with_a_proof_and_its_members_are_free(four: World) -> None:
    alice, bob, carol, dave = [await four.peer(name) for name in ("alice", "bob", "carol", "dave")]
    gate = alice.engine.hold(2)
    run = await alice.submit(leaders=[], members={"min": 2}, training={"rounds": 9})
    await bob.event(run, "opened", round=2)
    origin, store = alice.run(run).origin, alice.store
    size = await bob.daemon.logs.size(origin)
    other = Close(state=alice.run(run).log.state, reason="or is it over?").encode()
    forked = Tree([*map(leaf_hash, store.entries(origin, 0, size - 1)), leaf_hash(other)])
    head = notes.Checkpoint(origin=origin, size=size, root=forked.root())
    note = notes.sign_head(head, alice.identity.account_key).decode()
    with pytest.raises(Refused):
        body = {"origin": origin, "start": size - 1, "entries": [other.decode()], "note": note}
        await alice.network.call(bob.network.peer_id, "ledger.cosign", body)
    for peer in (bob, carol, dave):
        told = await peer.event(run, "equivocated", account=alice.account, code="FP-439")
        assert "contradict each other" in told["reason"]
        assert evidence.verify(peer.store.evidence(origin)[0], four.genesis.terms) == (origin, alice.account)
        await peer.event(run, "left", account=peer.account)
        assert peer.daemon.host.busy == 0
    gate.set()
    assert len(bob.run(run).log.settled[0].receipts) >= 2, "what was certified before stays"


async def leading_without(four: World) -> tuple[list[Peer], str]:
    """Alice's run, which bob leads since alice was killed; alice is back as a member."""
    alice, bob, carol, dave = [await four.peer(name) for name in ("alice", "bob", "carol", "dave")]
    gate = alice.engine.hold(1)
    run = await alice.submit(leaders=[bob, carol], members={"min": 2}, training={"rounds": 100_000})
    await begin_with(alice, run, gate, bob, carol, dave)
    await alice.kill()
    await until(lambda: bob.events(run, "leads") or carol.events(run, "leads"))
    await alice.start()
    return [alice, bob, carol, dave], run


async def test_a_cancelled_run_is_cancelled_though_the_leader_that_heard_it_died(
    four: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.runs.wish.REPEAT_S", 0.1)
    (alice, bob, carol, dave), run = await leading_without(four)
    first = await until(lambda: next((peer for peer in (bob, carol) if run in peer.daemon.host.leaders), None))
    unheard = True

    def lose(sender: str, to: str, body: object) -> None:
        if unheard and sender == alice.network.peer_id:
            raise Unreachable("lost on its way")

    four.air.faults["run.cancel"] = lose
    await until(lambda: run in alice.daemon.host.members)
    assert await alice.daemon.node.cancel(run) == {"run": run, "cancelled": 0}
    await first.kill()
    await alice.stop()
    unheard = False
    await alice.start()
    rest = [peer for peer in (alice, bob, carol, dave) if peer is not first]
    await finish(run, *rest)
    close = rest[1].run(run).log.close
    assert close is not None
    assert close.reason == "cancelled by the submitter"
    await first.start()
    await finish(run, *rest, first)


@pytest.mark.parametrize("place", ["_settle", "_write"])
@pytest.mark.parametrize("whose", ["alice", "bob"])
async def test_a_full_disk_is_told_and_tried_again_until_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch, whose: str, place: str
) -> None:
    alice, bob = await world.peer("alice"), await world.peer("bob")
    victim = world.peers[whose]
    full = True
    real = {"_settle": "peer.blobs.store.os.replace", "_write": "peer.blobs.store.write_atomic"}[place]
    import peer.blobs.store as store

    put = store.os.replace if place == "_settle" else store.write_atomic

    def no_room(first: Any, second: Any, **more: Any) -> Any:
        target = Path(second) if place == "_settle" else Path(first)
        if full and target.is_relative_to(victim.home.blobs):
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(first, second, **more)

    gate = alice.engine.hold(1)
    run = await alice.submit(training={"rounds": 3})
    await alice.event(run, "opened", round=1)
    monkeypatch.setattr(real, no_room)
    gate.set()
    told = await victim.event(run, "disk_full", account=victim.account, code="FP-323")
    assert "the disk is full" in told["reason"]
    full = False
    await finish(run, alice, bob)
    assert not list(victim.home.blobs.rglob(".tmp-*")), "nothing half-written is left"
    for peer in (alice, bob):
        assert peer.events(run, "refused") == [], "nobody is blamed for it"
