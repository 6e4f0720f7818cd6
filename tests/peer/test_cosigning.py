"""A quorum of four witnesses: who is away, slow or lying delays nothing; what does not verify does not count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from ledger import notes
from ledger.entries import Send
from ledger.keys import PrivateKey
from peer.wire import Reply
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import until

STRANGER = PrivateKey.generate()


def pay(amount: int = 1) -> Send:
    return Send(to="ab" * 32, amount=amount, memo="")


async def append(quorum: Ledgers, *entries: Send) -> None:
    """Append to Alice's log; a quorum of honest witnesses must be enough."""
    await asyncio.wait_for(quorum.alice.logs.append(quorum.alice.logs.origin, entries), 5)


def cosigners(quorum: Ledgers) -> list[str]:
    certificate = quorum.alice.store.certified(quorum.alice.logs.origin)
    assert certificate is not None
    return quorum.genesis.cosigners(notes.parse(certificate.note))


def has(keeper: Replica, quorum: Ledgers, size: int) -> Callable[[], bool]:
    return lambda: keeper.store.size(quorum.alice.logs.origin) == size


def answer(body: dict[str, Any]) -> Callable[[Reply], Reply]:
    return lambda _: Reply(body)


def lies(quorum: Ledgers) -> dict[str, Callable[[Reply], Reply]]:
    """What a bad witness may answer in place of its cosignature."""
    alice = quorum.alice
    other = notes.sign_head(notes.Checkpoint(origin=alice.logs.origin, size=9, root=b"\1" * 32), alice.key)

    def line(key: PrivateKey, name: str = "w4", head: bytes = b"") -> Callable[[Reply], Reply]:
        def sign(_: Reply) -> Reply:
            note = head or alice.store.head(alice.logs.origin) or b""
            return Reply({"cosignature": notes.cosign(note, name, key, 1).decode()})

        return sign

    return {
        "garbage": answer({"cosignature": "garbage"}),
        "nothing": answer({}),
        "unknown fields": answer({"yes": 1}),
        "the wrong key": line(STRANGER),
        "another head": line(quorum.witnesses["w4"], head=other),
        "another witness's line": line(quorum.witnesses["w1"], name="w1"),
        "another name": line(quorum.witnesses["w4"], name="w5"),
        "entries for ever": answer({"behind": 0}),
        "entries that do not exist": answer({"behind": 2**50}),
    }  # fmt: skip


