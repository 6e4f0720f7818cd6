"""A worker process of a run and what every kind of it has: its files, what is kept of its work, its end.

IO: a worker process, the blob store.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from peer.blobs.store import BlobStore
from peer.runs.files import RunFiles
from peer.runs.hardware import Hardware
from peer.runs.history import History
from peer.runs.run import Run
from peer.supervisor import Fields, Worker


class RunProcess:
    """The worker of one run. `state` is the id of the state it holds."""

    def __init__(
        self, *, run: Run, store: BlobStore, files: RunFiles, history: History, hardware: Hardware, folder: str = "work"
    ) -> None:
        """No process is started before the first operation; it will work in this folder of the run's."""
        self.run = run
        self.state = ""
        self.progress: Fields = {}
        """The newest progress event of the training under way."""
        self.files = files
        self.history = history
        self.hardware = hardware
        self._store = store
        self._folder = run.folder / folder
        self._worker: Worker | None = None
        self._turn = asyncio.Lock()

    @property
    def prefetch_bytes(self) -> int:
        """What may be fetched ahead in one round: a quarter of the room for blobs."""
        return self._store.quota_bytes // 4

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._worker.pid if self._worker is not None and self._worker.alive else None

    async def close(self) -> None:
        """End the process; of a run that is closed nothing is kept for another worker."""
        if self._worker is not None:
            await self._worker.close()
            self._worker, self.state = None, ""
        if self.run.log.close is not None:
            await self.history.take_up()
            await asyncio.to_thread(shutil.rmtree, self._folder / "kept", ignore_errors=True)

    async def fetch(self, blob: str, providers: Sequence[str] = ()) -> Path:
        """The file of a blob, fetched from the run's peers unless it is here."""
        return await self.files.fetch(blob, providers)

    def newest_state(self) -> tuple[int, str] | None:
        """(round, id) of the newest certified state in the log that is in our blob store."""
        log = self.run.log
        for round_number in range(log.certified_round, -1, -1):
            if (state := log.state_after(round_number)) and self._store.has(state):
                return round_number, state
        return None
