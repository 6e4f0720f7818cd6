"""Giving our blobs to others: pieces of chunks and leaf lists, spread over those who have the blob already.

IO: the blob store, calls from the network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Annotated, Protocol

from pydantic import Field

from peer.blobs.chunks import CHUNK_BYTES, LEAF_BYTES, LEAVES_PER_PAGE, BlobName
from peer.blobs.spread import Spread
from peer.blobs.store import BlobStore
from peer.network.rpc import Body, BytesHandler, Event
from peer.network.traffic import Traffic
from peer.wire import BlobId, Flag, Message, Natural, PeerIdText, Reply

ARRIVAL_S = 2.0
"""Who asks for a small blob that we are fetching waits for it so long."""
MOST_WAITING = 32

Arrival = Callable[[str], asyncio.Event | None]
Clock = Callable[[], float]


class Transport(Protocol):
    """What is needed of the network."""

    @property
    def peer_id(self) -> str:
        """Our PeerID."""

    @property
    def traffic(self) -> Traffic:
        """Our line."""

    @property
    def emit(self) -> Callable[[Event], None]:
        """Tells the operator something."""

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = ..., timeout_s: float = ..., expects: int = ...
    ) -> Reply:
        """Asks a peer."""

    def serve_bytes(self, method: str, handler: BytesHandler, *, reply_bytes: int = ..., bulk: bool = ...) -> None:
        """Answers peers."""


class AskChunk(Message):
    """`blob.chunk`; the answer's payload is the chunk from byte `start` on, as much of it as goes at once."""

    blob: BlobId
    chunk: Natural
    start: Natural = 0
    most: Annotated[int, Field(ge=1, le=CHUNK_BYTES)] = CHUNK_BYTES
    """Bytes that the caller takes at once."""
    wait: Flag = 0
    """1: if we are just fetching it, wait for that. Who only guesses that we may have it does not."""


class ChunkAnswer(Message):
    """Body of the answer to `blob.chunk`."""

    ask: Annotated[list[PeerIdText], Field(max_length=8, default_factory=list)]
    """Peers that got the blob of us and are to be asked instead; then there is no payload."""


class AskLeaves(Message):
    """`blob.leaves`; the answer's payload is up to LEAVES_PER_PAGE leaf hashes from `start` on."""

    blob: BlobId
    start: Natural


class BlobServer:
    """Gives the store's blobs to others."""

    def __init__(self, store: BlobStore, network: Transport, arrival: Arrival, rng: Random, clock: Clock) -> None:
        """Serves `blob.chunk` and `blob.leaves` from now on; `arrival` is of a blob that is being fetched."""
        self._clock = clock
        self._store = store
        self._line = network.traffic.up
        self._arrival = arrival
        self._spread = Spread(rng)
        self._waiting = 0
        network.serve_bytes("blob.chunk", self._on_chunk, reply_bytes=self._line.piece_bytes, bulk=True)
        network.serve_bytes("blob.leaves", self._on_leaves, reply_bytes=LEAVES_PER_PAGE * LEAF_BYTES, bulk=True)

    async def _on_chunk(self, caller: str, body: Body, payload: bytes) -> Reply:
        ask = AskChunk.read(body)
        if ask.wait:
            await self._arrived(ask.blob)
        piece = await self._store.chunk(ask.blob, ask.chunk, ask.start, min(ask.most, self._line.piece_bytes))
        if others := self._spread.others(ask.blob, caller, self._clock()):
            return Reply(ChunkAnswer(ask=others).body())
        return Reply({}, piece)

    async def _arrived(self, blob: str) -> None:
        """Wait for a blob of one chunk that we are fetching ourselves, a while and with few others."""
        arrival = self._arrival(blob)
        if arrival is None or BlobName.parse(blob).chunks > 1 or self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ARRIVAL_S):
                    await arrival.wait()
        finally:
            self._waiting -= 1

    async def _on_leaves(self, caller: str, body: Body, payload: bytes) -> Reply:
        ask = AskLeaves.read(body)
        leaves = await self._store.leaves(ask.blob)
        page = min(LEAVES_PER_PAGE, max(1, self._line.piece_bytes // LEAF_BYTES))
        return Reply({}, b"".join(leaves[ask.start : ask.start + page]))
