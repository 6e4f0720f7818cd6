"""Witnesses that compare what they promised: an owner who shows each another log is found out."""

from __future__ import annotations

import pytest

from ledger import notes
from ledger.entries import Send
from ledger.evidence import verify
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from peer.ledger import comparing
from peer.ledger.comparing import Comparing
from peer.ledger.storage import Storage
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import until


def log_of(*amounts: int) -> list[bytes]:
    return [Send(to="ab" * 32, amount=amount, memo="m" * 100).encode() for amount in amounts]


def head_of(ledgers: Ledgers, entries: list[bytes]) -> bytes:
    root = Tree(map(leaf_hash, entries)).root()
    head = Checkpoint(origin=ledgers.alice.logs.origin, size=len(entries), root=root)
    return notes.sign_head(head, ledgers.alice.key)


async def show(ledgers: Ledgers, witness: Replica, entries: list[bytes]) -> bytes:
    """Alice asks one witness to cosign these entries; the head."""
    note = head_of(ledgers, entries)
    request = {
        "origin": ledgers.alice.logs.origin, "start": 0, "entries": [entry.decode() for entry in entries],
        "note": note.decode(),
    }  # fmt: skip
    await ledgers.alice.network.call(witness.network.peer_id, "ledger.cosign", request)
    return note


def comparing_of(ledgers: Ledgers, witness: Replica) -> Comparing:
    return Comparing(
        name=witness.name, network=witness.network, storage=Storage(witness.store),  # type: ignore[arg-type]
        witness_peers=lambda: dict(ledgers.witness_peers), jitter=lambda: 1.0,
    )  # fmt: skip


async def look_twice(compared: Comparing) -> None:
    await compared.look(0.0)
    await compared.look(comparing.FIRST_S)


@pytest.mark.parametrize("theirs", [(1, 3), (1, 3, 4), (9,)])
async def test_an_owner_who_shows_each_witness_another_log_is_found_out(
    quorum: Ledgers, theirs: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.witnessing.MESSAGE_ENTRIES", 2)  # the entries come in several messages
    one, two = quorum.keepers[:2]
    await show(quorum, one, log_of(1, 2))
    await show(quorum, two, log_of(*theirs))
    await look_twice(comparing_of(quorum, one))
    (evidence,) = one.store.evidence(quorum.alice.logs.origin)
    assert verify(evidence, quorum.genesis.terms) == (quorum.alice.logs.origin, quorum.alice.account)


async def test_a_promise_that_goes_further_is_taken_over_and_nobody_is_accused(quorum: Ledgers) -> None:
    one, two = quorum.keepers[:2]
    await show(quorum, one, log_of(1))
    note = await show(quorum, two, log_of(1, 2, 3))
    await look_twice(comparing_of(quorum, one))
    await look_twice(comparing_of(quorum, two))
    for witness in (one, two):
        assert witness.store.promised(quorum.alice.logs.origin) == note
        assert witness.store.evidence(quorum.alice.logs.origin) == []


async def test_who_got_on_is_not_asked_about_and_who_does_not_is_asked_about_less_and_less(quorum: Ledgers) -> None:
    asked: list[str] = []
    quorum.air.faults["ledger.head"] = lambda caller, to, body: asked.append(to)
    witness = quorum.keepers[0]
    compared = comparing_of(quorum, witness)
    await show(quorum, witness, log_of(1))
    for now in range(0, 2000, 10):
        await compared.look(float(now))
    others = len(quorum.keepers) - 1
    assert len(asked) == 7 * others  # at 10, 30, 70, 150, 310, 630 and 1270 s
    quorum.alice.store.append(quorum.alice.logs.origin, log_of(1), quorum.alice.key)
    await quorum.alice.logs.certify(quorum.alice.logs.origin)
    certificate = quorum.alice.store.certified(quorum.alice.logs.origin)
    assert certificate is not None
    witness.store.certify(quorum.alice.logs.origin, certificate.note)
    asked.clear()
    await compared.look(10_000.0)
    await compared.look(20_000.0)
    assert asked == []


async def test_a_witness_that_runs_compares_by_itself(quorum: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "LOOK_S", 0.01)
    monkeypatch.setattr(comparing, "FIRST_S", 0.0)
    one, two = quorum.keepers[:2]
    await show(quorum, one, log_of(1, 2))
    await show(quorum, two, log_of(1, 3))
    one.logs.start()
    await until(lambda: one.store.evidence(quorum.alice.logs.origin))
    await one.logs.close()


async def test_a_witness_that_is_away_or_answers_nonsense_stops_nothing(quorum: Ledgers) -> None:
    one, two, three = quorum.keepers[:3]
    await show(quorum, one, log_of(1, 2))
    await show(quorum, three, log_of(1, 3))
    quorum.air.cut.add(two.network.peer_id)
    await look_twice(comparing_of(quorum, one))
    assert one.store.evidence(quorum.alice.logs.origin)
