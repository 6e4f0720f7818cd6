"""A replica's machine: hold the stage's state, serve the round, write the update, apply what counts, go on.

Drivers are replicas of stage 0, whose machine has a `Driver` in every round. The worker serves requests at any time;
beside them it does one longer thing: load, undo, write, sum or apply. What it is given comes in the order in which the
machine gave it. A replica whose accumulator is lost says what it lacks once it is asked to hold it; one that applied a
cut which gives way loads the state before it again.

Pure: fed `receive(message, now)` and `tick(now)`; `now` is seconds on any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from ledger.entries import StageReceipt
from peer.rounds.log import RunLog
from peer.rounds.messages import LogGrew
from peer.rounds.pause import Pause
from peer.stages import tasks
from peer.stages.drive import Driver
from peer.stages.drive_trunk import TrunkDriver
from peer.stages.holding import Held, Holding
from peer.stages.messages import Assign, Cut, Freeze, Halt, Losses, Order, Refusal, Status, Tag
from peer.stages.plan import StagePlan
from peer.stages.refusals import fits
from peer.stages.routing import Router
from peer.stages.work import Work

Effects = list[tasks.ReplicaEffect]
LEAST_WAIT_S = 0.05
"""A driver that finds no room asks again after so long at the earliest."""


class ReplicaMachine:
    """One account's part in one run with stages. `log` is shared with the daemon, which extends it before `LogGrew`."""

    def __init__(
        self, *, account: str, life: int, log: RunLog, plan: StagePlan, router: Router, held: Held | None = None,
        stage: int | None = None, promised: Iterable[StageReceipt] = (), memory_bytes: int = 0, room: int = 64,
    ) -> None:  # fmt: skip
        """Start, or start again, where the home folder stands.

        Args:
            account: our account.
            life: grows with every start of the daemon.
            log: the run's log as far as we have it.
            plan: the run's figures.
            router: what we know of other replicas.
            held: what the worker holds, if it holds a state.
            stage: the stage that we served before, if any.
            promised: receipts that we signed before a restart and whose updates we have.
            memory_bytes: what we give to serving.
            room: requests that wait or are served at a time.
        """
        self.account = account
        self.log = log
        self.holding = Holding(log, held=held, stage=stage)
        self.busy: tasks.ReplicaEffect | None = None
        """The longer thing under way."""
        self.work: Work | None = None
        """Our part in the open round, while we hold its state."""
        self.driver: Driver | None = None
        self.microbatch_s = 0.0
        """What the daemon measured."""
        self._life = life
        self._seq = 0
        self._plan = plan
        self._router = router
        self._promised = {receipt.round: receipt for receipt in promised}
        self._memory_bytes = memory_bytes
        self._room = room
        self._ids = count(1)
        self._pause = Pause()
        self._said: tuple[object, ...] = ()

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do; None if only a message can help."""
        times = [self.driver.deadline if self.driver is not None else None]
        times.append(self._pause.until if self.busy is None else None)
        return min((time for time in times if time), default=None)

    @property
    def finished(self) -> bool:
        """The run is closed and we hold the final state of our stage."""
        return self.log.close is not None and not self.holding.behind

    # ------------------------------------------------------------------ requests

    def admit(self, tag: Tag, caller: str, queue_s: float = 0.0) -> Refusal | None:
        """Whether the worker shall do what a driver asks for; `Served` or `Unserved` follows if there is no refusal.

        `queue_s`: how much work the worker has before it.
        """
        work = self.work
        if work is not None and (work.open.round, work.open.state) == (tag.round, tag.state) and not self._moved_on:
            refusal = work.admit(tag, caller)
            if refusal is None:
                return None
            wait_s = {"BUSY": max(self.microbatch_s, LEAST_WAIT_S), "WORKING": queue_s}
            return replace(refusal, wait_s=wait_s.get(refusal.code, 0.0))
        state = self.holding.state
        return Refusal(code="STALE", round=self.log.round_of(state) or 0, state=state)

    # ------------------------------------------------------------------ input

    def receive(self, message: tasks.ReplicaMessage, now: float) -> Effects:
        """Take one message; returns what to do next.

        Raises:
            RoundError: an order that does not fit the round; nothing changed.
        """
        calls: Effects = []
        match message:
            case Assign() | Losses() | Halt() | Freeze() | Cut():
                calls = self._ordered(message, now)
            case tasks.Answered() | tasks.Declined() | tasks.Reset():
                calls = list(self.driver.receive(message, now)) if self.driver is not None else []
            case tasks.Served() | tasks.Unserved():
                self._served(message)
            case tasks.StageBroke():
                self._broke(message.effect, now)
            case tasks.WorkerLost():
                self.holding.lost()
                self.busy = self.work = None
            case tasks.HoldsStage() | tasks.Undone() | tasks.Wrote() | tasks.Normed() | tasks.AppliedStage():
                self._did(message)
            case LogGrew():
                pass
        return [*calls, *self._next(now)]

    def tick(self, now: float) -> Effects:
        """Let time pass."""
        return self._next(now)

    def status(self) -> Status:
        """How we stand, for the leader."""
        self._seq += 1
        opened = self.log.open
        status = Status(
            account=self.account, life=self._life, seq=self._seq, stage=self.holding.serves, state=self.holding.state,
            memory_bytes=self._memory_bytes, microbatch_s=self.microbatch_s,
            round=opened.round if opened is not None and opened.seat(self.account) is not None else 0,
        )  # fmt: skip
        if self.driver is not None:
            status = self.driver.tell(status)
        return self.work.tell(status) if self.work is not None else status

    def _news(self) -> tuple[object, ...]:
        """What the leader should hear of at once when it changes."""
        work, driver = self.work, self.driver
        parts: tuple[object, ...] = (self.holding.held, self.holding.state, self.log.open is None)
        if driver is not None:
            parts += (driver.finished, driver.settled_for, driver.losses)
        if work is not None:
            parts += (work.floor, work.losses, work.lacking, work.receipt, work.norm, work.applied, work.cut is None)
        return parts

    # ------------------------------------------------------------------ orders

    def _ordered(self, order: Order, now: float) -> Effects:
        opened, work = self.log.open, self.work
        if isinstance(order, Assign):
            if (opened is None or opened.seat(self.account) is None) and 0 <= order.stage < self._plan.stages:
                self.holding.stage = order.stage
            return []
        if opened is None or order.round != opened.round:
            return []
        if work is not None and isinstance(order, Losses):
            work.lost(order)
        if isinstance(order, Losses | Halt):
            return list(self.driver.receive(order, now)) if self.driver is not None else []
        if isinstance(order, Cut):
            self.holding.cut = order if order.norms else self.holding.cut
            if work is not None:
                work.take(order)
        elif work is not None and self._moved_on:
            if order.attempt > work.floor:  # what was cut does not count after all
                self.holding.give_way()
                self.work = None
        elif work is not None:
            work.freeze(order)
        return []

    # ------------------------------------------------------------------ what the worker did

    def _served(self, message: tasks.Served | tasks.Unserved) -> None:
        work = self.work
        if work is not None and (work.open.round, work.open.state) == (message.tag.round, message.tag.state):
            (work.served if isinstance(message, tasks.Served) else work.dropped)(message.tag)

    def _did(self, message: tasks.HoldsStage | tasks.Undone | tasks.Wrote | tasks.Normed | tasks.AppliedStage) -> None:
        done, self.busy, work = self.busy, None, self.work
        self._pause.rest(0.0)
        cut = work.cut.receipts if work is not None and work.cut is not None else ()
        match message:
            case tasks.HoldsStage():
                self.holding.loaded(message)
            case tasks.Undone():
                if work is not None:
                    work.undone(message.kept)
            case tasks.Wrote():
                self._promised[message.receipt.round] = message.receipt
                if work is not None and isinstance(done, tasks.WriteUpdate) and done.open == work.open:
                    work.receipt = message.receipt
            case tasks.Normed():
                if work is not None and cut == message.receipts:
                    work.norm = message.norm
            case tasks.AppliedStage():
                counts = work is not None and cut == message.receipts
                self.holding.applied(message, counts=counts)
                if work is not None and counts:
                    work.applied = message.state
                elif self.holding.ahead:
                    self.work = None

    def _broke(self, effect: tasks.ReplicaEffect, now: float) -> None:
        if effect != self.busy:
            return
        self.busy = None
        self._pause.failed(now)
        if isinstance(effect, tasks.LoadStage | tasks.ApplyStage):
            self.holding.broke(effect)
        if isinstance(effect, tasks.Undo) and self.work is not None:  # nobody knows what is in the accumulator
            self.work.lose()

    # ------------------------------------------------------------------ deciding

    def _next(self, now: float) -> Effects:
        self.holding.follow()
        effects = self._take_part(now)
        if self.driver is not None:
            effects += self.driver.tick(now)
        if self.busy is None and self._pause.over(now) and self.log.state:
            self._pause.until = 0.0
            self.busy = self.holding.catch_up() if self.holding.behind else self._work(now)
            effects += [self.busy] if self.busy is not None else []
        if (news := self._news()) != self._said:
            self._said = news
            effects.append(tasks.Say())
        return effects

    def _take_part(self, now: float) -> Effects:
        """Follow the log: leave a round that is over, begin the open one once we hold its state."""
        opened = self.log.open
        if self.work is not None and self.work.open != opened:
            self.work = None
        if self.driver is not None and self.driver.open != opened:
            self.driver = None
        seat = opened.seat(self.account) if opened is not None else None
        if opened is None or seat is None:
            return []
        self.holding.stage = seat.stage
        if self.work is None and not self.holding.behind and not self._moved_on:
            promised = self._promised.get(opened.round)
            kept = promised if promised is not None and fits(promised, plan=self._plan, open_round=opened) else None
            self.work = Work(open_round=opened, seat=seat, plan=self._plan, room=self._room, now=now, receipt=kept)
            if seat.stage == 0 and self.driver is None:
                self.driver = self._drive(self.work)
        if self.work is not None and not self.work.begun:
            self.work.begun = True
            return [tasks.OpenStage(round=opened.round, state=opened.state, stage=seat.stage)]
        return []

    def _drive(self, work: Work) -> Driver:
        roster, stages = work.open.roster, range(1, self._plan.stages)
        replicas = {stage: tuple(seat.account for seat in roster if seat.stage == stage) for stage in stages}
        return (TrunkDriver if self._plan.experts else Driver)(
            account=self.account, open_round=work.open, replicas=replicas, microbatches=work.numbers(work.seat),
            in_flight=self._plan.in_flight, until=work.until, router=self._router, ids=self._ids,
        )  # fmt: skip

    @property
    def _moved_on(self) -> bool:
        """Whether the accumulator of the open round is gone, as the worker holds what came of it, or is about to."""
        return self.holding.ahead or isinstance(self.busy, tasks.LoadStage | tasks.ApplyStage)

    def _work(self, now: float) -> tasks.ReplicaEffect | None:
        """What the open round wants of the worker beside serving."""
        work = self.work
        if work is None or self.holding.ahead:
            return None
        number, stage, cut = work.open.round, work.seat.stage, work.cut
        if cut is not None and cut.norms:
            return tasks.ApplyStage(round=number, stage=stage, receipts=cut.receipts, norms=cut.norms)
        if cut is not None:
            return None if work.norm else tasks.SumUpdates(round=number, stage=stage, receipts=cut.receipts)
        if extra := work.extra:
            work.undo(extra)
            return tasks.Undo(round=number, microbatches=extra)
        if needless := work.needless(now):
            work.undo(needless, beside=True)
            return tasks.Undo(round=number, microbatches=needless, beside=True)
        if work.writable and work.wanted is not None:
            return tasks.WriteUpdate(open=work.open, stage=stage, served=work.wanted.hex)
        return None
