"""The memory that a daemon shares with a worker: tensors are copied into it once, and looked at where they lie.

It is anonymous, made before the worker, which inherits its descriptor, and gone with the last of the two. It can grow,
and nobody can shrink it: a worker that was taken over cannot take pages away from under the daemon. It is dealt out in
slots, each with room for what a pass is given and for its reply. A slot belongs to the worker from the request to its
answer, also when nobody waits for that any more; only then it is given to somebody else.

IO: anonymous memory, a worker's pipe.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from peer.errors import WorkerRefused
from peer.supervisor import Fields, Worker

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_PARTS = {"x": 0, "gradient": 1, "targets": 1, "reply": 2}
"""Where in a slot what a request names lies: given are x and gradient, answered are reply and targets."""
_SLOT_PARTS = 3
_ALIGN = 4096


class Tensors:
    """The shared memory of one worker process and its successors. Close it when the last one has ended."""

    def __init__(self, slots: int) -> None:
        """So many passes can be under way at the worker."""
        assert slots > 0
        self.slots = slots
        self.descriptor = os.memfd_create("forge-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._map: mmap.mmap | None = None
        self._part_bytes = 0
        self._free: asyncio.Queue[int] = asyncio.Queue()

    def hold(self, tensor_bytes: int) -> None:
        """Have room for tensors of this size, as the worker's answer to `stage_open` names it; no slot is in use."""
        part = -(-max(tensor_bytes, 1) // _ALIGN) * _ALIGN
        if part > self._part_bytes:
            size = _SLOT_PARTS * part * self.slots
            os.ftruncate(self.descriptor, size)
            self._map, self._part_bytes = mmap.mmap(self.descriptor, size), part
            self._free = asyncio.Queue()
            for number in range(self.slots):
                self._free.put_nowait(number)

    @property
    def free(self) -> int:
        """Slots that nobody uses."""
        return self._free.qsize()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """A slot, once one is free; what lies in it is valid within the context."""
        assert self._map is not None
        number, free = await self._free.get(), self._free
        slot = Slot(memoryview(self._map), _SLOT_PARTS * self._part_bytes * number, self._part_bytes)
        try:
            yield slot
        finally:
            slot.when_answered(lambda: free.put_nowait(number))

    def close(self) -> None:
        """Give up the memory; whoever still looks at it keeps it."""
        os.close(self.descriptor)
        self._map = None


class Slot:
    """A part of the memory that one pass uses."""

    def __init__(self, memory: memoryview, at: int, part_bytes: int) -> None:
        """Use `Tensors.slot`."""
        self._memory, self._at, self._part_bytes = memory, at, part_bytes
        self._call: asyncio.Task[Fields] | None = None
        self._lengths: dict[str, int] = {}

    async def call(self, worker: Worker, do: str, given: dict[str, Buffer], *replies: str, **params: Any) -> Fields:
        """Have the worker do something with these tensors; once in a slot's life.

        Args:
            given: by the name of the request's field.
            replies: which fields name places for a reply.

        Raises:
            WorkerRefused: also where a tensor is longer than any that the worker takes. WorkerDied.
        """
        assert self._call is None
        places: Fields = {name: self._put(name, data) for name, data in given.items()}
        places |= {name: self._place(name, self._part_bytes) for name in replies}
        fields: Fields = {**places, **params}
        self._call = asyncio.create_task(worker.call(do, **fields), name=f"tensors-{do}")
        answer = await asyncio.shield(self._call)
        for name in replies:
            length = answer.get("bytes" if name == "reply" else name, 0)
            if type(length) is not int or not 0 <= length <= self._part_bytes:
                raise WorkerRefused("FP-520", f"worker {worker.pid}: {do}: a {name} of {length!r} bytes, no such size")
            self._lengths[name] = length
        return answer

    def part(self, name: str) -> memoryview:
        """All of what a field names: within the slot's context only."""
        start = self._start(name)
        return self._memory[start : start + self._part_bytes]

    def reply(self, name: str = "reply") -> memoryview:
        """What the worker answered there, not copied: within the slot's context only."""
        start = self._start(name)
        return self._memory[start : start + self._lengths[name]].toreadonly()

    def when_answered(self, then: Callable[[], None]) -> None:
        """Call this as soon as the worker has answered, or at once if it has."""

        def done(call: asyncio.Task[Fields]) -> None:
            if not call.cancelled():
                call.exception()  # read, as the one who asked may be gone
            then()

        if self._call is None:
            then()
        elif self._call.done():
            done(self._call)
        else:
            self._call.add_done_callback(done)

    def _start(self, name: str) -> int:
        return self._at + _PARTS[name] * self._part_bytes

    def _place(self, name: str, size: int) -> Fields:
        return {"at": self._start(name), "bytes": size}

    def _put(self, name: str, data: Buffer) -> Fields:
        view = memoryview(data).cast("B")
        if view.nbytes > self._part_bytes:
            most = self._part_bytes
            raise WorkerRefused("FP-113", f"{name}: oversize: got {view.nbytes} bytes, wanted {most} or less")
        start = self._start(name)
        self._memory[start : start + view.nbytes] = view
        return self._place(name, view.nbytes)
