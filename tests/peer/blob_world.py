"""Blob stores and fetchers of several peers on a made-up network.

IO: folders under a test's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.errors import ForgeError, Refused, Unreachable
from peer.network.rpc import Body, BytesHandler, Event
from peer.network.traffic import Traffic
from peer.wire import Reply

Fault = Callable[[str, Body, Reply], Reply]


class FakeNetwork:
    """A network in one process; `faults` of a peer may change its answers or raise."""

    def __init__(self) -> None:
        self.peers: dict[str, FakePeer] = {}
        self.asked: list[tuple[str, str]] = []

    def peer(self, name: str) -> FakePeer:
        self.peers[name] = FakePeer(self, name)
        return self.peers[name]


class FakePeer:
    def __init__(self, network: FakeNetwork, name: str) -> None:
        self._network = network
        self._name = name
        self.methods: dict[str, BytesHandler] = {}
        self.fault: Fault | None = None
        self.hang = False
        self.events: list[Event] = []
        self.traffic = Traffic()

    @property
    def peer_id(self) -> str:
        return self._name

    @property
    def emit(self) -> Callable[[Event], None]:
        return self.events.append

    def serve_bytes(
        self, method: str, handler: BytesHandler, *, reply_bytes: int = 0, bulk: bool = False
    ) -> None:
        self.methods[method] = handler

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = b"", timeout_s: float = 10.0, expects: int = 0
    ) -> Reply:
        other = self._network.peers.get(peer_id)
        if method != "blob.chunk" or body["start"] == 0:  # one for each chunk, in however many pieces it comes
            self._network.asked.append((peer_id, method))
        if other is None:
            raise Unreachable(f"peer {peer_id}: connection refused")
        if other.hang:
            await asyncio.Event().wait()
        try:
            reply = await other.methods[method](self._name, body, payload)
        except ForgeError as exc:
            raise Refused(exc.code, exc.message) from exc
        return other.fault(method, body, reply) if other.fault else reply


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.network = FakeNetwork()
        self._tmp_path = tmp_path
        self.store, self.fetcher, self.me = self.add("me")

    def add(self, name: str) -> tuple[BlobStore, BlobFetcher, FakePeer]:
        peer = self.network.peer(name)
        store = BlobStore(self._tmp_path / name, 1 << 30)
        return store, BlobFetcher(store, peer), peer

    async def with_blob(self, name: str, data: bytes) -> FakePeer:
        store, _, peer = self.add(name)
        await store.add_bytes(data)
        return peer
