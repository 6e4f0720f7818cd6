"""Fetching blobs from other peers, several at once, every chunk verified on arrival; and serving ours.

A blob of one chunk (the usual update) costs one round trip. For longer ones the leaf list comes first and is checked
against the id. A provider that sends a bad chunk is noted and not asked again for that blob; several callers of one
blob share one download.

IO: the network and the blob store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ledger import merkle
from peer.blobs.chunks import LEAF_BYTES, LEAVES_PER_PAGE, Ask, BlobName, Plan, leaf_of
from peer.blobs.partial import Partial
from peer.blobs.store import BlobStore
from peer.errors import BlobError, BlobInvalid, BlobMissing, BlobUnavailable, Busy, NetworkError, Refused
from peer.network.rpc import Body, BytesHandler, Event
from peer.wire import BlobId, Message, Natural, Reply

OnProgress = Callable[[int, int], None]
"""(bytes here, bytes in all)."""
Source = Callable[[], Sequence[str]]
"""PeerIDs that may have the blob, as they are known by now."""

CHUNK_TIMEOUT_S = 30.0
LEAVES_TIMEOUT_S = 10.0
MAX_CHUNKS_IN_FLIGHT = 16
"""Over all downloads: what arrives is at most so many chunks ahead of the disk."""
_NOTED = 1024


class Transport(Protocol):
    """What is needed of the network."""

    @property
    def peer_id(self) -> str:
        """Our PeerID."""

    async def exchange(
        self, peer_id: str, method: str, body: Body, *, payload: bytes = ..., timeout_s: float = ...
    ) -> Reply:
        """Asks a peer."""

    def serve_bytes(self, method: str, handler: BytesHandler, *, reply_bytes: int = ...) -> None:
        """Answers peers."""

    @property
    def emit(self) -> Callable[[Event], None]:
        """Tells the operator something."""


class AskChunk(Message):
    """`blob.chunk`; the answer's payload is the chunk."""

    blob: BlobId
    chunk: Natural


class AskLeaves(Message):
    """`blob.leaves`; the answer's payload is up to LEAVES_PER_PAGE leaf hashes from `start` on."""

    blob: BlobId
    start: Natural


