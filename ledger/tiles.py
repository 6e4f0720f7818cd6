"""A log as C2SP tlog-tiles files: hash tiles of 256, entry bundles of 256, and the certificate as its checkpoint.

Pure: no IO; it yields relative paths and contents.
"""

from collections.abc import Iterator, Sequence

from .merkle import Tree

WIDTH = 256
"""Hashes per tile and entries per bundle."""


def files(tree: Tree, size: int, entries: Sequence[bytes], checkpoint: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file of the log at `size`; the checkpoint comes last, when what it covers is there."""
    for number in range(0, size, WIDTH):
        bundle = entries[number : min(number + WIDTH, size)]
        framed = b"".join(len(entry).to_bytes(2, "big") + entry for entry in bundle)
        yield _path("entries", number // WIDTH, len(bundle)), framed
    level, count = 0, size
    while count:
        for number in range(0, count, WIDTH):
            width = min(WIDTH, count - number)
            hashes = b"".join(tree.node(8 * level, number + i) for i in range(width))
            yield _path(str(level), number // WIDTH, width), hashes
        level, count = level + 1, count // WIDTH
    yield "checkpoint", checkpoint


def parse_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle.

    Raises:
        ValueError: it ends within an entry.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise ValueError(f"the bundle ends within entry {len(entries)}, at byte {len(data)}")
        entries.append(data[at + 2 : end])
        at = end
    return entries


def _path(kind: str, number: int, width: int) -> str:
    """tile/<kind>/<number in groups of three digits>, with .p/<width> where it is not full."""
    groups = [f"{number % 1000:03d}"]
    while number >= 1000:
        number //= 1000
        groups.insert(0, f"x{number % 1000:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{kind}/{'/'.join(groups)}{partial}"
