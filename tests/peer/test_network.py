"""Real p2pd on loopback: calls, refusals, joining, adverts, blobs.

IO: starts p2pd processes.
"""

import asyncio
import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from ledger import codec
from peer.blobs.chunks import CHUNK_BYTES, id_of
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.errors import (
    AddressInvalid,
    DeadlineExceeded,
    ForgeError,
    HandlerFailed,
    MethodUnknown,
    Refused,
    Unreachable,
    WrongNetwork,
)
from peer.network.limits import Limits
from peer.network.rpc import Body
from peer.records import PeerAdvert
from peer.wire import Reply
from tests.peer.network_kit import FOREIGN, GENESIS, Peers, address_of, advert, p2pd_of, stranger_id


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


# ---------------------------------------------------------------- calls


async def test_peers_call_each_other_and_know_who_calls(peers: Peers) -> None:
    async with (
        peers.start("a") as a,
        peers.start("b", await address_of(a)) as b,
        peers.start("c", await address_of(a)) as c,
    ):
        answer = {"caller": b.peer_id, "body": {"n": 1}}
        assert await b.call(a.peer_id, "echo", {"n": 1}) == answer
        assert await b.call(c.peer_id, "echo", {"n": 1}) == answer  # found through a
        assert await b.call(b.peer_id, "echo", {"n": 1}) == answer  # ourselves
        assert a.peer_id in await b.connected()
        hello = await b.hello(a.peer_id)
        assert (hello.account, hello.network) == (a.identity.account, GENESIS.id)


async def test_every_failure_of_a_call_has_its_own_error(peers: Peers) -> None:
    async def broken(caller: str, body: Body) -> Body:
        raise KeyError("secret")

    async def slow(caller: str, body: Body) -> Body:
        await asyncio.Event().wait()
        return {}

    async def unsendable(caller: str, body: Body) -> Body:
        return {"text": "x" * (2 << 20)}

    async with peers.start("a") as a, peers.start("b", await address_of(a)) as b:
        for handler in (broken, slow, unsendable):
            a.serve(handler.__name__, handler)
            b.serve(handler.__name__, handler)
        for peer_id in (a.peer_id, b.peer_id):
            for method, code in {
                "broken": HandlerFailed.CODE,
                "none": MethodUnknown.CODE,
                "unsendable": "FP-304",
            }.items():
                with pytest.raises(Refused) as caught:
                    await b.call(peer_id, method, {})
                assert caught.value.code == code
                assert "secret" not in caught.value.message
            with pytest.raises((DeadlineExceeded, Refused)) as late:
                await b.call(peer_id, "slow", {}, timeout_s=0.1)
            assert late.value.code == DeadlineExceeded.CODE
        with pytest.raises(ForgeError, match="limits are"):
            await b.call(a.peer_id, "echo", {"text": "x" * (2 << 20)})
        with pytest.raises(Unreachable):
            await b.call(stranger_id(), "echo", {})
        assert peers.kinds().count("handler_failed") == 2


async def test_an_oversize_rpc_is_refused_and_the_peer_lives_on(peers: Peers) -> None:
    """Past our own checks, as a hostile peer would send it."""
    async with peers.start("a") as a, peers.start("b", await address_of(a)) as b:
        link = b._uplink._link
        assert link is not None
        assert b"FP-304" in await link.call(a.peer_id, b._rpc, b"F1" + bytes(1_200_000))
        with pytest.raises(Unreachable, match="limit"):
            await link.call(a.peer_id, b._rpc, bytes(3 << 20))
        assert (await b.call(a.peer_id, "echo", {}))["caller"] == b.peer_id


async def test_a_flood_from_one_peer_is_refused(peers: Peers) -> None:
    limits = Limits(requests_per_s=5, burst_requests=60)
    async with peers.start("a", limits=limits) as a, peers.start("b", await address_of(a)) as b:
        outcomes = await asyncio.gather(*(b.call(a.peer_id, "echo", {}) for _ in range(80)), return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, Refused)]
        assert {one.code for one in refused} == {"FP-305"}
        assert len(refused) >= 15


# ---------------------------------------------------------------- joining


async def test_a_peer_of_another_network_is_refused_naming_both(peers: Peers) -> None:
    async with peers.start("a") as a:
        address = await address_of(a)
        with pytest.raises(WrongNetwork, match="ours"):
            async with peers.start("wrong", address, genesis=FOREIGN):
                pytest.fail("it started")
        async with peers.start("alone", genesis=FOREIGN) as b:
            with pytest.raises(WrongNetwork, match="theirs"):
                await b.connect(address)
            with pytest.raises(WrongNetwork, match="ours"):
                await b.call(a.peer_id, "echo", {})


