"""A simulated peer of a run with stages: what is on its disk, its worker, and the machine that drives both.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.entries import Entry, StageReceipt
from peer.errors import RoundError
from peer.rounds.log import RunLog
from peer.rounds.messages import LogGrew
from peer.rounds.tail import why_wait
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
from tests.sim.stages_life import Life
from tests.sim.stages_settings import GB
from tests.sim.stages_worker import StageWorker

if TYPE_CHECKING:
    from tests.sim.stages_world import World

BEAT_S = 1.0
Ahead = tuple[str, int]
"""The leader whose tail a log has, and how long that is."""


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


class StageNode(Life[ReplicaMessage, ReplicaEffect]):
    """One process life of a member: a new one is made at every start, on the old disk."""

    machine: ReplicaMachine

    def __init__(self, world: World, name: str, microbatch_s: float, disk: Disk) -> None:
        super().__init__(world.clock)
        self.world = world
        self.name = name
        self.microbatch_s = microbatch_s
        self.disk = disk
        self.undisturbed_since = world.clock.now
        """When it was started, or its worker was."""
        disk.lives += 1
        self.log = RunLog()
        self.log.extend(disk.entries)
        self.ahead_of = ""
        """The leader whose tail the log has."""
        self.worker = self._new_worker()
        held = max(disk.states, default=None)
        self.machine = ReplicaMachine(
            account=name, life=disk.lives, log=self.log, plan=world.plan, router=Router(world.rng),
            stage=disk.states[held][0] if held is not None else None, promised=disk.receipts, memory_bytes=4 * GB,
            room=world.settings.room,
        )  # fmt: skip
        self.machine.microbatch_s = microbatch_s
        self._saying = False
        self.hands = Hands(self)
        self.tell(LogGrew())
        self._beat()

    def _new_worker(self) -> StageWorker:
        return StageWorker(self.world.clock, self.microbatch_s, self.world.settings.stages)

    def die(self) -> None:
        """kill -9."""
        super().die()
        self.worker.die()

    def lose_worker(self) -> None:
        """The worker ends, the daemon goes on."""
        if not self.alive:
            return
        self.world.reports["worker lost"] += 1
        self.undisturbed_since = self.world.clock.now
        self.worker.die()
        self.worker = self._new_worker()
        self.tell(tasks.WorkerLost())

    # ------------------------------------------------------------------ the leader

    def _beat(self) -> None:
        self._say()
        self.after(BEAT_S, self._beat)

    def _say(self) -> None:
        self._saying = False
        world, status, size = self.world, self.machine.status(), len(self.disk.entries)
        world.checker.said(self, status)
        leader, ahead = world.leader_of(self.name), (self.ahead_of, len(self.log.tail))
        if leader is not None:
            world.net.send(self.name, leader.name, lambda: leader.heard(status, size, ahead))

    def ordered(self, order: Order, leader: str) -> None:
        """A leader wants something."""
        if leader == self.world.follows.get(self.name):
            try:
                self.tell(order)
            except RoundError:
                self.world.reports["order refused"] += 1

    def learn(self, start: int, entries: Sequence[Entry]) -> None:
        """Take up certified entries, if they join what is here."""
        here = len(self.disk.entries)
        if start <= here < start + len(entries):
            drops = self.log.drops
            self.disk.entries += entries[here - start :]
            self.log.extend(self.disk.entries[self.log.certified :])
            self._grown(drops)

    def go_ahead(self, start: int, signed: Sequence[Entry], leader: str) -> None:
        """Go on with what our leader signed from `start` on, beyond what is certified."""
        here, drops = len(self.disk.entries), self.log.drops
        tail = tuple(signed[here - start :])
        if leader != self.world.follows.get(self.name) or start > here:
            return  # the next heartbeat brings what is lacking
        if list(signed[: here - start]) != self.disk.entries[start : start + len(signed)]:
            return  # it was overtaken
        assert not why_wait(self.world.plan.plan, tail), "members are to go further than the run allows"
        if leader == self.ahead_of and len(tail) <= len(self.log.tail):
            return  # it has signed more since
        self.log.follow(tail)
        self.ahead_of = leader
        self._grown(drops)

    def _grown(self, drops: int) -> None:
        self.world.reports["tail lost"] += self.log.drops > drops
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
                self.worker.begin(effect.round, effect.state, self.log.states_after(effect.round - 1)[effect.stage])
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
