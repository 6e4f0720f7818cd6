"""What came of a pass, or of a look at held-out samples.

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What came of a pass."""

    kind: str
    """done · stale, busy or missing: as the worker says."""
    data: bytes = b""
    service_s: float = 0.0
    """How long this one took, …"""
    waited_s: float = 0.0
    """… how long it waited before, …"""
    queue_s: float = 0.0
    """… and how much was waiting when it was done."""
    wait_s: float = 0.0
    """busy: after so long it may go better."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of a look at held-out samples."""

    data: bytes
    loss: int = 0
    """The last stage's: micro-nats a token, over so many `tokens`."""
    tokens: int = 0