async def test_a_bootstrap_peer_that_is_not_there_is_named(peers: Peers) -> None:
    dead = f"/ip4/127.0.0.1/tcp/9/p2p/{stranger_id()}"
    with pytest.raises(Unreachable, match="tcp/9"):
        async with peers.start("a", dead, require_bootstrap=True):
            pytest.fail("it started")
    with pytest.raises(AddressInvalid):
        async with peers.start("a", "/ip4/127.0.0.1/tcp/9"):
            pytest.fail("it started")
    async with peers.start("a", dead) as a:
        assert (await a.call(a.peer_id, "echo", {}))["caller"] == a.peer_id
        event = await peers.event("bootstrap_unreachable")
        assert event.detail["address"] == dead
        assert event.detail["retry_s"]


async def test_a_bootstrap_peer_that_comes_later_is_joined_then(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peer.network.bootstrap.MAX_RETRY_S", 0.3)
    async with peers.start("a") as a:
        address = await address_of(a)
        port = address.split("/")[4]
    async with peers.start("b", address) as b:
        await peers.event("bootstrap_unreachable")
        async with peers.start("a", listen=[f"/ip4/127.0.0.1/tcp/{port}"]) as a:
            await peers.event("bootstrap_joined")
            assert (await b.call(a.peer_id, "echo", {}))["caller"] == b.peer_id


# ---------------------------------------------------------------- adverts


async def test_adverts_are_found_by_others_and_forged_ones_are_not(peers: Peers) -> None:
    async with (
        peers.start("a") as a,
        peers.start("b", await address_of(a)) as b,
        peers.start("c", await address_of(a)) as c,
    ):
        mine = advert(a, gflops=7, addresses=await a.addresses())
        assert await a.publish(mine)
        assert await b.publish(advert(b))
        assert {found.peer_id for found in await c.lookup(PeerAdvert)} == {a.peer_id, b.peer_id}
        assert mine in await c.lookup(PeerAdvert)
        newer = advert(a, gflops=8, now=time.time() + 2)
        assert await a.publish(newer)
        assert newer in await b.lookup(PeerAdvert)
        forged = PeerAdvert.read({**newer.body(), "gflops": 999, "expires": newer.expires + 5})
        assert not await c.publish(forged)
        link = c._uplink._link
        assert link is not None
        link._dht.protocol.record_validator = None  # a hostile node: no checks of its own
        assert not await link.store(forged.key, forged.subkey, codec.encode(forged.body()), float(forged.expires)) or (
            forged not in await a.lookup(PeerAdvert) and forged not in await b.lookup(PeerAdvert)
        )
        assert newer in await b.lookup(PeerAdvert)
        assert forged not in await c.lookup(PeerAdvert)  # read back from its own storage, and checked again


# ---------------------------------------------------------------- blobs


async def test_a_blob_survives_a_liar_and_the_death_of_a_provider(peers: Peers, tmp_path: Path) -> None:
    data = os.urandom(12 * CHUNK_BYTES + 5)
    blob = id_of(data)

    async def lie(caller: str, body: Body, payload: bytes) -> Reply:
        return Reply({}, bytes(CHUNK_BYTES))

    async with peers.start("a") as a, peers.start("b", await address_of(a)) as b:
        stores = [BlobStore(tmp_path / f"blobs-{name}", 1 << 30) for name in "ab"]
        await stores[0].add_bytes(data)
        BlobFetcher(stores[0], a)
        fetcher = BlobFetcher(stores[1], b)
        async with peers.start("liar", await address_of(a)) as liar, peers.start("dying", await address_of(a)) as dying:
            liar.serve_bytes("blob.chunk", lie)
            other = BlobStore(tmp_path / "blobs-dying", 1 << 30)
            await other.add_bytes(data)
            BlobFetcher(other, dying)
            providers = [liar.peer_id, dying.peer_id, a.peer_id]

            def tell(here: int, total: int) -> None:
                if here > 2 * CHUNK_BYTES:
                    with contextlib.suppress(psutil.NoSuchProcess, AssertionError):
                        p2pd_of(dying).kill()

            path = await fetcher.fetch(blob, providers, tell)
            assert path.read_bytes() == data
        assert {event.peer_id for event in peers.events if event.kind == "bad_chunk"} == {liar.peer_id}
