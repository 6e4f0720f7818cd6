"""Overlap: members train their next round while this one is being settled; where it starts follows from the log alone.

A member that delivered in round r expects to be in round r + 1 as well: on the slots that follow its own by the whole
width of the round. So it goes on at once, from the state before round r moved by its own update. If its receipt of r
counts and its seat in r + 1 begins where it expected, that **is** its work of r + 1, however late it was begun, and
whoever has the log and the blobs can tell where it started (`basis`). Else it starts from the state of r + 1.

Seats are `width` slots apart, the most that a seat may have, so a quota may change without moving anybody's start.

Pure: no time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peer.rounds.log import RunLog, Seat, SettledRound
from peer.rounds.messages import Basis, Finish, MemberEffect, ThrowAway, Train, TrainAhead, TrainedAhead
from peer.rounds.plan import Plan

STEADY = 1.15
"""A quota stays what it was unless it would change by more than this factor: one that shrinks costs work ahead."""


def expected_start(roster: Sequence[Seat], account: str, width: int) -> int | None:
    """Where a member of this round should start in the next one; None if it is not in this one."""
    start = next((seat.start for seat in roster if seat.account == account), None)
    if start is None:
        return None
    starts = [seat.start for seat in roster]
    return start + max(starts) + width - min(starts)


def basis(before: SettledRound, roster: Sequence[Seat], account: str, width: int) -> Basis | None:
    """What a member's work in the round after `before`, with this roster, starts from; None: from the round's state."""
    seat = next((seat for seat in roster if seat.account == account), None)
    own = next((receipt for receipt in before.receipts if receipt.account == account), None)
    if seat is None or own is None or seat.start != expected_start(before.roster, account, width):
        return None
    return Basis(round=before.round + 1, state=before.state_in, update=own.update, start=seat.start)


def places(before: Sequence[Seat], accounts: Sequence[str], *, width: int, slot: int) -> dict[str, int]:
    """First slots for a roster: those of the round before where they are expected, the others in what is free.

    Args:
        before: seats of the round before; empty before the first.
        accounts: the roster.
        width: slots between two starts.
        slot: first slot that was never given out.
    """
    first = slot
    if before:
        starts = [seat.start for seat in before]
        first = max(max(starts) + width, slot)
    found: dict[str, int] = {}
    for account in accounts:
        start = expected_start(before, account, width)
        if start is not None and start >= first and all(abs(start - other) >= width for other in found.values()):
            found[account] = start
    taken, place = sorted(found.values()), first
    for account in accounts:
        if account in found:
            continue
        while any(abs(place - other) < width for other in taken):
            place += width
        found[account] = place
        place += width
    return found


def steady(quotas: Mapping[str, int], before: Sequence[Seat]) -> dict[str, int]:
    """These quotas, small changes left out."""
    had = {seat.account: seat.quota for seat in before}
    return {
        account: old if max(quota, old := had.get(account, 0)) <= STEADY * min(quota, old) else quota
        for account, quota in quotas.items()
    }


class Ahead:
    """One member's work ahead. Written only by its machine."""

    def __init__(self, *, account: str, plan: Plan) -> None:
        """Nothing is trained ahead before the first delivery."""
        self._account, self._width, self._rounds = account, plan.quota, plan.rounds
        self._next: TrainAhead | None = None
        self._done: tuple[TrainAhead, int] | None = None
        """What was trained and waits for its round, and how many slots of it were used."""

    def delivered(self, done: Train | Finish, update: str) -> None:
        """Our receipt of a round is on its way: from now on the next one may be trained."""
        opened = done.open
        start, seat = expected_start(opened.roster, self._account, self._width), opened.seat(self._account)
        if start is None or seat is None or opened.round >= self._rounds:
            return
        expected = Basis(round=opened.round + 1, state=opened.state, update=update, start=start)
        self._next = TrainAhead(basis=expected, quota=seat.quota)

    def trained(self, effect: TrainAhead, message: TrainedAhead) -> None:
        """The training ended; without a slot it is as if it had never been."""
        self._next = None
        self._done = (effect, message.slots) if message.slots else None

    def forget(self) -> None:
        """The worker lost it."""
        self._done = None

    def idle(self, log: RunLog) -> TrainAhead | None:
        """What to train while nothing else is to be done."""
        ready = self._next is not None and self._done is None and not self.lost(self._next, log)
        return self._next if ready else None

    def work(self, log: RunLog) -> Train | TrainAhead | Finish | None:
        """What to do for the open round, whose state we hold; None if we have no seat in it."""
        seat = log.open.seat(self._account) if log.open is not None else None
        if log.open is None or seat is None:
            return None
        wanted = self._wanted(log)
        if wanted is None:
            return Train(open=log.open, start=seat.start, quota=seat.quota)
        if self._done is not None and self._done[0].basis == wanted:
            return Finish(open=log.open)
        return TrainAhead(basis=wanted, quota=seat.quota)

    def _wanted(self, log: RunLog) -> Basis | None:
        if log.open is None or not log.settled:
            return None
        return basis(log.settled[-1], log.open.roster, self._account, self._width)

    def deliverable(self, log: RunLog) -> bool:
        """Whether what was trained waits for no other round than the open one."""
        return self._done is not None and log.open is not None and log.open.round == self._done[0].basis.round

    def leave(self, log: RunLog) -> list[MemberEffect]:
        """Nothing more is begun: lets go of all but what can be delivered in the open round."""
        self._next = None
        if self._done is None or self.deliverable(log):
            return self.throw_away(log)
        (effect, slots), self._done = self._done, None
        return [ThrowAway(round=effect.basis.round, slots=slots, reason="we pause before its round is open")]

    def throw_away(self, log: RunLog) -> list[MemberEffect]:
        """Lets go of work that cannot count any more."""
        if self._next is not None and self.lost(self._next, log):
            self._next = None
        if self._done is None:
            return []
        effect, slots = self._done
        reason = self.lost(effect, log) or self._too_much(effect, slots, log)
        if not reason:
            return []
        self._done = None
        return [ThrowAway(round=effect.basis.round, slots=slots, reason=reason)]

    def lost(self, effect: TrainAhead, log: RunLog) -> str:
        """Why this training cannot count, as far as the log tells; empty while it may."""
        number = effect.basis.round
        if log.close is not None:
            return "the run is closed"
        if log.round >= number:
            return f"round {number} was settled without it"
        if log.round < number - 1:
            return "" if self._goes_on(log, effect.basis) else f"round {number - 1} is not open as it was any more"
        ours = {receipt.update for receipt in log.settled[-1].receipts if receipt.account == self._account}
        if effect.basis.update not in ours:
            return f"our receipt of round {number - 1} does not count"
        if log.open is not None and self._wanted(log) != effect.basis:
            return f"our seat in round {number} is another one, or none"
        return ""

    def _goes_on(self, log: RunLog, basis: Basis) -> bool:
        """Whether the round before is open as it was when we delivered in it: a log's tail may give way."""
        before = log.open
        if before is None or (before.round, before.state) != (basis.round - 1, basis.state):
            return False
        return expected_start(before.roster, self._account, self._width) == basis.start

    def in_vain(self, effect: TrainAhead, log: RunLog) -> bool:
        """Whether this training shall end now."""
        return bool(self.lost(effect, log)) or self._shorter(effect, log)

    def _shorter(self, effect: TrainAhead, log: RunLog) -> bool:
        """Whether our seat in its round, open by now, has fewer slots than this training was given."""
        seat = log.open.seat(self._account) if log.open is not None and log.open.round == effect.basis.round else None
        return seat is not None and seat.quota < effect.quota

    def _too_much(self, effect: TrainAhead, slots: int, log: RunLog) -> str:
        seat = log.open.seat(self._account) if self._shorter(effect, log) and log.open is not None else None
        return f"{slots} slots, our seat has {seat.quota}" if seat is not None and slots > seat.quota else ""
