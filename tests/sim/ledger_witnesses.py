"""One simulated network of witnesses: `run(seed)` plays it through; what must never happen raises `Violation`.

Checked at every step (`tests.sim.ledger_witnesses_observer`): no two heads of a log that contradict each other can both
be certified; no honest witness cosigns two such heads, before and after any crash; every replica's money adds up; no
honest owner is accused. At the end, a bounded time after all has healed: every honest owner's entries are certified,
all honest replicas have the same ledger, and every owner that showed two honest witnesses two logs is proven guilty.

Pure: everything follows from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from unittest import mock

from ledger import keys
from ledger.errors import LedgerError
from ledger.evidence import Evidence, verify
from ledger.fold.fold import conservation, fold
from scripts.simulation.clock import Clock
from tests.sim.ledger_witnesses_faulty import Equivocator, Liar
from tests.sim.ledger_witnesses_nodes import Node, WitnessNode
from tests.sim.ledger_witnesses_observer import Observer, Violation
from tests.sim.ledger_witnesses_owners import Leader, Owner
from tests.sim.ledger_witnesses_parts import ACCOUNTS, LEADERS, Disk, Killed, WitnessNet, network
from tests.sim.net import Weather

CERTIFIED_S = 20.0
"""Virtual seconds after the healing within which every honest owner's entries must be certified."""
PATIENCE_S = 240.0
"""Virtual seconds after the healing within which all must have heard of it from somebody whom they asked by chance."""

_verify_once = lru_cache(maxsize=1 << 16)(keys.verify)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One network's circumstances."""

    witnesses: int
    faulty: tuple[str, ...]
    """How each faulty witness is faulty."""
    owners: int
    equivocators: int
    leaders: int
    heal_s: float
    """After this time nothing is lost, killed or cut off any more, and everybody is back."""
    hazard: float
    """Chance to be killed at each side of each commit."""
    kills: int
    cuts: int
    splits: int
    delay_s: float
    loss: float
    repeat: float
    pull_s: float
    work_s: float

    @classmethod
    def draw(cls, rng: random.Random, *, excess: int = 0) -> Settings:
        """Circumstances under which everything must hold, but for `excess` faulty witnesses too many."""
        witnesses = rng.choice([4, 4, 4, 7])
        most = (witnesses - 1) // 3
        stormy = rng.random() < 0.8
        number = most + excess if excess else rng.choice([0, *[most] * 4])
        return cls(
            witnesses=witnesses,
            faulty=tuple(rng.choice([*Liar.KINDS, "forgets"]) for _ in range(number)),
            owners=rng.randint(1, 3),
            equivocators=rng.choice([0, 1, 1, 2]) if not excess else 2,
            leaders=rng.choice([0, 0, 1, 2]),
            heal_s=rng.uniform(6, 16),
            hazard=rng.choice([0.0, 0.01, 0.05]) if stormy else 0.0,
            kills=rng.randint(0, 6) if stormy else 0,
            cuts=rng.randint(0, 3) if stormy else 0,
            splits=rng.randint(0, 2) if stormy else 0,
            delay_s=rng.choice([0.01, 0.1, 0.5]),
            loss=rng.choice([0.0, 0.05, 0.2]) if stormy else 0.0,
            repeat=rng.choice([0.0, 0.2]),
            pull_s=rng.uniform(1.5, 4),
            work_s=rng.uniform(1.5, 5),
        )


