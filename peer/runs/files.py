"""The blobs that a run's worker reads: fetched from the run's peers where they are not here, and pinned.

IO: the blob store, other peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.runs.run import Run
from peer.runs.shards import shards_of
from peer.supervisor import Fields

Providers = Callable[[], Sequence[str]]
"""PeerIDs that may have the run's blobs just now."""


class RunFiles:
    """One run's blobs as files."""

    def __init__(self, *, run: Run, store: BlobStore, fetcher: BlobFetcher, providers: Providers) -> None:
        """Nothing is fetched before it is asked for."""
        self.run = run
        self.store = store
        self._fetcher = fetcher
        self._providers = providers
        self._all: Fields | None = None

    async def fetch(self, blob: str, providers: Sequence[str] = ()) -> Path:
        """The file of a blob, fetched from the run's peers unless it is here."""
        return await self._fetcher.fetch(blob, providers, others=self._providers(), source=self._providers)

    async def base(self) -> Fields:
        """What a worker needs to apply updates, besides a state."""
        blobs = self.run.blobs
        await self.store.pin([blobs["model"], blobs["tokenizer"], blobs["manifest"]], f"{self.run.id}/files")
        return {name: str(await self.fetch(blobs[name])) for name in ("model", "tokenizer", "manifest")}

    async def all(self) -> Fields:
        """Everything that training needs besides a state; fetched once."""
        if self._all is None:
            base = await self.base()
            shards = shards_of(Path(base["manifest"]))
            await self.store.pin(shards, f"{self.run.id}/shards")
            await self.fetch_ahead(shards)
            self._all = {**base, "shards": [str(await self.fetch(shard)) for shard in shards]}
        return self._all

    async def fetch_ahead(self, blobs: Sequence[str]) -> None:
        """Fetch what is missing side by side; what fails is fetched again one by one, and told then."""
        missing = [blob for blob in blobs if not self.store.has(blob)]
        await asyncio.gather(*map(self.fetch, missing), return_exceptions=True)
