"""What the check of one log is given, and what it gives: parts as it goes on, and how it ended.

Pure: no IO.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from ledger.fold.effects import Effect

from .report import Fault


@dataclass(frozen=True, kw_only=True)
class Task:
    """One log to check."""

    number: int
    """Its place in the report."""
    origin: str
    """Its origin."""
    row: int
    """Its row id."""
    entries: int
    """How many are stored."""
    certified: int
    """Entries below this count; 0 for none."""
    root: str
    """The certified root at that size, in hex; empty for none."""
    since: str = ""
    """A certificate of this log from an earlier verification, as text; empty for none. Its quorum was checked."""
    asked: "array[int]" = field(default_factory=lambda: array("q"))
    """Sizes, ascending, whose roots recvs name, one for each recv."""


@dataclass(kw_only=True)
class Part:
    """What some rows of a log gave."""

    number: int
    """The task's."""
    rows: int
    """How many were read."""
    size: int
    """Entries that count so far."""
    effects: Iterable[Effect] = ()
    """What those of them do that were not told before."""
    roots: list[tuple[int, bytes]] = field(default_factory=list)
    """Asked sizes up to `size` with their roots, where not told before."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How the check of a log ended."""

    number: int
    """The task's."""
    entries: int
    """How many are stored."""
    sound: int
    """How many passed, from the first on."""
    receipts: int
    """How many of those are receipts."""
    earlier: int
    """How many of those rest on an earlier verification: their signatures were not checked again."""
    certificate: str
    """The newest certificate as text, if it is good."""
    disproved: bool
    """Whether what was taken to be certified is not, and no entry counts."""
    fault: Fault | None
    """The first fault."""
