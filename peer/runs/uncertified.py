"""What people are told of a run's tail: that nothing was certified for some time, that it is again, or what was lost.

IO: the run's journal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from peer.rounds.log import RunLog
from peer.runs.journal import Journal

TELL_S = 5.0
"""A tail that is certified sooner is not worth a word."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a log stands."""

    round: int
    """The last round that is settled in it."""
    certified: int
    """The last one whose settlement is certified."""
    drops: int
    """How often a tail gave way."""

    @classmethod
    def of(cls, log: RunLog) -> Standing:
        """Where this one stands now."""
        return cls(round=log.round, certified=log.certified_round, drops=log.drops)


class Uncertified:
    """Tells of one run's tail. Written only by its `Run`."""

    def __init__(self, journal: Journal) -> None:
        """Nothing was told yet."""
        self._journal = journal
        self._since: tuple[float, float] | None = None
        """While there is a tail: since when, on the monotonic clock and in seconds since 1970."""
        self._told = False

    async def changed(self, log: RunLog, before: Standing) -> None:
        """The log has changed since it stood there."""
        dropped = log.drops > before.drops
        since, told = self._since, self._told
        if not log.tail:
            self._since, self._told = None, False
        elif since is None or dropped:
            self._since = (time.monotonic(), round(time.time(), 3))
        if dropped:
            await self._journal.add("rolled_back", round=before.certified, lost=before.round - before.certified)
        if told and since is not None and not log.tail:
            seconds = round(time.monotonic() - since[0], 3)
            await self._journal.add("certified_again", round=log.round, seconds=seconds)

    async def tell(self, log: RunLog, now: float) -> None:
        """Tell, once, if there is a tail for long; `now` is on the monotonic clock."""
        if self._since is not None and not self._told and now - self._since[0] >= TELL_S:
            self._told = True
            await self._journal.add("uncertified", round=log.round, rounds=log.uncertified, since=self._since[1])
