"""Room for logs that nothing refers to: so much a day for one peer and for all, and no word of it leaks to others."""

from __future__ import annotations

import pytest

from ledger.entries import Begin, Send
from ledger.errors import Unreferenced
from peer.errors import Refused
from peer.ledger.unreferenced import DAY_S, Room, Strangers
from tests.peer.ledger_kit import Ledgers, Replica
from tests.peer.memory_net import until

SMALL = Room(logs=2, size_bytes=100, all_logs=3, all_bytes=250)


def bring(strangers: Strangers, caller: str, origin: str, size_bytes: int = 10, now: float = 1.0) -> None:
    strangers.admit(caller, origin, size_bytes, now)
    strangers.count(caller, origin, size_bytes)


def refused(strangers: Strangers, caller: str, origin: str, size_bytes: int = 10, now: float = 1.0) -> str:
    with pytest.raises(Unreferenced) as caught:
        strangers.admit(caller, origin, size_bytes, now)
    assert "come again tomorrow" in caught.value.message
    return caught.value.message


def test_one_peer_has_room_for_so_many_logs_and_bytes_and_others_keep_theirs() -> None:
    strangers = Strangers(SMALL)
    bring(strangers, "a", "one")
    bring(strangers, "a", "two")
    assert "takes 2 such logs of this peer" in refused(strangers, "a", "three")
    bring(strangers, "a", "one", 80)
    assert "takes 100 bytes of such logs of this peer" in refused(strangers, "a", "one", 1)
    bring(strangers, "b", "three")


def test_all_peers_together_have_a_limit_too() -> None:
    strangers = Strangers(SMALL)
    for number in range(3):
        bring(strangers, f"peer {number}", f"log {number}", 80)
    assert "takes 3 such logs of all peers" in refused(strangers, "another", "log")
    assert "takes 250 bytes of such logs of all peers" in refused(strangers, "peer 1", "log 1", 11)


def test_what_is_refused_or_turns_out_invalid_uses_no_room_and_a_new_day_has_all_of_it() -> None:
    strangers = Strangers(SMALL)
    for _ in range(9):
        strangers.admit("a", "one", 100, 1.0)
    bring(strangers, "a", "one", 100)
    refused(strangers, "a", "one", 1, DAY_S - 1)
    bring(strangers, "a", "one", 100, DAY_S)


async def cosign(writer: Replica, witness: Replica, *amounts: int) -> None:
    """Ask one witness to cosign the account log of a replica, with entries for these amounts more."""
    origin = writer.logs.origin
    start = writer.store.size(origin)
    note = writer.store.append(origin, [Send(to="ab" * 32, amount=amount, memo="") for amount in amounts], writer.key)
    entries = [data.decode() for data in writer.store.entries(origin, start, start + len(amounts))]
    request = {"origin": origin, "start": start, "entries": entries, "note": note.decode()}
    await writer.network.call(witness.network.peer_id, "ledger.cosign", request)


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch, ledgers: Ledgers) -> Ledgers:
    """A witness with room for two strangers' logs."""
    ledgers.keeper.logs.witnessing._strangers = Strangers(Room(logs=2, size_bytes=1000))
    return ledgers


async def test_a_flood_of_worthless_logs_is_refused_and_who_owns_credits_is_not(cramped: Ledgers) -> None:
    flooder, keys = cramped.more("flooder"), [cramped.more(f"key{number}") for number in range(4)]
    for key in keys:
        key.network = flooder.network  # one peer, many accounts
    await cosign(keys[0], cramped.keeper, 1)
    await cosign(keys[1], cramped.keeper, 1)
    with pytest.raises(Refused, match="no certified entry refers to it") as caught:
        await cosign(keys[2], cramped.keeper, 1)
    assert caught.value.code == "FP-217"
    assert cramped.keeper.store.size(keys[2].logs.origin) == 0
    await cosign(keys[0], cramped.keeper, 2)
    with pytest.raises(Refused, match="1000 bytes"):
        await cosign(keys[1], cramped.keeper, *range(1, 20))
    alice = cramped.alice
    for amount in range(1, 30):
        await cosign(alice, cramped.keeper, amount)


async def test_whoever_is_sent_credits_is_a_stranger_no_more(cramped: Ledgers) -> None:
    flooder, alice = cramped.more("flooder"), cramped.alice
    cramped.keeper.logs.witnessing._strangers = Strangers(Room(logs=0))
    with pytest.raises(Refused, match="FP-217"):
        await cosign(flooder, cramped.keeper, 1)
    await alice.logs.append(alice.logs.origin, [Send(to=flooder.account, amount=1, memo="")])
    await until(lambda: cramped.keeper.store.is_referenced(flooder.logs.origin))
    await cosign(flooder, cramped.keeper)


async def test_a_free_run_by_somebody_whom_nobody_knows_can_begin(ledgers: Ledgers) -> None:
    bob = ledgers.more("bob")
    spec = {**ledgers.spec(), "submitter": bob.account, "leaders": [bob.account], "price": 0}
    _, origin = ledgers.run(spec)
    await bob.logs.append(origin, [Begin(spec=spec)])
    assert await ledgers.keeper.logs.size(origin) == 1
