"""The submitter's wish to end its run: kept on disk, and repeated to whoever leads until the log shows the close.

A leader that took the wish keeps it too, so its own restart does not undo it; but it may die before it settles, and the
next leader knows of nothing.

IO: a file in the run's folder, calls to the leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from peer.errors import NetworkError
from peer.files import write_atomic
from peer.messages import Cancellation
from peer.runs.run import Run

log = structlog.get_logger(__name__)

CANCELLED = "cancelled"
CANCELLED_BY_SUBMITTER = "cancelled by the submitter"
REPEAT_S = 5.0

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""(method, body) -> the leader's answer."""


def keep(run: Run, reason: str) -> None:
    """Keep on disk that the run is to end, and why."""
    write_atomic(run.folder / CANCELLED, reason.encode())


def kept(run: Run) -> str:
    """Why the run is to end; empty if nobody wishes it."""
    path = run.folder / CANCELLED
    return path.read_text() if path.exists() else ""


async def tell(run: Run, ask: Ask) -> bool:
    """Tell the leader; whether it heard it."""
    try:
        await ask("run.cancel", Cancellation(run=run.id).body())
    except NetworkError as exc:
        log.info("cancel_not_heard", run=run.id[:16], reason=str(exc))
        return False
    return True


async def insist(run: Run, ask: Ask) -> None:
    """Repeat the wish while there is one, until cancelled; only the submitter's own peer does."""
    while True:
        await asyncio.sleep(REPEAT_S)
        if kept(run) and run.log.close is None:
            await tell(run, ask)
