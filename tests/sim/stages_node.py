"""A simulated peer of a run with stages: what is on its disk, its worker, and the machine that drives both.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.entries import Entry, StageReceipt
from peer.rounds.log import RunLog
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Order
from peer.stages.routing import Router
from peer.stages.serve import ReplicaMachine
from peer.stages.tasks import (
    Answered,
    Call,
    Declined,
    OpenStage,
    ReplicaEffect,
    ReplicaMessage,
    Reset,
    Say,
)
from tests.sim.stages_hands import Hands
from tests.sim.stages_settings import GB
from tests.sim.stages_worker import StageWorker

if TYPE_CHECKING:
    from tests.sim.stages_world import World

BEAT_S = 1.0


@dataclass(kw_only=True)
class Disk:
    """What survives a kill."""

    entries: list[Entry] = field(default_factory=list)
    """The certified log."""
    states: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By round: the stage whose state after it is here, and its id; the newest few."""
    updates: set[str] = field(default_factory=set)
    receipts: list[StageReceipt] = field(default_factory=list)
    lives: int = 0


class StageNode:
    """One process life of a member: a new one is made at every start, on the old disk."""

    def __init__(self, world: World, name: str, microbatch_s: float, disk: Disk) -> None:
        self.world = world
        self.name = name
        self.microbatch_s = microbatch_s
        self.disk = disk
        self.alive = True
        disk.lives += 1
        self.log = RunLog()
        self.log.extend(disk.entries)
        self.worker = self._new_worker()
        held = max(disk.states, default=None)
        self.machine = ReplicaMachine(
            account=name, life=disk.lives, log=self.log, plan=world.plan, router=Router(world.rng),
            stage=disk.states[held][0] if held is not None else None, promised=disk.receipts, memory_bytes=4 * GB,
            room=world.settings.room,
        )  # fmt: skip
        self.machine.microbatch_s = microbatch_s
        self._tick_at = 0.0
        self._saying = False
        self.hands = Hands(self)
        self.tell(LogGrew())
        self._beat()

    def _new_worker(self) -> StageWorker:
        return StageWorker(self.world.clock, self.microbatch_s, self.world.settings.stages)

    # ------------------------------------------------------------------ machine

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Carry out `action` later, if this life lasts so long."""

        def act() -> None:
            if self.alive:
                action()

        self.world.clock.at(self.world.clock.now + seconds, act)

    def tell(self, message: ReplicaMessage) -> None:
        """Give the machine a message and do what it asks for."""
        self._carry_out(self.machine.receive(message, self.world.clock.now))

    def _carry_out(self, effects: Sequence[ReplicaEffect]) -> None:
        for effect in effects:
            if self.alive:
                self._do(effect)
        deadline = self.machine.deadline
        if deadline is not None and deadline != self._tick_at:
            self._tick_at = deadline
            self.after(max(0.0, deadline - self.world.clock.now), lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._carry_out(self.machine.tick(max(self.world.clock.now, planned)))

    def die(self) -> None:
        """kill -9."""
        self.alive = False
        self.worker.die()

    def lose_worker(self) -> None:
        """The worker ends, the daemon goes on."""
        if not self.alive:
            return
        self.world.reports["worker lost"] += 1
        self.worker.die()
        self.worker = self._new_worker()
        self.tell(tasks.WorkerLost())

    # ------------------------------------------------------------------ the leader

    def _beat(self) -> None:
        self._say()
        self.after(BEAT_S, self._beat)

    def _say(self) -> None:
        self._saying = False
        status, size, world = self.machine.status(), len(self.disk.entries), self.world
        world.net.send(self.name, world.leader_name, lambda: world.heard(status, size))

    def ordered(self, order: Order) -> None:
        """The leader wants something."""
        self.tell(order)

    def learn(self, start: int, entries: Sequence[Entry]) -> None:
        """Take up certified entries, if they join what is here."""
        here = len(self.disk.entries)
        if start <= here < start + len(entries):
            self.disk.entries += entries[here - start :]
            self.log.extend(self.disk.entries[self.log.size :])
            self.tell(LogGrew())

    # ------------------------------------------------------------------ calls of drivers

    def asked(self, caller: str, call: Call, answer: Callable[[Answered | Declined], None]) -> None:
        """A driver wants a microbatch served."""
        refusal = self.machine.admit(call.tag, caller, self.worker.queued_s)
        if refusal is not None:
            answer(Declined(id=call.id, refusal=refusal))
            return

        def done(value: str, service_s: float, waited_s: float) -> None:
            if self.world.hazard(self, "served"):
                return
            self.tell(tasks.Served(tag=call.tag))
            queue_s = self.worker.queued_s
            answer(Answered(id=call.id, value=value, service_s=service_s, waited_s=waited_s, queue_s=queue_s))

        self.worker.serve(call, done)

    # ------------------------------------------------------------------ effects

    def _do(self, effect: ReplicaEffect) -> None:
        match effect:
            case Say():
                if not self._saying:
                    self._saying = True
                    self.after(0.001, self._say)
            case Call():
                self._call(effect)
            case OpenStage():
                self.worker.begin(effect.round, effect.state, effect.stage)
            case _:
                if self.world.breaks():
                    self.after(0.2, lambda: self.tell(tasks.StageBroke(effect=effect, reason="it broke")))
                else:
                    self.hands.do(effect)

    def _call(self, call: Call) -> None:
        world = self.world
        world.reports["replayed"] += call.tag.attempt.number > 0

        def reset() -> None:
            if self.alive:
                self.tell(Reset(id=call.id))

        if call.account == self.name:
            worker = self.worker

            def own(answer: Answered | Declined) -> None:
                if self.worker is worker:
                    self.tell(answer)

            self.after(0.0005, lambda: self.asked(self.name, call, own))
            return

        def arrive() -> None:
            other = world.nodes[call.account]
            if not other.alive:
                if world.rng.random() < 0.7:
                    world.net.send(call.account, self.name, reset)
                return
            other.asked(self.name, call, lambda answer: world.net.send(call.account, self.name, lambda: back(answer)))

        def back(answer: Answered | Declined) -> None:
            if self.alive:
                self.tell(answer)

        world.net.send(self.name, call.account, arrive, reset)
