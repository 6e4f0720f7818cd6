"""Background tasks of one owner: what goes on after the call that began it has returned, until the owner closes.

IO: the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Errands:
    """The tasks of one owner, who bounds how many there are; a fault in one is logged with its traceback."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it in the background."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("errand_failed", errand=task.get_name(), exc_info=exc)

    def cancel(self) -> None:
        """Cancel all that still run."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all and wait for their ends."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
