"""A home restored from a backup signs nothing behind what its key signed before; the rest of the daemon goes on."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ledger.entries import Begin, Send
from ledger.errors import SelfFork
from peer.wire import Reply
from tests.peer.daemons import World, finish
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import until


def pay(amount: int = 1) -> Send:
    return Send(to="ab" * 32, amount=amount, memo="")


async def append(replica: Replica, *entries: Send) -> None:
    await asyncio.wait_for(replica.logs.append(replica.logs.origin, entries), 5)


def backed_up(quorum: Ledgers) -> Path:
    """A copy of Alice's ledger as it is."""
    quorum.alice.logs.abandon()
    quorum.alice.store.close()
    shutil.copy(quorum.folder / "alice.db", quorum.folder / "backup")
    quorum.alice.open()
    return quorum.folder / "backup"


def restore(quorum: Ledgers, backup: Path) -> None:
    quorum.alice.logs.abandon()
    quorum.alice.store.close()
    for file in quorum.folder.glob("alice.db*"):
        file.unlink()
    shutil.copy(backup, quorum.folder / "alice.db")
    quorum.alice.open()


@pytest.fixture
async def restored(quorum: Ledgers) -> Ledgers:
    """Alice's ledger lacks the last of her two entries."""
    await append(quorum.alice, pay())
    backup = backed_up(quorum)
    await append(quorum.alice, pay(2))
    restore(quorum, backup)
    return quorum


async def test_nothing_is_signed_behind_what_witnesses_have_and_one_line_tells_the_way_out(restored: Ledgers) -> None:
    alice = restored.alice
    signed = alice.store.head(alice.logs.origin)
    with capture_logs() as told:
        alice.logs.start()
        await until(lambda: alice.logs.forks)
        for _ in range(2):
            with pytest.raises(SelfFork, match="forge-ledger recover"):
                await append(alice, pay(3))
    assert alice.store.head(alice.logs.origin) == signed
    assert alice.store.size(alice.logs.origin) == 1
    (line,) = [entry for entry in told if entry["event"] == "own_log_not_written"]
    assert line["reason"].startswith("FP-215")
    assert list(alice.logs.forks) == [alice.logs.origin]


async def test_the_rest_of_the_daemon_goes_on(restored: Ledgers) -> None:
    alice, spec = restored.alice, restored.spec()
    with pytest.raises(SelfFork):
        await append(alice, pay(3))
    _, origin = restored.run(spec)
    await asyncio.wait_for(alice.logs.append(origin, [Begin(spec=spec)]), 5)
    assert await alice.logs.size(origin) == 1
    assert (await alice.logs.ledger()).balances


async def test_after_a_recovery_it_signs_again(restored: Ledgers) -> None:
    alice, keeper = restored.alice, restored.keepers[0]
    with pytest.raises(SelfFork):
        await append(alice, pay(3))
    promised = keeper.store.promised(alice.logs.origin)
    assert promised is not None
    alice.crash()
    alice.store.recover(
        alice.logs.origin, 1, keeper.store.entries(alice.logs.origin, 1, 2), promised, alice.account
    )
    await append(alice, pay(3))
    assert [entry.amount for entry in await alice.logs.entries(alice.logs.origin, 0)] == [1, 2, 3]


async def test_a_quorum_of_answers_is_waited_for_before_the_first_signature(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.ownheads.TELL_S", 0.02)
    alice = quorum.alice
    quorum.air.cut.update(keeper.network.peer_id for keeper in quorum.keepers[:2])
    with capture_logs() as told:
        waiting = asyncio.create_task(append(alice, pay(3)))
        await until(lambda: any("w2" in entry.get("problems", "") for entry in told))
    line = next(entry for entry in told if "w2" in entry.get("problems", ""))
    assert (line["event"], line["answers_missing"]) == ("own_log_waits", 1)
    assert alice.store.size(alice.logs.origin) == 0, "not even appended"
    quorum.air.cut.clear()
    await waiting


async def test_a_head_that_only_one_witness_knows_is_heard_of_though_it_answers_late(
    quorum: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.ownheads.GRACE_S", 60.0)
    await append(quorum.alice, pay())
    backup = backed_up(quorum)
    origin, last = quorum.alice.logs.origin, quorum.keepers[3]
    note = quorum.alice.store.append(origin, [pay(2)], quorum.alice.key)
    entry = quorum.alice.store.entries(origin, 1, 2)[0].decode()
    request = {"origin": origin, "start": 1, "entries": [entry], "note": note.decode()}
    await quorum.alice.network.call(last.network.peer_id, "ledger.cosign", request)
    restore(quorum, backup)
    wake = quorum.air.stalls[last.network.peer_id] = asyncio.Event()
    heard: list[str] = []
    quorum.air.faults["ledger.head"] = lambda sender, to, body: heard.append(to)
    waiting = asyncio.create_task(append(quorum.alice, pay(3)))
    await until(lambda: len(heard) == 4)
    wake.set()
    with pytest.raises(SelfFork):
        await waiting


async def test_a_witness_that_lies_about_our_head_stops_nothing(quorum: Ledgers) -> None:
    await append(quorum.alice, pay())
    liar = quorum.keepers[0]
    bob = quorum.more("bob")
    note = bob.store.append(bob.logs.origin, [pay()] * 5, bob.key).decode()
    forged = note.replace(bob.account, quorum.alice.account)
    for answer in (note, forged, "noise"):
        quorum.air.changes[liar.network.peer_id, "ledger.head"] = lambda _, answer=answer: Reply(
            {"certificate": answer, "promised": answer, "size": 5}
        )
        quorum.alice.crash()
        await append(quorum.alice, pay())
    assert quorum.alice.logs.forks == {}


async def test_a_lone_witness_asks_nobody(ledgers: Ledgers) -> None:
    ledgers.air.cut.add(ledgers.keeper.network.peer_id)
    keeper = ledgers.keeper
    await append(keeper, pay())
    assert await keeper.logs.size(keeper.logs.origin) == 1


async def test_a_key_at_work_on_two_machines_stops_the_one_that_comes_second(quorum: Ledgers) -> None:
    twin = Replica(quorum, "twin", quorum.alice.key)
    quorum.replicas.append(twin)
    await asyncio.gather(append_none(twin), append_none(quorum.alice))  # both have looked, and found nothing
    await append(quorum.alice, pay(1))
    with pytest.raises(SelfFork):
        await append(twin, pay(2))
    assert list(twin.logs.forks) == [twin.logs.origin]


async def append_none(replica: Replica) -> None:
    await replica.logs.certify(replica.logs.origin)


async def test_a_run_whose_log_must_not_be_written_waits_and_goes_on_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.runs.host.WHOLE_S", 0.05)
    alice, bob = await world.peer("alice"), await world.peer("bob")
    forks = [SelfFork(2, "an old backup was restored")] * 2
    credits = bob.daemon.host._credits
    claim = credits.claim

    async def refuse_first() -> int:
        if forks:
            raise forks.pop()
        return await claim()

    monkeypatch.setattr(credits, "claim", refuse_first)
    with capture_logs() as told:
        run = await alice.submit(training={"rounds": 1})
        await finish(run, alice, bob)
    assert [entry["event"] for entry in told].count("run_waits") == 2
    assert "task_failed" not in [entry["event"] for entry in told], "it is no fault: no traceback"
