"""What peers tell about heads: how far a witness has a log, and what it holds beyond the certificate."""

from __future__ import annotations

import pytest

from ledger import notes
from ledger.entries import Send
from ledger.merkle import Tree, leaf_hash
from peer.errors import MessageInvalid, Refused
from peer.messages import HeadAnswer, HeadQuery, TailAnswer, TailQuery
from tests.peer.ledger_kit import Ledgers, Replica


def pay(amount: int, memo: str = "") -> Send:
    return Send(to="ab" * 32, amount=amount, memo=memo)


async def head_of(asker: Replica, witness: Replica, origin: str) -> HeadAnswer:
    body = HeadQuery(origin=origin).body()
    return HeadAnswer.read(await asker.network.call(witness.network.peer_id, "ledger.head", body))


async def tail_of(asker: Replica, witness: Replica, origin: str, start: int) -> TailAnswer:
    body = TailQuery(origin=origin, start=start).body()
    return TailAnswer.read(await asker.network.call(witness.network.peer_id, "ledger.tail", body))


async def cosign(quorum: Ledgers, witness: Replica, size: int) -> bytes:
    """Have one witness cosign Alice's log up to `size` more entries; returns the head."""
    origin, store = quorum.alice.logs.origin, quorum.alice.store
    note = store.append(origin, [pay(1, "m" * 150)] * size, quorum.alice.key)
    entries = [data.decode() for data in store.entries(origin, 0, store.size(origin))]
    request = {"origin": origin, "start": 0, "entries": entries, "note": note.decode()}
    await quorum.alice.network.call(witness.network.peer_id, "ledger.cosign", request)
    return note


async def test_a_witness_tells_what_is_certified_and_what_it_promised(quorum: Ledgers) -> None:
    alice, witness = quorum.alice, quorum.keepers[0]
    nothing = await head_of(alice, witness, alice.logs.origin)
    assert (nothing.certificate, nothing.promised, nothing.size) == ("", "", 0)
    note = await cosign(quorum, witness, 2)
    told = await head_of(alice, witness, alice.logs.origin)
    assert (told.certificate, told.promised, told.size) == ("", note.decode(), 2)
    await alice.logs.certify(alice.logs.origin)
    certificate = alice.store.certified(alice.logs.origin)
    assert certificate is not None
    assert (await head_of(witness, alice, alice.logs.origin)).certificate == certificate.note.decode()


async def test_the_tail_of_a_log_comes_in_bounded_messages_and_leads_to_the_promised_head(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.witnessing.MESSAGE_ENTRIES", 100)
    alice, witness = quorum.alice, quorum.keepers[0]
    note = await cosign(quorum, witness, 250)
    found: list[bytes] = []
    messages = 0
    while len(found) < 250:
        answer = await tail_of(alice, witness, alice.logs.origin, len(found))
        assert (answer.promised, answer.size, answer.start) == (note.decode(), 250, len(found))
        found += [entry.encode() for entry in answer.entries]
        messages += 1
    assert messages == 3
    assert Tree(map(leaf_hash, found)).root() == notes.checkpoint(notes.parse(note)).root
    beyond = await tail_of(alice, witness, alice.logs.origin, 250)
    assert beyond.entries == []


async def test_nonsense_is_refused_by_name(quorum: Ledgers) -> None:
    alice, witness = quorum.alice, quorum.keepers[0]
    with pytest.raises(Refused, match="origin"):
        await head_of(alice, witness, "nowhere")
    for body in ({}, {"origin": 1, "start": 0}, {"origin": alice.logs.origin, "start": -1}, {"origin": "x" * 201}):
        with pytest.raises((Refused, MessageInvalid)):
            await alice.network.call(witness.network.peer_id, "ledger.tail", body)
