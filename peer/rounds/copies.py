"""Updates that are somebody's already: of this round, by arrival; of earlier rounds, by the log.

An encoding is canonical, so equal updates have equal ids, and two members that train on their own slots never come to
the same one. Members learn of an update only after its maker's receipt was taken, so the first to arrive is the maker.

Pure: reads the run's log; raises `RoundError`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.entries import Receipt
from peer.errors import RoundError
from peer.rounds.log import RunLog

COPIED = "FP-427"


class Copies:
    """Knows whose every update of a run is. Written only by the leader's machine."""

    def __init__(self, log: RunLog) -> None:
        """`log` is the run's, which grows."""
        self._log = log
        self._rounds = 0
        self._makers: dict[str, Receipt] = {}

    def check(self, receipt: Receipt, here: Iterable[Receipt]) -> None:
        """Check that the update is nobody else's and of no earlier round.

        Args:
            receipt: the one that arrives.
            here: those of the open round that arrived before it.

        Raises:
            RoundError: FP-427, with both receipts as evidence.
        """
        for done in self._log.settled[self._rounds :]:
            self._makers.update((given.update, given) for given in done.receipts)
        self._rounds = len(self._log.settled)
        first = next((given for given in here if given.update == receipt.update), self._makers.get(receipt.update))
        if first is not None:
            raise RoundError(
                COPIED,
                f"receipt of {receipt.account[:16]}: its update {receipt.update[:16]} is the one that "
                f"{first.account[:16]} delivered for round {first.round}",
                evidence=(first.encode(), receipt.encode()),
            )
