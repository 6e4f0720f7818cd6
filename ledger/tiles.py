"""A log as C2SP tlog-tiles: hash tiles of 256 hashes, entry bundles of 256 entries, and where each of them lies.

Pure: no IO.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .codec import MAX_BYTES
from .errors import CodecInvalid

WIDTH = 256
"""Hashes per tile and entries per bundle."""
MAX_BUNDLE = WIDTH * (2 + MAX_BYTES)
"""The longest bundle of our entries, in bytes."""
MAX_TILE = WIDTH * 32
"""The longest tile, in bytes."""
ENTRIES = "entries"
"""What stands in the path of a bundle where a tile has its level."""


class Tile(NamedTuple):
    """One file below `tile/`."""

    kind: str
    """The level of a tile as a number, or `ENTRIES`."""
    number: int
    """Its place among its kind."""
    width: int
    """How many hashes or entries it has; below `WIDTH` only the last of its kind."""

    @property
    def path(self) -> str:
        """tile/<kind>/<number in groups of three digits>, with .p/<width> where it is not full."""
        number = self.number
        groups = [f"{number % 1000:03d}"]
        while number >= 1000:
            number //= 1000
            groups.insert(0, f"x{number % 1000:03d}")
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{self.kind}/{'/'.join(groups)}{partial}"

    @property
    def start(self) -> int:
        """Of a bundle: the index of its first entry."""
        return self.number * WIDTH


def bundles(size: int) -> Iterator[Tile]:
    """The entry bundles of a log of this size, in order."""
    return _row(ENTRIES, size)


def tiles(size: int) -> Iterator[Tile]:
    """The hash tiles of a log of this size, lowest level first; none is empty."""
    level, count = 0, size
    while count:
        yield from _row(str(level), count)
        level, count = level + 1, count // WIDTH


def _row(kind: str, count: int) -> Iterator[Tile]:
    for number in range(0, count, WIDTH):
        yield Tile(kind, number // WIDTH, min(WIDTH, count - number))


def write_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries one after another, each after its length as a big-endian u16."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def parse_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle.

    Raises:
        CodecInvalid: it ends within an entry.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise CodecInvalid(f"the bundle ends within entry {len(entries)}, at byte {len(data)}")
        entries.append(data[at + 2 : end])
        at = end
    return entries
