"""The ledger replica: appending, certification that is tried again, what a witness refuses, what a crash leaves."""

from __future__ import annotations

import asyncio

import pytest

from ledger import notes
from ledger.entries import Begin, Close, Send
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from peer.errors import Refused
from peer.messages import Bundle, WitnessRequest
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import until


def pay(amount: int, to: str = "ab" * 32) -> Send:
    return Send(to=to, amount=amount, memo="")


async def bundles_of(replica: Replica, origin: str, start: int = 0) -> list[Bundle]:
    return [bundle async for bundle in replica.replication.bundles(origin, start)]


async def test_an_append_returns_once_it_is_certified_and_wakes_those_who_wait(ledgers: Ledgers) -> None:
    logs = ledgers.alice.logs
    waiting = asyncio.create_task(logs.grown(logs.origin, 1))
    await logs.append(logs.origin, [pay(1)])
    assert not waiting.done()
    await logs.append(logs.origin, [pay(2)])
    assert await asyncio.wait_for(waiting, 5) == 2
    assert [entry.amount for entry in await logs.entries(logs.origin, 0)] == [1, 2]
    assert await ledgers.keeper.logs.size(logs.origin) == 2, "a lone witness knows that its line is the certificate"


async def test_an_unreachable_witness_is_tried_until_it_answers(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    await alice.logs.certify(alice.logs.origin)  # we have heard that nothing was signed elsewhere
    ledgers.air.cut.add(ledgers.keeper.network.peer_id)
    asked: list[str] = []
    ledgers.air.faults["ledger.cosign"] = lambda sender, to, body: asked.append(to)
    waiting = asyncio.create_task(alice.logs.append(alice.logs.origin, [pay(1)]))
    await until(lambda: len(asked) >= 3)
    assert await alice.logs.size(alice.logs.origin) == 0
    assert (await alice.logs.ledger()).balances == {alice.account: 1000}, "what is not certified does not count"
    ledgers.air.cut.clear()
    await asyncio.wait_for(waiting, 5)
    assert await alice.logs.size(alice.logs.origin) == 1


async def test_a_witness_that_is_not_known_yet_is_waited_for(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    await alice.logs.certify(alice.logs.origin)
    known = dict(ledgers.witness_peers)
    ledgers.witness_peers.clear()
    waiting = asyncio.create_task(alice.logs.append(alice.logs.origin, [pay(1)]))
    await until(lambda: alice.store.size(alice.logs.origin) == 1)
    assert not waiting.done()
    ledgers.witness_peers.update(known)
    await asyncio.wait_for(waiting, 5)


async def test_what_a_crash_left_uncertified_is_certified_later(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    alice.store.append(alice.logs.origin, [pay(1)], alice.key)
    alice.crash()
    assert await alice.logs.size(alice.logs.origin) == 0
    await alice.logs.certify(alice.logs.origin)
    assert await alice.logs.size(alice.logs.origin) == 1


async def test_what_a_crash_left_unsigned_is_signed_and_certified_later(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = ledgers.alice
    await alice.logs.append(alice.logs.origin, [pay(1)])
    with monkeypatch.context() as local:
        local.setattr("ledger.notes.sign_head", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            alice.store.append(alice.logs.origin, [pay(2)], alice.key)
    alice.crash()
    assert alice.store.size(alice.logs.origin) == 2
    await alice.logs.certify(alice.logs.origin)
    assert await alice.logs.size(alice.logs.origin) == 2


async def test_certifying_a_log_that_is_empty_does_nothing(ledgers: Ledgers) -> None:
    await ledgers.alice.logs.certify(ledgers.alice.logs.origin)
    assert await ledgers.alice.logs.heads() == []


async def test_a_witness_is_sent_all_that_it_lacks(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    alice.store.append(alice.logs.origin, [pay(1)] * 600, alice.key)
    await asyncio.wait_for(alice.logs.append(alice.logs.origin, [pay(1)]), 20)
    assert await ledgers.keeper.logs.size(alice.logs.origin) == 601


async def test_a_witness_that_lacks_more_than_a_message_holds_is_sent_several(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = ledgers.alice
    monkeypatch.setattr("peer.ledger.cosigning.MESSAGE_ENTRIES", 2)
    sent: list[tuple[int, int]] = []
    ledgers.air.faults["ledger.cosign"] = lambda sender, to, body: sent.append((body["start"], len(body["entries"])))
    await asyncio.wait_for(alice.logs.append(alice.logs.origin, [pay(1)] * 25), 10)
    assert sent == [(start, 2) for start in range(0, 24, 2)] + [(24, 1)]
    assert await ledgers.keeper.logs.size(alice.logs.origin) == 25


async def test_a_witness_refuses_a_log_that_contradicts_what_it_cosigned(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    twin = Replica(ledgers, "twin", alice.key)  # the same account key on a second machine
    ledgers.replicas.append(twin)
    await alice.logs.append(alice.logs.origin, [pay(1)])
    ours = alice.store.certified(alice.logs.origin)
    note = twin.store.append(alice.logs.origin, [pay(900)], alice.key)
    entries = [pay(900).encode().decode()]
    request = WitnessRequest(origin=alice.logs.origin, start=0, entries=entries, note=note.decode())
    with pytest.raises(Refused) as refused:
        await twin.network.call(ledgers.keeper.network.peer_id, "ledger.cosign", request.body())
    assert refused.value.code.startswith("FP-2")
    assert ledgers.keeper.store.certified(alice.logs.origin) == ours
    assert ledgers.keeper.store.evidence(alice.logs.origin), "both heads are kept as proof"
    with pytest.raises(Refused):  # from now on nothing of this log is cosigned
        await twin.network.call(ledgers.keeper.network.peer_id, "ledger.cosign", request.body())


async def test_a_witness_refuses_entries_that_are_not_under_the_head(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    note = alice.store.append(alice.logs.origin, [pay(1)], alice.key)
    forged = WitnessRequest(origin=alice.logs.origin, start=0, entries=[pay(2).encode().decode()], note=note.decode())
    with pytest.raises(Refused):
        await alice.network.call(ledgers.keeper.network.peer_id, "ledger.cosign", forged.body())
    assert ledgers.keeper.store.size(alice.logs.origin) == 0


async def test_a_witness_refuses_a_run_that_somebody_else_writes(ledgers: Ledgers) -> None:
    bob, spec = ledgers.more("bob"), ledgers.spec()
    _, origin = ledgers.run(spec)
    entries = [Begin(spec=spec), Close(state=spec["blobs"]["state"], reason="mine")]
    ledgers.alice.store.append(origin, entries[:1], ledgers.alice.key)
    with pytest.raises(LedgerError):
        bob.store.append(origin, entries, bob.key)
    head = notes.checkpoint(notes.parse(ledgers.alice.store.head(origin) or b""))
    forged = notes.sign_head(head, bob.key).decode()
    request = WitnessRequest(origin=origin, start=0, entries=[entries[0].encode().decode()], note=forged)
    with pytest.raises(Refused):
        await bob.network.call(ledgers.keeper.network.peer_id, "ledger.cosign", request.body())
    assert ledgers.keeper.store.size(origin) == 0


async def test_a_peer_that_is_no_witness_cosigns_nothing(ledgers: Ledgers) -> None:
    request = WitnessRequest(origin=ledgers.alice.logs.origin, start=0, entries=[], note="x").body()
    with pytest.raises(Refused) as refused:
        await ledgers.keeper.network.call(ledgers.alice.network.peer_id, "ledger.cosign", request)
    assert refused.value.code == "FP-418"


async def test_entries_without_a_certificate_of_the_witness_are_not_stored(ledgers: Ledgers) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [pay(1)])
    (bundle,) = await bundles_of(alice, alice.logs.origin)
    head = alice.store.head(alice.logs.origin)
    assert head is not None
    stranger = PrivateKey.generate()
    for fake in (
        bundle.model_copy(update={"certificate": head.decode()}),
        bundle.model_copy(update={"entries": [pay(7).encode().decode()]}),
        bundle.model_copy(update={"origin": ledgers.genesis.origin(stranger.public)}),
    ):
        with pytest.raises(LedgerError):
            await bob.logs.accept([fake])
    assert bob.store.origins() == [] or await bob.logs.heads() == []
    await bob.logs.accept([bundle])
    assert await bob.logs.heads() == [(alice.logs.origin, 1)]


async def test_a_bundle_holds_no_more_than_a_message(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    await alice.logs.append(alice.logs.origin, [Send(to="ab" * 32, amount=1, memo="m" * 200)] * 300)
    assert len(await alice.logs.bundle(alice.logs.origin, 0, None)) == 256
    assert len(await alice.logs.bundle(alice.logs.origin, 256, None)) == 44
