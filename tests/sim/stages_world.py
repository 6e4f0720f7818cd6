"""One simulated run with stages: `run(seed)` plays it through; a broken rule raises AssertionError.

What must hold is in `stages_checker`; besides, the run is closed in time, and all hold the final state.

Pure: everything follows from the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256

from ledger.entries import Begin, Entry, Recv, Send, run_id
from ledger.fold.fold import Fold, Terms
from ledger.merkle import Tree, leaf_hash
from scripts.simulation.clock import Action, Clock
from tests.sim.settings import NETWORK
from tests.sim.stages_checker import Checker
from tests.sim.stages_faults import StageFaults
from tests.sim.stages_leader import LeaderDisk, SimLeader
from tests.sim.stages_node import Disk, StageNode
from tests.sim.stages_settings import Settings
from tests.sim.stages_worker import first_state

VERY_LATE = 50
"""What is repeated comes so many times later than what is not: perhaps in another round."""


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
        for late in (1, VERY_LATE)[: 1 + (rng.random() < settings.repeat)]:
            if rng.random() >= settings.loss:
                self._clock.at(now + late * rng.expovariate(1 / settings.delay_s), arrive)


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
    """All peers, and the log as it is certified."""

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(f"stages/{seed}")
        self.settings = settings = settings or Settings.draw(self.rng)
        self.clock = Clock()
        self.net = Lines(self.clock, self.rng, settings)
        count = settings.peers - settings.joiners
        names = [sha256(f"{seed}/{place}".encode()).hexdigest() for place in range(settings.peers)]
        self.leaders = [sha256(f"{seed}/leader {place}".encode()).hexdigest() for place in range(settings.leaders)]
        self.spec = settings.spec(self.leaders)
        self.plan = settings.plan(run_id(self.spec))
        self.nodes: dict[str, StageNode] = {}
        self.disks = {name: LeaderDisk() for name in self.leaders}
        self.leading: dict[str, SimLeader] = {}
        """By name; two, while not everybody knows that another one leads."""
        self.down: set[str] = set()
        """Leaders that were killed, and are not back."""
        self.follows: dict[str, str] = {}
        """By member: the leader that it goes by."""
        self.truth: list[Entry] = []
        self.cancelled = False
        self.outage_until = 0.0
        self.reports: Counter[str] = Counter()
        self.checker = Checker(self)
        self.faults = StageFaults(self)
        self._found()
        self.lead(self.leaders[0])
        for place, name in enumerate(names):
            disk, late = Disk(entries=list(self.truth)), place >= count
            if not late:
                stage = place % settings.stages
                disk.states[0] = stage, first_state(stage)
            microbatch_s = settings.pace * self.rng.uniform(0.05, 0.4)
            self.start(name, disk, microbatch_s, self.rng.uniform(0, settings.heal_s) if late else 0.0)
        self.faults.plan()

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
        self.fold = Fold(self.terms, signatures=False)
        self.fold.extend(funder, [send])
        self.take([Begin(spec=self.spec), Recv(origin=funder, index=0, size=1, root=tree.root(1).hex())])

    def start(self, name: str, disk: Disk, microbatch_s: float, time: float) -> None:
        """Have a member started."""

        def start() -> None:
            self.nodes[name] = StageNode(self, name, microbatch_s, disk)

        if time:
            self.clock.at(time, start)
        else:
            start()

    def lead(self, name: str) -> None:
        """This one leads from now on."""
        self.leading[name] = SimLeader(self, name, self.disks[name])

    def ended(self, leader: SimLeader) -> None:
        """It found out that another one leads; if that one is gone, somebody has to."""
        del self.leading[leader.name]
        if not self.leading:
            self.lead(self.rng.choice([name for name in self.disks if name not in self.down]))

    # ------------------------------------------------------------------ what peers ask of the world

    def leader_of(self, member: str) -> SimLeader | None:
        """The leader that a member goes by; where it is gone, the next heartbeat goes to another one."""
        leader = self.leading.get(self.follows.get(member, ""))
        if leader is None and self.leading:
            self.follows[member] = self.rng.choice(list(self.leading))
        return leader

    def hazard(self, node: StageNode | SimLeader, point: str) -> bool:
        """Perhaps kill the node at this delicate point; whether it is dead."""
        return self.faults.hazard(node, point)

    def breaks(self) -> bool:
        """Whether something that was asked for cannot be done this time."""
        return self.clock.now < self.settings.heal_s and self.rng.random() < self.settings.breaks

    def provides(self, has: Callable[[Set[str], Collection[tuple[int, str]]], bool]) -> bool:
        """Whether a running peer has something, given its updates and its states."""
        nodes = [node.disk for node in self.nodes.values() if node.alive]
        leaders = [disk for name, disk in self.disks.items() if name not in self.down]
        return any(has(disk.updates, disk.states.values()) for disk in nodes) or any(
            has(disk.updates, ()) for disk in leaders
        )

    def certify_s(self) -> float:
        """How long the witnesses take."""
        return self.rng.expovariate(1 / self.settings.certify_s)

    @property
    def no_quorum(self) -> bool:
        """Whether nothing can be certified just now."""
        return self.clock.now < self.outage_until

    def balance(self) -> int:
        """The run account's spendable micro-credits."""
        return self.fold.ledger().runs[self.plan.plan.run].balance

    def certified(self, leader: SimLeader, entries: Sequence[Entry]) -> None:
        """A quorum of witnesses cosigned what this leader signed; the others find out."""
        self.take(entries)
        for other in self.leading.values():
            if other is not leader:
                other.after(self.rng.expovariate(1 / 0.3), other.end)

    def take(self, entries: Sequence[Entry]) -> None:
        """Entries are in the certified log now."""
        self.truth += entries
        self.fold.extend(self.origin, entries)
        self.checker.certified(entries)

    @property
    def over(self) -> bool:
        """The run is closed, and every peer is up and holds the final state of its stage."""
        nodes = self.nodes.values()
        return bool(self.checker.closed_s) and len(nodes) == self.settings.peers and all(map(self.checker.final, nodes))


def run(seed: int, settings: Settings | None = None) -> Outcome:
    """Play a seed through.

    Raises:
        AssertionError: a rule was broken, or the run did not end in time.
    """
    world = World(seed, settings)
    settings, checker = world.settings, world.checker
    world.clock.run(settings.limit_s, lambda: world.over)
    rounds = max(checker.states)
    told = f"{rounds} rounds, closed {checker.closed_s:.0f} s, now {world.clock.now:.0f} s"
    assert checker.closed_s, f"the run was not over in time: {told}"
    assert world.over, f"somebody does not hold the final state: {told}"
    return Outcome(
        seed=seed, rounds=rounds, void=checker.void, microbatches=checker.counted, opened=checker.opened,
        closed_s=checker.closed_s, late_s=max(0.0, world.clock.now - settings.heal_s), calm=settings.calm,
        reports=world.reports, events=world.clock.events,
    )  # fmt: skip
