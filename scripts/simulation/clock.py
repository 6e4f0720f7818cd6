"""A virtual clock: actions in the order of their times.

Pure: no time but its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Clock:
    """Carries out actions in the order of their virtual times."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Action]] = []

    def at(self, time: float, action: Action) -> None:
        """Carry out `action` at `time`."""
        self.events += 1
        heapq.heappush(self._heap, (max(time, self.now), self.events, action))

    def run(self, until: float, done: Callable[[], bool]) -> None:
        """Let time pass until `done`, or until the clock says `until`."""
        while self._heap and not done():
            time, _, action = heapq.heappop(self._heap)
            if time > until:
                self.now = until
                return
            self.now = time
            action()
