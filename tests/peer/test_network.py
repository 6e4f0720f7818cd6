"""Real p2pd on loopback: calls, refusals, adverts, blobs, death and orphans.

IO: starts p2pd processes.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from ledger import codec
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer.blobs import BlobStore
from peer.chunks import CHUNK_BYTES, id_of
from peer.config import Settings
from peer.errors import (
    AddressInvalid,
    DeadlineExceeded,
    ForgeError,
    HandlerFailed,
    MethodUnknown,
    Refused,
    TransportFailed,
    Unreachable,
    WrongNetwork,
)
from peer.fetcher import BlobFetcher
from peer.identity import Home
from peer.limits import Limits
from peer.network import Network
from peer.p2pd import sweep
from peer.records import PeerAdvert
from peer.rpc import Body, Event
from peer.uplink import same_ports
from peer.wire import Reply

WITNESS = PrivateKey.generate().public
GENESIS = Genesis.create(name="ours", supply=[], witnesses=[("w", WITNESS)])
FOREIGN = Genesis.create(name="theirs", supply=[], witnesses=[("w", WITNESS)])


class Peers:
    """Starts networks in one process, each on a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []

    @contextlib.asynccontextmanager
    async def start(
        self, name: str, *bootstrap: str, genesis: Genesis = GENESIS, limits: Limits | None = None, **settings: object
    ) -> AsyncIterator[Network]:
        home = Home(self.folder / name)
        with home.lock():
            async with Network.start(
                home=home,
                identity=home.identity(),
                genesis=genesis,
                settings=Settings.load(home.path, settings, {}),
                bootstrap=bootstrap,
                on_event=self.events.append,
                limits=limits,
            ) as network:
                network.serve("echo", echo)
                yield network

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    async def event(self, kind: str) -> Event:
        """Waits for an event of a kind."""
        async with asyncio.timeout(20):
            while True:
                for event in self.events:
                    if event.kind == kind:
                        return event
                await asyncio.sleep(0.01)


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


async def echo(caller: str, body: Body) -> Body:
    return {"caller": caller, "body": body}


async def address_of(network: Network) -> str:
    return (await network.addresses())[0]


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)


def p2pd_of(network: Network) -> psutil.Process:
    link = network._uplink._link
    assert link is not None
    return psutil.Process(link.daemon.pid)


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
            await b.call(p2p_id_of_nobody(), "echo", {})
        assert peers.kinds().count("handler_failed") == 2


def p2p_id_of_nobody() -> str:
    from peer.peerkey import PeerKey

    return PeerKey.generate().peer_id


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
    dead = f"/ip4/127.0.0.1/tcp/9/p2p/{p2p_id_of_nobody()}"
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
    monkeypatch.setattr("peer.bootstrap.MAX_RETRY_S", 0.3)
    async with peers.start("a") as a:
        address = await address_of(a)
        port = address.split("/")[4]
    async with peers.start("b", address) as b:
        await peers.event("bootstrap_unreachable")
        async with peers.start("a", listen=[f"/ip4/127.0.0.1/tcp/{port}"]) as a:
            await peers.event("bootstrap_joined")
            assert (await b.call(a.peer_id, "echo", {}))["caller"] == b.peer_id


# ---------------------------------------------------------------- adverts


def advert(network: Network, **fields: object) -> PeerAdvert:
    identity = network.identity
    facts = {"network": GENESIS.id, "now": time.time(), "addresses": [], **fields}
    return PeerAdvert.of(identity.account_key, identity.binding, **facts)


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


# ---------------------------------------------------------------- p2pd


async def test_p2pd_is_started_again_on_the_same_port_with_everything_registered(peers: Peers) -> None:
    async with peers.start("a") as a, peers.start("b", await address_of(a)) as b:
        before = await address_of(a)
        first = p2pd_of(a)
        first.kill()
        await peers.event("p2pd_lost")
        assert (await a.call(b.peer_id, "echo", {}))["caller"] == a.peer_id  # waited for, found in the address book
        assert await address_of(a) == before
        assert p2pd_of(a).pid != first.pid
        assert (await b.call(a.peer_id, "echo", {}))["caller"] == b.peer_id


async def test_a_call_under_way_fails_at_once_when_p2pd_dies(peers: Peers) -> None:
    started = asyncio.Event()

    async def slow(caller: str, body: Body) -> Body:
        started.set()
        await asyncio.Event().wait()
        return {}

    async with peers.start("a") as a, peers.start("b", await address_of(a)) as b:
        a.serve("slow", slow)
        call = asyncio.create_task(b.call(a.peer_id, "slow", {}, timeout_s=60))
        await started.wait()
        p2pd_of(a).kill()
        began = time.monotonic()
        with pytest.raises(Unreachable):
            await call
        assert time.monotonic() - began < 5


async def test_a_port_that_is_taken_is_a_clear_error(peers: Peers) -> None:
    async with peers.start("a") as a:
        port = (await address_of(a)).split("/")[4]
        with pytest.raises(TransportFailed, match="p2pd"):
            async with peers.start("b", listen=[f"/ip4/127.0.0.1/tcp/{port}"]):
                pytest.fail("it started")


