"""A network in one process: frames, limits, errors and signed records are the real ones; p2pd and the DHT are not.

Pure: memory only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer.errors import RecordInvalid, Unreachable
from peer.identity import PeerIdentity
from peer.network.clock import NetworkClock
from peer.network.hello import Hello
from peer.network.limits import Allowance, Limits
from peer.network.rpc import Body, BytesHandler, Dispatcher, Event, Events, Handler, deadline, write_request
from peer.network.shaper import patience_s
from peer.network.traffic import Traffic
from peer.peerkey import Binding, PeerKey
from peer.records import PeerAdvert, Record
from peer.wire import Reply, unpack_reply

DEADLINE_S = 120.0  # a failure: real workers on a busy machine take long to start

R = TypeVar("R", bound=Record)


async def until(what: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
    """Waits until something is true; returns it."""
    async with asyncio.timeout(timeout_s):
        while not (found := what()):  # noqa: ASYNC110  # what is awaited has no event of its own
            await asyncio.sleep(0.01)
        return found


def new_identity(key: PrivateKey | None = None) -> PeerIdentity:
    """An identity without a home."""
    account, peer = key or PrivateKey.generate(), PeerKey.generate()
    binding = Binding.create(account, peer)
    return PeerIdentity(binding=binding, account_key=account, peer_key=peer, peer_key_file=Path("peer.key"))


@dataclass
class Air:
    """What connects the networks of one test."""

    peers: dict[str, MemoryNetwork] = field(default_factory=dict)
    records: dict[tuple[str, str], bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    """PeerIDs that nobody reaches and that reach nobody."""
    faults: dict[str, Callable[[str, str, Body], None]] = field(default_factory=dict)
    """By method: called with (from, to, body) before a call is made; may raise or change the body."""
    stalls: dict[str, asyncio.Event] = field(default_factory=dict)
    """By PeerID: it takes calls and answers none of them before the event is set."""
    changes: dict[tuple[str, str], Callable[[Reply], Reply]] = field(default_factory=dict)
    """By (PeerID, method): what becomes of that peer's answers."""


class MemoryNetwork:
    """A `Network` over `Air`."""

    def __init__(
        self, air: Air, identity: PeerIdentity, genesis: Genesis, wall: Callable[[], float] = time.time
    ) -> None:
        self.identity, self.genesis, self._air = identity, genesis, air
        self.events: list[Event] = []
        self.emit = Events(self.events.append)
        self.clock = NetworkClock(self.emit, wall)
        self.allowance = Allowance(Limits())
        self.traffic = Traffic()
        self.dispatcher = Dispatcher(self.allowance, self.emit, self.traffic)
        air.peers[self.peer_id] = self

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    async def addresses(self) -> list[str]:
        return [f"/memory/p2p/{self.peer_id}"]

    def recent(self, count: int) -> list[str]:
        return []

    def serve(self, method: str, handler: Handler, *, reply_bytes: int = 1 << 16) -> None:
        async def handle(caller: str, body: Body, payload: bytes) -> Reply:
            return Reply(await handler(caller, body))

        self.dispatcher.add(method, handle, reply_bytes)

    def serve_bytes(
        self, method: str, handler: BytesHandler, *, reply_bytes: int = 1 << 20, bulk: bool = False
    ) -> None:
        self.dispatcher.add(method, handler, reply_bytes, bulk=bulk)

    async def call(self, peer_id: str, method: str, body: Body, *, timeout_s: float = 10.0) -> Body:
        return (await self.exchange(peer_id, method, body, timeout_s=timeout_s)).body

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = b"", timeout_s: float = 10.0, expects: int = 0
    ) -> Reply:
        await asyncio.sleep(0)
        if fault := self._air.faults.get(method):
            body = dict(body)
            fault(self.peer_id, peer_id, body)
        if peer_id not in self._air.peers or {peer_id, self.peer_id} & self._air.cut:
            raise Unreachable(f"peer {peer_id}: nobody answers")
        frame = write_request(method, body, payload, timeout_s)

        async def send() -> bytes:
            async with deadline(method, timeout_s + patience_s(len(frame) + expects)):
                if stall := self._air.stalls.get(peer_id):
                    await stall.wait()
                return await self._air.peers[peer_id].dispatcher.answer(frame, self.peer_id)

        reply = unpack_reply(await self.traffic.exchange(peer_id, len(frame), expects, send))
        change = self._air.changes.get((peer_id, method))
        return change(reply) if change else reply

    async def publish(self, record: Record) -> bool:
        if self.peer_id in self._air.cut:
            raise Unreachable("DHT: nobody answers")
        self._air.records[record.key, record.subkey] = record.encode()
        return True

    async def lookup(self, kind: type[R]) -> list[R]:
        keys = kind.keys(self.genesis.id)
        found = []
        for (key, _), data in self._air.records.items():
            if key in keys:
                with contextlib.suppress(RecordInvalid):
                    found.append(kind.verify(data, network=self.genesis.id, now=self.clock.now()))
        return found

    def dial(self, other: MemoryNetwork) -> None:
        """The handshake, as `Network.connect` has it."""
        for asked, asker, dialed in ((other, self, False), (self, other, True)):
            hello = Hello.of(asker.genesis, asker.identity.binding, [], asker.clock.now())
            asked.clock.compare(hello, dialed=dialed)


@contextlib.asynccontextmanager
async def outsider(air: Air, genesis: Genesis, key: PrivateKey | None = None) -> AsyncIterator[MemoryNetwork]:
    """Somebody on the network who runs no daemon of ours."""
    network = MemoryNetwork(air, new_identity(key), genesis)
    try:
        yield network
    finally:
        air.peers.pop(network.peer_id, None)


def advert_of(network: MemoryNetwork) -> str:
    """A signed advert of whoever owns this network."""
    identity = network.identity
    return PeerAdvert.of(
        identity.account_key, identity.binding, network=network.genesis.id, now=time.time(), addresses=[]
    ).text()
