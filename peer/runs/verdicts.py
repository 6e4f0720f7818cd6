"""What a leader decided about receipts: refusals told in the journal with their evidence, and remembered for who asks.

IO: the run's journal.
"""

from __future__ import annotations

from collections import Counter

from ledger.entries import Entry, Receipt
from ledger.errors import LedgerError
from peer.errors import ForgeError, RoundError
from peer.runs.run import Run

MOST_REFUSALS = 16
"""So many of one account in one round are told in the journal."""
OVER, CUT = "FP-411", "FP-437"
NO_FAULT = {OVER, "FP-421"}
"""Refusals that say nothing of the sender: its receipt is late or said again, or we are still starting."""


class Verdicts:
    """The refusals of one run. Written only by the leader role."""

    def __init__(self, run: Run) -> None:
        """Nothing was refused yet."""
        self._run = run
        self._told: Counter[tuple[str, int]] = Counter()
        self._refused: dict[tuple[str, int], tuple[str, str]] = {}
        """By account and round: why its update was refused once it was decoded or weighed."""

    async def refuse(self, account: str, exc: ForgeError | LedgerError) -> None:
        """Tell a person; but whoever is refused again and again must not fill the disk."""
        number = self._run.log.round + 1
        if exc.code in NO_FAULT or self._told[account, number] >= MOST_REFUSALS:
            return
        self._told[account, number] += 1
        evidence = exc.evidence if isinstance(exc, RoundError) else ()
        proof = {"receipts": [receipt.decode() for receipt in evidence]} if evidence else {}
        await self._run.journal.add(
            "refused", account=account, round=number, code=exc.code, reason=exc.message, **proof
        )

    async def left(self, account: str, reason: str) -> None:
        """Somebody without a seat goes, or cannot take part; told within the same bounds."""
        number = self._run.log.round + 1
        if self._told[account, number] < MOST_REFUSALS:
            self._told[account, number] += 1
            await self._run.journal.add("left", account=account, reason=reason)

    def note(self, event: str, fields: dict[str, object]) -> None:
        """The machine reports something; refusals of the last rounds are kept."""
        if event not in ("refused", "late"):
            return
        number = self._run.log.round
        self._refused = {key: why for key, why in self._refused.items() if key[1] >= number}
        self._told = Counter({key: count for key, count in self._told.items() if key[1] >= number})
        why = str(fields.get("code", CUT)), str(fields.get("reason", "the round was cut before it was decoded"))
        self._refused[str(fields["account"]), int(str(fields["round"]))] = why

    def late(self, receipt: Entry, exc: RoundError) -> RoundError:
        """What a member is told that delivers a receipt of a round that is over: if it was refused, why.

        A different one than the log has is a contradiction, which the two signatures prove.
        """
        if not isinstance(receipt, Receipt) or exc.code != OVER or receipt.round > self._run.log.round:
            return exc
        place = f"receipt of {receipt.account[:16]}"
        given = next((one for one in self._run.log.settled[receipt.round - 1].receipts
                      if one.account == receipt.account), None)  # fmt: skip
        if given is not None and given != receipt:
            return RoundError(
                "FP-414", f"{place}: round {receipt.round} was settled with a different one",
                evidence=(given.encode(), receipt.encode()),
            )  # fmt: skip
        why = self._refused.get((receipt.account, receipt.round))
        return RoundError(why[0], f"{place}: its update did not count: {why[1]}") if why is not None else exc
