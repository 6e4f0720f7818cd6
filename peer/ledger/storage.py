"""The ledger store on a thread of its own: the event loop never waits for the disk, and accesses take turns.

IO: one thread, SQLite through `ledger.store.store`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ledger.store.store import Store

T = TypeVar("T")


class Storage:
    """One store; whoever needs it hands over what to do with it."""

    def __init__(self, store: Store) -> None:
        """The owner of `store` closes it, after all work has ended."""
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def use(self, work: Callable[[Store], T]) -> T:
        """The result of `work`. If the caller is cancelled, work that has begun still ends; other work never begins."""
        return await self.begin(work)

    def begin(self, work: Callable[[Store], T]) -> asyncio.Future[T]:
        """The result of `work`, when it is there; only cancelling the future itself keeps work from beginning."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work, self._store)
