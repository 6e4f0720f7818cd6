"""What peers tell about heads: how far a witness has a log, and what it holds beyond the certificate."""

from __future__ import annotations

import contextlib

import pytest
from structlog.testing import capture_logs

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
    monkeypatch.setattr("peer.ledger.witnessing.MESSAGE_ENTRIES", 100)
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


def broken(quorum: Ledgers) -> dict[str, dict[str, object]]:
    """Requests for a cosignature that no honest peer sends."""
    alice = quorum.alice
    note = alice.store.append(alice.logs.origin, [pay(1), pay(2)], alice.key).decode()
    entries = [data.decode() for data in alice.store.entries(alice.logs.origin, 0, 2)]
    good = {"origin": alice.logs.origin, "start": 0, "entries": entries, "note": note}
    foreign = alice.logs.origin.replace(quorum.genesis.id[:16], "0" * 16)
    return {
        "nothing": {},
        "more than asked": {**good, "more": 1},
        "no note": {**good, "note": "noise"},
        "a head of another network": {**good, "origin": foreign, "note": note.replace(alice.logs.origin, foreign)},
        "no origin": {**good, "origin": "x"},
        "a start beyond all": {**good, "start": 2**53 - 1},
        "a negative start": {**good, "start": -1},
        "entries that are none": {**good, "entries": ["{}", "noise"]},
        "entries in another order": {**good, "entries": entries[::-1]},
        "an entry too long": {**good, "entries": ["x" * 16_385]},
        "entries without number": {**good, "entries": ["x"] * 10_001},
        "a head of one entry more": {**good, "note": note.replace("\n2\n", "\n3\n")},
    }


@pytest.mark.parametrize(
    "fault",
    ["nothing", "more than asked", "no note", "a head of another network", "no origin", "a start beyond all",
     "a negative start", "entries that are none", "entries in another order", "an entry too long",
     "entries without number", "a head of one entry more"],
)  # fmt: skip
async def test_a_broken_request_is_refused_and_leaves_nothing_behind(quorum: Ledgers, fault: str) -> None:
    witness, body = quorum.keepers[0], broken(quorum)[fault]
    answers: list[dict[str, object]] = []
    with contextlib.suppress(Refused, MessageInvalid):
        answers.append(await quorum.alice.network.call(witness.network.peer_id, "ledger.cosign", body))
    assert [list(answer) for answer in answers] in ([], [["behind"]])
    assert witness.store.origins() == []
    assert witness.store.promised(quorum.alice.logs.origin) is None
    assert witness.network.events == [], "a refusal, not a fault of the witness"


async def test_whoever_is_refused_again_and_again_does_not_fill_the_disk(quorum: Ledgers) -> None:
    body = broken(quorum)["entries in another order"]
    with capture_logs() as told:
        for _ in range(40):
            with pytest.raises(Refused):
                await quorum.alice.network.call(quorum.keepers[0].network.peer_id, "ledger.cosign", body)
    assert [entry["event"] for entry in told] == ["cosignature_refused"] * 16
