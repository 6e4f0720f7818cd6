"""How many microbatches a driver has under way: so many that its replicas are busy, and no more that only wait.

A microbatch that waited for longer than it was worked on says that there are too many; one that waited less, that there
could be more. At our own worker a short queue will do, as nobody else fills it; other replicas need a longer one, as
drivers know little of each other. How long things were on their way does not matter: a far replica needs many to be busy.

Pure: no time.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 8
"""Under way before anything is known."""
LEAST = 2


@dataclass(kw_only=True)
class Waits:
    """Of one microbatch at some replicas. Written only by the driver."""

    waited_s: float = 0.0
    """How long it waited there, …"""
    worked_s: float = 0.0
    """… and how long they worked on it."""

    def took(self, waited_s: float, worked_s: float) -> None:
        """Another pass."""
        self.waited_s += max(waited_s, 0.0)
        self.worked_s += max(worked_s, 0.0)


OWN, OTHERS = (1.5, 3.0), (2.0, 4.0)
"""Of the time that it is worked on a microbatch may wait so much: below the first there are more, above the other less."""


class Window:
    """One driver's. Written only by it."""

    def __init__(self, most: int) -> None:
        """At most so many."""
        self.size = min(FIRST, most)
        self._most = most

    def saw(self, own: Waits, others: Waits) -> None:
        """A microbatch is through: how long it waited at our own worker, and elsewhere."""
        pairs = ((own, OWN), (others, OTHERS))
        if any(waits.waited_s > high * waits.worked_s for waits, (_, high) in pairs):
            self.size = max(self.size - 1, min(LEAST, self._most))
        elif all(waits.waited_s <= low * waits.worked_s for waits, (low, _) in pairs):
            self.size = min(self.size + 1, self._most)