class World:
    """All nodes of one network."""

    honest_witness: type[WitnessNode] = WitnessNode
    """What the witnesses are that should follow the rules."""
    forgetful: bool = False
    """Whether everybody's disk loses what it was told to keep."""

    def __init__(self, seed: int, *, excess: int = 0) -> None:
        self.rng = rng = random.Random(seed)
        self.settings = settings = Settings.draw(rng, excess=excess)
        self.genesis = network(settings.witnesses)
        self.clock = Clock()
        weather = Weather(delay_s=settings.delay_s, loss=settings.loss, repeat=settings.repeat)
        self.net = WitnessNet(self.clock, rng, weather)
        names = [name for name, _ in self.genesis.witnesses]
        rng.shuffle(names)
        self.faulty = dict(zip(names, settings.faulty, strict=False))
        self.observer = Observer(self.genesis, set(names) - set(self.faulty))
        self.nodes: dict[str, Node] = {}
        """The newest life of everybody who has a store, by name."""
        for name in sorted(names):
            if self.faulty.get(name, "forgets") == "forgets":
                self._boot(name, self.honest_witness if name in self.observer.honest else WitnessNode)
            else:
                self.net.hosts[name] = Liar(self, name, self.faulty[name])
        accounts = [name for name in ACCOUNTS if name not in LEADERS]
        for name in accounts[: settings.owners]:
            self._boot(name, Owner)
        for name in accounts[settings.owners : settings.owners + settings.equivocators]:
            self.net.hosts[name] = Equivocator(self, name)
        for name in LEADERS[: settings.leaders]:
            self._boot(name, Leader)
        self._plan_faults()

    def _boot(self, name: str, kind: type[Node]) -> None:
        def step(point: str) -> None:
            if self.clock.now < self.settings.heal_s and self.rng.random() < self.settings.hazard:
                self.observer.events[f"killed {point}"] += 1
                raise Killed

        forgetful = self.forgetful or self.faulty.get(name) == "forgets"
        self.nodes[name] = self.net.hosts[name] = kind(self, name, Disk(self.genesis, step, forgetful=forgetful))

    def _plan_faults(self) -> None:
        settings, rng = self.settings, self.rng
        forgetful = [name for name, kind in self.faulty.items() if kind == "forgets"]
        for _ in range(settings.kills):
            self.clock.at(rng.uniform(0, settings.heal_s), lambda: self.kill(rng.choice(list(self.nodes.values()))))
        for name in forgetful * 4:
            self.clock.at(rng.uniform(0, settings.heal_s), lambda name=name: self.kill(self.nodes[name]))  # type: ignore[misc]
        for _ in range(settings.cuts):
            self.clock.at(rng.uniform(0, settings.heal_s), self._cut_off)
        for _ in range(settings.splits):
            self.clock.at(rng.uniform(0, settings.heal_s), self._split)
        self.clock.at(settings.heal_s, self._heal)

    def _cut_off(self) -> None:
        name = self.rng.choice(list(self.net.hosts))
        self.net.weather.cut_off[name] = min(self.clock.now + self.rng.uniform(1, 10), self.settings.heal_s)

    def _split(self) -> None:
        self.net.sides = {name: self.rng.randrange(2) for name in self.net.hosts}
        self.net.split_until = min(self.clock.now + self.rng.uniform(1, 10), self.settings.heal_s)

    def _heal(self) -> None:
        self.net.weather.loss = 0.0
        self.net.weather.delay_s = min(self.net.weather.delay_s, 0.1)

    def kill(self, node: Node) -> None:
        """kill -9 now; it is started again after a while, on its disk."""
        if not node.alive:
            return
        node.alive = False
        node.disk.power_off(self.rng)
        del self.net.hosts[node.name]
        self.observer.events["killed"] += 1

        def start() -> None:
            self.nodes[node.name] = self.net.hosts[node.name] = type(node)(self, node.name, node.disk)

        back = self.clock.now + self.rng.choice([0.1, 1.0, 5.0])
        self.clock.at(min(back, max(self.settings.heal_s, self.clock.now + 0.1)), start)

    # ------------------------------------------------------------------ what must hold

    def check_accused(self, origin: str) -> None:
        """Evidence names a log: it must not be an honest account's."""
        self.observer.accused.add(origin)
        if origin in {node.origin for node in self.owners}:
            raise Violation(f"honest owner {origin[-10:]} is accused")

    def cannot_sign(self, owner: Owner, exc: LedgerError) -> None:
        """An honest owner could not sign: only a leader that was overtaken may not."""
        self.observer.events[f"a leader cannot sign: {exc.code}"] += 1
        if not isinstance(owner, Leader):
            raise Violation(f"honest owner {owner.name} cannot sign: {exc}")

    @property
    def owners(self) -> list[Owner]:
        """Honest owners of accounts."""
        return [node for node in self.nodes.values() if isinstance(node, Owner) and not isinstance(node, Leader)]

    @property
    def honest(self) -> list[Node]:
        """Everybody with a store who follows the rules."""
        return [node for name, node in self.nodes.items() if name not in self.faulty]

    @property
    def uncertified(self) -> str:
        """An honest owner who has entries that are not certified."""
        return next((owner.name for owner in self.owners if not owner.alive or not owner.settled), "")

    @property
    def missing(self) -> str:
        """What has not come right yet; empty when all has."""
        if self.uncertified:
            return f"entries of {self.uncertified} are not certified"
        heads = [node.heads() for node in self.honest]
        if any(other != heads[0] for other in heads):
            return "the replicas differ"
        witnesses = [node for node in self.honest if isinstance(node, WitnessNode)]
        for origin in sorted({origin for _, origin in self.observer.released}):
            if "/run/" not in origin and self.observer.contradicted(origin):
                unaware = [node.name for node in witnesses if not node.store.evidence(origin)]
                if unaware:
                    return f"{', '.join(unaware)} has no evidence against {origin[-10:]}"
        return ""


