"""A disk that is full while a run goes on: told in the journal, once for each stretch; what failed is tried again.

IO: the run's journal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from peer.errors import DiskFull, ForgeError, QuotaFull
from peer.runs.run import Run

CODES = {DiskFull.CODE, QuotaFull.CODE, "FP-110"}
"""Ours, and the engine's."""
AGAIN_S = 60.0
RETRY_S = 1.0

T = TypeVar("T")


class Disk:
    """What this peer's disk does to one run."""

    def __init__(self, run: Run, account: str) -> None:
        """We are `account`."""
        self._run = run
        self._account = account
        self._told = float("-inf")

    async def failed(self, exc: BaseException) -> bool:
        """Something broke; whether that was for want of room."""
        if not isinstance(exc, ForgeError) or exc.code not in CODES:
            return False
        now = time.monotonic()
        if now >= self._told + AGAIN_S:
            self._told = now
            await self._run.journal.add("disk_full", account=self._account, code=exc.code, reason=exc.message)
        return True

    async def until_room(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do this, again and again while there is no room for it: our full disk is nobody else's fault."""
        while True:
            try:
                return await work()
            except ForgeError as exc:
                if not await self.failed(exc):
                    raise
            await asyncio.sleep(RETRY_S)
