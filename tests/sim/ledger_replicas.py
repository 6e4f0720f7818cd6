"""Simulated replicas: `run(seed)` plays one world through; what breaks a promise raises AssertionError.

Some replicas are honest, some lie. Messages are lost, late, repeated; the network falls apart and heals; replicas are
killed at any step and started again on their disk. Promised: nothing unproven is stored, what a machine holds stays
within its limits, and some time after healing all honest replicas have the same certified heads, evidence and fold,
and are quiet.

Pure: everything follows from the seed; the stores are given.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ledger.replica.machine import Replica
from ledger.replica.values import Answer, Ask, Blame, Effect, Fact, Look, Request, Settings, Take, TakeEvidence
from scripts.simulation.clock import Clock
from tests.sim.ledger_replicas_liars import LIES, lie
from tests.sim.net import Failure, Net, Weather

HEAL_S = 20.0
"""From then on nothing is lost, cut off or killed."""
LIMIT_S = 900.0
"""All agree before that."""
QUIET_S = 30.0
"""How long the calm after that is watched."""
TIMEOUT_S = 5.0
SETTINGS = Settings(
    heads=15, page=10, answer_bytes=20_000, pending_bytes=200_000, peer_pending_bytes=80_000, useless_pages=20,
    most_retry_s=10.0, most_blame_s=60.0, scan_s=10.0, most_scan_s=40.0,
)  # fmt: skip


class Disk(Protocol):
    """A store that outlives kills."""

    def answer(self, request: Request) -> Answer | None:
        """What it answers to a peer; None where it refuses."""

    def facts(self, origins: Sequence[str]) -> dict[str, Fact]:
        """What it knows of logs."""

    def take(self, take: Take | TakeEvidence) -> tuple[str, bool]:
        """Check and store; why it was refused, or empty, and whether the sender is to blame."""

    def publish(self, number: int) -> None:
        """Something new appears here: a certificate of some log, evidence."""

    def reopen(self) -> None:
        """After a kill: all that is not on disk is forgotten."""

    def check(self) -> None:
        """Nothing unproven is stored."""

    def summary(self) -> Any:
        """Certified heads and evidence: equal where two agree."""

    def fold(self) -> str:
        """The hash of all balances and runs."""


class World:
    """All replicas and the weather."""

    def __init__(self, seed: int, disks: Callable[[int], Sequence[Disk]], news: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        weather = Weather(
            delay_s=rng.choice([0.01, 0.05, 0.3]), loss=rng.choice([0.0, 0.02, 0.2]), repeat=rng.choice([0.0, 0.1])
        )
        self.net = Parted(self.clock, rng, weather)
        honest = rng.randint(3, 5)
        lies = [rng.choice(LIES) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
        self.counts: Counter[str] = Counter(lies)
        self.nodes = [
            Node(self, f"r{place}", disk, (["", *[""] * (honest - 1), *lies])[place])
            for place, disk in enumerate(disks(honest + len(lies)))
        ]
        self.honest = self.nodes[:honest]
        for node in self.nodes:
            self.clock.at(rng.uniform(0, 1), node.start)
        for number in range(news):  # each appears at one replica, which may lie about it, and at an honest one later
            first, later = rng.choice(self.nodes), rng.choice(self.honest)
            at = rng.uniform(0, HEAL_S)
            self.clock.at(at, lambda first=first, number=number: first.publish(number))  # type: ignore[misc]
            if first.lie or rng.random() < 0.2:
                self.clock.at(at + rng.choice([0, 5, 20]), lambda later=later, number=number: later.publish(number))  # type: ignore[misc]
        for _ in range(rng.choice([0, 1, 3])):
            self.clock.at(rng.uniform(0, HEAL_S), self._part)
        for _ in range(rng.choice([0, 2, 6])):
            self.clock.at(rng.uniform(0, HEAL_S), lambda: rng.choice(self.nodes).kill())
        self.hazard = rng.choice([0.0, 0.0, 0.02])
        self.clock.at(HEAL_S, self._heal)

    def _part(self) -> None:
        self.counts["parted"] += 1
        self.net.side = {node.name: self.rng.randrange(2) for node in self.nodes}
        self.clock.at(self.clock.now + self.rng.choice([3.0, 15.0]), self.net.side.clear)

    def _heal(self) -> None:
        self.net.side.clear()
        self.net.weather.loss = self.hazard = 0.0

    def agree(self) -> bool:
        """Whether all honest replicas run and have the same."""
        if self.clock.now <= HEAL_S + 21 or not all(node.alive for node in self.honest):
            return False
        first = self.honest[0].summary()
        return all(node.summary() == first for node in self.honest[1:])

    def play(self) -> Counter[str]:
        """Until all agree, and a while longer; what happened, counted."""
        self.clock.run(LIMIT_S, self.agree)
        summaries = {node.name: node.summary() for node in self.honest}
        assert self.agree(), f"not the same {LIMIT_S:g} s after healing: {summaries}"
        self.counts["agreed_s"] = int(self.clock.now)
        before = self.clock.now, self.counts["asked by honest"]
        self.clock.run(before[0] + QUIET_S, lambda: False)
        asked = self.counts["asked by honest"] - before[1]
        most = QUIET_S * len(self.honest) * (4 if len(self.nodes) > len(self.honest) else 1)
        assert asked <= most, f"{asked} questions in {QUIET_S:g} s of calm, at most {most:g} wanted"
        assert self.agree(), "they agreed, and no longer do"
        for node in self.honest:
            node.disk.check()
        folds = {node.disk.fold() for node in self.rng.sample(self.honest, 2)}
        assert len(folds) == 1, "the same heads, and other balances"
        return self.counts


class Parted(Net):
    """A network that may have two sides."""

    def __init__(self, clock: Clock, rng: random.Random, weather: Weather) -> None:
        super().__init__(clock, rng, weather)
        self.side: dict[str, int] = {}

    def reaches(self, one: str, other: str) -> bool:
        return super().reaches(one, other) and self.side.get(one) == self.side.get(other)


class Node:
    """One replica: a machine and its disk, or a liar."""

    def __init__(self, world: World, name: str, disk: Disk, lie: str) -> None:
        self.world, self.name, self.disk, self.lie = world, name, disk, lie
        self.alive = False
        self.life = 0
        self._cache: Any = None

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start, or start again."""
        world, now = self.world, self.world.clock.now
        self.alive, self.life = True, self.life + 1
        world.net.hosts[self.name] = self
        self.machine = Replica(random.Random(world.rng.random()), SETTINGS)
        self._wake_at = float("inf")
        for node in world.nodes:
            if node is not self:
                self._do(self.machine.peer_joined(node.name, now, preferred=node is world.nodes[0]))
        self._do(self.machine.tick(now))

    def kill(self) -> None:
        """kill -9; started again after a while."""
        if self.alive:
            self.world.counts["killed"] += 1
            self.alive = False
            del self.world.net.hosts[self.name]
            self.disk.reopen()
            self.world.clock.at(self.world.clock.now + self.world.rng.choice([0.1, 3.0, 20.0]), self.start)

    def publish(self, number: int) -> None:
        """Something new is here, also while it does not run."""
        self._cache = None
        self.disk.publish(number)

    def summary(self) -> Any:
        """What it has, for comparison."""
        if self._cache is None:
            self._cache = self.disk.summary()
        return self._cache

    # ------------------------------------------------------------------ both sides

    def serve(self, caller: str, method: str, body: Any) -> Answer:
        """Answer a question, truly or not."""
        answer = self.disk.answer(body)
        if self.lie:
            answer = lie(self.lie, body, answer, self.world.rng)
        if answer is None:
            raise Failure("FP-403")
        return answer

    def _do(self, effects: Iterable[Effect]) -> None:
        world = self.world
        for effect in effects:
            if isinstance(effect, Ask):
                world.counts["asked by honest"] += not self.lie
                self._ask(effect)
            elif isinstance(effect, Blame):
                assert not effect.peer or self.lie or world.nodes[int(effect.peer[1:])].lie, f"an honest one: {effect}"
                world.counts["blamed"] += 1
            else:
                self._later(lambda effect=effect: self._work(effect))  # type: ignore[misc]
        self._check_limits()
        if self.machine.deadline < self._wake_at:
            at = self._wake_at = self.machine.deadline
            self._later(lambda: self._wake(at), max(0.0, at - world.clock.now) + 0.001)

    def _later(self, action: Callable[[], None], pause_s: float = 0.002) -> None:
        life, clock = self.life, self.world.clock

        def act() -> None:
            if self.alive and life == self.life:
                action()

        clock.at(clock.now + pause_s, act)

    def _wake(self, at: float) -> None:
        if at == self._wake_at:  # else an earlier one was set meanwhile
            self._wake_at = float("inf")
            self._do(self.machine.tick(self.world.clock.now))

    def _ask(self, ask: Ask) -> None:
        life, machine, world = self.life, self.machine, self.world

        def hear(value: Any) -> None:
            if life != self.life:
                return
            now = world.clock.now
            if isinstance(value, Failure):
                lying = value.code in ("FP-403", "FP-307")
                self._do(machine.failed(ask.peer, ask.request, str(value), now, lie=lying))
            else:
                for _ in range(2 if world.rng.random() < 0.05 else 1):
                    self._do(machine.receive(ask.peer, ask.request, value, now))

        world.net.call(self, ask.peer, "replica", ask.request, hear, timeout_s=TIMEOUT_S)

    def _work(self, effect: Look | Take | TakeEvidence) -> None:
        world, now = self.world, self.world.clock.now
        if isinstance(effect, Look):
            return self._do(self.machine.looked(effect, self.disk.facts(effect.origins), now))
        if world.rng.random() < world.hazard:
            return self.kill()
        if not self.lie and world.rng.random() < world.hazard:
            return self._do(self.machine.unable(effect, now))
        self._cache = None
        reason, blame = self.disk.take(effect)
        if world.rng.random() < world.hazard:
            return self.kill()
        fact = self.disk.facts([effect.origin])[effect.origin]
        if reason:
            world.counts["refused"] += 1
            self._do(self.machine.refused(effect, reason, fact, now, blame=blame))
        else:
            self._do(self.machine.stored(effect, fact, now))
        return None

    def _check_limits(self) -> None:
        state, peers = self.machine.state, len(self.world.nodes)
        assert state.pending_bytes <= SETTINGS.pending_bytes + SETTINGS.answer_bytes, state
        assert state.remembered <= 2 * SETTINGS.heads * peers, state
        assert state.requests <= peers * (SETTINGS.peer_requests + 2), state
