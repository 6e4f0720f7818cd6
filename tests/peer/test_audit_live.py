"""The peer behind `forge-ledger verify --peers` and `recover`: what it asks witnesses, and what it makes of answers.

IO: SQLite files in a test's folder; the last tests start p2pd.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger import live
from ledger.entries import Send
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from ledger.merkle import verify_consistency
from ledger.notes import checkpoint, parse
from ledger.verify.compare import certified_head
from peer.audit import live as audit
from peer.network.network import Network
from peer.records import PeerAdvert, witness_binding
from peer.wire import Reply
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import MemoryNetwork, new_identity
from tests.peer.network_kit import Peers, address_of

SOON_S = 5.0


def pay(amount: int) -> Send:
    return Send(to="ab" * 32, amount=amount, memo="")


async def advertise(network: MemoryNetwork | Network, ledgers: Ledgers, witness: PrivateKey) -> None:
    identity = network.identity
    await network.publish(
        PeerAdvert.of(
            identity.account_key, identity.binding, network=ledgers.genesis.id, now=time.time(), addresses=[],
            witness=witness.public, witness_signature=witness.sign(witness_binding(identity.peer_id)).hex(),
        )
    )  # fmt: skip


@pytest.fixture
async def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledgers]:
    """Four witnesses that advertise, and Alice, of whose log five entries are certified."""
    monkeypatch.setattr(audit, "LOOK_S", 0.01)
    ledgers = Ledgers(tmp_path, 4)
    for keeper in ledgers.keepers:
        await advertise(keeper.network, ledgers, ledgers.witnesses[keeper.name])
    await ledgers.alice.logs.append(ledgers.alice.logs.origin, [pay(1)] * 5)
    certificate = ledgers.alice.store.certified(ledgers.alice.logs.origin)
    assert certificate is not None
    for keeper in ledgers.keepers:
        data = ledgers.alice.store.entries(ledgers.alice.logs.origin, 0, 5)
        keeper.store.accept(ledgers.alice.logs.origin, 0, data, certificate.note)
    yield ledgers
    ledgers.close()


@pytest.fixture
def asker(four: Ledgers) -> MemoryNetwork:
    """Somebody who only asks."""
    return MemoryNetwork(four.air, new_identity(), four.genesis)


def log_of(ledgers: Ledgers) -> str:
    return ledgers.alice.logs.origin


async def heads(asker: MemoryNetwork, ledgers: Ledgers, size: int = 5, timeout_s: float = SOON_S) -> Any:
    return await audit.heads_of(asker, ledgers.genesis, {log_of(ledgers): size}, timeout_s)


async def test_every_witness_tells_its_certificate_its_promise_and_all_its_logs(
    four: Ledgers, asker: MemoryNetwork
) -> None:
    views = await heads(asker, four)
    assert list(views) == ["w1", "w2", "w3", "w4"]
    for view in views.values():
        assert (view.error, dict(view.sizes)) == ("", {log_of(four): 5})
        head = view.heads[log_of(four)]
        assert certified_head(four.genesis, log_of(four), head.certificate).size == 5
        assert head.proof == ()
    promised = [view.heads[log_of(four)].promised for view in views.values()]
    assert sum(bool(note) for note in promised) >= four.genesis.quorum


async def test_where_more_is_certified_there_comes_a_proof_that_it_continues_ours(
    four: Ledgers, asker: MemoryNetwork
) -> None:
    store = four.alice.store
    views = await heads(asker, four, size=3)
    for view in views.values():
        head = certified_head(four.genesis, log_of(four), view.heads[log_of(four)].certificate)
        ours = store._logs.get(log_of(four)).tree.root(3)
        verify_consistency(3, 5, ours, head.root, view.heads[log_of(four)].proof)


async def test_a_log_that_a_witness_does_not_know_is_empty_there(four: Ledgers, asker: MemoryNetwork) -> None:
    views = await audit.heads_of(asker, four.genesis, {four.genesis.origin("cd" * 32): 0}, SOON_S)
    assert {view.error for view in views.values()} == {""}
    assert {head.certificate for view in views.values() for head in view.heads.values()} == {b""}


async def test_witnesses_that_are_silent_slow_unknown_or_talk_garbage_are_listed_as_such(
    four: Ledgers, asker: MemoryNetwork
) -> None:
    w1, w2, w3, _ = four.keepers
    four.air.cut.add(w1.network.peer_id)
    four.air.stalls[w2.network.peer_id] = asyncio.Event()
    four.air.changes[w3.network.peer_id, "ledger.head"] = lambda reply: Reply({"certificate": "x" * 70_000})
    views = await heads(asker, four, timeout_s=0.3)
    assert "nobody answers" in views["w1"].error
    assert "0.3 s" in views["w2"].error
    assert "HeadAnswer" in views["w3"].error
    assert views["w4"].error == ""


@pytest.mark.parametrize("body", [
    {}, {"heads": [["x", -1]]}, {"instance": "", "cursor": 0, "heads": [[1, 2]], "evidence": []}, {"heads": "x"},
])  # fmt: skip
async def test_a_list_of_logs_that_is_none_is_an_error_of_that_witness(
    four: Ledgers, asker: MemoryNetwork, body: dict[str, Any]
) -> None:
    four.air.changes[four.keeper.network.peer_id, "ledger.heads"] = lambda reply: Reply(body)
    views = await heads(asker, four)
    assert views["w1"].error
    assert views["w2"].error == ""


async def test_a_list_of_logs_that_never_ends_is_given_up(
    four: Ledgers, asker: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_PAGES", 5)
    pages = iter(range(1, 100))

    def more(reply: Reply) -> Reply:
        names = [[f"{number}", 1] for number in range(1000)]
        return Reply({"instance": "ab" * 16, "cursor": next(pages), "heads": names, "evidence": []})

    four.air.changes[four.keeper.network.peer_id, "ledger.heads"] = more
    assert "does not end" in (await heads(asker, four))["w1"].error


async def test_only_the_witness_s_own_signature_makes_a_witness(tmp_path: Path, four: Ledgers) -> None:
    asker = MemoryNetwork(four.air, new_identity(), four.genesis)
    four.air.records.clear()
    await advertise(asker, four, PrivateKey.generate())  # of no witness of this network
    views = await heads(asker, four, timeout_s=0.1)
    assert {view.error.split(":")[0] for view in views.values()} == {"no advert of it is in the network"}


# The tail of our own log.


async def tails(asker: MemoryNetwork, ledgers: Ledgers, start: int) -> dict[str, live.Tail]:
    origin = log_of(ledgers)
    return (await audit.tails_of(asker, ledgers.genesis, {origin: start}, SOON_S))[origin]


def promise(keeper: Replica, ledgers: Ledgers, count: int) -> None:
    """Alice signs more, and this witness alone cosigns it."""
    store, origin = ledgers.alice.store, log_of(ledgers)
    note = store.append(origin, [pay(7)] * count, ledgers.alice.key)
    size = checkpoint(parse(note)).size
    keeper.store.promise(origin, 5, store.entries(origin, 5, size), note)


async def test_what_a_witness_promised_beyond_the_certified_comes_with_its_head(
    four: Ledgers, asker: MemoryNetwork
) -> None:
    promise(four.keepers[1], four, 3)
    found = await tails(asker, four, 2)
    assert len(found["w2"].entries) == 6
    assert checkpoint(parse(found["w2"].note)).size == 8
    assert checkpoint(parse(found["w2"].certificate)).size == 5
    for name in ("w1", "w3", "w4"):
        assert (found[name].error, len(found[name].entries)) == ("", 3)


async def test_a_long_tail_comes_in_several_messages(
    four: Ledgers, asker: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.ledger.witnessing.MESSAGE_ENTRIES", 4)
    promise(four.keepers[0], four, 15)
    found = (await tails(asker, four, 5))["w1"]
    assert list(found.entries) == four.alice.store.entries(log_of(four), 5, 20)


@pytest.mark.parametrize("change", [
    {"entries": []}, {"start": 9}, {"origin": "another"}, {"promised": "x"}, {"entries": 3},
])  # fmt: skip
async def test_a_tail_that_is_none_is_an_error_of_that_witness(
    four: Ledgers, asker: MemoryNetwork, change: dict[str, Any]
) -> None:
    promise(four.keepers[0], four, 3)
    four.air.changes[four.keeper.network.peer_id, "ledger.tail"] = lambda reply: Reply({**reply.body, **change})
    found = await tails(asker, four, 5)
    assert found["w1"].error
    assert found["w2"].error == ""


async def test_a_log_that_nobody_knows_has_no_tail(four: Ledgers, asker: MemoryNetwork) -> None:
    origin = four.genesis.origin("cd" * 32)
    found = (await audit.tails_of(asker, four.genesis, {origin: 0}, SOON_S))[origin]
    assert {(tail.error, tail.entries, tail.note) for tail in found.values()} == {("", (), b"")}


# The plug-in as `forge-ledger` has it: a process of libp2p of its own.


def test_the_plug_in_is_installed_under_its_name() -> None:
    assert isinstance(live.live(), audit.LiveWitnesses)


def test_without_an_address_or_with_a_wrong_one_it_says_what_it_wants(four: Ledgers) -> None:
    with pytest.raises(LedgerError, match="--bootstrap ADDRESS"):
        audit.LiveWitnesses().heads(four.genesis, [], {}, 1.0)
    with pytest.raises(LedgerError, match="does not end in /p2p/"):
        audit.LiveWitnesses().heads(four.genesis, ["nonsense"], {}, 1.0)


async def test_it_finds_a_witness_over_libp2p_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ledgers", "temporary"):
        (tmp_path / name).mkdir()
    ledgers = Ledgers(tmp_path / "ledgers")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    try:
        keeper = ledgers.keeper
        async with Peers(tmp_path).start("w", genesis=ledgers.genesis) as network:
            for method, (handler, size) in keeper.network.dispatcher._methods.items():
                network.dispatcher.add(method, handler, size)
            await advertise(network, ledgers, ledgers.witnesses["w1"])
            await ledgers.alice.logs.append(log_of(ledgers), [pay(1)])
            plugin, address = audit.LiveWitnesses(), await address_of(network)
            views = await asyncio.to_thread(
                plugin.heads, ledgers.genesis, [address], {log_of(ledgers): 1}, 20.0
            )
        assert views["w1"].error == ""
        assert dict(views["w1"].sizes) == {log_of(ledgers): 1}
        assert list((tmp_path / "temporary").iterdir()) == []
    finally:
        ledgers.close()
