"""A blob that somebody wants: several callers of one blob share one download.

Pure: values that the fetcher writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from peer.blobs.plan import Plan

OnProgress = Callable[[int, int], None]
"""(bytes here, bytes in all)."""
Source = Callable[[], Sequence[str]]
"""PeerIDs that may have the blob, as they are known by now."""


class Wanted:
    """One blob that somebody wants. Written only by the fetcher."""

    def __init__(self) -> None:
        """Nobody wants it yet."""
        self.lock = asyncio.Lock()
        self.users = 0
        self.providers: dict[str, None] = {}
        """Who is said to have it."""
        self.others: dict[str, None] = {}
        """Who may have it."""
        self.here = asyncio.Event()
        """Set when the blob is here, or nobody wants it any more."""
        self.plan: Plan | None = None
        """While it is being fetched."""
        self.on_progress: list[OnProgress] = []
        self.sources: list[Source] = []
