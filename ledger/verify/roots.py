"""The roots that recvs name, from when a log's check reaches their size until the last such recv is decided.

IO: reads through the database it is given, should a root be asked for that is not here.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ledger.merkle import Frontier
from ledger.store.database import Database

from .check import each_row

SPARE = 64
"""So many roots of a log that nobody will ask for again are forgotten together."""


@dataclass(slots=True)
class _Known:
    """One log's roots at ascending sizes, and how many recvs will still ask for each; `told` counts those asked."""

    asked: Sequence[int]
    told: int = 0
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    uses: "array[int]" = field(default_factory=lambda: array("q"))
    hashes: bytearray = field(default_factory=bytearray)


class Roots:
    """Roots of the logs that are checked, at the sizes that recvs name."""

    def __init__(self, database: Database, rows: Mapping[str, int], asked: Mapping[str, Sequence[int]]) -> None:
        """`rows` are the logs' row ids; `asked` the sizes, ascending, one for each recv that names it."""
        self._db, self._rows = database, rows
        self._known = {origin: _Known(sizes) for origin, sizes in asked.items()}

    def add(self, origin: str, roots: Iterable[tuple[int, bytes]]) -> None:
        """Roots at sizes that are asked for, ascending and above those added before."""
        known = self._known[origin]
        while len(known.uses) >= SPARE and not any(known.uses[:SPARE]):
            del known.sizes[:SPARE], known.uses[:SPARE], known.hashes[: 32 * SPARE]
        for size, root in roots:
            known.sizes.append(size)
            before, known.told = known.told, bisect_right(known.asked, size, known.told)
            known.uses.append(known.told - before)
            known.hashes += root

    def get(self, origin: str, size: int) -> bytes:
        """The root of a log that was checked up to this size."""
        known = self._known.get(origin)
        if known is not None:
            place = bisect_left(known.sizes, size)
            if place < len(known.sizes) and known.sizes[place] == size:
                return bytes(known.hashes[32 * place : 32 * place + 32])
        frontier = Frontier()
        for _, leaf, _ in each_row(self._db, self._rows[origin], 0, size):
            frontier.append(leaf)
        return frontier.root

    def used(self, origin: str, size: int) -> None:
        """A recv that names this root is decided: after the last such one, nobody asks for it again."""
        known = self._known.get(origin)
        if known is None:
            return
        place = bisect_left(known.sizes, size)
        if place < len(known.sizes) and known.sizes[place] == size:
            known.uses[place] -= 1
