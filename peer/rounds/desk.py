"""The receipts of one open round: being decoded, sound, or refused; and what they tell about the time a round needs.

Pure: time is an argument; nothing changes when a method raises.
"""

from __future__ import annotations

from collections.abc import Container
from math import ceil

from ledger.entries import Receipt
from peer.errors import RoundError
from peer.rounds.log import OpenRound
from peer.rounds.messages import Checked, Report
from peer.rounds.pace import Pace
from peer.rounds.roster import Roll
from peer.rounds.speed import Speeds

ENOUGH = 3
"""A round is cut once one in so many of its seats has delivered; the others may then take half as long again."""
LAST = 10
"""One in so many of its seats does not hold up a large roster longer than that, however much members strayed lately."""
PATIENCE = 3
"""After so many deadlines a round is cut even with fewer receipts than min_members, or with updates still coming in."""

QUICKER = 2.0
"""Nobody is believed to be so many times quicker, by its own word, than it was thought to be before."""


class Desk:
    """Where receipts arrive. Written only by the leader's machine."""

    def __init__(
        self, *, opened_at: float, open_round: OpenRound | None, roll: Roll, pace: Pace, speeds: Speeds, timed: bool,
        overlap: bool = False,
    ) -> None:  # fmt: skip
        """An empty desk.

        Args:
            opened_at: when the round was opened, or when we took it over.
            open_round: the round, if one is open.
            roll: who lives and holds which state.
            pace: what earlier rounds taught; learns from this one, whose own deadline stays what it was at its opening.
            speeds: how fast the members are; learns from this round, too.
            timed: whether we saw it open, so that deliveries tell how long members need.
            overlap: whether members may begin before it is open; then they say themselves how long they needed.
        """
        self.opened_at = opened_at
        self.checking: dict[str, Receipt] = {}
        """By account: accepted, its update not yet decoded."""
        self.delivered: dict[str, Receipt] = {}
        """By account: decoded and sound."""
        self.norms: dict[str, int] = {}
        """By account: the norm of its sound update, where our worker told it."""
        self._open = open_round
        roster = open_round.roster if open_round is not None else ()
        self._roll = roll
        self._pace = pace
        self._speeds = speeds
        self._planned_s = speeds.round_s(roster)
        self._deadline_s = pace.deadline_s(self._planned_s, len(roster))
        self._seats = len(roster)
        self._expected = {seat.account: speeds.expected_s(seat) for seat in roster}
        self._timed = timed
        self._overlap = overlap
        self._took: dict[str, float] = {}
        self._refused: dict[str, tuple[Receipt, tuple[str, str]]] = {}
        self._arrived: dict[str, tuple[float, float]] = {}
        """By account: when it began to train and when its receipt came, in seconds after the opening."""
        self._enough_s: float | None = None
        if timed:
            speeds.opened(opened_at)

    @property
    def accounts(self) -> frozenset[str]:
        """Accounts whose receipt is here and not refused."""
        return frozenset(self.delivered) | frozenset(self.checking)

    @property
    def receipts(self) -> list[Receipt]:
        """Those that are here and not refused."""
        return [*self.delivered.values(), *self.checking.values()]

    @property
    def sound(self) -> list[Receipt]:
        """Those that were decoded, in roster order."""
        roster = self._open.roster if self._open is not None else ()
        return [self.delivered[seat.account] for seat in roster if seat.account in self.delivered]

    def refused(self, account: str) -> bool:
        """Whether the update of this account was refused: it cannot send another in this round."""
        return account in self._refused

    def has(self, receipt: Receipt) -> bool:
        """Whether this very receipt is here, sent again after a lost answer.

        Raises:
            RoundError: FP-414 a different one is here; or the code with which the update of this one was refused.
        """
        account = receipt.account
        old, refusal = self._refused.get(account, (self.delivered.get(account) or self.checking.get(account), None))
        if old is None or old.round != receipt.round:
            return False
        if old != receipt:
            raise RoundError(
                "FP-414",
                f"receipt of {account[:16]}: a different one for round {old.round} is already here",
                evidence=(old.encode(), receipt.encode()),
            )
        if refusal is not None:
            code, reason = refusal
            raise RoundError(code, f"receipt of {account[:16]}: its update was refused: {reason}")
        return True

    def take(self, receipt: Receipt, now: float, took_s: float = 0.0) -> None:
        """A receipt arrived that may count, once its update is decoded.

        Args:
            receipt: the receipt.
            now: the time.
            took_s: how long the training took, as the member says; 0 if it does not.
        """
        self.checking[receipt.account] = receipt
        self._roll.holds(receipt.account, receipt.state_in)
        self._took[receipt.account] = min(took_s, self._pace.first_s)
        arrived_s = now - self.opened_at
        self._arrived[receipt.account] = (min(self._started_s(receipt.account, now), arrived_s), arrived_s)

    def _started_s(self, account: str, now: float) -> float:
        """How long after the opening it held the state, as far as is known now; with overlap nobody waits for it."""
        if self._overlap:
            return 0.0
        since = self._roll.since(account, self._open.state) if self._open is not None else None
        return max(0.0, (now if since is None else since) - self.opened_at)

    def judge(self, message: Checked, now: float) -> Receipt | None:
        """The update was decoded, or not; returns its receipt, or None if it is not (or no longer) awaited.

        An update that is unsound stays refused; one that could not be fetched may be sent again.
        """
        receipt = self.checking.get(message.account)
        if receipt is None or receipt.update != message.update:
            return None
        del self.checking[message.account]
        if message.refusal is None:
            self.delivered[message.account] = receipt
            if message.norm is not None:
                self.norms[message.account] = message.norm
            needed_s = now - self.opened_at
            if self._enough_s is None and len(self.delivered) >= ceil(self._seats / ENOUGH):
                self._enough_s = needed_s
            if self._timed:
                self._learn(receipt, needed_s)
        elif message.unsound:
            self._refused[message.account] = (receipt, message.refusal)
        return receipt

    def _learn(self, receipt: Receipt, needed_s: float) -> None:
        if self._overlap:
            return self._learn_its_word(receipt, needed_s)
        expected_s = self._expected.get(receipt.account)
        if expected_s is not None:
            self._pace.saw(needed_s, expected_s)
        started_s, arrived_s = self._arrived[receipt.account]
        overhead_s = started_s + needed_s - arrived_s
        self._speeds.delivered(receipt.account, receipt.slots.count, needed_s, overhead_s)

    def _learn_its_word(self, receipt: Receipt, needed_s: float) -> None:
        """It began before the opening, or waited for it: what it says itself counts, within limits."""
        expected_s, took_s = self._expected.get(receipt.account), self._took[receipt.account]
        if took_s == 0.0:
            return
        if expected_s is not None:
            self._pace.saw(max(needed_s, took_s), expected_s)
        slots = receipt.slots.count
        least_s = self._speeds.time_s(receipt.account, slots) / QUICKER
        self._speeds.delivered(receipt.account, slots, max(took_s, least_s))

    def late(self, working: Container[str], now: float) -> list[Report]:
        """The round is cut: whoever still works was too slow, and gets a smaller quota."""
        self._speeds.cut(now)
        if self._open is None or not self._timed:
            return []
        reports, gone = [], self.delivered.keys() | self._refused.keys()
        for seat in self._open.roster:
            if seat.account in working and seat.account not in gone:
                self._speeds.late(seat, now - self.opened_at, self._started_s(seat.account, now))
                fields: dict[str, object] = {"account": seat.account, "round": self._open.round, "quota": seat.quota}
                reports.append(Report(event="late", fields=fields))
        return reports

    @property
    def due_at(self) -> float:
        """From then on the round may be cut: by what members needed in earlier rounds, and the quickest in this one.

        When all are later than expected, then what was expected is wrong: until enough have delivered nobody is late.
        """
        if self._enough_s is None and self.delivered:
            return self.hopeless_at
        return self.opened_at + max(self._patience_s, self._pace.allow(self._enough_s or 0.0))

    @property
    def _patience_s(self) -> float:
        """The deadline that earlier rounds taught; with only the last few missing, no more than half as long again."""
        few = (self._seats - len(self.delivered)) * LAST <= self._seats
        return min(self._deadline_s, self._pace.allow(self._planned_s)) if few and self._planned_s else self._deadline_s

    @property
    def hopeless_at(self) -> float:
        """From then on it is cut even with too few receipts; never while members may still use up their time budget."""
        patience_s = PATIENCE * max(self._deadline_s, self._pace.allow(self._enough_s or 0.0))
        return self.opened_at + max(patience_s, self._pace.first_s * (1 if self.delivered else PATIENCE))


def verdict(receipt: Receipt, message: Checked) -> Report:
    """What a person is told of a receipt whose update was decoded."""
    fields: dict[str, object] = {"account": receipt.account, "round": receipt.round}
    if message.refusal is not None:
        code, reason = message.refusal
        return Report(event="refused", fields={**fields, "code": code, "reason": reason})
    return Report(event="receipt", fields={**fields, "loss": receipt.loss / 1e6, "tokens": receipt.tokens})
