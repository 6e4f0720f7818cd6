"""What is done to a simulated run: kills at any time, members that flap, cut lines, a cancel.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.entries import Open
from peer.rounds import messages as rounds

if TYPE_CHECKING:
    from tests.sim.world import World


class Faults:
    """The faults of one world, as its settings want them."""

    def __init__(self, world: World, *, flapper: str) -> None:
        """`flapper`: the peer that is killed again and again in mid-round, where the settings say so."""
        self._world = world
        self.flapper = flapper
        self._flaps = 0

    def plan(self) -> None:
        """Put all faults that do not depend on what happens into the clock."""
        world = self._world
        settings, rng, clock, heal_s = world.settings, world.rng, world.clock, world.settings.heal_s
        for _ in range(settings.kills):
            clock.at(rng.uniform(0, heal_s), lambda: self._kill_some(rng.random()))
        for _ in range(settings.leader_kills):
            clock.at(rng.uniform(0, heal_s), lambda: world.kill(world.leader))
        if settings.everyone_killed:
            clock.at(rng.uniform(0, heal_s), self._kill_all)
        for _ in range(settings.cuts):
            clock.at(rng.uniform(0, heal_s), self._cut_off)
        for _ in range(settings.outages):
            clock.at(rng.uniform(0, heal_s), self._no_quorum)
        if settings.cancel:
            clock.at(rng.uniform(0, heal_s), self._cancel)

    def opened(self, entry: Open) -> None:
        """The flapper is killed soon after it was rostered, and stays away until that was noticed."""
        world = self._world
        named = any(seat.account == self.flapper for seat in entry.roster)
        if not named or self._flaps >= world.settings.flaps or world.clock.now >= world.settings.heal_s:
            return
        self._flaps += 1
        at, back_s = world.clock.now + world.rng.uniform(0.1, 1.0), world.rng.uniform(4.0, 6.0)
        world.clock.at(at, lambda: world.kill(world.nodes[self.flapper], back_s=back_s))

    def _kill_some(self, share: float) -> None:
        others = [node for name, node in self._world.nodes.items() if name != self._world.leader_name]
        if others:
            self._world.kill(others[int(share * len(others))])

    def _kill_all(self) -> None:
        for node in list(self._world.nodes.values()):
            self._world.kill(node)

    def _cut_off(self) -> None:
        world = self._world
        name = world.rng.choice(list(world.nodes))
        until = min(world.clock.now + world.rng.choice([1.0, 5.0, 30.0]), world.settings.heal_s)
        world.net.weather.cut_off[name] = until

    def _no_quorum(self) -> None:
        """For a while nothing is certified, and some members are apart; then this leader goes on, or another one."""
        world = self._world
        if world.outage:
            return
        world.outage = True
        others = [name for name in world.nodes if name != world.leader_name]
        world.net.weather.apart = frozenset(name for name in others if world.rng.random() < 0.4)
        until = min(world.clock.now + world.rng.choice([2.0, 20.0, 90.0]), max(world.settings.heal_s, world.clock.now))

        def over() -> None:
            world.outage, world.net.weather.apart = False, frozenset()
            if world.hit(world.settings.usurpers):
                world.usurp()

        world.clock.at(until, over)

    def _cancel(self) -> None:
        world = self._world
        world.cancelled = True
        leader = world.leader.leader
        if world.leader.alive and leader is not None and leader.machine is not None:
            leader.tell(rounds.Cancel(reason="cancelled"))
