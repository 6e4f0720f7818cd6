"""Networks on loopback for tests: real p2pd, homes of their own, events collected.

IO: starts p2pd processes.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil

from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer.config import Settings
from peer.identity import Home
from peer.network.limits import Limits
from peer.network.network import Network
from peer.network.rpc import Body, Event
from peer.peerkey import PeerKey
from peer.records import PeerAdvert

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


def stranger_id() -> str:
    """A PeerID that nobody has."""
    return PeerKey.generate().peer_id


def advert(network: Network, **fields: object) -> PeerAdvert:
    identity = network.identity
    facts = {"network": GENESIS.id, "now": time.time(), "addresses": [], **fields}
    return PeerAdvert.of(identity.account_key, identity.binding, **facts)
