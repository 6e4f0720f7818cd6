"""One simulated run: `run(seed)` plays it through and returns how it ended; a broken invariant raises AssertionError.

Checked whenever entries are certified: the ledger's own rules accept them, none is void or pending, credits are
conserved, rounds settle once and in order, no sample is credited twice. Checked whenever a worker holds a state: it is
the log's. At the end: the run was closed in time, all hold its final state, and a fresh fold of the bytes agrees.

Pure: everything follows from the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import cast

from ledger.entries import Begin, Entry, Open, Receipt, Recv, Send, Settle, Slots, run_id
from ledger.fold.fold import Fold, Terms, conservation, fold
from ledger.merkle import Tree, leaf_hash
from scripts.simulation.clock import Clock
from tests.sim.beginnings import Beginnings
from tests.sim.faults import Faults
from tests.sim.guesses import Guesses
from tests.sim.net import Net, Weather
from tests.sim.node import Disk, Node, Traits
from tests.sim.settings import FIRST_STATE, NETWORK, TOKENS_PER_SLOT, Settings
from tests.sim.worker import held_out_loss


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    seed: int
    min_members: int
    rounds: int
    receipts: int
    reason: str
    closed_s: float
    """Virtual time of the close."""
    over_s: float
    """Virtual time when everybody held the final state."""
    late_s: float
    """By how much it was over after everything had healed."""
    kills: int
    leader_kills: int
    fewest: int
    """Receipts of the round with the fewest."""
    empty_rounds: int
    calm: bool
    """Whether nothing was done to the run."""
    reports: dict[str, int]
    events: int


class World:
    """All nodes, and what an observer who sees everything knows."""

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings = settings or Settings.draw(self.rng)
        self.clock = Clock()
        weather = Weather(delay_s=settings.delay_s, loss=settings.loss, repeat=settings.repeat)
        self.net = Net(self.clock, self.rng, weather)
        names = [sha256(f"{seed}/{place}".encode()).hexdigest() for place in range(settings.peers)]
        self.leader_name = names[0]
        self.spec = settings.spec(self.leader_name)
        self.plan = settings.plan(run=run_id(self.spec))
        self.nodes: dict[str, Node] = {}
        """Every peer's newest life by account."""
        self.truth: list[Entry] = []
        """The certified run log."""
        self.beginnings = Beginnings(self.plan)
        self.credited: set[int] = set()
        self.cancelled = False
        self.reports: Counter[str] = Counter()
        self.kills = self.leader_kills = 0
        self.outage = False
        """Whether no quorum of witnesses can be reached."""
        self.told_balances: dict[int, int] = {}
        """By size of the log: what a leader took the run's balance to be there, before that was certified."""
        self.guesses = Guesses(self.rng, settings.false_cuts)
        self.closed_s = 0.0
        self.settled_at: list[float] = []
        """Virtual time of every settle."""
        self.faults = Faults(self, flapper=names[-1] if names[1:] else "")
        self._found()
        self._people(names)
        self.faults.plan()

    @property
    def leader(self) -> Node:
        """The leader's newest life."""
        return self.nodes[self.leader_name]

    # ------------------------------------------------------------------ founding

    def _found(self) -> None:
        """The submitter funds the run, whose log begins."""
        plan, settings = self.plan, self.settings
        most = plan.worth(plan.quota) * settings.max_members * settings.rounds
        budget = max(1, int(most * settings.budget_share), plan.worth(plan.quota) * settings.min_members)
        self.terms = Terms(network=NETWORK, supply={self.leader_name: budget}, issuers={})
        self.origin, funder = self.terms.origin(f"run/{plan.run}"), self.terms.origin(self.leader_name)
        send = Send(to=f"run/{plan.run}", amount=budget)
        tree = Tree()
        tree.append(leaf_hash(send.encode()))
        self.funding = {funder: [send]}
        self._fold = Fold(self.terms, signatures=False)
        self._fold.extend(funder, [send])
        self.first = [Begin(spec=self.spec), Recv(origin=funder, index=0, size=1, root=tree.root(1).hex())]
        self.certified(0, self.first)

    def _people(self, names: list[str]) -> None:
        settings, rng = self.settings, self.rng
        for place, name in enumerate(names):
            disk = Disk(entries=list(self.first), states=[FIRST_STATE]) if place == 0 else Disk()
            late = place >= settings.peers - settings.joiners
            start = rng.uniform(0, settings.heal_s) if late else rng.uniform(0, 2)
            self._start(name, settings.traits(rng, place), disk, start if place else 0.0)

    def _start(self, name: str, traits: Traits, disk: Disk, time: float) -> None:
        def start() -> None:
            self.nodes[name] = self.net.hosts[name] = Node(self, name, traits, disk)

        self.clock.at(time, start) if time else start()

    # ------------------------------------------------------------------ kills

    def kill(self, node: Node, back_s: float | None = None) -> None:
        """kill -9 now; it is started again after a while, on its disk."""
        if not node.alive:
            return
        node.die()
        del self.net.hosts[node.name]
        self.kills += 1
        self.leader_kills += node.leader is not None
        back_s = back_s or self.rng.choice([0.3, 2.0, 8.0, 40.0]) * self.rng.uniform(0.5, 1.5)
        back = min(self.clock.now + back_s, max(self.settings.heal_s, self.clock.now + 0.1))
        self._start(node.name, node.traits, node.disk, back)

    def usurp(self) -> None:
        """Another node leads from now on, and goes on from what is certified; what else was signed is lost."""
        old = self.leader
        others = [node for node in self.nodes.values() if node.alive and node is not old and not node.traits.hostile]
        if not others or self.closed_s:
            return
        new = self.rng.choice(others)
        self.reports["usurped"] += 1
        self.reports["tail lost"] += bool(old.log.tail)
        if old.leader is not None:
            old.leader.over, old.leader = True, None
        old.disk.appended = []
        self.leader_name = new.name
        self.told_balances.clear()
        new.lead(self.truth)

    def hazard(self, node: Node, point: str) -> bool:
        """Perhaps kill the node at this delicate point; whether it was."""
        if self.clock.now >= self.settings.heal_s or not self.hit(self.settings.hazard):
            return False
        self.reports[f"killed when {point}"] += 1
        self.kill(node)
        return True

    # ------------------------------------------------------------------ what nodes ask of the world

    def hit(self, chance: float) -> bool:
        """A throw of the dice."""
        return chance > 0 and self.rng.random() < chance

    def certify_s(self) -> float:
        """How long the witnesses take."""
        return self.rng.expovariate(1 / 0.1)

    def balance(self) -> int:
        """The run account's spendable micro-credits."""
        return self._fold.ledger().runs[self.plan.run].balance

    def provided(self, node: Node, blob: str) -> bool:
        """Whether some running node that can be reached has the blob."""
        return any(
            other.alive and other is not node and other.has(blob) and self.net.reaches(node.name, other.name)
            for other in self.nodes.values()
        )

    def lies(self, receipt: Receipt) -> Sequence[Receipt]:
        """Receipts that must be refused."""
        start, count = receipt.slots
        victim = self.rng.choice(list(self.nodes))
        lies = (
            replace(receipt, run="77" * 32),
            replace(receipt, network="77" * 32),
            replace(receipt, round=receipt.round + 1),
            replace(receipt, state_in=FIRST_STATE.replace("0", "1")),
            replace(receipt, slots=Slots(start + 1, count)),
            replace(receipt, slots=Slots(start, self.plan.quota + 1), tokens=(self.plan.quota + 1) * TOKENS_PER_SLOT),
            replace(receipt, tokens=receipt.tokens + 1),
            replace(receipt, signature="11" * 64),
            *([replace(receipt, account=victim)] if victim != receipt.account else []),
        )
        return self.rng.sample(lies, 3)

    # ------------------------------------------------------------------ invariants

    def certified(self, start: int, entries: Sequence[Entry]) -> None:
        """Entries are in the certified log now: they must obey every rule."""
        assert start == len(self.truth), "the log does not grow at its end"
        for entry in entries:
            if isinstance(entry, Settle):
                self._settled(start, entries, entry)
            elif isinstance(entry, Open):
                self.faults.opened(entry)
        self.truth += entries
        self.beginnings.certified(entries)
        self._fold.extend(self.origin, entries)
        ledger = self._fold.ledger()
        assert not ledger.invalid, f"the ledger refuses {ledger.invalid[0]}"
        assert not ledger.voids, f"void: {ledger.voids[0]}"
        assert not ledger.pendings, f"pending: {ledger.pendings[0]}"
        assert conservation(ledger), "credits are not conserved"
        told, got = self.told_balances.pop(len(self.truth), None), self.balance()
        assert told in (None, got) or ledger.runs[self.plan.run].closed, f"the leader took {got} to be {told}"
        if ledger.runs[self.plan.run].closed:
            self.closed_s = self.clock.now

    def _settled(self, start: int, entries: Sequence[Entry], settle: Settle) -> None:
        self.settled_at.append(self.clock.now)
        self.reports += self.guesses.settled(settle.round, settle.state)
        if settle.validation:
            assert settle.validation.loss == held_out_loss(settle.validation.round), "a lie became a held-out loss"
        for index in settle.receipts:
            receipt = cast(Receipt, entries[index - start])
            slots = set(range(receipt.slots.start, sum(receipt.slots)))
            assert not slots & self.credited, f"slots credited twice in round {settle.round}"
            self.credited |= slots

    def holds(self, node: Node, round_number: int, state: str) -> None:
        """A worker holds a state: unless a bit flipped, it is the log's."""
        if round_number <= node.log.round and not self.settings.bit_flips:
            assert node.log.state_after(round_number) == state, f"another state after round {round_number}"

    @property
    def over(self) -> bool:
        """The run is closed, and every peer is up and holds its final state."""
        if not self.closed_s or len(self.nodes) < self.settings.peers:
            return False
        return all(node.alive and node.member.machine.finished for node in self.nodes.values())


