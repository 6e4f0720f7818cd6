"""Where the time went: how long rounds last, and the parts between the last receipt of one and the next.

Pure: besides reading the monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ledger.entries import Entry, Open, Settle, StageOpen, StageSettle


class RoundTimes:
    """How long rounds last: from when one is first seen to be opened until it is first seen to be settled."""

    def __init__(self) -> None:
        """Nothing seen."""
        self._opened_at: dict[int, float] = {}
        self._lasted_s: dict[int, float] = {}

    def see(self, entries: Sequence[Entry]) -> None:
        """These are in the log now, or in its tail."""
        now = time.monotonic()
        for entry in entries:
            if isinstance(entry, Open | StageOpen):
                self._opened_at.setdefault(entry.round, now)
            elif isinstance(entry, Settle | StageSettle):
                self._lasted_s.setdefault(entry.round, now - self._opened_at.get(entry.round, now))

    def take(self, round_number: int) -> float:
        """How many seconds a round lasted, which is asked once; 0 if we did not see it."""
        self._opened_at.pop(round_number, None)
        return self._lasted_s.pop(round_number, 0.0)

    def forget(self) -> None:
        """What was seen does not count."""
        self._opened_at.clear()
        self._lasted_s.clear()


class Stopwatch:
    """Marks and durations of one round, in seconds; `lap` gives them out and starts again."""

    def __init__(self) -> None:
        """Nothing marked."""
        self._marks: dict[str, float] = {}
        self._parts: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Something happened now."""
        self._marks[name] = time.monotonic()

    def note(self, parts: Mapping[str, float]) -> None:
        """Durations that were measured elsewhere."""
        self._parts.update(parts)

    def lap(self) -> dict[str, object]:
        """The parts of the round that ends; nothing where no update was applied in it."""
        marks, parts = self._marks, self._parts
        self._marks, self._parts = {}, {}
        if "cut" not in marks:
            return {}
        for name, first, last in (
            ("fetch_and_decode", "last_receipt", "checked"),
            ("apply", "cut", "applied"),
            ("append", "appending", "signed"),
        ):
            if first in marks and last in marks:
                parts[name] = marks[last] - marks[first]
        return {name: round(seconds, 4) for name, seconds in parts.items()}
