"""Appending: calls that come while a head is certified go under one, and each is valid or refused by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ledger.entries import Issue, Send
from ledger.errors import EntryInvalid, StoreUnreadable
from ledger.store.store import Store
from tests.peer.ledger_kit import Ledgers
from tests.peer.memory_net import until


def pay(amount: int = 1) -> Send:
    return Send(to="ab" * 32, amount=amount, memo="")


async def append(quorum: Ledgers, *entries: Send | Issue) -> None:
    """Append to Alice's log."""
    await asyncio.wait_for(quorum.alice.logs.append(quorum.alice.logs.origin, entries), 5)


async def test_appends_that_come_while_a_head_is_certified_go_under_one(quorum: Ledgers) -> None:
    alice = quorum.alice
    heads: set[str] = set()
    quorum.air.faults["ledger.cosign"] = lambda sender, to, body: heads.add(body["note"])
    first = asyncio.create_task(append(quorum, pay(1)))
    await until(lambda: heads)
    await asyncio.gather(first, *[append(quorum, pay(number)) for number in range(2, 101)])
    assert len(heads) == 2, "the first alone, then all that had come meanwhile"
    amounts = [entry.amount for entry in await alice.logs.entries(alice.logs.origin, 0)]
    assert amounts == list(range(1, 101))


async def test_a_call_that_breaks_a_rule_fails_alone(quorum: Ledgers) -> None:
    bad = Issue(to="ab" * 32, amount=1)
    calls = [[pay(1)], [pay(2), bad], [pay(3)], [bad], [], [pay(4), pay(5)]]
    ends = await asyncio.gather(*[append(quorum, *entries) for entries in calls], return_exceptions=True)
    assert [type(end) for end in ends] == [
        type(None), EntryInvalid, type(None), EntryInvalid, type(None), type(None)
    ]  # fmt: skip
    entries = await quorum.alice.logs.entries(quorum.alice.logs.origin, 0)
    assert [entry.amount for entry in entries] == [1, 3, 4, 5]


async def test_a_call_given_up_before_its_turn_appends_nothing(quorum: Ledgers) -> None:
    await append(quorum)
    calls = [asyncio.create_task(append(quorum, pay(1)))]
    wake = asyncio.Event()
    quorum.air.stalls.update({keeper.network.peer_id: wake for keeper in quorum.keepers})
    await until(lambda: quorum.alice.store.size(quorum.alice.logs.origin))
    calls += [asyncio.create_task(append(quorum, pay(number))) for number in (2, 3)]
    writer = quorum.alice.logs._writers[quorum.alice.logs.origin]
    await until(lambda: len(writer._calls) == 2)
    calls[1].cancel()
    await asyncio.wait([calls[1]])
    wake.set()
    await asyncio.gather(calls[0], calls[2])
    assert [entry.amount for entry in await quorum.alice.logs.entries(quorum.alice.logs.origin, 0)] == [1, 3]


async def test_what_is_certified_already_needs_no_witness(quorum: Ledgers) -> None:
    await append(quorum, pay())
    quorum.air.cut.update(keeper.network.peer_id for keeper in quorum.keepers)
    await asyncio.wait_for(quorum.alice.logs.certify(quorum.alice.logs.origin), 5)


async def test_a_certificate_that_the_disk_does_not_take_is_stored_later(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.appending.STORE_RETRY_S", 0.01)
    full = [StoreUnreadable("disk full")] * 2
    certify = Store.certify

    def fail_first(store: Store, *words: Any) -> None:
        if full:
            raise full.pop()
        certify(store, *words)

    monkeypatch.setattr(Store, "certify", fail_first)
    await append(quorum, pay())
    assert full == []
    assert await quorum.alice.logs.size(quorum.alice.logs.origin) == 1


@pytest.mark.parametrize("place", ["append", "check_own_head"])
async def test_a_fault_of_ours_reaches_the_caller_and_is_not_for_ever(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    await append(quorum, pay())
    quorum.alice.crash()  # so that witnesses are asked again
    with monkeypatch.context() as local:
        local.setattr(Store, place, lambda *words: 1 / 0)
        with pytest.raises((ZeroDivisionError, ExceptionGroup)):
            await append(quorum, pay())
    await append(quorum, pay())
    assert await quorum.alice.logs.size(quorum.alice.logs.origin) == 2
