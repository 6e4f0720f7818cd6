"""What is done to a simulated run with stages: kills at any time and at delicate points, cut lines, other leaders.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.stages_leader import SimLeader
from tests.sim.stages_node import StageNode

if TYPE_CHECKING:
    from tests.sim.stages_world import World


class StageFaults:
    """The faults of one world, as its settings want them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def plan(self) -> None:
        """Put all faults that do not depend on what happens into the clock."""
        world, kinds = self._world, self._world.settings
        self._often(kinds.kills, lambda: self.kill(self._somebody()))
        self._often(kinds.worker_kills, lambda: self._somebody().lose_worker())
        self._often(kinds.leader_kills, lambda: [self.kill(leader) for leader in list(world.leading.values())])
        self._often(kinds.usurpers, self._usurp)
        self._often(kinds.cuts, self._cut_off)
        self._often(kinds.outages, self._no_quorum)

    def _often(self, times: int, action: Callable[[], object]) -> None:
        for _ in range(times):
            self._world.clock.at(self._world.rng.uniform(0, self._world.settings.heal_s), action)

    def _somebody(self) -> StageNode:
        nodes = self._world.nodes.values()
        return self._world.rng.choice([node for node in nodes if node.alive] or list(nodes))

    def _until(self, seconds: float) -> float:
        return min(self._world.clock.now + seconds * self._world.settings.pace, self._world.settings.heal_s)

    def _cut_off(self) -> None:
        world = self._world
        name = world.rng.choice([*world.nodes, *world.leading])
        world.net.cut_off[name] = self._until(world.rng.choice([1.0, 6.0, 15.0]))

    def _no_quorum(self) -> None:
        """Nothing is certified for a while; perhaps somebody else leads before it is again."""
        world = self._world
        world.outage_until = self._until(world.rng.choice([1.0, 4.0, 12.0]))
        if world.settings.usurpers:
            world.clock.at(world.rng.uniform(world.clock.now, world.outage_until), self._usurp)

    def _usurp(self) -> None:
        """Another leader begins; members come over one after the other, and the old one finds out in the end."""
        world, rng = self._world, self._world.rng
        others = [name for name in world.disks if name not in world.leading and name not in world.down]
        if not others or not world.leading:
            return
        world.reports["usurped"] += 1
        new, old = rng.choice(others), list(world.leading.values())
        world.lead(new)

        def come_over(name: str) -> None:
            if new in world.leading:
                world.follows[name] = new

        long_s = rng.choice([2.0, 8.0, 20.0])
        for name in world.nodes:
            late_s = rng.choice([0.2, long_s]) * rng.random()
            world.clock.at(self._until(late_s), lambda name=name: come_over(name))  # type: ignore[misc]
        for leader in old:
            world.clock.at(self._until(rng.uniform(0.3, 1.2) * long_s), leader.end)

    def kill(self, node: StageNode | SimLeader) -> None:
        """kill -9 now; it is started again after a while, on its disk; another leader may be quicker."""
        if not node.alive:
            return
        world = self._world
        node.die()
        back_s = world.settings.pace * world.rng.choice([0.2, 2.0, 8.0]) * world.rng.uniform(0.5, 1.5)
        back = min(world.clock.now + back_s, max(world.settings.heal_s, world.clock.now + 0.1))
        if isinstance(node, StageNode):
            world.reports["killed"] += 1
            world.start(node.name, node.disk, node.microbatch_s, back)
            return
        world.reports["leader killed"] += 1
        world.down.add(node.name)
        del world.leading[node.name]

        def lead() -> None:
            world.down.discard(node.name)
            if not world.leading:
                world.lead(world.rng.choice([name for name in world.disks if name not in world.down]))

        world.clock.at(back, lead)

    def hazard(self, node: StageNode | SimLeader, point: str) -> bool:
        """Perhaps kill the node at this delicate point; whether it is dead."""
        world = self._world
        if not node.alive:
            return True
        if world.clock.now >= world.settings.heal_s or world.rng.random() >= world.settings.hazard:
            return False
        world.reports[f"killed when {point}"] += 1
        self.kill(node)
        return True
