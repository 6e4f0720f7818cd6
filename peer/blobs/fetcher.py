"""Fetching blobs from other peers, several at once, every chunk verified on arrival; and serving ours.

A small blob costs one round trip. Of a blob of several chunks the leaf list comes first and is checked against the id.
A provider that sends a bad chunk is noted and not asked again for that blob; several callers of one blob share one
download.

IO: the network and the blob store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from ledger import merkle
from peer.blobs.chunks import LEAF_BYTES, LEAVES_PER_PAGE, BlobName, leaf_of
from peer.blobs.partial import Partial
from peer.blobs.pieces import LEAST_BYTES, Pieces
from peer.blobs.plan import Ask, Plan
from peer.blobs.serving import AskChunk, AskLeaves, BlobServer, ChunkAnswer, Clock, Transport
from peer.blobs.store import BlobStore
from peer.blobs.wanted import OnProgress, Source, Wanted
from peer.errors import BlobError, BlobInvalid, BlobMissing, BlobUnavailable, Busy, NetworkError, Refused
from peer.network.rpc import Event

CHUNK_TIMEOUT_S = 30.0
LEAVES_TIMEOUT_S = 10.0
MAX_CHUNKS_IN_FLIGHT = 16
"""Over all downloads: what arrives is at most so many chunks ahead of the disk."""
_NOTED = 1024


class BlobFetcher:
    """Gets blobs into the store, and gives the store's blobs to others."""

    def __init__(
        self, store: BlobStore, network: Transport, rng: Random | None = None, clock: Clock = time.monotonic
    ) -> None:
        """Serves `blob.chunk` and `blob.leaves` from now on; `clock` says when who was given what."""
        self._rng = rng or Random()
        self._store = store
        self._network = network
        self._shared: dict[str, Wanted] = {}
        self._noted: dict[tuple[str, str], str] = {}
        self._slots = asyncio.Semaphore(MAX_CHUNKS_IN_FLIGHT)
        self._pieces = Pieces()
        BlobServer(store, network, self._arrival, self._rng, clock)

    def _arrival(self, blob: str) -> asyncio.Event | None:
        """What is set once a blob that is being fetched is here."""
        return self._shared[blob].here if blob in self._shared else None

    async def fetch(
        self,
        blob: str,
        providers: Sequence[str],
        on_progress: OnProgress | None = None,
        *,
        source: Source | None = None,
        others: Sequence[str] = (),
    ) -> Path:
        """The file of a blob; fetched unless it is here. Pin it first if it must stay.

        Args:
            blob: its id.
            providers: who is said to have it.
            on_progress: told how far it is.
            source: asked again and again while the download lasts, for more who may have it.
            others: who may have it, asked where the providers do not help.

        Raises:
            BlobUnavailable: no provider gave it; says what each one did.
            BlobInvalid: not a blob id.
            QuotaFull, DiskFull.
        """
        BlobName.parse(blob)
        shared = self._shared.setdefault(blob, Wanted())
        shared.users += 1
        if on_progress is not None:
            shared.on_progress.append(on_progress)
        if source is not None:
            shared.sources.append(source)
        try:
            self._offer(blob, shared, providers, others)
            async with shared.lock:
                if not self._store.has(blob):
                    await self._download(blob, shared)
                shared.here.set()
                return self._store.path(blob)
        finally:
            shared.users -= 1
            if on_progress is not None:
                shared.on_progress.remove(on_progress)
            if source is not None:
                shared.sources.remove(source)
            if not shared.users:
                shared.here.set()
                self._shared.pop(blob, None)

    def _offer(self, blob: str, shared: Wanted, providers: Sequence[str], others: Sequence[str]) -> None:
        for names, known in ((providers, shared.providers), (others, shared.others)):
            for name in names:
                if self._may_ask(blob, name):
                    known[name] = None
        if shared.plan is not None:
            shared.plan.add_providers(shared.providers)
            shared.plan.add_providers(shared.others, holders=False)

    def _may_ask(self, blob: str, name: str) -> bool:
        return name != self._network.peer_id and (blob, name) not in self._noted

    def _plan(self, chunks: Iterable[int], shared: Wanted) -> Plan:
        return Plan(chunks, shared.providers, shared.others, rng=self._rng)

    async def _download(self, blob: str, shared: Wanted) -> None:
        name = BlobName.parse(blob)
        if name.chunks <= 1:
            await self._fetch_small(blob, name, shared)
            return
        leaves = await self._leaf_list(blob, name, shared)
        async with self._store.download(blob, leaves) as partial:
            await self._fill(blob, partial, shared)

    async def _fetch_small(self, blob: str, name: BlobName, shared: Wanted) -> None:
        """One chunk, whose leaf hash is the root itself."""
        if name.chunks == 0:
            if name.root != merkle.root([]):
                raise BlobInvalid(f"blob {blob[:16]}: empty, but its root is not that of nothing")
            await self._store.add_bytes(b"")
            return
        found: list[bytes] = []

        async def keep(index: int, chunk: bytes) -> None:
            found.append(chunk)

        await self._run(blob, self._plan([0], shared), [name.root], shared, keep)
        await self._store.add_verified(blob, found[0], [name.root])

    async def _fill(self, blob: str, partial: Partial, shared: Wanted) -> None:
        todo = [index for index in range(partial.name.chunks) if index not in partial.have]

        async def keep(index: int, chunk: bytes) -> None:
            await asyncio.to_thread(partial.write, index, chunk)
            here = min(len(partial.have) << 20, partial.name.length)
            for tell in shared.on_progress:
                tell(here, partial.name.length)

        await self._run(blob, self._plan(todo, shared), partial.leaves, shared, keep)

    async def _run(self, blob: str, plan: Plan, leaves: list[bytes], shared: Wanted, keep: Any) -> None:
        """Carries out a plan to its end; nothing of it is left running afterwards."""
        shared.plan = plan
        arrived = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                running: set[asyncio.Task[None]] = set()
                while not plan.done:
                    arrived.clear()
                    for source in shared.sources:
                        self._offer(blob, shared, (), source())
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
        try:
            async with self._slots:
                chunk, others = await self._pieces_of(blob, ask, size, plan)
                if others:
                    plan.referred(ask, [name for name in others if self._may_ask(blob, name)], time.monotonic())
                elif len(chunk) != size or await _leaf(chunk) != leaf:
                    reason = f"sent {len(chunk)} bytes for chunk {ask.chunk} of {size} bytes, and not those of the blob"
                    plan.bad(ask, reason)
                    self._note(blob, ask.provider, reason)
                else:
                    await keep(ask.chunk, chunk)  # first, because a plan that is done cancels what still runs
                    plan.arrived(ask, time.monotonic())
        except Refused as exc:
            now = time.monotonic()
            if exc.code == BlobMissing.CODE:
                plan.lacking(ask, now)
            elif exc.code == Busy.CODE:
                plan.busy(ask, exc.message, now)
            else:
                plan.failed(ask, exc.message, now)
        except NetworkError as exc:
            self._pieces.lost(ask.provider)
            plan.failed(ask, exc.message, time.monotonic())
        arrived.set()

    async def _pieces_of(self, blob: str, ask: Ask, size: int, plan: Plan) -> tuple[bytes, list[str]]:
        """The chunk as the provider sends it, piece by piece, unverified; or whom it would rather have us ask.

        A piece that is longer than was asked, or shorter than an honest provider's, ends it.
        """
        chunk = bytearray()
        while len(chunk) < size:
            most = min(size - len(chunk), self._pieces.of(ask.provider), self._network.traffic.down.piece_bytes)
            wait = int(plan.is_holder(ask.provider))
            body = AskChunk(blob=blob, chunk=ask.chunk, start=len(chunk), most=most, wait=wait).body()
            asked = time.monotonic()
            reply = await self._network.exchange(
                ask.provider, "blob.chunk", body, timeout_s=CHUNK_TIMEOUT_S, expects=most
            )
            now = time.monotonic()
            if not reply.payload and (others := ChunkAnswer.read(reply.body).ask) and not chunk:
                return b"", others
            chunk += reply.payload
            if not min(most, LEAST_BYTES) <= len(reply.payload) <= most:
                break
            self._pieces.took(ask.provider, len(reply.payload), now - asked)
            plan.moved(ask, now)
        return bytes(chunk), []

    async def _leaf_list(self, blob: str, name: BlobName, shared: Wanted) -> list[bytes]:
        """The verified leaf hashes: of an earlier attempt, or of the first provider that gives the right ones."""
        kept = _split(self._store.kept_leaves(blob))
        if len(kept) == name.chunks and merkle.root(kept) == name.root:
            return kept
        reasons: list[str] = []
        tried: set[str] = set()
        while waiting := [one for one in (*shared.providers, *shared.others) if one not in tried]:
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
            most = min(name.chunks - len(leaves), LEAVES_PER_PAGE) * LEAF_BYTES
            reply = await self._network.exchange(
                provider, "blob.leaves", body, timeout_s=LEAVES_TIMEOUT_S, expects=most
            )
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
            self._shared[blob].others.pop(provider, None)


async def _leaf(chunk: bytes) -> bytes:
    """In a thread where hashing takes longer than going there."""
    return await asyncio.to_thread(leaf_of, chunk) if len(chunk) > 1 << 16 else leaf_of(chunk)


def _split(data: bytes) -> list[bytes]:
    """Leaf hashes from their concatenation; a ragged end is dropped."""
    return [data[start : start + LEAF_BYTES] for start in range(0, len(data) - LEAF_BYTES + 1, LEAF_BYTES)]
