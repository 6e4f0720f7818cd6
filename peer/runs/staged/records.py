"""What a driver was given for its microbatches, until the round is settled: by handles, in memory and then on disk.

IO: files in the run's folder.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

MEMORY_BYTES = 256 << 20
"""More than that goes to disk."""


class Records:
    """One driver's. Written only by its calls."""

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        """Nothing recorded; whatever a daemon before us left in the folder goes with the first round."""
        self._folder = folder
        self._most = memory_bytes
        self._here: dict[str, bytes] = {}
        self._bytes = 0
        self._round = -1

    async def begin(self, round_number: int) -> None:
        """Drop what is of another round."""
        if round_number != self._round:
            self._round, self._here, self._bytes = round_number, {}, 0
            await asyncio.to_thread(shutil.rmtree, self._folder, True)

    async def put(self, handle: str, data: bytes) -> None:
        """Record these bytes."""
        if self._bytes + len(data) <= self._most:
            self._here[handle] = data
            self._bytes += len(data)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread((self._folder / handle).write_bytes, data)

    async def get(self, handle: str) -> bytes | None:
        """The bytes of a handle, if they are of this round."""
        if handle in self._here:
            return self._here[handle]
        path = self._folder / handle
        return await asyncio.to_thread(path.read_bytes) if path.exists() else None
