"""Certified logs from peer to peer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ledger import proof
from ledger.entries import Send
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from ledger.replica.values import Settings
from peer.errors import MessageInvalid, Refused, Unreachable
from peer.ledger.replication import choose
from peer.messages import WitnessRequest
from peer.wire import Reply
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import until

STRANGER = PrivateKey.generate().public


def pay(amount: int, to: str = STRANGER) -> Send:
    return Send(to=to, amount=amount, memo="")


async def test_a_pull_brings_all_that_is_certified_and_nothing_else(ledgers: Ledgers) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [pay(1)] * 600)
    alice.store.append(alice.logs.origin, [pay(2)], alice.key)  # not certified
    assert await bob.replication.pull(alice.network.peer_id) == 600
    assert await bob.logs.heads() == await alice.logs.heads() == [(alice.logs.origin, 600)]
    assert await bob.replication.pull(alice.network.peer_id) == 0
    await alice.logs.append(alice.logs.origin, [pay(3)])
    assert await bob.replication.pull(alice.network.peer_id) == 2
    ours, theirs = await bob.logs.ledger(), await alice.logs.ledger()
    assert ours.balances == theirs.balances


async def test_a_log_may_come_by_way_of_a_third_peer(ledgers: Ledgers) -> None:
    alice, bob, carol = ledgers.alice, ledgers.more("bob"), ledgers.more("carol")
    await alice.logs.append(alice.logs.origin, [pay(1)])
    await bob.replication.pull(ledgers.keeper.network.peer_id)
    ledgers.air.cut.add(alice.network.peer_id)
    assert await carol.replication.pull_log(bob.network.peer_id, alice.logs.origin) == 1


async def test_a_log_that_nobody_has_is_refused_by_name(ledgers: Ledgers) -> None:
    bob = ledgers.more("bob")
    with pytest.raises(Refused) as refused:
        await bob.replication.pull_log(ledgers.alice.network.peer_id, ledgers.alice.logs.origin)
    assert refused.value.code == "FP-403"
    with pytest.raises(Unreachable):
        await bob.replication.pull("nobody")


async def test_a_peer_that_is_behind_us_gives_nothing(ledgers: Ledgers) -> None:
    alice, bob, carol = ledgers.alice, ledgers.more("bob"), ledgers.more("carol")
    for replica in (bob, carol):
        await alice.logs.append(alice.logs.origin, [pay(1)])
        await replica.replication.pull_log(alice.network.peer_id, alice.logs.origin)
    assert await carol.replication.pull_log(bob.network.peer_id, alice.logs.origin) == 0


async def test_a_log_of_many_messages_is_fetched_piece_by_piece(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [pay(1)] * 700)
    monkeypatch.setattr("peer.ledger.replication.PULL_ENTRIES", 256)
    assert await bob.replication.pull_log(alice.network.peer_id, alice.logs.origin) == 700


def framed(*entries: Send) -> bytes:
    return b"".join(len(data).to_bytes(2, "big") + data for data in (entry.encode() for entry in entries))


def forge(payload: bytes | None = None, **changes: Any) -> Callable[[Reply], Reply]:
    """A change of every answer with entries that a peer sends."""
    return lambda reply: Reply({**reply.body, **changes}, reply.payload if payload is None else payload)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (forge(b""), MessageInvalid),
        (forge(framed(pay(1))), MessageInvalid),
        (forge(framed(pay(1)), proof=["ab" * 32]), LedgerError),
        (forge(framed(pay(1), pay(1), pay(9))), LedgerError),
        (forge(framed(pay(1), pay(1), pay(1), pay(1))), MessageInvalid),
        (forge(framed(pay(1))[:-1]), MessageInvalid),
        (forge(certificate="none"), LedgerError),
        (forge(size=2), MessageInvalid),
        (forge(proof=["ab" * 32]), MessageInvalid),
        (forge(proof=["AB" * 32]), MessageInvalid),
        (forge(more=1), MessageInvalid),
    ],
)
async def test_what_a_lying_peer_sends_is_not_stored(
    ledgers: Ledgers, change: Callable[[Reply], Reply], error: type[Exception]
) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [pay(1)] * 3)
    ledgers.air.changes[alice.network.peer_id, "ledger.entries"] = change
    with pytest.raises(error):
        await bob.replication.pull(alice.network.peer_id)
    assert await bob.logs.heads() == []


async def test_heads_that_are_no_heads_are_refused(ledgers: Ledgers) -> None:
    bob = ledgers.more("bob")
    good: dict[str, Any] = {"instance": "ab" * 16, "cursor": 1, "heads": [], "evidence": []}
    for wrong in (
        {"heads": [["x"]]}, {"heads": "x"}, {"heads": [["x", -1]]}, {"more": 1}, {"instance": "AB" * 16},
        {"cursor": -1}, {"evidence": [1]}, {"heads": [["x", 1]] * 1001},
    ):  # fmt: skip
        body = {**good, **wrong}
        ledgers.air.changes[ledgers.alice.network.peer_id, "ledger.heads"] = lambda _, body=body: Reply(body)
        with pytest.raises(MessageInvalid):
            await bob.replication.pull(ledgers.alice.network.peer_id)


async def test_one_entry_is_proven_to_anybody_who_asks(ledgers: Ledgers) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [pay(1), pay(2)])
    body = {"origin": alice.logs.origin, "index": 1}
    answer = await bob.network.call(alice.network.peer_id, "ledger.proof", body)
    assert proof.check(proof.parse(answer["proof"].encode()), ledgers.genesis).entry == pay(2)
    with pytest.raises(Refused):
        await bob.network.call(alice.network.peer_id, "ledger.proof", {**body, "index": 2})


# ---------------------------------------------------------------------- anti-entropy


def test_of_many_peers_witnesses_are_asked_and_those_known_already_and_some_others() -> None:
    peers = {f"p{number}" for number in range(100)} | {"w"}
    chosen = choose({"p7", "gone"}, {"w", "away"}, peers, 10)
    assert len(chosen) == 10
    assert {"w", "p7"} <= chosen <= peers
    assert choose(set(), set(), {"p1"}, 10) == {"p1"}


@contextlib.asynccontextmanager
async def serving(*replicas: Replica, follows: frozenset[str] = frozenset()) -> AsyncIterator[None]:
    """All of these keep each other up to date."""
    names = [replica.network.peer_id for replica in replicas]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                replica.replication.serve(lambda: names, lambda: {"w": names[0]}, lambda: follows)
            )
            for replica in replicas
        ]
        yield
        for task in tasks:
            task.cancel()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a running replication, shortened."""
    settings = Settings(quick_s=0.02, slow_s=0.05, retry_s=0.02, blame_s=0.05)
    monkeypatch.setattr("peer.ledger.replication.SETTINGS", settings)
    monkeypatch.setattr("peer.ledger.replication.HEAR_S", 0.02)


