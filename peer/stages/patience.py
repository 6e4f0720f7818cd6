"""How long a holder of experts is waited for: several times what the longest call of late took.

Pure: no time.
"""

from __future__ import annotations

from peer.stages.routing import LEAST_TIMEOUT_S, TIMES

FIRST_S = 30.0
"""While nothing is known."""
FORGETS = 0.99
"""With each call the longest one counts for so much of what it did."""


class Patience:
    """One driver's, with all holders. Outlives rounds."""

    def __init__(self) -> None:
        self._longest_s = FIRST_S / TIMES

    @property
    def timeout_s(self) -> float:
        """After so long a call has failed."""
        return max(LEAST_TIMEOUT_S, TIMES * self._longest_s)

    def took(self, seconds: float) -> None:
        """A call was answered after so long."""
        self._longest_s = max(seconds, FORGETS * self._longest_s)
