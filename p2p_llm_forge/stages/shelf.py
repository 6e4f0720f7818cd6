"""What a replica keeps of its microbatches: encoded tensors within a budget of bytes.

What is needed is never given up, and there is no room for more of it than the budget; whoever would bring more has to
wait. The rest, replies that can be made again and records of what was done, makes room: replies first, oldest first.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class What(Enum):
    """What is kept of a microbatch."""

    INPUT = "input"
    """What the stage was given."""
    OUTPUT = "output"
    """What it answered to forward."""
    GRADIENT = "gradient"
    """What backward was given: the gradient of the output, or the targets."""
    ANSWER = "answer"
    """What it answered to backward."""


class Rank(IntEnum):
    """What goes first."""

    REPLY = 0
    """Can be made again."""
    RECORD = 1
    """Can be asked for again, perhaps."""
    NEEDED = 2
    """Stays."""


Key = tuple[What, int]
"""What, and of which microbatch."""


class Shelf:
    """One replica's; belongs to its thread."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._ranks: tuple[dict[Key, bytes], ...] = tuple({} for _ in Rank)
        self._bytes = [0 for _ in Rank]

    @property
    def used_bytes(self) -> int:
        """What is kept now."""
        return sum(self._bytes)

    def fits(self, size: int) -> bool:
        """Whether there is room for so many needed bytes more."""
        return self._bytes[Rank.NEEDED] + size <= self.budget_bytes

    def put(self, what: What, microbatch: int, data: Buffer, rank: Rank) -> None:
        """Keep these bytes in place of what was kept there; needed ones have to fit, others may have no room."""
        key = what, microbatch
        self.drop(key)
        size = memoryview(data).nbytes
        assert rank is not Rank.NEEDED or self.fits(size)
        for lower in Rank:
            if lower > rank:
                break
            while self.used_bytes + size > self.budget_bytes and self._ranks[lower]:
                self.drop(next(iter(self._ranks[lower])))
        if self.used_bytes + size <= self.budget_bytes:
            self._ranks[rank][key] = bytes(data)
            self._bytes[rank] += size

    def get(self, what: What, microbatch: int) -> bytes | None:
        """The bytes, if they are still kept."""
        key = what, microbatch
        return next((kept[key] for kept in self._ranks if key in kept), None)

    def rank(self, what: What, microbatch: int, rank: Rank) -> None:
        """Give what is kept there another rank; not a higher one."""
        key = what, microbatch
        if (data := self.get(*key)) is not None:
            self.drop(key)
            self._ranks[rank][key] = data
            self._bytes[rank] += len(data)

    def drop(self, key: Key) -> None:
        """Keep it no longer, if it is kept."""
        for rank, kept in enumerate(self._ranks):
            if (data := kept.pop(key, None)) is not None:
                self._bytes[rank] -= len(data)

    def forget(self, microbatch: int) -> None:
        """Keep nothing of this microbatch."""
        for what in What:
            self.drop((what, microbatch))

    def clear(self) -> None:
        """Keep nothing."""
        for kept in self._ranks:
            kept.clear()
        self._bytes = [0 for _ in Rank]
