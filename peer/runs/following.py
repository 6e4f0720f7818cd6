"""Following one run's log: what is certified, as it grows, and what our leader signed beyond that.

IO: the ledger replica, calls to the leader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from ledger.errors import Behind, LedgerError
from peer.errors import ForgeError
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.messages import Ahead
from peer.runs.run import Run
from peer.runs.whereabouts import Whereabouts

log = structlog.get_logger(__name__)


class Following:
    """A member's eye on its run's log."""

    def __init__(
        self, *, run: Run, logs: Logs, replication: Replication, leader: Whereabouts,
        grew: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        """Have `grew` called whenever `run.log` has news."""
        self._run = run
        self._logs = logs
        self._replication = replication
        self._leader = leader
        self._grew = grew

    async def go_ahead(self, ahead: Ahead, leader: str) -> None:
        """Go on with what our leader signed beyond what is certified, unless it must not count."""
        try:
            try:
                await self._run.follow(ahead, leader)
            except Behind:  # what was certified meanwhile is still on its way
                await self._replication.pull_log(self._leader.peer or "", self._run.origin)
                await self._run.follow(ahead, leader)
        except (ForgeError, LedgerError) as exc:
            log.warning("tail_refused", run=self._run.id[:16], leader=leader[:16], reason=str(exc))
        await self._grew()

    async def follow(self, *, until_closed: bool = False) -> None:
        """Take up what is new in the certified log, as it grows."""
        seen = self._run.log.certified
        while not (until_closed and self._run.log.close is not None):
            seen = await self._logs.grown(self._run.origin, seen)
            await self._run.refresh()
            await self._grew()
