"""A volunteer's pause: for how long, until when; and how durations are written.

Pure: text and numbers in, values out; times are seconds since 1970, so that a pause outlives restarts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from peer.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
EXAMPLES = "examples: 30m, 2h, 1h30m, 1d"
MOST_S = 366 * 86_400
_PART = r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])"
_is_duration = re.compile(f"(?:{_PART})+").fullmatch


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 30m, 2h, 1h30m or 1d.

    Raises:
        ConfigError: it is none, or not more than 0 and at most a year.
    """
    written = text.strip().lower()
    if not _is_duration(written):
        raise ConfigError(f"duration {text!r}: not numbers with units s, m, h, d or w", EXAMPLES)
    seconds = sum(float(count) * UNITS[unit] for count, unit in re.findall(_PART, written))
    if not 0 < seconds <= MOST_S:
        raise ConfigError(f"duration {text!r}: wanted more than 0 and at most a year", EXAMPLES)
    return seconds


@dataclass(frozen=True, kw_only=True)
class Absence:
    """The volunteer needs the machine itself."""

    since: float
    until: float | None
    """When it ends by itself; None: only when the volunteer resumes."""

    def left_s(self, now: float) -> float | None:
        """Seconds until it ends by itself, at least 0; None if it does not."""
        return None if self.until is None else max(0.0, self.until - now)

    def over(self, now: float) -> bool:
        """Whether it has ended by itself."""
        return self.until is not None and now >= self.until

    def encode(self) -> bytes:
        """The content of its file."""
        return json.dumps({"since": self.since, "until": self.until}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Absence:
        """What `encode` gave.

        Raises:
            ConfigError: it is something else.
        """
        try:
            value = json.loads(data)
            since, until = value["since"], value["until"]
            if set(value) != {"since", "until"}:
                raise ValueError(f"keys {sorted(value)}")
            return cls(since=float(since), until=None if until is None else float(until))
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise ConfigError(f"not a pause: {type(exc).__name__} {exc}") from exc
