"""The leader's round machine: who is on the roster, when a round is cut, and what goes into the run's log.

A round is collecting (members train and deliver), applying (our worker computes the next state), evaluating (last
round only), logging (settle and the next open are being certified) or waiting (too few members). Survivors never wait
for the dead: a rostered member whose heartbeats stop is not expected any more.

Pure: fed `receive(message, now)` and `tick(now)`; `now` is seconds on any monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial

from ledger.entries import Close, Entry, Receipt, Settle
from peer.rounds.attendance import Attendance
from peer.rounds.copies import Copies
from peer.rounds.desk import Desk, verdict
from peer.rounds.heldout import HeldOut
from peer.rounds.log import RunLog
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
    Unevaluated,
)
from peer.rounds.norms import weigh
from peer.rounds.opening import Standing, close_reason, opening, standing_after
from peer.rounds.pace import Pace
from peer.rounds.plan import Plan
from peer.rounds.refusals import check_receipt
from peer.rounds.roster import Roll
from peer.rounds.speed import Speeds

Effects = list[LeaderEffect]


class Phase(StrEnum):
    """What the leader is doing."""

    WAITING = "waiting"
    COLLECTING = "collecting"
    APPLYING = "applying"
    EVALUATING = "evaluating"
    LOGGING = "logging"
    CLOSED = "closed"


class LeaderMachine:
    """Leads one run. `log` is shared with the daemon, which extends it before it says `Logged`."""

    def __init__(self, *, plan: Plan, log: RunLog, balance: int, now: float, grace_s: float | None = None) -> None:
        """Take over the run where its log stands; `balance` is the run account's spendable micro-credits.

        Members that were not heard yet are waited for during `grace_s`; by default, as long as for a silent one.
        """
        self.plan = plan
        self.log = log
        self.balance = balance
        self.phase = Phase.CLOSED if log.close else Phase.COLLECTING if log.open else Phase.WAITING
        self.roll = Roll(lost_after_s=plan.lost_after_s)
        self.pace = Pace(first_s=plan.first_deadline_s)
        self.speeds = Speeds(plan, log.settled)
        self._new_desk = partial(Desk, roll=self.roll, pace=self.pace, speeds=self.speeds, overlap=plan.overlap)
        self._desk = self._new_desk(opened_at=now, open_round=log.open, timed=False)
        self._counted: tuple[Receipt, ...] = ()
        """The receipts with which the round was cut, in roster order."""
        self._copies = Copies(log)
        self._next_state = ""
        self._held_out = HeldOut(plan)
        self._closing = ""
        self._attendance = Attendance(receipt.account for done in log.settled for receipt in done.receipts)
        self._ticked_at = now
        self._grace_until = now + (plan.lost_after_s if grace_s is None else grace_s)
        """After taking over, members that were not heard yet are waited for so long."""

    @property
    def delivered(self) -> frozenset[str]:
        """Accounts whose receipt of the open round arrived (decoded or being decoded)."""
        return self._desk.accounts

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do at the latest; None while only a message can help."""
        times = [self.roll.deadline or 0.0]
        if self.phase is Phase.COLLECTING:
            times += [self._desk.due_at, self._desk.hopeless_at, self._grace_until]
        return min((time for time in times if time > self._ticked_at), default=None)

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
                gone = self._attendance.lost(self.roll.leave(message.account), self.log.open, message.reason)
                return [*gone, *self._advance(now)]
            case Delivered():
                return self._take_receipt(message, now)
            case Checked():
                return self._checked(message, now) + self._advance(now)
            case Applied():
                return self._applied(message, now)
            case Evaluated() | Unevaluated():
                return self._evaluated(message)
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
            reason = f"no heartbeat for {now - member.beat_at:.1f} s"
            effects += self._attendance.silent(member, self.log.open, reason)
        return effects + self._advance(now)

    # ------------------------------------------------------------------ receipts

    def _take_receipt(self, message: Delivered, now: float) -> Effects:
        receipt = message.receipt
        if self._desk.has(receipt):
            return []  # sent again after a lost answer
        open_round = self.log.open if self.phase is Phase.COLLECTING else None
        excluded = self.roll.excluded(receipt.account)
        check_receipt(receipt, plan=self.plan, open_round=open_round, settled=self.log.round, excluded=excluded)
        self._copies.check(receipt, self._desk.receipts)
        self._desk.take(receipt, now, message.took_s)
        return [Check(receipt=receipt)]

    def _checked(self, message: Checked, now: float) -> Effects:
        receipt = self._desk.judge(message, now)
        if receipt is None:
            return []
        if message.unsound:
            self.roll.strike(message.account)
        too_late = message.refusal is None and self.phase is not Phase.COLLECTING  # the round was cut meanwhile
        return [] if too_late else [verdict(receipt, message)]

    # ------------------------------------------------------------------ deciding

    def _advance(self, now: float) -> Effects:
        if self.phase is Phase.WAITING:
            return self._open_or_close()
        if self.phase is Phase.COLLECTING and self._complete(now):
            return self._cut(now)
        return []

    def _complete(self, now: float) -> bool:
        """Whether the open round can be cut now."""
        open_round = self.log.open
        assert open_round is not None
        hopeless = now >= self._desk.hopeless_at
        decoding = any(self.roll.lives(account) for account in self._desk.checking)
        if self._closing:
            return hopeless or not decoding
        accounts = [seat.account for seat in open_round.roster]
        enough = len(self._desk.delivered) >= min(self.plan.min_members, len(accounts))
        ready = self.roll.ready(self._states())
        if not any(self._expected(account, now) for account in accounts):
            return enough or len(ready) >= self.plan.min_members  # with too few, the next round must have enough
        if hopeless:  # without any receipt only if somebody who has no seat could do better
            return bool(self._desk.delivered or set(ready) - set(accounts))
        return enough and now >= self._desk.due_at and not decoding

    def _expected(self, account: str, now: float) -> bool:
        """Whether a receipt of this account may still come to count."""
        if account in self._desk.delivered or self._desk.refused(account):
            return False
        if not self.roll.knows(account):
            return now < self._grace_until
        return self.roll.working(account, self._states())

    def _states(self) -> frozenset[str]:
        """States whose holder can take part in the open round or the next: the open round's and the one before it;
        with overlap two before it, as a member that trains ahead has not applied the last round yet."""
        before = [done.state_in for done in self.log.settled[-1 - self.plan.overlap :]]
        return frozenset({self.log.state, *before, self._next_state} - {""})

    def _cut(self, now: float) -> Effects:
        open_round = self.log.open
        assert open_round is not None
        working = () if self._closing else self.roll.ready(self._states())
        late = self._desk.late(working, now)
        self._counted, odd = weigh(self._desk.sound, self._desk.norms, clipped=self.plan.clipped)
        if not self._counted:
            self._next_state = open_round.state
            return [*late, *self._log_settled()]
        self.phase = Phase.APPLYING
        return [*late, *odd, ApplyRound(round=open_round.round, receipts=self._counted)]

    # ------------------------------------------------------------------ settling

    def _applied(self, message: Applied, now: float) -> Effects:
        open_round = self.log.open
        if self.phase is not Phase.APPLYING or open_round is None or message.round != open_round.round:
            return []
        self._next_state = message.state
        self._closing = self._closing or close_reason(self.plan, self._standing(message.round))
        if self._closing and self.plan.evaluate_every:
            self.phase = Phase.EVALUATING
            return [Evaluate(round=message.round)]
        living = [receipt.account for receipt in self._counted if self.roll.lives(receipt.account)]
        asked = self._held_out.ask(message.round, self.speeds.but_slowest(living))
        return [*self._log_settled(), *asked]

    def _evaluated(self, message: Evaluated | Unevaluated) -> Effects:
        effects = self._held_out.take(message, settled=self.log.round)
        figure = self._held_out.figure  # of the last state, whose settle waits for it
        awaited = self.phase is Phase.EVALUATING and figure and figure.round == self.log.round + 1
        return [*effects, *self._log_settled()] if awaited else effects

    def _log_settled(self) -> Effects:
        """Settle the open round and, in the same append, open the next or close the run."""
        open_round = self.log.open
        assert open_round is not None
        receipts, first = self._counted, self.log.size
        settle = Settle(
            round=open_round.round,
            receipts=tuple(range(first, first + len(receipts))),
            state=self._next_state,
            validation=self._held_out.figure,
        )
        following = self._following(open_round.round, self._next_state)
        self._held_out.figure = ()
        self.phase = Phase.LOGGING
        return [Log(entries=(*receipts, settle, *following))]

    def _standing(self, settled: int) -> Standing:
        """Where the run stands once round `settled` is settled with what counted."""
        return standing_after(
            self.log,
            self.plan,
            round=settled,
            balance=self.balance,
            counted=self._counted,
            figure=self._held_out.figure,
        )

    def _following(self, settled: int, state: str) -> tuple[Entry, ...]:
        """What comes after round `settled`: a close, an open, or nothing yet."""
        plan, number, standing = self.plan, settled + 1, self._standing(settled)
        if reason := self._closing or close_reason(plan, standing):
            return (Close(state=state, reason=reason),)
        ready = self.roll.ready(self._states() | {state})
        fit = self._attendance.backoff.fit(ready, round=number, wanted=plan.min_members)
        fit = self.speeds.in_time(fit, round=number, wanted=plan.min_members)[: plan.max_members]
        quotas = dict(zip(fit, self.speeds.quotas(fit), strict=True))
        entry = opening(plan, self.log, round=number, state=state, quotas=quotas, balance=standing.balance)
        return (entry,) if entry is not None else ()

    def _open_or_close(self) -> Effects:
        following = self._following(self.log.round, self.log.state)
        if not following:
            return []
        self.phase = Phase.LOGGING
        return [Log(entries=following)]

    # ------------------------------------------------------------------ after the log

    def _logged(self, message: Logged, now: float) -> Effects:
        self.balance = message.balance
        self._next_state = ""
        self._desk = self._new_desk(opened_at=now, open_round=self.log.open, timed=True)
        self._counted = ()
        if self.log.close is not None:
            self.phase = Phase.CLOSED
            return []
        if self.log.open is None:
            self.phase = Phase.WAITING
            ready = len(self.roll.ready(self._states()))
            fields: dict[str, object] = {"round": self.log.round + 1, "needs": self.plan.min_members, "ready": ready}
            return [Report(event="waiting", fields=fields)]
        self.phase = Phase.COLLECTING
        return [*self._attendance.opened(self.log.open)]
