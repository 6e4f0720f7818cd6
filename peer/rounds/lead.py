"""The leader's round machine: who is on the roster, when a round is cut, and what goes into the run's log.

A round is collecting (members train and deliver), applying (our worker computes the next state), evaluating (last
round only), logging (settle and the next open are being certified) or waiting (too few members). Survivors never wait
for the dead: a rostered member whose heartbeats stop is not expected any more.

Pure: fed `receive(message, now)` and `tick(now)`; `now` is seconds on any monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ledger.entries import Close, Entry, Open, Receipt, Seat, Settle, Validation
from peer.errors import RoundError
from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import (
    Applied,
    ApplyRound,
    Beat,
    Cancel,
    Check,
    Checked,
    Delivered,
    Evaluate,
    Evaluated,
    LeaderEffect,
    LeaderMessage,
    Left,
    Log,
    Logged,
    Report,
)
from peer.rounds.pace import Pace
from peer.rounds.plan import Plan
from peer.rounds.refusals import check_receipt
from peer.rounds.roster import Member, Roll

Effects = list[LeaderEffect]

PATIENCE = 3
"""After so many deadlines a round is cut even with fewer receipts than min_members."""


class Phase(StrEnum):
    """What the leader is doing."""

    WAITING = "waiting"
    COLLECTING = "collecting"
    APPLYING = "applying"
    EVALUATING = "evaluating"
    LOGGING = "logging"
    CLOSED = "closed"


@dataclass(kw_only=True)
class Desk:
    """The receipts of the open round. Written only by the machine that owns it."""

    opened_at: float
    checking: dict[str, Receipt]
    """By account: accepted, its update not yet decoded."""
    delivered: dict[str, Receipt]
    """By account: decoded and sound."""


class LeaderMachine:
    """Leads one run. `log` is shared with the daemon, which extends it before it says `Logged`."""

    def __init__(self, *, plan: Plan, log: RunLog, balance: int, now: float) -> None:
        """Take over the run where its log stands; `balance` is the run account's spendable micro-credits."""
        self.plan = plan
        self.log = log
        self.balance = balance
        self.phase = Phase.CLOSED if log.close else Phase.COLLECTING if log.open else Phase.WAITING
        self.roll = Roll(lost_after_s=plan.lost_after_s)
        self.pace = Pace(first_s=plan.first_deadline_s)
        self._desk = Desk(opened_at=now, checking={}, delivered={})
        self._next_state = ""
        self._validation: Validation | tuple[()] = ()
        self._closing = ""
        self._dropped_at: dict[str, int] = {}
        self._ticked_at = now

    @property
    def delivered(self) -> frozenset[str]:
        """Accounts whose receipt of the open round arrived (decoded or being decoded)."""
        return frozenset(self._desk.delivered) | frozenset(self._desk.checking)

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do at the latest; None while only a message can help."""
        times = [self.roll.deadline]
        if self.phase is Phase.COLLECTING:
            overdue = self._desk.opened_at + self.pace.deadline_s
            times += [overdue, overdue + (PATIENCE - 1) * self.pace.deadline_s]
        known = [time for time in times if time is not None and time > self._ticked_at]
        return min(known) if known else None

    # ------------------------------------------------------------------ input

    def receive(self, message: LeaderMessage, now: float) -> Effects:
        """Take one message.

        Raises:
            RoundError: a receipt that cannot count; nothing changed.
        """
        match message:
            case Beat():
                self.roll.beat(message.account, message.state, now)
            case Left():
                return self._drop(self.roll.leave(message.account), message.reason) + self._advance(now)
            case Delivered():
                return self._take_receipt(message.receipt)
            case Checked():
                return self._checked(message, now) + self._advance(now)
            case Applied():
                return self._applied(message, now)
            case Evaluated():
                return self._evaluated(message, now)
            case Logged():
                return self._logged(message, now) + self._advance(now)
            case Cancel():
                self._closing = self._closing or message.reason
        return self._advance(now)

    def tick(self, now: float) -> Effects:
        """Let time pass: drop the silent, cut an overdue round."""
        self._ticked_at = now
        effects: Effects = []
        for member in self.roll.silent(now):
            effects += self._drop(member, f"no heartbeat for {now - member.beat_at:.1f} s")
        return effects + self._advance(now)

    # ------------------------------------------------------------------ receipts

    def _take_receipt(self, receipt: Receipt) -> Effects:
        if receipt.account in self.delivered:
            known = self._desk.delivered.get(receipt.account) or self._desk.checking[receipt.account]
            if known == receipt:
                return []  # sent again after a lost answer
            raise RoundError(
                "FP-414", f"receipt of {receipt.account[:16]}: a different one for round {known.round} is already here"
            )
        open_round = self.log.open if self.phase is Phase.COLLECTING else None
        check_receipt(receipt, plan=self.plan, open_round=open_round, settled=self.log.round)
        if self.roll.excluded(receipt.account):
            raise RoundError(
                "FP-415",
                f"receipt of {receipt.account[:16]}: excluded from this run after {self.roll.STRIKES} refused updates",
            )
        self._desk.checking[receipt.account] = receipt
        return [Check(receipt=receipt)]

    def _checked(self, message: Checked, now: float) -> Effects:
        receipt = self._desk.checking.get(message.account)
        if receipt is None or receipt.update != message.update:
            return []  # the round was cut meanwhile
        del self._desk.checking[message.account]
        if message.refusal is not None:
            code, reason = message.refusal
            self.roll.strike(message.account)
            return [
                Report(
                    event="refused",
                    fields={"account": message.account, "round": receipt.round, "code": code, "reason": reason},
                )
            ]
        self._desk.delivered[message.account] = receipt
        self.pace.saw(now - self._desk.opened_at)
        fields: dict[str, object] = {
            "account": receipt.account,
            "round": receipt.round,
            "loss": receipt.loss / 1e6,
            "tokens": receipt.tokens,
        }
        return [Report(event="receipt", fields=fields)]

    # ------------------------------------------------------------------ deciding

    def _advance(self, now: float) -> Effects:
        if self.phase is Phase.WAITING:
            return self._open_or_close()
        if self.phase is Phase.COLLECTING and self._complete(now):
            return self._cut()
        return []

    def _complete(self, now: float) -> bool:
        """Whether the open round can be cut now."""
        open_round = self.log.open
        assert open_round is not None
        if self._closing:
            return not self._desk.checking
        expected = [
            seat.account
            for seat in open_round.roster
            if seat.account not in self._desk.delivered and self._expected(seat.account)
        ]
        overdue = now >= self._desk.opened_at + self.pace.deadline_s
        enough = len(self._desk.delivered) >= min(self.plan.min_members, len(open_round.roster))
        if expected:
            hopeless = now >= self._desk.opened_at + PATIENCE * self.pace.deadline_s and bool(self._desk.delivered)
            return (hopeless or (overdue and enough)) and not self._desk.checking
        # Nobody is left to wait for. With too few receipts go on only once the next round would have enough members.
        return enough or len(self.roll.ready(self._states())) >= self.plan.min_members

    def _expected(self, account: str) -> bool:
        return account in self._desk.checking or self.roll.working(account, self._states())

    def _states(self) -> frozenset[str]:
        """States whose holder can take part in the open round or the next: the open round's and the one before it."""
        states = {self.log.state, self._next_state}
        if self.log.open is not None:
            states.add(self.log.open.state)
        if self.log.settled:
            states.add(self.log.settled[-1].state_in)
        return frozenset(states - {""})

    def _cut(self) -> Effects:
        open_round = self.log.open
        assert open_round is not None
        receipts = self._receipts(open_round)
        if not receipts:
            self._next_state = open_round.state
            return self._log_settled()
        self.phase = Phase.APPLYING
        return [ApplyRound(round=open_round.round, receipts=receipts)]

    def _receipts(self, open_round: OpenRound) -> tuple[Receipt, ...]:
        """The receipts that count, in roster order."""
        delivered = self._desk.delivered
        return tuple(delivered[seat.account] for seat in open_round.roster if seat.account in delivered)

    # ------------------------------------------------------------------ settling

    def _applied(self, message: Applied, now: float) -> Effects:
        if self.phase is not Phase.APPLYING or self.log.open is None or message.round != self.log.open.round:
            return []
        self._next_state = message.state
        last = bool(self._closing) or message.round >= self.plan.rounds
        due = last or (self.plan.evaluate_every > 0 and message.round % self.plan.evaluate_every == 0)
        if last and self.plan.evaluate_every:
            self.phase = Phase.EVALUATING
            return [Evaluate(round=message.round)]
        log = self._log_settled()
        return [*log, Evaluate(round=message.round)] if due and self.plan.evaluate_every else log

    def _evaluated(self, message: Evaluated, now: float) -> Effects:
        self._validation = Validation(message.round, message.loss)
        return self._log_settled() if self.phase is Phase.EVALUATING else []

    def _log_settled(self) -> Effects:
        """Settle the open round and, in the same append, open the next or close the run."""
        open_round = self.log.open
        assert open_round is not None
        receipts = self._receipts(open_round)
        first = self.log.size
        settle = Settle(
            round=open_round.round,
            receipts=tuple(range(first, first + len(receipts))),
            state=self._next_state,
            validation=self._validation,
        )
        self._validation = ()
        reserved = sum(self.plan.worth(seat.quota) for seat in open_round.roster)
        paid = sum(self.plan.worth(receipt.slots[1]) for receipt in receipts)
        following = self._following(open_round.round, self._next_state, self.balance + reserved - paid)
        self.phase = Phase.LOGGING
        return [Log(entries=(*receipts, settle, *following))]

    def _following(self, settled: int, state: str, balance: int) -> tuple[Entry, ...]:
        """What comes after round `settled`: a close, an open, or nothing yet."""
        if self._closing:
            return (Close(state=state, reason=self._closing),)
        if settled >= self.plan.rounds:
            return (Close(state=state, reason="all rounds settled"),)
        if self.plan.seats_for(balance) < self.plan.min_members:
            return (Close(state=state, reason="budget spent"),)
        ready = self.roll.ready(self._states() | {state})
        if len(ready) < self.plan.min_members:
            return ()
        seats = min(self.plan.max_members, self.plan.seats_for(balance), len(ready))
        start = self.log.next_slot
        quota = self.plan.quota
        roster = tuple(Seat(account, start + place * quota, quota) for place, account in enumerate(ready[:seats]))
        return (Open(round=settled + 1, state=state, roster=roster),)

    def _open_or_close(self) -> Effects:
        following = self._following(self.log.round, self.log.state, self.balance)
        if not following:
            return []
        self.phase = Phase.LOGGING
        return [Log(entries=following)]

    # ------------------------------------------------------------------ after the log

    def _logged(self, message: Logged, now: float) -> Effects:
        self.balance = message.balance
        self._next_state = ""
        self._desk = Desk(opened_at=now, checking={}, delivered={})
        if self.log.close is not None:
            self.phase = Phase.CLOSED
            return []
        if self.log.open is None:
            self.phase = Phase.WAITING
            return [
                Report(
                    event="waiting",
                    fields={
                        "round": self.log.round + 1,
                        "needs": self.plan.min_members,
                        "ready": len(self.roll.ready(self._states())),
                    },
                )
            ]
        self.phase = Phase.COLLECTING
        return self._arrivals(self.log.open)

    def _arrivals(self, open_round: OpenRound) -> Effects:
        """Say who is on a roster for the first time, and who is back."""
        effects: Effects = []
        for seat in open_round.roster:
            before = self.roll.rostered(seat.account, open_round.round)
            back = self._dropped_at.pop(seat.account, None)
            if back is not None or not before:
                event = "rejoined" if back is not None else "joined"
                effects.append(Report(event=event, fields={"account": seat.account, "round": open_round.round}))
        return effects

    def _drop(self, member: Member | None, reason: str) -> Effects:
        open_round = self.log.open
        if (
            member is None
            or open_round is None
            or open_round.seat(member.account) is None
            or self.phase is Phase.CLOSED
        ):
            return []
        self._dropped_at[member.account] = open_round.round
        return [
            Report(event="dropped", fields={"account": member.account, "round": open_round.round, "reason": reason})
        ]
