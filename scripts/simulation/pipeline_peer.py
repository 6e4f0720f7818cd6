"""A simulated volunteer of a run with stages: carries out what the daemon's own ReplicaMachine asks for.

Pure: time is the world's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ledger.entries import Slots, StageReceipt
from peer.rounds.log import RunLog
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Kind, Order, Tag
from peer.stages.routing import Router
from peer.stages.serve import ReplicaMachine
from peer.stages.slots import first_slot
from peer.stages.tasks import Answered, Call, Declined, ReplicaEffect, ReplicaMessage, Reset
from scripts.simulation.people import Person

if TYPE_CHECKING:
    from scripts.simulation.pipeline import World

BEAT_S = 2.0
MEMORY_BYTES = 8 * 10**9


class PipelinePeer:
    """One volunteer; each session is a new life with a new machine."""

    def __init__(self, world: World, person: Person, microbatch_s: float) -> None:
        self.world = world
        self.name = person.name
        self.latency_s = person.latency_s
        self.microbatch_s = microbatch_s
        self.alive = False
        self.life = 0
        self.placed: list[tuple[float, int]] = []
        """When it was told to serve which stage."""
        self.machine = self._machine(None)
        self._held: tuple[int, int, str] | None = None
        """On disk."""
        self._kept: set[Tag] = set()
        """Requests of the round whose replies are kept."""
        self._free_at = 0.0
        """When the worker is through with what it was given."""
        self._tick_at = 0.0

    def _machine(self, held: tuple[int, int, str] | None) -> ReplicaMachine:
        machine = ReplicaMachine(
            account=self.name, life=self.life, log=copy.copy(self.world.view), plan=self.world.plan,
            router=Router(self.world.rng), held=held, memory_bytes=MEMORY_BYTES, room=1000,
        )  # fmt: skip
        machine.microbatch_s = self.microbatch_s
        return machine

    @property
    def speed(self) -> float:
        """Microbatches a second."""
        return 1 / self.microbatch_s

    # ------------------------------------------------------------------ life

    def start(self, held: tuple[int, int, str] | None = None) -> None:
        """Come online."""
        self._held = held or self._held
        self.alive, self.life = True, self.life + 1
        self.machine, self._tick_at, self._free_at = self._machine(self._held), 0.0, 0.0
        self.tell(LogGrew())
        self._beat()

    def end(self, *, crash: bool) -> None:
        """Go offline; without a crash, say so."""
        self.alive = False
        if not crash:
            self.world.after(self.latency_s, lambda: self.world.left(self.name))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Later, if this session lasts so long."""
        life = self.life

        def act() -> None:
            if self.alive and self.life == life:
                action()

        self.world.after(seconds, act)

    def tell(self, message: ReplicaMessage) -> None:
        """Give the machine a message and do what it asks for."""
        if self.alive:
            self._carry_out(self.machine.receive(message, self.world.clock.now))

    def learn(self, view: RunLog) -> None:
        """The log grew."""
        for name, value in vars(view).items():
            setattr(self.machine.log, name, value)
        self.tell(LogGrew())

    def ordered(self, order: Order) -> None:
        """The leader wants something."""
        self.tell(order)

    def _carry_out(self, effects: Sequence[ReplicaEffect]) -> None:
        for effect in effects:
            self._do(effect)
        deadline = self.machine.deadline
        if deadline is not None and (deadline < self._tick_at or self._tick_at <= self.world.clock.now):
            self._tick_at = deadline
            self.after(max(0.0, deadline - self.world.clock.now), lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._carry_out(self.machine.tick(self.world.clock.now))

    def _beat(self) -> None:
        self._say()
        self.after(BEAT_S, self._beat)

    def _say(self) -> None:
        status = self.machine.status()
        self.world.after(self.latency_s, lambda: self.world.heard(status))

    # ------------------------------------------------------------------ effects

    def _work(self, seconds: float, done: Callable[[], None]) -> float:
        """Have the worker do something once it is through with what it has; when that will be."""
        self._free_at = max(self._free_at, self.world.clock.now) + seconds
        self.after(self._free_at - self.world.clock.now, done)
        return self._free_at

    def _do(self, effect: ReplicaEffect) -> None:
        settings, number = self.world.settings, self.world.view.round
        match effect:
            case tasks.Say():
                self.after(0.001, self._say)
            case Call():
                self._call(effect)
            case tasks.OpenStage():
                self._kept.clear()
            case tasks.LoadStage():
                self.placed.append((self.world.clock.now, effect.stage))
                self.after(settings.load_s, lambda: self._holds(effect))
            case tasks.Undo():
                self.world.undone += len(effect.microbatches)
                self._kept = {tag for tag in self._kept if tag.microbatch not in effect.microbatches}
                seconds = self.microbatch_s * len(effect.microbatches)
                self._work(seconds, lambda: self.tell(tasks.Undone(round=number + 1)))
            case tasks.WriteUpdate():
                self._work(settings.write_s, lambda: self.tell(tasks.Wrote(receipt=self._receipt(effect))))
            case tasks.SumUpdates():
                told = tasks.Normed(receipts=effect.receipts, norm="3ff0000000000000")
                self.after(self._fetch_s(effect), lambda: self.tell(told))
            case tasks.ApplyStage():
                self._work(settings.apply_s, lambda: self._applied(effect))

    def _fetch_s(self, effect: tasks.SumUpdates) -> float:
        """Until the stage's updates are here, which are fetched as soon as the leader has heard of them."""
        named = [self.world.named[one.update] for one in effect.receipts if one.stage == effect.stage]
        here_at = max(named) + self.latency_s + self.world.settings.fetch_s
        return max(0.0, here_at - self.world.clock.now)

    def _holds(self, effect: tasks.LoadStage) -> None:
        self._held = effect.round, effect.stage, effect.state
        self.tell(tasks.HoldsStage(round=effect.round, stage=effect.stage, state=effect.state))

    def _applied(self, effect: tasks.ApplyStage) -> None:
        state = self.world.state(effect.stage, effect.round)
        self._held = effect.round, effect.stage, state
        self.tell(tasks.AppliedStage(round=effect.round, receipts=effect.receipts, state=state))

    def _receipt(self, effect: tasks.WriteUpdate) -> StageReceipt:
        plan, served = self.world.plan, int(effect.served, 16).bit_count()
        slots = served * plan.microbatch
        return StageReceipt(
            network=plan.plan.network, run=plan.plan.run, round=effect.open.round, account=self.name,
            stage=effect.stage, state_in=effect.open.state, slots=Slots(first_slot(effect.open), slots),
            update=self.world.blob(f"{self.name} {effect.open.round} {effect.served}"), served=effect.served,
            tokens=slots * plan.plan.tokens_per_slot, loss=0, leaves="ab" * 32, signature="00" * 64,
        )  # fmt: skip

    # ------------------------------------------------------------------ calls

    def _call(self, call: Call) -> None:
        other = self.world.peers[call.account]
        way_s = self.latency_s + other.latency_s if other is not self else 0.0
        life = other.life

        def back(message: Answered | Declined | Reset) -> None:
            self.after(way_s, lambda: self.tell(message))

        def arrive() -> None:
            if other.alive and other.life == life:
                other.asked(self.name, call, back)
            else:
                back(Reset(id=call.id))

        self.after(way_s, arrive)
        self.world.calls += 1
        self.world.replays += call.tag.kind is Kind.BACKWARD and call.tag.attempt.number > 0

    def asked(self, caller: str, call: Call, answer: Callable[[Answered | Declined], None]) -> None:
        """A driver wants a microbatch served."""
        refusal = self.machine.admit(call.tag, caller, max(0.0, self._free_at - self.world.clock.now))
        if refusal is not None:
            answer(Declined(id=call.id, refusal=refusal))
            return
        settings, asked_at, tag = self.world.settings, self.world.clock.now, call.tag
        if tag in self._kept:
            self.tell(tasks.Served(tag=tag))
            answer(Answered(id=call.id, value="x"))
            return
        last, forward = tag.stage == settings.stages - 1, tag.kind is Kind.FORWARD
        part = settings.forward if forward else 1.0 if last else 1.0 - settings.forward
        seconds = self.microbatch_s * part * self.world.rng.uniform(1 - settings.swing, 1 + settings.swing)

        def done() -> None:
            self._kept.add(tag)
            if not forward:
                self.world.served(self, tag, part)
            self.tell(tasks.Served(tag=tag))
            waited_s = self.world.clock.now - asked_at - seconds
            queue_s = max(0.0, self._free_at - self.world.clock.now)
            answer(Answered(id=call.id, value="x", service_s=seconds, waited_s=waited_s, queue_s=queue_s))

        self._work(seconds, done)
