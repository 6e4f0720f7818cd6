"""The leader of a simulated run with stages: carries out a StageLeader's effects, and has the log certified.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ledger.entries import StageReceipt
from peer.rounds.log import RunLog
from peer.rounds.messages import Cancel, Checked, Log, Logged, Report
from peer.stages.lead import StageLeader
from peer.stages.messages import CheckUpdate, Cut, StageLeaderEffect, StageLeaderMessage, Status, Tell

if TYPE_CHECKING:
    from tests.sim.stages_world import World


class SimLeader:
    """One life of a leading daemon; it holds no stage."""

    def __init__(self, world: World, name: str, life: int) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.updates = world.fetched.setdefault(name, set())
        """On disk."""
        self.log = RunLog()
        self.log.extend(world.truth)
        self.machine = StageLeader(
            name=f"{name}/{life}", plan=world.plan, log=self.log, balance=world.balance(), now=world.clock.now
        )
        self.took_over = self.log.open is not None
        """A round was open, and is still the same."""
        self._tick_at = 0.0
        if world.cancelled:
            self.tell(Cancel(reason="cancelled"))
        self._carry_out([])

    def die(self) -> None:
        """kill -9."""
        self.alive = False

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Carry out `action` later, if this life lasts so long."""

        def act() -> None:
            if self.alive:
                action()

        self.world.clock.at(self.world.clock.now + seconds, act)

    def tell(self, message: StageLeaderMessage) -> None:
        """Give the machine a message and do what it asks for."""
        self._carry_out(self.machine.receive(message, self.world.clock.now))

    def _carry_out(self, effects: Sequence[StageLeaderEffect]) -> None:
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

    def heard(self, status: Status, size: int) -> None:
        """A member's heartbeat, and how much of the log it has."""
        world = self.world
        if size < len(world.truth):
            self._push(status.account, size)
        self.tell(status)

    def _push(self, account: str, size: int) -> None:
        entries, node = self.world.truth[size:], self.world.nodes[account]
        self.world.net.send(self.name, account, lambda: node.learn(size, entries) if node.alive else None)

    def _do(self, effect: StageLeaderEffect) -> None:
        match effect:
            case Tell():
                self._order(effect)
            case CheckUpdate():
                self._check(effect.receipt)
            case Log():
                self._log(effect)
            case Report():
                self.world.reports[effect.event] += 1
            case _:
                raise AssertionError(f"unasked for: {effect}")

    def _order(self, effect: Tell) -> None:
        world, order = self.world, effect.order
        world.reports["cut went on"] += isinstance(order, Cut) and order.attempt.number > 1 and self.took_over

        def arrive() -> None:
            node = world.nodes[effect.account]
            if node.alive:
                node.ordered(effect.order)

        world.net.send(self.name, effect.account, arrive)

    def _check(self, receipt: StageReceipt) -> None:
        def checked(refusal: tuple[str, str] | None) -> None:
            if not self.world.hazard(self, "checked"):
                self.tell(Checked(account=receipt.account, update=receipt.update, refusal=refusal))

        def fetched() -> None:
            if self.world.provides(self, lambda disk: receipt.update in disk.updates):
                self.updates.add(receipt.update)
                checked(None)
            else:
                checked(("FP-417", "nobody has it"))

        self.after(0.2, fetched)

    def _log(self, effect: Log) -> None:
        first = len(self.world.truth)

        def certified() -> None:
            if len(self.world.truth) != first:
                return  # another leader was first: this one finds out, and stops
            self.took_over = False
            self.world.certified(effect.entries)
            if self.world.hazard(self, "certified"):
                return
            self.log.extend(effect.entries)
            for account in self.world.nodes:
                self._push(account, first)
            self.tell(Logged(balance=self.world.balance()))

        self.after(self.world.rng.expovariate(1 / 0.1), certified)