LIES = [
    "garbage", "nothing", "unknown fields", "the wrong key", "another head", "another witness's line", "another name",
    "entries for ever", "entries that do not exist",
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_what_a_lying_witness_answers_counts_for_nothing_and_is_told_once(quorum: Ledgers, lie: str) -> None:
    liar = quorum.keepers[3]
    quorum.air.changes[liar.network.peer_id, "ledger.cosign"] = lies(quorum)[lie]
    with capture_logs() as told:
        for _ in range(3):
            await append(quorum, pay())
            assert cosigners(quorum) == ["w1", "w2", "w3"]
        courier = quorum.alice.logs._cosigners._couriers["w4", quorum.alice.logs.origin]
        await until(lambda: courier._failures)
    assert [entry["witness"] for entry in told if entry["event"] == "cosignature_missing"] == ["w4"]


async def test_two_that_answer_with_one_witness_s_line_are_one(quorum: Ledgers) -> None:
    lines: list[str] = []
    first, peers = quorum.keepers[0].network.peer_id, [keeper.network.peer_id for keeper in quorum.keepers]

    def remember(reply: Reply) -> Reply:
        lines.append(str(reply.body["cosignature"]))
        return reply

    quorum.air.changes[first, "ledger.cosign"] = remember
    for parrot in peers[2:]:
        quorum.air.changes[parrot, "ledger.cosign"] = lambda _: Reply({"cosignature": lines[-1] if lines else "none"})
    waiting = asyncio.create_task(append(quorum, pay()))
    await until(lambda: len(quorum.alice.logs._cosigners.newest) and all_failed(quorum, "w3", "w4"))
    assert not waiting.done()
    del quorum.air.changes[peers[2], "ledger.cosign"]
    await waiting
    assert cosigners(quorum) == ["w1", "w2", "w3"]


def all_failed(quorum: Ledgers, *names: str) -> bool:
    couriers = quorum.alice.logs._cosigners._couriers
    return all(couriers[name, quorum.alice.logs.origin]._failures > 2 for name in names)


async def test_a_witness_that_sleeps_delays_nothing_and_gets_what_it_lacks_when_it_wakes(quorum: Ledgers) -> None:
    paused = quorum.keepers[3]
    wake = quorum.air.stalls[paused.network.peer_id] = asyncio.Event()
    asked: list[str] = []
    quorum.air.faults["ledger.cosign"] = lambda sender, to, body: asked.append(to)
    for _ in range(5):
        await append(quorum, pay())
    assert asked.count(paused.network.peer_id) == 1, "one call waits, no second is made"
    assert paused.store.size(quorum.alice.logs.origin) == 0
    wake.set()
    await until(has(paused, quorum, 5))


async def test_a_witness_that_fails_with_an_old_head_is_asked_for_the_newest(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.cosigning.COSIGN_S", 0.2)
    slow, away = quorum.keepers[2], quorum.keepers[3]
    wake = quorum.air.stalls[slow.network.peer_id] = asyncio.Event()
    await append(quorum, pay())
    quorum.air.cut.add(away.network.peer_id)
    waiting = asyncio.create_task(append(quorum, pay()))
    courier = quorum.alice.logs._cosigners._couriers["w3", quorum.alice.logs.origin]
    await until(lambda: courier._failures)
    wake.set()
    await waiting
    assert cosigners(quorum) == ["w1", "w2", "w3"]


async def test_a_witness_that_was_away_is_sent_all_it_lacks_with_the_next_head(quorum: Ledgers) -> None:
    away = quorum.keepers[3]
    quorum.air.cut.add(away.network.peer_id)
    for _ in range(5):
        await append(quorum, pay())
    courier = quorum.alice.logs._cosigners._couriers["w4", quorum.alice.logs.origin]
    await until(lambda: courier._task is not None and courier._task.done())
    quorum.air.cut.clear()
    await append(quorum, pay())
    await until(has(away, quorum, 6))


async def test_a_witness_that_fails_is_left_alone_for_a_while(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.cosigning.RETRY_S", 1000.0)
    quorum.air.changes[quorum.keepers[3].network.peer_id, "ledger.cosign"] = answer({"cosignature": "garbage"})
    asked: list[str] = []
    quorum.air.faults["ledger.cosign"] = lambda sender, to, body: asked.append(to)
    for _ in range(5):
        await append(quorum, pay())
    assert asked.count(quorum.keepers[3].network.peer_id) == 1


async def test_below_a_quorum_nothing_counts_and_each_witness_is_named_with_its_problem(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.cosigning.TELL_S", 0.05)
    quorum.air.cut.add(quorum.keepers[1].network.peer_id)
    quorum.air.changes[quorum.keepers[2].network.peer_id, "ledger.cosign"] = answer({"cosignature": "garbage"})
    with capture_logs() as told:
        waiting = asyncio.create_task(append(quorum, pay()))
        await until(lambda: any("FP-205" in str(entry.get("problems")) for entry in told))
    line = next(entry for entry in told if "FP-205" in str(entry.get("problems")))
    assert (line["event"], line["cosignatures"], line["wanted"]) == ("not_certified", 2, 3)
    assert line["problems"].startswith("witness w2: FP-301")
    assert "witness w3: FP-205" in line["problems"]
    assert await quorum.alice.logs.size(quorum.alice.logs.origin) == 0
    quorum.air.cut.clear()
    await waiting


async def test_witnesses_that_lack_far_more_than_a_message_are_brought_up_to_date(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.cosigning.MESSAGE_ENTRIES", 3)
    away, alice = quorum.keepers[3], quorum.alice
    quorum.air.cut.add(away.network.peer_id)
    await append(quorum, *[pay()] * 40)
    quorum.air.cut.clear()
    await append(quorum, pay())
    await until(has(away, quorum, 41))
    away.logs.abandon()
    away.store.close()
    away.store.close()
    for file in quorum.folder.glob("w4.db*"):
        file.unlink()  # it lost its disk, and we believe that it has the log
    away.open()
    await append(quorum, pay())
    await until(has(away, quorum, 42))
    assert await alice.logs.size(alice.logs.origin) == 42


async def test_a_witness_that_asks_for_the_whole_log_each_time_is_sent_it_once(quorum: Ledgers) -> None:
    await append(quorum, *[pay()] * 50)
    liar, asked = quorum.keepers[3].network.peer_id, list[int]()
    await until(has(quorum.keepers[3], quorum, 50))
    courier = quorum.alice.logs._cosigners._couriers["w4", quorum.alice.logs.origin]
    await until(lambda: courier._size == 50)

    def note(sender: str, to: str, body: dict[str, Any]) -> None:
        if to == liar:
            asked.append(body["start"])

    quorum.air.faults["ledger.cosign"] = note
    quorum.air.changes[liar, "ledger.cosign"] = lambda reply: Reply({"behind": 0}) if asked[-1] else reply
    for _ in range(20):
        await append(quorum, pay())
    assert asked.count(0) <= 1


async def test_a_message_holds_what_it_may_however_its_entries_are_written(quorum: Ledgers) -> None:
    entries = [Send(to="ab" * 32, amount=1, memo='"\\' * 100)] * 2000
    await asyncio.wait_for(quorum.alice.logs.append(quorum.alice.logs.origin, entries), 60)
    assert await quorum.alice.logs.size(quorum.alice.logs.origin) == 2000


async def test_who_asks_which_witnesses_answer_is_told_each_ones_problem(quorum: Ledgers) -> None:
    quorum.air.cut.add(quorum.keepers[1].network.peer_id)
    del quorum.witness_peers["w3"]
    told = {entry["name"]: entry["problem"] for entry in await quorum.alice.logs.witnesses()}
    assert (told["w1"], told["w4"]) == ("", "")
    assert told["w2"].startswith("FP-301")
    assert "not known" in told["w3"]
