"""Certified logs from peer to peer."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.entries import Send
from ledger.errors import LedgerError
from peer.errors import MessageInvalid, Refused, RunError, Unreachable
from peer.messages import Bundle
from peer.wire import Reply
from tests.peer.ledger_kit import Ledgers


def pay(amount: int) -> Send:
    return Send(to="ab" * 32, amount=amount, memo="")


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


def forge(**changes: Any) -> Any:
    """A change of every bundle that a peer sends."""
    return lambda reply: Reply(Bundle.read(reply.body).model_copy(update=changes).body())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"entries": []}, RunError),
        ({"start": 5}, RunError),
        ({"origin": "another"}, RunError),
        ({"entries": [pay(9).encode().decode()] * 3}, LedgerError),
        ({"certificate": "none"}, LedgerError),
        ({"size": 2}, LedgerError),
        ({"entries": ["{}"]}, LedgerError),
    ],
)
async def test_what_a_lying_peer_sends_is_not_stored(
    ledgers: Ledgers, changes: dict[str, Any], error: type[Exception]
) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [pay(1)] * 3)
    answer = Bundle.read(
        await bob.network.call(alice.network.peer_id, "ledger.entries", {"origin": alice.logs.origin, "start": 0})
    )
    if changes == {"size": 2}:
        changes = {"entries": answer.entries[:2], "size": 2}
    ledgers.air.changes[alice.network.peer_id, "ledger.entries"] = forge(**changes)
    with pytest.raises(error):
        await bob.replication.pull(alice.network.peer_id)
    assert await bob.logs.heads() == []


async def test_heads_that_are_no_heads_are_refused(ledgers: Ledgers) -> None:
    bob = ledgers.more("bob")
    for body in ({"heads": [["x"]]}, {"heads": "x"}, {"heads": [["x", -1]]}, {}, {"heads": [], "more": 1}):
        ledgers.air.changes[ledgers.alice.network.peer_id, "ledger.heads"] = lambda _, body=body: Reply(body)
        with pytest.raises(MessageInvalid):
            await bob.replication.pull(ledgers.alice.network.peer_id)
