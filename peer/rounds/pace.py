"""When a round is cut although not everybody delivered: median + k·MAD of what members needed lately.

Pure: numbers in, numbers out; times are seconds on the caller's clock.
"""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 32


class Pace:
    """How long a member needs for a round, learnt from the deliveries seen."""

    def __init__(self, *, first_s: float, deviations: float = 6.0, slack: float = 0.5, least_s: float = 3.0) -> None:
        """Start without knowledge.

        Args:
            first_s: the deadline while nothing was measured.
            deviations: k of median + k·MAD.
            slack: share of the median that is always allowed on top.
            least_s: shortest deadline.
        """
        self.first_s = first_s
        self._deviations = deviations
        self._slack = slack
        self._least_s = least_s
        self._needed: deque[float] = deque(maxlen=WINDOW)

    def saw(self, needed_s: float) -> None:
        """A member delivered `needed_s` after the round was opened."""
        self._needed.append(needed_s)

    def allow(self, needed_s: float) -> float:
        """How long others may take when one needed so long."""
        return needed_s * (1 + self._slack)

    @property
    def deadline_s(self) -> float:
        """How long after its opening a round may be cut without the members that still work."""
        if not self._needed:
            return self.first_s
        middle = median(self._needed)
        spread = median(abs(needed - middle) for needed in self._needed)
        return max(self._least_s, self.allow(middle) + self._deviations * spread)
