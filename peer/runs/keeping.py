"""The state that a worker computed last on its way into the blob store, which nobody waits for between two rounds.

The worker's file is whole before this begins; the store hashes and syncs it. Killed in between, a peer holds the state
before and the updates that led on from there.

IO: the blob store.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from peer.blobs.store import BlobStore
from peer.errors import ForgeError, RunError

log = structlog.get_logger(__name__)


class Keeping:
    """One worker's; one state at a time."""

    def __init__(self, store: BlobStore, run: str) -> None:
        """Nothing is on its way."""
        self._store = store
        self._run = run
        self._wanted: tuple[str, Path] | None = None
        self._task: asyncio.Task[str] | None = None

    def begin(self, state: str, path: Path) -> None:
        """Keep this file as this state, after `done` returned for the one before."""
        self._wanted = state, path
        self._task = self._keep(path)

    def _keep(self, path: Path) -> asyncio.Task[str]:
        return asyncio.create_task(self._store.add_file(path), name=f"keep-{path.name[:16]}")

    async def done(self, blob: str = "") -> None:
        """Until the state is kept; or return at once where that is not this blob.

        Raises:
            ForgeError, OSError: it could not be kept. The next call tries again where that may help.
        """
        if self._wanted is None or blob not in ("", self._wanted[0]):
            return
        state, path = self._wanted
        task = self._task = self._task or self._keep(path)
        try:
            kept = await asyncio.shield(task)
        except (ForgeError, OSError):
            if self._task is task:
                self._task = None
                if not path.exists():
                    self._wanted = None
            raise
        if self._task is task:
            self._wanted = self._task = None
            if kept != state:
                raise RunError("FP-406", f"worker of run {self._run[:16]}: wrote state {kept[:16]}, named {state[:16]}")

    async def end(self) -> None:
        """As `done`, but whatever broke is only logged: the state follows from the updates."""
        try:
            await self.done()
        except (ForgeError, OSError) as exc:
            log.warning("state_not_kept", run=self._run[:16], reason=str(exc))
