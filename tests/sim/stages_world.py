"""One simulated run with stages: `run(seed)` plays it through; a broken invariant raises AssertionError.

Checked whenever entries are certified: the ledger's own rules accept them (so the manifests of all stages are disjoint
and cover the same set), every update holds exactly what its receipt says, each once, and every stage's state is what
comes of the receipts in their order. At the end: the run was closed in time, and all hold the final state.

Pure: everything follows from the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

from ledger.entries import Begin, Close, Entry, Recv, Send, StageOpen, StageReceipt, StageSettle, run_id
from ledger.fold.fold import Fold, Terms, conservation
from ledger.merkle import Tree, leaf_hash
from peer.stages.messages import Status
from scripts.simulation.clock import Action, Clock
from tests.sim.settings import NETWORK
from tests.sim.stages_leader import SimLeader
from tests.sim.stages_node import Disk, StageNode
from tests.sim.stages_settings import Settings
from tests.sim.stages_worker import applied, first_state, norm_of


class Lines:
    """One-way messages between peers: lost, late, repeated, out of order."""

    def __init__(self, clock: Clock, rng: random.Random, settings: Settings) -> None:
        self.cut_off: dict[str, float] = {}
        """Until when nothing reaches or leaves a peer."""
        self._clock, self._rng, self._settings = clock, rng, settings

    def send(self, one: str, other: str, arrive: Action, reset: Action | None = None) -> None:
        """Have something happen at the other end, if it arrives there; where the line is cut, a reset may come back."""
        now, rng, settings = self._clock.now, self._rng, self._settings
        if max(self.cut_off.get(one, 0.0), self.cut_off.get(other, 0.0)) > now:
            if reset is not None and rng.random() < 0.5:
                self._clock.at(now + rng.expovariate(1 / settings.delay_s), reset)
            return
        for _ in range(1 + (rng.random() < settings.repeat)):
            if rng.random() >= settings.loss:
                self._clock.at(now + rng.expovariate(1 / settings.delay_s), arrive)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    seed: int
    rounds: int
    void: int
    """Rounds of which nothing counted."""
    microbatches: int
    opened: int
    """Microbatches of all rounds that were opened."""
    closed_s: float
    late_s: float
    """By how much it was over after everything had healed."""
    calm: bool
    reports: Counter[str]
    events: int


class World:
    """All peers, and what an observer who sees everything knows."""

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(f"stages/{seed}")
        self.settings = settings = settings or Settings.draw(self.rng)
        self.clock = Clock()
        self.net = Lines(self.clock, self.rng, settings)
        count = settings.stages * settings.replicas + settings.spares
        names = [sha256(f"{seed}/{place}".encode()).hexdigest() for place in range(count + settings.joiners)]
        self.leaders = [sha256(f"{seed}/leader {place}".encode()).hexdigest() for place in range(settings.leaders)]
        self.spec = settings.spec(self.leaders)
        self.plan = settings.plan(run_id(self.spec))
        self.nodes: dict[str, StageNode] = {}
        self.truth: list[Entry] = []
        self.rounds: dict[int, int] = {}
        """Microbatches of every round."""
        self.updates: dict[str, tuple[int, int, frozenset[int]]] = {}
        """By id: stage, round, and what is inside."""
        self.states = {0: tuple(first_state(stage) for stage in range(settings.stages))}
        """By round."""
        self.fetched: dict[str, set[str]] = {}
        """By leader: the updates on its disk."""
        self.counted = 0
        self.void = 0
        self.cancelled = False
        self.reports: Counter[str] = Counter()
        self.closed_s = 0.0
        self.leader_name = self.leaders[0]
        self._lives = 0
        self._found()
        self.leader = self._lead()
        for place, name in enumerate(names):
            disk, late = Disk(entries=list(self.truth)), place >= count
            if not late:
                stage = place % settings.stages
                disk.states[0] = stage, first_state(stage)
            self._start(name, disk, self.rng.uniform(0.05, 0.4), self.rng.uniform(0, settings.heal_s) if late else 0.0)
        self._plan_faults()

    # ------------------------------------------------------------------ founding

    def _found(self) -> None:
        plan = self.plan.plan
        budget = max(1, plan.worth(plan.quota) * plan.max_members * (plan.rounds + 20))
        owner = self.leaders[0]
        self.terms = Terms(network=NETWORK, supply={owner: budget}, issuers={})
        self.origin, funder = self.terms.origin(f"run/{plan.run}"), self.terms.origin(owner)
        send = Send(to=f"run/{plan.run}", amount=budget)
        tree = Tree()
        tree.append(leaf_hash(send.encode()))
        self._fold = Fold(self.terms, signatures=False)
        self._fold.extend(funder, [send])
        self.certified([Begin(spec=self.spec), Recv(origin=funder, index=0, size=1, root=tree.root(1).hex())])

    def _start(self, name: str, disk: Disk, microbatch_s: float, time: float) -> None:
        def start() -> None:
            self.nodes[name] = StageNode(self, name, microbatch_s, disk)

        if time:
            self.clock.at(time, start)
        else:
            start()

    def _lead(self) -> SimLeader:
        self._lives += 1
        return SimLeader(self, self.leader_name, self._lives)

    # ------------------------------------------------------------------ faults

    def _plan_faults(self) -> None:
        settings, rng, clock = self.settings, self.rng, self.clock
        for _ in range(settings.kills):
            clock.at(rng.uniform(0, settings.heal_s), lambda: self.kill(self._somebody()))
        for _ in range(settings.worker_kills):
            clock.at(rng.uniform(0, settings.heal_s), lambda: self._somebody().lose_worker())
        for _ in range(settings.leader_kills):
            clock.at(rng.uniform(0, settings.heal_s), lambda: self.kill(self.leader))
        for _ in range(settings.cuts):
            clock.at(rng.uniform(0, settings.heal_s), self._cut_off)

    def _somebody(self) -> StageNode:
        return self.rng.choice([node for node in self.nodes.values() if node.alive] or list(self.nodes.values()))

    def _cut_off(self) -> None:
        name = self.rng.choice([*self.nodes, self.leader_name])
        self.net.cut_off[name] = min(self.clock.now + self.rng.choice([1.0, 6.0, 15.0]), self.settings.heal_s)

    def kill(self, node: StageNode | SimLeader) -> None:
        """kill -9 now; it is started again after a while, on its disk; another leader may be quicker."""
        if not node.alive:
            return
        node.die()
        back_s = self.rng.choice([0.2, 2.0, 8.0]) * self.rng.uniform(0.5, 1.5)
        back = min(self.clock.now + back_s, max(self.settings.heal_s, self.clock.now + 0.1))
        if isinstance(node, StageNode):
            self.reports["killed"] += 1
            self._start(node.name, node.disk, node.microbatch_s, back)
            return
        self.reports["leader killed"] += 1

        def lead() -> None:
            self.leader_name = self.rng.choice(self.leaders)
            self.leader = self._lead()

        self.clock.at(back, lead)

    def hazard(self, node: StageNode | SimLeader, point: str) -> bool:
        """Perhaps kill the node at this delicate point; whether it is dead."""
        if not node.alive:
            return True
        if self.clock.now >= self.settings.heal_s or self.rng.random() >= self.settings.hazard:
            return False
        self.reports[f"killed when {point}"] += 1
        self.kill(node)
        return True

    def breaks(self) -> bool:
        """Whether something that was asked for cannot be done this time."""
        return self.clock.now < self.settings.heal_s and self.rng.random() < self.settings.breaks

    # ------------------------------------------------------------------ what peers ask of the world

    def heard(self, status: Status, size: int) -> None:
        """A status arrives where the leader is."""
        if self.leader.alive:
            self.leader.heard(status, size)

    def provides(self, node: StageNode | SimLeader, has: Callable[[Disk], bool]) -> bool:
        """Whether a running peer, or the leader, has something."""
        disks = [other.disk for other in self.nodes.values() if other.alive]
        there = [updates for name, updates in self.fetched.items() if name != self.leader_name or self.leader.alive]
        return any(map(has, disks)) or any(has(Disk(updates=updates)) for updates in there)

    def balance(self) -> int:
        """The run account's spendable micro-credits."""
        return self._fold.ledger().runs[self.plan.plan.run].balance

    # ------------------------------------------------------------------ what is certified

    def certified(self, entries: Sequence[Entry]) -> None:
        """A quorum of witnesses cosigned these entries."""
        start = len(self.truth)
        self.truth += entries
        self._fold.extend(self.origin, entries)
        ledger = self._fold.ledger()
        assert not ledger.invalid, f"the ledger refuses {ledger.invalid[0]}"
        assert not ledger.voids, f"void: {ledger.voids[0]}"
        assert not ledger.pendings, f"pending: {ledger.pendings[0]}"
        assert conservation(ledger), "credits are not conserved"
        for entry in entries:
            match entry:
                case StageOpen():
                    self.rounds[entry.round] = entry.slots.count // self.plan.microbatch
                case StageSettle():
                    receipts = [cast(StageReceipt, entries[index - start]) for index in entry.receipts]
                    self._settled(entry, receipts)
                case Close():
                    self.closed_s = self.clock.now

    def _settled(self, entry: StageSettle, receipts: Sequence[StageReceipt]) -> None:
        served = [Counter[int]() for _ in range(self.plan.stages)]
        for receipt in receipts:
            stage, number, inside = self.updates[receipt.update]
            assert (stage, number) == (receipt.stage, receipt.round), "an update of another round or stage counts"
            assert sum(1 << microbatch for microbatch in inside) == receipt.bits, "a receipt says more than is inside"
            served[stage].update(inside)
        assert all(one == served[0] for one in served), f"round {entry.round}: stages served different sets"
        assert set(served[0].values()) <= {1}, f"round {entry.round}: counted twice"
        norms = [norm_of(stage, receipts) for stage in range(self.plan.stages)]
        before = self.states[entry.round - 1]
        after = tuple(applied(state, stage, receipts, norms) for stage, state in enumerate(before))
        assert entry.states == after, f"round {entry.round}: a stage's state is not what comes of the receipts"
        self.states[entry.round] = after
        self.counted += len(served[0])
        self.void += not receipts

    @property
    def over(self) -> bool:
        """The run is closed, and every peer is up and holds the final state of its stage."""
        count = self.settings.stages * self.settings.replicas + self.settings.spares + self.settings.joiners
        nodes = self.nodes.values()
        return bool(self.closed_s) and len(nodes) == count and all(one.alive and one.machine.finished for one in nodes)


def run(seed: int, settings: Settings | None = None) -> Outcome:
    """Play a seed through.

    Raises:
        AssertionError: an invariant broke, or the run did not end in time.
    """
    world = World(seed, settings)
    limit = world.settings.heal_s + 60 * world.settings.rounds
    world.clock.run(limit, lambda: world.over)
    log = world.leader.log
    told = f"{log.round} rounds, closed {world.closed_s:.0f} s, now {world.clock.now:.0f} s"
    assert world.closed_s, f"the run was not over in time: {told}"
    assert world.over, f"somebody does not hold the final state: {told}"
    return Outcome(
        seed=seed, rounds=log.round, void=world.void, microbatches=world.counted, opened=sum(world.rounds.values()),
        closed_s=world.closed_s, late_s=max(0.0, world.clock.now - world.settings.heal_s), calm=world.settings.calm,
        reports=world.reports, events=world.clock.events,
    )  # fmt: skip
