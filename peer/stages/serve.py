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
from peer.stages.drive import Driver
from peer.stages.messages import (
    NO_ATTEMPT,
    Answered,
    AppliedStage,
    ApplyStage,
    Assign,
    Cut,
    Declined,
    Freeze,
    Halt,
    HoldsStage,
    LoadStage,
    Normed,
    OpenStage,
    Order,
    Refusal,
    ReplicaEffect,
    ReplicaMessage,
    Reset,
    Say,
    Served,
    StageBroke,
    Status,
    SumUpdates,
    Tag,
    Undo,
    Undone,
    Unserved,
    WorkerLost,
    WriteUpdate,
    Wrote,
)
from peer.stages.plan import StagePlan
from peer.stages.routing import Router
from peer.stages.work import Work

Effects = list[ReplicaEffect]
Held = tuple[int, int, str]
"""(round, stage, id of the stage's state)"""


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
        self.held = held
        self.stage = stage if held is None else held[1]
        """The one that we are to serve."""
        self.busy: ReplicaEffect | None = None
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
        self._drops = log.drops
        self._go_back = False
        """We hold a state that will not get into the log."""
        self._cut: Cut | None = None
        """The newest with norms: with it a round that was settled meanwhile can be applied."""
        self._broken: type[ReplicaEffect] | None = None
        """Which way of catching up broke last."""
        self._held_before: Held | None = None
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
        return self.log.close is not None and self.held is not None and not self._behind

    # ------------------------------------------------------------------ requests

    def admit(self, tag: Tag, caller: str) -> Refusal | None:
        """Whether the worker shall do what a driver asks for; `Served` or `Unserved` follows if there is no refusal."""
        work = self.work
        if work is not None and (work.open.round, work.open.state) == (tag.round, tag.state) and not self._moved_on:
            return work.admit(tag, caller)
        state = self._state()
        return Refusal(code="STALE", round=self.log.round_of(state) or 0, state=state)

    # ------------------------------------------------------------------ input

    def receive(self, message: ReplicaMessage, now: float) -> Effects:
        """Take one message; returns what to do next.

        Raises:
            RoundError: an order that does not fit the round; nothing changed.
        """
        calls: Effects = []
        match message:
            case Assign() | Halt() | Freeze() | Cut():
                calls = self._ordered(message, now)
            case Answered() | Declined() | Reset():
                calls = list(self.driver.receive(message, now)) if self.driver is not None else []
            case Served() | Unserved():
                self._served(message)
            case StageBroke():
                self._broke(message.effect, now)
            case WorkerLost():
                self.held = self.busy = self.work = None
            case HoldsStage() | Undone() | Wrote() | Normed() | AppliedStage():
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
        return replace(self._standing(), seq=self._seq)

    # ------------------------------------------------------------------ orders

    def _ordered(self, order: Order, now: float) -> Effects:
        opened, work = self.log.open, self.work
        if isinstance(order, Assign):
            if (opened is None or opened.seat(self.account) is None) and 0 <= order.stage < self._plan.stages:
                self.stage = order.stage
            return []
        if opened is None or order.round != opened.round:
            return []
        if isinstance(order, Halt):
            return list(self.driver.receive(order, now)) if self.driver is not None else []
        if isinstance(order, Cut):
            self._cut = order if order.norms else self._cut
            if work is not None:
                work.take(order)
        elif work is not None and self._moved_on:
            if order.attempt > work.floor:  # what was cut does not count after all
                self._go_back, self.work = True, None
        elif work is not None:
            work.freeze(order)
        return []

    # ------------------------------------------------------------------ what the worker did

    def _served(self, message: Served | Unserved) -> None:
        work = self.work
        if work is not None and (work.open.round, work.open.state) == (message.tag.round, message.tag.state):
            (work.served if isinstance(message, Served) else work.dropped)(message.tag)

    def _did(self, message: HoldsStage | Undone | Wrote | Normed | AppliedStage) -> None:
        done, self.busy, work = self.busy, None, self.work
        self._pause.rest(0.0)
        cut = work.cut.receipts if work is not None and work.cut is not None else ()
        match message:
            case HoldsStage():
                self.held, self._go_back, self._broken = (message.round, message.stage, message.state), False, None
            case Undone():
                if work is not None:
                    work.undoing = False
            case Wrote():
                self._promised[message.receipt.round] = message.receipt
                if work is not None and isinstance(done, WriteUpdate) and done.open == work.open:
                    work.receipt = message.receipt
            case Normed():
                if work is not None and cut == message.receipts:
                    work.norm = message.norm
            case AppliedStage():
                self._applied(message, work if cut == message.receipts else None)

    def _applied(self, message: AppliedStage, work: Work | None) -> None:
        """We hold the state after a round; `work`: our part in it, if it is open and just this was cut."""
        stage = self.held[1] if self.held is not None else -1
        self.held, self._broken = (message.round, stage, message.state), None
        if work is not None:
            work.applied = message.state
        elif message.round > self.log.round:
            self._go_back, self.work = True, None

    def _broke(self, effect: ReplicaEffect, now: float) -> None:
        if effect != self.busy:
            return
        self.busy = None
        self._pause.failed(now)
        if isinstance(effect, LoadStage):
            self.held = self._held_before
        if isinstance(effect, LoadStage | ApplyStage):
            self._broken = type(effect)
        if isinstance(effect, Undo) and self.work is not None:  # nobody knows what is in the accumulator
            self.work.lose()

    # ------------------------------------------------------------------ deciding

    def _next(self, now: float) -> Effects:
        if self._drops != self.log.drops:
            self._drops = self.log.drops
            self._go_back = self._go_back or self._ahead
        effects = self._take_part(now)
        if self.driver is not None:
            effects += self.driver.tick(now)
        if self.busy is None and self._pause.over(now) and self.log.state:
            self._pause.until = 0.0
            self.busy = self._catch_up() if self._behind else self._work()
            effects += [self.busy] if self.busy is not None else []
        if self._key() != self._said:
            self._said = self._key()
            effects.append(Say())
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
        self.stage = seat.stage
        if self.work is None and not self._behind and not self._ahead and not self._changing:
            promised = self._promised.get(opened.round)
            kept = promised if promised is not None and promised.state_in == opened.state else None
            self.work = Work(
                open_round=opened, seat=seat, microbatch=self._plan.microbatch, room=self._room, receipt=kept
            )
            if seat.stage == 0 and self.driver is None:
                self.driver = self._drive(self.work, now)
        if self.work is not None and not self.work.begun:
            self.work.begun = True
            return [OpenStage(round=opened.round, state=opened.state, stage=seat.stage)]
        return []

    def _drive(self, work: Work, now: float) -> Driver:
        stages = range(1, self._plan.stages)
        replicas = {
            stage: tuple(seat.account for seat in work.open.roster if seat.stage == stage) for stage in stages
        }
        return Driver(
            account=self.account, open_round=work.open, replicas=replicas, microbatches=work.numbers(work.seat),
            in_flight=self._plan.in_flight, until=now + self._plan.plan.time_budget_s, router=self._router,
            ids=self._ids,
        )  # fmt: skip

    @property
    def _ahead(self) -> bool:
        """Whether we hold what came of a round that is not settled yet."""
        return self.held is not None and self.held[0] > self.log.round

    @property
    def _changing(self) -> bool:
        """Whether the worker is about to hold another state."""
        return isinstance(self.busy, LoadStage | ApplyStage)

    @property
    def _moved_on(self) -> bool:
        """Whether the accumulator of the open round is gone, as its cut is being applied or was."""
        return self._ahead or self._changing

    @property
    def _behind(self) -> bool:
        """Whether we do not hold what we should, nor what may come of the open round."""
        held, log = self.held, self.log
        if held is None or self._go_back or held[1] != self.stage:
            return True
        if held[0] > log.round:
            return log.open is None or log.open.round != held[0]
        return held[0] < log.round or log.states_after(held[0])[held[1]] != held[2]

    def _catch_up(self) -> ReplicaEffect | None:
        held, log, stage = self.held, self.log, self.stage
        if stage is None:
            return None
        if held is not None and not self._go_back and held[0] < log.round and held[1] == stage:
            settled, sound = log.settled[held[0]], log.states_after(held[0])[stage] == held[2]
            cut = self._cut
            told = cut is not None and (cut.round, cut.receipts) == (settled.round, settled.staged)
            norms = cut.norms if cut is not None and told else ()
            if sound and self._broken is not ApplyStage and (told or not settled.staged or self._broken is LoadStage):
                return ApplyStage(round=settled.round, stage=stage, receipts=settled.staged, norms=norms)
        self._held_before, self.held = held, None
        return LoadStage(round=log.round, stage=stage, state=log.states_after(log.round)[stage])

    def _work(self) -> ReplicaEffect | None:
        """What the open round wants of the worker beside serving."""
        work = self.work
        if work is None or self._ahead:
            return None
        number, stage, cut = work.open.round, work.seat.stage, work.cut
        if cut is not None and cut.norms:
            return ApplyStage(round=number, stage=stage, receipts=cut.receipts, norms=cut.norms)
        if cut is not None:
            return None if work.norm else SumUpdates(round=number, stage=stage, receipts=cut.receipts)
        if extra := work.extra:
            work.undo(extra)
            return Undo(round=number, microbatches=extra)
        if work.writable and work.wanted is not None:
            return WriteUpdate(open=work.open, stage=stage, served=work.wanted.hex)
        return None

    # ------------------------------------------------------------------ status

    def _state(self) -> str:
        """Id of the run's newest settled state that we hold our stage of."""
        held = self.held
        if held is None or self._go_back:
            return ""
        number = min(held[0], self.log.round)
        sound = self._ahead or self.log.states_after(number)[held[1]] == held[2]
        return self.log.state_after(number) if sound else ""

    def _standing(self) -> Status:
        held, work, driver, opened = self.held, self.work, self.driver, self.log.open
        seated = opened is not None and opened.seat(self.account) is not None
        status = Status(
            account=self.account, life=self._life, seq=self._seq, stage=held[1] if held is not None else -1,
            state=self._state(), memory_bytes=self._memory_bytes, microbatch_s=self.microbatch_s,
            round=opened.round if opened is not None and seated else 0,
        )  # fmt: skip
        if driver is not None:
            table = tuple(sorted(driver.table.items())) if driver.attempt != NO_ATTEMPT else ()
            status = replace(status, finished=driver.finished, halted=driver.settled_for, table=table)
        if work is not None:
            cut = work.cut
            status = replace(
                status, frozen=work.floor, lacking=work.lacking, receipt=work.receipt, norm=work.norm,
                cut=cut.receipts if cut is not None else (), armed=cut is not None and bool(cut.norms),
                applied=work.applied,
            )  # fmt: skip
        return status

    def _key(self) -> tuple[object, ...]:
        """What the leader should hear of at once when it changes."""
        held, work, driver = self.held, self.work, self.driver
        parts: tuple[object, ...] = (held, self._go_back, self.log.round, self.log.open is None)
        if driver is not None:
            parts += (driver.finished, driver.settled_for)
        if work is not None:
            parts += (work.floor, work.lacking, work.receipt, work.norm, work.applied, work.cut is None)
        return parts
