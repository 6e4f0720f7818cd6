"""Members that come and go in mid-round pause before they are rostered again: for 1, 2, 4 … rounds.

The third drop within `WINDOW` rounds benches a member, and from then on every further one, each time for twice as
long; `WINDOW` rounds without a drop clear it.

Pure: counts rounds, no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

DROPS = 3
"""So many drops within the window bench a member."""
WINDOW = 10
"""Rounds."""
MOST_ROUNDS = 16
"""Longest time on the bench."""


@dataclass(kw_only=True)
class Record:
    """One account's drops. Written only by `Backoff`."""

    drops: list[int] = field(default_factory=list)
    """Rounds in which it was dropped, since it was cleared last."""
    benchings: int = 0
    """How often it was benched since then."""
    until: int = 0
    """The first round in which it may be rostered again."""


class Backoff:
    """Who was dropped in which rounds, and who is benched."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def dropped(self, account: str, round: int) -> int | None:
        """A member was dropped in this round; returns from which round on it may be rostered, if it is benched now."""
        record = self._records.setdefault(account, Record())
        if record.drops and round >= max(record.drops[-1], record.until) + WINDOW:
            record = self._records[account] = Record()
        if round in record.drops:
            return None
        record.drops.append(round)
        if not record.benchings and sum(drop > round - WINDOW for drop in record.drops) < DROPS:
            return None
        record.until = round + 1 + min(2**record.benchings, MOST_ROUNDS)
        record.benchings = min(record.benchings + 1, MOST_ROUNDS)
        return record.until

    def fit(self, ready: Sequence[str], *, round: int, wanted: int) -> list[str]:
        """Those who may be rostered in this round; the benched only where fewer than `wanted` others are ready."""
        until = {account: self._until(account) for account in ready}
        fit = [account for account in ready if until[account] <= round]
        benched = sorted((account for account in ready if until[account] > round), key=lambda account: until[account])
        return [*fit, *benched[: max(0, wanted - len(fit))]]

    def _until(self, account: str) -> int:
        return self._records[account].until if account in self._records else 0
