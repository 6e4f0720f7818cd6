"""The worker's side of the memory that it shares with its daemon: tensors are decoded where they lie.

The daemon made it and says in each request which parts belong to it until it is answered; it only ever grows.

IO: maps the descriptor that the worker was started with.
"""

from __future__ import annotations

import mmap
import os

from p2p_llm_forge.errors import RequestError
from p2p_llm_forge.stages.requests import Place


class Window:
    """The memory, mapped as far as it was needed."""

    def __init__(self, descriptor: int | None) -> None:
        """A worker without such memory has None; it refuses whatever lies there."""
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def part(self, place: Place) -> memoryview:
        """The bytes of a place, not copied.

        Raises:
            RequestError: it is not within the memory.
        """
        size = len(self._map) if self._map is not None else 0
        if place.at + place.bytes > size:
            size = 0 if self._descriptor is None else os.fstat(self._descriptor).st_size
            if place.at + place.bytes > size:
                raise RequestError(f"place: {place.bytes} bytes at {place.at}, but the shared memory has {size} bytes")
            assert self._descriptor is not None
            self._map = mmap.mmap(self._descriptor, size)  # whoever looks at the old map keeps it
        if self._map is None:
            return memoryview(b"")
        return memoryview(self._map)[place.at : place.at + place.bytes]

    def put(self, place: Place, data: bytes) -> int:
        """Write a reply to its place; returns its length. Raises RequestError if it is too long for it."""
        if len(data) > place.bytes:
            raise RequestError(f"reply: {len(data)} bytes, its place has room for {place.bytes}")
        self.part(place)[: len(data)] = data
        return len(data)