def run(seed: int, *, excess: int = 0, world: type[World] = World) -> dict[str, int]:
    """Play a seed through; what happened how often.

    Raises:
        Violation: a rule broke, or all was not well in time.
    """
    played = world(seed, excess=excess)
    settings, observer = played.settings, played.observer
    looked = settings.heal_s

    def well() -> bool:
        nonlocal looked
        if played.clock.now < looked + 1.0:
            return False
        looked = played.clock.now
        if played.clock.now > settings.heal_s + CERTIFIED_S and played.uncertified:
            raise Violation(f"{CERTIFIED_S:.0f} s after the healing: entries of {played.uncertified} are not certified")
        return not played.missing

    with mock.patch.object(keys, "verify", _verify_once):  # the same answers, sooner
        played.clock.run(settings.heal_s + PATIENCE_S, well)
    if missing := played.missing:
        raise Violation(f"{PATIENCE_S:.0f} s after the healing: {missing}")
    final(played)
    observer.events["healed after s"] = int(played.clock.now - settings.heal_s)
    observer.events["virtual messages"] = played.clock.events
    return dict(observer.events)


def final(played: World) -> None:
    """All replicas agree with a fold from the bytes, and evidence convinces a stranger."""
    genesis, nodes = played.genesis, played.honest
    heads = nodes[0].heads()
    prefixes = {origin: nodes[0].store.entries(origin, 0, size) for origin, size in heads.items()}
    ledger = fold(prefixes, genesis.terms)
    if not conservation(ledger) or ledger.invalid:
        raise Violation("a fold of all bytes does not add up")
    for node in nodes:
        if node.store.ledger() != ledger:
            raise Violation(f"{node.name} has another ledger than a fold of its bytes")
        for origin in node.accused():
            for evidence in node.store.evidence(origin):
                if verify(Evidence.parse(evidence.encode()), genesis.terms)[0] != origin:
                    raise Violation(f"{node.name} holds evidence against somebody else")
    for owner in played.owners:
        voids = [void for void in ledger.voids if void.origin == owner.origin]
        if voids:
            raise Violation(f"an entry of honest owner {owner.name} is void: {voids[0]}")
    played.observer.events["logs contradicted"] = sum(
        played.observer.contradicted(origin) for origin in {origin for _, origin in played.observer.released}
    )
