"""One simulated run: `run(settings)` plays it through on a virtual clock and returns its figures.

The machines are the daemon's own (`peer.rounds`). Lines are fluids, members are honest, the leader and the witnesses
never fail; docs/simulation.md says what else is left out.

Pure: everything follows from the settings, the seed among them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from hashlib import sha256

from ledger.codec import Json
from ledger.entries import Begin, Entry
from peer.rounds.log import RunLog
from peer.rounds.plan import Plan
from scripts.simulation.clock import Clock
from scripts.simulation.grouping import Ranges, Tree
from scripts.simulation.leader import SimLeader
from scripts.simulation.member import SimMember
from scripts.simulation.people import HOUR_S, account, draw, population, sessions
from scripts.simulation.schemes import Flat, Lean, Scheme
from scripts.simulation.settings import Settings
from scripts.simulation.tally import Figures, Tally

NETWORK = "9e" * 32
RUN = "7a" * 32
ENDLESS = 1_000_000
SCHEMES: dict[str, type[Scheme]] = {"flat": Flat, "lean": Lean, "tree": Tree, "ranges": Ranges}


class World:
    """Everybody, and the run's log."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rng = random.Random(f"simulation/{settings.seed}")
        self.clock = Clock()
        self.tally = Tally()
        self.plan = Plan(
            network=NETWORK,
            run=RUN,
            rounds=ENDLESS,
            quota=settings.quota,
            batch_size=settings.batch_size,
            tokens_per_slot=settings.tokens_per_slot,
            price=0,
            min_members=settings.min_members,
            max_members=2 * population(settings),
            evaluate_every=0,
            time_budget_s=settings.time_budget_s,
        )
        self.log = RunLog()
        """The leader's."""
        self.view = RunLog()
        """The same as it was after the last append; the members' machines read it and it never changes."""
        self.extend([Begin(spec=self._spec())])
        self.members: dict[str, SimMember] = {}
        self.leader = SimLeader(self)
        self.scheme = SCHEMES[settings.scheme](settings, self.tally, lambda name: self.members[name].alive)
        self._people()

    def _spec(self) -> dict[str, Json]:
        leader, file = account(self.settings.seed, 0), self.blob("file", 7)
        return {
            "version": 1, "name": "simulated", "submitter": leader, "leaders": [leader], "price": 0,
            "tokens_per_slot": self.settings.tokens_per_slot, "slots_per_epoch": 1_000_000, "rounds": ENDLESS,
            "nonce": "ab" * 16, "config": {},
            "blobs": {"model": file, "tokenizer": file, "manifest": file, "state": self.next_state(0)},
        }  # fmt: skip

    def _people(self) -> None:
        """Who is online when; whoever is at the start holds the first state."""
        for place in range(1, population(self.settings) + 1):
            person = draw(self.rng, self.settings, place)
            times = list(sessions(self.rng, self.settings))
            first = (0, self.next_state(0)) if times and times[0][0] == 0.0 else None
            member = self.members[person.name] = SimMember(self, person, first)
            if first is not None:
                self.leader.machine.roll.beat(person.name, first[1], 0.0)  # so that the first round has all of them
            for start, end in times:
                crash = self.rng.random() < self.settings.crash_share
                self.clock.at(start, member.start)
                if end < self.settings.hours * HOUR_S:
                    self.clock.at(end, lambda member=member, crash=crash: member.end(crash=crash))  # type: ignore[misc]

    # ------------------------------------------------------------------ what the others ask

    def live(self) -> list[SimMember]:
        """Members online."""
        return [member for member in self.members.values() if member.alive]

    def blob(self, what: str, size: int) -> str:
        """An id that stands for a blob."""
        return f"{sha256(what.encode()).hexdigest()}-{size}"

    def next_state(self, round_number: int) -> str:
        """Id of the state after a round."""
        return self.blob(f"state {round_number}", self.settings.state_bytes)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Entries are certified."""
        self.log.extend(list(entries))
        self.view = copy.copy(self.log)
        for name, value in vars(self.log).items():
            if isinstance(value, list | dict | set):
                setattr(self.view, name, value.copy())


def run(settings: Settings) -> Figures:
    """Play one run through."""
    world = World(settings)
    world.clock.run(settings.hours * HOUR_S, lambda: False)
    world.clock.now = settings.hours * HOUR_S
    for member in world.live():
        member.end(crash=True)
    sent, received = sum(world.tally.up.values()), sum(world.tally.down.values())
    assert abs(sent - received) <= 1e-6 * sent, f"{sent:.0f} bytes sent, {received:.0f} received"
    return world.tally.figures(settings)