async def everybody_has(log: str, size: int, *replicas: Replica) -> None:
    for replica in replicas:
        assert await asyncio.wait_for(replica.logs.grown(log, size - 1), 20) == size


@pytest.mark.usefixtures("quick")
async def test_replicas_agree_without_being_told(ledgers: Ledgers) -> None:
    alice, keeper, bob, carol = ledgers.alice, ledgers.keeper, ledgers.more("bob"), ledgers.more("carol")
    async with serving(keeper, alice, bob, carol):
        await alice.logs.append(alice.logs.origin, [pay(1)] * 600)
        await everybody_has(alice.logs.origin, 600, bob, carol)
        await alice.logs.append(alice.logs.origin, [pay(1)])
        await everybody_has(alice.logs.origin, 601, bob, carol)
    assert (await bob.logs.ledger()) == (await alice.logs.ledger())


@pytest.mark.usefixtures("quick")
async def test_a_log_is_wanted_once_a_certified_entry_refers_to_it(ledgers: Ledgers) -> None:
    alice, keeper, bob, carol = ledgers.alice, ledgers.keeper, ledgers.more("bob"), ledgers.more("carol")
    await bob.logs.append(bob.logs.origin, [pay(1)])  # void, but certified: nobody gave Bob anything
    async with serving(keeper, alice, carol):
        await alice.logs.append(alice.logs.origin, [pay(1)])
        await everybody_has(alice.logs.origin, 1, carol)
        assert await carol.logs.size(bob.logs.origin) == 0
        await alice.logs.append(alice.logs.origin, [pay(1, bob.account)])
        await everybody_has(bob.logs.origin, 1, carol)


@pytest.mark.usefixtures("quick")
async def test_a_log_that_we_follow_is_wanted(ledgers: Ledgers) -> None:
    keeper, bob, carol = ledgers.keeper, ledgers.more("bob"), ledgers.more("carol")
    await bob.logs.append(bob.logs.origin, [pay(1)])
    async with serving(keeper, carol, follows=frozenset([bob.logs.origin])):
        await everybody_has(bob.logs.origin, 1, carol)


@pytest.mark.usefixtures("quick")
async def test_a_liar_is_left_alone_and_the_log_comes_from_elsewhere(ledgers: Ledgers) -> None:
    alice, keeper, bob = ledgers.alice, ledgers.keeper, ledgers.more("bob")
    lies = []

    def lie(reply: Reply) -> Reply:
        lies.append(reply)
        return Reply(reply.body, framed(pay(7)))

    ledgers.air.changes[alice.network.peer_id, "ledger.entries"] = lie
    await alice.logs.append(alice.logs.origin, [pay(1)])
    ledgers.air.cut.add(keeper.network.peer_id)
    async with serving(alice, bob):
        await until(lambda: len(lies) >= 3)
        assert await bob.logs.size(alice.logs.origin) == 0
    ledgers.air.cut.clear()
    async with serving(keeper, alice, bob):
        await everybody_has(alice.logs.origin, 1, bob)


@pytest.mark.usefixtures("quick")
async def test_evidence_reaches_everybody_and_is_checked_by_everybody(ledgers: Ledgers) -> None:
    alice, keeper, bob, carol = ledgers.alice, ledgers.keeper, ledgers.more("bob"), ledgers.more("carol")
    twin = Replica(ledgers, "twin", alice.key)  # the same account key on a second machine
    ledgers.replicas.append(twin)
    await alice.logs.append(alice.logs.origin, [pay(1)])
    note = twin.store.append(alice.logs.origin, [pay(900)], alice.key)
    entries = [pay(900).encode().decode()]
    request = WitnessRequest(origin=alice.logs.origin, start=0, entries=entries, note=note.decode())
    with pytest.raises(Refused):
        await twin.network.call(keeper.network.peer_id, "ledger.cosign", request.body())
    assert keeper.store.evidence(alice.logs.origin)
    async with serving(keeper, bob):
        await until(lambda: bob.store.evidence(alice.logs.origin))
    async with serving(bob, carol):  # carol never meets the witness
        await until(lambda: carol.store.evidence(alice.logs.origin))
    assert carol.store.evidence(alice.logs.origin) == keeper.store.evidence(alice.logs.origin)
