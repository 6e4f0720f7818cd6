"""Tasks of one role in a run, whose end may come while somebody still starts one.

Pure: besides the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class RoleTasks:
    """Once they are being cancelled, nothing new is started."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside the rest."""
        try:
            self._tasks.create_task(work)
        except RuntimeError:  # the group is ending: a call or an answer came in at the last moment
            work.close()
