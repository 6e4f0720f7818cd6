"""Replication planned: which ranges of entries to fetch from a peer that knows more.

Pure: no IO. The daemon fetches, `Store.accept` checks and stores.
"""

from collections.abc import Mapping
from typing import NamedTuple

BUNDLE = 256
"""The most entries of one range, as in tlog-tiles entry bundles."""


class Range(NamedTuple):
    """Entries [start, end) of a log."""

    origin: str
    start: int
    end: int


def plan(local: Mapping[str, int], remote: Mapping[str, int]) -> list[Range]:
    """The ranges that lead from the local to the remote certified sizes, in order, none crossing a bundle's edge."""
    ranges = []
    for origin in sorted(remote):
        start, size = local.get(origin, 0), remote[origin]
        while start < size:
            end = min(size, (start // BUNDLE + 1) * BUNDLE)
            ranges.append(Range(origin, start, end))
            start = end
    return ranges
