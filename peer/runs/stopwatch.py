"""Where the time between the last receipt of a round and the next round went.

Pure: besides reading the monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping


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