async def test_sockets_are_private_and_gone_afterwards(peers: Peers) -> None:
    async with peers.start("a") as a:
        link = a._uplink._link
        assert link is not None
        sockets = link.daemon.sockets
        assert sockets.stat().st_mode & 0o077 == 0
        ports = {c.laddr.port for c in p2pd_of(a).net_connections() if c.status == psutil.CONN_LISTEN and c.laddr}
        assert len(ports) == 1
    assert not sockets.exists()


async def test_what_the_body_raises_comes_out_as_it_is(peers: Peers) -> None:
    with pytest.raises(ZeroDivisionError):
        async with peers.start("a"):
            raise ZeroDivisionError


OWNER = """
import asyncio, sys
from pathlib import Path
from ledger.genesis import Genesis
from peer.config import Settings
from peer.identity import Home
from peer.network import Network
async def main():
    home, genesis = Home(Path(sys.argv[1])), Genesis.parse(bytes.fromhex(sys.argv[2]))
    with home.lock():
        async with Network.start(home=home, identity=home.identity(), genesis=genesis,
                                 settings=Settings.load(home.path, {}, {})) as network:
            print(network._uplink._link.daemon.pid, flush=True)
            await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_no_p2pd_outlives_the_sigkill_of_its_owner(peers: Peers) -> None:
    command = [sys.executable, "-W", "ignore", "-c", OWNER, str(peers.folder / "a"), GENESIS.encode().hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:  # noqa: ASYNC220
        assert owner.stdout is not None
        p2pd = psutil.Process(int(owner.stdout.readline()))
        os.kill(owner.pid, signal.SIGKILL)
    await until(lambda: not p2pd.is_running() or p2pd.status() == psutil.STATUS_ZOMBIE)
    async with peers.start("a") as again:  # and the same home starts at once
        assert (await again.call(again.peer_id, "echo", {}))["caller"] == again.peer_id


def test_a_sweep_ends_only_what_is_really_ours(tmp_path: Path) -> None:
    note = tmp_path / "p2pd.json"
    sockets = tmp_path / "sockets"

    def write(pid: int, started: float) -> None:
        note.write_text(json.dumps({"pid": pid, "started": started, "sockets": str(sockets)}))

    sleep = "import time; time.sleep(60)"
    with (
        subprocess.Popen([sys.executable, "-c", sleep, f"-listen=/unix{sockets}/p2pd-1.sock"]) as orphan,
        subprocess.Popen([sys.executable, "-c", sleep]) as stranger,
    ):
        began = psutil.Process(orphan.pid).create_time()
        write(stranger.pid, psutil.Process(stranger.pid).create_time())
        assert not sweep(note)
        write(orphan.pid, began - 100)
        assert not sweep(note)
        assert orphan.poll() is None
        write(orphan.pid, began)
        assert sweep(note)
        assert orphan.wait(5) is not None
        assert stranger.poll() is None
        stranger.kill()
    note.write_text("nonsense")
    assert not sweep(note)
    assert not sweep(tmp_path / "missing")


async def test_a_peer_comes_back_on_the_port_it_had_unless_that_is_taken(peers: Peers) -> None:
    async with peers.start("a") as a:
        before = await address_of(a)
    async with peers.start("a") as a:
        assert await address_of(a) == before
    port = before.split("/")[4]
    async with peers.start("b", listen=[f"/ip4/127.0.0.1/tcp/{port}"]), peers.start("a") as a:
        assert await address_of(a) != before


async def test_a_peer_that_moved_is_found_again_through_its_newest_address(peers: Peers) -> None:
    async with peers.start("a") as a, peers.start("b", await address_of(a)) as b:
        async with peers.start("c", await address_of(a)) as c:
            assert (await b.call(c.peer_id, "echo", {}))["caller"] == b.peer_id
        (peers.folder / "c" / "port").unlink()
        async with peers.start("c", await address_of(a)) as c:
            assert (await b.call(c.peer_id, "echo", {}))["caller"] == b.peer_id


def test_only_port_zero_is_replaced_by_the_chosen_port() -> None:
    addresses = ["/ip4/10.0.0.1/tcp/4555/p2p/x", "/ip4/127.0.0.1/tcp/4555/p2p/x"]
    assert same_ports(("/ip4/0.0.0.0/tcp/0",), addresses) == ("/ip4/0.0.0.0/tcp/4555",)
    assert same_ports(("/ip4/0.0.0.0/tcp/4001",), addresses) == ("/ip4/0.0.0.0/tcp/4001",)
    assert same_ports(("/ip4/0.0.0.0/tcp/0",), []) == ("/ip4/0.0.0.0/tcp/0",)


async def test_a_home_with_a_long_path_still_gets_private_sockets(peers: Peers) -> None:
    async with peers.start("long-" * 25) as a:  # a unix socket's path has room for 107 bytes
        link = a._uplink._link
        assert link is not None
        sockets = link.daemon.sockets
        assert not sockets.is_relative_to(peers.folder)
        assert sockets.stat().st_mode & 0o077 == 0
        assert (await a.call(a.peer_id, "echo", {}))["caller"] == a.peer_id
    assert not sockets.exists()
