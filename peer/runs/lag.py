"""How long a member stood behind its run's log, and how it caught up: told in the journal once it has.

IO: the run's journal.
"""

from __future__ import annotations

import time

from peer.runs.run import Run


class Lag:
    """Since when we lack rounds that are settled. Written only by the member role."""

    def __init__(self, run: Run) -> None:
        """We stand where the log stands."""
        self._run = run
        self._since: tuple[int, float] | None = None
        """(round that we hold, time)."""
        self._by = "replay"

    def fell(self, round_number: int, *, empty: bool) -> None:
        """We hold the state after this round, or none if `empty`."""
        if self._since is None and (self._run.log.round > round_number or empty):
            self._since = (round_number, time.monotonic())

    def loaded(self) -> None:
        """A snapshot was loaded; rounds may be replayed after it."""
        self._by = "snapshot"

    async def reached(self, round_number: int) -> None:
        """Tell the journal if we stand where the log stands now, and had been behind."""
        if self._since is None or round_number < self._run.log.round:
            return
        (first, since), self._since = self._since, None
        by, self._by = self._by, "replay"
        seconds = round(time.monotonic() - since, 3)
        await self._run.journal.add("caught_up", round=round_number, first=first, by=by, seconds=seconds)
