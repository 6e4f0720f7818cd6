"""Lines as fluids: what arrives together shares them, and nothing is lost or resent.

`Pipe` serves in order of arrival, which ends when sharing fairly would end. A swarm, in which everybody fetches the
same bytes from everybody, is bound by each peer's download and by all uploads together (Kumar, Ross: peer-assisted file
distribution, the minimum distribution time, 2006).

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


class Pipe:
    """One line, or one processor whose bytes are seconds."""

    def __init__(self, rate: float) -> None:
        """An empty pipe of so many bytes a second."""
        self.rate = rate
        self.free_at = 0.0
        """When what it was given so far is through."""

    def take(self, now: float, amount: float) -> float:
        """Give it so many bytes; returns when they are through."""
        self.free_at = max(self.free_at, now) + amount / self.rate
        return self.free_at


def fair_rate(capacity: float, wanted: Sequence[float]) -> float:
    """The most that anybody gets when a capacity is shared and nobody gets more than it can take."""
    left, rate = capacity, 0.0
    ordered = sorted(wanted)
    for place, most in enumerate(ordered):
        rate = left / (len(ordered) - place)
        if rate <= most:
            return rate
        left -= most
    return max(ordered[-1], rate) if ordered else capacity


def drained(arrivals: Times, each: float, rate: float, since: float) -> float:
    """When blobs of `each` bytes that appear at `arrivals` (ascending) are fetched by one who begins at `since`."""
    if not arrivals.size:
        return since
    left = np.arange(arrivals.size, 0, -1, dtype=np.float64) * (each / rate)
    return float(np.max(np.maximum(arrivals, since) + left))
