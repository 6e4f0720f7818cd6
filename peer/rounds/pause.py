"""Pauses between attempts of something that keeps breaking: 1, 2, 4 … seconds.

Pure: time is an argument.
"""

from __future__ import annotations

RETRY_S = 1.0
MAX_RETRY_S = 15.0


class Pause:
    """When the next attempt is due."""

    def __init__(self) -> None:
        self.until = 0.0
        """Time of the next attempt; 0 when there is nothing to wait for."""
        self._failures = 0

    def over(self, now: float) -> bool:
        """Whether the next attempt may be made now."""
        return now >= self.until

    def failed(self, now: float) -> None:
        """The attempt broke: wait, longer each time."""
        self.until = now + min(RETRY_S * 2**self._failures, MAX_RETRY_S)
        self._failures = min(self._failures + 1, 10)

    def rest(self, until: float) -> None:
        """It worked, and is due again at `until` (0: at once)."""
        self.until, self._failures = until, 0
