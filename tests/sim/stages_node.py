"""A simulated peer of a run with stages: what is on its disk, its worker, and the machine that drives both.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.entries import Entry, StageReceipt
from ledger.stages import bitmap
from peer.rounds.log import RunLog
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Order
from peer.stages.routing import Router
from peer.stages.serve import ReplicaMachine
from peer.stages.slots import first_slot
from peer.stages.tasks import (
    Answered,
    ApplyStage,
    Call,
    Declined,
    LoadStage,
    OpenStage,
    ReplicaEffect,
    ReplicaMessage,
    Reset,
    Say,
    SumUpdates,
    Undo,
    WriteUpdate,
)
from tests.sim.stages_settings import GB, TOKENS_PER_SLOT
from tests.sim.stages_worker import StageWorker, applied, norm_of
from tests.sim.worker import blob

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
                    self._work(effect)

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

    def _count(self, effect: ReplicaEffect) -> None:
        """Whether the rare things are ever done."""
        reports, held = self.world.reports, self.machine.work
        reports["undone"] += isinstance(effect, Undo)
        written = isinstance(effect, WriteUpdate) and held is not None and held.receipt is not None
        reports["written again"] += written
        back = isinstance(effect, LoadStage) and effect.round + 1 in self.disk.states
        reports["went back"] += back and self.log.open is not None and self.log.open.round == effect.round + 1

    def _work(self, effect: ReplicaEffect) -> None:
        self._count(effect)
        worker, machine = self.worker, self.machine
        match effect:
            case LoadStage():
                self._load(effect)
            case Undo():
                worker.undo(effect.microbatches, lambda: self.tell(tasks.Undone(round=effect.round)))
            case WriteUpdate():
                worker.write(lambda inside: self._wrote(effect, inside))
            case SumUpdates():

                def summed() -> None:
                    norm = norm_of(effect.stage, effect.receipts)
                    self.tell(tasks.Normed(receipts=effect.receipts, norm=norm))

                self._fetch(effect, effect.stage, effect.receipts, lambda: worker.do(0.05, summed))
            case ApplyStage():

                def stepped() -> None:
                    held = machine.holding.held
                    assert held is not None, "applied while it held nothing"
                    assert held[:2] == (effect.round - 1, effect.stage), "applied to another state"
                    norms = effect.norms or [norm_of(stage, effect.receipts) for stage in range(self.world.plan.stages)]
                    state = applied(held[2], effect.stage, effect.receipts, norms)
                    self._keep(effect.round, effect.stage, state)
                    if not self.world.hazard(self, "applied"):
                        told = tasks.AppliedStage(round=effect.round, receipts=effect.receipts, state=state)
                        self.tell(told)

                self._fetch(effect, effect.stage, effect.receipts, lambda: worker.do(0.05, stepped))

    def _keep(self, round_number: int, stage: int, state: str) -> None:
        self.disk.states[round_number] = stage, state
        for old in sorted(self.disk.states)[:-3]:
            del self.disk.states[old]
        self.worker.accumulator = None

    def _load(self, effect: LoadStage) -> None:
        wanted, worker = (effect.stage, effect.state), self.worker

        def loaded(number: int, state: str) -> None:
            for later in [later for later in self.disk.states if later > number]:
                del self.disk.states[later]
            self._keep(number, effect.stage, state)
            self.tell(tasks.HoldsStage(round=number, stage=effect.stage, state=state))

        older = [
            (number, state)
            for number, (stage, state) in self.disk.states.items()
            if number < effect.round and (stage, state) == (effect.stage, self.log.states_after(number)[stage])
        ]
        if wanted in self.disk.states.values():
            worker.do(0.1, lambda: loaded(effect.round, effect.state))
        elif self.world.provides(self, lambda disk: wanted in disk.states.values()) or effect.round == 0:
            self.after(0.5, lambda: worker.do(0.1, lambda: loaded(effect.round, effect.state)))
        elif older:
            worker.do(0.1, lambda: loaded(*max(older)))
        else:
            self.after(0.5, lambda: self.tell(tasks.StageBroke(effect=effect, reason="nobody has it")))

    def _fetch(
        self, effect: ReplicaEffect, stage: int, receipts: Sequence[StageReceipt], then: Callable[[], None]
    ) -> None:
        """Have the updates of a stage here, from whoever has them."""
        worker = self.worker
        wanted = {receipt.update for receipt in receipts if receipt.stage == stage} - self.disk.updates
        for update in wanted:
            if not self.world.provides(self, lambda disk, update=update: update in disk.updates):
                self.after(0.3, lambda: self.tell(tasks.StageBroke(effect=effect, reason="an update is not to be had")))
                return

        def here() -> None:
            self.disk.updates |= wanted
            if worker is self.worker:
                then()

        self.after(0.1 if wanted else 0.0, here)

    def _wrote(self, effect: WriteUpdate, inside: frozenset[int]) -> None:
        world, number = self.world, effect.open.round
        served = bitmap(inside, world.rounds[number])
        assert served == effect.served, f"wrote {served} where {effect.served} was wanted"
        update = blob(self.name, number, effect.stage, sorted(inside), self.disk.lives, size=100)
        world.updates[update] = (effect.stage, number, inside)
        self.disk.updates.add(update)
        slots = 2 * len(inside)
        last = effect.stage == world.plan.stages - 1
        receipt = StageReceipt(
            network=world.plan.plan.network, run=world.plan.plan.run, round=number, account=self.name,
            stage=effect.stage, state_in=effect.open.state, update=update, slots=(first_slot(effect.open), slots),
            served=served, tokens=slots * TOKENS_PER_SLOT, loss=3_000_000 if last else 0, leaves="ab" * 32,
            signature="00" * 64,
        )  # fmt: skip
        self.disk.receipts.append(receipt)
        if not world.hazard(self, "wrote"):
            self.tell(tasks.Wrote(receipt=receipt))
