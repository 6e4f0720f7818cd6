"""When a round is cut although not everybody delivered: what its quotas should take × (median + k·MAD of late).

Members' times are learnt relative to what each one's quota should have taken, so that rounds with large and small
quotas, quick and slow members teach the same thing: how far a delivery strays from what was expected.

Pure: numbers in, numbers out; times are seconds on the caller's clock.
"""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 32
MOST_SPREAD = 1.0
"""However far members stray, the few who are last are not waited for more than so many times what was expected."""


class Pace:
    """How much longer or shorter than expected members needed lately."""

    def __init__(self, *, first_s: float, deviations: float = 6.0, slack: float = 0.5, least_s: float = 3.0) -> None:
        """Start without knowledge.

        Args:
            first_s: the deadline while nobody's speed is known.
            deviations: k of median + k·MAD.
            slack: share of the median that is always allowed on top.
            least_s: shortest deadline.
        """
        self.first_s = first_s
        self._deviations = deviations
        self._slack = slack
        self._least_s = least_s
        self._shares: deque[float] = deque(maxlen=WINDOW)

    def saw(self, needed_s: float, expected_s: float) -> None:
        """A member delivered `needed_s` after the round was opened, where `expected_s` were expected."""
        self._shares.append(needed_s / expected_s)

    def allow(self, needed_s: float) -> float:
        """How long others may take when one needed so long."""
        return needed_s * (1 + self._slack)

    def deadline_s(self, expected_s: float | None, members: int = 1) -> float:
        """How long after its opening a round that should take `expected_s` (None: nobody knows) is not cut.

        With many `members` a longer past is looked at: the last deliveries of one round are those of its slowest.
        """
        self._shares = deque(self._shares, maxlen=max(WINDOW, 2 * members))
        if expected_s is None:
            return self.first_s
        middle = median(self._shares) if self._shares else 1.0
        spread = median(abs(share - middle) for share in self._shares) if self._shares else 0.0
        return max(self._least_s, expected_s * (self.allow(middle) + min(self._deviations * spread, MOST_SPREAD)))
