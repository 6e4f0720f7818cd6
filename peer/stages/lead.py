"""The leader's machine of a run with stages: who serves which stage, which round is open, and what is logged.

A run waits for replicas, is in the course of a round (`course`), evaluates (the last round; any other where drivers
cannot do it beside the next), or logs. A leader that takes over learns from the members how far the open round is:
receipts that were told to count go on counting, else it is reconciled anew, with a greater attempt than any before. A
stage without replicas makes the run pause where its last settled round is, and says what is missing.

Pure: fed `receive(message, now)` and `tick(now)`; `now` is seconds on any monotonic clock.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from ledger.entries import Close, Entry, StageOpen, StageSettle
from ledger.stages import run_state
from peer.rounds.attendance import Attendance
from peer.rounds.heldout import HeldOut
from peer.rounds.log import RunLog
from peer.rounds.messages import Cancel, Checked, Evaluate, Evaluated, Left, Log, Logged, Report, Unevaluated
from peer.rounds.opening import Standing, close_reason
from peer.rounds.pace import Pace
from peer.rounds.roster import Member, Roll
from peer.rounds.speed import Speeds
from peer.stages.course import Course, Effects, Outcome
from peer.stages.messages import Assign, StageLeaderMessage, Status, Tell
from peer.stages.opening import opening, quotas_of, ready, standing_after
from peer.stages.placement import Placement
from peer.stages.plan import StagePlan
from peer.stages.refusals import check_status
from peer.stages.tally import verdict


class Phase(StrEnum):
    """What the leader is doing."""

    WAITING = "waiting"
    ROUND = "round"
    EVALUATING = "evaluating"
    LOGGING = "logging"
    CLOSED = "closed"


class StageLeader:
    """Leads one run. `log` is shared with the daemon, which extends it before it says `Logged`."""

    def __init__(self, *, name: str, plan: StagePlan, log: RunLog, balance: int, now: float) -> None:
        """Take over the run where its log stands.

        Args:
            name: our account and life: no other leader has the same.
            plan: the run's figures.
            log: the run's log.
            balance: the run account's spendable micro-credits.
            now: members that were not heard yet are waited for from now on, as long as for silent ones.
        """
        self.plan = plan
        self.log = log
        self.balance = balance
        self.phase = Phase.CLOSED if log.close else Phase.ROUND if log.open else Phase.WAITING
        self.roll = Roll(lost_after_s=plan.plan.lost_after_s)
        self.placement = Placement(plan)
        self.course: Course | None = None
        """The open round's."""
        self._limits = replace(plan.plan, min_members=1, batch_size=plan.microbatch)
        """The figures as they hold for drivers."""
        self._speeds = Speeds(self._limits, ())
        self._name = name
        self._pace = Pace(first_s=plan.plan.first_deadline_s)
        self._newest: dict[str, tuple[int, int]] = {}
        """By account: life and number of its newest status."""
        self._stages: dict[str, int] = {}
        """By account: the stage that it serves."""
        self._attendance = Attendance(receipt.account for done in log.settled for receipt in done.staged)
        self._held_out = HeldOut(plan.plan)
        self._outcome = Outcome(receipts=(), states=())
        self._closing = ""
        self._said = ""
        """What was told last to be missing."""
        self._enough_at: float | None = None
        """Since when there are enough replicas for a first round; the others get a little time to come."""
        self._ticked_at = now
        self._begin(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do at the latest; None while only a message can help."""
        times = [self.roll.deadline or 0.0]
        if self.phase is Phase.ROUND and self.course is not None:
            times += self.course.times
        if self.phase is Phase.WAITING and self._enough_at is not None:
            times.append(self._enough_at + self.plan.plan.lost_after_s)
        return min((time for time in times if time > self._ticked_at), default=None)

    # ------------------------------------------------------------------ input

    def receive(self, message: StageLeaderMessage, now: float) -> Effects:
        """Take one message.

        Raises:
            RoundError: a status that no honest member sends; nothing changed.
        """
        match message:
            case Status():
                return self._heard(message, now)
            case Left():
                member = self.roll.leave(message.account)
                gone = [*self._attendance.lost(member, self.log.open, message.reason), *self._missed(member)]
                return [*gone, *self._advance(now)]
            case Checked():
                return [*self._checked(message, now), *self._advance(now)]
            case Evaluated() | Unevaluated():
                return self._evaluated(message, now)
            case Logged():
                return [*self._logged(message, now), *self._advance(now)]
            case Cancel():
                self._closing = self._closing or message.reason
        return self._advance(now)

    def tick(self, now: float) -> Effects:
        """Let time pass: drop the silent, go on with what took too long."""
        self._ticked_at = now
        effects: Effects = []
        for member in self.roll.silent(now):
            reason = f"no heartbeat for {now - member.beat_at:.1f} s"
            effects += [*self._attendance.silent(member, self.log.open, reason), *self._missed(member)]
        return effects + self._advance(now)

    def _heard(self, status: Status, now: float) -> Effects:
        account, newest = status.account, (status.life, status.seq)
        if newest <= self._newest.get(account, (-1, -1)):
            return []  # late, or sent twice
        check_status(status, plan=self.plan, open_round=self.log.open)
        self._newest[account], self._stages[account] = newest, status.stage
        self.roll.beat(account, status.state, now)
        effects: Effects = [*self.placement.seen(status, now=now, living=self._living())]
        course = self.course
        if self.phase is Phase.ROUND and course is not None and status.round == course.open.round:
            effects += course.heard(status, now)
        effects += self._advance(now)
        told = any(isinstance(effect, Tell) and effect.account == account for effect in effects)
        return effects if told else [*effects, *self._order(account)]

    def _missed(self, member: Member | None) -> Effects:
        return self.course.missed(member.account) if member is not None and self.course is not None else []

    def _order(self, account: str) -> Effects:
        """What this member has not taken yet."""
        if self.log.open is not None and self.log.open.seat(account) is not None:
            return self.course.order(account) if self.phase is Phase.ROUND and self.course is not None else []
        stage = self.placement.stage_of(account)
        if stage is None or stage == self._stages.get(account):
            return []
        return [Tell(account=account, order=Assign(stage=stage))]

    def _checked(self, message: Checked, now: float) -> Effects:
        receipt, effects = self.course.judge(message, now) if self.course is not None else (None, [])
        if receipt is None:
            return []
        if message.unsound:
            self.roll.strike(message.account)
        return [verdict(receipt, message), *effects]

    # ------------------------------------------------------------------ deciding

    def _advance(self, now: float) -> Effects:
        if self.phase is Phase.WAITING:
            return self._open_or_close(now)
        if self.phase is not Phase.ROUND or self.course is None:
            return []
        effects = self.course.advance(now, closing=bool(self._closing))
        return effects if self.course.outcome is None else [*effects, *self._ended(self.course, now)]

    def _ended(self, course: Course, now: float) -> Effects:
        """The round came to its end: have the state evaluated if it is the last one, and log."""
        assert course.outcome is not None
        self._outcome, number = course.outcome, course.open.round
        receipts = self._outcome.receipts
        void: Effects = [] if receipts else [Report(event="void", fields={"round": number, "step": course.step.value})]
        self._learn(course)
        self._closing = self._closing or close_reason(self._limits, self._standing(number))
        if not receipts or not self.plan.plan.evaluate_every:
            return [*void, *self._log_settled(now)]
        drivers = [receipt.account for receipt in receipts if receipt.stage == 0 and self.roll.lives(receipt.account)]
        due = self._held_out.ask(number, self._speeds.but_slowest(drivers))
        asked: Effects = [effect for effect in due if isinstance(effect, Evaluate | Report)]
        if self._closing or (asked and self.plan.experts):  # a trunk that drives measures nothing beside it
            self.phase = Phase.EVALUATING
            return asked if not self._closing else [Evaluate(round=number)]
        return [*self._log_settled(now), *asked]

    def _learn(self, course: Course) -> None:
        """How fast the drivers were."""
        for receipt in course.outcome.receipts if course.outcome is not None else ():
            if receipt.stage == 0 and receipt.account in course.done_s:
                self._speeds.delivered(receipt.account, receipt.slots.count, course.done_s[receipt.account])

    def states_of(self, round: int) -> tuple[str, ...]:
        """The id of each stage's state after a round that is settled, or about to be."""
        return self._outcome.states if round > self.log.round else self.log.states_after(round)

    def _evaluated(self, message: Evaluated | Unevaluated, now: float) -> Effects:
        if isinstance(message, Unevaluated) and not message.account:  # nobody could: it is logged without
            last = self.phase is Phase.EVALUATING and message.round == self.log.round + 1
            return self._log_settled(now) if last else []
        effects = self._held_out.take(message, settled=self.log.round)
        told: Effects = [effect for effect in effects if isinstance(effect, Evaluate | Report)]
        figure = self._held_out.figure
        awaited = self.phase is Phase.EVALUATING and figure and figure.round == self.log.round + 1
        return [*told, *self._log_settled(now)] if awaited else told

    # ------------------------------------------------------------------ the log

    def _living(self) -> list[str]:
        return [member.account for member in self.roll.alive()]

    def _standing(self, settled: int) -> Standing:
        """Where the run stands once round `settled` is."""
        return standing_after(
            self.log, self.plan, round=settled, balance=self.balance, counted=self._outcome.receipts,
            figure=self._held_out.figure,
        )  # fmt: skip

    def _log_settled(self, now: float) -> Effects:
        """Settle the open round and, in the same append, open the next or close the run."""
        open_round, receipts, states = self.log.open, self._outcome.receipts, self._outcome.states
        assert open_round is not None
        settle = StageSettle(
            round=open_round.round,
            receipts=tuple(range(self.log.size, self.log.size + len(receipts))),
            states=states,
            state=run_state(states),
            validation=self._held_out.figure,
        )
        following, told = self._following(open_round.round, settle.state, now)
        self._held_out.figure = ()
        self.phase = Phase.LOGGING
        return [*told, Log(entries=(*receipts, settle, *following))]

    def _following(self, settled: int, state: str, now: float) -> tuple[tuple[Entry, ...], Effects]:
        """What comes after round `settled`: a close, an open, or nothing yet; and what is to be told."""
        standing = self._standing(settled)
        if reason := self._closing or close_reason(self._limits, standing):
            return (Close(state=state, reason=reason),), []
        told = self._move(now)
        there = self._ready(state)
        quotas = quotas_of(self._speeds, there[0], self.plan)
        entry = opening(
            self.plan, self.log, round=settled + 1, state=state, ready=there, quotas=quotas, balance=standing.balance
        )
        if entry is not None:
            return (entry,), told
        missing = self.placement.missing({stage: len(accounts) for stage, accounts in there.items()})
        if missing != self._said:
            self._said = missing
            told.append(Report(event="waiting", fields={"round": settled + 1, "missing": missing}))
        return (), told

    def _ready(self, state: str) -> dict[int, list[str]]:
        """By stage: who can be rostered in a round that starts from this state."""
        accounts = self.roll.ready({state, self.log.state})
        return ready(self.plan, accounts, holds=self._stages, serves=self.placement.stage_of)

    def _move(self, now: float) -> Effects:
        """At a round's edge somebody may have to serve another stage from now on."""
        move = self.placement.edge(self._living(), now)
        if move is None:
            return []
        fields: dict[str, object] = {"account": move.account, "before": move.before, "stage": move.stage}
        return [Report(event="moved", fields=fields), Tell(account=move.account, order=Assign(stage=move.stage))]

    def _open_or_close(self, now: float) -> Effects:
        following, told = self._following(self.log.round, self.log.state, now)
        if isinstance(following[0] if following else None, StageOpen):
            self._enough_at = now if self._enough_at is None else self._enough_at
            if now < self._enough_at + self.plan.plan.lost_after_s:
                return told
        if not following:
            self._enough_at = None
            return told
        self.phase = Phase.LOGGING
        return [*told, Log(entries=following)]

    def _logged(self, message: Logged, now: float) -> Effects:
        self.balance = message.balance
        self._outcome, self._said, self._enough_at = Outcome(receipts=(), states=()), "", None
        self.phase = Phase.CLOSED if self.log.close else Phase.ROUND if self.log.open else Phase.WAITING
        self._begin(now)
        return [*self._attendance.opened(self.log.open)] if self.log.open is not None else []

    def _begin(self, now: float) -> None:
        """The course of the round that is open, if one is."""
        opened = self.log.open
        self.course = None
        if opened is not None:
            self.course = Course(
                opened, plan=self.plan, log=self.log, name=self._name, roll=self.roll, pace=self._pace, now=now
            )
