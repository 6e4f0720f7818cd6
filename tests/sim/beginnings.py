"""Where the members' trainings really began, compared with what the log tells of it.

Pure: reads the certified log.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.entries import Entry
from peer.rounds.ahead import basis
from peer.rounds.log import RunLog
from peer.rounds.plan import Plan


class Beginnings:
    """What an observer who sees everything knows of them."""

    def __init__(self, plan: Plan) -> None:
        self.began: dict[str, tuple[str, str]] = {}
        """By update: the state that its training began from, and the own update that moved it, if one did."""
        self._plan = plan
        self._seen = RunLog()

    def certified(self, entries: Sequence[Entry]) -> None:
        """Whether work was done ahead, and from where, follows from the log alone."""
        before = self._seen.round
        self._seen.extend(entries)
        for number in range(before, self._seen.round):
            done = self._seen.settled[number]
            for receipt in done.receipts:
                ahead = None
                if self._plan.overlap and number:
                    ahead = basis(self._seen.settled[number - 1], done.roster, receipt.account, self._plan.quota)
                wanted = (ahead.state, ahead.update) if ahead is not None else (done.state_in, "")
                assert self.began[receipt.update] == wanted, f"round {done.round}: trained from elsewhere"