class _Shared:
    """One blob that somebody wants."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.providers: dict[str, None] = {}
        self.plan: Plan | None = None
        self.on_progress: list[OnProgress] = []
        self.sources: list[Source] = []


class BlobFetcher:
    """Gets blobs into the store, and gives the store's blobs to others."""

    def __init__(self, store: BlobStore, network: Transport) -> None:
        """Serves `blob.chunk` and `blob.leaves` from now on."""
        self._store = store
        self._network = network
        self._shared: dict[str, _Shared] = {}
        self._noted: dict[tuple[str, str], str] = {}
        self._slots = asyncio.Semaphore(MAX_CHUNKS_IN_FLIGHT)
        network.serve_bytes("blob.chunk", self._on_chunk, reply_bytes=1 << 20)
        network.serve_bytes("blob.leaves", self._on_leaves, reply_bytes=LEAVES_PER_PAGE * LEAF_BYTES)

    # ------------------------------------------------------------------ serving

    async def _on_chunk(self, caller: str, body: Body, payload: bytes) -> Reply:
        ask = AskChunk.read(body)
        return Reply({}, await self._store.chunk(ask.blob, ask.chunk))

    async def _on_leaves(self, caller: str, body: Body, payload: bytes) -> Reply:
        ask = AskLeaves.read(body)
        leaves = await self._store.leaves(ask.blob)
        return Reply({}, b"".join(leaves[ask.start : ask.start + LEAVES_PER_PAGE]))

    # ------------------------------------------------------------------ fetching

    async def fetch(
        self,
        blob: str,
        providers: Sequence[str],
        on_progress: OnProgress | None = None,
        *,
        source: Source | None = None,
    ) -> Path:
        """The file of a blob; fetched unless it is here. Pin it first if it must stay.

        Args:
            blob: its id.
            providers: PeerIDs to ask.
            on_progress: told of what is here.
            source: asked again and again while the download lasts, for more of them.

        Raises:
            BlobUnavailable: no provider gave it; says what each one did.
            BlobInvalid: not a blob id.
            QuotaFull, DiskFull.
        """
        BlobName.parse(blob)
        shared = self._shared.setdefault(blob, _Shared())
        shared.users += 1
        if on_progress is not None:
            shared.on_progress.append(on_progress)
        if source is not None:
            shared.sources.append(source)
        try:
            self._offer(blob, shared, providers)
            async with shared.lock:
                if not self._store.has(blob):
                    await self._download(blob, shared)
                return self._store.path(blob)
        finally:
            shared.users -= 1
            if on_progress is not None:
                shared.on_progress.remove(on_progress)
            if source is not None:
                shared.sources.remove(source)
            if not shared.users:
                self._shared.pop(blob, None)

    def _offer(self, blob: str, shared: _Shared, providers: Sequence[str]) -> None:
        for name in providers:
            if name != self._network.peer_id and (blob, name) not in self._noted:
                shared.providers[name] = None
        if shared.plan is not None:
            shared.plan.add_providers(shared.providers)

    async def _download(self, blob: str, shared: _Shared) -> None:
        name = BlobName.parse(blob)
        if name.chunks <= 1:
            await self._fetch_small(blob, name, shared)
            return
        leaves = await self._leaf_list(blob, name, shared)
        async with self._store.download(blob, leaves) as partial:
            await self._fill(blob, partial, shared)

    async def _fetch_small(self, blob: str, name: BlobName, shared: _Shared) -> None:
        """One chunk, whose leaf hash is the root itself."""
        if name.chunks == 0:
            if name.root != merkle.root([]):
                raise BlobInvalid(f"blob {blob[:16]}: empty, but its root is not that of nothing")
            await self._store.add_bytes(b"")
            return
        found: list[bytes] = []

        async def keep(index: int, chunk: bytes) -> None:
            found.append(chunk)

        await self._run(blob, Plan([0], shared.providers), [name.root], shared, keep)
        await self._store.add_verified(blob, found[0], [name.root])

    async def _fill(self, blob: str, partial: Partial, shared: _Shared) -> None:
        todo = [index for index in range(partial.name.chunks) if index not in partial.have]

        async def keep(index: int, chunk: bytes) -> None:
            await asyncio.to_thread(partial.write, index, chunk)
            here = min(len(partial.have) << 20, partial.name.length)
            for tell in shared.on_progress:
                tell(here, partial.name.length)

        await self._run(blob, Plan(todo, shared.providers), partial.leaves, shared, keep)

    async def _run(self, blob: str, plan: Plan, leaves: list[bytes], shared: _Shared, keep: Any) -> None:
        """Carries out a plan to its end; nothing of it is left running afterwards."""
        shared.plan = plan
        arrived = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                running: set[asyncio.Task[None]] = set()
                while not plan.done:
                    arrived.clear()
                    for source in shared.sources:
                        self._offer(blob, shared, source())
                    for ask in plan.next(time.monotonic()):
                        task = tasks.create_task(self._ask(blob, ask, plan, leaves[ask.chunk], keep, arrived))
                        running.add(task)
                        task.add_done_callback(running.discard)
                    if reason := plan.stuck:
                        raise BlobUnavailable(f"blob {blob[:16]}: {reason}"[:1000])
                    try:
                        async with asyncio.timeout(plan.wake_s(time.monotonic())):
                            await arrived.wait()
                    except TimeoutError:
                        continue
                for task in running:
                    task.cancel()  # slower answers to what is here already
        except* BlobError as group:
            raise group.exceptions[0] from None
        finally:
            shared.plan = None

    async def _ask(self, blob: str, ask: Ask, plan: Plan, leaf: bytes, keep: Any, arrived: asyncio.Event) -> None:
        """One chunk from one provider; every outcome goes into the plan."""
        size = BlobName.parse(blob).size_of(ask.chunk)
        body = AskChunk(blob=blob, chunk=ask.chunk).body()
        try:
            async with self._slots:
                reply = await self._network.exchange(ask.provider, "blob.chunk", body, timeout_s=CHUNK_TIMEOUT_S)
                chunk = reply.payload
                if len(chunk) != size or await _leaf(chunk) != leaf:
                    reason = f"sent {len(chunk)} bytes for chunk {ask.chunk} of {size} bytes, and not those of the blob"
                    plan.bad(ask, reason)
                    self._note(blob, ask.provider, reason)
                else:
                    await keep(ask.chunk, chunk)  # first, because a plan that is done cancels what still runs
                    plan.arrived(ask, time.monotonic())
        except Refused as exc:
            if exc.code == BlobMissing.CODE:
                plan.lacking(ask)
            else:
                wait_s = 0.5 if exc.code == Busy.CODE else 0.0
                plan.failed(ask, exc.message, time.monotonic(), wait_s=wait_s)
        except NetworkError as exc:
            plan.failed(ask, exc.message, time.monotonic())
        arrived.set()

    async def _leaf_list(self, blob: str, name: BlobName, shared: _Shared) -> list[bytes]:
        """The verified leaf hashes: of an earlier attempt, or of the first provider that gives the right ones."""
        kept = _split(self._store.kept_leaves(blob))
        if len(kept) == name.chunks and merkle.root(kept) == name.root:
            return kept
        reasons: list[str] = []
        tried: set[str] = set()
        while waiting := [one for one in shared.providers if one not in tried]:
            provider = waiting[0]
            tried.add(provider)
            try:
                leaves = await self._leaves_from(provider, blob, name)
            except NetworkError as exc:
                reasons.append(f"{provider}: {exc.message}")
                continue
            if len(leaves) == name.chunks and merkle.root(leaves) == name.root:
                return leaves
            self._note(blob, provider, f"sent {len(leaves)} leaf hashes that are not those of the blob")
            reasons.append(f"{provider}: sent a wrong leaf list")
        raise BlobUnavailable(f"blob {blob[:16]}: {'; '.join(reasons) or 'no provider is known'}"[:1000])

    async def _leaves_from(self, provider: str, blob: str, name: BlobName) -> list[bytes]:
        leaves: list[bytes] = []
        while len(leaves) < name.chunks:
            body = AskLeaves(blob=blob, start=len(leaves)).body()
            reply = await self._network.exchange(provider, "blob.leaves", body, timeout_s=LEAVES_TIMEOUT_S)
            page = _split(reply.payload)
            leaves += page
            if not page:
                break
        return leaves

    def _note(self, blob: str, provider: str, reason: str) -> None:
        """Remembers a provider that sent what it must not."""
        self._noted[blob, provider] = reason
        while len(self._noted) > _NOTED:
            del self._noted[next(iter(self._noted))]
        self._network.emit(Event(kind="bad_chunk", peer_id=provider, detail={"blob": blob, "reason": reason}))
        if blob in self._shared:
            self._shared[blob].providers.pop(provider, None)


async def _leaf(chunk: bytes) -> bytes:
    """In a thread where hashing takes longer than going there."""
    return await asyncio.to_thread(leaf_of, chunk) if len(chunk) > 1 << 16 else leaf_of(chunk)


def _split(data: bytes) -> list[bytes]:
    """Leaf hashes from their concatenation; a ragged end is dropped."""
    return [data[start : start + LEAF_BYTES] for start in range(0, len(data) - LEAF_BYTES + 1, LEAF_BYTES)]
