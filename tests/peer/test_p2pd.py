"""The p2pd under a network: started again when it dies, gone when we die, on the port and sockets it should have.

IO: starts p2pd processes.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from peer.errors import (
    TransportFailed,
    Unreachable,
)
from peer.network.p2pd import sweep
from peer.network.rpc import Body
from peer.network.uplink import same_ports
from peer.records import PeerAdvert
from tests.peer.network_kit import GENESIS, Peers, address_of, advert, p2pd_of, until


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


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
from peer.network.network import Network
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
            await c.publish(advert(c, addresses=await c.addresses()))
            await b.lookup(PeerAdvert)
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