def run(seed: int) -> Outcome:
    """Play a seed through.

    Raises:
        AssertionError: an invariant broke, or the run did not end in time.
    """
    return play(World(seed))


def play(world: World) -> Outcome:
    """Play a run to its end, as `run` does with that of a seed."""
    limit = world.settings.heal_s + world.settings.patience_s
    world.clock.run(limit, lambda: world.over)
    told = f"closed {world.closed_s:.0f} s, now {world.clock.now:.0f} s, {world.leader.log.round} rounds"
    assert world.closed_s, f"the run was not over in time: {told}"
    assert world.over, f"somebody does not hold the final state: {told}"
    run = {world.origin: [entry.encode() for entry in world.truth]}
    prefixes: dict[str, Iterable[bytes | Entry]] = {**world.funding, **run}
    ledger = fold(prefixes, world.terms, signatures=False)
    account, log = ledger.runs[world.plan.run], world.leader.log
    assert account.closed
    assert (ledger.voids, ledger.invalid) == ((), ())
    assert conservation(ledger)
    paid = sum(world.plan.worth(receipt.slots.count) for done in log.settled for receipt in done.receipts)
    assert sum(account.paid.values()) == paid, "somebody was paid for something else than a settled receipt"
    assert [done.round for done in log.settled] == list(range(1, log.round + 1)), "rounds out of order"
    assert log.close is not None
    return Outcome(
        seed=world.seed,
        min_members=world.plan.min_members,
        rounds=log.round,
        receipts=sum(len(done.receipts) for done in log.settled),
        reason=log.close.reason,
        closed_s=world.closed_s,
        over_s=world.clock.now,
        late_s=max(0.0, world.clock.now - world.settings.heal_s),
        kills=world.kills,
        leader_kills=world.leader_kills,
        fewest=min((len(done.receipts) for done in log.settled), default=world.plan.max_members),
        calm=world.settings.calm,
        empty_rounds=sum(not done.receipts for done in log.settled),
        reports=world.reports,
        events=world.clock.events,
    )
