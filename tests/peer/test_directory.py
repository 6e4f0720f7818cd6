"""Adverts: published, refreshed, looked up; what they say of others is believed no further than it is signed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer import directory
from peer.directory import Directory
from peer.errors import DeadlineExceeded, RecordInvalid
from peer.records import PeerAdvert, RunAdvert, witness_binding
from tests.peer.memory_net import Air, MemoryNetwork, new_identity, until

WITNESS = PrivateKey.generate()
GENESIS = Genesis.create(name="directory", supply=[], witnesses=[("w", WITNESS.public)])
RUN = "ab" * 32


@pytest.fixture
def air(monkeypatch: pytest.MonkeyPatch) -> Air:
    monkeypatch.setattr("peer.directory.LOOK_S", 0.01)
    return Air()


class Somebody:
    """A directory with facts that a test may change."""

    def __init__(self, air: Air, key: PrivateKey | None = None, *, occupied: bool = False, **facts: Any) -> None:
        self.network = MemoryNetwork(air, new_identity(key), GENESIS)
        self.account = self.network.identity.account
        self.facts, self.runs, self.published = facts, [], 0
        self.directory = Directory(
            network=self.network, genesis=GENESIS, advertise=self._advertise, advertise_runs=lambda: self.runs,
            occupied=lambda: occupied,
        )  # fmt: skip

    async def _advertise(self) -> PeerAdvert:
        self.published += 1
        identity = self.network.identity
        fields = {"network": GENESIS.id, "now": time.time(), "addresses": [], **self.facts}
        if isinstance(key := fields.get("witness"), PrivateKey):
            signed = key.sign(witness_binding(identity.peer_id)).hex()
            fields |= {"witness": key.public, "witness_signature": signed}
        return PeerAdvert.of(identity.account_key, identity.binding, **fields)

    def lead(self, run: str = RUN) -> None:
        advert = RunAdvert.create(
            self.network.identity.account_key, now=time.time(), network=GENESIS.id, peer_id=self.network.peer_id,
            run=run, phase="training",
        )  # fmt: skip
        self.runs.append(advert)
        self.directory.refresh()


@asynccontextmanager
async def serving(*those: Somebody) -> AsyncIterator[None]:
    tasks = []
    for one in those:
        await one.directory.start()
        tasks.append(asyncio.create_task(one.directory.serve()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def sees(one: Somebody, *others: Somebody) -> Callable[[], bool]:
    return lambda: set(one.directory.peers()) == {other.network.peer_id for other in others}


async def test_peers_find_each_other_and_nobody_counts_itself(air: Air) -> None:
    alice, bob, carol = Somebody(air, gflops=1500), Somebody(air), Somebody(air)
    async with serving(alice, bob, carol):
        await until(sees(alice, bob, carol))
        await until(sees(bob, alice, carol))
        assert bob.directory.peer_of(alice.account) == alice.network.peer_id
        assert bob.directory.peer_of("cd" * 32) is None
        table = alice.directory.table()
        assert (table[0]["account"], table[0]["self"], table[0]["tflops"]) == (alice.account, 1, 1.5)
        assert [row["self"] for row in table[1:]] == [0, 0]
        assert not any("signature" in key for row in table for key in row)
        assert PeerAdvert.verify(bob.directory.own_advert().encode()) == bob.directory.own


def test_an_occupied_peer_looks_less_and_less_often_but_goes_on_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LOOK_S", 2.0)
    pauses = [2.0]
    for _ in range(5):
        pauses.append(directory.longer(pauses[-1]))
    assert pauses == [2.0, 4.0, 8.0, 16.0, 16.0, 16.0]


async def test_an_occupied_peer_finds_who_comes_and_learns_who_leads(air: Air) -> None:
    alice, bob, carol = Somebody(air, occupied=True), Somebody(air), Somebody(air)
    async with serving(alice, bob):
        await until(sees(alice, bob))
        carol.lead()
        async with serving(carol):
            await until(sees(alice, bob, carol))
            await until(lambda: [advert.run for advert in alice.directory.runs()] == [RUN])


async def test_the_witness_is_found_by_its_advert(air: Air) -> None:
    alice, keeper = Somebody(air), Somebody(air, witness=WITNESS)
    stranger = Somebody(air, witness=PrivateKey.generate())
    async with serving(alice, keeper, stranger):
        await until(sees(alice, keeper, stranger))
        assert alice.directory.witness_peers() == {"w": keeper.network.peer_id}
        assert keeper.directory.witness_peers() == {"w": keeper.network.peer_id}


async def test_a_witness_that_moved_is_asked_at_its_newest_peer(air: Air) -> None:
    alice, new = Somebody(air), Somebody(air, witness=WITNESS)
    old = Somebody(air, witness=WITNESS, now=time.time() - 30)
    async with serving(alice, new, old):
        await until(sees(alice, new, old))
        assert alice.directory.witness_peers() == {"w": new.network.peer_id}


@pytest.mark.parametrize("signature", ["", "00" * 64, PrivateKey.generate().sign(b"other").hex()])
async def test_nobody_poses_as_the_peer_of_a_witness(air: Air, signature: str) -> None:
    liar = Somebody(air, witness=WITNESS.public, witness_signature=signature)
    advert = await liar._advertise()
    with pytest.raises(RecordInvalid):
        PeerAdvert.verify(advert.encode())


async def test_a_change_is_published_at_once(air: Air) -> None:
    alice, bob = Somebody(air), Somebody(air)
    async with serving(alice, bob):
        await until(sees(bob, alice))
        assert bob.directory.runs() == []
        alice.lead()
        await until(lambda: [advert.run for advert in bob.directory.runs()] == [RUN])
        alice.facts["gflops"] = 7
        alice.directory.refresh()
        await until(lambda: bob.directory.table()[1]["gflops"] == 7)
        published = alice.published
        looked = bob.network.dispatcher.calls  # nothing is asked of bob
        await until(lambda: not looked)
        assert alice.published == published, "nothing new: nothing published"


async def test_an_account_that_moved_is_found_at_its_newest_peer(air: Air) -> None:
    key, bob = PrivateKey.generate(), Somebody(air)
    old = Somebody(air, key, now=time.time() - 30)
    async with serving(bob, old):
        await until(sees(bob, old))
    new = Somebody(air, key)
    async with serving(bob, new):
        await until(lambda: bob.directory.peer_of(key.public) == new.network.peer_id)


async def test_a_dht_that_does_not_answer_is_asked_again(air: Air, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = Somebody(air), Somebody(air)
    failures = [DeadlineExceeded("DHT"), DeadlineExceeded("DHT")]
    lookup = bob.network.lookup

    async def fail_first(kind: Any) -> Any:
        if failures:
            raise failures.pop()
        return await lookup(kind)

    monkeypatch.setattr(bob.network, "lookup", fail_first)
    async with serving(alice, bob):
        await until(sees(bob, alice))
    assert failures == []
