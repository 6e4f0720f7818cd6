"""How a run's leader treats us: whether receipts that it took are settled, and whether we get a seat when we are ready.

An honest leader may leave a receipt out (its update was unsound, or the round was cut while it was decoded), so it is
asked first; and members that came and went, or are very slow, pause for some rounds. Only what goes on for longer than
any of that says that we are not wanted here.

Pure: reads the run's log.
"""

from __future__ import annotations

from ledger.entries import Receipt
from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import Report

UNSEATED_ROUNDS = 20
"""Longer than a member is ever benched for."""
OMITTED_ROUNDS = 3
"""So many rounds one after the other, for no reason."""
OMITTED, NOT_ROSTERED = "FP-435", "FP-436"


class Treatment:
    """One member's seats and receipts in one run. Written only by the member role."""

    def __init__(self, account: str, most_members: int) -> None:
        """We are `account`; a round has `most_members` seats."""
        self._account = account
        self._most_members = most_members
        self._taken: dict[int, tuple[Receipt, str]] = {}
        """By round: what was taken, by whom, in rounds whose settlement is not certified yet."""
        self._looked = -1
        self.unseated = 0
        """Rounds opened one after the other without a seat for us, though we were ready."""
        self.omitted = 0
        """Rounds settled one after the other without our receipt, which the leader had taken and gave no reason for."""
        self.unsettled = 0
        """The same, whatever the reason."""

    @property
    def neglected(self) -> bool:
        """Whether our work is of no use here."""
        return max(self.unseated, self.unsettled) >= UNSEATED_ROUNDS or self.omitted >= OMITTED_ROUNDS

    def taken(self, receipt: Receipt, leader: str) -> None:
        """This leader took our receipt."""
        if leader != self._account:
            self._taken[receipt.round] = receipt, leader

    def left_out(self, log: RunLog) -> list[tuple[Receipt, str]]:
        """Receipts that were taken but not settled, and the leaders that took them; each is returned once."""
        found = []
        for number in sorted(number for number in self._taken if number <= log.certified_round):
            ours, leader = self._taken.pop(number)
            done = log.settled[number - 1]
            if any(receipt.account == self._account for receipt in done.receipts):
                self.omitted = self.unsettled = 0
            elif done.state_in == ours.state_in:  # else that round was dropped, and is another one now
                found.append((ours, leader))
        return found

    def explained(self, round_number: int, leader: str, refusal: tuple[str, str] | None) -> Report:
        """The leader was asked why; `refusal` is (code, reason) where it gave one."""
        self.omitted = 0 if refusal is not None else self.omitted + 1
        self.unsettled += 1
        code, why = refusal or (OMITTED, "no reason given")
        reason = f"our receipt was taken and not settled: {why}"
        fields: dict[str, object] = {"account": leader, "round": round_number, "code": code, "reason": reason}
        return Report(event="omitted", fields=fields)

    def look(self, log: RunLog, held: str, leader: str) -> list[Report]:
        """Look at the open round, each once; `held` is the state that we hold."""
        opened = log.open
        if opened is None or opened.index <= self._looked or leader == self._account:
            return []
        self._looked = opened.index
        if opened.seat(self._account) is not None:
            self.unseated = 0
            return []
        before = log.settled[-1].state_in if log.settled else opened.state
        self.unseated = self.unseated + 1 if held in (opened.state, before) and held else 0
        return [self._not_rostered(opened, leader)] if self.unseated == UNSEATED_ROUNDS else []

    def _not_rostered(self, opened: OpenRound, leader: str) -> Report:
        seats = len(opened.roster)
        full = f"all {seats} seats are taken" if seats >= self._most_members else f"{seats} others have one"
        reason = f"ready for {self.unseated} rounds without a seat; {full}"
        fields: dict[str, object] = {"account": leader, "round": opened.round, "code": NOT_ROSTERED, "reason": reason}
        return Report(event="not_rostered", fields=fields)
