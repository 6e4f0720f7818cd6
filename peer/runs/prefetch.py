"""Fetching updates ahead of their settlement, within a budget of bytes, in an order of our own.

Every member fetches the updates of a round in another order, so that they soon have different ones to give each other.
Nothing is fetched before the leader, which has its receipt, names an update.

IO: fetches through the function that it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random

import structlog

from peer.blobs.chunks import BlobName
from peer.errors import BlobInvalid, ForgeError

log = structlog.get_logger(__name__)

AT_ONCE = 8
MOST_UPDATES = 1024
"""Of one round."""

Fetch = Callable[[str, Sequence[str]], Awaitable[Path]]


class Prefetcher:
    """The updates of the open round that are wanted before they are needed."""

    def __init__(
        self, fetch: Fetch, *, round_number: Callable[[], int], most_bytes: int, budget_bytes: int, rng: Random
    ) -> None:
        """Fetch with `fetch(update, holders)`.

        Args:
            fetch: gets an update.
            round_number: the last settled round; the budget is that of one round.
            most_bytes: of one update.
            budget_bytes: of all that are fetched ahead in one round; the settlement fetches the rest.
            rng: the order.
        """
        self._fetch = fetch
        self._round_number = round_number
        self._most_bytes, self._budget_bytes, self._rng = most_bytes, budget_bytes, rng
        self._waiting: dict[str, Sequence[str]] = {}
        self._turns: asyncio.Queue[None] = asyncio.Queue()
        self._asked: set[str] = set()
        self._round = -1
        self._spent = 0.0

    def want(self, update: str, holders: Sequence[str]) -> None:
        """Fetch this update when there is time, once; dropped where the round's budget is spent."""
        if (now := self._round_number()) != self._round:
            self._round, self._spent, self._asked = now, 0, set()
        length = _length(update)
        if update in self._asked or len(self._asked) >= MOST_UPDATES or length > self._most_bytes:
            return
        if self._spent + length > self._budget_bytes:
            return
        self._asked.add(update)
        self._spent += length
        if update not in self._waiting:
            self._turns.put_nowait(None)
        self._waiting[update] = holders

    async def serve(self) -> None:
        """Fetch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._turns.get()
            update = self._rng.choice(list(self._waiting))
            holders = self._waiting.pop(update)
            try:
                await self._fetch(update, holders)
            except (ForgeError, OSError) as exc:
                log.info("prefetch_failed", update=update[:16], reason=str(exc))


def _length(update: str) -> float:
    """Bytes of a blob; of what is none, more than any budget."""
    try:
        return BlobName.parse(update).length
    except BlobInvalid:
        return float("inf")
